"""The primitives on both kinds of array, and every refusal of the checks with its message."""

from __future__ import annotations

import functools
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from hypothesis import given
from torch._subclasses.fake_tensor import FakeTensorMode

from rnnlib import backend
from rnnlib.backend import (
    Array,
    NumPyBackend,
    TorchBackend,
    backend_of,
    check_arrays,
    check_choice,
    check_finite,
    check_number,
    check_record,
    check_share,
    checked,
    is_array,
    is_torch,
)
from tests.support import relative_error, seeds, sizes, to_numpy

KINDS = {"numpy": np.asarray, "torch": torch.tensor}
both_kinds = pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)

# --- the primitives ---------------------------------------------------------------------------

A = np.array([[0.3, -1.7, 2.0], [1e-3, -4.0, 0.9]])
B = np.array([[1.0, 2.0, -3.0], [0.5, 0.0, 7.0]])
S = np.array([[2.0, -1.0, 0.5], [0.3, 1.5, 4.0], [-2.0, 0.1, 1.0]])
TALL = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 2.5]])


def each(function: Callable[[float], float], a: np.ndarray) -> np.ndarray:
    """A function of Python's math module, entry by entry."""
    return np.array([function(float(v)) for v in a.ravel()]).reshape(a.shape)


def in_order(values: Any) -> np.ndarray:
    """Complex values in an order of their own, as real and imaginary parts."""
    v = to_numpy(values)
    v = v[np.lexsort((v.imag.round(9), v.real.round(9)))]
    return np.stack([v.real, v.imag])


def real(z: Any) -> Any:
    return z.real


def imaginary(z: Any) -> Any:
    return z.imag


def series(M: np.ndarray) -> np.ndarray:
    """The exponential of a small matrix by its series."""
    terms = [np.eye(len(M))]
    for n in range(1, 30):
        terms.append(terms[-1] @ M / n)
    return np.sum(terms[::-1], axis=0)


def positive_diagonal(Q: Any, R: Any) -> list[np.ndarray]:
    """The one QR decomposition whose R has a positive diagonal."""
    signs = np.sign(np.diag(to_numpy(R)))
    return [to_numpy(Q) * signs, signs[:, None] * to_numpy(R)]


_factor = scipy.linalg.cholesky(TALL.T @ TALL)

