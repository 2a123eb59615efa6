"""Floor 3, chapter 8: the bidirectional network (Schuster and Paliwal 1997).

    →h_t = cell(x_t, →h_{t-1})      from the first step to the last
    ←h_t = cell(x_t, ←h_{t+1})      from the last step to the first
    h_t = [→h_t; ←h_t]

At every step h_t has seen the whole sequence: the past through →h_t, the future through ←h_t.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from rnnlib.backend import (
    Array,
    backend_of,
    check_arrays,
    check_choice,
    check_count,
    check_kind,
    checked_with,
)
from rnnlib.bptt import (
    Gradients,
    LossGradient,
    Network,
    NetworkTrajectory,
    backward,
    check_dropout,
    check_network,
    checkpointed_bptt,
    forward,
    gradient_of_loss,
    outputs,
)
from rnnlib.cell import Cell
from rnnlib.equations import implements
from rnnlib.unroll import whole_lengths

MERGES = ("concat", "sum", "mean")
"""The names accepted wherever an argument is called ``merge``."""


# --- the check that shapes cannot express -------------------------------------------------------


def _check_lengths(where: str, arguments: dict[str, Any]) -> None:
    """Lengths that fit the sequence."""
    xs = next(arguments[name] for name in ("xs", "d_ys", "d_hs") if name in arguments)
    if arguments["lengths"] is not None:
        whole_lengths(arguments["lengths"], int(xs.shape[0]), int(xs.shape[1]), where)


# --- the order of time --------------------------------------------------------------------------


@implements("eq-bidirectional-reverse")
def reverse(xs: Annotated[Array, "T B F"], lengths: Any = None) -> Annotated[Array, "T B F"]:
    """Every sequence from its own end to its beginning (:eq:`eq-bidirectional-reverse`).

    The padding stays behind the end, so a cell that runs over the result meets the last real step
    first. Twice applied, it changes nothing.

    Args:
        xs: a sequence of anything, (T, B, F).
        lengths: the number of steps n of each sequence, or None where all have T.

    Returns:
        x_{n+1-t} at step t ≤ n, and x_t behind it, (T, B, F).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays` and
            :func:`rnnlib.unroll.whole_lengths`.
    """
    T, B = int(xs.shape[0]), int(xs.shape[1])
    n = np.full(B, T) if lengths is None else np.array(whole_lengths(lengths, T, B, "reverse"))  # (B,)
    t = np.arange(T)[:, None]  # (T, 1)
    return xs[np.where(t < n, n - 1 - t, t), np.arange(B)]  # (T, B, F)


@implements("eq-bidirectional-reverse-backward")
@checked_with(_check_lengths)
def reverse_backward(d_ys: Annotated[Array, "T B F"], lengths: Any = None) -> Annotated[Array, "T B F"]:
    """The local derivative of :func:`reverse` (:eq:`eq-bidirectional-reverse-backward`).

    Args:
        d_ys: the gradient of the reversed sequence, (T, B, F).
        lengths: as for :func:`reverse`.

    Returns:
        The gradient of the sequence, (T, B, F): put back into its order.

    Raises:
        TypeError, ValueError: as :func:`reverse`.
    """
    return reverse.unchecked(d_ys, lengths)  # its own inverse, and its own transpose


# --- two hidden states become one ---------------------------------------------------------------


@implements("eq-bidirectional-concat")
def concat(
    h_rightward: Annotated[Array, "T B H"], h_leftward: Annotated[Array, "T B G"]
) -> Annotated[Array, "T B H+G"]:
    """Both hidden states side by side, as in the notes (:eq:`eq-bidirectional-concat`).

    Args:
        h_rightward: →h_t, what the rightward direction knows at every step, (T, B, H).
        h_leftward: ←h_t, what the leftward direction knows, (T, B, G); G may differ from H.

    Returns:
        h_t = [→h_t; ←h_t], (T, B, H + G).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(h_rightward).concat([h_rightward, h_leftward], axis=2)  # (T, B, H + G)


@implements("eq-bidirectional-concat-backward")
def concat_backward(
    d_hs: Annotated[Array, "T B D"], hidden_size: int
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B G"]]:
    """The local derivatives of :func:`concat` (:eq:`eq-bidirectional-concat-backward`).

    Args:
        d_hs: ∂L/∂h_t, (T, B, D) with D = H + G.
        hidden_size: H, the size of →h_t, from 1 to D - 1.

    Returns:
        ``d_h_rightward`` (T, B, H) and ``d_h_leftward`` (T, B, G): each half to the side it came from.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a hidden size out of range.
    """
    hidden_size = check_count("concat_backward", "hidden_size", hidden_size, 1, int(d_hs.shape[2]) - 1)
    return d_hs[:, :, :hidden_size], d_hs[:, :, hidden_size:]


@implements("eq-bidirectional-sum")
def add(
    h_rightward: Annotated[Array, "T B H"], h_leftward: Annotated[Array, "T B H"]
) -> Annotated[Array, "T B H"]:
    """Both hidden states added (:eq:`eq-bidirectional-sum`).

    Args:
        h_rightward: →h_t, (T, B, H).
        h_leftward: ←h_t, (T, B, H).

    Returns:
        h_t = →h_t + ←h_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return h_rightward + h_leftward  # (T, B, H)


@implements("eq-bidirectional-sum-backward")
def add_backward(
    d_hs: Annotated[Array, "T B H"],
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B H"]]:
    """The local derivatives of :func:`add` (:eq:`eq-bidirectional-sum-backward`).

    Args:
        d_hs: ∂L/∂h_t, (T, B, H).

    Returns:
        ``d_h_rightward`` and ``d_h_leftward``, (T, B, H) each: both are ∂L/∂h_t.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_hs, d_hs


@implements("eq-bidirectional-mean")
def mean(
    h_rightward: Annotated[Array, "T B H"], h_leftward: Annotated[Array, "T B H"]
) -> Annotated[Array, "T B H"]:
    """The mean of both hidden states (:eq:`eq-bidirectional-mean`).

    Args:
        h_rightward: →h_t, (T, B, H).
        h_leftward: ←h_t, (T, B, H).

    Returns:
        h_t = (→h_t + ←h_t) / 2, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return (h_rightward + h_leftward) / 2  # (T, B, H)


@implements("eq-bidirectional-mean-backward")
def mean_backward(
    d_hs: Annotated[Array, "T B H"],
) -> tuple[Annotated[Array, "T B H"], Annotated[Array, "T B H"]]:
    """The local derivatives of :func:`mean` (:eq:`eq-bidirectional-mean-backward`).

    Args:
        d_hs: ∂L/∂h_t, (T, B, H).

    Returns:
        ``d_h_rightward`` and ``d_h_leftward``, (T, B, H) each: both are ∂L/∂h_t / 2.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return d_hs / 2, d_hs / 2


# --- the network --------------------------------------------------------------------------------


@implements("eq-bidirectional-leftward")
@checked_with(_check_lengths)
def leftward(
    network: Cell | Network, xs: Annotated[Array, "T B I"], initial: Any = None, lengths: Any = None
) -> tuple[Annotated[Array, "T B H"], Any]:
    """Run a network from the end of every sequence to its beginning (:eq:`eq-bidirectional-leftward`).

    Args:
        network: a cell, or a network of cells.
        xs: inputs, (T, B, I).
        initial: the state behind the last step; zeros where None.
        lengths: the number of steps of each sequence, or None where all have T; each starts at its
            own end.

    Returns:
        ``hs`` (T, B, H), at step t what the network knows of the steps t, …, n; and its
        trajectory, in the order in which it met the steps.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.bptt.forward`.
    """
    trajectory = forward(network, reverse.unchecked(xs, lengths), initial, lengths)
    return reverse.unchecked(trajectory.hs, lengths), trajectory  # (T, B, H)


@implements("eq-bidirectional-leftward-backward")
@checked_with(_check_lengths)
def leftward_backward(
    network: Cell | Network,
    trajectory: NetworkTrajectory,
    d_hs: Annotated[Array, "T B H"],
    d_final: Any = None,
    lengths: Any = None,
) -> Gradients:
    """The gradients of :func:`leftward` (:eq:`eq-bidirectional-leftward-backward`).

    The way back goes against the way forward, so from the first step to the last.

    Args:
        network: the network.
        trajectory: the trajectory that :func:`leftward` returned for it.
        d_hs: ∂L_t/∂h_t in the order of the sequence, (T, B, H).
        d_final: ∂L/∂(final state), the one after the first step; zeros where None.
        lengths: as for :func:`leftward`.

    Returns:
        The :class:`rnnlib.bptt.Gradients`, ``d_xs`` in the order of the sequence.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.bptt.backward`.
    """
    part = backward(network, trajectory, reverse.unchecked(d_hs, lengths), d_final)
    return dataclasses.replace(part, d_xs=reverse_backward.unchecked(part.d_xs, lengths))


@dataclass(frozen=True)
class BidirectionalTrajectory:
    """What a bidirectional network did along a sequence.

    Attributes:
        hs: the merged hidden states, (T, B, H); zero at the steps beyond a sequence's length.
        directions: what the rightward and the leftward direction did, each in the order in which
            it met the steps.
        lengths: the number of steps of each sequence, or None where all have T.
    """

    hs: Annotated[Array, "T B H"]
    directions: tuple[Any, Any]
    lengths: list[int] | None

    @property
    def initial(self) -> tuple[Any, Any]:
        """The states that both directions started from."""
        rightward, leftward = self.directions
        return rightward.initial, leftward.initial

    @property
    def final(self) -> tuple[Any, Any]:
        """The states that both directions ended in, one at the last step and one at the first."""
        rightward, leftward = self.directions
        return rightward.final, leftward.final

    @property
    def mask(self) -> Array | None:
        """Which steps belong to a sequence, (T, B), or None where all do."""
        return self.directions[0].mask


@dataclass(frozen=True)
class Bidirectional:
    """Two networks over one sequence, →h from its beginning, ←h from its end (Schuster and Paliwal 1997).

    Attributes:
        directions: the rightward and the leftward one, a pair; each a cell or a network of cells,
            not necessarily of one kind.
        merge: ``"concat"`` for [→h_t; ←h_t], ``"sum"`` or ``"mean"``.

    Raises:
        ValueError: no pair; two input sizes; for a sum or a mean two hidden sizes; an unknown merge.
    """

    directions: tuple[Cell | Network, Cell | Network]
    merge: str = "concat"

    causal: ClassVar[bool] = False  # ←h_t needs everything behind step t

    def __post_init__(self) -> None:
        check_choice("Bidirectional", "merge", self.merge, MERGES)
        rightward, leftward = _pair("directions", self.directions)
        for i, direction in enumerate((rightward, leftward)):
            check_network("Bidirectional", f"directions[{i}]", direction)
        shared = ("input_size",) if self.merge == "concat" else ("input_size", "hidden_size")
        for name in shared:
            size, expected = getattr(leftward, name), getattr(rightward, name)
            if size != expected:
                raise ValueError(
                    f"Bidirectional: directions: leftward has {name} {size}, expected {expected} "
                    f"set by rightward, with merge {self.merge!r}"
                )

    @property
    def input_size(self) -> int:
        """I, the number of inputs."""
        return self.directions[0].input_size

    @property
    def hidden_size(self) -> int:
        """H of the merged hidden state, that of both together for ``"concat"``, else that of each."""
        rightward, leftward = (direction.hidden_size for direction in self.directions)
        return rightward + leftward if self.merge == "concat" else rightward

    def forward(
        self, xs: Array, initial: Any = None, lengths: Any = None, dropout_masks: Any = None
    ) -> BidirectionalTrajectory:
        """Run both directions and merge their hidden states.

        Args:
            xs: inputs, (T, B, I).
            initial: the initial states of both directions, a pair; zeros where None.
            lengths: the number of steps of each sequence, or None where all have T.
            dropout_masks: None; there is nothing stacked.

        Returns:
            The :class:`BidirectionalTrajectory`; its ``hs`` is (T, B, H).

        Raises:
            TypeError, ValueError: see :func:`rnnlib.bptt.forward`; an initial state that is no pair.
        """
        check_dropout(self, dropout_masks, xs)
        starts = _pair("initial", initial)
        rightward = forward(self.directions[0], xs, starts[0], lengths)
        h_leftward, back = leftward.unchecked(self.directions[1], xs, starts[1], lengths)
        whole = None if lengths is None else whole_lengths(lengths, int(xs.shape[0]), int(xs.shape[1]))
        return BidirectionalTrajectory(self._merge(rightward.hs, h_leftward), (rightward, back), whole)

    def backward(self, trajectory: BidirectionalTrajectory, d_hs: Array, d_final: Any = None) -> Gradients:
        """The gradients of both directions; the inputs went both ways, so theirs are added.

        Args:
            trajectory: what :meth:`forward` returned.
            d_hs: ∂L_t/∂h_t, (T, B, H).
            d_final: the gradients of both final states, a pair; zeros where None.

        Returns:
            The :class:`rnnlib.bptt.Gradients`; ``d_cell`` is a :class:`Bidirectional`.

        Raises:
            TypeError, ValueError: see :func:`rnnlib.bptt.backward`; a gradient that is no pair.
        """
        check_kind("Bidirectional", "trajectory", trajectory, BidirectionalTrajectory)
        check_arrays("Bidirectional", [("hs", trajectory.hs, "T B H"), ("d_hs", d_hs, "T B H")])
        d_h_rightward, d_h_leftward = self._merge_backward(d_hs)
        ends = _pair("d_final", d_final)
        rightward, back = trajectory.directions
        return self._joined(
            backward(self.directions[0], rightward, d_h_rightward, ends[0]),
            leftward_backward.unchecked(self.directions[1], back, d_h_leftward, ends[1], trajectory.lengths),
        )

    def outputs(
        self,
        xs: Array,
        initial: Any = None,
        lengths: Any = None,
        dropout_masks: Any = None,
        segment: int = 1,
    ) -> tuple[Array, Any]:
        """The hidden states and nothing for a way back (see :func:`rnnlib.bptt.outputs`)."""
        check_dropout(self, dropout_masks, xs)
        starts, against_time = _pair("initial", initial), reverse.unchecked(xs, lengths)
        h_rightward, final_rightward = outputs(self.directions[0], xs, starts[0], lengths, segment=segment)
        hs, final_leftward = outputs(self.directions[1], against_time, starts[1], lengths, segment=segment)
        return self._merge(h_rightward, reverse.unchecked(hs, lengths)), (final_rightward, final_leftward)

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
        """Each direction checkpointed by itself (see :func:`rnnlib.bptt.checkpointed_bptt`)."""
        check_dropout(self, dropout_masks, xs)
        if callable(loss_gradient):
            hs, _ = self.outputs(xs, initial, lengths, None, segment)
            loss_gradient = gradient_of_loss(
                loss_gradient, slice(0, int(xs.shape[0])), hs, "checkpointed_bptt"
            )
        d_h_rightward, d_h_leftward = self._merge_backward(loss_gradient)
        starts, ends, against_time = _pair("initial", initial), _pair("d_final", d_final), reverse.unchecked
        how: dict[str, Any] = {"segment": segment, "keep_outputs": keep_outputs}
        rightward = checkpointed_bptt(
            self.directions[0], xs, d_h_rightward, starts[0], lengths, d_final=ends[0], **how
        )
        back = checkpointed_bptt(
            self.directions[1],
            against_time(xs, lengths),
            against_time(d_h_leftward, lengths),
            starts[1],
            lengths,
            d_final=ends[1],
            **how,
        )
        back = dataclasses.replace(back, d_xs=reverse_backward.unchecked(back.d_xs, lengths))
        return self._joined(rightward, back)

    def _merge(self, h_rightward: Array, h_leftward: Array) -> Array:
        merge = {"concat": concat, "sum": add, "mean": mean}[self.merge]
        return merge.unchecked(h_rightward, h_leftward)  # (T, B, H)

    def _merge_backward(self, d_hs: Array) -> tuple[Array, Array]:
        if self.merge == "concat":
            return concat_backward.unchecked(d_hs, self.directions[0].hidden_size)
        merge_backward = {"sum": add_backward, "mean": mean_backward}[self.merge]
        return merge_backward.unchecked(d_hs)

    def _joined(self, rightward: Gradients, leftward: Gradients) -> Gradients:
        return Gradients(
            dataclasses.replace(self, directions=(rightward.d_cell, leftward.d_cell)),
            rightward.d_xs + leftward.d_xs,
            (rightward.d_initial, leftward.d_initial),
        )


def _pair(name: str, pair: Any) -> tuple[Any, Any]:
    """What belongs to both directions; None for both where None."""
    if pair is None:
        return None, None
    if not isinstance(pair, tuple) or len(pair) != 2:
        came = f"a tuple of {len(pair)}" if isinstance(pair, tuple) else f"a {type(pair).__name__}"
        raise ValueError(f"Bidirectional: {name} is {came}, expected a pair (rightward, leftward)")
    return pair
