"""Floor 0: what differs between NumPy and torch, and the checks every public function makes.

The equations are written once. Arithmetic (``+ * @ .T``) is the same on NumPy arrays and on
torch tensors; the few primitives that are not live here, behind :func:`backend_of`. A public
function declares the shapes of its arguments in its signature and is wrapped by
:func:`checked`, which refuses bad input before any number is computed::

    @checked
    def output(h_t: Annotated[Array, "B H"], W_hy: Annotated[Array, "O H"], ...): ...

Inner loops skip the checks through ``output.unchecked``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from types import UnionType
from typing import Annotated, Any, ParamSpec, Protocol, TypeAlias, TypeVar, get_args, get_origin

import numpy as np

Array: TypeAlias = Any
"""A ``numpy.ndarray`` or a ``torch.Tensor``; the two share no base class."""

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


# --- the primitives ---------------------------------------------------------------------------


class NumPyBackend:
    """The primitives on ``numpy.ndarray``; each keeps the dtype of its input."""

    name = "numpy"

    exp: Callable[..., Any] = staticmethod(np.exp)
    log: Callable[..., Any] = staticmethod(np.log)
    log1p: Callable[..., Any] = staticmethod(np.log1p)
    sqrt: Callable[..., Any] = staticmethod(np.sqrt)
    abs: Callable[..., Any] = staticmethod(np.abs)
    round: Callable[..., Any] = staticmethod(np.round)
    tanh: Callable[..., Any] = staticmethod(np.tanh)
    where: Callable[..., Any] = staticmethod(np.where)
    einsum: Callable[..., Any] = staticmethod(np.einsum)
    zeros_like: Callable[..., Any] = staticmethod(np.zeros_like)
    ones_like: Callable[..., Any] = staticmethod(np.ones_like)
    copy: Callable[..., Any] = staticmethod(functools.partial(np.array, order="C"))  # row behind row
    contiguous: Callable[..., Any] = staticmethod(np.ascontiguousarray)
    mm: Callable[..., Any] = staticmethod(np.matmul)
    mul: Callable[..., Any] = staticmethod(np.multiply)
    sub: Callable[..., Any] = staticmethod(np.subtract)

    @staticmethod
    def sigmoid(a: Array, out: Array | None = None) -> Array:
        """The logistic function 1 / (1 + exp(-a)), with no overflow at either end."""
        e = np.exp(-np.abs(a))  # in (0, 1]: the only exponential that cannot overflow
        return np.divide(np.where(a >= 0, 1, e), 1 + e, out=out)

    @staticmethod
    def relu(a: Array, out: Array | None = None) -> Array:
        """max(a, 0). A NaN stays a NaN."""
        return np.maximum(a, a.dtype.type(0), out=out)

    @staticmethod
    def addmm(c: Array, a: Array, b: Array, out: Array) -> Array:
        """c + a @ b, written to ``out``, which may be ``c``."""
        return np.add(c, a @ b, out=out)

    @staticmethod
    def addcmul(c: Array, a: Array, b: Array, out: Array) -> Array:
        """c + a ⊙ b, written to ``out``, which may be any of them."""
        return np.add(c, a * b, out=out)

    @staticmethod
    def sigmoid_backward(d: Array, s: Array, out: Array) -> Array:
        """d ⊙ s ⊙ (1 - s), written to ``out``: the logistic function's way back, from its value s."""
        return np.multiply(s * (1 - s), d, out=out)

    @staticmethod
    def tanh_backward(d: Array, h: Array, out: Array) -> Array:
        """d ⊙ (1 - h²), written to ``out``: the way back of tanh, from its value h."""
        return np.multiply(1 - h * h, d, out=out)

    @staticmethod
    def split(a: Array, sizes: Sequence[int]) -> Sequence[Array]:
        """Views of the next ``sizes[0]``, ``sizes[1]``, … rows."""
        return np.split(a, np.cumsum(sizes)[:-1])

    @staticmethod
    def empty(shape: tuple[int, ...], like: Array) -> Array:
        """An array with any numbers in it, with the dtype (and, on torch, the device) of ``like``."""
        return np.empty(shape, dtype=like.dtype)

    @staticmethod
    def stack(arrays: Sequence[Array], axis: int = 0) -> Array:
        return np.stack(arrays, axis=axis)

    @staticmethod
    def concat(arrays: Sequence[Array], axis: int = 0) -> Array:
        return np.concatenate(arrays, axis=axis)

    @staticmethod
    def amax(a: Array, axis: int) -> Array:
        """The largest entry along an axis. A NaN wins."""
        return np.max(a, axis)

    @staticmethod
    def zeros(shape: tuple[int, ...], like: Array) -> Array:
        """Zeros with the dtype (and, on torch, the device) of ``like``."""
        return np.zeros(shape, dtype=like.dtype)

    @staticmethod
    def arange(n: int, like: Array) -> Array:
        """The whole numbers 0 to n - 1, on the device of ``like``."""
        return np.arange(n)

    @staticmethod
    def eye(n: int, like: Array) -> Array:
        return np.eye(n, dtype=like.dtype)

    @staticmethod
    def asarray(values: Any, like: Array) -> Array:
        """``values`` with the dtype (and, on torch, the device) of ``like``."""
        return np.asarray(values, dtype=like.dtype)

    @staticmethod
    def lstsq(A: Array, b: Array) -> Array:
        """The least-squares solution of ``A x = b``."""
        return np.linalg.lstsq(A, b, rcond=None)[0]

    @staticmethod
    def svdvals(A: Array) -> Array:
        """The singular values of a matrix, largest first."""
        return np.linalg.svd(A, compute_uv=False)

    @staticmethod
    def eigvals(A: Array) -> Array:
        return np.linalg.eigvals(A)

    @staticmethod
    def qr(A: Array) -> tuple[Array, Array]:
        Q, R_ = np.linalg.qr(A)
        return Q, R_

    @staticmethod
    def flip(a: Array, axis: int) -> Array:
        """The entries along an axis in reverse."""
        return np.flip(a, axis)

    @staticmethod
    def logcumsumexp(a: Array, axis: int) -> Array:
        """The logarithm of the running sum of exponentials along an axis."""
        return np.logaddexp.accumulate(a, axis)

    @staticmethod
    def matrix_exp(A: Array) -> Array:
        """The exponential of a matrix. On NumPy arrays it is SciPy's, which must be installed."""
        from scipy.linalg import expm

        return expm(A)

    @staticmethod
    def rfft(a: Array, n: int, axis: int) -> Array:
        """The Fourier transform of real numbers, behind which zeros are put up to the length n."""
        return np.fft.rfft(a, n, axis)

    @staticmethod
    def irfft(a: Array, n: int, axis: int) -> Array:
        """The n real numbers that :meth:`rfft` transforms to ``a``."""
        return np.fft.irfft(a, n, axis)

    @staticmethod
    def largest(like: Array) -> float:
        """The largest finite number of the dtype of ``like``."""
        return float(np.finfo(like.dtype).max)

    @staticmethod
    def is_floating(x: Array) -> bool:
        return bool(np.issubdtype(x.dtype, np.floating))

    @staticmethod
    def is_integer(x: Array) -> bool:
        return bool(np.issubdtype(x.dtype, np.integer))

    @staticmethod
    def extremes(x: Array) -> tuple[Any, Any] | None:
        """The smallest and the largest entry as Python numbers, or None where there are none yet."""
        return x.min().item(), x.max().item()

    @staticmethod
    def first_nan(x: Array) -> tuple[int, ...] | None:
        """The index of the first NaN, or None."""
        if x.size == 0 or not np.isnan(x.max()):  # the largest is NaN where one is: no mask of all of them
            return None
        return tuple(int(i) for i in np.argwhere(np.isnan(x))[0])

    @staticmethod
    def device(x: Array) -> str:
        return "cpu"


