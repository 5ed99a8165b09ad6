#!/usr/bin/env python3
"""Torch beside us: the same work by ridgepoint and by torch, in turns on the same device, since clocks, heat and neighbours drift.

    scripts/peers/torch_beside.py OUT_DIR [--device cpu|cuda] [--only attention|decode|gemm|copy ...] [--rounds N]
                                  [--ridgepoint PATH] [--seconds N] [--case ID ...] [--install] [--tiny]

In each round each case is run by both, in an order that turns from round to round. A ratio is torch's time over ours within a round,
both at their median: above 1 we are the faster. Best against best: the fastest of our providers (cuDNN, cublasLt, our kernels) and
the fastest of torch's ways (SDPA's backends, with and without fast accumulation), each chosen over all rounds. Vendor libraries are
those of torch's package on both sides.
Leaves torch.json (every round's figures) and torch.md (median ratio and its quartiles) in OUT_DIR; both are written as it goes, so
that running out of --seconds keeps what is done. Inputs are random normal on both sides, operand sets rotate so that each run finds
them cold. Needs torch; --install puts it into target/peers (some GB, where the package index gives the build for CUDA). Exit code 1
if a median ratio is under --goal (0.98), 3 where there is no torch or no device.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_SETS = 16
CPU = {
    "attention": [
        f"attention/prefill/b1hq{hq}hkv{hq}sq{s}sk{s}d{d}/{dtype}{mask}"
        for s, hq in ((1024, 8), (2048, 4), (4096, 2))
        for d in (64, 128)
        for dtype in ("f32", "bf16")
        for mask in ("", "/causal")
    ],
    "decode": [f"attention/decode/b4hq32hkv8sq1sk4096d128/{dtype}" for dtype in ("f32", "bf16")],
}
GPU = {
    "copy": ["memory/copy/4GiB/f32"],
    "gemm": [f"gemm/m{m}n{n}k{k}/{dtype}" for m, n, k in ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 8192, 8192)) for dtype in ("bf16", "f16", "e4m3")],
    "attention": [
        f"attention/prefill/{shape}d128/bf16{mask}"
        for shape in ("b1hq16hkv16sq16384sk16384", "b4hq16hkv16sq4096sk4096", "b1hq64hkv8sq8192sk8192")
        for mask in ("", "/causal")
    ],
    "decode": ["attention/decode/b128hq64hkv8sq1sk8192d128/bf16", "attention/decode/b1hq64hkv8sq1sk131072d128/bf16"],
}
TINY = {
    "copy": ["memory/copy/1MiB/f32"],
    "gemm": ["gemm/m64n64k64/bf16", "gemm/m64n96k32/f32"],
    "attention": ["attention/prefill/b1hq2hkv2sq64sk64d64/f32/causal", "attention/prefill/b1hq4hkv2sq64sk64d64/bf16"],
    "decode": ["attention/decode/b2hq4hkv2sq1sk128d64/f32"],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where torch sees one")
    parser.add_argument("--only", nargs="+", choices=("copy", "gemm", "attention", "decode"), default=[])
    parser.add_argument("--case", nargs="+", default=[], metavar="ID", help="these instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--goal", type=float, default=0.98)
    parser.add_argument("--ridgepoint", default=str(ROOT / "target/release/ridgepoint"))
    parser.add_argument("--install", action="store_true", help="put torch into target/peers first, if it is not here")
    parser.add_argument("--tiny", action="store_true", help="small shapes: whether this script works, not how fast anything is")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def find_torch(install):
    """Torch, or the same script again under a Python that has it."""
    try:
        import torch

        return torch
    except ImportError:
        pass
    python = ROOT / "target/peers/bin/python3"
    if install and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "numpy"], check=True)
    if python.exists() and pathlib.Path(sys.prefix).resolve() != python.parents[1].resolve():
        os.execv(python, [str(python), *sys.argv])
    print("torch_beside: no torch on this python3; --install puts it into target/peers", file=sys.stderr)
    sys.exit(3)


def libraries_of_torch():
    """Our environment with torch's own cuDNN and cublasLt first: both sides call the same ones, and the rest is ours to answer for."""
    folders = [str(folder) for site in sys.path for folder in pathlib.Path(site).glob("nvidia/*/lib")]
    folders += [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
    return os.environ | ({"LD_LIBRARY_PATH": ":".join(folders)} if folders else {})


def ours(args, case, seed):
    """Median seconds of each of our providers, the bytes of the work, and why others gave none."""
    device = "cpu" if args.device == "cpu" else "cuda:0"
    with tempfile.TemporaryDirectory() as folder:
        command = [args.ridgepoint, "run", case, "--device", device, "--quick", "--seed", str(seed), "--format", "json", "--out", f"{folder}/r"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=libraries_of_torch())
    found, reasons, work = {}, {}, {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        if record.get("kind") != "record" or record["case"] != case:
            continue
        work = record["work"]
        if record["outcome"] == "measured":
            found[record["provider"]] = statistics.median(record["samples"]["seconds"])
        else:
            reasons[record["provider"]] = f"{record['outcome']}: {record.get('reason', '')}"
    if not found and not reasons:
        reasons["ridgepoint"] = f"exit {done.returncode}: {done.stderr.strip()[-300:]}"
    return found, work, reasons


class Timer:
    """Median seconds of a few calls, on the device's clock."""

    def __init__(self, torch, device):
        self.torch, self.device = torch, device

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def one(self, call):
        if self.device == "cuda":
            start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            return start, end
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def median(self, calls, warm=0.05, least=10, seconds=0.2):
        """As long as our quick profile: who runs longer runs hotter, at lower clocks."""
        for call in calls:
            call()
        self.wait()
        began, n = time.perf_counter(), 0
        while time.perf_counter() - began < warm or n == 0:
            for call in calls:
                call()
                n += 1
            self.wait()
        each = (time.perf_counter() - began) / n
        # On a CPU a call may take a second: at least five samples, else ten.
        count = max(least if each < 0.05 else 5, min(500, int(seconds / max(each, 1e-7))))
        samples = [self.one(calls[i % len(calls)]) for i in range(count)]
        self.wait()
        if self.device == "cuda":
            samples = [start.elapsed_time(end) / 1e3 for start, end in samples]
        return statistics.median(samples)


class Torch:
    """The same cases by torch."""

    def __init__(self, torch, device):
        self.torch, self.device, self.timer = torch, device, Timer(torch, device)
        self.types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}
        cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 64 << 20
        self.cold = 2 * cache

    def random(self, dtype, *shape):
        if dtype == "e4m3":
            return self.torch.randn(*shape, device=self.device).to(self.types[dtype])
        return self.torch.randn(*shape, device=self.device, dtype=self.types[dtype])

    def sets(self, nbytes):
        return max(1, min(MOST_SETS, self.cold // max(nbytes, 1) + 1))

    def ways(self, case, work):
        """Name of each way to do it, and calls over different operands."""
        if case.startswith("memory/copy/"):
            n = work["bytes"] // 8
            pairs = [(self.random("f32", n), self.random("f32", n)) for _ in range(self.sets(8 * n))]
            yield "copy_", [lambda a=a, b=b: b.copy_(a) for a, b in pairs]
        elif gemm := re.fullmatch(r"gemm/m(\d+)n(\d+)k(\d+)/(\w+)", case):
            m, n, k = map(int, gemm.groups()[:3])
            yield from self.products(m, n, k, gemm[4])
        elif attention := re.fullmatch(r"attention/(?:prefill|decode)/b(\d+)hq(\d+)hkv(\d+)sq(\d+)sk(\d+)d(\d+)/(\w+)(/causal)?", case):
            sizes = list(map(int, attention.groups()[:6]))
            yield from self.attentions(*sizes, attention[7], bool(attention[8]))
        else:
            raise ValueError(f"no way to do {case} with torch is known here")

    def products(self, m, n, k, dtype):
        size = self.types[dtype].itemsize
        operands = [(self.random(dtype, m, k), self.random(dtype, n, k).t()) for _ in range(self.sets(size * (m * k + n * k)))]
        if dtype != "e4m3":
            yield "mm", [lambda a=a, b=b: self.torch.mm(a, b) for a, b in operands]
            return
        one = self.torch.ones((), device=self.device)
        for name, fast in (("scaled_mm", False), ("scaled_mm fast", True)):
            yield name, [
                lambda a=a, b=b: self.torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=self.torch.bfloat16, use_fast_accum=fast)
                for a, b in operands
            ]

    def attentions(self, b, hq, hkv, sq, sk, d, dtype, causal):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if causal and sq != sk:
            raise ValueError("torch aligns a causal mask at the start, we at the end: they differ but for squares")
        attend = self.torch.nn.functional.scaled_dot_product_attention
        size = self.types[dtype].itemsize * b * d * (hq * sq + 2 * hkv * sk)
        operands = [[self.random(dtype, b, h, s, d) for h, s in ((hq, sq), (hkv, sk), (hkv, sk))] for _ in range(self.sets(size))]
        names = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION") if self.device == "cuda" else ("FLASH_ATTENTION", "MATH")
        for name in names:

            def call(q, k, v, backend=getattr(SDPBackend, name)):
                with sdpa_kernel(backend):
                    attend(q, k, v, is_causal=causal, enable_gqa=hq != hkv)

            yield f"sdpa {name.split('_')[0].lower()}", [lambda o=o, call=call: call(*o) for o in operands]

    def run(self, case, work):
        found, reasons = {}, {}
        with self.torch.inference_mode():
            for name, calls in self.ways(case, work):
                try:
                    found[name] = self.timer.median(calls)
                except (RuntimeError, AttributeError, TypeError) as error:
                    reasons[name] = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        if self.device == "cuda":
            self.torch.cuda.empty_cache()
        return found, reasons


def best(rounds, side):
    """The fastest name of a side over all rounds that have it."""
    names = {name for r in rounds for name in r[side]}
    return min(names, key=lambda name: statistics.median(r[side][name] for r in rounds if name in r[side]), default=None)


def row(case, rounds, reasons):
    """What the rounds of a case say."""
    mine, theirs = best(rounds, "ours"), best(rounds, "torch")
    result = {"case": case, "rounds": rounds, "reasons": reasons, "provider": mine, "backend": theirs}
    both = [r for r in rounds if mine in r["ours"] and theirs in r["torch"]]
    if both:
        ratios = sorted(r["torch"][theirs] / r["ours"][mine] for r in both)
        quarters = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        result |= {"ratio": quarters[1], "low": quarters[0], "high": quarters[2]}
        result["seconds"] = {s: statistics.median(r[s][n] for r in both) for s, n in (("ours", mine), ("torch", theirs))}
    return result


def figure(work, case, seconds):
    """TFLOP/s, or GB/s of what memory bounds."""
    if case.startswith("memory/") or "decode/" in case:
        return f"{work['bytes'] / seconds / 1e9:.1f} GB/s"
    return f"{work['flops'] / seconds / 1e12:.3g} TFLOP/s"


def markdown(facts, rows, works):
    words = [f"{name} {value}" for name, value in facts.items() if value]
    lines = ["# Torch beside us", "", ", ".join(words) + ". Ratio: torch's time over ours, median of the rounds and [quartiles].", ""]
    lines += ["| case | ours | | torch | | ratio | rounds |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        if "ratio" not in r:
            why = "; ".join(f"{name}: {reason}" for name, reason in r["reasons"].items()) or "not run: out of time"
            lines.append(f"| {r['case']} | {why} | | | | | |")
            continue
        mine, theirs = (figure(works[r["case"]], r["case"], r["seconds"][side]) for side in ("ours", "torch"))
        lines.append(
            f"| {r['case']} | {r['provider']} | {mine} | {r['backend']} | {theirs} | {r['ratio']:.3f} [{r['low']:.3f} {r['high']:.3f}] | {len(r['rounds'])} |"
        )
    return "\n".join(lines) + "\n"


def main():
    args = arguments()
    torch = find_torch(args.install)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch_beside: torch sees no CUDA device", file=sys.stderr)
        sys.exit(3)
    cases = TINY if args.tiny else GPU if args.device == "cuda" else CPU
    cases = args.case or [case for group, ids in cases.items() if not args.only or group in args.only for case in ids]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts = {"torch": torch.__version__, "on": args.device}
    if args.device == "cuda":
        facts |= {"device": torch.cuda.get_device_name(), "CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    else:
        facts["threads"] = torch.get_num_threads()
    them, end = Torch(torch, args.device), time.monotonic() + args.seconds
    rounds, reasons, works, rows = {c: [] for c in cases}, {c: {} for c in cases}, {}, []
    for turn in range(args.rounds):
        for case in cases:
            if time.monotonic() > end:
                break
            if turn and not rounds[case]:
                continue  # It could not be done in the first round.
            # Torch is told the work by our record: the first round begins with us.
            done = {}
            for side in ("ours", "torch") if turn % 2 == 0 else ("torch", "ours"):
                if side == "ours":
                    done["ours"], work, why = ours(args, case, turn + 1)
                    works[case] = work or works.get(case)
                else:
                    try:
                        done["torch"], why = them.run(case, works.get(case)) if works.get(case) else ({}, {})
                    except (RuntimeError, ValueError, AttributeError) as error:
                        done["torch"], why = {}, {"torch": str(error).splitlines()[0][:200]}
                reasons[case] |= why
            if done["ours"] or done["torch"]:
                rounds[case].append(done)
            rows = [row(c, rounds[c], reasons[c]) for c in cases]
            (args.out / "torch.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
            (args.out / "torch.md").write_text(markdown(facts, rows, works))
            shown = row(case, rounds[case], reasons[case])
            print(f"round {turn + 1} of {args.rounds}  {case}  " + (f"ratio {shown['ratio']:.3f}" if "ratio" in shown else f"{reasons[case]}"), flush=True)
    print()
    print(markdown(facts, rows, works), end="")
    missed = [r["case"] for r in rows if "ratio" in r and r["ratio"] < args.goal]
    if missed:
        print(f"\nunder {args.goal}: " + ", ".join(missed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
