//! The request that makes a video, and the check at the door that turns it into a job.
//!
//! Everything a client can get wrong is refused here, with the field, what was expected and what was found; the
//! limits are the [`ModelCard`]'s and the server's. A job that leaves here is complete: every default is
//! resolved, the seed drawn. Knows the queue's `NewVideo`, but no model and no HTTP.

use std::collections::BTreeMap;

use queue::{NewVideo, VideoParams};
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type};

use crate::error::{Code, Error, Result};
use crate::fields::{Field, Fields, quoted};
use crate::model::{CountTokens, ModelCard, ModelCatalog, Scheduler, Size};

/// Seeds up to here survive a trip through a JSON number in any language.
const MAX_SEED: u64 = (1 << 53) - 1;
const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;
const MAX_GUIDANCE_SCALE: f64 = 100.0;
const MAX_METADATA_ENTRIES: usize = 16;
const MAX_METADATA_KEY_CHARS: usize = 64;
const MAX_METADATA_VALUE_CHARS: usize = 512;

/// What to make. Fields left out, or null, take the model's defaults.
///
/// `input_reference` is known and refused: the models served over HTTP start from text alone.
#[derive(Debug, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateVideoRequest {
    /// What the video shows; at most the model's `max_prompt_tokens` tokens unless `truncate_prompt` is true.
    #[schema(min_length = 1, max_length = 10000, example = "A panda plays the guitar by a quiet stream.")]
    pub(crate) prompt: String,
    /// A model of `GET /v1/models`; the first of them by default.
    pub(crate) model: Option<String>,
    /// Length in seconds, as a number or as text; the nearest frame count of the model is made, and the
    /// video's own `seconds` says how long that is.
    #[schema(schema_with = seconds_schema)]
    pub(crate) seconds: Option<f64>,
    /// Size as `WIDTHxHEIGHT`, one of the model's `sizes`.
    #[schema(pattern = r"^[0-9]+x[0-9]+$", example = "720x480")]
    pub(crate) size: Option<String>,
    /// Pixels across, instead of `size`; needs `height`.
    #[schema(minimum = 1)]
    pub(crate) width: Option<u32>,
    /// Pixels down, instead of `size`; needs `width`.
    #[schema(minimum = 1)]
    pub(crate) height: Option<u32>,
    /// Frames, instead of `seconds`: one of the model's `num_frames`.
    #[schema(minimum = 1, example = 49)]
    pub(crate) num_frames: Option<u32>,
    /// Frames a second; a model has only one.
    #[schema(minimum = 1)]
    pub(crate) fps: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1, example = 50)]
    pub(crate) num_inference_steps: Option<u32>,
    /// How strongly the prompt pulls; at 1 and below the negative prompt has no effect.
    #[schema(minimum = 0, maximum = 100)]
    pub(crate) guidance_scale: Option<f64>,
    /// Whether guidance grows from 1 to `guidance_scale` over the steps.
    pub(crate) use_dynamic_cfg: Option<bool>,
    /// The sampler.
    pub(crate) scheduler: Option<Scheduler>,
    /// The same seed makes the same video; drawn at random, and reported, when left out.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    pub(crate) seed: Option<u64>,
    /// What the video must not show.
    #[schema(max_length = 10000)]
    pub(crate) negative_prompt: Option<String>,
    /// Cut a prompt that is too long instead of refusing it.
    pub(crate) truncate_prompt: Option<bool>,
    /// Videos of higher priority are made first.
    #[schema(minimum = -100, maximum = 100)]
    pub(crate) priority: Option<i32>,
    /// Up to 16 entries of your own, keys of up to 64 and values of up to 512 characters.
    #[schema(schema_with = metadata_schema)]
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    /// How many videos; only 1.
    #[schema(minimum = 1, maximum = 1)]
    pub(crate) n: Option<u32>,
}

fn seconds_schema() -> Schema {
    AnyOfBuilder::new()
        .description(Some(
            "Length in seconds, as a number or as text; the nearest frame count of the model is made, and the \
             video's own `seconds` says how long that is.",
        ))
        .item(ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0)))
        .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^[0-9]+(\.[0-9]+)?$")))
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .build()
        .into()
}

fn metadata_schema() -> Schema {
    let text = |max| ObjectBuilder::new().schema_type(Type::String).max_length(Some(max));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .description(Some(
            "Up to 16 entries of your own, keys of up to 64 and values of up to 512 characters.",
        ))
        .property_names(Some(text(MAX_METADATA_KEY_CHARS).min_length(Some(1))))
        .additional_properties(Some(text(MAX_METADATA_VALUE_CHARS)))
        .max_properties(Some(MAX_METADATA_ENTRIES))
        .into()
}

/// What the check at the door looks things up in.
pub(crate) struct Door<'a> {
    pub(crate) catalog: &'a ModelCatalog,
    pub(crate) prompt_tokens: &'a dyn CountTokens,
    pub(crate) max_prompt_chars: usize,
}

