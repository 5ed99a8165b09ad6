//! One attention: its id, its mask, the keys of its sequences and its work.
//!
//! `attention/<kind>/b1hq8hkv2sq5sk7d64/<dtype>[/kv=e4m3][/causal][/w128][/page16][/sinks][/ragged]`, flags in this order.

use crate::layout;
use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work};
use ridgepoint_device::{AttentionProblem, Paged};
use std::ops::Range;

/// Most keys of a page.
const MOST_TOKENS: u64 = 1 << 12;

/// What an attention is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prefill,
    Decode,
    MlaPrefill,
    MlaDecode,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Prefill, Self::Decode, Self::MlaPrefill, Self::MlaDecode];

    const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::MlaPrefill => "mla-prefill",
            Self::MlaDecode => "mla-decode",
        }
    }
}

/// One attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) b: u64,
    pub(crate) hq: u64,
    pub(crate) hkv: u64,
    pub(crate) sq: u64,
    pub(crate) sk: u64,
    pub(crate) dqk: u64,
    pub(crate) dv: u64,
    /// Of Q.
    pub(crate) dtype: Dtype,
    /// Of K and V.
    pub(crate) kv: Dtype,
    pub(crate) causal: bool,
    /// Keys that a query sees at most, its own the last.
    pub(crate) window: Option<u64>,
    /// Keys of a page.
    pub(crate) page: Option<u64>,
    pub(crate) sinks: bool,
    pub(crate) ragged: bool,
}

