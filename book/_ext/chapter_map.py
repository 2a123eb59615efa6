"""``{book-map}``: what needs what among the chapters, as boxes and arrows and as a list.

Every chapter stands below all that it needs, three in a row at most. An arrow that others imply is left out.
An arrow past a row runs beside its boxes; the columns are chosen so that arrows are short and rarely cross.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sources
import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

COLUMNS = 3
WIDTH, HEIGHT = 168, 106
"""A box."""
GAP, DROP, RIM = 24, 48, 12
"""The space between two columns, between two rows, and at the sides. Arrows run in all of them."""
LANE = 8
"""Between two arrows that run side by side."""


class Chapter(NamedTuple):
    """A chapter on the map: what it needs, and the appendices that its text recommends."""

    docname: str
    name: str
    title: str
    needs: list[str]
    helped: list[str]


def chapters(root: Path) -> list[Chapter]:
    """The notebooks in reading order, with what the sentence "You need …" of each refers to."""
    found, texts, number = [], {}, 0
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for part in toc.get("parts", []):
        for docname in [chapter["file"] for chapter in part["chapters"]]:
            number += bool(part.get("numbered"))
            path = sources.source_path(root, docname)
            if path.suffix != ".ipynb":
                continue
            cells = [text for _, text in sources.markdown_cells(path)]
            title = re.search(r"^# (.+)$", cells[0], re.M)
            needs = re.search(r"\*\*You need\*\*(.*?)\.(?=\s|$)", cells[0], re.S)
            if title is None or needs is None:
                raise ValueError(f"{docname}: the first cell has no title, or no sentence 'You need …'")
            texts[docname] = "\n".join(cells)
            name = f"Chapter {number}" if part.get("numbered") else "Appendix"
            found.append(Chapter(docname, name, title[1].strip(), linked(docname, needs[1]), []))
    before = all_needs(found)
    appendices = {c.docname for c in found if c.name == "Appendix"}
    for chapter in found:
        for other in dict.fromkeys(linked(chapter.docname, texts[chapter.docname])):
            known = before[chapter.docname] | {chapter.docname}
            if other in appendices - known and not before[other] & known:
                chapter.helped.append(other)
    return found


def linked(docname: str, text: str) -> list[str]:
    """The notebooks that a text of a notebook refers to."""
    return [docname.rpartition("/")[0] + "/" + file for file in re.findall(r"\]\(([\w./]+)\.ipynb\)", text)]


def all_needs(found: list[Chapter]) -> dict[str, set[str]]:
    """All that comes before a chapter, directly or through others."""
    needs: dict[str, set[str]] = {c.docname: set(c.needs) for c in found}

    def reach(docname: str, path: tuple[str, ...] = ()) -> set[str]:
        if docname in path:
            raise ValueError(f"the chapters need each other in a circle: {' → '.join((*path, docname))}")
        return needs[docname].union(*(reach(need, (*path, docname)) for need in needs[docname]))

    return {docname: reach(docname) for docname in needs}


# --- where everything stands ------------------------------------------------------------------


class Arrow(NamedTuple):
    """From a chapter to one that needs it, or that it helps."""

    start: str
    end: str
    helps: bool


def arrows_of(found: list[Chapter]) -> list[Arrow]:
    """What needs what, without what follows; then what helps what."""
    before = all_needs(found)
    needed = [
        Arrow(need, c.docname, False)
        for c in found
        for need in c.needs
        if not any(need in before[other] for other in c.needs)
    ]
    return needed + [Arrow(other, c.docname, True) for c in found for other in c.helped]


def rows_of(found: list[Chapter], arrows: list[Arrow]) -> list[list[str]]:
    """Each chapter in the first row with room below its needs; the head of a long chain goes first."""

    def longest(docname: str, here: int) -> int:
        there = 1 - here
        return max((1 + longest(a[there], here) for a in arrows if a[here] == docname), default=0)

    rank = {c.docname: longest(c.docname, here=1) for c in found}
    tail = {c.docname: longest(c.docname, here=0) for c in found}
    rows: list[list[str]] = []
    row: dict[str, int] = {}
    for docname in sorted(rank, key=lambda d: (rank[d], -tail[d])):
        place = 1 + max((row[a.start] for a in arrows if a.end == docname), default=-1)
        while place < len(rows) and len(rows[place]) == COLUMNS:
            place += 1
        rows += [[] for _ in range(place + 1 - len(rows))]
        rows[place].append(docname)
        row[docname] = place
    return rows


def centre(column: float) -> float:
    """The middle of a column; of the space on its left for half a column less."""
    x = RIM + WIDTH / 2 + column * (WIDTH + GAP)
    if column == -0.5:
        return RIM / 2
    return x - (GAP - RIM) / 2 if column == COLUMNS - 0.5 else x


Columns = list[dict[str, int]]
"""For each row, the column of each of its boxes."""


def row_of(columns: Columns, docname: str) -> int:
    """The row in which a chapter stands."""
    return next(r for r, row in enumerate(columns) if docname in row)


def route(columns: Columns, arrow: Arrow) -> list[float]:
    """Where an arrow passes each row from its start to its end: the way with the least sideways."""
    first, last = row_of(columns, arrow.start), row_of(columns, arrow.end)
    begin, end = centre(columns[first][arrow.start]), centre(columns[last][arrow.end])
    ways: dict[float, tuple[float, list[float]]] = {begin: (0.0, [begin])}
    for row in columns[first + 1 : last]:
        free = [c for c in range(COLUMNS) if c not in row.values()]
        beside = [c - 0.5 for c in range(COLUMNS + 1)]
        ways = {
            x: min((cost + abs(x - path[-1]), [*path, x]) for cost, path in ways.values())
            for x in map(centre, (*free, *beside))
        }
    return min((cost + abs(end - path[-1]), [*path, end]) for cost, path in ways.values())[1]


def lanes(columns: Columns, arrows: list[Arrow]) -> list[tuple[int, list[float]]]:
    """For each arrow the row of its start, and where it passes that row and each one down to its end."""
    first = [row_of(columns, arrow.start) for arrow in arrows]
    paths = [route(columns, arrow) for arrow in arrows]
    shared: dict[tuple[int, float], list[int]] = {}
    for i, path in enumerate(paths):
        for k in range(1, len(path) - 1):
            shared.setdefault((first[i] + k, path[k]), []).append(i)
    moved = [list(path) for path in paths]
    for (row, x), together in shared.items():
        # Side by side in the order in which they come and go.
        together.sort(key=lambda i: (paths[i][row - first[i] - 1] + paths[i][row - first[i] + 1], i))
        for n, i in enumerate(together):
            moved[i][row - first[i]] = x + (n - (len(together) - 1) / 2) * LANE
    return list(zip(first, moved, strict=True))


def cost(columns: Columns, arrows: list[Arrow]) -> float:
    """How far arrows run sideways, and how often they cross."""
    found = lanes(columns, arrows)
    total = sum(abs(b - a) for _, path in found for a, b in itertools.pairwise(path))
    for (r, p), (s, q) in itertools.combinations(found, 2):
        for row in range(max(r, s), min(r + len(p), s + len(q)) - 1):
            before, after = p[row - r] - q[row - s], p[row - r + 1] - q[row - s + 1]
            total += WIDTH * (before * after < 0)
    return total


def arranged(rows: Sequence[Sequence[str]], arrows: list[Arrow]) -> Columns:
    """The columns of all boxes: row after row is rearranged as long as that makes the map better."""
    middle = [[0, 1, 2], [1], [0, 2], [0, 1, 2]]
    columns = [dict(zip(row, middle[len(row)], strict=False)) for row in rows]
    best, before = cost(columns, arrows), float("inf")
    while best < before:
        before = best
        for r, row in enumerate(rows):
            for choice in itertools.permutations(range(COLUMNS), len(row)):
                other = [*columns[:r], dict(zip(row, choice, strict=True)), *columns[r + 1 :]]
                if (found := cost(other, arrows)) < best:
                    best, columns = found, other
    return columns


# --- the picture ------------------------------------------------------------------------------


def draw(found: list[Chapter], up: str = "") -> str:
    """The map as inline SVG; ``up`` leads from its page to the root of the book."""
    arrows = arrows_of(found)
    columns = arranged(rows_of(found, arrows), arrows)
    place = {d: (centre(c) - WIDTH / 2, RIM / 2 + r * (HEIGHT + DROP)) for r, d, c in boxes_of(columns)}
    lines = [
        f'<path class="{"map-helps" if arrow.helps else "map-needs"}" '
        f'd="{way(RIM / 2 + HEIGHT + row * (HEIGHT + DROP), path)}" marker-end="url(#map-arrow)"/>'
        for arrow, (row, path) in zip(arrows, lanes(columns, arrows), strict=True)
    ]
    total = 2 * RIM + COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    bottom = RIM + len(columns) * (HEIGHT + DROP) - DROP
    return (
        f'<svg class="book-map" viewBox="0 0 {total} {bottom}" role="group" '
        'aria-label="The chapters as boxes. An arrow leads from a chapter to one that needs it, '
        'a dashed one to one that it helps. The list below says the same.">'
        '<defs><marker id="map-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<g class="map-arrows">{"".join(lines)}</g>'
        + "".join(box(chapter, *place[chapter.docname], up) for chapter in found)
        + "</svg>"
    )


def boxes_of(columns: Columns) -> Iterator[tuple[int, str, int]]:
    """Row, name and column of every box."""
    for r, row in enumerate(columns):
        for docname, column in row.items():
            yield r, docname, column


def way(y: float, path: Sequence[float]) -> str:
    """Curves in the spaces between the rows, straight lines beside their boxes."""
    end = y + DROP
    d = f"M{path[0]:g} {y:g}"
    for i, (a, b) in enumerate(itertools.pairwise(path)):
        last = i == len(path) - 2
        d += f"C{a:g} {end:g} {b:g} {y:g} {b:g} {end - 3 if last else end:g}"
        if not last:
            y, end = y + HEIGHT + DROP, end + HEIGHT + DROP
            d += f"V{y:g}"
    return d


def box(chapter: Chapter, x: float, y: float, up: str) -> str:
    """A chapter, as a link."""
    lines = wrapped(chapter.title, 16)
    middle, first = x + WIDTH / 2, y + HEIGHT / 2 - 11 * len(lines) + 6
    return (
        f'<a href="{up}{chapter.docname}.html"><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" '
        f'rx="8"/><text x="{middle:g}" y="{first:g}"><tspan class="map-name">{chapter.name}</tspan>'
        + "".join(f'<tspan x="{middle:g}" dy="23">{html.escape(line)}</tspan>' for line in lines)
        + "</text></a>"
    )


def wrapped(title: str, width: int) -> list[str]:
    """A title in the fewest lines of that many letters, of about equal length; a long word stands alone."""
    words = title.split()
    for n in range(len(words)):
        ways = [
            [" ".join(words[a:b]) for a, b in itertools.pairwise((0, *cuts, len(words)))]
            for cuts in itertools.combinations(range(1, len(words)), n)
        ]
        best = min(ways, key=lambda lines: max(map(len, lines)))
        if max(map(len, best)) <= width:
            return best
    return words


class BookMap(SphinxDirective):
    """What needs what: a picture of boxes and arrows, and the same as a list."""

    def run(self) -> list[nodes.Node]:
        found = chapters(Path(self.env.app.srcdir))
        for chapter in found:
            self.env.note_dependency(str(sources.source_path(Path(self.env.app.srcdir), chapter.docname)))
        listing = nodes.bullet_list()
        by_name = {c.docname: c for c in found}
        for chapter in found:
            line = nodes.paragraph("", "", self.link(chapter), nodes.Text(f" ({chapter.name.lower()})"))
            line += nodes.Text(" needs " if chapter.needs else " needs no other chapter")
            line += self.links([by_name[need] for need in chapter.needs])
            if chapter.helped:
                line += nodes.Text("; it is helped by ")
                line += self.links([by_name[other] for other in chapter.helped])
            line += nodes.Text(".")
            listing += nodes.list_item("", line)
        picture = nodes.raw("", draw(found, "../" * self.env.docname.count("/")), format="html")
        return [picture, nodes.rubric("", "The same as a list"), listing]

    def links(self, listed: list[Chapter]) -> list[nodes.Node]:
        """Links with commas and "and"."""
        parts: list[nodes.Node] = []
        for i, chapter in enumerate(listed):
            joint = "" if i == 0 else " and " if i == len(listed) - 1 else ", "
            parts += [nodes.Text(joint), self.link(chapter)]
        return parts

    def link(self, chapter: Chapter) -> nodes.Element:
        xref = addnodes.pending_xref(
            "",
            refdomain="std",
            reftype="doc",
            reftarget="/" + chapter.docname,
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )
        xref += nodes.inline("", chapter.title)
        return xref


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("book-map", BookMap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
