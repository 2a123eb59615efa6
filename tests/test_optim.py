"""The optimisers are those of torch.optim, and the schedules those of torch.optim.lr_scheduler."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import optim
from rnnlib.cell import map_arrays
from rnnlib.vanilla import VanillaCell
from tests.support import relative_error, seeds

rates = st.floats(1e-4, 0.5)
fractions = st.floats(0, 0.999)
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)

UPDATES = {
    optim.momentum_update: ("v_prev",),
    optim.adam_update: ("m_prev", "v_prev"),
    optim.adamw_update: ("m_prev", "v_prev"),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def torch_steps(optimizer, start: np.ndarray, gradients: list[np.ndarray], factors=None, **options):
    """Where an optimiser of torch goes, given the gradients."""
    theta = torch.nn.Parameter(torch.tensor(start))
    reference = optimizer([theta], **options)
    path = []
    for t, g in enumerate(gradients):
        if factors is not None:
            reference.param_groups[0]["lr"] = options["lr"] * factors[t]
        theta.grad = torch.tensor(g)
        reference.step()
        path.append(theta.detach().numpy().copy())
    return path, reference.state[theta]


def gradients_of(seed: int, steps: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Gradients of very different sizes, and zero now and then."""
    rng = np.random.default_rng(seed)
    return [
        np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-4, 3) * rng.integers(0, 4))
        for _ in range(steps)
    ]


# --- the updates ------------------------------------------------------------------------------


@pytest.mark.equation("eq-optim-momentum")
@given(shape=shapes, seed=seeds, rate=rates, momentum=fractions)
def test_momentum_is_that_of_torch_over_many_steps(agree, shape, seed, rate, momentum):
    theta, gs = normal(seed, *shape), gradients_of(seed + 1, 100, shape)
    path, state = torch_steps(torch.optim.SGD, theta, gs, lr=rate, momentum=momentum)
    v = np.zeros(shape)
    for g, expected in zip(gs, path, strict=True):
        theta, v = (np.asarray(x) for x in optim.momentum_update(theta, g, v, rate, momentum))
        agree(optim.momentum_update, "torch.optim.SGD", theta, expected, 1e-12)
    if momentum:
        agree(optim.momentum_update, "torch.optim.SGD", v, state["momentum_buffer"], 1e-12)


@pytest.mark.equation("eq-optim-momentum")
@given(seed=seeds, rate=rates, momentum=fractions)
def test_momentum_is_a_sum_of_decayed_gradients(seed, rate, momentum):
    """The recurrence, solved: v_t = Σ μ^(t-s) g_s."""
    gs = normal(seed, 20, 3)
    theta, v = np.zeros(3), np.zeros(3)
    for t, g in enumerate(gs):
        theta, v = optim.momentum_update(theta, g, v, rate, momentum)
        weights = momentum ** np.arange(t, -1, -1.0)
        assert relative_error(v, weights @ gs[: t + 1]) < 1e-12


@pytest.mark.equation("eq-optim-adam")
@given(
    shape=shapes, seed=seeds, rate=rates, betas=st.tuples(fractions, fractions), epsilon=st.floats(1e-9, 1.0)
)
def test_adam_is_that_of_torch_over_many_steps(agree, shape, seed, rate, betas, epsilon):
    theta, gs = normal(seed, *shape), gradients_of(seed + 1, 100, shape)
    path, state = torch_steps(torch.optim.Adam, theta, gs, lr=rate, betas=betas, eps=epsilon)
    m, v = np.zeros(shape), np.zeros(shape)
    for t, (g, expected) in enumerate(zip(gs, path, strict=True), 1):
        result = optim.adam_update(theta, g, m, v, t, rate, *betas, epsilon)
        theta, m, v = (np.asarray(x) for x in result)
        agree(optim.adam_update, "torch.optim.Adam", theta, expected, 1e-12)
    agree(optim.adam_update, "torch.optim.Adam", [m, v], [state["exp_avg"], state["exp_avg_sq"]], 1e-12)


@pytest.mark.equation("eq-optim-adamw")
@given(
    shape=shapes,
    seed=seeds,
    rate=rates,
    betas=st.tuples(fractions, fractions),
    epsilon=st.floats(1e-9, 1.0),
    decay=st.floats(0, 1.0),
)
def test_adamw_is_that_of_torch_over_many_steps(agree, shape, seed, rate, betas, epsilon, decay):
    theta, gs = normal(seed, *shape), gradients_of(seed + 1, 100, shape)
    path, state = torch_steps(
        torch.optim.AdamW, theta, gs, lr=rate, betas=betas, eps=epsilon, weight_decay=decay
    )
    m, v = np.zeros(shape), np.zeros(shape)
    for t, (g, expected) in enumerate(zip(gs, path, strict=True), 1):
        result = optim.adamw_update(theta, g, m, v, t, rate, *betas, epsilon, decay)
        theta, m, v = (np.asarray(x) for x in result)
        agree(optim.adamw_update, "torch.optim.AdamW", theta, expected, 1e-12)
    agree(optim.adamw_update, "torch.optim.AdamW", [m, v], [state["exp_avg"], state["exp_avg_sq"]], 1e-12)


