"""Floor 4, chapter 11: connectionist temporal classification, labels without their times.

A network says at each of T steps how probable each of K symbols is; one of them is the *blank*, which
says nothing. A *path* names a symbol for every step. Collapsing it (repeats first, then blanks) gives a
labelling, shorter and without times. The probability of a labelling is the sum over all its paths, of
which there are exponentially many; the forward and the backward recursion take them together.

Label sequences are sequences of whole numbers, one per example: ``targets=[[3, 1], [2]]``. All sums of
probabilities are taken by their logarithms, so that long sequences do not underflow; the logarithm of
zero is -∞.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np

from rnnlib import losses
from rnnlib.backend import Array, backend_of, check_count, check_sequence, checked_with
from rnnlib.equations import implements

Labels: TypeAlias = Sequence[int]
"""The labels of one sequence, in order, without times."""

NEVER = -math.inf
"""The logarithm of the probability of what cannot happen."""


# --- the checks that shapes cannot express ------------------------------------------------------


def _whole(where: str, name: str, labels: Any, K: int | None = None, blank: int | None = None) -> list[int]:
    """Labels as Python's whole numbers: below K and not the blank, where these are known."""
    entries = check_sequence(where, name, labels, "a sequence of whole numbers")
    high = None if K is None else K - 1
    values = [check_count(where, f"{name}[{i}]", x, 0, high) for i, x in enumerate(entries)]
    if blank is not None and blank in values:
        raise ValueError(
            f"{where}: {name}[{values.index(blank)}] is {blank}, the blank, which cannot be a label"
        )
    return values


def _check_targets(where: str, log_y: Array, targets: Any, lengths: Any, blank: Any) -> None:
    """B label sequences of symbols other than the blank, and B lengths from 1 to T."""
    T, B, K = (int(n) for n in log_y.shape)
    blank = check_count(where, "blank", blank, 0, K - 1)
    check_sequence(where, "targets", targets, f"B = {B} sequences of labels")
    if len(targets) != B:
        raise ValueError(f"{where}: targets has {len(targets)} entries, expected B = {B}")
    for b, labels in enumerate(targets):
        _whole(where, f"targets[{b}]", labels, K, blank)
    if lengths is None:
        return
    steps = check_sequence(where, "lengths", lengths, f"B = {B} whole numbers")
    if len(steps) != B:
        raise ValueError(f"{where}: lengths has {len(steps)} entries, expected B = {B}")
    for b, n in enumerate(steps):
        check_count(where, f"lengths[{b}]", n, 1, T)


def _steps(outputs: Array, lengths: Any) -> list[int]:
    """How many steps each sequence of a batch (T, B, K) has: T where no lengths are given."""
    T, B, _ = (int(n) for n in outputs.shape)
    return [T] * B if lengths is None else [int(n) for n in lengths]


def _check_labels(where: str, arguments: dict[str, Any]) -> None:
    """Labels and lengths that fit the outputs."""
    outputs = arguments["log_y"] if "log_y" in arguments else arguments["a"]
    _check_targets(where, outputs, arguments["targets"], arguments["lengths"], arguments["blank"])


def _check_possible(where: str, arguments: dict[str, Any]) -> None:
    """Labellings that can be said in the steps they have."""
    steps = _steps(arguments["a"], arguments["lengths"])
    for b, (labels, n) in enumerate(zip(arguments["targets"], steps, strict=True)):
        needed = steps_needed(labels)
        if needed > n:
            raise ValueError(
                f"{where}: targets[{b}] needs {needed} steps but has {n}, so that its loss is "
                f"infinite and has no gradient"
            )


# --- sums of probabilities by their logarithms --------------------------------------------------


def _log_sum_exp(terms: Array) -> Array:
    """log Σ exp over the first axis; -∞ where every term is."""
    xp = backend_of(terms)
    largest = xp.amax(terms, 0)
    none = largest == NEVER
    largest = xp.where(none, xp.zeros_like(largest), largest)
    total = xp.exp(terms - largest).sum(0)  # at least 1, or 0 where there is nothing
    return xp.where(none, NEVER, largest + xp.log(xp.where(none, xp.ones_like(total), total)))


# --- paths and labellings -----------------------------------------------------------------------


