"""Floor 2, chapters 1 and 3: any cell along time, with the same parameters at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, overload

import numpy as np

from rnnlib.backend import Array, backend_of, check_array, check_arrays, check_sequence, checked, is_torch
from rnnlib.cell import ForwardCell, State
from rnnlib.engine import Steps, choose, differentiable
from rnnlib.engine.layers import Slabs, run_layer, run_layer_again, slabs_of
from rnnlib.equations import implements


@dataclass(frozen=True)
class Trajectory:
    """What a cell did along a sequence.

    Attributes:
        hs: the hidden state after every step, (T, B, H); zero at the steps beyond a sequence's length.
        initial: the state before the first step, a tuple of (B, H).
        final: the state after each sequence's last step, a tuple of (B, H).
        caches: one per step, as the cell's ``step`` returned it; or made anew when one is asked for
            (:class:`Recomputed`), where the engine ran.
        mask: which steps belong to a sequence, (T, B), or None where all do.
        states: the state after every step, T tuples of (B, H); behind a sequence's end it stays.
        xs: the inputs, (T, B, I); zero at the steps beyond a sequence's length.
        kind: the type of the cell, whose ``step_backward`` can read the caches.
    """

    hs: Annotated[Array, "T B H"]
    initial: State
    final: State
    caches: Sequence[Any]
    mask: Annotated[Array, "T B"] | None
    states: Sequence[State]
    xs: Annotated[Array, "T B I"]
    kind: type

    def along_time(self, name: str) -> Array:
        """A quantity that the cell computed at every step, stacked: ``along_time("a_t")`` is (T, B, H).

        Raises:
            ValueError: the cell computes no such quantity.
        """
        known = self.caches[0]._fields
        if name not in known:
            raise ValueError(f"along_time: name is {name!r}, expected one of {', '.join(known)}")
        return backend_of(self.hs).stack([getattr(cache, name) for cache in self.caches])

    def window(self, start: int, stop: int) -> Trajectory:
        """The steps start + 1, …, stop as a trajectory of their own; nothing is computed again.

        Raises:
            ValueError: not 0 ≤ start < stop ≤ T.
        """
        T = len(self.caches)
        if not 0 <= start < stop <= T:
            raise ValueError(f"window: start, stop is {start}, {stop}, expected 0 ≤ start < stop ≤ T = {T}")
        return Trajectory(
            self.hs[start:stop],
            self.states[start - 1] if start else self.initial,
            self.states[stop - 1],
            self.caches[start:stop],
            None if self.mask is None else self.mask[start:stop],
            self.states[start:stop],
            self.xs[start:stop],
            self.kind,
        )


def check_trajectory(where: str, cell: ForwardCell, trajectory: Trajectory) -> None:
    """Refuse what another kind of cell did.

    Raises:
        TypeError: naming both kinds.
    """
    if not isinstance(cell, trajectory.kind):
        raise TypeError(
            f"{where}: trajectory is that of a {trajectory.kind.__name__}, expected that of a "
            f"{type(cell).__name__}, which is what cell is"
        )


@dataclass(frozen=True)
class Recomputed(Sequence[Any]):
    """The caches of steps that the engine ran, each made by the cell's own ``step`` when it is asked for.

    Attributes:
        cell: the cell.
        xs: the inputs, (T, B, I).
        initial: the state before the first step.
        rows: what the engine's forward function returned, (T · B, ·) each; hs first.
    """

    cell: ForwardCell
    xs: Array
    initial: State
    rows: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.xs)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Recomputed: ...
    def __getitem__(self, index: int | slice) -> Any:
        T, B = len(self), self.xs.shape[1]
        if isinstance(index, slice):
            start, stop, _ = index.indices(T)
            part = tuple(rows[start * B : stop * B] for rows in self.rows)
            return Recomputed(self.cell, self.xs[start:stop], self.state_before(start), part)
        t = range(T)[index]  # an IndexError where there is none
        return self.cell.step(self.xs[t], self.state_before(t))[1]

    def state_before(self, t: int) -> State:
        """The state before step t + 1, which is the one after step t."""
        B = self.xs.shape[1]
        if t == 0:
            return self.initial
        return tuple(rows[(t - 1) * B : t * B] for rows in self.rows[: len(self.initial)])


MANY_NUMBERS = 2**14
"""The number of hidden numbers T · B · H from which NumPy arrays go through the engine.

