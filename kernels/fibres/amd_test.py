"""Proves the kernels for AMD's matrix units on the host, chip by chip (amd_gemm_test.cpp, amd_flash_test.cpp, amd_mla_test.cpp), then plants one bug at a time and asks that the
proof catch each.

usage: amd_test.py [--all] [word…]   (a first choice of variants and bugs; all of them; only those whose description has a word)
"""
import sys

from planted import KERNELS, all_caught, outcome, wrong

KERNEL, FLASH, MLA, COMBINE, HEADER = (KERNELS / name for name in (
    "gemm/matrix_amd.cu", "attention/flash_amd.cu", "attention/mla_decode_cdna.cu", "attention/combine.cu", "common/amd.h"))

# Which proof, the chip, the kernel's macros.
SMALL = "RP_BM=128 RP_BN=128"
VARIANTS = [
    f"gemm __gfx90a__ RP_DTYPE=bf16 {SMALL}",
    f"gemm __gfx90a__ RP_DTYPE=i8 {SMALL}",
    "gemm __gfx942__ RP_DTYPE=bf16 RP_XCDS=8",
    f"gemm __gfx942__ RP_DTYPE=f16 RP_DIRECT=4 {SMALL}",
    f"gemm __gfx942__ RP_DTYPE=e4m3fnuz {SMALL}",
    f"gemm __gfx942__ RP_DTYPE=e5m2fnuz RP_OUT=f32 RP_BM=256 RP_BN=128",
    f"gemm __gfx942__ RP_DTYPE=i8 {SMALL}",
    f"gemm __gfx950__ RP_DTYPE=bf16 RP_DIRECT=16 {SMALL}",
    "gemm __gfx950__ RP_DTYPE=f16",
    f"gemm __gfx950__ RP_DTYPE=e4m3 RP_DIRECT=16 {SMALL}",
    f"gemm __gfx950__ RP_DTYPE=i8 {SMALL}",
    "gemm __gfx1100__ RP_DTYPE=bf16",
    "gemm __gfx1100__ RP_DTYPE=f16 RP_GROUP=1",
    "gemm __gfx1100__ RP_DTYPE=i8",
    "gemm __gfx1201__ RP_DTYPE=bf16",
    "gemm __gfx1201__ RP_DTYPE=e4m3 RP_XCDS=2",
    "gemm __gfx1201__ RP_DTYPE=e5m2 RP_ROW=128",
    "gemm __gfx1201__ RP_DTYPE=i8",
    "gemm __gfx1250__ RP_DTYPE=bf16 RP_DIRECT=16",
    "gemm __gfx1250__ RP_DTYPE=e4m3 RP_BM=256 RP_BN=256",
    "gemm __gfx1250__ RP_DTYPE=i8 RP_DIRECT=16",
    "flash __gfx90a__ RP_DTYPE=bf16 RP_CAUSAL=1",
    "flash __gfx942__ RP_DTYPE=f16 RP_D=64",
    "flash __gfx950__ RP_DTYPE=bf16 RP_D=64 RP_CAUSAL=1",
    "flash __gfx1201__ RP_DTYPE=f16 RP_CAUSAL=1",
    "flash __gfx1250__ RP_DTYPE=bf16",
    "mla __gfx90a__ RP_DTYPE=bf16",
    "mla __gfx942__ RP_DTYPE=f16",
    "mla __gfx950__ RP_DTYPE=bf16",
    "flash __gfx90a__ RP_DTYPE=bf16 RP_D=96 RP_DV=96 RP_CAUSAL=1 RP_GENERAL=1",
    "flash __gfx950__ RP_DTYPE=f16 RP_D=192 RP_DV=128 RP_CAUSAL=1 RP_GENERAL=1",
    "flash __gfx942__ RP_DTYPE=bf16 RP_D=256 RP_DV=256 RP_GENERAL=1",
    "flash __gfx1201__ RP_DTYPE=f16 RP_D=128 RP_DV=128 RP_CAUSAL=1 RP_GENERAL=1",
    "flash __gfx1250__ RP_DTYPE=bf16 RP_D=192 RP_DV=128 RP_CAUSAL=1 RP_GENERAL=1",
    f"gemm __gfx942__ RP_DTYPE=bf16 RP_OUT=f32 RP_SPLIT=1 RP_C=bf16 {SMALL}",
    f"gemm __gfx950__ RP_DTYPE=i8 RP_OUT=i32 RP_DIRECT=16 RP_SPLIT=1 RP_C=i32 {SMALL}",
]
# Those that every run proves: each chip, each type, each way into LDS.
FIRST = [1, 3, 4, 9, 11, 17, 18, 22, 24, 25, 27, 28, 30, 32, 34]

