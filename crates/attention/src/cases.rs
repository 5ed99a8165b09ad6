//! The cases: which shapes a scope holds.

use crate::shape::Shape;
use ridgepoint_harness::{Class, Profile, Scope};

/// What an emulated GPU can do in a moment, and a CPU does too, so that the two can be compared.
const SMALL: &[&str] =
    &["prefill/b1hq2hkv2sq128sk128d64/f32/causal", "decode/b2hq8hkv2sq1sk512d64/f32", "mla-decode/b1hq8hkv1sq1sk256d576v512/f32"];

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let all = ids(scope).into_iter().filter_map(|id| Shape::parse(&format!("attention/{id}")));
    all.filter(|s| s.elements().iter().sum::<u64>() * 4 < scope.memory.0 / 2).collect()
}

fn ids(scope: &Scope) -> Vec<&'static str> {
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
            "prefill/b1hq8hkv2sq2048sk2048d64/f32/causal/w128/sinks",
            "prefill/b1hq8hkv2sq256sk4096d128/f32/causal",
            "decode/b4hq32hkv8sq1sk4096d128/f32/page16",
            "decode/b4hq32hkv8sq1sk4096d128/bf16/kv=e4m3",
            "decode/b16hq32hkv8sq1sk2048d128/f32/page64/ragged",
        ],
        (_, Class::Gpu) => &[
            "prefill/b1hq16hkv16sq16384sk16384d128/f16",
            "prefill/b1hq16hkv16sq16384sk16384d64/bf16/causal",
            "prefill/b16hq16hkv16sq1024sk1024d128/bf16/causal",
            "prefill/b1hq32hkv8sq512sk8192d128/bf16/causal",
            "decode/b16hq32hkv8sq1sk4096d128/bf16",
            "decode/b1hq32hkv8sq1sk2048d128/bf16",
            "mla-decode/b1hq128hkv1sq1sk65536d576v512/bf16",
            "prefill/b1hq64hkv8sq8192sk8192d64/bf16/causal/w128/sinks",
            "prefill/b1hq64hkv8sq2048sk32768d128/bf16/causal",
            "decode/b128hq64hkv8sq1sk8192d128/bf16/page16",
            "decode/b128hq64hkv8sq1sk8192d128/bf16/kv=e4m3",
            "decode/b64hq64hkv8sq1sk8192d128/bf16/page64/ragged",
        ],
    };
    let every: &[&str] = match (scope.profile, scope.class) {
        (Profile::Full, Class::Cpu) => &[
            "prefill/b1hq4hkv4sq1024sk1024d96/f16/causal",
            "prefill/b1hq4hkv4sq1024sk1024d256/f32/causal",
            "prefill/b1hq4hkv4sq1024sk1024d128/e4m3/causal",
            "prefill/b3hq8hkv2sq512sk512d128/f32/causal/page16/ragged",
            "decode/b4hq64hkv8sq1sk4096d64/bf16/causal/w128/page16/sinks/ragged",
            "mla-decode/b4hq16hkv1sq1sk1024d576v512/f32/page64/ragged",
            "mla-decode/b4hq16hkv1sq2sk1024d576v512/f32/causal",
        ],
        (Profile::Full, Class::Gpu) => &[
            "prefill/b4hq16hkv16sq4096sk4096d96/bf16/causal",
            "prefill/b4hq16hkv16sq4096sk4096d256/bf16/causal",
            "prefill/b4hq16hkv16sq4096sk4096d128/e4m3",
            "prefill/b4hq16hkv16sq4096sk4096d128/e4m3/causal",
            "prefill/b1hq64hkv8sq2048sk8192d128/bf16/causal/page16",
            "prefill/b8hq64hkv8sq2048sk2048d128/bf16/causal/ragged",
            "mla-prefill/b1hq128hkv128sq4096sk4096d192v128/bf16/causal",
            "decode/b64hq64hkv8sq1sk8192d64/bf16/causal/w128/page16/sinks/ragged",
            "decode/b128hq64hkv8sq1sk8192d128/bf16/kv=e4m3/page64/ragged",
            "mla-decode/b64hq128hkv1sq1sk8192d576v512/bf16/page64/ragged",
            "mla-decode/b128hq128hkv1sq1sk8192d576v512/bf16/kv=e4m3/page64",
            "mla-decode/b64hq128hkv1sq2sk8192d576v512/bf16/causal/page64",
        ],
        _ => &[],
    };
    let small = if scope.class == Class::Cpu { SMALL } else { &[] };
    ids.iter().chain(more).chain(every).chain(small).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::Bytes;
    use ridgepoint_device::Device;
    use ridgepoint_device::cpu::CpuDevice;

    #[test]
    fn every_id_of_the_lists_is_one_and_listed_once() {
        let device = CpuDevice::open().unwrap();
        for class in [Class::Cpu, Class::SoftwareGpu, Class::Gpu] {
            let of = |profile| Scope { class, memory: Bytes(1 << 42), ..Scope::of(device.info(), profile, 1) };
            let full: std::collections::BTreeSet<&str> = ids(&of(Profile::Full)).into_iter().collect();
            for profile in [Profile::Quick, Profile::Standard, Profile::Full] {
                let (names, shapes) = (ids(&of(profile)), list(&of(profile)));
                assert_eq!(names.len(), shapes.len(), "an id that is none");
                let back: Vec<String> = shapes.iter().map(|s| s.id()).collect();
                assert!(back.iter().zip(&names).all(|(id, name)| *id == format!("attention/{name}")));
                assert!(names.iter().all(|name| full.contains(name)) && (names.len() == full.len() || profile != Profile::Full));
            }
        }
    }
}
