"""Every number of every command: what it may be is accepted, and anything else is refused before any work, by name."""

import pytest

from lfr_jax.config import Config, flat
from lfr_jax.experiments import report
from lfr_jax.train import load_run, loop

VALUES = ("0", "-1", "nan", "inf", "1e30", "", "x")

# Those of VALUES that an option may be. The settings of a run that are not named here may be none of them.
COMMANDS = {
    "evaluate": {"blocks": "0"},
    "score --out scores.csv": {"seq_len": "0", "shortest": "0"},
    "generate": {"tokens": "", "temperature": "0 1e30", "top_k": "0", "top_p": "", "seed": "0"},
    "report": {"threshold": "0 1e30"},
}
MAY_BE_0 = [
    "data.workers",
    "data.fim_rate",
    "data.fim_spm_rate",
    "schedule.floor",
    "schedule.cap_noise",
    "schedule.clusters",
    "optimizer.end_lr",
    "optimizer.warmup_steps",
    "optimizer.decay_fraction",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "train.steps",
    "train.score_batch_size",
    "train.seed",
    "train.eval_every",
    "train.probe_blocks",
    "train.checkpoint_every",
    "distributed.num_processes",
]
MAY_BE_MINUS_1 = ["mesh.data", "mesh.fsdp", "mesh.tensor", "distributed.process_id"]
SETTINGS = dict.fromkeys(MAY_BE_0, "0") | dict.fromkeys(MAY_BE_MINUS_1, "-1")
OPTIONS = [
    *((f"{command} run", name, may_be) for command, options in COMMANDS.items() for name, may_be in options.items()),
    *(
        ("train file.py", name, SETTINGS.get(name, ""))
        for name, value in flat(Config()).items()
        if type(value) in (int, float)
    ),
]


class Began(Exception):
    """The work of a command began."""


@pytest.mark.parametrize("command, name, may_be", OPTIONS, ids=[f"{c.split()[0]}-{n}" for c, n, _ in OPTIONS])
def test_numbers_out_of_range_are_refused(lfr, monkeypatch, tmp_path, command, name, may_be):
    """Catches: an option without a range; a range that is looked at after the work began."""

    def began(*args):
        raise Began("began")

    for module, function in [(load_run, "load"), (report, "write_report"), (loop, "train")]:
        monkeypatch.setattr(module, function, began)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.py").write_text("from lfr_jax.config import *\nconfig = Config()\n")
    for value in VALUES[:2] if command.startswith("train") else VALUES:  # the rest: config/test_values.py
        code, out, err = lfr(*command.split(), f"--{name.replace('_', '-')}", value)
        accepted = "Began: began" in err
        assert accepted == (value in may_be.split()), (value, err)
        assert accepted or code in (1, 2) and (name in err or name.replace("_", "-") in err), (value, err)


def test_policies_to_compare_are_named_once(lfr, tmp_path):
    """Catches: an IndexError for no policy; `--schedule.policy`, which would be ignored."""
    file = tmp_path / "file.py"
    file.write_text("from lfr_jax.config import *\nconfig = Config()\n")
    for options, error in [
        (["--schedule.policy", "lfr"], "schedule.policy is 'lfr': name the policies to compare with --policies"),
        (["--schedule.options", "drop"], "--schedule.options stands before 1 words, expected"),
    ]:
        code, _, err = lfr("compare", file, *options)
        assert code == 1 and error in err
    with pytest.MonkeyPatch.context() as patch:
        compared = "lfr_jax.experiments.compare.compare_policies"
        patch.setattr(compared, lambda config, *asked: print(config.schedule.floor, *asked))
        words = "--schedule.floor 0.5 --schedule.options.drop=0.25 --policies lfr seta --schedule.options round-steps 7"
        assert lfr("compare", file, *words.split()).out == "0.5 ['lfr', 'seta'] {'drop': '0.25', 'round_steps': '7'}\n"