impl Shape {
    pub(crate) fn id(self) -> String {
        let Self { b, hq, hkv, sq, sk, dqk, dv, dtype, .. } = self;
        let dims = if dqk == dv { format!("d{dqk}") } else { format!("d{dqk}v{dv}") };
        let mut id = format!("attention/{}/b{b}hq{hq}hkv{hkv}sq{sq}sk{sk}{dims}/{dtype}", self.kind.name());
        if self.kv != dtype {
            id += &format!("/kv={}", self.kv);
        }
        if self.causal {
            id += "/causal";
        }
        if let Some(window) = self.window {
            id += &format!("/w{window}");
        }
        if let Some(page) = self.page {
            id += &format!("/page{page}");
        }
        if self.sinks {
            id += "/sinks";
        }
        if self.ragged {
            id += "/ragged";
        }
        id
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let mut segments = id.split('/');
        let (component, kind, size, dtype) = (segments.next()?, segments.next()?, segments.next()?, segments.next()?);
        if component != "attention" {
            return None;
        }
        let (b, rest) = size.strip_prefix('b')?.split_once("hq")?;
        let (hq, rest) = rest.split_once("hkv")?;
        let (hkv, rest) = rest.split_once("sq")?;
        let (sq, rest) = rest.split_once("sk")?;
        let (sk, dims) = rest.split_once('d')?;
        let (dqk, dv) = dims.split_once('v').unwrap_or((dims, dims));
        let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|n| (1..=most).contains(n));
        let dtype = dtype.parse().ok()?;
        let mut shape = Self {
            kind: Kind::ALL.into_iter().find(|k| k.name() == kind)?,
            b: number(b, 1 << 14)?,
            hq: number(hq, 1 << 10)?,
            hkv: number(hkv, 1 << 10)?,
            sq: number(sq, 1 << 22)?,
            sk: number(sk, 1 << 22)?,
            dqk: number(dqk, 1024)?,
            dv: number(dv, 1024)?,
            dtype,
            kv: dtype,
            causal: false,
            window: None,
            page: None,
            sinks: false,
            ragged: false,
        };
        for flag in segments {
            match flag {
                "causal" => shape.causal = true,
                "sinks" => shape.sinks = true,
                "ragged" => shape.ragged = true,
                _ => {
                    if let Some(kv) = flag.strip_prefix("kv=") {
                        shape.kv = kv.parse().ok()?;
                    } else if let Some(page) = flag.strip_prefix("page") {
                        shape.page = Some(number(page, MOST_TOKENS)?);
                    } else {
                        shape.window = Some(number(flag.strip_prefix('w')?, 1 << 22)?);
                    }
                }
            }
        }
        // Only the canonical spelling: flags in their order, each once.
        (shape.sound() && shape.id() == id).then_some(shape)
    }

    fn sound(self) -> bool {
        let latent = self.kind == Kind::MlaDecode;
        self.hq.is_multiple_of(self.hkv)
            && matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::E4m3)
            && matches!(self.kv, kv if kv == self.dtype || kv == Dtype::E4m3)
            && (!latent || (self.dv <= self.dqk && self.window.is_none()))
            // A window as long as the keys masks nothing: that is another id's problem.
            && self.window.is_none_or(|w| self.causal && w < self.sk)
            && self.page.is_none_or(|_| i32::try_from(layout::pool(self)).is_ok())
            && self.work().is_some()
    }

    /// Of O: bf16 for FP8, whose output is not quantised.
    pub(crate) const fn output(self) -> Dtype {
        if self.dtype.bits() == 8 { Dtype::Bf16 } else { self.dtype }
    }

    /// True where an operand is FP8.
    pub(crate) const fn narrow(self) -> bool {
        self.dtype.bits() == 8 || self.kv.bits() == 8
    }

    /// True for dense attention in one type, causal or not, which every kernel of ours does.
    pub(crate) fn plain(self) -> bool {
        self.problem().extras().is_empty()
    }

    /// Keys of sequence `b`: `sk`, or for ragged ones a number from 0 to that by a fixed hash. The first always has all, and
    /// of three or more the last has none.
    pub(crate) const fn length(self, b: u64) -> u64 {
        layout::length(self, b)
    }

    /// Elements of the buffers of Q, K, V (0 for the absorbed form, whose V lies in K) and O; of all pages where there are some.
    pub(crate) fn elements(self) -> [u64; 4] {
        let keys = match self.page {
            Some(page) => layout::pool(self) * page,
            None => self.b * self.sk,
        };
        let v = if self.kind == Kind::MlaDecode { 0 } else { self.hkv * keys * self.dv };
        [self.b * self.hq * self.sq * self.dqk, self.hkv * keys * self.dqk, v, self.b * self.hq * self.sq * self.dv]
    }

    /// Bytes of those buffers.
    pub(crate) fn bytes(self) -> u64 {
        let [q, k, v, o] = self.elements();
        self.dtype.bytes(q).0 + self.kv.bytes(k).0 + self.kv.bytes(v).0 + self.output().bytes(o).0
    }

    /// Keys that query `i` of sequence `b` sees.
    pub(crate) fn keys(self, b: u64, i: u64) -> Range<u64> {
        let length = self.length(b);
        let end = if self.causal { (i + length + 1).saturating_sub(self.sq).min(length) } else { length };
        end.saturating_sub(self.window.unwrap_or(u64::MAX))..end
    }

    /// (query, key) pairs of one head of a sequence of `length` keys: the sum of what its queries see.
    const fn pairs(self, length: u64) -> u64 {
        if !self.causal {
            return self.sq * length;
        }
        // Queries' ends run from `first` to `length`, and see that many keys or a window of them.
        const fn triangle(n: u64) -> u64 {
            n * (n + 1) / 2
        }
        const fn upto(n: u64, window: u64) -> u64 {
            if n <= window { triangle(n) } else { triangle(window) + (n - window) * window }
        }
        let window = match self.window {
            Some(window) => window,
            None => length,
        };
        upto(length, window) - upto(length.saturating_sub(self.sq), window)
    }

    /// Keys of a sequence of `length` that any query sees.
    pub(crate) fn seen(self, length: u64) -> u64 {
        self.window.map_or(length, |w| length.min(self.sq + w - 1))
    }

    /// Work by docs/conventions.md; None where a count does not fit. Keys count that some query sees, once each; page tables,
    /// lengths, sinks and FP8 scales do not, so that the figure is of the same bytes however K and V are stored.
    pub(crate) fn work(self) -> Option<Work> {
        let (mut pairs, mut tokens) = (0u64, 0u64);
        for b in 0..self.b {
            let length = self.length(b);
            // By convention a latent decode's mask is no discount: a few of many thousand keys.
            let latent = Self { causal: self.causal && self.kind != Kind::MlaDecode, ..self };
            pairs = pairs.checked_add(latent.pairs(length))?;
            tokens += self.seen(length);
        }
        let flops = pairs.checked_mul(2 * (self.dqk + self.dv))?.checked_mul(self.hq)?;
        let [q, .., o] = self.elements();
        let columns = if self.kind == Kind::MlaDecode { self.dqk } else { self.dqk + self.dv };
        let keys = self.kv.bytes(tokens.checked_mul(self.hkv * columns)?);
        let bytes = [self.dtype.bytes(q), keys, self.output().bytes(o)].into_iter().fold(Bytes(0), |a, b| a + b);
        Some(Work::arithmetic(Flops(flops), bytes))
    }

    /// The case of it.
    pub(crate) fn case(self) -> Option<Case> {
        let decode = matches!(self.kind, Kind::Decode | Kind::MlaDecode);
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Attention,
            dtype: self.dtype,
            metric: if decode { Metric::Bandwidth } else { Metric::Arithmetic },
            level: Level::Dram,
            work: self.work()?,
            cache: Cache::Cold,
            data: Distribution::Normal,
        })
    }

    /// The problem as a library sees it.
    pub(crate) fn problem(self) -> AttentionProblem {
        AttentionProblem {
            batch: self.b as usize,
            hq: self.hq as usize,
            hkv: self.hkv as usize,
            sq: self.sq as usize,
            sk: self.sk as usize,
            dqk: self.dqk as usize,
            dv: self.dv as usize,
            causal: self.causal,
            window: self.window.map(|w| w as usize),
            shared_kv: self.kind == Kind::MlaDecode,
            dtype: self.dtype,
            kv: self.kv,
            output: self.output(),
            paged: self.page.map(|tokens| Paged { tokens: tokens as usize, pool: layout::pool(self) as usize }),
            sinks: self.sinks,
            ragged: self.ragged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shape() -> impl Strategy<Value = Shape> {
        let sizes = (1u64..200, 1u64..9, 1u64..65, 1u64..9000, 1u64..9000, 1u64..=1024, 1u64..=1024);
        let dtypes = prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::E4m3]);
        let kinds = prop::sample::select(Kind::ALL.to_vec());
        let window = prop::option::of(1u64..9000);
        let page = prop::option::of(1u64..=MOST_TOKENS);
        let flags = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
        (kinds, sizes, dtypes, flags, window, page).prop_map(
            |(kind, (b, group, hkv, sq, sk, dqk, dv), dtype, (causal, sinks, ragged, fp8), window, page)| {
                let latent = kind == Kind::MlaDecode;
                let (dqk, dv) = if latent { (dqk.max(dv), dqk.min(dv)) } else { (dqk, dv) };
                let window = window.filter(|w| causal && !latent && *w < sk);
                let kv = if fp8 { Dtype::E4m3 } else { dtype };
                Shape { kind, b, hq: group * hkv, hkv, sq, sk, dqk, dv, dtype, kv, causal, window, page, sinks, ragged }
            },
        )
    }

    proptest! {
        #[test]
        fn an_id_gives_its_shape_back_and_no_other(a in any_shape(), b in any_shape()) {
            prop_assert_eq!(Shape::parse(&a.id()), Some(a));
            prop_assert!(CaseId::new(a.id()).is_ok());
            prop_assert_eq!(a == b, a.id() == b.id());
            // Neighbours, which chance would hardly make.
            for near in [
                Shape { b: a.hq, hq: a.b, ..a },
                Shape { sq: a.sk, sk: a.sq, ..a },
                Shape { dv: a.dqk, ..a },
                Shape { window: a.page, page: a.window, ..a },
                Shape { kv: a.dtype, ..a },
                Shape { sinks: a.ragged, ragged: a.sinks, ..a },
            ] {
                prop_assert_eq!(a == near, a.id() == near.id());
            }
        }

        #[test]
        fn no_text_panics_the_parser(
            text in "(attention/(prefill|mla-decode)/b1hq(1hkv1sq3sk9d8/(bf16|e4m3))?)?[a-z0-9/=]{0,40}",
        ) {
            if let Some(shape) = Shape::parse(&text) {
                prop_assert_eq!(shape.id(), text);
            }
        }

        #[test]
        fn work_counts_the_pairs_that_are_kept(
            sq in 1u64..12, sk in 1u64..12, b in 1u64..5, causal in prop::bool::ANY, w in 1u64..12, ragged in prop::bool::ANY,
        ) {
            let window = (causal && w < sk).then_some(w);
            let shape = Shape { b, sq, sk, causal, window, ragged, ..shape("prefill/b1hq4hkv2sq1sk1d64/f32") };
            let rows = (0..b).flat_map(|b| (0..sq).map(move |i| (b, i)));
            let kept: u64 = rows.map(|(b, i)| shape.keys(b, i)).map(|keys| keys.end - keys.start).sum();
            let seen: usize = (0..b).map(|b| (0..sk).filter(|j| (0..sq).any(|i| shape.keys(b, i).contains(j))).count()).sum();
            let work = shape.work().unwrap();
            prop_assert_eq!(work.flops.0, 2 * (64 + 64) * 4 * kept);
            prop_assert_eq!(work.bytes.0, 4 * 64 * (2 * b * 4 * sq + 2 * 2 * seen as u64));
        }
    }

    fn shape(id: &str) -> Shape {
        Shape::parse(&format!("attention/{id}")).unwrap()
    }

    #[test]
    fn ids_are_canonical_and_bounded() {
        for id in ["bf16/causal", "bf16/kv=e4m3/causal/w6/page16/sinks/ragged", "e4m3/ragged", "f32/page1", "e4m3"] {
            assert!(Shape::parse(&format!("attention/prefill/b1hq8hkv2sq5sk7d64/{id}")).is_some(), "{id}");
        }
        for id in [
            "attention/prefill/b1hq8hkv3sq5sk7d64/bf16",
            "attention/prefill/b01hq8hkv2sq5sk7d64/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64v64/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64/i8",
            "attention/prefill/b1hq8hkv2sq5sk7d64/e4m3fnuz",
            "attention/mla-decode/b1hq8hkv1sq1sk7d512v576/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/banded",
            // A window without a causal mask, one that masks nothing, none at all.
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/w3",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/causal/w7",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/causal/w0",
            "attention/mla-decode/b1hq8hkv1sq1sk7d576v512/bf16/causal/w3",
            // Flags out of order, twice, or saying what is so anyway.
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/ragged/sinks",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/sinks/sinks",
            "attention/prefill/b1hq8hkv2sq5sk7d64/e4m3/kv=e4m3",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/kv=f16",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/page0",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/page5000",
            "attention/prefill/b16384hq1024hkv1024sq4194304sk4194304d1024/f32",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    #[test]
    fn the_latent_is_read_once() {
        let work = shape("mla-decode/b2hq16hkv1sq1sk100d576v512/bf16").work().unwrap();
        assert_eq!(work.bytes.0, 2 * (2 * 100 * 576 + 2 * 16 * (576 + 512)));
        assert_eq!(work.flops.0, 2 * 2 * 16 * 100 * (576 + 512));
        let several = shape("mla-decode/b2hq16hkv1sq3sk100d576v512/bf16/causal").work().unwrap();
        assert_eq!(several.bytes.0, 2 * (2 * 100 * 576 + 3 * 2 * 16 * (576 + 512)));
        assert_eq!(several.flops.0, 3 * work.flops.0);
    }

    #[test]
    fn narrow_keys_count_as_narrow_and_pages_as_what_they_hold() {
        let bytes = |flags: &str| shape(&format!("decode/b2hq8hkv2sq1sk100d64/bf16{flags}")).work().unwrap().bytes.0;
        let (queries, keys) = (2 * 2 * 8 * 2 * 64, 2 * 2 * 2 * 100 * 64);
        assert_eq!(bytes(""), queries + 2 * keys);
        assert_eq!(bytes("/kv=e4m3"), queries + keys);
        assert_eq!(bytes("/page16"), queries + 2 * keys);
        assert_eq!(bytes("/causal/w10"), queries + 2 * keys / 10);
        let fp8 = shape("decode/b2hq8hkv2sq1sk100d64/e4m3");
        assert_eq!((fp8.output(), fp8.work().unwrap().bytes.0), (Dtype::Bf16, queries / 4 + queries / 2 + keys));
    }
}
