//! Sensors through NVML. Each is an `Option`: a sensor that a board, a driver or a container lacks is left out.

use crate::Reading;
use crate::dl::{CallError, text};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};

type Device = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct FieldValue {
    pub(crate) id: u32,
    pub(crate) scope: u32,
    pub(crate) timestamp: i64,
    pub(crate) latency_us: i64,
    pub(crate) kind: u32,
    pub(crate) status: i32,
    /// A union; little-endian, so that the low bytes are the narrow members.
    pub(crate) value: u64,
}

/// What happened to a device, of which only the fact counts here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct EventData {
    device: Device,
    pub(crate) kind: u64,
    pub(crate) data: u64,
    instances: [u32; 2],
}

crate::dl::table! {
    /// `libnvidia-ml.so.1`.
    pub struct Nvml;
    status {
        fn init() = ["nvmlInit_v2"];
        fn driver_version_text(s: *mut c_char, n: u32) = ["nvmlSystemGetDriverVersion"];
        fn nvml_version_text(s: *mut c_char, n: u32) = ["nvmlSystemGetNVMLVersion"];
        fn by_pci(id: *const c_char, d: *mut Device) = ["nvmlDeviceGetHandleByPciBusId_v2"];
        fn clock(d: Device, kind: u32, mhz: *mut u32) = ["nvmlDeviceGetClockInfo"];
        fn max_clock(d: Device, kind: u32, mhz: *mut u32) = ["nvmlDeviceGetMaxClockInfo"];
        fn power(d: Device, mw: *mut u32) = ["nvmlDeviceGetPowerUsage"];
        fn power_limit(d: Device, mw: *mut u32) = ["nvmlDeviceGetEnforcedPowerLimit"];
        fn energy(d: Device, mj: *mut u64) = ["nvmlDeviceGetTotalEnergyConsumption"];
        fn temperature(d: Device, sensor: u32, c: *mut u32) = ["nvmlDeviceGetTemperature"];
        fn throttle(d: Device, bits: *mut u64) = ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"];
        fn ecc_mode(d: Device, current: *mut u32, pending: *mut u32) = ["nvmlDeviceGetEccMode"];
        fn ecc_errors(d: Device, kind: u32, counter: u32, n: *mut u64) = ["nvmlDeviceGetTotalEccErrors"];
        fn remapped(d: Device, cor: *mut u32, unc: *mut u32, pending: *mut u32, failed: *mut u32) = ["nvmlDeviceGetRemappedRows"];
        fn pcie_gen(d: Device, n: *mut u32) = ["nvmlDeviceGetCurrPcieLinkGeneration"];
        fn pcie_gen_max(d: Device, n: *mut u32) = ["nvmlDeviceGetMaxPcieLinkGeneration"];
        fn pcie_width(d: Device, n: *mut u32) = ["nvmlDeviceGetCurrPcieLinkWidth"];
        fn pcie_width_max(d: Device, n: *mut u32) = ["nvmlDeviceGetMaxPcieLinkWidth"];
        fn pcie_replays(d: Device, n: *mut u32) = ["nvmlDeviceGetPcieReplayCounter"];
        fn nvlink_state(d: Device, link: u32, active: *mut u32) = ["nvmlDeviceGetNvLinkState"];
        fn mig_mode(d: Device, current: *mut u32, pending: *mut u32) = ["nvmlDeviceGetMigMode"];
        fn event_set(set: *mut *mut c_void) = ["nvmlEventSetCreate"];
        fn watch(d: Device, kinds: u64, set: *mut c_void) = ["nvmlDeviceRegisterEvents"];
        fn event(set: *mut c_void, data: *mut EventData, timeout_ms: u32) = ["nvmlEventSetWait_v2", "nvmlEventSetWait"];
        fn event_set_free(set: *mut c_void) = ["nvmlEventSetFree"];
        fn fields(d: Device, n: c_int, values: *mut FieldValue) = ["nvmlDeviceGetFieldValues"];
    }
    raw {
        fn error_string(code: i32) -> *const c_char = ["nvmlErrorString"];
    }
}

impl Nvml {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: returns a static string for any code.
        unsafe { self.error_string(code).map(|p| text(p)) }.unwrap_or_default()
    }

    pub(crate) fn versions(&self) -> Result<(String, String), CallError> {
        let (mut driver, mut own) = ([0_u8; 96], [0_u8; 96]);
        // SAFETY: writes within the lengths given.
        unsafe {
            self.init()?;
            self.driver_version_text(driver.as_mut_ptr().cast(), 95)?;
            self.nvml_version_text(own.as_mut_ptr().cast(), 95)?;
        }
        let s = |b: &[u8]| String::from_utf8_lossy(b.split(|c| *c == 0).next().unwrap_or(&[])).into_owned();
        Ok((s(&driver), s(&own)))
    }
}