@implements("eq-ctc-collapse")
def collapse(path: Labels, blank: int = 0) -> list[int]:
    """The labelling that a path stands for: one of each run, then no blanks (:eq:`eq-ctc-collapse`).

    Args:
        path: a symbol for every step.
        blank: the symbol that says nothing.

    Returns:
        The labels that remain.

    Raises:
        TypeError, ValueError: symbols that are no whole numbers of at least 0.
    """
    symbols = _whole("collapse", "path", path)
    blank = check_count("collapse", "blank", blank, 0)
    runs = [k for t, k in enumerate(symbols) if t == 0 or k != symbols[t - 1]]
    return [k for k in runs if k != blank]


@implements("eq-ctc-path")
def path_log_probability(log_y: Annotated[Array, "T K"], path: Labels) -> Annotated[Array, ""]:
    """The logarithm of the probability of one path, a sum over its steps (:eq:`eq-ctc-path`).

    Args:
        log_y: the logarithm of the probability of each symbol at each step, (T, K).
        path: a symbol for every step, T whole numbers from 0 to K - 1.

    Returns:
        log p(π | x), a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a path of another length, or
            with other symbols.
    """
    T, K = (int(n) for n in log_y.shape)
    symbols = _whole("path_log_probability", "path", path, K)
    if len(symbols) != T:
        raise ValueError(f"path_log_probability: path has {len(symbols)} entries, expected T = {T}")
    xp = backend_of(log_y)
    return xp.asarray(xp.stack([log_y[t, k] for t, k in enumerate(symbols)]).sum(), like=log_y)


@implements("eq-ctc-extend")
def extend(labels: Labels, blank: int = 0) -> list[int]:
    """A labelling with a blank before, between and behind its labels (:eq:`eq-ctc-extend`).

    Args:
        labels: U labels, none of them the blank.
        blank: the symbol that says nothing.

    Returns:
        2U + 1 symbols; the labels stand at the odd places, counted from 0.

    Raises:
        TypeError, ValueError: labels that are no whole numbers of at least 0, or the blank.
    """
    blank = check_count("extend", "blank", blank, 0)
    extended = [blank]
    for label in _whole("extend", "labels", labels, blank=blank):
        extended += [label, blank]
    return extended


@implements("eq-ctc-steps")
def steps_needed(labels: Labels) -> int:
    """The fewest steps in which a labelling can be said (:eq:`eq-ctc-steps`).

    A step for each label, and one for the blank between two equal ones, which would be taken for one
    otherwise.

    Args:
        labels: U labels.

    Returns:
        U plus the number of labels that repeat the one before.

    Raises:
        TypeError, ValueError: labels that are no whole numbers of at least 0.
    """
    values = _whole("steps_needed", "labels", labels)
    return len(values) + sum(a == b for a, b in itertools.pairwise(values))


# --- forward and backward -----------------------------------------------------------------------


class _Lattice:
    """What both recursions need: who says what at each place of the extended labellings.

    Attributes:
        symbols: the extended labellings, padded with blanks to S places, (B, S).
        log_y: their logarithms of probability, (T, B, S).
        skip: 0 at the places that may be entered from two before, -∞ at the others, (B, S).
        last: -∞ but for 0 at the two places where a path of the labelling may end, (B, S).
        lengths: the steps of each sequence.
    """

    def __init__(self, log_y: Array, targets: Sequence[Labels], lengths: Any, blank: int) -> None:
        B = int(log_y.shape[1])
        xp = backend_of(log_y)
        extended = [extend([int(k) for k in labels], blank) for labels in targets]
        S = max(len(symbols) for symbols in extended)
        symbols = np.full((B, S), blank)
        skip, last = np.full((B, S), NEVER), np.full((B, S), NEVER)
        for b, places in enumerate(extended):
            symbols[b, : len(places)] = places
            last[b, max(len(places) - 2, 0) : len(places)] = 0.0
            for s in range(3, len(places), 2):  # the odd places hold the labels
                if places[s] != places[s - 2]:
                    skip[b, s] = 0.0
        self.symbols = symbols
        self.log_y = log_y[:, np.arange(B)[:, None].tolist(), symbols.tolist()]  # (T, B, S)
        self.skip, self.last = xp.asarray(skip, like=log_y), xp.asarray(last, like=log_y)
        self.lengths = _steps(log_y, lengths)

    def running(self, t: int) -> Array:
        """Which sequences have a step t, counted from 0, (B, 1)."""
        xp = backend_of(self.log_y)
        return xp.asarray([[float(t < n)] for n in self.lengths], like=self.log_y) > 0

    def shifted(self, x: Array, places: int) -> Array:
        """Every entry that many places to the right (to the left if negative), -∞ moving in, (B, S)."""
        S, width = int(x.shape[1]), min(abs(places), int(x.shape[1]))
        empty = backend_of(x).zeros_like(x[:, :width]) + NEVER
        kept = x[:, : S - width] if places > 0 else x[:, width:]
        return backend_of(x).concat([empty, kept] if places > 0 else [kept, empty], 1)


