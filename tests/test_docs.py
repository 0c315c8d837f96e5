"""The documentation says what the code does."""

import doctest
import inspect
import pathlib
import re
import runpy

import jax.numpy as jnp
import pytest
from policies import ADDED, FROM_SCRATCH

from lfr_jax import schedule

ROOT = pathlib.Path(__file__).parent.parent
TOOL = runpy.run_path(str(ROOT / "tools" / "policy_docs.py"))
OTHERS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "tpu" / "README.md"]
PAGES = [*OTHERS, *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_pages_are_those_of_the_docstrings():
    """Catches: a docstring, a default or a phase that changed, and its page not; a policy without a page, or the
    reverse; a picture that no page shows."""
    folder = ROOT / "docs" / "policies"
    expected = TOOL["pages"]()
    assert {path.stem for path in folder.glob("*.md")} == set(expected)
    assert {path.stem for path in folder.glob("*.png")} <= set(expected)
    for name, text in expected.items():
        assert (folder / f"{name}.md").read_text() == text, f"{name}.md is out of date: run tools/policy_docs.py"


def test_a_docstring_becomes_a_page():
    """Catches: maths that GitHub would not show; arguments run together; words between examples in the fence."""

    def policy(rate, *, mean=0.5):
        r"""One line.

        With $u
        \{1\}$ follows

        $$ r = \{u\} $$

        Args:
          rate, mean: some number,
            in nats.

        Examples:
          Words.

          >>> 1 + 1
          2

        References:
          Somebody, arXiv
          2409.06131, version 1.
        """

    body, sections = TOOL["cut"](inspect.getdoc(policy))
    shape = TOOL["SHAPE"]
    assert TOOL["markdown"](body) == "One line.\n\nWith $`u \\{1\\}`$ follows\n\n```math\nr = \\{u\\}\n```"
    assert shape["Args"](sections["Args"]) == "- `rate`, `mean`: some number, in nats."
    assert shape["Examples"](sections["Examples"]) == "Words.\n\n```pycon\n>>> 1 + 1\n2\n```"
    linked = "- Somebody, [arXiv 2409.06131](https://arxiv.org/abs/2409.06131), version 1."
    assert shape["References"](sections["References"]) == linked
    assert TOOL["signature"]("policy", policy) == "schedule.policy(\n    rate,\n    *,\n    mean=0.5,\n)"


@pytest.mark.parametrize("name, text", TOOL["pages"]().items())
def test_no_markup_is_left_as_it_was(name, text):
    """Catches: maths over a line's end that the tool does not see; a section that it does not know."""
    text = re.sub(r"^```.*?^```$|\$`[^`]*`\$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "$" not in text and ">>>" not in text
    assert not re.search(r"^[A-Z]\w+:$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    """Catches: a file that was moved or renamed, and a page that still points to it."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_index_names_every_page():
    """Catches: a page that nobody finds."""
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_policy_that_is_added_draws_what_the_page_says(monkeypatch):
    """Catches: a change of `scored`, `hardest` or `plan` that the page does not follow; an example that fails."""
    middle = ADDED["middle"]
    monkeypatch.setattr(schedule, "middle", middle, raising=False)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(middle), {}, "middle", "docs/add_a_policy.md", 0)
    assert len(example.examples) > 5
    assert doctest.DocTestRunner().run(example).failed == 0
    s = middle()
    state = s.observe(s.init(schedule.BlockInfo(20)), jnp.arange(20), jnp.arange(20) / 4, step=1000)
    draws = schedule.plan(s.rates(s.begin(state, 1)), num_draws=30, seed=0, phase=1)
    assert sorted(draws[:].tolist()) == sorted([*range(4, 19)] * 2)


def test_the_page_of_one_file_is_short():
    """Catches: a page that grows until nobody reads it."""
    assert len((ROOT / "docs" / "add_a_policy.md").read_text().splitlines()) < 60


def test_the_policy_from_scratch_draws_what_the_page_says():
    """Catches: a change of the schedule's interface that the page does not follow."""
    counts = FROM_SCRATCH["counts"].tolist()
    assert sum(counts) == 30 and set(counts) <= {0, 1, 2, 3} and sum(counts[:10]) < sum(counts[10:])
    s = FROM_SCRATCH["falling"]()
    state = s.begin(s.init(schedule.BlockInfo(4)), 0)
    for phase_index, losses in enumerate(([5.0, 5.0, 3.0], [2.0, 4.0, 3.5]), start=1):
        state = s.begin(s.observe(state, jnp.arange(3), jnp.array(losses), phase_index), phase_index)
    assert s.rates(state).tolist() == pytest.approx([3.1, 1.1, 0.1, 1.0])
