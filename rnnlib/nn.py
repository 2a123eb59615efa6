"""Floor 5: the recurrent layers as torch modules, drop-in for those of ``torch.nn``.

:class:`RNN`, :class:`LSTM`, :class:`GRU` and their cells take the arguments of their namesakes in
``torch.nn``, hold parameters of the same names and shapes, start from the same numbers for the same
seed, and answer the same. What differs is inside: one layer in one direction is a function of its
own, written with the equations of :mod:`rnnlib.vanilla`, :mod:`rnnlib.lstm` and :mod:`rnnlib.gru`,
and its backward pass is derived by hand.

The equations are rearranged as the chapter on speed explains; :mod:`rnnlib.engine` holds what comes of
it. The steps of a batch lie one after the other in the rows of one matrix, as in a ``PackedSequence``,
so that sequences of different lengths need no mask and no padding. Where no gradient can be asked for,
nothing is kept for one.

Where it has to be, the backward pass is made of differentiable operations: it can be differentiated
again, and it works below ``torch.func.grad``, ``vjp`` and ``vmap``; forward-mode differentiation and
TorchScript are not supported. Under ``torch.autocast`` everything, the states included, is cast to autocast's
dtype (``float64`` excepted), as cuDNN does. NaN is not searched for: it comes out as it went in.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnlib.backend import backend_of, check_choice, check_count, check_flag
from rnnlib.engine import Steps, choose, differentiable
from rnnlib.engine.layers import GRU_LAYERS, LSTM_LAYERS, RNN_LAYERS, Layer, run_layer, run_layer_back

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

Device: TypeAlias = torch.device | str | int | None

backend_of(torch.empty(0))  # the primitives of torch are made now, and not while something is traced


# --- the layers as torch knows functions ------------------------------------------------------


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype that autocast asks for on a kind of device; None where it is off."""
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which operations on the device of ``x`` keep their dtype."""
    if autocast_dtype(x.device.type) is None:
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def as_autocast(x: Tensor) -> Tensor:
    """The tensor in the dtype that autocast asks for; ``float64`` and what is not floating stay."""
    dtype = autocast_dtype(x.device.type)
    eligible = x.dtype.is_floating_point and x.dtype != torch.float64
    return x if dtype is None or not eligible else x.to(dtype)


def watched(*tensors: Any) -> bool:
    """Whether something looks over our shoulder and has to see differentiable operations.

    Tracing does, ``vmap`` and other transforms of ``torch.func``, and subclasses of ``Tensor``.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or not all(x is None or type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
    )


def loops_for(layer: Layer, steps: Steps, *tensors: Any) -> Any:
    """The module of rnnlib.engine for these tensors: a fast one, unless they are :func:`watched`."""
    return choose(tensors[0], steps) if layer.in_place and not watched(*tensors) else differentiable


class LayerFunction(torch.autograd.Function):
    """A :class:`Layer` with the backward pass derived by hand, by loops of :mod:`rnnlib.engine`.

    Called as ``LayerFunction.apply(loops, layer, steps, *arguments)``.
    """

    @staticmethod
    def forward(ctx: Any, loops: Any, layer: Layer, steps: Steps, *arguments: Any) -> tuple[Tensor, ...]:
        (hs, *others), ends = run_layer(layer, steps, *arguments, loops=loops, keep=True)
        save(ctx, loops, layer, steps, arguments, (hs, *others))
        return hs, *ends

    @staticmethod
    def backward(ctx: Any, *d_output: Tensor | None) -> tuple[Any, ...]:
        layer, steps, saved = ctx.layer, ctx.steps, ctx.saved_tensors
        arguments, rows = saved[: ctx.argument_count], saved[ctx.argument_count :]
        d_hs, *d_ends = d_output[: 1 + layer.states]
        with without_autocast(arguments[0]):
            loops = differentiable if watched(*arguments, *d_output) else ctx.loops
            if torch.is_grad_enabled():
                # To be differentiated again, what was saved has to depend on the arguments again.
                loops = differentiable
                rows, _ = run_layer(layer, steps, *arguments, loops=loops, keep=True)
            d_arguments = run_layer_back(
                layer,
                steps,
                d_hs,
                d_ends,
                *arguments,
                rows=rows,
                loops=loops,
                needs_d_x=ctx.needs_input_grad[3],
            )
        return None, None, None, *d_arguments


