"""The tests in parallel workers (pytest-xdist): in which order, what workers share, and how much memory they take.

A file is run by one worker, as its tests share fixtures and compiled programs, unless it is marked `apart`.
"""

import ctypes
import functools
import gc
import os
import pathlib
import resource
import sys

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling

STARTING = {"desk", "trial", "agent"}  # fixtures of `tests/tpu` with processes, all of whose users are slow
UNIT = 2**10 if sys.platform == "linux" else 1  # bytes that `getrusage` counts memory in
ROOM = 2**30  # bytes that a worker may grow by before it throws away compiled programs
peaks: dict[str, tuple[int, int]] = {}  # of each worker: its most memory, and that of the largest process it started
limit = 3 * ROOM // 2


def pytest_configure(config) -> None:
    for line in (
        "slow: waits for other processes, or trains whole runs; `tools/test --quick` leaves it out",
        "apart: each test of this file may have a worker of its own",
    ):
        config.addinivalue_line("markers", line)


def pytest_xdist_auto_num_workers(config) -> int:
    """One for each processor, and two more if there are tests that wait. More than ten would take too much memory."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, processors) + (0 if config.option.markexpr == "not slow" else 2)


class ByFile(LoadScopeScheduling):
    """Gives workers whole files, and the tests of those marked `apart` one by one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if apart(self.config.rootpath / file) else file


@functools.cache
def apart(file: pathlib.Path) -> bool:
    return "pytest.mark.apart" in file.read_text()


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items) -> None:
    for item in items:
        if STARTING & set(item.fixturenames):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        items[:] = mixed(items)


def mixed(items: list) -> list:
    """Files with slow tests between the others, so that some compute as others wait, and none last.

    Last are those whose tests need not stay together, as they fill whatever worker is free.
    """
    waiting, apart = ({item.path for item in items if item.get_closest_marker(mark)} for mark in ("slow", "apart"))
    paths = dict.fromkeys(item.path for item in items)
    places = {}
    for first, last, chosen in (
        (0.0, 0.6, waiting),
        (0.0, 1.0, paths.keys() - waiting - apart),
        (1.0, 2.0, apart - waiting),
    ):
        files = [path for path in paths if path in chosen]
        places |= {path: first + (last - first) * number / len(files) for number, path in enumerate(files)}
    return sorted(items, key=lambda item: places[item.path])


def held() -> int:
    """Bytes that this process has in memory."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def pytest_runtest_logfinish() -> None:
    """Throws away compiled programs, 3 MB each, that JAX would keep until the end: the next test seldom needs them."""
    global limit
    if held() > limit:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # or the C library would keep it
        limit = max(limit, held() + ROOM)


def pytest_sessionfinish(session) -> None:
    most = tuple(resource.getrusage(who).ru_maxrss * UNIT for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = most
    elif not session.config.option.numprocesses and not session.config.option.collectonly:
        peaks["this process"] = most


def pytest_testnodedown(node) -> None:
    if "peak" in getattr(node, "workeroutput", {}):
        peaks[node.gateway.id] = tuple(node.workeroutput["peak"])


def pytest_terminal_summary(terminalreporter) -> None:
    told = [f"{name} {own / 2**30:.1f} GB ({started / 2**30:.1f})" for name, (own, started) in sorted(peaks.items())]
    if told:
        terminalreporter.write_line(f"most memory (and of the largest process started): {', '.join(told)}")