def _forward(lattice: _Lattice) -> Array:
    xp = backend_of(lattice.log_y)
    T, B, S = (int(n) for n in lattice.log_y.shape)
    begin = xp.asarray([[0.0 if s < 2 else NEVER for s in range(S)]] * B, like=lattice.log_y)
    never = xp.zeros_like(begin) + NEVER
    alpha: list[Array] = []
    for t in range(T):
        if t == 0:
            reached = begin
        else:
            stay, step = alpha[-1], lattice.shifted(alpha[-1], 1)
            skip = lattice.shifted(alpha[-1], 2) + lattice.skip
            reached = _log_sum_exp(xp.stack([stay, step, skip]))
        alpha.append(xp.where(lattice.running(t), reached + lattice.log_y[t], never))  # (B, S)
    return xp.stack(alpha)


def _backward(lattice: _Lattice) -> Array:
    xp = backend_of(lattice.log_y)
    T = int(lattice.log_y.shape[0])
    never = xp.zeros_like(lattice.last) + NEVER
    # The permission to skip belongs to the place that is entered; here it is asked from two before.
    beta: list[Array] = []
    following = never
    for t in range(T - 1, -1, -1):
        if t < T - 1:
            said = beta[-1] + lattice.log_y[t + 1]  # (B, S)
            skip = lattice.shifted(said + lattice.skip, -2)
            following = _log_sum_exp(xp.stack([said, lattice.shifted(said, -1), skip]))
        here, later = lattice.running(t), lattice.running(t + 1)
        beta.append(xp.where(later, following, xp.where(here, lattice.last, never)))  # (B, S)
    return xp.stack(beta[::-1])


@implements("eq-ctc-alpha")
@checked_with(_check_labels)
def forward_variables(
    log_y: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "T B S"]:
    """The logarithm of α: all beginnings of paths, by where they stand (:eq:`eq-ctc-alpha`).

    Args:
        log_y: the logarithms of the probabilities of the symbols, (T, B, K).
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        log α_t(s), (T, B, S): the probability that steps 1 to t, step t included, have said the first s
        symbols of the extended labelling. S = 2U + 1 for the longest labelling; -∞ at what cannot
        be, and behind the end of a sequence.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; labels, lengths or a blank out of
            range.

    Graves et al. (2006).
    """
    return _forward(_Lattice(log_y, targets, lengths, blank))


@implements("eq-ctc-beta")
@checked_with(_check_labels)
def backward_variables(
    log_y: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "T B S"]:
    """The logarithm of β: all ends of paths, by where they start (:eq:`eq-ctc-beta`).

    Step t itself is in α alone, so that Σₛ α_t(s) β_t(s) is the probability of the labelling, at every t.

    Args:
        log_y: the logarithms of the probabilities of the symbols, (T, B, K).
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        log β_t(s), (T, B, S): the probability that steps t + 1 to the last complete the labelling, if
        step t stands at place s. -∞ at what cannot be, and behind the end of a sequence.

    Raises:
        TypeError, ValueError: as :func:`forward_variables`.

    Graves et al. (2006), who count step t in both.
    """
    return _backward(_Lattice(log_y, targets, lengths, blank))


def _log_probability(lattice: _Lattice, alpha: Array) -> Array:
    """log p of each labelling, from α at the last step of each sequence, (B,)."""
    xp = backend_of(alpha)
    ends = xp.stack([alpha[n - 1, b] for b, n in enumerate(lattice.lengths)])  # (B, S)
    return _log_sum_exp((ends + lattice.last).T)


@implements("eq-ctc-probability")
@checked_with(_check_labels)
def log_probability(
    log_y: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "B"]:
    """The logarithm of the probability of a labelling, over all its paths (:eq:`eq-ctc-probability`).

    Args:
        log_y: the logarithms of the probabilities of the symbols, (T, B, K).
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        log p(l | x), (B,); -∞ for a labelling that no path of this length stands for.

    Raises:
        TypeError, ValueError: as :func:`forward_variables`.
    """
    lattice = _Lattice(log_y, targets, lengths, blank)
    return _log_probability(lattice, _forward(lattice))


