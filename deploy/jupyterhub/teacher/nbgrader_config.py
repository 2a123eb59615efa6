"""For the teacher: where the course lies. ``classroom release`` and ``classroom grade`` write into it."""

import os

c = get_config()  # noqa: F821  (Jupyter puts it there)
c.CourseDirectory.root = os.path.expanduser(f"~/{os.environ['CLASSROOM_COURSE']}")
if os.environ.get("DATABASE"):  # as for the grader
    c.CourseDirectory.db_url = os.environ["DATABASE"].replace("postgresql://", "postgresql+psycopg://")
