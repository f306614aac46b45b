//! What is tried again, how often and after what time.

use std::time::Duration;

use super::{OnProgress, Progress, Wait};
use crate::{Error, Result};

/// Attempts in a row that bring nothing.
const MAX_ATTEMPTS: u32 = 6;
/// After the first of them; twice as long after each further one.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest pause of our own choice.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// The longest pause that a hub may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// What one attempt comes to.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

/// Why an attempt brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next would bring nothing either.
    Final(Error),
    /// The next may.
    Passing {
        /// To be told if it does not.
        error: Error,
        /// How long the other side asks to wait.
        after: Option<Duration>,
    },
}

impl Failure {
    pub(super) fn passing(error: Error) -> Self {
        Self::Passing { error, after: None }
    }
}

/// Counts the attempts at one thing.
pub(super) struct Patience<'a> {
    wait: &'a Wait,
    on_progress: &'a OnProgress,
    failures: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(wait: &'a Wait, on_progress: &'a OnProgress) -> Self {
        Self { wait, on_progress, failures: 0 }
    }

    /// An attempt brought something, if not all.
    pub(super) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// The failure's own, where there is to be none.
    pub(super) async fn wait_after(&mut self, failure: Failure) -> Result<()> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, after } => (error, after),
        };
        self.failures += 1;
        if self.failures >= MAX_ATTEMPTS || after.is_some_and(|after| after > MAX_RETRY_AFTER) {
            return Err(error);
        }
        let own = (FIRST_DELAY * 2_u32.pow(self.failures - 1)).min(MAX_DELAY);
        let delay = after.unwrap_or(own);
        (self.on_progress)(Progress::Retry { error: &error, delay });
        (self.wait)(delay).await;
        Ok(())
    }
}
