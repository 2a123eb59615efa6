"""Floor 1, chapter 6: the gated recurrent unit (Cho et al. 2014, in the form of Chung et al. 2014).

    z_t = σ(W_z [h_{t-1}, x_t] + b_z)                update gate
    r_t = σ(W_r [h_{t-1}, x_t] + b_r)                reset gate
    h̃_t = tanh(W [r_t ⊙ h_{t-1}, x_t] + b)           candidate
    h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t

Here the reset gate acts before the recurrent product. torch.nn, cuDNN and Keras' default let it
act after the product (Cho et al. 2014, first version), which is another function of the same
parameters:

    h̃_t = tanh(W_x x_t + b_x + r_t ⊙ (W_h h_{t-1} + b_h))

They also write z for what is 1 - z here. Both cells below keep the z of the equations above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from rnnlib import activations
from rnnlib.backend import Array, backend_of, check_record
from rnnlib.cell import State, replace_unchecked
from rnnlib.engine.layers import GRU_LAYERS, Slabs
from rnnlib.equations import implements


@implements("eq-gru-preactivation")
def preactivation(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
    b: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """What every gate and the candidate apply their σ or tanh to (:eq:`eq-gru-preactivation`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H); for the candidate r_t ⊙ h_{t-1}.
        W: weights on [h_{t-1}, x_t], (H, H+I).
        b: bias, (H,).

    Returns:
        The pre-activation a_t = W [h_{t-1}, x_t] + b, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    hx = backend_of(x_t).concat([h_prev, x_t], axis=1)  # (B, H+I)
    return hx @ W.T + b  # (B, H)


