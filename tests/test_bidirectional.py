"""The bidirectional network, held to torch.nn and to a direction that is flipped in torch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlib import bidirectional, bptt
from rnnlib.bidirectional import Bidirectional
from rnnlib.bptt import Meter, map_state
from rnnlib.cell import map_arrays
from rnnlib.deep import Stack
from rnnlib.gru import GRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.vanilla import VanillaCell
from tests.support import as_torch, example, seeds, sizes
from tests.test_unroll import (
    CELLS,
    TORCH_MODULES,
    NetworkCase,
    assert_same,
    autograd,
    every_cell,
    flipped,
    gradients_from_torch,
    leaves,
    length_kinds,
    lengths_for,
    random_cell,
    random_state,
    run_torch,
    to_torch_module,
    torch_cells,
)

any_sizes = sizes("T", "B", "I", "H")
merges = st.sampled_from(bidirectional.MERGES)


def random_pair(rng, I, H, types=(VanillaCell, VanillaCell), merge="concat"):
    return Bidirectional(tuple(random_cell(cell_type, rng, I, H) for cell_type in types), merge)


# --- the order of time --------------------------------------------------------------------------


@pytest.mark.equation("eq-bidirectional-reverse", "eq-bidirectional-reverse-backward")
@given(sizes("T", "B", "F"), length_kinds, seeds)
def test_reversing_agrees_with_torch_flip(agree, n, kind, seed):
    arguments = example("eq-bidirectional-reverse", seed, n)
    rng = np.random.default_rng(seed)
    lengths = lengths_for(kind, rng, n["T"], n["B"])
    xs = as_torch(arguments, requires_grad=True)["xs"]
    there = bidirectional.reverse(**arguments, lengths=lengths)
    agree(bidirectional.reverse, "torch.flip", there, flipped(xs, lengths))
    np.testing.assert_array_equal(bidirectional.reverse(there, lengths), arguments["xs"])
    d_ys = rng.normal(size=there.shape)
    agree(
        bidirectional.reverse_backward,
        "torch.autograd",
        bidirectional.reverse_backward(d_ys, lengths),
        autograd((flipped(xs, lengths) * torch.tensor(d_ys)).sum(), [xs])[0],
    )
    on_torch = bidirectional.reverse(xs, lengths)
    assert torch.equal(on_torch, flipped(xs, lengths))


@pytest.mark.equation("eq-bidirectional-leftward", "eq-bidirectional-leftward-backward")
@torch_cells
@given(any_sizes, st.sampled_from(["none", "some"]), seeds)
@settings(max_examples=8)
def test_leftward_agrees_with_the_second_direction_of_torch_nn(agree, cell_type, n, kind, seed):
    rng = np.random.default_rng(seed)
    cells = tuple(random_cell(cell_type, rng, n["I"], n["H"]) for _ in range(2))
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    lengths, initial = lengths_for(kind, rng, n["T"], n["B"]), random_state(cells[1], rng, n["B"])
    d_hs, d_final = rng.normal(size=(n["T"], n["B"], n["H"])), random_state(cells[1], rng, n["B"])

    hs, trajectory = bidirectional.leftward(cells[1], xs, initial, lengths)
    gradients = bidirectional.leftward_backward(cells[1], trajectory, d_hs, d_final, lengths)

    module, x = to_torch_module([cells], bidirectional=True), torch.tensor(xs, requires_grad=True)
    s = tuple(torch.tensor(a, requires_grad=True) for a in initial)
    both, final = run_torch(module, x, tuple(torch.stack([torch.zeros_like(a), a]) for a in s), lengths)
    leftward = both[:, :, n["H"] :]
    loss = (leftward * torch.tensor(d_hs)).sum()
    (loss + sum((f[1] * torch.tensor(d)).sum() for f, d in zip(final, d_final, strict=True))).backward()

    reference = f"torch.nn.{TORCH_MODULES[cell_type].__name__}"
    agree(
        bidirectional.leftward,
        reference,
        [hs, *trajectory.final],
        [leftward, *(f[1] for f in final)],
    )
    expected = gradients_from_torch(module, cell_type, suffix="_reverse")
    names = bptt.parameters_of(gradients.d_cell)
    agree(
        bidirectional.leftward_backward,
        reference,
        [*names.values(), gradients.d_xs, *gradients.d_initial],
        [*(expected[name] for name in names), x.grad, *(a.grad for a in s)],
    )


# --- two hidden states become one ---------------------------------------------------------------


@pytest.mark.equation("eq-bidirectional-concat", "eq-bidirectional-concat-backward")
@given(sizes("T", "B", "H", "G"), seeds)
def test_concatenation_agrees_with_torch_cat(agree, n, seed):
    arguments = example("eq-bidirectional-concat", seed, n)
    t = as_torch(arguments, requires_grad=True)
    expected = torch.cat([t["h_rightward"], t["h_leftward"]], dim=-1)
    agree(bidirectional.concat, "torch.cat", bidirectional.concat(**arguments), expected)
    d_hs = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(
        bidirectional.concat_backward,
        "torch.autograd",
        bidirectional.concat_backward(d_hs, n["H"]),
        autograd((expected * torch.tensor(d_hs)).sum(), list(t.values())),
    )


@pytest.mark.equation(
    "eq-bidirectional-sum",
    "eq-bidirectional-sum-backward",
    "eq-bidirectional-mean",
    "eq-bidirectional-mean-backward",
)
@pytest.mark.parametrize(
    ("name", "function", "function_backward"),
    [
        ("sum", bidirectional.add, bidirectional.add_backward),
        ("mean", bidirectional.mean, bidirectional.mean_backward),
    ],
)
@given(sizes("T", "B", "H"), seeds)
def test_sum_and_mean_agree_with_torch(agree, name, function, function_backward, n, seed):
    arguments = example(f"eq-bidirectional-{name}", seed, n)
    t = as_torch(arguments, requires_grad=True)
    expected = getattr(torch.stack(list(t.values())), name)(0)
    agree(function, f"torch.{name}", function(**arguments), expected)
    d_hs = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(
        function_backward,
        "torch.autograd",
        function_backward(d_hs),
        autograd((expected * torch.tensor(d_hs)).sum(), list(t.values())),
    )


# --- the network --------------------------------------------------------------------------------


@pytest.mark.equation("eq-bidirectional-concat")
@torch_cells
@given(any_sizes, st.sampled_from(["none", "some"]), seeds)
@settings(max_examples=10)
def test_a_bidirectional_network_agrees_with_torch_nn(agree, cell_type, n, kind, seed):
    rng = np.random.default_rng(seed)
    network = random_pair(rng, n["I"], n["H"], (cell_type, cell_type))
    case = NetworkCase.random(network, n["T"], n["B"], kind, rng)
    trajectory = case.forward()
    gradients = network.backward(trajectory, case.d_hs, case.d_final)

    module = to_torch_module([network.directions], bidirectional=True)
    starts = tuple(torch.stack(pair) for pair in zip(*case.s, strict=True))  # (2, B, H) each
    hs, final = run_torch(module, case.x, starts, case.lengths)
    finals = tuple(tuple(part[i] for part in final) for i in range(2))
    case.loss(hs, finals).backward()

    reference = f"torch.nn.{TORCH_MODULES[cell_type].__name__}(bidirectional)"
    agree(
        Bidirectional.forward,
        reference,
        [trajectory.hs, *leaves(trajectory.final), *leaves(trajectory.initial)],
        [hs, *leaves(finals), *leaves(case.initial)],
    )
    expected = [
        gradients_from_torch(module, cell_type, suffix=suffix)[name]
        for suffix, direction in zip(("", "_reverse"), network.directions, strict=True)
        for name in bptt.parameters_of(direction)
    ]
    agree(
        Bidirectional.backward,
        reference,
        case.flat(gradients),
        [*expected, case.x.grad, *(s.grad for s in leaves(case.s))],
    )


@every_cell
@given(any_sizes, st.sampled_from(CELLS), st.integers(1, 4), merges, length_kinds, seeds)
@settings(max_examples=8)
def test_any_two_cells_agree_with_autograd(agree, cell_type, n, other, G, merge, kind, seed):
    rng = np.random.default_rng(seed)
    left = random_cell(other, rng, n["I"], G if merge == "concat" else n["H"])
    network = Bidirectional((random_cell(cell_type, rng, n["I"], n["H"]), left), merge)
    case = NetworkCase.random(network, n["T"], n["B"], kind, rng)
    trajectory = case.forward()
    hs, final = case.reference()
    assert network.hidden_size == hs.shape[2]
    agree(
        Bidirectional.forward,
        "the equations in torch",
        [trajectory.hs, *leaves(trajectory.final)],
        [hs, *leaves(final)],
    )
    gradients = bptt.backward(network, trajectory, case.d_hs, case.d_final)
    assert isinstance(gradients.d_cell, Bidirectional)
    agree(Bidirectional.backward, "torch.autograd", case.flat(gradients), case.expected())


@every_cell
@given(sizes("B", "I", "H", high=3), st.integers(1, 8), merges, length_kinds, st.integers(1, 4), seeds)
@settings(max_examples=5)
def test_each_direction_can_be_checkpointed(agree, cell_type, n, T, merge, kind, segment, seed):
    rng = np.random.default_rng(seed)
    network = random_pair(rng, n["I"], n["H"], (cell_type, GRUCell), merge)
    case = NetworkCase.random(network, T, n["B"], kind, rng)
    expected = case.expected()
    for loss_gradient in (case.d_hs, lambda steps, hs: case.d_hs[steps] + 0 * hs):
        gradients = bptt.checkpointed_bptt(
            network, case.xs, loss_gradient, case.initial, case.lengths, None, segment, case.d_final
        )
        agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(gradients), expected)
    hs, final = bptt.outputs(network, case.xs, case.initial, case.lengths, segment=segment)
    agree(bptt.outputs, "the equations in torch", [hs, *leaves(final)], _leaves_of(case.reference()))


def _leaves_of(run):
    hs, final = run
    return [hs, *leaves(final)]


def test_the_loss_of_a_checkpointed_network_sees_all_its_states(agree):
    rng = np.random.default_rng(0)
    case = NetworkCase.random(random_pair(rng, 2, 3, (LSTMCell, GRUCell)), 7, 2, "some", rng)
    calls = []

    def loss_gradient(steps, hs):  # of Σ (h_t - d_t)² / 2
        calls.append(steps)
        return hs - case.d_hs[steps]

    gradients = bptt.checkpointed_bptt(case.network, case.xs, loss_gradient, case.initial, case.lengths)
    assert calls == [slice(0, 7)]
    expected = autograd(((case.reference()[0] - case.d) ** 2).sum() / 2, case.inputs())
    agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(gradients), expected)


@pytest.mark.parametrize("T", [1, 7, 16, 30])
def test_a_checkpointed_direction_holds_a_root_of_T_caches(T):
    rng = np.random.default_rng(1)
    meter = Meter()
    cells = tuple(meter.watch(random_cell(LSTMCell, rng, 2, 2)) for _ in range(2))
    xs, d_hs = rng.normal(size=(T, 1, 2)), rng.normal(size=(T, 1, 4))
    bptt.checkpointed_bptt(Bidirectional(cells), xs, d_hs)
    assert meter.peak_caches == math.isqrt(T - 1) + 1
    assert meter.steps_back == 2 * T
    assert meter.caches == 0


def test_every_state_has_seen_the_whole_sequence():
    rng = np.random.default_rng(2)
    network, xs = random_pair(rng, 2, 3), rng.normal(size=(6, 1, 2))
    moved = xs + np.where(np.arange(6)[:, None, None] == 3, 0.5, 0.0)
    change = np.abs(network.forward(moved).hs - network.forward(xs).hs).max(axis=(1,))
    assert (change[:3, :3] == 0).all()  # the past does not know step 3, going right
    assert (change[3:, :3] > 0).all()
    assert (change[:4, 3:] > 0).all()  # going left it does
    assert (change[4:, 3:] == 0).all()


def test_the_leftward_direction_starts_at_the_end_of_each_sequence():
    rng = np.random.default_rng(3)
    network, xs = random_pair(rng, 2, 3), rng.normal(size=(5, 3, 2))
    lengths = [5, 2, 3]
    together = network.forward(xs, lengths=lengths)
    for b, n in enumerate(lengths):
        alone = network.forward(xs[:n, b : b + 1])
        np.testing.assert_allclose(together.hs[:n, b], alone.hs[:, 0], rtol=1e-12)
        assert not together.hs[n:, b].any()


@given(any_sizes, merges, seeds)
def test_padding_changes_nothing(n, merge, seed):
    rng = np.random.default_rng(seed)
    network = random_pair(rng, n["I"], n["H"], (LSTMCell, GRUCell), merge)
    case = NetworkCase.random(network, n["T"], n["B"], "empty", rng)
    expected = case.forward()
    d_expected = case.flat(network.backward(expected, case.d_hs, case.d_final))
    behind = (np.arange(n["T"])[:, None] >= np.array(case.lengths))[:, :, None]
    for garbage in (1e300 * rng.normal(), np.inf):
        xs, d_hs = np.where(behind, garbage, case.xs), np.where(behind, -garbage, case.d_hs)
        actual = network.forward(xs, case.initial, case.lengths)
        d_actual = network.backward(actual, d_hs, case.d_final)
        recomputed = bptt.checkpointed_bptt(
            network, xs, d_hs, case.initial, case.lengths, d_final=case.d_final
        )
        np.testing.assert_array_equal(actual.hs, expected.hs)
        for a, e, r in zip(case.flat(d_actual), d_expected, case.flat(recomputed), strict=True):
            np.testing.assert_array_equal(a, e)
            np.testing.assert_allclose(r, e, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(expected.mask, ~behind[:, :, 0])
    empty = case.lengths.index(0)
    for f, s in zip(leaves(expected.final), leaves(case.initial), strict=True):
        np.testing.assert_array_equal(f[empty], s[empty])


@every_cell
def test_numpy_torch_and_autograd_of_the_torch_path_agree(agree, cell_type):
    rng = np.random.default_rng(4)
    case = NetworkCase.random(random_pair(rng, 2, 3, (cell_type, cell_type)), 4, 3, "empty", rng)
    ours = case.network.backward(case.forward(), case.d_hs, case.d_final)
    network = bptt.with_parameters(
        _on_torch(case.network), {k: v.detach().requires_grad_() for k, v in case.p.items()}
    )
    parameters = list(bptt.parameters_of(network).values())
    trajectory = network.forward(case.x, case.s, case.lengths)
    theirs = network.backward(trajectory, case.d, map_state(torch.tensor, case.d_final))
    assert_same(case.flat(ours), case.flat(theirs))
    path = autograd(case.loss(trajectory.hs, trajectory.final), [*parameters, case.x, *leaves(case.s)])
    agree(Bidirectional.backward, "torch.autograd", case.flat(ours), path)


def _on_torch(network, **options):
    directions = tuple(
        map_arrays(lambda a: torch.tensor(a, **options), direction) for direction in network.directions
    )
    return dataclasses.replace(network, directions=directions)


@pytest.mark.parametrize("merge", bidirectional.MERGES)
def test_dtype_and_device_are_kept(merge):
    rng = np.random.default_rng(5)
    network = random_pair(rng, 2, 3, (LSTMCell, GRUCell), merge)
    xs, d_hs = rng.normal(size=(4, 2, 2)), rng.normal(size=(4, 2, network.hidden_size))
    exact = network.forward(xs, lengths=[4, 1]).hs

    def results(network, xs, d_hs):
        trajectory = network.forward(xs, lengths=[4, 1])
        gradients = network.backward(trajectory, d_hs)
        again = bptt.checkpointed_bptt(network, xs, d_hs, lengths=[4, 1])
        parameters = bptt.parameters_of(gradients.d_cell) | bptt.parameters_of(again.d_cell)
        return [trajectory.hs, gradients.d_xs, again.d_xs, *parameters.values(), *leaves(gradients.d_initial)]

    for dtype in (np.float16, np.float32):
        narrow = bptt.with_parameters(
            network, {k: a.astype(dtype) for k, a in bptt.parameters_of(network).items()}
        )
        arrays = results(narrow, xs.astype(dtype), d_hs.astype(dtype))
        assert {a.dtype for a in arrays} == {np.dtype(dtype)}
        np.testing.assert_allclose(arrays[0], exact, atol={np.float16: 2e-2, np.float32: 1e-5}[dtype])
    for dtype, device in ((torch.bfloat16, "cpu"), (torch.float32, "cpu"), (torch.float64, "meta")):
        moved = _on_torch(network, dtype=dtype, device=device)
        arrays = results(moved, *(torch.tensor(a, dtype=dtype, device=device) for a in (xs, d_hs)))
        assert {(a.dtype, a.device.type) for a in arrays} == {(dtype, device)}


def test_a_direction_may_be_a_network_itself(agree):
    rng = np.random.default_rng(6)
    stack = Stack((random_cell(LSTMCell, rng, 2, 3), random_cell(GRUCell, rng, 3, 3)), residual=True)
    inner = random_pair(rng, 2, 2, (VanillaCell, LSTMCell))
    case = NetworkCase.random(Bidirectional((stack, inner)), 5, 3, "empty", rng)
    expected = case.expected()
    agree(Bidirectional.forward, "the equations in torch", case.forward().hs, case.reference()[0])
    agree(
        Bidirectional.backward,
        "torch.autograd",
        case.flat(case.network.backward(case.forward(), case.d_hs, case.d_final)),
        expected,
    )
    again = bptt.checkpointed_bptt(
        case.network, case.xs, case.d_hs, case.initial, case.lengths, d_final=case.d_final
    )
    agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(again), expected)


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(7)
    cell, xs = random_cell(VanillaCell, rng, 2, 3), rng.normal(size=(4, 2, 2))
    network = Bidirectional((cell, cell))
    with pytest.raises(ValueError, match="merge is 'product', expected one of 'concat', 'sum', 'mean'"):
        Bidirectional((cell, cell), "product")
    with pytest.raises(ValueError, match="leftward has input_size 5, expected 2 set by rightward"):
        Bidirectional((cell, random_cell(GRUCell, rng, 5, 3)))
    for merge in ("sum", "mean"):
        with pytest.raises(ValueError, match=f"leftward has hidden_size 4, expected 3 .* merge '{merge}'"):
            Bidirectional((cell, random_cell(GRUCell, rng, 2, 4)), merge)
    with pytest.raises(
        ValueError, match=r"directions is a tuple of 1, expected a pair \(rightward, leftward\)"
    ):
        Bidirectional((cell,))
    with pytest.raises(ValueError, match="initial is a ndarray, expected a pair"):
        network.forward(xs, np.ones((2, 3)))
    with pytest.raises(ValueError, match="d_final is a tuple of 3, expected a pair"):
        network.backward(network.forward(xs), np.ones((4, 2, 6)), (None, None, None))
    with pytest.raises(ValueError, match=r"d_hs has shape \(4, 2, 3\), expected \(T, B, H\) = \(4, 2, 6\)"):
        network.backward(network.forward(xs), np.ones((4, 2, 3)))
    with pytest.raises(ValueError, match="Bidirectional: dropout_masks is given, expected None"):
        network.forward(xs, dropout_masks=())
    with pytest.raises(ValueError, match=r"lengths\[0\] is 5, expected a whole number from 0 to T = 4"):
        network.forward(xs, lengths=[5, 1])
    with pytest.raises(ValueError, match="lengths has 1 entries, expected B = 2"):
        bidirectional.reverse(xs, [1])
    for size in (0, 6, -1):
        with pytest.raises(ValueError, match=f"hidden_size is {size}, expected a whole number from 1 to 5"):
            bidirectional.concat_backward(np.ones((4, 2, 6)), size)
    with pytest.raises(
        ValueError, match=r"h_leftward has shape \(4, 2, 4\), expected \(T, B, H\) = \(4, 2, 3\)"
    ):
        bidirectional.add(np.ones((4, 2, 3)), np.ones((4, 2, 4)))
    with pytest.raises(
        ValueError, match=r"h_leftward has shape \(3, 2, 4\), expected \(T, B, G\) = \(4, 2, 4\)"
    ):
        bidirectional.concat(np.ones((4, 2, 3)), np.ones((3, 2, 4)))
    with pytest.raises(TypeError, match="xs has dtype int64, expected a real floating-point dtype"):
        bidirectional.reverse(xs.astype(int))


def test_one_initial_state_may_be_left_out():
    rng = np.random.default_rng(8)
    network, xs = random_pair(rng, 2, 3), rng.normal(size=(3, 2, 2))
    h = rng.normal(size=(2, 3))
    half = network.forward(xs, (None, h))
    np.testing.assert_array_equal(half.hs, network.forward(xs, (0 * h, (h,))).hs)
    zeros = network.backward(half, half.hs, (None, h))
    given = network.backward(half, half.hs, (0 * h, (h,)))
    np.testing.assert_array_equal(zeros.d_xs, given.d_xs)
