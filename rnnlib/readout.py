"""Floor 1, chapter 1: fit the readout of a network whose recurrent weights stay as they are."""

from __future__ import annotations

import math
from typing import Annotated

from rnnlib.backend import Array, backend_of, check_number
from rnnlib.equations import implements


@implements("eq-vanilla-ridge")
def ridge(
    hs: Annotated[Array, "N H"],
    ys: Annotated[Array, "N O"],
    penalty: float,
) -> tuple[Annotated[Array, "O H"], Annotated[Array, "O"]]:
    """The readout that minimises the penalised squared error (:eq:`eq-vanilla-ridge`).

    Minimises Σₙ ‖W_hy hₙ + b_y - dₙ‖² + μ ‖W_hy‖_F²; the bias is not penalised. Solved as one
    least-squares problem with √μ I written below the centred states, which squares no condition
    number as the normal equations would.

    Args:
        hs: hidden states, one per row, (N, H).
        ys: targets, one per row, (N, O).
        penalty: μ, at least 0 and finite.

    Returns:
        ``W_hy`` (O, H) and ``b_y`` (O,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a penalty below 0 or not
            finite.
    """
    penalty = check_number("ridge", "penalty", penalty, above=False)
    xp = backend_of(hs)
    h_mean, y_mean = hs.mean(0), ys.mean(0)  # (H,), (O,)
    root = math.sqrt(penalty) * xp.eye(hs.shape[1], like=hs)  # (H, H)
    A = xp.concat([hs - h_mean, root])  # (N + H, H)
    b = xp.concat([ys - y_mean, xp.zeros((hs.shape[1], ys.shape[1]), like=ys)])  # (N + H, O)
    W_hy = xp.lstsq(A, b).T  # (O, H)
    return W_hy, y_mean - h_mean @ W_hy.T
