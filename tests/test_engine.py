"""The engine: three forms of the same loops agree, and the cells' equations are what they are held to."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlib import engine, nn
from rnnlib.bidirectional import Bidirectional
from rnnlib.bptt import Meter, backward, bptt, checkpointed_bptt, forward, parameters_of
from rnnlib.deep import Stack
from rnnlib.engine import Steps, choose, compiled, differentiable, layers, plain
from rnnlib.engine.layers import (
    GRU_LAYERS,
    LSTM_LAYERS,
    RNN_LAYERS,
    run_layer,
    run_layer_again,
    run_layer_back,
    slabs_of,
)
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.initialisation import random_vanilla_cell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import MANY_NUMBERS, Recomputed, hidden_states, unroll, unroll_again
from rnnlib.vanilla import VanillaCell
from tests.support import load_module, relative_error

ROOT = Path(__file__).resolve().parents[1]

LAYERS = {
    "RNN tanh": RNN_LAYERS["tanh"],
    "RNN relu": RNN_LAYERS["relu"],
    "LSTM": LSTM_LAYERS[False],
    "GRU": GRU_LAYERS[True],
    "GRU reset before": GRU_LAYERS[False],
}
FAST = {"plain": plain, "compiled": compiled}
needs_compiler = pytest.mark.skipif(compiled.compiler() is None, reason="no C compiler")
fast = pytest.mark.parametrize("loops", [plain, pytest.param(compiled, marks=needs_compiler)], ids=list(FAST))
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
KINDS = {"numpy": np.asarray, "torch": torch.as_tensor}
both_kinds = pytest.mark.parametrize("convert", KINDS.values(), ids=KINDS)


def problem(layer, rng, sizes, reverse=False, I=3, H=5, bias=True, dtype=np.float64):
    """Steps, inputs, states and weights, and gradients from above; all random, biases not zero."""
    N, B, G = sum(sizes), sizes[0], layer.widths[-1 if layer.states == 2 else min(1, len(layer.widths) - 1)]

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    states = [draw(B, H) for _ in range(layer.states)]
    weights = [draw(G * H, I) / math.sqrt(I), draw(G * H, H) / math.sqrt(H)]
    weights += [draw(G * H), draw(G * H)] if bias else [None, None]
    if layer.states == 2:
        weights.append(None)  # no projection
    d_hs, d_ends = draw(N, H), [draw(B, H) for _ in range(layer.states)]
    return Steps(tuple(sizes), reverse), [draw(N, I), *states, *weights], d_hs, d_ends


def as_kind(convert, arrays):
    return [None if a is None else convert(a) for a in arrays]


def both_ways(layer, loops, steps, arguments, d_hs, d_ends):
    """What a layer returns, forward and back."""
    rows, ends = run_layer(layer, steps, *arguments, loops=loops, keep=True)
    back = run_layer_back(layer, steps, d_hs, d_ends, *arguments, rows=rows, loops=loops, needs_d_x=True)
    return [*rows, *ends, *back]


def assert_same(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            assert a.shape == e.shape
            assert relative_error(a, e) < tolerance


def assert_nan_and_infinity_where(actual, expected, bad):
    """Not finite at the same places; and where NaN went in, NaN at the same places."""
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            a, e = np.asarray(a), np.asarray(e)
            # Zero times infinity is NaN; a gate that ends at 1e-308 gives infinity.
            assert np.array_equal(np.isfinite(a), np.isfinite(e))
            assert not math.isnan(bad) or np.array_equal(np.isnan(a), np.isnan(e))


ragged = st.lists(st.integers(1, 30), min_size=1, max_size=7).map(lambda sizes: sorted(sizes, reverse=True))


class TestTheLoopsAgree:
    @fast
    @every_layer
    @settings(max_examples=15, deadline=None)
    @given(sizes=ragged, reverse=st.booleans(), bias=st.booleans(), H=st.integers(1, 40))
    def test_and_make_again_what_was_kept(self, layer, loops, sizes, reverse, bias, H):
        steps, arguments, _, _ = problem(layer, np.random.default_rng(9), sizes, reverse, 4, H, bias)
        expected, _ = run_layer(layer, steps, *arguments, loops=differentiable, keep=True)
        actual = run_layer_again(layer, steps, *arguments, hs=expected[0], loops=loops)
        assert actual[0] is expected[0]
        assert_same(actual, expected, 1e-11)

    @fast
    @every_layer
    @settings(max_examples=25, deadline=None)
    @given(
        sizes=ragged, reverse=st.booleans(), bias=st.booleans(), I=st.integers(1, 20), H=st.integers(1, 40)
    )
    def test_at_all_sizes_with_all_lengths(self, layer, loops, sizes, reverse, bias, I, H):
        arguments = problem(layer, np.random.default_rng(0), sizes, reverse, I, H, bias)
        expected = both_ways(layer, differentiable, *arguments)
        assert_same(both_ways(layer, loops, *arguments), expected, 1e-11)

    @fast
    @both_kinds
    @every_layer
    def test_on_numpy_and_torch_in_single_precision(self, layer, convert, loops):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(1), [9] * 6, H=33)
        expected = both_ways(layer, differentiable, steps, arguments, d_hs, d_ends)
        low = [None if a is None else a.astype(np.float32) for a in arguments]
        ends = [d.astype(np.float32) for d in d_ends]
        actual = both_ways(
            layer,
            loops,
            steps,
            as_kind(convert, low),
            convert(d_hs.astype(np.float32)),
            as_kind(convert, ends),
        )
        assert_same([None if a is None else np.asarray(a, dtype=np.float64) for a in actual], expected, 2e-5)

    @fast
    @every_layer
    def test_over_many_blocks_of_steps(self, layer, loops, monkeypatch):
        arguments = problem(layer, np.random.default_rng(2), [7, 7, 6, 6, 6, 3, 2, 2, 1], reverse=True)
        expected = both_ways(layer, differentiable, *arguments)
        monkeypatch.setattr("rnnlib.engine.layers.blocks_of", lambda steps, W_hh: list(steps.blocks(8)))
        assert_same(both_ways(layer, loops, *arguments), expected, 1e-11)

    @fast
    @every_layer
    def test_no_gradient_of_the_outputs_is_a_zero_one(self, layer, loops):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(3), [8] * 4)
        expected = both_ways(layer, differentiable, steps, arguments, np.zeros_like(d_hs), d_ends)
        assert_same(both_ways(layer, loops, steps, arguments, None, d_ends), expected, 1e-11)

    @fast
    @every_layer
    def test_nothing_that_was_given_is_changed_or_handed_back(self, layer, loops):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(4), [9, 9, 4])
        given_arrays = [a for a in [*arguments, d_hs, *d_ends] if a is not None]
        before = [a.copy() for a in given_arrays]
        results = both_ways(layer, loops, steps, arguments, d_hs, d_ends)
        assert all(np.array_equal(a, b) for a, b in zip(given_arrays, before, strict=True))
        for result in results:
            assert result is None or not any(np.shares_memory(result, a) for a in given_arrays)
        arrays = [r for r in results if r is not None]
        for k, a in enumerate(arrays):
            assert not any(np.shares_memory(a, b) for b in arrays[k + 1 :])

    @fast
    @both_kinds
    @every_layer
    def test_arrays_may_lie_in_memory_by_columns(self, layer, convert, loops):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(9), [9] * 5)
        expected = both_ways(layer, differentiable, steps, arguments, d_hs, d_ends)
        hs = expected[0]

        def by_columns(arrays):
            return [None if a is None else convert(np.asfortranarray(a)) for a in arrays]

        arguments, (d_hs,), d_ends = by_columns(arguments), by_columns([d_hs]), by_columns(d_ends)
        actual = both_ways(layer, loops, steps, arguments, d_hs, d_ends)
        assert_same([None if a is None else np.asarray(a) for a in actual], expected, 1e-11)
        (hs_only, *_), _ = run_layer(layer, steps, *arguments, loops=loops, keep=False)
        assert relative_error(np.asarray(hs_only), hs) < 1e-11
        no_ends = [None] * layer.states
        rows, _ = run_layer(layer, steps, *arguments, loops=loops, keep=True)
        results = [
            run_layer_back(layer, steps, d_hs, no_ends, *arguments, rows=rows, loops=form, needs_d_x=False)
            for form in (loops, differentiable)
        ]
        actual, expected = ([None if a is None else np.asarray(a) for a in found] for found in results)
        assert_same(actual, expected, 1e-11)

    @fast
    @every_layer
    @pytest.mark.parametrize("sizes", [[9] * 5, [9, 9, 5, 2], [3] * 5])
    def test_inference_gives_the_same_states(self, layer, loops, sizes):
        steps, arguments, _, _ = problem(layer, np.random.default_rng(5), sizes)
        (hs, *_), ends = run_layer(layer, steps, *arguments, loops=loops, keep=True)
        (hs_only, *_), ends_only = run_layer(layer, steps, *arguments, loops=loops, keep=False)
        assert_same([hs_only, *ends_only], [hs, *ends], 1e-14)


@needs_compiler
class TestTheMachineCode:
    @every_layer
    @both_kinds
    @pytest.mark.parametrize("team", ["torch's", "own"])
    def test_threads_share_the_rows_and_change_no_bit(self, layer, convert, team, monkeypatch):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(6), [37, 37, 30, 9], H=20)
        arguments, d_hs, d_ends = as_kind(convert, arguments), convert(d_hs), as_kind(convert, d_ends)
        alone = both_ways(layer, compiled, steps, arguments, d_hs, d_ends)
        monkeypatch.setattr(compiled, "threads", lambda *_: 3)
        if team == "own":
            monkeypatch.setattr(compiled, "_team", lambda: None)
        together = both_ways(layer, compiled, steps, arguments, d_hs, d_ends)
        assert all(a is b is None or bool((a == b).all()) for a, b in zip(alone, together, strict=True))

    def test_a_thread_needs_work_and_rows(self, monkeypatch):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(4)
            tensor = torch.zeros(1)
            assert compiled.threads(Steps((64,) * 100), 2**20, tensor) == 4
            assert compiled.threads(Steps((64,) * 100), 1, tensor) == 1  # too little work
            assert compiled.threads(Steps((9,) * 1000), 2**20, tensor) == 2  # at least four rows for each
            assert compiled.threads(Steps((1,) * 1000), 2**20, tensor) == 1
        finally:
            torch.set_num_threads(before)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert compiled.threads(Steps((64,) * 100), 2**20, np.zeros(1)) == 3

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_functions_are_exact_to_some_units_in_the_last_place(self, dtype):
        """The states of one step from zero weights are tanh of the bias, and the logistic function of it."""
        small = np.geomspace(1e-30, 1e-3, 300)
        a = np.concatenate([-small[::-1], small, np.linspace(-60, 60, 4001), [0.0, 1e4, -1e4]]).astype(dtype)
        H = len(a)
        x, h_0, zeros = np.zeros((32, 1), dtype), np.zeros((32, H), dtype), np.zeros((H, H), dtype)
        steps = Steps((32,))
        (hs,), _ = run_layer(
            RNN_LAYERS["tanh"],
            steps,
            x,
            h_0,
            zeros[:, :1],
            zeros,
            a,
            np.zeros_like(a),
            loops=compiled,
            keep=True,
        )
        exact = np.array([math.tanh(v) for v in a.astype(np.float64)])
        assert np.all(np.abs(hs[0] - exact) <= 4 * np.finfo(dtype).eps * np.abs(exact))
        (_, gates), _ = run_layer(
            GRU_LAYERS[False],
            steps,
            x,
            h_0,
            np.zeros((3 * H, 1), dtype),
            np.zeros((3 * H, H), dtype),
            np.tile(a, 3),
            np.zeros(3 * H, dtype),
            loops=compiled,
            keep=True,
        )
        exact = np.array([1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in a.astype(np.float64)])
        normal = exact > 1e-37  # below, float32 has no full precision left
        assert np.all(np.abs(gates[0, :H] - exact)[normal] <= 6 * np.finfo(dtype).eps * exact[normal])
        assert np.all(gates[0, :H][~normal] < 1e-37)

    @every_layer
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_and_infinity_come_out(self, layer, bad):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(7), [9] * 4)
        arguments[0][9 + 2, 1] = bad  # in step 2, sequence 2
        with np.errstate(invalid="ignore"):
            expected = both_ways(layer, differentiable, steps, arguments, d_hs, d_ends)
            actual = both_ways(layer, compiled, steps, arguments, d_hs, d_ends)
        assert_nan_and_infinity_where(actual, expected, bad)
        if math.isnan(bad):
            assert np.isnan(actual[0][11]).any()
            assert not np.isnan(np.delete(actual[0], [11, 20, 29], 0)).any()


CELLS: dict[type, dict[str, tuple[str, ...]]] = {
    VanillaCell: {"W_xh": ("H", "I"), "W_hh": ("H", "H"), "b_h": ("H",)},
    LSTMCell: {f"W_{g}": ("H", "H+I") for g in "fiCo"} | {f"b_{g}": ("H",) for g in "fiCo"},
    GRUCell: {"W_z": ("H", "H+I"), "W_r": ("H", "H+I"), "W": ("H", "H+I")}
    | dict.fromkeys(("b_z", "b_r", "b"), ("H",)),
    ResetAfterGRUCell: {
        "W_z": ("H", "H+I"),
        "b_z": ("H",),
        "W_r": ("H", "H+I"),
        "b_r": ("H",),
        "W_x": ("H", "I"),
        "b_x": ("H",),
        "W_h": ("H", "H"),
        "b_h": ("H",),
    },
}


def long_problem(cell_type, dtype=np.float64, T=60, B=6, I=4, H=48):
    rng = np.random.default_rng(8)
    sizes = {"H": H, "I": I, "H+I": H + I}
    arrays = {
        name: (rng.standard_normal([sizes[d] for d in dims]) / math.sqrt(H)).astype(dtype)
        for name, dims in CELLS[cell_type].items()
    }
    cell = cell_type(**arrays)
    state = tuple(rng.standard_normal((B, H)).astype(dtype) for _ in cell.state_names)
    d_final = tuple(rng.standard_normal((B, H)).astype(dtype) for _ in cell.state_names)
    xs, d_hs = (rng.standard_normal((T, B, width)).astype(dtype) for width in (I, H))
    assert T * B * H >= MANY_NUMBERS
    return cell, xs, state, d_hs, d_final


def everything(cell, xs, state, d_hs, d_final):
    trajectory = unroll(cell, xs, state)
    gradients = bptt(cell, trajectory, d_hs, d_final)
    return trajectory, [
        trajectory.hs,
        *trajectory.final,
        gradients.d_xs,
        *gradients.d_initial,
        *parameters_of(gradients.d_cell).values(),
    ]


class TestTheEquationsAreTheOracle:
    @pytest.mark.parametrize("name", ["plain", pytest.param("compiled", marks=needs_compiler)])
    @pytest.mark.parametrize("cell_type", CELLS)
    def test_of_unroll_and_bptt(self, cell_type, name):
        arguments = long_problem(cell_type)
        with engine.using("differentiable"):
            literal, expected = everything(*arguments)
        with engine.using(name):
            trajectory, actual = everything(*arguments)
        assert isinstance(literal.caches, tuple)
        assert isinstance(trajectory.caches, Recomputed)
        assert_same(actual, expected, 1e-11)
        for t in (0, 1, 59, -1):
            for a, e in zip(trajectory.caches[t], literal.caches[t], strict=True):
                assert relative_error(a, e) < 1e-11
        for field in trajectory.caches[0]._fields:
            assert relative_error(trajectory.along_time(field), literal.along_time(field)) < 1e-11
        with pytest.raises(IndexError):
            trajectory.caches[60]

    @pytest.mark.parametrize("cell_type", CELLS)
    def test_in_a_window(self, cell_type):
        cell, xs, state, d_hs, d_final = long_problem(cell_type)
        trajectory = unroll(cell, xs, state)
        with engine.using("differentiable"):
            literal = unroll(cell, xs, state)
        for start, stop in [(0, 60), (0, 20), (17, 60)]:
            window, reference = trajectory.window(start, stop), literal.window(start, stop)
            assert_same([*window.final, *window.initial], [*reference.final, *reference.initial], 1e-11)
            assert len(window.states) == stop - start
            assert_same(window.states[3], reference.states[3], 1e-11)
            actual = bptt(cell, window, d_hs[start:stop], d_final)
            expected = bptt(cell, reference, d_hs[start:stop], d_final)
            assert_same([actual.d_xs, *actual.d_initial], [expected.d_xs, *expected.d_initial], 1e-11)
            assert_same(parameters_of(actual.d_cell).values(), parameters_of(expected.d_cell).values(), 1e-11)

    @pytest.mark.parametrize("cell_type", CELLS)
    def test_where_only_the_last_state_is_wanted(self, cell_type):
        cell, xs, state, d_hs, d_final = long_problem(cell_type)
        with engine.using("differentiable"):
            d_expected = bptt(cell, unroll(cell, xs, state), d_hs, d_final)
        for steps, tolerance in ((60, 1e-11), (5, 1e-14)):
            with engine.using("differentiable"):
                literal = unroll(cell, xs[:steps], state)
            hs, final = hidden_states(cell, xs[:steps], state)
            assert_same([hs, *final], [literal.hs, *literal.final], tolerance)
        actual = checkpointed_bptt(cell, xs, d_hs, state, segment=58, d_final=d_final)
        assert_same([actual.d_xs, *actual.d_initial], [d_expected.d_xs, *d_expected.d_initial], 1e-11)

    @pytest.mark.parametrize("name", ["plain", pytest.param("compiled", marks=needs_compiler)])
    @pytest.mark.parametrize("cell_type", CELLS)
    def test_where_the_hidden_states_are_known(self, cell_type, name):
        cell, xs, state, d_hs, d_final = long_problem(cell_type)
        with engine.using("differentiable"):
            literal, expected = everything(cell, xs, state, d_hs, d_final)
        with engine.using(name):
            again = unroll_again(cell, xs, literal.hs, state)
            gradients = bptt(cell, again, d_hs, d_final)
            checkpointed = checkpointed_bptt(
                cell, xs, d_hs, state, segment=58, d_final=d_final, keep_outputs=True
            )
        assert isinstance(again.caches, Recomputed)
        assert_same([again.hs, *again.final], [literal.hs, *literal.final], 1e-11)
        for field in again.caches[0]._fields:
            assert relative_error(again.along_time(field), literal.along_time(field)) < 1e-11
        for found in (gradients, checkpointed):
            back = [found.d_xs, *found.d_initial, *parameters_of(found.d_cell).values()]
            assert_same(back, expected[1 + len(state) :], 1e-11)

    def test_a_known_run_of_few_steps_is_run_again(self):
        cell, xs, state, *_ = long_problem(LSTMCell)
        expected = unroll(cell, xs[:5], state)
        again = unroll_again(cell, xs[:5], expected.hs, state)
        assert isinstance(again.caches, tuple)
        assert_same([again.hs, *again.final], [expected.hs, *expected.final], 1e-14)
        with pytest.raises(ValueError, match=r"unroll_again: hs has shape \(60, 6, 47\).* H = 48"):
            unroll_again(cell, xs, np.zeros((60, 6, 47)), state)

    def test_no_product_of_a_known_run_waits_for_a_step(self, monkeypatch):
        cell, xs, state, *_ = long_problem(LSTMCell)
        hs, walked = unroll(cell, xs, state).hs, []
        loop = plain.lstm

        def counted(steps, *arguments, **options):
            walked.append(len(steps.sizes))
            return loop(steps, *arguments, **options)

        monkeypatch.setattr(plain, "lstm", counted)
        with engine.using("plain"):
            unroll_again(cell, xs, hs, state)
        assert walked
        assert set(walked) == {1}

    @pytest.mark.parametrize("merge", ["concat", "sum"])
    def test_a_network_from_both_ends_may_keep_its_outputs(self, merge):
        cell, xs, _, d_hs, _ = long_problem(GRUCell)
        network = Bidirectional((cell, cell), merge)
        d_hs = np.concatenate([d_hs] * 2, axis=2) if merge == "concat" else d_hs
        for whole in (network, Stack((network,))):
            expected = backward(whole, forward(whole, xs), d_hs)
            actual = checkpointed_bptt(whole, xs, d_hs, segment=58, keep_outputs=True)
            assert relative_error(actual.d_xs, expected.d_xs) < 1e-11
            pairs = parameters_of(actual.d_cell), parameters_of(expected.d_cell)
            assert_same(*(p.values() for p in pairs), 1e-11)

    def test_relu_too(self):
        cell, *others = long_problem(VanillaCell)
        cell = VanillaCell(cell.W_xh, cell.W_hh, cell.b_h, "relu")
        with engine.using("differentiable"):
            _, expected = everything(cell, *others)
        trajectory, actual = everything(cell, *others)
        assert isinstance(trajectory.caches, Recomputed)
        assert_same(actual, expected, 1e-11)

    def test_where_the_rule_says_so_the_equations_run(self):
        cell, xs, state, *_ = long_problem(LSTMCell)
        few = MANY_NUMBERS // (6 * 48)
        assert isinstance(unroll(cell, xs[:few], state).caches, tuple)
        assert isinstance(unroll(cell, xs, state, lengths=[60] * 6).caches, tuple)
        assert isinstance(unroll(Meter().watch(cell), xs, state).caches, tuple)

        class Another(LSTMCell):
            """May do something else in its step."""

        assert slabs_of(Another(**parameters_of(cell))) is None
        logistic = random_vanilla_cell(np.random.default_rng(0), 4, 48, activation="logistic")
        assert slabs_of(logistic) is None
        tensors = LSTMCell(**{name: torch.tensor(a) for name, a in parameters_of(cell).items()})
        assert isinstance(unroll(tensors, torch.tensor(xs)).caches, tuple)


MODULES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "RNN": (nn.RNN, torch.nn.RNN, {}),
    "RNN relu": (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, torch.nn.LSTM, {}),
    "GRU": (nn.GRU, torch.nn.GRU, {}),
}


class TestTheModules:
    @pytest.mark.parametrize(
        "name", ["differentiable", "plain", pytest.param("compiled", marks=needs_compiler)]
    )
    @pytest.mark.parametrize("family", MODULES)
    @pytest.mark.parametrize("bias", [True, False])
    def test_of_torch_nn_agree_with_each_engine(self, family, name, bias):
        ours, theirs, options = MODULES[family]
        torch.manual_seed(0)
        reference = theirs(5, 19, 2, bias=bias, bidirectional=True, dtype=torch.float64, **options)
        module = ours(5, 19, 2, bias=bias, bidirectional=True, dtype=torch.float64, **options)
        module.load_state_dict(reference.state_dict())
        xs = torch.randn(7, 13, 5, dtype=torch.float64, requires_grad=True)
        d_output, results = torch.randn(7, 13, 38, dtype=torch.float64), []
        with engine.using(name):
            for m in (reference, module):
                output, _ = m(xs)
                inputs = [xs, *m.parameters()]
                results.append([output, *torch.autograd.grad(output, inputs, d_output)])
            with torch.no_grad():
                forward, _ = module(xs)
        assert_same([a.detach() for a in results[1]], [e.detach() for e in results[0]], 1e-11)
        assert relative_error(forward, results[0][0].detach()) < 1e-11

    def test_what_is_watched_is_differentiable(self):
        module = nn.GRU(3, 4)
        layer, steps, x = module.layer, Steps((40,)), torch.zeros(40, 3)
        assert nn.loops_for(layer, steps, x) is choose(x, steps) is not differentiable
        assert nn.loops_for(nn.LSTM(3, 4, proj_size=2).layer, steps, x) is differentiable

        class Special(torch.Tensor):
            pass

        assert nn.loops_for(layer, steps, x, x.as_subclass(Special)) is differentiable
        seen = []
        torch.func.vmap(lambda row: seen.append(nn.loops_for(layer, steps, row)) or row)(x)
        assert seen == [differentiable]


class TestMemory:
    def test_too_little_of_it_is_said_before_it_is_taken(self, monkeypatch):
        cell, xs, *_ = long_problem(LSTMCell)
        many = np.broadcast_to(xs[:1], (200_000, *xs.shape[1:]))
        monkeypatch.setattr("rnnlib.engine.layers.free_memory", lambda: 2**28)
        message = (
            r"200000 steps of 6 sequences would keep 2\.8 GB, and 0\.3 GB are free: go back through fewer"
        )
        with pytest.raises(MemoryError, match=message):
            unroll(cell, many)
        known = np.broadcast_to(unroll(cell, xs[:5]).hs[:1], (30_000, 6, 48))
        with pytest.raises(MemoryError, match=r"30000 steps of 6 sequences would keep 0\.3 GB"):
            unroll_again(cell, many[:30_000], known)
        module = nn.LSTM(4, 48)
        with pytest.raises(MemoryError, match="200000 steps of 6 sequences would keep 1"):
            module(torch.zeros(1, 6, 4).expand(200_000, 6, 4))
        monkeypatch.setattr("rnnlib.engine.layers.free_memory", lambda: None)  # a system that does not say
        unroll(cell, many[:1000])

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_what_is_free_is_less_than_there_is(self):
        free = layers.free_memory()
        assert 2**20 < free < 2**50


class TestTheChoice:
    def test_follows_from_the_arrays(self):
        many, few = Steps((32,)), Steps((31,))
        best = compiled if compiled.compiler() else plain
        for convert in KINDS.values():
            assert choose(convert(np.zeros(1)), many) is best
            assert choose(convert(np.zeros(1, np.float32)), many) is best
            assert choose(convert(np.zeros(1)), few) is plain
            assert choose(convert(np.zeros(1, np.float16)), many) is plain
        assert choose(torch.zeros(1, device="meta"), many) is plain

    def test_can_be_fixed(self, monkeypatch):
        like, steps = np.zeros(1), Steps((32,))
        for name in ("plain", "differentiable"):
            with engine.using(name):
                assert choose(like, steps) is getattr(engine, name)
            monkeypatch.setenv("RNNLIB_ENGINE", name)
            assert choose(like, steps) is getattr(engine, name)
        monkeypatch.setenv("RNNLIB_ENGINE", "fastest")
        with pytest.raises(ValueError, match="RNNLIB_ENGINE is 'fastest', expected one of"):
            choose(like, steps)
        with pytest.raises(ValueError, match="name is 'fastest', expected one of"), engine.using("fastest"):
            pass
        with (
            engine.using("compiled"),
            pytest.raises(RuntimeError, match="float32 and float64 on the CPU, not in"),
        ):
            choose(np.zeros(1, np.float16), steps)

    def test_without_a_compiler_it_is_the_plain_one(self, monkeypatch):
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        compiled.problem.cache_clear()
        compiled._library.cache_clear()
        try:
            assert choose(np.zeros(1), Steps((32,))) is plain
            with engine.using("compiled"), pytest.raises(RuntimeError, match="no C compiler: install one"):
                choose(np.zeros(1), Steps((32,)))
        finally:
            compiled.problem.cache_clear()
            compiled._library.cache_clear()

    def test_a_compiler_may_come_as_a_package(self, monkeypatch):
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "ziglang" else None)
        assert compiled.compiler() == [sys.executable, "-m", "ziglang", "cc"]
        monkeypatch.setenv("CC", "my-compiler --quick")
        assert compiled.compiler() == ["my-compiler", "--quick"]

    def test_a_compiler_that_fails_is_told_once(self, tmp_path):
        code = (
            "import numpy as np\nfrom rnnlib.engine import Steps, choose, plain\n"
            "assert choose(np.zeros(1), Steps((32,))) is plain\n" * 2
        )
        environment = os.environ | {"CC": "false", "XDG_CACHE_HOME": str(tmp_path)}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert found.returncode == 0, found.stderr
        assert found.stderr.count("rnnlib computes without its compiled loops: false could not compile") == 1

    @needs_compiler
    def test_a_library_is_built_once_and_a_folder_that_cannot_be_written_is_named(self, tmp_path):
        library = compiled.build("float64", tmp_path)
        made = library.stat().st_mtime_ns
        assert compiled.build("float64", tmp_path) == library
        assert library.stat().st_mtime_ns == made
        assert list(tmp_path.iterdir()) == [library]  # nothing is left behind
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(RuntimeError, match=r"cannot write to .*file"):
            compiled.build("float64", blocked)

    @needs_compiler
    @pytest.mark.parametrize("flags", ["-mno-avx512f -mavx2 -mfma", "-mno-avx", "-O0"])
    def test_narrower_processors_compute_the_same(self, flags, tmp_path):
        """The code for other vectors, as far as this processor has them."""
        if "x86" not in os.uname().machine and flags != "-O0":
            pytest.skip("flags of another processor")
        code = (
            "import numpy as np\nfrom tests.test_engine import *\n"
            "for layer in LAYERS.values():\n"
            "    arguments = problem(layer, np.random.default_rng(0), [14, 14, 9, 3], True, 6, 21)\n"
            "    expected = both_ways(layer, differentiable, *arguments)\n"
            "    assert_same(both_ways(layer, compiled, *arguments), expected, 1e-11)\n"
        )
        environment = os.environ | {"RNNLIB_CFLAGS": flags, "XDG_CACHE_HOME": str(tmp_path)}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr


class TestSteps:
    @given(sizes=ragged, reverse=st.booleans(), rows=st.integers(1, 60))
    @settings(max_examples=60, deadline=None)
    def test_blocks_start_from_the_states_that_the_walk_has_there(self, sizes, reverse, rows):
        steps = Steps(tuple(sizes), reverse)
        rng = np.random.default_rng(0)
        initial, states = rng.standard_normal((sizes[0], 2)), rng.standard_normal((sum(sizes), 2))
        state = initial.copy()
        covered = []
        for part, first, last in steps.blocks(rows):
            assert last - first <= rows or len(part.sizes) == 1
            assert np.array_equal(steps.state_before(first, last, initial, states), state[: part.sizes[0]])
            before = part.states_before(state[: part.sizes[0]], states[first:last])
            seen = np.empty_like(before)
            for t in part.walk:
                here = slice(part.offsets[t], part.offsets[t + 1])
                seen[here] = state[: part.sizes[t]]
                state[: part.sizes[t]] = states[first:last][here]
            assert np.array_equal(before, seen)
            assert np.array_equal(part.last(states[first:last]), state[: part.sizes[0]])
            covered.append((first, last))
        covered.sort()
        assert [first for first, _ in covered] == [0, *(last for _, last in covered[:-1])]
        assert covered[-1][1] == sum(sizes)
        assert np.array_equal(steps.last(states), state)


def test_no_warning_is_hidden():
    """The engine is used without a word where it can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.LSTM(2, 3)(torch.zeros(40, 2, 2))


