//! A stream and what runs in it: copies, events, graphs and launches.

use super::code::{Arg, Function, MOST_PARAMETERS, Slot};
use super::driver::{Buffer as Memory, Context, Failure, Pinned, Result};
use super::sys::{
    CAPTURE_THREAD_LOCAL, COPY_DEFAULT, Handle, LaunchAttribute, LaunchConfig, Ptr, STREAM_NON_BLOCKING, launch, status,
};
use crate::Buffer;
use std::ffi::c_void;
use std::sync::Arc;

/// Defines an owned handle with its destructor.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident, $destroy:ident) => {
        $(#[$doc])*
        pub(crate) struct $name { pub(super) ctx: std::sync::Arc<Context>, pub(crate) handle: Handle }
        // SAFETY: driver handles are tokens, usable from any thread whose context is current.
        unsafe impl Send for $name {}
        // SAFETY: as above; the driver locks internally.
        unsafe impl Sync for $name {}
        impl Drop for $name {
            fn drop(&mut self) {
                if let Ok(api) = self.ctx.api() {
                    // SAFETY: made by the constructor, destroyed once.
                    let _ = unsafe { api.$destroy(self.handle) };
                }
            }
        }
    };
}
pub(super) use owned;
owned!(/// An in-order queue.
    Stream, stream_destroy);
owned!(/// A timestamp in a stream.
    Event, event_destroy);
owned!(/// A captured graph, ready to be launched.
    Graph, graph_exec_destroy);

impl Stream {
    pub(crate) fn new(ctx: &Arc<Context>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { ctx.api()?.stream_create(&mut handle, STREAM_NON_BLOCKING) }?;
        Ok(Self { ctx: ctx.clone(), handle })
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: a live stream.
        unsafe { self.ctx.api()?.stream_synchronize(self.handle) }?;
        self.ctx.sweep();
        Ok(())
    }

    /// Copies and waits, as the host's memory is only borrowed.
    pub(crate) fn upload(&self, dst: Place<'_>, offset: usize, src: &[u8]) -> Result<()> {
        range(dst.len, offset, src.len())?;
        if src.is_empty() {
            return Ok(());
        }
        if dst.on_host() {
            self.synchronize()?;
            // SAFETY: in range; what the device still did with the memory is over, and `src` is not this allocation, which is
            // only ever reached through `Pinned`.
            unsafe { dst.host(offset).cast::<u8>().copy_from_nonoverlapping(src.as_ptr(), src.len()) };
            return Ok(());
        }
        // SAFETY: in range on both sides; synchronised before `src` may go away.
        unsafe { self.ctx.api()?.copy_h2d(dst.ptr() + offset as u64, src.as_ptr().cast(), src.len(), self.handle) }?;
        self.synchronize()
    }

    pub(crate) fn download(&self, src: Place<'_>, offset: usize, dst: &mut [u8]) -> Result<()> {
        range(src.len, offset, dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        if src.on_host() {
            self.synchronize()?;
            // SAFETY: as in `upload`.
            unsafe { dst.as_mut_ptr().copy_from_nonoverlapping(src.host(offset).cast(), dst.len()) };
            return Ok(());
        }
        // SAFETY: as in `upload`.
        unsafe { self.ctx.api()?.copy_d2h(dst.as_mut_ptr().cast(), src.ptr() + offset as u64, dst.len(), self.handle) }?;
        self.synchronize()
    }

    /// Enqueues a copy in the direction that the two places give.
    pub(crate) fn copy(&self, src: Place<'_>, from: usize, dst: Place<'_>, to: usize, len: usize) -> Result<()> {
        range(src.len, from, len)?;
        range(dst.len, to, len)?;
        if len == 0 {
            return Ok(());
        }
        let api = self.ctx.api()?;
        let (s, d) = (src.ptr() + from as u64, dst.ptr() + to as u64);
        let (a, b) = (src.context(), dst.context());
        if !src.on_host() && !dst.on_host() && !a.is(b) {
            // SAFETY: in range on both sides, each in the context that is named beside it.
            return Ok(unsafe {
                if self.ctx.driver.vendor.has_contexts() {
                    api.copy_peer(d, b.handle(), s, a.handle(), len, self.handle)
                } else {
                    api.copy_peer_device(d, b.device, s, a.device, len, self.handle)
                }
            }?);
        }
        // SAFETY: in range on both sides; page-locked memory is freed only after a synchronise.
        Ok(unsafe {
            match (src.on_host(), dst.on_host()) {
                (false, false) => api.copy_d2d(d, s, len, self.handle),
                (true, false) => api.copy_h2d(d, src.host(from), len, self.handle),
                (false, true) => api.copy_d2h(dst.host(to), s, len, self.handle),
                (true, true) if self.ctx.driver.vendor.has_contexts() => api.copy_any(d, s, len, self.handle),
                (true, true) => api.copy_kind(d, s, len, COPY_DEFAULT, self.handle),
            }
        }?)
    }

    pub(crate) fn fill(&self, dst: Place<'_>, byte: u8) -> Result<()> {
        if dst.len == 0 {
            return Ok(());
        }
        // SAFETY: exactly the buffer.
        Ok(unsafe { self.ctx.api()?.memset8(dst.ptr(), byte, dst.len, self.handle) }?)
    }

    pub(crate) fn record(&self) -> Result<Event> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { self.ctx.api()?.event_create(&mut handle, 0) }?;
        let event = Event { ctx: self.ctx.clone(), handle };
        // SAFETY: live event and stream of one context.
        unsafe { self.ctx.api()?.event_record(handle, self.handle) }?;
        Ok(event)
    }

