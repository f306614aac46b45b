//! The plans of one handle, each made when its work first comes.
//!
//! An engine that turns out not to do its work gives way to the next; what none does is remembered as well, so that it is
//! asked once. Relies on [`super::plan`]; must not know where operands and workspaces come from.

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
    known: Vec<Known>,
    /// Behind the plans, which are dropped first.
    handle: Handle,
}

#[derive(Debug)]
struct Known {
    work: Work,
    plan: Option<Plan>,
    /// Places of engines that are not to be tried again.
    passed_over: Vec<usize>,
}

/// Executes a plan and says how long that took.
pub type Timing<'a> = &'a dyn Fn(&Handle, &Plan) -> Result<Duration>;

impl Work {
    /// As of [`SdpaGraph::engines`] and [`ConvGraph::engines`].
    ///
    /// # Errors
    /// As there.
    pub fn engines(&self, target: &Target<'_>) -> Result<Vec<Engine>> {
        let mut engines = match self {
            Self::Sdpa(graph) => graph.engines(target),
            Self::Conv(graph) => graph.engines(target),
        }?;
        engines.iter_mut().enumerate().for_each(|(place, engine)| engine.place = place);
        Ok(engines)
    }
}

impl Plans {
    /// None yet.
    pub fn new(handle: Handle) -> Self {
        Self { known: Vec::new(), handle }
    }

    /// Does the work by `execute`, which is given its plan; false if cuDNN cannot do it, now or before. The plan is the
    /// first that can be made with that much workspace and that `execute` does not find to be unsupported, in every
    /// process the same; with `timing` the fastest of some.
    ///
    /// # Errors
    /// What cuDNN says, unless it is that it does not support the work; what `execute` and `timing` say.
    pub fn run(
        &mut self,
        work: &Work,
        workspace_limit_bytes: usize,
        timing: Option<Timing<'_>>,
        mut execute: impl FnMut(&Handle, &Plan) -> Result<()>,
    ) -> Result<bool> {
        let found = self.known.iter().position(|known| known.work == *work);
        let index = found.unwrap_or(self.known.len());
        if found.is_none() {
            let plan = self.choose(work, &[], workspace_limit_bytes, timing)?;
            self.known.push(Known { work: work.clone(), plan, passed_over: Vec::new() });
        }
        while let Some(plan) = &self.known[index].plan {
            match execute(&self.handle, plan) {
                Err(Error::Unsupported { .. }) => self.replace(index, workspace_limit_bytes, timing)?,
                outcome => return outcome.map(|()| true),
            }
        }
        Ok(false)
    }

    /// From now on the work is done by the next engine; if there is none, it counts as one that cuDNN cannot do.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Lost`], with which no other engine is looked for.
    pub fn pass_over(
        &mut self,
        work: &Work,
        workspace_limit_bytes: usize,
        timing: Option<Timing<'_>>,
    ) -> Result<()> {
        if let Some(index) = self.known.iter().position(|known| known.work == *work) {
            return self.replace(index, workspace_limit_bytes, timing);
        }
        // No engine could be made ready.
        self.known.push(Known { work: work.clone(), plan: None, passed_over: Vec::new() });
        Ok(())
    }

    fn replace(&mut self, index: usize, limit_bytes: usize, timing: Option<Timing<'_>>) -> Result<()> {
        let known = &mut self.known[index];
        known.passed_over.extend(known.plan.take().map(|plan| plan.engine().place));
        let Known { work, passed_over, .. } = &self.known[index];
        self.known[index].plan = match self.choose(work, passed_over, limit_bytes, timing) {
            Err(error) if error.is_of_device() => return Err(error),
            chosen => chosen.unwrap_or(None),
        };
        Ok(())
    }

    fn choose(
        &self,
        work: &Work,
        passed_over: &[usize],
        limit_bytes: usize,
        timing: Option<Timing<'_>>,
    ) -> Result<Option<Plan>> {
        let target = Target::Handle(&self.handle);
        let chosen = work.engines(&target).and_then(|mut engines| {
            engines.retain(|engine| !passed_over.contains(&engine.place));
            match timing {
                None => first_plan(engines, &target, limit_bytes),
                Some(time) => {
                    fastest_plan(engines, &target, limit_bytes, MEASURED, |plan| time(&self.handle, plan))
                }
            }
        });
        match chosen {
            Ok(plan) => Ok(Some(plan)),
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
