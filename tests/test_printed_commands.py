"""Every command that the README and the pages print runs, in the order of reading, in one folder.

The reader of this test ran `tools/smoke` first, and has a few texts. Models and runs are made small (`SMALL_RUN`).
In a page, a block without a language holds commands; output is marked `text`, other code by its language.
"""

import functools
import gzip
import json
import pathlib
import re
import shlex
import subprocess
import sys
import sysconfig

import pyarrow
import pyarrow.parquet
import pytest

from lfr_jax import cli
from lfr_jax.commands import experiments, tpu
from lfr_jax.config import Config
from lfr_jax.config.words import overridden
from lfr_jax.experiments.plan import load_plan
from lfr_jax.prepare import corrupt, inspect, link, noise, prepare, subset
from lfr_jax.prepare.clean import clean

ROOT = pathlib.Path(__file__).parent.parent

# Put after the printed options, of which the last one counts: a model and a run of a few seconds, and a small corpus.
SMALL_CORPUS = ["--sample", "0.02"]  # of `lfr prepare --embedded`
SMALL_RUN = (
    "--model.num-layers 1 --model.dim 16 --model.num-heads 2 --model.num-kv-heads 2 --model.mlp-dim 32 "
    "--optimizer.warmup-steps 4 --train.steps 12 --train.batch-size 16 --train.score-batch-size 32 "
    "--mesh.data 1 --train.eval-every 6 --train.eval-blocks 4 --train.probe-blocks 32 --train.checkpoint-every 0"
).split()

# Commands that cannot run here, by what their text has, and why. Those of `lfr` are still parsed.
NOT_HERE = {
    r"^(\.venv/bin/)?pip install|^git clone|^tfds build": "installs or downloads",
    r"^(gcloud|srun) ": "needs a cloud or a cluster",
    r"gs://(?!.*--dry-run)": "needs a bucket",
    r"^tpu/tpu\.py (?!.*--dry-run)": "needs a TPU; tests/tpu and tests/cloud have a stand-in",
    r"--hf ": "downloads from the Hugging Face Hub; tests/prepare reads a local copy",
    r"--tfds ": "needs a TFDS data set on disk; tests/prepare makes one",
    r"--gpt2 tokenizers/gpt2": "needs OpenAI's tokenizer files; tests/data makes some",
    r"data/(owt|openwebtext)": "needs OpenWebText",
    r"--sentencepiece tokenizer\.model": "needs the text of C4 or SlimPajama, and a tokenizer for it",
    r"^lfr link --out data/dolma": "needs OLMo's token files; tests/prepare/test_link.py makes some",
    r"--distributed\.coordinator": "needs two machines; tests/distributed has two processes",
    r"JAX_PLATFORMS=cuda": "needs a GPU",
    r"^lfr mixture": "trains many runs; tests/experiments/test_mixture_search.py",
    r"^lfr report \S+\.py": "reads an experiment; tests/experiments/test_evidence_report.py",
    r"^lfr compile|tools/tpu_table": "needs libtpu, and minutes; tests/compile",
    r"tools/bench_|tools/score_study": "measures for minutes; tests/test_tools.py runs the tools with small sizes",
    r"^tools/test|^EXTRAS=": "is the test suite",
    r"python -m pytest": "is the test suite",
    r"--policies middle": "needs the policy that the page adds",
    r"tools/policy_docs": "writes the pages of the policies; tests/test_docs.py",
}

# Where the Python blocks of the other pages are run.
PYTHON_RUNS_IN = {
    "README.md": "tests/test_readme.py",
    "add_a_policy.md": "tests/policies.py",
    "experiments.md": "tests/experiments/test_experiment_plan.py",
    "policy_from_scratch.md": "tests/policies.py",
    "your_trainer.md": "tests/schedule/test_outsiders_*.py",
    "scale.md": "nowhere: the lines need several hosts",
    "add_a_model_family.md": "nowhere: parts of files that the reader changes",
    "add_a_text_source.md": "nowhere: a file that the reader adds",
    "performance.md": "nowhere: the lines change the whole process",
    "add_an_optimizer.md": "nowhere: parts of files that the reader changes",
}


def pages() -> list[pathlib.Path]:
    """README.md, then the pages in the order of docs/README.md."""
    index = ROOT / "docs" / "README.md"
    linked = [(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+\.md)\)", index.read_text())]
    first = [ROOT / "README.md", index]
    return list(dict.fromkeys([*first, *(page for page in linked if page.name != "ARCHITECTURE.md")]))


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block; no language means commands."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The commands of a block: lines put together at a backslash, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (" ".join(shlex.split(line, comments=True, posix=False)) for line in lines) if line]


def why_not(command: str) -> str | None:
    """Why a command cannot run here."""
    return next((reason for pattern, reason in NOT_HERE.items() if re.search(pattern, command)), None)


