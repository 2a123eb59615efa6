"""Floor 2, chapter 4: the gradient of a loss along time, in five ways.

    ∂L/∂h_t = ∂L_t/∂h_t + (∂h_{t+1}/∂h_t)ᵀ ∂L/∂h_{t+1}      the recursion, backwards in time
    ∂L/∂W = Σ_t (∂⁺h_t/∂W)ᵀ ∂L/∂h_t                         the same W at every step: a sum

:func:`bptt` runs this recursion in T steps. :func:`double_sum` runs the same derivative as it is
usually written, in T (T + 1) / 2 steps. :func:`truncated_bptt` stops early,
:func:`checkpointed_bptt` forgets and recomputes, and :func:`rtrl` goes forwards in time.

∂⁺ is the immediate derivative, with the state before the step held fixed; ∂ is the total one.

Everything here knows a cell only by its ``step`` and ``step_backward``. What takes a *network*
takes a cell, or anything that runs whole sequences by itself (:class:`Network`): a bidirectional
layer, a stack of layers, a stack of stacks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias, TypeVar, cast

from rnnlib.backend import (
    Array,
    backend_of,
    check_array,
    check_arrays,
    check_count,
    check_counts,
    check_kind,
    check_sequence,
    checked,
    is_array,
)
from rnnlib.cell import Cell, ForwardCell, State, replace_unchecked
from rnnlib.engine import Steps, choose
from rnnlib.engine.layers import run_layer_back, slabs_of
from rnnlib.equations import implements
from rnnlib.unroll import (
    Recomputed,
    Trajectory,
    as_state,
    check_trajectory,
    has_engine,
    hidden_states,
    rows_of,
    unroll,
    unroll_again,
    whole_lengths,
)

NetworkT = TypeVar("NetworkT")

# What a loss hands back when the hidden states come to it piece by piece. It gets the steps, as
# slice(0, 3) for the first three, and their hidden states, (3, B, H), and returns ∂L_t/∂h_t of
# these steps, of the same shape.
LossGradient: TypeAlias = Callable[[slice, Array], Array]


@dataclass(frozen=True)
class Gradients:
    """The derivatives of a loss with respect to everything that went into a network.

    Attributes:
        d_cell: those of the parameters, in a record of the network's own type: ``d_cell.W_hh``.
        d_xs: those of the inputs, (T, B, I); zero behind a sequence's end.
        d_initial: those of the initial state, of its form: a tuple of (B, H) for a cell.
    """

    d_cell: Any
    d_xs: Array
    d_initial: Any


# --- the parameters of a network ----------------------------------------------------------------


def parameters_of(network: Any) -> dict[str, Array]:
    """The arrays of a cell or network by name: ``"W_hh"``, or ``"layers.0.W_hh"`` inside a stack."""

    def named(value: Any, name: str) -> Iterator[tuple[str, Array]]:
        if is_array(value):
            yield name, value
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                yield from named(part, f"{name}.{i}")
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from named(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)

    return dict(named(network, ""))


def with_parameters(network: NetworkT, parameters: Mapping[str, Array]) -> NetworkT:
    """The same cell or network with other arrays in it.

    Args:
        network: a cell or network.
        parameters: an array for every name of :func:`parameters_of`.

    Raises:
        ValueError: a name is missing or unknown.
    """
    known = parameters_of(network)
    if known.keys() != parameters.keys():
        raise ValueError(
            f"with_parameters: parameters has the names {', '.join(parameters)}, expected {', '.join(known)}"
        )

    return _filled(network, "", parameters, dataclasses.replace)


def _filled(value: Any, name: str, parameters: Mapping[str, Array], replace: Callable[..., Any]) -> Any:
    """``value``, called ``name`` within its network, with the arrays of ``parameters`` in it."""
    if is_array(value):
        return parameters[name]
    if isinstance(value, tuple):
        return tuple(_filled(part, f"{name}.{i}", parameters, replace) for i, part in enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        prefix = f"{name}." if name else ""
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return replace(
            value, **{f: _filled(part, prefix + f, parameters, replace) for f, part in fields.items()}
        )
    return value


def _gradient_record(network: NetworkT, gradients: Mapping[str, Array]) -> NetworkT:
    """A record of the network's own type that holds gradients, which may be inf or NaN."""
    return cast(NetworkT, _filled(network, "", gradients, replace_unchecked))


def _added(total: dict[str, Array], gradient: Any) -> dict[str, Array]:
    """A running sum of parameter gradients, one term longer."""
    terms = parameters_of(gradient)
    return {name: total[name] + term for name, term in terms.items()} if total else terms


def _sum(gradients: Iterable[Any]) -> Any:
    """The sum of parameter gradients, a record of their own type."""
    total: dict[str, Array] = {}
    gradient = None
    for gradient in gradients:
        total = _added(total, gradient)
    return _gradient_record(gradient, total)


# --- one step back ------------------------------------------------------------------------------


def _step_back(cell: Cell, trajectory: Trajectory, t: int, d_state: State) -> tuple[Array, State, Any]:
    """Step t (from 0) backward; a sequence that had ended hands its gradient on unchanged."""
    if trajectory.mask is None:
        return cell.step_backward(d_state, trajectory.caches[t])
    xp = backend_of(trajectory.hs)
    here = trajectory.mask[t][:, None] > 0  # (B, 1)
    inside = tuple(xp.where(here, d, xp.zeros_like(d)) for d in d_state)
    d_x_t, d_prev, d_cell_t = cell.step_backward(inside, trajectory.caches[t])
    return d_x_t, tuple(xp.where(here, p, d) for p, d in zip(d_prev, d_state, strict=True)), d_cell_t


