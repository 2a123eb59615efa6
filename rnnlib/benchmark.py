"""How fast rnnlib is beside what one would use instead: ``python -m rnnlib.benchmark``.

For each cell and each size (a *point*) the same step is timed for several contenders:

- ``torch.nn``: the layer of torch, the measure of all others;
- ``torch.nn again``: the same once more. How far its ratio is from 1 says how noisy the run was;
- ``rnnlib.nn``: the module that takes its place (for ``gru-reset-before``, which ``torch.nn`` does not
  have, against ``torch.nn.GRU``);
- ``autograd loop``: torch's cell in a Python loop, differentiated by autograd;
- ``floor``: what the matrix products alone would take, from their number of operations and the speed of
  a large product measured in the same run. Nothing can be faster that does the same products.

Timings on a shared machine drift, so no time is compared with one from another minute: in every round
each contender has a short block, in rotating order, and its ratio to ``torch.nn`` is taken within the
round. Reported are the median of the rounds and the quartiles. Seconds are reported from a GPU only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.benchmark import Timer

import rnnlib
from rnnlib import engine, nn, speed
from rnnlib.backend import check_choice, check_count


class Point(NamedTuple):
    """The sizes of a step.

    Attributes:
        T: time steps.
        B: batch size.
        I: input size.
        H: hidden size.
    """

    T: int
    B: int
    I: int
    H: int


POINTS = {
    "A": Point(35, 32, 28, 32),
    "B": Point(100, 32, 64, 128),
    "C": Point(100, 64, 256, 256),
    "D": Point(784, 32, 1, 128),
    "E": Point(1000, 1, 64, 64),
    "F": Point(50, 128, 512, 512),
}
"""The sizes that are measured, by name, from small to large and from short to long."""

GATES = {"rnn": 1, "gru": 3, "gru-reset-before": 3, "lstm": 4}
"""The cells, and how many products of the size of a vanilla network's they do in a step."""

MODES = ("train", "forward")
"""A step of training (forward, sum, backward), or the forward pass alone without gradients."""

CONTENDERS = ("torch.nn", "torch.nn again", "rnnlib.nn", "autograd loop", "floor")

_BLOCK = 0.05  # seconds: long beside the clock, short beside the drift of the machine


class _Loop(torch.nn.Module):
    """A cell of torch.nn in a Python loop."""

    def __init__(self, cell: torch.nn.Module, is_lstm: bool) -> None:
        super().__init__()
        self.cell, self.is_lstm = cell, is_lstm

    def forward(self, xs: torch.Tensor) -> tuple[torch.Tensor, None]:
        state, hs = None, []
        for x_t in xs:
            state = self.cell(x_t, state)
            hs.append(state[0] if self.is_lstm else state)
        return torch.stack(hs), None


def _module(contender: str, cell: str, point: Point) -> torch.nn.Module:
    name = {"rnn": "RNN", "gru": "GRU", "gru-reset-before": "GRU", "lstm": "LSTM"}[cell]
    if contender == "autograd loop":
        return _Loop(getattr(torch.nn, f"{name}Cell")(point.I, point.H), cell == "lstm")
    if contender == "rnnlib.nn":
        options = {"reset_after": False} if cell == "gru-reset-before" else {}
        return getattr(nn, name)(point.I, point.H, **options)
    return getattr(torch.nn, name)(point.I, point.H)


def _step(module: torch.nn.Module, xs: torch.Tensor, mode: str) -> Callable[[], None]:
    def train() -> None:
        for p in module.parameters():
            p.grad = None
        module(xs)[0].sum().backward()

    def forward() -> None:
        with torch.no_grad():
            module(xs)

    return train if mode == "train" else forward


