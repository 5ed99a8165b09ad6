"""Proves the kernels for AMD's matrix units on the host, chip by chip (amd_gemm_test.cpp, amd_flash_test.cpp, amd_mla_test.cpp, amd_decode_test.cpp), then plants one bug at a time and asks that the
proof catch each.

usage: amd_test.py [--all] [word…]   (a first choice of variants and bugs; all of them; only those whose description has a word)
"""
import sys

from planted import KERNELS, all_caught, outcome, wanted, wrong

KERNEL, FLASH, PINGPONG, MLA, DECODE, COMBINE, HEADER, SHARED = (KERNELS / name for name in (
    "gemm/matrix_amd.cu", "attention/flash_amd.cu", "attention/flash_cdna.cu", "attention/mla_decode_cdna.cu", "attention/decode_amd.cu",
    "attention/combine.cu", "common/amd.h", "common/attention_amd.h"))

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
    "decode __gfx942__ RP_DTYPE=bf16",
    "decode __gfx942__ RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1",
    "decode __gfx90a__ RP_DTYPE=f16 RP_D=64",
    "decode __gfx90a__ RP_DTYPE=f16 RP_KV8=1 RP_D=256",
    "decode __gfx950__ RP_DTYPE=bf16 RP_D=256",
    "decode __gfx950__ RP_DTYPE=f16 RP_KV8=1 RP_D=64",
    "decode __gfx1201__ RP_DTYPE=bf16 RP_D=64",
    "decode __gfx1201__ RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1",
    "decode __gfx1250__ RP_DTYPE=bf16",
    "decode __gfx1250__ RP_DTYPE=f16 RP_KV8=1 RP_D=64",
    "flash __gfx90a__ RP_DTYPE=bf16 RP_CAUSAL=1 RP_PINGPONG=1",
    "flash __gfx942__ RP_DTYPE=f16 RP_D=64 RP_PINGPONG=1",
    "flash __gfx950__ RP_DTYPE=bf16 RP_D=96 RP_CAUSAL=1 RP_GENERAL=1 RP_PINGPONG=1",
    "flash __gfx942__ RP_DTYPE=f16 RP_GENERAL=1 RP_PINGPONG=1",
    "flash __gfx942__ RP_DTYPE=e4m3fnuz RP_CAUSAL=1 RP_GENERAL=1 RP_PINGPONG=1",
    "flash __gfx950__ RP_DTYPE=e4m3 RP_D=64 RP_PINGPONG=1",
]
# Those that every run proves: each chip, each type, each way into LDS; beside them whatever a planted bug is a change of.
FIRST = [1, 3, 4, 9, 11, 17, 18, 22, 23, 24, 27, 28, 30, 31, 32, 33, 34, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 50, 51]

