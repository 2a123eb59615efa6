"""Floor 1, chapter 9: layer normalisation (Ba et al. 2016), beside its derivative."""

from __future__ import annotations

from typing import Annotated

from rnnlib.backend import Array, backend_of, check_number
from rnnlib.equations import implements

EPSILON = 1e-5
"""What is added to the variance unless told otherwise, as in torch."""


def _standardised(z: Array, epsilon: float) -> tuple[Array, Array]:
    """Each row less its mean μ and over √(v + ε), and √(v + ε) itself, (B, D) and (B, 1)."""
    xp = backend_of(z)
    centred = z - z.mean(1)[:, None]  # (B, D)
    largest = xp.amax(xp.abs(centred), 1)[:, None]  # (B, 1)
    scale = xp.where(largest > 1, largest, xp.ones_like(largest))  # squared, a large entry would overflow
    scaled = centred / scale  # (B, D), in [-1, 1]
    root = xp.sqrt((scaled * scaled).mean(1)[:, None] + epsilon / scale / scale)  # (B, 1)
    return scaled / root, scale * root


@implements("eq-normalisation-layer")
def layer_norm(
    z: Annotated[Array, "B D"],
    alpha: Annotated[Array, "D"],
    beta: Annotated[Array, "D"],
    epsilon: Annotated[float, check_number] = EPSILON,
) -> Annotated[Array, "B D"]:
    """Every example standardised over its own entries (:eq:`eq-normalisation-layer`).

    The mean μ and the variance v are taken along each row, so that neither the batch nor the
    time step enters. Ba et al. (2016) write no ε; it keeps a row of equal numbers finite.

    Args:
        z: what is normalised, (B, D).
        alpha: gain, (D,).
        beta: bias, (D,).
        epsilon: ε, added to the variance, finite and above 0 (in the dtype of ``z``).

    Returns:
        LN(z; α, β) = α ⊙ (z - μ) / √(v + ε) + β, (B, D).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    z_hat, _ = _standardised(z, epsilon)  # (B, D)
    return alpha * z_hat + beta


@implements("eq-normalisation-layer-backward")
def layer_norm_backward(
    d_n: Annotated[Array, "B D"],
    z: Annotated[Array, "B D"],
    alpha: Annotated[Array, "D"],
    epsilon: Annotated[float, check_number] = EPSILON,
) -> tuple[Annotated[Array, "B D"], Annotated[Array, "D"], Annotated[Array, "D"]]:
    """The local derivatives of :func:`layer_norm` (:eq:`eq-normalisation-layer-backward`).

    μ and v depend on every entry of the row; their share takes out of the gradient what would
    shift the row or stretch it.

    Args:
        d_n: ∂L/∂n, the derivative at the result n = LN(z; α, β), (B, D).
        z: what was normalised, (B, D).
        alpha: gain, (D,).
        epsilon: ε, added to the variance, finite and above 0 (in the dtype of ``z``).

    Returns:
        ``d_z`` (B, D), ``d_alpha`` (D,), ``d_beta`` (D,); those of the parameters are immediate
        derivatives, summed over the batch.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an ε that is not above 0.
    """
    z_hat, deviation = _standardised(z, epsilon)  # (B, D), (B, 1)
    d_z_hat = d_n * alpha  # (B, D)
    shift = d_z_hat.mean(1)[:, None]  # (B, 1)
    stretch = (d_z_hat * z_hat).mean(1)[:, None]  # (B, 1)
    d_z = (d_z_hat - shift - z_hat * stretch) / deviation  # (B, D)
    return d_z, (d_n * z_hat).sum(0), d_n.sum(0)
