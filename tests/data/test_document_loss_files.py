"""Files of held-out losses by document: read whole, or refused with the reason and what to do."""

import hostile
import numpy as np
import pytest

from lfr_jax.data import document_loss_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.document_loss_files import DocumentLosses, read_document_losses
from lfr_jax.data.store import open_store
from lfr_jax.train.track.metrics import csv_line

DOMAINS = ['odd, "name"', "two\nlines", "c\rd", "Zoë", ""]
LOSSES = DocumentLosses(
    np.array(DOMAINS),
    np.array(["choose", "report", "report", "choose", "report"]),
    np.array([3, 0, 2**40, 7, 1]),
    np.array([9, 0, 2**41, 20, 0]),
    np.array([1 / 3, 0.0, 1e13 / 7, np.nan, 5e-324]),
    17,
)


@pytest.fixture
def lines(corpus_dir):
    return written(LOSSES, Blocks(open_store(corpus_dir / "valid"), 32))


def written(losses, blocks):
    return [document_loss_files.origin(losses, blocks, 24), *map(csv_line, document_loss_files.rows(losses))]


def read(tmp_path, lines):
    (tmp_path / "losses.csv").write_bytes("".join(lines).encode())
    return read_document_losses(tmp_path / "losses.csv")


@pytest.mark.parametrize("losses", [LOSSES, LOSSES._replace(bytes=None)])
def test_every_value_is_read_to_the_bit(tmp_path, corpus_dir, losses):
    """Catches: a loss rounded; a name that breaks its row; columns exchanged; bytes that are not known read as 0; the
    loss of a model that has diverged refused."""
    found = read(tmp_path, written(losses, Blocks(open_store(corpus_dir / "valid"), 32)))
    assert (found.bytes is None) == (losses.bytes is None) and found.left_out == 17
    for name in ("domain", "half", "tokens", "nll") + (("bytes",) if losses.bytes is not None else ()):
        values = getattr(found, name)
        assert values.dtype == getattr(losses, name).dtype
        np.testing.assert_array_equal(values, getattr(losses, name))


def test_the_file_says_what_it_holds(lines, corpus_dir):
    """Catches: a first line that does not tell which documents these are, or whose it is that measured them."""
    fingerprint = open_store(corpus_dir / "valid").fingerprint
    assert lines[0] == f"# documents 5 store {fingerprint} seq_len 32 step 24 left_out 17\n"
    assert lines[1] == "document,domain,half,tokens,bytes,nll\n"
    assert lines[2] == '0,"odd, ""name""",choose,3,9,0.3333333333333333\n'


@pytest.mark.parametrize(
    "spoil, error",
    [
        (lambda x: x[1:], "does not begin as `lfr evaluate RUN --by-document` begins"),
        (lambda x: [x[0], *x[2:]], "does not begin as"),
        (lambda x: ["# store abc seq_len 32 step 9\n", *x[1:]], "does not begin as"),
        (lambda x: [], "does not begin as"),
        (lambda x: x[:-1], "found 4 whole rows, expected 5: it is cut off"),
        (lambda x: x[:2], "found 0 whole rows, expected 5: it is cut off"),
        (lambda x: [*x[:-1], x[-1].rstrip("\n")], "expected 5: it is cut off"),
        (lambda x: [*x[:-1], x[-1][:8]], "line 9: found .* expected document,domain,.* of document 4"),
        (lambda x: [*x, x[-1]], "expected document,.* of document 5"),
        (lambda x: [*x, x[-1].replace("4", "5", 1)], "found 6 whole rows, expected 5"),
        (lambda x: [*x[:3], x[4], x[3], *x[5:]], "line .: found .* of document 1"),
        (lambda x: [*x[:2], x[2].replace("choose", "both"), *x[3:]], "found .*both.* of document 0"),
        (lambda x: [*x[:2], x[2].replace(",9,", ",-9,"), *x[3:]], "of document 0"),
        (lambda x: [*x[:2], x[2].replace(",3,", ",-3,"), *x[3:]], "of document 0"),
        (lambda x: [*x[:2], x[2].replace(",3,", ",x,"), *x[3:]], "of document 0"),
        (lambda x: [*x[:2], x[2].replace(",3,", f",{2**63},"), *x[3:]], "of document 0"),
        (lambda x: [x[0].replace("documents 5", "documents 0"), x[1]], "does not begin as"),
        (lambda x: [*x[:2], x[2].replace(",9,", ",,"), *x[3:]], "found bytes of some documents"),
        (lambda x: [*x[:2], x[2].replace("\n", ",1\n"), *x[3:]], "of document 0"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, lines, spoil, error):
    """Catches: any of these read as losses of other documents, or of fewer."""
    with pytest.raises(ValueError, match=error) as raised:
        read(tmp_path, spoil(lines))
    assert f"{tmp_path / 'losses.csv'}" in str(raised.value)
    assert f"`lfr evaluate RUN --by-document {tmp_path / 'losses.csv'}`" in str(raised.value)


def test_edited_files_are_read_or_refused(tmp_path, lines):
    """Catches: an error that does not name the file, or of another kind, for any bytes; numbers beyond 64 bits."""
    path = tmp_path / "losses.csv"
    path.write_text("".join(lines))
    hostile.each_edit(path, hostile.edited_bytes, lambda: read_document_losses(path))


def test_a_missing_file_is_said(tmp_path):
    """Catches: a hint without the name of the file."""
    with pytest.raises(FileNotFoundError, match="found no file of losses .*no.csv.*--by-document .*no.csv`"):
        read_document_losses(tmp_path / "no.csv")


def test_only_its_own_kind_is_replaced(tmp_path, lines):
    """Catches: a score file, or any other file, replaced by losses of documents; an older file of them refused."""
    (tmp_path / "old.csv").write_text("".join(lines))
    (tmp_path / "scores.csv").write_text("# store abc seq_len 32 step 9\nblock,domain,loss\n")
    for name in ("old.csv", "new.csv"):
        document_loss_files.require_replaceable(tmp_path / name)
    with pytest.raises(FileExistsError, match="scores.csv: found a file that is no file of losses by document"):
        document_loss_files.require_replaceable(tmp_path / "scores.csv")
