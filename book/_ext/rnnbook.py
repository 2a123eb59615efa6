"""The book's own Sphinx extension: it ties pages and package together.

- Notebooks are cached under a folder named by the contents of the lock file, the package and the
  records of the experiments, so none is passed off unexecuted when one of these has changed.
- Under every labelled equation stands the function that computes it, one click away.
- ``{equation-index}`` lists the registry: equation, function, source, tests.
- ``{agreement-table}`` shows how closely each function agrees with its references.
- ``{character-sampler}`` places a character model that writes in the page (character_sampler.py),
  ``{one-unit}`` and ``{memory-cell}`` machines to turn (workbench.py).
- The API pages show the declared shapes as the signature.
- No page asks another host for a script or a style.
- Pages are made lighter (lighten.py).
- What the theme gets wrong for readers with a screen reader, a keyboard or no JavaScript is mended.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from myst_nb.sphinx_ import HideCodeCellNode, depart_HideCellInput
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import sources

from rnnlib import backend, equations


# --- the notebooks' cache ---------------------------------------------------------------------


def cache_key() -> str:
    """A hash of everything a notebook's outputs depend on, apart from the notebook."""
    digest = hashlib.sha256(sys.version.encode())
    package = (p for p in (ROOT / "rnnlib").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    records = (ROOT / "experiments").glob("*.json")
    for path in [ROOT / "requirements.lock", *sorted(package), *sorted(records)]:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def set_cache(app: Sphinx, config: Any) -> None:
    """Key the cache. The setting is part of Sphinx's environment: a new key re-reads every page."""
    config.nb_execution_cache_path = str(ROOT / "_build" / "cache" / cache_key())


# --- the function under each equation ---------------------------------------------------------


def function_reference(equation: equations.Equation, docname: str) -> nodes.Element:
    """A link to the function's entry in the API pages."""
    target = equation.qualified_name
    xref = addnodes.pending_xref(
        "", refdomain="py", reftype="func", reftarget=target, refdoc=docname, refexplicit=False
    )
    xref += nodes.literal("", target.removeprefix("rnnlib."))
    return xref


def link_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Under a labelled equation, name the function that computes it."""
    registry = equations.index()
    for block in list(doctree.findall(nodes.math_block)):
        label = block.get("label")
        if label in registry and "rnnbook-index" not in block.get("classes", []):
            line = nodes.paragraph("", "", classes=["equation-code"], equation=label)
            line += nodes.Text("in code: ")
            line += function_reference(registry[label], app.env.docname)
            parent = block.parent
            parent.insert(parent.index(block) + 1, line)


# --- the equation index -----------------------------------------------------------------------


class EquationIndex(SphinxDirective):
    """Every equation of the registry: its formula, its function, its source, its tests."""

    def run(self) -> list[nodes.Node]:
        found, tests = sources.labelled_equations(ROOT), sources.tests_by_label(ROOT)
        registry = equations.index()
        out: list[nodes.Node] = []
        by_page: dict[str, list[str]] = {}
        order = list(found)
        for label in sorted(registry, key=lambda name: order.index(name) if name in found else -1):
            page = found[label].docname if label in found else "no page"
            by_page.setdefault(page, []).append(label)
        for page, labels in by_page.items():
            section = nodes.section(ids=[nodes.make_id(f"index-{page}")])
            title = nodes.title()
            title += nodes.Text(found[labels[0]].title if labels[0] in found else page)
            section += title
            for label in labels:
                section += self.entry(registry[label], found.get(label), tests.get(label, []))
            out.append(section)
        return out

    def entry(self, equation: equations.Equation, source: Any, tests: list[str]) -> nodes.Node:
        box = nodes.container(classes=["equation-entry"])
        head = nodes.paragraph(classes=["equation-entry-head"])
        xref = addnodes.pending_xref(
            "",
            refdomain="math",
            reftype="numref",
            reftarget=equation.label,
            refdoc=self.env.docname,
            refexplicit=False,
            refwarn=True,
        )
        xref += nodes.literal("", equation.label)
        head += [xref, nodes.Text(" "), nodes.literal("", equation.label)]
        box += head
        if source is not None:
            box += nodes.math_block(
                source.latex,
                source.latex,
                classes=["rnnbook-index"],
                nowrap=False,
                number=None,
                label=None,
                docname=self.env.docname,
            )
        line = nodes.paragraph(classes=["equation-entry-code"])
        line += [nodes.Text("function "), function_reference(equation, self.env.docname), nodes.Text(" · ")]
        up = "../" * self.env.docname.count("/")
        module = equation.function.__module__.replace(".", "/")
        anchor = equation.function.__qualname__
        href = f"{up}_modules/{module}.html#{anchor}"
        line += nodes.reference("", "source", refuri=href, internal=True)
        line += nodes.Text(" · tests ")
        for i, test in enumerate(tests):
            line += [nodes.Text(", " if i else ""), nodes.literal("", test)]
        box += line
        return box


# --- the table of agreement -------------------------------------------------------------------


class AgreementTable(Directive):
    """The worst relative error found between each function and each reference, as recorded."""

    def run(self) -> list[nodes.Node]:
        rows = json.loads((ROOT / "book" / "agreement.json").read_text(encoding="utf-8"))
        worst: dict[tuple[str, str], dict[str, float]] = {}
        for r in rows:
            found = worst.setdefault((r["function"], r["reference"]), {})
            kind = "half" if r["dtype"] in {"float16", "bfloat16"} else r["dtype"]
            found[kind] = max(found.get(kind, 0.0), r["worst_error"])
        dtypes = [d for d in ("float64", "float32", "half") if any(d in found for found in worst.values())]
        table = nodes.table(classes=["agreement"])
        group = nodes.tgroup(cols=2 + len(dtypes))
        table += group
        group += [nodes.colspec(colwidth=width) for width in (40, 30, *(10 for _ in dtypes))]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += self.row(["function", "reference", *dtypes])
        for (function, reference), errors in worst.items():
            numbers = [self.number(errors[d]) if d in errors else "" for d in dtypes]
            body += self.row([function, reference, *numbers])
        return [table]

    @staticmethod
    def number(error: float) -> str:
        return "exact" if error == 0 else f"{error:.0e}"

    @staticmethod
    def row(cells: list[str]) -> nodes.row:
        row = nodes.row()
        for i, cell in enumerate(cells):
            text = nodes.literal("", cell) if i == 0 and "." in cell else nodes.Text(cell)
            row += nodes.entry("", nodes.paragraph("", "", text))
        return row


# --- the API pages ----------------------------------------------------------------------------


def show_shapes(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> Any:
    """Replace annotations in signatures by the declared shapes: ``h_t: (B, H)``."""
    if what not in {"function", "method", "class"} or not callable(obj):
        return None
    try:
        parameters = list(inspect.signature(obj).parameters.values())
    except (TypeError, ValueError):  # a class without a Python signature
        return None
    annotations = inspect.get_annotations(inspect.unwrap(obj), eval_str=True)
    parts = []
    for p in parameters:
        if p.name == "self":
            continue
        spec = backend.shape_of(annotations.get(p.name))
        text = p.name if spec is None else f"{p.name}: [{', '.join(spec.split())}]"  # see round_shapes
        if p.kind is p.VAR_POSITIONAL:
            text = "*" + text
        elif p.kind is p.VAR_KEYWORD:
            text = "**" + text
        elif p.default is not p.empty:
            text += f"={p.default!r}"
        parts.append(text)
    return f"({', '.join(parts)})", ""


def round_shapes(app: Sphinx, doctree: nodes.document) -> None:
    """Shapes in round brackets. Sphinx drops those of a tuple in an annotation, and keeps square ones."""
    for parameter in doctree.findall(addnodes.desc_parameter):
        for text in list(parameter.findall(nodes.Text)):
            if "default_value" not in text.parent.get("classes", []):
                text.parent.replace(text, nodes.Text(text.translate({ord("["): "(", ord("]"): ")"})))


# --- offline ----------------------------------------------------------------------------------


def keep_offline(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Drop what comes from other hosts (sphinx-thebe), and the cards' style and script where no card is."""
    cards = "sd-" in context.get("body", "")

    def ours(entry: Any) -> bool:
        text = str(getattr(entry, "filename", entry) or "") + str(getattr(entry, "attributes", ""))
        if not cards and re.search(r"sphinx-design|design-tabs", text):
            return False
        return "thebe" not in text.lower() and re.search(r"https?://", text) is None

    for key in ("script_files", "css_files"):
        context[key] = [entry for entry in context.get(key, []) if ours(entry)]


# --- every reader -----------------------------------------------------------------------------


def name_rows(app: Sphinx, doctree: nodes.document) -> None:
    """A table whose first head is empty has its first column as heads of the rows."""
    for table in doctree.findall(nodes.table):
        head = next(table.findall(nodes.thead), None)
        if head is not None and not head[0][0].astext().strip():
            next(table.findall(nodes.colspec))["stub"] = 1


def unlink_solutions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The title of a folded solution opens it. A link within it would lead away, to what stands above."""
    for reference in list(doctree.findall(nodes.reference)):
        title = reference.parent
        if isinstance(title, nodes.title) and "solution" in title.parent.get("classes", []):
            title.replace(reference, nodes.Text(reference.astext()))


def keep_ids_unique(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """sphinx-exercise gives the body of every exercise, and of every solution, the same id."""
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []


def escape_letters(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In ``rows: H.`` the letter is a size, and not the eighth item of a list."""
    lines[:] = [re.sub(r"^(\s+\w+: )([A-Z])\.$", r"\1\\\2.", line) for line in lines]


def visit_hidden_cell(self: Any, node: HideCodeCellNode) -> None:
    """MyST-NB's own, but its control is called what it shows, not "Toggle hidden content"."""
    self.body.append(f'<details class="admonition hide {" ".join(node["classes"])}">\n<summary>\n')
    for state, prompt in (("collapsed", node["prompt_show"]), ("expanded", node["prompt_hide"])):
        self.body.append(f'<p class="{state} admonition-title">{html.escape(prompt)}</p>\n')
    self.body.append("</summary>\n")


def visit_citation(self: Any, node: nodes.citation) -> None:
    """Docutils' own, but an entry is a list item: the role it gives has been withdrawn from ARIA."""
    if not isinstance(node.previous_sibling(), nodes.citation):
        self.body.append('<div role="list" class="citation-list">\n')
    self.body.append(self.starttag(node, "div", classes=["citation"], role="listitem"))


def depart_citation(self: Any, node: nodes.citation) -> None:
    self.body.append("</div>\n")
    if not isinstance(node.next_node(descend=False, siblings=True), nodes.citation):
        self.body.append("</div>\n")


NO_SCRIPT = (
    '<noscript><p class="no-script">JavaScript is off: equations stand as their TeX source, everything is '
    "unfolded, and the figures with sliders keep their first picture.</p></noscript>"
)


def tell_without_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Say what is missing without JavaScript."""
    if doctree is not None:
        context["body"] = NO_SCRIPT + context["body"]


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("finding")
    app.setup_extension("cover")
    app.setup_extension("lighten")
    app.connect("config-inited", set_cache)
    app.connect("doctree-read", link_equations)
    app.connect("autodoc-process-signature", show_shapes)
    app.connect("doctree-read", round_shapes)
    app.connect("html-page-context", keep_offline, priority=999)
    app.connect("doctree-read", name_rows)
    app.connect("doctree-resolved", keep_ids_unique)
    app.connect("doctree-resolved", unlink_solutions)
    app.connect("autodoc-process-docstring", escape_letters, priority=400)  # before napoleon
    app.connect("html-page-context", tell_without_scripts, priority=999)
    app.add_node(HideCodeCellNode, override=True, html=(visit_hidden_cell, depart_HideCellInput))
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.add_directive("equation-index", EquationIndex)
    app.add_directive("agreement-table", AgreementTable)
    app.setup_extension("character_sampler")
    app.setup_extension("workbench")
    return {"version": "1", "env_version": 2, "parallel_read_safe": True, "parallel_write_safe": True}
