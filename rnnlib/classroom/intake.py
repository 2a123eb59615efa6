"""What was handed in: found, read within bounds, and matched with the release. Nothing is run here.

A student may have renamed the file, sent a zip, added cells, deleted or changed locked ones, lost the
metadata, or saved in an old format. What is left of the answers is found. What cannot be read is refused
with a reason that helps.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rnnlib.classroom import late
from rnnlib.classroom.assignment import Assignment

MAX_FILE = 20 * 2**20
MAX_SOURCE = 2**20  # characters, of all cells together
MAX_CELLS = 2000
MAX_ENTRIES = 1000  # of a folder or an archive
MAX_TICKET = 1000  # bytes

# What nbgrader lays beside a submission. By the secret it finds the way back to the student's feedback.
TICKETS = ("timestamp.txt", "submission_secret.txt")

DEFINITION = re.compile(r"^(?:async )?def (\w+)\s*\(|^(\w+)\s*=\s*lambda", re.MULTILINE)


class Refused(Exception):
    """This cannot be marked; the message tells student and teacher why."""


@dataclass(frozen=True)
class Submission:
    """What one student handed in."""

    student: str
    paths: tuple[Path, ...]


@dataclass
class Rebuilt:
    """A submission in the form in which it is run and shown."""

    cells: list[tuple[str, str]]  # label and source, in the order in which they run
    notebook: dict[str, Any]  # the release with the student's answers in place, for marking by hand
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # notes that a teacher should look at
    written: dict[str, bool] = field(default_factory=dict)  # cells marked by hand: was anything written?


# --- finding and reading ----------------------------------------------------------------------------


def find(folder: Path, name: str) -> list[Submission]:
    """One submission for each student: ``anna.ipynb``, ``anna.zip`` or a folder ``anna/``.

    A folder that nbgrader collected holds ``anna/<assignment>/``. Then the assignment's folder counts, and
    who has handed in others only has not handed in this one.

    Args:
        folder: where the submissions are.
        name: of the assignment.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")):
            continue
        is_folder = _is_folder(path)
        student = _student(path.name if is_folder else path.stem)
        if is_folder and _collected(path):
            path = path / name
            if not _is_folder(path):
                continue
        found.setdefault(student, []).append(path)
    return [Submission(student, tuple(paths)) for student, paths in sorted(found.items())]


def _is_folder(path: Path) -> bool:
    """A folder itself; a link to one is not followed."""
    return path.is_dir() and not path.is_symlink()


def _collected(folder: Path) -> bool:
    """Whether nbgrader laid assignments into a student's folder."""
    return any((below / TICKETS[0]).is_file() for below in folder.iterdir() if _is_folder(below))


def ticket(submission: Submission, name: str) -> str | None:
    """One of nbgrader's two small files beside a submission, or None where there is none that can be read.

    Args:
        submission: of a student.
        name: one of ``TICKETS``.
    """
    if len(submission.paths) > 1 or not _is_folder(submission.paths[0]):
        return None
    path = submission.paths[0] / name
    if not os.path.lexists(path):
        return None
    try:
        return _read_file(path, MAX_TICKET).decode("ascii").strip()
    except (Refused, UnicodeDecodeError):
        return None


def handed_in(submission: Submission) -> datetime | None:
    """When a submission came, by its ``timestamp.txt``; None if that is not there or no time."""
    text = ticket(submission, TICKETS[0])
    try:
        return None if text is None else late.moment(text)
    except ValueError:
        return None


def _student(name: str) -> str:
    """A name that is safe in paths, tables and pages."""
    return re.sub(r"[^\w.@+ -]", "_", name)[:100]


def read(submission: Submission, name: str) -> tuple[bytes, list[str]]:
    """The bytes of the notebook, and what was odd about where they were.

    Raises:
        Refused: there is no notebook, more than one, a link, or too much.
    """
    if len(submission.paths) > 1:
        names = ", ".join(path.name for path in submission.paths)
        raise Refused(f"handed in more than once ({names}); keep one")
    path = submission.paths[0]
    candidates = list(_walk(path)) if _is_folder(path) else [path]
    books = [p for p in candidates if p.suffix.lower() == ".ipynb"]
    chosen, notes = _choose({str(p): p for p in books}, name, is_file=candidates == [path])
    if chosen is None:
        archives = [p for p in candidates if p.suffix.lower() == ".zip"]
        if len(archives) != 1:
            raise Refused("no notebook (.ipynb) was handed in")
        chosen = archives[0]
    data = _read_file(chosen)
    if data.startswith(b"PK\x03\x04"):
        data, more = _read_archive(data, name)
        notes += more
    return data, notes


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for count, entry in enumerate(sorted(entries, key=lambda e: e.name)):
            if count >= MAX_ENTRIES:
                raise Refused(f"a folder with more than {MAX_ENTRIES} entries")
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < 3:
                    yield from _walk(Path(entry.path), depth + 1)
            else:
                yield Path(entry.path)


