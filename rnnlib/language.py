"""Floor 4, chapter 10: probabilities of texts, n-grams, and how to draw a text from a model.

A symbol is a whole number from 0 to K - 1; :class:`Alphabet` says which character it is. N rows stand
below each other: N contexts with the K counts of what came next, or N distributions over K symbols.

Counting is for whole numbers, and so it is done in NumPy alone. What is computed from the counts, and
from the logits of a network, runs on NumPy arrays and torch tensors alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from rnnlib import losses
from rnnlib.backend import (
    Array,
    backend_of,
    check_choice,
    check_classes,
    check_count,
    check_counts,
    check_number,
    check_share,
    check_whole_numbers,
    checked,
)
from rnnlib.equations import implements

StateT = TypeVar("StateT")


# --- symbols --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alphabet:
    """The characters of a text, numbered in the order of their code points.

    Attributes:
        characters: every character once, in order.
    """

    characters: str

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str):
            raise TypeError(f"Alphabet: characters is a {type(self.characters).__name__}, expected a str")
        if not self.characters or sorted(set(self.characters)) != list(self.characters):
            raise ValueError(
                "Alphabet: characters is empty, out of order or holds one twice: use Alphabet.of"
            )

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """The alphabet of the characters in a text."""
        if not isinstance(text, str) or not text:
            raise ValueError(f"Alphabet.of: text is {text!r:.20}, expected at least one character")
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """The number of every character, (T,) int64.

        Raises:
            TypeError: not a str.
            ValueError: a character is not in the alphabet; the message says which, and where.
        """
        if not isinstance(text, str):
            raise TypeError(f"Alphabet.encode: text is a {type(text).__name__}, expected a str")
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.array([ord(c) for c in self.characters], np.uint32)
        codes = np.minimum(np.searchsorted(known, points), len(known) - 1)
        strange = np.flatnonzero(known[codes] != points)
        if len(strange):
            place = int(strange[0])
            raise ValueError(f"Alphabet.encode: {text[place]!r} at place {place} is not in the alphabet")
        return codes.astype(np.int64, copy=False)

    def decode(self, codes: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of numbers.

        Raises:
            TypeError, ValueError: not whole numbers, or not those of the alphabet.
        """
        array = np.asarray(codes)
        if not array.size:
            return ""
        array = check_whole_numbers("Alphabet.decode", "codes", array, 0, len(self) - 1)
        return "".join(self.characters[c] for c in array)


# --- the probability of a sequence ----------------------------------------------------------------


@implements("eq-language-chain")
def sequence_log_probability(a: Annotated[Array, "T B K"], targets: Array) -> Annotated[Array, "B"]:
    """The log-probability of whole sequences, symbol by symbol (:eq:`eq-language-chain`).

    Args:
        a: logits of every step, (T, B, K); those of step t may depend on the symbols before it.
        targets: the symbols, (T, B), integers from 0 to K - 1.

    Returns:
        The sum over the steps of the log-probability of the right symbol, (B,), in nats.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; targets that are no symbols.
    """
    T, B, K = (int(n) for n in a.shape)
    check_classes("sequence_log_probability", "targets", targets, a, K, (T, B))
    xp = backend_of(a)
    log_p = losses.log_softmax.unchecked(a.reshape((T * B, K))).reshape((T, B, K))
    right = targets[:, :, None] == xp.arange(K, like=a)  # (T, B, K)
    return xp.where(right, log_p, xp.zeros_like(log_p)).sum(2).sum(0)  # (B,)


