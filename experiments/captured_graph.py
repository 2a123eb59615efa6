"""How long a step takes on a GPU when its launches are captured once and replayed.

    python experiments/captured_graph.py

A CUDA graph holds the kernels of a step with their arguments. One call replays them all, and Python and
torch take no part. Every tensor keeps its place, so new inputs are copied into the old ones. For each engine
that runs on a GPU, each cell and each point of :data:`rnnlib.benchmark.POINTS`, a forward pass and a training
step are timed as they are launched and as they are replayed, and the outputs of both are compared. The record
goes to ``experiments/captured_graph.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from rnnlib import engine, nn
from rnnlib.benchmark import POINTS, Point, environment

CELLS = ("RNN", "GRU", "LSTM")
ENGINES = ("plain", "fused")


def captured(step: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The graph of a step, and what the step returns, which every replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made once, compiled kernels above all, is made before
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result


def seconds(step: Callable[[], Any]) -> float:
    """The median time of a step; torch's timer waits for the GPU."""
    return float(Timer("step()", globals={"step": step}).blocked_autorange(min_run_time=0.2).median)


def measure(cell: str, point: Point, name: str, train: bool) -> dict[str, float]:
    """Seconds of a step as it is launched and replayed, and how far the outputs are apart.

    Args:
        cell: one of :data:`CELLS`.
        point: the sizes.
        name: the engine.
        train: whether the step goes back, too.
    """
    torch.manual_seed(0)
    module = getattr(nn, cell)(point.I, point.H).cuda()
    xs = torch.randn(point.T, point.B, point.I, device="cuda")

    def step() -> torch.Tensor:
        with torch.set_grad_enabled(train):
            hs = module(xs)[0]
            if train:
                for p in module.parameters():
                    p.grad = None
                hs.sum().backward()
            return hs.detach()

    with engine.using(name):
        launched = seconds(step)
        graph, hs = captured(step)
        xs.copy_(torch.randn_like(xs))
        graph.replay()
        difference = float((hs - step()).abs().max())
        return {"launched": launched, "replayed": seconds(graph.replay), "difference": difference}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command.

    Args:
        arguments: those of the command line, if None.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", default="A,B,C", help="of rnnlib.benchmark, by their names")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here")
    results = []
    for point in options.points.split(","):
        for cell in CELLS:
            for name in options.engines.split(","):
                for train in (False, True):
                    found = measure(cell, POINTS[point], name, train)
                    results.append({"cell": cell, "point": point, "engine": name, "train": train, **found})
                    times = (
                        f"{1e6 * found['launched']:9.0f} μs launched {1e6 * found['replayed']:9.0f} replayed"
                    )
                    print(
                        f"{point} {cell:<5}{name:<7}{'training' if train else 'forward':<9}{times}",
                        flush=True,
                    )
    record = {**environment("cuda"), "results": results}
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
