//! A generator that the test conducts: the prompt says what it does, and it waits where the test wants it to.
//!
//! A prompt is a word and perhaps where it takes effect: `hold 3` waits after step 3, `hold load`, `hold text` and
//! `hold vae` in these stages; without one it is step 1. Its latents are one number that every step changes, so that frames tell
//! whether a resumed run went the same way.

use std::{
    cell::Cell,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use media::Frames;
use queue::VideoParams;
use tokio::sync::mpsc::UnboundedSender;
use worker::{DenoiseState, GenerateError, Generated, Generator, Picture, Progress, Request};

pub(crate) const PEAK_BYTES: u64 = 123_456;

type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

/// A generation that waits.
pub(crate) struct Held {
    release: mpsc::Sender<()>,
}

impl Held {
    pub(crate) fn release(self) {
        // A generation that was interrupted does not wait any more.
        let _ = self.release.send(());
    }
}

/// What the fake was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) model: String,
    pub(crate) params: VideoParams,
    pub(crate) image: Option<Vec<u8>>,
    pub(crate) resumed_from: Option<u32>,
    pub(crate) low_memory: bool,
}

/// What the test knows of all fakes of one worker.
pub(crate) struct Baton {
    pub(crate) built: AtomicU32,
    /// Whether a device was lost: no generator is built after that.
    gone: AtomicBool,
    pub(crate) asked: Mutex<Vec<Asked>>,
    /// The steps of which a preview was made.
    pub(crate) previewed: Mutex<Vec<u32>>,
    /// The steps of which a checkpoint was made.
    pub(crate) kept: Mutex<Vec<u32>>,
    /// How often a generation that waits asked whether to stop.
    calls: AtomicU32,
    held: UnboundedSender<Held>,
}

impl Baton {
    pub(crate) fn new(held: UnboundedSender<Held>) -> Self {
        Self {
            built: 0.into(),
            gone: false.into(),
            asked: Mutex::default(),
            previewed: Mutex::default(),
            kept: Mutex::default(),
            calls: 0.into(),
            held,
        }
    }

    /// Waits until the generation has asked once more whether to stop.
    pub(crate) async fn calls_once_more(&self) {
        let before = self.calls.load(Ordering::SeqCst);
        // By the machine's clock, since the runtime's may stand still.
        let start = std::time::Instant::now();
        // The one under way may have begun earlier.
        while self.calls.load(Ordering::SeqCst) < before + 2 {
            assert!(start.elapsed() < Duration::from_mins(1), "no generation waits");
            tokio::task::yield_now().await;
        }
    }

    /// Waits to be released, asking meanwhile whether to stop.
    fn hold(&self, mut ask: impl FnMut() -> Result<(), GenerateError>) -> Result<(), GenerateError> {
        let (release, released) = mpsc::channel();
        self.held.send(Held { release }).unwrap();
        loop {
            match released.recv_timeout(Duration::from_millis(1)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    ask()?;
                    self.calls.fetch_add(1, Ordering::SeqCst);
                }
                Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

pub(crate) struct FakeGenerator {
    /// The one that is in memory.
    model: String,
    baton: Arc<Baton>,
    // As a real pipeline is, so that a `Send` bound on it would not compile.
    _not_send: std::rc::Rc<()>,
}

/// The latents: a number.
struct FakeState<'a> {
    baton: &'a Baton,
    word: &'a str,
    step: u32,
    latents: u64,
    checkpoints: &'a Cell<u32>,
}

impl DenoiseState for FakeState<'_> {
    fn checkpoint(&self) -> Result<Vec<u8>, String> {
        if self.word == "unkeepable" {
            return Err("the device is gone".to_owned());
        }
        self.baton.kept.lock().unwrap().push(self.step);
        self.checkpoints.set(self.checkpoints.get() + 1);
        if self.word == "costly" && self.checkpoints.get() == 1 {
            self.baton.hold(|| Ok(())).unwrap();
        }
        Ok([self.step.to_le_bytes().as_slice(), &self.latents.to_le_bytes()].concat())
    }

    fn preview(&self) -> Option<Picture> {
        self.baton.previewed.lock().unwrap().push(self.step);
        Some(Picture { rgb: vec![self.step as u8; 16 * 8 * 3], width: 16, height: 8 })
    }
}

impl FakeGenerator {
    pub(crate) fn build(baton: &Arc<Baton>) -> Result<Self, String> {
        if baton.gone.load(Ordering::SeqCst) {
            return Err("the device fell off the bus".to_owned());
        }
        baton.built.fetch_add(1, Ordering::SeqCst);
        Ok(Self { model: "fake".to_owned(), baton: Arc::clone(baton), _not_send: std::rc::Rc::default() })
    }

