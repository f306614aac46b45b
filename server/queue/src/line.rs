//! The line of waiting videos, in memory: what a video's place and its time to go are counted from.
//!
//! Read from the table at the start and kept up by the news of every change, which come in the order of the commits.
//! Counting ten thousand places here takes a tenth of a millisecond, and took two in the table. Claims and limits ask
//! the table: this is only told to people.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use crate::{Status, Video, VideoId};

/// Where a video stands: by priority, then by turn, then by age, as the claim has it.
type Place = (Reverse<i32>, i64, VideoId);

/// Where a video stands in the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ahead {
    pub(crate) position: u32,
    /// How long until it is finished; none before anything was measured.
    pub(crate) eta_ms: Option<f64>,
}

/// When each worker is free, in milliseconds from now, if each next video goes to the one that is free first.
#[derive(Debug, Clone)]
pub(crate) struct Workers {
    free_ms: Vec<f64>,
}

impl Workers {
    /// So many, at least one, all free now.
    pub(crate) fn free(count: u32) -> Self {
        Self { free_ms: vec![0.0; count.max(1) as usize] }
    }

    /// Gives out a video that takes so long; when it will be finished.
    pub(crate) fn take(&mut self, ms: f64) -> f64 {
        let first = self.free_ms.iter_mut().min_by(|a, b| a.total_cmp(b));
        first.map_or(ms, |free_ms| {
            *free_ms += ms;
            *free_ms
        })
    }

    /// When all are free.
    pub(crate) fn all_free_ms(&self) -> f64 {
        self.free_ms.iter().copied().fold(0.0, f64::max)
    }
}

/// The videos that wait, and what each costs.
#[derive(Debug, Default)]
pub(crate) struct Line {
    places: HashMap<VideoId, Place>,
    costs: BTreeMap<Place, f64>,
}

impl Line {
    /// The video is now as it is here.
    pub(crate) fn changed(&mut self, video: &Video) {
        if let Some(place) = self.places.remove(&video.id) {
            self.costs.remove(&place);
        }
        if video.status == Status::Queued {
            let place = (Reverse(video.priority), video.turn, video.id);
            self.places.insert(video.id, place);
            self.costs.insert(place, f64::from(video.params.num_inference_steps) * video.params.megapixels());
        }
    }

    /// Where these videos stand, those among them that wait; one walk along the line for all. A unit of cost takes
    /// so many milliseconds.
    pub(crate) fn ahead(
        &self,
        ids: impl Iterator<Item = VideoId>,
        mut workers: Workers,
        ms_per_cost: Option<f64>,
    ) -> HashMap<VideoId, Ahead> {
        let wanted: BTreeMap<Place, VideoId> =
            ids.filter_map(|id| self.places.get(&id).map(|place| (*place, id))).collect();
        let Some((last, _)) = wanted.last_key_value() else { return HashMap::new() };
        let mut ahead = HashMap::with_capacity(wanted.len());
        let mut wanted = wanted.iter().peekable();
        for (before, (place, cost)) in self.costs.range(..=last).enumerate() {
            let eta_ms = ms_per_cost.map(|ms| workers.take(ms * cost));
            if let Some((_, id)) = wanted.next_if(|(next, _)| *next == place) {
                ahead.insert(*id, Ahead { position: before as u32 + 1, eta_ms });
            }
        }
        ahead
    }

    /// How long until all of it is made.
    pub(crate) fn all_ms(&self, mut workers: Workers, ms_per_cost: f64) -> f64 {
        for cost in self.costs.values() {
            workers.take(ms_per_cost * cost);
        }
        workers.all_free_ms()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
