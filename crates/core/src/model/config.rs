//! Reading a config.json as Hugging Face's transformers writes it. The file is a stranger's: every number has its limits, what is
//! missing is named, and what is not understood is refused rather than guessed.

use super::{Experts, Heads, MAX_CONFIG, Mlp, Model, Window};
use serde::Deserialize;

/// Most layers, and most experts of one.
const MOST_LAYERS: u64 = 4096;
/// Largest width.
const WIDEST: u64 = 1 << 20;

/// The fields that bear on a shape; all others are passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    /// Where a model that also sees or hears keeps its decoder.
    text_config: Option<Box<Config>>,
    model_type: Option<String>,
    hidden_size: Option<u64>,
    vocab_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    q_lora_rank: Option<u64>,
    kv_lora_rank: Option<u64>,
    qk_nope_head_dim: Option<u64>,
    qk_rope_head_dim: Option<u64>,
    v_head_dim: Option<u64>,
    intermediate_size: Option<u64>,
    moe_intermediate_size: Option<u64>,
    shared_expert_intermediate_size: Option<u64>,
    num_experts: Option<u64>,
    n_routed_experts: Option<u64>,
    num_local_experts: Option<u64>,
    n_shared_experts: Option<u64>,
    num_experts_per_tok: Option<u64>,
    experts_per_token: Option<u64>,
    first_k_dense_replace: Option<u64>,
    moe_layer_freq: Option<u64>,
    decoder_sparse_step: Option<u64>,
    mlp_only_layers: Option<Vec<u64>>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u64>,
    layer_types: Option<Vec<String>>,
    sliding_window_pattern: Option<u64>,
    attention_chunk_size: Option<u64>,
    full_attention_interval: Option<u64>,
    intermediate_size_mlp: Option<u64>,
}

/// Decoders whose MLP has no gate, by `model_type`.
const UNGATED: &[&str] = &["falcon", "gpt_neox", "nemotron", "opt", "phi", "starcoder2"];
/// Decoders that alternate windows with full attention, which the newer of their files say layer by layer and the older do not.
const ALTERNATING: &[&str] = &["gemma2", "gemma3", "gemma3_text", "cohere2"];
/// What layers may be, by `layer_types`.
const LAYERS: [&str; 2] = ["full_attention", "sliding_attention"];
/// Decoders whose attention has sinks.
const WITH_SINKS: &[&str] = &["gpt_oss"];

type Read<T> = Result<T, String>;

impl Model {
    /// Reads a config.json; `name` is what the model is called.
    ///
    /// # Errors
    /// One sentence that names the field, without control characters.
    pub fn parse(name: &str, text: &str) -> Read<Self> {
        if text.len() > MAX_CONFIG {
            return Err(format!("a config.json has at most {MAX_CONFIG} bytes; this one has {}", text.len()));
        }
        let mut config: Config =
            serde_json::from_str(text).map_err(|e| format!("no config.json of a model: {}", plain(&e.to_string())))?;
        if let Some(inner) = config.text_config.take() {
            config = *inner;
        }
        config.model(plain(name))
    }
}

/// Text of a file without what could move a reader's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(300).collect()
}

/// A field that must be there, within its limits.
fn required(value: Option<u64>, field: &str, most: u64) -> Read<u64> {
    match value {
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => Err(format!("{field} is {n}; from 1 to {most} is understood")),
        None => Err(format!("{field} is missing: this is no decoder whose shapes are known")),
    }
}

impl Config {
    fn model(self, name: String) -> Read<Model> {
        let hidden = required(self.hidden_size, "hidden_size", WIDEST)?;
        let layers = required(self.num_hidden_layers, "num_hidden_layers", MOST_LAYERS)?;
        let kind = self.model_type.as_deref().unwrap_or_default();
        self.understood(kind)?;
        let experts = self.experts(layers)?;
        let sparse = experts.map_or(0, |e| e.layers);
        let dense = if sparse == layers {
            None
        } else {
            let inner = required(self.intermediate_size, "intermediate_size", WIDEST)?;
            Some(Mlp { layers: layers - sparse, inner, gated: !UNGATED.contains(&kind) })
        };
        Ok(Model {
            name,
            hidden,
            vocab: required(self.vocab_size, "vocab_size", WIDEST)?,
            layers,
            heads: self.heads(hidden)?,
            window: self.window(layers)?,
            sinks: WITH_SINKS.contains(&kind),
            dense,
            experts,
        })
    }

