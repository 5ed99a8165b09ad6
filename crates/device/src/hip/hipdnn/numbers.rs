//! hipDNN's numbers, as ROCm 10's headers have them (projects/hipdnn/backend/include of ROCm/rocm-libraries). Its attributes are
//! cuDNN's by name and not by number. A test derives them from AMD's own listing in `rocm-bindings-libraries`, whose enumerators
//! stand in the headers' order; the diagonal's alignment alone is not in it.

use crate::gpu::dnn::Numbers;

/// What every operation of it takes. A tensor's alignment can be told since 1.3, and need not be.
pub(crate) const NUMBERS: Numbers = Numbers {
    prefix: "hipdnn",
    descriptor: class::DESCRIPTOR,
    tensor: kind::TENSOR,
    tensor_id: attribute::TENSOR_ID,
    tensor_type: attribute::TENSOR_TYPE,
    tensor_dimensions: attribute::TENSOR_DIMENSIONS,
    tensor_strides: attribute::TENSOR_STRIDES,
    tensor_alignment: None,
    pack: kind::VARIANT_PACK,
    pack_ids: attribute::PACK_IDS,
    pack_pointers: attribute::PACK_POINTERS,
    pack_workspace: attribute::PACK_WORKSPACE,
    f32: element::F32,
    i32: element::I32,
};

/// Descriptors, by what `hipdnnBackendCreateDescriptor` is asked for.
pub(super) mod kind {
    pub(crate) const ENGINE_CONFIG: i32 = 2;
    pub(crate) const HEURISTIC: i32 = 3;
    pub(crate) const PLAN: i32 = 4;
    pub(crate) const GRAPH: i32 = 10;
    pub(crate) const VARIANT_PACK: i32 = 11;
    pub(crate) const TENSOR: i32 = 14;
    pub(crate) const ATTENTION: i32 = 24;
}

/// What an attribute's value is made of, beyond what cuDNN numbers alike.
pub(super) mod class {
    pub(crate) const HEURISTIC_MODE: i32 = 7;
    pub(crate) const DESCRIPTOR: i32 = 13;
    pub(crate) const INT32: i32 = 18;
    pub(crate) const ALIGNMENT: i32 = 26;
}

/// Attributes.
pub(super) mod attribute {
    pub(crate) const HEURISTIC_MODE: i32 = 100;
    pub(crate) const HEURISTIC_GRAPH: i32 = 101;
    pub(crate) const HEURISTIC_RESULTS: i32 = 102;
    pub(crate) const CONFIG_ENGINE: i32 = 200;
    pub(crate) const PLAN_CONFIG: i32 = 301;
    pub(crate) const PLAN_WORKSPACE: i32 = 302;
    pub(crate) const GRAPH_HANDLE: i32 = 600;
    pub(crate) const GRAPH_OPERATIONS: i32 = 601;
    pub(crate) const GRAPH_COMPUTE: i32 = 604;
    pub(crate) const GRAPH_INTERMEDIATE: i32 = 605;
    pub(crate) const GRAPH_IO: i32 = 606;
    pub(crate) const PACK_IDS: i32 = 700;
    pub(crate) const PACK_POINTERS: i32 = 701;
    pub(crate) const PACK_WORKSPACE: i32 = 703;
    pub(crate) const ENGINE_INDEX: i32 = 1001;
    pub(crate) const TENSOR_ID: i32 = 1300;
    pub(crate) const TENSOR_TYPE: i32 = 1302;
    pub(crate) const TENSOR_DIMENSIONS: i32 = 1303;
    pub(crate) const TENSOR_STRIDES: i32 = 1304;
    pub(crate) const ATTENTION_Q: i32 = 2600;
    pub(crate) const ATTENTION_K: i32 = 2601;
    pub(crate) const ATTENTION_V: i32 = 2602;
    pub(crate) const ATTENTION_O: i32 = 2603;
    pub(crate) const ATTENTION_LENGTHS_Q: i32 = 2606;
    pub(crate) const ATTENTION_LENGTHS_KV: i32 = 2607;
    pub(crate) const ATTENTION_PAGES_K: i32 = 2612;
    pub(crate) const ATTENTION_PAGES_V: i32 = 2613;
    pub(crate) const ATTENTION_SINKS: i32 = 2615;
    pub(crate) const ATTENTION_DESCALE_Q: i32 = 2616;
    pub(crate) const ATTENTION_DESCALE_K: i32 = 2617;
    pub(crate) const ATTENTION_DESCALE_V: i32 = 2618;
    pub(crate) const ATTENTION_PADDED: i32 = 2630;
    pub(crate) const ATTENTION_SCALE: i32 = 2634;
    pub(crate) const ATTENTION_LEFT: i32 = 2635;
    pub(crate) const ATTENTION_RIGHT: i32 = 2636;
    pub(crate) const ATTENTION_MOST_KEYS: i32 = 2637;
    pub(crate) const ATTENTION_ALIGNMENT: i32 = 2638;
    pub(crate) const ATTENTION_COMPUTE: i32 = 2641;
}

