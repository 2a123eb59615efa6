"""Set-up shared by all tests: deterministic Hypothesis, GPU skips, the record of agreement."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import Agreement

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "rnnlib",
    deadline=None,  # no timed tests
    derandomize=True,  # the same examples on every machine
    database=None,
    max_examples=int(os.environ.get("RNNLIB_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("rnnlib")

_agreement = Agreement()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-agreement",
        metavar="FILE",
        help="write the worst error found, by function and reference, to this JSON file",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _turn(item: pytest.Item) -> int:
    """The longest first: the build and the notebooks. The pages last, when the build they need is there."""
    if item.path.suffix == ".ipynb":
        return 1
    browser = ("test_pages.py", "test_site.py", "test_audit.py", "test_sampler.py", "test_run.py")
    return 0 if item.path.name == "test_book.py" else 3 if item.path.name in browser else 2


@pytest.fixture(scope="session")
def agree() -> Agreement:
    """Asserts that a result agrees with a reference, and remembers the worst error."""
    return _agreement


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist hands in what it found (nothing, if it crashed)."""
    _agreement.add(getattr(node, "workeroutput", {}).get("agreement", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = getattr(session.config, "workeroutput", None)
    if worker is not None:
        worker["agreement"] = _agreement.rows()
        return
    path = session.config.getoption("--record-agreement")
    if path:
        Path(path).write_text(json.dumps(_agreement.rows(), indent=1) + "\n", encoding="utf-8")
