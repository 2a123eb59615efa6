"""Compare answers with the reference, outside the sandbox, and say what earned how much.

No sentence made here depends on a hidden value, beyond whether a criterion was met.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnnlib.classroom import hints
from rnnlib.classroom.assignment import Assignment
from rnnlib.classroom.intake import defined
from rnnlib.classroom.questions import CASES, PUBLIC_SEED, Question, points_of
from rnnlib.exercises import difference

MAX_NUMBERS = 10_000  # of one output: the criteria of teachers may form products with it

CODES = {
    "missing": "There is no function of this name: it was renamed or deleted, or its cell raised an error.",
    "none": "It returned None; is the return statement missing?",
    "count": "It did not return {count} results: {names}.",
    "kind": "It returned something that is not an array of numbers.",
    "large": "It returned far more numbers than expected.",
    "NotImplementedError": "It is still to be written.",
    "OutOfTime": "It did not return in time.",
    "ModuleNotFoundError": "It needs a package that is not there when marking (rnnlib is not).",
}

Outputs = tuple[np.ndarray, ...]


@dataclass
class Mark:
    """The result of one question."""

    grade_id: str
    call: str
    points: float
    maximum: float
    lines: list[tuple[str, float, float]] = field(default_factory=list)  # criterion, points, maximum
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A question with its cases and the right answers, worked out once for the whole class."""

    grade_id: str
    question: Question
    names: list[str]  # of the arguments, as the student reads them
    public: tuple[Any, ...]
    public_answer: Outputs
    cases: list[tuple[Any, ...]]
    answers: list[Outputs]
    mistakes: dict[str, tuple[list[Outputs], float]]
    slips: list[tuple[str, Outputs]]  # of the public case


def prepare(assignment: Assignment, seed: str) -> list[Sheet]:
    """Draw the hidden cases of a class from its secret seed, and answer them."""
    sheets = []
    for cell in assignment.cells:
        for question in cell.questions:
            (public,) = question.cases(PUBLIC_SEED, 1)
            cases = question.cases(f"{assignment.name}/{seed}")
            mistakes = {
                sentence: ([question.as_outputs(function, case) for case in cases], points)
                for sentence, (function, points) in question.mistakes.items()
            }
            answers = [question.right_answer(case) for case in cases]
            right = question.right_answer(public)
            names = _names(assignment, question.call, len(public))
            slips = hints.slips(question.right_answer, public, names, right) if right else []
            sheets.append(
                Sheet(cell.grade_id, question, names, public, right, cases, answers, mistakes, slips)
            )
    return sheets


def _names(assignment: Assignment, call: str, count: int) -> list[str]:
    """The arguments of a function as the release names them, or by number."""
    for cell in assignment.release["cells"]:
        if cell["cell_type"] == "code" and call in defined(cell["source"]):
            with suppress(SyntaxError):  # a cell with a magic command is no Python
                for node in ast.walk(ast.parse(cell["source"])):
                    if isinstance(node, ast.FunctionDef) and node.name == call:
                        names = [argument.arg for argument in node.args.args]
                        return names if len(names) == count else _numbered(count)
    return _numbered(count)


def _numbered(count: int) -> list[str]:
    return [f"argument {i + 1}" for i in range(count)]


