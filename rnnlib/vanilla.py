"""Floor 1, chapter 1: the vanilla recurrent network (Elman 1990).

    a_t = W_hh h_{t-1} + W_xh x_t + b_h
    h_t = σ(a_t)
    y_t = W_hy h_t + b_y

The equations are written for column vectors; arrays hold one example per row, so the code reads
``h_prev @ W_hh.T``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from rnnlib import activations
from rnnlib.activations import Activation
from rnnlib.backend import Array, backend_of, check_record
from rnnlib.cell import State, replace_unchecked
from rnnlib.engine.layers import RNN_LAYERS, Slabs
from rnnlib.equations import implements


@implements("eq-vanilla-preactivation")
def preactivation(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_xh: Annotated[Array, "H I"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """What the network is about to remember, before σ (:eq:`eq-vanilla-preactivation`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_xh: input weights, (H, I).
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).

    Returns:
        The pre-activation a_t = W_hh h_{t-1} + W_xh x_t + b_h, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return h_prev @ W_hh.T + x_t @ W_xh.T + b_h  # (B, H)


@implements("eq-vanilla-preactivation-backward")
def preactivation_backward(
    d_a_t: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_xh: Annotated[Array, "H I"],
    W_hh: Annotated[Array, "H H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H H"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`preactivation` (:eq:`eq-vanilla-preactivation-backward`).

    Args:
        d_a_t: ∂L/∂a_t, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_xh: input weights, (H, I).
        W_hh: recurrent weights, (H, H).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_xh`` (H, I), ``d_W_hh`` (H, H), ``d_b_h``
        (H,); those of the parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_x_t = d_a_t @ W_xh  # (B, I)
    d_h_prev = d_a_t @ W_hh  # (B, H)
    d_W_xh = d_a_t.T @ x_t  # (H, I)
    d_W_hh = d_a_t.T @ h_prev  # (H, H)
    d_b_h = d_a_t.sum(0)  # (H,)
    return d_x_t, d_h_prev, d_W_xh, d_W_hh, d_b_h


@implements("eq-vanilla-hidden")
def hidden_state(a_t: Annotated[Array, "B H"], activation: Activation = "tanh") -> Annotated[Array, "B H"]:
    """The hidden state from the pre-activation (:eq:`eq-vanilla-hidden`).

    Args:
        a_t: pre-activation, (B, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        The hidden state h_t = σ(a_t), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    return activations.apply(activation, a_t)  # (B, H)


@implements("eq-vanilla-hidden-backward")
def hidden_state_backward(
    d_h_t: Annotated[Array, "B H"],
    a_t: Annotated[Array, "B H"],
    activation: Activation = "tanh",
) -> Annotated[Array, "B H"]:
    """The local derivative of :func:`hidden_state` (:eq:`eq-vanilla-hidden-backward`).

    Args:
        d_h_t: ∂L/∂h_t, (B, H).
        a_t: pre-activation, (B, H): σ' is taken here, not at h_t.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        ∂L/∂a_t = ∂L/∂h_t ⊙ σ'(a_t), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    return d_h_t * activations.apply_derivative(activation, a_t)  # (B, H)


@implements("eq-vanilla-output")
def output(
    h_t: Annotated[Array, "B H"],
    W_hy: Annotated[Array, "O H"],
    b_y: Annotated[Array, "O"],
) -> Annotated[Array, "B O"]:
    """The linear readout of the hidden state (:eq:`eq-vanilla-output`).

    Args:
        h_t: hidden state, (B, H).
        W_hy: readout weights, (O, H).
        b_y: readout bias, (O,).

    Returns:
        The output y_t = W_hy h_t + b_y, (B, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return h_t @ W_hy.T + b_y  # (B, O)


@implements("eq-vanilla-output-backward")
def output_backward(
    d_y_t: Annotated[Array, "B O"],
    h_t: Annotated[Array, "B H"],
    W_hy: Annotated[Array, "O H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "O H"], Annotated[Array, "O"]]:
    """The local derivatives of :func:`output` (:eq:`eq-vanilla-output-backward`).

    Args:
        d_y_t: ∂L/∂y_t, (B, O).
        h_t: hidden state, (B, H).
        W_hy: readout weights, (O, H).

    Returns:
        ``d_h_t`` (B, H), ``d_W_hy`` (O, H), ``d_b_y`` (O,); those of the parameters are
        immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_y_t @ W_hy, d_y_t.T @ h_t, d_y_t.sum(0)


class VanillaCache(NamedTuple):
    """What one step of a :class:`VanillaCell` saw and computed."""

    x_t: Array  # (B, I)
    h_prev: Array  # (B, H)
    a_t: Array  # (B, H)
    h_t: Array  # (B, H)


@dataclass(frozen=True)
class VanillaCell:
    """The parameters of a vanilla recurrent network, and one step of it.

    Attributes:
        W_xh: input weights, (H, I).
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`); an unknown activation.
    """

    W_xh: Annotated[Array, "H I"]
    W_hh: Annotated[Array, "H H"]
    b_h: Annotated[Array, "H"]
    activation: Activation = "tanh"

    state_names: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return int(self.W_xh.shape[1])

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""
        return int(self.W_xh.shape[0])

    def step(self, x_t: Array, state: State) -> tuple[State, VanillaCache]:
        """One step of the recurrence; trusts its input.

        Args:
            x_t: input, (B, I).
            state: ``(h_{t-1},)``, (B, H).

        Returns:
            ``(h_t,)``, and what was computed on the way.
        """
        (h_prev,) = state
        a_t = preactivation.unchecked(x_t, h_prev, self.W_xh, self.W_hh, self.b_h)  # (B, H)
        h_t = hidden_state.unchecked(a_t, self.activation)  # (B, H)
        return (h_t,), VanillaCache(x_t, h_prev, a_t, h_t)

    def step_backward(self, d_state: State, cache: VanillaCache) -> tuple[Array, State, VanillaCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        (d_h_t,) = d_state
        d_a_t = hidden_state_backward.unchecked(d_h_t, cache.a_t, self.activation)  # (B, H)
        d_x_t, d_h_prev, d_W_xh, d_W_hh, d_b_h = preactivation_backward.unchecked(
            d_a_t, cache.x_t, cache.h_prev, self.W_xh, self.W_hh
        )
        return d_x_t, (d_h_prev,), replace_unchecked(self, W_xh=d_W_xh, W_hh=d_W_hh, b_h=d_b_h)

    def slabs(self) -> Slabs | None:
        """The cell as :mod:`rnnlib.engine` computes it along many steps."""
        if self.activation not in RNN_LAYERS:
            return None
        weights = (self.W_xh, self.W_hh, self.b_h, backend_of(self.b_h).zeros_like(self.b_h))

        def gradients(d_W_xh: Array, d_W_hh: Array, d_b_h: Array, _: Array) -> VanillaCell:
            return replace_unchecked(self, W_xh=d_W_xh, W_hh=d_W_hh, b_h=d_b_h)

        return Slabs(RNN_LAYERS[self.activation], weights, gradients)
