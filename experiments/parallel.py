"""The character model of chapter 10, trained by as many processes as there are: chapter 14.

    python experiments/parallel.py --checkpoints run                                          # one
    torchrun --standalone --nproc-per-node 2 experiments/parallel.py --checkpoints run        # one machine
    torchrun --nnodes 4 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d \\
        --rdzv-endpoint first:29400 experiments/parallel.py --device cuda --checkpoints run   # on each of 4

All three train the same model on the same batches. A batch is one piece of each of ``--streams`` streams;
each process has some of the streams and their hidden states. Gradients are averaged by
``DistributedDataParallel``, over gloo between CPUs and NCCL between GPUs. The first process writes a
checkpoint with the states of all streams every ``--checkpoint-every`` steps. A run that finds one goes on
from it, with as many processes as there are then; so does torchrun after a worker was killed.

``--measure`` times messages and steps instead, on two processes of one machine, and writes
``experiments/parallel.json``:

    torchrun --standalone --nproc-per-node 2 experiments/parallel.py --measure
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rnnlib import benchmark, datasets, distributed, language, nn, train
from rnnlib.distributed import World
from rnnlib.models import CharacterModel

QUICK_CHARACTERS = 3000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    command.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    command.add_argument("--hidden-size", type=int, default=128)
    command.add_argument("--streams", type=int, default=32, help="of all processes together")
    command.add_argument("--steps-per-batch", type=int, default=64)
    command.add_argument(
        "--steps", type=int, default=600, help="training steps, those before a pause included"
    )
    command.add_argument("--rate", type=float, default=0.005, help="the learning rate, that of Adam")
    command.add_argument("--dropout", type=float, default=0.0)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--checkpoints", type=Path, help="a folder that the first process can write")
    command.add_argument("--checkpoint-every", type=int, default=50)
    command.add_argument("--resume", action="store_true", help="refuse to begin anew")
    command.add_argument("--quick", action="store_true", help="a little of the text, to see that it works")
    command.add_argument("--measure", action="store_true", help="time messages and steps on 2 processes")
    command.add_argument("--blocks", type=int, default=21, help="how often --measure measures")
    command.add_argument("--output", type=Path, help="where the first process writes the record")
    return command


def main(arguments: list[str] | None = None) -> None:
    """Train, or measure. What cannot be done is said in one sentence, and the exit status is 2."""
    options = parser().parse_args(arguments)
    try:
        with distributed.start(options.device) as world:
            record = measure(options, world) if options.measure else run(options, world)
            if world.rank == 0 and options.output is not None:
                options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("RANK", "0") == "0":  # the others have nothing to add
            print(f"parallel.py: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def command_line(options: argparse.Namespace, world: World) -> str:
    """What gives this run again, without the places of files."""
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in vars(options).items()
        if value != parser().get_default(name) and name not in ("output", "checkpoints")
    ]
    begin = "python" if world.size == 1 else f"torchrun --nproc-per-node {world.size}"
    return " ".join([begin, "experiments/parallel.py", *given])


# --- training -------------------------------------------------------------------------------------


def run(options: argparse.Namespace, world: World) -> dict[str, Any]:
    """One process' part of the training."""
    first, last = distributed.stream_shard(options.streams, world.size, world.rank)
    tell(options, world, first, last)

    text = datasets.shakespeare()
    alphabet = language.Alphabet.of(text.train)
    codes, validation = alphabet.encode(text.train), alphabet.encode(text.validation)
    if options.quick:
        codes, validation = codes[:QUICK_CHARACTERS], validation[:QUICK_CHARACTERS]

    train.seed(options.seed)  # the same parameters in every process
    model = build(options, len(alphabet), last - first, world)
    network = distributed.wrap(model)
    # Gradients are added and divided by the number of processes, whatever their shares of the batch.
    factor = distributed.shard_factor(last - first, options.streams, world.size)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
        whole = language.stream_batch(codes, step, options.streams, options.steps_per_batch)
        own = [torch.from_numpy(part[:, first:last]).to(world.device) for part in whole[:2]]
        return own[0], own[1], whole.fresh

    def loss(network: Any, batch: tuple[torch.Tensor, torch.Tensor, bool]) -> torch.Tensor:
        return factor * model.stream_loss(*batch, through=network)

    history = train.fit(
        network,
        batches,
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=options.rate),
        steps=options.steps,
        clip_norm=1.0,
        checkpoints=options.checkpoints,
        checkpoint_every=options.checkpoint_every,
    )
    held_out = model.eval().held_out_loss(torch.from_numpy(validation).to(world.device)).mean().item()
    record = {
        "experiment": "parallel",
        "command": command_line(options, world),
        **benchmark.environment(options.device),
        "processes": world.size,
        "losses": history.losses.tolist(),
        "gradient_norms": history.gradient_norms.tolist(),
        "validation_bits": held_out / math.log(2),
        "parameters": agreed_digest(model, world),
    }
    if world.rank == 0:
        say(f"loss {history.losses[-1]:.4f}, parameters {record['parameters'][:12]}")
    return record


