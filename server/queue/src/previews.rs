//! Previews: who wants to see a video while it is made, and the pictures on their way.
//!
//! In memory only. A worker asks [`Queue::previews_wanted`] before it makes one, so that nobody's wish costs nothing.

use crate::{Lease, Queue, Topic, VideoId};

/// A wish to see previews of a topic's videos; dropping it takes it back.
#[derive(Debug)]
pub struct PreviewWish {
    queue: Queue,
    topic: Topic,
}

impl Drop for PreviewWish {
    fn drop(&mut self) {
        let mut wishes = self.queue.inner.hub.previews();
        if let Some(count) = wishes.get_mut(&self.topic) {
            *count -= 1;
            if *count == 0 {
                wishes.remove(&self.topic);
            }
        }
    }
}

impl Queue {
    /// Asks for previews of a topic's videos for as long as the wish is held.
    pub fn wish_previews(&self, topic: Topic) -> PreviewWish {
        *self.inner.hub.previews().entry(topic.clone()).or_default() += 1;
        PreviewWish { queue: self.clone(), topic }
    }

    /// Whether anybody wants to see previews of a running video.
    pub fn previews_wanted(&self, id: VideoId) -> bool {
        let owner = self.inner.hub.owner_of(id);
        self.inner.hub.previews().keys().any(|topic| topic.covers(id, owner.as_ref()))
    }

    /// Shows a picture of a running video, as JPEG, to whoever wants to see it. It is kept nowhere, and a worker
    /// that lost its lease shows nothing.
    pub fn show_preview(&self, lease: &Lease, step: u32, jpeg: Vec<u8>) {
        self.inner.hub.preview(lease, step, jpeg);
    }
}
