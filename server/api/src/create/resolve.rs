//! What a request comes to on the model it names: every limit checked, every default resolved.
//!
//! Everything a client can get wrong is refused here, with the field, what was expected and what was found; the
//! limits are the [`ModelCard`]'s and the server's. A [`Draft`] is a job but for its prompt's tokens, which are
//! counted when the prompt is final. Knows the queue's `NewVideo`, but no model and no HTTP.

use std::collections::BTreeMap;

use queue::{NewVideo, VideoParams};

use super::{
    CreateVideoRequest, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS, MAX_SEED,
    WantedLora,
};
use crate::error::{Code, Error, Result};
use crate::fields::quoted;
use crate::input_reference::{self, WantedImage};
use crate::model::{CountTokens, ModelCard, ModelCatalog, Size};
use crate::state::AppState;

pub(crate) const MAX_GUIDANCE_SCALE: f64 = 100.0;
/// What OpenAI's models are called, for clients that cannot name another.
const SORA_NAMES: [&str; 2] = ["sora-2", "sora-2-pro"];

/// A video that may be made, before its prompt is final and its adapters and its picture are found.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) card: &'a ModelCard,
    /// The job; its tokens are not counted yet.
    pub(crate) job: NewVideo,
    /// The adapters that the video is to have; the job's own are still none.
    pub(crate) lora: Vec<WantedLora>,
    /// The picture that the video is to start from; the job's own is still none.
    pub(crate) image: Option<WantedImage>,
    /// Whether a prompt that is too long is cut instead of refused.
    pub(crate) truncate: bool,
    /// Whether the prompt is to be refined.
    pub(crate) refine: bool,
}

impl<'a> Draft<'a> {
    /// A job of nothing but what defines the video.
    pub(crate) fn new(card: &'a ModelCard, mut params: VideoParams) -> Self {
        let lora = std::mem::take(&mut params.lora).into_iter().map(WantedLora::from).collect();
        let image = params.image.take().map(WantedImage::Kept);
        let job = NewVideo {
            model: card.id.clone(),
            params,
            priority: 0,
            prompt_tokens: 0,
            prompt_truncated: false,
            // On the row, not looked up later: the next server may have another model under this name.
            warnings: card.notice.iter().cloned().collect(),
            metadata: BTreeMap::new(),
            owner: None,
            sent_prompt: None,
            remixed_from: None,
            retry_of: None,
            webhook_url: None,
            submission: None,
        };
        Self { card, job, lora, image, truncate: false, refine: false }
    }

    /// Counts the tokens of the final prompts and refuses, or marks, what the model will not read to its end.
    pub(crate) fn count_tokens(&mut self, tokenizer: &dyn CountTokens) -> Result<()> {
        let params = &self.job.params;
        let prompt_tokens = self.check_tokens("prompt", &params.prompt, tokenizer)?;
        let negative_tokens = self.check_tokens("negative_prompt", &params.negative_prompt, tokenizer)?;
        let limit = self.card.max_prompt_tokens;
        self.job.prompt_tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        self.job.prompt_truncated = prompt_tokens.max(negative_tokens) > limit;
        if self.job.prompt_truncated {
            self.job.warnings.push(format!("the model reads the first {limit} tokens only"));
        }
        Ok(())
    }

    fn check_tokens(&self, param: &str, prompt: &str, tokenizer: &dyn CountTokens) -> Result<usize> {
        let (tokens, limit) = (tokenizer.count(&self.card.id, prompt), self.card.max_prompt_tokens);
        if tokens <= limit || self.truncate {
            return Ok(tokens);
        }
        let message = format!(
            "'{param}' has {tokens} tokens, the model '{}' reads {limit}; shorten it, or send truncate_prompt=true to \
             have its end cut off",
            self.card.id
        );
        Err(Error::param(Code::PromptTooLong, param, message))
    }
}

