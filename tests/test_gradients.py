"""Jacobians, norms, bounds, Lyapunov exponents and clipping, held to autograd, SciPy and torch.nn.utils."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import activations, gradients, gru, initialisation, lstm
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import (
    as_torch,
    example,
    random_cell,
    relative_error,
    seeds,
    sizes,
    to_numpy,
    torch_activation,
)

names = st.sampled_from(activations.ACTIVATIONS)


@dataclass(frozen=True)
class OscillatorCell:
    """A state of two arrays, as the LSTM has it: C_t = W C_{t-1} + V h_{t-1} + x_t, h_t = tanh(C_t)."""

    W: Any
    V: Any

    state_names: ClassVar[tuple[str, ...]] = ("h", "C")

    @property
    def input_size(self) -> int:
        return int(self.W.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.W.shape[0])

    def step(self, x_t: Any, state: Any) -> Any:
        h, C = state
        C_t = C @ self.W.T + h @ self.V.T + x_t
        h_t = np.tanh(C_t) if isinstance(C_t, np.ndarray) else torch.tanh(C_t)
        return (h_t, C_t), (h, C, h_t)

    def step_backward(self, d_state: Any, cache: Any) -> Any:
        h, C, h_t = cache
        d_C_t = d_state[0] * (1 - h_t * h_t) + d_state[1]
        d_cell = OscillatorCell(d_C_t.T @ C, d_C_t.T @ h)
        return d_C_t, (d_C_t @ self.V, d_C_t @ self.W), d_cell


def autograd_jacobian(function: Any, at: np.ndarray) -> np.ndarray:
    """The Jacobian of a function of one vector at each row of ``at``, (B, out, in)."""
    rows = [torch.autograd.functional.jacobian(function, row) for row in torch.tensor(at)]
    return torch.stack(rows).numpy()


# --- one step ---------------------------------------------------------------------------------


@pytest.mark.equation("eq-gradients-step-jacobian", "eq-gradients-state-jacobian")
@given(sizes("B", "I", "H"), names, seeds)
def test_the_jacobian_of_a_vanilla_step_agrees_with_autograd(agree, n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    x_t, h_prev = rng.normal(size=(n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    W_hh, W_xh, b_h = (torch.tensor(v) for v in (cell.W_hh, cell.W_xh, cell.b_h))
    expected = np.stack(
        [
            torch.autograd.functional.jacobian(
                lambda h, x=x: torch_activation(activation)(W_hh.mv(h) + W_xh.mv(x) + b_h), h
            ).numpy()
            for x, h in zip(torch.tensor(x_t), torch.tensor(h_prev), strict=True)
        ]
    )
    a_t = h_prev @ cell.W_hh.T + x_t @ cell.W_xh.T + cell.b_h
    agree(
        gradients.step_jacobian,
        "torch.autograd",
        gradients.step_jacobian(a_t, cell.W_hh, activation),
        expected,
    )
    agree(gradients.state_jacobian, "torch.autograd", gradients.state_jacobian(cell, x_t, h_prev), expected)


@pytest.mark.equation("eq-gradients-state-jacobian")
@given(sizes("B", "H"), seeds)
def test_the_jacobian_of_a_cell_with_two_state_arrays_covers_both(agree, n, seed):
    rng = np.random.default_rng(seed)
    H = n["H"]
    cell = OscillatorCell(rng.normal(size=(H, H)), rng.normal(size=(H, H)))
    x_t, h, C = (rng.normal(size=(n["B"], H)) for _ in range(3))
    W, V = torch.tensor(cell.W), torch.tensor(cell.V)

    def step(s, x):
        C_t = W.mv(s[H:]) + V.mv(s[:H]) + x
        return torch.cat([torch.tanh(C_t), C_t])

    expected = [
        torch.autograd.functional.jacobian(lambda s, x=x: step(s, x), s).numpy()
        for x, s in zip(torch.tensor(x_t), torch.tensor(np.concatenate([h, C], 1)), strict=True)
    ]
    agree(
        gradients.state_jacobian,
        "torch.autograd",
        gradients.state_jacobian(cell, x_t, (h, C)),
        np.stack(expected),
    )


@pytest.mark.equation("eq-gradients-state-jacobian")
@given(sizes("B", "I", "H"), seeds)
def test_the_jacobian_of_an_lstm_step_agrees_with_torch_LSTMCell(agree, n, seed):
    rng = np.random.default_rng(seed)
    I, H = n["I"], n["H"]
    W = {f"W_{g}": rng.normal(size=(H, H + I)) for g in "fiCo"}
    b = {f"b_{g}": rng.normal(size=H) for g in "fiCo"}
    reference = torch.nn.LSTMCell(I, H, dtype=torch.float64)
    with torch.no_grad():  # torch's order of gates is i, f, g, o
        reference.weight_hh.copy_(torch.tensor(np.concatenate([W[f"W_{g}"][:, :H] for g in "ifCo"])))
        reference.weight_ih.copy_(torch.tensor(np.concatenate([W[f"W_{g}"][:, H:] for g in "ifCo"])))
        reference.bias_hh.copy_(torch.tensor(np.concatenate([b[f"b_{g}"] for g in "ifCo"])))
        reference.bias_ih.zero_()
    x_t, h, C = (rng.normal(size=(n["B"], k)) for k in (I, H, H))
    expected = [
        torch.autograd.functional.jacobian(
            lambda s, x=x: torch.cat(reference(x, (s[:H], s[H:]))), torch.tensor(s)
        ).numpy()
        for x, s in zip(torch.tensor(x_t), np.concatenate([h, C], 1), strict=True)
    ]
    jacobian = gradients.state_jacobian(lstm.LSTMCell(**W, **b), x_t, (h, C))
    agree(gradients.state_jacobian, "torch.nn.LSTMCell", jacobian, np.stack(expected))
    # The memory's own path is the forget gate alone: this is why it does not vanish.
    a_f = np.concatenate([h, x_t], 1) @ W["W_f"].T + b["b_f"]
    agree(
        gradients.state_jacobian,
        "scipy.special.expit",
        jacobian[:, H:, H:],
        scipy.special.expit(a_f)[:, :, None] * np.eye(H),
    )


@pytest.mark.equation("eq-gradients-state-jacobian")
@given(sizes("B", "I", "H"), seeds)
def test_the_jacobian_of_a_gru_step_agrees_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    H = n["H"]
    parameters = {name: rng.normal(size=(H, H + n["I"])) for name in ("W_z", "W_r", "W")}
    parameters |= {name: rng.normal(size=H) for name in ("b_z", "b_r", "b")}
    x_t, h = rng.normal(size=(n["B"], n["I"])), rng.normal(size=(n["B"], H))
    p = as_torch(parameters)

    def step(h, x):
        z = torch.special.expit(p["W_z"].mv(torch.cat([h, x])) + p["b_z"])
        r = torch.special.expit(p["W_r"].mv(torch.cat([h, x])) + p["b_r"])
        return (1 - z) * h + z * torch.tanh(p["W"].mv(torch.cat([r * h, x])) + p["b"])

    expected = [
        torch.autograd.functional.jacobian(lambda s, x=x: step(s, x), s).numpy()
        for x, s in zip(torch.tensor(x_t), torch.tensor(h), strict=True)
    ]
    agree(
        gradients.state_jacobian,
        "torch.autograd",
        gradients.state_jacobian(gru.GRUCell(**parameters), x_t, h),
        np.stack(expected),
    )


@pytest.mark.equation("eq-gradients-preactivation-jacobian")
@given(sizes("B", "H"), names, seeds)
def test_the_jacobian_of_the_other_parametrisation_agrees_with_autograd(agree, n, activation, seed):
    arguments = example("eq-gradients-preactivation-jacobian", seed, n)
    W_hh = torch.tensor(arguments["W_hh"])
    agree(
        gradients.preactivation_jacobian,
        "torch.autograd",
        gradients.preactivation_jacobian(**arguments, activation=activation),
        autograd_jacobian(lambda a: W_hh.mv(torch_activation(activation)(a)), arguments["a_prev"]),
    )


@pytest.mark.equation("eq-gradients-step-jacobian-notes")
@given(sizes("B", "H"), names, seeds)
def test_the_form_of_the_notes_is_exact_in_two_readings(agree, n, activation, seed):
    """At a_{i-1}, for a_i = W_hhᵀ σ(a_{i-1}); at a_i, as the transpose of ∂h_i/∂h_{i-1}."""
    rng = np.random.default_rng(seed)
    H = n["H"]
    W = rng.normal(size=(H, H))
    W_t, b = torch.tensor(W), torch.tensor(rng.normal(size=H))
    sigma = torch_activation(activation)

    a_prev = rng.normal(size=(n["B"], H))
    agree(
        gradients.step_jacobian_notes,
        "torch.autograd",
        gradients.step_jacobian_notes(a_prev, W, activation),
        autograd_jacobian(lambda a: W_t.t().mv(sigma(a)) + b, a_prev),
    )
    agree(
        gradients.step_jacobian_notes,
        "torch.autograd",
        gradients.step_jacobian_notes(a_prev, W.T, activation),
        autograd_jacobian(lambda a: W_t.mv(sigma(a)) + b, a_prev),
    )

    h_prev = rng.normal(size=(n["B"], H))
    a_t = h_prev @ W.T + b.numpy()
    agree(
        gradients.step_jacobian_notes,
        "torch.autograd",
        gradients.step_jacobian_notes(a_t, W, activation),
        autograd_jacobian(lambda h: sigma(W_t.mv(h) + b), h_prev).transpose(0, 2, 1),
    )


@pytest.mark.equation("eq-gradients-step-jacobian-notes")
def test_the_form_of_the_notes_is_wrong_to_the_letter():
    rng = np.random.default_rng(4)
    W, h_prev, b = rng.normal(size=(3, 3)), np.tanh(rng.normal(size=(1, 3))), rng.normal(size=3)
    W_t, b_t = torch.tensor(W), torch.tensor(b)
    true = autograd_jacobian(lambda h: torch.tanh(W_t.mv(h) + b_t), h_prev)
    notes = gradients.step_jacobian_notes(h_prev, W)
    ours = gradients.step_jacobian(h_prev @ W.T + b, W)
    size = np.linalg.norm(true)
    assert np.linalg.norm(ours - true) < 1e-14 * size
    assert np.linalg.norm(notes - true) > 0.5 * size
    assert np.linalg.norm(notes - true.transpose(0, 2, 1)) > 0.5 * size
    # Where σ' is 1 everywhere, where it is taken does not matter; the transpose stays.
    linear = gradients.step_jacobian(h_prev, W, "identity")
    np.testing.assert_array_equal(
        gradients.step_jacobian_notes(h_prev, W, "identity"), linear.transpose(0, 2, 1)
    )


@pytest.mark.equation("eq-gradients-step-jacobian-notes", "eq-gradients-jacobian-product")
@given(sizes("T", "B", "I", "H"), seeds)
def test_the_product_of_the_notes_carries_a_gradient_back_once_the_derivative_sits_at_a(n, seed):
    """In the order printed, k + 1 first, with σ' at a_i: the transpose of ∂h_t/∂h_k."""
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"])
    trajectory = unroll(cell, rng.normal(size=(n["T"], n["B"], n["I"])))
    product = np.stack([np.eye(n["H"])] * n["B"])
    for a_i in trajectory.along_time("a_t"):
        product = product @ gradients.step_jacobian_notes(a_i, cell.W_hh)
    exact = gradients.jacobian_product(gradients.state_jacobians(cell, trajectory))
    assert relative_error(product.transpose(0, 2, 1), exact) < 1e-12


