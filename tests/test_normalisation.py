"""Layer normalisation, held to torch.nn.functional.layer_norm and to torch's autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import normalisation
from rnnlib.normalisation import layer_norm, layer_norm_backward
from tests.support import as_torch, example, seeds, sizes, to_numpy

epsilons = st.sampled_from((1e-5, 1e-3, 0.5))


def both(z, alpha, beta, d_n, epsilon=normalisation.EPSILON):
    return [layer_norm(z, alpha, beta, epsilon), *layer_norm_backward(d_n, z, alpha, epsilon)]


def torch_both(z, alpha, beta, d_n, epsilon=normalisation.EPSILON):
    z, alpha, beta = (v.clone().requires_grad_() for v in (z, alpha, beta))
    n = torch.nn.functional.layer_norm(z, alpha.shape, alpha, beta, epsilon)
    return [n, *torch.autograd.grad(n, (z, alpha, beta), d_n)]


def arguments(seed, n, dtype=np.float64):
    drawn = example("eq-normalisation-layer", seed, n, dtype)
    rng = np.random.default_rng(seed + 1)
    return drawn | {"d_n": rng.normal(size=drawn["z"].shape).astype(dtype)}


@pytest.mark.equation("eq-normalisation-layer", "eq-normalisation-layer-backward")
@given(sizes("B", "D"), epsilons, seeds)
def test_layer_norm_and_its_derivative_agree_with_torch(agree, n, epsilon, seed):
    drawn = arguments(seed, n)
    value, *derivatives = both(**drawn, epsilon=epsilon)
    expected, *expected_derivatives = torch_both(**as_torch(drawn), epsilon=epsilon)
    agree(layer_norm, "torch.nn.functional.layer_norm", value, expected)
    agree(layer_norm_backward, "torch.autograd", derivatives, expected_derivatives)


@pytest.mark.equation("eq-normalisation-layer", "eq-normalisation-layer-backward")
@given(sizes("B", high=4), st.integers(4, 16), seeds)
def test_float32_agrees_with_torch(agree, n, D, seed):
    drawn = arguments(seed, {**n, "D": D}, np.float32)
    value, *derivatives = both(**drawn)
    expected, *expected_derivatives = torch_both(**as_torch(drawn))
    agree(layer_norm, "torch.nn.functional.layer_norm", value, expected, dtype="float32")
    agree(layer_norm_backward, "torch.autograd", derivatives, expected_derivatives, dtype="float32")


@pytest.mark.equation("eq-normalisation-layer-backward")
@given(sizes("B", "D", high=4), seeds)
def test_the_derivative_agrees_with_finite_differences(n, seed):
    class LayerNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, alpha, beta):
            ctx.save_for_backward(z, alpha)
            return layer_norm(z, alpha, beta, 0.1)

        @staticmethod
        def backward(ctx, d_n):
            return layer_norm_backward(d_n, *ctx.saved_tensors, 0.1)

    drawn = as_torch(example("eq-normalisation-layer", seed, n), requires_grad=True)
    assert torch.autograd.gradcheck(LayerNorm.apply, (drawn["z"], drawn["alpha"], drawn["beta"]))


@given(sizes("B", "D"), seeds)
def test_the_code_can_itself_be_differentiated(agree, n, seed):
    drawn = as_torch(arguments(seed, n))
    z, alpha, beta = (drawn[name].clone().requires_grad_() for name in ("z", "alpha", "beta"))
    agree(
        layer_norm_backward,
        "torch.autograd of layer_norm",
        layer_norm_backward(drawn["d_n"], drawn["z"], drawn["alpha"]),
        torch.autograd.grad(layer_norm(z, alpha, beta), (z, alpha, beta), drawn["d_n"]),
    )


@given(sizes("B", "D"), seeds)
def test_numpy_and_torch_give_the_same_numbers(agree, n, seed):
    drawn = arguments(seed, n)
    agree(layer_norm, "NumPy", both(**as_torch(drawn)), both(**drawn))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_kept(agree, dtype):
    drawn = arguments(3, {"B": 3, "D": 8}, dtype)
    expected = both(**{name: x.astype(np.float64) for name, x in drawn.items()})
    for result in (both(**drawn), both(**as_torch(drawn))):
        assert [str(x.dtype).removeprefix("torch.") for x in result] == [dtype] * 4
        agree(layer_norm, "float64", result, expected, dtype=dtype)


def test_bfloat16_is_kept(agree):
    drawn = as_torch(arguments(3, {"B": 3, "D": 8}))
    result = both(**{name: x.bfloat16() for name, x in drawn.items()})
    assert {x.dtype for x in result} == {torch.bfloat16}
    agree(layer_norm, "float64", result, both(**drawn), dtype="bfloat16")


def test_the_device_is_kept():
    z, d_n, alpha = (torch.ones(shape, device="meta") for shape in ((3, 4), (3, 4), 4))
    result = both(z, alpha, alpha, d_n)
    assert [(x.device.type, tuple(x.shape)) for x in result] == [
        ("meta", (3, 4)),
        ("meta", (3, 4)),
        ("meta", (4,)),
        ("meta", (4,)),
    ]


def test_views_give_the_numbers_of_copies(agree):
    drawn = arguments(5, {"B": 8, "D": 6})
    views = {"z": drawn["z"].T[::2, ::-1].T, "d_n": drawn["d_n"][:, 3:]}
    views |= {name: drawn[name][::2] for name in ("alpha", "beta")}
    assert not views["z"].flags.c_contiguous
    agree(
        layer_norm,
        "contiguous arrays",
        both(**views),
        both(**{name: np.ascontiguousarray(x) for name, x in views.items()}),
        tolerance=1e-15,
    )


@pytest.mark.parametrize(("dtype", "size"), [("float16", 1e4), ("float32", 1e30), ("float64", 1e300)])
def test_large_entries_do_not_overflow(agree, dtype, size):
    drawn = arguments(7, {"B": 2, "D": 6})
    drawn["z"] = np.clip(drawn["z"], -3, 3)
    # Far above ε the normalisation does not see the scale, and its derivative shrinks with it.
    expected, d_z, d_alpha, d_beta = both(**drawn, epsilon=1e-300)
    large = {name: x.astype(dtype) for name, x in drawn.items()}
    large["z"] = (drawn["z"] * size).astype(dtype)
    for result in (both(**large), both(**as_torch(large))):
        agree(layer_norm, "scale invariance", result[0], expected, dtype=dtype)
        agree(layer_norm_backward, "scale invariance", result[2:], [d_alpha, d_beta], dtype=dtype)
        if dtype != "float16":  # 1e-4 keeps few digits there
            scaled = to_numpy(result[1]).astype(np.float64) * size
            agree(layer_norm_backward, "scale invariance", scaled, d_z, dtype=dtype)


def test_a_large_row_does_not_disturb_another(agree):
    drawn = as_torch(arguments(9, {"B": 2, "D": 5}))
    drawn["z"][1] *= 1e250
    first = {name: x[:1] if name in ("z", "d_n") else x for name, x in drawn.items()}
    agree(layer_norm, "the row alone", both(**drawn)[0][:1], both(**first)[0], tolerance=1e-15)
    agree(layer_norm_backward, "the row alone", both(**drawn)[1][:1], both(**first)[1], tolerance=1e-15)


def test_a_row_of_equal_numbers_becomes_the_bias(agree):
    alpha, beta = np.array([2.0, -3.0, 0.5]), np.array([0.1, 0.2, 0.3])
    agree(layer_norm, "closed form", layer_norm(np.full((2, 3), 0.7), alpha, beta), np.stack([beta, beta]))
    agree(layer_norm, "closed form", layer_norm(np.full((2, 1), 7.0), alpha[:1], beta[:1]), [[0.1], [0.1]])


def test_a_nan_stays_in_its_row():
    z = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    n = layer_norm.unchecked(z, np.ones(3), np.zeros(3))
    assert np.isnan(n[0]).all()
    assert np.isfinite(n[1]).all()


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, float("inf"), float("nan")])
def test_an_epsilon_that_is_not_above_0_is_refused(epsilon):
    z, alpha = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"layer_norm: epsilon is .*, expected a finite number above 0"):
        layer_norm(z, alpha, alpha, epsilon)
    with pytest.raises(ValueError, match=r"layer_norm_backward: epsilon is .*, expected a finite number"):
        layer_norm_backward(z, z, alpha, epsilon)


def test_what_does_not_fit_is_refused():
    z, alpha = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"alpha has shape \(1,\), expected \(D\) = \(3,\)"):
        layer_norm(z, np.ones(1), alpha)
    with pytest.raises(ValueError, match=r"z has shape \(1, 3\), expected \(B, D\) = \(2, 3\)"):
        layer_norm_backward(z, z[:1], alpha)
    with pytest.raises(TypeError, match=r"z has dtype complex128, expected a real floating-point dtype"):
        layer_norm(z + 0j, alpha + 0j, alpha + 0j)
    with pytest.raises(TypeError, match=r"beta has dtype int64"):
        layer_norm(z, alpha, np.ones(3, dtype=np.int64))
