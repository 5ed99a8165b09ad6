//! What each rank of a collective must receive, in float64: inputs are made by a counter, so that every element of every rank can be
//! computed anew by whoever holds it, and nothing that the ranks hold is believed.

use crate::{Checked, CollectiveProblem, Piece, Redop};
use ridgepoint_core::Dtype;
use std::ops::Range;

/// What one element must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Its value.
    pub value: f64,
    /// What an error of it is relative to: the sum of magnitudes of its terms, which bounds what rounding can do.
    pub scale: f64,
}

/// What one rank must receive.
pub struct Received<'p> {
    problem: &'p CollectiveProblem,
    /// Where values are moved; else they are combined.
    pieces: Vec<Piece>,
    combined_from: usize,
}

impl<'p> Received<'p> {
    /// By rank `rank`.
    #[must_use]
    pub fn by(problem: &'p CollectiveProblem, rank: usize) -> Self {
        let mut pieces = problem.pieces(rank);
        pieces.retain(|piece| piece.len > 0);
        Self { problem, pieces, combined_from: problem.combined_from(rank) }
    }

    /// Element `i` of it.
    #[must_use]
    pub fn element(&self, i: usize) -> Expected {
        let p = self.problem;
        // The pieces lie in order, without gaps.
        match self.pieces.partition_point(|piece| piece.at <= i).checked_sub(1) {
            Some(at) => {
                let piece = &self.pieces[at];
                Expected { value: p.input(piece.from, piece.start + i - piece.at), scale: 1.0 }
            }
            None => self.combined(self.combined_from + i),
        }
    }

    /// All ranks' elements `i` as one, and what its rounding is relative to: the sum of magnitudes, and as many of the smallest
    /// normal numbers, below which a rounding is absolute.
    fn combined(&self, i: usize) -> Expected {
        let p = self.problem;
        let (mut value, mut magnitudes) = (p.input(0, i), 0.0);
        for rank in 0..p.ranks {
            let x = p.input(rank, i);
            magnitudes += x.abs();
            if rank > 0 {
                value = match p.redop {
                    Redop::Sum | Redop::Avg => value + x,
                    Redop::Prod => value * x,
                    Redop::Min => value.min(x),
                    Redop::Max => value.max(x),
                };
            }
        }
        let (n, tiny) = (p.ranks as f64, p.least());
        let (value, scale) = match p.redop {
            Redop::Sum => (value, magnitudes + tiny),
            Redop::Prod => (value, value.abs()),
            Redop::Min | Redop::Max => (value, 1.0),
            Redop::Avg => (value / n, magnitudes / n + tiny),
        };
        // Where integers are compared, by one.
        Expected { value, scale: if matches!(p.dtype, Dtype::I8 | Dtype::I32) { 1.0 } else { scale } }
    }

    /// Compares elements `range` with what lies in `output`, which begins with element 0: an error above `tolerance` of the scale
    /// is wrong, and so is one that is not finite, or an output that ends too early.
    #[must_use]
    pub fn check(&self, output: &[u8], range: Range<usize>, tolerance: f64) -> Checked {
        let (p, size) = (self.problem, self.problem.size());
        let mut found = Checked { checked: range.len() as u64, ..Checked::default() };
        for i in range {
            let want = self.element(i);
            let got = output.get(i * size..(i + 1) * size).map_or(f64::NAN, |bytes| p.dtype.read(bytes));
            let error = if got == want.value { 0.0 } else { (got - want.value).abs() / want.scale };
            found.wrong += u64::from(error > tolerance || !error.is_finite());
            // f64::max would drop a NaN.
            if error > found.error || error.is_nan() {
                found.error = error;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CollectiveOp;
    use crate::collectives::expected;
    use ridgepoint_core::Bytes;

    #[test]
    fn every_element_of_every_operation_is_what_its_terms_make() {
        for op in CollectiveOp::ALL {
            for ranks in [1, 2, 3, 5] {
                let p = CollectiveProblem { root: ranks - 1, ..CollectiveProblem::new(op, ranks, Bytes(4 * 60), Dtype::F32) };
                for rank in 0..ranks {
                    let (received, terms) = (Received::by(&p, rank), expected(&p, rank));
                    for (i, terms) in terms.iter().enumerate() {
                        let scale = terms.iter().map(|x| x.abs()).sum::<f64>() + p.least();
                        let want = Expected { value: terms.iter().sum(), scale: if op.reduces() { scale } else { 1.0 } };
                        assert_eq!(received.element(i), want, "{op:?} rank {rank} of {ranks}, element {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_element_and_a_short_output_are_counted() {
        let p = CollectiveProblem::new(CollectiveOp::AllToAllV, 3, Bytes(4 * 60), Dtype::F32);
        let mut output: Vec<u8> = expected(&p, 1).iter().flat_map(|terms| (terms[0] as f32).to_le_bytes()).collect();
        let check = |output: &[u8]| Received::by(&p, 1).check(output, 0..60, 0.0);
        assert_eq!(check(&output), Checked { checked: 60, wrong: 0, error: 0.0 });
        output[7 * 4 + 3] ^= 1;
        assert_eq!(check(&output).wrong, 1);
        let short = check(&output[..4 * 50]);
        assert!(short.wrong == 11 && short.error.is_nan());
    }
}