# --- along time -------------------------------------------------------------------------------


@pytest.mark.equation("eq-gradients-jacobian-product", "eq-gradients-state-jacobian")
@given(sizes("T", "B", "I", "H"), names, seeds)
def test_products_along_a_trajectory_agree_with_autograd(agree, n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    trajectory = unroll(cell, xs, h_0)
    jacobians = gradients.state_jacobians(cell, trajectory)

    W_hh, W_xh, b_h = (torch.tensor(v) for v in (cell.W_hh, cell.W_xh, cell.b_h))

    def run(h, first, b):
        for t in range(first, n["T"]):
            h = torch_activation(activation)(W_hh.mv(h) + W_xh.mv(torch.tensor(xs[t, b])) + b_h)
        return h

    before = np.concatenate([h_0[None], trajectory.hs])  # (T+1, B, H)
    by_lag = [
        np.stack(
            [
                torch.autograd.functional.jacobian(
                    lambda h, first=n["T"] - lag, b=b: run(h, first, b), torch.tensor(before[n["T"] - lag, b])
                ).numpy()
                for b in range(n["B"])
            ]
        )
        for lag in range(n["T"] + 1)
    ]
    agree(gradients.jacobian_product, "torch.autograd", gradients.jacobian_product(jacobians), by_lag[-1])
    products = gradients.jacobian_products(jacobians)
    agree(gradients.jacobian_products, "torch.autograd", products, np.stack(by_lag))
    agree(
        gradients.product_norms,
        "scipy.linalg.svdvals",
        gradients.product_norms(jacobians),
        np.array([[scipy.linalg.svdvals(J)[0] for J in lag] for lag in by_lag]),
    )


@pytest.mark.equation("eq-gradients-preactivation-jacobian", "eq-gradients-step-jacobian")
@given(sizes("T", "B", "H"), names, seeds)
def test_both_parametrisations_share_the_factors_between(n, activation, seed):
    """diag(σ'(a_t)) ∂a_t/∂a_k = ∂h_t/∂h_k diag(σ'(a_k)): they differ at the two ends only."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n["H"], n["H"]))
    a = rng.normal(size=(n["T"] + 1, n["B"], n["H"]))
    over_a = gradients.jacobian_product(
        np.stack([gradients.preactivation_jacobian(a_prev, W, activation) for a_prev in a[:-1]])
    )
    over_h = gradients.jacobian_product(
        np.stack([gradients.step_jacobian(a_t, W, activation) for a_t in a[1:]])
    )
    first, last = (activations.apply_derivative(activation, a[i]) for i in (0, -1))
    assert relative_error(last[:, :, None] * over_a, over_h * first[:, None, :]) < 1e-12


@pytest.mark.equation("eq-gradients-lag")
@given(sizes("T", "B", "I", "H"), seeds)
def test_gradient_norms_against_the_lag_agree_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"])
    xs, d_h_T = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    trajectory = unroll(cell, xs)

    W_hh, W_xh, b_h = (torch.tensor(v) for v in (cell.W_hh, cell.W_xh, cell.b_h))
    hs = [torch.zeros(n["B"], n["H"], dtype=torch.float64, requires_grad=True)]
    for x_t in torch.tensor(xs):
        hs.append(torch.tanh(hs[-1].mm(W_hh.t()) + x_t.mm(W_xh.t()) + b_h))
    grads = torch.autograd.grad((hs[-1] * torch.tensor(d_h_T)).sum(), hs)
    agree(
        gradients.gradient_norms,
        "torch.autograd",
        gradients.gradient_norms(d_h_T, gradients.state_jacobians(cell, trajectory)),
        torch.stack([g.norm(dim=1) for g in reversed(grads)]),
    )


def test_a_vanished_gradient_keeps_its_length_beyond_the_smallest_square():
    """0.5^600 squared is below the smallest double, 2^600 squared above the largest."""
    for factor in (0.5, 2.0):
        jacobians = np.full((600, 1, 1, 1), factor)
        for convert in (np.asarray, torch.tensor):
            norms = gradients.gradient_norms(convert(np.ones((1, 1))), convert(jacobians))
            np.testing.assert_array_equal(to_numpy(norms)[:, 0], factor ** np.arange(601.0))


def test_a_gradient_of_zero_has_length_zero_and_one_that_overflowed_infinity():
    jacobians = np.array([0.0, 3.0]).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(gradients.gradient_norms(np.ones((1, 1)), jacobians)[:, 0], [1, 3, 0])
    assert (
        gradients.gradient_norms(np.array([[math.inf, 1.0]]), np.eye(2)[None, None] * 0 + 1.0)[0, 0]
        == math.inf
    )


def test_steps_behind_the_end_of_a_sequence_have_the_identity_for_their_jacobian():
    rng = np.random.default_rng(5)
    cell = random_cell(rng, 2, 3)
    xs = rng.normal(size=(4, 3, 2))
    whole = gradients.state_jacobians(cell, unroll(cell, xs))
    masked = gradients.state_jacobians(cell, unroll(cell, xs, lengths=[4, 2, 0]))
    np.testing.assert_array_equal(masked[:, 0], whole[:, 0])
    np.testing.assert_array_equal(masked[:2, 1], whole[:2, 1])
    np.testing.assert_array_equal(masked[2:, 1], np.stack([np.eye(3)] * 2))
    np.testing.assert_array_equal(masked[:, 2], np.stack([np.eye(3)] * 4))


def test_every_step_of_a_trajectory_has_the_jacobian_of_that_step():
    rng = np.random.default_rng(6)
    cell = OscillatorCell(rng.normal(size=(2, 2)), rng.normal(size=(2, 2)))
    xs = rng.normal(size=(3, 2, 2))
    jacobians = gradients.state_jacobians(cell, unroll(cell, xs))
    state = (np.zeros((2, 2)), np.zeros((2, 2)))
    for t in range(3):
        np.testing.assert_array_equal(jacobians[t], gradients.state_jacobian(cell, xs[t], state))
        state, _ = cell.step(xs[t], state)


# --- norms and spectra ------------------------------------------------------------------------


@pytest.mark.equation(
    "eq-gradients-singular-values", "eq-gradients-spectral-norm", "eq-gradients-frobenius-norm"
)
@given(sizes("H"), st.sampled_from([np.float64, np.float32]), seeds)
def test_norms_agree_with_scipy(agree, n, dtype, seed):
    W = example("eq-gradients-spectral-norm", seed, n, dtype)["W"]
    values = scipy.linalg.svdvals(W.astype(np.float64))
    name = np.dtype(dtype).name
    for A in (W, torch.tensor(W)):
        agree(
            gradients.singular_values,
            "scipy.linalg.svdvals",
            gradients.singular_values(A),
            values,
            dtype=name,
        )
        agree(
            gradients.spectral_norm, "scipy.linalg.svdvals", gradients.spectral_norm(A), values[0], dtype=name
        )
        agree(
            gradients.frobenius_norm,
            "scipy.linalg.norm",
            gradients.frobenius_norm(A),
            scipy.linalg.norm(W.astype(np.float64), "fro"),
            dtype=name,
        )
        for function in (gradients.singular_values, gradients.spectral_norm, gradients.frobenius_norm):
            assert function(A).dtype == A.dtype


@pytest.mark.equation("eq-gradients-spectral-norm")
@given(sizes("H"), seeds)
def test_the_spectral_norm_is_the_most_that_a_vector_is_stretched(agree, n, seed):
    W = example("eq-gradients-spectral-norm", seed, n)["W"]
    v = np.random.default_rng(seed).normal(size=(n["H"], 1000))
    stretched = np.linalg.norm(W @ v, axis=0) / np.linalg.norm(v, axis=0)
    assert stretched.max() <= gradients.spectral_norm(W) * (1 + 1e-12)
    largest = scipy.linalg.eigh(W.T @ W)[1][:, -1]
    agree(
        gradients.spectral_norm, "scipy.linalg.eigh", np.linalg.norm(W @ largest), gradients.spectral_norm(W)
    )


@pytest.mark.equation("eq-gradients-henrici")
@given(sizes("H"), seeds)
def test_the_square_of_henricis_departure_is_what_a_schur_form_has_above_its_diagonal(agree, n, seed):
    W = example("eq-gradients-henrici", seed, n)["W"]
    above = np.triu(scipy.linalg.schur(W, output="complex")[0], 1)
    for A in (W, torch.tensor(W)):
        agree(
            gradients.henrici_departure,
            "scipy.linalg.schur",
            to_numpy(gradients.henrici_departure(A)) ** 2,
            np.linalg.norm(above) ** 2,
        )


@pytest.mark.equation("eq-gradients-henrici")
def test_henricis_departure_of_known_matrices():
    assert gradients.henrici_departure(np.array([[0.0, 2.0], [0.0, 0.0]])) == pytest.approx(2, rel=1e-12)
    assert gradients.henrici_departure(np.array([[0.5, 3.0], [0.0, -0.5]])) == pytest.approx(3, rel=1e-12)
    assert gradients.henrici_departure(np.zeros((3, 3))) == 0
    orthogonal = initialisation.orthogonal(np.random.default_rng(0), 6, 6)
    symmetric = orthogonal + orthogonal.T
    for normal in (orthogonal, symmetric, orthogonal - orthogonal.T):
        assert gradients.henrici_departure(normal) < 1e-7
    # Scaling a matrix scales its departure.
    W = np.random.default_rng(1).normal(size=(4, 4))
    assert gradients.henrici_departure(1e150 * W) == pytest.approx(
        1e150 * gradients.henrici_departure(W), rel=1e-12
    )


# --- bounds -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-gradients-step-bound")
@given(sizes("B", "H"), names, seeds)
def test_no_step_exceeds_its_bound(agree, n, activation, seed):
    arguments = example("eq-gradients-step-bound", seed, n)
    a_t, W_hh = arguments["a_t"], arguments["W_hh"]
    result = gradients.step_bound(a_t, W_hh, activation)
    at = torch.tensor(a_t, requires_grad=True)
    (slopes,) = torch.autograd.grad(torch_activation(activation)(at).sum(), at)
    slopes = slopes.numpy()
    agree(
        gradients.step_bound,
        "numpy.linalg.norm",
        [result.bound, result.actual],
        [
            np.linalg.norm(W_hh, 2) * slopes.max(1),
            np.array([np.linalg.norm(np.diag(s) @ W_hh, 2) for s in slopes]),
        ],
    )
    assert (result.actual <= result.bound * (1 + 1e-12)).all()


@pytest.mark.equation("eq-gradients-step-bound")
@given(sizes("H"), seeds)
def test_the_bound_of_a_step_is_met_where_all_slopes_are_equal(n, seed):
    W_hh = np.random.default_rng(seed).normal(size=(n["H"], n["H"]))
    result = gradients.step_bound(np.full((2, n["H"]), -0.7), W_hh, "logistic")
    assert relative_error(result.actual, result.bound) < 1e-12


@pytest.mark.equation("eq-gradients-product-bound")
@given(sizes("T", "B", "H"), names, seeds)
def test_no_product_exceeds_its_bound(agree, n, activation, seed):
    arguments = example("eq-gradients-product-bound", seed, n)
    a_ts, W_hh = arguments["a_ts"], arguments["W_hh"]
    result = gradients.product_bound(a_ts, W_hh, activation)
    at = torch.tensor(a_ts, requires_grad=True)
    (slopes,) = torch.autograd.grad(torch_activation(activation)(at).sum(), at)
    slopes = slopes.numpy()
    bound, actual = np.ones((n["T"] + 1, n["B"])), np.ones((n["T"] + 1, n["B"]))
    for b in range(n["B"]):
        product = np.eye(n["H"])
        for lag in range(1, n["T"] + 1):
            product = product @ np.diag(slopes[n["T"] - lag, b]) @ W_hh
            actual[lag, b] = np.linalg.norm(product, 2)
            bound[lag, b] = (np.linalg.norm(W_hh, 2) * slopes[:, b].max()) ** lag
    agree(gradients.product_bound, "numpy.linalg.norm", [result.bound, result.actual], [bound, actual])
    assert (result.actual <= result.bound * (1 + 1e-12)).all()


@pytest.mark.equation("eq-gradients-vanish", "eq-gradients-explode")
@pytest.mark.parametrize(("activation", "edge"), [("tanh", 1), ("logistic", 4), ("relu", 1), ("identity", 1)])
def test_the_conditions_change_sides_at_one_over_the_largest_slope(activation, edge):
    Q = initialisation.orthogonal(np.random.default_rng(0), 4, 4)
    below, above = 0.999 * edge * Q, 1.001 * edge * Q
    for convert in (np.asarray, torch.tensor):
        assert gradients.must_vanish(convert(below), activation) is True
        assert gradients.may_explode(convert(below), activation) is False
        assert gradients.must_vanish(convert(above), activation) is False
        assert gradients.may_explode(convert(above), activation) is True
    at_the_edge = edge * np.eye(3)  # neither: the norm of every product may stay 1
    assert not gradients.must_vanish(at_the_edge, activation)
    assert not gradients.may_explode(at_the_edge, activation)


@pytest.mark.equation("eq-gradients-vanish")
@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_the_largest_slope_is_what_a_search_finds(activation):
    """The constant behind both conditions, against scipy's maximiser of autograd's derivative."""

    def negative_slope(a):
        at = torch.tensor(float(a), dtype=torch.float64, requires_grad=True)
        value = torch_activation(activation)(at)
        return -torch.autograd.grad(value, at)[0].item()

    found = scipy.optimize.minimize_scalar(negative_slope, bounds=(-3.0, 3.1), method="bounded")
    assert -found.fun == pytest.approx(activations.STEEPEST[activation], abs=1e-8)


@pytest.mark.equation("eq-gradients-vanish")
@given(names, seeds)
def test_gradients_vanish_where_they_must(activation, seed):
    rng = np.random.default_rng(seed)
    norm = 0.9 / activations.STEEPEST[activation]
    G = rng.normal(size=(4, 4))
    cell = VanillaCell(
        rng.normal(size=(4, 2)), norm * G / np.linalg.norm(G, 2), rng.normal(size=4), activation
    )
    assert gradients.must_vanish(cell.W_hh, activation)
    trajectory = unroll(cell, 3 * rng.normal(size=(60, 1, 2)))
    norms = gradients.product_norms(gradients.state_jacobians(cell, trajectory))[:, 0]
    assert (norms <= 0.9 ** np.arange(61) * (1 + 1e-12)).all()


@pytest.mark.equation("eq-gradients-explode", "eq-gradients-power-bounds")
def test_a_norm_above_one_does_not_make_gradients_explode():
    """[[0, 2], [0, 0]]: norm 2, spectral radius 0, zero after two steps, whatever the activation."""
    W = np.array([[0.0, 2.0], [0.0, 0.0]])
    result = gradients.power_bounds(W, 3)
    np.testing.assert_array_equal(result.lower, [1, 0, 0, 0])
    np.testing.assert_array_equal(result.actual, [1, 2, 0, 0])
    np.testing.assert_array_equal(result.upper, [1, 2, 4, 8])
    for activation in ("tanh", "relu", "identity"):
        assert gradients.may_explode(W, activation)
        cell = VanillaCell(np.ones((2, 1)), W, np.zeros(2), activation)
        jacobians = gradients.state_jacobians(cell, unroll(cell, np.ones((2, 1, 1))))
        np.testing.assert_array_equal(gradients.jacobian_product(jacobians), np.zeros((1, 2, 2)))


@pytest.mark.equation("eq-gradients-explode")
def test_gradients_do_explode_where_the_radius_is_large_and_nothing_saturates():
    W = np.array([[1.5, 1.0], [0.0, 0.2]])
    assert gradients.may_explode(W, "identity")
    cell = VanillaCell(np.zeros((2, 1)), W, np.zeros(2), "identity")
    norms = gradients.product_norms(gradients.state_jacobians(cell, unroll(cell, np.ones((80, 1, 1)))))
    assert norms[-1, 0] > 1.5**80


@pytest.mark.equation("eq-gradients-power-bounds")
@given(sizes("H"), st.integers(0, 8), seeds)
def test_powers_lie_between_those_of_the_radius_and_of_the_norm(agree, n, powers, seed):
    W = example("eq-gradients-power-bounds", seed, n)["W"]
    expected = [
        [np.abs(scipy.linalg.eigvals(W)).max() ** k for k in range(powers + 1)],
        [np.linalg.norm(np.linalg.matrix_power(W, k), 2) for k in range(powers + 1)],
        [np.linalg.norm(W, 2) ** k for k in range(powers + 1)],
    ]
    for A in (W, torch.tensor(W)):
        result = gradients.power_bounds(A, powers)
        agree(gradients.power_bounds, "numpy.linalg", list(result), [np.array(e) for e in expected])
    lower, actual, upper = gradients.power_bounds(W, powers)
    assert (lower <= actual * (1 + 1e-10)).all()
    assert (actual <= upper * (1 + 1e-10)).all()


@pytest.mark.equation("eq-gradients-power-bounds")
def test_a_normal_matrix_leaves_no_room_between_and_gelfands_limit_is_the_radius():
    Q = initialisation.orthogonal(np.random.default_rng(2), 5, 5)
    lower, actual, upper = gradients.power_bounds(0.9 * Q, 20)
    np.testing.assert_allclose(lower, upper, rtol=1e-12)
    np.testing.assert_allclose(actual, upper, rtol=1e-12)
    # Far from normal: the powers climb a hundredfold before the radius wins.
    W = np.array([[0.9, 100.0], [0.0, 0.8]])
    lower, actual, _ = gradients.power_bounds(W, 2000)
    assert actual.max() > 100
    assert actual[-1] < 1e-80
    assert actual[-1] ** (1 / 2000) == pytest.approx(0.9, rel=1e-2)


# --- Lyapunov exponents -----------------------------------------------------------------------


def linear_cell(W: np.ndarray) -> VanillaCell:
    return VanillaCell(np.ones((len(W), 1)), W, np.zeros(len(W)), "identity")


@pytest.mark.equation("eq-gradients-lyapunov")
@given(sizes("H", low=1, high=5), seeds)
def test_the_exponents_of_a_linear_cell_are_the_logarithms_of_its_eigenvalues(agree, n, seed):
    rng = np.random.default_rng(seed)
    H = n["H"]
    # Moduli a factor 1.7 apart, so that the deviations have turned into place after the warm-up.
    moduli = 0.6 * 1.7 ** np.arange(H)
    V = np.eye(H) + 0.3 * rng.uniform(-1, 1, size=(H, H))
    W = V @ np.diag(moduli * rng.choice([-1, 1], H)) @ np.linalg.inv(V)
    cell = linear_cell(W)
    trajectory = unroll(cell, np.zeros((170, 2, 1)))
    expected = np.log(np.sort(np.abs(scipy.linalg.eigvals(W)))[::-1])
    exponents = gradients.lyapunov_exponents(cell, trajectory, discard=120)
    agree(
        gradients.lyapunov_exponents, "scipy.linalg.eigvals", exponents, np.stack([expected, expected]), 1e-9
    )
    K = (H + 1) // 2
    np.testing.assert_allclose(
        gradients.lyapunov_exponents(cell, trajectory, count=K, discard=120), exponents[:, :K], atol=1e-9
    )


@pytest.mark.equation("eq-gradients-lyapunov")
def test_complex_eigenvalues_share_one_exponent_and_a_start_on_an_axis_misses_none():
    angle, radius = 0.7, 1.1
    rotation = radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cell = linear_cell(rotation)
    exponents = gradients.lyapunov_exponents(cell, unroll(cell, np.zeros((50, 1, 1))))
    np.testing.assert_allclose(exponents, np.log(radius), rtol=1e-12)
    # The axes never mix here: a start on them would report log 0.5 for the largest.
    cell = linear_cell(np.diag([0.5, 2.0]))
    largest = gradients.lyapunov_exponents(cell, unroll(cell, np.zeros((80, 1, 1))), count=1, discard=40)
    np.testing.assert_allclose(largest, np.log(2), rtol=1e-12)


@pytest.mark.equation("eq-gradients-lyapunov")
@pytest.mark.parametrize("w", [0.5, 2.0, -1.8])
def test_the_exponent_of_one_unit_is_that_of_its_fixed_point(w):
    """h = tanh(w h + b) at its fixed point: log|w (1 - h²)|, by scipy's root."""
    b = 0.3
    h = scipy.optimize.brentq(lambda h: np.tanh(w * h + b) - h, 0.0, 1.0, xtol=1e-15)
    cell = VanillaCell(np.zeros((1, 1)), np.array([[w]]), np.array([b]))
    trajectory = unroll(cell, np.zeros((1, 1, 1)), np.array([[h]]))
    exponents = gradients.lyapunov_exponents(cell, trajectory)
    assert exponents[0, 0] == pytest.approx(np.log(abs(w) * (1 - h**2)), rel=1e-12)


@pytest.mark.equation("eq-gradients-lyapunov")
@given(sizes("B", "I", "H"), seeds)
def test_the_exponents_add_up_to_the_mean_growth_of_volume(agree, n, seed):
    rng = np.random.default_rng(seed)
    W_hh = 1.2 * initialisation.orthogonal(rng, n["H"], n["H"])
    # Far from singular and far from saturation: the smaller the volume of a step beside its
    # longest edge, the fewer digits its factors keep.
    cell = VanillaCell(0.3 * rng.normal(size=(n["H"], n["I"])), W_hh, 0.3 * rng.normal(size=n["H"]))
    trajectory = unroll(cell, rng.normal(size=(20, n["B"], n["I"])))
    slopes = 1 / np.cosh(trajectory.along_time("a_t")) ** 2  # (T, B, H); 1 - tanh² loses digits
    volume = np.log(slopes).sum(2).mean(0) + np.linalg.slogdet(cell.W_hh)[1]
    agree(
        gradients.lyapunov_exponents,
        "numpy.linalg.slogdet",
        gradients.lyapunov_exponents(cell, trajectory).sum(1),
        volume,
    )


@pytest.mark.equation("eq-gradients-lyapunov")
@given(sizes("H", low=2), seeds)
def test_over_one_step_the_exponents_are_those_of_a_householder_qr(agree, n, seed):
    """T = 1, against scipy's pivot-free QR of J Q_0, with the same fixed start."""
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, 2, n["H"])
    trajectory = unroll(cell, rng.normal(size=(1, 1, 2)), rng.normal(size=(1, n["H"])))
    start = initialisation.orthogonal(np.random.default_rng(0), n["H"], n["H"])
    J = (1 - np.tanh(trajectory.caches[0].a_t[0]) ** 2)[:, None] * cell.W_hh
    R = scipy.linalg.qr(J @ start)[1]
    agree(
        gradients.lyapunov_exponents,
        "scipy.linalg.qr",
        gradients.lyapunov_exponents(cell, trajectory)[0],
        np.sort(np.log(np.abs(np.diag(R))))[::-1],
    )


