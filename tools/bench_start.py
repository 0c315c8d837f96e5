#!/usr/bin/env python
"""Times the start of a run: from the start of `lfr train` until its first step is done and its metrics are read.

    python tools/bench_start.py configs/smoke.py                              # data/smoke must be there
    python tools/bench_start.py configs/smoke.py --ours-before ../before      # beside another checkout, in turns
    python tools/bench_start.py configs/smoke.py --rounds 9 --data.workers 2

cold: nothing that was compiled is kept from before. warm: the same command again. In each round every checkout starts
once cold and once warm, in a new run directory. Figures are medians over rounds. All that the run does before its
first step counts: imports, opening the data, compiling, a scoring pass where the first phase has one. CPU s: what the
process had of all cores until then, which depends less on what else runs on the machine.
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


def start(checkout: str, words: list[str], cache: str) -> tuple[float, float]:
    """Seconds, and CPU seconds, until `metrics.csv` has a step. The run is then killed."""
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder, "run", "metrics.csv")
        command = [sys.executable, "-m", "lfr_jax.cli", "train", *words, "--run-dir", str(table.parent)]
        env = os.environ | dict(PYTHONPATH=checkout, LFR_CACHE=cache)
        env.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would come before LFR_CACHE
        begun = time.perf_counter()
        with subprocess.Popen([*command, "--train.log-every", "1"], env=env, stderr=subprocess.PIPE) as run:
            while not (table.exists() and table.read_bytes().count(b"\n") > 1):
                if run.poll() is not None:
                    sys.exit(f"{__file__}: {run.stderr.read().decode()}")
                time.sleep(0.005)
            seconds = time.perf_counter() - begun
            run.kill()
            _, _, used = os.wait4(run.pid, 0)
        return seconds, used.ru_utime + used.ru_stime


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
                for times in found[checkout]:
                    times.append(start(os.path.abspath(checkout), [options.config, *words], cache))
    print(f"{datetime.date.today()}, {hardware()}, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds\n")
    print("| commit | cold s | least – most | CPU s | warm s | least – most | CPU s |\n|---|---|---|---|---|---|---|")
    for checkout, starts in found.items():
        cells = [cell for times in starts for cell in described(*zip(*times))]
        print(f"| {commit_of(checkout)} | {' | '.join(cells)} |")


def described(seconds: tuple[float, ...], cpu_seconds: tuple[float, ...]) -> list[str]:
    spread = f"{min(seconds):.1f} – {max(seconds):.1f}"
    return [f"{statistics.median(seconds):.1f}", spread, f"{statistics.median(cpu_seconds):.1f}"]


if __name__ == "__main__":
    main()
