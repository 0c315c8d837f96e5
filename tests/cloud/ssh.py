"""`ssh` and `scp` to the machines of a `Network`: the command runs in the machine's namespaces, nothing is sent.

    python ssh.py ssh|scp FOLDER ARGUMENTS...

As over a real connection, the command gets a login's environment and no more, lives on when this program is killed,
and holds it open as long as any process keeps its output open. No connection is exit code 255.
"""

import fcntl
import getopt
import json
import os
import pathlib
import shlex
import subprocess
import sys
import threading

OPTIONS = {
    "ssh": "46AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:p:Q:R:S:W:w:",
    "scp": "346ABCOpqRrTvc:D:F:i:J:l:o:P:S:X:",
}


def main(program: str, folder: str, *arguments: str) -> int:
    network = pathlib.Path(folder)
    _, places = getopt.getopt(list(arguments), OPTIONS[program])
    remote = next(place for place in places if "@" in place)
    user, address = remote.partition(":")[0].split("@")
    machine = network / address
    if program == "ssh":
        command = " ".join(places[2:] if places[1:2] == ["--"] else places[1:])
    else:
        sides = [shlex.quote(side(place, machine)) for place in places]
        command = f"cp -r {' '.join(sides)}"
    with open(network / "connections", "a") as log:
        log.write(json.dumps({"program": program, "address": address, "command": command}) + "\n")
    fault = next_fault(machine, command)
    if fault == "refuse" or not (machine / "pid").exists():
        print(f"ssh: connect to host {address} port 22: Connection timed out", file=sys.stderr)
        return 255
    if program == "ssh" or "@" in places[-1]:
        code = run(login(machine, user), command, machine)
    else:  # to this side, which a machine cannot write to
        code = run([], command, machine)
    if fault == "damage":
        target = machine / "home" / side(places[-1], machine)
        for source in places[:-1]:
            file = target / pathlib.Path(source).name if target.is_dir() else target
            os.truncate(file, file.stat().st_size - 1)
    if fault == "drop":
        print(f"Connection to {address} closed by remote host.", file=sys.stderr)
        return 255
    return code


def side(place: str, machine: pathlib.Path) -> str:
    """A place that scp names, as a path: what is remote lies in the machine's home unless it is absolute."""
    if "@" not in place:
        return os.path.abspath(place)
    return str(machine / "home" / (place.partition(":")[2].removeprefix("~/").removeprefix("~") or "."))


def next_fault(machine: pathlib.Path, command: str) -> str:
    """The first fault that is due for such a command; it is due no more."""
    if not (machine / "faults").exists():
        return ""
    with open(machine / "faults", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        faults = [json.loads(line) for line in file]
        due = next((fault for fault in faults if fault["match"] in command), None)
        if due:
            faults.remove(due)
            file.seek(0)
            file.truncate()
            file.writelines(json.dumps(fault) + "\n" for fault in faults)
    return due["kind"] if due else ""


def login(machine: pathlib.Path, user: str) -> list[str]:
    """What starts a program as a login on the machine does."""
    home = str(machine / "home")
    path = f"{machine.parent / 'machine_bin'}:/usr/local/bin:/usr/bin:/bin"
    env = dict(HOME=home, USER=user, LOGNAME=user, SHELL="/bin/bash", LANG="C.UTF-8", PATH=path, TMPDIR=f"{home}/tmp")
    env |= json.loads((machine / "env").read_text())
    enter = ["nsenter", f"--target={(machine / 'pid').read_text()}", "--pid", "--mount", "--uts", f"--wd={home}"]
    return [*enter, "env", "-i", *(f"{name}={value}" for name, value in env.items())]


def run(prefix: list[str], command: str, machine: pathlib.Path) -> int:
    """Exit code of the command, after all that it wrote has come through."""
    process = subprocess.Popen(
        [*prefix, "bash", "-c", command],
        cwd=machine / "home",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pairs = (process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer)
    copies = [threading.Thread(target=pass_on, args=pair) for pair in pairs]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    code = process.wait()
    return code if code >= 0 else 255


def pass_on(source, target) -> None:
    while chunk := source.read1():
        target.write(chunk)
        target.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
