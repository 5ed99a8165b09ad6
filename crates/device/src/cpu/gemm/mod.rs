//! GEMM on the CPU: our own packed, blocked kernel (provider `native`) and, where one is found at run time, OpenBLAS or BLIS.
//!
//! Blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a block of k units of
//! B is packed once by all threads together and read from the shared cache, each thread packs blocks of A for its own L2,
//! and takes the next block from a counter, so that a core the host takes away costs a block and not half the run.

mod blas;
mod double;
mod micro;
mod pack;
mod widened;

use super::kernels::Shared;
use super::pool::Pool;
use super::{allocate, range};
use crate::{Blas, Buffer, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result, Support};
pub(super) use blas::{Vendor, doctor, find as find_vendors};
use micro::{Kernel, Packing};
use pack::Rows;
use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::bf16_bits;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use widened::Widened;

/// Units of k packed at once: 8 rows of A then take 16 KiB, a third of the smallest L1.
const KC: usize = 512;
/// Rows of A packed at once: 128 × 512 units are 256 KiB, a quarter of a 1 MiB L2.
const MC: usize = 128;

/// The built-in GEMM.
pub(crate) struct Native {
    pool: Arc<Pool>,
    allocated: Arc<AtomicU64>,
}

impl Native {
    /// On the threads of a device, its memory counted there.
    pub(crate) fn new(pool: &Arc<Pool>, allocated: &Arc<AtomicU64>) -> Self {
        Self { pool: Arc::clone(pool), allocated: Arc::clone(allocated) }
    }
}

impl Blas for Native {
    fn provider(&self) -> &'static str {
        "native"
    }

    fn plan(&self, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
        let p = *problem;
        if !p.k_contiguous() {
            return Err(DeviceError::unsupported("the built-in CPU GEMM takes A as M×K and B stored as N×K"));
        }
        if (p.a.dtype, p.b.dtype, p.output) == (Dtype::F64, Dtype::F64, Dtype::F64) {
            return double::plan(self, &p);
        }
        if widened::knows(p.a.dtype) && widened::knows(p.b.dtype) {
            let product = self.of_one_type(&GemmProblem::new(p.m, p.n, p.k, Dtype::F32, p.output))?;
            return Ok(Box::new(Widened::new(self, &p, product)?));
        }
        Ok(Box::new(self.of_one_type(&p)?))
    }
}

impl Native {
    /// A plan for products of one type that has a micro-kernel.
    fn of_one_type(&self, problem: &GemmProblem) -> Result<Plan> {
        let p = *problem;
        let input = GemmProblem { batch: 1, ..p }.plain("the built-in CPU GEMM")?;
        let kernel =
            micro::best(input).ok_or_else(|| DeviceError::unsupported(format!("the built-in CPU GEMM has no {input}")))?;
        let direct = p.output == if kernel.packing.integer() { Dtype::I32 } else { Dtype::F32 };
        let narrowed = matches!(p.output, Dtype::F16 | Dtype::Bf16) && !kernel.packing.integer();
        if !direct && !narrowed {
            return Err(DeviceError::unsupported(format!(
                "the built-in CPU GEMM does not store {input} products as {}",
                p.output
            )));
        }
        let units = p.k.div_ceil(kernel.packing.group());
        let columns = p.n.next_multiple_of(kernel.nr);
        let threads = self.pool.threads();
        let a_panels = KC.min(units) * MC.next_multiple_of(kernel.mr);
        Ok(Plan {
            pool: Arc::clone(&self.pool),
            problem: p,
            kernel,
            units,
            packed_a: (0..threads).map(|_| allocate(&self.pool, &self.allocated, a_panels * 4)).collect::<Result<_>>()?,
            packed_b: allocate(&self.pool, &self.allocated, KC.min(units) * columns * 4)?,
            sums: if kernel.packing == Packing::I8Quad {
                Some(allocate(&self.pool, &self.allocated, columns * 4)?)
            } else {
                None
            },
            wide: if direct { None } else { Some(allocate(&self.pool, &self.allocated, p.m * p.n * 4)?) },
        })
    }
}