def operations(cell: str, point: Point, mode: str) -> int:
    """The floating-point operations of a step's matrix products: 2 for each multiplication and addition.

    Forward, T·B rows of I + H numbers meet as many rows of weights as there are gates times H; backward,
    each product has two: one for the gradient of the rows, one for that of the weights.

    Args:
        cell: one of :data:`GATES`.
        point: the sizes.
        mode: one of :data:`MODES`.

    Raises:
        ValueError: an unknown cell or mode.
    """
    check_choice("operations", "cell", cell, tuple(GATES))
    check_choice("operations", "mode", mode, MODES)
    return speed.operations(cell.removesuffix("-reset-before"), *point, train=mode == "train")


def _seconds(step: Callable[[], Any], threads: int, repetitions: int) -> float:
    """The mean time of a block; torch's timer waits for the GPU."""
    timer = Timer("step()", globals={"step": step}, num_threads=threads)
    return timer.timeit(repetitions).mean


def _repetitions(step: Callable[[], Any], threads: int) -> int:
    return max(1, round(_BLOCK / _seconds(step, threads, 1)))


def compare(
    cell: str,
    point: Point,
    mode: str,
    *,
    device: str = "cpu",
    threads: int = 1,
    rounds: int = 9,
) -> dict[str, dict[str, float]]:
    """Time a step for each contender, in rotating blocks.

    Args:
        cell: one of :data:`GATES`.
        point: the sizes.
        mode: one of :data:`MODES`.
        device: ``"cpu"``, ``"cuda"`` or another that torch has here.
        threads: how many threads torch may use.
        rounds: how many times each contender has its turn.

    Returns:
        For each contender ``ratio`` to ``torch.nn``, the median over the rounds, and its quartiles ``low``
        and ``high``; on a GPU ``seconds``, the median time of a step.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    check_choice("compare", "cell", cell, tuple(GATES))
    check_choice("compare", "mode", mode, MODES)
    threads = check_count("compare", "threads", threads)
    rounds = check_count("compare", "rounds", rounds)
    _check_device("compare", device)
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(point.T, point.B, point.I, generator=generator).to(device)
    steps: dict[str, Callable[[], Any]] = {}
    for contender in CONTENDERS[:-1]:
        torch.manual_seed(0)
        steps[contender] = _step(_module(contender, cell, point).to(device), xs, mode)
    size = 2048 if device != "cpu" else 1024
    square = torch.randn(size, size, generator=generator).to(device)
    steps["floor"] = lambda: torch.mm(square, square)
    of_square = operations(cell, point, mode) / (2 * size**3)

    for step in steps.values():  # caches, and the choice of kernels
        step()
        step()
    counts = {name: _repetitions(step, threads) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(steps[name], threads, counts[name]))
    times["floor"] = [t * of_square for t in times["floor"]]
    found = {}
    for name, measured in times.items():
        ratios = np.array(measured) / np.array(times["torch.nn"])
        low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        found[name] = {"ratio": float(ratio), "low": float(low), "high": float(high)}
        if device != "cpu":
            found[name]["seconds"] = float(np.median(measured))
    return found


def _check_device(where: str, device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the second
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}: device is {device!r}, which torch cannot use here: {reason}") from None


def environment(device: str) -> dict[str, Any]:
    """Where and when something was measured: ``device``, ``date`` and ``versions``.

    Args:
        device: what torch computes on.

    Returns:
        Names and numbers, ready for JSON.
    """
    on_gpu = device != "cpu"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda if on_gpu else None,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
            "numpy": np.__version__,
            "rnnlib": rnnlib.__version__,
        },
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The ratios to ``torch.nn`` as text, a line for each cell, point and mode.

    Args:
        results: the list under ``results`` of a record.

    Returns:
        The lines, and one for each cell and mode with the geometric means over its points. ``±`` is
        half the distance of the quartiles of ``torch.nn again``: the noise.
    """
    shown = [name for name in CONTENDERS if name != "torch.nn"]
    lines = [f"{'cell':<18}{'point':<7}{'mode':<9}" + "".join(f"{name:>16}" for name in shown) + f"{'±':>8}"]
    for r in results:
        again = r["contenders"]["torch.nn again"]
        lines.append(
            f"{r['cell']:<18}{r['point']:<7}{r['mode']:<9}"
            + "".join(f"{r['contenders'][name]['ratio']:>16.2f}" for name in shown)
            + f"{(again['high'] - again['low']) / 2:>8.2f}"
        )
    for cell, mode in dict.fromkeys((r["cell"], r["mode"]) for r in results):
        rows = [r["contenders"] for r in results if (r["cell"], r["mode"]) == (cell, mode)]
        means = [float(np.exp(np.mean([np.log(row[name]["ratio"]) for row in rows]))) for name in shown]
        lines.append(f"{cell:<18}{'mean':<7}{mode:<9}" + "".join(f"{mean:>16.2f}" for mean in means))
    return "\n".join(lines)


