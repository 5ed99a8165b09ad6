//! The cases: shapes, their ids, and which of them a scope holds.

use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work};
use ridgepoint_device::Scaling;
use ridgepoint_harness::{Class, Profile, Scope};

/// Largest M, N or K of an id: what comes from a command line must not overflow the counts.
const LARGEST: u64 = 1 << 20;

/// A product, or a batch of equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Products, one behind the other in memory.
    pub(crate) batch: u64,
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    /// Class of A, and of B where [`Shape::b`] does not differ.
    pub(crate) dtype: Dtype,
    /// Class of B: another one than A's for the two kinds of FP8 alone.
    pub(crate) b: Dtype,
    /// Type of C.
    pub(crate) output: Dtype,
    pub(crate) scaling: Scaling,
    /// The values of A and B.
    pub(crate) data: Distribution,
}

/// The types in which C can be stored, the default first; empty where there is no product of this type.
const fn outputs(dtype: Dtype) -> &'static [Dtype] {
    match dtype {
        Dtype::F64 => &[Dtype::F64],
        Dtype::F32 | Dtype::Tf32 => &[Dtype::F32],
        Dtype::F16 => &[Dtype::F16, Dtype::F32],
        Dtype::Bf16 => &[Dtype::Bf16, Dtype::F32],
        Dtype::I8 => &[Dtype::I32],
        Dtype::E4m3 | Dtype::E5m2 | Dtype::Mxfp8 | Dtype::Mxfp4 | Dtype::Nvfp4 => &[Dtype::Bf16, Dtype::F16, Dtype::F32],
        Dtype::E4m3fnuz | Dtype::E5m2fnuz | Dtype::I32 | Dtype::E2m1 => &[],
    }
}

/// The scales that a type has where an id says nothing.
const fn scaling(dtype: Dtype) -> Scaling {
    match dtype {
        Dtype::E4m3 | Dtype::E5m2 => Scaling::Tensor,
        Dtype::Mxfp8 | Dtype::Mxfp4 => Scaling::Mx,
        Dtype::Nvfp4 => Scaling::Nvfp4,
        _ => Scaling::None,
    }
}

/// The words of ids for scales that are not the default: of FP8 alone.
const SCALES: [(&str, Scaling); 2] = [("row", Scaling::Row), ("block128", Scaling::Block128)];

const fn fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::E4m3 | Dtype::E5m2)
}

impl Shape {
    /// One product of a type, with the scales and the output that it has by default.
    pub(crate) fn new(m: u64, n: u64, k: u64, dtype: Dtype) -> Self {
        let output = outputs(dtype).first().copied().unwrap_or(dtype);
        Self { batch: 1, m, n, k, dtype, b: dtype, output, scaling: scaling(dtype), data: Distribution::Normal }
    }

    /// True for one product of a single type, its output and scales the default ones: what every kernel of ours can do.
    pub(crate) fn plain(self) -> bool {
        self == Self { data: self.data, ..Self::new(self.m, self.n, self.k, self.dtype) }
    }

    /// The type of C where an id says nothing.
    pub(crate) fn usual_output(self) -> Dtype {
        Self::new(1, 1, 1, self.dtype).output
    }

    /// The same product of normally distributed values.
    pub(crate) const fn of_normal(self) -> Self {
        Self { data: Distribution::Normal, ..self }
    }

