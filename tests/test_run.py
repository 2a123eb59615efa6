"""The book taken elsewhere: one notebook downloaded, a chapter opened on a server, all pages on paper."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from pypdf import PdfReader

from tests.conftest import ROOT
from tests.rendered import CHROMIUM, jupyter_book

pytestmark = pytest.mark.book


def test_a_downloaded_notebook_runs_alone(built, tmp_path):
    """In an empty folder, with the package installed and nothing of the repository beside it."""
    name = "01_vanilla_rnn.ipynb"
    shutil.copy(built / "_sources" / "notebooks" / name, tmp_path)
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", name]
    result = subprocess.run(
        [*command, "--output", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A book of two pages, one of them a notebook, with the launch buttons set as book/run.md says."""
    folder = tmp_path_factory.mktemp("book")
    for name in ("book/_ext", "book/assets"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("requirements.lock", "book/references.bib"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "rnnlib").symlink_to(ROOT / "rnnlib")
    told = re.search(r"```yaml\n(.*?)```", (ROOT / "book" / "run.md").read_text(encoding="utf-8"), re.S)
    setting = re.sub(r"<owner>/<repository>", "someone/the-book", told[1])
    setting = setting.replace("<your university>", "example.org")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"]["html_theme_options"] |= yaml.safe_load(setting)
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    toc = {
        "format": "jb-book",
        "root": "first",
        "parts": [{"caption": "A part", "chapters": [{"file": "second"}]}],
    }
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    (folder / "first.md").write_text(
        "# The first page\n\nRead [the second](second.ipynb), or [its end](#the-end).\n\n"
        "$$ E = m c^2 $$\n\n```{exercise}\n:label: ex\nWhy?\n```\n\n"
        "```{solution} ex\n:class: dropdown\nBecause the solution is open.\n```\n",
        encoding="utf-8",
    )
    wide = " + ".join(f"x_{{{i}}}" for i in range(60))
    cells = [
        nbformat.v4.new_markdown_cell(f"# The second page\n\nWide:\n\n$$ {wide} $$"),
        nbformat.v4.new_code_cell(
            "from rnnlib import plotting\n\n\ndef draw(n):\n    fig, ax = plotting.figure()\n"
            "    ax.plot([0, n])\n    return fig\n\n\n"
            "plotting.slider(draw, [1, 2], label='turn me', alt='A line', say=lambda n: f'rises by {n}')",
            metadata={"tags": ["hide-input"]},
        ),
        nbformat.v4.new_markdown_cell("(the-end)=\n## The end\n\nThat was all."),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "second.ipynb")
    result = jupyter_book(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_one_setting_gives_every_chapter_its_launch_buttons(small):
    page = (small / "_build" / "html" / "second.html").read_text(encoding="utf-8")
    place = "someone/the-book"
    for server, address in {
        "Binder": f"https://mybinder.org/v2/gh/{place}/main?urlpath=lab/tree/second.ipynb",
        "Colab": f"https://colab.research.google.com/github/{place}/blob/main/second.ipynb",
        "JupyterHub": "https://hub.example.org/hub/user-redirect/git-pull?",
    }.items():
        assert f'<a href="{address}' in page, f"no button for {server}"
    assert "fa-rocket" in page


def test_without_the_setting_there_are_none(built):
    page = (built / "notebooks" / "01_vanilla_rnn.html").read_text(encoding="utf-8")
    assert "fa-rocket" not in page


@pytest.fixture(scope="module")
def pdf(small):
    if CHROMIUM is None and not os.environ.get("RNNLIB_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on this machine: nothing can be printed")
    target = small / "book.pdf"
    command = [sys.executable, ROOT / "tools" / "make_pdf.py", small / "_build" / "html", target]
    result = subprocess.run([*command, "--root", small], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return PdfReader(target)


class TestThePrintedBook:
    def test_has_a_title_contents_and_each_page(self, pdf):
        texts = [page.extract_text() for page in pdf.pages]
        assert len(texts) == 4, texts
        assert "From Equation to Code" in texts[0]
        assert re.search(
            r"The first page\s+3\b[\s\S]*A part\s+The second page\s+4\b[\s\S]*The end\s+4\b", texts[1]
        )
        assert texts[2].strip().endswith("3") or "\n3\n" in texts[2]
        assert {(float(p.mediabox.width) // 1, float(p.mediabox.height) // 1) for p in pdf.pages} <= {
            (594, 841),
            (595, 842),
            (595, 841),
        }

    def test_solutions_are_open_and_sliders_stand_still(self, pdf):
        texts = [page.extract_text() for page in pdf.pages]
        assert "Because the solution is open." in texts[2]
        assert "rises by 1" in texts[3]
        assert "turn me" not in texts[3]
        assert "plotting" not in texts[3], "code that only draws is left out"

    def test_has_an_outline_and_running_heads(self, pdf):
        first, part, children = pdf.outline
        assert (first.title, part.title) == ("The first page", "A part")
        assert [item.title for item in children if not isinstance(item, list)] == ["The second page"]
        assert "The second page" in pdf.pages[3].extract_text().splitlines()[0]
        assert pdf.metadata.title == "From Equation to Code"

    def test_links_lead_to_pages_of_the_book(self, pdf):
        targets = [a.get_object().get("/Dest") for a in pdf.pages[2]["/Annots"]]
        assert "/second" in targets
        assert any("the-end" in str(target) for target in targets)

    def test_equations_are_typeset_and_fit(self, pdf):
        """No TeX is left, and no glyph stands beyond the right margin of 20 mm."""
        right = []

        def visit(text, cm, tm, font, size):
            if text.strip():
                right.append(cm[0] * tm[4] + cm[2] * tm[5] + cm[4])

        for page in pdf.pages:
            assert "\\" not in page.extract_text(visitor_text=visit)
        assert max(right) < (210 - 20) * 72 / 25.4
