"""Floor 3, chapter 7: Jacobians, their products, their norms and spectra, and clipping.

Jacobians are in numerator layout, ∂s_t/∂s_{t-1} with one row per output; a batch of them is
(B, S, S), along time (T, B, S, S). S is the size of the whole state: H for the vanilla network
and the GRU, 2H for the LSTM, whose state is h and C side by side.

A *lag* is t - k, the number of steps between a state s_k and the state s_t that it acts on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from rnnlib import activations
from rnnlib.activations import Activation
from rnnlib.backend import (
    Array,
    Checked,
    any_shape,
    backend_of,
    check_arrays,
    check_count,
    check_lapack,
    check_number,
    checked,
)
from rnnlib.cell import Cell, State, arrays_in, map_collection, named_arrays
from rnnlib.equations import implements
from rnnlib.initialisation import orthogonal, spectral_radius
from rnnlib.unroll import Trajectory, as_state, check_trajectory

GradientsT = TypeVar("GradientsT")


# --- one step ---------------------------------------------------------------------------------


@implements("eq-gradients-step-jacobian")
def step_jacobian(
    a_t: Annotated[Array, "B H"], W_hh: Annotated[Array, "H H"], activation: Activation = "tanh"
) -> Annotated[Array, "B H H"]:
    """One step of the vanilla network, ∂h_t/∂h_{t-1} (:eq:`eq-gradients-step-jacobian`).

    Args:
        a_t: pre-activation, (B, H).
        W_hh: recurrent weights, (H, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        diag(σ'(a_t)) W_hh, (B, H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    return activations.apply_derivative(activation, a_t)[:, :, None] * W_hh  # (B, H, H)


@implements("eq-gradients-preactivation-jacobian")
def preactivation_jacobian(
    a_prev: Annotated[Array, "B H"], W_hh: Annotated[Array, "H H"], activation: Activation = "tanh"
) -> Annotated[Array, "B H H"]:
    """The same step seen from the pre-activation (:eq:`eq-gradients-preactivation-jacobian`).

    Taking a as the state, a_t = W_hh σ(a_{t-1}) + W_xh x_t + b_h is the same network written
    otherwise. Its derivative sits at the *previous* pre-activation, on the other side of W_hh.

    Args:
        a_prev: pre-activation a_{t-1}, (B, H).
        W_hh: recurrent weights, (H, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        ∂a_t/∂a_{t-1} = W_hh diag(σ'(a_{t-1})), (B, H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.

    The parametrisation of Pascanu, Mikolov and Bengio (2013).
    """
    return W_hh * activations.apply_derivative(activation, a_prev)[:, None, :]  # (B, H, H)


@implements("eq-gradients-step-jacobian-notes")
def step_jacobian_notes(
    h_prev: Annotated[Array, "B H"], W_hh: Annotated[Array, "H H"], activation: Activation = "tanh"
) -> Annotated[Array, "B H H"]:
    """The product W_hhᵀ diag(σ'(h_{i-1})), to the letter (:eq:`eq-gradients-step-jacobian-notes`).

    For h_i = σ(a_i) this is **not** ∂h_i/∂h_{i-1}, which is :func:`step_jacobian`. What it is
    depends on what goes in for ``h_prev``:

    - a_{i-1}, where the pre-activation is the state: the Jacobian of the step
      a_i = W_hhᵀ σ(a_{i-1}) + …, exactly. With ``W_hh.T`` for ``W_hh`` it is that of
      a_i = W_hh σ(a_{i-1}) + …, :func:`preactivation_jacobian` (Pascanu, Mikolov and Bengio 2013);
    - a_i, the pre-activation of the step itself: the transpose (∂h_i/∂h_{i-1})ᵀ, exactly. It
      carries a gradient, written as a column, from h_i back to h_{i-1};
    - h_{i-1}, to the letter: for the rectifier the same as with a_{i-1}; for the identity, whose
      derivative is 1 everywhere, both of the above; for tanh and the logistic function neither.

    Args:
        h_prev: where σ' is taken, (B, H).
        W_hh: recurrent weights, (H, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        W_hhᵀ diag(σ'(h_{i-1})), (B, H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    return W_hh.T * activations.apply_derivative(activation, h_prev)[:, None, :]  # (B, H, H)


def _step_rows(cell: Cell, cache: Any, like: State) -> Array:
    """∂s_t/∂s_{t-1}, (B, S, S), one step back per row: a unit vector in, a row of the Jacobian out."""
    xp = backend_of(like[0])
    widths = [int(s.shape[1]) for s in like]
    units = xp.eye(sum(widths), like=like[0])  # (S, S)
    rows = []
    for unit in units:
        d_state, start = [], 0
        for s, width in zip(like, widths, strict=True):
            d_state.append(xp.zeros_like(s) + unit[start : start + width])  # (B, H)
            start += width
        _, d_prev, _ = cell.step_backward(tuple(d_state), cache)
        rows.append(xp.concat(d_prev, axis=1))  # (B, S)
    return xp.stack(rows, axis=1)  # (B, S, S)


@implements("eq-gradients-state-jacobian")
def state_jacobian(
    cell: Cell, x_t: Annotated[Array, "B I"], state: State | Array
) -> Annotated[Array, "B S S"]:
    """One step of any cell, ∂s_t/∂s_{t-1}, row by row (:eq:`eq-gradients-state-jacobian`).

    Args:
        cell: the cell.
        x_t: input, (B, I).
        state: the state before the step, a tuple with one (B, H) array for each of
            ``cell.state_names``, or the array itself where there is one name only.

    Returns:
        The Jacobian over the whole state, (B, S, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays` and :func:`rnnlib.unroll.as_state`.
    """
    names = [f"{name}_prev" for name in cell.state_names]
    before = as_state("state_jacobian: state", cell, state, names, x_t, "x_t")
    _, cache = cell.step(x_t, before)
    return _step_rows(cell, cache, before)


def _check_trajectory(where: str, cell: Cell, trajectory: Trajectory) -> None:
    T, _, H = trajectory.hs.shape
    if cell.hidden_size != H:
        raise ValueError(
            f"{where}: trajectory has H = {H}, expected {cell.hidden_size} set by the cell: "
            "it was run by another cell"
        )
    check_trajectory(where, cell, trajectory)
    if len(trajectory.caches) != T:
        raise ValueError(f"{where}: trajectory has {len(trajectory.caches)} caches, expected T = {T}")


@checked
def state_jacobians(cell: Cell, trajectory: Trajectory) -> Annotated[Array, "T B S S"]:
    """The Jacobian of every step that a cell took (:eq:`eq-gradients-state-jacobian`).

    Args:
        cell: the cell that ran.
        trajectory: what :func:`rnnlib.unroll.unroll` returned.

    Returns:
        ∂s_t/∂s_{t-1} for t = 1 … T, (T, B, S, S); the identity at steps behind the end of a
        sequence, where the state stays as it is.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a trajectory of another cell.
    """
    _check_trajectory("state_jacobians", cell, trajectory)
    xp = backend_of(trajectory.hs)
    jacobians = []
    for t, cache in enumerate(trajectory.caches):
        J_t = _step_rows(cell, cache, trajectory.initial)  # (B, S, S)
        if trajectory.mask is not None:
            here = trajectory.mask[t][:, None, None] > 0  # (B, 1, 1)
            J_t = xp.where(here, J_t, xp.eye(J_t.shape[1], like=J_t))
        jacobians.append(J_t)
    return xp.stack(jacobians)  # (T, B, S, S)


# --- many steps -------------------------------------------------------------------------------


@implements("eq-gradients-jacobian-product")
def jacobian_product(jacobians: Annotated[Array, "T B S S"]) -> Annotated[Array, "B S S"]:
    """Many steps, ∂s_t/∂s_k, the latest on the left (:eq:`eq-gradients-jacobian-product`).

    Args:
        jacobians: the step Jacobians J_{k+1} … J_t, (T, B, S, S).

    Returns:
        J_t ⋯ J_{k+1}, (B, S, S).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    product = jacobians[0]
    for J_i in jacobians[1:]:
        product = J_i @ product  # (B, S, S)
    return product


@checked
def jacobian_products(jacobians: Annotated[Array, "T B S S"]) -> Annotated[Array, "T+1 B S S"]:
    """∂s_t/∂s_k for every k at once, by lag (:eq:`eq-gradients-jacobian-product`).

    Args:
        jacobians: the step Jacobians J_1 … J_T, (T, B, S, S).

    Returns:
        At index n the product over the last n steps, ∂s_T/∂s_{T-n}, (T+1, B, S, S); the identity
        at n = 0.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(jacobians)
    T, _, S, _ = jacobians.shape
    products = [xp.zeros_like(jacobians[0]) + xp.eye(S, like=jacobians)]  # (B, S, S)
    for i in reversed(range(T)):
        products.append(products[-1] @ jacobians[i])
    return xp.stack(products)  # (T+1, B, S, S)


@checked
def product_norms(jacobians: Annotated[Array, "T B S S"]) -> Annotated[Array, "T+1 B"]:
    """‖∂s_t/∂s_k‖, the spectral norm, against the lag.

    Args:
        jacobians: the step Jacobians J_1 … J_T, (T, B, S, S), float32 or float64.

    Returns:
        At index n the norm of ∂s_T/∂s_{T-n}, (T+1, B).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision.
    """
    check_lapack("product_norms", "jacobians", jacobians)
    return spectral_norm.unchecked(jacobian_products.unchecked(jacobians))


def _unit_and_ratio(d: Array) -> tuple[Array, Array]:
    """The Euclidean norm along the last axis as a product of two, since squares vanish or overflow."""
    xp = backend_of(d)
    largest = xp.amax(xp.abs(d), -1)
    unit = xp.where((largest > 0) & (largest < math.inf), largest, xp.ones_like(largest))
    squares = (d / unit[..., None]) ** 2
    if d.dtype.itemsize < 4:  # a mean is accumulated in single precision, a sum may not fit
        return unit, math.sqrt(d.shape[-1]) * xp.sqrt(squares.mean(-1))
    return unit, xp.sqrt(squares.sum(-1))


def _lengths(d: Array) -> Array:
    """The Euclidean norm along the last axis; infinity, without a warning, where it overflows."""
    unit, ratio = _unit_and_ratio(d)
    with np.errstate(over="ignore"):
        return unit * ratio


@implements("eq-gradients-lag")
def gradient_norms(
    d_state_t: Annotated[Array, "B S"], jacobians: Annotated[Array, "T B S S"]
) -> Annotated[Array, "T+1 B"]:
    """The length of the gradient of one loss, against the lag (:eq:`eq-gradients-lag`).

    Args:
        d_state_t: ∂L_t/∂s_t, the gradient of the loss at the last step, (B, S).
        jacobians: the step Jacobians J_1 … J_T, (T, B, S, S).

    Returns:
        At index n the norm of ∂L_T/∂s_{T-n}, (T+1, B).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d, ds = d_state_t, [d_state_t]
    for i in reversed(range(jacobians.shape[0])):
        d = (d[:, None, :] @ jacobians[i])[:, 0]  # (B, S)
        ds.append(d)
    return _lengths(backend_of(d).stack(ds))  # (T+1, B)


# --- how large a matrix is --------------------------------------------------------------------


@implements("eq-gradients-singular-values")
def singular_values(W: Annotated[Array, "H H"]) -> Annotated[Array, "H"]:
    """How far W stretches each of H orthogonal directions (:eq:`eq-gradients-singular-values`).

    Args:
        W: a square matrix, (H, H), float32 or float64.

    Returns:
        The singular values, largest first, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision.
    """
    check_lapack("singular_values", "W", W)
    return backend_of(W).svdvals(W)  # (H,)


@implements("eq-gradients-spectral-norm")
def spectral_norm(W: Annotated[Array, "H H"]) -> Annotated[Array, ""]:
    """The most that W can stretch a vector, ‖W‖ (:eq:`eq-gradients-spectral-norm`).

    Args:
        W: a square matrix, (H, H), float32 or float64.

    Returns:
        The largest singular value, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision.
    """
    check_lapack("spectral_norm", "W", W)
    return backend_of(W).svdvals(W)[..., 0]


@implements("eq-gradients-frobenius-norm")
def frobenius_norm(W: Annotated[Array, "H H"]) -> Annotated[Array, ""]:
    """The root of the summed squares of all entries, ‖W‖_F (:eq:`eq-gradients-frobenius-norm`).

    Args:
        W: a square matrix, (H, H).

    Returns:
        The norm, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return _lengths(W.reshape(-1))


@implements("eq-gradients-henrici")
def henrici_departure(W: Annotated[Array, "H H"]) -> Annotated[Array, ""]:
    """How far W is from normal: Henrici's departure (:eq:`eq-gradients-henrici`).

    Zero where W has orthogonal eigenvectors, and then ‖Wⁿ‖ = ρ(W)ⁿ. Above zero, powers of W may
    grow before they decay. Its square is a difference of sums of squares, so that values below
    ‖W‖_F times the root of the dtype's precision are rounding.

    Args:
        W: a square matrix, (H, H), float32 or float64.

    Returns:
        √(‖W‖_F² - Σ abs(λ_j)²), a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision.

    Henrici (1962).
    """
    check_lapack("henrici_departure", "W", W)
    xp = backend_of(W)
    size = frobenius_norm.unchecked(W)
    unit = xp.where(size > 0, size, xp.ones_like(size))
    squares = (xp.abs(xp.eigvals(W / unit)) ** 2).sum()  # in [0, 1]
    gap = (size / unit) ** 2 - squares
    return size * xp.sqrt(xp.where(gap < 0, 0 * gap, gap))


# --- the bounds -------------------------------------------------------------------------------


def _powers(base: Array, highest: int) -> list[Array]:
    """base⁰, base¹, …; infinity, without a warning, where one overflows."""
    with np.errstate(over="ignore"):
        return [base**n for n in range(highest + 1)]


class Bound(NamedTuple):
    """A quantity and what it cannot exceed."""

    bound: Array
    actual: Array


@implements("eq-gradients-step-bound")
def step_bound(
    a_t: Annotated[Array, "B H"], W_hh: Annotated[Array, "H H"], activation: Activation = "tanh"
) -> Bound:
    """One step stretches at most ‖W_hh‖ max|σ'(a_t)| times (:eq:`eq-gradients-step-bound`).

    Args:
        a_t: pre-activation, (B, H), float32 or float64.
        W_hh: recurrent weights, (H, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        ``bound`` (B,) and ``actual``, the norm of ∂h_t/∂h_{t-1}, (B,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.
    """
    check_lapack("step_bound", "a_t", a_t)
    slope = backend_of(a_t).amax(activations.apply_derivative(activation, a_t), 1)  # (B,), σ' ≥ 0
    J_t = step_jacobian.unchecked(a_t, W_hh, activation)  # (B, H, H)
    return Bound(spectral_norm.unchecked(W_hh) * slope, spectral_norm.unchecked(J_t))


@implements("eq-gradients-product-bound")
def product_bound(
    a_ts: Annotated[Array, "T B H"], W_hh: Annotated[Array, "H H"], activation: Activation = "tanh"
) -> Bound:
    """Many steps stretch at most γ^(t-k) times (:eq:`eq-gradients-product-bound`).

    Args:
        a_ts: the pre-activations along time, (T, B, H), float32 or float64.
        W_hh: recurrent weights, (H, H).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        By lag n, ``bound``, γⁿ with γ = ‖W_hh‖ max|σ'(a_i)| over all steps and units of an
        example, (T+1, B); and ``actual``, the norm of ∂h_T/∂h_{T-n}, (T+1, B).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.
    """
    check_lapack("product_bound", "a_ts", a_ts)
    xp = backend_of(a_ts)
    T = int(a_ts.shape[0])
    slope = xp.amax(xp.amax(activations.apply_derivative(activation, a_ts), 2), 0)  # (B,), σ' ≥ 0
    gamma = spectral_norm.unchecked(W_hh) * slope  # (B,)
    jacobians = xp.stack([step_jacobian.unchecked(a_t, W_hh, activation) for a_t in a_ts])  # (T, B, H, H)
    return Bound(xp.stack(_powers(gamma, T)), product_norms.unchecked(jacobians))


class PowerBounds(NamedTuple):
    """A quantity between two that it cannot pass."""

    lower: Array
    actual: Array
    upper: Array


@implements("eq-gradients-power-bounds")
def power_bounds(W: Annotated[Array, "H H"], powers: int) -> PowerBounds:
    """The powers of W lie between its radius' and its norm's (:eq:`eq-gradients-power-bounds`).

    In the long run the lower one decides: ‖Wⁿ‖^(1/n) tends to ρ(W) (Gelfand). A norm above 1 says
    nothing about it: [[0, 2], [0, 0]] has norm 2 and its square is zero.

    Args:
        W: a square matrix, (H, H), float32 or float64.
        powers: the highest power, at least 0.

    Returns:
        By power n, ``lower`` ρ(W)ⁿ, ``actual`` ‖Wⁿ‖, ``upper`` ‖W‖ⁿ, (powers+1,) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; powers not
            a whole number of at least 0.
    """
    check_lapack("power_bounds", "W", W)
    check_count("power_bounds", "powers", powers, 0)
    xp = backend_of(W)
    rho, norm = spectral_radius.unchecked(W), spectral_norm.unchecked(W)
    power, actual = xp.eye(W.shape[0], like=W), []  # (H, H)
    for n in range(powers + 1):
        power = power if n == 0 else W @ power
        actual.append(spectral_norm.unchecked(power))
    return PowerBounds(xp.stack(_powers(rho, powers)), xp.stack(actual), xp.stack(_powers(norm, powers)))


@implements("eq-gradients-vanish")
def must_vanish(W_hh: Annotated[Array, "H H"], activation: Activation = "tanh") -> bool:
    """Sufficient for gradients to vanish: ‖W_hh‖ < 1/sup|σ'| (:eq:`eq-gradients-vanish`).

    Args:
        W_hh: recurrent weights, (H, H), float32 or float64.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        True where ∂h_t/∂h_k must fall to zero exponentially, whatever the inputs. False says
        nothing: they may vanish all the same.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.

    Pascanu, Mikolov and Bengio (2013).
    """
    check_lapack("must_vanish", "W_hh", W_hh)
    return bool(spectral_norm.unchecked(W_hh) < 1 / activations.STEEPEST[activation])


@implements("eq-gradients-explode")
def may_explode(W_hh: Annotated[Array, "H H"], activation: Activation = "tanh") -> bool:
    """Necessary for gradients to explode: ‖W_hh‖ > 1/sup|σ'| (:eq:`eq-gradients-explode`).

    Args:
        W_hh: recurrent weights, (H, H), float32 or float64.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        False where ∂h_t/∂h_k stays bounded, whatever the inputs. True says nothing: with
        W_hh = [[0, 2], [0, 0]] it is zero after two steps.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.

    Pascanu, Mikolov and Bengio (2013).
    """
    check_lapack("may_explode", "W_hh", W_hh)
    return bool(spectral_norm.unchecked(W_hh) > 1 / activations.STEEPEST[activation])


# --- Lyapunov exponents -----------------------------------------------------------------------


@implements("eq-gradients-lyapunov")
def lyapunov_exponents(
    cell: Cell, trajectory: Trajectory, count: int | None = None, discard: int = 0
) -> Annotated[Array, "B K"]:
    """The growth rates of small deviations along a trajectory (:eq:`eq-gradients-lyapunov`).

    K orthonormal deviations are carried along by the Jacobians. After every step a QR
    decomposition makes them orthonormal again, and R's diagonal holds how far each one stretched.
    The mean of its logarithm is an exponent. With a positive one gradients explode, and a network
    that is bounded and does not come to rest or repeat itself is chaotic. All negative, they vanish.

    Args:
        cell: the cell that ran.
        trajectory: what :func:`rnnlib.unroll.unroll` returned, without ``lengths``; float32 or
            float64. The longer, the closer to the limit.
        count: K, how many exponents, from 1 to S; all S if None.
        discard: how many steps to leave out of the mean at the beginning, while the deviations
            still turn towards the directions that stretch most; from 0 to T - 1.

    Returns:
        The exponents per step, largest first, (B, K). A direction that a step loses altogether has -∞, or
        the logarithm of a rounding error.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; a trajectory
            of another cell or with a mask; count or discard out of range.

    Benettin et al. (1980); Engelken, Wolf and Abbott (2023) for recurrent networks.
    """
    where = "lyapunov_exponents"
    _check_trajectory(where, cell, trajectory)
    check_lapack(where, "trajectory.hs", trajectory.hs)
    if trajectory.mask is not None:
        raise ValueError(f"{where}: trajectory was run with lengths, expected sequences of one length")
    xp = backend_of(trajectory.hs)
    S = sum(int(s.shape[1]) for s in trajectory.initial)
    K = S if count is None else count
    check_count(where, "count", K, 1, S)
    T = len(trajectory.caches)
    check_count(where, "discard", discard, 0, T - 1)

    # A start in general position: an axis may be a direction that the cell never mixes with others.
    start = xp.asarray(orthogonal(np.random.default_rng(0), S, S)[:, :K], like=trajectory.hs)  # (S, K)
    Q = xp.stack([start for _ in trajectory.initial[0]])  # (B, S, K)
    total = xp.zeros_like(Q[:, 0])  # (B, K)
    for t, cache in enumerate(trajectory.caches):
        Q, R = xp.qr(_step_rows(cell, cache, trajectory.initial) @ Q)  # (B, S, K), (B, K, K)
        if t >= discard:
            stretch = xp.abs(xp.einsum("bkk->bk", R))  # (B, K)
            lost = stretch == 0
            logs = xp.log(xp.where(lost, xp.ones_like(stretch), stretch))
            total = total + xp.where(lost, xp.zeros_like(logs) - math.inf, logs)
    exponents = total / (T - discard)
    return xp.stack([row[(-row).argsort()] for row in exponents])  # (B, K)


# --- clipping ---------------------------------------------------------------------------------


def _global_unit_and_ratio(gradients: Any) -> tuple[Array, Array]:
    """The norm of all arrays together as a product of two (see :func:`_unit_and_ratio`)."""
    leaves = list(named_arrays(gradients).values())
    xp = backend_of(leaves[0])
    units, ratios = zip(*(_unit_and_ratio(g.reshape(-1)) for g in leaves), strict=True)
    unit = xp.amax(xp.stack(units), 0)
    return unit, _lengths(xp.stack(ratios) * (xp.stack(units) / unit))


def _checks_gradients(function: Callable[..., Any]) -> Checked[..., Any]:
    """Make a function refuse gradients that it cannot clip; ``unchecked`` lets them through."""

    @functools.wraps(function)
    def wrapper(gradients: Any, *args: Any, **kwargs: Any) -> Any:
        where = function.__name__
        leaves = list(arrays_in(where, "gradients", gradients))
        if not leaves:
            raise ValueError(f"{where}: gradients holds no array, expected at least one")
        check_arrays(where, [(name, g, any_shape(f"D{i}", g)) for i, (name, g) in enumerate(leaves)])
        xp = backend_of(leaves[0][1])
        for name, g in leaves:
            bad = xp.first_nan(xp.where(xp.abs(g) < math.inf, xp.zeros_like(g), math.nan))
            if bad is not None:
                raise ValueError(f"{where}: {name} is not finite, first at index {bad}")
        return function(gradients, *args, **kwargs)

    wrapper.unchecked = function  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


@implements("eq-gradients-clip-value")
@_checks_gradients
def clip_by_value(gradients: GradientsT, limit: float) -> GradientsT:
    """Cut every entry of the gradient to [-c, c] (:eq:`eq-gradients-clip-value`).

    The direction changes with it; see :func:`clip_by_norm`.

    Args:
        gradients: an array, a record such as the gradient of a cell, or lists, tuples and dicts
            of these. What is no array (None, an activation's name) is kept.
        limit: c, above 0 and finite.

    Returns:
        The same collection, clipped.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no array at all; a NaN or
            an infinity, which no clipping repairs; a limit that is not above 0. ``unchecked``
            keeps a NaN and cuts an infinity.

    Mikolov (2012).
    """
    limit = check_number("clip_by_value", "limit", limit)

    def clip(g: Array) -> Array:
        xp = backend_of(g)
        c = min(limit, xp.largest(g))  # what lies above is beyond every entry
        return xp.where(g > c, c, xp.where(g < -c, -c, g))

    return map_collection(clip, gradients)


@implements("eq-gradients-global-norm")
@_checks_gradients
def global_norm(gradients: Any) -> Array:
    """The length of all gradients together, as one vector (:eq:`eq-gradients-global-norm`).

    Args:
        gradients: an array, a record such as the gradient of a cell, or lists, tuples and dicts
            of these.

    Returns:
        ‖g‖, a scalar of the arrays' kind and dtype; infinity where the dtype cannot hold it.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no array at all; a NaN or
            an infinity. ``unchecked`` lets both through to the norm.
    """
    unit, ratio = _global_unit_and_ratio(gradients)
    with np.errstate(over="ignore"):
        return unit * ratio


@implements("eq-gradients-clip-norm")
@_checks_gradients
def clip_by_norm(gradients: GradientsT, threshold: float) -> tuple[GradientsT, Array]:
    """Shorten the gradient to length θ where it is longer (:eq:`eq-gradients-clip-norm`).

    The direction stays. ``torch.nn.utils.clip_grad_norm_`` does the same but for a 1e-6 that it
    adds to the norm it divides by.

    Args:
        gradients: an array, a record such as the gradient of a cell, or lists, tuples and dicts
            of these. What is no array (None, an activation's name) is kept.
        threshold: θ, above 0 and finite.

    Returns:
        The same collection times min(1, θ/‖g‖), and ‖g‖ as it was before.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no array at all; a NaN or
            an infinity, which no clipping repairs; a threshold that is not above 0.
            ``unchecked`` turns every entry into NaN where the norm is NaN.

    Pascanu, Mikolov and Bengio (2013).
    """
    threshold = check_number("clip_by_norm", "threshold", threshold)
    unit, ratio = _global_unit_and_ratio(gradients)
    with np.errstate(over="ignore"):
        norm = unit * ratio
    some = next(iter(named_arrays(gradients).values()))
    xp = backend_of(some)
    threshold = min(threshold, xp.largest(some))  # what lies above is beyond every norm
    short = norm <= threshold  # never so where the norm is NaN, which then reaches every entry
    # By the parts of the norm, so that a gradient whose norm overflows is still shortened to θ.
    factor = xp.where(short, 1.0, threshold / xp.where(short, 1.0, unit) / xp.where(short, 1.0, ratio))
    return map_collection(lambda g: g * factor, gradients), norm
