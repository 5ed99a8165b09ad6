//! The cases: shapes, their ids, and which of them a scope holds.

use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work};
use ridgepoint_harness::{Class, Profile, Scope};

/// Largest M, N or K of an id: what comes from a command line must not overflow the counts.
const LARGEST: u64 = 1 << 20;

/// One product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    pub(crate) dtype: Dtype,
}

impl Shape {
    /// The type of C.
    pub(crate) const fn output(self) -> Dtype {
        match self.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => self.dtype,
            Dtype::Tf32 => Dtype::F32,
            Dtype::I8 => Dtype::I32,
            _ => Dtype::Bf16,
        }
    }

    fn id(self) -> String {
        format!("gemm/m{}n{}k{}/{}", self.m, self.n, self.k, self.dtype)
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (size, dtype) = id.strip_prefix("gemm/")?.split_once('/')?;
        let (m, rest) = size.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|x| (1..=LARGEST).contains(x));
        let dtype: Dtype = dtype.parse().ok()?;
        if dtype.class() != dtype || dtype == Dtype::I32 {
            return None;
        }
        let shape = Self { m: number(m)?, n: number(n)?, k: number(k)?, dtype };
        (shape.id() == id).then_some(shape)
    }

    /// The case of it: 2·M·N·K operations; A, B and C once each (docs/conventions.md).
    pub(crate) fn case(self) -> Option<Case> {
        let bytes = self.dtype.bytes(self.m * self.k) + self.dtype.bytes(self.n * self.k) + self.output().bytes(self.m * self.n);
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Gemm,
            dtype: self.dtype,
            metric: Metric::Arithmetic,
            level: Level::Dram,
            work: Work::arithmetic(Flops(2 * self.m * self.n * self.k), bytes),
            cache: Cache::Cold,
            data: Distribution::Normal,
        })
    }

    /// Bytes of one set of operands.
    pub(crate) fn operands(self) -> Bytes {
        self.dtype.bytes(self.m * self.k) + self.dtype.bytes(self.n * self.k) + self.output().bytes(self.m * self.n)
    }
}

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let gpu: &[(u64, u64, u64)] = &[(4096, 4096, 4096), (8192, 8192, 8192), (64, 7168, 16384), (16, 8192, 8192)];
    let more: &[(u64, u64, u64)] =
        &[(16384, 8192, 8192), (4096, 14336, 4096), (2048, 2048, 2048), (1024, 1024, 1024), (1, 8192, 8192), (4095, 4097, 4096)];
    // The first is what an emulated GPU can do in a moment, so that the two can be compared.
    let cpu: &[(u64, u64, u64)] = &[(256, 256, 256), (1024, 1024, 1024), (2048, 2048, 2048), (16, 4096, 4096)];
    let cpu_more: &[(u64, u64, u64)] =
        &[(512, 512, 512), (1000, 1001, 1003), (4096, 4096, 4096), (1, 4096, 4096), (64, 4096, 4096)];
    let quick = scope.profile == Profile::Quick;
    let (sizes, extra, dtypes): (_, _, &[Dtype]) = match scope.class {
        Class::Cpu => (cpu, cpu_more, &[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8]),
        Class::SoftwareGpu => (&[(256, 256, 256), (255, 257, 256)][..], &[(512, 512, 512)][..], &[Dtype::F32, Dtype::F16]),
        Class::Gpu if quick => (gpu, more, &[Dtype::Bf16, Dtype::F16, Dtype::E4m3, Dtype::I8, Dtype::Tf32]),
        Class::Gpu => {
            (gpu, more, &[Dtype::Bf16, Dtype::F16, Dtype::E4m3, Dtype::E5m2, Dtype::I8, Dtype::Tf32, Dtype::F32, Dtype::F64])
        }
    };
    let sizes = sizes.iter().chain(if quick { &[][..] } else { extra });
    let shapes = sizes.flat_map(|(m, n, k)| dtypes.iter().map(|dtype| Shape { m: *m, n: *n, k: *k, dtype: *dtype }));
    shapes.filter(|s| 3 * s.operands().0 < scope.memory.0 / 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_canonical_and_bounded() {
        assert!(Shape::parse("gemm/m1n2k3/bf16").is_some());
        for id in [
            "gemm/m01n2k3/bf16",
            "gemm/m0n2k3/bf16",
            "gemm/m1n2k3/e4m3fnuz",
            "gemm/m1n2k9999999999/f32",
            "gemm/m1n2/f32",
            "gemm/m1n2k3/i32",
            "gemm/m1n2k3",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    #[test]
    fn work_is_two_mnk_and_each_operand_once() {
        let work = Shape { m: 2, n: 3, k: 4, dtype: Dtype::E4m3 }.case().unwrap().work;
        assert_eq!((work.flops, work.bytes), (Flops(48), Bytes(8 + 12 + 2 * 6)));
    }
}
