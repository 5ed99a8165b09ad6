//! f64 on the CPU: the blocking of the module above with elements twice as wide, so that a block holds half as many of them.

use super::super::kernels::{Shared, Simd, simd};
use super::super::{allocate, range};
use super::{Barrier, MC, Native, Share, next};
use crate::cpu::pool::Pool;
use crate::{Buffer, GemmOperands, GemmPlan, GemmProblem, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// Elements of k packed at once: 8 rows of A then take 16 KiB, a third of the smallest L1.
const KC: usize = 256;
/// Elements of the largest tile of a micro-kernel.
const LARGEST_TILE: usize = 8 * 24;

/// Computes a tile over `k`: C = (first ? 0 : C) + A·B, rows of C `ldc` elements apart.
type Micro = unsafe fn(k: usize, a: *const f64, b: *const f64, c: *mut f64, ldc: usize, first: bool);

#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    micro: Micro,
    mr: usize,
    nr: usize,
}

/// The best micro-kernel of this CPU.
fn best() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    match simd() {
        Simd::Avx512 => return Kernel { name: "8x24 AVX-512 fma, f64", micro: x86::f64_8x24, mr: 8, nr: 24 },
        Simd::Avx2 => return Kernel { name: "6x8 AVX2 fma, f64", micro: x86::f64_6x8, mr: 6, nr: 8 },
        Simd::Baseline => {}
    }
    let _ = simd;
    Kernel { name: "4x8 f64", micro: portable, mr: 4, nr: 8 }
}

/// A plan for A as M×K and B stored as N×K, all in f64.
pub(super) fn plan(native: &Native, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
    let (pool, kernel, depth) = (Arc::clone(&native.pool), best(), KC.min(problem.k));
    let room = |elements: usize| allocate(&native.pool, &native.allocated, elements * 8);
    let a_panels = depth * MC.next_multiple_of(kernel.mr);
    Ok(Box::new(Plan {
        problem: *problem,
        kernel,
        packed_a: (0..pool.threads()).map(|_| room(a_panels)).collect::<Result<_>>()?,
        packed_b: room(depth * problem.n.next_multiple_of(kernel.nr))?,
        pool,
    }))
}

struct Plan {
    pool: Arc<Pool>,
    problem: GemmProblem,
    kernel: Kernel,
    packed_a: Vec<Buffer>,
    packed_b: Buffer,
}

impl GemmPlan for Plan {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        for product in 0..p.batch {
            self.multiply([a, b, c], product)?;
        }
        Ok(())
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
    /// One product of a batch.
    fn multiply(&self, [a, b, c]: [&Buffer; 3], product: usize) -> Result<()> {
        let p = &self.problem;
        let base = |buffer: &Buffer, elements: usize| {
            Ok::<_, crate::DeviceError>(Shared::new(range(buffer, product * elements * 8, elements * 8)?.cast()))
        };
        let run = Run {
            plan: self,
            a: base(a, p.m * p.k)?,
            b: base(b, p.n * p.k)?,
            c: base(c, p.m * p.n)?,
            barrier: Barrier::default(),
            counters: (0..p.k.div_ceil(KC)).map(|_| Default::default()).collect(),
        };
        self.pool.run(&|thread, threads| run.thread(thread, threads));
        Ok(())
    }
}

/// One execution.
struct Run<'a> {
    plan: &'a Plan,
    a: Shared<f64>,
    b: Shared<f64>,
    c: Shared<f64>,
    barrier: Barrier,
    /// For each pass over k: panels of B and blocks of A.
    counters: Vec<[AtomicUsize; 2]>,
}

fn pointer(buffer: &Buffer) -> Shared<f64> {
    Shared::new(buffer.address() as *mut f64)
}

impl Run<'_> {
    fn thread(&self, thread: usize, threads: usize) {
        let Plan { problem: p, kernel: Kernel { nr, .. }, packed_b, .. } = self.plan;
        for (pass, [panels, blocks]) in self.counters.iter().enumerate() {
            let first = pass * KC;
            let depth = KC.min(p.k - first);
            while let Some(column) = next(panels, *nr, p.n) {
                // SAFETY: panel `column / nr` is this thread's alone, and the buffer holds all panels; B is only read.
                unsafe {
                    let panel = pointer(packed_b).slice_mut(column * depth..(column + nr) * depth);
                    pack(self.b.slice(0..p.n * p.k), p.n, p.k, (column, *nr), (first, depth), panel);
                }
            }
            self.barrier.wait(threads);
            let share = Share::of([p.m, p.n], *nr, threads);
            let mut packed = None;
            while let Some((rows, columns)) = share.next(blocks) {
                if packed.replace(rows.start) != Some(rows.start) {
                    self.pack_rows(thread, rows.clone(), first, depth);
                }
                self.block(thread, rows, columns, first, depth);
            }
            self.barrier.wait(threads);
        }
    }

    /// Packs rows of A for a thread's own use.
    fn pack_rows(&self, thread: usize, rows: Range<usize>, first: usize, depth: usize) {
        let Plan { problem: p, kernel: Kernel { mr, .. }, packed_a, .. } = self.plan;
        for i in (0..rows.len()).step_by(*mr) {
            // SAFETY: packed_a is this thread's own and holds MC rows; A is only read.
            unsafe {
                let strip = pointer(&packed_a[thread]).slice_mut(i * depth..(i + mr) * depth);
                pack(self.a.slice(0..p.m * p.k), p.m, p.k, (rows.start + i, *mr), (first, depth), strip);
            }
        }
    }

    /// A block of C: rows that are packed, and columns that begin with a panel.
    fn block(&self, thread: usize, rows: Range<usize>, columns: Range<usize>, first: usize, depth: usize) {
        let Plan { problem: p, kernel: Kernel { micro, mr, nr, .. }, packed_a, packed_b, .. } = self.plan;
        let (mr, nr) = (*mr, *nr);
        let (a, b) = (pointer(&packed_a[thread]), pointer(packed_b));
        // SAFETY: packed_a is this thread's own; packed_b is complete and only read; this block of C is this thread's; the edge tile
        // is as large as the largest micro-kernel's.
        unsafe {
            let mut edge = [0.0; LARGEST_TILE];
            for j in columns.step_by(nr) {
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
                        c.iter_mut().zip(edge).for_each(|(c, e)| *c = if first == 0 { *e } else { *c + e });
                    }
                }
            }
        }
    }
}