class TestTheRecordOfMemory:
    """``experiments/memory.py``, which chapter 4 draws."""

    script = load_module(ROOT / "experiments" / "memory.py")

    def test_the_script_measures(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(self.script, "SEGMENT", 400)
        path = tmp_path / "record.json"
        self.script.main(["--steps", "40", "2000", "--rounds", "1", "--output", str(path)])
        record = json.loads(path.read_text(encoding="utf-8"))
        assert [(r["cell"], r["T"]) for r in record["results"]] == [
            (cell, T) for cell in ("rnn", "lstm") for T in (40, 2000)
        ]
        for r in record["results"]:
            assert set(r["methods"]) == {"full", "checkpointed", "outputs kept", "truncated"}
            known = 4 * r["T"] * 64 * 4
            for m in r["methods"].values():
                assert m["memory"] == pytest.approx((m["bytes"] + known / 2) / known)
                assert m["time"] > 0
        long = record["results"][-1]["methods"]  # the LSTM's gates, 5 segments of them against one
        assert long["checkpointed"]["bytes"] < long["outputs kept"]["bytes"] < long["full"]["bytes"] / 2
        assert "T =     2000" in capsys.readouterr().out

    def test_the_four_ways_have_one_gradient(self, monkeypatch):
        monkeypatch.setattr(self.script, "SEGMENT", 400)
        rng = np.random.default_rng(0)
        cell = self.script.lstm_cell(rng)
        xs, d_hs = rng.standard_normal((2, 1000, 1, 64), dtype=np.float32)
        d_hs[400:] = 0  # nothing to truncate: what is lost comes from windows behind
        ways = self.script.methods(cell, xs, d_hs)
        full = ways["full"]().d_xs
        assert relative_error(ways["checkpointed"]().d_xs, full) < 1e-4
        assert relative_error(ways["outputs kept"]().d_xs, full) < 1e-4
        assert relative_error(np.concatenate(ways["truncated"]()), full) < 1e-4

    def test_the_record_is_the_one_that_the_script_writes(self):
        record = json.loads((ROOT / "experiments" / "memory.json").read_text(encoding="utf-8"))
        assert {"device", "date", "versions", "settings", "results"} <= set(record)
        assert {r["T"] for r in record["results"]} == {1_000, 10_000, 100_000, 1_000_000}
