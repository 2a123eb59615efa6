"""One layer in one direction: all its steps forward, and all its derivatives, around the loops.

This is where the rearranged equations come together: the products over all steps, which need no order in
time, and between them a loop of :mod:`rnnlib.engine.plain` or one of its sisters. NumPy arrays and torch
tensors alike: :mod:`rnnlib.nn` wraps these functions for torch, :mod:`rnnlib.unroll` and
:mod:`rnnlib.bptt` use them for NumPy.

x is (N, I), the states are (B, H). The functions trust their input. A forward function returns what
belongs to every row: the states, hs first, and what saves its backward function from computing again.
``options`` go to the loop: where to write these arrays, and whether to keep more than hs. A backward
function takes the gradients of hs (None for zero) and of the last states, then the arguments of the
forward function, then everything that it returned; it returns the gradients of the arguments.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from rnnlib.backend import Array, backend_of
from rnnlib.engine import differentiable
from rnnlib.engine.steps import Steps, carry

Rows: TypeAlias = tuple[Array, ...]


def sum_of_biases(b_ih: Array | None, b_hh: Array | None) -> Array | None:
    """The one bias that two biases added to the same pre-activation amount to."""
    return None if b_ih is None or b_hh is None else b_ih + b_hh


def input_gradients(
    d_a: Array, x: Array, W_ih: Array, b_ih: Array | None, needs_d_x: bool
) -> tuple[Array | None, Array, Array | None]:
    """``d_x`` (N, I), ``d_W_ih`` and the bias's gradient: each one product, or one sum, over all rows."""
    return d_a @ W_ih if needs_d_x else None, d_a.T @ x, None if b_ih is None else d_a.sum(0)


def rnn_layer(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    loops: Any,
    nonlinearity: str,
    **options: Any,
) -> Rows:
    """One layer of the vanilla network along its steps (:eq:`eq-vanilla-hidden`): ``hs`` (N, H)."""
    bias = sum_of_biases(b_ih, b_hh)
    return loops.rnn(steps, x, h_0, W_ih, W_hh, bias, nonlinearity == "relu", **options)


def rnn_layer_backward(
    d_hs: Array | None,
    d_h_n: Array,
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    hs: Array,
    *,
    loops: Any,
    nonlinearity: str,
    needs_d_x: bool = True,
) -> tuple[Array | None, ...]:
    """The derivatives of :func:`rnn_layer`: ``d_x, d_h_0, d_W_ih, d_W_hh, d_b_ih, d_b_hh``."""
    d_a, d_h_0 = loops.rnn_back(steps, d_hs, d_h_n, W_hh, hs, nonlinearity == "relu")
    d_x, d_W_ih, d_b = input_gradients(d_a, x, W_ih, b_ih, needs_d_x)
    d_W_hh = d_a.T @ steps.states_before(h_0, hs)  # (H, H)
    return d_x, d_h_0, d_W_ih, d_W_hh, d_b, None if d_b is None else backend_of(x).copy(d_b)


def lstm_layer(
    steps: Steps,
    x: Array,
    h_0: Array,
    C_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    W_hr: Array | None,
    *,
    loops: Any,
    **options: Any,
) -> Rows:
    """One layer of the LSTM along its steps (:eq:`eq-lstm-memory`, :eq:`eq-lstm-hidden`).

    The slab holds the gates in torch's order: i, f, C̃, o. With a projection W_hr (P, H) the state h
    is W_hr (o ⊙ tanh(C)) and has P entries (Sak et al., 2014).

    Returns:
        ``hs`` (N, H or P), ``Cs`` (N, H) and ``gates`` (N, 4H).
    """
    bias = sum_of_biases(b_ih, b_hh)
    if W_hr is not None:
        return differentiable.lstm(steps, x, h_0, C_0, W_ih, W_hh, bias, W_hr)
    return loops.lstm(steps, x, h_0, C_0, W_ih, W_hh, bias, **options)


