//! The models this server has, and what each takes.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::videos::ListTag;
use crate::create::model_not_found;
use crate::error::{Code, Error, Result};
use crate::model::{ModelCard, Scheduler, Size};
use crate::openapi::{CommonErrors, ModelErrors};
use crate::state::AppState;

/// A model: OpenAI's four fields, then what it takes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// Name in requests.
    id: String,
    /// Always `model`.
    object: ModelTag,
    /// Unix seconds of its making, as far as known.
    created: i64,
    /// Who made it.
    owned_by: String,
    /// The number format it runs in: `f32`, `f16` or `bf16`.
    dtype: String,
    /// Whether it starts from an image, which it then needs.
    supports_image: bool,
    /// Names of the adapters that it can be used with.
    lora: Vec<String>,
    /// Sizes it was trained for, `WIDTHxHEIGHT`.
    sizes: Vec<String>,
    /// Frame counts it makes.
    num_frames: Vec<u32>,
    /// The lengths these come to.
    seconds: Vec<String>,
    /// Frames a second.
    fps: u32,
    /// The most denoising steps.
    max_num_inference_steps: u32,
    /// Tokens of a prompt it reads, the end marker included.
    max_prompt_tokens: usize,
    /// What a request gets that does not say.
    defaults: ModelDefaults,
    /// What whoever sees its videos must know.
    #[schema(required)]
    notice: Option<String>,
}

/// The `object` of a model.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModelTag {
    /// A model.
    Model,
}

/// What a request gets that does not say.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelDefaults {
    size: String,
    num_frames: u32,
    seconds: String,
    num_inference_steps: u32,
    guidance_scale: f64,
    use_dynamic_cfg: bool,
    scheduler: Scheduler,
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// Always `list`.
    object: ListTag,
    /// The models; requests that name none get the first.
    data: Vec<Model>,
}

impl Model {
    fn new(card: &ModelCard, lora: Vec<String>) -> Self {
        let seconds = |num_frames: u32| (f64::from(num_frames) / f64::from(card.fps)).to_string();
        Self {
            id: card.id.clone(),
            object: ModelTag::Model,
            created: card.created,
            owned_by: card.owned_by.clone(),
            dtype: card.dtype.clone(),
            supports_image: card.supports_image,
            lora,
            sizes: card.sizes.iter().map(Size::to_string).collect(),
            num_frames: card.num_frames.counts().collect(),
            seconds: card.num_frames.counts().map(seconds).collect(),
            fps: card.fps,
            max_num_inference_steps: card.num_inference_steps.max,
            max_prompt_tokens: card.max_prompt_tokens,
            defaults: ModelDefaults {
                size: card.default_size.to_string(),
                num_frames: card.default_num_frames,
                seconds: seconds(card.default_num_frames),
                num_inference_steps: card.num_inference_steps.default,
                guidance_scale: card.guidance_scale,
                use_dynamic_cfg: card.use_dynamic_cfg,
                scheduler: card.scheduler,
            },
            notice: card.notice.clone(),
        }
    }
}

/// List the models.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    operation_id = "list_models",
    responses((status = OK, description = "The models.", body = ModelList), CommonErrors),
)]
pub(crate) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    let mut data = Vec::new();
    for card in state.catalog.iter() {
        data.push(Model::new(card, state.lora_names(&card.id).await));
    }
    Json(ModelList { object: ListTag::List, data })
}

/// Look at a model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "models",
    operation_id = "get_model",
    params(("model" = String, Path, description = "Id of the model.")),
    responses((status = OK, description = "The model.", body = Model), ModelErrors),
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    id: std::result::Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Model>> {
    let Path(id) = id.map_err(|rejection| Error::refused(Code::InvalidRequest, rejection.body_text()))?;
    let card = state.catalog.get(&id).ok_or_else(|| model_not_found(&id, &state.catalog))?;
    Ok(Json(Model::new(card, state.lora_names(&card.id).await)))
}
