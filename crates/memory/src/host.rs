//! The link between a device and its host: copies to and from page-locked memory by the device's copy engine.

use crate::cases::{Direction, Op};
use crate::stream::compare_all;
use ridgepoint_core::{Bytes, Dtype, Verification, data};
use ridgepoint_device::{Buffer, Device, Result};
use ridgepoint_harness::{Prepared, Ready, random};
use std::collections::BTreeMap;

pub(crate) fn prepare<'d>(direction: Direction, bytes: Bytes, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let len = bytes.0 as usize;
    let host = device.alloc_host(len)?;
    let made = random(device, Dtype::F32, data::operand_seed(seed, 0), bytes.0 / 4)?;
    let (from, to) = match direction {
        Direction::HostToDevice => {
            device.copy(&made, 0, &host, 0, len)?;
            (host, device.alloc(len)?)
        }
        Direction::DeviceToHost => (made, host),
    };
    device.synchronize()?;
    let ready = Transfer { device, from, to, seed };
    Ok(Prepared { ready: Box::new(ready), config: BTreeMap::new(), labels: vec![], dtype: Dtype::F32 })
}

struct Transfer<'d> {
    device: &'d dyn Device,
    from: Buffer,
    to: Buffer,
    seed: u64,
}

impl Ready for Transfer<'_> {
    fn cold_by_itself(&self) -> bool {
        self.to.len() as u64 > 2 * self.device.info().last_level_cache().0
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        self.device.copy(&self.from, 0, &self.to, 0, self.to.len())
    }

    fn poison(&mut self) -> Result<()> {
        self.device.fill(&self.to, 0xff)
    }

    fn check(&mut self) -> Result<Verification> {
        let seed = data::operand_seed(self.seed, 0);
        Ok(compare_all(self.device, &self.to, Op::Copy, (seed, 0))?.finish("every element, exact"))
    }
}
