//! Links: copies between a device and its host by the copy engines, and between devices by those or by a kernel that stores into the
//! other's memory; one way, both ways at once, and from the host to all devices at once. Where several copies run at once, each is also timed alone: the parts' sum against the whole
//! says whether they overlapped.

use crate::cases::Op;
use crate::stream::compare_all;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{
    Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric, Seconds, Verification, Work, data,
};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, HostMemory, Kernel, Program, Result, Timing, Transfer};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready, random, trial};
use std::collections::BTreeMap;

/// Which way bytes go between a device and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    ToDevice,
    ToHost,
    /// Both at once.
    Both,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::ToDevice, Self::ToHost, Self::Both];

    const fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "h2d",
            Self::ToHost => "d2h",
            Self::Both => "bidir",
        }
    }
}

/// What host memory, or how many devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// Page-locked, wherever the system puts it.
    Pinned,
    /// As malloc gives it.
    Pageable,
    /// Page-locked on one NUMA node.
    Node(usize),
    /// Page-locked, and so many devices of the backend at once, from the first on.
    Devices(usize),
}

/// A case of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Between the device and its host, so many bytes each way and device.
    Host(Route, Bytes, Host),
    /// From this device to that of index `to`, or both ways at once.
    Peer { to: usize, bytes: Bytes, both: bool },
}

/// More than a host has.
const MOST: usize = 64;

impl Link {
    pub(crate) fn id(self) -> String {
        match self {
            Self::Host(route, bytes, host) => {
                let host = match host {
                    Host::Pinned => String::new(),
                    Host::Pageable => "/pageable".into(),
                    Host::Node(node) => format!("/node{node}"),
                    Host::Devices(n) => format!("/devices{n}"),
                };
                format!("memory/{}/{bytes}{host}", route.name())
            }
            Self::Peer { to, bytes, both } => format!("memory/p2p/{bytes}/to{to}{}", if both { "/bidir" } else { "" }),
        }
    }

    /// The link of an id's parts: the name, the size and the rest. The caller holds it to the canonical spelling.
    pub(crate) fn parse(name: &str, bytes: Bytes, rest: &[&str]) -> Option<Self> {
        let number = |text: &str, prefix: &str| text.strip_prefix(prefix)?.parse().ok().filter(|n| *n < MOST);
        if let ("p2p", [to, rest @ ..]) = (name, rest) {
            return Some(Self::Peer { to: number(to, "to")?, bytes, both: rest == ["bidir"] });
        }
        let route = Route::ALL.into_iter().find(|r| r.name() == name)?;
        let host = match rest {
            [] => Host::Pinned,
            ["pageable"] => Host::Pageable,
            [other] => match number(other, "node") {
                Some(node) => Host::Node(node),
                None => Host::Devices(number(other, "devices").filter(|n| *n > 1 && route != Route::Both)?),
            },
            _ => return None,
        };
        Some(Self::Host(route, bytes, host))
    }

    /// Copies that run at once, each of so many bytes.
    fn copies(self) -> (u64, Bytes) {
        match self {
            Self::Host(_, bytes, Host::Devices(n)) => (n as u64, bytes),
            Self::Host(Route::Both, bytes, _) | Self::Peer { bytes, both: true, .. } => (2, bytes),
            Self::Host(_, bytes, _) | Self::Peer { bytes, .. } => (1, bytes),
        }
    }

    pub(crate) fn case(self) -> Option<Case> {
        let (copies, bytes) = self.copies();
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Memory,
            dtype: Dtype::F32,
            metric: Metric::Bandwidth,
            level: if matches!(self, Self::Host(..)) { Level::Host } else { Level::Peer },
            work: Work { links: (copies > 1).then_some(copies as u32), ..Work::bytes(bytes * copies) },
            cache: Cache::Cold,
            data: Distribution::Normal,
        })
    }
}

/// One copy: what it moves, and whose the memory at its end is.
struct Part {
    from: Buffer,
    to: Buffer,
    /// Of the data.
    seed: u64,
    /// Index into the devices of the case; the case's own is the first.
    owner: usize,
    /// The end cannot be filled by the device.
    pageable: bool,
}

struct Copies<'d> {
    device: &'d dyn Device,
    siblings: Vec<Box<dyn Device>>,
    parts: Vec<Part>,
    /// One copy that the device can make alone.
    alone: bool,
    /// The kernel that copies, of each device that sends; empty where copy engines do.
    kernels: Vec<Kernel>,
}

