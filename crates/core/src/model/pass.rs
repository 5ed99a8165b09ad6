//! One forward pass of a model on one of the GPUs that share it: which products and attentions it is made of, and how often each
//! occurs. Tensor parallelism as Megatron-LM divides a layer (M. Shoeybi et al., 2019, arXiv 1909.08053): columns of the first
//! product and rows of the second of each pair; heads are whole; K and V heads that are too few are copied.

use super::{Experts, Heads, Model};
use crate::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The last chunk of a prompt.
    Prefill,
    /// One more token for each sequence of a batch, or a few.
    Decode,
}

/// How a model is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// What the pass is for.
    pub phase: Phase,
    /// Sequences at once.
    pub batch: u64,
    /// Keys that the last query sees, its own included.
    pub context: u64,
    /// Tokens of each sequence's chunk of prefill.
    pub tokens: u64,
    /// New tokens of each sequence in a decode: more than one where drafted ones are verified (speculative decoding, MTP).
    pub queries: u64,
    /// GPUs that share each layer.
    pub tp: u64,
    /// Dtype of the products, as it ends an id.
    pub dtype: String,
    /// Dtype of attention's queries, and of its keys and values where `kv` says nothing. None: that of the products where it is f32
    /// or f16, else bf16.
    pub attention: Option<Dtype>,
    /// Dtype of the KV cache.
    pub kv: Option<Dtype>,
    /// Keys of a page of the KV cache; None: each sequence's lie together.
    pub page: Option<u64>,
}

impl Use {
    /// What is asked of attention, as its ids say it.
    fn asked(&self) -> String {
        let [q, kv, page] = [
            self.attention.map(|dtype| dtype.to_string()),
            self.kv.map(|dtype| format!("kv={dtype}")),
            self.page.map(|tokens| format!("page{tokens}")),
        ];
        [q, kv, page].into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

/// A pass, as it is kept with the records of its parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// The model's name.
    pub model: String,
    /// What it is for.
    pub phase: Phase,
    /// Sequences at once.
    pub batch: u64,
    /// Keys that the last query sees.
    pub context: u64,
    /// Tokens that go through the layers.
    pub tokens: u64,
    /// GPUs that share each layer.
    pub tp: u64,
    /// Dtype of the products.
    pub dtype: String,
    /// What was asked of attention: dtypes and pages, as its ids say them; empty where nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attention: String,
    /// What it is made of, in the order of a layer.
    pub parts: Vec<Part>,
}

/// A case that is part of a pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Where in the model it is: `qkv`, `gate-up`, `lm head`.
    pub layer: String,
    /// Its id.
    pub case: String,
    /// How often it occurs in one pass.
    pub count: u64,
}

/// Degrees of tensor parallelism that are offered where one does not divide a model.
const DEGREES: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

impl Model {
    /// The parts of one pass on one GPU.
    ///
    /// # Errors
    /// One sentence where the degree of tensor parallelism does not divide the model.
    pub fn pass(&self, how: &Use) -> Result<Pass, String> {
        self.divides(how.tp).map_err(|what| {
            let others: Vec<String> = DEGREES.iter().filter(|tp| self.divides(**tp).is_ok()).map(u64::to_string).collect();
            format!("{} GPUs do not divide the {what} of {}; degrees that do: {}", how.tp, self.name, others.join(", "))
        })?;
        let prefill = how.phase == Phase::Prefill;
        let tokens = how.batch.saturating_mul(if prefill { how.tokens } else { how.queries }.min(how.context));
        let mut parts = Parts { rows: tokens, dtype: &how.dtype, list: Vec::new() };
        self.attention(how, &mut parts);
        if let Some(mlp) = self.dense {
            let inner = mlp.inner / how.tp;
            let (name, columns) = if mlp.gated { ("gate-up", 2 * inner) } else { ("up", inner) };
            parts.product(name, columns, self.hidden, mlp.layers);
            parts.product("down", self.hidden, inner, mlp.layers);
        }
        if let Some(experts) = self.experts {
            self.mixture(experts, how.tp, &mut parts);
        }
        // Of a prompt only the last token is asked for the next one; heads stay wide where the layers are narrow.
        let head = Parts { rows: if prefill { how.batch } else { tokens }, dtype: wide(&how.dtype), list: Vec::new() };
        parts.list.extend(head.with("lm head", self.vocab / how.tp, self.hidden));
        Ok(Pass {
            model: self.name.clone(),
            phase: how.phase,
            batch: how.batch,
            context: how.context,
            tokens,
            tp: how.tp,
            dtype: how.dtype.clone(),
            attention: how.asked(),
            parts: parts.list,
        })
    }

