//! Engines for an operation, as cuDNN ranks them: each configuration of knobs that a heuristic names, compiled for the device.

use super::numbers::{MODES, attribute, class, kind, knob};
use super::operation::{Operation, operations};
use crate::dl::CallError;
use crate::gpu::dnn::{ASKED, Builder, Descriptor, Dnn, KEPT, Outcome, Plan, WORKSPACE};
use crate::gpu::sys::Handle;
use std::sync::Arc;

/// What a plan is for.
pub(super) enum Target {
    /// The device of a started library.
    Library(Handle),
    /// A device that is only described: plans can be made and not run.
    #[cfg(test)]
    Described(Descriptor),
}

impl Target {
    fn library(&self) -> Option<Handle> {
        match self {
            Self::Library(handle) => Some(*handle),
            #[cfg(test)]
            Self::Described(_) => None,
        }
    }

    /// Says so to a heuristic.
    fn ranking(&self, heuristic: Builder) -> Builder {
        match self {
            Self::Library(_) => heuristic,
            #[cfg(test)]
            Self::Described(properties) => heuristic.part(attribute::HEURISTIC_DEVICE, properties),
        }
    }

    /// Says so to a plan.
    fn planning(&self, plan: Builder) -> Builder {
        match self {
            Self::Library(handle) => plan.library(attribute::PLAN_HANDLE, *handle),
            #[cfg(test)]
            Self::Described(properties) => plan.part(attribute::PLAN_DEVICE, properties),
        }
    }
}

/// An engine with its knobs, ready to run.
pub(super) struct Candidate {
    pub(super) plan: Descriptor,
    pub(super) workspace: usize,
    pub(super) engine: i64,
    /// Type and value.
    pub(super) knobs: Vec<(i32, i64)>,
    /// Which heuristic named it first.
    pub(super) mode: i32,
    graph: Descriptor,
}

impl Candidate {
    /// `engine 9, tile m 3, tile n 2, workspace 256`: numbers as the library has them.
    pub(super) fn describe(&self) -> String {
        let knobs = self.knobs.iter().map(|(kind, value)| format!("{} {value}, ", knob(*kind))).collect::<String>();
        let heuristic = if self.mode == MODES[2] { ", of the fallback list" } else { "" };
        format!("engine {}, {knobs}workspace {}{heuristic}", self.engine, self.workspace)
    }

    pub(super) fn into_plan(self) -> Plan {
        Plan { name: self.describe(), workspace: self.workspace, plan: self.plan, _graph: self.graph }
    }
}

/// Candidates, the library's favourite first. None, with what it said last, where no engine takes it.
pub(super) fn candidates(
    api: &Arc<Dnn>,
    target: &Target,
    operation: &Operation,
) -> std::result::Result<Vec<Candidate>, Option<CallError>> {
    let graph = operations(api, target.library(), std::slice::from_ref(&operation.descriptor))?;
    let (mut kept, mut said): (Vec<Candidate>, _) = (Vec::new(), None);
    for mode in MODES {
        if mode == MODES[2] && !kept.is_empty() {
            break;
        }
        let heuristic = Builder::new(api, kind::HEURISTIC).part(attribute::HEURISTIC_GRAPH, &graph).code(
            attribute::HEURISTIC_MODE,
            class::HEURISTIC_MODE,
            mode,
        );
        let configurations = target
            .ranking(heuristic)
            .finish()
            .and_then(|heuristic| heuristic.parts(attribute::HEURISTIC_RESULTS, kind::ENGINE_CONFIG, ASKED));
        match configurations {
            Err(error) => said = Some(error),
            Ok(configurations) => {
                for configuration in configurations {
                    match candidate(api, target, mode, &graph, &configuration, &kept) {
                        Ok(Some(candidate)) if kept.len() < KEPT => kept.push(candidate),
                        Ok(_) => {}
                        Err(error) => said = Some(error),
                    }
                }
            }
        }
    }
    if kept.is_empty() { Err(said) } else { Ok(kept) }
}

/// A configuration made a plan; None for one that is there already, or wants too much.
fn candidate(
    api: &Arc<Dnn>,
    target: &Target,
    mode: i32,
    graph: &Descriptor,
    configuration: &Descriptor,
    kept: &[Candidate],
) -> Outcome<Option<Candidate>> {
    let engine = match configuration.parts(attribute::CONFIG_ENGINE, kind::ENGINE, 1)?.first() {
        Some(engine) => engine.number(attribute::ENGINE_INDEX)?,
        None => -1,
    };
    let knobs = configuration.parts(attribute::CONFIG_KNOBS, kind::KNOB, 32)?;
    let knobs = knobs
        .iter()
        .map(|k| Ok((k.code(attribute::KNOB_TYPE, class::KNOB_TYPE)?, k.number(attribute::KNOB_VALUE)?)))
        .collect::<Outcome<Vec<_>>>()?;
    if kept.len() >= KEPT || kept.iter().any(|k| k.engine == engine && k.knobs == knobs) {
        return Ok(None);
    }
    let plan = target.planning(Builder::new(api, kind::PLAN)).part(attribute::PLAN_CONFIG, configuration).finish()?;
    let workspace = plan.number(attribute::PLAN_WORKSPACE)?;
    Ok((0..=WORKSPACE).contains(&workspace).then(|| Candidate {
        plan,
        workspace: workspace as usize,
        engine,
        knobs,
        mode,
        graph: graph.clone(),
    }))
}
