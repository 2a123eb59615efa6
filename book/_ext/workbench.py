"""``{one-unit}`` and ``{memory-cell}``: two machines that a reader turns in the page.

The script in ``book/assets/workbench`` computes in the browser. The pictures that stand for it on paper and
without scripts are made here by rnnlib, and the tests hold the script to the same functions.
"""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import hands_on
from rnnlib import dynamics, lstm

UNIT = {"w": 1.5, "b": 0.0, "h_0": 0.05}
GATES = {"f": 0.95, "i_mark": 1.0, "i_rest": 0.05, "o": 0.9}
MARKS = (2, 14, 27)
"""What the reader finds set, and the places of the three marks."""
STEPS = 40
ASSETS = ["workbench/workbench.css", "workbench/workbench.js"]


def candidates() -> np.ndarray:
    """The candidates of the memory cell, (T,): three marks in noise."""
    values = np.random.default_rng(4).normal(0, 0.3, STEPS)
    values[list(MARKS)] = [0.9, -0.6, 0.7]
    return np.round(values, 3)


def unit_orbit(w: float, b: float, h_0: float, steps: int) -> np.ndarray:
    """The orbit of one unit, (steps + 1,)."""
    return dynamics.orbit(np.array([[h_0]]), np.array([[w]]), np.array([b]), steps)[:, 0, 0]


def remember(f: float, i_mark: float, i_rest: float, o: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory, hidden state, and the gradient of the last memory at each step, each (T,)."""
    f_t, o_t, C_tilde = np.array([[f]]), np.array([[o]]), candidates().reshape(STEPS, 1, 1)
    i = np.full((STEPS, 1, 1), i_rest)
    i[list(MARKS)] = i_mark
    C, h = [np.zeros((1, 1))], []
    for t in range(STEPS):
        C.append(lstm.memory(f_t, C[t], i[t], C_tilde[t]))
        h.append(lstm.hidden_state(o_t, C[t + 1]))
    gradient = [np.ones((1, 1))]
    for t in range(STEPS - 1, 0, -1):
        _, d_C_prev, _, _ = lstm.memory_backward(gradient[-1], f_t, C[t], i[t], C_tilde[t])
        gradient.append(d_C_prev)
    return tuple(np.array(values).reshape(-1) for values in (C[1:], h, gradient[::-1]))


def unit_picture() -> str:
    """The orbit and the ends of all orbits, as inline SVG."""
    from rnnlib import plotting  # only where the directive is used: it loads matplotlib

    fig, (upper, lower) = plotting.figure(width=4.2, height=4.6, rows=2)  # as wide as a phone
    hs = unit_orbit(**UNIT, steps=STEPS)
    upper.plot(hs, marker="o", markersize=3, color=plotting.BLUE)
    upper.set(xlabel="step", ylabel="state", ylim=(-1, 1))
    attracting, repelling = [], []
    for w in np.linspace(-3, 3, 121):
        states = dynamics.fixed_points(w, UNIT["b"])
        attracts = abs(w * (1 - states**2)) < 1
        attracting += [(w, h) for h in states[attracts]]
        repelling += [(w, h) for h in states[~attracts]]
        if w < -1 and not attracts[0]:  # it jumps between two states instead
            attracting += [(w, h) for h in unit_orbit(w, UNIT["b"], 1.0, 2000)[-2:]]
    for points, colour in ((repelling, plotting.GREY), (attracting, plotting.BLUE)):
        lower.plot(*np.transpose(points), ".", color=colour, markersize=3)
    lower.axvline(UNIT["w"], color=plotting.VERMILION)
    lower.set(xlabel="weight w", ylabel="where it ends", ylim=(-1.05, 1.05))
    alt = (
        f"Above, the orbit of one unit with weight {UNIT['w']:g} from {UNIT['h_0']:g}: it rises to "
        f"{hs[-1]:.3f} and stays. Below, by weight, the states that attract: two that alternate below minus "
        "one, zero up to one, and beyond it two, with a repelling zero between them."
    )
    return plotting.show(fig, alt).html


def memory_picture() -> str:
    """Candidates, memory and gradient, as inline SVG."""
    from rnnlib import plotting

    C, h, gradient = remember(**GATES)
    steps = np.arange(1, STEPS + 1)
    fig, (first, second, third) = plotting.figure(width=4.2, height=6.0, rows=3)
    first.bar(steps, candidates(), color=plotting.GREY)
    first.set(ylabel="candidate")
    second.plot(steps, C, color=plotting.BLUE, label="memory C")
    second.plot(steps, h, "--", color=plotting.VERMILION, label="state h")
    second.legend()
    third.bar(steps, gradient, color=plotting.VERMILION)
    third.set(xlabel="step", ylabel="gradient")
    alt = (
        "Three marks in noisy candidates. The memory takes the marks, lets little of the noise in, and fades "
        f"slowly. The gradient of the last memory falls to {gradient[0]:.2f} at the first step."
    )
    return plotting.show(fig, alt).html


class OneUnit(SphinxDirective):
    """One unit left to itself."""

    def run(self) -> list[nodes.Node]:
        values = {name: f"{value:.2f}" for name, value in UNIT.items()}
        return hands_on.place(self, "one_unit.html", ASSETS, {**values, "picture": unit_picture()})


class MemoryCell(SphinxDirective):
    """The memory of an LSTM with gates to set."""

    def run(self) -> list[nodes.Node]:
        values = {name: f"{value:.2f}" for name, value in GATES.items()}
        run = json.dumps({"candidates": candidates().tolist(), "marks": MARKS})
        picture = memory_picture()
        return hands_on.place(
            self, "memory_cell.html", ASSETS, {**values, "run": html.escape(run), "picture": picture}
        )


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("hands_on")
    app.add_directive("one-unit", OneUnit)
    app.add_directive("memory-cell", MemoryCell)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