    /// What is enqueued from now on waits for an event, of this or another device.
    pub(crate) fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: live handles.
        Ok(unsafe { self.ctx.api()?.stream_wait_event(self.handle, event.handle, 0) }?)
    }

    /// Records what `body` enqueues. Ends the capture whatever `body` says, or the stream would stay unusable.
    pub(crate) fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let api = self.ctx.api()?;
        let _paused = self.ctx.pause();
        // SAFETY: a live stream.
        unsafe { api.capture_begin(self.handle, CAPTURE_THREAD_LOCAL) }?;
        let outcome = body();
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let ended = unsafe { api.capture_end(self.handle, &mut graph) };
        let mut exec = std::ptr::null_mut();
        let made = match (&outcome, &ended) {
            // SAFETY: a graph that was captured just now.
            (Ok(()), Ok(())) => unsafe { api.graph_instantiate(&mut exec, graph, 0) },
            _ => Ok(()),
        };
        if !graph.is_null() {
            // SAFETY: the executable graph, if any, holds its own copy.
            let _ = unsafe { api.graph_destroy(graph) };
        }
        outcome?;
        ended?;
        made?;
        let graph = Graph { ctx: self.ctx.clone(), handle: exec };
        // SAFETY: live handles.
        let _ = unsafe { api.graph_upload(exec, self.handle) };
        Ok(graph)
    }

    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: live handles.
        Ok(unsafe { self.ctx.api()?.graph_launch(graph.handle, self.handle) }?)
    }

    pub(crate) fn launch(&self, f: &Function, shape: Shape, args: &[Arg<'_>]) -> Result<()> {
        if [shape.block, shape.grid, shape.cluster].iter().any(|d| d.contains(&0)) {
            return Err(Failure::Invalid(format!(
                "{}: a launch of nothing: grid {:?}, block {:?}",
                f.name, shape.grid, shape.block
            )));
        }
        if shape.block.iter().map(|n| u128::from(*n)).product::<u128>() > u128::from(f.max_threads) {
            return Err(Failure::Invalid(format!(
                "{} takes at most {} threads a block, not {:?}",
                f.name, f.max_threads, shape.block
            )));
        }
        f.takes(args)?;
        if shape.cluster.iter().zip(shape.grid).any(|(c, g)| g % c != 0) {
            return Err(Failure::Invalid(format!(
                "{}: a grid of {:?} is no multiple of the cluster {:?}",
                f.name, shape.grid, shape.cluster
            )));
        }
        f.allow_shared(shape.shared_bytes)?;
        // One slot of 64-byte alignment a value: a tensor map wants it, and the others don't mind.
        let mut slots: Vec<Slot> = args.iter().map(|a| a.slot()).collect::<Result<_>>()?;
        // A driver that does not say how many there must be reads as many as the kernel has: zeros, and not what lies
        // behind the array.
        let mut zeros = Slot([0; 128]);
        let padding = if f.parameters.is_some() { 0 } else { MOST_PARAMETERS.saturating_sub(slots.len()) };
        let zeros = std::iter::repeat_n(std::ptr::from_mut(&mut zeros).cast(), padding);
        let mut params: Vec<*mut c_void> = slots.iter_mut().map(|s| std::ptr::from_mut(s).cast()).chain(zeros).collect();
        let mut attributes = [LaunchAttribute { id: launch::CLUSTER_DIMENSION, pad: 0, value: [0; 8] }];
        let [x, y, z] = shape.cluster;
        attributes[0].value[0] = u64::from(x) | u64::from(y) << 32;
        attributes[0].value[1] = u64::from(z);
        let config = LaunchConfig {
            grid: shape.grid,
            block: shape.block,
            shared_bytes: shape.shared_bytes,
            stream: self.handle,
            attributes: attributes.as_mut_ptr(),
            attribute_count: 1,
        };
        let api = self.ctx.api()?;
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        // SAFETY: the function is live; there is a slot for each of its parameters (`takes`, or the padding), at least as
        // large as any value that our kernels take. The driver copies them before it returns.
        let launched = unsafe {
            if shape.cluster == [1, 1, 1] {
                api.launch(
                    f.handle,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shape.shared_bytes,
                    self.handle,
                    params.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            } else {
                api.launch_ex(&config, f.handle, params.as_mut_ptr(), std::ptr::null_mut())
            }
        };
        launched.map_err(|error| match error.status() {
            Some(status::INVALID_VALUE | status::INVALID_CONFIGURATION | status::CLUSTER_MISCONFIGURED) => {
                Failure::Invalid(format!("{}: the driver refuses {shape:?}: {error}", f.name))
            }
            _ => error.into(),
        })
    }
}

fn range(len: usize, offset: usize, n: usize) -> Result<()> {
    match offset.checked_add(n) {
        Some(end) if end <= len => Ok(()),
        _ => Err(Failure::Invalid(format!("{n} bytes at {offset} reach past the end of a buffer of {len}"))),
    }
}

#[derive(Clone, Copy)]
enum Whose<'a> {
    Device(&'a Memory),
    Host(&'a Pinned),
}

/// One side of a copy: memory, or a part of it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    whose: Whose<'a>,
    at: usize,
    len: usize,
}

impl<'a> From<&'a Memory> for Place<'a> {
    fn from(memory: &'a Memory) -> Self {
        Self { whose: Whose::Device(memory), at: 0, len: memory.len }
    }
}