def lstm_layer_backward(
    d_hs: Array | None,
    d_h_n: Array,
    d_C_n: Array,
    steps: Steps,
    x: Array,
    h_0: Array,
    C_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    W_hr: Array | None,
    hs: Array,
    Cs: Array,
    gates: Array,
    *,
    loops: Any,
    needs_d_x: bool = True,
) -> tuple[Array | None, ...]:
    """The derivatives of :func:`lstm_layer`.

    Returns:
        ``d_x, d_h_0, d_C_0, d_W_ih, d_W_hh, d_b_ih, d_b_hh, d_W_hr``.
    """
    arguments, d_W_hr = (steps, d_hs, d_h_n, d_C_n, C_0, W_hh, gates, Cs), None
    if W_hr is None:
        d_a, d_h_0, d_C_0 = loops.lstm_back(*arguments)[:3]
    else:
        d_a, d_h_0, d_C_0, d_h = differentiable.lstm_back(*arguments, W_hr)
        d_W_hr = d_h.T @ (gates[:, 3 * Cs.shape[1] :] * backend_of(Cs).tanh(Cs))  # (P, H)
    d_x, d_W_ih, d_b = input_gradients(d_a, x, W_ih, b_ih, needs_d_x)
    d_W_hh = d_a.T @ steps.states_before(h_0, hs)  # (4H, H or P)
    return d_x, d_h_0, d_C_0, d_W_ih, d_W_hh, d_b, None if d_b is None else backend_of(x).copy(d_b), d_W_hr


# In torch's GRU z_t is the share that the old state keeps; in the notes' it is the share that the
# candidate gets. Below, z is torch's.


def gru_layer(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    loops: Any,
    **options: Any,
) -> Rows:
    """One layer of torch's GRU along its steps, the reset after the product.

    h̃_t = tanh(W_ih x_t + b_ih + r_t ⊙ (W_hh h_{t-1} + b_hh)), in the rows of the candidate
    (:eq:`eq-gru-candidate-after`); the slab holds r, z, h̃ in this order.

    Returns:
        ``hs`` (N, H), ``gates`` (N, 3H) and ``us`` (N, H), the recurrent products that the reset gate
        acts on.
    """
    gates_rows, bias, b_h = 2 * h_0.shape[1], b_ih, None
    if b_ih is not None and b_hh is not None:
        b_h = b_hh[gates_rows:]  # (H,), inside the reset
        bias = backend_of(x).concat((b_ih[:gates_rows] + b_hh[:gates_rows], b_ih[gates_rows:]))  # (3H,)
    return loops.gru(steps, x, h_0, W_ih, W_hh, bias, b_h, **options)


def gru_layer_backward(
    d_hs: Array | None,
    d_h_n: Array,
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    hs: Array,
    gates: Array,
    us: Array,
    *,
    loops: Any,
    needs_d_x: bool = True,
) -> tuple[Array | None, ...]:
    """The derivatives of :func:`gru_layer`: ``d_x, d_h_0, d_W_ih, d_W_hh, d_b_ih, d_b_hh``."""
    d_a, d_u, d_h_0 = loops.gru_back(steps, d_hs, d_h_n, h_0, W_hh, gates, hs, us)
    d_x, d_W_ih, d_b_ih = input_gradients(d_a, x, W_ih, b_ih, needs_d_x)
    h_prev, gates_rows = steps.states_before(h_0, hs), 2 * h_0.shape[1]  # (N, H)
    d_W_hh = backend_of(x).concat((d_a[:, :gates_rows].T @ h_prev, d_u.T @ h_prev))  # (3H, H)
    d_b_hh = None if d_b_ih is None else backend_of(x).concat((d_b_ih[:gates_rows], d_u.sum(0)))  # (3H,)
    return d_x, d_h_0, d_W_ih, d_W_hh, d_b_ih, d_b_hh


