"""The larger setting of chapter 11: who speaks, and who speaks when, on Japanese Vowels.

    python experiments/speech.py --device cuda

First, speaker identification: every network of ``NETWORKS``, once per seed, is trained on four fifths of
the training utterances and validated on the rest. The network with the smallest mean cross-entropy in
validation is chosen. It is trained anew on all training utterances, once per seed, and tested. All
networks of the first round are tested too, for the table; nothing is chosen by that.

Second, connectionist temporal classification: utterances joined end to end, and the speakers of each
sentence as the only label. A bidirectional LSTM of two layers says who speaks, in order.

The record goes to ``experiments/speech.json``; it says what was run, on what, and what came out. The
chapter reads it. ``--quick`` does the same with everything small, in seconds, to see that it runs.
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

from rnnlib import benchmark, ctc, datasets, optim, speech, train
from rnnlib.models import SequenceClassifier, SequenceLabeller

COMMAND = "python experiments/speech.py --device "
SPEAKERS = 9
NETWORKS: dict[str, dict[str, Any]] = {
    "vanilla": {"cell": "rnn"},
    "LSTM": {"cell": "lstm"},
    "GRU": {"cell": "gru"},
    "bidirectional vanilla": {"cell": "rnn", "bidirectional": True},
    "bidirectional LSTM": {"cell": "lstm", "bidirectional": True},
    "bidirectional GRU": {"cell": "gru", "bidirectional": True},
    "deep bidirectional LSTM": {"cell": "lstm", "bidirectional": True, "num_layers": 2},
    "deep bidirectional GRU": {"cell": "gru", "bidirectional": True, "num_layers": 2},
}


class Data:
    """The utterances, standardised by the training frames of a split, as padded batches on the device."""

    def __init__(self, device: str) -> None:
        """Read the utterances; every fifth of the training part is for validation."""
        self.device = device
        self.train, self.test = datasets.japanese_vowels()
        every = np.arange(len(self.train.frames))
        self.every, self.fit, self.validation = every, every[every % 5 != 4], every[every % 5 == 4]

    def scaled(self, statistics: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """All training and all test utterances, by mean and deviation of some training utterances."""
        frames = np.concatenate([self.train.frames[n] for n in statistics])
        mean, deviation = frames.mean(0), frames.std(0)
        train_part, test_part = (
            [((x - mean) / deviation).astype(np.float32) for x in part.frames]
            for part in (self.train, self.test)
        )
        return train_part, test_part

    def batch(self, frames: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded frames on the device; the lengths stay on the CPU, where packing wants them."""
        xs, lengths = speech.pad([torch.from_numpy(x) for x in frames])
        return xs.to(self.device), lengths


# --- who speaks -----------------------------------------------------------------------------------


