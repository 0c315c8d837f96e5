"""Settings of `tpu/`: the files that are shipped, their overrides, and what is refused."""

import argparse
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / "tpu"))

import fleet  # noqa: E402
import settings  # noqa: E402

SHIPPED = sorted((ROOT / "tpu" / "topologies").glob("*.toml"))
ENOUGH = dict(name="t", zone="z", accelerator_type="v6e-8", runtime_version="v2-alpha-tpuv6e")


def loaded(tmp_path, text: str, **flags):
    path = tmp_path / "a.toml"
    path.write_text(text)
    return settings.load(path, ENOUGH | flags)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files(path):
    """Catches: a key that is no setting; a zone, a project, a bucket or a price that somebody else's account has; a
    runtime of another generation; a command whose config does not exist."""
    found = settings.load(path, dict(zone="z"))
    assert (found.project, found.run_dir, found.dollars_per_chip_hour) == ("", "", 0)
    generation = found.accelerator_type.partition("-")[0]
    runtimes = {"v4": "tpu-ubuntu2204-base", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5"}
    assert found.runtime_version == runtimes.get(generation, "v2-alpha-tpuv6e")
    if fleet.hosts(found.accelerator_type) == 1:
        prepare, train = re.fullmatch(r"\[ -d data/smoke \] \|\| lfr (.+) && lfr (.+)", found.command).groups()
        assert (
            prepare in (ROOT / "tools" / "smoke").read_text() and train == 'train configs/smoke.py --run-dir "$RUN_DIR"'
        )
    else:
        assert found.command == ""  # no data of ours is there for it
    assert ("HUGEPAGES=0" in found.setup) == (generation == "v4")
    assert (ROOT / "tpu" / "worker" / "setup.sh").exists() and "tpu/worker/setup.sh" in found.setup


def test_all_that_was_promised_is_shipped():
    """Catches: a topology that is gone."""
    names = {"v5litepod-8", "v6e-8", "v4-32", "v5p-64", "v6e-256", "v6e-256x2"}
    assert {path.stem for path in SHIPPED} == names
    assert settings.load(ROOT / "tpu" / "topologies" / "v6e-256x2.toml", dict(zone="z")).slices == 2


@pytest.mark.parametrize(
    "kind, chips, hosts",
    [
        ("v5litepod-8", 8, 1),
        ("v5litepod-16", 16, 4),
        ("v6e-8", 8, 1),
        ("v6e-256", 256, 64),
        ("v4-8", 4, 1),
        ("v4-32", 16, 4),
        ("v5p-64", 32, 8),
        ("v3-8", 4, 1),
    ],
)
def test_chips_and_hosts(kind, chips, hosts):
    """Catches: cores counted as chips, or the reverse; a host too few, which would hang the others."""
    assert (fleet.chips(kind), fleet.hosts(kind)) == (chips, hosts)


@pytest.mark.parametrize(
    "text, part",
    [
        ('acelerator_type = "v6e-8"', "did you mean 'accelerator_type'"),
        ("poll_s = -1", "poll_s: found -1, expected a number"),
        ("slices = '2'", "slices: found '2', expected int"),
        ("slices = 0", "expected at least 1"),
        ("stall_s = 0", "stall_s: found 0"),
        ("stall_s = nan", "stall_s: found nan"),
        ("provisioning = 'cheap'", "expected spot or on-demand or reserved"),
        ("create_flags = ['internal-ips']", "create_flags: found 'internal-ips'"),
        ("run_dir = 'runs/mine'", "expected gs://BUCKET/FOLDER or an absolute path"),
        ("[env]\nA = 1", "env: found {'A': 1}, expected a table of strings"),
        ("[env]\n'A B' = '1'", "env: found 'A B'"),
        ("name = ", "not TOML"),
    ],
)
def test_refused(tmp_path, text, part):
    """Catches: a mistake in a file that first shows when a TPU costs money."""
    with pytest.raises(ValueError) as error:
        loaded(tmp_path, text)
    assert part in str(error.value)


@pytest.mark.parametrize(
    "flags, part",
    [
        (dict(zone=""), "--zone"),
        (dict(name="T;rm"), "name"),
        (dict(accelerator_type="v5e-8"), "v5e is v5litepod"),
        (dict(accelerator_type=""), "accelerator_type"),
        (dict(runtime_version=""), "versions list"),
        (dict(env=["A"]), "NAME=VALUE"),
    ],
)
def test_refused_flags(tmp_path, flags, part):
    """Catches: a zone that is guessed; a type that gcloud would replace by v2-8; a name that a shell would read."""
    with pytest.raises(ValueError) as error:
        loaded(tmp_path, "", **flags)
    assert part in str(error.value)


def test_absent_file_names_the_shipped_ones():
    """Catches: an error that leaves one to look around."""
    with pytest.raises(FileNotFoundError, match="v5p-64.toml"):
        settings.load("v5p.toml", {})


def test_every_setting_is_a_flag(tmp_path):
    """Catches: a setting that only a file can change; a flag that does not win; [env] that is replaced."""
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    flags = {"--create-flag" if name == "create_flags" else "--" + name.replace("_", "-") for name in settings.FIELDS}
    assert flags <= set(parser._option_string_actions)
    words = "--slices 2 --no-delete-at-end --env A=1 --env B==2 --create-flag=--internal-ips --poll-s 0.5".split()
    given = vars(parser.parse_args(words))
    found = loaded(
        tmp_path, "slices = 4\ndelete_at_end = true\nrun_dir = 'gs://b/r/'\n[env]\nA = '0'\nC = '3'", **given
    )
    assert (found.slices, found.delete_at_end, found.poll_s, found.run_dir) == (2, False, 0.5, "gs://b/r")
    assert found.env == {"A": "1", "B": "=2", "C": "3"} and found.create_flags == ("--internal-ips",)


def test_environment_of_the_run(tmp_path):
    """Catches: a coordinator port that the firewall closes; a missing TPU that trains on a CPU; a cache that a
    preemption deletes; [env] that does not win."""
    env = loaded(tmp_path, "run_dir = 'gs://b/r'").run_env()
    assert env == {
        "RUN_DIR": "gs://b/r",
        "JAX_PLATFORMS": "tpu,cpu",
        "JAX_COORDINATOR_PORT": "8476",
        "LIBTPU_INIT_ARGS": "",
        "JAX_COMPILATION_CACHE_DIR": "gs://b/r/jax_cache",
    }
    env = loaded(tmp_path, "run_dir = '/r'\nlibtpu_init_args = '--a=1'\n[env]\nJAX_PLATFORMS = 'cpu'").run_env()
    assert (env["JAX_PLATFORMS"], env["LIBTPU_INIT_ARGS"]) == ("cpu", "--a=1")
    assert "JAX_COMPILATION_CACHE_DIR" not in env  # the agent's: its home is known there


def test_a_run_needs_a_command_and_a_folder(tmp_path):
    """Catches: a TPU that waits for a command that nobody gave."""
    for flags in ({}, dict(run_dir="gs://b/r"), dict(command="true")):
        with pytest.raises(ValueError, match="found none"):
            settings.check_run(loaded(tmp_path, "", **flags))
    settings.check_run(loaded(tmp_path, "", run_dir="gs://b/r", command="true"))
