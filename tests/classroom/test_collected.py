"""What nbgrader collected: whose it is, when it came, how late; and the way back to the student."""

from __future__ import annotations

import argparse
import csv
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from rnnlib.classroom import __main__ as command
from rnnlib.classroom import grade as grading
from rnnlib.classroom import intake, late, sandbox
from rnnlib.classroom.grade import Settings, grade
from tests.classroom import hostile, students

DUE = datetime(2026, 10, 1, 22, 0, tzinfo=UTC)


def lay(folder: Path, student: str, assignment: str, data: bytes, when: str) -> None:
    """A submission as `nbgrader collect` lays it."""
    at = folder / student / assignment
    at.mkdir(parents=True)
    (at / f"{assignment}.ipynb").write_bytes(data)
    (at / "timestamp.txt").write_text(when)
    (at / "submission_secret.txt").write_text(secret(student))


def secret(student: str) -> str:
    return student * 30


@pytest.fixture
def collected(small, tmp_path) -> Path:
    folder = tmp_path / "submitted"
    good = students.as_bytes(hostile.good(small.release))
    lay(folder, "anna", "small", good, "2026-10-01 21:59:59.000000 UTC")
    lay(folder, "ben", "small", good, "2026-10-02 01:30:00.000000 UTC")
    lay(folder, "cy", "other", good, "2026-10-01 12:00:00.000000 UTC")
    lay(folder, "dora", "small", b"{", "2026-10-02 00:00:00 +0200")
    lay(folder, "eve", "small", good, "yesterday, honestly")
    return folder


def uncontained(out: Path, **more) -> Settings:
    return Settings(out, contained=False, limits=sandbox.Limits(processes=10_000), **more)


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2026-10-01 23:59 +02:00", datetime(2026, 10, 1, 21, 59, tzinfo=UTC)),
            ("2026-10-01T23:59:30-0130", datetime(2026, 10, 2, 1, 29, 30, tzinfo=UTC)),
            ("2026-10-01 23:59 Europe/Berlin", datetime(2026, 10, 1, 21, 59, tzinfo=UTC)),
            ("2026-12-01 23:59 Europe/Berlin", datetime(2026, 12, 1, 22, 59, tzinfo=UTC)),
            ("2026-10-01 21:59:00.250000 UTC\n", datetime(2026, 10, 1, 21, 59, 0, 250000, tzinfo=UTC)),
            ("2026-10-01 21:59Z", datetime(2026, 10, 1, 21, 59, tzinfo=UTC)),
            ("2026-10-01 21:59", datetime(2026, 10, 1, 21, 59, tzinfo=UTC)),
        ],
    )
    def test_zones(self, text, expected):
        assert late.moment(text) == expected
        assert late.moment(text).utcoffset().total_seconds() == 0

    def test_nbgraders_own_reading_is_the_same(self):
        from nbgrader.utils import parse_utc

        for text in ("2026-10-01 21:59:00.250000 UTC", "2026-10-01 21:59"):
            assert late.moment(text).replace(tzinfo=None) == parse_utc(text)

    def test_a_teachers_time_without_a_zone_is_that_of_the_machine(self, monkeypatch):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert late.moment("2026-10-01 09:00", assume_local=True) == datetime(2026, 10, 1, tzinfo=UTC)
        finally:
            monkeypatch.undo()
            time.tzset()

    @pytest.mark.parametrize(
        "text",
        [
            *("", "now", "2026-13-01 10:00", "2026-10-01", "1 October 2026 10:00", "2026-10-01 25:00"),
            *("2026-10-01 10:00 Nowhere/Land", "2026-10-01 10:00 Europe", "2026-10-01 10:00 a/../../passwd"),
            *("2026-10-01 10:00 +99:99", "0001-01-01 00:00 +10:00", "2026-10-01 10:00 UTC later", "9" * 900),
        ],
    )
    def test_what_is_no_time_is_refused(self, text):
        with pytest.raises(ValueError, match=r".+"):
            late.moment(text)

    def test_a_second_late_is_late(self):
        assert late.hours_late(datetime(2026, 10, 1, 22, 0, 1, tzinfo=UTC), DUE) == pytest.approx(1 / 3600)
        assert late.hours_late(DUE, DUE) == 0
        assert late.hours_late(datetime(2026, 9, 1, tzinfo=UTC), DUE) == 0


