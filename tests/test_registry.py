"""The registry, the pages and the tests, held together in every direction."""

from __future__ import annotations

import inspect
import json

import pytest

from rnnlib import equations
from tests.conftest import ROOT
from tests.support import book_sources, labelled_equations

ON_PAGES = labelled_equations(ROOT)
TESTED = book_sources.tests_by_label(ROOT)


@pytest.mark.parametrize("label", sorted(ON_PAGES))
def test_every_labelled_equation_is_implemented(label):
    page = ON_PAGES[label]
    where = f"{page.docname}" + (f", cell {page.cell}" if page.cell is not None else "")
    assert label in equations.index(), f"{where}: the equation {label} has no function in rnnlib"


@pytest.mark.parametrize("label", sorted(equations.index()))
def test_every_implemented_label_is_on_a_page(label):
    function = equations.equation(label).qualified_name
    assert label in ON_PAGES, f"{function} implements {label}, which is on no page of the book"


@pytest.mark.parametrize("label", sorted(equations.index()))
def test_every_implemented_label_has_a_test(label):
    function = equations.equation(label).qualified_name
    assert TESTED.get(label), (
        f"no test is marked @pytest.mark.equation({label!r}), which {function} implements"
    )


def test_every_label_named_by_a_test_exists():
    unknown = {label: tests for label, tests in TESTED.items() if label not in equations.index()}
    assert not unknown, f"tests name labels that no function implements: {unknown}"


@pytest.mark.parametrize("label", sorted(equations.index()))
def test_the_docstring_names_its_equation(label):
    function = equations.equation(label).function
    assert f":eq:`{label}`" in (inspect.getdoc(function) or ""), f"{function.__qualname__}: no :eq:`{label}`"


def test_every_reference_to_an_equation_in_a_docstring_exists():
    for label, entry in equations.index().items():
        for word in (inspect.getdoc(entry.function) or "").split(":eq:`")[1:]:
            named = word.split("`")[0]
            assert named in ON_PAGES, f"{entry.qualified_name} ({label}) refers to {named}, on no page"


def test_the_record_of_agreement_is_within_tolerance_and_names_functions_that_exist():
    import importlib

    rows = json.loads((ROOT / "book" / "agreement.json").read_text(encoding="utf-8"))
    assert rows, "book/agreement.json is empty: run make agreement"
    for row in rows:
        module, _, name = row["function"].partition(".")
        target = importlib.import_module(f"rnnlib.{module}")
        for part in name.split("(")[0].split("."):  # "unroll(GRUCell)" is unroll
            target = getattr(target, part)
        assert 0 <= row["worst_error"] < 0.2, row


class TestLabelsAreFound:
    """The reading of the sources finds what is there, and complains where it should."""

    @pytest.fixture
    def book(self, tmp_path):
        (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: page\n")
        (tmp_path / "index.md").write_text("# Home\n\n$$\na = b\n$$ (eq-one-a)\n")
        return tmp_path

    def test_in_dollars_in_directives_and_nested(self, book):
        (book / "page.md").write_text(
            "# Page\n\n```{math}\n:label: eq-one-b\nc = d\n```\n\n"
            "````{admonition} Title\n\n$$\ne\n$$ (eq-one-c)\n````\n\n$$\nf\n$$\n\n"
            "```python\n$$ x $$ (no)\n```\n"
        )
        found = book_sources.labelled_equations(book)
        assert {k: (v.latex, v.docname) for k, v in found.items()} == {
            "eq-one-a": ("a = b", "index"),
            "eq-one-b": ("c = d", "page"),
            "eq-one-c": ("e", "page"),
        }

    def test_in_notebooks_with_their_cell(self, book):
        cells = [
            {"cell_type": "code", "source": "1"},
            {"cell_type": "markdown", "source": ["# N\n", "\n", "$$\n", "g\n", "$$ (eq-one-n)"]},
        ]
        (book / "page.ipynb").write_text(json.dumps({"cells": cells}))
        entry = book_sources.labelled_equations(book)["eq-one-n"]
        assert (entry.cell, entry.title, entry.docname) == (1, "N", "page")

    def test_twice_is_an_error(self, book):
        (book / "page.md").write_text("# Page\n\n$$\nz\n$$ (eq-one-a)\n")
        with pytest.raises(ValueError, match="label eq-one-a stands in index and in page"):
            book_sources.labelled_equations(book)

    def test_a_missing_page_is_an_error(self, book):
        with pytest.raises(FileNotFoundError, match=r"_toc\.yml names page"):
            book_sources.labelled_equations(book)
