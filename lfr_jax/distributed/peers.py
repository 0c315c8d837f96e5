"""The processes that train together: that all of them are there, what each holds, and that none has stopped.

Every process keeps one TCP connection to process 0, made before anything of JAX's begins. For JAX aborts
a process whose peers do not come, and one whose peer has died waits in a collective operation. So who is there is
counted here, errors travel here, and a connection that closes tells at once that a process is gone.

Messages are JSON, [kind, content] on a line. Process 0 listens on the coordinator's port until all have come,
and JAX's coordination service does so afterwards.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from typing import Any

BEATS = 5  # signs of life in the time after which silence counts as death
GRACE = 1.0  # seconds in which another's end may explain an error
FAREWELL = 5.0  # seconds that process 0, on which all depend, waits for the others to end


class Peers:
    """What process `process` of `count` knows of the others.

    If one of them ends, or is silent for `silence` seconds, this process prints which, and ends with exit code 1,
    wherever it is: in a collective operation no exception would reach it.
    """

    current: "Peers | None" = None  # whom this process has joined; it does so once

    def __init__(self, process: int = 0, count: int = 1, links: dict[int, socket.socket] | None = None, silence=100.0):
        self.process, self.count, self.links, self.silence = process, count, links or {}, silence
        self.received: dict[int, queue.Queue] = {peer: queue.Queue() for peer in self.links}
        self.open = set(self.links)
        self.ending, self.sending = threading.Lock(), threading.Lock()
        for peer, link in self.links.items():
            link.settimeout(silence)
            threading.Thread(target=self._listen, args=(peer, link), daemon=True).start()
        if self.links:
            threading.Thread(target=self._beat, daemon=True).start()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints for all."""
        return self.process == 0

    def name(self, process: int | None = None) -> str:
        return f"process {self.process if process is None else process} of {self.count}"

    def gather(self, value: Any = None) -> list[Any]:
        """The values (what JSON can hold) that all processes gave, in their order. Waits for the last of them."""
        if not self.first:
            self._send(0, "value", value)
            return self.received[0].get()
        values = [value, *(self.received[peer].get() for peer in sorted(self.links))]
        self._send_all("value", values)
        return values

    def stop(self, reason: str) -> None:
        """Tells the others that this process ends by an error of its own, `reason`; they end too."""
        time.sleep(GRACE)  # in which, if another's end is behind it, `_listen` ends this process and says so
        self.ending.acquire()
        self._send_all("stopped", f"{self.name()} stopped: {reason}")
        self._wait_for_others()

    def leave(self) -> None:
        """Parts in peace."""
        Peers.current = None
        self.ending.acquire()
        self._send_all("bye", None)

    def _listen(self, peer: int, link: socket.socket) -> None:
        try:
            with link.makefile() as lines:
                for line in lines:
                    kind, content = json.loads(line)
                    if kind == "value":
                        self.received[peer].put(content)
                    elif kind == "stopped":
                        threading.Thread(target=self._end, args=(content,)).start()  # and listen on: until it is gone
                    elif kind == "bye":
                        return
            found = "is gone: it was killed, or its machine was lost"
        except TimeoutError:
            found = f"has given no sign of life for {self.silence:g} s"
        except OSError as error:
            found = f"is out of reach ({error})"
        finally:
            self.open.discard(peer)
        self._end(f"{self.name(peer)} {found}")

    def _end(self, reason: str) -> None:
        if not self.ending.acquire(blocking=False):
            return  # this process ends for another reason already
        self._send_all("stopped", reason)
        print(
            f"\nlfr: {self.name()}: {reason}. This process ends too; the same command goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        self._wait_for_others()
        os._exit(1)

    def _wait_for_others(self) -> None:
        """Process 0 goes last: JAX aborts the others, in mid-sentence, when its coordination service is gone."""
        until = time.monotonic() + FAREWELL
        while self.first and self.open and time.monotonic() < until:
            time.sleep(0.02)

    def _beat(self) -> None:
        while True:
            time.sleep(self.silence / BEATS)
            self._send_all("beat", None)

    def _send_all(self, kind: str, content: Any) -> None:
        for peer in self.links:
            self._send(peer, kind, content)

    def _send(self, peer: int, kind: str, content: Any) -> None:
        with self.sending, contextlib.suppress(OSError):  # one that is gone is noticed by `_listen`
            self.links[peer].sendall(message(kind, content))


def meet(address: str, count: int, process: int, timeout: float, silence: float) -> Peers:
    """Waits until all `count` processes have come to process 0, which is at `address`, HOST:PORT.

    Raises:
      TimeoutError: they have not, `timeout` seconds after this one came.
      ConnectionRefusedError: with what process 0 says of that.
      ValueError: two processes have one number, they disagree on `count`, or the address is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"found the coordinator's address {address!r}, expected HOST:PORT, such as 10.0.0.1:8476")
    until = time.monotonic() + timeout
    if process == 0:
        links = await_all(int(port), count, until, timeout)
    else:
        links = {0: introduce(host.strip("[]"), int(port), count, process, until, timeout)}
    Peers.current = Peers(process, count, links, silence)
    return Peers.current


def who() -> str:
    """This process in a message: `process 1 of 2: `, and nothing for one alone."""
    return f"{Peers.current.name()}: " if Peers.current else ""


def await_all(port: int, count: int, until: float, timeout: float) -> dict[int, socket.socket]:
    """The connections of processes 1 to count − 1."""
    links: dict[int, socket.socket] = {}
    try:
        with listener(port) as server:
            while len(links) < count - 1:
                server.settimeout(max(until - time.monotonic(), 1e-3))
                link, _ = server.accept()
                try:
                    peer, expected = map(int, heard(link, "hello", timeout=2.0))
                except (OSError, TypeError, ValueError):  # something else knocked at this port
                    link.close()
                else:
                    greet(links, link, peer, expected, count)
    except TimeoutError:
        missing = ", ".join(str(peer) for peer in range(1, count) if peer not in links)
        refuse(
            links,
            TimeoutError(
                f"found {len(links) + 1} of {count} processes within {timeout:g} s (missing: {missing}). Start the "
                "same command on every host; --distributed.start-timeout gives them longer to come, and "
                "--distributed.num-processes 1 trains on this one alone"
            ),
        )
    for link in links.values():
        link.sendall(message("go", None))
    return links


def greet(links: dict[int, socket.socket], link: socket.socket, peer: int, expected: int, count: int) -> None:
    """Takes in a process that has said which of how many it is."""
    if expected != count or not 0 < peer < count:
        error = f"{host(link)} came as process {peer} of {expected}, expected one of 1 to {count - 1} of {count}"
    elif peer in links:
        error = f"two processes came as process {peer} of {count}: from {host(links[peer])} and {host(link)}"
    else:
        links[peer] = link
        return
    refuse(links | {-1: link}, ValueError(f"{error}; give each its own --distributed.process-id, and all one number"))


def host(link: socket.socket) -> str:
    return link.getpeername()[0].removeprefix("::ffff:")  # an IPv4 address as IPv6 writes it


def refuse(links: dict[int, socket.socket], error: Exception) -> None:
    for link in links.values():
        with contextlib.suppress(OSError):
            link.sendall(message("refused", str(error)))
    raise error


def introduce(host: str, port: int, count: int, process: int, until: float, timeout: float) -> socket.socket:
    """The connection to process 0, once it has found everybody."""
    failure: object = "no answer"
    while time.monotonic() < until:
        try:
            link = socket.create_connection((host, port), timeout=max(until - time.monotonic(), 1e-3))
            link.sendall(message("hello", (process, count)))
            # Process 0 may have come just now, and then waits for as long.
            refusal = heard(link, "go", "refused", timeout=timeout + FAREWELL)
        except (OSError, ValueError) as error:  # not there yet, or what listens there is not process 0
            failure = error
            time.sleep(0.2)
            continue
        if refusal is not None:
            raise ConnectionRefusedError(refusal)
        return link
    raise TimeoutError(
        f"process {process} of {count} found nobody at {host}:{port} within {timeout:g} s ({failure}). Start the same "
        "command on every host, and check this address of process 0 and the firewall"
    )


def listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def message(kind: str, content: Any) -> bytes:
    return json.dumps([kind, content]).encode() + b"\n"


def heard(link: socket.socket, *kinds: str, timeout: float) -> Any:
    """The content of the next message, which must be of one of these kinds, byte by byte: none of the next one's."""
    link.settimeout(timeout)
    line = b""
    while not line.endswith(b"\n") and len(line) < 10_000:
        byte = link.recv(1)
        if not byte:
            raise ConnectionError("the connection was closed")
        line += byte
    kind, content = json.loads(line)
    if kind not in kinds:
        raise ValueError(f"found a message {kind!r}, expected {' or '.join(kinds)}")
    return content
