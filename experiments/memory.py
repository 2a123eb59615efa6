"""How much memory the gradient of a long sequence takes, and how much longer it takes with less.

    python experiments/memory.py

One sequence of T steps through 64 inputs and 64 hidden units in float32, T up to a million, in four ways:

- ``full``: :func:`rnnlib.unroll.unroll`, then :func:`rnnlib.bptt.bptt`;
- ``checkpointed``: :func:`rnnlib.bptt.checkpointed_bptt` in segments of 4096 steps;
- ``outputs kept``: the same, with the hidden states of all steps kept (``keep_outputs``);
- ``truncated``: windows of 4096 steps, each with its own way back, as a stream is trained.

Memory is what NumPy holds at most, as ``tracemalloc`` counts it, with the inputs and the gradient of the
outputs, over that of four arrays: inputs, outputs, and the gradients of both.
Times are CPU times, each over that of ``full`` in the same round: the median of the rounds. The record goes
to ``experiments/memory.json``.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnnlib import benchmark
from rnnlib.bptt import bptt, checkpointed_bptt
from rnnlib.initialisation import random_vanilla_cell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import unroll

SIZE = 64
SEGMENT = 4096


def lstm_cell(rng: np.random.Generator) -> LSTMCell:
    """An LSTM with random parameters in float32."""
    W = {f"W_{g}": rng.standard_normal((SIZE, 2 * SIZE)) / np.sqrt(2 * SIZE) for g in "fiCo"}
    b = {f"b_{g}": rng.standard_normal(SIZE) for g in "fiCo"}
    return LSTMCell(**{name: a.astype(np.float32) for name, a in (W | b).items()})


def methods(cell: Any, xs: np.ndarray, d_hs: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The four ways, ready to run."""

    def truncated() -> list[np.ndarray]:
        state, d_xs = None, []
        for start in range(0, len(xs), SEGMENT):
            trajectory = unroll(cell, xs[start : start + SEGMENT], state)
            d_xs.append(bptt(cell, trajectory, d_hs[start : start + SEGMENT]).d_xs)
            state = trajectory.final
        return d_xs

    return {
        "full": lambda: bptt(cell, unroll(cell, xs), d_hs),
        "checkpointed": lambda: checkpointed_bptt(cell, xs, d_hs, segment=SEGMENT),
        "outputs kept": lambda: checkpointed_bptt(cell, xs, d_hs, segment=SEGMENT, keep_outputs=True),
        "truncated": truncated,
    }


def measure(cell: Any, T: int, rounds: int) -> dict[str, dict[str, float]]:
    """Memory and time of each method, as the docstring of this file says.

    Args:
        cell: the cell.
        T: the number of steps.
        rounds: how often each method is timed.
    """
    rng = np.random.default_rng(0)
    xs, d_hs = (rng.standard_normal((T, 1, SIZE), dtype=np.float32) for _ in range(2))
    known = 4 * xs.nbytes  # inputs, outputs, and the gradients of both
    ways = methods(cell, xs, d_hs)
    found: dict[str, dict[str, float]] = {}
    for name, run in ways.items():
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[name] = {"bytes": peak, "memory": (peak + xs.nbytes + d_hs.nbytes) / known}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for name in ways:
        found[name]["time"] = float(np.median(np.array(times[name]) / np.array(times["full"])))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    vanilla = random_vanilla_cell(rng, SIZE, SIZE)
    cells = {
        "rnn": type(vanilla)(*(a.astype(np.float32) for a in (vanilla.W_xh, vanilla.W_hh, vanilla.b_h))),
        "lstm": lstm_cell(rng),
    }
    results = [
        {"cell": name, "T": T, "methods": measure(cell, T, options.rounds)}
        for name, cell in cells.items()
        for T in options.steps
    ]
    for r in results:
        ways = ", ".join(f"{way} {m['memory']:.2f} (time {m['time']:.2f})" for way, m in r["methods"].items())
        print(f"{r['cell']:<5} T = {r['T']:>8}: memory over the arrays: {ways}")
    settings = {"size": SIZE, "segment": SEGMENT, "rounds": options.rounds, "dtype": "float32"}
    record = {**benchmark.environment("cpu"), "settings": settings, "results": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
