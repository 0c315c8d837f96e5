"""The scripts that run on a TPU's workers, run here: one worker, without ssh."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from running import PATIENCE

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tpu" / "worker").glob("*.sh"))
sys.path.append(str(ROOT / "tpu"))

import bundle  # noqa: E402
from gcloud import Answer  # noqa: E402
from workers import replies  # noqa: E402

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are Linux machines"),
    pytest.mark.apart,
]
NO_DEVICES = "LFR_DEVICES=/nowhere/*"


class Agent:
    """A worker's folder, with the scripts as they are in this checkout."""

    def __init__(self, home: pathlib.Path):
        self.home = home
        self.code = home / "code-0"
        (self.code / "tpu").mkdir(parents=True)
        shutil.copytree(ROOT / "tpu" / "worker", self.code / "tpu" / "worker")
        (home / "code").symlink_to("code-0")
        (home / "identity").write_text("0/3\n")

    def __call__(self, *words, code: int = 0) -> dict[str, str]:
        """The fields that the agent answers with, and `line` and `rest`."""
        script = self.home / "code" / "tpu" / "worker" / "agent.sh"
        # A command that holds the connection open would end in the timeout.
        done = subprocess.run(["bash", script, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, done
        reply = replies([Answer(0, done.stdout, "")], words[0] if words[0] != "stop" else "status")[0, 3]
        return reply.fields | dict(line=reply.line, rest=reply.rest)

    def launch(self, run: str, command: str, *variables: str, grace: int = 5, code: int = 0) -> dict[str, str]:
        words = ("launch", run, self.home / "out", grace, command, NO_DEVICES, *variables)
        return self(*words, code=code)

    def ended(self) -> dict[str, str]:
        return wait_for(lambda: (seen := self("status"))["state"] != "running" and seen)

    def wait_line(self, text: str) -> None:
        wait_for(lambda: self("status")["line"] == text)


def wait_for(condition, seconds: float = PATIENCE):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def agent(tmp_path):
    made = Agent(tmp_path / "lfr_tpu" / "t")
    yield made
    for file in made.home.glob("runs/*/pid"):
        try:
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_launched_twice_is_one_run(agent):
    """Catches: a second trainer on the same chips when gcloud reruns a command; a launch that holds its connection."""
    command = "echo started >> ../starts; sleep 100"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: agent.launch("a", command), range(4)))
    answers.append(agent.launch("a", command))
    assert {answer["started"] for answer in answers} == {"1"} and len({answer["pid"] for answer in answers}) == 1
    wait_for((agent.home / "starts").exists)
    assert (agent.home / "starts").read_text() == "started\n"


def test_launched_again_after_its_end_stays_ended(agent):
    """Catches: a rerun of the launch command that starts a run anew which has ended meanwhile."""
    agent.launch("a", "echo x >> ../starts; exit 3")
    agent.ended()
    agent.launch("a", "echo x >> ../starts; exit 3")
    assert agent("status")["code"] == "3" and (agent.home / "starts").read_text() == "x\n"
    agent.launch("b", "exit 4")
    agent.ended()
    assert agent.launch("a", "exit 3", code=1)["line"] == "run b was launched after it"  # and not: started


@pytest.mark.parametrize("command, code", [("true", 0), ("exit 75", 75), ("kill -9 $$", 137), ("no-such-command", 127)])
def test_exit_codes(agent, command, code):
    """Catches: an exit code that is lost, or is that of the wrong process."""
    agent.launch("a", command)
    assert (agent.ended()["state"], agent("status")["code"]) == ("exited", str(code))


def test_stop_lets_the_trainer_save(agent):
    """Catches: SIGKILL before the grace period; SIGTERM to the shell alone; a stopped run that looks preempted."""
    # A shell that waits for the trainer, and tells its exit code.
    child = "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.1; done"
    trainer = f"trap : TERM; bash -c {shlex.quote(child)}; exit $?"
    agent.launch("a", trainer)
    agent.wait_line("ready")
    ended = agent("stop", 10, "user")
    assert (ended["state"], ended["code"], ended["stopped"], ended["line"]) == ("exited", "75", "1", "saved")
    agent.launch("b", trainer)
    agent.wait_line("ready")
    assert agent("stop", 10, "run")["stopped"] == "0"
    assert agent("stop", 10, "run")["code"] == "75"  # twice is as once