def plot(results: Sequence[dict[str, Any]], mode: str) -> Any:
    """The ratios of one mode, a panel for each cell.

    Args:
        results: the list under ``results`` of a record.
        mode: one of :data:`MODES`.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: nothing was measured in this mode.
    """
    from rnnlib import plotting

    of_mode = [r for r in results if r["mode"] == mode]
    if not of_mode:
        raise ValueError(f"plot: mode is {mode!r}, and the record has nothing of it")
    cells = list(dict.fromkeys(r["cell"] for r in of_mode))
    fig, axes = plotting.figure(height=2.8, columns=len(cells), sharey=True, squeeze=False)
    for ax, cell in zip(axes[0], cells, strict=True):
        rows = [r for r in of_mode if r["cell"] == cell]
        for name, marker in zip(CONTENDERS[2:], "os^", strict=True):
            ratios = [r["contenders"][name]["ratio"] for r in rows]
            ax.semilogy([r["point"] for r in rows], ratios, marker, label=name)
        ax.axhline(1, color=plotting.GREY, linewidth=1)
        ax.set(title=cell)
    axes[0, 0].set_ylabel("time over torch.nn's")
    axes[0, -1].legend()
    return fig


def _names(kind: str, text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is no {kind}: choose from {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """The command.

    Args:
        arguments: those of the command line, if None.
    """
    parser = argparse.ArgumentParser("python -m rnnlib.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--points", type=lambda s: _names("point", s, list(POINTS)), default=list(POINTS), metavar="A,B"
    )
    parser.add_argument(
        "--cells", type=lambda s: _names("cell", s, list(GATES)), default=list(GATES), metavar="rnn,lstm"
    )
    parser.add_argument(
        "--modes", type=lambda s: _names("mode", s, MODES), default=list(MODES), metavar="train,forward"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="a JSON file for the record")
    parser.add_argument("--plot", type=Path, help="a picture of the ratios in training: .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    try:
        record = measure(options)
    except ValueError as error:
        parser.error(str(error))
    print(table(record["results"]))
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(record["results"], options.modes[0]).savefig(options.plot)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command line asks for, with a progress bar.

    Args:
        options: what :func:`main` parsed.

    Returns:
        The record: :func:`environment`, ``settings`` and ``results``.

    Raises:
        ValueError: a device that is not there, or no threads or rounds.
    """
    from tqdm import tqdm

    _check_device("benchmark", options.device)
    todo = [(c, p, m) for c in options.cells for p in options.points for m in options.modes]
    results = []
    for cell, name, mode in tqdm(todo, unit="point", file=sys.stderr):
        contenders = compare(
            cell,
            POINTS[name],
            mode,
            device=options.device,
            threads=options.threads,
            rounds=options.rounds,
        )
        results.append(
            {"cell": cell, "point": name, **POINTS[name]._asdict(), "mode": mode, "contenders": contenders}
        )
    settings = {
        "threads": options.threads,
        "rounds": options.rounds,
        "dtype": "float32",
        "engine": engine.asked(),
    }
    return {**environment(options.device), "settings": settings, "results": results}


if __name__ == "__main__":
    main()
