"""What a file holds by its first bytes. A name may be wrong: an archive among texts, JSON lines called a text.

Such a file is refused by its name. It is never one unreadable document of many, and never a document of JSON syntax.
"""

import codecs
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lfr_jax.prepare import text_source
from lfr_jax.prepare.compression import SUFFIXES

HEAD_BYTES = 8000  # so many are looked at, or more

# How files begin that hold no text in UTF-8. Others are found by their control characters.
BEGINS: dict[bytes, str] = {
    b"\x1f\x8b": "data packed with gzip, whose name should end in .gz",
    b"\x28\xb5\x2f\xfd": "data packed with zstd, whose name should end in .zst",
    b"\xfd7zXZ\0": "data packed with xz, whose name should end in .xz",
    b"BZh91AY&SY": "data packed with bzip2, whose name should end in .bz2",
    b"\x04\x22\x4d\x18": "data packed with lz4",
    b"PK\x03\x04": "a zip archive (so are .docx, .xlsx, .epub, .npz)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a": "a rar archive",
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0": "a document of an older office program",
    b"PAR1\x15": "a Parquet file, whose name should end in .parquet",
    b"ARROW1\0": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\0": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"WARC/1.": "a web archive (WARC)",
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS in place of the file (git lfs pull)",
    codecs.BOM_UTF32_LE: "text in UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "text in UTF-32",
    codecs.BOM_UTF16_LE: "text in UTF-16",
    codecs.BOM_UTF16_BE: "text in UTF-16",
}
TAR, TAR_AT = b"ustar", 257
CONTROL = re.compile(rb"[\0-\x06\x0e-\x1a\x1c-\x1f]")  # but not what ends lines, rings, or begins a colour


def looked_at(parts: Iterable[tuple[bytes, int]], look: Callable[[bytes], None]) -> Iterator[tuple[bytes, int]]:
    """The parts of a file's content, unchanged. Before the first one, `look` is called with the first bytes."""
    parts, head, held = iter(parts), b"", []
    for part in parts:
        held.append(part)
        head += part[0]
        if len(head) >= HEAD_BYTES:
            break
    look(head)
    yield from held
    yield from parts


def refuse_other_than_text(path: pathlib.Path, head: bytes, text_field: str) -> None:
    """Raises ValueError if a file that should be one text begins as something else."""
    refuse_known(path, head, "text in UTF-8")
    first = head[:HEAD_BYTES]
    if b"\0" in first or (CONTROL.search(first) and not is_utf8(first)):
        raise ValueError(f"{path}: found bytes that are no text, expected text in UTF-8; convert it or take it away")
    if holds_records(head, text_field):
        ending = ".jsonl" + path.suffix * (path.suffix.lower() in SUFFIXES)
        raise ValueError(
            f"{path}: found JSON lines in a file whose name says that it is one text; rename it to end in {ending}, or "
            "take it away"
        )


def refuse_other_than_lines(path: pathlib.Path, head: bytes) -> None:
    """Raises ValueError if a file that should hold JSON lines begins as something else."""
    refuse_known(path, head, "JSON lines")
    line, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if line.startswith(b"[") and (parsed(line) is None or not rest.strip()):
        found, program = "a JSON array", ".[]"
    elif begins_object(line) and rest.lstrip()[:1] not in (b"{", b""):
        found, program = "a JSON object over several lines", "."
    else:
        return
    raise ValueError(
        f"{path}: found {found}, expected JSON lines, an object on each; convert it (decompressed: "
        f"jq -c '{program}' OLD > NEW.jsonl) or take it away"
    )


def refuse_known(path: pathlib.Path, head: bytes, expected: str) -> None:
    """Raises ValueError if a file begins as no text does."""
    found = next((name for begin, name in BEGINS.items() if head.startswith(begin)), "")
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        found = "a tar archive"
    if found:
        raise ValueError(f"{path}: found {found}, expected {expected}; convert it or take it away")


def is_utf8(head: bytes) -> bool:
    """Whether bytes are UTF-8, of which the last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def holds_records(head: bytes, text_field: str) -> bool:
    """Whether a file begins with JSON lines: two objects, or one that has the field of text.

    >>> holds_records(b'{"text": "x"}', "text"), holds_records(b'{"version": 3}', "text"), holds_records(b"{}\\n{}", "")
    (True, False, True)
    """
    lines = [line for line in head.removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip()][:2]
    found = [parsed(line) for line in lines]
    if not lines or not isinstance(found[0], dict):
        # A record that is longer than the head: it is cut off, so it cannot be parsed.
        name = re.escape(json.dumps(text_field.rpartition(".")[2]).encode())
        return len(lines) == 1 and head.lstrip().startswith(b'{"') and bool(re.search(name + rb"\s*:\s*\"", head))
    return isinstance(found[-1], dict) and len(found) == 2 or text_source.has_field(found[0], text_field)


def parsed(line: bytes) -> Any:
    """The JSON value on a line; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def begins_object(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON object, without its end.

    >>> begins_object(b'{"text":'), begins_object(b'{"text": "x"}'), begins_object(b'{"text": x')
    (True, False, False)
    """
    text = line.decode(errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return text.startswith("{") and error.pos >= len(text)
    except (ValueError, RecursionError):  # ValueError: a number of thousands of digits
        pass
    return False
