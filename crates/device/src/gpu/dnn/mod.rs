//! Attention by cuDNN's backend interface, which hipDNN was modelled on: descriptors of tensors, of one operation and of its graph,
//! engines that the library ranks, a plan and a pack of addresses. The functions are the same under names of their own; numbers,
//! masks and the way from a graph to its plans differ, and are in `cuda/cudnn` and `hip/hipdnn`.

mod graph;
#[cfg(test)]
pub(crate) mod proof;
mod run;
mod tensors;

#[cfg(test)]
pub(crate) use graph::Api;
pub(crate) use graph::{Builder, Descriptor, Dnn, Numbers, Outcome, class};
pub(crate) use run::{Plan, Run, Source};
pub(crate) use tensors::{Operands, Tensors};

use super::Shared;
use super::sys::Handle;
use crate::DeviceError;
use crate::dl::CallError;
use std::sync::Arc;

/// Most configurations of engines that are asked for at once.
pub(crate) const ASKED: usize = 16;
/// Most plans that are kept: each is compiled.
pub(crate) const KEPT: usize = 8;
/// Largest workspace that is given.
pub(crate) const WORKSPACE: i64 = 4 << 30;

/// A handle of the library, whose work goes to our stream.
pub(crate) struct Started {
    pub(crate) api: Arc<Dnn>,
    pub(crate) handle: Handle,
    pub(crate) shared: Arc<Shared>,
}

// SAFETY: the handle is used by the thread that has the device, one at a time.
unsafe impl Send for Started {}
// SAFETY: as above.
unsafe impl Sync for Started {}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.shared.ctx.api();
        // SAFETY: made in `new`, destroyed once, and its context, made current, lives as long.
        let _ = unsafe { self.api.destroy(self.handle) };
    }
}

impl Started {
    pub(crate) fn new(api: &Arc<Dnn>, shared: &Arc<Shared>) -> Result<Arc<Self>, String> {
        shared.ctx.api().map_err(|error| error.to_string())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, for the context that was just made current.
        unsafe { api.create(&mut handle) }.map_err(|error| error.to_string())?;
        let started = Self { api: Arc::clone(api), handle, shared: Arc::clone(shared) };
        // SAFETY: both are alive.
        unsafe { api.set_stream(handle, shared.stream.handle) }.map_err(|error| error.to_string())?;
        Ok(Arc::new(started))
    }
}

/// A call that went wrong. These libraries count their codes by themselves: 2 is no lack of memory here.
pub(crate) fn failure(error: CallError) -> DeviceError {
    match error.status() {
        Some(code) => DeviceError::Call { call: error.call, code: i64::from(code), message: error.meaning().to_owned() },
        None => DeviceError::unsupported(error.to_string()),
    }
}
