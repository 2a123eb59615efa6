"""How the steps of a batch lie in the rows of a matrix."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rnnlib.backend import Array, backend_of


@dataclass(frozen=True)
class Steps:
    """How the steps of a batch lie in the N rows of a matrix, and which way to walk them.

    Step t has the next ``sizes[t]`` rows. Longer sequences come first, so the rows of a step belong
    to the first ``sizes[t]`` sequences; a sequence that has no row in a step keeps its state there.

    Attributes:
        sizes: the number of sequences at every step, never growing; they sum to N.
        reverse: whether to walk from the last step to the first.
        offsets: the first row of every step, and N behind them.
    """

    sizes: tuple[int, ...]
    reverse: bool = False
    offsets: Sequence[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        B = self.sizes[0]
        if B > 0 and self.uniform:
            offsets: Sequence[int] = range(0, B * len(self.sizes) + 1, B)
        else:
            offsets = tuple(itertools.accumulate(self.sizes, initial=0))
        object.__setattr__(self, "offsets", offsets)

    @functools.cached_property
    def table(self) -> NDArray[np.int64]:
        """``sizes`` and, below them, the first row of every step: (2, T), for loops in machine code."""
        if isinstance(self.offsets, range):
            return uniform_table(len(self.sizes), self.sizes[0])
        return np.array([self.sizes, self.offsets[:-1]], dtype=np.int64)

    @property
    def walk(self) -> range:
        """The steps in the order in which the layer takes them."""
        T = len(self.sizes)
        return range(T - 1, -1, -1) if self.reverse else range(T)

    @property
    def uniform(self) -> bool:
        """Whether every sequence has a row in every step."""
        return self.sizes[0] == self.sizes[-1]

    def split(self, rows: Array) -> Sequence[Array]:
        """The rows (N, ·) of each step: T matrices (B_t, ·), views."""
        return backend_of(rows).split(rows, self.sizes)

    def under_way(self, state: Array, t: int) -> Array:
        """The rows (B_t, ·) of a state (B, ·) that step t goes on from: a view."""
        n = self.sizes[t]
        return state if n == state.shape[0] else state[:n]

    def side_by_side(self, *rows: Array) -> list[tuple[Array, ...]]:
        """For each step, its rows (B_t, ·) of every array (N, ·): views."""
        return list(zip(*(self.split(r) for r in rows), strict=True))

    def join(self, walked: Sequence[Array]) -> Array:
        """All rows (N, ·) from the steps in walking order, (B_t, ·) each."""
        return backend_of(walked[0]).concat(walked[::-1] if self.reverse else walked)

    def states_before(self, initial: Array, states: Array) -> Array:
        """The state that each step starts from, (N, ·), given the states after the steps, (N, ·)."""
        B, xp = self.sizes[0], backend_of(states)
        if self.uniform:
            return xp.concat([states[B:], initial] if self.reverse else [initial, states[:-B]])
        after, state, before = self.split(states), initial, []
        for t in self.walk:
            before.append(self.under_way(state, t))
            state = carry(after[t], state)
        return self.join(before)

    def last(self, states: Array) -> Array:
        """The state of every sequence after its own last step, (B, ·), given all states, (N, ·)."""
        B, xp = self.sizes[0], backend_of(states)
        if self.reverse:
            return xp.copy(states[:B])
        if self.uniform:
            return xp.copy(states[-B:])
        ends = [sum(size > b for size in self.sizes) - 1 for b in range(B)]  # each sequence's last step
        return states[[self.offsets[t] + b for b, t in enumerate(ends)]]

    def blocks(self, rows: int) -> Iterator[tuple[Steps, int, int]]:
        """The steps cut into blocks, in walking order.

        Args:
            rows: how many rows a block may have; one step is always allowed.

        Yields:
            Each block as steps of their own, and its first and last row in the whole: rows
            ``first:last``. Its sequences are the first ``sizes[0]`` ones.
        """
        bounds, T = [0], len(self.sizes)
        if self.offsets[-1] <= rows:
            yield self, 0, self.offsets[-1]
            return
        while bounds[-1] < T:
            limit = self.offsets[bounds[-1]] + rows
            bounds.append(max(bounds[-1] + 1, bisect.bisect_right(self.offsets, limit) - 1))
        parts = list(itertools.pairwise(bounds))
        for start, stop in reversed(parts) if self.reverse else parts:
            yield Steps(self.sizes[start:stop], self.reverse), self.offsets[start], self.offsets[stop]

    def state_before(self, first: int, last: int, initial: Array, states: Array) -> Array:
        """The state, (B', ·), that a block starts from with the rows ``first:last`` of :meth:`blocks`.

        Args:
            first: the block's first row.
            last: the row behind its last.
            initial: the state before all steps, (B, ·).
            states: the states after the steps, (N, ·).
        """
        B = self.sizes[bisect.bisect_left(self.offsets, first)]
        if not self.reverse:  # all of them had a row in the step before, the first ones of it
            before = bisect.bisect_left(self.offsets, first) - 1
            return initial[:B] if before < 0 else states[self.offsets[before] :][:B]
        after = bisect.bisect_left(self.offsets, last)
        if after == len(self.sizes):
            return initial[:B]
        return carry(states[last : last + self.sizes[after]], initial[:B])


@functools.lru_cache(maxsize=16)
def uniform_table(T: int, B: int) -> NDArray[np.int64]:
    """:attr:`Steps.table` of T steps with B rows each, read-only."""
    table = np.stack([np.full(T, B, dtype=np.int64), np.arange(T, dtype=np.int64) * B])
    table.setflags(write=False)
    return table


def carry(new: Array, old: Array) -> Array:
    """The state (B, ·) after a step that changed the first B_t of its rows."""
    n = new.shape[0]  # which torch answers faster than len
    return new if n == old.shape[0] else backend_of(new).concat([new, old[n:]])
