"""Files of settings: Python, and the JSON of a run. Whatever a file holds, it is settings or a ValueError."""

import dataclasses
import json
import os

import hostile
import pytest
from helpers import UNUSUAL

from lfr_jax.config import Config, TrainConfig, flat, read_config

START = "from lfr_jax.config import *\n"
BAD = {
    "empty": ("", "must set `config` to an lfr_jax.config.Config; found NoneType"),
    "class": (START + "config = TrainConfig()", "found TrainConfig"),
    "type": (START + "config = Config", "found type"),
    "section": (START + "config = Config(train=5)", "line 2: ValueError: train is 5, expected TrainConfig"),
    "value": (
        START + "config = Config(train=TrainConfig(steps='many'))",
        "line 2: ValueError: train.steps is 'many', ",
    ),
    "list": (START + "config = Config(model=ModelConfig(dim=[[[]]]))", "line 2: ValueError: model.dim is [[[]]], "),
    "run_dir": (START + "config = Config(run_dir=None)", "line 2: ValueError: run_dir is None, expected a string"),
    "keys": (START + "config = Config(schedule=ScheduleConfig('lfr', {1: 2}))", "schedule.options is {1: 2}, expected"),
    "no JSON": (
        START + "config = Config(schedule=ScheduleConfig('lfr', {'a': {1}}))",
        "schedule.options is {'a': {1}}",
    ),
    "nan": (START + "config = Config(schedule=ScheduleConfig('lfr', {'a': float('nan')}))", "schedule.options is {"),
    "changed": (START + "config = Config()\nconfig.schedule.options['a'] = {1}", "schedule.options is {'a': {1}}"),
    "forced": (
        START + "config = Config()\nobject.__setattr__(config.train, 'steps', -1)",
        "train.steps is -1, expected",
    ),
    "gone": (START + "config = Config()\ndel config.__dict__['train']", "AttributeError: 'Config' object has no"),
    "setting": (START + "config = Config(train=TrainConfig(stepz=5))", "line 2: TypeError: .*; did you mean 'steps'?"),
    "old setting": (START + "config = Config(train=TrainConfig(accumulate=5))", "called train.grad_accum_steps now"),
    "syntax": (START + "config = = 5", "SyntaxError: "),
    "indent": (START + " config = 5", "IndentationError: "),
    "deep": ("config = " + "(" * 10_000, "SyntaxError: "),
    "digits": ("config = " + "9" * 5_000, "SyntaxError: "),
    "name": ("config = nothing", "line 1: NameError: "),
    "exception": ("\nraise KeyError('a')", "line 2: KeyError: 'a'"),
    "odd": ("raise BaseException('b')", "line 1: BaseException: b"),
    "exit": ("raise SystemExit(0)", "line 1: SystemExit: 0"),
    "quit": ("import sys\nsys.exit('enough')", "line 2: SystemExit: enough"),
    "recursion": ("def f(): return f()\nconfig = f()", "RecursionError: "),
    "memory": ("config = 'a' * (1 << 62)", "line 1: MemoryError: "),
    "module": ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    "import": ("from lfr_jax.config import Konfig", "line 1: ImportError: "),
    "UTF-16": ((START + "config = Config()").encode("utf-16"), "SyntaxError: "),
    "latin-1": ("config = 'é'".encode("latin-1"), "SyntaxError: "),
    "NUL": (b"config = 5\0", "source code"),
}


@pytest.mark.parametrize("text, error", BAD.values(), ids=BAD)
def test_a_python_file_that_is_no_configuration(tmp_path, text, error):
    """Catches: a traceback, an exit of the whole command, a riddle without the file and the line."""
    file = tmp_path / "file.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as raised:
        read_config(str(file))
    said = str(raised.value)
    assert said.startswith(str(file)) and all(part in said for part in error.split(".*")), said


def test_a_python_file_with_a_byte_order_mark(tmp_path):
    """Catches: a mark of Windows programs taken for Python."""
    (tmp_path / "file.py").write_bytes((START + "config = Config('é')").encode("utf-8-sig"))
    assert read_config(str(tmp_path / "file.py")) == Config("é")


def test_only_regular_files_are_read(tmp_path):
    """Catches: a FIFO that is waited for, or said not to be there; a folder that runpy takes for a program."""
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(START + "config = Config()")
    for name, said in [("fifo.json", "is a named pipe"), ("folder", "is a folder"), ("none.json", "no configuration")]:
        with pytest.raises(OSError, match=said):
            read_config(str(tmp_path / name))
    with pytest.raises(OSError, match="no configuration file"):
        read_config(str(tmp_path / "a\0b"))


def test_the_settings_of_a_run_are_a_configuration(tmp_path):
    """Also those of a run that began under old names."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.asdict(UNUSUAL)))
    assert read_config(str(file)) == UNUSUAL
    file.write_text('{"run_dir": "runs/a", "train": {"accumulate": 4}}')
    assert read_config(str(file)) == Config("runs/a", train=TrainConfig(grad_accum_steps=4))


OLD = {"optimizer": {"warmup": 7, "shape": "wsd"}, "train": {"accumulate": 2, "score_batch": 4}}


@pytest.mark.parametrize("saved", [dataclasses.asdict(UNUSUAL), OLD], ids=["new", "old"])
@pytest.mark.parametrize("edited", [hostile.edited_text, hostile.edited_bytes])
def test_edited_settings_are_read_or_refused_by_file(tmp_path, saved, edited):
    """Catches: KeyError, TypeError, AttributeError, RecursionError for a file that somebody edited."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(saved))
    hostile.each_edit(file, edited, lambda: flat(read_config(str(file))))
