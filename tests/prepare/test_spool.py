"""Chunks encoded by several processes: in order, once, and never mixed with what another command left."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from running import PATIENCE

from lfr_jax.data import tokenizer
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import compression, inputs, segments, spool, text_source
from lfr_jax.prepare.spool import Spool, name_kept_work, work_folder
from lfr_jax.prepare.text_source import Document


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Two large files, in about ten chunks each, and a small one."""
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(compression, "READ_BYTES", 512)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name} {i} " * 12}) for i in range(200)]
        (tmp_path / "in" / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "in" / "c.txt").write_text("small")
    return inputs.of_paths([tmp_path / "in"])


def words(encoded) -> list[tuple[str, int]]:
    """How each segment begins, in order, and how many documents it has."""
    return [(Bytes().decode(segments.read_run(s, s.runs[0], 0)[:12].tolist()), len(s.rows)) for s in encoded]


def made_anew(monkeypatch) -> list:
    """What is encoded from now on."""
    made, encode = [], segments.encode_chunk
    monkeypatch.setattr(segments, "encode_chunk", lambda *args: (made.append(args), encode(*args))[1])
    return made


def test_processes_give_what_one_gives(texts, tmp_path):
    """Catches: segments in the order in which they were finished; a chunk lost or done twice; a total that is not
    met."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    done = []
    alone = Spool(tmp_path / "one", Bytes(), advance=done.append).encode(texts)
    assert sum(done) == sum(place.size for place in texts) and len(alone) > 10
    several = Spool(tmp_path / "two", Bytes()).encode(texts, workers=2)
    assert words(alone) == words(several)
    for path in (tmp_path / "one").glob("*.tokens"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert not multiprocessing.active_children()


def test_what_is_there_is_not_encoded_again(texts, tmp_path, monkeypatch):
    """Catches: a second run that begins anew; a file read again of which all is there; the progress of the first run
    not counted."""
    first = words(Spool(tmp_path, Bytes()).encode(texts))
    made, done = made_anew(monkeypatch), []
    next(tmp_path.glob("*.index")).unlink()
    assert words(Spool(tmp_path, Bytes(), advance=done.append).encode(texts)) == first
    assert len(made) == 1 and sum(done) == sum(place.size for place in texts)
    unread = [place._replace(chunks=None) for place in texts]  # as all of it is there, nothing asks for the chunks
    assert words(Spool(tmp_path, Bytes()).encode(unread)) == first and len(made) == 1


def test_other_settings_take_nothing_of_it(texts, tmp_path, monkeypatch):
    """Catches: segments of another tokenizer, sample, cut or text taken for one's own."""
    made = made_anew(monkeypatch)
    alone = len(Spool(tmp_path, Bytes()).encode(texts))
    pieces = tokenizer.train_sentencepiece(["some words " * 50], 270)
    for again in (lambda: Spool(tmp_path, pieces), lambda: Spool(tmp_path, Bytes(), sample=0.5)):
        del made[:]
        again().encode(texts)
        assert len(made) == alone
    del made[:]
    folder = tmp_path / "in"
    lines = (folder / "a.jsonl").read_bytes()
    (folder / "a.jsonl").write_bytes(lines.replace(b"a 0", b"z 0"))
    os.utime(folder / "a.jsonl", ns=(1, 1))
    changed = Spool(tmp_path, Bytes()).encode(inputs.of_paths([folder]))
    assert 3 < len(made) < alone - 3 and words(changed)[0][0].startswith("z 0")  # b.jsonl is as it was
    monkeypatch.setattr(text_source, "PIECE_CHARS", 50)
    del made[:]
    Spool(tmp_path, Bytes()).encode(texts[-1:])
    assert len(made) == 1


def test_given_documents_are_known_by_their_content(tmp_path, monkeypatch):
    """Catches: documents in memory taken for others because they have the same number."""
    made = made_anew(monkeypatch)
    for text in ("one", "two", "one"):
        given = text_source.from_documents(lambda text=text: [Document("id", text, "x", "s")])
        (segment,) = Spool(tmp_path, Bytes()).encode([given])
        assert words([segment])[0][0] == text
    assert len(made) == 2