    /// What a degree of tensor parallelism does not divide, if anything.
    fn divides(&self, tp: u64) -> Result<(), String> {
        let whole = |n: u64, what: &str| if tp > 0 && n.is_multiple_of(tp) { Ok(()) } else { Err(format!("{n} {what}")) };
        match self.heads {
            Heads::Grouped { hq, hkv, .. } => {
                whole(hq, "query heads")?;
                if !hkv.is_multiple_of(tp) && !tp.is_multiple_of(hkv) {
                    return Err(format!("{hkv} heads of K and V"));
                }
            }
            Heads::Latent { hq, .. } => whole(hq, "query heads")?,
        }
        self.dense.map_or(Ok(()), |mlp| whole(mlp.inner, "columns of the MLP"))?;
        self.experts.map_or(Ok(()), |e| {
            whole(e.inner, "columns of an expert").and_then(|()| whole(e.shared, "columns of the shared expert"))
        })?;
        whole(self.vocab, "columns of the head")
    }

    /// The projections into and out of attention, and what is between them.
    fn attention(&self, how: &Use, parts: &mut Parts<'_>) {
        let (layers, tp) = (self.layers, how.tp);
        let hq = match self.heads {
            Heads::Grouped { hq, hkv, d } => {
                let (hq, hkv) = (hq / tp, (hkv / tp).max(1));
                parts.product("qkv", (hq + 2 * hkv) * d, self.hidden, layers);
                let windowed = self.window.filter(|w| w.keys < how.context);
                let full = layers - windowed.map_or(0, |w| w.layers);
                let dims = format!("d{d}");
                parts.attention("attention", how, (hq, hkv, &dims), (None, self.sinks), full);
                if let Some(w) = windowed {
                    parts.attention("attention, window", how, (hq, hkv, &dims), (Some(w.keys), self.sinks), w.layers);
                }
                parts.product("o", self.hidden, hq * d, layers);
                return;
            }
            Heads::Latent { hq, .. } => hq / tp,
        };
        let Heads::Latent { q_rank, kv_rank, nope, rope, v, .. } = self.heads else { return };
        // What makes the latent vectors is not divided: each GPU has all of it. One product, since both read the same rows.
        match q_rank {
            Some(rank) => {
                parts.product("latent q, kv", rank + kv_rank + rope, self.hidden, layers);
                parts.product("q", hq * (nope + rope), rank, layers);
            }
            None => {
                parts.product("q", hq * (nope + rope), self.hidden, layers);
                parts.product("latent kv", kv_rank + rope, self.hidden, layers);
            }
        }
        if how.phase == Phase::Prefill {
            // The cache keeps the latent vectors: keys and values are made of all of them anew, for each chunk.
            let rows = how.batch.saturating_mul(how.context);
            let expanded = Parts { rows, dtype: parts.dtype, list: Vec::new() }.with("kv", hq * (nope + v), kv_rank);
            parts.list.extend(expanded.map(|part| Part { count: layers, ..part }));
            parts.attention("attention", how, (hq, hq, &format!("d{}v{v}", nope + rope)), (None, self.sinks), layers);
        } else {
            // Absorbed: queries go to the latent keys, and what comes of it is brought back, each head by a matrix of its own.
            parts.batched("q to latent", hq, kv_rank, nope, layers);
            let dims = format!("d{}v{kv_rank}", kv_rank + rope);
            parts.attention("attention", how, (hq, 1, &dims), (None, self.sinks), layers);
            parts.batched("v from latent", hq, v, kv_rank, layers);
        }
        parts.product("o", self.hidden, hq * v, layers);
    }

    /// Router, experts and what is shared. A token's rows are counted once for each expert that it goes through.
    fn mixture(&self, experts: Experts, tp: u64, parts: &mut Parts<'_>) {
        let Experts { layers, count, per_token, inner, shared } = experts;
        let router = Parts { rows: parts.rows, dtype: wide(parts.dtype), list: Vec::new() };
        parts.list.extend(router.with("router", count, self.hidden).map(|part| Part { count: layers, ..part }));
        parts.grouped("experts gate-up", (count, per_token), 2 * inner / tp, self.hidden, layers);
        parts.grouped("experts down", (count, per_token), self.hidden, inner / tp, layers);
        if shared > 0 {
            parts.product("shared gate-up", 2 * shared / tp, self.hidden, layers);
            parts.product("shared down", self.hidden, shared / tp, layers);
        }
    }
}

