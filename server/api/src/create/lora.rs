//! The adapters that a request names: read, held against the limits, and found among those that the model has.
//!
//! A video's row keeps the digest of each file, so that a name that comes to mean another file makes no other video.

use std::collections::HashSet;

use queue::Lora;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Code, Error, Result};
use crate::fields::{Fields, quoted};
use crate::model::{Adapter, ModelCard};
use crate::state::AppState;

/// Adapters of one video.
pub(crate) const MAX_LORA: usize = 8;
/// How far a scale may lie from zero; the model's own bound.
const MAX_SCALE: f64 = 10.0;

/// An adapter of the model's weights.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoraRequest {
    /// One of the model's `lora`.
    #[schema(min_length = 1)]
    name: String,
    /// How strongly it acts; 1, as it was trained, by default.
    #[schema(minimum = -10, maximum = 10, required = false)]
    scale: f64,
}

/// An adapter that a video is to have.
#[derive(Debug)]
pub(crate) struct WantedLora {
    name: String,
    scale: f64,
    /// Of its file, where it must be the one that an earlier video had.
    sha256: Option<String>,
}

impl From<LoraRequest> for WantedLora {
    fn from(LoraRequest { name, scale }: LoraRequest) -> Self {
        Self { name, scale, sha256: None }
    }
}

impl From<Lora> for WantedLora {
    fn from(Lora { name, scale, sha256 }: Lora) -> Self {
        Self { name, scale, sha256: Some(sha256) }
    }
}

/// The request's list, within the limits.
pub(super) fn take(fields: &mut Fields) -> Result<Option<Vec<LoraRequest>>> {
    let Some(entries) = fields.objects("lora")? else { return Ok(None) };
    if entries.len() > MAX_LORA {
        let message = format!("'lora' must name at most {MAX_LORA} adapters, found {}", entries.len());
        return Err(Error::param(Code::InvalidLora, "lora", message));
    }
    let mut names = HashSet::new();
    let mut lora = Vec::with_capacity(entries.len());
    for (index, mut members) in entries.into_iter().enumerate() {
        let (name_param, scale_param) = (format!("lora[{index}].name"), format!("lora[{index}].scale"));
        let name = members.string(&name_param)?.ok_or_else(|| {
            Error::param(Code::MissingRequiredParameter, &name_param, format!("'{name_param}' must be given"))
        })?;
        let scale = members.float(&scale_param)?.unwrap_or(1.0);
        members.finish()?;
        if !(-MAX_SCALE..=MAX_SCALE).contains(&scale) {
            let message =
                format!("'{scale_param}' must lie between -{MAX_SCALE} and {MAX_SCALE}, found {scale}");
            return Err(Error::param(Code::InvalidLora, scale_param, message));
        }
        if !names.insert(name.clone()) {
            let message = format!("'{name_param}' must be another adapter, {} stands before", quoted(&name));
            return Err(Error::param(Code::InvalidLora, name_param, message));
        }
        lora.push(LoraRequest { name, scale });
    }
    Ok(Some(lora))
}

/// Finds the adapters among those that the server has now.
pub(crate) async fn find(state: &AppState, card: &ModelCard, wanted: Vec<WantedLora>) -> Result<Vec<Lora>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let Some(adapters) = &state.adapters else {
        let message = "'lora' must be left out: this server has no adapters";
        return Err(Error::param(Code::UnsupportedParameter, "lora", message));
    };
    let offered = adapters.adapters(&card.id).await;
    wanted.into_iter().enumerate().map(|(index, wanted)| find_one(card, &offered, index, wanted)).collect()
}

fn find_one(card: &ModelCard, offered: &[Adapter], index: usize, wanted: WantedLora) -> Result<Lora> {
    let WantedLora { name, scale, sha256: expected } = wanted;
    let refuse = |code, message| Err(Error::param(code, format!("lora[{index}].name"), message));
    let Some(adapter) = offered.iter().find(|adapter| adapter.name == name) else {
        let usable = offered.iter().filter(|adapter| adapter.sha256.is_ok());
        let names: Vec<&str> = usable.map(|adapter| adapter.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!(
            "no adapter has the name {}; for the model '{}' there are: {names}",
            quoted(&name),
            card.id
        );
        return refuse(Code::UnknownLora, message);
    };
    match (&adapter.sha256, expected) {
        (Err(why), _) => {
            let message = format!("the model '{}' cannot be used with the adapter '{name}': {why}", card.id);
            refuse(Code::UnsupportedLora, message)
        }
        (Ok(sha256), Some(expected)) if *sha256 != expected => {
            let message = format!("the adapter '{name}' is another file than the video was asked for with");
            refuse(Code::LoraChanged, message)
        }
        (Ok(sha256), _) => Ok(Lora { name, scale, sha256: sha256.clone() }),
    }
}
