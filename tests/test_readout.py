"""The ridge readout, held to the normal equations, to SciPy's solvers and to torch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import readout
from tests.support import TOLERANCE, example, relative_error, seeds, sizes


def objective(W: np.ndarray, b: np.ndarray, hs: np.ndarray, ys: np.ndarray, penalty: float) -> float:
    return float(((hs @ W.T + b - ys) ** 2).sum() + penalty * (W**2).sum())


@pytest.mark.equation("eq-vanilla-ridge")
@given(sizes("N", "H", "O", high=8), st.floats(0.01, 10), seeds)
def test_ridge_agrees_with_the_normal_equations(agree, n, penalty, seed):
    """With a column of ones for the bias, which the penalty leaves out."""
    arguments = example("eq-vanilla-ridge", seed, n)
    hs, ys = arguments["hs"] + 1.0, arguments["ys"] - 2.0
    A = np.concatenate([hs, np.ones((n["N"], 1))], 1)
    left = A.T @ A + np.diag([penalty] * n["H"] + [0.0])
    solution = scipy.linalg.solve(left, A.T @ ys, assume_a="pos").T
    for convert in (np.asarray, torch.tensor):
        W_hy, b_y = readout.ridge(convert(hs), convert(ys), penalty)
        agree(
            readout.ridge,
            "scipy.linalg.solve",
            [W_hy, b_y],
            [solution[:, :-1], solution[:, -1]],
            tolerance=1e-10 * max(1.0, np.linalg.cond(left) / 1e3),
        )


@pytest.mark.equation("eq-vanilla-ridge")
@given(sizes("N", "H", "O", low=2, high=5), st.floats(0.1, 5), seeds)
def test_ridge_is_where_scipys_minimiser_ends(agree, n, penalty, seed):
    arguments = example("eq-vanilla-ridge", seed, n)
    hs, ys = arguments["hs"], arguments["ys"]
    H, O = n["H"], n["O"]

    def residuals(p):
        W, b = p[: O * H].reshape(O, H), p[O * H :]
        return np.concatenate([(hs @ W.T + b - ys).ravel(), math.sqrt(penalty) * W.ravel()])

    found = scipy.optimize.least_squares(residuals, np.zeros(O * H + O), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    W_hy, b_y = readout.ridge(hs, ys, penalty)
    agree(
        readout.ridge,
        "scipy.optimize.least_squares",
        [W_hy, b_y],
        [found.x[: O * H].reshape(O, H), found.x[O * H :]],
        1e-7,
    )


@pytest.mark.equation("eq-vanilla-ridge")
@given(sizes("N", "H", "O", high=8), st.floats(0.01, 10), seeds)
def test_the_gradient_of_the_objective_is_zero_at_the_solution(agree, n, penalty, seed):
    arguments = example("eq-vanilla-ridge", seed, n)
    hs, ys = torch.tensor(arguments["hs"]), torch.tensor(arguments["ys"])
    W, b = (x.requires_grad_() for x in readout.ridge(hs, ys, penalty))
    loss = ((torch.nn.functional.linear(hs, W, b) - ys) ** 2).sum() + penalty * (W**2).sum()
    agree(
        readout.ridge,
        "torch.autograd",
        torch.autograd.grad(loss, [W, b]),
        [torch.zeros_like(W), torch.zeros_like(b)],
    )


@pytest.mark.equation("eq-vanilla-ridge")
def test_no_neighbour_of_the_solution_does_better():
    rng = np.random.default_rng(0)
    hs, ys = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    W, b = readout.ridge(hs, ys, 0.7)
    best = objective(W, b, hs, ys, 0.7)
    for _ in range(50):
        d_W, d_b = 1e-3 * rng.normal(size=W.shape), 1e-3 * rng.normal(size=b.shape)
        assert objective(W + d_W, b + d_b, hs, ys, 0.7) > best


@pytest.mark.equation("eq-vanilla-ridge")
@given(sizes("H", "O"), seeds)
def test_without_a_penalty_it_is_least_squares(agree, n, seed):
    rng = np.random.default_rng(seed)
    N = n["H"] + 6
    hs, ys = rng.normal(size=(N, n["H"])), rng.normal(size=(N, n["O"]))
    solution = scipy.linalg.lstsq(np.concatenate([hs, np.ones((N, 1))], 1), ys)[0].T
    for convert in (np.asarray, torch.tensor):
        agree(
            readout.ridge,
            "scipy.linalg.lstsq",
            list(readout.ridge(convert(hs), convert(ys), 0)),
            [solution[:, :-1], solution[:, -1]],
        )


@pytest.mark.equation("eq-vanilla-ridge")
def test_the_bias_is_not_penalised():
    """However large the penalty, the mean of the targets is met; moving all targets moves only the bias."""
    rng = np.random.default_rng(1)
    hs, ys = rng.normal(size=(20, 3)) + 5, rng.normal(size=(20, 2)) + 100
    W, b = readout.ridge(hs, ys, 1e12)
    assert np.abs(W).max() < 1e-9
    np.testing.assert_allclose(b, ys.mean(0), rtol=1e-9)
    W, b = readout.ridge(hs, ys, 2.0)
    W_moved, b_moved = readout.ridge(hs, ys + np.array([3.0, -4.0]), 2.0)
    np.testing.assert_allclose(W_moved, W, rtol=1e-10)
    np.testing.assert_allclose(b_moved - b, [3, -4], rtol=1e-10)
    # Moving all states is taken up by the bias as well.
    W_moved, b_moved = readout.ridge(hs + 7.0, ys, 2.0)
    np.testing.assert_allclose(W_moved, W, rtol=1e-10)
    np.testing.assert_allclose(b_moved, b - 7.0 * W.sum(1), rtol=1e-10)


@pytest.mark.equation("eq-vanilla-ridge")
def test_it_squares_no_condition_number():
    """Two columns that differ in the eighth digit: the normal equations lose what is asked for."""
    rng = np.random.default_rng(2)
    h = rng.normal(size=(40, 1))
    hs = np.concatenate([h, h + 1e-8 * rng.normal(size=(40, 1))], 1)
    W_true = np.array([[1.0, 2.0]])
    W, b = readout.ridge(hs, hs @ W_true.T + 0.5, 0.0)
    np.testing.assert_allclose(W, W_true, atol=1e-6)
    np.testing.assert_allclose(b, [0.5], atol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_the_smallest_problems(convert):
    """One row says nothing about W: it stays 0, and the bias takes the target."""
    W, b = readout.ridge(convert(np.array([[2.0]])), convert(np.array([[3.0]])), 1.0)
    assert float(W[0, 0]) == 0
    assert float(b[0]) == 3
    W, b = readout.ridge(convert(np.array([[0.0], [1.0]])), convert(np.array([[1.0], [3.0]])), 0.0)
    np.testing.assert_allclose([float(W[0, 0]), float(b[0])], [2, 1], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(sizes("N", "H", "O"), seeds)
def test_dtype_and_kind_are_kept(dtype, n, seed):
    arguments = example("eq-vanilla-ridge", seed, n, dtype)
    wide = readout.ridge(*(arguments[k].astype(np.float64) for k in ("hs", "ys")), 0.5)
    for convert in (np.asarray, torch.tensor):
        result = readout.ridge(convert(arguments["hs"]), convert(arguments["ys"]), 0.5)
        assert all(x.dtype == convert(arguments["hs"]).dtype for x in result)
        assert all(type(x) is type(convert(arguments["hs"])) for x in result)
        for x, y in zip(result, wide, strict=True):
            assert relative_error(x, y) < TOLERANCE[np.dtype(dtype).name]


def test_what_does_not_fit_is_refused():
    hs, ys = np.ones((4, 2)), np.ones((4, 1))
    for bad in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"penalty is {bad}, expected a finite number of at least 0"):
            readout.ridge(hs, ys, bad)
    with pytest.raises(ValueError, match=r"ys has shape \(3, 1\), expected \(N, O\) = \(4, 1\)"):
        readout.ridge(hs, ys[:3], 1.0)
    with pytest.raises(TypeError, match="hs has dtype float64 but ys has float32"):
        readout.ridge(hs, ys.astype(np.float32), 1.0)
    with pytest.raises(ValueError, match="N is 0, expected at least 1"):
        readout.ridge(hs[:0], ys[:0], 1.0)
