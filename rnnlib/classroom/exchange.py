"""Messages between the two processes: a length, then an .npz of plain arrays, bounded and never pickled.

This file is also read inside the sandbox, so it imports NumPy alone.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

LENGTH_BYTES = 8
MAX_MESSAGE = 8 * 2**20
MAX_ARRAYS = 4096
KINDS = "biufcU"  # bool, integers, floats, complex, text: nothing that could hold an object


class BadMessage(Exception):
    """What came is not a bounded .npz of plain arrays."""


def pack(arrays: Mapping[str, Any]) -> bytes:
    """One message: its length in eight bytes, then the arrays as an uncompressed .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return len(buffer.getvalue()).to_bytes(LENGTH_BYTES, "big") + buffer.getvalue()


def unpack(body: bytes) -> dict[str, np.ndarray]:
    """The arrays of a message's body, however hostile its author.

    Raises:
        BadMessage: it is no .npz, is compressed (a bomb), or holds something other than plain arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS or sum(m.file_size for m in members) > len(body):
                raise BadMessage("the archive claims more than it holds")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise BadMessage("the archive is compressed")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m)) for m in members}
    except BadMessage:
        raise
    except Exception as error:  # zipfile and NumPy's header parser raise many kinds for hostile bytes
        raise BadMessage(f"no plain .npz ({type(error).__name__})") from error


def _array(data: bytes) -> np.ndarray:
    """An array from .npy bytes. The header is believed only if the bytes that follow bear it out."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise BadMessage("another version of the array format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = data[stream.tell() :]
    if dtype.kind not in KINDS or any(n < 0 for n in shape):
        raise BadMessage("not an array of plain numbers or text")
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise BadMessage("the header claims another size than the data has")
    if not rest:
        return np.empty(shape, dtype)
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")