def save(
    ctx: Any,
    loops: Any,
    layer: Layer,
    steps: Steps,
    arguments: Sequence[Tensor | None],
    rows: Sequence[Tensor],
) -> None:
    """Keep what the backward pass needs."""
    ctx.loops, ctx.layer, ctx.steps, ctx.argument_count = loops, layer, steps, len(arguments)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*arguments, *rows)


class WatchedLayerFunction(LayerFunction):
    """:class:`LayerFunction` in the form that the transforms of ``torch.func`` ask for.

    It takes torch longer, and what is kept for the way back has to be an output.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(loops: Any, layer: Layer, steps: Steps, *arguments: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        (hs, *others), ends = run_layer(layer, steps, *arguments, loops=loops, keep=True)
        return hs, *ends, *others

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        loops, layer, steps, *arguments = inputs
        ends = 1 + layer.states
        ctx.mark_non_differentiable(*output[ends:])
        save(ctx, loops, layer, steps, arguments, (output[0], *output[ends:]))


def apply_layer(layer: Layer, steps: Steps, *arguments: Any) -> tuple[Tensor, ...]:
    """``hs`` and the last states; where no gradient can be asked for, nothing is kept for one."""
    loops = loops_for(layer, steps, *arguments)
    if loops is differentiable:
        return WatchedLayerFunction.apply(loops, layer, steps, *arguments)[: 1 + layer.states]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments):
        return LayerFunction.apply(loops, layer, steps, *arguments)
    (hs, *_), ends = run_layer(layer, steps, *arguments, loops=loops, keep=False)
    return hs, *ends


# --- what the modules refuse ------------------------------------------------------------------


def check_dtype(where: str, name: str, dtype: torch.dtype) -> None:
    """Refuse a dtype that is not real floating point.

    Raises:
        TypeError: integer, boolean or complex.
    """
    if not dtype.is_floating_point:
        raise TypeError(f"{where}: {name} is {dtype}, expected a real floating-point dtype")


def check_tensor(where: str, name: str, x: Any, weight: Tensor) -> Tensor:
    """A tensor that goes with the weights; under autocast, cast to its dtype.

    Args:
        where: what the module is called in the message.
        name: what the argument is called in the message.
        x: the argument.
        weight: a parameter, already cast.

    Raises:
        TypeError: not a tensor, or another dtype than the weights.
        ValueError: another device than the weights.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: {name} is a {type(x).__name__}, expected a torch.Tensor")
    if x.device != weight.device:
        raise ValueError(f"{where}: {name} is on {x.device}, expected {weight.device} like the weights")
    x = as_autocast(x)
    if x.dtype != weight.dtype:
        raise TypeError(f"{where}: {name} has dtype {x.dtype}, expected {weight.dtype} like the weights")
    return x


def check_shape(where: str, name: str, x: Tensor, dims: str, expected: tuple[int, ...]) -> None:
    """Refuse another shape than the expected one.

    Raises:
        ValueError: naming the argument, its shape and the expected shape.
    """
    if tuple(x.shape) != expected:
        raise ValueError(f"{where}: {name} has shape {tuple(x.shape)}, expected {dims} = {expected}")


def pair(where: str, hx: Any) -> tuple[Any, Any]:
    """The two states of an LSTM.

    Raises:
        TypeError: not a pair.
    """
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        came = f"{len(hx)} values" if isinstance(hx, tuple | list) else f"a {type(hx).__name__}"
        raise TypeError(f"{where}: hx is {came}, expected the pair (h_0, c_0)")
    return hx[0], hx[1]


# --- the modules ------------------------------------------------------------------------------


