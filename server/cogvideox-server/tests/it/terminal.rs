//! What someone who waits sees.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cogvideox_server::terminal::{Progress, Update};
use indicatif::{InMemoryTerm, ProgressDrawTarget};

/// A buffer that can be read while it is written.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Progress in lines by a clock that `tick` sets.
fn lines() -> (Page, Arc<Mutex<Duration>>, Progress) {
    let (page, tick, start) = (Page::default(), Arc::new(Mutex::new(Duration::ZERO)), Instant::now());
    let clock = tick.clone();
    let progress = Progress::lines(Box::new(page.clone()), Box::new(move || start + *clock.lock().unwrap()));
    (page, tick, progress)
}

fn denoise(step: u32) -> Update<'static> {
    Update::Steps { stage: "denoise", step, total_steps: 50 }
}

#[test]
fn lines_tell_stage_step_pace_and_time_left() {
    let (page, tick, mut progress) = lines();
    let at = |seconds: f64| *tick.lock().unwrap() = Duration::from_secs_f64(seconds);
    progress.update(Update::Stage("text_encode"));
    at(4.0);
    progress.update(denoise(0));
    at(16.5);
    progress.update(denoise(1));
    at(28.0);
    progress.update(denoise(2));
    at(604.0);
    progress.update(denoise(50));
    progress.update(Update::Fraction { stage: "vae_decode", fraction: 0.0 });
    at(614.0);
    progress.update(Update::Fraction { stage: "vae_decode", fraction: 0.2 });
    progress.update(Update::Stage("encode_mp4"));
    assert_eq!(
        page.lines(),
        [
            "text_encode",
            "denoise 0/50",
            "denoise 1/50  12.50 s/step, eta 10:13",
            "denoise 2/50  12.00 s/step, eta 9:36",
            "denoise 50/50  12.00 s/step, eta 0:00",
            "vae_decode 0 %",
            "vae_decode 20 %  eta 0:40",
            "encode_mp4",
        ]
    );
}

#[test]
fn many_small_updates_make_few_lines() {
    let (page, _tick, mut progress) = lines();
    for _ in 0..500 {
        progress.update(Update::Stage("text_encode"));
    }
    assert_eq!(page.lines().len(), 1);
    for tile in 0..=500 {
        progress.update(Update::Fraction { stage: "vae_decode", fraction: f64::from(tile) / 500.0 });
    }
    assert_eq!(page.lines().len(), 1 + 11);
}

#[test]
fn a_terminal_shows_one_bar_and_is_left_clean() {
    let terminal = InMemoryTerm::new(5, 80);
    let mut progress = Progress::bar(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
    progress.update(denoise(0));
    progress.update(denoise(7));
    let screen = terminal.contents();
    assert_eq!(screen.lines().count(), 1, "{screen}");
    assert!(screen.starts_with("denoise") && screen.contains("7/50"), "{screen}");
    assert!(screen.contains("s/step, eta"), "{screen}");
    drop(progress);
    assert_eq!(terminal.contents(), "");
}
