//! Operands rearranged for the micro-kernels: panels of `width` rows (of A, or of B stored as N×K), k outermost, so that a
//! step reads one contiguous run of units. Both operands have k contiguous in memory, so one function packs both.

use super::micro::Packing;

/// Rows of k-contiguous elements.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) base: *const u8,
    pub(super) rows: usize,
    /// Elements of a row; rows are tight.
    pub(super) k: usize,
    pub(super) packing: Packing,
    /// int8 only: +128, so that vpdpbusd's unsigned operand can hold it; the driver takes 128·Σb off again.
    pub(super) bias: bool,
}

impl Rows {
    /// Packs rows `row..row + width` (zeros past the end) and units `unit..unit + units` to `panel`, unit by unit.
    ///
    /// # Safety
    /// `base` holds `rows × k` elements and `panel` has room for `units × width` units.
    pub(super) unsafe fn pack(self, row: usize, width: usize, unit: usize, units: usize, panel: *mut u32) {
        // SAFETY: the caller's promise; every index below stays within rows × k and units × width.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c") {
                return x86::pack(self, row, width, unit, units, panel);
            }
            self.pack_rows(row, width, 0..width, unit, units, panel);
        }
    }

    /// The plain way, for rows `which` of the panel.
    unsafe fn pack_rows(
        self,
        row: usize,
        width: usize,
        which: std::ops::Range<usize>,
        unit: usize,
        units: usize,
        panel: *mut u32,
    ) {
        for p in 0..units {
            for i in which.clone() {
                // SAFETY: the caller's promise.
                unsafe {
                    *panel.add(p * width + i) = if row + i < self.rows { self.unit(row + i, unit + p) } else { self.padding() }
                };
            }
        }
    }

    /// What stands for an element past the last row or past k: zero, or the bias of one.
    fn padding(self) -> u32 {
        if self.bias { 0x8080_8080 } else { 0 }
    }

    /// Unit `unit` of row `row`; elements past k are zero.
    unsafe fn unit(self, row: usize, unit: usize) -> u32 {
        let group = self.packing.group();
        let first = unit * group;
        let size = self.packing.element_bytes();
        // SAFETY: first < k, and what lies past k is not read.
        unsafe {
            let at = self.base.add((row * self.k + first) * size);
            let narrow = |p: *const u8| u16::from_le_bytes([*p, *p.add(1)]);
            match self.packing {
                Packing::F32 => at.cast::<u32>().read_unaligned(),
                Packing::F16ToF32 => (ridgepoint_core::minifloat::F16.decode(u32::from(narrow(at))) as f32).to_bits(),
                Packing::Bf16ToF32 => u32::from(narrow(at)) << 16,
                Packing::I8ToI32 => i32::from(at.cast::<i8>().read()) as u32,
                Packing::Bf16Pair | Packing::I8Quad => {
                    let valid = (self.k - first).min(group) * size;
                    let mut bytes = [0u8; 4];
                    std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), valid);
                    u32::from_le_bytes(bytes) ^ self.padding()
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Packing, Rows};
    use std::arch::x86_64::*;

    /// Packs eight rows and eight units at a time by a transpose in registers; what is left at the edges, the plain way.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn pack(rows: Rows, row: usize, width: usize, unit: usize, units: usize, panel: *mut u32) {
        let group = rows.packing.group();
        // Units that lie wholly below k can be loaded without looking.
        let whole = units.min((rows.k / group).saturating_sub(unit)) / 8 * 8;
        // SAFETY: the caller's promise (see `Rows::pack`).
        unsafe {
            for i in (0..width).step_by(8) {
                if width - i >= 8 && row + i + 8 <= rows.rows {
                    for p in (0..whole).step_by(8) {
                        let mut block = [_mm256_setzero_si256(); 8];
                        for (r, vector) in block.iter_mut().enumerate() {
                            *vector = load(rows, row + i + r, unit + p);
                        }
                        for (q, vector) in transpose(block).into_iter().enumerate() {
                            _mm256_storeu_si256(panel.add((p + q) * width + i).cast(), vector);
                        }
                    }
                    if whole < units {
                        rows.pack_rows(row, width, i..i + 8, unit + whole, units - whole, panel.add(whole * width));
                    }
                } else {
                    rows.pack_rows(row, width, i..width.min(i + 8), unit, units, panel);
                }
            }
        }
    }

    /// Eight units of one row.
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(rows: Rows, row: usize, unit: usize) -> __m256i {
        // SAFETY: eight whole units from here on lie in the row.
        unsafe {
            let at = rows.base.add((row * rows.k + unit * rows.packing.group()) * rows.packing.element_bytes());
            match rows.packing {
                Packing::F16ToF32 => _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(at.cast()))),
                Packing::Bf16ToF32 => _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()))),
                Packing::I8ToI32 => _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())),
                Packing::F32 | Packing::Bf16Pair => _mm256_loadu_si256(at.cast()),
                Packing::I8Quad => _mm256_xor_si256(_mm256_loadu_si256(at.cast()), _mm256_set1_epi32(rows.padding() as i32)),
            }
        }
    }

    /// 8 × 8 units, rows to columns.
    #[target_feature(enable = "avx2")]
    fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
        let lo = |a: __m256i, b: __m256i| _mm256_unpacklo_epi32(a, b);
        let hi = |a: __m256i, b: __m256i| _mm256_unpackhi_epi32(a, b);
        let t = [
            lo(r[0], r[1]),
            hi(r[0], r[1]),
            lo(r[2], r[3]),
            hi(r[2], r[3]),
            lo(r[4], r[5]),
            hi(r[4], r[5]),
            lo(r[6], r[7]),
            hi(r[6], r[7]),
        ];
        let low = |a: __m256i, b: __m256i| _mm256_unpacklo_epi64(a, b);
        let high = |a: __m256i, b: __m256i| _mm256_unpackhi_epi64(a, b);
        let u = [
            low(t[0], t[2]),
            high(t[0], t[2]),
            low(t[1], t[3]),
            high(t[1], t[3]),
            low(t[4], t[6]),
            high(t[4], t[6]),
            low(t[5], t[7]),
            high(t[5], t[7]),
        ];
        let first = |a: __m256i, b: __m256i| _mm256_permute2x128_si256::<0x20>(a, b);
        let second = |a: __m256i, b: __m256i| _mm256_permute2x128_si256::<0x31>(a, b);
        [
            first(u[0], u[4]),
            first(u[1], u[5]),
            first(u[2], u[6]),
            first(u[3], u[7]),
            second(u[0], u[4]),
            second(u[1], u[5]),
            second(u[2], u[6]),
            second(u[3], u[7]),
        ]
    }
}
