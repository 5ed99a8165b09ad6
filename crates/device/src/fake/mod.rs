//! A device that exists for tests. It computes for real, by the CPU's kernels on one thread, and keeps time by a clock of its
//! own, so that a test of the harness, a report or an exit code gives the same on every machine; and it can be told to fail.
//!
//! It shows itself only where `RIDGEPOINT_FAKE` is set: no one measures it by mistake.

mod blas;
mod model;
#[cfg(target_os = "linux")]
mod ranks;
mod sensors;
mod settings;

pub use settings::{Settings, VARIABLE};

use crate::cpu::{self, pool::Pool};
use crate::probe::{Discovery, Found, Probe};
use crate::{
    Arg, Buffer, Device, DeviceError, Event, Geometry, Graph, Hold, HostMemory, Kernel, Program, Result, Sensors, Sibling,
    Transfer,
};
use ridgepoint_core::{Backend, Bytes, CacheLevel, DeviceInfo, MeasuredRoof, Seconds, data};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The fake backend.
pub const PROBE: Probe = Probe {
    backend: Backend::Fake,
    discover,
    open: |index| {
        let settings = from_environment().unwrap_or(Ok(Settings::default())).map_err(DeviceError::Invalid)?;
        if GONE.load(Ordering::Relaxed) {
            return Err(DeviceError::Lost("the fake device was told to be lost to this process".into()));
        }
        Ok(Box::new(FakeDevice::numbered(settings, index)))
    },
    doctor: Vec::new,
};

/// That a device of this process was lost to it.
static GONE: AtomicBool = AtomicBool::new(false);

fn from_environment() -> Option<std::result::Result<Settings, String>> {
    std::env::var(VARIABLE).ok().map(|text| text.parse())
}

fn discover() -> Discovery {
    match from_environment() {
        None => Discovery::default(),
        Some(Err(reason)) => Discovery { devices: vec![], absent: Some(reason) },
        Some(Ok(settings)) => {
            let detail = format!("for tests, {}, a clock of its own", settings.memory);
            let found = |index| {
                let info = info(&settings, index);
                Found { id: info.id, name: info.name, detail: detail.clone(), software: false }
            };
            Discovery { devices: (0..settings.devices).map(found).collect(), absent: None }
        }
    }
}

fn info(settings: &Settings, index: usize) -> DeviceInfo {
    let cache = |(name, bytes): (&str, u64)| CacheLevel { name: name.into(), bytes: Bytes(bytes), instances: 1 };
    DeviceInfo {
        id: format!("fake:{index}"),
        backend: Backend::Fake,
        vendor: "Ridgepoint".into(),
        name: "fake device".into(),
        arch: "fake".into(),
        uuid: None,
        pci: None,
        units: 1,
        max_clock_mhz: Some(1000.0),
        memory: settings.memory,
        caches: model::CACHES.map(cache).into(),
        driver: "model 1".into(),
        software: false,
        libraries: vec![],
        measured: vec![MeasuredRoof {
            what: "dram read".into(),
            value: model::MEMORY,
            unit: "B/s".into(),
            dtype: None,
            method: "the fake device's model".into(),
        }],
        facts: BTreeMap::from([("settings".into(), format!("{settings:?}"))]),
    }
}

/// The fake device.
pub struct FakeDevice {
    info: DeviceInfo,
    settings: Settings,
    pool: Arc<Pool>,
    allocated: Arc<AtomicU64>,
    held: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
    power: sensors::Power,
    blas: Option<blas::FakeBlas>,
    #[cfg(target_os = "linux")]
    ranks: Option<ranks::FakeRanks>,
}

#[derive(Default)]
struct State {
    /// The device's clock in seconds.
    now: f64,
    /// Commands executed.
    commands: u64,
    /// What is being captured.
    capture: Option<Vec<Command>>,
}

/// A point on the device's clock.
struct Stamp(f64);

/// Something enqueued, kept for a graph.
#[derive(Clone)]
enum Command {
    Copy {
        src: Buffer,
        src_offset: usize,
        dst: Buffer,
        dst_offset: usize,
        len: usize,
    },
    Fill {
        dst: Buffer,
        byte: u8,
    },
    Launch {
        kernel: Kernel,
        args: Vec<Value>,
    },
    /// Copies over links, each between buffers of its own.
    AtOnce(Vec<(Buffer, usize, Buffer, usize, usize)>),
}

