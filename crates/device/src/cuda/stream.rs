//! A stream and what runs in it: events, graphs, loaded code and launches.

use super::driver::{Buffer, Context, Failure, Pinned, Result};
use super::driver_sys::{
    CAPTURE_THREAD_LOCAL, Handle, LaunchAttribute, LaunchConfig, Ptr, STREAM_NON_BLOCKING, function, jit, launch,
};
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Defines an owned handle with its destructor.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident, $destroy:ident) => {
        $(#[$doc])*
        pub(crate) struct $name { ctx: Arc<Context>, pub(crate) handle: Handle }
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
owned!(/// An in-order queue.
    Stream, stream_destroy);
owned!(/// A timestamp in a stream.
    Event, event_destroy);
owned!(/// Loaded code.
    Module, module_unload);
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
        Ok(unsafe { self.ctx.api()?.stream_synchronize(self.handle) }?)
    }

    pub(crate) fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        range(dst.len, offset, src.len())?;
        // SAFETY: in range on both sides; synchronised before `src` may go away.
        unsafe { self.ctx.api()?.copy_h2d(dst.ptr + offset as u64, src.as_ptr().cast(), src.len(), self.handle) }?;
        self.synchronize()
    }

    pub(crate) fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        range(src.len, offset, dst.len())?;
        // SAFETY: as above.
        unsafe { self.ctx.api()?.copy_d2h(dst.as_mut_ptr().cast(), src.ptr + offset as u64, dst.len(), self.handle) }?;
        self.synchronize()
    }

    pub(crate) fn copy(&self, src: &Buffer, from: usize, dst: &Buffer, to: usize, len: usize) -> Result<()> {
        range(src.len, from, len)?;
        range(dst.len, to, len)?;
        // SAFETY: in range on both sides.
        Ok(unsafe { self.ctx.api()?.copy_d2d(dst.ptr + to as u64, src.ptr + from as u64, len, self.handle) }?)
    }

    /// Enqueues a copy of the whole pinned buffer to the start of `device`, or back.
    pub(crate) fn host_copy(&self, host: &Pinned, device: &Buffer, up: bool) -> Result<()> {
        range(device.len, 0, host.len)?;
        let api = self.ctx.api()?;
        // SAFETY: in range on both sides; page-locked memory is freed by a call that waits for such copies.
        Ok(unsafe {
            match up {
                true => api.copy_h2d(device.ptr, host.host, host.len, self.handle),
                false => api.copy_d2h(host.host, device.ptr, host.len, self.handle),
            }
        }?)
    }

    pub(crate) fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        // SAFETY: exactly the buffer.
        Ok(unsafe { self.ctx.api()?.memset8(dst.ptr, byte, dst.len, self.handle) }?)
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

    /// Records what `body` enqueues. Ends the capture whatever `body` says, or the stream would stay unusable.
    pub(crate) fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let api = self.ctx.api()?;
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
        if shape.block.iter().product::<u32>() == 0 || shape.grid.contains(&0) || shape.cluster.contains(&0) {
            return Err(Failure::Invalid(format!(
                "{}: a launch of nothing: grid {:?}, block {:?}",
                f.name, shape.grid, shape.block
            )));
        }
        if shape.cluster.iter().zip(shape.grid).any(|(c, g)| g % c != 0) {
            return Err(Failure::Invalid(format!(
                "{}: a grid of {:?} is no multiple of the cluster {:?}",
                f.name, shape.grid, shape.cluster
            )));
        }
        f.allow_shared(shape.shared_bytes)?;
        // One slot of 64-byte alignment a value: a tensor map wants it, and the others don't mind.
        let mut slots: Vec<Slot> = args.iter().map(|a| a.slot()).collect::<Result<_>>()?;
        let mut params: Vec<*mut c_void> = slots.iter_mut().map(|s| std::ptr::from_mut(s).cast()).collect();
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
        // SAFETY: the function is live; each parameter points to a slot at least as large as any value of the kernel's
        // signature that the host contract in its source names. The driver copies them before it returns.
        unsafe {
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
        }?;
        Ok(())
    }
}

