"""Linear state-space models, held to SciPy's signal package, to integrals and to each other."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import scan, statespace
from tests.support import example, relative_error, seeds, sizes

deltas = st.floats(1e-3, 2)


@pytest.mark.equation("eq-ssm-zero-order-hold")
@given(sizes("H", "I"), seeds, deltas)
def test_a_held_input_agrees_with_scipys_conversion(agree, n, seed, delta):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(n["H"], n["H"])), rng.normal(size=(n["H"], n["I"]))
    C, D = np.eye(n["H"]), np.zeros((n["H"], n["I"]))
    expected = scipy.signal.cont2discrete((A, B, C, D), delta, method="zoh")[:2]
    agree(statespace.zero_order_hold, "scipy.signal", statespace.zero_order_hold(A, B, delta), expected)
    on_torch = statespace.zero_order_hold(torch.tensor(A), torch.tensor(B), delta)
    agree(statespace.zero_order_hold, "scipy.signal", on_torch, expected)


@pytest.mark.equation("eq-ssm-zero-order-hold")
def test_a_step_agrees_with_the_differential_equation_solved_by_scipy(agree):
    rng = np.random.default_rng(2)
    A, B, h, x = rng.normal(size=(3, 3)), rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=2)
    solved = scipy.integrate.solve_ivp(lambda t, s: A @ s + B @ x, (0, 0.7), h, rtol=1e-12, atol=1e-12)
    A_bar, B_bar = statespace.zero_order_hold(A, B, 0.7)
    found = A_bar @ h + B_bar @ x
    agree(statespace.zero_order_hold, "scipy.integrate", found, solved.y[:, -1], tolerance=1e-9)


@pytest.mark.equation("eq-ssm-zero-order-hold")
def test_the_formula_with_the_inverse_and_a_matrix_that_has_none():
    rng = np.random.default_rng(1)
    A, B = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    A_bar, B_bar = statespace.zero_order_hold(A, B, 0.3)
    assert relative_error(B_bar, np.linalg.solve(A, (A_bar - np.eye(3)) @ B)) < 1e-12
    # A double integrator, as by hand: position and speed under a push.
    A_bar, B_bar = statespace.zero_order_hold(np.array([[0.0, 1], [0, 0]]), np.array([[0.0], [1]]), 0.5)
    np.testing.assert_allclose(A_bar, [[1, 0.5], [0, 1]], rtol=1e-15)
    np.testing.assert_allclose(B_bar, [[0.125], [0.5]], rtol=1e-15)


@pytest.mark.equation("eq-ssm-recurrence")
@given(sizes("T", "B", "H", "I", "O"), seeds)
def test_the_outputs_are_those_of_scipys_simulation(agree, n, seed):
    arguments = example("eq-ssm-recurrence", seed, n)
    xs, A_bar, B_bar, C = arguments.values()
    found = statespace.state_space(**arguments)
    # SciPy reads the state before the input comes in: y_t = C h_{t-1}' with h' driven by the last input.
    D = C @ B_bar
    for b in range(n["B"]):
        _, ys, _ = scipy.signal.dlsim((A_bar, B_bar, C @ A_bar, D, 1.0), xs[:, b])
        agree(statespace.state_space, "scipy.signal", found[:, b], ys)


@pytest.mark.equation("eq-ssm-recurrence", "eq-ssm-kernel", "eq-ssm-convolution")
@given(sizes("B", "H", "I", "O", high=4), st.integers(1, 40), seeds)
def test_the_convolution_gives_what_the_recurrence_gives(agree, n, T, seed):
    arguments = example("eq-ssm-recurrence", seed, {**n, "T": T})
    xs, A_bar, B_bar, C = arguments.values()
    A_bar = A_bar / (1 + np.abs(np.linalg.eigvals(A_bar)).max())  # so that it does not grow
    K = statespace.kernel(A_bar, B_bar, C, T)
    powers = [C @ np.linalg.matrix_power(A_bar, k) @ B_bar for k in range(T)]
    agree(statespace.kernel, "numpy", K, np.array(powers))
    found = statespace.convolution(xs, K)
    agree(statespace.convolution, "step by step", found, statespace.state_space(xs, A_bar, B_bar, C))


@pytest.mark.equation("eq-ssm-convolution")
@given(sizes("B", "I", "O", high=3), st.integers(1, 30), seeds)
def test_the_convolution_agrees_with_scipy_and_no_end_reaches_the_beginning(agree, n, T, seed):
    arguments = example("eq-ssm-convolution", seed, {**n, "T": T})
    xs, K = arguments["xs"], arguments["K"]
    expected = np.zeros((T, n["B"], n["O"]))
    for b in range(n["B"]):
        for o in range(n["O"]):
            for i in range(n["I"]):
                expected[:, b, o] += scipy.signal.convolve(xs[:, b, i], K[:, o, i], method="direct")[:T]
    agree(statespace.convolution, "scipy.signal", statespace.convolution(xs, K), expected)


@pytest.mark.equation("eq-ssm-recurrence")
def test_a_diagonal_model_is_a_linear_recurrence_and_any_scan_runs_it_in_complex_numbers():
    """A matrix with a basis of eigenvectors is a diagonal one in that basis."""
    rng = np.random.default_rng(3)
    T, H = 50, 4
    A, B, C = rng.normal(size=(H, H)) - 3 * np.eye(H), rng.normal(size=(H, 2)), rng.normal(size=(1, H))
    A_bar, B_bar = statespace.zero_order_hold(A, B, 0.1)
    xs = rng.normal(size=(T, 3, 2))
    eigenvalues, V = np.linalg.eig(A_bar)
    assert np.iscomplex(eigenvalues).any()
    u = xs @ np.linalg.solve(V, B_bar.astype(complex)).T  # (T, B, H)
    _, states = scan.blelloch(scan.pairs, (np.broadcast_to(eigenvalues, u.shape), u))
    found = states @ (C @ V).T
    np.testing.assert_allclose(found.imag, 0, atol=1e-12)
    assert relative_error(found.real, statespace.state_space(xs, A_bar, B_bar, C)) < 1e-12


def test_bad_input_is_refused_with_a_sentence():
    A, B, C = np.eye(3), np.ones((3, 2)), np.ones((1, 3))
    with pytest.raises(ValueError, match=r"zero_order_hold: delta is 0"):
        statespace.zero_order_hold(A, B, 0)
    with pytest.raises(TypeError, match=r"zero_order_hold: delta"):
        statespace.zero_order_hold(A, B, "0.1")
    with pytest.raises(ValueError, match=r"zero_order_hold: B has shape \(2, 3\), expected \(H, I\)"):
        statespace.zero_order_hold(A, B.T, 0.1)
    with pytest.raises(ValueError, match=r"kernel: steps is 0, expected a whole number of at least 1"):
        statespace.kernel(A, B, C, 0)
    with pytest.raises(ValueError, match=r"convolution: K has shape \(4, 1, 2\), expected \(T, O, I\)"):
        statespace.convolution(np.ones((5, 1, 2)), np.ones((4, 1, 2)))
    with pytest.raises(ValueError, match=r"state_space: A_bar has shape"):
        statespace.state_space(np.ones((5, 1, 2)), np.ones((3, 2)), B, C)


def test_without_scipy_the_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError("No module named 'scipy'", name="scipy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="scipy"):
        statespace.zero_order_hold(np.eye(2), np.ones((2, 1)), 0.1)