def _from_loss(trajectory: Trajectory, d_hs: Array, t: int) -> Array:
    """∂L_t/∂h_t; nothing behind a sequence's end, where h_t is zero whatever happens."""
    if trajectory.mask is None:
        return d_hs[t]  # (B, H)
    xp = backend_of(d_hs)
    return xp.where(trajectory.mask[t][:, None] > 0, d_hs[t], xp.zeros_like(d_hs[t]))  # (B, H)


def _state_gradient(where: str, name: str, cell: Cell, trajectory: Trajectory, d_state: Any) -> State:
    """A gradient of a state, checked."""
    names = [f"{name}.{part}" for part in cell.state_names]
    return as_state(f"{where}: {name}", cell, d_state, names, trajectory.hs[0], "hs")


def _final_gradient(where: str, cell: Cell, trajectory: Trajectory, d_final: Any) -> State:
    """A gradient of the final state, checked; zeros for None."""
    if d_final is None:
        return tuple(backend_of(x).zeros_like(x) for x in trajectory.initial)
    return _state_gradient(where, "d_final", cell, trajectory, d_final)


# --- the recursion ------------------------------------------------------------------------------


@implements("eq-bptt-recursion")
def state_gradients(
    cell: Cell,
    trajectory: Trajectory,
    d_hs: Annotated[Array, "T B H"],
    d_final: State | Array | None = None,
) -> tuple[State, ...]:
    """The total derivative of the loss with respect to every state (:eq:`eq-bptt-recursion`).

    What h_t does to the loss: at once, through L_t, and later, through h_{t+1}. One pass from the
    last step to the first (Werbos 1990). A state of two arrays is one point: ∂L/∂C_t holds h_t
    fixed, and what C_t does through h_t counts in the step that made both.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_hs: ∂L_t/∂h_t, what each step's loss says of its hidden state alone, (T, B, H).
        d_final: ∂L/∂(final state), a tuple of (B, H), if the loss sees it; zeros if None.

    Returns:
        T + 1 states: number t is ∂L/∂h_t (and ∂L/∂C_t), number 0 belongs to the initial state.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    check_trajectory("state_gradients", cell, trajectory)
    d_state = _final_gradient("state_gradients", cell, trajectory, d_final)
    d_states = []
    for t in reversed(range(len(trajectory.caches))):
        d_state = (d_state[0] + _from_loss(trajectory, d_hs, t), *d_state[1:])
        d_states.append(d_state)
        _, d_state, _ = _step_back(cell, trajectory, t, d_state)
    return (d_state, *reversed(d_states))


def _check_states(where: str, cell: Cell, trajectory: Trajectory, d_states: tuple[State, ...]) -> None:
    """A trajectory of the cell, and T + 1 tuples of arrays in the shapes of its state."""
    check_trajectory(where, cell, trajectory)
    expected, arrays = len(trajectory.caches) + 1, len(trajectory.initial)
    came = len(check_sequence(where, "d_states", d_states, f"T + 1 = {expected} states"))
    if came != expected:
        raise ValueError(f"{where}: d_states has {came} states, expected T + 1 = {expected}")
    entries = [("hs", trajectory.hs[0], "B H")]
    for t, d_state in enumerate(d_states):
        if not isinstance(d_state, tuple) or len(d_state) != arrays:
            found = f"{len(d_state)} arrays" if isinstance(d_state, tuple) else f"a {type(d_state).__name__}"
            raise TypeError(f"{where}: d_states[{t}] is {found}, expected a tuple of {arrays}")
        entries += [(f"d_states[{t}]", d, "B H") for d in d_state]
    check_arrays(where, entries)


@implements("eq-bptt-parameters")
def parameter_gradients(cell: Cell, trajectory: Trajectory, d_states: tuple[State, ...]) -> Any:
    """The gradient of the parameters: one immediate derivative per step (:eq:`eq-bptt-parameters`).

    The same parameters act at every step, so their gradient is the sum over the steps.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_states: what :func:`state_gradients` returned.

    Returns:
        ∂L/∂θ in a record of the cell's type, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; not T + 1 states.
    """
    _check_states("parameter_gradients", cell, trajectory, d_states)
    T = len(trajectory.caches)
    return _sum(_step_back(cell, trajectory, t, d_states[t + 1])[2] for t in reversed(range(T)))


@implements("eq-bptt-inputs")
def input_gradients(
    cell: Cell, trajectory: Trajectory, d_states: tuple[State, ...]
) -> Annotated[Array, "T B I"]:
    """The gradient of the inputs, each seen by one step only (:eq:`eq-bptt-inputs`).

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_states: what :func:`state_gradients` returned.

    Returns:
        ∂L/∂x_t for every t, (T, B, I).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; not T + 1 states.
    """
    _check_states("input_gradients", cell, trajectory, d_states)
    T = len(trajectory.caches)
    d_xs = [_step_back(cell, trajectory, t, d_states[t + 1])[0] for t in range(T)]
    return backend_of(trajectory.hs).stack(d_xs)  # (T, B, I)


def _by_engine(caches: Recomputed, d_hs: Array, d_final: State) -> Gradients:
    """The gradients of what the engine ran, by the engine."""
    T, B = d_hs.shape[:2]
    slabs = slabs_of(caches.cell)
    if slabs is None:
        raise TypeError(f"bptt: the engine does not have a {type(caches.cell).__name__}")
    x, steps = rows_of(caches.xs), Steps((B,) * T)
    d_x, *others = run_layer_back(
        slabs.layer,
        steps,
        rows_of(d_hs),
        d_final,
        x,
        *caches.initial,
        *slabs.weights,
        rows=caches.rows,
        loops=choose(x, steps),
        needs_d_x=True,
    )
    d_initial, d_weights = others[: len(d_final)], others[len(d_final) :]
    return Gradients(slabs.gradients(*d_weights), cast(Array, d_x).reshape(caches.xs.shape), tuple(d_initial))


@checked
def bptt(
    cell: Cell,
    trajectory: Trajectory,
    d_hs: Annotated[Array, "T B H"],
    d_final: State | Array | None = None,
) -> Gradients:
    """Backpropagation through time, all gradients in one pass of T steps (Werbos 1990).

    :func:`state_gradients`, :func:`parameter_gradients` and :func:`input_gradients` together.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_hs: ∂L_t/∂h_t, what each step's loss says of its hidden state alone, (T, B, H); entries
            behind a sequence's end count for nothing.
        d_final: ∂L/∂(final state), a tuple of (B, H), if the loss sees it; zeros if None.

    Returns:
        The :class:`Gradients`.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    check_trajectory("bptt", cell, trajectory)
    d_state = _final_gradient("bptt", cell, trajectory, d_final)
    if isinstance(trajectory.caches, Recomputed) and trajectory.caches.cell is cell:
        return _by_engine(trajectory.caches, d_hs, d_state)
    d_cell: dict[str, Array] = {}
    d_cell_t: Any = None
    d_xs = []
    for t in reversed(range(len(trajectory.caches))):
        d_state = (d_state[0] + _from_loss(trajectory, d_hs, t), *d_state[1:])  # ∂L/∂h_t
        d_x_t, d_state, d_cell_t = _step_back(cell, trajectory, t, d_state)
        d_cell = _added(d_cell, d_cell_t)
        d_xs.append(d_x_t)
    return Gradients(_gradient_record(d_cell_t, d_cell), backend_of(d_hs).stack(d_xs[::-1]), d_state)


