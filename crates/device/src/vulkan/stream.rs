//! The in-order stream: commands are recorded as they come and submitted when someone waits, so that a timed batch reaches the
//! device as one piece and the host's launch costs stay out of it.
//!
//! A lane is a queue with its own command buffers: compute, and the DMA engine where the adapter has one. Work moves from one
//! to the other over a timeline semaphore, of which each submission is a step. Each command is followed by a barrier, as
//! launches in one CUDA stream are.

use super::adapter::Family;
use super::failure;
use super::memory::Handle;
use crate::{DeviceError, Result};
use ash::vk;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Timestamps that can be waiting to be read.
const STAMPS: u32 = 4096;
/// Commands of one submission, at most.
const MOST_COMMANDS: u32 = 1024;
/// Storage buffers of one launch, at most.
pub(super) const MOST_BINDINGS: u32 = 12;

/// What a recorded command must find alive when it runs.
pub(super) type Keep = Arc<dyn Any + Send + Sync>;

/// Which queue a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Compute,
    Copy,
}

struct Lane {
    queue: vk::Queue,
    pool: vk::CommandPool,
    family: Family,
    free: Vec<Batch>,
}

/// A command buffer with what its commands need.
struct Batch {
    commands: vk::CommandBuffer,
    sets: vk::DescriptorPool,
    keep: Vec<Keep>,
    count: u32,
}

struct Flight {
    step: u64,
    lane: usize,
    batch: Batch,
}

/// A slot of the query pool; free again when it is dropped.
pub(super) struct Stamp {
    slot: u32,
    free: Arc<Mutex<Vec<u32>>>,
}

impl Drop for Stamp {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
    }
}

/// The stream of one device.
pub(super) struct Stream {
    handle: Arc<Handle>,
    lanes: Vec<Lane>,
    /// What is being recorded, and for which lane.
    open: Option<(usize, Batch)>,
    /// The lane of the newest command.
    current: usize,
    timeline: vk::Semaphore,
    submitted: u64,
    flights: VecDeque<Flight>,
    queries: vk::QueryPool,
    free_slots: Arc<Mutex<Vec<u32>>>,
    /// Seconds that what was recorded will take, as far as known.
    spent: f64,
    /// Stamps to be written before the next command, on its queue: those of two queues do not compare.
    due: Vec<u32>,
}

impl Stream {
    /// With a lane for compute and, where `transfer` is given, one for copies.
    pub(super) fn new(handle: &Arc<Handle>, compute: Family, transfer: Option<Family>) -> Result<Self> {
        let vk = &handle.vk;
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: timeline semaphores are enabled on every device that we open.
        let timeline = unsafe { vk.create_semaphore(&info, None) }.map_err(failure("vkCreateSemaphore"))?;
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(STAMPS);
        // SAFETY: plain creation on an open device, here and below.
        let queries = unsafe { vk.create_query_pool(&info, None) }.map_err(failure("vkCreateQueryPool"))?;
        let mut stream = Self {
            handle: Arc::clone(handle),
            lanes: vec![],
            open: None,
            current: 0,
            timeline,
            submitted: 0,
            flights: VecDeque::new(),
            queries,
            free_slots: Arc::new(Mutex::new((0..STAMPS).rev().collect())),
            spent: 0.0,
            due: vec![],
        };
        for family in std::iter::once(compute).chain(transfer) {
            let info = vk::CommandPoolCreateInfo::default()
                .queue_family_index(family.index)
                .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
            // SAFETY: the device was opened with a queue of this family.
            let queue = unsafe { vk.get_device_queue(family.index, 0) };
            // SAFETY: as above.
            let pool = unsafe { vk.create_command_pool(&info, None) }.map_err(failure("vkCreateCommandPool"))?;
            stream.lanes.push(Lane { queue, pool, family, free: vec![] });
        }
        Ok(stream)
    }

    /// True where the device's own clock can be read in the stream.
    pub(super) fn has_stamps(&self) -> bool {
        self.lanes.iter().all(|l| l.family.stamp_bits > 0)
    }

