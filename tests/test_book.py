"""The strict build, and what the built pages hold."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from rnnlib import equations
from tests.conftest import ROOT
from tests.rendered import HTML, jupyter_book
from tests.support import book_sources, labelled_equations

pytestmark = pytest.mark.book

PAGES = book_sources.toc_documents(ROOT)
NOTEBOOKS = [name for name in PAGES if name.startswith("notebooks/")]
EQUATIONS = labelled_equations(ROOT)


@pytest.mark.parametrize("docname", PAGES)
def test_every_page_of_the_table_of_contents_is_built(built, docname):
    page = built / f"{docname}.html"
    assert page.exists(), f"{docname}: no page was built"
    assert "<h1>" in page.read_text(encoding="utf-8"), f"{docname}: the page has no title"


def test_the_front_door_leads_to_the_welcome_page(built):
    assert "book/index.html" in (built / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("label", sorted(EQUATIONS))
def test_every_labelled_equation_stands_on_its_page_with_its_function_below(pages, label):
    docname = EQUATIONS[label].docname
    page = pages[HTML / f"{docname}.html"]
    assert page.find(f".//*[@id='equation-{label}']") is not None, f"{docname}: {label} is not on the page"
    function = equations.equation(label).qualified_name
    links = [a.get("href", "") for a in page.iter("a")]
    assert any(link.endswith(f"#{function}") for link in links), f"{docname}: no link to {function}"


def test_the_equation_index_lists_the_whole_registry(built):
    text = (built / "book" / "equation_index.html").read_text(encoding="utf-8")
    for label, entry in equations.index().items():
        assert label in text, f"the index lacks {label}"
        module = entry.function.__module__.replace(".", "/")
        assert f"_modules/{module}.html#{entry.function.__qualname__}" in text, f"no source for {label}"


def test_every_link_and_anchor_within_the_book_works(pages):
    ids = {
        path: {e.get("id") for e in page.iter() if e.get("id")} | {e.get("name") for e in page.iter("a")}
        for path, page in pages.items()
    }
    broken = []
    for path, page in pages.items():
        for element in page.iter():
            for attribute in ("href", "src"):
                url = element.get(attribute)
                if not url or urlsplit(url).scheme or url.startswith("//"):
                    continue
                parts = urlsplit(url)
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                if target.is_dir():
                    target = target / "index.html"
                anchor = unquote(parts.fragment)
                if not target.exists():
                    broken.append(f"{path.relative_to(HTML)}: {url}: no such file")
                elif anchor and target in ids and anchor not in ids[target] | {"top"}:
                    broken.append(f"{path.relative_to(HTML)}: {url}: no such anchor")
    assert not broken, "\n".join(broken)


def test_no_page_asks_another_host_for_anything(pages, built):
    """Links that a reader may click are fine; what a page loads by itself must come with it."""
    loads = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
    found = []
    for path, page in pages.items():
        for element in page.iter():
            url = element.get(loads.get(element.tag, ""), "") or ""
            if element.tag == "link" and element.get("rel") in {"canonical", "author", "license"}:
                continue
            if re.match(r"(https?:)?//", url):
                found.append(f"{path.relative_to(HTML)}: <{element.tag}> {url}")
        for style in page.iter("style"):
            if re.search(r"url\(['\"]?(https?:)?//|@import", style.text or ""):
                found.append(f"{path.relative_to(HTML)}: a style loads from another host")
    for sheet in built.rglob("*.css"):
        for url in re.findall(
            r"(?:url\(|@import\s)['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text("utf-8")
        ):
            found.append(f"{sheet.relative_to(HTML)}: {url}")
    assert not found, "\n".join(found)


def test_every_figure_has_a_description(pages):
    for docname in PAGES:
        page = pages[HTML / f"{docname}.html"]
        for svg in page.iter("{http://www.w3.org/2000/svg}svg"):
            if svg.get("class") == "rnnlib-figure":
                assert len(svg.get("aria-label", "")) > 40, f"{docname}: a figure has no description"
        for image in page.iter("img"):
            assert image.get("alt") is not None, f"{docname}: {image.get('src')} has no alt text"


def test_ids_are_unique_within_the_figures_of_a_page(pages):
    for path, page in pages.items():
        seen: set[str] = set()
        for svg in page.iter("{http://www.w3.org/2000/svg}svg"):
            for element in svg.iter():
                if element.get("id"):
                    assert element.get("id") not in seen, f"{path}: id {element.get('id')} twice"
                    seen.add(element.get("id"))


class TestTheBuildRefuses:
    """What is broken fails the build, with the name of the file and what is wrong."""

    @pytest.fixture
    def book(self, tmp_path):
        shutil.copy(ROOT / "_config.yml", tmp_path)
        for folder in ("book/_ext", "book/assets"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        for name in ("requirements.lock", "book/references.bib", "book/agreement.json"):
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / "rnnlib").symlink_to(ROOT / "rnnlib")
        (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
        return tmp_path

    def fails(self, book, *told):
        result = jupyter_book(book)
        output = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)
        assert result.returncode != 0, "the build passed"
        for text in told:
            assert text in output, f"the build failed, but said nothing of {text!r}:\n{output[-3000:]}"

    def write_notebook(self, book, *cells):
        notebook = nbformat.v4.new_notebook(cells=list(cells))
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, book / "page.ipynb")

    def test_a_notebook_that_raises(self, book):
        self.write_notebook(
            book,
            nbformat.v4.new_markdown_cell("# Page"),
            nbformat.v4.new_code_cell("assert 1 == 2, 'the claim is wrong'"),
        )
        self.fails(book, "page.ipynb", "the claim is wrong")

    def test_a_warning_in_a_notebook(self, book):
        self.write_notebook(
            book,
            nbformat.v4.new_markdown_cell("# Page"),
            nbformat.v4.new_code_cell("import warnings; warnings.warn('old')"),
        )
        self.fails(book, "page.ipynb", "stderr")

    def test_references_to_nothing(self, book):
        (book / "page.md").write_text("# Page\n\n{eq}`eq-none`, {cite}`nobody1900`, {numref}`fig-none`.\n")
        self.fails(book, "page.md", "eq-none", "nobody1900", "fig-none")


def stale_outputs(stored, executed):
    """The checked cells of a notebook whose stored output is not what running the notebook printed."""
    assert [cell.source for cell in stored.cells] == [cell.source for cell in executed.cells]
    return [
        f"cell {i} printed\n{printed}\nand the notebook says\n{said}"
        for i, (cell, ran) in enumerate(zip(stored.cells, executed.cells, strict=True))
        if "nbval-check-output" in cell.metadata.get("tags", [])
        and (said := streams(cell)) != (printed := streams(ran))
    ]


def streams(cell):
    """What a cell printed: text, by stream. A checked cell prints, and shows nothing else."""
    assert all(output.output_type == "stream" for output in cell.outputs), cell.source
    shown = {}
    for output in cell.outputs:
        shown[output.name] = shown.get(output.name, "") + output.text
    return shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_what_the_build_computed(built, name):
    """The build runs every cell and fails on an error or a warning: one run of the notebooks is enough."""
    stored = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    executed = nbformat.read(ROOT / "_build" / "jupyter_execute" / f"{name}.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    stale = stale_outputs(stored, executed)
    assert not stale, f"{name}.ipynb, run make outputs:\n" + "\n".join(stale)


@pytest.mark.parametrize(
    ("printed", "told"), [(["42\n"], 0), (["4", "2\n"], 0), (["41\n"], 1), ([], 1), (["42\n", "42\n"], 1)]
)
def test_a_stale_output_is_seen(printed, told):
    def notebook(texts, tags):
        cell = nbformat.v4.new_code_cell("print(6 * 7)", metadata={"tags": tags})
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Page"), cell])

    found = stale_outputs(notebook(["42\n"], ["nbval-check-output"]), notebook(printed, []))
    assert len(found) == told
    assert all("cell 1" in text and "42" in text for text in found)
    assert stale_outputs(notebook([], []), notebook(printed, [])) == []


class TestTheCacheOfTheNotebooks:
    """Notebooks are run again when the lock or the package changes."""

    @pytest.fixture
    def rnnbook(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
        import rnnbook

        shutil.copytree(ROOT / "rnnlib", tmp_path / "rnnlib", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
        shutil.copy(ROOT / "requirements.lock", tmp_path)
        monkeypatch.setattr(rnnbook, "ROOT", tmp_path)
        return rnnbook

    @pytest.mark.parametrize(
        "changed",
        ["requirements.lock", "rnnlib/vanilla.py", "rnnlib/data/sunspots.csv", "experiments/speech.json"],
    )
    def test_its_key_changes(self, rnnbook, tmp_path, changed):
        before = rnnbook.cache_key()
        assert rnnbook.cache_key() == before
        (tmp_path / changed).write_text((tmp_path / changed).read_text() + "\n")
        assert rnnbook.cache_key() != before


def test_every_exercise_has_a_solution_that_is_folded_on_the_page_and_in_jupyterlab():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        exercises, solutions, within = [], [], False
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                exercises += re.findall(r"\{exercise-start\}.*\n:label: (\S+)", source)
                solutions += re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", source)
                opened, closed = source.rfind("{solution-start}"), source.rfind("{solution-end}")
                within = opened > closed or (within and opened == closed)
            elif within:
                hidden = cell["metadata"].get("jupyter", {})
                assert hidden == {"source_hidden": True, "outputs_hidden": True}, f"{path.name}, cell {i}"
        least = 2 if path.name.startswith("appendix") else 4
        assert least <= len(exercises) <= 6, f"{path.name}: {len(exercises)} exercises"
        assert solutions == exercises, f"{path.name}: every exercise has one solution, in order"


def lesson_cells(path):
    """The code cells of a notebook that do not belong to a solution, with their numbers."""
    within = False
    for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            opened, closed = source.rfind("{solution-start}"), source.rfind("{solution-end}")
            within = opened > closed or (within and opened == closed)
        elif not within:
            yield i, cell, source


def test_no_line_of_code_in_view_is_longer_than_the_column():
    """82 letters, as ruff formats them; what ruff cannot break is broken by hand."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for i, cell, source in lesson_cells(path):
            if "hide-input" not in cell["metadata"].get("tags", []):
                long = [line for line in source.splitlines() if len(line) > 82]
                assert not long, f"{path.name}, cell {i}: {long}"