/// Threads of a block (RP_BLOCK of stream.cu), and its floats of a tile.
const BLOCK: u32 = 512;
const TILE: u64 = 512 * 4 * 4;

pub(crate) fn prepare<'d>(link: Link, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let (_, bytes) = link.copies();
    let mut copies = Copies { device, siblings: vec![], parts: vec![], alone: false, kernels: vec![] };
    let mut labels = Vec::new();
    match link {
        Link::Host(route, _, host) => {
            let n = if let Host::Devices(n) = host { n } else { 1 };
            if n > device.siblings() {
                let there = device.siblings();
                return Err(DeviceError::unsupported(format!("{n} devices are asked for and there are {there}")));
            }
            // The case's own device is one of them; the others are the first that are not it.
            let own = index(device);
            for sibling in (0..device.siblings()).filter(|i| *i != own).take(n - 1) {
                copies.siblings.push(device.sibling(sibling)?.device);
            }
            let (pageable, node) = (host == Host::Pageable, if let Host::Node(node) = host { Some(node) } else { None });
            for owner in 0..n {
                for to_device in [true, false] {
                    if route == Route::Both || (route == Route::ToDevice) == to_device {
                        copies.between(owner, to_device, bytes, HostMemory { pageable, node }, seed)?;
                    }
                }
            }
            copies.alone = copies.parts.len() == 1;
        }
        Link::Peer { to, both, .. } => {
            let sibling = device.sibling(to)?;
            if !sibling.direct {
                labels.push("through the host: the two do not reach each other's memory".to_owned());
            }
            copies.siblings.push(sibling.device);
            copies.peer(0, 1, bytes, seed)?;
            if both {
                copies.peer(1, 0, bytes, seed)?;
            }
            if provider == "kernel" {
                if !sibling.direct {
                    let ids = format!("{} and device {to}", device.info().id);
                    return Err(DeviceError::unsupported(format!("{ids} do not reach each other's memory: no kernel can copy")));
                }
                for source in 0..copies.parts.len() {
                    let program = Program { name: "memory/stream", ..Program::default() };
                    copies.kernels.push(copies.at(source).compile(&program, "rp_copy")?);
                }
            }
        }
    }
    (0..=copies.siblings.len()).try_for_each(|i| copies.at(i).synchronize())?;
    let mut config = BTreeMap::new();
    if let Some(part) = copies.parts.first().filter(|_| !copies.kernels.is_empty()) {
        config.insert("launch".into(), format!("{} blocks of {BLOCK}, storing into the other's memory", blocks(part)));
    }
    if !copies.siblings.is_empty() {
        let ids: Vec<&str> = (0..=copies.siblings.len()).map(|i| copies.at(i).info().id.as_str()).collect();
        config.insert("devices".into(), ids.join(", "));
    }
    Ok(Prepared { ready: Box::new(copies), config, labels, dtype: Dtype::F32 })
}

/// A block a tile.
fn blocks(part: &Part) -> u32 {
    (part.to.len() as u64 / 4).div_ceil(TILE).clamp(1, u64::from(u32::MAX >> 1)) as u32
}