class TorchBackend:
    """The primitives on ``torch.Tensor``; each keeps dtype and device and is differentiable."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.exp: Callable[..., Any] = torch.exp
        self.log: Callable[..., Any] = torch.log
        self.log1p: Callable[..., Any] = torch.log1p
        self.sqrt: Callable[..., Any] = torch.sqrt
        self.abs: Callable[..., Any] = torch.abs
        self.round: Callable[..., Any] = torch.round
        self.tanh: Callable[..., Any] = torch.tanh
        self.where: Callable[..., Any] = torch.where
        self.einsum: Callable[..., Any] = torch.einsum
        self.zeros_like: Callable[..., Any] = torch.zeros_like
        self.ones_like: Callable[..., Any] = torch.ones_like
        self.sigmoid: Callable[..., Any] = torch.sigmoid
        self.copy: Callable[..., Any] = functools.partial(torch.clone, memory_format=torch.contiguous_format)
        self.mm: Callable[..., Any] = torch.mm
        self.mul: Callable[..., Any] = torch.mul
        self.sub: Callable[..., Any] = torch.sub
        self.addmm: Callable[..., Any] = torch.addmm
        self.addcmul: Callable[..., Any] = torch.addcmul
        self.svdvals: Callable[..., Any] = torch.linalg.svdvals
        self.eigvals: Callable[..., Any] = torch.linalg.eigvals
        self.logcumsumexp: Callable[..., Any] = torch.logcumsumexp
        self.matrix_exp: Callable[..., Any] = torch.linalg.matrix_exp

    def relu(self, a: Array, out: Array | None = None) -> Array:
        return self._torch.relu(a) if out is None else self._torch.clamp_min(a, 0, out=out)

    def sigmoid_backward(self, d: Array, s: Array, out: Array) -> Array:
        return self._torch.ops.aten.sigmoid_backward.grad_input(d, s, grad_input=out)

    def tanh_backward(self, d: Array, h: Array, out: Array) -> Array:
        return self._torch.ops.aten.tanh_backward.grad_input(d, h, grad_input=out)

    def contiguous(self, a: Array) -> Array:
        return a.contiguous()

    def split(self, a: Array, sizes: Sequence[int]) -> Sequence[Array]:
        return self._torch.split(a, list(sizes))

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return self._torch.empty(shape, dtype=like.dtype, device=like.device)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return self._torch.stack(tuple(arrays), dim=axis)

    def concat(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return self._torch.cat(tuple(arrays), dim=axis)

    def amax(self, a: Array, axis: int) -> Array:
        return self._torch.amax(a, axis)

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        return self._torch.zeros(shape, dtype=like.dtype, device=like.device)

    def arange(self, n: int, like: Array) -> Array:
        return self._torch.arange(n, device=like.device)

    def eye(self, n: int, like: Array) -> Array:
        return self._torch.eye(n, dtype=like.dtype, device=like.device)

    def asarray(self, values: Any, like: Array) -> Array:
        return self._torch.as_tensor(values, dtype=like.dtype, device=like.device)

    def lstsq(self, A: Array, b: Array) -> Array:
        return self._torch.linalg.lstsq(A, b).solution

    def qr(self, A: Array) -> tuple[Array, Array]:
        Q, R_ = self._torch.linalg.qr(A)
        return Q, R_

    def flip(self, a: Array, axis: int) -> Array:
        return self._torch.flip(a, (axis,))

    def rfft(self, a: Array, n: int, axis: int) -> Array:
        return self._torch.fft.rfft(a, n, axis)

    def irfft(self, a: Array, n: int, axis: int) -> Array:
        return self._torch.fft.irfft(a, n, axis)

    def largest(self, like: Array) -> float:
        return float(self._torch.finfo(like.dtype).max)

    def is_floating(self, x: Array) -> bool:
        return bool(x.dtype.is_floating_point)

    def is_integer(self, x: Array) -> bool:
        return not (x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == self._torch.bool)

    def _holds_numbers(self, x: Array) -> bool:
        # Meta and fake tensors hold none, and a graph being compiled has none yet.
        return not (x.is_meta or hasattr(x, "fake_mode") or self._torch.compiler.is_compiling())

    def extremes(self, x: Array) -> tuple[Any, Any] | None:
        return (x.min().item(), x.max().item()) if self._holds_numbers(x) else None

    def first_nan(self, x: Array) -> tuple[int, ...] | None:
        if not self._holds_numbers(x):
            return None
        nan = self._torch.isnan(x.detach())
        return tuple(int(i) for i in nan.nonzero()[0]) if bool(nan.any()) else None

    def device(self, x: Array) -> str:
        return str(x.device)


_numpy_backend = NumPyBackend()
_torch_backends: list[TorchBackend] = []  # the one, once it was needed: torch is imported no earlier


def is_torch(x: object) -> bool:
    """Whether ``x`` is a torch tensor, found out without importing torch."""
    torch = sys.modules.get("torch")  # nobody holds a tensor before torch is imported
    return torch is not None and isinstance(x, torch.Tensor)


def is_array(x: object) -> bool:
    """Whether ``x`` is a NumPy array or a torch tensor."""
    return isinstance(x, np.ndarray) or is_torch(x)


def backend_of(x: Array) -> NumPyBackend | TorchBackend:
    """The primitives for the kind of array that ``x`` is.

    Args:
        x: a NumPy array or a torch tensor.

    Raises:
        TypeError: ``x`` is neither.
    """
    if isinstance(x, np.ndarray):
        return _numpy_backend
    if is_torch(x):
        if not _torch_backends:
            _torch_backends.append(TorchBackend())
        return _torch_backends[0]
    raise TypeError(f"expected a numpy.ndarray or a torch.Tensor, got {type(x).__name__}")


# --- the checks -------------------------------------------------------------------------------


def shape_of(annotation: Any) -> str | None:
    """The shape declared by ``Annotated[Array, "B H"]`` (also inside ``... | None``), or None."""
    if get_origin(annotation) is Annotated:
        return next((m for m in get_args(annotation)[1:] if isinstance(m, str)), None)
    for part in get_args(annotation):
        if (spec := shape_of(part)) is not None:
            return spec
    return None


@functools.cache
def annotations_of(owner: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function or record, evaluated in its own module."""
    return inspect.get_annotations(owner, eval_str=True)


