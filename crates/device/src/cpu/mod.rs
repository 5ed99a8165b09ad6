//! The host's own cores as a device in their own right.

use crate::probe::{Discovery, Probe};
use ridgepoint_core::Backend;

/// The CPU backend.
pub const PROBE: Probe = Probe {
    backend: Backend::Cpu,
    discover: Discovery::default,
    open: |_| Err(crate::DeviceError::unsupported("not yet built")),
    doctor: Vec::new,
};
