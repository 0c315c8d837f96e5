"""A run that an earlier version of this project began goes on after it."""

import pathlib
import tarfile

import pytest
from helpers import changed, rows

from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train.loop import train

# `corpus/` and `run/`, whose newest checkpoint is of step 12 of 24, in mid-Focus; the tables go on to step 24, as the
# version that wrote them went on. It had all files of the package side by side (commit 2339f78).
BEGUN = pathlib.Path(__file__).with_name("begun_before_the_move.tar.gz")


@pytest.mark.slow
def test_a_run_begun_before_the_files_moved_goes_on(tmp_path, monkeypatch):
    """Catches: a checkpoint that names modules or classes, or leaves by names that changed; a saved setting that is
    refused, or forgotten; draws in another order."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(BEGUN) as archive:
        archive.extractall(tmp_path, filter="data")
    before = {name: rows(tmp_path / "run", name) for name in ("metrics.csv", "eval.csv", "scores/rates.csv")}
    run = RunDir("run")
    config = run.load_config()
    summary = train(config, quiet=True).summary
    assert summary["steps"] == 24
    for name, expected in before.items():
        found = rows(tmp_path / "run", name)
        assert len(found) == len(expected)
        for after, was in zip(found, expected):
            measured = {"loss", "grad_norm", "learning_rate"}
            assert {k: v for k, v in after.items() if k not in measured} == {
                k: v for k, v in was.items() if k not in measured
            }
            for column in {"loss", "grad_norm"} & set(was):
                assert float(after[column]) == pytest.approx(float(was[column]), rel=1e-2)
    # That version gave a step the rate that the step before it has now. So the runs end a little apart.
    rates, rates_before = (
        [row["learning_rate"] for row in of] for of in (rows(tmp_path / "run"), before["metrics.csv"])
    )
    assert rates == [*rates_before[:12], *rates_before[13:], "0.0"]
    with pytest.raises(ValueError, match="train.batch_size"):
        train(changed(config, train__batch_size=16), quiet=True)
