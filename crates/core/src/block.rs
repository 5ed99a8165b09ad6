//! Block-scaled formats: numbers of few bits, a short run of which shares a scale.
//!
//! Sources: OCP Microscaling Formats 1.0 (MXFP8, MXFP4: an E8M0 for 32, chosen by section 6.3); NVIDIA's NVFP4 (an E4M3 for 16,
//! and an f32 for the tensor, so that the largest of a tensor's scales is E4M3's largest).

use crate::Dtype;
use crate::minifloat::{E4M3, Overflow};

/// The value of an E8M0: a power of two, 2⁻¹²⁷ to 2¹²⁷, or NaN.
#[must_use]
pub fn e8m0(pattern: u8) -> f64 {
    if pattern == 255 { f64::NAN } else { f64::powi(2.0, i32::from(pattern) - 127) }
}

/// The E8M0 of 2^`exponent`, or the nearest that there is.
#[must_use]
pub const fn e8m0_pattern(exponent: i32) -> u8 {
    let field = exponent + 127;
    if field < 0 {
        0
    } else if field > 254 {
        254
    } else {
        field as u8
    }
}

/// A row of numbers in a block-scaled format.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The elements' patterns, one a byte.
    pub elements: Vec<u8>,
    /// The pattern of each block's scale.
    pub scales: Vec<u8>,
    /// NVFP4's scale of the tensor; 1 otherwise.
    pub tensor: f32,
}

/// Rounds `values` to a block-scaled format, blocks from the first on; None for a format without block scales.
#[must_use]
pub fn quantise(dtype: Dtype, values: &[f64]) -> Option<Quantised> {
    let (format, block) = (dtype.format()?, dtype.block_scale()?.block as usize);
    let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let whole = largest(values);
    let tensor = match dtype {
        Dtype::Nvfp4 if whole > 0.0 => (whole / (format.max() * E4M3.max())) as f32,
        _ => 1.0,
    };
    let mut out = Quantised { elements: Vec::with_capacity(values.len()), scales: vec![], tensor };
    for values in values.chunks(block) {
        let most = largest(values);
        let (pattern, scale) = if dtype == Dtype::Nvfp4 {
            let pattern = E4M3.encode(most / format.max() / f64::from(tensor), Overflow::Saturate) as u8;
            (pattern, E4M3.decode(u32::from(pattern)) * f64::from(tensor))
        } else {
            // The exponent of the block's largest less that of the format's; a block of zeros takes the least there is.
            let exponent = if most > 0.0 { exponent(most) - exponent(format.max()) } else { -127 };
            let pattern = e8m0_pattern(exponent);
            (pattern, e8m0(pattern))
        };
        out.scales.push(pattern);
        let element = |x: &f64| format.encode(if scale > 0.0 { x / scale } else { 0.0 }, Overflow::Saturate) as u8;
        out.elements.extend(values.iter().map(element));
    }
    Some(out)
}

/// ⌊log₂ x⌋ of a normal number.
const fn exponent(x: f64) -> i32 {
    (x.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

/// The numbers that were meant; empty for a format without block scales.
#[must_use]
pub fn dequantise(dtype: Dtype, quantised: &Quantised) -> Vec<f64> {
    let (Some(format), Some(block)) = (dtype.format(), dtype.block_scale()) else { return vec![] };
    let scale = |pattern: u8| if dtype == Dtype::Nvfp4 { E4M3.decode(u32::from(pattern)) } else { e8m0(pattern) };
    let blocks = quantised.elements.chunks(block.block as usize).zip(&quantised.scales);
    blocks
        .flat_map(|(elements, pattern)| {
            let scale = scale(*pattern) * f64::from(quantised.tensor);
            elements.iter().map(move |element| format.decode(u32::from(*element)) * scale)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;

    #[test]
    fn e8m0_is_a_power_of_two() {
        assert_eq!([0, 127, 128, 254].map(e8m0), [f64::powi(2.0, -127), 1.0, 2.0, f64::powi(2.0, 127)]);
        assert!(e8m0(255).is_nan());
        assert!((0..255).all(|p| e8m0_pattern(i32::from(p) - 127) == p));
        assert_eq!([e8m0_pattern(-999), e8m0_pattern(999)], [0, 254]);
    }

    #[test]
    fn what_is_quantised_is_near() {
        // Half a step of the largest binade, and what saturates above it: 448 of 512, 6 of 8.
        for (dtype, limit) in [(Dtype::Mxfp8, 0.13), (Dtype::Mxfp4, 0.26), (Dtype::Nvfp4, 0.2)] {
            let values: Vec<f64> = (0..160).map(|i| f64::from(data::normal(3, i)) * f64::powi(4.0, i as i32 / 40 - 2)).collect();
            let quantised = quantise(dtype, &values).unwrap();
            assert_eq!(quantised.scales.len() as u64, 160 / dtype.block_scale().unwrap().block);
            let back = dequantise(dtype, &quantised);
            assert_eq!(back.len(), 160);
            for (values, back) in values.chunks(32).zip(back.chunks(32)) {
                let most = values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                assert!(values.iter().zip(back).all(|(a, b)| (a - b).abs() <= limit * most), "{dtype}");
            }
            assert_eq!(dequantise(dtype, &quantise(dtype, &[0.0; 40]).unwrap()), [0.0; 40]);
        }
        assert_eq!(quantise(Dtype::F32, &[1.0]), None);
    }
}
