"""What is handed in: found, read within bounds, matched with the release. Nothing is run here."""

from __future__ import annotations

import copy
import json
import zipfile

import numpy as np
import pytest

from rnnlib.classroom import intake
from tests.classroom import hostile, students


def rebuilt(assignment, data):
    cells, doubts = intake.parse(data)
    result = intake.rebuild(assignment, cells)
    result.doubts[:0] = doubts
    return result


def code(result):
    return [source for _, source in result.cells]


@pytest.fixture
def good(small):
    return hostile.good(small.release)


# --- random damage ------------------------------------------------------------------------------


def lose_metadata(notebook, rng):
    rng.choice(notebook["cells"])["metadata"] = {}


def lose_all_metadata(notebook, rng):
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def lose_ids(notebook, rng):
    for cell in notebook["cells"]:
        cell.pop("id", None)


def delete_locked(notebook, rng):
    locked = [c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("locked")]
    if locked:
        notebook["cells"].remove(rng.choice(locked))


def repeat(notebook, rng):
    place = int(rng.integers(len(notebook["cells"])))
    notebook["cells"].insert(place, copy.deepcopy(notebook["cells"][place]))


def shuffle(notebook, rng):
    rng.shuffle(notebook["cells"])


def add_cells(notebook, rng):
    for kind in ("code", "markdown", "raw"):
        place = int(rng.integers(len(notebook["cells"]) + 1))
        notebook["cells"].insert(place, students.own_cell("x = 1  # mine", kind))


def change_test(notebook, rng):
    for cell in notebook["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade") and cell["cell_type"] == "code":
            cell["source"] = "print('changed')"


def line_lists(notebook, rng):
    for cell in notebook["cells"]:
        if isinstance(cell["source"], str):
            cell["source"] = cell["source"].splitlines(keepends=True)


def outputs(notebook, rng):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stderr", "text": "x" * 1000}]
            cell["execution_count"] = int(rng.integers(100))


def lose_notebook_metadata(notebook, rng):
    notebook["metadata"] = None
    notebook.pop("nbformat", None)


def other_points(notebook, rng):
    for cell in notebook["cells"]:
        cell["metadata"].get("nbgrader", {})["points"] = float(rng.normal())


def odd_types(notebook, rng):
    cell = rng.choice(notebook["cells"])
    cell["metadata"] = [None, 3, "text", [], {"nbgrader": 5}, {"nbgrader": {"grade_id": [1]}}][
        rng.integers(6)
    ]


MUTATIONS = [
    lose_metadata,
    lose_all_metadata,
    lose_ids,
    delete_locked,
    repeat,
    shuffle,
    add_cells,
    change_test,
    line_lists,
    outputs,
    lose_notebook_metadata,
    other_points,
]


def old_format(notebook):
    """As IPython wrote it before 2015."""
    cells = []
    for cell in notebook["cells"]:
        old = {k: v for k, v in cell.items() if k not in ("source", "execution_count")}
        cells.append(old | {("input" if cell["cell_type"] == "code" else "source"): cell["source"]})
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": cells}]}


ENCODINGS = [
    lambda notebook: students.as_bytes(notebook),
    lambda notebook: b"\xef\xbb\xbf" + students.as_bytes(notebook),
    lambda notebook: json.dumps(notebook).encode("utf-16"),
    lambda notebook: json.dumps(notebook, indent=4).replace("\n", "\r\n").encode(),
    lambda notebook: students.as_bytes(old_format(notebook)),
]


def test_200_random_mutations_of_a_good_notebook_keep_its_answers(small, good):
    """What is run defines both functions as the good notebook does, after the setup, and no test is run."""
    rng = np.random.default_rng(8)
    kept = 0
    for _ in range(200):
        notebook = copy.deepcopy(good)
        chosen = rng.choice(len(MUTATIONS), size=int(rng.integers(1, 5)), replace=False)
        # What shifts or strips cells comes last: the others look for metadata.
        for mutation in sorted((MUTATIONS[i] for i in chosen), key=lambda m: m is lose_all_metadata):
            mutation(notebook, rng)
        result = rebuilt(small, ENCODINGS[rng.integers(len(ENCODINGS))](notebook))
        namespace: dict = {}
        for source in code(result):
            assert "HIDDEN" not in source
            exec(source, namespace)
        right = namespace["double"](3.0) == 6.0 and namespace["scale"](2.0, 5.0) == 10.0
        kept += right and code(result)[0] == "import numpy as np" and result.written["proof"]
    assert kept >= 198


