"""Beside the floors, chapter 13: what makes a recurrent network fast, in equations.

Three things: the loops over time rearranged so that little is left inside them; the arithmetic of a
cell, exp and tanh from additions and multiplications; and a model of what a step costs on a machine of
which three numbers are known. The functions are for reading. What runs is :mod:`rnnlib.engine`, which
does the same in place or compiled.

A *slab* holds the gates of a step side by side, (B, G·H); G is 1 for the vanilla network, 3 for the GRU
and 4 for the LSTM. Its order is torch's: i, f, C̃, o for the LSTM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from rnnlib.backend import (
    Array,
    backend_of,
    check_choice,
    check_count,
    check_counts,
    check_number,
    check_share,
    checked,
)
from rnnlib.equations import implements

# --- out of the loop --------------------------------------------------------------------------


@implements("eq-speed-inputs")
def input_contributions(
    xs: Annotated[Array, "T B I"], W_x: Annotated[Array, "G I"], b: Annotated[Array, "G"]
) -> Annotated[Array, "T B G"]:
    """What the inputs add to the pre-activations of every step, one product (:eq:`eq-speed-inputs`).

    Args:
        xs: inputs, (T, B, I).
        W_x: input weights of all gates, one below the other, (G, I).
        b: their biases, (G,).

    Returns:
        W_x x_t + b for all t, (T, B, G).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    T, B, I = xs.shape
    return (xs.reshape(T * B, I) @ W_x.T + b).reshape(T, B, -1)  # (T, B, G)


@implements("eq-speed-weight-gradient")
def weight_gradient(
    d_as: Annotated[Array, "T B G"], hs_prev: Annotated[Array, "T B H"]
) -> Annotated[Array, "G H"]:
    """The gradient of shared weights, one product over all rows (:eq:`eq-speed-weight-gradient`).

    Args:
        d_as: ∂L/∂a_t, (T, B, G).
        hs_prev: what the weights were multiplied by at each step, h_{t-1} or x_t, (T, B, H).

    Returns:
        Σ_t Σ_b of the outer products, (G, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    T, B, G = d_as.shape
    return d_as.reshape(T * B, G).T @ hs_prev.reshape(T * B, -1)  # (G, H)


# --- what stays in the loop on the way back ---------------------------------------------------


@implements("eq-speed-vanilla-recurrence")
def vanilla_recurrence(
    gs: Annotated[Array, "T B H"], slopes: Annotated[Array, "T B H"], W_hh: Annotated[Array, "H H"]
) -> Annotated[Array, "T B H"]:
    """The vanilla network's way back, linear in what comes in (:eq:`eq-speed-vanilla-recurrence`).

    Args:
        gs: what the loss says about each state by itself, ∂⁺L/∂h_t, (T, B, H).
        slopes: σ'(a_t), known for all steps before the loop, (T, B, H).
        W_hh: recurrent weights, (H, H).

    Returns:
        ∂L/∂a_t for all t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(gs)
    d_h, d_as = xp.zeros_like(gs[0]), []  # (B, H); nothing comes from behind the last step
    for t in reversed(range(len(gs))):
        d_a = slopes[t] * (gs[t] + d_h)  # (B, H)
        d_h = d_a @ W_hh  # (B, H)
        d_as.append(d_a)
    return xp.stack(d_as[::-1])  # (T, B, H)