struct Plan {
    pool: Arc<Pool>,
    problem: GemmProblem,
    kernel: Kernel,
    /// Units of k.
    units: usize,
    packed_a: Vec<Buffer>,
    packed_b: Buffer,
    /// Column sums of B, to take the bias of int8's A off again.
    sums: Option<Buffer>,
    /// C in f32, where the output is narrower.
    wide: Option<Buffer>,
}

fn pointer<T>(buffer: &Buffer) -> Shared<T> {
    Shared::new(buffer.address() as *mut T)
}

impl GemmPlan for Plan {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        let bytes = |rows: usize, columns: usize, dtype: Dtype| dtype.bytes((rows * columns) as u64).0 as usize;
        let of = |buffer: &Buffer, product: usize, bytes: usize| range(buffer, product * bytes, bytes);
        for product in 0..p.batch {
            let a = of(a, product, bytes(p.m, p.k, p.a.dtype))?;
            let b = of(b, product, bytes(p.n, p.k, p.b.dtype))?;
            self.multiply(a, b, of(c, product, bytes(p.m, p.n, p.output))?);
        }
        Ok(())
    }

    fn support(&self) -> Support {
        if self.kernel.native { Support::Native } else { Support::Emulated }
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("micro-kernel".into(), self.kernel.name.into()),
            ("blocks".into(), format!("kc {KC} mc {MC}")),
            ("threads".into(), self.pool.threads().to_string()),
        ])
    }
}

impl Plan {
    /// One product of operands that were seen to lie where they should.
    fn multiply(&self, a: *mut u8, b: *mut u8, c: *mut u8) {
        let (p, packing) = (&self.problem, self.kernel.packing);
        let rows = |base: *mut u8, rows: usize, bias: bool| Rows { base, rows, k: p.k, packing, bias };
        let (a, b) = (rows(a, p.m, packing == Packing::I8Quad), rows(b, p.n, false));
        let tile = self.wide.as_ref().map_or_else(|| Shared::new(c.cast::<u32>()), pointer);
        let run = Run {
            plan: self,
            a: Send2(a),
            b: Send2(b),
            c: tile,
            out: Shared::new(c),
            barrier: Barrier::default(),
            counters: self.counters(),
        };
        self.pool.run(&|thread, threads| run.thread(thread, threads));
    }

    /// Three counters for each pass over k: panels of B, blocks of A, and rows to narrow.
    fn counters(&self) -> Vec<[AtomicUsize; 3]> {
        (0..self.units.div_ceil(KC)).map(|_| Default::default()).collect()
    }
}

/// Operands whose pointers threads share; they are only read.
#[derive(Clone, Copy)]
struct Send2(Rows);
// SAFETY: the operands are not written while a GEMM runs.
unsafe impl Send for Send2 {}
// SAFETY: as above.
unsafe impl Sync for Send2 {}

/// One execution.
struct Run<'a> {
    plan: &'a Plan,
    a: Send2,
    b: Send2,
    c: Shared<u32>,
    out: Shared<u8>,
    barrier: Barrier,
    counters: Vec<[AtomicUsize; 3]>,
}

