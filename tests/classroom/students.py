"""Students' notebooks, made from a release and answers; and a small assignment that costs little to run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.conftest import ROOT

SOURCES = ROOT / "notebooks" / "assignments"
CHAPTER_1 = SOURCES / "01_vanilla_rnn.ipynb"

Notebook = dict[str, Any]

SMALL = [
    ("code", "setup", "import numpy as np", {"locked": True}),
    (
        "code",
        "answer-double",
        "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
        {"solution": True},
    ),
    (
        "code",
        "double",
        "double(np.ones(3))\n"
        "### BEGIN HIDDEN TESTS\n"
        "from rnnlib.classroom import ask\n\n"
        "ask('double', inputs=lambda rng: [rng.normal(size=(3, 4))], reference=lambda x: 2 * x,\n"
        "    criteria={'shape': 1, 'values': 1})\n"
        "### END HIDDEN TESTS",
        {"grade": True, "locked": True, "points": 2},
    ),
    (
        "code",
        "answer-scale",
        "def scale(W, factor):\n    ### BEGIN SOLUTION\n    return factor * W\n    ### END SOLUTION",
        {"solution": True},
    ),
    (
        "code",
        "scale",
        "### BEGIN HIDDEN TESTS\n"
        "ask('scale', inputs=lambda rng: [rng.normal(size=(2, 2)), float(rng.normal())],\n"
        "    reference=lambda W, factor: factor * W, criteria={'values': 3})\n"
        "### END HIDDEN TESTS",
        {"grade": True, "locked": True, "points": 3},
    ),
    (
        "markdown",
        "proof",
        "### BEGIN SOLUTION\nIt is linear.\n### END SOLUTION",
        {"grade": True, "solution": True, "points": 4},
    ),
]


def write_source(path: Path, cells: list[tuple[str, str, str, Mapping[str, Any]]]) -> Path:
    """A source notebook as nbgrader's tool bar would make it."""
    made = []
    for kind, name, source, about in cells:
        cell = (new_code_cell if kind == "code" else new_markdown_cell)(source, id=name)
        defaults = {"grade": False, "solution": False, "locked": False, "task": False}
        cell.metadata["nbgrader"] = {
            **defaults,
            "schema_version": 3,
            "grade_id": name,
            "cell_type": kind,
            **about,
        }
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def solutions(source: Path) -> dict[str, str]:
    """The reference solutions of a source notebook, by grade_id."""
    notebook = nbformat.read(source, as_version=4)
    found = {}
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            lines = [line for line in cell.source.split("\n") if " SOLUTION" not in line]
            found[cell.metadata.nbgrader.grade_id] = "\n".join(lines)
    return found


def mistaken(answers: Mapping[str, str], function: str, right: str, wrong: str) -> dict[str, str]:
    """The answers, with one text in place of another in the one that defines a function."""
    (name,) = [n for n, text in answers.items() if f"def {function}(" in text]
    assert answers[name].count(right) == 1, "the mistake must change the answer in one place"
    return {**answers, name: answers[name].replace(right, wrong)}


def submission(
    release: Mapping[str, Any], answers: Mapping[str, str], front: str = "", back: str = ""
) -> Notebook:
    """A release with answers filled in, and cells of the student's own before and after."""
    notebook = copy.deepcopy(dict(release))
    for cell in notebook["cells"]:
        cell.setdefault("outputs", []) if cell["cell_type"] == "code" else None
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if name in answers and cell["metadata"]["nbgrader"]["solution"]:
            cell["source"] = answers[name]
    notebook["cells"] = [
        *([own_cell(front)] if front else []),
        *notebook["cells"],
        *([own_cell(back)] if back else []),
    ]
    return notebook


def own_cell(source: str, kind: str = "code") -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def as_bytes(notebook: Any) -> bytes:
    return json.dumps(notebook).encode()