impl CreateVideoRequest {
    /// Reads the fields by type; whether the model can do it is [`Self::into_job`]'s question.
    pub(crate) fn from_fields(mut fields: Fields) -> Result<(Self, Option<Field>)> {
        let any = 1..=i64::from(u32::MAX);
        let input_reference = fields.take("input_reference");
        let request = Self {
            prompt: fields.string("prompt")?.ok_or_else(|| {
                Error::param(Code::MissingRequiredParameter, "prompt", "'prompt' must be given")
            })?,
            model: fields.string("model")?,
            seconds: fields.float_or_text("seconds")?,
            size: fields.string("size")?,
            width: fields.integer("width", &any, Code::UnsupportedSize)?,
            height: fields.integer("height", &any, Code::UnsupportedSize)?,
            num_frames: fields.integer("num_frames", &any, Code::UnsupportedNumFrames)?,
            fps: fields.integer("fps", &any, Code::UnsupportedFps)?,
            num_inference_steps: fields.integer(
                "num_inference_steps",
                &any,
                Code::UnsupportedNumInferenceSteps,
            )?,
            guidance_scale: fields.float("guidance_scale")?,
            use_dynamic_cfg: fields.boolean("use_dynamic_cfg")?,
            scheduler: fields.string("scheduler")?.map(|name| scheduler(&name)).transpose()?,
            seed: fields.integer("seed", &(0..=MAX_SEED as i64), Code::InvalidSeed)?,
            negative_prompt: fields.string("negative_prompt")?,
            truncate_prompt: fields.boolean("truncate_prompt")?,
            priority: fields.integer("priority", &PRIORITIES, Code::InvalidPriority)?,
            metadata: fields.string_map("metadata")?,
            n: fields.integer("n", &any, Code::UnsupportedN)?,
        };
        fields.finish()?;
        Ok((request, input_reference))
    }

    /// Checks the request against the model it names and resolves every default.
    pub(crate) fn into_job(self, has_image: bool, door: &Door<'_>) -> Result<NewVideo> {
        let card = self.model(door.catalog)?;
        check_image(card, has_image)?;
        let (prompt_tokens, prompt_truncated) = self.check_prompts(card, door)?;
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
        };
        let metadata = self.metadata.unwrap_or_default();
        check_metadata(&metadata)?;
        let cut = prompt_truncated
            .then(|| format!("the model reads the first {} tokens only", card.max_prompt_tokens));
        Ok(NewVideo {
            model: card.id.clone(),
            params,
            priority: self.priority.unwrap_or_default(),
            prompt_tokens,
            prompt_truncated,
            // On the row, not looked up later: the next server may have another model under this name.
            warnings: card.notice.iter().cloned().chain(cut).collect(),
            metadata,
            owner: None,
            sent_prompt: None,
            remixed_from: None,
            retry_of: None,
            webhook_url: None,
            submission: None,
        })
    }

    fn model<'a>(&self, catalog: &'a ModelCatalog) -> Result<&'a ModelCard> {
        let Some(id) = &self.model else { return Ok(catalog.default_model()) };
        catalog.get(id).ok_or_else(|| model_not_found(id, catalog))
    }

    /// The prompt's token count, and whether it or the negative prompt will lose its end.
    fn check_prompts(&self, card: &ModelCard, door: &Door<'_>) -> Result<(u32, bool)> {
        if self.prompt.trim().is_empty() {
            return Err(Error::param(Code::EmptyPrompt, "prompt", "'prompt' must not be empty"));
        }
        let truncate = self.truncate_prompt.unwrap_or(false);
        let prompt_tokens = check_prompt("prompt", &self.prompt, truncate, card, door)?;
        let negative_prompt = self.negative_prompt.as_deref().unwrap_or_default();
        let negative_tokens = check_prompt("negative_prompt", negative_prompt, truncate, card, door)?;
        let truncated = prompt_tokens.max(negative_tokens) > card.max_prompt_tokens;
        Ok((u32::try_from(prompt_tokens).unwrap_or(u32::MAX), truncated))
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

fn scheduler(name: &str) -> Result<Scheduler> {
    Scheduler::parse(name).ok_or_else(|| {
        let message = format!("'scheduler' must be ddim or dpm, found {}", quoted(name));
        Error::param(Code::UnsupportedScheduler, "scheduler", message)
    })
}

fn check_image(card: &ModelCard, has_image: bool) -> Result<()> {
    if card.supports_image {
        let message = format!(
            "the model '{}' starts from an image, which this endpoint does not take yet; \
             use `cogvideox-server generate --image FILE`",
            card.id
        );
        return Err(Error::param(Code::UnsupportedOperation, "model", message));
    }
    if has_image {
        let message =
            format!("the model '{}' makes videos from text alone; leave 'input_reference' out", card.id);
        return Err(Error::param(Code::UnsupportedInputReference, "input_reference", message));
    }
    Ok(())
}

fn check_prompt(
    param: &str,
    prompt: &str,
    truncate: bool,
    card: &ModelCard,
    door: &Door<'_>,
) -> Result<usize> {
    let too_long = |message| Err(Error::param(Code::PromptTooLong, param, message));
    // Before tokenizing: the cap bounds the tokenizer's work.
    let chars = prompt.chars().count();
    if chars > door.max_prompt_chars {
        return too_long(format!(
            "'{param}' has {chars} characters, the server takes {}",
            door.max_prompt_chars
        ));
    }
    let tokens = door.prompt_tokens.count(prompt);
    if tokens > card.max_prompt_tokens && !truncate {
        return too_long(format!(
            "'{param}' has {tokens} tokens, the model '{}' reads {}; shorten it, or send truncate_prompt=true to \
             have its end cut off",
            card.id, card.max_prompt_tokens
        ));
    }
    Ok(tokens)
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
