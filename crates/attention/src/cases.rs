//! The cases: shapes, their ids and work, and which of them a scope holds.

use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work};
use ridgepoint_device::AttentionProblem;
use ridgepoint_harness::{Class, Profile, Scope};

/// What an attention is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prefill,
    Decode,
    MlaPrefill,
    MlaDecode,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Prefill, Self::Decode, Self::MlaPrefill, Self::MlaDecode];

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
    pub(crate) dtype: Dtype,
    pub(crate) causal: bool,
}

impl Shape {
    fn id(self) -> String {
        let Self { b, hq, hkv, sq, sk, dqk, dv, .. } = self;
        let dims = if dqk == dv { format!("d{dqk}") } else { format!("d{dqk}v{dv}") };
        let causal = if self.causal { "/causal" } else { "" };
        format!("attention/{}/b{b}hq{hq}hkv{hkv}sq{sq}sk{sk}{dims}/{}{causal}", self.kind.name(), self.dtype)
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let segments: Vec<&str> = id.split('/').collect();
        let (kind, size, dtype, causal) = match segments.as_slice() {
            ["attention", kind, size, dtype] => (kind, size, dtype, false),
            ["attention", kind, size, dtype, "causal"] => (kind, size, dtype, true),
            _ => return None,
        };
        let (b, rest) = size.strip_prefix('b')?.split_once("hq")?;
        let (hq, rest) = rest.split_once("hkv")?;
        let (hkv, rest) = rest.split_once("sq")?;
        let (sq, rest) = rest.split_once("sk")?;
        let (sk, dims) = rest.split_once('d')?;
        let (dqk, dv) = dims.split_once('v').unwrap_or((dims, dims));
        let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|n| (1..=most).contains(n));
        let shape = Self {
            kind: Kind::ALL.into_iter().find(|k| k.name() == *kind)?,
            b: number(b, 1 << 14)?,
            hq: number(hq, 1 << 10)?,
            hkv: number(hkv, 1 << 10)?,
            sq: number(sq, 1 << 22)?,
            sk: number(sk, 1 << 22)?,
            dqk: number(dqk, 1024)?,
            dv: number(dv, 1024)?,
            dtype: dtype.parse().ok()?,
            causal,
        };
        let latent = shape.kind == Kind::MlaDecode;
        let sound = shape.hq.is_multiple_of(shape.hkv)
            && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
            && (!latent || (shape.dv <= shape.dqk && !causal))
            && shape.work().is_some();
        (sound && shape.id() == id).then_some(shape)
    }

    /// Elements of Q, K, V (0 for the absorbed form, whose V lies in K) and O.
    pub(crate) fn elements(self) -> [u64; 4] {
        let v = if self.kind == Kind::MlaDecode { 0 } else { self.b * self.hkv * self.sk * self.dv };
        [self.b * self.hq * self.sq * self.dqk, self.b * self.hkv * self.sk * self.dqk, v, self.b * self.hq * self.sq * self.dv]
    }

    /// Keys that query `i` sees.
    pub(crate) fn visible(self, i: u64) -> u64 {
        if self.causal { (i + self.sk + 1).saturating_sub(self.sq).min(self.sk) } else { self.sk }
    }

    /// Work by docs/conventions.md; None where a count does not fit.
    fn work(self) -> Option<Work> {
        // The sum of `visible` over the queries.
        let pairs = match (self.causal, self.sq <= self.sk) {
            (false, _) => self.sq.checked_mul(self.sk)?,
            (true, true) => self.sq.checked_mul(self.sk)? - self.sq.checked_mul(self.sq - 1)? / 2,
            (true, false) => self.sk.checked_mul(self.sk + 1)? / 2,
        };
        let flops = pairs.checked_mul(2 * (self.dqk + self.dv))?.checked_mul(self.b * self.hq)?;
        let bytes = self.elements().iter().map(|n| self.dtype.bytes(*n)).fold(Bytes(0), |a, b| a + b);
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
            shared_kv: self.kind == Kind::MlaDecode,
            dtype: self.dtype,
        }
    }
}

