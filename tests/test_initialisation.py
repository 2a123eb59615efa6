"""Spectral radius and random weights, held to SciPy, to torch.nn.init and to their distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import activations, initialisation
from rnnlib.initialisation import random_vanilla_cell
from tests.support import example, seeds, sizes, to_numpy

DRAWS = {
    "orthogonal": lambda rng, dtype: initialisation.orthogonal(rng, 3, 2, dtype=dtype),
    "identity": lambda rng, dtype: initialisation.identity(3, dtype=dtype),
    "glorot_uniform": lambda rng, dtype: initialisation.glorot_uniform(rng, 3, 2, dtype=dtype),
    "glorot_normal": lambda rng, dtype: initialisation.glorot_normal(rng, 3, 2, dtype=dtype),
    "uniform": lambda rng, dtype: initialisation.uniform(rng, (3, 2), 4, dtype=dtype),
    "random_vanilla_cell": lambda rng, dtype: random_vanilla_cell(rng, 2, 3, dtype=dtype).W_hh,
}


def distribution_differs(draws: np.ndarray, distribution: scipy.stats.rv_continuous) -> bool:
    """Whether a Kolmogorov-Smirnov test tells the draws from a distribution."""
    return bool(scipy.stats.kstest(draws.ravel(), distribution.cdf).pvalue < 1e-3)


# --- the spectral radius ----------------------------------------------------------------------


@pytest.mark.equation("eq-vanilla-spectral-radius")
@given(sizes("H", high=9), st.sampled_from([np.float64, np.float32]), seeds)
def test_the_spectral_radius_agrees_with_scipy(agree, n, dtype, seed):
    W = example("eq-vanilla-spectral-radius", seed, n, dtype)["W"]
    for A in (W, torch.tensor(W)):
        rho = initialisation.spectral_radius(A)
        agree(
            initialisation.spectral_radius,
            "scipy.linalg.eigvals",
            rho,
            np.abs(scipy.linalg.eigvals(W.astype(np.float64))).max(),
            dtype=np.dtype(dtype).name,
        )
        assert rho.dtype == A.dtype


@pytest.mark.equation("eq-vanilla-spectral-radius")
def test_the_spectral_radius_of_known_matrices():
    for convert in (np.asarray, torch.tensor):
        triangular = convert(np.array([[0.5, 9.0], [0.0, -3.0]]))
        assert float(initialisation.spectral_radius(triangular)) == pytest.approx(3, rel=1e-14)
        rotation = convert(np.array([[0.0, -2.0], [2.0, 0.0]]))  # eigenvalues ±2i
        assert float(initialisation.spectral_radius(rotation)) == pytest.approx(2, rel=1e-14)
        nilpotent = convert(np.array([[0.0, 2.0], [0.0, 0.0]]))
        assert float(initialisation.spectral_radius(nilpotent)) == 0


@pytest.mark.equation("eq-vanilla-scaling")
@given(sizes("H", high=9), st.floats(0.01, 10), st.sampled_from([np.float64, np.float32]), seeds)
def test_scaling_reaches_the_radius_and_keeps_the_direction(agree, n, radius, dtype, seed):
    W = example("eq-vanilla-scaling", seed, n, dtype)["W"]
    name = np.dtype(dtype).name
    factor = radius / np.abs(scipy.linalg.eigvals(W.astype(np.float64))).max()
    for A in (W, torch.tensor(W)):
        scaled = initialisation.with_spectral_radius(A, radius)
        assert scaled.dtype == A.dtype
        assert type(scaled) is type(A)
        # Divided by the radius, so that a relative error is what is measured.
        agree(
            initialisation.with_spectral_radius,
            "scipy.linalg.eigvals",
            [
                np.abs(scipy.linalg.eigvals(to_numpy(scaled).astype(np.float64))).max() / radius,
                to_numpy(scaled) / radius,
            ],
            [np.float64(1), factor * W / radius],
            dtype=name,
        )


@pytest.mark.equation("eq-vanilla-scaling")
def test_scaling_can_be_differentiated():
    W = torch.tensor(np.random.default_rng(0).normal(size=(3, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda W: initialisation.with_spectral_radius(W, 0.9), (W,))


def test_scaling_refuses_a_radius_or_a_matrix_without_meaning():
    for radius in (0, -0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"radius is {radius}, expected a finite number above 0"):
            initialisation.with_spectral_radius(np.eye(2), radius)
    with pytest.raises(TypeError, match="radius is a str, expected a finite number above 0"):
        initialisation.with_spectral_radius(np.eye(2), "1")
    for convert in (np.asarray, torch.tensor):
        for W in (np.zeros((2, 2)), np.array([[0.0, 2.0], [0.0, 0.0]])):
            with pytest.raises(ValueError, match="every eigenvalue of W is 0"):
                initialisation.with_spectral_radius(convert(W), 0.9)
    with pytest.raises(ValueError, match=r"W has shape \(2, 3\), expected \(H, H\)"):
        initialisation.spectral_radius(np.ones((2, 3)))
    for half in (np.eye(2, dtype=np.float16), torch.eye(2, dtype=torch.bfloat16)):
        for call in (initialisation.spectral_radius, lambda W: initialisation.with_spectral_radius(W, 1.0)):
            with pytest.raises(TypeError, match=r"W has dtype .*16, expected float32 or float64"):
                call(half)


# --- the draws --------------------------------------------------------------------------------


@pytest.mark.equation("eq-initialisation-orthogonal")
@given(sizes("H", "I", high=9), st.floats(0.1, 5), st.sampled_from([np.float64, np.float32]), seeds)
def test_an_orthogonal_matrix_has_all_its_singular_values_at_the_gain(agree, n, gain, dtype, seed):
    W = initialisation.orthogonal(np.random.default_rng(seed), n["H"], n["I"], gain, dtype)
    assert W.shape == (n["H"], n["I"])
    assert W.dtype == dtype
    agree(
        initialisation.orthogonal,
        "scipy.linalg.svdvals",
        scipy.linalg.svdvals(W),
        np.full(min(W.shape), gain),
        dtype=np.dtype(dtype).name,
    )


@pytest.mark.equation("eq-initialisation-orthogonal")
@given(sizes("H", "I", high=6), seeds)
def test_an_orthogonal_matrix_is_the_q_whose_r_has_a_positive_diagonal(agree, n, seed):
    """Cholesky's factor of GᵀG is that R, and Q = G R⁻¹."""
    H, I = n["H"], n["I"]
    G = np.random.default_rng(seed).standard_normal((max(H, I), min(H, I)))
    R = scipy.linalg.cholesky(G.T @ G)
    Q = scipy.linalg.solve_triangular(R, G.T, trans="T").T
    agree(
        initialisation.orthogonal,
        "scipy.linalg.cholesky",
        initialisation.orthogonal(np.random.default_rng(seed), H, I),
        Q if H >= I else Q.T,
        tolerance=1e-10 * np.linalg.cond(R) ** 2,
    )


