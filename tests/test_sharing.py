"""Shared and unshared networks, held to torch.nn, to autograd, and to torch's own counting."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rnnlib import activations, sharing
from rnnlib.cell import arrays_of, map_arrays
from rnnlib.sharing import SharedNetwork, UnsharedNetwork
from rnnlib.unroll import unroll
from tests.support import as_torch, example, seeds, sizes, torch_activation

ACTIVATION = st.sampled_from(activations.ACTIVATIONS)
NAMES = ("W_xh", "W_hh", "b_h", "W_hy", "b_y")


def random_shared(rng, I, H, O, activation="tanh", dtype=np.float64):
    shapes = {"W_xh": (H, I), "W_hh": (H, H), "b_h": (H,), "W_hy": (O, H), "b_y": (O,)}
    return SharedNetwork(
        **{name: (rng.normal(size=shape) / np.sqrt(H)).astype(dtype) for name, shape in shapes.items()},
        activation=activation,
    )


def random_unshared(rng, T, I, H, O, activation="tanh", dtype=np.float64):
    networks = [random_shared(rng, I, H, O, activation, dtype) for _ in range(T)]
    return UnsharedNetwork(
        **{name: np.stack([getattr(n, name) for n in networks]) for name in NAMES}, activation=activation
    )


def tensors(network, requires_grad=False):
    return map_arrays(lambda x: torch.tensor(x, requires_grad=requires_grad), network)


def reference_forward(network, xs, h_0):
    """The unshared network, written anew in torch: a list of layers, one after the other."""
    h, hs, ys = h_0, [], []
    for x, *parameters in zip(xs, *(getattr(network, name) for name in NAMES), strict=True):
        W_xh, W_hh, b_h, W_hy, b_y = parameters
        h = torch_activation(network.activation)(
            torch.nn.functional.linear(torch.cat([h, x], 1), torch.cat([W_hh, W_xh], 1), b_h)
        )
        hs.append(h)
        ys.append(torch.nn.functional.linear(h, W_hy, b_y))
    return torch.stack(hs), torch.stack(ys)


def copied(cell, reference):
    """The weights of one of our steps in a torch.nn.RNN or RNNCell."""
    suffix = "_l0" if isinstance(reference, torch.nn.RNN) else ""
    with torch.no_grad():
        for name, value in (("weight_ih", cell[0]), ("weight_hh", cell[1]), ("bias_ih", cell[2])):
            getattr(reference, name + suffix).copy_(torch.tensor(value))
        getattr(reference, "bias_hh" + suffix).zero_()
    return reference


# --- forward ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-sharing-tied")
@given(sizes("T", "B", "I", "H", "O"), st.sampled_from(["tanh", "relu"]), seeds)
def test_the_untied_network_computes_what_torch_RNN_computes(agree, n, activation, seed):
    rng = np.random.default_rng(seed)
    network = random_shared(rng, n["I"], n["H"], n["O"], activation)
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    hs, ys = sharing.unshared(sharing.untie(network, n["T"]), xs, h_0)

    rnn = torch.nn.RNN(n["I"], n["H"], nonlinearity=activation, dtype=torch.float64)
    expected, _ = copied((network.W_xh, network.W_hh, network.b_h), rnn)(
        torch.tensor(xs), torch.tensor(h_0)[None]
    )
    agree(sharing.untie, "torch.nn.RNN", hs, expected)
    readout = torch.nn.functional.linear(expected, torch.tensor(network.W_hy), torch.tensor(network.b_y))
    agree(sharing.untie, "torch.nn.functional.linear", ys, readout)
    assert np.array_equal(hs, unroll(network.cell, xs, h_0).hs)


@pytest.mark.equation("eq-sharing-tied")
@given(sizes("T", "I", "H", "O"), seeds)
def test_untying_copies_every_parameter_to_every_step(agree, n, seed):
    network = random_shared(np.random.default_rng(seed), n["I"], n["H"], n["O"], "relu")
    for shared in (network, tensors(network)):
        untied = sharing.untie(shared, n["T"])
        assert untied.activation == "relu"
        for name, W in arrays_of(shared).items():
            for t in range(n["T"]):
                agree(sharing.untie, "copies", getattr(untied, name)[t], W)
    untied = sharing.untie(network, n["T"])
    untied.W_hh[0] += 1  # a step's own: neither the other steps nor the shared network change
    assert np.array_equal(sharing.untie(network, n["T"]).W_hh[1:], untied.W_hh[1:])
    assert not np.array_equal(network.W_hh, untied.W_hh[0])


@pytest.mark.equation("eq-sharing-unshared")
@given(sizes("T", "B", "I", "H", "O"), seeds)
def test_the_unshared_network_agrees_with_a_list_of_torch_cells(agree, n, seed):
    rng = np.random.default_rng(seed)
    network = random_unshared(rng, n["T"], n["I"], n["H"], n["O"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    for start in (None, h_0):
        hs, ys = sharing.unshared(network, xs, start)
        h = torch.zeros(n["B"], n["H"], dtype=torch.float64) if start is None else torch.tensor(h_0)
        for t in range(n["T"]):
            own = (network.W_xh[t], network.W_hh[t], network.b_h[t])
            h = copied(own, torch.nn.RNNCell(n["I"], n["H"], dtype=torch.float64))(torch.tensor(xs[t]), h)
            agree(sharing.unshared, "torch.nn.RNNCell", hs[t], h)
            y = torch.nn.functional.linear(h, torch.tensor(network.W_hy[t]), torch.tensor(network.b_y[t]))
            agree(sharing.unshared, "torch.nn.functional.linear", ys[t], y)


@pytest.mark.equation("eq-sharing-unshared")
@given(sizes("T", "B", "I", "H", "O"), ACTIVATION, st.sampled_from(["float64", "float32"]), seeds)
def test_numpy_and_torch_give_the_same_numbers_forward_and_backward(agree, n, activation, dtype, seed):
    rng = np.random.default_rng(seed)
    network = random_unshared(rng, n["T"], n["I"], n["H"], n["O"], activation, dtype)
    xs = rng.normal(size=(n["T"], n["B"], n["I"])).astype(dtype)
    d_ys = rng.normal(size=(n["T"], n["B"], n["O"])).astype(dtype)

    def everything(network, xs, d_ys):
        hs, ys = sharing.unshared(network, xs)
        d_as = sharing.unshared_backward(network, xs, hs, d_ys)
        d_network = sharing.step_gradients(network, xs, hs, d_as, d_ys)
        d_shared = sharing.shared_gradient(d_network)
        return [hs, ys, d_as, *arrays_of(d_network).values(), *arrays_of(d_shared).values()]

    ours = everything(network, xs, d_ys)
    theirs = everything(tensors(network), torch.tensor(xs), torch.tensor(d_ys))
    agree(sharing.unshared, "NumPy = torch", ours, theirs, dtype=dtype)
    assert all(str(a.dtype) == dtype for a in ours)
    assert all(str(a.dtype) == f"torch.{dtype}" for a in theirs)


# --- backward -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-sharing-unshared-backward", "eq-sharing-step-gradients")
@given(sizes("T", "B", "I", "H", "O"), ACTIVATION, st.booleans(), seeds)
def test_the_gradients_of_the_steps_agree_with_autograd(agree, n, activation, with_start, seed):
    rng = np.random.default_rng(seed)
    network = random_unshared(rng, n["T"], n["I"], n["H"], n["O"], activation)
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    d_ys = rng.normal(size=(n["T"], n["B"], n["O"]))
    h_0 = rng.normal(size=(n["B"], n["H"])) if with_start else None
    hs, _ = sharing.unshared(network, xs, h_0)
    d_as = sharing.unshared_backward(network, xs, hs, d_ys, h_0)
    ours = sharing.step_gradients(network, xs, hs, d_as, d_ys, h_0)
    assert ours.activation == activation

    leaves = tensors(network, requires_grad=True)
    start = torch.zeros(n["B"], n["H"], dtype=torch.float64) if h_0 is None else torch.tensor(h_0)
    _, ys = reference_forward(leaves, torch.tensor(xs), start)
    expected = torch.autograd.grad(
        ys, [getattr(leaves, name) for name in NAMES], torch.tensor(d_ys), materialize_grads=True
    )
    agree(
        sharing.step_gradients,
        "torch.autograd",
        arrays_of(ours),
        dict(zip(NAMES, expected, strict=True)),
    )
    # A bias of one example's own has the gradient of its pre-activation: a batch of one, B times.
    for b in range(n["B"]):
        start_b = start[b : b + 1]
        _, ys = reference_forward(leaves, torch.tensor(xs[:, b : b + 1]), start_b)
        (d_b,) = torch.autograd.grad(ys, [leaves.b_h], torch.tensor(d_ys[:, b : b + 1]))
        agree(sharing.unshared_backward, "torch.autograd", d_as[:, b], d_b)


@pytest.mark.equation("eq-sharing-gradient")
@given(sizes("T", "B", "I", "H", "O"), ACTIVATION, seeds)
def test_the_gradient_of_shared_parameters_agrees_with_autograd(agree, n, activation, seed):
    """Autograd differentiates the shared network; ours sums what an unshared copy says."""
    rng = np.random.default_rng(seed)
    network = random_shared(rng, n["I"], n["H"], n["O"], activation)
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    d_ys = rng.normal(size=(n["T"], n["B"], n["O"]))
    untied = sharing.untie(network, n["T"])
    hs, _ = sharing.unshared(untied, xs, h_0)
    d_as = sharing.unshared_backward(untied, xs, hs, d_ys, h_0)
    ours = sharing.shared_gradient(sharing.step_gradients(untied, xs, hs, d_as, d_ys, h_0))
    assert ours.activation == activation

    leaves = tensors(network, requires_grad=True)
    used = {name: leaf.expand(n["T"], *leaf.shape) for name, leaf in arrays_of(leaves).items()}
    _, ys = reference_forward(
        UnsharedNetwork(**used, activation=activation), torch.tensor(xs), torch.tensor(h_0)
    )
    expected = torch.autograd.grad(ys, [getattr(leaves, name) for name in NAMES], torch.tensor(d_ys))
    agree(sharing.shared_gradient, "torch.autograd", arrays_of(ours), dict(zip(NAMES, expected, strict=True)))
    agree(
        sharing.shared_weight_gradient,
        "torch.autograd",
        [
            sharing.shared_weight_gradient(d_as, xs),
            sharing.shared_weight_gradient(d_as, np.concatenate([h_0[None], hs[:-1]])),
            sharing.shared_weight_gradient(d_ys, hs),
        ],
        [expected[0], expected[1], expected[3]],
    )


@pytest.mark.equation("eq-sharing-weight-gradient")
@given(sizes("T", "B", "H", "I"), seeds)
def test_one_product_over_all_rows_is_the_sum_of_the_outer_products(agree, n, seed):
    arguments = example("eq-sharing-weight-gradient", seed, n)
    d_as, us = arguments["d_as"], arguments["us"]
    expected = sum(np.outer(d_as[t, b], us[t, b]) for t in range(n["T"]) for b in range(n["B"]))
    agree(sharing.shared_weight_gradient, "numpy.outer", sharing.shared_weight_gradient(d_as, us), expected)
    t = as_torch(arguments)  # a tensor that is not contiguous
    strided = sharing.shared_weight_gradient(t["d_as"].flip(0), t["us"].flip(0))
    agree(sharing.shared_weight_gradient, "numpy.outer", strided, expected)


@pytest.mark.equation("eq-sharing-unshared", "eq-sharing-gradient", "eq-sharing-tied")
def test_the_unshared_network_can_be_differentiated_by_autograd():
    network = tensors(random_shared(np.random.default_rng(0), 2, 3, 1), requires_grad=True)
    xs = torch.tensor(np.random.default_rng(1).normal(size=(4, 2, 2)), requires_grad=True)

    def loss(xs, *parameters):
        untied = sharing.untie(SharedNetwork(*parameters), 4)
        return sharing.unshared(untied, xs)

    assert torch.autograd.gradcheck(loss, (xs, *(getattr(network, name) for name in NAMES)))


def test_a_step_whose_input_is_always_zero_learns_nothing_of_its_inputs():
    rng = np.random.default_rng(0)
    network = random_unshared(rng, 5, 2, 3, 1)
    xs = rng.normal(size=(5, 4, 2))
    xs[3] = 0
    hs, ys = sharing.unshared(network, xs)
    d_network = sharing.step_gradients(network, xs, hs, sharing.unshared_backward(network, xs, hs, ys), ys)
    assert not d_network.W_xh[3].any()
    assert not d_network.W_hh[0].any()  # h_0 is zero
    assert all(d_network.W_xh[t].all() for t in (0, 1, 2, 4))
    assert all(d_network.W_hh[t].all() for t in (1, 2, 3, 4))


def test_saturated_units_raise_no_warning_and_have_no_gradient():
    network = sharing.untie(
        SharedNetwork(np.full((1, 1), 1e4), np.eye(1), np.zeros(1), np.eye(1), np.zeros(1)), 3
    )
    xs = np.array([1.0, -1.0, 1.0]).reshape(3, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hs, ys = sharing.unshared(network, xs)
        d_as = sharing.unshared_backward(network, xs, hs, np.ones_like(ys))
    assert hs.ravel().tolist() == [1.0, -1.0, 1.0]
    assert not d_as.any()


# --- counting -----------------------------------------------------------------------------------


def numbers_in(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def torch_multiplications(run) -> int:
    """torch counts a multiplication and an addition for each term of a matrix product."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() // 2


