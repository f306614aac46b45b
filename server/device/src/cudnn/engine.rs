//! One way in which cuDNN can compute a graph, and what it says about it.
//!
//! Relies on [`super::graph`]; must not know which properties a graph asks for.

use super::Target;
use super::descriptor::Descriptor;
use super::graph::Graph;
use super::plan::Plan;
use super::sys::{self, attribute, value_type};
use crate::Result;

/// Properties of an engine, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes(u32);

impl Notes {
    /// Uses tensor cores; with f32 operands that is TF32, with 10 bits of mantissa.
    pub const TENSOR_CORES: Self = Self(1 << sys::NOTE_TENSOR_CORE);
    /// Rounds its inputs to a smaller type.
    pub const ROUNDED_INPUTS: Self = Self(1 << sys::NOTE_DOWN_CONVERT_INPUTS);
    /// Sums in less than f32.
    pub const ROUNDED_SUMS: Self = Self(1 << sys::NOTE_REDUCED_PRECISION_REDUCTION);
    /// Two runs may differ.
    pub const NONDETERMINISTIC: Self = Self(1 << sys::NOTE_NONDETERMINISTIC);
    /// Computes by a transform (FFT, Winograd), which rounds what comes out of it.
    pub const TRANSFORMS: Self = Self(
        1 << sys::NOTE_FFT
            | 1 << sys::NOTE_WINOGRAD
            | 1 << sys::NOTE_WINOGRAD_TILE_4X4
            | 1 << sys::NOTE_WINOGRAD_TILE_6X6
            | 1 << sys::NOTE_WINOGRAD_TILE_13X13,
    );
    /// What no engine here may do: results are f32 sums over the operands as they are, and the same each time.
    pub(super) const UNWANTED: Self =
        Self::ROUNDED_INPUTS.union(Self::ROUNDED_SUMS).union(Self::NONDETERMINISTIC).union(Self::TRANSFORMS);
    /// Its kernel is compiled when the plan is made, which takes up to seconds.
    pub const COMPILED_AT_RUN_TIME: Self = Self(1 << (BEHAVIOR_SHIFT + sys::NOTE_RUNTIME_COMPILATION));

    /// All of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any is in both.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Notes that this program does not know are left out.
    fn from_lists(numerical: &[u32], behavior: &[u32]) -> Self {
        let bits = |notes: &[u32]| {
            notes.iter().filter(|note| **note < BEHAVIOR_SHIFT).fold(0, |bits, note| bits | 1 << note)
        };
        Self(bits(numerical) | bits(behavior) << BEHAVIOR_SHIFT)
    }
}

/// Numerical notes come first in the set, notes on behaviour from here.
const BEHAVIOR_SHIFT: u32 = 16;

impl std::fmt::Display for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (Self::TENSOR_CORES, "tensor cores"),
            (Self::ROUNDED_INPUTS, "rounded inputs"),
            (Self::ROUNDED_SUMS, "rounded sums"),
            (Self::NONDETERMINISTIC, "nondeterministic"),
            (Self::TRANSFORMS, "transforms"),
            (Self::COMPILED_AT_RUN_TIME, "compiled at run time"),
        ];
        let found: Vec<_> =
            names.iter().filter(|(note, _)| self.intersects(*note)).map(|(_, name)| *name).collect();
        f.write_str(&found.join(", "))
    }
}

/// An engine with its knobs set, for one graph.
#[derive(Debug)]
pub struct Engine {
    graph: Graph,
    config: Descriptor,
    number: i64,
    notes: Notes,
    /// Among those proposed for its work.
    pub(super) place: usize,
}

impl Engine {
    pub(super) fn new(graph: Graph, config: Descriptor) -> Result<Self> {
        let (mut number, mut notes) = (-1, Notes::default());
        if let Some(engine) = config.descriptor(attribute::ENGINECFG_ENGINE, sys::ENGINE)? {
            number = engine.i64(attribute::ENGINE_GLOBAL_INDEX)?;
            let numerical = engine.enums(attribute::ENGINE_NUMERICAL_NOTE, value_type::NUMERICAL_NOTE)?;
            let behavior = engine.enums(attribute::ENGINE_BEHAVIOR_NOTE, value_type::BEHAVIOR_NOTE)?;
            notes = Notes::from_lists(&numerical, &behavior);
        }
        Ok(Self { graph, config, number, notes, place: 0 })
    }

    /// cuDNN's own number for it, which means something within one version only.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// What cuDNN says about it.
    pub fn notes(&self) -> Notes {
        self.notes
    }

    /// Of the form of the graph that it computes.
    pub fn graph_name(&self) -> &'static str {
        self.graph.0.name
    }

    /// Makes it ready to execute; the target is the one that it was found for.
    ///
    /// # Errors
    /// What cuDNN says. It proposes engines that then turn out not to work.
    pub fn plan(self, target: &Target<'_>) -> Result<Plan> {
        let mut plan = Descriptor::new(target.library(), sys::EXECUTION_PLAN)?;
        target.set_in(&mut plan, attribute::EXECUTION_PLAN_HANDLE, attribute::EXECUTION_PLAN_DEVICEPROP)?;
        plan.set_descriptors(attribute::EXECUTION_PLAN_ENGINE_CONFIG, &[&self.config])?;
        Plan::new(plan.finalize()?, self)
    }

    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }
}