# Each: what to compute from the primitives xp and the conversion c, and what must come out.
PRIMITIVES: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "exp": (lambda xp, c: xp.exp(c(A)), each(math.exp, A)),
    "log": (lambda xp, c: xp.log(c(A * A)), each(math.log, A * A)),
    "log1p": (lambda xp, c: xp.log1p(c(1e-9 * A)), each(math.log1p, 1e-9 * A)),
    "sqrt": (lambda xp, c: xp.sqrt(c(A * A)), np.array([[0.3, 1.7, 2.0], [1e-3, 4.0, 0.9]])),
    "abs": (lambda xp, c: xp.abs(c(A)), np.array([[0.3, 1.7, 2.0], [1e-3, 4.0, 0.9]])),
    "round": (lambda xp, c: xp.round(c(np.append(A, 2.5))), each(round, np.append(A, 2.5))),
    "tanh": (lambda xp, c: xp.tanh(c(A)), each(math.tanh, A)),
    "sigmoid": (lambda xp, c: xp.sigmoid(c(A)), scipy.special.expit(A)),
    "relu": (lambda xp, c: xp.relu(c(A)), np.array([[0.3, 0, 2.0], [1e-3, 0, 0.9]])),
    "where": (lambda xp, c: xp.where(c(A) > 0, c(A), c(B)), np.array([[0.3, 2.0, 2.0], [1e-3, 0.0, 0.9]])),
    "einsum": (
        lambda xp, c: xp.einsum("bi,ij,bj->b", c(A), c(S), c(B)),
        np.array([A[b].dot(S.dot(B[b])) for b in range(2)]),
    ),
    "zeros_like": (lambda xp, c: xp.zeros_like(c(A)), np.zeros((2, 3))),
    "ones_like": (lambda xp, c: xp.ones_like(c(A)), np.ones((2, 3))),
    "stack": (
        lambda xp, c: [
            xp.stack([c(A), c(B)]),
            xp.stack([c(A), c(B)], axis=1),
            xp.stack((c(A), c(B)), axis=-1),
        ],
        [np.array([A, B]), np.array([[A[0], B[0]], [A[1], B[1]]]), np.moveaxis(np.array([A, B]), 0, -1)],
    ),
    "concat": (
        lambda xp, c: [xp.concat([c(A), c(S)]), xp.concat([c(A), c(TALL[:2])], axis=1)],
        [np.vstack([A, S]), np.hstack([A, TALL[:2]])],
    ),
    "amax": (
        lambda xp, c: [xp.amax(c(A), 0), xp.amax(c(A), 1), xp.amax(c(A), -1)],
        [np.array([0.3, -1.7, 2.0]), np.array([2.0, 0.9]), np.array([2.0, 0.9])],
    ),
    "zeros": (lambda xp, c: xp.zeros((3, 2), like=c(A)), np.array([[0.0, 0.0]] * 3)),
    "arange": (lambda xp, c: xp.arange(4, like=c(A)), np.array([0, 1, 2, 3])),
    "eye": (lambda xp, c: xp.eye(2, like=c(A)), np.array([[1.0, 0.0], [0.0, 1.0]])),
    "asarray": (
        lambda xp, c: [xp.asarray([[1, 2], [3, 4]], like=c(A)), xp.asarray(np.float32(0.5), like=c(A))],
        [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array(0.5)],
    ),
    "lstsq": (
        lambda xp, c: xp.lstsq(c(TALL), c(TALL[:, ::-1] ** 2)),
        scipy.linalg.lstsq(TALL, TALL[:, ::-1] ** 2)[0],
    ),
    "svdvals": (
        lambda xp, c: xp.svdvals(c(np.stack([S, S.T @ S]))),
        np.stack([scipy.linalg.svdvals(S), scipy.linalg.svdvals(S) ** 2]),
    ),
    "eigvals": (lambda xp, c: in_order(xp.eigvals(c(S))), in_order(scipy.linalg.eigvals(S))),
    "qr": (
        lambda xp, c: positive_diagonal(*xp.qr(c(TALL))),
        [scipy.linalg.solve_triangular(_factor, TALL.T, trans="T").T, _factor],
    ),
    "flip": (
        lambda xp, c: [xp.flip(c(A), 0), xp.flip(c(A), 1)],
        [A[::-1], A[:, ::-1]],
    ),
    "logcumsumexp": (
        lambda xp, c: [xp.logcumsumexp(c(A), 0), xp.logcumsumexp(c(A), 1)],
        [np.log(np.cumsum(np.exp(A), 0)), np.log(np.cumsum(np.exp(A), 1))],
    ),
    "matrix_exp": (lambda xp, c: xp.matrix_exp(c(S / 8)), series(S / 8)),
    "rfft": (
        lambda xp, c: [part(xp.rfft(c(A), 4, 1)) for part in (real, imaginary)],
        [part(np.fft.fft(np.pad(A, ((0, 0), (0, 1))))[:, :3]) for part in (np.real, np.imag)],
    ),
    "irfft": (lambda xp, c: xp.irfft(xp.rfft(c(TALL), 5, 0), 5, 0), np.pad(TALL, ((0, 1), (0, 0)))),
    "largest": (
        lambda xp, c: [
            xp.largest(c(A)),
            xp.largest(c(A.astype(np.float32))),
            xp.largest(c(A.astype(np.float16))),
        ],
        [sys.float_info.max, (2 - 2**-23) * 2.0**127, 65504.0],
    ),
    "is_floating": (
        lambda xp, c: [xp.is_floating(c(A)), xp.is_floating(c(np.arange(2))), xp.is_floating(c(A + 1j))],
        [True, False, False],
    ),
    "is_integer": (
        lambda xp, c: [
            xp.is_integer(c(x)) for x in (np.arange(2), np.arange(2, dtype=np.uint8), A, A + 1j, A > 0)
        ],
        [True, True, False, False, False],
    ),
    "extremes": (lambda xp, c: list(xp.extremes(c(A))), [-4.0, 2.0]),
    "first_nan": (
        lambda xp, c: [*xp.first_nan(c(np.where(A > 1, np.nan, A))), *xp.first_nan(c(np.array(np.nan)))],
        [0, 2],
    ),
    "device": (lambda xp, c: [float(xp.device(c(A)) == "cpu")], [1.0]),
    "copy": (lambda xp, c: xp.copy(c(A)), A),
    "contiguous": (lambda xp, c: xp.contiguous(c(A).T), A.T),
    "empty": (lambda xp, c: list(xp.empty((4, 3), like=c(A)).shape), [4, 3]),
    "split": (lambda xp, c: list(xp.split(c(TALL), (1, 3))), [TALL[:1], TALL[1:]]),
    "mm": (lambda xp, c: written(xp.mm, c, TALL, A), [TALL @ A] * 2),
    "mul": (lambda xp, c: written(xp.mul, c, A, B), [A * B] * 2),
    "sub": (lambda xp, c: written(xp.sub, c, A, B), [A - B] * 2),
    "addmm": (lambda xp, c: written(xp.addmm, c, A, A @ S, S), [A + A @ S @ S] * 2),
    "addcmul": (lambda xp, c: written(xp.addcmul, c, A, B, B), [A + B * B] * 2),
    "sigmoid_backward": (lambda xp, c: written(xp.sigmoid_backward, c, A, B), [A * B * (1 - B)] * 2),
    "tanh_backward": (lambda xp, c: written(xp.tanh_backward, c, A, B), [A * (1 - B * B)] * 2),
}


