"""Train the character model that writes in the page, and export its weights.

    python experiments/page_sampler.py --device cuda --steps 4000

One layer of the book's GRU (:mod:`rnnlib.gru`, the reset before the product) reads plays of Shakespeare,
one character at a time, and learns what comes next. Its weights are rounded to eight bits, one scale for
each row, so that they are light enough to travel with a page. The file that is written assigns them to a
variable, for a page opened from a folder may run scripts and may not read data.

It takes three minutes on a GPU, and about ten on one core (``--device cpu``). The same seed gives the same
weights on the same machine; another processor rounds differently, and training makes much of little.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlib import benchmark, convert, datasets, gru, language, losses, nn, optim, train

OUTPUT = Path(__file__).resolve().parents[1] / "book" / "assets" / "sampler" / "weights.js"
SETTINGS = {"hidden_size": 192, "B": 64, "T": 96, "rate": 5e-3, "clip_norm": 1.0, "seed": 0}
BEFORE, AFTER = "window.characterModel = ", ";\n"


class CharacterModel(torch.nn.Module):
    """From characters, as numbers, to the logits of the characters that follow."""

    def __init__(self, characters: int, hidden_size: int) -> None:
        """Create the parameters: ``characters`` inputs and outputs, ``hidden_size`` units between."""
        super().__init__()
        self.characters = characters
        self.gru = nn.GRU(characters, hidden_size, reset_after=False)
        self.readout = torch.nn.Linear(hidden_size, characters)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """The logits, (T * B, I), of what follows each of the characters (T, B)."""
        xs = torch.nn.functional.one_hot(codes, self.characters).to(self.readout.weight.dtype)  # (T, B, I)
        hs, _ = self.gru(xs)  # (T, B, H)
        return self.readout(hs).flatten(0, 1)  # (T * B, I)


def cross_entropy(model: CharacterModel, codes: torch.Tensor) -> torch.Tensor:
    """The mean loss, in nats per character, of windows of text (T + 1, B), each from a state of zeros."""
    return torch.nn.functional.cross_entropy(model(codes[:-1]), codes[1:].flatten())


def bits_per_character(model: CharacterModel, codes: torch.Tensor, streams: int = 16) -> float:
    """The loss in bits on a text, cut into a few long streams, each read from a state of zeros."""
    T = (len(codes) - 1) // streams  # the last few characters, fewer than there are streams, are not read
    starts = T * torch.arange(streams, device=codes.device)
    windows = codes[torch.arange(T + 1, device=codes.device)[:, None] + starts]  # (T + 1, B)
    with torch.no_grad():
        loss = cross_entropy(model, windows)
    return float(losses.bits_per_symbol(loss.cpu().double()))


def quantise(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, and the scale of each row; their product is nearly W."""
    # Five digits of a scale are enough, and they are what the file holds.
    scales = np.array([float(f"{scale:.4e}") for scale in np.abs(W).max(axis=1) / 127])
    return np.clip(np.rint(W / scales[:, None]), -127, 127).astype(np.int8), scales


def export(model: CharacterModel) -> dict[str, Any]:
    """The parameters of the cell and of the readout as JSON can hold them."""
    state = {name: x.detach().cpu().double().numpy() for name, x in model.state_dict().items()}
    weights = {name.removeprefix("gru."): x for name, x in state.items() if name.startswith("gru.")}
    cell = convert.from_torch(weights, gru.GRUCell)
    arrays = {name: getattr(cell, name) for name in ("W_z", "b_z", "W_r", "b_r", "W", "b")}
    arrays |= {"W_hy": state["readout.weight"], "b_y": state["readout.bias"]}
    exported: dict[str, Any] = {}
    for name, x in arrays.items():
        if x.ndim == 1:
            exported[name] = [float(f"{b:.4e}") for b in x]
        else:
            q, scales = quantise(x)
            exported[name] = {
                "scales": scales.tolist(),
                "int8": base64.b64encode(q.tobytes()).decode("ascii"),
            }
    return exported


def load(parameters: dict[str, Any], model: CharacterModel) -> CharacterModel:
    """Put exported parameters back into a model."""
    arrays = {}
    for name, x in parameters.items():
        if isinstance(x, dict):
            scales = np.array(x["scales"])[:, None]  # (H, 1)
            q = np.frombuffer(base64.b64decode(x["int8"]), np.int8).reshape(len(scales), -1)
            arrays[name] = scales * q
        else:
            arrays[name] = np.array(x)
    readout = {"readout.weight": arrays.pop("W_hy"), "readout.bias": arrays.pop("b_y")}
    weights = {f"gru.{name}": x for name, x in convert.to_torch(gru.GRUCell(**arrays)).items()}
    model.load_state_dict({name: torch.from_numpy(x) for name, x in (weights | readout).items()})
    return model


def main(arguments: list[str] | None = None) -> None:
    """Train, round, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=4000, help="steps of training")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file to write")
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    torch.set_num_threads(1)
    train.seed(SETTINGS["seed"])
    text = datasets.shakespeare()
    alphabet = language.Alphabet.of(text.train)
    codes = {
        part: torch.from_numpy(alphabet.encode(getattr(text, part))).to(options.device)
        for part in text._fields
    }
    model = CharacterModel(len(alphabet), SETTINGS["hidden_size"]).to(options.device)
    within = torch.arange(SETTINGS["T"] + 1)[:, None]  # (T + 1, 1)

    def batch(step: int) -> torch.Tensor:
        """Windows that begin anywhere: the step alone decides where."""
        generator = np.random.default_rng([SETTINGS["seed"], step])
        starts = generator.integers(len(codes["train"]) - SETTINGS["T"], size=SETTINGS["B"])
        return codes["train"][(within + torch.from_numpy(starts)).to(options.device)]  # (T + 1, B)

    train.fit(
        model,
        batch,
        cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=SETTINGS["rate"]),
        steps=options.steps,
        clip_norm=SETTINGS["clip_norm"],
        schedule=optim.cosine(options.steps),
        progress=True,
    )
    exported = export(model)
    parts = ("validation", "test")
    before = {part: round(bits_per_character(model, codes[part]), 4) for part in parts}
    load(exported, model)
    after = {part: round(bits_per_character(model, codes[part]), 4) for part in parts}
    record = {
        "about": {
            "text": "rnnlib.datasets.shakespeare().train",
            "command": "python experiments/page_sampler.py "
            f"--device {options.device} --steps {options.steps}",
            "settings": SETTINGS | {"steps": options.steps},
            "bits_per_character": {"as trained": before, "as exported": after},
            **benchmark.environment(options.device),
            "seconds": round(time.perf_counter() - began),
        },
        "alphabet": alphabet.characters,
        "parameters": exported,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(BEFORE + json.dumps(record, separators=(",", ":")) + AFTER, encoding="ascii")
    print(f"{options.output}: {options.output.stat().st_size} bytes; bits per character {before}, {after}")


if __name__ == "__main__":
    main()
