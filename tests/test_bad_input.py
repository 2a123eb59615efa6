"""Every wrong argument of every registered function is refused by an error that names it.

Valid arguments are made as in tests/test_equations.py. Then one argument at a time is replaced by
something wrong, and the answer must be a TypeError or a ValueError that names the function and the
argument: no result, no error from inside NumPy, no AttributeError from somewhere below.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest
import torch

from rnnlib import (
    bidirectional,
    bptt,
    deep,
    distributed,
    equations,
    forecasting,
    gradients,
    gru,
    initialisation,
    language,
    losses,
    lstm,
    optim,
    scan,
    sharing,
    speech,
    speed,
    tasks,
    vanilla,
)
from rnnlib.backend import (
    Array,
    annotations_of,
    check_number,
    check_sequence,
    is_array,
    rules_of,
    shape_of,
    terms_of,
)
from rnnlib.bptt import Network
from rnnlib.cell import Cell, ForwardCell, replace_unchecked
from rnnlib.unroll import Trajectory, hidden_states, mask_from_lengths, unroll, unroll_again
from tests import test_equations as given

Wrong = tuple[str, Any]
"""What is wrong with a value, in words, and the value."""

THING = object()

# --- wrong values ------------------------------------------------------------------------------

COUNTS: list[Wrong] = [
    ("a bool", True),
    ("a negative number", -1),
    ("half a number", 2.5),
    ("a float", 2.0),
    ("NaN", math.nan),
    ("a list", [2]),
    ("an array", np.array([2])),
]
NUMBERS: list[Wrong] = [
    ("a bool", True),
    ("NaN", math.nan),
    ("infinity", math.inf),
    ("a complex number", 0.5j),
    ("a list", [0.5]),
    ("an array", np.array([0.5, 0.5])),
]
CHOICES: list[Wrong] = [("a number", 3), ("a list", ["tanh"]), ("an array", np.zeros(3))]
FLAGS: list[Wrong] = [("a number", 2), ("an array", np.ones(2)), ("a list", [])]
GENERATORS: list[Wrong] = [
    ("a seed", 0),
    ("the module", np.random),
    ("the old one", np.random.RandomState(0)),
]
DTYPES: list[Wrong] = [
    ("whole numbers", np.int64),
    ("complex numbers", np.complex128),
    ("a number", 3),
    ("torch's", torch.float32),
]
LENGTHS: list[Wrong] = [
    ("a number", 3),
    ("one too many", [3, 3, 3]),
    ("one too few", [3]),
    ("one negative", [3, -1]),
    ("one too long", [3, 100]),
    ("one half", [3, 2.5]),
    ("one that is a word", [3, "3"]),
    ("a bool", [3, True]),
    ("a list of lists", [[3, 3], [3, 3]]),
    ("a matrix", np.full((2, 2), 3)),
]
LABELS: list[Wrong] = [
    ("a number", 3),
    ("a half label", [1, 1.5]),
    ("a negative label", [1, -1]),
    ("a bool", [1, True]),
    ("a word among labels", [1, "1"]),
    ("a list of lists", [[1], [2]]),
    ("a matrix", np.ones((2, 2), np.int64)),
    ("a set", {1, 2}),
]
SHAPES: list[Wrong] = [
    ("a list", [3, 2]),
    ("half a number", 2.5),
    ("a bool", True),
    ("a negative number", (3, -1)),
    ("a word in a tuple", (3, "2")),
]
COLLECTIONS: list[Wrong] = [
    ("a number", 3),
    ("a word in a list", [np.ones(2), "W"]),
    ("a thing in a dict", {"W": THING}),
    ("whole numbers", [np.ones(2, np.int64)]),
]


def wrong_arrays(x: np.ndarray, spec: str, bound: set[str], others: bool) -> Iterator[Wrong]:
    """Where an array of a declared shape belongs.

    Args:
        x: the valid array.
        spec: its declared shape.
        bound: the dimensions whose size something else sets.
        others: whether there are other arrays, whose kind and dtype it must have.
    """
    yield "a list", x.tolist() if x.ndim else [float(x)]
    yield "a number", 1.5
    yield "an axis too many", x[None]
    if x.ndim:
        yield "an axis too few", np.array(x[0])
        yield "no entry", x[:0]
    for axis, dim in enumerate(spec.split()):
        if terms_of(dim) is not None or dim in bound:
            first = x[(slice(None),) * axis + (slice(1),)]
            yield f"one more along axis {axis}", np.concatenate([x, first], axis)
            if x.shape[axis] > 1:
                yield f"one alone along axis {axis}, which NumPy would broadcast", first
    yield "whole numbers", np.ones(x.shape, np.int64)
    yield "complex numbers", x.astype(np.complex128)
    yield "a NaN", with_nan(x)
    if others:
        yield "a tensor among arrays", torch.tensor(x)
        yield "another dtype than the others", x.astype(np.float32)


def wrong_labellings(number: int) -> list[Wrong]:
    """Where as many label sequences belong."""
    rest = [[1]] * (number - 1)
    return [
        ("a number", 3),
        ("labels only", [1] * number),
        ("words", ["a"] * number),
        ("things", [THING] * number),
        ("one too many", [[1], [1], *rest]),
        ("a half label", [[1.5], *rest]),
        ("a negative label", [[-1], *rest]),
        ("a bool", [[True], *rest]),
    ]


def with_nan(x: np.ndarray) -> np.ndarray:
    copy = x.copy()
    copy[(0,) * x.ndim] = math.nan
    return copy


def wrong_classes(x: np.ndarray, alone: bool = False) -> list[Wrong]:
    """Where classes, numbers from 0 to 2, belong; alone, they may be any number of them."""
    numbers = [] if alone else [("one more", np.concatenate([x, x[:1]])), ("one alone", x[:1])]
    return [
        *numbers,
        ("a list", x.tolist()),
        ("no whole numbers", x.astype(np.float64)),
        ("an axis too many", x[None]),
        ("a negative class", np.full_like(x, -1)),
        ("a class too many", np.full_like(x, 3)),
        ("a tensor among arrays", torch.tensor(x)),
    ]


def wrong_masks(shape: tuple[int, ...]) -> list[Wrong]:
    more = (shape[0] + 1, *shape[1:])
    return [
        ("a list", np.ones(shape).tolist()),
        ("one too many", np.ones(more)),
        ("one alone", np.ones((1, *shape[1:]))),
        ("an axis too many", np.ones((*shape, 1))),
        ("nothing that counts", np.zeros(shape)),
        ("halves", np.full(shape, 0.5)),
        ("whole numbers", np.ones(shape, np.int64)),
        ("a NaN", with_nan(np.ones(shape))),
        ("a tensor among arrays", torch.ones(shape, dtype=torch.float64)),
    ]


def wrong_states(x: np.ndarray) -> list[Wrong]:
    """Where a state (x,) of one array belongs."""
    return [
        ("a list", x.tolist()),
        ("two arrays", (x, x)),
        ("no array", ()),
        ("a word in a tuple", ("h",)),
        ("a row too many", np.concatenate([x, x[:1]])),
        ("a row alone", x[:1]),
        ("a unit too many", (np.concatenate([x, x[:, :1]], 1),)),
        ("an axis too many", x[None]),
        ("whole numbers", np.ones(x.shape, np.int64)),
        ("a NaN", with_nan(x)),
        ("a tensor among arrays", torch.tensor(x)),
        ("another dtype", (x.astype(np.float32),)),
    ]


def wrong_sequences_of_states(states: tuple[Any, ...]) -> Iterator[Wrong]:
    yield "a number", 3
    yield "one too few", states[1:]
    yield "one too many", (*states, states[0])
    yield "an array", np.ones((5, 2, 3))
    for what, state in wrong_states(states[1][0]):
        if not is_array(state):  # of the form of a state, or something strange
            yield f"{what}, as one of them", (states[0], state, *states[2:])


def a_cell(I: int = 2, H: int = 3) -> vanilla.VanillaCell:
    return given.a_cell(np.random.default_rng(0), I, H)


def drawn(shapes: dict[str, str], **sizes: int) -> dict[str, np.ndarray]:
    """Random arrays of declared shapes; every dimension has a size of its own, from 2 on."""
    rng = np.random.default_rng(0)
    letters = sorted(set(re.findall(r"[A-Z]\w*", " ".join(shapes.values()))))
    sizes = {letter: 2 + i for i, letter in enumerate(letters)} | sizes
    return {
        name: rng.normal(
            size=tuple(
                sum(n * sizes.get(d, 1) for n, d in terms_of(dim) or ((1, dim),)) for dim in spec.split()
            )
        )
        for name, spec in shapes.items()
    }


def fields_of(record: type) -> dict[str, str]:
    """The shapes that a record declares."""
    return {name: spec for name, a in annotations_of(record).items() if (spec := shape_of(a)) is not None}


def a_record(record: Any, **sizes: int) -> Any:
    return record(**drawn(fields_of(record), **({"I": 2, "H": 3} | sizes)))


class OneWay:
    """A cell that can only go forward."""

    state_names, input_size, hidden_size = ("h",), 2, 3

    def step(self, x_t: Any, state: Any) -> Any:
        return state, None


def a_trajectory(cell: Any) -> Trajectory:
    return unroll(cell, np.random.default_rng(0).normal(size=(4, 2, cell.input_size)))


def no_cells() -> list[Wrong]:
    """No cell, and no network either."""
    return [
        ("a trajectory", a_trajectory(a_cell())),
        ("a machine", speed.Machine(1e11, 1e10, 1e-6)),
        ("a class", vanilla.VanillaCell),
        ("a list of cells", [a_cell()]),
        ("an array", np.ones((3, 3))),
    ]


def cells_that_did_not_run() -> list[Wrong]:
    """Where the cell of a trajectory belongs."""
    return [("a larger cell", a_cell(2, 5)), ("a cell of another kind", a_record(gru.GRUCell))]


def wrong_trajectories() -> list[Wrong]:
    return [
        ("a cell", a_cell()),
        ("an array", np.ones((4, 2, 3))),
        ("the class", Trajectory),
        ("that of a larger cell", a_trajectory(a_cell(2, 5))),
    ]


def wrong_records(kind: type) -> list[Wrong]:
    other = speed.Machine(1e11, 1e10, 1e-6) if kind is not speed.Machine else a_cell()
    return [("another record", other), ("the class", kind), ("an array", np.ones((3, 3)))]


def wrong_items(items: tuple[np.ndarray, ...]) -> list[Wrong]:
    first, second = items
    return [
        ("a list", list(items)),
        ("nothing", ()),
        ("an array", first),
        ("a word in a tuple", (first, "u")),
        ("one step more", (first, np.concatenate([second, second[:1]]))),
        ("a tensor among arrays", (first, torch.tensor(second))),
        ("a number in a tuple", (first, np.array(1.0))),
    ]


def wrong_parts(parts: tuple[Any, ...]) -> list[Wrong]:
    """Where the cells and networks of a network belong."""
    return [
        ("a list", list(parts)),
        ("nothing", ()),
        ("a cell", parts[0]),
        ("a word among them", ("cell", *parts[1:])),
        ("a machine among them", (*parts[:-1], speed.Machine(1e11, 1e10, 1e-6))),
        ("a larger one among them", (a_cell(4, 4), *parts[1:])),
    ]


def wrong_whole_numbers(x: np.ndarray) -> list[Wrong]:
    return [
        ("a list", x.tolist()),
        ("no whole numbers", x.astype(np.float64)),
        ("bools", x > 0),
        ("an axis too many", x[None]),
        ("nothing", x[:0]),
        ("a negative number", x - 100),
        ("a tensor", torch.tensor(x)),
    ]


def wrong_sequences(sequences: list[np.ndarray]) -> list[Wrong]:
    """Where a list of arrays (T, I) belongs."""
    first, *rest = sequences
    return [
        ("a number", 3),
        ("nothing", []),
        ("an array", first),
        ("a word among them", ["a", *rest]),
        ("a column too many", [np.concatenate([first, first[:, :1]], 1), *rest]),
        ("a list among them", [first.tolist(), *rest]),
        ("whole numbers", [np.ones(first.shape, np.int64), *rest]),
        ("a NaN", [with_nan(first), *rest]),
        ("a tensor among arrays", [torch.tensor(first), *rest]),
    ]


def wrong_loss_gradients(x: np.ndarray) -> Iterator[Wrong]:
    yield from wrong_arrays(x, "T B H", {"T", "B", "H"}, True)
    yield "a function that returns nothing", lambda steps, hs: None
    yield "a function that returns too much", lambda steps, hs: np.ones((9, 2, 3))


# --- which of them belong to which argument ----------------------------------------------------

BY_NAME: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "lengths": lambda value, arguments: LENGTHS,
    "dtype": lambda value, arguments: DTYPES,
    "mask": lambda value, arguments: wrong_masks(mask_shape(arguments)),
    "trajectory": lambda value, arguments: wrong_trajectories(),
    "initial": lambda value, arguments: wrong_states(np.ones((2, 3))),
    "d_final": lambda value, arguments: wrong_states(np.ones((2, 3))),
    "d_state": lambda value, arguments: wrong_states(value),
    "state": lambda value, arguments: wrong_states(value[0]) if value else [],
    "xs": lambda value, arguments: wrong_arrays(value, "T B I", {"I"}, others=True),
    "dropout_masks.xs": lambda value, arguments: wrong_arrays(value, "T B I", set(), others=False),
    "mask_from_lengths.xs": lambda value, arguments: [("a list", value.tolist()), ("two axes", value[0])],
    "d_hs": lambda value, arguments: wrong_arrays(value, "T B H", {"T", "B", "H"}, others=True),
    "d_states": lambda value, arguments: wrong_sequences_of_states(value),
    "dropout_masks": lambda value, arguments: [("masks without a stack", (np.ones((4, 2, 3)),))],
    "loss_gradient": lambda value, arguments: wrong_loss_gradients(value),
    "gradients": lambda value, arguments: COLLECTIONS,
    "symbols": lambda value, arguments: (
        wrong_classes(value, alone="d_rows" not in arguments) if is_array(value) else COUNTS
    ),
    "shape": lambda value, arguments: SHAPES,
    "operation": lambda value, arguments: [("a number", 3)],
    "items": lambda value, arguments: wrong_items(value),
    "layers": lambda value, arguments: wrong_parts(value),
    "directions": lambda value, arguments: wrong_parts(value),
    "codes": lambda value, arguments: wrong_whole_numbers(value),
    "origins": lambda value, arguments: wrong_whole_numbers(value),
    "sequences": lambda value, arguments: wrong_sequences(value),
    "queries": lambda value, arguments: wrong_sequences(value),
    "references": lambda value, arguments: wrong_sequences(value),
    "utterances": lambda value, arguments: wrong_sequences(value),
    "labels": lambda value, arguments: [*LABELS, ("one too many", [*value, 1])],
    "characters": lambda value, arguments: [("a number", 3), ("nothing", ""), ("twice the same", "aab")],
    "then": lambda value, arguments: [("a number", 3)],
    "x": lambda value, arguments: [
        ("a list", [[1.0]]),
        ("a number", 1.5),
        ("four axes", np.ones((1, 2, 3, 4))),
    ],
    "first": lambda value, arguments: wrong_whole_numbers(value) if is_array(value) else COUNTS,
    "step": lambda value, arguments: [("a number", 2.5)] if callable(value) else COUNTS,
    "take": lambda value, arguments: [("a number", 3)],
    **dict.fromkeys(
        ("theta_prev", "g_t", "m_prev", "v_prev"),
        lambda value, arguments: wrong_arrays(value, "M N", {"M", "N"}, True),
    ),
}
"""For arguments whose annotation does not say what belongs there."""

BY_TYPE: dict[Any, Callable[[str], Any]] = {
    "int": lambda name: COUNTS,
    "float": lambda name: NUMBERS if name in MAY_BE_BELOW_ZERO else [*NUMBERS, ("a negative number", -0.5)],
    "str": lambda name: CHOICES,
    "bool": lambda name: FLAGS,
    "np.random.Generator": lambda name: GENERATORS,
    "Cell": lambda name: [*no_cells(), ("a stack", deep.Stack((a_cell(),))), ("no way back", OneWay())],
    "ForwardCell": lambda name: [*no_cells(), ("a stack", deep.Stack((a_cell(),)))],
    "Cell | Network": lambda name: no_cells(),
}

MAY_BE_BELOW_ZERO = {"w", "b", "bias", "angle", "gain", "scale"}


def mask_shape(arguments: dict[str, Any]) -> tuple[int, ...]:
    if "e" in arguments:  # (T, B, S): a mask is (S, B)
        return arguments["e"].shape[:0:-1]
    rows = next(arguments[name] for name in ("values", "ys", "a") if name in arguments)
    return (len(rows),)


def wrong_values(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Iterator[Wrong]:
    """Everything that does not belong where a function has this argument."""
    plain = inspect.unwrap(function)
    annotation = annotations_of(plain)[name]
    parameter = inspect.signature(plain).parameters[name]
    value = arguments.get(name)
    spec = shape_of(annotation)
    written = parameter.annotation.removesuffix(" | None")
    if spec is None and get_origin(annotation) is Annotated:  # a type and a check
        written = get_args(annotation)[0].__name__
    yield "a word", "no such thing"
    yield "a thing", THING
    if written == parameter.annotation and parameter.default is not None and name != "gradients":
        yield "None", None

    if spec is not None:
        shapes = {n: s for n, a in annotations_of(plain).items() if n in arguments and (s := shape_of(a))}
        records = [x for x in arguments.values() if dataclasses.is_dataclass(x)]
        fields = [s for x in records for a in annotations_of(type(x)).values() if (s := shape_of(a))]
        letters = re.findall(r"[A-Z]\w*", " ".join([*shapes.values(), *fields]))
        bound = {letter for letter in letters if letters.count(letter) > 1}
        if value is not None:
            yield from wrong_arrays(value, spec, bound, len(shapes) > 1 or bool(records))
    elif name == "targets" and written == "Array":
        if np.issubdtype(value.dtype, np.integer):
            yield from wrong_classes(value)
        else:
            yield from wrong_arrays(value, "N K", {"N", "K"}, True)
    elif written == "Labels":
        yield from LABELS
    elif written == "Sequence[Labels]":
        yield from wrong_labellings(len(value))
    elif (wrong := BY_NAME.get(f"{plain.__name__}.{name}", BY_NAME.get(name))) is not None:
        yield from wrong(value, arguments)
    elif written in BY_TYPE:
        yield from BY_TYPE[written](name)
        if name == "cell" and "trajectory" in arguments:
            yield from cells_that_did_not_run()
    elif dataclasses.is_dataclass(annotation):
        yield from wrong_records(annotation)
    elif dataclasses.is_dataclass(value):  # one of several records
        yield from no_cells()
    else:
        raise AssertionError(f"say in this test what is wrong where {name}: {written} belongs")


ANYTHING = {("generate", "state"), ("beam_search", "state"), ("mask_from_lengths", "where")}
"""Where everything is right."""

ALLOWED = {
    ("speed_up", "factor", "infinity"): "a share that takes no time at all is a limit that the book draws",
}
"""What looks wrong and is not, with the reason."""

PASSED_ON = {
    ("leftward", "initial"): ("unroll",),
    ("leftward_backward", "d_final"): ("bptt",),
    ("truncated_bptt", "d_final"): ("bptt",),
    ("checkpointed_bptt", "initial"): ("unroll", "hidden_states"),
    ("checkpointed_bptt", "d_final"): ("bptt",),
    ("checkpointed_bptt", "dropout_masks"): ("VanillaCell",),
    ("rtrl", "initial"): ("unroll",),
    ("rtrl", "d_final"): ("bptt",),
    ("rtrl", "dropout_masks"): ("VanillaCell",),
    **{("outputs", name): ("unroll", "hidden_states") for name in ("xs", "initial")},
    ("outputs", "dropout_masks"): ("VanillaCell",),
    **{("forward", name): ("unroll",) for name in ("xs", "initial", "lengths")},
    ("forward", "dropout_masks"): ("VanillaCell",),
    **{("backward", name): ("bptt",) for name in ("trajectory", "d_hs", "d_final")},
}
"""What a network hands on to its parts, which know what fits, and the functions that speak for it there."""


def complaints(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """What a function did wrong with wrong arguments, one line each."""
    function(**arguments)  # or else every refusal would be right
    found = []
    for name in inspect.signature(function).parameters:
        speakers = "|".join((function.__name__, *PASSED_ON.get((function.__name__, name), ())))
        for what, wrong in wrong_values(function, name, arguments):
            if (function.__name__, name) in ANYTHING or (function.__name__, name, what) in ALLOWED:
                continue
            call = f"{name} = {what}"
            try:
                function(**{**arguments, name: wrong})
            except (TypeError, ValueError) as error:
                said = str(error)
                if not re.match(rf"({speakers}): ", said) or not re.search(rf"\b{name}\b", said):
                    found.append(f"{call}: the {type(error).__name__} does not name it: {said}")
            except Exception as error:
                found.append(f"{call}: {type(error).__name__}: {error}")
            else:
                found.append(f"{call}: accepted")
    return found


def valid_arguments(label: str) -> dict[str, Any]:
    if label in given.MAKERS:
        return given.MAKERS[label](np.random.default_rng(0))
    return drawn(equations.equation(label).shapes)


@pytest.mark.parametrize("label", equations.index())
def test_a_registered_function_names_every_wrong_argument(label):
    found = complaints(equations.equation(label).function, valid_arguments(label))
    assert not found, "\n".join(found)


# --- records, and functions without an equation ------------------------------------------------

RNG = np.random.default_rng(0)


def a_stack() -> deep.Stack:
    return deep.Stack((a_cell(2, 3), a_cell(3, 3)))


def drawing(batch_size: int = 2, **more: Any) -> dict[str, Any]:
    return {"batch_size": batch_size, "rng": RNG, **more}


def run_of_a_cell(**more: Any) -> dict[str, Any]:
    return given.a_run(np.random.default_rng(0), **more)


def a_model(symbols: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
    return np.zeros((len(symbols), 3)), state


XS, D_HS = np.ones((4, 2, 2)), np.ones((4, 2, 3))

CELLS = [
    vanilla.VanillaCell,
    lstm.LSTMCell,
    lstm.PeepholeLSTMCell,
    lstm.CoupledLSTMCell,
    lstm.NoForgetLSTMCell,
    lstm.LayerNormLSTMCell,
    gru.GRUCell,
    gru.ResetAfterGRUCell,
]

OTHERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((record, drawn(fields_of(record), I=2, H=3)) for record in CELLS),
    (sharing.SharedNetwork, drawn(fields_of(sharing.SharedNetwork))),
    (sharing.UnsharedNetwork, drawn(fields_of(sharing.UnsharedNetwork))),
    (deep.Stack, {"layers": (a_cell(2, 3), a_cell(3, 3))}),
    (bidirectional.Bidirectional, {"directions": (a_cell(), a_cell())}),
    (speed.Machine, {"peak": 1e11, "bandwidth": 1e10, "launch": 1e-6}),
    (optim.SGD, {}),
    (optim.Adam, {}),
    (optim.AdamW, {}),
    (language.Alphabet, {"characters": "abc"}),
    (initialisation.random_vanilla_cell, {"rng": RNG, "input_size": 2, "hidden_size": 3}),
    (lstm.split, {"W": np.ones((2, 5))}),
    (lstm.whole, {"W_h": np.ones((2, 2)), "W_x": np.ones((2, 3))}),
    (lstm.stacked, {"cell": a_record(lstm.LSTMCell)}),
    (lstm.with_forget_bias, {"cell": a_record(lstm.LSTMCell), "bias": 1.0}),
    (hidden_states, {"cell": a_cell(), "xs": XS}),
    (unroll_again, {"cell": a_cell(), "xs": XS, "hs": unroll(a_cell(), XS).hs}),
    (mask_from_lengths, {"lengths": [4, 2], "xs": XS}),
    (bptt.bptt, run_of_a_cell(d_hs=D_HS)),
    (bptt.forward, {"network": a_cell(), "xs": XS}),
    (bptt.backward, given.a_network(np.random.default_rng(0))),
    (bptt.outputs, {"network": a_cell(), "xs": XS}),
    (bptt.rtrl, {"network": a_cell(), "xs": XS, "loss_gradient": D_HS}),
    (deep.dropout_masks, {"rng": RNG, "network": a_stack(), "xs": XS, "rate": 0.4}),
    (gradients.state_jacobians, run_of_a_cell()),
    (gradients.jacobian_products, {"jacobians": np.ones((4, 2, 3, 3))}),
    (gradients.product_norms, {"jacobians": np.ones((4, 2, 3, 3))}),
    (scan.sequential, given.pairs(RNG)),
    (losses.rows, {"x": XS}),
    (optim.cosine, {"steps": 3}),
    (optim.step_decay, {"every": 3}),
    (optim.warm_up, {"steps": 3}),
    (language.ngram, {"codes": np.array([0, 1, 2, 1, 0]), "order": 2, "size": 3}),
    (language.stream_steps, {"length": 20, "batch_size": 2, "steps": 3}),
    (language.stream_batch, {"codes": np.arange(20), "step": 0, "batch_size": 2, "steps": 3}),
    (
        language.generate,
        {"step": a_model, "state": None, "first": np.array([0, 1]), "u": np.full((3, 2), 0.5)},
    ),
    (
        language.beam_search,
        {
            "step": a_model,
            "state": None,
            "first": 0,
            "width": 2,
            "length": 3,
            "take": lambda state, rows: state,
        },
    ),
    (distributed.ring_all_reduce, {"vectors": np.ones((3, 4))}),
    (tasks.adding, drawing(length=8)),
    (tasks.copy_memory, drawing(delay=5)),
    (tasks.copy_memory_baseline, {"delay": 5}),
    (tasks.temporal_order, drawing(length=20)),
    (tasks.parity, drawing(length=8)),
    (tasks.reversal, drawing(length=8)),
    (tasks.embedded_reber, drawing()),
    (forecasting.rolling_origins, {"first": 3, "stop": 12, "horizon": 2}),
    (forecasting.contexts, {"xs": np.arange(9.0), "origins": np.array([4, 5]), "length": 3}),
    (forecasting.outcomes, {"xs": np.arange(9.0), "origins": np.array([4, 5]), "horizon": 3}),
    (
        speech.warping_distances,
        {"queries": [np.ones((3, 2))], "references": [np.ones((4, 2)), np.ones((2, 2))]},
    ),
    (speech.pad, {"sequences": [np.ones((4, 2)), np.ones((2, 2))]}),
    (
        speech.join_utterances,
        drawing(utterances=[np.ones((4, 2)), np.ones((2, 2))], labels=[1, 0]),
    ),
    (
        speed.bound,
        {"operations": 1e6, "moved": 1e5, "launches": 2, "machine": speed.Machine(1e11, 1e10, 1e-6)},
    ),
    (speed.parts, {"cell": "gru", "T": 4, "B": 2, "I": 3, "H": 5}),
]
"""Records and public functions without an equation, with valid arguments."""


@pytest.mark.parametrize(
    ("function", "arguments"), OTHERS, ids=[f"{f.__module__}.{f.__name__}" for f, _ in OTHERS]
)
def test_a_record_or_function_without_an_equation_names_every_wrong_argument(function, arguments):
    found = complaints(function, arguments)
    assert not found, "\n".join(found)


# --- methods, and the rules themselves ---------------------------------------------------------


def test_a_network_takes_no_trajectory_of_another_kind():
    cell, stack = a_cell(), deep.Stack((a_cell(),))
    both = bidirectional.Bidirectional((cell, a_cell()))
    for network, other in ((stack, cell), (stack, both), (both, cell), (both, stack)):
        trajectory, name = bptt.forward(other, XS), type(network).__name__
        expected = f"{name}: trajectory is a {type(trajectory).__name__}, expected a {name}Trajectory"
        with pytest.raises(TypeError, match=expected):
            bptt.backward(network, trajectory, np.ones(trajectory.hs.shape))


def test_a_step_of_an_optimiser_names_the_array_of_another_shape():
    adam, cell = optim.Adam(), a_cell()
    state = adam.initial(cell)
    wrong = dataclasses.asdict(cell) | {"W_hh": np.ones((1, 3, 3))}
    gradient = replace_unchecked(cell, **wrong)
    expected = r"Adam.step: gradients.W_hh has shape \(1, 3, 3\), expected \(3, 3\) set by parameters.W_hh"
    with pytest.raises(ValueError, match=expected):
        adam.step(cell, gradient, state)


def test_a_rule_is_read_from_an_annotation():
    def of(annotation: Any, value: Any) -> str | None:
        try:
            for rule in rules_of(annotation):
                rule("f", "x", value)
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    assert rules_of(int) == rules_of(str) == rules_of(Annotated[Array, "B H"]) == ()
    assert of(Annotated[float, check_number], 1.0) is None
    assert of(Annotated[float, check_number], -1.0) == "f: x is -1.0, expected a finite number above 0"
    assert of(bool, True) is None
    assert of(bool, 1) == "f: x is 1, expected True or False"
    machine = speed.Machine(1.0, 1.0, 1.0)
    assert of(speed.Machine, machine) is None
    assert of(speed.Machine, speed.Machine) == "f: x is a type, expected a Machine"
    assert of(Cell, a_cell()) is None
    assert of(Cell, OneWay()) == "f: x is a OneWay, expected a Cell"
    assert of(ForwardCell, OneWay()) is None
    assert of(Cell | Network, deep.Stack((a_cell(),))) is None
    assert of(Cell | Network, machine) == "f: x is a Machine, expected a Cell or a Network"


@pytest.mark.parametrize(
    "x", [[3, 1], (3, 1), np.array([3, 1]), torch.tensor([3, 1]), list(np.array([3, 1]))]
)
def test_a_sequence_gives_pythons_own_numbers(x):
    entries = check_sequence("f", "x", x, "two numbers")
    assert entries == [3, 1]
    assert [type(n) for n in entries] == [int, int]


@pytest.mark.parametrize("x", ["31", {3: 1}, {3, 1}, 3, None, np.array(3), torch.tensor(3), iter([3, 1])])
def test_what_is_no_sequence_is_refused(x):
    with pytest.raises(TypeError, match=f"^f: x is a {type(x).__name__}, expected two numbers$"):
        check_sequence("f", "x", x, "two numbers")
