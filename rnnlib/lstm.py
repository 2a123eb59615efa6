"""Floor 1, chapter 5: the LSTM (Hochreiter and Schmidhuber 1997, Gers et al. 2000) and its variants.

    f_t = σ(W_f [h_{t-1}, x_t] + b_f)
    i_t = σ(W_i [h_{t-1}, x_t] + b_i)
    C̃_t = tanh(W_C [h_{t-1}, x_t] + b_C)
    C_t = f_t ⊙ C_{t-1} + i_t ⊙ C̃_t
    o_t = σ(W_o [h_{t-1}, x_t] + b_o)
    h_t = o_t ⊙ tanh(C_t)

The equations are written for column vectors; arrays hold one example per row. A matrix such as
W_f = [W_hf, W_xf] acts on h_{t-1} with its first H columns and on x_t with the other I.

A variant is the LSTM with one stage exchanged: what a gate sees (peepholes, layer normalisation),
how the memory is written (coupled gates, no forget gate), what is shown of it (layer
normalisation). What it shares with the LSTM, it takes from the same functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from rnnlib import activations, normalisation
from rnnlib.backend import Array, backend_of, check_finite, check_number, check_record, checked
from rnnlib.cell import State, replace_unchecked
from rnnlib.engine.layers import LSTM_LAYERS, Slabs
from rnnlib.equations import implements

_logistic = activations.logistic.unchecked
_tanh = activations.tanh.unchecked
_logistic_derivative = activations.logistic_derivative.unchecked
_tanh_derivative = activations.tanh_derivative.unchecked


# --- the parameters, whole and split ----------------------------------------------------------


@checked
def split(W: Annotated[Array, "H J"]) -> tuple[Annotated[Array, "H H"], Annotated[Array, "H I"]]:
    """A matrix that acts on [h_{t-1}, x_t] as its two parts: W_f = [W_hf, W_xf].

    Args:
        W: weights of one gate or of the candidate, (H, H+I).

    Returns:
        The columns for h_{t-1}, (H, H), and those for x_t, (H, I); views, not copies.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no column for x_t.
    """
    H = W.shape[0]
    if not W.shape[1] > H:
        raise ValueError(f"split: W has shape {tuple(W.shape)}, expected (H, H+I) with I at least 1")
    return W[:, :H], W[:, H:]


@checked
def whole(W_h: Annotated[Array, "H H"], W_x: Annotated[Array, "H I"]) -> Annotated[Array, "H H+I"]:
    """The matrix that acts on [h_{t-1}, x_t], from its two parts: the inverse of :func:`split`.

    Args:
        W_h: the columns for h_{t-1}, (H, H).
        W_x: the columns for x_t, (H, I).

    Returns:
        [W_h, W_x], (H, H+I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(W_h).concat([W_h, W_x], axis=1)


# --- the equations ----------------------------------------------------------------------------


@implements("eq-lstm-preactivation")
def preactivation(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
    b: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """What each gate and the candidate see before they squash it (:eq:`eq-lstm-preactivation`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: weights W_f, W_i, W_C or W_o, (H, H+I).
        b: bias b_f, b_i, b_C or b_o, (H,).

    Returns:
        The pre-activation a_t = W [h_{t-1}, x_t] + b, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    seen = backend_of(x_t).concat([h_prev, x_t], axis=1)  # (B, H+I)
    return seen @ W.T + b  # (B, H)


@implements("eq-lstm-preactivation-backward")
def preactivation_backward(
    d_a_t: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`preactivation` (:eq:`eq-lstm-preactivation-backward`).

    Args:
        d_a_t: ∂L/∂a_t, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: weights W_f, W_i, W_C or W_o, (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W`` (H, H+I), ``d_b`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    H = h_prev.shape[1]
    seen = backend_of(x_t).concat([h_prev, x_t], axis=1)  # (B, H+I)
    d_seen = d_a_t @ W  # (B, H+I)
    return d_seen[:, H:], d_seen[:, :H], d_a_t.T @ seen, d_a_t.sum(0)


@implements("eq-lstm-forget")
def forget_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H H+I"],
    b_f: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The forget gate: which part of the memory is kept (:eq:`eq-lstm-forget`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_f: weights, (H, H+I).
        b_f: bias, (H,).

    Returns:
        f_t = σ(W_f [h_{t-1}, x_t] + b_f), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(preactivation.unchecked(x_t, h_prev, W_f, b_f))  # (B, H)


@implements("eq-lstm-forget-backward")
def forget_gate_backward(
    d_f_t: Annotated[Array, "B H"],
    a_f: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`forget_gate` (:eq:`eq-lstm-forget-backward`).

    Args:
        d_f_t: ∂L/∂f_t, (B, H).
        a_f: the pre-activation, (B, H), from :func:`preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_f: weights, (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_f`` (H, H+I), ``d_b_f`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return preactivation_backward.unchecked(d_f_t * _logistic_derivative(a_f), x_t, h_prev, W_f)


@implements("eq-lstm-input")
def input_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_i: Annotated[Array, "H H+I"],
    b_i: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The input gate: which part of the candidate is written (:eq:`eq-lstm-input`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_i: weights, (H, H+I).
        b_i: bias, (H,).

    Returns:
        i_t = σ(W_i [h_{t-1}, x_t] + b_i), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(preactivation.unchecked(x_t, h_prev, W_i, b_i))  # (B, H)


@implements("eq-lstm-input-backward")
def input_gate_backward(
    d_i_t: Annotated[Array, "B H"],
    a_i: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_i: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`input_gate` (:eq:`eq-lstm-input-backward`).

    Args:
        d_i_t: ∂L/∂i_t, (B, H).
        a_i: the pre-activation, (B, H), from :func:`preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_i: weights, (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_i`` (H, H+I), ``d_b_i`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return preactivation_backward.unchecked(d_i_t * _logistic_derivative(a_i), x_t, h_prev, W_i)


@implements("eq-lstm-candidate")
def candidate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_C: Annotated[Array, "H H+I"],
    b_C: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The candidate: what might be written to the memory (:eq:`eq-lstm-candidate`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_C: weights, (H, H+I).
        b_C: bias, (H,).

    Returns:
        C̃_t = tanh(W_C [h_{t-1}, x_t] + b_C), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _tanh(preactivation.unchecked(x_t, h_prev, W_C, b_C))  # (B, H)


@implements("eq-lstm-candidate-backward")
def candidate_backward(
    d_C_tilde: Annotated[Array, "B H"],
    a_C: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_C: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`candidate` (:eq:`eq-lstm-candidate-backward`).

    Args:
        d_C_tilde: ∂L/∂C̃_t, (B, H).
        a_C: the pre-activation, (B, H), from :func:`preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_C: weights, (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_C`` (H, H+I), ``d_b_C`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return preactivation_backward.unchecked(d_C_tilde * _tanh_derivative(a_C), x_t, h_prev, W_C)


@implements("eq-lstm-memory")
def memory(
    f_t: Annotated[Array, "B H"],
    C_prev: Annotated[Array, "B H"],
    i_t: Annotated[Array, "B H"],
    C_tilde: Annotated[Array, "B H"],
) -> Annotated[Array, "B H"]:
    """The memory: what is kept of it and what is written to it (:eq:`eq-lstm-memory`).

    Args:
        f_t: forget gate, (B, H).
        C_prev: memory C_{t-1}, (B, H).
        i_t: input gate, (B, H).
        C_tilde: candidate C̃_t, (B, H).

    Returns:
        C_t = f_t ⊙ C_{t-1} + i_t ⊙ C̃_t, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return f_t * C_prev + i_t * C_tilde  # (B, H)


@implements("eq-lstm-memory-backward")
def memory_backward(
    d_C_t: Annotated[Array, "B H"],
    f_t: Annotated[Array, "B H"],
    C_prev: Annotated[Array, "B H"],
    i_t: Annotated[Array, "B H"],
    C_tilde: Annotated[Array, "B H"],
) -> tuple[
    Annotated[Array, "B H"], Annotated[Array, "B H"], Annotated[Array, "B H"], Annotated[Array, "B H"]
]:
    """The local derivatives of :func:`memory` (:eq:`eq-lstm-memory-backward`).

    Args:
        d_C_t: ∂L/∂C_t, the total derivative (see :func:`memory_total`), (B, H).
        f_t: forget gate, (B, H).
        C_prev: memory C_{t-1}, (B, H).
        i_t: input gate, (B, H).
        C_tilde: candidate C̃_t, (B, H).

    Returns:
        ``d_f_t``, ``d_C_prev``, ``d_i_t``, ``d_C_tilde``, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_C_t * C_prev, d_C_t * f_t, d_C_t * C_tilde, d_C_t * i_t


@implements("eq-lstm-memory-total")
def memory_total(
    d_C_from_h: Annotated[Array, "B H"],
    d_C_from_next: Annotated[Array, "B H"],
) -> Annotated[Array, "B H"]:
    """The total derivative of the memory, from the two ways it acts on the loss (:eq:`eq-lstm-memory-total`).

    C_t is seen through h_t, and it is carried on to C_{t+1}; to leave out the first gives a wrong
    gradient at every step, to leave out the second at every step but the last.

    Args:
        d_C_from_h: what comes back through h_t, (B, H), from :func:`hidden_state_backward`.
        d_C_from_next: what comes back from C_{t+1}, (B, H): the ``d_C_prev`` that
            :func:`memory_backward` returned at step t+1, and 0 at the last step.

    Returns:
        ∂L/∂C_t, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_C_from_h + d_C_from_next  # (B, H)


@implements("eq-lstm-output")
def output_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_o: Annotated[Array, "H H+I"],
    b_o: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The output gate: which part of the memory is shown (:eq:`eq-lstm-output`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_o: weights, (H, H+I).
        b_o: bias, (H,).

    Returns:
        o_t = σ(W_o [h_{t-1}, x_t] + b_o), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(preactivation.unchecked(x_t, h_prev, W_o, b_o))  # (B, H)


@implements("eq-lstm-output-backward")
def output_gate_backward(
    d_o_t: Annotated[Array, "B H"],
    a_o: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_o: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`output_gate` (:eq:`eq-lstm-output-backward`).

    Args:
        d_o_t: ∂L/∂o_t, (B, H).
        a_o: the pre-activation, (B, H), from :func:`preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_o: weights, (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_o`` (H, H+I), ``d_b_o`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return preactivation_backward.unchecked(d_o_t * _logistic_derivative(a_o), x_t, h_prev, W_o)


@implements("eq-lstm-hidden")
def hidden_state(o_t: Annotated[Array, "B H"], C_t: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """The hidden state: what the output gate shows of the memory (:eq:`eq-lstm-hidden`).

    Args:
        o_t: output gate, (B, H).
        C_t: memory, (B, H).

    Returns:
        h_t = o_t ⊙ tanh(C_t), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return o_t * _tanh(C_t)  # (B, H)


@implements("eq-lstm-hidden-backward")
def hidden_state_backward(
    d_h_t: Annotated[Array, "B H"],
    o_t: Annotated[Array, "B H"],
    C_t: Annotated[Array, "B H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """The local derivatives of :func:`hidden_state` (:eq:`eq-lstm-hidden-backward`).

    Args:
        d_h_t: ∂L/∂h_t, (B, H).
        o_t: output gate, (B, H).
        C_t: memory, (B, H).

    Returns:
        ``d_o_t`` and ``d_C_from_h``, (B, H) each; the second is one of the two contributions to
        ∂L/∂C_t (see :func:`memory_total`).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_h_t * _tanh(C_t), d_h_t * o_t * _tanh_derivative(C_t)


# --- what the cells share ---------------------------------------------------------------------


class LSTMCache(NamedTuple):
    """What one step of a cell saw and computed."""

    x_t: Array  # (B, I)
    h_prev: Array  # (B, H)
    C_prev: Array  # (B, H)
    a_f: Array  # (B, H)
    a_i: Array  # (B, H)
    a_C: Array  # (B, H)
    a_o: Array  # (B, H)
    f_t: Array  # (B, H)
    i_t: Array  # (B, H)
    C_tilde: Array  # (B, H)
    o_t: Array  # (B, H)
    C_t: Array  # (B, H)
    h_t: Array  # (B, H)


class _Family:
    """The sizes and the state of a cell with a memory; every variant has W_C."""

    state_names: ClassVar[tuple[str, ...]] = ("h", "C")
    W_C: Array

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return int(self.W_C.shape[1] - self.W_C.shape[0])

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""
        return int(self.W_C.shape[0])


def _shown_backward(d_h_t: Array, cache: Any) -> tuple[Array, Array]:
    """From h_t back to what the output gate saw and to C_t: ``d_a_o, d_C_from_h``."""
    d_o_t, d_C_from_h = hidden_state_backward.unchecked(d_h_t, cache.o_t, cache.C_t)
    return d_o_t * _logistic_derivative(cache.a_o), d_C_from_h


def _written_backward(d_C_t: Array, cache: LSTMCache) -> tuple[Array, Array, Array, Array]:
    """From C_t back to what f, i and C̃ saw and to C_{t-1}: ``d_a_f, d_a_i, d_a_C, d_C_prev``."""
    d_f_t, d_C_prev, d_i_t, d_C_tilde = memory_backward.unchecked(
        d_C_t, cache.f_t, cache.C_prev, cache.i_t, cache.C_tilde
    )
    d_a_f = d_f_t * _logistic_derivative(cache.a_f)
    d_a_i = d_i_t * _logistic_derivative(cache.a_i)
    d_a_C = d_C_tilde * _tanh_derivative(cache.a_C)
    return d_a_f, d_a_i, d_a_C, d_C_prev


def _sum_over_gates(**gates: Sequence[Array]) -> tuple[Array, Array, dict[str, Array]]:
    """x_t and h_{t-1} reach every gate, so their derivatives add up; W and b are each gate's own.

    Args:
        gates: by the gate's letter, what :func:`preactivation_backward` returned.

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), and the derivatives of the parameters by name.
    """
    d_x_t: Array = sum(d_x for d_x, _, _, _ in gates.values())  # (B, I)
    d_h_prev: Array = sum(d_h for _, d_h, _, _ in gates.values())  # (B, H)
    d_W = {f"W_{gate}": d for gate, (_, _, d, _) in gates.items()}
    d_b = {f"b_{gate}": d for gate, (_, _, _, d) in gates.items()}
    return d_x_t, d_h_prev, d_W | d_b


# --- the cell ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LSTMCell(_Family):
    """The parameters of an LSTM (Hochreiter and Schmidhuber 1997, Gers et al. 2000), and one step of it.

    Attributes:
        W_f: weights of the forget gate, (H, H+I).
        W_i: weights of the input gate, (H, H+I).
        W_C: weights of the candidate, (H, H+I).
        W_o: weights of the output gate, (H, H+I).
        b_f: bias of the forget gate, (H,).
        b_i: bias of the input gate, (H,).
        b_C: bias of the candidate, (H,).
        b_o: bias of the output gate, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_f: Annotated[Array, "H H+I"]
    W_i: Annotated[Array, "H H+I"]
    W_C: Annotated[Array, "H H+I"]
    W_o: Annotated[Array, "H H+I"]
    b_f: Annotated[Array, "H"]
    b_i: Annotated[Array, "H"]
    b_C: Annotated[Array, "H"]
    b_o: Annotated[Array, "H"]

    def step(self, x_t: Array, state: State) -> tuple[State, LSTMCache]:
        """One step of the recurrence; trusts its input.

        Args:
            x_t: input, (B, I).
            state: ``(h_{t-1}, C_{t-1})``, (B, H) each.

        Returns:
            ``(h_t, C_t)``, and what was computed on the way.
        """
        h_prev, C_prev = state
        a_f = preactivation.unchecked(x_t, h_prev, self.W_f, self.b_f)  # (B, H)
        a_i = preactivation.unchecked(x_t, h_prev, self.W_i, self.b_i)  # (B, H)
        a_C = preactivation.unchecked(x_t, h_prev, self.W_C, self.b_C)  # (B, H)
        a_o = preactivation.unchecked(x_t, h_prev, self.W_o, self.b_o)  # (B, H)
        f_t, i_t, C_tilde, o_t = _logistic(a_f), _logistic(a_i), _tanh(a_C), _logistic(a_o)
        C_t = memory.unchecked(f_t, C_prev, i_t, C_tilde)
        h_t = hidden_state.unchecked(o_t, C_t)
        cache = LSTMCache(x_t, h_prev, C_prev, a_f, a_i, a_C, a_o, f_t, i_t, C_tilde, o_t, C_t, h_t)
        return (h_t, C_t), cache

    def step_backward(self, d_state: State, cache: LSTMCache) -> tuple[Array, State, LSTMCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        d_h_t, d_C_from_next = d_state
        x_t, h_prev = cache.x_t, cache.h_prev
        d_a_o, d_C_from_h = _shown_backward(d_h_t, cache)
        d_C_t = memory_total.unchecked(d_C_from_h, d_C_from_next)
        d_a_f, d_a_i, d_a_C, d_C_prev = _written_backward(d_C_t, cache)
        d_x_t, d_h_prev, d_parameters = _sum_over_gates(
            f=preactivation_backward.unchecked(d_a_f, x_t, h_prev, self.W_f),
            i=preactivation_backward.unchecked(d_a_i, x_t, h_prev, self.W_i),
            C=preactivation_backward.unchecked(d_a_C, x_t, h_prev, self.W_C),
            o=preactivation_backward.unchecked(d_a_o, x_t, h_prev, self.W_o),
        )
        return d_x_t, (d_h_prev, d_C_prev), replace_unchecked(self, **d_parameters)

    def slabs(self) -> Slabs:
        """The cell as :mod:`rnnlib.engine` computes it along many steps."""
        xp, H = backend_of(self.b_f), self.hidden_size
        W = xp.concat([self.W_i, self.W_f, self.W_C, self.W_o])  # (4H, H+I)
        b = xp.concat([self.b_i, self.b_f, self.b_C, self.b_o])  # (4H,)

        def gradients(d_W_x: Array, d_W_h: Array, d_b: Array, *_: Any) -> LSTMCell:
            d_W = xp.concat([d_W_h, d_W_x], axis=1)  # (4H, H+I)
            parts: dict[str, Array] = {}
            for k, gate in enumerate("ifCo"):
                rows = slice(k * H, (k + 1) * H)
                parts |= {f"W_{gate}": d_W[rows], f"b_{gate}": d_b[rows]}
            return replace_unchecked(self, **parts)

        return Slabs(LSTM_LAYERS[False], (W[:, H:], W[:, :H], b, xp.zeros_like(b), None), gradients)


# --- variant: peepholes -----------------------------------------------------------------------


@implements("eq-lstm-peephole-preactivation")
def peephole_preactivation(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
    b: Annotated[Array, "H"],
    C: Annotated[Array, "B H"],
    p: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """What a gate sees that may also look at the memory (:eq:`eq-lstm-peephole-preactivation`).

    Each unit looks at its own memory only: the peephole is a vector, not a matrix.

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: weights W_f, W_i or W_o, (H, H+I).
        b: bias b_f, b_i or b_o, (H,).
        C: the memory that the gate looks at, C_{t-1} or C_t, (B, H).
        p: peephole p_f, p_i or p_o, (H,).

    Returns:
        The pre-activation W [h_{t-1}, x_t] + p ⊙ C + b, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return preactivation.unchecked(x_t, h_prev, W, b) + p * C  # (B, H)


@implements("eq-lstm-peephole-preactivation-backward")
def peephole_preactivation_backward(
    d_a_t: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
    C: Annotated[Array, "B H"],
    p: Annotated[Array, "H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H"],
]:
    """The local derivatives of the peephole's sum (:eq:`eq-lstm-peephole-preactivation-backward`).

    Args:
        d_a_t: ∂L/∂a_t, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: weights W_f, W_i or W_o, (H, H+I).
        C: the memory that the gate looks at, C_{t-1} or C_t, (B, H).
        p: peephole p_f, p_i or p_o, (H,).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W`` (H, H+I), ``d_b`` (H,), ``d_C`` (B, H),
        ``d_p`` (H,); those of the parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_x_t, d_h_prev, d_W, d_b = preactivation_backward.unchecked(d_a_t, x_t, h_prev, W)
    return d_x_t, d_h_prev, d_W, d_b, d_a_t * p, (d_a_t * C).sum(0)


@implements("eq-lstm-peephole-forget")
def peephole_forget_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H H+I"],
    b_f: Annotated[Array, "H"],
    C_prev: Annotated[Array, "B H"],
    p_f: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The forget gate that looks at the memory before the step (:eq:`eq-lstm-peephole-forget`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_f: weights, (H, H+I).
        b_f: bias, (H,).
        C_prev: memory C_{t-1}, (B, H).
        p_f: peephole, (H,).

    Returns:
        f_t = σ(W_f [h_{t-1}, x_t] + p_f ⊙ C_{t-1} + b_f), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(peephole_preactivation.unchecked(x_t, h_prev, W_f, b_f, C_prev, p_f))  # (B, H)


@implements("eq-lstm-peephole-forget-backward")
def peephole_forget_gate_backward(
    d_f_t: Annotated[Array, "B H"],
    a_f: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_f: Annotated[Array, "H H+I"],
    C_prev: Annotated[Array, "B H"],
    p_f: Annotated[Array, "H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H"],
]:
    """The derivatives of :func:`peephole_forget_gate` (:eq:`eq-lstm-peephole-forget-backward`).

    Args:
        d_f_t: ∂L/∂f_t, (B, H).
        a_f: the pre-activation, (B, H), from :func:`peephole_preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_f: weights, (H, H+I).
        C_prev: memory C_{t-1}, (B, H).
        p_f: peephole, (H,).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_f`` (H, H+I), ``d_b_f`` (H,), ``d_C_prev``
        (B, H), ``d_p_f`` (H,); those of the parameters are immediate derivatives, summed over
        the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_f = d_f_t * _logistic_derivative(a_f)  # (B, H)
    return peephole_preactivation_backward.unchecked(d_a_f, x_t, h_prev, W_f, C_prev, p_f)


@implements("eq-lstm-peephole-input")
def peephole_input_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_i: Annotated[Array, "H H+I"],
    b_i: Annotated[Array, "H"],
    C_prev: Annotated[Array, "B H"],
    p_i: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The input gate that looks at the memory before the step (:eq:`eq-lstm-peephole-input`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_i: weights, (H, H+I).
        b_i: bias, (H,).
        C_prev: memory C_{t-1}, (B, H).
        p_i: peephole, (H,).

    Returns:
        i_t = σ(W_i [h_{t-1}, x_t] + p_i ⊙ C_{t-1} + b_i), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(peephole_preactivation.unchecked(x_t, h_prev, W_i, b_i, C_prev, p_i))  # (B, H)


@implements("eq-lstm-peephole-input-backward")
def peephole_input_gate_backward(
    d_i_t: Annotated[Array, "B H"],
    a_i: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_i: Annotated[Array, "H H+I"],
    C_prev: Annotated[Array, "B H"],
    p_i: Annotated[Array, "H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H"],
]:
    """The derivatives of :func:`peephole_input_gate` (:eq:`eq-lstm-peephole-input-backward`).

    Args:
        d_i_t: ∂L/∂i_t, (B, H).
        a_i: the pre-activation, (B, H), from :func:`peephole_preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_i: weights, (H, H+I).
        C_prev: memory C_{t-1}, (B, H).
        p_i: peephole, (H,).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_i`` (H, H+I), ``d_b_i`` (H,), ``d_C_prev``
        (B, H), ``d_p_i`` (H,); those of the parameters are immediate derivatives, summed over
        the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_i = d_i_t * _logistic_derivative(a_i)  # (B, H)
    return peephole_preactivation_backward.unchecked(d_a_i, x_t, h_prev, W_i, C_prev, p_i)


@implements("eq-lstm-peephole-output")
def peephole_output_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_o: Annotated[Array, "H H+I"],
    b_o: Annotated[Array, "H"],
    C_t: Annotated[Array, "B H"],
    p_o: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The output gate that looks at the memory just written (:eq:`eq-lstm-peephole-output`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_o: weights, (H, H+I).
        b_o: bias, (H,).
        C_t: memory C_t, (B, H).
        p_o: peephole, (H,).

    Returns:
        o_t = σ(W_o [h_{t-1}, x_t] + p_o ⊙ C_t + b_o), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(peephole_preactivation.unchecked(x_t, h_prev, W_o, b_o, C_t, p_o))  # (B, H)


@implements("eq-lstm-peephole-output-backward")
def peephole_output_gate_backward(
    d_o_t: Annotated[Array, "B H"],
    a_o: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_o: Annotated[Array, "H H+I"],
    C_t: Annotated[Array, "B H"],
    p_o: Annotated[Array, "H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H"],
]:
    """The derivatives of :func:`peephole_output_gate` (:eq:`eq-lstm-peephole-output-backward`).

    Args:
        d_o_t: ∂L/∂o_t, (B, H).
        a_o: the pre-activation, (B, H), from :func:`peephole_preactivation`.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_o: weights, (H, H+I).
        C_t: memory C_t, (B, H).
        p_o: peephole, (H,).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_o`` (H, H+I), ``d_b_o`` (H,), ``d_C_t``
        (B, H), ``d_p_o`` (H,); those of the parameters are immediate derivatives, summed over
        the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_o = d_o_t * _logistic_derivative(a_o)  # (B, H)
    return peephole_preactivation_backward.unchecked(d_a_o, x_t, h_prev, W_o, C_t, p_o)


@dataclass(frozen=True)
class PeepholeLSTMCell(_Family):
    """The parameters of an LSTM whose gates look at the memory (Gers and Schmidhuber 2000, Gers et al. 2002).

    The forget and the input gate look at C_{t-1}, the output gate at C_t. With all peepholes 0 it
    is an :class:`LSTMCell`.

    Attributes:
        W_f: weights of the forget gate, (H, H+I).
        W_i: weights of the input gate, (H, H+I).
        W_C: weights of the candidate, (H, H+I).
        W_o: weights of the output gate, (H, H+I).
        b_f: bias of the forget gate, (H,).
        b_i: bias of the input gate, (H,).
        b_C: bias of the candidate, (H,).
        b_o: bias of the output gate, (H,).
        p_f: peephole of the forget gate, (H,).
        p_i: peephole of the input gate, (H,).
        p_o: peephole of the output gate, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_f: Annotated[Array, "H H+I"]
    W_i: Annotated[Array, "H H+I"]
    W_C: Annotated[Array, "H H+I"]
    W_o: Annotated[Array, "H H+I"]
    b_f: Annotated[Array, "H"]
    b_i: Annotated[Array, "H"]
    b_C: Annotated[Array, "H"]
    b_o: Annotated[Array, "H"]
    p_f: Annotated[Array, "H"]
    p_i: Annotated[Array, "H"]
    p_o: Annotated[Array, "H"]

    def step(self, x_t: Array, state: State) -> tuple[State, LSTMCache]:
        """One step of the recurrence; trusts its input (see :meth:`LSTMCell.step`)."""
        h_prev, C_prev = state
        a_f = peephole_preactivation.unchecked(x_t, h_prev, self.W_f, self.b_f, C_prev, self.p_f)  # (B, H)
        a_i = peephole_preactivation.unchecked(x_t, h_prev, self.W_i, self.b_i, C_prev, self.p_i)  # (B, H)
        a_C = preactivation.unchecked(x_t, h_prev, self.W_C, self.b_C)  # (B, H)
        f_t, i_t, C_tilde = _logistic(a_f), _logistic(a_i), _tanh(a_C)
        C_t = memory.unchecked(f_t, C_prev, i_t, C_tilde)
        a_o = peephole_preactivation.unchecked(x_t, h_prev, self.W_o, self.b_o, C_t, self.p_o)  # (B, H)
        o_t = _logistic(a_o)
        h_t = hidden_state.unchecked(o_t, C_t)
        cache = LSTMCache(x_t, h_prev, C_prev, a_f, a_i, a_C, a_o, f_t, i_t, C_tilde, o_t, C_t, h_t)
        return (h_t, C_t), cache

    def step_backward(self, d_state: State, cache: LSTMCache) -> tuple[Array, State, PeepholeLSTMCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        d_h_t, d_C_from_next = d_state
        x_t, h_prev, C_prev, C_t = cache.x_t, cache.h_prev, cache.C_prev, cache.C_t
        gate_backward = peephole_preactivation_backward.unchecked
        d_a_o, d_C_from_h = _shown_backward(d_h_t, cache)
        *o, d_C_from_o, d_p_o = gate_backward(d_a_o, x_t, h_prev, self.W_o, C_t, self.p_o)
        # h_t depends on C_t twice: through tanh, and through the output gate that looks at it.
        d_C_t = memory_total.unchecked(d_C_from_h + d_C_from_o, d_C_from_next)
        d_a_f, d_a_i, d_a_C, d_C_from_memory = _written_backward(d_C_t, cache)
        *f, d_C_from_f, d_p_f = gate_backward(d_a_f, x_t, h_prev, self.W_f, C_prev, self.p_f)
        *i, d_C_from_i, d_p_i = gate_backward(d_a_i, x_t, h_prev, self.W_i, C_prev, self.p_i)
        C = preactivation_backward.unchecked(d_a_C, x_t, h_prev, self.W_C)
        d_x_t, d_h_prev, d_parameters = _sum_over_gates(f=f, i=i, C=C, o=o)
        d_C_prev = d_C_from_memory + d_C_from_f + d_C_from_i  # (B, H)
        d_cell = replace_unchecked(self, **d_parameters, p_f=d_p_f, p_i=d_p_i, p_o=d_p_o)
        return d_x_t, (d_h_prev, d_C_prev), d_cell


# --- variant: coupled gates -------------------------------------------------------------------


@implements("eq-lstm-coupled-input")
def coupled_input_gate(a_f: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """The input gate that writes just as much as is forgotten (:eq:`eq-lstm-coupled-input`).

    Written as σ(-a_f): 1 - f_t loses every digit where f_t rounds to 1.

    Args:
        a_f: the forget gate's pre-activation, (B, H), from :func:`preactivation`.

    Returns:
        i_t = 1 - f_t = σ(-a_f), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _logistic(-a_f)  # (B, H)


@implements("eq-lstm-coupled-input-backward")
def coupled_input_gate_backward(
    d_i_t: Annotated[Array, "B H"], a_f: Annotated[Array, "B H"]
) -> Annotated[Array, "B H"]:
    """The local derivative of :func:`coupled_input_gate` (:eq:`eq-lstm-coupled-input-backward`).

    Args:
        d_i_t: ∂L/∂i_t, (B, H).
        a_f: the forget gate's pre-activation, (B, H).

    Returns:
        The input gate's share of ∂L/∂a_f, -∂L/∂i_t ⊙ σ'(a_f), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return -d_i_t * _logistic_derivative(a_f)  # (B, H)


@dataclass(frozen=True)
class CoupledLSTMCell(_Family):
    """The parameters of an LSTM with i_t = 1 - f_t (Greff et al. 2017, there "CIFG"), and one step of it.

    It is the :class:`LSTMCell` with W_i = -W_f and b_i = -b_f. Greff et al. keep the input gate's
    parameters and set f_t = 1 - i_t, which is the same up to their sign, and add peepholes.

    Attributes:
        W_f: weights of the forget gate, (H, H+I).
        W_C: weights of the candidate, (H, H+I).
        W_o: weights of the output gate, (H, H+I).
        b_f: bias of the forget gate, (H,).
        b_C: bias of the candidate, (H,).
        b_o: bias of the output gate, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_f: Annotated[Array, "H H+I"]
    W_C: Annotated[Array, "H H+I"]
    W_o: Annotated[Array, "H H+I"]
    b_f: Annotated[Array, "H"]
    b_C: Annotated[Array, "H"]
    b_o: Annotated[Array, "H"]

    def step(self, x_t: Array, state: State) -> tuple[State, LSTMCache]:
        """One step of the recurrence; trusts its input (see :meth:`LSTMCell.step`)."""
        h_prev, C_prev = state
        a_f = preactivation.unchecked(x_t, h_prev, self.W_f, self.b_f)  # (B, H)
        a_C = preactivation.unchecked(x_t, h_prev, self.W_C, self.b_C)  # (B, H)
        a_o = preactivation.unchecked(x_t, h_prev, self.W_o, self.b_o)  # (B, H)
        f_t, i_t, C_tilde, o_t = _logistic(a_f), coupled_input_gate.unchecked(a_f), _tanh(a_C), _logistic(a_o)
        C_t = memory.unchecked(f_t, C_prev, i_t, C_tilde)
        h_t = hidden_state.unchecked(o_t, C_t)
        cache = LSTMCache(x_t, h_prev, C_prev, a_f, -a_f, a_C, a_o, f_t, i_t, C_tilde, o_t, C_t, h_t)
        return (h_t, C_t), cache

    def step_backward(self, d_state: State, cache: LSTMCache) -> tuple[Array, State, CoupledLSTMCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        d_h_t, d_C_from_next = d_state
        x_t, h_prev = cache.x_t, cache.h_prev
        d_a_o, d_C_from_h = _shown_backward(d_h_t, cache)
        d_C_t = memory_total.unchecked(d_C_from_h, d_C_from_next)
        d_a_f, d_a_i, d_a_C, d_C_prev = _written_backward(d_C_t, cache)
        d_x_t, d_h_prev, d_parameters = _sum_over_gates(
            f=preactivation_backward.unchecked(d_a_f - d_a_i, x_t, h_prev, self.W_f),  # a_i = -a_f
            C=preactivation_backward.unchecked(d_a_C, x_t, h_prev, self.W_C),
            o=preactivation_backward.unchecked(d_a_o, x_t, h_prev, self.W_o),
        )
        return d_x_t, (d_h_prev, d_C_prev), replace_unchecked(self, **d_parameters)


# --- variant: no forget gate ------------------------------------------------------------------


@implements("eq-lstm-noforget-memory")
def noforget_memory(
    C_prev: Annotated[Array, "B H"],
    i_t: Annotated[Array, "B H"],
    C_tilde: Annotated[Array, "B H"],
) -> Annotated[Array, "B H"]:
    """The memory of 1997, to which is only added (:eq:`eq-lstm-noforget-memory`).

    Args:
        C_prev: memory C_{t-1}, (B, H).
        i_t: input gate, (B, H).
        C_tilde: candidate C̃_t, (B, H).

    Returns:
        C_t = C_{t-1} + i_t ⊙ C̃_t, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return C_prev + i_t * C_tilde  # (B, H)


@implements("eq-lstm-noforget-memory-backward")
def noforget_memory_backward(
    d_C_t: Annotated[Array, "B H"],
    i_t: Annotated[Array, "B H"],
    C_tilde: Annotated[Array, "B H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """The local derivatives of :func:`noforget_memory` (:eq:`eq-lstm-noforget-memory-backward`).

    ∂L/∂C_t goes back unchanged: Hochreiter and Schmidhuber's "constant error carousel".

    Args:
        d_C_t: ∂L/∂C_t, the total derivative (see :func:`memory_total`), (B, H).
        i_t: input gate, (B, H).
        C_tilde: candidate C̃_t, (B, H).

    Returns:
        ``d_C_prev``, ``d_i_t``, ``d_C_tilde``, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_C_t, d_C_t * C_tilde, d_C_t * i_t


class NoForgetLSTMCache(NamedTuple):
    """What one step of a :class:`NoForgetLSTMCell` saw and computed."""

    x_t: Array  # (B, I)
    h_prev: Array  # (B, H)
    C_prev: Array  # (B, H)
    a_i: Array  # (B, H)
    a_C: Array  # (B, H)
    a_o: Array  # (B, H)
    i_t: Array  # (B, H)
    C_tilde: Array  # (B, H)
    o_t: Array  # (B, H)
    C_t: Array  # (B, H)
    h_t: Array  # (B, H)


@dataclass(frozen=True)
class NoForgetLSTMCell(_Family):
    """The parameters of an LSTM without forget gate (Hochreiter and Schmidhuber 1997), and one step of it.

    The original squashes otherwise: its candidate is 4σ(a) - 2 = 2 tanh(a/2), in (-2, 2), and its
    memory is shown through 2σ(C) - 1 = tanh(C/2). Here both are tanh, as in the
    :class:`LSTMCell`. The original also lets several memories share a pair of gates, and its
    learning rule drops what goes back to h_{t-1}; :meth:`step_backward` is the full gradient.

    Attributes:
        W_i: weights of the input gate, (H, H+I).
        W_C: weights of the candidate, (H, H+I).
        W_o: weights of the output gate, (H, H+I).
        b_i: bias of the input gate, (H,).
        b_C: bias of the candidate, (H,).
        b_o: bias of the output gate, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_i: Annotated[Array, "H H+I"]
    W_C: Annotated[Array, "H H+I"]
    W_o: Annotated[Array, "H H+I"]
    b_i: Annotated[Array, "H"]
    b_C: Annotated[Array, "H"]
    b_o: Annotated[Array, "H"]

    def step(self, x_t: Array, state: State) -> tuple[State, NoForgetLSTMCache]:
        """One step of the recurrence; trusts its input (see :meth:`LSTMCell.step`)."""
        h_prev, C_prev = state
        a_i = preactivation.unchecked(x_t, h_prev, self.W_i, self.b_i)  # (B, H)
        a_C = preactivation.unchecked(x_t, h_prev, self.W_C, self.b_C)  # (B, H)
        a_o = preactivation.unchecked(x_t, h_prev, self.W_o, self.b_o)  # (B, H)
        i_t, C_tilde, o_t = _logistic(a_i), _tanh(a_C), _logistic(a_o)
        C_t = noforget_memory.unchecked(C_prev, i_t, C_tilde)
        h_t = hidden_state.unchecked(o_t, C_t)
        cache = NoForgetLSTMCache(x_t, h_prev, C_prev, a_i, a_C, a_o, i_t, C_tilde, o_t, C_t, h_t)
        return (h_t, C_t), cache

    def step_backward(
        self, d_state: State, cache: NoForgetLSTMCache
    ) -> tuple[Array, State, NoForgetLSTMCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        d_h_t, d_C_from_next = d_state
        x_t, h_prev = cache.x_t, cache.h_prev
        d_a_o, d_C_from_h = _shown_backward(d_h_t, cache)
        d_C_t = memory_total.unchecked(d_C_from_h, d_C_from_next)
        d_C_prev, d_i_t, d_C_tilde = noforget_memory_backward.unchecked(d_C_t, cache.i_t, cache.C_tilde)
        d_x_t, d_h_prev, d_parameters = _sum_over_gates(
            i=input_gate_backward.unchecked(d_i_t, cache.a_i, x_t, h_prev, self.W_i),
            C=candidate_backward.unchecked(d_C_tilde, cache.a_C, x_t, h_prev, self.W_C),
            o=preactivation_backward.unchecked(d_a_o, x_t, h_prev, self.W_o),
        )
        return d_x_t, (d_h_prev, d_C_prev), replace_unchecked(self, **d_parameters)


# --- variant: layer normalisation -------------------------------------------------------------


@implements("eq-lstm-layernorm-preactivation")
def layernorm_preactivation(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "4H H+I"],
    b: Annotated[Array, "4H"],
    alpha_h: Annotated[Array, "4H"],
    beta_h: Annotated[Array, "4H"],
    alpha_x: Annotated[Array, "4H"],
    beta_x: Annotated[Array, "4H"],
    epsilon: Annotated[float, check_number] = normalisation.EPSILON,
) -> Annotated[Array, "B 4H"]:
    """What all four gates see, normalised (:eq:`eq-lstm-layernorm-preactivation`).

    The contributions of h_{t-1} and of x_t are normalised separately, each over all 4H entries
    at once and not gate by gate, as Ba et al. (2016) write it. Their sum then gets the bias b.

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: W_f, W_i, W_C and W_o one below the other, [W_h, W_x], (4H, H+I).
        b: b_f, b_i, b_C and b_o one after the other, (4H,).
        alpha_h: gain of the recurrent contribution, (4H,).
        beta_h: bias of the recurrent contribution, (4H,).
        alpha_x: gain of the input's contribution, (4H,).
        beta_x: bias of the input's contribution, (4H,).
        epsilon: ε, added to the variances, finite and above 0.

    Returns:
        a_t = LN(W_h h_{t-1}; α_h, β_h) + LN(W_x x_t; α_x, β_x) + b, (B, 4H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    H = h_prev.shape[1]
    layer_norm = normalisation.layer_norm.unchecked
    from_h = layer_norm(h_prev @ W[:, :H].T, alpha_h, beta_h, epsilon)  # (B, 4H)
    from_x = layer_norm(x_t @ W[:, H:].T, alpha_x, beta_x, epsilon)  # (B, 4H)
    return from_h + from_x + b


@implements("eq-lstm-layernorm-preactivation-backward")
def layernorm_preactivation_backward(
    d_a_t: Annotated[Array, "B 4H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "4H H+I"],
    alpha_h: Annotated[Array, "4H"],
    alpha_x: Annotated[Array, "4H"],
    epsilon: Annotated[float, check_number] = normalisation.EPSILON,
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "4H H+I"],
    Annotated[Array, "4H"],
    Annotated[Array, "4H"],
    Annotated[Array, "4H"],
    Annotated[Array, "4H"],
    Annotated[Array, "4H"],
]:
    """The derivatives of the normalised sum (:eq:`eq-lstm-layernorm-preactivation-backward`).

    Args:
        d_a_t: ∂L/∂a_t, (B, 4H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W: W_f, W_i, W_C and W_o one below the other, (4H, H+I).
        alpha_h: gain of the recurrent contribution, (4H,).
        alpha_x: gain of the input's contribution, (4H,).
        epsilon: ε, added to the variances, finite and above 0.

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W`` (4H, H+I), and ``d_b``, ``d_alpha_h``,
        ``d_beta_h``, ``d_alpha_x``, ``d_beta_x``, (4H,) each; those of the parameters are
        immediate derivatives, summed over the batch. The three biases only act as a sum, so
        their derivatives are equal.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    H = h_prev.shape[1]
    W_h, W_x = W[:, :H], W[:, H:]  # (4H, H), (4H, I)
    layer_norm_backward = normalisation.layer_norm_backward.unchecked
    d_from_h, d_alpha_h, d_beta_h = layer_norm_backward(d_a_t, h_prev @ W_h.T, alpha_h, epsilon)
    d_from_x, d_alpha_x, d_beta_x = layer_norm_backward(d_a_t, x_t @ W_x.T, alpha_x, epsilon)
    d_W = backend_of(x_t).concat([d_from_h.T @ h_prev, d_from_x.T @ x_t], axis=1)  # (4H, H+I)
    d_x_t, d_h_prev = d_from_x @ W_x, d_from_h @ W_h  # (B, I), (B, H)
    return d_x_t, d_h_prev, d_W, d_a_t.sum(0), d_alpha_h, d_beta_h, d_alpha_x, d_beta_x


@implements("eq-lstm-layernorm-hidden")
def layernorm_hidden_state(
    o_t: Annotated[Array, "B H"],
    C_t: Annotated[Array, "B H"],
    alpha_C: Annotated[Array, "H"],
    beta_C: Annotated[Array, "H"],
    epsilon: Annotated[float, check_number] = normalisation.EPSILON,
) -> Annotated[Array, "B H"]:
    """The hidden state from the normalised memory (:eq:`eq-lstm-layernorm-hidden`).

    Only what is shown is normalised; C_t itself is carried on as it is.

    Args:
        o_t: output gate, (B, H).
        C_t: memory, (B, H).
        alpha_C: gain, (H,).
        beta_C: bias, (H,).
        epsilon: ε, added to the variance, finite and above 0.

    Returns:
        h_t = o_t ⊙ tanh(LN(C_t; α_C, β_C)), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    return hidden_state.unchecked(o_t, normalisation.layer_norm.unchecked(C_t, alpha_C, beta_C, epsilon))


@implements("eq-lstm-layernorm-hidden-backward")
def layernorm_hidden_state_backward(
    d_h_t: Annotated[Array, "B H"],
    o_t: Annotated[Array, "B H"],
    C_t: Annotated[Array, "B H"],
    alpha_C: Annotated[Array, "H"],
    beta_C: Annotated[Array, "H"],
    epsilon: Annotated[float, check_number] = normalisation.EPSILON,
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"], Annotated[Array, "H"], Annotated[Array, "H"]]:
    """The derivatives of :func:`layernorm_hidden_state` (:eq:`eq-lstm-layernorm-hidden-backward`).

    Args:
        d_h_t: ∂L/∂h_t, (B, H).
        o_t: output gate, (B, H).
        C_t: memory, (B, H).
        alpha_C: gain, (H,).
        beta_C: bias, (H,).
        epsilon: ε, added to the variance, finite and above 0.

    Returns:
        ``d_o_t`` and ``d_C_from_h``, (B, H) each, ``d_alpha_C`` and ``d_beta_C``, (H,) each;
        those of the parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    shown = normalisation.layer_norm.unchecked(C_t, alpha_C, beta_C, epsilon)  # (B, H)
    d_o_t, d_shown = hidden_state_backward.unchecked(d_h_t, o_t, shown)
    return d_o_t, *normalisation.layer_norm_backward.unchecked(d_shown, C_t, alpha_C, epsilon)


@dataclass(frozen=True)
class LayerNormLSTMCell(_Family):
    """The parameters of an LSTM with layer normalisation (Ba et al. 2016, supplement), and one step of it.

    Three normalisations: of W_h h_{t-1} and of W_x x_t, each over the 4H entries of all gates,
    and of C_t on its way to tanh. The bias b, β_h and β_x act as their sum; all three are kept
    because the paper has them.

    Attributes:
        W_f: weights of the forget gate, (H, H+I).
        W_i: weights of the input gate, (H, H+I).
        W_C: weights of the candidate, (H, H+I).
        W_o: weights of the output gate, (H, H+I).
        b_f: bias of the forget gate, (H,).
        b_i: bias of the input gate, (H,).
        b_C: bias of the candidate, (H,).
        b_o: bias of the output gate, (H,).
        alpha_h: gain of the recurrent contribution, (4H,), in the order f, i, C, o.
        beta_h: bias of the recurrent contribution, (4H,).
        alpha_x: gain of the input's contribution, (4H,), in the order f, i, C, o.
        beta_x: bias of the input's contribution, (4H,).
        alpha_C: gain of the memory, (H,).
        beta_C: bias of the memory, (H,).
        epsilon: ε, added to the variances, finite and above 0.

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`); an ε that is not above 0.
    """

    W_f: Annotated[Array, "H H+I"]
    W_i: Annotated[Array, "H H+I"]
    W_C: Annotated[Array, "H H+I"]
    W_o: Annotated[Array, "H H+I"]
    b_f: Annotated[Array, "H"]
    b_i: Annotated[Array, "H"]
    b_C: Annotated[Array, "H"]
    b_o: Annotated[Array, "H"]
    alpha_h: Annotated[Array, "4H"]
    beta_h: Annotated[Array, "4H"]
    alpha_x: Annotated[Array, "4H"]
    beta_x: Annotated[Array, "4H"]
    alpha_C: Annotated[Array, "H"]
    beta_C: Annotated[Array, "H"]
    epsilon: Annotated[float, check_number] = normalisation.EPSILON

    def step(self, x_t: Array, state: State) -> tuple[State, LSTMCache]:
        """One step of the recurrence; trusts its input (see :meth:`LSTMCell.step`)."""
        h_prev, C_prev = state
        W, b = stacked(self)
        a_t = layernorm_preactivation.unchecked(
            x_t, h_prev, W, b, self.alpha_h, self.beta_h, self.alpha_x, self.beta_x, self.epsilon
        )  # (B, 4H)
        a_f, a_i, a_C, a_o = (rows.T for rows in _quarters(a_t.T))  # (B, H)
        f_t, i_t, C_tilde, o_t = _logistic(a_f), _logistic(a_i), _tanh(a_C), _logistic(a_o)
        C_t = memory.unchecked(f_t, C_prev, i_t, C_tilde)
        h_t = layernorm_hidden_state.unchecked(o_t, C_t, self.alpha_C, self.beta_C, self.epsilon)
        cache = LSTMCache(x_t, h_prev, C_prev, a_f, a_i, a_C, a_o, f_t, i_t, C_tilde, o_t, C_t, h_t)
        return (h_t, C_t), cache

    def step_backward(self, d_state: State, cache: LSTMCache) -> tuple[Array, State, LayerNormLSTMCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        d_h_t, d_C_from_next = d_state
        d_o_t, d_C_from_h, d_alpha_C, d_beta_C = layernorm_hidden_state_backward.unchecked(
            d_h_t, cache.o_t, cache.C_t, self.alpha_C, self.beta_C, self.epsilon
        )
        d_a_o = d_o_t * _logistic_derivative(cache.a_o)
        d_C_t = memory_total.unchecked(d_C_from_h, d_C_from_next)
        d_a_f, d_a_i, d_a_C, d_C_prev = _written_backward(d_C_t, cache)
        d_a_t = backend_of(d_h_t).concat([d_a_f, d_a_i, d_a_C, d_a_o], axis=1)  # (B, 4H)
        W, _ = stacked(self)
        d_x_t, d_h_prev, d_W, d_b, d_alpha_h, d_beta_h, d_alpha_x, d_beta_x = (
            layernorm_preactivation_backward.unchecked(
                d_a_t, cache.x_t, cache.h_prev, W, self.alpha_h, self.alpha_x, self.epsilon
            )
        )
        d_W_f, d_W_i, d_W_C, d_W_o = _quarters(d_W)  # (H, H+I)
        d_b_f, d_b_i, d_b_C, d_b_o = _quarters(d_b)  # (H,)
        d_cell = replace_unchecked(
            self,
            W_f=d_W_f,
            W_i=d_W_i,
            W_C=d_W_C,
            W_o=d_W_o,
            b_f=d_b_f,
            b_i=d_b_i,
            b_C=d_b_C,
            b_o=d_b_o,
            alpha_h=d_alpha_h,
            beta_h=d_beta_h,
            alpha_x=d_alpha_x,
            beta_x=d_beta_x,
            alpha_C=d_alpha_C,
            beta_C=d_beta_C,
        )
        return d_x_t, (d_h_prev, d_C_prev), d_cell


# --- the four gates side by side, and the forget gate's bias ----------------------------------


def stacked(cell: LSTMCell | PeepholeLSTMCell | LayerNormLSTMCell) -> tuple[Array, Array]:
    """The four gates one below the other, in the order f, i, C, o: one product serves them all.

    Args:
        cell: a cell with all four gates.

    Returns:
        W (4H, H+I) and b (4H,).

    Raises:
        TypeError: a cell without all four gates.
    """
    if not isinstance(cell, LSTMCell | PeepholeLSTMCell | LayerNormLSTMCell):
        raise TypeError(
            f"stacked: cell is a {type(cell).__name__}, expected an LSTMCell, a PeepholeLSTMCell or a "
            "LayerNormLSTMCell"
        )
    xp = backend_of(cell.W_C)
    W = xp.concat([cell.W_f, cell.W_i, cell.W_C, cell.W_o])  # (4H, H+I)
    b = xp.concat([cell.b_f, cell.b_i, cell.b_C, cell.b_o])  # (4H,)
    return W, b


def _quarters(rows: Array) -> tuple[Array, Array, Array, Array]:
    """The rows of f, i, C and o in what :func:`stacked` put together."""
    H = rows.shape[0] // 4
    return rows[:H], rows[H : 2 * H], rows[2 * H : 3 * H], rows[3 * H :]


ForgettingT = TypeVar("ForgettingT", LSTMCell, PeepholeLSTMCell, CoupledLSTMCell, LayerNormLSTMCell)


def with_forget_bias(cell: ForgettingT, bias: float) -> ForgettingT:
    """The same cell with every entry of b_f set to one number.

    At b_f = 0 and small weights f_t is near 1/2, and the memory halves at every step. A bias of 1
    or 2 lets a new cell remember (Gers et al. 2000; Jozefowicz et al. 2015 recommend 1).

    Args:
        cell: a cell with a forget gate.
        bias: the new entries of b_f, finite.

    Returns:
        A cell of the same type that shares all other arrays.

    Raises:
        TypeError: a cell without a forget gate; a bias that is no number.
        ValueError: a bias that is not finite.
    """
    if not isinstance(cell, LSTMCell | PeepholeLSTMCell | CoupledLSTMCell | LayerNormLSTMCell):
        raise TypeError(
            f"with_forget_bias: cell is a {type(cell).__name__}, expected an LSTM cell with a forget gate"
        )
    bias = check_finite("with_forget_bias", "bias", bias)
    return dataclasses.replace(cell, b_f=bias * backend_of(cell.b_f).ones_like(cell.b_f))
