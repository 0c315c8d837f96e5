"""What training refuses, and where it stops: other settings, other data, a folder in use, a loss that is no number."""

import os
import re
import shutil
import warnings

import jax
import pytest
from helpers import changed, documents, rows, tiny

from lfr_jax.config import ScheduleConfig
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare.prepare import prepare_documents
from lfr_jax.storage.run_dir import RunDir, RunInUse
from lfr_jax.train.loop import train
from lfr_jax.train.track.recorder import NonFiniteLoss


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(model__vocab_size=256), r"model\.vocab_size=256 is smaller than the tokenizer's 257"),
        (dict(data__curriculum="grow_p2"), "data.packing=concatenate have one"),
        (dict(data__fim_rate=0.5, model__vocab_size=259), r"no room for the three sentinels .*: raise it to 260"),
        (dict(model__max_len=16), r"data\.seq_len=32 is longer than model\.max_len=16"),
        (dict(train__batch_size=9), r"train\.batch_size=9 is not divisible by 2"),
        (dict(train__grad_accum_steps=3), r"train\.batch_size=8 is not divisible by 6"),
        (dict(mesh__data=16), r"needs 16 devices and 8 were found"),
        (dict(data__seq_len=10**6, model__max_len=10**6), r"seq_len=1000000"),
        (dict(schedule=ScheduleConfig("reducible")), r"needs BlockInfo\.ref_loss, .*: --schedule\.ref-scores FILE"),
        (dict(schedule__ref_scores="none.csv"), r"found no file of scores 'none.csv'; write it with `lfr score RUN"),
        (dict(schedule__score_fraction=0.1), r"would count as hardest under lfr"),
        (dict(schedule__clusters=10**6), r"schedule\.clusters is 1000000, expected 1 to "),
        (dict(data__store="nowhere"), r"no prepared corpus in 'nowhere'; make one with `lfr prepare"),
        (dict(train__steps=3), r"would last none of 3"),
        (dict(optimizer__warmup_steps=24), r"optimizer\.warmup_steps=24 steps .* do not fit into a run of 24 steps"),
        (dict(model__attention="splash"), r"model\.attention='splash' needs a tpu, and jax runs on cpu"),
        (dict(mesh__data=1, mesh__tensor=4), r"model\.num_kv_heads=2 is not divisible by mesh\.tensor=4"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(corpus_dir, tmp_path, changes, error):
    """Catches: each check, if it is dropped or comes after the run directory is touched."""
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        train(changed(tiny(tmp_path / "run", corpus_dir), **changes), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_belongs_to_its_settings_and_its_store(finished, tmp_path):
    """Catches: going on with other data or settings, which would mix two experiments in one folder."""
    config, path, _ = finished
    before = rows(path)
    with pytest.raises(ValueError, match=r"optimizer\.peak_lr: 0\.003 when it began, now 0\.1"):
        train(changed(config, optimizer__peak_lr=0.1), quiet=True)
    prepare_documents(tmp_path / "other", documents(8, seed=1), Bytes(), valid_fraction=0.2)
    with pytest.raises(ValueError, match="the run began with another data.store: put that one back, or"):
        train(changed(config, data__store=str(tmp_path / "other")), quiet=True)
    shutil.copytree(config.data.store, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "valid")
    shutil.copytree(tmp_path / "other" / "valid", tmp_path / "half" / "valid")
    with pytest.raises(ValueError, match="flags .*/half.: the fingerprint of the held-out text is [^;]*; put back"):
        train(changed(config, data__store=str(tmp_path / "half")), quiet=True)
    with pytest.raises(ValueError, match=r"eval_blocks: 8 when it began, now 9"):
        train(changed(config, train__eval_blocks=9), quiet=True)
    with pytest.raises(ValueError, match=r"train\.steps: 24 when it began, now 48.*--init\.run .*run --run-dir OTHER"):
        train(changed(config, train__steps=48), quiet=True)
    with (
        jax.default_matmul_precision("bfloat16"),
        pytest.raises(ValueError, match="is bfloat16 now, and was None"),
    ):
        train(config, quiet=True)
    assert rows(path) == before
    train(config, quiet=True)  # still there, and sound


def test_two_trainers_do_not_share_a_folder(finished):
    """Catches: a lock that is not taken, or that does not say who holds it."""
    config, path, _ = finished
    with RunDir(path).lock(), pytest.raises(RunInUse, match=f"pid {os.getpid()}"):
        train(config, quiet=True)


@pytest.mark.slow
def test_divergence_stops_with_step_blocks_and_checkpoint(corpus_dir, tmp_path):
    """Catches: training on NaN, saving it, or not saying where it began."""
    config = changed(tiny(tmp_path / "run", corpus_dir, "uniform"), optimizer__peak_lr=1e38, optimizer__clip_norm=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(NonFiniteLoss) as stopped:
            train(config, quiet=True)
    step, ids = re.search(r"step (\d+): .* blocks \[([\d, ]+)\]", str(stopped.value)).groups()
    assert len(ids.split(",")) == 8
    assert int(step) <= 8
    assert "checkpoint" in str(stopped.value)
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == list(range(1, int(step)))  # up to the one before
    assert all(int(folder.name) < int(step) for folder in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))
