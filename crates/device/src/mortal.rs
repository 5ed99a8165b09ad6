//! Processes that end with the one that started them, however that ends.

use std::process::Command;

/// Has a command be killed when the thread that starts it ends.
#[cfg(target_os = "linux")]
pub fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec one system call is made, which allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Elsewhere no system offers that.
#[cfg(not(target_os = "linux"))]
pub fn die_with_parent(_command: &mut Command) {}
