"""Every setting of a TPU and of the run on it: from a TOML file, overridden by flags of the same names."""

import argparse
import dataclasses
import difflib
import getpass
import os
import pathlib
import re
import tomllib
from typing import Any, Literal, get_args, get_origin

import fleet

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has only a number
        return str(os.getuid())


@dataclasses.dataclass(frozen=True)
class Settings:
    """A TPU, the run on it, and how long to wait for what. Times are in seconds."""

    # The TPU
    name: str = ""  # of the queued resource. Its nodes are NAME, or with several slices NAME-0, NAME-1, ...
    project: str = ""  # "": the one of `gcloud config get project`
    zone: str = ""
    accelerator_type: str = ""  # as gcloud names it: v5litepod-8, v6e-8, v4-32, v5p-64, ...
    runtime_version: str = ""  # the image of the VMs
    slices: int = 1  # more than one: a multislice run
    provisioning: Literal["spot", "on-demand", "reserved"] = "spot"
    create_flags: tuple[str, ...] = ()  # more flags for `gcloud compute tpus queued-resources create`
    owner: str = dataclasses.field(
        default_factory=own_name
    )  # becomes a label of the TPU; commands of other owners refuse it
    dollars_per_chip_hour: float = 0.0  # 0: show costs in chip-hours only

    # The run
    run_dir: str = ""  # gs://BUCKET/FOLDER, or an absolute path on a shared disk; $RUN_DIR in the command
    command: str = ""  # shell command, the same on every host; runs in the folder of the pushed code
    setup: str = "tpu/worker/setup.sh '.[gcs]' 'jax[tpu]'"  # shell command that installs the pushed code
    libtpu_init_args: str = ""
    env: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # of the run; overrides `run_env` below and the login shell
    source: str = str(ROOT)  # git checkout; its tracked files are pushed

    # How long to wait
    poll_s: float = 30.0  # between two looks at the TPU
    settle_s: float = 60.0  # after a worker fails, until it counts: the API reports a preemption a little later
    grace_s: float = 120.0  # between SIGTERM and SIGKILL
    unready_s: float = 900.0  # for a node that is not READY or not healthy
    unreachable_s: float = 600.0  # for a worker that does not answer
    stall_s: float = 3600.0  # without a new log line and a new checkpoint, until the run counts as hung; inf: never
    ssh_timeout_s: float = 120.0  # for one short command on the workers
    setup_timeout_s: float = 1800.0  # for the push to one worker, and for the setup
    backoff_s: float = 15.0  # before the next attempt; doubles each time until a checkpoint is written
    backoff_cap_s: float = 900.0
    max_failures: int = 5  # failed attempts (exit code other than 0 and 75) until `run` gives up
    max_preemptions: int = 100
    max_creations: int = 3  # FAILED resources until `run` and `up` give up
    parallel: int = 16  # gcloud calls at the same time
    delete_at_end: bool = False  # `run` deletes the TPU when it is done or gives up
    state_dir: str = "~/.lfr_tpu"  # where `run` keeps its state, on this machine

    def __post_init__(self):
        check(self)

    def node_names(self) -> list[str]:
        return [self.name] if self.slices == 1 else [f"{self.name}-{index}" for index in range(self.slices)]

    def owner_label(self) -> str:
        """The owner, in characters that Google Cloud allows in a label."""
        return re.sub(r"[^-_a-z0-9]", "-", self.owner.lower())[:63]

    def run_env(self) -> dict[str, str]:
        """Environment variables of the trainer. The agent on the worker adds a local compilation cache."""
        env = {
            "RUN_DIR": self.run_dir,
            "JAX_PLATFORMS": "tpu,cpu",  # if the TPU is missing, JAX fails and does not train on the CPU
            "JAX_COORDINATOR_PORT": "8476",  # Google Cloud's default firewall closes JAX's default, 8482
            "LIBTPU_INIT_ARGS": self.libtpu_init_args,
        }
        if self.run_dir.startswith("gs://"):
            env["JAX_COMPILATION_CACHE_DIR"] = f"{self.run_dir}/jax_cache"  # so that a new VM need not compile again
        return env | self.env

    def state_path(self) -> pathlib.Path:
        return pathlib.Path(self.state_dir).expanduser() / f"{self.project}.{self.zone}.{self.name}"


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def check(settings: Settings) -> None:
    """Raises ValueError if a value is missing, has the wrong type, or is out of range."""
    for name, field in FIELDS.items():
        check_type(name, getattr(settings, name), field.type)
    if not NAME.fullmatch(settings.name):
        raise ValueError(
            f"name: found {settings.name!r}, expected a-z, 0-9 and '-', starting with a letter; pass --name"
        )
    if not settings.zone:
        raise ValueError(
            "zone: found none, and there is no default; pass --zone (where your quota is) or set it in the file"
        )
    fleet.chips(settings.accelerator_type)
    if not settings.runtime_version:
        raise ValueError(
            "runtime_version: found none; `gcloud compute tpus tpu-vm versions list --zone=...` lists them"
        )
    if settings.stall_s == 0:
        raise ValueError("stall_s: found 0, expected the seconds after which a silent run counts as hung, or inf")
    if settings.slices < 1:
        raise ValueError(f"slices: found {settings.slices}, expected at least 1")
    for flag in settings.create_flags:
        if not flag.startswith("--"):
            raise ValueError(f"create_flags: found {flag!r}, expected --FLAG or --FLAG=VALUE in one word")
    if settings.run_dir and not settings.run_dir.startswith(("gs://", "/")):
        raise ValueError(f"run_dir: found {settings.run_dir!r}, expected gs://BUCKET/FOLDER or an absolute path")
    for name in settings.env:
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"env: found {name!r}, expected the name of a variable")