@pytest.mark.equation("eq-gradients-lyapunov")
def test_a_random_network_without_input_turns_chaotic_as_its_gain_passes_one():
    """Sompolinsky, Crisanti and Sommers (1988): order below gain 1, chaos above."""
    largest = {}
    for gain in (0.7, 3.0):
        rng = np.random.default_rng(8)
        W = gain * rng.normal(size=(40, 40)) / np.sqrt(40)
        cell = VanillaCell(np.zeros((40, 1)), W, np.zeros(40))
        trajectory = unroll(cell, np.zeros((400, 1, 1)), rng.normal(size=(1, 40)))
        largest[gain] = gradients.lyapunov_exponents(cell, trajectory, count=1, discard=200)[0, 0]
    # At rest the network is linear: the exponent is the logarithm of the spectral radius.
    W = 0.7 * np.random.default_rng(8).normal(size=(40, 40)) / np.sqrt(40)
    assert largest[0.7] == pytest.approx(np.log(np.abs(scipy.linalg.eigvals(W)).max()), abs=0.05)
    assert largest[0.7] < 0
    assert largest[3.0] > 0.05


def test_a_direction_that_is_lost_has_an_exponent_of_minus_infinity():
    W_xh, W_hh = np.zeros((1, 1)), np.array([[0.5]])
    for convert in (np.asarray, torch.tensor):
        for b_h, expected in [(1.0, np.log(0.5)), (-1.0, -math.inf)]:
            cell = VanillaCell(convert(W_xh), convert(W_hh), convert(np.array([b_h])), "relu")
            trajectory = unroll(cell, convert(np.zeros((3, 1, 1))))
            np.testing.assert_allclose(
                to_numpy(gradients.lyapunov_exponents(cell, trajectory)), [[expected]], rtol=1e-14
            )
    # Beside a direction that lives, the dead one is a rounding error at best.
    cell = VanillaCell(np.zeros((2, 1)), np.diag([0.5, 0.5]), np.array([1.0, -1.0]), "relu")
    exponents = gradients.lyapunov_exponents(cell, unroll(cell, np.zeros((50, 1, 1))))
    assert exponents[0, 0] == pytest.approx(np.log(0.5), abs=0.05)
    assert exponents[0, 1] < -30


