r"""Floor 5: parameters to and from the layouts of torch.nn, Keras 3 and ONNX.

The libraries compute the same functions and lay their parameters out differently:

=====================  ====================  ============================  =======================
what                   torch.nn              Keras 3                       ONNX
=====================  ====================  ============================  =======================
gates of an LSTM       i, f, C̃, o            i, f, C̃, o                    i, o, f, C̃
gates of a GRU         r, z, h̃               z, r, h̃                       z, r, h̃
side by side along     rows                  columns                       rows
keys                   ``weight_ih_l0``, …   ``kernel``, …                 ``W``, ``R``, ``B``
biases                 two                   one (GRU, reset after: two)   two, one after the other
directions             another name          another layer                 the first axis
=====================  ====================  ============================  =======================

All three write z for the share of a GRU's state that is kept, the notes for the share that is renewed:
:func:`opposite_gate` goes from one to the other, and nothing is rounded. Where a layout has two biases
for one, the second is written as zero and both are added when read (:func:`sum_of_biases`); that sum
is the only place where anything is merged. A record therefore comes back from every layout bit for bit.

The functions work on NumPy arrays and on torch tensors, keep dtype and device, and share no memory
with what they are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

from rnnlib import lstm
from rnnlib.backend import Array, backend_of, check_arrays, check_choice, is_array
from rnnlib.equations import implements
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.vanilla import VanillaCell

AnyCell: TypeAlias = VanillaCell | LSTMCell | GRUCell | ResetAfterGRUCell
CellT = TypeVar("CellT", VanillaCell, LSTMCell, GRUCell, ResetAfterGRUCell)
Weights: TypeAlias = dict[str, Array]

ORDER: dict[str, dict[type, str]] = {
    "torch": {VanillaCell: "h", LSTMCell: "ifCo", GRUCell: "rzh", ResetAfterGRUCell: "rzh"},
    "keras": {VanillaCell: "h", LSTMCell: "ifCo", GRUCell: "zrh", ResetAfterGRUCell: "zrh"},
    "onnx": {VanillaCell: "h", LSTMCell: "iofC", GRUCell: "zrh", ResetAfterGRUCell: "zrh"},
}
"""The gates of every cell in the order of every layout; C and h are the candidates."""


# --- the two equations ------------------------------------------------------------------------


@implements("eq-conversion-opposite-gate")
def opposite_gate(
    W: Annotated[Array, "H K"], b: Annotated[Array, "H"]
) -> tuple[Annotated[Array, "H K"], Annotated[Array, "H"]]:
    """The parameters of the gate 1 - z, given those of z (:eq:`eq-conversion-opposite-gate`).

    σ(-a) = 1 - σ(a), so that a change of sign is all it takes.

    Args:
        W: weights of the gate, (H, K).
        b: bias of the gate, (H,).

    Returns:
        ``-W`` (H, K) and ``-b`` (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return -W, -b


@implements("eq-conversion-bias")
def sum_of_biases(b_x: Annotated[Array, "H"], b_h: Annotated[Array, "H"]) -> Annotated[Array, "H"]:
    """The one bias that acts as two (:eq:`eq-conversion-bias`).

    Not for the candidate of a GRU that resets after the product: there the reset gate multiplies the
    second bias and not the first.

    Args:
        b_x: bias beside the input weights, (H,).
        b_h: bias beside the recurrent weights, (H,).

    Returns:
        b_x + b_h, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return b_x + b_h  # (H,)


# --- between a record and its gates -----------------------------------------------------------


class Gate(NamedTuple):
    """The parameters of one pre-activation W_x x_t + b_x + W_h h_{t-1} + b_h, as the libraries have it."""

    W_x: Array  # (H, I)
    b_x: Array  # (H,)
    W_h: Array  # (H, H)
    b_h: Array  # (H,)


def _zero_beside(b: Array) -> Array:
    """A zero bias. It is -0.0, the one number that leaves every other, also 0.0, as it is when added."""
    return -backend_of(b).zeros_like(b)


def _gate(W: Array, b: Array) -> Gate:
    """The gate with weights on [h_{t-1}, x_t], (H, H+I), and one bias."""
    W_h, W_x = lstm.split.unchecked(W)
    return Gate(W_x, b, W_h, _zero_beside(b))


def _whole(gate: Gate) -> tuple[Array, Array]:
    """The weights on [h_{t-1}, x_t], (H, H+I), and the one bias of a gate."""
    return lstm.whole.unchecked(gate.W_h, gate.W_x), sum_of_biases.unchecked(gate.b_x, gate.b_h)


def _gates_of(cell: Any) -> dict[str, Gate]:
    """The gates of a cell by name, z as the libraries mean it."""
    if isinstance(cell, VanillaCell):
        return {"h": Gate(cell.W_xh, cell.b_h, cell.W_hh, _zero_beside(cell.b_h))}
    if isinstance(cell, LSTMCell):
        return {name: _gate(getattr(cell, f"W_{name}"), getattr(cell, f"b_{name}")) for name in "ifCo"}
    gates = {"z": _gate(*opposite_gate.unchecked(cell.W_z, cell.b_z)), "r": _gate(cell.W_r, cell.b_r)}
    if isinstance(cell, GRUCell):
        return gates | {"h": _gate(cell.W, cell.b)}
    return gates | {"h": Gate(cell.W_x, cell.b_x, cell.W_h, cell.b_h)}


def _cell_of(record: type, gates: Mapping[str, Gate], activation: str | None) -> Any:
    """The cell with these gates: the way back from :func:`_gates_of`."""
    if record is VanillaCell:
        W_xh, _, W_hh, _ = (backend_of(x).copy(x) for x in gates["h"])
        return VanillaCell(W_xh, W_hh, _whole(gates["h"])[1], activation or "tanh")
    if record is LSTMCell:
        whole = {name: _whole(gate) for name, gate in gates.items()}
        return LSTMCell(
            **{f"W_{name}": W for name, (W, _) in whole.items()},
            **{f"b_{name}": b for name, (_, b) in whole.items()},
        )
    W_z, b_z = opposite_gate.unchecked(*_whole(gates["z"]))
    W_r, b_r = _whole(gates["r"])
    if record is GRUCell:
        return GRUCell(W_z, b_z, W_r, b_r, *_whole(gates["h"]))
    return ResetAfterGRUCell(W_z, b_z, W_r, b_r, *(backend_of(x).copy(x) for x in gates["h"]))


def _slab(cell: Any, order: str) -> Gate:
    """The gates of a cell below each other: (nH, I), (nH,), (nH, H), (nH,)."""
    gates = _gates_of(cell)
    concat = backend_of(gates[order[0]].W_x).concat
    return Gate(*(concat(rows) for rows in zip(*(gates[name] for name in order), strict=True)))


def _unslab(slab: Gate, order: str) -> dict[str, Gate]:
    """The gates that lie below each other, by name."""
    H = slab.W_h.shape[1]
    return {name: Gate(*(x[n * H : (n + 1) * H] for x in slab)) for n, name in enumerate(order)}


# --- what is refused --------------------------------------------------------------------------


def _order(where: str, layout: str, record: type) -> str:
    """The gates of a type of cell in the order of a layout.

    Raises:
        TypeError: a type that has no place in the layouts.
    """
    orders = ORDER[layout]
    if record not in orders:
        known = ", ".join(known.__name__ for known in orders)
        raise TypeError(
            f"{where}: the cell is a {getattr(record, '__name__', record)}, expected one of {known}"
        )
    return orders[record]


def _check_activation(where: str, record: type, activation: str | None) -> None:
    """Refuse an activation for a cell that has none to choose.

    Raises:
        ValueError: naming the cell.
    """
    if activation is not None and record is not VanillaCell:
        raise ValueError(f"{where}: activation is {activation!r}, but a {record.__name__} has none to choose")


def _taken(where: str, weights: Any, shapes: Mapping[str, str], beside: str = "") -> dict[str, Any]:
    """The arrays of a mapping, held to their keys and shapes; all biases may be missing together.

    Args:
        where: what the caller is called in the message.
        weights: the mapping.
        shapes: the declared shape of every key; keys with "bias" in them, and "B", are biases.
        beside: a pattern of keys that may stand beside these.

    Returns:
        The arrays by key, None for biases that are missing.

    Raises:
        TypeError: no mapping; see :func:`rnnlib.backend.check_arrays`.
        ValueError: a key that is missing, or has no place, or an array of the wrong shape.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{where}: weights is a {type(weights).__name__}, expected a mapping of arrays by key"
        )
    biases = {key for key in shapes if "bias" in key or key == "B"}
    expected = ", ".join(f"{key} ({', '.join(spec.split())})" for key, spec in shapes.items())
    for key, x in weights.items():
        if key not in shapes and not (beside and re.fullmatch(beside, str(key))):
            shape = tuple(x.shape) if is_array(x) else f"of a {type(x).__name__}"
            raise ValueError(f"{where}: {key} with shape {shape} has no place here, expected {expected}")
    optional = biases if biases.isdisjoint(weights) else set()
    for key, spec in shapes.items():
        if key not in weights and key not in optional:
            dims, came = ", ".join(spec.split()), ", ".join(weights) or "nothing"
            raise ValueError(f"{where}: {key} is missing, expected shape ({dims}); came: {came}")
    check_arrays(where, [(key, weights[key], spec) for key, spec in shapes.items() if key in weights])
    return {key: weights.get(key) for key in shapes}


