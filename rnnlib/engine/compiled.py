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
import operator
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnlib.backend import Array, backend_of, is_torch
from rnnlib.engine.plain import input_product
from rnnlib.engine.steps import Steps

# No -ffast-math: NaN and infinity mean what they mean. The two flags concern errno and traps only.
FLAGS = ("-std=gnu11", "-O2", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
REALS = {"float32": ("float", 0), "float64": ("double", 1)}
_WORTH_A_THREAD = 2**21  # multiplications: near 30 microseconds, ten times what calling a thread takes
_WORTH_A_START = 2**25  # where it has to be started first: near half a millisecond


class _Steps(ctypes.Structure):
    _fields_ = (
        ("T", ctypes.c_int64),
        ("sizes", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("reverse", "first", "last")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("I", "H", "relu", "keep")),
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "W_x", "W_x_2", "W_h", "W_h_2", "bias", "b_h", "h_0", "C_0")
        ),
        *((name, ctypes.c_void_p) for name in ("hs", "Cs", "gates", "us", "scratch")),
        *((name, ctypes.c_void_p) for name in ("d_hs", "d_h", "d_C", "d_a", "d_u")),
    )


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
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.pack.argtypes = [number] * 4 + [pointer, number, number, pointer]
    library.run.argtypes = [pointer, pointer, pointer, number, pointer]
    return library


@functools.cache
def _lanes(dtype: str) -> int:
    """The numbers of a vector."""
    return _library(dtype).vector_width()


@functools.cache
def _loop(dtype: str, name: str) -> int | None:
    """The address of a function of ``kernels.c``."""
    return ctypes.cast(getattr(_library(dtype), name), ctypes.c_void_p).value


@functools.cache
def _team() -> int | None:
    """The address of the function that shares work among torch's own threads, or None where it has others.

    These threads stand ready between two operations of torch; with more beside them, there would be more
    than processors. The function is what GCC makes of ``#pragma omp parallel``.
    """
    import torch

    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):  # torch was built with other threads
        return None


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


def _address_in(like: Array) -> Callable[[Array], int]:
    """What tells where the numbers of an array lie, for arrays of the same kind."""
    return operator.methodcaller("data_ptr") if is_torch(like) else operator.attrgetter("ctypes.data")


class Panels(NamedTuple):
    """Weights as the products of the loops read them.

    Attributes:
        memory: all panels.
        addresses: where those of each product begin.
    """

    memory: Array
    addresses: tuple[int, ...]


class Product(NamedTuple):
    """A product of a step.

    Attributes:
        first: its first gate.
        gates: how many it makes.
        wide: whether a panel has two vectors of units of each gate, not one.
    """

    first: int
    gates: int
    wide: bool


