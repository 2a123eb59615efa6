"""The classroom: assignments, and a grader that runs strangers' code in a locked room.

Two processes mark a submission. The student's process runs inside bubblewrap; it gets inputs and hands
back plain arrays. The other process compares these with the reference and gives the marks. Nothing in the
student's process knows an answer, and nothing of the student's is executed or unpickled outside.

The way of a submission through the modules: ``intake`` (what was handed in, matched with the release),
``sandbox`` and ``inside`` (run it, ask it), ``marking`` (compare), ``report`` and ``gradebook`` (tell).
"""

from __future__ import annotations

from rnnlib.classroom.questions import ask

__all__ = ["ask"]
