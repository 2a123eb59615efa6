"""What is left out of a page: styles that nothing uses, marks that nobody sees, scripts ahead of the text."""

from __future__ import annotations

import re
import sys

import pytest
import tinycss2
from sphinx.errors import ExtensionError
from sphinx.highlighting import PygmentsBridge

from tests.conftest import ROOT


@pytest.fixture
def lighten(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.delitem(sys.modules, "lighten", raising=False)
    import lighten

    return lighten


@pytest.fixture
def pruned(lighten, tmp_path):
    """What is left of a style sheet in a folder with one page and one script."""
    (tmp_path / "page.html").write_text("<p class='note wide' id=\"top\">text, called unseen</p>")
    (tmp_path / "made.js").write_text("e.classList.add('open', `bs-${kind}`, `${kind}-preview`); // -1 - --")
    names, composed = lighten.names_in_use(tmp_path)

    def prune(text):
        rules = tinycss2.parse_stylesheet(text, skip_whitespace=True)
        return re.sub(r"\s+", "", lighten.prune(rules, names, composed))

    return prune


@pytest.mark.parametrize(
    "kept",
    [
        "p{color:red}",
        ".note{color:red}",
        ".note.wide>p:hover{color:red}",
        "#top{color:red}",
        ".open{color:red}",
        ".bs-tooltip{color:red}",
        ".term-preview{color:red}",
        ":not(.unseen){color:red}",
        "[data-unseen]{color:red}",
        "/*!licence*/",
        "@media(width>3px){.note{color:red}}",
        "@font-face{font-family:unseen}",
        "@keyframesunseen{0%{top:0}}",
        'p::after{content:".unseen,.unseen"}',
    ],
)
def test_a_style_that_may_be_used_is_kept(pruned, kept):
    assert pruned(kept.replace("@media(", "@media (").replace("@keyframes", "@keyframes ")) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (".unseen{color:red}", ""),
        ("#unseen{color:red}", ""),
        (".note .unseen{color:red}", ""),
        ("p.unseen,.note,#unseen{color:red}", ".note{color:red}"),
        ("/* a remark */", ""),
        ("@media (width > 3px){.unseen{color:red}}", ""),
        ("@supports (x:y){.unseen{color:red}p{top:0}}", "@supports(x:y){p{top:0}}"),
    ],
)
def test_a_style_that_nothing_uses_is_dropped(pruned, given, kept):
    assert pruned(given) == kept


def test_a_style_sheet_that_cannot_be_read_fails_the_build(pruned):
    with pytest.raises(ExtensionError, match="a style sheet cannot be read"):
        pruned("p{color:red} }")


def test_code_marks_only_what_looks_different(lighten, monkeypatch):
    monkeypatch.setattr(PygmentsBridge, "html_formatter", lighten.PlainWordsPlain)
    shown = PygmentsBridge("html").highlight_block("def f(a):\n    return a.T + 1  # why\n", "python")
    assert re.sub(r"<[^>]*>", "", shown).strip() == "def f(a):\n    return a.T + 1  # why"
    marked = re.findall(r'<span class="(\w+)">([^<]+)</span>', shown)
    words = [("k", "def"), ("nf", "f"), ("k", "return"), ("o", "+"), ("mi", "1"), ("c1", "# why")]
    assert [mark for mark in marked if mark[1] != "."] == words


def test_scripts_wait_but_not_on_the_search_page(lighten):
    plain = {
        "a": '<script src="a.js"></script>',
        "o": '<script src="documentation_options.js"></script>',
        "d": '<script data-x="1" src="d.js"></script>',
        "m": '<script defer="defer" src="m.js"></script>',
        "i": "<script>let x;</script>",
    }

    def written(pagename):
        context = {"js_tag": plain.get}
        lighten.defer_scripts(None, pagename, "page.html", context, None)
        return {name: context["js_tag"](name) for name in plain}

    assert written("search") == plain
    assert written("book/index") == plain | {
        "a": '<script defer src="a.js"></script>',
        "d": '<script defer data-x="1" src="d.js"></script>',
    }