def _posterior(log_y: Array, targets: Sequence[Labels], lengths: Any, blank: int) -> tuple[Array, Array]:
    """γ, (T, B, K), and log p(l | x), (B,)."""
    xp = backend_of(log_y)
    K = int(log_y.shape[2])
    lattice = _Lattice(log_y, targets, lengths, blank)
    alpha = _forward(lattice)
    total = _log_probability(lattice, alpha)
    whole = xp.where(total == NEVER, xp.zeros_like(total), total)  # nothing is divided by nothing
    at_place = xp.exp(alpha + _backward(lattice) - whole[:, None])  # (T, B, S)
    says = xp.asarray(lattice.symbols[:, :, None] == np.arange(K), like=log_y)  # (B, S, K)
    return xp.einsum("tbs,bsk->tbk", at_place, says), total


@implements("eq-ctc-posterior")
@checked_with(_check_labels)
def posterior(
    log_y: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "T B K"]:
    """How probable each symbol is at each step, once the labelling is known (:eq:`eq-ctc-posterior`).

    Args:
        log_y: the logarithms of the probabilities of the symbols, (T, B, K).
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        γ_t(k), (T, B, K). A row of a sequence has the sum 1; rows behind its end are 0, and so are
        all rows of a labelling that is impossible.

    Raises:
        TypeError, ValueError: as :func:`forward_variables`.
    """
    return _posterior(log_y, targets, lengths, blank)[0]


# --- the loss -----------------------------------------------------------------------------------


@implements("eq-ctc-loss")
@checked_with(_check_labels)
def ctc_loss(
    a: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "B"]:
    """Minus the log-probability of each labelling, from the logits (:eq:`eq-ctc-loss`), in nats.

    ``torch.nn.CTCLoss(reduction="none")`` gives the same from ``log_softmax(a)``.

    Args:
        a: logits, (T, B, K): the outputs before the softmax.
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        The loss of each sequence, (B,); infinite where the labelling is impossible
        (:func:`steps_needed` exceeds the length).

    Raises:
        TypeError, ValueError: as :func:`forward_variables`.

    Graves et al. (2006).
    """
    log_y = losses.log_softmax.unchecked(losses.rows(a)).reshape(a.shape)  # (T, B, K)
    return -log_probability.unchecked(log_y, targets, lengths, blank)


@implements("eq-ctc-loss-backward")
@checked_with(_check_labels, _check_possible)
def ctc_loss_backward(
    d_loss: Annotated[Array, "B"],
    a: Annotated[Array, "T B K"],
    targets: Sequence[Labels],
    lengths: Any = None,
    blank: int = 0,
) -> Annotated[Array, "T B K"]:
    """The derivative of :func:`ctc_loss`: what was said minus what had to be (:eq:`eq-ctc-loss-backward`).

    Args:
        d_loss: ∂L/∂loss of each sequence, (B,).
        a: logits, (T, B, K).
        targets: B label sequences, each of symbols from 0 to K - 1 other than the blank; one may be empty.
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        ∂L/∂a, (T, B, K), zero behind the end of a sequence.

    Raises:
        TypeError, ValueError: as :func:`forward_variables`.
        ValueError: a labelling is impossible, so that its loss is infinite and has no gradient (torch
            returns NaN there, and so does ``unchecked``).
    """
    xp = backend_of(a)
    y = losses.softmax.unchecked(losses.rows(a)).reshape(a.shape)  # (T, B, K)
    log_y = losses.log_softmax.unchecked(losses.rows(a)).reshape(a.shape)
    gamma, total = _posterior(log_y, targets, lengths, blank)
    here = xp.asarray([[[float(t < n)] for n in _steps(a, lengths)] for t in range(int(a.shape[0]))], like=a)
    impossible = xp.where(total == NEVER, math.nan, xp.zeros_like(total))[:, None]
    return d_loss[:, None] * (here * (y - gamma + impossible))


# --- from probabilities to labels ---------------------------------------------------------------