@functools.cache
def terms_of(dim: str) -> tuple[tuple[int, str], ...] | None:
    """``"2H+I"`` as ((2, "H"), (1, "I")); a fixed size ``"3"`` as ((3, ""),); None for a name."""
    if re.fullmatch(r"[A-Z]\w*", dim):
        return None
    terms = []
    for term in dim.split("+"):
        match = re.fullmatch(r"(\d*)([A-Z]\w*)?", term)
        if match is None or not term:
            raise ValueError(f"cannot read the dimension {dim!r}: write H, 4H, H+I or 3")
        terms.append((int(match[1] or 1), match[2] or ""))
    return tuple(terms)


# An argument to check: its name, the array, its declared shape.
Entry: TypeAlias = tuple[str, Array, str]


def any_shape(name: str, x: Array) -> str:
    """A declaration that fits whatever shape an array has: every axis is a dimension of its own.

    Args:
        name: what its dimensions begin with, a capital letter first. Arrays with one name must have one
            shape.
        x: the array.
    """
    return " ".join(f"{name}axis{axis}" for axis in range(getattr(x, "ndim", 0)))


def check_array(where: str, name: str, x: Any) -> None:
    """Refuse what is no array, whatever its dtype.

    Raises:
        TypeError: naming the argument and what came.
    """
    if not is_array(x):
        raise TypeError(
            f"{where}: {name} is a {type(x).__name__}, expected a numpy.ndarray or a torch.Tensor"
        )


