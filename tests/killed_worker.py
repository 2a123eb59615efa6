"""The process that tests/test_train.py kills: a run that dies at a moment that is given.

Its processes are forked from one that has imported what they need, which costs more than all they do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlib import optim, train

STEPS, EVERY = 24, 5


def run_numpy(folder: Path | None, batches: Callable[[int], None]) -> tuple[dict, train.History]:
    rng = train.seed(3)
    model = {"w": rng.normal(size=(4, 3)), "b": np.zeros(4)}

    def loss(model, x):
        a = np.tanh(x @ model["w"].T + model["b"]) * np.random.rand(4)  # noqa: NPY002
        d_a = 2 * a * (1 - a * a) / len(x)
        return float((a * a).sum() / len(x)), {"w": d_a.T @ x, "b": d_a.sum(0)}

    def numbers(step):
        batches(step)
        return np.random.default_rng([4, step]).normal(size=(8, 3))

    history = train.fit(
        model,
        numbers,
        loss,
        optimizer=optim.AdamW(0.05),
        steps=STEPS,
        clip_norm=1.0,
        schedule=optim.warm_up(4, optim.cosine(20)),
        checkpoints=folder,
        checkpoint_every=EVERY,
        evaluate=lambda m: float((m["w"] ** 2).sum()),
        evaluate_every=3,
        patience=5,
    )
    return history.model, history


def run_torch(folder: Path | None, batches: Callable[[int], None]) -> tuple[dict, train.History]:
    train.seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1))

    def numbers(step):
        batches(step)
        return torch.tensor(np.random.default_rng([4, step]).normal(size=(8, 3)), dtype=torch.float32)

    history = train.fit(
        model,
        numbers,
        lambda m, x: ((m(x) - x.sum(1, keepdim=True)) ** 2).mean(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.05),
        steps=STEPS,
        clip_norm=1.0,
        schedule=optim.warm_up(4, optim.cosine(20)),
        checkpoints=folder,
        checkpoint_every=EVERY,
        evaluate=lambda m: float((m[0].weight ** 2).sum()),
        evaluate_every=3,
        patience=9,
    )
    return {n: x.numpy() for n, x in model.state_dict().items()}, history


RUNS = {"numpy": run_numpy, "torch": run_torch}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Half:
    """A file that the process dies writing, with half of it on the disk."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        raise AssertionError("still alive")

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.fsync(self.file.fileno())
        die()


def at(count: int, act: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """The function ``before``, but at its count-th call ``act`` comes instead."""
    calls = [0]

    def function(*args, **kwargs):
        calls[0] += 1
        return act(*args, **kwargs) if calls[0] == count else before(*args, **kwargs)

    return function


def run_and_die(folder: Path, kind: str, moment: str, count: int) -> None:
    """A run whose process dies at the count-th time of a moment, or in the batch of that step."""
    warnings.simplefilter("error")
    os_replace, os_fsync = os.replace, os.fsync

    def replace_and_die(*args):
        os_replace(*args)
        die()

    def batches(step):
        if moment == "batch" and step == count:
            die()

    if moment == "half written":
        train.open = at(count, lambda *a: Half(open(*a)), open)  # noqa: SIM115
    elif moment == "written":
        os.fsync = at(2 * count - 1, lambda descriptor: die(), os_fsync)
    elif moment == "before replacing":
        os.replace = at(count, lambda *a: die(), os_replace)
    elif moment == "replaced":
        os.replace = at(count, replace_and_die, os_replace)
    elif moment == "before removing":
        Path.unlink = at(count, lambda *a, **k: die(), Path.unlink)
    RUNS[kind](folder, batches)


def exit_code(*arguments: Any) -> int | None:
    """How the process of such a run ended."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter for the first optimiser
    process = processes.Process(target=run_and_die, args=arguments)
    process.start()
    process.join()
    return process.exitcode