# --- clipping ---------------------------------------------------------------------------------


def parameters(arrays: list[np.ndarray]) -> list[torch.nn.Parameter]:
    """Parameters that carry the arrays as their gradients."""
    result = []
    for g in arrays:
        p = torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.tensor(g).dtype))
        p.grad = torch.tensor(g)
        result.append(p)
    return result


@pytest.mark.equation("eq-gradients-clip-value")
@given(sizes("I", "H", "O"), st.floats(0.1, 3), st.sampled_from([np.float64, np.float32]), seeds)
def test_clipping_by_value_agrees_with_torch(agree, n, limit, dtype, seed):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.normal(size=s).astype(dtype)
        for s in [(n["H"], n["I"]), (n["H"], n["H"]), (n["H"],), (), (1, n["O"], 2)]
    ]
    reference = parameters(arrays)
    torch.nn.utils.clip_grad_value_(reference, limit)
    for given_ in (arrays, [torch.tensor(g) for g in arrays]):
        clipped = gradients.clip_by_value(given_, limit)
        agree(
            gradients.clip_by_value,
            "torch.nn.utils.clip_grad_value_",
            clipped,
            [p.grad for p in reference],
            dtype=np.dtype(dtype).name,
        )
        assert all(c.dtype == g.dtype for c, g in zip(clipped, given_, strict=True))


