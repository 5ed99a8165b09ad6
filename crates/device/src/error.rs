//! What can go wrong on a device. Each message says what happened; where there is something to do about it, it says that.

use ridgepoint_core::Bytes;

/// The result of every call on a device.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// A failure of a device or of a library behind it. After any of them but `Lost` the device stays usable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device has no memory left for this.
    #[error("out of device memory: {requested} asked for{}", free.map(|f| format!(", {f} free")).unwrap_or_default())]
    OutOfMemory {
        /// What was asked for.
        requested: Bytes,
        /// What is free, where the device says.
        free: Option<Bytes>,
    },
    /// It cannot be done on this device; becomes a Skipped with this reason.
    #[error("{0}")]
    Unsupported(String),
    /// A kernel did not compile.
    #[error("{program} does not compile for {arch}: {log}")]
    Compile {
        /// Which program.
        program: String,
        /// For which architecture.
        arch: String,
        /// The compiler's own words.
        log: String,
    },
    /// A driver or library call failed.
    #[error("{call} failed: {message} ({code})")]
    Call {
        /// The function.
        call: &'static str,
        /// Its status code.
        code: i64,
        /// The library's own words for it.
        message: String,
    },
    /// The device is gone (reset, fallen off the bus); it must be opened anew.
    #[error("the device is lost: {0}")]
    Lost(String),
    /// The caller asked for something that makes no sense: a range past a buffer's end, another device's buffer.
    #[error("{0}")]
    Invalid(String),
}

impl DeviceError {
    /// Shorthand for [`DeviceError::Unsupported`].
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported(reason.into())
    }

    /// Shorthand for [`DeviceError::Invalid`].
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }
}
