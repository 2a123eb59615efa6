"""Figures: readable on light and dark pages, described, and the same bytes every time."""

from __future__ import annotations

import base64
import io
import json
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from rnnlib import plotting
from rnnlib.train import History

mpl.use("agg")


def draw(alt="A straight line that rises from left to right."):
    fig, ax = plotting.figure(height=2)
    ax.plot([0, 1], [0, 1], label="$h_t$")
    ax.set(xlabel="t", title="title")
    ax.legend()
    return plotting.show(fig, alt=alt)


def luminance(colour: str) -> float:
    """Relative luminance, by the definition of WCAG 2."""
    channels = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", plotting.COLOURS)
@pytest.mark.parametrize("page", ["#ffffff", "#14181e", "#121212"])
def test_lines_have_a_contrast_of_3_to_1_on_light_and_dark_pages(colour, page):
    assert contrast(colour, page) >= 3


def test_lines_differ_in_style_as_well_as_in_colour():
    draw()
    styles = [str(entry["linestyle"]) for entry in mpl.rcParams["axes.prop_cycle"]]
    assert len(set(styles[:4])) == 4


def test_a_figure_is_valid_inline_svg_in_the_colour_of_the_text():
    bundle = draw()._repr_mimebundle_()
    svg = ElementTree.fromstring(bundle["text/html"])
    assert svg.tag.endswith("svg")
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "A straight line that rises from left to right."
    assert svg.get("viewBox")
    assert svg.get("width") is None
    assert "currentColor" in bundle["text/html"]
    assert "#010203" not in bundle["text/html"]
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "A straight line" in bundle["text/plain"]


def test_the_same_figure_is_the_same_bytes_and_two_figures_share_no_ids():
    assert draw().html == draw().html
    ids = [
        {e.get("id") for e in ElementTree.fromstring(f.html).iter() if e.get("id")}
        for f in (draw(), draw("Another description of the very same straight line."))
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_references_within_a_figure_resolve():
    svg = draw().html
    ids = {e.get("id") for e in ElementTree.fromstring(svg).iter()}
    for part in svg.split('href="#')[1:]:
        assert part.split('"')[0] in ids
    for part in svg.split("url(#")[1:]:
        assert part.split(")")[0] in ids


def points_of(path):
    """Where the pen goes, from the data of a path with relative and absolute commands."""
    found, pen, start = [], np.zeros(2), np.zeros(2)
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        points = np.array(re.findall(r"-?\d*\.?\d+", numbers), float).reshape(-1, 2)
        if command in "zZ":
            pen = start
            continue
        size = {"m": 1, "l": 1, "q": 2, "c": 3}[command.lower()]  # points of one stroke
        for stroke in points.reshape(-1, size, 2):
            stroke = stroke + pen if command.islower() else stroke
            found.extend(stroke)
            pen = stroke[-1]
        start = pen if command in "mM" else start
    return np.array(found)


def test_a_path_in_few_letters_goes_where_matplotlib_drew_it():
    """A thousand points, so that an error that adds up would be seen; curves; and parts that close."""
    rng = np.random.default_rng(0)
    for x, y in (rng.normal(size=(2, 1000)) * 300, np.cumsum(rng.normal(size=(2, 1000)) * 0.013, axis=1)):
        path = "M " + " L ".join(f"{a:.6f} {b:.6f} " for a, b in zip(x, y, strict=True))
        short = plotting._short_path(path)
        assert np.abs(points_of(short) - np.stack([x, y], axis=1)).max() <= 0.0051
        assert len(short) < 0.7 * len(path)
    whole = "M 1 2 L 3 4 L 3 -0.5 z L 0.25 0.5 z M 7 8 Q 1 1 2 2 Q 3 3 -0.001 4 C 1 2 3 4 5 6 z"
    short = plotting._short_path(whole)
    assert short == "M1 2l2 2 0-4.5zl-.75-1.5zM7 8q-6-7-5-6 1 1-2 2c1-2 3 0 5 2z"
    assert np.allclose(points_of(short), points_of(whole), atol=0.0051)
    with pytest.raises(RuntimeError, match="wrote a path with 'S'"):
        plotting._short_path("M 0 0 S 1 2 3 4")


@pytest.mark.parametrize("colours", [2, 256, 400])
def test_an_image_in_a_figure_keeps_every_pixel(colours):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (colours, 4), dtype=np.uint8)
    pixels = table[rng.permutation(np.arange(60 * 70) % colours).reshape(60, 70)]  # (60, 70, 4)
    whole = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(whole, format="png")
    address = plotting._small_png(base64.b64encode(whole.getvalue()).decode())
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(png)) as small:
        assert (np.asarray(small.convert("RGBA")) == pixels).all()
    assert len(png) < (0.5 if colours <= 256 else 1.01) * len(whole.getvalue())


