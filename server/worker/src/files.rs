//! The files of an attempt: the picture that it starts from, and what the frames become on the disk.
//!
//! The same video gives the same bytes, whenever, as often and in as many attempts it is made: nothing in a file
//! depends on anything but what defines it.

use std::{fmt::Write as _, sync::Arc};

use media::{Frames, Metadata};
use queue::{Lora, Output, OutputFile, Video, VideoParams};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::{
    Result, WorkerConfig,
    attempt::{Attempt, Ended},
    settle::failed,
};

const SOFTWARE: &str = concat!("cogvideox-server ", env!("CARGO_PKG_VERSION"));

/// What becomes of the frames.
pub(crate) struct Encoded {
    mp4: Vec<u8>,
    thumbnail: Option<Vec<u8>>,
    spritesheet: Option<Vec<u8>>,
}

/// What made a video, as its file tells it.
#[derive(Serialize)]
struct Recipe<'a> {
    prompt: &'a str,
    negative_prompt: &'a str,
    seed: u64,
    model: &'a str,
    num_inference_steps: u32,
    guidance_scale: f64,
    use_dynamic_cfg: bool,
    scheduler: &'a str,
    size: String,
    num_frames: u32,
    fps: u32,
    #[serde(skip_serializing_if = "<[Lora]>::is_empty")]
    lora: &'a [Lora],
    /// The digest of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_reference: Option<&'a str>,
    low_memory: bool,
    generator: &'static str,
}

impl Attempt<'_> {
    /// The picture that the video starts from, if it starts from one: the very file that its row names.
    pub(crate) async fn read_image(&self) -> Result<Option<Arc<Vec<u8>>>, Ended> {
        let Some(image) = &self.video.params.image else { return Ok(None) };
        let lost = |error: &dyn std::error::Error| {
            failed("image_not_available", "the picture that the video starts from is lost", error)
        };
        let content = self.runner.stores.videos.read(&image.key).await.map_err(|error| lost(&error))?;
        let expected = image.sha256.clone();
        let checked = spawn_blocking(move || (sha256(&content) == expected).then_some(content)).await;
        let content = checked.map_err(|error| lost(&error))?;
        content.map(|content| Some(Arc::new(content))).ok_or_else(|| lost(&Changed))
    }

    /// The frames as files in memory.
    pub(crate) async fn encode(&self, frames: Frames) -> Result<Encoded, Ended> {
        let options = options(&self.runner.config, &self.video);
        let span = tracing::Span::current();
        let encoded = spawn_blocking(move || {
            let mp4 = media::encode_mp4(&frames, &options)?;
            let _in_video = span.enter();
            // A video without its pictures is a video all the same.
            let picture = |coded: media::Result<Vec<u8>>| {
                coded.inspect_err(|error| tracing::warn!(%error, "a picture cannot be made")).ok()
            };
            let thumbnail = picture(media::poster_webp(&frames));
            let spritesheet = picture(media::spritesheet_jpeg(&frames));
            media::Result::Ok(Encoded { mp4, thumbnail, spritesheet })
        });
        match encoded.await {
            Ok(Ok(files)) => Ok(files),
            Ok(Err(error)) => Err(failed("encode_failed", "the video could not be encoded", &error)),
            Err(error) => Err(failed("encode_failed", "the video could not be encoded", &error)),
        }
    }

    /// The files on the disk. Should the video itself find no place there, nothing is left of it.
    pub(crate) async fn store(&self, files: Encoded) -> Result<Output, Ended> {
        let [video, thumbnail, spritesheet] = self.keys();
        let video = self.put(video, files.mp4).await;
        let video =
            video.map_err(|error| failed("storage_failed", "the file could not be stored", &error))?;
        let thumbnail = self.put_picture(thumbnail, files.thumbnail).await;
        let spritesheet = self.put_picture(spritesheet, files.spritesheet).await;
        Ok(Output { video, thumbnail, spritesheet })
    }

    async fn put_picture(&self, key: String, picture: Option<Vec<u8>>) -> Option<OutputFile> {
        let stored = self.put(key, picture?).await;
        stored.inspect_err(|error| tracing::warn!(%error, "a picture could not be stored")).ok()
    }

    async fn put(&self, key: String, content: Vec<u8>) -> store::Result<OutputFile> {
        let stored = self.runner.stores.videos.put(&key, content).await?;
        Ok(OutputFile { key, bytes: stored.bytes, sha256: stored.sha256 })
    }

    /// Removes whatever files the attempt made.
    pub(crate) async fn remove_files(&self) {
        for key in self.keys() {
            if let Err(error) = self.runner.stores.videos.delete(&key).await {
                tracing::warn!(%error, "the file stays until the next sweep");
            }
        }
    }

    /// One set of names an attempt: a worker that lost its lease must never remove or replace its successor's files.
    fn keys(&self) -> [String; 3] {
        ["mp4", "webp", "jpg"].map(|kind| format!("{}_{}.{kind}", self.video.id, self.video.attempt))
    }
}

/// Another content than the row says.
#[derive(Debug, thiserror::Error)]
#[error("its digest is another")]
struct Changed;

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        // A string takes any write.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn options(config: &WorkerConfig, video: &Video) -> media::EncodeOptions {
    let metadata = config.metadata.then(|| provenance(&video.params, &video.model, video.low_memory));
    media::EncodeOptions { fps: video.params.fps, quality: config.quality, metadata }
}

/// What a file says of how it was made. No ids and no times: the same video has the same bytes.
#[expect(clippy::missing_panics_doc, reason = "a plain struct always becomes JSON")]
pub fn provenance(params: &VideoParams, model: &str, low_memory: bool) -> Metadata {
    let recipe = Recipe {
        prompt: &params.prompt,
        negative_prompt: &params.negative_prompt,
        seed: params.seed,
        model,
        num_inference_steps: params.num_inference_steps,
        guidance_scale: params.guidance_scale,
        use_dynamic_cfg: params.use_dynamic_cfg,
        scheduler: &params.scheduler,
        size: format!("{}x{}", params.width, params.height),
        num_frames: params.num_frames,
        fps: params.fps,
        lora: &params.lora,
        input_reference: params.image.as_ref().map(|image| image.sha256.as_str()),
        low_memory,
        generator: SOFTWARE,
    };
    Metadata {
        title: params.prompt.clone(),
        comment: serde_json::to_string(&recipe).expect("a plain struct becomes JSON"),
        software: SOFTWARE.to_owned(),
        created_unix_s: None,
    }
}
