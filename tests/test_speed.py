"""The rearranged loops, the arithmetic of a cell, and the model of what a step costs."""

from __future__ import annotations

import inspect
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rnnlib import activations, benchmark, engine, speed
from rnnlib.engine import Steps
from tests.conftest import ROOT
from tests.support import seeds, sizes

NARROW, WIDE = np.finfo(np.float32).eps / 2, np.finfo(np.float64).eps / 2  # unit roundoffs


def loop(kind, xs, h_0, weights):
    """torch's own cell in a loop, float64: all states, and the cell's pre-activations kept for autograd."""
    cell = getattr(torch.nn, f"{kind}Cell")(xs.shape[2], h_0[0].shape[1], dtype=torch.float64)
    with torch.no_grad():
        for p, w in zip(cell.parameters(), weights, strict=True):
            p.copy_(torch.tensor(w))
    state, hs, Cs = h_0 if kind == "LSTM" else h_0[0], [], []
    for x_t in xs:
        state = cell(x_t, state)
        hs.append(state[0] if kind == "LSTM" else state)
        Cs.append(state[1] if kind == "LSTM" else state)
    return cell, torch.stack(hs), torch.stack(Cs)


# --- out of the loop --------------------------------------------------------------------------


@pytest.mark.equation("eq-speed-inputs")
@given(sizes("T", "B", "I", "G"), seeds)
def test_one_product_for_all_steps_is_the_products_of_the_steps(agree, n, seed):
    rng = np.random.default_rng(seed)
    xs, W, b = (
        rng.normal(size=(n["T"], n["B"], n["I"])),
        rng.normal(size=(n["G"], n["I"])),
        rng.normal(size=n["G"]),
    )
    expected = torch.nn.functional.linear(*map(torch.tensor, (xs, W, b)))
    agree(speed.input_contributions, "torch.nn.functional", speed.input_contributions(xs, W, b), expected)


@pytest.mark.equation("eq-speed-vanilla-recurrence", "eq-speed-weight-gradient")
@given(sizes("T", "B", "I", "H"), seeds)
def test_the_vanilla_way_back_agrees_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    T, B, I, H = n["T"], n["B"], n["I"], n["H"]
    weights = [rng.normal(size=s) for s in ((H, I), (H, H), (H,), (H,))]
    xs, h_0 = torch.tensor(rng.normal(size=(T, B, I))), torch.tensor(rng.normal(size=(B, H)))
    cell, hs, _ = loop("RNN", xs, (h_0,), weights)
    gs = rng.normal(size=(T, B, H))
    hs.backward(torch.tensor(gs))

    hs = hs.detach().numpy()
    d_as = speed.vanilla_recurrence(gs, 1 - hs**2, weights[1])
    agree(speed.vanilla_recurrence, "torch.autograd", d_as.sum((0, 1)), cell.bias_ih.grad)
    before = np.concatenate([h_0[None].numpy(), hs[:-1]])
    agree(speed.weight_gradient, "torch.autograd", speed.weight_gradient(d_as, before), cell.weight_hh.grad)
    agree(
        speed.weight_gradient, "torch.autograd", speed.weight_gradient(d_as, xs.numpy()), cell.weight_ih.grad
    )

    rows = gs.reshape(T * B, H), np.zeros((B, H)), weights[1], hs.reshape(T * B, H)
    for loops in (engine.differentiable, engine.plain):
        fast, _ = loops.rnn_back(Steps((B,) * T), *rows, relu=False)
        agree(speed.vanilla_recurrence, "rnnlib.engine", fast.reshape(T, B, H), d_as)


