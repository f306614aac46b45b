//! What a subscriber hears of the news: those of its topic, none of them twice.
//!
//! Relies on the hub for their order. Knows no SQL.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{Heard, News, NewsItem, Stage, Topic, Video, VideoId};

/// News of one topic, from the moment of subscribing.
///
/// Subscribe first, then read what there is and say so with [`Subscription::seen`]; then nothing is missed, and
/// nothing older is told again.
#[derive(Debug)]
pub struct Subscription {
    topic: Topic,
    news: broadcast::Receiver<Arc<NewsItem>>,
    seq: i64,
    seen: Option<Seen>,
}

/// How far a video is for a subscriber that has read it. Not the video itself: thousands may follow one.
#[derive(Debug)]
struct Seen {
    id: VideoId,
    attempt: u32,
    point: (Option<Stage>, u32, u8),
}

impl Subscription {
    pub(crate) fn new(topic: Topic, news: broadcast::Receiver<Arc<NewsItem>>) -> Self {
        Self { topic, news, seq: 0, seen: None }
    }

    /// Events up to `seq` are known to the subscriber, and so is this video as it is here: what they already contain
    /// is left out from here on.
    pub fn seen(&mut self, seq: i64, video: Option<&Video>) {
        self.seq = self.seq.max(seq);
        if let Some(video) = video {
            self.seen = Some(Seen { id: video.id, attempt: video.attempt, point: point(video) });
        }
    }

    /// The next news, or `None` when the queue is gone.
    pub async fn recv(&mut self) -> Option<Heard> {
        loop {
            match self.news.recv().await {
                Ok(item) if self.topic.covers(item.video_id, item.owner.as_ref()) && !self.is_old(&item) => {
                    return Some(Heard::News(item));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Heard::Lagged),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn is_old(&mut self, item: &NewsItem) -> bool {
        match &item.news {
            News::Event { event, .. } => {
                let old = event.seq <= self.seq;
                self.seq = self.seq.max(event.seq);
                old
            }
            News::Progress { attempt, progress, .. } => {
                self.seen.as_ref().filter(|seen| seen.id == item.video_id).is_some_and(|seen| {
                    *attempt < seen.attempt
                        || (*attempt == seen.attempt
                            && (Some(progress.stage), progress.step, progress.percent) <= seen.point)
                })
            }
            News::Preview { .. } => false,
        }
    }
}

/// How far a video is, to be compared.
pub(crate) fn point(video: &Video) -> (Option<Stage>, u32, u8) {
    (video.stage, video.step, video.progress)
}
