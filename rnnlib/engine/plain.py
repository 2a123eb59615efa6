"""The loops over time in place: as few operations for each step as there can be, and no new arrays.

The functions are those of :mod:`rnnlib.engine.differentiable`, and return the same. The forward ones
write it to ``out``; the backward ones turn ``d_h`` and ``d_C``, the gradients of the last states, into
those of the initial ones. Nothing else that was given to them is overwritten. Every operation writes into
a row of an array that exists for all steps, so on a GPU a loop can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnlib.backend import Array, backend_of
from rnnlib.engine.differentiable import gru_factors, gru_reset_before_factors
from rnnlib.engine.steps import Steps, carry


def whole(steps: Steps) -> bool:
    """Whether a forward loop takes all steps at once: not here, a block of them stays in the cache."""
    return False


def whole_back(steps: Steps) -> bool:
    """Whether a backward loop takes all steps at once: not here either."""
    return False


def prepared_back(W_hh: Array, products: Sequence[tuple[int, int]], steps: Steps) -> Array:
    """The recurrent weights as the backward loops take them: as they are."""
    return W_hh


def input_product(x: Array, W_ih: Array, bias: Array | None, out: Array) -> None:
    """What the inputs contribute to the pre-activations of all steps: one product."""
    xp = backend_of(x)
    if bias is None:
        xp.mm(x, W_ih.T, out=out)
    else:
        xp.addmm(bias, x, W_ih.T, out=out)


def rnn(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    relu: bool,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.differentiable.rnn`."""
    xp, W = backend_of(x), W_hh.T
    activation = xp.relu if relu else xp.tanh
    input_product(x, W_ih, bias, out[0])
    hs, h = steps.split(out[0]), h_0
    for t in steps.walk:
        h_t = hs[t]  # (B_t, H)
        xp.addmm(h_t, steps.under_way(h, t), W, out=h_t)
        activation(h_t, out=h_t)
        h = carry(h_t, h)
    return out