def test_descriptions_are_escaped_and_required():
    assert 'aria-label="a &lt;b&gt; &amp; &quot;c&quot;"' in draw('a <b> & "c"').html
    fig, _ = plotting.figure()
    with pytest.raises(ValueError, match="alt is empty"):
        plotting.show(fig, alt=" ")
    mpl.pyplot.close(fig)


def line(value, **options):
    fig, ax = plotting.figure(height=2, **options)
    ax.plot([0, 1], [0, value], marker="o")
    if value > 1:
        ax.axhline(1.0)
    ax.set(xlabel="t", ylim=(-3, 3), title=f"value {value}")
    return fig


def frame(html, index):
    """The picture that a slider shows for one value, its groups of variants unwrapped."""
    svg = ElementTree.fromstring(html)[0][0]
    for parent in list(svg.iter()):
        children = []
        for child in parent:
            if child.get("data-at") is None:
                children.append(child)
            elif str(index) in child.get("data-at").split():
                children.extend(child)
        parent[:] = children
    return svg


def ink(svg):
    """All that is drawn; for a reference, what it refers to, since names differ from figure to figure."""
    shapes = {
        e.get("id"): [(d.tag, {**d.attrib, "id": ""}) for d in e.iter()] for e in svg.iter() if e.get("id")
    }

    def meant(value):
        name = re.fullmatch(r"#(.*)|url\(#(.*)\)", value)
        return shapes[name[1] or name[2]] if name else value

    return [
        (e.tag, {k: meant(v) for k, v in e.items() if k not in {"id", "aria-label"}})
        for part in svg
        if not part.tag.endswith("defs")
        for e in part.iter()
    ]


@pytest.mark.parametrize("start", [0, 2])
def test_a_slider_shows_for_each_value_what_show_shows(start):
    values = [-2.0, 0.5, 1.5, 2.5]
    figure = plotting.slider(line, values, label="value", alt="A line turns.", start=start)
    svg = ElementTree.fromstring(figure.html)[0][0]
    assert svg.get("aria-label") == "A line turns."
    for index, value in enumerate(values):
        expected = ElementTree.fromstring(plotting.show(line(value), alt="A line.").html)
        assert ink(frame(figure.html, index)) == ink(expected)
    shown = [g.get("data-at") for g in svg.iter() if g.get("data-at") and not g.get("style")]
    assert shown
    assert all(str(start) in at.split() for at in shown)
    hidden = [g.get("data-at") for g in svg.iter() if g.get("style") == "display: none"]
    assert hidden
    assert not any(str(start) in at.split() for at in hidden)
    assert figure.png == plotting.show(line(values[start]), alt="A line.").png