def _choose(books: Mapping[str, Any], name: str, is_file: bool = False) -> tuple[Any, list[str]]:
    """The notebook with the right name, or the only one."""
    exact = [key for key in books if Path(key).name == f"{name}.ipynb"]
    if len(exact) == 1:
        return books[exact[0]], []
    if len(exact) > 1 or len(books) > 1:
        raise Refused(f"{len(books)} notebooks were handed in; keep one, named {name}.ipynb")
    if not books:
        return None, []
    (key,) = books
    return books[key], [] if is_file else [f"the notebook is not named {name}.ipynb"]


def _read_file(path: Path, at_most: int = MAX_FILE) -> bytes:
    try:
        # A link is not followed, and a pipe is not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(
            "a link, which is not followed" if path.is_symlink() else "the file cannot be read"
        ) from error
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise Refused("not a regular file")
        data = stream.read(at_most + 1)
    if len(data) > at_most:
        raise Refused(f"larger than {at_most >> 20} MB; clear the outputs and hand in again")
    return data


def _read_archive(data: bytes, name: str) -> tuple[bytes, list[str]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > MAX_ENTRIES:
                raise Refused(f"an archive with more than {MAX_ENTRIES} entries")
            books = {
                m.filename: m
                for m in archive.infolist()
                if m.filename.lower().endswith(".ipynb") and not _hidden(m.filename)
            }
            member, notes = _choose(books, name)
            if member is None:
                raise Refused("the archive holds no notebook (.ipynb)")
            with archive.open(member) as stream:
                data = stream.read(MAX_FILE + 1)
    except Refused:
        raise
    except Exception as error:  # zipfile raises many kinds for damaged, encrypted and exotic archives
        raise Refused("the archive cannot be read; is it complete, and not encrypted?") from error
    if len(data) > MAX_FILE:
        raise Refused(f"larger than {MAX_FILE >> 20} MB when unpacked")
    return data, [*notes, "it came as an archive"]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


# --- the notebook -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudentCell:
    """What we use of a cell."""

    kind: str
    source: str
    grade_id: str
    cell_id: str


def parse(data: bytes) -> tuple[list[StudentCell], list[str]]:
    """The cells of a notebook of any format, and doubts about its text.

    Raises:
        Refused: it is no notebook.
    """
    doubts: list[str] = []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
            doubts.append("the file is not UTF-8; letters beyond ASCII may be wrong")
    if not text.strip("\0 \r\n\t"):
        raise Refused("the file is empty")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("not a notebook, or not all of it: the JSON is damaged") from error
    cells = _raw_cells(notebook)
    if len(cells) > MAX_CELLS:
        raise Refused(f"more than {MAX_CELLS} cells")
    parsed = [_student_cell(cell) for cell in cells]
    if sum(len(cell.source) for cell in parsed) > MAX_SOURCE:
        raise Refused(f"more than {MAX_SOURCE} characters of text")
    return parsed, doubts


def _raw_cells(notebook: Any) -> list[Any]:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):
        sheets = [s for s in notebook["worksheets"] if isinstance(s, dict)]  # the format before 2015
        cells = [cell for s in sheets for cell in s.get("cells") or []]
    if not isinstance(cells, list):
        raise Refused("not a notebook: it has no cells")
    return cells


def _student_cell(cell: Any) -> StudentCell:
    if not isinstance(cell, dict):
        raise Refused("not a notebook: a cell is damaged")
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Refused("not a notebook: a cell has no text")
    metadata = cell.get("metadata")
    about = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = about.get("grade_id") if isinstance(about, dict) else None
    return StudentCell(
        str(cell.get("cell_type")),
        source.replace("\r\n", "\n"),
        str(grade_id or ""),
        str(cell.get("id") or ""),
    )


