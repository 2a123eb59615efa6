"""Synthetic tasks: how long can a network remember?

Each function draws one batch of a task from the literature, with sequences as long as one likes. Time
comes first, as everywhere. What a network reaches that has learnt nothing stands in
:func:`adding_baseline` and :func:`copy_memory_baseline`; only a loss below it shows memory.

Nothing here is an equation of the book, and everything comes from the generator that is passed in:
the same seed gives the same batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rnnlib.backend import check_choice, check_count, check_draw, check_generator


class Batch(NamedTuple):
    """One batch of a task.

    Attributes:
        xs: the inputs, (T, B, I).
        targets: what the network should answer; each task says in which shape.
    """

    xs: np.ndarray
    targets: np.ndarray


def _one_hot(ids: np.ndarray, size: int, dtype: Any) -> np.ndarray:
    """Class numbers (…) as rows with a single one, (…, size)."""
    return np.eye(size, dtype=dtype)[ids]


# --- adding ---------------------------------------------------------------------------------------


def adding(length: int, batch_size: int, rng: np.random.Generator, *, dtype: Any = np.float32) -> Batch:
    """The adding problem: the sum of the two numbers that are marked.

    Every step shows a number, uniform in [0, 1], and a marker, 0 or 1. One step in the first half of
    the sequence is marked and one in the second. After the last step the network answers with the sum
    of the two marked numbers, so it must carry the first one over half of the sequence on average.

    Args:
        length: T, the number of steps, at least 2; the first half has ⌊T/2⌋ of them.
        batch_size: B, the number of sequences.
        rng: the generator to draw from.
        dtype: a real floating-point dtype.

    Returns:
        ``xs`` (T, B, 2), the numbers in ``xs[..., 0]`` and the markers in ``xs[..., 1]``; ``targets``
        (B,), one sum for each sequence, in the same dtype.

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, no generator or no dtype.

    This is the form of Le, Jaitly and Hinton (2015) and of Arjovsky, Shah and Bengio (2016). In that of
    Hochreiter and Schmidhuber (1997, experiment 4) the numbers lie in [-1, 1], the length varies
    between T and 11T/10, the first marker is among the first ten steps and the second among the first
    T/2 - 1 that are left, the first and the last step carry the marker -1, and the target is
    0.5 + (X₁ + X₂)/4.
    """
    check_draw("adding", rng, dtype)
    T = check_count("adding", "length", length, 2)
    B = check_count("adding", "batch_size", batch_size)
    values = rng.random((T, B)).astype(dtype)
    sequences = np.arange(B)
    first, second = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B)
    markers = np.zeros((T, B), dtype)
    markers[first, sequences] = markers[second, sequences] = 1
    targets = values[first, sequences] + values[second, sequences]  # (B,)
    return Batch(np.stack([values, markers], axis=-1), targets)  # (T, B, 2)


def adding_baseline() -> float:
    """The mean squared error on :func:`adding` of a network that always answers 1.

    The target is X₁ + X₂ with both uniform in [0, 1]. A constant answer c has the expected squared
    error Var(X₁ + X₂) + (E[X₁ + X₂] - c)². The mean is 1, so c = 1 is the best constant. What is left is
    the variance: 2 Var(X) = 2 (E[X²] - E[X]²) = 2 (1/3 - 1/4) = 1/6.

    Returns:
        1/6.
    """
    return 1 / 6


# --- copying --------------------------------------------------------------------------------------


def copy_memory(
    delay: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    symbols: int = 8,
    count: int = 10,
    dtype: Any = np.float32,
) -> Batch:
    """The copying problem: repeat some symbols after a long wait.

    The input shows ``count`` symbols, drawn uniformly with replacement; then ``delay - 1`` blanks; then
    the delimiter, which asks for the answer; then ``count`` blanks, while the network answers. The
    target is a blank up to and including the delimiter, and then the symbols in the order in which
    they came. Every symbol is repeated ``delay + count`` steps after it was shown.

    Args:
        delay: how many steps lie between the last symbol and the first answer, at least 1.
        batch_size: B, the number of sequences.
        rng: the generator to draw from.
        symbols: S, how many symbols there are, at least 2. The blank is class S, the delimiter S + 1.
        count: how many symbols are to be remembered.
        dtype: a real floating-point dtype.

    Returns:
        ``xs`` one-hot (T, B, S+2) with T = delay + 2 count; ``targets`` (T, B), one class at every step,
        int64. The delimiter is never a target.

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, no generator or no dtype.

    After Hochreiter and Schmidhuber (1997), in the form of Arjovsky, Shah and Bengio (2016): eight
    symbols, ten to remember, T + 20 steps, where their T is ``delay``.
    """
    check_draw("copy_memory", rng, dtype)
    delay = check_count("copy_memory", "delay", delay)
    B = check_count("copy_memory", "batch_size", batch_size)
    S = check_count("copy_memory", "symbols", symbols, 2)
    count = check_count("copy_memory", "count", count)
    T, blank, delimiter = delay + 2 * count, S, S + 1
    remembered = rng.integers(0, S, (count, B))
    shown = np.full((T, B), blank)
    shown[:count] = remembered
    shown[count + delay - 1] = delimiter
    targets = np.full((T, B), blank)
    targets[-count:] = remembered
    return Batch(_one_hot(shown, S + 2, dtype), targets)


def copy_memory_baseline(delay: int, *, symbols: int = 8, count: int = 10) -> float:
    """The mean cross-entropy on :func:`copy_memory` of a network that remembers no symbol.

    It knows from the delimiter when to answer, so that all the blanks cost nothing. Each of the
    ``count`` answers is a guess among S equally likely symbols, which costs log S. The mean over all
    steps is count · log S / (delay + 2 count).

    Args:
        delay: as for :func:`copy_memory`.
        symbols: S, as for :func:`copy_memory`.
        count: as for :func:`copy_memory`.

    Returns:
        The mean cross-entropy in nats.

    Raises:
        TypeError, ValueError: an argument is no whole number or too small.
    """
    delay = check_count("copy_memory_baseline", "delay", delay)
    symbols = check_count("copy_memory_baseline", "symbols", symbols, 2)
    count = check_count("copy_memory_baseline", "count", count)
    return count * math.log(symbols) / (delay + 2 * count)


# --- temporal order -------------------------------------------------------------------------------

TEMPORAL_ORDER_SYMBOLS = "abcdXYEB"
"""What the inputs of :func:`temporal_order` stand for: distractors, X and Y, beginning and end."""

_RANGES = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}
"""Where the relevant symbols may stand, in hundredths of the length, both ends included."""


def temporal_order(
    length: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    symbols: int = 2,
    dtype: Any = np.float32,
) -> Batch:
    """The temporal order problem: in which order did the Xs and Ys come?

    A sequence begins with E, ends with B, and shows distractors in between, a, b, c or d, but for two
    or three relevant symbols, each X or Y. After the last step the network names the order in which
    they came: XX, XY, YX or YY.

    Where the relevant symbols stand is drawn anew for every sequence, uniformly, from ranges that grow with
    the length T. Counted from 0, with both ends included and fractions cut off, these are

    - for two symbols [0.10 T, 0.20 T] and [0.50 T, 0.60 T];
    - for three symbols [0.10 T, 0.20 T], [0.33 T, 0.43 T] and [0.66 T, 0.76 T].

    Args:
        length: T, the number of steps, at least 10.
        batch_size: B, the number of sequences.
        rng: the generator to draw from.
        symbols: how many relevant symbols there are, 2 (four classes) or 3 (eight classes).
        dtype: a real floating-point dtype.

    Returns:
        ``xs`` one-hot (T, B, 8), in the order of :data:`TEMPORAL_ORDER_SYMBOLS`; ``targets`` (B,), one
        class for each sequence, int64. X counts as the digit 0 and Y as 1, the first symbol first:
        of two symbols XX is 0, XY is 1, YX is 2 and YY is 3.

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, no generator or no dtype;
            another number of symbols.

    Hochreiter and Schmidhuber (1997), experiments 6a and 6b. There the ranges are those for T = 100,
    and the length varies between 100 and 110.
    """
    check_draw("temporal_order", rng, dtype)
    T = check_count("temporal_order", "length", length, 10)
    B = check_count("temporal_order", "batch_size", batch_size)
    symbols = check_count("temporal_order", "symbols", symbols)
    check_choice("temporal_order", "symbols", symbols, tuple(_RANGES))
    X, E, end = (TEMPORAL_ORDER_SYMBOLS.index(s) for s in "XEB")
    shown = rng.integers(0, X, (T, B))
    shown[0], shown[-1] = E, end
    targets = np.zeros(B, np.int64)
    for low, high in _RANGES[symbols]:
        position = rng.integers(T * low // 100, T * high // 100, B, endpoint=True)
        digit = rng.integers(0, 2, B)
        shown[position, np.arange(B)] = X + digit
        targets = 2 * targets + digit
    return Batch(_one_hot(shown, len(TEMPORAL_ORDER_SYMBOLS), dtype), targets)


# --- parity ---------------------------------------------------------------------------------------


def parity(length: int, batch_size: int, rng: np.random.Generator, *, dtype: Any = np.float32) -> Batch:
    """The parity problem: was the number of ones so far even or odd?

    Every step shows a bit, each with probability 1/2, and asks for the parity of all bits up to and including
    it. One bit of memory is enough, but every 1 must turn it over, however long ago it was written.

    Args:
        length: T, the number of steps.
        batch_size: B, the number of sequences.
        rng: the generator to draw from.
        dtype: a real floating-point dtype.

    Returns:
        ``xs`` (T, B, 1), zeros and ones; ``targets`` (T, B), 1 where the number of ones is odd, int64.

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, no generator or no dtype.
    """
    check_draw("parity", rng, dtype)
    T = check_count("parity", "length", length)
    B = check_count("parity", "batch_size", batch_size)
    bits = rng.integers(0, 2, (T, B))
    return Batch(bits[:, :, None].astype(dtype), bits.cumsum(0) % 2)


# --- reversal -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """One batch of a task that turns one string into another.

    Attributes:
        source: the symbols of the strings to read, (S, B), int64.
        target: the symbols of the strings to write, with the end symbol behind each, (T, B), int64.
    """

    source: np.ndarray
    target: np.ndarray


def reversal(length: int, batch_size: int, rng: np.random.Generator, *, symbols: int = 10) -> Pair:
    """Strings to be written backwards.

    Every symbol is drawn uniformly, with replacement, so nothing can be guessed: ``length`` · log₂
    ``symbols`` bits must come from the reader to the writer.

    Args:
        length: S, the length of the strings.
        batch_size: B, the number of strings.
        rng: the generator to draw from.
        symbols: how many symbols there are, at least 2; the end symbol is the class after them.

    Returns:
        The strings (S, B), and the strings backwards and the end symbol, (S+1, B).

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, or no generator.
    """
    check_generator("reversal", rng)
    S = check_count("reversal", "length", length)
    B = check_count("reversal", "batch_size", batch_size)
    symbols = check_count("reversal", "symbols", symbols, 2)
    source = rng.integers(0, symbols, (S, B))
    return Pair(source, np.concatenate([source[::-1], np.full((1, B), symbols)]))


# --- the embedded Reber grammar -------------------------------------------------------------------

REBER_SYMBOLS = "BTSXPVE"
"""What the inputs of :func:`embedded_reber` stand for, in order."""

# The Reber grammar (Reber 1967): node by node, the symbols that may come and the nodes they lead to.
_REBER: tuple[dict[str, int], ...] = (
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)


def _embedded() -> dict[str, dict[str, str]]:
    """The embedded grammar: one copy of the inner one for each choice, which remembers the choice."""
    graph = {"start": {"B": "choice"}, "choice": {"T": "T0", "P": "P0"}, "last": {"E": "end"}, "end": {}}
    for choice in "TP":
        for node, edges in enumerate(_REBER):
            graph[f"{choice}{node}"] = {symbol: f"{choice}{after}" for symbol, after in edges.items()}
        graph[f"{choice}{len(_REBER)}"] = {choice: "last"}
    return graph


_GRAPH = _embedded()
_NODES = list(_GRAPH)


class ReberBatch(NamedTuple):
    """One batch of strings of the embedded Reber grammar.

    Attributes:
        xs: the symbols but for the last, one-hot, (T, B, 7); zeros behind the end.
        targets: the symbol that comes next, (T, B), int64; 0 behind the end.
        legal: the symbols that could come next, (T, B, 7), bool; False behind the end.
        lengths: how many steps each sequence has, (B,), int64; T is the largest.
    """

    xs: np.ndarray
    targets: np.ndarray
    legal: np.ndarray
    lengths: np.ndarray


def embedded_reber(batch_size: int, rng: np.random.Generator, *, dtype: Any = np.float32) -> ReberBatch:
    """Strings of the embedded Reber grammar, to be predicted symbol by symbol.

    A string is B, then T or P, then a string of the Reber grammar, then *the same* T or P, then E. To
    know the last but one symbol, a network must remember the second over the inner string, which has at
    least five symbols. Wherever two symbols may come next, each comes with probability 1/2; so no
    network can know which, but it can know the two (``legal``).

    Args:
        batch_size: B, the number of strings.
        rng: the generator to draw from.
        dtype: a real floating-point dtype.

    Returns:
        The batch, padded to the longest of its strings; :func:`rnnlib.unroll.mask_from_lengths` makes
        its ``lengths`` a mask.

    Raises:
        TypeError, ValueError: an argument is no whole number, too small, no generator or no dtype.

    Hochreiter and Schmidhuber (1997), experiment 1; the inner grammar is that of Reber (1967).
    """
    check_draw("embedded_reber", rng, dtype)
    B = check_count("embedded_reber", "batch_size", batch_size)
    K = len(REBER_SYMBOLS)
    # Two ways out of every node, the same one twice where there is no choice.
    ways = [list(_GRAPH[name].items()) or [("E", "end")] for name in _NODES]
    symbol = np.array([[REBER_SYMBOLS.index(w[k % len(w)][0]) for k in (0, 1)] for w in ways])
    after = np.array([[_NODES.index(w[k % len(w)][1]) for k in (0, 1)] for w in ways])
    allowed = np.array([[s in _GRAPH[name] for s in REBER_SYMBOLS] for name in _NODES])  # (nodes, 7)
    end = _NODES.index("end")

    nodes, ids = [np.full(B, _NODES.index("start"))], []
    while (nodes[-1] != end).any():
        k = rng.integers(0, 2, B)
        ids.append(symbol[nodes[-1], k])
        nodes.append(after[nodes[-1], k])
    drawn, before = np.stack(ids), np.stack(nodes[1:-1])  # (T+1, B), (T, B): the node a step stops at
    there = before != end  # (T, B)
    return ReberBatch(
        _one_hot(drawn[:-1], K, dtype) * there[:, :, None].astype(dtype),  # (T, B, 7)
        np.where(there, drawn[1:], 0),
        allowed[before],
        there.sum(0),
    )


def embedded_reber_next(prefix: str) -> str:
    """The symbols that may follow the beginning of a string of the embedded Reber grammar.

    Args:
        prefix: the symbols so far, such as ``"BTBP"``; ``""`` for none.

    Returns:
        The legal next symbols, as a string; ``""`` after the last.

    Raises:
        ValueError: no string of the grammar begins so; names the first symbol that does not fit.
    """
    node = "start"
    for position, symbol in enumerate(prefix):
        if symbol not in _GRAPH[node]:
            raise ValueError(
                f"embedded_reber_next: prefix has {symbol!r} at position {position}, "
                f"expected {' or '.join(map(repr, _GRAPH[node])) or 'no more symbols'}"
            )
        node = _GRAPH[node][symbol]
    return "".join(_GRAPH[node])


def is_embedded_reber(string: str) -> bool:
    """Whether a string belongs to the embedded Reber grammar.

    Args:
        string: the symbols, such as ``"BTBPVVETE"``.

    Returns:
        True for a complete string of the grammar.
    """
    try:
        return embedded_reber_next(string) == ""
    except ValueError:
        return False
