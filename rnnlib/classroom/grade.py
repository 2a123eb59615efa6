"""Grade a folder of submissions: in parallel, resumable, each student unharmed by the others."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import secrets
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

import rnnlib
from rnnlib.classroom import exchange, gradebook, intake, marking, report, sandbox
from rnnlib.classroom.assignment import Assignment, load
from rnnlib.classroom.questions import CASES
from rnnlib.classroom.report import GRADED, REFUSED, REVIEW, Result

ENDS = {
    "time": "it ran out of time and was stopped",
    "memory": "it used more memory than allowed and was stopped",
    "message": "its process sent something that is no answer and was stopped",
    "crash": "its process ended before all was answered",
}


@dataclass(frozen=True)
class Settings:
    """How a class is graded."""

    out: Path
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    limits: sandbox.Limits = field(default_factory=sandbox.Limits)
    contained: bool = True
    database: str | None = None  # a URL; by default SQLite in the output folder
    due: datetime | None = None  # with a time zone; who came later is said, and costs nothing
    part: tuple[int, int] | None = None  # (i, n): the i-th of n parts of the class, the first is 1


def grade(source: Path, submissions: Path, settings: Settings, quiet: bool = False) -> list[Result]:
    """Grade everything in a folder and write results, feedback, CSV and gradebook.

    Results that are there already, of the same submission under the same conditions, are kept. So a run
    that was cut off goes on where it stopped.

    With ``settings.part`` only these results are made; n processes, on as many machines as you like, can do
    one part each in the same folder. Then the same call without a part finds the results and writes the
    tables and the gradebook.

    Args:
        source: the assignment's source notebook.
        submissions: the folder; see :func:`rnnlib.classroom.intake.find`.
        settings: where to, and how.
        quiet: no progress bar.

    Returns:
        One result for each student (of the part).

    Raises:
        rnnlib.classroom.sandbox.SandboxMissing: no sandbox can be had, and none was not asked for.
        ValueError: the assignment's source is inconsistent; another run works in the same folder; the
            database cannot be used.
    """
    assignment = load(source)
    if settings.contained:
        sandbox.require()
    out = settings.out
    for part in ("results", "feedback", "autograded"):
        (out / part).mkdir(parents=True, exist_ok=True)
    with _alone(out, settings.part):
        grader = _Grader(assignment, source, settings)
        handed_in = intake.find(submissions, assignment.name)
        if settings.part:
            handed_in = in_part(handed_in, *settings.part)
        results = []
        with ThreadPoolExecutor(settings.jobs) as pool:
            futures = [pool.submit(grader.guarded, submission) for submission in handed_in]
            try:
                for future in tqdm(
                    as_completed(futures),
                    total=len(futures),
                    unit="student",
                    disable=quiet,
                    desc=assignment.name,
                ):
                    results.append(future.result())
            finally:
                pool.shutdown(cancel_futures=True)
        results.sort(key=lambda result: result.student)
        if settings.part is None:
            url = settings.database or f"sqlite:///{(out / 'gradebook.db').resolve()}"
            gradebook.record(url, assignment, results, settings.due)
            copy = out / "source" / assignment.name / source.name
            if not copy.exists():  # nbgrader's formgrader lists what stands here, and nothing else
                _write(copy, source.read_text(encoding="utf-8"))
            given = gradebook.by_hand(url, assignment)
            for result in results:
                grader.write_page(result, given.get(result.student, report.NOTHING))
            table = report.table_csv(assignment, results, settings.due, given)
            _write(out / f"{assignment.name}.csv", table)
            _write(out / f"{assignment.name}.txt", report.table_text(assignment, results, settings.due))
    return results


def in_part(submissions: Sequence[intake.Submission], i: int, n: int) -> list[intake.Submission]:
    """The i-th of n parts of a class, i from 1. The name alone decides, so who comes later moves nobody."""
    return [s for s in submissions if int(hashlib.sha256(s.student.encode()).hexdigest(), 16) % n == i - 1]


class _Grader:
    """What is the same for a whole class."""

    def __init__(self, assignment: Assignment, source: Path, settings: Settings) -> None:
        self.assignment, self.settings = assignment, settings
        seed = _seed(settings.out)
        self.sheets = marking.prepare(assignment, seed)
        public, hidden, self.calls = marking.messages(self.sheets)
        self.public, self.hidden = public, exchange.pack(hidden)
        digest = hashlib.sha256(
            f"{rnnlib.__version__} {seed} {settings.limits} {settings.contained}".encode()
        )
        for path in [source, *sorted(Path(__file__).parent.glob("*.py"))]:
            digest.update(path.read_bytes())
        self.conditions = digest.hexdigest()
        self.places: queue.SimpleQueue[int] = queue.SimpleQueue()
        number = settings.part[0] - 1 if settings.part else 0
        for place in range(settings.jobs):  # parts on one machine do not share a user
            self.places.put((number * settings.jobs + place) % sandbox.PLACES)

    def guarded(self, submission: intake.Submission) -> Result:
        """Grade one; a fault of the grader's own is reported for this student and stops nobody else."""
        try:
            result = self.grade_one(submission)
            self._keep_tickets(submission)
        except Exception as error:
            said = "".join(traceback.format_exception(error))
            print(said, file=sys.stderr)
            result = Result(submission.student, REVIEW, [f"the grader failed ({type(error).__name__})"])
        when = intake.handed_in(submission)
        result.handed_in = None if when is None else when.isoformat()
        return result

    def _keep_tickets(self, submission: intake.Submission) -> None:
        """Without these, nbgrader's release_feedback cannot tell whose a page is."""
        for name in intake.TICKETS:
            text = intake.ticket(submission, name)
            if text is not None:
                for part in ("autograded", "feedback"):
                    folder = self.settings.out / part / submission.student / self.assignment.name
                    if folder.is_dir():
                        _write(folder / name, text)

    def grade_one(self, submission: intake.Submission) -> Result:
        """Read, run, mark, and keep the result, unless it is there already."""
        name, student, out = self.assignment.name, submission.student, self.settings.out
        notes: list[str] = []
        data, refusal = b"", None
        try:
            data, notes = intake.read(submission, name)
        except intake.Refused as refused:
            refusal = str(refused)
        print_ = hashlib.sha256(f"{self.conditions} {refusal} {notes}".encode() + data).hexdigest()
        kept = out / "results" / name / f"{student}.json"
        if kept.exists():
            stored = json.loads(kept.read_text(encoding="utf-8"))
            if stored["fingerprint"] == print_:
                return Result.of(stored)
        result = Result(student, REFUSED, [refusal] if refusal else [], fingerprint=print_)
        if refusal is None:
            try:
                cells, doubts = intake.parse(data)
                rebuilt = intake.rebuild(self.assignment, cells)
            except intake.Refused as refused:
                result.reasons = [str(refused)]
            else:
                rebuilt.notes[:0] = notes
                rebuilt.doubts[:0] = doubts
                self._run(rebuilt, result)
                copy = json.dumps(rebuilt.notebook, indent=1) + "\n"
                _write(out / "autograded" / student / name / f"{name}.ipynb", copy)
        self.write_page(result)
        _write(kept, json.dumps(asdict(result), indent=1))  # last: what has a result is done
        return result

    def write_page(self, result: Result, given: report.ByHand = report.NOTHING) -> None:
        """A student's page of feedback, with what was given by hand."""
        name = self.assignment.name
        page = report.feedback(self.assignment, result, given)
        _write(self.settings.out / "feedback" / result.student / name / f"{name}.html", page)

    def _run(self, rebuilt: intake.Rebuilt, result: Result) -> None:
        sources = [source for _, source in rebuilt.cells]
        limits = self.settings.limits
        job = sandbox.job_message(sources, self.calls, CASES, limits) | self.public
        place = self.places.get()
        try:
            run = sandbox.run(exchange.pack(job), self.hidden, limits, place, self.settings.contained)
        finally:
            self.places.put(place)
        result.marks = marking.mark(self.sheets, run.public, run.hidden)
        marking.follow_ons(result.marks, sources)
        result.errors = _cell_errors(run, [label for label, _ in rebuilt.cells])
        result.reasons = [*rebuilt.doubts, *([ENDS[run.end]] if run.end in ENDS else []), *rebuilt.notes]
        result.by_hand = {c.grade_id: rebuilt.written[c.grade_id] for c in self.assignment.cells if c.by_hand}
        result.status = REVIEW if rebuilt.doubts or run.end != "finished" else GRADED
        result.seconds = round(run.seconds, 2)


