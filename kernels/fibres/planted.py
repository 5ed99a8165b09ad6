"""Plants one bug at a time in a kernel and asks that its proof on the host catch each: a proof that cannot fail proves nothing."""
import concurrent.futures
import os
import sys


def each(work, do):
    """do(item) over all items, as many at once as there are cores; results in order."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(do, work)


def all_caught(bugs, prove):
    """How many bugs went unnoticed. A bug is (what, file, old text, new text, what else the proof is told); those whose
    description starts with * are of each kind one and planted in every run, the others with --all or by a word of theirs.
    prove(file, text, told) gives the exit status of the proof (None where the kernel no longer compiles) and what it said."""
    words = [a for a in sys.argv[1:] if not a.startswith("-")]

    def wanted(bug):
        return any(w in f"{bug[1].name} {bug[0]}" for w in words) if words else "--all" in sys.argv or bug[0].startswith("*")

    def plant(bug):
        what, file, old, new, told = bug
        text = file.read_text()
        if old not in text:
            return "STALE ", what, f"its text is no longer in {file.name}"
        status, said = prove(file, text.replace(old, new), told)
        reason = next((line for line in said.splitlines() if line.startswith(("BAD", "fibres"))), said[:80])[:110]
        return ("MISSED" if status in (0, None) else "caught"), what, reason

    missed = 0
    for verdict, what, reason in each(filter(wanted, bugs), plant):
        print(f"{verdict}  {what.removeprefix('* ')}: {reason}", flush=True)
        missed += verdict != "caught"
    return missed