def test_stop_kills_what_does_not_listen(agent):
    """Catches: a trainer that hangs forever and costs money; its children that live on and hold the chips."""
    agent.launch("a", "trap '' TERM; sleep 100 & echo $! > ../child; echo ready; wait; sleep 100", grace=1)
    agent.wait_line("ready")
    assert agent("stop", 1, "user")["code"] == "137"
    child = int((agent.home / "child").read_text())
    wait_for(lambda: not alive(child))


def test_a_new_run_ends_the_one_before(agent):
    """Catches: two runs on the same chips after a restart."""
    before = int(agent.launch("a", "sleep 100")["pid"])
    assert agent.launch("b", "sleep 100")["started"] == "1"
    assert not alive(before) and agent("status")["run"] == "b"


def test_a_stale_pid_is_nobody_elses(agent):
    """Catches: a process that was given the old number, taken for the run, and killed."""
    agent.launch("a", "true")
    agent.ended()
    folder = agent.home / "runs" / "a"
    (folder / "exit_code").unlink()
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
        _, start, boot = (folder / "pid").read_text().split()
        for stale in (f"{other.pid} {start} {boot}", f"{other.pid} {started_at(other.pid)} another-boot"):
            (folder / "pid").write_text(stale + "\n")
            assert agent("status")["state"] == "lost"
            agent("stop", 1, "user")
            assert agent.launch(f"b{len(stale)}", "true")["started"] == "1"
            (agent.home / "current").write_text("a\n")
            assert alive(other.pid)
        other.kill()


def started_at(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def test_the_supervisor_outlives_a_signal(agent):
    """Catches: a VM that shuts down and says SIGTERM to all: the trainer saves, and nobody is left to write 75."""
    pid = int(agent.launch("a", "trap 'sleep 0.5; exit 75' TERM; echo ready; while :; do sleep 0.1; done")["pid"])
    agent.wait_line("ready")
    supervisor = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    os.kill(supervisor, signal.SIGTERM)
    assert agent("status")["state"] == "running"
    os.kill(pid, signal.SIGTERM)
    os.kill(supervisor, signal.SIGTERM)
    assert agent.ended()["code"] == "75"


def test_a_command_of_several_ends_as_its_last_one(agent):
    """Catches: a shell that dies of the SIGTERM that its trainer saves after, so that 75 is never seen."""
    script = "trap 'sleep 0.5; exit 75' TERM; echo ready; while :; do sleep 0.1; done"
    pid = int(agent.launch("a", f"bash -c {shlex.quote(script)} && true")["pid"])
    agent.wait_line("ready")
    os.killpg(pid, signal.SIGTERM)
    assert agent.ended()["code"] == "75"


def test_a_run_whose_supervisor_is_gone(agent):
    """Catches: a trainer at work that is called lost, or one that ended without a trace called running."""
    pid = int(agent.launch("a", "sleep 100")["pid"])
    os.kill(int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]), signal.SIGKILL)
    assert agent("status")["state"] == "running"
    os.killpg(pid, signal.SIGKILL)
    assert agent.ended()["state"] == "lost"


def test_an_accelerator_in_use_is_not_launched_on(agent, tmp_path):
    """Catches: a zombie that holds the chips, found only when the trainer hangs; an error that does not name it."""
    device = tmp_path / "accel0"
    device.touch()
    devices = f"LFR_DEVICES={tmp_path}/accel*"
    holder = subprocess.Popen([sys.executable, "-c", f"f = open({str(device)!r}); print(flush=True); input()"], **PIPES)
    with holder:
        holder.stdout.readline()
        refused = agent.launch("a", "true", devices, code=1)
        assert refused["started"] == "0" and f"{holder.pid}(python" in refused["line"]
        assert agent("status")["state"] == "none"
        holder.stdin.close()
    assert agent.launch("a", "true", devices)["started"] == "1"


PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_environment(agent):
    """Catches: a variable that the shell takes apart; the venv not first on PATH; a cache that [env] cannot move."""
    # Without the folder's own name, as a line is shown in part if it is long.
    command = """first=${PATH%%:*}; below=${JAX_COMPILATION_CACHE_DIR#"$H"}
        printf "%s|%s|%s|%s\\n" "$A" "$below" "${first#"$H"}" "$(basename "$(pwd -P)")" """
    agent.launch("a", command, "A=b 'c' $d", f"H={agent.home}")
    agent.ended()
    assert agent("status")["line"].split("|") == ["b 'c' $d", "/jax_cache", "/venv/bin", "code-0"]
    agent.launch("b", command, "JAX_COMPILATION_CACHE_DIR=gs://b/c")
    agent.ended()
    assert "gs://b/c" in agent("status")["line"]


def test_status_shows_how_far_it_is(agent):
    """Catches: a progress bar shown from its first step; a checkpoint half written counted; "9" newer than "10"."""
    assert agent("status") == dict(state="none", digest="code-0", line="", rest="")
    for name in ("9", "10", "11.orbax-checkpoint-tmp-1", "12.damaged"):
        (agent.home / "out" / "checkpoints" / name).mkdir(parents=True)
    agent.launch("a", r"printf 'first\nstep 1\rstep 2 \xe2\x80\xa6\r\n\n'; exit 75")
    agent.ended()
    seen = agent("status")
    assert (seen["step"], seen["line"], seen["run"], seen["digest"]) == ("10", "step 2", "a", "code-0")


def test_status_tells_how_long_the_trainer_has_been_silent(agent):
    """Catches: a run that hangs and looks as one that writes; the age of something else; an age below 0."""
    agent.launch("a", "echo first; while [ ! -e ../more ]; do sleep 0.05; done; echo more; sleep 100")
    agent.wait_line("first")
    log = agent.home / "runs" / "a" / "log"
    for age, least, most in ((5000, 5000, 9000), (-5000, 0, 0)):
        os.utime(log, (time.time() - age,) * 2)
        assert least <= int(agent("status")["silence"]) <= most
    os.utime(log, (1, 1))
    (agent.home / "more").touch()
    agent.wait_line("more")
    assert int(agent("status")["silence"]) < 5000


def test_logs_in_parts(agent):
    """Catches: lines shown twice or not at all when a log is followed."""
    agent.launch("a", "seq 5; while [ ! -e ../more ]; do sleep 0.05; done; seq 6 9")
    agent.wait_line("5")
    first = agent("log", "last", 2)
    assert first["rest"] == "4\n5\n"
    assert agent("log", "from", first["next"])["rest"] == ""
    (agent.home / "more").touch()
    agent.ended()
    assert agent("log", "from", first["next"])["rest"] == "6\n7\n8\n9\n"


def test_setup_is_done_once(agent):
    """Catches: a second installation while the first is under way; one that failed and counts as done; another one
    below a run that is at work."""
    once = "sleep 0.2; echo x >> ../setups"
    with ThreadPoolExecutor(3) as pool:
        assert {answer["done"] for answer in pool.map(lambda _: agent("setup", once), range(3))} == {"1"}
    assert (agent.home / "setups").read_text() == "x\n"
    failed = agent("setup", "echo no such package; exit 4", code=1)
    assert (failed["done"], failed["line"]) == ("0", "exit code 4: no such package")
    assert agent("setup", "exit 0")["done"] == "1"
    agent.launch("a", "sleep 100")
    assert "a is running" in agent("setup", "exit 1", code=1)["line"]
    assert agent("setup", "exit 0")["done"] == "1"


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with the scripts in it."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "tpu" / "worker", folder / "tpu" / "worker")
    (folder / "a file").write_text("one\n")
    (folder / "link").symlink_to("a file")
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def received(home: pathlib.Path, tarball: pathlib.Path, digest: str) -> str:
    """The digest that a worker acknowledges."""
    shutil.copy(tarball, home / "t.tar.gz")
    line = f"tar -xzOf t.tar.gz tpu/worker/receive.sh | bash -s -- 1 2 t {digest} t.tar.gz"
    done = subprocess.run(["bash", "-c", line], cwd=home, env=os.environ | dict(HOME=str(home)), capture_output=True)
    return replies([Answer(0, done.stdout.decode(), "")], "push")[1, 2].fields["digest"]