/// The number in a device's id.
fn index(device: &dyn Device) -> usize {
    device.info().id.split_once(':').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

impl Copies<'_> {
    fn at(&self, owner: usize) -> &dyn Device {
        match owner {
            0 => self.device,
            n => self.siblings[n - 1].as_ref(),
        }
    }

    /// A copy between a device and host memory of its own.
    fn between(&mut self, owner: usize, to_device: bool, bytes: Bytes, kind: HostMemory, seed: u64) -> Result<()> {
        let seed = data::operand_seed(seed, self.parts.len() as u64);
        let device = self.at(owner);
        let len = bytes.0 as usize;
        let host = device.alloc_host_as(len, kind)?;
        let made = random(device, Dtype::F32, seed, bytes.0 / 4)?;
        let (from, to) = if to_device {
            device.copy(&made, 0, &host, 0, len)?;
            device.synchronize()?;
            (host, device.alloc(len)?)
        } else {
            (made, host)
        };
        self.parts.push(Part { from, to, seed, owner, pageable: kind.pageable && !to_device });
        Ok(())
    }

    /// A copy from one device's memory to another's.
    fn peer(&mut self, source: usize, owner: usize, bytes: Bytes, seed: u64) -> Result<()> {
        let seed = data::operand_seed(seed, self.parts.len() as u64);
        let from = random(self.at(source), Dtype::F32, seed, bytes.0 / 4)?;
        let to = self.at(owner).alloc(bytes.0 as usize)?;
        self.parts.push(Part { from, to, seed, owner, pageable: false });
        Ok(())
    }

    /// Has the source of part `i` copy it by a kernel of its own.
    fn launch(&self, i: usize) -> Result<()> {
        let part = &self.parts[i];
        let args = [Arg::Buffer(&part.from, 0), Arg::Buffer(&part.to, 0), Arg::U64(part.to.len() as u64 / 4), Arg::U32(0)];
        self.at(i).launch(&self.kernels[i], Geometry::linear(blocks(part), BLOCK), &args)
    }

    /// All parts by kernels, `n` times, each in its source's queue; waits for them.
    fn launch_all(&self, n: u64) -> Result<()> {
        for _ in 0..n {
            (0..self.parts.len()).try_for_each(|i| self.launch(i))?;
        }
        (0..self.parts.len()).try_for_each(|i| self.at(i).synchronize())
    }

    fn go(&self, parts: &[Part]) -> Result<()> {
        match parts {
            [part] if self.alone => self.device.copy(&part.from, 0, &part.to, 0, part.to.len()),
            parts => {
                let transfers: Vec<Transfer<'_>> = parts.iter().map(|p| Transfer::whole(&p.from, &p.to)).collect();
                self.device.copy_at_once(&transfers)
            }
        }
    }

    /// The parts one after the other against all at once: how many of them ran at a time.
    fn overlap(&self) -> Result<String> {
        let time = |parts: &[Part]| Ok(trial(self.device, &mut |_| self.go(parts))?.0);
        let alone = self.parts.chunks(1).map(time).sum::<Result<f64>>()?;
        let whole = time(&self.parts)?;
        Ok(format!(
            "{:.2} of {} at a time: {:.2} ms one by one, {:.2} ms at once",
            alone / whole,
            self.parts.len(),
            alone * 1e3,
            whole * 1e3
        ))
    }
}

impl Ready for Copies<'_> {
    fn cold_by_itself(&self) -> bool {
        self.parts.iter().all(|part| part.to.len() as u64 > 2 * self.device.info().last_level_cache().0)
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        match self.kernels.len() {
            0 => self.go(&self.parts),
            1 => self.launch(0),
            _ => self.launch_all(1),
        }
    }

    /// Kernels of two devices have no clock but the host's.
    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        (self.kernels.len() > 1).then(|| {
            let start = std::time::Instant::now();
            self.launch_all(n)?;
            Ok(Timing { seconds: Seconds(start.elapsed().as_secs_f64()), clock: Clock::Host })
        })
    }

    fn poison(&mut self) -> Result<()> {
        for part in &self.parts {
            let device = self.at(part.owner);
            if part.pageable {
                let poison = vec![0xff; part.to.len().min(CHUNK)];
                for at in (0..part.to.len()).step_by(CHUNK) {
                    device.upload(&part.to, at, &poison[..CHUNK.min(part.to.len() - at)])?;
                }
            } else {
                device.fill(&part.to, 0xff)?;
            }
        }
        // Copies are enqueued by the first device, which must not overtake the others' fills.
        self.siblings.iter().try_for_each(|s| s.synchronize())
    }

    fn check(&mut self) -> Result<Verification> {
        self.device.synchronize()?;
        let mut total = Comparison::new(0.0);
        for part in &self.parts {
            total.merge(compare_all(self.at(part.owner), &part.to, Op::Copy, (part.seed, 0))?);
        }
        Ok(total.finish("every element of every copy, exact"))
    }

    fn observed(&self) -> BTreeMap<String, String> {
        if self.parts.len() < 2 || !self.kernels.is_empty() {
            return BTreeMap::new();
        }
        let overlap = self.overlap().unwrap_or_else(|error| format!("not known: {error}"));
        BTreeMap::from([("overlap".into(), overlap)])
    }
}

/// Poison brought to pageable memory at once.
const CHUNK: usize = 16 << 20;
