"""Where there is no sandbox, tests that need one are skipped; in CI they fail."""

from __future__ import annotations

import os

import pytest

from rnnlib.classroom import sandbox
from rnnlib.classroom.assignment import Assignment, load
from tests.classroom import students


@pytest.fixture(scope="session")
def room() -> None:
    """A sandbox can be had."""
    try:
        sandbox.require()
    except sandbox.SandboxMissing as missing:
        if os.environ.get("RNNLIB_REQUIRE_SANDBOX"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def small_source(tmp_path_factory):
    return students.write_source(tmp_path_factory.mktemp("source") / "small.ipynb", students.SMALL)


@pytest.fixture(scope="session")
def small(small_source) -> Assignment:
    return load(small_source)


@pytest.fixture(scope="session")
def chapter_1() -> Assignment:
    return load(students.CHAPTER_1)