def _packed(W: Array, H: int, products: Sequence[Product], back: bool = False) -> Panels:
    """The panels of weights (G · H, K): for products with Wᵀ, or for those with W on the way back.

    Args:
        W: the weights.
        H: the number of units.
        products: what to pack.
        back: whether it is for the way back.
    """
    dtype, size, begin = dtype_name(W), W.itemsize, _address_in(W)(W)
    down, across = W.stride() if is_torch(W) else (stride // size for stride in W.strides)
    K, orders, ends = W.shape[1], [], [0]
    for first, gates, wide in products:
        width = _lanes(dtype) * (2 if wide else 1)
        order = (gates * H, K, 1, down, across) if back else (K, H, gates, across, down)
        orders.append((*order[:3], width, begin + first * H * down * size, *order[3:]))
        ends.append(ends[-1] + order[0] * -(-order[1] // width) * width * order[2])
    memory = backend_of(W).empty((ends[-1],), like=W)
    to = _address_in(memory)(memory)
    addresses = tuple([to + end * size for end in ends[:-1]])
    for order, address in zip(orders, addresses, strict=True):
        _library(dtype).pack(*order, address)
    return Panels(memory, addresses)


def whole_back(steps: Steps) -> bool:
    """Whether a backward loop takes all steps at once: it does not, a block of them stays in the cache."""
    return False


def prepared_back(W_hh: Array, products: Sequence[tuple[int, int]], steps: Steps) -> Panels:
    """The recurrent weights as the backward loops take them, packed once for all blocks of steps.

    Args:
        W_hh: the weights, (G · H, H).
        products: which gates make one product of a step, for each product.
        steps: all steps.
    """
    parts = [Product(first, last - first, wide=True) for first, last in products]
    return _packed(W_hh, W_hh.shape[1], parts, back=True)


def threads(steps: Steps, multiplications: int, like: Array) -> int:
    """How many threads a loop uses: those of torch, or of the machine, where each has enough to do.

    Args:
        steps: the steps.
        multiplications: how many the loop does for one row of a step.
        like: an array of the computation.
    """
    if is_torch(like):
        import torch

        allowed, least = torch.get_num_threads(), _WORTH_A_THREAD if _team() else _WORTH_A_START
    else:
        allowed, least = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), _WORTH_A_START
    return max(1, min(allowed, steps.sizes[0] // 4, steps.offsets[-1] * multiplications // least))


def _run(name: str, steps: Steps, multiplications: int, like: Array, **fields: Array | int | None) -> None:
    """Call a loop for all rows, shared by threads.

    Args:
        name: the function of ``kernels.c``.
        steps: the steps.
        multiplications: how many it does for one row of a step.
        like: an array of the computation.
        fields: the record of ``kernels.c``: arrays, numbers and addresses, and None for an array that is
            not there.
    """
    address, dtype = _address_in(like), dtype_name(like)
    record = _Layer(**{k: x if x is None or isinstance(x, int) else address(x) for k, x in fields.items()})
    table = steps.table
    sizes = table.ctypes.data
    walk = _Steps(len(steps.sizes), sizes, sizes + table.strides[0], steps.reverse)
    count = threads(steps, multiplications, like)
    team = _team() if count > 1 and is_torch(like) else None
    _library(dtype).run(_loop(dtype, name), ctypes.addressof(walk), ctypes.addressof(record), count, team)


# --- forward ----------------------------------------------------------------------------------


def _forward(
    name: str,
    products: Sequence[Product],
    steps: Steps,
    x: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    keep: bool,
    **fields: Array | int | None,
) -> None:
    """Run a forward loop.

    Args:
        name: the function of ``kernels.c``.
        products: the products of a step.
        steps, x, W_ih, W_hh, bias, keep: as the functions below take them.
        fields: the rest of the record.
    """
    H, multiplications = W_hh.shape[1], W_hh.shape[1]
    panels = _packed(W_hh, H, products)
    fields |= zip(("W_h", "W_h_2"), panels.addresses, strict=False)
    if whole(steps):
        of_x, contiguous = _packed(W_ih, H, products), backend_of(x).contiguous
        fields |= zip(("W_x", "W_x_2"), of_x.addresses, strict=False)
        fields["x"], fields["bias"] = contiguous(x), None if bias is None else contiguous(bias)
        multiplications += x.shape[1]
    else:
        input_product(x, W_ih, bias, fields["gates"])
        keep = True
    _run(name, steps, multiplications * len(W_hh), x, I=x.shape[1], H=H, keep=keep, **fields)


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
    h_0 = backend_of(x).contiguous(h_0)
    fields = {"relu": relu, "h_0": h_0, "hs": out[0], "gates": out[0]}
    _forward("rnn", (Product(0, 1, True),), steps, x, W_ih, W_hh, bias, keep, **fields)
    return out


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
    xp, (hs, Cs, gates) = backend_of(x), out
    fields = {"h_0": xp.contiguous(h_0), "C_0": xp.contiguous(C_0), "hs": hs, "Cs": Cs, "gates": gates}
    _forward("lstm", (Product(0, 2, False), Product(2, 2, False)), steps, x, W_ih, W_hh, bias, keep, **fields)
    return out


def lstm_memories(steps: Steps, C_0: Array, gates: Array, Cs: Array) -> None:
    """See :func:`rnnlib.engine.plain.lstm_memories`."""
    C_0, H = backend_of(Cs).contiguous(C_0), Cs.shape[1]
    _run("lstm_memories", steps, H, Cs, H=H, C_0=C_0, gates=gates, Cs=Cs)


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
    xp, (hs, gates, us) = backend_of(x), out
    fields = {"h_0": xp.contiguous(h_0), "hs": hs, "gates": gates, "us": us}
    if b_h is not None:
        fields["b_h"] = xp.contiguous(b_h)
    _forward("gru", (Product(0, 2, False), Product(2, 1, False)), steps, x, W_ih, W_hh, bias, keep, **fields)
    return out


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
    xp, (hs, gates) = backend_of(x), out
    scratch = xp.empty((steps.sizes[0], 2 * h_0.shape[1]), like=x)
    fields = {"h_0": xp.contiguous(h_0), "hs": hs, "gates": gates, "scratch": scratch}
    _forward(
        "gru_reset_before",
        (Product(0, 2, False), Product(2, 1, True)),
        steps,
        x,
        W_ih,
        W_hh,
        bias,
        keep,
        **fields,
    )
    return out


# --- back -------------------------------------------------------------------------------------


def _back(
    name: str,
    steps: Steps,
    W_hh: Panels,
    d_hs: Array | None,
    d_h: Array,
    d_a: Array,
    **fields: Array | int,
) -> None:
    """Run a backward loop.

    Args:
        name: the function of ``kernels.c``.
        steps, W_hh, d_hs: as the functions below take them.
        d_h, d_a: as they return them.
        fields: the rest of the record.
    """
    H = d_h.shape[1]
    if d_hs is not None:
        fields["d_hs"] = backend_of(d_h).contiguous(d_hs)
    fields |= zip(("W_h", "W_h_2"), W_hh.addresses, strict=False)
    _run(name, steps, d_a.shape[1] * H, d_h, H=H, d_h=d_h, d_a=d_a, **fields)


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h: Array, W_hh: Panels, hs: Array, relu: bool
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.rnn_back`."""
    xp = backend_of(hs)
    d_a = xp.empty(hs.shape, like=hs)
    _back("rnn_back", steps, W_hh, d_hs, d_h, d_a, relu=relu, hs=hs)
    return d_a, d_h


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    d_C: Array,
    C_0: Array,
    W_hh: Panels,
    gates: Array,
    Cs: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.lstm_back`."""
    xp, C_0 = backend_of(Cs), backend_of(Cs).contiguous(C_0)
    d_a = xp.empty(gates.shape, like=gates)
    _back("lstm_back", steps, W_hh, d_hs, d_h, d_a, C_0=C_0, gates=gates, Cs=Cs, d_C=d_C)
    return d_a, d_h, d_C


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    h_0: Array,
    W_hh: Panels,
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_back`."""
    xp, h_0 = backend_of(hs), backend_of(hs).contiguous(h_0)
    d_a, d_u = xp.empty(gates.shape, like=gates), xp.empty(us.shape, like=us)
    scratch = xp.empty((steps.sizes[0], gates.shape[1]), like=hs)
    more = {"us": us, "d_u": d_u, "scratch": scratch}
    _back("gru_back", steps, W_hh, d_hs, d_h, d_a, h_0=h_0, gates=gates, hs=hs, **more)
    return d_a, d_u, d_h


def gru_reset_before_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    h_0: Array,
    W_hh: Panels,
    gates: Array,
    hs: Array,
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before_back`."""
    xp, h_0 = backend_of(hs), backend_of(hs).contiguous(h_0)
    d_a = xp.empty(gates.shape, like=gates)
    more = {"hs": hs, "scratch": xp.empty((steps.sizes[0], hs.shape[1]), like=hs)}
    _back("gru_reset_before_back", steps, W_hh, d_hs, d_h, d_a, h_0=h_0, gates=gates, **more)
    return d_a, d_h
