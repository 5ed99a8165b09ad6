//! Copies from a peer's buffer to a rank's own: through the caches where everything fits into them, around them where it does
//! not, which saves the read of each line that an ordinary store needs first.

/// Copies `len` bytes.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`] with bytes.
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize, around_caches: bool) {
    #[cfg(target_arch = "x86_64")]
    if around_caches && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just found; the rest is the caller's promise.
        return unsafe { x86::copy(from, to, len) };
    }
    let _ = around_caches;
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    const LINE: usize = 64;

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        let head = to.align_offset(LINE).min(len);
        let end = head + (len - head) / LINE * LINE;
        // SAFETY: head ≤ end ≤ len, so every access stays in the caller's ranges; stores are aligned to a line from head on.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to, head);
            for at in (head..end).step_by(LINE) {
                let (low, high) = (_mm256_loadu_si256(from.add(at).cast()), _mm256_loadu_si256(from.add(at + 32).cast()));
                _mm256_stream_si256(to.add(at).cast(), low);
                _mm256_stream_si256(to.add(at + 32).cast(), high);
            }
            std::ptr::copy_nonoverlapping(from.add(end), to.add(end), len - end);
        }
        // Such stores are ordered by nothing else, and the next thing that happens is that a peer is told.
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_none_beside_it() {
        let source: Vec<u8> = (0..2000u32).map(|i| (i * 7 + 1) as u8 | 1).collect();
        for around in [false, true] {
            for len in [0, 1, 63, 64, 65, 500, 1024] {
                for shift in [0, 1, 30, 63] {
                    let mut to = vec![0u8; 2000];
                    // SAFETY: 2 · shift + len stays below 2000 in both, which do not overlap.
                    unsafe { copy(source.as_ptr().add(2 * shift), to.as_mut_ptr().add(shift), len, around) };
                    assert_eq!(to[shift..shift + len], source[2 * shift..2 * shift + len], "{len} bytes, shift {shift}");
                    assert!(to[..shift].iter().chain(&to[shift + len..]).all(|b| *b == 0));
                }
            }
        }
    }
}