@pytest.mark.equation("eq-gradients-clip-norm", "eq-gradients-global-norm")
@given(sizes("I", "H", "O"), st.floats(0.1, 10), st.sampled_from([np.float64, np.float32]), seeds)
def test_clipping_by_norm_agrees_with_torch_but_for_its_small_constant(agree, n, threshold, dtype, seed):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.normal(size=s).astype(dtype)
        for s in [(n["H"], n["I"]), (n["H"], n["H"]), (n["H"],), (), (1, n["O"], 2)]
    ]
    name = np.dtype(dtype).name
    reference = parameters(arrays)
    norm = torch.nn.utils.clip_grad_norm_(reference, threshold)
    # torch multiplies by min(1, θ / (‖g‖ + 1e-6)).
    theirs = min(1.0, threshold / (norm.item() + 1e-6))
    undo = min(1.0, threshold / norm.item()) / theirs
    for given_ in (arrays, [torch.tensor(g) for g in arrays]):
        clipped, length = gradients.clip_by_norm(given_, threshold)
        agree(
            gradients.clip_by_norm,
            "torch.nn.utils.clip_grad_norm_",
            clipped,
            [p.grad * undo for p in reference],
            dtype=name,
        )
        agree(gradients.global_norm, "torch.nn.utils.clip_grad_norm_", length, norm, dtype=name)
        assert all(c.dtype == g.dtype for c, g in zip(clipped, given_, strict=True))
        assert length.dtype == given_[0].dtype
        after = gradients.global_norm(clipped)
        assert float(after) == pytest.approx(
            min(float(length), threshold), rel=1e-5 if dtype == np.float32 else 1e-12
        )


