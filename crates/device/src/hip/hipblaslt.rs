//! hipBLASLt's numbers, and how AMD's chips do each type.

use crate::gpu::matmul::{ComputeNumbers, Modes, Numbers};
use crate::{GemmProblem, ScaleOrder, Scaling, Support};
use ridgepoint_core::Dtype;

/// Since ROCm 6.1; before, compute types had numbers of their own. Attributes 102 and 103 were scales of vectors until 1.0 and
/// are arguments of an epilogue since: none of them is used here, the scalar scales (5 and 6) always were what they are.
pub(crate) const NUMBERS: Numbers = Numbers {
    prefix: "hipblasLt",
    name: "hipBLASLt",
    operation: [111, 112],
    trans_a: 0,
    trans_b: 1,
    a_scale: 5,
    b_scale: 6,
    a_scale_mode: 31,
    b_scale_mode: 32,
    fast_accum: None,
    batch_count: 0,
    batch_stride: 1,
    preference_workspace: 1,
    compute: ComputeNumbers { f32: 2, f64: 7, i32: 9, tf32: 6 },
    not_supported: 7,
    result_bytes: 56,
    workspace_at: 24,
    state_at: 32,
    describes: &[],
};

/// The oldest version whose compute and data types have these numbers (ROCm 6.1's).
const OLDEST: (u32, u32) = (0, 7);

/// Refuses a library that would misread what it is told.
pub(crate) fn fits(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(format!(
            "hipBLASLt {version} is older than ROCm 6.1's, whose numbers are used here: apt-get install --only-upgrade hipblaslt"
        )),
        _ => Ok(()),
    }
}

/// What scales are called; its header says of the rest of the modes that they are not supported yet.
pub(crate) fn modes(scaling: Scaling) -> Option<Modes> {
    let of = |mode, since| Some(Modes { modes: [mode; 2], orders: [ScaleOrder::Lines; 2], since });
    match scaling {
        Scaling::Tensor => of(0, OLDEST),
        Scaling::Row => of(3, (1, 0)),
        Scaling::Mx => of(2, (1, 0)),
        Scaling::None | Scaling::Block128 | Scaling::Nvfp4 => None,
    }
}

/// How a chip does a problem: by the type of each of its factors, and block scales on gfx950 and gfx1250 alone.
pub(crate) fn support(target: &str, problem: &GemmProblem) -> Result<Support, String> {
    let arch = target.split(':').next().unwrap_or_default();
    if problem.scaling == Scaling::Mx && !matches!(arch, "gfx950" | "gfx1250") {
        return Err(format!("{arch} has no block scales in its matrix units"));
    }
    let of_b = of_type(arch, problem.b.dtype.element())?;
    let of_a = of_type(arch, problem.a.dtype.element())?;
    Ok(if of_a == Support::Native { of_b } else { of_a })
}

/// How a chip does a type: FP8 is FNUZ on gfx94x and OCP on gfx950, gfx12 and gfx1250; tf32 is in hardware on gfx94x alone.
fn of_type(arch: &str, dtype: Dtype) -> Result<Support, String> {
    let fnuz = arch.starts_with("gfx94");
    let ocp = arch.starts_with("gfx95") || arch.starts_with("gfx12");
    match dtype {
        Dtype::E4m3fnuz | Dtype::E5m2fnuz if !fnuz => Err(format!("{arch} has no FP8 in the FNUZ encoding")),
        Dtype::E4m3 | Dtype::E5m2 if fnuz => Err(format!("{arch} has FP8 in the FNUZ encoding alone, not {dtype}")),
        Dtype::E4m3 | Dtype::E5m2 if !ocp => Err(format!("{arch} has no FP8")),
        // Where the library does it at all, as three products of bf16.
        Dtype::Tf32 if !fnuz => Ok(Support::Emulated),
        _ => Ok(Support::Native),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_other_numbers_is_refused() {
        assert!(fits("0.6.0").unwrap_err().contains("ROCm 6.1"));
        assert!(["0.7.0", "0.10.0", "1.2.2", "unknown"].iter().all(|version| fits(version).is_ok()));
    }

    #[test]
    fn each_chip_has_its_own_fp8() {
        let of = |dtype| GemmProblem::new(16, 16, 64, dtype, Dtype::Bf16);
        let native = |target: &str, dtype| support(target, &of(dtype)) == Ok(Support::Native);
        for (target, ocp, fnuz) in [
            ("gfx90a:sramecc+:xnack-", false, false),
            ("gfx942:sramecc+:xnack-", false, true),
            ("gfx950:sramecc+:xnack-", true, false),
            ("gfx1100", false, false),
            ("gfx1201", true, false),
            ("gfx1250", true, false),
        ] {
            for (dtype, has) in
                [(Dtype::E4m3, ocp), (Dtype::E5m2, ocp), (Dtype::E4m3fnuz, fnuz), (Dtype::E5m2fnuz, fnuz), (Dtype::Bf16, true)]
            {
                assert_eq!(native(target, dtype), has, "{target} {dtype}");
            }
        }
        assert_eq!(support("gfx950", &of(Dtype::Tf32)), Ok(Support::Emulated));
        assert!(native("gfx942:sramecc+:xnack-", Dtype::Tf32));
        let blocks = |dtype| GemmProblem { scaling: Scaling::Mx, ..of(dtype) };
        assert_eq!(support("gfx950", &blocks(Dtype::Mxfp4)), Ok(Support::Native));
        assert!(support("gfx942", &blocks(Dtype::Mxfp8)).unwrap_err().contains("no block scales"));
    }
}
