//! Language models as what they ask of a GPU: the sizes of a checkpoint's config.json ([`Model::parse`]), a few well-known ones that
//! are built in ([`SHIPPED`]), and the products and attentions of one forward pass ([`Model::pass`]). Pure: a case id is text here.

mod config;
mod pass;

pub use pass::{Part, Pass, Phase, Use};

/// Longest config.json that is read.
pub const MAX_CONFIG: usize = 1 << 20;

/// A decoder's sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name in tables: a pack's, or what the reader of a file calls it.
    pub name: String,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Tokens of the vocabulary: columns of the language model's head.
    pub vocab: u64,
    /// Decoder layers.
    pub layers: u64,
    /// What its attention is made of.
    pub heads: Heads,
    /// Layers whose queries see so many keys only, their own included.
    pub window: Option<Window>,
    /// One extra logit a query head in the softmax's sum.
    pub sinks: bool,
    /// The plain MLP, with the number of layers that have it.
    pub dense: Option<Mlp>,
    /// The mixture of experts, with the number of layers that have it.
    pub experts: Option<Experts>,
}

/// The projections of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Query heads that share key and value heads: MHA, GQA, MQA.
    Grouped {
        /// Query heads.
        hq: u64,
        /// Heads of K and V.
        hkv: u64,
        /// Width of a head.
        d: u64,
    },
    /// Multi-head latent attention: K and V are projections of one narrow latent vector a token.
    Latent {
        /// Query heads.
        hq: u64,
        /// Width of the latent queries; None where queries are projected at once.
        q_rank: Option<u64>,
        /// Width of the latent K and V.
        kv_rank: u64,
        /// Width of a head's part without position.
        nope: u64,
        /// Width of the part with position, one for all heads on the side of the keys.
        rope: u64,
        /// Width of a head of V.
        v: u64,
    },
}

/// Layers with a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Keys that a query sees.
    pub keys: u64,
    /// Layers that have it.
    pub layers: u64,
}

/// A two-step MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mlp {
    /// Layers that have it.
    pub layers: u64,
    /// Width between its two products.
    pub inner: u64,
    /// Whether a gate stands beside the up-projection (SwiGLU): both are one product.
    pub gated: bool,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Layers that have it.
    pub layers: u64,
    /// Experts.
    pub count: u64,
    /// Experts that a token goes through.
    pub per_token: u64,
    /// Width inside an expert.
    pub inner: u64,
    /// Width of what every token goes through beside them; 0 for none.
    pub shared: u64,
}

/// Name and config.json of the models that are built in. The numbers are those of the checkpoints' own files, whose address each
/// names as its `source`.
pub const SHIPPED: &[(&str, &str)] = &[
    ("llama-3.1-8b", include_str!("packs/llama-3.1-8b.json")),
    ("llama-3.1-70b", include_str!("packs/llama-3.1-70b.json")),
    ("llama-3.1-405b", include_str!("packs/llama-3.1-405b.json")),
    ("qwen3-32b", include_str!("packs/qwen3-32b.json")),
    ("qwen3-235b-a22b", include_str!("packs/qwen3-235b-a22b.json")),
    ("deepseek-v3", include_str!("packs/deepseek-v3.json")),
    ("gpt-oss-120b", include_str!("packs/gpt-oss-120b.json")),
];

impl Model {
    /// A built-in model.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        let (name, text) = SHIPPED.iter().find(|(known, _)| *known == name.to_lowercase())?;
        Self::parse(name, text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of the matrices, from the sizes alone.
    fn parameters(model: &Model) -> u64 {
        let h = model.hidden;
        let attention = match model.heads {
            Heads::Grouped { hq, hkv, d } => h * d * (2 * hq + 2 * hkv),
            Heads::Latent { hq, q_rank, kv_rank, nope, rope, v } => {
                let q = q_rank.map_or(h * hq * (nope + rope), |rank| rank * (h + hq * (nope + rope)));
                q + h * (kv_rank + rope) + kv_rank * hq * (nope + v) + hq * v * h
            }
        };
        let dense = model.dense.map_or(0, |m| m.layers * h * m.inner * if m.gated { 3 } else { 2 });
        let experts = model.experts.map_or(0, |e| e.layers * (3 * h * (e.count * e.inner + e.shared) + h * e.count));
        model.layers * attention + dense + experts + 2 * model.vocab * h
    }

    #[test]
    fn the_shipped_sizes_add_up_to_what_the_models_are_called() {
        // In billions, as their publishers count them.
        for (name, billions) in [
            ("llama-3.1-8b", 8.03),
            ("llama-3.1-70b", 70.6),
            ("llama-3.1-405b", 405.9),
            ("qwen3-32b", 32.8),
            ("qwen3-235b-a22b", 235.1),
            ("deepseek-v3", 671.0),
            ("gpt-oss-120b", 116.8),
        ] {
            let model = Model::shipped(name).unwrap_or_else(|| panic!("{name} does not read"));
            let found = parameters(&model) as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.005, "{name}: {found:.2} billion parameters, published {billions}");
        }
        assert_eq!(SHIPPED.len(), 7);
        assert!(SHIPPED.iter().all(|(_, text)| text.contains("\"source\": \"https://huggingface.co/")));
    }
}
