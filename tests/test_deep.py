"""The deep network, held to torch.nn and to layers stacked in torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlib import activations, bptt, deep
from rnnlib.bidirectional import Bidirectional
from rnnlib.bptt import Meter, map_state
from rnnlib.deep import Stack
from rnnlib.gru import GRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import as_torch, example, seeds, sizes, torch_activation
from tests.test_unroll import (
    CELLS,
    TORCH_MODULES,
    NetworkCase,
    assert_same,
    autograd,
    every_cell,
    gradients_from_torch,
    leaves,
    length_kinds,
    random_cell,
    reference_network,
    run_torch,
    to_torch_module,
    torch_cells,
)

any_sizes = sizes("T", "B", "I", "H", high=5)
any_cell = st.sampled_from(CELLS)
drops = st.sampled_from(["none", "new", "variational"])


def random_stack(rng, I, H, types, residual=False, both_ways=()):
    """A stack of cells of the given types; the layers numbered in ``both_ways`` are bidirectional."""
    layers, size = [], I
    for l, cell_type in enumerate(types):
        if l in both_ways:  # a sum, so that a residual connection fits
            pair = tuple(random_cell(t, rng, size, H) for t in (cell_type, GRUCell))
            layers.append(Bidirectional(pair, "sum" if residual else "concat"))
        else:
            layers.append(random_cell(cell_type, rng, size, H))
        size = layers[-1].hidden_size
    return Stack(tuple(layers), residual)


def random_masks(drop, rng, stack, T, B, rate=0.4):
    if drop == "none":
        return None
    return deep.dropout_masks(rng, stack, np.zeros((T, B, stack.input_size)), rate, drop == "variational")


# --- one step of one layer ----------------------------------------------------------------------


@pytest.mark.equation("eq-deep-hidden", "eq-deep-hidden-backward")
@given(sizes("B", "I", "H"), st.sampled_from(activations.ACTIVATIONS), seeds)
def test_one_step_of_one_layer_agrees_with_torch(agree, n, activation, seed):
    arguments = example("eq-deep-hidden", seed, n)
    t = as_torch(arguments, requires_grad=True)
    linear = torch.nn.functional.linear
    expected = torch_activation(activation)(
        linear(t["h_below"], t["W_xh"], t["b_h"]) + linear(t["h_prev"], t["W_hh"])
    )
    agree(
        deep.hidden_state,
        "torch.nn.functional",
        deep.hidden_state(**arguments, activation=activation),
        expected,
    )
    d_h_t = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(
        deep.hidden_state_backward,
        "torch.autograd",
        deep.hidden_state_backward(d_h_t, **arguments, activation=activation),
        autograd((expected * torch.tensor(d_h_t)).sum(), list(t.values())),
    )


@pytest.mark.equation("eq-deep-hidden")
@given(sizes("T", "B", "I", "H", "L", high=4), seeds)
@settings(max_examples=10)
def test_the_equation_run_over_layers_and_time_is_torch_nn_RNN(agree, n, seed):
    rng = np.random.default_rng(seed)
    cells = random_stack(rng, n["I"], n["H"], [VanillaCell] * n["L"]).layers
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["L"], n["B"], n["H"]))
    hs, h = [], list(h_0)
    for x_t in xs:
        below = x_t
        for l, cell in enumerate(cells):
            below = h[l] = deep.hidden_state(below, h[l], cell.W_xh, cell.W_hh, cell.b_h)
        hs.append(below)
    expected, h_n = to_torch_module(cells)(torch.tensor(xs), torch.tensor(h_0))
    agree(deep.hidden_state, "torch.nn.RNN(num_layers)", [np.stack(hs), np.stack(h)], [expected, h_n])
    stacked = Stack(cells).forward(xs, tuple(h_0))
    agree(
        Stack.forward,
        "torch.nn.RNN(num_layers)",
        [stacked.hs, *leaves(stacked.final)],
        [expected, *h_n],
    )


# --- between the layers -------------------------------------------------------------------------


@pytest.mark.equation("eq-deep-residual", "eq-deep-residual-backward")
@given(sizes("T", "B", "H"), seeds)
def test_residual_connections_agree_with_torch(agree, n, seed):
    arguments = example("eq-deep-residual", seed, n)
    t = as_torch(arguments, requires_grad=True)
    expected = torch.add(t["h_below"], t["h_layer"])
    agree(deep.residual, "torch.add", deep.residual(**arguments), expected)
    d_hs = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(
        deep.residual_backward,
        "torch.autograd",
        deep.residual_backward(d_hs),
        autograd((expected * torch.tensor(d_hs)).sum(), list(t.values())),
    )


@pytest.mark.equation(
    "eq-deep-dropout", "eq-deep-dropout-backward", "eq-deep-variational", "eq-deep-variational-backward"
)
@pytest.mark.parametrize(
    ("name", "function", "function_backward"),
    [
        ("dropout", deep.dropout, deep.dropout_backward),
        ("variational", deep.variational_dropout, deep.variational_dropout_backward),
    ],
)
@given(sizes("T", "B", "H"), seeds)
def test_dropout_agrees_with_torch(agree, name, function, function_backward, n, seed):
    arguments = example(f"eq-deep-{name}", seed, n)
    t = as_torch(arguments, requires_grad=True)
    mask = t["mask"].detach().expand(n["T"], n["B"], n["H"])
    expected = torch.mul(t["hs"], mask)
    agree(function, "torch.mul", function(**arguments), expected)
    d_dropped = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(
        function_backward,
        "torch.autograd",
        function_backward(d_dropped, arguments["mask"]),
        autograd((expected * torch.tensor(d_dropped)).sum(), [t["hs"]])[0],
    )


@pytest.mark.equation("eq-deep-dropout-mask")
@given(sizes("T", "B", "H"), st.sampled_from([0.0, 0.1, 0.5, 0.9]), seeds)
def test_a_dropout_mask_keeps_and_scales_as_torch_does(agree, n, rate, seed):
    u = np.random.default_rng(seed).random((n["T"], n["B"], n["H"]))
    agree(
        deep.dropout_mask,
        "torch.ge",
        deep.dropout_mask(u, rate),
        torch.ge(torch.tensor(u), rate).double() / (1 - rate),
    )
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(torch.ones(1000, dtype=torch.float64), rate)
    agree(
        deep.dropout_mask,
        "torch.nn.functional.dropout",
        deep.dropout_mask(np.full((1, 1, 1), 0.99), rate).max(),
        dropped.max(),
    )
    at_the_edge = deep.dropout_mask(np.full((1, 1, 1), rate), rate)
    assert at_the_edge.all()  # u < p drops, u = p stays: with p = 0 nothing is ever dropped


def test_dropout_leaves_the_mean_as_it_is():
    stack = random_stack(np.random.default_rng(0), 2, 50, [GRUCell, GRUCell])
    for variational in (False, True):
        (mask,) = deep.dropout_masks(
            np.random.default_rng(1), stack, np.zeros((40, 100, 2)), 0.3, variational
        )
        assert abs(mask.mean() - 1) < 0.02
        assert abs((mask == 0).mean() - 0.3) < 0.02


def test_masks_come_from_the_generator_alone():
    rng = np.random.default_rng(2)
    stack = random_stack(rng, 2, 3, [LSTMCell, GRUCell, VanillaCell], both_ways=(0,))
    xs = rng.normal(size=(4, 2, 2))

    def masks(xs, variational, seed=3):
        return deep.dropout_masks(np.random.default_rng(seed), stack, xs, 0.5, variational)

    for variational, shapes in ((False, [(4, 2, 6), (4, 2, 3)]), (True, [(2, 6), (2, 3)])):
        exact = masks(xs, variational)
        assert [m.shape for m in exact] == shapes
        assert {v for m in exact for v in np.unique(m)} == {0.0, 2.0}
        assert any((a != b).any() for a, b in zip(exact, masks(xs, variational, seed=4), strict=True))
        for dtype in (np.float16, np.float32, np.float64):
            for mask, expected in zip(masks(xs.astype(dtype), variational), exact, strict=True):
                assert mask.dtype == dtype
                np.testing.assert_array_equal(mask, expected)
        for dtype in (torch.bfloat16, torch.float64):
            for mask, expected in zip(masks(torch.tensor(xs, dtype=dtype), variational), exact, strict=True):
                assert mask.dtype == dtype
                np.testing.assert_array_equal(mask.double().numpy(), expected)


# --- the network --------------------------------------------------------------------------------


@torch_cells
@given(any_sizes, st.integers(1, 3), st.booleans(), st.sampled_from(["none", "some"]), seeds)
@settings(max_examples=12)
def test_a_stack_agrees_with_torch_nn(agree, cell_type, n, L, both_ways, kind, seed):
    rng = np.random.default_rng(seed)
    sizes_below = [n["I"]] + [n["H"] * (1 + both_ways)] * (L - 1)
    directions = [
        tuple(random_cell(cell_type, rng, size, n["H"]) for _ in range(1 + both_ways)) for size in sizes_below
    ]
    network = Stack(tuple(Bidirectional(pair) if both_ways else pair[0] for pair in directions))
    case = NetworkCase.random(network, n["T"], n["B"], kind, rng)
    trajectory = case.forward()
    gradients = network.backward(trajectory, case.d_hs, case.d_final)

    module = to_torch_module(directions if both_ways else network.layers, bidirectional=both_ways)
    flat = [s for layer in case.s for s in layer] if both_ways else list(case.s)  # one state per direction
    starts = tuple(torch.stack(parts) for parts in zip(*flat, strict=True))  # (L or 2L, B, H) each
    hs, final = run_torch(module, case.x, starts, case.lengths)
    finals = [x for i in range(len(flat)) for x in (part[i] for part in final)]
    loss = (hs * case.d).sum()
    loss = loss + sum((f * torch.tensor(d)).sum() for f, d in zip(finals, leaves(case.d_final), strict=True))
    loss.backward()

    reference = f"torch.nn.{TORCH_MODULES[cell_type].__name__}(num_layers)"
    agree(
        Stack.forward,
        reference,
        [trajectory.hs, *leaves(trajectory.final), *leaves(trajectory.initial)],
        [hs, *finals, *leaves(case.initial)],
    )
    expected = [
        gradients_from_torch(module, cell_type, l, suffix)[name]
        for l, pair in enumerate(directions)
        for suffix, cell in zip(("", "_reverse"), pair, strict=False)
        for name in bptt.parameters_of(cell)
    ]
    agree(
        Stack.backward,
        reference,
        case.flat(gradients),
        [*expected, case.x.grad, *(s.grad for s in leaves(case.s))],
    )


@every_cell
@given(
    any_sizes,
    st.lists(any_cell, max_size=2),
    st.booleans(),
    st.sets(st.integers(0, 2)),
    drops,
    length_kinds,
    seeds,
)
@settings(max_examples=10)
def test_any_layers_agree_with_autograd(agree, cell_type, n, above, residual, both_ways, drop, kind, seed):
    rng = np.random.default_rng(seed)
    network = random_stack(rng, n["I"], n["H"], [cell_type, *above], residual, both_ways)
    masks = random_masks(drop, rng, network, n["T"], n["B"])
    case = NetworkCase.random(network, n["T"], n["B"], kind, rng, masks)
    trajectory = case.forward()
    hs, final = case.reference()
    agree(
        Stack.forward,
        "the equations in torch",
        [trajectory.hs, *leaves(trajectory.final)],
        [hs, *leaves(final)],
    )
    gradients = bptt.backward(network, trajectory, case.d_hs, case.d_final)
    assert isinstance(gradients.d_cell, Stack)
    expected = case.expected()
    agree(Stack.backward, "torch.autograd", case.flat(gradients), expected)
    segment = int(rng.integers(1, n["T"] + 1))
    for loss_gradient in (case.d_hs, lambda steps, hs: case.d_hs[steps] + 0 * hs):
        again = bptt.checkpointed_bptt(
            network, case.xs, loss_gradient, case.initial, case.lengths, masks, segment, case.d_final
        )
        agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(again), expected)
    hs_alone, final_alone = bptt.outputs(network, case.xs, case.initial, case.lengths, masks, segment)
    agree(bptt.outputs, "the equations in torch", [hs_alone, *leaves(final_alone)], [hs, *leaves(final)])
    assert network.causal == (not both_ways & set(range(1 + len(above))))


@every_cell
@given(sizes("T", "B", "I", "H", high=3), any_cell, st.booleans(), drops, length_kinds, seeds)
@settings(max_examples=4)
def test_a_stack_learns_in_real_time(agree, cell_type, n, above, residual, drop, kind, seed):
    rng = np.random.default_rng(seed)
    network = random_stack(rng, n["I"], n["H"], [cell_type, above], residual)
    masks = random_masks(drop, rng, network, n["T"], n["B"])
    case = NetworkCase.random(network, n["T"], n["B"], kind, rng, masks)
    d_network, d_initial = bptt.rtrl(
        network, case.xs, case.d_hs, case.initial, case.lengths, masks, case.d_final
    )
    expected = case.expected()
    P = len(case.p)
    agree(
        bptt.rtrl,
        "torch.autograd",
        [*bptt.parameters_of(d_network).values(), *leaves(d_initial)],
        expected[:P] + expected[P + 1 :],
    )


def truncated_reference(case, k1, k2):
    """Truncated backpropagation in torch: the state in front of every window is detached."""
    T = len(case.xs)
    total = [torch.zeros_like(x) for x in case.inputs()]

    def run(state, start, stop):
        masks = case.m and tuple(m if m.ndim == 2 else m[start:stop] for m in case.m)
        return reference_network(case.network, case.p, case.x[start:stop], state, None, masks)

    for begin in range(0, T, k1):
        stop = min(begin + k1, T)
        start = max(stop - k2, 0)
        state = case.s
        if start:
            state = map_state(lambda s: s.detach(), run(case.s, 0, start)[1])
        hs, final = run(state, start, stop)
        loss = (hs[begin - start :] * case.d[begin:stop]).sum()
        if stop == T:
            ends = zip(leaves(final), leaves(case.d_final), strict=True)
            loss = loss + sum((f * torch.tensor(d)).sum() for f, d in ends)
        total = [a + g for a, g in zip(total, autograd(loss, case.inputs()), strict=True)]
    return total


@pytest.mark.equation("eq-bptt-truncated")
@every_cell
@given(
    sizes("B", "I", "H", high=3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 4),
    any_cell,
    st.booleans(),
    drops,
    seeds,
)
@settings(max_examples=5)
def test_a_stack_can_be_truncated(agree, cell_type, n, T, k1, more, above, residual, drop, seed):
    rng = np.random.default_rng(seed)
    network = random_stack(rng, n["I"], n["H"], [cell_type, above], residual)
    masks = random_masks(drop, rng, network, T, n["B"])
    case = NetworkCase.random(network, T, n["B"], "none", rng, masks)
    gradients = bptt.truncated_bptt(network, case.forward(), case.d_hs, k1, k1 + more, case.d_final)
    agree(
        bptt.truncated_bptt,
        "torch.autograd with detach",
        case.flat(gradients),
        truncated_reference(case, k1, k1 + more),
    )


def test_a_stack_truncated_late_is_full_with_lengths_too(agree):
    rng = np.random.default_rng(5)
    network = random_stack(rng, 2, 3, [LSTMCell, GRUCell], residual=True)
    masks = random_masks("new", rng, network, 6, 3)
    case = NetworkCase.random(network, 6, 3, "empty", rng, masks)
    for k1 in (1, 4, 6, 7):
        gradients = bptt.truncated_bptt(network, case.forward(), case.d_hs, k1, 7, case.d_final)
        agree(bptt.truncated_bptt, "torch.autograd", case.flat(gradients), case.expected())


def test_masks_of_both_kinds_may_stand_side_by_side(agree):
    rng = np.random.default_rng(13)
    network = random_stack(rng, 2, 3, [LSTMCell, GRUCell, VanillaCell])
    new, variational = (random_masks(drop, rng, network, 4, 2) for drop in ("new", "variational"))
    for masks in ((new[0], variational[1]), (variational[0], new[1])):
        case = NetworkCase.random(network, 4, 2, "none", rng, masks)
        agree(Stack.forward, "the equations in torch", case.forward().hs, case.reference()[0])
        gradients = network.backward(case.forward(), case.d_hs, case.d_final)
        agree(Stack.backward, "torch.autograd", case.flat(gradients), case.expected())


def test_a_stack_in_a_stack_is_a_stack(agree):
    rng = np.random.default_rng(6)
    inner = Stack((random_cell(LSTMCell, rng, 3, 3), random_cell(GRUCell, rng, 3, 3)), residual=True)
    both = Bidirectional((random_cell(GRUCell, rng, 3, 3), inner), "mean")
    network = Stack((random_cell(VanillaCell, rng, 2, 3), inner, both), residual=True)
    case = NetworkCase.random(network, 5, 3, "empty", rng, random_masks("new", rng, network, 5, 3))
    expected = case.expected()
    agree(Stack.forward, "the equations in torch", case.forward().hs, case.reference()[0])
    gradients = network.backward(case.forward(), case.d_hs, case.d_final)
    agree(Stack.backward, "torch.autograd", case.flat(gradients), expected)
    again = bptt.checkpointed_bptt(
        network, case.xs, case.d_hs, case.initial, case.lengths, case.masks, d_final=case.d_final
    )
    agree(bptt.checkpointed_bptt, "torch.autograd", case.flat(again), expected)

    nested = Stack((random_cell(VanillaCell, rng, 2, 3), inner))
    case = NetworkCase.random(nested, 4, 2, "some", rng)
    _, d_initial = bptt.rtrl(nested, case.xs, case.d_hs, case.initial, case.lengths, d_final=case.d_final)
    gradients = bptt.truncated_bptt(nested, case.forward(), case.d_hs, 2, 4, case.d_final)
    expected = case.expected()
    agree(bptt.truncated_bptt, "torch.autograd", case.flat(gradients), expected)
    agree(bptt.rtrl, "torch.autograd", leaves(d_initial), expected[-len(leaves(case.s)) :])


@pytest.mark.parametrize("T", [1, 6, 16, 30])
@pytest.mark.parametrize("both_ways", [False, True])
def test_a_checkpointed_stack_holds_a_root_of_T_caches(T, both_ways):
    rng = np.random.default_rng(7)
    meter, L = Meter(), 3
    cells = [meter.watch(random_cell(LSTMCell, rng, 2, 2)) for _ in range(2 * L)]
    pairs = zip(cells[:L], cells[L:], strict=True)
    layers = tuple(Bidirectional(pair, "sum") for pair in pairs) if both_ways else tuple(cells[:L])
    xs, d_hs = rng.normal(size=(T, 1, 2)), rng.normal(size=(T, 1, 2))
    bptt.checkpointed_bptt(Stack(layers), xs, d_hs)
    root = math.isqrt(T - 1) + 1
    assert meter.peak_caches == (root if both_ways else L * root)  # a direction at a time, or all layers
    assert meter.steps_back == (2 * L * T if both_ways else L * T)
    assert meter.caches == 0


def test_a_stack_of_one_layer_is_its_layer():
    rng = np.random.default_rng(8)
    cell, xs = random_cell(LSTMCell, rng, 2, 3), rng.normal(size=(4, 2, 2))
    trajectory, alone = Stack((cell,), residual=True).forward(xs, dropout_masks=()), unroll(cell, xs)
    np.testing.assert_array_equal(trajectory.hs, alone.hs)
    assert trajectory.mask is None
    for a, b in zip(trajectory.final[0], alone.final, strict=True):
        np.testing.assert_array_equal(a, b)


@given(any_sizes, st.booleans(), st.booleans(), seeds)
@settings(max_examples=10)
def test_padding_changes_nothing(n, residual, both_ways, seed):
    rng = np.random.default_rng(seed)
    network = random_stack(
        rng, n["I"], n["H"], [LSTMCell, GRUCell, VanillaCell], residual, (1,) if both_ways else ()
    )
    masks = random_masks("new", rng, network, n["T"], n["B"])
    case = NetworkCase.random(network, n["T"], n["B"], "empty", rng, masks)
    expected = case.forward()
    d_expected = case.flat(network.backward(expected, case.d_hs, case.d_final))
    behind = (np.arange(n["T"])[:, None] >= np.array(case.lengths))[:, :, None]
    for garbage in (1e300 * rng.normal(), np.inf):
        xs, d_hs = np.where(behind, garbage, case.xs), np.where(behind, -garbage, case.d_hs)
        actual = network.forward(xs, case.initial, case.lengths, masks)
        d_actual = network.backward(actual, d_hs, case.d_final)
        again = bptt.checkpointed_bptt(
            network, xs, d_hs, case.initial, case.lengths, masks, d_final=case.d_final
        )
        np.testing.assert_array_equal(actual.hs, expected.hs)
        for a, e, r in zip(case.flat(d_actual), d_expected, case.flat(again), strict=True):
            np.testing.assert_array_equal(a, e)
            np.testing.assert_allclose(r, e, rtol=1e-9, atol=1e-11)
    assert not expected.hs[behind[:, :, 0]].any()


@pytest.mark.parametrize("both_ways", [(), (1,)])
def test_numpy_torch_and_autograd_of_the_torch_path_agree(agree, both_ways):
    rng = np.random.default_rng(9)
    network = random_stack(rng, 2, 3, [LSTMCell, GRUCell, VanillaCell], True, both_ways)
    case = NetworkCase.random(network, 4, 3, "empty", rng, random_masks("variational", rng, network, 4, 3))
    ours = network.backward(case.forward(), case.d_hs, case.d_final)
    on_torch = bptt.with_parameters(network, case.p)
    trajectory = on_torch.forward(case.x, case.s, case.lengths, case.m)
    theirs = on_torch.backward(trajectory, case.d, map_state(torch.tensor, case.d_final))
    assert_same(case.flat(ours), case.flat(theirs))
    path = autograd(case.loss(trajectory.hs, trajectory.final), case.inputs())
    agree(Stack.backward, "torch.autograd", case.flat(ours), path)


@pytest.mark.parametrize("both_ways", [(), (0,)])
def test_dtype_and_device_are_kept(both_ways):
    rng = np.random.default_rng(10)
    network = random_stack(rng, 2, 3, [LSTMCell, GRUCell], False, both_ways)
    xs, d_hs = rng.normal(size=(4, 2, 2)), rng.normal(size=(4, 2, 3))
    exact = network.forward(xs, None, [4, 1], random_masks("new", np.random.default_rng(0), network, 4, 2)).hs

    def results(network, xs, d_hs):
        masks = deep.dropout_masks(np.random.default_rng(0), network, xs, 0.4)
        trajectory = network.forward(xs, None, [4, 1], masks)
        gradients = [
            network.backward(trajectory, d_hs),
            bptt.checkpointed_bptt(network, xs, d_hs, None, [4, 1], masks),
        ]
        if not both_ways:
            gradients.append(bptt.truncated_bptt(network, trajectory, d_hs, 2, 3))
        arrays = [trajectory.hs, *masks]
        for g in gradients:
            arrays += [g.d_xs, *bptt.parameters_of(g.d_cell).values(), *leaves(g.d_initial)]
        return arrays

    for dtype in (np.float16, np.float32):
        arrays = results(_cast(network, lambda a, d=dtype: a.astype(d)), xs.astype(dtype), d_hs.astype(dtype))
        assert {a.dtype for a in arrays} == {np.dtype(dtype)}
        np.testing.assert_allclose(arrays[0], exact, atol={np.float16: 2e-2, np.float32: 1e-5}[dtype])
    for dtype, device in ((torch.bfloat16, "cpu"), (torch.float32, "cpu"), (torch.float64, "meta")):
        options = {"dtype": dtype, "device": device}
        moved = _cast(network, lambda a, o=options: torch.tensor(a, **o))
        arrays = results(moved, *(torch.tensor(a, **options) for a in (xs, d_hs)))
        assert {(a.dtype, a.device.type) for a in arrays} == {(dtype, device)}


def _cast(network, function):
    return bptt.with_parameters(network, {k: function(a) for k, a in bptt.parameters_of(network).items()})


def test_a_window_of_a_stack_is_a_run_of_its_steps_alone():
    rng = np.random.default_rng(11)
    network = random_stack(rng, 2, 3, [LSTMCell, GRUCell], residual=True)
    for drop in ("none", "new", "variational"):
        masks = random_masks(drop, rng, network, 5, 2)
        case = NetworkCase.random(network, 5, 2, "none", rng, masks)
        window = case.forward().window(1, 4)
        part = masks and tuple(m if m.ndim == 2 else m[1:4] for m in masks)
        alone = network.forward(case.xs[1:4], window.initial, None, part)
        np.testing.assert_array_equal(window.hs, alone.hs)
        for a, b in zip(leaves(window.final), leaves(alone.final), strict=True):
            np.testing.assert_array_equal(a, b)
        ours, theirs = (network.backward(t, case.d_hs[1:4]) for t in (window, alone))
        np.testing.assert_array_equal(ours.d_xs, theirs.d_xs)


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(12)
    cell = random_cell(GRUCell, rng, 2, 3)
    above = random_cell(GRUCell, rng, 3, 4)
    with pytest.raises(ValueError, match="layers is empty, expected a tuple of at least one layer"):
        Stack(())
    with pytest.raises(ValueError, match="layers is a list, expected a tuple of at least one layer"):
        Stack([cell])
    with pytest.raises(
        ValueError, match=r"layers\[1\] has input_size 2, expected 3, the hidden_size of layers\[0\]"
    ):
        Stack((cell, cell))
    with pytest.raises(
        ValueError, match=r"layers\[1\] has hidden_size 4, expected 3 for a residual connection"
    ):
        Stack((cell, above), residual=True)

    network, xs = Stack((cell, above)), rng.normal(size=(4, 2, 2))
    with pytest.raises(
        ValueError, match="initial is 1 states, expected a tuple with one for each of 2 layers"
    ):
        network.forward(xs, (None,))
    with pytest.raises(
        ValueError, match="initial is a ndarray, expected a tuple with one for each of 2 layers"
    ):
        network.forward(xs, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"h_0 has shape \(2, 3\), expected \(B, H\) = \(2, 4\)"):
        network.forward(xs, (None, np.ones((2, 3))))
    with pytest.raises(ValueError, match=r"d_hs has shape \(4, 2, 3\), expected \(T, B, H\) = \(4, 2, 4\)"):
        network.backward(network.forward(xs), np.ones((4, 2, 3)))
    with pytest.raises(
        ValueError, match="d_final is 3 states, expected a tuple with one for each of 2 layers"
    ):
        network.backward(network.forward(xs), np.ones((4, 2, 4)), (None,) * 3)

    mask, d_hs = np.ones((4, 2, 3)), np.ones((4, 2, 4))
    for run in (
        lambda masks: network.forward(xs, dropout_masks=masks),
        lambda masks: bptt.checkpointed_bptt(network, xs, d_hs, dropout_masks=masks),
        lambda masks: bptt.outputs(network, xs, dropout_masks=masks),
        lambda masks: bptt.rtrl(network, xs, d_hs, dropout_masks=masks),
    ):
        with pytest.raises(ValueError, match="dropout_masks is 2, expected a tuple of L - 1 = 1 masks"):
            run((mask, mask))
        with pytest.raises(ValueError, match="dropout_masks is ndarray, expected a tuple of L - 1 = 1 masks"):
            run(mask)
        for wrong in (np.ones((5, 2, 3)), np.ones((4, 3, 3)), np.ones((3, 3))):
            with pytest.raises(ValueError, match=r"dropout_masks\[0\] has shape .*, expected"):
                run((wrong,))
        with pytest.raises(
            ValueError, match=r"dropout_masks\[0\] has shape \(4, 2, 4\), expected H = 3, the hid"
        ):
            run((np.ones((4, 2, 4)),))
        with pytest.raises(TypeError, match=r"dropout_masks\[0\] has float32, expected one dtype throughout"):
            run((mask.astype(np.float32),))
        with pytest.raises(TypeError, match=r"dropout_masks\[0\] is a NoneType"):
            run((None,))
    for rate in (-0.1, 1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"rate is {rate}, expected a number from 0 to below 1"):
            deep.dropout_mask(mask, rate)
        with pytest.raises(ValueError, match=f"rate is {rate}, expected a number from 0 to below 1"):
            deep.dropout_masks(rng, network, xs, rate)
    with pytest.raises(TypeError, match="rng is a int, expected a numpy"):
        deep.dropout_masks(0, network, xs, 0.5)
