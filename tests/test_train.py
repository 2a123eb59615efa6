"""The training loop does what a loop written by hand does, and survives being killed at any moment."""

from __future__ import annotations

import json
import math
import random
import signal
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnnlib import bptt, losses, optim, train
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests import killed_worker
from tests.support import relative_error, seeds

# --- a small problem --------------------------------------------------------------------------

Point = tuple[torch.Tensor, torch.Tensor]


def points(step: int, device: str = "cpu") -> Point:
    rng = np.random.default_rng([7, step])
    x = torch.tensor(rng.normal(size=(16, 3)), dtype=torch.float32, device=device)
    return x, torch.sin(x.sum(1, keepdim=True))


def squared_error(model: nn.Module, batch: Point) -> torch.Tensor:
    x, y = batch
    return ((model(x) - y) ** 2).mean()


def a_module(n: int = 0, dropout: float = 0.3) -> nn.Module:
    train.seed(n)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def adam(model: nn.Module, rate: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=rate)


def fit_module(steps: int, model: nn.Module | None = None, **more: Any) -> train.History:
    model = a_module() if model is None else model
    optimizer = more.pop("optimizer", None) or adam(model)
    options = {"batches": points, "loss": squared_error} | more
    return train.fit(model, optimizer=optimizer, steps=steps, **options)


def values(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: x.detach().cpu().numpy().copy() for name, x in model.state_dict().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, x in a.items():
        np.testing.assert_array_equal(x, b[name], err_msg=name)


def assert_same_history(a: train.History, b: train.History) -> None:
    for name in ("losses", "gradient_norms", "rates", "evaluated_at", "evaluations"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.stopped_early == b.stopped_early


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The same small problem in NumPy: a line, and its gradient by hand.


def line_loss(parameters: dict, batch: tuple) -> tuple[float, dict]:
    (x, y), n = batch, len(batch[0])
    error = x @ parameters["w"] + parameters["b"] - y
    return float((error**2).mean()), {"w": 2 * x.T @ error / n, "b": np.asarray(2 * error.mean())}


def line_points(step: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng([8, step]).normal(size=(16, 3))
    return x, x @ np.array([1.0, -2.0, 0.5]) + 3


def a_line() -> dict[str, np.ndarray]:
    return {"w": np.zeros(3), "b": np.asarray(0.0)}


def fit_line(steps: int, model: Any = None, **more: Any) -> train.History:
    options = {"batches": line_points, "loss": line_loss, "optimizer": optim.SGD(0.1, 0.5)} | more
    return train.fit(a_line() if model is None else model, steps=steps, **options)


# --- seeds ------------------------------------------------------------------------------------


def test_a_seed_seeds_every_generator():
    def draws(n: int) -> list[float]:
        rng = train.seed(n)
        return [random.random(), np.random.rand(), torch.rand(()).item(), rng.random()]  # noqa: NPY002

    first, other = draws(5), draws(6)
    assert draws(5) == first
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert first[3] == np.random.default_rng(5).random()
    torch.manual_seed(5)
    assert first[2] == torch.rand(()).item()


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (2**32, ValueError), (1.0, TypeError)])
def test_a_seed_out_of_range_is_refused(n, error):
    with pytest.raises(error, match="seed: n is"):
        train.seed(n)


# --- the loop on torch ------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_module_is_trained_as_by_a_loop_written_by_hand_bit_for_bit(clip_norm, scheduled):
    schedule = optim.warm_up(5, optim.cosine(20)) if scheduled else None
    history = fit_module(30, clip_norm=clip_norm, schedule=schedule)

    model = a_module()
    optimizer = adam(model)
    expected_losses, norms, rates = [], [], []
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 1e-2 * (schedule(step) if scheduled else 1)
        optimizer.zero_grad()
        loss = squared_error(model, points(step))
        loss.backward()
        norms.append(math.sqrt(sum((p.grad.double() ** 2).sum().item() for p in model.parameters())))
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        expected_losses.append(loss.item())
        rates.append(optimizer.param_groups[0]["lr"])

    assert_same(values(history.model), values(model))
    assert history.losses.tolist() == expected_losses
    assert history.rates.tolist() == rates
    np.testing.assert_allclose(history.gradient_norms, norms, rtol=1e-6)
    assert history.losses.shape == (30,)
    assert history.losses.dtype == np.float64
    assert history.best_step is None
    assert not history.stopped_early
    if clip_norm is not None:
        assert (history.gradient_norms > clip_norm).any()


def test_training_lowers_the_loss_of_a_module():
    history = fit_module(600, a_module(dropout=0.0))
    assert history.losses[-20:].mean() < 0.1 * history.losses[:20].mean()


def test_every_parameter_group_follows_the_schedule_and_gets_its_rate_back():
    model = a_module()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[3].parameters(), "lr": 0.125}]
    )
    seen = []

    def batches(step: int) -> Point:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return points(step)

    history = fit_module(5, model, batches=batches, optimizer=optimizer, schedule=optim.step_decay(1, 0.5))
    assert history.rates.tolist() == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert seen[1:] == [[0.5, 0.125], [0.25, 0.0625], [0.125, 0.03125], [0.0625, 0.015625]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125]


def test_what_is_frozen_stays():
    model = a_module()
    model[0].weight.requires_grad_(False)
    before = values(model)
    after = values(fit_module(5, model, clip_norm=1.0).model)
    np.testing.assert_array_equal(before["0.weight"], after["0.weight"])
    assert (before["3.weight"] != after["3.weight"]).any()