# --- the double sum -----------------------------------------------------------------------------


@implements("eq-bptt-vector-jacobian")
def vector_jacobian_product(
    cell: Cell, trajectory: Trajectory, d_state: State | Array, t: int, k: int
) -> State:
    """A gradient at step t carried back to step k (:eq:`eq-bptt-vector-jacobian`).

    The transposed product of the steps' Jacobians times a vector. No Jacobian is ever written out:
    taken from the right, each factor meets a vector.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_state: a gradient of the state after step t, a tuple of (B, H).
        t: the later step, from 0 (the initial state) to T.
        k: the earlier step, from 0 to t.

    Returns:
        (∂h_t/∂h_k)ᵀ ``d_state``, a tuple of (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; not 0 ≤ k ≤ t ≤ T.
    """
    check_trajectory("vector_jacobian_product", cell, trajectory)
    t = check_count("vector_jacobian_product", "t", t, 0, len(trajectory.caches))
    k = check_count("vector_jacobian_product", "k", k, 0, t)
    d_state = _state_gradient("vector_jacobian_product", "d_state", cell, trajectory, d_state)
    for i in range(t, k, -1):  # ∂h_i/∂h_{i-1}: step i is number i - 1 of the caches
        _, d_state, _ = _step_back(cell, trajectory, i - 1, d_state)
    return d_state


def _loss_state(trajectory: Trajectory, d_hs: Array, t: int) -> State:
    """∂L_t/∂(state t): the loss of a step sees the hidden state and nothing else."""
    zeros = backend_of(d_hs).zeros_like
    return (_from_loss(trajectory, d_hs, t), *(zeros(x) for x in trajectory.initial[1:]))


@implements("eq-bptt-immediate")
def immediate_gradients(
    cell: Cell, trajectory: Trajectory, d_hs: Annotated[Array, "T B H"]
) -> tuple[Any, ...]:
    """The immediate derivative of every step's loss: h_{t-1} is held fixed (:eq:`eq-bptt-immediate`).

    What the parameters do to L_t through step t alone, as if h_{t-1} had come from elsewhere.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_hs: ∂L_t/∂h_t, (T, B, H).

    Returns:
        ∂⁺L_t/∂θ for t = 1, …, T, each in a record of the cell's type.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    check_trajectory("immediate_gradients", cell, trajectory)
    return tuple(
        _step_back(cell, trajectory, t, _loss_state(trajectory, d_hs, t))[2]
        for t in range(len(trajectory.caches))
    )


@implements("eq-bptt-total")
def total_gradients(cell: Cell, trajectory: Trajectory, d_hs: Annotated[Array, "T B H"]) -> tuple[Any, ...]:
    """The total derivative of every step's loss, through all steps before (:eq:`eq-bptt-total`).

    The inner sum of the notes' double sum: L_t goes back through t, t - 1, …, 1 by itself.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_hs: ∂L_t/∂h_t, (T, B, H).

    Returns:
        ∂L_t/∂θ for t = 1, …, T, each in a record of the cell's type.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """

    check_trajectory("total_gradients", cell, trajectory)

    def terms(t: int) -> Iterator[Any]:
        d_state = _loss_state(trajectory, d_hs, t)
        for k in range(t, -1, -1):
            _, d_state, d_cell_k = _step_back(cell, trajectory, k, d_state)
            yield d_cell_k  # ∂L_t/∂h_t ∂h_t/∂h_k ∂⁺h_k/∂θ

    return tuple(_sum(terms(t)) for t in range(len(trajectory.caches)))


