"""Finding one's way in the book: previews, back-links, the index and the openers of the chapters.

- A reference to an equation or to a word of the glossary shows what it refers to, on the spot. What
  ``book/assets/previews.js`` shows is written into each page, so it needs no network and no server.
- In the chapters, the first mention of a word of the glossary on a page becomes such a reference.
- Under each equation stands where else it is used; the API names the equation that a function computes.
- The index holds the words of the glossary and the equations by name.
- What a chapter teaches, takes and needs becomes a box; chapter_map.py draws what needs what.
"""

from __future__ import annotations

import html
import pickle
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sources
from docutils import nodes
from sphinx import addnodes
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

from rnnlib import equations

ROOT = Path(__file__).resolve().parents[2]

LISTS = {
    f"book/{name}" for name in ("api", "equation_index", "errata", "glossary", "map", "sampler", "workbench")
}
LISTS.add("book/which_equation")
LISTS |= {f"book/api/{path.stem}" for path in (ROOT / "book" / "api").glob("*.md")}
"""Pages that refer to much and teach nothing new: as "used in" they would say nothing."""

SEARCH = (
    "            titles[file],\n            id ?",
    "            `${titles[file]} > ${entry}`,\n            id ?",
)
"""Search shows an entry of the index by the title of its page alone; here it names the entry as well."""

BRACKETED = re.compile(r"\((\d+|[A-Z])\.\d+\)")
"""How a reference to an equation reads."""

EVERYDAY = {"candidate", "cell", "contraction", "lag", "mask", "memory", "streaming", "window"}
"""Words of the glossary that the text also uses in their everyday sense: no automatic reference."""

CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Place(NamedTuple):
    """Where an equation stands, and what it says."""

    docname: str
    latex: str


def place_name(env: BuildEnvironment, docname: str) -> str:
    """A page as the text calls it: "chapter 3", or its title where it has no number."""
    number = env.toc_secnumbers.get(docname, {}).get("")
    return f"chapter {number[0]}" if number else env.titles[docname].astext()


def equation_reference(app: Sphinx, label: str, docname: str) -> nodes.Element:
    """A link "(3.2)" from a page to an equation."""
    math = app.env.get_domain("math")
    empty = addnodes.pending_xref()
    found = math.resolve_xref(app.env, docname, app.builder, "eq", label, empty, empty)
    if found is None:
        raise LookupError(f"{docname}: no page has the equation {label}")
    return found


# --- what is used where -----------------------------------------------------------------------


