"""Connections between the processes of a run: who is there, which values they have, whether one has died.

Every process keeps one TCP connection to process 0, opened before JAX connects. JAX itself aborts a process whose
peers do not come, and if a peer dies, the others wait in a collective operation. So here the processes are counted,
errors are sent to all, and a closed connection shows at once that a process is gone.

A message is one line of JSON: [kind, content]. Process 0 listens on the coordinator's port until all processes have
connected; afterwards JAX's coordination service listens there.
"""

import contextlib
import json
import os
import queue
import socket
import threading
import time
from typing import Any

from lfr_jax.terminal import show

HEARTBEATS = 5  # sent per heartbeat_timeout
GRACE = 1.0  # seconds to wait, after an error, for the message of another process that explains it
FAREWELL = 5.0  # seconds that process 0, on which the others depend, waits for them to end

Sockets = dict[int, socket.socket]  # by process number


class Peers:
    """The connections of process `process` of `count`. One process alone has none.

    If another process ends, or sends nothing for `heartbeat_timeout` seconds, this one prints which, and exits with
    code 1. It does not raise: an exception would not interrupt a collective operation.

    >>> Peers().gather({"step": 3})
    [{'step': 3}]
    """

    current: "Peers | None" = None  # of this process, between `connect` and `disconnect`

    def __init__(
        self, process: int = 0, count: int = 1, sockets: Sockets | None = None, heartbeat_timeout: float = 100.0
    ):
        self.process, self.count = process, count
        self.sockets, self.heartbeat_timeout = sockets or {}, heartbeat_timeout
        self.inboxes: dict[int, queue.Queue] = {peer: queue.Queue() for peer in self.sockets}
        self.open = set(self.sockets)
        self.exiting, self.sending = threading.Lock(), threading.Lock()
        for peer, sock in self.sockets.items():
            sock.settimeout(heartbeat_timeout)
            threading.Thread(target=self._listen, args=(peer, sock), daemon=True).start()
        if self.sockets:
            threading.Thread(target=self._send_heartbeats, daemon=True).start()

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes and prints for all."""
        return self.process == 0

    def name(self, process: int | None = None) -> str:
        return f"process {self.process if process is None else process} of {self.count}"

    def gather(self, value: Any = None) -> list[Any]:
        """The values (must be JSON) of all processes, in their order. Waits until every process has called it."""
        if not self.first:
            self._send(0, "value", value)
            return self.inboxes[0].get()
        values = [value, *(self.inboxes[peer].get() for peer in sorted(self.sockets))]
        self._send_all("value", values)
        return values

    def abort(self, reason: str) -> None:
        """Tells the other processes that this one ends with the error `reason`. They end too."""
        time.sleep(GRACE)  # if another process caused the error, `_listen` ends this one here, and says so
        self.exiting.acquire()
        self._send_all("stopped", f"{self.name()} stopped: {reason}")
        self._wait_for_others()

    def disconnect(self) -> None:
        """Tells the other processes that this one has finished without an error."""
        Peers.current = None
        self.exiting.acquire()
        self._send_all("bye", None)

    def _listen(self, peer: int, sock: socket.socket) -> None:
        try:
            with sock.makefile() as lines:
                for line in lines:
                    kind, content = json.loads(line)
                    if kind == "value":
                        self.inboxes[peer].put(content)
                    elif kind == "stopped":
                        # In a thread, since this one must see when the peer is gone: `_exit` waits for that.
                        threading.Thread(target=self._exit, args=(content,)).start()
                    elif kind == "bye":
                        return
            found = "is gone: it was killed, or its machine was lost"
        except TimeoutError:
            found = f"has given no sign of life for {self.heartbeat_timeout:g} s"
        except OSError as error:
            found = f"is out of reach ({error})"
        finally:
            self.open.discard(peer)
        self._exit(f"{self.name(peer)} {found}")

    def _exit(self, reason: str) -> None:
        if not self.exiting.acquire(blocking=False):
            return  # this process ends for another reason already
        self._send_all("stopped", reason)
        show(f"\nlfr: {self.name()}: {reason}. This process ends too; the same command goes on from the last save")
        self._wait_for_others()
        os._exit(1)

    def _wait_for_others(self) -> None:
        """Process 0 ends last: with it ends JAX's coordination service, and then JAX aborts the other processes."""
        until = time.monotonic() + FAREWELL
        while self.first and self.open and time.monotonic() < until:
            time.sleep(0.02)

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(self.heartbeat_timeout / HEARTBEATS)
            self._send_all("beat", None)

    def _send_all(self, kind: str, content: Any) -> None:
        for peer in self.sockets:
            self._send(peer, kind, content)

    def _send(self, peer: int, kind: str, content: Any) -> None:
        with self.sending, contextlib.suppress(OSError):  # `_listen` notices that the peer is gone
            self.sockets[peer].sendall(encode(kind, content))


