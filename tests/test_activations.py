"""Activations and their derivatives, held to torch's autograd, SciPy and 50-digit arithmetic."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import activations
from tests.support import TOLERANCE, relative_error, seeds, sizes, to_numpy

mpmath = pytest.importorskip("mpmath")
mpmath.mp.dps = 50

TORCH = {
    "tanh": torch.tanh,
    "logistic": torch.special.expit,
    "relu": torch.nn.functional.relu,
    "identity": lambda a: a * 1,
}
VALUE = {"tanh": activations.tanh, "logistic": activations.logistic, "relu": activations.relu}
DERIVATIVE = {
    "tanh": activations.tanh_derivative,
    "logistic": activations.logistic_derivative,
    "relu": activations.relu_derivative,
}
EXACT = {
    "tanh": mpmath.tanh,
    "logistic": lambda a: 1 / (1 + mpmath.exp(-a)),
    "relu": lambda a: max(a, mpmath.mpf(0)),
}
EXACT_DERIVATIVE = {
    "tanh": lambda a: 1 / mpmath.cosh(a) ** 2,
    "logistic": lambda a: 1 / (2 * mpmath.cosh(a / 2)) ** 2,
    "relu": lambda a: mpmath.mpf(a > 0),
}
ARGUMENTS = np.array([0.0, 1e-300, 1e-8, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 18.0, 36.0, 50.0, 300.0, 700.0])
ARGUMENTS = np.concatenate([-ARGUMENTS[:0:-1], ARGUMENTS])


@pytest.mark.equation(
    "eq-activation-tanh",
    "eq-activation-tanh-derivative",
    "eq-activation-logistic",
    "eq-activation-logistic-derivative",
    "eq-activation-relu",
    "eq-activation-relu-derivative",
)
@pytest.mark.parametrize("name", VALUE)
@given(n=sizes("B", "H"), scale=st.sampled_from([1.0, 10.0]), seed=seeds)
def test_values_and_derivatives_agree_with_torch(agree, name, n, scale, seed):
    a = scale * np.random.default_rng(seed).normal(size=(n["B"], n["H"]))
    t = torch.tensor(a, requires_grad=True)
    h = TORCH[name](t)
    (d,) = torch.autograd.grad(h.sum(), t)
    for x in (a, torch.tensor(a)):
        agree(VALUE[name], "torch", VALUE[name](x), h)
        agree(DERIVATIVE[name], "torch.autograd", DERIVATIVE[name](x), d)
        # By name, the same.
        agree(activations.apply, "torch", activations.apply(name, x), h)
        agree(activations.apply_derivative, "torch.autograd", activations.apply_derivative(name, x), d)


@pytest.mark.equation("eq-activation-logistic")
@given(sizes("B", "H"), seeds)
def test_the_logistic_function_agrees_with_scipy(agree, n, seed):
    a = 20 * np.random.default_rng(seed).normal(size=(n["B"], n["H"]))
    value = activations.logistic(a)
    agree(activations.logistic, "scipy.special.expit", value, scipy.special.expit(a))
    np.testing.assert_allclose(value, scipy.special.expit(a), rtol=1e-14)  # the small ones too


@pytest.mark.equation(
    "eq-activation-tanh", "eq-activation-logistic", "eq-activation-relu", "eq-activation-logistic-derivative"
)
@pytest.mark.parametrize("name", VALUE)
def test_values_keep_their_digits_over_the_whole_range(agree, name):
    """Entry by entry, so that no large one hides a small one."""
    a = ARGUMENTS[None]
    expected = np.array([[float(EXACT[name](mpmath.mpf(v))) for v in ARGUMENTS]])
    np.testing.assert_allclose(VALUE[name](a), expected, rtol=1e-15)
    agree(VALUE[name], "mpmath", VALUE[name](a), expected)
    derivative = np.array([[float(EXACT_DERIVATIVE[name](mpmath.mpf(v))) for v in ARGUMENTS]])
    agree(DERIVATIVE[name], "mpmath", DERIVATIVE[name](a), derivative)
    if name != "tanh":  # 1 - tanh² has no relative accuracy at the ends, only an absolute one
        np.testing.assert_allclose(DERIVATIVE[name](a), derivative, rtol=1e-14)


@pytest.mark.equation(
    "eq-activation-tanh-derivative", "eq-activation-logistic-derivative", "eq-activation-relu-derivative"
)
@pytest.mark.parametrize("name", DERIVATIVE)
def test_derivatives_are_the_slopes_of_the_values(name):
    a = np.linspace(-3.05, 2.95, 25)[None]  # keeps clear of the rectifier's corner
    step = 1e-5
    slope = (VALUE[name](a + step) - VALUE[name](a - step)) / (2 * step)
    assert relative_error(DERIVATIVE[name](a), slope) < 1e-9


@pytest.mark.equation("eq-activation-relu", "eq-activation-relu-derivative")
def test_the_rectifier_takes_the_slope_zero_at_zero_as_torch_does():
    for convert in (np.asarray, torch.tensor):
        a = convert(np.array([[-0.0, 0.0, 1e-300, -1e-300]]))
        np.testing.assert_array_equal(to_numpy(activations.relu_derivative(a)), [[0, 0, 1, 0]])
        np.testing.assert_array_equal(to_numpy(activations.relu(a)), [[0, 0, 1e-300, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", VALUE)
def test_saturated_arguments_reach_the_limits_without_a_warning(name, dtype):
    limits = {"tanh": [-1, 1, -1, 1], "logistic": [0, 1, 0, 1], "relu": [0, 1e4, 0, math.inf]}[name]
    slopes = [0, 1] if name == "relu" else [0, 0]
    a = np.array([[-1e4, 1e4, -math.inf, math.inf]], dtype=dtype)
    # On some processors NumPy's tanh of half precision stops at 0.9985: https://github.com/numpy/numpy/issues/30821
    near = 4 * np.finfo(dtype).eps if (name, dtype) == ("tanh", np.float16) else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (a, torch.tensor(a)):
            value, slope = VALUE[name](x), DERIVATIVE[name](x[:, :2])
            np.testing.assert_allclose(to_numpy(value), np.array([limits], dtype), rtol=0, atol=near)
            np.testing.assert_allclose(to_numpy(slope), np.array([slopes], dtype), rtol=0, atol=near)
            assert value.dtype == slope.dtype == x.dtype


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_nan_stays_a_nan_and_touches_no_other_entry(name, convert):
    a = convert(np.array([[1.0, math.nan], [-2.0, 0.5]]))
    value = to_numpy(activations.apply(name, a))
    np.testing.assert_array_equal(np.isnan(value), [[False, True], [False, False]])
    slope = to_numpy(activations.apply_derivative(name, a))
    lost = name != "identity"  # whose slope is 1 whatever comes in
    np.testing.assert_array_equal(np.isnan(slope), [[False, lost], [False, False]])


@pytest.mark.parametrize("name", VALUE)
def test_a_nan_is_refused_by_the_public_functions(name):
    for function in (VALUE[name], DERIVATIVE[name]):
        with pytest.raises(ValueError, match=r"a holds NaN, first at index \(0, 1\)"):
            function(np.array([[1.0, math.nan]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_dtype_and_device_is_kept(name, dtype):
    a = torch.linspace(-4, 4, 9, dtype=torch.float64)[None]
    rounded = a.to(dtype)
    value, slope = activations.apply(name, rounded), activations.apply_derivative(name, rounded)
    assert value.dtype == slope.dtype == dtype
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    assert relative_error(value, activations.apply(name, rounded.double())) < tolerance
    assert relative_error(slope, activations.apply_derivative(name, rounded.double())) < tolerance
    meta = torch.ones(2, 3, dtype=dtype, device="meta")
    assert activations.apply(name, meta).is_meta
    assert activations.apply_derivative(name, meta).is_meta
    if dtype != torch.bfloat16:
        numpy_value = activations.apply(name, rounded.numpy())
        assert numpy_value.dtype == activations.apply_derivative(name, rounded.numpy()).dtype
        assert numpy_value.dtype == rounded.numpy().dtype


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_the_activation_by_name_is_the_function_and_can_be_differentiated(name):
    a = torch.tensor([[-1.5, -0.3, 0.4, 2.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activations.apply(name, a).sum(), a)
    np.testing.assert_allclose(to_numpy(activations.apply_derivative(name, a)), to_numpy(slope), rtol=1e-14)
    assert torch.autograd.gradcheck(lambda a: activations.apply(name, a), (a,))
    if name != "relu":
        assert torch.autograd.gradcheck(lambda a: activations.apply_derivative(name, a) + 0 * a, (a,))


def test_any_shape_will_do_by_name():
    a = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_array_equal(activations.apply("tanh", a[::-1, ::2]), np.tanh(a)[::-1, ::2])
    assert activations.apply_derivative("identity", a).shape == a.shape


def test_an_unknown_activation_is_refused():
    for function in (activations.apply, activations.apply_derivative):
        with pytest.raises(
            ValueError,
            match="activation is 'gelu', expected one of 'tanh', 'logistic', 'relu', 'identity'",
        ):
            function("gelu", np.ones((1, 1)))


def test_the_slope_of_tanh_keeps_its_digits_where_tanh_has_rounded_to_one(agree):
    a = np.array([[0.0, 1e-9, -3.0, 18.0, 25.0, -300.0]])
    exact = [[float(mpmath.sech(mpmath.mpf(float(x))) ** 2) for x in a[0]]]
    slope = activations.tanh_derivative(a)
    assert np.tanh(25.0) == 1
    np.testing.assert_allclose(slope, exact, rtol=1e-14)


def test_the_slope_of_relu_at_infinity_is_that_of_the_limit():
    a = np.array([[-np.inf, np.inf, np.nan]])
    np.testing.assert_array_equal(activations.relu_derivative.unchecked(a), [[0.0, 1.0, np.nan]])
    np.testing.assert_array_equal(
        activations.relu_derivative.unchecked(torch.tensor(a)), [[0.0, 1.0, np.nan]]
    )


@pytest.mark.parametrize("function", [activations.apply, activations.apply_derivative])
@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_by_name_what_is_no_array_is_refused(function, name):
    with pytest.raises(TypeError, match=f"{function.__name__}: a is a list, expected a numpy.ndarray"):
        function(name, [0.5])