@pytest.mark.equation("eq-initialisation-orthogonal")
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 2), (2, 4)])
def test_every_rotation_is_equally_likely(rows, columns):
    """Haar's measure on 3 by 3: an entry is uniform on ±1 (Archimedes), the trace has mean 0, square 1."""
    rng = np.random.default_rng(0)
    draws = np.stack([initialisation.orthogonal(rng, rows, columns) for _ in range(4000)])
    n = max(rows, columns)
    # An entry of a random unit vector in n dimensions: its square is Beta(1/2, (n-1)/2).
    for entry in (draws[:, 0, 0], draws[:, 0, -1], draws[:, -1, 0], draws[:, -1, -1]):
        assert not distribution_differs(entry**2, scipy.stats.beta(0.5, (n - 1) / 2))
        assert abs(np.sign(entry).mean()) < 4 / math.sqrt(len(entry))
    if rows == columns:
        theirs = scipy.stats.ortho_group.rvs(rows, size=4000, random_state=1)
        for moment in (lambda W: np.trace(W, axis1=1, axis2=2), np.linalg.det):
            ours, reference = moment(draws), moment(theirs)
            assert abs(ours.mean() - reference.mean()) < 6 / math.sqrt(4000)
            assert abs((ours**2).mean() - (reference**2).mean()) < 12 / math.sqrt(4000)


