"""Floor 0: the registry that ties every equation of the book to the function that computes it.

``@implements("eq-vanilla-hidden")`` above a function says: the equation that carries this label
in the book is computed here. The book's equation index, the links under the equations, the
random examples of the tests and the self-grading exercises all read this registry; a test holds
it against the pages in both directions.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np

from rnnlib.backend import Checked, annotations_of, checked, shape_of, terms_of

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Equation:
    """One entry of the registry.

    Attributes:
        label: the equation's label in the book, ``eq-<chapter>-<name>``.
        function: the public function that computes it.
    """

    label: str
    function: Callable[..., Any]

    @property
    def chapter(self) -> str:
        """The middle part of the label, as ``vanilla`` of ``eq-vanilla-hidden``."""
        return self.label.split("-")[1]

    @property
    def qualified_name(self) -> str:
        """Where the function lives, as ``rnnlib.vanilla.hidden_state``."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def shapes(self) -> dict[str, str]:
        """The declared shape of every array argument, in order."""
        annotations = annotations_of(inspect.unwrap(self.function))
        return {
            name: spec
            for name in inspect.signature(self.function).parameters
            if (spec := shape_of(annotations.get(name))) is not None
        }

    @property
    def result_shapes(self) -> tuple[str | None, ...]:
        """The declared shape of the result, or of each part of a tuple."""
        annotation = annotations_of(inspect.unwrap(self.function)).get("return")
        if get_origin(annotation) is tuple:
            return tuple(shape_of(part) for part in get_args(annotation))
        return (shape_of(annotation),)


_registry: dict[str, Equation] = {}


def implements(label: str) -> Callable[[Callable[P, R]], Checked[P, R]]:
    """Register a function as the implementation of a labelled equation, and check its input.

    The function is wrapped by :func:`rnnlib.backend.checked`.

    Args:
        label: the equation's label in the book, ``eq-<chapter>-<name>``.

    Raises:
        ValueError: the label has another form, or another function has it already.
    """
    if re.fullmatch(r"eq(-[a-z0-9]+){2,}", label) is None:
        raise ValueError(f"label is {label!r}, expected the form 'eq-<chapter>-<name>' in lower case")

    def register(function: Callable[P, R]) -> Checked[P, R]:
        public = function if hasattr(function, "unchecked") else checked(function)
        known = _registry.get(label)
        if known is not None and known.qualified_name != f"{public.__module__}.{public.__qualname__}":
            raise ValueError(f"label {label!r} is already implemented by {known.qualified_name}")
        _registry[label] = Equation(label, public)
        return public

    return register


def index() -> dict[str, Equation]:
    """Every equation of the package by label, in alphabetical order."""
    import rnnlib  # noqa: F401  importing the package registers every equation

    return dict(sorted(_registry.items()))


def equation(label: str) -> Equation:
    """The entry of one label.

    Raises:
        KeyError: no function implements it; the message lists close labels.
    """
    known = index()
    if label not in known:
        chapter = "-".join(label.split("-")[:2])
        near = [name for name in known if name.startswith(chapter)] or list(known)
        raise KeyError(f"no function implements {label!r}; known: {', '.join(near)}")
    return known[label]


def example(
    label: str,
    rng: np.random.Generator,
    sizes: Mapping[str, int] | None = None,
    dtype: Any = np.float64,
) -> dict[str, np.ndarray]:
    """Random arguments for the function of a label, from the shapes it declares.

    Args:
        label: the equation's label.
        rng: the generator to draw from (standard normal entries).
        sizes: sizes of some dimensions, by name; the others are drawn from 1 to 5.
        dtype: dtype of the arrays.

    Returns:
        The array arguments by name. Arguments that are not arrays keep their defaults.
    """
    drawn = dict(sizes or {})

    def size(dim: str) -> int:
        terms = terms_of(dim)
        if terms is None:
            if dim not in drawn:
                drawn[dim] = int(rng.integers(1, 6))
            return drawn[dim]
        return sum(count * (size(name) if name else 1) for count, name in terms)

    return {
        name: np.asarray(rng.standard_normal(tuple(size(d) for d in spec.split())), dtype=dtype)
        for name, spec in equation(label).shapes.items()
    }
