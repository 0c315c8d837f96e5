"""TensorBoard's event files, written without TensorBoard: a few lines here, and seconds of imports less at each start.

A file is a sequence of TFRecords, each of which holds a protocol buffer `Event`. Written out are the fields that
scalars need (`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`).
"""

import pathlib
import socket
import struct
import time
from typing import Any

SESSION_STARTS = b"\x08\x01"  # a SessionLog whose status is START


class Events:
    """An event file in `folder`, for a run that starts, or goes on, after `step` steps.

    `append` writes at once, so that events survive a kill after it.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names. A run may start twice in one second.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.after-step-{step}"
        self.file = open(folder / name, "ab", buffering=0)
        # The session's start tells TensorBoard to drop the later steps that earlier files hold.
        version = event(time.time(), 0, text(3, b"brain.Event:2"))
        self.file.write(record(version) + record(event(time.time(), step and step + 1, text(7, SESSION_STARTS))))

    def append(self, scalars: list[tuple[int, dict[str, Any]]]) -> None:
        """Writes, for each step, values by tag."""
        now = time.time()
        self.file.write(b"".join(record(event(now, step, text(5, summary(values)))) for step, values in scalars))

    def close(self) -> None:
        self.file.close()


def event(wall_time: float, step: int, content: bytes) -> bytes:
    """An `Event` of this moment, in seconds since 1970."""
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step) + content


def summary(values: dict[str, Any]) -> bytes:
    """A `Summary` of a scalar for each tag."""
    return b"".join(
        text(1, text(1, tag.encode()) + b"\x15" + struct.pack("<f", float(value))) for tag, value in values.items()
    )


def text(field: int, content: bytes) -> bytes:
    """A field of bytes: a string, or a message within the message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their highest bit set.

    >>> varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def record(content: bytes) -> bytes:
    """A TFRecord: the length and the content, each with its checksum."""
    length = struct.pack("<Q", len(content))
    return length + masked_crc(length) + content + masked_crc(content)


def masked_crc(content: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]
