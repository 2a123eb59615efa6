"""Exercises that grade themselves: hold your own function to an equation of the book.

    from rnnlib.exercises import check
    check("eq-vanilla-hidden", my_hidden_state)

The answer is called on random inputs and compared with the function that implements the equation.
What is wrong is described; the right numbers are not shown.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from rnnlib import equations

CASES = 20
TOLERANCE = 1e-8
WIDTH = 76  # of a printed line: the column of the book


def check(label: str, answer: Callable[..., Any], seed: int = 0) -> bool:
    """Hold an answer to the equation of a label, on random inputs, and say what came out.

    Args:
        label: the equation's label, for example ``"eq-vanilla-hidden"``.
        answer: your function. It gets the arrays of the reference function, by position and in
            the same order, and returns what the reference returns.
        seed: draws the inputs.

    Returns:
        Whether every case agreed.

    Raises:
        KeyError: no equation has this label.
        ValueError: the equation's function takes more than arrays.
    """
    problem = find_problem(label, answer, seed)
    found = f"right. All {CASES} random cases agree." if problem is None else f"not yet. {problem}"
    print(textwrap.fill(f"{label}: {found}", WIDTH, break_long_words=False, break_on_hyphens=False))
    return problem is None


def find_problem(label: str, answer: Callable[..., Any], seed: int = 0) -> str | None:
    """What is wrong with an answer, in a sentence, or None (see :func:`check`)."""
    reference = equations.equation(label)
    more = [
        p.name
        for p in inspect.signature(reference.function).parameters.values()
        if p.name not in reference.shapes and p.default is p.empty
    ]
    if more:
        raise ValueError(
            f"{label} takes more than arrays ({', '.join(more)}), so no random inputs can be drawn for it"
        )
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        arguments = equations.example(label, rng)
        expected = reference.function(**arguments)
        given = {name: value.copy() for name, value in arguments.items()}
        described = ", ".join(f"{name} {x.shape}" for name, x in arguments.items())
        try:
            result = answer(*given.values())
        except NotImplementedError:
            return "The function is still to be written."
        except Exception as error:  # any error of the answer is a finding, not ours to raise
            return f"With {described} it raised {type(error).__name__}: {error}"
        for name in arguments:
            if not np.array_equal(given[name], arguments[name]):
                return f"It changed its argument {name} in place; work on a copy."
        problem = difference(result, expected, reference.result_shapes)
        if problem is not None:
            return f"With {described}: {problem}"
    return None


def difference(
    result: Any, expected: Any, shapes: tuple[str | None, ...], tolerance: float = TOLERANCE
) -> str | None:
    """How an answer differs from the right one, in a sentence that holds no right number.

    Args:
        result: an answer, of any type.
        expected: the right array, or a tuple of them.
        shapes: the declared shape of each array, for example ``"B H"``, or None.
        tolerance: the relative and the absolute error that is allowed.

    Returns:
        The sentence, or None if they agree.
    """
    if isinstance(expected, tuple):
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            came = (
                f"{len(result)} results" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
            )
            return f"it returned {came}, expected {len(expected)} results."
        for i, (r, e, shape) in enumerate(zip(result, expected, shapes, strict=True)):
            problem = difference(r, e, (shape,), tolerance)
            if problem is not None:
                return f"result {i + 1} of {len(expected)}: {problem}"
        return None
    if result is None:
        return "it returned None; is the return statement missing?"
    try:
        array = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError):
        return f"it returned a {type(result).__name__}, expected numbers."
    target = np.asarray(expected, dtype=np.float64)
    if array.shape != target.shape:
        declared = f"({', '.join((shapes[0] or '').split())}) = " if shapes[0] else ""
        return f"it has shape {array.shape}, expected {declared}{target.shape}."
    if np.isnan(array).any():
        return "it holds NaN."
    wrong = ~np.isclose(array, target, rtol=tolerance, atol=tolerance)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        worst = float(np.abs(array - target).max())
        if array.ndim == 0:
            return f"the number is off by {worst:.2g}."
        return (
            f"the shape {array.shape} is right, but {int(wrong.sum())} of {wrong.size} numbers differ, "
            f"first at index {first}, by up to {worst:.2g}."
        )
    return None