/// The bits of `nvmlClocksEventReasons`. Idle, application clocks and display clocks are states, not throttling.
pub(crate) const REASONS: &[(u64, &str, bool)] = &[
    (0x001, "idle", false),
    (0x002, "application clocks", false),
    (0x004, "power cap", true),
    (0x008, "hardware slowdown", true),
    (0x010, "sync boost", true),
    (0x020, "software thermal", true),
    (0x040, "hardware thermal", true),
    (0x080, "power brake", true),
    (0x100, "display clocks", false),
];

const FIELD_MEMORY_TEMPERATURE: u32 = 82;
const FIELD_POWER_INSTANT: u32 = 186;
const NVLINKS: u32 = 18;
const EVENT_XID: u64 = 8;

pub(crate) struct Sensors {
    api: std::sync::Arc<Nvml>,
    device: Device,
    /// Events of this device since it was opened here; null where they cannot be had (a MIG instance, a container).
    events: *mut c_void,
    xids: i64,
}
// SAFETY: NVML is thread-safe by its manual; the handles are tokens.
unsafe impl Send for Sensors {}

impl Drop for Sensors {
    fn drop(&mut self) {
        if !self.events.is_null() {
            // SAFETY: made by `open`, freed once.
            let _ = unsafe { self.api.event_set_free(self.events) };
        }
    }
}

impl Sensors {
    /// By PCI address, which is right for a MIG instance (its parent's sensors) and under CUDA_VISIBLE_DEVICES.
    pub(crate) fn open(api: std::sync::Arc<Nvml>, pci: &str) -> Result<Self, CallError> {
        let c = CString::new(pci).unwrap_or_default();
        let mut device = std::ptr::null_mut();
        // SAFETY: NVML counts initialisations; the string is NUL-terminated.
        unsafe {
            api.init()?;
            api.by_pci(c.as_ptr(), &mut device)?;
        }
        let mut sensors = Self { api, device, events: std::ptr::null_mut(), xids: 0 };
        // SAFETY: a live handle; writes one pointer, which `drop` frees whether or not the device can be watched.
        unsafe {
            if sensors.api.event_set(&mut sensors.events).is_ok() && sensors.api.watch(device, EVENT_XID, sensors.events).is_err()
            {
                let _ = sensors.api.event_set_free(std::mem::replace(&mut sensors.events, std::ptr::null_mut()));
            }
        }
        Ok(sensors)
    }

    /// What changes from moment to moment: few calls, each of a few microseconds.
    pub(crate) fn glance(&self) -> Reading {
        let (api, d) = (&*self.api, self.device);
        let mut r = Reading::default();
        let mut word = |name, scale: f64, get: &dyn Fn(&mut u32) -> Result<(), CallError>| {
            let mut v = 0;
            if get(&mut v).is_ok() {
                r.sensors.insert(name, f64::from(v) * scale);
            }
        };
        // SAFETY: a live handle; each call writes one value of the type it is given.
        unsafe {
            word("sm_clock_mhz", 1.0, &|v| api.clock(d, 1, v));
            word("mem_clock_mhz", 1.0, &|v| api.clock(d, 2, v));
            word("power_w", 1e-3, &|v| api.power(d, v));
            word("power_limit_w", 1e-3, &|v| api.power_limit(d, v));
            word("temperature_c", 1.0, &|v| api.temperature(d, 0, v));
            // Under load: it rests at a lower generation.
            word("pcie_gen", 1.0, &|v| api.pcie_gen(d, v));
            word("pcie_width", 1.0, &|v| api.pcie_width(d, v));
        }
        let mut fields = [FIELD_MEMORY_TEMPERATURE, FIELD_POWER_INSTANT].map(|id| FieldValue { id, ..FieldValue::default() });
        // SAFETY: as many values as said.
        if unsafe { api.fields(d, fields.len() as c_int, fields.as_mut_ptr()) }.is_ok() {
            for (f, name, scale) in [(fields[0], "memory_temperature_c", 1.0), (fields[1], "power_instant_w", 1e-3)] {
                if f.status == 0 {
                    r.sensors.insert(name, f64::from(f.value as u32) * scale);
                }
            }
        }
        let mut bits = 0;
        // SAFETY: as above.
        if unsafe { api.throttle(d, &mut bits) }.is_ok() {
            r.throttle_bits = Some(bits);
            r.throttle_reasons = REASONS.iter().filter(|(bit, _, bad)| *bad && bits & bit != 0).map(|x| x.1).collect();
        }
        r
    }

    /// All there is: also the links, which a device lets sleep, and the counters, which cost milliseconds on some boards.
    pub(crate) fn read(&mut self) -> Reading {
        let mut r = self.glance();
        self.take_xids(&mut r);
        let (api, d) = (&*self.api, self.device);
        r.sensors.insert("nvlinks_up", self.nvlinks_up());
        let (mut n, mut m) = (0_u64, 0_u32);
        // SAFETY: a live handle; each call writes values of the types that it is given.
        unsafe {
            let (mut corrected, mut uncorrected) = (0, 0);
            if api.remapped(d, &mut corrected, &mut uncorrected, &mut 0, &mut 0).is_ok() {
                r.counters.insert("rows_remapped", i64::from(corrected) + i64::from(uncorrected));
            }
            for (name, kind) in [("ecc_corrected", 0), ("ecc_uncorrected", 1)] {
                if api.ecc_errors(d, kind, 0, &mut n).is_ok() {
                    r.counters.insert(name, i64::try_from(n).unwrap_or(i64::MAX));
                }
            }
            if api.pcie_replays(d, &mut m).is_ok() {
                r.counters.insert("pcie_replays", i64::from(m));
            }
            if api.energy(d, &mut n).is_ok() {
                r.counters.insert("energy_mj", i64::try_from(n).unwrap_or(i64::MAX));
            }
        }
        r
    }