@pytest.mark.equation("eq-gradients-clip-norm")
def test_a_short_gradient_is_left_as_it_is_and_zero_stays_zero():
    g = np.array([0.3, -0.4])
    for threshold in (0.5, 0.51, 1e9):
        clipped, norm = gradients.clip_by_norm(g, threshold)
        np.testing.assert_array_equal(clipped, g)
        assert norm == pytest.approx(0.5, rel=1e-15)
    for zero in (np.zeros((2, 2)), torch.zeros(2, 2)):
        clipped, norm = gradients.clip_by_norm(zero, 1.0)
        np.testing.assert_array_equal(to_numpy(clipped), np.zeros((2, 2)))
        assert float(norm) == 0
        np.testing.assert_array_equal(to_numpy(gradients.clip_by_value(zero, 1.0)), np.zeros((2, 2)))


class Pair(NamedTuple):
    cell: Any
    readout: Any


@dataclass(frozen=True)
class Model:
    layers: tuple[VanillaCell, ...]
    scale: Any
    name: str = "a model"


def test_clipping_keeps_the_form_of_the_collection():
    rng = np.random.default_rng(9)
    cell = random_cell(rng, 2, 3, "relu")
    collection = {
        "model": Model((cell, cell), rng.normal(size=2)),
        "pair": Pair(cell, [rng.normal(size=(1, 3)), None]),
    }
    flat = [cell.W_xh, cell.W_hh, cell.b_h] * 2 + [collection["model"].scale]
    flat += [cell.W_xh, cell.W_hh, cell.b_h, collection["pair"].readout[0]]
    length = np.linalg.norm(np.concatenate([g.ravel() for g in flat]))
    clipped, norm = gradients.clip_by_norm(collection, 1.0)
    assert norm == pytest.approx(length, rel=1e-14)
    assert isinstance(clipped["model"], Model)
    assert clipped["model"].name == "a model"
    assert clipped["pair"].readout[1] is None
    assert isinstance(clipped["pair"], Pair)
    assert isinstance(clipped["model"].layers, tuple)
    assert clipped["model"].layers[1].activation == "relu"
    np.testing.assert_allclose(clipped["model"].layers[1].W_hh, cell.W_hh / length, rtol=1e-14)
    np.testing.assert_allclose(clipped["pair"].readout[0], collection["pair"].readout[0] / length, rtol=1e-14)
    cut = gradients.clip_by_value(cell, 0.5)
    assert isinstance(cut, VanillaCell)
    np.testing.assert_array_equal(cut.b_h, np.clip(cell.b_h, -0.5, 0.5))


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    "clip",
    [
        gradients.global_norm,
        lambda g: gradients.clip_by_norm(g, 1.0),
        lambda g: gradients.clip_by_value(g, 1.0),
    ],
    ids=["global_norm", "clip_by_norm", "clip_by_value"],
)
def test_a_gradient_that_is_not_finite_is_refused_by_name_and_index(convert, clip):
    good, bad = np.ones(2), np.ones((2, 3))
    bad[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"gradients\[1\] holds NaN, first at index \(1, 2\)"):
        clip([convert(good), convert(bad)])
    for infinite in (math.inf, -math.inf):
        bad[1, 2] = infinite
        with pytest.raises(ValueError, match=r"gradients\['b'\] is not finite, first at index \(1, 2\)"):
            clip({"a": convert(good), "b": convert(bad)})


