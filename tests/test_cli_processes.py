"""The command `lfr` in processes of its own: what a shell sees."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = "import sys\nfrom lfr_jax.cli import entry_point\nsys.exit(entry_point())\n"  # as pip writes it


@pytest.fixture
def shell(tmp_path):
    """Runs a line of bash in the folder `here`, in which `lfr` is the command."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lfr").write_text(f"#!{sys.executable}\n{SCRIPT}")
    (tmp_path / "bin" / "lfr").chmod(0o755)
    (tmp_path / "here").mkdir()

    def run(line: str, **more: str) -> subprocess.CompletedProcess:
        known = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | more
        command = ["bash", "-c", f"set -o pipefail; {line}"]
        return subprocess.run(command, cwd=tmp_path / "here", env=known, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    "line, code, err",
    [
        ("lfr data info STORE | head -1", 0, ""),
        ("lfr --help | true", 0, ""),
        ("lfr train --help | true", 0, ""),
        ("lfr train --help >&-", 1, "lfr train: standard output could not be written: not writable"),
        ("lfr data info STORE >&-", 1, "lfr data: standard output could not be written: not writable"),
        ("lfr data info STORE >&- 2>&-", 1, ""),
        ("lfr data info STORE 2>&-", 0, ""),
        ("lfr data info STORE >/dev/full", 1, "lfr data: standard output could not be written: [Errno 28] No space "),
        ("lfr evaluate --help >/dev/full", 1, "lfr evaluate: standard output could not be written"),
        ("lfr evaluate nowhere 2>/dev/full", 1, ""),
        ("lfr evaluate nowhere 2>&-", 1, ""),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 lfr evaluate Г", 1, "no run in \\udcd0\\udc93: "),
    ],
)
def test_streams_that_cannot_be_written(shell, corpus_dir, line, code, err):
    """Catches: BrokenPipeError, also at exit; success though the output is lost; names that ASCII lacks."""
    done = shell(line.replace("STORE", str(corpus_dir)))
    assert done.returncode == code, done.stderr
    assert err in done.stderr and done.stderr.count("\n") == bool(err), done.stderr


@pytest.mark.parametrize("lfr", ["lfr", f"{sys.executable} -m lfr_jax.cli"])
def test_modules_in_the_working_directory_are_not_run(shell, corpus_dir, tmp_path, lfr):
    """Catches: the working directory first on the path, in the command and in its workers."""
    for name in ("numpy", "tqdm", "tyro", "json", "pickle", "jax"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open('{tmp_path}/ran', 'a').write('{name} ')")
    (tmp_path / "here" / "a.txt").write_text("one two three\n" * 99)
    prepared = f"{lfr} prepare a.txt --out new --byte-tokenizer --workers 2 --valid-fraction 0.5"
    done = shell(f"{lfr} data info {corpus_dir} && {prepared}")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def test_files_in_the_working_directory_are_not_run(tmp_path):
    """Catches: the folder on the path, first or last: packages without an `__init__.py` are found after all modules."""
    for name in ("tqdm", "numpy", "msgspec", "orbax", "google", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    command = [sys.executable, "-m", "lfr_jax.cli", "evaluate", str(tmp_path / "no"), "--blocks", "1"]
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True)
    assert answer.stderr.startswith("lfr evaluate: no run in"), answer.stderr
