"""For teacher and students alike: which course, and where work is handed over."""

import os

c = get_config()  # noqa: F821  (Jupyter puts it there)
c.CourseDirectory.course_id = os.environ["CLASSROOM_COURSE"]
c.Exchange.root = os.environ["CLASSROOM_EXCHANGE"]
c.Exchange.timezone = "UTC"
