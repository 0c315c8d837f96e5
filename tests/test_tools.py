"""The tools that measure, as their users start them, with sizes that measure nothing.

Catches: a benchmark that an API change broke.
"""

import csv
import json
import pathlib
import re
import runpy
import subprocess
import sys

import jax
import pytest
from helpers import changed, documents, tiny
from running import PATIENCE

from lfr_jax.data.tokenizer import train_sentencepiece
from lfr_jax.train.track.clock import BESIDE, WORK

pytestmark = pytest.mark.slow
TOOLS = pathlib.Path(__file__).parents[1] / "tools"


@pytest.fixture
def printed(monkeypatch, capfd):
    """Runs a tool in this process, and gives what it printed."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)  # of what the tool starts

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        runpy.run_path(str(TOOLS / name), run_name="__main__")
        return capfd.readouterr().out

    return run


def test_the_table_of_tpus(printed, tmp_path):
    """Catches: results that are compiled again; a run that does not fit shown as one that does, or without the options
    that make it fit; of several ways out, one that is slower by the bound."""
    tool = runpy.run_path(str(TOOLS / "tpu_table.py"))
    fitting = {
        "fits": True,
        "options": "--model.remat block",
        "memory_gib": {"total": 12.34, "limit": 15.75},
        "bound_seconds": {"step": 0.5, "exposed": 0.1},
        "mfu_at_most": 0.41,
        "collectives": [{"kind": "all-gather", "bytes": 2**30}, {"kind": "all-reduce", "bytes": 10}],
    }
    slower = fitting | {"options": "--train.grad-accum-steps 64", "bound_seconds": {"step": 0.6, "exposed": 0.2}}
    results = {
        "v5litepod-8": {"programs": {"train": {"fits": False, "tried": [{"fits": False}, fitting, slower]}}},
        "v6e-8": {"programs": {"train": {"fits": False}}},
        "v4-32": {"error": "lfr compile: no such thing"},
    }
    for place, found in results.items():
        (tmp_path / tool["job"]("llama_1b_slimpajama", place).file).write_text(json.dumps(found))
    table = printed("tpu_table.py", "--table-only", "--results", tmp_path, "--configs", "llama_1b_slimpajama")
    _, _, v5e, v6e, v4, v5p, *_ = table.splitlines()
    cells = ["`--model.remat block`", "12.3 of 15.75", "500 ms", "41 %", "all-gather 1 GiB", "20 %"]
    assert v5e == f"| llama_1b_slimpajama | v5litepod-8 | {' | '.join(cells)} |"
    assert "does not fit" in v6e and "no such thing" in v4 and "not compiled" in v5p


@pytest.fixture
def config(tmp_path, corpus_dir):
    """A configuration file, of blocks so short that a sample of them holds several of each domain."""
    made = changed(tiny(tmp_path / "unused", corpus_dir), data__seq_len=16)
    path = tmp_path / "tiny.py"
    path.write_text(f"from lfr_jax.config import *\n\nconfig = {made!r}\n")
    return path


def figures(line: str) -> list[str]:
    """The numbers of a line of a table; one that is no number fails."""
    assert not re.search(r"\b(nan|inf)\b", line), line
    return re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", line)


def table(text: str) -> list[list[str]]:
    """The cells of each row of the tables in Markdown, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {i for i, line in enumerate(lines[1:]) if line.startswith("|---")}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for i, line in enumerate(lines)
        if i not in heads and i - 1 not in heads
    ]


def test_bench_data_compares_loaders(printed, tmp_path):
    """Warm and cold. Catches, too: a store too small for a round's batches, or of no whole number of documents."""
    found = table(printed("bench_data.py", "--folder", tmp_path, "--tokens", 12_345, "--rounds", 1, "--batches", 5))
    assert (tmp_path / "store/tokens.bin").stat().st_size == 2 * 12_345
    names = [row[0] for row in found]
    assert len(names) == 12 and names[:6] == names[6:] and names[:2] == ["ours", "ours_unequal"]
    assert all(len(figures(" ".join(row[1:]))) == 5 for row in found)


def test_bench_data_times_the_waiting(printed, config):
    out = printed("bench_data.py", "--config", config, "--steps", 5, "--train.batch-size", 16)
    assert out.startswith("5 steps of 16 × 16 tokens: ") and len(figures(out)) == 7


def test_bench_prepare(printed, tmp_path):
    """With given text: taking Python's own apart costs seconds."""
    texts = [document.text for document in documents(4)]
    train_sentencepiece(texts, 300).save(tmp_path)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = ("--text", tmp_path / "text.jsonl", "--sentencepiece", tmp_path / "tokenizer.model")
    out = printed("bench_prepare.py", *asked, "--rounds", 1, "--workers", 1)
    about, alone, ours, *ratios, peak = out.splitlines()
    assert about.endswith("vocabulary 300, 1 processes") and len(ratios) == 2
    assert [len(figures(line)) for line in (alone, ours, *ratios, peak)] == [4, 4, 1, 1, 1]


def test_bench_schedule(printed):
    (row,) = table(printed("bench_schedule.py", "--blocks", 5000, "--policies", "by_loss", "--rounds", 1))
    assert row[:2] == ["5e+03", "by_loss"] and len(row) == 11
    assert all(figures(cell) for cell in row[2:])


