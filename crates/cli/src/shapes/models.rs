//! The products and attentions of a language model, at a given batch, context and degree of tensor parallelism.

use super::{Axis, is_case, sizes};
use crate::exit::{Failure, Outcome};
use clap::ValueEnum;
use ridgepoint_core::Dtype;
use ridgepoint_core::model::{MAX_CONFIG, Model, Pass, Phase, SHIPPED, Use};
use std::io::Read;
use std::path::Path;

/// Most passes of one call.
const MOST: usize = 500;

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "The shapes of a language model, instead of the listed cases")]
pub(super) struct Models {
    /// Products and attentions of this model on one GPU: a name (llama-3.1-8b, -70b, -405b, qwen3-32b, qwen3-235b-a22b, deepseek-v3,
    /// gpt-oss-120b) or a config.json as Hugging Face has it (several with commas). The report sums them to a forward pass.
    #[arg(long, value_name = "NAME|FILE", value_delimiter = ',')]
    model: Vec<String>,
    /// What a pass is for. Default: both.
    #[arg(long, value_enum, requires = "model")]
    phase: Option<PhaseArg>,
    /// Sequences of a pass, prompts or decoded ones, or of an --attention: `1,16,64`. Default: 1.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse)]
    pub(super) batch: Option<Axis>,
    /// Tokens in the KV cache, the newest included. Default: 8192.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "model")]
    context: Option<Axis>,
    /// Tokens of each prompt's chunk of prefill, the last of its context. Default: 2048.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "model")]
    tokens: Option<Axis>,
    /// New tokens of each sequence in a pass of decode: 2 to 4 where drafted ones are verified (speculative decoding, MTP). Default: 1.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "model")]
    new_tokens: Option<Axis>,
    /// GPUs that share each layer (tensor parallelism). Default: 1.
    #[arg(long, value_name = "SIZES", value_parser = Axis::parse, requires = "model")]
    tp: Option<Axis>,
    /// Type of attention's queries, and of the KV cache where --kv-dtype says nothing: e4m3 for FP8 attention. Default: that of the
    /// products where it is f32 or f16, else bf16.
    #[arg(long, value_name = "DTYPE", requires = "model")]
    attention_dtype: Option<Dtype>,
    /// Type of the KV cache: e4m3 for one of FP8 under wider queries.
    #[arg(long, value_name = "DTYPE", requires = "model")]
    kv_dtype: Option<Dtype>,
    /// Keep the KV cache in pages of so many tokens, in shuffled order: 16, 64. Default: each sequence's lies together.
    #[arg(long, value_name = "TOKENS", requires = "model")]
    page: Option<u64>,
}

/// Phases on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PhaseArg {
    /// The last chunk of a prompt.
    Prefill,
    /// One more token for each sequence.
    Decode,
    /// Both.
    Both,
}

impl Models {
    /// True if they make any case.
    pub(super) const fn given(&self) -> bool {
        !self.model.is_empty()
    }

    /// Every pass that the flags ask for.
    pub(super) fn passes(&self, dtypes: &[String]) -> Outcome<Vec<Pass>> {
        let values = |axis: &Option<Axis>, default: u64| axis.as_ref().map_or_else(|| vec![default], |a| a.values.clone());
        let (batches, contexts) = (values(&self.batch, 1), values(&self.context, 8192));
        let (tokens, queries, degrees) = (values(&self.tokens, 2048), values(&self.new_tokens, 1), values(&self.tp, 1));
        let phase = self.phase.unwrap_or(PhaseArg::Both);
        // Tokens of a sequence: of a prompt's chunk, or new ones.
        let mut hows: Vec<(Phase, u64, u64)> = Vec::new();
        if phase != PhaseArg::Decode {
            hows.extend(batches.iter().flat_map(|batch| tokens.iter().map(|tokens| (Phase::Prefill, *batch, *tokens))));
        }
        if phase != PhaseArg::Prefill {
            hows.extend(batches.iter().flat_map(|batch| queries.iter().map(|new| (Phase::Decode, *batch, *new))));
        }
        let count = [self.model.len(), dtypes.len(), degrees.len(), contexts.len(), hows.len()].into_iter().product::<usize>();
        if count > MOST {
            return Err(Failure::usage(format!(
                "these flags make {count} forward passes, more than {MOST}; fewer values are needed"
            )));
        }
        let mut passes = Vec::new();
        for name in &self.model {
            let model = find(name)?;
            for dtype in dtypes {
                sizes::product(1024, 1024, 1024, dtype)?;
                for tp in &degrees {
                    for context in &contexts {
                        for (phase, batch, tokens) in &hows {
                            let how = Use {
                                phase: *phase,
                                batch: *batch,
                                context: *context,
                                tokens: *tokens,
                                queries: *tokens,
                                tp: *tp,
                                dtype: dtype.clone(),
                                attention: self.attention_dtype,
                                kv: self.kv_dtype,
                                page: self.page,
                            };
                            passes.push(pass(&model, &how)?);
                        }
                    }
                }
            }
        }
        Ok(passes)
    }
}

/// A pass all of whose parts can be measured.
fn pass(model: &Model, how: &Use) -> Outcome<Pass> {
    let pass = model.pass(how).map_err(Failure::usage)?;
    match pass.parts.iter().find(|part| !is_case(&part.case)) {
        None => Ok(pass),
        Some(part) => Err(Failure::usage(format!("{} of {} would be {}, which is no case", part.layer, model.name, part.case))),
    }
}

/// A built-in model, or one whose config.json is named.
fn find(name: &str) -> Outcome<Model> {
    if let Some(model) = Model::shipped(name) {
        return Ok(model);
    }
    let path = Path::new(name);
    let known: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    if !path.exists() {
        let name = name.escape_debug();
        return Err(Failure::usage(format!("'{name}' is no model and no file; known: {}", known.join(", "))));
    }
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let shown = path.display();
    let failed = |e: std::io::Error| Failure::environment(format!("cannot read {shown}: {e}"));
    let mut text = String::new();
    let file = std::fs::File::open(&path).map_err(failed)?;
    file.take(MAX_CONFIG as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    // `…/Llama-3.1-8B/config.json` is called by its folder, `tiny.json` by itself.
    let stem = path.file_stem().filter(|stem| *stem != "config");
    let called = stem.or_else(|| path.parent()?.file_name()).map_or_else(|| "config.json".into(), |s| s.to_string_lossy());
    Model::parse(&called, &text).map_err(|e| Failure::usage(format!("{shown}: {e}")))
}

/// A pass in a few words: `llama-3.1-70b, decode, batch 16, context 8192, tensor parallel 8, bf16`.
pub(crate) fn heading(pass: &Pass) -> String {
    let Pass { model, phase, batch, context, tokens, tp, dtype, attention, .. } = pass;
    let what = match phase {
        Phase::Prefill if *batch > 1 => format!("prefill of {batch} × {} tokens", tokens / batch),
        Phase::Prefill => format!("prefill of {tokens} tokens"),
        Phase::Decode if tokens > batch => format!("decode of {} tokens each, batch {batch}", tokens / batch.max(&1)),
        Phase::Decode => format!("decode, batch {batch}"),
    };
    let attention = if attention.is_empty() { String::new() } else { format!(", attention {attention}") };
    format!("{model}, {what}, context {context}, tensor parallel {tp}, {dtype}{attention}")
}
