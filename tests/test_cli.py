"""The command `lfr`, as its users meet it."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import LENGTHS, changed, tiny

from lfr_jax import cli
from lfr_jax.commands import experiments, runs
from lfr_jax.config import Config, ScheduleConfig
from lfr_jax.config.words import overridden
from lfr_jax.data.document_loss_files import DocumentLosses, read_document_losses
from lfr_jax.data.store import open_store
from lfr_jax.experiments import report
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import load_run
from lfr_jax.train.document_losses import by_domain
from lfr_jax.train.policy import switched


def write_config(path: pathlib.Path, config: Config) -> pathlib.Path:
    path.write_text(f"from lfr_jax.config import *\n\nconfig = {config!r}\n")
    return path


def configured(*words: str) -> Config:
    """The settings that `lfr train` reads from a command line."""
    return switched(*overridden(Config, list(words), "lfr train"))


def snapshot(*folders):
    """All files, with content and time of change."""
    files = (p for folder in folders for p in folder.rglob("*"))
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_dir):
    """A run trained by `lfr train CONFIG --train.steps 24 ...`: (its configuration file, its folder)."""
    folder = tmp_path_factory.mktemp("cli")
    file = write_config(folder / "tiny.py", changed(tiny(folder / "unused", corpus_dir), train__steps=12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lfr", "train", str(file), "--train.steps", "24", "--run-dir", str(folder / "run")])
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
        cli.main()
    return file, folder / "run"


def last_losses(run):
    with open(run / "eval.csv", newline="") as file:
        return {row["domain"]: (float(row["loss"]), int(row["tokens"])) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_train_takes_overrides_and_saves_what_resulted(finished, corpus_dir):
    """Catches: an override that is lost, or saved but not followed; the file's settings saved in place of these."""
    _, run = finished
    assert RunDir(run).load_config() == tiny(run, corpus_dir)
    assert RunDir(run).load_summary()["steps"] == 24
    assert not (run.parent / "unused").exists()


def test_train_again_has_nothing_to_do(finished, lfr):
    """Catches: the same command beginning anew; other settings accepted for the same folder."""
    file, run = finished
    metrics = (run / "metrics.csv").read_bytes()
    again = ("train", file, "--train.steps", 24, "--run-dir", run)
    assert lfr(*again).code == 0
    code, _, err = lfr(*again, "--optimizer.peak-lr", 0.1)
    assert code == 1 and "optimizer.peak_lr: 0.003 when it began, now 0.1" in err and "Traceback" not in err
    assert (run / "metrics.csv").read_bytes() == metrics


def test_another_policy_on_the_command_line(lfr, tmp_path, corpus_dir):
    """Catches: options of the file's policy handed to one that does not take them."""
    file = write_config(tmp_path / "tiny.py", tiny(tmp_path / "run", corpus_dir))
    code, _, err = lfr("train", file, "--schedule.policy", "uniform", "--mesh.data", 16)
    assert code == 1 and "needs 16 devices" in err  # so the schedule was built
    code, _, err = lfr("train", file, "--schedule.policy", "random_drop", "--schedule.options.reps", 0)
    assert code == 1 and "reps is 0, expected at least 1" in err
    config = configured(str(file), "--schedule.policy", "uniform")
    assert config == changed(tiny(tmp_path / "run", corpus_dir), schedule=ScheduleConfig("uniform", {}))
    words = [str(file), "--schedule.floor", "0.1", "--schedule.options.reps", "2", "--schedule.policy"]
    for policy, options in [("lfr", LENGTHS | dict(reps=2)), ("random_drop", dict(reps=2))]:
        asked = configured(*words, policy).schedule
        assert asked == ScheduleConfig(policy, options, floor=0.1)  # Catches: a setting of the schedule that is lost


def test_evaluate_prints_the_held_out_losses(finished, lfr):
    """Catches: a domain left out; other blocks than asked for; a loss beside another domain's name."""
    _, run = finished
    code, out, _ = lfr("evaluate", run, "--blocks", 8)
    assert code == 0
    found = {line.split()[0]: line for line in out.splitlines()}
    assert sorted(found) == ["all", "easy", "hard", "words"]
    for domain, (loss, tokens) in last_losses(run).items():
        number, count = re.search(r"([\d.]+) nats/token +([\d,]+) tokens", found[domain]).groups()
        assert float(number) == pytest.approx(loss, abs=2e-4) and int(count.replace(",", "")) == tokens
    losses = by_domain(load_run.measure_documents(load_run.load(str(run))))
    whole = lfr("evaluate", run).out.splitlines()[-1]
    assert whole.split() == f"all {losses['all'].loss:.4f} nats/token {losses['all'].tokens:,} tokens".split() + [
        f"{losses['all'].bits_per_byte:.4f}", "bits/byte"
    ]  # fmt: skip


