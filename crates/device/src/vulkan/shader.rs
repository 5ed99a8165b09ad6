//! From WGSL to a pipeline: naga checks the source and writes SPIR-V, and what a launch must match (workgroup, bindings, bytes of
//! arguments) is read off the checked module, so that a wrong launch is an error and not a crash.
//!
//! A kernel's storage buffers are its buffer arguments in the order of their binding numbers. All else is in its one
//! `var<immediate>`, a struct that begins with `grid: vec3<u32>`, the workgroups of the whole launch (which may run in parts),
//! followed by the scalars in the order of the arguments; a u64 is a `vec2<u32>`, low word first.

use super::failure;
use super::memory::Handle;
use super::stream::MOST_BINDINGS;
use crate::{DeviceError, Program, Result};
use ash::vk;
use naga::valid::{Capabilities, GlobalUse, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage, TypeInner};
use std::sync::Arc;

/// What naga made of an entry.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) entry: String,
    pub(super) spirv: Vec<u32>,
    pub(super) shape: Shape,
}

/// What a launch must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) block: [u32; 3],
    /// Binding numbers in use, ascending.
    pub(super) bindings: Vec<u32>,
    /// Size of the argument struct.
    pub(super) argument_bytes: u32,
    /// Workgroup memory.
    pub(super) shared_bytes: u32,
}

/// The whole source: directives first, as WGSL wants them, then the common part and the program, in which a definition replaces
/// the constant or the alias of its name. The program's lines come last and all of them, so that a message's line can be told.
pub(super) fn assemble(common: &str, source: &str, defines: &[(&str, String)]) -> String {
    let directive = |line: &&str| line.starts_with("enable ");
    let mut text = String::new();
    if defines.iter().any(|(_, value)| value == "u16") {
        text += "enable wgpu_int16;\n";
    }
    let body = common.lines().chain(source.lines().map(|l| if directive(&l) { "" } else { l }));
    for line in source.lines().filter(directive).chain(body) {
        let replaced = defines.iter().find_map(|(name, value)| {
            let is = |keyword: &str, end: char| {
                line.strip_prefix(keyword).and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with(end))
            };
            match (is("const ", ':'), is("alias ", ' ')) {
                (true, _) => Some(format!("const {name}: u32 = {value}u;")),
                (_, true) => Some(format!("alias {name} = {value};")),
                _ => None,
            }
        });
        text += replaced.as_deref().unwrap_or(line);
        text.push('\n');
    }
    text
}

/// A message about an assembled source with its line as the program's author counts, `before` lines of others being before it.
pub(super) fn in_program(message: String, before: usize) -> String {
    let line = message.strip_prefix("line ").and_then(|rest| {
        let (line, rest) = rest.split_once(": ")?;
        Some((line.parse::<usize>().ok()?.checked_sub(before).filter(|line| *line > 0)?, rest))
    });
    line.map(|(line, rest)| format!("line {line}: {rest}")).unwrap_or(message)
}

/// A message on one line, with where in the assembled source it is.
fn place(message: &str, at: Option<naga::SourceLocation>) -> String {
    at.map_or_else(|| message.to_owned(), |at| format!("line {}: {message}", at.line_number))
}