@implements("eq-gru-preactivation-backward")
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
    """The local derivatives of :func:`preactivation` (:eq:`eq-gru-preactivation-backward`).

    Args:
        d_a_t: ∂L/∂a_t, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H); for the candidate r_t ⊙ h_{t-1}.
        W: weights on [h_{t-1}, x_t], (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W`` (H, H+I), ``d_b`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    H = h_prev.shape[1]
    d_hx = d_a_t @ W  # (B, H+I)
    d_W = d_a_t.T @ backend_of(x_t).concat([h_prev, x_t], axis=1)  # (H, H+I)
    return d_hx[:, H:], d_hx[:, :H], d_W, d_a_t.sum(0)


@implements("eq-gru-update")
def update_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_z: Annotated[Array, "H H+I"],
    b_z: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The update gate: how much of the candidate enters the state (:eq:`eq-gru-update`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_z: weights on [h_{t-1}, x_t], (H, H+I).
        b_z: bias, (H,).

    Returns:
        z_t = σ(W_z [h_{t-1}, x_t] + b_z), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return activations.logistic.unchecked(preactivation.unchecked(x_t, h_prev, W_z, b_z))  # (B, H)


@implements("eq-gru-update-backward")
def update_gate_backward(
    d_z_t: Annotated[Array, "B H"],
    a_z: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_z: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`update_gate` (:eq:`eq-gru-update-backward`).

    Args:
        d_z_t: ∂L/∂z_t, (B, H).
        a_z: the gate's pre-activation W_z [h_{t-1}, x_t] + b_z, (B, H): σ' is taken here.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_z: weights on [h_{t-1}, x_t], (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_z`` (H, H+I), ``d_b_z`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_z = d_z_t * activations.logistic_derivative.unchecked(a_z)  # (B, H)
    return preactivation_backward.unchecked(d_a_z, x_t, h_prev, W_z)


@implements("eq-gru-reset")
def reset_gate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_r: Annotated[Array, "H H+I"],
    b_r: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The reset gate: how much of the old state the candidate sees (:eq:`eq-gru-reset`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_r: weights on [h_{t-1}, x_t], (H, H+I).
        b_r: bias, (H,).

    Returns:
        r_t = σ(W_r [h_{t-1}, x_t] + b_r), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return activations.logistic.unchecked(preactivation.unchecked(x_t, h_prev, W_r, b_r))  # (B, H)


@implements("eq-gru-reset-backward")
def reset_gate_backward(
    d_r_t: Annotated[Array, "B H"],
    a_r: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_r: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`reset_gate` (:eq:`eq-gru-reset-backward`).

    Args:
        d_r_t: ∂L/∂r_t, (B, H).
        a_r: the gate's pre-activation W_r [h_{t-1}, x_t] + b_r, (B, H): σ' is taken here.
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        W_r: weights on [h_{t-1}, x_t], (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_W_r`` (H, H+I), ``d_b_r`` (H,); those of the
        parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_r = d_r_t * activations.logistic_derivative.unchecked(a_r)  # (B, H)
    return preactivation_backward.unchecked(d_a_r, x_t, h_prev, W_r)


@implements("eq-gru-candidate")
def candidate(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
    b: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The candidate state, with the reset before the product (:eq:`eq-gru-candidate`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W: weights on [r_t ⊙ h_{t-1}, x_t], (H, H+I).
        b: bias, (H,).

    Returns:
        h̃_t = tanh(W [r_t ⊙ h_{t-1}, x_t] + b), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return activations.tanh.unchecked(preactivation.unchecked(x_t, r_t * h_prev, W, b))  # (B, H)


@implements("eq-gru-candidate-backward")
def candidate_backward(
    d_h_tilde: Annotated[Array, "B H"],
    a_h: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W: Annotated[Array, "H H+I"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H H+I"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`candidate` (:eq:`eq-gru-candidate-backward`).

    Args:
        d_h_tilde: ∂L/∂h̃_t, (B, H).
        a_h: the candidate's pre-activation W [r_t ⊙ h_{t-1}, x_t] + b, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W: weights on [r_t ⊙ h_{t-1}, x_t], (H, H+I).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_r_t`` (B, H), ``d_W`` (H, H+I), ``d_b`` (H,);
        those of the parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_h = d_h_tilde * activations.tanh_derivative.unchecked(a_h)  # (B, H)
    d_x_t, d_rh, d_W, d_b = preactivation_backward.unchecked(d_a_h, x_t, r_t * h_prev, W)
    return d_x_t, d_rh * r_t, d_rh * h_prev, d_W, d_b


@implements("eq-gru-hidden")
def hidden_state(
    h_prev: Annotated[Array, "B H"],
    z_t: Annotated[Array, "B H"],
    h_tilde: Annotated[Array, "B H"],
) -> Annotated[Array, "B H"]:
    """The new state, between the old one and the candidate (:eq:`eq-gru-hidden`).

    Args:
        h_prev: hidden state h_{t-1}, (B, H).
        z_t: update gate, (B, H).
        h_tilde: candidate h̃_t, (B, H).

    Returns:
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return (1 - z_t) * h_prev + z_t * h_tilde  # (B, H)


