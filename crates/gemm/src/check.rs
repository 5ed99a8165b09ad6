//! Is the product right? A small one against a full float64 reference; a large one by a scan of every element for poison, a
//! few whole rows in float64, and a Freivalds check of all of it: C·x = A·(Bᵀ·x) for a random x of ±1, which a single wrong
//! element of the usual size upsets (R. Freivalds, "Probabilistic machines can use less running time", 1977).
//!
//! Errors are relative to the standard deviation of the element of C: √K when A and B are of variance 1 and without scales, and as
//! the rows that make it where they differ in size.

use crate::cases::Shape;
use crate::operands::{Operands, Seeds};
use ridgepoint_core::{Distribution, Dtype, Verification, block, data, minifloat};
use ridgepoint_device::{Device, DeviceError, Result, ScaleOrder, ScaleType, Scales};
use ridgepoint_harness::verify::{self, Comparison, in_chunks};

/// Products up to this many multiply-adds are computed in full.
const FULL: u64 = 1 << 28;
/// Rows of a large product that are computed in full.
const ROWS: u64 = 8;

/// What the product must be.
pub(crate) struct Reference {
    /// Rows that are known, those of all products counted through, and their elements.
    rows: Vec<(u64, Vec<f64>)>,
    /// A·(Bᵀ·x) of each product, for large ones.
    freivalds: Option<Vec<f64>>,
    /// Typical size of a row of A and of a row of B, so that an element of C is of the size of their product over √K: √K itself
    /// where elements are of variance 1 and no scales differ.
    sizes: [Vec<f64>; 2],
    k: u64,
}

/// A factor as it was found on the device: its elements, its scales and where they lie, and the factor of the whole of it.
pub(crate) struct Found {
    pub(crate) dtype: Dtype,
    pub(crate) elements: Vec<u8>,
    pub(crate) scales: Option<(Scales, ScaleOrder, Vec<u8>)>,
    pub(crate) factor: f32,
}

/// x of the Freivalds check: ±1.
fn sign(j: u64) -> f64 {
    if data::hash(0xF7E1_7A1D, j) & 1 == 0 { 1.0 } else { -1.0 }
}

impl Found {
    /// Element `i`, as it is stored; exact for every input dtype.
    fn element(&self, i: usize) -> f64 {
        let dtype = self.dtype.element();
        match (dtype.bits(), dtype.format()) {
            (4, Some(format)) => format.decode(u32::from(self.elements[i / 2] >> (4 * (i % 2)) & 15)),
            _ => {
                let size = dtype.element_bytes().unwrap_or(1);
                dtype.read(&self.elements[i * size..(i + 1) * size])
            }
        }
    }

    /// An error where the device holds others than the streams say, by a sample of them: a fill that went wrong would make any
    /// product right.
    fn agrees(&self, values: Distribution, elements: u64, seed: u64, seed_of_scales: u64) -> Result<()> {
        let wrong = |what: &str, i: u64, is: f64, should: f64| {
            DeviceError::invalid(format!("operand {what} {i} is {is} and should be {should}: the fill kernel is wrong"))
        };
        for i in (0..elements).step_by((elements as usize / 1000).max(1)) {
            let x = data::value(values, seed, i);
            let want = match self.dtype.element() {
                Dtype::I8 => f64::from((x * data::I8_SCALE).round_ties_even()),
                Dtype::Tf32 | Dtype::F64 => f64::from(x),
                Dtype::E2m1 => Dtype::E2m1.round(f64::from(x * data::E2M1_SCALE)),
                other => other.round(f64::from(x)),
            };
            let is = self.element(i as usize);
            if is != want {
                return Err(wrong("element", i, is, want));
            }
        }
        let Some((scales, order, bytes)) = &self.scales else { return Ok(()) };
        let n = scales.len(*order);
        for i in (0..n).step_by((n as usize / 1000).max(1)) {
            let want = match scales.of {
                ScaleType::F32 => f64::from(data::scale_f32(seed_of_scales, i)),
                ScaleType::E8m0 => block::e8m0(data::scale_e8m0(seed_of_scales, i)),
                ScaleType::E4m3 => minifloat::E4M3.decode(u32::from(data::scale_e4m3(seed_of_scales, i))),
            };
            let is = scale(scales, bytes, i);
            if is != want {
                return Err(wrong("scale", i, is, want));
            }
        }
        Ok(())
    }

