//! Progress of a download: for whoever waits at a terminal a bar for each file and one for all, with speed and time to
//! go; one plain line a tenth where stderr is a file or a pipe; and in a few words for whoever asks the server.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use outbound::hub::Progress;

use crate::terminal::clock_words;

const TOTAL_BAR: &str =
    "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}";
const FILE_BAR: &str = "  {prefix} {wide_bar} {binary_bytes}/{binary_total_bytes}";

/// How far a download is as a whole.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    total_bytes: u64,
    present_bytes: u64,
    /// By path: where each stands.
    each: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts.
    pub(crate) fn hear(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Planned { total_bytes, present_bytes, .. } => {
                *self = Self { total_bytes, present_bytes, each: BTreeMap::new() };
            }
            Progress::File { path, present_bytes, .. } => {
                // What it begins with is in the plan already.
                let before = self.each.insert(path.to_owned(), present_bytes).unwrap_or(present_bytes);
                self.present_bytes = (self.present_bytes + present_bytes).saturating_sub(before);
            }
            Progress::Retry { .. } => {}
        }
    }

    /// Such as `1.2 of 11.3 GiB`.
    pub(crate) fn words(&self) -> String {
        let (unit, divisor) = unit(self.total_bytes);
        let parts = |bytes: u64| bytes as f64 / divisor;
        format!("{:.1} of {:.1} {unit}", parts(self.present_bytes), parts(self.total_bytes))
    }

    /// Tenths that are here, from 0 to 10.
    fn tenths(&self) -> u64 {
        (u128::from(self.present_bytes) * 10).checked_div(self.total_bytes.into()).unwrap_or(10) as u64
    }
}

/// In which unit so many bytes are told.
fn unit(bytes: u64) -> (&'static str, f64) {
    if bytes >= 1 << 30 { ("GiB", f64::from(1 << 30)) } else { ("MiB", f64::from(1 << 20)) }
}

/// Shows a download until it is dropped.
pub struct Transfer(Mutex<Shown>);

struct Shown {
    display: Display,
    tally: Tally,
    /// When the plan was told, and what was here then.
    began: (Instant, u64),
    /// The last that a line was written for.
    tenths: u64,
    now: Box<dyn FnMut() -> Instant + Send>,
}

enum Display {
    Bars { all: MultiProgress, total: ProgressBar, files: BTreeMap<String, ProgressBar> },
    Lines(Box<dyn Write + Send>),
}

impl Transfer {
    /// On stderr: bars if it is a terminal, lines if not.
    pub fn stderr() -> Self {
        if io::stderr().is_terminal() {
            Self::bars(ProgressDrawTarget::stderr())
        } else {
            Self::lines(Box::new(io::stderr()), Box::new(Instant::now))
        }
    }

    /// Bars wherever indicatif can draw.
    pub fn bars(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let total = ProgressBar::hidden();
        Self::new(Display::Bars { all, total, files: BTreeMap::new() }, Box::new(Instant::now))
    }

    /// Plain lines, by a clock of one's own.
    pub fn lines(out: Box<dyn Write + Send>, now: Box<dyn FnMut() -> Instant + Send>) -> Self {
        Self::new(Display::Lines(out), now)
    }

    fn new(display: Display, mut now: Box<dyn FnMut() -> Instant + Send>) -> Self {
        let began = (now(), 0);
        Self(Mutex::new(Shown { display, tally: Tally::default(), began, tenths: 0, now }))
    }

    /// Shows how far things are. May be called from several threads.
    pub fn hear(&self, progress: Progress<'_>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.tally.hear(progress);
        if let Progress::Planned { present_bytes, .. } = progress {
            shown.began = ((shown.now)(), present_bytes);
            shown.tenths = shown.tally.tenths();
        }
        shown.show(progress);
    }
}

impl Drop for Transfer {
    /// Takes the bars off the terminal; lines stay.
    fn drop(&mut self) {
        let shown = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Display::Bars { all, .. } = &shown.display {
            // Nothing can be done about a closed terminal.
            let _ = all.clear();
        }
    }
}

impl Shown {
    fn show(&mut self, progress: Progress<'_>) {
        let line = self.line(progress);
        match &mut self.display {
            Display::Lines(out) => {
                if let Some(line) = line {
                    // Progress is a courtesy: a closed stderr must not stop the download.
                    let _ = writeln!(out, "{line}");
                }
            }
            Display::Bars { all, total, files } => match progress {
                Progress::Planned { files: 0, .. } => {}
                Progress::Planned { total_bytes, present_bytes, .. } => {
                    all.remove(total);
                    *total = all.add(bar(TOTAL_BAR, "download", total_bytes));
                    total.set_position(present_bytes);
                    // The speed is of what comes now.
                    total.reset_eta();
                    total.enable_steady_tick(Duration::from_millis(200));
                }
                Progress::File { path, present_bytes, total_bytes } => {
                    total.set_position(self.tally.present_bytes);
                    let file = files
                        .entry(path.to_owned())
                        .or_insert_with(|| all.insert_before(total, bar(FILE_BAR, path, total_bytes)));
                    file.set_position(present_bytes);
                    if present_bytes == total_bytes {
                        file.finish_and_clear();
                    }
                }
                // Whatever becomes of the terminal, the download goes on.
                Progress::Retry { .. } => drop(line.map(|line| all.println(line))),
            },
        }
    }

    /// What is to be said in words, if anything.
    fn line(&mut self, progress: Progress<'_>) -> Option<String> {
        match progress {
            Progress::Planned { files: 0, .. } => None,
            Progress::Planned { files, total_bytes, .. } => {
                let (unit, divisor) = unit(total_bytes);
                let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                Some(format!("download {files}, {:.1} {unit}", total_bytes as f64 / divisor))
            }
            Progress::File { .. } => {
                let tenths = self.tally.tenths();
                if tenths <= self.tenths {
                    return None;
                }
                self.tenths = tenths;
                Some(format!("download {} %  {}{}", tenths * 10, self.tally.words(), self.pace()))
            }
            Progress::Retry { error, delay } => {
                Some(format!("warning: {error}; trying again in {} s", delay.as_secs_f64().ceil()))
            }
        }
    }

    /// Speed and time to go, since the plan was told.
    fn pace(&mut self) -> String {
        let (since, before_bytes) = self.began;
        let seconds = ((self.now)() - since).as_secs_f64();
        let bytes_per_second = self.tally.present_bytes.saturating_sub(before_bytes) as f64 / seconds;
        if !bytes_per_second.is_normal() {
            return String::new();
        }
        let left = self.tally.total_bytes.saturating_sub(self.tally.present_bytes) as f64;
        let eta = clock_words((left / bytes_per_second).round() as u64);
        format!("  {:.1} MiB/s, eta {eta}", bytes_per_second / f64::from(1 << 20))
    }
}

fn bar(template: &str, prefix: &str, total_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(total_bytes).with_prefix(prefix.to_owned());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").finish_non_exhaustive()
    }
}