def test_a_slider_stores_once_what_its_pictures_share_and_its_references_resolve():
    one = len(plotting.show(line(0.5), alt="A line.").html)
    many = plotting.slider(line, list(np.linspace(0, 1, 20)), label="value", alt="A line turns.").html
    assert len(many) < 6 * one
    ids = [e.get("id") for e in ElementTree.fromstring(many).iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for part in many.split('href="#')[1:]:
        assert part.split('"')[0] in ids


def test_a_slider_says_what_it_shows():
    figure = plotting.slider(
        line,
        [-1.0, 2.0],
        label="value <v>",
        alt="A line.",
        say=lambda v: f'the "end" is {v:.1f} & no more',
        start=1,
    )
    box = ElementTree.fromstring(figure.html)
    assert json.loads(box.get("data-says")) == [
        ["−1", "2"],
        ['the "end" is -1.0 & no more', 'the "end" is 2.0 & no more'],
    ]
    assert box.find("output").text == 'the "end" is 2.0 & no more'
    control = box.find("label/input")
    assert (control.get("min"), control.get("max"), control.get("value")) == ("0", "1", "1")
    assert control.get("aria-valuetext") == "2"
    assert control.get("data-lm-suppress-shortcuts") == "true"  # the arrow keys, in JupyterLab
    assert box.find("label/span").text == "value <v>"
    plain = plotting.slider(line, [-1.0, 2.0], label="value", alt="A line.").html
    assert ElementTree.fromstring(plain).find("output").text == "value: −1"


def test_a_slider_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="slider: alt is empty"):
        plotting.slider(line, [0, 1], label="v", alt="")
    with pytest.raises(ValueError, match="values has 1 entries, expected at least 2"):
        plotting.slider(line, [0], label="v", alt="A line.")
    with pytest.raises(ValueError, match="start is 2, expected an index of the 2 values"):
        plotting.slider(line, [0, 1], label="v", alt="A line.", start=2)
    with pytest.raises(ValueError, match="figures of different sizes"):
        plotting.slider(lambda v: line(v, width=5 + v), [0, 1], label="v", alt="A line.")


@pytest.mark.parametrize(("value", "text"), [(3e-8, "10⁻⁸"), (1.0, "10⁰"), (2e12, "10¹²")])
def test_orders_of_magnitude_are_written_out(value, text):
    assert plotting.power_of_ten(value) == text


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_only_positive_numbers_have_an_order_of_magnitude(value):
    with pytest.raises(ValueError, match="expected a positive number"):
        plotting.power_of_ten(value)


def run_of(steps, evaluations=()):
    return History(
        model=None,
        losses=np.linspace(2.5, 0.5, steps),
        gradient_norms=np.linspace(4.0, 1.0, steps),
        rates=np.ones(steps),
        evaluated_at=np.arange(1, len(evaluations) + 1),
        evaluations=np.array(evaluations, float),
        stopped_early=False,
    )


def test_live_curves_replace_one_picture_by_the_next(monkeypatch):
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(("update", picture))

    def display(picture, display_id):
        shown.append(("display", picture))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    draw = plotting.live("nats", "bits")
    draw(run_of(2, [9.0]))
    draw(run_of(5, [9.0, 7.0]))
    draw(run_of(6, [9.0, 7.0]))
    assert [kind for kind, _ in shown] == ["display", "update", "update"]
    assert shown[0][1].html != shown[1][1].html
    assert shown[1][1].alt == (
        "nats over 5 steps, from 2.5 to 0.5; bits from 9 to 7; length of the gradient from 4 to 1."
    )


def test_live_curves_do_without_evaluations_and_say_so(monkeypatch, capsys):
    plotting.live("nats")(run_of(3))  # no notebook: the description is printed
    out = capsys.readouterr().out
    assert out.strip() == (
        "[figure: nats over 3 steps, from 2.5 to 0.5; length of the gradient from 4 to 1.]"
    )


def test_states_are_drawn_unit_by_time():
    fig, ax = plotting.figure()
    image = plotting.states(ax, np.array([[0.1, -0.2, 0.3], [0.0, 0.5, -0.5]]))  # (T, H) = (2, 3)
    assert image.get_array().shape == (3, 2)
    assert image.get_clim() == (-0.5, 0.5)
    assert image.get_extent() == [0.5, 2.5, 3.5, 0.5]
    image = plotting.states(ax, np.ones((2, 3)), times=[1900, 1901], limit=2)
    assert image.get_clim() == (-2, 2)
    assert image.get_extent() == [1899.5, 1901.5, 3.5, 0.5]
    mpl.pyplot.close(fig)