@pytest.mark.equation("eq-speed-lstm-factors", "eq-speed-lstm-recurrence")
@given(sizes("T", "B", "I", "H"), seeds)
def test_the_LSTM_way_back_agrees_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    T, B, I, H = n["T"], n["B"], n["I"], n["H"]
    weights = [rng.normal(size=s) for s in ((4 * H, I), (4 * H, H), (4 * H,), (4 * H,))]
    xs = torch.tensor(rng.normal(size=(T, B, I)))
    h_0, C_0 = torch.tensor(rng.normal(size=(2, B, H)))
    cell, hs, Cs = loop("LSTM", xs, (h_0, C_0), weights)
    gs = rng.normal(size=(T, B, H))
    hs.backward(torch.tensor(gs))

    hs, Cs = hs.detach().numpy(), Cs.detach().numpy()
    before = np.concatenate([h_0[None].numpy(), hs[:-1]])
    C_before = np.concatenate([C_0[None].numpy(), Cs[:-1]])
    W_ih, W_hh, b_ih, b_hh = weights
    a = speed.input_contributions(xs.numpy(), W_ih, b_ih + b_hh) + before @ W_hh.T
    gates = scipy.special.expit(a)
    gates[:, :, 2 * H : 3 * H] = np.tanh(a[:, :, 2 * H : 3 * H])
    P, k = speed.lstm_factors(gates, C_before, Cs)
    d_as = speed.lstm_recurrence(gs, P, k, gates[:, :, H : 2 * H], W_hh)
    agree(speed.lstm_recurrence, "torch.autograd", d_as.sum((0, 1)), cell.bias_ih.grad)
    agree(speed.weight_gradient, "torch.autograd", speed.weight_gradient(d_as, before), cell.weight_hh.grad)
    # The factors alone: with one step, ∂L/∂a is P times the gradients of C and of h.
    first = speed.lstm_recurrence(gs[:1], P[:1], k[:1], gates[:1, :, H : 2 * H], W_hh)
    d_C = gs[0] * gates[0, :, 3 * H :] * (1 - np.tanh(Cs[0]) ** 2)
    agree(
        speed.lstm_factors,
        "by hand",
        first[0, :, H : 2 * H],
        d_C * C_before[0] * (f := gates[0, :, H : 2 * H]) * (1 - f),
    )


@given(seeds)
def test_the_recurrences_are_linear_in_what_comes_in(seed):
    rng = np.random.default_rng(seed)
    g_1, g_2, slopes, k, fs = rng.normal(size=(5, 4, 2, 3))
    W, V, P = rng.normal(size=(3, 3)), rng.normal(size=(12, 3)), rng.normal(size=(4, 2, 12))
    for back in (
        lambda g: speed.vanilla_recurrence(g, slopes, W),
        lambda g: speed.lstm_recurrence(g, P, k, fs, V),
    ):
        np.testing.assert_allclose(
            back(2 * g_1 - g_2), 2 * back(g_1) - back(g_2), atol=1e-9 * abs(back(g_1)).max()
        )


# --- the arithmetic ---------------------------------------------------------------------------


@pytest.mark.equation("eq-speed-exp")
def test_exp_is_right_to_a_few_last_digits_in_both_precisions(agree):
    x = np.concatenate([np.linspace(-700, 700, 20001), np.linspace(-1, 1, 2001)])[None]
    found, expected = speed.exponential(x), np.exp(x)
    agree(speed.exponential, "numpy.exp", found / expected, np.ones_like(x))
    assert abs(found / expected - 1).max() < 4 * WIDE
    narrow = np.linspace(-86, 86, 30001, dtype=np.float32)[None]
    found = speed.exponential(narrow, terms=7).astype(float)
    assert abs(found / np.exp(narrow.astype(float)) - 1).max() < 3 * NARROW
    assert (
        abs(speed.exponential(narrow, terms=4).astype(float) / np.exp(narrow.astype(float)) - 1).max()
        > 10 * NARROW
    )


@pytest.mark.equation("eq-speed-exp", "eq-speed-exp-error")
@pytest.mark.parametrize("terms", range(1, 10))
def test_the_bound_of_the_polynomial_holds_and_is_nearly_reached(terms):
    r = np.linspace(-math.log(2) / 2, math.log(2) / 2, 4001)[None]
    worst = abs(speed.exponential(r, terms) / np.exp(r) - 1).max()
    bound = speed.exponential_error(terms)
    assert 0.8 * bound < worst < bound + 3 * WIDE


def test_the_degrees_of_the_compiled_loops_are_enough():
    assert speed.exponential_error(7) < NARROW / 5 < speed.exponential_error(6)
    assert speed.exponential_error(13) < WIDE / 10
    # ln 2 from its two parts, exactly as rational numbers, to 1e-19 (40 digits of ln 2).
    ln2 = Fraction("0.6931471805599453094172321214581765680755")
    assert abs(Fraction(speed.LN2_HIGH) + Fraction(speed.LN2_LOW) - ln2) < Fraction(1, 10**19)
    assert float(np.float32(speed.LN2_HIGH)) == speed.LN2_HIGH == 355 / 512