def build(options: argparse.Namespace, size: int, streams: int, world: World) -> CharacterModel:
    """The model of chapter 10 on the layers of rnnlib."""
    model = CharacterModel(size, options.hidden_size, dropout=options.dropout, streams=streams, lstm=nn.LSTM)
    return model.to(device=world.device, dtype=getattr(torch, options.dtype))


def tell(options: argparse.Namespace, world: World, first: int, last: int) -> None:
    """Say who computes what, and where the run begins."""
    who = f"process {world.rank} of {world.size}, pid {os.getpid()}, {world.device}"
    say(f"{who}: streams {first} to {last - 1}")
    if world.rank > 0:
        return
    found = [] if options.checkpoints is None else sorted(options.checkpoints.glob("step-*.safetensors"))
    if options.resume and not found:
        raise FileNotFoundError(
            f"--resume is given, and there is no checkpoint in {options.checkpoints}: without "
            "it the run begins at step 0"
        )
    begins = f"goes on from {found[-1].name}" if found else "begins at step 0"
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    say(f"restart {restart}: {begins}" if restart else begins)


def say(line: str) -> None:
    """Print a line in one piece: the processes share one screen."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def agreed_digest(model: torch.nn.Module, world: World) -> str:
    """The SHA-256 of the parameters, which must be the same in every process.

    Raises:
        RuntimeError: they have drifted apart.
    """
    data = b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in model.parameters())
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, hashlib.sha256(data).hexdigest())
    if len(set(everyone)) > 1:
        raise RuntimeError(f"the processes hold different parameters: {everyone}")
    return str(everyone[0])


# --- measuring ------------------------------------------------------------------------------------

POINTS: dict[str, dict[str, int]] = {
    "much to compute": {"hidden_size": 128, "streams": 32, "steps": 64},
    "between": {"hidden_size": 256, "streams": 16, "steps": 16},
    "much to send": {"hidden_size": 512, "streams": 8, "steps": 4},
}
SIZES = [2**k for k in range(3, 25)]  # bytes: 8 to 16 Mi


def measure(options: argparse.Namespace, world: World) -> dict[str, Any]:
    """Times of messages and of steps, medians and quartiles over blocks that rotate.

    Every block measures everything once, so that what slows the machine for a while slows all.

    Raises:
        ValueError: not two processes.
    """
    if world.size != 2:
        raise ValueError(f"--measure needs 2 processes, and here is {world.size}: use torchrun")
    torch.set_num_threads(1)
    messages: dict[int, list[float]] = {size: [] for size in SIZES}
    steps: dict[str, dict[str, list[float]]] = {name: {} for name in POINTS}
    tasks = {name: step_tasks(options, world, point) for name, point in POINTS.items()}
    for block in range(-2, options.blocks):  # the first two only warm up
        for size in SIZES:
            vector = torch.ones(size // 4, device=world.device)
            repeats = max(1, min(20, 2**20 // size))

            def send(vector: torch.Tensor = vector, repeats: int = repeats) -> None:
                for _ in range(repeats):
                    dist.all_reduce(vector)

            seconds = timed(send, world) / repeats
            if block >= 0:
                messages[size].append(seconds)
        for name, point_tasks in tasks.items():
            for task, (function, alone) in point_tasks.items():
                seconds = timed(function, world, alone)
                if block >= 0:
                    steps[name].setdefault(task, []).append(seconds)

    latency, per_byte = fit_line(messages)
    return {
        "experiment": "parallel",
        "command": command_line(options, world).replace("torchrun", "torchrun --standalone"),
        **benchmark.environment(options.device),
        "backend": dist.get_backend(),
        "processes": world.size,
        "blocks": options.blocks,
        "method": "medians and quartiles over blocks that rotate; one thread each; alone: the other waits",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "latency": latency,
        "per_byte": per_byte,
        "messages": [{"bytes": size, **summary(messages[size])} for size in SIZES],
        "points": [
            {
                "name": name,
                **POINTS[name],
                "bytes": tasks_bytes(options, world, POINTS[name]),
                "seconds": {task: summary(seconds) for task, seconds in steps[name].items()},
                "communication_over_work": summary(ratio(steps[name], "send", "alone")),
                "speed_up": summary(ratio(steps[name], "alone", "together")),
                "slowed_by_neighbour": summary(ratio(steps[name], "side by side", "half alone")),
            }
            for name in POINTS
        ],
    }


def step_tasks(
    options: argparse.Namespace, world: World, point: dict[str, int]
) -> dict[str, tuple[Callable[[], None], bool]]:
    """What is timed at one point, and whether the first process does it alone.

    The whole batch alone; half of it alone; both halves side by side, without a word between the
    processes; the same with the gradients averaged; and the sending of the gradients alone.
    """
    T, B = point["steps"], point["streams"]
    symbols = torch.randint(0, 78, (T + 1, B), device=world.device)
    point_options = argparse.Namespace(**{**vars(options), "hidden_size": point["hidden_size"]})

    def step(streams: int, talk: bool) -> Callable[[], None]:
        model = build(point_options, 78, streams, world)
        network = distributed.wrap(model) if talk else model
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        inputs, targets = symbols[:-1, :streams], symbols[1:, :streams]

        def one() -> None:
            optimizer.zero_grad()
            model.stream_loss(inputs, targets, True, through=network).backward()
            optimizer.step()

        return one

    gradient = torch.ones(tasks_bytes(options, world, point) // 4, device=world.device)
    return {
        "alone": (step(B, False), True),
        "half alone": (step(B // 2, False), True),
        "side by side": (step(B // 2, False), False),
        "together": (step(B // 2, True), False),
        "send": (lambda: dist.all_reduce(gradient), False),
    }


def tasks_bytes(options: argparse.Namespace, world: World, point: dict[str, int]) -> int:
    """The bytes of the gradient at a point."""
    point_options = argparse.Namespace(**{**vars(options), "hidden_size": point["hidden_size"]})
    return sum(p.numel() * p.element_size() for p in build(point_options, 78, 1, world).parameters())


def timed(function: Callable[[], None], world: World, alone: bool = False) -> float:
    """Seconds until the slower process is done; with ``alone`` of the first, while the other waits."""
    dist.barrier()
    begin = time.perf_counter()
    if world.rank == 0 or not alone:
        function()
        if world.device.type == "cuda":
            torch.cuda.synchronize()
    seconds = torch.tensor([time.perf_counter() - begin], dtype=torch.float64, device=world.device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return float(seconds)


def fit_line(messages: dict[int, list[float]]) -> tuple[float, float]:
    """α and β of the all-reduce between two, 2α + Sβ; each size weighs by its relative error."""
    sizes = np.array(list(messages), np.float64)
    medians = np.array([np.median(seconds) for seconds in messages.values()])
    A = np.stack([np.full_like(sizes, 2.0), sizes], axis=1) / medians[:, None]
    solution = np.linalg.lstsq(A, np.ones_like(medians), rcond=None)[0]
    return float(solution[0]), float(solution[1])


def ratio(steps: dict[str, list[float]], above: str, below: str) -> list[float]:
    """The ratio of two times in every block."""
    return [a / b for a, b in zip(steps[above], steps[below], strict=True)]


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
