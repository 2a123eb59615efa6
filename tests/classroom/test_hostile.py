"""The hostile set, graded as one class: each contained, with the right mark, and the next student graded."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import socket
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from rnnlib.classroom import marking, sandbox
from rnnlib.classroom.grade import Settings, grade
from rnnlib.classroom.report import GRADED, REFUSED, REVIEW
from tests.classroom import hostile
from tests.classroom.students import as_bytes

pytestmark = pytest.mark.sandbox

LIMITS = sandbox.Limits(wall=25, step=1.5, memory=2**30, disk=8 * 2**20, processes=24)


class Server(threading.Thread):
    """Listens where a student must not get through."""

    def __init__(self, family: int, address: object) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(family)
        self.socket.bind(address)
        self.socket.listen()
        self.reached = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.reached += 1
            connection.close()


@pytest.fixture(scope="module")
def school(room, small, small_source, tmp_path_factory):
    """The whole set, with a good student after every tenth, graded once."""
    base = tmp_path_factory.mktemp("school")
    folder, canary = base / "submissions", base / "canary"
    (canary / "out").mkdir(parents=True)
    folder.mkdir()
    for name in ("secret", "source.ipynb", "out/gradebook.db", "out/seed.txt"):
        (canary / name).write_text(hostile.SECRET)
    (canary / "book").mkdir()
    for name in ("secret.ipynb", "book/small.ipynb"):  # right answers, for those who link to them
        (canary / name).write_bytes(as_bytes(hostile.good(dict(small.release))))
    base.chmod(0o755)
    for path in canary.rglob("*"):
        path.chmod(0o777)  # rights of the file system are not what protects them
    name = f"school-{os.getpid()}"
    servers = [Server(socket.AF_INET, ("127.0.0.1", 0)), Server(socket.AF_UNIX, f"\0{name}")]
    for server in servers:
        server.start()
    port = str(servers[0].socket.getsockname()[1])
    release = json.loads(json.dumps(small.release))
    for i, case in enumerate(hostile.SET):
        case = hostile.Hostile(
            **{**vars(case), "front": case.front.replace("{port}", port).replace("{socket}", name)}
        )
        case.hand_in(folder, release, canary)
        if i % 10 == 0:
            (folder / f"good_{i}.ipynb").write_bytes(as_bytes(hostile.good(release)))
    os.environ["HUSH"] = hostile.SECRET
    try:
        out = base / "out"
        results = grade(small_source, folder, Settings(out, jobs=4, limits=LIMITS), quiet=True)
    finally:
        del os.environ["HUSH"]
        for server in servers:
            server.socket.close()
    return {r.student: r for r in results}, out, canary, servers, small


def student(name: str) -> str:
    return re.sub(r"[^\w.@+ -]", "_", name)


def test_the_set_is_large_and_its_names_differ():
    assert len(hostile.SET) >= 90
    assert len({student(case.name) for case in hostile.SET}) == len(hostile.SET)


@pytest.mark.parametrize("case", hostile.SET, ids=lambda case: case.name)
def test_status_and_mark(school, case):
    result = school[0][student(case.name)]
    if case.status is None:
        assert result.status in (GRADED, REVIEW)
        assert 0 <= result.points <= hostile.FULL
    else:
        assert (result.status, result.points) == (case.status, case.points), (result.reasons, result.errors)
    assert result.status == GRADED or result.reasons, "a reason is owed"


def test_memory_is_counted_over_all_processes(school):
    assert school[0]["memory_by_children"].reasons == ["it used more memory than allowed and was stopped"]


def test_the_others_are_graded(school):
    good = [result for name, result in school[0].items() if name.startswith("good_")]
    assert len(good) >= 9
    for result in good:
        assert (result.status, result.points) == (GRADED, hostile.FULL), result


def test_no_secret_comes_out(school):
    _, out, *_ = school
    seed = (out / "seed.txt").read_text().strip()
    for path in [p for p in out.rglob("*") if p.suffix in (".json", ".html", ".csv", ".txt", ".ipynb")]:
        if path.name == "seed.txt":
            continue
        text = path.read_text(encoding="utf-8")
        # A student's own words about the name under which they look for it are not a leak.
        said = re.sub(r"/(usr/lib/)?hush-5417(\.pth)?", "", text)
        assert hostile.SECRET not in said, path
        assert seed not in text, path


def test_no_hidden_value_is_told(school):
    _, out, _, _, small = school
    seed = (out / "seed.txt").read_text().strip()
    (scale,) = [s for s in marking.prepare(small, seed) if s.question.call == "scale"]
    hidden = [repr(case[1]) for case in scale.cases]
    public = repr(scale.public[1])
    told = {}
    for name in ("tells_inputs", "names_inputs", "keeps_inputs"):
        told[name] = html.unescape((out / "feedback" / name / "small" / "small.html").read_text())
        kept = (out / "results" / "small" / f"{name}.json").read_text()
        for value in hidden:
            assert value not in told[name]
            assert value not in kept
    assert public in told["tells_inputs"], "the public example is described in full"
    assert np.isfinite(float(public))


def test_nothing_is_written_outside(school):
    _, _, canary, *_ = school
    for name in ("secret", "source.ipynb", "out/gradebook.db", "out/seed.txt"):
        assert (canary / name).read_text() == hostile.SECRET
    assert sorted(p.name for p in canary.iterdir()) == [
        "book",
        "out",
        "secret",
        "secret.ipynb",
        "source.ipynb",
    ]
    packages = Path(np.__path__[0]).parent
    for path in (packages / "hush-5417.pth", Path("/usr/lib/hush-5417"), Path("/hush-5417")):
        assert not path.exists()


def test_nobody_is_reached_by_network(school):
    assert [server.reached for server in school[3]] == [0, 0]


def test_no_process_is_left_behind(school):
    left = [p.info for p in psutil.process_iter(["cmdline", "uids"])]
    assert not [p for p in left if "54175417" in (p["cmdline"] or [])]
    assert not [p for p in left if any("inside.py" in part for part in p["cmdline"] or [])]


def test_pages_hold_no_live_text_of_students(school):
    _, out, *_ = school
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert "<img" not in text
    assert "&lt;script&gt;" in (out / "feedback/script_in_error/small/small.html").read_text()
    shown = json.loads((out / "autograded/scripts/small/small.ipynb").read_text())
    (proof,) = [c for c in shown["cells"] if c["id"] == "proof"]
    assert "&lt;script>" in proof["source"]
    assert "<" not in proof["source"]
    assert "](" not in proof["source"]
    assert all(not cell.get("outputs") for cell in shown["cells"])


def test_the_csv_runs_nothing(school):
    results, out, *_ = school
    with (out / "small.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == len(results) + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_each_refusal_says_why(school):
    refused = [r for r in school[0].values() if r.status == REFUSED]
    assert len(refused) >= 15
    assert all(len(r.reasons[0]) > 10 for r in refused)