@pytest.mark.equation(
    "eq-sharing-parameters", "eq-sharing-unshared-parameters", "eq-sharing-window-parameters"
)
@given(sizes("T", "I", "H", "O", high=9))
def test_the_parameters_are_as_many_as_torch_counts(n):
    T, I, H, O = n["T"], n["I"], n["H"], n["O"]
    rnn, readout = torch.nn.RNN(I, H), torch.nn.Linear(H, O)
    second_bias = H  # torch keeps two biases where one is enough
    assert sharing.shared_parameters(I, H, O) == numbers_in(rnn, readout) - second_bias

    cells = [torch.nn.RNNCell(I, H) for _ in range(T)]
    readouts = [torch.nn.Linear(H, O) for _ in range(T)]
    assert sharing.unshared_parameters(I, H, O, T) == numbers_in(*cells, *readouts) - T * second_bias

    window = torch.nn.Sequential(torch.nn.Linear(T * I, H), torch.nn.Tanh(), torch.nn.Linear(H, O))
    assert sharing.window_parameters(I, H, O, T) == numbers_in(window)


@pytest.mark.equation("eq-sharing-parameters", "eq-sharing-unshared-parameters")
@given(sizes("T", "I", "H", "O", high=9), seeds)
def test_the_records_hold_as_many_numbers_as_the_formulas_say(n, seed):
    network = random_shared(np.random.default_rng(seed), n["I"], n["H"], n["O"])
    held = sum(x.size for x in arrays_of(network).values())
    assert held == sharing.shared_parameters(n["I"], n["H"], n["O"])
    held = sum(x.size for x in arrays_of(sharing.untie(network, n["T"])).values())
    assert held == sharing.unshared_parameters(n["I"], n["H"], n["O"], n["T"])


