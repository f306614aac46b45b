//! Layers that lie in pinned host memory and pass through the device two at a time.
//!
//! While the device computes with one, the next is copied beside it on a second stream: with 17,776 tokens a block of
//! the transformer computes longer than it takes to copy, so that streaming costs memory on the host and no time.
//! Must not know what a layer computes.

use std::sync::{Mutex, PoisonError};

use device::{CopyStream, Device, Dtype, Event, Pinned, Tensor};

use crate::Result;

/// Where each tensor of a layer begins within a slot: as a device's own allocations do.
const ALIGNMENT_BYTES: usize = 512;

/// Where a model's layers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// On the device.
    #[default]
    Resident,
    /// In the host's memory, two at a time on the device.
    Streamed,
}

/// What holds tensors that may lie elsewhere.
pub(crate) trait Layer: Send {
    /// All of them, always in the same order; each may be replaced by another of the same dimensions and dtype.
    fn tensors_mut(&mut self) -> Vec<&mut Tensor>;
}

/// The layers of a model, in their order.
pub(crate) enum Layers<L> {
    Resident(Vec<L>),
    Streamed(Box<Streamed<L>>),
}

impl<L: Layer> Layers<L> {
    /// Makes `count` layers, each by `load`.
    pub(crate) fn load(
        device: &Device,
        residence: Residence,
        count: usize,
        mut load: impl FnMut(usize) -> Result<L>,
    ) -> Result<Self> {
        match residence {
            Residence::Resident => Ok(Self::Resident((0..count).map(load).collect::<Result<_>>()?)),
            Residence::Streamed => {
                let mut hosted = Vec::with_capacity(count);
                for index in 0..count {
                    hosted.push(Hosted::new(device, &mut load(index)?)?);
                }
                // Every layer has the first one's shapes.
                Ok(Self::Streamed(Box::new(Streamed::new(device, hosted, || load(0))?)))
            }
        }
    }

    /// Calls `f` with each layer in turn; streamed layers keep their room on the device, the first one is copied ahead.
    pub(crate) fn for_each(&self, f: impl FnMut(usize, &L) -> Result<()>) -> Result<()> {
        self.pass(true, f)
    }

    /// The same for a model that has nothing to do for long afterwards: of streamed layers nothing stays.
    pub(crate) fn for_each_once(&self, f: impl FnMut(usize, &L) -> Result<()>) -> Result<()> {
        self.pass(false, f)
    }

    fn pass(&self, keep: bool, mut f: impl FnMut(usize, &L) -> Result<()>) -> Result<()> {
        match self {
            Self::Resident(layers) => layers.iter().enumerate().try_for_each(|(i, layer)| f(i, layer)),
            Self::Streamed(streamed) => streamed.pass(keep, f),
        }
    }
}

/// One layer's tensors behind each other in pinned memory.
struct Hosted(Pinned);

/// The place of a tensor in a slot.
struct Place {
    offset_bytes: usize,
    dims: Vec<usize>,
    dtype: Dtype,
}

/// Where tensors lie in a slot, and how large it is.
fn places(tensors: &[&mut Tensor]) -> (Vec<Place>, usize) {
    let mut end = 0;
    let places = tensors.iter().map(|tensor| {
        let offset_bytes = end;
        end += tensor.bytes().next_multiple_of(ALIGNMENT_BYTES);
        Place { offset_bytes, dims: tensor.dims().to_vec(), dtype: tensor.dtype() }
    });
    (places.collect(), end)
}

impl Hosted {
    fn new(device: &Device, layer: &mut impl Layer) -> Result<Self> {
        let tensors = layer.tensors_mut();
        let (places, bytes) = places(&tensors);
        let mut pinned = Pinned::new(device, bytes)?;
        for (tensor, place) in tensors.iter().zip(&places) {
            pinned.store(place.offset_bytes, tensor)?;
        }
        Ok(Self(pinned))
    }
}

/// What a layer takes on the device while it is there.
struct Room {
    places: Vec<Place>,
    bytes: usize,
    /// Stands in a layer that has no memory.
    nothing: Tensor,
}

