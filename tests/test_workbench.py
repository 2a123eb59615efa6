"""The machines that a reader turns: their mathematics is rnnlib's, and mouse and keyboard move them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from rnnlib import dynamics
from tests.conftest import ROOT
from tests.support import load_module

load_module(ROOT / "book" / "_ext" / "hands_on.py")
workbench = load_module(ROOT / "book" / "_ext" / "workbench.py")
PAGE = "book/workbench.html"

pytestmark = pytest.mark.book


@pytest.fixture
def page(site, open_page):
    return open_page(f"{site}/{PAGE}")


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


def told(page, machine):
    return page.locator(f".{machine} [role=status]").inner_text()


class TestTheMathematics:
    def test_orbits_fixed_points_and_slopes_are_those_of_rnnlib(self, page):
        for w, b in itertools.product([-2.9, -1.05, -0.4, 0.0, 0.8, 1.0, 1.2, 3.0], [-1.4, 0.0, 0.15]):
            found = page.evaluate("([w, b]) => workbench.fixedPoints(w, b)", [w, b])
            expected = dynamics.fixed_points(w, b)
            np.testing.assert_allclose(found, expected, atol=1e-7)  # a double root has half the digits
            W_hh, b_h = np.array([[w]]), np.array([b])
            for h in expected:
                slope = page.evaluate("([w, h]) => workbench.slope(w, h)", [w, h])
                expected_slope = dynamics.cycle_jacobian(np.array([[h]]), W_hh, b_h).item()
                assert slope == pytest.approx(expected_slope, abs=1e-12)
            orbit = page.evaluate("([w, b]) => workbench.orbit(w, b, 0.3, 50)", [w, b])
            np.testing.assert_allclose(orbit, workbench.unit_orbit(w, b, 0.3, 50), atol=1e-10)

    def test_a_cycle_is_one_of_two_states_that_attracts(self, page):
        for w, b in [(-2.0, 0.0), (-3.0, 0.7), (-1.5, -0.1)]:
            cycle = page.evaluate("([w, b]) => workbench.cycle(w, b)", [w, b])
            assert len(cycle) == 2
            W_hh, b_h, states = np.array([[w]]), np.array([b]), np.array(cycle)[:, None]
            after = dynamics.orbit(states[:1], W_hh, b_h, 2)[:, 0]
            np.testing.assert_allclose(after, [*states, states[0]], atol=1e-9)
            assert dynamics.stability(states, W_hh, b_h) < 1

    def test_the_cycle_begins_where_rnnlib_says(self, page):
        (edge,) = dynamics.flip_bias(np.array([-2.0]))
        lengths = [len(page.evaluate("b => workbench.cycle(-2, b)", edge + step)) for step in (-0.01, 0.01)]
        assert lengths == [2, 0]

    @pytest.mark.parametrize("gates", [workbench.GATES, {"f": 0.7, "i_mark": 0.4, "i_rest": 0.9, "o": 0.2}])
    def test_memory_state_and_gradient_are_those_of_rnnlib(self, page, gates):
        run = page.evaluate(
            """gates => {
                const form = document.querySelector('.memory-cell form');
                const { candidates, marks } = JSON.parse(form.dataset.run);
                const i = candidates.map((_, t) => marks.includes(t) ? gates.i_mark : gates.i_rest);
                const { C, h, gradient } = workbench.remember(candidates, i, gates.f, gates.o);
                return [C, h, gradient];
            }""",
            gates,
        )
        np.testing.assert_allclose(run, workbench.remember(**gates), rtol=1e-12, atol=1e-14)


class TestTheReader:
    def test_turns_the_unit_by_keyboard(self, page):
        page.locator(".one-unit [name=w]").focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert page.locator(".one-unit output[name=w_shown]").inner_text() == "2.00"
        points = dynamics.fixed_points(2.0, 0.0)
        expected = [x for h in points for x in (h, 2 * (1 - h**2))]
        expected.append(workbench.unit_orbit(2.0, 0.0, 0.05, 2001)[-1])
        np.testing.assert_allclose(numbers(told(page, "one-unit")), expected, atol=6e-4)
        assert told(page, "one-unit").count("attracts") == 2
        page.keyboard.press("Tab")
        page.keyboard.press("End")  # the bias to its largest: one fixed point is left
        assert len(numbers(told(page, "one-unit"))) == 3

    def test_sees_it_jump_and_starts_again(self, page):
        before = told(page, "one-unit")
        page.locator(".one-unit [name=w]").fill("-2")
        assert "jumps between" in told(page, "one-unit")
        page.locator(".one-unit button").click()
        page.wait_for_function(
            "before => document.querySelector('.one-unit [role=status]').textContent == before", arg=before
        )
        assert page.locator(".one-unit [name=w]").input_value() == "1.5"

    def test_sets_the_weight_by_a_click_in_the_diagram(self, page):
        diagram = page.locator(".one-unit form svg").nth(2)
        box = diagram.bounding_box()
        place = {"x": box["width"] * (46 + 0.25 * (340 - 46 - 8)) / 340, "y": box["height"] / 2}
        diagram.click(position=place)
        assert float(page.locator(".one-unit [name=w]").input_value()) == pytest.approx(-1.5, abs=0.051)
        assert "jumps between" in told(page, "one-unit")

    def test_turns_the_gates(self, page):
        gates = dict(workbench.GATES)
        for name, value in {"f": 1.0, "i_rest": 0.0, "o": 0.5}.items():
            page.locator(f".memory-cell [name={name}]").fill(str(value))
            gates[name] = value
        C, h, _ = workbench.remember(**gates)
        np.testing.assert_allclose(numbers(told(page, "memory-cell")), [C[-1], h[-1], 1.0], atol=6e-4)
        assert C[-1] == pytest.approx(workbench.candidates()[list(workbench.MARKS)].sum())

    def test_sees_curves_that_are_the_numbers(self, page):
        """The drawn memory, read back from the picture."""
        path = page.locator(".memory-cell form svg").nth(1).locator("path.workbench-first").get_attribute("d")
        drawn = np.array([[float(x) for x in part.split()] for part in path[1:].split("L")])
        C, _, _ = workbench.remember(**workbench.GATES)
        reach = max(1, np.ceil(np.abs(C).max()))
        expected = 230 - 40 - (C + reach) / (2 * reach) * (230 - 10 - 40)
        np.testing.assert_allclose(drawn[:, 1], expected, atol=0.06)

    @pytest.mark.parametrize("machine", ["one-unit", "memory-cell"])
    def test_sees_on_a_phone_the_last_picture_and_the_controls_at_once(self, site, open_page, machine):
        page = open_page(f"{site}/{PAGE}", width=390)
        row, picture = page.locator(f".{machine} .hands-on-row"), page.locator(f".{machine} svg").last
        picture.evaluate("e => e.scrollIntoView({block: 'end'})")
        page.wait_for_timeout(300)
        controls, shown = row.bounding_box(), picture.bounding_box()
        assert controls["y"] >= 0
        assert controls["y"] + controls["height"] <= shown["y"]
        assert shown["y"] + shown["height"] <= 901  # a pixel for rounding
        assert controls["y"] + controls["height"] < 900 / 3, "the controls cover too much"
        before = picture.inner_html()
        row.locator("input").first.press("ArrowLeft")
        assert row.bounding_box() == controls
        assert picture.inner_html() != before

    def test_has_the_whole_of_a_low_screen_for_the_pictures(self, site, open_page):
        page = open_page(f"{site}/{PAGE}", width=390)
        page.set_viewport_size({"width": 390, "height": 500})
        page.locator(".one-unit svg").last.evaluate("e => e.scrollIntoView({block: 'end'})")
        assert page.locator(".one-unit .hands-on-row").bounding_box()["y"] < 0

    @pytest.mark.parametrize("scripts", [True, False])
    def test_sees_a_picture_on_paper_and_without_scripts(self, site, open_page, scripts):
        page = open_page(f"{site}/{PAGE}", java_script_enabled=scripts)
        if scripts:
            assert page.locator(".workbench form").first.is_visible()
            assert not page.locator(".hands-on-still").first.is_visible()
            page.emulate_media(media="print")
        for machine in ("one-unit", "memory-cell"):
            assert not page.locator(f".{machine} form").is_visible()
            picture = page.locator(f".{machine} .hands-on-still svg")
            assert picture.is_visible()
            assert len(picture.get_attribute("aria-label")) > 80


@pytest.mark.parametrize(
    ("asset", "mark"),
    [
        ("sampler/weights.js", "character-sampler"),
        ("sampler/sampler.js", "character-sampler"),
        ("sampler/sampler.css", "character-sampler"),
        ("workbench/workbench.js", "workbench"),
        ("workbench/workbench.css", "workbench"),
        ("hands_on/hands_on.css", ""),
    ],
)
def test_only_pages_that_have_a_machine_load_it(built, asset, mark):
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert (asset in text) == (f'class="hands-on {mark}' in text), path
