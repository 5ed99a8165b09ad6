//! cuDNN's numbers, as its headers have them (9.28's cudnn_graph.h; none has changed since it came). Two tests compare them: one
//! with generated bindings, as far as those go, and one with the header itself where it lies beside the library.

use crate::gpu::dnn::Numbers;

/// What every operation of it takes.
pub(crate) const NUMBERS: Numbers = Numbers {
    prefix: "cudnn",
    descriptor: class::DESCRIPTOR,
    tensor: kind::TENSOR,
    tensor_id: attribute::TENSOR_ID,
    tensor_type: attribute::TENSOR_TYPE,
    tensor_dimensions: attribute::TENSOR_DIMENSIONS,
    tensor_strides: attribute::TENSOR_STRIDES,
    tensor_alignment: Some(attribute::TENSOR_ALIGNMENT),
    pack: kind::VARIANT_PACK,
    pack_ids: attribute::PACK_IDS,
    pack_pointers: attribute::PACK_POINTERS,
    pack_workspace: attribute::PACK_WORKSPACE,
    f32: element::F32,
    i32: element::I32,
};

/// Descriptors, by what `cudnnBackendCreateDescriptor` is asked for.
pub(super) mod kind {
    pub(crate) const ENGINE: i32 = 2;
    pub(crate) const ENGINE_CONFIG: i32 = 3;
    pub(crate) const HEURISTIC: i32 = 4;
    pub(crate) const PLAN: i32 = 5;
    pub(crate) const KNOB: i32 = 7;
    pub(crate) const GRAPH: i32 = 15;
    pub(crate) const VARIANT_PACK: i32 = 16;
    pub(crate) const TENSOR: i32 = 17;
    #[cfg(test)]
    pub(crate) const DEVICE_PROPERTIES: i32 = 38;
    pub(crate) const ATTENTION: i32 = 41;
    pub(crate) const BAND_MASK: i32 = 44;
    pub(crate) const SOFTMAX: i32 = 45;
}

/// What an attribute's value is made of, beyond what hipDNN numbers alike.
pub(super) mod class {
    pub(crate) const HEURISTIC_MODE: i32 = 8;
    pub(crate) const KNOB_TYPE: i32 = 9;
    pub(crate) const POINTWISE_MODE: i32 = 14;
    pub(crate) const DESCRIPTOR: i32 = 15;
    #[cfg(test)]
    pub(crate) const CHAR: i32 = 24;
}