@pytest.mark.equation("eq-initialisation-identity")
@given(sizes("H"), st.floats(0.01, 2), seeds)
def test_the_identity_keeps_the_state_up_to_its_scale(agree, n, scale, seed):
    h = np.random.default_rng(seed).normal(size=(2, n["H"]))
    agree(
        initialisation.identity,
        "torch.nn.init.eye_",
        initialisation.identity(n["H"], scale),
        scale * torch.nn.init.eye_(torch.empty(n["H"], n["H"], dtype=torch.float64)),
    )
    np.testing.assert_array_equal(h @ initialisation.identity(n["H"]).T, h)


@pytest.mark.equation("eq-initialisation-glorot-uniform", "eq-initialisation-glorot-normal")
@pytest.mark.parametrize(("rows", "columns"), [(200, 300), (1, 20_000), (150, 10)])
def test_glorot_draws_have_the_distribution_of_torch(rows, columns):
    """torch.nn.init's xavier_uniform_ and xavier_normal_, by a two-sample test and by the closed form."""
    torch.manual_seed(0)
    for ours, theirs, distribution in [
        (
            initialisation.glorot_uniform,
            torch.nn.init.xavier_uniform_,
            scipy.stats.uniform(-math.sqrt(6 / (rows + columns)), 2 * math.sqrt(6 / (rows + columns))),
        ),
        (
            initialisation.glorot_normal,
            torch.nn.init.xavier_normal_,
            scipy.stats.norm(0, math.sqrt(2 / (rows + columns))),
        ),
    ]:
        W = ours(np.random.default_rng(0), rows, columns)
        reference = theirs(torch.empty(rows, columns, dtype=torch.float64)).numpy()
        assert W.shape == (rows, columns)
        assert not distribution_differs(W, distribution)
        assert scipy.stats.ks_2samp(W.ravel(), reference.ravel()).pvalue > 1e-3


@pytest.mark.equation("eq-initialisation-uniform")
def test_uniform_draws_have_the_distribution_of_torch_nn():
    torch.manual_seed(0)
    reference = torch.nn.LSTM(50, 40, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for theirs in reference.parameters():
        ours = initialisation.uniform(rng, tuple(theirs.shape), 40)
        assert ours.shape == tuple(theirs.shape)
        assert np.abs(ours).max() <= 1 / math.sqrt(40)
        assert not distribution_differs(ours, scipy.stats.uniform(-1 / math.sqrt(40), 2 / math.sqrt(40)))
        assert scipy.stats.ks_2samp(ours.ravel(), theirs.detach().numpy().ravel()).pvalue > 1e-3
    assert initialisation.uniform(rng, 7, 40).shape == (7,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_keeps_to_its_seed_and_its_dtype(name, dtype):
    first = DRAWS[name](np.random.default_rng(3), dtype)
    assert isinstance(first, np.ndarray)
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, DRAWS[name](np.random.default_rng(3), dtype))
    np.testing.assert_array_equal(first, DRAWS[name](np.random.default_rng(3), np.float64).astype(dtype))
    if name != "identity":
        assert not np.array_equal(first, DRAWS[name](np.random.default_rng(4), dtype))
    torch.from_numpy(first)  # a layout that torch takes


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_refuses_what_is_no_floating_point_dtype(name):
    with pytest.raises(TypeError, match="expected a real floating-point dtype of NumPy"):
        DRAWS[name](np.random.default_rng(0), np.int64)
    with pytest.raises(TypeError, match="expected a real floating-point dtype of NumPy"):
        DRAWS[name](np.random.default_rng(0), np.complex128)
    if name != "identity":
        with pytest.raises(TypeError, match=f"{name}: rng is a int, expected a numpy.random.Generator"):
            DRAWS[name](0, np.float64)


def test_a_draw_refuses_sizes_and_scales_out_of_range():
    rng = np.random.default_rng(0)
    calls = {
        "rows": lambda n: initialisation.orthogonal(rng, n, 2),
        "columns": lambda n: initialisation.orthogonal(rng, 2, n),
        "glorot_uniform: rows": lambda n: initialisation.glorot_uniform(rng, n, 2),
        "glorot_uniform: columns": lambda n: initialisation.glorot_uniform(rng, 2, n),
        "glorot_normal: rows": lambda n: initialisation.glorot_normal(rng, n, 2),
        "glorot_normal: columns": lambda n: initialisation.glorot_normal(rng, 2, n),
        "identity: hidden_size": lambda n: initialisation.identity(n),
        "uniform: hidden_size": lambda n: initialisation.uniform(rng, 2, n),
        r"uniform: shape\[1\]": lambda n: initialisation.uniform(rng, (2, n), 2),
        "random_vanilla_cell: input_size": lambda n: random_vanilla_cell(rng, n, 2),
        "random_vanilla_cell: hidden_size": lambda n: random_vanilla_cell(rng, 2, n),
    }
    for name, call in calls.items():
        for size in (0, -1):
            with pytest.raises(ValueError, match=f"{name} is {size}, expected a whole number of at least 1"):
                call(size)
        for size in (2.0, True, "2", None):
            with pytest.raises(
                TypeError, match=f"{name} is a {type(size).__name__}, expected a whole number"
            ):
                call(size)
        call(np.int64(2))
    for name, call in {
        "gain": lambda x: initialisation.orthogonal(rng, 2, 2, x),
        "scale": lambda x: initialisation.identity(2, x),
        "spectral_radius": lambda x: random_vanilla_cell(rng, 1, 2, spectral_radius=x),
    }.items():
        for bad in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{name} is {bad}, expected a finite number above 0"):
                call(bad)
    for name in ("input_scale", "bias_scale"):
        for bad in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"{name} is {bad}, expected a finite number of at least 0"):
                random_vanilla_cell(rng, 1, 2, **{name: bad})