def check_arrays(where: str, entries: Sequence[Entry], allow_nan: bool = False) -> dict[str, int]:
    """Hold arrays to their declared shapes, to one kind, one dtype and one device.

    Args:
        where: what the caller is called in the message.
        entries: (name, array, declared shape such as ``"B H"``, ``"4H I"`` or ``""``).
        allow_nan: skip the search for NaN.

    Returns:
        The size of every dimension named in the declarations.

    Raises:
        TypeError: not an array, two kinds of arrays, not real floating point, two dtypes.
        ValueError: a shape that does not fit, an empty dimension, two devices, a NaN.
    """
    sizes: dict[str, tuple[int, str]] = {}
    if not entries:
        return {}

    for name, x, _ in entries:
        check_array(where, name, x)
    first_name, first, _ = entries[0]
    xp = backend_of(first)
    for name, x, _ in entries:
        if backend_of(x) is not xp:
            raise TypeError(
                f"{where}: {first_name} is a {type(first).__name__} but {name} is a "
                f"{type(x).__name__}, expected all arrays of one kind"
            )
        if not xp.is_floating(x):
            raise TypeError(f"{where}: {name} has dtype {x.dtype}, expected a real floating-point dtype")
        if x.dtype != first.dtype:
            raise TypeError(
                f"{where}: {first_name} has dtype {first.dtype} but {name} has {x.dtype}, "
                "expected one dtype throughout"
            )
        if xp.device(x) != xp.device(first):
            raise ValueError(
                f"{where}: {first_name} is on {xp.device(first)} but {name} is on {xp.device(x)}, "
                "expected one device throughout"
            )

    for name, x, spec in entries:
        dims = spec.split()
        if x.ndim != len(dims):
            raise ValueError(
                f"{where}: {name} has shape {tuple(x.shape)}, expected {len(dims)} dimensions "
                f"({', '.join(dims)})"
            )
        for dim, size in zip(dims, x.shape, strict=True):
            if terms_of(dim) is None and dim not in sizes:
                sizes[dim] = (int(size), name)

    for name, x, spec in entries:  # where I is named in H+I alone, it is what H leaves
        for dim, size in zip(spec.split(), x.shape, strict=True):
            terms = terms_of(dim) or ()
            unknown = [(count, letter) for count, letter in terms if letter and letter not in sizes]
            if len(unknown) == 1 and unknown[0][0] == 1:
                rest = sum(n * (sizes[d][0] if d else 1) for n, d in terms if (n, d) != unknown[0])
                if size <= rest:
                    raise ValueError(
                        f"{where}: {name} has shape {tuple(x.shape)}, expected ({', '.join(spec.split())}) "
                        f"with {unknown[0][1]} at least 1"
                    )
                sizes[unknown[0][1]] = (int(size) - rest, name)

    for name, _, spec in entries:
        for letter in re.findall(r"[A-Z]\w*", spec):
            if letter not in sizes:
                raise ValueError(
                    f"{where}: {name} is declared ({spec}), but no argument says what {letter} is"
                )

    def wanted(dim: str) -> int:
        terms = terms_of(dim)
        if terms is None:
            return sizes[dim][0]
        return sum(count * (sizes[name][0] if name else 1) for count, name in terms)

    for name, x, spec in entries:
        dims = spec.split()
        expected = tuple(wanted(d) for d in dims)
        if tuple(x.shape) != expected:
            known = sorted({d for dim in dims for d in re.findall(r"[A-Z]\w*", dim)})
            why = ", ".join(f"{d} = {sizes[d][0]} set by {sizes[d][1]}" for d in known)
            raise ValueError(
                f"{where}: {name} has shape {tuple(x.shape)}, expected ({', '.join(dims)}) = "
                f"{expected} with {why}"
            )
        if 0 in expected:
            empty = dims[expected.index(0)]
            raise ValueError(f"{where}: {name} has shape {expected}: {empty} is 0, expected at least 1")
        if not allow_nan and (index := xp.first_nan(x)) is not None:
            raise ValueError(f"{where}: {name} holds NaN, first at index {index}")
    return {dim: size for dim, (size, _) in sizes.items()}


