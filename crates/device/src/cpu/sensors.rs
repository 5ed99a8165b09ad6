//! Clock, load, steal time and temperature, as far as Linux shows them.

use crate::{Reading, Sensors};
use std::collections::BTreeMap;
use std::fs::read_to_string;

/// Reads /proc and /sys.
pub(crate) struct CpuSensors {
    cores: Vec<usize>,
    last: Option<Ticks>,
}

/// Jiffies of all cores since boot.
#[derive(Clone, Copy)]
struct Ticks {
    total: u64,
    steal: u64,
}

impl CpuSensors {
    pub(crate) fn new(cores: Vec<usize>) -> Self {
        Self { cores, last: None }
    }

    /// The mean clock of the cores in use: cpufreq's reading, else the kernel's estimate.
    fn clock_mhz(&self) -> Option<f64> {
        let scaling = |core: &usize| read_to_string(format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")).ok();
        let mut mhz: Vec<f64> =
            self.cores.iter().filter_map(scaling).filter_map(|k| k.trim().parse::<f64>().ok()).map(|k| k / 1e3).collect();
        if mhz.is_empty() {
            let text = read_to_string("/proc/cpuinfo").ok()?;
            mhz = text
                .lines()
                .filter(|l| l.starts_with("cpu MHz"))
                .filter_map(|l| l.split(':').nth(1)?.trim().parse().ok())
                .collect();
        }
        (!mhz.is_empty()).then(|| mhz.iter().sum::<f64>() / mhz.len() as f64)
    }
}

impl Sensors for CpuSensors {
    fn read(&mut self) -> Reading {
        let mut sensors = BTreeMap::new();
        if let Some(mhz) = self.clock_mhz() {
            sensors.insert("clock_mhz", mhz);
        }
        if let Some(load) = read_to_string("/proc/loadavg").ok().and_then(|t| t.split(' ').next()?.parse().ok()) {
            sensors.insert("load_1m", load);
        }
        if let Some(now) = read_to_string("/proc/stat").ok().and_then(|t| ticks(&t)) {
            if let Some(last) = self.last
                && now.total > last.total
            {
                sensors.insert("steal_percent", (now.steal - last.steal) as f64 / (now.total - last.total) as f64 * 100.0);
            }
            self.last = Some(now);
        }
        let zones = (0..16).filter_map(|i| read_to_string(format!("/sys/class/thermal/thermal_zone{i}/temp")).ok());
        if let Some(hottest) = zones.filter_map(|t| t.trim().parse::<f64>().ok()).map(|m| m / 1e3).max_by(f64::total_cmp) {
            sensors.insert("temperature_c", hottest);
        }
        Reading { sensors, ..Reading::default() }
    }
}

/// The line `cpu user nice system idle iowait irq softirq steal …` of /proc/stat (proc(5)).
fn ticks(stat: &str) -> Option<Ticks> {
    let fields: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    Some(Ticks { total: fields.iter().take(8).sum(), steal: *fields.get(7)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_the_eighth_field() {
        let t = ticks("cpu  10 0 5 80 1 0 1 3 0 0\ncpu0 …").unwrap();
        assert_eq!((t.total, t.steal), (100, 3));
        assert!(ticks("").is_none());
    }
}
