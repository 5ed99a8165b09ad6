#!/usr/bin/env python3
"""Compares the built-in CPU GEMM with OpenBLAS (or BLIS), in turns, since a shared machine's speed drifts.

    scripts/peers/gemm.py [--ridgepoint PATH] [--rounds N] [--keep FOLDER] [--peer NAME] [CASE ...]

Each round measures every case by both libraries, in an order that turns from round to round; a ratio (the built-in one's speed
over the other's) is taken within its round, and the median over the rounds is printed with its quartiles. A round waits up to a
minute until nothing else uses the machine. With --keep, rounds are kept in a folder and those of earlier calls count too.
Exit code 1 if the built-in one falls under 0.9 of the other anywhere, 3 where there is no other.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys

import memory

CASES = [
    "gemm/m1024n1024k1024/f32",
    "gemm/m2048n2048k2048/f32",
    "gemm/m4096n4096k4096/f32",
    "gemm/m1000n1001k1003/f32",
    "gemm/m16n4096k4096/f32",
    "gemm/m64n4096k4096/f32",
    "gemm/m1024n1024k1024/f64",
    "gemm/m2048n2048k2048/f64",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ridgepoint", default=str(memory.ROOT / "target/release/ridgepoint"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", metavar="FOLDER", help="keep rounds here, and count those that are here already")
    parser.add_argument("--peer", default="openblas", help="openblas or blis")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    args = parser.parse_args()
    if args.rounds < 0:
        parser.error("--rounds must not be negative")
    doctor = subprocess.run([args.ridgepoint, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    if not any(line.split()[:1] == [args.peer] or args.peer in line and "not found" not in line for line in doctor.splitlines()):
        print(f"{args.peer} is not here; `ridgepoint doctor` says how to get it")
        sys.exit(3)
    cases = args.cases or CASES

    def measure(case, provider):
        (work, seconds), = memory.ours(args.ridgepoint, [case], [provider]).values()
        return work["flops"] / seconds / 1e9

    jobs = [(f"{case} {name}", lambda case=case, name=name: measure(case, name)) for case in cases for name in ("native", args.peer)]
    rounds = memory.rounds_of("gemm", args, jobs)
    print(f"{len(rounds)} rounds, median, [quartiles]")
    missed = False
    for case in cases:
        of = {name: [r[f"{case} {name}"] for r in rounds] for name in ("native", args.peer)}
        low, ratio, high = memory.quartiles([a / b for a, b in zip(of["native"], of[args.peer])])
        speeds = "   ".join(f"{name} {statistics.median(all):7.1f} GFLOP/s" for name, all in of.items())
        print(f"{case:28} {speeds}   ratio {ratio:.3f} [{low:.3f} {high:.3f}]")
        missed |= ratio < 0.9
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    main()
