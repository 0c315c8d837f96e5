"""How gcloud is run: errors with the command that mends them, and calls that end."""

import pathlib
import sys
import time

import pytest
from running import PATIENCE

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tpu"))

import gcloud  # noqa: E402
from gcloud import Gcloud, GcloudError  # noqa: E402


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Makes a gcloud that runs a shell script."""

    def make(script: str) -> Gcloud:
        (tmp_path / "gcloud").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "gcloud").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return Gcloud("p", "z")

    return make


@pytest.mark.parametrize(
    "stderr, expected",
    [
        ("ERROR: (gcloud.x) Quota exceeded\nLimit: 0", "ERROR: (gcloud.x) Quota exceeded\nLimit: 0"),
        ("ERROR: To obtain new credentials, please run:\n  $ gcloud auth login", "run: gcloud auth login\nERROR: To"),
        (
            "ERROR: Cloud TPU API has not been used in project p before",
            "run: gcloud services enable tpu.googleapis.com",
        ),
    ],
)
def test_errors(said, stderr, expected):
    """Catches: a stock-out or quota error in other words than gcloud's; a login that nobody tells one to do."""
    with pytest.raises(GcloudError) as error:
        said(f"echo 'WARNING: old' >&2; echo '{stderr}' >&2; exit 1").text("compute")
    assert expected in str(error.value) and "WARNING" not in str(error.value)


def test_no_gcloud_no_project(said, tmp_path, monkeypatch):
    """Catches: a traceback where gcloud is not installed; a project called ""."""
    said("echo ''")
    with pytest.raises(GcloudError, match="gcloud config set project PROJECT"):
        gcloud.own_project()
    said("echo mine")
    assert gcloud.own_project() == "mine"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(GcloudError, match="install it: https://"):
        Gcloud("p", "z").text("compute")


def test_what_passes_is_tried_again(said, tmp_path, monkeypatch):
    """Catches: a look that fails because the API was away for a second; an error that is no such thing, repeated."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    count = f'echo x >> {tmp_path}/calls; test "$(wc -l < {tmp_path}/calls)" = 3'
    away = said(f"{count} && echo '[1]' || {{ echo 'ERROR: UNAVAILABLE' >&2; exit 1; }}")
    assert away.read("compute") == [1]
    denied = said(f"echo x >> {tmp_path}/denied; echo 'ERROR: PERMISSION_DENIED' >&2; exit 1")
    with pytest.raises(GcloudError, match="PERMISSION_DENIED"):
        denied.read("compute")
    assert (tmp_path / "denied").read_text() == "x\n"


@pytest.mark.slow
def test_a_look_that_cannot_be_read_or_does_not_end_is_an_error(said, monkeypatch):
    """Catches: a run that nobody watches any more, because gcloud hung, or printed something else than a list."""
    with pytest.raises(GcloudError, match="found 'Upgrade"):
        said("echo 'Upgrade now: []'").read("compute")
    monkeypatch.setattr("gcloud.CALL_S", 0.5)
    for call in (Gcloud.read, Gcloud.text, Gcloud.storage_list):
        with pytest.raises(GcloudError, match="too long"):
            call(said("sleep 100"), "compute")


@pytest.mark.slow
def test_a_call_that_hangs_is_ended_with_its_children(said, tmp_path):
    """Catches: ssh processes that outlive the gcloud that started them; what workers said before, thrown away."""
    slow = said(f"echo first; sleep 100 & echo $! > {tmp_path}/child; wait")
    answer = slow.call("compute", timeout=10)  # seconds; a busy system must have come to the echo by then
    assert (answer.code, answer.out) == (None, "first\n")
    child = pathlib.Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = (
        time.monotonic() + PATIENCE
    )  # seconds: the signal was sent, but a busy system may be late to carry it out
    while not ended(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(child)


def ended(stat: pathlib.Path) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for; `stat` is its file below /proc."""
    try:
        return stat.read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_checkpoints_in_a_bucket(said):
    """Catches: a run without checkpoints taken for a bucket that may not be read, or the reverse."""
    listing = said("printf 'gs://b/r/checkpoints/\\ngs://b/r/checkpoints/10/\\ngs://b/r/checkpoints/9.damaged/\\n'")
    assert listing.storage_list("gs://b/r/checkpoints") == ["checkpoints", "10", "9.damaged"]
    assert said("echo 'ERROR: One or more URLs matched no objects.' >&2; exit 1").storage_list("gs://b/r") == []
    with pytest.raises(GcloudError, match="403"):
        said("echo 'ERROR: HTTPError 403: no access' >&2; exit 1").storage_list("gs://b/r")
