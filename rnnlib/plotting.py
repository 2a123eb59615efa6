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

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from PIL import Image

from rnnlib.train import History

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
    """A finished figure: HTML for pages and notebooks, PNG for print.

    Attributes:
        html: inline SVG, its ink ``currentColor``; below it the control, if there is one.
        png: the same picture in black ink on white.
        alt: the description.
    """

    html: str
    png: bytes
    alt: str

    def __str__(self) -> str:
        return f"[figure: {self.alt}]"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/html": self.html, "image/png": self.png, "text/plain": str(self)}


def show(fig: Any, alt: str) -> ThemedFigure:
    """Finish a figure, as the last expression of a notebook cell.

    Args:
        fig: what :func:`figure` returned.
        alt: what the picture shows, in a sentence or two, for readers who cannot see it.

    Raises:
        ValueError: the description is empty.
    """
    _check_alt("show", alt)
    drawing, png = _drawing(fig), _png(fig)
    plt.close(fig)
    return ThemedFigure(_inline(drawing, alt), png, alt)


def slider(
    draw: Callable[[Any], Any],
    values: Sequence[Any],
    *,
    label: str,
    alt: str,
    say: Callable[[Any], str] | None = None,
    start: int = 0,
) -> ThemedFigure:
    """A figure with one quantity for the reader to turn, as the last expression of a notebook cell.

    The picture is drawn once for every value, here and now, by the same functions as everything
    else. The page holds all of them and shows one; what they have in common is stored once. It
    needs no kernel, no network and no library. Without JavaScript, and in print, the first picture
    remains.

        def orbit(w):
            fig, ax = plotting.figure()
            ax.plot(states(w))
            ax.set(ylim=(-1, 1))  # the same in all pictures, or the axes jump
            return fig

        plotting.slider(orbit, np.linspace(0, 2, 21), label="weight w", alt="…")

    Args:
        draw: draws the figure for one value and returns it; every call the same size.
        values: what to draw, at least two; numbers or short strings.
        label: what the slider turns, in plain words.
        alt: what the figure shows and what changes in it, for readers who cannot see it.
        say: the sentence below the figure for one value, with its numbers; label and value if None.
        start: the index of the value shown first.

    Raises:
        ValueError: no description, fewer than two values, ``start`` is not an index of ``values``, or
            the figures differ in size.
    """
    _check_alt("slider", alt)
    if len(values) < 2:
        raise ValueError(f"slider: values has {len(values)} entries, expected at least 2")
    if not 0 <= start < len(values):
        raise ValueError(f"slider: start is {start}, expected an index of the {len(values)} values")
    names = [v if isinstance(v, str) else f"{v:.3g}".replace("-", "−") for v in values]
    sentences = [f"{label}: {name}" for name in names] if say is None else [say(v) for v in values]
    drawings, png = [], b""
    for index, value in enumerate(values):
        fig = draw(value)
        drawings.append(_drawing(fig))
        if index == start:
            png = _png(fig)
        plt.close(fig)
    sizes = {drawing.get("viewBox") for drawing in drawings}
    if len(sizes) > 1:
        raise ValueError(f"slider: draw returned figures of different sizes: {sorted(map(str, sizes))}")
    definitions = {item.get("id"): item for drawing in drawings for item in drawing[0]}
    for drawing in drawings:
        drawing[0][:] = definitions.values()
    picture = _inline(_merge(dict(enumerate(drawings)), start)[0], alt)
    data = html.escape(json.dumps([names, sentences], ensure_ascii=False), quote=True)
    control = (
        f'<label style="display:flex;gap:0.75em;align-items:center"><span>{html.escape(label)}</span>'
        f'<input type="range" min="0" max="{len(values) - 1}" value="{start}" autocomplete="off" '
        f'aria-valuetext="{html.escape(names[start], quote=True)}" style="flex:1;min-width:8em" '
        # JupyterLab takes the arrow keys for itself, except where it is told not to.
        f'data-lm-suppress-shortcuts="true" oninput="{_TURN}" /></label>'
        f"<output>{html.escape(sentences[start])}</output>"
    )
    return ThemedFigure(
        f'<div class="rnnlib-slider" data-says="{data}">'
        f'<div style="overflow-x:auto">{picture}</div>{control}</div>',
        png,
        alt,
    )


_TURN = (
    "const figure = this.closest('.rnnlib-slider'), [names, sentences] = JSON.parse(figure.dataset.says);"
    "for (const part of figure.querySelectorAll('[data-at]'))"
    " part.style.display = part.dataset.at.split(' ').includes(this.value) ? '' : 'none';"
    "this.setAttribute('aria-valuetext', names[this.value]);"
    "figure.querySelector('output').textContent = sentences[this.value];"
)