@pytest.mark.equation("eq-sharing-multiplications", "eq-sharing-window-multiplications")
@given(sizes("T", "I", "H", "O", high=9), st.data())
def test_the_multiplications_are_as_many_as_torch_counts(n, data):
    T, I, H, O = n["T"], n["I"], n["H"], n["O"]
    A = data.draw(st.integers(1, T))
    cells = [torch.nn.RNNCell(I, H) for _ in range(T)]
    readout = torch.nn.Linear(H, O)

    def recurrent():
        h = torch.zeros(1, H)
        for t, cell in enumerate(cells):
            h = torch.tanh(
                torch.nn.functional.linear(torch.ones(1, I), cell.weight_ih)
                + torch.nn.functional.linear(h, cell.weight_hh)
            )
            if t >= T - A:
                readout(h)

    assert sharing.multiplications(I, H, O, T, A) == torch_multiplications(recurrent)
    window = torch.nn.Sequential(torch.nn.Linear(T * I, H), torch.nn.Tanh(), readout)
    counted = torch_multiplications(lambda: [window(torch.ones(1, T * I)) for _ in range(A)])
    assert sharing.window_multiplications(I, H, O, T, A) == counted


def test_the_counts_do_not_overflow_and_refuse_what_is_no_size():
    assert sharing.shared_parameters(np.int32(1), np.int32(10**6), 1) == 10**12 + 3 * 10**6 + 1
    for call, name in (
        (lambda v: sharing.shared_parameters(v, 1, 1), "input_size"),
        (lambda v: sharing.unshared_parameters(1, v, 1, 1), "hidden_size"),
        (lambda v: sharing.unshared_parameters(1, 1, 1, v), "steps"),
        (lambda v: sharing.window_parameters(1, 1, v, 1), "output_size"),
        (lambda v: sharing.multiplications(1, 1, 1, 3, v), "answers"),
        (lambda v: sharing.window_multiplications(1, 1, 1, v, 1), "steps"),
        (lambda v: sharing.untie(random_shared(np.random.default_rng(0), 1, 1, 1), v), "steps"),
        (lambda v: sharing.resting_state(one_unit(0.5), max_steps=v), "max_steps"),
    ):
        with pytest.raises(ValueError, match=f"{name} is 0, expected a whole number of at least 1"):
            call(0)
        for value, kind in ((2.0, "float"), (True, "bool")):
            with pytest.raises(TypeError, match=f"{name} is a {kind}, expected a whole number"):
                call(value)
    with pytest.raises(ValueError, match="answers is 4, expected at most steps = 3"):
        sharing.multiplications(1, 1, 1, 3, 4)


