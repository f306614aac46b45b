//! The plans of one handle, each made when its work first comes.
//!
//! What cuDNN cannot do is remembered as well, so that it is asked once. Relies on [`super::plan`]; must not know where
//! operands and workspaces come from.

use std::time::Duration;

use super::plan::{Plan, fastest_plan, first_plan};
use super::{ConvGraph, Engine, Handle, SdpaGraph, Target};
use crate::{Error, Result};

/// Engines that are measured, of those that cuDNN prefers.
const MEASURED: usize = 4;

/// A piece of work: all that a plan depends on.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Attention.
    Sdpa(SdpaGraph),
    /// A convolution.
    Conv(ConvGraph),
}

/// Plans by their work.
#[derive(Debug)]
pub struct Plans {
    /// A model has some dozens, so that a list is looked through.
    known: Vec<(Work, Option<Plan>)>,
    /// Behind the plans, which are dropped first.
    handle: Handle,
}

/// Executes a plan and says how long that took.
pub type Timing<'a> = &'a dyn Fn(&Handle, &Plan) -> Result<Duration>;

impl Work {
    /// As of [`SdpaGraph::engines`] and [`ConvGraph::engines`].
    ///
    /// # Errors
    /// As there.
    pub fn engines(&self, target: &Target<'_>) -> Result<Vec<Engine>> {
        match self {
            Self::Sdpa(graph) => graph.engines(target),
            Self::Conv(graph) => graph.engines(target),
        }
    }
}

impl Plans {
    /// None yet.
    pub fn new(handle: Handle) -> Self {
        Self { known: Vec::new(), handle }
    }

    /// Does the work by `execute`, which is given its plan; false if cuDNN cannot do it, now or before. The plan is the
    /// first that can be made with that much workspace, in every process the same; with `timing` the fastest of some.
    ///
    /// # Errors
    /// What cuDNN says, unless it is that it does not support the work; what `execute` and `timing` say.
    pub fn run(
        &mut self,
        work: &Work,
        workspace_limit_bytes: usize,
        timing: Option<Timing<'_>>,
        execute: impl FnOnce(&Handle, &Plan) -> Result<()>,
    ) -> Result<bool> {
        let found = self.known.iter().position(|(known, _)| known == work);
        let index = found.unwrap_or(self.known.len());
        if found.is_none() {
            let plan = self.choose(work, workspace_limit_bytes, timing)?;
            self.known.push((work.clone(), plan));
        }
        let plan = &mut self.known[index].1;
        let Some(ready) = plan else { return Ok(false) };
        match execute(&self.handle, ready) {
            Err(Error::Unsupported { .. }) => {
                *plan = None;
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        }
    }

    /// From now on the work counts as one that cuDNN cannot do.
    pub fn give_up(&mut self, work: &Work) {
        self.known.retain(|(known, _)| known != work);
        self.known.push((work.clone(), None));
    }

    fn choose(&self, work: &Work, limit_bytes: usize, timing: Option<Timing<'_>>) -> Result<Option<Plan>> {
        let target = Target::Handle(&self.handle);
        let chosen = work.engines(&target).and_then(|engines| match timing {
            None => first_plan(engines, &target, limit_bytes),
            Some(time) => {
                fastest_plan(engines, &target, limit_bytes, MEASURED, |plan| time(&self.handle, plan))
            }
        });
        match chosen {
            Ok(plan) => Ok(Some(plan)),
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