def test_evaluate_writes_losses_by_document(finished, lfr, corpus_dir, tmp_path):
    """Catches: `--half` or `--by-document` ignored; some blocks of each document in a table that has no other rows; a
    file of something else that is replaced, or noticed only when all is measured."""
    _, run = finished
    out = tmp_path / "losses.csv"
    found = lfr("evaluate", run, "--by-document", out, "--half", "report")
    losses = read_document_losses(out)
    store = open_store(corpus_dir / "valid")
    left = store.card.tokens - losses.tokens.sum()
    last = f"{len(store.doc_starts)} documents; {left} tokens are in no block: {out}"
    assert found.code == 0 and left > 0 and found.out.splitlines()[-1] == last
    shown = lfr("evaluate", run, "--half", "report").out
    assert found.out.startswith(shown) and shown != lfr("evaluate", run).out
    assert f"{by_domain(losses, 'report')['all'].loss:.4f} nats/token" in shown.splitlines()[-1]
    code, _, err = lfr("evaluate", run, "--by-document", out, "--blocks", 8)
    assert code == 1 and "measures all held-out blocks, found --blocks 8" in err
    code, _, err = lfr("evaluate", run, "--by-document", run / "config.json")
    assert code == 1 and "config.json: found a file that is no file of losses by document" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.csv"]


def test_score_writes_a_table_of_all_blocks(finished, lfr, corpus_dir, tmp_path):
    """Catches: --out ignored; a table that replaces nothing or appends. (Its numbers: test_trained.py.)"""
    _, run = finished
    (tmp_path / "scores.csv").write_text("# store abc seq_len 32 step 1\nof an earlier run\n")
    code, out, _ = lfr("score", run, "--out", tmp_path / "scores.csv")
    first, head, *table = (tmp_path / "scores.csv").read_text().splitlines()
    assert code == 0 and out == f"{len(table)} blocks scored at step 24: {tmp_path / 'scores.csv'}\n"
    fingerprint = open_store(corpus_dir / "train").fingerprint
    assert (first, head) == (f"# store {fingerprint} seq_len 32 step 24", "block,domain,loss")
    load_run.write_scores(load_run.load(str(run)), "", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "scores.csv").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_generate_goes_on_from_the_prompt(finished, lfr):
    """Catches: options that do not reach the sampler, each under its own name; a prompt that is not printed."""
    _, run = finished
    likeliest = lfr("generate", run, "--prompt", "the cat", "--tokens", 8, "--temperature", 0).out
    assert likeliest == load_run.generate(load_run.load(str(run)), "the cat", 8, temperature=0.0) + "\n"
    drawing = ("generate", run, "--prompt", "the cat", "--tokens", 8, "--temperature", 1.0)
    assert lfr(*drawing, "--top-k", 1).out == lfr(*drawing, "--top-p", 1e-6).out == likeliest
    drawn = [lfr(*drawing, "--seed", seed).out for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1] and all(text.startswith("the cat") for text in drawn)


@pytest.mark.slow
def test_compare_trains_each_policy_and_writes_the_report(lfr, tmp_path, corpus_dir):
    """Catches: `policies` taken for a setting of the run; an option for `random_drop` handed to `uniform`."""
    config = changed(tiny(tmp_path / "run", corpus_dir, "random_drop"), train__steps=12)
    file = write_config(tmp_path / "tiny.py", config)
    arguments = ("--policies", "uniform", "random_drop", "--train.steps", 24)
    code, out, err = lfr("compare", file, *arguments)
    assert (
        code == 0 and "uniform − random_drop" in out and f"report: {tmp_path / 'run' / 'report' / 'report.html'}" in out
    )
    given = ", ".join(f"{name}={value}" for name, value in LENGTHS.items())
    said = f"policy random_drop({given}), the rest its defaults"
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert said in err and "policy uniform, with its defaults" in err
    assert f"random_drop: {said.removeprefix('policy ')}" in page and "uniform: uniform, with its defaults" in page
    for policy in ("uniform", "random_drop"):
        config = RunDir(tmp_path / "run" / policy).load_config()
        assert type(config) is Config and config.schedule.policy == policy
        assert config.train.steps == 24


