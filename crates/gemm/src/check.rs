//! Is the product right? A small one against a full float64 reference; a large one by a scan of every element for poison, a
//! few whole rows in float64, and a Freivalds check of all of it: C·x = A·(Bᵀ·x) for a random x of ±1, which a single wrong
//! element of the usual size upsets (R. Freivalds, "Probabilistic machines can use less running time", 1977).
//!
//! Errors are relative to √K, the standard deviation of an element of C when A and B are of variance 1.

use crate::cases::Shape;
use crate::operands::Operands;
use ridgepoint_core::{Dtype, Verification, data};
use ridgepoint_device::{Device, DeviceError, Result};
use ridgepoint_harness::verify::{Comparison, in_chunks};

/// Products up to this many multiply-adds are computed in full.
const FULL: u64 = 1 << 28;
/// Rows of a large product that are computed in full.
const ROWS: u64 = 8;

/// What the product must be.
pub(crate) struct Reference {
    /// Rows that are known, and their elements.
    rows: Vec<(u64, Vec<f64>)>,
    /// A·(Bᵀ·x), for a large product.
    freivalds: Option<Vec<f64>>,
    /// Typical size of an element of C.
    scale: f64,
}

/// x of the Freivalds check: ±1.
fn sign(j: u64) -> f64 {
    if data::hash(0xF7E1_7A1D, j) & 1 == 0 { 1.0 } else { -1.0 }
}

/// Elements of a buffer as numbers; exact for every input dtype.
fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let size = dtype.element_bytes().unwrap_or(1);
    let n = (bytes.len() / size) as u64;
    let part = |range: std::ops::Range<u64>| -> Vec<f64> {
        bytes[range.start as usize * size..range.end as usize * size].chunks_exact(size).map(|b| dtype.read(b)).collect()
    };
    in_chunks(n, part).concat()
}

impl Reference {
    /// From the operands as they lie on the device, which must be what the stream says: a fill that went wrong would make any
    /// product right.
    pub(crate) fn new(shape: Shape, input: Dtype, a: &[u8], b: &[u8], seeds: [u64; 2]) -> Result<Self> {
        let (a, b) = (decode(input, a), decode(input, b));
        for (matrix, seed) in [(&a, seeds[0]), (&b, seeds[1])] {
            for i in (0..matrix.len()).step_by((matrix.len() / 1000).max(1)) {
                let x = f64::from(data::normal(seed, i as u64));
                let want = match input {
                    Dtype::I8 => f64::from((x as f32 * data::I8_SCALE).round_ties_even()),
                    Dtype::Tf32 | Dtype::F64 => x,
                    other => other.round(x),
                };
                if matrix[i] != want {
                    return Err(DeviceError::invalid(format!(
                        "operand element {i} is {} and should be {want}: the fill kernel is wrong",
                        matrix[i]
                    )));
                }
            }
        }
        let (n, k) = (shape.n as usize, shape.k as usize);
        let full = shape.m * shape.n * shape.k <= FULL;
        let known: Vec<u64> = if full { (0..shape.m).collect() } else { rows(shape.m) };
        let row = |i: u64| -> Vec<f64> {
            let a = &a[i as usize * k..][..k];
            in_chunks(shape.n, |range| range.map(|j| dot(a, &b[j as usize * k..][..k])).collect::<Vec<f64>>()).concat()
        };
        let rows = if full {
            let compute = |range: std::ops::Range<u64>| -> Vec<(u64, Vec<f64>)> {
                let row = |i: u64| (i, b.chunks_exact(k).map(|b| dot(&a[i as usize * k..][..k], b)).collect());
                range.map(row).collect()
            };
            in_chunks_of(shape.m, compute)
        } else {
            known.into_iter().map(|i| (i, row(i))).collect()
        };
        let freivalds = (!full).then(|| {
            let parts = in_chunks(shape.n, |range| {
                let mut sum = vec![0.0; k];
                for j in range {
                    let s = sign(j);
                    b[j as usize * k..][..k].iter().zip(&mut sum).for_each(|(b, sum)| *sum += s * b);
                }
                sum
            });
            let bx = parts.into_iter().reduce(|mut x, y| {
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
                x
            });
            let bx = bx.unwrap_or_default();
            in_chunks(shape.m, |range| range.map(|i| dot(&a[i as usize * k..][..k], &bx)).collect::<Vec<f64>>()).concat()
        });
        let unit = if input == Dtype::I8 { f64::from(data::I8_SCALE).powi(2) } else { 1.0 };
        debug_assert_eq!(b.len(), n * k);
        Ok(Self { rows, freivalds, scale: unit * (shape.k as f64).sqrt() })
    }
}

/// Rows are few and long: one a part, whatever the count.
fn in_chunks_of<T: Send>(m: u64, work: impl Fn(std::ops::Range<u64>) -> Vec<T> + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |p| p.get() as u64).min(m.max(1));
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads).map(|t| scope.spawn(move || work(m * t / threads..m * (t + 1) / threads))).collect();
        handles.into_iter().filter_map(|h| h.join().ok()).flatten().collect()
    })
}

