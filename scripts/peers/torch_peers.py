#!/usr/bin/env python3
"""What a user would reach for instead, on this GPU: torch's copy, GEMM and attention, as JSON beside our own run.

    python3 torch_peers.py OUT_DIR [--seconds 240]

Needs only PyTorch. Every section is independent: what fails is recorded with its error and the rest goes on.
Random normal inputs, operands rotated over more than the L2, device events, median of at least 20 samples, and the SM
clock and power read through NVML around each figure. Work is counted as in docs/conventions.md.
"""
import argparse, glob, json, os, pathlib, statistics, subprocess, sys, time, traceback

ap = argparse.ArgumentParser()
ap.add_argument("out")
ap.add_argument("--seconds", type=float, default=240)
args = ap.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)
deadline = time.monotonic() + args.seconds
rows, facts = [], {}


def save():
    (out / "torch.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))


def section(f):
    if time.monotonic() > deadline:
        rows.append({"case": f.__name__, "skipped": "out of time"})
    else:
        try:
            f()
        except Exception as e:  # recorded, never hidden
            rows.append({"case": f.__name__, "error": repr(e), "trace": traceback.format_exc(limit=3)})
    save()


def environment():
    facts["nvidia-smi"] = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True).stdout
    places = ["/usr/local/cuda*/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/local/nvidia/lib64", *(p + "/nvidia/*/lib" for p in sys.path if p)]
    names = ["libcuda.so*", "libnvrtc*.so*", "libcublasLt.so*", "libcudnn*.so*", "libnccl.so*", "libnvidia-ml.so*"]
    facts["libraries"] = sorted({f for d in places for n in names for f in glob.glob(os.path.join(d, n))})


section(environment)
try:
    import torch
    import torch.nn.functional as F
except ImportError as e:
    rows.append({"case": "torch", "error": repr(e)})
    save()
    sys.exit("no torch here: only the environment was recorded")
if not torch.cuda.is_available():
    rows.append({"case": "torch", "error": "no CUDA device"})
    save()
    sys.exit("no CUDA device: only the environment was recorded")
facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
          "device": torch.cuda.get_device_name(), "sms": torch.cuda.get_device_properties(0).multi_processor_count}
try:
    import pynvml
    pynvml.nvmlInit()
    nv = pynvml.nvmlDeviceGetHandleByIndex(0)
except Exception:
    nv = None


def measure(case, fns, flops=0, nbytes=0, **extra):
    """fns: callables over different operands, so that repeats don't sit in the cache."""
    if time.monotonic() > deadline:
        rows.append({"case": case, "skipped": "out of time"})
        return
    for f in fns:
        f()
    torch.cuda.synchronize()
    t0 = time.monotonic()
    while time.monotonic() - t0 < 0.3:  # to steady clocks
        for f in fns:
            f()
        torch.cuda.synchronize()
    t0 = time.monotonic()
    for f in fns:
        f()
    torch.cuda.synchronize()
    each = (time.monotonic() - t0) / len(fns)
    rounds = max(-(-20 // len(fns)), min(int(1.0 / each), 500) // len(fns))  # at least 20 samples, about a second
    samples = []
    for f in fns * rounds:
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); f(); b.record()
        samples.append((a, b))
    clock = pynvml.nvmlDeviceGetClockInfo(nv, pynvml.NVML_CLOCK_SM) if nv else None  # work is still queued here
    power = pynvml.nvmlDeviceGetPowerUsage(nv) / 1000 if nv else None
    torch.cuda.synchronize()
    ms = sorted(a.elapsed_time(b) for a, b in samples)
    med = statistics.median(ms) / 1e3
    row = {"case": case, "median_s": med, "p5_s": ms[len(ms) // 20] / 1e3, "p95_s": ms[-1 - len(ms) // 20] / 1e3, "n": len(ms),
           "sm_mhz": clock, "power_w": power, **extra}
    if flops: row["tflops"] = flops / med / 1e12
    if nbytes: row["gbps"] = nbytes / med / 1e9
    rows.append(row)
    save()
    print(case, *(f"{row[k]:.1f} {k}" for k in ("tflops", "gbps") if k in row), f"{clock} MHz", flush=True)


def memory():
    n = 1 << 30
    a, b, c = (torch.randn(n, device="cuda", dtype=torch.float32) for _ in range(3))
    measure("memory/copy/4GiB", [lambda: b.copy_(a)], nbytes=8 * n)
    measure("memory/triad/4GiB", [lambda: torch.add(a, b, alpha=3.0, out=c)], nbytes=12 * n)
    measure("memory/read/4GiB", [lambda: a.sum()], nbytes=4 * n)
    measure("memory/write/4GiB", [lambda: a.fill_(1.5)], nbytes=4 * n)


def gemm():
    shapes = [(4096,) * 3, (8192,) * 3, (16384, 8192, 8192), (64, 7168, 16384), (16, 8192, 8192), (4096, 14336, 4096)]
    for m, n, k in shapes:
        for name, dt in (("bf16", torch.bfloat16), ("f16", torch.float16)):
            sets = max(2, (256 << 20) // (2 * (m * k + k * n)) + 1)
            ops = [(torch.randn(m, k, device="cuda", dtype=dt), torch.randn(n, k, device="cuda", dtype=dt).t()) for _ in range(min(sets, 16))]
            measure(f"gemm/m{m}n{n}k{k}/{name}", [lambda o=o: torch.mm(*o) for o in ops], flops=2 * m * n * k, nbytes=2 * (m * k + k * n + m * n))
        e4 = torch.float8_e4m3fn
        one = torch.ones((), device="cuda")
        ops = [(torch.randn(m, k, device="cuda").to(e4), torch.randn(n, k, device="cuda").to(e4).t()) for _ in range(4)]
        measure(f"gemm/m{m}n{n}k{k}/e4m3", [lambda o=o: torch._scaled_mm(*o, scale_a=one, scale_b=one, out_dtype=torch.bfloat16) for o in ops],
                flops=2 * m * n * k, nbytes=m * k + k * n + 2 * m * n)


def attention():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    shapes = [("prefill", 1, 16, 16, 16384, 16384, 128), ("prefill", 4, 16, 16, 4096, 4096, 128), ("prefill", 1, 64, 8, 8192, 8192, 128), ("decode", 128, 64, 8, 1, 8192, 128)]
    for kind, b, hq, hkv, sq, sk, d in shapes:
        for causal in ((False, True) if kind == "prefill" else (False,)):
            for be in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
                case = f"attention/{kind}/b{b}hq{hq}hkv{hkv}sq{sq}sk{sk}d{d}{'/causal' if causal else ''}/bf16/{be.name.lower()}"
                try:
                    q = torch.randn(b, hq, sq, d, device="cuda", dtype=torch.bfloat16)
                    k, v = (torch.randn(b, hkv, sk, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
                    pairs = sq * (sq + 1) // 2 if causal else sq * sk
                    with sdpa_kernel(be):
                        measure(case, [lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=hq != hkv)],
                                flops=4 * b * hq * pairs * d, nbytes=2 * b * d * (2 * hq * sq + 2 * hkv * sk))
                except Exception as e:
                    rows.append({"case": case, "error": repr(e)[:300]})


for f in (memory, gemm, attention):
    torch.cuda.empty_cache()
    section(f)
print(f"{len(rows)} rows in {out / 'torch.json'}")