/// Attributes.
pub(super) mod attribute {
    pub(crate) const HEURISTIC_MODE: i32 = 200;
    pub(crate) const HEURISTIC_GRAPH: i32 = 201;
    pub(crate) const HEURISTIC_RESULTS: i32 = 202;
    #[cfg(test)]
    pub(crate) const HEURISTIC_DEVICE: i32 = 204;
    pub(crate) const CONFIG_ENGINE: i32 = 300;
    pub(crate) const CONFIG_KNOBS: i32 = 302;
    pub(crate) const PLAN_HANDLE: i32 = 400;
    pub(crate) const PLAN_CONFIG: i32 = 401;
    pub(crate) const PLAN_WORKSPACE: i32 = 402;
    #[cfg(test)]
    pub(crate) const PLAN_DEVICE: i32 = 407;
    pub(crate) const KNOB_TYPE: i32 = 600;
    pub(crate) const KNOB_VALUE: i32 = 601;
    pub(crate) const GRAPH_HANDLE: i32 = 800;
    pub(crate) const GRAPH_OPERATIONS: i32 = 801;
    pub(crate) const TENSOR_ALIGNMENT: i32 = 900;
    pub(crate) const TENSOR_TYPE: i32 = 901;
    pub(crate) const TENSOR_DIMENSIONS: i32 = 902;
    pub(crate) const TENSOR_STRIDES: i32 = 903;
    pub(crate) const TENSOR_ID: i32 = 906;
    pub(crate) const TENSOR_VIRTUAL: i32 = 907;
    pub(crate) const TENSOR_BY_VALUE: i32 = 908;
    pub(crate) const PACK_IDS: i32 = 1000;
    pub(crate) const PACK_POINTERS: i32 = 1001;
    pub(crate) const PACK_WORKSPACE: i32 = 1003;
    pub(crate) const ENGINE_INDEX: i32 = 1301;
    #[cfg(test)]
    pub(crate) const DEVICE_JSON: i32 = 2702;
    pub(crate) const ATTENTION_Q: i32 = 2800;
    pub(crate) const ATTENTION_K: i32 = 2801;
    pub(crate) const ATTENTION_V: i32 = 2802;
    pub(crate) const ATTENTION_O: i32 = 2803;
    pub(crate) const ATTENTION_SCALE: i32 = 2805;
    pub(crate) const ATTENTION_PAGES_K: i32 = 2807;
    pub(crate) const ATTENTION_PAGES_V: i32 = 2808;
    pub(crate) const ATTENTION_LENGTHS_Q: i32 = 2809;
    pub(crate) const ATTENTION_LENGTHS_KV: i32 = 2810;
    pub(crate) const ATTENTION_SUBGRAPH: i32 = 2811;
    pub(crate) const ATTENTION_SUBGRAPH_INPUT: i32 = 2812;
    pub(crate) const ATTENTION_SUBGRAPH_OUTPUT: i32 = 2813;
    pub(crate) const ATTENTION_SOFTMAX: i32 = 2814;
    pub(crate) const ATTENTION_DESCALE_Q: i32 = 2822;
    pub(crate) const ATTENTION_DESCALE_K: i32 = 2823;
    pub(crate) const ATTENTION_DESCALE_V: i32 = 2824;
    pub(crate) const ATTENTION_DESCALE_S: i32 = 2825;
    pub(crate) const ATTENTION_SCALE_S: i32 = 2826;
    pub(crate) const ATTENTION_SCALE_O: i32 = 2827;
    pub(crate) const ATTENTION_AMAX_O: i32 = 2829;
    pub(crate) const BAND_X: i32 = 3000;
    pub(crate) const BAND_LENGTHS_KV: i32 = 3001;
    pub(crate) const BAND_LENGTHS_Q: i32 = 3002;
    pub(crate) const BAND_LEFT: i32 = 3003;
    pub(crate) const BAND_FILL: i32 = 3005;
    pub(crate) const BAND_Y: i32 = 3006;
    pub(crate) const BAND_COMPARISON: i32 = 3007;
    pub(crate) const SOFTMAX_X: i32 = 3100;
    pub(crate) const SOFTMAX_Y: i32 = 3101;
    pub(crate) const SOFTMAX_SINK: i32 = 3105;
}

/// Element types.
pub(super) mod element {
    pub(crate) const F32: i32 = 0;
    pub(crate) const F16: i32 = 2;
    pub(crate) const I32: i32 = 4;
    pub(crate) const BF16: i32 = 9;
    pub(crate) const E4M3: i32 = 12;
    pub(crate) const E5M2: i32 = 13;
}

/// Comparisons of a band mask.
pub(super) const GREATER: i32 = 302;
pub(super) const GREATER_OR_EQUAL: i32 = 303;

/// Ways to rank engines: a decision tree, a network, and what always works.
pub(super) const MODES: [i32; 3] = [3, 1, 2];