class TestFinding:
    def test_the_assignments_folder_counts_and_others_do_not(self, collected):
        found = intake.find(collected, "small")
        assert [s.student for s in found] == ["anna", "ben", "dora", "eve"]
        assert [s.student for s in intake.find(collected, "other")] == ["cy"]
        assert found[0].paths == (collected / "anna" / "small",)

    def test_a_link_to_another_students_work_is_not_followed(self, collected):
        (collected / "fay" / "other").mkdir(parents=True)
        (collected / "fay" / "other" / "timestamp.txt").write_text("2026-10-01 12:00")
        (collected / "fay" / "small").symlink_to(collected / "anna" / "small")
        assert "fay" not in [s.student for s in intake.find(collected, "small")]

    def test_tickets_are_small_plain_files_or_nothing(self, collected, tmp_path):
        (submission, *_) = intake.find(collected, "small")
        path = submission.paths[0] / "submission_secret.txt"
        assert intake.ticket(submission, path.name) == secret("anna")
        (tmp_path / "gradebook.db").write_text("marks")
        for make in (
            lambda: path.symlink_to(tmp_path / "gradebook.db"),
            lambda: path.write_bytes(b"x" * 100_000),
            lambda: path.write_bytes(b"\xff\xfe"),
            lambda: os.mkfifo(path),
            lambda: None,
        ):
            path.unlink(missing_ok=True)
            make()
            assert intake.ticket(submission, path.name) is None

    def test_a_time_that_cannot_be_read_is_none(self, collected):
        times = {s.student: intake.handed_in(s) for s in intake.find(collected, "small")}
        assert times["eve"] is None
        assert times["dora"] == DUE


class TestLateness:
    def test_the_tables_say_who_was_late_and_nobody_loses_points(self, small_source, collected, tmp_path):
        out = tmp_path / "out"
        results = grade(small_source, collected, uncontained(out, due=DUE), quiet=True)
        assert {r.student: r.points for r in results} == {"anna": 5, "ben": 5, "dora": 0, "eve": 5}
        with (out / "small.csv").open() as stream:
            rows = {row["student"]: row for row in csv.DictReader(stream)}
        assert rows["anna"]["hours late"] == rows["dora"]["hours late"] == "0.00"
        assert (rows["ben"]["hours late"], rows["ben"]["points"]) == ("3.50", "5")
        assert rows["ben"]["handed in"] == "2026-10-02 01:30:00 UTC"
        assert rows["eve"]["hours late"] == rows["eve"]["handed in"] == ""
        lines = (out / "small.txt").read_text().splitlines()
        assert lines[-1] == "due 2026-10-01 22:00:00 UTC: 1 late, 1 without a time"
        assert "3.5 hours late" in next(line for line in lines if line.startswith("ben"))
        assert "no time of submission" in next(line for line in lines if line.startswith("eve"))
        assert "late" not in next(line for line in lines if line.startswith("anna"))

    def test_without_a_due_time_the_tables_are_as_ever(self, small_source, collected, tmp_path):
        grade(small_source, collected, uncontained(tmp_path / "out"), quiet=True)
        for name in ("small.csv", "small.txt"):
            assert "late" not in (tmp_path / "out" / name).read_text()

    def test_nbgrader_knows_it_too(self, small_source, collected, tmp_path):
        out = tmp_path / "out"
        grade(small_source, collected, uncontained(out, due=DUE), quiet=True)
        grade(small_source, collected, uncontained(out), quiet=True)  # forgetting it changes nothing
        with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
            seconds = {s.student.id: s.total_seconds_late for s in book.assignment_submissions("small")}
        assert seconds == {"anna": 0, "ben": 3.5 * 3600, "dora": 0, "eve": 0}

    def test_another_due_time_runs_nothing_again(self, small_source, collected, tmp_path, monkeypatch):
        out = tmp_path / "out"
        grade(small_source, collected, uncontained(out), quiet=True)
        monkeypatch.setattr(sandbox, "run", lambda *a: pytest.fail("it was run again"))
        grade(small_source, collected, uncontained(out, due=DUE), quiet=True)
        assert "3.50" in (out / "small.csv").read_text()

    def test_the_command_takes_it(self):
        assert command._due("2026-10-01 22:00 UTC") == DUE
        with pytest.raises(argparse.ArgumentTypeError, match="is not a time such as"):
            command._due("Friday")