@pytest.mark.equation("eq-optim-adam", "eq-optim-adamw")
def test_the_first_step_of_adam_is_the_rate_in_the_direction_of_the_sign():
    g = np.array([1e-3, -5.0, 200.0])
    zeros = np.zeros(3)
    theta, _, _ = optim.adam_update(zeros, g, zeros, zeros, 1, rate=0.1, epsilon=0.0)
    np.testing.assert_allclose(theta, -0.1 * np.sign(g), rtol=1e-12)
    decayed, _, _ = optim.adamw_update(zeros + 2, g, zeros, zeros, 1, rate=0.1, epsilon=0.0, decay=0.5)
    np.testing.assert_allclose(decayed, 2 - 0.1 * (np.sign(g) + 0.5 * 2), rtol=1e-12)


@given(seed=seeds)
def test_without_decay_adamw_is_adam(seed):
    arrays = [normal(seed + i, 3, 2) for i in range(3)]
    v = normal(seed + 3, 3, 2) ** 2
    for x, y in zip(
        optim.adam_update(*arrays, v, 4, rate=0.1),
        optim.adamw_update(*arrays, v, 4, rate=0.1, decay=0.0),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def arguments(update, like) -> dict:
    """Arguments of one shape and kind for an update; second moments are positive."""
    names = ("theta_prev", "g_t", *UPDATES[update])
    more = {"rate": 0.1} if update is optim.momentum_update else {"t": 3}
    return {name: like(normal(i, 2, 3) ** 2) for i, name in enumerate(names)} | more


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_update_keeps_dtype_and_device_and_gives_the_same_on_torch(update, dtype):
    more = {} if update is optim.momentum_update else {"epsilon": 1e-3}
    ours = update(**arguments(update, lambda x: x.astype(dtype)), **more)
    theirs = update(**arguments(update, lambda x: torch.tensor(x.astype(dtype))), **more)
    on_meta = update(**arguments(update, lambda x: torch.tensor(x.astype(dtype)).to("meta")), **more)
    for x, y, z in zip(ours, theirs, on_meta, strict=True):
        assert x.dtype == dtype
        assert y.dtype == z.dtype == getattr(torch, dtype)
        assert z.is_meta
        assert relative_error(x, y) < {"float16": 1e-2, "float32": 1e-6, "float64": 1e-14}[dtype]


@pytest.mark.parametrize("update", UPDATES)
def test_an_update_changes_nothing_in_place(update):
    before = arguments(update, np.array)
    after = arguments(update, np.array)
    update(**after)
    for name, x in before.items():
        np.testing.assert_array_equal(x, after[name])


@pytest.mark.parametrize("update", UPDATES)
def test_an_update_refuses_arrays_that_do_not_fit(update):
    good = arguments(update, np.array)
    for name in ("g_t", *UPDATES[update]):
        for shape in ((1, 3), (3,), ()):
            with pytest.raises(ValueError, match=f"{update.__name__}: {name} has shape"):
                update(**good | {name: np.ones(shape)})
        with pytest.raises(TypeError, match=f"{update.__name__}: .*{name} has float32"):
            update(**good | {name: np.ones((2, 3), np.float32)})
        with pytest.raises(TypeError, match=f"{update.__name__}: {name} is a list"):
            update(**good | {name: [1.0]})
        with pytest.raises(ValueError, match=f"{update.__name__}: {name} holds NaN, first at index"):
            update(**good | {name: np.full((2, 3), np.nan)})
    with pytest.raises(TypeError, match=f"{update.__name__}: theta_prev is a float"):
        update(**good | {"theta_prev": 1.0})
    with pytest.raises(TypeError, match="expected a real floating-point dtype"):
        update(**arguments(update, lambda x: x.astype(int)))


BAD = {
    "rate": (-0.1, math.inf, math.nan),
    "momentum": (-0.1, 1.0, 1.5),
    "beta1": (-0.1, 1.0),
    "beta2": (-0.1, 1.0),
    "epsilon": (-1e-8,),
    "decay": (-0.1,),
}


@pytest.mark.parametrize(
    ("of", "name"),
    [
        *((optim.momentum_update, n) for n in ("rate", "momentum")),
        *((optim.adam_update, n) for n in ("rate", "beta1", "beta2", "epsilon")),
        *((optim.adamw_update, n) for n in ("rate", "beta1", "beta2", "epsilon", "decay")),
        *((optim.SGD, n) for n in ("rate", "momentum")),
        *((optim.Adam, n) for n in ("rate", "beta1", "beta2", "epsilon")),
        *((optim.AdamW, n) for n in ("rate", "beta1", "beta2", "epsilon", "decay")),
    ],
)
def test_a_hyperparameter_out_of_range_is_refused_by_name(of, name):
    good = arguments(of, np.array) if of in UPDATES else {}
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"{of.__name__}: {name} is {value}, expected a"):
            of(**good | {name: value})
    with pytest.raises(TypeError, match=f"{of.__name__}: {name} is a str"):
        of(**good | {name: "0.1"})
    of(**good | {name: 0})  # zero is in every range