def test_unchecked_clipping_lets_what_is_not_finite_through():
    g = [np.array([1.0, math.nan]), np.array([3.0])]
    clipped, norm = gradients.clip_by_norm.unchecked(g, 1.0)
    assert np.isnan(norm)
    assert all(np.isnan(c).all() for c in clipped)
    cut = gradients.clip_by_value.unchecked([np.array([math.nan, math.inf, -math.inf, 0.5])], 1.0)[0]
    np.testing.assert_array_equal(cut, [math.nan, 1, -1, 0.5])
    assert gradients.global_norm.unchecked([np.array([-math.inf]), np.ones(2)]) == math.inf


@pytest.mark.equation("eq-gradients-global-norm")
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_global_norm_neither_vanishes_nor_overflows_in_the_squares(scale):
    arrays = [scale * np.array([[3.0]]), scale * np.array([0.0, 4.0])]
    assert gradients.global_norm(arrays) == pytest.approx(5 * scale, rel=1e-14)
    clipped, _ = gradients.clip_by_norm(arrays, 1e-3)
    assert gradients.global_norm(clipped) == pytest.approx(min(5 * scale, 1e-3), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_clipping_keeps_every_dtype(dtype):
    g = torch.tensor([300.0, -400.0], dtype=dtype)  # the squares overflow float16
    clipped, norm = gradients.clip_by_norm([g], 1.0)
    assert clipped[0].dtype == norm.dtype == dtype
    assert float(norm) == pytest.approx(500, rel=1e-2)
    np.testing.assert_allclose(to_numpy(clipped[0]), [0.6, -0.8], rtol=1e-2)
    assert gradients.clip_by_value(g, 1.0).dtype == dtype
    if dtype != torch.bfloat16:
        clipped, norm = gradients.clip_by_norm([g.numpy()], 1.0)
        assert clipped[0].dtype == norm.dtype == g.numpy().dtype


@pytest.mark.equation("eq-gradients-clip-norm")
def test_a_gradient_whose_norm_overflows_is_shortened_all_the_same():
    largest = np.finfo(np.float64).max
    for convert in (np.asarray, torch.tensor):
        g = [convert(np.full(3, largest)), convert(np.array(-largest))]
        assert float(gradients.global_norm(g)) == math.inf
        clipped, norm = gradients.clip_by_norm(g, 3.0)
        assert float(norm) == math.inf
        np.testing.assert_allclose(to_numpy(clipped[0]), [1.5, 1.5, 1.5], rtol=1e-14)
        np.testing.assert_allclose(to_numpy(clipped[1]), -1.5, rtol=1e-14)
        # More entries than half precision can count.
        half = convert(np.ones(80_000, np.float16))
        clipped, norm = gradients.clip_by_norm(half, 1.0)
        assert float(norm) == pytest.approx(math.sqrt(80_000), rel=2e-3)
        assert float(clipped[0]) == pytest.approx(1 / math.sqrt(80_000), rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_thresholds_beyond_the_dtype_are_the_limit_that_they_stand_for(dtype):
    """Above the largest number nothing is clipped; below the smallest, everything becomes zero."""
    g = torch.tensor([3.0, -4.0], dtype=dtype)
    kinds = [g] if dtype == torch.bfloat16 else [g, g.numpy()]
    for x in kinds:
        for clip in (gradients.clip_by_value, lambda x, c: gradients.clip_by_norm(x, c)[0]):
            np.testing.assert_array_equal(to_numpy(clip(x, 1e300)), [3, -4])
            np.testing.assert_allclose(to_numpy(clip(x, 1e-300)), [0, 0], atol=1e-299)
            np.testing.assert_array_equal(to_numpy(clip(0 * x, 1e-300)), [0, 0])
            assert clip(x, 1e300).dtype == clip(x, 1e-300).dtype == x.dtype


def test_clipping_stays_on_its_device():
    g = [torch.ones(2, 3, device="meta"), torch.ones(4, device="meta")]
    clipped, norm = gradients.clip_by_norm(g, 1.0)
    assert norm.is_meta
    assert all(c.is_meta for c in clipped)
    assert gradients.clip_by_value(g, 1.0)[1].is_meta


# --- dtype, device and differentiation --------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_jacobians_and_their_products_keep_the_dtype(dtype):
    rng = np.random.default_rng(10)
    cell = VanillaCell(*(rng.normal(size=s).astype(dtype) for s in [(3, 2), (3, 3), (3,)]))
    xs = rng.normal(size=(4, 2, 2)).astype(dtype)
    jacobians = gradients.state_jacobians(cell, unroll(cell, xs))
    assert jacobians.dtype == dtype
    assert jacobians.shape == (4, 2, 3, 3)
    assert gradients.jacobian_products(jacobians).dtype == dtype
    assert gradients.gradient_norms(jacobians[0, :, 0], jacobians).dtype == dtype
    assert gradients.frobenius_norm(cell.W_hh).dtype == dtype


def test_jacobians_stay_on_their_device():
    cell = VanillaCell(*(torch.ones(s, device="meta") for s in [(3, 2), (3, 3), (3,)]))
    jacobians = gradients.state_jacobians(cell, unroll(cell, torch.ones(4, 2, 2, device="meta")))
    assert jacobians.is_meta
    assert jacobians.shape == (4, 2, 3, 3)
    assert gradients.gradient_norms(torch.ones(2, 3, device="meta"), jacobians).is_meta


def test_a_stretched_batch_of_a_larger_array_will_do():
    rng = np.random.default_rng(11)
    wide, W = rng.normal(size=(6, 8)), rng.normal(size=(8, 8))
    strided, W_part = wide[::2, 1::2], W[::2, 1::2]
    np.testing.assert_array_equal(
        gradients.step_jacobian(strided, W_part), gradients.step_jacobian(strided.copy(), W_part.copy())
    )
    np.testing.assert_allclose(gradients.frobenius_norm(W_part), np.linalg.norm(W_part.copy()), rtol=1e-14)


@pytest.mark.equation("eq-gradients-product-bound", "eq-gradients-henrici")
def test_norms_and_bounds_can_be_differentiated():
    rng = np.random.default_rng(12)
    W = torch.tensor(rng.normal(size=(3, 3)), requires_grad=True)
    a_ts = torch.tensor(rng.normal(size=(2, 2, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, W: gradients.product_bound(a, W).actual[1:], (a_ts, W))
    assert torch.autograd.gradcheck(lambda a, W: gradients.product_bound(a, W).bound, (a_ts, W))
    assert torch.autograd.gradcheck(gradients.henrici_departure, (W,))
    assert torch.autograd.gradcheck(gradients.frobenius_norm, (W,))


@given(sizes("T", "B", "I", "H"), names, seeds)
def test_numpy_and_torch_give_the_same_along_a_trajectory(n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    twin = VanillaCell(*(torch.tensor(v) for v in (cell.W_xh, cell.W_hh, cell.b_h)), activation)
    ours, theirs = unroll(cell, xs), unroll(twin, torch.tensor(xs))
    jacobians = gradients.state_jacobians(cell, ours)
    assert relative_error(gradients.state_jacobians(twin, theirs), jacobians) < 1e-12
    if activation != "relu":  # a lost direction is a rounding error of either library's own
        exponents = gradients.lyapunov_exponents(cell, ours)
        assert relative_error(gradients.lyapunov_exponents(twin, theirs), exponents) < 1e-8


# --- refusals ---------------------------------------------------------------------------------


def test_half_precision_is_refused_where_a_decomposition_is_needed():
    W = np.eye(2, dtype=np.float16)
    a_ts = np.ones((1, 1, 2), dtype=np.float16)
    cell = VanillaCell(W, W, W[0])
    trajectory = unroll(cell, a_ts)
    for call, name in [
        (lambda: gradients.singular_values(W), "singular_values: W"),
        (lambda: gradients.spectral_norm(W), "spectral_norm: W"),
        (lambda: gradients.henrici_departure(W), "henrici_departure: W"),
        (lambda: gradients.power_bounds(W, 1), "power_bounds: W"),
        (lambda: gradients.must_vanish(W), "must_vanish: W_hh"),
        (lambda: gradients.may_explode(W), "may_explode: W_hh"),
        (lambda: gradients.step_bound(a_ts[0], W), "step_bound: a_t"),
        (lambda: gradients.product_bound(a_ts, W), "product_bound: a_ts"),
        (lambda: gradients.product_norms(a_ts[None][:, :, :, :1]), "product_norms: jacobians"),
        (lambda: gradients.lyapunov_exponents(cell, trajectory), "lyapunov_exponents: trajectory.hs"),
        (lambda: gradients.spectral_norm(torch.eye(2, dtype=torch.bfloat16)), "spectral_norm: W"),
    ]:
        with pytest.raises(TypeError, match=rf"{name} has dtype .*16, expected float32 or float64"):
            call()


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(13)
    cell = random_cell(rng, 2, 3)
    trajectory = unroll(cell, rng.normal(size=(4, 1, 2)))
    with pytest.raises(ValueError, match=r"W_hh has shape \(2, 2\), expected \(H, H\) = \(3, 3\)"):
        gradients.step_jacobian(np.ones((1, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="activation is 'softsign'"):
        gradients.step_jacobian(np.ones((1, 3)), np.ones((3, 3)), "softsign")
    for condition in (gradients.must_vanish, gradients.may_explode):
        with pytest.raises(ValueError, match=f"{condition.__name__}: activation is 'softsign'"):
            condition(np.ones((3, 3)), "softsign")
    with pytest.raises(ValueError, match=r"jacobians has shape \(1, 1, 2, 3\), expected \(T, B, S, S\)"):
        gradients.jacobian_product(np.ones((1, 1, 2, 3)))
    with pytest.raises(ValueError, match="x_t has shape"):
        gradients.state_jacobian(cell, np.ones((1, 5)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="state_jacobian: state: h_prev has shape"):
        gradients.state_jacobian(cell, np.ones((1, 2)), np.ones((1, 4)))
    with pytest.raises(TypeError, match="trajectory is a ndarray, expected a Trajectory"):
        gradients.state_jacobians(cell, trajectory.hs)
    with pytest.raises(ValueError, match="trajectory has H = 3, expected 5 set by the cell"):
        gradients.state_jacobians(OscillatorCell(np.eye(5), np.eye(5)), trajectory)
    with pytest.raises(ValueError, match=r"trajectory.hs has shape \(4, 1, 3\), expected .* H = 5 set by"):
        gradients.lyapunov_exponents(random_cell(rng, 2, 5), trajectory)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"count is {count}, expected a whole number from 1 to 3"):
            gradients.lyapunov_exponents(cell, trajectory, count=count)
    for discard in (-1, 4):
        with pytest.raises(ValueError, match=f"discard is {discard}, expected a whole number from 0 to 3"):
            gradients.lyapunov_exponents(cell, trajectory, discard=discard)
    with pytest.raises(TypeError, match="discard is a float, expected a whole number"):
        gradients.lyapunov_exponents(cell, trajectory, discard=1.0)
    with pytest.raises(ValueError, match="trajectory was run with lengths"):
        gradients.lyapunov_exponents(cell, unroll(cell, np.ones((4, 1, 2)), lengths=[2]))
    with pytest.raises(ValueError, match="powers is -1, expected a whole number of at least 0"):
        gradients.power_bounds(np.eye(2), -1)
    with pytest.raises(TypeError, match="powers is a bool"):
        gradients.power_bounds(np.eye(2), True)


def test_clipping_refuses_what_it_cannot_clip():
    g = np.ones(2)
    for clip, name in [(gradients.clip_by_norm, "threshold"), (gradients.clip_by_value, "limit")]:
        for bad in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name} is {bad}, expected a finite number above 0"):
                clip(g, bad)
        with pytest.raises(TypeError, match=f"{name} is a str, expected a finite number above 0"):
            clip(g, "1")
    for what, name in [("g", "str"), (np.float64(1), "float64"), (lambda: g, "function")]:
        with pytest.raises(TypeError, match=rf"^clip_by_norm: gradients\[1\] is a {name}, expected an array"):
            gradients.clip_by_norm([g, what], 1.0)
    for nothing in ([], [None], {}):
        with pytest.raises(ValueError, match="gradients holds no array, expected at least one"):
            gradients.clip_by_norm(nothing, 1.0)
    with pytest.raises(TypeError, match=r"gradients\[0\] has dtype float64 but gradients\[1\] has float32"):
        gradients.global_norm([g, g.astype(np.float32)])
    with pytest.raises(TypeError, match=r"expected all arrays of one kind"):
        gradients.global_norm([g, torch.ones(2)])
    with pytest.raises(TypeError, match="dtype int64, expected a real floating-point dtype"):
        gradients.clip_by_value(np.ones(2, dtype=np.int64), 1.0)
    with pytest.raises(TypeError, match="dtype complex128, expected a real floating-point dtype"):
        gradients.clip_by_norm(g + 1j, 1.0)


def test_arguments_as_tensors_give_tensors():
    arguments = as_torch(example("eq-gradients-step-bound", 0, {"B": 2, "H": 3}))
    result = gradients.step_bound(**arguments)
    assert isinstance(result.bound, torch.Tensor)
    assert isinstance(result.actual, torch.Tensor)
    assert result.bound.shape == result.actual.shape == (2,)
