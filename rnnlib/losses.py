"""Floor 4, chapters 1 and 10: from hidden states to outputs, and from outputs to a number to lower.

Every loss works on rows: N outputs of size O or K, one per row. A single step is rows already; a
sequence (T, B, K) becomes rows by :func:`rows`, its targets and its mask (T, B) likewise, and a
gradient (N, K) goes back by ``reshape``. So nothing is broadcast, and a loss is always a mean over
rows: over all of them, or over those that a mask counts.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from rnnlib import activations, vanilla
from rnnlib.backend import Array, backend_of, check_array, check_arrays, check_classes, checked_with
from rnnlib.equations import implements

# --- the checks that shapes cannot express ------------------------------------------------------


def _check_mask(where: str, arguments: dict[str, Any]) -> None:
    """One mask entry per row, each 0 or 1, at least one of them 1."""
    mask = arguments.get("mask")
    if mask is None:
        return
    name = next(n for n in ("values", "ys", "a") if n in arguments)
    x = arguments[name]
    spec = "N" if name == "values" else "N K"
    check_arrays(where, [(name, x, spec), ("mask", mask, "N")], allow_nan=True)
    if (extremes := backend_of(mask).extremes(mask)) is None:
        return
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{where}: mask has entries other than 0 and 1, expected 1 at the rows that count")
    if extremes[1] == 0:
        raise ValueError(f"{where}: mask is 0 at all {len(mask)} rows, expected at least one 1")


def _check_classes(where: str, arguments: dict[str, Any]) -> None:
    """One class per row: whole numbers from 0 to K - 1, in an integer dtype."""
    a, targets = arguments["a"], arguments["targets"]
    N, K = (int(n) for n in a.shape)
    check_classes(where, "targets", targets, a, K, (N,))


def _check_probabilities(where: str, arguments: dict[str, Any]) -> None:
    """One probability per logit."""
    a, targets = arguments["a"], arguments["targets"]
    check_arrays(where, [("a", a, "N K"), ("targets", targets, "N K")])
    for extreme in backend_of(a).extremes(targets) or ():
        if not 0 <= extreme <= 1:
            raise ValueError(f"{where}: targets holds {extreme}, expected probabilities from 0 to 1")


# --- sequences as rows --------------------------------------------------------------------------


def rows(x: Array) -> Array:
    """Time and batch as one axis: the steps of all sequences below each other.

    Args:
        x: outputs (T, B, K), or targets or a mask (T, B); any dtype.

    Returns:
        (T·B, K) or (T·B,), step by step; ``rows(x).reshape(x.shape)`` is ``x``.

    Raises:
        TypeError: not an array.
        ValueError: neither 2 nor 3 dimensions.
    """
    check_array("rows", "x", x)
    if x.ndim not in (2, 3):
        raise ValueError(f"rows: x has shape {tuple(x.shape)}, expected (T, B, K) or (T, B)")
    T, B = x.shape[:2]
    return x.reshape((T * B, *x.shape[2:]))  # (N, K) or (N,)


@implements("eq-losses-readout")
def linear_readout(
    hs: Annotated[Array, "T B H"],
    W_hy: Annotated[Array, "O H"],
    b_y: Annotated[Array, "O"],
) -> Annotated[Array, "T B O"]:
    """The linear readout at every step of a sequence (:eq:`eq-losses-readout`).

    Args:
        hs: hidden states, (T, B, H).
        W_hy: readout weights, (O, H).
        b_y: readout bias, (O,).

    Returns:
        The outputs y_t = W_hy h_t + b_y, (T, B, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    T, B, _ = hs.shape
    return vanilla.output.unchecked(rows(hs), W_hy, b_y).reshape((T, B, -1))  # (T, B, O)


@implements("eq-losses-readout-backward")
def linear_readout_backward(
    d_ys: Annotated[Array, "T B O"],
    hs: Annotated[Array, "T B H"],
    W_hy: Annotated[Array, "O H"],
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "O H"], Annotated[Array, "O"]]:
    """The derivatives of :func:`linear_readout` (:eq:`eq-losses-readout-backward`).

    Args:
        d_ys: ∂L/∂y_t at every step, (T, B, O).
        hs: hidden states, (T, B, H).
        W_hy: readout weights, (O, H).

    Returns:
        ``d_hs`` (T, B, H), what the outputs alone send back to each state; ``d_W_hy`` (O, H),
        ``d_b_y`` (O,), summed over time and batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_rows, d_W_hy, d_b_y = vanilla.output_backward.unchecked(rows(d_ys), rows(hs), W_hy)
    return d_rows.reshape(hs.shape), d_W_hy, d_b_y


# --- the mean over the rows that count ----------------------------------------------------------


@implements("eq-losses-masked-mean")
@checked_with(_check_mask)
def masked_mean(values: Annotated[Array, "N"], mask: Array | None = None) -> Annotated[Array, ""]:
    """The sum over the rows that count, over their number (:eq:`eq-losses-masked-mean`).

    Args:
        values: one number per row, (N,).
        mask: ones at the rows that count, zeros at the others, (N,), in the dtype of ``values``
            (:func:`rnnlib.unroll.mask_from_lengths` makes one); all rows count if None.

    Returns:
        The mean, a scalar. The rows that do not count have no influence, whatever they hold.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a mask with other entries
            than 0 and 1, or without a 1.
    """
    counted = values if mask is None else values[mask > 0]
    return backend_of(values).asarray(counted.mean(), like=values)


@implements("eq-losses-masked-mean-backward")
@checked_with(_check_mask)
def masked_mean_backward(
    d_mean: Annotated[Array, ""],
    values: Annotated[Array, "N"],
    mask: Array | None = None,
) -> Annotated[Array, "N"]:
    """The derivative of :func:`masked_mean` (:eq:`eq-losses-masked-mean-backward`).

    Args:
        d_mean: ∂L/∂mean, a scalar.
        values: one number per row, (N,); only how many there are matters.
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        ∂L/∂values, (N,), zero at the rows that do not count.

    Raises:
        TypeError, ValueError: as :func:`masked_mean`.
    """
    xp = backend_of(values)
    # 1 / n is a Python number: it takes the dtype of d_mean, and no float16 has to hold n.
    if mask is None:
        return xp.ones_like(values) * (d_mean * (1 / len(values)))
    here = mask > 0
    return xp.where(here, d_mean * (1 / int(here.sum())), xp.zeros_like(values))


# --- regression ---------------------------------------------------------------------------------


@implements("eq-losses-mse")
@checked_with(_check_mask)
def mean_squared_error(
    ys: Annotated[Array, "N O"],
    targets: Annotated[Array, "N O"],
    mask: Array | None = None,
) -> Annotated[Array, ""]:
    """The squared error, averaged over rows and outputs (:eq:`eq-losses-mse`).

    The mean runs over both axes, N·O numbers (with a mask: the counted rows times O), and has no
    factor 1/2.

    Args:
        ys: outputs, (N, O).
        targets: what they should be, (N, O).
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a mask as in
            :func:`masked_mean`.
    """
    errors = ys - targets  # (N, O)
    return masked_mean.unchecked((errors * errors).mean(1), mask)


@implements("eq-losses-mse-backward")
@checked_with(_check_mask)
def mean_squared_error_backward(
    d_loss: Annotated[Array, ""],
    ys: Annotated[Array, "N O"],
    targets: Annotated[Array, "N O"],
    mask: Array | None = None,
) -> Annotated[Array, "N O"]:
    """The derivative of :func:`mean_squared_error` (:eq:`eq-losses-mse-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        ys: outputs, (N, O).
        targets: what they should be, (N, O).
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        ∂L/∂ys, (N, O).

    Raises:
        TypeError, ValueError: as :func:`mean_squared_error`.
    """
    d_values = masked_mean_backward.unchecked(d_loss, ys[:, 0], mask)  # (N,)
    return d_values[:, None] * (2 / ys.shape[1]) * (ys - targets)  # (N, O)


# --- one of K classes ---------------------------------------------------------------------------


@implements("eq-losses-softmax")
def softmax(a: Annotated[Array, "N K"]) -> Annotated[Array, "N K"]:
    """Logits as probabilities: each row positive, with sum 1 (:eq:`eq-losses-softmax`).

    The largest logit of each row is subtracted first, which changes nothing but the overflow.

    Args:
        a: logits, (N, K).

    Returns:
        p = exp(a) / Σ exp(a), (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(a)
    e = xp.exp(a - xp.amax(a, 1)[:, None])  # (N, K)
    return e / e.sum(1)[:, None]  # (N, K)


@implements("eq-losses-softmax-backward")
def softmax_backward(
    d_p: Annotated[Array, "N K"],
    p: Annotated[Array, "N K"],
) -> Annotated[Array, "N K"]:
    """The local derivative of :func:`softmax` (:eq:`eq-losses-softmax-backward`).

    Args:
        d_p: ∂L/∂p, (N, K).
        p: the probabilities, (N, K).

    Returns:
        ∂L/∂a, (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return p * (d_p - (d_p * p).sum(1)[:, None])  # (N, K)


@implements("eq-losses-log-softmax")
def log_softmax(a: Annotated[Array, "N K"]) -> Annotated[Array, "N K"]:
    """The logarithm of :func:`softmax` (:eq:`eq-losses-log-softmax`).

    Finite where the probability itself is too small for a number.

    Args:
        a: logits, (N, K).

    Returns:
        log p = a - log Σ exp(a), (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(a)
    shifted = a - xp.amax(a, 1)[:, None]  # (N, K)
    return shifted - xp.log(xp.exp(shifted).sum(1))[:, None]  # (N, K)


@implements("eq-losses-log-softmax-backward")
def log_softmax_backward(
    d_log_p: Annotated[Array, "N K"],
    log_p: Annotated[Array, "N K"],
) -> Annotated[Array, "N K"]:
    """The local derivative of :func:`log_softmax` (:eq:`eq-losses-log-softmax-backward`).

    Args:
        d_log_p: ∂L/∂(log p), (N, K).
        log_p: the logarithms of the probabilities, (N, K).

    Returns:
        ∂L/∂a, (N, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_log_p - backend_of(log_p).exp(log_p) * d_log_p.sum(1)[:, None]  # (N, K)


@implements("eq-losses-cross-entropy")
@checked_with(_check_classes, _check_mask)
def cross_entropy(
    a: Annotated[Array, "N K"],
    targets: Array,
    mask: Array | None = None,
) -> Annotated[Array, ""]:
    """Minus the mean log-probability of the right classes (:eq:`eq-losses-cross-entropy`), in nats.

    Args:
        a: logits, (N, K).
        targets: the right class of each row, (N,), an integer array with entries from 0 to K-1;
            rows that do not count need one too, such as 0.
        mask: ones at the rows that count, zeros at the others, (N,), in the dtype of ``a``; all
            rows count if None.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; targets that are no
            integers or no classes; a mask as in :func:`masked_mean`.
    """
    xp = backend_of(a)
    log_p = log_softmax.unchecked(a)  # (N, K)
    right = targets[:, None] == xp.arange(a.shape[1], like=a)  # (N, K)
    return masked_mean.unchecked(-xp.where(right, log_p, xp.zeros_like(log_p)).sum(1), mask)


@implements("eq-losses-cross-entropy-backward")
@checked_with(_check_classes, _check_mask)
def cross_entropy_backward(
    d_loss: Annotated[Array, ""],
    a: Annotated[Array, "N K"],
    targets: Array,
    mask: Array | None = None,
) -> Annotated[Array, "N K"]:
    """The derivative of :func:`cross_entropy` (:eq:`eq-losses-cross-entropy-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        a: logits, (N, K).
        targets: the right class of each row, (N,), an integer array with entries from 0 to K-1.
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        ∂L/∂a, (N, K).

    Raises:
        TypeError, ValueError: as :func:`cross_entropy`.
    """
    xp = backend_of(a)
    p = softmax.unchecked(a)  # (N, K)
    right = targets[:, None] == xp.arange(a.shape[1], like=a)  # (N, K)
    # At the right class p - 1 is minus the sum of the others, which keeps its digits as p nears 1.
    others = xp.where(right, xp.zeros_like(p), p).sum(1)  # (N,)
    d_values = masked_mean_backward.unchecked(d_loss, others, mask)  # (N,)
    return d_values[:, None] * xp.where(right, -others[:, None], p)  # (N, K)


# --- yes or no ----------------------------------------------------------------------------------


@implements("eq-losses-binary-cross-entropy")
@checked_with(_check_probabilities, _check_mask)
def binary_cross_entropy(
    a: Annotated[Array, "N K"],
    targets: Array,
    mask: Array | None = None,
) -> Annotated[Array, ""]:
    """K independent yes-or-no questions per row, from logits (:eq:`eq-losses-binary-cross-entropy`).

    In nats, averaged over rows and questions. Computed from -log σ(a) = max(-a, 0) + log(1 +
    exp(-abs(a))), a sum of positive terms, and so without overflow or cancellation.

    Args:
        a: logits, (N, K): σ(a) is the probability of yes.
        targets: 1 for yes, 0 for no, or a probability between, (N, K), in the dtype of ``a``.
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; targets outside 0 to 1; a
            mask as in :func:`masked_mean`.
    """
    xp = backend_of(a)
    # Written with >= and not abs(a), whose derivative at 0 autograd takes to be 0.
    magnitude = xp.where(a >= 0, a, -a)  # (N, K)
    linear = xp.where(a >= 0, (1 - targets) * a, -targets * a)  # (N, K)
    return masked_mean.unchecked((linear + xp.log1p(xp.exp(-magnitude))).mean(1), mask)


@implements("eq-losses-binary-cross-entropy-backward")
@checked_with(_check_probabilities, _check_mask)
def binary_cross_entropy_backward(
    d_loss: Annotated[Array, ""],
    a: Annotated[Array, "N K"],
    targets: Array,
    mask: Array | None = None,
) -> Annotated[Array, "N K"]:
    """The derivative of :func:`binary_cross_entropy` (:eq:`eq-losses-binary-cross-entropy-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        a: logits, (N, K).
        targets: 1 for yes, 0 for no, or a probability between, (N, K).
        mask: ones at the rows that count, zeros at the others, (N,); all rows count if None.

    Returns:
        ∂L/∂a, (N, K).

    Raises:
        TypeError, ValueError: as :func:`binary_cross_entropy`.
    """
    d_values = masked_mean_backward.unchecked(d_loss, a[:, 0], mask)  # (N,)
    yes, no = activations.logistic.unchecked(a), activations.logistic.unchecked(-a)  # (N, K)
    # σ(a) - target, with σ(-a) for 1 - σ(a) so that no digit is lost at either end.
    return d_values[:, None] * (1 / a.shape[1]) * ((1 - targets) * yes - targets * no)  # (N, K)


# --- what a cross-entropy means -----------------------------------------------------------------


@implements("eq-losses-perplexity")
def perplexity(loss: Annotated[Array, ""]) -> Annotated[Array, ""]:
    """How many equally likely classes would be as hard to guess (:eq:`eq-losses-perplexity`).

    Args:
        loss: a mean cross-entropy in nats, a scalar.

    Returns:
        exp(loss), a scalar: 1 for a model that is right and certain, K for one to which all K are equal.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(loss)
    return xp.asarray(xp.exp(loss), like=loss)


@implements("eq-losses-perplexity-backward")
def perplexity_backward(
    d_perplexity: Annotated[Array, ""],
    loss: Annotated[Array, ""],
) -> Annotated[Array, ""]:
    """The local derivative of :func:`perplexity` (:eq:`eq-losses-perplexity-backward`).

    Args:
        d_perplexity: ∂L/∂perplexity, a scalar.
        loss: a mean cross-entropy in nats, a scalar.

    Returns:
        ∂L/∂loss, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(loss)
    return xp.asarray(d_perplexity * xp.exp(loss), like=loss)


@implements("eq-losses-bits")
def bits_per_symbol(loss: Annotated[Array, ""]) -> Annotated[Array, ""]:
    """The cross-entropy in bits (:eq:`eq-losses-bits`): the code length per symbol.

    Args:
        loss: a mean cross-entropy in nats, a scalar.

    Returns:
        loss / log 2, a scalar; log₂ of the perplexity.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(loss).asarray(loss / math.log(2), like=loss)


@implements("eq-losses-bits-backward")
def bits_per_symbol_backward(d_bits: Annotated[Array, ""]) -> Annotated[Array, ""]:
    """The local derivative of :func:`bits_per_symbol` (:eq:`eq-losses-bits-backward`).

    Args:
        d_bits: ∂L/∂bits, a scalar.

    Returns:
        ∂L/∂loss, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(d_bits).asarray(d_bits / math.log(2), like=d_bits)