def test_the_mode_of_a_module_stays_as_it_is():
    model = a_module(dropout=0.9)
    model.eval()
    quiet = fit_module(5, model)
    assert not model.training
    np.testing.assert_array_equal(quiet.losses, fit_module(5, a_module(dropout=0.0).eval()).losses)


def test_an_evaluation_leaves_no_trace_in_the_module():
    modes = []

    def evaluate(model: nn.Module) -> float:
        modes.append(([m.training for m in model.modules()], torch.is_grad_enabled()))
        return squared_error(model, points(1000)).item()

    model = a_module()
    model[0].eval()
    before = [m.training for m in model.modules()]
    watched = fit_module(20, model, evaluate=evaluate, evaluate_every=5)
    assert [m.training for m in model.modules()] == before
    assert modes == [([False] * 5, False)] * 4
    plain = fit_module(20)
    assert_same(values(watched.model), values(plain.model))
    np.testing.assert_array_equal(watched.losses, plain.losses)
    assert watched.evaluated_at.tolist() == [5, 10, 15, 20]
    assert watched.evaluations[-1] == evaluate(model.eval())
    assert watched.best_step == watched.evaluated_at[watched.evaluations.argmin()]


def test_the_mode_comes_back_when_an_evaluation_fails():
    model = a_module()

    def evaluate(model: nn.Module) -> float:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        fit_module(5, model, evaluate=evaluate, evaluate_every=2)
    assert all(m.training for m in model.modules())


# --- the loop on NumPy ------------------------------------------------------------------------


def test_training_finds_the_line():
    start = a_line()
    history = fit_line(200, start)
    np.testing.assert_allclose(history.model["w"], [1, -2, 0.5], atol=1e-8)
    np.testing.assert_allclose(history.model["b"], 3, atol=1e-8)
    assert history.losses[-1] < 1e-12
    assert not start["w"].any()  # what went in stays as it was


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_numpy_parameters_are_trained_as_by_a_loop_written_by_hand(clip_norm):
    history = fit_line(20, clip_norm=clip_norm, schedule=optim.cosine(20))
    w, b, v_w, v_b = np.zeros(3), 0.0, np.zeros(3), 0.0
    for step in range(20):
        loss, g = line_loss({"w": w, "b": b}, line_points(step))
        norm = math.sqrt((g["w"] ** 2).sum() + g["b"] ** 2)
        scale = 1 if clip_norm is None else min(1, clip_norm / norm)
        v_w, v_b = 0.5 * v_w + scale * g["w"], 0.5 * v_b + scale * g["b"]
        rate = 0.1 * optim.cosine(20)(step)
        w, b = w - rate * v_w, b - rate * v_b
        assert history.losses[step] == pytest.approx(loss, rel=1e-12)
        assert history.gradient_norms[step] == pytest.approx(norm, rel=1e-12)
        assert history.rates[step] == pytest.approx(rate, rel=1e-12)
    assert relative_error(history.model["w"], w) < 1e-12
    assert relative_error(history.model["b"], b) < 1e-12


class Forecaster(nn.Module):
    """The vanilla network with a linear readout, written with torch alone."""

    def __init__(self, **arrays: np.ndarray) -> None:
        super().__init__()
        for name, x in arrays.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(x)))

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        h, ys = xs.new_zeros(xs.shape[1], len(self.b_h)), []
        for x_t in xs:
            h = torch.tanh(h @ self.W_hh.T + x_t @ self.W_xh.T + self.b_h)
            ys.append(h @ self.W_hy.T + self.b_y)
        return torch.stack(ys)


