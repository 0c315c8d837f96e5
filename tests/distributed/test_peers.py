"""Who is there, what they exchange, and how one learns that another has gone: processes without JAX."""

import contextlib
import subprocess
import sys

import pytest
from running import PATIENCE, held_port

from lfr_jax.distributed.peers import Peers, connect, log_prefix

# What a process does: it meets the others, exchanges a value with them, and follows its order.
PROCESS = """
import os, signal, sys, time
from lfr_jax.distributed import peers

address, count, process, order = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
timeout = {"hurry": 1, "hurry together": 20}.get(order, 300)
print("here", flush=True)
sys.stdin.readline()  # all are here: from now on time counts
try:
    silence = 8.0 if order in ("hang", "watch") else 300.0
    met = peers.connect(address, count, process, timeout, heartbeat_timeout=silence)
except (OSError, ValueError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(met.gather({"from": process}), met.gather([process]), flush=True)
if order == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif order == "hang":
    os.kill(os.getpid(), signal.SIGSTOP)
elif order == "fail":
    met.abort("no more")
    sys.exit("no more")
elif order == "leave":
    met.gather()
    met.disconnect()
    time.sleep(0.2 * process)  # so that connections close while others are still there
    sys.exit(0)
time.sleep(600)
"""


PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def start(port: int, process: int, count: int, order: str):
    """A process that has come so far that it only waits for a word; it is gone after the block."""
    command = [sys.executable, "-c", PROCESS, f"127.0.0.1:{port}", str(count), str(process), order]
    with subprocess.Popen(command, **PIPES) as started:
        try:
            assert started.stdout.readline() == "here\n"
            yield started
        finally:
            started.kill()


def go(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def started(*processes: tuple[int, int, str]):
    """(exit code, standard output, standard error) of each process: (which, of how many, its order)."""
    with contextlib.ExitStack() as ends:
        port = ends.enter_context(held_port())
        running = [ends.enter_context(start(port, *process)) for process in processes]
        for process in running:
            go(process)
        ended = []
        for process, (_, _, order) in zip(running, processes):
            if order == "hang":  # it does until it is killed
                ended.append((None, "", ""))
            else:
                out, err = process.communicate(timeout=PATIENCE)
                ended.append((process.returncode, out, err))
        return ended


@pytest.mark.slow
def test_all_get_what_all_gave():
    """Catches: values in order of arrival, one round's taken for the next one's; a farewell taken for a death."""
    for code, out, err in started((2, 3, "leave"), (0, 3, "leave"), (1, 3, "leave")):
        assert (code, err) == (0, "")
        assert out.strip() == "[{'from': 0}, {'from': 1}, {'from': 2}] [[0], [1], [2]]"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "order, message",
    [
        ("die", "process {} of 3 is gone: it was killed, or its machine was lost"),
        ("hang", "process {} of 3 has given no sign of life for 8 s"),
        ("fail", "process {} of 3 stopped: no more"),
    ],
)
def test_when_one_ends_all_end_and_say_which(order, message, victim):
    """Catches: a process that waits for one that is gone, or ends with success; process 0 telling nobody."""
    orders = ["watch" if order == "hang" else "wait"] * 3
    orders[victim] = order
    ended = started(*((process, 3, orders[process]) for process in range(3)))
    for process in {0, 1, 2} - {victim}:
        code, _, err = ended[process]
        assert code == 1
        assert f"lfr: process {process} of 3: {message.format(victim)}. This process ends too" in err
        assert err.count("\n") == 2 and "Traceback" not in err
    if order == "fail":
        assert ended[victim][::2] == (1, "no more\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, message",
    [
        ([(0, 3, "hurry")], "TimeoutError: found 1 of 3 processes within 1 s (missing: 1, 2). Start the same command"),
        ([(0, 3, "hurry together"), (2, 3, "hurry together")], "found 2 of 3 processes within 20 s (missing: 1)"),
        ([(2, 3, "hurry")], "TimeoutError: process 2 of 3 found nobody at 127.0.0.1:"),
        ([(0, 3, ""), (1, 3, ""), (1, 3, "")], "two processes came as process 1 of 3: from 127.0.0.1 and 127.0.0.1"),
        ([(0, 3, ""), (1, 2, "")], "127.0.0.1 came as process 1 of 2, expected one of 1 to 2 of 3"),
        ([(0, 2, ""), (2, 3, "")], "127.0.0.1 came as process 2 of 3, expected one of 1 to 1 of 2"),
    ],
)
def test_who_does_not_fit_is_told_so(processes, message):
    """Catches: waiting for ever, counting oneself out, taking in the wrong ones, telling process 0 alone."""
    for code, out, err in started(*processes):
        assert code == 1 and message in err and out == "" and "Traceback" not in err


@pytest.mark.slow
def test_what_else_knocks_is_not_a_process():
    """Catches: dying of a port scan, or counting it."""
    with (
        held_port() as port,
        start(port, 0, 2, "leave") as first,
        start(port, 1, 2, "leave") as second,
        subprocess.Popen([sys.executable, "-c", KNOCKING, str(port)]) as stranger,
    ):
        go(first)
        assert stranger.wait(timeout=PATIENCE) == 0
        assert first.poll() is None
        go(second)
        for process in (first, second):
            assert process.communicate(timeout=PATIENCE)[0] == "[{'from': 0}, {'from': 1}] [[0], [1]]\n"


KNOCKING = """
import socket, sys, time

while True:
    try:
        link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        time.sleep(0.05)
    else:
        break
link.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')
try:
    assert link.recv(1) == b''
except ConnectionResetError:
    pass
"""


def test_one_alone_has_no_peers():
    """Catches: a name, a thread or a wait where there is nobody."""
    assert (Peers().gather("mine"), Peers().first, log_prefix()) == (["mine"], True, "")


@pytest.mark.parametrize("address", ["", "10.0.0.1", ":80", "host:", "host:port"])
def test_an_address_has_a_host_and_a_port(address):
    """Catches: an error from deep within."""
    with pytest.raises(ValueError, match="found the coordinator's address .*, expected HOST:PORT"):
        connect(address, 2, 1, 1.0, 1.0)
