"""The loops over time, written with operations that can be differentiated and mapped.

Nothing is overwritten here, so autograd can differentiate a backward loop once more, and ``vmap`` can
map both. The other modules of this package hold the same functions, faster.

Rows are those of :class:`rnnlib.engine.steps.Steps`: states are (B, H), what belongs to all steps is
(N, ·). A forward loop takes the inputs x (N, I) and all weights. A backward loop takes
``d_hs``, what comes from the outputs (None for zero), and ``d_h_n``, what comes from behind the last
step; it returns the gradients of the pre-activations, from which all others are products over all rows,
and of the initial state. The functions trust their input.
"""

from __future__ import annotations

from rnnlib.backend import Array, backend_of
from rnnlib.engine.steps import Steps, carry


def input_product(x: Array, W_ih: Array, bias: Array | None) -> Array:
    """What the inputs contribute to the pre-activations of all steps, ``a_x`` (N, ·): one product."""
    a_x = x @ W_ih.T
    return a_x if bias is None else a_x + bias


def rnn(
    steps: Steps, x: Array, h_0: Array, W_ih: Array, W_hh: Array, bias: Array | None, relu: bool
) -> tuple[Array]:
    """The states of the vanilla network, (N, H) (:eq:`eq-vanilla-hidden`)."""
    xp = backend_of(x)
    activation = xp.relu if relu else xp.tanh
    a_xs, h, hs = steps.split(input_product(x, W_ih, bias)), h_0, []
    for t in steps.walk:
        h_prev = steps.under_way(h, t)  # (B_t, H)
        h_t = activation(a_xs[t] + h_prev @ W_hh.T)  # (B_t, H)
        h = carry(h_t, h)
        hs.append(h_t)
    return (steps.join(hs),)


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h_n: Array, W_hh: Array, hs: Array, relu: bool
) -> tuple[Array, Array]:
    """``d_a`` (N, H) and ``d_h_0``."""
    xp = backend_of(hs)
    # σ' at the pre-activation, written with h = σ(a).
    slope = xp.where(hs <= 0, xp.zeros_like(hs), xp.ones_like(hs)) if relu else 1 - hs * hs  # (N, H)
    d_output = steps.split(xp.zeros_like(hs) if d_hs is None else d_hs)  # T of (B_t, H)
    slopes, d_h, walked = steps.split(slope), d_h_n, []
    for t in reversed(steps.walk):
        d_a_t = (steps.under_way(d_h, t) + d_output[t]) * slopes[t]  # (B_t, H)
        d_h = carry(d_a_t @ W_hh, d_h)
        walked.append(d_a_t)
    return steps.join(walked[::-1]), d_h


def lstm(
    steps: Steps,
    x: Array,
    h_0: Array,
    C_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    W_hr: Array | None = None,
) -> tuple[Array, Array, Array]:
    """``hs`` (N, H), ``Cs`` (N, H) and ``gates`` (N, 4H), i, f, C̃, o (:eq:`eq-lstm-memory`).

    With a projection W_hr (P, H) the state h is W_hr (o ⊙ tanh(C)) and has P entries.
    """
    xp, H = backend_of(x), C_0.shape[1]
    a_xs, h, C, hs, Cs, gates = steps.split(input_product(x, W_ih, bias)), h_0, C_0, [], [], []
    for t in steps.walk:
        h_prev, C_prev = steps.under_way(h, t), steps.under_way(C, t)
        a_t = a_xs[t] + h_prev @ W_hh.T  # (B_t, 4H)
        i_t, f_t, o_t = (xp.sigmoid(a_t[:, k * H : (k + 1) * H]) for k in (0, 1, 3))  # (B_t, H) each
        C_tilde = xp.tanh(a_t[:, 2 * H : 3 * H])  # (B_t, H)
        C_t = f_t * C_prev + i_t * C_tilde  # (B_t, H)
        h_t = o_t * xp.tanh(C_t)  # (B_t, H)
        if W_hr is not None:
            h_t = h_t @ W_hr.T  # (B_t, P)
        h, C = carry(h_t, h), carry(C_t, C)
        hs.append(h_t)
        Cs.append(C_t)
        gates.append(xp.concat([i_t, f_t, C_tilde, o_t], axis=1))  # (B_t, 4H)
    return steps.join(hs), steps.join(Cs), steps.join(gates)


