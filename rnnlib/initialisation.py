"""Floor 1: the weights a network starts from.

The draws take a ``numpy.random.Generator`` and return NumPy arrays, so that a seed gives the same
network everywhere; ``torch.from_numpy`` turns them into tensors. They are drawn in float64 and
rounded to the dtype asked for.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from rnnlib.activations import check_activation
from rnnlib.backend import (
    Array,
    backend_of,
    check_count,
    check_counts,
    check_draw,
    check_dtype,
    check_lapack,
    check_number,
)
from rnnlib.equations import implements
from rnnlib.vanilla import VanillaCell

# --- the spectral radius ----------------------------------------------------------------------


@implements("eq-vanilla-spectral-radius")
def spectral_radius(W: Annotated[Array, "H H"]) -> Annotated[Array, ""]:
    """The largest absolute value of an eigenvalue (:eq:`eq-vanilla-spectral-radius`).

    Args:
        W: a square matrix, (H, H), float32 or float64.

    Returns:
        ρ(W), a scalar of the array's kind and real dtype.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision.
    """
    check_lapack("spectral_radius", "W", W)
    xp = backend_of(W)
    return xp.abs(xp.eigvals(W)).max()


@implements("eq-vanilla-scaling")
def with_spectral_radius(W: Annotated[Array, "H H"], radius: float) -> Annotated[Array, "H H"]:
    """The same matrix scaled to a chosen spectral radius (:eq:`eq-vanilla-scaling`).

    Args:
        W: a square matrix, (H, H), not nilpotent: some eigenvalue must differ from 0.
        radius: the spectral radius wanted, above 0 and finite.

    Returns:
        (radius / ρ(W)) W, (H, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; half precision; a radius
            that is not above 0; a matrix whose eigenvalues are all 0.
    """
    radius = check_number("with_spectral_radius", "radius", radius)
    rho = spectral_radius.unchecked(W)
    if not rho > 0:
        raise ValueError("with_spectral_radius: every eigenvalue of W is 0, so no scaling changes its radius")
    return (radius / rho) * W


# --- the draws --------------------------------------------------------------------------------


@implements("eq-initialisation-orthogonal")
def orthogonal(
    rng: np.random.Generator, rows: int, columns: int, gain: float = 1.0, dtype: Any = np.float64
) -> Annotated[Array, "H I"]:
    """A random matrix that keeps lengths, with Haar's distribution (:eq:`eq-initialisation-orthogonal`).

    The Q of a normal matrix's QR decomposition. LAPACK chooses the signs of R's diagonal by a rule
    of its own, which favours some matrices; made positive, every orthogonal one is equally likely.

    Args:
        rng: the generator to draw from.
        rows: H.
        columns: I.
        gain: the singular values of the result, all equal, above 0.
        dtype: dtype of the result.

    Returns:
        The matrix W, (H, I): WᵀW = gain² I where H ≥ I, else W Wᵀ = gain² I.

    Raises:
        TypeError, ValueError: a size below 1, a gain that is not above 0, no generator, no
            floating-point dtype.

    Saxe, McClelland and Ganguli (2014); Mezzadri (2007) for the signs.
    """
    check_draw("orthogonal", rng, dtype)
    rows, columns = check_counts("orthogonal", rows=rows, columns=columns)
    gain = check_number("orthogonal", "gain", gain)
    normal = rng.standard_normal((max(rows, columns), min(rows, columns)))
    Q, R = np.linalg.qr(normal)
    Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
    return (gain * (Q if rows >= columns else Q.T)).astype(dtype)  # (H, I)


@implements("eq-initialisation-identity")
def identity(hidden_size: int, scale: float = 1.0, dtype: Any = np.float64) -> Annotated[Array, "H H"]:
    """The identity: at the start, the state is kept as it is (:eq:`eq-initialisation-identity`).

    Args:
        hidden_size: H.
        scale: α, above 0; every step multiplies the state by it, before σ.
        dtype: dtype of the result.

    Returns:
        α I, (H, H).

    Raises:
        TypeError, ValueError: a size below 1, a scale that is not above 0, no floating-point dtype.

    Le, Jaitly and Hinton (2015), for networks of rectifiers.
    """
    check_dtype("identity", dtype)
    hidden_size = check_count("identity", "hidden_size", hidden_size)
    return (check_number("identity", "scale", scale) * np.eye(hidden_size)).astype(dtype)


@implements("eq-initialisation-glorot-uniform")
def glorot_uniform(
    rng: np.random.Generator, rows: int, columns: int, dtype: Any = np.float64
) -> Annotated[Array, "H I"]:
    """Uniform entries of variance 2 / (H + I) (:eq:`eq-initialisation-glorot-uniform`).

    Args:
        rng: the generator to draw from.
        rows: H, the number of outputs.
        columns: I, the number of inputs.
        dtype: dtype of the result.

    Returns:
        Entries from the uniform distribution on ±√(6 / (H + I)), (H, I).

    Raises:
        TypeError, ValueError: a size below 1, no generator, no floating-point dtype.

    Glorot and Bengio (2010).
    """
    check_draw("glorot_uniform", rng, dtype)
    rows, columns = check_counts("glorot_uniform", rows=rows, columns=columns)
    limit = math.sqrt(6 / (rows + columns))
    return rng.uniform(-limit, limit, (rows, columns)).astype(dtype)


@implements("eq-initialisation-glorot-normal")
def glorot_normal(
    rng: np.random.Generator, rows: int, columns: int, dtype: Any = np.float64
) -> Annotated[Array, "H I"]:
    """Normal entries of variance 2 / (H + I) (:eq:`eq-initialisation-glorot-normal`).

    Args:
        rng: the generator to draw from.
        rows: H, the number of outputs.
        columns: I, the number of inputs.
        dtype: dtype of the result.

    Returns:
        Entries from the normal distribution of mean 0 and variance 2 / (H + I), (H, I).

    Raises:
        TypeError, ValueError: a size below 1, no generator, no floating-point dtype.

    The variance of Glorot and Bengio (2010), who draw uniformly.
    """
    check_draw("glorot_normal", rng, dtype)
    rows, columns = check_counts("glorot_normal", rows=rows, columns=columns)
    return (math.sqrt(2 / (rows + columns)) * rng.standard_normal((rows, columns))).astype(dtype)


@implements("eq-initialisation-uniform")
def uniform(
    rng: np.random.Generator, shape: int | tuple[int, ...], hidden_size: int, dtype: Any = np.float64
) -> Array:
    """Uniform entries on ±1/√H, as torch.nn draws them (:eq:`eq-initialisation-uniform`).

    Every weight and every bias of torch.nn's recurrent layers starts so; H is always the number
    of hidden units, whatever the shape.

    Args:
        rng: the generator to draw from.
        shape: the shape of the result; H for a bias, (H, I) for a matrix.
        hidden_size: H.
        dtype: dtype of the result.

    Returns:
        The array, of the shape asked for.

    Raises:
        TypeError, ValueError: a size below 1, no generator, no floating-point dtype.
    """
    check_draw("uniform", rng, dtype)
    axes = shape if isinstance(shape, tuple) else (shape,)
    axes = tuple(check_count("uniform", f"shape[{i}]", n) for i, n in enumerate(axes))
    limit = 1 / math.sqrt(check_count("uniform", "hidden_size", hidden_size))
    return rng.uniform(-limit, limit, axes).astype(dtype)


def random_vanilla_cell(
    rng: np.random.Generator,
    input_size: int,
    hidden_size: int,
    spectral_radius: float = 0.9,
    input_scale: float = 1.0,
    bias_scale: float = 0.0,
    activation: str = "tanh",
    dtype: Any = np.float64,
) -> VanillaCell:
    """A vanilla network with fixed random weights, for a readout to be fitted to (Jaeger 2001).

    Args:
        rng: the generator to draw from.
        input_size: I.
        hidden_size: H.
        spectral_radius: ρ(W_hh), above 0; below 1 a linear network forgets its start; with tanh a guide only.
        input_scale: the entries of W_xh are uniform on ± this, at least 0.
        bias_scale: the entries of b_h are uniform on ± this, at least 0.
        activation: ``"tanh"``, ``"logistic"``, ``"relu"`` or ``"identity"``.
        dtype: dtype of the arrays.

    Returns:
        The cell; W_hh has normal entries, scaled to the radius.

    Raises:
        TypeError, ValueError: a size below 1, a scale or radius out of range, no generator, no
            floating-point dtype, an unknown activation.
    """
    where = "random_vanilla_cell"
    check_draw(where, rng, dtype)
    I, H = check_counts(where, input_size=input_size, hidden_size=hidden_size)
    radius = check_number(where, "spectral_radius", spectral_radius)
    input_scale = check_number(where, "input_scale", input_scale, above=False)
    bias_scale = check_number(where, "bias_scale", bias_scale, above=False)
    check_activation(where, "activation", activation)
    W_hh = with_spectral_radius.unchecked(rng.standard_normal((H, H)), radius)  # (H, H)
    W_xh = rng.uniform(-input_scale, input_scale, (H, I))
    b_h = rng.uniform(-bias_scale, bias_scale, H)
    return VanillaCell(W_xh.astype(dtype), W_hh.astype(dtype), b_h.astype(dtype), activation)