def written(function: Callable[..., Any], convert: Any, *arrays: np.ndarray) -> list[Any]:
    """What a primitive returns, and what it has written to the array it was given for it."""
    values = [convert(a) for a in arrays]
    shape = (len(arrays[0]), arrays[-1].shape[1])
    out = convert(np.full(shape, 7.0))
    return [function(*values, out=out), out]


def primitives_of(xp: Any) -> set[str]:
    return {name for name in dir(xp) if not name.startswith("_")} - {"name"}


def test_both_backends_offer_the_same_primitives_and_each_has_a_case():
    assert primitives_of(NumPyBackend()) == primitives_of(TorchBackend())
    assert primitives_of(NumPyBackend()) == set(PRIMITIVES)


@both_kinds
@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_primitive_agrees_with_a_reference(name, convert):
    compute, expected = PRIMITIVES[name]
    xp = backend_of(convert(A))
    actual = compute(xp, convert)
    if not isinstance(expected, list):
        actual, expected = [actual], [expected]
    for x, y in zip(actual, expected, strict=True):
        assert relative_error(x, y) < 1e-14


ELEMENTWISE = ("exp", "sqrt", "abs", "tanh", "sigmoid", "relu", "where", "zeros_like", "ones_like")
BUILDING = ("einsum", "stack", "concat", "amax", "flip", "zeros", "eye", "asarray")
DIFFERENTIABLE = (
    *("log", "log1p", "einsum", "stack", "concat", "amax", "svdvals", "lstsq"),
    *("flip", "logcumsumexp", "matrix_exp", "rfft", "irfft"),
    *ELEMENTWISE[:7],
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ELEMENTWISE + BUILDING)
def test_a_primitive_keeps_dtype_and_device(name, dtype):
    def result_of(xp, convert):
        result = PRIMITIVES[name][0](xp, convert)
        return result[0] if isinstance(result, list) else result

    xp = backend_of(torch.ones(1))
    assert result_of(xp, lambda a: torch.tensor(a).to(dtype)).dtype == dtype
    on_meta = result_of(xp, lambda a: torch.tensor(a).to(dtype).to("meta"))
    assert on_meta.dtype == dtype
    assert on_meta.is_meta
    if dtype != torch.bfloat16:
        numpy_dtype = torch.ones(1, dtype=dtype).numpy().dtype
        assert result_of(backend_of(A), lambda a: a.astype(numpy_dtype)).dtype == numpy_dtype


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_primitive_can_be_differentiated_on_torch(name):
    compute, _ = PRIMITIVES[name]
    xp = backend_of(torch.ones(1))

    def scaled(scale):
        result = compute(xp, lambda a: scale * torch.tensor(a))
        return tuple(result) if isinstance(result, list) else result

    assert torch.autograd.gradcheck(scaled, torch.tensor(1.3, dtype=torch.float64, requires_grad=True))