@implements("eq-ctc-best-path")
def best_path(log_y: Annotated[Array, "T B K"], lengths: Any = None, blank: int = 0) -> list[list[int]]:
    """The labelling of the most probable path, step by step the best (:eq:`eq-ctc-best-path`).

    It need not be the most probable labelling; see :func:`beam_search`.

    Args:
        log_y: logarithms of probabilities, or logits, (T, B, K).
        lengths: the number of steps of each sequence, B whole numbers from 1 to T; T if None.
        blank: the symbol that says nothing.

    Returns:
        The labels of each sequence, B lists.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; lengths or a blank out of range.
    """
    _check_targets("best_path", log_y, [[]] * int(log_y.shape[1]), lengths, blank)
    symbols = log_y.argmax(2).T.tolist()  # (B, T)
    return [collapse(path[:n], blank) for path, n in zip(symbols, _steps(log_y, lengths), strict=True)]


def _add(*terms: float) -> float:
    """log Σ exp of numbers."""
    largest = max(terms)
    return NEVER if largest == NEVER else largest + math.log(sum(math.exp(x - largest) for x in terms))


@implements("eq-ctc-prefix")
def beam_search(
    log_y: Annotated[Array, "T K"], width: int | None = None, blank: int = 0
) -> tuple[list[int], float]:
    """The most probable labelling, among prefixes kept step by step (:eq:`eq-ctc-prefix`).

    Paths of the same prefix are taken together, so that the score is that of a labelling and not of a
    path. At every step the ``width`` most probable prefixes stay.

    Args:
        log_y: the logarithms of the probabilities of the symbols, (T, K).
        width: how many prefixes to keep, at least 1; all of them if None, which is exact and grows
            exponentially with T.
        blank: the symbol that says nothing.

    Returns:
        The labels, and the logarithm of their probability: exact if no prefix was dropped, never too
        large otherwise.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a width or a blank out of range.
    """
    K = int(log_y.shape[1])
    blank = check_count("beam_search", "blank", blank, 0, K - 1)
    width = None if width is None else check_count("beam_search", "width", width)
    # By prefix, the logarithms of p^b, of the paths that end with a blank, and p^n, of the others.
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}
    for said in log_y.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(prefix: tuple[int, ...], b: float, n: float, to: dict = grown) -> None:
            old_b, old_n = to.get(prefix, (NEVER, NEVER))
            to[prefix] = _add(old_b, b), _add(old_n, n)

        for prefix, (b, n) in beam.items():
            add(prefix, _add(b, n) + said[blank], NEVER)
            if prefix:
                add(prefix, NEVER, n + said[prefix[-1]])
            for k in range(K):
                if k != blank:  # after the same label only a blank lets it be said again
                    before = b if prefix and prefix[-1] == k else _add(b, n)
                    add((*prefix, k), NEVER, before + said[k])
        best = sorted(grown.items(), key=lambda item: _add(*item[1]), reverse=True)
        beam = dict(best[:width])
    labels, ends = next(iter(beam.items()))
    return list(labels), _add(*ends)


# --- how wrong an answer is ---------------------------------------------------------------------


@implements("eq-ctc-edit-distance")
def edit_distance(first: Labels, second: Labels) -> int:
    """The fewest insertions, deletions and replacements from one to the other (:eq:`eq-ctc-edit-distance`).

    Args:
        first: labels.
        second: labels.

    Returns:
        The distance of Levenshtein.

    Raises:
        TypeError, ValueError: labels that are no whole numbers of at least 0.
    """
    left, right = _whole("edit_distance", "first", first), _whole("edit_distance", "second", second)
    above = list(range(len(right) + 1))  # from no labels: insert them all
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


@implements("eq-ctc-error-rate")
def label_error_rate(answers: Sequence[Labels], targets: Sequence[Labels]) -> float:
    """All edits over all labels that had to be said (:eq:`eq-ctc-error-rate`).

    Args:
        answers: label sequences.
        targets: what they should have been, as many.

    Returns:
        The label error rate; it can exceed 1, where too much is said.

    Raises:
        TypeError, ValueError: not as many answers as targets, targets without any label, or labels
            that are no whole numbers of at least 0.
    """
    for name, labellings in (("answers", answers), ("targets", targets)):
        check_sequence("label_error_rate", name, labellings, "a sequence of label sequences")
        for i, labels in enumerate(labellings):
            _whole("label_error_rate", f"{name}[{i}]", labels)
    if len(answers) != len(targets):
        raise ValueError(
            f"label_error_rate: answers has {len(answers)} entries, expected {len(targets)} set by targets"
        )
    total = sum(len(target) for target in targets)
    if total == 0:
        raise ValueError("label_error_rate: targets holds no label, expected at least one")
    return sum(edit_distance(a, t) for a, t in zip(answers, targets, strict=True)) / total