class RecurrentModule(torch.nn.Module):
    """What layers and cells share: sizes, parameters, and the numbers that these start from."""

    slab: ClassVar[int]  # how many gates lie side by side
    parameter_names: ClassVar[tuple[str, ...]] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    state_names: ClassVar[tuple[str, ...]] = ("hx",)  # as messages call them

    def __init__(self, input_size: int, hidden_size: int, bias: bool, dtype: torch.dtype | None) -> None:
        super().__init__()
        where = self._get_name()
        check_flag(where, "bias", bias)
        if dtype is not None:
            check_dtype(where, "dtype", dtype)
        self.input_size = check_count(where, "input_size", input_size)
        self.hidden_size = check_count(where, "hidden_size", hidden_size)
        self.bias = bias

    @property
    def layer(self) -> Layer:
        """The function that one layer in one direction computes."""
        raise NotImplementedError

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The number of entries of each state."""
        return (self.hidden_size,)

    def add_parameters(self, suffix: str, input_size: int, device: Device, dtype: torch.dtype | None) -> None:
        """Register the parameters of one layer and direction, with no numbers in them yet."""
        rows, state_size = self.slab * self.hidden_size, self.state_sizes[0]
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, state_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if state_size != self.hidden_size:
            shapes["weight_hr"] = (state_size, self.hidden_size)
        for name in self.parameter_names:
            parameter = None
            if name in shapes:
                parameter = torch.nn.Parameter(torch.empty(shapes[name], device=device, dtype=dtype))
            self.register_parameter(name + suffix, parameter)

    def reset_parameters(self) -> None:
        """Draw every parameter from the uniform distribution on (-1/√H, 1/√H), in their order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound)

    def weights(self, suffix: str) -> tuple[Any, ...]:
        """The parameters of one layer and direction, None where there is none.

        Under autocast they are in its dtype.

        Raises:
            TypeError: a parameter is not real floating point any more.
        """
        values = tuple(getattr(self, name + suffix) for name in self.parameter_names)
        check_dtype(self._get_name(), f"the dtype of weight_ih{suffix}", values[0].dtype)
        if autocast_dtype(values[0].device.type) is None:
            return values
        return tuple(None if value is None else as_autocast(value) for value in values)

    def check_states(
        self, hx: Sequence[Any], weight: Tensor, dims: str, leading: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """The states given by the caller, held to the weights and to (leading, size) in shape."""
        where, states = self._get_name(), []
        for name, x, size in zip(self.state_names, hx, self.state_sizes, strict=True):
            state = check_tensor(where, name, x, weight)
            check_shape(where, name, state, dims, (*leading, size))
            states.append(state)
        return tuple(states)

    def zero_states(self, x: Tensor, leading: tuple[int, ...]) -> tuple[Tensor, ...]:
        """States of zeros, (leading, size), with dtype and device of the input."""
        return tuple(x.new_zeros((*leading, size)) for size in self.state_sizes)


class RecurrentLayers(RecurrentModule):
    """Layers on top of each other, in one direction or in both: what RNN, LSTM and GRU share."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: Device,
        dtype: torch.dtype | None,
        proj_size: int = 0,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        where = self._get_name()
        num_layers = check_count(where, "num_layers", num_layers)
        check_flag(where, "batch_first", batch_first)
        check_flag(where, "bidirectional", bidirectional)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"{where}: dropout is {dropout!r}, expected a probability from 0 to 1")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"{where}: dropout is {dropout} but acts between layers, and num_layers is 1", stacklevel=3
            )
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = check_count(where, "proj_size", proj_size, 0, self.hidden_size - 1)
        for layer in range(num_layers):
            for suffix in self.suffixes(layer):
                self.add_parameters(
                    suffix,
                    input_size if layer == 0 else self.directions * self.state_sizes[0],
                    device,
                    dtype,
                )
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """2 where the layers run both ways, else 1."""
        return 2 if self.bidirectional else 1

    def suffixes(self, layer: int) -> list[str]:
        """What the names of a layer's parameters end in, by direction."""
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    @property
    def all_weights(self) -> list[list[torch.nn.Parameter]]:
        """The parameters of every layer and direction, in the order of the state_dict."""
        return [
            [
                parameter
                for name in self.parameter_names
                if (parameter := getattr(self, name + suffix)) is not None
            ]
            for layer in range(self.num_layers)
            for suffix in self.suffixes(layer)
        ]

    def flatten_parameters(self) -> None:
        """Does nothing: parameters are read where they lie. It is here for code written for cuDNN."""

    def rows(self, input: Tensor | PackedSequence, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input as the rows of one matrix, (N, I), and how many of them belong to each step."""
        where, I = self._get_name(), self.input_size
        if isinstance(input, PackedSequence):
            x = check_tensor(where, "input.data", input.data, weight)
            sizes = tuple(int(size) for size in input.batch_sizes.tolist())
            check_shape(where, "input.data", x, "(N, I)", (sum(sizes), I))
            return x, sizes
        x = check_tensor(where, "input", input, weight)
        shape = tuple(x.shape)
        if len(shape) not in (2, 3) or shape[-1] != I:
            dims = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ValueError(
                f"{where}: input has shape {shape}, expected {dims} or, for one sequence, (T, I), "
                f"with I = {I} set by input_size"
            )
        if len(shape) == 2:
            x = x.unsqueeze(1)  # (T, 1, I)
        elif self.batch_first:
            x = x.transpose(0, 1)  # (T, B, I)
        T, B = x.shape[:2]
        if T == 0:
            raise ValueError(f"{where}: input has shape {shape}: T is 0, expected at least 1")
        return x.reshape(T * B, I), (B,) * T

    def run(
        self, input: Tensor | PackedSequence, hx: Sequence[Any] | None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """All layers along all steps.

        Args:
            input: (T, B, I), (B, T, I) if ``batch_first``, (T, I), or a ``PackedSequence``.
            hx: the initial states, (L · D, B, H) each, (L · D, H) for (T, I); zeros if None.

        Returns:
            The states h of the last layer in the form of the input, and the final states.
        """
        weights = [
            [self.weights(suffix) for suffix in self.suffixes(layer)] for layer in range(self.num_layers)
        ]
        weight = weights[0][0][0]
        x, sizes = self.rows(input, weight)  # (N, I)
        packed = input if isinstance(input, PackedSequence) else None
        one_sequence = isinstance(input, Tensor) and input.dim() == 2
        LD, B = self.num_layers * self.directions, sizes[0]

        if hx is None:
            initial = [self.zero_states(x, (B,))] * LD  # (B, H) each
        else:
            dims = "(num_layers · directions, size)" if one_sequence else "(num_layers · directions, B, size)"
            states = self.check_states(hx, weight, dims, (LD,) if one_sequence else (LD, B))
            if one_sequence:
                states = tuple(state.unsqueeze(1) for state in states)  # (L · D, 1, H)
            if packed is not None:
                states = tuple(reorder(state, packed.sorted_indices) for state in states)
            initial = list(zip(*states, strict=True))

        finals: list[list[Tensor]] = []
        for layer, by_direction in enumerate(weights):
            outputs = []
            for direction, of_layer in enumerate(by_direction):
                steps = Steps(sizes, reverse=direction == 1)
                hs, *ends = apply_layer(self.layer, steps, x, *initial[len(finals)], *of_layer)
                outputs.append(hs)
                finals.append(ends)
            x = torch.cat(outputs, dim=1) if self.bidirectional else outputs[0]  # (N, D · H)
            if self.training and self.dropout > 0 and layer < self.num_layers - 1:
                x = torch.nn.functional.dropout(x, self.dropout)
        if LD == 1:
            last = tuple(state.unsqueeze(0) for state in finals[0])  # (1, B, H) each
        else:
            last = tuple(torch.stack(state) for state in zip(*finals, strict=True))  # (L · D, B, H) each

        if packed is not None:
            last = tuple(reorder(state, packed.unsorted_indices) for state in last)
            return PackedSequence(x, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), last
        if one_sequence:
            return x, tuple(state.squeeze(1) for state in last)
        output = x.reshape(len(sizes), B, x.shape[1])  # (T, B, D · H)
        return output.transpose(0, 1) if self.batch_first else output, last

    def extra_repr(self) -> str:
        """The arguments that are not the default, as torch.nn prints them."""
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed(self, defaults)])


def reorder(state: Tensor, indices: Tensor | None) -> Tensor:
    """The state (L · D, B, H) with its sequences in another order, or as it is."""
    return state if indices is None else state.index_select(1, indices)


def changed(module: torch.nn.Module, defaults: dict[str, Any]) -> list[str]:
    """``name=value`` for the attributes of a module that differ from a default."""
    return [f"{name}={getattr(module, name)}" for name, d in defaults.items() if getattr(module, name) != d]


class RNN(RecurrentLayers):
    """The vanilla network, drop-in for :class:`torch.nn.RNN` (:eq:`eq-vanilla-hidden`).

    h_t = σ(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh). The two biases are torch's; they act as their sum.

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        num_layers: L, the number of layers on top of each other.
        nonlinearity: σ, ``"tanh"`` or ``"relu"``.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ·) and not (T, B, ·).
        dropout: the probability with which an entry passed from one layer to the next is set to 0 in
            training; the others are scaled up.
        bidirectional: whether every layer also runs from the last step to the first; D is then 2,
            else 1, and the outputs of both directions stand side by side.
        device: where the parameters live.
        dtype: dtype of the parameters.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the parameters and draw their first values."""
        check_choice(type(self).__name__, "nonlinearity", nonlinearity, tuple(RNN_LAYERS))
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        )
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"

    @property
    def layer(self) -> Layer:
        """The vanilla network with this nonlinearity."""
        return RNN_LAYERS[self.nonlinearity]

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run along a batch of sequences.

        Args:
            input: (T, B, I), (B, T, I) if ``batch_first``, (T, I) for one sequence, or a
                ``PackedSequence``; T at least 1.
            hx: h_0, (L · D, B, H), or (L · D, H) for one sequence; zeros if None.

        Returns:
            The states h_t of the last layer, (T, B, D · H) or in the form of the input, and h_n, the
            last state of every layer and direction, in the form of ``hx``.

        Raises:
            TypeError: no tensor, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        output, (h_n,) = self.run(input, None if hx is None else (hx,))
        return output, h_n


class LSTM(RecurrentLayers):
    """Long short-term memory, drop-in for :class:`torch.nn.LSTM` (:eq:`eq-lstm-memory`).

    The equations are those of :mod:`rnnlib.lstm`; the rows of the weights hold the gates in the order
    i, f, C̃, o. The two biases are torch's; they act as their sum. With ``proj_size`` the state is
    h_t = W_hr (o_t ⊙ tanh(C_t)) (Sak et al., 2014).

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        num_layers: L, the number of layers on top of each other.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ·) and not (T, B, ·).
        dropout: the probability with which an entry passed from one layer to the next is set to 0 in
            training; the others are scaled up.
        bidirectional: whether every layer also runs from the last step to the first; D is then 2,
            else 1, and the outputs of both directions stand side by side.
        proj_size: P, the number of entries of h if it is to be below H; 0 for H.
        device: where the parameters live.
        dtype: dtype of the parameters.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 4
    parameter_names = (*RecurrentModule.parameter_names, "weight_hr")
    state_names = ("hx[0]", "hx[1]")
    mode = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the parameters and draw their first values."""
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            proj_size,
        )

    @property
    def layer(self) -> Layer:
        """The LSTM."""
        return LSTM_LAYERS[self.state_sizes[0] != self.hidden_size]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The number of entries of h and of C."""
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Run along a batch of sequences.

        Args:
            input: (T, B, I), (B, T, I) if ``batch_first``, (T, I) for one sequence, or a
                ``PackedSequence``; T at least 1.
            hx: ``(h_0, c_0)``, (L · D, B, P) and (L · D, B, H), without B for one sequence; P is H if
                there is no projection; zeros if None.

        Returns:
            The states h_t of the last layer, (T, B, D · P) or in the form of the input, and
            ``(h_n, c_n)``, the last states of every layer and direction, in the form of ``hx``.

        Raises:
            TypeError: no tensor, no pair, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        output, (h_n, C_n) = self.run(input, None if hx is None else pair(self._get_name(), hx))
        return output, (h_n, C_n)


