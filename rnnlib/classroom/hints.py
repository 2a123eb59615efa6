"""Words for the usual mistakes, found by trying them: a bias forgotten, a matrix transposed, a step early.

Everything here is worked out on the public example, whose errors may be described, and changes no mark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Outputs = tuple[np.ndarray, ...]

# What a wrong program does to an input without meaning to.
SLIPS: tuple[tuple[str, Callable[[np.ndarray], bool], Callable[[np.ndarray], np.ndarray]], ...] = (
    ("if {} were zero (is it used?)", lambda x: True, np.zeros_like),
    (
        "if {} were transposed",
        lambda x: x.ndim >= 2 and x.shape[-1] == x.shape[-2],
        lambda x: np.swapaxes(x, -1, -2),
    ),
    ("if {} ran backward along its first axis", lambda x: x.ndim >= 2, lambda x: x[::-1]),
    (
        "if {0} were read one step early, as {0}[t - 1] for {0}[t]",
        lambda x: x.ndim >= 2,
        lambda x: np.roll(x, 1, 0),
    ),
    (
        "if {0} were read one step late, as {0}[t + 1] for {0}[t]",
        lambda x: x.ndim >= 2,
        lambda x: np.roll(x, -1, 0),
    ),
)

# What a wrong program does to a result.
TURNS: tuple[tuple[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]], ...] = (
    ("is the transpose of what is asked for", lambda answer, right: (answer.T, right)),
    ("is right, but in the opposite order", lambda answer, right: (answer[::-1], right)),
    ("has the wrong sign", lambda answer, right: (-answer, right)),
    ("begins one step too early: drop its first entry", lambda answer, right: (answer[1:], right)),
    ("lacks its first entry", lambda answer, right: (answer, right[1:])),
    ("lacks its last entry", lambda answer, right: (answer, right[:-1])),
    ("comes one step too late", lambda answer, right: (answer[1:], right[:-1])),
    ("comes one step too early", lambda answer, right: (answer[:-1], right[1:])),
)


def slips(
    answer_to: Callable[[Sequence[Any]], Outputs], case: Sequence[Any], names: Sequence[str], right: Outputs
) -> list[tuple[str, Outputs]]:
    """What the right function answers where an input is not what it should be.

    Args:
        answer_to: the right function, on a case.
        case: its inputs; those that are arrays of floats are tried.
        names: of the inputs.
        right: its answer to the case as it is.

    Returns:
        A sentence and the outputs, for each slip that can be told from the right answer.
    """
    found = []
    for place, (name, value) in enumerate(zip(names, case, strict=True)):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        for words, fits, change in SLIPS:
            if not fits(value):
                continue
            try:
                with np.errstate(all="ignore"):
                    wrong = answer_to([*case[:place], change(value).copy(), *case[place + 1 :]])
            except Exception:  # the right function may refuse what is not meant for it
                continue
            if len(wrong) == len(right) and any(
                w.shape != r.shape or not np.allclose(w, r, 1e-3, 1e-3)
                for w, r in zip(wrong, right, strict=True)
            ):
                found.append((f"These are the numbers that would come out {words.format(name)}.", wrong))
    return found


def turn(name: str, answer: np.ndarray, right: np.ndarray, same: Callable[..., bool]) -> str | None:
    """How one output is right and yet in the wrong place, in a sentence, or None.

    Args:
        name: of the output.
        answer: a student's.
        right: the right one.
        same: whether two arrays agree.
    """
    if answer.dtype.kind not in "iuf" or answer.ndim == 0 or answer.ndim != right.ndim:
        return None
    for words, pair in TURNS:
        given, wanted = pair(answer, right)
        if given.size > 1 and same(given, wanted):
            return f"{'It' if name == 'answer' else name} {words}."
    return None