/// A layer that computes from whatever was copied to its memory.
struct Slot<L> {
    /// None between passes that are far apart.
    memory: Option<Tensor>,
    layer: L,
    /// After the device's last use.
    free: Option<Event>,
}

impl<L: Layer> Slot<L> {
    /// Takes memory, unless it has some.
    fn occupy(&mut self, device: &Device, room: &Room) -> Result<&Tensor> {
        if self.memory.is_none() {
            let memory = Tensor::empty(device, &[room.bytes], Dtype::U8)?;
            for (tensor, place) in self.layer.tensors_mut().into_iter().zip(&room.places) {
                *tensor = memory.view(place.offset_bytes, &place.dims, place.dtype)?;
            }
            // It comes from the device's own order of work; copies into it must come after.
            self.free = Some(Event::record(device)?);
            self.memory = Some(memory);
        }
        Ok(self.memory.as_ref().expect("it was taken above"))
    }

    /// Gives the memory back, which the device may still read: what takes it next comes later in its order of work.
    fn vacate(&mut self, room: &Room) {
        for tensor in self.layer.tensors_mut() {
            *tensor = room.nothing.clone();
        }
        (self.memory, self.free) = (None, None);
    }
}

pub(crate) struct Streamed<L> {
    /// Dropped, and so waited for, before the memory that it copies from and to.
    copies: CopyStream,
    hosted: Vec<Hosted>,
    device: Device,
    room: Room,
    state: Mutex<State<L>>,
}

struct State<L> {
    slots: [Slot<L>; 2],
    /// The slot that the next layer goes to.
    next: usize,
    /// Layer 0, copied ahead at the end of the last pass: its slot and the event after the copy.
    ahead: Option<(usize, Event)>,
}

impl<L: Layer> Streamed<L> {
    fn new(device: &Device, hosted: Vec<Hosted>, mut load: impl FnMut() -> Result<L>) -> Result<Self> {
        let mut first = load()?;
        let (places, bytes) = places(&first.tensors_mut());
        let room = Room { places, bytes, nothing: Tensor::empty(device, &[0], Dtype::U8)? };
        let slot = |layer| {
            let mut slot = Slot { memory: None, layer, free: None };
            slot.vacate(&room);
            slot
        };
        let slots = [slot(first), slot(load()?)];
        let state = Mutex::new(State { slots, next: 0, ahead: None });
        Ok(Self { copies: CopyStream::new(device)?, hosted, device: device.clone(), room, state })
    }

    /// Starts to copy layer `index` into the next slot.
    fn fetch(&self, state: &mut State<L>, index: usize) -> Result<(usize, Event)> {
        let number = state.next;
        state.next = 1 - number;
        let slot = &mut state.slots[number];
        let memory = slot.occupy(&self.device, &self.room)?.clone();
        if let Some(free) = slot.free.take() {
            self.copies.wait_for_device(&free)?;
        }
        self.copies.upload(&memory, &self.hosted[index].0, 0)?;
        Ok((number, self.copies.record()?))
    }

    fn pass(&self, keep: bool, f: impl FnMut(usize, &L) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.pass_through(&mut state, keep, f);
        if !keep {
            // Each copy was waited for by the device before a layer was used; none was begun ahead.
            state.slots.iter_mut().for_each(|slot| slot.vacate(&self.room));
        }
        outcome
    }

    fn pass_through(
        &self,
        state: &mut State<L>,
        keep: bool,
        mut f: impl FnMut(usize, &L) -> Result<()>,
    ) -> Result<()> {
        let count = self.hosted.len();
        let mut ready = match state.ahead.take() {
            Some(ahead) => Some(ahead),
            None if count > 0 => Some(self.fetch(state, 0)?),
            None => None,
        };
        for index in 0..count {
            let (number, copied) = ready.take().expect("each pass fetches the next layer");
            self.copies.device_waits(&copied)?;
            let outcome = f(index, &state.slots[number].layer);
            state.slots[number].free = Some(Event::record(&self.device)?);
            outcome?;
            if keep || index + 1 < count {
                // After the last layer comes the first one of the next pass.
                ready = Some(self.fetch(state, (index + 1) % count)?);
            }
        }
        state.ahead = ready;
        Ok(())
    }
}
