"""Finding one's way in the built book: previews, back-links, the map, the index, search, and the look."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest

from rnnlib import dynamics, equations
from tests.conftest import ROOT
from tests.rendered import HTML, typeset
from tests.support import book_sources, labelled_equations

pytestmark = pytest.mark.book

NOTEBOOKS = [name for name in book_sources.toc_documents(ROOT) if name.startswith("notebooks/")]
API = [name for name in book_sources.toc_documents(ROOT) if name.startswith("book/api")]
EQUATIONS = labelled_equations(ROOT)
CHAPTER = "notebooks/05_lstm"


@pytest.fixture(params=["on a server, wide", "in a folder, on a phone"])
def reader(request, site, open_page):
    """Opens a page in two ways that differ in all: address, width of the screen, theme."""
    address, width, theme = (
        (site, 1280, "light") if "server" in request.param else (HTML.as_uri(), 390, "dark")
    )
    return lambda docname, **options: open_page(
        f"{address}/{docname}", **{"width": width, "theme": theme, **options}
    )


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


SVG = "{http://www.w3.org/2000/svg}"


def links(element: ElementTree.Element) -> list[str]:
    return [a.get("href", "") for a in element.iter() if a.tag in {"a", SVG + "a"}]


def elements(page: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """All elements of a class."""
    return [e for e in page.iter() if name in (e.get("class") or "").split()]


# --- previews ---------------------------------------------------------------------------------


class TestPreviews:
    """A reference shows what it refers to, by pointer, keyboard and finger (WCAG 1.4.13)."""

    @pytest.fixture
    def chapter(self, reader):
        def open_(**options):
            page = reader(f"{CHAPTER}.html", **options)
            typeset(page)
            return page

        return open_

    @staticmethod
    def box(page):
        return page.locator("#reference-preview")

    @pytest.mark.parametrize(
        ("kind", "told"),
        [("equation", r"Equation \(\d+\.\d+\), chapter \d"), ("term", r"[a-z]+ [A-Z].*\.$")],
    )
    def test_opens_under_the_pointer_and_stays_while_the_pointer_is_on_it(self, chapter, kind, told):
        page = chapter()
        box, link = self.box(page), page.locator(f"a.{kind}-preview").first
        link.hover()
        box.wait_for(state="visible")
        assert re.search(told, " ".join(box.inner_text().split()))
        assert link.get_attribute("aria-describedby") == box.get_attribute("id")
        if kind == "equation":
            box.locator("mjx-container").wait_for(state="visible")
        box.hover()
        page.wait_for_timeout(500)
        assert box.is_visible()
        page.mouse.move(1, 1)
        box.wait_for(state="hidden")
        assert link.get_attribute("aria-describedby") is None
        assert page.complaints == []

    @pytest.mark.parametrize("kind", ["equation", "term"])
    def test_opens_on_the_focus_of_the_keyboard(self, chapter, kind):
        page = chapter()
        box, link = self.box(page), page.locator(f"a.{kind}-preview").first
        href = link.get_attribute("href")
        page.keyboard.press("Tab")
        link.focus()
        box.wait_for(state="visible")
        page.keyboard.press("Tab")
        assert self.focused(page) != href
        link.focus()
        box.wait_for(state="visible")
        page.keyboard.press("Escape")
        assert not box.is_visible()
        assert self.focused(page) == href, "Escape took the focus away"
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/*#{href.partition('#')[2]}")

    @staticmethod
    def focused(page):
        return page.evaluate("document.activeElement.getAttribute('href')")

    def test_escape_closes_it_under_the_pointer_until_the_pointer_comes_again(self, chapter):
        page = chapter()
        box, link = self.box(page), page.locator("a.term-preview").first
        link.hover()
        box.wait_for(state="visible")
        page.keyboard.press("Escape")
        assert not box.is_visible()
        place = link.bounding_box()
        page.mouse.move(place["x"] + 3, place["y"] + place["height"] / 2)
        page.wait_for_timeout(500)
        assert not box.is_visible()
        page.mouse.move(1, 1)
        link.hover()
        box.wait_for(state="visible")

    def test_a_tap_opens_it_and_a_second_one_follows_the_link(self, chapter):
        page = chapter(has_touch=True, is_mobile=True)
        box, link = self.box(page), page.locator("a.term-preview").first
        before = page.url
        link.tap()
        box.wait_for(state="visible")
        page.wait_for_timeout(500)
        assert page.url == before
        link.tap()
        page.wait_for_url("**/glossary.html#term-*")

    def test_a_tap_beside_it_closes_it(self, chapter):
        page = chapter(has_touch=True, is_mobile=True)
        page.locator("a.term-preview").first.tap()
        self.box(page).wait_for(state="visible")
        page.locator(".bd-article h1").tap()
        self.box(page).wait_for(state="hidden")

    @pytest.mark.parametrize(
        ("docname", "width"),
        [
            ("notebooks/04_backpropagation_through_time", 390),
            ("notebooks/07_gradients", 390),
            ("notebooks/07_gradients", 1280),
        ],
    )
    def test_everything_it_shows_lies_within_the_window(self, site, open_page, docname, width):
        page = open_page(f"{site}/{docname}.html", width=width)
        typeset(page)
        page.keyboard.press("Tab")
        seen = 0
        for link in page.locator("a.has-preview:visible").all():
            link.focus()
            self.box(page).wait_for(state="visible")
            if self.box(page).locator(".math").count():
                self.box(page).locator("mjx-container").first.wait_for(state="visible")
            page.evaluate("new Promise(done => setTimeout(done, 30))")
            left, right, inner, outer = self.box(page).evaluate(
                """b => { const {left, right} = b.getBoundingClientRect();
                          return [left, right, b.scrollWidth, b.clientWidth]; }"""
            )
            where = f"{link.inner_text()} in {docname}"
            assert left >= 0, where
            assert right <= width, where
            assert inner <= outer, f"{where}: {inner - outer} pixels of the content stick out"
            seen += 1
        assert seen >= 15

    def test_every_reference_to_an_equation_or_a_word_has_one(self, pages):
        counted = 0
        for path, page in pages.items():
            main = page.find(".//main")
            if main is None or path.name in {"genindex.html", "search.html"} or "_modules" in path.parts:
                continue
            shown = {t.get("data-preview") for t in page.iter("template")}
            for link in main.iter("a"):
                target = (link.get("href") or "").partition("#")[2]
                if target.startswith(("equation-", "term-")) and "headerlink" not in link.get("class", ""):
                    assert target in shown, f"{path.relative_to(HTML)}: no preview of {target}"
                    counted += 1
        assert counted > 300

    def test_a_preview_holds_no_link_that_the_keyboard_could_not_reach(self, pages):
        for path, page in pages.items():
            for template in page.iter("template"):
                assert not links(template), path
                assert not any(e.get("id") for e in template.iter()), path


def test_the_chapters_lead_to_the_glossary_once_for_each_word(pages):
    for docname in NOTEBOOKS:
        main = pages[HTML / f"{docname}.html"].find(".//main")
        words = [link.partition("#")[2] for link in links(main) if "glossary.html#term-" in link]
        assert len(words) >= 5, docname
        assert len(words) == len(set(words)), docname


# --- back-links -------------------------------------------------------------------------------


def test_an_equation_names_the_pages_that_use_it(pages):
    lists = {
        *API,
        "book/equation_index",
        "book/errata",
        "book/sampler",
        "book/workbench",
        "book/glossary",
        "book/map",
        "book/which_equation",
        "genindex",
    }
    used: dict[str, set[str]] = {}
    for docname in set(book_sources.toc_documents(ROOT)) - lists:
        for _, text in book_sources.markdown_cells(book_sources.source_path(ROOT, docname)):
            for label in re.findall(r"\{eq\}`([\w-]+)`", text):
                used.setdefault(label, set()).add(docname)
    checked = 0
    for label, equation in EQUATIONS.items():
        page = pages[HTML / f"{equation.docname}.html"]
        parents = {child: parent for parent in page.iter() for child in parent}
        block = page.find(f".//*[@id='equation-{label}']")
        siblings = list(parents[block])
        line = siblings[siblings.index(block) + 1]
        assert line.get("class") == "equation-code"
        found = {
            (HTML / f"{equation.docname}.html").parent.joinpath(link.partition("#")[0]).resolve()
            for link in links(line)
            if "api/" not in link
        }
        wanted = {(HTML / f"{d}.html").resolve() for d in used.get(label, set()) - {equation.docname}}
        assert found == wanted, label
        assert bool(wanted) == ("used in:" in text_of(line)), label
        checked += len(wanted)
    assert checked >= 20


def test_a_function_of_the_package_names_its_equations_and_their_chapters(pages):
    lists = [dl for docname in API for dl in pages[HTML / f"{docname}.html"].iter("dl")]
    entries = {dl.find("dt").get("id"): dl for dl in lists if dl.find("dt") is not None}
    for label, entry in equations.index().items():
        lines = elements(entries[entry.qualified_name], "function-equation")
        (line,) = [line for line in lines if links(line)[0].endswith(f"#equation-{label}")]
        docname = EQUATIONS[label].docname
        number = re.match(r"notebooks/(\d\d)_", docname)
        where = f"chapter {int(number[1])}" if number else EQUATIONS[label].title
        assert re.fullmatch(rf"Equation \((\d+|[A-Z])\.\d+\) in {re.escape(where)}", text_of(line)), text_of(
            line
        )


def test_an_equation_has_the_number_of_its_chapter_or_the_letter_of_its_page(pages):
    letters = []
    for docname in book_sources.toc_documents(ROOT):
        blocks = [b for b in elements(pages[HTML / f"{docname}.html"], "math") if b.get("id")]
        shown = [text_of(number) for b in blocks for number in elements(b, "eqno")]
        numbers = [re.match(r"\((\d+|[A-Z])\.(\d+)\)", text) for text in shown]
        assert all(numbers), f"{docname}: {shown}"
        if numbers:
            (before,) = {number[1] for number in numbers}
            chapter = re.match(r"notebooks/(\d\d)_", docname)
            assert before == str(int(chapter[1])) if chapter else before.isalpha(), docname
            letters += [] if chapter else [before]
            assert [int(number[2]) for number in numbers] == list(range(1, len(numbers) + 1)), docname
    assert len(letters) > 3
    assert len(letters) == len(set(letters))


# --- the map and the index --------------------------------------------------------------------


def needs(docname: str) -> list[str]:
    """The chapters named in the sentence "You need …" of a notebook."""
    text = next(text for _, text in book_sources.markdown_cells(ROOT / f"{docname}.ipynb"))
    sentence = text.partition("**You need**")[2].split(". ")[0].split(".\n")[0]
    return [f"notebooks/{name}" for name in re.findall(r"(\w+)\.ipynb", sentence)]


HELPED = {"notebooks/04_backpropagation_through_time": ["notebooks/appendix_matrix_calculus"]}
"""Chapters whose text leads to an appendix that they can do without."""


def test_the_map_lists_every_chapter_with_what_it_needs(pages):
    page = pages[HTML / "book" / "map.html"]
    (picture,) = elements(page, "book-map")
    assert links(picture) == [f"../{docname}.html" for docname in NOTEBOOKS]
    items = [links(item) for item in page.find(".//main").iter("li") if "need" in text_of(item)]
    assert items == [
        [f"../{name}.html" for name in (docname, *needs(docname), *HELPED.get(docname, []))]
        for docname in NOTEBOOKS
    ]
    assert sum(map(len, items)) > len(items)


def arrows_drawn(picture: ElementTree.Element, kind: str) -> dict[str, set[str]]:
    """For each chapter those from which an arrow of a kind leads to it, by where the arrows begin and end."""
    below, above = {}, {}
    for link in picture.iter(SVG + "a"):
        rect = {k: float(link.find(SVG + "rect").get(k)) for k in ("x", "y", "width", "height")}
        docname = link.get("href").removeprefix("../").removesuffix(".html")
        below[rect["x"] + rect["width"] / 2, rect["y"] + rect["height"]] = docname
        above[rect["x"] + rect["width"] / 2, rect["y"]] = docname
    drawn: dict[str, set[str]] = {docname: set() for docname in NOTEBOOKS}
    for arrow in picture.iter(SVG + "path"):
        if arrow.get("marker-end") and arrow.get("class") == kind:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", arrow.get("d"))]
            drawn[above[numbers[-2], numbers[-1] + 3]].add(below[numbers[0], numbers[1]])
    return drawn


def test_the_arrows_of_the_map_are_those_from_which_all_needs_follow(pages):
    (picture,) = elements(pages[HTML / "book" / "map.html"], "book-map")
    drawn = arrows_drawn(picture, "map-needs")

    def closure(direct):
        @functools.cache
        def reach(docname):
            return direct[docname].union(*(reach(need) for need in direct[docname]))

        return {docname: reach(docname) for docname in direct}

    whole = closure({docname: set(needs(docname)) for docname in NOTEBOOKS})
    assert closure(drawn) == whole
    for docname, arrows in drawn.items():
        for need in arrows:
            fewer = closure(drawn | {docname: arrows - {need}})
            assert need not in fewer[docname], f"the arrow from {need} to {docname} follows from others"
    helped = {docname: sorted(arrows) for docname, arrows in arrows_drawn(picture, "map-helps").items()}
    assert {docname: arrows for docname, arrows in helped.items() if arrows} == HELPED


@pytest.mark.parametrize("width", [1280, 390])
def test_no_arrow_of_the_map_runs_through_a_box_and_no_name_out_of_one(site, open_page, width):
    page = open_page(f"{site}/book/map.html", width=width)
    through, out, points, letters = page.evaluate(
        """() => {
            const map = document.querySelector('svg.book-map'), through = [], out = [];
            const boxes = [...map.querySelectorAll('a')].map(a => {
                const {x, y, width, height} = a.querySelector('rect').getBBox();
                const text = a.querySelector('text'), inner = text.getBBox(), name = text.textContent;
                if (inner.x < x + 2 || inner.x + inner.width > x + width - 2
                    || inner.y < y || inner.y + inner.height > y + height) out.push(name);
                return {x, y, right: x + width, bottom: y + height, name};
            });
            let points = 0;
            for (const path of map.querySelectorAll('.map-arrows path'))
                for (let at = 0, whole = path.getTotalLength(); at <= whole; at += 1, points += 1) {
                    const {x, y} = path.getPointAtLength(at), near = at > 3 && at < whole - 3 ? 2 : -1;
                    for (const b of boxes)
                        if (x > b.x - near && x < b.right + near && y > b.y - near && y < b.bottom + near)
                            through.push(`${path.getAttribute('d')} at ${x}, ${y} in ${b.name}`);
                }
            const size = parseFloat(getComputedStyle(map.querySelector('text')).fontSize);
            return [through, out, points, size * map.getScreenCTM().a];
        }"""
    )
    assert points > 500
    assert not through, through[:3]
    assert not out
    assert letters > 11, "too small to read"


def test_a_box_of_the_map_leads_to_its_chapter_by_mouse_and_by_keyboard(reader):
    page = reader("book/map.html")
    page.locator(".book-map a", has_text="Unrolling").click()
    assert page.url.endswith("03_unrolling.html")
    page.go_back()
    page.locator(".book-map a", has_text="Unrolling").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/03_unrolling.html")


def test_the_index_lists_the_words_of_the_glossary_and_the_equations(pages):
    index = pages[HTML / "genindex.html"]
    targets = {link.rpartition("/")[2].partition("#")[2] for link in links(index)}
    assert {f"equation-{label}" for label in equations.index()} <= targets
    glossary = pages[HTML / "book" / "glossary.html"]
    words = {dt.get("id") for dt in glossary.iter("dt") if (dt.get("id") or "").startswith("term-")}
    assert len(words) > 100
    assert words <= targets
    heads = [text_of(head) for head in index.find(".//main").iter("h2")]
    assert heads.count("中文") == 1
    assert not [head for head in heads if head != "中文" and "CJK" in unicodedata.name(head[0])]


def test_search_knows_the_entries_of_all_pages_however_many_were_written_last(built):
    index = (built / "searchindex.js").read_text(encoding="utf-8")
    entries = index.partition('"indexentries": {')[2].partition("}")[0]
    for entry in ("w_hh", "bptt", "hidden state", "unroll() (in module rnnlib.unroll)"):
        assert f'"{entry}": [[' in entries, entry


@pytest.mark.parametrize(
    ("query", "pages_wanted"),
    [
        ("W_hh", {"book/notation"}),
        ("σ", {"book/notation"}),
        ("forget gate", {"book/glossary", "notebooks/05_lstm"}),
        ("BPTT", {"book/glossary", "notebooks/04_backpropagation_through_time"}),
        ("隐状态", {"book/glossary"}),
    ],
)
def test_search_leads_to_the_right_page_at_once(reader, query, pages_wanted):
    page = reader(f"search.html?q={query.replace(' ', '+')}")
    page.wait_for_selector("ul.search li a", timeout=15000)
    hits = page.eval_on_selector_all("ul.search li a", "all => all.slice(0, 3).map(a => a.href)")
    found = {"/".join(hit.partition(".html")[0].split("/")[-2:]) for hit in hits}
    assert found & pages_wanted, hits


def test_the_folds_and_buttons_beside_the_text_have_the_names_that_are_seen(pages):
    page = pages[HTML / "book" / "index.html"]
    folds = [e for e in page.iter("summary") if e.find("span") is not None and not text_of(e)]
    assert [e.get("aria-label") for e in folds] == ["Pages of The equation sheet", "Pages of The package"]
    (search,) = elements(page, "search-button-field")
    assert search.get("aria-label") is None
    assert text_of(search).startswith("Search")


# --- the look ---------------------------------------------------------------------------------


def test_every_chapter_opens_with_a_box_of_aims_time_and_needs(pages):
    for docname in NOTEBOOKS:
        (box,) = elements(pages[HTML / f"{docname}.html"], "chapter-opener")
        text = text_of(box)
        assert text.startswith("You will learn"), docname
        assert "Time:" in text, docname
        assert "You need" in text, docname


class TestTheCover:
    """The picture on the welcome page is what its description says."""

    @pytest.fixture
    def cover(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
        monkeypatch.delitem(sys.modules, "cover", raising=False)
        import cover

        return cover

    def test_is_the_same_in_every_build(self, built, cover):
        assert cover.cover() in (built / "book" / "index.html").read_text(encoding="utf-8")

    def test_all_its_orbits_end_on_one_closed_curve(self, cover):
        W_hh, b_h = dynamics.rotation(cover.GAIN, cover.ANGLE), np.zeros(2)
        curve = dynamics.orbit(np.array([[0.3, 0.0]]), W_hh, b_h, 2000)[-400:, 0]  # (400, 2)
        for first in cover.starts():
            last = dynamics.orbit(first, W_hh, b_h, 1000)[-1]  # (B, 2)
            assert np.linalg.norm(last[:, None] - curve[None], axis=-1).min(axis=1).max() < 0.02

    def test_follows_the_theme_and_is_described(self, site, open_page):
        inks = set()
        for theme in ("light", "dark"):
            picture = open_page(f"{site}/book/index.html", theme=theme).locator("svg.cover")
            assert len(picture.get_attribute("aria-label")) > 40
            inks.add(picture.locator("path").last.evaluate("e => getComputedStyle(e).stroke"))
        assert inks == {"rgb(0, 114, 178)", "rgb(92, 179, 230)"}


class TestWhatIsWiderThanAPhone:
    """It fades out on the side where there is more; figures of several panels set them in several lines."""

    SCROLLERS = """() => {
        document.querySelectorAll('details').forEach(d => d.open = true);
        const wide = [...document.querySelectorAll('.bd-article *')].filter(e =>
            e.scrollWidth > e.clientWidth + 1 && e.clientWidth && e.checkVisibility()
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX));
        return new Promise(done => setTimeout(() => done(wide.map(e => {
            const fades = getComputedStyle(e).maskImage, kind = e.tagName + ' ' + e.getAttribute('class');
            return [kind, fades, e.textContent.trim().slice(0, 60)];
        })), 300));
    }"""

    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize(
        ("docname", "kinds"),
        [
            ("notebooks/01_vanilla_rnn", ["text_html", "table", "PRE"]),
            (CHAPTER, ["PRE", "MJX-CONTAINER|math"]),
        ],
    )
    def test_every_scroller_shows_that_there_is_more(self, site, open_page, docname, kinds, theme):
        page = open_page(f"{site}/{docname}.html", width=390, theme=theme)
        typeset(page)
        page.wait_for_timeout(500)
        found = page.evaluate(self.SCROLLERS)
        for kind in kinds:
            assert any(re.search(kind, name) for name, _, _ in found), f"no {kind} scrolls: {found}"
        assert not [(name, text) for name, fades, text in found if "gradient" not in fades]

    def test_nothing_fades_where_all_is_seen(self, site, open_page):
        page = open_page(f"{site}/book/index.html")
        page.wait_for_timeout(500)
        assert page.locator(".more-left, .more-right").count() == 0

    def test_the_fading_edge_and_the_hint_go_when_the_end_is_reached(self, site, open_page):
        page = open_page(f"{site}/notebooks/01_vanilla_rnn.html", width=390)
        typeset(page)
        figure = page.locator(".text_html:has(> .rnnlib-figure)").first
        figure.and_(page.locator(".more-right")).wait_for()
        hint = "f => getComputedStyle(f, '::after').content"
        assert "sideways" in figure.evaluate(hint)
        classes = "f => [f.classList.contains('more-left'), f.classList.contains('more-right')]"
        for place, left, right in ((40, True, True), (9999, True, False), (0, False, True)):
            figure.evaluate("(f, place) => f.scrollLeft = place", place)
            page.wait_for_timeout(100)
            assert figure.evaluate(classes) == [left, right]
            assert ("sideways" in figure.evaluate(hint)) == (place == 0)

    def test_two_panels_stand_one_below_the_other_on_a_phone_and_side_by_side_beyond(self, site, open_page):
        page = open_page(f"{site}/notebooks/01_vanilla_rnn.html", width=390)
        typeset(page)
        svg = page.locator(".rnnlib-slider svg.rnnlib-figure").first
        svg.and_(page.locator(".rnnlib-stacked")).wait_for()
        drawn = """svg => { const r = e => e.getBoundingClientRect(), outer = svg.parentElement;
            const axes = [...svg.querySelectorAll(':scope > g > g:has(> g)')].map(r);
            const first = axes[0], next = axes.find(b => b.top > first.bottom || b.left > first.right + 60);
            return [outer.scrollWidth - outer.clientWidth, next.top >= first.bottom, next.left >= first.right,
                    axes.every(b => b.left >= r(svg).left - 2 && b.bottom <= r(svg).bottom + 2),
                    svg.getAttribute('viewBox')]; }"""
        over, below, beside, within, narrow = svg.evaluate(drawn)
        assert (over, below, beside, within) == (0, True, False, True)
        page.locator(".rnnlib-slider input").first.press("ArrowRight")
        assert svg.locator("[data-at]:visible").count() > 0
        page.set_viewport_size({"width": 1280, "height": 900})
        page.locator(".rnnlib-slider svg.rnnlib-figure:not(.rnnlib-stacked)").first.wait_for()
        over, below, beside, within, wide = svg.evaluate(drawn)
        assert (over, below, beside) == (0, False, True)
        assert wide != narrow

    def test_a_panel_that_shared_its_numbers_has_them_again_at_the_head_of_a_line(self, site, open_page):
        page = open_page(f"{site}/notebooks/07_gradients.html", width=390)
        typeset(page)
        again = page.locator("svg[aria-label^='Three panels of length against lag'] .rnnlib-again")
        again.first.wait_for()
        assert again.count() == 2
        assert len({box.bounding_box()["x"] for box in again.all()}) == 1
        page.set_viewport_size({"width": 1280, "height": 900})
        again.first.wait_for(state="detached")


def test_code_as_long_as_ruff_allows_fits_a_small_desktop(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html")
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.bd-article .cell pre')]
            .filter(e => e.checkVisibility() && !e.closest('.solution') && e.scrollWidth > e.clientWidth)
            .map(e => e.textContent.slice(0, 60))"""
    )
    assert not wide