@implements("eq-bptt-double-sum")
def double_sum(cell: Cell, trajectory: Trajectory, d_hs: Annotated[Array, "T B H"]) -> Any:
    """The gradient of the parameters, run as the notes write it (:eq:`eq-bptt-double-sum`).

    For teaching: T (T + 1) / 2 steps back where :func:`bptt` needs T, for the same number. A
    :class:`Meter` counts them.

    Args:
        cell: the cell.
        trajectory: what :func:`rnnlib.unroll.unroll` returned for it.
        d_hs: ∂L_t/∂h_t, (T, B, H).

    Returns:
        ∂L/∂θ in a record of the cell's type, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    check_trajectory("double_sum", cell, trajectory)
    return _sum(total_gradients.unchecked(cell, trajectory, d_hs))


# --- cells and networks behind one interface ----------------------------------------------------


class NetworkTrajectory(Protocol):
    """What a network did along a sequence; where the network is causal it has a ``window`` too."""

    @property
    def hs(self) -> Array:
        """The hidden states that come out, (T, B, H)."""

    @property
    def initial(self) -> Any:
        """The state before the first step, a tuple of the states of its parts."""

    @property
    def final(self) -> Any:
        """The state after each sequence's last step."""

    @property
    def mask(self) -> Array | None:
        """Which steps belong to a sequence, (T, B), or None where all do."""


class Network(Protocol):
    """What runs whole sequences by itself: layers that are more than one cell along time.

    What it did along a sequence is a :class:`NetworkTrajectory`.
    """

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""

    @property
    def hidden_size(self) -> int:
        """H, the size of the hidden states that come out."""

    @property
    def causal(self) -> bool:
        """Whether step t needs nothing of the steps behind it."""

    def forward(self, xs: Array, initial: Any = None, lengths: Any = None, dropout_masks: Any = None) -> Any:
        """Run along a sequence; see :func:`forward`."""

    def backward(self, trajectory: Any, d_hs: Array, d_final: Any = None) -> Gradients:
        """The way back; see :func:`backward`."""

    def outputs(
        self, xs: Array, initial: Any, lengths: Any, dropout_masks: Any, segment: int
    ) -> tuple[Array, Any]:
        """The hidden states and the final state; called by :func:`outputs` if not causal."""

    def checkpointed(
        self,
        xs: Array,
        loss_gradient: Array | LossGradient,
        initial: Any,
        lengths: Any,
        dropout_masks: Any,
        segment: int,
        d_final: Any,
        keep_outputs: bool,
    ) -> Gradients:
        """The gradients; called by :func:`checkpointed_bptt` if not causal."""


def check_network(where: str, name: str, network: Any) -> None:
    """Refuse what is neither a cell nor a network; the way back is asked of a cell when it is taken.

    Raises:
        TypeError: naming what came.
    """
    check_kind(where, name, network, ForwardCell, Network)


def forward(
    network: Cell | Network,
    xs: Array,
    initial: Any = None,
    lengths: Any = None,
    dropout_masks: Any = None,
) -> Any:
    """Run a cell or a network along a sequence.

    Args:
        network: a cell, or a network of cells.
        xs: inputs, (T, B, I).
        initial: the state before the first step; zeros where None.
        lengths: the number of steps of each sequence, or None where all have T.
        dropout_masks: what a stack multiplies its hidden states by, between its layers
            (see :func:`rnnlib.deep.dropout_masks`).

    Returns:
        The trajectory: ``hs`` (T, B, H), ``initial``, ``final``, ``mask``, and what
        :func:`backward` needs.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.unroll.unroll`; dropout masks where nothing is
            stacked.
    """
    check_network("forward", "network", network)
    if hasattr(network, "forward"):
        return network.forward(xs, initial, lengths, dropout_masks)
    check_dropout(network, dropout_masks, xs)
    return unroll(network, xs, initial, lengths)


def backward(network: Cell | Network, trajectory: Any, d_hs: Array, d_final: Any = None) -> Gradients:
    """The gradients of a cell or a network along a sequence.

    Args:
        network: a cell, or a network of cells.
        trajectory: what :func:`forward` returned for it.
        d_hs: ∂L_t/∂h_t, (T, B, H).
        d_final: ∂L/∂(final state), of the form of ``trajectory.final``; zeros where None.

    Returns:
        The :class:`Gradients`.

    Raises:
        TypeError, ValueError: see :func:`bptt`.
    """
    check_network("backward", "network", network)
    if hasattr(network, "backward"):
        return network.backward(trajectory, d_hs, d_final)
    return bptt(network, trajectory, d_hs, d_final)


def map_state(function: Callable[..., Any], state: Any, *others: Any) -> Any:
    """A state with ``function`` applied to its arrays, however deep the tuples; None stays None."""
    if isinstance(state, tuple):
        return tuple(map_state(function, *parts) for parts in zip(state, *others, strict=True))
    return None if state is None else function(state, *others)


def is_causal(network: Cell | Network) -> bool:
    """Whether step t of the network needs no later input; true of every cell."""
    return getattr(network, "causal", True)


def _check_causal(where: str, network: Cell | Network) -> None:
    if not is_causal(network):
        raise ValueError(
            f"{where}: the {type(network).__name__} reads the sequence backwards too, expected a network "
            "whose step t needs no later input: at step t the future is not there yet"
        )


def check_dropout(network: Any, dropout_masks: Any, xs: Array) -> None:
    """Refuse dropout masks that do not fit: to a stack it says which do, to all else none.

    Args:
        network: a cell, or a network of cells.
        dropout_masks: the masks, or None.
        xs: inputs, (T, B, I).

    Raises:
        TypeError, ValueError: the masks do not fit; there are masks where nothing is stacked.
    """
    if hasattr(network, "check_dropout"):
        network.check_dropout(dropout_masks, xs)
    elif dropout_masks is not None:
        raise ValueError(
            f"{type(network).__name__}: dropout_masks is given, expected None: they act between the layers "
            "of a stack"
        )


