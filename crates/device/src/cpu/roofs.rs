//! The CPU's own limits, measured when it is opened: the arithmetic peak of each dtype that it has instructions for, by
//! independent fused multiply-adds that never touch memory, and the best bandwidth of DRAM over reading, and copying with
//! non-temporal stores. Kept short; the best of several tries counts, since a roof is what the machine can do.

use super::affinity::Pinned;
use super::allocate;
use super::kernels;
use super::pool::Pool;
use crate::{Arg, Result};
use ridgepoint_core::{DeviceInfo, Dtype, MeasuredRoof};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Each arithmetic probe takes the best of this many tries.
const TRIES: usize = 5;
/// Both bandwidth probes take turns for this long. A neighbour on the same memory makes it look slower for a while, so the more
/// tries the better; this many are affordable whenever the device is opened.
const BANDWIDTH_SECONDS: f64 = 0.25;

/// What fits into any core's first cache.
const CACHED: usize = 16 << 10;

/// Measures all roofs; at once the second time that the same cores are asked about in one process.
pub(super) fn measure(pool: &Pool, info: &DeviceInfo) -> Result<Vec<MeasuredRoof>> {
    static MEASURED: Mutex<Vec<(Vec<usize>, Vec<MeasuredRoof>)>> = Mutex::new(Vec::new());
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, roofs)) = measured.iter().find(|(cores, _)| cores == pool.cores()) {
        return Ok(roofs.clone());
    }
    let _pinned = Pinned::to(pool.cores().first());
    let mut roofs = arithmetic(pool);
    roofs.extend(bandwidth(pool, info)?);
    measured.push((pool.cores().to_vec(), roofs.clone()));
    Ok(roofs)
}

fn bandwidth(pool: &Pool, info: &DeviceInfo) -> Result<Vec<MeasuredRoof>> {
    // Each array is four times the last-level cache, as those of the memory suite, and no more than a small part of the memory.
    let bytes = (4 * info.last_level_cache().0).clamp(256 << 20, (info.memory.0 / 16).max(256 << 20)) as usize / 4096 * 4096;
    let account = Arc::new(AtomicU64::new(0));
    let (x, z) = (allocate(pool, &account, bytes)?, allocate(pool, &account, bytes)?);
    let sums = allocate(pool, &account, 8 * pool.threads())?;
    let n = (bytes / 4) as u64;
    let once = |entry: &str, args: &[Arg<'_>], moved: usize| -> Result<f64> {
        let Some(kernel) = kernels::find(entry) else { return Ok(0.0) };
        let start = Instant::now();
        kernel(pool, args)?;
        Ok(moved as f64 / start.elapsed().as_secs_f64())
    };
    let buffer = |b| Arg::Buffer(b, 0);
    let (mut read, mut copy, mut tries) = (0.0f64, 0.0f64, 0);
    let started = Instant::now();
    while tries < 3 || started.elapsed().as_secs_f64() < BANDWIDTH_SECONDS {
        read = read.max(once("rp_read", &[buffer(&x), buffer(&sums), Arg::U64(n), Arg::U32(1)], bytes)?);
        copy = copy.max(once("rp_copy_nt", &[buffer(&x), buffer(&z), Arg::U64(n), Arg::U32(1)], 2 * bytes)?);
        tries += 1;
    }
    // From each core's first cache: a part of the array that fits, gone over by the kernel itself.
    let (part, passes) = (CACHED * pool.threads(), 1 << 12);
    let mut cached = 0.0f64;
    for _ in 0..TRIES {
        let args = [buffer(&x), buffer(&sums), Arg::U64(part as u64 / 4), Arg::U32(passes)];
        cached = cached.max(once("rp_read", &args, part * passes as usize)?);
    }
    let roof = |what: &str, value: f64| MeasuredRoof {
        what: what.into(),
        value,
        unit: "B/s".into(),
        dtype: None,
        method: format!("best of {tries}, {} threads, {} MiB arrays", pool.threads(), bytes >> 20),
    };
    // Ranks of this host exchange data through the same memory: each byte is read once and written once.
    Ok(vec![
        roof("dram read", read),
        roof("dram copy, non-temporal stores", copy),
        roof("peer copy through shared memory, one way", copy / 2.0),
        MeasuredRoof {
            method: format!("best of {TRIES}, {} threads, {} KiB each", pool.threads(), CACHED >> 10),
            ..roof("cache read", cached)
        },
    ])
}

/// Runs `probe` on every thread at once, which returns the operations it did, and takes the best rate.
fn rate(pool: &Pool, probe: &(dyn Fn() -> u64 + Sync)) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..TRIES {
        let operations = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(&|_, _| {
            operations.fetch_add(probe(), Ordering::Relaxed);
        });
        best = best.max(operations.into_inner() as f64 / start.elapsed().as_secs_f64());
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
