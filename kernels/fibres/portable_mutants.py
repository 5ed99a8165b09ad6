#!/usr/bin/env python3
"""Plants one bug at a time in the portable attention kernels, flash and softmax, and asks that their proofs on the host catch each.

usage: portable_mutants.py [--all] [word…]   (one bug of each kind; all of them; only those whose description has a word)
"""
import sys

from planted import KERNELS, all_caught, outcome

# Which proof, and of what.
FLASH, SOFTMAX = (("portable_test", KERNELS / "attention/flash_portable.cu"), ("softmax_test", KERNELS / "attention/softmax.cu"))
# what, old text, new text
BUGS = [
    ("* window off by one", "key > sees - p.window", "key >= sees - p.window"),
    ("* output not rescaled", "out[c] * shrinks[mine]", "out[c]"),
    ("* a stale page", "table[key / p.page]", "table[(key < p.page ? key : key - p.page) / p.page]"),
    ("* the sink dropped", "sums[t] = sinks ? 1.f : 0.f", "sums[t] = 0.f"),
    ("* the scale of V dropped", "value / sums[mine]", "1 / sums[mine]"),
    ("* the length of a sequence ignored", "lengths ? lengths[sequence] : p.keys, offset", "p.keys, offset"),
    ("mask off by one", "(key <= sees &&", "(key < sees &&"),
    ("the window's first tile left out", "1 - p.window) / T * T", "1 - p.window) / T * T + T"),
    ("window's tiles of 32 whatever the width", "1 - p.window) / T * T", "1 - p.window) / T * 32"),
    ("columns of a row's last threads dropped", "(DV + LANES - 1) / LANES", "DV / LANES"),
    ("sum not rescaled", "sums[t] * shrinks[t] + sum", "sums[t] + sum"),
    ("the head within a page forgotten", "+ kv_head % heads_kv) * p.page", ") * p.page"),
    ("the scale of K dropped", "p.scale * scales[0] * scales[1]", "p.scale * scales[0]"),
    ("another head's sink", "sinks[head % p.heads]", "sinks[0]"),
    ("the encoding's bias off by one", "(rp_u32)(127 - BIAS)", "(rp_u32)(128 - BIAS)"),
    ("rows of V taken to be as long as it is wide", "V_STRIDE = RP_SHARED_KV ? D : DV", "V_STRIDE = DV"),
]
OF_SOFTMAX = [
    ("* mask off by one", "(r % queries) + 1 + keys", "(r % queries) + keys"),
    ("* a sum not rescaled", "mine.sum *= rp_exp(mine.top - top);", ""),
    ("* what is masked left as it was", "at < keys; at += kThreads * W", "at < seen; at += kThreads * W"),
    ("the head taken for queries", "(r % queries)", "(r)"),
    ("one warp's sums alone", "w < kThreads / RP_WARP", "w < 1"),
]


if __name__ == "__main__":
    planted = [(what, file, old, new, proof) for (proof, file), bugs in ((FLASH, BUGS), (SOFTMAX, OF_SOFTMAX)) for what, old, new in bugs]
    sys.exit(all_caught(planted, lambda changed, proof: outcome(proof, [], changed, True)) != 0)