def connect(address: str, count: int, process: int, timeout: float, heartbeat_timeout: float) -> Peers:
    """Waits until all `count` processes have connected to process 0 at `address` (HOST:PORT). Times are in seconds.

    Raises:
      TimeoutError: not all processes connected within `timeout`.
      ConnectionRefusedError: process 0 refused the connection; the message is that of process 0.
      ValueError: two processes have the same number, they disagree on `count`, or `address` is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"found the coordinator's address {address!r}, expected HOST:PORT, such as 10.0.0.1:8476")
    until = time.monotonic() + timeout
    if process == 0:
        sockets = accept_all(int(port), count, until, timeout)
    else:
        sockets = {0: connect_to_first(host.strip("[]"), int(port), count, process, until, timeout)}
    Peers.current = Peers(process, count, sockets, heartbeat_timeout)
    return Peers.current


def log_prefix() -> str:
    """Names this process at the start of a message: `process 1 of 2: `. Empty if there is only one."""
    return f"{Peers.current.name()}: " if Peers.current else ""


def accept_all(port: int, count: int, until: float, timeout: float) -> Sockets:
    """On process 0: the connections of processes 1 to count − 1."""
    sockets: Sockets = {}
    try:
        with listen(port) as server:
            while len(sockets) < count - 1:
                server.settimeout(max(until - time.monotonic(), 1e-3))
                sock, _ = server.accept()
                try:
                    peer, expected = map(int, receive(sock, "hello", timeout=2.0))
                except (OSError, TypeError, ValueError):  # not one of ours, for example a port scanner
                    sock.close()
                else:
                    register(sockets, sock, peer, expected, count)
    except TimeoutError:
        missing = ", ".join(str(peer) for peer in range(1, count) if peer not in sockets)
        refuse_all(
            sockets,
            TimeoutError(
                f"found {len(sockets) + 1} of {count} processes within {timeout:g} s (missing: {missing}). Start the "
                "same command on every host; --distributed.start-timeout gives them more time, and "
                "--distributed.num-processes 1 trains in this process alone"
            ),
        )
    for sock in sockets.values():
        sock.sendall(encode("go", None))
    return sockets


def register(sockets: Sockets, sock: socket.socket, peer: int, expected: int, count: int) -> None:
    """Adds the connection of a process that says it is `peer` of `expected`; refuses all if that cannot be right."""
    if expected != count or not 0 < peer < count:
        error = f"{host_of(sock)} came as process {peer} of {expected}, expected one of 1 to {count - 1} of {count}"
    elif peer in sockets:
        error = f"two processes came as process {peer} of {count}: from {host_of(sockets[peer])} and {host_of(sock)}"
    else:
        sockets[peer] = sock
        return
    refuse_all(
        sockets | {-1: sock},
        ValueError(f"{error}; give each its own --distributed.process-id, and all the same number of processes"),
    )


def host_of(sock: socket.socket) -> str:
    return sock.getpeername()[0].removeprefix("::ffff:")  # the prefix of an IPv4 address written as IPv6


def refuse_all(sockets: Sockets, error: Exception) -> None:
    for sock in sockets.values():
        with contextlib.suppress(OSError):
            sock.sendall(encode("refused", str(error)))
    raise error


def connect_to_first(host: str, port: int, count: int, process: int, until: float, timeout: float) -> socket.socket:
    """On the other processes: the connection to process 0, once all processes have connected to it."""
    failure: object = "no answer"
    while time.monotonic() < until:
        try:
            sock = socket.create_connection((host, port), timeout=max(until - time.monotonic(), 1e-3))
            sock.sendall(encode("hello", (process, count)))
            # Process 0 may have started just now, and then waits `timeout` seconds itself.
            refusal = receive(sock, "go", "refused", timeout=timeout + FAREWELL)
        except (OSError, ValueError) as error:  # process 0 is not there yet, or something else listens there
            failure = error
            time.sleep(0.2)
            continue
        if refusal is not None:
            raise ConnectionRefusedError(refusal)
        return sock
    raise TimeoutError(
        f"process {process} of {count} found nobody at {host}:{port} within {timeout:g} s ({failure}). Start the same "
        "command on every host, and check this address of process 0 and the firewall"
    )


def listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def encode(kind: str, content: Any) -> bytes:
    return json.dumps([kind, content]).encode() + b"\n"


def receive(sock: socket.socket, *kinds: str, timeout: float) -> Any:
    """The content of the next message, which must be of one of `kinds`. Reads no byte of the message after it."""
    sock.settimeout(timeout)
    line = b""
    while not line.endswith(b"\n") and len(line) < 10_000:
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError("the connection was closed")
        line += byte
    kind, content = json.loads(line)
    if kind not in kinds:
        raise ValueError(f"found a message {kind!r}, expected {' or '.join(kinds)}")
    return content
