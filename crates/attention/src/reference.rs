//! Attention in float64 by its definition, one row at a time, from the operands as the counter makes them.

use crate::layout::Layout;
use crate::shape::{Kind, Shape};
use ridgepoint_core::{Dtype, data};
use ridgepoint_harness::verify::in_chunks;

/// What stored FP8 values of Q, K and V are multiplied by. None is 1, nor are any two or the product of the first two, so that
/// a kernel which leaves one out, or takes another's, is wrong by an eighth at least.
const SCALES: [f32; 3] = [0.5, 1.5, 1.25];

/// A row of the output: sequence, query head, query.
pub(crate) type Row = (u64, u64, u64);

/// The FP8 scales of a shape: 1 where an operand is no FP8; V's is K's where it lies in K.
pub(crate) fn scales(shape: Shape) -> [f32; 3] {
    let of = |dtype: Dtype, scale: f32| if dtype.bits() == 8 { scale } else { 1.0 };
    let v = if shape.kind == Kind::MlaDecode { SCALES[1] } else { SCALES[2] };
    [of(shape.dtype, SCALES[0]), of(shape.kv, SCALES[1]), of(shape.kv, v)]
}

/// Keys that a query sees at most.
pub(crate) fn reach(shape: Shape) -> u64 {
    shape.window.unwrap_or(shape.sk)
}

/// The sinks of a shape, one a query head: each has about a twelfth of the weight of a row that sees all keys, so that one which
/// is left out shows at any length.
pub(crate) fn sinks(shape: Shape, seed: u64) -> Vec<f32> {
    let middle = (reach(shape) as f32).ln() - 2.0;
    (0..if shape.sinks { shape.hq } else { 0 }).map(|h| middle + 0.5 * data::normal(seed, h)).collect()
}

/// An operand as the counter makes it: element `i`, rounded to the dtype, times what its values are scaled by.
#[derive(Clone)]
pub(crate) struct Operand {
    seed: u64,
    pub(crate) dtype: Dtype,
    pub(crate) scale: f64,
    /// What is stored, of the first elements: every dtype's values are f32's.
    known: Vec<f32>,
}

impl Operand {
    /// What is stored.
    pub(crate) fn stored(&self, i: u64) -> f64 {
        self.known.get(i as usize).map_or_else(|| self.made(i), |x| f64::from(*x))
    }

    fn made(&self, i: u64) -> f64 {
        let x = data::normal(self.seed, i);
        match self.dtype {
            // The common case without the general conversion: whole caches of keys are made of it.
            Dtype::Bf16 => f64::from(f32::from_bits(u32::from(ridgepoint_core::minifloat::bf16_bits(x)) << 16)),
            other => other.round(f64::from(x)),
        }
    }

    /// What is meant.
    pub(crate) fn at(&self, i: u64) -> f64 {
        self.scale * self.stored(i)
    }

    /// What is meant by the elements from `first` on.
    fn read(&self, first: u64, to: &mut [f64]) {
        match self.known.get(first as usize..first as usize + to.len()) {
            Some(known) => to.iter_mut().zip(known).for_each(|(to, x)| *to = self.scale * f64::from(*x)),
            None => to.iter_mut().zip(first..).for_each(|(to, i)| *to = self.at(i)),
        }
    }
}

/// All operands of a shape.
#[derive(Clone)]
pub(crate) struct Operands {
    pub(crate) q: Operand,
    pub(crate) k: Operand,
    pub(crate) v: Operand,
    /// A logit a query head; empty where there are none.
    sinks: Vec<f32>,
    pub(crate) layout: Layout,
}

impl Operands {
    /// From the seeds of Q, K, V and the sinks; `encoded` says how the device stores the types of Q and of K and V.
    pub(crate) fn new(shape: Shape, seeds: [u64; 4], encoded: [Dtype; 2]) -> Self {
        let scale = scales(shape).map(f64::from);
        let of = |i: usize, dtype: Dtype| Operand { seed: seeds[i], dtype, scale: scale[i], known: Vec::new() };
        Self {
            q: of(0, encoded[0]),
            k: of(1, encoded[1]),
            v: of(2, encoded[1]),
            sinks: sinks(shape, seeds[3]),
            layout: Layout::new(shape),
        }
    }

