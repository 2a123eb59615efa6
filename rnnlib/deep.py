"""Floor 3, chapter 9: the deep network, layer upon layer (Graves et al. 2013).

    h_t^(l) = σ(W_hh^(l) h_{t-1}^(l) + W_xh^(l) h_t^(l-1) + b_h^(l)),    h_t^(0) = x_t

The hidden states of one layer are the inputs of the next. A layer is a cell of any kind, a
bidirectional layer, or a stack again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rnnlib import vanilla
from rnnlib.activations import Activation
from rnnlib.backend import (
    Array,
    backend_of,
    check_arrays,
    check_flag,
    check_generator,
    check_kind,
    check_share,
    is_array,
)
from rnnlib.bptt import (
    Gradients,
    LossGradient,
    Network,
    backward,
    check_network,
    checkpointed_bptt,
    forward,
    gradient_of_loss,
    is_causal,
    outputs,
)
from rnnlib.cell import Cell
from rnnlib.equations import implements

# --- one step of one layer ----------------------------------------------------------------------


@implements("eq-deep-hidden")
def hidden_state(
    h_below: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_xh: Annotated[Array, "H I"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
    activation: Activation = "tanh",
) -> Annotated[Array, "B H"]:
    """The hidden state of layer l, of vanilla cells (:eq:`eq-deep-hidden`).

    Args:
        h_below: h_t^(l-1), the hidden state of the layer below, now; x_t for the first layer, (B, I).
        h_prev: h_{t-1}^(l), the hidden state of the same layer, one step ago, (B, H).
        W_xh: W_xh^(l), weights from the layer below, (H, I).
        W_hh: W_hh^(l), recurrent weights, (H, H).
        b_h: b_h^(l), bias, (H,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        h_t^(l), (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    a_t = vanilla.preactivation.unchecked(h_below, h_prev, W_xh, W_hh, b_h)  # (B, H)
    return vanilla.hidden_state.unchecked(a_t, activation)  # (B, H)


@implements("eq-deep-hidden-backward")
def hidden_state_backward(
    d_h_t: Annotated[Array, "B H"],
    h_below: Annotated[Array, "B I"],
    h_prev: Annotated[Array, "B H"],
    W_xh: Annotated[Array, "H I"],
    W_hh: Annotated[Array, "H H"],
    b_h: Annotated[Array, "H"],
    activation: Activation = "tanh",
) -> tuple[
    Annotated[Array, "B I"],
    Annotated[Array, "B H"],
    Annotated[Array, "H I"],
    Annotated[Array, "H H"],
    Annotated[Array, "H"],
]:
    """The local derivatives of :func:`hidden_state` (:eq:`eq-deep-hidden-backward`).

    The gradient leaves a step in two directions: down to the layer below, and back in time.

    Args:
        d_h_t: ∂L/∂h_t^(l), (B, H).
        h_below: h_t^(l-1), (B, I).
        h_prev: h_{t-1}^(l), (B, H).
        W_xh: W_xh^(l), (H, I).
        W_hh: W_hh^(l), (H, H).
        b_h: b_h^(l), (H,).
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.

    Returns:
        ``d_h_below`` (B, I), ``d_h_prev`` (B, H), ``d_W_xh`` (H, I), ``d_W_hh`` (H, H), ``d_b_h``
        (H,); those of the parameters are immediate derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an unknown activation.
    """
    a_t = vanilla.preactivation.unchecked(h_below, h_prev, W_xh, W_hh, b_h)  # (B, H)
    d_a_t = vanilla.hidden_state_backward.unchecked(d_h_t, a_t, activation)  # (B, H)
    return vanilla.preactivation_backward.unchecked(d_a_t, h_below, h_prev, W_xh, W_hh)


# --- between the layers -------------------------------------------------------------------------


@implements("eq-deep-residual")
def residual(
    h_below: Annotated[Array, "T B H"], h_layer: Annotated[Array, "T B H"]
) -> Annotated[Array, "T B H"]:
    """A layer adds to what comes from below instead of replacing it (:eq:`eq-deep-residual`).

    Args:
        h_below: h_t^(l-1), what comes from below, (T, B, H).
        h_layer: what the layer makes of it, (T, B, H).

    Returns:
        h_t^(l), their sum, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return h_below + h_layer  # (T, B, H)


@implements("eq-deep-residual-backward")
def residual_backward(
    d_hs: Annotated[Array, "T B H"],
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B H"]]:
    """The local derivatives of :func:`residual` (:eq:`eq-deep-residual-backward`).

    Args:
        d_hs: ∂L/∂h_t^(l), (T, B, H).

    Returns:
        ``d_h_below``, the way past the layer, and ``d_h_layer``, the way into it, (T, B, H) each:
        both are ∂L/∂h_t^(l).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_hs, d_hs


@implements("eq-deep-dropout-mask")
def dropout_mask(u: Annotated[Array, "T B H"], rate: float) -> Annotated[Array, "T B H"]:
    """Which hidden states stay, and by how much they grow (:eq:`eq-deep-dropout-mask`).

    Inverted dropout: what stays is divided by the chance to stay, so the mean is unchanged and
    nothing has to be done when dropout is off.

    Args:
        u: independent numbers, uniform in [0, 1), (T, B, H).
        rate: p, the chance to be dropped, at least 0 and below 1.

    Returns:
        The mask: 0 where u < p, else 1 / (1 - p), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a rate out of range.
    """
    rate = check_share("dropout_mask", "rate", rate, below=True)
    xp = backend_of(u)
    return xp.where(u < rate, xp.zeros_like(u), xp.ones_like(u) / (1 - rate))


@implements("eq-deep-dropout")
def dropout(hs: Annotated[Array, "T B H"], mask: Annotated[Array, "T B H"]) -> Annotated[Array, "T B H"]:
    """Hidden states on their way up, a new mask at every step (:eq:`eq-deep-dropout`).

    Args:
        hs: h_t^(l), (T, B, H).
        mask: m_t, from :func:`dropout_mask`, (T, B, H).

    Returns:
        m_t ⊙ h_t^(l), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return mask * hs  # (T, B, H)


@implements("eq-deep-dropout-backward")
def dropout_backward(
    d_dropped: Annotated[Array, "T B H"], mask: Annotated[Array, "T B H"]
) -> Annotated[Array, "T B H"]:
    """The local derivative of :func:`dropout` (:eq:`eq-deep-dropout-backward`).

    Args:
        d_dropped: the gradient of what went up, (T, B, H).
        mask: m_t, (T, B, H).

    Returns:
        ∂L/∂h_t^(l), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return mask * d_dropped  # (T, B, H)


@implements("eq-deep-variational")
def variational_dropout(
    hs: Annotated[Array, "T B H"], mask: Annotated[Array, "B H"]
) -> Annotated[Array, "T B H"]:
    """Hidden states on their way up, one mask for all steps (:eq:`eq-deep-variational`; Gal and
    Ghahramani 2016).

    Args:
        hs: h_t^(l), (T, B, H).
        mask: m, one row for every sequence, (B, H).

    Returns:
        m ⊙ h_t^(l), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return mask[None] * hs  # (T, B, H)


@implements("eq-deep-variational-backward")
def variational_dropout_backward(
    d_dropped: Annotated[Array, "T B H"], mask: Annotated[Array, "B H"]
) -> Annotated[Array, "T B H"]:
    """The local derivative of :func:`variational_dropout` (:eq:`eq-deep-variational-backward`).

    Args:
        d_dropped: the gradient of what went up, (T, B, H).
        mask: m, (B, H).

    Returns:
        ∂L/∂h_t^(l), (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return mask[None] * d_dropped  # (T, B, H)


def dropout_masks(
    rng: np.random.Generator, network: Stack, xs: Array, rate: float, variational: bool = False
) -> tuple[Array, ...]:
    """The masks for one pass of a stack over a batch, drawn from a generator.

    The same generator gives the same masks in every dtype, on NumPy and on torch.

    Args:
        rng: the generator; L - 1 arrays of uniform numbers are drawn, from the lowest layer up.
        network: the stack, of L layers.
        xs: its inputs, (T, B, I), for the sizes, the dtype and the device.
        rate: p, the chance to be dropped, at least 0 and below 1.
        variational: one mask for all steps.

    Returns:
        A mask for the hidden states of every layer but the last: (T, B, H) each, (B, H) if
        variational.

    Raises:
        TypeError, ValueError: no generator; a rate out of range.
    """
    check_generator("dropout_masks", rng)
    check_kind("dropout_masks", "network", network, Stack)
    check_arrays("dropout_masks", [("xs", xs, "T B I")])
    rate = check_share("dropout_masks", "rate", rate, below=True)
    check_flag("dropout_masks", "variational", variational)
    T, B = int(xs.shape[0]), int(xs.shape[1])
    masks = []
    for layer in network.layers[:-1]:
        u = rng.random((1 if variational else T, B, layer.hidden_size))
        mask = dropout_mask.unchecked(u, rate)
        masks.append(backend_of(xs).asarray(mask[0] if variational else mask, like=xs))
    return tuple(masks)


# --- the network --------------------------------------------------------------------------------


@dataclass(frozen=True)
class StackTrajectory:
    """What a stack did along a sequence.

    Attributes:
        hs: the hidden states that the last layer hands on, (T, B, H); zero at the steps beyond a
            sequence's length.
        layers: the trajectory of every layer.
        dropout_masks: the masks between the layers, or None.
    """

    hs: Annotated[Array, "T B H"]
    layers: tuple[Any, ...]
    dropout_masks: tuple[Array, ...] | None

    @property
    def initial(self) -> tuple[Any, ...]:
        """The state that every layer started from."""
        return tuple(layer.initial for layer in self.layers)

    @property
    def final(self) -> tuple[Any, ...]:
        """The state that every layer ended in."""
        return tuple(layer.final for layer in self.layers)

    @property
    def mask(self) -> Array | None:
        """Which steps belong to a sequence, (T, B), or None where all do."""
        return self.layers[0].mask

    def window(self, start: int, stop: int) -> StackTrajectory:
        """The steps start + 1, …, stop by themselves (see :meth:`rnnlib.unroll.Trajectory.window`)."""
        masks = self.dropout_masks
        return StackTrajectory(
            self.hs[start:stop],
            tuple(layer.window(start, stop) for layer in self.layers),
            masks and tuple(m if m.ndim == 2 else m[start:stop] for m in masks),
        )


@dataclass(frozen=True)
class Stack:
    """Layers upon layers, each over the hidden states of the one below.

    From the second layer on, with h^(l-1) for what comes from below and m for the dropout mask:

        h^(l) = layer(m ⊙ h^(l-1))              plain
        h^(l) = h^(l-1) + layer(m ⊙ h^(l-1))    residual

    so that with residual connections nothing is dropped on the way past the layers.

    Attributes:
        layers: cells or networks of cells, the lowest first, at least one.
        residual: whether every layer from the second on adds to what comes from below.

    Raises:
        ValueError: no layer; sizes that do not fit together.
    """

    layers: tuple[Cell | Network, ...]
    residual: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple) or not self.layers:
            came = "empty" if isinstance(self.layers, tuple) else f"a {type(self.layers).__name__}"
            raise ValueError(f"Stack: layers is {came}, expected a tuple of at least one layer")
        check_flag("Stack", "residual", self.residual)
        for l, layer in enumerate(self.layers):
            check_network("Stack", f"layers[{l}]", layer)
        for l in range(1, len(self.layers)):
            below, layer = self.layers[l - 1].hidden_size, self.layers[l]
            if layer.input_size != below:
                raise ValueError(
                    f"Stack: layers[{l}] has input_size {layer.input_size}, expected {below}, the "
                    f"hidden_size of layers[{l - 1}]"
                )
            if self.residual and layer.hidden_size != below:
                raise ValueError(
                    f"Stack: layers[{l}] has hidden_size {layer.hidden_size}, expected {below} for a "
                    f"residual connection from layers[{l - 1}]"
                )

    @property
    def input_size(self) -> int:
        """I, the number of inputs of the lowest layer."""
        return self.layers[0].input_size

    @property
    def hidden_size(self) -> int:
        """H, the hidden size of the last layer."""
        return self.layers[-1].hidden_size

    @property
    def causal(self) -> bool:
        """Whether step t needs nothing of the steps behind it, in every layer."""
        return all(is_causal(layer) for layer in self.layers)

    def forward(
        self, xs: Array, initial: Any = None, lengths: Any = None, dropout_masks: Any = None
    ) -> StackTrajectory:
        """Run the layers, one above the other.

        Args:
            xs: inputs, (T, B, I).
            initial: one initial state for every layer, a tuple; zeros where None.
            lengths: the number of steps of each sequence, or None where all have T.
            dropout_masks: one mask between every two layers, (T, B, H) or (B, H), a tuple (see
                :func:`dropout_masks`); None for no dropout.

        Returns:
            The :class:`StackTrajectory`; its ``hs`` is (T, B, H).

        Raises:
            TypeError, ValueError: see :func:`rnnlib.bptt.forward`; not one initial state per layer;
                masks that do not fit.
        """
        self.check_dropout(dropout_masks, xs)
        states = self._per_layer("initial", initial)
        hs, trajectories = xs, []
        for l, layer in enumerate(self.layers):
            trajectory = forward(layer, self._drop(l, hs, dropout_masks), states[l], lengths)
            hs = self._pass_on(l, hs, trajectory.hs)
            trajectories.append(trajectory)
        return StackTrajectory(hs, tuple(trajectories), dropout_masks)

    def backward(self, trajectory: StackTrajectory, d_hs: Array, d_final: Any = None) -> Gradients:
        """The gradients of every layer, from the last down.

        Args:
            trajectory: what :meth:`forward` returned.
            d_hs: ∂L_t/∂h_t of the last layer, (T, B, H).
            d_final: one gradient of a final state for every layer, a tuple; zeros where None.

        Returns:
            The :class:`rnnlib.bptt.Gradients`; ``d_cell`` is a :class:`Stack`.

        Raises:
            TypeError, ValueError: see :func:`rnnlib.bptt.backward`; not one gradient per layer.
        """
        check_kind("Stack", "trajectory", trajectory, StackTrajectory)
        check_arrays("Stack", [("hs", trajectory.hs, "T B H"), ("d_hs", d_hs, "T B H")])
        d_states = self._per_layer("d_final", d_final)
        parts = []
        for l in reversed(range(len(self.layers))):
            part = backward(self.layers[l], trajectory.layers[l], d_hs, d_states[l])
            d_hs = self._pass_back(l, d_hs, part.d_xs, trajectory.dropout_masks)
            parts.append(part)
        return self._joined(parts[::-1], d_hs)

    def outputs(
        self,
        xs: Array,
        initial: Any = None,
        lengths: Any = None,
        dropout_masks: Any = None,
        segment: int = 1,
    ) -> tuple[Array, Any]:
        """The hidden states and nothing for a way back (see :func:`rnnlib.bptt.outputs`)."""
        self.check_dropout(dropout_masks, xs)
        states = self._per_layer("initial", initial)
        hs, finals = xs, []
        for l, layer in enumerate(self.layers):
            h_layer, final = outputs(
                layer, self._drop(l, hs, dropout_masks), states[l], lengths, segment=segment
            )
            hs = self._pass_on(l, hs, h_layer)
            finals.append(final)
        return hs, tuple(finals)

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
        """Each layer checkpointed by itself (see :func:`rnnlib.bptt.checkpointed_bptt`)."""
        self.check_dropout(dropout_masks, xs)
        states = self._per_layer("initial", initial)
        d_states = self._per_layer("d_final", d_final)
        below = [xs]  # what comes to every layer from below, and last what leaves the stack
        upper = len(self.layers) if callable(loss_gradient) else len(self.layers) - 1
        for l in range(upper):
            fed = self._drop(l, below[l], dropout_masks)
            h_layer, _ = outputs(self.layers[l], fed, states[l], lengths, segment=segment)
            below.append(self._pass_on(l, below[l], h_layer))
        d_hs = loss_gradient
        if callable(loss_gradient):
            d_hs = gradient_of_loss(loss_gradient, slice(0, int(xs.shape[0])), below[-1], "checkpointed_bptt")
        parts = []
        for l in reversed(range(len(self.layers))):
            fed = self._drop(l, below[l], dropout_masks)
            part = checkpointed_bptt(
                self.layers[l],
                fed,
                d_hs,
                states[l],
                lengths,
                segment=segment,
                d_final=d_states[l],
                keep_outputs=keep_outputs,
            )
            d_hs = self._pass_back(l, d_hs, part.d_xs, dropout_masks)
            parts.append(part)
        return self._joined(parts[::-1], d_hs)

    def check_dropout(self, dropout_masks: Any, xs: Array) -> None:
        """Refuse masks that are not one (T, B, H) or (B, H) for every layer but the last.

        Raises:
            TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; not L - 1 masks.
        """
        if dropout_masks is None:
            return
        gaps = len(self.layers) - 1
        if not isinstance(dropout_masks, tuple) or len(dropout_masks) != gaps:
            came = len(dropout_masks) if isinstance(dropout_masks, tuple) else type(dropout_masks).__name__
            raise ValueError(f"Stack: dropout_masks is {came}, expected a tuple of L - 1 = {gaps} masks")
        entries = [("xs", xs, "T B I")]
        for l, mask in enumerate(dropout_masks):
            variational = is_array(mask) and mask.ndim == 2
            name = f"dropout_masks[{l}]"
            entries.append((name, mask, f"B H{l}" if variational else f"T B H{l}"))
        sizes = check_arrays("Stack", entries)
        for l in range(gaps):
            if sizes[f"H{l}"] != self.layers[l].hidden_size:
                raise ValueError(
                    f"Stack: dropout_masks[{l}] has shape {tuple(dropout_masks[l].shape)}, expected H = "
                    f"{self.layers[l].hidden_size}, the hidden_size of layers[{l}]"
                )

    def _per_layer(self, name: str, states: Any) -> tuple[Any, ...]:
        """One state for every layer, None for all where None."""
        L = len(self.layers)
        if states is None:
            return (None,) * L
        if not isinstance(states, tuple) or len(states) != L:
            came = f"{len(states)} states" if isinstance(states, tuple) else f"a {type(states).__name__}"
            raise ValueError(f"Stack: {name} is {came}, expected a tuple with one for each of {L} layers")
        return states

    def _drop(self, l: int, hs: Array, masks: tuple[Array, ...] | None) -> Array:
        """What layer l is fed: what comes from below, dropped in part."""
        if l == 0 or masks is None:
            return hs
        drop = variational_dropout if masks[l - 1].ndim == 2 else dropout
        return drop.unchecked(hs, masks[l - 1])

    def _pass_on(self, l: int, below: Array, h_layer: Array) -> Array:
        """What layer l hands on: what it makes of its input, alone or added to it."""
        return residual.unchecked(below, h_layer) if self.residual and l > 0 else h_layer

    def _pass_back(self, l: int, d_hs: Array, d_fed: Array, masks: tuple[Array, ...] | None) -> Array:
        """The gradient of what comes from below to layer l, from those of what it handed on and was fed."""
        if l == 0:
            return d_fed
        if masks is not None:
            undrop = variational_dropout_backward if masks[l - 1].ndim == 2 else dropout_backward
            d_fed = undrop.unchecked(d_fed, masks[l - 1])
        if not self.residual:
            return d_fed
        d_below, _ = residual_backward.unchecked(d_hs)
        return d_below + d_fed

    def _joined(self, parts: list[Gradients], d_xs: Array) -> Gradients:
        d_layers = tuple(part.d_cell for part in parts)
        return Gradients(
            dataclasses.replace(self, layers=d_layers), d_xs, tuple(part.d_initial for part in parts)
        )
