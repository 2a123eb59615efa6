"""What the tests share: random sizes and arguments, and agreement with a reference."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rnnlib import equations
from rnnlib.vanilla import VanillaCell

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}
"""The relative error allowed, by dtype."""

seeds = st.integers(0, 2**32 - 1)
"""Hypothesis strategy: a seed for a generator."""


def sizes(*names: str, low: int = 1, high: int = 6) -> st.SearchStrategy[dict[str, int]]:
    """Hypothesis strategy: a size for each named dimension."""
    return st.fixed_dictionaries({name: st.integers(low, high) for name in names})


def to_numpy(x: Any) -> np.ndarray:
    """A NumPy copy of an array, a tensor (on any device, with or without gradient) or a number."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
        return x.numpy().copy()
    return np.array(x)


def relative_error(actual: Any, expected: Any) -> float:
    """The largest difference over the largest expected magnitude (over 1 where that is below 1)."""
    a, e = to_numpy(actual), to_numpy(expected)
    assert a.shape == e.shape, f"shape {a.shape}, expected {e.shape}"
    if a.size == 0:
        return 0.0
    assert np.isfinite(a).all(), "result is not finite"
    assert np.isfinite(e).all(), "reference is not finite"
    wide_a, wide_e = a.astype(np.float64), e.astype(np.float64)
    return float(np.abs(wide_a - wide_e).max() / max(np.abs(wide_e).max(), 1.0))


class Agreement:
    """Asserts agreement with references and keeps the worst error, by function and reference."""

    def __init__(self) -> None:
        self._worst: dict[tuple[str, str, str], float] = {}

    def __call__(
        self,
        function: Callable[..., Any] | str,
        reference: str,
        actual: Any,
        expected: Any,
        tolerance: float | None = None,
        dtype: str = "float64",
    ) -> None:
        """Assert that ``actual`` agrees with ``expected``.

        Args:
            function: what is tested, or its dotted name without ``rnnlib.``.
            reference: what ``expected`` comes from: ``"torch.nn"``, ``"torch.autograd"``, …
            actual: an array, or a sequence or dict of arrays.
            expected: the same form.
            tolerance: relative error allowed; by dtype if None.
            dtype: the dtype the computation ran in.
        """
        if isinstance(actual, Mapping):
            assert actual.keys() == expected.keys()
            names = list(actual)
            actual, expected = [actual[n] for n in names], [expected[n] for n in names]
        elif not isinstance(actual, Sequence) or isinstance(actual, np.ndarray):
            names, actual, expected = [""], [actual], [expected]
        else:
            names = [str(i) for i in range(len(actual))]
        allowed = TOLERANCE[dtype] if tolerance is None else tolerance
        if not isinstance(function, str):
            function = f"{function.__module__}.{function.__qualname__}".removeprefix("rnnlib.")
        for name, a, e in zip(names, actual, expected, strict=True):
            error = relative_error(a, e)
            row = {"function": function, "reference": reference, "dtype": dtype, "worst_error": error}
            self.add([row])
            assert error <= allowed, (
                f"{function}{f'[{name}]' if name else ''} differs from {reference} by {error:.2e} "
                f"(relative), allowed {allowed:.0e}"
            )

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the worst of these rows and of what is there."""
        for row in rows:
            key = (row["function"], row["reference"], row["dtype"])
            self._worst[key] = max(self._worst.get(key, 0.0), row["worst_error"])

    def rows(self) -> list[dict[str, Any]]:
        """The record: one row per function, reference and dtype."""
        return [
            {"function": f, "reference": r, "dtype": d, "worst_error": error}
            for (f, r, d), error in sorted(self._worst.items())
        ]


def example(label: str, seed: int, sizes: Mapping[str, int] | None = None, dtype: Any = np.float64) -> dict:
    """Random arguments for the function of a label (see :func:`rnnlib.equations.example`)."""
    return equations.example(label, np.random.default_rng(seed), sizes, dtype)


def as_torch(arguments: Mapping[str, Any], requires_grad: bool = False) -> dict[str, Any]:
    """The same arguments as torch tensors; what is not an array stays."""
    import torch

    return {
        name: torch.tensor(x, requires_grad=requires_grad) if isinstance(x, np.ndarray) else x
        for name, x in arguments.items()
    }


def gradients_of(
    function: Callable[..., Any], arguments: Mapping[str, Any], upstream: Any
) -> list[np.ndarray]:
    """What automatic differentiation says of all arguments, for this upstream gradient."""
    import torch

    leaves = as_torch(arguments, requires_grad=True)
    found = torch.autograd.grad(function(**leaves), list(leaves.values()), torch.tensor(upstream))
    return [g.numpy() for g in found]


def torch_activation(name: str) -> Callable[[Any], Any]:
    """An activation by its name, as torch has it."""
    import torch

    return {
        "tanh": torch.tanh,
        "logistic": torch.special.expit,
        "relu": torch.nn.functional.relu,
        "identity": lambda a: a,
    }[name]


def random_cell(rng: np.random.Generator, I: int, H: int, activation: str = "tanh") -> VanillaCell:
    """A vanilla network with random weights and a random bias."""
    return VanillaCell(
        rng.normal(size=(H, I)), rng.normal(size=(H, H)) / np.sqrt(H), rng.normal(size=H), activation
    )


def load_module(path: Path) -> Any:
    """A module from a file that is not on the path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


book_sources = load_module(Path(__file__).resolve().parents[1] / "book" / "_ext" / "sources.py")
"""What the sources of the book say; shared with the book's extension."""

labelled_equations = functools.cache(book_sources.labelled_equations)
"""The labelled equations of the book, by label. To find them is to parse all its text."""
