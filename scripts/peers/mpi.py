#!/usr/bin/env python3
"""The MPI engine beside an independent MPI program, over the same library and transport, interleaved, by every way to start ranks.

    cargo build --release
    scripts/peers/mpi.py [--ranks 2] [--rounds 7] [--sizes 1 4 16] [--ops all_reduce ...] [--by mpirun srun torchrun] [--keep FOLDER]

mpirun: Open MPI's. srun: a Slurm on the loopback interface (scripts/slurm/on-loopback), which bootstraps the same library by PMIx.
torchrun: its variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), set by a script under mpirun, which bootstraps the
library. In each round every way runs --best-of times, ours and the peer's in turns, in an order that turns, and each counts at its
fastest: whether a few MiB lie well in a cache shared with neighbours is drawn anew by each process. A round waits up to a minute until
nothing else uses the machine. What counts is the median over the rounds of the ratio of times within a round: ours over the peer's by each
way, and ours by each way over ours by the first. Within 15 % is agreement; exit code 1 if one is not. Needs mpicc, mpirun, and for
srun Debian's slurm packages and root.
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
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
OPS = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "alltoall"]
# What torchrun sets, from what mpirun does.
TORCHRUN = (
    "unset OMPI_COMM_WORLD_LOCAL_SIZE; RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE LOCAL_RANK=$OMPI_COMM_WORLD_LOCAL_RANK "
    "LOCAL_WORLD_SIZE=$OMPI_COMM_WORLD_SIZE MASTER_ADDR=127.0.0.1 MASTER_PORT={port} RIDGEPOINT_LAUNCHER=torchrun exec \"$@\""
)


def launchers(args):
    """The words before a program, by way."""
    mpirun = ["mpirun", *shlex.split(args.mpirun), "-n", str(args.ranks)]
    ways = {
        "mpirun": mpirun,
        "srun": ["srun", "--mpi=pmix", "-n", str(args.ranks)],
        "torchrun": [*mpirun, "sh", "-c", TORCHRUN.format(port=29800), "sh"],
    }
    return {way: ways[way] for way in args.by}


def ours(launcher, binary, cases, folder):
    """The median time of one execution of each case, in seconds."""
    command = [*launcher, binary, "run", *cases, "--device", "cpu", "--provider", "mpi", "--out", str(folder), "--profile", "quick"]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(f"{shlex.join(command)}: {ran.stderr}")
    found = {}
    for line in (folder / "raw.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "record":
            if record["outcome"] != "measured":
                sys.exit(f"{record['case']}: {record}")
            found[record["case"]] = statistics.median(record["samples"]["seconds"])
    return found


def theirs(launcher, program, cases):
    found = {}
    for case in cases:
        _, op, _, size, _ = case.split("/")
        command = [*launcher, str(program), op, str(int(size.removesuffix("MiB")) * MIB), "0.25"]
        found[case] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return found


def busy(seconds=0.5):
    """The share of all cores that was in use by anyone over the next half second."""

    def read():
        fields = [int(f) for f in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    (total, idle), _, (after, idle_after) = read(), time.sleep(seconds), read()
    return 1 - (idle_after - idle) / max(after - total, 1)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/ridgepoint"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--best-of", type=int, default=1, metavar="N", help="processes of each in a round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16], help="MiB")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--by", nargs="+", choices=["mpirun", "srun", "torchrun"], default=["mpirun", "srun", "torchrun"])
    parser.add_argument("--mpirun", default="", help="further options of mpirun")
    parser.add_argument("--limit", type=float, default=15.0, help="percent")
    parser.add_argument("--keep", metavar="FOLDER", help="keep rounds here, and count those that are here already")
    return parser.parse_args()


def main():
    args = parsed()
    if "srun" in args.by and "SLURM_CONF" not in os.environ:
        # All of this once more, under a Slurm of its own.
        command = [str(ROOT / "scripts/slurm/on-loopback"), sys.executable, *sys.argv]
        sys.exit(subprocess.run(command).returncode)
    if "SLURM_CONF" in os.environ:
        # That Slurm has a network of its own, of which loopback is all there is; mpirun's daemons would not use it unasked.
        os.environ |= {"OMPI_MCA_oob_tcp_if_include": "lo", "PRTE_MCA_oob_tcp_if_include": "lo"}
    if os.geteuid() == 0:
        os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    cases = [f"collectives/{op}/r{args.ranks}/{size}MiB/f32" for op in args.ops for size in args.sizes]
    kept = pathlib.Path(args.keep) / "mpi.jsonl" if args.keep else None
    rounds = []
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        rounds = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        program = scratch / "mpi_collectives"
        subprocess.run(["mpicc", "-O2", "-o", str(program), str(ROOT / "scripts/peers/mpi_collectives.c")], check=True)
        for turn in range(args.rounds):
            for _ in range(60):
                if busy() < 0.1:
                    break
            ways = list(launchers(args).items())
            first = (len(rounds) + turn) % len(ways)
            found = {}
            for way, launcher in ways[first:] + ways[:first]:
                for again in range(args.best_of):
                    mine = ours(launcher, args.binary, cases, scratch / f"{way}-{turn}-{again}")
                    for side, times in (("ours", mine), ("peer", theirs(launcher, program, cases))):
                        best = found.setdefault(f"{side} by {way}", times)
                        found[f"{side} by {way}"] = {case: min(best[case], times[case]) for case in cases}
            rounds.append(found)
            if kept:
                with kept.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    sys.exit(show(args, cases, rounds))


def show(args, cases, rounds):
    worst = 0.0
    columns = [(f"ours/peer, {way}", f"ours by {way}", f"peer by {way}") for way in args.by]
    columns += [(f"{way}/{args.by[0]}", f"ours by {way}", f"ours by {args.by[0]}") for way in args.by[1:]]
    print(f"{len(rounds)} rounds, medians of times in µs and of ratios [the lowest and highest]")
    print(f"{'case':<36}" + "".join(f"{'ours, ' + way:>16}" for way in args.by) + "".join(f"{name:>28}" for name, *_ in columns))
    for case in cases:
        line = f"{case:<36}"
        for way in args.by:
            line += f"{statistics.median(r[f'ours by {way}'][case] for r in rounds) * 1e6:16.1f}"
        for _, a, b in columns:
            ratios = sorted(r[a][case] / r[b][case] for r in rounds)
            middle = statistics.median(ratios)
            worst = max(worst, abs(middle - 1) * 100)
            line += f"{middle:>12.3f} [{ratios[0]:.2f} {ratios[-1]:.2f}]".rjust(28)
        print(line)
    print(f"largest deviation of a median: {worst:.1f} % (limit {args.limit:.0f} %)")
    return worst > args.limit


if __name__ == "__main__":
    main()
