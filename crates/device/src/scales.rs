//! Scales of a product's factors: which elements share one, and where it lies. Libraries want them in orders of their own; a plan
//! says which, and whoever fills or reads them asks here.

use crate::{GemmProblem, Transpose};
use ridgepoint_core::minifloat::E4M3;
use ridgepoint_core::{Dtype, block};

/// What the elements of A and B are multiplied with to be the numbers that are meant. Scales of K lie along each row of A and each
/// column of B (row, where B is stored as N×K).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// Nothing.
    #[default]
    None,
    /// An f32 for all of A and another for all of B, of all products together.
    Tensor,
    /// An f32 a row of A and an f32 a column of B ("outer vector").
    Row,
    /// An f32 for each 128 of K of a row of A, and for each 128 × 128 of B: what DeepSeek-V3 was trained with.
    Block128,
    /// OCP MX: an E8M0 for each 32 of K.
    Mx,
    /// NVFP4: an E4M3 for each 16 of K, and an f32 a tensor, whose product is [`crate::GemmOperands::factor`].
    Nvfp4,
}

impl Scaling {
    /// A word for errors and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tensor => "one f32 a tensor",
            Self::Row => "one f32 a row of A and a column of B",
            Self::Block128 => "one f32 for 1×128 of A and 128×128 of B",
            Self::Mx => "one E8M0 for 32",
            Self::Nvfp4 => "one E4M3 for 16 and one f32 a tensor",
        }
    }
}

/// A scale's own type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleType {
    /// IEEE binary32.
    F32,
    /// A power of two.
    E8m0,
    /// E4M3, used without its sign.
    E4m3,
}

impl ScaleType {
    /// The name in kernels: `rp_init_scale_e8m0`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::E8m0 => "e8m0",
            Self::E4m3 => "e4m3",
        }
    }

    /// Bytes of one.
    #[must_use]
    pub const fn bytes(self) -> usize {
        if matches!(self, Self::F32) { 4 } else { 1 }
    }

    /// The value of one from its bytes; NaN for the wrong number of them.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Self::F32, _) => Dtype::F32.read(bytes),
            (Self::E8m0, [pattern]) => block::e8m0(*pattern),
            (Self::E4m3, [pattern]) => E4M3.decode(u32::from(*pattern)),
            _ => f64::NAN,
        }
    }
}

/// How the scales of a matrix lie in memory. A *line* is what shares scales across K: a row of A, a column of B, or 128 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleOrder {
    /// A line's scales behind each other.
    #[default]
    Lines,
    /// As before, each line padded to a multiple of four scales.
    LinesBy4,
    /// One block of K of all lines behind each other.
    Blocks,
    /// In tiles of 128 lines and four blocks, 512 scales each, as NVIDIA's matrix units read them: line l and block b of a tile at
    /// 16·(l mod 32) + 4·(l div 32) + b. Tiles of the same lines behind each other; the last ones are whole.
    Tiles,
}

/// The scales of one factor of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales {
    /// What each is stored as.
    pub of: ScaleType,
    /// Products with scales of their own.
    pub products: u64,
    /// Lines of a product.
    pub lines: u64,
    /// Rows of A or columns of B in a line.
    pub rows: u64,
    /// Scales of a line.
    pub blocks: u64,
    /// Elements of K that share one.
    pub run: u64,
}

impl Scales {
    /// Those of A and of B; None for a problem without scales in memory.
    #[must_use]
    pub fn of(problem: &GemmProblem) -> Option<[Self; 2]> {
        let k = problem.k as u64;
        let of = |outer: usize, of, rows: u64, run: u64| Self {
            of,
            products: problem.batch as u64,
            lines: (outer as u64).div_ceil(rows),
            rows,
            blocks: k.div_ceil(run),
            run,
        };
        let both = |scale, run| Some([of(problem.m, scale, 1, run), of(problem.n, scale, 1, run)]);
        let whole = Self { of: ScaleType::F32, products: 1, lines: 1, rows: u64::MAX, blocks: 1, run: u64::MAX };
        match problem.scaling {
            Scaling::None => None,
            Scaling::Tensor => Some([whole; 2]),
            Scaling::Row => both(ScaleType::F32, k.max(1)),
            Scaling::Block128 => Some([of(problem.m, ScaleType::F32, 1, 128), of(problem.n, ScaleType::F32, 128, 128)]),
            Scaling::Mx => both(ScaleType::E8m0, 32),
            Scaling::Nvfp4 => both(ScaleType::E4m3, 16),
        }
    }