Below, its set-up would not pay.
"""


@dataclass(frozen=True)
class _States(Sequence[State]):
    """The states that the engine stored, as a sequence of tuples."""

    along: tuple[Array, ...]  # (T, B, H) each

    def __len__(self) -> int:
        return len(self.along[0])

    @overload
    def __getitem__(self, index: int) -> State: ...
    @overload
    def __getitem__(self, index: slice) -> _States: ...
    def __getitem__(self, index: int | slice) -> Any:
        part = tuple(states[index] for states in self.along)
        return _States(part) if isinstance(index, slice) else part


def _check_inputs(where: str, cell: ForwardCell, xs: Array) -> None:
    """Refuse inputs of another size than the cell's."""
    if xs.shape[2] != cell.input_size:
        raise ValueError(
            f"{where}: xs has shape {tuple(xs.shape)}, expected (T, B, I) with I = {cell.input_size} "
            "set by the cell"
        )


def _engine_for(cell: ForwardCell, xs: Array) -> tuple[Slabs, Steps, Any] | None:
    """The cell in the engine's terms, steps and loops, where the rule of :func:`unroll` calls for them."""
    T, B = xs.shape[:2]
    if is_torch(xs) or xs.dtype not in (np.float32, np.float64) or T * B * cell.hidden_size < MANY_NUMBERS:
        return None
    slabs, steps = slabs_of(cell), Steps((B,) * T)
    loops = choose(xs, steps)
    return None if slabs is None or loops is differentiable else (slabs, steps, loops)


def rows_of(xs: Array) -> Array:
    """A sequence (T, B, ·) as the engine takes it: (T · B, ·)."""
    return np.ascontiguousarray(xs).reshape(xs.shape[0] * xs.shape[1], -1)


def has_engine(cell: ForwardCell, xs: Array) -> bool:
    """Whether :func:`unroll` goes through the engine, where no sequence ends early."""
    return _engine_for(cell, xs) is not None


def _made_by_engine(cell: ForwardCell, xs: Array, start: State, rows: tuple[Array, ...]) -> Trajectory:
    """What the engine returned, as a trajectory."""
    along = tuple(states.reshape(*xs.shape[:2], -1) for states in rows[: len(start)])  # (T, B, H) each
    final = tuple(states[-1].copy() for states in along)
    made_anew = Recomputed(cell, xs, start, rows)
    return Trajectory(along[0], start, final, made_anew, None, _States(along), xs, type(cell))


@checked
def hidden_states(
    cell: ForwardCell, xs: Annotated[Array, "T B I"], initial: State | Array | None = None
) -> tuple[Array, State]:
    """The hidden states (T, B, H) and the final state, where nothing else of :func:`unroll` is wanted.

    The engine keeps nothing for a way back.

    Args:
        cell: the cell.
        xs: inputs, (T, B, I).
        initial: the state before the first step, as :func:`unroll` takes it.
    """
    _check_inputs("hidden_states", cell, xs)
    start = initial_state(cell, xs, initial, "hidden_states")
    if (engine := _engine_for(cell, xs)) is None:
        trajectory = unroll.unchecked(cell, xs, initial)
        return trajectory.hs, trajectory.final
    slabs, steps, loops = engine
    rows, ends = run_layer(slabs.layer, steps, rows_of(xs), *start, *slabs.weights, loops=loops, keep=False)
    return rows[0].reshape(*xs.shape[:2], -1), tuple(ends)