    /// Records one command by `record`, which is given the command buffer and a set allocator; `keep` stays alive until it ran.
    pub(super) fn enqueue(
        &mut self,
        work: Work,
        keep: impl IntoIterator<Item = Keep>,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer, vk::DescriptorPool) -> Result<()>,
    ) -> Result<()> {
        let lane = if work == Work::Copy { self.lanes.len() - 1 } else { 0 };
        self.ready(lane)?;
        let Some((_, batch)) = &mut self.open else { return Err(DeviceError::invalid("no command buffer is open")) };
        batch.keep.extend(keep);
        batch.count += 1;
        let full = batch.count >= MOST_COMMANDS;
        let vk = &self.handle.vk;
        record(vk, batch.commands, batch.sets)?;
        barrier(vk, batch.commands);
        if full { self.submit() } else { Ok(()) }
    }

    /// A stamp at this point of the stream.
    pub(super) fn stamp(&mut self) -> Result<Stamp> {
        let slot = self.free_slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = slot.ok_or_else(|| DeviceError::invalid(format!("more than {STAMPS} events are alive")))?;
        self.due.push(slot);
        Ok(Stamp { slot, free: Arc::clone(&self.free_slots) })
    }

    /// Ticks from one stamp to another; waits for both.
    pub(super) fn ticks(&mut self, start: &Stamp, end: &Stamp) -> Result<u64> {
        if !Arc::ptr_eq(&start.free, &self.free_slots) || !Arc::ptr_eq(&end.free, &self.free_slots) {
            return Err(DeviceError::invalid("an event of another device"));
        }
        self.synchronize()?;
        let read = |slot: u32| -> Result<u64> {
            let mut ticks = [0u64];
            let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
            // SAFETY: the slot was written by a submission that is done.
            unsafe { self.handle.vk.get_query_pool_results(self.queries, slot, &mut ticks, flags) }
                .map_err(failure("vkGetQueryPoolResults"))?;
            Ok(ticks[0])
        };
        let bits = self.lanes.iter().map(|l| l.family.stamp_bits).min().unwrap_or(64);
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        Ok(read(end.slot)?.wrapping_sub(read(start.slot)?) & mask)
    }

    /// Waits for everything that was enqueued.
    pub(super) fn synchronize(&mut self) -> Result<()> {
        if !self.due.is_empty() {
            self.ready(self.current)?;
        }
        self.submit()?;
        let (semaphores, values) = ([self.timeline], [self.submitted]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: the semaphore is ours, and every step up to `submitted` is on its way.
        unsafe { self.handle.vk.wait_semaphores(&info, u64::MAX) }.map_err(failure("vkWaitSemaphores"))?;
        self.land(self.submitted)
    }

    /// Counts what a command will take, and submits before that is more than `longest`.
    pub(super) fn spend(&mut self, seconds: f64, longest: f64) -> Result<()> {
        self.spent += seconds;
        if self.spent > longest { self.submit() } else { Ok(()) }
    }

    /// Hands what was recorded to its queue.
    pub(super) fn submit(&mut self) -> Result<()> {
        let Some((lane, batch)) = self.open.take() else { return Ok(()) };
        self.spent = 0.0;
        let vk = &self.handle.vk;
        // SAFETY: recording was begun by `ready`.
        unsafe { vk.end_command_buffer(batch.commands) }.map_err(failure("vkEndCommandBuffer"))?;
        let (wait, signal) = ([self.submitted], [self.submitted + 1]);
        let semaphores = [self.timeline];
        let commands = [batch.commands];
        let mut steps = vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&wait).signal_semaphore_values(&signal);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&[vk::PipelineStageFlags::ALL_COMMANDS])
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut steps);
        // SAFETY: what the commands use is kept by the batch, and the structures live through the call.
        let outcome = unsafe { vk.queue_submit(self.lanes[lane].queue, &[info], vk::Fence::null()) };
        match outcome {
            Ok(()) => {
                self.submitted += 1;
                self.flights.push_back(Flight { step: self.submitted, lane, batch });
                // SAFETY: the semaphore is ours.
                let done =
                    unsafe { vk.get_semaphore_counter_value(self.timeline) }.map_err(failure("vkGetSemaphoreCounterValue"))?;
                self.land(done)
            }
            Err(code) => {
                self.lanes[lane].free.push(batch);
                Err(failure("vkQueueSubmit")(code))
            }
        }
    }

    /// Takes back what is done.
    fn land(&mut self, done: u64) -> Result<()> {
        while self.flights.front().is_some_and(|f| f.step <= done) {
            let Some(mut flight) = self.flights.pop_front() else { break };
            flight.batch.keep.clear();
            self.lanes[flight.lane].free.push(flight.batch);
        }
        Ok(())
    }

    /// Opens a command buffer for `lane`, and writes the stamps that are due.
    fn ready(&mut self, lane: usize) -> Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| *open != lane) {
            self.submit()?;
        }
        if self.open.is_none() {
            let batch = match self.lanes[lane].free.pop() {
                Some(batch) => batch,
                None => self.batch(lane)?,
            };
            let vk = &self.handle.vk;
            let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
            // SAFETY: the batch is not in use: it is new or has landed.
            unsafe {
                vk.reset_descriptor_pool(batch.sets, vk::DescriptorPoolResetFlags::empty())
                    .map_err(failure("vkResetDescriptorPool"))?;
                vk.begin_command_buffer(batch.commands, &info).map_err(failure("vkBeginCommandBuffer"))?;
            }
            self.open = Some((lane, Batch { count: 0, ..batch }));
        }
        self.current = lane;
        if let Some((_, batch)) = &self.open {
            let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
            for slot in self.due.drain(..) {
                // SAFETY: recording is under way, and the slot belongs to a stamp that was not written before.
                unsafe {
                    self.handle.vk.cmd_reset_query_pool(batch.commands, self.queries, slot, 1);
                    self.handle.vk.cmd_write_timestamp(batch.commands, stage, self.queries, slot);
                }
            }
        }
        Ok(())
    }

    fn batch(&self, lane: usize) -> Result<Batch> {
        let vk = &self.handle.vk;
        let info = vk::CommandBufferAllocateInfo::default().command_pool(self.lanes[lane].pool).command_buffer_count(1);
        let sizes = [vk::DescriptorPoolSize {
            ty: vk::DescriptorType::STORAGE_BUFFER,
            descriptor_count: MOST_COMMANDS * MOST_BINDINGS / 2,
        }];
        let pool = vk::DescriptorPoolCreateInfo::default().max_sets(MOST_COMMANDS).pool_sizes(&sizes);
        // SAFETY: plain creation; both are destroyed with the stream.
        unsafe {
            let commands = vk.allocate_command_buffers(&info).map_err(failure("vkAllocateCommandBuffers"))?[0];
            let sets = vk.create_descriptor_pool(&pool, None).map_err(failure("vkCreateDescriptorPool"))?;
            Ok(Batch { commands, sets, keep: vec![], count: 0 })
        }
    }
}

/// All that came before is done and visible to all that comes after.
fn barrier(vk: &ash::Device, commands: vk::CommandBuffer) {
    let all = vk::PipelineStageFlags::ALL_COMMANDS;
    let memory = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
        .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE)];
    // SAFETY: recording is under way.
    unsafe { vk.cmd_pipeline_barrier(commands, all, all, vk::DependencyFlags::empty(), &memory, &[], &[]) };
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.synchronize();
        let vk = &self.handle.vk;
        let open = self.open.take().map(|(_, batch)| batch);
        let flights = self.flights.drain(..).map(|f| f.batch);
        // SAFETY: everything has been waited for (or the device is lost and runs nothing).
        unsafe {
            let _ = vk.device_wait_idle();
            for batch in self.lanes.iter_mut().flat_map(|l| l.free.drain(..)).chain(open).chain(flights) {
                vk.destroy_descriptor_pool(batch.sets, None);
            }
            self.lanes.iter().for_each(|l| vk.destroy_command_pool(l.pool, None));
            vk.destroy_query_pool(self.queries, None);
            vk.destroy_semaphore(self.timeline, None);
        }
    }
}
