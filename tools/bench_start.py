#!/usr/bin/env python
"""Times the start of a run: from the start of `lfr train` until its first step is done and its metrics are read.

    python tools/bench_start.py configs/smoke.py                              # data/smoke must be there
    python tools/bench_start.py configs/smoke.py --ours-before ../before      # beside another checkout, in turns
    python tools/bench_start.py configs/smoke.py --rounds 9 --data.workers 2

cold: nothing that was compiled is kept from before. warm: the same command again. In each round every checkout starts
once cold and once warm, in a new run directory. Figures are medians over rounds. All that the run does before its
first step counts: imports, opening the data, compiling, a scoring pass where the first phase has one.
"""

import argparse
import datetime
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bench_train import ROOT, commit_of, hardware


def start(checkout: str, words: list[str], cache: str) -> float:
    """Seconds until `metrics.csv` has a step. The run is then killed."""
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder, "run", "metrics.csv")
        command = [sys.executable, "-m", "lfr_jax.cli", "train", *words, "--run-dir", str(table.parent)]
        kept = dict(PYTHONPATH=checkout, LFR_CACHE=cache)
        begun = time.perf_counter()
        with subprocess.Popen(
            [*command, "--train.log-every", "1"], env=os.environ | kept, stderr=subprocess.PIPE
        ) as run:
            while not (table.exists() and table.read_bytes().count(b"\n") > 1):
                if run.poll() is not None:
                    sys.exit(f"{__file__}: {run.stderr.read().decode()}")
                time.sleep(0.005)
            seconds = time.perf_counter() - begun
            run.kill()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of `lfr train`, whose options may follow too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", default=str(ROOT), help="a checkout of this project")
    parser.add_argument("--ours-before", help="another one")
    options, words = parser.parse_known_args()
    checkouts = [checkout for checkout in (options.ours_before, options.ours) if checkout]
    found = {checkout: ([], []) for checkout in checkouts}
    for _ in range(options.rounds):
        for checkout in checkouts:
            with tempfile.TemporaryDirectory() as cache:
                for seconds in found[checkout]:
                    seconds.append(start(os.path.abspath(checkout), [options.config, *words], cache))
    print(f"{datetime.date.today()}, {hardware()}, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds\n")
    print("| commit | cold s | least – most | warm s | least – most |\n|---|---|---|---|---|")
    for checkout, times in found.items():
        cells = [f"{statistics.median(each):.1f} | {min(each):.1f} – {max(each):.1f}" for each in times]
        print(f"| {commit_of(checkout)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
