//! Sweeps over the sizes of a product: every combination, or squares.

use super::{Axis, MOST, is_case};
use crate::exit::{Failure, Outcome};

/// Above these flags in `--help`.
pub(super) const HEADING: &str = "Products of any sizes, instead of the listed cases";

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct Sizes {
    /// Rows of A and C in products C = A·Bᵀ: lists and ranges, `1,16,1024:8192:1024`, `256:8192:x2`. Every combination of --m, --n,
    /// --k and --dtype is a case.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "n", requires = "k")]
    m: Option<Axis>,
    /// Rows of B, columns of C.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "m", requires = "k")]
    n: Option<Axis>,
    /// Columns of A and B: what is summed over.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "m", requires = "n")]
    k: Option<Axis>,
    /// Products with M = N = K: `--square 256:8192:256`.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse)]
    square: Option<Axis>,
}

impl Sizes {
    /// True if they make any case.
    pub(super) const fn given(&self) -> bool {
        self.m.is_some() || self.square.is_some()
    }

    /// Every combination, dtypes outermost, so that what is alike is measured together.
    pub(super) fn products(&self, dtypes: &[String]) -> Outcome<Vec<String>> {
        let sides = self.m.as_ref().zip(self.n.as_ref()).zip(self.k.as_ref()).map(|((m, n), k)| [m, n, k]);
        let boxes: usize = sides.map_or(0, |axes| axes.map(|axis| axis.values.len()).iter().product());
        let squares = self.square.as_ref().map_or(0, |axis| axis.values.len());
        let count = boxes.saturating_add(squares).saturating_mul(dtypes.len());
        if count > MOST {
            return Err(Failure::usage(format!(
                "these sizes make {count} cases, more than {MOST}; larger steps or shorter lists are needed"
            )));
        }
        let mut ids: Vec<String> = Vec::with_capacity(count);
        for dtype in dtypes {
            for n in self.square.iter().flat_map(|axis| &axis.values) {
                ids.push(product(*n, *n, *n, dtype)?);
            }
            let Some([m, n, k]) = sides else { continue };
            for k in &k.values {
                for n in &n.values {
                    for m in &m.values {
                        ids.push(product(*m, *n, *k, dtype)?);
                    }
                }
            }
        }
        Ok(ids)
    }
}

/// The id of a product, which must be a case.
///
/// # Errors
/// One sentence that tells an unknown dtype from a size that it has not.
pub(crate) fn product(m: u64, n: u64, k: u64, dtype: &str) -> Outcome<String> {
    let id = format!("gemm/m{m}n{n}k{k}/{dtype}");
    if is_case(&id) {
        return Ok(id);
    }
    let usual = |dtype: &str| is_case(&format!("gemm/m1024n1024k1024/{dtype}"));
    let known = ridgepoint_core::Dtype::ALL.map(|d| d.name());
    let known: Vec<&str> = known.into_iter().filter(|name| usual(name)).collect();
    Err(Failure::usage(if usual(dtype) {
        format!("there is no product of {m} × {n} × {k} in {dtype}")
    } else {
        format!("no product has the dtype '{}'; known: {}", dtype.escape_debug(), known.join(", "))
    }))
}