def test_too_many_broken_documents(tmp_path, monkeypatch):
    """Catches: silent loss; one bad line that ends the job; a share of something else; ten hours of a wrong field."""

    def spooled(good, bad, tolerate):
        lines = ['{"text": "good"}'] * good + ["bad"] * bad
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        one = Spool(tmp_path, Bytes())
        one.encode(inputs.of_paths([tmp_path / "x.jsonl"]), tolerate=tolerate)
        return one

    with pytest.raises(
        ValueError, match=r"x.jsonl, line 100: found no valid JSON .*; 1 of 100 documents cannot be read"
    ):
        spooled(99, 1, 0.0)
    assert spooled(99, 1, 0.01).problems == {"not JSON": 1}
    with pytest.raises(ValueError, match="2 of 101 documents"):
        spooled(99, 2, 0.01)
    monkeypatch.setattr(spool, "PATIENCE", 5)
    monkeypatch.setattr(text_source, "CHUNK_BYTES", 40)
    monkeypatch.setattr(compression, "READ_BYTES", 40)
    with pytest.raises(ValueError, match=r"; \d\d? of \d\d? documents"):
        spooled(10, 5000, 0.01)
    for tolerate in (0.0, 1.0):  # a file that is something else is no number of documents
        with pytest.raises(ValueError, match=r"x.jsonl, line 1: .*; nothing in this file can be read \(\d+ tried\)"):
            spooled(0, 5000, tolerate)


KILLED = """
import os, signal, sys
from lfr_jax.data.tokenizer import Bytes
from lfr_jax.prepare import compression, inputs, text_source
from lfr_jax.prepare.spool import Spool, work_folder

text_source.CHUNK_BYTES, compression.READ_BYTES = 2000, 512

def advance(size):
    advance.done += size
    if advance.done > 6000:
        print(*[child.pid for child in __import__("multiprocessing").active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

advance.done = 0
with work_folder("out") as folder:
    Spool(folder, Bytes(), advance=advance).encode(inputs.of_paths(["in"]), workers=2)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return b" Z " not in pathlib.Path(f"/proc/{process}/stat").read_bytes() if os.path.exists("/proc") else True


def test_killed_and_run_again(texts, tmp_path, monkeypatch):
    """Catches: workers that outlive the process that was killed; what it left not used, or used although half written;
    leftovers that stay."""
    (tmp_path / "fresh").mkdir()
    expected = words(Spool(tmp_path / "fresh", Bytes()).encode(inputs.of_paths([tmp_path / "in"])))
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    with open("workers.txt", "w+") as file:  # no pipe: it would be open for as long as the workers live
        done = subprocess.run([sys.executable, "-c", KILLED], env=environment, stdout=file)
        file.seek(0)
        workers = [int(process) for process in file.read().split()]
    assert done.returncode == -signal.SIGKILL and workers
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    outlived = [process for process in workers if alive(process)]
    for process in outlived:
        os.kill(process, signal.SIGKILL)
    assert not outlived
    left = tmp_path / ".out.preparing"
    ready = len(list(left.glob("*.index")))
    (left / "half.tokens.7.tmp").write_bytes(b"half")
    made = made_anew(monkeypatch)
    with work_folder("out") as folder:
        assert not list(tmp_path.rglob("*.tmp"))
        again = Spool(folder, Bytes()).encode(inputs.of_paths(["in"]))
        assert ready >= 3 and len(made) == len(again) - ready
        assert words(again) == expected
    assert not left.exists()


def test_the_work_folder_stays_if_it_is_of_use(tmp_path):
    """Catches: hours of work removed with an error; a folder that holds nothing but empty chunks, or a new parent, left
    behind; two processes at once."""
    for content, kept in (("", False), ("tokens", True)):
        out = tmp_path / "new/parent/out"
        with pytest.raises(RuntimeError) as raised, work_folder(out) as folder, name_kept_work(folder):
            (folder / "x.index").write_text("")
            (folder / "x.tokens").write_text(content)
            with pytest.raises(BlockingIOError, match="out: is being prepared by another process"):
                with work_folder(tmp_path / "new/parent/out"):
                    raise AssertionError("was entered")
            raise RuntimeError
        assert folder.exists() == kept and (tmp_path / "new").exists() == kept
        notes = "".join(getattr(raised.value, "__notes__", []))
        assert ("the same command goes on from there" in notes and str(folder) in notes) == kept
    with pytest.raises(RuntimeError) as raised, work_folder(tmp_path / "new/parent/out") as folder:
        raise RuntimeError  # of what comes before the encoding
    assert folder.exists() and not hasattr(raised.value, "__notes__")
    (tmp_path / "new/parent/out").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"), work_folder(tmp_path / "new/parent/out"):
        raise AssertionError("was entered")
    assert not folder.exists()  # it was killed after the last step


def test_a_killed_worker_is_no_riddle(texts, tmp_path, monkeypatch):
    """Catches: BrokenProcessPool, which says nothing of memory, nor of what was read."""

    def advance(size):
        for worker in multiprocessing.active_children():
            worker.kill()

    at = r"\S*a.jsonl, from line \d+ on"
    with pytest.raises(OSError, match=f"killed while it was reading {at} or {at}, perhaps for want of memory"):
        Spool(tmp_path, Bytes(), advance=advance).encode(texts, workers=2)