    /// The numbers that are meant, of row `row` of product `product`, of `rows` each.
    fn row(&self, [product, row]: [u64; 2], rows: u64, numbers: &mut [f64]) {
        let (k, first) = (numbers.len(), (product * rows + row) as usize * numbers.len());
        let dtype = self.dtype.element();
        match dtype.element_bytes() {
            Some(size) if dtype.bits() >= 8 => {
                let stored = self.elements[first * size..(first + k) * size].chunks_exact(size);
                numbers.iter_mut().zip(stored).for_each(|(number, stored)| *number = dtype.read(stored));
            }
            _ => numbers.iter_mut().enumerate().for_each(|(i, number)| *number = self.element(first + i)),
        }
        let factor = f64::from(self.factor);
        match &self.scales {
            None if factor == 1.0 => {}
            None => numbers.iter_mut().for_each(|x| *x *= factor),
            Some((scales, order, bytes)) => {
                for (block, run) in numbers.chunks_mut(scales.run.min(k as u64) as usize).enumerate() {
                    let place = scales.place(*order, product, row, block as u64 * scales.run);
                    let scale = factor * scale(scales, bytes, place);
                    run.iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
    }
}

/// The scale that lies at a place.
fn scale(scales: &Scales, bytes: &[u8], place: u64) -> f64 {
    let size = scales.of.bytes();
    scales.of.read(&bytes[place as usize * size..(place as usize + 1) * size])
}

/// Of the Euclidean lengths of rows: a row that is much shorter than most counts as an eighth of them, since what an output rounds
/// does not get small with it.
fn sizes(rows: Vec<f64>) -> Vec<f64> {
    // Rows of zeros have no size of their own.
    let least = Some(verify::rms(&rows) / 8.0).filter(|least| *least > 0.0).unwrap_or(1.0);
    rows.into_iter().map(|size| size.max(least)).collect()
}

/// What some rows of B say: their lengths, their products with each known row of A, and their sum with random signs.
struct Part {
    lengths: Vec<f64>,
    known: Vec<Vec<f64>>,
    sum: Vec<f64>,
}

impl Reference {
    /// From the operands as they lie on the device, row by row: as numbers they would be gigabytes.
    pub(crate) fn new(shape: Shape, a: &Found, b: &Found, seeds: Seeds) -> Result<Self> {
        let (m, n, k) = (shape.m, shape.n, shape.k as usize);
        a.agrees(shape.data, shape.batch * m * shape.k, seeds.elements[0], seeds.scales[0])?;
        b.agrees(shape.data, shape.batch * n * shape.k, seeds.elements[1], seeds.scales[1])?;
        let all = shape.batch * m;
        let full = all * n * shape.k <= FULL;
        let known: Vec<u64> = if full { (0..all).collect() } else { rows(all) };
        let mut rows_of_a = vec![0.0; known.len() * k];
        known.iter().zip(rows_of_a.chunks_exact_mut(k)).for_each(|(i, row)| a.row([i / m, i % m], m, row));
        let (mut rows, mut lengths, mut freivalds) = (Vec::with_capacity(known.len()), [vec![], vec![]], Vec::new());
        for product in 0..shape.batch {
            let mine = known.partition_point(|i| i / m < product)..known.partition_point(|i| i / m <= product);
            let of_a = &rows_of_a[mine.start * k..mine.end * k];
            let parts = in_parts(n, shape.k, |range| {
                let mut row = vec![0.0; k];
                let length = (range.end - range.start) as usize;
                let known = vec![Vec::with_capacity(length); mine.len()];
                let mut part = Part { lengths: Vec::with_capacity(length), known, sum: vec![0.0; k] };
                for j in range {
                    b.row([product, j], n, &mut row);
                    part.lengths.push(dot(&row, &row).sqrt());
                    part.known.iter_mut().zip(of_a.chunks_exact(k)).for_each(|(known, a)| known.push(dot(a, &row)));
                    let s = sign(j);
                    part.sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += s * x);
                }
                part
            });
            let mut bx = vec![0.0; k];
            let mut found = vec![Vec::with_capacity(n as usize); mine.len()];
            for part in parts {
                lengths[1].extend(part.lengths);
                found.iter_mut().zip(part.known).for_each(|(found, known)| found.extend(known));
                bx.iter_mut().zip(part.sum).for_each(|(bx, sum)| *bx += sum);
            }
            rows.extend(known[mine].iter().copied().zip(found));
            let parts = in_parts(m, shape.k, |range| {
                let mut row = vec![0.0; k];
                let of = |i| {
                    a.row([product, i], m, &mut row);
                    (dot(&row, &row).sqrt(), dot(&row, &bx))
                };
                range.map(of).collect::<Vec<(f64, f64)>>()
            });
            for (length, x) in parts.into_iter().flatten() {
                lengths[0].push(length);
                freivalds.push(x);
            }
        }
        Ok(Self { rows, freivalds: (!full).then_some(freivalds), sizes: lengths.map(sizes), k: shape.k })
    }
}

/// True for values that make a weak reference: an operand transposed, a row in another's place or a tail of K left out changes little
/// or nothing of their product. What they are timed with is proved on normally distributed values besides ([`crate::ready`]).
pub(crate) const fn weak(data: Distribution) -> bool {
    matches!(data, Distribution::Zeros | Distribution::Constant | Distribution::Trigonometric)
}

/// How much larger than the sizes of its row and column let expect an element of C can be: terms of one sign, or alike, add up to K of
/// them and not to the root of that; [`tolerance`] takes six deviations for the largest element anyway.
fn growth(shape: Shape) -> f64 {
    if weak(shape.data) { ((shape.k as f64).sqrt() / 6.0).max(1.0) } else { 1.0 }
}

/// The largest element of C that such values make, without scales: for outputs that cannot hold it.
pub(crate) fn largest(shape: Shape) -> f64 {
    let k = shape.k as f64;
    match shape.data {
        Distribution::Zeros => 0.0,
        Distribution::Constant => k * f64::from(data::CONSTANT).powi(2),
        // Of two sine waves.
        Distribution::Trigonometric => k / 2.0,
        _ => 6.0 * k.sqrt(),
    }
}

/// Work on `n` rows of `each` elements, in as many parts as there are threads, and fewer of what is small.
fn in_parts<T: Send>(n: u64, each: u64, work: impl Fn(std::ops::Range<u64>) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |p| p.get() as u64);
    let parts = threads.min((n * each).div_ceil(1 << 16)).clamp(1, n.max(1));
    if parts == 1 {
        return vec![work(0..n)];
    }
    std::thread::scope(|scope| {
        let work = &work;
        let part = |t: u64| scope.spawn(move || work(n * t / parts..n * (t + 1) / parts));
        let handles: Vec<_> = (0..parts).map(part).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
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

/// The largest error of one element, relative to its standard deviation: √K for A and B of variance 1.
///
/// Storing C costs half a unit in the last place of its value, up to 6 σ. The sum itself: f32 accumulation rounds K times,
/// √K by random walk, with a factor for its tail. FP8 on Hopper keeps but about 14 bits while summing, so that the same walk takes
/// steps of 2⁻¹³: all K of them where sums are kept so to the end (`fast`), and else those of a stretch of at most 512, after
/// which it is added to an f32. Scales are powers of two or of few bits, or one rounding of f32 more: nothing beside those.
/// tf32 rounds each factor to 11 bits. Matrix units cut f32 sums off after each of their instruction's K, 16 of bf16 and f16, where they
/// would be rounded: a step of 2⁻²³ of the sum, always towards zero, twice the sum's usual size for the largest element (seen on an
/// H200: 4.3e-5 at K = 4096 with f32 outputs).
pub(crate) fn tolerance(shape: Shape, fast: bool) -> f64 {
    let store = match shape.output {
        Dtype::I32 => return 0.0,
        output => 6.0 * output.unit_roundoff(),
    };
    let walk = |step: f64, length: u64| step * (length as f64).sqrt();
    let f32s = walk(4.0 * f64::from(f32::EPSILON), shape.k);
    let sum = match shape.dtype.element() {
        Dtype::F64 => walk(8.0 * f64::EPSILON, shape.k),
        Dtype::Tf32 => 16.0 * Dtype::Tf32.unit_roundoff(),
        Dtype::E4m3 | Dtype::E5m2 if fast => walk(2.0 * f64::powi(0.5, 13), shape.k),
        Dtype::E4m3 | Dtype::E5m2 | Dtype::E2m1 => f32s + walk(2.0 * f64::powi(0.5, 13), shape.k.min(512)),
        Dtype::F16 | Dtype::Bf16 => f32s + 2.0 * f64::from(f32::EPSILON) * (shape.k / 16) as f64,
        _ => f32s,
    };
    // Sums that grow are rounded to one side again and again: each step of an instruction's K counts, and its error adds up.
    let growing = match shape.dtype.element() {
        _ if !weak(shape.data) => 0.0,
        Dtype::F64 => 6.0 * f64::EPSILON * shape.k as f64,
        Dtype::E4m3 | Dtype::E5m2 | Dtype::E2m1 => 6.0 * f64::powi(0.5, 14) * shape.k as f64 / 32.0,
        _ => 6.0 * f64::from(f32::EPSILON) * shape.k as f64,
    };
    (store + sum + growing) * growth(shape)
}

/// What a row's sum over N elements with random signs may be off, as a part of [`tolerance`] times √N. The bound on one element is
/// for the largest of millions; independent roundings add up to less, six of their standard deviations at 0.4 of it. What tf32
/// and FP8 lose on the way is not independent enough to count on that.
fn freivalds_part(shape: Shape) -> f64 {
    match shape.dtype {
        // Errors of elements that are alike are alike.
        _ if weak(shape.data) => 4.0,
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 0.4,
        _ => 1.0,
    }
}

/// Of integers −1 is poison and a number: as many as chance does not make of sums of 64 products or more are poison.
const fn too_many(minus_ones: u64, elements: u64, k: u64) -> u64 {
    if k >= 64 && minus_ones > elements / 64 + 16 { minus_ones } else { 0 }
}

/// Checks C of the first operand set, and scans all the others for poison.
pub(crate) fn check(
    device: &dyn Device,
    shape: Shape,
    fast: bool,
    reference: &Reference,
    operands: &[Operands],
) -> Result<Verification> {
    let output = shape.output;
    let size = output.element_bytes().unwrap_or(1);
    let n = shape.n as usize;
    let mut total = Comparison::new(tolerance(shape, fast));
    let root = (reference.k as f64).sqrt();
    let [of_a, of_b] = &reference.sizes;
    let b_of = |row: u64| &of_b[(row / shape.m) as usize * n..][..n];
    for (set, Operands { c, .. }) in operands.iter().enumerate() {
        let mut bytes = vec![0u8; c.len()];
        device.download(c, 0, &mut bytes)?;
        let elements = shape.elements()[2];
        let poisoned: u64 = in_chunks(elements, |range| {
            let part = &bytes[range.start as usize * size..range.end as usize * size];
            part.chunks_exact(size).filter(|e| e.iter().all(|b| *b == 0xff)).count() as u64
        })
        .into_iter()
        .sum();
        let poisoned = if output == Dtype::I32 { too_many(poisoned, elements, shape.k) } else { poisoned };
        total.scanned(elements, poisoned);
        if set > 0 {
            continue;
        }
        let element = |i: usize| output.read(&bytes[i * size..(i + 1) * size]);
        for (row, want) in &reference.rows {
            let of_row = of_a[*row as usize] / root;
            for ((j, want), of_column) in want.iter().enumerate().zip(b_of(*row)) {
                // Where scales of A and B happen to be large together an element is larger than 6 σ, and so is what storing it costs.
                let scale = (of_row * of_column).max(want.abs() / 6.0);
                total.push(element(*row as usize * n + j), *want, scale);
            }
        }
        if let Some(want) = &reference.freivalds {
            let got = in_parts(want.len() as u64, shape.n, |range| {
                range.map(|i| (0..n).map(|j| element(i as usize * n + j) * sign(j as u64)).sum::<f64>()).collect::<Vec<f64>>()
            })
            .concat();
            // A row of N independent errors adds up to √N of one.
            let columns: Vec<f64> = of_b.chunks_exact(n).map(|sizes| dot(sizes, sizes).sqrt()).collect();
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let of_row = of_a[i] / root * columns[i / shape.m as usize];
                total.push(*got, *want, of_row * freivalds_part(shape));
            }
        }
    }
    let method = if reference.freivalds.is_some() {
        "poison scan, 8 rows in f64, Freivalds; relative to the element's standard deviation"
    } else {
        "every element against f64; relative to the element's standard deviation"
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
        let found = || Found { dtype: Dtype::F32, elements: vec![0; 64], scales: None, factor: 1.0 };
        assert!(Reference::new(Shape::new(4, 4, 4, Dtype::F32), &found(), &found(), Seeds::of(1, 0)).is_err());
    }

    #[test]
    fn integers_that_nobody_wrote_are_seen() {
        assert_eq!(too_many(1 << 20, 1 << 20, 1024), 1 << 20);
        assert_eq!(too_many(300, 1 << 20, 1024), 0);
        assert_eq!(too_many(1 << 20, 1 << 20, 1), 0);
    }

    #[test]
    fn integers_must_be_exact() {
        assert_eq!(tolerance(Shape::new(1, 1, 999, Dtype::I8), false), 0.0);
    }

    #[test]
    fn one_wrong_element_of_the_usual_size_upsets_a_row_of_8192() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let shape = Shape::new(8192, 8192, 8192, dtype);
            let allowed = tolerance(shape, false) * freivalds_part(shape);
            assert!(allowed < 1.0 / 8192f64.sqrt(), "{dtype}: {allowed}");
        }
    }
}
