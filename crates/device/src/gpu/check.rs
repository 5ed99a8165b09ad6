//! What ranks on GPUs send and receive, made and checked where it lies: gigabytes cross to the host neither way, and each GPU does
//! its own. Run with one rank on an H200; not yet with several.

use super::code::{Arg, Function, Module};
use super::driver::{Buffer as Memory, Context, Failure};
use super::ranks::Member;
use super::stream::{Shape, Stream};
use super::sys::{Ptr, status};
use crate::cache::Cache;
use crate::collectives::Piece;
use crate::{Checked, CollectiveProblem, DeviceError, Program, Redop, Result, sources};
use ridgepoint_core::data;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Threads of a block of these kernels.
const BLOCK: u64 = 256;
/// Blocks that share a compute unit, which hide each other's waits for memory.
const BLOCKS_A_UNIT: u64 = 8;

/// The programs, compiled once a process and loaded once a device.
#[derive(Default)]
pub(super) struct Programs {
    modules: Mutex<HashMap<Key, Result<Arc<Module>>>>,
}

/// A device, and a program.
type Key = (i32, &'static str);

/// What a check leaves on the device.
pub(super) struct Found {
    /// Wrong elements, and the complement of the largest error's bits.
    words: Memory,
    checked: u64,
}

impl Found {
    /// Nothing wrong yet, of so many elements.
    fn new(member: &Member, elements: usize) -> Result<Self> {
        let found = Self { words: Memory::new(&member.ctx, 16)?, checked: elements as u64 };
        member.stream.upload((&found.words).into(), 0, &[[0; 8], [0xff; 8]].concat())?;
        Ok(found)
    }

    /// Waits for it.
    pub(super) fn read(&self, stream: &Stream) -> Result<Checked> {
        let mut bytes = [0; 16];
        stream.download((&self.words).into(), 0, &mut bytes)?;
        let [wrong, error] = [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default()));
        Ok(Checked { checked: self.checked, wrong, error: f64::from_bits(!error) })
    }
}

impl Programs {
    pub(super) fn function(&self, ctx: &Arc<Context>, name: &'static str, entry: &str) -> Result<Function> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = modules.entry((ctx.device, name)).or_insert_with(|| {
            let missing = || DeviceError::unsupported(format!("{name} has no C++ source"));
            let (source, program) = (sources::cpp(name).ok_or_else(missing)?, Program { name, ..Program::default() });
            let cache = Cache::of_user("kernels", &|key| std::env::var_os(key).map(PathBuf::from));
            let code = ctx.driver.vendor.code(&program, source, &ctx.facts.target, cache.as_ref())?;
            Ok(Module::load(ctx, &code)?)
        });
        module.clone()?.function(entry).map_err(|failure| match &failure {
            Failure::Call(error) if error.status() == Some(status::NOT_FOUND) => {
                DeviceError::unsupported(format!("{name} has no kernel {entry}"))
            }
            _ => failure.into(),
        })
    }

    /// Makes what a rank sends; false where the host must.
    pub(super) fn fill(&self, member: &Member, p: &CollectiveProblem) -> Result<bool> {
        let n = p.sends(member.rank) as u64;
        if !p.plain_input() || n == 0 {
            return Ok(n == 0);
        }
        let function = match self.function(&member.ctx, "common/init", &format!("rp_init_{}", p.dtype)) {
            Err(DeviceError::Unsupported(_)) => return Ok(false),
            function => function?,
        };
        let seed = data::operand_seed(p.seed, member.rank as u64);
        launch(member, &function, n, &[Arg::Ptr(member.sent.ptr), Arg::U64(seed), Arg::U64(n)])?;
        member.stream.synchronize()?;
        Ok(true)
    }

    /// Compares what a rank received with what it must be; errors beyond `tolerance` are wrong.
    pub(super) fn check(&self, member: &Member, p: &CollectiveProblem, tolerance: f64) -> Result<Found> {
        let (rank, ranks) = (member.rank, p.ranks as u32);
        let found = Found::new(member, p.receives(rank))?;
        if p.op.reduces() {
            if found.checked > 0 {
                let (tolerance, tiny) = (tolerance.to_le_bytes(), p.least().to_le_bytes());
                let kernel = self.function(&member.ctx, "collectives/check", &format!("rp_check_combined_{}", p.dtype))?;
                let args = [
                    Arg::Ptr(member.places(p).1),
                    Arg::U64(found.checked),
                    Arg::U64(p.seed),
                    Arg::U64(p.combined_from(rank) as u64),
                    Arg::U32(ranks),
                    Arg::U32(number(p.redop)),
                    Arg::Bytes(&tolerance),
                    Arg::Bytes(&tiny),
                    Arg::Ptr(found.words.ptr),
                ];
                launch(member, &kernel, found.checked, &args)?;
            }
            return Ok(found);
        }
        self.moved(member, p, &p.pieces(rank), &found)?;
        Ok(found)
    }

    /// Compares what a rank received with what rank `from` sends, all of it.
    pub(super) fn check_from(&self, member: &Member, p: &CollectiveProblem, from: usize) -> Result<Found> {
        let found = Found::new(member, p.count())?;
        self.moved(member, p, &[Piece { from, start: 0, at: 0, len: p.count() }], &found)?;
        Ok(found)
    }

    /// Compares pieces that came as they were.
    fn moved(&self, member: &Member, p: &CollectiveProblem, pieces: &[Piece], found: &Found) -> Result<()> {
        let kernel = self.function(&member.ctx, "collectives/check", &format!("rp_check_moved_{}", p.dtype))?;
        let (_, received) = member.places(p);
        for piece in pieces.iter().filter(|piece| piece.len > 0) {
            let args = [
                Arg::Ptr(received + (piece.at * p.size()) as Ptr),
                Arg::U64(piece.len as u64),
                Arg::U64(data::operand_seed(p.seed, piece.from as u64)),
                Arg::U64(piece.start as u64),
                Arg::U32(p.ranks as u32),
                Arg::Ptr(found.words.ptr),
            ];
            launch(member, &kernel, piece.len as u64, &args)?;
        }
        Ok(())
    }
}

/// As the kernel numbers them.
const fn number(redop: Redop) -> u32 {
    match redop {
        Redop::Sum => 0,
        Redop::Prod => 1,
        Redop::Min => 2,
        Redop::Max => 3,
        Redop::Avg => 4,
    }
}

fn launch(member: &Member, function: &Function, elements: u64, args: &[Arg<'_>]) -> Result<()> {
    let most = (member.ctx.facts.units.max(1) as u64).saturating_mul(BLOCKS_A_UNIT);
    let grid = elements.div_ceil(BLOCK).clamp(1, most) as u32;
    let shape = Shape { grid: [grid, 1, 1], block: [BLOCK as u32, 1, 1], shared_bytes: 0, cluster: [1; 3] };
    Ok(member.stream.launch(function, shape, args)?)
}