def check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        right, expected = value in get_args(kind), " or ".join(get_args(kind))
    elif get_origin(kind) is tuple:
        right, expected = isinstance(value, tuple) and all(isinstance(item, str) for item in value), "a list of strings"
    elif get_origin(kind) is dict:
        right, expected = all(isinstance(item, str) for item in value.values()), "a table of strings"
    elif kind is float:
        right, expected = isinstance(value, (int, float)) and value is not True and value >= 0, "a number, 0 or more"
    else:
        right, expected = type(value) is kind, kind.__name__
    if not right:
        raise ValueError(f"{name}: found {value!r}, expected {expected}")


def check_run(settings: Settings) -> None:
    """Raises ValueError if the settings for a run are missing."""
    if not settings.run_dir:
        raise ValueError("run_dir: found none; pass --run-dir gs://BUCKET/FOLDER (see the file's own comment)")
    if not settings.command:
        raise ValueError(
            "command: found none; pass "
            "--command 'lfr train CONFIG --data.store gs://BUCKET/DATA --run-dir \"$RUN_DIR\"'"
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every setting. --env NAME=VALUE and --create-flag=--FLAG add one item each."""
    group = parser.add_argument_group("settings (override those of the file)")
    for name, field in FIELDS.items():
        flag = "--" + name.replace("_", "-")
        options: dict[str, Any] = dict(dest=name, default=argparse.SUPPRESS)
        if name == "env":
            options |= dict(action="append", metavar="NAME=VALUE")
        elif name == "create_flags":
            flag, options = "--create-flag", options | dict(action="append", metavar="--FLAG=VALUE")
        elif field.type is bool:
            options |= dict(action=argparse.BooleanOptionalAction)
        elif get_origin(field.type) is Literal:
            options |= dict(choices=get_args(field.type))
        else:
            options |= dict(type=field.type)
        group.add_argument(flag, **options)


def load(path: str | os.PathLike, flags: dict[str, Any]) -> Settings:
    """The settings of a file, overridden by the flags of `add_flags` that were passed.

    Raises:
      ValueError: the file is not TOML, or has an unknown key; the message names the nearest setting.
      FileNotFoundError: no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        shipped = ", ".join(sorted(file.name for file in (ROOT / "tpu" / "topologies").glob("*.toml")))
        raise FileNotFoundError(f"{path}: no such file; tpu/topologies has {shipped}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    for key in values:
        if key not in FIELDS:
            close = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{path}: unknown setting {key!r}; {hint}known are {', '.join(FIELDS)}")
    values |= {key: value for key, value in flags.items() if key in FIELDS and key != "env"}
    values["env"] = values.get("env", {}) | pairs(flags.get("env", []))
    values["create_flags"] = tuple(values.get("create_flags", ()))
    values["run_dir"] = values.get("run_dir", "").rstrip("/")
    return Settings(**values)


def pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise ValueError(f"--env: found {word!r}, expected NAME=VALUE")
    return dict(word.split("=", 1) for word in words)
