"""Floor 4: optimisers for NumPy parameters, and schedules of the learning rate.

Three updates as equations, elementwise on arrays of any shape, and an optimiser for each. An optimiser
is a frozen record of its hyperparameters. What it remembers from step to step is a value like any
other, so that a step is a function and nothing is changed in place::

    optimizer = Adam(rate=1e-3)
    state = optimizer.initial(cell)
    cell, state = optimizer.step(cell, d_cell, state)

A schedule is a function from the step, counted from 0, to the factor that the learning rate is
multiplied by. For torch modules there is ``torch.optim``, which these updates agree with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

from rnnlib.backend import (
    Array,
    any_shape,
    backend_of,
    check_arrays,
    check_count,
    check_number,
    check_share,
    checked_with,
    is_array,
)
from rnnlib.cell import arrays_in, map_collection, named_arrays, with_arrays
from rnnlib.equations import implements

ParametersT = TypeVar("ParametersT")

Schedule: TypeAlias = Callable[[int], float]
"""From the step, counted from 0, to the factor of the learning rate."""


# --- the checks -----------------------------------------------------------------------------------


_HYPERPARAMETERS: dict[str, Callable[[str, str, Any], Any]] = {
    "rate": functools.partial(check_number, above=False),
    "momentum": functools.partial(check_share, below=True),
    "beta1": functools.partial(check_share, below=True),
    "beta2": functools.partial(check_share, below=True),
    "epsilon": functools.partial(check_number, above=False),
    "decay": functools.partial(check_number, above=False),
    "t": check_count,
}
"""How each hyperparameter is checked, by its name."""


def _check_hyperparameters(where: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        _HYPERPARAMETERS[name](where, name, value)


def _check_shapes(where: str, arrays: dict[str, Array]) -> None:
    """Refuse an array of another shape than the first."""
    first_name, first = next(iter(arrays.items()))
    expected = getattr(first, "shape", ())
    for name, x in arrays.items():
        if is_array(first) and is_array(x) and x.shape != expected:
            raise ValueError(
                f"{where}: {name} has shape {tuple(x.shape)}, expected {tuple(expected)} set by {first_name}"
            )


def _check_update(where: str, arguments: dict[str, Any]) -> None:
    """Arrays of one shape, whatever it is, and hyperparameters in their range."""
    arrays = {name: x for name, x in arguments.items() if name not in _HYPERPARAMETERS}
    _check_shapes(where, arrays)
    spec = any_shape("D", arguments["theta_prev"])
    check_arrays(where, [(name, x, spec) for name, x in arrays.items()])
    _check_hyperparameters(where, {n: x for n, x in arguments.items() if n not in arrays})


# --- the updates ----------------------------------------------------------------------------------


@implements("eq-optim-momentum")
@checked_with(_check_update)
def momentum_update(
    theta_prev: Array, g_t: Array, v_prev: Array, rate: float, momentum: float = 0.9
) -> tuple[Array, Array]:
    """One step of gradient descent with momentum (:eq:`eq-optim-momentum`).

    Args:
        theta_prev: the parameter θ_{t-1}, of any shape.
        g_t: its gradient, of the same shape.
        v_prev: the velocity v_{t-1}, of the same shape; zeros at the first step.
        rate: η, the learning rate, at least 0.
        momentum: μ, from 0 to below 1; 0 is plain gradient descent.

    Returns:
        θ_t and v_t, of the same shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; another shape; a
            hyperparameter out of range.

    As in ``torch.optim.SGD``. Sutskever (2013) multiplies by the rate before he adds,
    v_t = μ v_{t-1} - η g_t; the two are the same while η stays the same.
    """
    v_t = momentum * v_prev + g_t
    return theta_prev - rate * v_t, v_t


def _adam_direction(
    g_t: Array, m_prev: Array, v_prev: Array, t: int, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, Array, Array]:
    """The step of Adam for the rate 1, and the two means that go on."""
    m_t = beta1 * m_prev + (1 - beta1) * g_t
    v_t = beta2 * v_prev + (1 - beta2) * g_t * g_t
    m_hat, v_hat = m_t / (1 - beta1**t), v_t / (1 - beta2**t)
    return m_hat / (backend_of(g_t).sqrt(v_hat) + epsilon), m_t, v_t


@implements("eq-optim-adam")
@checked_with(_check_update)
def adam_update(
    theta_prev: Array,
    g_t: Array,
    m_prev: Array,
    v_prev: Array,
    t: int,
    rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Array, Array, Array]:
    """One step of Adam (:eq:`eq-optim-adam`).

    Args:
        theta_prev: the parameter θ_{t-1}, of any shape.
        g_t: its gradient, of the same shape.
        m_prev: the running mean of the gradient m_{t-1}, of the same shape; zeros at the first step.
        v_prev: the running mean of its square v_{t-1}, of the same shape; zeros at the first step.
        t: the number of this step, from 1. The means begin at zero, and are divided by how much of
            their weight they have seen so far.
        rate: η, the learning rate, at least 0.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, at least 0. In half precision 1e-8 is zero: choose a larger one.

    Returns:
        θ_t, m_t and v_t, of the same shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; another shape; a
            hyperparameter out of range.

    Kingma and Ba (2015).
    """
    direction, m_t, v_t = _adam_direction(g_t, m_prev, v_prev, t, beta1, beta2, epsilon)
    return theta_prev - rate * direction, m_t, v_t


@implements("eq-optim-adamw")
@checked_with(_check_update)
def adamw_update(
    theta_prev: Array,
    g_t: Array,
    m_prev: Array,
    v_prev: Array,
    t: int,
    rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    decay: float = 1e-2,
) -> tuple[Array, Array, Array]:
    """One step of AdamW: Adam, and a decay of the parameter beside it (:eq:`eq-optim-adamw`).

    Were λ θ added to the gradient, Adam would divide it by the root of v_t, and parameters with large
    gradients would decay less. Here all decay alike.

    Args:
        theta_prev: the parameter θ_{t-1}, of any shape.
        g_t: its gradient, of the same shape.
        m_prev: as for :func:`adam_update`.
        v_prev: as for :func:`adam_update`.
        t: the number of this step, from 1.
        rate: η, the learning rate, at least 0.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, at least 0.
        decay: λ, at least 0; with λ = 0 this is :func:`adam_update`.

    Returns:
        θ_t, m_t and v_t, of the same shape.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; another shape; a
            hyperparameter out of range.

    Loshchilov and Hutter (2019), with λ multiplied by the learning rate, as in ``torch.optim.AdamW``.
    """
    direction, m_t, v_t = _adam_direction(g_t, m_prev, v_prev, t, beta1, beta2, epsilon)
    return theta_prev - rate * (direction + decay * theta_prev), m_t, v_t


# --- the optimisers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class OptimizerState:
    """What an optimiser remembers from step to step.

    Attributes:
        steps: how many steps were taken.
        slots: by name, what each array of the parameters has beside it, in the parameters' own form.
    """

    steps: int
    slots: dict[str, Any]


class Optimizer:
    """What :class:`SGD`, :class:`Adam` and :class:`AdamW` share: a step for a whole collection of arrays.

    Parameters are a record such as a cell, or lists, tuples and dicts of arrays and records.
    """

    rate: float
    slots: ClassVar[tuple[str, ...]] = ()
    """What is remembered for each array, by the symbols of the equation."""

    def update(self, theta: Array, g_t: Array, slots: tuple[Array, ...], t: int, rate: float) -> tuple:
        """One array's new value, and what is remembered for it."""
        raise NotImplementedError

    def initial(self, parameters: Any) -> OptimizerState:
        """What is remembered before the first step: zeros.

        Args:
            parameters: what will be trained.

        Returns:
            The state to pass to the first :meth:`step`.

        Raises:
            TypeError, ValueError: no array at all, or something that is no collection.
        """
        self._check(f"{type(self).__name__}.initial", {"parameters": parameters})

        def zeros(x: Array) -> Array:
            return backend_of(x).zeros_like(x)

        return OptimizerState(0, {name: map_collection(zeros, parameters) for name in self.slots})

    def step(
        self, parameters: ParametersT, gradients: Any, state: OptimizerState, factor: float = 1.0
    ) -> tuple[ParametersT, OptimizerState]:
        """One step for all parameters.

        Args:
            parameters: what is trained.
            gradients: ∂L/∂parameters, in the same form; a gradient for every array.
            state: what :meth:`initial` or the step before returned.
            factor: what the learning rate is multiplied by, from a schedule; at least 0.

        Returns:
            The new parameters, in the same form, and the new state. The old ones stay as they were.

        Raises:
            TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a gradient that is missing
                or that belongs to no parameter; the state of another optimiser.
        """
        where = f"{type(self).__name__}.step"
        if tuple(state.slots) != self.slots:
            raise ValueError(
                f"{where}: state has the slots {tuple(state.slots)}, expected "
                f"{self.slots}: it belongs to another optimiser"
            )
        collections = {"parameters": parameters, "gradients": gradients, **state.slots}
        self._check(where, collections)
        rate = self.rate * check_number(where, "factor", factor, above=False)
        gs, slots = named_arrays(gradients), [named_arrays(state.slots[name]) for name in self.slots]
        updated = {
            name: self.update(theta, gs[name], tuple(s[name] for s in slots), state.steps + 1, rate)
            for name, theta in named_arrays(parameters).items()
        }
        new = [with_arrays(parameters, {n: u[i] for n, u in updated.items()}) for i in range(1 + len(slots))]
        return new[0], OptimizerState(state.steps + 1, dict(zip(self.slots, new[1:], strict=True)))

    def _check(self, where: str, collections: dict[str, Any]) -> None:
        named = {
            what: {name.removeprefix(what): x for name, x in arrays_in(where, what, collection)}
            for what, collection in collections.items()
        }
        expected = named["parameters"]
        if not expected:
            raise ValueError(f"{where}: parameters holds no array, expected at least one")
        for what, arrays in named.items():
            if arrays.keys() != expected.keys():
                odd = sorted(arrays.keys() ^ expected.keys())[0]
                has = "no array" if odd in expected else "an array"
                raise ValueError(
                    f"{where}: {what} has {has} at {what}{odd}, expected the form of parameters: "
                    f"{', '.join(f'{what}{name}' for name in expected)}"
                )
        entries = []
        for i, (name, theta) in enumerate(expected.items()):
            together = {f"{what}{name}": arrays[name] for what, arrays in named.items()}
            _check_shapes(where, together)
            entries += [(full, x, any_shape(f"D{i}", theta)) for full, x in together.items()]
        check_arrays(where, entries)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum or without (:eq:`eq-optim-momentum`).

    Attributes:
        rate: η, the learning rate.
        momentum: μ, from 0 to below 1.
    """

    rate: float = 1e-2
    momentum: float = 0.0
    slots: ClassVar[tuple[str, ...]] = ("v",)

    def __post_init__(self) -> None:
        _check_hyperparameters("SGD", vars(self))

    def update(self, theta: Array, g_t: Array, slots: tuple[Array, ...], t: int, rate: float) -> tuple:
        """:func:`momentum_update` for one array."""
        return momentum_update.unchecked(theta, g_t, *slots, rate, self.momentum)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (:eq:`eq-optim-adam`).

    Attributes:
        rate: η, the learning rate.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, at least 0.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        _check_hyperparameters("Adam", vars(self))

    def update(self, theta: Array, g_t: Array, slots: tuple[Array, ...], t: int, rate: float) -> tuple:
        """:func:`adam_update` for one array."""
        return adam_update.unchecked(theta, g_t, *slots, t, rate, self.beta1, self.beta2, self.epsilon)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (:eq:`eq-optim-adamw`).

    Attributes:
        rate: η, the learning rate.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, at least 0.
        decay: λ, at least 0.
    """

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 1e-2
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        _check_hyperparameters("AdamW", vars(self))

    def update(self, theta: Array, g_t: Array, slots: tuple[Array, ...], t: int, rate: float) -> tuple:
        """:func:`adamw_update` for one array."""
        return adamw_update.unchecked(
            theta, g_t, *slots, t, rate, self.beta1, self.beta2, self.epsilon, self.decay
        )


