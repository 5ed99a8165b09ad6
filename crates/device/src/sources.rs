//! The kernels, in C++ and WGSL, embedded: one binary carries all sources and compiles what a device needs.

/// A header, by the name by which kernels include it.
type Header = (&'static str, &'static str);

/// The portable layer that every kernel includes.
const PORTABLE: Header = ("../common/rp.h", include_str!("../../../kernels/common/rp.h"));

/// The elements of plain kernels that do their arithmetic in f32.
const ELEMENTS: Header = ("../common/elements.h", include_str!("../../../kernels/common/elements.h"));

/// What kernels can include on HIP: the last two are for AMD's chips alone.
pub(crate) const HIP_HEADERS: &[Header] = &[
    PORTABLE,
    ELEMENTS,
    ("../common/amd.h", include_str!("../../../kernels/common/amd.h")),
    ("../common/attention_amd.h", include_str!("../../../kernels/common/attention_amd.h")),
];

/// What kernels can include on CUDA: those for NVIDIA's chips alone take one of the last ones instead of the first, attention and GEMM.
pub(crate) const CUDA_HEADERS: &[Header] = &[
    PORTABLE,
    ELEMENTS,
    ("../common/nvidia.h", include_str!("../../../kernels/common/nvidia.h")),
    ("../common/flash_sm90.h", include_str!("../../../kernels/common/flash_sm90.h")),
    ("hopper.h", include_str!("../../../kernels/gemm/hopper.h")),
];

/// Program names and sources.
const CPP: &[(&str, &str)] = &[
    ("attention/combine", include_str!("../../../kernels/attention/combine.cu")),
    ("attention/decode_amd", include_str!("../../../kernels/attention/decode_amd.cu")),
    ("attention/decode_splitkv", include_str!("../../../kernels/attention/decode_splitkv.cu")),
    ("attention/flash_amd", include_str!("../../../kernels/attention/flash_amd.cu")),
    ("attention/flash_cdna", include_str!("../../../kernels/attention/flash_cdna.cu")),
    ("attention/flash_fp8_sm90", include_str!("../../../kernels/attention/flash_fp8_sm90.cu")),
    ("attention/flash_portable", include_str!("../../../kernels/attention/flash_portable.cu")),
    ("attention/flash_sm80", include_str!("../../../kernels/attention/flash_sm80.cu")),
    ("attention/flash_sm90", include_str!("../../../kernels/attention/flash_sm90.cu")),
    ("attention/mla_decode_cdna", include_str!("../../../kernels/attention/mla_decode_cdna.cu")),
    ("attention/mla_decode_sm90", include_str!("../../../kernels/attention/mla_decode_sm90.cu")),
    ("attention/softmax", include_str!("../../../kernels/attention/softmax.cu")),
    ("collectives/check", include_str!("../../../kernels/collectives/check.cu")),
    ("common/arguments", include_str!("../../../kernels/common/arguments.cu")),
    ("common/clock", include_str!("../../../kernels/common/clock.cu")),
    ("common/differ", include_str!("../../../kernels/common/differ.cu")),
    ("common/init", include_str!("../../../kernels/common/init.cu")),
    ("gemm/combine", include_str!("../../../kernels/gemm/combine.cu")),
    ("gemm/gemv", include_str!("../../../kernels/gemm/gemv.cu")),
    ("gemm/matrix_amd", include_str!("../../../kernels/gemm/matrix_amd.cu")),
    ("gemm/mma_sm80", include_str!("../../../kernels/gemm/mma_sm80.cu")),
    ("gemm/tile", include_str!("../../../kernels/gemm/tile.cu")),
    ("gemm/wgmma_block_sm90", include_str!("../../../kernels/gemm/wgmma_block_sm90.cu")),
    ("gemm/wgmma_sm90", include_str!("../../../kernels/gemm/wgmma_sm90.cu")),
    ("launch/count", include_str!("../../../kernels/launch/count.cu")),
    ("memory/chase", include_str!("../../../kernels/memory/chase.cu")),
    ("memory/gather", include_str!("../../../kernels/memory/gather.cu")),
    ("memory/shared", include_str!("../../../kernels/memory/shared.cu")),
    ("memory/staircase", include_str!("../../../kernels/memory/staircase.cu")),
    ("memory/stream", include_str!("../../../kernels/memory/stream.cu")),
    ("memory/stream_bulk", include_str!("../../../kernels/memory/stream_bulk.cu")),
];

/// The CUDA and HIP C++ source of a program.
pub(crate) fn cpp(name: &str) -> Option<&'static str> {
    CPP.iter().find(|(program, _)| *program == name).map(|(_, source)| *source)
}

/// Names of all programs, for the test that compiles them.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CPP.iter().map(|(program, _)| *program)
}

/// What every WGSL program can use.
pub(crate) const WGSL_COMMON: &str = include_str!("../../../kernels/common/rp.wgsl");

/// Program names and WGSL sources.
const WGSL: &[(&str, &str)] = &[
    ("attention/flash", include_str!("../../../kernels/attention/flash.wgsl")),
    ("attention/materialised", include_str!("../../../kernels/attention/materialised.wgsl")),
    ("common/arguments", include_str!("../../../kernels/common/arguments.wgsl")),
    ("common/differ", include_str!("../../../kernels/common/differ.wgsl")),
    ("common/init", include_str!("../../../kernels/common/init.wgsl")),
    ("gemm/cooperative", include_str!("../../../kernels/gemm/cooperative.wgsl")),
    ("gemm/tiled", include_str!("../../../kernels/gemm/tiled.wgsl")),
    ("launch/count", include_str!("../../../kernels/launch/count.wgsl")),
    ("memory/chase", include_str!("../../../kernels/memory/chase.wgsl")),
    ("memory/shared", include_str!("../../../kernels/memory/shared.wgsl")),
    ("memory/staircase", include_str!("../../../kernels/memory/staircase.wgsl")),
    ("memory/stream", include_str!("../../../kernels/memory/stream.wgsl")),
];

/// The WGSL source of a program.
pub(crate) fn wgsl(name: &str) -> Option<&'static str> {
    WGSL.iter().find(|(program, _)| *program == name).map(|(_, source)| *source)
}

/// Names of all WGSL programs, for the test that compiles them.
#[cfg(test)]
pub(crate) fn wgsl_names() -> impl Iterator<Item = &'static str> {
    WGSL.iter().map(|(program, _)| *program)
}