def test_push(checkout, tmp_path, monkeypatch):
    """Catches: another digest for the same tree; a file missed, or as it was committed and not as it stands; a file
    that was deleted; a damaged tarball that becomes the code."""
    tarball, home = tmp_path / "a.tar.gz", tmp_path / "home"
    home.mkdir()
    first = bundle.make(checkout, tarball)
    os.utime(checkout / "a file", (1, 1))
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: 1e9)
        assert bundle.make(checkout, tarball) == first
    for _ in range(2):
        assert received(home, tarball, first) == first
    code = home / "lfr_tpu" / "t" / "code"
    assert (code / "link").read_text() == "one\n" and os.access(code / "tpu" / "worker" / "agent.sh", os.X_OK)
    assert code.resolve().name == bundle.folder(first) and (code.parent / "identity").read_text() == "1/2\n"

    (checkout / "a file").write_text("two\n")
    (checkout / "link").unlink()
    second = bundle.make(checkout, tarball)
    tarball.write_bytes(tarball.read_bytes()[:-1])
    assert received(home, tarball, second) not in (first, second)
    assert (code / "a file").read_text() == "one\n"
    bundle.make(checkout, tarball)
    assert received(home, tarball, second) == second
    assert (code / "a file").read_text() == "two\n" and not os.path.lexists(code / "link")


def test_what_push_would_miss_is_named(checkout, tmp_path):
    """Catches: a module that works here and is not there on the TPU; a folder that is no checkout."""
    for name in ("new.py", "notes.txt", "ignored.py"):
        (checkout / name).touch()
    (checkout / ".gitignore").write_text("ignored.py\n")
    assert bundle.untracked(checkout) == ["new.py"]
    subprocess.run(["git", "-C", checkout, "rm", "-q", "--cached", "tpu/worker/agent.sh"], check=True)
    with pytest.raises(OSError, match="git add tpu"):
        bundle.make(checkout, tmp_path / "a.tar.gz")
    with pytest.raises(OSError, match="not a git repository"):
        bundle.make(tmp_path, tmp_path / "a.tar.gz")


def test_setup_script(tmp_path):
    """Catches: pages that stay small, or are touched where they should not be; a venv of a Python that is too old;
    arguments that do not reach pip."""
    programs, venv, pages = tmp_path / "bin", tmp_path / "venv", tmp_path / "enabled"
    programs.mkdir()
    python = '#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$0 $*" >> {log}\n[ "$2" != venv ] || mkdir -p "$3/bin"\n'
    old = python.replace("exit 0", "exit 1")
    log = tmp_path / "log"
    for name, text in {"sudo": '#!/bin/sh\nshift\nexec "$@"\n', "python3.12": old, "python3.11": python}.items():
        (programs / name).write_text(text.format(log=log))
        (programs / name).chmod(0o755)
    pages.write_text("always [madvise] never\n")
    # The venv's own python is made by the venv module; here it is one that notes what it is asked.
    (programs / "python3.11").write_text(
        (programs / "python3.11").read_text() + f'[ "$2" != venv ] || cp {programs}/python3.11 "$3/bin/python"\n'
    )
    env = dict(PATH=f"{programs}:/usr/bin:/bin", VENV=str(venv), HUGEPAGES_FILE=str(pages))
    script = ROOT / "tpu" / "worker" / "setup.sh"
    for hugepages, expected in [("0", "always [madvise] never\n"), ("1", "always\n")]:
        words = ["bash", script, ".[gcs]", "jax[tpu]"]
        subprocess.run(words, env=env | dict(HUGEPAGES=hugepages), cwd=tmp_path, check=True, capture_output=True)
        assert pages.read_text() == expected
    said = log.read_text()
    assert f"{programs}/python3.11 -m venv {venv}" in said and "python3.12 -m venv" not in said
    assert f"{venv}/bin/python -m pip install --disable-pip-version-check --quiet .[gcs] jax[tpu]" in said


@pytest.mark.parametrize("tool", [["shellcheck"], ["shfmt", "-i", "2", "-d"]], ids=lambda tool: tool[0])
def test_lint(tool):
    """Catches: a word that is not quoted; a script formatted by hand."""
    path = shutil.which(tool[0], path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if not path:
        pytest.skip(f"{tool[0]} is not installed: pip install {tool[0]}-py")
    done = subprocess.run([path, *tool[1:], *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
