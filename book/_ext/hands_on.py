"""What a reader turns in the page: a form that scripts enliven, and a picture that stands for it elsewhere.

A template holds both. ``.hands-on-still`` is seen on paper and without scripts; the form is hidden until its
script has shown it and marked the whole with the class ``hands-on-lives``.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
ASSETS = HERE.parent / "assets"
STYLE = "hands_on/hands_on.css"


def place(
    directive: SphinxDirective, template: str, assets: Iterable[str], values: dict[str, Any]
) -> list[nodes.Node]:
    """The filled template, on a page that will load the given scripts and styles."""
    env, path = directive.env, HERE / template
    for needed in (path, *(ASSETS / name for name in assets)):
        env.note_dependency(str(needed))
    about = env.metadata[env.docname]
    about["hands-on"] = " ".join(dict.fromkeys([*about.get("hands-on", STYLE).split(), *assets]))
    page = string.Template(path.read_text(encoding="utf-8")).substitute(values)
    return [nodes.raw("", page, format="html")]


def add_assets(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """The scripts and the styles, on the pages that asked for them alone."""
    for name in (context.get("meta") or {}).get("hands-on", "").split():
        if name.endswith(".css"):
            app.add_css_file(name)
        else:
            app.add_js_file(name, loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", add_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
