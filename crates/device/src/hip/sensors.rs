//! Sensors as the kernel driver shows them: hwmon, RAS counters and the firmware's table of metrics. Each is left out where a
//! board, a driver or a container does not show it.

use super::metrics::{self, MI300, Throttle};
use super::sysfs::{Card, bytes, limited, text};
use crate::Reading;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Error counters are read through the hardware's registers, so they are read less often than the rest.
const RAS_PERIOD: Duration = Duration::from_millis(250);

/// The sensors of one card. Partitions of a card share them.
pub(crate) struct Sensors {
    dir: PathBuf,
    /// Sensor files with their name here and the factor to its unit.
    files: Vec<(PathBuf, &'static str, f64)>,
    ras: Vec<PathBuf>,
    errors: Option<(Instant, Vec<(&'static str, i64)>)>,
    residency: Option<[u32; 5]>,
}

impl Sensors {
    pub(crate) fn open(card: &Card) -> Self {
        let files = first_in(&card.dir.join("hwmon")).map(|hwmon| sensor_files(&hwmon)).unwrap_or_default();
        let ras = list(&card.dir.join("ras"))
            .into_iter()
            .filter(|file| {
                let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name.ends_with("_err_count") || name.starts_with("aca_")
            })
            .collect();
        Self { dir: card.dir.clone(), files, ras, errors: None, residency: None }
    }

    /// `ue: 0` uncorrected, `ce: 0` corrected, `de: 0` deferred, for each block of the chip; summed over the blocks.
    fn errors(&mut self) -> Vec<(&'static str, i64)> {
        if let Some((when, errors)) = &self.errors
            && when.elapsed() < RAS_PERIOD
        {
            return errors.clone();
        }
        let mut sums = [("ue", "ecc_uncorrected", None), ("ce", "ecc_corrected", None), ("de", "ecc_deferred", None)];
        for file in &self.ras {
            for line in limited(file).unwrap_or_default().lines() {
                let Some((kind, count)) = line.split_once(':') else { continue };
                let Ok(count) = count.trim().parse::<i64>() else { continue };
                for (key, _, sum) in &mut sums {
                    if *key == kind.trim() {
                        *sum = Some(sum.unwrap_or(0_i64).saturating_add(count));
                    }
                }
            }
        }
        let errors: Vec<_> = sums.into_iter().filter_map(|(_, name, sum)| Some((name, sum?))).collect();
        self.errors = Some((Instant::now(), errors.clone()));
        errors
    }

    /// Bits and words for the limits that hold the clock back.
    fn throttling(&mut self, throttle: Throttle) -> (u64, Vec<&'static str>) {
        let bits = match throttle {
            Throttle::Common(bits) => return (bits, metrics::common(bits)),
            Throttle::Mi300(bits) => bits,
            Throttle::Residency(now) => {
                let before = self.residency.replace(now).unwrap_or(now);
                (0..MI300.len()).filter(|i| now[*i] != before[*i]).fold(0, |bits, i| bits | 1 << i)
            }
        };
        (u64::from(bits), MI300.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, word)| *word).collect())
    }
}

impl crate::Sensors for Sensors {
    fn read(&mut self) -> Reading {
        let mut r = Reading::default();
        for (file, name, factor) in &self.files {
            if let Some(value) = number(file) {
                r.sensors.insert(name, value * factor);
            }
        }
        if let Some(metrics) = bytes(&self.dir.join("gpu_metrics")).and_then(|table| metrics::parse(&table)) {
            let links = [
                ("pcie_width", metrics.pcie_lanes, 1.0),
                ("pcie_gts", metrics.pcie_speed, 0.1),
                ("xgmi_width", metrics.xgmi_lanes, 1.0),
                ("xgmi_gbps", metrics.xgmi_gbps, 1.0),
            ];
            r.sensors.extend(links.into_iter().filter_map(|(name, value, factor)| Some((name, f64::from(value?) * factor))));
            if let Some(throttle) = metrics.throttle {
                let (bits, words) = self.throttling(throttle);
                (r.throttle_bits, r.throttle_reasons) = (Some(bits), words);
            }
        }
        r.counters.extend(self.errors());
        r.counters.extend(number(&self.dir.join("pcie_replay_count")).map(|n| ("pcie_replays", n as i64)));
        r
    }
}

/// hwmon's files by what their labels say.
fn sensor_files(hwmon: &Path) -> Vec<(PathBuf, &'static str, f64)> {
    let mut files = Vec::new();
    // Power is `average` on older chips and `input` on newer ones, in µW.
    let power = ["power1_input", "power1_average"].map(|name| hwmon.join(name)).into_iter().find(|file| file.is_file());
    files.extend(power.map(|file| (file, "power_w", 1e-6)));
    files.push((hwmon.join("power1_cap"), "power_limit_w", 1e-6));
    let labelled = [
        ("temp", "edge", "temperature_c", 1e-3),
        ("temp", "junction", "junction_temperature_c", 1e-3),
        ("temp", "mem", "memory_temperature_c", 1e-3),
        ("freq", "sclk", "clock_mhz", 1e-6),
        ("freq", "mclk", "mem_clock_mhz", 1e-6),
    ];
    for number in 1..=4 {
        for (kind, label, sensor, factor) in labelled {
            if text(&hwmon.join(format!("{kind}{number}_label"))).as_deref() == Some(label) {
                files.push((hwmon.join(format!("{kind}{number}_input")), sensor, factor));
            }
        }
    }
    files
}

fn number(file: &Path) -> Option<f64> {
    text(file)?.parse().ok().filter(|value: &f64| value.is_finite())
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    all.sort();
    all
}

fn first_in(dir: &Path) -> Option<PathBuf> {
    list(dir).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::table;
    use super::super::sysfs::Sysfs;
    use super::*;
    use crate::Sensors as _;
    use std::fs;

    /// A card with these files below its folder.
    fn card(name: &str, files: &[(&str, &[u8])]) -> (PathBuf, Card) {
        let root = std::env::temp_dir().join(format!("rp-sensors-{}-{name}", std::process::id()));
        let dir = root.join("sys/bus/pci/devices/0000:c1:00.0");
        for (file, contents) in files.iter().chain(&[("vendor", &b"0x1002\n"[..])]) {
            let file = dir.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, contents).unwrap();
        }
        let card = Sysfs::at(&root).card("0000:C1:00.0").unwrap();
        (root, card)
    }