def test_on_paper_nothing_is_left_that_only_works_on_a_screen(site, open_page):
    page = open_page(f"{site}/{CHAPTER}.html")
    page.keyboard.press("Tab")
    page.locator("a.has-preview").first.focus()
    page.locator("#reference-preview").wait_for(state="visible")
    page.emulate_media(media="print")
    for selector in (".headerlink", "#reference-preview", ".equation-code", ".prev-next-footer"):
        assert not page.locator(selector).first.is_visible(), selector
    assert page.locator(".chapter-opener").is_visible()


# --- what readers stumbled over ----------------------------------------------------------------


def test_signatures_show_shapes_as_the_book_writes_them(pages):
    api = pages[HTML / "book" / "api" / "1_cells.html"]
    (signature,) = [e for e in api.iter("dt") if e.get("id") == "rnnlib.vanilla.preactivation"]
    shapes = "(x_t: (B, I), h_prev: (B, H), W_xh: (H, I), W_hh: (H, H), b_h: (H))"
    assert shapes in text_of(signature)


def test_a_reference_in_brackets_has_one_pair(pages):
    for path, page in pages.items():
        assert not re.search(r"\(\((\d+|[A-Z])\.\d+\)\)", text_of(page.find(".//body"))), path


def test_a_press_on_the_title_of_a_solution_opens_it(site, open_page):
    page = open_page(f"{site}/notebooks/01_vanilla_rnn.html")
    solution = page.locator(".solution.dropdown").first
    answer = solution.locator("section").first
    assert not answer.is_visible()
    solution.locator(".admonition-title").click()  # its middle, where most of the words are
    assert answer.is_visible()
    assert "#" not in page.url


def test_search_names_an_entry_beside_its_page(site, open_page):
    page = open_page(f"{site}/search.html?q=vanishing+gradient")
    page.wait_for_selector("#search-results li")
    results = page.locator("#search-results li > a").all_inner_texts()
    assert "Glossary > vanishing gradient" in results
    field = page.locator(".bd-search-container input")
    icon = page.locator(".bd-search-container .fa-magnifying-glass").bounding_box()
    padding = float(field.evaluate("e => getComputedStyle(e).paddingLeft").removesuffix("px"))
    assert icon["x"] + icon["width"] <= field.bounding_box()["x"] + padding, "the icon covers what is typed"