def test_report_draws_where_it_is_told(lfr, monkeypatch):
    """Catches: options exchanged or lost; an empty second run; a default folder elsewhere."""
    monkeypatch.setattr(report, "write_report", lambda *arguments: print(*arguments) or "what it found")
    assert lfr("report", "a/run").out == f"{[pathlib.Path('a/run')]} a/run/report  0.0\nwhat it found\n"
    everything = ("report", "run", "other", "--out", "there", "--phase", "focus", "--threshold", 0.5)
    assert lfr(*everything).out.startswith(f"{[pathlib.Path('run'), pathlib.Path('other')]} there focus 0.5\n")


def test_report_needs_probes(lfr, tmp_path, corpus_dir):
    """Catches: a run without probes that ends in a traceback, or in a page of nothing."""
    RunDir(tmp_path).save_config(changed(tiny(tmp_path, corpus_dir), train__probe_blocks=0))
    code, _, err = lfr("report", tmp_path)
    assert code == 1 and "train.probe_blocks=0" in err and "Traceback" not in err and not (tmp_path / "report").exists()


def test_prepare_makes_a_corpus_to_train_on(finished, lfr, tmp_path):
    """Catches: a tokenizer's flag that chooses another one; a store of one tokenizer read with another's model."""
    _, run = finished
    text = tmp_path / "book.txt"
    text.write_text("".join(f"{i} green bottles hanging on the wall\n" for i in range(300)))
    for name, *tokenizer in (("bytes", "--byte-tokenizer"), ("pieces", "--train-tokenizer", "--vocab-size", 300)):
        code, out, _ = lfr("prepare", text, "--out", tmp_path / name, *tokenizer, "--valid-fraction", 0.2)
        store = open_store(tmp_path / name / "train")
        assert code == 0 and f"vocabulary {store.vocab_size}; 0 duplicate documents" in out
    assert open_store(tmp_path / "bytes" / "train").vocab_size == 257 and store.vocab_size == 300
    before = snapshot(tmp_path)
    assert lfr("evaluate", run, "--store", tmp_path / "bytes").out.splitlines()[-1].startswith("all ")
    for asked in (("evaluate", run), ("score", run, "--out", tmp_path / "scores.csv")):
        code, _, err = lfr(*asked, "--store", tmp_path / "pieces")
        assert code == 1 and "were made by another tokenizer" in err
    code, _, err = lfr("prepare", text, "--out", tmp_path / "bytes", "--byte-tokenizer")
    assert code == 1 and "exists, and is never overwritten" in err
    assert snapshot(tmp_path) == before


