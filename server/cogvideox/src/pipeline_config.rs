//! Reads `model_index.json` and the `config.json` of a component.
//!
//! The files are diffusers': one JSON object whose `_class_name` says what it configures. Keys that this crate does
//! not use are ignored, as diffusers ignores them; missing ones take the defaults of the deserialised type, which are
//! those of diffusers' class. Must not know what any component does with its configuration.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::scheduler::SchedulerKind;
use crate::{Error, Result};

/// The pipelines that this crate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineClass {
    /// `CogVideoXPipeline`.
    TextToVideo,
    /// `CogVideoXImageToVideoPipeline`.
    ImageToVideo,
}

/// What `model_index.json` says.
#[derive(Clone, Debug)]
pub(crate) struct PipelineIndex {
    pub(crate) class: PipelineClass,
    /// diffusers builds a scheduler of this class from `scheduler_config.json`, whatever class that file names.
    pub(crate) scheduler: SchedulerKind,
}

impl PipelineIndex {
    /// Reads `model_index.json` in a pipeline's folder.
    ///
    /// # Errors
    /// [`Error::Io`] without the file; [`Error::Config`] when it is not JSON, names another pipeline, or one of the
    /// five components is missing or of a class that this crate does not implement.
    pub(crate) fn read(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("model_index.json");
        let object = read_object(&path)?;
        let class = match class_name(&path, &object)? {
            Some("CogVideoXPipeline") => PipelineClass::TextToVideo,
            Some("CogVideoXImageToVideoPipeline") => PipelineClass::ImageToVideo,
            found => {
                let expected = ["CogVideoXPipeline", "CogVideoXImageToVideoPipeline"];
                return Err(unknown_class(&path, &expected, found));
            }
        };
        // transformers 4 names the slow or the fast tokenizer; both read the same spiece.model.
        component(&path, &object, "tokenizer", &["T5Tokenizer", "T5TokenizerFast"])?;
        component(&path, &object, "text_encoder", &["T5EncoderModel"])?;
        component(&path, &object, "transformer", &["CogVideoXTransformer3DModel"])?;
        component(&path, &object, "vae", &["AutoencoderKLCogVideoX"])?;
        let scheduler = component(&path, &object, "scheduler", &SchedulerKind::CLASS_NAMES)?;
        let scheduler = SchedulerKind::of_class(scheduler).expect("component accepts only these classes");
        Ok(Self { class, scheduler })
    }
}

/// A component's configuration.
pub(crate) struct ComponentConfig<T> {
    /// `_class_name`, one of the names asked for; diffusers does without it, and so may a caller.
    pub(crate) class_name: Option<String>,
    pub(crate) config: T,
}

/// Reads a component's `config.json` (or `scheduler_config.json`) of one of the classes `class_names`.
///
/// # Errors
/// [`Error::Io`] without the file; [`Error::Config`], naming the key, when it is not a JSON object, of another class,
/// or a value has the wrong type.
pub(crate) fn read_config<T: DeserializeOwned>(
    path: &Path,
    class_names: &[&str],
) -> Result<ComponentConfig<T>> {
    let object = read_object(path)?;
    let found = class_name(path, &object)?;
    if found.is_some_and(|name| !class_names.contains(&name)) {
        return Err(unknown_class(path, class_names, found));
    }
    let class_name = found.map(str::to_owned);
    let config = serde_path_to_error::deserialize(serde_json::Value::Object(object)).map_err(|e| {
        let (key, problem) = (e.path().to_string(), e.into_inner());
        Error::config(path, format!("{key}: {problem}"))
    })?;
    Ok(ComponentConfig { class_name, config })
}

type Object = serde_json::Map<String, serde_json::Value>;

/// The JSON object that a file holds.
pub(crate) fn read_object(path: &Path) -> Result<Object> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_str(&text).map_err(|e| Error::config(path, format!("not a JSON object: {e}")))
}

fn class_name<'a>(path: &Path, object: &'a Object) -> Result<Option<&'a str>> {
    match object.get("_class_name") {
        None => Ok(None),
        Some(serde_json::Value::String(name)) => Ok(Some(name)),
        Some(other) => Err(Error::config(path, format!("_class_name: expected a string, found {other}"))),
    }
}

fn unknown_class(path: &Path, expected: &[&str], found: Option<&str>) -> Error {
    let (expected, found) = (expected.join(" or "), found.unwrap_or("none"));
    Error::config(path, format!("_class_name: expected {expected}, found {found}"))
}

/// The class of a component, which `model_index.json` writes as `[library, class]`.
fn component<'a>(path: &Path, index: &'a Object, name: &str, classes: &[&str]) -> Result<&'a str> {
    let found = index.get(name).unwrap_or(&serde_json::Value::Null);
    found.get(1).and_then(serde_json::Value::as_str).filter(|class| classes.contains(class)).ok_or_else(
        || Error::config(path, format!("{name}: expected {}, found {found}", classes.join(" or "))),
    )
}
