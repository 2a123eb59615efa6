"""One style for every figure of the book.

A figure is shown as inline SVG whose ink takes the colour of the text around it, so the same
picture works on a light and on a dark page, in the book and in JupyterLab. The line colours keep a
contrast of at least 3:1 with both pages and stay apart for colour-blind eyes; line style repeats
what colour says. Every figure carries a description for those who cannot see it.

    fig, ax = plotting.figure()
    ax.plot(years, numbers)
    plotting.show(fig, alt="Yearly sunspot numbers rise and fall every eleven years.")
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt

BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#B0609A", "#808080"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, GREY)
"""The line colours, in order of use; the first three are Okabe and Ito's."""

DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
"""The colour maps for values around zero and for amounts."""

_INK = "#010203"  # stands for "the colour of the text" until the SVG is written

_STYLE: Any = {
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.unicode_minus": True,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "rnnlib",  # the same figure is the same bytes
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=["-", "--", "-.", (0, (1, 1)), "-"]),
    "image.cmap": SEQUENTIAL,
}


def figure(
    width: float = 7.0,
    height: float = 3.0,
    rows: int = 1,
    columns: int = 1,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """An empty figure in the style of the book.

    Args:
        width: in inches; 7 fills the text column.
        height: in inches.
        rows: rows of axes.
        columns: columns of axes.
        **kwargs: passed to ``matplotlib.pyplot.subplots``.

    Returns:
        The figure, and its axes (one, or an array of them).
    """
    mpl.rcParams.update(_STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **kwargs)


@dataclass(frozen=True)
class ThemedFigure:
    """A finished figure: SVG for pages and notebooks, PNG for print.

    Attributes:
        svg: inline SVG, its ink ``currentColor``.
        png: the same picture in black ink on white.
        alt: the description.
    """

    svg: str
    png: bytes
    alt: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/html": self.svg, "image/png": self.png, "text/plain": f"[figure: {self.alt}]"}


def show(fig: Any, alt: str) -> ThemedFigure:
    """Finish a figure, as the last expression of a notebook cell.

    Args:
        fig: what :func:`figure` returned.
        alt: what the picture shows, in a sentence or two, for readers who cannot see it.

    Raises:
        ValueError: the description is empty.
    """
    if not alt.strip():
        raise ValueError("show: alt is empty, expected a sentence that says what the figure shows")
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Ids are shared by all inline SVGs of a page: make them this figure's own.
    own = "f" + hashlib.sha256((svg + alt).encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{own}-", svg)
    head, body = svg.split(">", 1)
    points = re.search(r'\bwidth="([\d.]+)pt"', head)
    if points is None:  # matplotlib always writes it; without it the page could not size the figure
        raise RuntimeError("show: matplotlib wrote an SVG without a width")
    head = re.sub(r'\b(width|height)="[^"]*"\s*', "", head)
    pixels = float(points[1]) * 96 / 72
    svg = (
        f'{head} class="rnnlib-figure" role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'style="width:100%;max-width:{pixels:.0f}px;height:auto">{body}'
    )
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=150, facecolor="white")
    plt.close(fig)
    return ThemedFigure(svg, png.getvalue(), alt)


def states(ax: Any, hs: Any, times: Any = None, limit: float | None = None) -> Any:
    """Draw hidden states over time as a picture: one row per unit, one column per step.

    Args:
        ax: the axes.
        hs: states of one sequence, (T, H).
        times: labels of the first and last step; 1 and T if None.
        limit: the value of the strongest colour; the largest magnitude if None.

    Returns:
        The image, for a colour bar.
    """
    hs = np.asarray(hs)
    limit = float(np.abs(hs).max()) if limit is None else limit
    first, last = (1, len(hs)) if times is None else (times[0], times[-1])
    image = ax.imshow(
        hs.T,
        aspect="auto",
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        extent=(first - 0.5, last + 0.5, hs.shape[1] + 0.5, 0.5),
        interpolation="nearest",
    )
    ax.set(xlabel="time step $t$", ylabel="unit")
    ax.spines[:].set_visible(False)
    return image
