"""`lfr prepare` at its limits: documents of any length, bytes that are no text, a disk that is full."""

import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import compression, text_source
from lfr_jax.prepare.prepare import PrepareSummary, prepare_paths

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(folder: pathlib.Path, form: str, texts: list[bytes]) -> None:
    """Documents as files of one form. The bytes need not be UTF-8."""
    folder.mkdir()
    kind, _, packing = form.partition(".")
    pack = PACK[f".{packing}" if packing else ""]
    if kind == "txt":
        for number, text in enumerate(texts):
            (folder / f"{number}.{form}").write_bytes(pack(text))
    elif kind == "jsonl":
        lines = (b'{"text": "' + text.replace(b"\n", b"\\n") + b'"}\n' for text in texts)
        (folder / f"a.{form}").write_bytes(pack(b"".join(lines)))
    else:
        raw = pa.array(texts, pa.binary())
        unchecked = pa.Array.from_buffers(pa.string(), len(texts), raw.buffers())
        pyarrow.parquet.write_table(pa.table({"text": unchecked}), folder / "a.parquet", row_group_size=2)


FORMS = [*("".join(pair) for pair in itertools.product(("txt", "jsonl"), PACK)), "parquet"]


def prepared(folder: pathlib.Path, **options) -> tuple[PrepareSummary, list[bytes]]:
    """What was counted, and the documents of both stores, as their blocks have them."""
    summary = prepare_paths((str(folder / "in"),), out=str(folder / "out"), byte_tokenizer=True, workers=1, **options)
    documents = []
    for store in (open_store(folder / "out" / side) for side in ("train", "valid")):
        store.verify()
        (source,) = store.sources
        cut = Blocks(store, min(1000, source.count - 1))
        tokens = cut.tokens(np.arange(cut.num_blocks))[:, :-1].ravel()
        np.testing.assert_array_equal(tokens, store.tokens[: (source.count - 1) // cut.seq_len * cut.seq_len])
        documents += bytes(np.where(store.tokens == Bytes.eos_id, 0, store.tokens).tolist()).split(b"\0")[:-1]
    return summary, documents


@pytest.mark.parametrize("form", FORMS)
def test_documents_of_no_token_of_one_and_of_a_million(tmp_path, monkeypatch, form):
    """Catches: an empty text with an end-of-text of its own, or that ends the job; a long one counted by its pieces,
    or cut where they end; a form of files in which that is another matter."""
    for module, name, value in ((text_source, "PIECE_CHARS", 99_999), (text_source, "CHUNK_BYTES", 3 << 16)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(compression, "READ_BYTES", 1 << 16)
    long = b"".join(b"%d goes on and on\n" % number for number in range(10**6 // 18))
    texts = [b"", b"x", long, b"a usual text"]
    write(tmp_path / "in", form, texts)
    summary, documents = prepared(tmp_path)
    assert sorted(documents) == sorted(texts[1:]) and len(long) > 10**6
    counts = [*summary.train.values(), *summary.valid.values()]
    assert sum(count.documents for count in counts) == 3 and summary.blank == 1
    assert sum(count.tokens for count in counts) == sum(len(text) + 1 for text in texts[1:])


@pytest.mark.parametrize("form", FORMS)
def test_bytes_that_are_no_text_are_counted_and_named(tmp_path, monkeypatch, form):
    """Catches: a form of files in which such bytes end the job, are replaced, or take their neighbours with them; a
    place that cannot be found again."""
    monkeypatch.setattr(compression, "READ_BYTES", 16)
    good = [b"number %d" % number for number in range(20)]
    bad = "größer\nund größer\nund ".encode() + b"gr\xf6\xdfer\nund"
    write(tmp_path / "in", form, [*good[:7], bad, *good[7:]])
    place = {
        "txt": f"7.{form}, line 3: found the byte 0xf6",
        "jsonl": f"a.{form}, line 8:",
        "parquet": "parquet, row 7:",
    }
    with pytest.raises(ValueError, match=f"{place[form.partition('.')[0]]}.*; 1 of 21 documents cannot be read"):
        prepared(tmp_path, tolerate=0.04)
    summary, documents = prepared(tmp_path, tolerate=0.05)
    assert summary.broken == {"not UTF-8": 1} and sorted(documents) == sorted(good)
    (described,) = json.loads((tmp_path / "out/prepared.json").read_text())["described"]
    assert place[form.partition(".")[0]] in described


FULL = """
import pathlib, subprocess, sys, traceback
from lfr_jax.prepare import compression, text_source
from lfr_jax.prepare.prepare import prepare_paths

text_source.CHUNK_BYTES, compression.READ_BYTES = 8000, 4000
disk = pathlib.Path("disk")

def run():
    prepare_paths(("in",), out="disk/out", byte_tokenizer=True, workers=1, valid_fraction=0.5)

def result():
    return {path.relative_to("disk"): path.read_bytes() for path in disk.rglob("*") if path.is_file()}

def tmpfs(size, *options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}k", *options]), "tmpfs", disk], check=True)

for size in (4096, *range(8, 4096, 16)):
    tmpfs(size)
    try:
        run()
        if size < 4096:
            break
        expected = result()
    except OSError as error:
        calls = {frame.name for frame in traceback.extract_tb((error.__cause__ or error).__traceback__)}
        (stage,) = calls & {"encode", "assemble_stores"} or {"finish"}
        said = "disk/out: the disk is full" in str(error) and "make room on it" in str(error)
        kept = len(list(disk.glob(".out.preparing/*.index")))
        left = sorted(path.name for path in disk.iterdir())
        tmpfs(4096, "remount")
        run()
        print(stage, kept, said, left == [".out.preparing"] * (kept > 0), result() == expected, sep=",")
    subprocess.run(["umount", disk], check=True)
"""


def test_a_disk_that_is_full_at_any_moment(tmp_path, namespace):
    """Runs on small disks in memory, each larger than the one before, until all has room.

    Catches: a stage whose error is not explained; half a folder; what was encoded not used again, or
    used although half written."""
    lines = [{"text": f"{number} of many " * 4} for number in range(1500)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run(
        [*namespace, sys.executable, "-c", FULL], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [line.split(",") for line in done.stdout.splitlines()]
    assert {stage for stage, *_ in found} == {"encode", "assemble_stores", "finish"}
    assert all(right == ["True"] * 3 for _, _, *right in found)
    kept = [int(kept) for stage, kept, *_ in found if stage == "encode"]
    assert max(kept) > 5 and kept == sorted(kept)
