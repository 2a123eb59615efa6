"""The network as graph, dynamical system and memory, held to autograd, SciPy, mpmath and statsmodels."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rnnlib import activations, dynamics
from rnnlib.gru import GRUCell
from rnnlib.initialisation import orthogonal, spectral_radius, with_spectral_radius
from rnnlib.lstm import LSTMCell
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
BACKENDS = pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])


def torch_rnn(cell: VanillaCell) -> torch.nn.RNN:
    """torch's own network of tanh with the same weights."""
    H, I = cell.W_xh.shape
    reference = torch.nn.RNN(I, H, dtype=torch.float64)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(torch.tensor(cell.W_xh))
        reference.weight_hh_l0.copy_(torch.tensor(cell.W_hh))
        reference.bias_ih_l0.copy_(torch.tensor(cell.b_h))
        reference.bias_hh_l0.zero_()
    return reference


# --- the computation graph ----------------------------------------------------------------------


def trace(cell_type, shapes, rng, T, B, I, initial, *more):
    """The graph of the last hidden state of a cell, all of whose arrays are traced."""
    arrays = {
        name: dynamics.traced(rng.normal(size=size), name)
        for name, size in shapes.items()
        if isinstance(size, tuple)
    }
    xs = dynamics.traced(rng.normal(size=(T, B, I)), "xs")
    starts = tuple(dynamics.traced(rng.normal(size=size), f"start {i}") for i, size in enumerate(initial))
    return dynamics.computation_graph(unroll(cell_type(*arrays.values(), *more), xs, starts).final[0])


def autograd_graph(result):
    """What torch recorded: operations by number, and (from, to) edges, transpositions left out."""
    found, edges, waiting = {}, [], [result.grad_fn]

    def source(node):
        while type(node).__name__ in {"TBackward0", "PermuteBackward0"}:
            node = node.next_functions[0][0]
        return node

    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found[node] = type(node).__name__.removesuffix("0").removesuffix("Backward")
        for parent, _ in node.next_functions:
            if parent is not None:
                edges.append((source(parent), node))
                waiting.append(source(parent))
    return found, [(found[start], found[end]) for start, end in edges]


IN_TORCH = {"matmul": "Mm", "add": "Add", "tanh": "Tanh", "maximum": "Relu"}


def as_autograd_names(node):
    if not node.parents:
        return "AccumulateGrad"
    return "Select" if node.name.startswith("[") else IN_TORCH[node.name]


@given(sizes("T", "B", "I", "H"), st.sampled_from(["tanh", "relu", "identity"]), seeds)
def test_the_graph_is_the_one_that_autograd_recorded(n, activation, seed):
    T, B, I, H = n["T"], n["B"], n["I"], n["H"]
    rng = np.random.default_rng(seed)
    shapes = {"W_xh": (H, I), "W_hh": (H, H), "b_h": (H,)}
    graph = trace(VanillaCell, shapes, rng, T, B, I, [(B, H)], activation)

    cell = VanillaCell(
        *(torch.tensor(rng.normal(size=s), requires_grad=True) for s in shapes.values()), activation
    )
    xs = torch.tensor(rng.normal(size=(T, B, I)), requires_grad=True)
    start = torch.tensor(rng.normal(size=(B, H)), requires_grad=True)
    nodes, edges = autograd_graph(unroll(cell, xs, start).final[0])

    ours = [as_autograd_names(node) for node in graph.nodes]
    assert Counter(ours) == Counter(nodes.values())
    assert Counter((ours[a], ours[b]) for a, b in graph.edges) == Counter(edges)


@pytest.mark.parametrize("T", [1, 2, 7, 40])
def test_the_graph_grows_linearly_with_time(T):
    graph = trace(
        VanillaCell,
        {"W_xh": (2, 1), "W_hh": (2, 2), "b_h": (2,)},
        np.random.default_rng(0),
        T,
        1,
        1,
        [(1, 2)],
    )
    assert len(graph.nodes) == 5 + 6 * T
    assert len(graph.edges) == 10 * T
    assert graph.depth == 4 * T + 1
    leaves = {node.name: i for i, node in enumerate(graph.nodes) if not node.parents}
    assert set(leaves) == {"W_xh", "W_hh", "b_h", "start 0", "xs"}
    out = Counter(start for start, _ in graph.edges)
    assert [out[leaves[name]] for name in ("W_hh", "W_xh", "b_h", "xs")] == [T] * 4
    assert out[leaves["start 0"]] == 1
    assert all(start < end for start, end in graph.edges)
    assert len(set(graph.nodes)) == len(graph.nodes)
    assert graph.nodes[-1].name == "tanh"
    assert graph.nodes[-1].shape == (1, 2)


@pytest.mark.parametrize(("cell_type", "states"), [(GRUCell, 1), (LSTMCell, 2)])
def test_the_graph_of_any_cell_grows_linearly_with_time(cell_type, states):
    H, I = 3, 2
    gates = ("f", "i", "C", "o") if states == 2 else ("z", "r", "")
    if states == 2:
        shapes = {f"W_{g}": (H, H + I) for g in gates} | {f"b_{g}": (H,) for g in gates}
    else:
        shapes = {f"{kind}_{g}": (H, H + I) if kind == "W" else (H,) for g in gates for kind in "Wb"}
    counts = []
    for T in (2, 3, 4):
        graph = trace(cell_type, shapes, np.random.default_rng(1), T, 2, I, [(2, H)] * states)
        counts.append((len(graph.nodes), len(graph.edges), graph.depth))
    steps = np.diff(np.array(counts), axis=0)
    np.testing.assert_array_equal(steps[0], steps[1])
    assert (steps > 10).all()


