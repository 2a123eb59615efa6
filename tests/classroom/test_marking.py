"""Marks: the reference earns all, nothing earns nothing, typical mistakes earn what they deserve."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest

from rnnlib.classroom import exchange, intake, marking, questions, sandbox
from rnnlib.classroom.questions import CASES, ask
from tests.classroom import students

LIMITS = sandbox.Limits(wall=60, step=20)


def marks(assignment, answers, front="", seed="a seed"):
    """The marks of one submission by call, through the sandbox."""
    cells, _ = intake.parse(students.as_bytes(students.submission(assignment.release, answers, front)))
    rebuilt = intake.rebuild(assignment, cells)
    sheets = marking.prepare(assignment, seed)
    public, hidden, calls = marking.messages(sheets)
    job = sandbox.job_message([source for _, source in rebuilt.cells], calls, CASES, LIMITS)
    run = sandbox.run(exchange.pack(job | public), exchange.pack(hidden), LIMITS)
    assert run.end == "finished", run.end
    return {mark.call: mark for mark in marking.mark(sheets, run.public, run.hidden)}


@pytest.mark.sandbox
class TestChapter1:
    def test_the_reference_solutions_earn_all_for_any_seed(self, room, chapter_1):
        for seed in ("one", "two"):
            found = marks(chapter_1, students.solutions(students.CHAPTER_1), seed=seed)
            assert {call: mark.points for call, mark in found.items()} == {
                "preactivation": 4,
                "step_backward": 5,
                "hidden_sequence": 4,
                "overfit": 3,
                "scale": 2,
                "hiding_matrix": 2,
                "plotted_states": 2,
            }
            assert not any(mark.remarks for mark in found.values())

    def test_the_release_earns_nothing_and_says_that_it_is_to_be_written(self, room, chapter_1):
        found = marks(chapter_1, {})
        assert sum(mark.points for mark in found.values()) == 0
        assert {tuple(mark.remarks) for mark in found.values()} == {("It is still to be written.",)}

    # Each is the reference with one text in place of another, and costs some points with a word why.
    WRONG: ClassVar = [
        ("preactivation", "W_hh.T", "W_hh", 2, "its transpose is missing"),
        ("preactivation", " + b_h", "", 2, "the bias is missing"),
        ("step_backward", "np.tanh(a_t) ** 2", "np.tanh(np.tanh(a_t)) ** 2", 2, "it belongs at a_t"),
        ("step_backward", "d_a_t @ W_hh,", "d_a_t @ W_hh.T,", 4, "d_h_prev"),
        ("step_backward", "d_a_t.sum(axis=0)", "d_a_t[0]", 4, "d_b_h"),
        ("hidden_sequence", "(x_t, h_t,", "(x_t, h_0,", 2, "the state is not carried on"),
        ("hidden_sequence", "h_t, hs = h_0, []", "h_t, hs = 0 * h_0, []", 3, "it starts from zero"),
        ("hidden_sequence", "np.stack(hs)", "hs[-1]", 2, "only the last state"),
        ("hidden_sequence", "np.stack(hs)", "np.stack(hs, axis=1)", 0, "shape"),
        ("overfit", "both[:-1].T", "both[:-1]", 0, ""),
        ("overfit", "both[-1]", "0 * both[-1]", 1, "a perfect fit"),
        ("scale", "np.abs(np.linalg.eigvals(W)).max()", "np.linalg.norm(W, 2)", 1, "the norm is scaled"),
        ("hiding_matrix", "A + A.T", "np.eye(H)", 1, "not diagonal"),
        ("hiding_matrix", "A + A.T", "A", 0, "the mistake is hidden"),
        ("plotted_states", "np.arange(1, len(hs) + 1), hs", "hs", 1, "lines"),
        ("plotted_states", ', ylabel="$h_t$"', "", 1, "named axes"),
    ]

    @pytest.mark.parametrize(("call", "right", "wrong", "points", "words"), WRONG)
    def test_a_typical_mistake(self, room, chapter_1, call, right, wrong, points, words):
        answers = students.solutions(students.CHAPTER_1)
        places = {"plotted_states": "draw_states"}
        (name,) = [n for n, text in answers.items() if f"def {places.get(call, call)}(" in text]
        assert answers[name].count(right) == 1, "the mistake must change the answer"
        mark = marks(chapter_1, answers | {name: answers[name].replace(right, wrong)})[call]
        assert mark.points == points, mark
        lost = [line for line, earned, maximum in mark.lines if earned < maximum or maximum == 0]
        assert any(words in line for line in lost), mark.lines


class TestQuestions:
    def test_inputs_depend_on_the_seed_and_only_on_it(self, chapter_1):
        first, again, other = (marking.prepare(chapter_1, seed) for seed in ("a", "a", "b"))
        for one, two, three in zip(first, again, other, strict=True):
            assert all(map(np.array_equal, flat(one.cases), flat(two.cases)))
            if one.question.call != "hiding_matrix":  # its few inputs may meet
                assert not all(map(np.array_equal, flat(one.cases), flat(three.cases)))

    def test_sizes_differ_within_a_case(self, chapter_1):
        """Else a transposed product has the right shape by chance."""
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == "preactivation"]
        for x_t, h_prev, *_ in sheet.cases:
            assert len({*x_t.shape, *h_prev.shape}) == 3

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"criteria": {"values": 1}}, "neither an equation nor inputs"),
            ({"criteria": {"values": 1}, "inputs": list}, "needs a reference"),
            ({"criteria": {"tidy": 1}, "inputs": list}, "take"),
            ({"criteria": {"values": (1, bool)}, "inputs": list, "reference": len}, "take"),
            (
                {"criteria": {"values": 1}, "equation": "eq-vanilla-output", "mistakes": {"none": (len, 1)}},
                "as much as a right answer",
            ),
        ],
    )
    def test_a_question_that_contradicts_itself_is_refused(self, options, words):
        with pytest.raises(ValueError, match=words):
            ask("f", **options)

    def test_asking_in_the_authors_notebook_is_harmless(self):
        ask("f", equation="eq-vanilla-output", criteria={"values": 1})
        assert questions.collect("", {}) == []


def flat(cases):
    return [value for case in cases for value in case]


class TestAgreement:
    RIGHT = np.array([1.0, -2.0])

    @pytest.mark.parametrize(
        ("answer", "same"),
        [
            (RIGHT, True),
            (RIGHT + 1e-9, True),
            (RIGHT + 1e-5, False),
            (RIGHT.astype(np.float32), True),
            ((RIGHT + 1e-3).astype(np.float32), False),
            (RIGHT.astype(np.float16), True),
            (RIGHT.astype(int), True),
            (RIGHT + 0j, True),
            (RIGHT + 1j, False),
            (RIGHT[None], False),
            (np.array([np.nan, -2.0]), False),
            (np.array(["1.0", "-2.0"]), False),
        ],
    )
    def test_of_numbers(self, answer, same):
        assert marking.agrees(answer, self.RIGHT) is same


class TestExchange:
    def test_round_trip(self):
        arrays = {"a": np.eye(3), "b": np.array(3), "c": np.array("text"), "d": np.zeros((0, 2))}
        found = exchange.unpack(exchange.pack(arrays)[exchange.LENGTH_BYTES :])
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)

    def test_random_damage_is_refused_or_read_and_never_worse(self):
        body = exchange.pack({"x": np.arange(6.0).reshape(2, 3), "note": np.array("text")})[8:]
        rng = np.random.default_rng(0)
        refused = 0
        for _ in range(500):
            damaged = bytearray(body)
            for place in rng.integers(len(body), size=4):
                damaged[place] = rng.integers(256)
            try:
                exchange.unpack(bytes(damaged))
            except exchange.BadMessage:
                refused += 1
        assert refused > 100

    def test_fortran_order(self):
        array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
        assert np.array_equal(exchange.unpack(exchange.pack({"x": array})[8:])["x"], array)

    def test_too_many_arrays(self):
        many = {str(i): np.zeros(0) for i in range(exchange.MAX_ARRAYS + 1)}
        with pytest.raises(exchange.BadMessage, match="claims"):
            exchange.unpack(exchange.pack(many)[8:])


class TestRelease:
    def test_the_students_versions_are_those_of_the_sources(self):
        from rnnlib.classroom.assignment import release_text

        sources = sorted(students.SOURCES.glob("*.ipynb"))
        releases = sorted((students.SOURCES / "release").glob("*.ipynb"))
        assert [p.name for p in sources] == [p.name for p in releases]
        for source, release in zip(sources, releases, strict=True):
            assert release.read_text(encoding="utf-8") == release_text(source), "run make assignments"

    def test_it_holds_no_solution_and_no_hidden_test(self, chapter_1):
        text = json.dumps(chapter_1.release)
        for word in ("SOLUTION", "HIDDEN", "ask(", "unroll", "lstsq", "rnnlib.classroom"):
            assert word not in text
        for answer in students.solutions(students.CHAPTER_1).values():
            for line in answer.split("\n")[2:]:
                told = line.split("#")[0].strip()
                assert told in ("", ")", "return (") or json.dumps(told)[1:-1] not in text, line

    def test_run_as_it_is_it_says_what_to_do(self, chapter_1, capsys):
        """The checks run and say that something is still to be written; no traceback is a riddle."""
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell()
        failed = []
        for cell in chapter_1.release["cells"]:
            if cell["cell_type"] == "code":
                result = shell.run_cell(cell["source"], silent=True)
                failed.append(result.error_before_exec or result.error_in_exec)
        problems = [error for error in failed if error is not None]
        assert all(isinstance(error, NotImplementedError) for error in problems), problems
        assert "still to be written" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda cells: cells[2][3].update(points=7), "worth 7 points, its questions 2"),
            (lambda cells: cells[2][3].update(solution=True), "either a test that asks, or written"),
            (lambda cells: cells.append((*cells[2][:1], "again", *cells[2][2:])), "asks again"),
            (lambda cells: cells.__delitem__(slice(2, None)), "asks nothing"),
        ],
    )
    def test_a_source_whose_parts_do_not_fit_is_refused(self, tmp_path, change, words):
        from rnnlib.classroom.assignment import load

        cells = [(*cell[:3], dict(cell[3])) for cell in students.SMALL]
        change(cells)
        with pytest.raises(ValueError, match=words):
            load(students.write_source(tmp_path / "bad.ipynb", cells))
