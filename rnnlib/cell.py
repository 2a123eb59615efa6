"""Floor 0: what every cell offers, so that one loop runs them all.

A cell is a frozen record of parameters. Its ``step`` goes one step forward and returns the new
state and a cache of everything computed on the way; ``step_backward`` goes the same step back.
Both trust their input: who calls them has checked it.

A state is a tuple of arrays, (B, H) each, the hidden state h first: ``(h,)`` for the vanilla
network and the GRU, ``(h, C)`` for the LSTM. The gradient of a state is a tuple of the same form.
The gradient of a cell is a cell of the same type whose arrays are the gradients, so that
``d_cell.W_hh`` is ∂L/∂W_hh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from rnnlib.backend import Array, is_array

# The arrays a cell carries from step to step, (B, H) each, the hidden state first.
State: TypeAlias = tuple[Array, ...]

RecordT = TypeVar("RecordT")


class Cell(Protocol):
    """What :func:`rnnlib.unroll.unroll` and the backward pass need to know of a cell."""

    state_names: ClassVar[tuple[str, ...]]

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""

    def step(self, x_t: Array, state: State) -> tuple[State, Any]:
        """One step forward: the new state, and a cache for the way back."""

    def step_backward(self, d_state: State, cache: Any) -> tuple[Array, State, Any]:
        """One step back.

        Args:
            d_state: ∂L/∂state_t, the total derivative.
            cache: what ``step`` returned.

        Returns:
            ∂L/∂x_t; ∂L/∂state_{t-1} by way of this step; the immediate derivative of the
            parameters, in a record of the cell's own type.
        """


def arrays_of(record: Any) -> dict[str, Array]:
    """The array fields of a record, by name."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {name: value for name, value in fields.items() if is_array(value)}


def replace_unchecked(record: RecordT, **changes: Any) -> RecordT:
    """The same record with other values in some fields, and no check of what they hold.

    For gradients, in records of the type of what they belong to: an exploded gradient is inf or NaN
    and must be seen as such, where a parameter may be neither.

    Args:
        record: a frozen dataclass.
        changes: new values by the name of the field.
    """
    copy = object.__new__(type(record))
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        object.__setattr__(copy, field.name, changes.pop(field.name, getattr(record, field.name)))
    if changes:
        raise TypeError(f"{type(record).__name__} has no field {', '.join(changes)}")
    return copy


def map_arrays(function: Callable[..., Array], record: RecordT, *others: Any) -> RecordT:
    """A record of the same type with ``function`` applied to its arrays, field by field.

    Args:
        function: takes one array of each record.
        record: a frozen dataclass; its fields that are no arrays are kept.
        others: records of the same type.
    """
    changed = {
        name: function(value, *(getattr(other, name) for other in others))
        for name, value in arrays_of(record).items()
    }
    return replace_unchecked(record, **changed)
