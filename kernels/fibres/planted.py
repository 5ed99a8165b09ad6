"""Builds a kernel's proof and runs it; plants one bug at a time in the kernel and asks that its proof catch each: a proof that cannot fail
proves nothing."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile

KERNELS = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 60    # of CPU: twenty times what the longest proof needs. A machine with other work must not end one


def each(work, do):
    """do(item) over all items, as many at once as there are cores; results in order."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(do, work)


def outcome(proof, defines, changed={}, planted=False, optimised="-O1"):
    """The exit status of fibres/`proof`.cpp and what it said; None where it does not compile. `changed`: files that hold another text.
    With a bug `planted` the first failure is enough."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for folder in ["common", "gemm", "attention", "fibres"]:
            (scratch / folder).mkdir()
            for source in (KERNELS / folder).iterdir():
                if source.suffix in (".h", ".cu", ".cpp") and source not in changed:
                    (scratch / folder / source.name).symlink_to(source)
        for file, text in changed.items():
            (scratch / file.relative_to(KERNELS)).write_text(text)
        command = ["g++", optimised, "-std=c++17", "-w", "-Wno-psabi", "-I../attention", *(f"-D{d}" for d in defines), f"{proof}.cpp", "-o", "proof"]
        built = subprocess.run(command, cwd=scratch / "fibres", capture_output=True, text=True)
        if built.returncode:
            return None, built.stderr
        run = subprocess.run(["sh", "-c", f"ulimit -t {SECONDS}; exec ./proof"], cwd=scratch / "fibres", capture_output=True, text=True,
                             env={**os.environ, "FIRST_FAILURE": "1" if planted else ""})
        return run.returncode, run.stdout + run.stderr or f"ended by signal {-run.returncode}"


def wrong(variants, prove):
    """How many of the variants are not right. prove(variant) gives what outcome() does."""
    count = 0
    for variant, (status, said) in zip(variants, each(variants, prove)):
        print(f"{'right ' if status == 0 else 'WRONG '} {variant}", flush=True)
        if status != 0:
            print(said)
            count += 1
    return count


def wanted(bug):
    """Whether this run plants a bug: those whose description starts with * are of each kind one and planted in every run, the
    others with --all or by a word of theirs."""
    words = [a for a in sys.argv[1:] if not a.startswith("-")]
    return any(w in f"{bug[1].name} {bug[0]}" for w in words) if words else "--all" in sys.argv or bug[0].startswith("*")


def all_caught(bugs, prove):
    """How many bugs went unnoticed. A bug is (what, file, old text, new text, what else the proof is told).
    prove({file: text}, told) gives what outcome() does."""

    def plant(bug):
        what, file, old, new, told = bug
        text = file.read_text()
        if old not in text:
            return "STALE ", what, f"its text is no longer in {file.name}"
        status, said = prove({file: text.replace(old, new)}, told)
        lines = said.splitlines()
        reason = next((line for line in lines if line.startswith(("BAD", "fibres"))), lines[-1] if lines else "")[:110]
        if status is None:
            return "MISSED", what, f"it does not compile: {said[:300]}"
        return ("MISSED" if status == 0 else "caught"), what, reason

    missed = 0
    for verdict, what, reason in each(filter(wanted, bugs), plant):
        print(f"{verdict}  {what.removeprefix('* ')}: {reason}", flush=True)
        missed += verdict != "caught"
    return missed