@checked
def unroll_again(
    cell: ForwardCell,
    xs: Annotated[Array, "T B I"],
    hs: Annotated[Array, "T B H"],
    initial: State | Array | None = None,
) -> Trajectory:
    """The trajectory of a run of which only the hidden states were kept (Gruslys et al. 2016).

    What step t computes needs x_t and h_{t-1}, and both are known: the engine takes all steps at
    once, as one step of T · B sequences. Where :func:`unroll` does not go through the engine, it runs.

    Args:
        cell: the cell.
        xs: the inputs of that run, (T, B, I).
        hs: its hidden states, (T, B, H), as :func:`hidden_states` returned them.
        initial: its initial state.

    Raises:
        TypeError, ValueError: see :func:`unroll`.
    """
    _check_inputs("unroll_again", cell, xs)
    if hs.shape[2] != cell.hidden_size:
        raise ValueError(
            f"unroll_again: hs has shape {tuple(hs.shape)}, expected (T, B, H) with H = {cell.hidden_size} "
            "set by the cell"
        )
    start = initial_state(cell, xs, initial, "unroll_again")
    if (engine := _engine_for(cell, xs)) is None:
        return unroll.unchecked(cell, xs, initial)
    slabs, steps, loops = engine
    known = rows_of(hs)
    rows = run_layer_again(slabs.layer, steps, rows_of(xs), *start, *slabs.weights, hs=known, loops=loops)
    return _made_by_engine(cell, xs, start, rows)


def as_state(
    where: str,
    cell: ForwardCell,
    state: State | Array,
    names: Sequence[str],
    like: Array,
    like_name: str = "xs",
) -> State:
    """A state given as a tuple, or as the array itself where there is one only, held to its shapes.

    Args:
        where: what the state is called in messages.
        cell: the cell it belongs to.
        state: a tuple with one (B, H) array for each of ``cell.state_names``, or the one array.
        names: what the arrays are called in messages.
        like: an array with B rows, of the kind and dtype that the state must have.
        like_name: what it is called in messages.

    Raises:
        ValueError: the wrong number of arrays or a wrong shape.
        TypeError: another kind of array or dtype than ``like``.
    """
    arrays = state if isinstance(state, tuple) else (state,)
    if len(arrays) != len(names):
        raise ValueError(f"{where} has {len(arrays)} arrays, expected {len(names)}: ({', '.join(names)})")
    sizes = check_arrays(
        where, [(like_name, like, "B F")] + [(name, x, "B H") for name, x in zip(names, arrays, strict=True)]
    )
    if sizes["H"] != cell.hidden_size:
        raise ValueError(
            f"{where}: {names[0]} has shape {tuple(arrays[0].shape)}, expected (B, H) = "
            f"{(sizes['B'], cell.hidden_size)} with H = {cell.hidden_size} set by the cell"
        )
    return arrays


def initial_state(
    cell: ForwardCell, xs: Array, initial: State | Array | None = None, where: str = "initial_state"
) -> State:
    """The state before the first step as a tuple: the one given, or zeros.

    Args:
        cell: the cell.
        xs: inputs, (T, B, I).
        initial: a tuple with one (B, H) array for each of ``cell.state_names``, the array itself
            where there is one name only, or None for zeros.
        where: what the caller is called in messages.

    Raises:
        ValueError: the wrong number of arrays or a wrong shape.
        TypeError: another kind of array or dtype than ``xs``.
    """
    if initial is None:
        shape = (xs.shape[1], cell.hidden_size)
        return tuple(backend_of(xs).zeros(shape, like=xs) for _ in cell.state_names)
    return as_state(
        f"{where}: initial state", cell, initial, [f"{name}_0" for name in cell.state_names], xs[0]
    )