# --- schedules ------------------------------------------------------------------------------------


def constant(step: int) -> float:
    """The schedule that leaves the learning rate as it is: 1 at every step."""
    return 1.0


def cosine(steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to ``final``, and ``final`` from then on.

    Args:
        steps: after how many steps ``final`` is reached.
        final: the last factor, at least 0.

    Returns:
        The schedule s ↦ final + (1 - final) (1 + cos(π s / steps)) / 2.

    Raises:
        TypeError, ValueError: an argument out of range.

    Loshchilov and Hutter (2017), without restarts.
    """
    steps = check_count("cosine", "steps", steps)
    final = check_number("cosine", "final", final, above=False)

    def schedule(step: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2

    return schedule


def step_decay(every: int, factor: float = 0.1) -> Schedule:
    """A staircase: multiplied by ``factor`` after every so many steps.

    Args:
        every: how many steps the rate stays the same.
        factor: what it is multiplied by then, above 0.

    Returns:
        The schedule s ↦ factor^⌊s / every⌋.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    every = check_count("step_decay", "every", every)
    factor = check_number("step_decay", "factor", factor)
    return lambda step: factor ** (step // every)


def warm_up(steps: int, then: Schedule = constant) -> Schedule:
    """A straight line up to 1, and then another schedule from its beginning.

    Adam's running means know little at first; small steps until they know more keep it stable.

    Args:
        steps: how many steps lie below 1 and at it: the factors are 1/steps, 2/steps, …, 1.
        then: the schedule that follows; it counts its steps from 0.

    Returns:
        The schedule.

    Raises:
        TypeError, ValueError: an argument out of range.
    """
    steps = check_count("warm_up", "steps", steps)
    if not callable(then):
        raise TypeError(f"warm_up: then is a {type(then).__name__}, expected a function from step to factor")
    return lambda step: (step + 1) / steps if step < steps else then(step - steps)
