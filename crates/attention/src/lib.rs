//! The attention suite: flash, materialised and MLA attention, prefill and decode.
//!
//! `attention/prefill/b1hq64hkv8sq8192sk8192d128/bf16/causal`: batch, query heads, key heads, queries and keys a sequence, head
//! dimension, dtype, mask. `mla-prefill` has two dimensions, `d192v128`. `mla-decode` is the absorbed form, `d576v512`: V is the
//! first 512 columns of the one latent that is also K; its softmax's scale is the model's, 1/√192. Causal is aligned at the end: query i sees keys up to i + sk − sq.
//!
//! Then, each where it is asked for and in this order: `kv=e4m3`, keys and values in FP8; `w128` behind `causal`, a window of so
//! many keys, the query's own the last; `page16`, a pool of pages of so many keys in shuffled order; `sinks`, one more logit a
//! query head in the softmax's sum; `ragged`, lengths from 0 to sk. An e4m3 case writes bf16, and has one f32 scale an operand.

mod amd;
mod balance;
mod cases;
mod check;
mod common;
mod decode;
mod decode_amd;
mod flash_fp8_sm90;
mod flash_sm80;
mod flash_sm90;
mod layout;
mod materialised;
mod mla;
mod mla_cdna;
mod nvidia;
mod ready;
mod reference;
mod shape;
mod splits;
mod vulkan;

use ridgepoint_core::{Case, Component};
use ridgepoint_device::{Device, DeviceError, Result};
use ridgepoint_harness::{Prepared, Scope, Suite};
use shape::Shape;

/// The suite.
pub struct Attention;

impl Suite for Attention {
    fn component(&self) -> Component {
        Component::Attention
    }

    fn cases(&self, scope: &Scope) -> Vec<Case> {
        cases::list(scope).into_iter().filter_map(Shape::case).collect()
    }

    fn parse(&self, id: &str) -> Option<Case> {
        Shape::parse(id)?.case()
    }

    fn providers(&self, case: &Case, device: &dyn Device) -> Vec<String> {
        Shape::parse(case.id.as_str()).map(|shape| ready::providers(shape, device)).unwrap_or_default()
    }

    fn prepare<'d>(&self, case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
        let shape =
            Shape::parse(case.id.as_str()).ok_or_else(|| DeviceError::invalid(format!("{} is no attention case", case.id)))?;
        ready::prepare(shape, provider, device, seed)
    }
}