@pytest.mark.equation("eq-speed-tanh")
def test_tanh_is_right_from_the_smallest_number_to_the_largest(agree):
    a = np.concatenate([10.0 ** np.linspace(-300, 300, 601), np.linspace(0.001, 30, 5000)])
    a = np.concatenate([a, -a, [0.0]])[None]
    over, under = speed.tanh_fraction(a)
    assert (under >= 1).all()
    assert (under <= 2).all()
    agree(speed.tanh_fraction, "numpy.tanh", over / under, np.tanh(a))
    inside = a != 0
    assert abs((over / under)[inside] / np.tanh(a)[inside] - 1).max() < 8 * WIDE
    small = np.float32(10.0) ** -np.arange(1, 30, dtype=np.float32)[None]
    over, under = speed.tanh_fraction(small)
    assert over.dtype == np.float32
    assert abs((over / under) / np.tanh(small.astype(float)) - 1).max() < 4 * NARROW
    crude = 2 * activations.logistic(2 * small) - 1
    assert abs(crude / np.tanh(small.astype(float)) - 1).max() > 0.9  # what the fraction is for


@pytest.mark.equation("eq-speed-logistic")
def test_the_logistic_fraction_cannot_overflow(agree):
    a = np.concatenate([np.linspace(-40, 40, 1001), [-1e300, 1e300]])[None]
    with np.errstate(all="raise", under="ignore"):
        over, under = speed.logistic_fraction(a)
    assert (under >= 1).all()
    assert under.max() <= 2
    agree(speed.logistic_fraction, "scipy.special.expit", over / under, scipy.special.expit(a))


@pytest.mark.equation("eq-speed-shared-division")
@given(seeds)
def test_one_division_gives_two_fractions_to_three_roundings(agree, seed):
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, 4, 5))
    a, b = rng.uniform(1, 2, size=(2, 4, 5))
    x, y = speed.shared_division(p, a, q, b)
    agree(speed.shared_division, "numpy.divide", [x, y], [p / a, q / b])
    for found, over, under in ((x, p, a), (y, q, b)):
        for z, n, d in zip(found.flat, over.flat, under.flat, strict=True):
            exact = Fraction(n) / Fraction(d)
            assert abs(Fraction(z) / exact - 1) <= Fraction(4.01 * WIDE)


# --- the model --------------------------------------------------------------------------------


def flops(module, xs, state):
    with FlopCounterMode(display=False) as forward:
        hs = []
        for x_t in xs:
            state = module(x_t, state)
            hs.append(state[0] if isinstance(state, tuple) else state)
    with FlopCounterMode(display=False) as back:
        torch.stack(hs).sum().backward()
    return forward.get_total_flops(), back.get_total_flops()


@pytest.mark.equation("eq-speed-operations")
@pytest.mark.parametrize("cell", speed.CELLS)
@given(n=sizes("T", "B", "I", "H"))
def test_the_operations_are_those_that_torch_counts(cell, n):
    module = getattr(torch.nn, f"{cell.upper()}Cell")(n["I"], n["H"])
    xs = torch.randn(n["T"], n["B"], n["I"], requires_grad=True)
    h_0 = torch.randn(n["B"], n["H"], requires_grad=True)
    forward, back = flops(module, xs, (h_0, torch.randn(n["B"], n["H"])) if cell == "lstm" else h_0)
    assert speed.operations(cell, **n) == forward
    assert speed.operations(cell, **n, train=True) == forward + back
    assert benchmark.operations(cell, benchmark.Point(**n), "train") == forward + back


@pytest.mark.equation("eq-speed-operations", "eq-speed-bytes", "eq-speed-intensity")
def test_the_counts_by_hand():
    # LSTM, one example, two units: eight rows of two weights; slab and both states, in and out.
    assert speed.operations("lstm", T=1, B=1, I=3, H=2) == 2 * 8 * (3 + 2)
    assert speed.step_bytes("lstm", B=1, H=2) == 4 * (16 + 2 * 8 + 2 * 2 + 2 * 2)
    assert speed.step_bytes("lstm", B=1, H=2, weights_stay=True) == 4 * (2 * 8 + 2 * 2 + 2 * 2)
    assert speed.step_bytes("rnn", B=5, H=3, itemsize=8) == 8 * (9 + 15 + 15 + 15 + 15)
    assert speed.intensity("lstm", B=1, H=2) == 32 / 160
    assert speed.intensity("gru", B=1, H=1000) == pytest.approx(
        0.5, rel=0.01
    )  # two for each weight of 4 bytes


@pytest.mark.equation("eq-speed-roofline", "eq-speed-intensity", "eq-speed-balance")
@given(st.sampled_from(sorted(speed.CELLS)), st.integers(1, 2000), st.floats(1e9, 1e14), st.floats(1e9, 1e13))
def test_at_the_balanced_batch_the_roof_bends(cell, H, peak, bandwidth):
    B = speed.balanced_batch(cell, H, peak, bandwidth)
    if math.isinf(B):  # not even with a million rows
        assert speed.roofline(speed.intensity(cell, 10**6, H), peak, bandwidth) < peak
        return
    below, above = max(1, math.floor(B * (1 - 1e-9))), math.ceil(B * (1 + 1e-9)) or 1
    ridge = peak / bandwidth
    assert speed.intensity(cell, above, H) >= ridge * (1 - 1e-9)
    if below < B:
        assert speed.intensity(cell, below, H) <= ridge * (1 + 1e-9)
    assert speed.roofline(2 * ridge, peak, bandwidth) == peak
    assert speed.roofline(ridge / 2, peak, bandwidth) == pytest.approx(peak / 2)