class GRU(RecurrentLayers):
    """The gated recurrent unit, by default drop-in for :class:`torch.nn.GRU`.

    The rows of the weights hold r, z and the candidate in this order, and z_t is torch's, the share
    that the old state keeps; the notes' z_t is 1 - z_t. :mod:`rnnlib.convert` goes from one to the
    other. ``reset_after`` moves the reset gate and changes nothing else:

    - True (torch, cuDNN, Keras): h̃_t = tanh(W_ih x_t + b_ih + r_t ⊙ (W_hh h_{t-1} + b_hh)).
    - False (the notes, Cho et al. 2014, ONNX by default):
      h̃_t = tanh(W_ih x_t + b_ih + W_hh (r_t ⊙ h_{t-1}) + b_hh), so that both biases of the candidate
      are added outside the reset and act as their sum (:eq:`eq-gru-candidate`).

    In the gates r and z the two biases act as their sum either way. The state_dict has the same names
    and shapes either way, and does not tell which way it was trained.

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        num_layers: L, the number of layers on top of each other.
        bias: whether there are biases.
        batch_first: whether input and output are (B, T, ·) and not (T, B, ·).
        dropout: the probability with which an entry passed from one layer to the next is set to 0 in
            training; the others are scaled up.
        bidirectional: whether every layer also runs from the last step to the first; D is then 2,
            else 1, and the outputs of both directions stand side by side.
        device: where the parameters live.
        dtype: dtype of the parameters.
        reset_after: whether the reset gate acts after the recurrent product.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 3
    mode = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        """Create the parameters and draw their first values."""
        check_flag(type(self).__name__, "reset_after", reset_after)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        )
        self.reset_after = reset_after

    @property
    def layer(self) -> Layer:
        """The GRU with the reset on this side of the product."""
        return GRU_LAYERS[self.reset_after]

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run along a batch of sequences.

        Args:
            input: (T, B, I), (B, T, I) if ``batch_first``, (T, I) for one sequence, or a
                ``PackedSequence``; T at least 1.
            hx: h_0, (L · D, B, H), or (L · D, H) for one sequence; zeros if None.

        Returns:
            The states h_t of the last layer, (T, B, D · H) or in the form of the input, and h_n, the
            last state of every layer and direction, in the form of ``hx``.

        Raises:
            TypeError: no tensor, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        output, (h_n,) = self.run(input, None if hx is None else (hx,))
        return output, h_n

    def extra_repr(self) -> str:
        """The arguments that are not the default, as torch.nn prints them."""
        return ", ".join([super().extra_repr(), *changed(self, {"reset_after": True})])


class RecurrentCell(RecurrentModule):
    """One step of one layer: what the three cells share."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, device: Device, dtype: torch.dtype | None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self.add_parameters("", input_size, device, dtype)
        self.reset_parameters()

    def run(self, input: Tensor, hx: Sequence[Any] | None) -> tuple[Tensor, ...]:
        """One step.

        Args:
            input: (B, I) or (I,).
            hx: the states, (B, H) or (H,) each; zeros if None.

        Returns:
            The new states, (B, H) or (H,) each.
        """
        where, I = self._get_name(), self.input_size
        weights = self.weights("")
        x = check_tensor(where, "input", input, weights[0])
        if x.dim() not in (1, 2) or x.shape[-1] != I:
            raise ValueError(
                f"{where}: input has shape {tuple(x.shape)}, expected (B, I) or, with no batch, (I,), "
                f"with I = {I} set by input_size"
            )
        leading = tuple(x.shape[:-1])
        if hx is None:
            states = self.zero_states(x, leading)
        else:
            states = self.check_states(hx, weights[0], "(B, size)" if leading else "(size,)", leading)
        if not leading:
            x, states = x.unsqueeze(0), tuple(state.unsqueeze(0) for state in states)  # (1, ·)
        _, *ends = apply_layer(self.layer, Steps((len(x),)), x, *states, *weights)
        return tuple(state if leading else state.squeeze(0) for state in ends)

    def extra_repr(self) -> str:
        """The arguments that are not the default, as torch.nn prints them."""
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed(self, {"bias": True})])