    /// Refuses what makes layers of kinds that are not known here.
    fn understood(&self, kind: &str) -> Read<()> {
        let unknown = [
            ("attention_chunk_size", self.attention_chunk_size),
            ("full_attention_interval", self.full_attention_interval),
            ("intermediate_size_mlp", self.intermediate_size_mlp),
        ];
        if let Some((field, _)) = unknown.iter().find(|(_, value)| value.is_some()) {
            return Err(format!("{field} makes layers that are not all alike, of a kind that is not understood"));
        }
        let Some(types) = &self.layer_types else {
            let alternates = ALTERNATING.contains(&kind) || self.sliding_window_pattern.is_some();
            return match self.sliding_window {
                Some(_) if alternates => Err("layer_types is missing: which layers have the sliding_window is not said".into()),
                _ => Ok(()),
            };
        };
        match types.iter().find(|t| !LAYERS.contains(&t.as_str())) {
            Some(other) => Err(format!("layer_types has '{}'; {} are understood", plain(other), LAYERS.join(" and "))),
            None => Ok(()),
        }
    }

    fn heads(&self, hidden: u64) -> Read<Heads> {
        let hq = required(self.num_attention_heads, "num_attention_heads", 1024)?;
        let width = |value, field| required(value, field, 1024);
        if self.kv_lora_rank.is_some() {
            return Ok(Heads::Latent {
                hq,
                q_rank: self.q_lora_rank.map(|rank| required(Some(rank), "q_lora_rank", WIDEST)).transpose()?,
                kv_rank: width(self.kv_lora_rank, "kv_lora_rank")?,
                nope: width(self.qk_nope_head_dim, "qk_nope_head_dim")?,
                rope: width(self.qk_rope_head_dim, "qk_rope_head_dim")?,
                v: width(self.v_head_dim, "v_head_dim")?,
            });
        }
        let hkv = required(self.num_key_value_heads.or(Some(hq)), "num_key_value_heads", 1024)?;
        if !hq.is_multiple_of(hkv) {
            return Err(format!("{hkv} num_key_value_heads do not divide {hq} num_attention_heads"));
        }
        let d = match self.head_dim {
            None if !hidden.is_multiple_of(hq) => {
                return Err(format!("head_dim is missing, and {hq} heads do not divide {hidden}"));
            }
            given => width(given.or(Some(hidden / hq)), "head_dim")?,
        };
        Ok(Heads::Grouped { hq, hkv, d })
    }

    /// The mixture, and in how many of the layers it stands.
    fn experts(&self, layers: u64) -> Read<Option<Experts>> {
        let Some(count) = self.n_routed_experts.or(self.num_experts).or(self.num_local_experts).filter(|n| *n > 1) else {
            return Ok(None);
        };
        let count = required(Some(count), "the number of experts", MOST_LAYERS)?;
        let per_token = required(self.num_experts_per_tok.or(self.experts_per_token), "num_experts_per_tok", count)?;
        let inner = required(self.moe_intermediate_size.or(self.intermediate_size), "moe_intermediate_size", WIDEST)?;
        let shared = match (self.shared_expert_intermediate_size, self.n_shared_experts) {
            (Some(width), _) => width,
            (None, Some(n)) => n.saturating_mul(inner),
            (None, None) => 0,
        };
        if shared > WIDEST {
            return Err(format!("shared experts of a width of {shared}; up to {WIDEST} is understood"));
        }
        let first = self.first_k_dense_replace.unwrap_or(0);
        let step = required(self.decoder_sparse_step.or(self.moe_layer_freq).or(Some(1)), "decoder_sparse_step", MOST_LAYERS)?;
        let plain = self.mlp_only_layers.as_deref().unwrap_or_default();
        // decoder_sparse_step counts layers from one, moe_layer_freq from none: of 61 layers by one they are the same.
        let after = u64::from(self.decoder_sparse_step.is_some());
        let layers = (0..layers).filter(|i| *i >= first && (i + after).is_multiple_of(step) && !plain.contains(i)).count() as u64;
        Ok((layers > 0).then_some(Experts { layers, count, per_token, inner, shared }))
    }