impl<'a> Place<'a> {
    /// What a buffer stands for; None where another backend made it.
    pub(crate) fn of(buffer: &'a Buffer) -> Option<Self> {
        let device = buffer.owner::<Memory>().map(|memory| (Whose::Device(memory), memory.ptr));
        let (whose, first) = device.or_else(|| buffer.owner::<Pinned>().map(|pinned| (Whose::Host(pinned), pinned.ptr)))?;
        Some(Self { whose, at: (buffer.address() - first) as usize, len: buffer.len() })
    }

    /// Where the device sees it.
    fn ptr(&self) -> Ptr {
        self.at as Ptr
            + match self.whose {
                Whose::Device(memory) => memory.ptr,
                Whose::Host(pinned) => pinned.ptr,
            }
    }

    pub(crate) fn on_host(&self) -> bool {
        matches!(self.whose, Whose::Host(_))
    }

    /// True for memory that a kernel can be given.
    pub(crate) fn seen_by_kernels(&self) -> bool {
        !matches!(self.whose, Whose::Host(Pinned { pageable: true, .. }))
    }

    /// Where the host sees it; null for the device's own memory.
    fn host(&self, offset: usize) -> *mut c_void {
        match self.whose {
            Whose::Device(_) => std::ptr::null_mut(),
            Whose::Host(pinned) => pinned.host.wrapping_byte_add(self.at + offset),
        }
    }

    /// The context of that memory.
    pub(crate) fn context(&self) -> &'a Arc<Context> {
        match self.whose {
            Whose::Device(memory) => &memory.ctx,
            Whose::Host(pinned) => &pinned.ctx,
        }
    }
}

/// Milliseconds from one event to another; waits for the later one.
pub(crate) fn elapsed_ms(from: &Event, to: &Event) -> Result<f32> {
    let api = to.ctx.api()?;
    let mut ms = 0.0;
    // SAFETY: live events; writes one float.
    unsafe {
        api.event_synchronize(to.handle)?;
        api.event_elapsed(&mut ms, from.handle, to.handle)?;
    }
    Ok(ms)
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) cluster: [u32; 3],
}