def test_random_bytes_in_a_notebook_are_refused_or_read_and_never_worse(small, good):
    rng = np.random.default_rng(9)
    data = students.as_bytes(good)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=int(rng.integers(1, 30))):
            damaged[place] = rng.integers(256)
        try:
            rebuilt(small, bytes(damaged))
        except intake.Refused:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("trial", range(20))
def test_odd_types_are_refused_or_read(small, good, trial):
    odd_types(good, np.random.default_rng(trial))
    assert len(code(rebuilt(small, students.as_bytes(good)))) >= 3


# --- matching -----------------------------------------------------------------------------------


def test_an_unchanged_notebook_gives_no_remark(small, good):
    result = rebuilt(small, students.as_bytes(good))
    assert (result.notes, result.doubts) == ([], [])
    assert [label for label, _ in result.cells] == ["setup", "answer double", "answer scale"]


def test_a_changed_locked_cell_is_restored_with_a_note(small, good):
    good["cells"][0]["source"] = "import os as np"
    result = rebuilt(small, students.as_bytes(good))
    assert code(result)[0] == "import numpy as np"
    assert result.notes == ["locked cells were changed, ours are used: setup"]


def test_a_missing_locked_cell_is_restored_with_a_note(small, good):
    del good["cells"][0]
    result = rebuilt(small, students.as_bytes(good))
    assert code(result)[0] == "import numpy as np"
    assert result.notes == ["locked cells were missing, ours are used: setup"]


def test_an_answer_in_a_locked_cells_place_is_an_answer(small, good):
    for cell in good["cells"]:
        if cell["id"] == "answer-scale":
            cell["id"], cell["metadata"] = "scale", {"nbgrader": {"grade_id": "scale"}}
    assert hostile.ANSWERS["answer-scale"] in code(rebuilt(small, students.as_bytes(good)))


def test_a_missing_answer_is_noted(small, good):
    good["cells"] = [c for c in good["cells"] if c["id"] != "answer-scale"]
    assert rebuilt(small, students.as_bytes(good)).notes == ["the answer cell answer-scale is missing"]


def test_what_a_teacher_marks_by_hand_is_the_release_with_the_answers(small, good):
    result = rebuilt(small, students.as_bytes(good))
    released = {c["id"]: c for c in small.release["cells"]}
    assert [c["id"] for c in result.notebook["cells"]] == list(released)
    for cell in result.notebook["cells"]:
        assert cell["metadata"] == released[cell["id"]]["metadata"]
        assert cell["source"] == hostile.ANSWERS.get(cell["id"], released[cell["id"]]["source"])


# --- finding ------------------------------------------------------------------------------------


def test_layouts(tmp_path, good):
    data = students.as_bytes(good)
    for path in ("a.ipynb", "b/small.ipynb", "c/small/small.ipynb", "d/other.ipynb", "e.x.ipynb"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "c/small/.ipynb_checkpoints").mkdir()
    (tmp_path / "c/small/.ipynb_checkpoints/small-checkpoint.ipynb").write_bytes(b"old")
    (tmp_path / ".DS_Store").write_bytes(b"")
    for name, member in (("f.zip", "g/small.ipynb"), ("h/upload.zip", "renamed.ipynb")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, data)
            archive.writestr("__MACOSX/._small.ipynb", b"x")
    (tmp_path / "zip_as_notebook.ipynb").write_bytes((tmp_path / "f.zip").read_bytes())
    found = {s.student: intake.read(s, "small") for s in intake.find(tmp_path, "small")}
    assert set(found) == {"a", "b", "c", "d", "e.x", "f", "h", "zip_as_notebook"}
    assert {name for name, (content, _) in found.items() if content == data} == set(found)
    assert {name for name, (_, notes) in found.items() if not notes} == {"a", "b", "c", "e.x"}
    assert found["d"][1] == ["the notebook is not named small.ipynb"]


def test_an_encrypted_archive_says_so(tmp_path, good):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("small.ipynb", students.as_bytes(good))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[6] |= 1  # the flag of encryption, in both headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(intake.Refused, match="not encrypted"):
        intake.read(intake.find(tmp_path, "small")[0], "small")


def test_several_notebooks_without_the_right_name_are_refused(tmp_path, good):
    for name in ("one", "two"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{name}.ipynb").write_bytes(students.as_bytes(good))
    with pytest.raises(intake.Refused, match="2 notebooks"):
        intake.read(intake.find(tmp_path, "small")[0], "small")


def test_other_notebooks_beside_the_right_one_do_not_matter(tmp_path, good):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "small.ipynb").write_bytes(students.as_bytes(good))
    (tmp_path / "a" / "scratch.ipynb").write_bytes(b"{}")
    assert intake.read(intake.find(tmp_path, "small")[0], "small") == (students.as_bytes(good), [])