def test_the_steps_of_adam_are_counted_from_one():
    for update in (optim.adam_update, optim.adamw_update):
        good = arguments(update, np.array)
        with pytest.raises(ValueError, match=f"{update.__name__}: t is 0, expected .* at least 1"):
            update(**good | {"t": 0})
        with pytest.raises(TypeError, match=f"{update.__name__}: t is a float"):
            update(**good | {"t": 1.0})


# --- the optimisers ---------------------------------------------------------------------------

PAIRS = {
    "SGD": (optim.SGD(0.1), torch.optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD(0.1, 0.8), torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}),
    "Adam": (
        optim.Adam(0.1, 0.7, 0.95, 1e-6),
        torch.optim.Adam,
        {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-6},
    ),
    "AdamW": (
        optim.AdamW(0.1, 0.7, 0.95, 1e-6, 0.3),
        torch.optim.AdamW,
        {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS.values(), ids=PAIRS)
@given(seed=seeds)
def test_an_optimiser_steps_through_a_whole_collection_as_torch_does(ours, theirs, options, seed):
    cell = a_cell(seed)
    parameters = {"cell": cell, "readout": [normal(seed + 1, 2, 3), normal(seed + 2)]}
    schedule = optim.cosine(30, 0.1)
    factors = [schedule(t) for t in range(30)]
    gs = [
        {"cell": a_cell(seed + 10 + t), "readout": [normal(seed + 50 + t, 2, 3), normal(seed + 90 + t)]}
        for t in range(30)
    ]
    state = ours.initial(parameters)
    trained = parameters
    for g, factor in zip(gs, factors, strict=True):
        trained, state = ours.step(trained, g, state, factor)
    assert state.steps == 30
    assert isinstance(trained["cell"], VanillaCell)
    assert trained["cell"].activation == cell.activation

    def leaves(collection):
        c = collection["cell"]
        return [c.W_xh, c.W_hh, c.b_h, *collection["readout"]]

    for i, (start, actual) in enumerate(zip(leaves(parameters), leaves(trained), strict=True)):
        path, _ = torch_steps(theirs, start, [leaves(g)[i] for g in gs], factors, **options)
        assert isinstance(actual, np.ndarray)
        assert relative_error(actual, path[-1]) < 1e-12


def a_cell(seed: int) -> VanillaCell:
    return VanillaCell(normal(seed, 3, 2), normal(seed + 1, 3, 3), normal(seed + 2, 3))


@pytest.mark.parametrize("optimizer", [optim.SGD(0.1, 0.9), optim.Adam(0.1), optim.AdamW(0.1)])
def test_a_step_leaves_the_old_parameters_and_the_old_state_as_they_were(optimizer):
    cell, d_cell = a_cell(0), a_cell(1)
    start = optimizer.initial(cell)
    assert start.steps == 0
    first, state = optimizer.step(cell, d_cell, start)
    again, _ = optimizer.step(cell, d_cell, start)
    np.testing.assert_array_equal(first.W_hh, again.W_hh)
    np.testing.assert_array_equal(cell.W_hh, a_cell(0).W_hh)
    assert all(not slot.W_hh.any() for slot in start.slots.values())
    assert set(state.slots) == set(optimizer.slots)


def test_gradients_are_found_by_name_in_whatever_order_they_come():
    parameters = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = optim.SGD(1.0)
    new, _ = optimizer.step(parameters, {"b": np.ones(2), "a": np.zeros(2)}, optimizer.initial(parameters))
    np.testing.assert_array_equal(new["a"], [0, 0])
    np.testing.assert_array_equal(new["b"], [-1, -1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_optimiser_keeps_the_dtype(dtype):
    cell, d_cell = (map_arrays(lambda x: x.astype(dtype), a_cell(i)) for i in range(2))
    for optimizer in (optim.SGD(0.1), optim.Adam(0.1, epsilon=1e-4), optim.AdamW(0.1, epsilon=1e-4)):
        new, state = optimizer.step(cell, d_cell, optimizer.initial(cell), 0.5)
        assert new.W_hh.dtype == new.b_h.dtype == dtype
        assert all(slot.W_hh.dtype == dtype for slot in state.slots.values())


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        ({"a": np.ones(2)}, ValueError, r"SGD.step: gradients has no array at gradients\['b'\]"),
        (
            {"a": np.ones(2), "b": np.ones(1), "c": np.ones(1)},
            ValueError,
            r"gradients has an array at gradients\['c'\], expected the form of parameters: .*\['a'\]",
        ),
        ({"a": np.ones(1), "b": np.ones(1)}, ValueError, r"gradients\['a'\] has shape \(1,\), expected"),
        ({"a": np.ones(2), "b": np.array([np.nan])}, ValueError, r"gradients\['b'\] holds NaN"),
        ({"a": np.ones(2, np.float32), "b": np.ones(1)}, TypeError, r"gradients\['a'\] has float32"),
        (
            {"a": np.ones(2), "b": "none"},
            TypeError,
            r"^SGD.step: gradients\['b'\] is a str, expected an array",
        ),
    ],
)
def test_gradients_of_another_form_are_refused(gradients, error, message):
    optimizer, parameters = optim.SGD(0.1), {"a": np.zeros(2), "b": np.zeros(1)}
    with pytest.raises(error, match=message):
        optimizer.step(parameters, gradients, optimizer.initial(parameters))


def test_parameters_without_an_array_a_strange_state_and_a_negative_factor_are_refused():
    with pytest.raises(ValueError, match=r"Adam.initial: parameters holds no array"):
        optim.Adam().initial({})
    x, sgd = np.ones(2), optim.SGD()
    with pytest.raises(ValueError, match=r"SGD.step: state has the slots \('m', 'v'\), expected \('v',\)"):
        sgd.step(x, x, optim.Adam().initial(x))
    with pytest.raises(ValueError, match=r"v has shape \(3,\), expected"):
        sgd.step(x, x, sgd.initial(np.ones(3)))
    with pytest.raises(ValueError, match=r"step: factor is -1, expected a finite number of at least 0"):
        sgd.step(x, x, sgd.initial(x), factor=-1)


# --- schedules --------------------------------------------------------------------------------


def factors_of_torch(make, steps: int) -> list[float]:
    """The learning rates of a scheduler of torch, for the base rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = make(optimizer), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR calls its own parts in a deprecated way
            scheduler.step()
    return factors


def test_the_constant_schedule_is_one():
    assert [optim.constant(s) for s in (0, 1, 10**6)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("steps", "final"), [(1, 0.0), (10, 0.0), (10, 0.25)])
def test_the_cosine_schedule_is_that_of_torch_and_then_stays(steps, final):
    schedule = optim.cosine(steps, final)
    expected = factors_of_torch(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps, eta_min=final), steps + 1
    )
    np.testing.assert_allclose([schedule(s) for s in range(steps + 1)], expected, atol=1e-15)
    assert schedule(0) == 1
    assert schedule(steps) == schedule(steps + 1) == schedule(100 * steps) == final


def test_exact_values_of_the_cosine_schedule():
    schedule = optim.cosine(4)
    values = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    np.testing.assert_allclose([schedule(s) for s in range(5)], values, atol=1e-16)


def test_the_step_schedule_is_that_of_torch():
    schedule = optim.step_decay(3, 0.5)
    assert [schedule(s) for s in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    expected = factors_of_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), 20)
    np.testing.assert_allclose([schedule(s) for s in range(20)], expected, rtol=1e-14)


def test_warming_up_is_a_line_and_then_the_other_schedule_from_its_beginning():
    schedule = optim.warm_up(4, optim.step_decay(2, 0.5))
    assert [schedule(s) for s in range(9)] == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.25]
    assert [optim.warm_up(1)(s) for s in range(3)] == [1, 1, 1]
    scheduler = torch.optim.lr_scheduler
    expected = factors_of_torch(
        lambda o: scheduler.SequentialLR(
            o,
            [scheduler.LinearLR(o, 0.2, total_iters=4), scheduler.CosineAnnealingLR(o, 10)],
            milestones=[5],
        ),
        15,
    )
    schedule = optim.warm_up(5, optim.cosine(10))
    np.testing.assert_allclose([schedule(s) for s in range(15)], expected, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optim.cosine(0), ValueError, "cosine: steps is 0"),
        (lambda: optim.cosine(5, -0.1), ValueError, "cosine: final is -0.1"),
        (lambda: optim.step_decay(2.0), TypeError, "step_decay: every is a float"),
        (lambda: optim.step_decay(2, 0.0), ValueError, "step_decay: factor is 0.0"),
        (lambda: optim.warm_up(0), ValueError, "warm_up: steps is 0"),
        (lambda: optim.warm_up(5, 0.5), TypeError, "warm_up: then is a float, expected a function"),
    ],
)
def test_a_schedule_refuses_arguments_out_of_range(call, error, message):
    with pytest.raises(error, match=message):
        call()