impl Run<'_> {
    fn thread(&self, thread: usize, threads: usize) {
        let Plan { problem: p, kernel, units, packed_b, .. } = self.plan;
        let passes = self.counters.len();
        for (pass, [panels, blocks, narrowed]) in self.counters.iter().enumerate() {
            let first = pass * KC;
            let depth = KC.min(units - first);
            let b: Shared<u32> = pointer(packed_b);
            while let Some(column) = next(panels, kernel.nr, p.n) {
                // SAFETY: panel `column / nr` is this thread's alone, and the buffer holds all panels.
                unsafe {
                    self.b.0.pack(
                        column,
                        kernel.nr,
                        first,
                        depth,
                        b.slice_mut(column * depth..(column + kernel.nr) * depth).as_mut_ptr(),
                    )
                };
                self.add_sums(column, depth, pass == 0);
            }
            self.barrier.wait(threads);
            let share = Share::of([p.m, p.n], kernel.nr, threads);
            let mut packed = None;
            while let Some((rows, columns)) = share.next(blocks) {
                // Neighbouring items are often of the same rows, which are packed already.
                if packed.replace(rows.start) != Some(rows.start) {
                    self.pack_rows(thread, rows.clone(), first, depth);
                }
                self.block(thread, rows, columns, first, depth, pass + 1 == passes);
            }
            self.barrier.wait(threads);
            if pass + 1 == passes && self.plan.wide.is_some() {
                while let Some(row) = next(narrowed, 8, p.m) {
                    self.narrow(row..(row + 8).min(p.m));
                }
            }
        }
    }

    /// Packs rows of A for a thread's own use.
    fn pack_rows(&self, thread: usize, rows: Range<usize>, first: usize, depth: usize) {
        let (mr, a): (usize, Shared<u32>) = (self.plan.kernel.mr, pointer(&self.plan.packed_a[thread]));
        for i in (0..rows.len()).step_by(mr) {
            // SAFETY: packed_a is this thread's own and holds MC rows.
            unsafe { self.a.0.pack(rows.start + i, mr, first, depth, a.slice_mut(i * depth..(i + mr) * depth).as_mut_ptr()) };
        }
    }

    /// A block of C: rows that are packed, and columns that begin with a panel.
    fn block(&self, thread: usize, rows: Range<usize>, columns: Range<usize>, first: usize, depth: usize, last: bool) {
        let Plan { problem: p, kernel: Kernel { micro, mr, nr, .. }, packed_a, packed_b, .. } = self.plan;
        let (mr, nr) = (*mr, *nr);
        let (a, b): (Shared<u32>, Shared<u32>) = (pointer(&packed_a[thread]), pointer(packed_b));
        // SAFETY: packed_a is this thread's own; packed_b is complete and only read; this block of C is this thread's; the edge tile
        // is as large as the largest micro-kernel's.
        unsafe {
            let mut edge = [0u32; 8 * 48];
            for j in columns.clone().step_by(nr) {
                let width = nr.min(p.n - j);
                let panel = b.slice(j * depth..(j + nr) * depth).as_ptr();
                for i in (0..rows.len()).step_by(mr) {
                    let height = mr.min(rows.len() - i);
                    let strip = a.slice(i * depth..(i + mr) * depth).as_ptr();
                    let at = (rows.start + i) * p.n + j;
                    if height == mr && width == nr {
                        // By its address: a range would hold other threads' columns, too.
                        micro(depth, strip, panel, self.c.at(at), p.n, first == 0);
                        continue;
                    }
                    micro(depth, strip, panel, edge.as_mut_ptr(), nr, true);
                    for (r, edge) in edge.chunks_exact(nr).take(height).enumerate() {
                        let c = self.c.slice_mut(at + r * p.n..at + r * p.n + width);
                        self.add_edge(c, edge, first == 0);
                    }
                }
            }
            if let (Some(sums), true) = (&self.plan.sums, last) {
                let sums = pointer::<i32>(sums).slice(columns.clone());
                for r in rows {
                    let c = self.c.slice_mut(r * p.n + columns.start..r * p.n + columns.end);
                    c.iter_mut().zip(sums).for_each(|(c, sum)| *c = c.wrapping_sub((*sum as u32) << 7));
                }
            }
        }
    }

    fn add_edge(&self, c: &mut [u32], edge: &[u32], first: bool) {
        let integer = self.plan.kernel.packing.integer();
        for (c, e) in c.iter_mut().zip(edge) {
            *c = match (first, integer) {
                (true, _) => *e,
                (false, true) => c.wrapping_add(*e),
                (false, false) => (f32::from_bits(*c) + f32::from_bits(*e)).to_bits(),
            };
        }
    }

    /// Adds a packed panel of B to the column sums, where they are needed.
    fn add_sums(&self, column: usize, depth: usize, first: bool) {
        let Some(sums) = &self.plan.sums else { return };
        let nr = self.plan.kernel.nr;
        // SAFETY: the panel and its sums are this thread's alone, and it has just packed it.
        let (panel, sums) = unsafe {
            let panel = pointer::<u32>(&self.plan.packed_b).slice(column * depth..(column + nr) * depth);
            (panel, pointer::<i32>(sums).slice_mut(column..column + nr))
        };
        if first {
            sums.fill(0);
        }
        for units in panel.chunks_exact(nr) {
            for (sum, unit) in sums.iter_mut().zip(units) {
                *sum += unit.to_le_bytes().map(|b| i32::from(b as i8)).iter().sum::<i32>();
            }
        }
    }

    /// Rounds rows of the f32 C to the output's type.
    fn narrow(&self, rows: Range<usize>) {
        let p = &self.plan.problem;
        let elements = rows.start * p.n..rows.end * p.n;
        // SAFETY: C is complete (a barrier lies between), and these rows of the output are this thread's alone.
        let (from, to) = unsafe { (self.c.slice(elements.clone()), self.out.slice_mut(elements.start * 2..elements.end * 2)) };
        for (to, from) in to.chunks_exact_mut(2).zip(from) {
            let x = f32::from_bits(*from);
            let bits = if p.output == Dtype::Bf16 {
                bf16_bits(x)
            } else {
                ridgepoint_core::minifloat::F16.encode(f64::from(x), ridgepoint_core::minifloat::Overflow::NonFinite) as u16
            };
            to.copy_from_slice(&bits.to_le_bytes());
        }
    }
}

