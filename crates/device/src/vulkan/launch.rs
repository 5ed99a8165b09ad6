//! A launch: checked against its kernel and the adapter's limits, then recorded, in parts where it would take long.

use super::device::VulkanDevice;
use super::failure;
use super::shader::Pipeline;
use super::stream::{Keep, Work};
use super::watchdog;
use crate::{Arg, Device, DeviceError, Geometry, Kernel, Result};
use ash::vk;
use ridgepoint_core::record::fnv1a;
use std::sync::Arc;

/// A launch whose arguments have been checked.
pub(super) struct Launch {
    pipeline: Arc<Pipeline>,
    buffers: Vec<vk::DescriptorBufferInfo>,
    arguments: Vec<u8>,
    keep: Vec<Keep>,
}

impl Launch {
    /// What decides how long it takes.
    fn key(&self, grid: [u32; 3]) -> u64 {
        fnv1a(format!("{:p} {grid:?} {:?}", Arc::as_ptr(&self.pipeline), self.arguments).as_bytes())
    }
}

/// Appends a scalar at its natural alignment.
fn push(arguments: &mut Vec<u8>, bytes: &[u8]) {
    arguments.resize(arguments.len().next_multiple_of(bytes.len()), 0);
    arguments.extend(bytes);
}

impl VulkanDevice {
    /// Checks a launch against its kernel and the adapter's limits.
    pub(super) fn prepare(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<Launch> {
        let found = kernel.shared::<Pipeline>().filter(|p| Arc::ptr_eq(&p.handle, &self.handle));
        let pipeline = found.ok_or_else(|| DeviceError::invalid(format!("{} was compiled for another device", kernel.entry)))?;
        let (limits, shape) = (&self.handle.adapter.limits, pipeline.shape.clone());
        let keep = vec![Arc::clone(&pipeline) as Keep];
        let mut launch = Launch { pipeline, buffers: vec![], arguments: vec![], keep };
        geometry.grid.iter().for_each(|n| push(&mut launch.arguments, &n.to_le_bytes()));
        for arg in args {
            match arg {
                Arg::Buffer(buffer, offset) => {
                    let rest = buffer
                        .len()
                        .checked_sub(*offset)
                        .ok_or_else(|| DeviceError::invalid(format!("offset {offset} is past a buffer of {}", buffer.len())))?;
                    let (memory, at) = self.range(buffer, *offset, rest)?;
                    let align = limits.min_storage_buffer_offset_alignment;
                    if !at.is_multiple_of(align) {
                        return Err(DeviceError::invalid(format!("{} binds at multiples of {align} bytes", self.info.name)));
                    }
                    // Whole vectors: a kernel may look at the last one before it finds that half of it is not its own.
                    let range = (rest.max(1) as u64).next_multiple_of(16).min(memory.size - at);
                    if range > u64::from(limits.max_storage_buffer_range) {
                        let most = ridgepoint_core::Bytes(u64::from(limits.max_storage_buffer_range));
                        return Err(DeviceError::unsupported(format!("{} binds at most {most} to a kernel", self.info.name)));
                    }
                    launch.buffers.push(vk::DescriptorBufferInfo { buffer: memory.buffer, offset: at, range });
                    launch.keep.push(buffer.keep());
                }
                Arg::U32(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::I32(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::U64(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::F32(v) => push(&mut launch.arguments, &v.to_bits().to_le_bytes()),
                Arg::Bytes(_) => return Err(DeviceError::unsupported("Vulkan passes no structures by value")),
            }
        }
        // A struct is as long as its alignment, 16 for the grid, makes it.
        launch.arguments.resize(launch.arguments.len().next_multiple_of(16), 0);
        if shape.argument_bytes == 0 && launch.arguments.len() == 16 {
            launch.arguments.clear();
        }
        let (takes, given) =
            ((shape.bindings.len(), shape.argument_bytes as usize), (launch.buffers.len(), launch.arguments.len()));
        if takes != given || geometry.block != shape.block || geometry.shared_bytes != 0 {
            return Err(DeviceError::invalid(format!(
                "{} takes (buffers, bytes) {takes:?} in workgroups of {:?}, and was given {given:?} in {:?}",
                kernel.entry, shape.block, geometry.block
            )));
        }
        if geometry.grid.contains(&0) || geometry.grid.iter().zip(limits.max_compute_work_group_count).any(|(n, most)| *n > most)
        {
            let most = limits.max_compute_work_group_count;
            return Err(DeviceError::invalid(format!("{:?} workgroups: at least 1 and at most {most:?}", geometry.grid)));
        }
        Ok(launch)
    }

    /// Records one part of a launch.
    pub(super) fn dispatch(&self, launch: &Launch, base: [u32; 3], count: [u32; 3]) -> Result<()> {
        let pipeline = &launch.pipeline;
        self.stream.borrow_mut().enqueue(Work::Compute, launch.keep.iter().cloned(), |vk, commands, sets| {
            let layouts = [pipeline.set];
            let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(sets).set_layouts(&layouts);
            // SAFETY: the pool belongs to the batch and outlives its commands; the layout is the pipeline's, which is kept.
            let set = unsafe { vk.allocate_descriptor_sets(&info) }.map_err(failure("vkAllocateDescriptorSets"))?;
            let writes: Vec<_> = pipeline
                .shape
                .bindings
                .iter()
                .zip(&launch.buffers)
                .map(|(binding, buffer)| {
                    vk::WriteDescriptorSet::default()
                        .dst_set(set[0])
                        .dst_binding(*binding)
                        .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                        .buffer_info(std::slice::from_ref(buffer))
                })
                .collect();
            let (point, stage) = (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
            // SAFETY: buffers, set and pipeline are of this device and kept until the commands are done; sizes were checked.
            unsafe {
                vk.update_descriptor_sets(&writes, &[]);
                vk.cmd_bind_pipeline(commands, point, pipeline.pipeline);
                vk.cmd_bind_descriptor_sets(commands, point, pipeline.layout, 0, &set, &[]);
                if !launch.arguments.is_empty() {
                    vk.cmd_push_constants(commands, pipeline.layout, stage, 0, &launch.arguments);
                }
                vk.cmd_dispatch_base(commands, base[0], base[1], base[2], count[0], count[1], count[2]);
            }
            Ok(())
        })
    }

    /// Runs a launch in parts of at most `longest` seconds. Its first workgroups tell how long it takes.
    pub(super) fn guarded(&self, launch: &Launch, grid: [u32; 3], longest: f64) -> Result<()> {
        let axis = watchdog::axis(grid);
        let (key, all) = (launch.key(grid), grid[axis]);
        let run = |from: u32, step: u32| -> Result<()> {
            for (base, count) in watchdog::parts(grid, axis, from, step) {
                self.dispatch(launch, base, count)?;
                if step < all {
                    self.stream.borrow_mut().submit()?;
                }
            }
            Ok(())
        };
        let known = self.watchdog.borrow().plan(key);
        if let Some(plan) = known {
            run(0, plan.step)?;
            return self.stream.borrow_mut().spend(plan.seconds, longest);
        }
        let start = self.record()?;
        let first = watchdog::beginning(grid, axis, self.info.units);
        watchdog::parts(grid, axis, 0, first).take(1).try_for_each(|(base, count)| self.dispatch(launch, base, count))?;
        let seconds = self.elapsed(&start, &self.record()?)?.0;
        let plan = self.watchdog.borrow_mut().learn(key, first, all, seconds, longest);
        run(first, plan.step)?;
        let seconds = self.elapsed(&start, &self.record()?)?.0;
        self.watchdog.borrow_mut().learn(key, all, all, seconds, longest);
        Ok(())
    }
}