def messages(sheets: Sequence[Sheet]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The public inputs, the hidden inputs, and how to call: all that a student's process is told."""
    public: dict[str, Any] = {}
    hidden: dict[str, Any] = {}
    calls = []
    for q, sheet in enumerate(sheets):
        public |= {f"{q}.0.{i}": value for i, value in enumerate(sheet.public)}
        for c, case in enumerate(sheet.cases):
            hidden |= {f"{q}.{c}.{i}": value for i, value in enumerate(case)}
        question = sheet.question
        calls.append(
            {"call": question.call, "arguments": len(sheet.public), "outputs": len(question.outputs)}
        )
    return public, hidden, calls


def mark(sheets: Sequence[Sheet], public: list[Any], hidden: list[Any]) -> list[Mark]:
    """Mark every question of a submission from the messages that its process sent."""
    said, got = _by_case(public), _by_case(hidden)
    return [
        _mark(sheet, said.get((q, 0)), [got.get((q, c)) for c in range(CASES)])
        for q, sheet in enumerate(sheets)
    ]


def _by_case(received: list[dict[str, np.ndarray]]) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    found: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    for message in received:
        key = [message.get(name) for name in ("question", "case")]
        if all(isinstance(k, np.ndarray) and k.ndim == 0 and k.dtype.kind in "iu" for k in key):
            found.setdefault((int(key[0]), int(key[1])), message)  # type: ignore[arg-type]
    return found


def _outputs(message: dict[str, np.ndarray] | None, count: int) -> Outputs | None:
    """The answer of one case as float arrays, or None if there is none."""
    if message is None:
        return None
    arrays = [message.get(f"output{i}") for i in range(count)]
    if any(a is None or a.dtype.kind == "U" or a.size > MAX_NUMBERS for a in arrays):
        return None
    return tuple(a for a in arrays if a is not None)


def _mark(sheet: Sheet, said: Any, got: list[Any]) -> Mark:
    question = sheet.question
    result = Mark(sheet.grade_id, question.call, 0.0, question.points)
    answers = [_outputs(message, len(question.outputs)) for message in got]
    for name, criterion in question.criteria.items():
        met = [a is not None and _meets(sheet, c, name, a) for c, a in enumerate(answers)]
        earned = points_of(criterion) if all(met) else 0.0
        result.lines.append((name, earned, points_of(criterion)))
        result.points += earned
    if result.points < result.maximum:
        for sentence, (wrong, points) in sheet.mistakes.items():
            if points >= result.points and all(
                a is not None and all(map(agrees, a, w)) for a, w in zip(answers, wrong, strict=True)
            ):
                result.lines.append((sentence, points - result.points, 0.0))
                result.points = points
                break
        else:
            result.remarks += _hint(sheet, said)
        result.remarks += _explain(sheet, said, got)
    result.remarks += _changed(sheet, said)
    return result


def _meets(sheet: Sheet, case: int, name: str, answer: Outputs) -> bool:
    question, right = sheet.question, sheet.answers[case]
    criterion = question.criteria[name]
    if isinstance(criterion, tuple):
        arrays = tuple(np.asarray(_real(a), dtype=np.float64) for a in answer)
        try:
            with np.errstate(all="ignore"):
                return bool(criterion[1](arrays if len(arrays) > 1 else arrays[0], *sheet.cases[case]))
        except Exception:  # an answer of another shape than the predicate expects does not meet it
            return False
    if name == "shape":
        return all(a.shape == r.shape for a, r in zip(answer, right, strict=True))
    if name == "values":
        return all(map(agrees, answer, right))
    place = question.outputs.index(name)
    return agrees(answer[place], right[place])


def _real(array: np.ndarray) -> np.ndarray:
    """Complex numbers without an imaginary part are the real numbers that they stand for."""
    if array.dtype.kind != "c":
        return array
    return array.real if np.all(np.abs(array.imag) <= 1e-12) else np.full(array.shape, np.nan)


def agrees(answer: np.ndarray, right: np.ndarray) -> bool:
    """Whether an answer is the right one, to the precision of the dtype in which it was computed."""
    if answer.shape != right.shape or answer.dtype.kind not in "biufc":
        return False
    with np.errstate(all="ignore"):
        gap = np.abs(np.asarray(_real(answer), dtype=np.float64) - right)
        return bool(np.all(gap <= _tolerance(answer) * max(1.0, float(np.abs(right).max(initial=0.0)))))


def _tolerance(answer: np.ndarray) -> float:
    """What rounding may cost in the dtype of an answer."""
    bits = np.finfo(answer.dtype).bits if answer.dtype.kind == "f" else 64
    return {16: 2e-2, 32: 1e-4}.get(bits, 1e-7)


def _explain(sheet: Sheet, said: Any, got: list[Any]) -> list[str]:
    """Words for the student: from the public case in full, from the hidden ones by kind only."""
    question, remarks = sheet.question, []
    if said is None:
        remarks.append("The process had ended before this was asked.")
    elif "error" in said:
        code = words_of(said["error"])
        remarks.append(
            _said(question, code)
            or f"On the public example it raised {code}: {words_of(said.get('message'))}"
        )
    elif sheet.public_answer:
        answer = _outputs(said, len(question.outputs))
        right = sheet.public_answer
        if answer is None:
            remarks.append(CODES["kind"])
        elif not all(map(agrees, answer, right)):
            problem = None
            for name, given, wanted in zip(question.outputs, answer, right, strict=True):
                if (found := difference(_real(given), wanted, (None,), _tolerance(given))) is not None:
                    problem = f"{name}: {found}" if len(right) > 1 else found
                    break
            remarks.append(f"On the public example {problem or 'the numbers are not precise enough.'}")
    kinds = {words_of(message["error"]) for message in got if message is not None and "error" in message}
    for kind in sorted(kinds):
        known = isinstance(getattr(builtins, kind, None), type)
        words = _said(question, kind) or f"On hidden inputs it raised {kind if known else 'an error'}."
        if words not in remarks:
            remarks.append(words)
    if any(message is None for message in got) and said is not None:
        remarks.append("The process ended before all hidden inputs were answered.")
    return remarks


def _said(question: Question, code: str) -> str | None:
    """The words of a code."""
    words = CODES.get(code)
    return words and words.format(count=len(question.outputs), names=", ".join(question.outputs))


def _hint(sheet: Sheet, said: Any) -> list[str]:
    """A word where the public answer is wrong in a usual way that the author has not listed."""
    answer = _outputs(said, len(sheet.question.outputs))
    if answer is None or not sheet.public_answer or all(map(agrees, answer, sheet.public_answer)):
        return []
    for sentence, wrong in sheet.slips:
        if all(map(agrees, answer, wrong)):
            return [sentence]
    found = [
        hints.turn(name, given, wanted, agrees)
        for name, given, wanted in zip(sheet.question.outputs, answer, sheet.public_answer, strict=True)
        if not agrees(given, wanted)
    ]
    return [sentence for sentence in found if sentence]


def _changed(sheet: Sheet, said: Any) -> list[str]:
    """A word on arguments that the public call changed in place. It costs nothing, but often explains."""
    places = None if said is None else said.get("changed")
    if not isinstance(places, np.ndarray) or places.ndim != 1 or places.dtype.kind not in "iu":
        return []
    found = ", ".join(name for i, name in enumerate(sheet.names) if i in places)
    return [f"It changes what it is given in place ({found}); work on a copy."] if found else []


def follow_ons(marks: Sequence[Mark], sources: Sequence[str]) -> None:
    """Add a remark where a function that lost points calls another one that did: it may be the same mistake.

    Args:
        marks: of one submission.
        sources: of its cells. They are read as text; nothing is run.
    """
    lost = [mark for mark in marks if mark.points < mark.maximum]
    for mark in lost:
        text = "\n".join(source for source in sources if mark.call in defined(source))
        used = [m.call for m in lost if m is not mark and re.search(rf"(?<!def )\b{m.call}\(", text)]
        if used:
            mark.remarks.append(f"It calls {' and '.join(used)}, where points were lost: mend that first.")


def words_of(array: Any, limit: int = 300) -> str:
    """Words that came from a student's process, cut short. They are escaped where they are shown."""
    return str(array)[:limit] if isinstance(array, np.ndarray) and array.ndim == 0 else ""