class RNNCell(RecurrentCell):
    """One step of the vanilla network, drop-in for :class:`torch.nn.RNNCell`: see :class:`RNN`.

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        bias: whether there are biases.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        device: where the parameters live.
        dtype: dtype of the parameters.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the parameters and draw their first values."""
        check_choice(type(self).__name__, "nonlinearity", nonlinearity, tuple(RNN_LAYERS))
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    @property
    def layer(self) -> Layer:
        """The vanilla network with this nonlinearity."""
        return RNN_LAYERS[self.nonlinearity]

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input: x_t, (B, I) or (I,).
            hx: h_{t-1}, (B, H) or (H,); zeros if None.

        Returns:
            h_t, (B, H) or (H,).

        Raises:
            TypeError: no tensor, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        (h_t,) = self.run(input, None if hx is None else (hx,))
        return h_t

    def extra_repr(self) -> str:
        """The arguments that are not the default, as torch.nn prints them."""
        return ", ".join([super().extra_repr(), *changed(self, {"nonlinearity": "tanh"})])


class LSTMCell(RecurrentCell):
    """One step of an LSTM, drop-in for :class:`torch.nn.LSTMCell`: see :class:`LSTM`.

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        bias: whether there are biases.
        device: where the parameters live.
        dtype: dtype of the parameters.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 4
    state_names = ("hx[0]", "hx[1]")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the parameters and draw their first values."""
        super().__init__(input_size, hidden_size, bias, device, dtype)

    @property
    def layer(self) -> Layer:
        """The LSTM."""
        return LSTM_LAYERS[self.state_sizes[0] != self.hidden_size]

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The number of entries of h and of C."""
        return (self.hidden_size, self.hidden_size)

    def weights(self, suffix: str) -> tuple[Any, ...]:
        """The parameters; a cell has no projection."""
        return (*super().weights(suffix), None)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            input: x_t, (B, I) or (I,).
            hx: ``(h_{t-1}, C_{t-1})``, (B, H) or (H,) each; zeros if None.

        Returns:
            ``(h_t, C_t)``, (B, H) or (H,) each.

        Raises:
            TypeError: no tensor, no pair, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        h_t, C_t = self.run(input, None if hx is None else pair(self._get_name(), hx))
        return h_t, C_t


class GRUCell(RecurrentCell):
    """One step of a GRU, by default drop-in for :class:`torch.nn.GRUCell`: see :class:`GRU`.

    Args:
        input_size: I, the number of inputs.
        hidden_size: H, the number of hidden units.
        bias: whether there are biases.
        device: where the parameters live.
        dtype: dtype of the parameters.
        reset_after: whether the reset gate acts after the recurrent product.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.
    """

    slab = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        """Create the parameters and draw their first values."""
        check_flag(type(self).__name__, "reset_after", reset_after)
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.reset_after = reset_after

    @property
    def layer(self) -> Layer:
        """The GRU with the reset on this side of the product."""
        return GRU_LAYERS[self.reset_after]

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            input: x_t, (B, I) or (I,).
            hx: h_{t-1}, (B, H) or (H,); zeros if None.

        Returns:
            h_t, (B, H) or (H,).

        Raises:
            TypeError: no tensor, or not the dtype of the weights.
            ValueError: a shape or a device that does not fit.
        """
        (h_t,) = self.run(input, None if hx is None else (hx,))
        return h_t

    def extra_repr(self) -> str:
        """The arguments that are not the default, as torch.nn prints them."""
        return ", ".join([super().extra_repr(), *changed(self, {"reset_after": True})])
