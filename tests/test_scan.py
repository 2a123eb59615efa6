"""Scans and linear recurrences, held to loops, NumPy, torch and each other; their cost by counting."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import scan, tasks
from tests.support import as_torch, example, gradients_of, relative_error, seeds, sizes, to_numpy

SCANS = {"sequential": scan.sequential, "hillis-steele": scan.hillis_steele, "blelloch": scan.blelloch}
each_scan = pytest.mark.parametrize("prefixes", SCANS.values(), ids=SCANS)
each_method = pytest.mark.parametrize("method", scan.METHODS)
lengths = st.integers(1, 40)


# --- pairs --------------------------------------------------------------------------------------


@pytest.mark.equation("eq-scan-combine")
@given(sizes("B", "H"), seeds)
def test_a_combined_pair_does_what_the_two_do_one_after_the_other(agree, n, seed):
    pair = example("eq-scan-combine", seed, n)
    h = np.random.default_rng(seed).normal(size=(n["B"], n["H"]))
    f, u = scan.combine(**pair)
    after_both = pair["f_2"] * (pair["f_1"] * h + pair["u_1"]) + pair["u_2"]
    agree(scan.combine, "two steps", f * h + u, after_both)
    # As matrices [[f, u], [0, 1]] the pairs multiply.
    matrices = [
        np.array([[pair[f"f_{i}"], pair[f"u_{i}"]], [np.zeros_like(h), np.ones_like(h)]]) for i in (2, 1)
    ]
    product = np.einsum("ijbh,jkbh->ikbh", *matrices)
    agree(scan.combine, "matrix product", [f, u], list(product[0]))


whole = st.integers(-50, 50)


@pytest.mark.equation("eq-scan-combine")
@given(st.tuples(*[whole] * 6))
def test_pairs_are_a_monoid_exactly_in_whole_numbers(numbers):
    """Associative, with the neutral pair (1, 0): in whole numbers there is no rounding to excuse."""
    first, second, third = (tuple(np.array([[float(n)]]) for n in numbers[i : i + 2]) for i in (0, 2, 4))
    left = scan.combine(*scan.combine(*third, *second), *first)
    right = scan.combine(*third, *scan.combine(*second, *first))
    assert left == right
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    assert scan.combine(one, zero, *first) == first
    assert scan.combine(*first, one, zero) == first


@pytest.mark.equation("eq-scan-combine")
@given(sizes("B", "H"), seeds)
def test_pairs_are_associative_up_to_rounding(n, seed):
    rng = np.random.default_rng(seed)
    a, b, c = (tuple(rng.normal(size=(2, n["B"], n["H"]))) for _ in range(3))
    left, right = scan.combine(*scan.combine(*a, *b), *c), scan.combine(*a, *scan.combine(*b, *c))
    for x, y in zip(left, right, strict=True):
        assert relative_error(x, y) < 1e-14


def test_pairs_do_not_commute():
    a, b = (np.array([[2.0]]), np.array([[0.0]])), (np.array([[1.0]]), np.array([[1.0]]))
    assert scan.combine(*a, *b) != scan.combine(*b, *a)


# --- scans --------------------------------------------------------------------------------------


def words(later: Any, earlier: Any) -> Any:
    """Strings put together, the earlier first: an operation that shows who met whom, in which order."""
    return (np.char.add(earlier[0], later[0]),)


@pytest.mark.equation("eq-scan-hillis-steele", "eq-scan-blelloch")
@each_scan
@pytest.mark.parametrize("T", [*range(1, 26)])
def test_row_t_combines_the_elements_up_to_t_each_once_and_in_order(prefixes, T):
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"[:T]), dtype=f"<U{T}")
    (found,) = prefixes(words, (letters,))
    assert found.tolist() == ["abcdefghijklmnopqrstuvwxyz"[:t] for t in range(1, T + 1)]


@pytest.mark.equation("eq-scan-hillis-steele", "eq-scan-blelloch")
@each_scan
@given(T=lengths, seed=seeds)
def test_sums_and_products_are_those_of_numpy_and_torch(agree, prefixes, T, seed):
    x = np.random.default_rng(seed).normal(size=(T, 3))
    (sums,) = prefixes(lambda later, earlier: (earlier[0] + later[0],), (x,))
    (products,) = prefixes(lambda later, earlier: (earlier[0] * later[0],), (torch.tensor(x),))
    agree(prefixes, "numpy", sums, np.cumsum(x, 0))
    agree(prefixes, "torch", products, torch.cumprod(torch.tensor(x), 0))


@each_scan
@given(T=lengths, seed=seeds)
def test_permutations_and_matrices_can_be_scanned_too(prefixes, T, seed):
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(5), (T, 1)), axis=1)  # (T, 5)
    (found,) = prefixes(lambda later, earlier: (np.take_along_axis(later[0], earlier[0], 1),), (drawn,))
    expected = list(itertools.accumulate(drawn, lambda before, p: p[before]))
    np.testing.assert_array_equal(found, expected)

    matrices = rng.normal(size=(T, 2, 2))
    (found,) = prefixes(lambda later, earlier: (later[0] @ earlier[0],), (matrices,))
    expected = list(itertools.accumulate(matrices, lambda before, M: M @ before))
    for x, y in zip(found, expected, strict=True):
        assert relative_error(x, y) < 1e-10


class Count:
    """Counts how many pairs of elements are combined, and in how many rounds."""

    def __init__(self) -> None:
        self.work = self.rounds = 0

    def __call__(self, later: Any, earlier: Any) -> Any:
        self.work += len(later[0])
        self.rounds += 1
        return (np.maximum(later[0], earlier[0]) + 1,)


@pytest.mark.equation("eq-scan-hillis-steele-cost", "eq-scan-blelloch-cost")
@pytest.mark.parametrize("T", [*range(1, 70), 127, 128, 129, 1000, 4096])
def test_the_cost_is_what_counting_finds(T):
    for prefixes, cost in (
        (scan.hillis_steele, scan.hillis_steele_cost),
        (scan.blelloch, scan.blelloch_cost),
    ):
        count = Count()
        (chains,) = prefixes(count, (np.zeros(T, int),))
        assert cost(T) == (count.work, count.rounds), prefixes.__name__
        # No scan of two at a time can have a shorter chain: T elements are a tree of ⌈log₂ T⌉ levels.
        assert (T - 1).bit_length() <= chains.max() <= count.rounds


@pytest.mark.equation("eq-scan-hillis-steele-cost", "eq-scan-blelloch-cost")
@given(st.integers(1, 2**70))
def test_the_closed_forms_and_bounds_of_the_costs(T):
    rounds = scan.hillis_steele_cost(T).depth
    assert 2 ** (rounds - 1) < T <= 2**rounds or T == 1
    assert scan.hillis_steele_cost(T).work == sum(T - 2**k for k in range(rounds))
    assert scan.blelloch_cost(T).work < 2 * T
    assert scan.blelloch_cost(T).depth <= 2 * rounds
    power = scan.blelloch_cost(2**40)
    assert power == (2 * 2**40 - 2 - 40, 2 * 40 - 1)


@pytest.mark.parametrize("cost", [scan.hillis_steele_cost, scan.blelloch_cost])
def test_a_cost_of_no_steps_is_refused(cost):
    with pytest.raises(ValueError, match=rf"{cost.__name__}: steps is 0, expected a whole number"):
        cost(0)
    with pytest.raises(TypeError, match=rf"{cost.__name__}: steps is a float"):
        cost(4.0)


@each_scan
def test_items_that_do_not_go_together_are_refused(prefixes):
    name, x = prefixes.__name__, np.ones((4, 2))
    with pytest.raises(TypeError, match=rf"{name}: items is a ndarray, expected a tuple"):
        prefixes(scan.pairs, x)
    with pytest.raises(TypeError, match=rf"{name}: items\[1\] is a list"):
        prefixes(scan.pairs, (x, [1, 2]))
    with pytest.raises(TypeError, match=rf"{name}: items\[0\] is a ndarray but items\[1\] is a Tensor"):
        prefixes(scan.pairs, (x, torch.ones(4, 2)))
    with pytest.raises(ValueError, match=rf"{name}: items\[1\] has shape \(3, 2\), expected the same first"):
        prefixes(scan.pairs, (x, x[:3]))
    with pytest.raises(ValueError, match=rf"{name}: items\[0\] has shape \(0, 2\)"):
        prefixes(scan.pairs, (x[:0], x[:0]))
    with pytest.raises(TypeError, match=rf"{name}: operation is a tuple, expected a function of two"):
        prefixes((x, x), (x, x))


def test_a_scan_changes_nothing_that_it_was_given():
    rng = np.random.default_rng(0)
    f, u = rng.normal(size=(2, 7, 2, 3))
    kept = f.copy(), u.copy()
    for prefixes in SCANS.values():
        prefixes(scan.pairs, (f, u))
    np.testing.assert_array_equal((f, u), kept)


# --- linear recurrences ---------------------------------------------------------------------------


def in_torch(f, u, h_0):
    """The recurrence as anyone would write it."""
    hs = [h_0]
    for f_t, u_t in zip(f, u, strict=True):
        hs.append(torch.addcmul(u_t, f_t, hs[-1]))
    return torch.stack(hs[1:])


@pytest.mark.equation("eq-scan-recurrence", "eq-scan-recurrence-backward")
@each_method
@given(n=sizes("B", "H", high=3), T=lengths, seed=seeds)
def test_a_linear_recurrence_and_its_derivatives_agree_with_autograd(agree, method, n, T, seed):
    arguments = example("eq-scan-recurrence", seed, {**n, "T": T})
    expected = in_torch(**as_torch(arguments)).numpy()
    hs = scan.linear_recurrence(**arguments, method=method)
    agree(scan.linear_recurrence, "torch", hs, expected)
    upstream = np.random.default_rng(seed).normal(size=hs.shape)
    agree(
        scan.linear_recurrence_backward,
        "torch.autograd",
        scan.linear_recurrence_backward(upstream, arguments["f"], hs, arguments["h_0"], method),
        gradients_of(in_torch, arguments, upstream),
    )


@pytest.mark.equation("eq-scan-recurrence")
@each_method
def test_a_state_is_the_sum_of_all_inputs_each_times_the_factors_after_it(agree, method):
    arguments = example("eq-scan-recurrence", 3, {"T": 9, "B": 2, "H": 3})
    f, u, h_0 = arguments.values()
    expected = [
        f[: t + 1].prod(0) * h_0 + sum(f[s + 1 : t + 1].prod(0) * u[s] for s in range(t + 1))
        for t in range(9)
    ]
    agree(
        scan.linear_recurrence, "brute force", scan.linear_recurrence(f, u, h_0, method), np.array(expected)
    )


@pytest.mark.equation("eq-scan-recurrence-backward")
@each_method
def test_torch_can_differentiate_through_every_scan(method):
    arguments = as_torch(example("eq-scan-recurrence", 5, {"T": 11, "B": 2, "H": 3}), requires_grad=True)
    assert torch.autograd.gradcheck(
        functools.partial(scan.linear_recurrence, method=method), tuple(arguments.values())
    )


@pytest.mark.equation("eq-scan-recurrence")
@each_method
def test_factors_of_minus_one_turn_a_bit_over_for_as_long_as_one_likes(method):
    """Parity needs no more than that, and no factor between 0 and 1 can do it."""
    xs, targets = tasks.parity(100_000, 2, np.random.default_rng(0), dtype=np.float64)
    hs = scan.linear_recurrence(1 - 2 * xs, np.zeros_like(xs), np.ones((2, 1)), method)
    np.testing.assert_array_equal(hs[..., 0] < 0, targets == 1)


@pytest.mark.equation("eq-scan-recurrence")
def test_an_unknown_method_and_shapes_that_do_not_fit_are_refused():
    f, h_0 = np.ones((4, 2, 3)), np.zeros((2, 3))
    with pytest.raises(
        ValueError, match=r"linear_recurrence: method is 'fast', expected one of 'sequential'"
    ):
        scan.linear_recurrence(f, f, h_0, "fast")
    with pytest.raises(ValueError, match=r"linear_recurrence_backward: method is 'fast'"):
        scan.linear_recurrence_backward(f, f, f, h_0, "fast")
    with pytest.raises(ValueError, match=r"linear_recurrence: u has shape \(4, 2, 1\), expected \(T, B, H\)"):
        scan.linear_recurrence(f, f[..., :1], h_0)
    with pytest.raises(ValueError, match=r"linear_recurrence: h_0 has shape \(1, 3\), expected \(B, H\)"):
        scan.linear_recurrence(f, f, h_0[:1])
    holed = f.copy()
    holed[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match=r"linear_recurrence: f holds NaN, first at index \(1, 0, 2\)"):
        scan.linear_recurrence(holed, f, h_0)
    with pytest.raises(ValueError, match=r"min_gru: method is 'loop'"):
        scan.min_gru(**example("eq-scan-mingru", 0), method="loop")
    with pytest.raises(ValueError, match=r"min_lstm: W_i has shape"):
        scan.min_lstm(**example("eq-scan-minlstm", 0, {"H": 3, "I": 2}) | {"W_i": np.ones((3, 5))})


# --- by division, and in logarithms -----------------------------------------------------------------


@pytest.mark.equation("eq-scan-quotient", "eq-scan-log")
@given(n=sizes("B", "H", high=3), T=lengths, seed=seeds)
def test_both_closed_forms_agree_with_the_steps_where_numbers_suffice(agree, n, T, seed):
    rng = np.random.default_rng(seed)
    shape = (T, n["B"], n["H"])
    f, u, h_0 = rng.uniform(0.5, 1, shape), rng.uniform(0.1, 1, shape), rng.uniform(0.1, 1, shape[1:])
    steps = scan.linear_recurrence(f, u, h_0)
    agree(scan.quotient_form, "step by step", scan.quotient_form(f, u, h_0), steps)
    logs = scan.log_recurrence(np.log(f), np.log(u), np.log(h_0))
    agree(scan.log_recurrence, "step by step", np.exp(logs), steps)
    signed = rng.normal(size=shape)
    agree(
        scan.quotient_form,
        "step by step",
        scan.quotient_form(f, signed, h_0),
        scan.linear_recurrence(f, signed, h_0),
    )


@pytest.mark.equation("eq-scan-quotient", "eq-scan-log")
def test_the_quotient_form_breaks_down_where_scans_and_logarithms_do_not():
    T = 1200
    f, u, h_0 = np.full((T, 1, 1), 0.5), np.ones((T, 1, 1)), np.ones((1, 1))
    with np.errstate(all="ignore"):
        broken = scan.quotient_form(f, u, h_0)
    assert np.isnan(broken[-1, 0, 0])
    for method in scan.METHODS:
        assert scan.linear_recurrence(f, u, h_0, method)[-1, 0, 0] == pytest.approx(2, rel=1e-15)
    logs = scan.log_recurrence(np.log(f), np.log(u), np.log(h_0))
    assert np.exp(logs[-1, 0, 0]) == pytest.approx(2, rel=1e-12)
    # In single precision the logarithms have lost three digits, which no scan loses.
    narrow = scan.log_recurrence(*(np.log(x).astype(np.float32) for x in (f, u, h_0)))
    assert 1e-6 < abs(np.exp(narrow[-1, 0, 0]) / 2 - 1) < 1e-2


@pytest.mark.equation("eq-scan-log")
def test_logarithms_of_numbers_that_no_float_can_hold():
    T = 500
    rng = np.random.default_rng(0)
    log_f, log_u, log_h_0 = 9 * rng.normal(size=(T, 1, 2)) + 5, rng.normal(size=(T, 1, 2)), np.zeros((1, 2))
    expected, log_h = [], log_h_0
    for t in range(T):
        log_h = np.logaddexp(log_f[t] + log_h, log_u[t])
        expected.append(log_h)
    assert expected[-1].min() > math.log(1e308)
    found = scan.log_recurrence(log_f, log_u, log_h_0)
    assert relative_error(found, np.array(expected)) < 1e-12


# --- minGRU and minLSTM -----------------------------------------------------------------------------


def min_gru_in_torch(xs, h_0, W_z, b_z, W_h, b_h):
    linear, hs = torch.nn.functional.linear, [h_0]
    for x_t in xs:
        z_t = torch.sigmoid(linear(x_t, W_z, b_z))
        hs.append((1 - z_t) * hs[-1] + z_t * linear(x_t, W_h, b_h))
    return torch.stack(hs[1:])


def min_lstm_in_torch(xs, h_0, W_f, b_f, W_i, b_i, W_h, b_h):
    linear, hs = torch.nn.functional.linear, [h_0]
    for x_t in xs:
        f_t, i_t = torch.sigmoid(linear(x_t, W_f, b_f)), torch.sigmoid(linear(x_t, W_i, b_i))
        kept, added = f_t / (f_t + i_t), i_t / (f_t + i_t)
        hs.append(kept * hs[-1] + added * linear(x_t, W_h, b_h))
    return torch.stack(hs[1:])


LAYERS = {
    "mingru": (scan.min_gru, scan.min_gru_backward, min_gru_in_torch),
    "minlstm": (scan.min_lstm, scan.min_lstm_backward, min_lstm_in_torch),
}


@pytest.mark.equation(
    "eq-scan-mingru", "eq-scan-mingru-backward", "eq-scan-minlstm", "eq-scan-minlstm-backward"
)
@each_method
@pytest.mark.parametrize("kind", LAYERS)
@given(n=sizes("B", "H", "I", high=4), T=lengths, seed=seeds)
def test_a_layer_and_its_derivatives_agree_with_autograd_through_a_loop(agree, kind, method, n, T, seed):
    layer, layer_backward, reference = LAYERS[kind]
    arguments = example(f"eq-scan-{kind}", seed, {**n, "T": T})
    hs = layer(**arguments, method=method)
    agree(layer, "torch", hs, reference(**as_torch(arguments)))
    upstream = np.random.default_rng(seed).normal(size=hs.shape)
    agree(
        layer_backward,
        "torch.autograd",
        layer_backward(upstream, **{"xs": arguments["xs"], "hs": hs} | arguments, method=method),
        gradients_of(reference, arguments, upstream),
    )


@pytest.mark.equation("eq-scan-mingru")
def test_a_mingru_is_the_gru_whose_gates_do_not_see_the_state():
    """The GRU of the book with zeros for all that the state would bring in, and a linear candidate."""
    from rnnlib import gru

    arguments = example("eq-scan-mingru", 1, {"T": 6, "B": 2, "I": 3, "H": 4})
    xs, h_t, W_z, b_z, W_h, b_h = arguments.values()
    hs = scan.min_gru(**arguments)
    for t, x_t in enumerate(xs):
        blind = np.concatenate([np.zeros((4, 4)), W_z], axis=1)  # (H, H+I)
        z_t = gru.update_gate(x_t, h_t, blind, b_z)
        h_t = gru.hidden_state(h_t, z_t, x_t @ W_h.T + b_h)
        np.testing.assert_allclose(hs[t], h_t, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-scan-mingru", "eq-scan-minlstm")
@pytest.mark.parametrize("kind", LAYERS)
@given(seed=seeds)
def test_a_state_stays_between_the_candidates_and_the_start(kind, seed):
    """Each step is a mean of the old state and the candidate, so nothing can grow."""
    arguments = example(f"eq-scan-{kind}", seed, {"T": 20})
    candidates = arguments["xs"] @ arguments["W_h"].T + arguments["b_h"]
    both = np.concatenate([candidates, arguments["h_0"][None]])
    hs = to_numpy(LAYERS[kind][0](**arguments))
    assert (hs <= both.max(0) + 1e-12).all()
    assert (hs >= both.min(0) - 1e-12).all()