FOLDS = {f"Show the {what}": f"Hide the {what}" for what in ("check", "training", "experiment")}


def test_no_wall_of_checks_or_of_training_interrupts_a_lesson(pages):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        folded, plain = Counter(), 0
        for i, cell, source in lesson_cells(path):
            where, own = f"{path.name}, cell {i}", cell["metadata"].get("mystnb", {})
            hidden = "hide-input" in cell["metadata"].get("tags", [])
            if show := own.get("code_prompt_show"):
                assert hidden, f"{where}: {show} without the tag hide-input"
                assert own["code_prompt_hide"] == FOLDS[show], where
                folded[show] += 1
            elif not hidden and not cell["outputs"]:
                length = len(source.splitlines())
                plain += length
                checks = re.search(r"^assert", source, re.M)
                assert not checks or length <= 24, f"{where}: fold it, it only checks"
                assert ".fit(" not in source, f"{where}: fold the training"
        assert plain <= 150, f"{path.name}: {plain} lines of code in view that show nothing"
        page = pages[HTML / "notebooks" / f"{path.stem}.html"]
        folds = [e for e in page.iter("details") if "hide" in (e.get("class") or "").split()]
        shown = Counter(" ".join(fold.find("summary/p").itertext()).strip() for fold in folds)
        assert folded == {show: n for show, n in shown.items() if show in FOLDS}, path.name
        assert not [fold for fold in folds if fold.get("open") is not None]


def test_the_stored_outputs_are_those_of_checked_cells():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            tags = set(cell["metadata"].get("tags", []))
            checked = "nbval-check-output" in tags
            where = f"{path.name}, cell {i}"
            assert ("keep_output" in tags) == checked, (
                f"{where}: the tags keep_output and nbval-check-output go together"
            )
            if cell["cell_type"] == "code":
                assert bool(cell["outputs"]) == checked, f"{where}: run make outputs"
                assert not tags & {"nbval-skip", "raises-exception", "skip-execution"}, f"{where}: {tags}"