def _check_alt(function: str, alt: str) -> None:
    if not alt.strip():
        raise ValueError(f"{function}: alt is empty, expected a sentence that says what the figure shows")


_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def _drawing(fig: Any) -> ElementTree.Element:
    """The SVG of a figure; its first child holds all that the others refer to, once each."""
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    definitions: dict[str | None, ElementTree.Element] = {}
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in {f"{{{_SVG}}}defs", f"{{{_SVG}}}metadata"}]:
            parent.remove(child)
            if child.tag.endswith("defs"):
                definitions |= {item.get("id"): item for item in child}
        if parent.tag == f"{{{_SVG}}}g":
            parent.attrib.pop("id", None)  # nothing refers to the id of a group
        parent.text = parent.tail = None  # line breaks
    for item in definitions.values():
        for element in item.iter():
            if element.tag != f"{{{_SVG}}}style":
                element.text = None
            element.tail = None
    root.insert(0, ElementTree.Element(f"{{{_SVG}}}defs"))
    root[0].extend(definitions.values())
    for element in root.iter():
        _shorten(element)
    return root


def _shorten(element: ElementTree.Element) -> None:
    """Write an element of matplotlib's in fewer letters. What is drawn stays, to a hundredth of a point."""
    reference = element.attrib.pop(f"{{{_XLINK}}}href", None)
    if reference is not None:  # the name of before SVG 2
        embedded = reference.removeprefix("data:image/png;base64,")
        element.set("href", reference if embedded == reference else _small_png(embedded))
    if "d" in element.attrib:
        element.set("d", _short_path(element.attrib["d"]))
    if "style" in element.attrib:
        element.set("style", element.attrib["style"].replace(": ", ":").replace("; ", ";"))
    for name in {"x", "y"} & set(element.attrib):
        element.set(name, _short_number(element.attrib[name]))
    transform = re.sub(r"translate\(([-\d.e]+) ([-\d.e]+)\)", _short_move, element.get("transform", ""))
    if transform:
        element.set("transform", transform)
    alone = re.fullmatch(r"translate\((\S+) (\S+)\)", transform)
    if alone and element.tag == f"{{{_SVG}}}use":
        del element.attrib["transform"]
        element.attrib |= {
            name: value for name, value in zip("xy", alone.groups(), strict=True) if value != "0"
        }


def _short_move(found: re.Match[str]) -> str:
    return f"translate({_short_number(found[1])} {_short_number(found[2])})"


def _short_number(number: str | int) -> str:
    """A number, or hundredths in whole, to two decimals: 0.50 is written .5"""
    hundredths = number if isinstance(number, int) else round(float(number) * 100)
    digits = f"{abs(hundredths) / 100:.2f}".strip("0").removesuffix(".") or "0"
    return f"-{digits}" if hundredths < 0 else digits


def _short_path(path: str) -> str:
    """The data of a path, each point relative to the one before, in hundredths so that no error adds up."""
    written, last = "", ""
    x = y = start_x = start_y = 0
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        values = [round(float(number) * 100) for number in numbers.split()]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command == "M":
            ((x, y),) = points
            written += f"M{_short_number(x)} {_short_number(y)}"
            start_x, start_y = x, y
        elif command == "z":
            written += "z"
            x, y = start_x, start_y
        elif command in "LQC":
            offsets = [offset for px, py in points for offset in (px - x, py - y)]
            for i, number in enumerate(map(_short_number, offsets)):
                letter = command.lower() if i == 0 and command != last else ""
                written += letter or ("" if number[0] == "-" else " ")
                written += number
            x, y = points[-1]
        else:
            raise RuntimeError(f"matplotlib wrote a path with {command!r}, expected M, L, Q, C or z")
        last = command
    return written