def gru_reset_before_layer(
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    loops: Any,
    **options: Any,
) -> Rows:
    """One layer of the notes' GRU along its steps, the reset before the product.

    h̃_t = tanh(W_ih x_t + b_ih + W_hh (r_t ⊙ h_{t-1}) + b_hh), in the rows of the candidate
    (:eq:`eq-gru-candidate`); the slab holds r, z, h̃ in this order.

    Returns:
        ``hs`` (N, H) and ``gates`` (N, 3H).
    """
    return loops.gru_reset_before(steps, x, h_0, W_ih, W_hh, sum_of_biases(b_ih, b_hh), **options)


def gru_reset_before_layer_backward(
    d_hs: Array | None,
    d_h_n: Array,
    steps: Steps,
    x: Array,
    h_0: Array,
    W_ih: Array,
    W_hh: Array,
    b_ih: Array | None,
    b_hh: Array | None,
    hs: Array,
    gates: Array,
    *,
    loops: Any,
    needs_d_x: bool = True,
) -> tuple[Array | None, ...]:
    """The derivatives of :func:`gru_reset_before_layer`: ``d_x, d_h_0, d_W_ih, d_W_hh, d_b_ih, d_b_hh``."""
    d_a, d_h_0 = loops.gru_reset_before_back(steps, d_hs, d_h_n, h_0, W_hh, gates, hs)
    d_x, d_W_ih, d_b = input_gradients(d_a, x, W_ih, b_ih, needs_d_x)
    H = h_0.shape[1]
    h_prev = steps.states_before(h_0, hs)  # (N, H)
    d_W_hh = backend_of(x).concat(
        (d_a[:, : 2 * H].T @ h_prev, d_a[:, 2 * H :].T @ (gates[:, :H] * h_prev))
    )  # (3H, H)
    return d_x, d_h_0, d_W_ih, d_W_hh, d_b, None if d_b is None else backend_of(x).copy(d_b)


@dataclass(frozen=True)
class Layer:
    """A pair of neighbours from above.

    Attributes:
        forward: the function.
        backward: its derivatives.
        widths: the width of each array that the forward function returns, in units of H.
        products: which gates make one recurrent product, for each product of a step.
        states: how many states a step hands on. They are the first of these arrays.
        in_place: whether the loops that overwrite their input can be used.
    """

    forward: Callable[..., Rows]
    backward: Callable[..., tuple[Array | None, ...]]
    widths: tuple[int, ...]
    products: tuple[tuple[int, int], ...]
    states: int = 1
    in_place: bool = True


RNN_LAYERS = {
    nonlinearity: Layer(
        functools.partial(rnn_layer, nonlinearity=nonlinearity),
        functools.partial(rnn_layer_backward, nonlinearity=nonlinearity),
        widths=(1,),
        products=((0, 1),),
    )
    for nonlinearity in ("tanh", "relu")
}
LSTM_LAYERS = {  # by whether there is a projection, which makes h and C differ in size
    False: Layer(lstm_layer, lstm_layer_backward, widths=(1, 1, 4), products=((0, 4),), states=2),
    True: Layer(
        lstm_layer, lstm_layer_backward, widths=(1, 1, 4), products=((0, 4),), states=2, in_place=False
    ),
}
GRU_LAYERS = {  # by reset_after
    True: Layer(gru_layer, gru_layer_backward, widths=(1, 3, 1), products=((0, 3),)),
    False: Layer(
        gru_reset_before_layer,
        gru_reset_before_layer_backward,
        widths=(1, 3),
        products=((0, 2), (2, 3)),
    ),
}


