"""Marks go into nbgrader's database, where marking by hand, feedback and export find them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbgrader.api
from alembic.script import ScriptDirectory
from nbgrader.api import Gradebook
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SAWarning

from rnnlib.classroom.assignment import Assignment
from rnnlib.classroom.report import ByHand, Result


def _schema_version() -> str:
    """What nbgrader asks of the program ``alembic``, which is slow to start and on no PATH of ours."""
    return str(ScriptDirectory(Path(nbgrader.api.__file__).parent / "alembic").get_current_head())


nbgrader.api.get_alembic_version = _schema_version


def address(url: str) -> str:
    """The URL of a database with the driver that we use: psycopg for PostgreSQL, unless it names another.

    Raises:
        ValueError: it is no URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(f"DATABASE={url} is no URL such as postgresql://name:word@host/gradebook") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def record(url: str, assignment: Assignment, results: Iterable[Result], due: datetime | None = None) -> None:
    """Write the marks of a class. Writing them again changes nothing; marks given by hand stay.

    Args:
        url: of the database, for example ``sqlite:////home/me/class/gradebook.db`` or
            ``postgresql://teacher:word@host/gradebook``.
        assignment: what was marked.
        results: one for each student.
        due: when it was to be handed in; without it, what the gradebook says stays.

    Raises:
        ValueError: the database, or the driver for it, is not there.
    """
    with _reachable(url) as known:
        _record(known, assignment, results, due)


def by_hand(url: str, assignment: Assignment) -> dict[str, ByHand]:
    """What teachers gave and wrote in the formgrader, by student.

    Args:
        url: of the database, as for :func:`record`.
        assignment: what was marked.

    Raises:
        ValueError: the database, or the driver for it, is not there.
    """
    given: dict[str, ByHand] = {}
    with _reachable(url) as known, Gradebook(known) as book:
        for submission in book.assignment_submissions(assignment.name):
            own = ByHand()
            for notebook in submission.notebooks:
                for grade in notebook.grades:
                    if grade.manual_score is not None or grade.extra_credit:
                        own.points[grade.name] = float(grade.score)
                own.comments.update({c.name: c.manual_comment for c in notebook.comments if c.manual_comment})
            if own.points or own.comments:
                given[submission.student.id] = own
    return given


@contextmanager
def _reachable(url: str) -> Iterator[str]:
    """The address of a database; what keeps us from using it is said in a sentence."""
    known = make_url(address(url))
    try:
        yield known.render_as_string(hide_password=False)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ValueError(
            f"DATABASE={known}: its driver is missing ({error}); "
            "for PostgreSQL: pip install 'rnnlib[postgresql]'"
        ) from error
    except DBAPIError as error:
        raise ValueError(f"DATABASE={known} cannot be used: {error.orig}") from error


def _record(url: str, assignment: Assignment, results: Iterable[Result], due: datetime | None) -> None:
    name = assignment.name
    with warnings.catch_warnings(), Gradebook(url) as book:
        warnings.simplefilter("ignore", SAWarning)  # of how nbgrader 0.9 fills its tables
        if book.engine.dialect.name == "sqlite":
            # nbgrader commits many times a student. Waiting for the disk each time takes minutes, and what
            # a power cut could lose here is written again from the results.
            book.db.connection().exec_driver_sql("PRAGMA synchronous = OFF")
        book.update_or_create_assignment(name, **({"duedate": due} if due else {}))
        book.update_or_create_notebook(name, name)
        for cell in assignment.cells:
            book.update_or_create_grade_cell(
                cell.grade_id, name, name, max_score=cell.points, cell_type=cell.cell_type
            )
        for released in assignment.release["cells"]:
            about = released["metadata"].get("nbgrader", {})
            if about.get("solution"):
                book.update_or_create_solution_cell(about["grade_id"], name, name)
        for result in results:
            book.update_or_create_student(result.student)
            came = {}
            if result.handed_in:  # nbgrader keeps UTC without saying so
                came["timestamp"] = datetime.fromisoformat(result.handed_in).astimezone(UTC)
            submission = book.update_or_create_submission(name, result.student, **came)
            grades = {grade.name: grade for notebook in submission.notebooks for grade in notebook.grades}
            for cell in assignment.cells:
                grade = grades[cell.grade_id]
                if not cell.by_hand:
                    grade.auto_score = result.cell_points(cell.grade_id)
                elif grade.manual_score is None:
                    grade.needs_manual_grade = result.by_hand.get(cell.grade_id, False)
                    grade.auto_score = None if grade.needs_manual_grade else 0.0
            book.db.commit()
