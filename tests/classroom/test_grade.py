"""A class graded in one command: resumable, repeatable, into the gradebook, or not without a sandbox."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from nbgrader.api import Gradebook

from rnnlib.classroom import grade as grading
from rnnlib.classroom import sandbox
from rnnlib.classroom.grade import Settings, grade
from rnnlib.classroom.report import GRADED, REFUSED, REVIEW
from tests.classroom import hostile, students
from tests.conftest import ROOT


def make_class(folder: Path, release, count: int = 6, slow: bool = False) -> Path:
    folder.mkdir()
    front = "import time\ntime.sleep(0.3)" if slow else ""
    for i in range(count):
        wrong = {"answer-scale": hostile.WRONG_SCALE} if i % 2 else {}
        notebook = students.submission(release, hostile.ANSWERS | wrong, front)
        (folder / f"student{i:02}.ipynb").write_bytes(students.as_bytes(notebook))
    (folder / "torn.ipynb").write_bytes(b'{"cells": [')
    return folder


@pytest.fixture
def classroom(small, tmp_path):
    return make_class(tmp_path / "submissions", small.release)


@pytest.mark.sandbox
class TestAClass:
    def test_marks_csv_feedback_and_gradebook(self, room, small_source, classroom, tmp_path):
        out = tmp_path / "out"
        results = grade(small_source, classroom, Settings(out), quiet=True)
        assert [r.points for r in results] == [5, 2, 5, 2, 5, 2, 0]
        assert [r.status for r in results] == [GRADED] * 6 + [REFUSED]
        lines = (out / "small.csv").read_text().splitlines()
        assert lines[0] == "student,status,points,of,double,scale,proof (by hand),total,remarks"
        assert lines[1] == "student00,graded,5,5,2,3,to be marked,,"
        assert lines[2] == "student01,graded,2,5,2,0,to be marked,,"
        assert lines[7].startswith("torn,refused,0,5,0,0,0,")
        assert "7 submissions: 6 graded, 0 review, 1 refused" in (out / "small.txt").read_text()
        assert "2 of 2" in (out / "feedback/student01/small/small.html").read_text()
        with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
            scores = {s.student.id: s.score for s in book.assignment_submissions("small")}
            assert scores == {r.student: r.points for r in results}
            proof = book.find_grade("proof", "small", "small", "student00")
            assert proof.needs_manual_grade
            assert not book.find_grade("proof", "small", "small", "torn").needs_manual_grade

    def test_again_gives_the_same_csv_byte_for_byte(self, room, small_source, classroom, tmp_path):
        out = tmp_path / "out"
        grade(small_source, classroom, Settings(out), quiet=True)
        first = (out / "small.csv").read_bytes()
        shutil.rmtree(out / "results")
        (out / "small.csv").unlink()
        grade(small_source, classroom, Settings(out, jobs=1), quiet=True)
        assert (out / "small.csv").read_bytes() == first

    def test_marks_by_hand_survive_grading_again(self, room, small_source, classroom, tmp_path):
        out = tmp_path / "out"
        url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
        grade(small_source, classroom, Settings(out, database=url), quiet=True)
        with Gradebook(url) as book:
            book.find_grade("proof", "small", "small", "student00").manual_score = 3.5
            book.db.commit()
        shutil.rmtree(out / "results")
        grade(small_source, classroom, Settings(out, database=url), quiet=True)
        with Gradebook(url) as book:
            assert book.find_submission("small", "student00").score == 5 + 3.5
            assert len(book.students) == 7
        assert not (out / "gradebook.db").exists()

    def test_what_was_given_by_hand_comes_into_table_and_page(self, room, small_source, classroom, tmp_path):
        out = tmp_path / "out"
        grade(small_source, classroom, Settings(out), quiet=True)
        page = out / "feedback/student00/small/small.html"
        assert "Your teacher marks this by hand." in page.read_text()
        with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
            book.find_grade("proof", "small", "small", "student00").manual_score = 3.5
            book.find_comment("proof", "small", "small", "student00").manual_comment = "Why <is> it linear?"
            book.find_grade("scale", "small", "small", "student01").manual_score = 1
            book.find_comment("answer-scale", "small", "small", "student01").manual_comment = "A slip."
            book.db.commit()
        grade(small_source, classroom, Settings(out), quiet=True)
        lines = (out / "small.csv").read_text().splitlines()
        assert lines[1] == "student00,graded,5,5,2,3,3.5,8.5,"
        assert lines[2] == "student01,graded,2,5,2,0,to be marked,,", "its proof still waits"
        text = page.read_text()
        assert "<h2>proof: 3.5 of 4</h2><p>Why &lt;is&gt; it linear?</p>" in text.replace("\n", "")
        assert "All together: <strong>8.5</strong> of 9." in text
        other = (out / "feedback/student01/small/small.html").read_text()
        assert "scale: your teacher gave 1 of 3." in other
        assert "scale: A slip." in other
        assert "All together" not in other

    def test_the_formgrader_finds_the_assignment(self, room, small_source, classroom, tmp_path):
        """It lists what has a source in the course's folder; a database alone does not do."""
        from nbgrader.apps.api import NbGraderAPI
        from nbgrader.coursedir import CourseDirectory

        out = tmp_path / "out"
        grade(small_source, classroom, Settings(out), quiet=True)
        api = NbGraderAPI(CourseDirectory(root=str(out), db_url=f"sqlite:///{out / 'gradebook.db'}"))
        assert api.get_source_assignments() == {"small"}
        assert len(api.get_notebook_submissions("small", "small")) == 6
        own = out / "source/small/small.ipynb"
        assert own.read_bytes() == small_source.read_bytes()
        own.write_text("mine")
        grade(small_source, classroom, Settings(out), quiet=True)
        assert own.read_text() == "mine"

    def test_nbgrader_exports_and_writes_feedback(self, room, small_source, classroom, tmp_path):
        """What teachers do next, with nbgrader's own commands."""
        out = tmp_path / "out"
        grade(small_source, classroom, Settings(out), quiet=True)
        shutil.rmtree(out / "feedback")
        nbgrader = Path(sys.executable).parent / "nbgrader"
        path = os.pathsep.join([str(nbgrader.parent), os.environ["PATH"]])
        for command in (["export"], ["generate_feedback", "small", "--student=student00"]):
            done = subprocess.run(
                [nbgrader, *command, f"--CourseDirectory.root={out}"],
                cwd=out,
                env=os.environ | {"PATH": path, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
        rows = (out / "grades.csv").read_text().splitlines()
        assert len(rows) == 8
        assert "Score: 5.0 / 9.0" in (out / "feedback/student00/small/small.html").read_text()

    def test_only_what_changed_is_graded_again(
        self, room, small, small_source, classroom, tmp_path, monkeypatch
    ):
        out = tmp_path / "out"
        grade(small_source, classroom, Settings(out), quiet=True)
        ran = []
        monkeypatch.setattr(grading.sandbox, "require", lambda: None)
        run = sandbox.run
        monkeypatch.setattr(grading.sandbox, "run", lambda *a: ran.append(1) or run(*a))
        grade(small_source, classroom, Settings(out), quiet=True)
        assert not ran
        (classroom / "student01.ipynb").write_bytes(students.as_bytes(hostile.good(small.release)))
        results = grade(small_source, classroom, Settings(out), quiet=True)
        assert (len(ran), results[1].points) == (1, 5)

    def test_killed_in_the_middle_nothing_is_lost_or_counted_twice(self, room, small, small_source, tmp_path):
        folder, out = make_class(tmp_path / "slow", small.release, count=10, slow=True), tmp_path / "out"
        command = [
            *(sys.executable, "-m", "rnnlib.classroom", "grade", folder, "--sources", small_source.parent),
            *("--out", out, "--jobs", "2"),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as grader:
            while len(list(out.glob("results/small/*.json"))) < 4:
                assert grader.poll() is None, "it should be at work still"
                time.sleep(0.02)
            rooms = psutil.Process(grader.pid).children(recursive=True)
            grader.send_signal(signal.SIGKILL)
        done = {p.name: p.stat().st_mtime_ns for p in out.glob("results/small/*.json")}
        assert 4 <= len(done) < 11
        assert not (out / "small.csv").exists()
        _, alive = psutil.wait_procs(rooms, timeout=30)
        assert rooms, "it should have had rooms"
        assert not alive, "the rooms must die with the grader"
        again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        assert "11 submissions: 10 graded, 0 review, 1 refused" in again.stdout
        after = {p.name: p.stat().st_mtime_ns for p in out.glob("results/small/*.json")}
        assert len(after) == 11
        assert {name: after[name] for name in done} == done, "what was done is not done again"
        with Gradebook(f"sqlite:///{out / 'gradebook.db'}") as book:
            assert sorted(s.score for s in book.assignment_submissions("small")) == [0] + [2] * 5 + [5] * 5

    def test_as_an_ordinary_user_it_works_or_says_what_is_missing(self, room, small_source, classroom):
        """The whole command without root's rights, where even the Python may lie in root's folder."""
        if os.geteuid() != 0:
            pytest.skip("the other tests run as an ordinary user already")
        readable = ["bwrap", "--dev-bind", "/", "/"]
        for path in {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)} | {str(ROOT)}:
            top = Path(path).parents[-2]
            if top.stat().st_mode & 0o005 != 0o005:
                readable += ["--perms", "0755", "--tmpfs", str(top), *sandbox._parents(path)]
                readable += ["--ro-bind", path, path]
        # Not in pytest's own folders: each pytest that starts on this machine makes them private again.
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            shutil.copytree(small_source.parent, home / "source")
            shutil.copytree(classroom, home / "submissions", symlinks=True)
            for path in (home, *home.rglob("*")):
                path.chmod(0o777)
            done = subprocess.run(
                [
                    *(*readable, "setpriv", "--reuid=61999", "--regid=61999", "--clear-groups"),
                    *(sys.executable, "-m", "rnnlib.classroom", "grade", home / "submissions"),
                    *("--sources", home / "source", "--out", home / "out"),
                ],
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": folder},
                cwd="/",
                capture_output=True,
                text=True,
                timeout=300,
            )
        if done.returncode != 0:
            assert "An ordinary user needs user namespaces" in done.stderr
        else:
            assert "7 submissions: 6 graded, 0 review, 1 refused" in done.stdout


class TestRefusals:
    def test_without_a_sandbox_nothing_is_run(self, small_source, classroom, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(sandbox.SandboxMissing, match="bwrap is missing"):
            grade(small_source, classroom, Settings(tmp_path / "out"), quiet=True)
        assert not (tmp_path / "out").exists()

    def test_a_sandbox_that_fails_says_why(self, tmp_path, monkeypatch):
        for name in ("bwrap", "setpriv"):
            (tmp_path / name).write_text("#!/bin/sh\necho 'no name spaces for you' >&2\nexit 1\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(sandbox.SandboxMissing, match="no name spaces for you"):
            sandbox.require()

    def test_the_command_says_how_to_go_on(self, small_source, classroom, tmp_path):
        command = [
            sys.executable,
            "-m",
            "rnnlib.classroom",
            "grade",
            classroom,
            "--sources",
            small_source.parent,
        ]
        done = subprocess.run(
            [*command, "--out", tmp_path / "out"],
            env={"PYTHONPATH": str(ROOT), "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2
        assert "apt install bubblewrap" in done.stderr
        assert "--no-sandbox" in done.stderr
        assert "Traceback" not in done.stderr

    def test_without_sandbox_if_told_so(self, small_source, classroom, tmp_path):
        settings = Settings(tmp_path / "out", contained=False, limits=sandbox.Limits(processes=10_000))
        results = grade(small_source, classroom, settings, quiet=True)
        assert [r.points for r in results] == [5, 2, 5, 2, 5, 2, 0]

    def test_two_graders_in_one_folder(self, small_source, classroom, tmp_path):
        (tmp_path / "out").mkdir()
        with grading._alone(tmp_path / "out"), pytest.raises(ValueError, match="another grader"):
            grade(small_source, classroom, Settings(tmp_path / "out", contained=False), quiet=True)

    def test_a_fault_of_the_graders_own_harms_nobody_else(
        self, small_source, classroom, tmp_path, monkeypatch
    ):
        parse = grading.intake.parse

        def faulty(data):
            if b"W * 0" in data:
                raise ZeroDivisionError
            return parse(data)

        monkeypatch.setattr(grading.intake, "parse", faulty)
        settings = Settings(tmp_path / "out", contained=False, limits=sandbox.Limits(processes=10_000))
        results = grade(small_source, classroom, settings, quiet=True)
        assert [r.status for r in results] == [GRADED, REVIEW] * 3 + [REFUSED]
        assert results[1].reasons == ["the grader failed (ZeroDivisionError)"]

    def test_an_unknown_assignment_is_named(self):
        with pytest.raises(ValueError, match="no assignment '02'; the assignments are: 01_vanilla_rnn, 02"):
            grading.choose_source(students.SOURCES, "02")
        with pytest.raises(
            ValueError, match=r"name one \(ASSIGNMENT=.*; the assignments are: 01_vanilla_rnn"
        ):
            grading.choose_source(students.SOURCES, None)

    def test_a_folder_without_assignments_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=f"no assignments in {tmp_path}.*--sources"):
            grading.choose_source(tmp_path, "01_vanilla_rnn")

    def test_the_seed_is_the_teachers_alone_and_stays(self, tmp_path):
        seed = grading._seed(tmp_path)
        assert len(seed) == 32
        assert grading._seed(tmp_path) == seed
        assert (tmp_path / "seed.txt").stat().st_mode & 0o777 == 0o600

    def test_results_are_read_back_as_they_were(self, tmp_path):
        from dataclasses import asdict

        from rnnlib.classroom.marking import Mark
        from rnnlib.classroom.report import Result

        result = Result("a", GRADED, ["x"], [Mark("g", "f", 1.0, 2.0, [("values", 1.0, 2.0)], ["r"])])
        assert Result.of(json.loads(json.dumps(asdict(result)))) == result