def _entries(name: str, value: Any, annotation: Any) -> Iterator[Entry]:
    """The arrays to check in one argument: itself, or the fields of a record."""
    spec = shape_of(annotation)
    if spec is not None:
        if value is not None or type(None) not in get_args(annotation):  # may it be left out?
            yield name, value, spec
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field, field_annotation in annotations_of(type(value)).items():
            yield from _entries(f"{name}.{field}", getattr(value, field), field_annotation)


Rule: TypeAlias = Callable[[str, str, Any], Any]
"""A check of one argument, such as :func:`check_number`, called with what the caller is called in the
message, the name and the value."""


@functools.cache
def rules_of(annotation: Any) -> tuple[Rule, ...]:
    """What an annotation asks for besides a shape: its checks, as in ``Annotated[float, check_number]``.

    A record, a protocol or a union of them asks for one of these, ``bool`` for True or False.
    """
    if get_origin(annotation) is Annotated:
        return tuple(rule for rule in get_args(annotation)[1:] if callable(rule))
    if annotation is bool:
        return (check_flag,)
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    if all(dataclasses.is_dataclass(kind) or is_protocol(kind) for kind in kinds):
        return (lambda where, name, value: check_kind(where, name, value, *kinds),)
    return ()


@functools.cache
def _rules_within(owner: Callable[..., Any]) -> tuple[tuple[str, Rule], ...]:
    """The arguments of a function, or fields of a record, each with a rule of its annotation."""
    declared = annotations_of(owner).items()
    return tuple((name, rule) for name, a in declared if name != "return" for rule in rules_of(a))