MISTAKES = {
    "command": (["trian"], "lfr: no command 'trian'; did you mean 'train'? there are prepare, "),
    "file": (["train", "{dir}/tinny.py"], "lfr train: no configuration file '{dir}/tinny.py'; name a Python file"),
    "near file": (["train", "configs/tinny.py"], "no configuration file .*; did you mean 'configs/tiny.py'?$"),
    "no config": (["train", "{dir}/empty.py"], "empty.py must set `config` to an .*Config; found NoneType"),
    "no Config": (["train", "{dir}/number.py"], "number.py must set `config` .*; found int"),
    "setting": (["train", "{dir}/unknown.py"], "unknown.py, line 2: .*'stepz'; did you mean 'steps'?$"),
    "old setting": (
        ["train", "{dir}/old.py"],
        "old.py, line 2: .*'accumulate'; it is called train.grad_accum_steps now$",
    ),
    "old option": (
        ["train", "{dir}/tiny.py", "--optimizer.warmup", "5"],
        "lfr train: --optimizer.warmup is called --optimizer.warmup-steps now$",
    ),
    "old option with =": (
        ["compare", "{dir}/tiny.py", "--train.score-batch=5"],
        "lfr compare: --train.score-batch is called --train.score-batch-size now$",
    ),
    "syntax": (["train", "{dir}/syntax.py"], "syntax.py: SyntaxError: .*line 2"),
    "policy": (["train", "{dir}/tiny.py", "--schedule.policy", "unifrom"], "'unifrom'; did you mean 'uniform'?"),
    "option": (["train", "{dir}/option.py"], "'dropp', which lfr does not take; did you mean 'drop'?"),
    "policies": (["compare", "{dir}/tiny.py", "--policies", "lfr", "rnd_drop"], "did you mean 'random_drop'?"),
    "corpus": (["train", "{dir}/tiny.py", "--data.store", "{dir}/no"], "no prepared corpus in '{dir}/no'; make one"),
    "evaluate": (["evaluate", "{dir}/no"], "lfr evaluate: no run in {dir}/no"),
    "score": (["score", "{dir}/no", "--out", "{dir}/scores.csv"], "lfr score: no run in {dir}/no"),
    "generate": (["generate", "{dir}/no"], "lfr generate: no run in {dir}/no"),
    "early": (["evaluate", "{dir}/early"], "no checkpoint in {dir}/early/checkpoints; train first"),
    "early score": (["score", "{dir}/early", "--out", "{dir}/s"], "no checkpoint in {dir}/early/checkpoints"),
    "early text": (["generate", "{dir}/early"], "no checkpoint in {dir}/early/checkpoints"),
    "store": (["evaluate", "{run}", "--store", "{dir}/no"], "no prepared corpus in '{dir}/no'"),
    "out": (["score", "{run}", "--out", "{dir}/no/s.csv"], "{dir}/no: found no folder, expected one to write s.csv"),
    "prompt": (["generate", "{run}", "--prompt", "a" * 40], "a prompt of 41 tokens .* at most model.max_len=32"),
    "bytes": (["generate", "{run}", "--prompt", "caf\udce9"], "found a prompt that is not Unicode .* --prompt"),
    "temperature": (["generate", "{run}", "--temperature", "-1"], "temperature is -1.0, expected a number, at least 0"),
    "input": (["prepare", "{dir}/no.txt", "--out", "{dir}/a/b", "--byte-tokenizer"], "lfr prepare: {dir}/no.txt"),
    "no input": (["prepare", "--out", "{dir}/a", "--byte-tokenizer"], "found no text; expected files or folders"),
    "tokenizer": (["prepare", "{dir}/tiny.py", "--out", "{dir}/a"], "found no tokenizer; expected exactly one of"),
    "vocabulary": (
        ["prepare", "{dir}/tiny.py", "--out", "{dir}/a", "--train-tokenizer", "--vocab-size", "9"],
        "cannot train a tokenizer of vocab_size=9",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(finished, lfr, corpus_dir, tmp_path, monkeypatch, mistake):
    """Catches: a traceback; a check that comes after something was made; an error that names no remedy."""
    _, run = finished
    config = tiny(tmp_path / "run", corpus_dir)
    (tmp_path / "configs").mkdir()
    write_config(tmp_path / "tiny.py", config)
    write_config(tmp_path / "configs" / "tiny.py", config)
    write_config(tmp_path / "option.py", tiny(tmp_path / "run", corpus_dir, dropp=0.5))
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "number.py").write_text("config = 5\n")
    (tmp_path / "unknown.py").write_text("from lfr_jax.config import *\nconfig = Config(train=TrainConfig(stepz=5))\n")
    (tmp_path / "old.py").write_text("from lfr_jax.config import *\nconfig = Config(train=TrainConfig(accumulate=5))\n")
    (tmp_path / "syntax.py").write_text("from lfr_jax.config import *\nconfig = = 5\n")
    shutil.copytree(run, tmp_path / "early", ignore=shutil.ignore_patterns("checkpoints"))
    before = snapshot(tmp_path, run)
    arguments, error = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    code, out, err = lfr(*(a.format(dir=tmp_path, run=run) for a in arguments))
    assert (code, out) == (1, "")
    err = re.sub(r"\Areading 1 file: .*\n", "", err)  # what `prepare` shows first
    assert err.count("\n") == 1 and err.startswith("lfr") and "Traceback" not in err
    wanted = error.format(dir=tmp_path).replace("?", r"\?").replace("(", r"\(")
    assert re.search(wanted, err), err
    assert snapshot(tmp_path, run) == before


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["--train.stepz", "5"], r"Perhaps you meant.*--train\.steps"),
        (["--train.steps", "many"], r"parsing --train\.steps.*'many'"),
        (["--model.norm", "batchnorm"], r"'batchnorm' for argument '--model\.norm'.*layernorm"),
        (["--model.num-heads", "3"], r"model\.dim=16 is not divisible by model\.num_heads=3"),
    ],
)
def test_a_wrong_option_is_a_usage_error(lfr, corpus_dir, tmp_path, arguments, error):
    """Catches: an unknown setting that is ignored; a run begun before the command line is read to its end."""
    file = write_config(tmp_path / "tiny.py", tiny(tmp_path / "run", corpus_dir, drop=0.5))
    before = snapshot(tmp_path)
    code, _, err = lfr("train", file, *arguments)
    assert code == 2 and "Traceback" not in err and re.search(error, err, re.DOTALL), err
    assert snapshot(tmp_path) == before