/// A dot product in eight independent sums, so that the compiler may use vectors.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (x, y) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = x.remainder().iter().zip(y.remainder()).map(|(a, b)| a * b).sum();
    for (x, y) in x.zip(y) {
        (0..8).for_each(|i| sums[i] += x[i] * y[i]);
    }
    tail + sums.iter().sum::<f64>()
}

/// Rows to compute in full: the first, the last, and others by the seed's hash.
fn rows(m: u64) -> Vec<u64> {
    let mut rows: Vec<u64> = (0..ROWS - 2).map(|i| data::hash(7, i) % m).chain([0, m - 1]).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The largest error of one element, relative to √K.
///
/// Storing C costs half a unit in the last place of its value, up to 6 σ. The sum itself: f32 accumulation rounds K times,
/// √K by random walk, with a factor for its tail; FP8 on Hopper keeps but about 14 bits while summing, so that the same walk
/// takes steps of 2⁻¹³; tf32 rounds each factor to 11 bits.
pub(crate) fn tolerance(shape: Shape) -> f64 {
    let store = match shape.output {
        Dtype::I32 => return 0.0,
        output => 6.0 * output.unit_roundoff(),
    };
    let sum = match shape.dtype {
        Dtype::F64 => 8.0 * f64::EPSILON * (shape.k as f64).sqrt(),
        Dtype::Tf32 => 16.0 * Dtype::Tf32.unit_roundoff(),
        Dtype::E4m3 | Dtype::E5m2 => 2.0 * f64::powi(0.5, 13) * (shape.k as f64).sqrt(),
        _ => 4.0 * f64::from(f32::EPSILON) * (shape.k as f64).sqrt(),
    };
    store + sum
}

/// What a row's sum over N elements with random signs may be off, as a part of [`tolerance`] times √N. The bound on one element is
/// for the largest of millions; independent roundings add up to less, six of their standard deviations at 0.4 of it. What tf32
/// and FP8 lose on the way is not independent enough to count on that.
fn freivalds_part(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 0.4,
        _ => 1.0,
    }
}

/// Checks C of the first operand set, and scans all the others for poison.
pub(crate) fn check(device: &dyn Device, shape: Shape, reference: &Reference, operands: &[Operands]) -> Result<Verification> {
    let output = shape.output;
    let size = output.element_bytes().unwrap_or(1);
    let n = shape.n as usize;
    let tolerance = tolerance(shape);
    let mut total = Comparison::new(tolerance);
    for (set, Operands { c, .. }) in operands.iter().enumerate() {
        let mut bytes = vec![0u8; c.len()];
        device.download(c, 0, &mut bytes)?;
        let poisoned: u64 = in_chunks(shape.m * shape.n, |range| {
            let part = &bytes[range.start as usize * size..range.end as usize * size];
            part.chunks_exact(size).filter(|e| e.iter().all(|b| *b == 0xff) && output != Dtype::I32).count() as u64
        })
        .into_iter()
        .sum();
        total.scanned(shape.m * shape.n, poisoned);
        if set > 0 {
            continue;
        }
        let element = |i: usize| output.read(&bytes[i * size..(i + 1) * size]);
        for (row, want) in &reference.rows {
            for (j, want) in want.iter().enumerate() {
                total.push(element(*row as usize * n + j), *want, reference.scale);
            }
        }
        if let Some(want) = &reference.freivalds {
            let got = in_chunks(shape.m, |range| {
                range.map(|i| (0..n).map(|j| element(i as usize * n + j) * sign(j as u64)).sum::<f64>()).collect::<Vec<f64>>()
            })
            .concat();
            // A row of N independent errors adds up to √N of one.
            let scale = reference.scale * (n as f64).sqrt() * freivalds_part(shape.dtype);
            got.iter().zip(want).for_each(|(got, want)| total.push(*got, *want, scale));
        }
    }
    let method = if reference.freivalds.is_some() {
        "poison scan, 8 rows in f64, Freivalds; relative to √K"
    } else {
        "every element against f64; relative to √K"
    };
    Ok(total.finish(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_knows_a_product_by_hand() {
        assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
        assert_eq!(dot(&[1.0; 17], &[2.0; 17]), 34.0);
    }

    #[test]
    fn a_fill_that_went_wrong_is_found() {
        let shape = Shape::new(4, 4, 4, Dtype::F32);
        let zeros = [0u8; 64];
        assert!(Reference::new(shape, Dtype::F32, &zeros, &zeros, [1, 2]).is_err());
    }

    #[test]
    fn integers_must_be_exact() {
        assert_eq!(tolerance(Shape::new(1, 1, 999, Dtype::I8)), 0.0);
    }

    #[test]
    fn one_wrong_element_of_the_usual_size_upsets_a_row_of_8192() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let allowed = tolerance(Shape::new(8192, 8192, 8192, dtype)) * freivalds_part(dtype);
            assert!(allowed < 1.0 / 8192f64.sqrt(), "{dtype}: {allowed}");
        }
    }
}
