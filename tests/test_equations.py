"""The registry: labels, the index, random examples, and every registered function on both backends."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import bidirectional, equations, initialisation, scan, sharing, speech, speed, vanilla
from rnnlib.backend import Array, _entries, annotations_of, check_arrays, is_array, shape_of, terms_of
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import TOLERANCE, relative_error, seeds, to_numpy

# --- arguments that a random normal array cannot stand for ------------------------------------

Maker = Callable[[np.random.Generator], dict[str, Any]]


def a_cell(rng: np.random.Generator, I: int = 2, H: int = 3) -> VanillaCell:
    return VanillaCell(rng.normal(size=(H, I)), rng.normal(size=(H, H)) / 2, rng.normal(size=H))


def a_run(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    """A cell, its trajectory over 4 steps of 2 sequences, and whatever else by name."""
    cell = a_cell(rng)
    trajectory = unroll(cell, rng.normal(size=(4, 2, 2)), rng.normal(size=(2, 3)))
    return {"cell": cell, "trajectory": trajectory, **more}


def d_hs(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 2, 3))


def states_backward(rng: np.random.Generator) -> dict[str, Any]:
    return a_run(rng, d_states=tuple((d_h,) for d_h in rng.normal(size=(5, 2, 3))))


def collection(rng: np.random.Generator) -> list[Any]:
    return [a_cell(rng), {"W_hy": rng.normal(size=(1, 3))}, None]


def a_network(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    run = a_run(rng)
    return {"network": run["cell"], "trajectory": run["trajectory"], "d_hs": d_hs(rng), **more}


def classes(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {"a": rng.normal(size=(5, 3)), "targets": rng.integers(0, 3, 5), **more}


def probabilities(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {"a": rng.normal(size=(5, 3)), "targets": rng.uniform(size=(5, 3)), **more}


def quantile_forecasts(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {
        "quantiles": rng.normal(size=(5, 3)),
        "targets": rng.normal(size=5),
        "levels": rng.uniform(0.1, 0.9, size=3),
        **more,
    }


def moments(rng: np.random.Generator, *means: str) -> dict[str, Any]:
    """A parameter, its gradient, and running means that are above zero, as those of squares are."""
    return {name: rng.uniform(0.1, 1, size=(2, 3)) for name in ("theta_prev", "g_t", *means)}


def leftward_run(rng: np.random.Generator) -> dict[str, Any]:
    cell = a_cell(rng)
    _, trajectory = bidirectional.leftward(cell, rng.normal(size=(4, 2, 2)))
    return {"network": cell, "trajectory": trajectory, "d_hs": d_hs(rng)}


def a_memory(rng: np.random.Generator) -> dict[str, Any]:
    """The weights of a linear network whose state does not grow."""
    return {"W_hh": 0.8 * initialisation.orthogonal(rng, 3, 3), "W_xh": rng.normal(size=(3, 2))}


def a_shared_network(rng: np.random.Generator) -> sharing.SharedNetwork:
    cell = a_cell(rng)
    return sharing.SharedNetwork(cell.W_xh, cell.W_hh, cell.b_h, rng.normal(size=(2, 3)), rng.normal(size=2))


def a_run_with_own_weights(rng: np.random.Generator) -> dict[str, Any]:
    """A network with weights of its own at each of four steps, and a run of it."""
    network, xs = sharing.untie(a_shared_network(rng), 4), rng.normal(size=(4, 2, 2))
    hs, ys = sharing.unshared(network, xs)
    return {"network": network, "xs": xs, "hs": hs, "d_ys": rng.normal(size=ys.shape)}


def sequences(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {"a": rng.normal(size=(4, 2, 3)), "targets": rng.integers(0, 3, (4, 2)), **more}


def some_symbols(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {"W_xh": rng.normal(size=(2, 3)), "symbols": rng.integers(0, 3, 5), **more}


def some_counts(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 4, shape).astype(float)


def smoothing(rng: np.random.Generator) -> dict[str, Any]:
    return {"counts": some_counts(rng, 4, 3), "lower": rng.dirichlet(np.ones(3), 4)}


def logits_and_labels(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {**more, "a": rng.normal(size=(6, 2, 3)), "targets": [[1, 2, 2], [2]], "lengths": [6, 4]}


def labelled(rng: np.random.Generator) -> dict[str, Any]:
    return {"log_y": rng.normal(size=(6, 2, 3)), "targets": [[1, 2, 2], [2]], "lengths": [6, 4]}


def nothing_labelled(rng: np.random.Generator) -> dict[str, Any]:
    """With any label some place cannot be reached, and the logarithm of its probability is -∞."""
    return {"log_y": rng.normal(size=(6, 2, 3)), "targets": [[], []]}


def warped(rng: np.random.Generator) -> dict[str, Any]:
    cost = rng.uniform(size=(3, 4))
    return {"cost": cost, "D": speech.accumulate(cost)}


def a_state_space(rng: np.random.Generator) -> dict[str, Any]:
    shapes = {"A_bar": (3, 3), "B_bar": (3, 2), "C": (2, 3)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def pairs(rng: np.random.Generator) -> dict[str, Any]:
    return {"operation": scan.pairs, "items": tuple(rng.normal(size=(2, 7, 2, 3)))}


SIZES = {"input_size": 2, "hidden_size": 3, "output_size": 2}

A_NETWORK = {"size": 1e6, "latency": 1e-5, "per_byte": 1e-9}


MAKERS: dict[str, Maker] = {
    "eq-bidirectional-concat-backward": lambda rng: {"d_hs": rng.normal(size=(4, 2, 5)), "hidden_size": 2},
    "eq-bidirectional-leftward": lambda rng: {"network": a_cell(rng), "xs": rng.normal(size=(4, 2, 2))},
    "eq-bidirectional-leftward-backward": leftward_run,
    "eq-bptt-checkpoint": lambda rng: {
        "network": a_cell(rng),
        "xs": rng.normal(size=(4, 2, 2)),
        "loss_gradient": d_hs(rng),
    },
    "eq-bptt-checkpoint-memory": lambda rng: {"steps": 100, "segment": 10},
    "eq-bptt-double-sum": lambda rng: a_run(rng, d_hs=d_hs(rng)),
    "eq-bptt-immediate": lambda rng: a_run(rng, d_hs=d_hs(rng)),
    "eq-bptt-initial": lambda rng: {"h_0": rng.normal(size=3), "batch_size": 4},
    "eq-bptt-inputs": states_backward,
    "eq-bptt-parameters": states_backward,
    "eq-bptt-recursion": lambda rng: a_run(rng, d_hs=d_hs(rng)),
    "eq-bptt-total": lambda rng: a_run(rng, d_hs=d_hs(rng)),
    "eq-bptt-truncated": lambda rng: a_network(rng, k1=2, k2=3),
    "eq-bptt-vector-jacobian": lambda rng: a_run(rng, d_state=rng.normal(size=(2, 3)), t=3, k=1),
    "eq-ctc-alpha": nothing_labelled,
    "eq-ctc-best-path": lambda rng: {"log_y": rng.normal(size=(6, 2, 3))},
    "eq-ctc-beta": nothing_labelled,
    "eq-ctc-collapse": lambda rng: {"path": rng.integers(0, 3, 8).tolist()},
    "eq-ctc-edit-distance": lambda rng: {
        "first": rng.integers(0, 3, 4).tolist(),
        "second": rng.integers(0, 3, 5).tolist(),
    },
    "eq-ctc-error-rate": lambda rng: {"answers": [rng.integers(0, 3, 4).tolist()], "targets": [[1, 2]]},
    "eq-ctc-extend": lambda rng: {"labels": rng.integers(1, 4, 3).tolist()},
    "eq-ctc-loss": lambda rng: logits_and_labels(rng),
    "eq-ctc-loss-backward": lambda rng: logits_and_labels(rng, d_loss=rng.normal(size=2)),
    "eq-ctc-path": lambda rng: {"log_y": rng.normal(size=(4, 3)), "path": [0, 2, 1, 1]},
    "eq-ctc-posterior": labelled,
    "eq-ctc-prefix": lambda rng: {"log_y": rng.normal(size=(4, 3)), "width": 5},
    "eq-ctc-probability": labelled,
    "eq-ctc-steps": lambda rng: {"labels": rng.integers(1, 3, 4).tolist()},
    "eq-deep-dropout-mask": lambda rng: {"u": rng.uniform(size=(4, 2, 3)), "rate": 0.4},
    "eq-dtw-path": warped,
    "eq-dynamics-adjusted": lambda rng: {"r2": rng.uniform(size=3), "samples": 20, "regressors": 4},
    "eq-dynamics-capacity": lambda rng: {**a_memory(rng), "noise": 0.1},
    "eq-dynamics-contraction": lambda rng: {
        "cell": a_cell(rng),
        "xs": rng.normal(size=(4, 2, 2)),
        "initial": rng.normal(size=(2, 3)),
        "other": rng.normal(size=(2, 3)),
    },
    "eq-dynamics-covariance": lambda rng: a_memory(rng),
    "eq-dynamics-determination": lambda rng: {
        "ys": rng.normal(size=(6, 2)),
        "answers": rng.normal(size=(6, 2)),
    },
    "eq-dynamics-fixed-point": lambda rng: {"w": 2.0, "b": 0.1},
    "eq-dynamics-flip": lambda rng: {"w": -1 - rng.uniform(size=4)},
    "eq-dynamics-flow": lambda rng: {"cell": a_cell(rng), "xs": rng.normal(size=(4, 2, 2))},
    "eq-dynamics-fold": lambda rng: {"w": 1 + rng.uniform(size=4)},
    "eq-dynamics-memory": lambda rng: {**a_memory(rng), "delays": 4, "noise": 0.1},
    "eq-dynamics-orbit": lambda rng: {
        "h_0": rng.normal(size=(2, 3)),
        "W_hh": rng.normal(size=(3, 3)),
        "b_h": rng.normal(size=3),
        "steps": 4,
    },
    "eq-dynamics-rotation": lambda rng: {"gain": 1.2, "angle": 0.6},
    "eq-forecast-conformal": lambda rng: {"scores": rng.uniform(size=12), "miscoverage": 0.2},
    "eq-forecast-diebold-mariano": lambda rng: {"losses": rng.normal(size=9), "others": rng.normal(size=9)},
    "eq-forecast-difference": lambda rng: {"xs": rng.normal(size=7), "period": 3},
    "eq-forecast-drift": lambda rng: {"xs": rng.normal(size=5), "horizon": 4},
    "eq-forecast-impulse": lambda rng: {"weights": rng.normal(size=3), "horizon": 6},
    "eq-forecast-mase": lambda rng: {
        "ys": rng.normal(size=(4, 3)),
        "targets": rng.normal(size=(4, 3)),
        "train": rng.normal(size=7),
        "period": 2,
    },
    "eq-forecast-pinball": quantile_forecasts,
    "eq-forecast-pinball-backward": lambda rng: quantile_forecasts(rng, d_loss=rng.normal(size=())),
    "eq-forecast-scale": lambda rng: {"train": rng.normal(size=7), "period": 2},
    "eq-forecast-seasonal-naive": lambda rng: {"xs": rng.normal(size=5), "horizon": 7, "period": 3},
    "eq-forecast-variance": lambda rng: {
        "weights": rng.normal(size=3),
        "noise": rng.normal(size=()),
        "horizon": 5,
    },
    "eq-scan-blelloch": pairs,
    "eq-scan-blelloch-cost": lambda rng: {"steps": 13},
    "eq-scan-hillis-steele": pairs,
    "eq-scan-hillis-steele-cost": lambda rng: {"steps": 13},
    "eq-scan-quotient": lambda rng: {
        "f": rng.uniform(0.5, 1, size=(5, 2, 3)),  # it divides by their product
        "u": rng.normal(size=(5, 2, 3)),
        "h_0": rng.normal(size=(2, 3)),
    },
    "eq-ssm-kernel": lambda rng: {**a_state_space(rng), "steps": 5},
    "eq-ssm-zero-order-hold": lambda rng: {
        "A": rng.normal(size=(3, 3)),
        "B": rng.normal(size=(3, 2)),
        "delta": 0.3,
    },
    "eq-sharing-gradient": lambda rng: {"d_network": sharing.untie(a_shared_network(rng), 4)},
    "eq-sharing-multiplications": lambda rng: {**SIZES, "steps": 4, "answers": 2},
    "eq-sharing-parameters": lambda rng: dict(SIZES),
    "eq-sharing-rest": lambda rng: {
        "cell": initialisation.random_vanilla_cell(rng, 2, 3, 0.5),
        "padding": rng.normal(size=2),
    },
    "eq-sharing-step-gradients": lambda rng: {
        **a_run_with_own_weights(rng),
        "d_as": rng.normal(size=(4, 2, 3)),
    },
    "eq-sharing-tied": lambda rng: {"network": a_shared_network(rng), "steps": 4},
    "eq-sharing-unshared": lambda rng: {
        "network": sharing.untie(a_shared_network(rng), 4),
        "xs": rng.normal(size=(4, 2, 2)),
    },
    "eq-sharing-unshared-backward": a_run_with_own_weights,
    "eq-sharing-unshared-parameters": lambda rng: {**SIZES, "steps": 4},
    "eq-sharing-waiting": lambda rng: {"cell": a_cell(rng), "h_0": rng.normal(size=(2, 3)), "steps": 3},
    "eq-sharing-washout": lambda rng: {"cell": a_cell(rng), "h_0": rng.normal(size=(2, 3)), "steps": 3},
    "eq-sharing-window-multiplications": lambda rng: {**SIZES, "steps": 4, "answers": 2},
    "eq-sharing-window-parameters": lambda rng: {**SIZES, "steps": 4},
    "eq-gradients-clip-norm": lambda rng: {"gradients": collection(rng), "threshold": 0.5},
    "eq-gradients-clip-value": lambda rng: {"gradients": collection(rng), "limit": 0.5},
    "eq-gradients-global-norm": lambda rng: {"gradients": collection(rng)},
    "eq-gradients-lyapunov": a_run,
    "eq-gradients-power-bounds": lambda rng: {"W": rng.normal(size=(3, 3)), "powers": 4},
    "eq-gradients-state-jacobian": lambda rng: {
        "cell": a_cell(rng),
        "x_t": rng.normal(size=(2, 2)),
        "state": (rng.normal(size=(2, 3)),),
    },
    "eq-initialisation-glorot-normal": lambda rng: {"rng": rng, "rows": 3, "columns": 2},
    "eq-initialisation-glorot-uniform": lambda rng: {"rng": rng, "rows": 3, "columns": 2},
    "eq-initialisation-identity": lambda rng: {"hidden_size": 3, "scale": 0.5},
    "eq-initialisation-orthogonal": lambda rng: {"rng": rng, "rows": 3, "columns": 2},
    "eq-initialisation-uniform": lambda rng: {"rng": rng, "shape": (3, 2), "hidden_size": 3},
    "eq-language-chain": sequences,
    "eq-language-chain-backward": lambda rng: sequences(rng, d_log_p=rng.normal(size=2)),
    "eq-language-embedding": some_symbols,
    "eq-language-embedding-backward": lambda rng: some_symbols(rng, d_rows=rng.normal(size=(5, 2))),
    "eq-language-sample": lambda rng: {"p": rng.dirichlet(np.ones(3), 4), "u": rng.uniform(size=4)},
    "eq-language-temperature": lambda rng: {"a": rng.normal(size=(5, 3)), "temperature": 0.7},
    "eq-language-top-k": lambda rng: {"p": rng.dirichlet(np.ones(4), 5), "k": 2},
    "eq-language-top-p": lambda rng: {"p": rng.dirichlet(np.ones(4), 5), "mass": 0.7},
    "eq-losses-binary-cross-entropy": probabilities,
    "eq-losses-binary-cross-entropy-backward": lambda rng: probabilities(rng, d_loss=rng.normal(size=())),
    "eq-losses-cross-entropy": classes,
    "eq-losses-cross-entropy-backward": lambda rng: classes(rng, d_loss=rng.normal(size=())),
    "eq-ngram-continuation": lambda rng: {"counts": some_counts(rng, 3, 4, 2)},
    "eq-ngram-discount": lambda rng: {"counts": np.array([1.0, 2.0, 1.0, 5.0])},
    "eq-ngram-kneser-ney": lambda rng: {**smoothing(rng), "discount": 0.6},
    "eq-ngram-likelihood": lambda rng: {"counts": 1 + some_counts(rng, 4, 3)},
    "eq-ngram-witten-bell": lambda rng: smoothing(rng),
    "eq-parallel-amdahl": lambda rng: {"serial_share": 0.1, "workers": 8},
    "eq-parallel-efficiency": lambda rng: {"single": 3.0, "parallel": 0.5, "workers": 8},
    "eq-parallel-factor": lambda rng: {"count": 2, "total": 12, "workers": 3},
    "eq-parallel-gradient": lambda rng: {
        "gradients": rng.normal(size=(3, 4)),
        "counts": rng.uniform(1, 5, size=3),
    },
    "eq-parallel-halving-time": lambda rng: {**A_NETWORK, "workers": 8},
    "eq-parallel-interval": lambda rng: {"successes": 15, "runs": 20},
    "eq-parallel-linear-rule": lambda rng: {"rate": 0.1, "workers": 4},
    "eq-parallel-linear-rule-error": lambda rng: {
        "rate": 0.1,
        "workers": 4,
        "smoothness": 2.0,
        "gradient_norm": 3.0,
    },
    "eq-parallel-message": lambda rng: dict(A_NETWORK),
    "eq-parallel-noise": lambda rng: {"square": 2.0, "variance": 3.0, "batch_size": 4},
    "eq-parallel-noise-scale": lambda rng: {
        "small_square": 3.0,
        "large_square": 2.0,
        "small": 2,
        "large": 8,
    },
    "eq-parallel-optimum": lambda rng: {**A_NETWORK, "work": 1.0},
    "eq-parallel-overlap": lambda rng: {"forward": 1.0, "backward": 2.0, "message": 0.3, "buckets": 4},
    "eq-parallel-progress": lambda rng: {"noise": 3.0, "batch_size": 4},
    "eq-parallel-ring-time": lambda rng: {**A_NETWORK, "workers": 6},
    "eq-parallel-runs": lambda rng: {"runs": 20, "workers": 8},
    "eq-parallel-shard": lambda rng: {"streams": 9, "workers": 4, "worker": 2},
    "eq-parallel-speedup": lambda rng: {"single": 3.0, "parallel": 0.5},
    "eq-parallel-step": lambda rng: {"work": 3.0, "workers": 6, "communication": 0.1, "serial": 0.2},
    "eq-parallel-traffic": lambda rng: {"size": 1e6, "workers": 6},
    "eq-parallel-weak": lambda rng: {"single": 3.0, "communication": 0.1},
    "eq-speech-cepstra": lambda rng: {"log_power": rng.normal(size=(4, 5)), "count": 3},
    "eq-speech-filters": lambda rng: {"count": 4, "size": 64, "sampling_rate": 8000},
    "eq-speech-frames": lambda rng: {"samples": rng.normal(size=20), "size": 6, "hop": 3},
    "eq-speech-log-mel": lambda rng: {
        "power": rng.uniform(0.1, 1, size=(4, 5)),
        "filters": rng.uniform(size=(3, 5)),
    },
    "eq-speech-mel": lambda rng: {"f": rng.uniform(0, 8000, 5)},
    "eq-speech-window": lambda rng: {"size": 8},
    "eq-speed-balance": lambda rng: {"cell": "gru", "H": 256, "peak": 1e11, "bandwidth": 1e10},
    "eq-speed-bytes": lambda rng: {"cell": "lstm", "B": 2, "H": 3},
    "eq-speed-exp-error": lambda rng: {"terms": 7},
    "eq-speed-intensity": lambda rng: {"cell": "gru", "B": 2, "H": 3},
    "eq-speed-operations": lambda rng: {"cell": "lstm", "T": 4, "B": 2, "I": 3, "H": 5},
    "eq-speed-roofline": lambda rng: {"intensity": 5.0, "peak": 1e11, "bandwidth": 1e10},
    "eq-speed-sequence-time": lambda rng: {
        **dict.fromkeys("TBIH", 3),
        "cell": "rnn",
        "machine": speed.Machine(1e11, 1e10, 1e-6),
        "launches": 2,
    },
    "eq-speed-step-time": lambda rng: {
        "operations": 1e6,
        "moved": 1e5,
        "launches": 2,
        "machine": speed.Machine(1e11, 1e10, 1e-6),
    },
    "eq-speed-up": lambda rng: {"share": 0.5, "factor": 3.0},
    "eq-vanilla-ridge": lambda rng: {
        "hs": rng.normal(size=(6, 3)),
        "ys": rng.normal(size=(6, 2)),
        "penalty": 0.3,
    },
    "eq-vanilla-scaling": lambda rng: {"W": rng.normal(size=(3, 3)), "radius": 0.9},
    "eq-vanilla-unroll": lambda rng: {"cell": a_cell(rng), "xs": rng.normal(size=(4, 2, 2))},
    "eq-optim-adam": lambda rng: moments(rng, "m_prev", "v_prev") | {"t": 3},
    "eq-optim-adamw": lambda rng: moments(rng, "m_prev", "v_prev") | {"t": 3},
    "eq-optim-momentum": lambda rng: moments(rng, "v_prev") | {"rate": 0.1},
}
"""Arguments by label, for the functions that take more than arrays or not any arrays."""


def needs_a_maker(equation: equations.Equation) -> bool:
    """Whether an argument that must be given is not an array of a declared shape."""
    parameters = inspect.signature(equation.function).parameters.values()
    return any(p.default is p.empty and p.name not in equation.shapes for p in parameters)


def arguments_of(label: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return MAKERS[label](rng) if label in MAKERS else equations.example(label, rng)


def to_torch(value: Any) -> Any:
    """The same value with every NumPy array in it as a tensor."""
    if isinstance(value, np.ndarray | np.number):
        return torch.tensor(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_torch(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: to_torch(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        values = [to_torch(v) for v in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return value


def numbers_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Every array and number in a result, with a name for it."""
    if value is None or isinstance(value, str | type):
        return
    if is_array(value) or isinstance(value, int | float | np.generic):
        yield "", value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for name, x in numbers_in(getattr(value, field.name)):
                yield f".{field.name}{name}", x
    elif isinstance(value, dict | tuple | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            for name, x in numbers_in(part):
                yield f"[{key}]{name}", x
    else:
        raise AssertionError(f"cannot compare a {type(value).__name__}")


def declared_results(equation: equations.Equation, result: Any) -> list[tuple[Any, str]]:
    """The parts of a result whose shape is declared, each with its declaration."""
    parts = result if len(equation.result_shapes) > 1 else (result,)
    if len(parts) != len(equation.result_shapes):  # a tuple of any length declares no shapes
        assert not any(equation.result_shapes)
        return []
    return [(x, spec) for x, spec in zip(parts, equation.result_shapes, strict=True) if spec is not None]


def sizes_of(equation: equations.Equation, arguments: dict[str, Any]) -> dict[str, int]:
    annotations = annotations_of(inspect.unwrap(equation.function))
    entries = [e for name, x in arguments.items() for e in _entries(name, x, annotations.get(name))]
    return check_arrays(equation.label, [e for e in entries if is_array(e[1])])


# --- every registered function ----------------------------------------------------------------


@pytest.mark.parametrize("label", equations.index())
@given(seed=seeds)
def test_a_registered_function_gives_its_shapes_and_the_same_numbers_on_both_backends(label, seed):
    equation = equations.equation(label)
    arguments = arguments_of(label, seed)
    result = equation.function(**arguments)
    on_torch = equation.function(**to_torch(arguments_of(label, seed)))

    sizes = sizes_of(equation, arguments)
    for x, spec in declared_results(equation, result):
        dims = spec.split()
        assert len(x.shape) == len(dims), f"shape {x.shape}, declared {spec!r}"
        for dim, size in zip(dims, x.shape, strict=True):
            terms = terms_of(dim) or ((1, dim),)
            if terms_of(dim) is None:
                sizes.setdefault(dim, size)  # a size that the arguments do not name, such as K
            assert size == sum(count * (sizes[name] if name else 1) for count, name in terms), spec
        if is_array(x):
            assert np.issubdtype(x.dtype, np.floating)

    ours, theirs = dict(numbers_in(result)), dict(numbers_in(on_torch))
    assert ours.keys() == theirs.keys()
    assert ours
    for name, x in ours.items():
        y = theirs[name]
        assert np.shape(to_numpy(y)) == np.shape(x)
        if is_array(y) and is_array(x):
            assert str(y.dtype).removeprefix("torch.") == str(x.dtype), f"dtype of result{name}"
        assert relative_error(x, y) < TOLERANCE["float64"], name or "result"


ARRAYS_ONLY = [label for label in equations.index() if label not in MAKERS]
DECIDE = {"eq-gradients-vanish", "eq-gradients-explode"}
"""These answer yes or no, which a tensor without numbers cannot."""


@pytest.mark.parametrize("label", ARRAYS_ONLY)
@given(seed=seeds)
def test_a_registered_function_keeps_single_precision(label, seed):
    equation = equations.equation(label)
    arguments = equations.example(label, np.random.default_rng(seed), {"H": 4, "I": 3}, np.float32)
    wide = equation.function(**{name: x.astype(np.float64) for name, x in arguments.items()})
    expected = [x for _, x in numbers_in(wide)]
    for result in (equation.function(**arguments), equation.function(**to_torch(arguments))):
        results = [x for _, x in numbers_in(result)]
        assert all(str(x.dtype).endswith("float32") for x in results if not isinstance(x, bool))
        for x, y in zip(results, expected, strict=True):
            assert relative_error(x, y) < TOLERANCE["float32"]


@pytest.mark.parametrize("label", [label for label in ARRAYS_ONLY if label not in DECIDE])
def test_a_registered_function_stays_on_its_device(label):
    equation = equations.equation(label)
    arguments = to_torch(equations.example(label, np.random.default_rng(0)))
    result = equation.function(**{name: x.to("meta") for name, x in arguments.items()})
    expected = equation.function(**arguments)
    for (_, x), (_, y) in zip(numbers_in(result), numbers_in(expected), strict=True):
        assert x.is_meta
        assert x.shape == y.shape
        assert x.dtype == y.dtype


def test_every_function_that_takes_more_than_arrays_has_arguments_made_for_it():
    index = equations.index()
    missing = {label for label, equation in index.items() if needs_a_maker(equation)} - set(MAKERS)
    assert not missing, f"add an entry to MAKERS for {sorted(missing)}"
    assert set(MAKERS) <= set(index)


@pytest.mark.parametrize("label", equations.index())
def test_a_registered_function_is_public_checked_and_documented_with_its_label(label):
    equation = equations.equation(label)
    module = inspect.getmodule(equation.function)
    assert getattr(module, equation.function.__name__) is equation.function
    assert not equation.function.__name__.startswith("_")
    assert callable(equation.function.unchecked)
    assert f":eq:`{label}`" in equation.function.__doc__
    assert "Returns:" in equation.function.__doc__
    assert equation.qualified_name == f"{module.__name__}.{equation.function.__name__}"


@pytest.mark.parametrize("label", [label for label in equations.index() if label.endswith("-backward")])
def test_forward_and_backward_are_neighbours(label):
    forward = equations.equation(label.removesuffix("-backward")).function
    backward = equations.equation(label).function
    assert backward.__module__ == forward.__module__
    assert backward.__name__ == f"{forward.__name__}_backward"
    first, second = (inspect.unwrap(f).__code__.co_firstlineno for f in (forward, backward))
    assert first < second


# --- registering ------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry, so that what a test registers goes with it."""
    monkeypatch.setattr(equations, "_registry", dict(equations._registry))


@pytest.mark.parametrize(
    "label",
    [
        "",
        "vanilla-hidden",
        "eq-vanilla",
        "eq-",
        "eq--hidden",
        "eq-Vanilla-hidden",
        "eq-vanilla-hidden-",
        "eq-vanilla-hidden state",
        " eq-vanilla-hidden",
        "eq-vanilla-hidden\n",
        "eq-vänilla-hidden",
        "eq_vanilla_hidden",
    ],
)
def test_a_label_of_another_form_is_refused(label):
    with pytest.raises(
        ValueError, match=re.escape(f"label is {label!r}, expected the form 'eq-<chapter>-<name>'")
    ):
        equations.implements(label)


def test_a_label_belongs_to_one_function(registry):
    @equations.implements("eq-test-one")
    def first(a: Annotated[Array, "B"]) -> Annotated[Array, "B"]:
        return a

    with pytest.raises(ValueError, match=r"label 'eq-test-one' is already implemented by .*first"):

        @equations.implements("eq-test-one")
        def second(a: Annotated[Array, "B"]) -> Annotated[Array, "B"]:
            return a

    with pytest.raises(ValueError, match=r"already implemented by rnnlib\.vanilla\.hidden_state"):
        equations.implements("eq-vanilla-hidden")(first)
    assert equations.equation("eq-test-one").function is first


def test_a_module_may_be_loaded_again(registry):
    again = equations.implements("eq-vanilla-hidden")(vanilla.hidden_state.unchecked)
    assert again is not vanilla.hidden_state
    assert equations.equation("eq-vanilla-hidden").function is again


def test_registering_checks_the_arguments_unless_they_are_checked_already(registry):
    @equations.implements("eq-test-double")
    def double(a: Annotated[Array, "B"]) -> Annotated[Array, "B"]:
        return 2 * a

    with pytest.raises(ValueError, match="a holds NaN"):
        double(np.array([np.nan]))
    assert np.isnan(double.unchecked(np.array([np.nan]))).all()
    assert equations.implements("eq-test-again")(double) is double


# --- the index --------------------------------------------------------------------------------


def test_the_index_is_sorted_and_a_copy():
    index = equations.index()
    assert list(index) == sorted(index)
    assert len(index) > 20
    index.clear()
    assert equations.index()


def test_an_entry_knows_its_function_its_chapter_and_its_shapes():
    entry = equations.equation("eq-vanilla-preactivation-backward")
    assert entry.label == "eq-vanilla-preactivation-backward"
    assert entry.function is vanilla.preactivation_backward
    assert entry.chapter == "vanilla"
    assert entry.qualified_name == "rnnlib.vanilla.preactivation_backward"
    assert entry.shapes == {"d_a_t": "B H", "x_t": "B I", "h_prev": "B H", "W_xh": "H I", "W_hh": "H H"}
    assert list(entry.shapes) == ["d_a_t", "x_t", "h_prev", "W_xh", "W_hh"]
    assert entry.result_shapes == ("B I", "B H", "H I", "H H", "H")
    assert equations.equation("eq-vanilla-hidden").shapes == {"a_t": "B H"}  # not the activation
    assert equations.equation("eq-vanilla-hidden").result_shapes == ("B H",)
    assert equations.equation("eq-vanilla-spectral-radius").result_shapes == ("",)
    assert equations.equation("eq-gradients-vanish").result_shapes == (None,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.label = "eq-vanilla-output"


def test_an_unknown_label_is_answered_with_its_neighbours():
    with pytest.raises(KeyError) as error:
        equations.equation("eq-vanilla-hiden")
    assert "no function implements 'eq-vanilla-hiden'" in str(error.value)
    assert "eq-vanilla-hidden" in str(error.value)
    assert "eq-gradients" not in str(error.value)
    with pytest.raises(KeyError, match="eq-vanilla-hidden"):
        equations.equation("eq-nothing-like-it")


# --- the examples -----------------------------------------------------------------------------


@given(st.sampled_from([label for label, e in equations.index().items() if e.shapes]), seeds)
def test_an_example_has_the_declared_shapes(label, seed):
    entry = equations.equation(label)
    arguments = equations.example(label, np.random.default_rng(seed))
    assert list(arguments) == list(entry.shapes)
    check_arrays(label, [(name, x, entry.shapes[name]) for name, x in arguments.items()])
    assert all(x.dtype == np.float64 for x in arguments.values())
    assert all(size >= 1 for x in arguments.values() for size in x.shape)


def test_an_example_takes_sizes_and_a_dtype_and_keeps_to_its_seed(registry):
    @equations.implements("eq-test-shapes")
    def slab(
        W: Annotated[Array, "4H H+I"],
        b: Annotated[Array, "2H+I+3"],
        s: Annotated[Array, ""],
        h: Annotated[Array, "H"],
        f: Annotated[Array, "3"],
        x: Annotated[Array, "B I"] | None = None,
        name: str = "",
    ) -> None:
        return None

    sizes = {"H": 2, "I": 5}
    arguments = equations.example("eq-test-shapes", np.random.default_rng(0), sizes, np.float32)
    B = arguments["x"].shape[0]
    assert {name: x.shape for name, x in arguments.items()} == {
        "W": (8, 7),
        "b": (12,),
        "s": (),
        "h": (2,),
        "f": (3,),
        "x": (B, 5),
    }
    assert 1 <= B <= 5
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in arguments.values())
    assert sizes == {"H": 2, "I": 5}  # what was passed in is left alone
    again = equations.example("eq-test-shapes", np.random.default_rng(0), sizes, np.float32)
    for name, x in arguments.items():
        np.testing.assert_array_equal(x, again[name])
    # Sizes that are drawn take every value from 1 to 5.
    rng = np.random.default_rng(0)
    drawn = {equations.example("eq-test-shapes", rng)["h"].shape[0] for _ in range(200)}
    assert drawn == {1, 2, 3, 4, 5}


def test_an_example_is_standard_normal():
    rng = np.random.default_rng(0)
    a = equations.example("eq-activation-tanh", rng, {"B": 200, "H": 200})["a"]
    assert abs(a.mean()) < 0.03
    assert a.std() == pytest.approx(1, abs=0.03)


def test_shapes_are_read_through_optional_arguments():
    assert shape_of(Annotated[Array, "B H"]) == "B H"
    assert shape_of(Annotated[Array, "B H"] | None) == "B H"
    assert shape_of(Annotated[int, 3]) is None
    assert shape_of(str) is None
    assert shape_of(None) is None
