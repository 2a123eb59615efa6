"""The loops over time as machine code, for one CPU: ``kernels.c``, compiled when first needed.

The functions are those of :mod:`rnnlib.engine.plain`, and return the same, in float32 and float64. Any
C compiler that knows the vectors of GCC and Clang will do. What it made is kept in the user's cache
folder, under a name that stands for the source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.resources
import importlib.util
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
from typing import Any, NamedTuple

from rnnlib.backend import Array, backend_of, is_torch
from rnnlib.engine.plain import input_product
from rnnlib.engine.steps import Steps

# No -ffast-math: NaN and infinity mean what they mean. The two flags concern errno and traps only.
FLAGS = ("-std=gnu11", "-O2", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
REALS = {"float32": ("float", 0), "float64": ("double", 1)}
_PARALLEL = 2**25  # multiplications that are worth a thread: near half a millisecond, ten times its start


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
    """The command of the C compiler, or None where none is.

    ``$CC``, or the first of cc, gcc and clang, or the one in the package ziglang, which
    ``rnnlib[fast]`` installs.
    """
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if (path := shutil.which(name)) is not None:
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
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
        The path of the shared library. ``RNNLIB_CFLAGS`` may hold more flags for the compiler.

    Raises:
        RuntimeError: there is no compiler, or it failed; with what it said.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler: install one (cc, gcc, clang, or rnnlib[fast]), or name it in CC")
    source = importlib.resources.files("rnnlib.engine").joinpath("kernels.c")
    text = source.read_text(encoding="utf-8")
    real, is_double = REALS[dtype]
    flags = [*FLAGS, *shlex.split(os.environ.get("RNNLIB_CFLAGS", ""))]
    key = "\n".join([text, *command, *flags, real, _processor()])
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
            choices = [*native, *flags, f"-DREAL={real}", f"-DIS_DOUBLE={is_double}"]
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
    library.vector_width.restype = ctypes.c_int64
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


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("I", "H", "keep")),
        *((name, ctypes.c_void_p) for name in ("x", "W_x", "W_h", "bias", "h_0", "C_0", "b_h")),
        *((name, ctypes.c_void_p) for name in ("rows", "hs", "more")),
    ]


def _packed(W: Array, gates: int, wide: bool, back: bool = False) -> Array:
    """The panels of the weights (G · H, K): for a product with Wᵀ, or for one with W on the way back.

    Args:
        W: the weights.
        gates: how many gates they have.
        wide: whether a panel has two vectors of units of each gate, not one.
        back: whether it is for the way back.
    """
    library = _library(dtype_name(W))
    width = library.vector_width() * (2 if wide else 1)
    down, across = W.stride() if is_torch(W) else (s // W.itemsize for s in W.strides)
    K, N, row, column = (*W.shape, down, across) if back else (*W.shape[::-1], across, down)
    N //= gates
    panels = backend_of(W).empty((-(-N // width) * width * gates * K,), like=W)
    numbers = [ctypes.c_int64(n) for n in (K, N, gates, width, row, column)]
    library.pack(*numbers[:4], _pointer(W), *numbers[4:], _pointer(panels))
    return panels


class Packed(NamedTuple):
    """The recurrent weights as the backward loops take them."""

    panels: tuple[Array, ...]
    threads: int


def prepared_back(W_hh: Array, products: Sequence[tuple[int, int]], steps: Steps) -> Packed:
    """The recurrent weights as the backward loops take them, packed once for all blocks of steps.

    Args:
        W_hh: the weights, (G · H, H).
        products: which gates make one product of a step, for each product.
        steps: all steps.
    """
    H = W_hh.shape[1]
    panels = (_packed(W_hh[first * H : last * H], 1, wide=True, back=True) for first, last in products)
    return Packed(tuple(panels), threads(steps, W_hh))


def threads(steps: Steps, W_hh: Array, input_size: int = 0) -> int:
    """How many threads a loop uses: those of torch, or of the machine, where each has enough to do.

    Args:
        steps: the steps.
        W_hh: the recurrent weights, (G · H, H).
        input_size: the number of inputs, if the loop does the product with them too.
    """
    if is_torch(W_hh):
        import torch

        allowed = torch.get_num_threads()
    else:
        allowed = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    multiplications = steps.offsets[-1] * W_hh.shape[0] * (W_hh.shape[1] + input_size)
    return max(1, min(allowed, steps.sizes[0] // 4, multiplications // _PARALLEL))


def _run(name: str, steps: Steps, like: Array, count: int, *arguments: Any) -> None:
    """Call a loop for all rows, shared by threads.

    Args:
        name: the function of ``kernels.c``.
        steps: the steps.
        like: an array of the computation.
        count: the number of threads.
        arguments: what the function takes behind the steps: arrays, numbers, structures, and None for
            an array that is not there.
    """
    function: Callable[..., Any] = getattr(_library(dtype_name(like)), name)
    T, B = len(steps.sizes), steps.sizes[0]
    sizes, offsets = (ctypes.c_int64 * T)(*steps.sizes), (ctypes.c_int64 * T)(*steps.offsets[:-1])
    values = [_as_argument(x) for x in arguments]

    def part(first: int, last: int) -> None:
        record = _Steps(T, ctypes.addressof(sizes), ctypes.addressof(offsets), steps.reverse, first, last)
        function(ctypes.byref(record), *values)

    bounds = [B * k // count for k in range(count + 1)]
    others = [threading.Thread(target=part, args=pair) for pair in itertools.pairwise(bounds[1:])]
    for thread in others:
        thread.start()
    part(bounds[0], bounds[1])
    for thread in others:
        thread.join()


def _as_argument(x: Any) -> Any:
    if isinstance(x, ctypes.Structure):
        return ctypes.byref(x)
    return ctypes.c_int64(x) if isinstance(x, int) else _pointer(x)


# --- forward ----------------------------------------------------------------------------------


def _forward(
    name: str,
    products: Sequence[tuple[int, bool]],
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    out: Sequence[Array],
    keep: bool,
    *extra: Any,
    C_0: Array | None = None,
    b_h: Array | None = None,
    more: Array | None = None,
) -> Sequence[Array]:
    """Run a forward loop.

    Args:
        name: the function of ``kernels.c``.
        products: how many gates each product of a step makes, and whether its panels are wide.
        steps, x, h_0, W_ih, W_hh, bias, out, keep, C_0, b_h: as the functions below take them.
        extra: what the function takes behind the layer and the weights.
        more: see ``kernels.c``.
    """
    xp, H = backend_of(x), h_0.shape[1]
    hs, rows = out[0], out[-1 if name in ("rnn", "lstm") else 1]  # what the gates go into
    arrays = [None if a is None else xp.contiguous(a) for a in (x, bias, h_0, C_0, b_h)]
    bounds = [0, *itertools.accumulate(gates * H for gates, _ in products)]
    all_steps = whole(steps)
    panels = [
        None if W is None else _packed(W[first:last], gates, wide)
        for (first, last), (gates, wide) in zip(itertools.pairwise(bounds), products, strict=True)
        for W in (W_ih if all_steps else None, W_hh)
    ]
    if not all_steps:
        input_product(x, W_ih, bias, rows)
        arrays[0] = None
    pointers = [_pointer(a) for a in arrays]
    layer = _Layer(
        x.shape[1],
        H,
        keep or not all_steps,
        pointers[0],
        *(_pointer(panel) for panel in panels[:2]),
        *pointers[1:],
        *(_pointer(a) for a in (rows, hs, more)),
    )
    count = threads(steps, W_hh, x.shape[1] if all_steps else 0)
    _run(name, steps, x, count, layer, *panels[2:], *extra)
    return out


def whole_back(W_hh: Packed) -> bool:
    """Whether a backward loop takes all steps at once: with several threads, which then start once.

    Between two blocks the matrix library's own threads would get in their way.
    """
    return W_hh.threads > 1


def whole(steps: Steps) -> bool:
    """Whether a forward loop takes all steps at once, and does the product with the inputs itself.

    With few rows in a step that product is faster for a block of steps together.
    """
    return steps.sizes[0] >= 8


def rnn(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    relu: bool,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.plain.rnn`."""
    return _forward("rnn", ((1, True),), steps, x, h_0, W_ih, W_hh, bias, out, keep, int(relu))