def lfr(arguments: list[str]) -> None:
    """`lfr ARGUMENTS` in this process."""
    if arguments[0] in ("train", "compare"):
        arguments = [*arguments, *SMALL_RUN]
    if arguments[0] == "experiment" and "--dry-run" not in arguments:
        arguments = [*arguments, "--dry-run"]
    if "--init.run" in arguments:  # the other run has as many steps
        arguments = [*arguments, "--train.steps", "18"]
    if "--embedded" in arguments:
        arguments = [*arguments, *SMALL_CORPUS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lfr", *arguments])
        cli.main()


def parse(arguments: list[str]) -> None:
    """Fails if `lfr ARGUMENTS` has an option that does not exist."""
    name, *rest = arguments
    functions = [(prepare, "prepare_paths"), (link, "link_paths"), (clean, "clean_corpus"), (noise, "add_noise")]
    functions += [(subset, "subset_corpus"), (corrupt, "corrupt_corpus")]
    functions += [(inspect, "info"), (inspect, "sample"), (inspect, "verify")]
    with pytest.MonkeyPatch.context() as patch:
        for module, function in functions:
            patch.setattr(module, function, does_nothing(getattr(module, function)))
        if name in ("prepare", "link", "data"):
            cli.COMMANDS[name](rest)
        elif name in ("train", "compare", "mixture", "compile"):
            kinds = {"train": Config, "compare": experiments.Comparison, "compile": tpu.Compilation}
            kinds["mixture"] = experiments.MixtureSearch
            overridden(kinds[name], rest, f"lfr {name}")


def does_nothing(function):
    """A function of the same parameters."""
    return functools.wraps(function)(lambda *args, **kwargs: None)


def run(command: str) -> None:
    """Runs a printed command, or parses it if it cannot run here."""
    words = [word for word in shlex.split(command) if word != "JAX_NUM_CPU_DEVICES=8"]  # tests have eight anyway
    program = words[0].removeprefix(".venv/bin/")
    if why_not(command):
        if program == "lfr":
            parse(words[1:])
    elif program == "lfr":
        lfr(words[1:])
    elif command == "tools/smoke":
        for line in re.findall(r"^ *\$lfr (.*)", (ROOT / command).read_text(), re.MULTILINE):
            if "prepare" not in line or not pathlib.Path("data/smoke").exists():
                lfr(shlex.split(line))
    elif program in ("cp", "python", "tpu/tpu.py"):
        words = {"cp": words, "python": [sys.executable, *words[1:]]}.get(program, [sys.executable, *words])
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        raise AssertionError("neither run nor in NOT_HERE")


def make_texts(folder: pathlib.Path) -> None:
    """The reader's own files, by the names in the pages: text that Python itself carries."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text()[:8000] for path in sorted(library.glob("*.py"))[:60]]
    (folder / "notes").mkdir()
    for i, text in enumerate(texts[:20]):
        (folder / "notes" / f"{i}.txt").write_text(text)
    with gzip.open(folder / "talks.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text, "domain": "talks"}) + "\n" for text in texts[20:40])
    table = pyarrow.table({"text": texts[40:], "domain": ["crawl"] * len(texts[40:])})
    pyarrow.parquet.write_table(table, folder / "crawl.parquet")
    (folder / "new.jsonl").write_text(json.dumps({"text": texts[0][::-1], "domain": "talks"}) + "\n")
    (folder / "german.txt").write_text("Der schnelle braune Fuchs springt über den faulen Hund. " * 2000)
    own, *_ = [text for language, text in blocks(ROOT / "docs" / "policy_from_scratch.md") if language == "python"]
    (folder / "mine.py").write_text(own)


@pytest.mark.slow
def test_printed_commands_run_in_the_order_of_reading(tmp_path, monkeypatch):
    """Catches: a page that prints an option, a file or a run that does not exist, or writes to a folder twice; a
    command that is neither run here nor named in NOT_HERE; Python of a page that no test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LFR_TRACEBACK", raising=False)
    for name in ("configs", "tools", "tpu"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_texts(tmp_path)
    failed = []
    for page in pages():
        for language, text in blocks(page):
            try:
                if language == "python" and page.name not in PYTHON_RUNS_IN:
                    exec(compile(text, page.name, "exec"), {})
                for command in [] if language else commands(text):
                    what = command
                    run(command)
            except (Exception, SystemExit) as error:
                what = text if language else what
                failed.append(f"{page.relative_to(ROOT)}: {what}\n    {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)


def test_plans_make_their_stores_by_commands_that_exist(monkeypatch):
    """Catches: a store of a plan in configs/experiments that fails after the command has begun: by an option that does
    not exist."""
    monkeypatch.delenv("LFR_TEXT", raising=False)
    plans = [path for path in (ROOT / "configs" / "experiments").glob("*.py") if path.stem != "common"]
    stores = [store for path in plans for store in load_plan(str(path)).stores.values()]
    assert len(stores) > 10
    for store in stores:
        for command in store.commands:
            parse(shlex.split(command))


def test_a_reason_is_needed(tmp_path):
    """Catches: reasons that no page needs; and a collector that sees no commands, or takes comments for some."""
    printed = [command for page in pages() for language, text in blocks(page) if not language
               for command in commands(text)]  # fmt: skip
    assert len(printed) > 40
    assert not [pattern for pattern in NOT_HERE if not any(re.search(pattern, command) for command in printed)]
    assert commands("lfr data info data/x   # 'domains'\n\nlfr a \\\n    --b 'c d'\n") == [
        "lfr data info data/x", "lfr a --b 'c d'"]  # fmt: skip
