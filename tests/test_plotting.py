"""Figures: readable on light and dark pages, described, and the same bytes every time."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from rnnlib import plotting

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
    assert draw().svg == draw().svg
    ids = [
        {e.get("id") for e in ElementTree.fromstring(f.svg).iter() if e.get("id")}
        for f in (draw(), draw("Another description of the very same straight line."))
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_references_within_a_figure_resolve():
    svg = draw().svg
    ids = {e.get("id") for e in ElementTree.fromstring(svg).iter()}
    for part in svg.split('href="#')[1:]:
        assert part.split('"')[0] in ids
    for part in svg.split("url(#")[1:]:
        assert part.split(")")[0] in ids


def test_descriptions_are_escaped_and_required():
    assert 'aria-label="a &lt;b&gt; &amp; &quot;c&quot;"' in draw('a <b> & "c"').svg
    fig, _ = plotting.figure()
    with pytest.raises(ValueError, match="alt is empty"):
        plotting.show(fig, alt=" ")
    mpl.pyplot.close(fig)


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