@implements("eq-language-chain-backward")
def sequence_log_probability_backward(
    d_log_p: Annotated[Array, "B"], a: Annotated[Array, "T B K"], targets: Array
) -> Annotated[Array, "T B K"]:
    """The derivative of :func:`sequence_log_probability` (:eq:`eq-language-chain-backward`).

    Args:
        d_log_p: ∂L/∂(log-probability), (B,).
        a: logits, (T, B, K).
        targets: the symbols, (T, B), integers from 0 to K - 1.

    Returns:
        ∂L/∂a, (T, B, K).

    Raises:
        TypeError, ValueError: as :func:`sequence_log_probability`.
    """
    T, B, K = (int(n) for n in a.shape)
    check_classes("sequence_log_probability_backward", "targets", targets, a, K, (T, B))
    xp = backend_of(a)
    p = losses.softmax.unchecked(a.reshape((T * B, K))).reshape((T, B, K))
    right = xp.asarray(targets[:, :, None] == xp.arange(K, like=a), like=a)  # (T, B, K)
    return d_log_p[:, None] * (right - p)


@implements("eq-language-embedding")
def embedding(W_xh: Annotated[Array, "H K"], symbols: Array) -> Annotated[Array, "N H"]:
    """The input of a symbol without the product: a column of W_xh (:eq:`eq-language-embedding`).

    Args:
        W_xh: input weights on one-hot inputs, (H, K).
        symbols: (N,), integers from 0 to K - 1.

    Returns:
        W_xh times the one-hot column of each symbol, (N, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no symbols of W_xh.
    """
    check_classes("embedding", "symbols", symbols, W_xh, int(W_xh.shape[1]))
    return W_xh.T[symbols]  # (N, H)


@implements("eq-language-embedding-backward")
def embedding_backward(
    d_rows: Annotated[Array, "N H"], W_xh: Annotated[Array, "H K"], symbols: Array
) -> Annotated[Array, "H K"]:
    """The derivative of :func:`embedding` (:eq:`eq-language-embedding-backward`).

    Args:
        d_rows: ∂L/∂(the rows), (N, H).
        W_xh: input weights, (H, K).
        symbols: (N,), integers from 0 to K - 1.

    Returns:
        ∂L/∂W_xh, (H, K): what came back to a symbol, summed over its places; zero where it has none.

    Raises:
        TypeError, ValueError: as :func:`embedding`.
    """
    N, K = int(d_rows.shape[0]), int(W_xh.shape[1])
    check_classes("embedding_backward", "symbols", symbols, W_xh, K, (N,))
    xp = backend_of(W_xh)
    one_hot = xp.asarray(symbols[:, None] == xp.arange(K, like=W_xh), like=W_xh)  # (N, K)
    return d_rows.T @ one_hot  # (H, K)


# --- from counts to probabilities -----------------------------------------------------------------


def _check_counts(where: str, counts: Array) -> None:
    extremes = backend_of(counts).extremes(counts)
    if extremes is not None and extremes[0] < 0:
        raise ValueError(f"{where}: counts holds {extremes[0]}, expected no number below 0")


@implements("eq-ngram-likelihood")
def maximum_likelihood(counts: Annotated[Array, "N K"]) -> Annotated[Array, "N K"]:
    """The shares of the counts: the distribution that makes the text most likely (:eq:`eq-ngram-likelihood`).

    Args:
        counts: how often each symbol followed each context, (N, K), no row all zero.

    Returns:
        The probabilities, (N, K), zero for what was not seen.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count below zero; a context
            that was never seen.
    """
    _check_counts("maximum_likelihood", counts)
    total = counts.sum(1)  # (N,)
    if (extremes := backend_of(counts).extremes(total)) is not None and extremes[0] == 0:
        raise ValueError("maximum_likelihood: counts has a row of zeros, expected contexts that were seen")
    return counts / total[:, None]


@implements("eq-ngram-witten-bell")
def witten_bell(counts: Annotated[Array, "N K"], lower: Annotated[Array, "N K"]) -> Annotated[Array, "N K"]:
    """Counts mixed with a shorter context, after Witten and Bell (:eq:`eq-ngram-witten-bell`).

    The more different symbols followed a context, the more the shorter context weighs.

    Args:
        counts: how often each symbol followed each context, (N, K).
        lower: the distribution after the shorter context, (N, K).

    Returns:
        The probabilities, (N, K); ``lower`` itself where a context was never seen.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count below zero.
    """
    _check_counts("witten_bell", counts)
    xp = backend_of(counts)
    kinds = xp.asarray(counts > 0, like=counts).sum(1)[:, None]  # (N, 1)
    total = counts.sum(1)[:, None]  # (N, 1)
    seen = total > 0
    divisor = xp.where(seen, total + kinds, xp.ones_like(total))
    return xp.where(seen, (counts + kinds * lower) / divisor, lower)


