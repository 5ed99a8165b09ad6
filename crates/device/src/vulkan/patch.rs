//! What must be otherwise in the SPIR-V that naga writes.
//!
//! What WGSL cannot say of cooperative matrices: the adapter's own shape in place of 8 × 8, and bfloat16 in place of f16. Sound
//! only for a kernel that does nothing with these types but move and multiply them. What our kernels have no use for: a layout on
//! arrays of a fixed length, which lie in workgroup memory or in registers, where Vulkan allows none; and 16-bit uniform buffers,
//! which are a feature of their own.
//!
//! Instructions and numbers: SPV_KHR_cooperative_matrix, SPV_KHR_bfloat16 of the SPIR-V registry.

use crate::DeviceError;
use std::collections::{HashMap, HashSet};

/// m, n and k of one product.
pub(super) type Size = [u32; 3];

mod op {
    pub(super) const EXTENSION: u32 = 10;
    pub(super) const CAPABILITY: u32 = 17;
    pub(super) const TYPE_INT: u32 = 21;
    pub(super) const TYPE_FLOAT: u32 = 22;
    pub(super) const TYPE_ARRAY: u32 = 28;
    pub(super) const CONSTANT: u32 = 43;
    pub(super) const DECORATE: u32 = 71;
    pub(super) const TYPE_MATRIX: u32 = 4456;
}

const FLOAT16: u32 = 9;
const UNIFORM16: u32 = 4434;
const BFLOAT16_TYPE: u32 = 5116;
const BFLOAT16_MATRIX: u32 = 5118;
/// The encoding operand of OpTypeFloat.
const BFLOAT16_ENCODING: u32 = 0;

/// The decoration that gives an array's layout.
const ARRAY_STRIDE: u32 = 6;

/// The instructions behind the header; None at one that is cut off.
fn instructions(spirv: &[u32]) -> impl Iterator<Item = Option<&[u32]>> {
    let mut rest = spirv.get(5..).unwrap_or_default();
    std::iter::from_fn(move || {
        let count = (rest.first()? >> 16) as usize;
        match rest.split_at_checked(count.max(1)) {
            Some((instruction, after)) => {
                rest = after;
                Some(Some(instruction))
            }
            None => {
                rest = &[];
                Some(None)
            }
        }
    })
}

/// The module without layouts on arrays of a fixed length and without 16-bit uniform buffers; None if it is broken.
pub(super) fn tidy(spirv: &[u32]) -> Option<Vec<u32>> {
    let mut arrays = HashSet::new();
    for instruction in instructions(spirv) {
        if let [head, id, ..] = instruction?
            && head & 0xffff == op::TYPE_ARRAY
        {
            arrays.insert(*id);
        }
    }
    let mut out = spirv.get(..5)?.to_vec();
    for instruction in instructions(spirv) {
        match instruction? {
            [head, UNIFORM16] if head & 0xffff == op::CAPABILITY => {}
            [head, id, ARRAY_STRIDE, _] if head & 0xffff == op::DECORATE && arrays.contains(id) => {}
            kept => out.extend(kept),
        }
    }
    Some(out)
}