@implements("eq-gru-hidden-backward")
def hidden_state_backward(
    d_h_t: Annotated[Array, "B H"],
    a_z: Annotated[Array, "B H"],
    h_prev: Annotated[Array, "B H"],
    h_tilde: Annotated[Array, "B H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """The local derivatives of :func:`hidden_state` (:eq:`eq-gru-hidden-backward`).

    Args:
        d_h_t: ∂L/∂h_t, (B, H).
        a_z: the update gate's pre-activation, (B, H). It gives 1 - z_t as σ(-a_z); the
            subtraction loses every digit where z_t rounds to 1.
        h_prev: hidden state h_{t-1}, (B, H).
        h_tilde: candidate h̃_t, (B, H).

    Returns:
        ``d_h_prev``, ``d_z_t``, ``d_h_tilde``, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_h_prev = d_h_t * activations.logistic.unchecked(-a_z)  # (B, H)
    d_z_t = d_h_t * (h_tilde - h_prev)  # (B, H)
    d_h_tilde = d_h_t * activations.logistic.unchecked(a_z)  # (B, H)
    return d_h_prev, d_z_t, d_h_tilde


class GRUCache(NamedTuple):
    """What one step of a :class:`GRUCell` saw and computed."""

    x_t: Array  # (B, I)
    h_prev: Array  # (B, H)
    a_z: Array  # (B, H)
    z_t: Array  # (B, H)
    a_r: Array  # (B, H)
    r_t: Array  # (B, H)
    a_h: Array  # (B, H)
    h_tilde: Array  # (B, H)
    h_t: Array  # (B, H)


@dataclass(frozen=True)
class GRUCell:
    """The parameters of a gated recurrent unit that resets before the product, and one step of it.

    Attributes:
        W_z: weights of the update gate on [h_{t-1}, x_t], (H, H+I).
        b_z: bias of the update gate, (H,).
        W_r: weights of the reset gate on [h_{t-1}, x_t], (H, H+I).
        b_r: bias of the reset gate, (H,).
        W: weights of the candidate on [r_t ⊙ h_{t-1}, x_t], (H, H+I).
        b: bias of the candidate, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_z: Annotated[Array, "H H+I"]
    b_z: Annotated[Array, "H"]
    W_r: Annotated[Array, "H H+I"]
    b_r: Annotated[Array, "H"]
    W: Annotated[Array, "H H+I"]
    b: Annotated[Array, "H"]

    state_names: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return int(self.W_z.shape[1] - self.W_z.shape[0])

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""
        return int(self.W_z.shape[0])

    def step(self, x_t: Array, state: State) -> tuple[State, GRUCache]:
        """One step of the recurrence; trusts its input.

        Args:
            x_t: input, (B, I).
            state: ``(h_{t-1},)``, (B, H).

        Returns:
            ``(h_t,)``, and what was computed on the way.
        """
        (h_prev,) = state
        # The way back needs the pre-activations, which the equations of the gates do not return.
        a_z = preactivation.unchecked(x_t, h_prev, self.W_z, self.b_z)  # (B, H)
        z_t = activations.logistic.unchecked(a_z)  # (B, H)
        a_r = preactivation.unchecked(x_t, h_prev, self.W_r, self.b_r)  # (B, H)
        r_t = activations.logistic.unchecked(a_r)  # (B, H)
        a_h = preactivation.unchecked(x_t, r_t * h_prev, self.W, self.b)  # (B, H)
        h_tilde = activations.tanh.unchecked(a_h)  # (B, H)
        h_t = hidden_state.unchecked(h_prev, z_t, h_tilde)  # (B, H)
        return (h_t,), GRUCache(x_t, h_prev, a_z, z_t, a_r, r_t, a_h, h_tilde, h_t)

    def step_backward(self, d_state: State, cache: GRUCache) -> tuple[Array, State, GRUCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        (d_h_t,) = d_state
        x_t, h_prev = cache.x_t, cache.h_prev
        d_h_carried, d_z_t, d_h_tilde = hidden_state_backward.unchecked(
            d_h_t, cache.a_z, h_prev, cache.h_tilde
        )
        d_x_h, d_h_h, d_r_t, d_W, d_b = candidate_backward.unchecked(
            d_h_tilde, cache.a_h, x_t, h_prev, cache.r_t, self.W
        )
        d_x_r, d_h_r, d_W_r, d_b_r = reset_gate_backward.unchecked(d_r_t, cache.a_r, x_t, h_prev, self.W_r)
        d_x_z, d_h_z, d_W_z, d_b_z = update_gate_backward.unchecked(d_z_t, cache.a_z, x_t, h_prev, self.W_z)
        d_x_t = d_x_h + d_x_r + d_x_z  # (B, I)
        d_h_prev = d_h_carried + d_h_h + d_h_r + d_h_z  # (B, H)
        d_cell = replace_unchecked(self, W_z=d_W_z, b_z=d_b_z, W_r=d_W_r, b_r=d_b_r, W=d_W, b=d_b)
        return d_x_t, (d_h_prev,), d_cell

    def slabs(self) -> Slabs:
        """The cell as :mod:`rnnlib.engine` computes it along many steps.

        The engine's z is the share that the old state keeps, 1 - z here. As σ(-a) = 1 - σ(a), its weights
        and their gradients change sign.
        """
        xp, H = backend_of(self.b), self.hidden_size
        W = xp.concat([self.W_r, -self.W_z, self.W])  # (3H, H+I)
        b = xp.concat([self.b_r, -self.b_z, self.b])  # (3H,)

        def gradients(d_W_x: Array, d_W_h: Array, d_b: Array, _: Array) -> GRUCell:
            d_W = xp.concat([d_W_h, d_W_x], axis=1)  # (3H, H+I)
            r, z, h = (slice(k * H, (k + 1) * H) for k in range(3))
            return replace_unchecked(
                self, W_r=d_W[r], b_r=d_b[r], W_z=-d_W[z], b_z=-d_b[z], W=d_W[h], b=d_b[h]
            )

        return Slabs(GRU_LAYERS[False], (W[:, H:], W[:, :H], b, xp.zeros_like(b)), gradients)


# --- the reset after the product ----------------------------------------------------------------


@implements("eq-gru-preactivation-after")
def preactivation_reset_after(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W_x: Annotated[Array, "H I"],
    b_x: Annotated[Array, "H"],
    W_h: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """The recurrent product, and what the reset leaves of it (:eq:`eq-gru-preactivation-after`).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W_x: input weights, (H, I).
        b_x: bias outside the reset, (H,).
        W_h: recurrent weights, (H, H).
        b_h: bias inside the reset, (H,).

    Returns:
        The recurrent part ``u_t`` = W_h h_{t-1} + b_h and the pre-activation
        ``a_h`` = W_x x_t + b_x + r_t ⊙ u_t, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    u_t = h_prev @ W_h.T + b_h  # (B, H)
    a_h = x_t @ W_x.T + b_x + r_t * u_t  # (B, H)
    return u_t, a_h


@implements("eq-gru-preactivation-after-backward")
def preactivation_reset_after_backward(
    d_a_h: Annotated[Array, "B H"],
    u_t: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W_x: Annotated[Array, "H I"],
    W_h: Annotated[Array, "H H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
    Annotated[Array, "H H"],
    Annotated[Array, "H"],
]:
    """The local derivatives of a_h with the reset after the product.

    See :func:`preactivation_reset_after` and :eq:`eq-gru-preactivation-after-backward`.

    Args:
        d_a_h: ∂L/∂a_h, (B, H).
        u_t: the recurrent part W_h h_{t-1} + b_h, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W_x: input weights, (H, I).
        W_h: recurrent weights, (H, H).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_r_t`` (B, H), ``d_W_x`` (H, I), ``d_b_x`` (H,),
        ``d_W_h`` (H, H), ``d_b_h`` (H,); those of the parameters are immediate derivatives,
        summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_u_t = d_a_h * r_t  # (B, H)
    d_x_t = d_a_h @ W_x  # (B, I)
    d_h_prev = d_u_t @ W_h  # (B, H)
    d_r_t = d_a_h * u_t  # (B, H)
    d_W_x = d_a_h.T @ x_t  # (H, I)
    d_W_h = d_u_t.T @ h_prev  # (H, H)
    return d_x_t, d_h_prev, d_r_t, d_W_x, d_a_h.sum(0), d_W_h, d_u_t.sum(0)


@implements("eq-gru-candidate-after")
def candidate_reset_after(
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W_x: Annotated[Array, "H I"],
    b_x: Annotated[Array, "H"],
    W_h: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
) -> Annotated[Array, "B H"]:
    """The candidate state, with the reset after the product (:eq:`eq-gru-candidate-after`).

    The form of torch.nn, cuDNN and Keras' ``reset_after=True`` (Cho et al. 2014, first version).

    Args:
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W_x: input weights, (H, I).
        b_x: bias outside the reset, (H,).
        W_h: recurrent weights, (H, H).
        b_h: bias inside the reset, (H,).

    Returns:
        h̃_t = tanh(W_x x_t + b_x + r_t ⊙ (W_h h_{t-1} + b_h)), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    _, a_h = preactivation_reset_after.unchecked(x_t, h_prev, r_t, W_x, b_x, W_h, b_h)
    return activations.tanh.unchecked(a_h)  # (B, H)


@implements("eq-gru-candidate-after-backward")
def candidate_reset_after_backward(
    d_h_tilde: Annotated[Array, "B H"],
    a_h: Annotated[Array, "B H"],
    u_t: Annotated[Array, "B H"],
    x_t: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    r_t: Annotated[Array, "B H"],
    W_x: Annotated[Array, "H I"],
    W_h: Annotated[Array, "H H"],
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H"],
    Annotated[Array, "H H"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`candidate_reset_after` (:eq:`eq-gru-candidate-after-backward`).

    Args:
        d_h_tilde: ∂L/∂h̃_t, (B, H).
        a_h: the candidate's pre-activation W_x x_t + b_x + r_t ⊙ u_t, (B, H).
        u_t: the recurrent part W_h h_{t-1} + b_h, (B, H).
        x_t: input at time t, (B, I).
        h_prev: hidden state h_{t-1}, (B, H).
        r_t: reset gate, (B, H).
        W_x: input weights, (H, I).
        W_h: recurrent weights, (H, H).

    Returns:
        ``d_x_t`` (B, I), ``d_h_prev`` (B, H), ``d_r_t`` (B, H), ``d_W_x`` (H, I), ``d_b_x`` (H,),
        ``d_W_h`` (H, H), ``d_b_h`` (H,); those of the parameters are immediate derivatives,
        summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d_a_h = d_h_tilde * activations.tanh_derivative.unchecked(a_h)  # (B, H)
    return preactivation_reset_after_backward.unchecked(d_a_h, u_t, x_t, h_prev, r_t, W_x, W_h)


class ResetAfterGRUCache(NamedTuple):
    """What one step of a :class:`ResetAfterGRUCell` saw and computed."""

    x_t: Array  # (B, I)
    h_prev: Array  # (B, H)
    a_z: Array  # (B, H)
    z_t: Array  # (B, H)
    a_r: Array  # (B, H)
    r_t: Array  # (B, H)
    u_t: Array  # (B, H)
    a_h: Array  # (B, H)
    h_tilde: Array  # (B, H)
    h_t: Array  # (B, H)


@dataclass(frozen=True)
class ResetAfterGRUCell:
    """The parameters of a gated recurrent unit that resets after the product, and one step of it.

    Attributes:
        W_z: weights of the update gate on [h_{t-1}, x_t], (H, H+I).
        b_z: bias of the update gate, (H,).
        W_r: weights of the reset gate on [h_{t-1}, x_t], (H, H+I).
        b_r: bias of the reset gate, (H,).
        W_x: input weights of the candidate, (H, I).
        b_x: bias of the candidate outside the reset, (H,).
        W_h: recurrent weights of the candidate, (H, H).
        b_h: bias of the candidate inside the reset, (H,).

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`).
    """

    W_z: Annotated[Array, "H H+I"]
    b_z: Annotated[Array, "H"]
    W_r: Annotated[Array, "H H+I"]
    b_r: Annotated[Array, "H"]
    W_x: Annotated[Array, "H I"]
    b_x: Annotated[Array, "H"]
    W_h: Annotated[Array, "H H"]
    b_h: Annotated[Array, "H"]

    state_names: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return int(self.W_x.shape[1])

    @property
    def hidden_size(self) -> int:
        """H, the number of hidden units."""
        return int(self.W_x.shape[0])

    def step(self, x_t: Array, state: State) -> tuple[State, ResetAfterGRUCache]:
        """One step of the recurrence; trusts its input.

        Args:
            x_t: input, (B, I).
            state: ``(h_{t-1},)``, (B, H).

        Returns:
            ``(h_t,)``, and what was computed on the way.
        """
        (h_prev,) = state
        a_z = preactivation.unchecked(x_t, h_prev, self.W_z, self.b_z)  # (B, H)
        z_t = activations.logistic.unchecked(a_z)  # (B, H)
        a_r = preactivation.unchecked(x_t, h_prev, self.W_r, self.b_r)  # (B, H)
        r_t = activations.logistic.unchecked(a_r)  # (B, H)
        u_t, a_h = preactivation_reset_after.unchecked(
            x_t, h_prev, r_t, self.W_x, self.b_x, self.W_h, self.b_h
        )
        h_tilde = activations.tanh.unchecked(a_h)  # (B, H)
        h_t = hidden_state.unchecked(h_prev, z_t, h_tilde)  # (B, H)
        return (h_t,), ResetAfterGRUCache(x_t, h_prev, a_z, z_t, a_r, r_t, u_t, a_h, h_tilde, h_t)

    def step_backward(
        self, d_state: State, cache: ResetAfterGRUCache
    ) -> tuple[Array, State, ResetAfterGRUCell]:
        """The same step backward; trusts its input (see :class:`rnnlib.cell.Cell`)."""
        (d_h_t,) = d_state
        x_t, h_prev = cache.x_t, cache.h_prev
        d_h_carried, d_z_t, d_h_tilde = hidden_state_backward.unchecked(
            d_h_t, cache.a_z, h_prev, cache.h_tilde
        )
        d_x_h, d_h_h, d_r_t, d_W_x, d_b_x, d_W_h, d_b_h = candidate_reset_after_backward.unchecked(
            d_h_tilde, cache.a_h, cache.u_t, x_t, h_prev, cache.r_t, self.W_x, self.W_h
        )
        d_x_r, d_h_r, d_W_r, d_b_r = reset_gate_backward.unchecked(d_r_t, cache.a_r, x_t, h_prev, self.W_r)
        d_x_z, d_h_z, d_W_z, d_b_z = update_gate_backward.unchecked(d_z_t, cache.a_z, x_t, h_prev, self.W_z)
        d_x_t = d_x_h + d_x_r + d_x_z  # (B, I)
        d_h_prev = d_h_carried + d_h_h + d_h_r + d_h_z  # (B, H)
        d_cell = replace_unchecked(
            self,
            W_z=d_W_z,
            b_z=d_b_z,
            W_r=d_W_r,
            b_r=d_b_r,
            W_x=d_W_x,
            b_x=d_b_x,
            W_h=d_W_h,
            b_h=d_b_h,
        )
        return d_x_t, (d_h_prev,), d_cell

    def slabs(self) -> Slabs:
        """The cell as :mod:`rnnlib.engine` computes it along many steps.

        The engine's z is the share that the old state keeps, 1 - z here. As σ(-a) = 1 - σ(a), its weights
        and their gradients change sign.
        """
        xp, H = backend_of(self.b_h), self.hidden_size
        W_x = xp.concat([self.W_r[:, H:], -self.W_z[:, H:], self.W_x])  # (3H, I)
        W_h = xp.concat([self.W_r[:, :H], -self.W_z[:, :H], self.W_h])  # (3H, H)
        zeros = xp.zeros_like(self.b_h)
        b_x, b_h = (
            xp.concat([self.b_r, -self.b_z, self.b_x]),
            xp.concat([zeros, zeros, self.b_h]),
        )  # (3H,) each

        def gradients(d_W_x: Array, d_W_h: Array, d_b_x: Array, d_b_h: Array) -> ResetAfterGRUCell:
            r, z, h = (slice(k * H, (k + 1) * H) for k in range(3))
            return replace_unchecked(
                self,
                W_r=xp.concat([d_W_h[r], d_W_x[r]], axis=1),
                W_z=-xp.concat([d_W_h[z], d_W_x[z]], axis=1),
                W_x=d_W_x[h],
                W_h=d_W_h[h],
                b_r=d_b_x[r],
                b_z=-d_b_x[z],
                b_x=d_b_x[h],
                b_h=d_b_h[h],
            )

        return Slabs(GRU_LAYERS[True], (W_x, W_h, b_x, b_h), gradients)
