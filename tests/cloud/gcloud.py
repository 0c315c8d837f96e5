"""The real gcloud, started once: each call is a fork of a process that has imported it, and takes a tenth of the time.

    python gcloud.py serve SOCKET LIB    with gcloud's own Python and the `lib` folder of its installation
    python gcloud.py call SOCKET ARGUMENTS...

A call has the caller's arguments, environment, folder, input and output, and ends when its caller does.
"""

import json
import os
import select
import signal
import socket
import sys
import threading

WARM = [  # imports what the commands need; both ask for lists, and there is nothing yet
    ["compute", "tpus", "queued-resources", "list"],
    ["compute", "tpus", "tpu-vm", "list"],
]


def serve(path: str, lib: str) -> None:
    sys.path[:0] = [f"{lib}/third_party", lib]
    import googlecloudsdk.gcloud_main as gcloud

    def run(arguments: list[str]) -> int:
        sys.argv = ["gcloud", *arguments]
        try:
            gcloud.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    for words in WARM:
        run([*words, "--zone=us-central2-b"])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while listener in select.select([listener, sys.stdin], [], [])[0]:  # until the input's other end is closed
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                code = take(caller, run)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                caller.sendall(bytes([code]))
                os._exit(code)
        caller.close()


def take(caller: socket.socket, run) -> int:
    """One call, in its own process."""
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
