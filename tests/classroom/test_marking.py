"""Questions and marks: what an author may ask, and how an answer is compared."""

from __future__ import annotations

import numpy as np
import pytest

from rnnlib.classroom import exchange, inside, marking, questions
from rnnlib.classroom.questions import ask
from tests.classroom import students


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

    def test_a_single_precision_answer_is_described_by_its_own_precision(self, small):
        sheets = marking.prepare(small, "s")
        answer = (2 * sheets[0].public[0]).astype(np.float32)
        answer[0, 0] += 1
        said = {"question": np.array(0), "case": np.array(0), "output0": answer}
        (remark, *_) = marking.mark(sheets, [said], [])[0].remarks
        assert "1 of 12 numbers differ" in remark

    def test_the_output_that_is_wrong_is_named(self, chapter_1):
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == "step_backward"]
        answer = {f"output{i}": array for i, array in enumerate(sheet.public_answer)}
        said = {"question": np.array(0), "case": np.array(0), **answer, "output3": 2 * answer["output3"]}
        (remark, *_) = marking.mark([sheet], [said], [])[0].remarks
        assert remark.startswith("On the public example d_W_hh: the shape")


def sequence(xs, h_0, W_xh, W_hh, b_h):
    h_t, hs = h_0, []
    for x_t in xs:
        h_t = np.tanh(h_t @ W_hh.T + x_t @ W_xh.T + b_h)
        hs.append(h_t)
    return np.stack(hs)