def whole_lengths(lengths: Any, T: int, B: int, where: str = "whole_lengths") -> list[int]:
    """The lengths of the sequences of a batch as Python numbers.

    Args:
        lengths: B whole numbers from 0 to T: a list, an array or a tensor.
        T: the number of steps.
        B: the number of sequences.
        where: what the caller is called in messages.

    Raises:
        TypeError: no sequence.
        ValueError: not B whole numbers, or one below 0 or above T.
    """
    values = check_sequence(where, "lengths", lengths, f"B = {B} whole numbers")
    if len(values) != B:
        raise ValueError(f"{where}: lengths has {len(values)} entries, expected B = {B} set by xs")
    for b, n in enumerate(values):
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= T:
            raise ValueError(f"{where}: lengths[{b}] is {n!r}, expected a whole number from 0 to T = {T}")
    return values


def mask_from_lengths(lengths: Any, xs: Array, where: str = "mask_from_lengths") -> Array:
    """Ones at the steps that belong to a sequence, zeros behind its end, in the dtype of ``xs``.

    Args:
        lengths: the number of steps of each sequence, B whole numbers from 0 to T.
        xs: inputs, (T, B, I).
        where: what the caller is called in messages.

    Returns:
        The mask, (T, B).

    Raises:
        TypeError: no sequence.
        ValueError: not B whole numbers, or one below 0 or above T.
    """
    check_array(where, "xs", xs)
    if xs.ndim != 3:
        raise ValueError(f"{where}: xs has shape {tuple(xs.shape)}, expected 3 dimensions (T, B, I)")
    T, B = int(xs.shape[0]), int(xs.shape[1])
    values = whole_lengths(lengths, T, B, where)
    return backend_of(xs).asarray([[float(t < n) for n in values] for t in range(T)], like=xs)


@implements("eq-vanilla-unroll")
def unroll(
    cell: ForwardCell,
    xs: Annotated[Array, "T B I"],
    initial: State | Array | None = None,
    lengths: Any = None,
) -> Trajectory:
    """Run a cell along a sequence, the same parameters at every step (:eq:`eq-vanilla-unroll`).

    NumPy arrays of float32 or float64, without ``lengths``, of at least 2¹⁴ hidden numbers T · B · H, go
    through :mod:`rnnlib.engine` where it has the cell; all others through the cell's own ``step``.

    Args:
        cell: the cell, for example a :class:`rnnlib.vanilla.VanillaCell`.
        xs: inputs, (T, B, I), T and B at least 1.
        initial: the state before the first step, (B, H) or a tuple of them; zeros if None.
        lengths: the number of steps of each sequence, B whole numbers from 0 to T, where the
            sequences of a batch differ; the steps behind change nothing.

    Returns:
        The :class:`Trajectory`; its ``hs`` is (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`, :func:`initial_state` and
            :func:`mask_from_lengths`.
    """
    _check_inputs("unroll", cell, xs)
    xp = backend_of(xs)
    start = state = initial_state(cell, xs, initial, "unroll")
    if lengths is None and (engine := _engine_for(cell, xs)) is not None:
        slabs, steps, loops = engine
        rows, _ = run_layer(slabs.layer, steps, rows_of(xs), *start, *slabs.weights, loops=loops, keep=True)
        return _made_by_engine(cell, xs, start, rows)
    mask = None if lengths is None else mask_from_lengths(lengths, xs, "unroll")  # (T, B)
    if mask is not None:  # zeros for the padding: not even an infinity there may touch a gradient
        xs = xp.where(mask[:, :, None] > 0, xs, xp.zeros_like(xs))
    hs, states, caches = [], [], []
    for t in range(xs.shape[0]):
        new, cache = cell.step(xs[t], state)
        if mask is None:
            state = new
            hs.append(state[0])  # (B, H)
        else:
            here = mask[t][:, None] > 0  # (B, 1)
            state = tuple(xp.where(here, n, s) for n, s in zip(new, state, strict=True))
            hs.append(xp.where(here, state[0], xp.zeros_like(state[0])))  # (B, H)
        states.append(state)
        caches.append(cache)
    return Trajectory(xp.stack(hs), start, state, tuple(caches), mask, tuple(states), xs, type(cell))
