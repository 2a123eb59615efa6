"""Every cell along time, held to torch.nn and to step equations written once more, in torch.

The other tests of sequences take their cells and references from here.
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import layer_norm, linear

from rnnlib.backend import annotations_of, shape_of, terms_of
from rnnlib.bidirectional import Bidirectional
from rnnlib.bptt import forward, map_state, parameters_of
from rnnlib.cell import arrays_of, map_arrays
from rnnlib.deep import Stack
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.lstm import CoupledLSTMCell, LayerNormLSTMCell, LSTMCell, NoForgetLSTMCell, PeepholeLSTMCell
from rnnlib.unroll import Trajectory, as_state, initial_state, mask_from_lengths, unroll, whole_lengths
from rnnlib.vanilla import VanillaCell
from tests.support import relative_error, seeds, sizes, to_numpy

CELLS = (
    VanillaCell,
    LSTMCell,
    PeepholeLSTMCell,
    CoupledLSTMCell,
    NoForgetLSTMCell,
    LayerNormLSTMCell,
    GRUCell,
    ResetAfterGRUCell,
)

every_cell = pytest.mark.parametrize("cell_type", CELLS, ids=lambda c: c.__name__)


# --- cells and inputs ---------------------------------------------------------------------------


def random_cell(cell_type, rng, I, H, dtype=np.float64):
    """A cell of any type with random entries, biases included."""

    def size(dim):
        terms = terms_of(dim)
        if terms is None:
            return {"I": I, "H": H}[dim]
        return sum(count * (size(name) if name else 1) for count, name in terms)

    shapes = {name: shape_of(annotation) for name, annotation in annotations_of(cell_type).items()}
    return cell_type(
        **{
            name: np.asarray(rng.normal(size=tuple(size(d) for d in shape.split())) * 0.8, dtype=dtype)
            for name, shape in shapes.items()
            if shape is not None
        }
    )


def random_state(cell, rng, B, dtype=np.float64):
    return tuple(rng.normal(size=(B, cell.hidden_size)).astype(dtype) for _ in cell.state_names)


def torch_cell(cell, requires_grad=False):
    """The same cell with torch tensors in it."""
    return map_arrays(lambda a: torch.tensor(a, requires_grad=requires_grad), cell)


def lengths_for(kind, rng, T, B):
    """No lengths, random ones, or random ones with an empty sequence among them."""
    if kind == "none":
        return None
    lengths = [int(n) for n in rng.integers(1, T + 1, size=B)]
    if kind == "empty":
        lengths[int(rng.integers(B))] = 0
    return lengths


length_kinds = st.sampled_from(["none", "some", "empty"])


# --- the step equations, once more --------------------------------------------------------------


def _lstm_gates(p, x, h, C):
    z = torch.cat([h, x], dim=1)
    peep = {g: p[f"p_{g}"] * C if f"p_{g}" in p else 0.0 for g in "fi"}
    f = torch.special.expit(linear(z, p["W_f"], p["b_f"]) + peep["f"]) if "W_f" in p else None
    i = torch.special.expit(linear(z, p["W_i"], p["b_i"]) + peep["i"]) if "W_i" in p else None
    return f, i, torch.tanh(linear(z, p["W_C"], p["b_C"])), linear(z, p["W_o"], p["b_o"])


def reference_step(cell_type, p, x, state):
    """One step of any cell, written in torch from the equations of its paper."""
    if cell_type is VanillaCell:
        (h,) = state
        return (torch.tanh(linear(x, p["W_xh"], p["b_h"]) + linear(h, p["W_hh"])),)
    if cell_type is GRUCell:
        (h,) = state
        z = torch.special.expit(linear(torch.cat([h, x], 1), p["W_z"], p["b_z"]))
        r = torch.special.expit(linear(torch.cat([h, x], 1), p["W_r"], p["b_r"]))
        candidate = torch.tanh(linear(torch.cat([r * h, x], 1), p["W"], p["b"]))
        return (torch.lerp(h, candidate, z),)
    if cell_type is ResetAfterGRUCell:
        (h,) = state
        z = torch.special.expit(linear(torch.cat([h, x], 1), p["W_z"], p["b_z"]))
        r = torch.special.expit(linear(torch.cat([h, x], 1), p["W_r"], p["b_r"]))
        candidate = torch.tanh(linear(x, p["W_x"], p["b_x"]) + r * linear(h, p["W_h"], p["b_h"]))
        return (torch.lerp(h, candidate, z),)
    h, C = state
    if cell_type is LayerNormLSTMCell:
        H, n = h.shape[1], 4 * h.shape[1]
        W = torch.cat([p[f"W_{g}"] for g in "fiCo"])
        a = layer_norm(linear(h, W[:, :H]), (n,), p["alpha_h"], p["beta_h"], 1e-5)
        a = a + layer_norm(linear(x, W[:, H:]), (n,), p["alpha_x"], p["beta_x"], 1e-5)
        a_f, a_i, a_C, a_o = (a + torch.cat([p[f"b_{g}"] for g in "fiCo"])).chunk(4, dim=1)
        C = torch.special.expit(a_f) * C + torch.special.expit(a_i) * torch.tanh(a_C)
        shown = torch.tanh(layer_norm(C, (H,), p["alpha_C"], p["beta_C"], 1e-5))
        return torch.special.expit(a_o) * shown, C
    f, i, candidate, a_o = _lstm_gates(p, x, h, C)
    f = torch.ones_like(i) if f is None else f
    i = 1 - f if i is None else i
    C = f * C + i * candidate
    if "p_o" in p:
        a_o = a_o + p["p_o"] * C
    return torch.special.expit(a_o) * torch.tanh(C), C


def reference_run(cell_type, p, xs, initial, lengths=None):
    """Every sequence run alone, for as long as it is: no mask, no padding."""
    T, B, H = xs.shape[0], xs.shape[1], initial[0].shape[1]
    columns, finals = [], []
    for b in range(B):
        state = tuple(s[b : b + 1] for s in initial)
        hs = []
        for t in range(T if lengths is None else lengths[b]):
            state = reference_step(cell_type, p, xs[t, b : b + 1], state)
            hs.append(state[0])
        hs += [xs.new_zeros(1, H)] * (T - len(hs))
        columns.append(torch.stack(hs))  # (T, 1, H)
        finals.append(state)
    return torch.cat(columns, dim=1), tuple(torch.cat(parts) for parts in zip(*finals, strict=True))


def flipped(xs, lengths=None):
    """Every sequence turned round by itself, the padding left where it is."""
    T, B = xs.shape[:2]
    ends = [T] * B if lengths is None else lengths
    columns = [torch.cat([xs[:n, b].flip(0), xs[n:, b]]) for b, n in enumerate(ends)]
    return torch.stack(columns, dim=1)


def reference_network(network, p, xs, initial, lengths=None, masks=None):
    """Any network of cells, written in torch: the hidden states and the final states.

    Args:
        network: for its structure; its numbers are not used.
        p: its parameters by name, as torch tensors.
        xs: inputs, (T, B, I).
        initial: the initial state, with a tensor for every array.
        lengths: whole numbers or None.
        masks: dropout masks of a stack, or None.
    """
    if isinstance(network, CELLS):
        return reference_run(type(network), p, xs, initial, lengths)

    def part(field, i):
        prefix = f"{field}.{i}."
        return {name.removeprefix(prefix): a for name, a in p.items() if name.startswith(prefix)}

    if isinstance(network, Bidirectional):
        right, left = network.directions
        h_right, final_right = reference_network(right, part("directions", 0), xs, initial[0], lengths)
        h_left, final_left = reference_network(
            left, part("directions", 1), flipped(xs, lengths), initial[1], lengths
        )
        both = [h_right, flipped(h_left, lengths)]
        if network.merge == "concat":
            hs = torch.cat(both, dim=-1)
        else:
            hs = getattr(torch.stack(both), network.merge)(0)
        return hs, (final_right, final_left)

    hs, finals = xs, []
    for l, layer in enumerate(network.layers):
        fed = hs if l == 0 or masks is None else torch.mul(hs, masks[l - 1])
        h_layer, final = reference_network(layer, part("layers", l), fed, initial[l], lengths)
        hs = hs + h_layer if network.residual and l > 0 else h_layer
        finals.append(final)
    return hs, tuple(finals)


def random_network_state(network, rng, B):
    """A random state of a network, tuples in tuples as its parts are."""
    if isinstance(network, Bidirectional):
        return tuple(random_network_state(part, rng, B) for part in network.directions)
    if isinstance(network, Stack):
        return tuple(random_network_state(layer, rng, B) for layer in network.layers)
    return random_state(network, rng, B)


def leaves(state):
    """The arrays of a state, in order."""
    return [x for part in state for x in leaves(part)] if isinstance(state, tuple) else [state]


@dataclasses.dataclass
class NetworkCase:
    """A network, a sequence, and the gradients that reach it from a loss, in NumPy and in torch."""

    network: object
    xs: np.ndarray
    initial: tuple
    lengths: list | None
    d_hs: np.ndarray
    d_final: tuple
    masks: tuple | None = None

    @classmethod
    def random(cls, network, T, B, kind, rng, masks=None):
        return cls(
            network,
            rng.normal(size=(T, B, network.input_size)),
            random_network_state(network, rng, B),
            lengths_for(kind, rng, T, B),
            rng.normal(size=(T, B, network.hidden_size)),
            random_network_state(network, rng, B),
            masks,
        )

    def __post_init__(self):
        self.p = {k: torch.tensor(a, requires_grad=True) for k, a in parameters_of(self.network).items()}
        self.x = torch.tensor(self.xs, requires_grad=True)
        self.s = map_state(lambda a: torch.tensor(a, requires_grad=True), self.initial)
        self.d = torch.tensor(self.d_hs)
        self.m = None if self.masks is None else tuple(map(torch.tensor, self.masks))

    def forward(self):
        """The trajectory, run by rnnlib on NumPy."""
        return forward(self.network, self.xs, self.initial, self.lengths, self.masks)

    def reference(self):
        """The hidden states and the final states, in torch."""
        return reference_network(self.network, self.p, self.x, self.s, self.lengths, self.m)

    def inputs(self):
        """All that a gradient is taken of: parameters, inputs, initial states."""
        return [*self.p.values(), self.x, *leaves(self.s)]

    def loss(self, hs, final):
        """The loss whose gradients are ``d_hs`` and ``d_final``."""
        ends = zip(leaves(final), leaves(self.d_final), strict=True)
        return (hs * self.d).sum() + sum((f * torch.tensor(d)).sum() for f, d in ends)

    def expected(self):
        """The gradients, by torch.autograd, in the order of :meth:`inputs`."""
        return autograd(self.loss(*self.reference()), self.inputs())

    def flat(self, gradients):
        """The gradients of rnnlib in the order of :meth:`inputs`."""
        return [*parameters_of(gradients.d_cell).values(), gradients.d_xs, *leaves(gradients.d_initial)]


def assert_same(actual, expected, tolerance=1e-10):
    """Two ways of ours agree; no reference, so nothing for the record."""
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= tolerance


def autograd(loss, inputs):
    """The gradients of a loss; zeros for what it does not depend on."""
    if not loss.requires_grad:  # every sequence is empty
        return [torch.zeros_like(x) for x in inputs]
    return list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))


# --- torch's own networks -----------------------------------------------------------------------

TORCH_MODULES = {
    VanillaCell: torch.nn.RNN,
    LSTMCell: torch.nn.LSTM,
    ResetAfterGRUCell: torch.nn.GRU,
}

torch_cells = pytest.mark.parametrize("cell_type", TORCH_MODULES, ids=lambda c: c.__name__)


def torch_weights(cell):
    """The weights of a cell in torch's layout: weight_ih, weight_hh, bias_ih, bias_hh."""
    H = cell.hidden_size
    a = arrays_of(cell)
    if isinstance(cell, VanillaCell):
        return a["W_xh"], a["W_hh"], a["b_h"], np.zeros_like(a["b_h"])
    if isinstance(cell, LSTMCell):
        W = np.concatenate([a[f"W_{g}"] for g in "ifCo"])
        b = np.concatenate([a[f"b_{g}"] for g in "ifCo"])
        return W[:, H:], W[:, :H], b, np.zeros_like(b)
    # torch's z is our 1 - z: the same logistic function at the opposite point
    return (
        np.concatenate([a["W_r"][:, H:], -a["W_z"][:, H:], a["W_x"]]),
        np.concatenate([a["W_r"][:, :H], -a["W_z"][:, :H], a["W_h"]]),
        np.concatenate([a["b_r"], -a["b_z"], a["b_x"]]),
        np.concatenate([np.zeros(2 * H), a["b_h"]]),
    )


