#!/usr/bin/env python3
"""Proves the GEMM kernels on the host, then plants one bug at a time and asks that the proof catch each.

usage: gemm_test.py [--all] [word…]   (a first choice of variants and bugs; all of them; only those whose description has a word)
"""
import sys

from planted import KERNELS, all_caught, outcome, wrong

GEMM = KERNELS / "gemm"
# What the device's header is to the kernels.
RP = {KERNELS / "common/rp.h": '#include "../fibres/portable.h"\n'}
WGMMA, HOPPER, BLOCK, MMA = "wgmma_sm90.cu", "hopper.h", "wgmma_block_sm90.cu", "mma_sm80.cu"
TILE, TCGEN05, GEMV, COMBINE = "tile.cu", "tcgen05_sm100.cu", "gemv.cu", "combine.cu"
PROVEN_IN = {HOPPER: WGMMA, COMBINE: MMA}    # whose proof is theirs
SPLIT_WGMMA = "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BUFFERS=1 RP_SPLIT=1 RP_C=bf16"
SPLIT_MMA = "RP_DTYPE=f16 RP_OUT=f32 RP_BN=128 RP_STAGES=4 RP_SPLIT=1 RP_C=f16"
BATCH_WGMMA = "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=6 RP_CLUSTER=2 RP_BATCH=3"
SCALED_WGMMA = "RP_DTYPE=e4m3 RP_DTYPE_B=e5m2 RP_OUT=f16 RP_BN=256 RP_STAGES=3 RP_CLUSTER=2 RP_SCALES=1"
SCALED_BATCH = "RP_DTYPE=e5m2 RP_DTYPE_B=e4m3 RP_OUT=f32 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_SCALES=1 RP_BATCH=2"
BLOCK_WIDE = "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2"
BLOCK_BATCH = "RP_DTYPE=e4m3 RP_DTYPE_B=e5m2 RP_OUT=f32 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BATCH=2"
BATCH_MMA = "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=4 RP_BATCH=3"

VARIANTS = [
    (WGMMA, "RP_DTYPE=bf16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2"),
    (WGMMA, "RP_DTYPE=bf16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=1 RP_GROUP=2"),
    (WGMMA, "RP_DTYPE=bf16 RP_BN=192 RP_STAGES=4 RP_CLUSTER=2 RP_GROUP=1 RP_BUFFERS=2"),
    (WGMMA, "RP_DTYPE=f16 RP_BN=128 RP_STAGES=6 RP_CLUSTER=4"),
    (WGMMA, "RP_DTYPE=f16 RP_BN=64 RP_STAGES=2 RP_CLUSTER=2"),
    (WGMMA, "RP_DTYPE=tf32 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2"),
    (WGMMA, "RP_DTYPE=bf16 RP_OUT=f32 RP_BN=128 RP_STAGES=3 RP_CLUSTER=2"),
    (WGMMA, "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=3 RP_CLUSTER=2 RP_BUFFERS=4"),
    (WGMMA, SCALED_WGMMA),
    (WGMMA, "RP_DTYPE=e5m2 RP_OUT=f16 RP_BN=256 RP_STAGES=3 RP_CLUSTER=1"),
    (MMA, "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=4"),
    (MMA, "RP_DTYPE=f16 RP_BN=256 RP_STAGES=3 RP_GROUP=1"),
    (MMA, "RP_DTYPE=tf32 RP_BN=128 RP_STAGES=3"),
    (MMA, "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4"),
    (MMA, "RP_DTYPE=e5m2 RP_OUT=f32 RP_BN=128 RP_STAGES=5"),
    (TILE, "RP_DTYPE=f32"),
    (TILE, "RP_DTYPE=bf16 RP_GROUP=1"),
    (TILE, "RP_DTYPE=f16 RP_OUT=f32"),
    (TCGEN05, "RP_DTYPE=bf16 RP_BN=64 RP_STAGES=4"),
    (TCGEN05, "RP_DTYPE=f16 RP_BN=256 RP_STAGES=3 RP_GROUP=1"),
    (TCGEN05, "RP_DTYPE=tf32 RP_BN=128 RP_STAGES=2"),
    (TCGEN05, "RP_DTYPE=e4m3 RP_BN=128 RP_STAGES=4"),
    (TCGEN05, "RP_DTYPE=e5m2 RP_OUT=f32 RP_BN=256 RP_STAGES=4"),
    (TILE, "RP_DTYPE=bf16 RP_GROUPED=1"),
    (TILE, "RP_DTYPE=f32 RP_GROUPED=1"),
    (GEMV, "RP_DTYPE=bf16 RP_M=5"),
    (GEMV, "RP_DTYPE=f32 RP_M=1"),
    (GEMV, "RP_DTYPE=f16 RP_M=8 RP_ROWS=2 RP_DEEP=4"),
    (WGMMA, SPLIT_WGMMA),
    (WGMMA, "RP_DTYPE=e4m3 RP_BN=128 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=1 RP_SPLIT=1 RP_C=f32"),
    (MMA, SPLIT_MMA),
    (WGMMA, BATCH_WGMMA),
    (MMA, BATCH_MMA),
    (WGMMA, SCALED_BATCH),
    (BLOCK, BLOCK_WIDE),
    (BLOCK, BLOCK_BATCH),
]

