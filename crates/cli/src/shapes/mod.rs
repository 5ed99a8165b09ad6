//! Cases made of flags instead of chosen from a list: sweeps over the sizes of a product, and the shapes of a language model. Whatever
//! is made is a list of ids, and runs as whole ids always do.

mod attentions;
mod axis;
mod models;
mod sizes;

use crate::exit::{Failure, Outcome};
use crate::suites::SUITES;
use attentions::Attentions;
use models::Models;
use ridgepoint::select;
use ridgepoint_core::model::Pass;
use sizes::Sizes;
use std::collections::BTreeSet;

pub(crate) use axis::Axis;
pub(crate) use models::heading;
pub(crate) use sizes::product;

/// Most cases that flags make: at a second each, half a day of measuring.
const MOST: usize = 20_000;

/// All flags that make cases.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Shapes {
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    models: Models,
    #[command(flatten)]
    attentions: Attentions,
    /// Element types of the products and attentions, as they end an id: `bf16,e4m3`. Default: bf16.
    #[arg(long, value_name = "DTYPES", value_delimiter = ',', help_heading = sizes::HEADING)]
    dtype: Vec<String>,
}

/// What flags made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// Ids, each once.
    pub(crate) ids: Vec<String>,
    /// Forward passes that they are parts of.
    pub(crate) passes: Vec<Pass>,
}

impl Shapes {
    /// What the flags make, of which `filters` chooses; None where there are none that make cases.
    ///
    /// # Errors
    /// One sentence for what makes no case, or too many.
    pub(crate) fn made(&self, filters: &[String]) -> Outcome<Option<Made>> {
        if !self.sizes.given() && !self.models.given() && !self.attentions.given() {
            if self.models.batch.is_some() {
                return Err(Failure::usage("--batch goes with a --model or an --attention"));
            }
            return match self.dtype.as_slice() {
                [] => Ok(None),
                _ => Err(Failure::usage(
                    "--dtype goes with sizes (--m, --n and --k, or --square), an --attention or a --model; cases of the list are chosen by a filter, as in 'gemm/*/bf16'",
                )),
            };
        }
        let default = ["bf16".to_owned()];
        let dtypes = if self.dtype.is_empty() { &default } else { self.dtype.as_slice() };
        let passes = self.models.passes(dtypes)?;
        let parts = passes.iter().flat_map(|pass| &pass.parts).map(|part| part.case.clone());
        let attentions = self.attentions.cases(self.models.batch.as_ref(), dtypes)?;
        let mut ids: Vec<String> = self.sizes.products(dtypes)?.into_iter().chain(attentions).chain(parts).collect();
        let mut seen = BTreeSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let all = ids.len();
        ids.retain(|id| filters.is_empty() || filters.iter().any(|f| select::means(f, id)));
        if ids.is_empty() {
            return Err(Failure::usage(format!(
                "none of the {all} cases made by these flags matches '{}'",
                filters.join("' or '")
            )));
        }
        Ok(Some(Made { ids, passes }))
    }
}

