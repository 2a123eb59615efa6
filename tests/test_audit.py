"""Every reader can read every page: the audit by axe-core, the keyboard, no JavaScript, valid HTML, weight."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.conftest import ROOT
from tests.support import book_sources
from tests.test_book import built  # noqa: F401  (the fixture that builds)
from tests.test_pages import browser, open_page, site, typeset  # noqa: F401

pytestmark = pytest.mark.book

PAGES = [*book_sources.toc_documents(ROOT), "search", "genindex"]
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
COLOUR = ["color-contrast", "link-in-text-block"]
"""The rules that look at colours. They take their time, so they look at each kind of thing once."""
EXPERIMENTAL = ["css-orientation-lock", "label-content-name-mismatch", "p-as-heading", "td-has-header"]
"""Rules of WCAG that axe-core leaves out unless they are asked for."""

UNFOLD = """() => {
    document.querySelectorAll('details').forEach(d => d.open = true);
    document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
}"""
"""What is folded is read as well."""

THIN = """() => {
    const seen = new Set();
    const thin = (e, path) => {
        const row = e.tagName == 'TR' ? e.sectionRowIndex % 2 : '';
        path += '>' + e.tagName + row + '.' + e.getAttribute('class') + '|' + (e.getAttribute('style') ?? '');
        for (const child of [...e.children]) thin(child, path);
        if (e.childElementCount) return;
        if (seen.has(path)) e.remove(); else seen.add(path);
    };
    document.querySelectorAll('svg.rnnlib-figure').forEach(svg => svg.replaceChildren());  // no text of HTML
    thin(document.body, '');
    return seen.size;
}"""
"""Takes away what has the same tags, classes and styles, from the body down, as something before it."""


def violations(page, **options):
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{v['id']}: {' '.join(str(n['target']) for n in v['nodes'][:5])} ({len(v['nodes'])}): "
        + "; ".join(m["message"] for m in v["nodes"][0]["any"] + v["nodes"][0]["all"] + v["nodes"][0]["none"])
        for v in found
    ]


def audit(page):
    """Every violation of WCAG 2.2 at level AA, on a wide and a narrow screen, by day and by night."""
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    page.evaluate(UNFOLD)
    rules = {name: {"enabled": True} for name in EXPERIMENTAL} | {name: {"enabled": False} for name in COLOUR}
    found = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # the theme looks for what scrolls, a moment after a change of size
        told = violations(page, runOnly={"type": "tag", "values": WCAG}, rules=rules)
        found += [f"{width}: {text}" for text in told]
    assert page.evaluate(THIN) > 20, "there is nothing left to look at"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for theme in ("light", "dark"):
            page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
            found += [f"{width} {theme}: {text}" for text in violations(page, runOnly=COLOUR)]
    return found


@pytest.mark.parametrize("docname", PAGES)
def test_axe_finds_no_violation_of_wcag(site, open_page, docname):  # noqa: F811
    page = open_page(f"{site}/{docname}.html")
    typeset(page)
    found = audit(page)
    assert not found, f"{docname}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("<button></button>", "button-name"),
        ("<p style='color: #999; background: #fff'>pale</p>", "color-contrast"),
        ("<p style='color: #555; background: #121212'>dark</p>", "color-contrast"),
        ("<button aria-label='Search'>Look</button>", "label-content-name-mismatch"),
        ("<details><summary></summary>text</details>", "summary-name"),
        ("<details><summary>more</summary><p style='color:#999;background:#fff'>x</p></details>", "color-"),
        ("<div style='height:2em;overflow:auto;width:9em'>" + "line<br>" * 9 + "</div>", "scrollable-region"),
    ],
)
def test_the_audit_sees_what_is_wrong(site, open_page, planted, rule):  # noqa: F811
    page = open_page(f"{site}/book/index.html")
    page.evaluate("html => document.querySelector('article').insertAdjacentHTML('beforeend', html)", planted)
    found = audit(page)
    assert any(rule in text for text in found), found
