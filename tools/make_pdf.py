"""Print the built book as one PDF for A4, through Chromium.

    python tools/make_pdf.py _build/html _build/from-equation-to-code.pdf

The pages of the table of contents are put one after the other into one document, typeset by the same
MathJax as the site, and printed: solutions are open, sliders keep their first picture, code that only
draws is left out, links within the book lead to the page in the PDF. It is printed twice: the first
time tells on which page each heading stands, the second has these numbers in the contents.
"""

import argparse
import html
import sys
import tempfile
from pathlib import Path

import chromium
import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import sources  # noqa: E402

STYLE = """
@page { size: A4; margin: 24mm 20mm 22mm;
  @top-left { content: "%(title)s"; font: 8.5pt sans-serif; color: #555; }
  @bottom-center { content: counter(page); font: 9pt sans-serif; } }
@page front { @top-left { content: none; } @bottom-center { content: none; } }
html { font-size: 10pt !important; font-variant-ligatures: none; }  /* a search finds first, not ﬁrst */
body { background: white !important; padding: 0 !important; }
.front { page: front; break-after: page; padding-top: 60mm; text-align: center; }
.front h1 { font-size: 30pt; } .front p { font-size: 12pt; }
.print-contents { page: front; }
.print-contents a { display: flex; gap: 0.6em; color: black; text-decoration: none; line-height: 1.5; }
.print-contents a::after { content: attr(data-folio); order: 3; }
.print-contents a::before { content: ""; order: 2; flex: 1; border-bottom: 1px dotted #999; height: 1.1em; }
.print-contents .part { font-weight: bold; margin: 0.9em 0 0.2em; }
.print-contents .level-2 { padding-left: 1.6em; font-size: 0.9em; color: #333; }
section.print-page { break-before: page; }
h1, h2, h3, h4, .admonition-title, dt { break-after: avoid; }
h1 { margin-top: 0; }
figure, svg.rnnlib-figure, .text_html:has(svg), img, mjx-container[display], div.math, tr, figcaption,
  .equation-entry, .citation, dt { break-inside: avoid; }
p { orphans: 3; widows: 3; }
pre, code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
pre { font-size: 8pt; }
.pst-scrollable-table-container, div.math, mjx-container, .output, pre { overflow: visible !important; }
table { font-size: 8.5pt; } table td, table th { padding: 1mm 1.5mm; } table td { overflow-wrap: anywhere; }
dl.py { font-size: 8.5pt; line-height: 1.35; }
dl.py dl, dl.py dd, dl.py p, dl.py ul { margin-block: 0 0.25em; }
table.agreement code.literal, table.agreement .pre { white-space: normal !important; }
div.admonition { break-inside: auto !important; }
svg.rnnlib-figure { min-width: 0 !important; max-width: 100%% !important; }
"""

ADD = """([slug, text, base, slugs]) => {
    const article = new DOMParser().parseFromString(text, 'text/html').querySelector('article');
    article.querySelectorAll(
        '.headerlink, .viewcode-link, script, noscript, button, template, details.hide, .rnnlib-slider label'
    ).forEach(e => e.remove());
    article.querySelectorAll('details').forEach(e => e.open = true);
    article.querySelectorAll('[id]').forEach(e => { if (!e.closest('svg')) e.id = slug + '--' + e.id; });
    article.querySelectorAll('a').forEach(a => {
        if (!a.hasAttribute('href')) return;
        const url = new URL(a.getAttribute('href'), base);
        const target = slugs[url.href.split('#')[0]];
        if (target) a.setAttribute('href', '#' + target + (url.hash ? '--' + url.hash.slice(1) : ''));
        else if (url.protocol == 'file:') a.removeAttribute('href');  // the listing of the source code
    });
    article.querySelectorAll('img').forEach(e => e.src = new URL(e.getAttribute('src'), base).href);
    const section = document.createElement('section');
    section.className = 'print-page bd-article';
    section.id = slug;
    section.append(...article.childNodes);
    document.body.append(section);
    return [...section.querySelectorAll('h1, h2')].filter(h => !h.closest('.admonition')).map(h =>
        [h.tagName == 'H1' ? slug : h.closest('section[id]').id, Number(h.tagName[1]), h.textContent.trim()]);
}"""

FIT = """() => {
    document.querySelectorAll('mjx-container').forEach(e => {
        const mathml = e.querySelector('mjx-assistive-mml');
        if (!mathml) return;
        e.setAttribute('role', 'img');
        e.setAttribute('aria-label', mathml.textContent);
        mathml.remove();
    });
    let narrowed = 0;
    document.querySelectorAll('mjx-container, table, svg.rnnlib-figure, img').forEach(e => {
        const column = e.parentElement.closest('p, li, td, th, dd, dt, div, figure, section').clientWidth;
        const width = (e.querySelector('mjx-math') ?? e).getBoundingClientRect().width;
        if (!column || width <= column + 1) return;
        e.style.zoom = column / width - 0.01;
        narrowed += 1;
    });
    return narrowed;
}"""

