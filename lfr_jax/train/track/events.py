"""TensorBoard's event files."""

import pathlib
import time
from typing import Any


class Events:
    """The event file in `folder` of a run that starts, or goes on, after `step` steps. The first event opens it.

    tensorboardX's own SummaryWriter hands events to a thread, and its flush does not wait for that thread. This class
    writes at once, so that events survive a kill after `append`.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        self.folder, self.step = folder, step
        self.writer = None

    def append(self, scalars: list[tuple[int, dict[str, Any]]]) -> None:
        """Writes, for each step, values by tag."""
        # tensorboardX imports torch wherever that is installed: seconds, which the first step must not wait for.
        from tensorboardX.proto import event_pb2, summary_pb2

        if self.writer is None:
            self.writer = self._opened()
            # This tells TensorBoard to drop the later steps that earlier files hold.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = self.step + 1 if self.step else 0
            self.writer.write_event(event_pb2.Event(step=first, wall_time=time.time(), session_log=start))
        for step, values in scalars:
            pairs = [summary_pb2.Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
            summary = summary_pb2.Summary(value=pairs)
            self.writer.write_event(event_pb2.Event(step=step, wall_time=time.time(), summary=summary))
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _opened(self):
        from tensorboardX import event_file_writer

        self.folder.mkdir(parents=True, exist_ok=True)
        # The step is part of the name: a run may start twice in one second.
        return event_file_writer.EventsWriter(str(self.folder / "events"), f".after-step-{self.step}")
