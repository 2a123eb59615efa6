"""The larger setting of chapter 12: many networks on each series, and one trained on simulated series.

    python experiments/time_series.py --device cuda

trains, for each of the three series and each seed, a GRU on the series itself (of the sizes in
``--sizes``; the size is chosen by the validation part), and averages the forecasts of the seeds into an
ensemble. Then it trains one GRU per seed on simulated series alone: trends, changing seasons, cycles and
noise, drawn anew for every batch. That one forecasts the three series without having been trained on a
single value of them. The record goes to ``experiments/time_series.json``; it says what was run, on
what, and what came out. The chapter reads it.

``--quick`` does the same with everything small, in seconds, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlib import benchmark, forecasting, train
from rnnlib.forecasting import Series
from rnnlib.models import Forecaster

CONTEXT, HORIZON = 48, 12
SIMULATED_CONTEXT = 72  # the first half of it sets mean and scale, as there is no training part
COMMAND = "python experiments/time_series.py --device "


def loss(model: Forecaster, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The Gaussian log-likelihood of all horizons, at the steps that the targets are given for."""
    xs, targets = batch  # (T, B), (T', B, H) of the last T' steps
    forecasts = model(xs)[-len(targets) :].flatten(0, 2)  # (T'·B·H, 2)
    return forecasting.gaussian_nll.unchecked(*forecasts.split(1, 1), targets.reshape(-1, 1))


# --- a network on one series ----------------------------------------------------------------------


def forecast(model: Forecaster, series: Series, part: str, device: str) -> np.ndarray:
    """Median forecasts in the unit of the series, (N, H)."""
    origins = series.origins(part)
    xs = forecasting.contexts(series.u, origins - series.offset, CONTEXT)
    means = model.direct(torch.tensor(xs, dtype=torch.float32, device=device))[..., 0]
    return series.back(means.double().cpu().numpy(), origins)


def local(series: Series, size: int, seed: int, steps: int, device: str) -> dict[str, Any]:
    """Train on one series, stop where the validation is best, and forecast both parts."""
    train.seed(seed)
    model = Forecaster("gru", size, series.horizon).to(device)
    xs, targets = (torch.tensor(a, dtype=torch.float32, device=device) for a in series.windows(CONTEXT))
    validation = series.origins("validation")

    def evaluate(m: Forecaster) -> float:
        return float(series.errors(forecast(m, series, "validation", device), validation).mean())

    history = train.fit(
        model,
        lambda step: (xs, targets),
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        steps=steps,
        clip_norm=1.0,
        evaluate=evaluate,
        evaluate_every=10,
        patience=8,
    )
    return {
        "validation": float(history.evaluations.min()),
        "steps": history.best_step,
        "test": forecast(model, series, "test", device),
    }


def local_networks(series: Series, sizes: list[int], seeds: list[int], steps: int, device: str) -> dict:
    """All sizes and seeds on one series; the size by validation; the mean of the seeds' forecasts."""
    origins = series.origins("test")
    runs = {size: [local(series, size, seed, steps, device) for seed in seeds] for size in sizes}
    by_size = {size: float(np.mean([r["validation"] for r in runs[size]])) for size in sizes}
    best = min(by_size, key=by_size.__getitem__)
    ensemble = np.mean([r["test"] for r in runs[best]], axis=0)
    return {
        "validation_mase_by_size": {str(size): value for size, value in by_size.items()},
        "size": best,
        "per_seed": [
            {"seed": seed, "steps": r["steps"], **mase(series, r["test"], origins)}
            for seed, r in zip(seeds, runs[best], strict=True)
        ],
        "ensemble": mase(series, ensemble, origins),
    }


def mase(series: Series, forecasts: np.ndarray, origins: np.ndarray) -> dict[str, float]:
    """The mean absolute scaled error of one step ahead, and of all horizons."""
    errors = series.errors(forecasts, origins)
    return {"mase_1": float(errors[:, 0].mean()), "mase": float(errors.mean())}


# --- one network on simulated series --------------------------------------------------------------


