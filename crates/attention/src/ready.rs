//! An attention made ready: operands filled on the device, rotated so that each run finds them cold, a provider planned.

use crate::cases::{Kind, Shape};
use crate::check::{Operand, Reference, finish, scan, tolerance};
use crate::{amd, common, nvidia, vulkan};
use ridgepoint_core::{Verification, data};
use ridgepoint_device::{AttentionPlan, Buffer, Device, DeviceError, Result, Support};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready, random};

/// Most operand sets.
const MOST_SETS: u64 = 16;

/// Who can do a shape on a device: its libraries and own code, then our kernels. Never empty.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let libraries = device.attention().into_iter().map(|a| a.provider().to_owned());
    let chip = nvidia::provider(shape, device).or_else(|| amd::provider(shape, device));
    let own = chip.or_else(|| common::provider(shape, device)).map(str::to_owned);
    let portable = vulkan::providers(device).iter().map(|p| (*p).to_owned());
    let names: Vec<String> = libraries.chain(own).chain(portable).collect();
    if names.is_empty() { vec!["none".into()] } else { names }
}

pub(crate) fn prepare<'d>(shape: Shape, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let library = device.attention().into_iter().find(|a| a.provider() == provider);
    let plan: Box<dyn AttentionPlan + 'd> = match library {
        Some(library) => library.plan(&shape.problem())?,
        None if nvidia::provider(shape, device) == Some(provider) => nvidia::plan(shape, device)?,
        None if amd::provider(shape, device) == Some(provider) => amd::plan(shape, device)?,
        None if common::provider(shape, device) == Some(provider) => common::plan(shape, provider, device)?,
        None if vulkan::providers(device).contains(&provider) => vulkan::plan(shape, provider, device)?,
        None => {
            let Shape { dqk, dv, dtype, .. } = shape;
            return Err(DeviceError::unsupported(format!(
                "no kernel for head dimensions {dqk}/{dv} in {dtype} on {}",
                device.info().arch
            )));
        }
    };
    let mut config = plan.config();
    if let Some(library) = library.and_then(|l| l.library()) {
        config.insert("library".into(), format!("{} {}", library.name, library.version));
    }
    let labels = if plan.support() == Support::Emulated { vec!["emulated".into()] } else { vec![] };
    let bytes: u64 = shape.elements().iter().map(|n| shape.dtype.bytes(*n).0).sum();
    let sets = (2 * device.info().last_level_cache().0 / bytes.max(1) + 1).clamp(1, MOST_SETS);
    let mut operands = Vec::new();
    for set in 0..sets {
        let [q, k, v, o] = shape.elements();
        let fill = |operand: u64, n: u64| random(device, shape.dtype, data::operand_seed(seed, 3 * set + operand), n);
        operands.push([fill(0, q)?, fill(1, k)?, fill(2, v.max(1))?, device.alloc(shape.dtype.bytes(o).0 as usize)?]);
    }
    device.synchronize()?;
    config.insert("operand sets".into(), sets.to_string());
    let ready = Run { device, shape, plan, operands, seed, reference: None };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: shape.dtype })
}

struct Run<'d> {
    device: &'d dyn Device,
    shape: Shape,
    plan: Box<dyn AttentionPlan + 'd>,
    operands: Vec<[Buffer; 4]>,
    seed: u64,
    reference: Option<Reference>,
}

impl Run<'_> {
    /// The reference of the first operand set, made once, after its buffers were found to hold what the stream says.
    fn reference(&mut self) -> Result<&Reference> {
        let operand = |i: u64| Operand { seed: data::operand_seed(self.seed, i), dtype: self.shape.dtype };
        let operands = [operand(0), operand(1), operand(2)];
        if self.reference.is_none() {
            let size = self.shape.dtype.element_bytes().unwrap_or(4);
            for (index, buffer) in self.operands[0][..if self.shape.kind == Kind::MlaDecode { 2 } else { 3 }].iter().enumerate() {
                let n = (buffer.len() / size) as u64;
                let mut element = vec![0u8; size];
                for i in (0..64).map(|s| data::hash(17, s) % n) {
                    self.device.download(buffer, i as usize * size, &mut element)?;
                    let (got, want) = (self.shape.dtype.read(&element), operands[index].at(i));
                    if got != want {
                        return Err(DeviceError::invalid(format!(
                            "operand element {i} is {got} and should be {want}: the fill kernel is wrong"
                        )));
                    }
                }
            }
        }
        let shape = self.shape;
        Ok(self.reference.get_or_insert_with(|| Reference::new(shape, operands)))
    }
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.operands.len()
    }

    fn cold_by_itself(&self) -> bool {
        self.operands[0].iter().map(|b| b.len() as u64).sum::<u64>() > 2 * self.device.info().last_level_cache().0
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        let [q, k, v, o] = &self.operands[turn];
        self.plan.enqueue(q, k, v, o)
    }

    fn poison(&mut self) -> Result<()> {
        self.operands.iter().try_for_each(|[.., o]| self.device.fill(o, 0xff))
    }

    fn check(&mut self) -> Result<Verification> {
        let shape = self.shape;
        let mut total = Comparison::new(tolerance(shape.dtype));
        self.reference()?;
        for (set, [.., o]) in self.operands.iter().enumerate() {
            let mut out = vec![0u8; o.len()];
            self.device.download(o, 0, &mut out)?;
            scan(shape, &out, &mut total);
            if let (0, Some(reference)) = (set, &self.reference) {
                reference.check(shape, &out, &mut total);
            }
        }
        Ok(finish(self.reference()?, total))
    }
}
