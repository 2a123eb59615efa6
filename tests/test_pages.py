"""The built pages in a real browser with no network: what a reader sees, and what is loaded for it."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.rendered import HTML, typeset
from tests.support import _load, book_sources

pytestmark = pytest.mark.book

measure_pages = _load(ROOT / "tools" / "measure_pages.py")
PAGES = list(dict.fromkeys([*book_sources.toc_documents(ROOT), "search", "genindex"]))


@pytest.mark.parametrize("docname", PAGES)
def test_a_page_reads_well_without_a_network_and_is_light(site, open_page, docname):
    """One visit, on four widths. What is loaded is weighed as it comes."""
    page = open_page(f"{site}/{docname}.html", width=390, theme="dark")
    source, done, wrong = typeset(page)
    assert done >= source, f"{docname}: {source - done} of {source} equations are not typeset"
    assert wrong == 0, f"{docname}: {wrong} equations have errors"
    measure_pages.settle(page)
    requests, size, packed = measure_pages.weight(page.responses)
    for width, theme in ((390, "dark"), (768, "dark"), (1280, "light"), (1920, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
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


def test_sliders_turn_by_keyboard_and_by_mouse_and_show_what_they_say(site, open_page):
    seen = 0
    for docname in PAGES:
        if b"rnnlib-slider" not in (HTML / f"{docname}.html").read_bytes():
            continue
        page = open_page(f"{site}/{docname}.html")
        for box in page.locator(".rnnlib-slider").all():
            seen += 1
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
    assert seen >= 1


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