def log_uniform(low: float, high: float, B: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers whose logarithm is uniform, (B, 1)."""
    u = torch.rand(B, 1, generator=generator, device=generator.device)
    return low * (high / low) ** u


def filtered(noise: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Noise (B, n) through a filter of impulse response (B, n), by Fourier transform."""
    n = noise.shape[1]
    product = torch.fft.rfft(noise, 2 * n) * torch.fft.rfft(response, 2 * n)
    return torch.fft.irfft(product, 2 * n)[:, :n]


def simulate(B: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Series that nobody measured, (length, B): half of them seasonal differences, half cycles.

    The first half are the differences over 12 months of a level (a random walk whose slope is another),
    a season that changes from year to year, and noise with a memory. The others are damped cycles of 4
    to 30 steps, driven by noise and bent so that they rise faster or slower than they fall.
    """
    device = generator.device
    n, m = length + 100, 12  # 100 steps to forget the start

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    lags = torch.arange(n, device=device, dtype=torch.float32)
    half = B // 2
    # Trend, season, noise; only their sizes relative to each other count.
    slope = torch.cumsum(normal(half, n) * log_uniform(1e-3, 0.1, half, generator), 1)
    level = torch.cumsum(slope + normal(half, n) * log_uniform(0.03, 3, half, generator), 1)
    years = math.ceil(n / m)
    season = torch.cumsum(normal(half, years, m), 1).reshape(half, -1)[:, :n]
    season = season * log_uniform(0.03, 1, half, generator)
    memory = torch.rand(half, 1, generator=generator, device=device) * 0.95
    noise = filtered(normal(half, n), memory**lags) * log_uniform(0.1, 1, half, generator)
    x = level + season + noise
    differences = x[:, m:] - x[:, :-m]  # (half, n - m)

    rest = B - half
    period = log_uniform(4, 30, rest, generator)
    radius = 1 - log_uniform(0.005, 0.3, rest, generator)
    phase = torch.rand(rest, 1, generator=generator, device=device) * 2 * math.pi
    cycle = filtered(normal(rest, n), radius**lags * torch.cos(2 * math.pi * lags / period + phase))
    cycle = cycle / cycle.std(1, keepdim=True)
    bend = torch.rand(rest, 1, generator=generator, device=device)
    cycle = cycle + bend * 0.5 * (cycle**2 - 1) + normal(rest, n) * log_uniform(0.03, 0.5, rest, generator)
    return torch.cat([differences[:, -length:], cycle[:, -length:]]).T.contiguous()  # (length, B)


def standardise(xs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A context (T, B), or more, by mean and deviation of its first half; and these two."""
    first = xs[: SIMULATED_CONTEXT // 2]
    mean, std = first.mean(0), first.std(0)
    return (xs - mean) / std, mean, std


def simulated(size: int, seed: int, steps: int, batch: int, device: str) -> Forecaster:
    """Train on simulated series alone."""
    train.seed(seed)
    model = Forecaster("gru", size, HORIZON).to(device)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator(device).manual_seed(1_000_003 * seed + step)
        series, _, _ = standardise(simulate(batch, SIMULATED_CONTEXT + HORIZON, generator))
        series = series.clamp(-10, 10)  # a wild one must not rule a whole batch
        ahead = series[SIMULATED_CONTEXT // 2 :].unfold(0, HORIZON, 1)  # (T', B, H)
        return series[:SIMULATED_CONTEXT], ahead[1:]

    train.fit(
        model,
        batches,
        loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        steps=steps,
        clip_norm=1.0,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    return model


def forecast_unseen(model: Forecaster, series: Series, part: str, device: str) -> np.ndarray:
    """Forecasts (N, H) of a series that the network was not trained on."""
    origins = series.origins(part)
    xs = forecasting.contexts(series.d, origins - series.offset, SIMULATED_CONTEXT)  # (T, N)
    u, mean, std = standardise(torch.tensor(xs, dtype=torch.float32, device=device))
    means = model.direct(u)[:, : series.horizon, 0] * std[:, None] + mean[:, None]  # (N, H), of d
    d_mean, d_std = series.moments
    return series.back((means.double().cpu().numpy() - d_mean) / d_std, origins)


# --- the record -----------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train everything, and say what came out."""
    device = arguments.device
    if device == "cuda":
        torch.zeros(1, device=device)  # a machine without a card fails here, in a second
    start = time.monotonic()
    seeds = list(range(arguments.seeds))
    problems = forecasting.chapter_series()
    results: dict[str, Any] = {series.name: {} for series in problems}
    for series in problems:
        results[series.name]["own"] = local_networks(series, arguments.sizes, seeds, arguments.steps, device)
        print(f"{series.name}: {time.monotonic() - start:.0f} s", flush=True)
    unseen: dict[str, list[np.ndarray]] = {series.name: [] for series in problems}
    for seed in seeds:
        model = simulated(arguments.simulated_size, seed, arguments.simulated_steps, arguments.batch, device)
        for series in problems:
            unseen[series.name].append(forecast_unseen(model, series, "test", device))
        print(f"simulated series, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    for series in problems:
        origins, forecasts = series.origins("test"), unseen[series.name]
        results[series.name]["simulated"] = {
            "per_seed": [
                {"seed": s, **mase(series, f, origins)} for s, f in zip(seeds, forecasts, strict=True)
            ],
            "ensemble": mase(series, np.mean(forecasts, axis=0), origins),
        }
    for result in results.values():
        for kind in ("own", "simulated"):
            values = [row["mase"] for row in result[kind]["per_seed"]]
            result[kind]["mean"] = float(np.mean(values))
            result[kind]["std"] = float(np.std(values, ddof=1))
    return {
        "experiment": "time_series",
        "command": COMMAND + arguments.device,
        "quick": arguments.quick,
        "settings": {
            "sizes": arguments.sizes,
            "steps": arguments.steps,
            "context": CONTEXT,
            "rate": 0.01,
            "simulated_size": arguments.simulated_size,
            "simulated_steps": arguments.simulated_steps,
            "simulated_batch": arguments.batch,
            "simulated_context": SIMULATED_CONTEXT,
            "simulated_rate": 0.01,
        },
        "seeds": seeds,
        "results": results,
        "seconds": round(time.monotonic() - start, 1),
        **benchmark.environment(device),
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on; at least 2")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32], help="hidden units to choose from")
    parser.add_argument("--steps", type=int, default=300, help="at most, on each series")
    parser.add_argument("--simulated-size", type=int, default=128)
    parser.add_argument("--simulated-steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=512, help="simulated series per step")
    parser.add_argument("--quick", action="store_true", help="everything small, in seconds")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parsed = parser.parse_args(arguments)
    if parsed.seeds < 2:
        parser.error(f"--seeds is {parsed.seeds}, expected at least 2 for a spread")
    if parsed.quick:
        parsed.seeds, parsed.sizes, parsed.steps = 2, [4, 8], 20
        parsed.simulated_size, parsed.simulated_steps, parsed.batch = 8, 5, 32
    record = run(parsed)
    parsed.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
