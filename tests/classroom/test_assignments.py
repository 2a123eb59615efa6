"""Every assignment: its solutions earn all, its release nothing, typical mistakes what they deserve.

``mistakes/chapter_NN.py`` lists the typical mistakes of assignment NN. Each is the reference solution with
one text in place of another: the function asked, the right text, the wrong one, the points that are left,
and words that the student reads. ``WRITTEN_IN`` names the function that a student writes, where the one
asked is a locked helper around it.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from rnnlib.classroom import exchange, inside, intake, marking, sandbox
from rnnlib.classroom.assignment import load, release_text
from rnnlib.classroom.questions import CASES
from tests.classroom import students

sys.path.remove(inside.__file__.rpartition("/")[0])  # it stands beside exchange.py, alone, in its sandbox
SOURCES = sorted(students.SOURCES.glob("*.ipynb"))
LIMITS = sandbox.Limits(wall=120, step=20)

assignment_of = cache(load)
sheets_of = cache(lambda source, seed: marking.prepare(assignment_of(source), seed))
solutions_of = cache(students.solutions)


def mistakes(source):
    return importlib.import_module(f"tests.classroom.mistakes.chapter_{source.stem[:2]}")


def cells_of(source, answers):
    """The cells that run: the release with the answers."""
    assignment = assignment_of(source)
    cells, _ = intake.parse(students.as_bytes(students.submission(assignment.release, answers)))
    return [text for _, text in intake.rebuild(assignment, cells).cells]


def marks(source, answers, seed="a seed"):
    """The marks of one submission by call, through the sandbox."""
    sheets = sheets_of(source, seed)
    public, hidden, calls = marking.messages(sheets)
    job = sandbox.job_message(cells_of(source, answers), calls, CASES, LIMITS)
    run = sandbox.run(exchange.pack(job | public), exchange.pack(hidden), LIMITS)
    assert run.end == "finished", run.end
    return {mark.call: mark for mark in marking.mark(sheets, run.public, run.hidden)}


def marks_here(source, answers, asked):
    """The marks of our own answers to one call, from this process: many times faster than a sandbox."""
    (sheet,) = [sheet for sheet in sheets_of(source, "a seed") if sheet.question.call == asked]
    public, hidden, calls = marking.messages([sheet])
    namespace = {"__name__": "__main__"}
    for text in cells_of(source, answers):
        exec(text, namespace)
    received = []

    def answer(cases, count):
        sent = []
        channel = SimpleNamespace(send=lambda **a: sent.append({k: np.asarray(v) for k, v in a.items()}))
        job = {"questions": calls, "seconds": LIMITS.step}
        inside.answer(channel, SimpleNamespace(namespace=namespace), job, cases, count)
        received.append(sent)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a student's process
        answer({k: np.asarray(v) for k, v in public.items()}, 1)
        answer({k: np.asarray(v) for k, v in hidden.items()}, CASES)
    return marking.mark([sheet], *received)[0]


every_assignment = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.mark.sandbox
class TestMarks:
    @every_assignment
    @pytest.mark.parametrize("seed", ["one", "two"])
    def test_the_reference_solutions_earn_all_for_any_seed(self, room, source, seed):
        for mark in marks(source, solutions_of(source), seed).values():
            assert mark.points == mark.maximum, mark
            assert not mark.remarks, mark

    @every_assignment
    def test_the_release_earns_nothing_and_says_that_it_is_to_be_written(self, room, source):
        for mark in marks(source, {}).values():
            assert mark.points == 0, mark
            assert mark.remarks == ["It is still to be written."], mark


@pytest.mark.parametrize(
    ("source", "call", "right", "wrong", "points", "words"),
    [
        pytest.param(source, *wrong, id=f"{source.stem}-{i}-{wrong[0]}")
        for source in SOURCES
        for i, wrong in enumerate(mistakes(source).WRONG)
    ],
)
def test_a_typical_mistake(source, call, right, wrong, points, words):
    written = getattr(mistakes(source), "WRITTEN_IN", {}).get(call, call)
    mark = marks_here(source, students.mistaken(solutions_of(source), written, right, wrong), call)
    assert mark.points == points, mark
    lost = [line for line, earned, maximum in mark.lines if earned < maximum or maximum == 0]
    assert any(words in line for line in lost), mark.lines


@every_assignment
def test_every_function_has_a_typical_mistake_and_there_are_five(source):
    wrong = mistakes(source).WRONG
    assert {call for call, *_ in wrong} == {question.call for question in assignment_of(source).questions}
    assert len(wrong) >= 5


@every_assignment
def test_inputs_depend_on_the_seed_and_only_on_it(source):
    changed = 0
    for one, two, three in zip(
        *(marking.prepare(assignment_of(source), seed) for seed in ("a", "a", "b")), strict=True
    ):
        assert str(one.cases) == str(two.cases)
        changed += str(one.cases) != str(three.cases)
    assert changed >= len(assignment_of(source).questions) - 1  # a few small whole numbers may meet


class TestRelease:
    def test_every_source_has_a_release_and_no_release_is_left_over(self):
        releases = sorted((students.SOURCES / "release").glob("*.ipynb"))
        assert [path.name for path in SOURCES] == [path.name for path in releases]

    @every_assignment
    def test_the_students_version_is_that_of_the_source(self, source):
        release = students.SOURCES / "release" / source.name
        assert release.read_text(encoding="utf-8") == release_text(source), "run make assignments"

    @every_assignment
    def test_it_holds_no_solution_and_no_hidden_test(self, source):
        text = json.dumps(assignment_of(source).release)
        for word in ("SOLUTION", "HIDDEN", "ask(", "rnnlib.classroom"):
            assert word not in text
        for answer in solutions_of(source).values():
            for line in answer.split("\n")[2:]:
                told = line.split("#")[0].strip()
                assert len(told) < 12 or json.dumps(told)[1:-1] not in text, line

    @every_assignment
    def test_it_links_to_no_file(self, source):
        """A student's copy lies anywhere. Beside ``release/`` lie the sources, with their solutions."""
        text = "".join(cell["source"] for cell in assignment_of(source).release["cells"])
        assert [link for link in re.findall(r"\]\(([^)]*)\)", text) if not link.startswith("https:")] == []

    @every_assignment
    def test_run_as_it_is_it_says_what_to_do(self, source, capsys):
        """The checks run and say that something is still to be written; no traceback is a riddle."""
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell()
        failed = []
        for cell in assignment_of(source).release["cells"]:
            if cell["cell_type"] == "code":
                result = shell.run_cell(cell["source"], silent=True)
                failed.append(result.error_before_exec or result.error_in_exec)
        problems = [error for error in failed if error is not None]
        assert all(isinstance(error, NotImplementedError) for error in problems), problems
        assert "still to be written" in capsys.readouterr().out

    @every_assignment
    def test_every_assignment_has_a_written_answer_and_a_picture(self, source):
        assignment = assignment_of(source)
        assert any(cell.by_hand and cell.cell_type == "markdown" for cell in assignment.cells)
        assert any("plot" in question.call for question in assignment.questions)