@given(sizes("B", "H"), seeds)
def test_the_logistic_function_agrees_with_scipy_far_out(n, seed):
    a = 100 * np.random.default_rng(seed).normal(size=(n["B"], n["H"]))
    expected = scipy.special.expit(a)
    for convert in KINDS.values():
        value = backend_of(convert(a)).sigmoid(convert(a))
        np.testing.assert_allclose(to_numpy(value), expected, rtol=1e-14)  # the small ones too


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_logistic_function_neither_overflows_nor_loses_a_nan(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = NumPyBackend.sigmoid(np.array([-np.inf, -6e4, 0, 6e4, np.inf, np.nan], dtype))
    assert value.dtype == dtype
    np.testing.assert_array_equal(value, [0, 0, 0.5, 1, 1, np.nan])


@both_kinds
def test_a_nan_passes_through_the_rectifier_and_wins_a_maximum(convert):
    a = convert(np.array([[np.nan, -1.0], [2.0, 3.0]]))
    xp = backend_of(a)
    np.testing.assert_array_equal(to_numpy(xp.relu(a)), [[np.nan, 0], [2, 3]])
    np.testing.assert_array_equal(to_numpy(xp.amax(a, 1)), [np.nan, 3])


@both_kinds
def test_the_first_nan_is_found_in_the_order_of_the_rows(convert):
    a = np.ones((2, 3, 2))
    assert backend_of(convert(a)).first_nan(convert(a)) is None
    a[1, 0, 1] = a[0, 2, 1] = a[1, 2, 0] = np.nan
    assert backend_of(convert(a)).first_nan(convert(a)) == (0, 2, 1)
    assert backend_of(convert(a)).first_nan(convert(np.array([np.inf, -np.inf]))) is None


def test_a_gradient_does_not_hinder_the_search_for_nan():
    a = torch.tensor([1.0, math.nan], requires_grad=True)
    assert backend_of(a).first_nan(a) == (1,)


def test_tensors_without_numbers_are_not_searched(monkeypatch):
    xp = TorchBackend()
    assert xp.first_nan(torch.ones(2, device="meta")) is None
    assert xp.extremes(torch.ones(2, device="meta")) is None
    with FakeTensorMode():
        assert xp.first_nan(torch.ones(2)) is None
        assert xp.extremes(torch.ones(2)) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert xp.first_nan(torch.tensor([math.nan])) is None
    assert xp.extremes(torch.ones(2)) is None


# --- which backend ----------------------------------------------------------------------------


def test_the_backend_is_found_from_the_array():
    assert backend_of(A).name == "numpy"
    assert backend_of(torch.ones(1)).name == "torch"
    assert backend_of(torch.nn.Parameter(torch.ones(1))).name == "torch"
    assert backend_of(torch.ones(1)) is backend_of(torch.zeros(2))
    for x in ([1.0], 1.0, np.float64(1), None):
        assert not is_array(x)
        with pytest.raises(
            TypeError, match=f"expected a numpy.ndarray or a torch.Tensor, got {type(x).__name__}"
        ):
            backend_of(x)
    assert is_array(A)
    assert is_array(torch.ones(1))
    assert not is_torch(A)


def test_nobody_holds_a_tensor_before_torch_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert not is_torch(A)
    assert is_array(A)
    assert backend_of(A).name == "numpy"


def test_the_package_imports_numpy_alone():
    code = (
        "import sys, rnnlib; from rnnlib import equations; import numpy as np; "
        "equations.equation('eq-vanilla-hidden').function(np.ones((1, 1))); "
        "print(sorted({'torch', 'scipy', 'matplotlib', 'jax', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- the checks -------------------------------------------------------------------------------


def refused(error: type[Exception], message: str, *entries: Any, **options: Any) -> None:
    """The whole message is compared, so that every part of it is held."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        check_arrays("f", list(entries), **options)


@both_kinds
def test_what_fits_passes_and_its_sizes_are_returned(convert):
    H, I = 3, 2
    found = check_arrays(
        "f",
        [
            ("W", convert(np.ones((4 * H, H + I))), "4H H+I"),
            ("h", convert(np.ones((5, H))), "B H"),
            ("x", convert(np.ones((5, I))), "B I"),
            ("s", convert(np.array(1.0)), ""),
            ("p", convert(np.ones(3)), "3"),
            ("q", convert(np.ones(2 * H + I + 1)), "2H+I+1"),
        ],
    )
    assert found == {"H": 3, "B": 5, "I": 2}
    assert check_arrays("f", []) == {}


def test_what_is_no_array_is_refused():
    for x, kind in [([1.0], "list"), (1.0, "float"), (None, "NoneType"), (np.float64(1), "float64")]:
        refused(
            TypeError,
            f"f: b is a {kind}, expected a numpy.ndarray or a torch.Tensor",
            ("a", A, "B H"),
            ("b", x, "H"),
        )


def test_two_kinds_of_arrays_are_refused():
    message = "f: a is a {} but b is a {}, expected all arrays of one kind"
    refused(TypeError, message.format("ndarray", "Tensor"), ("a", A, "B H"), ("b", torch.ones(3), "H"))
    refused(TypeError, message.format("Tensor", "ndarray"), ("a", torch.ones(3), "H"), ("b", A, "B H"))


@both_kinds
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.complex64, np.complex128])
def test_what_is_not_real_floating_point_is_refused(convert, dtype):
    x = convert(np.ones(3, dtype))
    refused(
        TypeError,
        f"f: b has dtype {x.dtype}, expected a real floating-point dtype",
        ("a", convert(A), "B H"),
        ("b", x, "H"),
    )
    refused(TypeError, f"f: b has dtype {x.dtype}, expected a real floating-point dtype", ("b", x, "H"))


@both_kinds
def test_two_dtypes_are_refused(convert):
    a, b = convert(A), convert(np.ones(3, np.float32))
    refused(
        TypeError,
        f"f: a has dtype {a.dtype} but b has {b.dtype}, expected one dtype throughout",
        ("a", a, "B H"),
        ("b", b, "H"),
    )


def test_two_devices_are_refused():
    refused(
        ValueError,
        "f: a is on cpu but b is on meta, expected one device throughout",
        ("a", torch.ones(2, 3), "B H"),
        ("b", torch.ones(3, device="meta"), "H"),
    )
    assert check_arrays("f", [("b", torch.ones(3, device="meta"), "H")]) == {"H": 3}


@both_kinds
def test_a_wrong_number_of_dimensions_is_refused(convert):
    a = convert(A)
    refused(ValueError, "f: b has shape (2, 3), expected 1 dimensions (H)", ("a", a, "B H"), ("b", a, "H"))
    refused(ValueError, "f: a has shape (2, 3), expected 3 dimensions (T, B, H)", ("a", a, "T B H"))
    refused(ValueError, "f: a has shape (2, 3), expected 0 dimensions ()", ("a", a, ""))


@both_kinds
def test_a_wrong_size_is_refused_and_says_who_set_the_right_one(convert):
    h, x = convert(np.ones((4, 3))), convert(np.ones((4, 2)))

    def array(*shape):
        return convert(np.ones(shape))

    given_ = [("h", h, "B H"), ("x", x, "B I")]
    for shape, spec, message in [
        ((4, 2), "B H", "expected (B, H) = (4, 3) with B = 4 set by h, H = 3 set by h"),
        ((3, 3), "B H", "expected (B, H) = (4, 3) with B = 4 set by h, H = 3 set by h"),
        ((3, 4), "H H+I", "expected (H, H+I) = (3, 5) with H = 3 set by h, I = 2 set by x"),
        ((9, 2), "4H I", "expected (4H, I) = (12, 2) with H = 3 set by h, I = 2 set by x"),
        ((3, 1), "H 3", "expected (H, 3) = (3, 3) with H = 3 set by h"),
        ((8,), "2H+I+1", "expected (2H+I+1) = (9,) with H = 3 set by h, I = 2 set by x"),
    ]:
        refused(ValueError, f"f: W has shape {shape}, {message}", *given_, ("W", array(*shape), spec))
    # A square matrix that is not, on its own.
    refused(
        ValueError,
        "f: W has shape (2, 3), expected (H, H) = (2, 2) with H = 2 set by W",
        ("W", array(2, 3), "H H"),
    )
    # Sizes are read from plain names only, wherever these stand.
    check_arrays("f", [("W", array(12, 5), "4H H+I"), *given_])


@both_kinds
def test_an_empty_dimension_is_refused(convert):
    refused(
        ValueError,
        "f: a has shape (0, 3): B is 0, expected at least 1",
        ("a", convert(np.ones((0, 3))), "B H"),
    )
    refused(
        ValueError,
        "f: a has shape (2, 0): H is 0, expected at least 1",
        ("a", convert(np.ones((2, 0))), "B H"),
    )


@both_kinds
def test_a_nan_is_refused_with_its_index_unless_allowed(convert):
    b = np.ones((2, 3))
    b[1, 2] = np.nan
    entries = [("a", convert(A), "B H"), ("b", convert(b), "B H")]
    refused(ValueError, "f: b holds NaN, first at index (1, 2)", *entries)
    assert check_arrays("f", entries, allow_nan=True) == {"B": 2, "H": 3}
    refused(ValueError, "f: s holds NaN, first at index ()", ("s", convert(np.array(np.nan)), ""))
    check_arrays("f", [("a", convert(np.array([np.inf, -np.inf])), "H")])


def test_a_shape_that_cannot_be_read_is_refused():
    for dim in ("h", "H-1", "H+", "+H", "H*2", "4_H", "H++I"):
        with pytest.raises(ValueError, match=re.escape(f"cannot read the dimension {dim!r}")):
            check_arrays("f", [("h", np.ones(3), "H"), ("i", np.ones(3), "I"), ("a", np.ones(3), dim)])


# --- checked functions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Parameters with shapes declared on the fields."""

    W: Annotated[Array, "O H"]
    b: Annotated[Array, "O"] | None = None
    activation: str = "tanh"

    def __post_init__(self) -> None:
        check_record(self)


@dataclass(frozen=True)
class Outer:
    """A record that holds a record."""

    inner: Record
    gain: Annotated[Array, ""]


@checked
def affine(
    h: Annotated[Array, "B H"], layer: Record, shift: Annotated[Array, "O"] | None = None, scale: float = 1.0
) -> Annotated[Array, "B O"]:
    """An affine map."""
    y = scale * (h @ layer.W.T)
    return y if shift is None else y + shift


@both_kinds
def test_a_checked_function_computes_and_refuses(convert):
    layer = Record(convert(np.ones((2, 3))), convert(np.ones(2)))
    h, shift = convert(A), convert(np.array([1.0, -1.0]))
    expected = 2 * A.sum(1, keepdims=True) + np.array([[1.0, -1.0]])
    for result in (
        affine(h, layer, shift, 2.0),
        affine(layer=layer, scale=2.0, shift=shift, h=h),
        affine.unchecked(h, layer, shift, 2.0),
    ):
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-15)
    np.testing.assert_allclose(to_numpy(affine(h, layer)), np.repeat(A.sum(1, keepdims=True), 2, 1))

    with pytest.raises(
        ValueError, match=r"^affine: layer.W has shape \(2, 3\), expected \(O, H\) = \(2, 2\)"
    ):
        affine(h[:, :2], layer)
    with pytest.raises(ValueError, match=r"^affine: shift has shape \(3,\), expected \(O\) = \(2,\)"):
        affine(h, layer, convert(np.ones(3)))
    with pytest.raises(ValueError, match=r"^affine: h holds NaN, first at index \(0, 1\)"):
        affine(convert(np.array([[0.0, np.nan, 0.0]])), layer)
    with pytest.raises(TypeError, match=r"^affine: h is a list"):
        affine([[1.0, 2.0, 3.0]], layer)
    with pytest.raises(TypeError, match=r"^affine: h is a NoneType, expected a numpy.ndarray or"):
        affine(None, layer)
    with pytest.raises(TypeError, match=r"^affine: layer is a (ndarray|Tensor), expected a Record$"):
        affine(h, h)
    with pytest.raises(TypeError, match=r"^affine: layer is a Outer, expected a Record$"):
        affine(h, Outer(layer, convert(np.array(1.0))))


def test_a_checked_function_keeps_its_name_its_signature_and_its_errors():
    assert affine.__name__ == affine.__qualname__ == "affine"
    assert affine.__doc__ == "An affine map."
    assert affine.unchecked.__name__ == "affine"
    with pytest.raises(TypeError, match="missing a required argument: 'layer'"):
        affine(A)
    with pytest.raises(TypeError, match="unexpected keyword argument 'gain'"):
        affine(A, Record(np.ones((2, 3))), gain=2.0)


def test_the_unchecked_function_lets_a_nan_through():
    result = affine.unchecked(np.array([[np.nan, 1.0, 1.0], [1.0, 1.0, 1.0]]), Record(np.ones((2, 3))))
    np.testing.assert_array_equal(np.isnan(result), [[True, True], [False, False]])


@both_kinds
def test_a_record_that_exists_is_a_record_that_fits(convert):
    W = convert(np.ones((2, 3)))
    assert check_record(Record(W)) == {"O": 2, "H": 3}
    with pytest.raises(
        ValueError, match=r"^Record: b has shape \(3,\), expected \(O\) = \(2,\) with O = 2 set by W"
    ):
        Record(W, convert(np.ones(3)))
    with pytest.raises(TypeError, match=r"^Record: W has dtype .*float64 but b has .*float32, expected one"):
        Record(W, convert(np.ones(2, np.float32)))
    with pytest.raises(ValueError, match=r"^Record: W holds NaN, first at index \(0, 0\)"):
        Record(convert(np.full((1, 1), np.nan)))


def test_records_within_records_are_checked_together():
    @checked
    def f(outer: Outer, h: Annotated[Array, "B H"]) -> None:
        return None

    good = Outer(Record(np.ones((2, 3))), np.array(1.0))
    f(good, A)
    with pytest.raises(ValueError, match=r"^f: h has shape \(2, 2\), expected .* H = 3 set by outer.inner.W"):
        f(good, A[:, :2])
    with pytest.raises(ValueError, match=r"^f: outer.gain has shape \(1,\), expected 0 dimensions"):
        f(Outer(Record(np.ones((2, 3))), np.ones(1)), A)


def test_a_class_or_another_object_is_no_record():
    @checked
    def f(a: Annotated[Array, "H"], kind: Any = None) -> Any:
        return kind

    assert f(np.ones(2), Record) is Record
    assert f(np.ones(2), {"W": "not looked at"}) == {"W": "not looked at"}


def test_a_value_that_is_none_of_the_choices_is_refused():
    check_choice("f", "merge", "sum", ("concat", "sum"))
    with pytest.raises(ValueError, match=r"^f: merge is 'max', expected one of 'concat', 'sum'$"):
        check_choice("f", "merge", "max", ("concat", "sum"))
    with pytest.raises(ValueError, match=r"^f: layers is None, expected one of 1, 2$"):
        check_choice("f", "layers", None, (1, 2))


@pytest.mark.parametrize(
    ("check", "expected", "good", "bad"),
    [
        (check_finite, "a finite number", (-2, 0, 0.5), (math.inf, -math.inf, math.nan)),
        (check_number, "a finite number above 0", (1, 0.25), (0, -1.0, math.inf, math.nan)),
        (
            functools.partial(check_number, above=False),
            "a finite number of at least 0",
            (0, 0.5),
            (-1e-300, math.inf, math.nan),
        ),
        (check_share, "a number from 0 to 1", (0, 0.5, 1), (-0.1, 1.1, math.inf, math.nan)),
        (
            functools.partial(check_share, below=True),
            "a number from 0 to below 1",
            (0, 0.75),
            (-0.1, 1, math.nan),
        ),
    ],
    ids=["finite", "above 0", "at least 0", "share", "share below 1"],
)
def test_numbers_out_of_range_are_refused(check, expected, good, bad):
    for kind in (float, np.float64, np.float32):
        for value in good:
            number = check("f", "x", kind(value))
            assert type(number) is float
            assert number == value
    for value in bad:
        with pytest.raises(ValueError, match=f"^f: x is {value}, expected {expected}$"):
            check("f", "x", value)
    for value in ("1", None, True, 1j, np.ones(1)):
        with pytest.raises(TypeError, match=f"^f: x is a {type(value).__name__}, expected {expected}$"):
            check("f", "x", value)


def test_dimensions_are_read_as_sums_of_multiples():
    assert backend.terms_of("H") is None
    assert backend.terms_of("T_long1") is None
    assert backend.terms_of("4H") == ((4, "H"),)
    assert backend.terms_of("H+I") == ((1, "H"), (1, "I"))
    assert backend.terms_of("2H+12I+3") == ((2, "H"), (12, "I"), (3, ""))
    assert backend.terms_of("3") == ((3, ""),)


def test_a_declaration_that_names_a_size_nowhere_alone_is_refused():
    with pytest.raises(ValueError, match=r"f: W is declared \(4H H\+I\), but no argument says what H is"):
        check_arrays("f", [("W", np.ones((8, 5)), "4H H+I")])
