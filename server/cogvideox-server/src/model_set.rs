//! The models of this server: by what names requests pick them, and which of them a worker has in memory.
//!
//! Relies on `model` for each single one. What is said here is only which to read and which to let go.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, bail};
use api::{CountTokens, ModelCard, ModelCatalog};
use cogvideox::Tokenizer;
use worker::{GenerateError, Generated, Generator, Progress, Request};

use crate::adapters::{AdapterCache, AdapterFolder, AdapterOffer};
use crate::config::{Config, DeviceSpec};
use crate::model::ModelSource;
use crate::model_files::name_in_requests;
use crate::pipeline_generator::{PipelineGenerator, load_error};

/// The longest name of a model, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// All models that are offered, the default first.
#[derive(Debug, Clone)]
pub(crate) struct ModelSet {
    /// Each with its name in requests.
    models: Vec<(String, ModelSource)>,
    /// How many a worker has in memory at once.
    keep_loaded: usize,
    /// Whether the VAEs decode in tiles.
    vae_tiling: bool,
    /// Whether pictures of running videos are wanted.
    previews: bool,
    /// The folder of adapters, and those that are in memory; none where none are offered.
    adapters: Option<(Arc<AdapterFolder>, Arc<AdapterCache>)>,
}

/// What the API is told of the models.
pub(crate) struct Offer {
    pub(crate) catalog: ModelCatalog,
    pub(crate) tokens: ModelTokens,
    /// None where none are offered.
    pub(crate) adapters: Option<AdapterOffer>,
}