@implements("eq-speed-lstm-factors")
def lstm_factors(
    gates: Annotated[Array, "T B 4H"], Cs_prev: Annotated[Array, "T B H"], Cs: Annotated[Array, "T B H"]
) -> tuple[Annotated[Array, "T B 4H"], Annotated[Array, "T B H"]]:
    """All of the LSTM's backward step that no gradient enters (:eq:`eq-speed-lstm-factors`).

    Args:
        gates: i_t, f_t, C̃_t, o_t side by side, after their activations, (T, B, 4H).
        Cs_prev: C_{t-1}, (T, B, H).
        Cs: C_t, (T, B, H).

    Returns:
        The slab P_t, (T, B, 4H), and k_t = ∂C_t's share of ∂h_t, (T, B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp, H = backend_of(gates), Cs.shape[2]
    i, f, C_tilde, o = (gates[:, :, k * H : (k + 1) * H] for k in range(4))  # (T, B, H) each
    tanh_C = xp.tanh(Cs)
    slab = [C_tilde * i * (1 - i), Cs_prev * f * (1 - f), i * (1 - C_tilde**2), tanh_C * o * (1 - o)]
    return xp.concat(slab, axis=2), o * (1 - tanh_C**2)


@implements("eq-speed-lstm-recurrence")
def lstm_recurrence(
    gs: Annotated[Array, "T B H"],
    P: Annotated[Array, "T B 4H"],
    k: Annotated[Array, "T B H"],
    fs: Annotated[Array, "T B H"],
    W_hh: Annotated[Array, "4H H"],
) -> Annotated[Array, "T B 4H"]:
    """The LSTM's way back, two linear lines a step (:eq:`eq-speed-lstm-recurrence`).

    Args:
        gs: what the loss says about each state by itself, ∂⁺L/∂h_t, (T, B, H).
        P: the slab of factors from :func:`lstm_factors`, (T, B, 4H).
        k: its other result, (T, B, H).
        fs: the forget gates, (T, B, H).
        W_hh: recurrent weights of the four gates, (4H, H).

    Returns:
        ∂L/∂a_t for all t and gates, (T, B, 4H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(gs)
    d_h_next, d_C_next, d_as = xp.zeros_like(gs[0]), xp.zeros_like(gs[0]), []  # (B, H)
    for t in reversed(range(len(gs))):
        d_h = gs[t] + d_h_next  # (B, H)
        d_C = d_C_next + k[t] * d_h  # (B, H)
        d_a = P[t] * xp.concat([d_C, d_C, d_C, d_h], axis=1)  # (B, 4H)
        d_h_next, d_C_next = d_a @ W_hh, fs[t] * d_C  # (B, H)
        d_as.append(d_a)
    return xp.stack(d_as[::-1])  # (T, B, 4H)


# --- the arithmetic of a cell -----------------------------------------------------------------

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440054690583e-4
"""ln 2 as the sum of 355/512, whose product with a small whole number is exact, and the rest."""


def _exp_parts(x: Array, terms: int) -> tuple[Array, Array]:
    """2^n, and e^r - 1 for the rest r of x, so that e^x = 2^n (1 + rest)."""
    n = backend_of(x).round(x * (1 / math.log(2)))
    r = (x - n * LN2_HIGH) - n * LN2_LOW  # at most ln 2 / 2 in size
    p = backend_of(x).ones_like(x)
    for k in range(terms, 1, -1):  # Horner: e^r - 1 = r (1 + r/2 (1 + r/3 (1 + …)))
        p = 1 + p * r / k
    return 2.0**n, p * r


@implements("eq-speed-exp")
def exponential(x: Annotated[Array, "B H"], terms: int = 13) -> Annotated[Array, "B H"]:
    """e^x from a whole power of two and a polynomial (:eq:`eq-speed-exp`).

    Args:
        x: any numbers whose exponential is a normal number of their dtype, (B, H).
        terms: the degree K of the polynomial, at least 1; 7 are enough for float32, 13 for float64.

    Returns:
        e^x, (B, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; ``terms`` below 1.
    """
    power, rest = _exp_parts(x, check_count("exponential", "terms", terms))
    return power + power * rest


@implements("eq-speed-exp-error")
def exponential_error(terms: int) -> float:
    """A bound of the relative error of the polynomial in :func:`exponential` (:eq:`eq-speed-exp-error`).

    Args:
        terms: the degree K, at least 1.

    Returns:
        √2 (ln 2 / 2)^(K+1) / (K+1)!; what rounding adds is not in it.

    Raises:
        TypeError, ValueError: not a whole number of at least 1.
    """
    K = check_count("exponential_error", "terms", terms)
    return math.sqrt(2) * (math.log(2) / 2) ** (K + 1) / math.factorial(K + 1)


@implements("eq-speed-tanh")
def tanh_fraction(a: Annotated[Array, "B H"]) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """Tanh as a fraction that is exact near zero too (:eq:`eq-speed-tanh`).

    Args:
        a: pre-activation, (B, H).

    Returns:
        Numerator, in (-1, 1), and denominator, from 1 to 2; tanh(a) is their ratio.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(a)
    # Beyond 30 tanh is 1 in every dtype, and 2^n would leave the normal numbers.
    y = xp.where(xp.abs(a) > 30, -60 * xp.ones_like(a), -2 * xp.abs(a))
    power, rest = _exp_parts(y, 13)
    e = power * rest + (power - 1)  # e^y - 1; the second term is exactly 0 near a = 0
    return xp.where(a < 0, e, -e), 2 + e


@implements("eq-speed-logistic")
def logistic_fraction(a: Annotated[Array, "B H"]) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """The logistic function as a fraction that cannot overflow (:eq:`eq-speed-logistic`).

    Args:
        a: pre-activation, (B, H).

    Returns:
        Numerator, in (0, 1], and denominator, in (1, 2]; σ(a) is their ratio.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(a)
    e = xp.exp(-xp.abs(a))
    return xp.where(a < 0, e, xp.ones_like(a)), 1 + e


@implements("eq-speed-shared-division")
def shared_division(
    p: Annotated[Array, "B H"],
    a: Annotated[Array, "B H"],
    q: Annotated[Array, "B H"],
    b: Annotated[Array, "B H"],
) -> tuple[Annotated[Array, "B H"], Annotated[Array, "B H"]]:
    """Two fractions by one division (:eq:`eq-speed-shared-division`; Montgomery 1987).

    Args:
        p: numerator of the first, (B, H).
        a: its denominator, not 0.
        q: numerator of the second.
        b: its denominator, not 0.

    Returns:
        p/a and q/b, (B, H) each.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    inverse = 1 / (a * b)
    return p * (b * inverse), q * (a * inverse)


# --- what a step costs ------------------------------------------------------------------------


class CellShape(NamedTuple):
    """What the cost of a cell depends on.

    Attributes:
        gates: G, how many products of the size of a vanilla network's it does in a step.
        states: how many arrays (B, H) it hands from step to step.
    """

    gates: int
    states: int


CELLS = {"rnn": CellShape(1, 1), "gru": CellShape(3, 1), "lstm": CellShape(4, 2)}
"""The cells of the model, by name."""


@dataclass(frozen=True)
class Machine:
    """A machine, in three numbers.

    Attributes:
        peak: multiplications and additions in a second, in a large matrix product.
        bandwidth: bytes in a second, between the memory that holds the arrays and where they are added.
        launch: seconds that a call of one operation takes before it computes anything.
    """

    peak: float
    bandwidth: float
    launch: float

    def __post_init__(self) -> None:
        check_number("Machine", "peak", self.peak)
        check_number("Machine", "bandwidth", self.bandwidth)
        check_number("Machine", "launch", self.launch, above=False)


class Part(NamedTuple):
    """A part of the work on a sequence.

    Attributes:
        name: what it is.
        times: how often it is done, one after the other.
        operations: multiplications and additions, each time.
        bytes: read and written, each time.
    """

    name: str
    times: int
    operations: int
    bytes: int


def _cell(where: str, cell: str) -> CellShape:
    check_choice(where, "cell", cell, tuple(CELLS))
    return CELLS[cell]


@implements("eq-speed-operations")
def operations(cell: str, T: int, B: int, I: int, H: int, train: bool = False) -> int:
    """Multiplications and additions in all matrix products (:eq:`eq-speed-operations`).

    Args:
        cell: one of :data:`CELLS`.
        T: time steps.
        B: batch size.
        I: input size.
        H: hidden size.
        train: whether there is a backward pass, with the gradients of weights, inputs and initial state.

    Returns:
        2 T B (I + H) G H, three times that in training.

    Raises:
        TypeError, ValueError: an unknown cell; a size that is no whole number of at least 1.
    """
    G = _cell("operations", cell).gates
    T, B, I, H = check_counts("operations", T=T, B=B, I=I, H=H)
    return (3 if train else 1) * 2 * T * B * (I + H) * G * H


@implements("eq-speed-bytes")
def step_bytes(cell: str, B: int, H: int, itemsize: int = 4, weights_stay: bool = False) -> int:
    """The bytes that one step inside the loop must move (:eq:`eq-speed-bytes`).

    Args:
        cell: one of :data:`CELLS`.
        B: batch size.
        H: hidden size.
        itemsize: bytes of a number, 4 for float32.
        weights_stay: whether the recurrent weights are where the sums are made from an earlier step.

    Returns:
        The weights once, the slab in and out, every state in and out.

    Raises:
        TypeError, ValueError: an unknown cell; a size that is no whole number of at least 1.
    """
    G, n = _cell("step_bytes", cell)
    B, H, itemsize = check_counts("step_bytes", B=B, H=H, itemsize=itemsize)
    return itemsize * ((0 if weights_stay else G * H * H) + 2 * (G + n) * B * H)


@implements("eq-speed-intensity")
def intensity(cell: str, B: int, H: int, itemsize: int = 4, weights_stay: bool = False) -> float:
    """Operations of a step for every byte it moves (:eq:`eq-speed-intensity`).

    Args:
        cell: one of :data:`CELLS`.
        B: batch size.
        H: hidden size.
        itemsize: bytes of a number.
        weights_stay: see :func:`step_bytes`.

    Returns:
        2 B G H² over :func:`step_bytes`.

    Raises:
        TypeError, ValueError: an unknown cell; a size that is no whole number of at least 1.
    """
    G = _cell("intensity", cell).gates
    B, H, itemsize = check_counts("intensity", B=B, H=H, itemsize=itemsize)
    return 2 * B * G * H * H / step_bytes(cell, B, H, itemsize, weights_stay)


@implements("eq-speed-roofline")
def roofline(intensity: float, peak: float, bandwidth: float) -> float:
    """The speed that can be reached at an intensity (:eq:`eq-speed-roofline`; Williams et al. 2009).

    Args:
        intensity: operations for every byte.
        peak: operations in a second.
        bandwidth: bytes in a second.

    Returns:
        Operations in a second: the bandwidth's share, the peak at most.

    Raises:
        TypeError, ValueError: a number that is not above zero.
    """
    for name, value in (("intensity", intensity), ("peak", peak), ("bandwidth", bandwidth)):
        check_number("roofline", name, value)
    return min(peak, bandwidth * intensity)


@implements("eq-speed-balance")
def balanced_batch(cell: str, H: int, peak: float, bandwidth: float, itemsize: int = 4) -> float:
    """The batch size from which a step is bound by its operations (:eq:`eq-speed-balance`).

    Args:
        cell: one of :data:`CELLS`.
        H: hidden size.
        peak: operations in a second.
        bandwidth: bytes in a second.
        itemsize: bytes of a number.

    Returns:
        The batch size, not rounded; infinity where no batch is large enough.

    Raises:
        TypeError, ValueError: an unknown cell; a number out of range.
    """
    G, n = _cell("balanced_batch", cell)
    H, itemsize = check_counts("balanced_batch", H=H, itemsize=itemsize)
    R = check_number("balanced_batch", "peak", peak) / check_number("balanced_batch", "bandwidth", bandwidth)
    spare = G * H - R * itemsize * (G + n)
    return R * itemsize * G * H / (2 * spare) if spare > 0 else math.inf


def _check_step(where: str, operations: float, moved: float, launches: int) -> None:
    check_number(where, "operations", operations, above=False)
    check_number(where, "moved", moved, above=False)
    check_count(where, "launches", launches, 0)


@implements("eq-speed-step-time")
def step_time(operations: float, moved: float, launches: int, machine: Machine) -> float:
    """Seconds of a step by the model (:eq:`eq-speed-step-time`).

    Args:
        operations: of the step.
        moved: bytes of the step.
        launches: how many calls it is made of.
        machine: the machine.

    Returns:
        The longer of computing and moving, and the launches on top.

    Raises:
        TypeError, ValueError: a number below zero.
    """
    _check_step("step_time", operations, moved, launches)
    return max(operations / machine.peak, moved / machine.bandwidth) + launches * machine.launch


@checked
def bound(operations: float, moved: float, launches: int, machine: Machine) -> str:
    """Which of the three terms of :func:`step_time` is the longest.

    Args:
        operations: of the step.
        moved: bytes of the step.
        launches: how many calls it is made of.
        machine: the machine.

    Returns:
        ``"operations"``, ``"bytes"`` or ``"launches"``.

    Raises:
        TypeError, ValueError: see :func:`step_time`.
    """
    _check_step("bound", operations, moved, launches)
    terms = {
        "operations": operations / machine.peak,
        "bytes": moved / machine.bandwidth,
        "launches": launches * machine.launch,
    }
    return max(terms, key=lambda name: terms[name])


@checked
def parts(
    cell: str,
    T: int,
    B: int,
    I: int,
    H: int,
    train: bool = False,
    itemsize: int = 4,
    weights_stay: bool = False,
) -> tuple[Part, ...]:
    """The work on a batch of sequences in parts: what is done once, and what T times.

    Args:
        cell: one of :data:`CELLS`.
        T: time steps.
        B: batch size.
        I: input size.
        H: hidden size.
        train: whether there is a backward pass.
        itemsize: bytes of a number.
        weights_stay: see :func:`step_bytes`.

    Returns:
        The input product and the steps; in training also the steps back, and the products that make the
        gradients of weights and inputs. Their operations sum to :func:`operations`.

    Raises:
        TypeError, ValueError: an unknown cell; a size that is no whole number of at least 1.
    """
    G = _cell("parts", cell).gates
    T, B, I, H, itemsize = check_counts("parts", T=T, B=B, I=I, H=H, itemsize=itemsize)
    step = 2 * B * G * H * H, step_bytes(cell, B, H, itemsize, weights_stay)
    slab, inputs, weights = T * B * G * H, T * B * I, G * H * I
    forward = (
        Part("inputs", 1, 2 * T * B * I * G * H, itemsize * (inputs + weights + slab)),
        Part("steps", T, *step),
    )
    if not train:
        return forward
    # d_W_x, d_x and d_W_hh: the slab is read for each.
    once = itemsize * (3 * slab + 2 * (inputs + weights) + T * B * H + G * H * H)
    return (
        *forward,
        Part("steps back", T, *step),
        Part("gradients", 1, 2 * T * B * G * H * (2 * I + H), once),
    )


@implements("eq-speed-sequence-time")
def sequence_time(
    cell: str,
    T: int,
    B: int,
    I: int,
    H: int,
    machine: Machine,
    launches: int,
    train: bool = False,
    weights_stay: bool = False,
) -> float:
    """Seconds for a batch of sequences by the model (:eq:`eq-speed-sequence-time`).

    Args:
        cell: one of :data:`CELLS`.
        T: time steps.
        B: batch size.
        I: input size.
        H: hidden size.
        machine: the machine.
        launches: how many calls a step is made of, forward and backward alike; every other part is one call.
        train: whether there is a backward pass.
        weights_stay: see :func:`step_bytes`.

    Returns:
        The sum of :func:`step_time` over all :func:`parts`, as often as each is done.

    Raises:
        TypeError, ValueError: an unknown cell; a number out of range.
    """
    _cell("sequence_time", cell)
    T, B, I, H = check_counts("sequence_time", T=T, B=B, I=I, H=H)
    launches = check_count("sequence_time", "launches", launches, 0)
    return sum(
        p.times * step_time(p.operations, p.bytes, launches if p.name.startswith("steps") else 1, machine)
        for p in parts(cell, T, B, I, H, train, weights_stay=weights_stay)
    )


@implements("eq-speed-up")
def speed_up(share: float, factor: float) -> float:
    """How much faster the whole gets when a share of it gets faster (:eq:`eq-speed-up`; Amdahl 1967).

    Args:
        share: the part of the time that gets faster, from 0 to 1.
        factor: how much faster it gets, above 0; infinity is allowed.

    Returns:
        The old time over the new one.

    Raises:
        TypeError, ValueError: a number out of range.
    """
    p = check_share("speed_up", "share", share)
    factor = check_number("speed_up", "factor", factor, infinite=True)
    rest = (1 - p) + p / factor
    return 1 / rest if rest > 0 else math.inf


# --- counting -----------------------------------------------------------------------------------


def count_calls(function: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """The operations of torch that a function calls and that compute something, with their numbers.

    Views cost no launch and are left out, and so is what only asks for memory. Code that torch does not
    see, such as :mod:`rnnlib.engine.compiled`, is not counted.

    Args:
        function: what to run, once.
        arguments: its arguments.

    Returns:
        How often each operation was called, by its name in torch.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: dict[str, int] = {}
    no_work = {"empty", "new_empty", "empty_like", "detach", "_unsafe_view", "unsafe_split"}

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if not func.is_view and name not in no_work:
                counts[name] = counts.get(name, 0) + 1
            return func(*args, **(kwargs or {}))

    with Counter():
        function(*arguments)
    return counts