# --- shifts -------------------------------------------------------------------------------------


def one_unit(weight, bias=0.0, activation="tanh"):
    return sharing.VanillaCell(np.ones((1, 1)), np.full((1, 1), weight), np.array([bias]), activation)


@pytest.mark.equation("eq-sharing-shift")
@given(sizes("T", "B", "I"), st.data(), seeds)
def test_a_shift_agrees_with_torch_pad(agree, n, data, seed):
    k = data.draw(st.integers(0, n["T"]))
    arguments = example("eq-sharing-shift", seed, n)
    xs, padding = arguments["xs"], arguments["padding"]
    t = torch.tensor(xs)
    zeros = torch.nn.functional.pad(t, (0, 0, 0, 0, k, 0))[: n["T"]]
    before = torch.tensor(padding).expand(k, n["B"], n["I"])
    padded = torch.cat([before, t])[: n["T"]]
    for convert in (np.asarray, torch.tensor):
        shifted = sharing.shift(convert(xs), steps=k)
        agree(sharing.shift, "torch.nn.functional.pad", shifted, zeros)
        assert shifted.dtype == convert(xs).dtype
        agree(sharing.shift, "torch.cat", sharing.shift(convert(xs), convert(padding), k), padded)
    agree(
        sharing.shift,
        "torch.cat",
        sharing.shift(xs, padding),
        np.concatenate([[xs[0] * 0 + padding], xs[:-1]]),
    )


