"""Floor 0: the loops over time, rearranged for speed, in four forms.

The equations of a cell are rearranged as the chapter on speed explains: what depends on the inputs alone
is one product for all steps, the gates of a step lie side by side in one slab, and each weight gradient
is one product over all rows. What then remains is a loop over the steps, forward and back. It exists

- in :mod:`rnnlib.engine.differentiable`, from operations that can be differentiated and mapped,
- in :mod:`rnnlib.engine.plain`, in place, on NumPy and torch, CPU or GPU,
- in :mod:`rnnlib.engine.compiled`, as machine code for the CPU, in float32 and float64,
- in :mod:`rnnlib.engine.fused`, as one kernel for a GPU, in Triton.

Which one runs follows from the arrays alone, by :func:`choose`: the compiled one for float32 and float64
on a CPU with a C compiler, if there are at least 32 rows, the plain one for all others. It never depends
on a measurement. ``using`` or the environment variable ``RNNLIB_ENGINE`` fixes another choice. The fused
one runs only when it is asked for like that: it has been checked in Triton's interpreter and compiled for
sm_80 and sm_90, and not been timed or run on a device yet.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

from rnnlib.backend import Array, backend_of, check_choice
from rnnlib.engine import compiled, differentiable, fused, plain
from rnnlib.engine.steps import Steps, carry

__all__ = ["ENGINES", "Steps", "carry", "choose", "compiled", "differentiable", "fused", "plain", "using"]

ENGINES = ("auto", "compiled", "plain", "differentiable", "fused")
"""What can be asked for; ``"auto"`` is the rule of :func:`choose`."""

_asked: contextvars.ContextVar[str] = contextvars.ContextVar("engine")


def asked() -> str:
    """The choice in force: that of :func:`using`, of ``RNNLIB_ENGINE``, or ``"auto"``.

    Raises:
        ValueError: ``RNNLIB_ENGINE`` holds another word.
    """
    name = _asked.get(None)
    if name is None:
        name = os.environ.get("RNNLIB_ENGINE") or "auto"
        check_choice("rnnlib", "the environment variable RNNLIB_ENGINE", name, ENGINES)
    return name


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Fix the engine inside a ``with`` block.

    Args:
        name: one of :data:`ENGINES`.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("using", "name", name, ENGINES)
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=3)


FEW_ROWS = 32
"""The number of rows in all steps together from which the compiled loops run.

With fewer, packing the weights for them would not pay.
"""


def choose(like: Array, steps: Steps) -> ModuleType:
    """The loops for arrays of this kind.

    Args:
        like: an array with the dtype and device of the computation.
        steps: the steps.

    Returns:
        :mod:`~rnnlib.engine.compiled`, :mod:`~rnnlib.engine.plain`, :mod:`~rnnlib.engine.differentiable`
        or :mod:`~rnnlib.engine.fused`.

    Raises:
        RuntimeError: ``"compiled"`` or ``"fused"`` was asked for and cannot be had, with the reason.
    """
    name = asked()
    if name == "differentiable":
        return differentiable
    if name == "fused":
        missing = fused.problem(like)
        if missing is not None:
            raise RuntimeError(f"the fused loops were asked for, but {missing}")
        return fused
    if name == "plain" or (name == "auto" and steps.offsets[-1] < FEW_ROWS):
        return plain
    dtype, device = compiled.dtype_name(like), backend_of(like).device(like)
    if device != "cpu" or dtype not in compiled.REALS:
        reason: str | None = f"they compute in float32 and float64 on the CPU, not in {dtype} on {device}"
    else:
        reason = compiled.problem(dtype)
        if reason is not None and name == "auto" and compiled.compiler() is not None:
            _warn_once(f"rnnlib computes without its compiled loops: {reason}")
    if reason is None:
        return compiled
    if name == "compiled":
        raise RuntimeError(f"the compiled loops were asked for, but {reason}")
    return plain
