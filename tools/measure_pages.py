"""Measure the built pages in Chromium: what each loads, and when its first content shows.

    python tools/measure_pages.py _build/html

One line per page: the median time to the first contentful paint over some loads, each with an empty
cache, from the loopback device, with the processor slowed down four times; the requests; and the bytes
by kind, as they are and (last column) all together as a server with gzip sends them.
"""

import argparse
import functools
import gzip
import http.server
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromium
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("document", "stylesheet", "script", "font", "image", "other")
PACKED = {"font", "image"}
"""What is compressed already."""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the pages and says nothing."""

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a local port."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def settle(page: Page) -> None:
    """Wait until the equations are typeset and their fonts are there."""
    page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_load_state("networkidle")


def weigh(page: Page, url: str) -> tuple[int, dict[str, int], int]:
    """What a page loads by itself: requests, bytes by kind, bytes in all when a server uses gzip."""
    responses: list[Any] = []
    page.on("response", lambda response: responses.append(response))
    page.goto(url)
    settle(page)
    return weight(responses)


def weight(responses: list[Any]) -> tuple[int, dict[str, int], int]:
    """The same, from all responses that a page has got."""
    size, packed = dict.fromkeys(KINDS, 0), 0
    for response in responses:
        body, kind = response.body(), response.request.resource_type
        size[kind] += len(body)
        packed += len(body) if kind in PACKED else len(gzip.compress(body, 6))
    return len(responses), size, packed


def first_paint(browser: Browser, url: str, runs: int) -> float:
    """The median time in seconds to the first contentful paint."""
    times = []
    for _ in range(runs):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.set_default_timeout(0)  # a busy machine is slow, and that is what is measured
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.goto(url, wait_until="commit")  # the paint comes long before the end of the load
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
        entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        times.append(page.evaluate(entry) / 1000)
        context.close()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the built pages")
    parser.add_argument("pages", nargs="*", help="names of pages; all of the table of contents if none")
    parser.add_argument("--runs", type=int, default=5, help="loads per page for the time")
    arguments = parser.parse_args()
    if not arguments.pages:
        sys.path.insert(0, str(ROOT / "book" / "_ext"))
        import sources

        arguments.pages = sources.toc_documents(ROOT)
    print(
        f"{'page':44} paint s  requests "
        + " ".join(f"{kind[:8]:>8}" for kind in KINDS)
        + "   all kB  gzip kB"
    )
    with served(arguments.site) as address, sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for name in arguments.pages:
            url = f"{address}/{name}.html"
            page = browser.new_page()
            requests, size, packed = weigh(page, url)
            page.close()
            kilobytes = " ".join(f"{size[kind] / 1000:8.0f}" for kind in KINDS)
            paint = first_paint(browser, url, arguments.runs)
            total = sum(size.values()) / 1000
            print(
                f"{name:44} {paint:7.2f} {requests:9} {kilobytes} {total:8.0f} {packed / 1000:8.0f}",
                flush=True,
            )
        browser.close()


if __name__ == "__main__":
    main()
