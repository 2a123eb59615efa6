"""The loops over time as machine code, for one CPU: ``kernels.c``, compiled when first needed.

The functions are those of :mod:`rnnlib.engine.plain`, and return the same, in float32 and float64; the
weights come as :func:`prepared` made them. Any C compiler that knows the vectors of GCC and Clang will do; what it made is kept in the user's cache
folder, under a name that stands for the source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.resources
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rnnlib.backend import Array, backend_of, is_torch
from rnnlib.engine.steps import Steps

# No -ffast-math: NaN and infinity mean what they mean. The two flags concern errno and traps only.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
REALS = {"float32": ("float", 0), "float64": ("double", 1)}
_PARALLEL = 2**21  # multiplications that are worth a second thread, a fraction of a millisecond


class _Steps(ctypes.Structure):
    _fields_ = [
        ("T", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("reverse", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
    ]


# --- from the source to the library -----------------------------------------------------------


def compiler() -> list[str] | None:
    """The command of the C compiler: ``$CC``, or the first of cc, gcc and clang; None where none is."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if (path := shutil.which(name)) is not None:
            return [path]
    return None


def _processor() -> str:
    """What names the processor's instructions: the same text, the same machine code."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        kinds = ("model name", "flags", "Features")
        return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where compiled libraries are kept: ``$XDG_CACHE_HOME/rnnlib``, or its counterpart of the system."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "rnnlib"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rnnlib"
    return Path.home() / ".cache" / "rnnlib"


def build(dtype: str, folder: Path | None = None) -> Path:
    """Compile the loops, unless that was done before.

    Args:
        dtype: ``"float32"`` or ``"float64"``.
        folder: where the library goes; :func:`cache_folder` if None.

    Returns:
        The path of the shared library.

    Raises:
        RuntimeError: there is no compiler, or it failed; with what it said.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler: install one (cc, gcc or clang), or name it in CC")
    source = importlib.resources.files("rnnlib.engine").joinpath("kernels.c")
    text = source.read_text(encoding="utf-8")
    real, is_double = REALS[dtype]
    key = "\n".join([text, *command, *FLAGS, real, _processor()])
    folder = cache_folder() if folder is None else folder
    library = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(dir=folder)
    except OSError as error:
        raise RuntimeError(f"cannot write to {folder}: {error}") from error
    try:
        (Path(work) / "kernels.c").write_text(text, encoding="utf-8")
        made = Path(work) / "kernels.so"
        for native in (["-march=native"], ["-mcpu=native"], []):  # as each compiler calls it, or does without
            choices = [*FLAGS, *native, f"-DREAL={real}", f"-DIS_DOUBLE={is_double}"]
            found = subprocess.run(
                [*command, *choices, "kernels.c", "-o", made],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
            )
            if found.returncode == 0:
                os.replace(made, library)  # another process may have done the same meanwhile
                return library
        said = found.stderr.strip()[-500:]
        raise RuntimeError(f"{shlex.join(command)} could not compile the loops: {said}")
    except OSError as error:
        raise RuntimeError(f"{shlex.join(command)} could not be run: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


@functools.cache
def _library(dtype: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(build(dtype)))
    except OSError as error:
        raise RuntimeError(f"the compiled loops cannot be loaded: {error}") from error
    library.packed_width.restype = ctypes.c_int64
    return library


@functools.cache
def problem(dtype: str) -> str | None:
    """Why the loops cannot be used here for a dtype, or None where they can."""
    if dtype not in REALS:
        return f"the compiled loops compute in float32 and float64, not in {dtype}"
    try:
        _library(dtype)
    except RuntimeError as error:
        return str(error)
    return None


# --- from arrays to pointers ------------------------------------------------------------------


def dtype_name(x: Array) -> str:
    """``"float32"``, of a NumPy array and of a torch tensor alike."""
    return str(x.dtype).removeprefix("torch.")


def _pointer(x: Array | None) -> ctypes.c_void_p:
    if x is None:
        return ctypes.c_void_p()
    return ctypes.c_void_p(x.data_ptr() if is_torch(x) else x.ctypes.data)


def prepared(W_hh: Array, blocks: Sequence[slice], back: bool) -> tuple[Array, ...]:
    """The recurrent weights, packed for the products of a loop.

    Args:
        W_hh: the weights, (G · H, H).
        blocks: the rows that make one product, for each product of a step.
        back: whether it is for a backward loop, whose products are with W and not with Wᵀ.

    Returns:
        The panels of each block.
    """
    library, panels = _library(dtype_name(W_hh)), []
    width = library.packed_width()
    for W in (W_hh[rows] for rows in blocks):
        K, N = W.shape if back else W.shape[::-1]
        down, across = W.stride() if is_torch(W) else (s // W.itemsize for s in W.strides)
        row, column = (down, across) if back else (across, down)
        panel = backend_of(W).empty((-(-N // width) * width * K,), like=W)
        numbers = [ctypes.c_int64(n) for n in (K, N, row, column)]
        library.pack(*numbers[:2], _pointer(W), *numbers[2:], _pointer(panel))
        panels.append(panel)
    return tuple(panels)


def _threads(x: Array, steps: Steps, multiplications: int) -> int:
    """How many threads to use: those of torch, or of the machine, where each has enough to do."""
    if is_torch(x):
        import torch

        allowed = torch.get_num_threads()
    else:
        allowed = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return max(1, min(allowed, steps.sizes[0] // 4, multiplications // _PARALLEL))


def _run(name: str, steps: Steps, H: int, products: int, *arguments: Array | int | None) -> None:
    """Call a loop for all rows, in as many threads as pay.

    Args:
        name: the function of ``kernels.c``.
        steps: the steps.
        H: the hidden size.
        products: how many products of the size (H, H) each row takes.
        arguments: arrays, numbers, and None for an array that is not there.
    """
    like = next(x for x in arguments if x is not None and not isinstance(x, int))
    function: Callable[..., Any] = getattr(_library(dtype_name(like)), name)
    T, B = len(steps.sizes), steps.sizes[0]
    sizes, offsets = (ctypes.c_int64 * T)(*steps.sizes), (ctypes.c_int64 * T)(*steps.offsets[:-1])
    values = [ctypes.c_int64(x) if isinstance(x, int) else _pointer(x) for x in arguments]

    def part(first: int, last: int) -> None:
        record = _Steps(T, ctypes.addressof(sizes), ctypes.addressof(offsets), steps.reverse, first, last)
        function(ctypes.byref(record), ctypes.c_int64(H), *values)

    count = _threads(like, steps, steps.offsets[-1] * products * H * H)
    bounds = [B * k // count for k in range(count + 1)]
    threads = [threading.Thread(target=part, args=pair) for pair in itertools.pairwise(bounds[1:])]
    for thread in threads:
        thread.start()
    part(bounds[0], bounds[1])
    for thread in threads:
        thread.join()


# --- the loops --------------------------------------------------------------------------------


def rnn(steps: Steps, a_x: Array, h_0: Array, W_hh: tuple[Array, ...], relu: bool) -> Array:
    """See :func:`rnnlib.engine.plain.rnn`."""
    xp = backend_of(a_x)
    _run("rnn", steps, h_0.shape[1], 1, int(relu), xp.contiguous(h_0), *W_hh, a_x)
    return a_x


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h_n: Array, W_hh: tuple[Array, ...], hs: Array, relu: bool
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.rnn_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a = xp.copy(d_h_n), xp.empty(hs.shape, like=hs)
    _run(
        "rnn_back", steps, H, 1, int(relu), *W_hh, hs, None if d_hs is None else xp.contiguous(d_hs), d_h, d_a
    )
    return d_a, d_h


def lstm(
    steps: Steps,
    a_x: Array,
    h_0: Array,
    C_0: Array,
    W_hh: tuple[Array, ...],
    out: Sequence[Array] | None = None,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.lstm`."""
    xp, (N, H) = backend_of(a_x), (a_x.shape[0], C_0.shape[1])
    hs, Cs = out or (xp.empty((N, H), like=a_x), xp.empty((N, H), like=a_x))
    _run("lstm", steps, H, 4, xp.contiguous(h_0), xp.contiguous(C_0), *W_hh, a_x, hs, Cs)
    return hs, Cs, a_x


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    d_C_n: Array,
    C_0: Array,
    W_hh: tuple[Array, ...],
    gates: Array,
    Cs: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.lstm_back`."""
    xp, H = backend_of(Cs), Cs.shape[1]
    d_h, d_C, d_a = xp.copy(d_h_n), xp.copy(d_C_n), xp.empty(gates.shape, like=gates)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    _run("lstm_back", steps, H, 4, xp.contiguous(C_0), *W_hh, gates, Cs, d_hs, d_h, d_C, d_a)
    return d_a, d_h, d_C


def gru(
    steps: Steps,
    a_x: Array,
    h_0: Array,
    W_hh: tuple[Array, ...],
    b_h: Array | None,
    out: Sequence[Array] | None = None,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.gru`."""
    xp, (N, H) = backend_of(a_x), (a_x.shape[0], h_0.shape[1])
    hs, us = out or (xp.empty((N, H), like=a_x), xp.empty((N, H), like=a_x))
    scratch = xp.empty((steps.sizes[0], 3 * H), like=a_x)
    b_h = None if b_h is None else xp.contiguous(b_h)
    _run("gru", steps, H, 3, xp.contiguous(h_0), *W_hh, b_h, a_x, hs, us, scratch)
    return hs, a_x, us


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    h_0: Array,
    W_hh: tuple[Array, ...],
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a, d_u = xp.copy(d_h_n), xp.empty(gates.shape, like=gates), xp.empty(us.shape, like=us)
    scratch = xp.empty((steps.sizes[0], 3 * H), like=hs)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    _run("gru_back", steps, H, 3, xp.contiguous(h_0), *W_hh, gates, hs, us, d_hs, d_h, d_a, d_u, scratch)
    return d_a, d_u, d_h


def gru_reset_before(
    steps: Steps, a_x: Array, h_0: Array, W_hh: tuple[Array, ...], out: Sequence[Array] | None = None
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before`."""
    xp, (N, H) = backend_of(a_x), (a_x.shape[0], h_0.shape[1])
    (hs,) = out or (xp.empty((N, H), like=a_x),)
    scratch = xp.empty((steps.sizes[0], H), like=a_x)
    _run("gru_reset_before", steps, H, 3, xp.contiguous(h_0), *W_hh, a_x, hs, scratch)
    return hs, a_x


def gru_reset_before_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    h_0: Array,
    W_hh: tuple[Array, ...],
    gates: Array,
    hs: Array,
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a = xp.copy(d_h_n), xp.empty(gates.shape, like=gates)
    scratch = xp.empty((steps.sizes[0], H), like=hs)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    h_0 = xp.contiguous(h_0)
    _run("gru_reset_before_back", steps, H, 3, h_0, *W_hh, gates, hs, d_hs, d_h, d_a, scratch)
    return d_a, d_h
