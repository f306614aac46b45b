//! How many requests a minute each API key makes.
//!
//! A token bucket per key: a minute's worth may come at once, and it fills again at the same pace. In memory only; a
//! restarted server starts with full buckets. Reads the queue's clock, and knows no HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use queue::KeyId;

const MINUTE_MS: f64 = 60_000.0;

/// How often each key asked of late. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct RequestRates(Arc<Mutex<HashMap<KeyId, Bucket>>>);

#[derive(Debug)]
struct Bucket {
    requests: f64,
    filled_at_ms: i64,
}

impl RequestRates {
    /// Counts a request of `key`, which may make `per_minute`; if it made too many, how long until the next may come.
    pub(crate) fn count(&self, key: &KeyId, per_minute: u32, now_ms: i64) -> Result<(), Duration> {
        let most = f64::from(per_minute);
        // Nothing panics while holding it.
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry(key.clone()).or_insert_with(|| Bucket { requests: most, filled_at_ms: now_ms });
        let elapsed_ms = (now_ms - bucket.filled_at_ms).max(0) as f64;
        bucket.requests = (bucket.requests + elapsed_ms * most / MINUTE_MS).min(most);
        bucket.filled_at_ms = now_ms;
        if bucket.requests >= 1.0 {
            bucket.requests -= 1.0;
            return Ok(());
        }
        // A key that may make no request at all is told to come back in a minute, and again.
        let wait_ms = ((1.0 - bucket.requests) * MINUTE_MS / most.max(1.0)).ceil();
        Err(Duration::from_millis(wait_ms as u64))
    }
}
