"""The CSV files are exact, and the same whether a run was interrupted or not; TensorBoard shows the same."""

import csv
import math
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lfr_jax.experiments import results
from lfr_jax.train import flops
from lfr_jax.train.track import metrics
from lfr_jax.train.track.metrics import MetricsWriter, Table


class Loss(NamedTuple):
    loss: float
    tokens: int


def row(step, **other):
    loss = np.float32(10 / (step + 1))
    return (
        dict(
            step=step,
            phase="learn",
            loss=np.asarray(loss),
            grad_norm=loss * 2,
            learning_rate=np.float32(1e-3) / step,
            tokens=step * 64,
            flops=step * 1.5e12,
            blocks=f"{step:08x}",
            seconds=step / 3,
        )
        | other
    )


def run(folder, start, stop, **other):
    writer = MetricsWriter(folder)
    writer.rewind(start)
    for step in range(start + 1, stop + 1):
        writer.train([row(step, **other)])
        if step % 3 == 0:
            writer.evaluate(step, {"code, old": Loss(1 / step, 100), "all": Loss(2 / step, 200)})
    writer.close()


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_interrupted_and_uninterrupted_runs_leave_the_same_files(tmp_path):
    """Catches: keeping rows after the checkpoint, dropping the checkpoint's own, writing rows twice."""
    run(tmp_path / "whole", 0, 12)
    run(tmp_path / "cut", 0, 8)
    run(tmp_path / "cut", 6, 7)  # went on from the checkpoint of step 6, and was killed again
    run(tmp_path / "cut", 6, 12)
    for name in ("metrics.csv", "eval.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [int(r["step"]) for r in read(tmp_path / "cut" / "metrics.csv")] == list(range(1, 13))
    assert [int(r["step"]) for r in read(tmp_path / "cut" / "eval.csv")] == [3, 3, 6, 6, 9, 9, 12, 12]


def test_a_run_that_begins_again_begins_empty(tmp_path):
    """Catches: keeping the evaluation of step 0, or rows of a run that left no checkpoint."""
    run(tmp_path, 0, 4)
    writer = MetricsWriter(tmp_path)
    writer.rewind(0)
    writer.evaluate(0, {"all": Loss(1.0, 1)})
    writer.rewind(0)
    writer.close()
    assert read(tmp_path / "metrics.csv") == read(tmp_path / "eval.csv") == []


@pytest.mark.parametrize(
    "torn",
    ["7,focus,1.2", "7,focus,1.2\n", "\0\0\0\0\n", "7,focus,1,2,3,4,5,6,7.1", "\0\0,,,,,,,,\n"],
    ids=["cut off", "short", "zeros", "no end", "no step"],
)
def test_a_torn_last_row_is_dropped(tmp_path, torn):
    """Catches: appending to half a row, which spoils two; choking on what a power cut leaves."""
    run(tmp_path, 0, 6)
    before = (tmp_path / "metrics.csv").read_text()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(torn)
    MetricsWriter(tmp_path).train_table.rewind(8)
    assert (tmp_path / "metrics.csv").read_text() == before


def test_numbers_read_back_to_the_bit(tmp_path):
    """Catches: fixed decimals; float32 written as float64 or through a rounded array print."""
    values = np.random.default_rng(0).integers(0, 2**32, 200, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    writer = MetricsWriter(tmp_path)
    writer.rewind(0)
    writer.train_table.append([row(i + 1, loss=np.asarray(x), seconds=float(x) / 3) for i, x in enumerate(values)])
    writer.close()
    rows = read(tmp_path / "metrics.csv")
    assert np.array_equal(np.array([r["loss"] for r in rows]).astype(np.float32), values)
    assert [float(r["seconds"]) for r in rows] == [float(x) / 3 for x in values]
    assert metrics.exact(np.float32(0.1)) == "0.1"


def test_other_columns_are_refused(tmp_path):
    """Catches: rows under a header that does not fit them."""
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n")
    with pytest.raises(ValueError, match="metrics.csv has the columns step,loss"):
        MetricsWriter(tmp_path).rewind(1)


@pytest.mark.parametrize("first, last, cut", [(1, 6, ""), (4, 4, "4,lea\n")])
def test_a_gap_is_said_and_no_row_is_lost_for_it(tmp_path, first, last, cut):
    """The file was emptied, or is torn in its middle. Catches: silence; dropping what follows the torn row."""
    run(tmp_path, 0, 6)
    path = tmp_path / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:first], cut, *lines[last + 1 :]]))
    writer = MetricsWriter(tmp_path)
    with pytest.warns(
        UserWarning, match=f"rows of {last - first + 1} of the steps up to 6, the first of them {first}:"
    ):
        writer.rewind(6)
    writer.close()
    assert path.read_text() == "".join(lines[:first] + lines[last + 1 :])


def test_an_evaluation_that_is_gone_is_missed(tmp_path):
    """Catches: silence; an evaluation that is still to come, missed; one that is there, missed."""
    run(tmp_path, 0, 6)
    writer = MetricsWriter(tmp_path)
    writer.rewind(6, evaluated=[3, 6])
    (tmp_path / "eval.csv").unlink()
    with pytest.warns(UserWarning, match="eval.csv lacks rows of 2 of the steps up to 6, the first of them 3: it"):
        writer.rewind(6, evaluated=[3, 6])
    writer.close()


