"""Light pages: what no page uses is not sent, and what can wait does not hold up the first paint.

- The styles of the theme and its extensions are made for every site. Once all pages are written, the
  rules whose classes and ids stand on no page and in no script are dropped from the built copies.
- Scripts run when the page is read, in their order, and not before its text is shown.
- Code has no marks around words that look the same with and without them.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import tinycss2
from pygments.formatters import HtmlFormatter
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES, Text
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.highlighting import PygmentsBridge

STYLES = [get_style_by_name(f"a11y-high-contrast-{theme}") for theme in ("light", "dark")]
"""What the theme colours code with."""

NOT_READ = {"fontawesome.js", "searchindex.js", "weights.js"}
"""Scripts that name no class of a page: one is not loaded, two are data."""


# --- styles -----------------------------------------------------------------------------------


def names_in_use(folder: Path) -> tuple[set[str], re.Pattern[str]]:
    """The classes and ids of all pages with all words of all scripts; how names that these compose look."""
    names: set[str] = set()
    for page in folder.rglob("*.html"):
        for value in set(re.findall(r"""(?:class|id)=["']([^"']*)["']""", page.read_text(encoding="utf-8"))):
            names.update(value.split())
    words: set[str] = set()
    for script in folder.rglob("*.js"):
        if script.name not in NOT_READ and not {"locales", "mathjax"} & set(script.parts):
            words.update(re.findall(r"[\w-]+", script.read_text(encoding="utf-8")))
    beginnings = "|".join(sorted(word for word in words if re.fullmatch(r"[a-z][\w-]*-", word)))
    endings = "|".join(sorted(word for word in words if re.fullmatch(r"-[a-z][\w-]*", word)))
    return names | words, re.compile(rf"(?:{beginnings}).*|.*(?:{endings})")


def can_match(selector: list[Any], names: set[str], composed: re.Pattern[str]) -> bool:
    """Whether all classes and ids of a selector may be in use, apart from those within ``:is()``."""
    for before, token in zip([None, *selector], selector, strict=False):
        of_class = token.type == "ident" and before is not None and before == "."
        named = of_class or token.type == "hash"
        if named and token.value not in names and composed.fullmatch(token.value) is None:
            return False
    return True


def prune(rules: list[Any], names: set[str], composed: re.Pattern[str]) -> str:
    """The rules that can match something, and the comments that hold licences."""
    kept = []
    for rule in rules:
        if rule.type == "error":
            raise ExtensionError(f"a style sheet cannot be read: {rule.message}, line {rule.source_line}")
        if rule.type == "comment":
            kept += [rule.serialize()] if rule.value.startswith("!") else []
        elif rule.type == "qualified-rule":
            selectors: list[list[Any]] = [[]]
            for token in rule.prelude:
                if token == ",":
                    selectors.append([])
                elif token.type != "comment":
                    selectors[-1].append(token)
            matching = [tinycss2.serialize(s).strip() for s in selectors if can_match(s, names, composed)]
            if matching:
                kept.append(f"{','.join(matching)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.lower_at_keyword in {"media", "supports"}:
            inner = prune(tinycss2.parse_rule_list(rule.content, skip_whitespace=True), names, composed)
            kept += [f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}"] if inner else []
        else:
            kept.append(rule.serialize())
    return "\n".join(kept)


def prune_styles(app: Sphinx, exception: Exception | None) -> None:
    """Drop from the built style sheets what no page uses, and tell the pages that they have changed.

    Sphinx copies the sheets anew in every build, so each begins from the whole.
    """
    if exception is not None or app.builder.name != "html":
        return
    folder = Path(app.outdir)
    names, composed = names_in_use(folder)
    versions = {}
    own = {sheet.name for sheet in (Path(app.srcdir) / "book" / "assets").rglob("*.css")}
    for sheet in (folder / "_static").rglob("*.css"):
        if sheet.name in own:
            continue
        rules = tinycss2.parse_stylesheet(sheet.read_text(encoding="utf-8"), skip_whitespace=True)
        text = prune(rules, names, composed)
        sheet.write_text(text, encoding="utf-8")
        versions[sheet.name] = f"?v={zlib.crc32(text.encode()):08x}"
    link = re.compile(r'(href="[^"]*?/?)([\w.-]+\.css)(?:\?\w+=\w+)?"')
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        new = link.sub(lambda found: f'{found[1]}{found[2]}{versions.get(found[2], "")}"', text)
        if new != text:
            page.write_text(new, encoding="utf-8")


# --- scripts ----------------------------------------------------------------------------------


def defer_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let scripts wait until the page is read. Lines within the page need the options at once, and the
    search page has scripts at its end that need the ones in its head."""
    tag = context["js_tag"]

    def deferred(script: Any) -> str:
        written = tag(script)
        if pagename == "search" or "documentation_options.js" in written or " defer" in written:
            return written
        return written.replace("<script src=", "<script defer src=").replace(
            "<script data-", "<script defer data-"
        )

    context["js_tag"] = deferred


# --- code -------------------------------------------------------------------------------------


class PlainWordsPlain(HtmlFormatter):
    """Marks only what has another colour or weight than the text of the code around it."""

    def _get_css_classes(self, ttype: Any) -> str:
        known = ttype
        while known not in STANDARD_TYPES:  # styles know these only
            known = known.parent
        plain = all(style.style_for_token(known) == style.style_for_token(Text) for style in STYLES)
        return "" if plain else super()._get_css_classes(ttype)


def setup(app: Sphinx) -> dict[str, Any]:
    PygmentsBridge.html_formatter = PlainWordsPlain
    app.connect("html-page-context", defer_scripts, priority=999)
    app.connect("build-finished", prune_styles, priority=900)  # behind all that writes a page
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
