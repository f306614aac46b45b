//! The request that makes a video: its fields by name and type.
//!
//! Whether the model can do what they say is `resolve`'s question, and what happens before the video is in the queue
//! `submit`'s.

mod lora;
mod resolve;

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type};

use crate::error::{Code, Error, Result};
use crate::fields::{Fields, quoted};
use crate::input_reference::{self, InputReference};
use crate::model::Scheduler;

pub(crate) use lora::{LoraRequest, MAX_LORA, WantedLora, find as find_lora};
pub(crate) use resolve::{Draft, MAX_GUIDANCE_SCALE, check_prompt, model_not_found};

/// Seeds up to here survive a trip through a JSON number in any language.
const MAX_SEED: u64 = (1 << 53) - 1;
pub(crate) const PRIORITIES: std::ops::RangeInclusive<i64> = -100..=100;
const MAX_METADATA_ENTRIES: usize = 16;
const MAX_METADATA_KEY_CHARS: usize = 64;
const MAX_METADATA_VALUE_CHARS: usize = 512;

/// What to make. Fields left out, or null, take the model's defaults.
// Its JSON is what two requests are compared by: a field that is not in it would not count.
#[derive(Debug, Default, Serialize, ToSchema)]
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
    /// The picture that the video starts from, for models that take one and need it: PNG, JPEG or WebP. A file in a
    /// form, or an object whose `image_url` is a `data:` URL.
    #[schema(schema_with = input_reference::schema)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_reference: Option<InputReference>,
    /// Adapters of the model's weights, all at once; in a form as JSON text.
    #[schema(max_items = 8)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lora: Option<Vec<LoraRequest>>,
    /// What the video must not show.
    #[schema(max_length = 10000)]
    pub(crate) negative_prompt: Option<String>,
    /// Cut a prompt that is too long instead of refusing it.
    pub(crate) truncate_prompt: Option<bool>,
    /// Have the prompt written out into the long form that the model was trained on, if the server can
    /// (`features.refine_prompt` of `GET /v1/capabilities`).
    pub(crate) refine_prompt: Option<bool>,
    /// Videos of higher priority are made first.
    #[schema(minimum = -100, maximum = 100)]
    pub(crate) priority: Option<i32>,
    /// Up to 16 entries of your own, keys of up to 64 and values of up to 512 characters.
    #[schema(schema_with = metadata_schema)]
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    /// Whom to tell when the video has ended, if the server tells anybody (`features.webhooks`).
    #[schema(example = "https://example.org/hooks/videos")]
    pub(crate) webhook_url: Option<String>,
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

impl CreateVideoRequest {
    /// Takes the fields that a request may have, by type.
    pub(crate) fn take(fields: &mut Fields) -> Result<Self> {
        let any = 1..=i64::from(u32::MAX);
        Ok(Self {
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
            input_reference: input_reference::take(fields)?,
            lora: lora::take(fields)?,
            negative_prompt: fields.string("negative_prompt")?,
            truncate_prompt: fields.boolean("truncate_prompt")?,
            refine_prompt: fields.boolean("refine_prompt")?,
            priority: fields.integer("priority", &PRIORITIES, Code::InvalidPriority)?,
            metadata: fields.string_map("metadata")?,
            webhook_url: fields.string("webhook_url")?,
            n: fields.integer("n", &any, Code::UnsupportedN)?,
        })
    }
}

fn scheduler(name: &str) -> Result<Scheduler> {
    Scheduler::parse(name).ok_or_else(|| {
        let message = format!("'scheduler' must be ddim or dpm, found {}", quoted(name));
        Error::param(Code::UnsupportedScheduler, "scheduler", message)
    })
}