def test_an_evaluation_of_which_a_row_is_gone_is_missed(tmp_path):
    """Catches: silence; the rows that are left, among which a reader would look for the others."""
    run(tmp_path, 0, 6)
    path = tmp_path / "eval.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    writer = MetricsWriter(tmp_path)
    with pytest.warns(UserWarning, match="eval.csv lacks rows of 1 of the steps up to 6, the first of them 3:"):
        writer.rewind(6, evaluated=[3, 6], num_losses=2)
    writer.close()
    assert path.read_text() == "".join(lines[:1] + lines[3:])


HARD_NAMES = ["", "all", "новости", "a\rb", "a\r\n,b", 'a"\nb', "\u2028", "\x85", "\x1c", "\0", "\ud800"]


@given(st.lists(st.text(st.characters()) | st.sampled_from(HARD_NAMES)))
@example(HARD_NAMES)
def test_tables_survive_any_name(tmp_path_factory, names):
    """Catches: a row cut in two where a run goes on; a name that reads back as another."""
    table = Table(tmp_path_factory.mktemp("names") / "table.csv", ("step", "domain"))
    table.rewind(0)
    table.append([dict(step=1, domain=name) for name in ["first", *names]])
    before = table.path.read_bytes()
    table.rewind(1, rows_per_step=len(names) + 1)
    assert table.path.read_bytes() == before
    storable = [name.encode("utf-8", "backslashreplace").decode() for name in names]  # there is no lone surrogate
    assert [row["domain"] for row in results.read_csv(table.path)] == ["first", *storable]


WRITE = """
import sys
from test_metrics import HARD_NAMES, Loss, MetricsWriter
writer = MetricsWriter(sys.argv[1])
writer.rewind(0)
writer.evaluate(1, {name: Loss(1.5, 7) for name in HARD_NAMES})
writer.rewind(1)
"""


@pytest.mark.slow
def test_files_are_utf_8_whatever_the_locale(tmp_path):
    """Catches: an evaluation that ends the run, in an ASCII locale; names that are no tags for TensorBoard."""
    ascii = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONPATH=os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)], env=os.environ | ascii, check=True)
    assert "новости" in [row["domain"] for row in results.read_csv(tmp_path / "eval.csv")]
    assert any(tag == r"valid/a\rb/loss" for _, tag, _ in events(tmp_path / "tensorboard"))


def test_no_quote_that_is_left_open_ends_a_resume(tmp_path):
    """More text after it than `csv` takes as a field. Catches: _csv.Error."""
    run(tmp_path, 0, 1)
    before = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(before + '2,"learn' + "x" * 200_000 + "\n")
    MetricsWriter(tmp_path).train_table.rewind(2)
    assert (tmp_path / "metrics.csv").read_text() == before


def events(folder):
    """(step, tag, value) as TensorBoard reads them: in file order, a later start purges from its step on."""
    found = []
    for path in sorted(folder.glob("*tfevents*"), key=lambda path: path.name):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: u64 length, u32 crc, the event, u32 crc
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                found = [seen for seen in found if seen[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    """Catches: no purge_step; purging the checkpoint's own step; another tag than the column's; no flush."""
    run(tmp_path, 0, 8)
    run(tmp_path, 6, 9)
    seen = events(tmp_path / "tensorboard")
    assert [step for step, tag, _ in seen if tag == "train/loss"] == list(range(1, 10))
    assert [step for step, tag, _ in seen if tag == "valid/all/loss"] == [3, 6, 9]
    tags = {tag for _, tag, _ in seen if tag.startswith("train/")}
    assert tags == {"train/loss", "train/grad_norm", "train/learning_rate"}
    by_step = {step: value for step, tag, value in seen if tag == "train/loss"}
    assert by_step[8] == float(np.float32(10 / 9))


def test_events_are_on_disk_when_train_returns(tmp_path):
    """Catches: leaving the last rows in a buffer that a kill empties."""
    writer = MetricsWriter(tmp_path)
    writer.rewind(0)
    writer.train([row(1)])
    assert (1, "train/loss", 5.0) in events(tmp_path / "tensorboard")
    assert len(read(tmp_path / "metrics.csv")) == 1
    writer.close()


def test_mfu():
    """Catches: forgetting the number of devices; a guess where the device is unknown; v5e taken for v5p."""
    assert math.isclose(flops.mfu(4 * 197e12, 2.0, "TPU v5 lite", 8), 0.25)
    assert flops.mfu(459e12, 1.0, "TPU v5", 1) == 1.0
    assert flops.mfu(1e12, 1.0, "cpu", 1) is None


def test_a_pipe_is_no_table(tmp_path):
    """Catches: a run that waits for ever for what a named pipe holds."""
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(OSError, match="metrics.csv: found a named pipe, expected a regular file"):
        metrics.MetricsWriter(tmp_path).rewind(3)
