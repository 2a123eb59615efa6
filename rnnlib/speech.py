"""Beside the floors, chapter 11: from a waveform to features, and how far two utterances are apart.

A recording is cut into short overlapping frames; a Fourier transform says how much of each frequency a
frame holds; triangular filters, narrow where the ear tells pitches apart well, sum neighbouring
frequencies; the logarithm and a cosine transform make a few numbers of that, the *cepstra*, one row per
frame. Dynamic time warping compares two such sequences of rows at the speed that suits them best.

Frequencies are in hertz, sampling rates in samples per second, lengths of windows and hops in samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from rnnlib.backend import (
    Array,
    backend_of,
    check_arrays,
    check_count,
    check_generator,
    check_number,
    check_sequence,
    is_torch,
)
from rnnlib.equations import implements

MEL_SCALE, MEL_CORNER = 2595.0, 700.0
"""The mel scale's factor, in mel per factor of ten, and the frequency where it turns logarithmic."""


# --- the short-time Fourier transform -----------------------------------------------------------


@implements("eq-speech-window")
def hann_window(size: int) -> Annotated[Array, "N"]:
    """The window of Hann, periodic: one period of a raised cosine (:eq:`eq-speech-window`).

    Args:
        size: N, the number of samples, at least 2.

    Returns:
        w_n = (1 - cos(2πn/N))/2, (N,) float64; 0 at n = 0 and 1 in the middle.

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 2.
    """
    N = check_count("hann_window", "size", size, 2)
    return (1 - np.cos(2 * np.pi * np.arange(N) / N)) / 2


@implements("eq-speech-frames")
def frames(samples: Annotated[Array, "S"], size: int, hop: int) -> Annotated[Array, "T N"]:
    """Overlapping pieces of a recording, as many as fit (:eq:`eq-speech-frames`).

    Args:
        samples: the recording, (S,).
        size: N, samples per frame, from 1 to S.
        hop: R, samples from the start of one frame to the start of the next, at least 1.

    Returns:
        Frame t holds samples tR to tR + N - 1, t counted from 0; (T, N) with T = 1 + ⌊(S - N)/R⌋.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a size or a hop out of range.
    """
    S = int(samples.shape[0])
    N = check_count("frames", "size", size, 1, S)
    R = check_count("frames", "hop", hop)
    starts = range(0, S - N + 1, R)
    return backend_of(samples).stack([samples[start : start + N] for start in starts])


@implements("eq-speech-spectrum")
def power_spectrum(windowed: Annotated[Array, "T N"], size: int | None = None) -> Annotated[Array, "T F"]:
    """The squared magnitude of the Fourier transform of each frame (:eq:`eq-speech-spectrum`).

    Args:
        windowed: frames times their window, (T, N), float32 or float64.
        size: the length M of the transform, at least N: zeros are added behind each frame, which draws
            the same spectrum on more frequencies. N if None.

    Returns:
        The squared magnitude of X_t(k) for k = 0 to ⌊M/2⌋, (T, F); number k stands for the frequency k
        times the sampling rate over M.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; a size below N.
    """
    if windowed.dtype.itemsize < 4:
        raise TypeError(f"power_spectrum: windowed has dtype {windowed.dtype}, expected float32 or float64")
    N = int(windowed.shape[1])
    M = N if size is None else check_count("power_spectrum", "size", size, N)
    X = backend_of(windowed).rfft(windowed, M, 1)  # (T, F), complex
    return X.real**2 + X.imag**2


# --- the mel scale ------------------------------------------------------------------------------


