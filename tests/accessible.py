"""The audit of a page for those who cannot see it, or not well: WCAG 2.2 at level AA, by axe-core."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe

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
    thin(document.body, '');
    return seen.size;
}"""
"""Takes away what has the same tags, classes and styles, from the body down, as something before it."""


EQUATIONS = "book/sheet/lstm"
"""All equations are made alike, of some hundred elements each; on this page they are looked at."""

EMPTY = """empty => {
    const figures = [...document.querySelectorAll('svg.rnnlib-figure')];
    window.insides ??= new Map(figures.map(figure => [figure, [...figure.childNodes]]));
    for (const [figure, inside] of window.insides) figure.replaceChildren(...(empty ? [] : inside));
}"""
"""Takes away the insides of figures, for which a description stands, or puts them back."""

BOX_EQUATIONS = """() => {
    const all = [...document.querySelectorAll('mjx-container > mjx-math')];
    for (const [e, {width, height}] of all.map(e => [e, e.getBoundingClientRect()])) {
        const box = document.createElement('span');
        box.style.cssText = `display: inline-block; overflow: hidden; width: ${width}px; height: ${height}px`;
        box.textContent = e.parentElement.querySelector('math').textContent;
        e.parentElement.replaceChildren(box);
    }
}"""
"""Puts boxes of their size and text in the place of equations."""

BY_WIDTH = ["scrollable-region-focusable", "target-size"]
"""The rules that look at sizes. All others see on a narrow screen what they have seen on a wide one, except
in the frame around the text, which is the same on all pages."""

FRAMES = {EQUATIONS, "book/index", "book/sheet/index", "search", "genindex"}
"""Pages where the frame is looked at by all rules on a narrow screen too."""


def violations(page, **options):
    """What axe-core finds. Its half a megabyte of code is given to a page once, not before each look."""
    if page.evaluate("window.axe === undefined"):
        page.evaluate(Axe().axe_script)
    context = {} if EQUATIONS in page.url else {"exclude": [["mjx-container"]]}
    found = page.evaluate(
        "async ([context, options]) => (await axe.run(context ?? document, options)).violations",
        [context or None, {"resultTypes": ["violations"], **options}],
    )
    return [
        f"{v['id']}: {' '.join(str(n['target']) for n in v['nodes'][:5])} ({len(v['nodes'])}): "
        + "; ".join(m["message"] for m in v["nodes"][0]["any"] + v["nodes"][0]["all"] + v["nodes"][0]["none"])
        for v in found
    ]


def audit(page, docname="book/index"):
    """Every violation of WCAG 2.2 at level AA, on a wide screen by day and on a narrow one by night."""
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    page.evaluate(UNFOLD)
    if docname != EQUATIONS:
        page.evaluate(BOX_EQUATIONS)
    rules = {name: {"enabled": True} for name in EXPERIMENTAL} | {name: {"enabled": False} for name in COLOUR}
    found = []
    for width in (1280, 390):
        page.evaluate(EMPTY, False)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # the theme looks for what scrolls, a moment after a change of size
        page.evaluate(EMPTY, True)
        if width == 1280 or docname in FRAMES:
            told = violations(page, runOnly={"type": "tag", "values": WCAG}, rules=rules)
        else:
            told = violations(page, runOnly=BY_WIDTH)
        found += [f"{width}: {text}" for text in told]
    assert page.evaluate(THIN) > 20, "there is nothing left to look at"
    for width, theme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        found += [f"{width} {theme}: {text}" for text in violations(page, runOnly=COLOUR)]
    return found
