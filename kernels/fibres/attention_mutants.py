#!/usr/bin/env python3
"""Plants one bug at a time in the attention kernels and asks that the host test catch each.

usage: attention_mutants.py [--all] [word…]   (one bug of each kind; all of them; only those whose description has a word)
"""
import pathlib
import subprocess
import sys
import tempfile

from planted import all_caught

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE.parent
PARTS = {"flash": 1, "flash80": 2, "decode": 4, "mla": 8, "fp8": 16}
# what, file (of attention/ if it names no folder), the test's section, old text, new text
BUGS = [
    ("* flash: output not rescaled", "flash_sm90.cu", "flash", "w.o[i] *= shrink[i / 2 % 2];", ";"),
    ("* flash: mask off by one", "common/flash_sm90.h", "flash", "i / 4 * 8 + i % 2 >= (i & 2", "i / 4 * 8 + i % 2 > (i & 2"),
    ("flash: causal limit off by one", "common/flash_sm90.h", "flash", "min(p.keys, mine + p.keys - p.queries + 1)", "min(p.keys, mine + p.keys - p.queries)"),
    ("* flash: wrong stride in V's descriptor", "flash_sm90.cu", "flash", "i * 2048, SLAB, 1024)", "i * 2048, 1024, 1024)"),
    ("flash: K advances by the wrong step", "flash_sm90.cu", "flash", "i / 4 * SLAB + i % 4 * 32, 16, 1024), i > 0", "i / 4 * SLAB + i % 4 * 64, 16, 1024), i > 0"),
    ("* flash: descriptor without the swizzle", "common/nvidia.h", "flash", "SWIZZLE == 128 ? 1ull", "SWIZZLE == 128 ? 3ull"),
    ("flash: TMA of another swizzle", "fibres/attention_test.cpp", "flash", "(u32)slabs, 1}, 128};", "(u32)slabs, 1}, 64};"),
    ("mla: TMA without a swizzle", "fibres/attention_test.cpp", "mla", "(u32)slabs, 1}, 128};", "(u32)slabs, 1}, 16};"),
    ("* flash: parity of K never turns", "flash_sm90.cu", "flash", "barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);\n        if", "barrier_wait(k_full(c.k % STAGES), 0);\n        if"),
    ("flash: parity of V never turns", "flash_sm90.cu", "flash", "c.v / STAGES & 1", "0"),
    ("flash: parity of Q never turns", "flash_sm90.cu", "flash", "barrier_wait(q_full(), q_parity);", "barrier_wait(q_full(), 0);"),
    ("flash: K overwritten before it is read", "flash_sm90.cu", "flash", "kc / STAGES & 1 ^ 1", "1"),
    ("flash: V overwritten before it is read", "flash_sm90.cu", "flash", "vc / STAGES & 1 ^ 1", "1"),
    ("flash: Q overwritten before it is read", "flash_sm90.cu", "flash", "barrier_wait(q_empty(), q_parity);", "barrier_wait(q_empty(), 1);"),
    ("* flash: registers of a product not fenced", "flash_sm90.cu", "flash", "turn_wait(c.group);\n        wgmma_fence();", "turn_wait(c.group);"),
    ("flash: registers of the last product not fenced", "flash_sm90.cu", "flash", "wgmma_fence(); issue_values", "issue_values"),
    ("flash: V released before it is read", "flash_sm90.cu", "flash", "wgmma_wait<0>(); pin(w.o); pin(s);", "wgmma_wait<1>(); pin(w.o); pin(s);"),
    ("* flash: scores read before they are there", "flash_sm90.cu", "flash", "wgmma_wait<1>(); pin(s);", "wgmma_wait<2>(); pin(s);"),
    ("flash: K never released", "flash_sm90.cu", "flash", "release(k_empty(c.k % STAGES)); c.k++;\n        softmax", "c.k++;\n        softmax"),
    ("flash: expects too few bytes", "flash_sm90.cu", "flash", "barrier_expect(q_full(), GROUPS * Q_BYTES);", "barrier_expect(q_full(), Q_BYTES);"),
    ("flash: store past the last row", "flash_sm90.cu", "flash", "if (at < p.queries) *(uint4*)", "if (at <= p.queries) *(uint4*)"),
    ("* flash: window off by one", "common/flash_sm90.h", "flash", "limit1 : limit0) - reach)", "limit1 : limit0) - reach + 1)"),
    ("flash: window's first block skipped", "flash_sm90.cu", "flash", "1 - window) / N : 0", "1 - window) / N + 1 : 0"),
    ("flash: window's edge not masked", "flash_sm90.cu", "flash", "1 - x.window + N - 1) / N;", "1 - x.window) / N;"),
    ("flash: lengths of another sequence", "flash_sm90.cu", "flash", "if (GENERAL && x.lengths) p.keys = x.lengths[head / x.heads_q];\n            int blocks", "if (GENERAL && x.lengths) p.keys = x.lengths[0];\n            int blocks"),
    ("* flash: places follow a sequence's length", "flash_sm90.cu", "flash", "Problem p = all;", "Problem& p = all;"),
    ("* flash: rows behind the last key left as they are", "flash_sm90.cu", "flash", "s * V_BYTES, rest, N,", "s * V_BYTES, N, N,"),
    ("flash: one row too few becomes zeros", "flash_sm90.cu", "flash", "s * V_BYTES, rest, N,", "s * V_BYTES, rest + 1, N,"),
    ("flash: the last key becomes zeros", "flash_sm90.cu", "flash", "s * V_BYTES, rest, N,", "s * V_BYTES, rest - 1, N,"),
    ("* flash: zeros before V has landed", "flash_sm90.cu", "flash", "barrier_wait(v_landed(), landed);", ""),
    ("* flash: zeros without a fence", "common/nvidia.h", "flash", "fence_async();\n    __syncwarp();", "__syncwarp();"),
    ("flash: zeros stored past the model", "common/nvidia.h", "flash", "store_shared(tile + j * slab_bytes + i * 16, make_uint4(0, 0, 0, 0));", "*(uint4*)(tile + j * slab_bytes + i * 16) = make_uint4(0, 0, 0, 0);"),
    ("flash: the landing's parity never turns", "flash_sm90.cu", "flash", "landed ^= 1;", ""),
    ("* flash: a stale page", "flash_sm90.cu", "flash", "above = here; here = below;", "above = here;"),
    ("flash: V from the pages of the tile below", "flash_sm90.cu", "flash", "load_v(n + 1, above);", "load_v(n + 1, here);"),
    ("flash: a tile's second box from the first's page", "common/nvidia.h", "flash", "row, from + i);", "row, from);"),
    ("flash: pages of the first sequence", "flash_sm90.cu", "flash", "(u64)(kv_head / heads_kv) * ((all", "(u64)0 * ((all"),
    ("flash: pages of another head", "flash_sm90.cu", "flash", "heads_kv, kv_head % heads_kv}", "heads_kv, 0}"),
    ("flash: a table as wide as a sequence is long", "flash_sm90.cu", "flash", "((all.keys - 1 >> x.page_shift)", "((p.keys - 1 >> x.page_shift)"),
    ("flash: length off by one", "flash_sm90.cu", "flash", "p.keys = x.lengths[head / x.heads_q];", "p.keys = x.lengths[head / x.heads_q] + 1;"),
    ("flash: sinks without a scale", "flash_sm90.cu", "flash", "x.sinks[head % x.heads_q] * 1.4426950408889634f", "x.sinks[head % x.heads_q]"),
    ("* fp8 flash: V's keys in their own order", "flash_fp8_sm90.cu", "fp8", "low0 = permute_bytes(r[i][0], r[i][1], 0x6420)", "low0 = permute_bytes(r[i][0], r[i][1], 0x6240)"),
    ("fp8 flash: even and odd columns swapped", "flash_fp8_sm90.cu", "fp8", "low0, high0, low1, high1);", "high0, low0, high1, low1);"),
    ("fp8 flash: P's halves swapped", "flash_fp8_sm90.cu", "fp8", "i / 2 % 2 * 8 + i % 2 * 2;", "(i / 2 % 2 ^ 1) * 8 + i % 2 * 2;"),
    ("* fp8 flash: no fence behind the transposed tile", "flash_fp8_sm90.cu", "fp8", "fence_async();", ""),
    ("fp8 flash: transposed before the last was read", "flash_fp8_sm90.cu", "fp8", "barrier_wait(t_empty(s), parity ^ 1);", ""),
    ("fp8 flash: V used before it is transposed", "flash_fp8_sm90.cu", "fp8", "barrier_wait(t_full(c.v % STAGES), c.v / STAGES & 1);", ""),
    ("fp8 flash: V overwritten before it is transposed", "flash_fp8_sm90.cu", "fp8", "barrier_wait(v_empty(s), vc / STAGES & 1 ^ 1); vc++;", "vc++;"),
    ("fp8 flash: parity of K never turns", "flash_fp8_sm90.cu", "fp8", "c.k / STAGES & 1", "0"),
    ("* fp8 flash: parity of the transposed tile never turns", "flash_fp8_sm90.cu", "fp8", "c.v / STAGES & 1", "0"),
    ("fp8 flash: parity of V never turns", "flash_fp8_sm90.cu", "fp8", "barrier_wait(v_full(s), parity);", "barrier_wait(v_full(s), 0);"),
    ("fp8 flash: parity of Q never turns", "flash_fp8_sm90.cu", "fp8", "barrier_wait(q_full(), q_parity);", "barrier_wait(q_full(), 0);"),
    ("fp8 flash: K overwritten before it is read", "flash_fp8_sm90.cu", "fp8", "kc / STAGES & 1 ^ 1", "1"),
    ("fp8 flash: V's parity of being free never turns", "flash_fp8_sm90.cu", "fp8", "vc / STAGES & 1 ^ 1", "1"),
    ("fp8 flash: the transposed tile's parity of being free never turns", "flash_fp8_sm90.cu", "fp8", "barrier_wait(t_empty(s), parity ^ 1);", "barrier_wait(t_empty(s), 1);"),
    ("fp8 flash: Q overwritten before it is read", "flash_fp8_sm90.cu", "fp8", "barrier_wait(q_empty(), q_parity);", "barrier_wait(q_empty(), 1);"),
    ("fp8 flash: registers of a product not fenced", "flash_fp8_sm90.cu", "fp8", "turn_wait(c.group);\n        wgmma_fence();", "turn_wait(c.group);"),
    ("* fp8 flash: output not rescaled", "flash_fp8_sm90.cu", "fp8", "w.o[i] *= shrink[i / 2 % 2];", ";"),
    ("fp8 flash lean: rescaled for its first row only", "flash_fp8_sm90.cu", "fp8", "shrink[0] != 1 || shrink[1] != 1", "shrink[0] != 1"),
    ("* fp8 flash lean: a maximum kept too long", "common/flash_sm90.h", "fp8", "* scale > SLACK", "* scale > 3 * SLACK"),
    ("fp8 flash lean: an exponent in the wrong place", "common/flash_sm90.h", "fp8", "(bits_of(t) << 23)", "(bits_of(t) << 22)"),
    ("fp8 flash: mask off by one", "common/flash_sm90.h", "fp8", "i / 4 * 8 + i % 2 >= (i & 2", "i / 4 * 8 + i % 2 > (i & 2"),
    ("* fp8 flash: causal limit off by one", "common/flash_sm90.h", "fp8", "min(p.keys, mine + p.keys - p.queries + 1)", "min(p.keys, mine + p.keys - p.queries)"),
    ("fp8 flash: slabs of V on each other", "flash_fp8_sm90.cu", "fp8", "chunk / WIDE * SLAB + keys", "keys"),
    ("fp8 flash: strides of V's descriptor swapped", "flash_fp8_sm90.cu", "fp8", "SIXTEEN, 128));", "128, SIXTEEN));"),
    ("fp8 flash: a narrow tile not swizzled alike", "flash_fp8_sm90.cu", "fp8", "(chunk ^ lane * WIDTH / 128) % WIDE", "(chunk ^ lane) % WIDE"),
    ("fp8 flash: V's scale forgotten", "flash_fp8_sm90.cu", "fp8", "value_scale / sum", "1 / sum"),
    ("fp8 flash: K's scale forgotten", "flash_fp8_sm90.cu", "fp8", "scales[0] * scales[1] *", "scales[0] *"),
    ("fp8 flash: raised past the type", "flash_fp8_sm90.cu", "fp8", "8 - SLACK : 8;", "8 - SLACK : 12;"),
    ("fp8 flash: the transposers never told to end", "flash_fp8_sm90.cu", "fp8", "note[2 + s] = 1;", ""),
    ("flash sm80: chunk not swizzled alike", "flash_sm80.cu", "flash80", "v = at(v, lane % 16, lane / 16);", "v = v + lane % 16 * D * 2 + lane / 16 * 16;"),
    ("* flash sm80: slabs of V on each other", "flash_sm80.cu", "flash80", "+ i / 4 * COUNT * 128 + j * 16 * 128", "+ j * 16 * 128"),
    ("flash sm80: window off by one", "flash_sm80.cu", "flash80", "sees + t * 16 + r * 8 - reach", "sees + t * 16 + r * 8 - reach + 1"),
    ("flash sm80: lengths of another sequence", "flash_sm80.cu", "flash80", "x.lengths[head / x.heads_q]", "x.lengths[0]"),
    ("* flash sm80: missing wait for V", "flash_sm80.cu", "flash80", "scores(s, q, k, warp, lane);\n        copy_wait<0>();", "scores(s, q, k, warp, lane);"),
    ("flash sm80: no rescale", "flash_sm80.cu", "flash80", "w.o[t][i][2 * r] *= shrink;", ";"),
    ("flash sm80: sum not rescaled", "flash_sm80.cu", "flash80", "fmaf(w.sum[t][r], shrink, sum)", "w.sum[t][r] + sum"),
    ("* flash sm80: mask off by one", "flash_sm80.cu", "flash80", "i / 2 * 8 + i % 2 >= limit", "i / 2 * 8 + i % 2 > limit"),
    ("flash sm80: causal limit off by one", "flash_sm80.cu", "flash80", "lane / 4 + offset + 1 - lane % 4 * 2", "lane / 4 + offset - lane % 4 * 2"),
    ("flash sm80: window's edge not masked", "flash_sm80.cu", "flash80", "1 - x.window) + KEYS - 1) / KEYS;", "1 - x.window)) / KEYS;"),
    ("flash sm80: sinks without a scale", "flash_sm80.cu", "flash80", "x.sinks[head % x.heads_q] * 1.4426950408889634f", "x.sinks[head % x.heads_q]"),
    ("flash sm80: another head's sink", "flash_sm80.cu", "flash80", "x.sinks[head % x.heads_q]", "x.sinks[0]"),
    ("* decode: combine ignores the maxima", "combine.cu", "decode", "const float weight = power(x.x - top);", "const float weight = 1;"),
    ("* decode: combine drops a split", "combine.cu", "decode", "for (int s = 0; s < splits; s++)", "for (int s = 0; s < splits - 1; s++)"),
    ("decode: combine adds sums of different scales", "combine.cu", "decode", "sum += x.y * weight;", "sum += x.y;"),
    ("decode: combine adds outputs of different scales", "combine.cu", "decode", "out[i].x += y.x * weight;", "out[i].x += y.x;"),
    ("decode: combine reads another row's statistics", "combine.cu", "decode", "stats += (rp_u64)row * splits;", "stats += (rp_u64)row / 2 * splits;"),
    ("decode: combine leaves a split out of the maximum", "combine.cu", "decode", "for (int s = lane; s < splits;", "for (int s = lane + 1; s < splits;"),
    ("* decode: output not rescaled", "decode_splitkv.cu", "decode", "d[0] *= shrink[0]; d[1] *= shrink[0]; d[2] *= shrink[1]; d[3] *= shrink[1];", ""),
    ("decode: sum not rescaled", "decode_splitkv.cu", "decode", "sum[r] *= shrink[r];", ""),
    ("decode: splits overlap", "decode_splitkv.cu", "decode", "split * span)", "split * 64)"),
    ("decode: all splits' statistics in one place", "decode_splitkv.cu", "decode", "stats[at * p.splits + split]", "stats[at * p.splits]"),
    ("decode: another row's sink", "decode_splitkv.cu", "decode", "(row0 + row) / p.queries]", "row0 / p.queries]"),
    ("* decode: a stale page", "decode_splitkv.cu", "decode", "if (GENERAL) page = page_of(t + 1);", "if (GENERAL && t % 2) page = page_of(t + 1);"),
    ("decode: pages of the first sequence", "decode_splitkv.cu", "decode", "c.table[(u64)(head / p.heads_kv) *", "c.table[0 *"),
    ("decode: a page's keys from its first on", "decode_splitkv.cu", "decode", "+ (first & (1 << c.page_shift) - 1);", ";"),
    ("* decode: window off by one", "decode_splitkv.cu", "decode", "(r ? last1 : last0) - c.window", "(r ? last1 : last0) - c.window + 1"),
    ("decode: window's first keys skipped", "decode_splitkv.cu", "decode", "length - p.queries + 1 - c.window) / 64 * 64", "length - p.queries + 1 - c.window) / 64 * 64 + 64"),
    ("decode: sink in another scale", "decode_splitkv.cu", "decode", "total = total * factor + exp2_approx(sink - both);", "total = total + exp2_approx(sink - both);"),
    ("decode: even and odd columns of FP8 keys swapped", "decode_splitkv.cu", "decode", "widen8<0>(b[j]), widen8<1>(b[j])", "widen8<1>(b[j]), widen8<0>(b[j])"),
    ("* decode: FP8 V's scale forgotten", "decode_splitkv.cu", "decode", "factor *= c.scales[2];", ";"),
    ("decode: warps joined without their maxima", "decode_splitkv.cu", "decode", "m == minus_infinity() ? 0.f : exp2_approx(top[r] - m)", "m == minus_infinity() ? 0.f : 1.f"),
    ("decode: one stage too few waited for", "decode_splitkv.cu", "decode", "copy_wait<STAGES - 2>();", "copy_wait<STAGES - 1>();"),
    ("* decode: mask off by one", "decode_splitkv.cu", "decode", "j / 2 * 8 + j % 2 < sees", "j / 2 * 8 + j % 2 <= sees"),
    ("* decode: V not transposed", "decode_splitkv.cu", "decode", "load_matrices_transposed(b, T::at", "load_matrices(b, T::at"),
    ("* mla: P0 left in the old scale", "mla_decode_sm90.cu", "mla", "to_p(c.s, late, s0, s1);", "to_p(c.s, late, 1, 1);"),
    ("mla: left half not rescaled by the even tile", "mla_decode_sm90.cu", "mla", "rescale(w, c.shrink[0], c.shrink[1]);", ""),
    ("mla: left half not rescaled by the odd tile", "mla_decode_sm90.cu", "mla", "rescale(w, s0, s1);", ""),
    ("mla: right half not rescaled", "mla_decode_sm90.cu", "mla", "rescale(w, shrink[0], shrink[1]);", ""),
    ("mla: left sum in the old scale", "mla_decode_sm90.cu", "mla", "w.sum[0] *= s0; w.sum[1] *= s1;", ""),
    ("* mla: mask off by one", "mla_decode_sm90.cu", "mla", ">= w.limit[i / 2 % 2]", "> w.limit[i / 2 % 2]"),
    ("mla: causal limit off by one", "mla_decode_sm90.cu", "mla", "(r0 + 8 * r) / p_.heads + 1)", "(r0 + 8 * r) / p_.heads)"),
    ("mla: rows of another query masked alike", "mla_decode_sm90.cu", "mla", "(r0 + 8 * r) / p_.heads + 1)", "r0 / p_.heads + 1)"),
    ("* mla: parity of a part never turns", "mla_decode_sm90.cu", "mla", "barrier_wait(full(1, RIGHT), i & 1);", "barrier_wait(full(1, RIGHT), 0);"),
    ("mla: parity of the left half never turns", "mla_decode_sm90.cu", "mla", "barrier_wait(full(1, LEFT), pair & 1);", "barrier_wait(full(1, LEFT), 0);"),
    ("mla: parity of the even tile's right half never turns", "mla_decode_sm90.cu", "mla", "barrier_wait(full(0, RIGHT), i & 1);", "barrier_wait(full(0, RIGHT), 0);"),
    ("mla: parity of K never turns", "mla_decode_sm90.cu", "mla", "barrier_wait(full(slot, half), pair & 1);", "barrier_wait(full(slot, half), 0);"),
    ("mla: parity of the rope columns never turns", "mla_decode_sm90.cu", "mla", "barrier_wait(full(slot, ROPE), pair & 1);", "barrier_wait(full(slot, ROPE), 0);"),
    ("mla: a part overwritten before it is read", "mla_decode_sm90.cu", "mla", "barrier_wait(empty(slot, part), pair & 1 ^ 1);", "barrier_wait(empty(slot, part), 1);"),
    ("mla kv8: a part overwritten before it is read", "mla_decode_sm90.cu", "mla", "t.pair & 1 ^ 1", "1"),
    ("* mla: wrong stride in V's descriptor", "mla_decode_sm90.cu", "mla", "a + 4 * i, descriptor(v + i * 2048, SLAB, 1024)", "a + 4 * i, descriptor(v + i * 2048, 1024, 1024)"),
    ("mla: shared P advances by the wrong step", "mla_decode_sm90.cu", "mla", "descriptor(shared + i * 32,", "descriptor(shared + i * 64,"),
    ("mla: rope columns advance by the wrong step", "mla_decode_sm90.cu", "mla", "descriptor(rope + i * 32,", "descriptor(rope + i * 64,"),
    ("mla: K advances by the wrong step", "mla_decode_sm90.cu", "mla", "b + slab * SLAB + i % 4 * 32", "b + slab * SLAB + i % 4 * 64"),
    ("* mla: shared P without a fence", "mla_decode_sm90.cu", "mla", "fence_async();", ""),
    ("mla: zeros without a fence", "common/nvidia.h", "mla", "fence_async();\n    __syncwarp();", "__syncwarp();"),
    ("* mla kv8: widened without a fence", "common/nvidia.h", "mla", "    }\n    fence_async();\n}", "    }\n}"),
    ("mla: registers of the left product not fenced", "mla_decode_sm90.cu", "mla", "rescale(w, c.shrink[0], c.shrink[1]);\n        wgmma_fence();", "rescale(w, c.shrink[0], c.shrink[1]);"),
    ("mla: registers of the right product not fenced", "mla_decode_sm90.cu", "mla", "barrier_wait(full(1, RIGHT), i & 1);\n            wgmma_fence();", "barrier_wait(full(1, RIGHT), i & 1);"),
    ("mla: splits overlap", "mla_decode_sm90.cu", "mla", "split * span)", "split * 2 * KEYS)"),
    ("mla: all splits' statistics in one place", "mla_decode_sm90.cu", "mla", "stats[out * p_.splits + split]", "stats[out * p_.splits]"),
    ("mla: the first maximum instead of both", "mla_decode_sm90.cu", "mla", "w.top[0] = max1[c.r0]; w.top[1] = max1[c.r0 + 8];", ""),
    ("mla: right half not rescaled by the even tile", "mla_decode_sm90.cu", "mla", "shrink[0] *= first0; shrink[1] *= first1;", ""),
    ("* mla: P stored without the swizzle", "mla_decode_sm90.cu", "mla", "((i / 2 ^ row & 7) << 4)", "((i / 2) << 4)"),
    ("mla: rope fragments of the wrong columns", "mla_decode_sm90.cu", "mla", "i / 4 * 16 + i / 2 % 2 * 8", "i / 4 * 16 + i % 2 * 8"),
    ("mla: half of V released early", "mla_decode_sm90.cu", "mla", "wgmma_wait<1>(); pin(w.o);\n            named_arrive(P1_FREE", "wgmma_wait<2>(); pin(w.o);\n            named_arrive(P1_FREE"),
    ("* mla: a part's readers miscounted", "mla_decode_sm90.cu", "mla", "part == ROPE || part == s ? 4 : 8", "4"),
    ("* mla: rows behind the last key left as they are", "mla_decode_sm90.cu", "mla", "KEYS, slabs(part), SLAB);", "0, slabs(part), SLAB);"),
    ("mla: one row too few becomes zeros", "mla_decode_sm90.cu", "mla", "max(rest - slot * KEYS, 0), KEYS), KEYS", "max(rest - slot * KEYS, 0) + 1, KEYS), KEYS"),
    ("mla: the last key becomes zeros", "mla_decode_sm90.cu", "mla", "min(max(rest - slot * KEYS, 0), KEYS), KEYS", "min(max(rest - slot * KEYS - 1, 0), KEYS), KEYS"),
    ("mla: zeros before the loads have landed", "mla_decode_sm90.cu", "mla", "barrier_wait(landed(), 0);", ""),
    ("mla: a wait for the first landing twice", "mla_decode_sm90.cu", "mla", "barrier_wait(landed(), 1);", "barrier_wait(landed(), 0);"),
    ("* mla: bytes expected before the part is free", "mla_decode_sm90.cu", "mla", "barrier_wait(empty(slot, part), pair & 1 ^ 1);\n            if (lane == 0 && expected) barrier_expect(bar, expected);", "if (lane == 0 && expected) barrier_expect(bar, expected);\n            barrier_wait(empty(slot, part), pair & 1 ^ 1);"),
    ("* mla: a stale page", "mla_decode_sm90.cu", "mla", "here = next;\n        }\n        if (!rest)", "if (i % 2) here = next;\n        }\n        if (!rest)"),
    ("mla: a tile's second box from the first's page", "common/nvidia.h", "mla", "row, from + i);", "row, from);"),
    ("mla: pages of the first sequence", "mla_decode_sm90.cu", "mla", "(u64)batch * ((p.keys", "(u64)0 * ((p.keys"),
    ("mla: a page's keys from its first on", "common/nvidia.h", "mla", "+ (key & (1 << shift) - 1) : key", ": key"),
    ("mla: boxes land on each other", "common/nvidia.h", "mla", "+ i * box_bytes, map", ", map"),
    ("mla: lengths of another sequence", "mla_decode_sm90.cu", "mla", "min(lengths[batch], p.keys)", "min(lengths[0], p.keys)"),
    ("mla: length off by one", "mla_decode_sm90.cu", "mla", "min(lengths[batch], p.keys)", "min(lengths[batch] + 1, p.keys)"),
    ("* mla kv8: widened over what others have yet to read", "common/nvidia.h", "mla", "named_sync(barrier, 128);", ""),
    ("mla kv8: widened before it has landed", "mla_decode_sm90.cu", "mla", "barrier_wait(landed(t.turn % 2), t.pair * 3 + t.turn / 2 & 1);", ""),
    ("mla kv8: pairs of columns swapped", "common/nvidia.h", "mla", "high ? 0x3424 : 0x1404", "high ? 0x1404 : 0x3424"),
    ("mla kv8: half as large", "common/nvidia.h", "mla", "0x7B807B80u", "0x7B007B00u"),
    ("mla kv8: a unit's neighbour without the swizzle", "common/nvidia.h", "mla", "row & 1 ? -16 : 16", "16"),
    ("mla kv8: slot 1's left half asked for too early", "mla_decode_sm90.cu", "mla", "late = ahead.turn == 5", "late = false"),
    ("mla kv8: V's scale forgotten", "mla_decode_sm90.cu", "mla", "scales[0] * value : scale, value}", "scales[0] * value : scale, 1}"),
    ("mla kv8: a stale page", "mla_decode_sm90.cu", "mla", "here = next; next = find", "if (t.pair % 2 == 0) here = next; next = find"),
    ("mla: denominator of one group only", "mla_decode_sm90.cu", "mla", "w.sum[r] + other[", "w.sum[r] + 0 * other["),
]


def prove(file, text, section):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for folder in ["common", "attention", "fibres"]:
            (scratch / folder).mkdir()
            for source in (KERNELS / folder).iterdir():
                if source.suffix in (".h", ".cu", ".cpp"):
                    (scratch / folder / source.name).symlink_to(source)
        target = scratch / file.parent.name / file.name
        target.unlink()
        target.write_text(text)
        program = scratch / "test"
        command = ["g++", "-O1", "-std=c++17", "-w", "-Wno-psabi", f"-DPARTS={PARTS[section]}", str(scratch / "fibres/attention_test.cpp"), "-o", str(program)]
        if subprocess.run(command).returncode:
            return None, "it does not compile"
        try:
            run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return 124, "timed out"
        return run.returncode, run.stdout + run.stderr


if __name__ == "__main__":
    sys.exit(all_caught([(what, KERNELS / (name if "/" in name else f"attention/{name}"), old, new, section) for what, name, section, old, new in BUGS], prove) != 0)
