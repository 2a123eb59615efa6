"""Floor 2, chapter 3: the unrolled network as a graph, as a dynamical system and as a memory.

The graph is read off the running code: :func:`traced` arrays remember what made them. Without
input, or with the same input at every step, a network is a map that is applied again and again;
its fixed points, its cycles and their stability say what becomes of the state. With input, a
contraction forgets where it started, and a linear network remembers as much as it has units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from rnnlib import activations
from rnnlib.activations import Activation
from rnnlib.backend import (
    Array,
    backend_of,
    check_count,
    check_dtype,
    check_finite,
    check_lapack,
    check_number,
)
from rnnlib.cell import ForwardCell, State
from rnnlib.equations import implements
from rnnlib.initialisation import spectral_radius
from rnnlib.unroll import initial_state, unroll
from rnnlib.vanilla import VanillaCell

# --- the computation graph ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a computation, or one array that it started from.

    Attributes:
        name: the operation, for example ``"matmul"``; of an array it started from, its own name.
        parents: what went in, in order; empty for an array it started from.
        shape: the shape of what came out.
    """

    name: str
    parents: tuple[Node, ...]
    shape: tuple[int, ...]


class TracedArray(np.ndarray):
    """A NumPy array that remembers how it came about; made by :func:`traced`.

    A view that computes nothing, such as ``W.T``, is the same node as its source; a selection, such
    as ``xs[0]``, is a node of its own. An array that is not traced counts as a constant and is no node.

    Attributes:
        node: the :class:`Node` that made it.
    """

    node: Node | None

    def __array_finalize__(self, source: Any) -> None:
        self.node = getattr(source, "node", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _remember(name, inputs, getattr(ufunc, method)(*_plain(inputs), **_plain(options)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _remember(function.__name__, (args, kwargs), function(*_plain(args), **_plain(kwargs)))

    def __getitem__(self, index: Any) -> Any:
        return _remember(f"[{index}]", (self,), np.asarray(self)[_plain(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("a traced array cannot be written into: its past would no longer be true")


def _like(value: Any, parts: Iterator[Any]) -> Any:
    """A tuple or list of the same type, a named tuple included."""
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _plain(value: Any) -> Any:
    """The same value with every traced array in it as an ordinary one."""
    if isinstance(value, TracedArray):
        return np.asarray(value)
    if isinstance(value, tuple | list):
        return _like(value, (_plain(v) for v in value))
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return value


def _nodes_in(value: Any) -> Iterator[Node]:
    if isinstance(value, TracedArray):
        if value.node is not None:
            yield value.node
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _nodes_in(part)


def _remember(name: str, inputs: Any, result: Any) -> Any:
    if isinstance(result, tuple | list):
        return _like(result, (_remember(name, inputs, r) for r in result))
    if not isinstance(result, np.ndarray | np.generic):
        return result
    array = np.asarray(result).view(TracedArray)
    array.node = Node(name, tuple(_nodes_in(inputs)), array.shape)
    return array


def traced(x: np.ndarray, name: str) -> Any:
    """A copy of an array that remembers what is computed from it.

    Args:
        x: a NumPy array.
        name: what it is called in the graph.

    Returns:
        A :class:`TracedArray` with the same numbers. Every function of the package takes it.

    Raises:
        TypeError: not a NumPy array.
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"traced: x is a {type(x).__name__}, expected a numpy.ndarray")
    array = np.array(x).view(TracedArray)
    array.node = Node(name, (), array.shape)
    return array


@dataclass(frozen=True)
class Graph:
    """What was computed, and from what.

    Attributes:
        nodes: operations and the arrays they started from, each behind everything that went in.
        edges: (from, to) as positions in ``nodes``, one for each time that a node went into another.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def depth(self) -> int:
        """How many edges the longest path has; no parallel machine can take these at once."""
        depths = [0] * len(self.nodes)
        for start, end in self.edges:  # edges come in the order of their ends
            depths[end] = max(depths[end], depths[start] + 1)
        return max(depths)


def computation_graph(result: Any) -> Graph:
    """Everything that a traced result was computed from.

    Args:
        result: a :class:`TracedArray`, computed from others.

    Returns:
        The :class:`Graph` of the result and all its ancestors. What was computed and did not go
        into the result (a check of the arguments, for example) is not in it.

    Raises:
        TypeError: an array that is not traced.
    """
    if not isinstance(result, TracedArray) or result.node is None:
        raise TypeError(
            f"computation_graph: result is a {type(result).__name__}, expected an array computed from "
            "traced ones"
        )
    position: dict[Node, int] = {}
    waiting = [result.node]
    while waiting:
        node = waiting[-1]
        missing = [parent for parent in node.parents if parent not in position]
        if missing:
            waiting.extend(reversed(missing))
        else:
            waiting.pop()
            position.setdefault(node, len(position))
    edges = tuple((position[parent], i) for node, i in position.items() for parent in node.parents)
    return Graph(tuple(position), edges)


# --- the recursion ------------------------------------------------------------------------------


@implements("eq-dynamics-flow")
def flow(cell: ForwardCell, xs: Annotated[Array, "T B I"], initial: State | Array | None = None) -> State:
    """The state after a sequence, by recursion: halve it, join the halves (:eq:`eq-dynamics-flow`).

    :func:`rnnlib.unroll.unroll` runs the same steps in a loop. The recursion is log₂ T deep, so no
    sequence is too long for it.

    Args:
        cell: the cell.
        xs: inputs, (T, B, I).
        initial: the state before the first step, (B, H) or a tuple of them; zeros if None.

    Returns:
        The state after the last step, a tuple of (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays` and
            :func:`rnnlib.unroll.initial_state`; inputs of a size that the cell does not take.
    """
    if xs.shape[2] != cell.input_size:
        raise ValueError(
            f"flow: xs has shape {tuple(xs.shape)}, expected (T, B, I) with I = {cell.input_size} "
            "set by the cell"
        )

    def through(first: int, last: int, state: State) -> State:
        if last - first == 1:
            return cell.step(xs[first], state)[0]
        middle = (first + last) // 2
        return through(middle, last, through(first, middle, state))

    return through(0, int(xs.shape[0]), initial_state(cell, xs, initial, "flow"))


# --- the network left alone ---------------------------------------------------------------------


@implements("eq-dynamics-orbit")
def orbit(
    h_0: Annotated[Array, "B H"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
    steps: int,
    activation: Activation = "tanh",
) -> Annotated[Array, "N B H"]:
    """The states of a network left to itself (:eq:`eq-dynamics-orbit`).

    An input that is the same at every step is part of the bias: b_h + W_xh x.

    Args:
        h_0: the states to start from, (B, H).
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).
        steps: T, at least 1.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        h_0, h_1, …, h_T, (N, B, H) with N = T + 1.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps not a whole number of
            at least 1; an unknown activation.
    """
    check_count("orbit", "steps", steps, 1)
    hs = [h_0]
    for _ in range(steps):
        hs.append(activations.apply(activation, hs[-1] @ W_hh.T + b_h))  # (B, H)
    return backend_of(h_0).stack(hs)  # (N, B, H)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """A root between two points where the function has opposite signs, to the last digit."""
    at_low, at_high = function(low), function(high)
    while at_low != 0 and at_high != 0:
        middle = low / 2 + high / 2
        if not low < middle < high:  # neighbours: no number is left between them
            break
        at_middle = function(middle)
        if (at_middle > 0) == (at_low > 0):
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return low if abs(at_low) < abs(at_high) else high


@implements("eq-dynamics-fixed-point")
def fixed_points(w: float, b: float = 0.0) -> Annotated[Array, "K"]:
    """The states that one unit of tanh does not leave, all of them (:eq:`eq-dynamics-fixed-point`).

    In the pre-activation u = w h + b they are the roots of G(u) = w tanh(u) + b - u. G is positive
    far on the left, negative far on the right. Its slope is w / cosh²(u) - 1. For w ≤ 1 it never
    rises: one root. For w > 1 it falls, rises and falls again, turning at ±arcosh(√w): one root at
    most in each of the three pieces. Bisection finds it and cannot leave its bracket; rounding may
    hide a double root, at a fold.

    Args:
        w: the weight of the unit on itself, a finite number.
        b: its bias, a finite number.

    Returns:
        The fixed points, smallest first, one to three, (K,) in float64. A double root, where two of
        them meet, is one point.

    Raises:
        TypeError, ValueError: an argument that is not a finite real number.
    """
    w, b = check_finite("fixed_points", "w", w), check_finite("fixed_points", "b", b)

    def G(u: float) -> float:
        return w * math.tanh(u) + (b - u)

    # |tanh| ≤ 1: every root lies in b ± |w|. A little more, so that rounding turns no sign there.
    reach = abs(w) + 1 + 1e-14 * (abs(w) + abs(b))
    low, high = b - reach, b + reach
    if w <= 1:
        roots = [_bisect(G, low, high)]
    else:
        turn = float(_arcosh_root(np.array(w)))
        roots = []
        if G(-turn) <= 0:
            roots.append(_bisect(G, min(low, -turn - 1), -turn))
        if G(-turn) < 0 < G(turn):
            roots.append(_bisect(G, -turn, turn))
        if G(turn) >= 0:
            roots.append(_bisect(G, turn, max(high, turn + 1)))
    return np.array([math.tanh(u) for u in roots])


@implements("eq-dynamics-jacobian")
def cycle_jacobian(
    cycle: Annotated[Array, "P H"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
    activation: Activation = "tanh",
) -> Annotated[Array, "H H"]:
    """What one turn around a cycle does to a small deviation (:eq:`eq-dynamics-jacobian`).

    Args:
        cycle: the states of the cycle in their order, (P, H); one row for a fixed point.
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        The product of diag(σ'(W_hh h + b_h)) W_hh over the states, the first on the right, (H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    slopes = activations.apply_derivative(activation, cycle @ W_hh.T + b_h)  # (P, H)
    product = slopes[0][:, None] * W_hh  # (H, H)
    for slope in slopes[1:]:
        product = (slope[:, None] * W_hh) @ product
    return product


@implements("eq-dynamics-stability")
def stability(
    cycle: Annotated[Array, "P H"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
    activation: Activation = "tanh",
) -> Annotated[Array, ""]:
    """The growth of deviations per turn; below 1 the cycle attracts (:eq:`eq-dynamics-stability`).

    Args:
        cycle: the states of the cycle in their order, (P, H), float32 or float64; one row for a
            fixed point.
        W_hh: recurrent weights, (H, H).
        b_h: bias, (H,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        The spectral radius of :func:`cycle_jacobian`, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.
    """
    check_lapack("stability", "cycle", cycle)
    return spectral_radius.unchecked(cycle_jacobian.unchecked(cycle, W_hh, b_h, activation))


def _arcosh_root(v: Array) -> Array:
    """arcosh(√v) for v ≥ 1, with every digit also near 1."""
    xp = backend_of(v)
    return xp.log1p(xp.sqrt(v - 1) + (v - 1) / (xp.sqrt(v) + 1))


@implements("eq-dynamics-fold")
def fold_bias(w: Annotated[Array, "N"]) -> Annotated[Array, "N"]:
    """The bias at which two fixed points of one unit meet and vanish (:eq:`eq-dynamics-fold`).

    Args:
        w: weights of one unit on itself, (N,), at least 1.

    Returns:
        The bias c, (N,); a bias between -c and c has three fixed points, one beyond has one.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a weight below 1.
    """
    if not bool((w >= 1).all()):
        raise ValueError("fold_bias: w holds a number below 1, expected all at least 1")
    return backend_of(w).sqrt(w * (w - 1)) - _arcosh_root(w)


@implements("eq-dynamics-flip")
def flip_bias(w: Annotated[Array, "N"]) -> Annotated[Array, "N"]:
    """The bias below which one unit flips for ever (:eq:`eq-dynamics-flip`).

    Args:
        w: weights of one unit on itself, (N,), at most -1.

    Returns:
        The bias c, (N,); with a bias between -c and c the fixed point repels, and the state alternates.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a weight above -1.
    """
    if not bool((w <= -1).all()):
        raise ValueError("flip_bias: w holds a number above -1, expected all at most -1")
    return backend_of(w).sqrt(w * (w + 1)) + _arcosh_root(-w)


@implements("eq-dynamics-rotation")
def rotation(gain: float, angle: float, dtype: Any = np.float64) -> Annotated[Array, "2 2"]:
    """Two units that turn their state and stretch it (:eq:`eq-dynamics-rotation`).

    Args:
        gain: g, how much every step stretches, at least 0.
        angle: θ, how far every step turns, in radians.
        dtype: dtype of the result.

    Returns:
        The weights W_hh, (2, 2), with the eigenvalues g e^{±iθ}.

    Raises:
        TypeError, ValueError: a gain below 0, an angle that is not a finite number, no floating-point
            dtype.
    """
    gain = check_number("rotation", "gain", gain, above=False)
    angle = check_finite("rotation", "angle", angle)
    check_dtype("rotation", dtype)
    across, up = gain * math.cos(angle), gain * math.sin(angle)
    return np.array([[across, -up], [up, across]], dtype=dtype)


# --- the start is washed out --------------------------------------------------------------------


@implements("eq-dynamics-rate")
def contraction_rate(W_hh: Annotated[Array, "H H"], activation: Activation = "tanh") -> Annotated[Array, ""]:
    """The most that one step can stretch a distance between states (:eq:`eq-dynamics-rate`).

    Args:
        W_hh: recurrent weights, (H, H), float32 or float64.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        γ = sup|σ'| ‖W_hh‖, a scalar; below 1 the network is a contraction, whatever its inputs.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; an unknown
            activation.
    """
    check_lapack("contraction_rate", "W_hh", W_hh)
    return activations.STEEPEST[activation] * backend_of(W_hh).svdvals(W_hh)[0]


class Distances(NamedTuple):
    """How far two runs are apart, and what that cannot exceed."""

    bound: Array
    actual: Array


@implements("eq-dynamics-contraction")
def contraction_bound(
    cell: VanillaCell,
    xs: Annotated[Array, "T B I"],
    initial: Annotated[Array, "B H"],
    other: Annotated[Array, "B H"],
) -> Distances:
    """The bound γ^t on how far two runs on the same inputs are apart (:eq:`eq-dynamics-contraction`).

    Args:
        cell: a vanilla network, float32 or float64.
        xs: the inputs of both runs, (T, B, I).
        initial: where one run starts, (B, H).
        other: where the other run starts, (B, H).

    Returns:
        ``bound``, γ^t ‖h_0 - h'_0‖ for t = 0 … T, (T+1, B); and ``actual``, ‖h_t - h'_t‖, (T+1, B).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays` and
            :func:`rnnlib.unroll.unroll`; half precision.
    """
    check_lapack("contraction_bound", "cell.W_hh", cell.W_hh)
    xp = backend_of(xs)
    gamma = contraction_rate.unchecked(cell.W_hh, cell.activation)
    gap = unroll(cell, xs, initial).hs - unroll(cell, xs, other).hs  # (T, B, H)
    gaps = xp.concat([(initial - other)[None], gap])  # (T+1, B, H)
    actual = xp.sqrt((gaps * gaps).sum(-1))  # (T+1, B)
    bounds = [actual[0]]
    for _ in range(xs.shape[0]):
        bounds.append(gamma * bounds[-1])  # (B,)
    return Distances(xp.stack(bounds), actual)


# --- the memory of a linear network -------------------------------------------------------------


def _covariance_root(where: str, W_hh: Array, W_xh: Array) -> Array:
    """F with F Fᵀ = C, the covariance of the state; (H, K).

    C itself would square the condition number. The columns W^j W_xh are gathered by doubling,
    [F, A F] with A = W, W², W⁴, …, and a QR decomposition keeps no more than H of them.
    """
    check_lapack(where, "W_hh", W_hh)
    if not bool(spectral_radius.unchecked(W_hh) < 1):
        raise ValueError(
            f"{where}: W_hh has a spectral radius of {float(spectral_radius.unchecked(W_hh)):.4g}, "
            "expected one below 1: the variance of the state would grow for ever"
        )
    xp = backend_of(W_hh)
    H, F, A = int(W_hh.shape[0]), W_xh, W_hh
    while True:
        more = A @ F  # (H, K)
        if not bool(xp.abs(more).max() > 1e-30 * xp.abs(F).max()):
            return F
        F = xp.concat([F, more], axis=1)  # (H, 2K)
        if F.shape[1] > H:
            F = xp.qr(F.T)[1].T  # (H, H)
        A = A @ A


def _check_reached(where: str, root: Array, noise: float) -> None:
    """Without noise, C must have an inverse: the inputs must reach every direction of the state."""
    if noise > 0:
        return
    H = int(root.shape[0])
    values = backend_of(root).svdvals(root)
    tiny = H * float(np.finfo(str(root.dtype).removeprefix("torch.")).eps)
    reached = int((values > tiny * values[0]).sum())
    if reached < H:
        raise ValueError(
            f"{where}: the inputs reach {reached} of the H = {H} directions of the state (as far as "
            f"{root.dtype} can tell), expected all of them, or a noise above 0"
        )


@implements("eq-dynamics-covariance")
def state_covariance(W_hh: Annotated[Array, "H H"], W_xh: Annotated[Array, "H I"]) -> Annotated[Array, "H H"]:
    """How a linear network's state spreads under white input (:eq:`eq-dynamics-covariance`).

    Args:
        W_hh: recurrent weights, (H, H), of spectral radius below 1, float32 or float64.
        W_xh: input weights, (H, I). The inputs have mean 0 and variance 1 and are uncorrelated,
            with each other and in time.

    Returns:
        C, the solution of C = W_hh C W_hhᵀ + W_xh W_xhᵀ, (H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; a spectral
            radius of 1 or more.
    """
    F = _covariance_root("state_covariance", W_hh, W_xh)
    return F @ F.T


@implements("eq-dynamics-memory")
def memory_curve(
    W_hh: Annotated[Array, "H H"], W_xh: Annotated[Array, "H I"], delays: int, noise: float = 0.0
) -> Annotated[Array, "D I"]:
    """How much of the input k steps ago a linear network still holds (:eq:`eq-dynamics-memory`).

    Computed without C or its inverse. With the vectors W^k W_xh as rows, what lies behind the last
    delay below them, and ε I below that, a QR decomposition has (C + ε² I) = RᵀR. Then m_k is the
    squared length of the row of Q that belongs to W^k W_xh.

    Args:
        W_hh: recurrent weights, (H, H), of spectral radius below 1, float32 or float64.
        W_xh: input weights, (H, I); the inputs as in :func:`state_covariance`.
        delays: D, at least 1.
        noise: ε², the variance of white noise on every unit when the state is read, at least 0.

    Returns:
        m_0, …, m_{D-1}, the squared correlation of the best linear readout with the input at each
        delay, (D, I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; a spectral
            radius of 1 or more; delays or noise out of range; without noise, inputs that do not
            reach every direction of the state.

    Jaeger (2002).
    """
    check_count("memory_curve", "delays", delays, 1)
    noise = check_number("memory_curve", "noise", noise, above=False)
    root = _covariance_root("memory_curve", W_hh, W_xh)
    _check_reached("memory_curve", root, noise)
    xp = backend_of(W_hh)
    H, I = int(W_xh.shape[0]), int(W_xh.shape[1])
    p, behind, rows = W_xh, root, []
    for _ in range(delays):
        rows.append(p.T)  # (I, H)
        p, behind = W_hh @ p, W_hh @ behind  # (H, I), (H, K)
    below = [behind.T] if noise == 0 else [behind.T, math.sqrt(noise) * xp.eye(H, like=W_hh)]
    Q, _ = xp.qr(xp.concat([*rows, *below]))  # (N, H)
    m = (Q * Q).sum(1)[: delays * I]  # (D I,)
    return m.reshape(delays, I)


@implements("eq-dynamics-capacity")
def memory_capacity(
    W_hh: Annotated[Array, "H H"], W_xh: Annotated[Array, "H I"], noise: float = 0.0
) -> Annotated[Array, ""]:
    """The memory of a linear network over all delays and inputs, at most H (:eq:`eq-dynamics-capacity`).

    Args:
        W_hh: recurrent weights, (H, H), of spectral radius below 1, float32 or float64.
        W_xh: input weights, (H, I); the inputs as in :func:`state_covariance`.
        noise: ε², the variance of white noise on every unit when the state is read, at least 0.

    Returns:
        Σ_i c_i / (c_i + ε²) over the eigenvalues c_i of C, a scalar; H without noise.

    Raises:
        TypeError, ValueError: as :func:`memory_curve`.
    """
    noise = check_number("memory_capacity", "noise", noise, above=False)
    root = _covariance_root("memory_capacity", W_hh, W_xh)
    _check_reached("memory_capacity", root, noise)
    values = backend_of(root).svdvals(root)  # (min(H, K),)
    return (values * values / (values * values + noise)).sum()


@implements("eq-dynamics-determination")
def determination(ys: Annotated[Array, "N O"], answers: Annotated[Array, "N O"]) -> Annotated[Array, "O"]:
    """R², the part of the variance that the answers explain (:eq:`eq-dynamics-determination`).

    Args:
        ys: targets, one per row, (N, O), no column constant.
        answers: what was answered, (N, O).

    Returns:
        1 - Σ (d - y)² / Σ (d - d̄)² for every output, with targets d and answers y, (O,);
        below 0 where the mean does better.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a constant column, which has
            no variance to explain.
    """
    for i in range(int(ys.shape[1])):
        if bool((ys[:, i] == ys[0, i]).all()):
            raise ValueError(
                f"determination: ys is constant in column {i}, expected a variance to be explained"
            )
    missed, centred = ys - answers, ys - ys.mean(0)  # (N, O)
    return 1 - (missed * missed).sum(0) / (centred * centred).sum(0)


@implements("eq-dynamics-adjusted")
def adjusted_determination(r2: Annotated[Array, "O"], samples: int, regressors: int) -> Annotated[Array, "O"]:
    """R² on the fitted data, less what chance gives H regressors (:eq:`eq-dynamics-adjusted`).

    Args:
        r2: R² of least-squares fits on the data they were fitted to, (O,).
        samples: N, above H + 1.
        regressors: H, at least 1, not counting the constant.

    Returns:
        1 - (1 - R²)(N - 1)/(N - H - 1), (O,); its mean is 0 where there is nothing to explain.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; counts out of range.
    """
    check_count("adjusted_determination", "regressors", regressors, 1)
    check_count("adjusted_determination", "samples", samples, regressors + 2)
    return 1 - (1 - r2) * ((samples - 1) / (samples - regressors - 1))
