"""Strategies of hypothesis for files that somebody edited, by accident or on purpose."""

import contextlib
import copy
import json

import hypothesis
import hypothesis.strategies as st

SETTINGS = hypothesis.settings(deadline=None, max_examples=60, database=None)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63, 2**64, -(2**63), 10**30, 10**4000]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\0b", "\ud800", "object", "<u2", "O", "tokens.bin"]
    ),
    st.lists(st.integers(-1, 1), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
    st.just("x" * 70_000),
)


def places(value, path=()):
    """The paths to all values within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@contextlib.contextmanager
def read_or_refused(path):
    """Within it a file is read, or refused in one line that names `path`. Any other error passes, and is a fault."""
    try:
        yield
    except (ValueError, OSError) as error:
        assert str(path) in str(error) and "\n" not in str(error)


def each_edit(path, edited, read, named=None):
    """Edits a file in many ways, reads it each time with `read()`, and puts it back.

    Args:
      edited: gives the strategy of what to write, from the content.
      named: the path that errors name, in place of `path`.
    """
    content = path.read_bytes()

    @SETTINGS
    @hypothesis.given(edited(content))
    def run(raw):
        path.write_bytes(raw)
        with read_or_refused(named or path):
            read()

    try:
        run()
    finally:
        path.write_bytes(content)


@st.composite
def edited_json(draw, value, edits=2):
    """A JSON value with up to `edits` values replaced, taken away, doubled, or moved elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, edits))):
        if not (found := list(places(value))):
            break
        *outer, key = draw(st.sampled_from(found))
        holder = value
        for step in outer:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "replace", "replace", "shift", "remove", "double", "add"])):
            case "replace":
                holder[key] = draw(VALUES)
            case "shift" if type(holder[key]) is int:
                holder[key] += draw(st.sampled_from([-1, 1, 1000, 2**40]))
            case "remove":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["", "../a", "b", "tokens.bin", "\ud800"]))] = copy.deepcopy(holder[key])
    return value


@st.composite
def edited_text(draw, raw):
    """The bytes of a JSON file with some of its values edited."""
    return json.dumps(draw(edited_json(json.loads(raw)))).encode()


@st.composite
def edited_bytes(draw, raw, edits=3):
    """The bytes of a file with some of them changed, cut out, put in, or zeroed; or cut off."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, edits))):
        at, size = draw(st.integers(0, len(raw))), draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        match draw(st.sampled_from(["flip", "flip", "write", "cut", "insert", "zero", "digits", "end"])):
            case "flip" if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "write":
                raw[at : at + size] = draw(st.binary(min_size=size, max_size=size))
            case "cut":
                del raw[at : at + size]
            case "insert":
                raw[at:at] = draw(st.binary(min_size=1, max_size=size))
            case "zero":
                raw[at : at + size] = bytes(len(raw[at : at + size]))
            case "digits":
                raw[at:at] = draw(st.sampled_from([b"9" * 18, b"9" * 400, b"-1", b"(", b",", b"'", b"\n", b'"']))
            case "end":
                del raw[at:]
    return bytes(raw)
