//! A graph of operations, finished, and the GPU that it is for.
//!
//! Relies on [`super::descriptor`]; must not know how its operations came about, or how it is executed.

use std::sync::Arc;

use super::descriptor::Descriptor;
use super::library::{Handle, Library};
use super::sys::{self, attribute, value_type};
use super::{Engine, Notes};
use crate::{Dtype, Result};

/// The GPU that graphs are planned for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The one behind a handle: plans can be executed.
    Handle(&'a Handle),
    /// One that need not be there: plans tell what would be possible.
    Described(&'a TargetDescription),
}

/// A GPU's properties.
#[derive(Debug)]
pub struct TargetDescription {
    library: Library,
    properties: Descriptor,
}

impl TargetDescription {
    /// From cuDNN's own form of them, a JSON object.
    ///
    /// # Errors
    /// cuDNN's words if it misses a key.
    pub fn from_json(library: &Library, json: &str) -> Result<Self> {
        let mut properties = Descriptor::new(library, sys::DEVICEPROP)?;
        properties.set_chars(attribute::DEVICEPROP_JSON_REPRESENTATION, json)?;
        Ok(Self { library: library.clone(), properties: properties.finalize()? })
    }
}

impl Target<'_> {
    pub(super) fn library(&self) -> &Library {
        match self {
            Self::Handle(handle) => handle.library(),
            Self::Described(description) => &description.library,
        }
    }

    /// Names the GPU in a descriptor that takes either a handle or a description.
    pub(super) fn set_in(&self, descriptor: &mut Descriptor, handle: u32, properties: u32) -> Result<()> {
        match self {
            Self::Handle(value) => descriptor.set_handle(handle, value),
            Self::Described(description) => {
                descriptor.set_descriptors(properties, &[&description.properties])
            }
        }
    }
}

/// A tensor that an execution is given the address of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Names it in an execution.
    pub id: i64,
    /// As in messages.
    pub name: &'static str,
    /// Of its elements.
    pub dtype: Dtype,
    /// Logical sizes.
    pub dims: Vec<i64>,
    /// For each of `dims`, in elements.
    pub strides: Vec<i64>,
}

impl Operand {
    /// From the first byte to behind the last that an execution touches.
    pub fn span_bytes(&self) -> usize {
        let last: i64 = self.dims.iter().zip(&self.strides).map(|(dim, stride)| (dim - 1) * stride).sum();
        (last as usize + 1) * self.dtype.bytes()
    }
}

/// A finished graph of operations. Clones are the same graph.
#[derive(Clone, Debug)]
pub(super) struct Graph(pub(super) Arc<Parts>);

/// What a graph is made of. cuDNN's manual leaves open how much of it a plan refers to, so all of it is kept.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) name: &'static str,
    pub(super) graph: Descriptor,
    /// Tensors and operations.
    pub(super) _kept: Vec<Descriptor>,
    /// What an execution is given, by id.
    pub(super) operands: Vec<Operand>,
    /// Numbers that the graph itself holds, by id; read when an execution is enqueued.
    pub(super) constants: Vec<(i64, f32)>,
}

/// Which of cuDNN's engines are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Search {
    /// What the heuristics propose, best first.
    Proposed,
    /// What works in general, for graphs that the heuristics propose little or nothing for.
    Fallback,
}

impl Graph {
    /// The engines that can compute it and keep to its precision, best first; none if cuDNN cannot.
    pub(super) fn engines(
        &self,
        target: &Target<'_>,
        search: Search,
        excluded: Notes,
    ) -> Result<Vec<Engine>> {
        let mut heuristics = Descriptor::new(target.library(), sys::ENGINEHEUR)?;
        heuristics.set_descriptors(attribute::ENGINEHEUR_OPERATION_GRAPH, &[&self.0.graph])?;
        let mode = match search {
            Search::Proposed => sys::HEUR_MODE_A,
            Search::Fallback => sys::HEUR_MODE_FALLBACK,
        };
        heuristics.set_enum(attribute::ENGINEHEUR_MODE, value_type::HEUR_MODE, mode)?;
        if let Target::Described(description) = target {
            heuristics.set_descriptors(attribute::ENGINEHEUR_DEVICEPROP, &[&description.properties])?;
        }
        let heuristics = heuristics.finalize()?;
        let mut engines = Vec::new();
        for config in heuristics.descriptors(attribute::ENGINEHEUR_RESULTS, sys::ENGINECFG)? {
            let engine = Engine::new(self.clone(), config)?;
            if !engine.notes().intersects(excluded) {
                engines.push(engine);
            }
        }
        Ok(engines)
    }
}