def classifier(data: Data, settings: dict, options: dict, seed: int, members: np.ndarray) -> dict:
    """Train one network on some of the training utterances; its answers to the others and to the test."""
    train.seed(seed)
    frames, test_frames = data.scaled(members)
    model = SequenceClassifier(
        12, settings["hidden_size"], SPEAKERS, dropout=settings["dropout"], **options
    ).to(data.device)
    xs, lengths = data.batch(frames)
    speakers = torch.tensor(data.train.speakers)

    def batches(step: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng((seed, step))
        chosen = torch.from_numpy(rng.choice(members, min(settings["batch_size"], len(members)), False))
        return xs[:, chosen], lengths[chosen], speakers[chosen].to(data.device)

    def loss(model: SequenceClassifier, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        xs, lengths, speakers = batch
        noisy = xs + settings["noise"] * torch.randn_like(xs)
        return torch.nn.functional.cross_entropy(model(noisy, lengths), speakers)

    rate = settings["rates"]["rnn" if options["cell"] == "rnn" else "gated"]
    train.fit(
        model,
        batches,
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=rate),
        steps=settings["steps"],
        schedule=optim.cosine(settings["steps"]),
        clip_norm=1.0,
    )
    model.eval()
    with torch.no_grad():
        held_out = torch.from_numpy(np.setdiff1d(data.every, members))
        answers = {"test": torch.log_softmax(model(*data.batch(test_frames)).double().cpu(), 1).numpy()}
        if len(held_out):
            logits = model(xs[:, held_out], lengths[held_out]).double().cpu()
            answers["validation"] = torch.log_softmax(logits, 1).numpy()
    return {"seed": seed, **answers}


def accuracy(log_y: np.ndarray, speakers: np.ndarray) -> float:
    """The share of utterances whose most probable speaker is the right one."""
    return float((log_y.argmax(1) == speakers).mean())


def identification(data: Data, settings: dict, seeds: list[int]) -> dict[str, Any]:
    """All networks, the choice by validation, and the chosen network on all training utterances."""
    right, test = data.train.speakers[data.validation], data.test.speakers
    networks = {}
    for name, options in NETWORKS.items():
        runs = [classifier(data, settings, options, seed, data.fit) for seed in seeds]
        entropies = [-float(r["validation"][np.arange(len(right)), right].mean()) for r in runs]
        networks[name] = {
            "validation_cross_entropy": float(np.mean(entropies)),
            "per_seed": [
                {
                    "seed": r["seed"],
                    "validation": accuracy(r["validation"], right),
                    "validation_cross_entropy": entropy,
                    "test": accuracy(r["test"], test),
                }
                for r, entropy in zip(runs, entropies, strict=True)
            ],
            **summary("test", [accuracy(r["test"], test) for r in runs]),
        }
    chosen = min(networks, key=lambda name: networks[name]["validation_cross_entropy"])
    runs = [classifier(data, settings, NETWORKS[chosen], seed, data.every) for seed in seeds]
    scores = [accuracy(r["test"], test) for r in runs]
    together = np.logaddexp.reduce([r["test"] for r in runs])
    return {
        "networks": networks,
        "chosen": chosen,
        "trained_on_all": {
            "per_seed": [{"seed": s, "test": a} for s, a in zip(seeds, scores, strict=True)],
            **summary("test", scores),
            "ensemble": accuracy(together, test),
        },
    }


def summary(name: str, values: list[float]) -> dict[str, float]:
    """Mean and spread; the spread is the standard deviation over seeds."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {f"{name}_mean": float(np.mean(values)), f"{name}_std": spread}


# --- who speaks when ------------------------------------------------------------------------------


def sentences(data: Data, settings: dict) -> tuple[list[np.ndarray], list[list[int]]]:
    """The test sentences, always the same: joined test utterances, speaker k as label k + 1."""
    _, frames = data.scaled(data.every)
    rng = np.random.default_rng(11)
    return speech.join_utterances(frames, data.test.speakers + 1, settings["test_sentences"], rng)


def labeller(data: Data, settings: dict, seed: int) -> dict[str, Any]:
    """Train with CTC on joined training utterances; the label error rate on the test sentences."""
    train.seed(seed)
    frames, _ = data.scaled(data.every)
    model = SequenceLabeller(
        12,
        settings["hidden_size"],
        SPEAKERS + 1,
        num_layers=2,
        bidirectional=True,
        dropout=settings["dropout"],
    ).to(data.device)

    def batches(step: int) -> tuple[Any, ...]:
        rng = np.random.default_rng((seed, step))
        joined, labels = speech.join_utterances(frames, data.train.speakers + 1, settings["batch_size"], rng)
        flat = torch.tensor([k for ks in labels for k in ks], device=data.device)
        return *data.batch(joined), flat, torch.tensor([len(ks) for ks in labels])

    def loss(model: SequenceLabeller, batch: tuple[Any, ...]) -> torch.Tensor:
        xs, lengths, flat, counts = batch
        logits = model(xs + settings["noise"] * torch.randn_like(xs), lengths)
        log_y = torch.log_softmax(logits, 2)
        losses = torch.nn.functional.ctc_loss(log_y, flat, lengths, counts, reduction="none")
        return losses.mean()

    history = train.fit(
        model,
        batches,
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=settings["rates"]["gated"]),
        steps=settings["ctc_steps"],
        schedule=optim.cosine(settings["ctc_steps"]),
        clip_norm=1.0,
    )
    model.eval()
    joined, targets = sentences(data, settings)
    xs, lengths = data.batch(joined)
    with torch.no_grad():
        logits = model(xs, lengths).double().cpu()
    answers = ctc.best_path(logits, lengths)
    return {
        "seed": seed,
        "training_loss": float(history.losses[-20:].mean()),
        "label_error_rate": ctc.label_error_rate(answers, targets),
        "sentences_right": float(np.mean([a == t for a, t in zip(answers, targets, strict=True)])),
    }


def recognition(data: Data, settings: dict, seeds: list[int]) -> dict[str, Any]:
    """The CTC network, once per seed."""
    runs = [labeller(data, settings, seed) for seed in seeds]
    return {
        "per_seed": runs,
        **summary("label_error_rate", [r["label_error_rate"] for r in runs]),
        **summary("sentences_right", [r["sentences_right"] for r in runs]),
    }


# --- the record -----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the experiment and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per network in identification")
    parser.add_argument("--ctc-seeds", type=int, default=5, help="seeds of the CTC network")
    parser.add_argument("--quick", action="store_true", help="everything small, in seconds")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    settings = {
        "hidden_size": 64,
        "dropout": 0.3,
        "noise": 0.3,
        "batch_size": 54,
        "rates": {"rnn": 0.003, "gated": 0.01},
        "steps": 200,
        "ctc_steps": 800,
        "test_sentences": 300,
    }
    seeds, ctc_seeds = list(range(options.seeds)), list(range(options.ctc_seeds))
    if options.quick:
        settings |= {"hidden_size": 8, "batch_size": 9, "steps": 3, "ctc_steps": 3, "test_sentences": 10}
        seeds, ctc_seeds = seeds[:2], ctc_seeds[:2]
    start = time.perf_counter()
    data = Data(options.device)
    found = identification(data, settings, seeds)
    between = time.perf_counter()
    spoken = recognition(data, settings, ctc_seeds)
    end = time.perf_counter()
    record = {
        "experiment": "speech",
        "command": COMMAND + options.device + (" --quick" if options.quick else ""),
        "quick": options.quick,
        **benchmark.environment(options.device),
        "settings": settings,
        "seeds": seeds,
        "ctc_seeds": ctc_seeds,
        "identification": found,
        "ctc": spoken,
        "seconds": {"identification": round(between - start, 1), "ctc": round(end - between, 1)},
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