def to_torch_module(layers, bidirectional=False):
    """torch's network of these cells: a tuple of cells, or of (rightward, leftward) pairs."""
    pairs = layers if bidirectional else [(cell,) for cell in layers]
    first = pairs[0][0]
    module = TORCH_MODULES[type(first)](
        first.input_size, first.hidden_size, len(pairs), bidirectional=bidirectional, dtype=torch.float64
    )
    with torch.no_grad():
        for l, pair in enumerate(pairs):
            for cell, suffix in zip(pair, ("", "_reverse"), strict=False):
                kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                for kind, array in zip(kinds, torch_weights(cell), strict=True):
                    getattr(module, f"{kind}_l{l}{suffix}").copy_(torch.tensor(array))
    return module


def gradients_from_torch(module, cell_type, l=0, suffix=""):
    """The gradients in a torch network as the arrays of our cell, by name."""
    W_x, W_h, b_x, b_h = (
        getattr(module, f"{kind}_l{l}{suffix}").grad.numpy()
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    if cell_type is VanillaCell:
        return {"W_xh": W_x, "W_hh": W_h, "b_h": b_x}
    W, H = np.concatenate([W_h, W_x], axis=1), W_h.shape[1]
    if cell_type is LSTMCell:
        quarters = {g: slice(k * H, (k + 1) * H) for k, g in enumerate("ifCo")}
        return {f"W_{g}": W[q] for g, q in quarters.items()} | {f"b_{g}": b_x[q] for g, q in quarters.items()}
    r, z, n = (slice(k * H, (k + 1) * H) for k in range(3))
    return {
        "W_r": W[r],
        "b_r": b_x[r],
        "W_z": -W[z],
        "b_z": -b_x[z],
        "W_x": W_x[n],
        "b_x": b_x[n],
        "W_h": W_h[n],
        "b_h": b_h[n],
    }


def run_torch(module, xs, initial, lengths=None):
    """Outputs and final states of a torch network; ``initial`` in its (layers, B, H) form."""
    given = initial if isinstance(module, torch.nn.LSTM) else initial[0]
    if lengths is None:
        hs, final = module(xs, given)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
        hs, final = module(packed, given)
        hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, total_length=xs.shape[0])
    return hs, final if isinstance(final, tuple) else (final,)


