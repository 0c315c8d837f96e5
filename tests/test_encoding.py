"""Text files are UTF-8 on every machine, whatever its locale says."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
OPENING = {"open", "read_text", "write_text", "fdopen", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper"}


def calls(path: pathlib.Path) -> list[ast.Call]:
    """The calls in a file that open a file or a stream."""
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "attr", getattr(call.func, "id", "")) in OPENING]


def is_text_in_the_locale(call: ast.Call) -> bool:
    """Whether a call opens text, and leaves the encoding to the locale."""
    words = {keyword.arg: keyword.value for keyword in call.keywords}
    modes = [value.value for value in [*call.args, *words.values()] if isinstance(value, ast.Constant)]
    other = "fileobj" in words  # an archive
    flags = any(isinstance(node, ast.Attribute) and node.attr.startswith("O_") for node in ast.walk(call))  # os.open
    return not (other or flags or "encoding" in words) and not any(
        "b" in str(mode) and len(str(mode)) <= 3 for mode in modes
    )


def test_every_text_file_is_opened_as_utf_8():
    """Catches: a file that is ASCII under an old cluster's locale: the first name beyond it ends the run."""
    looked_at, wrong = 0, []
    for path in [path for folder in ("lfr_jax", "tools", "tpu") for path in (ROOT / folder).rglob("*.py")]:
        for call in calls(path):
            looked_at += 1
            if is_text_in_the_locale(call):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert looked_at > 30
    assert not wrong, "\n".join(wrong)