/// What an emulated GPU can do in a moment, and a CPU does too, so that the two can be compared.
const SMALL: &[&str] =
    &["prefill/b1hq2hkv2sq128sk128d64/f32/causal", "decode/b2hq8hkv2sq1sk512d64/f32", "mla-decode/b1hq8hkv1sq1sk256d576v512/f32"];

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let ids: &[&str] = match scope.class {
        Class::Cpu => &[
            "prefill/b1hq4hkv4sq1024sk1024d128/f32/causal",
            "prefill/b1hq8hkv2sq500sk1000d64/f32/causal",
            "prefill/b1hq2hkv2sq4096sk4096d128/f32",
            "prefill/b1hq4hkv4sq1024sk1024d128/bf16/causal",
            "decode/b4hq32hkv8sq1sk4096d128/f32",
            "decode/b4hq32hkv8sq1sk4096d128/bf16",
            "mla-prefill/b1hq4hkv4sq512sk512d192v128/f32/causal",
            "mla-decode/b4hq16hkv1sq1sk1024d576v512/f32",
        ],
        Class::SoftwareGpu => SMALL,
        Class::Gpu => &[
            "prefill/b1hq16hkv16sq16384sk16384d128/bf16",
            "prefill/b1hq16hkv16sq16384sk16384d128/bf16/causal",
            "prefill/b4hq16hkv16sq4096sk4096d128/bf16",
            "prefill/b4hq16hkv16sq4096sk4096d128/bf16/causal",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/causal",
            "decode/b128hq64hkv8sq1sk8192d128/bf16",
            "decode/b1hq64hkv8sq1sk131072d128/bf16",
            "mla-decode/b128hq128hkv1sq1sk8192d576v512/bf16",
        ],
    };
    let more: &[&str] = match (scope.profile, scope.class) {
        (Profile::Quick, _) | (_, Class::SoftwareGpu) => &[],
        (_, Class::Cpu) => &[
            "prefill/b1hq4hkv4sq1024sk1024d128/f32",
            "prefill/b1hq4hkv4sq4096sk4096d128/f32/causal",
            "decode/b1hq32hkv8sq1sk16384d128/f32",
            "prefill/b2hq8hkv8sq777sk777d64/bf16",
        ],
        (_, Class::Gpu) => &[
            "prefill/b1hq16hkv16sq16384sk16384d128/f16",
            "prefill/b1hq16hkv16sq16384sk16384d64/bf16/causal",
            "prefill/b16hq16hkv16sq1024sk1024d128/bf16/causal",
            "prefill/b1hq32hkv8sq512sk8192d128/bf16/causal",
            "decode/b16hq32hkv8sq1sk4096d128/bf16",
            "decode/b1hq32hkv8sq1sk2048d128/bf16",
            "mla-decode/b1hq128hkv1sq1sk65536d576v512/bf16",
        ],
    };
    let small = if scope.class == Class::Cpu { SMALL } else { &[] };
    let all = ids.iter().chain(more).chain(small).filter_map(|id| Shape::parse(&format!("attention/{id}")));
    all.filter(|s| s.elements().iter().sum::<u64>() * 4 < scope.memory.0 / 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shape() -> impl Strategy<Value = Shape> {
        let sizes = (1u64..200, 1u64..9, 1u64..65, 1u64..9000, 1u64..9000, 1u64..=1024, 1u64..=1024);
        let dtypes = prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]);
        let kinds = prop::sample::select(Kind::ALL.to_vec());
        (kinds, sizes, dtypes, prop::bool::ANY).prop_map(|(kind, (b, group, hkv, sq, sk, dqk, dv), dtype, causal)| {
            let latent = kind == Kind::MlaDecode;
            let (dqk, dv) = if latent { (dqk.max(dv), dqk.min(dv)) } else { (dqk, dv) };
            Shape { kind, b, hq: group * hkv, hkv, sq, sk, dqk, dv, dtype, causal: causal && !latent }
        })
    }

    proptest! {
        #[test]
        fn an_id_gives_its_shape_back_and_no_other(a in any_shape(), b in any_shape()) {
            prop_assert_eq!(Shape::parse(&a.id()), Some(a));
            prop_assert!(CaseId::new(a.id()).is_ok());
            prop_assert_eq!(a == b, a.id() == b.id());
            // Neighbours, which chance would hardly make.
            for near in [Shape { b: a.hq, hq: a.b, ..a }, Shape { sq: a.sk, sk: a.sq, ..a }, Shape { dv: a.dqk, ..a }] {
                prop_assert_eq!(a == near, a.id() == near.id());
            }
        }

        #[test]
        fn no_text_panics_the_parser(text in "(attention/(prefill|mla-decode)/b1hq)?[a-z0-9/]{0,40}") {
            if let Some(shape) = Shape::parse(&text) {
                prop_assert_eq!(shape.id(), text);
            }
        }
    }

    #[test]
    fn ids_are_canonical_and_bounded() {
        assert!(Shape::parse("attention/prefill/b1hq8hkv2sq5sk7d64/bf16/causal").is_some());
        for id in [
            "attention/prefill/b1hq8hkv3sq5sk7d64/bf16",
            "attention/prefill/b01hq8hkv2sq5sk7d64/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64v64/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64/i8",
            "attention/mla-decode/b1hq8hkv1sq1sk7d512v576/bf16",
            "attention/prefill/b1hq8hkv2sq5sk7d64/bf16/banded",
            "attention/prefill/b16384hq1024hkv1024sq4194304sk4194304d1024/f32",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    #[test]
    fn causal_work_counts_the_pairs_that_are_kept() {
        for (sq, sk) in [(4, 4), (3, 8), (8, 3), (1, 5)] {
            let shape = Shape::parse(&format!("attention/prefill/b2hq4hkv2sq{sq}sk{sk}d64/f32/causal")).unwrap();
            let pairs: u64 = (0..sq).map(|i| shape.visible(i)).sum();
            assert_eq!(shape.work().unwrap().flops.0, 4 * 64 * pairs * 2 * 4, "{sq}×{sk}");
        }
    }

    #[test]
    fn the_latent_is_read_once() {
        let work = Shape::parse("attention/mla-decode/b2hq16hkv1sq1sk100d576v512/bf16").unwrap().work().unwrap();
        assert_eq!(work.bytes.0, 2 * (2 * 100 * 576 + 2 * 16 * (576 + 512)));
        assert_eq!(work.flops.0, 2 * 2 * 16 * 100 * (576 + 512));
    }
}
