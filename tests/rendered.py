"""What the tests of the book's pages share: how it is built, and how a browser shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.support import load_module

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BIN = Path(sys.executable).parent


def jupyter_book(source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build a book strictly: any warning fails it."""
    command = [BIN / "jupyter-book", "build", source, "-W", "-n", "--keep-going", *options]
    # The coverage of the tests must not leak into the notebooks' kernels.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=1500)


CHROMIUM = load_module(ROOT / "tools" / "chromium.py").PATH
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def typeset(page):
    """Wait for MathJax; the number of equations in the source, typeset, and in error."""
    page.wait_for_function("window.MathJax === undefined || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")
    return page.evaluate(
        """() => ['.math', '.math mjx-container', 'mjx-merror, [data-mjx-error]']
               .map(s => document.querySelectorAll(s).length)"""
    )


def parse(text: str) -> tuple[ElementTree.Element, list[str]]:
    """A page, and in it what the HTML standard calls a parse error, and ids that stand twice."""
    import html5lib

    parser = html5lib.HTMLParser(namespaceHTMLElements=False)
    tree = parser.parse(text)
    lines = text.splitlines()
    found = [
        f"line {place[0]}: {code} {data.get('name', '')}: {lines[place[0] - 1].strip()[:150]}"
        for place, code, data in parser.errors
    ]
    ids = Counter(e.get("id") for e in tree.iter() if e.get("id"))
    return tree, found + [f"the id {name} stands {n} times" for name, n in ids.items() if n > 1]