/// Checkpoints of narrow types keep their router and head in bfloat16.
fn wide(dtype: &str) -> &str {
    if matches!(dtype, "f32" | "tf32" | "f16" | "bf16" | "f64") { dtype } else { "bf16" }
}

/// Parts as they come together.
struct Parts<'a> {
    /// Rows of each product.
    rows: u64,
    dtype: &'a str,
    list: Vec<Part>,
}

impl Parts<'_> {
    fn push(&mut self, layer: &str, case: String, count: u64) {
        if count > 0 {
            self.list.push(Part { layer: layer.into(), case, count });
        }
    }

    fn product(&mut self, layer: &str, n: u64, k: u64, count: u64) {
        self.push(layer, format!("gemm/m{}n{n}k{k}/{}", self.rows, self.dtype), count);
    }

    /// One product alone, once.
    fn with(mut self, layer: &str, n: u64, k: u64) -> impl Iterator<Item = Part> {
        self.product(layer, n, k, 1);
        self.list.into_iter()
    }

    fn batched(&mut self, layer: &str, batch: u64, n: u64, k: u64, count: u64) {
        let batch = if batch > 1 { format!("b{batch}") } else { String::new() };
        self.push(layer, format!("gemm/{batch}m{}n{n}k{k}/{}", self.rows, wide(self.dtype)), count);
    }

    fn grouped(&mut self, layer: &str, (experts, per_token): (u64, u64), n: u64, k: u64, count: u64) {
        let rows = self.rows * per_token;
        // Grouped products have the plain types alone; a part of another type than the rest says so.
        let dtype = self.dtype.split('/').next().unwrap_or_default();
        let layer = if dtype == self.dtype { layer.to_owned() } else { format!("{layer}, {dtype}") };
        self.push(&layer, format!("gemm/grouped/e{experts}m{rows}n{n}k{k}/{dtype}/routed"), count);
    }

    fn attention(
        &mut self,
        layer: &str,
        how: &Use,
        (hq, hkv, dims): (u64, u64, &str),
        (window, sinks): (Option<u64>, bool),
        count: u64,
    ) {
        let latent = dims.contains('v');
        let kind = match (how.phase, latent) {
            (Phase::Prefill, false) => "prefill",
            (Phase::Prefill, true) => "mla-prefill",
            (Phase::Decode, false) => "decode",
            (Phase::Decode, true) => "mla-decode",
        };
        let (b, sq) = (how.batch, self.rows / how.batch.max(1));
        let dtype = how.attention.unwrap_or(match self.dtype {
            "f32" => Dtype::F32,
            "f16" => Dtype::F16,
            _ => Dtype::Bf16,
        });
        let mut id = format!("attention/{kind}/b{b}hq{hq}hkv{hkv}sq{sq}sk{}{dims}/{dtype}", how.context);
        // The keys and values that MLA's prefill reads were just made of the cache: they are not the cache.
        let cached = kind != "mla-prefill";
        if let Some(kv) = how.kv.filter(|kv| cached && *kv != dtype) {
            id += &format!("/kv={kv}");
        }
        if how.phase == Phase::Prefill || window.is_some() || sq > 1 {
            id += "/causal";
        }
        if let Some(keys) = window {
            id += &format!("/w{keys}");
        }
        if let Some(tokens) = how.page.filter(|_| cached) {
            id += &format!("/page{tokens}");
        }
        if sinks {
            id += "/sinks";
        }
        self.push(layer, id, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(phase: Phase, batch: u64, tp: u64) -> Use {
        let (attention, kv, page) = (None, None, None);
        Use { phase, batch, context: 8192, tokens: 2048, queries: 1, tp, dtype: "bf16".into(), attention, kv, page }
    }

    fn pass(model: &str, phase: Phase, tp: u64) -> Result<Pass, String> {
        let batch = if phase == Phase::Prefill { 1 } else { 16 };
        Model::shipped(model).ok_or("no such pack")?.pass(&how(phase, batch, tp))
    }

    fn parts(model: &str, phase: Phase, tp: u64) -> Vec<(String, String, u64)> {
        pass(model, phase, tp).unwrap().parts.into_iter().map(|p| (p.layer, p.case, p.count)).collect()
    }

    fn expect(found: &[(String, String, u64)], wanted: &[(&str, &str, u64)]) {
        let found: Vec<(&str, &str, u64)> = found.iter().map(|(l, c, n)| (l.as_str(), c.as_str(), *n)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_dense_model_by_hand() {
        expect(
            &parts("llama-3.1-70b", Phase::Prefill, 8),
            &[
                ("qkv", "gemm/m2048n1280k8192/bf16", 80),
                ("attention", "attention/prefill/b1hq8hkv1sq2048sk8192d128/bf16/causal", 80),
                ("o", "gemm/m2048n8192k1024/bf16", 80),
                ("gate-up", "gemm/m2048n7168k8192/bf16", 80),
                ("down", "gemm/m2048n8192k3584/bf16", 80),
                ("lm head", "gemm/m1n16032k8192/bf16", 1),
            ],
        );
        let decode = parts("llama-3.1-70b", Phase::Decode, 8);
        assert_eq!(decode[1].1, "attention/decode/b16hq8hkv1sq1sk8192d128/bf16");
        assert_eq!((decode[0].1.as_str(), decode[5].1.as_str()), ("gemm/m16n1280k8192/bf16", "gemm/m16n16032k8192/bf16"));
    }

    #[test]
    fn latent_attention_is_absorbed_where_it_decodes() {
        let decode = parts("deepseek-v3", Phase::Decode, 8);
        expect(
            &decode[..6],
            &[
                ("latent q, kv", "gemm/m16n2112k7168/bf16", 61),
                ("q", "gemm/m16n3072k1536/bf16", 61),
                ("q to latent", "gemm/b16m16n512k128/bf16", 61),
                ("attention", "attention/mla-decode/b16hq16hkv1sq1sk8192d576v512/bf16", 61),
                ("v from latent", "gemm/b16m16n128k512/bf16", 61),
                ("o", "gemm/m16n7168k2048/bf16", 61),
            ],
        );
        let counts: Vec<(&str, u64)> = decode[6..].iter().map(|(layer, _, count)| (layer.as_str(), *count)).collect();
        let sparse = ["router", "experts gate-up", "experts down", "shared gate-up", "shared down"].map(|layer| (layer, 58));
        assert_eq!(counts, [&[("gate-up", 3), ("down", 3)][..], &sparse, &[("lm head", 1)]].concat());
        assert_eq!(decode[9].1, "gemm/grouped/e256m128n512k7168/bf16/routed");
        let prefill = parts("deepseek-v3", Phase::Prefill, 8);
        assert_eq!(prefill[2], ("kv".into(), "gemm/m8192n4096k512/bf16".into(), 61), "of the whole context");
        assert_eq!(prefill[3].1, "attention/mla-prefill/b1hq16hkv16sq2048sk8192d192v128/bf16/causal");
    }

    #[test]
    fn windows_and_sinks_are_in_the_id_and_heads_of_k_and_v_are_copied() {
        let oss = parts("gpt-oss-120b", Phase::Decode, 1);
        assert_eq!(oss[1], ("attention".into(), "attention/decode/b16hq64hkv8sq1sk8192d64/bf16/sinks".into(), 18));
        assert_eq!(oss[2].1, "attention/decode/b16hq64hkv8sq1sk8192d64/bf16/causal/w128/sinks");
        // Four heads of K and V for eight GPUs: each has one.
        assert_eq!(parts("qwen3-235b-a22b", Phase::Decode, 8)[0].1, "gemm/m16n1280k4096/bf16");
    }

    #[test]
    fn chunks_of_several_prompts_are_rows_of_one_product_and_sequences_of_one_attention() {
        let pass = Model::shipped("llama-3.1-70b").unwrap().pass(&how(Phase::Prefill, 4, 8)).unwrap();
        assert_eq!((pass.batch, pass.tokens), (4, 4 * 2048));
        let cases: Vec<&str> = pass.parts.iter().map(|p| p.case.as_str()).collect();
        assert_eq!(
            cases,
            [
                "gemm/m8192n1280k8192/bf16",
                "attention/prefill/b4hq8hkv1sq2048sk8192d128/bf16/causal",
                "gemm/m8192n8192k1024/bf16",
                "gemm/m8192n7168k8192/bf16",
                "gemm/m8192n8192k3584/bf16",
                "gemm/m4n16032k8192/bf16",
            ]
        );
    }

    #[test]
    fn the_cache_may_be_narrow_and_in_pages_and_attention_narrow() {
        let attentions = |model: &str, how: &Use| -> Vec<String> {
            let parts = Model::shipped(model).unwrap().pass(how).unwrap().parts.into_iter();
            parts.filter_map(|p| p.case.strip_prefix("attention/").map(str::to_owned)).collect()
        };
        let cache = |phase| Use { kv: Some(Dtype::E4m3), page: Some(64), ..how(phase, 2, 1) };
        assert_eq!(
            attentions("gpt-oss-120b", &cache(Phase::Decode)),
            [
                "decode/b2hq64hkv8sq1sk8192d64/bf16/kv=e4m3/page64/sinks",
                "decode/b2hq64hkv8sq1sk8192d64/bf16/kv=e4m3/causal/w128/page64/sinks"
            ]
        );
        assert_eq!(
            attentions("qwen3-32b", &cache(Phase::Prefill)),
            ["prefill/b2hq64hkv8sq2048sk8192d128/bf16/kv=e4m3/causal/page64"]
        );
        // A latent cache; what a prompt's attention reads was made of it.
        let latent = attentions("deepseek-v3", &cache(Phase::Decode));
        assert_eq!(latent, ["mla-decode/b2hq128hkv1sq1sk8192d576v512/bf16/kv=e4m3/page64"]);
        // Drafted tokens see the cache and those before them, and all of them are asked for the next one.
        let drafted = Use { queries: 3, ..cache(Phase::Decode) };
        let several = attentions("deepseek-v3", &drafted);
        assert_eq!(several, ["mla-decode/b2hq128hkv1sq3sk8192d576v512/bf16/kv=e4m3/causal/page64"]);
        let last = Model::shipped("deepseek-v3").unwrap().pass(&drafted).unwrap().parts.pop().unwrap();
        assert_eq!(last.case, "gemm/m6n129280k7168/bf16");
        let made = attentions("deepseek-v3", &cache(Phase::Prefill));
        assert_eq!(made, ["mla-prefill/b2hq128hkv128sq2048sk8192d192v128/bf16/causal"]);
        // All of it in FP8, said once.
        let narrow = Use { attention: Some(Dtype::E4m3), ..cache(Phase::Decode) };
        assert_eq!(attentions("qwen3-32b", &narrow), ["decode/b2hq64hkv8sq1sk8192d128/e4m3/page64"]);
        let pass = Model::shipped("qwen3-32b").unwrap().pass(&narrow).unwrap();
        assert_eq!(pass.attention, "e4m3/kv=e4m3/page64");
    }

    #[test]
    fn a_degree_that_does_not_divide_is_refused_with_those_that_do() {
        for (model, tp, words) in
            [("llama-3.1-8b", 3, "query heads"), ("deepseek-v3", 0, "query heads"), ("llama-3.1-8b", 64, "32 query heads")]
        {
            let said = pass(model, Phase::Decode, tp).unwrap_err();
            assert!(said.contains(words) && said.contains("degrees that do: 1, 2, 4, 8"), "{said}");
        }
    }

    #[test]
    fn narrow_products_leave_head_router_and_attention_wide() {
        let model = Model::shipped("qwen3-235b-a22b").unwrap();
        let how = Use { dtype: "e4m3".into(), ..how(Phase::Decode, 1, 1) };
        let narrow: Vec<String> =
            model.pass(&how).unwrap().parts.into_iter().filter(|p| p.case.contains("e4m3")).map(|p| p.layer).collect();
        assert_eq!(narrow, ["qkv", "o", "experts gate-up", "experts down"]);
        // The experts have one scale a tensor, whatever the others have, and are called so.
        let scaled = model.pass(&Use { dtype: "e4m3/scale=block128".into(), ..how }).unwrap();
        let find = |layer: &str| scaled.parts.iter().find(|p| p.layer == layer).map(|p| p.case.as_str());
        assert_eq!(find("qkv"), Some("gemm/m1n9216k4096/e4m3/scale=block128"));
        assert_eq!(find("experts down, e4m3"), Some("gemm/grouped/e128m8n4096k1536/e4m3/routed"));
    }
}