def _or_zeros(b: Array | None, W_h: Array) -> Array:
    """A bias, or zeros for the rows of the recurrent weights where there is none."""
    return backend_of(W_h).zeros((W_h.shape[0],), like=W_h) if b is None else b


# --- torch.nn ---------------------------------------------------------------------------------


def _torch_keys(where: str, layer: int | None, reverse: bool) -> list[str]:
    """The keys of one layer and direction, or of a cell.

    Raises:
        ValueError: the reverse direction of a cell.
    """
    if layer is None and reverse:
        raise ValueError(f"{where}: reverse is True, but a cell (layer is None) has one direction only")
    suffix = ("" if layer is None else f"_l{layer}") + ("_reverse" if reverse else "")
    return [name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def to_torch(cell: AnyCell, layer: int | None = 0, reverse: bool = False) -> Weights:
    """A cell in the layout of ``torch.nn.RNN``, ``LSTM`` or ``GRU``, and of :mod:`rnnlib.nn`.

    The mappings of several layers and directions make one state_dict by ``|``::

        model.load_state_dict(to_torch(forward) | to_torch(backward, reverse=True))

    A :class:`rnnlib.gru.ResetAfterGRUCell` goes to ``torch.nn.GRU``, a :class:`rnnlib.gru.GRUCell` to
    ``rnnlib.nn.GRU(..., reset_after=False)``: their keys and shapes do not differ.

    Args:
        cell: the parameters of one layer in one direction.
        layer: the layer's number; None for the keys of ``torch.nn.RNNCell``, ``LSTMCell``, ``GRUCell``.
        reverse: whether it is the layer that runs from the last step to the first.

    Returns:
        ``weight_ih`` (nH, I), ``weight_hh`` (nH, H), ``bias_ih`` (nH,), ``bias_hh`` (nH,) with the suffix
        of layer and direction, n gates below each other. Where one bias is enough, ``bias_hh`` is -0.0.

    Raises:
        TypeError: no cell that torch.nn knows.
        ValueError: an activation that torch.nn.RNN does not have.
    """
    order = _order("to_torch", "torch", type(cell))
    if isinstance(cell, VanillaCell):
        check_choice("to_torch", "cell.activation", cell.activation, ("tanh", "relu"))
    slab = _slab(cell, order)
    keys = _torch_keys("to_torch", layer, reverse)
    return dict(zip(keys, (slab.W_x, slab.W_h, slab.b_x, slab.b_h), strict=True))


def from_torch(
    weights: Mapping[str, Array],
    record: type[CellT],
    layer: int | None = 0,
    reverse: bool = False,
    activation: str | None = None,
) -> CellT:
    """One layer and direction of a state_dict as a cell: the way back from :func:`to_torch`.

    Args:
        weights: the state_dict, of any number of layers and directions, with biases or without.
        record: the type of the cell; a state_dict does not tell on which side of the product a GRU
            resets.
        layer: the layer's number; None for the keys of ``torch.nn.RNNCell``, ``LSTMCell``, ``GRUCell``.
        reverse: whether to take the layer that runs from the last step to the first.
        activation: of a :class:`rnnlib.vanilla.VanillaCell`, whose state_dict does not hold it; tanh
            if None.

    Returns:
        The cell. Two biases of which one is enough are added; missing ones are zeros.

    Raises:
        TypeError, ValueError: a type of cell that torch.nn does not know; a key that is missing or has
            no place, with the shape expected; an array that does not fit.
    """
    order = _order("from_torch", "torch", record)
    _check_activation("from_torch", record, activation)
    keys = _torch_keys("from_torch", layer, reverse)
    nH = f"{len(order)}H"
    shapes = dict(zip(keys, (f"{nH} I", f"{nH} H", nH, nH), strict=True))
    beside = "" if layer is None else r"(weight|bias)_(ih|hh)_l\d+(_reverse)?"
    W_x, W_h, b_x, b_h = _taken("from_torch", weights, shapes, beside).values()
    slab = Gate(W_x, _or_zeros(b_x, W_h), W_h, _or_zeros(b_h, W_h))
    return _cell_of(record, _unslab(slab, order), activation)


# --- Keras ------------------------------------------------------------------------------------


def to_keras(cell: AnyCell) -> Weights:
    """A cell in the layout of ``keras.layers.SimpleRNN``, ``LSTM`` or ``GRU``.

    The values, in their order, are what ``layer.set_weights`` takes; ``keras.layers.Bidirectional`` takes
    those of the forward layer followed by those of the backward layer. A
    :class:`rnnlib.gru.ResetAfterGRUCell` goes to ``GRU(reset_after=True)``, a :class:`rnnlib.gru.GRUCell`
    to ``GRU(reset_after=False)``.

    Args:
        cell: the parameters of one layer in one direction.

    Returns:
        ``kernel`` (I, nH), ``recurrent_kernel`` (H, nH) and ``bias`` (nH,), or (2, nH) for a GRU that
        resets after the product; n gates side by side.

    Raises:
        TypeError: no cell that Keras knows.
    """
    slab = _slab(cell, _order("to_keras", "keras", type(cell)))
    if isinstance(cell, ResetAfterGRUCell):
        bias = backend_of(slab.b_x).stack([slab.b_x, slab.b_h])  # (2, nH)
    else:
        bias = sum_of_biases.unchecked(slab.b_x, slab.b_h)  # (nH,)
    return {"kernel": slab.W_x.T, "recurrent_kernel": slab.W_h.T, "bias": bias}


def from_keras(weights: Mapping[str, Array], record: type[CellT], activation: str | None = None) -> CellT:
    """The weights of a Keras layer as a cell: the way back from :func:`to_keras`.

    Args:
        weights: ``kernel``, ``recurrent_kernel`` and, unless the layer has none, ``bias``:
            ``dict(zip(("kernel", "recurrent_kernel", "bias"), layer.get_weights()))``.
        record: the type of the cell.
        activation: of a :class:`rnnlib.vanilla.VanillaCell`, which the weights do not hold; tanh if None.

    Returns:
        The cell. Two biases of which one is enough are added; missing ones are zeros.

    Raises:
        TypeError, ValueError: a type of cell that Keras does not know; a key that is missing or has no
            place, with the shape expected; an array that does not fit.
    """
    order = _order("from_keras", "keras", record)
    _check_activation("from_keras", record, activation)
    nH = f"{len(order)}H"
    two_biases = record is ResetAfterGRUCell
    shapes = {
        "kernel": f"I {nH}",
        "recurrent_kernel": f"H {nH}",
        "bias": f"2 {nH}" if two_biases else nH,
    }
    kernel, recurrent_kernel, bias = _taken("from_keras", weights, shapes).values()
    W_x, W_h = kernel.T, recurrent_kernel.T  # (nH, I), (nH, H)
    if bias is None:
        b_x = b_h = _or_zeros(None, W_h)
    else:
        b_x, b_h = bias if two_biases else (bias, _zero_beside(bias))
    return _cell_of(record, _unslab(Gate(W_x, b_x, W_h, b_h), order), activation)


# --- ONNX -------------------------------------------------------------------------------------


def to_onnx(cell: AnyCell, backward: AnyCell | None = None) -> Weights:
    """A cell, or one for each direction, in the layout of ONNX' operators ``RNN``, ``LSTM`` and ``GRU``.

    A :class:`rnnlib.gru.GRUCell` goes with the attribute ``linear_before_reset=0``, the default, and a
    :class:`rnnlib.gru.ResetAfterGRUCell` with ``linear_before_reset=1``.

    Args:
        cell: the parameters of one layer.
        backward: those of the layer that runs from the last step to the first, if there is one.

    Returns:
        ``W`` (D, nH, I), ``R`` (D, nH, H) and ``B`` (D, 2nH), D directions and n gates below each other.
        Where one bias is enough, the second half of ``B`` is -0.0.

    Raises:
        TypeError: no cell that ONNX knows, or cells of two types, kinds or dtypes.
        ValueError: cells of different sizes.
    """
    order = _order("to_onnx", "onnx", type(cell))
    slabs = [_slab(cell, order)]
    xp = backend_of(slabs[0].W_x)
    if backward is not None:
        if type(backward) is not type(cell):
            raise TypeError(
                f"to_onnx: backward is a {type(backward).__name__}, expected a {type(cell).__name__}"
            )
        slabs.append(_slab(backward, order))
        check_arrays(
            "to_onnx",
            [(f"W of {name}", s.W_x, "N I") for name, s in zip(("cell", "backward"), slabs, strict=True)],
        )
    return {
        "W": xp.stack([slab.W_x for slab in slabs]),  # (D, nH, I)
        "R": xp.stack([slab.W_h for slab in slabs]),  # (D, nH, H)
        "B": xp.stack([xp.concat([slab.b_x, slab.b_h]) for slab in slabs]),  # (D, 2nH)
    }


def from_onnx(
    weights: Mapping[str, Array],
    record: type[CellT],
    direction: int = 0,
    activation: str | None = None,
) -> CellT:
    """The weights of an ONNX operator as a cell: the way back from :func:`to_onnx`.

    Args:
        weights: ``W``, ``R`` and, unless there is none, ``B``. An LSTM's peepholes ``P`` have no place
            in an :class:`rnnlib.lstm.LSTMCell`.
        record: the type of the cell.
        direction: which entry of the first axis to take.
        activation: of a :class:`rnnlib.vanilla.VanillaCell`, which the weights do not hold; tanh if None.

    Returns:
        The cell. Two biases of which one is enough are added; missing ones are zeros.

    Raises:
        TypeError, ValueError: a type of cell that ONNX does not know; a key that is missing or has no
            place, with the shape expected; an array that does not fit; a direction that is not there.
    """
    order = _order("from_onnx", "onnx", record)
    _check_activation("from_onnx", record, activation)
    n = len(order)
    W, R, B = _taken("from_onnx", weights, {"W": f"D {n}H I", "R": f"D {n}H H", "B": f"D {2 * n}H"}).values()
    check_choice("from_onnx", "direction", direction, range(len(W)))
    W_x, W_h = W[direction], R[direction]  # (nH, I), (nH, H)
    if B is None:
        b_x = b_h = _or_zeros(None, W_h)
    else:
        b_x, b_h = B[direction][: len(W_h)], B[direction][len(W_h) :]
    return _cell_of(record, _unslab(Gate(W_x, b_x, W_h, b_h), order), activation)