def forecast_loss(network: dict, batch: tuple) -> tuple[Any, dict]:
    """The same network by the equations of the book, with its gradient."""
    cell, W_hy, b_y = network["cell"], network["W_hy"], network["b_y"]
    xs, targets = batch
    trajectory = unroll(cell, xs)
    ys, targets = losses.rows(losses.linear_readout(trajectory.hs, W_hy, b_y)), losses.rows(targets)
    d_ys = losses.mean_squared_error_backward(np.asarray(1.0), ys, targets).reshape((*xs.shape[:2], -1))
    d_hs, d_W_hy, d_b_y = losses.linear_readout_backward(d_ys, trajectory.hs, W_hy)
    d_cell = bptt.bptt(cell, trajectory, d_hs).d_cell
    return losses.mean_squared_error(ys, targets), {"cell": d_cell, "W_hy": d_W_hy, "b_y": d_b_y}


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (optim.SGD(0.1, 0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (optim.Adam(0.02), torch.optim.Adam, {"lr": 0.02}),
        (optim.AdamW(0.02, decay=0.1), torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    ],
    ids=["momentum", "Adam", "AdamW"],
)
@given(seed=seeds)
def test_the_numpy_path_and_the_torch_path_train_the_same_network_alike(ours, theirs, options, seed):
    rng = np.random.default_rng(seed)
    sizes = {"W_xh": (4, 2), "W_hh": (4, 4), "b_h": (4,), "W_hy": (1, 4), "b_y": (1,)}
    arrays = {name: rng.normal(size=size) / 2 for name, size in sizes.items()}

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        xs = np.random.default_rng([seed, step]).normal(size=(5, 3, 2))
        return xs, np.cumsum(xs[:, :, :1], 0)

    cell = VanillaCell(arrays["W_xh"], arrays["W_hh"], arrays["b_h"])
    network = {"cell": cell, "W_hy": arrays["W_hy"], "b_y": arrays["b_y"]}
    settings = {"steps": 20, "schedule": optim.warm_up(5, optim.cosine(15, 0.1))}
    on_numpy = train.fit(network, batches, forecast_loss, optimizer=ours, **settings)

    module = Forecaster(**arrays)
    on_torch = train.fit(
        module,
        lambda step: tuple(torch.tensor(x) for x in batches(step)),
        squared_error,
        optimizer=theirs(module.parameters(), **options),
        **settings,
    )
    assert relative_error(on_numpy.losses, on_torch.losses) < 1e-10
    assert relative_error(on_numpy.gradient_norms, on_torch.gradient_norms) < 1e-10
    np.testing.assert_allclose(on_numpy.rates, on_torch.rates, rtol=1e-15)
    trained = on_numpy.model
    assert isinstance(trained["cell"], VanillaCell)
    for name, x in module.state_dict().items():
        actual = trained[name] if name in trained else getattr(trained["cell"], name)
        assert relative_error(actual, x) < 1e-10, name


# --- early stopping ---------------------------------------------------------------------------

METRICS = [5.0, 4.0, 4.0, 3.0, 3.0, 3.5, 2.0, 1.0]
"""Lowest so far at 1, 2 and 4 (a draw is no improvement), before two without improvement in a row."""


def scripted(seen: list) -> Any:
    """An evaluation that follows the script, and keeps the models that it sees."""

    def evaluate(model: Any) -> float:
        seen.append(
            values(model) if isinstance(model, nn.Module) else {n: x.copy() for n, x in model.items()}
        )
        return METRICS[len(seen) - 1]

    return evaluate


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_early_stopping_goes_back_to_the_best_model(kind):
    fit = fit_module if kind == "torch" else fit_line
    seen: list = []
    history = fit(40, evaluate=scripted(seen), evaluate_every=3, patience=2)
    assert history.stopped_early
    assert history.evaluated_at.tolist() == [3, 6, 9, 12, 15, 18]
    assert history.evaluations.tolist() == METRICS[:6]
    assert history.losses.shape == (18,)
    assert history.best_step == 12
    best = values(history.model) if kind == "torch" else history.model
    assert_same(best, seen[3])
    assert any((best[n] != x).any() for n, x in seen[5].items())


def test_more_patience_reaches_the_better_model():
    seen: list = []
    history = fit_module(24, evaluate=scripted(seen), evaluate_every=3, patience=3)
    assert not history.stopped_early
    assert history.best_step == 24
    assert len(history.losses) == 24
    assert_same(values(history.model), seen[7])


def test_without_patience_the_last_model_stays():
    seen: list = []
    history = fit_module(18, evaluate=scripted(seen), evaluate_every=3)
    assert history.best_step == 12
    assert_same(values(history.model), seen[5])


# --- mixed precision --------------------------------------------------------------------------


def test_bfloat16_computes_the_loss_in_half_precision_and_keeps_the_parameters():
    dtypes = set()

    def loss(model: nn.Module, batch: Point) -> torch.Tensor:
        y = model(batch[0])
        dtypes.add((y.dtype, torch.is_grad_enabled()))
        return ((y.float() - batch[1]) ** 2).mean()

    history = fit_module(
        400,
        a_module(dropout=0.0),
        loss=loss,
        precision="bfloat16",
        evaluate=lambda model: loss(model, points(999)),
        evaluate_every=400,
    )
    assert dtypes == {(torch.bfloat16, True), (torch.bfloat16, False)}
    assert all(p.dtype == torch.float32 for p in history.model.parameters())
    assert history.losses[-20:].mean() < 0.2 * history.losses[:20].mean()


def test_float16_scales_the_gradients_as_a_loop_written_by_hand_bit_for_bit():
    history = fit_module(20, precision="float16", clip_norm=0.5)
    model = a_module()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu")
    for step in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = squared_error(model, points(step))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    assert_same(values(history.model), values(model))


def test_a_step_that_overflows_in_float16_is_left_out():
    model = nn.Linear(1, 1, bias=False)

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return 0.5 * model(batch).float().mean()

    def batches(step: int) -> torch.Tensor:
        return torch.full((1, 1), 3.0 if step == 1 else 0.25)  # 0.5 · 3 · 2¹⁶ is beyond 65504

    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []
    history = train.fit(
        model,
        batches,
        loss,
        optimizer=sgd,
        steps=3,
        precision="float16",
        evaluate=lambda m: seen.append(m.weight.item()) or 0.0,
        evaluate_every=1,
    )
    assert not math.isfinite(history.gradient_norms[1])
    assert np.isfinite(history.gradient_norms[[0, 2]]).all()
    assert seen[0] == seen[1] != seen[2]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "fit: steps is 0, expected a whole number of at least 1"),
        ({"steps": 1.5}, TypeError, "fit: steps is a float"),
        ({"clip_norm": 0}, ValueError, "fit: clip_norm is 0, expected a finite number above 0"),
        ({"schedule": lambda s: -1.0}, ValueError, r"fit: schedule\(0\) is -1.0, expected"),
        ({"schedule": lambda s: math.nan if s == 2 else 1}, ValueError, r"fit: schedule\(2\) is nan"),
        (
            {"precision": "float64"},
            ValueError,
            "fit: precision is 'float64', expected one of None, 'bfloat16'",
        ),
        (
            {"evaluate": float, "evaluate_every": 6},
            ValueError,
            "evaluate_every is 6, expected at most steps = 5",
        ),
        ({"evaluate": float, "evaluate_every": 0}, ValueError, "fit: evaluate_every is 0"),
        ({"checkpoint_every": 0}, ValueError, "fit: checkpoint_every is 0"),
        ({"patience": 2}, ValueError, "fit: patience is 2 but evaluate is None"),
        ({"patience": 0, "evaluate": float, "evaluate_every": 1}, ValueError, "fit: patience is 0"),
    ],
)
@pytest.mark.parametrize("fit", [fit_module, fit_line])
def test_an_argument_out_of_range_is_refused_by_name(fit, options, error, message):
    with pytest.raises(error, match=message):
        fit(**{"steps": 5} | options)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(TypeError, match=r"is a SGD, expected one of torch.optim: model is a torch module"):
        fit_module(5, optimizer=optim.SGD())
    with pytest.raises(TypeError, match=r"is a Adam, expected one of rnnlib.optim: model is no torch"):
        fit_line(5, optimizer=adam(a_module()))
    with pytest.raises(ValueError, match="precision is 'bfloat16', expected None for NumPy parameters"):
        fit_line(5, precision="bfloat16")
    with pytest.raises(TypeError, match="model is a collection of torch tensors"):
        fit_line(5, {"w": torch.zeros(3)})
    with pytest.raises(
        TypeError, match=r"loss returned a value of shape \(16, 1\), expected a scalar tensor"
    ):
        fit_module(5, loss=lambda model, batch: model(batch[0]))
    with pytest.raises(TypeError, match=r"loss returned a value that is a float, expected a scalar tensor"):
        fit_module(5, loss=lambda model, batch: 1.0)
    with pytest.raises(TypeError, match=r"loss returned a float, expected \(value, gradients\)"):
        fit_line(5, loss=lambda model, batch: 1.0)
    with pytest.raises(ValueError, match=r"gradients has no array at gradients\['b'\]"):
        fit_line(5, loss=lambda model, batch: (1.0, {"w": np.zeros(3)}))