/// Rows `row..row + width` (zeros past the end) and elements `first..first + depth` of each, element by element: k outermost.
fn pack(from: &[f64], rows: usize, k: usize, (row, width): (usize, usize), (first, depth): (usize, usize), panel: &mut [f64]) {
    let mut i = 0;
    // Four rows at a time, so that what is read and what is written both come in runs.
    while i + 4 <= width && row + i + 4 <= rows {
        let source = |r: usize| &from[(row + i + r) * k + first..][..depth];
        let (s0, s1, s2, s3) = (source(0), source(1), source(2), source(3));
        for (p, to) in panel.chunks_exact_mut(width).enumerate() {
            to[i..i + 4].copy_from_slice(&[s0[p], s1[p], s2[p], s3[p]]);
        }
        i += 4;
    }
    for i in i..width {
        let source = (row + i < rows).then(|| &from[(row + i) * k + first..][..depth]);
        for (p, to) in panel.chunks_exact_mut(width).enumerate() {
            to[i] = source.map_or(0.0, |s| s[p]);
        }
    }
}

unsafe fn portable(k: usize, a: *const f64, b: *const f64, c: *mut f64, ldc: usize, first: bool) {
    const MR: usize = 4;
    const NR: usize = 8;
    // SAFETY: the caller hands panels of k elements and a tile of C, all of this kernel's shape.
    unsafe {
        let (a, b) = (std::slice::from_raw_parts(a, k * MR), std::slice::from_raw_parts(b, k * NR));
        let mut tile = [[0.0; NR]; MR];
        for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(NR)) {
            for (row, a) in tile.iter_mut().zip(a) {
                row.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
        }
        for (i, row) in tile.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                let at = c.add(i * ldc + j);
                *at = if first { *sum } else { *at + sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Defines a micro-kernel of `$mr` rows and `$vectors` vectors of `$lanes` columns.
    macro_rules! micro {
        ($name:ident, $feature:literal, $mr:literal, $vectors:literal, $lanes:literal, $vector:ty, $zero:ident, $set:ident, $load:ident, $store:ident, $fma:ident, $add:ident) => {
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(k: usize, mut a: *const f64, mut b: *const f64, c: *mut f64, ldc: usize, first: bool) {
                // SAFETY: the caller hands panels of k elements and a tile of C, all of this kernel's shape.
                unsafe {
                    for i in 0..$mr {
                        for j in 0..$vectors {
                            _mm_prefetch::<_MM_HINT_T0>(c.add(i * ldc + j * $lanes).cast());
                        }
                    }
                    let mut tile: [[$vector; $vectors]; $mr] = [[$zero(); $vectors]; $mr];
                    for _ in 0..k {
                        let mut columns = [$zero(); $vectors];
                        for (j, column) in columns.iter_mut().enumerate() {
                            *column = $load(b.add(j * $lanes));
                        }
                        for (i, row) in tile.iter_mut().enumerate() {
                            let x = $set(*a.add(i));
                            for (sum, column) in row.iter_mut().zip(&columns) {
                                *sum = $fma(x, *column, *sum);
                            }
                        }
                        a = a.add($mr);
                        b = b.add($vectors * $lanes);
                    }
                    for (i, row) in tile.iter().enumerate() {
                        for (j, sum) in row.iter().enumerate() {
                            let at = c.add(i * ldc + j * $lanes);
                            $store(at, if first { *sum } else { $add(*sum, $load(at)) });
                        }
                    }
                }
            }
        };
    }

    micro!(
        f64_8x24,
        "avx512f",
        8,
        3,
        8,
        __m512d,
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd
    );
    micro!(
        f64_6x8,
        "avx2,fma",
        6,
        2,
        4,
        __m256d,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd
    );
}