@pytest.mark.equation("eq-sharing-waiting")
@given(sizes("T", "B", "I", "H"), ACTIVATION, st.data(), seeds)
def test_a_shifted_run_is_the_run_from_the_waiting_state(agree, n, activation, data, seed):
    """For any cell, any start and any padding: this is what sharing gives without conditions."""
    rng = np.random.default_rng(seed)
    cell = random_shared(rng, n["I"], n["H"], 1, activation).cell
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    padding, k = rng.normal(size=n["I"]), data.draw(st.integers(0, n["T"] - 1))
    shifted = unroll(cell, sharing.shift(xs, padding, k), h_0).hs
    waited = sharing.waiting_state(cell, h_0, padding, k)
    agree(sharing.waiting_state, "unroll", shifted[k:], unroll(cell, xs[: n["T"] - k], waited).hs)
    t = tensors(cell)
    agree(
        sharing.waiting_state,
        "NumPy = torch",
        sharing.waiting_state(t, torch.tensor(h_0), torch.tensor(padding), k),
        waited,
    )


@pytest.mark.equation("eq-sharing-waiting")
@given(sizes("B", "I", "H"), st.integers(0, 5), seeds)
def test_the_waiting_state_agrees_with_torch_RNN_on_constant_input(agree, n, k, seed):
    rng = np.random.default_rng(seed)
    cell = random_shared(rng, n["I"], n["H"], 1).cell
    h_0, padding = rng.normal(size=(n["B"], n["H"])), rng.normal(size=n["I"])
    rnn = copied((cell.W_xh, cell.W_hh, cell.b_h), torch.nn.RNN(n["I"], n["H"], dtype=torch.float64))
    for given_padding, p in ((padding, padding), (None, 0 * padding)):
        w = sharing.waiting_state(cell, h_0, given_padding, k)
        if k == 0:
            assert np.array_equal(w, h_0)
            continue
        inputs = torch.tensor(p).expand(k, n["B"], n["I"])
        agree(sharing.waiting_state, "torch.nn.RNN", w, rnn(inputs, torch.tensor(h_0)[None])[1][0])


