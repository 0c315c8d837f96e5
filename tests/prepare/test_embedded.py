"""The corpus that Python carries: taken apart without loss or overlap, the same at every call."""

import collections
import sys

import pytest

from lfr_jax.prepare import embedded

MODULE = (
    '''"""About
    this."""
import os

class A:
    """In A. \\d"""
    if True:
        def f(self): "too short to be alone"; return 1
        async def g(self):
            """
            Of g.

              More.
            """
            try:
                pass
            except ValueError:
                def h():
                    """Of h."""
            return """no docstring"""

TABLE = {
'''
    + "".join(f"    {n}: 'row {n}',\n" for n in range(22))
    + """}
SHORT = [
"""
    + "".join(f"    {n},\n" for n in range(21))
    + "]\n"
)


@pytest.fixture
def library(tmp_path):
    for name, text in {
        "z.py": "x = 'é'\n",
        "a/module.py": MODULE,
        "a/copy.py": MODULE,
        "test/test_a.py": "assert 1\n",
        "site-packages/big.py": "import this\n",
        "_sysconfigdata_linux.py": "build_time_vars = {}\n",
        "broken.py": "def (:\n",
        "empty.py": "",
        "pydoc_data/topics.py": "topics = {'if': 'The if\\nstatement', 'for': 'The for'}\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n")
    return tmp_path


def test_a_module_is_taken_apart():
    """Catches: docstrings left in the code, nested ones missed, other strings taken, lines lost."""
    code, prose, tables = embedded.take_apart(MODULE, embedded.parse(MODULE))
    assert prose == "About\nthis.\n\nIn A. \\d\n\nOf g.\n\n  More.\n\nOf h.\n"
    assert tables.startswith("TABLE = {\n    0: 'row 0'") and tables.endswith("'row 21',\n}\n")
    for left in ('"too short to be alone"', '"""no docstring"""', "SHORT = [\n    0,", "import os\n"):
        assert left in code
    for taken in ("About", "In A", "Of g", "Of h", "TABLE"):
        assert taken not in code
    kept = collections.Counter((code + tables).splitlines())
    assert sum((collections.Counter(MODULE.splitlines()) - kept).values()) == 2 + 1 + 5 + 1  # docstrings' lines


def test_a_library_is_read(library):
    """Catches: tests, packages or machine paths let in; an order from the disk; a file that stops it all."""
    found = list(embedded.from_library(library))
    full = [(d.id, d.domain, d.source) for d in found if d.text]
    assert full == [
        ("code/a/copy.py", "code", "library"),
        ("prose/a/copy.py", "prose", "docstrings"),
        ("tables/a/copy.py", "tables", "literals"),
        ("code/a/module.py", "code", "library"),
        ("prose/a/module.py", "prose", "docstrings"),
        ("tables/a/module.py", "tables", "literals"),
        ("prose/topics/for", "prose", "topics"),
        ("prose/topics/if", "prose", "topics"),
        ("code/z.py", "code", "library"),
    ]
    assert found[-1].text == "" and [d.text for d in found if d.id == "code/z.py"] == ["x = 'é'\n"]


def test_unicode_tables():
    """Catches: control characters without a name, ideographs, fields in another order."""
    documents = list(embedded.unicode_tables(rows=100))
    rows = "".join(document.text for document in documents).splitlines()
    assert rows[0] == "0020;SPACE;Zs;0;WS;"
    assert "00BD;VULGAR FRACTION ONE HALF;No;0;ON;<fraction> 0031 2044 0032" in rows
    assert not [row for row in rows if row.split(";")[1].startswith(("CJK UNIFIED", "HANGUL SYLLABLE"))]
    assert len(rows) > 30_000 and len(set(rows)) == len(rows)
    assert {document.text.count("\n") for document in documents[:-1]} == {100}
    assert documents[0].id == "tables/unicode/0020"


@pytest.mark.slow
def test_this_python_carries_enough():
    """Catches: an empty domain, duplicates, odd modules imported, all of it parsed at each call."""
    before = set(sys.modules)
    documents = embedded.documents()
    assert not {"this", "antigravity", "turtle", "idlelib"} & (set(sys.modules) - before)
    assert len({document.text for document in documents}) == len({document.id for document in documents})
    chars = collections.Counter()
    for document in documents:
        assert document.text.strip()
        chars[document.domain] += len(document.text)
    assert list(chars) == ["code", "prose", "tables"]
    assert 5e6 < chars["code"] < 12e6 and 1.5e6 < chars["prose"] < 4e6 and 2e6 < chars["tables"] < 4e6
    assert embedded.documents() is documents