    #[test]
    fn labels_name_the_sensors_and_blocks_are_summed() {
        let limits = table((1, 3), 120, &[(112, &1u64.to_le_bytes()), (74, &[16, 0, 64, 1])]);
        let (root, card) = card(
            "all",
            &[
                ("hwmon/hwmon7/power1_average", b"301000000\n"),
                ("hwmon/hwmon7/power1_cap", b"560000000\n"),
                ("hwmon/hwmon7/temp1_label", b"edge\n"),
                ("hwmon/hwmon7/temp1_input", b"47000\n"),
                ("hwmon/hwmon7/temp2_label", b"junction\n"),
                ("hwmon/hwmon7/temp2_input", b"61000\n"),
                ("hwmon/hwmon7/temp3_label", b"mem\n"),
                ("hwmon/hwmon7/temp3_input", b"not a number\n"),
                ("hwmon/hwmon7/freq1_label", b"sclk\n"),
                ("hwmon/hwmon7/freq1_input", b"1700000000\n"),
                ("hwmon/hwmon7/freq2_label", b"mclk\n"),
                ("hwmon/hwmon7/freq2_input", b"1600000000\n"),
                ("ras/umc_err_count", b"ue: 1\nce: 20\n"),
                ("ras/gfx_err_count", b"ue: 0\nce: 3\n"),
                ("ras/aca_sdma", b"ue: 4\nce: 0\nde: 7\nnonsense\n: \nue: x\n"),
                ("ras/features", b"ue: 1000\n"),
                ("pcie_replay_count", b"2\n"),
                ("gpu_metrics", &limits),
            ],
        );
        let reading = Sensors::open(&card).read();
        let sensors: Vec<_> = reading.sensors.iter().map(|(name, value)| (*name, (value * 10.0).round() / 10.0)).collect();
        let expected = [
            ("clock_mhz", 1700.0),
            ("junction_temperature_c", 61.0),
            ("mem_clock_mhz", 1600.0),
            ("pcie_gts", 32.0),
            ("pcie_width", 16.0),
            ("power_limit_w", 560.0),
            ("power_w", 301.0),
            ("temperature_c", 47.0),
        ];
        assert_eq!(sensors, expected);
        let counters: Vec<_> = reading.counters.into_iter().collect();
        assert_eq!(counters, [("ecc_corrected", 23), ("ecc_deferred", 7), ("ecc_uncorrected", 5), ("pcie_replays", 2)]);
        assert_eq!((reading.throttle_bits, reading.throttle_reasons), (Some(1), vec!["power cap"]));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_limit_is_at_work_while_its_time_grows() {
        let residency = |values: [u32; 5]| table((1, 8), 3872, &[(44, &values.map(u32::to_le_bytes).concat())]);
        let (root, card) = card("residency", &[("gpu_metrics", &residency([9, 5, 0, 0, 1]))]);
        let mut sensors = Sensors::open(&card);
        let mut after = |values| {
            fs::write(card.dir.join("gpu_metrics"), residency(values)).unwrap();
            sensors.read().throttle_reasons
        };
        assert!(after([9, 5, 0, 0, 1]).is_empty(), "what was before the first reading is past");
        assert_eq!(after([9, 8, 0, 0, 2]), ["power cap", "memory thermal"]);
        assert!(after([9, 8, 0, 0, 2]).is_empty());
        fs::write(card.dir.join("gpu_metrics"), b"\xff").unwrap();
        assert_eq!(sensors.read().throttle_bits, None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_card_that_shows_nothing_has_no_readings() {
        let (root, card) = card("bare", &[]);
        assert_eq!(Sensors::open(&card).read(), Reading::default());
        fs::remove_dir_all(root).unwrap();
    }
}
