//! Progress of one video for whoever waits at a terminal: a bar that stays in place on a terminal, one plain line a
//! step where stderr is a file or a pipe. Knows stages by name only, and nothing of what they do.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is known about the way through a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update<'a> {
    /// A stage of unknown length goes on.
    Stage(&'a str),
    /// So many of a stage's steps are finished; 0 when it begins.
    Steps {
        /// The stage's name.
        stage: &'a str,
        /// Steps finished.
        step: u32,
        /// Steps in all.
        total_steps: u32,
    },
    /// So much of a stage is finished, from 0 to 1.
    Fraction {
        /// The stage's name.
        stage: &'a str,
        /// From 0 to 1.
        fraction: f64,
    },
}

/// Shows progress until it is dropped.
pub struct Progress {
    display: Display,
    /// The stage shown, and when it began.
    stage: Option<(String, Instant)>,
    /// What was shown last: how many of how many.
    last: Option<(u32, u32)>,
    now: Box<dyn FnMut() -> Instant + Send>,
}

enum Display {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Progress {
    /// On stderr: a bar if it is a terminal, lines if not.
    pub fn stderr() -> Self {
        if io::stderr().is_terminal() {
            Self::bar(ProgressDrawTarget::stderr())
        } else {
            Self::lines(Box::new(io::stderr()), Box::new(Instant::now))
        }
    }

    /// A bar wherever indicatif can draw.
    pub fn bar(target: ProgressDrawTarget) -> Self {
        Self::new(Display::Bar(ProgressBar::with_draw_target(None, target)), Box::new(Instant::now))
    }

    /// Plain lines, by a clock of one's own.
    pub fn lines(out: Box<dyn Write + Send>, now: Box<dyn FnMut() -> Instant + Send>) -> Self {
        Self::new(Display::Lines(out), now)
    }

    fn new(display: Display, now: Box<dyn FnMut() -> Instant + Send>) -> Self {
        Self { display, stage: None, last: None, now }
    }

    /// Shows how far things are. Cheap enough to be called at every tile; repeats are dropped.
    pub fn update(&mut self, update: Update<'_>) {
        let (stage, position) = match update {
            Update::Stage(stage) => (stage, None),
            Update::Steps { stage, step, total_steps } => (stage, Some((step, total_steps))),
            Update::Fraction { stage, fraction } => {
                let parts = match &self.display {
                    Display::Bar(_) => 100,
                    // A line a tile would flood a log.
                    Display::Lines(_) => 10,
                };
                (stage, Some(((fraction * f64::from(parts)) as u32, parts)))
            }
        };
        let now = (self.now)();
        let began = match &self.stage {
            Some((current, began)) if current == stage => {
                if self.last == position {
                    return;
                }
                *began
            }
            _ => {
                self.stage = Some((stage.to_owned(), now));
                now
            }
        };
        self.last = position;
        let pace = position.and_then(|(done, total)| Pace::of(now - began, done, total));
        match &mut self.display {
            Display::Bar(bar) => draw(bar, stage, update, position, pace),
            // Progress is a courtesy: a closed stderr must not stop the video.
            Display::Lines(out) => drop(writeln!(out, "{}", line(stage, update, position, pace))),
        }
    }
}

impl Drop for Progress {
    /// Takes the bar off the terminal; lines stay.
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn draw(
    bar: &ProgressBar,
    stage: &str,
    update: Update<'_>,
    position: Option<(u32, u32)>,
    pace: Option<Pace>,
) {
    let template = match update {
        Update::Stage(_) => "{spinner} {prefix} {elapsed}",
        Update::Steps { .. } => "{prefix} {wide_bar} {pos}/{len} {msg}",
        Update::Fraction { .. } => "{prefix} {wide_bar} {percent} % {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if bar.prefix() != stage {
        bar.set_prefix(stage.to_owned());
        bar.reset_elapsed();
    }
    if let Some((done, total)) = position {
        bar.set_length(total.into());
        bar.set_position(done.into());
    }
    bar.set_message(pace.map(|pace| pace.words(update)).unwrap_or_default());
    // Keeps the spinner and the clock going through a step of minutes.
    bar.enable_steady_tick(Duration::from_millis(200));
}

fn line(stage: &str, update: Update<'_>, position: Option<(u32, u32)>, pace: Option<Pace>) -> String {
    let place = match (update, position) {
        (Update::Fraction { .. }, Some((done, total))) => format!(" {} %", 100 * done / total),
        (_, Some((done, total))) => format!(" {done}/{total}"),
        (_, None) => String::new(),
    };
    let pace = pace.map(|pace| format!("  {}", pace.words(update))).unwrap_or_default();
    format!("{stage}{place}{pace}")
}

/// How fast a stage goes, from its beginning on.
#[derive(Clone, Copy)]
struct Pace {
    seconds_per_step: f64,
    remaining: Duration,
}

impl Pace {
    /// Nothing can be said before the first step is finished.
    fn of(elapsed: Duration, done: u32, total: u32) -> Option<Self> {
        let per_step = elapsed.checked_div(done)?;
        Some(Self {
            seconds_per_step: per_step.as_secs_f64(),
            remaining: per_step * total.saturating_sub(done),
        })
    }

    fn words(self, update: Update<'_>) -> String {
        let eta = format!("eta {}", clock_words(self.remaining.as_secs_f64().round() as u64));
        match update {
            Update::Steps { .. } => format!("{:.2} s/step, {eta}", self.seconds_per_step),
            Update::Stage(_) | Update::Fraction { .. } => eta,
        }
    }
}

/// Such as `1:02:03` or `2:03`.
pub(crate) fn clock_words(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}
