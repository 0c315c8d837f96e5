"""The embedded corpus: real text that every Python carries, so no network is needed.

It has three domains of very different difficulty:

- `code`: the sources of the standard library
- `prose`: their docstrings, and the language reference of `pydoc_data`
- `tables`: the long literals in the sources (character maps, entities, locales), and the Unicode character database
"""

import ast
import functools
import inspect
import pathlib
import sys
import sysconfig
import unicodedata
import warnings
from collections.abc import Iterator

from lfr_jax.prepare import text_source
from lfr_jax.prepare.text_source import Document, Input

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
TABLE_LINES = 24  # a module-level statement with this many lines or more is a table, unless it is a definition


@functools.cache
def documents() -> tuple[Document, ...]:
    """All documents, in a fixed order, none twice. Another version of Python has another text."""
    unique = {}
    for document in (*from_library(pathlib.Path(sysconfig.get_path("stdlib"))), *unicode_tables()):
        if document.text.strip():
            unique.setdefault(document.text, document)
    return tuple(unique.values())


def as_input() -> Input:
    """The input for the embedded corpus."""
    stamp = text_source.stamp("embedded", sys.version, unicodedata.unidata_version, sysconfig.get_path("stdlib"))
    return text_source.from_documents(documents, stamp)


def from_library(root: pathlib.Path) -> Iterator[Document]:
    """The documents of each module under `root`. Sources are parsed, never imported."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in names:
        # _sysconfigdata lists the paths and flags of the machine that built this Python.
        if LEFT_OUT & set(name.split("/")) or name.startswith("_sysconfigdata"):
            continue
        try:
            source = (root / name).read_bytes().decode()
            tree = parse(source)
        except (SyntaxError, ValueError, OSError):  # templates, other encodings, dead links
            continue
        if name == "pydoc_data/topics.py":
            for topic, text in sorted(ast.literal_eval(tree.body[0].value).items()):
                yield Document(f"prose/topics/{topic}", text, "prose", "topics")
        else:
            code, prose, tables = take_apart(source, tree)
            yield Document(f"code/{name}", code, "code", "library")
            yield Document(f"prose/{name}", prose, "prose", "docstrings")
            yield Document(f"tables/{name}", tables, "tables", "literals")


def parse(source: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # about escapes in old sources
        return ast.parse(source)


def take_apart(source: str, tree: ast.Module) -> tuple[str, str, str]:
    """Splits a module into its code, its docstrings (in order, unindented) and its tables."""
    lines = source.split("\n")
    strings = [node for node in map(docstring, statements(tree)) if node and alone(node, lines)]
    tables = [node for node in tree.body if is_table(node) and node not in strings]
    taken = {n for node in strings + tables for n in range(node.lineno, node.end_lineno + 1)}
    code = "\n".join(line for n, line in enumerate(lines, start=1) if n not in taken)
    prose = "\n\n".join(inspect.cleandoc(node.value.value) for node in strings)
    rows = ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in tables]
    return code, prose + "\n" if prose else "", "".join(row + "\n" for row in rows)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements in it, in order. Expressions are not entered, as they hold no docstrings."""
    yield node
    for field in ("body", "cases", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, ()):
            yield from statements(child)


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if not isinstance(node, kinds) or not node.body:
        return None
    first = node.body[0]
    is_string = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    return first if is_string else None


def alone(node: ast.Expr, lines: list[str]) -> bool:
    """Whether the lines of the statement hold nothing else."""
    before = lines[node.lineno - 1].encode()[: node.col_offset]
    after = lines[node.end_lineno - 1].encode()[node.end_col_offset :]
    return not before.strip() and not after.strip()


def is_table(node: ast.stmt) -> bool:
    plain = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr)
    return plain and node.end_lineno - node.lineno + 1 >= TABLE_LINES


def unicode_tables(rows: int = 256) -> Iterator[Document]:
    """A line for each named character: the first six fields of UnicodeData.txt.

    As in that file, names that follow from the code (ideographs, Hangul syllables) are left out.
    """
    lines = []
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        name = unicodedata.name(char, "")
        if name and not name.endswith(f"-{code:04X}") and not name.startswith("HANGUL SYLLABLE "):
            fields = (
                f"{code:04X}", name, unicodedata.category(char), str(unicodedata.combining(char)),
                unicodedata.bidirectional(char), unicodedata.decomposition(char),
            )  # fmt: skip
            lines.append(";".join(fields) + "\n")
    for start in range(0, len(lines), rows):
        part = lines[start : start + rows]
        yield Document(f"tables/unicode/{part[0].split(';')[0]}", "".join(part), "tables", "unicode")