# --- values -------------------------------------------------------------------------------------


@every_cell
@given(sizes("T", "B", "I", "H"), length_kinds, st.booleans(), seeds)
@settings(max_examples=8)
def test_every_cell_runs_like_its_equations_in_torch(agree, cell_type, n, kind, from_zero, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(cell_type, rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    lengths = lengths_for(kind, rng, n["T"], n["B"])
    initial = None if from_zero else random_state(cell, rng, n["B"])
    start = initial or tuple(np.zeros((n["B"], n["H"])) for _ in cell.state_names)

    trajectory = unroll(cell, xs, initial, lengths)
    hs, final = reference_run(
        cell_type, arrays_of(torch_cell(cell)), torch.tensor(xs), tuple(map(torch.tensor, start)), lengths
    )
    agree(
        unroll,
        "the equations in torch",
        [trajectory.hs, *trajectory.final, *trajectory.initial],
        [hs, *final, *start],
    )
    assert len(trajectory.caches) == len(trajectory.states) == n["T"]


@pytest.mark.equation("eq-vanilla-unroll")
@torch_cells
@given(sizes("T", "B", "I", "H"), st.sampled_from(["none", "some"]), seeds)
@settings(max_examples=10)
def test_unrolling_agrees_with_torch_nn(agree, cell_type, n, kind, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(cell_type, rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    lengths, initial = lengths_for(kind, rng, n["T"], n["B"]), random_state(cell, rng, n["B"])
    trajectory = unroll(cell, xs, initial, lengths)
    hs, final = run_torch(
        to_torch_module([cell]), torch.tensor(xs), tuple(torch.tensor(s)[None] for s in initial), lengths
    )
    agree(
        unroll,
        f"torch.nn.{TORCH_MODULES[cell_type].__name__}",
        [trajectory.hs, *trajectory.final],
        [hs, *(f[0] for f in final)],
    )


@every_cell
def test_numpy_and_torch_give_the_same_numbers(cell_type):
    rng = np.random.default_rng(3)
    cell = random_cell(cell_type, rng, 3, 4)
    xs, initial, lengths = rng.normal(size=(5, 3, 3)), random_state(cell, rng, 3), [5, 0, 2]
    ours = unroll(cell, xs, initial, lengths)
    theirs = unroll(torch_cell(cell), torch.tensor(xs), tuple(map(torch.tensor, initial)), lengths)
    assert_same([ours.hs, *ours.final], [theirs.hs, *theirs.final])


@every_cell
def test_a_long_sequence_stays_with_torch(agree, cell_type):
    rng = np.random.default_rng(4)
    cell = random_cell(cell_type, rng, 2, 3)
    cell = map_arrays(lambda a: a / 3, cell)  # contracting, so that rounding errors do not grow
    xs, initial = rng.normal(size=(1000, 1, 2)), random_state(cell, rng, 1)
    hs, _ = reference_run(
        cell_type, arrays_of(torch_cell(cell)), torch.tensor(xs), tuple(map(torch.tensor, initial))
    )
    agree(unroll, "the equations in torch", unroll(cell, xs, initial).hs, hs)


# --- lengths ------------------------------------------------------------------------------------


@every_cell
@given(sizes("T", "B", "I", "H"), seeds)
@settings(max_examples=5)
def test_padding_changes_nothing(cell_type, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(cell_type, rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    lengths, initial = lengths_for("empty", rng, n["T"], n["B"]), random_state(cell, rng, n["B"])
    expected = unroll(cell, xs, initial, lengths)
    behind = np.arange(n["T"])[:, None] >= np.array(lengths)  # (T, B)
    for garbage in (1e300 * rng.normal(size=xs.shape), np.full(xs.shape, np.inf)):
        actual = unroll(cell, np.where(behind[:, :, None], garbage, xs), initial, lengths)
        np.testing.assert_array_equal(actual.hs, expected.hs)
        for a, e in zip(actual.final, expected.final, strict=True):
            np.testing.assert_array_equal(a, e)
    assert not expected.hs[behind].any()
    np.testing.assert_array_equal(expected.mask, ~behind)
    empty = lengths.index(0)
    for f, s in zip(expected.final, initial, strict=True):
        np.testing.assert_array_equal(f[empty], s[empty])


def test_lengths_come_as_a_list_an_array_or_a_tensor():
    rng = np.random.default_rng(5)
    cell, xs = random_cell(VanillaCell, rng, 2, 3), rng.normal(size=(4, 3, 2))
    expected = unroll(cell, xs, lengths=[4, 0, 2]).hs
    for lengths in ((4, 0, 2), np.array([4, 0, 2]), torch.tensor([4, 0, 2])):
        np.testing.assert_array_equal(unroll(cell, xs, lengths=lengths).hs, expected)
    assert whole_lengths(np.array([4, 0], dtype=np.uint8), 4, 2) == [4, 0]
    np.testing.assert_array_equal(mask_from_lengths([2, 0, 1], xs[:2]), [[1, 0, 1], [1, 0, 0]])
    assert mask_from_lengths([1], np.zeros((1, 1, 1), dtype=np.float32)).dtype == np.float32


def test_full_lengths_are_no_lengths():
    rng = np.random.default_rng(6)
    cell, xs = random_cell(LSTMCell, rng, 2, 3), rng.normal(size=(4, 2, 2))
    np.testing.assert_array_equal(unroll(cell, xs, lengths=[4, 4]).hs, unroll(cell, xs).hs)
    assert unroll(cell, xs).mask is None


# --- the trajectory -----------------------------------------------------------------------------


@every_cell
def test_a_trajectory_keeps_its_states_and_inputs(cell_type):
    rng = np.random.default_rng(7)
    cell, xs = random_cell(cell_type, rng, 2, 3), rng.normal(size=(5, 2, 2))
    trajectory = unroll(cell, xs, random_state(cell, rng, 2), [5, 3])
    np.testing.assert_array_equal(trajectory.xs[:3], xs[:3])
    assert not trajectory.xs[3:, 1].any()
    for t in range(5):
        np.testing.assert_array_equal(trajectory.states[t][0][0], trajectory.hs[t, 0])
    for last, kept in zip(trajectory.states[2], trajectory.states[4], strict=True):
        np.testing.assert_array_equal(last[1], kept[1])  # the second sequence ended after 3 steps
    for final, last in zip(trajectory.final, trajectory.states[-1], strict=True):
        np.testing.assert_array_equal(final, last)


def test_along_time_stacks_what_every_step_computed(agree):
    rng = np.random.default_rng(8)
    cell, xs = random_cell(VanillaCell, rng, 2, 3), rng.normal(size=(4, 2, 2))
    trajectory = unroll(cell, xs)
    agree(
        Trajectory.along_time,
        "torch.atanh",
        trajectory.along_time("a_t"),
        torch.tensor(trajectory.hs).atanh(),
    )
    np.testing.assert_array_equal(trajectory.along_time("h_t"), trajectory.hs)
    np.testing.assert_array_equal(trajectory.along_time("x_t"), xs)
    on_torch = unroll(torch_cell(cell), torch.tensor(xs))
    assert torch.equal(on_torch.along_time("h_prev")[1:], on_torch.hs[:-1])
    with pytest.raises(ValueError, match="name is 'C_t', expected one of x_t, h_prev, a_t, h_t"):
        trajectory.along_time("C_t")


@every_cell
def test_a_window_is_a_run_of_its_steps_alone(cell_type):
    rng = np.random.default_rng(9)
    cell, xs, lengths = random_cell(cell_type, rng, 2, 3), rng.normal(size=(6, 2, 2)), [6, 3]
    trajectory = unroll(cell, xs, random_state(cell, rng, 2), lengths)
    for start, stop in ((0, 6), (0, 2), (1, 4), (4, 6), (2, 3)):
        window = trajectory.window(start, stop)
        alone = unroll(
            cell, xs[start:stop], window.initial, [min(max(n - start, 0), stop - start) for n in lengths]
        )
        np.testing.assert_array_equal(window.hs, alone.hs)
        np.testing.assert_array_equal(window.xs, alone.xs)
        np.testing.assert_array_equal(window.mask, alone.mask)
        for a, b in zip((*window.initial, *window.final), (*alone.initial, *alone.final), strict=True):
            np.testing.assert_array_equal(a, b)
        assert window.caches == trajectory.caches[start:stop]
        assert len(window.states) == stop - start
    assert unroll(cell, xs).window(1, 2).mask is None
    for start, stop in ((-1, 2), (2, 2), (3, 2), (0, 7)):
        with pytest.raises(
            ValueError, match=rf"start, stop is {start}, {stop}, expected 0 ≤ start < stop ≤ T = 6"
        ):
            trajectory.window(start, stop)


# --- dtype, device, memory layout ---------------------------------------------------------------


@every_cell
def test_the_dtype_is_kept(cell_type):
    rng = np.random.default_rng(10)
    cell, xs = random_cell(cell_type, rng, 2, 3), rng.normal(size=(3, 2, 2))
    exact = unroll(cell, xs, lengths=[3, 1]).hs
    for dtype, tolerance in ((np.float16, 2e-2), (np.float32, 1e-5)):
        trajectory = unroll(
            map_arrays(lambda a, d=dtype: a.astype(d), cell), xs.astype(dtype), lengths=[3, 1]
        )
        assert {x.dtype for x in (trajectory.hs, *trajectory.final, trajectory.mask)} == {np.dtype(dtype)}
        np.testing.assert_allclose(trajectory.hs, exact, atol=tolerance)
    for dtype, tolerance in ((torch.bfloat16, 1e-1), (torch.float16, 2e-2), (torch.float32, 1e-5)):
        narrow = map_arrays(lambda a, d=dtype: torch.tensor(a, dtype=d), cell)
        trajectory = unroll(narrow, torch.tensor(xs, dtype=dtype), lengths=[3, 1])
        assert {x.dtype for x in (trajectory.hs, *trajectory.final, trajectory.mask)} == {dtype}
        np.testing.assert_allclose(to_numpy(trajectory.hs.float()), exact, atol=tolerance)


@every_cell
def test_the_device_is_kept(cell_type):
    cell = random_cell(cell_type, np.random.default_rng(11), 2, 3)
    on_meta = map_arrays(lambda a: torch.tensor(a, device="meta"), cell)
    trajectory = unroll(on_meta, torch.zeros(3, 2, 2, device="meta", dtype=torch.float64), lengths=[3, 1])
    assert {x.device.type for x in (trajectory.hs, *trajectory.final, trajectory.mask)} == {"meta"}


def test_strided_inputs_are_read_right():
    rng = np.random.default_rng(12)
    cell, xs = random_cell(VanillaCell, rng, 2, 3), rng.normal(size=(2, 5, 4))
    strided = xs.transpose(1, 0, 2)[::-1, :, ::2]
    np.testing.assert_allclose(unroll(cell, strided).hs, unroll(cell, strided.copy()).hs, rtol=1e-14)


@every_cell
def test_saturated_steps_stay_finite_without_a_warning(cell_type):
    rng = np.random.default_rng(13)
    cell = map_arrays(lambda a: np.sign(a) * 1e4, random_cell(cell_type, rng, 2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hs = unroll(cell, rng.choice([-1.0, 1.0], size=(4, 2, 2))).hs
    assert np.isfinite(hs).all()
    assert (np.abs(hs) <= 1).all()


# --- refusals -----------------------------------------------------------------------------------


class NoRecord:
    """A cell that declares no shapes."""

    def __init__(self, cell):
        self.state_names, self.step = cell.state_names, cell.step
        self.input_size, self.hidden_size = cell.input_size, cell.hidden_size


def test_what_does_not_fit_is_refused():
    cell = VanillaCell(np.ones((3, 2)), np.ones((3, 3)), np.ones(3))
    xs = np.ones((4, 2, 2))
    with pytest.raises(ValueError, match=r"xs has shape \(4, 2\), expected 3 dimensions"):
        unroll(cell, xs[:, 0])
    with pytest.raises(
        ValueError, match=r"xs has shape \(4, 2, 5\), expected .* = \(4, 2, 2\) with .* set by cell.W_xh"
    ):
        unroll(cell, np.ones((4, 2, 5)))
    with pytest.raises(
        ValueError, match=r"xs has shape \(4, 2, 5\), expected \(T, B, I\) with I = 2 set by the cell"
    ):
        unroll(NoRecord(cell), np.ones((4, 2, 5)))
    with pytest.raises(ValueError, match="T is 0, expected at least 1"):
        unroll(cell, xs[:0])
    with pytest.raises(ValueError, match="B is 0, expected at least 1"):
        unroll(cell, xs[:, :0])
    with pytest.raises(TypeError, match="xs has dtype int64, expected a real floating-point dtype"):
        unroll(cell, xs.astype(int))
    with pytest.raises(TypeError, match="xs has dtype complex128"):
        unroll(cell, xs.astype(complex))
    with pytest.raises(TypeError, match="expected one dtype throughout"):
        unroll(cell, xs.astype(np.float32))
    with pytest.raises(TypeError, match="expected all arrays of one kind"):
        unroll(cell, torch.ones(4, 2, 2))
    with pytest.raises(ValueError, match=r"xs holds NaN, first at index \(1, 0, 0\)"):
        unroll(cell, np.where(np.arange(4)[:, None, None] == 1, np.nan, xs))


def test_an_initial_state_that_does_not_fit_is_refused():
    cell = random_cell(LSTMCell, np.random.default_rng(0), 2, 3)
    xs, h = np.ones((4, 2, 2)), np.ones((2, 3))
    with pytest.raises(ValueError, match=r"initial state has 1 arrays, expected 2: \(h_0, C_0\)"):
        unroll(cell, xs, h)
    with pytest.raises(ValueError, match=r"C_0 has shape \(1, 3\), expected \(B, H\) = \(2, 3\)"):
        unroll(cell, xs, (h, h[:1]))
    with pytest.raises(
        ValueError, match=r"h_0 has shape \(2, 4\), expected \(B, H\) = \(2, 3\) with H = 3 set by"
    ):
        unroll(cell, xs, (np.ones((2, 4)), np.ones((2, 4))))
    with pytest.raises(TypeError, match="C_0 has float32"):
        unroll(cell, xs, (h, h.astype(np.float32)))
    with pytest.raises(TypeError, match="h_0 is a list"):
        unroll(random_cell(VanillaCell, np.random.default_rng(0), 2, 3), xs, [h])
    assert len(initial_state(cell, xs)) == 2
    assert as_state("d_final", cell, (h, h), ("a", "b"), xs[0]) == (h, h)


def test_lengths_that_do_not_fit_are_refused():
    cell, xs = random_cell(VanillaCell, np.random.default_rng(0), 2, 3), np.ones((4, 2, 2))
    with pytest.raises(ValueError, match="lengths has 3 entries, expected B = 2 set by xs"):
        unroll(cell, xs, lengths=[1, 2, 3])
    for wrong in (5, -1, 2.0, True):
        with pytest.raises(
            ValueError, match=rf"lengths\[1\] is {wrong}, expected a whole number from 0 to T = 4"
        ):
            unroll(cell, xs, lengths=[1, wrong])


# --- records of arrays --------------------------------------------------------------------------


@every_cell
def test_arrays_of_a_cell_are_its_parameters(cell_type):
    cell = random_cell(cell_type, np.random.default_rng(14), 2, 3)
    arrays = arrays_of(cell)
    others = {"activation", "epsilon"}
    assert list(arrays) == [f.name for f in dataclasses.fields(cell) if f.name not in others]
    assert all(arrays[name] is getattr(cell, name) for name in arrays)


def test_map_arrays_keeps_what_is_no_array():
    cell = VanillaCell(np.ones((3, 2)), np.full((3, 3), 2.0), np.full(3, 3.0), activation="relu")
    difference = map_arrays(lambda a, b, c: a - b * c, cell, cell, cell)
    assert difference.activation == "relu"
    assert isinstance(difference, VanillaCell)
    np.testing.assert_array_equal(difference.W_hh, np.full((3, 3), -2.0))
    np.testing.assert_array_equal(difference.b_h, np.full(3, -6.0))
    assert arrays_of(map_arrays(lambda a: torch.tensor(a), cell))["W_xh"].dtype == torch.float64