def gather(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Note where every equation stands and is used; the pages whose back-links changed are written anew."""
    places: dict[str, Place] = {}
    uses: dict[str, dict[str, str]] = {}
    for docname in sources.toc_documents(Path(app.srcdir)):
        tree = env.get_doctree(docname)
        for block in tree.findall(nodes.math_block):
            if block.get("label"):
                places[block["label"]] = Place(docname, block.astext())
        for xref in tree.findall(addnodes.pending_xref):
            if xref.get("refdomain") == "math" and docname not in LISTS:
                # Not the body of an exercise, whose id does not stay (see rnnbook.py).
                sections = (n["ids"][0] for n in ancestors(xref) if isinstance(n, nodes.section) and n["ids"])
                anchor = next((a for a in sections if not a.endswith("-content")), None)
                if anchor is not None:
                    uses.setdefault(xref["reftarget"], {}).setdefault(docname, anchor)
    before = getattr(env, "rnnbook_uses", {})
    env.rnnbook_places, env.rnnbook_uses = places, uses
    return sorted({place.docname for label, place in places.items() if before.get(label) != uses.get(label)})


def letter_equations(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """On a page that is no chapter the equations count from 1, behind a letter for the page: (A.1)."""
    letters = iter(string.ascii_uppercase)
    for docname in sources.toc_documents(Path(app.srcdir)):
        numbers = env.toc_fignumbers.get(docname, {}).get("displaymath", {})
        if numbers and not env.toc_secnumbers.get(docname, {}).get(""):
            letter = next(letters)
            numbers.update({label: (letter, i) for i, label in enumerate(numbers, start=1)})
    return []


def ancestors(node: nodes.Node) -> Iterator[nodes.Element]:
    """The parent of a node, its parent, and so on."""
    while (node := node.parent) is not None:
        yield node


def link_back(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Under an equation, the other pages that use it; at a function of the API, its equations."""
    env = app.env
    for line in doctree.findall(nodes.paragraph):
        used = env.rnnbook_uses.get(line.get("equation"), {})
        others = [page for page in used if page != docname]
        for i, page in enumerate(others):
            line += nodes.Text(", " if i else " · used in: ")
            line += make_refnode(app.builder, docname, page, used[page], nodes.Text(place_name(env, page)))
    labels: dict[str, list[str]] = {}
    for label, entry in equations.index().items():
        labels.setdefault(entry.qualified_name, []).append(label)
    for signature in list(doctree.findall(addnodes.desc_signature)):
        for label in [label for name in signature["ids"] for label in labels.get(name, [])]:
            line = nodes.paragraph("", "", nodes.Text("Equation "), classes=["function-equation"])
            where = place_name(env, env.rnnbook_places[label].docname)
            line += [equation_reference(app, label, docname), nodes.Text(f" in {where}")]
            signature.parent[-1].insert(0, line)


# --- the words of the glossary ----------------------------------------------------------------


def link_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """In a chapter, the first mention of a word of the glossary leads there."""
    if not docname.startswith("notebooks/"):
        return
    names = {name: target for (kind, name), target in terms(app.env).items() if name not in EVERYDAY}
    if not names:
        return
    # The longer names first: "forget gate" before "gate". An abbreviation is one in capitals only.
    choice = "|".join(
        re.escape(name) if name == name.lower() else f"(?-i:{re.escape(name)})"
        for name in sorted(names, key=lambda name: (-len(name), name))
    )
    pattern = re.compile(rf"\b({choice})(?:s|es)?\b", re.IGNORECASE)
    by_lower = {name.lower(): target for name, target in names.items()}
    seen = {ref["refid"] for ref in doctree.findall(nodes.reference) if ref.get("refid")}
    for text in list(doctree.findall(nodes.Text)):
        above = list(ancestors(text))
        inline = next((i for i, node in enumerate(above) if isinstance(node, nodes.paragraph)), None)
        if inline is None or not all(isinstance(n, nodes.emphasis | nodes.strong) for n in above[:inline]):
            continue
        if any("chapter-opener" in node.get("classes", []) for node in above[inline:]):
            continue
        parts: list[nodes.Node] = []
        end = 0
        for match in pattern.finditer(text):
            page, anchor = by_lower[match[1].lower()]
            if anchor in seen:
                continue
            seen.add(anchor)
            parts.append(nodes.Text(text[end : match.start()]))
            parts.append(make_refnode(app.builder, docname, page, anchor, nodes.Text(match[0])))
            end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def terms(env: BuildEnvironment) -> dict[tuple[str, str], tuple[str, str]]:
    """Every English word of the glossary: where it is explained."""
    return {
        (kind, name): target
        for (kind, name), target in env.get_domain("std").objects.items()
        if kind == "term" and not CHINESE.search(name)
    }


# --- previews ---------------------------------------------------------------------------------


def add_previews(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Write into a page what its references show on the spot, as templates that only a script opens."""
    if doctree is None:
        return
    targets = dict.fromkeys(
        ref["refuri"].partition("#")[2] if "refuri" in ref else ref.get("refid", "")
        for ref in doctree.findall(nodes.reference)
    )
    labels = {nodes.make_id(f"equation-{label}"): label for label in app.env.rnnbook_places}
    written = []
    for target in targets:
        if target in labels:
            written.append((target, equation_preview(app, labels[target], pagename)))
        elif target in definitions(app):
            written.append((target, definitions(app)[target]))
    context["body"] += "".join(
        f'\n<template data-preview="{html.escape(target)}">{shown}</template>' for target, shown in written
    )


def equation_preview(app: Sphinx, label: str, docname: str) -> str:
    """An equation with its number and its chapter."""
    place = app.env.rnnbook_places[label]
    number = equation_reference(app, label, docname).astext()
    where = html.escape(place_name(app.env, place.docname))
    block = nodes.math_block(place.latex, place.latex, nowrap=False, number=None, label=None)
    return f"<p>Equation {number}, {where}</p>{app.builder.render_partial(block)['fragment']}"


def definitions(app: Sphinx) -> dict[str, str]:
    """What each word of the glossary means, by its anchor: text and formulas, no links."""
    if not hasattr(app, "rnnbook_definitions"):
        found: dict[str, str] = {}
        for docname in {page for page, _ in terms(app.env).values()}:
            tree = app.env.get_and_resolve_doctree(docname, app.builder)
            for item in tree.findall(nodes.definition_list_item):
                names = [n for n in item.findall(nodes.term) if not CHINESE.search(n.astext())]
                heading = html.escape(", ".join(name.astext() for name in names))
                (meaning,) = item.findall(nodes.definition)
                for link in list(meaning.findall(nodes.reference)):
                    link.parent.replace(link, link.children)
                shown = "".join(app.builder.render_partial(child)["fragment"] for child in meaning)
                for name in names:
                    for anchor in name["ids"]:
                        found[anchor] = f"<p><strong>{heading}</strong></p>{shown}"
        app.rnnbook_definitions = found
    return app.rnnbook_definitions


# --- the sidebar ------------------------------------------------------------------------------


def name_folds(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Say what each fold of the sidebar opens: the theme gives it an icon and no name."""
    make = context["generate_toctree_html"]

    def named(*args: Any, **kwargs: Any) -> Any:
        tree = make(*args, **kwargs)
        for summary in tree.select("li > details > summary"):
            summary["aria-label"] = f"Pages of {summary.parent.parent.a.get_text(strip=True)}"
        return tree

    context["generate_toctree_html"] = named


# --- the index --------------------------------------------------------------------------------


class IndexNames(SphinxTransform):
    """Equations enter the index by name; the Chinese words stand together at its end."""

    default_priority = 800  # before the entries are collected

    def apply(self, **kwargs: Any) -> None:
        for node in self.document.findall(addnodes.index):
            node["entries"] = [
                (kind, text, anchor, main, "中文" if CHINESE.match(text) else key)
                for kind, text, anchor, main, key in node["entries"]
                if not text.endswith(" attribute)")  # a hundred parts of records would bury the rest
            ]
        registry = equations.index()
        for block in list(self.document.findall(nodes.math_block)):
            if (entry := registry.get(block.get("label"))) is not None:
                name = entry.function.__name__.replace("_", " ")
                base = name.removesuffix(" backward")
                kind = "equation" if base == name else "equation of the derivative"
                text = f"{base}; {kind} ({entry.function.__module__.rpartition('.')[2]})"
                anchor = nodes.make_id(f"equation-{entry.label}")
                node = addnodes.index(entries=[("single", text, anchor, "", None)])
                block.parent.insert(block.parent.index(block), node)


def keep_search_index(app: Sphinx, exception: Exception | None) -> None:
    """Save what search needs from pages that the next build will not write again.

    Sphinx collects index entries and titles for search while it writes the pages, but saves its
    environment before that: the next build that writes some pages only would forget all others.
    """
    if exception is None:
        with (Path(app.doctreedir) / ENV_PICKLE_FILENAME).open("wb") as stream:
            pickle.dump(app.env, stream, pickle.HIGHEST_PROTOCOL)


def name_entries(app: Sphinx, exception: Exception | None) -> None:
    """Let search name what it found on a page."""
    script = Path(app.outdir) / "_static" / "searchtools.js"
    if exception is None and app.builder.name == "html":
        text = script.read_text(encoding="utf-8")
        if SEARCH[1] not in text:
            if text.count(SEARCH[0]) != 1:
                raise ExtensionError("Sphinx has another searchtools.js now: look at finding.name_entries")
            script.write_text(text.replace(*SEARCH), encoding="utf-8")


def bracket_once(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A reference to an equation has brackets: where the text puts it into brackets, one pair will do."""
    for text in list(doctree.findall(nodes.Text)):
        parent = text.parent
        if BRACKETED.fullmatch(text) and isinstance(parent, nodes.reference):
            siblings = parent.parent.children
            i = siblings.index(parent)
            before, after = siblings[max(i - 1, 0)].astext(), siblings[min(i + 1, len(siblings) - 1)].astext()
            if before.endswith("(") and after.startswith(")"):
                parent.replace(text, nodes.Text(text[1:-1]))


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop the kept index entries of a page that is read anew or is gone."""
    env._search_index_index_entries.pop(docname, None)


# --- openers ----------------------------------------------------------------------------------

OPENING = ("You will learn", "Time:", "You need")


def box_openers(app: Sphinx, doctree: nodes.document) -> None:
    """Aims, time and prerequisites at the head of a chapter become one box."""
    for section in doctree.children[:1]:
        lines = [
            child
            for child in section.children
            if isinstance(child, nodes.paragraph) and child.astext().startswith(OPENING)
        ]
        if lines:
            box = nodes.container(classes=["chapter-opener"])
            section.insert(section.index(lines[0]), box)
            for line in lines:
                section.remove(line)
            box += lines


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(IndexNames)
    app.connect("doctree-read", box_openers)
    app.connect("env-get-updated", letter_equations, priority=900)  # behind Sphinx, which numbers them
    app.connect("env-updated", gather)
    app.connect("doctree-resolved", link_back)
    app.connect("doctree-resolved", link_terms)
    app.connect("html-page-context", add_previews)
    app.connect("html-page-context", name_folds, priority=900)  # behind the theme, which makes the tree
    app.connect("env-purge-doc", forget_page)
    app.connect("build-finished", keep_search_index)
    app.connect("build-finished", name_entries)
    app.connect("doctree-resolved", bracket_once)
    app.setup_extension("chapter_map")
    return {"version": "1", "env_version": 2, "parallel_read_safe": True, "parallel_write_safe": True}