/// Compiles `entry`. The message of an error is naga's, with the line.
pub(super) fn compile(source: &str, entry: &str) -> std::result::Result<Option<Compiled>, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| place(e.message(), e.location(source)))?;
    let Some(index) = module.entry_points.iter().position(|e| e.name == entry) else { return Ok(None) };
    let capabilities = Capabilities::IMMEDIATES
        | Capabilities::SHADER_INT16
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SUBGROUP
        | Capabilities::SUBGROUP_BARRIER
        | Capabilities::COOPERATIVE_MATRIX;
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|e| {
        let why = std::iter::successors(Some(e.as_inner() as &dyn std::error::Error), |e| e.source());
        place(&why.map(ToString::to_string).collect::<Vec<_>>().join(": "), e.location(source))
    })?;
    let uses = info.get_entry_point(index);
    let layout = |ty| module.types[ty].inner.try_size(module.to_ctx()).unwrap_or(0);
    let (mut bindings, mut argument_bytes, mut shared_bytes) = (vec![], 0, 0);
    for (handle, global) in module.global_variables.iter() {
        if uses[handle] == GlobalUse::empty() {
            continue;
        }
        match (global.space, &global.binding) {
            (AddressSpace::Storage { .. }, Some(binding)) => bindings.push(binding.binding),
            (AddressSpace::WorkGroup, _) => shared_bytes += layout(global.ty),
            (AddressSpace::Immediate, _) => {
                let grid_first = matches!(&module.types[global.ty].inner, TypeInner::Struct { members, .. }
                    if members.first().is_some_and(|m| m.name.as_deref() == Some("grid")));
                if !grid_first {
                    return Err(format!("the arguments of {entry} do not begin with the grid"));
                }
                argument_bytes = layout(global.ty);
            }
            _ => {}
        }
    }
    bindings.sort_unstable();
    let options = naga::back::spv::Options {
        lang_version: (1, 5),
        flags: naga::back::spv::WriterFlags::empty(),
        // Kernels mind their bounds themselves: a check beside each access would be measured with it.
        bounds_check_policies: naga::proc::BoundsCheckPolicies::default(),
        zero_initialize_workgroup_memory: naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        use_storage_input_output_16: false,
        ..Default::default()
    };
    let pipeline = naga::back::spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned() };
    let spirv = naga::back::spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| format!("no SPIR-V: {e}"))?;
    let spirv = super::patch::tidy(&spirv).ok_or("naga's module cannot be read")?;
    let block = module.entry_points[index].workgroup_size;
    Ok(Some(Compiled { entry: entry.to_owned(), spirv, shape: Shape { block, bindings, argument_bytes, shared_bytes } }))
}

/// A compiled entry on a device.
pub(super) struct Pipeline {
    pub(super) handle: Arc<Handle>,
    pub(super) pipeline: vk::Pipeline,
    pub(super) layout: vk::PipelineLayout,
    pub(super) set: vk::DescriptorSetLayout,
    pub(super) shape: Shape,
}

impl Pipeline {
    /// Makes it; `subgroup` fixes the subgroup's size.
    pub(super) fn new(handle: &Arc<Handle>, program: &Program<'_>, compiled: Compiled, subgroup: Option<u32>) -> Result<Self> {
        let Compiled { entry, spirv, shape } = compiled;
        within(handle, program, &shape)?;
        let vk = &handle.vk;
        let slots: Vec<_> = shape
            .bindings
            .iter()
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(*binding)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&slots);
        // SAFETY: plain creation on an open device, here and below; what was made is destroyed with `made`.
        let set = unsafe { vk.create_descriptor_set_layout(&info, None) }.map_err(failure("vkCreateDescriptorSetLayout"))?;
        let mut made =
            Self { handle: Arc::clone(handle), pipeline: vk::Pipeline::null(), layout: vk::PipelineLayout::null(), set, shape };
        let sets = [set];
        let ranges =
            [vk::PushConstantRange { stage_flags: vk::ShaderStageFlags::COMPUTE, offset: 0, size: made.shape.argument_bytes }];
        let ranges = if made.shape.argument_bytes > 0 { &ranges[..] } else { &[] };
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets).push_constant_ranges(ranges);
        // SAFETY: as above.
        made.layout = unsafe { vk.create_pipeline_layout(&info, None) }.map_err(failure("vkCreatePipelineLayout"))?;
        let code = vk::ShaderModuleCreateInfo::default().code(&spirv);
        // SAFETY: naga wrote the module and checked it.
        let module = unsafe { vk.create_shader_module(&code, None) }.map_err(failure("vkCreateShaderModule"))?;
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default();
        let entry = std::ffi::CString::new(entry).unwrap_or_default();
        let mut stage =
            vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE).module(module).name(&entry);
        if let Some(lanes) = subgroup {
            size = size.required_subgroup_size(lanes);
            stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS).push_next(&mut size);
        }
        let info = vk::ComputePipelineCreateInfo::default()
            .stage(stage)
            .layout(made.layout)
            // A launch that must be cut runs in parts, each from its own first workgroup.
            .flags(vk::PipelineCreateFlags::DISPATCH_BASE);
        // SAFETY: the module lives until the pipeline is made.
        let outcome = unsafe { vk.create_compute_pipelines(vk::PipelineCache::null(), &[info], None) };
        // SAFETY: a pipeline does not need its module once it is made.
        unsafe { vk.destroy_shader_module(module, None) };
        let pipelines = outcome.map_err(|(_, code)| match failure("vkCreateComputePipelines")(code) {
            error @ (DeviceError::Lost(_) | DeviceError::OutOfMemory { .. }) => error,
            error => DeviceError::Compile {
                program: program.name.into(),
                arch: handle.adapter.name.clone(),
                log: format!("the driver refuses the module: {error}"),
            },
        })?;
        made.pipeline = pipelines[0];
        Ok(made)
    }
}

