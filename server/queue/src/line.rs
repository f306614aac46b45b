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

/// What lies before a video, itself included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ahead {
    pub(crate) position: u32,
    pub(crate) cost: f64,
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

    /// What lies before these videos, of those among them that wait; one walk along the line for all.
    pub(crate) fn ahead(&self, ids: impl Iterator<Item = VideoId>) -> HashMap<VideoId, Ahead> {
        let wanted: BTreeMap<Place, VideoId> =
            ids.filter_map(|id| self.places.get(&id).map(|place| (*place, id))).collect();
        let Some((last, _)) = wanted.last_key_value() else { return HashMap::new() };
        let mut ahead = HashMap::with_capacity(wanted.len());
        let mut wanted = wanted.iter().peekable();
        let mut cost = 0.0;
        for (before, (place, own)) in self.costs.range(..=last).enumerate() {
            cost += own;
            if let Some((_, id)) = wanted.next_if(|(next, _)| *next == place) {
                ahead.insert(*id, Ahead { position: before as u32 + 1, cost });
            }
        }
        ahead
    }

    /// What all of it costs.
    pub(crate) fn cost(&self) -> f64 {
        self.costs.values().sum()
    }
}