def rnn_back(
    steps: Steps, d_hs: Array | None, d_h: Array, W_hh: Array, hs: Array, relu: bool
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.differentiable.rnn_back`."""
    xp = backend_of(hs)
    # The slopes, which become the gradients.
    d_a = xp.where(hs <= 0, xp.zeros_like(hs), xp.ones_like(hs)) if relu else 1 - hs * hs  # (N, H)
    d_as, d_output = steps.split(d_a), None if d_hs is None else steps.split(d_hs)
    for t in reversed(steps.walk):
        d_a_t, d_h_t = d_as[t], steps.under_way(d_h, t)  # (B_t, H)
        if d_output is not None:
            d_h_t += d_output[t]
        d_a_t *= d_h_t
        xp.mm(d_a_t, W_hh, out=d_h_t)
    return d_a, d_h


def lstm(
    steps: Steps,
    x: Array,
    h_0: Array,
    C_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.differentiable.lstm`."""
    xp, W, H = backend_of(x), W_hh.T, C_0.shape[1]
    hs, Cs, gates = out
    input_product(x, W_ih, bias, gates)
    each = (gates[:, k * H : (k + 1) * H] for k in range(4))
    rows = steps.side_by_side(gates, gates[:, : 2 * H], *each, hs, Cs)
    h, C = h_0, C_0
    for t in steps.walk:
        a_t, i_and_f, i_t, f_t, C_tilde, o_t, h_t, C_t = rows[t]  # (B_t, ·)
        xp.addmm(a_t, steps.under_way(h, t), W, out=a_t)
        xp.sigmoid(i_and_f, out=i_and_f)
        xp.tanh(C_tilde, out=C_tilde)
        xp.sigmoid(o_t, out=o_t)
        xp.mul(f_t, steps.under_way(C, t), out=C_t)
        xp.addcmul(C_t, i_t, C_tilde, out=C_t)
        xp.tanh(C_t, out=h_t)
        h_t *= o_t
        h, C = carry(h_t, h), carry(C_t, C)
    return out


def lstm_memories(steps: Steps, C_0: Array, gates: Array, Cs: Array) -> None:
    """From i_t ⊙ C̃_t of every step in ``Cs`` (N, H), and the gates (N, 4H), the memories C_t, in place."""
    xp, H = backend_of(Cs), Cs.shape[1]
    rows, C = steps.side_by_side(Cs, gates[:, H : 2 * H]), C_0
    for t in steps.walk:
        C_t, f_t = rows[t]  # (B_t, H) each
        xp.addcmul(C_t, f_t, steps.under_way(C, t), out=C_t)
        C = carry(C_t, C)


def _lstm_factors(steps: Steps, C_0: Array, gates: Array, Cs: Array) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.differentiable.lstm_factors`."""
    xp, H = backend_of(Cs), Cs.shape[1]
    i, f, C_tilde, o = (gates[:, k * H : (k + 1) * H] for k in range(4))  # (N, H) each
    tanh_C, slab, C_from_h = xp.tanh(Cs), xp.empty(gates.shape, like=Cs), xp.empty(Cs.shape, like=Cs)
    from_i, from_f, from_C_tilde, from_o = (slab[:, k * H : (k + 1) * H] for k in range(4))
    xp.sigmoid_backward(C_tilde, i, out=from_i)
    xp.sigmoid_backward(steps.states_before(C_0, Cs), f, out=from_f)
    xp.tanh_backward(i, C_tilde, out=from_C_tilde)
    xp.sigmoid_backward(tanh_C, o, out=from_o)
    xp.tanh_backward(o, tanh_C, out=C_from_h)
    return slab, C_from_h


def lstm_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    d_C: Array,
    C_0: Array,
    W_hh: Array,
    gates: Array,
    Cs: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.differentiable.lstm_back`; without the last result."""
    xp, H = backend_of(Cs), Cs.shape[1]
    d_a, C_from_h = _lstm_factors(steps, C_0, gates, Cs)  # (N, 4H), (N, H)
    d_output = None if d_hs is None else steps.split(d_hs)
    from_C = d_a.reshape(-1, 4, H)[:, :3]  # (N, 3, H)
    rows = steps.side_by_side(d_a, C_from_h, gates[:, H : 2 * H], from_C, d_a[:, 3 * H :])
    for t in reversed(steps.walk):
        d_a_t, C_from_h_t, f_t, from_C_t, d_a_o = rows[t]  # (B_t, ·)
        d_h_t, d_C_t = steps.under_way(d_h, t), steps.under_way(d_C, t)
        if d_output is not None:
            d_h_t += d_output[t]
        xp.addcmul(d_C_t, d_h_t, C_from_h_t, out=d_C_t)
        xp.mul(from_C_t, d_C_t[:, None], out=from_C_t)
        d_a_o *= d_h_t
        xp.mm(d_a_t, W_hh, out=d_h_t)
        d_C_t *= f_t
    return d_a, d_h, d_C


def gru(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    b_h: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.differentiable.gru`."""
    xp, H = backend_of(x), h_0.shape[1]
    W_gates, W_candidate = W_hh[: 2 * H].T, W_hh[2 * H :].T  # (H, 2H), (H, H)
    hs, gates, us = out
    input_product(x, W_ih, bias, gates)
    each, h = (gates[:, k * H : (k + 1) * H] for k in range(3)), h_0
    rows = steps.side_by_side(gates[:, : 2 * H], *each, hs, us)
    for t in steps.walk:
        rz, r_t, z_t, h_tilde, h_t, u_t = rows[t]  # (B_t, ·)
        h_prev = steps.under_way(h, t)
        xp.addmm(rz, h_prev, W_gates, out=rz)
        xp.sigmoid(rz, out=rz)
        if b_h is None:
            xp.mm(h_prev, W_candidate, out=u_t)
        else:
            xp.addmm(b_h, h_prev, W_candidate, out=u_t)
        xp.addcmul(h_tilde, r_t, u_t, out=h_tilde)
        xp.tanh(h_tilde, out=h_tilde)
        _mix(xp, h_tilde, h_prev, z_t, h_t)
        h = carry(h_t, h)
    return out


def _mix(xp, h_tilde: Array, h_prev: Array, z_t: Array, h_t: Array) -> None:  # type: ignore[no-untyped-def]
    """h_t = (1 - z_t) ⊙ h̃_t + z_t ⊙ h_{t-1}, as h̃_t + z_t ⊙ (h_{t-1} - h̃_t)."""
    xp.sub(h_prev, h_tilde, out=h_t)
    xp.addcmul(h_tilde, z_t, h_t, out=h_t)


def gru_back(
    steps: Steps,
    d_hs: Array | None,
    d_h: Array,
    h_0: Array,
    W_hh: Array,
    gates: Array,
    hs: Array,
    us: Array,
) -> tuple[Array, Array, Array]:
    """See :func:`rnnlib.engine.differentiable.gru_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    to_a_h, slab = gru_factors(steps.states_before(h_0, hs), gates, us)  # (N, H), (N, 3H)
    d_output = None if d_hs is None else steps.split(d_hs)
    rows = steps.side_by_side(slab, slab.reshape(-1, 3, H), gates[:, H : 2 * H], to_a_h)
    for t in reversed(steps.walk):
        slab_t, triple_t, z_t, to_a_h_t = rows[t]  # (B_t, ·)
        d_h_t = steps.under_way(d_h, t)
        if d_output is not None:
            d_h_t += d_output[t]
        xp.mul(triple_t, d_h_t[:, None], out=triple_t)
        to_a_h_t *= d_h_t
        d_h_t *= z_t
        xp.addmm(d_h_t, slab_t, W_hh, out=d_h_t)
    d_u = xp.copy(slab[:, 2 * H :])  # (N, H)
    slab[:, 2 * H :] = to_a_h
    return slab, d_u, d_h


def gru_reset_before(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    bias: Array | None,
    out: Sequence[Array],
    keep: bool = True,
) -> Sequence[Array]:
    """See :func:`rnnlib.engine.differentiable.gru_reset_before`."""
    xp, H = backend_of(x), h_0.shape[1]
    W_gates, W_candidate = W_hh[: 2 * H].T, W_hh[2 * H :].T  # (H, 2H), (H, H)
    (hs, gates), reset = out, xp.empty(h_0.shape, like=x)
    input_product(x, W_ih, bias, gates)
    each, h = (gates[:, k * H : (k + 1) * H] for k in range(3)), h_0
    rows = steps.side_by_side(gates[:, : 2 * H], *each, hs)
    for t in steps.walk:
        rz, r_t, z_t, h_tilde, h_t = rows[t]  # (B_t, ·)
        h_prev, reset_t = steps.under_way(h, t), steps.under_way(reset, t)
        xp.addmm(rz, h_prev, W_gates, out=rz)
        xp.sigmoid(rz, out=rz)
        xp.mul(r_t, h_prev, out=reset_t)
        xp.addmm(h_tilde, reset_t, W_candidate, out=h_tilde)
        xp.tanh(h_tilde, out=h_tilde)
        _mix(xp, h_tilde, h_prev, z_t, h_t)
        h = carry(h_t, h)
    return out


def gru_reset_before_back(
    steps: Steps, d_hs: Array | None, d_h: Array, h_0: Array, W_hh: Array, gates: Array, hs: Array
) -> tuple[Array, Array]:
    """See :func:`rnnlib.engine.differentiable.gru_reset_before_back`."""
    xp, H = backend_of(hs), hs.shape[1]
    W_gates, W_candidate = W_hh[: 2 * H], W_hh[2 * H :]  # (2H, H), (H, H)
    to_a_h, to_a_z, to_a_r = gru_reset_before_factors(steps.states_before(h_0, hs), gates)
    d_a = xp.concat([to_a_r, to_a_z, to_a_h], axis=1)  # (N, 3H)
    d_output = None if d_hs is None else steps.split(d_hs)
    each, reset = (d_a[:, k * H : (k + 1) * H] for k in range(3)), xp.empty(h_0.shape, like=hs)
    rows = steps.side_by_side(d_a[:, : 2 * H], *each, gates[:, :H], gates[:, H : 2 * H])
    for t in reversed(steps.walk):
        d_gates, d_a_r, d_a_z, d_a_h, r_t, z_t = rows[t]  # (B_t, ·)
        d_h_t, d_reset = steps.under_way(d_h, t), steps.under_way(reset, t)
        if d_output is not None:
            d_h_t += d_output[t]
        d_a_h *= d_h_t
        d_a_z *= d_h_t
        xp.mm(d_a_h, W_candidate, out=d_reset)
        d_a_r *= d_reset
        d_h_t *= z_t
        xp.addcmul(d_h_t, d_reset, r_t, out=d_h_t)
        xp.addmm(d_h_t, d_gates, W_gates, out=d_h_t)
    return d_a, d_h