class TestTheWayBack:
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nbgrader leaves it open
    def test_nbgrader_releases_the_feedback_to_its_student(self, small_source, collected, tmp_path):
        """By the same two files and the same hash that nbgrader's release_feedback uses."""
        from nbgrader.apps.nbgraderapp import NbGraderApp
        from nbgrader.coursedir import CourseDirectory
        from nbgrader.exchange.default import ExchangeReleaseFeedback
        from nbgrader.utils import notebook_hash
        from traitlets.config import Config

        out = tmp_path / "course"
        grade(small_source, collected, uncontained(out), quiet=True)
        root = tmp_path / "exchange"
        (root / "rnn").mkdir(parents=True)
        for path in (root, root / "rnn"):
            path.chmod(0o777)
        config = Config()
        config.CourseDirectory.root = str(out)
        config.CourseDirectory.course_id = "rnn"
        config.CourseDirectory.assignment_id = "small"
        config.Exchange.root = str(root)
        release = ExchangeReleaseFeedback(
            coursedir=CourseDirectory(config=config), config=config, parent=NbGraderApp(config=config)
        )
        release.start()
        for student, points in (("anna", 5), ("dora", 0)):
            name = notebook_hash(secret=secret(student), notebook_id="small")
            page = (root / "rnn" / "feedback" / f"{name}.html").read_text()
            assert f"{student}: <strong>{points}</strong> of 5 points" in page

    def test_a_second_submission_of_the_same_notebook_is_answered_too(
        self, small_source, collected, tmp_path
    ):
        out = tmp_path / "out"
        grade(small_source, collected, uncontained(out), quiet=True)
        (collected / "ben" / "small" / "submission_secret.txt").write_text("another")
        (collected / "ben" / "small" / "timestamp.txt").write_text("2026-10-03 00:00:00 UTC")
        results = grade(small_source, collected, uncontained(out, due=DUE), quiet=True)
        assert (out / "feedback/ben/small/submission_secret.txt").read_text() == "another"
        assert (out / "autograded/ben/small/timestamp.txt").read_text() == "2026-10-03 00:00:00 UTC"
        assert results[1].hours_late(DUE) == 26
        assert not (out / "autograded" / "dora").exists()


