"""Machines that are namespaces of this one: own processes, own devices, own home, and a network that leads nowhere.

All machines of a `Network` share one user and network namespace. Only loopback is up in it, and each machine has an
address of 127.0.0.0/8. A machine has process and mount namespaces of its own: it sees no processes but its own, has
as many TPU chips as it is told (the PCI entries that JAX counts, and `/dev/accel*`), and finds everything outside its
folder read-only. When its first process ends, the kernel kills all others at once, as when a VM is preempted.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

from running import PATIENCE

# Brings loopback up (SIOCSIFFLAGS; IFF_UP | IFF_LOOPBACK | IFF_RUNNING), hands out a listening socket, and stays.
HOLDER = """
import array, fcntl, socket, struct
outside = socket.socket(fileno=0)
listener = socket.socket()
fcntl.ioctl(listener, 0x8914, struct.pack("16sh14x", b"lo", 0x49))
listener.bind(("0.0.0.0", 0))
listener.listen(64)
outside.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
outside.recv(1)
"""
# Arguments: the machine's folder, one that all share, host name, number of chips, their PCI device id, a Python. What
# it becomes is the machine's first process: it collects orphans, and ends with the other end of its input.
BOOT = """
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$2"
cd "$1"
mkdir -p devices/shm home/tmp
for name in null zero full random urandom tty; do
    touch devices/$name
    mount --bind /dev/$name devices/$name
done
ln -sfn /proc/self/fd devices/fd
mount -t tmpfs tmpfs /sys
mkdir -p /sys/kernel/mm/transparent_hugepage
echo 'always [madvise] never' > /sys/kernel/mm/transparent_hugepage/enabled
for chip in $(seq 0 $(($4 - 1))); do
    pci=/sys/bus/pci/devices/0000:00:0$chip.0
    mkdir -p $pci
    echo 0x1ae0 > $pci/vendor
    echo $5 > $pci/device
    echo 0x088000 > $pci/class
    touch devices/accel$chip
done
echo "$3" > /proc/sys/kernel/hostname
echo "127.0.0.1 localhost
${1##*/} $3" > hosts
mount --bind hosts /etc/hosts
mount --rbind devices /dev
mount -t tmpfs tmpfs /dev/shm
mount -o remount,bind,ro /
exec "$6" -SEc 'import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(flush=True)
os.read(0, 1)'
"""


def missing() -> str:
    """Why there can be no such machines here, or nothing."""
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        return "no unshare and nsenter (util-linux), of which machines are made"
    tried = subprocess.run(["unshare", "-r", "-n", "unshare", "-pfm", "--mount-proc", "true"], capture_output=True)
    return f"no namespaces for machines: {tried.stderr.decode().strip()}" if tried.returncode else ""


class Network:
    """The namespace that machines share, a listening socket in it, and programs `ssh` and `scp` that reach them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.machines: dict[str, Machine] = {}  # by address
        self.held: list[int] = []  # open files that keep numbers of namespaces from being given away
        self.programs = folder / "bin"
        self.programs.mkdir(parents=True)
        for name in ("ssh", "scp"):
            stub = pathlib.Path(__file__).with_name("ssh.py")
            self.program(name, shlex.join([sys.executable, "-SE", str(stub), name, str(folder)]) + ' "$@"')
        self.shared = folder / "shared"  # as if all machines mounted it
        self.shared.mkdir()
        self.end, theirs = socket.socketpair()
        with theirs:
            self.holder = subprocess.Popen(["unshare", "-r", "-n", sys.executable, "-SEc", HOLDER], stdin=theirs)
        self.listener = socket.socket(fileno=socket.recv_fds(self.end, 1, 1)[1][0])
        self.port = self.listener.getsockname()[1]

    def program(self, name: str, line: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (self.programs / name).chmod(0o755)

    def inside(self, *command: str) -> list[str]:
        """The command, to be run within the namespace."""
        return ["nsenter", f"--target={self.holder.pid}", "--user", "--net", "--preserve-credentials", *command]

    def connections(self) -> list[dict]:
        """Every use of ssh and scp so far: program, address, command."""
        log = self.folder / "connections"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def close(self) -> None:
        for machine in self.machines.values():
            machine.kill()
        for file in self.held:
            os.close(file)
        self.listener.close()
        self.end.close()
        self.holder.wait()


class Machine:
    """One VM. Its home outlives it: it can be read when it is gone, and is there for the next one of its address."""

    def __init__(self, network: Network, address: str, hostname: str, chips: int, device: str, env: dict[str, str]):
        self.address, self.folder = address, network.folder / address
        self.home = self.folder / "home"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "env").write_text(json.dumps(env))
        namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts"]
        boot = ["sh", "-c", BOOT, "boot", str(self.folder), str(network.shared), hostname, str(chips), device]
        boot.append(sys.executable)
        command = network.inside(*namespaces, *boot)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if not self.process.stdout.readline():
            raise OSError(f"machine {address} did not start; its boot script says why above")
        first = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.namespace = os.readlink(f"/proc/{int(first)}/ns/pid")
        network.held.append(os.open(f"/proc/{int(first)}/ns/pid", os.O_RDONLY))
        self.first = int(first)
        (self.folder / "pid").write_text(str(self.first))
        network.machines[address] = self

    def processes(self) -> dict[int, str]:
        """Process ids, as seen from here, and command lines: all but the first one's."""
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns" / "pid") == self.namespace and int(folder.name) != self.first:
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue  # it ended meanwhile, or is not ours to look at
        return {pid: line for pid, line in found.items() if line}  # a line that is empty is a process that has ended

    def terminate(self) -> None:
        """SIGTERM to all processes: how a VM that is about to be preempted says so."""
        for pid in self.processes():
            os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        (self.folder / "pid").unlink(missing_ok=True)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def fault(self, kind: str, match: str = "", times: int = 1) -> None:
        """What befalls the next connections to this machine whose command line has `match` in it.

        `refuse`: no connection, 255. `drop`: the command runs, then the connection is lost, 255. `damage`: scp
        reports success, but the files have lost their last byte.
        """
        with open(self.folder / "faults", "a") as file:
            file.writelines(json.dumps({"kind": kind, "match": match}) + "\n" for _ in range(times))


def wait_for(condition, seconds: float = PATIENCE):
    """What `condition()` returns as soon as it is true; TimeoutError if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing after {seconds} s of waiting")
        time.sleep(0.02)
    return found