class TestWhatAStudentReads:
    """Beyond the marks: words for the usual accidents."""

    def said(self, sheet, **more):
        answer = {f"output{i}": array for i, array in enumerate(sheet.public_answer)}
        return {"question": np.array(0), "case": np.array(0), **answer, **more}

    @pytest.mark.parametrize(
        ("places", "remark"),
        [
            ([], None),
            ([1], "It changes what it is given in place (h_0); work on a copy."),
            ([0, 4], "It changes what it is given in place (xs, b_h); work on a copy."),
            ([7, -1], None),
            ([[1]], None),
            (["h_0"], None),
            ([0.5], None),
        ],
    )
    def test_an_argument_that_was_changed_is_named(self, chapter_1, places, remark):
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == "hidden_sequence"]
        (mark,) = marking.mark([sheet], [self.said(sheet, changed=np.array(places, dtype=None))], [])
        assert [r for r in mark.remarks if "in place" in r] == ([remark] if remark else [])

    def test_arguments_are_named_as_in_the_release(self, chapter_1):
        sheets = {s.question.call: s for s in marking.prepare(chapter_1, "s")}
        assert sheets["preactivation"].names == ["x_t", "h_prev", "W_xh", "W_hh", "b_h"]
        assert sheets["plotted_states"].names == ["hs"]
        assert marking._names(chapter_1, "preactivation", 2) == ["argument 1", "argument 2"]
        assert marking._names(chapter_1, "no_such", 1) == ["argument 1"]

    @pytest.mark.parametrize(
        ("call", "wrong", "remark"),
        [
            (
                "preactivation",
                lambda x_t, h_prev, W_xh, W_hh, b_h: h_prev @ W_hh + x_t @ W_xh.T + b_h,
                "These are the numbers that would come out if W_hh were transposed.",
            ),
            (
                "preactivation",
                lambda x_t, h_prev, W_xh, W_hh, b_h: h_prev @ W_hh.T + x_t @ W_xh.T,
                "These are the numbers that would come out if b_h were zero (is it used?).",
            ),
            (
                "preactivation",
                lambda x_t, h_prev, W_xh, W_hh, b_h: (h_prev @ W_hh.T + x_t @ W_xh.T + b_h).T,
                "It is the transpose of what is asked for.",
            ),
            ("preactivation", lambda x_t, h_prev, W_xh, W_hh, b_h: h_prev * 3, None),
            (
                "hidden_sequence",
                lambda xs, *more: sequence([xs[t - 1] for t in range(len(xs))], *more),
                "These are the numbers that would come out if xs were read one step early, "
                "as xs[t - 1] for xs[t].",
            ),
            (
                "hidden_sequence",
                lambda xs, h_0, *more: np.concatenate([h_0[None], sequence(xs, h_0, *more)]),
                "It begins one step too early: drop its first entry.",
            ),
            ("hidden_sequence", lambda *a: sequence(*a)[1:], "It lacks its first entry."),
            ("hidden_sequence", lambda *a: sequence(*a)[:-1], "It lacks its last entry."),
            ("hidden_sequence", lambda *a: sequence(*a)[::-1], "It is right, but in the opposite order."),
            (
                "hidden_sequence",
                lambda xs, h_0, *more: np.concatenate([h_0[None], sequence(xs, h_0, *more)])[:-1],
                "It comes one step too late.",
            ),
            ("hidden_sequence", lambda *a: np.roll(sequence(*a), -1, 0), "It comes one step too early."),
            ("hidden_sequence", lambda *a: -sequence(*a), "It has the wrong sign."),
        ],
    )
    def test_a_usual_mistake_that_nobody_listed_is_recognised(self, chapter_1, call, wrong, remark):
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == call]
        said = self.said(sheet, output0=wrong(*sheet.public))
        (mark,) = marking.mark([sheet], [said], [])
        hints = [r for r in mark.remarks if not r.startswith(("On the public", "The process"))]
        assert hints == ([remark] if remark else [])

    def test_an_answer_of_another_kind_gets_no_word(self, chapter_1):
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == "hidden_sequence"]
        right = sheet.public_answer[0]
        for odd in (right > 0, right + 1j, np.array("words"), np.zeros(0), right[None], np.array(1.0)):
            (mark,) = marking.mark([sheet], [self.said(sheet, output0=odd)], [])
            assert all(r.startswith(("On the public", "The process", "It returned")) for r in mark.remarks)

    def test_how_many_results_are_missing(self, chapter_1):
        (sheet,) = [s for s in marking.prepare(chapter_1, "s") if s.question.call == "overfit"]
        said = {"question": np.array(0), "case": np.array(0), "error": np.array("count")}
        (mark,) = marking.mark([sheet], [said], [said])
        assert mark.remarks[0] == "It did not return 2 results: W_hy, b_y."
        assert not any("It did not" in remark for remark in mark.remarks[1:]), "once is enough"

    def test_a_right_answer_gets_no_word(self, chapter_1):
        for sheet in marking.prepare(chapter_1, "s"):
            (mark,) = marking.mark([sheet], [self.said(sheet)], [])
            assert mark.remarks == ["The process ended before all hidden inputs were answered."]

    def test_the_students_process_sees_what_was_changed(self):
        before = [np.arange(3.0), np.array(2.0), np.eye(2)]
        values = [before[0].copy(), 2.0, before[2].copy()]
        assert inside.changed(values, before).tolist() == []
        values[0] += 1
        values[2].resize(4, refcheck=False)
        assert inside.changed(values, before).tolist() == [0, 2]

    def test_a_mistake_that_is_passed_on_is_said_to_be(self):
        def mark(call, points):
            return marking.Mark(call, call, points, 4.0)

        sources = [
            "def step(x):\n    return x",
            "def sequence(xs):\n    return [step(x) for x in xs]",
            "def other(x):\n    return x  # no step\n\nlast = lambda x: sequence(step(x))",
        ]
        marks = [mark("step", 2.0), mark("sequence", 0.0), mark("other", 0.0), mark("last", 1.0)]
        marking.follow_ons(marks, sources)
        assert marks[0].remarks == []
        assert marks[1].remarks == ["It calls step, where points were lost: mend that first."]
        assert marks[3].remarks == ["It calls step and sequence, where points were lost: mend that first."]
        marks = [mark("power", 0.0)]
        marking.follow_ons(marks, ["def power(W, n):\n    return W @ power(W, n - 1) if n else W"])
        assert marks[0].remarks == [], "a function that calls itself"
        marks = [mark("step", 4.0), mark("sequence", 0.0)]
        marking.follow_ons(marks, sources)
        assert marks[1].remarks == []


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cells: cells[2][3].update(points=7), "worth 7 points, its questions 2"),
        (lambda cells: cells[2][3].update(solution=True), "either a test that asks, or written"),
        (lambda cells: cells.append((*cells[2][:1], "again", *cells[2][2:])), "asks again"),
        (lambda cells: cells.__delitem__(slice(2, None)), "asks nothing"),
    ],
)
def test_a_source_whose_parts_do_not_fit_is_refused(tmp_path, change, words):
    from rnnlib.classroom.assignment import load

    cells = [(*cell[:3], dict(cell[3])) for cell in students.SMALL]
    change(cells)
    with pytest.raises(ValueError, match=words):
        load(students.write_source(tmp_path / "bad.ipynb", cells))