/// An [`Arg`] that owns what it holds.
#[derive(Clone)]
enum Value {
    Buffer(Buffer, usize),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bytes(Vec<u8>),
}

impl From<&Arg<'_>> for Value {
    fn from(arg: &Arg<'_>) -> Self {
        match arg {
            Arg::Buffer(buffer, offset) => Self::Buffer((*buffer).clone(), *offset),
            Arg::U32(x) => Self::U32(*x),
            Arg::I32(x) => Self::I32(*x),
            Arg::U64(x) => Self::U64(*x),
            Arg::F32(x) => Self::F32(*x),
            Arg::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl Value {
    fn arg(&self) -> Arg<'_> {
        match self {
            Self::Buffer(buffer, offset) => Arg::Buffer(buffer, *offset),
            Self::U32(x) => Arg::U32(*x),
            Self::I32(x) => Arg::I32(*x),
            Self::U64(x) => Arg::U64(*x),
            Self::F32(x) => Arg::F32(*x),
            Self::Bytes(bytes) => Arg::Bytes(bytes),
        }
    }
}

impl FakeDevice {
    /// A device with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::numbered(settings, 0)
    }

    fn numbered(settings: Settings, index: usize) -> Self {
        let mut device = Self {
            info: info(&settings, index),
            #[cfg(target_os = "linux")]
            ranks: ranks::FakeRanks::new(&settings),
            settings,
            pool: Arc::new(Pool::new(&[])),
            allocated: Arc::default(),
            held: Arc::default(),
            state: Arc::default(),
            power: Arc::default(),
            blas: None,
        };
        device.blas = blas::FakeBlas::of(&device);
        device
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Result<()> {
        match self.settings.lost_after {
            Some(limit) if self.state().commands >= limit => {
                GONE.fetch_or(self.settings.gone, Ordering::Relaxed);
                Err(DeviceError::Lost(format!("the fake device was told to fail after {limit} commands")))
            }
            _ => Ok(()),
        }
    }

    /// Keeps a command for the graph being captured, or executes it.
    fn enqueue(&self, command: Command) -> Result<()> {
        self.alive()?;
        if let Some(captured) = &mut self.state().capture {
            captured.push(command);
            return Ok(());
        }
        let gap = if self.held.load(Ordering::Relaxed) { 0.0 } else { model::LAUNCH };
        self.execute(&command, gap)
    }

    fn execute(&self, command: &Command, gap: f64) -> Result<()> {
        self.alive()?;
        let seconds = match command {
            Command::Copy { src, src_offset, dst, dst_offset, len } => {
                cpu::copy(&self.pool, src, *src_offset, dst, *dst_offset, *len)?;
                model::moving(2 * *len as u64)
            }
            Command::Fill { dst, byte } => {
                cpu::fill(&self.pool, dst, *byte)?;
                model::moving(dst.len() as u64)
            }
            Command::AtOnce(copies) => {
                for (src, src_offset, dst, dst_offset, len) in copies {
                    cpu::copy(&self.pool, src, *src_offset, dst, *dst_offset, *len)?;
                }
                let each = copies.iter().map(|(.., len)| *len as f64 / model::LINK);
                if self.settings.serial { each.sum() } else { each.fold(0.0, f64::max) }
            }
            Command::Launch { kernel, args } => {
                let args: Vec<Arg<'_>> = args.iter().map(Value::arg).collect();
                let untouched = self.heads(kernel, &args)?;
                cpu::run(kernel, &self.pool, &args)?;
                for (buffer, offset, bytes) in untouched {
                    cpu::write(buffer, offset, &bytes)?;
                }
                self.flip(kernel, &args)?;
                model::kernel(kernel, &args)
            }
        };
        self.pass(gap + seconds);
        self.state().commands += 1;
        Ok(())
    }

    /// For a device that leaves an element unwritten: the first bytes of every operand as they are before a kernel runs.
    fn heads<'a>(&self, kernel: &Kernel, args: &[Arg<'a>]) -> Result<Vec<(&'a Buffer, usize, Vec<u8>)>> {
        let mut heads = Vec::new();
        let faded = self.settings.fading.is_some_and(|limit| self.state().commands >= limit);
        if (self.settings.unwritten || faded) && !kernel.entry.starts_with("rp_init") {
            for arg in args {
                if let Arg::Buffer(buffer, offset) = arg {
                    let mut head = vec![0; buffer.len().saturating_sub(*offset).min(8)];
                    cpu::read(buffer, *offset, &mut head)?;
                    heads.push((*buffer, *offset, head));
                }
            }
        }
        Ok(heads)
    }

    /// For a device that computes wrong now and then: a bit of the last operand, which is the result, is turned over.
    fn flip(&self, kernel: &Kernel, args: &[Arg<'_>]) -> Result<()> {
        let Some(every) = self.settings.flips else { return Ok(()) };
        let result =
            args.iter().rev().find_map(|a| if let Arg::Buffer(buffer, offset) = a { Some((*buffer, *offset)) } else { None });
        let helper = kernel.entry.starts_with("rp_init") || kernel.entry == "rp_differ";
        if let (Some((buffer, offset)), false, 0) = (result, helper, (self.state().commands + 1) % every) {
            let mut byte = [0];
            cpu::read(buffer, offset, &mut byte)?;
            cpu::write(buffer, offset, &[byte[0] ^ 1])?;
        }
        Ok(())
    }

    /// Lets the device's clock run on.
    fn pass(&self, seconds: f64) {
        self.state().pass(&self.settings, seconds);
    }
}