@implements("eq-speech-mel")
def mel(f: Annotated[Array, "N"]) -> Annotated[Array, "N"]:
    """Frequencies on the mel scale, on which equal steps sound about equal (:eq:`eq-speech-mel`).

    Args:
        f: frequencies in hertz, (N,).

    Returns:
        2595 log₁₀(1 + f/700), in mel, (N,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return MEL_SCALE / math.log(10) * backend_of(f).log1p(f / MEL_CORNER)


@implements("eq-speech-hertz")
def hertz(m: Annotated[Array, "N"]) -> Annotated[Array, "N"]:
    """The frequencies of points on the mel scale, the inverse of :func:`mel` (:eq:`eq-speech-hertz`).

    Args:
        m: points in mel, (N,).

    Returns:
        700 (10^(m/2595) - 1), in hertz, (N,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp, z = backend_of(m), m * (math.log(10) / MEL_SCALE)
    # exp(z) - 1, written so that small z keep their digits.
    return MEL_CORNER * xp.tanh(z / 2) * (xp.exp(z) + 1)


@implements("eq-speech-filters")
def mel_filters(
    count: int, size: int, sampling_rate: float, low: float = 0.0, high: float | None = None
) -> Annotated[Array, "M F"]:
    """Triangles over the frequencies, evenly spaced on the mel scale (:eq:`eq-speech-filters`).

    Filter j rises from 0 at the centre of its left neighbour to 1 at its own, and falls to 0 at the
    centre of its right one.

    Args:
        count: M, the number of filters, at least 1.
        size: the length of the Fourier transform, at least 2.
        sampling_rate: in samples per second.
        low: where the first triangle begins, in hertz.
        high: where the last one ends, in hertz; half the sampling rate if None.

    Returns:
        The weights of the ⌊size/2⌋ + 1 frequencies in each filter, (M, F) float64.

    Raises:
        TypeError, ValueError: an argument out of range; a filter so narrow that no frequency falls
            into it.
    """
    where = "mel_filters"
    M, N = check_count(where, "count", count), check_count(where, "size", size, 2)
    rate = check_number(where, "sampling_rate", sampling_rate)
    low = check_number(where, "low", low, above=False)
    high = rate / 2 if high is None else check_number(where, "high", high)
    if not low < high <= rate / 2:
        raise ValueError(
            f"{where}: low is {low:g} and high is {high:g}, expected low < high <= {rate / 2:g}, half the "
            "sampling rate"
        )
    ends = mel.unchecked(np.array([low, high]))
    corners = hertz.unchecked(np.linspace(ends[0], ends[1], M + 2))  # (M + 2,)
    f = np.arange(N // 2 + 1) * (rate / N)  # (F,)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    filters = np.maximum(0, np.minimum((f - left) / (centre - left), (right - f) / (right - centre)))
    empty = np.flatnonzero(filters.max(1) == 0)
    if len(empty):
        raise ValueError(
            f"{where}: filter {empty[0]} holds no frequency, expected fewer filters than count = {M} or "
            f"a longer transform than size = {N}"
        )
    return filters


@implements("eq-speech-log-mel")
def log_mel(
    power: Annotated[Array, "T F"], filters: Annotated[Array, "M F"], floor: float = 1e-10
) -> Annotated[Array, "T M"]:
    """The logarithm of the power in each filter (:eq:`eq-speech-log-mel`).

    Args:
        power: power spectra, (T, F), at least 0.
        filters: weights, (M, F).
        floor: the smallest power to take a logarithm of, above 0: silence stays finite.

    Returns:
        The natural logarithms, (T, M).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a floor that is not above 0.
    """
    floor = check_number("log_mel", "floor", floor)
    xp = backend_of(power)
    sums = power @ filters.T  # (T, M)
    return xp.log(xp.where(sums > floor, sums, floor * xp.ones_like(sums)))


@implements("eq-speech-cepstra")
def cepstra(log_power: Annotated[Array, "T M"], count: int) -> Annotated[Array, "T K"]:
    """The cosine transform of each row: the shape of a spectrum in few numbers (:eq:`eq-speech-cepstra`).

    The orthonormal cosine transform of the second kind. Without ``count`` < M nothing would be lost.

    Args:
        log_power: logarithms of the power in M filters, (T, M).
        count: K, how many coefficients to keep, from 1 to M, the first (the loudness) among them.

    Returns:
        The cepstra, (T, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count out of range.
    """
    M = int(log_power.shape[1])
    K = check_count("cepstra", "count", count, 1, M)
    k, m = np.arange(K)[:, None], np.arange(M)
    C = np.sqrt(np.where(k == 0, 1, 2) / M) * np.cos(np.pi * k * (m + 0.5) / M)  # (K, M)
    return log_power @ backend_of(log_power).asarray(C, like=log_power).T


# --- dynamic time warping -----------------------------------------------------------------------


@implements("eq-dtw-cost")
def frame_distances(x: Annotated[Array, "T I"], y: Annotated[Array, "U I"]) -> Annotated[Array, "T U"]:
    """The Euclidean distance of every row of one sequence to every row of the other (:eq:`eq-dtw-cost`).

    Args:
        x: a sequence of T rows, (T, I).
        y: a sequence of U rows, (U, I).

    Returns:
        c_ij = ‖x_i - y_j‖, (T, U).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    difference = x[:, None, :] - y[None, :, :]  # (T, U, I)
    return backend_of(x).sqrt((difference * difference).sum(2))


# A way goes on in both sequences, which counts as two steps, or in one of them.
_STEPS = ((1, 1, 2), (1, 0, 1), (0, 1, 1))


@implements("eq-dtw-accumulate")
def accumulate(cost: Annotated[Array, "T U"]) -> Annotated[Array, "T U"]:
    """The cheapest way from the first pair to each pair, by recursion (:eq:`eq-dtw-accumulate`).

    A way goes on in one sequence and pays the cost of the pair it comes to, or in both and pays it
    twice. So every way from the first pair to the last pays T + U times.

    Args:
        cost: the cost of each pair, (T, U).

    Returns:
        D_ij, (T, U).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.

    Sakoe and Chiba (1978).
    """
    xp = backend_of(cost)
    D: list[list[Array]] = []
    for i in range(int(cost.shape[0])):
        D.append([])
        for j in range(int(cost.shape[1])):
            ways = [D[i - p][j - q] + w * cost[i, j] for p, q, w in _STEPS if i >= p and j >= q]
            D[i].append(-xp.amax(-xp.stack(ways), 0) if ways else 2 * cost[i, j])
    return xp.stack([xp.stack(row) for row in D])


@implements("eq-dtw-distance")
def warping_distance(x: Annotated[Array, "T I"], y: Annotated[Array, "U I"]) -> Annotated[Array, ""]:
    """How far two sequences are apart at the speed that suits them best (:eq:`eq-dtw-distance`).

    Args:
        x: a sequence of T rows, (T, I).
        y: a sequence of U rows, (U, I).

    Returns:
        D_TU / (T + U), the mean cost along the cheapest way, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    T, U = int(x.shape[0]), int(y.shape[0])
    D = accumulate.unchecked(frame_distances.unchecked(x, y))
    return backend_of(x).asarray(D[-1, -1] / (T + U), like=x)


@implements("eq-dtw-path")
def warping_path(cost: Annotated[Array, "T U"], D: Annotated[Array, "T U"]) -> list[tuple[int, int]]:
    """The cheapest way itself, found backwards from its end (:eq:`eq-dtw-path`).

    Args:
        cost: the cost of each pair, (T, U).
        D: what :func:`accumulate` made of it, (T, U).

    Returns:
        Pairs (i, j), counted from 0, from (0, 0) to (T - 1, U - 1). Where several ways are equally cheap,
        the one that goes on in both sequences.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    c, total = cost.tolist(), D.tolist()
    i, j = len(total) - 1, len(total[0]) - 1
    path = [(i, j)]
    while (i, j) != (0, 0):
        ways = [(total[i - p][j - q] + w * c[i][j], i - p, j - q) for p, q, w in _STEPS if i >= p and j >= q]
        _, i, j = min(ways, key=lambda way: way[0])
        path.append((i, j))
    return path[::-1]


def _check_sequences(where: str, **collections: Sequence[np.ndarray]) -> None:
    """NumPy arrays (T_n, I) with one I among all of them."""
    entries = []
    for name, sequences in collections.items():
        if not check_sequence(where, name, sequences, "a sequence of arrays"):
            raise ValueError(f"{where}: {name} holds no sequence, expected at least one")
        for n, x in enumerate(sequences):
            if not isinstance(x, np.ndarray):
                raise TypeError(f"{where}: {name}[{n}] is a {type(x).__name__}, expected a numpy.ndarray")
            entries.append((f"{name}[{n}]", x, f"T{name}{n} I"))
    check_arrays(where, entries)


def _longest_first(sequences: Sequence[np.ndarray]) -> list[int]:
    return sorted(range(len(sequences)), key=lambda n: -len(sequences[n]))


def warping_distances(queries: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """The warping distance of every query to every reference, all pairs at once.

    :func:`warping_distance` for NumPy arrays: one step of the recursion is one operation on the whole table
    of pairs.

    Args:
        queries: Q sequences, (T_q, I) each.
        references: R sequences, (U_r, I) each.

    Returns:
        The distances, (Q, R).

    Raises:
        TypeError, ValueError: no sequence at all, not NumPy arrays, different numbers of columns; see
            :func:`rnnlib.backend.check_arrays`.
    """
    _check_sequences("warping_distances", queries=queries, references=references)
    # Longest first, so that the pairs which have a step (i, j) are the first rows and columns.
    order_x, order_y = _longest_first(queries), _longest_first(references)
    xs, steps_x = pad([queries[n] for n in order_x])
    ys, steps_y = pad([references[n] for n in order_y])
    distances = np.empty((len(queries), len(references)), xs.dtype)
    above: list[np.ndarray] = []  # D_{i-1,j} of all pairs, by j
    for i in range(len(xs)):
        row: list[np.ndarray] = []
        Q = int((steps_x > i).sum())
        for j in range(len(ys)):
            R = int((steps_y > j).sum())
            difference = xs[i, :Q, None, :] - ys[j, None, :R, :]  # (Q, R, I)
            c = np.sqrt(np.einsum("qri,qri->qr", difference, difference))
            ways = [above[j - 1][:Q, :R] + c] if i and j else []
            ways += ([above[j][:Q]] if i else []) + ([row[j - 1][:, :R]] if j else [])
            row.append(c + (np.minimum.reduce(ways) if ways else c))
            ends = np.ix_(steps_x[:Q] == i + 1, steps_y[:R] == j + 1)
            distances[:Q, :R][ends] = row[j][ends]
        above = row
    distances /= (steps_x[:, None] + steps_y).astype(distances.dtype)
    return distances[np.ix_(np.argsort(order_x), np.argsort(order_y))]


def pad(sequences: Sequence[Any]) -> tuple[Any, Any]:
    """Sequences of different lengths as one array, zeros behind the end of each.

    Args:
        sequences: B arrays (T_b, I) of one kind.

    Returns:
        The batch, (T, B, I) with the longest T, and the lengths, (B,) int64, of the kind of the
        sequences and on their device.

    Raises:
        ValueError: no sequence at all; different numbers of columns, or an empty sequence.
        TypeError: no arrays, or arrays of different kinds or dtypes.
    """
    if not check_sequence("pad", "sequences", sequences, "a sequence of arrays"):
        raise ValueError("pad: sequences holds no array, expected at least one")
    check_arrays("pad", [(f"sequences[{b}]", x, f"T{b} I") for b, x in enumerate(sequences)])
    first = sequences[0]
    xp, lengths = backend_of(first), [int(x.shape[0]) for x in sequences]
    T, I = max(lengths), int(first.shape[1])
    padded = [
        xp.concat([x, xp.zeros((T - n, I), like=first)], 0) for x, n in zip(sequences, lengths, strict=True)
    ]
    if is_torch(first):
        import torch

        return xp.stack(padded, 1), torch.tensor(lengths, device=first.device)
    return xp.stack(padded, 1), np.array(lengths, dtype=np.int64)


def join_utterances(
    utterances: Sequence[np.ndarray],
    labels: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
    *,
    fewest: int = 2,
    most: int = 4,
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Utterances drawn at random and joined end to end, with nothing to mark where one ends.

    Args:
        utterances: N sequences, (T_n, I) each.
        labels: the label of each, N whole numbers of at least 0.
        batch_size: B, how many sequences to make.
        rng: the generator to draw from.
        fewest: the smallest number of utterances in one, at least 1.
        most: the largest number, at least ``fewest``; each number is equally probable, and so is each
            utterance, which may come again.

    Returns:
        B sequences, (T, I) each, and the labels in each, in order.

    Raises:
        TypeError, ValueError: not as many labels as utterances, labels that are no whole numbers of at
            least 0, a count out of range, no generator; see :func:`warping_distances` for the utterances.
    """
    where = "join_utterances"
    _check_sequences(where, utterances=utterances)
    check_generator(where, rng)
    labels = check_sequence(where, "labels", labels, "a sequence of whole numbers")
    if len(labels) != len(utterances):
        raise ValueError(
            f"{where}: labels has {len(labels)} entries, expected {len(utterances)} set by utterances"
        )
    whole = [check_count(where, f"labels[{n}]", label, 0) for n, label in enumerate(labels)]
    B = check_count(where, "batch_size", batch_size)
    fewest = check_count(where, "fewest", fewest)
    most = check_count(where, "most", most, fewest)
    drawn = [
        rng.integers(0, len(utterances), rng.integers(fewest, most, endpoint=True)).tolist() for _ in range(B)
    ]
    joined = [np.concatenate([utterances[n] for n in ns]) for ns in drawn]
    return joined, [[whole[n] for n in ns] for ns in drawn]