    /// Places of one product, padding included.
    const fn places(self, order: ScaleOrder) -> u64 {
        match order {
            ScaleOrder::Lines | ScaleOrder::Blocks => self.lines * self.blocks,
            ScaleOrder::LinesBy4 => self.lines * self.blocks.next_multiple_of(4),
            ScaleOrder::Tiles => self.lines.next_multiple_of(128) * self.blocks.next_multiple_of(4),
        }
    }

    /// Places of all products, padding included: the scales that a buffer holds.
    #[must_use]
    pub const fn len(self, order: ScaleOrder) -> u64 {
        self.products * self.places(order)
    }

    /// True where there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.products * self.lines * self.blocks == 0
    }

    /// The place of the scale of element (`row`, `k`) of a product's A, or (`k`, `row`) of its B.
    #[must_use]
    pub const fn place(self, order: ScaleOrder, product: u64, row: u64, k: u64) -> u64 {
        let (line, block) = (row / self.rows, k / self.run);
        let within = match order {
            ScaleOrder::Lines => line * self.blocks + block,
            ScaleOrder::LinesBy4 => line * self.blocks.next_multiple_of(4) + block,
            ScaleOrder::Blocks => block * self.lines + line,
            ScaleOrder::Tiles => {
                let tile = line / 128 * self.blocks.div_ceil(4) + block / 4;
                tile * 512 + line % 32 * 16 + line % 128 / 32 * 4 + block % 4
            }
        };
        if self.products > 1 { product * self.places(order) + within } else { within }
    }
}

impl GemmProblem {
    /// True where A is stored as M×K and B as N×K, so that K is contiguous in both: what block scales presuppose.
    #[must_use]
    pub fn k_contiguous(&self) -> bool {
        (self.a.stored, self.b.stored) == (Transpose::No, Transpose::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [ScaleOrder; 4] = [ScaleOrder::Lines, ScaleOrder::LinesBy4, ScaleOrder::Blocks, ScaleOrder::Tiles];

    #[test]
    fn every_scale_has_a_place_of_its_own() {
        let problem = GemmProblem { batch: 3, ..GemmProblem::new(130, 257, 416, Dtype::E4m3, Dtype::Bf16) };
        for scaling in [Scaling::Row, Scaling::Block128, Scaling::Mx, Scaling::Nvfp4] {
            let both = Scales::of(&GemmProblem { scaling, ..problem }).unwrap();
            for (scales, rows) in both.into_iter().zip([130, 257]) {
                for order in ORDERS {
                    let mut taken = vec![None; scales.len(order) as usize];
                    for (product, row, k) in (0..3).flat_map(|p| (0..rows).flat_map(move |r| (0..416).map(move |k| (p, r, k)))) {
                        let scale = (product, row / scales.rows, k / scales.run);
                        let place = &mut taken[scales.place(order, product, row, k) as usize];
                        assert!(place.is_none_or(|other| other == scale), "{scaling:?} {order:?}: {place:?} and {scale:?}");
                        *place = Some(scale);
                    }
                    let used = taken.iter().flatten().count() as u64;
                    assert_eq!(used, scales.products * scales.lines * scales.blocks, "{scaling:?} {order:?}");
                }
            }
        }
    }

    #[test]
    fn one_scale_serves_a_whole_tensor() {
        let problem = GemmProblem { batch: 3, scaling: Scaling::Tensor, ..GemmProblem::new(5, 6, 7, Dtype::E4m3, Dtype::Bf16) };
        for scales in Scales::of(&problem).unwrap() {
            assert_eq!((scales.len(ScaleOrder::Lines), scales.place(ScaleOrder::Lines, 2, 4, 6)), (1, 0));
        }
        assert_eq!(Scales::of(&GemmProblem { scaling: Scaling::None, ..problem }), None);
    }

    /// Places that cuBLAS's documentation gives by formula, worked out by hand.
    #[test]
    fn tiles_are_nvidias() {
        let problem = GemmProblem { scaling: Scaling::Mx, ..GemmProblem::new(256, 128, 512, Dtype::Mxfp8, Dtype::Bf16) };
        let [a, _] = Scales::of(&problem).unwrap();
        let place = |row, block: u64| a.place(ScaleOrder::Tiles, 0, row, 32 * block);
        assert_eq!([place(0, 0), place(0, 3), place(1, 0), place(32, 0), place(127, 3)], [0, 3, 16, 4, 511]);
        // The next tile of K, and the first of the next 128 rows.
        assert_eq!([place(0, 4), place(128, 0), place(129, 5)], [512, 4 * 512, 5 * 512 + 17]);
    }
}
