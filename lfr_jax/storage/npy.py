"""Arrays in NumPy's formats, read from bytes that anybody may have edited: nothing is allocated that is not there.

`np.load` believes the header: a few changed bytes make it allocate terabytes, or raise any of a dozen errors.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Container

import numpy as np

# What `np.save` writes for numbers: the version, the length of the header, and a dict.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype>[<|][iuf][1248])', 'fortran_order': False, "
    rb"'shape': (?P<shape>\([\d, ]{0,99}\)), \} *\n",
    re.DOTALL,
)


def parse_npy(raw: bytes, where: object, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array of a `.npy` file, read-only, without a copy.

    Args:
      raw: the bytes of the file.
      where: the file, for errors.
      dtype: what it must be, such as "<i8".
      shape: what it must be; None: any size.

    Raises:
      ValueError: no such array is there. The message names the file, what was found and what was expected.
    """
    expected = f"expected an array of type {dtype} and shape ({', '.join(str(n or 'any') for n in shape)})"
    header = HEADER.match(raw)
    if header is None or header.end() != 10 + int.from_bytes(header["length"], "little"):
        raise ValueError(f"{where}: found {raw[:6]!r}... in {len(raw)} bytes, {expected}, as np.save writes it")
    found, text = header["dtype"].decode(), header["shape"].decode()
    sizes = tuple(map(int, re.findall(r"\d+", text)))
    fits = text == repr(sizes) and len(sizes) == len(shape) and all(n in (None, m) for n, m in zip(shape, sizes))
    if found != dtype or not fits:
        raise ValueError(f"{where}: found an array of type {found} and shape {text}, {expected}")
    if len(raw) != header.end() + math.prod(sizes) * np.dtype(dtype).itemsize:
        raise ValueError(f"{where}: found {len(raw)} bytes, which are not those of an array of shape {text}")
    return np.frombuffer(raw, dtype, offset=header.end()).reshape(sizes)


def npz_members(raw: bytes, where: object, known: Container[str]) -> dict[str, bytes]:
    """The `.npy` files in a `.npz` file that `np.savez` wrote, by the names of the arrays.

    Args:
      raw: the bytes of the file.
      where: the file, for errors.
      known: the names that there may be.

    Raises:
      ValueError: another name is there, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            found = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            if unknown := [name for name in found if name not in known]:
                raise ValueError(f"found an array {unknown[0]!r} in it, expected others")
            if packed := [name for name, info in found.items() if info.compress_type != zipfile.ZIP_STORED]:
                raise ValueError(f"found {packed[0]!r} compressed, expected what np.savez writes")
            return {name: file.read(info) for name, info in found.items()}
    except (ValueError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, struct.error, zlib.error) as error:
        raise ValueError(f"{where}: found no sound .npz file ({str(error)[:100]}); restore it") from None
