"""The real gcloud, started once: each call is a fork of a process that has imported it, and takes a tenth of the time.

    python gcloud.py serve SOCKET LIB    with gcloud's own Python and the `lib` folder of its installation
    python gcloud.py call SOCKET ARGUMENTS...

A call has the caller's arguments, environment, folder, input and output, and ends when its caller does. What it had to
import is imported by the first process too, so that the next call need not.
"""

import json
import os
import socket
import sys

WARM = ["compute", "tpus", "tpu-vm", "list", "--zone=us-central2-b"]  # imports most of what any command needs
MADE_UP = "__calliope__"  # how names of commands begin, which are read anew by each call


def serve(path: str, lib: str) -> None:
    import gc  # here, as calls have no use for these, and should take no time
    import select
    import signal

    sys.path[:0] = [f"{lib}/third_party", lib]
    import googlecloudsdk.gcloud_main as gcloud

    def run(arguments: list[str]) -> int:
        sys.argv = ["gcloud", *arguments]
        try:
            gcloud.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    run(WARM)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in (ready := select.select([listener, parent, sys.stdin], [], [])[0]):  # until it is closed
        if parent in ready:
            learn(json.loads(parent.recv(2**20)))
        if listener not in ready:
            continue
        caller, _ = listener.accept()
        gc.freeze()  # or each process would copy all memory as it looks for garbage
        if os.fork() == 0:
            listener.close()
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            known, code = set(sys.modules), 1
            try:
                code = take(caller, run)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                caller.sendall(bytes([code]))
                if new := [name for name in sys.modules if name not in known and not name.startswith(MADE_UP)]:
                    child.send(json.dumps(new).encode())
                os._exit(code)
        caller.close()


def learn(modules: list[str]) -> None:
    """Imports what a call has imported."""
    import contextlib
    import importlib

    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def take(caller: socket.socket, run) -> int:
    """One call, in its own process."""
    import signal
    import threading

    message, files, _, _ = socket.recv_fds(caller, 2**20, 3)
    asked = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["folder"])
    threading.Thread(target=lambda: caller.recv(1) or os.killpg(0, signal.SIGKILL), daemon=True).start()
    return run(asked["arguments"])


def call(path: str, *arguments: str) -> int:
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    asked = dict(arguments=arguments, env=dict(os.environ), folder=os.getcwd())
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    return (server.recv(1) or b"\xff")[0]


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    sys.exit({"serve": serve, "call": call}[what](*rest))