def poisoned(step: int) -> Point:
    x, y = points(step)
    return (x, y * math.nan) if step == 12 else (x, y)


def test_a_loss_that_is_no_number_stops_the_run_and_loses_nothing(tmp_path):
    model = a_module()
    optimizer = adam(model)
    with pytest.raises(FloatingPointError) as stop:
        fit_module(20, model, batches=poisoned, optimizer=optimizer, checkpoints=tmp_path, checkpoint_every=5)
    kept = tmp_path / "step-00000010.safetensors"
    assert str(stop.value) == f"fit: the loss is nan at step 12; the last checkpoint is kept as {kept}"
    assert files(tmp_path) == ["step-00000005.safetensors", kept.name]
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert_same(values(model), values(fit_module(12).model))
    # With the data mended, the run goes on.
    assert_same(
        values(fit_module(20, checkpoints=tmp_path, checkpoint_every=5).model), values(fit_module(20).model)
    )


def test_a_gradient_or_an_evaluation_that_is_no_number_stops_the_run():
    def root(model: nn.Module, batch: Point) -> torch.Tensor:
        return (model(batch[0]) * 0).abs().sqrt().mean()  # 0, with the slope 0 · ∞

    model = a_module()
    before = values(model)
    with pytest.raises(FloatingPointError, match=r"^fit: the length of the gradient is nan at step 0$"):
        fit_module(5, model, loss=root)
    assert_same(values(model), before)
    with pytest.raises(FloatingPointError, match=r"^fit: the evaluation is inf at step 3$"):
        fit_module(9, evaluate=lambda model: math.inf, evaluate_every=4)

    def explodes(model: dict, batch: tuple) -> tuple:
        return 1.0, {"w": np.full(3, math.inf), "b": np.asarray(0.0)}

    for clip_norm in (None, 1.0):
        with pytest.raises(FloatingPointError, match=r"^fit: the length of the gradient is inf at step 0$"):
            fit_line(5, loss=explodes, clip_norm=clip_norm)
    with pytest.raises(FloatingPointError, match=r"^fit: the loss is inf at step 0$"):
        fit_line(5, loss=lambda model, batch: (math.inf, model))


# --- progress ---------------------------------------------------------------------------------