def test_bench_lfr_cost(printed, config):
    """Catches, too: a stage that is missing; runs of unequal steps; ratios to another run than `uniform`."""
    out = printed("bench_lfr_cost.py", config, "--rounds", 1, "--steps", 12)
    step, *stages, work = table(out)
    assert [row[0] for row in (step, *stages, work)] == ["train step / uniform", *WORK, *BESIDE, "work / uniform"]
    assert all(len(figures(" ".join(row[1:]))) == 6 for row in stages)
    assert work[3] == step[3] == "1.000 (1.000–1.000)" and work[1] != work[3]
    assert len(figures(next(line for line in out.splitlines() if line.startswith("rate of scoring passes")))) == 3


def test_bench_remote(tmp_path):
    """In a process of its own: it forks, and points everybody at its server."""
    pytest.importorskip("gcsfs")
    asked = ("--tokens", "2e5", "--latency", "0", "--uncached", "1")
    command = [sys.executable, str(TOOLS / "bench_remote.py"), "--folder", str(tmp_path), *asked]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    (row,) = table(ended.stdout)
    assert row[0] == "1024 KiB" and len(row) == 7 and all(figures(cell) for cell in row)
    assert "without a cache" in ended.stdout and len(figures(ended.stdout.splitlines()[-1])) == 2


NANOGPT = """
import torch
from typing import NamedTuple

class GPTConfig(NamedTuple):
    block_size: int
    vocab_size: int
    dropout: float
    bias: bool
    n_layer: int
    n_head: int
    n_embd: int

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def forward(self, ids, targets):
        print("a line that is no reply")
        logits = self.head(ids)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""  # what of nanoGPT's model.py is used


def tool(name, *arguments):
    """A tool in a process of its own: it imports the file beside it."""
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_bench_train(tmp_path):
    """Catches: a peer that does not take its turns; ratios to another peer than the first; a folder left out."""
    pytest.importorskip("torch")
    (tmp_path / "model.py").write_text(NANOGPT)
    asked = ("--shapes", "tiny", "--rounds", 2, "--seconds", 0.01, "--nanogpt", tmp_path)
    ended = tool("bench_train.py", *asked, "--peers", "nanogpt-eager", "ours:remat=block", "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    theirs, ours = table(ended.stdout)
    assert (theirs[:2], ours[:2]) == (["tiny", "nanogpt-eager"], ["tiny", "ours:remat=block"])
    assert theirs[3] == theirs[5] == "1.00" and all(figures(cell) for cell in (*theirs[2:], *ours[2:]))
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [found["peer"] for found in written] == ["nanogpt-eager", "ours:remat=block"]
    assert "a line that is no reply" in ended.stderr


def test_bench_start(config):
    """Catches: a run that is waited for after it has failed; a cold start that is timed as a warm one."""
    ended = tool("bench_start.py", config, "--rounds", 1, "--mesh.data", 1)
    assert ended.returncode == 0, ended.stderr
    ((_, *numbers),) = table(ended.stdout)
    cold, _, cold_cpu, warm, _, warm_cpu = [float(figures(cell)[0]) for cell in numbers]
    assert min(cold, cold_cpu, warm, warm_cpu) > 0
    failed = tool("bench_start.py", config, "--rounds", 1, "--data.seq-len", 0)
    assert failed.returncode == 1 and "data.seq_len is 0" in failed.stderr


def test_bench_gpu_goes_on(tmp_path):
    """On a CPU. Catches: a peer that fails and takes the others with it; a result that is measured twice."""
    asked = ("--out", tmp_path / "out", "--shapes", "tiny", "--turns", 1, "--seconds", 0.01)
    first = tool("bench_gpu.py", *asked, "--peers", "ours:attention=cudnn", "ours:attention=xla")
    assert first.returncode == 0 and "needs a gpu" in first.stderr
    assert "ours:attention=cudnn ended with 1" in first.stderr
    ((shape, peer, *numbers),) = table(first.stdout)
    assert (shape, peer) == ("tiny", "ours:attention=xla") and numbers[1] == "–"  # no peak is known: no MFU
    again = tool("bench_gpu.py", *asked, "--peers", "ours:attention=xla", "--minutes", 0)
    assert again.returncode == 0 and again.stdout == first.stdout


def test_score_study(printed, config):
    out = printed("score_study.py", config, "--steps", 12, "--clusters", 3)
    about, _, full, *guesses = out.strip().splitlines()
    assert about.startswith("after 12 steps, in focus; ") and len(guesses) == 11
    assert full.split()[-4:] == ["33.3%", "1.000", "1.000", "100.0%"]
    assert all(len(figures(line[44:])) == 4 for line in guesses)


def test_soak(printed, tmp_path):
    """Catches: samples of another moment than the table says; a comparison without its two parts."""
    text = printed("soak.py", "--phases", 7, "--phase-steps", 20, "--every", 0.01, "--out", tmp_path)
    assert figures(text.splitlines()[0])[1:] == ["7", "140"] or "too few to compare" in text
    with open(tmp_path / "soak.csv", encoding="utf-8", newline="") as file:
        samples = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    for name in ("seconds", "cpu", "step"):
        assert samples == sorted(samples, key=lambda sample: sample[name])
    for sample in samples:
        assert 0 <= sample["step"] <= 140 and sample["memory"] > 1e8 and 0 < sample["work"] < sample["cpu"]
        assert sample["descriptors"] > 2 and sample["threads"] > 1
