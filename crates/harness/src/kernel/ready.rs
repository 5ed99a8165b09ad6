//! A user's kernel made ready: arrays in sets that are rotated over so that each run finds them cold, every element of every result
//! checked, and what is only read found unchanged.

use super::reference::Reference;
use crate::{Prepared, Ready, operand_sets};
use ridgepoint_core::kernel::{Argument, Operand, Role, Scalar, Spec};
use ridgepoint_core::{Backend, Bytes, Cache, Seconds, Verification};
use ridgepoint_device::{Arg, Buffer, Device, Geometry, Kernel, Result, Timing};
use std::collections::BTreeMap;

/// Bytes brought to the host at once.
const CHUNK: usize = 16 << 20;

pub(super) fn prepare<'d>(
    spec: &Spec,
    kernel: Kernel,
    inputs: Vec<Vec<u8>>,
    reference: Reference,
    device: &'d dyn Device,
) -> Result<Prepared<'d>> {
    let (info, launch) = (device.info(), spec.launch);
    let total = spec.operands().map(|o| o.bytes().0).sum::<u64>().max(1);
    let far = 2 * info.last_level_cache().0;
    let restored = spec.operands().any(|o| o.role == Role::InOut);
    let count = if spec.cache == Cache::Hot || restored { 1 } else { operand_sets(info, Bytes(total), Bytes(total)) };
    let mut sets: Vec<Vec<Buffer>> = Vec::new();
    for _ in 0..count {
        let buffers = spec.operands().map(|o| device.alloc(o.bytes().0 as usize)).collect::<Result<Vec<_>>>()?;
        for (at, (buffer, bytes)) in buffers.iter().zip(&inputs).enumerate().filter(|(_, (_, bytes))| !bytes.is_empty()) {
            match sets.first() {
                // The host's bytes travel once.
                Some(first) => device.copy(&first[at], 0, buffer, 0, buffer.len())?,
                None => device.upload(buffer, 0, bytes)?,
            }
        }
        sets.push(buffers);
    }
    let mut kept = Vec::new();
    for (operand, bytes) in spec.operands().zip(&inputs) {
        kept.push(match operand.role {
            Role::InOut => {
                let buffer = device.alloc(bytes.len())?;
                device.upload(&buffer, 0, bytes)?;
                Some(buffer)
            }
            _ => None,
        });
    }
    device.synchronize()?;
    let mut config = BTreeMap::from([("operand sets".to_owned(), count.to_string())]);
    if !matches!(info.backend, Backend::Cpu | Backend::Fake) {
        config.insert("launch".into(), format!("grid {:?} block {:?} shared {}", launch.grid, launch.block, launch.shared_bytes));
    }
    let geometry = Geometry { grid: launch.grid, block: launch.block, shared_bytes: launch.shared_bytes, cluster: [1; 3] };
    let ready = Run {
        device,
        arguments: spec.arguments.clone(),
        operands: spec.operands().cloned().collect(),
        cold: spec.cache == Cache::Cold,
        far: total > far,
        kernel,
        geometry,
        inputs,
        reference,
        sets,
        kept,
    };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec!["user's kernel".into()], dtype: spec.dtype })
}

struct Run<'d> {
    device: &'d dyn Device,
    arguments: Vec<Argument>,
    /// The arrays among them.
    operands: Vec<Operand>,
    cold: bool,
    /// One execution moves more than the caches hold.
    far: bool,
    kernel: Kernel,
    geometry: Geometry,
    /// What each array holds before an execution.
    inputs: Vec<Vec<u8>>,
    reference: Reference,
    sets: Vec<Vec<Buffer>>,
    /// Of each array that is read and written, what it was.
    kept: Vec<Option<Buffer>>,
}

impl Run<'_> {
    fn restores(&self) -> bool {
        self.kept.iter().any(Option::is_some)
    }

    /// Puts back what the kernel both reads and writes.
    fn restore(&self) -> Result<()> {
        for set in &self.sets {
            for (buffer, kept) in set.iter().zip(&self.kept) {
                if let Some(kept) = kept {
                    self.device.copy(kept, 0, buffer, 0, buffer.len())?;
                }
            }
        }
        Ok(())
    }

    fn launch(&self, turn: usize) -> Result<()> {
        let mut buffers = self.sets[turn].iter();
        let args: Vec<Arg<'_>> = self
            .arguments
            .iter()
            .filter_map(|argument| match argument {
                Argument::Buffer(_) => buffers.next().map(|b| Arg::Buffer(b, 0)),
                Argument::Scalar { value, .. } => Some(match *value {
                    Scalar::U32(x) => Arg::U32(x),
                    Scalar::I32(x) => Arg::I32(x),
                    Scalar::U64(x) => Arg::U64(x),
                    Scalar::F32(x) => Arg::F32(x),
                }),
            })
            .collect();
        self.device.launch(&self.kernel, self.geometry, &args)
    }

    /// Executions each of which finds its arrays as they were, and, where the case is cold, in no cache.
    fn restored(&self, n: u64) -> Result<Timing> {
        let mut total = 0.0;
        for _ in 0..n {
            self.restore()?;
            // What was just put back lies in a cache.
            if self.cold {
                self.device.evict()?;
            }
            let start = self.device.record()?;
            self.launch(0)?;
            let end = self.device.record()?;
            total += self.device.elapsed(&start, &end)?.0;
        }
        Ok(Timing { seconds: Seconds(total), clock: self.device.clock() })
    }
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.sets.len()
    }

    fn cold_by_itself(&self) -> bool {
        self.far || self.restores()
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        self.restore()?;
        self.launch(turn)
    }

    fn poison(&mut self) -> Result<()> {
        for set in &self.sets {
            for (buffer, operand) in set.iter().zip(&self.operands) {
                if operand.role == Role::Out {
                    self.device.fill(buffer, 0xff)?;
                }
            }
        }
        self.restore()
    }

    fn check(&mut self) -> Result<Verification> {
        let mut total = self.reference.comparison();
        let mut bytes = Vec::new();
        for set in &self.sets {
            let mut result = 0;
            for ((buffer, operand), input) in set.iter().zip(&self.operands).zip(&self.inputs) {
                for at in (0..buffer.len()).step_by(CHUNK) {
                    bytes.resize(CHUNK.min(buffer.len() - at), 0);
                    self.device.download(buffer, at, &mut bytes)?;
                    if operand.role == Role::In {
                        // What is only read is what it was, or the timed runs were of something else.
                        let changed = bytes.iter().zip(&input[at..]).filter(|(now, was)| now != was).count();
                        total.scanned(0, changed as u64);
                    } else {
                        let first = at / operand.dtype.element_bytes().unwrap_or(1);
                        self.reference.compare(result, first, &bytes, &mut total);
                    }
                }
                result += usize::from(operand.role != Role::In);
            }
        }
        Ok(total.finish("every element against float64, relative to it or to the rms; inputs unchanged"))
    }

    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        self.restores().then(|| self.restored(n))
    }
}