impl ModelSet {
    /// As configured, on the first of the devices.
    ///
    /// # Errors
    /// A name that is none, or that two models have; a folder of adapters that cannot be read.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let first = ModelSource::new(&config.model);
        let mut models = vec![(first.id(), first.clone())];
        for (name, further) in &config.models {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
                bail!("models.{name:?}: expected a name of 1 to {MAX_NAME_BYTES} bytes on one line");
            }
            if *name == models[0].0 {
                bail!("models.{name}: expected another name than that of model.path, found the same");
            }
            models.push((name.clone(), first.of(further)));
        }
        Ok(Self {
            models,
            keep_loaded: config.model.keep_loaded.get() as usize,
            vae_tiling: config.model.vae_tiling,
            previews: config.worker.previews,
            adapters: adapters(&config.model.lora_dir)?,
        })
    }

    /// The same on another device.
    pub(crate) fn on(&self, device: DeviceSpec) -> Self {
        let models = self.models.iter().map(|(name, source)| (name.clone(), source.on(device))).collect();
        Self { models, ..self.clone() }
    }

    /// Reads the models' small parts.
    ///
    /// # Errors
    /// The file that is not as its model needs it.
    pub(crate) fn offer(&self) -> anyhow::Result<Offer> {
        let (mut cards, mut tokenizers, mut configs) = (Vec::new(), HashMap::new(), Vec::new());
        for (name, source) in &self.models {
            let in_words = || format!("model {name}");
            let description = source.describe().with_context(in_words)?;
            let card = source.card(&description).with_context(in_words)?;
            cards.push(ModelCard { id: name.clone(), ..card });
            tokenizers.insert(name.clone(), description.tokenizer);
            configs.push((name.clone(), description.transformer));
        }
        let default = cards.remove(0);
        let adapters =
            self.adapters.as_ref().map(|(folder, _)| AdapterOffer::new(Arc::clone(folder), configs));
        Ok(Offer { catalog: ModelCatalog::new(default, cards), tokens: ModelTokens(tokenizers), adapters })
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.models.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

/// A folder of adapters, if there is to be one.
fn adapters(dir: &Path) -> anyhow::Result<Option<(Arc<AdapterFolder>, Arc<AdapterCache>)>> {
    if dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let folder = AdapterFolder::open(dir).with_context(|| format!("model.lora_dir: {}", dir.display()))?;
    let folder = Arc::new(folder);
    Ok(Some((Arc::clone(&folder), Arc::new(AdapterCache::new(folder)))))
}

/// What `--model` stands for in the configuration: the first is the default, further ones have their folders' or
/// repositories' names.
pub(crate) fn keys_of_paths(paths: &[String]) -> impl Iterator<Item = (String, String)> {
    paths.iter().enumerate().map(|(number, path)| {
        let key = match (number, name_in_requests(Path::new(path))) {
            (0, _) => "model.path".to_owned(),
            (_, Some(name)) => format!("models.{name}.path"),
            (_, None) => format!("models.{number}.path"),
        };
        (key, path.clone())
    })
}

/// The models' tokenizers, for the API's door.
pub(crate) struct ModelTokens(HashMap<String, Tokenizer>);

impl CountTokens for ModelTokens {
    fn count(&self, model: &str, prompt: &str) -> usize {
        // The length asked for bounds the padded ids, not the count.
        self.0.get(model).map_or(0, |tokenizer| tokenizer.encode(prompt, 1).untruncated_len)
    }
}

/// As many of the models as may be in memory, behind the worker's seam.
pub(crate) struct SwappingGenerator {
    set: ModelSet,
    /// By name; the one that was asked for last stands last.
    loaded: Vec<(String, PipelineGenerator)>,
    /// The worker's, for metrics.
    labels: BTreeMap<&'static str, String>,
}

impl SwappingGenerator {
    /// Loads the default model.
    ///
    /// # Errors
    /// As [`PipelineGenerator::load`].
    pub(crate) fn load(set: &ModelSet, labels: BTreeMap<&'static str, String>) -> anyhow::Result<Self> {
        let mut new = Self { set: set.clone(), loaded: Vec::new(), labels };
        for (name, _) in &new.set.models {
            metrics::counter!("cogvideox_model_swaps_total", "model" => name.clone()).increment(0);
        }
        let (name, source) = new.set.models[0].clone();
        let generator = new.read(&name, &source)?;
        new.loaded.push((name, generator));
        Ok(new)
    }

    fn read(&self, name: &str, source: &ModelSource) -> anyhow::Result<PipelineGenerator> {
        let started = Instant::now();
        let generator = PipelineGenerator::load(source, self.set.vae_tiling, self.set.previews)?;
        let elapsed = started.elapsed();
        let mut labels: Vec<_> = self.labels.iter().map(|(label, value)| (*label, value.clone())).collect();
        labels.push(("model", name.to_owned()));
        metrics::gauge!("cogvideox_model_load_seconds", &labels).set(elapsed.as_secs_f64());
        tracing::info!(model = name, duration_ms = elapsed.as_millis() as u64, "model loaded");
        Ok(generator)
    }

    /// Loads a model in the place of those that were not asked for for longest.
    fn swap_in(&mut self, name: &str) -> Result<PipelineGenerator, GenerateError> {
        let offered = self.set.models.iter().find(|(offered, _)| offered == name).cloned();
        let Some((_, source)) = offered else {
            let message =
                format!("the model '{name}' is not offered any more; there are: {}", self.set.names());
            return Err(GenerateError::ModelNotAvailable(message));
        };
        while self.loaded.len() >= self.set.keep_loaded {
            self.drop_oldest();
        }
        metrics::counter!("cogvideox_model_swaps_total", "model" => name.to_owned()).increment(1);
        loop {
            match self.read(name, &source) {
                Ok(generator) => return Ok(generator),
                // What is missing may be what another model holds.
                Err(error) if wants_memory(&error) && !self.loaded.is_empty() => self.drop_oldest(),
                Err(error) => return Err(swap_error(error)),
            }
        }
    }

    /// Its memory is free before a new one's is asked for.
    fn drop_oldest(&mut self) {
        let (old, generator) = self.loaded.remove(0);
        drop(generator);
        tracing::info!(model = old, "model dropped for another");
    }
}

/// Whether a model was not loaded for want of memory: none was left on the way, or no plan would have fitted.
fn wants_memory(error: &anyhow::Error) -> bool {
    use cogvideox::Error::{Device, NoPlan};
    matches!(error.downcast_ref(), Some(Device(device::Error::OutOfMemory(_)) | NoPlan(_)))
}

/// A model that was not loaded, as the end of a video: another model's may go well, if the device is sound.
fn swap_error(error: anyhow::Error) -> GenerateError {
    let words = format!("{error:#}");
    match load_error(error) {
        of_device @ (GenerateError::DeviceLost(_) | GenerateError::OutOfMemory(_)) => of_device,
        _ => GenerateError::ModelNotLoaded(words),
    }
}

impl Generator for SwappingGenerator {
    fn generate(
        &mut self,
        request: &Request<'_>,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, GenerateError> {
        let place = self.loaded.iter().position(|(name, _)| name == request.model);
        let generator = if let Some(place) = place {
            self.loaded.remove(place).1
        } else {
            if on_progress(Progress::LoadModel).is_break() {
                return Err(GenerateError::Interrupted);
            }
            self.swap_in(request.model)?
        };
        self.loaded.push((request.model.to_owned(), generator));
        let Some((_, generator)) = self.loaded.last_mut() else {
            return Err(GenerateError::Internal("the model is not loaded".to_owned()));
        };
        if on_progress(Progress::CheckPoint).is_break() {
            return Err(GenerateError::Interrupted);
        }
        let lora = match (&self.set.adapters, request.params.lora.as_slice()) {
            (_, []) => Vec::new(),
            (Some((_, cache)), lora) => cache.load(lora)?,
            (None, _) => {
                let message = "adapters are not offered any more: model.lora_dir is empty";
                return Err(GenerateError::LoraNotAvailable(message.to_owned()));
            }
        };
        generator.generate(request, lora, on_progress)
    }

    fn loaded(&self) -> Vec<String> {
        self.loaded.iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_loaded_ends_the_video_as_its_cause_does() {
        let refused = cogvideox::Error::NoPlan(String::new());
        let missing = cogvideox::Error::UnsupportedDtype(String::new());
        let on_device = |error: device::Error| anyhow::Error::from(cogvideox::Error::from(error));
        let exhausted = || on_device(device::Error::OutOfMemory(String::new()));
        let lost = || on_device(device::Error::Lost(String::new()));

        assert!(
            wants_memory(&exhausted()) && matches!(swap_error(exhausted()), GenerateError::OutOfMemory(_))
        );
        assert!(wants_memory(&refused.into()));
        assert!(!wants_memory(&lost()) && matches!(swap_error(lost()), GenerateError::DeviceLost(_)));
        assert!(!wants_memory(&anyhow::Error::msg("no such device")));
        assert!(matches!(swap_error(missing.into()), GenerateError::ModelNotLoaded(_)));
    }
}
