"""Weight conversion, held to torch.nn, Keras 3 and ONNX Runtime running the converted weights."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import convert, gru, nn
from rnnlib.cell import arrays_of, map_arrays
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import TOLERANCE, as_torch, example, relative_error, seeds, sizes

# Keras reads its variables with an old form of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RECORDS = (VanillaCell, LSTMCell, GRUCell, ResetAfterGRUCell)
LAYOUTS = {
    "torch": (convert.to_torch, convert.from_torch),
    "keras": (convert.to_keras, convert.from_keras),
    "onnx": (convert.to_onnx, convert.from_onnx),
}
records = st.sampled_from(RECORDS)
layouts = st.sampled_from(list(LAYOUTS))
each_record = pytest.mark.parametrize("record", RECORDS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def random_cell(record, rng, I, H, dtype=np.float64):
    """A cell with random parameters."""
    shapes = {"W_xh": (H, I), "W_hh": (H, H), "W_x": (H, I), "W_h": (H, H)}
    arrays = {}
    for field in dataclasses.fields(record):
        if field.name.startswith("W"):
            arrays[field.name] = rng.normal(size=shapes.get(field.name, (H, H + I))).astype(dtype)
        elif field.name.startswith("b"):
            arrays[field.name] = rng.normal(size=H).astype(dtype)
    return record(**arrays)


def bits(x):
    """The bytes of an array: 0.0 and -0.0 differ, as do two NaN."""
    return np.ascontiguousarray(x).tobytes()


def assert_identical(actual, expected):
    assert type(actual) is type(expected)
    assert arrays_of(actual).keys() == arrays_of(expected).keys()
    for name, x in arrays_of(expected).items():
        y = arrays_of(actual)[name]
        assert y.dtype == x.dtype
        assert y.shape == x.shape
        assert bits(y) == bits(x), name


# --- the two equations --------------------------------------------------------------------------


@pytest.mark.equation("eq-conversion-opposite-gate")
@given(sizes("B", "I", "H"), seeds)
def test_the_opposite_gate_agrees_with_one_minus_the_gate(agree, n, seed):
    arguments = example("eq-gru-update", seed, n)
    W, b = convert.opposite_gate(arguments["W_z"], arguments["b_z"])
    t = as_torch(arguments)
    a = torch.nn.functional.linear(torch.cat([t["h_prev"], t["x_t"]], dim=1), t["W_z"], t["b_z"])
    z = gru.update_gate(arguments["x_t"], arguments["h_prev"], W, b)
    agree(convert.opposite_gate, "1 - torch.special.expit", z, 1 - torch.special.expit(a))
    back = convert.opposite_gate(W, b)
    assert bits(back[0]) == bits(arguments["W_z"])
    assert bits(back[1]) == bits(arguments["b_z"])


@pytest.mark.equation("eq-conversion-bias")
@given(sizes("B", "I", "H"), seeds)
def test_the_sum_of_biases_acts_as_both(agree, n, seed):
    torch.manual_seed(seed)
    reference = torch.nn.RNNCell(n["I"], n["H"], dtype=torch.float64)
    x, h = (torch.randn(n["B"], n[k], dtype=torch.float64) for k in ("I", "H"))
    expected = reference(x, h)
    with torch.no_grad():
        merged = convert.sum_of_biases(reference.bias_ih.detach(), reference.bias_hh.detach())
        reference.bias_ih.copy_(merged)
        reference.bias_hh.zero_()
    agree(convert.sum_of_biases, "torch.nn.RNNCell", reference(x, h), expected)


# --- there and back -----------------------------------------------------------------------------


@given(records, layouts, sizes("I", "H"), st.sampled_from([np.float16, np.float32, np.float64]), seeds)
def test_a_record_comes_back_bit_for_bit(record, layout, n, dtype, seed):
    to, back = LAYOUTS[layout]
    cell = random_cell(record, np.random.default_rng(seed), n["I"], n["H"], dtype)
    assert_identical(back(to(cell), record), cell)
    tensors = map_arrays(torch.tensor, cell)
    assert_identical(map_arrays(lambda x: x.numpy(), back(to(tensors), record)), cell)


@each_record
@each_layout
def test_zeros_come_back_with_their_sign(record, layout):
    to, back = LAYOUTS[layout]
    cell = map_arrays(np.zeros_like, random_cell(record, np.random.default_rng(0), 2, 3))
    assert_identical(back(to(cell), record), cell)
    negative = map_arrays(lambda x: -x, cell)
    assert_identical(back(to(negative), record), negative)


@given(records, layouts, sizes("I", "H"), seeds)
def test_numpy_and_torch_give_the_same_layout(record, layout, n, seed):
    to, _ = LAYOUTS[layout]
    cell = random_cell(record, np.random.default_rng(seed), n["I"], n["H"], np.float32)
    arrays, tensors = to(cell), to(map_arrays(torch.tensor, cell))
    assert list(arrays) == list(tensors)
    for key, x in arrays.items():
        assert tensors[key].dtype == torch.float32
        assert bits(tensors[key].numpy()) == bits(x)


@each_layout
@pytest.mark.parametrize("record", [VanillaCell, LSTMCell, GRUCell])
def test_a_layout_with_one_bias_at_work_comes_back_equal(record, layout):
    to, back = LAYOUTS[layout]
    weights = to(random_cell(record, np.random.default_rng(1), 2, 3))
    again = to(back(weights, record))
    for key, x in weights.items():
        assert bits(again[key]) == bits(x), key


@each_layout
def test_both_biases_of_a_candidate_that_resets_after_are_kept(layout):
    to, back = LAYOUTS[layout]
    cell = random_cell(ResetAfterGRUCell, np.random.default_rng(1), 2, 3)
    moved = dataclasses.replace(cell, b_x=cell.b_x + cell.b_h, b_h=0 * cell.b_h)
    returned = back(to(cell), ResetAfterGRUCell)
    assert not np.array_equal(returned.b_x, moved.b_x)
    assert np.array_equal(returned.b_h, cell.b_h)


@each_record
@each_layout
def test_nothing_is_shared_with_what_was_given(record, layout):
    to, back = LAYOUTS[layout]
    cell = random_cell(record, np.random.default_rng(0), 2, 3)
    weights = to(cell)
    returned = back(weights, record)
    for x in weights.values():
        for y in (*arrays_of(cell).values(), *arrays_of(returned).values()):
            assert not np.shares_memory(x, y)


@each_record
@each_layout
def test_device_is_kept_and_gradients_flow(record, layout):
    to, back = LAYOUTS[layout]
    cell = map_arrays(torch.tensor, random_cell(record, np.random.default_rng(0), 2, 3))
    meta = map_arrays(lambda x: x.to("meta"), cell)
    assert all(x.is_meta for x in to(meta).values())
    assert all(x.is_meta for x in arrays_of(back(to(meta), record)).values())

    leaves = map_arrays(lambda x: x.clone().requires_grad_(), cell)
    total = sum(x.sum() * k for k, x in enumerate(arrays_of(back(to(leaves), record)).values(), start=1))
    gradients = torch.autograd.grad(total, list(arrays_of(leaves).values()))
    for k, d in enumerate(gradients, start=1):
        assert torch.equal(d, torch.full_like(d, k))


# --- torch.nn -----------------------------------------------------------------------------------


def torch_module(record, I, H, **options):
    """A module of torch.nn, or of rnnlib.nn for the GRU that torch.nn has not."""
    if record is GRUCell:
        return nn.GRU(I, H, dtype=torch.float64, reset_after=False, **options)
    name = {VanillaCell: "RNN", LSTMCell: "LSTM", ResetAfterGRUCell: "GRU"}[record]
    return getattr(torch.nn, name)(I, H, dtype=torch.float64, **options)


def hold(agree, function, hs, module, xs):
    """States from the equations against a module; one that is ours is not for the record."""
    expected = module(torch.tensor(xs))[0]
    if isinstance(module, nn.GRU):
        assert relative_error(hs, expected) <= TOLERANCE["float64"]
    else:
        agree(function, f"torch.nn.{type(module).__name__}", hs, expected)


def run_both_ways(forward, backward, xs):
    """The states of a bidirectional layer, (T, B, 2H), from the equations."""
    there, back = unroll(forward, xs).hs, unroll(backward, xs[::-1].copy()).hs[::-1]
    return np.concatenate([there, back], axis=2)


@each_record
@given(sizes("I", "H", "T", "B"), seeds)
def test_to_torch_agrees_with_torch_nn(agree, record, n, seed):
    rng = np.random.default_rng(seed)
    H = n["H"]
    layers = [[random_cell(record, rng, I, H) for _ in range(2)] for I in (n["I"], 2 * H)]
    state_dict = {}
    for layer, pair in enumerate(layers):
        for reverse, cell in enumerate(pair):
            state_dict |= convert.to_torch(map_arrays(torch.tensor, cell), layer, reverse=bool(reverse))
    module = torch_module(record, n["I"], H, num_layers=2, bidirectional=True)
    module.load_state_dict(state_dict)

    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    hs = xs
    for forward, backward in layers:
        hs = run_both_ways(forward, backward, hs)
    hold(agree, convert.to_torch, hs, module, xs)


@each_record
@given(sizes("I", "H", "T", "B"), st.booleans(), seeds)
def test_from_torch_agrees_with_torch_nn(agree, record, n, bias, seed):
    torch.manual_seed(seed)
    module = torch_module(record, n["I"], n["H"], num_layers=2, bidirectional=True, bias=bias)
    xs = np.random.default_rng(seed).normal(size=(n["T"], n["B"], n["I"]))
    state_dict = {k: v.numpy() for k, v in module.state_dict().items()}
    hs = xs
    for layer in range(2):
        pair = [convert.from_torch(state_dict, record, layer, reverse) for reverse in (False, True)]
        hs = run_both_ways(*pair, hs)
    hold(agree, convert.from_torch, hs, module, xs)


@pytest.mark.parametrize(
    ("record", "name"), [(VanillaCell, "RNNCell"), (LSTMCell, "LSTMCell"), (ResetAfterGRUCell, "GRUCell")]
)
def test_cells_of_torch_nn_convert_both_ways(agree, record, name):
    rng = np.random.default_rng(0)
    reference = getattr(torch.nn, name)(2, 3, dtype=torch.float64)
    x, h = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    state = (h, rng.normal(size=(4, 3))) if record is LSTMCell else (h,)
    hx = tuple(torch.tensor(s) for s in state)
    for cell in (
        convert.from_torch({k: v.numpy() for k, v in reference.state_dict().items()}, record, layer=None),
        random_cell(record, rng, 2, 3),
    ):
        weights = convert.to_torch(cell, layer=None)
        assert list(weights) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        before = reference(torch.tensor(x), hx if len(hx) == 2 else hx[0])
        reference.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
        expected = reference(torch.tensor(x), hx if len(hx) == 2 else hx[0])
        actual, _ = cell.step(x, state)
        agree(
            convert.to_torch,
            f"torch.nn.{name}",
            actual,
            expected if isinstance(expected, tuple) else (expected,),
        )
    assert not torch.equal(before[0], expected[0])


def test_the_activation_of_a_vanilla_cell_is_the_callers_to_say(agree):
    rng = np.random.default_rng(0)
    rnn = torch.nn.RNN(2, 3, nonlinearity="relu", dtype=torch.float64)
    xs = rng.normal(size=(5, 4, 2))
    state_dict = {k: v.numpy() for k, v in rnn.state_dict().items()}
    cell = convert.from_torch(state_dict, VanillaCell, activation="relu")
    hold(agree, convert.from_torch, unroll(cell, xs).hs, rnn, xs)
    for _, back in LAYOUTS.values():
        with pytest.raises(ValueError, match="activation is 'relu', but a LSTMCell has none to choose"):
            back({}, LSTMCell, activation="relu")
    assert convert.from_torch(state_dict, VanillaCell).activation == "tanh"
    assert convert.from_keras(convert.to_keras(cell), VanillaCell, activation="relu").activation == "relu"
    assert (
        convert.from_onnx(convert.to_onnx(cell), VanillaCell, activation="logistic").activation == "logistic"
    )
    with pytest.raises(ValueError, match=r"cell.activation is 'logistic', expected one of 'tanh', 'relu'"):
        convert.to_torch(dataclasses.replace(cell, activation="logistic"))
    with pytest.raises(ValueError, match="activation is 'softsign', expected one of"):
        convert.from_torch(state_dict, VanillaCell, activation="softsign")


# --- Keras --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    """Keras 3 in double precision on JAX."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    jax = pytest.importorskip("jax")
    keras = pytest.importorskip("keras")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield keras
    jax.config.update("jax_enable_x64", before)


