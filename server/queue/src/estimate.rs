//! Where a video stands in the line, and how long until it is finished, by what was measured.
//!
//! From memory alone: the line, the pace, and what runs. Workers count as equally fast, and so do models: the line is
//! told as it stands, though a worker may take a later video whose model it has (`next`), and loading one takes a while.

use crate::{Estimate, Queue, Status, Video, VideoId, VideoParams, line::Ahead};

impl Queue {
    /// The place of a video and the time until it is finished.
    pub fn estimate(&self, video: &Video) -> Estimate {
        self.estimates(std::slice::from_ref(video)).remove(0)
    }

    /// The same for many, in their order; one look at the line for all of them.
    pub fn estimates(&self, videos: &[Video]) -> Vec<Estimate> {
        let ahead = self.inner.hub.ahead(videos.iter().map(|video| video.id));
        videos.iter().map(|video| self.estimate_at(video, ahead.get(&video.id).copied())).collect()
    }

    /// How long until this running video is finished; none if it does not run, or nothing was measured yet. Costs
    /// no look at the database.
    pub fn remaining_ms(&self, id: VideoId) -> Option<u64> {
        self.inner.hub.remaining_ms(id).map(|ms| ms as u64)
    }

    /// How long until the line is empty, if nothing more comes.
    pub fn line_eta_ms(&self) -> Option<u64> {
        self.inner.hub.all_ms().map(|ms| ms as u64)
    }

    /// How many workers there are to make videos: what runs and waits is shared among them. One until this is said.
    pub fn set_workers(&self, workers: u32) {
        self.inner.hub.set_workers(workers);
    }

    /// How long a step of such a video takes here; none before one was measured.
    pub fn step_ms(&self, params: &VideoParams) -> Option<f64> {
        self.inner.hub.pace(|pace| pace.step_ms(params.megapixels()))
    }

    fn estimate_at(&self, video: &Video, ahead: Option<Ahead>) -> Estimate {
        // It may have been claimed since it was read.
        let ahead = ahead.filter(|_| video.status == Status::Queued);
        let eta_ms = match video.status {
            Status::Queued => ahead.and_then(|ahead| ahead.eta_ms),
            Status::InProgress => self.inner.hub.remaining_ms(video.id),
            _ => None,
        };
        Estimate { queue_position: ahead.map(|ahead| ahead.position), eta_ms: eta_ms.map(|ms| ms as u64) }
    }
}