def _small_png(embedded: str) -> str:
    """The same picture, as an address; with a table of its colours where they are few."""
    with Image.open(io.BytesIO(base64.b64decode(embedded))) as opened:
        picture = opened.convert("RGBA")
    colours, index = np.unique(np.asarray(picture).reshape(-1, 4), axis=0, return_inverse=True)
    if len(colours) <= 256:
        table = Image.frombytes("P", picture.size, index.astype(np.uint8).tobytes())
        table.putpalette(colours.tobytes(), "RGBA")
        picture = table
    png = io.BytesIO()
    picture.save(png, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _merge(variants: dict[int, ElementTree.Element], start: int) -> list[ElementTree.Element]:
    """One element for the same place in several drawings, or one for every variant of it."""
    written: dict[str, list[int]] = {}
    for index, element in variants.items():
        written.setdefault(ElementTree.tostring(element, encoding="unicode"), []).append(index)
    first = next(iter(variants.values()))
    if len(written) == 1:
        return [first]
    if len({(e.tag, tuple(e.items()), len(e)) for e in variants.values()}) == 1 and len(first):
        merged = ElementTree.Element(first.tag, first.attrib)
        for place in range(len(first)):
            merged.extend(_merge({index: e[place] for index, e in variants.items()}, start))
        return [merged]
    groups = []
    for indices in written.values():
        group = ElementTree.Element(f"{{{_SVG}}}g", {"data-at": " ".join(map(str, indices))})
        if start not in indices:
            group.set("style", "display: none")
        group.append(variants[indices[0]])
        groups.append(group)
    return groups


def _inline(drawing: ElementTree.Element, alt: str) -> str:
    """A drawing as part of a page: in the colour of the text, its ids its own, as wide as the page."""
    points = re.fullmatch(r"([\d.]+)pt", drawing.get("width", ""))
    if points is None:  # matplotlib always writes it; without it the page could not size the figure
        raise RuntimeError(f"matplotlib wrote an SVG of width {drawing.get('width')!r}, expected points")
    for name in ("width", "height", "version"):
        drawing.attrib.pop(name, None)
    pixels = float(points[1]) * 96 / 72
    drawing.attrib |= {
        "class": "rnnlib-figure",
        "role": "img",
        "aria-label": alt,
        "style": f"width:100%;max-width:{pixels:.0f}px;height:auto",
    }
    ElementTree.register_namespace("", _SVG)
    svg = ElementTree.tostring(drawing, encoding="unicode").replace(_INK, "currentColor")
    # Ids are shared by all inline SVGs of a page: make them this figure's own, and short.
    own = "f" + hashlib.sha256(svg.encode()).hexdigest()[:6]
    short = {name: f"{own}-{i}" for i, name in enumerate(re.findall(r'\bid="([^"]*)"', svg))}
    return re.sub(r'(\bid="|href="#|url\(#)([\w-]+)', lambda found: found[1] + short[found[2]], svg)


def _png(fig: Any) -> bytes:
    """The figure for print."""
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=150, facecolor="white")
    return png.getvalue()


def power_of_ten(value: float) -> str:
    """The order of magnitude of a positive number in plain text, for the sentence below a slider.

    Args:
        value: a positive number, such as 3e-8.

    Returns:
        Ten to the nearest whole power, such as "10⁻⁸"; 1e-8 and 2e-8 give the same.

    Raises:
        ValueError: the number has no order of magnitude.
    """
    if not (value > 0 and np.isfinite(value)):
        raise ValueError(f"power_of_ten: value is {value}, expected a positive number")
    exponent = round(float(np.log10(value)))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def live(loss: str = "loss", evaluation: str = "evaluation") -> Callable[[History], None]:
    """Curves of a training run that are drawn again, in place, while it runs.

        train.fit(..., watch=plotting.live("loss in nats", "bits per character"))

    On the left the loss of every step and, where there are any, the evaluations; on the right the length
    of the gradient before clipping. In a notebook the picture of the end stays. Outside of one each
    picture is printed as its description.

    Args:
        loss: the name of what is trained on.
        evaluation: the name of what ``evaluate`` measures.

    Returns:
        A function of a :class:`rnnlib.train.History`, for ``watch``.
    """
    from IPython.display import display

    handle: Any = None

    def draw(history: History) -> None:
        nonlocal handle
        picture = _curves(history, loss, evaluation)
        if handle is None:
            handle = display(picture, display_id=True)
        else:
            handle.update(picture)

    return draw


def _curves(history: History, loss: str, evaluation: str) -> ThemedFigure:
    """The picture of :func:`live`, and its description in numbers."""
    steps = np.arange(1, len(history.losses) + 1)
    fig, (left, right) = figure(height=2.6, columns=2)
    left.plot(steps, history.losses, linewidth=1, label=loss)
    alt = f"{loss} over {len(steps)} steps, from {history.losses[0]:.3g} to {history.losses[-1]:.3g}"
    if len(history.evaluations):
        left.plot(history.evaluated_at, history.evaluations, "o--", color=VERMILION, label=evaluation)
        alt += f"; {evaluation} from {history.evaluations[0]:.3g} to {history.evaluations[-1]:.3g}"
    left.set(xlabel="step")
    left.legend()
    right.semilogy(steps, history.gradient_norms, linewidth=1, color=GREEN)
    right.set(xlabel="step", title="length of the gradient")
    alt += (
        f"; length of the gradient from {history.gradient_norms[0]:.3g} to {history.gradient_norms[-1]:.3g}."
    )
    return show(fig, alt)


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
