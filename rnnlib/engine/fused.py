"""The loops over time as one kernel each, for a GPU: ``gpu_kernels.py``, in Triton.

The functions are those of :mod:`rnnlib.engine.plain`, and return the same, on CUDA tensors. A loop is one
launch for all steps, where the loop in place launches several kernels in each step. The product with the
inputs stays one product of torch, in front of it. Numbers are stored in the dtype of the tensors, which
may be a half precision, and summed in float32, or float64 for float64.

:func:`rnnlib.engine.choose` takes these loops only when they are asked for, by ``using("fused")`` or
``RNNLIB_ENGINE=fused``. They have been checked in Triton's interpreter and compiled for sm_80 and sm_90;
**they have not been timed or run on a device yet**. A kernel is compiled when it is first needed for a
cell, a hidden size and a dtype, which takes some seconds; Triton keeps what it made.

Triton is imported when a loop is first asked for. Where ``TRITON_INTERPRET=1`` is set before that, the loops
run on the CPU too, slowly: so they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from rnnlib.backend import Array, is_torch
from rnnlib.engine.compiled import dtype_name
from rnnlib.engine.plain import input_product
from rnnlib.engine.steps import Steps

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""What the loops store."""

ROWS = 16
"""How many sequences one program takes: the height of the smallest product of the tensor cores."""

INNER = 32
"""How many terms of a product are read at a time."""


def units(H: int, itemsize: int) -> int:
    """How many units of a state a program computes at a time: a power of two, as many as registers hold."""
    return min(64 if itemsize == 8 else 128, max(16, 1 << (H - 1).bit_length()))


def triton_is_missing() -> bool:
    """Whether Triton is not installed."""
    return importlib.util.find_spec("triton") is None


