//! Plans of a library, run: the operands checked, packed with what is the plan's own, and enqueued.

use super::{Builder, Descriptor, Started, failure};
use crate::gpu::driver::Buffer as Memory;
use crate::gpu::sys::Ptr;
use crate::{AttentionOperands, AttentionPlan, AttentionProblem, Buffer, DeviceError, Result};
use ridgepoint_core::Dtype;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::Arc;

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Q,
    K,
    V,
    O,
    Pages,
    Sinks,
    /// Keys of each sequence: the caller's where they differ, else the plan's own, which says `sk` for all.
    Lengths,
    /// Queries of each sequence, all of them: the plan's own.
    Queries,
    /// Factor of Q, K or V, by its index in the caller's.
    Factor(usize),
    /// A float of the plan's own, by its index in the constants.
    Constant(usize),
    /// A float that is read from the host's memory when it is enqueued.
    Float(f32),
    /// The same, a whole number.
    Whole(i32),
}

impl Source {
    /// The device address of one that is an operand.
    fn address(self, operands: &AttentionOperands<'_>) -> Option<Ptr> {
        match self {
            Self::Q => Some(operands.q.address()),
            Self::K => Some(operands.k.address()),
            Self::V => Some(operands.v.address()),
            Self::O => Some(operands.o.address()),
            Self::Pages => operands.pages.map(|b| b.address()),
            Self::Sinks => operands.sinks.map(|b| b.address()),
            Self::Lengths => operands.lengths.map(|b| b.address()),
            Self::Factor(index) => operands.scales.map(|b| b.address() + 4 * index as Ptr),
            _ => None,
        }
    }

    /// The bits of a value that the library reads from the host.
    fn host(self) -> u32 {
        match self {
            Self::Float(value) => value.to_bits(),
            Self::Whole(value) => value as u32,
            _ => 0,
        }
    }
}

/// An engine, ready to run.
pub(crate) struct Plan {
    pub(crate) plan: Descriptor,
    pub(crate) workspace: usize,
    /// What a record says of it.
    pub(crate) name: String,
    /// What it is a plan of: kept, though no document says that it must be.
    pub(crate) _graph: Descriptor,
}

/// The plans of one problem, the library's favourite first.
pub(crate) struct Run {
    plans: Vec<Plan>,
    index: usize,
    /// What the operation's tensors are, by their ids.
    sources: Vec<(i64, Source)>,
    /// A word for each source: those that are read from the host.
    hosts: Box<[u32]>,
    constants: usize,
    /// Constants, then queries and keys of each sequence.
    own: Memory,
    workspace: Memory,
    /// Packs by the operands' addresses: describing one costs more than a short launch.
    packs: RefCell<HashMap<Vec<Ptr>, Descriptor>>,
    problem: AttentionProblem,
    started: Arc<Started>,
}

impl Run {
    pub(crate) fn new(
        started: &Arc<Started>,
        problem: &AttentionProblem,
        sources: Vec<(i64, Source)>,
        constants: &[f32],
        plans: Vec<Plan>,
    ) -> Result<Self> {
        let workspace = plans.iter().map(|plan| plan.workspace).max().unwrap_or(0);
        let [queries, keys] = own_lengths(problem);
        let own = constants.iter().flat_map(|c| c.to_ne_bytes()).chain(numbers(&queries)).chain(numbers(&keys));
        Ok(Self {
            own: started.shared.holding(&own.collect::<Vec<u8>>())?,
            workspace: Memory::new(&started.shared.ctx, workspace)?,
            hosts: sources.iter().map(|(_, source)| source.host()).collect(),
            packs: RefCell::default(),
            constants: constants.len(),
            started: Arc::clone(started),
            problem: *problem,
            sources,
            plans,
            index: 0,
        })
    }

    /// Where a source is: its operand, the plan's own memory, or the host's.
    fn address(&self, index: usize, source: Source, operands: &AttentionOperands<'_>) -> Option<Ptr> {
        let queries = 4 * self.constants as Ptr;
        let keys = queries + 4 * self.problem.batch.next_multiple_of(4) as Ptr;
        match source {
            Source::Constant(at) => Some(self.own.ptr + 4 * at as Ptr),
            Source::Queries => Some(self.own.ptr + queries),
            Source::Lengths if !self.problem.ragged => Some(self.own.ptr + keys),
            Source::Float(_) | Source::Whole(_) => Some((&raw const self.hosts[index]) as Ptr),
            operand => operand.address(operands),
        }
    }

