"""What the outsiders' trainers share: data of which half is easy, and what must be true of every one of them."""

import collections
import pathlib
import re

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
BATCH, VOCAB = 8, 16
LENGTHS = dict(learn=16, focus=8, review=8, focus2=6, drop=0.5, drop2=0.5, reps=1)


def token_blocks() -> np.ndarray:
    """int32[64, 17]: in the first half the next token follows from the last one, in the second it is random."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(4, VOCAB, (64, 17))
    blocks[:32] = (np.arange(17) + rng.integers(0, 4, (32, 1))) % 4
    return blocks.astype(np.int32)


BLOCKS = token_blocks()


def recipe(heading: str) -> dict:
    """What the code under a heading of docs/your_trainer.md defines."""
    page = (ROOT / "docs" / "your_trainer.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    names = {"__name__": heading}
    exec(code, names)
    return names


def check(train, folder, *stops: int) -> None:
    """The trainer chooses the hard half in Focus; and goes on from its checkpoints as if nothing had happened.

    Args:
      train: (folder, stop=None) -> (state, drawn): trains from the newest checkpoint in `folder`, if any, to step
        `stop`, and saves there; or to the end. `drawn` lists (phase name, ids) of the steps that it did.
      folder: an empty one.
      stops: where it is interrupted, one after the other: within a phase, and between two.
    """
    expected, drawn = train(folder / "in one go")
    by_phase = collections.defaultdict(list)
    for name, ids in drawn:
        by_phase[name].extend(np.asarray(ids).tolist())
    assert list(by_phase) == ["learn", "focus", "review", "focus2"]
    assert sorted(by_phase["learn"]) == sorted([*range(64)] * 2)  # two epochs
    assert sorted(by_phase["focus"]) == sorted([*range(32, 64)] * 2)  # two passes over the hard half
    assert set(by_phase["focus2"]) <= set(range(32, 64))

    done = []
    for stop in stops:
        done += train(folder / "in parts", stop)[1]
        assert 0 < len(done) == stop < len(drawn)
    resumed, last = train(folder / "in parts")
    assert [np.asarray(ids).tolist() for _, ids in done + last] == [np.asarray(ids).tolist() for _, ids in drawn]
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
