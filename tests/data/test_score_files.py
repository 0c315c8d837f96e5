"""Files of reference losses: read whole, or refused with the reason and what to do."""

import hostile
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lfr_jax.data import score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store


@pytest.fixture(scope="module")
def blocks(corpus_dir):
    return Blocks(open_store(corpus_dir / "train"), 32)


@pytest.fixture
def lines(blocks):
    """A file of scores, line by line; the loss of block i is i / 7."""
    rows = [f"{i},{blocks.domains[domain]},{np.float32(i / 7)}\n" for i, domain in enumerate(blocks.domain_N)]
    return [score_files.origin(blocks, 24), "block,domain,loss\n", *rows]


def read(tmp_path, lines, blocks):
    (tmp_path / "scores.csv").write_text("".join(lines))
    return score_files.read_scores(tmp_path / "scores.csv", blocks)


def test_every_loss_is_read_to_the_bit(tmp_path, lines, blocks):
    """Catches: rows off by one; a loss rounded on its way; a domain with a comma or a line break in its name."""
    lines[5] = lines[5].replace(blocks.domains[0], '"odd, ""name"""')
    lines[6] = lines[6].replace(blocks.domains[0], '"two\nlines"')
    loss_N = read(tmp_path, lines, blocks)
    assert loss_N.dtype == np.float32
    np.testing.assert_array_equal(loss_N, np.float32(np.arange(blocks.num_blocks) / 7))


def test_what_was_not_measured_is_nan(tmp_path, lines, blocks):
    """Catches: refusing a pass that could not measure a block; an infinite loss, which would outrank all others."""
    lines[2:6] = ["0,easy,nan\n", "1,easy,inf\n", "2,easy,-inf\n", "3,easy,1e39\n"]
    loss_N = read(tmp_path, lines, blocks)
    assert np.isnan(loss_N[:4]).all() and np.isfinite(loss_N[4:]).all()


def cut(lines, to):
    return ["".join(lines)[:to]]


@pytest.mark.parametrize(
    "spoil, error",
    [
        (lambda x: ["# store abc123 seq_len 32 step 9\n", *x[1:]], "losses of the store abc123… .* expected those of"),
        (
            lambda x: [x[0].replace("seq_len 32", "seq_len 64"), *x[1:]],
            "in blocks of seq_len 64, .* in blocks of seq_len 32;",
        ),
        (lambda x: x[1:], "does not begin as `lfr score` begins"),
        (lambda x: [x[0], *x[2:]], "does not begin as `lfr score` begins"),
        (lambda x: [], "does not begin as `lfr score` begins"),
        (lambda x: ["\0\xff\n"], "does not begin as `lfr score` begins"),
        (lambda x: x[:-1], "is cut off after block {last} of {n}"),
        (lambda x: x[:2], "is cut off after block -1 of {n}"),
        (lambda x: cut(x, -3), "is cut off after block {n_minus_1} of {n}"),
        (lambda x: cut(x, -len(x[-1]) + 2), "line {lines}: found .*, expected block {n_minus_1} of {n}"),
        (lambda x: [*x, "{n},easy,1.0\n"], "expected block {n} of {n}"),
        (lambda x: [*x[:9], x[10], x[9], *x[11:]], "line 10: found '8,.*, expected block 7 "),
        (lambda x: [*x[:9], *x[10:]], "line 10: found '8,.*, expected block 7 "),
        (lambda x: [*x[:9], "7,easy,hard\n", *x[10:]], "line 10: found '7,easy,hard', expected block 7 "),
        (lambda x: [*x[:9], "7,easy\n", *x[10:]], "line 10: found '7,easy', expected block 7 "),
        (
            lambda x: [*x[:9], "x" * 10**6 + "\n", *x[10:]],
            "line 10: found 'xxx.*… .65,538 characters., expected block 7 ",
        ),
        (lambda x: [*x[:9], '7,"' + "easy\n" * 10**5, *x[10:]], "line .*: found no row of CSV .field larger than"),
        (lambda x: [*x[:9], "7,ea\rsy,1.0\n", *x[10:]], "line 10: found '7,ea', expected block 7 "),
        (
            lambda x: [x[0].replace("seq_len 32", "seq_len 32" + " more" * 10**4), *x[1:]],
            "in blocks of seq_len 32 more more",
        ),
        (lambda x: ["x" * 10**6], "does not begin as"),
        (lambda x: ["# store a seq_len " + "9" * 60_000], "does not begin as"),  # at once: no backtracking
        (lambda x: x[:2] + [f"{i},easy,nan\n" for i in range(len(x) - 2)], "no finite loss: the model has diverged"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, lines, blocks, spoil, error):
    """Catches: each check, if it is dropped; another line named than the spoilt one."""
    n = blocks.num_blocks
    numbers = dict(n=n, last=n - 2, n_minus_1=n - 1, lines=n + 2)
    spoilt = [line.replace("{n}", str(n)) for line in spoil(lines)]
    with pytest.raises(ValueError, match=error.format(**numbers)) as refused:
        read(tmp_path, spoilt, blocks)
    assert "scores.csv" in str(refused.value) and len(str(refused.value)) < 700


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scores")


@hypothesis.settings(
    deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_any_bytes_give_losses_or_an_error(place, lines, blocks, data):
    """Catches: any exception but ours."""
    raw = data.draw(hostile.edited_bytes("".join(lines).encode()))
    (place / "scores.csv").write_bytes(raw)
    try:
        assert score_files.read_scores(place / "scores.csv", blocks).shape == (blocks.num_blocks,)
    except ValueError as error:
        assert "scores.csv" in str(error) and len(str(error)) < 700


def test_the_remedy_is_a_command_that_exists(tmp_path, blocks):
    """Catches: a hint that leaves out the store or the length, and so would write the same wrong file again."""
    store = blocks.store.path.parent
    with pytest.raises(
        FileNotFoundError, match=f"`lfr score RUN --store {store} --packing concatenate --seq-len 32 --out .*none.csv`"
    ):
        score_files.read_scores(tmp_path / "none.csv", blocks)


@pytest.mark.parametrize("make", [lambda path: path.write_text("{}"), lambda path: path.mkdir()])
def test_scores_replace_no_other_file(tmp_path, make):
    """Catches: `lfr score RUN --out RUN/config.json`; a folder that is found only when all blocks are scored."""
    make(tmp_path / "out")
    with pytest.raises(OSError, match="out: found a (file that is no score file|folder)"):
        score_files.require_replaceable(tmp_path / "out")


def test_scores_need_a_folder(tmp_path):
    """Catches: an error that names a temporary file in a folder that is not there."""
    with pytest.raises(NotADirectoryError, match="no-such: found no folder"):
        score_files.require_replaceable(tmp_path / "no-such" / "scores.csv")


def test_scores_replace_scores(tmp_path, lines):
    """Catches: refusing the file of an earlier pass, or an empty one, as `mktemp` makes it."""
    (tmp_path / "old.csv").write_text("".join(lines))
    (tmp_path / "empty.csv").touch()
    for name in ("old.csv", "empty.csv", "new.csv"):
        score_files.require_replaceable(tmp_path / name)