/// The module with matrices of `size`, and of bfloat16 if `bfloat16`.
pub(super) fn retype(spirv: &[u32], size: Size, bfloat16: bool) -> Result<Vec<u32>, DeviceError> {
    let broken = || DeviceError::invalid("the module is not what a cooperative kernel's should be");
    let mut out = spirv.get(..5).ok_or_else(broken)?.to_vec();
    let first = out[3];
    // The three constants take the next ids.
    out[3] += 3;
    let (mut word, mut constants, mut made, mut extended) = (None, HashMap::new(), false, false);
    for instruction in instructions(spirv) {
        let instruction = instruction.ok_or_else(broken)?;
        let opcode = instruction[0] & 0xffff;
        if bfloat16 && !extended && opcode != op::CAPABILITY {
            for capability in [BFLOAT16_TYPE, BFLOAT16_MATRIX] {
                out.extend([2 << 16 | op::CAPABILITY, capability]);
            }
            let name = words("SPV_KHR_bfloat16");
            out.push((name.len() as u32 + 1) << 16 | op::EXTENSION);
            out.extend(name);
            extended = true;
        }
        match (opcode, instruction) {
            (op::CAPABILITY, [_, FLOAT16]) if bfloat16 => continue,
            (op::TYPE_INT, [_, id, 32, 0]) => word = Some(*id),
            (op::CONSTANT, [_, kind, id, value]) if Some(*kind) == word => {
                constants.insert(*id, *value);
            }
            (op::TYPE_FLOAT, [_, id, 16]) if bfloat16 => {
                out.extend([4 << 16 | op::TYPE_FLOAT, *id, 16, BFLOAT16_ENCODING]);
                continue;
            }
            (op::TYPE_MATRIX, [head, id, element, scope, _, _, role]) => {
                if !made {
                    let word = word.ok_or_else(broken)?;
                    for (i, value) in size.iter().enumerate() {
                        out.extend([4 << 16 | op::CONSTANT, word, first + i as u32, *value]);
                    }
                    made = true;
                }
                let [m, n, k] = [0, 1, 2].map(|i| first + i);
                let (rows, columns) = match constants.get(role) {
                    Some(0) => (m, k),
                    Some(1) => (k, n),
                    Some(2) => (m, n),
                    _ => return Err(broken()),
                };
                out.extend([*head, *id, *element, *scope, rows, columns, *role]);
                continue;
            }
            _ => {}
        }
        out.extend(instruction);
    }
    if made { Ok(out) } else { Err(broken()) }
}

/// A literal string: four characters a word, a zero at the end.
fn words(text: &str) -> Vec<u32> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((text.len() / 4 + 1) * 4, 0);
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_get_the_shape_of_their_role() {
        let int = [4 << 16 | op::TYPE_INT, 1, 32, 0];
        let constant = |id: u32, value: u32| [4 << 16 | op::CONSTANT, 1, id, value];
        let half = [3 << 16 | op::TYPE_FLOAT, 2, 16];
        let matrix = |id: u32, role: u32| [7 << 16 | op::TYPE_MATRIX, id, 2, 10, 11, 11, role];
        let mut module = vec![0x0723_0203, 0x1_0500, 0, 30, 0, 2 << 16 | op::CAPABILITY, FLOAT16];
        module.extend(int);
        module.extend([constant(10, 3), constant(11, 8), constant(12, 0), constant(13, 1), constant(14, 2)].concat());
        module.extend(half);
        module.extend([matrix(20, 12), matrix(21, 13), matrix(22, 14)].concat());
        let out = retype(&module, [8, 16, 32], true).unwrap();
        assert_eq!(out[3], 33);
        let tail = &out[out.len() - 33..];
        assert_eq!(tail[..12], [constant(30, 8), constant(31, 16), constant(32, 32)].concat());
        let dims: Vec<_> = tail[12..].chunks_exact(7).map(|m| (m[4], m[5])).collect();
        assert_eq!(dims, [(30, 32), (32, 31), (30, 31)]);
        assert!(out.windows(4).any(|w| w == [4 << 16 | op::TYPE_FLOAT, 2, 16, 0]));
        assert!(!out.windows(2).any(|w| w == [2 << 16 | op::CAPABILITY, FLOAT16]));
        assert!(retype(&module[..20], [8, 8, 8], false).is_err());
        assert!(retype(&[], [8, 8, 8], false).is_err());
    }

    #[test]
    fn layouts_go_from_fixed_arrays_alone() {
        let stride = |id: u32| [4 << 16 | op::DECORATE, id, ARRAY_STRIDE, 4];
        let array = [4 << 16 | op::TYPE_ARRAY, 7, 1, 2];
        let header = [0x0723_0203, 0x1_0500, 0, 30, 0];
        let module = [&header[..], &stride(7), &stride(8), &array].concat();
        assert_eq!(tidy(&module), Some([&header[..], &stride(8), &array].concat()));
        assert_eq!(tidy(&module[..module.len() - 1]), None);
        assert_eq!(tidy(&header[..3]), None);
    }
}
