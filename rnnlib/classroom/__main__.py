"""``python -m rnnlib.classroom``: release assignments, grade submissions (``make`` calls it)."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime
from pathlib import Path

from rnnlib.classroom import late

SOURCES = Path("notebooks/assignments")


def parser() -> argparse.ArgumentParser:
    """What the commands are, and their options."""
    whole = argparse.ArgumentParser(prog="python -m rnnlib.classroom", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    release = commands.add_parser("release", help="write the students' versions of all assignments")
    release.add_argument("--sources", type=Path, default=SOURCES)
    release.add_argument(
        "--course", type=Path, help="write sources and students' versions into a course folder of nbgrader"
    )
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("submissions", type=Path)
    grade.add_argument("--assignment", help="name of the assignment, if there are several")
    grade.add_argument("--sources", type=Path, default=SOURCES)
    grade.add_argument("--out", type=Path, default=Path("classroom"), help="where marks and feedback go")
    grade.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    grade.add_argument("--database", help="URL of nbgrader's database (default: SQLite in OUT)")
    grade.add_argument(
        "--due", type=_due, help="when it was due, as '2026-10-01 23:59 +02:00': says who was late"
    )
    grade.add_argument("--part", type=_part, help="i/n: only the i-th of n parts of the class")
    grade.add_argument(
        "--no-sandbox", action="store_true", help="run strangers' code with your own rights: do not"
    )
    return whole


def main() -> int:
    """Run a command; what cannot be done is said in a sentence."""
    arguments = parser().parse_args()
    return _release(arguments) if arguments.command == "release" else _grade(arguments)


def _due(text: str) -> datetime:
    try:
        return late.moment(text, assume_local=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _part(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n with i from 1 to n")
    return int(i), int(n)


def _release(arguments: argparse.Namespace) -> int:
    from rnnlib.classroom.assignment import load, release_text
    from rnnlib.classroom.grade import sources
    from rnnlib.classroom.marking import prepare

    try:
        for name, source in sorted(sources(arguments.sources).items()):
            target = arguments.sources / "release" / source.name
            if arguments.course:
                source = _into_course(source, arguments.course / "source" / name / source.name)
                target = arguments.course / "release" / name / source.name
            prepare(load(source), "release")  # what cannot be graded is not released
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(release_text(source), encoding="utf-8")
            print(target)
    except (ValueError, RuntimeError) as error:  # no sources, or one that contradicts itself
        print(error, file=sys.stderr)
        return 2
    return 0


def _into_course(source: Path, copy: Path) -> Path:
    """Copy a source into the teacher's course, where a changed one is the teacher's work and stays."""
    if copy.exists() and copy.read_bytes() != source.read_bytes():
        print(f"kept and released: {copy}, which differs from {source}; delete it to take that one")
    else:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    return copy


def _grade(arguments: argparse.Namespace) -> int:
    from rnnlib.classroom.grade import Settings, choose_source, grade
    from rnnlib.classroom.sandbox import SandboxMissing

    if not arguments.submissions.is_dir():
        print(f"SUBMISSIONS={arguments.submissions} is not a folder", file=sys.stderr)
        return 2
    if arguments.no_sandbox:
        print("WITHOUT SANDBOX: submissions run with your rights and can change your files", file=sys.stderr)
    settings = Settings(
        arguments.out,
        arguments.jobs,
        contained=not arguments.no_sandbox,
        database=arguments.database,
        due=arguments.due,
        part=arguments.part,
    )
    try:
        source = choose_source(arguments.sources, arguments.assignment)
        results = grade(source, arguments.submissions, settings)
    except (SandboxMissing, ValueError) as error:
        print(error, file=sys.stderr)
        if isinstance(error, SandboxMissing):
            print("To grade without a sandbox all the same, add --no-sandbox.", file=sys.stderr)
        return 2
    if arguments.part:
        i, n = arguments.part
        print(f"Part {i} of {n}: {len(results)} submissions. After all parts, run it again without --part.")
        return 0
    print((arguments.out / f"{source.stem}.txt").read_text(encoding="utf-8"), end="")
    book = "the database" if arguments.database else "gradebook.db"
    print(f"Marks: {arguments.out / source.stem}.csv and {book}; feedback: {arguments.out / 'feedback'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