@given(sizes("T", "B", "I", "H"), names, seeds)
def test_tracing_changes_no_number(n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    twin = VanillaCell(
        *(dynamics.traced(a, "a") for a in (cell.W_xh, cell.W_hh, cell.b_h)), activation=activation
    )
    hs = unroll(twin, dynamics.traced(xs, "xs"), lengths=[n["T"]] * n["B"]).hs
    np.testing.assert_array_equal(np.asarray(hs), unroll(cell, xs).hs)
    assert isinstance(hs, dynamics.TracedArray)


def test_an_operation_knows_what_went_in_and_in_which_order():
    a, b = dynamics.traced(np.ones((2, 3)), "a"), dynamics.traced(np.ones((2, 3)), "b")

    def recorded(result):
        return result.node.name, [p.name for p in result.node.parents], result.node.shape

    assert recorded(a - b) == ("subtract", ["a", "b"], (2, 3))
    assert recorded(b - a) == ("subtract", ["b", "a"], (2, 3))
    assert recorded(2 * a) == ("multiply", ["a"], (2, 3))
    assert recorded(np.ones((2, 3)) + a) == ("add", ["a"], (2, 3))  # what is not traced is a constant
    assert recorded(a.T @ b) == ("matmul", ["a", "b"], (3, 3))  # a transposition computes nothing
    assert recorded(a * a) == ("multiply", ["a", "a"], (2, 3))
    assert recorded(np.concatenate([b, a], axis=1)) == ("concatenate", ["b", "a"], (2, 6))
    assert recorded(np.where(a > 0, a, b))[0] == "where"
    assert recorded(a[1]) == ("[1]", ["a"], (3,))
    assert recorded(a.sum(0)) == ("add.reduce", ["a"], (3,))
    assert recorded(np.stack(arrays=[a, b])) == ("stack", ["a", "b"], (2, 2, 3))
    untraced = np.ones((2, 3)).view(dynamics.TracedArray)
    assert recorded(untraced + a) == ("add", ["a"], (2, 3))
    assert recorded(np.linalg.svd(a).S) == ("svd", ["a"], (2,))
    assert recorded(np.linalg.qr(b)[1]) == ("qr", ["b"], (2, 3))
    c = a
    c = np.add(c, b, out=np.zeros((2, 3)))
    assert recorded(c) == ("add", ["a", "b"], (2, 3))
    assert dynamics.computation_graph(a * a).edges == ((0, 1), (0, 1))


def test_only_ancestors_are_in_the_graph():
    a, b = dynamics.traced(np.ones(2), "a"), dynamics.traced(np.ones(2), "b")
    _ = a * b
    graph = dynamics.computation_graph(np.tanh(a) + a)
    assert [node.name for node in graph.nodes] == ["a", "tanh", "add"]
    assert graph.edges == ((0, 1), (1, 2), (0, 2))
    assert graph.depth == 2
    assert dynamics.computation_graph(a).edges == ()
    assert dynamics.computation_graph(a).depth == 0


def test_a_long_graph_needs_no_deep_recursion():
    a = x = dynamics.traced(np.ones(1), "a")
    for _ in range(5000):
        x = x + a
    graph = dynamics.computation_graph(x)
    assert (len(graph.nodes), len(graph.edges), graph.depth) == (5001, 10_000, 5000)


def test_tracing_refuses_what_it_cannot_follow():
    with pytest.raises(TypeError, match=r"traced: x is a list, expected a numpy\.ndarray"):
        dynamics.traced([1.0], "a")
    with pytest.raises(TypeError, match=r"traced: x is a Tensor"):
        dynamics.traced(torch.ones(1), "a")
    with pytest.raises(TypeError, match="result is a ndarray, expected an array computed from traced ones"):
        dynamics.computation_graph(np.ones(1))
    with pytest.raises(TypeError, match="result is a TracedArray, expected"):
        dynamics.computation_graph(np.ones(1).view(dynamics.TracedArray))
    source = np.ones(2)
    a = dynamics.traced(source, "a")
    with pytest.raises(TypeError, match="cannot be written into"):
        a[0] = 3.0
    source[0] = 7.0
    assert np.asarray(a)[0] == 1.0  # a copy


# --- the recursion ------------------------------------------------------------------------------


@pytest.mark.equation("eq-dynamics-flow")
@given(sizes("T", "B", "I", "H", high=9), seeds)
def test_the_recursion_agrees_with_torch_nn(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    _, final = torch_rnn(cell)(torch.tensor(xs), torch.tensor(h_0)[None])
    (h_T,) = dynamics.flow(cell, xs, h_0)
    agree(dynamics.flow, "torch.nn.RNN", h_T, final[0])
    np.testing.assert_array_equal(h_T, unroll(cell, xs, h_0).final[0])
    np.testing.assert_array_equal(dynamics.flow(cell, xs)[0], unroll(cell, xs).final[0])


@pytest.mark.equation("eq-dynamics-flow")
@given(st.integers(2, 12), seeds)
def test_a_sequence_may_be_cut_anywhere(T, seed):
    rng = np.random.default_rng(seed)
    cell = LSTMCell(*(rng.normal(size=(3, 5)) for _ in range(4)), *(rng.normal(size=3) for _ in range(4)))
    xs = rng.normal(size=(T, 2, 2))
    whole = dynamics.flow(cell, xs)
    assert len(whole) == 2
    for m in range(1, T):
        for part, expected in zip(
            dynamics.flow(cell, xs[m:], dynamics.flow(cell, xs[:m])), whole, strict=True
        ):
            np.testing.assert_array_equal(part, expected)


def test_no_sequence_is_too_long_for_the_recursion():
    cell = random_cell(np.random.default_rng(0), 1, 2)
    xs = np.ones((5000, 1, 1))
    np.testing.assert_array_equal(dynamics.flow(cell, xs)[0], unroll(cell, xs).final[0])


class CountingCell:
    """A cell without arrays: its state is how many steps it took."""

    state_names = ("h",)
    input_size = hidden_size = 1

    def step(self, x_t, state):
        return (state[0] + 1,), None


def test_every_step_is_taken_once():
    for T in range(1, 20):
        assert dynamics.flow(CountingCell(), np.zeros((T, 1, 1)))[0] == T


# --- the network left alone ---------------------------------------------------------------------


@pytest.mark.equation("eq-dynamics-orbit")
@given(sizes("T", "B", "H"), seeds)
def test_an_orbit_agrees_with_torch_nn_without_input(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, 1, n["H"])
    h_0 = rng.normal(size=(n["B"], n["H"]))
    hs, _ = torch_rnn(cell)(torch.zeros(n["T"], n["B"], 1, dtype=torch.float64), torch.tensor(h_0)[None])
    expected = np.concatenate([h_0[None], to_numpy(hs)])
    for convert in (np.asarray, torch.tensor):
        result = dynamics.orbit(convert(h_0), convert(cell.W_hh), convert(cell.b_h), n["T"])
        agree(dynamics.orbit, "torch.nn.RNN", result, expected)


@pytest.mark.equation("eq-dynamics-orbit")
@given(sizes("B", "I", "H"), names, seeds)
def test_a_constant_input_is_part_of_the_bias(n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    x, h_0 = rng.normal(size=n["I"]), rng.normal(size=(n["B"], n["H"]))
    xs = np.broadcast_to(x, (4, n["B"], n["I"]))
    hs = dynamics.orbit(h_0, cell.W_hh, cell.b_h + cell.W_xh @ x, 4, activation)
    assert relative_error(hs[1:], unroll(cell, xs, h_0).hs) < 1e-12


def test_an_orbit_can_be_differentiated():
    rng = np.random.default_rng(0)
    arguments = [torch.tensor(rng.normal(size=s), requires_grad=True) for s in [(2, 3), (3, 3), (3,)]]
    assert torch.autograd.gradcheck(lambda h, W, b: dynamics.orbit(h, W, b, 3), arguments)


weights = st.floats(-8, 8)
biases = st.floats(-5, 5)


def brentq_fixed_points(w, b):
    """Every root of tanh(w h + b) - h in [-1, 1] that a fine grid can see, by SciPy."""
    grid = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 20_001))  # dense near ±1, where the roots crowd
    grid[0], grid[-1] = -1.0, 1.0

    def g(h):
        return np.tanh(w * h + b) - h

    values = g(grid)
    roots = [float(h) for h, v in zip(grid, values, strict=True) if v == 0]
    for left, right in np.flatnonzero(values[:-1] * values[1:] < 0)[:, None] + [0, 1]:
        roots.append(scipy.optimize.brentq(g, grid[left], grid[right], xtol=1e-15, rtol=1e-15))
    return np.array(sorted(roots))


@pytest.mark.equation("eq-dynamics-fixed-point")
@given(weights, biases)
def test_all_fixed_points_are_found_and_agree_with_brentq(agree, w, b):
    if w > 1:  # on the fold itself two roots are one, and on no grid
        assume(abs(abs(b) - dynamics.fold_bias(np.array([w]))[0]) > 1e-3)
        assume(w > 1.05)
    else:
        assume(w < 0.999)
    points = dynamics.fixed_points(w, b)
    agree(dynamics.fixed_points, "scipy.optimize.brentq", points, brentq_fixed_points(w, b))


@pytest.mark.equation("eq-dynamics-fixed-point")
@given(weights, st.floats(-2.5, 2.5))
def test_a_fixed_point_put_in_comes_out(w, u):
    """Any h = tanh(u) is a fixed point for the bias u - w h."""
    h = math.tanh(u)
    assume(abs(w * (1 - h * h) - 1) > 1e-3)  # not near a fold, where a root moves with a rounding error
    points = dynamics.fixed_points(w, u - w * h)
    assert np.abs(points - h).min() < 1e-11
    assert (np.diff(points) > 0).all()
    assert len(points) == 1 or w > 1


@pytest.mark.equation("eq-dynamics-fixed-point")
@pytest.mark.parametrize("w", [1 + 1e-9, 1.0001, 1.5, 2.0, 5.0, 30.0])
def test_the_pitchfork_agrees_with_mpmath(agree, w):
    with mpmath.workdps(60):
        guess = mpmath.sqrt(3 * (mpmath.mpf(w) - 1)) if w < 1.3 else mpmath.mpf(1)
        h = float(mpmath.findroot(lambda h: mpmath.tanh(w * h) - h, guess))
    assert h > 0
    points = dynamics.fixed_points(w)
    assert points[1] == 0  # exactly
    tolerance = 1e-10 if w > 1.001 else 1e-7  # the sum of two near-equal numbers decides where it is
    agree(dynamics.fixed_points, "mpmath.findroot", points, np.array([-h, 0, h]), tolerance)
    np.testing.assert_array_equal(dynamics.fixed_points(-w), [0])


@pytest.mark.equation("eq-dynamics-fixed-point")
@pytest.mark.parametrize(
    ("w", "b", "expected"),
    [
        (0.0, 0.3, [math.tanh(0.3)]),
        (0, 0, [0.0]),
        (1.0, 0.0, [0.0]),
        (-1e4, 0.0, [0.0]),
        (1e4, 0.0, [-1, 0, 1]),
        (1e300, 1e299, [-1, -0.1, 1]),
        (1e16, 3.0, [-1, -3e-16, 1]),
        (3.0, 1e9, [1.0]),
        (3.0, -1e300, [-1.0]),
        (-3.0, 1e18, [1.0]),
        (np.float32(2), np.int64(9), [1.0]),
    ],
)
def test_extreme_weights_lose_no_fixed_point(w, b, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = dynamics.fixed_points(w, b)
    assert points.dtype == np.float64
    assert points.shape == (len(expected),)
    np.testing.assert_allclose(points, expected, rtol=1e-7, atol=1e-30)


@pytest.mark.equation("eq-dynamics-fixed-point", "eq-dynamics-fold")
@pytest.mark.parametrize("w", [1.01, 1.2, 2.0, 6.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_two_fixed_points_vanish_at_the_fold(w, sign):
    edge = sign * dynamics.fold_bias(np.array([w]))[0]
    inside, outside = dynamics.fixed_points(w, 0.999 * edge), dynamics.fixed_points(w, 1.001 * edge)
    assert (len(inside), len(outside)) == (3, 1)
    assert np.sign(outside[0]) == sign
    pair = inside[:2] if sign > 0 else inside[1:]  # the two about to meet, at slope 1
    slopes = w * (1 - pair**2)
    assert slopes.min() < 1 < slopes.max()
    np.testing.assert_allclose(slopes, 1, atol=0.2)


def test_a_fixed_point_needs_finite_numbers():
    with pytest.raises(TypeError, match="fixed_points: w is a str, expected a finite number"):
        dynamics.fixed_points("2")
    with pytest.raises(TypeError, match="fixed_points: b is a ndarray, expected a finite number"):
        dynamics.fixed_points(2.0, np.zeros(1))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"fixed_points: w is {bad}, expected a finite number"):
            dynamics.fixed_points(bad)
        with pytest.raises(ValueError, match=f"fixed_points: b is {bad}"):
            dynamics.fixed_points(1.0, bad)


@pytest.mark.equation("eq-dynamics-jacobian", "eq-dynamics-stability")
@given(sizes("P", "H"), names, seeds)
def test_the_jacobian_of_a_turn_agrees_with_autograd(agree, n, activation, seed):
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(n["H"], n["H"])), rng.normal(size=n["H"])
    start = torch.tensor(rng.normal(size=n["H"]))
    W_t, b_t, act = torch.tensor(W), torch.tensor(b), torch_activation(activation)

    def turn(h):
        for _ in range(n["P"]):
            h = act(torch.mv(W_t, h) + b_t)
        return h

    states, h = [], start
    for _ in range(n["P"]):
        states.append(h)
        h = act(torch.mv(W_t, h) + b_t)
    cycle = to_numpy(torch.stack(states))
    J = to_numpy(torch.autograd.functional.jacobian(turn, start))
    agree(dynamics.cycle_jacobian, "torch.autograd", dynamics.cycle_jacobian(cycle, W, b, activation), J)
    # An eigenvalue of a defective matrix is good to a root of the precision only; a trace is not.
    radius = dynamics.stability(cycle, W, b, activation)
    assert abs(radius - np.abs(scipy.linalg.eigvals(J)).max()) <= 1e-5 * max(1, np.linalg.norm(J))
    if n["H"] == 1:
        agree(dynamics.stability, "torch.autograd", radius, np.abs(J[0, 0]))


@pytest.mark.equation("eq-dynamics-stability")
@given(sizes("P", "H", high=5), seeds)
def test_the_stability_of_symmetric_weights_agrees_with_scipy(agree, n, seed):
    """With slopes of 1 the product is a power, and symmetric matrices have well-conditioned eigenvalues."""
    G = np.random.default_rng(seed).normal(size=(n["H"], n["H"]))
    W = (G + G.T) / 2
    expected = np.abs(scipy.linalg.eigh(W, eigvals_only=True)).max() ** n["P"]
    radius = dynamics.stability(np.zeros((n["P"], n["H"])), W, np.zeros(n["H"]))
    agree(dynamics.stability, "scipy.linalg.eigh", radius, np.array(expected))


@pytest.mark.equation("eq-dynamics-stability", "eq-dynamics-fixed-point")
@given(weights, biases, seeds)
def test_orbits_near_a_fixed_point_do_what_its_stability_says(w, b, seed):
    W, bias = np.array([[w]]), np.array([b])
    for h in dynamics.fixed_points(w, b):
        growth = dynamics.stability(np.array([[h]]), W, bias)
        assume(abs(growth - 1) > 0.05)
        gap = 1e-6 if growth > 1e-3 else 1e-3
        hs = dynamics.orbit(np.array([[h + gap], [h - gap]]), W, bias, 5)
        gaps = np.abs(hs[:, :, 0] - h)
        if growth < 1:
            assert (gaps[5] < gaps[0]).all()
        else:
            assert (gaps[5] > gaps[0]).all()


def test_the_two_cycle_of_a_negative_weight_sits_at_the_fixed_points_of_its_mirror():
    for w in (1.3, 2.0, 4.0):
        h = dynamics.fixed_points(w)[2]
        cycle, W, b = np.array([[h], [-h]]), np.array([[-w]]), np.zeros(1)
        np.testing.assert_allclose(dynamics.orbit(cycle, W, b, 1)[1], cycle[::-1], rtol=1e-12)
        slope = -w * (1 - h * h)
        np.testing.assert_allclose(dynamics.cycle_jacobian(cycle, W, b), [[slope * slope]], rtol=1e-9)
        assert dynamics.stability(cycle, W, b) < 1 < dynamics.stability(np.zeros((1, 1)), W, b)


@pytest.mark.equation("eq-dynamics-fold")
@pytest.mark.parametrize("w", [1.0, 1 + 1e-12, 1 + 1e-6, 1.1, 2.0, 7.5, 1e3, 1e8])
def test_the_fold_agrees_with_mpmath(agree, w):
    with mpmath.workdps(60):
        v = mpmath.mpf(w)
        expected = float(mpmath.sqrt(v * (v - 1)) - mpmath.acosh(mpmath.sqrt(v)))
    for convert in (np.asarray, torch.tensor):
        c = dynamics.fold_bias(convert(np.array([w])))
        agree(dynamics.fold_bias, "mpmath", c, np.array([expected]))


@pytest.mark.equation("eq-dynamics-fold")
@given(st.floats(1.05, 20))
def test_the_fold_is_where_a_minimiser_finds_the_largest_bias_of_a_lower_fixed_point(agree, w):
    """b = artanh(h) - w h is the bias of the fixed point h; its local maximum is a fold."""
    found = scipy.optimize.minimize_scalar(
        lambda u: -(u - w * math.tanh(u)), bounds=(-math.log(4 * w) - 1, 0), method="bounded"
    )
    c = dynamics.fold_bias(np.array([w]))
    agree(dynamics.fold_bias, "scipy.optimize.minimize_scalar", c, np.array([-found.fun]))


@pytest.mark.equation("eq-dynamics-flip")
@pytest.mark.parametrize("w", [-1.0, -1 - 1e-12, -1.1, -2.0, -7.5, -1e3, -1e8])
def test_the_flip_agrees_with_mpmath(agree, w):
    with mpmath.workdps(60):
        v = -mpmath.mpf(w)
        expected = float(mpmath.sqrt(v * (v - 1)) + mpmath.acosh(mpmath.sqrt(v)))
    for convert in (np.asarray, torch.tensor):
        c = dynamics.flip_bias(convert(np.array([w])))
        agree(dynamics.flip_bias, "mpmath", c, np.array([expected]))


@pytest.mark.equation("eq-dynamics-flip")
@given(st.floats(-20, -1.05))
def test_the_flip_is_where_brentq_finds_slope_minus_one(agree, w):
    """The slope at the fixed point, as a function of the bias."""

    def slope_plus_one(b):
        h = scipy.optimize.brentq(lambda h: math.tanh(w * h + b) - h, -1, 1, xtol=1e-15, rtol=1e-14)
        return w * (1 - math.tanh(w * h + b) ** 2) + 1

    found = scipy.optimize.brentq(slope_plus_one, 0, 5 - 2 * w, xtol=1e-14)
    c = dynamics.flip_bias(np.array([w]))
    agree(dynamics.flip_bias, "scipy.optimize.brentq", c, np.array([found]))


def test_fold_and_flip_refuse_weights_without_one():
    with pytest.raises(ValueError, match="fold_bias: w holds a number below 1"):
        dynamics.fold_bias(np.array([2.0, 0.99]))
    with pytest.raises(ValueError, match="flip_bias: w holds a number above -1"):
        dynamics.flip_bias(torch.tensor([-2.0, -0.99]))


@pytest.mark.equation("eq-dynamics-rotation")
@given(st.floats(0, 3), st.floats(-7, 7), seeds)
def test_a_rotation_is_a_product_of_complex_numbers(agree, gain, angle, seed):
    x, y = np.random.default_rng(seed).normal(size=2)
    z = gain * np.exp(1j * angle) * (x + 1j * y)
    W = dynamics.rotation(gain, angle)
    agree(dynamics.rotation, "complex numbers", W @ [x, y], np.array([z.real, z.imag]))
    found = np.sort_complex(np.linalg.eigvals(W))
    expected = np.sort_complex(gain * np.exp([1j * angle, -1j * angle]))
    np.testing.assert_allclose(np.sort(found.imag), np.sort(expected.imag), atol=1e-7)
    np.testing.assert_allclose(found.real, expected.real, atol=1e-7)


def test_a_rotation_has_the_dtype_asked_for_and_refuses_the_rest():
    assert dynamics.rotation(1, 2).dtype == np.float64
    assert dynamics.rotation(1.0, 0.5, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match=r"rotation: gain is -0\.1, expected a finite number of at least 0"):
        dynamics.rotation(-0.1, 0.0)
    with pytest.raises(ValueError, match="rotation: angle is inf, expected a finite number"):
        dynamics.rotation(1.0, math.inf)
    with pytest.raises(TypeError, match=r"rotation: dtype is .*int.*, expected a real floating-point dtype"):
        dynamics.rotation(1.0, 0.5, dtype=np.int64)
    with pytest.raises(TypeError, match=r"rotation: dtype is 5, expected a real floating-point dtype"):
        dynamics.rotation(1.0, 0.5, dtype=5)


@pytest.mark.equation("eq-dynamics-rotation")
@pytest.mark.parametrize("angle", [0.3, 0.6, 2.0])
def test_a_rotation_settles_on_a_ring_when_its_gain_passes_one(angle):
    starts = np.array([[0.01, 0.0], [0.9, -0.9]])
    quiet = dynamics.orbit(starts, dynamics.rotation(0.95, angle), np.zeros(2), 1500)[-1]
    assert np.abs(quiet).max() < 1e-20
    g = 1.01
    late = dynamics.orbit(starts, dynamics.rotation(g, angle), np.zeros(2), 4000)[2000:]
    square = (late**2).sum(-1).mean(0)
    np.testing.assert_allclose(square / (4 * (g - 1)), 1, atol=0.05)


# --- the start is washed out --------------------------------------------------------------------


@pytest.mark.equation("eq-dynamics-rate")
@given(sizes("H"), names, seeds)
def test_the_rate_agrees_with_numpy(agree, n, activation, seed):
    W = example("eq-dynamics-rate", seed, n)["W_hh"]
    a = torch.linspace(-3, 3, 2001, dtype=torch.float64).requires_grad_()  # holds 0 exactly
    (slopes,) = torch.autograd.grad(torch_activation(activation)(a).sum(), a)
    expected = np.array(float(slopes.max()) * np.linalg.norm(W, 2))
    for convert in (np.asarray, torch.tensor):
        rate = dynamics.contraction_rate(convert(W), activation)
        agree(dynamics.contraction_rate, "numpy.linalg.norm", rate, expected)


@pytest.mark.equation("eq-dynamics-contraction")
@given(sizes("T", "B", "I", "H"), seeds)
def test_the_distance_of_two_runs_agrees_with_torch_nn(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    starts = rng.normal(size=(2, n["B"], n["H"]))
    rnn = torch_rnn(cell)
    runs = [
        torch.cat([torch.tensor(s)[None], rnn(torch.tensor(xs), torch.tensor(s)[None])[0]]) for s in starts
    ]
    gamma = np.linalg.norm(cell.W_hh, 2)
    found = dynamics.contraction_bound(cell, xs, *starts)
    agree(
        dynamics.contraction_bound, "torch.nn.RNN", found.actual, torch.linalg.norm(runs[0] - runs[1], dim=2)
    )
    first = np.linalg.norm(starts[0] - starts[1], axis=1)
    expected = gamma ** np.arange(n["T"] + 1)[:, None] * first
    agree(dynamics.contraction_bound, "closed form", found.bound, expected)


@pytest.mark.equation("eq-dynamics-contraction")
@given(sizes("T", "B", "I", "H"), names, st.floats(0.1, 3), seeds)
def test_the_bound_holds(n, activation, scale, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    cell = VanillaCell(cell.W_xh, scale * cell.W_hh, cell.b_h, activation)
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    bound, actual = dynamics.contraction_bound(cell, xs, *rng.normal(size=(2, n["B"], n["H"])))
    assert (actual <= bound * (1 + 1e-12) + 1e-13).all()
    np.testing.assert_array_equal(bound[0], actual[0])


@pytest.mark.equation("eq-dynamics-contraction")
@given(sizes("T", "B", "I", "H"), st.floats(0.5, 1.2), seeds)
def test_the_bound_is_attained_by_a_scaled_rotation_without_a_bend(n, gain, seed):
    rng = np.random.default_rng(seed)
    cell = VanillaCell(
        rng.normal(size=(n["H"], n["I"])),
        orthogonal(rng, n["H"], n["H"], gain),
        rng.normal(size=n["H"]),
        "identity",
    )
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    bound, actual = dynamics.contraction_bound(cell, xs, *rng.normal(size=(2, n["B"], n["H"])))
    np.testing.assert_allclose(actual, bound, rtol=1e-10)


def test_a_nilpotent_matrix_may_remember_its_start_for_ever():
    W, b = 3 * np.array([[1.0, -1.0], [1.0, -1.0]]), np.array([3.0, 10.0])
    np.testing.assert_array_equal(W @ W, np.zeros((2, 2)))
    ends = dynamics.orbit(np.array([[0.5, 1.0], [-0.5, 1.0]]), W, b, 1000)[-1]
    assert ends[1, 0] < -0.99 < 0.99 < ends[0, 0]


# --- the memory of a linear network -------------------------------------------------------------


def linear_weights(rng, H, I, radius):
    return with_spectral_radius(rng.normal(size=(H, H)), radius), rng.normal(size=(H, I))


@pytest.mark.equation("eq-dynamics-covariance")
@given(sizes("H", "I"), st.floats(0.05, 0.97), seeds)
def test_the_covariance_agrees_with_scipy(agree, n, radius, seed):
    W_hh, W_xh = linear_weights(np.random.default_rng(seed), n["H"], n["I"], radius)
    expected = scipy.linalg.solve_discrete_lyapunov(W_hh, W_xh @ W_xh.T)
    for convert in (np.asarray, torch.tensor):
        C = dynamics.state_covariance(convert(W_hh), convert(W_xh))
        agree(dynamics.state_covariance, "scipy.linalg.solve_discrete_lyapunov", C, expected)


@pytest.mark.equation("eq-dynamics-covariance")
@pytest.mark.parametrize("w", [0.0, 0.5, -0.9, 1 - 1e-9])
def test_the_variance_of_one_unit_is_a_geometric_series(w):
    C = dynamics.state_covariance(np.array([[w]]), np.array([[2.0]]))
    np.testing.assert_allclose(C, [[4 / (1 - w * w)]], rtol=1e-7)


def memory_by_inverse(W_hh, W_xh, delays, noise):
    """The formula to the letter, with SciPy's covariance and solver."""
    C = scipy.linalg.solve_discrete_lyapunov(W_hh, W_xh @ W_xh.T) + noise * np.eye(len(W_hh))
    p = [np.linalg.matrix_power(W_hh, k) @ W_xh for k in range(delays)]
    return np.array(
        [np.diag(p_k.T @ scipy.linalg.solve(C, p_k, assume_a="sym")) for p_k in p]
    ), np.linalg.cond(C)


@pytest.mark.equation("eq-dynamics-memory", "eq-dynamics-capacity")
@given(sizes("H", "I", high=4), st.floats(0.3, 0.9), st.sampled_from([0.0, 1e-3, 0.5]), seeds)
def test_the_memory_agrees_with_scipy(agree, n, radius, noise, seed):
    W_hh, W_xh = linear_weights(np.random.default_rng(seed), n["H"], n["I"], radius)
    expected, condition = memory_by_inverse(W_hh, W_xh, 7, noise)
    assume(condition < 1e4)
    eigenvalues = scipy.linalg.eigvalsh(scipy.linalg.solve_discrete_lyapunov(W_hh, W_xh @ W_xh.T))
    capacity = np.array((eigenvalues / (eigenvalues + noise)).sum())
    for convert in (np.asarray, torch.tensor):
        arguments = (convert(W_hh), convert(W_xh))
        m = dynamics.memory_curve(*arguments, 7, noise)
        agree(dynamics.memory_curve, "scipy.linalg.solve", m, expected)
        total = dynamics.memory_capacity(*arguments, noise)
        agree(dynamics.memory_capacity, "scipy.linalg.eigvalsh", total, capacity)


@pytest.mark.equation("eq-dynamics-memory", "eq-dynamics-capacity")
@given(sizes("H", "I", high=8), st.floats(0.2, 0.8), st.sampled_from([0.0, 1e-4, 1.0]), seeds)
def test_the_memories_add_up_to_the_capacity_which_is_at_most_H(n, radius, noise, seed):
    rng = np.random.default_rng(seed)
    W_hh, W_xh = radius * orthogonal(rng, n["H"], n["H"]), rng.normal(size=(n["H"], n["I"]))
    try:
        capacity = dynamics.memory_capacity(W_hh, W_xh, noise)
    except ValueError:  # nearly equal eigenvalues: the inputs do not reach every direction
        assume(False)
    m = dynamics.memory_curve(W_hh, W_xh, 250, noise)
    assert abs(m.sum() - capacity) < 1e-6
    assert capacity <= n["H"] * (1 + 1e-12)
    assert (m >= 0).all()
    assert (m <= 1 + 1e-12).all()
    if noise == 0:
        assert abs(capacity - n["H"]) < 1e-9


@pytest.mark.equation("eq-dynamics-memory", "eq-dynamics-capacity")
@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_memories_known_in_closed_form(noise):
    w = 0.5  # one unit: C = 1 / (1 - w²)
    C = 4 / 3
    m = dynamics.memory_curve(np.array([[w]]), np.array([[1.0]]), 5, noise)
    np.testing.assert_allclose(m[:, 0], w ** (2 * np.arange(5)) / (C + noise), rtol=1e-12)
    np.testing.assert_allclose(
        dynamics.memory_capacity(np.array([[w]]), np.array([[1.0]]), noise), C / (C + noise), rtol=1e-12
    )
    H = 6  # a delay line: C = 1
    line = np.eye(H, k=-1) + 0 * np.eye(H)
    first = np.eye(H)[:, :1]
    m = dynamics.memory_curve(line, first, 9, noise)
    np.testing.assert_allclose(m[:, 0], [1 / (1 + noise)] * H + [0] * 3, atol=1e-12)
    np.testing.assert_allclose(dynamics.memory_capacity(line, first, noise), H / (1 + noise), rtol=1e-12)


@pytest.mark.equation("eq-dynamics-memory")
def test_an_ill_conditioned_memory_keeps_its_sum():
    """C has a condition number of 1e11 here; its inverse would have lost most digits."""
    W_hh, W_xh = linear_weights(np.random.default_rng(3), 20, 1, 0.9)
    m = dynamics.memory_curve(W_hh, W_xh, 600)
    assert abs(m.sum() - 20) < 1e-9


@pytest.mark.equation("eq-dynamics-memory")
def test_the_memory_is_what_least_squares_finds_on_a_long_record():
    rng = np.random.default_rng(5)
    W_hh, W_xh = 0.9 * orthogonal(rng, 6, 6), rng.normal(size=(6, 1))
    x = rng.normal(size=40_000)
    hs = unroll(VanillaCell(W_xh, W_hh, np.zeros(6), "identity"), x[:, None, None]).hs[:, 0]
    m = dynamics.memory_curve(W_hh, W_xh, 12)[:, 0]
    rows = np.arange(500, len(x))
    for k in range(12):
        A, y = hs[rows] - hs[rows].mean(0), x[rows - k] - x[rows - k].mean()
        answers = A @ np.linalg.lstsq(A, y, rcond=None)[0]
        assert abs(np.corrcoef(answers, y)[0, 1] ** 2 - m[k]) < 0.02


def test_inputs_that_miss_a_direction_need_noise():
    W_hh, W_xh = 0.5 * np.eye(3), np.ones((3, 1))
    for convert in (np.asarray, torch.tensor):
        arguments = (convert(W_hh), convert(W_xh))
        for call in (lambda a: dynamics.memory_curve(*a, 4), lambda a: dynamics.memory_capacity(*a)):
            with pytest.raises(ValueError, match="the inputs reach 1 of the H = 3 directions of the state"):
                call(arguments)
        m = dynamics.memory_curve(*arguments, 60, 1e-9)  # one unit, three times
        np.testing.assert_allclose(to_numpy(m).sum(), 1, atol=1e-8)
    silent = dynamics.memory_curve(W_hh, np.zeros((3, 2)), 2, noise=0.1)
    np.testing.assert_array_equal(silent, np.zeros((2, 2)))
    np.testing.assert_array_equal(dynamics.state_covariance(W_hh, np.zeros((3, 2))), np.zeros((3, 3)))


def test_memory_needs_a_variance_that_does_not_grow():
    W_xh = np.ones((2, 1))
    for call in (
        lambda W: dynamics.state_covariance(W, W_xh),
        lambda W: dynamics.memory_curve(W, W_xh, 3),
        lambda W: dynamics.memory_capacity(W, W_xh),
    ):
        for radius in (1.0, 1.5):
            with pytest.raises(ValueError, match=f"spectral radius of {radius:g}, expected one below 1"):
                call(radius * np.eye(2))


def test_memory_can_be_differentiated():
    rng = np.random.default_rng(6)
    W_hh = torch.tensor(with_spectral_radius(rng.normal(size=(3, 3)), 0.6), requires_grad=True)
    W_xh = torch.tensor(rng.normal(size=(3, 2)), requires_grad=True)
    assert torch.autograd.gradcheck(dynamics.state_covariance, (W_hh, W_xh))
    assert torch.autograd.gradcheck(lambda a, b: dynamics.memory_curve(a, b, 4, 0.1), (W_hh, W_xh))
    assert torch.autograd.gradcheck(lambda a, b: dynamics.memory_capacity(a, b, 0.1), (W_hh, W_xh))
    assert torch.autograd.gradcheck(dynamics.contraction_rate, (W_hh,))


# --- how well a readout answers -----------------------------------------------------------------


@pytest.mark.equation("eq-dynamics-determination", "eq-dynamics-adjusted")
@given(st.integers(1, 5), st.integers(3, 30), seeds)
def test_determination_agrees_with_statsmodels(agree, H, extra, seed):
    regression = pytest.importorskip("statsmodels.regression.linear_model")
    rng = np.random.default_rng(seed)
    N = H + extra
    A, ys = rng.normal(size=(N, H)), rng.normal(size=(N, 2)) + 3
    fits = [regression.OLS(y, np.column_stack([np.ones(N), A])).fit() for y in ys.T]
    answers = np.column_stack([fit.fittedvalues for fit in fits])
    for convert in (np.asarray, torch.tensor):
        r2 = dynamics.determination(convert(ys), convert(answers))
        agree(dynamics.determination, "statsmodels", r2, np.array([fit.rsquared for fit in fits]))
        agree(
            dynamics.adjusted_determination,
            "statsmodels",
            dynamics.adjusted_determination(r2, N, H),
            np.array([fit.rsquared_adj for fit in fits]),
        )


@pytest.mark.equation("eq-dynamics-determination")
def test_determination_at_its_marks():
    ys = np.array([[1.0], [2.0], [6.0]])
    assert dynamics.determination(ys, ys) == 1
    assert dynamics.determination(ys, np.full((3, 1), 3.0)) == 0
    assert dynamics.determination(ys, np.zeros((3, 1))) == 1 - 41 / 14


@pytest.mark.equation("eq-dynamics-adjusted")
def test_on_noise_the_fitted_r2_averages_H_over_N_minus_one_and_the_adjusted_zero():
    rng = np.random.default_rng(7)
    N, H = 40, 10
    A = rng.normal(size=(N, H))
    A = A - A.mean(0)
    ys = rng.normal(size=(N, 4000))
    answers = A @ np.linalg.lstsq(A, ys - ys.mean(0), rcond=None)[0] + ys.mean(0)
    r2 = dynamics.determination(ys, answers)
    assert abs(r2.mean() - H / (N - 1)) < 0.006
    assert abs(dynamics.adjusted_determination(r2, N, H).mean()) < 0.008
    np.testing.assert_array_equal(dynamics.adjusted_determination(np.ones(1), N, H), [1])


# --- dtype, device, saturation ------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_dtype_is_kept(convert, dtype):
    rng = np.random.default_rng(8)
    h, W, b, W_xh = (
        convert((s * rng.normal(size=size)).astype(dtype))
        for s, size in [(1, (2, 3)), (0.3, (3, 3)), (1, (3,)), (1, (3, 1))]
    )
    results = [
        dynamics.orbit(h, W, b, 3),
        dynamics.cycle_jacobian(h, W, b),
        dynamics.fold_bias(b * b + 1),
        dynamics.flip_bias(-b * b - 1),
        dynamics.determination(h, 2 * h),
        dynamics.adjusted_determination(b, 9, 2),
        dynamics.flow(VanillaCell(W_xh, W, b), convert(np.ones((3, 2, 1), dtype)))[0],
    ]
    if dtype != np.float16:
        results += [
            dynamics.stability(h, W, b),
            dynamics.contraction_rate(W),
            *dynamics.contraction_bound(VanillaCell(W_xh, W, b), convert(np.ones((3, 2, 1), dtype)), h, -h),
            dynamics.state_covariance(W, W_xh),
            dynamics.memory_curve(W, W_xh, 4, 0.1),
            dynamics.memory_curve(W, W_xh, 4),
            dynamics.memory_capacity(W, W_xh, 0.1),
        ]
    for result in results:
        assert str(result.dtype).removeprefix("torch.") == np.dtype(dtype).name


def test_bfloat16_orbits_and_jacobians():
    h, W, b = (torch.ones(s, dtype=torch.bfloat16) / 2 for s in [(2, 3), (3, 3), (3,)])
    assert dynamics.orbit(h, W, b, 2).dtype == torch.bfloat16
    assert dynamics.cycle_jacobian(h, W, b).dtype == torch.bfloat16


def test_what_decides_nothing_stays_on_its_device():
    h, W, b = (torch.ones(s, device="meta") for s in [(2, 3), (3, 3), (3,)])
    assert dynamics.orbit(h, W, b, 2).is_meta
    assert dynamics.cycle_jacobian(h, W, b).is_meta
    assert dynamics.contraction_rate(W).is_meta
    assert dynamics.stability(h, W, b).is_meta
    assert dynamics.adjusted_determination(b, 9, 2).is_meta
    cell = VanillaCell(torch.ones(3, 1, device="meta"), W, b)
    assert dynamics.flow(cell, torch.ones(4, 2, 1, device="meta"), h)[0].is_meta
    assert dynamics.contraction_bound(cell, torch.ones(4, 2, 1, device="meta"), h, h).actual.is_meta


@BACKENDS
def test_saturated_units_warn_of_nothing(convert):
    h, W, b = (convert(np.array(v)) for v in ([[1.0, -1.0]], [[1e4, 0.0], [0.0, 1e4]], [1e4, -1e4]))
    for activation in ("tanh", "logistic"):
        assert np.isfinite(to_numpy(dynamics.orbit(h, W, b, 3, activation))).all()
        np.testing.assert_array_equal(
            to_numpy(dynamics.cycle_jacobian(h, W, b, activation)), np.zeros((2, 2))
        )
        assert float(dynamics.stability(h, W, b, activation)) == 0


def test_a_nan_reaches_the_result_of_what_is_unchecked():
    W, b = np.eye(2), np.zeros(2)
    h = np.array([[np.nan, 0.5]])
    assert np.isnan(dynamics.orbit.unchecked(h, W, b, 2)[1:, 0, 0]).all()
    assert np.isnan(dynamics.cycle_jacobian.unchecked(h, W, b)[0]).all()


def test_a_stretched_part_of_a_larger_array_will_do():
    rng = np.random.default_rng(9)
    h, W, b = rng.normal(size=(4, 6))[::2, ::2], rng.normal(size=(6, 6))[::2, ::2], rng.normal(size=6)[::2]
    np.testing.assert_array_equal(dynamics.orbit(h, W, b, 3), dynamics.orbit(h.copy(), W.copy(), b.copy(), 3))


# --- refusals -----------------------------------------------------------------------------------


def test_half_precision_is_refused_where_a_decomposition_is_needed():
    W, h = np.eye(2, dtype=np.float16) / 2, np.ones((1, 2), dtype=np.float16)
    cell = VanillaCell(W, W, h[0])
    for call, name in [
        (lambda: dynamics.stability(h, W, h[0]), "stability: cycle"),
        (lambda: dynamics.contraction_rate(W), "contraction_rate: W_hh"),
        (lambda: dynamics.contraction_bound(cell, h[None], h, h), r"contraction_bound: cell\.W_hh"),
        (lambda: dynamics.state_covariance(W, W), "state_covariance: W_hh"),
        (lambda: dynamics.memory_curve(W, W, 2), "memory_curve: W_hh"),
        (lambda: dynamics.memory_capacity(W, W), "memory_capacity: W_hh"),
        (lambda: dynamics.contraction_rate(torch.eye(2, dtype=torch.bfloat16)), "contraction_rate: W_hh"),
    ]:
        with pytest.raises(TypeError, match=rf"{name} has dtype .*16, expected float32 or float64"):
            call()


def test_what_does_not_fit_is_refused():
    h, W, b = np.ones((1, 2)), np.eye(2) / 2, np.zeros(2)
    cell = VanillaCell(np.ones((2, 1)), W, b)
    with pytest.raises(ValueError, match=r"orbit: W_hh has shape \(3, 3\), expected \(H, H\) = \(2, 2\)"):
        dynamics.orbit(h, np.eye(3), b, 2)
    with pytest.raises(ValueError, match="orbit: steps is 0, expected a whole number of at least 1"):
        dynamics.orbit(h, W, b, 0)
    for bad in (1.5, True, "3"):
        with pytest.raises(TypeError, match=r"orbit: steps is a .*, expected a whole number of at least 1"):
            dynamics.orbit(h, W, b, bad)
    for call in (
        lambda: dynamics.orbit(h, W, b, 2, "softsign"),
        lambda: dynamics.cycle_jacobian(h, W, b, "softsign"),
        lambda: dynamics.contraction_rate(W, "softsign"),
    ):
        with pytest.raises(ValueError, match="activation is 'softsign'"):
            call()
    with pytest.raises(
        ValueError, match=r"flow: xs has shape \(3, 1, 2\), expected \(T, B, I\) = \(3, 1, 1\)"
    ):
        dynamics.flow(cell, np.ones((3, 1, 2)))
    with pytest.raises(ValueError, match=r"flow: xs has shape \(3, 1, 2\), expected \(T, B, I\) with I = 1"):
        dynamics.flow(CountingCell(), np.ones((3, 1, 2)))
    with pytest.raises(ValueError, match="h_0 has shape"):
        dynamics.flow(cell, np.ones((3, 1, 1)), np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"other has shape \(1, 3\), expected \(B, H\)"):
        dynamics.contraction_bound(cell, np.ones((3, 1, 1)), h, np.ones((1, 3)))
    with pytest.raises(ValueError, match="memory_curve: delays is 0, expected a whole number of at least 1"):
        dynamics.memory_curve(W, W, 0)
    for call in (lambda: dynamics.memory_curve(W, W, 2, -1.0), lambda: dynamics.memory_capacity(W, W, -1.0)):
        with pytest.raises(ValueError, match=r"noise is -1\.0, expected a finite number of at least 0"):
            call()
    with pytest.raises(ValueError, match=r"answers has shape \(1, 3\), expected \(N, O\)"):
        dynamics.determination(h, np.ones((1, 3)))
    with pytest.raises(ValueError, match="determination: ys is constant in column 1"):
        dynamics.determination(np.array([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]]), np.ones((3, 2)))
    with pytest.raises(ValueError, match="determination: ys is constant in column 0"):
        dynamics.determination(torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="samples is 4, expected a whole number of at least 5"):
        dynamics.adjusted_determination(b, 4, 3)
    with pytest.raises(ValueError, match="regressors is 0, expected a whole number of at least 1"):
        dynamics.adjusted_determination(b, 4, 0)
    for bad in (np.ones((1, 2), dtype=np.int64), np.ones((1, 2), dtype=np.complex128)):
        with pytest.raises(TypeError, match="expected a real floating-point dtype"):
            dynamics.orbit(bad, W, b, 2)
    with pytest.raises(ValueError, match="orbit: h_0 holds NaN"):
        dynamics.orbit(np.full((1, 2), np.nan), W, b, 2)


def test_arguments_as_tensors_give_tensors():
    arguments = as_torch(example("eq-dynamics-jacobian", 0, {"P": 2, "H": 3}))
    assert isinstance(dynamics.cycle_jacobian(**arguments), torch.Tensor)
    found = dynamics.stability(**arguments)
    assert isinstance(found, torch.Tensor)
    assert float(found) == pytest.approx(float(spectral_radius(dynamics.cycle_jacobian(**arguments))))
