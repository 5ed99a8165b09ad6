//! What every provider of attention must do, whatever drives the device: each edge of the problem, in each type, by each provider that
//! the device offers for it and by each of that provider's algorithms, and the whole of each result compared with float64. A device that
//! is not there skips its test and says so.

use super::*;
use ridgepoint_core::Backend;
use ridgepoint_device::{all_devices, open};
use std::sync::atomic::{AtomicUsize, Ordering};

const SEED: u64 = 5;

/// Types of Q, and of K and V where those are narrower.
const WIDE: &[&str] = &["f32", "f16", "bf16"];
const ALL: &[&str] = &["f32", "f16", "bf16", "e4m3", "bf16/kv=e4m3"];
const HALF: &[&str] = &["f16", "bf16"];
const NARROW: &[&str] = &["bf16", "f16/kv=e4m3", "e4m3"];

/// Sizes, types, and what is asked besides.
type Edges = (&'static str, &'static [&'static str], &'static [&'static str]);

/// All that a software GPU tries: of many rows or in more types, its compiler alone takes minutes.
const SHORT: &[Edges] = &[
    (
        "prefill/b3hq2hkv2sq4sk100d64",
        &["f32"],
        &[
            "",
            "/causal/w1",
            "/causal/w33/sinks",
            "/ragged",
            "/causal/ragged",
            "/page16/ragged",
            "/causal/w20/page64/sinks/ragged",
        ],
    ),
    ("prefill/b2hq4hkv1sq1sk1d64", &["f32"], &["", "/sinks"]),
    ("prefill/b1hq2hkv2sq4sk2d64", &["f32"], &["/causal", "/causal/sinks"]),
    ("decode/b3hq8hkv2sq1sk601d128", &["f16"], &["", "/page16/sinks", "/ragged"]),
    ("decode/b2hq2hkv2sq1sk70d96", &["bf16"], &["", "/sinks"]),
    ("decode/b2hq2hkv2sq1sk70d256", &["f16"], &["", "/page16"]),
    ("mla-prefill/b1hq2hkv2sq1sk70d192v128", &["bf16"], &["/causal"]),
    ("mla-decode/b3hq1hkv1sq2sk65d576v512", &["f32"], &["/causal", "/page16/ragged"]),
];

/// Those of them with logits in the thousands (in FP8 the hundreds), of which exponentials without the maximum would be infinite.
const SHORT_HUGE: &[Edges] = &[
    ("prefill/b1hq2hkv2sq4sk100d64", &["f32"], &["/causal", "/causal/w50/sinks"]),
    ("decode/b3hq8hkv2sq1sk601d128", &["f16"], &["/sinks"]),
];

/// What every other device tries besides.
const EDGES: &[Edges] = &[
    // One query and one key.
    ("prefill/b1hq2hkv2sq1sk1d64", ALL, &["", "/causal"]),
    ("prefill/b1hq2hkv1sq1sk1d96", HALF, &["/causal/ragged"]),
    ("decode/b2hq4hkv1sq1sk1d128", ALL, &["", "/page16/sinks"]),
    ("mla-prefill/b1hq2hkv2sq1sk1d192v128", WIDE, &["/causal"]),
    ("mla-decode/b1hq4hkv1sq1sk1d576v512", ALL, &["", "/page16"]),
    // Lengths that are no multiple of a tile, of each head dimension: heads of their own, in groups, and all of one.
    ("prefill/b2hq2hkv2sq77sk77d64", ALL, &["", "/causal"]),
    ("prefill/b1hq4hkv1sq65sk177d64", HALF, &["", "/causal"]),
    ("prefill/b1hq4hkv2sq65sk97d96", ALL, &["", "/causal"]),
    ("prefill/b1hq2hkv1sq129sk129d128", ALL, &["", "/causal"]),
    ("prefill/b1hq2hkv1sq40sk225d128", &["bf16", "e4m3"], &["", "/causal"]),
    ("prefill/b1hq2hkv1sq66sk97d256", ALL, &["", "/causal"]),
    ("mla-prefill/b1hq2hkv2sq66sk130d192v128", &["f32", "f16", "bf16", "e4m3"], &["", "/causal"]),
    // Rows that see no key: the queries of a chunk that is longer than what it may see.
    ("prefill/b1hq2hkv1sq150sk20d64", ALL, &["/causal", "/causal/sinks"]),
    ("prefill/b1hq2hkv2sq70sk3d96", HALF, &["/causal"]),
    ("prefill/b1hq4hkv2sq140sk9d128", ALL, &["/causal", "/causal/w4"]),
    ("prefill/b1hq2hkv1sq70sk33d256", ALL, &["/causal"]),
    ("mla-prefill/b1hq2hkv2sq140sk10d192v128", WIDE, &["/causal"]),
    // Windows, pages, sinks and lengths, one of them 0, by themselves and together.
    (
        "prefill/b3hq2hkv1sq37sk100d64",
        &["f16", "bf16", "bf16/kv=e4m3"],
        &["/causal/w1", "/causal/w33/sinks", "/sinks", "/ragged", "/causal/ragged", "/page16", "/causal/page64/sinks"],
    ),
    ("prefill/b3hq4hkv2sq37sk70d96", &["f16", "bf16", "e4m3"], &["/causal/w33/sinks/ragged", "/page16/ragged"]),
    (
        "prefill/b3hq2hkv1sq40sk130d128",
        &["f32", "f16", "bf16"],
        &["/causal/w64", "/sinks/ragged", "/causal/page16/ragged", "/page24", "/causal/w20/page64/sinks/ragged"],
    ),
    ("prefill/b3hq2hkv1sq20sk90d256", &["f16", "bf16", "e4m3"], &["/ragged", "/causal/w30/page16/sinks/ragged"]),
    ("mla-prefill/b3hq2hkv2sq20sk70d192v128", HALF, &["/sinks/ragged", "/causal/page16/ragged"]),
    // Decode: few and many keys, several queries at once, as a cache is kept.
    ("decode/b2hq8hkv2sq1sk257d64", ALL, &["", "/page64", "/causal/w128/sinks"]),
    ("decode/b1hq6hkv2sq1sk300d96", ALL, &["", "/page16/sinks"]),
    ("decode/b4hq8hkv1sq1sk601d128", ALL, &["/ragged", "/page16/ragged", "/page24/sinks"]),
    ("decode/b1hq8hkv8sq1sk1030d128", WIDE, &[""]),
    ("decode/b2hq8hkv2sq3sk300d128", NARROW, &["", "/causal", "/causal/page64/sinks"]),
    ("decode/b3hq4hkv2sq1sk513d256", NARROW, &["", "/page64/ragged"]),
    ("mla-decode/b2hq16hkv1sq1sk65d576v512", ALL, &["", "/sinks"]),
    ("mla-decode/b1hq6hkv1sq1sk1100d576v512", NARROW, &["", "/page64"]),
    ("mla-decode/b3hq6hkv1sq1sk150d576v512", ALL, &["/ragged", "/page16/ragged"]),
    ("mla-decode/b3hq6hkv1sq3sk90d576v512", NARROW, &["/causal", "/causal/page16/ragged"]),
];

/// Those of them with huge logits.
const HUGE: &[Edges] = &[
    ("prefill/b1hq2hkv1sq40sk100d64", ALL, &["/causal", "/causal/w50/sinks"]),
    ("prefill/b1hq2hkv1sq40sk100d128", ALL, &["", "/causal/sinks"]),
    ("prefill/b1hq2hkv1sq40sk100d256", HALF, &["/causal"]),
    ("mla-prefill/b1hq2hkv2sq40sk100d192v128", HALF, &["/causal"]),
    ("decode/b3hq8hkv2sq1sk600d128", NARROW, &["", "/page16/sinks/ragged"]),
    ("mla-decode/b1hq6hkv1sq1sk1030d576v512", NARROW, &[""]),
];

/// An edge, and what its Q is multiplied by.
struct Edge {
    shape: Shape,
    gain: f64,
}

fn edges(software: bool) -> Vec<Edge> {
    let ids = |edges: &[Edges]| -> Vec<String> {
        let ids = |(sizes, types, flags): &Edges| -> Vec<String> {
            let all = types.iter().flat_map(|dtype| flags.iter().map(move |flag| (dtype, flag)));
            // In an id the type of K and V comes before all else.
            all.map(|(dtype, flag)| format!("attention/{sizes}/{dtype}{flag}")).collect()
        };
        edges.iter().flat_map(ids).collect()
    };
    let shape = |id: &String| Shape::parse(id).unwrap_or_else(|| panic!("{id}"));
    // Powers of two, by which every value stays one of its type; FP8's end at 240 or 448.
    let gain = |shape: Shape| if shape.dtype.bits() == 8 { 64.0 } else { 1024.0 };
    let all = |edges: &[Edges]| ids(edges).iter().map(shape).collect::<Vec<_>>();
    let [mut plain, mut huge] = [SHORT, SHORT_HUGE].map(all);
    if !software {
        plain.extend(all(EDGES));
        huge.extend(all(HUGE));
    }
    let huge = huge.into_iter().map(|shape| Edge { shape, gain: gain(shape) });
    plain.into_iter().map(|shape| Edge { shape, gain: 1.0 }).chain(huge).collect()
}

impl Edge {
    fn name(&self) -> String {
        let huge = if self.gain > 1.0 { format!(" with Q × {}", self.gain) } else { String::new() };
        format!("{}{huge}", self.shape.id())
    }

    /// What passes. Rounding a logit of size L costs L times that in the exponent; FP8's sums on matrix units keep 13 bits.
    fn tolerance(&self) -> f64 {
        let rounding = if self.shape.dtype.bits() == 8 { 2f64.powi(-12) } else { 2f64.powi(-21) };
        tolerance(self.shape.dtype) + if self.gain > 1.0 { 8.0 * self.gain * rounding } else { 0.0 }
    }
}

/// Providers of a shape: those of a run, and the kernel that a chip without one of its own would have.
fn kernels(shape: Shape, device: &dyn Device) -> Vec<String> {
    let mut names = providers(shape, device);
    names.retain(|name| name != "none");
    let other = common::provider(shape, device).filter(|other| !names.iter().any(|name| name == other));
    names.extend(other.map(str::to_owned));
    names
}

/// What lies behind a sequence's last key, where another would lie, becomes NaN.
fn bury(shape: Shape, operands: &Operands, set: &Set, device: &dyn Device) -> Result<()> {
    for (b, h) in (0..shape.b).flat_map(|b| (0..shape.hkv).map(move |h| (b, h))) {
        let length = shape.length(b);
        let end = shape.page.map_or(shape.sk, |page| length.next_multiple_of(page));
        if length == end {
            continue;
        }
        let v = if shape.kind == Kind::MlaDecode { 0 } else { shape.dv };
        for (buffer, columns) in [(&set.k, shape.dqk), (&set.v, v)] {
            let row = shape.kv.bytes(columns).0 as usize;
            let first = if length == 0 { (b * shape.hkv + h) * shape.sk } else { operands.layout.row(b, h, length - 1) + 1 };
            device.upload(buffer, first as usize * row, &vec![nan(shape, device); row * (end - length) as usize])?;
        }
    }
    Ok(())
}

/// What came of all edges.
#[derive(Default)]
struct Tally {
    /// Results that are right, by provider.
    right: BTreeMap<String, usize>,
    /// What a vendor's library would not do, by provider and reason.
    refused: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

impl Tally {
    fn failed(&mut self, error: DeviceError, may_refuse: bool, provider: &str, what: &str) -> Result<()> {
        match error {
            DeviceError::Lost(_) => return Err(error),
            DeviceError::Unsupported(why) if may_refuse => *self.refused.entry(format!("{provider}: {why}")).or_default() += 1,
            error => self.wrong.push(format!("{what}: {error}")),
        }
        Ok(())
    }

    /// Judges every provider of an edge on a device.
    ///
    /// # Errors
    /// Those of making the operands, and a lost device: nothing can be tried after it.
    fn judge(&mut self, edge: &Edge, device: &dyn Device) -> Result<()> {
        let shape = edge.shape;
        let providers = kernels(shape, device);
        if providers.is_empty() {
            // WGSL has no bytes to keep FP8 in; all else is done by someone.
            if device.info().backend != Backend::Vulkan || !shape.narrow() {
                self.wrong.push(format!("{}: no provider did it", edge.name()));
            }
            return Ok(());
        }
        let set = Set::new(shape, device, SEED, 0)?;
        let around = Around::new(shape, device, SEED)?;
        let types = [shape.dtype, shape.kv].map(|dtype| encoding(dtype, device));
        let seeds = [seed_of(SEED, 0, 0), seed_of(SEED, 0, 1), seed_of(SEED, 0, 2), seed_of_sinks(SEED)];
        let mut operands = Operands::new(shape, seeds, types);
        if edge.gain > 1.0 {
            operands.q.scale *= edge.gain;
            let mut q = vec![0; set.q.len()];
            device.download(&set.q, 0, &mut q)?;
            q.chunks_exact_mut(types[0].element_bytes().unwrap()).for_each(|x| types[0].write(types[0].read(x) * edge.gain, x));
            device.upload(&set.q, 0, &q)?;
        }
        let reference = Reference::new(shape, &operands);
        let mut buried = false;
        let gpu = matches!(device.info().backend, Backend::Cuda | Backend::Hip);
        for provider in providers {
            // A vendor's library comes first, and is asked for no more than a run asks it for. Its refusal is no mistake of ours.
            let theirs = gpu && library(&provider, device).is_some();
            if !theirs && !buried {
                bury(shape, &operands, &set, device)?;
                buried = true;
            }
            let may_refuse = theirs || (gpu && provider == materialised::PROVIDER);
            let what = format!("{} by {provider}", edge.name());
            let mut plan = match plan(shape, &provider, device) {
                Ok(plan) => plan,
                Err(error) => {
                    self.failed(error, may_refuse, &provider, &what)?;
                    continue;
                }
            };
            for index in 0..plan.candidates() {
                let mut total = Comparison::new(edge.tolerance());
                match attempt(plan.as_mut(), index, &around.with(&set), device) {
                    Ok(out) => reference.check(shape, &out, &mut total),
                    Err(error) => {
                        self.failed(error, may_refuse, &provider, &format!("{what}, algorithm {index}"))?;
                        continue;
                    }
                }
                let Verification { error, tolerance, checked, wrong, .. } = finish(&reference, total);
                assert_eq!(checked, shape.b * shape.hq * shape.sq, "an edge is compared whole");
                if wrong == 0 {
                    *self.right.entry(provider.clone()).or_default() += 1;
                } else {
                    let rows = format!("{wrong} of {checked} rows, {error:.1e} and not {tolerance:.0e}");
                    self.wrong.push(format!("{what}, algorithm {index}: {rows}"));
                }
            }
        }
        Ok(())
    }
}

/// The output of an algorithm's second run: the first may have left something behind.
fn attempt(plan: &mut dyn AttentionPlan, index: usize, operands: &AttentionOperands<'_>, device: &dyn Device) -> Result<Vec<u8>> {
    plan.select(index)?;
    device.fill(operands.o, 0xff)?;
    plan.enqueue(operands)?;
    device.fill(operands.o, 0xff)?;
    plan.enqueue(operands)?;
    let mut out = vec![0; operands.o.len()];
    device.download(operands.o, 0, &mut out)?;
    Ok(out)
}

/// Compiles what all edges need, on many threads: a kernel is compiled once, and found again.
fn compile_ahead(id: &str, edges: &[Edge]) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let device = open(id).unwrap();
                while let Some(Edge { shape, .. }) = edges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What cannot be compiled shows where it is tried.
                    kernels(*shape, device.as_ref()).iter().for_each(|provider| drop(plan(*shape, provider, device.as_ref())));
                }
            });
        }
    });
}

