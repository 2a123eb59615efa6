"""Floor 3, chapter 15: linear state-space models, from continuous time to steps.

The state obeys h'(t) = A h(t) + B x(t), and the output is y(t) = C h(t). With an input that is held between
two steps, the states at the steps obey a linear recurrence, exactly. Its outputs can also be computed by a
convolution. The letters are those of the field: here B, beside A and C, is a matrix; in shapes it stays the
number of examples.
"""

from __future__ import annotations

from typing import Annotated, Any

from rnnlib.backend import Array, backend_of, check_count, check_number, checked_with
from rnnlib.equations import implements


def _check_delta(where: str, arguments: dict[str, Any]) -> None:
    check_number(where, "delta", arguments["delta"])


@implements("eq-ssm-zero-order-hold")
@checked_with(_check_delta)
def zero_order_hold(
    A: Annotated[Array, "H H"], B: Annotated[Array, "H I"], delta: float
) -> tuple[Annotated[Array, "H H"], Annotated[Array, "H I"]]:
    """The step of a state-space model whose input is held (:eq:`eq-ssm-zero-order-hold`).

    An input that is held obeys x' = 0. So state and input together are one linear system, whose exponential
    holds both results side by side. A need not have an inverse.

    Args:
        A: how the state drives itself, per unit of time, (H, H).
        B: how the input drives it, (H, I).
        delta: Δ, the time between two steps, above 0.

    Returns:
        Ā = exp(ΔA), (H, H), and B̄ = ∫₀^Δ exp(τA) dτ B, (H, I), which is A⁻¹ (Ā - 1) B where A has an inverse.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a step that is no number above 0.
        ImportError: NumPy arrays without SciPy.
    """
    xp = backend_of(A)
    H, I = (int(n) for n in B.shape)
    held = xp.zeros((I, H + I), like=A)
    both = xp.matrix_exp(delta * xp.concat([xp.concat([A, B], axis=1), held]))  # (H+I, H+I)
    return both[:H, :H], both[:H, H:]


@implements("eq-ssm-recurrence")
def state_space(
    xs: Annotated[Array, "T B I"],
    A_bar: Annotated[Array, "H H"],
    B_bar: Annotated[Array, "H I"],
    C: Annotated[Array, "O H"],
) -> Annotated[Array, "T B O"]:
    """The outputs of a state-space model, step by step from the state 0 (:eq:`eq-ssm-recurrence`).

    Args:
        xs: inputs, (T, B, I); x_t is held on the way from h_{t-1} to h_t.
        A_bar: Ā, (H, H).
        B_bar: B̄, (H, I).
        C: readout, (O, H).

    Returns:
        y_t = C h_t with h_t = Ā h_{t-1} + B̄ x_t, (T, B, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(xs)
    driven = xs @ B_bar.T  # (T, B, H)
    h_t, hs = xp.zeros_like(driven[0]), []
    for u_t in driven:
        h_t = h_t @ A_bar.T + u_t  # (B, H)
        hs.append(h_t)
    return xp.stack(hs) @ C.T  # (T, B, O)


def _check_steps(where: str, arguments: dict[str, Any]) -> None:
    check_count(where, "steps", arguments["steps"])


@implements("eq-ssm-kernel")
@checked_with(_check_steps)
def kernel(
    A_bar: Annotated[Array, "H H"],
    B_bar: Annotated[Array, "H I"],
    C: Annotated[Array, "O H"],
    steps: int,
) -> Annotated[Array, "T O I"]:
    """What one impulse leaves behind in the outputs, step after step (:eq:`eq-ssm-kernel`).

    Args:
        A_bar: Ā, (H, H).
        B_bar: B̄, (H, I).
        C: readout, (O, H).
        steps: T, how many.

    Returns:
        K_k = C Ā^k B̄ for k = 0 … T - 1, (T, O, I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; no whole number of at least 1.
    """
    state, kernels = B_bar, []
    for _ in range(steps):
        kernels.append(C @ state)  # (O, I)
        state = A_bar @ state  # (H, I)
    return backend_of(C).stack(kernels)  # (T, O, I)


@implements("eq-ssm-convolution")
def convolution(xs: Annotated[Array, "T B I"], K: Annotated[Array, "T O I"]) -> Annotated[Array, "T B O"]:
    """The outputs of a state-space model from its kernel, all steps at once (:eq:`eq-ssm-convolution`).

    By fast Fourier transforms of the length 2T, where zeros keep the end from reaching the beginning.

    Args:
        xs: inputs, (T, B, I).
        K: the kernel of :func:`kernel`, as long, (T, O, I).

    Returns:
        y_t = Σ_k K_k x_{t-k}, (T, B, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(xs)
    n = 2 * len(xs)
    product = xp.einsum("foi,fbi->fbo", xp.rfft(K, n, 0), xp.rfft(xs, n, 0))  # (T+1, B, O)
    return xp.irfft(product, n, 0)[: len(xs)]  # (T, B, O)
