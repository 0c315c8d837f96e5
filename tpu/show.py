"""Text for the user: tables, costs, log lines."""

import time

import fleet
from fleet import Fleet, Worker
from settings import Settings


def describe(found: Fleet) -> str:
    nodes = ", ".join(f"{node.name} {node.state or 'absent'}" for node in found.nodes)
    return f"queued resource {found.state or 'absent'}, {nodes}"


def table(found: Fleet, workers: list[Worker]) -> str:
    """One line per worker, or per node if it has no workers."""
    rows = [("node", "state", "health", "worker", "run", "trainer", "pid", "last line")]
    for number, node in enumerate(found.nodes):
        head = node.name, node.state or "absent", node.health or "-"
        if node.state != "READY":
            rows.append((*head, "", "", "", "", ""))
            continue
        for worker in workers:
            if worker.slice == number:
                ended = f"exited {worker.code}" if worker.state == "exited" else worker.state
                rows.append((*head, str(worker.index), worker.run, ended, worker.pid, worker.line[:60]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows)


def cost(asked: Settings, found: Fleet) -> str:
    """The chip-hours used so far, and those that a forgotten TPU uses per day."""
    used = fleet.chip_hours(found, asked.accelerator_type, time.time())
    day = 24 * fleet.chips(asked.accelerator_type) * asked.slices
    dollars = asked.dollars_per_chip_hour
    price = f" (${used * dollars:.2f}; ${day * dollars:.2f} at ${dollars} per chip-hour)" if dollars else ""
    return f"used {used:.2f} chip-hours since its nodes were created; forgotten, it uses {day} a day{price}"


def whole_lines(text: str, follow: bool) -> tuple[list[str], int]:
    """(complete lines, as a terminal shows them; bytes of the incomplete last line, to be read again).

    >>> whole_lines("1 %\\r2 %\\nstep 1\\nst", follow=True)
    (['2 %', 'step 1'], 2)
    """
    whole, _, begun = text.rpartition("\n")
    if not follow:
        whole, begun = text.removesuffix("\n"), ""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n")] if whole else []
    return lines, len(begun.encode())