def rebuild(assignment: Assignment, cells: list[StudentCell]) -> Rebuilt:
    """Match what was handed in with the release.

    Locked cells run first and as they were released; visible tests are not run at all, since the marks
    come from questions. Then run all other code cells, in the student's order.
    """
    notebook = copy.deepcopy(dict(assignment.release))
    release = notebook["cells"]
    locked = [c for c in release if not _about(c).get("solution") and _about(c).get("grade_id")]
    result = Rebuilt(
        [
            (_about(c)["grade_id"], c["source"])
            for c in locked
            if c["cell_type"] == "code" and not _about(c).get("grade")
        ],
        notebook,
    )
    answers: dict[str, list[str]] = {}
    texts: list[str] = []  # the student's own, which fill no cell of the release
    known = {c["source"].strip() for c in release} | {""}
    seen: set[str] = set()
    changed: list[str] = []
    for number, cell in enumerate(cells, start=1):
        original = _restored(cell, locked, assignment)
        if original is not None:
            if cell.source.strip() != original["source"].strip():
                changed.append(_about(original)["grade_id"])
            seen.add(_about(original)["grade_id"])
            continue
        target = _target(cell, release)
        label = f"cell {number}" if target is None else f"answer {_name(target)}"
        if target is not None:
            answers.setdefault(_about(target)["grade_id"], []).append(cell.source)
        if cell.kind == "code":
            result.cells.append((label, cell.source))
        elif target is None and cell.source.strip() not in known:
            texts.append(cell.source)
    missing = [
        _about(c)["grade_id"]
        for c in locked
        if c["cell_type"] == "code" and _about(c)["grade_id"] not in seen
    ]
    for names, what in ((changed, "changed"), (missing, "missing")):
        if names:
            result.notes.append(f"locked cells were {what}, ours are used: {', '.join(names)}")
    for cell in release:
        about = _about(cell)
        if not about.get("solution"):
            continue
        given = answers.get(about["grade_id"], [])
        if not given:
            result.notes.append(f"the answer cell {about['grade_id']} is missing")
            if cell["cell_type"] == "markdown" and texts:
                given = ["\n\n".join(texts)]
                result.doubts.append(f"{about['grade_id']}: taken from text cells that nothing names")
        if len(set(given)) > 1:
            result.doubts.append(f"{len(given)} cells answer {about['grade_id']}; all were run, in order")
        result.written[about["grade_id"]] = bool(given) and given[-1].strip() != cell["source"].strip()
        if given:
            cell["source"] = given[-1] if cell["cell_type"] == "code" else _shown(given[-1])
    return result


def _name(cell: Mapping[str, Any]) -> str:
    """The name of an answer cell as a student may know it."""
    return str(_about(cell)["grade_id"]).removeprefix("answer-")


def _about(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    return cell["metadata"].get("nbgrader", {})


def _restored(cell: StudentCell, locked: list[Any], assignment: Assignment) -> Any:
    """The locked cell that this is, changed or not; an answer with a locked cell's name is an answer."""
    asked = {question.call for question in assignment.questions}
    for original in locked:
        if cell.source.strip() == original["source"].strip():
            return original
    if asked & defined(cell.source):
        return None
    return next((c for c in locked if cell.grade_id == _about(c)["grade_id"]), None) or next(
        (c for c in locked if cell.cell_id and cell.cell_id == c.get("id")), None
    )


def _target(cell: StudentCell, release: list[Any]) -> Any:
    """The answer cell of the release that this one fills: by grade_id, by its id, by what it defines."""
    places = [c for c in release if _about(c).get("solution") and c["cell_type"] == cell.kind]
    for test in (
        lambda c: cell.grade_id == _about(c)["grade_id"],
        lambda c: cell.cell_id and cell.cell_id == c.get("id"),
        lambda c: cell.kind == "code" and defined(c["source"]) & defined(cell.source),
    ):
        for place in places:
            if test(place):
                return place
    return None


def defined(source: str) -> set[str]:
    """The functions that a cell defines, read as text."""
    return {a or b for a, b in DEFINITION.findall(source)}


def _shown(text: str) -> str:
    """A written answer that cannot become more than text in the page in which a teacher marks it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
