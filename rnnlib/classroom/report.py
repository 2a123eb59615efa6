"""What teacher and students read: a CSV, a table, a page of feedback. All of it is escaped text."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rnnlib.classroom import late
from rnnlib.classroom.assignment import Assignment
from rnnlib.classroom.marking import Mark

GRADED, REVIEW, REFUSED = "graded", "review", "refused"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border-bottom: 1px solid #888; padding: .3rem .6rem; text-align: left; overflow-wrap: anywhere; }}
td:last-child, th:last-child {{ text-align: right; white-space: nowrap; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
:root {{ color-scheme: light dark; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


@dataclass
class Result:
    """Everything that is kept of a marked submission."""

    student: str
    status: str
    reasons: list[str] = field(default_factory=list)  # our words
    marks: list[Mark] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # of cells; partly the student's words
    by_hand: dict[str, bool] = field(default_factory=dict)  # written answers: was anything written?
    seconds: float = 0.0
    fingerprint: str = ""
    handed_in: str | None = None  # ISO 8601 in UTC, where it is known

    def hours_late(self, due: datetime) -> float | None:
        """Hours after the due time, or None where nobody knows when it came."""
        return (
            None if self.handed_in is None else late.hours_late(datetime.fromisoformat(self.handed_in), due)
        )

    @property
    def points(self) -> float:
        """What the questions earned."""
        return sum(mark.points for mark in self.marks)

    def cell_points(self, grade_id: str) -> float:
        """What the questions of one cell earned."""
        return sum(mark.points for mark in self.marks if mark.grade_id == grade_id)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Result:
        """A result read back from its file."""
        marks = [Mark(**mark | {"lines": [tuple(x) for x in mark["lines"]]}) for mark in stored["marks"]]
        return cls(**stored | {"marks": marks})


@dataclass
class ByHand:
    """What a teacher gave one student in the formgrader, by ``grade_id``."""

    points: dict[str, float] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)


NOTHING = ByHand()


def total(assignment: Assignment, result: Result, given: ByHand) -> float | None:
    """All points together, those by hand first; None while a written answer waits for them."""
    points = 0.0
    for cell in assignment.cells:
        if cell.grade_id in given.points:
            points += given.points[cell.grade_id]
        elif cell.by_hand and result.by_hand.get(cell.grade_id):
            return None
        else:
            points += result.cell_points(cell.grade_id)
    return points


def table_csv(
    assignment: Assignment,
    results: Sequence[Result],
    due: datetime | None = None,
    given: Mapping[str, ByHand] | None = None,
) -> str:
    """The marks of a class. Holds nothing that changes from one run to the next, such as run times.

    Args:
        assignment: what was marked.
        results: one for each student.
        due: with it the table has two columns more: when each was handed in, and how many hours late.
        given: by hand, by student.
    """
    asked = [cell.grade_id for cell in assignment.cells if not cell.by_hand]
    hand = [cell.grade_id for cell in assignment.cells if cell.by_hand]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    times = ["handed in", "hours late"] if due else []
    written = [f"{grade_id} (by hand)" for grade_id in hand]
    writer.writerow(
        ["student", "status", "points", "of", *times, *asked, *written, "total", "remarks"],
    )
    for result in sorted(results, key=lambda r: r.student):
        own = (given or {}).get(result.student, NOTHING)
        cells = [f"{result.cell_points(grade_id):g}" for grade_id in asked]
        waiting = [
            f"{own.points[h]:g}" if h in own.points else "to be marked" if result.by_hand.get(h) else "0"
            for h in hand
        ]
        all_points = total(assignment, result, own)
        waiting.append("" if all_points is None else f"{all_points:g}")
        row = [result.student, result.status, f"{result.points:g}", f"{assignment.points:g}"]
        when = _times(result, due) if due else []
        writer.writerow([_plain(x) for x in [*row, *when, *cells, *waiting, "; ".join(result.reasons)]])
    return out.getvalue()


def _times(result: Result, due: datetime) -> list[str]:
    hours = result.hours_late(due)
    if hours is None or result.handed_in is None:
        return ["", ""]
    return [late.shown(datetime.fromisoformat(result.handed_in)), f"{hours:.2f}"]


def _plain(text: str) -> str:
    """A name that a spreadsheet will not run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def table_text(assignment: Assignment, results: Sequence[Result], due: datetime | None = None) -> str:
    """Who, marks, time, what went wrong; with a due time, who was late."""
    width = max([len("student"), *(len(result.student) for result in results)])
    lines = [f"{'student':{width}}  status    points   time  what went wrong"]
    for result in sorted(results, key=lambda r: r.student):
        reasons = "; ".join(
            [
                *_lateness(result, due),
                *result.reasons,
                *([f"{len(result.errors)} cells failed"] if result.errors else []),
            ]
        )
        lines.append(
            f"{result.student:{width}}  {result.status:8} {result.points:5g}/{assignment.points:<3g}"
            f"{result.seconds:5.1f} s  {reasons}"
        )
    count = {s: sum(r.status == s for r in results) for s in (GRADED, REVIEW, REFUSED)}
    lines.append("")
    lines.append(f"{len(results)} submissions: " + ", ".join(f"{n} {status}" for status, n in count.items()))
    if due:
        hours = [result.hours_late(due) for result in results]
        unknown = f", {hours.count(None)} without a time" if None in hours else ""
        lines.append(f"due {late.shown(due)}: {sum(bool(h) for h in hours)} late{unknown}")
    return "\n".join(lines) + "\n"


