#!/usr/bin/env python3
"""Compares the memory suite with C programs of the same job, in turns, since a shared machine's speed drifts.

    scripts/peers/memory.py [--ridgepoint PATH] [--rounds N] [--keep FOLDER] [stream|chase ...]

stream: copy and triad on all cores against stream.c, once as STREAM is (pages as malloc gives them) and once with huge pages.
chase: latency at a range of footprints against chase.c.
Each round runs every program once, in an order that turns from round to round; a ratio is taken within its round, and the
median over the rounds is printed with its quartiles. A round waits up to a minute until nothing else uses the machine. With
--keep, rounds are kept in a folder and those of earlier calls count too. Exit code 1 if a goal is missed: native >= 0.95 of
STREAM, latencies within 10 %.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def build(folder, name, *flags):
    binary = pathlib.Path(folder) / name
    subprocess.run(["gcc", *flags, str(HERE / f"{name}.c"), "-o", str(binary)], check=True)
    return binary


def ours(ridgepoint, ids, provider):
    """Median seconds of each case, by (case, provider)."""
    with tempfile.TemporaryDirectory() as out:
        command = [ridgepoint, "run", *ids, "--device", "cpu", "--quick", "--format", "json", "--out", f"{out}/r"]
        command += [arg for name in provider for arg in ("--provider", name)]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = {}
    for line in text.splitlines():
        record = json.loads(line)
        if record.get("kind") == "record":
            assert record["outcome"] == "measured", record
            seconds = statistics.median(record["samples"]["seconds"])
            found[record["case"], record["provider"]] = (record["work"], seconds)
    return found


def busy(seconds=0.5):
    """The share of all cores that was in use by anyone over the next half second."""

    def read():
        fields = [int(f) for f in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    (total, idle), _, (after, idle_after) = read(), time.sleep(seconds), read()
    return 1 - (idle_after - idle) / max(after - total, 1)


def rounds_of(name, args, jobs):
    """Runs the rounds, each job once, and returns them with the kept ones: a list of {job: result}."""
    kept = pathlib.Path(args.keep) / f"{name}.jsonl" if args.keep else None
    found = []
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for _ in range(args.rounds):
        for _ in range(60):
            if busy() < 0.1:
                break
        turn = len(found) % len(jobs)
        found.append({job: run() for job, run in jobs[turn:] + jobs[:turn]})
        if kept:
            with kept.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    return found


def quartiles(values):
    values = sorted(values)
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def stream(args, folder):
    binary = build(folder, "stream", "-O3", "-march=native", "-fopenmp")
    environment = dict(os.environ, OMP_PROC_BIND="true", OMP_PLACES="cores")

    def theirs(*more):
        text = subprocess.run([binary, "256", "15", *more], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()}

    def mine():
        found = ours(args.ridgepoint, ["memory/copy/256MiB/f32", "memory/triad/256MiB/f32"], ["native", "native-nt"])
        return {case.split("/")[1] + " " + provider: work["bytes"] / s / 1e9 for (case, provider), (work, s) in found.items()}

    rounds = rounds_of("stream", args, [("ridgepoint", mine), ("stream", theirs), ("stream huge", lambda: theirs("huge"))])
    print(f"{len(rounds)} rounds, median, [quartiles]")
    missed = False
    for op in ("copy", "triad"):
        for peer in ("stream", "stream huge"):
            base = statistics.median(r[peer][op] for r in rounds)
            print(f"{op:6} {peer:12} {base:7.1f} GB/s")
            for provider in ("native", "native-nt"):
                achieved = statistics.median(r["ridgepoint"][f"{op} {provider}"] for r in rounds)
                low, ratio, high = quartiles([r["ridgepoint"][f"{op} {provider}"] / r[peer][op] for r in rounds])
                print(f"{op:6} {provider:12} {achieved:7.1f} GB/s   ratio {ratio:.3f} [{low:.3f} {high:.3f}] of {peer}")
                missed |= provider == "native" and ratio < 0.95
    return missed


def chase(args, folder):
    binary = build(folder, "chase", "-O2")
    sizes = {"16KiB": 16, "32KiB": 32, "128KiB": 128, "512KiB": 512, "4MiB": 4096, "16MiB": 16384, "128MiB": 131072, "256MiB": 262144}

    def theirs():
        command = ["taskset", "-c", str(args.core), binary, *map(str, sizes.values())]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()}

    def mine():
        found = ours(args.ridgepoint, [f"memory/latency/{size}" for size in sizes], [])
        return {str(sizes[case.split("/")[2]]): s / work["steps"] * 1e9 for (case, _), (work, s) in found.items()}

    rounds = rounds_of("chase", args, [("ridgepoint", mine), ("chase", theirs)])
    print(f"{len(rounds)} rounds, median, [quartiles]")
    missed = False
    for name, kib in sizes.items():
        kib = str(kib)
        base, achieved = (statistics.median(r[who][kib] for r in rounds) for who in ("chase", "ridgepoint"))
        low, ratio, high = quartiles([r["ridgepoint"][kib] / r["chase"][kib] for r in rounds])
        print(f"latency {name:7} chase.c {base:7.2f} ns   ridgepoint {achieved:7.2f} ns   ratio {ratio:.3f} [{low:.3f} {high:.3f}]")
        missed |= not 0.9 <= ratio <= 1.1
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ridgepoint", default=str(ROOT / "target/release/ridgepoint"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", metavar="FOLDER", help="keep rounds here, and count those that are here already")
    parser.add_argument("--core", type=int, default=0, help="the core that chase.c is kept on")
    parser.add_argument("peers", nargs="*", metavar="stream|chase")
    args = parser.parse_args()
    jobs = {"stream": stream, "chase": chase}
    unknown = [name for name in args.peers if name not in jobs]
    if unknown or args.rounds < 0:
        parser.error(f"no peer called {unknown[0]}" if unknown else "--rounds must not be negative")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in args.peers or jobs:
            missed |= jobs[name](args, folder)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
