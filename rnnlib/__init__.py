"""rnnlib: the mathematics of recurrent neural networks, one function per equation.

Importing the package needs NumPy alone. The same functions run on torch tensors where torch is
installed. ``rnnlib.nn`` (torch modules) and ``rnnlib.plotting`` (matplotlib) are imported by name
where they are used.
"""

from __future__ import annotations

from rnnlib import (
    activations,
    attention,
    backend,
    bidirectional,
    bptt,
    cell,
    convert,
    ctc,
    datasets,
    deep,
    distributed,
    dynamics,
    equations,
    exercises,
    forecasting,
    gradients,
    gru,
    initialisation,
    language,
    losses,
    lstm,
    normalisation,
    optim,
    readout,
    scan,
    sharing,
    speech,
    statespace,
    tasks,
    train,
    unroll,
    vanilla,
)

__all__ = [
    "activations",
    "attention",
    "backend",
    "bidirectional",
    "bptt",
    "cell",
    "convert",
    "ctc",
    "datasets",
    "deep",
    "distributed",
    "dynamics",
    "equations",
    "exercises",
    "forecasting",
    "gradients",
    "gru",
    "initialisation",
    "language",
    "losses",
    "lstm",
    "normalisation",
    "optim",
    "readout",
    "scan",
    "sharing",
    "speech",
    "statespace",
    "tasks",
    "train",
    "unroll",
    "vanilla",
]
__version__ = "0.1.0"
