"""The larger setting of chapter 10: a character model of Shakespeare, five seeds.

    python experiments/language.py --device cuda

Two layers of LSTM with 512 units each and dropout (:class:`rnnlib.models.CharacterModel`), trained by
:func:`rnnlib.train.fit` on the training plays along parallel streams. Of all states that were evaluated
the one that is best on the validation play is kept; the test play is read once, at the end. Bits per
character are those of the whole test play in 16 streams, each from the state zero.

On a GPU matrix products run in TensorFloat-32. On a CPU the same command with ``--device cpu`` gives the
same experiment, slowly. ``--quick`` runs a tiny one, to see that it works. The record goes to
``experiments/language.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlib import benchmark, datasets, language, optim, train
from rnnlib.models import CharacterModel

FULL: dict[str, Any] = {
    "hidden_size": 512,
    "num_layers": 2,
    "dropout": 0.5,
    "streams": 64,
    "steps_per_batch": 128,
    "training_steps": 1800,
    "learning_rate": 0.003,
    "warm_up": 50,
    "clip_norm": 1.0,
    "evaluate_every": 150,
}
QUICK = FULL | {
    "hidden_size": 16,
    "streams": 8,
    "steps_per_batch": 16,
    "training_steps": 6,
    "warm_up": 2,
    "evaluate_every": 3,
}
QUICK_CHARACTERS = 3000


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment for every seed, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)

    settings = QUICK if options.quick else FULL
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32; cuDNN uses it in any case
    text = datasets.shakespeare()
    alphabet = language.Alphabet.of(text.train)
    parts = [alphabet.encode(part) for part in text]
    if options.quick:
        parts = [codes[:QUICK_CHARACTERS] for codes in parts]

    results = []
    for seed in options.seeds:
        results.append(run(seed, settings, device, len(alphabet), parts))
        print(results[-1], flush=True)

    command = f"python experiments/language.py --device {device.type}"
    command += f" --seeds {' '.join(map(str, options.seeds))}" + " --quick" * options.quick
    bits = np.array([r["test_bits"] for r in results])
    record = {
        "experiment": "language",
        "command": command,
        **benchmark.environment(options.device),
        "quick": options.quick,
        "precision": "float32, products in TensorFloat-32" if device.type == "cuda" else "float32",
        "settings": settings,
        "parameters": results[0]["parameters"],
        "seeds": options.seeds,
        "results": results,
        "test_bits_mean": float(bits.mean()),
        "test_bits_sd": float(bits.std(ddof=1)) if len(bits) > 1 else None,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def run(
    seed: int, settings: dict[str, Any], device: torch.device, size: int, parts: list[np.ndarray]
) -> dict[str, Any]:
    """Train one model, and read the test play with the state that was best on the validation play."""
    train.seed(seed)
    start = time.perf_counter()
    validation, test = (torch.from_numpy(part).to(device) for part in parts[1:])
    B, T, warm_up = settings["streams"], settings["steps_per_batch"], settings["warm_up"]
    model = CharacterModel(
        size,
        settings["hidden_size"],
        num_layers=settings["num_layers"],
        dropout=settings["dropout"],
        streams=B,
    ).to(device)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
        inputs, targets, fresh = language.stream_batch(parts[0], step, B, T)
        return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device), fresh

    history = train.fit(
        model,
        batches,
        lambda model, batch: model.stream_loss(*batch),
        optimizer=torch.optim.Adam(model.parameters(), lr=settings["learning_rate"]),
        schedule=optim.warm_up(warm_up, optim.cosine(settings["training_steps"] - warm_up, final=0.01)),
        steps=settings["training_steps"],
        clip_norm=settings["clip_norm"],
        evaluate=lambda model: model.held_out_loss(validation).mean().item() / math.log(2),
        evaluate_every=settings["evaluate_every"],
        patience=1000,  # never stops early, but goes back to the best at the end
    )
    return {
        "seed": seed,
        "test_bits": model.held_out_loss(test).mean().item() / math.log(2),
        "validation_bits": float(history.evaluations.min()),
        "best_step": history.best_step,
        "training_bits_last_100": float(history.losses[-100:].mean() / math.log(2)),
        "validation_curve": [
            [int(s), float(v)] for s, v in zip(history.evaluated_at, history.evaluations, strict=True)
        ],
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main()
