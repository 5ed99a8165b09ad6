//! What a fake device is like and what is wrong with it.

use ridgepoint_core::Bytes;
use std::str::FromStr;

/// The environment variable that makes a fake device appear beside the real ones: a comma-separated list as [`Settings`] parses
/// it, `healthy` for one without faults.
pub const VARIABLE: &str = "RIDGEPOINT_FAKE";

/// Size, noise and faults of a fake device.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Its memory; an allocation beyond it fails (`memory=64MiB`).
    pub memory: Bytes,
    /// Standard deviation of a command's duration, relative (`noise=0.05`).
    pub noise: f64,
    /// Seed of that noise (`seed=3`).
    pub seed: u64,
    /// Every kernel but those that make inputs leaves the first eight bytes of its result as they were (`unwritten`).
    pub unwritten: bool,
    /// Each so many-th kernel but those that make or compare data flips a bit of its result (`flips=500`).
    pub flips: Option<u64>,
    /// The same, from its so-many-th command on (`fading=20`).
    pub fading: Option<u64>,
    /// It runs at four fifths of its speed and its sensors say so (`throttled`).
    pub throttled: bool,
    /// Ranks that can talk to each other; a collective needs two (`ranks=2`).
    pub ranks: usize,
    /// Devices that there are; copies between them and the host run at the same time (`devices=2`).
    pub devices: usize,
    /// Copies that should run at the same time run one after the other (`serial`).
    pub serial: bool,
    /// One bit of what the last rank receives in a collective is flipped (`corrupt`).
    pub corrupt: bool,
    /// It is lost after so many commands (`lost=20`).
    pub lost_after: Option<u64>,
    /// Once lost, it is lost to this process, as a CUDA device is.
    pub gone: bool,
    /// Algorithms of its matrix library, which it has from one on (`algorithms=12`): the first is not the fastest. A device with such a
    /// library has no graphs, and a sensor of power.
    pub algorithms: usize,
    /// The one of them that does not run (`broken=8`).
    pub broken: Option<usize>,
    /// Its matrix library writes zeros instead of multiplying (`idle`).
    pub idle: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory: Bytes::mib(256),
            noise: 0.002,
            seed: 1,
            unwritten: false,
            flips: None,
            fading: None,
            throttled: false,
            ranks: 1,
            devices: 1,
            serial: false,
            corrupt: false,
            lost_after: None,
            gone: false,
            algorithms: 0,
            broken: None,
            idle: false,
        }
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let wrong = || {
                format!(
                    "{VARIABLE}: '{}' is none of healthy, unwritten, fading=N, throttled, serial, corrupt, flips=N, lost=N, gone=N, ranks=N, devices=N, algorithms=N, broken=N, idle, memory=64MiB, noise=0.05, seed=N",
                    word.escape_debug()
                )
            };
            match (name, value) {
                ("healthy", "") => {}
                ("unwritten", "") => settings.unwritten = true,
                ("fading", n) => settings.fading = Some(n.parse().map_err(|_| wrong())?),
                ("throttled", "") => settings.throttled = true,
                ("serial", "") => settings.serial = true,
                ("devices", n) => settings.devices = n.parse().ok().filter(|n| (1..=8).contains(n)).ok_or_else(wrong)?,
                ("corrupt", "") => settings.corrupt = true,
                ("ranks", n) => settings.ranks = n.parse().ok().filter(|n| (1..=8).contains(n)).ok_or_else(wrong)?,
                ("flips", n) => settings.flips = Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?),
                ("lost", n) => settings.lost_after = Some(n.parse().map_err(|_| wrong())?),
                ("gone", n) => {
                    settings.lost_after = Some(n.parse().map_err(|_| wrong())?);
                    settings.gone = true;
                }
                ("algorithms", n) => settings.algorithms = n.parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(wrong)?,
                ("idle", "") => settings.idle = true,
                ("broken", n) => settings.broken = Some(n.parse().map_err(|_| wrong())?),
                ("memory", size) => settings.memory = size.parse().map_err(|_| wrong())?,
                ("noise", x) => {
                    settings.noise = x.parse().ok().filter(|n: &f64| (0.0..=0.25).contains(n)).ok_or_else(wrong)?;
                }
                ("seed", n) => settings.seed = n.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_what_is_not_known_is_refused() {
        let settings: Settings = "unwritten, fading=7, lost=20,memory=64MiB,noise=0,ranks=3".parse().unwrap();
        let expected = Settings {
            memory: Bytes::mib(64),
            noise: 0.0,
            unwritten: true,
            fading: Some(7),
            ranks: 3,
            lost_after: Some(20),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!("healthy".parse(), Ok(Settings::default()));
        for bad in [
            "broken",
            "lost",
            "fading",
            "noise=2",
            "memory=64",
            "unwritten=1",
            "ranks=0",
            "ranks=9",
            "devices=0",
            "flips=0",
            "algorithms=0",
        ] {
            assert!(bad.parse::<Settings>().unwrap_err().contains(VARIABLE), "{bad}");
        }
    }
}