@functools.cache
def kernels() -> Any:
    """The module of the kernels; Triton is imported now."""
    return importlib.import_module("rnnlib.engine.gpu_kernels")


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on the CPU."""
    import triton

    return not isinstance(kernels().rnn, triton.JITFunction)


def problem(like: Array) -> str | None:
    """Why the loops cannot be used for an array of this kind here, or None where they can."""
    if not is_torch(like):
        return "they compute on CUDA tensors of torch, not on NumPy arrays"
    dtype = dtype_name(like)
    if dtype not in DTYPES:
        return f"they compute in {', '.join(DTYPES)}, not in {dtype}"
    if triton_is_missing():
        return "Triton is not installed: pip install 'rnnlib[gpu]', on Linux"
    if like.device.type != "cuda" and not (like.device.type == "cpu" and interpreted()):
        return f"they compute on a CUDA device, not on {like.device}"
    return None


# --- from tensors to a launch -----------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _plan(steps: Steps, device: Any) -> Array:
    """The steps as the kernels take them, (T + 1, 2); kept, since to copy it makes the host wait."""
    import torch

    return torch.tensor([(0, 0), *((steps.sizes[t], steps.offsets[t]) for t in steps.walk)], device=device)


def _precision() -> str:
    """How float32 numbers are multiplied: as they are, unless torch was told to round them for its products.

    Triton's default is to round them to the 11 bits of TF32 first. That changes a number by up to 5e-4 of
    its size in every step, where the tests allow 2e-5 after all steps.
    """
    import torch

    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def constants(dtype: Any, H: int) -> dict[str, Any]:
    """What all kernels take as constants, and how many warps of threads run a program.

    Args:
        dtype: of the tensors.
        H: the hidden size.
    """
    import triton.language as tl

    block = units(H, dtype.itemsize)
    return {
        "H": H,
        "SUM": tl.float64 if dtype.itemsize == 8 else tl.float32,
        "PRECISION": _precision(),
        "ROWS": ROWS,
        "UNITS": block,
        "INNER": INNER,
        "num_warps": 8 if block > 64 else 4,
        "num_stages": 1,  # steps must not overlap
    }


def _launch(name: str, steps: Steps, H: int, like: Array, *arguments: Any, **more: Any) -> None:
    """Run a kernel for all sequences and all steps.

    Args:
        name: of ``gpu_kernels.py``.
        steps: the steps.
        H: the hidden size.
        like: a tensor of the computation.
        arguments: what the kernel takes behind the number of steps: tensors, or None.
        more: constants of this kernel alone.
    """
    import torch

    kernel, plan = getattr(kernels(), name), _plan(steps, like.device)
    programs = -(-steps.sizes[0] // ROWS)
    with torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext():
        kernel[(programs,)](plan, len(steps.sizes), *arguments, **constants(like.dtype, H), **more)


def _contiguous(x: Array | None) -> Array | None:
    return None if x is None else x.contiguous()


def _carried(d: Array) -> Array:
    """A gradient that a loop carries from step to step, in the dtype of the sums: itself, or a copy."""
    import torch

    return d if d.dtype in (torch.float32, torch.float64) else d.to(torch.float32)


def _hand_back(d: Array, carried: Array) -> None:
    """Overwrite a gradient with what a loop made of it."""
    if carried is not d:
        d.copy_(carried)


# --- what rnnlib.engine.layers asks -----------------------------------------------------------


def whole(steps: Steps) -> bool:
    """Whether a forward loop takes all steps at once: it does, each launch and each product costs."""
    return True


def whole_back(steps: Steps) -> bool:
    """Whether a backward loop takes all steps at once: it does too."""
    return True


def prepared_back(W_hh: Array, products: Sequence[tuple[int, int]], steps: Steps) -> Array:
    """The recurrent weights as the backward loops take them: row by row."""
    return W_hh.contiguous()


def _slab(x: Array, W_ih: Array, bias: Array | None, slab: Array, keep: bool) -> Array:
    """The input product, in the slab, or in one for this call alone if nothing is kept."""
    slab = slab if keep else x.new_empty((x.shape[0], W_ih.shape[0]))
    input_product(x, W_ih, bias, slab)
    return slab


# --- forward ----------------------------------------------------------------------------------
# As in rnnlib.engine.compiled, if not keep only hs has all rows, and Cs, (B, H), is given with the first
# memories in it and overwritten with the last.


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
    (hs,) = out
    input_product(x, W_ih, bias, hs)
    _launch("rnn", steps, h_0.shape[1], x, hs, h_0.contiguous(), W_hh.contiguous(), RELU=relu)
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
    hs, Cs, gates = out
    slab = _slab(x, W_ih, bias, gates, keep)
    C = C_0.contiguous() if keep else Cs
    _launch("lstm", steps, C.shape[1], x, slab, hs, Cs, h_0.contiguous(), C, W_hh.contiguous(), KEEP=keep)
    return out


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
    hs, gates, us = out
    slab = _slab(x, W_ih, bias, gates, keep)
    b_h = _contiguous(b_h)
    _launch("gru", steps, h_0.shape[1], x, slab, hs, us, h_0.contiguous(), W_hh.contiguous(), b_h, KEEP=keep)
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
    hs, gates = out
    slab, reset = _slab(x, W_ih, bias, gates, keep), x.new_empty(h_0.shape)
    _launch("gru_reset_before", steps, h_0.shape[1], x, slab, hs, h_0.contiguous(), W_hh.contiguous(), reset)
    return out


# --- back -------------------------------------------------------------------------------------


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h: Array, W_hh: Array, hs: Array, relu: bool
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.rnn_back`."""
    carried, d_a = _carried(d_h), hs.new_empty(hs.shape)
    _launch("rnn_back", steps, hs.shape[1], hs, _contiguous(d_hs), carried, W_hh, hs, d_a, RELU=relu)
    _hand_back(d_h, carried)
    return d_a, d_h


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    d_C: Array,
    C_0: Array,
    W_hh: Array,
    gates: Array,
    Cs: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.lstm_back`."""
    carried, carried_C, d_a = _carried(d_h), _carried(d_C), gates.new_empty(gates.shape)
    d_hs, C_0 = _contiguous(d_hs), C_0.contiguous()
    _launch("lstm_back", steps, Cs.shape[1], Cs, d_hs, carried, carried_C, C_0, W_hh, gates, Cs, d_a)
    _hand_back(d_h, carried)
    _hand_back(d_C, carried_C)
    return d_a, d_h, d_C


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    h_0: Array,
    W_hh: Array,
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_back`."""
    carried, d_a, d_u = _carried(d_h), gates.new_empty(gates.shape), us.new_empty(us.shape)
    d_hs, h_0 = _contiguous(d_hs), h_0.contiguous()
    _launch("gru_back", steps, hs.shape[1], hs, d_hs, carried, h_0, W_hh, gates, hs, us, d_a, d_u)
    _hand_back(d_h, carried)
    return d_a, d_u, d_h


def gru_reset_before_back(
    steps: Steps, d_hs: Array | None, d_h: Array, h_0: Array, W_hh: Array, gates: Array, hs: Array
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.plain.gru_reset_before_back`."""
    carried, d_a = _carried(d_h), gates.new_empty(gates.shape)
    d_hs, h_0 = _contiguous(d_hs), h_0.contiguous()
    _launch("gru_reset_before_back", steps, hs.shape[1], hs, d_hs, carried, h_0, W_hh, gates, hs, d_a)
    _hand_back(d_h, carried)
    return d_a, d_h