fn range(len: usize, offset: usize, n: usize) -> Result<()> {
    match offset.checked_add(n) {
        Some(end) if end <= len => Ok(()),
        _ => Err(Failure::Invalid(format!("{n} bytes at {offset} reach past the end of a buffer of {len}"))),
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

pub(crate) enum Arg<'a> {
    Ptr(Ptr),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bytes(&'a [u8]),
}

#[repr(C, align(128))]
struct Slot([u8; 128]);

impl Arg<'_> {
    fn slot(&self) -> Result<Slot> {
        let mut slot = Slot([0; 128]);
        let mut put = |bytes: &[u8]| slot.0[..bytes.len()].copy_from_slice(bytes);
        match self {
            Self::Ptr(v) | Self::U64(v) => put(&v.to_ne_bytes()),
            Self::U32(v) => put(&v.to_ne_bytes()),
            Self::I32(v) => put(&v.to_ne_bytes()),
            Self::F32(v) => put(&v.to_ne_bytes()),
            Self::Bytes(b) if b.len() <= 128 => put(b),
            Self::Bytes(b) => {
                return Err(Failure::Invalid(format!("an argument of {} bytes; at most 128 are passed by value", b.len())));
            }
        }
        Ok(slot)
    }
}

impl Module {
    /// Loads a cubin, or PTX that the driver compiles (which must end in a NUL).
    pub(crate) fn load(ctx: &Arc<Context>, image: &[u8]) -> Result<Arc<Self>> {
        if !image.starts_with(b"\x7fELF") && image.last() != Some(&0) {
            return Err(Failure::Invalid("a module that is neither a cubin nor NUL-terminated PTX".into()));
        }
        let mut log = vec![0_u8; 8192];
        let mut handle = std::ptr::null_mut();
        let mut options = [jit::ERROR_LOG, jit::ERROR_LOG_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        // SAFETY: the image is an ELF file or NUL-terminated text; the log buffer has the length given.
        let loaded =
            unsafe { ctx.api()?.module_load(&mut handle, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        match loaded {
            Ok(()) => Ok(Arc::new(Self { ctx: ctx.clone(), handle })),
            Err(error) => {
                let end = log.iter().position(|c| *c == 0).unwrap_or(log.len());
                Err(Failure::Module { log: String::from_utf8_lossy(&log[..end]).trim().to_owned(), error })
            }
        }
    }

    pub(crate) fn function(self: &Arc<Self>, name: &str) -> Result<Function> {
        let c = CString::new(name).map_err(|_| Failure::Invalid(format!("'{name:?}' is no kernel name")))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle; the name is NUL-terminated.
        unsafe { self.ctx.api()?.module_function(&mut handle, self.handle, c.as_ptr()) }?;
        let mut f = Function {
            module: self.clone(),
            handle,
            name: name.to_owned(),
            registers: 0,
            local_bytes: 0,
            shared_bytes: 0,
            max_threads: 0,
            allowed: AtomicU32::new(0),
        };
        f.registers = f.attribute(function::REGISTERS)?;
        f.local_bytes = f.attribute(function::LOCAL_BYTES)?;
        f.shared_bytes = f.attribute(function::SHARED_BYTES)?;
        f.max_threads = f.attribute(function::MAX_THREADS)?;
        Ok(f)
    }
}

/// An entry point, and what the compiler gave it.
pub(crate) struct Function {
    module: Arc<Module>,
    handle: Handle,
    pub(crate) name: String,
    pub(crate) registers: u32,
    pub(crate) local_bytes: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) max_threads: u32,
    allowed: AtomicU32,
}
// SAFETY: a token that lives as long as its module.
unsafe impl Send for Function {}
// SAFETY: as above; `allowed` is atomic.
unsafe impl Sync for Function {}

impl Function {
    fn attribute(&self, which: u32) -> Result<u32> {
        let mut v = 0;
        // SAFETY: writes one int.
        unsafe { self.module.ctx.api()?.function_attribute(&mut v, which, self.handle) }?;
        Ok(u32::try_from(v).unwrap_or(0))
    }

    /// Raises the limit on dynamic shared memory; needed once past 48 KiB.
    fn allow_shared(&self, bytes: u32) -> Result<()> {
        if bytes <= 48 * 1024 || self.allowed.load(Relaxed) >= bytes {
            return Ok(());
        }
        let most = self.module.ctx.facts.shared_optin.max(0) as u32;
        if bytes + self.shared_bytes > most {
            return Err(Failure::Invalid(format!(
                "{} wants {bytes} bytes of dynamic and {} of static shared memory; this device has {most} a block",
                self.name, self.shared_bytes
            )));
        }
        // SAFETY: a live function; the driver checks the value.
        unsafe { self.module.ctx.api()?.function_set_attribute(self.handle, function::MAX_DYNAMIC_SHARED, bytes as c_int) }?;
        self.allowed.store(bytes, Relaxed);
        Ok(())
    }
}
