"""A whole class of chapter 1 in one command: right, partly right and hostile submissions, all at once.

``python -m tests.classroom.test_class 300`` measures such a class: time, memory, and a kill in the middle.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rnnlib.classroom.assignment import load
from rnnlib.classroom.report import GRADED
from tests.classroom import hostile, students
from tests.classroom.mistakes import chapter_01
from tests.conftest import ROOT

NAME = students.CHAPTER_1.stem
WAITING = {"infinite_loop", "sleep", "sleeping_loop", "deaf_loop", "error_that_loops", "burning_forks"}
"""These run until their time is over, which says nothing about the grader's own."""
WRONG = [wrong for wrong in chapter_01.WRONG if wrong[0] != "preactivation"]  # other answers call that one
HOSTILE = [case for case in hostile.SET if case.front and case.name not in WAITING]


def hand_in(folder: Path, count: int) -> dict[str, tuple[str, float]]:
    """Write the submissions of a class, a third of each kind; the status and the points of each."""
    folder.mkdir()
    assignment, right = load(students.CHAPTER_1), students.solutions(students.CHAPTER_1)
    maximum = {question.call: question.points for question in assignment.questions}
    expected = {}
    for i in range(count):
        answers, front, status, points = right, "", GRADED, assignment.points
        if i % 3 == 1:
            call, text, wrong, left, _ = WRONG[i // 3 % len(WRONG)]
            points -= maximum[call] - left
            answers = students.mistaken(right, chapter_01.WRITTEN_IN.get(call, call), text, wrong)
        elif i % 3 == 2:
            case = HOSTILE[i // 3 % len(HOSTILE)]
            front, status = case.front.replace("{canary}", "/root"), case.status
            points = assignment.points if case.points == hostile.FULL else 0.0
        notebook = students.submission(assignment.release, answers, front)
        (folder / f"student{i:04}.ipynb").write_bytes(students.as_bytes(notebook))
        expected[f"student{i:04}"] = (status, points)
    return expected


def command(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "rnnlib.classroom",
        "grade",
        str(folder),
        "--assignment",
        NAME,
        "--out",
        str(out),
    ]


def marks(out: Path) -> dict[str, tuple[str, float]]:
    with (out / f"{NAME}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {row["student"]: (row["status"], float(row["points"])) for row in rows}
    assert len(found) == len(rows), "a student stands twice"
    return found


@pytest.mark.sandbox
def test_a_class_in_one_command(room, tmp_path):
    expected = hand_in(tmp_path / "submissions", 30)  # larger ones by the command above
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command(tmp_path / "submissions", tmp_path / "out"),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert marks(tmp_path / "out") == expected


def memory(process: psutil.Process) -> int:
    """What a process and all below it hold, in bytes."""
    total = 0
    for p in [process, *process.children(recursive=True)]:
        try:
            total += p.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the two lines
            continue
    return total


def main(count: int) -> None:
    """Grade a class, kill the grader when a third is done, go on, and tell what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "submissions", Path(temporary) / "out"
        expected, peak, spent = hand_in(folder, count), 0, 0.0
        for kill_at in (count // 3, None):
            begun = time.monotonic()
            grader = psutil.Popen(command(folder, out), cwd=ROOT, stdout=subprocess.DEVNULL)
            while grader.poll() is None:
                peak = max(peak, memory(grader))
                if kill_at and len(list(out.glob("results/*/*.json"))) >= kill_at:
                    grader.send_signal(signal.SIGKILL)
                    grader.wait()
                time.sleep(0.2)
            spent += time.monotonic() - begun
        found = marks(out)
        wrong = {s: (found.get(s), e) for s, e in expected.items() if found.get(s) != e}
        print(
            f"{count} submissions on {os.cpu_count()} cores, killed once: {spent:.0f} s, "
            f"{spent * (os.cpu_count() or 1) / count:.2f} core seconds each, at most {peak / 2**20:.0f} MiB; "
            f"{len(wrong)} marks other than expected {wrong or ''}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