/// Element types.
pub(super) mod element {
    pub(crate) const F32: i32 = 0;
    pub(crate) const F16: i32 = 2;
    pub(crate) const I32: i32 = 4;
    pub(crate) const BF16: i32 = 6;
    pub(crate) const E4M3: i32 = 7;
    pub(crate) const E5M2: i32 = 8;
    pub(crate) const E4M3_FNUZ: i32 = 16;
    pub(crate) const E5M2_FNUZ: i32 = 17;
}

/// The one way to rank engines.
pub(super) const FALLBACK: i32 = 0;

/// Where a mask's diagonal ends: in the last query's last key.
pub(super) const BOTTOM_RIGHT: i32 = 1;

/// Answers for what is not taken: parameters, and problems that it has not.
pub(super) const REFUSALS: std::ops::RangeInclusive<i32> = 2..=8;

#[cfg(test)]
pub(in super::super) mod tests {
    use super::{attribute as a, class as c, element as e, kind as k};
    use crate::gpu::dnn::class as shared;

    /// A number, its enumerator less `HIPDNN_`, and the first enumerator of its range.
    type Named = (i32, &'static str, &'static str);

    /// Attributes, by range: as AMD's listing describes it, and its first.
    pub(in super::super::super) const RANGES: &[(&str, &str)] = &[
        ("Engine heuristic attributes", "ATTR_ENGINEHEUR_MODE"),
        ("Engine configuration attributes", "ATTR_ENGINECFG_ENGINE"),
        ("Execution plan attributes", "ATTR_EXECUTION_PLAN_HANDLE"),
        ("Operation graph attributes", "ATTR_OPERATIONGRAPH_HANDLE"),
        ("Variant pack attributes", "ATTR_VARIANT_PACK_UNIQUE_IDS"),
        ("Engine attributes", "ATTR_ENGINE_OPERATION_GRAPH"),
        ("Tensor attributes", "ATTR_TENSOR_UNIQUE_ID"),
        ("SDPA forward propagation operation attributes", "ATTR_OPERATION_SDPA_FWD_QDESC"),
    ];

    pub(in super::super::super) const ATTRIBUTES: &[Named] = &[
        (a::HEURISTIC_MODE, "ATTR_ENGINEHEUR_MODE", RANGES[0].1),
        (a::HEURISTIC_GRAPH, "ATTR_ENGINEHEUR_OPERATION_GRAPH", RANGES[0].1),
        (a::HEURISTIC_RESULTS, "ATTR_ENGINEHEUR_RESULTS", RANGES[0].1),
        (a::CONFIG_ENGINE, "ATTR_ENGINECFG_ENGINE", RANGES[1].1),
        (a::PLAN_CONFIG, "ATTR_EXECUTION_PLAN_ENGINE_CONFIG", RANGES[2].1),
        (a::PLAN_WORKSPACE, "ATTR_EXECUTION_PLAN_WORKSPACE_SIZE", RANGES[2].1),
        (a::GRAPH_HANDLE, "ATTR_OPERATIONGRAPH_HANDLE", RANGES[3].1),
        (a::GRAPH_OPERATIONS, "ATTR_OPERATIONGRAPH_OPS", RANGES[3].1),
        (a::GRAPH_COMPUTE, "ATTR_OPERATIONGRAPH_COMPUTE_DATA_TYPE_EXT", RANGES[3].1),
        (a::GRAPH_INTERMEDIATE, "ATTR_OPERATIONGRAPH_INTERMEDIATE_DATA_TYPE_EXT", RANGES[3].1),
        (a::GRAPH_IO, "ATTR_OPERATIONGRAPH_IO_DATA_TYPE_EXT", RANGES[3].1),
        (a::PACK_IDS, "ATTR_VARIANT_PACK_UNIQUE_IDS", RANGES[4].1),
        (a::PACK_POINTERS, "ATTR_VARIANT_PACK_DATA_POINTERS", RANGES[4].1),
        (a::PACK_WORKSPACE, "ATTR_VARIANT_PACK_WORKSPACE", RANGES[4].1),
        (a::ENGINE_INDEX, "ATTR_ENGINE_GLOBAL_INDEX", RANGES[5].1),
        (a::TENSOR_ID, "ATTR_TENSOR_UNIQUE_ID", RANGES[6].1),
        (a::TENSOR_TYPE, "ATTR_TENSOR_DATA_TYPE", RANGES[6].1),
        (a::TENSOR_DIMENSIONS, "ATTR_TENSOR_DIMENSIONS", RANGES[6].1),
        (a::TENSOR_STRIDES, "ATTR_TENSOR_STRIDES", RANGES[6].1),
        (a::ATTENTION_Q, "ATTR_OPERATION_SDPA_FWD_QDESC", RANGES[7].1),
        (a::ATTENTION_K, "ATTR_OPERATION_SDPA_FWD_KDESC", RANGES[7].1),
        (a::ATTENTION_V, "ATTR_OPERATION_SDPA_FWD_VDESC", RANGES[7].1),
        (a::ATTENTION_O, "ATTR_OPERATION_SDPA_FWD_ODESC", RANGES[7].1),
        (a::ATTENTION_LENGTHS_Q, "ATTR_OPERATION_SDPA_FWD_SEQ_LEN_QDESC", RANGES[7].1),
        (a::ATTENTION_LENGTHS_KV, "ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC", RANGES[7].1),
        (a::ATTENTION_PAGES_K, "ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_KDESC", RANGES[7].1),
        (a::ATTENTION_PAGES_V, "ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_VDESC", RANGES[7].1),
        (a::ATTENTION_SINKS, "ATTR_OPERATION_SDPA_FWD_SINK_TOKEN_EXT", RANGES[7].1),
        (a::ATTENTION_DESCALE_Q, "ATTR_OPERATION_SDPA_FWD_DESCALE_Q_EXT", RANGES[7].1),
        (a::ATTENTION_DESCALE_K, "ATTR_OPERATION_SDPA_FWD_DESCALE_K_EXT", RANGES[7].1),
        (a::ATTENTION_DESCALE_V, "ATTR_OPERATION_SDPA_FWD_DESCALE_V_EXT", RANGES[7].1),
        (a::ATTENTION_PADDED, "ATTR_SDPA_FWD_PADDING_MASK_EXT", RANGES[7].1),
        (a::ATTENTION_SCALE, "ATTR_SDPA_FWD_ATTN_SCALE_VALUE_EXT", RANGES[7].1),
        (a::ATTENTION_LEFT, "ATTR_SDPA_FWD_LEFT_BOUND_EXT", RANGES[7].1),
        (a::ATTENTION_RIGHT, "ATTR_SDPA_FWD_RIGHT_BOUND_EXT", RANGES[7].1),
        (a::ATTENTION_MOST_KEYS, "ATTR_SDPA_FWD_MAX_SEQ_LEN_KV_EXT", RANGES[7].1),
        (a::ATTENTION_ALIGNMENT, "ATTR_SDPA_FWD_DIAGONAL_ALIGNMENT_EXT", RANGES[7].1),
        (a::ATTENTION_COMPUTE, "ATTR_SDPA_FWD_COMP_TYPE_EXT", RANGES[7].1),
    ];

