"""Floor 0: what every cell offers, so that one loop runs them all.

A cell is a frozen record of parameters. Its ``step`` goes one step forward and returns the new
state and a cache of everything computed on the way; ``step_backward`` goes the same step back.
Both trust their input: who calls them has checked it.

A state is a tuple of arrays, (B, H) each, the hidden state h first: ``(h,)`` for the vanilla
network and the GRU, ``(h, C)`` for the LSTM. The gradient of a state is a tuple of the same form.
The gradient of a cell is a cell of the same type whose arrays are the gradients, so that
``d_cell.W_hh`` is ∂L/∂W_hh. The functions below reach the arrays in such a record, or in lists, tuples and
dicts of records and arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from rnnlib.backend import Array, backend_of, is_array

# The arrays a cell carries from step to step, (B, H) each, the hidden state first.
State: TypeAlias = tuple[Array, ...]

RecordT = TypeVar("RecordT")
CollectionT = TypeVar("CollectionT")


class ForwardCell(Protocol):
    """What :func:`rnnlib.unroll.unroll` needs to know of a cell: the way forward."""

    state_names: ClassVar[tuple[str, ...]]

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""

    def step(self, x_t: Array, state: State) -> tuple[State, Any]:
        """One step forward: the new state, and a cache for the way back."""


class Cell(ForwardCell, Protocol):
    """What the backward pass needs to know of a cell: the way back too."""

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


# --- arrays in collections ------------------------------------------------------------------------


def arrays_in(where: str, name: str, collection: Any) -> Iterator[tuple[str, Array]]:
    """The arrays in a record, list, tuple or dict of any depth, each with the way to it.

    Args:
        where: what the caller is called in a message.
        name: what the collection is called; the way to an array begins with it, as ``name.W_hh``.
        collection: the collection, or an array by itself. None stands for no array.

    Raises:
        TypeError: something else, unless it is in a record, which may hold an activation's name, for example.
    """

    def walk(way: str, value: Any, in_record: bool) -> Iterator[tuple[str, Array]]:
        if is_array(value):
            yield way, value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                yield from walk(f"{way}.{field.name}", getattr(value, field.name), True)
        elif isinstance(value, dict):
            for key, part in value.items():
                yield from walk(f"{way}[{key!r}]", part, in_record)
        elif isinstance(value, list | tuple):
            for i, part in enumerate(value):
                yield from walk(f"{way}[{i}]", part, in_record)
        elif value is not None and not in_record:
            raise TypeError(
                f"{where}: {way} is a {type(value).__name__}, expected an array, a record or a collection"
            )

    return walk(name, collection, False)


def map_collection(function: Callable[[Array], Array], collection: Any) -> Any:
    """The same collection with ``function`` applied to its arrays; what is no array is kept.

    Args:
        function: takes an array and returns one of the same kind.
        collection: as for :func:`arrays_in`.
    """
    if is_array(collection):
        # NumPy turns an array of shape () into a number.
        return backend_of(collection).asarray(function(collection), like=collection)
    if dataclasses.is_dataclass(collection) and not isinstance(collection, type):
        fields = {f.name: getattr(collection, f.name) for f in dataclasses.fields(collection)}
        changed = {name: map_collection(function, value) for name, value in fields.items()}
        return replace_unchecked(collection, **changed)
    if isinstance(collection, dict):
        return {key: map_collection(function, value) for key, value in collection.items()}
    if isinstance(collection, list | tuple):
        values = [map_collection(function, value) for value in collection]
        return type(collection)(*values) if hasattr(collection, "_fields") else type(collection)(values)
    return collection


def named_arrays(collection: Any) -> dict[str, Array]:
    """The arrays in a collection by the way to them, such as ``".W_hh"`` (see :func:`arrays_in`)."""
    return dict(arrays_in("named_arrays", "", collection))


def with_arrays(collection: CollectionT, arrays: dict[str, Array]) -> CollectionT:
    """The same collection with other arrays in it, by the names of :func:`named_arrays`."""
    values = iter([arrays[name] for name in named_arrays(collection)])
    replaced: CollectionT = map_collection(lambda _: next(values), collection)
    return replaced