def lstm(
    steps: Steps,
    x: Array,
    h_0: Array,
    C_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.plain.lstm`."""
    return _forward(
        "lstm", ((2, False), (2, False)), steps, x, h_0, W_ih, W_hh, bias, out, keep, C_0=C_0, more=out[1]
    )


def gru(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    b_h: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.plain.gru`."""
    return _forward(
        "gru", ((2, False), (1, False)), steps, x, h_0, W_ih, W_hh, bias, out, keep, b_h=b_h, more=out[2]
    )


def gru_reset_before(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before`."""
    scratch = backend_of(x).empty((steps.sizes[0], 2 * h_0.shape[1]), like=x)
    return _forward(
        "gru_reset_before", ((2, False), (1, True)), steps, x, h_0, W_ih, W_hh, bias, out, keep, scratch
    )


# --- back -------------------------------------------------------------------------------------


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h_n: Array, W_hh: Packed, hs: Array, relu: bool
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.rnn_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a = xp.copy(d_h_n), xp.empty(hs.shape, like=hs)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    _run("rnn_back", steps, hs, W_hh.threads, H, int(relu), *W_hh.panels, hs, d_hs, d_h, d_a)
    return d_a, d_h


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    d_C_n: Array,
    C_0: Array,
    W_hh: Packed,
    gates: Array,
    Cs: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.lstm_back`."""
    xp, H = backend_of(Cs), Cs.shape[1]
    d_h, d_C, d_a = xp.copy(d_h_n), xp.copy(d_C_n), xp.empty(gates.shape, like=gates)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    _run(
        "lstm_back",
        steps,
        Cs,
        W_hh.threads,
        H,
        xp.contiguous(C_0),
        *W_hh.panels,
        gates,
        Cs,
        d_hs,
        d_h,
        d_C,
        d_a,
    )
    return d_a, d_h, d_C


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    h_0: Array,
    W_hh: Packed,
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a, d_u = xp.copy(d_h_n), xp.empty(gates.shape, like=gates), xp.empty(us.shape, like=us)
    scratch = xp.empty((steps.sizes[0], 3 * H), like=hs)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    _run(
        "gru_back",
        steps,
        hs,
        W_hh.threads,
        H,
        xp.contiguous(h_0),
        *W_hh.panels,
        gates,
        hs,
        us,
        d_hs,
        d_h,
        d_a,
        d_u,
        scratch,
    )
    return d_a, d_u, d_h


def gru_reset_before_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    h_0: Array,
    W_hh: Packed,
    gates: Array,
    hs: Array,
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    d_h, d_a = xp.copy(d_h_n), xp.empty(gates.shape, like=gates)
    scratch = xp.empty((steps.sizes[0], H), like=hs)
    d_hs = None if d_hs is None else xp.contiguous(d_hs)
    h_0 = xp.contiguous(h_0)
    _run(
        "gru_reset_before_back",
        steps,
        hs,
        W_hh.threads,
        H,
        h_0,
        *W_hh.panels,
        gates,
        hs,
        d_hs,
        d_h,
        d_a,
        scratch,
    )
    return d_a, d_h
