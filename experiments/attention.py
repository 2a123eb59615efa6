"""The larger setting of chapter 15: with and without attention, over seeds, trained longer.

    python experiments/attention.py

trains :class:`rnnlib.models.AttentionSeq2Seq` to write strings backwards, with additive scores, with scaled
dot products and without attention, and several seeds of each. Strings have 1 to ``--longest`` symbols in
training. Then each network writes greedily, at every length up to half as much again. The record goes to
``experiments/attention.json``; it says what was run, on what, and what came out. The chapter reads it.

``--quick`` does the same with everything small, in seconds, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlib import benchmark, optim, tasks, train
from rnnlib.models import AttentionSeq2Seq

SCORES = ("additive", "dot", None)
SYMBOLS, BATCH, RATE = 10, 64, 1e-2
COMMAND = "python experiments/attention.py"


def pair(length: int, batch: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Strings and their reversals, as tensors."""
    source, target = map(torch.from_numpy, tasks.reversal(length, batch, rng, symbols=SYMBOLS))
    return source, target


def trained(score: str | None, seed: int, steps: int, size: int, longest: int) -> AttentionSeq2Seq:
    """A network after its training; the strings of a batch have one length, drawn anew for each."""
    train.seed(seed)
    model = AttentionSeq2Seq(SYMBOLS + 1, size, score=score)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((seed, step))
        return pair(int(rng.integers(1, longest + 1)), BATCH, rng)

    def loss(m: AttentionSeq2Seq, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        logits, _ = m(*batch)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())

    train.fit(
        model,
        batches,
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE),
        schedule=optim.cosine(steps),
        steps=steps,
        clip_norm=1.0,
    )
    return model


def accuracy(model: AttentionSeq2Seq, length: int, count: int) -> tuple[float, float]:
    """The shares of right symbols and of strings without a mistake, written greedily."""
    source, target = pair(length, count, np.random.default_rng((10**6, length)))
    right = model.decode(source, length + 1)[0] == target  # (T, B)
    return float(right.double().mean()), float(right.all(0).double().mean())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train everything, and say what came out."""
    start = time.monotonic()
    lengths = list(range(1, arguments.longest * 3 // 2 + 1))
    results: dict[str, Any] = {}
    for score in SCORES:
        rows = []
        for seed in range(arguments.seeds):
            model = trained(score, seed, arguments.steps, arguments.size, arguments.longest)
            symbols, strings = zip(*(accuracy(model, n, arguments.strings) for n in lengths), strict=True)
            rows.append({"seed": seed, "symbols": symbols, "strings": strings})
            print(f"{score}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
        results[score or "none"] = rows
    return {
        "experiment": "attention",
        "command": COMMAND,
        "quick": arguments.quick,
        "settings": {
            "symbols": SYMBOLS,
            "batch": BATCH,
            "rate": RATE,
            "size": arguments.size,
            "steps": arguments.steps,
            "longest": arguments.longest,
            "strings": arguments.strings,
        },
        "lengths": lengths,
        "results": results,
        "seconds": round(time.monotonic() - start, 1),
        **benchmark.environment("cpu"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on")
    parser.add_argument("--size", type=int, default=64, help="units of the decoder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=20, help="the longest string in training")
    parser.add_argument("--strings", type=int, default=500, help="to judge by, at every length")
    parser.add_argument("--quick", action="store_true", help="everything small, in seconds")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.seeds, parsed.size, parsed.steps, parsed.longest, parsed.strings = 2, 8, 5, 4, 20
    record = run(parsed)
    parsed.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