    /// Does what the prompt says of this place.
    fn act(&self, word: &str, low_memory: bool, on_progress: OnProgress<'_>) -> Result<(), GenerateError> {
        match word {
            "hold" | "slow" | "costly" => self.baton.hold(|| ask(Progress::CheckPoint, on_progress)),
            "deaf" => self.baton.hold(|| Ok(())),
            "panic" => panic!("a secret in a panic"),
            "invalid" => Err(GenerateError::InvalidParams("17 frames".into())),
            "nan" => Err(GenerateError::NanLatents("after step 1".into())),
            "gone" => Err(GenerateError::ModelNotAvailable("there are: fake".into())),
            "adapterless" => Err(GenerateError::LoraNotAvailable("its file is gone".into())),
            "other-adapter" => Err(GenerateError::LoraChanged("expected ab, found cd".into())),
            "unloadable" => Err(GenerateError::ModelNotLoaded("/secret/path".into())),
            "internal" => Err(GenerateError::Internal("/secret/path".into())),
            "reset" => Err(GenerateError::DeviceLost("an illegal address".into())),
            // Once, and then for good for this device.
            "lost" if !self.baton.gone.swap(true, Ordering::SeqCst) => {
                Err(GenerateError::DeviceLost("an illegal address".into()))
            }
            "poison" => {
                self.baton.gone.store(true, Ordering::SeqCst);
                Err(GenerateError::DeviceLost("an illegal address".into()))
            }
            "quits" => Err(GenerateError::Interrupted),
            "large" if !low_memory => Err(GenerateError::OutOfMemory("12 GiB".into())),
            "huge" => Err(GenerateError::OutOfMemory("80 GiB".into())),
            _ => Ok(()),
        }
    }
}

fn ask(progress: Progress<'_>, on_progress: OnProgress<'_>) -> Result<(), GenerateError> {
    if on_progress(progress).is_break() { Err(GenerateError::Interrupted) } else { Ok(()) }
}

fn read(checkpoint: &[u8], word: &str) -> Option<(u32, u64)> {
    let (step, latents) = checkpoint.split_first_chunk::<4>()?;
    let latents = latents.try_into().ok()?;
    (word != "forgetful").then_some((u32::from_le_bytes(*step), u64::from_le_bytes(latents)))
}

impl Generator for FakeGenerator {
    fn loaded(&self) -> Vec<String> {
        vec![self.model.clone()]
    }

    fn generate(
        &mut self,
        request: &Request<'_>,
        on_progress: OnProgress<'_>,
    ) -> Result<Generated, GenerateError> {
        let params = request.params;
        let (word, place) = params.prompt.split_once(' ').unwrap_or((&params.prompt, "1"));
        let resumed = request.checkpoint.map(|bytes| read(bytes, word).ok_or_else(|| bad(bytes))).transpose();
        let asked = Asked {
            model: request.model.to_owned(),
            params: params.clone(),
            image: request.image.map(<[u8]>::to_vec),
            resumed_from: resumed.as_ref().ok().and_then(|resumed| resumed.map(|(step, _)| step)),
            low_memory: request.low_memory,
        };
        self.baton.asked.lock().unwrap().push(asked);
        request.model.clone_into(&mut self.model);
        let (first, mut latents) = resumed?.unwrap_or((0, params.seed));

        if place == "load" {
            ask(Progress::LoadModel, on_progress)?;
            self.act(word, request.low_memory, on_progress)?;
        }
        ask(Progress::TextEncode, on_progress)?;
        if place == "text" {
            self.act(word, request.low_memory, on_progress)?;
        }
        let total_steps = params.num_inference_steps;
        let checkpoints = Cell::new(0);
        for step in first..=total_steps {
            if step > first {
                latents = latents.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step.into());
            }
            let state = FakeState { baton: &self.baton, word, step, latents, checkpoints: &checkpoints };
            let state: Option<&dyn DenoiseState> = if step > 0 { Some(&state) } else { None };
            ask(Progress::Denoise { step, total_steps, state }, on_progress)?;
            // What was gone on from has taken effect already.
            if (place.parse() == Ok(step) && (step > first || step == 0)) || matches!(word, "slow" | "costly")
            {
                self.act(word, request.low_memory, on_progress)?;
            }
        }
        for fraction in [0.0, 0.5, 1.0] {
            ask(Progress::VaeDecode { fraction }, on_progress)?;
            if place == "vae" && (0.4..0.6).contains(&fraction) {
                self.act(word, request.low_memory, on_progress)?;
            }
        }
        let bytes = params.width * params.height * 3 * params.num_frames;
        let rgb = (0..u64::from(bytes)).map(|n| ((n + latents % 97) % 251) as u8).collect();
        let frames = Frames::new(rgb, params.width, params.height, params.num_frames).unwrap();
        Ok(Generated { frames, peak_memory_bytes: Some(PEAK_BYTES) })
    }
}

fn bad(bytes: &[u8]) -> GenerateError {
    GenerateError::BadCheckpoint(format!("{} bytes", bytes.len()))
}
