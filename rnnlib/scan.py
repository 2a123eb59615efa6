"""Floor 3, chapter 15: linear recurrences, and how to compute all their steps at once.

A linear recurrence is h_t = f_t ⊙ h_{t-1} + u_t, where neither the factor f_t nor the input u_t may depend
on h_{t-1}. Every step is a pair (f, u); pairs combine to pairs, and combining is associative. So the states
are the *prefixes* of a sequence of pairs, and a scan finds all prefixes in few rounds. The backward pass is
a linear recurrence too, in reverse time, and takes the same scan.

The scans work on any associative operation: items are a tuple of arrays with the same first axis T, and
``operation(later, earlier)`` combines two such tuples row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

from rnnlib.backend import Array, backend_of, check_array, check_choice, check_count, checked_with
from rnnlib.equations import implements

Items: TypeAlias = tuple[Array, ...]
"""The elements of a scan, arrays with the same first axis T."""

Operation: TypeAlias = Callable[[Items, Items], Items]
"""What a scan applies, ``operation(later, earlier)``, row by row; associative."""


# --- pairs --------------------------------------------------------------------------------------


@implements("eq-scan-combine")
def combine(
    f_2: Annotated[Array, "B H"],
    u_2: Annotated[Array, "B H"],
    f_1: Annotated[Array, "B H"],
    u_1: Annotated[Array, "B H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """Two steps of a linear recurrence as one, the later on the left (:eq:`eq-scan-combine`).

    Args:
        f_2: factors of the later step, (B, H).
        u_2: inputs of the later step, (B, H).
        f_1: factors of the earlier step, (B, H).
        u_1: inputs of the earlier step, (B, H).

    Returns:
        ``f_2 ⊙ f_1`` and ``f_2 ⊙ u_1 + u_2``, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.

    Blelloch (1990).
    """
    return f_2 * f_1, f_2 * u_1 + u_2  # (B, H)


def pairs(later: Items, earlier: Items) -> Items:
    """:func:`combine` as the operation of a scan, on (f, u) of any shape."""
    return combine.unchecked(*later, *earlier)


# --- scans --------------------------------------------------------------------------------------


def _check_items(where: str, arguments: dict[str, Any]) -> None:
    """An operation, and a tuple of arrays of one kind with the same first axis, of at least one step."""
    operation, items = arguments["operation"], arguments["items"]
    if not callable(operation):
        raise TypeError(
            f"{where}: operation is a {type(operation).__name__}, expected a function of two tuples of arrays"
        )
    if not isinstance(items, tuple) or not items:
        raise TypeError(f"{where}: items is a {type(items).__name__}, expected a tuple of arrays")
    for i, x in enumerate(items):
        check_array(where, f"items[{i}]", x)
        if backend_of(x) is not backend_of(items[0]):
            raise TypeError(
                f"{where}: items[0] is a {type(items[0]).__name__} but items[{i}] is a {type(x).__name__}, "
                "expected all arrays of one kind"
            )
        if x.ndim == 0 or len(x) != len(items[0]) or len(x) == 0:
            raise ValueError(
                f"{where}: items[{i}] has shape {tuple(x.shape)}, expected the same first axis T throughout, "
                "at least 1"
            )


def sequential(operation: Operation, items: Items) -> Items:
    """All prefixes of a sequence, one after the other: T - 1 combinations, none beside another.

    Args:
        operation: ``operation(later, earlier)``, row by row; it need not be associative here.
        items: the elements, arrays with the same first axis T.

    Returns:
        The prefixes, in the shapes of ``items``: row t combines the elements 1 to t.

    Raises:
        TypeError, ValueError: items that are no tuple of arrays with the same first axis.
    """
    _check_items("sequential", {"operation": operation, "items": items})
    rows = [tuple(x[:1] for x in items)]
    for t in range(1, len(items[0])):
        rows.append(operation(tuple(x[t : t + 1] for x in items), rows[-1]))
    xp = backend_of(items[0])
    return tuple(xp.concat(column) for column in zip(*rows, strict=True))


@implements("eq-scan-hillis-steele")
@checked_with(_check_items)
def hillis_steele(operation: Operation, items: Items) -> Items:
    """All prefixes of a sequence in ⌈log₂ T⌉ rounds (:eq:`eq-scan-hillis-steele`).

    In each round every element is combined with the one that stands d = 1, 2, 4, … before it.

    Args:
        operation: ``operation(later, earlier)``, row by row, associative.
        items: the elements, arrays with the same first axis T.

    Returns:
        The prefixes, in the shapes of ``items``: row t combines the elements 1 to t.

    Raises:
        TypeError, ValueError: items that are no tuple of arrays with the same first axis.

    Kogge and Stone (1973); Hillis and Steele (1986).
    """
    xp = backend_of(items[0])
    T, d = len(items[0]), 1
    while d < T:
        combined = operation(tuple(x[d:] for x in items), tuple(x[:-d] for x in items))  # (T-d, …)
        items = tuple(xp.concat([x[:d], y]) for x, y in zip(items, combined, strict=True))
        d *= 2
    return items


@implements("eq-scan-blelloch")
@checked_with(_check_items)
def blelloch(operation: Operation, items: Items) -> Items:
    """All prefixes of a sequence by a tree, with fewer than 2T combinations (:eq:`eq-scan-blelloch`).

    Neighbours are combined to half as many elements, whose prefixes are found in the same way. They are the
    prefixes at the even places; one more combination each gives those at the odd places.

    Args:
        operation: ``operation(later, earlier)``, row by row, associative.
        items: the elements, arrays with the same first axis T, of any length.

    Returns:
        The prefixes, in the shapes of ``items``: row t combines the elements 1 to t.

    Raises:
        TypeError, ValueError: items that are no tuple of arrays with the same first axis.

    The up-sweep and down-sweep of Blelloch (1990), in the form whose prefixes include the element itself;
    the same tree as the adder of Brent and Kung (1982).
    """
    T = len(items[0])
    if T == 1:
        return items
    later, earlier = tuple(x[1::2] for x in items), tuple(x[: T - 1 : 2] for x in items)  # (T//2, …)
    even = blelloch.unchecked(operation, operation(later, earlier))  # the prefixes at 2, 4, …
    rest = (T - 1) // 2
    if rest == 0:
        odd = tuple(x[:1] for x in items)
    else:
        at_odd = operation(tuple(x[2::2] for x in items), tuple(x[:rest] for x in even))  # at 3, 5, …
        odd = tuple(backend_of(x).concat([x[:1], y]) for x, y in zip(items, at_odd, strict=True))
    return tuple(_interleave(o, e) for o, e in zip(odd, even, strict=True))


def _interleave(odd: Array, even: Array) -> Array:
    """The rows 1, 3, … and 2, 4, … in turn; there may be one odd row more."""
    xp = backend_of(odd)
    n = len(even)
    both = xp.stack([odd[:n], even], axis=1).reshape((2 * n, *odd.shape[1:]))  # (2n, …)
    return both if len(odd) == n else xp.concat([both, odd[n:]])


class Cost(NamedTuple):
    """What a scan of T elements costs.

    Attributes:
        work: how many pairs of elements are combined.
        depth: in how many rounds, each of which waits for the one before and combines all its pairs at once.
    """

    work: int
    depth: int


@implements("eq-scan-hillis-steele-cost")
def hillis_steele_cost(steps: int) -> Cost:
    """Work and depth of :func:`hillis_steele` (:eq:`eq-scan-hillis-steele-cost`).

    Args:
        steps: T.

    Returns:
        With r = ⌈log₂ T⌉ rounds: r T - (2^r - 1) combinations, depth r.

    Raises:
        TypeError, ValueError: not a whole number of at least 1.
    """
    T = check_count("hillis_steele_cost", "steps", steps)
    rounds = (T - 1).bit_length()  # ⌈log₂ T⌉, exactly
    return Cost(rounds * T - (2**rounds - 1), rounds)


@implements("eq-scan-blelloch-cost")
def blelloch_cost(steps: int) -> Cost:
    """Work and depth of :func:`blelloch` (:eq:`eq-scan-blelloch-cost`).

    Args:
        steps: T.

    Returns:
        Work W(T) = T - 1 + W(⌊T/2⌋), depth D(T) = D(⌊T/2⌋) + 2 for T ≥ 3; W(1) = D(1) = 0, D(2) = 1.

    Raises:
        TypeError, ValueError: not a whole number of at least 1.
    """
    T = check_count("blelloch_cost", "steps", steps)
    work = depth = 0
    while T > 1:
        work, depth, T = work + T - 1, depth + (2 if T > 2 else 1), T // 2
    return Cost(work, depth)


# --- linear recurrences ---------------------------------------------------------------------------

METHODS = ("sequential", "hillis-steele", "blelloch")
"""The ways to compute a linear recurrence."""


def _check_method(where: str, arguments: dict[str, Any]) -> None:
    check_choice(where, "method", arguments["method"], METHODS)


@implements("eq-scan-recurrence")
@checked_with(_check_method)
def linear_recurrence(
    f: Annotated[Array, "T B H"],
    u: Annotated[Array, "T B H"],
    h_0: Annotated[Array, "B H"],
    method: str = "sequential",
) -> Annotated[Array, "T B H"]:
    """The states of a linear recurrence (:eq:`eq-scan-recurrence`).

    Args:
        f: factors, (T, B, H).
        u: inputs, (T, B, H).
        h_0: initial state, (B, H).
        method: ``"sequential"``, ``"hillis-steele"`` or ``"blelloch"``. The states are the same up to
            rounding.

    Returns:
        h_t = f_t ⊙ h_{t-1} + u_t for t = 1 … T, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.
    """
    if method == "sequential":
        h_t, hs = h_0, []
        for f_t, u_t in zip(f, u, strict=True):
            h_t = f_t * h_t + u_t  # (B, H)
            hs.append(h_t)
        return backend_of(f).stack(hs)  # (T, B, H)
    # The first step takes h_0 in; then the second half of every prefix is the state itself.
    u = backend_of(u).concat([(f[0] * h_0 + u[0])[None], u[1:]])  # (T, B, H)
    scan = hillis_steele.unchecked if method == "hillis-steele" else blelloch.unchecked
    return scan(pairs, (f, u))[1]


@implements("eq-scan-recurrence-backward")
@checked_with(_check_method)
def linear_recurrence_backward(
    d_hs: Annotated[Array, "T B H"],
    f: Annotated[Array, "T B H"],
    hs: Annotated[Array, "T B H"],
    h_0: Annotated[Array, "B H"],
    method: str = "sequential",
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B H"], Annotated[Array, "B H"]]:
    """The derivatives of :func:`linear_recurrence`, by another one (:eq:`eq-scan-recurrence-backward`).

    The total derivative of the loss by h_t obeys δ_t = f_{t+1} ⊙ δ_{t+1} + d_h_t: the same factors, one
    step later, in reverse time.

    Args:
        d_hs: what the loss sends to each state directly, (T, B, H).
        f: factors, (T, B, H).
        hs: the states, (T, B, H).
        h_0: initial state, (B, H).
        method: as for :func:`linear_recurrence`.

    Returns:
        ``d_f`` (T, B, H), ``d_u`` (T, B, H), which is δ itself, and ``d_h_0`` (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.
    """
    xp = backend_of(f)
    after = xp.concat([f[1:], xp.ones_like(f[:1])])  # (T, B, H): f_{t+1}; behind the end any number does
    reverse = linear_recurrence.unchecked(xp.flip(after, 0), xp.flip(d_hs, 0), xp.zeros_like(h_0), method)
    delta = xp.flip(reverse, 0)  # (T, B, H)
    before = xp.concat([h_0[None], hs[:-1]])  # (T, B, H): h_{t-1}
    return delta * before, delta, f[0] * delta[0]


# --- by division, and in logarithms -----------------------------------------------------------------


@implements("eq-scan-quotient")
def quotient_form(
    f: Annotated[Array, "T B H"], u: Annotated[Array, "T B H"], h_0: Annotated[Array, "B H"]
) -> Annotated[Array, "T B H"]:
    """The states by running products and sums (:eq:`eq-scan-quotient`).

    Correct on paper, and fast. In numbers the running product leaves their range after some hundred steps,
    and what comes out is infinite or NaN. Written for the lesson; use :func:`linear_recurrence`.

    Args:
        f: factors, none of them 0, (T, B, H).
        u: inputs, (T, B, H).
        h_0: initial state, (B, H).

    Returns:
        h_t = F_t ⊙ (h_0 + Σ_{s≤t} u_s / F_s) with F_t = f_1 ⊙ … ⊙ f_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    F = f.cumprod(0)  # (T, B, H)
    return F * (h_0 + (u / F).cumsum(0))  # (T, B, H)


@implements("eq-scan-log")
def log_recurrence(
    log_f: Annotated[Array, "T B H"], log_u: Annotated[Array, "T B H"], log_h_0: Annotated[Array, "B H"]
) -> Annotated[Array, "T B H"]:
    """The quotient form for positive numbers, in logarithms throughout (:eq:`eq-scan-log`).

    Nothing leaves the range of numbers. But digits are lost: the logarithms of long products are large
    numbers, and are subtracted from each other.

    Args:
        log_f: logarithms of the factors, (T, B, H).
        log_u: logarithms of the inputs, (T, B, H).
        log_h_0: logarithm of the initial state, (B, H).

    Returns:
        log h_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.

    Heinsen (2023); Feng et al. (2024).
    """
    log_F = log_f.cumsum(0)  # (T, B, H)
    xp = backend_of(log_f)
    terms = xp.concat([log_h_0[None], log_u - log_F])  # (T+1, B, H)
    return log_F + xp.logcumsumexp(terms, 0)[1:]  # (T, B, H)


# --- minGRU and minLSTM -----------------------------------------------------------------------------


@implements("eq-scan-mingru")
@checked_with(_check_method)
def min_gru(
    xs: Annotated[Array, "T B I"],
    h_0: Annotated[Array, "B H"],
    W_z: Annotated[Array, "H I"],
    b_z: Annotated[Array, "H"],
    W_h: Annotated[Array, "H I"],
    b_h: Annotated[Array, "H"],
    method: str = "blelloch",
) -> Annotated[Array, "T B H"]:
    """The states of a minGRU, whose gate and candidate see the input alone (:eq:`eq-scan-mingru`).

    Args:
        xs: inputs, (T, B, I).
        h_0: initial state, (B, H).
        W_z: weights of the update gate, (H, I).
        b_z: bias of the update gate, (H,).
        W_h: weights of the candidate, (H, I).
        b_h: bias of the candidate, (H,).
        method: as for :func:`linear_recurrence`.

    Returns:
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.

    Feng et al. (2024), the form with a linear candidate.
    """
    xp = backend_of(xs)
    z, h_tilde = xp.sigmoid(xs @ W_z.T + b_z), xs @ W_h.T + b_h  # (T, B, H)
    return linear_recurrence.unchecked(1 - z, z * h_tilde, h_0, method)


@implements("eq-scan-mingru-backward")
@checked_with(_check_method)
def min_gru_backward(
    d_hs: Annotated[Array, "T B H"],
    xs: Annotated[Array, "T B I"],
    hs: Annotated[Array, "T B H"],
    h_0: Annotated[Array, "B H"],
    W_z: Annotated[Array, "H I"],
    b_z: Annotated[Array, "H"],
    W_h: Annotated[Array, "H I"],
    b_h: Annotated[Array, "H"],
    method: str = "blelloch",
) -> tuple[
    Annotated[Array, "T B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
]:
    """The derivatives of :func:`min_gru` (:eq:`eq-scan-mingru-backward`).

    Args:
        d_hs: what the loss sends to each state directly, (T, B, H).
        xs: inputs, (T, B, I).
        hs: the states, (T, B, H).
        h_0: initial state, (B, H).
        W_z: weights of the update gate, (H, I).
        b_z: bias of the update gate, (H,).
        W_h: weights of the candidate, (H, I).
        b_h: bias of the candidate, (H,).
        method: as for :func:`linear_recurrence`.

    Returns:
        The gradients of ``xs``, ``h_0``, ``W_z``, ``b_z``, ``W_h`` and ``b_h``, each in its shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.
    """
    xp = backend_of(xs)
    z, h_tilde = xp.sigmoid(xs @ W_z.T + b_z), xs @ W_h.T + b_h  # (T, B, H)
    d_f, delta, d_h_0 = linear_recurrence_backward.unchecked(d_hs, 1 - z, hs, h_0, method)
    d_a_z = (delta * h_tilde - d_f) * z * (1 - z)  # (T, B, H): z is in both parts of the pair
    d_a_h = delta * z  # (T, B, H)
    return (
        d_a_z @ W_z + d_a_h @ W_h,  # (T, B, I)
        d_h_0,
        *_weight_gradients(d_a_z, xs),
        *_weight_gradients(d_a_h, xs),
    )


def _weight_gradients(d_a: Array, xs: Array) -> tuple[Array, Array]:
    """Of weights (H, I) and a bias (H,), summed over time and batch."""
    return backend_of(xs).einsum("tbh,tbi->hi", d_a, xs), d_a.sum((0, 1))


@implements("eq-scan-minlstm")
@checked_with(_check_method)
def min_lstm(
    xs: Annotated[Array, "T B I"],
    h_0: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H I"],
    b_f: Annotated[Array, "H"],
    W_i: Annotated[Array, "H I"],
    b_i: Annotated[Array, "H"],
    W_h: Annotated[Array, "H I"],
    b_h: Annotated[Array, "H"],
    method: str = "blelloch",
) -> Annotated[Array, "T B H"]:
    """The states of a minLSTM, its two gates scaled to the sum 1 (:eq:`eq-scan-minlstm`).

    Args:
        xs: inputs, (T, B, I).
        h_0: initial state, (B, H).
        W_f: weights of the forget gate, (H, I).
        b_f: bias of the forget gate, (H,).
        W_i: weights of the input gate, (H, I).
        b_i: bias of the input gate, (H,).
        W_h: weights of the candidate, (H, I).
        b_h: bias of the candidate, (H,).
        method: as for :func:`linear_recurrence`.

    Returns:
        h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ h̃_t with f' = f / (f + i) and i' = i / (f + i), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.

    Feng et al. (2024), the form with a linear candidate.
    """
    share = _forget_share(xs, W_f, b_f, W_i, b_i)[2]
    h_tilde = xs @ W_h.T + b_h  # (T, B, H)
    return linear_recurrence.unchecked(share, (1 - share) * h_tilde, h_0, method)


def _forget_share(xs: Array, W_f: Array, b_f: Array, W_i: Array, b_i: Array) -> tuple[Array, Array, Array]:
    """The gates f and i, and f / (f + i), (T, B, H) each."""
    xp = backend_of(xs)
    f, i = xp.sigmoid(xs @ W_f.T + b_f), xp.sigmoid(xs @ W_i.T + b_i)  # (T, B, H)
    return f, i, f / (f + i)


@implements("eq-scan-minlstm-backward")
@checked_with(_check_method)
def min_lstm_backward(
    d_hs: Annotated[Array, "T B H"],
    xs: Annotated[Array, "T B I"],
    hs: Annotated[Array, "T B H"],
    h_0: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H I"],
    b_f: Annotated[Array, "H"],
    W_i: Annotated[Array, "H I"],
    b_i: Annotated[Array, "H"],
    W_h: Annotated[Array, "H I"],
    b_h: Annotated[Array, "H"],
    method: str = "blelloch",
) -> tuple[
    Annotated[Array, "T B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
]:
    """The derivatives of :func:`min_lstm` (:eq:`eq-scan-minlstm-backward`).

    Args:
        d_hs: what the loss sends to each state directly, (T, B, H).
        xs: inputs, (T, B, I).
        hs: the states, (T, B, H).
        h_0: initial state, (B, H).
        W_f: weights of the forget gate, (H, I).
        b_f: bias of the forget gate, (H,).
        W_i: weights of the input gate, (H, I).
        b_i: bias of the input gate, (H,).
        W_h: weights of the candidate, (H, I).
        b_h: bias of the candidate, (H,).
        method: as for :func:`linear_recurrence`.

    Returns:
        The gradients of ``xs``, ``h_0``, ``W_f``, ``b_f``, ``W_i``, ``b_i``, ``W_h`` and ``b_h``, each in its
        shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown method.
    """
    f, i, share = _forget_share(xs, W_f, b_f, W_i, b_i)
    h_tilde = xs @ W_h.T + b_h  # (T, B, H)
    d_f, delta, d_h_0 = linear_recurrence_backward.unchecked(d_hs, share, hs, h_0, method)
    d_share = (d_f - delta * h_tilde) * share * (1 - share)  # (T, B, H)
    d_a_f, d_a_i = d_share * (1 - f), -d_share * (1 - i)  # (T, B, H)
    d_a_h = delta * (1 - share)  # (T, B, H)
    return (
        d_a_f @ W_f + d_a_i @ W_i + d_a_h @ W_h,  # (T, B, I)
        d_h_0,
        *_weight_gradients(d_a_f, xs),
        *_weight_gradients(d_a_i, xs),
        *_weight_gradients(d_a_h, xs),
    )
