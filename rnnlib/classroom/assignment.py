"""An assignment: one source notebook, from which come the students' version, the questions, the points."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import Config

from rnnlib.classroom.questions import Question, collect

STUB = "# YOUR CODE HERE\nraise NotImplementedError('still to be written; put your answer here')"
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n(.*?)^### END HIDDEN TESTS", re.DOTALL | re.MULTILINE)

# nbgrader's own order of work, less the part that needs its database.
STEPS = (
    LockCells,
    ClearSolutions,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    ClearHiddenTests,
    ComputeChecksums,
    CheckCellMetadata,
)


@dataclass(frozen=True)
class GradedCell:
    """A cell that earns points: by questions, or by hand if it is written."""

    grade_id: str
    points: float
    cell_type: str
    questions: tuple[Question, ...]
    by_hand: bool


@dataclass(frozen=True)
class Assignment:
    """An assignment as the grader sees it."""

    name: str
    release: Mapping[str, Any]  # the students' notebook
    cells: tuple[GradedCell, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions, in the order in which they are asked."""
        return tuple(question for cell in self.cells for question in cell.questions)

    @property
    def points(self) -> float:
        """What the questions can earn, without what is marked by hand."""
        return sum(question.points for question in self.questions)


def release_text(source: Path) -> str:
    """The students' version of a source notebook: no solutions, no hidden tests, no outputs.

    Raises:
        RuntimeError: nbgrader finds the source inconsistent.
    """
    notebook = nbformat.read(source, as_version=4)
    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    for step in STEPS:
        notebook, _ = step(config=config).preprocess(notebook, {})
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k == "kernelspec"}
    return nbformat.writes(notebook) + "\n"


def load(source: Path) -> Assignment:
    """Read a source notebook.

    Raises:
        ValueError: its parts do not fit together.
    """
    notebook = nbformat.read(source, as_version=4)
    namespace: dict[str, Any] = {"np": np}
    cells: list[GradedCell] = []
    calls: set[str] = set()
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        if not about.get("grade"):
            continue
        questions = tuple(q for part in HIDDEN.findall(cell.source) for q in collect(part, namespace))
        by_hand, grade_id, points = bool(about["solution"]), about["grade_id"], float(about["points"])
        if by_hand == bool(questions):
            raise ValueError(
                f"{source.name}, {grade_id}: a graded cell is either a test that asks, or written"
            )
        asked = sum(question.points for question in questions)
        if not by_hand and asked != points:
            raise ValueError(f"{source.name}, {grade_id}: worth {points:g} points, its questions {asked:g}")
        if calls & {q.call for q in questions}:
            raise ValueError(f"{source.name}, {grade_id}: asks again what was asked before")
        calls |= {q.call for q in questions}
        cells.append(GradedCell(grade_id, points, cell.cell_type, questions, by_hand))
    if not calls:
        raise ValueError(f"{source.name} asks nothing")
    release = json.loads(release_text(source))
    for cell in release["cells"]:
        cell["source"] = "".join(cell["source"])
    return Assignment(source.stem, release, tuple(cells))