@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_zero_is_at_rest_exactly_where_the_activation_takes_the_bias_to_zero(activation):
    xs = np.random.default_rng(0).normal(size=(6, 2, 1))
    for bias in (-0.3, 0.0, 0.3):
        cell = one_unit(0.7, bias, activation)
        hs, shifted = unroll(cell, xs).hs, unroll(cell, sharing.shift(xs, steps=2)).hs
        at_rest = activations.apply(activation, np.array([[bias]])) == 0
        assert np.array_equal(shifted[2:], hs[:-2]) == bool(at_rest)
    assert (activations.apply(activation, np.zeros((1, 1))) == 0) == (activation != "logistic")


@pytest.mark.equation("eq-sharing-rest")
@given(sizes("I", "H"), st.sampled_from(["tanh", "logistic", "identity"]), st.booleans(), seeds)
def test_the_resting_state_agrees_with_scipys_root(agree, n, activation, with_padding, seed):
    rng = np.random.default_rng(seed)
    cell = random_shared(rng, n["I"], n["H"], 1, activation).cell
    cell = dataclasses.replace(cell, W_hh=0.8 * cell.W_hh / np.linalg.norm(cell.W_hh, 2))
    padding = rng.normal(size=n["I"]) if with_padding else None
    drive = cell.b_h + (cell.W_xh @ padding if with_padding else 0)

    def moved(h):
        return activations.apply(activation, cell.W_hh @ h + drive) - h

    expected = scipy.optimize.root(moved, np.zeros(n["H"]), tol=1e-13).x
    agree(sharing.resting_state, "scipy.optimize.root", sharing.resting_state(cell, padding), expected)
    t = None if padding is None else torch.tensor(padding)
    rest = sharing.resting_state(tensors(cell), t)
    agree(sharing.resting_state, "scipy.optimize.root", rest, expected)
    single = map_arrays(lambda x: x.astype(np.float32), cell)
    rest = sharing.resting_state(single, None if padding is None else padding.astype(np.float32))
    agree(sharing.resting_state, "scipy.optimize.root", rest, expected, dtype="float32")
    assert rest.dtype == np.float32


def test_a_state_that_never_rests_is_refused_and_one_that_needs_no_time_is_found():
    flipping = one_unit(-1.0, 1.0, "identity")  # 0, 1, 0, 1, …
    with pytest.raises(ValueError, match="still moves by 1 after max_steps = 7, expected it to come to rest"):
        sharing.resting_state(flipping, max_steps=7)
    assert sharing.resting_state(one_unit(0.5), max_steps=1).tolist() == [0.0]
    half = map_arrays(lambda x: x.astype(np.float16), one_unit(0.5))
    with pytest.raises(TypeError, match="W_hh has dtype float16, expected float32 or float64"):
        sharing.resting_state(half)