@implements("eq-ngram-kneser-ney")
def kneser_ney(
    counts: Annotated[Array, "N K"], lower: Annotated[Array, "N K"], discount: float
) -> Annotated[Array, "N K"]:
    """Discounted counts mixed with a shorter context, after Kneser and Ney (:eq:`eq-ngram-kneser-ney`).

    Args:
        counts: how often each symbol followed each context, (N, K): whole numbers, or 0.
        lower: the distribution after the shorter context, (N, K).
        discount: what is taken from every count above 0, from 0 to 1.

    Returns:
        The probabilities, (N, K); ``lower`` itself where a context was never seen.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count below zero; a discount
            outside 0 to 1.
    """
    _check_counts("kneser_ney", counts)
    discount = check_share("kneser_ney", "discount", discount)
    xp = backend_of(counts)
    kept = xp.where(counts > discount, counts - discount, xp.zeros_like(counts))  # (N, K)
    kinds = xp.asarray(counts > 0, like=counts).sum(1)[:, None]  # (N, 1)
    total = counts.sum(1)[:, None]  # (N, 1)
    seen = total > 0
    divisor = xp.where(seen, total, xp.ones_like(total))
    return xp.where(seen, (kept + discount * kinds * lower) / divisor, lower)


@implements("eq-ngram-continuation")
def continuation_counts(counts: Annotated[Array, "A N K"]) -> Annotated[Array, "N K"]:
    """After how many different symbols a piece of text was seen (:eq:`eq-ngram-continuation`).

    Args:
        counts: how often symbol k followed the context (a, u), (A, N, K).

    Returns:
        For how many a this count is above 0, (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count below zero.
    """
    _check_counts("continuation_counts", counts)
    return backend_of(counts).asarray(counts > 0, like=counts).sum(0)


@implements("eq-ngram-discount")
def estimated_discount(counts: Annotated[Array, "N"]) -> Annotated[Array, ""]:
    """The discount that leaving one out suggests (:eq:`eq-ngram-discount`).

    Args:
        counts: the counts above 0, (N,), at least one of them 1.

    Returns:
        n₁ / (n₁ + 2 n₂), a scalar, where nᵣ counts are r.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no count is 1.
    """
    xp = backend_of(counts)
    once = xp.asarray(counts == 1, like=counts).sum()
    twice = xp.asarray(counts == 2, like=counts).sum()
    if xp.extremes(counts) is not None and not once > 0:
        raise ValueError("estimated_discount: no entry of counts is 1, expected at least one")
    return xp.asarray(once / (once + 2 * twice), like=counts)


# --- n-grams over a whole text --------------------------------------------------------------------


class Level(NamedTuple):
    """The counts for one length of context, as sorted tables.

    A piece of text is one whole number, its symbols the digits to the base K.

    Attributes:
        grams: the pieces of k symbols that were seen, sorted.
        counts: how often each was seen, or how many symbols it followed.
        contexts: their first k - 1 symbols, sorted.
        totals: the sum of the counts of each context.
        kinds: how many symbols followed each context.
        discount: D; 0 for Witten and Bell.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


def _pieces(codes: np.ndarray, length: int, base: int) -> np.ndarray:
    """Every piece of so many symbols as one number, (T - length + 1,)."""
    T = len(codes) - length + 1
    numbers = np.zeros(T, np.int64)
    for i in range(length):
        numbers = numbers * base + codes[i : i + T]
    return numbers


def _look_up(keys: np.ndarray, table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of every key as a float, 0 where it is not in the table."""
    places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[places] == keys, values[places], 0.0)


