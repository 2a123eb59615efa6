"""One of the processes of tests/test_distributed.py: computes its share, and writes what it got.

    RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=… python parallel_worker.py folder

In ``given.npz`` lie the symbols of all streams and the parameters; what this process computed goes to
``got-<rank>.npz``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rnnlib import distributed, language, nn, train
from rnnlib.models import CharacterModel


def train_streams(world: distributed.World, steps: int, folder: Path | None) -> train.History:
    """Five streams of random symbols, shared by however many there are, with a checkpoint every 4 steps."""
    first, last = distributed.stream_shard(5, world.size, world.rank)
    codes = np.random.default_rng(1).integers(0, 7, 500)
    train.seed(0)
    model = CharacterModel(7, 6, streams=last - first, lstm=nn.LSTM).double()
    factor = distributed.shard_factor(last - first, 5, world.size)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
        inputs, targets, fresh = language.stream_batch(codes, step, 5, 9)
        return torch.from_numpy(inputs[:, first:last]), torch.from_numpy(targets[:, first:last]), fresh

    return train.fit(
        distributed.wrap(model),
        batches,
        lambda network, batch: factor * model.stream_loss(*batch, through=network),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        steps=steps,
        clip_norm=0.5,
        checkpoints=folder,
        checkpoint_every=4,
    )


def main(folder: Path) -> None:
    given = dict(np.load(folder / "given.npz"))
    got: dict[str, Any] = {}
    with distributed.start(timeout=60) as world:
        for streams in (4, 5):  # equal shards, and 3 and 2
            first, last = distributed.stream_shard(streams, world.size, world.rank)
            model = CharacterModel(7, 6, streams=last - first, lstm=nn.LSTM).double()
            weights = {n: torch.from_numpy(given[n]) for n, _ in model.named_parameters()}
            model.load_state_dict(weights, strict=False)
            network = distributed.wrap(model)
            factor = distributed.shard_factor(last - first, streams, world.size)
            for step, symbols in enumerate(torch.from_numpy(given["symbols"])[:, :, first:last]):
                network.zero_grad()
                loss = model.stream_loss(symbols[:-1], symbols[1:], step == 0, through=network)
                (factor * loss).backward()
                for name, parameter in model.named_parameters():
                    got[f"{streams}/{step}/{name}"] = parameter.grad.numpy().copy()
            got[f"{streams}/h"] = model.h.numpy()

        vector = torch.from_numpy(given["vectors"][world.rank])
        got["ring"] = distributed.send_around_the_ring(vector).numpy()
        total = vector.clone()
        dist.all_reduce(total)
        got["all_reduce"] = total.numpy()
        got["vector"] = vector.numpy()
        got["losses"] = train_streams(world, 7, folder / "run").losses
        got["drawn"] = torch.rand(3).numpy()  # what dropout would have drawn next in the last step
    np.savez(folder / f"got-{world.rank}.npz", **got)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
