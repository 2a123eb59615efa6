"""The gradients along time, held to torch.autograd on steps written once more and to torch.nn."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlib import bptt
from rnnlib.backend import is_array
from rnnlib.bidirectional import Bidirectional
from rnnlib.bptt import Gradients, Meter
from rnnlib.cell import arrays_of, map_arrays
from rnnlib.deep import Stack
from rnnlib.gru import GRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import as_torch, example, seeds, sizes, to_numpy
from tests.test_unroll import (
    CELLS,
    TORCH_MODULES,
    assert_same,
    autograd,
    every_cell,
    gradients_from_torch,
    length_kinds,
    lengths_for,
    random_cell,
    random_state,
    reference_run,
    reference_step,
    run_torch,
    to_torch_module,
    torch_cell,
    torch_cells,
)


@dataclasses.dataclass
class Case:
    """A cell, a sequence, and the gradients that reach it from a loss, in NumPy and in torch."""

    cell: object
    xs: np.ndarray
    initial: tuple
    lengths: list | None
    d_hs: np.ndarray
    d_final: tuple

    @classmethod
    def random(cls, cell_type, n, kind, seed):
        rng = np.random.default_rng(seed)
        cell = random_cell(cell_type, rng, n["I"], n["H"])
        return cls(
            cell,
            rng.normal(size=(n["T"], n["B"], n["I"])),
            random_state(cell, rng, n["B"]),
            lengths_for(kind, rng, n["T"], n["B"]),
            rng.normal(size=(n["T"], n["B"], n["H"])),
            random_state(cell, rng, n["B"]),
        )

    def __post_init__(self):
        self.p = {k: torch.tensor(a, requires_grad=True) for k, a in arrays_of(self.cell).items()}
        self.x = torch.tensor(self.xs, requires_grad=True)
        self.s = tuple(torch.tensor(s, requires_grad=True) for s in self.initial)
        self.d = torch.tensor(self.d_hs)

    @property
    def T(self):
        return len(self.xs)

    @property
    def trajectory(self):
        return unroll(self.cell, self.xs, self.initial, self.lengths)

    def step(self, t, state):
        """The next state; its parts are copies, so that each can be varied without the others."""
        return tuple(s.clone() for s in reference_step(type(self.cell), self.p, self.x[t], state))

    def expected(self, with_final=True):
        """The gradients of everything, by torch.autograd: parameters, inputs, initial state."""
        hs, final = reference_run(type(self.cell), self.p, self.x, self.s, self.lengths)
        loss = (hs * self.d).sum()
        if with_final:
            loss = loss + sum((f * torch.tensor(d)).sum() for f, d in zip(final, self.d_final, strict=True))
        return autograd(loss, [*self.p.values(), self.x, *self.s])

    def flat(self, gradients):
        """Gradients as :meth:`expected` orders them."""
        return [*arrays_of(gradients.d_cell).values(), gradients.d_xs, *gradients.d_initial]


def values(record):
    return list(arrays_of(record).values())


any_sizes = sizes("T", "B", "I", "H")
small = sizes("T", "B", "I", "H", high=4)


# --- the recursion ------------------------------------------------------------------------------


@every_cell
@given(any_sizes, length_kinds, seeds)
@settings(max_examples=8)
def test_bptt_agrees_with_autograd(agree, cell_type, n, kind, seed):
    case = Case.random(cell_type, n, kind, seed)
    gradients = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)
    assert isinstance(gradients.d_cell, cell_type)
    agree(bptt.bptt, "torch.autograd", case.flat(gradients), case.expected())
    without = bptt.bptt(case.cell, case.trajectory, case.d_hs)
    agree(bptt.bptt, "torch.autograd", case.flat(without), case.expected(with_final=False))


@pytest.mark.equation("eq-bptt-recursion", "eq-bptt-parameters", "eq-bptt-inputs")
@torch_cells
@given(any_sizes, st.sampled_from(["none", "some"]), seeds)
@settings(max_examples=8)
def test_the_three_parts_agree_with_torch_nn(agree, cell_type, n, kind, seed):
    case = Case.random(cell_type, n, kind, seed)
    d_states = bptt.state_gradients(case.cell, case.trajectory, case.d_hs, case.d_final)

    module = to_torch_module([case.cell])
    start = tuple(s[None] for s in case.s)
    hs, final = run_torch(module, case.x, start, case.lengths)
    loss = (hs * case.d).sum() + sum(
        (f[0] * torch.tensor(d)).sum() for f, d in zip(final, case.d_final, strict=True)
    )
    loss.backward()
    reference = f"torch.nn.{TORCH_MODULES[cell_type].__name__}"
    agree(bptt.state_gradients, reference, d_states[0], [s.grad for s in case.s])
    expected = gradients_from_torch(module, cell_type)
    d_cell = arrays_of(bptt.parameter_gradients(case.cell, case.trajectory, d_states))
    agree(bptt.parameter_gradients, reference, d_cell, {k: expected[k] for k in d_cell})
    agree(
        bptt.input_gradients,
        reference,
        bptt.input_gradients(case.cell, case.trajectory, d_states),
        case.x.grad,
    )


@pytest.mark.equation("eq-bptt-recursion", "eq-bptt-parameters", "eq-bptt-inputs")
@every_cell
@given(any_sizes, seeds)
@settings(max_examples=6)
def test_every_state_gradient_agrees_with_autograd(agree, cell_type, n, seed):
    case = Case.random(cell_type, n, "none", seed)
    d_states = bptt.state_gradients(case.cell, case.trajectory, case.d_hs, case.d_final)

    states, loss = [case.s], 0.0
    for t in range(case.T):
        states.append(case.step(t, states[-1]))
        loss = loss + (states[-1][0] * case.d[t]).sum()
    loss = loss + sum((f * torch.tensor(d)).sum() for f, d in zip(states[-1], case.d_final, strict=True))
    expected = autograd(loss, [x for state in states for x in state] + [*case.p.values(), case.x])
    actual = [
        *(x for d_state in d_states for x in d_state),
        *values(bptt.parameter_gradients(case.cell, case.trajectory, d_states)),
        bptt.input_gradients(case.cell, case.trajectory, d_states),
    ]
    agree(bptt.state_gradients, "torch.autograd", actual, expected)


@every_cell
def test_bptt_agrees_with_central_differences(agree, cell_type):
    case = Case.random(cell_type, {"T": 4, "B": 2, "I": 2, "H": 3}, "some", 0)
    gradients = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)

    def loss(cell, xs, initial):
        trajectory = unroll(cell, xs, initial, case.lengths)
        final = sum((f * d).sum() for f, d in zip(trajectory.final, case.d_final, strict=True))
        return (trajectory.hs * case.d_hs).sum() + final

    rng, step = np.random.default_rng(1), 1e-5
    for _ in range(3):
        v_cell = map_arrays(lambda a: rng.normal(size=a.shape), case.cell)
        v_xs, v_initial = rng.normal(size=case.xs.shape), random_state(case.cell, rng, 2)

        def moved(by, v_cell=v_cell, v_xs=v_xs, v_initial=v_initial):
            return loss(
                map_arrays(lambda a, v: a + by * v, case.cell, v_cell),
                case.xs + by * v_xs,
                tuple(s + by * v for s, v in zip(case.initial, v_initial, strict=True)),
            )

        slope = (moved(step) - moved(-step)) / (2 * step)
        direction = [*values(v_cell), v_xs, *v_initial]
        along = sum((g * v).sum() for g, v in zip(case.flat(gradients), direction, strict=True))
        agree(bptt.bptt, "central differences", np.array(along), np.array(slope), tolerance=1e-7)


@every_cell
def test_numpy_torch_and_autograd_of_the_torch_path_agree(agree, cell_type):
    case = Case.random(cell_type, {"T": 4, "B": 3, "I": 2, "H": 3}, "empty", 2)
    ours = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)
    cell = dataclasses.replace(torch_cell(case.cell), **case.p)
    trajectory = unroll(cell, case.x, case.s, case.lengths)
    d_final = tuple(map(torch.tensor, case.d_final))
    theirs = bptt.bptt(cell, trajectory, case.d, d_final)
    assert_same(case.flat(ours), case.flat(theirs))
    loss = (trajectory.hs * case.d).sum()
    loss = loss + sum((f * d).sum() for f, d in zip(trajectory.final, d_final, strict=True))
    agree(bptt.bptt, "torch.autograd", case.flat(ours), autograd(loss, [*case.p.values(), case.x, *case.s]))


def test_the_gradient_itself_can_be_differentiated(agree):
    case = Case.random(LSTMCell, {"T": 3, "B": 2, "I": 2, "H": 2}, "some", 3)
    cell = dataclasses.replace(torch_cell(case.cell), **case.p)
    gradients = bptt.bptt(cell, unroll(cell, case.x, case.s, case.lengths), case.d)
    ours = autograd((gradients.d_xs**2).sum(), list(case.p.values()))

    hs, _ = reference_run(LSTMCell, case.p, case.x, case.s, case.lengths)
    (d_xs,) = torch.autograd.grad((hs * case.d).sum(), case.x, create_graph=True)
    agree(bptt.bptt, "torch.autograd", ours, autograd((d_xs**2).sum(), list(case.p.values())))


@every_cell
@given(any_sizes, seeds)
@settings(max_examples=4)
def test_padding_changes_no_gradient(cell_type, n, seed):
    case = Case.random(cell_type, n, "empty", seed)
    expected = case.flat(bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final))
    behind = (np.arange(n["T"])[:, None] >= np.array(case.lengths))[:, :, None]
    rng = np.random.default_rng(seed)
    for garbage in (1e300 * rng.normal(), np.inf):
        trajectory = unroll(case.cell, np.where(behind, garbage, case.xs), case.initial, case.lengths)
        actual = bptt.bptt(case.cell, trajectory, np.where(behind, -garbage, case.d_hs), case.d_final)
        for a, e in zip(case.flat(actual), expected, strict=True):
            np.testing.assert_array_equal(a, e)
        assert not actual.d_xs[behind[:, :, 0]].any()
    empty = case.lengths.index(0)
    gradients = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)
    for d_initial, d_final in zip(gradients.d_initial, case.d_final, strict=True):
        np.testing.assert_array_equal(d_initial[empty], d_final[empty])


# --- the double sum -----------------------------------------------------------------------------


@pytest.mark.equation("eq-bptt-vector-jacobian")
@every_cell
@given(sizes("T", "B", "I", "H", low=2), seeds)
@settings(max_examples=6)
def test_vector_jacobian_products_agree_with_autograd(agree, cell_type, n, seed):
    case = Case.random(cell_type, n, "none", seed)
    states = [case.s]
    for t in range(case.T):
        states.append(case.step(t, states[-1]))
    rng = np.random.default_rng(seed)
    k, t = sorted(int(i) for i in rng.integers(0, case.T + 1, size=2))
    carried = bptt.vector_jacobian_product(case.cell, case.trajectory, case.d_final, t, k)
    product = sum((s * torch.tensor(d)).sum() for s, d in zip(states[t], case.d_final, strict=True))
    agree(bptt.vector_jacobian_product, "torch.autograd", carried, autograd(product, list(states[k])))


@pytest.mark.equation("eq-bptt-immediate", "eq-bptt-total", "eq-bptt-double-sum")
@every_cell
@given(small, seeds)
@settings(max_examples=6)
def test_immediate_and_total_derivatives_agree_with_autograd(agree, cell_type, n, seed):
    case = Case.random(cell_type, n, "none", seed)
    parameters = list(case.p.values())
    state, immediate, total = case.s, [], []
    for t in range(case.T):
        cut = tuple(s.detach() for s in state)  # the state held fixed
        immediate += autograd((case.step(t, cut)[0] * case.d[t]).sum(), parameters)
        state = case.step(t, state)
        total += list(
            torch.autograd.grad(
                (state[0] * case.d[t]).sum(),
                parameters,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    trajectory = case.trajectory
    ours = [a for g in bptt.immediate_gradients(case.cell, trajectory, case.d_hs) for a in values(g)]
    agree(bptt.immediate_gradients, "torch.autograd with detach", ours, immediate)
    ours = [a for g in bptt.total_gradients(case.cell, trajectory, case.d_hs) for a in values(g)]
    agree(bptt.total_gradients, "torch.autograd", ours, total)
    whole = autograd((reference_run(cell_type, case.p, case.x, case.s)[0] * case.d).sum(), parameters)
    agree(bptt.double_sum, "torch.autograd", values(bptt.double_sum(case.cell, trajectory, case.d_hs)), whole)


@pytest.mark.equation("eq-bptt-double-sum")
@every_cell
def test_the_double_sum_is_the_recursion_with_lengths_too(agree, cell_type):
    case = Case.random(cell_type, {"T": 5, "B": 3, "I": 2, "H": 3}, "empty", 5)
    agree(
        bptt.double_sum,
        "torch.autograd",
        values(bptt.double_sum(case.cell, case.trajectory, case.d_hs)),
        case.expected(with_final=False)[: len(case.p)],
    )


def test_immediate_and_total_differ_only_after_the_first_step():
    case = Case.random(LSTMCell, {"T": 3, "B": 2, "I": 2, "H": 2}, "none", 6)
    immediate = bptt.immediate_gradients(case.cell, case.trajectory, case.d_hs)
    total = bptt.total_gradients(case.cell, case.trajectory, case.d_hs)
    for a, b in zip(values(immediate[0]), values(total[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for t in (1, 2):
        assert all(
            np.abs(a - b).max() > 1e-3 for a, b in zip(values(immediate[t]), values(total[t]), strict=True)
        )


@pytest.mark.equation("eq-bptt-double-sum")
@pytest.mark.parametrize("T", [1, 2, 5, 20])
def test_the_recursion_takes_T_steps_back_and_the_double_sum_a_triangle(T):
    case = Case.random(GRUCell, {"T": T, "B": 1, "I": 2, "H": 2}, "none", 7)

    def steps_back(algorithm, *arguments):
        meter = Meter()
        cell = meter.watch(case.cell)
        algorithm(cell, unroll(cell, case.xs, case.initial), *arguments)
        assert meter.steps == T
        return meter.steps_back

    assert steps_back(bptt.bptt, case.d_hs) == T
    assert steps_back(bptt.state_gradients, case.d_hs) == T
    assert steps_back(bptt.immediate_gradients, case.d_hs) == T
    assert steps_back(bptt.double_sum, case.d_hs) == T * (T + 1) // 2
    assert steps_back(bptt.vector_jacobian_product, case.d_final, T, 0) == T
    assert steps_back(bptt.truncated_bptt, case.d_hs, 1, T) == T * (T + 1) // 2
    assert steps_back(bptt.truncated_bptt, case.d_hs, T, T) == T


# --- truncated ----------------------------------------------------------------------------------


def truncated_reference(case, k1, k2):
    """Truncated backpropagation in torch: the state in front of every window is detached."""
    parameters = list(case.p.values())
    states = [case.s]
    for t in range(case.T):
        states.append(case.step(t, states[-1]))
    total = [torch.zeros_like(x) for x in [*parameters, case.x, *case.s]]
    for begin in range(0, case.T, k1):
        stop = min(begin + k1, case.T)
        start = max(stop - k2, 0)
        state, loss = tuple(s if start == 0 else s.detach() for s in states[start]), 0.0
        for t in range(start, stop):
            state = case.step(t, state)
            if t >= begin:
                loss = loss + (state[0] * case.d[t]).sum()
        if stop == case.T:
            loss = loss + sum((f * torch.tensor(d)).sum() for f, d in zip(state, case.d_final, strict=True))
        total = [a + g for a, g in zip(total, autograd(loss, [*parameters, case.x, *case.s]), strict=True)]
    return total


@pytest.mark.equation("eq-bptt-truncated")
@every_cell
@given(sizes("B", "I", "H", high=3), st.integers(1, 7), st.integers(1, 4), st.integers(0, 4), seeds)
@settings(max_examples=8)
def test_truncated_bptt_agrees_with_detach_in_torch(agree, cell_type, n, T, k1, more, seed):
    case = Case.random(cell_type, n | {"T": T}, "none", seed)
    gradients = bptt.truncated_bptt(case.cell, case.trajectory, case.d_hs, k1, k1 + more, case.d_final)
    agree(
        bptt.truncated_bptt,
        "torch.autograd with detach",
        case.flat(gradients),
        truncated_reference(case, k1, k1 + more),
    )


@pytest.mark.equation("eq-bptt-truncated")
@every_cell
@given(any_sizes, length_kinds, st.integers(1, 8), st.integers(0, 3), seeds)
@settings(max_examples=5)
def test_truncated_bptt_with_long_windows_is_full(agree, cell_type, n, kind, k1, more, seed):
    case = Case.random(cell_type, n, kind, seed)
    k2 = max(k1, n["T"]) + more
    gradients = bptt.truncated_bptt(case.cell, case.trajectory, case.d_hs, k1, k2, case.d_final)
    agree(bptt.truncated_bptt, "torch.autograd", case.flat(gradients), case.expected())


def test_truncation_drops_what_lies_further_back():
    case = Case.random(VanillaCell, {"T": 6, "B": 1, "I": 2, "H": 2}, "none", 8)
    only_last = np.where(np.arange(6)[:, None, None] == 5, case.d_hs, 0.0)
    gradients = bptt.truncated_bptt(case.cell, case.trajectory, only_last, 1, 2)
    assert not gradients.d_xs[:4].any()
    assert gradients.d_xs[4:].all()
    assert not gradients.d_initial[0].any()


def test_truncated_bptt_refuses_windows_that_miss_losses():
    case = Case.random(VanillaCell, {"T": 4, "B": 1, "I": 2, "H": 2}, "none", 9)
    for k1, k2, message in (
        (0, 2, "k1 is 0, expected a whole number of at least 1"),
        (3, 2, "k2 is 2, expected a whole number of at least 3"),
        (1.0, 2, "k1 is a float, expected a whole number of at least 1"),
        (True, 2, "k1 is a bool, expected a whole number of at least 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            bptt.truncated_bptt(case.cell, case.trajectory, case.d_hs, k1, k2)
    with pytest.raises(ValueError, match=r"d_hs has shape \(3, 1, 2\), expected \(T, B, H\) = \(4, 1, 2\)"):
        bptt.truncated_bptt(case.cell, case.trajectory, case.d_hs[1:], 1, 2)


# --- checkpointed -------------------------------------------------------------------------------


@pytest.mark.equation("eq-bptt-checkpoint")
@every_cell
@given(
    sizes("B", "I", "H", high=4), st.integers(1, 9), st.sampled_from([None, 1, 2, 3, 20]), length_kinds, seeds
)
@settings(max_examples=8)
def test_checkpointed_bptt_agrees_with_autograd(agree, cell_type, n, T, segment, kind, seed):
    case = Case.random(cell_type, n | {"T": T}, kind, seed)
    gradients = bptt.checkpointed_bptt(
        case.cell, case.xs, case.d_hs, case.initial, case.lengths, segment=segment, d_final=case.d_final
    )
    assert isinstance(gradients, Gradients)
    agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(gradients), case.expected())


@pytest.mark.equation("eq-bptt-checkpoint")
def test_a_loss_that_sees_the_states_piece_by_piece(agree):
    case = Case.random(LSTMCell, {"T": 7, "B": 3, "I": 2, "H": 3}, "some", 10)
    calls = []

    def loss_gradient(steps, hs):  # of Σ (h_t - d_t)² / 2
        calls.append((steps.start, steps.stop))
        return hs - case.d_hs[steps]

    gradients = bptt.checkpointed_bptt(
        case.cell, case.xs, loss_gradient, case.initial, case.lengths, segment=3
    )
    assert calls == [(6, 7), (3, 6), (0, 3)]
    hs, _ = reference_run(LSTMCell, case.p, case.x, case.s, case.lengths)
    expected = autograd(((hs - case.d) ** 2).sum() / 2, [*case.p.values(), case.x, *case.s])
    agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(gradients), expected)

    calls.clear()
    d_cell, d_initial = bptt.rtrl(case.cell, case.xs, loss_gradient, case.initial, case.lengths)
    assert calls == [(t, t + 1) for t in range(7)]
    agree(bptt.rtrl, "torch.autograd", [*values(d_cell), *d_initial], expected[: len(case.p)] + expected[-2:])


@pytest.mark.equation("eq-bptt-checkpoint", "eq-bptt-checkpoint-memory")
@pytest.mark.parametrize("T", [1, 2, 3, 4, 9, 10, 16, 25, 50])
def test_checkpointing_holds_a_root_of_T_caches(T):
    case = Case.random(LSTMCell, {"T": T, "B": 1, "I": 2, "H": 2}, "none", 11)

    def run(segment):
        meter = Meter()
        alive = []  # the states in front of the segments, seen as the arguments of the first steps

        def loss_gradient(steps, hs):
            alive.append(meter.caches)
            return case.d_hs[steps]

        bptt.checkpointed_bptt(meter.watch(case.cell), case.xs, loss_gradient, segment=segment)
        assert meter.caches == 0  # nothing is left behind
        return meter, alive

    root = math.isqrt(T - 1) + 1
    meter, alive = run(None)
    assert meter.peak_caches == root
    assert max(alive) == root
    assert meter.steps_back == T
    for segment in (1, 2, root, T, T + 3):
        meter, alive = run(segment)
        k = min(segment, T)
        segments = math.ceil(T / segment)
        assert len(alive) == segments
        assert meter.peak_caches == k
        assert segments + meter.peak_caches == bptt.checkpoint_memory(T, segment)
        assert meter.steps == T + (segments - 1) * segment  # less than one pass more
        assert meter.steps_back == T

    whole = Meter()
    cell = whole.watch(case.cell)
    trajectory = unroll(cell, case.xs)
    bptt.bptt(cell, trajectory, case.d_hs)
    assert whole.peak_caches == whole.caches == T
    del trajectory
    assert whole.caches == 0


@pytest.mark.equation("eq-bptt-checkpoint-memory")
@given(st.integers(1, 400))
def test_no_segment_needs_less_memory_than_the_root(T):
    def brute(k):  # one state for each segment, as many caches as its longest
        starts = list(range(0, T, k))
        return len(starts) + max(min(s + k, T) - s for s in starts)

    assert [bptt.checkpoint_memory(T, k) for k in range(1, T + 2)] == [brute(k) for k in range(1, T + 2)]
    root = math.isqrt(T - 1) + 1
    assert bptt.checkpoint_memory(T, root) == min(brute(k) for k in range(1, T + 1))


def test_checkpointing_refuses_what_does_not_fit():
    case = Case.random(VanillaCell, {"T": 4, "B": 2, "I": 2, "H": 3}, "none", 12)
    for segment, came in ((0, "0"), (-1, "-1"), (1.5, "a float"), (True, "a bool")):
        with pytest.raises(
            (TypeError, ValueError), match=f"segment is {came}, expected a whole number of at least 1"
        ):
            bptt.checkpointed_bptt(case.cell, case.xs, case.d_hs, segment=segment)
    for algorithm in (bptt.checkpointed_bptt, bptt.rtrl):
        name = algorithm.__name__
        with pytest.raises(ValueError, match=rf"{name}: loss_gradient has shape \(3, 2, 3\), expected"):
            algorithm(case.cell, case.xs, case.d_hs[1:])
        with pytest.raises(ValueError, match=rf"{name}: loss_gradient has shape \(5, 2, 3\), expected"):
            algorithm(case.cell, case.xs, np.ones((5, 2, 3)))
        with pytest.raises(
            TypeError, match=f"{name}: loss_gradient is a list, expected an array or a function"
        ):
            algorithm(case.cell, case.xs, [case.d_hs])
        with pytest.raises(TypeError, match=f"{name}: xs has dtype float64 but loss_gradient has float32"):
            algorithm(case.cell, case.xs, case.d_hs.astype(np.float32))
        with pytest.raises(ValueError, match=f"{name}: the result of loss_gradient has shape"):
            algorithm(case.cell, case.xs, lambda steps, hs: hs[:, :, :1])
        with pytest.raises(ValueError, match="VanillaCell: dropout_masks is given, expected None"):
            algorithm(case.cell, case.xs, case.d_hs, dropout_masks=())
        with pytest.raises(ValueError, match="lengths has 1 entries, expected B = 2"):
            algorithm(case.cell, case.xs, case.d_hs, lengths=[1])
        with pytest.raises(ValueError, match="initial"):
            algorithm(case.cell, case.xs, case.d_hs, np.ones((3, 3)))
        with pytest.raises(ValueError, match="d_final"):
            algorithm(case.cell, case.xs, case.d_hs, d_final=np.ones((3, 3)))


@every_cell
def test_outputs_are_those_of_a_whole_run_with_one_cache_at_a_time(cell_type):
    case = Case.random(cell_type, {"T": 5, "B": 2, "I": 2, "H": 3}, "some", 13)
    for segment in (1, 2, 5, 9):
        meter = Meter()
        hs, final = bptt.outputs(meter.watch(case.cell), case.xs, case.initial, case.lengths, segment=segment)
        np.testing.assert_array_equal(hs, case.trajectory.hs)
        for a, b in zip(final, case.trajectory.final, strict=True):
            np.testing.assert_array_equal(a, b)
        assert meter.peak_caches == min(segment, 5)
    with pytest.raises(ValueError, match="segment is 0, expected a whole number of at least 1"):
        bptt.outputs(case.cell, case.xs, segment=0)


# --- real-time recurrent learning ---------------------------------------------------------------


@every_cell
@given(small, length_kinds, seeds)
@settings(max_examples=5)
def test_real_time_recurrent_learning_agrees_with_autograd(agree, cell_type, n, kind, seed):
    case = Case.random(cell_type, n, kind, seed)
    d_cell, d_initial = bptt.rtrl(
        case.cell, case.xs, case.d_hs, case.initial, case.lengths, d_final=case.d_final
    )
    expected = case.expected()
    P = len(case.p)
    assert isinstance(d_cell, cell_type)
    agree(bptt.rtrl, "torch.autograd", [*values(d_cell), *d_initial], expected[:P] + expected[P + 1 :])
    from_zero = bptt.rtrl(case.cell, case.xs, case.d_hs)[0]
    trajectory = unroll(case.cell, case.xs)
    assert_same(values(from_zero), values(bptt.bptt(case.cell, trajectory, case.d_hs).d_cell))


@pytest.mark.equation("eq-bptt-sensitivity", "eq-bptt-sensitivity-gradient")
@every_cell
@given(sizes("T", "I", "H", low=2, high=3), seeds)
@settings(max_examples=3)
def test_sensitivities_agree_with_torch_jacobians(agree, cell_type, n, seed):
    case = Case.random(cell_type, n | {"B": 1}, "none", seed)
    shapes = {k: v.shape for k, v in case.p.items()}
    theta = torch.cat([v.detach().flatten() for v in case.p.values()])
    start = torch.cat(case.s, dim=1)[0].detach()

    def step(theta, state, t):  # (P,), (S,) -> (S,)
        parts = theta.split([math.prod(s) for s in shapes.values()])
        p = {k: part.reshape(s) for (k, s), part in zip(shapes.items(), parts, strict=True)}
        arrays = tuple(part[None] for part in state.split(n["H"]))
        return torch.cat(reference_step(cell_type, p, case.x[t].detach(), arrays), dim=1)[0]

    def state_after(theta, steps):
        state = start
        for t in range(steps):
            state = step(theta, state, t)
        return state

    jacobian = torch.autograd.functional.jacobian
    t = n["T"] - 1
    before = state_after(theta, t)
    S_prev = jacobian(lambda theta: state_after(theta, t), theta)
    immediate = jacobian(lambda theta: step(theta, before, t), theta)
    J_t = jacobian(lambda state: step(theta, state, t), before)
    S_t = jacobian(lambda theta: state_after(theta, t + 1), theta)
    agree(
        bptt.sensitivity,
        "torch.autograd.functional.jacobian",
        bptt.sensitivity(J_t.numpy(), S_prev.numpy(), immediate.numpy()),
        S_t,
    )

    d_h = case.d[t, 0]
    agree(
        bptt.sensitivity_gradient,
        "torch.autograd.functional.jacobian",
        bptt.sensitivity_gradient(
            (d_h @ J_t[: n["H"]]).numpy(), S_prev.numpy(), (d_h @ immediate[: n["H"]]).numpy()
        ),
        jacobian(lambda theta: state_after(theta, t + 1)[: n["H"]] @ d_h, theta),
    )


def test_real_time_recurrent_learning_keeps_nothing_of_the_past():
    case = Case.random(GRUCell, {"T": 9, "B": 2, "I": 2, "H": 3}, "none", 14)
    meter = Meter()
    bptt.rtrl(meter.watch(case.cell), case.xs, case.d_hs)
    assert meter.steps == 9 * 2
    assert meter.steps_back == 9 * 2 * (3 + 1)  # one for each unit, one for the loss
    assert meter.peak_caches <= 2 * 2  # this step and the one before, of both sequences
    assert meter.caches == 0


# --- a network that needs the future ------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_what_needs_the_future_is_refused_where_there_is_none(deep):
    rng = np.random.default_rng(15)
    network = Bidirectional((random_cell(VanillaCell, rng, 2, 2), random_cell(GRUCell, rng, 2, 2)))
    network = Stack((random_cell(LSTMCell, rng, 2, 2), network)) if deep else network
    xs, d_hs = rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2, 4))
    name = type(network).__name__
    message = (
        f"the {name} reads the sequence backwards too, expected a network whose step t needs no later input"
    )
    with pytest.raises(ValueError, match=f"rtrl: {message}"):
        bptt.rtrl(network, xs, d_hs)
    with pytest.raises(ValueError, match=f"truncated_bptt: {message}"):
        bptt.truncated_bptt(network, bptt.forward(network, xs), d_hs, 1, 2)
    assert not bptt.is_causal(network)
    assert bptt.is_causal(random_cell(LSTMCell, rng, 2, 2))


# --- the initial state, learned -----------------------------------------------------------------


@pytest.mark.equation("eq-bptt-initial", "eq-bptt-initial-backward")
@given(sizes("B", "H"), seeds)
def test_a_learned_initial_state_agrees_with_autograd(agree, n, seed):
    arguments = example("eq-bptt-initial", seed, n)
    t = as_torch(arguments, requires_grad=True)["h_0"]
    spread = t.expand(n["B"], n["H"])
    agree(
        bptt.initial_from_parameter,
        "torch.expand",
        bptt.initial_from_parameter(**arguments, batch_size=n["B"]),
        spread,
    )
    d_initial = np.random.default_rng(seed).normal(size=(n["B"], n["H"]))
    agree(
        bptt.initial_from_parameter_backward,
        "torch.autograd",
        bptt.initial_from_parameter_backward(d_initial),
        autograd((spread * torch.tensor(d_initial)).sum(), [t])[0],
    )


@every_cell
def test_a_learned_initial_state_through_a_network(agree, cell_type):
    case = Case.random(cell_type, {"T": 3, "B": 4, "I": 2, "H": 3}, "empty", 16)
    learned = tuple(s[0] for s in case.initial)
    start = tuple(bptt.initial_from_parameter(h, 4) for h in learned)
    gradients = bptt.bptt(case.cell, unroll(case.cell, case.xs, start, case.lengths), case.d_hs, case.d_final)
    leaves = [torch.tensor(h, requires_grad=True) for h in learned]
    case.s = tuple(h.expand(4, 3) for h in leaves)
    hs, final = reference_run(cell_type, case.p, case.x, case.s, case.lengths)
    loss = (hs * case.d).sum()
    loss = loss + sum((f * torch.tensor(d)).sum() for f, d in zip(final, case.d_final, strict=True))
    agree(
        bptt.initial_from_parameter_backward,
        "torch.autograd",
        [bptt.initial_from_parameter_backward(d) for d in gradients.d_initial],
        autograd(loss, leaves),
    )


def test_a_learned_initial_state_needs_a_batch():
    with pytest.raises(ValueError, match="batch_size is 0, expected a whole number of at least 1"):
        bptt.initial_from_parameter(np.ones(3), 0)
    with pytest.raises(ValueError, match=r"h_0 has shape \(1, 3\), expected 1 dimensions"):
        bptt.initial_from_parameter(np.ones((1, 3)), 2)


# --- dtype, device, numbers at their limits -----------------------------------------------------


def every_algorithm(cell, xs, d_hs, lengths):
    """All arrays that the algorithms return, by name."""
    trajectory = unroll(cell, xs, lengths=lengths)
    d_states = bptt.state_gradients(cell, trajectory, d_hs)
    results = {
        "bptt": bptt.bptt(cell, trajectory, d_hs),
        "parameters": bptt.parameter_gradients(cell, trajectory, d_states),
        "double": bptt.double_sum(cell, trajectory, d_hs),
        "truncated": bptt.truncated_bptt(cell, trajectory, d_hs, 2, 3),
        "checkpointed": bptt.checkpointed_bptt(cell, xs, d_hs, lengths=lengths),
        "rtrl": bptt.rtrl(cell, xs, d_hs, lengths=lengths),
        "carried": bptt.vector_jacobian_product(cell, trajectory, d_states[3], 3, 1),
        "initial": bptt.initial_from_parameter(d_hs[0, 0], 2),
    }
    arrays = {}

    def collect(name, value):
        if is_array(value):
            arrays[name] = value
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                collect(f"{name}.{i}", part)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                collect(f"{name}.{field.name}", getattr(value, field.name))

    for name, value in results.items():
        collect(name, value)
    return arrays


DTYPES = {  # and how far two ways to the gradients of four steps may be apart
    np.float16: 5e-2,
    np.float32: 1e-5,
    torch.bfloat16: 1.5e-1,
    torch.float32: 1e-5,
}


@every_cell
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dtype_is_kept(agree, cell_type, dtype):
    on_torch = isinstance(dtype, torch.dtype)

    def narrow(a):
        return torch.tensor(a, dtype=dtype) if on_torch else a.astype(dtype)

    def rounded(a):  # exactly what the narrow computation starts from
        return to_numpy(narrow(a)).astype(np.float64)

    rng = np.random.default_rng(17)
    cell = map_arrays(lambda a: rounded(a / 2), random_cell(cell_type, rng, 2, 3))
    xs, d_hs = rounded(rng.normal(size=(4, 2, 2))), rounded(rng.normal(size=(4, 2, 3)))
    zeros = tuple(np.zeros((2, 3)) for _ in cell.state_names)
    case = Case(cell, xs, zeros, [4, 2], d_hs, zeros)

    arrays = every_algorithm(map_arrays(narrow, cell), narrow(xs), narrow(d_hs), [4, 2])
    assert {a.dtype for a in arrays.values()} == {dtype if on_torch else np.dtype(dtype)}
    gradients = [a for name, a in arrays.items() if name.startswith("bptt.")]
    name = str(dtype).removeprefix("torch.") if on_torch else np.dtype(dtype).name
    agree(bptt.bptt, "torch.autograd", gradients, case.expected(), dtype=name)
    exact = every_algorithm(cell, xs, d_hs, [4, 2])
    assert_same(arrays.values(), exact.values(), DTYPES[dtype])


@every_cell
def test_the_device_is_kept(cell_type):
    cell = random_cell(cell_type, np.random.default_rng(18), 2, 3)
    on_meta = map_arrays(lambda a: torch.tensor(a, device="meta"), cell)
    xs, d_hs = (torch.zeros(4, 2, k, device="meta", dtype=torch.float64) for k in (2, 3))
    arrays = every_algorithm(on_meta, xs, d_hs, [4, 2])
    assert {a.device.type for a in arrays.values()} == {"meta"}


@every_cell
def test_saturated_gates_have_finite_gradients_without_a_warning(cell_type):
    rng = np.random.default_rng(19)
    cell = map_arrays(lambda a: np.sign(a) * 1e4, random_cell(cell_type, rng, 2, 3))
    xs, d_hs = rng.choice([-1.0, 1.0], size=(4, 2, 2)), rng.normal(size=(4, 2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = every_algorithm(cell, xs, d_hs, [4, 2])
    assert all(np.isfinite(a).all() for a in arrays.values())


@every_cell
def test_strided_arrays_are_read_right(cell_type):
    rng = np.random.default_rng(20)
    cell = random_cell(cell_type, rng, 2, 3)
    xs, d_hs = rng.normal(size=(2, 4, 4)), rng.normal(size=(2, 4, 6))
    strided = [a.transpose(1, 0, 2)[::-1, :, ::2] for a in (xs, d_hs)]
    expected = every_algorithm(cell, *(a.copy() for a in strided), [4, 2])
    assert_same(every_algorithm(cell, *strided, [4, 2]).values(), expected.values())


def test_a_long_sequence_stays_with_torch(agree):
    case = Case.random(LSTMCell, {"T": 300, "B": 1, "I": 2, "H": 3}, "none", 21)
    gradients = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)
    agree(bptt.bptt, "torch.autograd", case.flat(gradients), case.expected())


# --- refusals and small parts -------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    case = Case.random(LSTMCell, {"T": 4, "B": 2, "I": 2, "H": 3}, "none", 22)
    cell, trajectory, d_hs = case.cell, case.trajectory, case.d_hs
    for algorithm in (
        bptt.bptt,
        bptt.state_gradients,
        bptt.immediate_gradients,
        bptt.total_gradients,
        bptt.double_sum,
    ):
        with pytest.raises(ValueError, match=rf"{algorithm.__name__}: d_hs has shape \(3, 2, 3\), expected"):
            algorithm(cell, trajectory, d_hs[1:])
        with pytest.raises(TypeError, match="has dtype float64 but d_hs has float32"):
            algorithm(cell, trajectory, d_hs.astype(np.float32))
        with pytest.raises(ValueError, match="d_hs holds NaN, first at index"):
            algorithm(cell, trajectory, d_hs * np.nan)
        with pytest.raises(
            TypeError, match="d_hs has dtype complex128, expected a real floating-point dtype"
        ):
            algorithm(cell, trajectory, d_hs.astype(complex))
        with pytest.raises(TypeError, match="d_hs has dtype int64, expected a real floating-point dtype"):
            algorithm(cell, trajectory, d_hs.astype(int))
    with pytest.raises(ValueError, match=r"d_final has 1 arrays, expected 2: \(d_final.h, d_final.C\)"):
        bptt.bptt(cell, trajectory, d_hs, d_hs[0])
    with pytest.raises(
        ValueError, match=r"d_final: d_final.C has shape \(1, 3\), expected \(B, H\) = \(2, 3\)"
    ):
        bptt.bptt(cell, trajectory, d_hs, (d_hs[0], d_hs[0, :1]))
    d_states = bptt.state_gradients(cell, trajectory, d_hs)
    for part in (bptt.parameter_gradients, bptt.input_gradients):
        with pytest.raises(ValueError, match=f"{part.__name__}: d_states has 4 states, expected T \\+ 1 = 5"):
            part(cell, trajectory, d_states[1:])
        with pytest.raises(
            ValueError, match=r"d_states\[1\] has shape \(1, 3\), expected \(B, H\) = \(2, 3\)"
        ):
            part(cell, trajectory, (d_states[0], tuple(d[:1] for d in d_states[1]), *d_states[2:]))
    for t, k, message in (
        (5, 0, "t is 5, expected a whole number from 0 to 4"),
        (1, 2, "k is 2, expected a whole number from 0 to 1"),
        (2, -1, "k is -1, expected a whole number from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=f"vector_jacobian_product: {message}$"):
            bptt.vector_jacobian_product(cell, trajectory, d_states[0], t, k)
    for wrong, came in ((0, "0"), (1.0, "a float")):
        with pytest.raises(
            (TypeError, ValueError), match=f"steps is {came}, expected a whole number of at least 1"
        ):
            bptt.checkpoint_memory(wrong, 1)
        with pytest.raises(
            (TypeError, ValueError), match=f"segment is {came}, expected a whole number of at least 1"
        ):
            bptt.checkpoint_memory(1, wrong)


def test_a_state_of_one_array_may_come_bare():
    case = Case.random(VanillaCell, {"T": 3, "B": 2, "I": 2, "H": 3}, "none", 23)
    bare = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final[0])
    expected = bptt.bptt(case.cell, case.trajectory, case.d_hs, case.d_final)
    for a, b in zip(case.flat(bare), case.flat(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        bptt.vector_jacobian_product(case.cell, case.trajectory, case.d_final[0], 3, 1),
        bptt.vector_jacobian_product(case.cell, case.trajectory, case.d_final, 3, 1),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    _, (d_initial,) = bptt.rtrl(case.cell, case.xs, case.d_hs, case.initial[0], d_final=case.d_final[0][:, :])
    np.testing.assert_allclose(d_initial, expected.d_initial[0], rtol=1e-10)


def test_parameters_go_out_by_name_and_come_back():
    rng = np.random.default_rng(24)
    lstm, gru = random_cell(LSTMCell, rng, 2, 3), random_cell(GRUCell, rng, 6, 4)
    stack = Stack((Bidirectional((lstm, lstm)), gru))
    parameters = bptt.parameters_of(stack)
    assert list(parameters)[:2] == ["layers.0.directions.0.W_f", "layers.0.directions.0.W_i"]
    assert len(parameters) == 8 + 8 + 6
    assert parameters["layers.1.W_z"] is gru.W_z
    assert bptt.parameters_of(gru) == arrays_of(gru)
    doubled = bptt.with_parameters(stack, {name: 2 * a for name, a in parameters.items()})
    assert isinstance(doubled, Stack)
    np.testing.assert_array_equal(doubled.layers[0].directions[1].b_o, 2 * lstm.b_o)
    np.testing.assert_array_equal(doubled.layers[1].W, 2 * gru.W)
    with pytest.raises(ValueError, match="parameters has the names W_z, expected W_z, b_z, W_r, b_r, W, b"):
        bptt.with_parameters(gru, {"W_z": gru.W_z})


def test_cells_share_a_meter_and_stay_what_they_are():
    rng = np.random.default_rng(25)
    meter, cell = Meter(), random_cell(LSTMCell, rng, 2, 2)
    watched = meter.watch(cell)
    assert (watched.input_size, watched.hidden_size, watched.state_names) == (2, 2, ("h", "C"))
    xs = rng.normal(size=(3, 1, 2))
    trajectory = unroll(watched, xs)
    unroll(meter.watch(cell), xs)
    assert (meter.steps, meter.caches, meter.peak_caches) == (6, 3, 6)
    np.testing.assert_array_equal(trajectory.along_time("C_t"), unroll(cell, xs).along_time("C_t"))
    assert isinstance(bptt.bptt(watched, trajectory, trajectory.hs).d_cell, LSTMCell)
    assert meter.steps_back == 3


def test_every_cell_is_here():
    assert len(CELLS) == len({c.__name__ for c in CELLS}) == 8


@pytest.mark.parametrize("cell_type", CELLS)
def test_an_exploded_gradient_is_handed_on_as_it_is(cell_type):
    rng = np.random.default_rng(0)
    cell, xs = random_cell(cell_type, rng, 3, 4), rng.normal(size=(5, 2, 3))
    d_hs = np.full((5, 2, 4), 1e300)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(3):  # each run multiplies by what is large already
            gradients = bptt.bptt(cell, unroll(cell, xs), d_hs)
            d_hs = d_hs * 1e200  # inf
            assert type(gradients.d_cell) is cell_type
        assert not all(np.isfinite(a).all() for a in arrays_of(gradients.d_cell).values())
