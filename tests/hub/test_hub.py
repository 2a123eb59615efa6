"""A class on JupyterHub as its people see it: sign in, fetch, work, hand in, grade, read the feedback."""

from __future__ import annotations

import csv
import json
import os
import pwd
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from playwright.sync_api import Page, expect

from rnnlib.classroom.assignment import load
from tests.classroom import students as notebooks
from tests.hub.conftest import SHOTS, Hub

ASSIGNMENT = "01_vanilla_rnn"
PATIENCE = 180_000  # milliseconds; servers of several users start on what may be two busy cores
COMMENT = "Say why tanh contracts."
TYPED = "answer-preactivation"  # the answer that students write in the browser
CHECKED = "preactivation"  # the check below it

pytestmark = pytest.mark.hub


class Person:
    """Somebody in a browser of their own."""

    def __init__(self, hub: Hub, browser, name: str) -> None:
        self.hub, self.name = hub, name
        self.page: Page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.home = Path(pwd.getpwnam(name).pw_dir)
        self.seconds = 0.0  # until the server was there

    def sign_in(self, password: str | None = None) -> None:
        self.page.goto(f"{self.hub.address}/hub/login")
        self.page.fill("#username_input", self.name)
        self.page.fill("#password_input", password or self.hub.password)
        self.page.click("#login_submit")

    def enter(self) -> None:
        started = time.monotonic()
        self.sign_in()
        self.page.wait_for_selector("#jp-main-dock-panel")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.seconds = time.monotonic() - started

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def until(self, holds: Callable[[], object], sentence: str, seconds: int = 60) -> None:
        """Wait for what no page tells."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name}: {sentence}")
            time.sleep(0.5)

    def menu(self, item: str) -> None:
        self.page.get_by_role("menuitem", name="Nbgrader", exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def open(self, path: str) -> None:
        self.page.goto(f"{self.hub.address}/user/{self.name}/lab/tree/{path}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        expect(self.page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute(
            "data-status", "idle", timeout=PATIENCE
        )
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE)

    def cell(self, grade_id: str):
        """A cell of the open notebook, found by the first line that it has in the file."""
        index = next(
            i
            for i, cell in enumerate(self.notebook()["cells"])
            if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id
        )
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}']")

    def notebook(self):
        return json.loads((self.home / ASSIGNMENT / f"{ASSIGNMENT}.ipynb").read_text(encoding="utf-8"))

    def open_terminal(self) -> None:
        """A terminal that notes in a file how each line ended."""
        self.page.locator(".jp-LauncherCard[data-category='Other']", has_text="Terminal").click()
        self.page.locator(".xterm-screen").click()
        time.sleep(2)  # the shell says nothing that could be waited for: the prompt is drawn on a canvas
        self.terminal("PROMPT_COMMAND='echo $? > ~/.ended'; clear")

    def terminal(self, line: str) -> None:
        """Types a line into the terminal and waits until it has ended well."""
        self.page.locator(".xterm-screen").click()
        ended = self.home / ".ended"
        ended.unlink(missing_ok=True)
        self.page.keyboard.insert_text(line)
        self.page.keyboard.press("Enter")
        self.until(lambda: ended.exists() and ended.read_text().strip(), f"{line} did not end", 300)
        if ended.read_text().strip() != "0":
            pytest.fail(f"{line} failed; see the pictures")


@pytest.fixture(scope="module")
def people(hub, browser):
    return [Person(hub, browser, name) for name in [hub.teacher, *hub.students]]


class TestAClass:
    """In order: each test goes on where the one before it stopped."""

    def test_a_stranger_and_a_wrong_password_stay_outside(self, hub, browser):
        for name, password in (("root", "root"), (hub.students[0], "not this")):
            person = Person(hub, browser, name)
            person.sign_in(password)
            expect(person.page.locator(".login_error")).to_be_visible()
        person.shot("1_refused")

    def test_the_teacher_releases_the_assignment(self, hub, people):
        teacher = people[0]
        teacher.enter()
        teacher.page.goto(f"{hub.address}/user/{teacher.name}/lab")
        teacher.open_terminal()
        teacher.terminal('classroom release --sources "$CLASSROOM_BOOK/notebooks/assignments" --course ~/rnn')
        teacher.terminal(f"nbgrader release_assignment {ASSIGNMENT}")
        teacher.shot("2_teacher_releases")
        assert (hub.exchange / "rnn" / "outbound" / ASSIGNMENT).is_dir()

    def test_students_sign_in_and_fetch(self, hub, people):
        for student in people[1:]:
            student.enter()
        for student in people[1:]:
            student.menu("Assignment List")
            row = student.page.locator("#released_assignments_list .list_item", has_text=ASSIGNMENT)
            if student is people[1]:
                row.wait_for()
                student.shot("3_student_sees_the_assignment")
            row.get_by_role("button", name="Fetch").click()
            student.page.locator("#fetched_assignments_list .list_item", has_text=ASSIGNMENT).first.wait_for()
            path = student.home / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
            assert path.stat().st_uid == pwd.getpwnam(student.name).pw_uid

    def test_a_student_has_no_formgrader_and_no_way_to_others(self, hub, people):
        student, other = people[1], people[2]
        student.page.get_by_role("menuitem", name="Nbgrader", exact=True).click()
        expect(student.page.get_by_role("menuitem", name="Formgrader", exact=True)).to_have_count(0)
        student.page.keyboard.press("Escape")
        base = f"{hub.address}/user/{student.name}"
        assert student.page.request.get(f"{base}/formgrader").status == 404
        assert student.page.request.get(f"{hub.address}/user/{other.name}/api/contents").status in (403, 404)
        assert student.page.request.get(f"{hub.address}/hub/api/users").status == 403

    def test_they_write_an_answer_in_the_browser_and_run_it(self, people):
        """One cell is typed, the others are filled in in the file, or this would take an hour."""
        solutions = notebooks.solutions(notebooks.CHAPTER_1)
        typed = solutions[TYPED]
        for number, student in enumerate(people[1:]):
            path = student.home / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
            answers = {k: v for k, v in solutions.items() if k != TYPED and number != 2}
            notebook = notebooks.submission(student.notebook(), answers)
            path.write_text(json.dumps(notebook), encoding="utf-8")
            student.open(f"{ASSIGNMENT}/{ASSIGNMENT}.ipynb")
            expect(student.page.get_by_role("button", name="Validate")).to_have_count(0)
            cell = student.cell(TYPED)
            cell.scroll_into_view_if_needed()
            editor = cell.locator(".cm-content")
            editor.click()
            student.page.keyboard.press("Control+a")
            student.page.keyboard.insert_text(typed if number != 1 else typed.replace("@", "*", 1))
            student.page.keyboard.press("Shift+Enter")
            prompt = cell.locator(".jp-InputArea-prompt")
            expect(prompt).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=PATIENCE)
            student.page.keyboard.press("Shift+Enter")  # the check below it
            check = student.cell(CHECKED)
            expect(check.locator(".jp-OutputArea-output").first).to_be_visible(timeout=PATIENCE)
            student.page.keyboard.press("Control+s")
            student.until(lambda who=student: self.ran(who), "it was not run, or not saved")
            if number < 2:
                student.shot(("4_a_right_answer", "4_a_wrong_answer")[number])

    @staticmethod
    def ran(student: Person) -> bool:
        try:
            cells = student.notebook()["cells"]
        except json.JSONDecodeError:
            return False  # it is being saved at this moment
        cell = next(c for c in cells if c["metadata"].get("nbgrader", {}).get("grade_id") == TYPED)
        return cell["execution_count"] is not None and "NotImplementedError" not in "".join(cell["source"])

    def test_they_hand_in(self, hub, people):
        for student in people[1:]:
            student.page.goto(f"{hub.address}/user/{student.name}/lab")
            student.page.wait_for_selector("#jupyterlab-splash", state="detached")
            student.menu("Assignment List")
            row = student.page.locator("#fetched_assignments_list .list_item", has_text=ASSIGNMENT).first
            row.get_by_role("button", name="Submit").click()
            student.page.locator(
                "#submitted_assignments_list .list_item", has_text=ASSIGNMENT
            ).first.wait_for()
        people[1].shot("5_student_handed_in")
        inbound = hub.exchange / "rnn" / "inbound"
        assert inbound.stat().st_mode & 0o777 == 0o733, "others may enter it, not list it"
        handed_in = sorted(p.name for p in inbound.iterdir())
        assert [name.split("+")[0] for name in handed_in] == sorted(hub.students)
        for path in inbound.iterdir():
            assert path.stat().st_mode & 0o777 == 0o777, "as the notes in jupyterhub_config.py say"
            assert len(path.name.split("+")[3]) == 12, "the random end of its name"

    def test_the_teacher_collects_and_grades(self, hub, people):
        teacher = people[0]
        teacher.terminal(f"nbgrader collect {ASSIGNMENT}")
        teacher.terminal(
            f"classroom grade ~/rnn/submitted --assignment {ASSIGNMENT} --sources ~/rnn/source --out ~/rnn"
            " --due '2026-01-01 12:00 UTC'"
        )
        teacher.shot("6_teacher_grades")
        said = (teacher.home / "rnn" / f"{ASSIGNMENT}.txt").read_text(encoding="utf-8")
        assert f"{len(hub.students)} submissions: {len(hub.students)} graded" in said
        assert f"due 2026-01-01 12:00:00 UTC: {len(hub.students)} late" in said
        points = {
            line.split()[0]: [float(n) for n in line.split()[2].split("/")]
            for line in said.splitlines()
            if line.startswith(tuple(hub.students))
        }
        right, wrong, begun = (points[name] for name in hub.students[:3])
        assert right[0] == right[1]
        assert 0 < begun[0] < wrong[0] < right[0]
        before = sorted((teacher.home / "rnn" / "autograded").rglob("*.*"))
        teacher.terminal(f"! nbgrader autograde {ASSIGNMENT} --force")  # it would run strangers' code here
        assert sorted((teacher.home / "rnn" / "autograded").rglob("*.*")) == before != []
        teacher.terminal(f"nbgrader release_feedback {ASSIGNMENT}")

    def test_the_formgrader_shows_the_class(self, hub, people):
        teacher = people[0]
        page = teacher.page.context.new_page()
        page.goto(f"{hub.address}/user/{teacher.name}/formgrader/manage_submissions/{ASSIGNMENT}")
        for name in hub.students:
            row = page.locator("tr", has_text=name).first
            expect(row).to_contain_text(re.compile("needs manual grading|graded"), timeout=PATIENCE)
        best = load(notebooks.CHAPTER_1)
        whole = sum(cell.points for cell in best.cells)
        first = page.locator("tr", has_text=hub.students[0]).first
        expect(first).to_contain_text(f"{best.points:g} / {whole:g}")  # the proof waits for a person
        page.screenshot(path=SHOTS / "7_formgrader.png")
        page.goto(f"{hub.address}/user/{teacher.name}/formgrader/gradebook/{ASSIGNMENT}/{ASSIGNMENT}")
        page.get_by_text("Submission #1").first.click()
        proof = page.locator("input.score").last
        proof.wait_for()
        proof.fill("3")
        comment = page.locator("textarea.comment").last
        with page.expect_response(lambda r: "/api/comment/" in r.url and r.request.method == "PUT"):
            comment.fill(COMMENT)
            comment.blur()
        page.close()

    def test_what_was_given_by_hand_goes_back(self, hub, people):
        teacher = people[0]
        teacher.terminal(
            f"classroom grade ~/rnn/submitted --assignment {ASSIGNMENT} --sources ~/rnn/source --out ~/rnn"
        )
        teacher.terminal(f"nbgrader release_feedback {ASSIGNMENT}")
        table = (teacher.home / "rnn" / f"{ASSIGNMENT}.csv").read_text(encoding="utf-8")
        rows = list(csv.DictReader(table.splitlines()))
        assert [row["proof (by hand)"] for row in rows].count("3") == 1

    def test_students_read_their_feedback_and_nobody_elses(self, hub, people):
        commented = 0
        for number, student in enumerate(people[1:]):
            student.page.goto(f"{hub.address}/user/{student.name}/lab")
            student.page.wait_for_selector("#jupyterlab-splash", state="detached")
            student.menu("Assignment List")
            row = student.page.locator("#submitted_assignments_list .list_item", has_text=ASSIGNMENT).first
            row.get_by_role("button", name="Fetch Feedback").first.click()
            student.page.get_by_text("view feedback").first.wait_for()
            pages = list((student.home / ASSIGNMENT / "feedback").rglob("*.html"))
            assert [p.name for p in pages] == [f"{ASSIGNMENT}.html"]
            text = pages[0].read_text(encoding="utf-8")
            assert student.name in text
            commented += COMMENT in text
            assert not any(name in text for name in hub.students if name != student.name)
            if number == 1:
                student.shot("8_student_fetches_feedback")
                path = quote(str(pages[0].relative_to(student.home)))
                student.page.goto(f"{hub.address}/user/{student.name}/lab/tree/{path}")
                shown = student.page.frame_locator(".jp-HTMLViewer iframe")
                expect(shown.get_by_text("from the automatic questions")).to_be_visible(timeout=PATIENCE)
                student.shot("9_student_reads_it")
        assert commented == 1, "of the teacher's one comment"

    def test_what_a_user_costs_is_measured(self, hub, people):
        """Memory of each server and kernel, by its user; printed for the teacher's guide."""
        measured = {}
        for person in people:
            uid = pwd.getpwnam(person.name).pw_uid
            own = [p for p in psutil.process_iter(["uids"]) if p.info["uids"] and p.info["uids"].real == uid]
            memory = {}
            for process in own:
                line = " ".join(process.cmdline())
                kind = "server" if "singleuser" in line else "kernel" if "ipykernel" in line else "other"
                memory[kind] = memory.get(kind, 0) + process.memory_full_info().pss / 2**20
            measured[person.name] = {"seconds": round(person.seconds, 1)} | {
                k: round(v) for k, v in memory.items()
            }
        hub_ = psutil.Process(hub.pid)
        of_hub = [hub_, *[p for p in hub_.children(recursive=True) if p.uids().real == 0]]
        measured["hub and proxy"] = {"server": round(sum(p.memory_full_info().pss for p in of_hub) / 2**20)}
        (SHOTS / "measured.json").write_text(json.dumps(measured, indent=1))
        print(json.dumps(measured))
        assert all(0 < one["server"] < 1000 for one in measured.values())
        assert os.getuid() == 0