    fn window(&self, layers: u64) -> Read<Option<Window>> {
        let Some(keys) = self.sliding_window.filter(|_| self.use_sliding_window != Some(false)) else { return Ok(None) };
        let keys = required(Some(keys), "sliding_window", 1 << 22)?;
        let windowed = match (&self.layer_types, self.max_window_layers) {
            (Some(types), _) if types.len() as u64 != layers => {
                return Err(format!("layer_types names {} layers of {layers}", types.len()));
            }
            (Some(types), _) => types.iter().filter(|t| *t == "sliding_attention").count() as u64,
            (None, Some(first)) => layers.saturating_sub(first),
            (None, None) => layers,
        };
        Ok((windowed > 0).then_some(Window { keys, layers: windowed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Read<Model> {
        Model::parse("m", text)
    }

    const SMALL: &str =
        r#""hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100, "intermediate_size": 96"#;

    #[test]
    fn what_a_config_leaves_out_follows_from_the_rest() {
        let model = read(&format!("{{{SMALL}, \"rope_theta\": 1e4, \"head_dim\": null}}")).unwrap();
        assert_eq!(model.heads, Heads::Grouped { hq: 4, hkv: 4, d: 16 });
        assert_eq!(model.dense, Some(Mlp { layers: 4, inner: 96, gated: true }));
        assert_eq!((model.experts, model.window, model.sinks), (None, None, false));
        let nested =
            read(&format!("{{\"model_type\": \"sees\", \"text_config\": {{{SMALL}, \"model_type\": \"opt\"}}}}")).unwrap();
        assert!(!nested.dense.unwrap().gated);
    }

    #[test]
    fn layers_are_counted_by_what_they_have() {
        let experts = r#""num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32"#;
        let count = |more: &str| {
            let model = read(&format!("{{{SMALL}, {experts}, {more}}}")).unwrap();
            (model.experts.map_or(0, |e| e.layers), model.dense.map_or(0, |d| d.layers))
        };
        assert_eq!(count("\"first_k_dense_replace\": 1"), (3, 1));
        assert_eq!(count("\"decoder_sparse_step\": 2"), (2, 2));
        assert_eq!(count("\"mlp_only_layers\": [0, 3]"), (2, 2));
        assert_eq!(count("\"n_shared_experts\": 2"), (4, 0));
        let windows =
            |more: &str| read(&format!("{{{SMALL}, \"sliding_window\": 16, {more}}}")).unwrap().window.map(|w| w.layers);
        assert_eq!(windows("\"use_sliding_window\": false"), None);
        assert_eq!(windows("\"max_window_layers\": 3"), Some(1));
        let types = r#""layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]"#;
        assert_eq!(windows(types), Some(2));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, words) in [
            ("", "no config.json"),
            ("[1, 2]", "no config.json"),
            ("{}", "hidden_size is missing"),
            ("{\"hidden_size\": \"\\u001b[2J\"}", "no config.json"),
            ("{\"hidden_size\": -1}", "no config.json"),
            ("{\"hidden_size\": 0}", "hidden_size is 0"),
            (&format!("{{{SMALL}, \"num_key_value_heads\": 3}}"), "do not divide"),
            (&format!("{{{SMALL}, \"layer_types\": [], \"sliding_window\": 4}}"), "names 0 layers"),
            (&format!("{{{SMALL}, \"num_experts\": 4}}"), "num_experts_per_tok is missing"),
            (&format!("{{{SMALL}, \"kv_lora_rank\": 4}}"), "qk_nope_head_dim is missing"),
            (&format!("{{{SMALL}, \"full_attention_interval\": 4}}"), "full_attention_interval makes layers"),
            (&format!("{{{SMALL}, \"attention_chunk_size\": 8192}}"), "attention_chunk_size makes layers"),
            (&format!("{{{SMALL}, \"layer_types\": [\"linear_\\u0007attention\"]}}"), "layer_types has 'linear_"),
            (&format!("{{{SMALL}, \"sliding_window\": 4, \"model_type\": \"gemma2\"}}"), "layer_types is missing"),
            (&format!("{{{SMALL}, \"sliding_window\": 4, \"sliding_window_pattern\": 6}}"), "layer_types is missing"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(words) && !said.chars().any(char::is_control), "{text}: {said}");
        }
        assert!(read(&" ".repeat(MAX_CONFIG + 1)).unwrap_err().contains("at most"));
    }
}
