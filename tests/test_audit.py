"""Every reader can read every page: keyboard, screen reader, no JavaScript, valid HTML.

The audit of every page by axe-core is one of the tests of a visit, in ``test_pages.py``.
"""

from __future__ import annotations

import pytest

from tests.accessible import audit
from tests.conftest import ROOT
from tests.rendered import HTML, parse, typeset
from tests.support import book_sources

pytestmark = pytest.mark.book

PAGES = list(dict.fromkeys([*book_sources.toc_documents(ROOT), "search", "genindex"]))


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("<button></button>", "button-name"),
        ("<p style='color: #999; background: #fff'>pale</p>", "color-contrast"),
        ("<p style='color: #555; background: #121212'>dark</p>", "color-contrast"),
        ("<button aria-label='Search'>Look</button>", "label-content-name-mismatch"),
        ("<details><summary></summary>text</details>", "summary-name"),
        (
            "<details><summary>more</summary><p style='color:#999;background:#fff'>pale</p></details>",
            "color-",
        ),
        ("<div style='height:2em;overflow:auto;width:9em'>" + "line<br>" * 9 + "</div>", "scrollable-region"),
    ],
)
def test_the_audit_sees_what_is_wrong(site, open_page, planted, rule):
    page = open_page(f"{site}/book/index.html")
    page.evaluate("html => document.querySelector('article').insertAdjacentHTML('beforeend', html)", planted)
    found = audit(page)
    assert any(rule in text for text in found), found


# --- the keyboard and the screen reader -------------------------------------------------------


def test_the_tab_key_reaches_every_control_of_a_page(site, open_page):
    """Round the page with the Tab key: each control that is there takes its turn, and shows it."""
    page = open_page(f"{site}/book/sheet/vanilla.html")
    typeset(page)
    page.wait_for_timeout(500)
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
            .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0)
            .map((e, i) => (e.dataset.stop = i))"""
    )
    assert len(wanted) > 40
    reached, without_ring = set(), []
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        stop, text, ring = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                const inner = e.firstElementChild ? getComputedStyle(e.firstElementChild) : s;
                return [e.dataset.stop ?? null, e.outerHTML.slice(0, 80),
                        [s, inner].some(x => x.outlineStyle != 'none' || x.boxShadow != 'none')]; }"""
        )
        if stop is not None:
            reached.add(int(stop))
            if not ring:
                without_ring.append(text)
        if len(reached) == len(wanted):
            break
    assert reached == set(wanted)
    assert not without_ring


def test_what_scrolls_on_a_phone_is_moved_by_the_arrow_keys(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html", width=390)
    typeset(page)
    page.wait_for_timeout(500)
    figures = page.locator(".output:has(> svg.rnnlib-figure)[tabindex='0']")
    stuck = []
    for figure in figures.all():
        figure.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        if figure.evaluate("e => e.scrollLeft") == 0:
            stuck.append(figure.inner_html()[:200])
    assert not stuck
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.output, .rnnlib-slider > div, pre, mjx-container[display]')]
            .filter(e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex != 0)
            .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert not wide, wide


@pytest.mark.parametrize("docname", ["notebooks/01_vanilla_rnn", "book/equation_index"])
def test_a_screen_reader_is_told_every_equation(site, open_page, docname):
    page = open_page(f"{site}/{docname}.html")
    typeset(page)
    silent = page.evaluate(
        """() => [...document.querySelectorAll('mjx-container')].filter(e =>
            !e.querySelector('mjx-assistive-mml math')?.textContent.trim()
            || e.querySelector('mjx-math').getAttribute('aria-hidden') != 'true').length"""
    )
    assert page.locator("mjx-container").count() > 20
    assert silent == 0


# --- without JavaScript -----------------------------------------------------------------------


@pytest.mark.parametrize("docname", ["book/index", "notebooks/01_vanilla_rnn", "notebooks/05_lstm"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_can_be_read_without_javascript(site, open_page, docname, width):
    page = open_page(f"{site}/{docname}.html", width=width, java_script_enabled=False)
    assert page.locator(".no-script").is_visible()
    equation = page.locator(".math").first
    assert equation.inner_text().strip().startswith("\\")
    assert "mono" in equation.evaluate("e => getComputedStyle(e).fontFamily").lower()
    for solution in page.locator(".solution.dropdown p").all():
        assert solution.is_visible()
    for control in page.locator(".rnnlib-slider input, .sidebar-toggle, .search-button__button").all():
        assert not control.is_visible(), f"{control} does nothing without JavaScript"
    for svg in page.locator("svg.rnnlib-figure").all():
        assert svg.bounding_box()["height"] > 50
    for link in page.locator(".bd-docs-nav a").all()[:3]:
        assert link.is_visible(), "no way to the other pages"
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    assert page.complaints == []


# --- valid -------------------------------------------------------------------------


@pytest.mark.parametrize("docname", PAGES)
def test_the_html_is_valid(parsed, docname):
    _, found = parsed[HTML / f"{docname}.html"]
    assert not found, f"{docname}:\n" + "\n".join(found[:20])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("<p id=a>x</p><p id=a>y</p>", "the id a stands 2 times"),
        ("<p><div>x</p></div>", "unexpected-end-tag"),
        ("<b><i>x</b></i>", "adoption-agency"),
        ("<a href=x title=y title=z>x</a>", "duplicate-attribute"),
    ],
)
def test_markup_errors_are_seen(wrong, told):
    whole = "<!DOCTYPE html><html><head><title>t</title></head><body>{}</body></html>"
    assert parse(whole.format("<p>x</p>"))[1] == []
    assert any(told in text for text in parse(whole.format(wrong))[1])
