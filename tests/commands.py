"""`lfr` in this process, as its users meet it: a plugin of pytest."""

import sys
from typing import NamedTuple

import pytest

from lfr_jax import cli


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def lfr(monkeypatch, capsys):
    """Runs `lfr` with these arguments in this process, and gives what a shell would see."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfr", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        out, err = capsys.readouterr()
        return Answer(1, out, f"{err}{code}\n") if isinstance(code, str) else Answer(code, out, err)

    return run