@pytest.mark.equation("eq-speed-step-time")
def test_a_step_takes_the_longer_of_two_and_its_launches():
    machine = speed.Machine(peak=1e11, bandwidth=1e10, launch=1e-6)
    cases = {
        (2e5, 1e3, 0): (2e-6, "operations"),
        (1e3, 4e4, 1): (5e-6, "bytes"),
        (2e5, 1e4, 7): (9e-6, "launches"),
        (0, 0, 1): (1e-6, "launches"),
    }
    for arguments, (seconds, name) in cases.items():
        assert speed.step_time(*arguments, machine) == pytest.approx(seconds)
        assert speed.bound(*arguments, machine) == name


@pytest.mark.equation("eq-speed-sequence-time")
@given(st.sampled_from(sorted(speed.CELLS)), sizes("T", "B", "I", "H"), st.booleans())
def test_the_parts_hold_all_operations_and_their_times_add_up(cell, n, train):
    found = speed.parts(cell, **n, train=train)
    assert sum(p.times * p.operations for p in found) == speed.operations(cell, **n, train=train)
    assert [p.times for p in found] == [1, n["T"], n["T"], 1][: len(found)]
    # Only operations, only bytes, only launches.
    everything = dict(cell=cell, **n, train=train)
    by_operations = speed.sequence_time(**everything, machine=speed.Machine(1.0, 1e30, 0), launches=5)
    assert by_operations == pytest.approx(speed.operations(**everything))
    by_bytes = speed.sequence_time(**everything, machine=speed.Machine(1e30, 1.0, 0), launches=5)
    assert by_bytes == pytest.approx(sum(p.times * p.bytes for p in found))
    by_launches = speed.sequence_time(**everything, machine=speed.Machine(1e30, 1e30, 1.0), launches=5)
    assert by_launches == pytest.approx((2 if train else 1) * (5 * n["T"] + 1))
    staying = speed.parts(cell, **n, train=train, weights_stay=True)
    saved = 4 * speed.CELLS[cell].gates * n["H"] ** 2
    assert [a.bytes - b.bytes for a, b in zip(found, staying, strict=True)] == [0, saved, saved, 0][
        : len(found)
    ]


@pytest.mark.equation("eq-speed-bytes")
def test_the_bytes_of_the_products_by_hand():
    inputs, _, _, gradients = speed.parts("gru", T=2, B=3, I=5, H=7, train=True)
    G_H = 21
    assert inputs.bytes == 4 * (2 * 3 * 5 + G_H * 5 + 2 * 3 * G_H)
    d_W_x = 2 * 3 * G_H + 2 * 3 * 5 + G_H * 5
    d_x = 2 * 3 * G_H + G_H * 5 + 2 * 3 * 5
    d_W_h = 2 * 3 * G_H + 2 * 3 * 7 + G_H * 7
    assert gradients.bytes == 4 * (d_W_x + d_x + d_W_h)


@pytest.mark.equation("eq-speed-up")
@given(st.floats(0.01, 0.99), st.floats(0.1, 100))
def test_the_speed_up_is_the_old_time_over_the_new(share, factor):
    old, new = 10.0, 10 * (1 - share) + 10 * share / factor
    assert speed.speed_up(share, factor) == pytest.approx(old / new)
    assert speed.speed_up(share, math.inf) == pytest.approx(1 / (1 - share))


def test_the_speed_up_at_its_ends():
    assert speed.speed_up(0.5, math.inf) == 2
    assert speed.speed_up(1, 7) == pytest.approx(7)
    assert speed.speed_up(1, math.inf) == math.inf
    assert speed.speed_up(0, math.inf) == 1


# --- counting calls ---------------------------------------------------------------------------


def test_calls_are_counted_without_views_and_memory():
    a, b = torch.ones(3, 3), torch.ones(3)

    def some():
        first, second = a.chunk(2, dim=1)
        torch.empty(5)
        return torch.tanh(a.T @ a + b), second.exp_(), first[0]

    assert speed.count_calls(some) == {"mm": 1, "add": 1, "tanh": 1, "exp_": 1}
    assert speed.count_calls(lambda x: x.view(9), a) == {}