class TestParts:
    def test_every_student_is_in_one_part_and_stays_there(self):
        names = [f"student{i}" for i in range(200)]
        everyone = [intake.Submission(name, (Path(name),)) for name in names]
        for n in (1, 2, 7):
            parts = [grading.in_part(everyone, i, n) for i in range(1, n + 1)]
            assert sorted(s.student for part in parts for s in part) == sorted(names)
            assert min(map(len, parts)) > 0.5 * 200 / n
        more = [intake.Submission("anna", (Path("anna"),)), *everyone]
        for i in range(1, 8):
            kept = {s.student for s in grading.in_part(more, i, 7)} - {"anna"}
            assert kept == {s.student for s in grading.in_part(everyone, i, 7)}

    def test_parts_then_the_whole_give_the_same_as_one_run(
        self, small_source, collected, tmp_path, monkeypatch
    ):
        one, many = tmp_path / "one", tmp_path / "many"
        grade(small_source, collected, uncontained(one), quiet=True)
        many.mkdir()
        (many / "seed.txt").write_text((one / "seed.txt").read_text())
        settings = [uncontained(many, part=(i, 3)) for i in (1, 2, 3)]
        done = [r for s in settings for r in grade(small_source, collected, s, quiet=True)]
        assert sorted(r.student for r in done) == ["anna", "ben", "dora", "eve"]
        assert not (many / "small.csv").exists()
        assert not (many / "gradebook.db").exists()
        monkeypatch.setattr(sandbox, "run", lambda *a: pytest.fail("a part's work was done again"))
        grade(small_source, collected, uncontained(many), quiet=True)
        assert (many / "small.csv").read_bytes() == (one / "small.csv").read_bytes()

    def test_parts_work_side_by_side_and_the_whole_waits(self, tmp_path):
        with grading._alone(tmp_path, (1, 2)), grading._alone(tmp_path, (2, 2)):
            for other in ((1, 2), None):
                with pytest.raises(ValueError, match="another grader"), grading._alone(tmp_path, other):
                    pass
        with (
            grading._alone(tmp_path),
            pytest.raises(ValueError, match="another grader"),
            grading._alone(tmp_path, (1, 2)),
        ):
            pass

    def test_parts_that_start_together_agree_on_the_seed(self, tmp_path, monkeypatch):
        """The second comes between the first one's look and its writing."""
        link = os.link

        def second_was_first(fresh, path):
            Path(path).write_text("f" * 32)
            link(fresh, path)

        monkeypatch.setattr(grading.os, "link", second_was_first)
        assert grading._seed(tmp_path) == "f" * 32
        assert [p.name for p in tmp_path.iterdir()] == ["seed.txt"]

    @pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5"])
    def test_a_wrong_part_is_refused(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match="is not of the form i/n"):
            command._part(text)


class TestACourseFolder:
    def test_release_lays_it_out_as_nbgrader_does(self, small_source, tmp_path, monkeypatch):
        course = tmp_path / "rnn"
        arguments = ["release", "--sources", str(small_source.parent), "--course", str(course)]
        monkeypatch.setattr("sys.argv", ["classroom", *arguments])
        assert command.main() == 0
        released = (course / "release/small/small.ipynb").read_text()
        assert "BEGIN HIDDEN TESTS" not in released
        assert "still to be written" in released
        assert (course / "source/small/small.ipynb").read_bytes() == small_source.read_bytes()
        assert not (small_source.parent / "release").exists()
        assert grading.choose_source(course / "source", "small") == course / "source/small/small.ipynb"

    def test_a_changed_source_in_the_course_is_kept_and_released(
        self, small_source, tmp_path, monkeypatch, capsys
    ):
        course = tmp_path / "rnn"
        book = ["release", "--sources", str(small_source.parent), "--course", str(course)]
        monkeypatch.setattr("sys.argv", ["classroom", *book])
        assert command.main() == 0
        own = course / "source/small/small.ipynb"
        own.write_text(own.read_text().replace("import numpy as np", "import numpy as np  # mine"))
        assert command.main() == 0
        assert f"kept and released: {own}" in capsys.readouterr().out
        assert "# mine" in own.read_text()
        assert "# mine" in (course / "release/small/small.ipynb").read_text()

    def test_release_from_the_courses_own_folder(self, small_source, tmp_path, monkeypatch):
        course = tmp_path / "rnn"
        own = course / "source/small/small.ipynb"
        own.parent.mkdir(parents=True)
        own.write_bytes(small_source.read_bytes())
        arguments = ["release", "--sources", str(course / "source"), "--course", str(course)]
        monkeypatch.setattr("sys.argv", ["classroom", *arguments])
        assert command.main() == 0
        assert own.read_bytes() == small_source.read_bytes()
        assert "still to be written" in (course / "release/small/small.ipynb").read_text()

    def test_what_cannot_be_released_is_said_in_a_sentence(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("sys.argv", ["classroom", "release", "--sources", str(tmp_path)])
        assert command.main() == 2
        assert f"no assignments in {tmp_path}" in capsys.readouterr().err
        students.write_source(tmp_path / "empty.ipynb", students.SMALL[:1])
        assert command.main() == 2
        assert "empty.ipynb asks nothing" in capsys.readouterr().err