impl CreateVideoRequest {
    /// Checks the request against the model it names and resolves every default.
    pub(crate) fn draft(mut self, state: &AppState) -> Result<Draft<'_>> {
        let (card, alias) = self.model(state)?;
        let image = input_reference::check(state, card, self.input_reference.take())?;
        let max_chars = state.limits.max_prompt_chars;
        check_prompt("prompt", &self.prompt, max_chars)?;
        let negative_prompt = self.negative_prompt.as_deref().unwrap_or_default();
        check_chars("negative_prompt", negative_prompt, max_chars)?;
        self.check_features(state)?;
        let size = self.resolve_size(card)?;
        let num_frames = self.resolve_num_frames(card)?;
        if let Some(fps) = self.fps.filter(|&fps| fps != card.fps) {
            let message = format!("'fps' must be {} for the model '{}', found {fps}", card.fps, card.id);
            return Err(Error::param(Code::UnsupportedFps, "fps", message));
        }
        if let Some(n) = self.n.filter(|&n| n != 1) {
            let message = format!("'n' must be 1, found {n}: a request makes one video");
            return Err(Error::param(Code::UnsupportedN, "n", message));
        }
        let params = VideoParams {
            width: size.width,
            height: size.height,
            num_frames,
            fps: card.fps,
            num_inference_steps: self.resolve_steps(card)?,
            guidance_scale: self.resolve_guidance_scale(card)?,
            use_dynamic_cfg: self.use_dynamic_cfg.unwrap_or(card.use_dynamic_cfg),
            scheduler: self.scheduler.unwrap_or(card.scheduler).as_str().to_owned(),
            seed: self.seed.unwrap_or_else(|| rand::random::<u64>() & MAX_SEED),
            prompt: self.prompt,
            negative_prompt: self.negative_prompt.unwrap_or_default(),
            lora: Vec::new(),
            image: None,
        };
        let mut draft = Draft::new(card, params);
        draft.image = image;
        draft.lora = self.lora.into_iter().flatten().map(WantedLora::from).collect();
        draft.truncate = self.truncate_prompt.unwrap_or(false);
        draft.refine = self.refine_prompt.unwrap_or(false);
        draft.job.priority = self.priority.unwrap_or_default();
        draft.job.metadata = self.metadata.unwrap_or_default();
        draft.job.webhook_url = self.webhook_url;
        draft.job.warnings.extend(alias);
        check_metadata(&draft.job.metadata)?;
        Ok(draft)
    }

    /// The model, and what to say if it is not the one that was named.
    fn model<'a>(&self, state: &'a AppState) -> Result<(&'a ModelCard, Option<String>)> {
        let default = state.catalog.default_model();
        let Some(id) = self.model.as_deref() else { return Ok((default, None)) };
        if let Some(card) = state.catalog.get(id) {
            return Ok((card, None));
        }
        if state.limits.accept_sora_names && SORA_NAMES.contains(&id) {
            return Ok((default, Some(format!("'{id}' is not here; '{}' makes this video", default.id))));
        }
        Err(model_not_found(id, &state.catalog))
    }

    /// Refuses what the operator has switched off, and a webhook that would not be called.
    fn check_features(&self, state: &AppState) -> Result<()> {
        if self.refine_prompt == Some(true) && state.refine_prompt.is_none() {
            let message = "'refine_prompt' must be false or left out: this server refines no prompts";
            return Err(Error::param(Code::UnsupportedParameter, "refine_prompt", message));
        }
        let Some(url) = &self.webhook_url else { return Ok(()) };
        let Some(check) = &state.check_webhook_url else {
            let message = "'webhook_url' must be left out: this server calls no webhooks";
            return Err(Error::param(Code::UnsupportedParameter, "webhook_url", message));
        };
        check(url).map_err(|why| {
            Error::param(
                Code::InvalidWebhookUrl,
                "webhook_url",
                format!("'webhook_url' cannot be called: {why}"),
            )
        })
    }

    fn resolve_size(&self, card: &ModelCard) -> Result<Size> {
        let named = match &self.size {
            None => None,
            Some(text) => Some(parse_size(text).ok_or_else(|| {
                let message = format!(
                    "'size' must read WIDTHxHEIGHT, such as {}, found {}",
                    card.default_size,
                    quoted(text)
                );
                Error::param(Code::UnsupportedSize, "size", message)
            })?),
        };
        let sides = match (self.width, self.height) {
            (None, None) => None,
            (Some(width), Some(height)) => Some(Size { width, height }),
            (width, _) => {
                let missing = if width.is_none() { "width" } else { "height" };
                let message = format!("'width' and 'height' go together; '{missing}' is missing");
                return Err(Error::param(Code::MissingRequiredParameter, missing, message));
            }
        };
        if let (Some(named), Some(sides)) = (named, sides)
            && named != sides
        {
            let message = format!("'size' says {named}, 'width' and 'height' say {sides}");
            return Err(Error::param(Code::ConflictingParameters, "size", message));
        }
        let param = if named.is_some() { "size" } else { "width" };
        let size = named.or(sides).unwrap_or(card.default_size);
        if card.sizes.contains(&size) {
            return Ok(size);
        }
        let known: Vec<_> = card.sizes.iter().map(Size::to_string).collect();
        let message = format!("the model '{}' was trained for {}, found {size}", card.id, known.join(", "));
        Err(Error::param(Code::UnsupportedSize, param, message))
    }

    fn resolve_num_frames(&self, card: &ModelCard) -> Result<u32> {
        let lattice = card.num_frames;
        let fps = f64::from(card.fps);
        let by_seconds = match self.seconds {
            None => None,
            Some(seconds) => Some(lattice.nearest(seconds * fps).ok_or_else(|| {
                let (min, max) = (f64::from(lattice.min) / fps, f64::from(lattice.max) / fps);
                let message = format!(
                    "'seconds' must lie between {min} and {max} for the model '{}', found {seconds}",
                    card.id
                );
                Error::param(Code::InvalidSeconds, "seconds", message)
            })?),
        };
        if let Some(num_frames) = self.num_frames.filter(|&num_frames| !lattice.contains(num_frames)) {
            let message =
                format!("'num_frames' must be {lattice} for the model '{}', found {num_frames}", card.id);
            return Err(Error::param(Code::UnsupportedNumFrames, "num_frames", message));
        }
        match (self.num_frames, by_seconds) {
            (Some(num_frames), Some(by_seconds)) if num_frames != by_seconds => {
                let message = format!(
                    "'num_frames' says {num_frames}, 'seconds' comes to {by_seconds} frames at {} a second",
                    card.fps
                );
                Err(Error::param(Code::ConflictingParameters, "num_frames", message))
            }
            (num_frames, by_seconds) => Ok(num_frames.or(by_seconds).unwrap_or(card.default_num_frames)),
        }
    }

    fn resolve_steps(&self, card: &ModelCard) -> Result<u32> {
        let rule = &card.num_inference_steps;
        let Some(steps) = self.num_inference_steps else { return Ok(rule.default) };
        let why = if steps > rule.max {
            format!("must lie between 1 and {}", rule.max)
        } else if rule.refused.contains(&steps) {
            "must be a count whose timestep schedule stays within the trained range".to_owned()
        } else {
            return Ok(steps);
        };
        let message = format!("'num_inference_steps' {why} for the model '{}', found {steps}", card.id);
        Err(Error::param(Code::UnsupportedNumInferenceSteps, "num_inference_steps", message))
    }

    fn resolve_guidance_scale(&self, card: &ModelCard) -> Result<f64> {
        let scale = self.guidance_scale.unwrap_or(card.guidance_scale);
        if (0.0..=MAX_GUIDANCE_SCALE).contains(&scale) {
            return Ok(scale);
        }
        let message = format!("'guidance_scale' must lie between 0 and {MAX_GUIDANCE_SCALE}, found {scale}");
        Err(Error::param(Code::InvalidGuidanceScale, "guidance_scale", message))
    }
}

