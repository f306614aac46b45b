//! What this server can do, in a form that a page can build its controls from. Public, so that the page can also learn
//! that it must ask for a key.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::create::{MAX_GUIDANCE_SCALE, MAX_LORA};
use crate::error::Result;
use crate::model::{ModelCard, Scheduler, Size};
use crate::openapi::CommonErrors;
use crate::state::AppState;

/// What this server can do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Capabilities {
    /// Always `capabilities`.
    object: CapabilitiesTag,
    /// The server's version.
    version: String,
    /// The models, the default first.
    models: Vec<ModelCapabilities>,
    /// The devices that videos are made on, one video each at a time; several may have the same name.
    devices: Vec<String>,
    /// Bounds of any request.
    limits: RequestLimits,
    /// What is switched on.
    features: Features,
}

/// The `object` of capabilities.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CapabilitiesTag {
    /// Capabilities.
    Capabilities,
}

/// What one model takes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCapabilities {
    /// Name in requests.
    id: String,
    /// Whether requests that name no model get it.
    default: bool,
    /// The number format it runs in: `f32`, `f16` or `bf16`.
    dtype: String,
    /// Sizes it was trained for, `WIDTHxHEIGHT`.
    sizes: Vec<String>,
    /// The size when none is named.
    default_size: String,
    /// Frame counts.
    num_frames: FrameRange,
    /// Frames a second.
    fps: u32,
    /// The lengths that the frame counts come to.
    seconds: Vec<String>,
    /// Step counts.
    num_inference_steps: StepRange,
    /// Guidance scales.
    guidance_scale: GuidanceRange,
    /// Whether guidance grows over the steps when the request does not say.
    use_dynamic_cfg: bool,
    /// Samplers.
    schedulers: Vec<Scheduler>,
    /// The sampler when none is named.
    default_scheduler: Scheduler,
    /// Tokens of a prompt it reads, the end marker included.
    max_prompt_tokens: usize,
    /// Whether it starts from an image, which it then needs.
    supports_image: bool,
    /// Names of the adapters that it can be used with.
    lora: Vec<String>,
    /// What whoever sees its videos must know.
    #[schema(required)]
    notice: Option<String>,
}

/// Frame counts: from `min` in steps of `stride` to `max`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FrameRange {
    min: u32,
    max: u32,
    stride: u32,
    default: u32,
}

/// Step counts: from 1 to `max`, without those `refused`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepRange {
    default: u32,
    max: u32,
    refused: Vec<u32>,
}

/// Guidance scales.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GuidanceRange {
    default: f64,
    min: f64,
    max: f64,
}

/// Bounds of any request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RequestLimits {
    /// Characters of a prompt.
    max_prompt_chars: usize,
    /// Bytes of a body.
    max_body_bytes: usize,
    /// Videos that may wait.
    queue_capacity: u32,
    /// Bytes of an image that a video starts from.
    max_image_bytes: usize,
    /// Adapters of one video.
    max_lora: usize,
    /// Seconds that a request for a video waits at most (`Prefer: wait=N`).
    max_wait_seconds: u64,
}

/// What is switched on.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "a list of switches")]
pub(crate) struct Features {
    /// Requests need an API key.
    api_keys: bool,
    /// Prompts can be refined.
    refine_prompt: bool,
    /// Prompts are checked.
    prompt_check: bool,
    /// Webhooks are called.
    webhooks: bool,
    /// Videos can be watched while they are made.
    previews: bool,
}

impl ModelCapabilities {
    fn new(card: &ModelCard, default: bool, lora: Vec<String>) -> Self {
        let seconds = |num_frames: u32| (f64::from(num_frames) / f64::from(card.fps)).to_string();
        let (frames, steps) = (card.num_frames, &card.num_inference_steps);
        Self {
            id: card.id.clone(),
            default,
            dtype: card.dtype.clone(),
            sizes: card.sizes.iter().map(Size::to_string).collect(),
            default_size: card.default_size.to_string(),
            num_frames: FrameRange {
                min: frames.min,
                max: frames.max,
                stride: frames.stride,
                default: card.default_num_frames,
            },
            fps: card.fps,
            seconds: frames.counts().map(seconds).collect(),
            num_inference_steps: StepRange {
                default: steps.default,
                max: steps.max,
                refused: steps.refused.clone(),
            },
            guidance_scale: GuidanceRange { default: card.guidance_scale, min: 0.0, max: MAX_GUIDANCE_SCALE },
            use_dynamic_cfg: card.use_dynamic_cfg,
            schedulers: Scheduler::ALL.to_vec(),
            default_scheduler: card.scheduler,
            max_prompt_tokens: card.max_prompt_tokens,
            supports_image: card.supports_image,
            lora,
            notice: card.notice.clone(),
        }
    }
}

/// What can this server do?
#[utoipa::path(
    get,
    path = "/v1/capabilities",
    tag = "models",
    operation_id = "get_capabilities",
    responses((status = OK, description = "This.", body = Capabilities), CommonErrors),
)]
pub(crate) async fn get(State(state): State<AppState>) -> Result<Json<Capabilities>> {
    let mut models = Vec::new();
    for (index, card) in state.catalog.iter().enumerate() {
        models.push(ModelCapabilities::new(card, index == 0, state.lora_names(&card.id).await));
    }
    let devices = state.devices.borrow().iter().map(|device| device.name.clone()).collect();
    Ok(Json(Capabilities {
        object: CapabilitiesTag::Capabilities,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        models,
        devices,
        limits: RequestLimits {
            max_prompt_chars: state.limits.max_prompt_chars,
            max_body_bytes: state.limits.max_body_bytes,
            queue_capacity: state.queue.options().capacity,
            max_image_bytes: state.limits.max_image_bytes,
            max_lora: MAX_LORA,
            max_wait_seconds: state.limits.max_wait.as_secs(),
        },
        features: Features {
            api_keys: state.api_keys.any().await?,
            refine_prompt: state.refine_prompt.is_some(),
            prompt_check: state.prompt_check.is_some(),
            webhooks: state.check_webhook_url.is_some(),
            previews: state.previews,
        },
    }))
}
