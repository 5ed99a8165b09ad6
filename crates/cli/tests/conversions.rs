//! Every narrow float's conversion against ml_dtypes from PyPI, which shares no line with ours: all bit patterns, every halfway
//! point and its neighbours, what overflows, and whole rows in the block-scaled formats. scripts/test installs it.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{passes, python, scratch};
use ridgepoint_core::block::{self, quantise};
use ridgepoint_core::minifloat::{self, Minifloat, Overflow};
use ridgepoint_core::{Dtype, data};
use std::path::Path;

/// Its name there, and whether it can say NaN.
const FORMATS: [(&str, Minifloat); 9] = [
    ("float16", minifloat::F16),
    ("bfloat16", minifloat::BF16),
    ("float8_e4m3fn", minifloat::E4M3),
    ("float8_e5m2", minifloat::E5M2),
    ("float8_e4m3fnuz", minifloat::E4M3FNUZ),
    ("float8_e5m2fnuz", minifloat::E5M2FNUZ),
    ("float4_e2m1fn", minifloat::E2M1),
    ("float6_e3m2fn", minifloat::E3M2),
    ("float6_e2m3fn", minifloat::E2M3),
];

/// Numbers at which a rounding could go wrong, all of them exact as f32: every value, every point halfway between two, and the f32
/// on each side of it; the same beyond the largest; powers of two far beyond either end; what is no number.
fn probes(format: Minifloat) -> Vec<f32> {
    let mut values: Vec<f64> = (0..1u32 << (format.bits() - 1)).map(|p| format.decode(p)).filter(|x| x.is_finite()).collect();
    let most = format.max();
    let step = most - values.iter().copied().filter(|x| *x < most).fold(0.0, f64::max);
    values.extend([most + step, most + 2.0 * step]);
    values.sort_by(f64::total_cmp);
    let halves: Vec<f64> = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let mut all: Vec<f32> = values.into_iter().chain(halves).map(|x| x as f32).collect();
    all.extend((-149..=127).map(|e| f64::powi(2.0, e) as f32));
    all.extend([f32::MAX, f32::INFINITY, f32::NAN]);
    let beside = |x: &f32| if x.is_finite() && *x > 0.0 { [x.next_down(), *x, x.next_up()] } else { [*x; 3] };
    let positive: Vec<f32> = all.iter().flat_map(beside).collect();
    positive.iter().map(|x| -x).chain(positive.iter().copied()).collect()
}

fn write(folder: &Path, name: &str, bytes: impl Iterator<Item = Vec<u8>>) {
    std::fs::write(folder.join(name), bytes.flatten().collect::<Vec<u8>>()).unwrap();
}

