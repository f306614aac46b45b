//! Where a video stands in the line, and how long until it is finished, by what was measured.
//!
//! Relies on the index `videos_by_turn`, which holds all that is summed here.

use std::collections::HashMap;

use crate::{Estimate, Queue, Result, Status, Video, VideoId, VideoParams};

/// What lies before a waiting video, itself included.
#[derive(Debug, Clone, Copy)]
struct Place {
    position: u32,
    cost: f64,
}

impl Queue {
    /// The place of a video and the time until it is finished.
    pub async fn estimate(&self, video: &Video) -> Result<Estimate> {
        let place: Option<(u32, f64)> = match video.status {
            Status::Queued => {
                sqlx::query_as(
                    "SELECT count(*), coalesce(sum(cost), 0.0) FROM videos
                     WHERE status = 'queued'
                           AND (priority > ?1 OR (priority = ?1 AND (turn < ?2 OR (turn = ?2 AND id <= ?3))))",
                )
                .bind(video.priority)
                .bind(video.turn)
                .bind(video.id.to_string())
                .fetch_optional(&self.inner.readers)
                .await?
            }
            _ => None,
        };
        // It may have been claimed since it was read.
        let place =
            place.filter(|(position, _)| *position > 0).map(|(position, cost)| Place { position, cost });
        Ok(self.estimate_at(video, place))
    }

    /// The same for many, in their order; one look at the line for all of them.
    pub async fn estimates(&self, videos: &[Video]) -> Result<Vec<Estimate>> {
        let waiting: Vec<String> =
            videos.iter().filter(|v| v.status == Status::Queued).map(|v| v.id.to_string()).collect();
        let mut places: HashMap<VideoId, Place> = HashMap::new();
        if !waiting.is_empty() {
            let rows: Vec<(String, u32, f64)> = sqlx::query_as(
                "SELECT id, position, cost FROM (
                     SELECT id, row_number() OVER line AS position, sum(cost) OVER line AS cost
                     FROM videos WHERE status = 'queued'
                     WINDOW line AS (ORDER BY priority DESC, turn, id ROWS UNBOUNDED PRECEDING))
                 WHERE id IN (SELECT value FROM json_each(?))",
            )
            .bind(crate::queue::to_json(&waiting))
            .fetch_all(&self.inner.readers)
            .await?;
            for (id, position, cost) in rows {
                places.insert(id.parse()?, Place { position, cost });
            }
        }
        Ok(videos.iter().map(|video| self.estimate_at(video, places.get(&video.id).copied())).collect())
    }

    /// How long until this running video is finished; none if it does not run, or nothing was measured yet. Costs
    /// no look at the database.
    pub fn remaining_ms(&self, id: VideoId) -> Option<u64> {
        self.inner.hub.remaining_ms(id).map(|ms| ms as u64)
    }

    /// How long until the line is empty, if nothing more comes.
    pub async fn line_eta_ms(&self) -> Result<Option<u64>> {
        let cost: f64 =
            sqlx::query_scalar("SELECT coalesce(sum(cost), 0.0) FROM videos WHERE status = 'queued'")
                .fetch_one(&self.inner.readers)
                .await?;
        Ok(self.line_ms(cost).map(|ms| ms as u64))
    }

    /// How long a step of such a video takes here; none before one was measured.
    pub fn step_ms(&self, params: &VideoParams) -> Option<f64> {
        self.inner.hub.pace(|pace| pace.step_ms(params.megapixels()))
    }

    fn estimate_at(&self, video: &Video, place: Option<Place>) -> Estimate {
        let eta_ms = match video.status {
            Status::Queued => place.and_then(|place| self.line_ms(place.cost)),
            Status::InProgress => self.inner.hub.remaining_ms(video.id),
            _ => None,
        };
        Estimate { queue_position: place.map(|place| place.position), eta_ms: eta_ms.map(|ms| ms as u64) }
    }

    /// What runs, and then so much of what waits.
    fn line_ms(&self, cost: f64) -> Option<f64> {
        let hub = &self.inner.hub;
        hub.pace(|pace| pace.waiting_ms(cost)).map(|waiting| waiting + hub.all_remaining_ms())
    }
}
