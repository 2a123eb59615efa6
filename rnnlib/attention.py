"""Floor 4, chapter 15: attention, a weighted mean over all steps of another sequence.

The T steps that ask (queries, from a decoder) look at the S steps that answer (keys and values, from an
encoder). In four stages: a score for every pair of steps, weights that are positive and sum to 1, the
context as a mean under these weights. Time comes first in every sequence: (T, B, …) and (S, B, …). Scores
and weights are (T, B, S), a row of S for every step that asks.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from rnnlib import losses
from rnnlib.backend import Array, backend_of, check_arrays, checked_with
from rnnlib.equations import implements

# --- scores -------------------------------------------------------------------------------------


@implements("eq-attention-additive")
def additive_scores(
    q: Annotated[Array, "T B Q"],
    k: Annotated[Array, "S B K"],
    W_q: Annotated[Array, "A Q"],
    W_k: Annotated[Array, "A K"],
    b_e: Annotated[Array, "A"],
    v_e: Annotated[Array, "A"],
) -> Annotated[Array, "T B S"]:
    """A score for every pair of steps, by a network of one layer (:eq:`eq-attention-additive`).

    Args:
        q: queries, the states that ask, (T, B, Q).
        k: keys, the states that are asked, (S, B, K).
        W_q: weights on a query, (A, Q).
        W_k: weights on a key, (A, K).
        b_e: bias, (A,).
        v_e: weights of the readout, (A,).

    Returns:
        e_ts = v_eᵀ tanh(W_q q_t + W_k k_s + b_e), (T, B, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.

    Bahdanau, Cho and Bengio (2015), with a bias.
    """
    return _alignment(q, k, W_q, W_k, b_e) @ v_e  # (T, B, S)


def _alignment(q: Array, k: Array, W_q: Array, W_k: Array, b_e: Array) -> Array:
    """The hidden units of the additive score, (T, B, S, A)."""
    xp = backend_of(q)
    asked = xp.einsum("sbk,ak->bsa", k, W_k) + b_e  # (B, S, A), once for all queries
    return xp.tanh((q @ W_q.T)[:, :, None] + asked)  # (T, B, S, A)


@implements("eq-attention-additive-backward")
def additive_scores_backward(
    d_e: Annotated[Array, "T B S"],
    q: Annotated[Array, "T B Q"],
    k: Annotated[Array, "S B K"],
    W_q: Annotated[Array, "A Q"],
    W_k: Annotated[Array, "A K"],
    b_e: Annotated[Array, "A"],
    v_e: Annotated[Array, "A"],
) -> tuple[
    Annotated[Array, "T B Q"],
    Annotated[Array, "S B K"],
    Annotated[Array, "A Q"],
    Annotated[Array, "A K"],
    Annotated[Array, "A"],
    Annotated[Array, "A"],
]:
    """The derivatives of :func:`additive_scores` (:eq:`eq-attention-additive-backward`).

    Args:
        d_e: ∂L/∂e, (T, B, S).
        q: queries, (T, B, Q).
        k: keys, (S, B, K).
        W_q: weights on a query, (A, Q).
        W_k: weights on a key, (A, K).
        b_e: bias, (A,).
        v_e: weights of the readout, (A,).

    Returns:
        The gradients of ``q``, ``k``, ``W_q``, ``W_k``, ``b_e`` and ``v_e``, each in its shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(q)
    n = _alignment(q, k, W_q, W_k, b_e)  # (T, B, S, A)
    d_a = d_e[..., None] * v_e * (1 - n * n)  # (T, B, S, A)
    of_query, of_key = d_a.sum(2), d_a.sum(0)  # (T, B, A), (B, S, A): a query meets all keys
    return (
        of_query @ W_q,  # (T, B, Q)
        xp.einsum("bsa,ak->sbk", of_key, W_k),  # (S, B, K)
        xp.einsum("tba,tbq->aq", of_query, q),  # (A, Q)
        xp.einsum("bsa,sbk->ak", of_key, k),  # (A, K)
        of_query.sum((0, 1)),  # (A,)
        xp.einsum("tbs,tbsa->a", d_e, n),  # (A,)
    )


@implements("eq-attention-dot")
def dot_scores(q: Annotated[Array, "T B K"], k: Annotated[Array, "S B K"]) -> Annotated[Array, "T B S"]:
    """A score for every pair of steps, their scaled dot product (:eq:`eq-attention-dot`).

    Args:
        q: queries, the states that ask, (T, B, K).
        k: keys, the states that are asked, (S, B, K).

    Returns:
        e_ts = q_tᵀ k_s / √K, (T, B, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.

    Vaswani et al. (2017).
    """
    return backend_of(q).einsum("tbk,sbk->tbs", q, k) * (1 / math.sqrt(q.shape[2]))  # (T, B, S)


@implements("eq-attention-dot-backward")
def dot_scores_backward(
    d_e: Annotated[Array, "T B S"],
    q: Annotated[Array, "T B K"],
    k: Annotated[Array, "S B K"],
) -> tuple[Annotated[Array, "T B K"], Annotated[Array, "S B K"]]:
    """The derivatives of :func:`dot_scores` (:eq:`eq-attention-dot-backward`).

    Args:
        d_e: ∂L/∂e, (T, B, S).
        q: queries, (T, B, K).
        k: keys, (S, B, K).

    Returns:
        ``d_q`` (T, B, K) and ``d_k`` (S, B, K).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(q)
    scaled = d_e * (1 / math.sqrt(q.shape[2]))  # (T, B, S)
    return xp.einsum("tbs,sbk->tbk", scaled, k), xp.einsum("tbs,tbk->sbk", scaled, q)


# --- weights and context ------------------------------------------------------------------------


def _check_sources(where: str, arguments: dict[str, Any]) -> None:
    """One mask entry per source step, each 0 or 1, at least one 1 in every sequence."""
    e, mask = arguments["e"], arguments["mask"]
    if mask is None:
        return
    check_arrays(where, [("e", e, "T B S"), ("mask", mask, "S B")])
    if backend_of(mask).extremes(mask) is None:
        return
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{where}: mask has entries other than 0 and 1, expected 1 at the steps that exist")
    steps = mask.sum(0).tolist()
    if 0 in steps:
        empty = steps.index(0)
        raise ValueError(
            f"{where}: mask is 0 at all {len(mask)} steps of sequence {empty}, expected at least one 1"
        )


@implements("eq-attention-weights")
@checked_with(_check_sources)
def attention_weights(e: Annotated[Array, "T B S"], mask: Array | None = None) -> Annotated[Array, "T B S"]:
    """Scores as weights, positive and with sum 1 over the source (:eq:`eq-attention-weights`).

    A step that the mask leaves out has the weight 0, exactly, whatever its score.

    Args:
        e: scores, (T, B, S).
        mask: ones at the source steps that exist, zeros behind the end of a sequence, (S, B), as from
            :func:`rnnlib.unroll.mask_from_lengths`; all exist if None.

    Returns:
        α, the softmax of the scores over the steps that exist, (T, B, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a mask with other entries than 0
            and 1, or with a sequence of no steps.
    """
    xp = backend_of(e)
    if mask is not None:
        # As low as finite numbers go: after the largest is taken out, the exponential of it is 0. An
        # infinity would do the same here, and give NaN in the derivative on torch.
        e = xp.where((mask > 0).T, e, xp.zeros_like(e) - xp.largest(e) / 2)
    return losses.softmax.unchecked(e.reshape((-1, e.shape[2]))).reshape(tuple(e.shape))  # (T, B, S)


@implements("eq-attention-weights-backward")
def attention_weights_backward(
    d_alpha: Annotated[Array, "T B S"], alpha: Annotated[Array, "T B S"]
) -> Annotated[Array, "T B S"]:
    """The local derivative of :func:`attention_weights` (:eq:`eq-attention-weights-backward`).

    It needs no mask: where the weight is 0, so is the gradient.

    Args:
        d_alpha: ∂L/∂α, (T, B, S).
        alpha: the weights, (T, B, S).

    Returns:
        ∂L/∂e, (T, B, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return alpha * (d_alpha - (d_alpha * alpha).sum(2)[:, :, None])  # (T, B, S)


@implements("eq-attention-context")
def context(alpha: Annotated[Array, "T B S"], v: Annotated[Array, "S B V"]) -> Annotated[Array, "T B V"]:
    """What a step that asks is told, the mean of the values under its weights (:eq:`eq-attention-context`).

    Args:
        alpha: the weights, (T, B, S).
        v: values, one at every source step, (S, B, V); often the keys themselves.

    Returns:
        c_t = Σ_s α_ts v_s, (T, B, V).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(v).einsum("tbs,sbv->tbv", alpha, v)  # (T, B, V)


@implements("eq-attention-context-backward")
def context_backward(
    d_c: Annotated[Array, "T B V"],
    alpha: Annotated[Array, "T B S"],
    v: Annotated[Array, "S B V"],
) -> tuple[Annotated[Array, "T B S"], Annotated[Array, "S B V"]]:
    """The derivatives of :func:`context` (:eq:`eq-attention-context-backward`).

    Args:
        d_c: ∂L/∂c_t at every step that asks, (T, B, V).
        alpha: the weights, (T, B, S).
        v: values, (S, B, V).

    Returns:
        ``d_alpha`` (T, B, S) and ``d_v`` (S, B, V).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(v)
    return xp.einsum("tbv,sbv->tbs", d_c, v), xp.einsum("tbs,tbv->sbv", alpha, d_c)