def is_protocol(kind: Any) -> bool:
    """Whether a class is a protocol, which says what others offer."""
    return getattr(kind, "_is_protocol", False)


@functools.cache
def _members_of(protocol: type) -> tuple[str, ...]:
    """What a protocol says that a value has."""
    names: set[str] = set()
    for kind in protocol.__mro__:
        if is_protocol(kind):
            names |= {*inspect.get_annotations(kind), *vars(kind)}
    return tuple(sorted(name for name in names if not name.startswith("_")))


def check_kind(where: str, name: str, value: Any, *kinds: Any) -> None:
    """Refuse what is none of some records, and lacks what each of some protocols asks for.

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        value: the argument.
        kinds: records and protocols, one of which it must be.

    Raises:
        TypeError: naming the argument, what came and what was expected.
    """
    if not isinstance(value, type):  # a class has the methods of its instances, but no parameters
        for kind in kinds:
            if is_protocol(kind):
                fits = all(hasattr(value, member) for member in _members_of(kind))
            else:
                fits = isinstance(value, kind)
            if fits:
                return
    expected = " or a ".join(kind.__name__ for kind in kinds)
    raise TypeError(f"{where}: {name} is a {type(value).__name__}, expected a {expected}")


class Checked(Protocol[P, R_co]):
    """A function that checks its arguments; ``unchecked`` is the same one without the checks."""

    unchecked: Callable[..., Any]
    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def checked(function: Callable[P, R]) -> Checked[P, R]:
    """Make a function refuse arguments that do not fit the shapes in its signature.

    Every parameter annotated ``Annotated[Array, "B H"]``, and every array field of a record,
    is held to its shape; all of them to one kind of array, one dtype, one device; none may hold
    NaN or have an empty dimension. None stands for an array only where the annotation says so. What else an
    annotation asks for (:func:`rules_of`) is checked too. The undecorated function stays reachable as
    ``.unchecked``.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        where, annotations = function.__name__, annotations_of(function)
        bound = signature.bind(*args, **kwargs)
        for name, rule in _rules_within(function):
            if name in bound.arguments:
                rule(where, name, bound.arguments[name])
        check_arrays(
            where,
            [
                entry
                for name, value in bound.arguments.items()
                for entry in _entries(name, value, annotations.get(name))
            ],
        )
        return function(*args, **kwargs)

    wrapper.unchecked = function  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def checked_with(
    *checks: Callable[[str, dict[str, Any]], None],
) -> Callable[[Callable[P, R]], Checked[P, R]]:
    """:func:`checked`, and further checks after it; ``unchecked`` has none of them.

    Args:
        checks: each is called with the name of the function and its arguments by name, defaults included.

    Returns:
        The decorator.
    """

    def decorate(function: Callable[P, R]) -> Checked[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for check in checks:
                check(function.__name__, bound.arguments)
            return function(*args, **kwargs)

        public = checked(guarded)
        public.unchecked = function
        return public

    return decorate


def check_record(record: Any) -> dict[str, int]:
    """Hold the arrays of a record (a dataclass with shapes declared on its fields) together.

    What else the annotations of its fields ask for (:func:`rules_of`) is checked too. Called from
    ``__post_init__``, so that a record that exists is a record that fits.
    """
    name = type(record).__name__
    for field, rule in _rules_within(type(record)):  # type: ignore[arg-type]
        rule(name, field, getattr(record, field))
    return check_arrays(
        name,
        [
            entry
            for field, annotation in annotations_of(type(record)).items()  # type: ignore[arg-type]
            for entry in _entries(field, getattr(record, field), annotation)
        ],
    )


def check_choice(where: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ValueError: naming the argument, what came and what was expected.
    """
    if (
        not isinstance(value, str) and is_array(value)
    ) or value not in choices:  # an array is compared entrywise
        expected = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{where}: {name} is {value!r}, expected one of {expected}")