def _cell_errors(run: sandbox.Run, labels: Sequence[str]) -> list[str]:
    """What cells raised. These words come from before the hidden inputs were there."""
    errors = []
    for message in run.public:
        cell = message.get("cell")
        if cell is None or cell.ndim or cell.dtype.kind not in "iu" or not 0 <= int(cell) < len(labels):
            continue
        kind, words = (marking.words_of(message.get(key)) for key in ("error", "message"))
        if kind == "ModuleNotFoundError":
            words += f". {marking.CODES[kind]}"
        if kind != "NotImplementedError":
            errors.append(f"{labels[int(cell)]}: {kind}: {words}")
    return errors[:50]


def _seed(out: Path) -> str:
    """The secret of a class, made when it is first graded and kept in its folder."""
    path = out / "seed.txt"
    if not path.exists():
        fresh = out / f"seed.{secrets.token_hex(4)}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(16))
        with suppress(FileExistsError):  # of two parts that start together one is first; it holds for both
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text(encoding="ascii").strip()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(fresh, path)


@contextmanager
def _alone(out: Path, part: tuple[int, int] | None = None) -> Iterator[None]:
    """One grader in a folder at a time, or one for each part; locks end with their process."""
    with (out / "lock").open("w") as whole, (out / _lock_name(part)).open("w") as own:
        try:
            fcntl.flock(whole, (fcntl.LOCK_SH if part else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if part:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another grader is at work in {out}") from error
        yield


def _lock_name(part: tuple[int, int] | None) -> str:
    return f"lock.{part[0]}of{part[1]}" if part else "lock"


def sources(folder: Path) -> dict[str, Path]:
    """The source notebooks by name: ``name.ipynb``, or ``name/name.ipynb`` as in nbgrader's courses.

    Raises:
        ValueError: there are none.
    """
    nested = [path for path in folder.glob("*/*.ipynb") if path.parent.name == path.stem]
    found = {path.stem: path for path in sorted([*nested, *folder.glob("*.ipynb")])}
    if not found:
        raise ValueError(
            f"there are no assignments in {folder.absolute()}: run this in the book's folder, "
            "or name the folder of the source notebooks with --sources"
        )
    return found


def choose_source(folder: Path, name: str | None) -> Path:
    """The source notebook of an assignment (see :func:`sources`).

    Raises:
        ValueError: there is none of that name, or several and no name was given.
    """
    found = sources(folder)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        asked = f"there is no assignment {name!r}" if name else "name one (ASSIGNMENT=… or --assignment …)"
        raise ValueError(f"{asked}; the assignments are: {', '.join(sorted(found))}")
    return found[name]
