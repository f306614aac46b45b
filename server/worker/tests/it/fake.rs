//! A generator that the test conducts: the prompt says what it does, and it waits where the test wants it to.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use media::Frames;
use queue::VideoParams;
use tokio::sync::mpsc::UnboundedSender;
use worker::{GenerateError, Generator, Progress};

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

/// What the test knows of all fakes of one worker.
pub(crate) struct Baton {
    pub(crate) built: AtomicU32,
    pub(crate) params: Mutex<Vec<VideoParams>>,
    pub(crate) held: UnboundedSender<Held>,
}

pub(crate) struct FakeGenerator {
    baton: Arc<Baton>,
    // As a real pipeline is, so that a `Send` bound on it would not compile.
    _not_send: std::rc::Rc<()>,
}

impl FakeGenerator {
    pub(crate) fn new(baton: &Arc<Baton>) -> Self {
        baton.built.fetch_add(1, Ordering::SeqCst);
        Self { baton: Arc::clone(baton), _not_send: std::rc::Rc::default() }
    }

    /// Waits to be released; asks whether to stop meanwhile if it is not `deaf`.
    fn hold(
        &self,
        deaf: bool,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), GenerateError> {
        let (release, released) = mpsc::channel();
        self.baton.held.send(Held { release }).unwrap();
        loop {
            match released.recv_timeout(Duration::from_millis(1)) {
                Err(mpsc::RecvTimeoutError::Timeout) if deaf => {}
                Err(mpsc::RecvTimeoutError::Timeout) => ask(Progress::CheckPoint, on_progress)?,
                Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

fn ask(
    progress: Progress,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), GenerateError> {
    if on_progress(progress).is_break() { Err(GenerateError::Interrupted) } else { Ok(()) }
}

impl Generator for FakeGenerator {
    fn generate(
        &mut self,
        params: &VideoParams,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Frames, GenerateError> {
        self.baton.params.lock().unwrap().push(params.clone());
        let failures = HashMap::from([
            ("invalid", GenerateError::InvalidParams("17 frames".into())),
            ("memory", GenerateError::OutOfMemory("12 GiB".into())),
            ("nan", GenerateError::NanLatents("after step 1".into())),
            ("internal", GenerateError::Internal("/secret/path".into())),
            ("quits", GenerateError::Interrupted),
        ]);

        ask(Progress::TextEncode, on_progress)?;
        let total_steps = params.num_inference_steps;
        for step in 0..=total_steps {
            ask(Progress::Denoise { step, total_steps }, on_progress)?;
            if step == 1 {
                match params.prompt.as_str() {
                    "hold" => self.hold(false, on_progress)?,
                    "deaf" => self.hold(true, on_progress)?,
                    "panic" => panic!("a secret in a panic"),
                    prompt => failures.get(prompt).map_or(Ok(()), |error| Err(error.clone()))?,
                }
            }
        }
        for fraction in [0.0, 0.5, 1.0] {
            ask(Progress::VaeDecode { fraction }, on_progress)?;
        }
        let bytes = params.width * params.height * 3 * params.num_frames;
        let rgb = (0..bytes).map(|n| (n % 251) as u8).collect();
        Ok(Frames::new(rgb, params.width, params.height, params.num_frames).unwrap())
    }
}
