"""What is asked of a student's function: inputs, the reference, criteria with points, known mistakes.

Questions stand in the hidden part of an assignment's graded cells (see the teacher's page) and are only
ever evaluated outside the sandbox. A student's process sees the inputs and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnlib import equations

CASES = 4  # hidden cases a question
PUBLIC_SEED = "public"  # draws the one case whose errors may be described to the student

Criterion = float | tuple[float, Callable[..., bool]]


@dataclass(frozen=True)
class Question:
    """One question (see :func:`ask`)."""

    call: str
    inputs: Callable[[np.random.Generator], Sequence[Any]]
    reference: Callable[..., Any] | None
    criteria: Mapping[str, Criterion]
    outputs: tuple[str, ...]
    mistakes: Mapping[str, tuple[Callable[..., Any], float]]

    @property
    def points(self) -> float:
        """What a right answer earns."""
        return sum(points_of(criterion) for criterion in self.criteria.values())

    def cases(self, seed: str, count: int = CASES) -> list[tuple[Any, ...]]:
        """The inputs of some cases; the same for everyone with the same seed."""
        digest = hashlib.sha256(f"{seed}/{self.call}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        return [tuple(self.inputs(rng)) for _ in range(count)]

    def right_answer(self, case: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The reference's answer, one array for each output; nothing where there is no reference."""
        return () if self.reference is None else self.as_outputs(self.reference, case)

    def as_outputs(self, function: Callable[..., Any], case: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """What a trusted function answers, one array for each output."""
        value = function(*(np.copy(v) if isinstance(v, np.ndarray) else v for v in case))
        return tuple(np.asarray(v) for v in (value if len(self.outputs) > 1 else (value,)))


def points_of(criterion: Criterion) -> float:
    """The points of a criterion, which stands alone or before its predicate."""
    return criterion[0] if isinstance(criterion, tuple) else criterion


_asked: list[Question] = []


def ask(
    call: str,
    *,
    criteria: Mapping[str, Criterion],
    equation: str | None = None,
    inputs: Callable[[np.random.Generator], Sequence[Any]] | None = None,
    reference: Callable[..., Any] | None = None,
    outputs: Sequence[str] = ("answer",),
    mistakes: Mapping[str, tuple[Callable[..., Any], float]] | None = None,
) -> None:
    """Ask the student's function for its answers on random inputs.

    Args:
        call: the name of the student's function.
        criteria: points by criterion. ``"shape"``: every output has the right shape. ``"values"``: every
            output is right. The name of an output: that output is right. Any other name comes with a
            predicate, ``(points, predicate)``: ``predicate(answer, *inputs)`` must hold in every case;
            ``answer`` is an array, or a tuple of arrays if there are several outputs.
        equation: a label of the book, which gives inputs and reference.
        inputs: draws the arguments from a generator: arrays, numbers or texts.
        reference: the right function; needed for the criteria without a predicate.
        outputs: the names of what the function returns, if it returns several arrays.
        mistakes: functions that make a well-known mistake, by a sentence for the student, each with the
            points that such an answer earns.

    Raises:
        ValueError: the question contradicts itself.
    """
    if equation is not None:
        inputs, reference = _of_equation(equation)
    if inputs is None:
        raise ValueError(f"the question on {call} has neither an equation nor inputs")
    for name, criterion in criteria.items():
        builtin = name in ("shape", "values", *outputs)
        if builtin == isinstance(criterion, tuple):
            raise ValueError(
                f"criterion {name!r} of {call}: 'shape', 'values' and outputs take points, "
                "all others take (points, predicate)"
            )
        if builtin and reference is None:
            raise ValueError(f"criterion {name!r} of {call} needs a reference")
    question = Question(call, inputs, reference, dict(criteria), tuple(outputs), dict(mistakes or {}))
    for sentence, (_, points) in question.mistakes.items():
        if points >= question.points:
            raise ValueError(f"the mistake {sentence!r} of {call} earns as much as a right answer")
    _asked.append(question)


def collect(code: str, namespace: dict[str, Any]) -> list[Question]:
    """The questions that a hidden part of the teacher's notebook asks."""
    _asked.clear()
    exec(compile(code, "<hidden part of an assignment>", "exec"), namespace)
    return list(_asked)


def _of_equation(
    label: str,
) -> tuple[Callable[[np.random.Generator], Sequence[Any]], Callable[..., Any]]:
    entry = equations.equation(label)
    dims = sorted({dim for spec in entry.shapes.values() for dim in spec.split() if dim.isalpha()})

    def inputs(rng: np.random.Generator) -> Sequence[Any]:
        # Sizes that differ, so that no transposed product has the right shape by chance.
        sizes = dict(zip(dims, (int(n) for n in 2 + rng.permutation(len(dims) + 2)), strict=False))
        return list(equations.example(label, rng, sizes).values())

    return inputs, entry.function
