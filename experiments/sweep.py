"""Many seeds: how often each cell learns the adding problem, at several learning rates (chapter 14).

    python experiments/sweep.py                                   # on the processors of this machine
    python experiments/sweep.py --scheduler tcp://first:8786      # on those of a Dask cluster

A run is a cell, a learning rate and a seed, and nothing else decides its result; so runs can be shared among
any workers in any order. A cluster is a scheduler on one machine, ``dask scheduler``, and on each of the
others

    dask worker tcp://first:8786 --nworkers 8 --nthreads 1

with rnnlib installed on all (``pip install "rnnlib[cluster]"``). The record is written anew after each run.
The same command goes on where it stopped: it does the runs that the record lacks.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rnnlib import benchmark, nn, tasks, train

CELLS = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}
RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05]
Key = tuple[str, float, int]


class Adder(torch.nn.Module):
    """A recurrent layer, and the answer from its last state."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        """Draw the first parameters."""
        super().__init__()
        self.layer = CELLS[cell](2, hidden_size)
        self.readout = torch.nn.Linear(hidden_size, 1)

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        """The sums, (B,), of sequences (T, B, 2)."""
        return self.readout(self.layer(xs)[0][-1])[:, 0]


def run(key: Key, settings: dict[str, Any]) -> float | None:
    """One run: the mean squared error on sequences that it was not trained on, or None if it diverged."""
    cell, rate, seed = key
    torch.set_num_threads(1)
    rng = train.seed(seed)
    model = Adder(cell, settings["hidden_size"])

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        xs, targets = tasks.adding(settings["length"], size, rng)
        return torch.from_numpy(xs), torch.from_numpy(targets)

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    try:
        train.fit(
            model,
            lambda step: batch(settings["batch_size"]),
            loss,
            optimizer=optimizer,
            steps=settings["steps"],
            clip_norm=1.0,
        )
    except FloatingPointError:
        return None
    with torch.no_grad():
        return float(loss(model, batch(1000)))


@contextlib.contextmanager
def workers(scheduler: str | None, processes: int) -> Iterator[Executor]:
    """What runs functions elsewhere: processes of this machine, or the workers of a Dask cluster."""
    if scheduler is None:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError('--scheduler needs Dask: pip install "rnnlib[cluster]"') from error
    with Client(scheduler) as client, client.get_executor(pure=False) as pool:
        yield pool


def results(path: Path, settings: dict[str, Any]) -> dict[Key, float | None]:
    """The runs that are done already, if they are those of these settings."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != settings:
        raise ValueError(
            f"{path} holds runs with {record['settings']}, and these are {settings}: name another --output"
        )
    return {(r["cell"], r["rate"], r["seed"]): r["loss"] for r in record["results"]}


def write(path: Path, settings: dict[str, Any], done: dict[Key, float | None]) -> None:
    """The record, there as a whole or not at all."""
    rows = [{"cell": c, "rate": r, "seed": s, "loss": loss} for (c, r, s), loss in sorted(done.items())]
    record = {**benchmark.environment("cpu"), "settings": settings, "results": rows}
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(new, path)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if (n := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{n} is below 1")
    return n


def main(arguments: list[str] | None = None) -> None:
    """Do the runs that are missing. What cannot be done is said in one sentence, and the exit status is 2."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--seeds", type=count, default=20, help="of each cell at each rate")
    command.add_argument("--rates", type=float, nargs="+", default=RATES, help="those of Adam")
    command.add_argument("--length", type=count, default=30, help="steps of a sequence")
    command.add_argument("--hidden-size", type=count, default=32)
    command.add_argument("--batch-size", type=count, default=32)
    command.add_argument("--steps", type=count, default=500, help="of training")
    command.add_argument("--processes", type=count, default=os.cpu_count(), help="without a scheduler")
    command.add_argument("--scheduler", help="the address of a Dask scheduler")
    command.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = command.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("length", "hidden_size", "batch_size", "steps")}
    try:
        done = results(options.output, settings)
        keys = [k for k in itertools.product(CELLS, options.rates, range(options.seeds)) if k not in done]
        with workers(options.scheduler, options.processes) as pool:
            futures = {pool.submit(run, key, settings): key for key in keys}
            for future in tqdm(as_completed(futures), total=len(keys), unit="run"):
                done[futures[future]] = future.result()
                write(options.output, settings, done)
    except BrokenProcessPool:
        stop("a process was killed; the same command goes on from the runs that are done")
    except (ValueError, OSError) as error:
        stop(str(error))


def stop(sentence: str) -> None:
    """End with one sentence."""
    print(f"sweep.py: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