def test_the_in_place_loop_calls_fewer_operations_and_the_compiled_one_none_a_step():
    T, B, I, H = 6, 9, 2, 3
    x, h_0, steps = torch.randn(T * B, I), torch.zeros(B, H), Steps((B,) * T)
    weights = torch.randn(4 * H, I), torch.randn(4 * H, H), torch.randn(4 * H)

    def calls(loops):
        out = () if loops is engine.differentiable else ([torch.empty(T * B, w * H) for w in (1, 1, 4)],)
        return sum(speed.count_calls(lambda: loops.lstm(steps, x, h_0, h_0, *weights, *out)).values())

    assert calls(engine.differentiable) > calls(engine.plain) >= 8 * T
    if engine.compiled.problem("float32") is None:
        assert calls(engine.compiled) < T


# --- bad input --------------------------------------------------------------------------------

MACHINE = speed.Machine(1e11, 1e10, 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: speed.operations("elman", 1, 1, 1, 1),
            "operations: cell is 'elman', expected one of 'rnn', 'gru'",
        ),
        (
            lambda: speed.operations("rnn", 0, 1, 1, 1),
            "operations: T is 0, expected a whole number of at least 1",
        ),
        (lambda: speed.step_bytes("rnn", 1, 1, itemsize=0), "step_bytes: itemsize is 0"),
        (lambda: speed.intensity("rnn", 1, -1), "intensity: H is -1"),
        (
            lambda: speed.roofline(0.0, 1.0, 1.0),
            "roofline: intensity is 0.0, expected a finite number above 0",
        ),
        (lambda: speed.roofline(1.0, math.inf, 1.0), "roofline: peak is inf"),
        (lambda: speed.balanced_batch("rnn", 1, 1.0, 0.0), "balanced_batch: bandwidth is 0.0"),
        (
            lambda: speed.step_time(-1, 1, 1, MACHINE),
            "step_time: operations is -1, expected a finite number of at",
        ),
        (lambda: speed.step_time(1, math.nan, 1, MACHINE), "step_time: moved is nan"),
        (
            lambda: speed.step_time(1, 1, -1, MACHINE),
            "step_time: launches is -1, expected a whole number of at least 0",
        ),
        (lambda: speed.bound(1, -1, 1, MACHINE), "bound: moved is -1"),
        (lambda: speed.Machine(0, 1, 1), "Machine: peak is 0, expected a finite number above 0"),
        (lambda: speed.Machine(1, 1, -1), "Machine: launch is -1, expected a finite number of at least 0"),
        (lambda: speed.exponential_error(0), "exponential_error: terms is 0"),
        (lambda: speed.exponential(np.ones((1, 1)), terms=0), "exponential: terms is 0"),
        (lambda: speed.speed_up(1.5, 2), "speed_up: share is 1.5, expected a number from 0 to 1"),
        (lambda: speed.speed_up(0.5, 0), "speed_up: factor is 0, expected a number above 0"),
        (lambda: speed.speed_up(0.5, math.nan), "speed_up: factor is nan"),
        (
            lambda: speed.lstm_factors(np.ones((1, 1, 3)), np.ones((1, 1, 1)), np.ones((1, 1, 1))),
            r"lstm_factors: gates has shape \(1, 1, 3\), expected \(T, B, 4H\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_wrong_kind_of_number_is_named():
    with pytest.raises(TypeError, match="operations: B is a float, expected a whole number"):
        speed.operations("rnn", 1, 1.5, 1, 1)
    with pytest.raises(TypeError, match="Machine: bandwidth is a str"):
        speed.Machine(1, "fast", 1)


def test_the_record_of_the_chapter_holds_what_the_chapter_draws():
    record = json.loads((ROOT / "experiments" / "benchmark_cpu.json").read_text(encoding="utf-8"))
    assert {"device", "date", "versions", "commands", "records"} <= set(record)
    assert len(record["commands"]) == len(record["records"])
    for run in record["records"]:
        assert run["engine"] in engine.ENGINES
        assert run["settings"]["threads"] in (1, 2)
        assert {(r["cell"], r["mode"]) for r in run["results"]} >= {
            (cell, mode) for cell in speed.CELLS for mode in benchmark.MODES
        }
        for r in run["results"]:
            assert benchmark.POINTS[r["point"]] == tuple(r[size] for size in "TBIH")
            assert all(0 < c["low"] <= c["ratio"] <= c["high"] for c in r["contenders"].values())


def test_the_module_needs_numpy_alone_until_torch_is_counted():
    source = inspect.getsource(speed)
    assert "\nimport torch" not in source
    assert "\nfrom torch" not in source
