"""Set-up shared by all tests: deterministic Hypothesis, GPU skips, the record of agreement."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, settings

from tests.rendered import ARGUMENTS, CHROMIUM, HTML, ROOT, jupyter_book, parse
from tests.support import Agreement, load_module

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
    of_pages = {item.path for item in items if "built" in getattr(item, "fixturenames", ())}
    visited = list(dict.fromkeys(_visited(item) for item in items))
    items.sort(key=lambda item: (_turn(item, of_pages), visited.index(_visited(item))))
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _visited(item: pytest.Item) -> str | None:
    """The page of a test that takes its turn on a visit (see ``test_pages.py``)."""
    return item.callspec.params.get("visit") if hasattr(item, "callspec") else None


def _turn(item: pytest.Item, of_pages: set[Path]) -> int:
    """The longest first: the build, the assignments and the classroom. The pages when the build is there.

    Workers take whole files in this order, and the visits last, one after the other, so that both workers
    end together.
    """
    if item.path.name == "test_book.py":
        return 0
    if item.path in of_pages:
        return 4 if _visited(item) else 3
    return 1 if item.path.suffix == ".ipynb" or "classroom" in item.path.parts else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile`` a worker takes a whole file, but of the visits one at a time."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Visits(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            visit = re.fullmatch(r"tests/test_pages\.py::\w+\[(.+)\]", nodeid)
            return visit[1] if visit else super()._split_scope(nodeid)

    return Visits(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Coverage is of the package, which tests of the pages do not run; it would slow them down."""
    coverage = getattr(item.config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
    if coverage is None or not item.get_closest_marker("book"):
        return (yield)
    coverage.pause()
    try:
        return (yield)
    finally:
        coverage.resume()


# --- the built pages --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Path:
    """A folder of all workers of this run: the first to need a thing makes it there, the others wait."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def built(shared) -> Path:
    """The folder of the built pages. The build is strict: any warning fails it."""
    from filelock import FileLock

    outcome = shared / "build.txt"
    with FileLock(shared / "build.lock"):
        if not outcome.exists():
            result = jupyter_book(ROOT)
            lines = (result.stdout + result.stderr).splitlines()
            told = [line for line in lines if re.search(r"WARNING|ERROR|Error", line)]
            told = [line for line in told if "IPKernelApp" not in line] or lines[-30:]
            outcome.write_text("" if result.returncode == 0 else "\n".join(told), encoding="utf-8")
    told = outcome.read_text(encoding="utf-8")
    if told:
        pytest.fail("the strict build failed:\n" + told, pytrace=False)
    return HTML


@pytest.fixture(scope="session")
def parsed(built, shared) -> dict[Path, tuple[ElementTree.Element, list[str]]]:
    """Every built page, parsed, and what is wrong with its markup. The parser takes its time."""
    from filelock import FileLock

    kept = shared / "pages.pickle"
    with FileLock(shared / "pages.lock"):
        if not kept.exists():
            paths = [path for path in built.rglob("*.html") if "_static" not in path.parts]  # not templates
            whole = {path: parse(path.read_text(encoding="utf-8")) for path in paths}
            kept.write_bytes(pickle.dumps(whole))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def pages(parsed) -> dict[Path, ElementTree.Element]:
    return {path: page for path, (page, _) in parsed.items()}


@pytest.fixture(scope="session")
def site(built):
    """The address of the built book on a local port."""
    measure_pages = load_module(ROOT / "tools" / "measure_pages.py")
    with measure_pages.served(built) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """Chromium without a network."""
    if CHROMIUM is None:
        message = "no Chromium on this machine: the pages cannot be looked at"
        if os.environ.get("RNNLIB_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opener(browser) -> Iterator[Callable[..., Any]]:
    """Opens pages, each in a context of its own, and collects every complaint of the browser."""
    contexts = []

    def open_(url, width=1280, theme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.responses = [], []
        page.on("response", lambda response: page.responses.append(response))
        page.on(
            "console", lambda m: page.complaints.append(m.text) if m.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda e: page.complaints.append(str(e)))
        page.on("requestfailed", lambda r: page.complaints.append(f"failed: {r.url}"))
        page.on(
            "response", lambda r: page.complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None
        )
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(browser):
    with opener(browser) as open_:
        yield open_


# --- agreement ----------------------------------------------------------------------------------


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
