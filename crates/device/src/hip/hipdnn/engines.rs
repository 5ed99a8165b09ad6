//! Engines: those that the library's plugins brought, and those that take a graph, each made a plan.

use super::numbers::{FALLBACK, attribute, class, kind};
use crate::dl::{CallError, text};
use crate::gpu::dnn::{ASKED, Builder, Descriptor, Dnn, KEPT, Outcome, Plan, Started, WORKSPACE};
use std::ffi::c_char;
use std::sync::Arc;

/// Where the library looks for plugins: beside itself, or in the folder that a variable names.
pub(in super::super) const PLUGINS: &str = "hipdnn_plugins/engines";
pub(in super::super) const FOLDER: &str = "HIPDNN_PLUGIN_DIR";

/// Most engines that are asked about.
const MOST: usize = 256;

/// An engine of a plugin.
#[derive(Debug)]
pub(super) struct Engine {
    /// A hash of its name.
    id: i64,
    name: String,
    plugin: String,
    version: String,
}

impl Engine {
    /// All that are loaded; None where the library does not tell.
    pub(super) fn all(started: &Started) -> Option<Vec<Self>> {
        let mut count = 0;
        // SAFETY: the handle is alive; writes one number.
        unsafe { started.api.engine_count(started.handle, &mut count) }.ok()?;
        (0..count.min(MOST)).map(|index| Self::read(started, index)).collect()
    }

    fn read(started: &Started, index: usize) -> Option<Self> {
        let mut id = 0;
        let mut texts = [[0 as c_char; 256]; 4];
        let mut rooms = texts.map(|text| text.len() - 1);
        let [name, plugin, version, of_kind] = &mut texts;
        let [name_room, plugin_room, version_room, kind_room] = &mut rooms;
        // SAFETY: the handle is alive; each text is written up to the room that is told with it, which leaves the last byte 0.
        let answer = unsafe {
            started.api.engine_info(
                started.handle,
                index,
                &mut id,
                name.as_mut_ptr(),
                name_room,
                plugin.as_mut_ptr(),
                plugin_room,
                version.as_mut_ptr(),
                version_room,
                of_kind.as_mut_ptr(),
                kind_room,
            )
        };
        answer.ok()?;
        // SAFETY: terminated (above).
        let [name, plugin, version, _] = texts.each_ref().map(|t| unsafe { text(t.as_ptr()) });
        Some(Self { id, name, plugin, version })
    }

    /// `loaded are ASM_SDPA_ENGINE, MIOPEN_ENGINE`, for the reason of a skip.
    pub(super) fn list(engines: Option<&[Self]>) -> String {
        match engines {
            None => "it does not say which are loaded".into(),
            Some([]) => format!("it has loaded none: its plugins are looked for in {PLUGINS} beside it, or where {FOLDER} says"),
            Some(engines) => {
                format!("loaded are {}", engines.iter().map(|engine| engine.name.as_str()).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// `ASM_SDPA_ENGINE (hip_kernel_provider 1.0.0)`.
    fn describe(&self) -> String {
        format!("{} ({} {})", self.name, self.plugin, self.version)
    }
}

/// Plans of a graph, the library's favourite first. None, with what it said last, where no engine takes it.
pub(super) fn plans(api: &Arc<Dnn>, graph: &Descriptor, engines: Option<&[Engine]>) -> Result<Vec<Plan>, Option<CallError>> {
    let ranking = Builder::new(api, kind::HEURISTIC)
        .part(attribute::HEURISTIC_GRAPH, graph)
        .code(attribute::HEURISTIC_MODE, class::HEURISTIC_MODE, FALLBACK)
        .finish()?;
    let (mut kept, mut said): (Vec<Plan>, _) = (Vec::new(), None);
    for configuration in ranking.parts(attribute::HEURISTIC_RESULTS, kind::ENGINE_CONFIG, ASKED)? {
        match plan(api, graph, &configuration, engines) {
            Ok(Some(plan)) if kept.len() < KEPT => kept.push(plan),
            Ok(_) => {}
            Err(error) => said = Some(error),
        }
    }
    if kept.is_empty() { Err(said) } else { Ok(kept) }
}

/// A configuration that the ranking left open, made a plan; None for one that wants too much.
fn plan(api: &Arc<Dnn>, graph: &Descriptor, configuration: &Descriptor, engines: Option<&[Engine]>) -> Outcome<Option<Plan>> {
    configuration.close()?;
    let id = configuration.part(attribute::CONFIG_ENGINE)?.number(attribute::ENGINE_INDEX)?;
    let plan = Builder::new(api, kind::PLAN).part(attribute::PLAN_CONFIG, configuration).finish()?;
    let workspace = plan.number(attribute::PLAN_WORKSPACE)?;
    let engine = engines.unwrap_or_default().iter().find(|engine| engine.id == id).map(Engine::describe);
    let engine = engine.unwrap_or_else(|| format!("engine {id:#018x}"));
    Ok((0..=WORKSPACE).contains(&workspace).then(|| Plan {
        name: format!("{engine}, workspace {workspace}"),
        workspace: workspace as usize,
        plan,
        _graph: graph.clone(),
    }))
}
