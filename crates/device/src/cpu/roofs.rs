//! The CPU's own limits, measured when it is opened: the arithmetic peak of each dtype that it has instructions for, by
//! independent fused multiply-adds that never touch memory, and the best bandwidth of DRAM over reading, and copying with
//! non-temporal stores. Kept short; the best of several tries counts, since a roof is what the machine can do.

use super::kernels::{self, Shared};
use super::pool::Pool;
use super::{Memory, allocate};
use crate::{Arg, Buffer, Result};
use ridgepoint_core::{DeviceInfo, Dtype, MeasuredRoof};
use std::time::Instant;

/// Each probe takes the best of this many tries.
const TRIES: usize = 5;

pub(super) fn measure(pool: &Pool, info: &DeviceInfo) -> Result<Vec<MeasuredRoof>> {
    let mut roofs = arithmetic(pool);
    roofs.extend(bandwidth(pool, info)?);
    Ok(roofs)
}

fn bandwidth(pool: &Pool, info: &DeviceInfo) -> Result<Vec<MeasuredRoof>> {
    // Each array is four times the last-level cache, as those of the memory suite, and no more than a small part of the memory.
    let bytes = (4 * info.last_level_cache().0).clamp(256 << 20, (info.memory.0 / 16).max(256 << 20)) as usize / 4096 * 4096;
    let (x, z) = (allocate(pool, bytes)?, allocate(pool, bytes)?);
    let sums = allocate(pool, 8 * pool.threads())?;
    let n = (bytes / 4) as u64;
    let best = |entry: &str, args: &[Arg<'_>], moved: u64| -> Result<f64> {
        let Some(kernel) = kernels::find(entry) else { return Ok(0.0) };
        let mut best = 0.0f64;
        for _ in 0..TRIES {
            let start = Instant::now();
            kernel(pool, args)?;
            best = best.max(moved as f64 / start.elapsed().as_secs_f64());
        }
        Ok(best)
    };
    let buffer = |b| Arg::Buffer(b, 0);
    let read = best("rp_read", &[buffer(&x), buffer(&sums), Arg::U64(n), Arg::U32(1)], bytes as u64)?;
    let copy = best("rp_copy_nt", &[buffer(&x), buffer(&z), Arg::U64(n), Arg::U32(1)], 2 * bytes as u64)?;
    let roof = |what: &str, value: f64| MeasuredRoof {
        what: what.into(),
        value,
        unit: "B/s".into(),
        dtype: None,
        method: format!("best of {TRIES}, {} threads, {} MiB arrays", pool.threads(), bytes >> 20),
    };
    // Ranks of this host exchange data through the same memory: each byte is read once and written once.
    Ok(vec![
        roof("dram read", read),
        roof("dram copy, non-temporal stores", copy),
        roof("peer copy through shared memory, one way", copy / 2.0),
    ])
}

/// Runs `operations` on every thread at once and takes the best rate.
fn rate(pool: &Pool, probe: &(dyn Fn() -> u64 + Sync)) -> f64 {
    let counts: Buffer = match allocate(pool, 8 * pool.threads()) {
        Ok(buffer) if buffer.owner::<Memory>().is_some() => buffer,
        _ => return 0.0,
    };
    let counts = Shared::new(counts.address() as *mut u64);
    let mut best = 0.0f64;
    for _ in 0..TRIES {
        let start = Instant::now();
        pool.run(&|thread, _| {
            // SAFETY: the buffer holds one count for each thread and lives to the end of this function.
            let count = unsafe { counts.slice_mut(thread..thread + 1) };
            count[0] = probe();
        });
        let seconds = start.elapsed().as_secs_f64();
        // SAFETY: all threads are done.
        let operations: u64 = unsafe { counts.slice(0..pool.threads()) }.iter().sum();
        best = best.max(operations as f64 / seconds);
    }
    best
}

fn arithmetic(pool: &Pool) -> Vec<MeasuredRoof> {
    let roof = |what: &str, dtype: Dtype, instruction: &str, value: f64| MeasuredRoof {
        what: format!("{what} {dtype}"),
        value,
        unit: "FLOP/s".into(),
        dtype: Some(dtype),
        method: format!("{instruction}, best of {TRIES}, {} threads", pool.threads()),
    };
    let mut roofs = Vec::new();
    for probe in probes::available() {
        roofs.push(roof(probe.what, probe.dtype, probe.instruction, rate(pool, &|| (probe.run)(probes::ROUNDS))));
    }
    roofs
}