/// How C is dealt out: blocks of MC rows, and where those are few, each in several runs of columns, so that every thread has work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    rows: usize,
    columns: usize,
    /// Columns of a run, whole panels.
    run: usize,
}

impl Share {
    /// Blocks for each thread to choose from: enough that a core the host takes away costs little.
    const EACH: usize = 4;

    fn of([rows, columns]: [usize; 2], panel: usize, threads: usize) -> Self {
        let runs = (Self::EACH * threads).div_ceil(rows.div_ceil(MC)).clamp(1, columns.div_ceil(panel));
        Self { rows, columns, run: columns.div_ceil(panel).div_ceil(runs) * panel }
    }

    /// The next block: its rows and columns.
    fn next(self, counter: &AtomicUsize) -> Option<(Range<usize>, Range<usize>)> {
        let runs = self.columns.div_ceil(self.run);
        let item = next(counter, 1, self.rows.div_ceil(MC) * runs)?;
        let (row, column) = (item / runs * MC, item % runs * self.run);
        Some((row..(row + MC).min(self.rows), column..(column + self.run).min(self.columns)))
    }
}

/// The next `step` of `0..end`, taken from a counter that all threads share.
fn next(counter: &AtomicUsize, step: usize, end: usize) -> Option<usize> {
    let at = counter.fetch_add(1, Ordering::Relaxed) * step;
    (at < end).then_some(at)
}

/// A barrier of threads that all run at once: passes are hundreds of microseconds apart, a sleep would cost more.
#[derive(Default)]
struct Barrier {
    arrived: AtomicUsize,
    phase: AtomicUsize,
}