def keras_layer(keras, record, H, **options):
    """The Keras layer for a type of cell."""
    jax = pytest.importorskip("jax")
    # Keras' own tanh rounds to float32.
    options |= {"return_sequences": True, "dtype": "float64", "activation": jax.numpy.tanh}
    # The weights are set in each test. Those that Keras would draw JAX would compile for every shape.
    options |= {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    if record is VanillaCell:
        return keras.layers.SimpleRNN(H, **options)
    if record is LSTMCell:
        return keras.layers.LSTM(H, **options)
    return keras.layers.GRU(H, reset_after=record is ResetAfterGRUCell, **options)


@each_record
def test_to_keras_agrees_with_keras(agree, keras, record):
    rng = np.random.default_rng(0)
    for I, H in ((1, 1), (3, 2), (2, 4)):
        cell = random_cell(record, rng, I, H)
        xs = rng.normal(size=(5, 3, I))
        layer = keras_layer(keras, record, H)
        layer.build((3, 5, I))
        layer.set_weights(list(convert.to_keras(cell).values()))
        expected = np.asarray(layer(xs.transpose(1, 0, 2))).transpose(1, 0, 2)
        agree(convert.to_keras, f"keras.layers.{type(layer).__name__}", unroll(cell, xs).hs, expected)


@each_record
@pytest.mark.parametrize("use_bias", [True, False])
def test_from_keras_agrees_with_keras(agree, keras, record, use_bias):
    rng = np.random.default_rng(1)
    for I, H in ((1, 1), (3, 2), (2, 4)):
        layer = keras_layer(keras, record, H, use_bias=use_bias)
        layer.build((3, 5, I))
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
        weights = dict(zip(("kernel", "recurrent_kernel", "bias"), layer.get_weights(), strict=False))
        assert list(weights) == [w.name for w in layer.weights[: 2 + use_bias]]
        xs = rng.normal(size=(5, 3, I))
        expected = np.asarray(layer(xs.transpose(1, 0, 2))).transpose(1, 0, 2)
        cell = convert.from_keras(weights, record)
        agree(convert.from_keras, f"keras.layers.{type(layer).__name__}", unroll(cell, xs).hs, expected)


def test_a_gru_moves_from_keras_to_torch(agree, keras):
    rng = np.random.default_rng(2)
    xs = rng.normal(size=(5, 3, 2))
    for record in (GRUCell, ResetAfterGRUCell):
        layer = keras_layer(keras, record, 4)
        layer.build((3, 5, 2))
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
        weights = dict(zip(("kernel", "recurrent_kernel", "bias"), layer.get_weights(), strict=True))
        module = nn.GRU(2, 4, dtype=torch.float64, reset_after=record is ResetAfterGRUCell)
        state_dict = convert.to_torch(convert.from_keras(weights, record))
        module.load_state_dict({k: torch.tensor(v) for k, v in state_dict.items()})
        expected = np.asarray(layer(xs.transpose(1, 0, 2))).transpose(1, 0, 2)
        agree(
            module.layer.forward,
            f"keras.layers.{type(layer).__name__}",
            module(torch.tensor(xs))[0],
            expected,
        )


# --- ONNX ---------------------------------------------------------------------------------------


def run_onnx(record, weights, xs):
    """ONNX Runtime's operator for a type of cell on (T, B, I), float32: (T, B, D · H)."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    D, _, H = weights["R"].shape
    more = {"linear_before_reset": int(record is ResetAfterGRUCell)} if "GRU" in record.__name__ else {}
    node = onnx.helper.make_node(
        {VanillaCell: "RNN", LSTMCell: "LSTM"}.get(record, "GRU"),
        ["X", *weights],
        ["Y"],
        hidden_size=H,
        direction="bidirectional" if D == 2 else "forward",
        **more,
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [value("X", 1, list(xs.shape))],
        [value("Y", 1, None)],
        [onnx.numpy_helper.from_array(w, k) for k, w in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (Y,) = session.run(None, {"X": xs})  # (T, D, B, H)
    return np.concatenate(list(Y.transpose(1, 0, 2, 3)), axis=2)


@each_record
@pytest.mark.parametrize("both_ways", [False, True])
def test_to_onnx_agrees_with_onnx_runtime(agree, record, both_ways):
    rng = np.random.default_rng(0)
    for I, H in ((1, 1), (3, 2), (2, 4)):
        cells = [random_cell(record, rng, I, H, np.float32) for _ in range(1 + both_ways)]
        xs = rng.normal(size=(5, 3, I)).astype(np.float32)
        hs = run_both_ways(*cells, xs) if both_ways else unroll(cells[0], xs).hs
        expected = run_onnx(record, convert.to_onnx(*cells), xs)
        agree(convert.to_onnx, "onnxruntime", hs, expected, dtype="float32")


@each_record
@pytest.mark.parametrize("bias", [True, False])
def test_from_onnx_agrees_with_onnx_runtime(agree, record, bias):
    rng = np.random.default_rng(1)
    n = {VanillaCell: 1, LSTMCell: 4}.get(record, 3)
    for I, H in ((1, 1), (3, 2), (2, 4)):
        shapes = {"W": (2, n * H, I), "R": (2, n * H, H), "B": (2, 2 * n * H)}
        weights = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items() if bias or k != "B"}
        xs = rng.normal(size=(5, 3, I)).astype(np.float32)
        pair = [convert.from_onnx(weights, record, direction) for direction in (0, 1)]
        expected = run_onnx(record, weights, xs)
        agree(
            convert.from_onnx,
            "onnxruntime",
            run_both_ways(*pair, xs),
            expected,
            dtype="float32",
        )


# --- what is refused ----------------------------------------------------------------------------


def lstm_state_dict(**changes):
    weights = convert.to_torch(random_cell(LSTMCell, np.random.default_rng(0), 2, 3)) | changes
    return {key: x for key, x in weights.items() if x is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weight_hh_l0": None},
            r"weight_hh_l0 is missing, expected shape \(4H, H\); came: weight_ih_l0, bias",
        ),
        ({"bias_hh_l0": None}, r"bias_hh_l0 is missing, expected shape \(4H\)"),
        (
            {"weight_hr_l0": np.ones((1, 3))},
            r"weight_hr_l0 with shape \(1, 3\) has no place here, expected weight_ih",
        ),
        ({"weight_ih": np.ones((12, 2))}, r"weight_ih with shape \(12, 2\) has no place here"),
        (
            {"weight_ih_l0": np.ones((9, 2))},
            r"weight_ih_l0 has shape \(9, 2\), expected \(4H, I\) = \(12, 2\)",
        ),
        (
            {"weight_hh_l0": np.ones((12, 4))},
            r"weight_ih_l0 has shape \(12, 2\), expected \(4H, I\) = \(16, 2\)",
        ),
        (
            {"bias_ih_l0": np.ones(3)},
            r"bias_ih_l0 has shape \(3,\), expected \(4H\) = \(12,\) with H = 3 set by",
        ),
        ({"bias_ih_l0": np.full(12, np.nan)}, "bias_ih_l0 holds NaN"),
        ({"bias": "yes"}, "bias with shape of a str has no place here"),
    ],
)
def test_a_state_dict_that_does_not_fit_says_which_key(changes, message):
    with pytest.raises(ValueError, match=f"from_torch: {message}"):
        convert.from_torch(lstm_state_dict(**changes), LSTMCell)


def test_layers_and_directions_that_are_not_there_are_missing():
    with pytest.raises(ValueError, match=r"weight_ih_l1 is missing, expected shape \(4H, I\)"):
        convert.from_torch(lstm_state_dict(), LSTMCell, layer=1)
    with pytest.raises(ValueError, match=r"weight_ih_l0_reverse is missing, expected shape \(4H, I\)"):
        convert.from_torch(lstm_state_dict(), LSTMCell, reverse=True)
    with pytest.raises(
        ValueError, match=r"weight_ih_l0 with shape \(12, 2\) has no place here, expected weight_ih \("
    ):
        convert.from_torch(lstm_state_dict(), LSTMCell, layer=None)
    for call in (convert.to_torch, convert.from_torch):
        first = random_cell(LSTMCell, np.random.default_rng(0), 2, 3)
        arguments = (first,) if call is convert.to_torch else ({}, LSTMCell)
        with pytest.raises(
            ValueError, match=r"reverse is True, but a cell \(layer is None\) has one direction"
        ):
            call(*arguments, layer=None, reverse=True)
    with pytest.raises(ValueError, match="direction is 1, expected one of 0"):
        convert.from_onnx(convert.to_onnx(first), LSTMCell, direction=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": None}, r"kernel is missing, expected shape \(I, 3H\); came: recurrent_kernel, bias"),
        ({"gamma": np.ones(2)}, r"gamma with shape \(2,\) has no place here, expected kernel \(I, 3H\)"),
        ({"kernel": np.ones((9, 2))}, r"kernel has shape \(9, 2\), expected \(I, 3H\) = \(9, 9\)"),
        ({"bias": np.ones(9)}, r"bias has shape \(9,\), expected 2 dimensions \(2, 3H\)"),
        ({"bias": np.ones((3, 9))}, r"bias has shape \(3, 9\), expected \(2, 3H\) = \(2, 9\)"),
    ],
)
def test_keras_weights_that_do_not_fit_say_which_key(changes, message):
    weights = convert.to_keras(random_cell(ResetAfterGRUCell, np.random.default_rng(0), 2, 3)) | changes
    weights = {key: x for key, x in weights.items() if x is not None}
    with pytest.raises(ValueError, match=f"from_keras: {message}"):
        convert.from_keras(weights, ResetAfterGRUCell)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": None}, r"R is missing, expected shape \(D, 4H, H\); came: W, B"),
        ({"P": np.ones((1, 9))}, r"P with shape \(1, 9\) has no place here, expected W \(D, 4H, I\)"),
        ({"W": np.ones((12, 2))}, r"W has shape \(12, 2\), expected 3 dimensions \(D, 4H, I\)"),
        ({"B": np.ones((1, 12))}, r"B has shape \(1, 12\), expected \(D, 8H\) = \(1, 24\)"),
        ({"R": np.ones((2, 12, 3))}, r"R has shape \(2, 12, 3\), expected \(D, 4H, H\) = \(1, 12, 3\)"),
    ],
)
def test_onnx_weights_that_do_not_fit_say_which_key(changes, message):
    weights = convert.to_onnx(random_cell(LSTMCell, np.random.default_rng(0), 2, 3)) | changes
    weights = {key: x for key, x in weights.items() if x is not None}
    with pytest.raises(ValueError, match=f"from_onnx: {message}"):
        convert.from_onnx(weights, LSTMCell)


@each_layout
def test_what_is_no_cell_and_no_mapping_is_refused(layout):
    to, back = LAYOUTS[layout]
    known = "expected one of VanillaCell, LSTMCell, GRUCell, ResetAfterGRUCell"
    with pytest.raises(TypeError, match=f"to_{layout}: the cell is a dict, {known}"):
        to({})
    with pytest.raises(TypeError, match=f"from_{layout}: the cell is a LSTM, {known}"):
        back({}, torch.nn.LSTM)
    with pytest.raises(TypeError, match=f"from_{layout}: the cell is a lstm, {known}"):
        back({}, "lstm")
    with pytest.raises(TypeError, match=f"from_{layout}: weights is a list, expected a mapping of arrays"):
        back([np.ones(3)], LSTMCell)
    with pytest.raises(ValueError, match=f"from_{layout}: .* is missing, expected shape .*; came: nothing"):
        back({}, LSTMCell)
    weights = to(random_cell(LSTMCell, np.random.default_rng(0), 2, 3))
    first = next(iter(weights))
    with pytest.raises(TypeError, match=f"{first} is a list"):
        back(weights | {first: weights[first].tolist()}, LSTMCell)
    with pytest.raises(TypeError, match=f"{first} has dtype float64 but .* has float32"):
        back({k: x if k == first else x.astype(np.float32) for k, x in weights.items()}, LSTMCell)
    with pytest.raises(TypeError, match=f"{first} has dtype int64, expected a real floating-point dtype"):
        back(weights | {first: weights[first].astype(np.int64)}, LSTMCell)
    with pytest.raises(
        TypeError, match=f"{first} has dtype complex128, expected a real floating-point dtype"
    ):
        back(weights | {first: weights[first].astype(np.complex128)}, LSTMCell)


def test_two_directions_of_an_onnx_operator_have_to_fit():
    rng = np.random.default_rng(0)
    cell = random_cell(GRUCell, rng, 2, 3)
    with pytest.raises(TypeError, match="backward is a ResetAfterGRUCell, expected a GRUCell"):
        convert.to_onnx(cell, random_cell(ResetAfterGRUCell, rng, 2, 3))
    with pytest.raises(ValueError, match=r"W of backward has shape \(9, 4\), expected"):
        convert.to_onnx(cell, random_cell(GRUCell, rng, 4, 3))
    with pytest.raises(TypeError, match="W of cell has dtype float64 but W of backward has float32"):
        convert.to_onnx(cell, random_cell(GRUCell, rng, 2, 3, np.float32))


def test_converting_arrays_does_not_import_torch():
    script = (
        "import sys, numpy as np; from rnnlib import convert; from rnnlib.vanilla import VanillaCell; "
        "cell = VanillaCell(np.ones((3, 2)), np.ones((3, 3)), np.ones(3)); "
        "convert.from_torch(convert.to_torch(cell), VanillaCell); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