def lstm_factors(steps: Steps, C_0: Array, gates: Array, Cs: Array) -> tuple[Array, Array]:
    """What ∂L/∂C_t is multiplied by for i, f, C̃, and ∂L/∂h_t for o, (N, 4H); ∂C_t from ∂h_t, (N, H)."""
    xp, H = backend_of(Cs), Cs.shape[1]
    i, f, C_tilde, o = (gates[:, k * H : (k + 1) * H] for k in range(4))  # (N, H) each
    C_prev, tanh_C = steps.states_before(C_0, Cs), xp.tanh(Cs)  # (N, H)
    slab = xp.concat(
        [C_tilde * i * (1 - i), C_prev * f * (1 - f), i * (1 - C_tilde * C_tilde), tanh_C * o * (1 - o)],
        axis=1,
    )  # (N, 4H)
    return slab, o * (1 - tanh_C * tanh_C)


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    d_C_n: Array,
    C_0: Array,
    W_hh: Array,
    gates: Array,
    Cs: Array,
    W_hr: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """``d_a`` (N, 4H), ``d_h_0``, ``d_C_0``, and ``d_h`` (N, H or P), the total ∂L/∂h_t of every step."""
    xp, H, N = backend_of(Cs), Cs.shape[1], Cs.shape[0]
    slab, C_from_h = lstm_factors(steps, C_0, gates, Cs)  # (N, 4H), (N, H)
    d_output = steps.split(xp.zeros((N, d_h_n.shape[1]), like=Cs) if d_hs is None else d_hs)
    slabs, Cs_from_h, fs = steps.split(slab), steps.split(C_from_h), steps.split(gates[:, H : 2 * H])
    d_h, d_C, walked, walked_h = d_h_n, d_C_n, [], []
    for t in reversed(steps.walk):
        d_h_t = steps.under_way(d_h, t) + d_output[t]  # (B_t, H or P)
        walked_h.append(d_h_t)
        if W_hr is not None:
            d_h_t = d_h_t @ W_hr  # (B_t, H), before the projection
        d_C_t = steps.under_way(d_C, t) + d_h_t * Cs_from_h[t]  # (B_t, H)
        d_a_t = slabs[t] * xp.concat([d_C_t, d_C_t, d_C_t, d_h_t], axis=1)  # (B_t, 4H)
        d_h, d_C = carry(d_a_t @ W_hh, d_h), carry(d_C_t * fs[t], d_C)
        walked.append(d_a_t)
    return steps.join(walked[::-1]), d_h, d_C, steps.join(walked_h[::-1])


# In torch's GRU z_t is the share that the old state keeps; in the notes' it is the share that the
# candidate gets. Below, z is torch's.


def gru(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    b_h: Array | None,
) -> tuple[Array, Array, Array]:
    """``hs`` (N, H), ``gates`` (N, 3H), r, z, h̃, and ``us`` (N, H), which the reset gate acts on.

    The reset acts after the product (:eq:`eq-gru-candidate-after`): u_t = W_h h_{t-1} + b_h, with the
    last H rows of W_hh. The other recurrent biases are in ``bias``.
    """
    xp, H = backend_of(x), h_0.shape[1]
    a_xs, h, hs, gates, us = steps.split(input_product(x, W_ih, bias)), h_0, [], [], []
    for t in steps.walk:
        h_prev, a_t = steps.under_way(h, t), a_xs[t]  # (B_t, H), (B_t, 3H)
        product = h_prev @ W_hh.T  # (B_t, 3H)
        r_t = xp.sigmoid(a_t[:, :H] + product[:, :H])  # (B_t, H)
        z_t = xp.sigmoid(a_t[:, H : 2 * H] + product[:, H : 2 * H])  # (B_t, H)
        u_t = product[:, 2 * H :] if b_h is None else product[:, 2 * H :] + b_h  # (B_t, H)
        h_tilde = xp.tanh(a_t[:, 2 * H :] + r_t * u_t)  # (B_t, H)
        h_t = (1 - z_t) * h_tilde + z_t * h_prev  # (B_t, H)
        h = carry(h_t, h)
        hs.append(h_t)
        gates.append(xp.concat([r_t, z_t, h_tilde], axis=1))  # (B_t, 3H)
        us.append(u_t)
    return steps.join(hs), steps.join(gates), steps.join(us)