def check_flag(where: str, name: str, value: Any) -> None:
    """Refuse a switch that is not a ``bool``: an argument in the wrong place shows here.

    Raises:
        TypeError: not a ``bool``.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{where}: {name} is {value!r}, expected True or False")


def check_count(where: str, name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """A whole number within its limits, as Python's own, which never overflows.

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        value: an ``int`` or a NumPy integer; a bool is neither.
        low: the smallest number allowed.
        high: the largest number allowed; None for no limit.

    Raises:
        TypeError: not a whole number.
        ValueError: too small or too large.
    """
    expected = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} is a {type(value).__name__}, expected {expected}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{where}: {name} is {value}, expected {expected}")
    return int(value)


def check_counts(where: str, low: int = 1, **counts: Any) -> list[int]:
    """Several whole numbers of at least ``low``, each by its name (see :func:`check_count`)."""
    return [check_count(where, name, value, low) for name, value in counts.items()]


def check_sequence(where: str, name: str, x: Any, expected: str) -> list[Any]:
    """The entries of a list, a tuple, an array or a tensor; single numbers as Python's own.

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        x: the sequence.
        expected: what it should be, in words.

    Raises:
        TypeError: no sequence, or a str.
    """
    ordered = hasattr(x, "__len__") and hasattr(x, "__getitem__") and getattr(x, "ndim", 1) > 0
    if not ordered or isinstance(x, str | Mapping):
        raise TypeError(f"{where}: {name} is a {type(x).__name__}, expected {expected}")
    return [entry.item() if getattr(entry, "ndim", None) == 0 else entry for entry in x]


def check_whole_numbers(
    where: str, name: str, x: Any, low: int = 0, high: int | None = None, least: int = 1
) -> np.ndarray:
    """A one-dimensional NumPy array of whole numbers within their limits, as int64.

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        x: the array.
        low: the smallest number allowed.
        high: the largest number allowed; None for no limit.
        least: how many there must be at least, 1 or more.

    Raises:
        TypeError: no NumPy array of whole numbers.
        ValueError: another number of dimensions, too few entries, or one that is too small or too large.
    """
    if not isinstance(x, np.ndarray) or not _numpy_backend.is_integer(x):
        came = f"has dtype {x.dtype}" if isinstance(x, np.ndarray) else f"is a {type(x).__name__}"
        raise TypeError(f"{where}: {name} {came}, expected a numpy.ndarray of whole numbers")
    if x.ndim != 1 or len(x) < least:
        raise ValueError(f"{where}: {name} has shape {x.shape}, expected (N,) with N at least {least}")
    limits = f"from {low} on" if high is None else f"from {low} to {high}"
    for extreme in _numpy_backend.extremes(x) or ():
        if extreme < low or (high is not None and extreme > high):
            raise ValueError(f"{where}: {name} holds {extreme}, expected whole numbers {limits}")
    return x.astype(np.int64, copy=False)


def check_classes(
    where: str, name: str, x: Any, like: Array, size: int, shape: tuple[int, ...] | None = None
) -> None:
    """Refuse what are not whole numbers from 0 to ``size`` - 1, of the kind and on the device of ``like``.

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        x: a NumPy array or a torch tensor of an integer dtype.
        like: an array that it stands beside.
        size: how many classes there are.
        shape: its shape; one axis of any length above 0 if None.

    Raises:
        TypeError: no such array, or another dtype.
        ValueError: another shape, another device, or a number that is no class.
    """
    xp = backend_of(like)
    if not is_array(x) or backend_of(x) is not xp:
        raise TypeError(
            f"{where}: {name} is a {type(x).__name__}, expected a {type(like).__name__} like the others"
        )
    if not xp.is_integer(x):
        raise TypeError(f"{where}: {name} has dtype {x.dtype}, expected an integer dtype")
    came = tuple(int(n) for n in x.shape)
    if shape is None and (len(came) != 1 or came[0] == 0):
        raise ValueError(f"{where}: {name} has shape {came}, expected (N,) with N at least 1")
    if shape is not None and came != shape:
        raise ValueError(f"{where}: {name} has shape {came}, expected {shape}")
    if xp.device(x) != xp.device(like):
        raise ValueError(f"{where}: {name} is on {xp.device(x)}, expected {xp.device(like)} like the others")
    for extreme in xp.extremes(x) or ():
        if not 0 <= extreme < size:
            raise ValueError(f"{where}: {name} holds {extreme}, expected whole numbers from 0 to {size - 1}")


def _number(where: str, name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{where}: {name} is a {type(value).__name__}, expected {expected}")
    number = float(value)
    if not fits(number):  # a NaN fits nowhere
        raise ValueError(f"{where}: {name} is {value!r}, expected {expected}")
    return number


def check_finite(where: str, name: str, value: Any) -> float:
    """Refuse what is not a finite number.

    Raises:
        TypeError: not a real number.
        ValueError: infinite or NaN.
    """
    return _number(where, name, value, "a finite number", math.isfinite)


def check_number(where: str, name: str, value: Any, above: bool = True, infinite: bool = False) -> float:
    """Refuse what is not a finite number above 0 (or, with ``above=False``, of at least 0).

    Args:
        where: what the caller is called in the message.
        name: what the argument is called.
        value: the number.
        above: whether 0 is refused.
        infinite: whether infinity is allowed.

    Raises:
        TypeError: not a real number.
        ValueError: infinite, NaN or too small.
    """
    expected = f"a {'' if infinite else 'finite '}number {'above' if above else 'of at least'} 0"

    def fits(number: float) -> bool:
        return (number > 0 if above else number >= 0) and (infinite or number < math.inf)

    return _number(where, name, value, expected, fits)


def check_share(where: str, name: str, value: Any, below: bool = False) -> float:
    """Refuse what is not a number from 0 to 1 (or, with ``below=True``, from 0 to below 1).

    Raises:
        TypeError: not a real number.
        ValueError: NaN or out of range.
    """
    if below:
        return _number(where, name, value, "a number from 0 to below 1", lambda number: 0 <= number < 1)
    return _number(where, name, value, "a number from 0 to 1", lambda number: 0 <= number <= 1)


def check_lapack(where: str, name: str, x: Array) -> None:
    """Refuse a half-precision matrix where eigenvalues, singular values or a QR are wanted.

    Raises:
        TypeError: the dtype is narrower than float32.
    """
    if x.dtype.itemsize < 4:
        raise TypeError(
            f"{where}: {name} has dtype {x.dtype}, expected float32 or float64: "
            "matrix decompositions exist in no half precision"
        )


def check_generator(where: str, rng: Any) -> None:
    """Refuse what is no generator of NumPy, such as a seed.

    Raises:
        TypeError: naming what came.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{where}: rng is a {type(rng).__name__}, expected a numpy.random.Generator")


def check_dtype(where: str, dtype: Any) -> None:
    """Refuse a dtype that is no real floating-point one of NumPy.

    Raises:
        TypeError: naming what came.
    """
    try:
        real = dtype is not None and np.issubdtype(np.dtype(dtype), np.floating)  # NumPy: None is float64
    except TypeError:  # no dtype at all
        real = False
    if not real:
        raise TypeError(f"{where}: dtype is {dtype!r}, expected a real floating-point dtype of NumPy")


def check_draw(where: str, rng: Any, dtype: Any) -> None:
    """Refuse what no array of floating-point numbers can be drawn with.

    Raises:
        TypeError: see :func:`check_generator` and :func:`check_dtype`.
    """
    check_generator(where, rng)
    check_dtype(where, dtype)
