"""What the sources of the book say: the pages, their labelled equations, the tests of a label."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin


@dataclass(frozen=True)
class LabelledEquation:
    """A labelled equation where it stands."""

    label: str
    latex: str
    docname: str
    title: str
    cell: int | None


def toc_documents(root: Path) -> list[str]:
    """The documents of the table of contents, in reading order."""

    def walk(node: dict) -> Iterator[str]:
        if "file" in node:
            yield node["file"]
        for key in ("parts", "chapters", "sections"):
            for child in node.get(key, []):
                yield from walk(child)

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *walk({k: v for k, v in toc.items() if k != "root"})]


def source_path(root: Path, docname: str) -> Path:
    """The file of a document.

    Raises:
        FileNotFoundError: the table of contents names a page that does not exist.
    """
    for suffix in (".ipynb", ".md"):
        if (path := root / (docname + suffix)).exists():
            return path
    raise FileNotFoundError(f"_toc.yml names {docname}, but there is no {docname}.ipynb and no {docname}.md")


def markdown_cells(path: Path) -> Iterator[tuple[int | None, str]]:
    """The markdown of a page: (cell number, text) of a notebook, (None, text) of a markdown file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield None, text
        return
    for i, cell in enumerate(json.loads(text)["cells"]):
        if cell["cell_type"] == "markdown":
            yield i, "".join(cell["source"])


def _equations_in(text: str) -> Iterator[tuple[str, str]]:
    parser = MarkdownIt("commonmark").use(dollarmath_plugin, allow_labels=True).use(colon_fence_plugin)
    for token in parser.parse(text):
        if token.type == "math_block_label":
            yield token.info.strip(), token.content.strip()
        elif token.type in {"fence", "colon_fence"}:
            if token.info.strip().startswith("{math}"):
                label = re.search(r"^:label:\s*(\S+)\s*$", token.content, re.M)
                if label:
                    yield label[1], re.sub(r"^:\w+:.*$", "", token.content, flags=re.M).strip()
            elif token.info.strip().startswith("{"):
                yield from _equations_in(token.content)  # equations inside a directive


def labelled_equations(root: Path) -> dict[str, LabelledEquation]:
    """Every labelled equation of the book, in reading order.

    Raises:
        ValueError: a label stands twice.
    """
    found: dict[str, LabelledEquation] = {}
    for docname in toc_documents(root):
        path = source_path(root, docname)
        cells = list(markdown_cells(path))
        heading = next((m[1] for _, text in cells if (m := re.search(r"^# (.+)$", text, re.M))), docname)
        for cell, text in cells:
            for label, latex in _equations_in(text):
                if label in found:
                    raise ValueError(f"label {label} stands in {found[label].docname} and in {docname}")
                found[label] = LabelledEquation(label, latex, docname, heading.strip(), cell)
    return found


def tests_by_label(root: Path) -> dict[str, list[str]]:
    """The tests marked ``@pytest.mark.equation("eq-…")``, by label."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.equation":
                    for argument in decorator.args:
                        label = ast.literal_eval(argument)
                        found.setdefault(label, []).append(f"{path.name}::{node.name}")
    return found