#[test]
fn ml_dtypes_agrees_with_every_conversion() {
    let Some(python) = python("ml_dtypes") else { return };
    let folder = scratch("conversions");
    for (name, format) in FORMATS {
        write(&folder, &format!("{name}.decoded"), (0..1u32 << format.bits()).map(|p| format.decode(p).to_le_bytes().into()));
        let probes = probes(format);
        write(&folder, &format!("{name}.probes"), probes.iter().map(|x| x.to_le_bytes().into()));
        for (how, overflow) in [("saturated", Overflow::Saturate), ("overflowed", Overflow::NonFinite)] {
            let patterns = probes.iter().map(|x| (format.encode(f64::from(*x), overflow) as u16).to_le_bytes().into());
            write(&folder, &format!("{name}.{how}"), patterns);
        }
    }
    write(&folder, "e8m0.decoded", (0..=255).map(|p| block::e8m0(p).to_le_bytes().into()));
    write(&folder, "e8m0.powers", (-127..=127).map(|e| vec![block::e8m0_pattern(e)]));
    // Rows whose blocks differ in size, one of zeros among them.
    let row: Vec<f64> = (0..640)
        .map(|i| f64::from(data::normal(5, i)) * if i / 32 == 7 { 0.0 } else { f64::powi(3.0, i as i32 / 32 - 10) })
        .collect();
    write(&folder, "row", row.iter().map(|x| x.to_le_bytes().into()));
    for dtype in [Dtype::Mxfp8, Dtype::Mxfp4, Dtype::Nvfp4] {
        let quantised = quantise(dtype, &row).unwrap();
        let back = block::dequantise(dtype, &quantised);
        write(&folder, &format!("{dtype}.elements"), std::iter::once(quantised.elements));
        write(&folder, &format!("{dtype}.scales"), std::iter::once(quantised.scales));
        write(&folder, &format!("{dtype}.back"), back.iter().map(|x| x.to_le_bytes().into()));
    }
    passes(&python, SCRIPT, &[folder.as_path()]);
    // That the script can fail: one pattern of a table of values, then one of rounded ones, is another.
    for (file, at) in [("float8_e4m3fn.decoded", 8 * 77), ("float8_e5m2fnuz.saturated", 2 * 300), ("nvfp4.scales", 3)] {
        let path = folder.join(file);
        let right = std::fs::read(&path).unwrap();
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        std::fs::write(&path, wrong).unwrap();
        let ran = std::process::Command::new(&python).args(["-c", SCRIPT]).arg(&folder).output().unwrap();
        assert!(!ran.status.success(), "{file} with a bit turned over passed");
        std::fs::write(&path, right).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}

const SCRIPT: &str = "
import sys, numpy as np, ml_dtypes as ml
np.seterr(all='ignore')
folder = sys.argv[1]
def read(name, dtype): return np.fromfile(f'{folder}/{name}', dtype)
def same(a, b): return ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
def check(ok, *what): assert ok.all(), (*what, np.flatnonzero(~ok)[:8])
FORMATS = ['float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fnuz', 'float8_e5m2fnuz', 'float4_e2m1fn', 'float6_e3m2fn', 'float6_e2m3fn']
for name in FORMATS:
    dtype = np.dtype(np.float16 if name == 'float16' else getattr(ml, name))
    whole = np.uint16 if dtype.itemsize == 2 else np.uint8
    def value(patterns): return patterns.astype(whole).view(dtype).astype(np.float64)
    ours = read(f'{name}.decoded', '<f8')
    patterns = np.arange(len(ours))
    check(same(value(patterns), ours), name, 'values')
    most = float(np.nanmax(ours[np.isfinite(ours)]))
    x = read(f'{name}.probes', '<f4')
    assert len(x) > 3 * len(ours), name
    numbers = ~np.isnan(x)
    # Formats without a NaN leave it to each what becomes of one.
    has_nan = np.isnan(ours).any()
    asked = numbers | has_nan
    for how, of in [('overflowed', x), ('saturated', np.where(numbers, np.clip(x, -most, most), x))]:
        theirs, mine = of.astype(dtype).astype(np.float64), value(read(f'{name}.{how}', '<u2'))
        check(same(theirs, mine) | ~asked, name, how, x[~same(theirs, mine) & asked][:8])
ours = read('e8m0.decoded', '<f8')
check(same(np.arange(256).astype(np.uint8).view(ml.float8_e8m0fnu).astype(np.float64), ours), 'e8m0')
powers = 2.0 ** np.arange(-127, 128)
check(powers.astype(np.float32).astype(ml.float8_e8m0fnu).view(np.uint8) == read('e8m0.powers', 'u1'), 'e8m0 powers')

def scaled(dtype, block, element, most, largest_exponent):
    row = read('row', '<f8').reshape(-1, block)
    amax = np.abs(row).max(axis=1)
    if largest_exponent is None:
        tensor = np.float64(np.float32(amax.max() / (most * 448.0)))
        scales = np.clip(amax / most / tensor, 0, 448).astype(ml.float8_e4m3fn)
        factor = scales.astype(np.float64) * tensor
    else:
        exponent = np.where(amax > 0, np.floor(np.log2(np.where(amax > 0, amax, 1))) - largest_exponent, -127)
        scales = (2.0 ** np.clip(exponent, -127, 127)).astype(np.float32).astype(ml.float8_e8m0fnu)
        factor = scales.astype(np.float64)
    check(scales.view(np.uint8) == read(f'{dtype}.scales', 'u1'), dtype, 'scales')
    quotient = np.where(factor[:, None] > 0, row / np.where(factor > 0, factor, 1)[:, None], 0)
    elements = np.clip(quotient, -most, most).astype(np.float32).astype(element)
    meant = elements.astype(np.float64) * factor[:, None]
    check(elements.view(np.uint8).ravel() == read(f'{dtype}.elements', 'u1'), dtype, 'elements')
    check(meant.ravel() == read(f'{dtype}.back', '<f8'), dtype, 'values')
scaled('mxfp8', 32, ml.float8_e4m3fn, 448.0, 8)
scaled('mxfp4', 32, ml.float4_e2m1fn, 6.0, 2)
scaled('nvfp4', 16, ml.float4_e2m1fn, 6.0, None)
";
