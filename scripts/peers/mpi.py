#!/usr/bin/env python3
"""The MPI engine beside an independent MPI program, over the same library and transport, interleaved.

    cargo build --release
    scripts/peers/mpi.py [--ranks 2] [--pairs 7] [--sizes 1 4 16] [--ops all_reduce ...] [--launcher "mpirun -n 2"]

Each pair is our run and then the peer's, so that both see the same drift of the machine. What counts is the median of the paired
ratios (ours over theirs, of times): within 15 % is agreement. Needs mpicc and mpirun; a quiet machine.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20


def ours(launcher, binary, case, folder):
    """The median time of one execution, in seconds."""
    command = [*launcher, binary, "run", case, "--device", "cpu", "--provider", "mpi", "--out", str(folder), "--profile", "quick"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in (folder / "raw.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "record":
            if record["outcome"] != "measured":
                sys.exit(f"{case}: {record}")
            return statistics.median(record["samples"]["seconds"])
    sys.exit(f"{case}: no record")


def theirs(launcher, program, op, size):
    command = [*launcher, str(program), op, str(size), "0.25"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/ridgepoint"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16], help="MiB")
    parser.add_argument("--ops", nargs="+", default=["all_reduce"])
    parser.add_argument("--launcher", default=None, help="default: mpirun -n RANKS")
    parser.add_argument("--limit", type=float, default=15.0, help="percent")
    args = parser.parse_args()
    launcher = shlex.split(args.launcher or f"mpirun -n {args.ranks}")
    if os.geteuid() == 0:
        os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        program = scratch / "mpi_collectives"
        subprocess.run(["mpicc", "-O2", "-o", str(program), str(ROOT / "scripts/peers/mpi_collectives.c")], check=True)
        print(f"{'case':<40} {'ours':>10} {'theirs':>10}  ours/theirs (each pair)")
        for op in args.ops:
            for size in args.sizes:
                case = f"collectives/{op}/r{args.ranks}/{size}MiB/f32"
                times = []
                for turn in range(args.pairs):
                    a = ours(launcher, args.binary, case, scratch / f"{op}-{size}-{turn}")
                    times.append((a, theirs(launcher, program, op, size * MIB)))
                ratios = [a / b for a, b in times]
                middle = statistics.median(ratios)
                worst = max(worst, abs(middle - 1) * 100)
                a, b = (statistics.median(column) * 1e6 for column in zip(*times))
                print(f"{case:<40} {a:8.1f}us {b:8.1f}us  {middle:.3f}  ({' '.join(f'{r:.2f}' for r in ratios)})", flush=True)
    print(f"largest deviation of a median: {worst:.1f} %")
    sys.exit(worst > args.limit)


if __name__ == "__main__":
    main()