def gradient_of_loss(
    loss_gradient: Array | LossGradient, steps: slice, hs: Array, where: str = "gradient_of_loss"
) -> Array:
    """∂L_t/∂h_t for some steps, from the array of all or from the function that computes it.

    Raises:
        TypeError, ValueError: not of the shape, kind or dtype of ``hs``.
    """
    if callable(loss_gradient):
        d_hs, name = loss_gradient(steps, hs), "the result of loss_gradient"
    else:
        d_hs, name = loss_gradient[steps], "loss_gradient"
    check_arrays(where, [("hs", hs, "T B H"), (name, d_hs, "T B H")])
    return d_hs


def _check_loss_gradient(where: str, loss_gradient: Any, network: Cell | Network, xs: Array) -> None:
    """An array must cover all steps: cut into steps, a longer one would pass unseen."""
    if callable(loss_gradient):
        return
    if not is_array(loss_gradient):
        raise TypeError(
            f"{where}: loss_gradient is a {type(loss_gradient).__name__}, expected an array or a function"
        )
    sizes = check_arrays(where, [("xs", xs, "T B I"), ("loss_gradient", loss_gradient, "T B H")])
    if sizes["H"] != network.hidden_size:
        raise ValueError(
            f"{where}: loss_gradient has shape {tuple(loss_gradient.shape)}, expected (T, B, H) with "
            f"H = {network.hidden_size} set by network"
        )


@dataclass(frozen=True)
class _Inputs:
    """What :func:`forward` is given besides the state, to be cut into steps or sequences."""

    xs: Array
    lengths: list[int] | None
    dropout_masks: tuple[Array, ...] | None

    @classmethod
    def of(cls, where: str, network: Cell | Network, xs: Array, lengths: Any, dropout_masks: Any) -> _Inputs:
        """All of them, checked as a whole: cut, what is too long would pass unseen."""
        check_dropout(network, dropout_masks, xs)
        whole = None if lengths is None else whole_lengths(lengths, int(xs.shape[0]), int(xs.shape[1]), where)
        return cls(xs, whole, dropout_masks)

    def steps(self, start: int, stop: int) -> _Inputs:
        """The steps start + 1, …, stop alone."""
        lengths, masks = self.lengths, self.dropout_masks
        if lengths is not None:
            lengths = [min(max(n - start, 0), stop - start) for n in lengths]
        if masks is not None:  # a mask (B, H) is that of every step
            masks = tuple(m if m.ndim == 2 else m[start:stop] for m in masks)
        return _Inputs(self.xs[start:stop], lengths, masks)

    def sequence(self, b: int) -> _Inputs:
        """Sequence b alone, a batch of one."""
        lengths, masks = self.lengths, self.dropout_masks
        if lengths is not None:
            lengths = lengths[b : b + 1]
        if masks is not None:
            masks = tuple(m[..., b : b + 1, :] for m in masks)
        return _Inputs(self.xs[:, b : b + 1], lengths, masks)

    def run(self, network: Cell | Network, state: Any, hs: Array | None = None) -> Any:
        """The network on them, from a state; where :meth:`has_engine`, its hidden states may be known."""
        if hs is not None:
            return unroll_again.unchecked(cast(Cell, network), self.xs, hs, state)  # checked when it ran
        return forward(network, self.xs, state, self.lengths, self.dropout_masks)

    def whole_for_cell(self, network: Cell | Network) -> bool:
        """Whether the network is a cell, and no sequence ends early."""
        return self.lengths is None and not hasattr(network, "forward")

    def has_engine(self, network: Cell | Network) -> bool:
        """Whether it is the engine that runs them."""
        return self.whole_for_cell(network) and has_engine(cast(Cell, network), self.xs)

    def outputs(self, network: Cell | Network, state: Any) -> tuple[Array, Any]:
        """The network's hidden states, and its state after them, from a state before them."""
        if self.whole_for_cell(network):
            return hidden_states(cast(Cell, network), self.xs, state)
        trajectory = self.run(network, state)
        return trajectory.hs, trajectory.final


# --- truncated ----------------------------------------------------------------------------------


@implements("eq-bptt-truncated")
def truncated_bptt(
    network: Cell | Network,
    trajectory: NetworkTrajectory,
    d_hs: Annotated[Array, "T B H"],
    k1: int,
    k2: int,
    d_final: Any = None,
) -> Gradients:
    """Truncated backpropagation through time (:eq:`eq-bptt-truncated`; Williams and Peng 1990).

    After every k1 steps, and at the end, the losses of the steps since last time are carried back
    together, through the last k2 steps and no further: the state before them counts as a constant.
    So each L_t goes back once, through at least k2 - k1 + 1 steps and at most k2, or to the
    start. With k2 ≥ T it is full backpropagation, whatever k1.

    Args:
        network: a cell, or a causal network.
        trajectory: what :func:`forward` returned for it.
        d_hs: ∂L_t/∂h_t, (T, B, H).
        k1: the number of steps from one way back to the next, at least 1.
        k2: the number of steps that each way back goes through, at least k1.
        d_final: ∂L/∂(final state), carried back with the last losses; zeros where None.

    Returns:
        The :class:`Gradients`, summed over all ways back; ``d_initial`` from those that reach it.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; k1 below 1 or k2 below k1;
            a network that needs the future.
    """
    _check_causal("truncated_bptt", network)
    k1 = check_count("truncated_bptt", "k1", k1)
    k2 = check_count("truncated_bptt", "k2", k2, k1)
    check_arrays("truncated_bptt", [("hs", trajectory.hs, "T B H"), ("d_hs", d_hs, "T B H")])
    xp, T = backend_of(d_hs), int(d_hs.shape[0])
    causal: Any = trajectory  # it has windows

    d_cell: dict[str, Array] = {}
    d_xs: list[Any] = [0] * T
    d_initial = map_state(xp.zeros_like, trajectory.initial)
    for begin in range(0, T, k1):
        stop = min(begin + k1, T)
        start = max(stop - k2, 0)
        losses = xp.concat([xp.zeros_like(d_hs[start:begin]), d_hs[begin:stop]])  # (stop - start, B, H)
        part = backward(network, causal.window(start, stop), losses, d_final if stop == T else None)
        d_cell = _added(d_cell, part.d_cell)
        for t in range(start, stop):
            d_xs[t] = d_xs[t] + part.d_xs[t - start]
        if start == 0:
            d_initial = map_state(lambda a, b: a + b, d_initial, part.d_initial)
    return Gradients(_gradient_record(part.d_cell, d_cell), xp.stack(d_xs), d_initial)


