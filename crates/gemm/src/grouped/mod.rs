//! Grouped products: what a mixture of experts asks of a device. `gemm/grouped/e8m4096n14336k4096/bf16` is 4096 rows of A, one behind
//! the other by expert, each multiplied with the B of its own expert; B is N×K for each of 8 experts. Rows are evenly divided, or as
//! a router would (`routed`): unevenly, by a fixed hash, and some experts have none.

mod ready;

use crate::cases::Shape;
use crate::tile;
use ridgepoint_core::{Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work, data};
use ridgepoint_device::{Blas, Device};

pub(crate) use ready::prepare;

/// Largest side, as of a plain product, and most experts.
const LARGEST: u64 = 1 << 20;
const MOST_EXPERTS: u64 = 4096;

/// One grouped product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grouped {
    pub(crate) experts: u64,
    /// Rows of A and C, all experts together.
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    pub(crate) dtype: Dtype,
    pub(crate) routed: bool,
}

/// Rows of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) expert: u64,
    /// The first of them.
    pub(crate) row: u64,
    /// How many, at least one.
    pub(crate) rows: u64,
}

impl Grouped {
    fn id(self) -> String {
        let Self { experts, m, n, k, dtype, routed } = self;
        format!("gemm/grouped/e{experts}m{m}n{n}k{k}/{dtype}{}", if routed { "/routed" } else { "" })
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let rest = id.strip_prefix("gemm/grouped/e")?;
        let (rest, routed) = rest.strip_suffix("/routed").map_or((rest, false), |rest| (rest, true));
        let (size, dtype) = rest.split_once('/')?;
        let (experts, size) = size.split_once('m')?;
        let (m, size) = size.split_once('n')?;
        let (n, k) = size.split_once('k')?;
        let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|x| (1..=most).contains(x));
        let shape = Self {
            experts: number(experts, MOST_EXPERTS)?,
            m: number(m, LARGEST)?,
            n: number(n, LARGEST)?,
            k: number(k, LARGEST)?,
            dtype: dtype.parse().ok()?,
            routed,
        };
        let known = matches!(
            shape.dtype,
            Dtype::F64 | Dtype::F32 | Dtype::Tf32 | Dtype::F16 | Dtype::Bf16 | Dtype::E4m3 | Dtype::E5m2 | Dtype::I8
        );
        (known && shape.id() == id).then_some(shape)
    }

    /// The product of one group, as a plain one.
    pub(crate) fn product(self, rows: u64) -> Shape {
        Shape::new(rows, self.n, self.k, self.dtype)
    }

    /// The groups that have rows, in order.
    pub(crate) fn groups(self) -> Vec<Group> {
        let offsets = self.offsets();
        let group = |(expert, ends): (usize, &[u64])| Group { expert: expert as u64, row: ends[0], rows: ends[1] - ends[0] };
        offsets.windows(2).enumerate().map(group).filter(|group| group.rows > 0).collect()
    }

    /// Where each expert's rows begin, and where the last one's end: `experts + 1` numbers.
    pub(crate) fn offsets(self) -> Vec<u64> {
        // A router's favourites get up to eight times what its least liked get, and one of eight gets nothing.
        let weight = |expert: u64| match data::hash(0xE0_0E27, expert) % 64 {
            _ if !self.routed => 1,
            0..8 if expert > 0 => 0,
            x => 1 + x % 8,
        };
        // Of several experts the last has none, so that every routed case has an empty one.
        let weight = |expert: u64| if self.routed && expert > 0 && expert + 1 == self.experts { 0 } else { weight(expert) };
        let total: u64 = (0..self.experts).map(weight).sum();
        let ends = (0..self.experts).scan(0, |sum, expert| {
            *sum += weight(expert);
            Some(*sum * self.m / total)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// The case of it: 2·N·K operations a row; A and C once, B of each expert that has rows once (docs/conventions.md).
    pub(crate) fn case(self) -> Option<Case> {
        let Self { m, n, k, dtype, .. } = self;
        let active = self.groups().len() as u64;
        let output = self.product(1).output;
        let bytes = dtype.bytes(m * k) + dtype.bytes(active * n * k) + output.bytes(m * n);
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Gemm,
            dtype,
            metric: Metric::Arithmetic,
            level: Level::Dram,
            work: Work::arithmetic(Flops(2 * m * n * k), bytes),
            cache: Cache::Cold,
            data: Distribution::Normal,
        })
    }

    /// Bytes of one set of operands, the matrices of idle experts among them.
    pub(crate) fn operands(self) -> u64 {
        self.moved(self.experts)
    }

    /// Bytes that an execution moves where so many experts have rows.
    pub(crate) fn moved(self, experts: u64) -> u64 {
        let Self { m, n, k, dtype, .. } = self;
        (dtype.bytes(m * k) + dtype.bytes(experts * n * k) + self.product(1).output.bytes(m * n)).0
    }

    /// Who can do it: our kernel, all experts in one launch; each library as a loop over the experts, called so where the launches
    /// are a GPU's.
    pub(crate) fn providers(self, device: &dyn Device) -> Vec<String> {
        let own = tile::does(self.product(1), device).then(|| tile::PROVIDER.to_owned());
        let libraries = device.blas().into_iter().filter(|b| !b.provider().ends_with("-fast")).map(looped);
        let names: Vec<String> = libraries.chain(own).collect();
        if names.is_empty() { vec!["blas".into()] } else { names }
    }
}

