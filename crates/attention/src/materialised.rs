//! Materialised attention on NVIDIA's and AMD's GPUs, which flash attention is measured against: all scores by the vendor's matrix
//! library, their softmax by a kernel of ours (kernels/attention/softmax.cu; its host contract stands there), and the output by the
//! library again. The query heads that share a key head are rows of one product. Not yet run on AMD hardware.

use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use ridgepoint_core::{Backend, Bytes, Dtype};
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionPlan, Buffer, Device, DeviceError, GemmOperands, GemmPlan, GemmProblem, Geometry, Kernel,
    Matrix, Program, Result, Support, Transpose,
};
use std::collections::BTreeMap;

/// As on the other devices.
pub(crate) const PROVIDER: &str = "materialised";
/// Most bytes of scores: with more it would be the slowest part of a run by far, and nobody would learn anything from it.
const MOST_SCORES: u64 = 4 << 30;
/// The share of the device's memory that scores and weights may take.
const SHARE: u64 = 4;
/// Most keys in f16, whose least number is 6e-8: weights of more keys than that would be mostly rounding.
const MOST_OF_F16: u64 = 1 << 16;
/// Algorithms of each product that are tried, in all pairs, by the library's ranking.
const TRIED: usize = 3;
const THREADS: u32 = 256;
const MOST_BLOCKS: u64 = 1 << 20;

/// True where a device has a library for the products, and they are worth making.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    matches!(device.info().backend, Backend::Cuda | Backend::Hip) && offered(shape) && !device.blas().is_empty()
}

/// Dense attention in one type that a library multiplies, of few enough scores.
fn offered(shape: Shape) -> bool {
    shape.plain()
        && shape.kind != Kind::MlaDecode
        && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
        && (shape.dtype != Dtype::F16 || shape.sk <= MOST_OF_F16)
        && bytes(shape)[0] <= MOST_SCORES
}

/// Bytes of the scores, in f32, and of the weights, in the operands' type.
fn bytes(shape: Shape) -> [u64; 2] {
    let elements = [shape.hq, shape.sq, shape.sk].into_iter().fold(shape.b, u64::saturating_mul);
    [Dtype::F32, shape.dtype].map(|dtype| elements.saturating_mul(dtype.element_bytes().unwrap_or(4) as u64))
}

/// Refuses what would crowd out all else.
fn fit_into(shape: Shape, memory: Bytes) -> Result<()> {
    let [scores, weights] = bytes(shape);
    if scores.saturating_add(weights) <= memory.0 / SHARE {
        return Ok(());
    }
    let [scores, weights, memory] = [scores, weights, memory.0].map(|bytes| format!("{:.2} GB", bytes as f64 / 1e9));
    Err(DeviceError::unsupported(format!(
        "its scores take {scores} and its weights {weights}, together more than a quarter of this device's {memory}"
    )))
}

/// The two products: scores = Q·Kᵀ in f32, and O = weights·V.
fn products(shape: Shape) -> [GemmProblem; 2] {
    let [batch, m, sk, dqk, dv] =
        [shape.b * shape.hkv, shape.hq / shape.hkv * shape.sq, shape.sk, shape.dqk, shape.dv].map(|n| n as usize);
    let v = Matrix { dtype: shape.dtype, stored: Transpose::No };
    [
        GemmProblem { batch, ..GemmProblem::new(m, sk, dqk, shape.dtype, Dtype::F32) },
        GemmProblem { batch, b: v, ..GemmProblem::new(m, dv, sk, shape.dtype, shape.output()) },
    ]
}

/// Plans the products and compiles the softmax.
///
/// # Errors
/// `Unsupported` without a library, with its reason, or where scores and weights take too much memory; as [`Device::compile`] and
/// [`Device::alloc`].
pub(crate) fn plan<'d>(shape: Shape, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    fit_into(shape, device.info().memory)?;
    let blas = device.blas().into_iter().next().ok_or_else(|| DeviceError::unsupported("no GEMM library was found"))?;
    let [scores, values] = products(shape).map(|problem| blas.plan(&problem));
    let program = Program { name: "attention/softmax", ..Program::default() };
    let [of_scores, of_weights] = bytes(shape);
    Ok(Box::new(Plan {
        device,
        shape,
        library: blas.library().map_or_else(|| blas.provider().into(), |l| format!("{} {}", l.name, l.version)),
        products: [scores?, values?],
        softmax: device.compile(&program, &format!("rp_softmax_{}", shape.dtype))?,
        scores: device.alloc(of_scores as usize)?,
        weights: device.alloc(of_weights as usize)?,
    }))
}

struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    library: String,
    products: [Box<dyn GemmPlan>; 2],
    softmax: Kernel,
    scores: Buffer,
    weights: Buffer,
}

impl Plan<'_> {
    /// Algorithms that are tried of each product.
    fn tried(&self) -> [usize; 2] {
        [0, 1].map(|i| self.products[i].candidates().min(TRIED))
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let (s, rows) = (self.shape, self.shape.b * self.shape.hq * self.shape.sq);
        let args = [
            Arg::Buffer(&self.scores, 0),
            Arg::Buffer(&self.weights, 0),
            Arg::U64(rows),
            Arg::U32(s.sq as u32),
            Arg::U32(s.sk as u32),
            Arg::U32(u32::from(s.causal)),
            Arg::F32(scale(s)),
        ];
        self.products[0].enqueue(&GemmOperands::new(q, k, &self.scores))?;
        self.device.launch(&self.softmax, Geometry::linear(rows.min(MOST_BLOCKS) as u32, THREADS), &args)?;
        self.products[1].enqueue(&GemmOperands::new(&self.weights, v, o))
    }

    fn candidates(&self) -> usize {
        self.tried().into_iter().product()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        let [_, values] = self.tried();
        self.products[0].select(index / values)?;
        self.products[1].select(index % values)
    }

    fn support(&self) -> Support {
        let emulated = self.products.iter().map(|product| product.support()).find(|support| *support == Support::Emulated);
        emulated.unwrap_or(Support::Native)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let words = |product: &dyn GemmPlan| product.config().into_values().collect::<Vec<_>>().join(", ");
        BTreeMap::from([
            ("library".into(), self.library.clone()),
            ("product of scores".into(), words(self.products[0].as_ref())),
            ("product of values".into(), words(self.products[1].as_ref())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(id: &str) -> Shape {
        Shape::parse(&format!("attention/{id}")).unwrap()
    }

    #[test]
    fn plain_attention_of_few_scores_is_offered() {
        for id in [
            "prefill/b4hq16hkv16sq4096sk4096d128/bf16",
            "decode/b128hq64hkv8sq1sk8192d128/bf16",
            "mla-prefill/b1hq4hkv4sq512sk512d192v128/f16/causal",
        ] {
            assert!(offered(shape(id)), "{id}");
        }
        for id in [
            "prefill/b1hq16hkv16sq16384sk16384d128/bf16",
            "prefill/b16384hq1024hkv1sq4194304sk1d1/f32/causal",
            "prefill/b1hq2hkv1sq64sk64d64/bf16/causal/w8",
            "decode/b1hq8hkv1sq1sk131072d128/f16",
            "decode/b2hq8hkv1sq1sk64d128/bf16/page16",
            "mla-decode/b1hq8hkv1sq1sk256d576v512/f32",
        ] {
            assert!(!offered(shape(id)), "{id}");
        }
    }

    #[test]
    fn more_than_a_quarter_of_the_memory_is_refused_with_the_bytes() {
        let shape = shape("prefill/b1hq16hkv16sq4096sk4096d128/bf16");
        assert_eq!(bytes(shape), [1 << 30, 1 << 29]);
        fit_into(shape, Bytes(6 << 30)).unwrap();
        let refused = fit_into(shape, Bytes((6 << 30) - 4)).unwrap_err().to_string();
        assert!(
            refused.contains("1.07 GB and its weights 0.54 GB") && refused.contains("quarter of this device's 6.44 GB"),
            "{refused}"
        );
    }

    #[test]
    fn the_heads_of_a_group_are_rows_of_one_product() {
        let [scores, values] = products(shape("prefill/b3hq8hkv2sq5sk7d64v32/bf16"));
        assert_eq!((scores.batch, scores.m, scores.n, scores.k, scores.output), (6, 20, 7, 64, Dtype::F32));
        assert_eq!((values.batch, values.m, values.n, values.k, values.output), (6, 20, 32, 7, Dtype::Bf16));
        assert_eq!((scores.b.stored, values.b.stored), (Transpose::Yes, Transpose::No));
    }
}