# --- checkpointed -------------------------------------------------------------------------------


@implements("eq-bptt-checkpoint-memory")
def checkpoint_memory(steps: int, segment: int) -> int:
    """How many states and caches checkpointing holds at most (:eq:`eq-bptt-checkpoint-memory`).

    One state in front of every segment, and the caches of one segment. The sum is smallest, about
    2√T, where both are √T.

    Args:
        steps: T, at least 1.
        segment: k, the number of steps in a segment, at least 1.

    Returns:
        ⌈T/k⌉ + min(k, T).

    Raises:
        ValueError: a number below 1.
    """
    steps, segment = check_counts("checkpoint_memory", steps=steps, segment=segment)
    return -(-steps // segment) + min(segment, steps)


@implements("eq-bptt-checkpoint")
def checkpointed_bptt(
    network: Cell | Network,
    xs: Annotated[Array, "T B I"],
    loss_gradient: Array | LossGradient,
    initial: Any = None,
    lengths: Any = None,
    dropout_masks: Any = None,
    segment: int | None = None,
    d_final: Any = None,
    keep_outputs: bool = False,
) -> Gradients:
    """Backpropagation that forgets and computes again (:eq:`eq-bptt-checkpoint`; Chen et al. 2016).

    On the way forward only the state in front of every segment is kept; on the way back each
    segment is run once more, the last one first. The gradients are those of :func:`bptt`, for less
    than one forward pass on top. With segments of √T steps it holds about √T states and √T caches
    (:func:`checkpoint_memory`; a :class:`Meter` counts them).

    A network that reads from both ends has no state to start a segment from. There every
    direction of every layer is checkpointed by itself: the hidden states that go from layer to
    layer are kept, the caches are not.

    Args:
        network: a cell or any network.
        xs: inputs, (T, B, I).
        loss_gradient: ∂L_t/∂h_t, (T, B, H); or a function that gives it for some steps from their
            hidden states (``LossGradient``), so that these need not be kept either. It is
            called once for every segment, the last one first, or once for all steps where the
            network reads from both ends.
        initial: the state before the first step; zeros where None.
        lengths: the number of steps of each sequence, or None where all have T.
        dropout_masks: see :func:`forward`.
        segment: the number of steps in a segment, at least 1; ⌈√T⌉ if None.
        d_final: ∂L/∂(final state); zeros where None.
        keep_outputs: whether to keep the hidden states of all steps as well, T · B · H numbers more. Then
            the second run of a segment does all its steps at once
            (:func:`rnnlib.unroll.unroll_again`). Where :mod:`rnnlib.engine` does not run the
            network's cells, and with ``lengths``, it changes nothing.

    Returns:
        The :class:`Gradients`.

    Raises:
        TypeError, ValueError: see :func:`forward` and :func:`backward`; a segment below 1; a loss
            gradient of another shape.
    """
    T = int(xs.shape[0])
    k = math.isqrt(T - 1) + 1 if segment is None else check_count("checkpointed_bptt", "segment", segment)
    _check_loss_gradient("checkpointed_bptt", loss_gradient, network, xs)
    if not is_causal(network):
        both_ends: Any = network
        return both_ends.checkpointed(
            xs, loss_gradient, initial, lengths, dropout_masks, k, d_final, keep_outputs
        )

    inputs = _Inputs.of("checkpointed_bptt", network, xs, lengths, dropout_masks)
    keep_outputs = keep_outputs and inputs.steps(0, min(k, T)).has_engine(network)
    states, kept = [initial], []  # the state in front of every segment; the hidden states in it
    for start in range(0, T - k, k):
        hs, state = inputs.steps(start, start + k).outputs(network, states[-1])
        states.append(state)
        kept.append(hs if keep_outputs else None)
    kept.append(None)  # the last segment is run once only

    d_cell: dict[str, Array] = {}
    d_state, d_xs = d_final, None
    for start in reversed(range(0, T, k)):
        stop, hs = min(start + k, T), kept.pop()
        trajectory = inputs.steps(start, stop).run(network, states.pop(), hs)
        d_hs = gradient_of_loss(loss_gradient, slice(start, stop), trajectory.hs, "checkpointed_bptt")
        part = backward(network, trajectory, d_hs, d_state)
        del trajectory  # before the next one is made
        d_cell, d_state = _added(d_cell, part.d_cell), part.d_initial
        if d_xs is None:
            d_xs = backend_of(xs).empty(xs.shape, like=part.d_xs)
        d_xs[start:stop] = part.d_xs
    return Gradients(_gradient_record(part.d_cell, d_cell), d_xs, d_state)


def outputs(
    network: Cell | Network,
    xs: Array,
    initial: Any = None,
    lengths: Any = None,
    dropout_masks: Any = None,
    segment: int = 1,
) -> tuple[Array, Any]:
    """Forward only: the hidden states of a network, with the caches of a segment held at most.

    Args:
        network: a cell or any network.
        xs: inputs, (T, B, I).
        initial: the state before the first step; zeros where None.
        lengths: the number of steps of each sequence, or None where all have T.
        dropout_masks: see :func:`forward`.
        segment: the number of steps in a segment, at least 1.

    Returns:
        ``hs`` (T, B, H), and the final state.

    Raises:
        TypeError, ValueError: see :func:`forward`; a segment below 1.
    """
    check_network("outputs", "network", network)
    check_arrays("outputs", [("xs", xs, "T B I")])
    segment = check_count("outputs", "segment", segment)
    if not is_causal(network):
        both_ends: Any = network
        return both_ends.outputs(xs, initial, lengths, dropout_masks, segment)
    inputs = _Inputs.of("outputs", network, xs, lengths, dropout_masks)
    hs, state = [], initial
    for start in range(0, xs.shape[0], segment):
        h_segment, state = inputs.steps(start, min(start + segment, xs.shape[0])).outputs(network, state)
        hs.append(h_segment)
    return backend_of(xs).concat(hs), state


# --- real-time recurrent learning ---------------------------------------------------------------


@implements("eq-bptt-sensitivity")
def sensitivity(
    J_t: Annotated[Array, "S S"],
    S_prev: Annotated[Array, "S P"],
    immediate: Annotated[Array, "S P"],
) -> Annotated[Array, "S P"]:
    """How the state depends on the parameters, one step on (:eq:`eq-bptt-sensitivity`).

    Args:
        J_t: ∂h_t/∂h_{t-1}, (S, S), for a state of S numbers.
        S_prev: S_{t-1} = ∂h_{t-1}/∂θ, (S, P), for P parameters.
        immediate: ∂⁺h_t/∂θ, (S, P).

    Returns:
        S_t = ∂h_t/∂θ, (S, P).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return J_t @ S_prev + immediate  # (S, P)


@implements("eq-bptt-sensitivity-gradient")
def sensitivity_gradient(
    d_prev: Annotated[Array, "S"],
    S_prev: Annotated[Array, "S P"],
    immediate: Annotated[Array, "P"],
) -> Annotated[Array, "P"]:
    """The gradient of one step's loss, known at that step (:eq:`eq-bptt-sensitivity-gradient`).

    Args:
        d_prev: ∂L_t/∂h_{t-1}, through step t alone, (S,).
        S_prev: S_{t-1} = ∂h_{t-1}/∂θ, (S, P).
        immediate: ∂⁺L_t/∂θ, (P,).

    Returns:
        ∂L_t/∂θ, the total derivative, (P,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_prev @ S_prev + immediate  # (P,)


def _vector(state: Any) -> Array:
    """The numbers of a state of one sequence, one after the other, (S,)."""
    rows: list[Array] = []
    map_state(lambda x: rows.append(x[0]), state)
    return backend_of(rows[0]).concat(rows)


def _from_vector(vector: Array, like: Any) -> Any:
    """The state of one sequence that has these numbers; the inverse of :func:`_vector`."""
    rest = vector

    def part(x: Array) -> Array:
        nonlocal rest
        head, rest = rest[: x.shape[1]], rest[x.shape[1] :]
        return head[None]  # (1, H)

    return map_state(part, like)


def _sequence(state: Any, b: int) -> Any:
    """The state of sequence b, a batch of one."""
    return map_state(lambda x: x[b : b + 1], state)


def _check_rows(where: str, name: str, state: Any, batch: int) -> None:
    """A state must have a row for every sequence: cut into rows, one too many would pass unseen."""

    def check(x: Any) -> None:
        check_array(where, name, x)
        if x.shape[:1] != (batch,):
            raise ValueError(
                f"{where}: {name} has shape {tuple(x.shape)}, expected B = {batch} rows set by xs"
            )

    map_state(check, state)


def _parameter_vector(d_cell: Any) -> Array:
    """The numbers of a gradient of parameters, one after the other, (P,)."""
    arrays = list(parameters_of(d_cell).values())
    return backend_of(arrays[0]).concat([a.reshape(-1) for a in arrays])


def _from_parameter_vector(vector: Array, like: Any) -> Any:
    """The record that has these numbers; the inverse of :func:`_parameter_vector`."""
    parts, offset = {}, 0
    for name, array in parameters_of(like).items():
        size = math.prod(array.shape)
        parts[name] = vector[offset : offset + size].reshape(tuple(array.shape))
        offset += size
    return _gradient_record(like, parts)


@checked
def rtrl(
    network: Cell | Network,
    xs: Annotated[Array, "T B I"],
    loss_gradient: Array | LossGradient,
    initial: Any = None,
    lengths: Any = None,
    dropout_masks: Any = None,
    d_final: Any = None,
) -> tuple[Any, Any]:
    """Real-time recurrent learning: the same gradients, forwards in time (Williams and Zipser 1989).

    Beside every sequence runs its :func:`sensitivity` ∂h_t/∂θ. Nothing of the past is kept, and
    the gradient of a step's loss is known at that step. The price: a state of S numbers takes S
    ways back through every step and S times the memory of the parameters, for each sequence.

    Args:
        network: a cell, or a causal network.
        xs: inputs, (T, B, I).
        loss_gradient: ∂L_t/∂h_t, (T, B, H), or a function that gives it (``LossGradient``),
            called for one step after the other.
        initial: the state before the first step; zeros where None.
        lengths: the number of steps of each sequence, or None where all have T.
        dropout_masks: see :func:`forward`.
        d_final: ∂L/∂(final state); zeros where None.

    Returns:
        ``d_cell``, ∂L/∂θ in a record of the network's type, and ``d_initial``.

    Raises:
        TypeError, ValueError: see :func:`forward` and :func:`backward`; a loss gradient of another
            shape; a network that needs the future.
    """
    _check_causal("rtrl", network)
    _check_loss_gradient("rtrl", loss_gradient, network, xs)
    xp, T, B = backend_of(xs), int(xs.shape[0]), int(xs.shape[1])
    inputs = _Inputs.of("rtrl", network, xs, lengths, dropout_masks)
    _check_rows("rtrl", "initial", initial, B)
    _check_rows("rtrl", "d_final", d_final, B)
    states = [_sequence(initial, b) for b in range(B)]
    S_theta: list[Any] = [0] * B  # ∂h_t/∂θ of every sequence, (S, P)
    S_start: list[Any] = [0] * B  # ∂h_t/∂h_0 of every sequence, (S, S)
    d_theta: Any = 0  # (P,)
    d_start: list[Any] = [0] * B  # (S,)

    for t in range(T):
        now = [inputs.steps(t, t + 1).sequence(b).run(network, states[b]) for b in range(B)]
        h_t = xp.concat([step.hs for step in now], axis=1)  # (1, B, H)
        d_h_t = gradient_of_loss(loss_gradient, slice(t, t + 1), h_t, "rtrl")
        for b, step in enumerate(now):
            d_end = _sequence(d_final, b) if t == T - 1 else None
            of_loss = backward(network, step, d_h_t[:, b : b + 1], d_end)
            units = xp.eye(_vector(step.final).shape[0], like=xs)  # (S, S)
            of_state = [
                backward(network, step, xp.zeros_like(step.hs), _from_vector(unit, step.final))
                for unit in units
            ]
            J_t = xp.stack([_vector(row.d_initial) for row in of_state])  # (S, S)
            immediate = xp.stack([_parameter_vector(row.d_cell) for row in of_state])  # (S, P)
            if t == 0:
                S_theta[b], S_start[b] = xp.zeros_like(immediate), units
            d_prev = _vector(of_loss.d_initial)  # (S,)
            d_theta = d_theta + sensitivity_gradient.unchecked(
                d_prev, S_theta[b], _parameter_vector(of_loss.d_cell)
            )
            d_start[b] = d_start[b] + d_prev @ S_start[b]
            S_theta[b] = sensitivity.unchecked(J_t, S_theta[b], immediate)
            S_start[b] = J_t @ S_start[b]
            states[b] = step.final
    d_initial = [_from_vector(d, step.final) for d in d_start]
    return (
        _from_parameter_vector(d_theta, of_loss.d_cell),
        map_state(lambda *rows: xp.concat(rows), *d_initial),
    )


# --- the initial state, learned -----------------------------------------------------------------


@implements("eq-bptt-initial")
def initial_from_parameter(h_0: Annotated[Array, "H"], batch_size: int) -> Annotated[Array, "B H"]:
    """A learned initial state, the same for every sequence of a batch (:eq:`eq-bptt-initial`).

    Args:
        h_0: the parameter η, (H,).
        batch_size: B, at least 1.

    Returns:
        The initial state, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a batch size below 1.
    """
    batch_size = check_count("initial_from_parameter", "batch_size", batch_size)
    return backend_of(h_0).stack([h_0] * batch_size)  # (B, H)


@implements("eq-bptt-initial-backward")
def initial_from_parameter_backward(d_initial: Annotated[Array, "B H"]) -> Annotated[Array, "H"]:
    """The gradient of a learned initial state (:eq:`eq-bptt-initial-backward`).

    It acts in every sequence, so its gradient is the sum over them.

    Args:
        d_initial: ∂L/∂h_0 of every sequence, (B, H).

    Returns:
        ∂L/∂η, the sum of ∂L/∂h_0 over the batch, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_initial.sum(0)  # (H,)


# --- counting -----------------------------------------------------------------------------------


@dataclass
class Meter:
    """Counts what an algorithm does with the cells it watches, so that growth can be seen.

        meter = Meter()
        double_sum(meter.watch(cell), trajectory, d_hs)
        meter.steps_back  # T (T + 1) / 2

    Attributes:
        steps: steps forward.
        steps_back: steps backward.
        caches: caches of watched steps that exist now.
        peak_caches: the most that ever existed at once. A cache counts as gone when Python
            frees it, which CPython does at once.
    """

    steps: int = 0
    steps_back: int = 0
    caches: int = 0
    peak_caches: int = 0

    def watch(self, cell: Cell) -> Cell:
        """The same cell, counted. Several cells may share a meter."""
        return cast("Cell", _Watched(cell, self))


class _CountedCache:
    """A cell's cache that tells the meter when it comes and when it goes."""

    def __init__(self, cache: Any, meter: Meter) -> None:
        self._cache, self._meter = cache, meter
        meter.caches += 1
        meter.peak_caches = max(meter.peak_caches, meter.caches)

    def __del__(self) -> None:
        self._meter.caches -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


@dataclass(frozen=True)
class _Watched:
    """A cell that reports to a meter."""

    cell: Any
    meter: Meter

    @property
    def state_names(self) -> tuple[str, ...]:
        return self.cell.state_names

    @property
    def input_size(self) -> int:
        return self.cell.input_size

    @property
    def hidden_size(self) -> int:
        return self.cell.hidden_size

    def step(self, x_t: Array, state: State) -> tuple[State, _CountedCache]:
        self.meter.steps += 1
        state, cache = self.cell.step(x_t, state)
        return state, _CountedCache(cache, self.meter)

    def step_backward(self, d_state: State, cache: _CountedCache) -> tuple[Array, State, Any]:
        self.meter.steps_back += 1
        return self.cell.step_backward(d_state, cache._cache)