impl State {
    fn pass(&mut self, settings: &Settings, seconds: f64) {
        let noise = f64::from(data::normal(settings.seed, self.commands)) * settings.noise;
        let slower = if settings.throttled { 1.25 } else { 1.0 };
        self.now += seconds * (1.0 + noise) * slower;
    }
}

impl Device for FakeDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, len: usize) -> Result<Buffer> {
        self.alive()?;
        let free = Bytes(self.settings.memory.0.saturating_sub(self.allocated.load(Ordering::Relaxed)));
        if len as u64 > free.0 {
            return Err(DeviceError::OutOfMemory { requested: Bytes(len as u64), free: Some(free) });
        }
        cpu::allocate(&self.pool, &self.allocated, len)
    }

    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        self.alive()?;
        cpu::write(dst, offset, src)
    }

    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.alive()?;
        cpu::read(src, offset, dst)
    }

    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        self.enqueue(Command::Copy { src: src.clone(), src_offset, dst: dst.clone(), dst_offset, len })
    }

    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        self.enqueue(Command::Fill { dst: dst.clone(), byte })
    }

    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        cpu::compile(program, entry)
    }

    fn launch(&self, kernel: &Kernel, _geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        self.enqueue(Command::Launch { kernel: kernel.clone(), args: args.iter().map(Value::from).collect() })
    }

    fn synchronize(&self) -> Result<()> {
        self.alive()
    }

    fn record(&self) -> Result<Event> {
        self.alive()?;
        Ok(Event(Box::new(Stamp(self.state().now))))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        self.alive()?;
        let at = |event: &Event| {
            let stamp = event.0.downcast_ref::<Stamp>();
            stamp.map(|s| s.0).ok_or_else(|| DeviceError::invalid("an event of another device"))
        };
        Ok(Seconds(at(end)? - at(start)?))
    }

    fn hold(&self) -> Result<Option<Hold>> {
        self.alive()?;
        self.held.store(true, Ordering::Relaxed);
        let held = Arc::clone(&self.held);
        Ok(Some(Hold(Some(Box::new(move || held.store(false, Ordering::Relaxed))))))
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        if self.blas.is_some() {
            return Ok(None);
        }
        if self.state().capture.replace(Vec::new()).is_some() {
            return Err(DeviceError::invalid("a capture is under way already"));
        }
        let outcome = body();
        let captured = self.state().capture.take().unwrap_or_default();
        outcome?;
        Ok(Some(Graph(Box::new(captured))))
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        let commands: &Vec<Command> = graph.0.downcast_ref().ok_or_else(|| DeviceError::invalid("a graph of another device"))?;
        commands.iter().try_for_each(|command| self.execute(command, model::LAUNCH_IN_GRAPH))
    }

    fn evict(&self) -> Result<()> {
        self.alive()?;
        self.pass(2.0 * self.info.last_level_cache().0 as f64 / model::MEMORY);
        Ok(())
    }

    fn observed_mhz(&self) -> Result<Option<f64>> {
        self.alive()?;
        Ok(Some(sensors::mhz(&self.settings)))
    }

    fn alloc_host(&self, len: usize) -> Result<Buffer> {
        self.alloc(len)
    }

    fn alloc_host_as(&self, len: usize, kind: HostMemory) -> Result<Buffer> {
        match kind.node {
            Some(node) if node > 0 => Err(DeviceError::unsupported(format!("the fake host has no NUMA node {node}"))),
            _ => self.alloc(len),
        }
    }

    fn copy_at_once(&self, copies: &[Transfer<'_>]) -> Result<()> {
        let owned = |c: &Transfer<'_>| (c.src.clone(), c.src_offset, c.dst.clone(), c.dst_offset, c.len);
        self.enqueue(Command::AtOnce(copies.iter().map(owned).collect()))
    }

    fn siblings(&self) -> usize {
        self.settings.devices
    }

    fn sibling(&self, index: usize) -> Result<Sibling> {
        if index >= self.settings.devices || self.info.id == format!("fake:{index}") {
            return Err(DeviceError::unsupported(format!("{} has no sibling {index}", self.info.id)));
        }
        Ok(Sibling { device: Box::new(Self::numbered(self.settings.clone(), index)), direct: true })
    }

    #[cfg(target_os = "linux")]
    fn collectives(&self) -> Option<&dyn crate::Collectives> {
        self.ranks.as_ref().map(|ranks| ranks as &dyn crate::Collectives)
    }

    fn blas(&self) -> Vec<&dyn crate::Blas> {
        self.blas.iter().map(|blas| blas as &dyn crate::Blas).collect()
    }

    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        Some(Box::new(sensors::FakeSensors { settings: self.settings.clone(), power: Arc::clone(&self.power) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_models_and_nothing_elses() {
        let device = FakeDevice::new(Settings { noise: 0.0, ..Settings::default() });
        let buffer = device.alloc(8 << 20).unwrap();
        let timed = |work: &dyn Fn()| {
            let start = device.record().unwrap();
            work();
            device.elapsed(&start, &device.record().unwrap()).unwrap().0
        };
        let fill = || device.fill(&buffer, 1).unwrap();
        let moved = (8 << 20) as f64 / model::MEMORY;
        assert!((timed(&fill) - moved - model::LAUNCH).abs() < 1e-12);
        let hold = device.hold().unwrap();
        assert!((timed(&fill) - moved).abs() < 1e-12);
        drop(hold);
        let graph = device.capture(&mut || device.fill(&buffer, 2)).unwrap().unwrap();
        assert!((timed(&|| device.replay(&graph).unwrap()) - moved - model::LAUNCH_IN_GRAPH).abs() < 1e-12);
    }

    #[test]
    fn a_lost_device_answers_nothing_but_that() {
        let device = FakeDevice::new(Settings { lost_after: Some(1), ..Settings::default() });
        let buffer = device.alloc(64).unwrap();
        device.fill(&buffer, 1).unwrap();
        assert!(matches!(device.fill(&buffer, 1), Err(DeviceError::Lost(_))));
        assert!(matches!(device.alloc(1), Err(DeviceError::Lost(_))));
        assert!(matches!(device.download(&buffer, 0, &mut [0]), Err(DeviceError::Lost(_))));
    }

    #[test]
    fn memory_is_given_back() {
        let device = FakeDevice::new(Settings { memory: Bytes::mib(1), ..Settings::default() });
        let all = device.alloc(1 << 20).unwrap();
        assert!(matches!(device.alloc(1), Err(DeviceError::OutOfMemory { free: Some(Bytes(0)), .. })));
        drop(all);
        assert!(device.alloc(1 << 20).is_ok());
    }
}
