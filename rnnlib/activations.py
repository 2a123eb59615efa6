"""Floor 0: the activation functions σ, each beside its derivative.

The derivative is taken at the pre-activation ``a``, not at the state ``h = σ(a)``. Where the
derivative is cheaper to write in terms of ``h``, the code says so.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from rnnlib.backend import Array, backend_of, check_array, check_choice
from rnnlib.equations import implements

ACTIVATIONS = ("tanh", "logistic", "relu", "identity")
"""The names accepted wherever an argument is called ``activation``."""


def check_activation(where: str, name: str, value: Any) -> None:
    """Refuse what is none of :data:`ACTIVATIONS`.

    Raises:
        ValueError: naming the argument, what came and what was expected.
    """
    check_choice(where, name, value, ACTIVATIONS)


# What the signature of a checked function says of an argument that must be one of ACTIVATIONS.
Activation: TypeAlias = Annotated[str, check_activation]

STEEPEST = {"tanh": 1.0, "logistic": 0.25, "relu": 1.0, "identity": 1.0}
"""The largest slope of each activation, by name."""


@implements("eq-activation-tanh")
def tanh(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """The hyperbolic tangent (:eq:`eq-activation-tanh`): odd, with values in (-1, 1).

    Args:
        a: pre-activation, (B, H).

    Returns:
        tanh(a), (B, H).
    """
    return backend_of(a).tanh(a)


@implements("eq-activation-tanh-derivative")
def tanh_derivative(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """tanh'(a) = 1 - tanh(a)² (:eq:`eq-activation-tanh-derivative`), with values in (0, 1].

    Args:
        a: pre-activation, (B, H).

    Returns:
        tanh'(a), (B, H).
    """
    xp = backend_of(a)
    e = xp.exp(-xp.abs(a))  # in (0, 1]
    return (2 * e / (1 + e * e)) ** 2  # 1/cosh², where 1 - tanh² would lose every digit beyond |a| = 19


@implements("eq-activation-logistic")
def logistic(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """The logistic function 1 / (1 + exp(-a)) (:eq:`eq-activation-logistic`), with values in (0, 1).

    Computed without overflow for any finite ``a``.

    Args:
        a: pre-activation, (B, H).

    Returns:
        σ(a), (B, H).
    """
    return backend_of(a).sigmoid(a)


@implements("eq-activation-logistic-derivative")
def logistic_derivative(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """σ'(a) = σ(a) σ(-a) (:eq:`eq-activation-logistic-derivative`), with values in (0, 1/4].

    Written with σ(-a) and not 1 - σ(a), which loses every digit where σ(a) rounds to 1.

    Args:
        a: pre-activation, (B, H).

    Returns:
        σ'(a), (B, H).
    """
    xp = backend_of(a)
    return xp.sigmoid(a) * xp.sigmoid(-a)


@implements("eq-activation-relu")
def relu(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """The rectifier max(a, 0) (:eq:`eq-activation-relu`), with values in [0, ∞).

    Args:
        a: pre-activation, (B, H).

    Returns:
        max(a, 0), (B, H).
    """
    return backend_of(a).relu(a)


@implements("eq-activation-relu-derivative")
def relu_derivative(a: Annotated[Array, "B H"]) -> Annotated[Array, "B H"]:
    """1 where a > 0, else 0 (:eq:`eq-activation-relu-derivative`).

    The rectifier has no derivative at 0; like torch, we take 0 there. A NaN stays a NaN.

    Args:
        a: pre-activation, (B, H).

    Returns:
        The derivative, (B, H).
    """
    xp = backend_of(a)
    return xp.where(a > 0, xp.ones_like(a), xp.where(a <= 0, xp.zeros_like(a), a))


def apply(activation: str, a: Array) -> Array:
    """σ(a), elementwise, for an activation given by name.

    Args:
        activation: one of :data:`ACTIVATIONS`.
        a: pre-activation, any shape.

    Raises:
        TypeError: ``a`` is no array.
        ValueError: an unknown name.
    """
    check_activation("apply", "activation", activation)
    check_array("apply", "a", a)
    if activation == "identity":
        return a
    if activation == "tanh":
        return tanh.unchecked(a)
    if activation == "logistic":
        return logistic.unchecked(a)
    return relu.unchecked(a)


def apply_derivative(activation: str, a: Array) -> Array:
    """σ'(a), elementwise, for an activation given by name.

    Args:
        activation: one of :data:`ACTIVATIONS`.
        a: pre-activation, any shape.

    Raises:
        TypeError: ``a`` is no array.
        ValueError: an unknown name.
    """
    check_activation("apply_derivative", "activation", activation)
    check_array("apply_derivative", "a", a)
    if activation == "identity":
        return backend_of(a).ones_like(a)
    if activation == "tanh":
        return tanh_derivative.unchecked(a)
    if activation == "logistic":
        return logistic_derivative.unchecked(a)
    return relu_derivative.unchecked(a)
