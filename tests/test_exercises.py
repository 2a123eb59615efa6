"""Exercises grade right answers as right, and say of wrong ones what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from rnnlib import vanilla
from rnnlib.exercises import CASES, check, difference, find_problem

LABEL = "eq-vanilla-preactivation"


def right(x_t, h_prev, W_xh, W_hh, b_h):
    return h_prev @ W_hh.T + x_t @ W_xh.T + b_h


def test_a_right_answer_is_right(capsys):
    assert check(LABEL, right) is True
    assert capsys.readouterr().out == f"{LABEL}: right. All {CASES} random cases agree.\n"


def test_the_functions_of_the_package_pass():
    assert find_problem("eq-vanilla-preactivation-backward", vanilla.preactivation_backward) is None
    assert find_problem("eq-vanilla-output-backward", vanilla.output_backward) is None


def test_lists_and_other_dtypes_pass():
    assert find_problem(LABEL, lambda *a: right(*a).tolist()) is None
    assert find_problem(LABEL, lambda *a: right(*(x.astype(np.longdouble) for x in a))) is None


def in_place(x_t, h_prev, W_xh, W_hh, b_h):
    h_prev *= 2
    return right(x_t, h_prev / 2, W_xh, W_hh, b_h)


def unwritten(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda x, h, W_xh, W_hh, b: h @ W_hh + x @ W_xh.T + b, "numbers differ, first at index (0, 0)"),
        (lambda x, h, W_xh, W_hh, b: h @ W_hh.T + x @ W_xh.T, "numbers differ"),
        (lambda *a: right(*a).T, "it has shape"),
        (lambda *a: right(*a)[..., None], "expected (B, H) ="),
        (lambda *a: None, "is the return statement missing?"),
        (lambda *a: "a string", "it returned a str, expected numbers"),
        (lambda *a: right(*a) * np.nan, "it holds NaN"),
        (lambda *a: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda x: x, "raised TypeError"),
        (in_place, "It changed its argument h_prev in place"),
        (unwritten, "still to be written"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(answer, told, capsys):
    assert check(LABEL, answer) is False
    lines = capsys.readouterr().out.splitlines()
    assert told in " ".join(lines)
    assert max(map(len, lines)) <= 76, "a line runs out of the book's column"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda *a: vanilla.output_backward(*a)[0], "expected 3 results"),
        (lambda *a: vanilla.output_backward(*a)[:2], "it returned 2 results, expected 3"),
        (lambda *a: (*vanilla.output_backward(*a)[:2], 0 * a[0].sum(0)), "result 3 of 3"),
    ],
)
def test_several_results_are_told_apart(answer, told):
    assert told in find_problem("eq-vanilla-output-backward", answer)


def test_the_message_does_not_give_the_answer_away():
    problem = find_problem(LABEL, lambda *a: right(*a) + 1000)
    assert "1e+03" in problem  # the size of the error is told
    assert problem.count("[") == 0  # no array is


def test_an_unknown_label_lists_its_neighbours():
    with pytest.raises(KeyError, match="eq-vanilla-output"):
        check("eq-vanilla-outputs", right)


@pytest.mark.parametrize("label", ["eq-vanilla-ridge", "eq-vanilla-unroll", "eq-vanilla-scaling"])
def test_an_equation_of_more_than_arrays_is_refused_in_a_sentence(label):
    with pytest.raises(ValueError, match=f"{label} takes more than arrays"):
        check(label, right)


def test_a_single_number_is_not_described_as_an_array():
    told = difference(1.5, np.array(1.0), (None,))
    assert told == "the number is off by 0.5."
    assert difference(1.0, np.array(1.0), (None,)) is None
