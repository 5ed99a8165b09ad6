//! The cases: which shapes a scope holds.

use crate::shape::Shape;
use ridgepoint_harness::{Class, Profile, Scope};

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