# Those that every run proves: one of each file and operand width.
FIRST = [0, 8, 10, 13, 15, 16, 18, 21, 23, 25, 27, 28, 30, 31, 32, 34, 35]

# what, old text, new text; each in the first variant of its file or in the one named; * for one of each kind (planted.py)
BUGS = {
    WGMMA: [
        ("* parts land on each other", "parts + (size_t)walk.layer * m * n", "parts", SPLIT_WGMMA),
        ("* a part adds to the one before", "at.b(ring), block - first);", "at.b(ring), block);", SPLIT_WGMMA),
        ("columns beyond N written", "at_y < m && at_x < n", "at_y < m", SPLIT_WGMMA),
        ("rows of a fragment swapped", "i / 2 % 2 * 8", "(1 - i / 2 % 2) * 8", SPLIT_WGMMA),
        ("a part's first stage not awaited", "block > first)", "block > 0)", SPLIT_WGMMA),
        ("* stage released while it is read", "release(previous, at.thread);\n                previous", "release(at.empty(ring), at.thread);\n                previous"),
        ("accumulators read before the products end", "multiply_wait<0>(d);\n            release(previous", "multiply_wait<1>(d);\n            release(previous"),
        ("last stage of a tile never released", "            release(previous, at.thread);\n#if", "#if"),
        ("* products stored over the first", "column, walk.layer, alpha", "column, 0, alpha", BATCH_WGMMA),
        ("* tail of K dropped", "(k + kBlockK - 1) / kBlockK", "(k > kBlockK ? k / kBlockK : 1)"),
        ("* block leaves its cluster early", "    cluster_sync();    // no block", "    // no block"),
        ("* sum carried over from the last tile", "at.b(ring), block - first)", "at.b(ring), 1)"),
        ("stores still reading at the end", "wait_stores_done();\n#endif\n    }", ";\n#endif\n    }"),
        ("second half of C's rows stored over the first", "(d, &map_c, at.buffers(), row + consumer * 64", "(d, &map_c, at.buffers(), row"),
        ("* scales dropped", "scales.apply(d);", "", SCALED_WGMMA),
        ("* a scale of another column", "j % 8 * 4 + lane % 4", "j % 4 * 4 + lane % 4", SCALED_WGMMA),
        ("scales of two rows swapped", "rows[0] * scale", "rows[1] * scale", SCALED_WGMMA),
        ("scales of a tile's first columns", "column + i / 2 * 64", "i / 2 * 64", SCALED_WGMMA),
        ("both consumers scale by the first one's rows", "row + consumer * 64, column, m, n, at.thread);", "row, column, m, n, at.thread);", SCALED_WGMMA),
        ("every product scaled as the first", "scale_b + (size_t)walk.layer * n", "scale_b", SCALED_BATCH),
    ],
    HOPPER: [
        ("* a part begins where another does", "(int)((long long)k_blocks * layer / layers) : 0", "0 : 0", SPLIT_WGMMA),
        ("last stage of a part left out", "k_blocks * (layer + 1) / layers)", "k_blocks * (layer + 1) / layers) - (layer + 1 < layers)", SPLIT_WGMMA),
        ("* producer waits for the wrong parity", "ring.parity ^ 1)", "ring.parity)"),
        ("parity never turns", "parity ^= 1;", ""),
        ("* store swizzle dropped", "^ (row & 7)", ""),
        ("descriptor with the wrong stride", "(64ull << 32)", "(32ull << 32)"),
        ("* descriptor without the swizzle", "(1ull << 62)", "(2ull << 62)"),
        ("wrong step along K", "da + 2 * step", "da + 4 * step"),
        ("other blocks' consumers not awaited", "kConsumers * RP_CLUSTER);", "kConsumers);"),
        ("stage freed for this block only", "barrier_arrive(empty, thread)", "barrier_arrive(empty, blockIdx.x % 2)"),
        ("* too few bytes expected", "barrier_expect(at.full(ring), kStageBytes)", "barrier_expect(at.full(ring), kBytesA)"),
        ("* slices of B land on each other", " + at.rank * kSliceB", ""),
        ("every block fetches the same slice", "column + at.rank * (RP_BN / RP_CLUSTER)", "column"),
        ("* every product of the first A", "block * kBlockK, row, walk.product()", "block * kBlockK, row, 0", BATCH_WGMMA),
        ("every product of the first B", "(RP_BN / RP_CLUSTER), walk.product()", "(RP_BN / RP_CLUSTER), 0", BATCH_WGMMA),
        ("last product left out", "if (layer >= layers)", "if (layer + 1 >= layers)", BATCH_WGMMA),
        ("alpha dropped", "alpha * f[0]", "f[0]"),
        ("tail of M dropped", "(m + kBlockM * RP_CLUSTER - 1)", "(m > 256 ? m : 256)"),
        ("store buffer reused while it is read", "wait_stores_read<RP_BUFFERS - 1>", "wait_stores_read<RP_BUFFERS>"),
        ("next tile overwrites a buffer being stored", "wait_stores_read<0>();\n            if", "wait_stores_read<2>();\n            if"),
        ("no fence before the store", "fence_for_copies();\n", "\n"),
        ("store before everyone has written", "        warpgroup_sync(consumer);\n        if (thread == 0) store_tile", "        if (thread == 0) store_tile"),
        ("short band walked as a full one", "min(rows - first, RP_GROUP)", "RP_GROUP"),
        ("consumers share A's rows", "(warpgroup - 1) * 64 * 128", "0"),
        ("* matrices of C in the wrong order", "warp * 16 + lane % 16, unit = lane / 16", "warp * 16 + lane / 16 * 8 + lane % 8, unit = lane / 8 % 2"),
    ],
    BLOCK: [
        ("* a scale of another block of K", "(size_t)block * m + min", "(size_t)(block / 2) * m + min"),
        ("* scale of B dropped", "scales.rows[0] * scales.parts[part]", "scales.rows[0]"),
        ("* last block left out", "sum[part * kFragment + i] +=", "if (block + 1 < k_blocks) sum[part * kFragment + i] +="),
        ("scales a block late", "min(block + 1, k_blocks - 1)", "block"),
        ("both halves scaled as the first", "column / 128 + part", "column / 128"),
        ("scales of a row eight further down", "row + i * 8, m - 1", "row, m - 1"),
        ("* a block begins with the sum of the last", "part * RP_N * 128, 0);", "part * RP_N * 128, block);"),
        ("second half multiplied with the first's columns", "+ part * RP_N * 128", ""),
        ("sum carried over from the last tile", "sum[i] = 0.0f;", "sum[i] = walk.at > (int)walk.step * 2 ? sum[i] : 0.0f;"),
        ("products read before they end", "multiply_wait<0>(d);", "multiply_wait<1>(d);"),
        ("* stage released while it is read", "if (part == kParts - 1) release", "if (part == 0) release"),
        ("* every product scaled as the first", "(size_t)walk.layer * k_blocks * m", "0", BLOCK_BATCH),
        ("every product's B scaled as the first", "(size_t)walk.layer * k_blocks * ((n", "0 * ((n", BLOCK_BATCH),
    ],
    COMBINE: [
        ("* last part left out", "s < splits;", "s < splits - 1;", SPLIT_MMA),
        ("* one part added twice", "parts + s * elements + i", "parts + i", SPLIT_MMA),
        ("alpha dropped", "alpha * sum", "sum", SPLIT_MMA),
        ("elements of a thread mixed up", "rp_scaled(sum.v[x], alpha), &out", "rp_scaled(sum.v[3 - x], alpha), &out", SPLIT_MMA),
    ],
    MMA: [
        ("* parts land on each other", "(size_t)layer * m * n", "(size_t)0", SPLIT_MMA),
        ("* a part goes on to the end", "blocks = (int)((long long)blocks * (layer + 1) / splits);", "", SPLIT_MMA),
        ("* products a row apart", "(size_t)product * n + column", "(size_t)product * m + column", BATCH_MMA),
        ("every product of the first A", "(size_t)product * m + row", "(size_t)row", BATCH_MMA),
        ("* stage read before it has landed", "wait_fetched<RP_STAGES - 2>();\n                __sync", "wait_fetched<RP_STAGES - 1>();\n                __sync"),
        ("stage overwritten while it is read", "                __syncthreads();\n                reading", "                reading"),
        ("* A's matrices in the wrong order", "i * 16 + lane % 16, step * 2 + lane / 16", "i * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2"),
        ("B's matrices in the wrong order", "j * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2", "j * 8 + lane % 16, step * 2 + lane / 16"),
        ("rows beyond M read", "inside && row + i < rows_a", "inside && row + i < rows_a + 1"),
        ("K beyond the row read", "bool inside = x < k_bytes;", "bool inside = x < k_bytes + 16;"),
        ("columns beyond N written", "x < n * RP_OUT_BYTES)", "x < n * RP_OUT_BYTES + 16)"),
        ("* rows beyond M written", "y < m &&", "y <= m &&"),
        ("alpha dropped", "alpha * d[i][j][2]", "d[i][j][2]"),
        ("patch reused while it is read", "        __syncwarp();\n    }\n}", "    }\n}"),
        ("* patch read before it is written", "        __syncwarp();\n#pragma", "#pragma"),
        ("tail of K dropped", "(k_bytes + kRowBytes - 1) / kRowBytes", "(k_bytes > kRowBytes ? k_bytes / kRowBytes : 1)"),
        ("warps share their columns", "warp / 2 * 64;", "0;"),
    ],
    TCGEN05: [
        ("* stage read before it has landed", "barrier_wait(full + 8 * ring.stage, ring.parity);", "barrier_wait(full + 8 * ring.stage, ring.parity ^ 1);"),
        ("* stage refilled while it is read", "barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);", ""),
        ("* sum read before it is whole", "barrier_wait(done, 0);", ""),
        ("* sum never begun", "block > 0 || step > 0", "1"),
        ("sum begun again each stage", "block > 0 || step > 0", "step > 0"),
        ("* descriptor with the wrong stride", "(64ull << 32)", "(32ull << 32)"),
        ("descriptor of wgmma's version", " | (1ull << 46)", ""),
        ("wrong step along K", "a + 2 * step", "a + 4 * step"),
        ("* another type in the instruction", "RP_OF_TYPE(RP_NUMBER_OF) << 7", "3u << 7"),
        ("* warps read each other's lanes", "d + (warp * 32 << 16) + x", "d + ((warp ^ 1) * 32 << 16) + x"),
        ("address of the columns left out", "tensor_read(v, d + (", "tensor_read(v, ("),
        ("* rows beyond M written", "if (y < m) write_row", "if (y <= m) write_row"),
        ("columns beyond N written", "if (column + i >= n) return;", "if (column + i > n) return;"),
        ("* tail of K dropped", "(k + kBlockK - 1) / kBlockK", "(k > kBlockK ? k / kBlockK : 1)"),
        ("alpha dropped", "pack(alpha * d[i + 2]", "pack(d[i + 2]"),
        ("too few bytes expected", "barrier_expect(bar, kStageBytes)", "barrier_expect(bar, kBytesA)"),
        ("columns given back before they are read", "    __syncthreads();\n    tensor_fence_after();\n    if (warp == kIssuer) tensor_give", "    if (warp == kIssuer) tensor_give"),
    ],
    TILE: [
        ("* tile read before it is placed", "    rp_sync();\n", ""),
        ("one buffer only", "half ^= 1", "half ^= 0"),
        ("* tail of K not zeroed", "y < rows && x < k ?", "y < rows ?"),
        ("rows beyond M written", "if (r < m && q < n)", "if (q < n)"),
        ("columns beyond N written", "if (r < m && q < n)", "if (r < m)"),
        ("alpha dropped", "alpha * sum[i][j]", "sum[i][j]"),
        ("* corners of a thread's square swapped", "ty + i % 4 + i / 4 * 64", "ty + i % 4 + (1 - i / 4) * 64"),
        ("short band walked as a full one", "tiles_m - first < RP_GROUP ? tiles_m - first : RP_GROUP", "RP_GROUP"),
        ("* every group multiplied with the first B", "((rp_u64)group * n + column)", "((rp_u64)column)", "RP_DTYPE=f32 RP_GROUPED=1"),
        ("* rows counted from the first group", "((rp_u64)from + row) * k", "((rp_u64)row) * k", "RP_DTYPE=f32 RP_GROUPED=1"),
        ("a group's last tile written into the next group", "m = offsets[group + 1] - from;\n  }", "m = offsets[groups] - from;\n  }", "RP_DTYPE=f32 RP_GROUPED=1"),
        ("blocks without a tile go on", "if (++group == groups) return;", "++group;", "RP_DTYPE=f32 RP_GROUPED=1"),
    ],
    GEMV: [
        ("* lanes not added up", "mask > 0; mask /= 2", "mask > 1; mask /= 2"),
        ("* rows past the last written", "lane == 0 && column + j < n", "lane == 0"),
        ("* aligned loads of rows that are not", "if (k % RP_EACH == 0)", "if (true)"),
        ("rows of A mixed up", "rp_load16<RP_CACHED>(a + (rp_u64)i * k + at)", "rp_load16<RP_CACHED>(a + at)"),
        ("one round along K", "first += RP_DEEP * step", "first += k"),
    ],
}


def prove(variant, changed={}, planted=False):
    name, *defines = variant.split()
    return outcome("gemm_test", [f'KERNEL="../gemm/{name}"', f"KIND_{name.removesuffix('.cu').split('_sm')[0]}", *defines], {**RP, **changed}, planted)


def main():
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    everything = "--all" in sys.argv
    bad = wrong([v for i, v in enumerate(map(" ".join, VARIANTS)) if (any(w in v for w in words) if words else everything or i in FIRST)], prove)
    first = dict(reversed(VARIANTS))
    bugs = [(what, GEMM / name, old, new, f"{proof} {told[0] if told else first[proof]}") for name, bugs in BUGS.items() for proof in [PROVEN_IN.get(name, name)] for what, old, new, *told in bugs]
    return bad + all_caught(bugs, lambda changed, variant: prove(variant, changed, True)) != 0


if __name__ == "__main__":
    sys.exit(main())