fn holds(backend: Backend) {
    let id = format!("{}:0", backend.name());
    if !all_devices().iter().any(|device| device.id == id) {
        println!("SKIP: {} device: there is none here", backend.name());
        return;
    }
    let device = open(&id).unwrap();
    let edges = edges(backend == Backend::Vulkan && device.info().software);
    if matches!(backend, Backend::Cuda | Backend::Hip) {
        compile_ahead(&id, &edges);
    }
    let mut tally = Tally::default();
    for edge in &edges {
        if let Err(error) = tally.judge(edge, device.as_ref()) {
            tally.wrong.push(format!("{}: {error}; what follows was not tried", edge.name()));
            break;
        }
    }
    let counted = |counts: &BTreeMap<String, usize>| counts.iter().map(|(what, n)| format!("\n  {n} {what}")).collect::<String>();
    println!("{} edges of attention on {id}; right:{}", edges.len(), counted(&tally.right));
    if !tally.refused.is_empty() {
        println!("refused:{}", counted(&tally.refused));
    }
    assert!(tally.wrong.is_empty(), "{} wrong:\n  {}", tally.wrong.len(), tally.wrong.join("\n  "));
    if matches!(backend, Backend::Cpu | Backend::Vulkan) {
        let all = edges.iter().filter(|edge| backend == Backend::Cpu || !edge.shape.narrow()).count();
        assert_eq!(tally.right.into_values().collect::<Vec<_>>(), [all; 2], "flash and materialised each do every edge");
    }
}

macro_rules! conformance {
    ($($backend:ident: $kind:ident),*) => {
        $(mod $backend {
            #[test]
            fn every_provider_is_right_at_every_edge_of_attention() {
                super::holds(ridgepoint_core::Backend::$kind);
            }
        })*
    };
}

conformance!(cpu: Cpu, vulkan: Vulkan, cuda: Cuda, hip: Hip);