/// The adapter's limits: past them a kernel is skipped with the reason.
fn within(handle: &Handle, program: &Program<'_>, shape: &Shape) -> Result<()> {
    let limits = &handle.adapter.limits;
    let threads: u32 = shape.block.iter().product();
    let most = limits.max_compute_work_group_invocations;
    let too_wide = threads > most || shape.block.iter().zip(limits.max_compute_work_group_size).any(|(b, most)| *b > most);
    let needs = [
        (too_wide, format!("workgroups of {threads}"), format!("at most {most}")),
        (
            shape.shared_bytes > limits.max_compute_shared_memory_size,
            format!("{} bytes of workgroup memory", shape.shared_bytes),
            format!("{}", limits.max_compute_shared_memory_size),
        ),
        (
            shape.argument_bytes > limits.max_push_constants_size,
            format!("{} bytes of arguments", shape.argument_bytes),
            format!("at most {}", limits.max_push_constants_size),
        ),
        (
            shape.bindings.len() as u32 > limits.max_per_stage_descriptor_storage_buffers.min(MOST_BINDINGS),
            format!("{} buffers", shape.bindings.len()),
            format!("at most {}", limits.max_per_stage_descriptor_storage_buffers.min(MOST_BINDINGS)),
        ),
    ];
    match needs.into_iter().find(|(over, ..)| *over) {
        Some((_, needs, has)) => {
            Err(DeviceError::unsupported(format!("{} needs {needs}, and {} has {has}", program.name, handle.adapter.name)))
        }
        None => Ok(()),
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // SAFETY: commands that use the pipeline keep it alive until they are done.
        unsafe {
            self.handle.vk.destroy_pipeline(self.pipeline, None);
            self.handle.vk.destroy_pipeline_layout(self.layout, None);
            self.handle.vk.destroy_descriptor_set_layout(self.set, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_read_off_the_module() {
        let source = "const SIZE: u32 = 1u;
            struct Arguments { grid: vec3<u32>, s: f32, n: vec2<u32> }
            var<immediate> p: Arguments;
            @group(0) @binding(3) var<storage, read_write> z: array<f32>;
            @group(0) @binding(1) var<storage, read> x: array<f32>;
            @group(0) @binding(2) var<storage, read> unused: array<f32>;
            var<workgroup> tile: array<f32, SIZE>;
            @compute @workgroup_size(SIZE) fn half(@builtin(local_invocation_index) i: u32) {
                tile[i] = x[i];
                z[i] = tile[i] * p.s;
            }";
        let source = assemble("", source, &[("SIZE", "64".into())]);
        let compiled = compile(&source, "half").unwrap().unwrap();
        let shape = Shape { block: [64, 1, 1], bindings: vec![1, 3], argument_bytes: 32, shared_bytes: 256 };
        assert_eq!((compiled.shape, compiled.spirv[0]), (shape, 0x0723_0203));
        assert!(compile(&source, "whole").unwrap().is_none());
        assert!(compile("fn broken(", "broken").unwrap_err().starts_with("line 1: "));
        let wrong = "@compute @workgroup_size(1) fn f() {\n  var x = 1u;\n  x = 1.5;\n}";
        assert!(compile(wrong, "f").unwrap_err().starts_with("line 3: "));
        let bare = "var<immediate> n: u32; @compute @workgroup_size(1) fn f() { let m = n; _ = m; }";
        assert!(compile(bare, "f").unwrap_err().contains("begin with the grid"));
    }

    #[test]
    fn directives_come_first_and_definitions_replace() {
        let source = "enable f16;\nconst N: u32 = 4u;\nconst NOT: u32 = 5u;\nalias T = f32;\nfn mine() {}";
        let text = assemble("fn common() {}\n", source, &[("N", "3".into()), ("T", "f16".into()), ("OTHER", "1".into())]);
        let expected = "enable f16;\nfn common() {}\n\nconst N: u32 = 3u;\nconst NOT: u32 = 5u;\nalias T = f16;\nfn mine() {}\n";
        assert_eq!(text, expected);
        assert_eq!(in_program("line 5: x".into(), text.lines().count() - source.lines().count()), "line 3: x");
        assert_eq!(in_program("line 1: x".into(), 2), "line 1: x");
    }

    /// Khronos' own validator, where scripts/tools/mesa has brought it.
    fn judge(spirv: &[u32], what: &str) {
        let run = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/mesa/26/run");
        if !run.exists() {
            println!("SKIP: spirv-val: {} is not there; scripts/tools/mesa makes it", run.display());
            return;
        }
        let file = std::env::temp_dir().join(format!("ridgepoint-{}.spv", std::process::id()));
        std::fs::write(&file, spirv.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        let mut command = std::process::Command::new(run);
        let command = command.env_remove("LD_LIBRARY_PATH").args(["spirv-val", "--target-env", "vulkan1.2"]).arg(&file);
        let output = command.output().unwrap();
        std::fs::remove_file(file).unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn every_program_is_valid_in_every_dtype_and_shape() {
        let set = |pairs: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
        };
        let plain = [set(&[])];
        let dtypes = [("0", "u32"), ("1", "u16"), ("2", "u16")].map(|(n, t)| set(&[("RP_DTYPE", n), ("RP_STORED", t)]));
        let latent = set(&[("RP_DQK", "576"), ("RP_DV", "512"), ("RP_SHARED_KV", "1")]);
        for name in crate::sources::wgsl_names() {
            let source = crate::sources::wgsl(name).unwrap();
            let mut variants = if source.contains("RP_STORED") { dtypes.to_vec() } else { plain.to_vec() };
            if name == "attention/flash" {
                variants.push(latent.clone());
            }
            let cooperative = source.contains("enable wgpu_cooperative_matrix;");
            for defines in if cooperative { &variants[1..] } else { &variants } {
                let source = assemble(crate::sources::WGSL_COMMON, source, defines);
                let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&source)));
                assert!(!module.entry_points.is_empty(), "{name}");
                for entry in &module.entry_points {
                    let what = format!("{name} {} {defines:?}", entry.name);
                    let compiled = compile(&source, &entry.name).unwrap_or_else(|log| panic!("{what}: {log}")).unwrap();
                    let modules = if cooperative {
                        let bfloat16 = defines[0].1 == "2";
                        let sizes = [[8, 8, 8], [16, 16, 16], [16, 8, 16]];
                        sizes.map(|size| crate::vulkan::patch::retype(&compiled.spirv, size, bfloat16).unwrap()).to_vec()
                    } else {
                        vec![compiled.spirv]
                    };
                    modules.iter().for_each(|spirv| judge(spirv, &what));
                }
            }
        }
    }
}