    /// Critical errors that the driver told of since these sensors were opened.
    fn take_xids(&mut self, into: &mut Reading) {
        if self.events.is_null() {
            return;
        }
        let mut event = EventData { device: std::ptr::null_mut(), kind: 0, data: 0, instances: [0; 2] };
        // A device in agony may tell of more without end.
        for _ in 0..64 {
            // SAFETY: a live set; writes one event, and does not wait.
            if unsafe { self.api.event(self.events, &mut event, 0) }.is_err() {
                break;
            }
            self.xids += i64::from(event.kind == EVENT_XID);
        }
        into.counters.insert("xid", self.xids);
    }

    fn nvlinks_up(&self) -> f64 {
        let up = (0..NVLINKS).filter(|link| {
            let mut on = 0;
            // SAFETY: a live handle; writes one int. A link that does not exist is a status.
            unsafe { self.api.nvlink_state(self.device, *link, &mut on) }.is_ok() && on == 1
        });
        up.count() as f64
    }

    /// What stays, read once when a device is opened.
    pub(crate) fn fixed(&self) -> BTreeMap<&'static str, f64> {
        let (api, d) = (&*self.api, self.device);
        let mut out = BTreeMap::new();
        let mut word = |name, get: &dyn Fn(&mut u32) -> Result<(), CallError>| {
            let mut v = 0;
            if get(&mut v).is_ok() {
                out.insert(name, f64::from(v));
            }
        };
        // SAFETY: a live handle; each call writes one value of the type it is given.
        unsafe {
            word("sm_mhz_max", &|v| api.max_clock(d, 1, v));
            word("memory_mhz_max", &|v| api.max_clock(d, 2, v));
            word("pcie_gen", &|v| api.pcie_gen(d, v));
            word("pcie_gen_max", &|v| api.pcie_gen_max(d, v));
            word("pcie_width", &|v| api.pcie_width(d, v));
            word("pcie_width_max", &|v| api.pcie_width_max(d, v));
            word("ecc_mode", &|v| api.ecc_mode(d, v, &mut 0));
            word("mig_mode", &|v| api.mig_mode(d, v, &mut 0));
            word("rows_remapped_corrected", &|v| api.remapped(d, v, &mut 0, &mut 0, &mut 0));
            word("rows_remapped_uncorrected", &|v| api.remapped(d, &mut 0, v, &mut 0, &mut 0));
            word("row_remap_pending", &|v| api.remapped(d, &mut 0, &mut 0, v, &mut 0));
            word("row_remap_failed", &|v| api.remapped(d, &mut 0, &mut 0, &mut 0, v));
        }
        out.insert("nvlinks_up", self.nvlinks_up());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvml_wrapper_sys::bindings as oracle;
    use std::mem::{offset_of, size_of};

    #[test]
    fn layout_and_numbers_agree_with_generated_bindings() {
        assert_eq!(size_of::<FieldValue>(), size_of::<oracle::nvmlFieldValue_t>());
        assert_eq!(offset_of!(FieldValue, status), offset_of!(oracle::nvmlFieldValue_t, nvmlReturn));
        assert_eq!(offset_of!(FieldValue, value), offset_of!(oracle::nvmlFieldValue_t, value));
        assert_eq!(size_of::<EventData>(), size_of::<oracle::nvmlEventData_t>());
        assert_eq!(offset_of!(EventData, kind), offset_of!(oracle::nvmlEventData_t, eventType));
        assert_eq!(EVENT_XID, u64::from(oracle::nvmlEventTypeXidCriticalError));
        assert_eq!(FIELD_MEMORY_TEMPERATURE, oracle::field_id::NVML_FI_DEV_MEMORY_TEMP);
        assert_eq!(FIELD_POWER_INSTANT, oracle::field_id::NVML_FI_DEV_POWER_INSTANT);
        let theirs = [
            oracle::nvmlClocksEventReasonGpuIdle,
            oracle::nvmlClocksEventReasonApplicationsClocksSetting,
            oracle::nvmlClocksEventReasonSwPowerCap,
            oracle::nvmlClocksThrottleReasonHwSlowdown,
            oracle::nvmlClocksEventReasonSyncBoost,
            oracle::nvmlClocksEventReasonSwThermalSlowdown,
            oracle::nvmlClocksThrottleReasonHwThermalSlowdown,
            oracle::nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
            oracle::nvmlClocksEventReasonDisplayClockSetting,
        ];
        assert_eq!(REASONS.iter().map(|r| r.0).collect::<Vec<_>>(), theirs.map(u64::from));
    }
}