# --- the random cell --------------------------------------------------------------------------


@given(
    sizes("I", "H", high=8),
    st.floats(0.1, 2),
    st.floats(0, 3),
    st.sampled_from(activations.ACTIVATIONS),
    seeds,
)
def test_a_random_cell_has_the_radius_and_the_scales_asked_for(agree, n, radius, scale, activation, seed):
    cell = random_vanilla_cell(
        np.random.default_rng(seed), n["I"], n["H"], radius, scale, scale / 2, activation
    )
    assert (cell.input_size, cell.hidden_size, cell.activation) == (n["I"], n["H"], activation)
    agree(
        random_vanilla_cell,
        "scipy.linalg.eigvals",
        np.abs(scipy.linalg.eigvals(cell.W_hh)).max(),
        np.float64(radius),
    )
    assert np.abs(cell.W_xh).max() <= scale
    assert np.abs(cell.b_h).max() <= scale / 2


def test_the_weights_of_a_random_cell_have_their_distributions():
    cell = random_vanilla_cell(np.random.default_rng(0), 40, 300, 0.8, input_scale=0.5, bias_scale=0.2)
    assert not distribution_differs(cell.W_xh, scipy.stats.uniform(-0.5, 1.0))
    assert not distribution_differs(cell.b_h, scipy.stats.uniform(-0.2, 0.4))
    # Before the scaling the entries were standard normal, so their ratio to their spread still is.
    assert not distribution_differs(cell.W_hh / cell.W_hh.std(), scipy.stats.norm())
    # Girko's circular law: the eigenvalues fill a disc, so the spread is about radius / √H.
    assert cell.W_hh.std() == pytest.approx(0.8 / math.sqrt(300), rel=0.1)


def test_a_random_cell_defaults_to_a_radius_below_one_and_no_bias():
    cell = random_vanilla_cell(np.random.default_rng(0), 2, 20)
    assert np.abs(scipy.linalg.eigvals(cell.W_hh)).max() == pytest.approx(0.9, rel=1e-12)
    assert 0.9 < np.abs(cell.W_xh).max() <= 1
    assert not cell.b_h.any()
    assert cell.activation == "tanh"
    with pytest.raises(ValueError, match="activation is 'softsign'"):
        random_vanilla_cell(np.random.default_rng(0), 2, 20, activation="softsign")