def gru_factors(h_prev: Array, gates: Array, us: Array) -> tuple[Array, Array]:
    """What ∂L/∂h_t is multiplied by for r, z, h̃: on the side of the inputs, and of the recurrence."""
    xp, H = backend_of(gates), us.shape[1]
    r, z, h_tilde = (gates[:, k * H : (k + 1) * H] for k in range(3))  # (N, H) each
    to_a_h = (1 - z) * (1 - h_tilde * h_tilde)  # (N, H)
    to_a_r = to_a_h * us * r * (1 - r)  # (N, H)
    to_a_z = (h_prev - h_tilde) * z * (1 - z)  # (N, H)
    return to_a_h, xp.concat([to_a_r, to_a_z, to_a_h * r], axis=1)  # (N, H), (N, 3H)


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h_n: Array,
    h_0: Array,
    W_hh: Array,
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """``d_a`` (N, 3H) on the side of the inputs, ``d_u`` (N, H) and ``d_h_0``."""
    xp, H = backend_of(hs), hs.shape[1]
    to_a_h, slab = gru_factors(steps.states_before(h_0, hs), gates, us)  # (N, H), (N, 3H)
    d_output = steps.split(xp.zeros_like(hs) if d_hs is None else d_hs)  # T of (B_t, H)
    slabs, zs = steps.split(slab), steps.split(gates[:, H : 2 * H])
    d_h, walked, walked_h = d_h_n, [], []
    for t in reversed(steps.walk):
        d_h_t = steps.under_way(d_h, t) + d_output[t]  # (B_t, H)
        d_a_t = slabs[t] * xp.concat([d_h_t, d_h_t, d_h_t], axis=1)  # (B_t, 3H)
        d_h = carry(d_a_t @ W_hh + d_h_t * zs[t], d_h)
        walked.append(d_a_t)
        walked_h.append(d_h_t)
    d_a, d_h_all = steps.join(walked[::-1]), steps.join(walked_h[::-1])  # (N, 3H), (N, H)
    return xp.concat([d_a[:, : 2 * H], to_a_h * d_h_all], axis=1), d_a[:, 2 * H :], d_h


def gru_reset_before(
    steps: Steps, x: Array, h_0: Array, W_ih: Array, W_hh: Array, bias: Array | None
) -> tuple[Array, Array]:
    """``hs`` (N, H) and ``gates`` (N, 3H), r, z, h̃; the reset before the product (:eq:`eq-gru-candidate`)."""
    xp, H = backend_of(x), h_0.shape[1]
    W_gates, W_candidate = W_hh[: 2 * H], W_hh[2 * H :]  # (2H, H), (H, H)
    a_xs, h, hs, gates = steps.split(input_product(x, W_ih, bias)), h_0, [], []
    for t in steps.walk:
        h_prev, a_t = steps.under_way(h, t), a_xs[t]  # (B_t, H), (B_t, 3H)
        rz = xp.sigmoid(a_t[:, : 2 * H] + h_prev @ W_gates.T)  # (B_t, 2H)
        r_t, z_t = rz[:, :H], rz[:, H:]  # (B_t, H) each
        h_tilde = xp.tanh(a_t[:, 2 * H :] + (r_t * h_prev) @ W_candidate.T)  # (B_t, H)
        h_t = (1 - z_t) * h_tilde + z_t * h_prev  # (B_t, H)
        h = carry(h_t, h)
        hs.append(h_t)
        gates.append(xp.concat([rz, h_tilde], axis=1))  # (B_t, 3H)
    return steps.join(hs), steps.join(gates)


def gru_reset_before_factors(h_prev: Array, gates: Array) -> tuple[Array, Array, Array]:
    """What ∂L/∂h_t is multiplied by for h̃ and z, and ∂L/∂(r_t ⊙ h_{t-1}) for r; (N, H) each."""
    H = h_prev.shape[1]
    r, z, h_tilde = (gates[:, k * H : (k + 1) * H] for k in range(3))  # (N, H) each
    return (1 - z) * (1 - h_tilde * h_tilde), (h_prev - h_tilde) * z * (1 - z), h_prev * r * (1 - r)


def gru_reset_before_back(
    steps: Steps, d_hs: Array | None, d_h_n: Array, h_0: Array, W_hh: Array, gates: Array, hs: Array
) -> tuple[Array, Array]:
    """``d_a`` (N, 3H) and ``d_h_0``."""
    xp, H = backend_of(hs), hs.shape[1]
    W_gates, W_candidate = W_hh[: 2 * H], W_hh[2 * H :]  # (2H, H), (H, H)
    factors = gru_reset_before_factors(steps.states_before(h_0, hs), gates)
    to_a_hs, to_a_zs, to_a_rs = (steps.split(factor) for factor in factors)
    d_output = steps.split(xp.zeros_like(hs) if d_hs is None else d_hs)  # T of (B_t, H)
    rs, zs = steps.split(gates[:, :H]), steps.split(gates[:, H : 2 * H])
    d_h, walked = d_h_n, []
    for t in reversed(steps.walk):
        d_h_t = steps.under_way(d_h, t) + d_output[t]  # (B_t, H)
        d_a_h = d_h_t * to_a_hs[t]  # (B_t, H)
        d_reset = d_a_h @ W_candidate  # (B_t, H), the derivative by r_t ⊙ h_{t-1}
        d_gates = xp.concat([d_reset * to_a_rs[t], d_h_t * to_a_zs[t]], axis=1)  # (B_t, 2H)
        d_h = carry(d_gates @ W_gates + d_reset * rs[t] + d_h_t * zs[t], d_h)
        walked.append(xp.concat([d_gates, d_a_h], axis=1))  # (B_t, 3H)
    return steps.join(walked[::-1]), d_h