impl Barrier {
    fn wait(&self, threads: usize) {
        let phase = self.phase.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.phase.store(phase + 1, Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.phase.load(Ordering::Acquire) == phase {
            spins += 1;
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::cpu::CpuDevice;
    use ridgepoint_core::data;

    fn bytes(dtype: Dtype, seed: u64, n: usize) -> Vec<u8> {
        let encode = |i: usize| {
            let x = f64::from(data::normal(seed, i as u64));
            match dtype {
                Dtype::I8 => vec![((x * 60.0).clamp(-128.0, 127.0) as i8) as u8],
                Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
                Dtype::F64 => x.to_le_bytes().to_vec(),
                other => {
                    let bits = other.format().unwrap().encode(x, ridgepoint_core::minifloat::Overflow::Saturate);
                    (bits as u16).to_le_bytes().to_vec()
                }
            }
        };
        (0..n).flat_map(encode).collect()
    }

    #[test]
    fn every_dtype_and_edge_agrees_with_f64() {
        let device = CpuDevice::open().unwrap();
        let native = Native::new(&device.pool, &device.allocated);
        for (input, output) in [
            (Dtype::F64, Dtype::F64),
            (Dtype::F32, Dtype::F32),
            (Dtype::F16, Dtype::F32),
            (Dtype::F16, Dtype::F16),
            (Dtype::Bf16, Dtype::Bf16),
            (Dtype::Bf16, Dtype::F32),
            (Dtype::I8, Dtype::I32),
        ] {
            for (m, n, k) in [(1, 1, 1), (8, 48, 16), (9, 49, 17), (130, 97, 513), (65, 200, 1030), (257, 50, 2051)] {
                let (a, b) = (bytes(input, 1, m * k), bytes(input, 2, n * k));
                let buffers = [a.len(), b.len(), m * n * output.element_bytes().unwrap()].map(|len| device.alloc(len).unwrap());
                device.upload(&buffers[0], 0, &a).unwrap();
                device.upload(&buffers[1], 0, &b).unwrap();
                device.fill(&buffers[2], 0xff).unwrap();
                let plan = native.plan(&GemmProblem::new(m, n, k, input, output)).unwrap();
                for _ in 0..2 {
                    plan.enqueue(&GemmOperands::new(&buffers[0], &buffers[1], &buffers[2])).unwrap();
                }
                let mut c = vec![0; buffers[2].len()];
                device.download(&buffers[2], 0, &mut c).unwrap();
                let size = output.element_bytes().unwrap();
                let s = input.element_bytes().unwrap();
                for i in 0..m {
                    for j in 0..n {
                        let at = |v: &[u8], i: usize| input.read(&v[i * s..(i + 1) * s]);
                        let want: f64 = (0..k).map(|p| at(&a, i * k + p) * at(&b, j * k + p)).sum();
                        let got = output.read(&c[(i * n + j) * size..][..size]);
                        let limit = if input == Dtype::I8 {
                            0.0
                        } else {
                            (want.abs() * 2.0 * output.unit_roundoff()) + 1e-5 * (k as f64).sqrt()
                        };
                        assert!((got - want).abs() <= limit, "{input}→{output} {m}×{n}×{k} at {i},{j}: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_element_of_c_is_dealt_out_once_and_every_thread_has_work() {
        for (rows, columns, threads) in
            [(16, 4096, 2), (1, 1, 64), (1000, 1001, 2), (1024, 1024, 64), (4096, 4096, 2), (64, 100, 8)]
        {
            let share = Share::of([rows, columns], 48, threads);
            let counter = AtomicUsize::new(0);
            let blocks: Vec<_> = std::iter::from_fn(|| share.next(&counter)).collect();
            assert_eq!(blocks.iter().map(|(r, c)| r.len() * c.len()).sum::<usize>(), rows * columns);
            let distinct: std::collections::BTreeSet<_> = blocks.iter().map(|(r, c)| (r.start, c.start)).collect();
            assert_eq!(distinct.len(), blocks.len());
            let most = rows.div_ceil(MC) * columns.div_ceil(48);
            assert!(blocks.len() >= threads.min(most), "{rows}×{columns} on {threads}: {}", blocks.len());
        }
    }

    #[test]
    fn a_buffer_too_small_is_an_error() {
        let device = CpuDevice::open().unwrap();
        let native = Native::new(&device.pool, &device.allocated);
        let plan = native.plan(&GemmProblem::new(8, 8, 8, Dtype::F32, Dtype::F32)).unwrap();
        let (small, right) = (device.alloc(255).unwrap(), device.alloc(256).unwrap());
        assert!(plan.enqueue(&GemmOperands::new(&right, &right, &small)).is_err());
    }
}
