"""Stands in for the trainer: python trainer.py STEPS. Small enough to know what it does.

The first worker counts steps as folders of $RUN_DIR/checkpoints, up to what $RUN_DIR/limit says if it is there; all
exit with 0 when STEPS is reached, and with 75 on SIGTERM. A file $RUN_DIR/orders/HOST has a code with which that host
exits, once, or `hang`. Every start is a line of $RUN_DIR/starts.
"""

import os
import pathlib
import signal
import socket
import sys
import time

run, host, steps = pathlib.Path(os.environ["RUN_DIR"]), socket.gethostname(), int(sys.argv[1])
limit, order, checkpoints = run / "limit", run / "orders" / host, run / "checkpoints"
terminated = []
signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
checkpoints.mkdir(parents=True, exist_ok=True)
with open(run / "starts", "a") as file:
    file.write(f"{host}\n")
while (step := max((int(folder.name) for folder in checkpoints.iterdir()), default=0)) < steps:
    time.sleep(0.05)
    print(f"step {step}", flush=True)
    if terminated:
        sys.exit(75)
    if order.exists():
        what = order.read_text()
        order.unlink()
        while what == "hang":
            time.sleep(100)
        sys.exit(int(what))
    most = int(limit.read_text() or 0) if limit.exists() else steps
    if host.endswith("-w-0") and not host.endswith("-1-w-0") and step < most:
        (checkpoints / str(step + 1)).mkdir()