    /// Its id.
    pub(crate) fn id(self) -> String {
        let Self { m, n, k, dtype, b, .. } = self;
        let usual = Self::new(m, n, k, dtype);
        let batch = if self.batch == 1 { String::new() } else { format!("b{}", self.batch) };
        let pair = if b == dtype { String::new() } else { format!("x{b}") };
        let output = if self.output == usual.output { String::new() } else { format!("/out={}", self.output) };
        let word = SCALES.iter().find(|(_, scaling)| *scaling == self.scaling);
        let scale = word.map_or_else(String::new, |(word, _)| format!("/scale={word}"));
        let data = if self.data == usual.data { String::new() } else { format!("/data={}", self.data.word()) };
        format!("gemm/{batch}m{m}n{n}k{k}/{dtype}{pair}{output}{scale}{data}")
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let mut segments = id.strip_prefix("gemm/")?.split('/');
        let (size, types) = (segments.next()?, segments.next()?);
        let number = |text: &str| text.parse::<u64>().ok().filter(|x| (1..=LARGEST).contains(x));
        let (batch, size) = size.split_once('m')?;
        let (m, rest) = size.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        let batch = if batch.is_empty() { 1 } else { number(batch.strip_prefix('b')?)? };
        let (dtype, b): (Dtype, Dtype) = match (types.parse(), types.split_once('x')) {
            (Ok(both), _) => (both, both),
            (Err(_), pair) => (pair?.0.parse().ok()?, pair?.1.parse().ok()?),
        };
        if outputs(dtype).is_empty() || (b != dtype && !(fp8(dtype) && fp8(b))) {
            return None;
        }
        let mut shape = Self { batch, b, ..Self::new(number(m)?, number(n)?, number(k)?, dtype) };
        // In this order: another one is no canonical spelling.
        for segment in segments {
            match segment.split_once('=')? {
                ("out", name) => shape.output = outputs(dtype).iter().copied().find(|d| d.name() == name)?,
                ("scale", word) if fp8(dtype) => shape.scaling = SCALES.iter().find(|(known, _)| *known == word)?.1,
                ("data", word) => shape.data = Distribution::of_word(word)?,
                _ => return None,
            }
        }
        (shape.id() == id && shape.counts()).then_some(shape)
    }

    /// True if no count of it overflows: operations, and bits of an operand.
    fn counts(self) -> bool {
        let product = |of: [u64; 4]| of.into_iter().map(u128::from).product::<u128>();
        let Self { batch, m, n, k, .. } = self;
        let largest = [product([batch, m, k, 1]), product([batch, n, k, 1]), product([batch, m, n, 1])];
        product([batch, m, n, k]) < 1 << 62 && largest.into_iter().all(|elements| elements < 1 << 56)
    }

    /// Elements of A, B and C, all products together.
    pub(crate) const fn elements(self) -> [u64; 3] {
        [self.batch * self.m * self.k, self.batch * self.n * self.k, self.batch * self.m * self.n]
    }

