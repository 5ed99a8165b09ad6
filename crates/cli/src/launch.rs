//! A run by a launcher (mpirun, srun, torchrun, a Kubernetes job): rank 0 measures and reports, every other process serves it and
//! prints nothing.

use crate::exit::{Exit, Outcome};
use ridgepoint_device::Device;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where torchrun looks for a failed process's own words, to say them in its summary beside the exit code.
const WORDS: &str = "TORCHELASTIC_ERROR_FILE";

/// Leaves a failure's words where the launcher looks for them.
pub(crate) fn tell_launcher(outcome: &Outcome) {
    let Some(path) = std::env::var_os(WORDS).filter(|path| !path.is_empty()) else { return };
    let message = match outcome {
        Ok(Exit::Pass) => return,
        Ok(exit) => {
            format!("ridgepoint ends with {}: a result was wrong, failed or could not be had; it is told above", *exit as i32)
        }
        Err(failure) => format!("ridgepoint ends with {}: {failure}", failure.exit as i32),
    };
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let words = serde_json::json!({ "message": message, "timestamp": timestamp });
    // Where they cannot be left, they are on stderr all the same.
    let _ = std::fs::write(path, words.to_string());
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{Place, join};

#[cfg(target_os = "linux")]
mod linux {
    use super::{Device, Outcome};
    use crate::exit::{Exit, Failure};
    use ridgepoint_device::launched::{self, Combination, Job};
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// What this process is.
    #[derive(Clone)]
    pub(crate) enum Place {
        /// No launcher started it, or it alone.
        Alone,
        /// Rank 0 of a job.
        First(Arc<Job>),
        /// Another rank, whose work is done.
        Done,
    }

    /// Takes this process's place in its job, if there is one: returns at once as rank 0, and at the job's end as another.
    pub(crate) fn join() -> Outcome<Place> {
        let Some(world) = launched::place().map_err(Failure::usage)? else { return Ok(Place::Alone) };
        if world.rank == 0 {
            let waiting = |missing: &[usize], left: Duration| {
                let (first, more) = missing.split_at(missing.len().min(16));
                let list = first.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
                let seconds = left.as_secs();
                let _ = writeln!(
                    std::io::stderr(),
                    "ridgepoint: waiting for {} of {} ranks, {seconds} s more: {list}{more}",
                    missing.len(),
                    world.size
                );
            };
            return Job::lead(&world, &mut { waiting }).map(Place::First).map_err(|e| Failure::environment(e.to_string()));
        }
        // Launchers pass Ctrl-C to every process; when the job ends is for rank 0 to say.
        let once = AtomicBool::new(false);
        let handler = move || {
            if once.swap(true, Ordering::Relaxed) {
                std::process::exit(Exit::Environment as i32);
            }
        };
        ctrlc::set_handler(handler).map_err(|e| Failure::environment(format!("cannot watch for Ctrl-C: {e}")))?;
        launched::follow(&world).map_err(|e| Failure::environment(e.to_string()))?;
        Ok(Place::Done)
    }

    impl Place {
        /// Has a device take part in the job.
        pub(crate) fn take_part(&self, device: &mut dyn Device) -> Outcome<()> {
            match self {
                Self::First(job) => device.join(job).map_err(|e| Failure::environment(e.to_string())),
                _ => Ok(()),
            }
        }

        /// The job's facts, for the record.
        pub(crate) fn facts(&self) -> BTreeMap<String, String> {
            let Self::First(job) = self else { return BTreeMap::new() };
            let hosts = job.hosts().iter().map(|(host, ranks)| format!("{host}: {}", ranks.len())).collect::<Vec<_>>();
            // Of so many as a reader may want to look at.
            let processes = job.peers().iter().take(256).map(|peer| format!("{}/{}", peer.host, peer.process));
            BTreeMap::from([
                ("launcher".into(), job.world.launcher.to_string()),
                ("ranks".into(), job.size().to_string()),
                ("ranks by host".into(), hosts.join(", ")),
                ("rank processes".into(), processes.collect::<Vec<_>>().join(" ")),
            ])
        }

        /// Says that ranks are to talk two by two, before a device takes part: not every engine can.
        pub(crate) fn in_pairs(&self) {
            if let Self::First(job) = self {
                job.in_pairs();
            }
        }

        /// Has the libraries of a job's ranks use this algorithm and protocol, or choose, once devices take part anew.
        pub(crate) fn sweep(&self, choice: Option<(&str, &str)>, limit: Duration) {
            if let Self::First(job) = self {
                job.sweep(Combination { choice: choice.map(|(a, p)| (a.to_owned(), p.to_owned())) }, limit);
            }
        }

        /// Whether a job's ranks take part.
        pub(crate) const fn launched(&self) -> bool {
            matches!(self, Self::First(_))
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{Place, join};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Device, Outcome};
    use std::collections::BTreeMap;

    /// Ranks are processes over what Linux has; elsewhere every process is alone.
    #[derive(Clone)]
    pub(crate) enum Place {
        Alone,
        Done,
    }

    pub(crate) fn join() -> Outcome<Place> {
        Ok(Place::Alone)
    }

    impl Place {
        pub(crate) fn take_part(&self, _device: &mut dyn Device) -> Outcome<()> {
            Ok(())
        }

        pub(crate) fn facts(&self) -> BTreeMap<String, String> {
            BTreeMap::new()
        }

        pub(crate) fn in_pairs(&self) {}

        pub(crate) fn sweep(&self, _choice: Option<(&str, &str)>, _limit: std::time::Duration) {}

        pub(crate) const fn launched(&self) -> bool {
            false
        }
    }
}