def _level(grams: np.ndarray, counts: np.ndarray, base: int, smoothing: str) -> Level:
    contexts, first, kinds = np.unique(grams // base, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first)
    discount = 0.0
    if smoothing == "kneser-ney":
        # Where no piece was seen once, there is nothing to go by: halfway.
        once = (counts == 1).any()
        discount = float(estimated_discount.unchecked(counts.astype(np.float64))) if once else 0.5
    return Level(grams, counts, contexts, totals, kinds, discount)


@dataclass(frozen=True)
class NGram:
    """The smoothed distribution of a symbol, given the ``order`` - 1 symbols before it.

    Made by :func:`ngram`.

    Attributes:
        order: how many symbols a piece has, the last of them the one to predict.
        size: how many symbols there are, K.
        smoothing: ``"kneser-ney"`` or ``"witten-bell"``.
        levels: the tables, from single symbols up to whole pieces.
    """

    order: int
    size: int
    smoothing: str
    levels: tuple[Level, ...]

    @property
    def discounts(self) -> tuple[float, ...]:
        """The discount of every level, from single symbols up; zeros for Witten and Bell."""
        return tuple(level.discount for level in self.levels)

    @property
    def entries(self) -> int:
        """How many counts the tables hold."""
        return sum(len(level.grams) for level in self.levels)

    def _mixed(self, level: Level, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """One step of the mixture, for any pieces: eq-ngram-kneser-ney or eq-ngram-witten-bell."""
        contexts = grams // self.size
        count = _look_up(grams, level.grams, level.counts)
        kinds = _look_up(contexts, level.contexts, level.kinds)
        total = _look_up(contexts, level.contexts, level.totals)
        weight = level.discount * kinds if self.smoothing == "kneser-ney" else kinds
        divisor = total if self.smoothing == "kneser-ney" else total + kinds
        mixed = np.maximum(count - level.discount, 0) + weight * lower
        return np.where(total > 0, mixed / np.maximum(divisor, 1), lower)

    def log_probabilities(self, codes: np.ndarray) -> np.ndarray:
        """How likely each symbol of a text is after those before it.

        Args:
            codes: a text, (T,), whole numbers from 0 to K - 1, T at least ``order``.

        Returns:
            The log-probability, in nats, of every symbol that has ``order`` - 1 before it,
            (T - order + 1,).

        Raises:
            TypeError, ValueError: not such a text.
        """
        codes = check_whole_numbers("NGram.log_probabilities", "codes", codes, 0, self.size - 1, self.order)
        p = np.full(len(codes) - self.order + 1, 1 / self.size)
        for k, level in enumerate(self.levels, start=1):
            p = self._mixed(level, _pieces(codes[self.order - k :], k, self.size), p)
        return np.log(p)

    def distributions(self, contexts: np.ndarray) -> np.ndarray:
        """What may come after each of several contexts.

        Args:
            contexts: (N, M), whole numbers from 0 to K - 1. Of each row the last ``order`` - 1 count; with
                fewer, the levels that need more are left out.

        Returns:
            The probabilities, (N, K) float64.

        Raises:
            TypeError, ValueError: not such contexts.
        """
        where = "NGram.distributions"
        if not isinstance(contexts, np.ndarray):
            raise TypeError(f"{where}: contexts is a {type(contexts).__name__}, expected a numpy.ndarray")
        if contexts.ndim != 2:
            raise ValueError(f"{where}: contexts has shape {contexts.shape}, expected (N, M)")
        N, M = contexts.shape
        if contexts.size:
            check_whole_numbers(where, "contexts", contexts.reshape(-1), 0, self.size - 1)
        symbols = np.arange(self.size)
        p = np.full((N, self.size), 1 / self.size)
        numbers = np.zeros(N, np.int64)
        for k, level in enumerate(self.levels[: M + 1]):
            if k:  # one symbol more, to the left
                numbers = numbers + contexts[:, M - k].astype(np.int64) * self.size ** (k - 1)
            p = self._mixed(level, numbers[:, None] * self.size + symbols, p)
        return p


def ngram(codes: np.ndarray, order: int, size: int, smoothing: str = "kneser-ney") -> NGram:
    """Count a text, and smooth the counts.

    With ``"kneser-ney"`` the longest pieces are counted, the shorter ones by the symbols that they
    follow (:eq:`eq-ngram-continuation`), and mixed by :eq:`eq-ngram-kneser-ney`, each level with its
    own discount (:eq:`eq-ngram-discount`; 0.5 where no piece was seen once). With ``"witten-bell"`` all
    are counted, and mixed by :eq:`eq-ngram-witten-bell`. Below single symbols all K are equally likely.

    Args:
        codes: the text, (T,), whole numbers from 0 to ``size`` - 1.
        order: how many symbols a piece has, at least 1; a piece must fit into 63 bits.
        size: how many symbols there are, K.
        smoothing: ``"kneser-ney"`` or ``"witten-bell"``.

    Returns:
        The model.

    Raises:
        TypeError, ValueError: an argument is out of range.
    """
    order, size = check_count("ngram", "order", order), check_count("ngram", "size", size, 2)
    check_choice("ngram", "smoothing", smoothing, ("kneser-ney", "witten-bell"))
    if size**order >= 2**63:
        raise ValueError(
            f"ngram: order is {order}, too long for {size} symbols: a piece must fit into 63 bits"
        )
    codes = check_whole_numbers("ngram", "codes", codes, 0, size - 1, order)
    grams, counts = np.unique(_pieces(codes, order, size), return_counts=True)
    levels = [_level(grams, counts, size, smoothing)]
    for k in range(order - 1, 0, -1):
        if smoothing == "kneser-ney":
            grams, counts = np.unique(grams % size**k, return_counts=True)  # one for each symbol before
        else:
            grams, counts = np.unique(_pieces(codes, k, size), return_counts=True)
        levels.append(_level(grams, counts, size, smoothing))
    return NGram(order, size, smoothing, tuple(reversed(levels)))


# --- batches that follow each other ---------------------------------------------------------------


class StreamBatch(NamedTuple):
    """A piece of each of several streams.

    Attributes:
        inputs: symbols, (T, B) int64.
        targets: the symbol after each, (T, B) int64.
        fresh: whether the streams begin here, so that no state is carried in.
    """

    inputs: np.ndarray
    targets: np.ndarray
    fresh: bool


def stream_steps(length: int, batch_size: int, steps: int) -> int:
    """How many batches one pass over a text of so many symbols has, see :func:`stream_batch`.

    Raises:
        TypeError, ValueError: not whole numbers above 0, or a text too short for one batch.
    """
    length = check_count("stream_steps", "length", length)
    batch_size = check_count("stream_steps", "batch_size", batch_size)
    steps = check_count("stream_steps", "steps", steps)
    batches = (length - 1) // batch_size // steps
    if batches == 0:
        raise ValueError(
            f"stream_steps: length is {length}, expected more than {batch_size * steps} for {batch_size} "
            f"streams of {steps} steps"
        )
    return batches


def stream_batch(codes: np.ndarray, step: int, batch_size: int, steps: int) -> StreamBatch:
    """Batch number ``step`` of a text that is cut into parallel streams.

    The text is cut into B long streams. Batch after batch, each column of the batch goes on in its own
    stream where it stopped, so that the state can be carried over. After the last batch it starts anew,
    and ``fresh`` says so. A few symbols at the end of each stream may not fill a batch; they are left
    out. Which batch it is depends on ``step`` alone, as :func:`rnnlib.train.fit` asks for.

    Args:
        codes: the text, (N,), whole numbers.
        step: from 0 on; it may go round more than once.
        batch_size: the number of streams, B.
        steps: the length of a piece, T.

    Returns:
        The inputs, the targets and whether the streams begin.

    Raises:
        TypeError, ValueError: an argument is out of range, or the text is too short.
    """
    codes = check_whole_numbers("stream_batch", "codes", codes)
    batch_size, steps = check_counts("stream_batch", batch_size=batch_size, steps=steps)
    batches = stream_steps(len(codes), batch_size, steps)
    number = check_count("stream_batch", "step", step, 0) % batches
    length = (len(codes) - 1) // batch_size
    starts = np.arange(batch_size) * length + number * steps  # (B,)
    places = np.arange(steps)[:, None] + starts  # (T, B)
    return StreamBatch(codes[places], codes[places + 1], number == 0)


# --- drawing from a distribution ------------------------------------------------------------------


@implements("eq-language-temperature")
def temperature_softmax(a: Annotated[Array, "N K"], temperature: float) -> Annotated[Array, "N K"]:
    """Probabilities from logits at a temperature (:eq:`eq-language-temperature`).

    Args:
        a: logits, or log-probabilities, (N, K).
        temperature: τ above 0; 1 changes nothing, below 1 the likely becomes likelier.

    Returns:
        p ∝ exp(a / τ), (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a temperature that is not above 0.
    """
    check_number("temperature_softmax", "temperature", temperature)
    # The largest goes first: at a small temperature the quotient itself could overflow.
    return losses.softmax.unchecked((a - backend_of(a).amax(a, 1)[:, None]) / temperature)


@implements("eq-language-entropy")
def entropy(a: Annotated[Array, "N K"]) -> Annotated[Array, "N"]:
    """How uncertain a distribution is, from its logits (:eq:`eq-language-entropy`).

    Args:
        a: logits, (N, K).

    Returns:
        -Σ p log p, (N,), in nats, from 0 to log K.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    log_p = losses.log_softmax.unchecked(a)  # (N, K)
    return -(backend_of(a).exp(log_p) * log_p).sum(1)


@implements("eq-language-entropy-backward")
def entropy_backward(d_H: Annotated[Array, "N"], a: Annotated[Array, "N K"]) -> Annotated[Array, "N K"]:
    """The derivative of :func:`entropy` (:eq:`eq-language-entropy-backward`).

    Args:
        d_H: ∂L/∂(entropy), (N,).
        a: logits, (N, K).

    Returns:
        ∂L/∂a, (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    log_p = losses.log_softmax.unchecked(a)  # (N, K)
    p = backend_of(a).exp(log_p)  # (N, K)
    H = -(p * log_p).sum(1)  # (N,)
    return -d_H[:, None] * p * (log_p + H[:, None])


@implements("eq-language-entropy-slope")
def entropy_slope(a: Annotated[Array, "N K"], temperature: float = 1.0) -> Annotated[Array, "N"]:
    """How the entropy grows with the temperature (:eq:`eq-language-entropy-slope`).

    Args:
        a: logits, (N, K).
        temperature: τ above 0.

    Returns:
        dH/dτ, (N,): the variance of the logits under the distribution at τ, over τ³. Never negative.

    Raises:
        TypeError, ValueError: as :func:`temperature_softmax`.
    """
    temperature = check_number("entropy_slope", "temperature", temperature)
    p = temperature_softmax.unchecked(a, temperature)  # (N, K)
    mean = (p * a).sum(1)[:, None]  # (N, 1)
    return (p * (a - mean) * (a - mean)).sum(1) / temperature**3


def _before(p: Array) -> Array:
    """Which symbol i comes before symbol k, the likelier first and of equals the first, (N, i, k)."""
    xp = backend_of(p)
    K = int(p.shape[1])
    number = xp.arange(K, like=p)
    earlier = number[:, None] < number  # (i, k)
    return (p[:, :, None] > p[:, None, :]) | ((p[:, :, None] == p[:, None, :]) & earlier)


@implements("eq-language-top-k")
def top_k(p: Annotated[Array, "N K"], k: int) -> Annotated[Array, "N K"]:
    """The k most likely symbols alone, with their sum brought back to 1 (:eq:`eq-language-top-k`).

    Args:
        p: probabilities, (N, K).
        k: how many to keep, from 1 to K; of equally likely ones the first.

    Returns:
        The probabilities, (N, K), zero except for k of each row.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a ``k`` out of range.
    """
    k = check_count("top_k", "k", k, 1, int(p.shape[1]))
    kept = backend_of(p).where(_before(p).sum(1) < k, p, backend_of(p).zeros_like(p))
    return kept / kept.sum(1)[:, None]


@implements("eq-language-top-p")
def top_p(p: Annotated[Array, "N K"], mass: float) -> Annotated[Array, "N K"]:
    """The most likely symbols that together reach a probability (:eq:`eq-language-top-p`).

    Args:
        p: probabilities, (N, K).
        mass: the probability to reach, above 0 and at most 1.

    Returns:
        The probabilities, (N, K): as few symbols as have ``mass`` together, their sum brought back to 1.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a mass out of range.
    """
    if check_number("top_p", "mass", mass) > 1:
        raise ValueError(f"top_p: mass is {mass}, expected a number above 0 and at most 1")
    xp = backend_of(p)
    likelier = (xp.asarray(_before(p), like=p) * p[:, :, None]).sum(1)  # (N, K)
    kept = xp.where(likelier < mass, p, xp.zeros_like(p))
    return kept / kept.sum(1)[:, None]


@implements("eq-language-sample")
def sample(p: Annotated[Array, "N K"], u: Annotated[Array, "N"]) -> Annotated[Array, "N K"]:
    """One symbol of each row, drawn by a uniform number (:eq:`eq-language-sample`).

    The randomness comes in with ``u``: the same numbers draw the same symbols, on either backend.

    Args:
        p: probabilities, (N, K).
        u: uniform numbers from 0 on, below 1, (N,).

    Returns:
        The symbol as the next input, one-hot, (N, K). Symbols of probability 0 are never drawn.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a u outside of [0, 1).
    """
    xp = backend_of(p)
    if (extremes := xp.extremes(u)) is not None and not (extremes[0] >= 0 and extremes[1] < 1):
        raise ValueError(f"sample: u runs from {extremes[0]} to {extremes[1]}, expected numbers in [0, 1)")
    number = xp.arange(int(p.shape[1]), like=p)
    upper = p.cumsum(1)  # (N, K), p_0 + … + p_k
    # The total may be rounded to less than 1, and u must stay below it. As u < 1, it does, also rounded.
    passed = upper <= u[:, None] * upper[:, -1:]  # (N, K)
    return xp.asarray(passed.sum(1)[:, None] == number, like=p)  # (N, K)


@implements("eq-language-correlation")
def unit_correlations(hs: Annotated[Array, "T H"], feature: Annotated[Array, "T"]) -> Annotated[Array, "H"]:
    """How closely each unit follows a feature of the text (:eq:`eq-language-correlation`).

    Args:
        hs: states along a text, (T, H).
        feature: what is looked for, at each step, (T,).

    Returns:
        Pearson's correlation coefficient of each unit with the feature, (H,); 0 for what is constant.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(hs)
    h, f = hs - hs.mean(0), feature - feature.mean()  # (T, H), (T,)
    norm = xp.sqrt((h * h).sum(0)) * xp.sqrt((f * f).sum())  # (H,)
    varies = norm > 0
    return xp.where(varies, h.T @ f, xp.zeros_like(norm)) / xp.where(varies, norm, xp.ones_like(norm))


# --- texts from a model ---------------------------------------------------------------------------

# The form of a model's step.
Step = Callable[[np.ndarray, StateT], tuple[np.ndarray, StateT]]


def _check_callable(where: str, name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{where}: {name} is a {type(value).__name__}, expected a function")


@checked
def generate(
    step: Step[StateT],
    state: StateT,
    first: np.ndarray,
    u: Annotated[Array, "T N"],
    *,
    temperature: float = 1.0,
    k: int | None = None,
    mass: float | None = None,
) -> np.ndarray:
    """Texts drawn from a model, symbol by symbol.

    Args:
        step: the model, ``step(symbols, state)``: from the last symbols (N,) and a state to the
            log-probabilities (N, K) of what comes next and the new state.
        state: the state before ``first``.
        first: the symbols to go on from, (N,).
        u: uniform numbers in [0, 1), (T, N) float64: one for each symbol to draw.
        temperature: τ of :func:`temperature_softmax`.
        k: draw from the k most likely only, see :func:`top_k`.
        mass: draw from the most likely that have this probability together, see :func:`top_p`.

    Returns:
        The symbols, (T, N) int64, without ``first``.

    Raises:
        TypeError, ValueError: arguments as those of :func:`temperature_softmax`, :func:`top_k`,
            :func:`top_p` and :func:`sample`; ``first`` is no array of N whole numbers.
    """
    _check_callable("generate", "step", step)
    temperature = check_number("generate", "temperature", temperature)
    k = None if k is None else check_count("generate", "k", k)
    mass = None if mass is None else check_number("generate", "mass", mass)
    symbols = check_whole_numbers("generate", "first", first)
    if len(symbols) != u.shape[1]:
        raise ValueError(f"generate: first has shape {symbols.shape}, expected ({u.shape[1]},) set by u")
    drawn = []
    for u_t in u:
        log_p, state = step(symbols, state)
        p = temperature_softmax(np.asarray(log_p, u.dtype), temperature)  # (N, K)
        if k is not None:
            p = top_k(p, k)
        if mass is not None:
            p = top_p(p, mass)
        symbols = sample(p, u_t).argmax(1)  # (N,)
        drawn.append(symbols)
    return np.stack(drawn)  # (T, N)


class Hypothesis(NamedTuple):
    """A text that a search has found.

    Attributes:
        symbols: its symbols, (T,) int64.
        log_probability: in nats.
    """

    symbols: np.ndarray
    log_probability: float


def beam_search(
    step: Step[StateT],
    state: StateT,
    first: int,
    *,
    width: int,
    length: int,
    take: Callable[[StateT, np.ndarray], StateT],
) -> list[Hypothesis]:
    """The likeliest texts of a length, as far as a beam finds them.

    After each step the ``width`` likeliest beginnings are kept. A beam as wide as there are beginnings
    finds the likeliest text; width 1 takes the likeliest symbol at each step.

    Args:
        step: the model, ``step(symbols, state)``: from the last symbols (N,) and a state to the
            log-probabilities (N, K) of what comes next and the new state.
        state: the state of one text before ``first``.
        first: the symbol to go on from.
        width: how many beginnings to keep.
        length: how many symbols to add.
        take: ``take(state, rows)``, the state of those rows, in that order; a row may come twice.

    Returns:
        At most ``width`` texts without ``first``, the likeliest first.

    Raises:
        TypeError, ValueError: not whole numbers, or out of range.
    """
    _check_callable("beam_search", "step", step)
    _check_callable("beam_search", "take", take)
    width, length = check_count("beam_search", "width", width), check_count("beam_search", "length", length)
    last = np.array([check_count("beam_search", "first", first, 0)])
    scores, texts = np.zeros(1), np.zeros((1, 0), np.int64)
    for _ in range(length):
        log_p, state = step(last, state)
        log_p = np.asarray(log_p, np.float64)  # (N, K)
        totals = (scores[:, None] + log_p).reshape(-1)  # (N K,)
        best = np.argsort(-totals, kind="stable")[:width]
        rows, last = np.divmod(best, log_p.shape[1])
        scores, state = totals[best], take(state, rows)
        texts = np.concatenate([texts[rows], last[:, None]], axis=1)  # (N, t)
    return [Hypothesis(text, float(score)) for text, score in zip(texts, scores, strict=True)]
