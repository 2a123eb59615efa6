"""The picture on the welcome page: orbits of a network of two units, drawn from ``rnnlib.dynamics``.

``{cover}`` computes it anew in every build, as SVG in the colours of the page.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rnnlib import dynamics

WIDTH, HEIGHT = 1600, 640
GAIN, ANGLE = 1.06, 0.09
STEPS, SPIRALS, EDGE = 84, 15, 27

ALT = (
    "The phase portrait of a recurrent network of two units. Lines start at a point in the middle and "
    "spiral outwards; lines from the rim flow inwards; all of them end on the same closed curve. "
    "One orbit is marked with a dot for every step."
)


def starts() -> tuple[np.ndarray, np.ndarray]:
    """First states: around the middle, and along the rim of the picture."""
    turn = np.linspace(0, 2 * np.pi, SPIRALS, endpoint=False)
    middle = 0.02 * np.column_stack([np.cos(turn), np.sin(turn)])
    across, up = np.linspace(-1.3, 1.3, EDGE), np.linspace(-1.05, 1.05, EDGE // 2 + 2)[1:-1]
    rim = [(x, y) for x in across for y in (-1.05, 1.05)] + [(x, y) for y in up for x in (-1.3, 1.3)]
    return middle, np.array(rim)


def pixels(orbit: np.ndarray) -> np.ndarray:
    """States as places on the picture."""
    return np.round([WIDTH / 2, HEIGHT / 2] + orbit * [WIDTH * 0.39, -HEIGHT * 0.48])


def curve(orbit: np.ndarray) -> str:
    """A smooth line through the states of an orbit (Catmull and Rom's), as an SVG path of whole numbers."""
    points = pixels(orbit)
    slopes = np.gradient(points, axis=0) / 3
    first, second = points[0], points[0] + slopes[0]
    path = "M{:.0f} {:.0f}C{:.0f} {:.0f} ".format(*first, *second)
    return path + "S".join(
        "{:.0f} {:.0f} {:.0f} {:.0f}".format(*(point - slope), *point)
        for point, slope in zip(points[1:], slopes[1:], strict=True)
    )


def cover() -> str:
    """The picture as SVG."""
    W_hh, b_h = dynamics.rotation(GAIN, ANGLE), np.zeros(2)
    middle, rim = starts()
    spirals = dynamics.orbit(middle, W_hh, b_h, STEPS)  # (N + 1, B, 2)
    inwards = dynamics.orbit(rim, W_hh, b_h, STEPS // 2)
    settled = dynamics.orbit(spirals[-1, :1], W_hh, b_h, 400)[-96:]  # more than once around
    marked = spirals[:, 4]
    dots = "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4.5"/>' for x, y in pixels(marked))
    lines = {
        "cover-in": [curve(inwards[:, b]) for b in range(len(rim))],
        "cover-out": [curve(spirals[:, b]) for b in range(len(middle))],
        "cover-cycle": [curve(settled[:, 0])],
    }
    groups = "".join(f'<path class="{name}" d="{"".join(paths)}"/>' for name, paths in lines.items())
    return (
        f'<svg class="cover" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="xMidYMid slice" '
        f'role="img" aria-label="{ALT}">{groups}<g class="cover-dots">{dots}</g></svg>'
    )


class Cover(SphinxDirective):
    """The picture, with nothing around it."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", cover(), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("cover", Cover)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