/// The name of a library whose products are done one after the other.
pub(crate) fn looped(blas: &dyn Blas) -> String {
    let name = blas.provider();
    if name == "native" { name.into() } else { format!("{name}-loop") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::Bytes;

    #[test]
    fn ids_are_canonical_and_bounded() {
        for id in ["gemm/grouped/e8m4096n14336k4096/bf16", "gemm/grouped/e1m1n1k1/e4m3/routed"] {
            assert_eq!(Grouped::parse(id).unwrap().case().unwrap().id.as_str(), id);
        }
        for id in [
            "gemm/grouped/e08m4096n14336k4096/bf16",
            "gemm/grouped/e0m1n1k1/bf16",
            "gemm/grouped/e8m0n1k1/bf16",
            "gemm/grouped/e8m1n1k1/bf16/even",
            "gemm/grouped/e8m1n1k1/bf16/routed/routed",
            "gemm/grouped/e8m1n1k1/i32",
            "gemm/grouped/e9999999m1n1k1/bf16",
            "gemm/m1n1k1/bf16/routed",
        ] {
            assert_eq!(Grouped::parse(id), None, "{id}");
        }
    }

    #[test]
    fn every_row_has_its_expert_and_routed_ones_are_uneven() {
        for (experts, m) in [(1, 1), (2, 1), (2, 64), (8, 4096), (256, 8), (256, 16384), (128, 3), (4096, 1 << 20)] {
            for routed in [false, true] {
                let shape = Grouped { experts, m, n: 8, k: 8, dtype: Dtype::Bf16, routed };
                let offsets = shape.offsets();
                assert!(offsets.is_sorted() && offsets.len() as u64 == experts + 1 && offsets.last() == Some(&m), "{shape:?}");
                let groups = shape.groups();
                assert_eq!(groups.iter().map(|g| g.rows).sum::<u64>(), m);
                let rows = |of: fn(u64, u64) -> u64| groups.iter().map(|g| g.rows).reduce(of).unwrap();
                if routed && experts > 1 {
                    assert!((groups.len() as u64) < experts, "{shape:?} has no idle expert");
                }
                if !routed && m >= experts {
                    assert!(rows(u64::max) - rows(u64::min) <= 1 && groups.len() as u64 == experts, "{shape:?}");
                }
                if routed && experts >= 8 && m >= 4096 {
                    assert!(rows(u64::max) > 2 * rows(u64::min), "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn idle_experts_are_no_work() {
        let work = |id: &str| Grouped::parse(id).unwrap().case().unwrap().work;
        let even = work("gemm/grouped/e4m8n3k5/bf16");
        assert_eq!((even.flops, even.bytes), (Flops(2 * 8 * 3 * 5), Bytes(2 * (8 * 5 + 4 * 3 * 5 + 8 * 3))));
        // One row goes to one expert, however many there are.
        assert_eq!(work("gemm/grouped/e64m1n3k5/bf16/routed").bytes, Bytes(2 * (5 + 3 * 5 + 3)));
    }
}