CONTENTS = """entries => {
    const list = document.createElement('nav');
    list.className = 'print-contents';
    list.innerHTML = '<h1>Contents</h1>';
    for (const [id, level, title, part] of entries) {
        const head = Object.assign(document.createElement('p'), {className: 'part', textContent: part});
        if (part) list.append(head);
        const a = document.createElement('a');
        a.href = '#' + id; a.className = 'level-' + level; a.dataset.folio = '000';
        a.append(Object.assign(document.createElement('span'), {textContent: title}));
        list.append(a);
    }
    document.querySelector('.front').after(list);
}"""

FOLIOS = """folios => {
    document.querySelectorAll('.print-contents a').forEach(a => {
        a.dataset.folio = folios[decodeURIComponent(a.getAttribute('href').slice(1))];
    });
    // Laid out anew: a layout that has been printed once breaks a few pages elsewhere the next time.
    document.body.style.display = 'none';
    document.body.getBoundingClientRect();
    document.body.style.display = '';
}"""


def parts(root: Path) -> dict[str, str]:
    """The caption of the part that begins with a document."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return {
        part["chapters"][0]["file"]: part["caption"] for part in toc.get("parts", []) if "caption" in part
    }


def destinations(path: Path) -> dict[str, int]:
    """The page, from 1, of every place that a link of the PDF leads to."""
    reader = PdfReader(path)
    return {
        name.removeprefix("/"): reader.get_destination_page_number(place) + 1
        for name, place in reader.named_destinations.items()
    }


def bind(draft: Path, target: Path, config: dict, entries: list, folios: dict[str, int]) -> None:
    """Give the PDF its title, its author and its outline (Chromium's own repeats some headings)."""
    writer = PdfWriter(clone_from=draft)
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    part = chapter = None
    for name, level, title, caption in entries:
        page = folios[name] - 1
        if caption:
            part = writer.add_outline_item(title=caption, page_number=page, is_open=False)
        if level == 1:
            chapter = writer.add_outline_item(title=title, page_number=page, parent=part, is_open=False)
        else:
            writer.add_outline_item(title=title, page_number=page, parent=chapter, is_open=False)
    writer.page_mode = "/UseOutlines"
    writer.write(target)


def make(root: Path, site: Path, target: Path) -> None:
    """Print the book whose table of contents is in ``root`` and whose pages are in ``site``."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    documents, captions = sources.toc_documents(root), parts(root)
    slugs = {(site / f"{name}.html").resolve().as_uri(): name.replace("/", "-") for name in documents}
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        page = browser.new_page(viewport={"width": 643, "height": 1000}, color_scheme="light")
        page.set_default_timeout(0)
        page.emulate_media(media="print")
        # A page with equations brings along styles, MathJax and its settings.
        host = next(n for n in documents if "MathJax" in (site / f"{n}.html").read_text(encoding="utf-8"))
        page.goto((site / f"{host}.html").resolve().as_uri())
        page.evaluate("MathJax.startup.promise.then(() => true)")
        title = html.escape(config["title"])
        front = f"<h1>{title}</h1><p>{html.escape(config['author'])}</p><p>{config['copyright']}</p>"
        page.evaluate(
            "front => { document.body.className = ''; document.title = front[0];"
            " document.body.innerHTML = `<div class='front'>${front[1]}</div>`; }",
            [config["title"], front],
        )
        entries, heads = [], []
        for name, (base, slug) in zip(documents, slugs.items(), strict=True):
            text = (site / f"{name}.html").read_text(encoding="utf-8")
            found = page.evaluate(ADD, [slug, text, base, slugs])
            entries += [[*head, captions.get(name) if i == 0 else None] for i, head in enumerate(found)]
            running = found[0][2].replace("\\", "").replace('"', "'")
            heads.append(
                f'#{slug} {{ page: {slug}; }}\n@page {slug} {{ @top-right {{ content: "{running}"; '
                "font: 8.5pt sans-serif; color: #555; } }"
            )
        page.evaluate(CONTENTS, entries)
        page.add_style_tag(content=STYLE % {"title": title} + "\n".join(heads))
        page.evaluate("MathJax.typesetPromise().then(() => document.fonts.ready).then(() => true)")
        print(f"{page.evaluate(FIT)} equations, tables and figures made narrower to fit the page")
        options = {"prefer_css_page_size": True, "print_background": True, "tagged": True}
        before: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "book.pdf"
            for _ in range(3):
                page.pdf(path=draft, **options)
                if (now := destinations(draft)) == before:
                    break
                page.evaluate(FOLIOS, now)
                before = now
            else:
                sys.exit("the page numbers in the contents do not settle")
            bind(draft, target, config, entries, before)
        browser.close()
    print(f"{target}: {len(PdfReader(target).pages)} pages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the built pages")
    parser.add_argument("target", type=Path, help="the PDF to write")
    parser.add_argument("--root", type=Path, default=ROOT, help="where _toc.yml and _config.yml are")
    arguments = parser.parse_args()
    make(arguments.root, arguments.site, arguments.target)


if __name__ == "__main__":
    main()
