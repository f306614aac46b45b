//! The open streams of a server: how many each API key has, and what they share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::gauge;
use queue::KeyId;

use super::rendering::Renderings;
use crate::error::{Code, Error, Result};
use crate::state::Limits;

/// The open event streams. Clones share them; one for a server.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<HashMap<Option<KeyId>, usize>>,
    renderings: Renderings,
}

impl Streams {
    /// Takes a place for one stream of this key, or of somebody without.
    ///
    /// # Errors
    /// Refused with `too_many_streams` while the key, or the server, has as many as it may.
    pub(crate) fn open(&self, key: Option<KeyId>, limits: &Limits) -> Result<Place> {
        let mut open = lock(&self.0.open);
        let (all, own) = (open.values().sum::<usize>(), open.get(&key).copied().unwrap_or(0));
        let full = if all >= limits.max_streams {
            Some(format!("this server has {all} event streams open, which is its limit"))
        } else if own >= limits.max_streams_per_key {
            Some(format!("{own} event streams are open already, which is the limit for one API key"))
        } else {
            None
        };
        if let Some(message) = full {
            return Err(Error::TryLater { code: Code::TooManyStreams, message, after: limits.retry_after });
        }
        *open.entry(key.clone()).or_default() += 1;
        gauge!("cogvideox_sse_subscribers").increment(1.0);
        Ok(Place { streams: self.clone(), key })
    }

    /// What the streams share.
    pub(crate) fn renderings(&self) -> &Renderings {
        &self.0.renderings
    }
}

/// One stream's place among the open ones; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Place {
    streams: Streams,
    key: Option<KeyId>,
}

impl Place {
    /// The key whose stream it is.
    pub(crate) fn key(&self) -> Option<&KeyId> {
        self.key.as_ref()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.streams.0.open);
        if let Some(own) = open.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.key);
            }
        }
        gauge!("cogvideox_sse_subscribers").decrement(1.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