def _lateness(result: Result, due: datetime | None) -> list[str]:
    hours = result.hours_late(due) if due else 0.0
    if hours is None:
        return ["no time of submission"]
    return [f"{max(hours, 0.1):.1f} hours late"] if hours else []


def feedback(assignment: Assignment, result: Result, given: ByHand = NOTHING) -> str:
    """A student's page. It needs no other file, runs no script, and says nothing of hidden values."""
    e = html.escape
    maximum_of = {cell.grade_id: cell.points for cell in assignment.cells}
    body = [f"<p>{e(result.student)}: <strong>{result.points:g}</strong> of {assignment.points:g} points"]
    body.append(" from the automatic questions.</p>")
    if result.reasons:
        body.append("<ul>" + "".join(f"<li>{e(reason)}</li>" for reason in result.reasons) + "</ul>")
    all_points = total(assignment, result, given)
    if given.points and all_points is not None:
        body.append(f"<p>All together: <strong>{all_points:g}</strong> of {sum(maximum_of.values()):g}.</p>")
    for name, points in given.points.items():
        if name not in result.by_hand:
            body.append(f"<p>{e(name)}: your teacher gave {points:g} of {maximum_of.get(name, 0):g}.</p>")
    for name, comment in given.comments.items():
        if name not in result.by_hand:
            body.append(f"<p>{e(name.removeprefix('answer-'))}: {e(comment)}</p>")
    for mark in result.marks:
        body.append(f"<h2><code>{e(mark.call)}</code>: {mark.points:g} of {mark.maximum:g}</h2><table>")
        for name, points, maximum in mark.lines:
            of = f"{points:g} of {maximum:g}" if maximum else f"+{points:g}"
            body.append(f"<tr><td>{e(name)}</td><td>{of}</td></tr>")
        body.append("</table>" + "".join(f"<p>{e(remark)}</p>" for remark in mark.remarks))
    for grade_id, written in result.by_hand.items():
        if grade_id in given.points:
            body.append(f"<h2>{e(grade_id)}: {given.points[grade_id]:g} of {maximum_of[grade_id]:g}</h2>")
        else:
            state = "Your teacher marks this by hand." if written else "Nothing was written."
            body.append(f"<h2>{e(grade_id)}</h2><p>{state}</p>")
        if grade_id in given.comments:
            body.append(f"<p>{e(given.comments[grade_id])}</p>")
    if result.errors:
        body.append("<h2>Cells that raised an error</h2>")
        body += [f"<pre>{e(error)}</pre>" for error in result.errors]
    return PAGE.format(title=e(f"Feedback: {assignment.name}"), body="\n".join(body))