    /// The case of it: 2·M·N·K operations a product; A, B, their block scales and C once each (docs/conventions.md).
    pub(crate) fn case(self) -> Option<Case> {
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Gemm,
            dtype: self.dtype,
            metric: Metric::Arithmetic,
            level: Level::Dram,
            work: Work::arithmetic(Flops(2 * self.batch * self.m * self.n * self.k), self.operands()),
            cache: Cache::Cold,
            data: self.data,
        })
    }

    /// Bytes of one set of operands, scales of rows and blocks included.
    pub(crate) fn operands(self) -> Bytes {
        let [a, b, c] = self.elements();
        let blocks = |n: u64| n.div_ceil(128);
        let scales = match self.scaling {
            Scaling::Row => self.m + self.n,
            Scaling::Block128 => (self.m + blocks(self.n)) * blocks(self.k),
            // Those of the formats are counted with their elements; two numbers a product are none.
            Scaling::None | Scaling::Tensor | Scaling::Mx | Scaling::Nvfp4 => 0,
        };
        let elements = self.dtype.bytes(a) + self.b.bytes(b) + self.output.bytes(c);
        elements + Dtype::F32.bytes(self.batch * scales)
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
        Class::Cpu if quick => (cpu, cpu_more, &[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8]),
        Class::Cpu => (cpu, cpu_more, &[Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8, Dtype::F64]),
        Class::SoftwareGpu => (&[(256, 256, 256), (255, 257, 256)][..], &[(512, 512, 512)][..], &[Dtype::F32, Dtype::F16]),
        Class::Gpu if quick => (gpu, more, &[Dtype::Bf16, Dtype::F16, Dtype::E4m3, Dtype::I8, Dtype::Tf32]),
        Class::Gpu => {
            (gpu, more, &[Dtype::Bf16, Dtype::F16, Dtype::E4m3, Dtype::E5m2, Dtype::I8, Dtype::Tf32, Dtype::F32, Dtype::F64])
        }
    };
    let sizes = sizes.iter().chain(if quick { &[][..] } else { extra });
    let shapes = sizes.flat_map(|(m, n, k)| dtypes.iter().map(|dtype| Shape::new(*m, *n, *k, *dtype)));
    shapes.filter(|s| 3 * s.operands().0 < scope.memory.0 / 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_canonical_and_bounded() {
        for id in [
            "gemm/m1n2k3/bf16",
            "gemm/b16m1n2k3/bf16",
            "gemm/m1n2k3/bf16/out=f32",
            "gemm/m1n2k3/e4m3xe5m2",
            "gemm/b2m1n2k3/e5m2xe4m3/out=f16/scale=block128",
            "gemm/m1n2k3/e4m3/scale=row",
            "gemm/m1n2k64/mxfp8",
            "gemm/m1n2k64/mxfp4/out=f32",
            "gemm/m1n2k64/nvfp4",
            "gemm/m1n2k3/bf16/out=f32/data=trig",
            "gemm/m1n2k3/e4m3/scale=row/data=zeros",
        ] {
            assert_eq!(Shape::parse(id).unwrap().id(), id);
            assert_eq!(Shape::parse(id).unwrap().case().unwrap().id.as_str(), id);
        }
        for id in [
            "gemm/m01n2k3/bf16",
            "gemm/m0n2k3/bf16",
            "gemm/b0m1n2k3/bf16",
            "gemm/b1m1n2k3/bf16",
            "gemm/16m1n2k3/bf16",
            "gemm/m1n2k3/e4m3fnuz",
            "gemm/m1n2k3/e2m1",
            "gemm/m1n2k9999999999/f32",
            "gemm/b1048576m1048576n1048576k1048576/f32",
            "gemm/m1n2/f32",
            "gemm/m1n2k3/i32",
            "gemm/m1n2k3",
            "gemm/m1n2k3/bf16/out=bf16",
            "gemm/m1n2k3/i8/out=f32",
            "gemm/m1n2k3/bf16/scale=row",
            "gemm/m1n2k3/mxfp8/scale=row",
            "gemm/m1n2k3/e4m3/scale=row/out=f32",
            "gemm/m1n2k3/e4m3/scale=tensor",
            "gemm/m1n2k3/e4m3xe4m3",
            "gemm/m1n2k3/bf16xf16",
            "gemm/m1n2k3/bf16/",
            "gemm/m1n2k3/bf16/data=normal",
            "gemm/m1n2k3/bf16/data=given",
            "gemm/m1n2k3/bf16/data=zeros/out=f32",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    #[test]
    fn work_is_two_mnk_and_each_operand_once() {
        let work = |id: &str| {
            let work = Shape::parse(id).unwrap().case().unwrap().work;
            (work.flops, work.bytes)
        };
        assert_eq!(work("gemm/m2n3k4/e4m3"), (Flops(48), Bytes(8 + 12 + 2 * 6)));
        assert_eq!(work("gemm/b5m2n3k4/e4m3/out=f32"), (Flops(5 * 48), Bytes(5 * (8 + 12 + 4 * 6))));
        // Scales: a row; a 1×128 of A and a 128×128 of B; an E8M0 for 32; an E4M3 for 16.
        assert_eq!(work("gemm/m2n3k4/e4m3/scale=row").1, Bytes(8 + 12 + 12 + 4 * 5));
        assert_eq!(work("gemm/m2n129k256/e4m3/scale=block128").1, Bytes(512 + 129 * 256 + 2 * 258 + 4 * (2 * 2 + 2 * 2)));
        assert_eq!(work("gemm/m2n3k64/mxfp8").1, Bytes(2 * 66 + 3 * 66 + 12));
        assert_eq!(work("gemm/m2n3k64/nvfp4").1, Bytes(2 * 36 + 3 * 36 + 12));
    }
}
