"""For the teacher: where the course lies. ``classroom release`` and ``classroom grade`` write into it."""

import os

from nbconvert.exporters import NotebookExporter


class NotThisWay(NotebookExporter):
    """Stops ``nbgrader autograde``, and the button that calls it, before it has begun.

    It would run strangers' code with the teacher's rights, and put its marks over those of the grader.
    """

    def __init__(self, **kwargs):
        """Refuse."""
        raise RuntimeError("nbgrader's Autograde is off here. In a terminal: classroom grade --help")


c = get_config()  # noqa: F821  (Jupyter puts it there)
c.CourseDirectory.root = os.path.expanduser(f"~/{os.environ['CLASSROOM_COURSE']}")
c.Autograde.exporter_class = NotThisWay
if os.environ.get("DATABASE"):  # as for the grader
    c.CourseDirectory.db_url = os.environ["DATABASE"].replace("postgresql://", "postgresql+psycopg://")