/// True for an id that a suite measures.
fn is_case(id: &str) -> bool {
    SUITES.iter().any(|suite| suite.parse(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// The flags alone, as a command has them.
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        shapes: Shapes,
    }

    fn made(flags: &str, filters: &[&str]) -> Outcome<Option<Made>> {
        let words = std::iter::once("test").chain(flags.split_whitespace());
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Flags::try_parse_from(words).map_err(|e| Failure::usage(e.to_string()))?.shapes.made(&filters)
    }

    fn ids(flags: &str, filters: &[&str]) -> Vec<String> {
        made(flags, filters).unwrap().unwrap().ids
    }

    #[test]
    fn every_combination_is_one_case() {
        let found = ids("--m 1,2 --n 3:5:1 --k 8 --dtype bf16,f32", &[]);
        assert_eq!(found.len(), 12);
        assert_eq!((found[0].as_str(), found[11].as_str()), ("gemm/m1n3k8/bf16", "gemm/m2n5k8/f32"));
        // A square that is also in the box is measured once.
        let both = ids("--square 8,16 --m 8,16 --n 8 --k 8", &[]);
        assert_eq!(both, ["gemm/m8n8k8/bf16", "gemm/m16n16k16/bf16", "gemm/m16n8k8/bf16"]);
    }

    #[test]
    fn a_series_of_attentions_is_a_case_a_point() {
        let found = ids("--attention decode --hq 64 --hkv 8 --d 128 --batch 1,8 --kv 1024:4096:x2", &[]);
        assert_eq!(found.len(), 6);
        assert_eq!(
            (found[0].as_str(), found[5].as_str()),
            ("attention/decode/b1hq64hkv8sq1sk1024d128/bf16", "attention/decode/b8hq64hkv8sq1sk4096d128/bf16",)
        );
        assert_eq!(
            ids("--attention prefill --hq 16 --hkv 16 --kv 512 --with full,causal", &[]),
            ["attention/prefill/b1hq16hkv16sq512sk512d128/bf16", "attention/prefill/b1hq16hkv16sq512sk512d128/bf16/causal",]
        );
        // Chunks; and heads that are no multiple are left out.
        assert_eq!(
            ids("--attention prefill --hq 12 --hkv 4,8 --sq 64 --kv 512", &[]),
            ["attention/prefill/b1hq12hkv4sq64sk512d128/bf16"]
        );
        assert_eq!(
            ids("--attention mla-prefill,mla-decode --hq 16 --kv 64", &[]),
            ["attention/mla-prefill/b1hq16hkv16sq64sk64d192v128/bf16", "attention/mla-decode/b1hq16hkv1sq1sk64d576v512/bf16",]
        );
    }

    #[test]
    fn filters_choose_among_what_was_made() {
        assert_eq!(ids("--m 1,2 --n 3 --k 8 --dtype bf16,f32", &["*/f32"]), ["gemm/m1n3k8/f32", "gemm/m2n3k8/f32"]);
        assert!(made("--square 8", &["attention"]).unwrap_err().message.contains("none of the 1 cases"));
        assert_eq!(made("", &["gemm"]).unwrap(), None);
    }

    #[test]
    fn what_is_no_case_or_too_many_is_one_sentence() {
        for (flags, words) in [
            ("--m 1 --n 2 --k 3 --dtype f19", "known: f64, f32"),
            ("--m 1:4096:1 --n 1:4096:1 --k 1:4096:1", "larger steps"),
            ("--dtype bf16", "--square"),
            ("--m 1 --n 2", "--k"),
            ("--square 0", "from 1 to"),
            ("--batch 4", "--model"),
            ("--kv 1024", "--attention"),
            ("--attention decode --hq 8 --hkv 3", "no --hkv divides"),
            ("--attention decode --dtype i8", "is no attention"),
            ("--attention prefill --with banded", "/banded' is no attention"),
            ("--attention decode --kv 1:4096:1 --batch 1:64:1", "larger steps"),
            ("--model llama-3.1-8b --tp 3", "degrees that do: 1, 2, 4, 8"),
            ("--model llama-9", "known: llama-3.1-8b"),
            ("--model llama-3.1-8b --dtype f19", "known: f64"),
            ("--model llama-3.1-8b --kv-dtype f19", "--kv-dtype"),
            ("--model llama-3.1-8b --kv-dtype i8", "/kv=i8/causal, which is no case"),
            ("--model llama-3.1-8b --attention-dtype i8", "/i8/causal, which is no case"),
            ("--model llama-3.1-8b --page 0", "/page0, which is no case"),
            ("--page 16", "--model"),
            ("--model llama-3.1-8b --context 1:4096:1 --batch 1:8:1", "passes"),
        ] {
            let said = made(flags, &[]).unwrap_err().message;
            assert!(said.contains(words), "{flags}: {said}");
        }
    }

    #[test]
    fn every_part_of_every_pack_is_a_case() {
        for (name, _) in ridgepoint_core::model::SHIPPED {
            let made = made(&format!("--model {name} --batch 1,64 --tokens 2048 --tp 1,8"), &[])
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let passes = made.unwrap().passes;
            // Prefill and decode of each batch, each alone and shared by eight.
            assert_eq!(passes.len(), 8, "{name}");
            let narrow = format!("--model {name} --batch 1,64 --kv-dtype e4m3 --page 16");
            let parts = self::made(&narrow, &[]).unwrap_or_else(|e| panic!("{name}: {e}")).unwrap().ids;
            assert!(parts.iter().any(|id| id.contains("/kv=e4m3") && id.contains("/page16")), "{name}: {parts:?}");
        }
    }
}