    /// The same with each element made once and kept, for a reference of every row, which reads each key many times.
    pub(crate) fn kept(&self, shape: Shape) -> Self {
        let mut kept = self.clone();
        for (operand, n) in [&mut kept.q, &mut kept.k, &mut kept.v].into_iter().zip(shape.elements()) {
            operand.known = in_chunks(n, |part| part.map(|i| operand.made(i) as f32).collect::<Vec<_>>()).concat();
        }
        kept
    }

    /// One row of the output; zero where a query sees no key, whatever its sink.
    pub(crate) fn row(&self, shape: Shape, (b, h, i): Row) -> Vec<f64> {
        let (dqk, dv) = (shape.dqk, shape.dv);
        let mut out = vec![0.0; dv as usize];
        let seen = shape.keys(b, i);
        if seen.is_empty() {
            return out;
        }
        let [mut query, mut key, mut value] = [dqk, dqk, dv].map(|d| vec![0.0; d as usize]);
        self.q.read(((b * shape.hq + h) * shape.sq + i) * dqk, &mut query);
        let scale = shape.problem().softmax_scale();
        let rows: Vec<u64> = seen.map(|j| self.layout.row(b, h / (shape.hq / shape.hkv), j)).collect();
        let mut logit = |row: &u64| {
            self.k.read(row * dqk, &mut key);
            scale * query.iter().zip(&key).map(|(q, k)| q * k).sum::<f64>()
        };
        let logits: Vec<f64> = rows.iter().map(&mut logit).collect();
        let sink = self.sinks.get(h as usize).map(|sink| f64::from(*sink));
        let largest = logits.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
        let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - largest).exp());
        let (values, stride) = if shape.kind == Kind::MlaDecode { (&self.k, dqk) } else { (&self.v, dv) };
        for (row, weight) in rows.iter().zip(&weights) {
            values.read(row * stride, &mut value);
            out.iter_mut().zip(&value).for_each(|(o, value)| *o += weight / sum * value);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(id: &str) -> Shape {
        Shape::parse(&format!("attention/{id}")).unwrap()
    }

    fn operands(shape: Shape) -> Operands {
        Operands::new(shape, [1, 2, 3, 4], [shape.dtype, shape.kv])
    }

    fn apart(a: &[f64], b: &[f64]) -> f64 {
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    }

    #[test]
    fn a_row_that_sees_nothing_is_zero_and_one_key_is_its_value() {
        for flags in ["causal", "causal/sinks", "causal/w1", "causal/page16/sinks"] {
            let s = shape(&format!("prefill/b1hq1hkv1sq4sk2d8/f32/{flags}"));
            let o = operands(s);
            assert_eq!(o.row(s, (0, 0, 1)), vec![0.0; 8], "{flags}");
            assert_ne!(o.row(s, (0, 0, 2)), vec![0.0; 8], "{flags}");
        }
        let s = shape("decode/b3hq2hkv1sq1sk1d8/f32/ragged");
        let o = operands(s);
        assert!(apart(&o.row(s, (0, 1, 0)), &(0..8).map(|c| o.v.at(c)).collect::<Vec<_>>()) < 1e-12);
        assert_eq!(o.row(s, (2, 1, 0)), vec![0.0; 8], "an empty sequence");
    }

    #[test]
    fn a_window_is_the_dense_problem_of_its_keys() {
        let s = shape("prefill/b1hq1hkv1sq9sk9d8/f32/causal/w4");
        let o = operands(s);
        // Its keys one by one, weighted by hand.
        for i in 0..9u64 {
            let keys = i.saturating_sub(3)..=i;
            let logit = |j: u64| (0..8).map(|c| o.q.at(i * 8 + c) * o.k.at(j * 8 + c)).sum::<f64>() / 8f64.sqrt();
            let sum: f64 = keys.clone().map(|j| logit(j).exp()).sum();
            let want: Vec<f64> = (0..8).map(|c| keys.clone().map(|j| logit(j).exp() / sum * o.v.at(j * 8 + c)).sum()).collect();
            assert!(apart(&o.row(s, (0, 0, i)), &want) < 1e-12, "query {i}");
        }
    }

    #[test]
    fn a_sink_takes_its_share_of_the_weight() {
        let (with, without) = (shape("decode/b1hq4hkv2sq1sk9d8/f32/sinks"), shape("decode/b1hq4hkv2sq1sk9d8/f32"));
        let (a, b) = (operands(with), operands(without));
        for h in 0..4 {
            let (a_row, b_row) = (a.row(with, (0, h, 0)), b.row(without, (0, h, 0)));
            let dot = |j: u64| (0..8).map(|c| a.q.at(h * 8 + c) * a.k.at((h / 2 * 9 + j) * 8 + c)).sum::<f64>();
            let sum: f64 = (0..9).map(|j| (dot(j) / 8f64.sqrt()).exp()).sum();
            let share = sum / (sum + f64::from(a.sinks[h as usize]).exp());
            assert!(apart(&a_row, &b_row.iter().map(|x| x * share).collect::<Vec<_>>()) < 1e-12);
            assert!((0.5..0.98).contains(&share), "a sink that one would not notice, or nothing else");
        }
    }

    #[test]
    fn pages_change_where_keys_are_and_scales_what_they_mean() {
        // With pages of one key and one head a row is a key: the same keys in another order, so the same problem when each is
        // found where it lies.
        let s = shape("decode/b2hq2hkv1sq1sk40d16/f32/page1");
        let o = operands(s);
        let order: Vec<u64> = (0..40).map(|j| o.layout.row(1, 0, j)).collect();
        assert_ne!(order, (0..40).map(|j| 40 + j).collect::<Vec<u64>>());
        let scale = 1.0 / 4.0;
        let logit = |row: &u64| scale * (0..16).map(|c| o.q.at((2 * 2 - 1) * 16 + c) * o.k.at(row * 16 + c)).sum::<f64>();
        let sum: f64 = order.iter().map(|r| logit(r).exp()).sum();
        let want: Vec<f64> = (0..16).map(|c| order.iter().map(|r| logit(r).exp() / sum * o.v.at(r * 16 + c)).sum()).collect();
        assert!(apart(&o.row(s, (1, 1, 0)), &want) < 1e-12);

        // Every scale shows in every row: leaving one out is no rounding.
        for id in [
            "decode/b1hq2hkv1sq1sk300d64/e4m3",
            "decode/b1hq2hkv1sq1sk300d64/bf16/kv=e4m3",
            "mla-decode/b1hq2hkv1sq1sk300d96v64/e4m3",
        ] {
            let s = shape(id);
            let want = operands(s).row(s, (0, 1, 0));
            for dropped in 0..3 {
                let mut o = operands(s);
                let operand = [&mut o.q, &mut o.k, &mut o.v].into_iter().nth(dropped).unwrap();
                let unused = operand.scale == 1.0 || (s.kind == Kind::MlaDecode && dropped == 2);
                operand.scale = 1.0;
                let error = apart(&o.row(s, (0, 1, 0)), &want);
                assert_eq!(error > 0.1, !unused, "{id} without scale {dropped}: {error}");
            }
        }
    }

    #[test]
    fn logits_of_thousands_stay_finite() {
        for id in ["prefill/b2hq2hkv1sq5sk70d64/f16/causal/sinks", "decode/b3hq2hkv1sq1sk70d96/bf16/kv=e4m3/page16/ragged"] {
            let s = shape(id);
            let mut o = operands(s);
            (o.q.scale, o.k.scale) = (60.0, 60.0);
            for b in 0..s.b {
                let row = o.row(s, (b, 1, s.sq - 1));
                assert!(row.iter().all(|x| x.is_finite() && x.abs() < 10.0), "{id}: {row:?}");
            }
        }
    }
}
