//! Where keys are: the lengths of ragged sequences, and the pages of a pool in shuffled order. Both follow from the shape alone,
//! so that an id says all of a case.

use crate::shape::Shape;
use ridgepoint_core::data;

/// Streams of their own for lengths and for the order of pages.
const LENGTHS: u64 = 19;
const ORDER: u64 = 23;

/// Keys of sequence `b`.
pub(crate) const fn length(shape: Shape, b: u64) -> u64 {
    if !shape.ragged || b == 0 {
        shape.sk
    } else if b >= 2 && b == shape.b - 1 {
        0
    } else {
        data::hash(LENGTHS, b) % (shape.sk + 1)
    }
}

/// Pages of sequence `b` that hold keys.
fn pages(shape: Shape, b: u64) -> u64 {
    shape.page.map_or(0, |page| length(shape, b).div_ceil(page))
}

/// Pages of the pool: those of all sequences and an eighth more, at least one and at most eight, that nobody uses.
pub(crate) fn pool(shape: Shape) -> u64 {
    let used = used(shape);
    used + used.div_ceil(8).clamp(1, 8)
}

fn used(shape: Shape) -> u64 {
    (0..shape.b).map(|b| pages(shape, b)).sum()
}

/// The page table, [b, ⌈sk / page⌉]: pages of the pool in shuffled order. What stands behind a sequence's last page is a page
/// that it has no business in: its own last one again, or another's for an empty sequence.
pub(crate) fn table(shape: Shape) -> Vec<u32> {
    let Some(page) = shape.page else { return Vec::new() };
    let (pool, width) = (pool(shape), shape.sk.div_ceil(page));
    let mut next = 0;
    let mut table = Vec::new();
    for b in 0..shape.b {
        let own = pages(shape, b);
        // The first sequence has keys, so that there is a page before any.
        table.extend((0..width).map(|n| data::permuted(ORDER, if n < own { next + n } else { next + own - 1 }, pool) as u32));
        next += own;
    }
    table
}

/// The pages that no sequence uses.
pub(crate) fn spare(shape: Shape) -> Vec<u64> {
    let pool = pool(shape);
    if shape.page.is_some() { (used(shape)..pool).map(|n| data::permuted(ORDER, n, pool)).collect() } else { Vec::new() }
}

/// A shape with its page table, for finding keys by sequence, head and index.
#[derive(Clone)]
pub(crate) struct Layout {
    shape: Shape,
    table: Vec<u32>,
}

impl Layout {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, table: table(shape) }
    }

    /// Which row of K or V's buffer holds key `j` of key head `h` of sequence `b`.
    pub(crate) fn row(&self, b: u64, h: u64, j: u64) -> u64 {
        let s = self.shape;
        match s.page {
            None => (b * s.hkv + h) * s.sk + j,
            Some(page) => {
                let entry = self.table[(b * s.sk.div_ceil(page) + j / page) as usize];
                (u64::from(entry) * s.hkv + h) * page + j % page
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn shape(id: &str) -> Shape {
        Shape::parse(&format!("attention/decode/{id}")).unwrap()
    }

    #[test]
    fn every_key_has_a_row_of_its_own_outside_the_spare_pages() {
        for flags in ["", "/page1", "/page16", "/page64", "/page16/ragged", "/page3/ragged", "/page100"] {
            let s = shape(&format!("b5hq4hkv2sq1sk67d8/f32{flags}"));
            let layout = Layout::new(s);
            let mut rows = BTreeSet::new();
            for (b, h) in (0..s.b).flat_map(|b| (0..s.hkv).map(move |h| (b, h))) {
                assert!((0..s.length(b)).all(|j| rows.insert(layout.row(b, h, j))), "{flags}: two keys in one row");
            }
            let total = s.elements()[1] / s.dqk;
            assert!(rows.iter().all(|r| *r < total), "{flags}");
            if let Some(page) = s.page {
                let taken: BTreeSet<u64> = rows.iter().map(|r| r / (page * s.hkv)).collect();
                let spare: BTreeSet<u64> = spare(s).into_iter().collect();
                assert!(taken.is_disjoint(&spare) && !spare.is_empty(), "{flags}");
                assert_eq!(taken.len() + spare.len(), pool(s) as usize, "{flags}");
                // What stands behind a sequence's end can be read without harm.
                assert!(table(s).iter().all(|p| taken.contains(&u64::from(*p))), "{flags}");
                assert_eq!(table(s).len() as u64, s.b * s.sk.div_ceil(page), "{flags}");
            }
        }
    }

    #[test]
    fn ragged_sequences_have_a_full_one_an_empty_one_and_others_between() {
        let s = shape("b64hq4hkv2sq1sk1000d8/f32/ragged");
        let lengths: Vec<u64> = (0..s.b).map(|b| s.length(b)).collect();
        assert_eq!((lengths[0], lengths[63]), (1000, 0));
        assert!(lengths.iter().all(|l| *l <= 1000) && lengths.iter().collect::<BTreeSet<_>>().len() > 50, "{lengths:?}");
        assert_eq!(shape("b1hq4hkv2sq1sk10d8/f32/ragged").length(0), 10);
        assert_eq!(shape("b3hq4hkv2sq1sk10d8/f32/ragged").length(2), 0);
        assert_eq!(shape("b3hq4hkv2sq1sk10d8/f32").length(2), 10);
    }

    #[test]
    fn pages_are_shuffled() {
        let table = table(shape("b4hq4hkv2sq1sk1024d8/f32/page16"));
        let neighbours = table.windows(2).filter(|w| w[0] + 1 == w[1]).count();
        assert!(neighbours < table.len() / 8, "{neighbours} of {} pages follow their neighbour", table.len());
    }
}