@pytest.mark.equation("eq-sharing-washout")
@given(sizes("T", "B", "I", "H"), ACTIVATION, st.floats(0.1, 3), st.integers(0, 4), st.booleans(), seeds)
def test_a_shifted_run_stays_within_the_bound(agree, n, activation, norm, k, with_padding, seed):
    rng = np.random.default_rng(seed)
    cell = random_shared(rng, n["I"], n["H"], 1, activation).cell
    cell = dataclasses.replace(cell, W_hh=norm * cell.W_hh / np.linalg.norm(cell.W_hh, 2))
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    padding = rng.normal(size=n["I"]) if with_padding else None
    before = np.zeros((k, n["B"], n["I"])) + (padding if with_padding else 0)
    shifted = unroll(cell, np.concatenate([before, xs]), h_0).hs
    w_k = shifted[k - 1] if k else h_0
    apart = shifted[k:] - unroll(cell, xs, h_0).hs
    slope = {"tanh": 1, "relu": 1, "identity": 1, "logistic": 0.25}[activation]
    gamma = slope * scipy.linalg.svdvals(cell.W_hh)[0]
    for t in range(n["T"] + 1):
        bound = sharing.washout_bound(cell, h_0, padding, k, t)
        expected = gamma**t * scipy.linalg.norm(w_k - h_0, axis=1)
        agree(sharing.washout_bound, "scipy.linalg.svdvals", bound, expected)
        if t:
            assert (np.linalg.norm(apart[t - 1], axis=1) <= bound * (1 + 1e-12) + 1e-14).all()
    tensor_padding = torch.tensor(padding) if with_padding else None
    tensor = sharing.washout_bound(tensors(cell), torch.tensor(h_0), tensor_padding, k, 2)
    agree(sharing.washout_bound, "NumPy = torch", tensor, sharing.washout_bound(cell, h_0, padding, k, 2))


@pytest.mark.equation("eq-sharing-washout")
def test_the_bound_is_reached_by_a_network_that_turns_and_shortens():
    W_hh = np.array([[0.0, -0.9], [0.9, 0.0]])
    cell = sharing.VanillaCell(np.ones((2, 1)), W_hh, np.array([3.0, 4.0]), "identity")
    h_0, xs = np.zeros((1, 2)), np.ones((5, 1, 1))
    shifted = unroll(cell, sharing.shift(xs), h_0).hs
    apart = np.linalg.norm(shifted[1:] - unroll(cell, xs, h_0).hs[:-1], axis=2)[:, 0]
    bounds = [float(sharing.washout_bound(cell, h_0, inputs=t)[0]) for t in (1, 2, 3, 4)]
    assert apart == pytest.approx(bounds, rel=1e-13)
    assert bounds == pytest.approx([4.5, 4.05, 3.645, 3.2805], rel=1e-13)
    assert sharing.washout_bound(cell, h_0).tolist() == pytest.approx([4.5])  # one step, one input


def test_the_largest_slopes_are_those_of_the_derivatives():
    a = np.linspace(-9, 9, 1801)[:, None]  # with 0
    assert set(activations.STEEPEST) == set(activations.ACTIVATIONS)
    for name, slope in activations.STEEPEST.items():
        assert activations.apply_derivative(name, a).max() == slope


# --- what is refused ----------------------------------------------------------------------------


