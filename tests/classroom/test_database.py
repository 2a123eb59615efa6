"""The gradebook on PostgreSQL by one setting; where a server is installed, against a server of our own."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from rnnlib.classroom import gradebook
from rnnlib.classroom.assignment import Assignment
from rnnlib.classroom.marking import Mark
from rnnlib.classroom.report import GRADED, Result


def results(count: int = 3) -> list[Result]:
    marks = [Mark("double", "double", 2.0, 2.0, [], []), Mark("scale", "scale", 1.0, 3.0, [], [])]
    came = "2026-10-01T23:30:00+00:00"
    return [
        Result(f"student{i}", GRADED, marks=marks, by_hand={"proof": True}, handed_in=came)
        for i in range(count)
    ]


def programs() -> Path | None:
    """Where PostgreSQL's server programs are: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((p for p in places if (p / "pg_ctl").exists() and (p / "initdb").exists()), None)


@pytest.fixture(scope="module")
def server():
    """The URL of a PostgreSQL server that listens on a socket in a folder of its own."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'rnnlib[postgresql]'")
    where = programs()
    if where is None:
        pytest.skip("no PostgreSQL server on this machine; on Debian: apt install postgresql")
    as_root = os.geteuid() == 0
    user = {}
    with tempfile.TemporaryDirectory() as name:
        if as_root:  # the server refuses to run as root
            account = pwd.getpwnam("nobody")
            os.chown(name, account.pw_uid, account.pw_gid)
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        folder, data = Path(name), Path(name) / "data"

        def call(*command: str) -> None:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=120, env={"LANG": "C"}, **user
            )
            assert done.returncode == 0, done.stderr

        call(str(where / "initdb"), "-D", str(data), "-U", "teacher", "-A", "trust", "-E", "UTF8", "-N")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        # Without a log file pg_ctl's pipes would stay open as long as the server.
        call(str(where / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://teacher@/postgres?host={folder}"
        finally:
            call(str(where / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")


class TestAServer:
    def test_marks_are_kept_and_those_by_hand_survive(self, server, small: Assignment):
        gradebook.record(server, small, results())
        with Gradebook(gradebook.address(server)) as book:
            book.find_grade("proof", "small", "small", "student0").manual_score = 3.5
            book.db.commit()
        gradebook.record(server, small, results(4))
        with Gradebook(gradebook.address(server)) as book:
            scores = {s.student.id: s.score for s in book.assignment_submissions("small")}
            assert scores == {"student0": 6.5, "student1": 3, "student2": 3, "student3": 3}
            assert book.find_submission("small", "student1").timestamp.isoformat() == "2026-10-01T23:30:00"

    def test_a_wrong_database_is_one_sentence_without_the_password(self, server, small: Assignment):
        wrong = server.replace("teacher@/postgres", "teacher:geheim@/nowhere")
        with pytest.raises(ValueError, match=r"cannot be used: .*nowhere") as told:
            gradebook.record(wrong, small, results())
        assert "geheim" not in str(told.value)


class TestAddresses:
    @pytest.mark.parametrize("url", ["postgresql://a:b@h:5432/g", "postgres://a:b@h:5432/g"])
    def test_the_driver_need_not_be_named(self, url):
        assert gradebook.address(url) == "postgresql+psycopg://a:b@h:5432/g"

    @pytest.mark.parametrize("url", ["postgresql+psycopg2://a:b@h/g", "sqlite:////home/me/gradebook.db"])
    def test_what_is_named_stays(self, url):
        assert gradebook.address(url) == url

    def test_no_url(self, small):
        with pytest.raises(ValueError, match="DATABASE=gradebook is no URL such as postgresql://"):
            gradebook.record("gradebook", small, results())

    @pytest.mark.parametrize("url", ["postgresql+nodriver://a:geheim@h/g", "oracle+cx_oracle://a:geheim@h/g"])
    def test_a_missing_driver_is_named(self, small, url):
        with pytest.raises(ValueError, match="its driver is missing") as told:
            gradebook.record(url, small, results())
        assert "geheim" not in str(told.value)

    def test_a_file_that_is_no_database(self, small, tmp_path):
        (tmp_path / "gradebook.db").write_text("no database " * 100)
        with pytest.raises(ValueError, match="cannot be used: file is not a database"):
            gradebook.record(f"sqlite:///{tmp_path / 'gradebook.db'}", small, results())