/// What knobs are called, of those that attention's engines have.
pub(super) fn knob(kind: i32) -> String {
    match kind {
        24 => "kernel".into(),
        27 => "cluster".into(),
        38 => "stream-k".into(),
        40 => "tile m".into(),
        41 => "tile n".into(),
        other => format!("knob {other}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::dnn::class as shared;

    /// Each number with its name in the header, less its `CUDNN_`.
    pub(in super::super) const NAMED: &[(i32, &str)] = &[
        (kind::ENGINE, "BACKEND_ENGINE_DESCRIPTOR"),
        (kind::ENGINE_CONFIG, "BACKEND_ENGINECFG_DESCRIPTOR"),
        (kind::HEURISTIC, "BACKEND_ENGINEHEUR_DESCRIPTOR"),
        (kind::PLAN, "BACKEND_EXECUTION_PLAN_DESCRIPTOR"),
        (kind::KNOB, "BACKEND_KNOB_CHOICE_DESCRIPTOR"),
        (kind::GRAPH, "BACKEND_OPERATIONGRAPH_DESCRIPTOR"),
        (kind::VARIANT_PACK, "BACKEND_VARIANT_PACK_DESCRIPTOR"),
        (kind::TENSOR, "BACKEND_TENSOR_DESCRIPTOR"),
        (kind::DEVICE_PROPERTIES, "BACKEND_DEVICEPROP_DESCRIPTOR"),
        (kind::ATTENTION, "BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR"),
        (kind::BAND_MASK, "BACKEND_OPERATION_DIAGONAL_BAND_MASK_DESCRIPTOR"),
        (kind::SOFTMAX, "BACKEND_OPERATION_SOFTMAX_DESCRIPTOR"),
        (shared::HANDLE, "TYPE_HANDLE"),
        (shared::DATA_TYPE, "TYPE_DATA_TYPE"),
        (shared::BOOLEAN, "TYPE_BOOLEAN"),
        (shared::INT64, "TYPE_INT64"),
        (shared::FLOAT, "TYPE_FLOAT"),
        (shared::POINTER, "TYPE_VOID_PTR"),
        (class::HEURISTIC_MODE, "TYPE_HEUR_MODE"),
        (class::KNOB_TYPE, "TYPE_KNOB_TYPE"),
        (class::POINTWISE_MODE, "TYPE_POINTWISE_MODE"),
        (class::DESCRIPTOR, "TYPE_BACKEND_DESCRIPTOR"),
        (class::CHAR, "TYPE_CHAR"),
        (attribute::HEURISTIC_MODE, "ATTR_ENGINEHEUR_MODE"),
        (attribute::HEURISTIC_GRAPH, "ATTR_ENGINEHEUR_OPERATION_GRAPH"),
        (attribute::HEURISTIC_RESULTS, "ATTR_ENGINEHEUR_RESULTS"),
        (attribute::HEURISTIC_DEVICE, "ATTR_ENGINEHEUR_DEVICEPROP"),
        (attribute::CONFIG_ENGINE, "ATTR_ENGINECFG_ENGINE"),
        (attribute::CONFIG_KNOBS, "ATTR_ENGINECFG_KNOB_CHOICES"),
        (attribute::PLAN_HANDLE, "ATTR_EXECUTION_PLAN_HANDLE"),
        (attribute::PLAN_CONFIG, "ATTR_EXECUTION_PLAN_ENGINE_CONFIG"),
        (attribute::PLAN_WORKSPACE, "ATTR_EXECUTION_PLAN_WORKSPACE_SIZE"),
        (attribute::PLAN_DEVICE, "ATTR_EXECUTION_PLAN_DEVICEPROP"),
        (attribute::KNOB_TYPE, "ATTR_KNOB_CHOICE_KNOB_TYPE"),
        (attribute::KNOB_VALUE, "ATTR_KNOB_CHOICE_KNOB_VALUE"),
        (attribute::GRAPH_HANDLE, "ATTR_OPERATIONGRAPH_HANDLE"),
        (attribute::GRAPH_OPERATIONS, "ATTR_OPERATIONGRAPH_OPS"),
        (attribute::TENSOR_ALIGNMENT, "ATTR_TENSOR_BYTE_ALIGNMENT"),
        (attribute::TENSOR_TYPE, "ATTR_TENSOR_DATA_TYPE"),
        (attribute::TENSOR_DIMENSIONS, "ATTR_TENSOR_DIMENSIONS"),
        (attribute::TENSOR_STRIDES, "ATTR_TENSOR_STRIDES"),
        (attribute::TENSOR_ID, "ATTR_TENSOR_UNIQUE_ID"),
        (attribute::TENSOR_VIRTUAL, "ATTR_TENSOR_IS_VIRTUAL"),
        (attribute::TENSOR_BY_VALUE, "ATTR_TENSOR_IS_BY_VALUE"),
        (attribute::PACK_IDS, "ATTR_VARIANT_PACK_UNIQUE_IDS"),
        (attribute::PACK_POINTERS, "ATTR_VARIANT_PACK_DATA_POINTERS"),
        (attribute::PACK_WORKSPACE, "ATTR_VARIANT_PACK_WORKSPACE"),
        (attribute::ENGINE_INDEX, "ATTR_ENGINE_GLOBAL_INDEX"),
        (attribute::DEVICE_JSON, "ATTR_DEVICEPROP_JSON_REPRESENTATION"),
        (attribute::ATTENTION_Q, "ATTR_OPERATION_SDPA_FWD_QDESC"),
        (attribute::ATTENTION_K, "ATTR_OPERATION_SDPA_FWD_KDESC"),
        (attribute::ATTENTION_V, "ATTR_OPERATION_SDPA_FWD_VDESC"),
        (attribute::ATTENTION_O, "ATTR_OPERATION_SDPA_FWD_ODESC"),
        (attribute::ATTENTION_SCALE, "ATTR_OPERATION_SDPA_FWD_SCALEDESC"),
        (attribute::ATTENTION_PAGES_K, "ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_KDESC"),
        (attribute::ATTENTION_PAGES_V, "ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_VDESC"),
        (attribute::ATTENTION_LENGTHS_Q, "ATTR_OPERATION_SDPA_FWD_SEQ_LEN_QDESC"),
        (attribute::ATTENTION_LENGTHS_KV, "ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC"),
        (attribute::ATTENTION_SUBGRAPH, "ATTR_OPERATION_SDPA_FWD_SUBGRAPH"),
        (attribute::ATTENTION_SUBGRAPH_INPUT, "ATTR_OPERATION_SDPA_FWD_SUBGRAPH_INPUT_UID"),
        (attribute::ATTENTION_SUBGRAPH_OUTPUT, "ATTR_OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID"),
        (attribute::ATTENTION_SOFTMAX, "ATTR_OPERATION_SDPA_FWD_SOFTMAX_DESC"),
        (attribute::ATTENTION_DESCALE_Q, "ATTR_OPERATION_SDPA_FWD_DESCALE_QDESC"),
        (attribute::ATTENTION_DESCALE_K, "ATTR_OPERATION_SDPA_FWD_DESCALE_KDESC"),
        (attribute::ATTENTION_DESCALE_V, "ATTR_OPERATION_SDPA_FWD_DESCALE_VDESC"),
        (attribute::ATTENTION_DESCALE_S, "ATTR_OPERATION_SDPA_FWD_DESCALE_SDESC"),
        (attribute::ATTENTION_SCALE_S, "ATTR_OPERATION_SDPA_FWD_SCALE_SDESC"),
        (attribute::ATTENTION_SCALE_O, "ATTR_OPERATION_SDPA_FWD_SCALE_ODESC"),
        (attribute::ATTENTION_AMAX_O, "ATTR_OPERATION_SDPA_FWD_AMAX_ODESC"),
        (attribute::BAND_X, "ATTR_OPERATION_DIAGONAL_BAND_MASK_XDESC"),
        (attribute::BAND_LENGTHS_KV, "ATTR_OPERATION_DIAGONAL_BAND_MASK_SEQ_LEN_KVDESC"),
        (attribute::BAND_LENGTHS_Q, "ATTR_OPERATION_DIAGONAL_BAND_MASK_SEQ_LEN_QDESC"),
        (attribute::BAND_LEFT, "ATTR_OPERATION_DIAGONAL_BAND_MASK_LEFT_BOUND_DESC"),
        (attribute::BAND_FILL, "ATTR_OPERATION_DIAGONAL_BAND_MASK_BDESC"),
        (attribute::BAND_Y, "ATTR_OPERATION_DIAGONAL_BAND_MASK_YDESC"),
        (attribute::BAND_COMPARISON, "ATTR_OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE"),
        (attribute::SOFTMAX_X, "ATTR_OPERATION_SOFTMAX_XDESC"),
        (attribute::SOFTMAX_Y, "ATTR_OPERATION_SOFTMAX_YDESC"),
        (attribute::SOFTMAX_SINK, "ATTR_OPERATION_SOFTMAX_SINK_DESC"),
        (element::F32, "DATA_FLOAT"),
        (element::F16, "DATA_HALF"),
        (element::I32, "DATA_INT32"),
        (element::BF16, "DATA_BFLOAT16"),
        (element::E4M3, "DATA_FP8_E4M3"),
        (element::E5M2, "DATA_FP8_E5M2"),
        (GREATER, "POINTWISE_CMP_GT"),
        (GREATER_OR_EQUAL, "POINTWISE_CMP_GE"),
        (MODES[0], "HEUR_MODE_A"),
        (MODES[1], "HEUR_MODE_B"),
        (MODES[2], "HEUR_MODE_FALLBACK"),
        (24, "KNOB_TYPE_KERNEL_CFG"),
        (27, "KNOB_TYPE_TILE_CGA_M"),
        (38, "KNOB_TYPE_STREAM_K"),
        (40, "KNOB_TYPE_TILE_M"),
        (41, "KNOB_TYPE_TILE_N"),
    ];

    /// Numbers of a header's enumerators.
    pub(in super::super) fn enumerators(header: &str) -> std::collections::HashMap<String, i32> {
        let line = |line: &str| {
            let (name, rest) = line.trim().strip_prefix("CUDNN_")?.split_once('=')?;
            let value = rest.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            Some((name.split_whitespace().next()?.to_owned(), value))
        };
        header.lines().filter_map(line).collect()
    }

    #[test]
    fn numbers_agree_with_generated_bindings() {
        // cudarc's bindings are of 9.21: without what came later, which the header's own test has.
        use cudarc::cudnn::sys::{
            cudnnBackendAttributeName_t as A, cudnnBackendAttributeType_t as T, cudnnBackendDescriptorType_t as K,
            cudnnBackendHeurMode_t as H, cudnnDataType_t as D, cudnnPointwiseMode_t as P,
        };
        let theirs = [
            ("BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR", K::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR as i32),
            ("BACKEND_OPERATION_DIAGONAL_BAND_MASK_DESCRIPTOR", K::CUDNN_BACKEND_OPERATION_DIAGONAL_BAND_MASK_DESCRIPTOR as i32),
            ("BACKEND_OPERATION_SOFTMAX_DESCRIPTOR", K::CUDNN_BACKEND_OPERATION_SOFTMAX_DESCRIPTOR as i32),
            ("BACKEND_TENSOR_DESCRIPTOR", K::CUDNN_BACKEND_TENSOR_DESCRIPTOR as i32),
            ("BACKEND_VARIANT_PACK_DESCRIPTOR", K::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR as i32),
            ("BACKEND_EXECUTION_PLAN_DESCRIPTOR", K::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR as i32),
            ("TYPE_BACKEND_DESCRIPTOR", T::CUDNN_TYPE_BACKEND_DESCRIPTOR as i32),
            ("TYPE_VOID_PTR", T::CUDNN_TYPE_VOID_PTR as i32),
            ("TYPE_POINTWISE_MODE", T::CUDNN_TYPE_POINTWISE_MODE as i32),
            ("TYPE_KNOB_TYPE", T::CUDNN_TYPE_KNOB_TYPE as i32),
            ("ATTR_OPERATION_SDPA_FWD_QDESC", A::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC as i32),
            ("ATTR_OPERATION_SDPA_FWD_SCALEDESC", A::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC as i32),
            ("ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_KDESC", A::CUDNN_ATTR_OPERATION_SDPA_FWD_PAGE_TABLE_KDESC as i32),
            ("ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC", A::CUDNN_ATTR_OPERATION_SDPA_FWD_SEQ_LEN_KVDESC as i32),
            ("ATTR_OPERATION_SDPA_FWD_SUBGRAPH", A::CUDNN_ATTR_OPERATION_SDPA_FWD_SUBGRAPH as i32),
            ("ATTR_OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID", A::CUDNN_ATTR_OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID as i32),
            ("ATTR_OPERATION_SDPA_FWD_SOFTMAX_DESC", A::CUDNN_ATTR_OPERATION_SDPA_FWD_SOFTMAX_DESC as i32),
            ("ATTR_OPERATION_DIAGONAL_BAND_MASK_XDESC", A::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_XDESC as i32),
            (
                "ATTR_OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE",
                A::CUDNN_ATTR_OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE as i32,
            ),
            ("ATTR_OPERATION_SOFTMAX_SINK_DESC", A::CUDNN_ATTR_OPERATION_SOFTMAX_SINK_DESC as i32),
            ("ATTR_ENGINE_GLOBAL_INDEX", A::CUDNN_ATTR_ENGINE_GLOBAL_INDEX as i32),
            ("ATTR_EXECUTION_PLAN_WORKSPACE_SIZE", A::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE as i32),
            ("ATTR_TENSOR_IS_BY_VALUE", A::CUDNN_ATTR_TENSOR_IS_BY_VALUE as i32),
            ("ATTR_VARIANT_PACK_WORKSPACE", A::CUDNN_ATTR_VARIANT_PACK_WORKSPACE as i32),
            ("DATA_BFLOAT16", D::CUDNN_DATA_BFLOAT16 as i32),
            ("DATA_FP8_E4M3", D::CUDNN_DATA_FP8_E4M3 as i32),
            ("POINTWISE_CMP_GE", P::CUDNN_POINTWISE_CMP_GE as i32),
            ("HEUR_MODE_A", H::CUDNN_HEUR_MODE_A as i32),
        ];
        for (name, value) in theirs {
            let (ours, _) = NAMED.iter().find(|(_, n)| *n == name).unwrap();
            assert_eq!(*ours, value, "{name}");
        }
    }

    #[test]
    fn enumerators_of_a_header_are_read() {
        let header = "enum {\n    CUDNN_A = 3, /**< x = 4 */\n    CUDNN_B CUDNN_DEPRECATED_ENUM   = 12,\n    CUDNN_C\n};";
        let read = enumerators(header);
        assert_eq!((read["A"], read["B"], read.len()), (3, 12, 2));
    }
}