CDNA, DIRECT4, DIRECT16, RDNA3, RDNA4 = VARIANTS[0], VARIANTS[3], VARIANTS[7], VARIANTS[11], VARIANTS[14]
FLASH_CDNA, FLASH_RDNA4, MLA_CDNA, WINDOW = VARIANTS[21], VARIANTS[24], VARIANTS[26], VARIANTS[29]
TURNS, TURNS_WINDOW, TURNS_FNUZ, TURNS_FP8 = VARIANTS[46], VARIANTS[48], VARIANTS[50], VARIANTS[51]
SPLIT, DECODE_CDNA, DECODE_FP8, DECODE_RDNA4 = VARIANTS[34], VARIANTS[36], VARIANTS[37], VARIANTS[42]

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
    ("* output not rescaled", SHARED, "out[part].v[i] *= shrink;", ";", FLASH_RDNA4),
    ("sum not rescaled", SHARED, "  s.sum *= shrink;\n", "", FLASH_CDNA),
    ("maximum of half the keys", SHARED, "highest = __builtin_fmaxf(highest, rp_shuffle_xor(highest, kSide));", "", FLASH_CDNA),
    ("sum of half the keys", FLASH, "  state.sum += rp_shuffle_xor(state.sum, kSide);\n", "", FLASH_CDNA),
    ("* mask off by one", FLASH, "mine + offset + 1 - key0;", "mine + offset + 2 - key0;", FLASH_CDNA),
    ("mask of the diagonal begun too late", FLASH, "key0 + kKeys > first + wave * kSide + offset + 1", "key0 + kKeys > first + wave * kSide + kSide + offset + 1", FLASH_RDNA4),
    ("* keys beyond the last not masked", FLASH, "key0 + kKeys > keys || ", "", VARIANTS[22]),
    ("keys beyond the last read", FLASH, "v + row(key)", "v + (rp_u64)key", FLASH_CDNA),
    ("swizzle of V forgotten by whoever writes", FLASH, "place_v(at % kValueUnits * 8 + x, group / 2)", "(at % kValueUnits * 8 + x) * kKeys * 2 + group / 2 * 16", FLASH_CDNA),
    ("fours of keys on each other", FLASH, "+ group % 2 * 8) = column_of(", ") = column_of(", FLASH_CDNA),
    ("runs of the output in the wrong columns", FLASH, "(part * kSide + sum_row(lane, i)) * 2", "(part * kSide + i) * 2", FLASH_CDNA),
    ("heads that share keys read others'", FLASH, "v += (rp_u64)(head / group)", "v += (rp_u64)head", FLASH_RDNA4),
    ("a row that sees nothing is no number", SHARED, "highest == -rp_infinity() ? 0.0f : highest * to_log2", "highest * to_log2", FLASH_CDNA),
    ("* window off by one", FLASH, "< mine + offset + 1 - window)", "< mine + offset - window)", WINDOW),
    ("window's first keys not masked", FLASH, "key0 < hidden)", "key0 < hidden - kSide)", WINDOW),
    ("window's first tile skipped", FLASH, "1 - window) / kKeys * kKeys;", "1 - window) / kKeys * kKeys + kKeys;", WINDOW),
    ("lengths of another sequence", FLASH, "lengths[head / heads_q] < keys ? lengths[head / heads_q]", "lengths[0] < keys ? lengths[0]", WINDOW),
    ("a sink that does not join the sum", SHARED, "sum = sum * factor + rp_exp2(one - both);", "sum = sum * factor;", WINDOW),
    ("* ping-pong: K overwritten while it is read", PINGPONG, "place(held, side, tiles, buffer ^ 1);", "place(held, side, tiles, buffer);", TURNS),
    ("* ping-pong: V of the tile before", PINGPONG, "multiply_values(out, p, tiles.v[buffer ^ 1], here)", "multiply_values(out, p, tiles.v[buffer], here)", TURNS),
    ("ping-pong: turns end without a barrier", PINGPONG, "    rp_priority<0>();\n    rp_slot();\n", "    rp_priority<0>();\n", TURNS),
    ("ping-pong: a group ends a turn too early", PINGPONG, "  if (!side) rp_slot();\n", "", TURNS),
    ("* ping-pong: the last tile's values left out", PINGPONG, "  if (begin < end) multiply_values(out, p, tiles.v[buffer ^ 1], lane);\n", "", TURNS),
    ("ping-pong: a tile fetched a turn late", PINGPONG, "fetch(held, side, k, v, key0 + 2 * kKeys, rows", "fetch(held, side, k, v, key0 + kKeys, rows", TURNS),
    ("ping-pong: keys beyond the last read", PINGPONG, "v + row(key)", "v + (rp_u64)key * kRowBytes", TURNS),
    ("ping-pong: keys of V not numbered as the scores lie", PINGPONG, "key_group(four)", "four", TURNS),
    ("* ping-pong: output not rescaled", SHARED, "out[part].v[i] *= shrink;", ";", TURNS),
    ("ping-pong: mask off by one", PINGPONG, "mine + offset + 1 - key0;", "mine + offset + 2 - key0;", TURNS),
    ("ping-pong: mask of the diagonal begun too late", PINGPONG, "key0 + kKeys > first + wave * kSide + offset + 1", "key0 + kKeys > first + wave * kSide + kSide + offset + 1", TURNS),
    ("ping-pong: keys beyond the last not masked", PINGPONG, "key0 + kKeys > keys || ", "", VARIANTS[47]),
    ("* ping-pong: a stale page", PINGPONG, "    if (RP_GENERAL) pages = pages_of<kKeys>(rows, key0 + 3 * kKeys);\n", "", TURNS_WINDOW),
    ("ping-pong: pages of the tile before", PINGPONG, "key0 + 3 * kKeys);", "key0 + 2 * kKeys);", TURNS_FNUZ),
    ("pages of the tile before", FLASH, "    if (kPaged) pages = pages_of<kKeys>(rows, key0 + 2 * kKeys);\n", "", WINDOW),
    ("* ping-pong FP8: bytes of V placed as halves are", PINGPONG, "four / 8 * 2 + four % 2) + four % 8 / 2 * 4", "four / 4) + four % 4 * 4", TURNS_FP8),
    ("ping-pong FP8: columns of V swapped", SHARED, "at | (4 + at) << 8), high", "(at ^ 1) | (4 + (at ^ 1)) << 8), high", TURNS_FP8),
    ("ping-pong FP8: sinks without the raise", PINGPONG, "* to_log2 - raised", "* to_log2", TURNS_FNUZ),
    ("ping-pong FP8: raised past the type", SHARED, "RP_IS == 6 ? 7 : 8", "12", TURNS_FNUZ),
    ("ping-pong FP8: V's scale forgotten", PINGPONG, "(RP_FP8 ? scales[2] : 1);", "1;", TURNS_FNUZ),
    ("ping-pong FP8: K's scale forgotten", PINGPONG, "scales[0] * scales[1] : 1", "scales[0] : 1", TURNS_FP8),
    ("ping-pong FP8: P of the wrong tile", SHARED, "step * 16 * kUnits + 4 * w", "(step ^ 1) * 16 * kUnits + 4 * w", TURNS_FNUZ),
    ("* ping-pong: window off by one", PINGPONG, "< mine + offset + 1 - window)", "< mine + offset - window)", TURNS_WINDOW),
    ("ping-pong: window's first tile skipped", PINGPONG, "1 - window) / kKeys * kKeys;", "1 - window) / kKeys * kKeys + kKeys;", TURNS_WINDOW),
    ("ping-pong: a sink of another head", PINGPONG, "sinks + head % heads_q", "sinks + (head + 1) % heads_q", TURNS_WINDOW),
    ("* mla: a stale page", MLA, "cache.table[key / cache.page] * cache.page", "cache.table[(key ^ 16) / cache.page] * cache.page", MLA_CDNA),
    ("mla: a page of the sequence before", MLA, "table + (rp_u64)batch *", "table + 0 * (rp_u64)batch *", MLA_CDNA),
    ("* mla: scores read before all waves have them", MLA, "    place(held, tiles);\n    rp_sync();\n", "    place(held, tiles);\n", MLA_CDNA),
    ("mla: scores of three waves", MLA, "for (int w = 0; w < kWaves; w++)\n", "for (int w = 1; w < kWaves; w++)\n", MLA_CDNA),
    ("* mla: output not rescaled", SHARED, "out[part].v[i] *= shrink;", ";", MLA_CDNA),
    ("* mla: mask off by one", MLA, "+ mine % queries + 1 : length", "+ mine % queries + 2 : length", MLA_CDNA),
    ("mla: the first query's last keys not masked", MLA, "> length - hidden)", "> length)", MLA_CDNA),
    ("mla: swizzle of V forgotten by whoever writes", MLA, "place_v(task_unit(i) * 8 + x, group / 2)", "((task_unit(i) * 8 + x) * kKeys * 2 + group / 2 * 16)", MLA_CDNA),
    ("mla: waves share their columns", MLA, "(wave * kParts + part) * kSide + lane % kSide, step", "part * kSide + lane % kSide, step", MLA_CDNA),
    ("mla: sink counts for the row's maximum alone", SHARED, "sum = sum * factor + rp_exp2(one - both);", "sum = sum * factor;", MLA_CDNA),
    ("* decode: a stale page", SHARED, "r.last) >> r.shift]", "r.last) + 16 >> r.shift]", DECODE_CDNA),
    ("decode: a page of the sequence before", SHARED, "(rp_u64)(head / heads) *", "0 * (rp_u64)(head / heads) *", DECODE_CDNA),
    ("decode: pages of the tile before", DECODE, "      pages = pages_of<kKeys>(cache.rows, first + 2 * kRound);\n", "", DECODE_CDNA),
    ("decode: one page for a tile of two", SHARED, "    page = key - first >= 16 * i ? other : page;\n", "", DECODE_CDNA),
    ("decode: heads that share pages read others'", SHARED, "heads, head % heads, last}", "heads, 0, last}", DECODE_CDNA),
    ("decode: keys beyond the last read", SHARED, "  key = key < r.last ? key : r.last;\n", "", DECODE_CDNA),
    ("* decode: output not rescaled", SHARED, "out[part].v[i] *= shrink;", ";", DECODE_FP8),
    ("decode: sum not rescaled", SHARED, "  s.sum *= shrink;\n", "", DECODE_CDNA),
    ("* decode: mask off by one", DECODE, "mine % queries + 1 : length", "mine % queries + 2 : length", DECODE_CDNA),
    ("decode: the first query's last keys not masked", DECODE, "first + kKeys > length - hidden ||", "first + kKeys > length ||", DECODE_CDNA),
    ("* decode: window off by one", DECODE, "window ? sees - window : 0;", "window ? sees - window - 1 : 0;", DECODE_CDNA),
    ("decode: window's first keys not masked", DECODE, "first < length - window)", "first < length - window - kKeys)", DECODE_CDNA),
    ("decode: a split begins where nobody sees anything yet", DECODE, "start / kRound * kRound : 0;", "start / kRound * kRound + kRound : 0;", DECODE_CDNA),
    ("decode: splits overlap", DECODE, "start + split * span < length ? start + split * span : length", "start + split * (span - kKeys) < length ? start + split * (span - kKeys) : length", DECODE_CDNA),
    ("decode: the last split's keys dropped", DECODE, "(length - start + splits - 1) / splits", "(length - start) / splits / kRound * kRound", DECODE_CDNA),
    ("decode: waves share a tile of V", DECODE, "rp_u8 *tile = block.v[wave];", "rp_u8 *tile = block.v[0];", DECODE_CDNA),
    ("decode: maxima laid over V while it is read", DECODE, "  rp_sync();\n  if (lane < kSide) block.each", "  if (lane < kSide) block.each", DECODE_CDNA),
    ("decode: outputs laid over the maxima while they are read", DECODE, "    rp_sync();    // everyone has read what lay there\n", "", DECODE_CDNA),
    ("* decode: waves joined without their maxima", DECODE, "rp_exp2(own.top - base) *", "1.0f *", DECODE_CDNA),
    ("decode: a wave's sum left out", DECODE, "for (int w = 0; w < kWaves; w++) all.sum", "for (int w = 1; w < kWaves; w++) all.sum", DECODE_CDNA),
    ("decode: a split's maximum that is one wave's", DECODE, "(stats + (row * splits + split) * 2) = all;", "(stats + (row * splits + split) * 2) = Softmax{own.top, all.sum};", DECODE_CDNA),
    ("* decode: even and odd bytes of FP8 swapped", DECODE, "if (!odd) x <<= 8;", "if (odd) x <<= 8;", DECODE_FP8),
    ("decode: columns of Q paired as they lie", DECODE, "        u.v[w] = (x & 0xffffu) | y << 16;\n        u.v[w + 1] = x >> 16 | (y & 0xffff0000u);\n", "        u.v[w] = x; u.v[w + 1] = y;\n", DECODE_FP8),
    ("* decode: FNUZ read as OCP", DECODE, "kFnuz ? 128 : 256", "256", DECODE_FP8),
    ("decode: columns of V where their bytes lie", DECODE, "8 + true_column(x)", "8 + x", DECODE_FP8),
    ("decode: scale of V forgotten", DECODE, " * (scales ? scales[2] : 1);\n#pragma", ";\n#pragma", DECODE_FP8),
    ("decode: swizzle of V forgotten by whoever writes", DECODE, "*(Two *)(tile + place_v(task_unit(lane, i) * 8 + true_column(x), group / 2)", "*(Two *)(tile + ((task_unit(lane, i) * 8 + true_column(x)) * kKeyUnits + group / 2) * 16", DECODE_RDNA4),
    ("decode: a sink of another head", DECODE, "+ mine / queries : nullptr", "+ mine : nullptr", DECODE_CDNA),
    ("* combine: splits joined without their maxima", COMBINE, "const float weight = power(x.x - top);", "const float weight = 1;", MLA_CDNA),
    ("combine: a sink of another head", COMBINE, "row / queries % heads", "row % heads", MLA_CDNA),
    ("* combine: a split dropped", COMBINE, "for (int s = 0; s < splits; s++) {", "for (int s = 1; s < splits; s++) {", DECODE_CDNA),
    ("combine: sums unweighted", COMBINE, "sum += x.y * weight;", "sum += x.y;", DECODE_CDNA),
    ("combine: maxima of the row before", COMBINE, "stats += (rp_u64)row * splits;", "stats += (rp_u64)(row ? row - 1 : 0) * splits;", DECODE_CDNA),
]


def prove(variant, changed={}, planted=False):
    proof, *defines = variant.split()
    return outcome(f"amd_{proof}_test", defines, changed, planted)


def main():
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    everything = "--all" in sys.argv
    # A bug that is caught says something only where the same variant without it is right.
    planted = {bug[4] for bug in BUGS if wanted(bug)}
    bad = wrong([v for i, v in enumerate(VARIANTS) if v in planted or (any(w in v for w in words) if words else everything or i in FIRST)], prove)
    return bad + all_caught(BUGS, lambda changed, variant: prove(variant, changed, True)) != 0


if __name__ == "__main__":
    sys.exit(main())