    /// Enumerators that count from 0 without a gap.
    pub(in super::super::super) const OTHERS: &[Named] = &[
        (k::ENGINE_CONFIG, "BACKEND_ENGINECFG_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::HEURISTIC, "BACKEND_ENGINEHEUR_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::PLAN, "BACKEND_EXECUTION_PLAN_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::GRAPH, "BACKEND_OPERATIONGRAPH_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::VARIANT_PACK, "BACKEND_VARIANT_PACK_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::TENSOR, "BACKEND_TENSOR_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (k::ATTENTION, "BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR", "INVALID_TYPE_EXT"),
        (shared::HANDLE, "TYPE_HANDLE", "TYPE_HANDLE"),
        (shared::DATA_TYPE, "TYPE_DATA_TYPE", "TYPE_HANDLE"),
        (shared::BOOLEAN, "TYPE_BOOLEAN", "TYPE_HANDLE"),
        (shared::INT64, "TYPE_INT64", "TYPE_HANDLE"),
        (shared::FLOAT, "TYPE_FLOAT", "TYPE_HANDLE"),
        (shared::POINTER, "TYPE_VOID_PTR", "TYPE_HANDLE"),
        (c::HEURISTIC_MODE, "TYPE_HEUR_MODE", "TYPE_HANDLE"),
        (c::DESCRIPTOR, "TYPE_BACKEND_DESCRIPTOR", "TYPE_HANDLE"),
        (c::INT32, "TYPE_INT32", "TYPE_HANDLE"),
        (c::ALIGNMENT, "TYPE_DIAGONAL_ALIGNMENT_EXT", "TYPE_HANDLE"),
        (e::F32, "DATA_FLOAT", "DATA_FLOAT"),
        (e::F16, "DATA_HALF", "DATA_FLOAT"),
        (e::I32, "DATA_INT32", "DATA_FLOAT"),
        (e::BF16, "DATA_BFLOAT16", "DATA_FLOAT"),
        (e::E4M3, "DATA_FP8_E4M3", "DATA_FLOAT"),
        (e::E5M2, "DATA_FP8_E5M2", "DATA_FLOAT"),
        (e::E4M3_FNUZ, "DATA_FP8_E4M3_FNUZ", "DATA_FLOAT"),
        (e::E5M2_FNUZ, "DATA_FP8_E5M2_FNUZ", "DATA_FLOAT"),
        (super::FALLBACK, "HEUR_MODE_FALLBACK", "HEUR_MODE_FALLBACK"),
        (*super::REFUSALS.start(), "STATUS_BAD_PARAM", "STATUS_SUCCESS"),
        (*super::REFUSALS.end(), "STATUS_NOT_SUPPORTED", "STATUS_SUCCESS"),
    ];
}