def test_help_tells_of_everything(lfr):
    """Catches: a command that is left out of the list, or that cannot be asked for help; a setting without meaning."""
    for asking in ([], ["-h"], ["--help"]):
        code, out, _ = lfr(*asking)
        assert code == 0 and set(re.findall(r"^  (\w+)", out, re.MULTILINE)) == set(cli.COMMANDS)
    for name, options in dict(
        prepare=["--byte-tokenizer", "--valid-fraction"],
        train=["--train.steps", "optimizer steps", "--model.num-kv-heads"],
        compare=["--policies", "everybody's budget", "--train.steps"],
        evaluate=["--store", "--blocks", "Held-out blocks a domain"],
        score=["--out", "--store"],
        generate=["--prompt", "--top-p", "--seed"],
    ).items():
        code, out, _ = lfr(name, "--help")
        assert code == 0 and all(option in out for option in options), out


def test_help_tells_how_options_of_a_policy_are_given(lfr, tmp_path, corpus_dir):
    """Catches: options that only the pages tell of."""
    file = write_config(tmp_path / "tiny.py", tiny(tmp_path / "run", corpus_dir, drop=0.25))
    words = " ".join(lfr("train", file, "--help").out.split())
    assert "--schedule.options.NAME VALUE. The file gives lfr {'learn': 10," in words and "'drop': 0.25}" in words


def test_a_shell_sees_one_line_and_code_1(tmp_path):
    """In a process of its own. Catches: an entry that swallows the code; seconds of imports before a mistake shows."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    code = "import sys; from lfr_jax import cli\ntry: cli.main()\nfinally: assert 'jax' not in sys.modules"
    command = [sys.executable, "-c", code, "train", "no.py"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert (
        answer.stderr
        == "lfr train: no configuration file 'no.py'; name a Python file that sets `config`, or a run's config.json\n"
    )


def test_a_traceback_for_those_who_ask(lfr, monkeypatch, tmp_path):
    """Catches: LFR_TRACEBACK ignored, which would hide where a fault lies."""
    monkeypatch.setenv("LFR_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no run in"):
        lfr("evaluate", tmp_path / "no")


def test_interruption_says_how_to_go_on(lfr, tmp_path, monkeypatch):
    """Catches: a traceback upon Ctrl-C; Python's own end, which threads of libraries that are at work may abort."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt\n")
    code, _, err = lfr("train", tmp_path / "slow.py")
    assert code == 1 and err == "\nlfr train: interrupted; the same command goes on from what was saved\n"


def test_json_does_not_run_code_that_the_command_does_not_name(tmp_path):
    """Catches: a stranger's config.json, which is only read, whose policy is any function of any module."""
    config = ScheduleConfig("os:system", {"command": f"touch {tmp_path}/run"})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.asdict(Config(schedule=config))))
    for words in ([], ["--schedule.policy", "lfr"], ["--schedule.policy=os"], ["--run-dir", "os:system"]):
        for command in (runs.train, experiments.compare):
            with pytest.raises(ValueError, match="is code to be run; if you trust it, add --schedule.policy os:system"):
                command([str(file), *words])
    assert not (tmp_path / "run").exists()
    for words in (["--schedule.policy", "os:system"], ["--schedule.policy=os:system"]):
        assert configured(str(file), *words).schedule == config


def test_names_of_domains_do_not_steer_the_terminal(monkeypatch, capsys):
    """Catches: control characters of a domain's name in the table of `lfr evaluate`."""
    monkeypatch.setattr(load_run, "load", lambda run: None)
    names, halves = np.array(["x\x1b[2J\r\n"]), np.array(["report"])
    made = DocumentLosses(names, halves, np.array([30]), None, np.array([45.0]), 0)
    monkeypatch.setattr(load_run, "measure_documents", lambda *asked: made)
    runs.evaluate(["run"])
    assert capsys.readouterr().out == r"x\x1b[2J\r\n       1.5000 nats/token            30 tokens" + "\n"
