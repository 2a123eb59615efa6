"""The built pages in a real browser with no network: what a reader sees, and what is loaded for it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import nbformat
import pytest

from tests.accessible import audit
from tests.conftest import ROOT, opener
from tests.rendered import HTML, typeset
from tests.support import book_sources, load_module

pytestmark = pytest.mark.book

measure_pages = load_module(ROOT / "tools" / "measure_pages.py")
NOTEBOOKS = [name for name in book_sources.toc_documents(ROOT) if (ROOT / f"{name}.ipynb").exists()]
PAGES = list(dict.fromkeys([*book_sources.toc_documents(ROOT), "search", "genindex"]))


@pytest.fixture(scope="module", params=PAGES)
def visit(request, site, browser):
    """One visit to a page, by night and on a phone. The tests below take turns on it; the last spoils it.

    A page of many equations takes seconds to load, so it is loaded once.
    """
    with opener(browser) as open_:
        page = open_(f"{site}/{request.param}.html", width=390, theme="dark")
        equations = typeset(page)
        measure_pages.settle(page)
        yield SimpleNamespace(docname=request.param, page=page, equations=equations)


def resize(page, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)


def test_a_page_reads_well_without_a_network_and_is_light(visit):
    """On four widths. What is loaded is weighed as it comes."""
    docname, page, (source, done, wrong) = visit.docname, visit.page, visit.equations
    assert done >= source, f"{docname}: {source - done} of {source} equations are not typeset"
    assert wrong == 0, f"{docname}: {wrong} equations have errors"
    requests, size, packed = measure_pages.weight(page.responses)
    for width, theme in ((390, "dark"), (768, "dark"), (1280, "light"), (1920, "light")):
        resize(page, width, theme)
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{docname}: {overflow} pixels wider than a screen of {width}"
    assert page.complaints == []
    frames = page.evaluate(
        """() => [...document.querySelectorAll('.rnnlib-slider [data-at][style*="none"]')]
            .reduce((sum, e) => sum + e.outerHTML.length, 0)"""
    )
    theme_fonts = [r.url for r in page.responses if "fontawesome" in r.url]
    assert not theme_fonts, f"{docname}: an icon lacks in book/assets/icons.woff: {theme_fonts}"
    assert requests < 50, f"{docname}: {requests} requests"
    assert packed < 650_000, f"{docname}: {packed} bytes by gzip, of {size}"
    still = sum(size.values()) - frames  # without the pictures that a slider keeps hidden
    assert still < 1_500_000, f"{docname}: {size}, of these {frames} in sliders"


@pytest.mark.parametrize("visit", NOTEBOOKS, indirect=True)
def test_no_panel_of_a_figure_is_lost_or_covers_another(visit):
    page = visit.page
    resize(page, 390, "light")
    page.wait_for_timeout(500)
    lost = page.evaluate(
        """() => [...document.querySelectorAll('svg.rnnlib-stacked')].flatMap(svg => {
            const paper = svg.getBoundingClientRect();
            const panels = svg.figure.rows.flatMap(row => row.panels).map(panel => {
                const texts = panel.parts.flatMap(p => [...p.querySelectorAll('use')])
                    .filter(e => !e.closest('[clip-path]'))
                    .map(e => e.getBoundingClientRect()).filter(b => b.width);
                return [Math.min(...texts.map(b => b.left)), Math.max(...texts.map(b => b.right)),
                        Math.min(...texts.map(b => b.top)), Math.max(...texts.map(b => b.bottom))];
            }).filter(box => box.every(Number.isFinite));
            const out = panels.filter(([l, r, t, b]) => l < paper.left - 2 || r > paper.right + 2
                || t < paper.top - 2 || b > paper.bottom + 2);
            const covered = panels.filter((p, i) => panels.some((q, j) => i < j
                && p[0] < q[1] - 1 && q[0] < p[1] - 1 && p[2] < q[3] - 1 && q[2] < p[3] - 1));
            return out.length + covered.length ? [svg.getAttribute('aria-label').slice(0, 60)] : [];
        })"""
    )
    assert not lost
    assert page.complaints == []


def test_sliders_turn_by_keyboard_and_by_mouse_and_show_what_they_say(visit):
    page = visit.page
    resize(page, 1280, "light")
    boxes = page.locator(".rnnlib-slider").all()
    assert boxes or not re.match(r"notebooks/\d\d_", visit.docname), "a chapter without a slider"
    for box in boxes:
        names, sentences = box.evaluate("e => JSON.parse(e.dataset.says)")
        control, last = box.locator("input"), len(names) - 1

        def shows(index, box=box, names=names, sentences=sentences, control=control):
            assert control.get_attribute("aria-valuetext") == names[index]
            assert box.locator("output").inner_text() == " ".join(sentences[index].split())
            visible = box.evaluate(
                """e => [...e.querySelectorAll('[data-at]')]
                         .filter(g => g.style.display != 'none').map(g => g.dataset.at)"""
            )
            assert visible
            assert all(str(index) in at.split() for at in visible)
            return visible

        control.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        second = shows(1)
        page.keyboard.press("End")
        assert shows(last) != second
        size = control.bounding_box()
        page.mouse.click(size["x"] + 2, size["y"] + size["height"] / 2)
        shows(0)


@pytest.mark.parametrize("visit", NOTEBOOKS, indirect=True)
def test_the_notebook_of_a_chapter_can_be_downloaded_from_its_page(visit):
    page = visit.page
    resize(page, 1280, "light")
    menu = page.locator(".dropdown-download-buttons .dropdown-toggle")
    menu.click()
    link = page.locator("a[href$='.ipynb']:visible")
    response = page.request.get(link.evaluate("a => a.href"))
    menu.click()
    notebook = nbformat.reads(response.text(), as_version=4)
    nbformat.validate(notebook)
    own = nbformat.read(ROOT / f"{visit.docname}.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in own.cells]


def test_axe_finds_no_violation_of_wcag(visit):
    """What it does not look at is taken away, so no other test may follow."""
    found = audit(visit.page, visit.docname)
    assert not found, f"{visit.docname}:\n" + "\n".join(found)


def test_a_page_reads_well_from_a_file(built, open_page):
    page = open_page((HTML / "notebooks" / "01_vanilla_rnn.html").as_uri(), offline=True)
    source, done, wrong = typeset(page)
    assert done >= source > 0
    assert wrong == 0
    assert page.complaints == []


def test_the_equations_use_the_fonts_that_come_with_the_book(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html")
    typeset(page)
    page.evaluate("document.fonts.ready.then(() => true)")
    loaded = page.evaluate("[...document.fonts].filter(f => f.status == 'loaded').map(f => f.family)")
    assert any("MJX" in family for family in loaded), loaded


def test_figures_follow_the_theme(site, open_page):
    def ink(page):
        return page.evaluate(
            """() => { const svg = document.querySelector('svg.rnnlib-figure');
                       return [getComputedStyle(svg).color,
                               getComputedStyle(svg.parentElement).backgroundColor]; }"""
        )

    light, _ = ink(open_page(f"{site}/notebooks/01_vanilla_rnn.html", theme="light"))
    dark, behind = ink(open_page(f"{site}/notebooks/01_vanilla_rnn.html", theme="dark"))

    def brightness(colour):
        return sum(int(part) for part in colour.strip("rgba()").split(",")[:3])

    assert brightness(light) < 250 < 500 < brightness(dark)
    assert behind == "rgba(0, 0, 0, 0)"


def test_the_theme_can_be_switched(site, open_page):
    page = open_page(f"{site}/book/index.html")
    seen = set()
    for _ in range(3):
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
        page.locator("button.theme-switch-button:visible").first.click()
    assert seen == {"light", "dark"}


@pytest.mark.parametrize("term", ["spectral radius", "sunspot", "ridge"])
def test_search_finds(site, open_page, term):
    page = open_page(f"{site}/search.html?q={term.replace(' ', '+')}")
    page.wait_for_selector("ul.search li a", timeout=15000)
    hits = page.locator("ul.search li a").all_inner_texts()
    assert any("vanilla" in hit.lower() for hit in hits), hits


def test_a_folded_solution_opens_by_keyboard(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html")
    solution = page.locator(".solution.dropdown").first
    body = solution.locator("p", has_text="0.2511").first
    assert not body.is_visible()
    solution.locator("button.toggle-button").focus()
    page.keyboard.press("Enter")
    body.wait_for(state="visible", timeout=5000)


def test_the_function_is_one_click_from_its_equation_and_the_source_one_more(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html")
    page.locator(".equation-code a", has_text="vanilla.hidden_state").click()
    assert page.url.endswith("#rnnlib.vanilla.hidden_state")
    page.locator("dt[id='rnnlib.vanilla.hidden_state'] a", has_text="source").click()
    assert "def hidden_state" in page.inner_text("pre")