def test_records_and_functions_refuse_what_does_not_fit():
    rng = np.random.default_rng(0)
    shared, network = random_shared(rng, 2, 3, 1), random_unshared(rng, 4, 2, 3, 1)
    xs = rng.normal(size=(4, 5, 2))
    with pytest.raises(
        ValueError, match=r"SharedNetwork: W_hy has shape \(1, 4\), expected \(O, H\) = \(1, 3\)"
    ):
        dataclasses.replace(shared, W_hy=np.ones((1, 4)))
    with pytest.raises(
        ValueError, match=r"UnsharedNetwork: b_h has shape \(3, 3\), expected \(T, H\) = \(4, 3\)"
    ):
        dataclasses.replace(network, b_h=np.ones((3, 3)))
    for record in (shared, network):
        with pytest.raises(ValueError, match="activation is 'softsign', expected one of 'tanh'"):
            dataclasses.replace(record, activation="softsign")
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.W_hh = record.W_hh
    with pytest.raises(ValueError, match=r"xs has shape \(5, 5, 2\), expected \(T, B, I\) = \(4, 5, 2\)"):
        sharing.unshared(network, np.ones((5, 5, 2)))
    with pytest.raises(ValueError, match=r"h_0 has shape \(1, 3\), expected \(B, H\) = \(5, 3\)"):
        sharing.unshared(network, xs, np.zeros((1, 3)))
    with pytest.raises(TypeError, match="expected one dtype throughout"):
        sharing.unshared(network, xs.astype(np.float32))
    with pytest.raises(TypeError, match="expected a real floating-point dtype"):
        sharing.unshared(network, np.ones((4, 5, 2), dtype=int))
    hs, ys = sharing.unshared(network, xs)
    with pytest.raises(ValueError, match=r"d_ys has shape \(4, 5, 2\), expected \(T, B, O\) = \(4, 5, 1\)"):
        sharing.unshared_backward(network, xs, hs, np.ones((4, 5, 2)))
    with pytest.raises(ValueError, match="d_as holds NaN"):
        sharing.step_gradients(network, xs, hs, hs * math.nan, ys)
    with pytest.raises(ValueError, match=r"us has shape \(4, 4, 2\), expected \(T, B, I\) = \(4, 5, 2\)"):
        sharing.shared_weight_gradient(hs, xs[:, :4])
    with pytest.raises(ValueError, match="steps is 5, expected at most T = 4 set by xs"):
        sharing.shift(xs, steps=5)
    with pytest.raises(ValueError, match="steps is -1, expected a whole number of at least 0"):
        sharing.shift(xs, steps=-1)
    with pytest.raises(ValueError, match=r"padding has shape \(1,\), expected \(I\) = \(2,\)"):
        sharing.shift(xs, np.zeros(1))
    with pytest.raises(ValueError, match="steps is -2, expected a whole number of at least 0"):
        sharing.waiting_state(shared.cell, np.zeros((1, 3)), steps=-2)
    for name in ("steps", "inputs"):
        with pytest.raises(ValueError, match=f"{name} is -1, expected a whole number of at least 0"):
            sharing.washout_bound(shared.cell, np.zeros((1, 3)), **{name: -1})
    half = map_arrays(lambda x: x.astype(np.float16), shared.cell)
    with pytest.raises(TypeError, match="W_hh has dtype float16"):
        sharing.washout_bound(half, np.zeros((1, 3), np.float16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(agree, dtype):
    rng = np.random.default_rng(0)
    exact = random_unshared(rng, 3, 2, 4, 1)
    xs, d_ys = rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2, 1))
    network = map_arrays(lambda x: torch.tensor(x).to(dtype), exact)
    half_xs, half_d = torch.tensor(xs).to(dtype), torch.tensor(d_ys).to(dtype)
    hs, ys = sharing.unshared(network, half_xs)
    d_as = sharing.unshared_backward(network, half_xs, hs, half_d)
    assert {hs.dtype, ys.dtype, d_as.dtype} == {dtype}
    assert sharing.untie(sharing.shared_gradient(network), 2).W_hh.dtype == dtype
    name = str(dtype).removeprefix("torch.")
    expected, _ = sharing.unshared(exact, xs)
    agree(sharing.unshared, "float64", hs, expected, dtype=name)
    agree(
        sharing.unshared_backward,
        "float64",
        d_as,
        sharing.unshared_backward(exact, xs, expected, d_ys),
        dtype=name,
    )


def test_the_device_is_kept():
    network = map_arrays(
        lambda x: torch.tensor(x, device="meta"), random_shared(np.random.default_rng(0), 2, 3, 1)
    )
    xs = torch.empty(4, 5, 2, dtype=torch.float64, device="meta")
    untied = sharing.untie(network, 4)
    hs, ys = sharing.unshared(untied, xs)
    d_as = sharing.unshared_backward(untied, xs, hs, ys)
    d_network = sharing.shared_gradient(sharing.step_gradients(untied, xs, hs, d_as, ys))
    results = [hs, ys, d_as, *arrays_of(d_network).values(), sharing.shared_weight_gradient(d_as, xs)]
    results += [
        sharing.shift(xs),
        sharing.waiting_state(network.cell, hs[0]),
        sharing.washout_bound(network.cell, hs[0]),
    ]
    assert {x.device.type for x in results} == {"meta"}


def test_a_long_sequence_and_the_smallest_one():
    rng = np.random.default_rng(0)
    long = sharing.untie(random_shared(rng, 1, 1, 1), 3000)
    hs, _ = sharing.unshared(long, rng.normal(size=(3000, 1, 1)))
    assert np.isfinite(hs).all()
    one = random_unshared(rng, 1, 1, 1, 1)
    x = rng.normal(size=(1, 1, 1))
    hs, ys = sharing.unshared(one, x)
    assert hs.item() == pytest.approx(math.tanh(one.W_xh.item() * x.item() + one.b_h.item()), rel=1e-14)
    assert ys.item() == pytest.approx(one.W_hy.item() * hs.item() + one.b_y.item(), rel=1e-14)