mod probes {
    //! Chains of independent multiply-adds, enough of them to hide the latency, in registers alone.

    use ridgepoint_core::Dtype;

    /// Rounds of each try: about 5 ms.
    pub(super) const ROUNDS: u64 = 400_000;

    /// A probe that this CPU can run.
    pub(super) struct Probe {
        pub(super) what: &'static str,
        pub(super) dtype: Dtype,
        pub(super) instruction: &'static str,
        /// Runs so many rounds and returns the operations done.
        pub(super) run: fn(u64) -> u64,
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn available() -> Vec<Probe> {
        /// Fused multiply-adds that the compiler turns into the target's vectors.
        fn plain(rounds: u64) -> u64 {
            let mut acc = [0f32; 64];
            let x = std::hint::black_box([1e-3f32; 64]);
            for _ in 0..rounds {
                (0..64).for_each(|i| acc[i] = x[i].mul_add(x[i], acc[i]));
            }
            std::hint::black_box(acc);
            rounds * 128
        }
        vec![Probe { what: "fma", dtype: Dtype::F32, instruction: "compiled fused multiply-add", run: plain }]
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn available() -> Vec<Probe> {
        use std::arch::is_x86_feature_detected as has;
        let mut probes = Vec::new();
        let mut add = |what, dtype, instruction, run| probes.push(Probe { what, dtype, instruction, run });
        /// A probe whose feature was detected where it is named.
        macro_rules! detected {
            ($probe:path) => {
                // SAFETY: this function is only named below a check for its CPU feature.
                (|n| unsafe { $probe(n) }) as fn(u64) -> u64
            };
        }
        if has!("avx512f") {
            add("fma", Dtype::F32, "AVX-512 vfmadd", detected!(x86::fma_f32_512));
            add("fma", Dtype::F64, "AVX-512 vfmadd", detected!(x86::fma_f64_512));
        } else if has!("avx2") && has!("fma") {
            add("fma", Dtype::F32, "AVX2 vfmadd", detected!(x86::fma_f32_256));
            add("fma", Dtype::F64, "AVX2 vfmadd", detected!(x86::fma_f64_256));
        }
        if has!("avx512bf16") {
            add("dot", Dtype::Bf16, "AVX-512 vdpbf16ps", detected!(x86::dot_bf16));
        }
        if has!("avx512vnni") {
            add("dot", Dtype::I8, "AVX-512 vpdpbusd", detected!(x86::dot_i8));
        }
        probes
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;
        use std::hint::black_box;

        macro_rules! chain {
            ($name:ident, $feature:literal, $accumulators:literal, $per_op:literal, $vector:ty, $start:expr, |$acc:ident, $x:ident| $op:expr) => {
                #[target_feature(enable = $feature)]
                pub(super) unsafe fn $name(rounds: u64) -> u64 {
                    let $x: $vector = black_box($start);
                    let mut acc: [$vector; $accumulators] = [$x; $accumulators];
                    for _ in 0..rounds {
                        for a in &mut acc {
                            let $acc = *a;
                            *a = $op;
                        }
                        // An empty statement that the optimiser cannot see through keeps rounds from being merged.
                        // SAFETY: it does nothing.
                        unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
                    }
                    black_box(acc);
                    rounds * $accumulators * $per_op
                }
            };
        }

        chain!(fma_f32_512, "avx512f", 24, 32, __m512, _mm512_set1_ps(1e-3), |a, x| _mm512_fmadd_ps(x, x, a));
        chain!(fma_f64_512, "avx512f", 24, 16, __m512d, _mm512_set1_pd(1e-3), |a, x| _mm512_fmadd_pd(x, x, a));
        chain!(fma_f32_256, "avx2,fma", 12, 16, __m256, _mm256_set1_ps(1e-3), |a, x| _mm256_fmadd_ps(x, x, a));
        chain!(fma_f64_256, "avx2,fma", 12, 8, __m256d, _mm256_set1_pd(1e-3), |a, x| _mm256_fmadd_pd(x, x, a));
        chain!(dot_i8, "avx512f,avx512vnni", 24, 128, __m512i, _mm512_set1_epi32(0x0101_0101), |a, x| _mm512_dpbusd_epi32(
            a, x, x
        ));
        chain!(dot_bf16, "avx512f,avx512bf16", 24, 64, __m512, _mm512_set1_ps(0.0), |a, x| {
            // SAFETY: both are 512 bits of plain data.
            let pairs = unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
            _mm512_dpbf16_ps(a, pairs, pairs)
        });
    }
}
