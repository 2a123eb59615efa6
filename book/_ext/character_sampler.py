"""``{character-sampler}``: a character model that writes in the page.

The scripts in ``book/assets/sampler`` compute in the browser. On paper and without scripts a picture and a
text stand in their place, made here, at build time, from the same weights by the equations of rnnlib. The
tests hold the scripts to the functions below.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import hands_on
from rnnlib import gru, language, vanilla

WEIGHTS = hands_on.ASSETS / "sampler" / "weights.js"
PROMPT, TEMPERATURE, SEED, LENGTH = "MACBETH.\n", 0.6, 1, 300
UNIT = 175
"""What the reader finds set. The unit knows how far the line has gone; a test looks for it."""


# --- the same mathematics, by rnnlib ----------------------------------------------------------


class Model:
    """The exported network on one sequence: arrays are (1, H), characters their places in the alphabet."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.alphabet: str = record["alphabet"]
        self.parameters = {name: self.array(x) for name, x in record["parameters"].items()}
        self.units = len(self.parameters["b"])

    @staticmethod
    def array(x: Any) -> np.ndarray:
        """A parameter as the file holds it: decimals, or eight bits with a scale for each row."""
        if isinstance(x, list):
            return np.array(x)
        scales = np.array(x["scales"])[:, None]
        return scales * np.frombuffer(base64.b64decode(x["int8"]), np.int8).reshape(len(scales), -1)

    def step(self, h_prev: np.ndarray, character: str) -> np.ndarray:
        """The state after one more character, by the equations of chapter 6."""
        p = self.parameters
        x_t = np.eye(len(self.alphabet))[[self.alphabet.index(character)]]  # (1, I)
        z_t = gru.update_gate(x_t, h_prev, p["W_z"], p["b_z"])
        r_t = gru.reset_gate(x_t, h_prev, p["W_r"], p["b_r"])
        h_tilde = gru.candidate(x_t, h_prev, r_t, p["W"], p["b"])
        return gru.hidden_state(h_prev, z_t, h_tilde)

    def read(self, text: str) -> list[np.ndarray]:
        """The states after a line end, which comes before every prompt, and after each character."""
        states = [np.zeros((1, self.units))]
        for character in "\n" + text:
            states.append(self.step(states[-1], character))
        return states[1:]

    def probabilities(self, h_t: np.ndarray, temperature: float, top: int | None = None) -> np.ndarray:
        """The distribution (K,) of the next character, over the likeliest ``top`` alone if given."""
        a = vanilla.output(h_t, self.parameters["W_hy"], self.parameters["b_y"])  # (1, K)
        p = language.temperature_softmax(a, temperature)
        return (p if top is None else language.top_k(p, top))[0]

    def write(self, prompt: str, length: int, seed: int, temperature: float, top: int | None = None) -> str:
        """What the network writes after the prompt."""
        h_t, random, text = self.read(prompt)[-1], uniforms(seed), ""
        for _ in range(length):
            below = np.cumsum(self.probabilities(h_t, temperature, top))
            # The first character at which the sum exceeds u; rounding may leave the whole sum below it.
            place = min(np.searchsorted(below, next(random), side="right"), np.argmax(below))
            text += self.alphabet[place]
            h_t = self.step(h_t, text[-1])
        return text


def uniforms(seed: int) -> Iterator[float]:
    """The generator mulberry32: numbers in [0, 1) that a seed from 0 to 2³² - 1 decides."""
    bits = 2**32 - 1
    while True:
        seed = (seed + 0x6D2B79F5) & bits
        t = ((seed ^ seed >> 15) * (seed | 1)) & bits
        t ^= (t + (t ^ t >> 7) * (t | 61)) & bits
        yield (t ^ t >> 14) / 2**32


def load() -> tuple[dict[str, Any], Model]:
    """What ``experiments/page_sampler.py`` wrote, and the network in it."""
    text = WEIGHTS.read_text(encoding="ascii")
    record = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return record, Model(record)


# --- the still image --------------------------------------------------------------------------


def picture(model: Model) -> str:
    """The next character's distribution and the state after the prompt, as inline SVG."""
    from rnnlib import plotting  # only where the directive is used: it loads matplotlib

    h_t = model.read(PROMPT)[-1]
    p = model.probabilities(h_t, TEMPERATURE)
    order = np.argsort(-p, kind="stable")[:8]
    names = [{"\n": "line end", " ": "space"}.get(model.alphabet[k], model.alphabet[k]) for k in order]
    fig, (upper, lower) = plotting.figure(width=4.2, height=4.0, rows=2)  # as wide as a phone
    upper.barh(range(8), 100 * p[order], color=plotting.BLUE)
    upper.set(yticks=range(8), yticklabels=names, xlabel="probability in %", title="The next character")
    upper.invert_yaxis()
    lower.imshow(h_t.reshape(-1, 24), cmap=plotting.DIVERGING, vmin=-1, vmax=1)
    lower.set(xticks=[], yticks=[], title=f"The {model.units} hidden units", xlabel="red above 0, blue below")
    likeliest = ", ".join(f"{name} {100 * p[k]:.0f} %" for name, k in zip(names[:3], order, strict=False))
    alt = (
        f"After the prompt {PROMPT.strip()} and a line end the likeliest next characters are {likeliest}. "
        f"Below them the {model.units} hidden units as cells, coloured by their values."
    )
    return plotting.show(fig, alt).html


def about(record: dict[str, Any]) -> str:
    """Where the weights come from, in two sentences."""
    told, trained = record["about"], record["about"]["settings"]
    bits = {kind: parts["test"] for kind, parts in told["bits_per_character"].items()}
    return (
        f"A GRU with {trained['hidden_size']} units, trained on seven plays for {trained['steps']} steps "
        f"with seed {trained['seed']} on {told['date']} ({told['device']}). On a play that it never read, "
        f"<em>Measure for Measure</em>, it needs {bits['as exported']:.3f} bits for a character, and needed "
        f"{bits['as trained']:.3f} before its weights were rounded to eight bits."
    )


# --- the directive ----------------------------------------------------------------------------


class CharacterSampler(SphinxDirective):
    """The model, and what stands for it on paper."""

    def run(self) -> list[nodes.Node]:
        record, model = load()
        values = {
            "picture": picture(model),
            "prompt": html.escape(PROMPT),
            "sample": html.escape(model.write(PROMPT, LENGTH, SEED, TEMPERATURE)),
            "temperature": f"{TEMPERATURE:.2f}",
            "seed": SEED,
            "characters": len(model.alphabet),
            "units": model.units,
            "unit": UNIT,
            "about": about(record),
        }
        assets = [f"sampler/{name}" for name in ("sampler.css", "weights.js", "sampler.js")]
        return hands_on.place(self, "character_sampler.html", assets, values)


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("hands_on")
    app.add_directive("character-sampler", CharacterSampler)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