pub(crate) fn model_not_found(id: &str, catalog: &ModelCatalog) -> Error {
    let ids: Vec<_> = catalog.iter().map(|card| card.id.as_str()).collect();
    let message = format!("no model has the id {}; this server has {}", quoted(id), ids.join(", "));
    Error::param(Code::ModelNotFound, "model", message)
}

/// Refuses a prompt without text, and one so long that even counting its tokens is too much work.
pub(crate) fn check_prompt(param: &str, prompt: &str, max_chars: usize) -> Result<()> {
    if prompt.trim().is_empty() {
        return Err(Error::param(Code::EmptyPrompt, param, format!("'{param}' must not be empty")));
    }
    check_chars(param, prompt, max_chars)
}

fn check_chars(param: &str, prompt: &str, max_chars: usize) -> Result<()> {
    let chars = prompt.chars().count();
    if chars <= max_chars {
        return Ok(());
    }
    let message = format!("'{param}' has {chars} characters, the server takes {max_chars}");
    Err(Error::param(Code::PromptTooLong, param, message))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let refuse = |message| Err(Error::param(Code::InvalidMetadata, "metadata", message));
    if metadata.len() > MAX_METADATA_ENTRIES {
        return refuse(format!(
            "'metadata' has {} entries, at most {MAX_METADATA_ENTRIES} are kept",
            metadata.len()
        ));
    }
    for (key, value) in metadata {
        let (key_chars, value_chars) = (key.chars().count(), value.chars().count());
        if !(1..=MAX_METADATA_KEY_CHARS).contains(&key_chars) {
            return refuse(format!(
                "the metadata key {} has {key_chars} characters, a key has 1 to {MAX_METADATA_KEY_CHARS}",
                quoted(key)
            ));
        }
        if value_chars > MAX_METADATA_VALUE_CHARS {
            return refuse(format!(
                "the metadata value of {} has {value_chars} characters, at most {MAX_METADATA_VALUE_CHARS} are kept",
                quoted(key)
            ));
        }
    }
    Ok(())
}

fn parse_size(text: &str) -> Option<Size> {
    let (width, height) = text.split_once('x')?;
    Some(Size { width: width.parse().ok()?, height: height.parse().ok()? })
}