def test_nothing_is_printed_without_progress(capfd, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # nor is tqdm needed
    fit_module(5, checkpoints=tmp_path)
    fit_line(5)
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_the_loss_after_every_step_and_begins_where_a_run_goes_on(monkeypatch, tmp_path):
    bars = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            bars.append(options | {"losses": []})

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            bars[-1]["closed"] = True

        def set_postfix(self, loss: str, refresh: bool) -> None:
            bars[-1]["losses"].append(loss)

        def update(self) -> None:
            bars[-1]["updates"] = bars[-1].get("updates", 0) + 1

    module = types.ModuleType("tqdm")
    module.tqdm = Bar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", module)
    fit_module(4, checkpoints=tmp_path, progress=True)
    history = fit_module(10, checkpoints=tmp_path, progress=True)
    first, second = bars
    assert (first["total"], first["initial"], first["updates"], first["closed"]) == (4, 0, 4, True)
    assert (second["total"], second["initial"], second["updates"], second["closed"]) == (10, 4, 6, True)
    assert first["losses"] + second["losses"] == [f"{loss:.4g}" for loss in history.losses]
    assert second["unit"] == "step"


def test_the_bar_of_tqdm_shows_loss_and_throughput(capfd):
    pytest.importorskip("tqdm")
    history = fit_module(5, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "5/5" in err
    assert "step/s" in err
    assert f"loss={history.losses[-1]:.4g}" in err


# --- watching -----------------------------------------------------------------------------------


def test_a_run_is_watched_at_every_evaluation_and_at_the_end(tmp_path):
    seen = []
    history = fit_module(10, evaluate=lambda model: 1.0, evaluate_every=4, watch=seen.append)
    assert [len(h.losses) for h in seen] == [4, 8, 10]
    assert [h.evaluated_at.tolist() for h in seen] == [[4], [4, 8], [4, 8]]
    for h in seen:
        np.testing.assert_array_equal(h.losses, history.losses[: len(h.losses)])
        assert h.model is history.model
    seen.clear()
    fit_line(6, evaluate_every=3, watch=seen.append)  # no evaluation is needed
    assert [len(h.losses) for h in seen] == [3, 6]


def test_watching_changes_nothing_and_sees_what_came_before_a_pause(tmp_path):
    seen = []
    alone = fit_module(8)
    fit_module(4, checkpoints=tmp_path)
    watched = fit_module(8, checkpoints=tmp_path, evaluate_every=6, watch=seen.append)
    np.testing.assert_array_equal(watched.losses, alone.losses)
    assert [len(h.losses) for h in seen] == [6, 8]


def test_a_run_that_stops_early_is_watched_once_at_its_end():
    seen = []
    fit_module(20, evaluate=lambda model: 1.0, evaluate_every=2, patience=2, watch=seen.append)
    assert [(len(h.losses), h.stopped_early) for h in seen] == [(2, False), (4, False), (6, True)]


# --- going on after a pause -------------------------------------------------------------------


class Awkward(nn.Module):
    """Tied and transposed weights, a buffer, a bfloat16 and a scalar parameter, dropout, a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.turned = nn.Parameter(torch.randn(4, 3).T)
        self.small = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm1d(3)
        self.inner.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.outer(torch.tanh(self.inner(x))))
        noise = random.random() + np.random.rand()  # noqa: NPY002  the global generators count, too
        h = nn.functional.dropout(h, 0.2, self.training) * self.scale + 0.01 * noise
        return (h @ self.turned * self.small.float()).sum(1, keepdim=True)


def an_awkward_module() -> nn.Module:
    train.seed(1)
    return Awkward()


OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.01),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, nesterov=True),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.01, amsgrad=True),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "RMSprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, centered=True),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01),
    "ASGD": lambda ps: torch.optim.ASGD(ps, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_module_goes_on_after_a_pause_as_if_there_had_been_none(optimizer, tmp_path):
    def go(steps: int, folder: Path | None) -> train.History:
        model = an_awkward_module()
        return fit_module(
            steps,
            model,
            optimizer=optimizer(model.parameters()),
            schedule=optim.warm_up(3, optim.cosine(20)),
            clip_norm=1.0,
            evaluate=lambda m: squared_error(m, points(99)).item(),
            evaluate_every=4,
            checkpoints=folder,
            checkpoint_every=6,
        )

    whole = go(21, None)
    paused = go(13, tmp_path)
    assert len(paused.losses) == 13
    train.seed(77)  # what happens in between does not matter
    resumed = go(21, tmp_path)
    assert_same(
        {n: x.float().numpy() for n, x in resumed.model.state_dict().items()},
        {n: x.float().numpy() for n, x in whole.model.state_dict().items()},
    )
    assert_same_history(resumed, whole)
    assert files(tmp_path) == ["step-00000018.safetensors", "step-00000021.safetensors"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_in_mixed_precision_goes_on_after_a_pause(precision, tmp_path):
    options = {"precision": precision, "checkpoint_every": 100}
    whole = fit_module(15, **options)
    fit_module(8, checkpoints=tmp_path, **options)
    resumed = fit_module(15, checkpoints=tmp_path, **options)
    assert_same(values(resumed.model), values(whole.model))
    assert_same_history(resumed, whole)


def test_the_scale_of_float16_goes_on_after_a_pause(tmp_path):
    """An overflow halves the scale; a run that forgot it would overflow again."""

    def go(steps: int, folder: Path | None) -> train.History:
        train.seed(0)
        model = nn.Linear(1, 1)
        return train.fit(
            model,
            lambda step: torch.full((1, 1), 3.0),
            lambda m, x: 0.5 * m(x).float().mean(),  # 0.5 · 3 · 2¹⁶ is beyond 65504
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            steps=steps,
            precision="float16",
            checkpoints=folder,
        )

    whole = go(4, None)
    assert np.isfinite(whole.gradient_norms).tolist() == [False, True, True, True]
    go(2, tmp_path)
    assert_same_history(go(4, tmp_path), whole)


@pytest.mark.parametrize("optimizer", [optim.SGD(0.1, 0.5), optim.Adam(0.1), optim.AdamW(0.1)])
def test_numpy_parameters_go_on_after_a_pause_as_if_there_had_been_none(optimizer, tmp_path):
    def go(steps: int, folder: Path | None) -> train.History:
        train.seed(3)
        network = {
            "cell": VanillaCell(np.ones((2, 3)), np.asfortranarray([[0.1, 0.2], [0.3, 0.4]]), np.zeros(2)),
            "readout": [np.ones((2, 3)).T[:2], np.asarray(0.5)],
        }

        def loss(network: dict, batch: Any) -> tuple[float, dict]:
            noise = np.random.rand() + random.random()  # noqa: NPY002
            cell, (W, b) = network["cell"], network["readout"]
            value = sum((x**2).sum() for x in (cell.W_xh, cell.W_hh, cell.b_h, W, b)) * noise
            d = VanillaCell(*(2 * noise * x for x in (cell.W_xh, cell.W_hh, cell.b_h)))
            return value, {"cell": d, "readout": [2 * noise * W, np.asarray(2 * noise * b)]}

        return train.fit(
            network,
            lambda step: None,
            loss,
            optimizer=optimizer,
            steps=steps,
            schedule=optim.step_decay(4),
            evaluate=lambda n: float(n["readout"][1]) ** 2,
            evaluate_every=3,
            checkpoints=folder,
            checkpoint_every=5,
        )

    whole = go(17, None)
    go(9, tmp_path)
    resumed = go(17, tmp_path)
    assert_same_history(resumed, whole)
    assert isinstance(resumed.model["cell"], VanillaCell)
    for name in ("W_xh", "W_hh", "b_h"):
        np.testing.assert_array_equal(
            getattr(resumed.model["cell"], name), getattr(whole.model["cell"], name)
        )
    for x, y in zip(resumed.model["readout"], whole.model["readout"], strict=True):
        assert x.shape == y.shape
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("pause", [4, 13, 18])
def test_early_stopping_goes_on_after_a_pause(pause, tmp_path):
    def go(steps: int, folder: Path | None) -> train.History:
        return fit_module(
            steps,
            batches=lambda step: calls.append(step) or points(step),
            evaluate=lambda model: METRICS[len(calls) // 3 - 1],
            evaluate_every=3,
            patience=2,
            checkpoints=folder,
            checkpoint_every=1,
        )

    calls: list[int] = []
    whole = go(40, None)
    calls.clear()
    go(pause, tmp_path)
    resumed = go(40, tmp_path)
    assert calls == list(range(18))  # no batch is asked for twice, none after the stop
    assert_same(values(resumed.model), values(whole.model))
    assert_same_history(resumed, whole)
    finished = go(40, tmp_path)
    assert calls == list(range(18))
    assert_same(values(finished.model), values(whole.model))
    assert finished.best_step == 12


def test_a_finished_run_takes_no_further_step(tmp_path):
    first = fit_module(8, checkpoints=tmp_path)
    content = {p: p.read_bytes() for p in tmp_path.iterdir()}
    again = fit_module(8, checkpoints=tmp_path, batches=lambda step: pytest.fail("a batch was asked for"))
    assert_same(values(again.model), values(first.model))
    assert_same_history(again, first)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == content


def test_a_checkpoint_is_safetensors_with_a_json_state(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    model = fit_module(3, checkpoints=tmp_path).model
    with safetensors.safe_open(tmp_path / "step-00000003.safetensors", "pt") as file:
        state = json.loads(file.metadata()["state"])
        assert file.metadata()["format"] == train.FORMAT
        assert state["step"] == 3
        for name, x in model.state_dict().items():
            assert torch.equal(file.get_tensor(f"model/{name}"), x)


def test_an_optimiser_whose_state_is_no_tensor_is_refused(tmp_path):
    model = a_module()

    class Listing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            self.state[model[0].weight]["past"] = [1, 2]

    with pytest.raises(
        TypeError, match="past in the state of Listing is a list, expected tensors and numbers"
    ):
        fit_module(3, model, optimizer=Listing(model.parameters(), lr=0.1), checkpoints=tmp_path)
    assert not tmp_path.exists() or files(tmp_path) == []


def test_a_module_whose_state_is_no_tensor_is_refused(tmp_path):
    class Speaking(nn.Linear):
        def get_extra_state(self) -> str:
            return "hello"

        def set_extra_state(self, state: str) -> None: ...

    model = Speaking(3, 1)
    with pytest.raises(TypeError, match="_extra_state in the model's state is a str, expected a tensor"):
        fit_module(3, model, checkpoints=tmp_path)


# --- restoring a model ------------------------------------------------------------------------


def test_a_trained_model_is_restored_from_a_folder_or_a_file(tmp_path):
    trained = values(fit_module(10, checkpoints=tmp_path, checkpoint_every=4).model)
    fresh = a_module(9)
    assert train.restore(fresh, tmp_path) is fresh
    assert_same(values(fresh), trained)
    earlier = train.restore(a_module(9), tmp_path / "step-00000008.safetensors")
    assert_same(values(earlier), values(fit_module(8).model))

    line = fit_line(10, checkpoints=tmp_path / "line").model
    start = a_line()
    restored = train.restore(start, str(tmp_path / "line"))
    np.testing.assert_array_equal(restored["w"], line["w"])
    np.testing.assert_array_equal(restored["b"], line["b"])
    assert not start["w"].any()


def test_after_early_stopping_the_best_model_is_restored(tmp_path):
    best = fit_module(40, evaluate=scripted([]), evaluate_every=3, patience=2, checkpoints=tmp_path).model
    assert_same(values(train.restore(a_module(9), tmp_path)), values(best))


def test_there_is_nothing_to_restore_from_an_empty_folder(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"restore: no checkpoint in {place}"):
            train.restore(a_module(), place)


# --- damaged and foreign checkpoints ----------------------------------------------------------


def two_checkpoints(folder: Path) -> tuple[Path, Path]:
    fit_module(10, checkpoints=folder, checkpoint_every=5)
    return folder / "step-00000005.safetensors", folder / "step-00000010.safetensors"


def flip(data: bytes, position: int) -> bytes:
    position %= len(data)
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def as_pickle(data: bytes) -> bytes:
    import io

    file = io.BytesIO()
    torch.save(a_module().state_dict(), file)
    return file.getvalue()


def as_plain_safetensors(data: bytes) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(dict(a_module().state_dict()))


def without_a_line(data: bytes) -> bytes:
    """A valid safetensors file in which the state was edited and the checksum left as it was."""
    return data.replace(b'\\"stopped\\": false', b'\\"stopped\\": true ')


DAMAGE = {
    "empty": lambda data: b"",
    "size cut off": lambda data: data[:5],
    "header cut off": lambda data: data[:300],
    "half": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "size changed": lambda data: flip(data, 0),
    "state edited": without_a_line,
    "number changed": lambda data: flip(data, -1),
    "array changed": lambda data: flip(data, -300),
    "checksum changed": lambda data: flip(data, data.index(b'"checksum":"') + 20),
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"no checkpoint at all, but text that is long enough",
    "a list": lambda data: (2).to_bytes(8, "little") + b"[]",
    "a number for checksum": lambda data: (
        (58).to_bytes(8, "little") + b'{"__metadata__":{"format":"rnnlib.train 1","checksum":1}}  '
    ),
    "pickle": as_pickle,
    "plain safetensors": as_plain_safetensors,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_the_one_before_it_named(damage, tmp_path):
    previous, newest = two_checkpoints(tmp_path)
    bad = damage(newest.read_bytes())
    assert bad != newest.read_bytes()
    newest.write_bytes(bad)
    kept = previous.read_bytes()
    for refuse in (
        lambda: fit_module(15, checkpoints=tmp_path),
        lambda: train.restore(a_module(), tmp_path),
        lambda: train.restore(a_module(), newest),
    ):
        with pytest.raises(train.CheckpointError) as refusal:
            refuse()
        message = str(refusal.value)
        assert f"{newest} is refused: " in message
        assert "is cut off" in message
        assert (
            f"the one before it is kept as {previous}; remove the refused file to go on from there" in message
        )
    assert newest.read_bytes() == bad
    assert previous.read_bytes() == kept
    newest.unlink()
    resumed = fit_module(15, checkpoints=tmp_path, checkpoint_every=5)
    assert_same(values(resumed.model), values(fit_module(15).model))


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position, bit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit_line(2, checkpoints=folder)
    path = folder / "step-00000002.safetensors"
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(train.CheckpointError, match=r"is refused: .*; there is none before it; remove"):
        train.restore(a_line(), folder)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    previous, newest = two_checkpoints(tmp_path)
    newest.rename(tmp_path / "step-00000012.safetensors")
    with pytest.raises(
        train.CheckpointError, match=f"it is of step 10: it was renamed; .* kept as {previous}"
    ):
        fit_module(15, checkpoints=tmp_path)


def test_files_of_other_names_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-final.safetensors").write_bytes(b"mine")
    fit_module(20, checkpoints=tmp_path, checkpoint_every=5)
    assert files(tmp_path) == [
        "notes.txt",
        "step-00000015.safetensors",
        "step-00000020.safetensors",
        "step-final.safetensors",
    ]


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Dropout(0.3), nn.Linear(9, 1))


OTHERS = {
    "another shape": (
        wider,
        r"array 0.bias is \['float32', \[8\]\] in it and \['float32', \[9\]\] here",
    ),
    "another dtype": (
        lambda: a_module().double(),
        "array 0.bias is .*float32.* in it and .*float64.* here",
    ),
    "fewer arrays": (lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh()), "array 3.bias is only in it"),
    "more arrays": (lambda: a_module().append(nn.Linear(1, 1)), "array 4.bias is only here"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_model_is_refused(make, message, tmp_path):
    previous, newest = two_checkpoints(tmp_path)
    model = make()
    before = values(model)
    with pytest.raises(train.CheckpointError, match=f"{message}; .* kept as {previous}; another run needs"):
        fit_module(15, model, checkpoints=tmp_path)
    with pytest.raises(train.CheckpointError, match=f"{message}; .*; it needs a model like the one"):
        train.restore(model, newest)
    assert_same(values(model), before)
    assert files(tmp_path) == [previous.name, newest.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.5}, "setting lr of group 0 is 0.01 in it and 0.5 here"),
        ({"clip_norm": 1.0}, "setting clip_norm is None in it and 1.0 here"),
        ({"precision": "bfloat16"}, "setting precision is None in it and bfloat16 here"),
        (
            {"patience": 3, "evaluate": float, "evaluate_every": 5},
            "setting patience is None in it and 3 here",
        ),
        ({"steps": 9}, "it is of step 10, beyond the 9 steps asked for"),
        ({"make": torch.optim.SGD}, "setting optimizer is Adam in it and SGD here"),
        (
            {"make": lambda ps, lr: torch.optim.Adam(ps, lr, (0.5, 0.9))},
            r"betas of group 0 is \(0.9, 0.999\) in",
        ),
        (
            {"make": lambda ps, lr: torch.optim.Adam([*ps][:2], lr)},
            "number of parameters in group 0 is 4 in it",
        ),
    ],
)
def test_a_checkpoint_of_a_run_with_other_settings_is_refused(options, message, tmp_path):
    two_checkpoints(tmp_path)
    model = a_module()
    options = {"steps": 15, "rate": 1e-2, "make": torch.optim.Adam} | options
    optimizer = options.pop("make")(model.parameters(), lr=options.pop("rate"))
    with pytest.raises(train.CheckpointError, match=f"{message}.*; another run needs another folder"):
        fit_module(model=model, optimizer=optimizer, checkpoints=tmp_path, **options)


def test_a_checkpoint_of_a_numpy_run_with_other_settings_is_refused(tmp_path):
    fit_line(5, checkpoints=tmp_path)
    with pytest.raises(
        train.CheckpointError, match=r"optimizer is SGD\(rate=0.1, .*\) in it and SGD\(rate=0.2, "
    ):
        fit_line(9, optimizer=optim.SGD(0.2, 0.5), checkpoints=tmp_path)
    with pytest.raises(train.CheckpointError, match=r"the array \['b'\] is .* there is none before it"):
        fit_line(9, {"w": np.zeros(3), "b": np.zeros(1)}, checkpoints=tmp_path)
    with pytest.raises(train.CheckpointError, match=r"it is of NumPy parameters; .*; it needs a model like"):
        fit_module(9, checkpoints=tmp_path)
    fit_module(2, an_awkward_module(), checkpoints=tmp_path / "module")
    with pytest.raises(train.CheckpointError, match=r"it is of a torch module; .*; it needs a model like"):
        train.restore(a_line(), tmp_path / "module")


def test_a_run_that_would_be_evaluated_at_other_steps_does_not_go_on(tmp_path):
    evaluated = {"evaluate": lambda model: 1.0, "checkpoints": tmp_path}
    fit_module(6, evaluate_every=3, **evaluated)
    with pytest.raises(train.CheckpointError, match="setting evaluate_every is 3 in it and 2 here"):
        fit_module(9, evaluate_every=2, **evaluated)


def test_a_missing_safetensors_is_missed_before_the_first_step(monkeypatch, tmp_path):
    for name in ("safetensors", "safetensors.torch", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    for fit in (fit_module, fit_line):
        with pytest.raises(ImportError, match="safetensors"):
            fit(5, checkpoints=tmp_path, batches=lambda step: pytest.fail("a batch was asked for"))


def test_a_failed_write_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    """A disk that is full, for example."""
    fit_module(5, checkpoints=tmp_path)
    content = {p: p.read_bytes() for p in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fit_module(8, checkpoints=tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == content
    assert_same(values(fit_module(8, checkpoints=tmp_path).model), values(fit_module(8).model))


# --- killed -----------------------------------------------------------------------------------

MOMENTS = [
    ("batch", 0, None),
    ("batch", 4, None),
    ("batch", 5, 5),
    ("batch", 17, 15),
    ("half written", 1, None),
    ("half written", 3, 10),
    ("written", 2, 5),
    ("before replacing", 1, None),
    ("before replacing", 4, 15),
    ("replaced", 1, 5),
    ("replaced", 3, 15),
    ("before removing", 1, 15),
    ("half written", 5, 20),
]
"""When the process dies, at which time that this happens, and the newest checkpoint it leaves."""

FOR_TORCH = {("batch", 17), ("half written", 3), ("before replacing", 4), ("replaced", 3)}


@pytest.mark.parametrize(
    ("kind", "moment", "count", "left"),
    [
        (kind, *moment)
        for kind in ("numpy", "torch")
        for moment in MOMENTS
        if kind == "numpy" or moment[:2] in FOR_TORCH
    ],
)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(kind, moment, count, left, tmp_path):
    folder = tmp_path / "run"
    assert killed_worker.exit_code(folder, kind, moment, count) == -signal.SIGKILL
    there = files(folder) if folder.exists() else []
    checkpoints = [name for name in there if not name.startswith(".")]
    assert checkpoints[-1:] == ([] if left is None else [f"step-{left:08d}.safetensors"])
    in_the_middle = moment in ("half written", "written", "before replacing")
    assert any(name.startswith(".") for name in there) == in_the_middle

    run = killed_worker.RUNS[kind]
    asked: list[int] = []
    resumed, resumed_history = run(folder, asked.append)
    assert asked == list(range(left or 0, 24))
    whole, whole_history = run(None, lambda step: None)
    assert_same(resumed, whole)
    assert_same_history(resumed_history, whole_history)
    assert files(folder) == ["step-00000020.safetensors", "step-00000024.safetensors"]


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "bfloat16", "float16"])
def test_a_run_on_a_gpu_goes_on_after_a_pause(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)

    def go(steps: int, folder: Path | None) -> train.History:
        model = a_module().cuda()
        return fit_module(
            steps,
            model,
            batches=lambda step: points(step, "cuda"),
            precision=precision,
            clip_norm=1.0,
            schedule=optim.cosine(20),
            evaluate=lambda m: squared_error(m, points(99, "cuda")),
            evaluate_every=5,
            patience=3,
            checkpoints=folder,
        )

    try:
        whole = go(20, None)
        go(11, tmp_path)
        resumed = go(20, tmp_path)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(values(resumed.model), values(whole.model))
    assert_same_history(resumed, whole)
    assert all(p.is_cuda for p in resumed.model.parameters())
