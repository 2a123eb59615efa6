"""Marks go into nbgrader's database, where marking by hand, feedback and export find them."""

from __future__ import annotations

import os
import shutil
import sysconfig
import warnings
from collections.abc import Iterable

from nbgrader.api import Gradebook
from sqlalchemy.exc import SAWarning

from rnnlib.classroom.assignment import Assignment
from rnnlib.classroom.report import Result


def record(url: str, assignment: Assignment, results: Iterable[Result]) -> None:
    """Write the marks of a class. Writing them again changes nothing; marks given by hand stay.

    Args:
        url: of the database, for example ``sqlite:////home/me/class/gradebook.db``.
        assignment: what was marked.
        results: one for each student.
    """
    name = assignment.name
    if shutil.which("alembic") is None:  # nbgrader starts it by name, also where .venv is not activated
        os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    with warnings.catch_warnings(), Gradebook(url) as book:
        warnings.simplefilter("ignore", SAWarning)  # of how nbgrader 0.9 fills its tables
        book.update_or_create_assignment(name)
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
            submission = book.update_or_create_submission(name, result.student)
            grades = {grade.name: grade for notebook in submission.notebooks for grade in notebook.grades}
            for cell in assignment.cells:
                grade = grades[cell.grade_id]
                if not cell.by_hand:
                    grade.auto_score = result.cell_points(cell.grade_id)
                elif grade.manual_score is None:
                    grade.needs_manual_grade = result.by_hand.get(cell.grade_id, False)
                    grade.auto_score = None if grade.needs_manual_grade else 0.0
            book.db.commit()
