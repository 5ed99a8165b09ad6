//! Series of attentions: over lengths, over sequences, or over anything else that an id has.

use super::{Axis, MOST, is_case};
use crate::exit::{Failure, Outcome};
use clap::ValueEnum;

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Attentions of any sizes, instead of the listed cases")]
pub(super) struct Attentions {
    /// Kinds of attention (several with commas). Every combination of --batch, --hq, --hkv, --d, --sq, --kv and --dtype is a case; the
    /// report draws curves over lengths and sequences.
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    attention: Vec<KindArg>,
    /// Query heads. Default: 64; 128 for mla kinds.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "attention")]
    hq: Option<Axis>,
    /// Key heads; those that do not divide the query heads are left out. Default: 8; mla-prefill has as many as query heads, mla-decode one.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "attention")]
    hkv: Option<Axis>,
    /// Head dimension. Default: 128; mla kinds have their own.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "attention")]
    d: Option<Axis>,
    /// Queries a sequence. Default: as many as keys for prefill, 1 for decode.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "attention")]
    sq: Option<Axis>,
    /// Keys a sequence: `1024:65536:x2`. Default: 8192.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "attention")]
    kv: Option<Axis>,
    /// What else the ids say, as it ends them: `causal`, `causal/w128`, `page16/ragged` (several with commas; `full` for none).
    #[arg(long, value_name = "ENDS", value_delimiter = ',', requires = "attention")]
    with: Vec<String>,
}

/// Kinds on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// Many queries of a sequence.
    Prefill,
    /// One more token for each sequence.
    Decode,
    /// Multi-head latent attention, as a prompt is read: head dimensions 192 and 128.
    MlaPrefill,
    /// The same with its projections absorbed: one latent head of 576, of which 512 are its values.
    MlaDecode,
}

impl Attentions {
    /// True if they make any case.
    pub(super) const fn given(&self) -> bool {
        !self.attention.is_empty()
    }

    /// Every combination, in the order of the curves: the length innermost.
    pub(super) fn cases(&self, batch: Option<&Axis>, dtypes: &[String]) -> Outcome<Vec<String>> {
        let mut ids = Vec::new();
        for kind in &self.attention {
            self.of_kind(*kind, batch, dtypes, &mut ids)?;
        }
        if self.given() && ids.is_empty() {
            return Err(Failure::usage("these flags make no attention: no --hkv divides a --hq"));
        }
        Ok(ids)
    }

    fn of_kind(&self, kind: KindArg, batch: Option<&Axis>, dtypes: &[String], ids: &mut Vec<String>) -> Outcome<()> {
        let values = |axis: Option<&Axis>, default: u64| axis.map_or_else(|| vec![default], |a| a.values.clone());
        let latent = matches!(kind, KindArg::MlaPrefill | KindArg::MlaDecode);
        let name = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let (batches, lengths) = (values(batch, 1), values(self.kv.as_ref(), 8192));
        let heads = values(self.hq.as_ref(), if latent { 128 } else { 64 });
        let dims: Vec<String> = match kind {
            KindArg::MlaPrefill => vec!["192v128".into()],
            KindArg::MlaDecode => vec!["576v512".into()],
            _ => values(self.d.as_ref(), 128).iter().map(u64::to_string).collect(),
        };
        let full = ["full".to_owned()];
        let ends = if self.with.is_empty() { &full[..] } else { &self.with };
        let queries = self.sq.as_ref().map(|axis| axis.values.clone());
        let each = queries.as_ref().map_or(1, Vec::len);
        let axes = [batches.len(), lengths.len(), heads.len(), self.hkv.as_ref().map_or(1, |a| a.values.len()), dims.len(), each];
        let count = axes.into_iter().chain([ends.len(), dtypes.len()]).fold(ids.len(), |n, m| n.max(1).saturating_mul(m));
        if count > MOST {
            return Err(Failure::usage(format!(
                "these flags make {count} attentions, more than {MOST}; larger steps or shorter lists are needed"
            )));
        }
        for dtype in dtypes {
            for end in ends {
                let end = if end == "full" { String::new() } else { format!("/{end}") };
                for (hq, d) in heads.iter().flat_map(|hq| dims.iter().map(move |d| (hq, d))) {
                    let keys = match kind {
                        KindArg::MlaPrefill => vec![*hq],
                        KindArg::MlaDecode => vec![1],
                        _ => values(self.hkv.as_ref(), if hq.is_multiple_of(8) { 8 } else { *hq }),
                    };
                    for hkv in keys.into_iter().filter(|hkv| hq.is_multiple_of(*hkv)) {
                        for b in &batches {
                            for kv in &lengths {
                                let own = [if matches!(kind, KindArg::Decode | KindArg::MlaDecode) { 1 } else { *kv }];
                                for sq in queries.as_deref().unwrap_or(&own) {
                                    ids.push(checked(format!(
                                        "attention/{name}/b{b}hq{hq}hkv{hkv}sq{sq}sk{kv}d{d}/{dtype}{end}"
                                    ))?);
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The id, which must be a case.
fn checked(id: String) -> Outcome<String> {
    if is_case(&id) {
        return Ok(id);
    }
    let way = "dtypes are f32, f16, bf16 or e4m3; what follows --with stands as in an id, in its order";
    Err(Failure::usage(format!("'{}' is no attention: {way}", id.escape_debug())))
}
