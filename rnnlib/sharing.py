"""Floor 2, chapter 2: one set of parameters for every step, and what happens without it.

    W_hh⁽ᵗ⁾ = W_hh for every t                           shared: the network of chapter 1
    h_t = σ(W_hh⁽ᵗ⁾ h_{t-1} + W_xh⁽ᵗ⁾ x_t + b_h⁽ᵗ⁾)      unshared: weights of its own at every step

The unshared network is here to be compared with. Its parameters carry one axis more than the
shared ones, time first: ``network.W_hh`` is (T, H, H).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rnnlib import activations
from rnnlib.activations import Activation
from rnnlib.backend import (
    Array,
    backend_of,
    check_count,
    check_counts,
    check_lapack,
    check_record,
)
from rnnlib.cell import arrays_of
from rnnlib.equations import implements
from rnnlib.vanilla import VanillaCell, hidden_state, output, preactivation

# --- the two networks ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SharedNetwork:
    """All parameters of a vanilla network and its readout, the same at every step.

    Attributes:
        W_xh: input weights, (H, I).
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).
        W_hy: readout weights, (O, H).
        b_y: readout bias, (O,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`); an unknown activation.
    """

    W_xh: Annotated[Array, "H I"]
    W_hh: Annotated[Array, "H H"]
    b_h: Annotated[Array, "H"]
    W_hy: Annotated[Array, "O H"]
    b_y: Annotated[Array, "O"]
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        check_record(self)

    @property
    def cell(self) -> VanillaCell:
        """The network without its readout."""
        return VanillaCell(self.W_xh, self.W_hh, self.b_h, self.activation)


@dataclass(frozen=True)
class UnsharedNetwork:
    """A network with parameters of its own at every step, T sets of them.

    Attributes:
        W_xh: input weights, (T, H, I).
        W_hh: recurrent weights, (T, H, H).
        b_h: biases, (T, H).
        W_hy: readout weights, (T, O, H).
        b_y: readout biases, (T, O).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Raises:
        TypeError, ValueError: arrays that do not fit together
            (see :func:`rnnlib.backend.check_arrays`); an unknown activation.
    """

    W_xh: Annotated[Array, "T H I"]
    W_hh: Annotated[Array, "T H H"]
    b_h: Annotated[Array, "T H"]
    W_hy: Annotated[Array, "T O H"]
    b_y: Annotated[Array, "T O"]
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        check_record(self)


@implements("eq-sharing-tied")
def untie(network: SharedNetwork, steps: int) -> UnsharedNetwork:
    """The shared network written as an unshared one: T equal sets (:eq:`eq-sharing-tied`).

    Args:
        network: the shared network.
        steps: T, at least 1.

    Returns:
        The unshared network that computes the same, with arrays of its own.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps that are no whole
            number of at least 1.
    """
    T = check_count("untie", "steps", steps)
    xp = backend_of(network.W_hh)
    sets = {name: xp.stack([W] * T) for name, W in arrays_of(network).items()}
    return UnsharedNetwork(**sets, activation=network.activation)


# --- the unshared network, forward and backward -------------------------------------------------


@implements("eq-sharing-unshared")
def unshared(
    network: UnsharedNetwork,
    xs: Annotated[Array, "T B I"],
    h_0: Annotated[Array, "B H"] | None = None,
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B O"]]:
    """A network with its own parameters at every step, along time (:eq:`eq-sharing-unshared`).

    Args:
        network: the unshared network; it has T sets of parameters, so it takes T steps, no other
            number.
        xs: inputs, (T, B, I).
        h_0: the state before the first step, (B, H); zeros if None.

    Returns:
        The hidden states, (T, B, H), and the outputs, (T, B, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(xs)
    h_t = _start(network, xs, h_0)
    hs, ys = [], []
    for t in range(xs.shape[0]):
        a_t = preactivation.unchecked(xs[t], h_t, network.W_xh[t], network.W_hh[t], network.b_h[t])  # (B, H)
        h_t = hidden_state.unchecked(a_t, network.activation)  # (B, H)
        hs.append(h_t)
        ys.append(output.unchecked(h_t, network.W_hy[t], network.b_y[t]))  # (B, O)
    return xp.stack(hs), xp.stack(ys)


def _start(network: UnsharedNetwork, xs: Array, h_0: Array | None) -> Array:
    return backend_of(xs).zeros((xs.shape[1], network.W_hh.shape[1]), like=xs) if h_0 is None else h_0


@implements("eq-sharing-unshared-backward")
def unshared_backward(
    network: UnsharedNetwork,
    xs: Annotated[Array, "T B I"],
    hs: Annotated[Array, "T B H"],
    d_ys: Annotated[Array, "T B O"],
    h_0: Annotated[Array, "B H"] | None = None,
) -> Annotated[Array, "T B H"]:
    """The gradient of every pre-activation, last step first (:eq:`eq-sharing-unshared-backward`).

    A state acts through its own output and through the next step; behind the last there is none.

    Args:
        network: the unshared network.
        xs: inputs, (T, B, I).
        hs: the hidden states that :func:`unshared` returned for them, (T, B, H).
        d_ys: ∂L/∂y_t, (T, B, O).
        h_0: the state before the first step, (B, H); zeros if None.

    Returns:
        δ_t = ∂L/∂a_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(xs)
    h_0 = _start(network, xs, h_0)
    d_h_t = xp.zeros_like(h_0)  # (B, H), what comes back from the step after
    d_as = []
    for t in reversed(range(xs.shape[0])):
        h_prev = hs[t - 1] if t else h_0
        a_t = preactivation.unchecked(xs[t], h_prev, network.W_xh[t], network.W_hh[t], network.b_h[t])
        d_h_t = d_h_t + d_ys[t] @ network.W_hy[t]  # (B, H)
        d_a_t = d_h_t * activations.apply_derivative(network.activation, a_t)  # (B, H)
        d_as.append(d_a_t)
        d_h_t = d_a_t @ network.W_hh[t]  # (B, H)
    return xp.stack(d_as[::-1])


@implements("eq-sharing-step-gradients")
def step_gradients(
    network: UnsharedNetwork,
    xs: Annotated[Array, "T B I"],
    hs: Annotated[Array, "T B H"],
    d_as: Annotated[Array, "T B H"],
    d_ys: Annotated[Array, "T B O"],
    h_0: Annotated[Array, "B H"] | None = None,
) -> UnsharedNetwork:
    """The gradient of every step's own parameters (:eq:`eq-sharing-step-gradients`).

    Args:
        network: the unshared network.
        xs: inputs, (T, B, I).
        hs: the hidden states that :func:`unshared` returned for them, (T, B, H).
        d_as: ∂L/∂a_t, what :func:`unshared_backward` returned, (T, B, H).
        d_ys: ∂L/∂y_t, (T, B, O).
        h_0: the state before the first step, (B, H); zeros if None.

    Returns:
        The gradients in a record of the network's type, summed over the batch: ``.W_hh[t - 1]``,
        (H, H), belongs to step t.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(xs)
    h_prevs = xp.concat([_start(network, xs, h_0)[None], hs[:-1]])  # (T, B, H)

    def outer(d: Array, u: Array) -> Array:
        return xp.einsum("tbi,tbj->tij", d, u)

    return UnsharedNetwork(
        outer(d_as, xs),  # (T, H, I)
        outer(d_as, h_prevs),  # (T, H, H)
        d_as.sum(1),  # (T, H)
        outer(d_ys, hs),  # (T, O, H)
        d_ys.sum(1),  # (T, O)
        network.activation,
    )


# --- the gradient of a shared parameter ---------------------------------------------------------


@implements("eq-sharing-gradient")
def shared_gradient(d_network: UnsharedNetwork) -> SharedNetwork:
    """The gradient of shared parameters: the sum over their uses (:eq:`eq-sharing-gradient`).

    Args:
        d_network: the gradients of the steps' own parameters, taken where all steps agree.

    Returns:
        The gradients of the shared parameters.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    d = {name: each.sum(0) for name, each in arrays_of(d_network).items()}
    return SharedNetwork(**d, activation=d_network.activation)


@implements("eq-sharing-weight-gradient")
def shared_weight_gradient(
    d_as: Annotated[Array, "T B H"], us: Annotated[Array, "T B I"]
) -> Annotated[Array, "H I"]:
    """The gradient of one shared matrix as a single product (:eq:`eq-sharing-weight-gradient`).

    T·B rows at once, where :func:`step_gradients` and :func:`shared_gradient` form T matrices and add
    them up: the same number, sooner.

    Args:
        d_as: δ_t, the gradient of what the matrix gives, (T, B, H).
        us: what the matrix is applied to, (T, B, I): x_t for W_xh, h_{t-1} for W_hh.

    Returns:
        Σ_t δ_t u_tᵀ, summed over the batch, (H, I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_as.reshape(-1, d_as.shape[2]).T @ us.reshape(-1, us.shape[2])  # (H, I)


# --- counting -----------------------------------------------------------------------------------


@implements("eq-sharing-parameters")
def shared_parameters(input_size: int, hidden_size: int, output_size: int) -> int:
    """How many numbers the shared network learns, whatever T is (:eq:`eq-sharing-parameters`).

    torch.nn.RNN counts H more: it keeps two biases, of which only the sum matters.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.

    Returns:
        H (H + I + 1) + O (H + 1).

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 1.
    """
    I, H, O = check_counts(
        "shared_parameters", input_size=input_size, hidden_size=hidden_size, output_size=output_size
    )
    return H * (H + I + 1) + O * (H + 1)


@implements("eq-sharing-unshared-parameters")
def unshared_parameters(input_size: int, hidden_size: int, output_size: int, steps: int) -> int:
    """How many numbers the unshared network learns (:eq:`eq-sharing-unshared-parameters`).

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        steps: T.

    Returns:
        T times those of the shared network.

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 1.
    """
    I, H, O, T = check_counts(
        "unshared_parameters",
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        steps=steps,
    )
    return T * shared_parameters(I, H, O)


@implements("eq-sharing-window-parameters")
def window_parameters(input_size: int, hidden_size: int, output_size: int, steps: int) -> int:
    """How many numbers a feed-forward network on a window learns (:eq:`eq-sharing-window-parameters`).

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        steps: T, the steps that the window holds.

    Returns:
        H (T I + 1) + O (H + 1).

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 1.
    """
    I, H, O, T = check_counts(
        "window_parameters",
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        steps=steps,
    )
    return H * (T * I + 1) + O * (H + 1)


@implements("eq-sharing-multiplications")
def multiplications(input_size: int, hidden_size: int, output_size: int, steps: int, answers: int) -> int:
    """How often a recurrent network multiplies, shared or not (:eq:`eq-sharing-multiplications`).

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        steps: T.
        answers: A, the number of steps at which the output is wanted, from 1 to T.

    Returns:
        T H (H + I) + A O H, for one sequence.

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 1; more answers than steps.
    """
    I, H, O, T, A = check_counts(
        "multiplications",
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        steps=steps,
        answers=answers,
    )
    if A > T:
        raise ValueError(f"multiplications: answers is {A}, expected at most steps = {T}")
    return T * H * (H + I) + A * O * H


@implements("eq-sharing-window-multiplications")
def window_multiplications(
    input_size: int, hidden_size: int, output_size: int, steps: int, answers: int
) -> int:
    """How often a feed-forward network on a window multiplies (:eq:`eq-sharing-window-multiplications`).

    It keeps no state: every answer reads a whole window anew.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        steps: T, the steps that the window holds.
        answers: A, the number of windows.

    Returns:
        A H (T I + O).

    Raises:
        TypeError, ValueError: a size that is no whole number of at least 1.
    """
    I, H, O, T, A = check_counts(
        "window_multiplications",
        input_size=input_size,
        hidden_size=hidden_size,
        output_size=output_size,
        steps=steps,
        answers=answers,
    )
    return A * H * (T * I + O)


# --- shifts in time -----------------------------------------------------------------------------


@implements("eq-sharing-shift")
def shift(
    xs: Annotated[Array, "T B I"], padding: Annotated[Array, "I"] | None = None, steps: int = 1
) -> Annotated[Array, "T B I"]:
    """The same inputs, some steps later (:eq:`eq-sharing-shift`).

    Args:
        xs: inputs, (T, B, I).
        padding: p, what the steps before the first input hold, (I,); zeros if None.
        steps: k, from 0 to T; the last k inputs fall out at the end.

    Returns:
        (S_k x)_t, (T, B, I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps out of range.
    """
    T = int(xs.shape[0])
    k = check_count("shift", "steps", steps, 0)
    if k > T:
        raise ValueError(f"shift: steps is {k}, expected at most T = {T} set by xs")
    xp = backend_of(xs)
    before = xp.zeros_like(xs[:k])  # (k, B, I)
    if padding is not None:
        before = before + padding
    return xp.concat([before, xs[: T - k]])


@implements("eq-sharing-waiting")
def waiting_state(
    cell: VanillaCell,
    h_0: Annotated[Array, "B H"],
    padding: Annotated[Array, "I"] | None = None,
    steps: int = 1,
) -> Annotated[Array, "B H"]:
    """Where the state goes while nothing but padding comes in (:eq:`eq-sharing-waiting`).

    Args:
        cell: the cell.
        h_0: the state before the first step, (B, H).
        padding: p, (I,); zeros if None.
        steps: k, at least 0.

    Returns:
        w_k, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps that are no whole
            number of at least 0.
    """
    k = check_count("waiting_state", "steps", steps, 0)
    xp = backend_of(h_0)
    x_t = xp.zeros((h_0.shape[0], cell.input_size), like=h_0)  # (B, I)
    if padding is not None:
        x_t = x_t + padding
    w = h_0
    for _ in range(k):
        (w,), _cache = cell.step(x_t, (w,))  # (B, H)
    return w


@implements("eq-sharing-rest")
def resting_state(
    cell: VanillaCell, padding: Annotated[Array, "I"] | None = None, max_steps: int = 10_000
) -> Annotated[Array, "H"]:
    """A state that padding does not move (:eq:`eq-sharing-rest`), found by waiting.

    From the zero state. Where ‖W_hh‖ times the largest slope of σ is below 1 there is exactly one
    such state and every start leads to it; elsewhere there may be several, or none that is reached.

    Args:
        cell: the cell.
        padding: p, (I,); zeros if None.
        max_steps: how long to wait.

    Returns:
        h* with h* = σ(W_hh h* + W_xh p + b_h), up to rounding, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a state that has not come to
            rest after ``max_steps``.
    """
    check_lapack("resting_state", "W_hh", cell.W_hh)
    check_count("resting_state", "max_steps", max_steps)
    xp = backend_of(cell.W_hh)
    rounding = 2.0**-52 if cell.W_hh.dtype.itemsize == 8 else 2.0**-23
    w = xp.zeros((1, cell.hidden_size), like=cell.W_hh)  # (1, H)
    for _ in range(max_steps):
        moved = waiting_state.unchecked(cell, w, padding)
        change = float(xp.abs(moved - w).max())
        w = moved
        if change <= 4 * rounding:
            return w[0]
    raise ValueError(
        f"resting_state: the state still moves by {change:.2g} after max_steps = {max_steps}, expected it "
        "to come to rest"
    )


@implements("eq-sharing-washout")
def washout_bound(
    cell: VanillaCell,
    h_0: Annotated[Array, "B H"],
    padding: Annotated[Array, "I"] | None = None,
    steps: int = 1,
    inputs: int = 1,
) -> Annotated[Array, "B"]:
    """How far a shifted run can be from the run itself (:eq:`eq-sharing-washout`).

    Args:
        cell: the cell, in float32 or float64.
        h_0: the state both runs start from, (B, H).
        padding: p, (I,); zeros if None.
        steps: k, by how many steps the one run is shifted, at least 0.
        inputs: t, the number of inputs that both have read, at least 0.

    Returns:
        γᵗ ‖w_k - h_0‖ with γ = ‖W_hh‖ max σ', (B,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; steps or
            inputs that are no whole numbers of at least 0.
    """
    check_lapack("washout_bound", "W_hh", cell.W_hh)
    k, t = check_counts("washout_bound", 0, steps=steps, inputs=inputs)
    xp = backend_of(h_0)
    moved = waiting_state.unchecked(cell, h_0, padding, k) - h_0  # (B, H)
    gamma = activations.STEEPEST[cell.activation] * xp.svdvals(cell.W_hh)[0]
    return gamma**t * xp.sqrt((moved * moved).sum(1))  # (B,)