def free_memory() -> int | None:
    """The bytes of memory that are free, or None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    kilobytes = dict(re.findall(r"(\w+): +(\d+) kB", meminfo.read_text(encoding="ascii")))
    return 1024 * (int(kilobytes["MemAvailable"]) + int(kilobytes["SwapFree"]))


def check_memory(steps: Steps, needed: int, device: str) -> None:
    """Refuse steps whose states do not fit in memory, before the machine slows to a crawl.

    Args:
        steps: the steps.
        needed: the bytes of all that a layer keeps of them.
        device: where; a GPU says itself that it is full.

    Raises:
        MemoryError: more than is free, with what to do.
    """
    if needed < 2**28 or device != "cpu":
        return
    free = free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"{len(steps.sizes)} steps of {steps.sizes[0]} sequences would keep {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: go back through fewer steps at once "
            "(rnnlib.bptt.checkpointed_bptt, or truncated windows), or take fewer sequences"
        )


def blocks_of(steps: Steps, W_hh: Array) -> list[tuple[Steps, int, int]]:
    """The steps in blocks whose slab of gates stays in the cache between the products and the loop.

    A quarter of a million numbers; more where the weights are large, whose gradient each block adds to.
    """
    return list(steps.blocks(max(2**18 // len(W_hh), 2 * W_hh.shape[1])))


def run_layer(
    layer: Layer, steps: Steps, x: Array, *rest: Any, loops: Any, keep: bool
) -> tuple[Rows, list[Array]]:
    """A layer along its steps, block by block.

    Args:
        layer: the layer.
        steps: its steps.
        x: the inputs, (N, I).
        rest: the initial states and the weights, as the layer's functions take them.
        loops: a module of rnnlib.engine.
        keep: whether the backward pass will need what the forward function returns besides hs.

    Returns:
        What the forward function returns (if not ``keep``, only hs has a meaning), and the last states.
    """
    xp, states, weights = backend_of(x), rest[: layer.states], list(rest[layer.states :])
    if loops is differentiable:
        found = layer.forward(steps, x, *rest, loops=loops)
        return found, [steps.last(states) for states in found[: layer.states]]
    N, H, whole = len(x), states[0].shape[1], loops.whole(steps)
    blocks = [(steps, 0, N)] if whole else blocks_of(steps, weights[1])
    room = 0 if whole else max(last - first for _, first, last in blocks)  # for what is not kept
    lengths = [N if keep or k == 0 else room for k in range(len(layer.widths))]
    check_memory(
        steps, x.itemsize * H * sum(n * w for n, w in zip(lengths, layer.widths, strict=True)), xp.device(x)
    )
    rows = [xp.empty((n, w * H), like=x) for n, w in zip(lengths, layer.widths, strict=True)]
    memories = range(1, layer.states) if whole and not keep else range(0)
    for k in memories:  # nobody asks for all of them: the last one is overwritten step by step
        rows[k] = xp.copy(states[k])
    ends = list(states)
    for part, first, last in blocks:
        if part is steps:
            here, before, x_here = rows, ends, x
        else:
            here = [r[first:last] if len(r) == N else r[: last - first] for r in rows]
            before, x_here = [end[: part.sizes[0]] for end in ends], x[first:last]
        layer.forward(part, x_here, *before, *weights, loops=loops, out=here, keep=keep)
        for k, (after, end) in enumerate(zip(here, ends, strict=False)):
            ends[k] = rows[k] if k in memories else carry(part.last(after), end)
    return tuple(rows), ends


def run_layer_again(
    layer: Layer, steps: Steps, x: Array, *rest: Any, hs: Array, loops: Any
) -> tuple[Array, ...]:
    """What :func:`run_layer` returned, from its hidden states: no step waits for another.

    Every row starts from a state that is known, so it counts as a sequence of its own, of one step. Only
    the memories of an LSTM are not known. From zero, a step makes i ⊙ C̃ of them; what they
    hand on is added along the steps, without a product of matrices.

    Args:
        layer: the layer; one whose loops can be used.
        steps: its steps.
        x: the inputs, (N, I).
        rest: the initial states and the weights, as the layer's functions take them.
        hs: the hidden states, (N, H).
        loops: a module of rnnlib.engine.
    """
    xp, states, weights = backend_of(x), rest[: layer.states], rest[layer.states :]
    N, H = hs.shape
    check_memory(steps, x.itemsize * N * H * sum(layer.widths[1:]), xp.device(x))
    rows = (hs, *(xp.empty((N, width * H), like=x) for width in layer.widths[1:]))
    if len(rows) == 1:
        return rows
    h_prev = steps.states_before(states[0], hs)  # (N, H)
    for _, first, last in blocks_of(steps, weights[1]):
        n, here = last - first, slice(first, last)
        nothing = [xp.zeros((n, H), like=x) for _ in states[1:]]
        out = [xp.empty((n, H), like=x), *(r[here] for r in rows[1:])]
        layer.forward(Steps((n,)), x[here], h_prev[here], *nothing, *weights, loops=loops, out=out, keep=True)
    if layer.states == 2:
        _, Cs, gates = rows
        loops.lstm_memories(steps, states[1], gates, Cs)
    return rows


def run_layer_back(
    layer: Layer,
    steps: Steps,
    d_hs: Array | None,
    d_ends: Sequence[Array | None],
    x: Array,
    *rest: Any,
    rows: Rows,
    loops: Any,
    needs_d_x: bool,
) -> tuple[Array | None, ...]:
    """The derivatives of :func:`run_layer`, the last block first: those of ``x`` and ``rest``."""
    xp, states, weights = backend_of(x), rest[: layer.states], list(rest[layer.states :])
    d_states = [xp.zeros(s.shape, like=s) if d is None else d for d, s in zip(d_ends, states, strict=True)]
    if loops is differentiable:
        return layer.backward(d_hs, *d_states, steps, x, *rest, *rows, loops=loops, needs_d_x=needs_d_x)
    d_states = [d if given is None else xp.copy(d) for d, given in zip(d_states, d_ends, strict=True)]
    d_x, d_weights = xp.empty(x.shape, like=x) if needs_d_x else None, None
    blocks = [(steps, 0, len(x))] if loops.whole_back(steps) else blocks_of(steps, weights[1])
    weights[1] = loops.prepared_back(weights[1], layer.products, steps)
    for part, first, last in reversed(blocks):
        here, d_after, before, arrays = slice(first, last), d_states, list(states), [d_hs, x, *rows]
        if part is not steps:
            d_after = [d[: part.sizes[0]] for d in d_states]
            before = [steps.state_before(first, last, s, r) for s, r in zip(states, rows, strict=False)]
            arrays = [None if array is None else array[here] for array in arrays]
        d_hs_here, x_here, *rows_here = arrays
        d_x_here, *d_rest = layer.backward(
            d_hs_here,
            *d_after,
            part,
            x_here,
            *before,
            *weights,
            *rows_here,
            loops=loops,
            needs_d_x=needs_d_x,
        )
        if d_x is not None:
            d_x[here] = d_x_here
        if d_weights is None:
            d_weights = d_rest[layer.states :]
        else:
            for total, term in zip(d_weights, d_rest[layer.states :], strict=True):
                if total is not None:
                    total += term
    return d_x, *d_states, *(d_weights or ())


class Slabs(NamedTuple):
    """A cell in the engine's terms, its gates side by side.

    Attributes:
        layer: what the engine computes.
        weights: its weights, as the layer's functions take them.
        gradients: turns the gradients of these weights into a record of the cell's type.
    """

    layer: Layer
    weights: tuple[Array | None, ...]
    gradients: Callable[..., Any]


def slabs_of(cell: Any) -> Slabs | None:
    """A cell in the engine's terms, or None where the engine does not have it.

    Args:
        cell: a cell. Its very type must have a method ``slabs``: one that is inherited says nothing of a
            subclass, which may do something else in its step.
    """
    return cell.slabs() if "slabs" in type(cell).__dict__ else None