CDNA, DIRECT4, DIRECT16, RDNA3, RDNA4 = VARIANTS[0], VARIANTS[3], VARIANTS[7], VARIANTS[11], VARIANTS[14]
FLASH_CDNA, FLASH_RDNA4, MLA_CDNA, WINDOW = VARIANTS[21], VARIANTS[24], VARIANTS[26], VARIANTS[29]
SPLIT = VARIANTS[34]

# what, file, old text, new text, the variant; * for those that every run plants (planted.py)
BUGS = [
    ("* tile read before it is placed", KERNEL, "    rp_sync();\n    if (block + 1 < blocks) fetch(from, held", "    if (block + 1 < blocks) fetch(from, held", CDNA),
    ("* direct load not waited for", KERNEL, "    rp_wait_direct();\n", "", DIRECT16),
    ("tile read before all direct loads have landed", KERNEL, "    rp_wait_direct();\n    rp_sync();\n", "    rp_wait_direct();\n", DIRECT16),
    ("buffer overwritten while it is read", KERNEL, "fetch(from, next, block + 1);\n    multiply", "fetch(from, now, block + 1);\n    multiply", DIRECT16),
    ("words of a direct load by the wrong lanes", KERNEL, "quarter * 16 + lane / 4", "quarter * 16 + lane % 16", DIRECT4),
    ("quarters of a direct load on each other", KERNEL, "to + quarter * 256", "to", DIRECT4),
    ("* swizzle forgotten by whoever reads", KERNEL, "row * RP_ROW + swizzled(row, unit) * 16", "row * RP_ROW + unit * 16", CDNA),
    ("* operands differ in the order of K", KERNEL, "+ i * kSide + lane % kSide, step, lane);\n#pragma", "+ i * kSide + lane % kSide, step, lane ^ kSide);\n#pragma", RDNA4),
    ("one step read twice", KERNEL, "int unit = step * kUnits * kGroups + unit_of", "int unit = unit_of", CDNA),
    ("* tail of K not zeroed", KERNEL, "bool inside = x + swizzled(place / kRowUnits, place % kRowUnits) * 16 < s.k_bytes;", "bool inside = true;", CDNA),
    ("tail of K dropped", KERNEL, "((int)from.k_bytes + RP_ROW - 1) / RP_ROW", "(int)from.k_bytes / RP_ROW + ((int)from.k_bytes < RP_ROW)", CDNA),
    ("rows beyond M read", KERNEL, "of < most ? of : most - 1", "of", RDNA3),
    ("B's tile laid over A's", KERNEL, "r < RP_BM ? r : r - RP_BM", "r", RDNA4),
    ("* product transposed", KERNEL, "multiply(d[i][j], b, a[j])", "multiply(d[i][j], a[j], b)", CDNA),
    ("alpha dropped", KERNEL, "return alpha * sum;", "return sum;", CDNA),
    ("runs of sums in the wrong rows", KERNEL, "part * kSide + sum_row(lane, at)", "part * kSide + at", RDNA4),
    ("* patch read before it is written", KERNEL, "      rp_sync_wave();\n#pragma", "#pragma", CDNA),
    ("patch reused while it is read", KERNEL, "      }\n      rp_sync_wave();\n    }\n}", "      }\n    }\n}", RDNA3),
    ("waves share a patch", KERNEL, "&stages[0][0] + wave * kSide * kPitch", "&stages[0][0]", CDNA),
    ("patch laid over a tile that is read", KERNEL, "  rp_sync();\n  store(", "  store(", RDNA3),
    ("* rows beyond M written", KERNEL, "if (y < m && ", "if (", CDNA),
    ("columns beyond N written", KERNEL, "&& x < n * (int)sizeof(rp_out))", ")", RDNA3),
    ("short band walked as a full one", KERNEL, "tiles_m - first < RP_GROUP ? tiles_m - first : RP_GROUP", "RP_GROUP", RDNA4),
    ("a die's run begins in another's", KERNEL, "tile % RP_XCDS * each +", "tile % RP_XCDS * (each + 1) +", VARIANTS[15]),
    ("* parts land on each other", KERNEL, "(rp_out *)c + (rp_u64)split * m * n", "(rp_out *)c", SPLIT),
    ("a part begins where another does", KERNEL, "int first = (int)((long long)blocks * split / splits);", "int first = 0;", SPLIT),
    ("parts of K by the wrong blocks", KERNEL, "  tile %= tiles_m * tiles_n;\n", "", SPLIT),
    ("waves share their columns", KERNEL, "wave / 2 * kWaveN", "0", RDNA3),
    ("* RDNA3's sums as RDNA4's", HEADER, "return i * 2 + lane / 16;", "return lane / 16 * 8 + i;", RDNA3),
    ("RDNA3's lanes as RDNA4's", HEADER, "constexpr int kGroups = 1;", "constexpr int kGroups = 2;", RDNA3),
    ("RDNA4's sums as RDNA3's", HEADER, "return lane / 16 * 8 + i;", "return i * 2 + lane / 16;", RDNA4),
    ("MFMA's sums in one run", HEADER, "i / 4 * 8 + lane / 32 * 4 + i % 4", "lane / 32 * 16 + i", CDNA),
    ("* second half of a lane's bytes dropped", HEADER, "multiply_once(d, a.word + at, b.word + at)", "multiply_once(d, a.word, b.word)", CDNA),
    ("* keys of V not numbered as the scores lie", HEADER, "return (g & ~3) | (g & 1) << 1 | (g >> 1 & 1);", "return g;", FLASH_CDNA),
    ("keys of V numbered as MFMA's scores lie", HEADER, "return g;", "return (g & ~3) | (g & 1) << 1 | (g >> 1 & 1);", FLASH_RDNA4),
    ("halves of P swapped", HEADER, "return l >> 16 | (h & 0xffff0000u);", "return h >> 16 | (l & 0xffff0000u);", FLASH_CDNA),
    ("* keys overwritten while they are read", FLASH, "    rp_sync();    // everyone has read the keys before\n", "", FLASH_CDNA),
    ("keys read before they are placed", FLASH, "    place(held, tiles);\n    rp_sync();\n", "    place(held, tiles);\n", FLASH_CDNA),
    ("* output not rescaled", FLASH, "out[part].v[i] *= shrink;", ";", FLASH_RDNA4),
    ("sum not rescaled", FLASH, "    sum *= shrink;\n", "", FLASH_CDNA),
    ("maximum of half the keys", FLASH, "highest = __builtin_fmaxf(highest, rp_shuffle_xor(highest, kSide));", "", FLASH_CDNA),
    ("sum of half the keys", FLASH, "  sum += rp_shuffle_xor(sum, kSide);\n", "", FLASH_CDNA),
    ("* mask off by one", FLASH, "mine + offset + 1 - key0;", "mine + offset + 2 - key0;", FLASH_CDNA),
    ("mask of the diagonal begun too late", FLASH, "key0 + kKeys > first + wave * kSide + offset + 1", "key0 + kKeys > first + wave * kSide + kSide + offset + 1", FLASH_RDNA4),
    ("* keys beyond the last not masked", FLASH, "key0 + kKeys > keys || ", "", VARIANTS[22]),
    ("keys beyond the last read", FLASH, "v + (rp_u64)(key < keys ? key : keys - 1)", "v + (rp_u64)key", FLASH_CDNA),
    ("swizzle of V forgotten by whoever writes", FLASH, "place_v(at % kValueUnits * 8 + x, group / 2)", "(at % kValueUnits * 8 + x) * kKeys * 2 + group / 2 * 16", FLASH_CDNA),
    ("fours of keys on each other", FLASH, "+ group % 2 * 8) = four", ") = four", FLASH_CDNA),
    ("runs of the output in the wrong columns", FLASH, "(part * kSide + sum_row(lane, i)) * 2", "(part * kSide + i) * 2", FLASH_CDNA),
    ("heads that share keys read others'", FLASH, "v += (rp_u64)(head / group)", "v += (rp_u64)head", FLASH_RDNA4),
    ("a row that sees nothing is no number", FLASH, "highest == -infinity ? 0.0f : highest * to_log2", "highest * to_log2", FLASH_CDNA),
    ("* window off by one", FLASH, "< mine + offset + 1 - window)", "< mine + offset - window)", WINDOW),
    ("window's first keys not masked", FLASH, "key0 < hidden)", "key0 < hidden - kSide)", WINDOW),
    ("window's first tile skipped", FLASH, "1 - window) / kKeys * kKeys;", "1 - window) / kKeys * kKeys + kKeys;", WINDOW),
    ("lengths of another sequence", FLASH, "lengths[head / heads_q] < keys ? lengths[head / heads_q]", "lengths[0] < keys ? lengths[0]", WINDOW),
    ("a sink that does not join the sum", FLASH, "sum = sum * factor + rp_exp2(sink - both);", "sum = sum * factor;", WINDOW),
    ("* mla: a stale page", MLA, "cache.table[key / cache.page] * cache.page", "cache.table[(key ^ 16) / cache.page] * cache.page", MLA_CDNA),
    ("mla: a page of the sequence before", MLA, "table + (rp_u64)batch *", "table + 0 * (rp_u64)batch *", MLA_CDNA),
    ("* mla: scores read before all waves have them", MLA, "    place(held, tiles);\n    rp_sync();\n", "    place(held, tiles);\n", MLA_CDNA),
    ("mla: scores of three waves", MLA, "for (int w = 0; w < kWaves; w++)\n", "for (int w = 1; w < kWaves; w++)\n", MLA_CDNA),
    ("* mla: output not rescaled", MLA, "out[part].v[i] *= shrink;", ";", MLA_CDNA),
    ("* mla: mask off by one", MLA, "+ mine % queries + 1 : length", "+ mine % queries + 2 : length", MLA_CDNA),
    ("mla: the first query's last keys not masked", MLA, "> length - hidden)", "> length)", MLA_CDNA),
    ("mla: swizzle of V forgotten by whoever writes", MLA, "place_v(task_unit(i) * 8 + x, group / 2)", "((task_unit(i) * 8 + x) * kKeys * 2 + group / 2 * 16)", MLA_CDNA),
    ("mla: waves share their columns", MLA, "(wave * kParts + part) * kSide + lane % kSide, step", "part * kSide + lane % kSide, step", MLA_CDNA),
    ("mla: sink counts for the row's maximum alone", MLA, "total = sum * factor + rp_exp2(sink - highest);", "total = sum * factor;", MLA_CDNA),
    ("* combine: splits joined without their maxima", COMBINE, "const float weight = power(x.x - top);", "const float weight = 1;", MLA_CDNA),
    ("combine: a sink of another head", COMBINE, "row / queries % heads", "row % heads", MLA_CDNA),
]


def prove(variant, changed={}, planted=False):
    proof, *defines = variant.split()
    return outcome(f"amd_{proof}_test", defines, changed, planted)


def main():
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    everything = "--all" in sys.argv
    bad = wrong([v for i, v in enumerate(VARIANTS) if (any(w in v for w in words) if words else everything or i in FIRST)], prove)
    return bad + all_caught(BUGS, lambda changed, variant: prove(variant, changed, True)) != 0


if __name__ == "__main__":
    sys.exit(main())