    /// Every operand is there, of this device, and long enough.
    fn check(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let p = &self.problem;
        let blocks = p.paged.map_or(p.batch * p.sk, |pages| pages.pool * pages.tokens) * p.hkv;
        let table = p.paged.map_or(0, |pages| 4 * p.batch * p.sk.div_ceil(pages.tokens));
        let bytes = |dtype: Dtype, elements: usize| dtype.bytes(elements as u64).0;
        let narrow = [p.dtype, p.kv].iter().any(|d| d.bits() == 8);
        let wanted = [
            ("Q", Some(operands.q), true, bytes(p.dtype, p.batch * p.hq * p.sq * p.dqk)),
            ("K", Some(operands.k), true, bytes(p.kv, blocks * p.dqk)),
            ("V", Some(operands.v), !p.shared_kv, bytes(p.kv, blocks * p.dv)),
            ("O", Some(operands.o), true, bytes(p.output, p.batch * p.hq * p.sq * p.dv)),
            ("lengths", operands.lengths, p.ragged, 4 * p.batch as u64),
            ("pages", operands.pages, p.paged.is_some(), table as u64),
            ("sinks", operands.sinks, p.sinks, 4 * p.hq as u64),
            ("scales", operands.scales, narrow, 12),
        ];
        for (name, buffer, needed, bytes) in wanted {
            let fits = |b: &Buffer| b.len() as u64 >= bytes && b.owner::<Memory>().is_some();
            if needed && !buffer.is_some_and(fits) {
                return Err(DeviceError::invalid(format!("{name} is missing, too short, or another device's")));
            }
        }
        Ok(())
    }

    fn pack(&self, operands: &AttentionOperands<'_>) -> Result<Descriptor> {
        let addresses = self.sources.iter().enumerate().map(|(i, (_, source))| self.address(i, *source, operands));
        let addresses: Vec<Ptr> =
            addresses.collect::<Option<_>>().ok_or_else(|| DeviceError::invalid("an operand is missing"))?;
        if let Some(pack) = self.packs.borrow().get(&addresses) {
            return Ok(pack.clone());
        }
        let ids: Vec<i64> = self.sources.iter().map(|(id, _)| *id).collect();
        let pointers: Vec<*mut c_void> = addresses.iter().map(|a| *a as *mut c_void).collect();
        let numbers = self.started.api.numbers;
        let pack = Builder::new(&self.started.api, numbers.pack)
            .numbers(numbers.pack_ids, &ids)
            .pointers(numbers.pack_pointers, &pointers)
            .pointers(numbers.pack_workspace, &[self.workspace.ptr as *mut c_void])
            .finish()
            .map_err(failure)?;
        self.packs.borrow_mut().insert(addresses, pack.clone());
        Ok(pack)
    }
}

impl AttentionPlan for Run {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        self.check(operands)?;
        let pack = self.pack(operands)?;
        self.started.shared.ctx.api()?;
        let plan = self.plans[self.index].plan.handle();
        // SAFETY: the buffers hold the operands (above), the workspace has the largest plan's size, and stream and buffers belong
        // to the context that was just made current.
        unsafe { self.started.api.execute(self.started.handle, plan, pack.handle()) }.map_err(failure)
    }

    fn candidates(&self) -> usize {
        self.plans.len()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.plans.len() {
            return Err(DeviceError::invalid(format!("engine {index} of {}", self.plans.len())));
        }
        self.index = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        let (rank, engine) = (self.index, &self.plans[self.index].name);
        BTreeMap::from([("engine".into(), format!("number {rank} of the library's ranking: {engine}"))])
    }
}

/// Queries and keys of each sequence, filled up to whole 16 bytes.
fn own_lengths(p: &AttentionProblem) -> [Vec<i32>; 2] {
    [p.sq, p.sk].map(|length| vec![length as i32; p.batch.next_multiple_of(4)])
}

fn numbers(values: &[i32]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|v| v.to_ne_bytes())
}
