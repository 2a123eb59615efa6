"""The torch modules, held to torch.nn, ONNX Runtime, torch's autograd and finite differences."""

from __future__ import annotations

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from rnnlib import convert, nn
from rnnlib.engine.layers import gru_reset_before_layer
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.lstm import LSTMCell
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell
from tests.support import TOLERANCE, relative_error, seeds, sizes, to_numpy

# torch says once that its projections run without oneDNN; ours say nothing.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

FAMILIES = {
    "RNN tanh": ("RNN", {}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": 2}),
    "GRU": ("GRU", {}),
}
FORMS = ("batch", "packed", "packed in any order", "one sequence")
OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "batch_first", "bias"), values, strict=True))
    for values in itertools.product((1, 2, 3), (False, True), (False, True), (False, True))
]

each_family = pytest.mark.parametrize("family", FAMILIES)
families = st.sampled_from(list(FAMILIES))
forms = st.sampled_from(FORMS)


@pytest.fixture(autouse=True)
def seeded():
    """The same parameters on every run."""
    torch.manual_seed(0)


def twins(family, I, H, dtype=torch.float64, device="cpu", **options):
    """Our module and torch's, with the same parameters."""
    name, fixed = FAMILIES[family]
    ours = getattr(nn, name)(I, H, dtype=dtype, device=device, **fixed, **options)
    reference = getattr(torch.nn, name)(I, H, dtype=dtype, device=device, **fixed, **options)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def random_input(generator, module, form, T, B, dtype=torch.float64, device="cpu"):
    """An input in one of the FORMS, with the tensor in it that a gradient can be taken for."""

    def draw(*shape):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(device=device, dtype=dtype).requires_grad_()

    I = module.input_size
    if form == "one sequence":
        x = draw(T, I)
        return x, x
    if form == "batch":
        x = draw(B, T, I) if module.batch_first else draw(T, B, I)
        return x, x
    lengths = torch.randint(1, T + 1, (B,), generator=generator).tolist()
    lengths[0] = T
    if form == "packed":
        lengths.sort(reverse=True)
    else:
        lengths.sort()  # so that the order has to change where lengths differ
    padded = draw(B, T, I)
    sequences = [padded[b, :n] for b, n in enumerate(lengths)]
    return pack_sequence(sequences, enforce_sorted=form == "packed"), padded


def random_state(generator, module, form, B, dtype=torch.float64, device="cpu"):
    """Initial states in the form that the module expects beside an input of that form."""
    LD = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size]
    if module.mode == "LSTM":
        sizes.append(module.hidden_size)
    states = []
    for size in sizes:
        shape = (LD, size) if form == "one sequence" else (LD, B, size)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        states.append(x.to(device=device, dtype=dtype).requires_grad_())
    return states[0] if len(states) == 1 else tuple(states)


def flat(result):
    """The tensors of a result, in order."""
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [x for part in result for x in flat(part)]


def results_and_gradients(module, input, hx, leaves, seed):
    """What a module answers, and every gradient of a random sum of the answers."""
    results = flat(module(input, hx))
    generator = torch.Generator().manual_seed(seed)
    upstream = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device=x.device, dtype=x.dtype)
        for x in results
    ]
    sources = [*leaves, *module.parameters()]
    # A packed input is a small graph of its own, which several modules go back through.
    return results, torch.autograd.grad(results, sources, upstream, retain_graph=True)


def backward_of(module):
    """The hand-derived function that goes back through a layer of the module."""
    function = module.layer.backward
    return getattr(function, "func", function)


def assert_close(actual, expected, tolerance=TOLERANCE["float64"]):
    """Agreement with what is ours as well, and so is not for the record."""
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) <= tolerance


def assert_twins_agree(agree, reference_name, ours, reference, form, T, B, seed, with_state=True, **where):
    """Results, their form and all gradients of a module against its twin in torch.nn."""
    generator = torch.Generator().manual_seed(seed)
    input, leaf = random_input(generator, ours, form, T, B, **where)
    hx = random_state(generator, ours, form, B, **where) if with_state else None
    leaves = [leaf, *(flat(hx) if with_state else [])]
    actual, d_actual = results_and_gradients(ours, input, hx, leaves, seed)
    expected, d_expected = results_and_gradients(reference, input, hx, leaves, seed)
    dtype = str(ours.weight_ih_l0.dtype).removeprefix("torch.")
    agree(type(ours), reference_name, actual, expected, dtype=dtype)
    agree(backward_of(ours), reference_name, d_actual, d_expected, dtype=dtype)
    assert [x.dtype for x in actual] == [x.dtype for x in expected]
    assert [x.device for x in actual] == [x.device for x in expected]


# --- the same answers and gradients as torch.nn -------------------------------------------------


@each_family
@pytest.mark.parametrize("form", FORMS)
def test_every_combination_of_options_agrees_with_torch_nn(agree, family, form):
    for seed, options in enumerate(OPTIONS):
        ours, reference = twins(family, 3, 4, **options)
        assert_twins_agree(
            agree,
            f"torch.nn.{type(ours).__name__}",
            ours,
            reference,
            form,
            4,
            3,
            seed,
            with_state=seed % 2 == 0,
        )


@given(families, forms, st.sampled_from(OPTIONS), sizes("I", "H", "T", "B"), st.booleans(), seeds)
def test_any_size_agrees_with_torch_nn(agree, family, form, options, n, with_state, seed):
    torch.manual_seed(seed)
    ours, reference = twins(family, n["I"], n["H"] + 2, **options)  # a projection has 2 units, H has more
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, form, n["T"], n["B"], seed, with_state)


@given(
    st.sampled_from(["RNN tanh", "RNN relu", "LSTM", "GRU"]),
    st.sampled_from(OPTIONS),
    st.sampled_from(["I", "H", "T", "B"]),
    seeds,
)
def test_sizes_of_one_agree_with_torch_nn(agree, family, options, one, seed):
    n = {"I": 3, "H": 3, "T": 3, "B": 3} | {one: 1}
    torch.manual_seed(seed)
    ours, reference = twins(family, n["I"], n["H"], **options)
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, "batch", n["T"], n["B"], seed)


@given(families, forms, st.sampled_from(OPTIONS), seeds)
def test_single_precision_agrees_with_torch_nn(agree, family, form, options, seed):
    torch.manual_seed(seed)
    ours, reference = twins(family, 3, 4, dtype=torch.float32, **options)
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, form, 5, 3, seed, dtype=torch.float32)


@each_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_agrees_with_torch_nn(agree, family, dtype):
    ours, reference = twins(family, 3, 4, dtype=dtype, num_layers=2, bidirectional=True)
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, "batch", 5, 3, 0, dtype=dtype)


@each_family
def test_a_long_sequence_agrees_with_torch_nn(agree, family):
    ours, reference = twins(family, 2, 3)
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, "batch", 1500, 2, 0)


@each_family
def test_saturated_gates_agree_with_torch_nn(agree, family):
    ours, reference = twins(family, 3, 4, bias=False)
    for module in (ours, reference):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.1 if family == "RNN relu" else 1e4)
    name = f"torch.nn.{type(ours).__name__}"
    assert_twins_agree(agree, name, ours, reference, "batch", 5, 3, 0)


@pytest.mark.parametrize("options", [{"bias": True}, {"bias": False}])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize(
    ("name", "more"),
    [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("LSTMCell", {}), ("GRUCell", {})],
)
def test_cells_agree_with_torch_nn(agree, name, more, options, batched, with_state):
    ours = getattr(nn, name)(3, 4, dtype=torch.float64, **options, **more)
    reference = getattr(torch.nn, name)(3, 4, dtype=torch.float64, **options, **more)
    reference.load_state_dict(ours.state_dict())
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(3,), (4,), (4,)] if not batched else [(2, 3), (2, 4), (2, 4)]
        x, h, C = (
            torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
            for shape in shapes
        )
        hx = (h, C) if name == "LSTMCell" else h
        leaves = [x, *(flat(hx) if with_state else [])]
        arguments = (x, hx if with_state else None, leaves, seed)
        actual, d_actual = results_and_gradients(ours, *arguments)
        expected, d_expected = results_and_gradients(reference, *arguments)
        agree(type(ours), f"torch.nn.{name}", actual, expected)
        agree(backward_of(ours), f"torch.nn.{name}", d_actual, d_expected)


@each_family
def test_inputs_that_are_not_contiguous_agree_with_torch_nn(agree, family):
    ours, reference = twins(family, 3, 4, num_layers=2)
    wide = torch.randn(4, 6, 10, dtype=torch.float64)
    for x in (wide[:, ::2, ::4], wide[..., :3].transpose(0, 1), wide[:1, :, :3].expand(5, 6, 3)):
        assert not x.is_contiguous()
        agree(type(ours), f"torch.nn.{type(ours).__name__}", flat(ours(x)), flat(reference(x)))


@each_family
def test_a_batch_of_none_has_answers_of_none(family):
    ours, reference = twins(family, 3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(5, 0, 3, dtype=torch.float64, requires_grad=True)
    actual, expected = flat(ours(x)), flat(reference(x))
    assert [tuple(a.shape) for a in actual] == [tuple(e.shape) for e in expected]
    actual[0].sum().backward()
    assert ours.weight_hh_l0.grad.abs().max() == 0


@each_family
def test_dropout_draws_what_torch_nn_draws(agree, family):
    for form, batch_first in itertools.product(FORMS, (False, True)):
        ours, reference = twins(family, 3, 5, num_layers=3, batch_first=batch_first, dropout=0.4)
        generator = torch.Generator().manual_seed(1)
        input, leaf = random_input(generator, ours, form, 6, 4)
        results = []
        for module in (ours, reference):
            torch.manual_seed(2)
            results.append(results_and_gradients(module, input, None, [leaf], 3))
        (actual, d_actual), (expected, d_expected) = results
        agree(type(ours), f"torch.nn.{type(ours).__name__}", actual, expected)
        agree(backward_of(ours), f"torch.nn.{type(ours).__name__}", d_actual, d_expected)
        ours.eval()
        undisturbed = flat(ours(input))[0]
        assert not torch.equal(undisturbed, actual[0])
        assert torch.equal(undisturbed, flat(ours(input))[0])


def test_dropout_of_everything_leaves_the_biases_only():
    gru = nn.GRU(3, 4, num_layers=2, dropout=1.0)
    one, other = (gru(torch.randn(5, 2, 3))[0] for _ in range(2))
    assert torch.equal(one, other)


# --- the same parameters as torch.nn ------------------------------------------------------------


@each_family
def test_the_same_seed_gives_the_same_parameters_as_torch_nn(family):
    name, fixed = FAMILIES[family]
    for options in OPTIONS:
        modules = []
        for library in (nn, torch.nn):
            torch.manual_seed(7)
            modules.append(getattr(library, name)(3, 5, **fixed, **options))
        drawn_after = torch.rand(1)
        ours, reference = modules
        torch.manual_seed(7)
        getattr(nn, name)(3, 5, **fixed, **options)
        assert torch.equal(torch.rand(1), drawn_after)
        assert list(ours.state_dict()) == list(reference.state_dict())
        for key, value in reference.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
        assert repr(ours) == repr(reference)
        assert ours.mode == reference.mode
        for ours_of_layer, theirs_of_layer in zip(ours.all_weights, reference.all_weights, strict=True):
            for a, b in zip(ours_of_layer, theirs_of_layer, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNNCell", {"nonlinearity": "relu"}),
        ("RNNCell", {"bias": False}),
        ("LSTMCell", {}),
        ("LSTMCell", {"bias": False}),
        ("GRUCell", {}),
        ("GRUCell", {"bias": False}),
    ],
)
def test_the_same_seed_gives_the_same_cell_as_torch_nn(name, options):
    modules = []
    for library in (nn, torch.nn):
        torch.manual_seed(7)
        modules.append(getattr(library, name)(3, 5, **options))
    ours, reference = modules
    assert list(ours.state_dict()) == list(reference.state_dict())
    for key, value in reference.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert repr(ours) == repr(reference)


def test_positional_arguments_mean_what_they_mean_in_torch_nn():
    rnn = nn.RNN(3, 4, 2, "relu", False, True, 0.5, True, "meta", torch.float64)
    assert repr(rnn) == repr(torch.nn.RNN(3, 4, 2, "relu", False, True, 0.5, True))
    assert rnn.nonlinearity == "relu"
    lstm = nn.LSTM(3, 4, 2, False, True, 0.5, True, 2, "meta", torch.float64)
    assert repr(lstm) == repr(torch.nn.LSTM(3, 4, 2, False, True, 0.5, True, 2, "meta", torch.float64))
    gru = nn.GRU(3, 4, 2, False, True, 0.5, True, "meta", torch.float64)
    assert repr(gru) == repr(torch.nn.GRU(3, 4, 2, False, True, 0.5, True))
    for module in (rnn, lstm, gru):
        assert module.weight_hh_l1_reverse.is_meta
        assert module.weight_hh_l1_reverse.dtype == torch.float64
    assert repr(nn.GRU(3, 4, reset_after=False)) == "GRU(3, 4, reset_after=False)"
    assert repr(nn.GRUCell(3, 4, reset_after=False)) == "GRUCell(3, 4, reset_after=False)"


@each_family
def test_a_trained_torch_model_loads_and_answers_the_same_and_back(agree, family):
    ours, reference = twins(family, 3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    for trained, other in ((reference, ours), (ours, reference)):
        optimiser = torch.optim.Adam(trained.parameters(), lr=0.05)
        for _ in range(5):
            optimiser.zero_grad()
            flat(trained(x))[0].square().mean().backward()
            optimiser.step()
        before = flat(other(x))[0]
        other.load_state_dict(trained.state_dict())
        agree(type(ours), f"torch.nn.{type(ours).__name__}", flat(ours(x)), flat(reference(x)))
        assert not torch.allclose(before, flat(other(x))[0])


def test_a_state_dict_that_does_not_fit_says_where():
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_ih_l0: .*\[16, 5\].*\[16, 3\]"):
        nn.LSTM(3, 4).load_state_dict(nn.LSTM(5, 4).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*bias_ih_l0"):
        nn.GRU(3, 4).load_state_dict(nn.GRU(3, 4, bias=False).state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_ih_l0_reverse"):
        nn.RNN(3, 4).load_state_dict(nn.RNN(3, 4, bidirectional=True).state_dict())


# --- the same numbers as the equations ----------------------------------------------------------


def equation_cell(module, reverse=False):
    """The record of rnnlib with the parameters of a module of one layer."""
    if isinstance(module, nn.RNN):
        record, activation = VanillaCell, module.nonlinearity
    elif isinstance(module, nn.LSTM):
        record, activation = LSTMCell, None
    else:
        record, activation = (ResetAfterGRUCell if module.reset_after else GRUCell), None
    return convert.from_torch(module.state_dict(), record, reverse=reverse, activation=activation)


EQUATION_MODULES = {
    "RNN tanh": (nn.RNN, {}),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "GRU reset before": (nn.GRU, {"reset_after": False}),
}
equation_modules = st.sampled_from(list(EQUATION_MODULES))


@given(equation_modules, st.booleans(), sizes("I", "H", "T", "B"), seeds)
def test_a_layer_agrees_with_the_equations_step_by_step(agree, family, bias, n, seed):
    module_type, options = EQUATION_MODULES[family]
    torch.manual_seed(seed)
    module = module_type(n["I"], n["H"], bias=bias, bidirectional=True, dtype=torch.float64, **options)
    xs = torch.randn(n["T"], n["B"], n["I"], dtype=torch.float64)
    output, finals = module(xs)
    for direction, inputs in enumerate((xs, xs.flip(0))):
        trajectory = unroll(equation_cell(module, reverse=direction == 1), inputs)
        hs = trajectory.hs.flip(0) if direction else trajectory.hs
        H = n["H"]
        assert_close([output[..., direction * H : (direction + 1) * H]], [hs])
        states = [finals] if isinstance(finals, torch.Tensor) else finals
        assert_close([s[direction] for s in states], trajectory.final)


@given(equation_modules, sizes("I", "H", "T", "B"), seeds)
def test_a_layer_backward_agrees_with_the_equations_step_by_step(agree, family, n, seed):
    module_type, options = EQUATION_MODULES[family]
    torch.manual_seed(seed)
    module = module_type(n["I"], n["H"], dtype=torch.float64, **options)
    cell = equation_cell(module)
    xs = torch.randn(n["T"], n["B"], n["I"], dtype=torch.float64, requires_grad=True)
    initial = tuple(torch.randn(n["B"], n["H"], dtype=torch.float64) for _ in cell.state_names)
    trajectory = unroll(cell, xs.detach(), initial)
    d_hs = torch.randn_like(trajectory.hs)

    d_state = tuple(torch.zeros_like(s) for s in initial)
    d_xs = []
    for t in reversed(range(n["T"])):
        d_state = (d_state[0] + d_hs[t], *d_state[1:])
        d_x_t, d_state, _ = cell.step_backward(d_state, trajectory.caches[t])
        d_xs.append(d_x_t)

    hx = tuple(s[None].clone().requires_grad_() for s in initial)
    output, _ = module(xs, hx if len(hx) == 2 else hx[0])
    d_actual = torch.autograd.grad(output, [xs, *hx], d_hs)
    expected = [torch.stack(d_xs[::-1]), *(d[None] for d in d_state)]
    assert_close(d_actual, expected)


# --- the reset before the product ---------------------------------------------------------------


def gru_reset_before(xs, h, W_ih, W_hh, b_ih, b_hh):
    """The notes' GRU on torch's layout, written gate by gate for torch's autograd."""
    W_ir, W_iz, W_in = W_ih.chunk(3)
    W_hr, W_hz, W_hn = W_hh.chunk(3)
    b_ir, b_iz, b_in = b_ih.chunk(3)
    b_hr, b_hz, b_hn = b_hh.chunk(3)
    hs = []
    for x in xs:
        r = torch.special.expit(W_ir @ x.mT + W_hr @ h.mT + (b_ir + b_hr)[:, None]).mT
        keep = torch.special.expit(W_iz @ x.mT + W_hz @ h.mT + (b_iz + b_hz)[:, None]).mT
        n = torch.tanh(W_in @ x.mT + W_hn @ (r * h).mT + (b_in + b_hn)[:, None]).mT
        h = torch.lerp(n, h, keep)
        hs.append(h)
    return torch.stack(hs), h[None]


@given(sizes("I", "H", "T", "B"), seeds)
def test_reset_before_agrees_with_autograd(agree, n, seed):
    torch.manual_seed(seed)
    gru = nn.GRU(n["I"], n["H"], reset_after=False, dtype=torch.float64)
    xs = torch.randn(n["T"], n["B"], n["I"], dtype=torch.float64, requires_grad=True)
    h_0 = torch.randn(1, n["B"], n["H"], dtype=torch.float64, requires_grad=True)
    actual, d_actual = results_and_gradients(gru, xs, h_0, [xs, h_0], seed)

    def reference(xs, h_0):
        return gru_reset_before(xs, h_0[0], *gru.parameters())

    reference.parameters = gru.parameters
    expected, d_expected = results_and_gradients(reference, xs, h_0, [xs, h_0], seed)
    agree(gru_reset_before_layer, "torch", actual, expected)
    agree(backward_of(gru), "torch.autograd", d_actual, d_expected)

    cell = nn.GRUCell(n["I"], n["H"], reset_after=False, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(cell.parameters(), gru.parameters(), strict=True):
            ours.copy_(theirs)
    agree(gru_reset_before_layer, "torch", cell(xs[0], h_0[0]), expected[0][0])


def onnx_gru(module, x, h_0, linear_before_reset):
    """ONNX Runtime's GRU with the parameters of a module of one layer (float32)."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    record = ResetAfterGRUCell if linear_before_reset else GRUCell
    cells = [convert.from_torch(module.state_dict(), record, reverse=r) for r in (False, True)]
    weights = {k: to_numpy(v) for k, v in convert.to_onnx(*cells).items()}
    node = onnx.helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=module.hidden_size,
        direction="bidirectional",
        linear_before_reset=linear_before_reset,
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "gru",
        [value("X", 1, list(x.shape)), value("initial_h", 1, list(h_0.shape))],
        [value("Y", 1, None), value("Y_h", 1, None)],
        [onnx.numpy_helper.from_array(w, k) for k, w in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, Y_h = session.run(None, {"X": to_numpy(x), "initial_h": to_numpy(h_0)})  # (T, D, B, H), (D, B, H)
    T, D, B, H = Y.shape
    return Y.transpose(0, 2, 1, 3).reshape(T, B, D * H), Y_h


@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_agrees_with_onnx_runtime(agree, reset_after):
    gru = nn.GRU(3, 5, bidirectional=True, reset_after=reset_after)
    x, h_0 = torch.randn(6, 2, 3), torch.randn(2, 2, 5)
    expected = onnx_gru(gru, x, h_0, linear_before_reset=int(reset_after))
    agree(gru.layer.forward, "onnxruntime", flat(gru(x, h_0)), expected, dtype="float32")


def test_the_two_placements_of_the_reset_differ():
    after, before = nn.GRU(3, 5), nn.GRU(3, 5, reset_after=False)
    before.load_state_dict(after.state_dict())
    x = torch.randn(6, 2, 3)
    assert (after(x)[0] - before(x)[0]).abs().max() > 1e-3


# --- differentiation ----------------------------------------------------------------------------

SMALL = {
    "RNN tanh": (nn.RNN, {}),
    "LSTM": (nn.LSTM, {}),
    "LSTM projected": (nn.LSTM, {"proj_size": 1}),
    "GRU": (nn.GRU, {}),
    "GRU reset before": (nn.GRU, {"reset_after": False}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["batch", "packed in any order"])
@pytest.mark.parametrize("family", SMALL)
def test_first_and_second_derivatives_agree_with_finite_differences(family, form, bias):
    torch.manual_seed(3)
    module_type, options = SMALL[family]
    module = module_type(2, 2, num_layers=2, bidirectional=True, bias=bias, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    _, x = random_input(generator, module, "batch", 3, 2)
    hx = random_state(generator, module, form, 2)
    names = list(dict(module.named_parameters()))

    def call(x, *rest):
        states, parameters = rest[: len(flat(hx))], rest[len(flat(hx)) :]
        input = x if form == "batch" else pack_sequence([x[:2, 0], x[:, 1]], enforce_sorted=False)
        state = states if len(states) == 2 else states[0]
        parameters = dict(zip(names, parameters, strict=True))
        return tuple(flat(torch.func.functional_call(module, parameters, (input, state))))

    inputs = (x, *flat(hx), *(p.detach().clone().requires_grad_() for p in module.parameters()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("cell_type", "options"),
    [
        (nn.RNNCell, {}),
        (nn.LSTMCell, {}),
        (nn.GRUCell, {}),
        (nn.GRUCell, {"reset_after": False}),
    ],
)
def test_derivatives_of_cells_agree_with_finite_differences(cell_type, options):
    torch.manual_seed(3)
    cell = cell_type(2, 3, dtype=torch.float64, **options)
    shapes = [(2, 2), (2, 3), (2, 3)] if cell_type is nn.LSTMCell else [(2, 2), (2, 3)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def call(x, *hx):
        return tuple(flat(cell(x, hx if len(hx) == 2 else hx[0])))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@each_family
def test_second_derivatives_agree_with_torch_nn(agree, family):
    ours, reference = twins(family, 3, 4, num_layers=2, bidirectional=True)
    generator = torch.Generator().manual_seed(5)
    x, _ = random_input(generator, ours, "batch", 4, 3)
    hx = random_state(generator, ours, "batch", 3)
    penalties = []
    for module in (ours, reference):
        results = flat(module(x, hx))
        loss = sum(r.square().sum() for r in results)
        sources = [x, *flat(hx), *module.parameters()]
        first = torch.autograd.grad(loss, sources, create_graph=True)
        penalties.append(torch.autograd.grad(sum(g.square().sum() for g in first), sources))
    agree(backward_of(ours), f"torch.nn.{type(ours).__name__}", *penalties)


def test_the_third_derivative_agrees_with_torch_nn(agree):
    ours, reference = twins("LSTM", 1, 2)
    x = torch.randn(3, 1, 1, dtype=torch.float64, requires_grad=True)
    thirds = []
    for module in (ours, reference):
        d = module(x)[0].sum()
        for _ in range(3):
            (d,) = torch.autograd.grad(d.sum(), x, create_graph=True)
        thirds.append(d)
    agree(backward_of(ours), "torch.nn.LSTM", *thirds)


@pytest.mark.parametrize("family", EQUATION_MODULES)
def test_torch_func_gives_the_gradient_of_every_example(agree, family):
    module_type, options = EQUATION_MODULES[family]
    module = module_type(3, 4, bidirectional=True, dtype=torch.float64, **options)
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    xs = torch.randn(5, 6, 3, dtype=torch.float64)  # 5 examples of T = 6

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

    of_every_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, xs)
    for b, x in enumerate(xs):
        expected = torch.autograd.grad(loss(dict(module.named_parameters()), x), list(module.parameters()))
        actual = [of_every_example[name][b] for name in parameters]
        assert_close(actual, expected)


def test_only_what_needs_a_gradient_gets_one(agree):
    ours, reference = twins("GRU", 3, 4, num_layers=2)
    for module in (ours, reference):
        module.weight_hh_l0.requires_grad_(False)
        module.bias_ih_l1.requires_grad_(False)
        module(torch.ones(4, 2, 3, dtype=torch.float64))[0].square().sum().backward()
        assert module.weight_hh_l0.grad is None
        assert module.bias_ih_l1.grad is None
    agree(
        backward_of(ours),
        "torch.nn.GRU",
        [p.grad for p in ours.parameters() if p.grad is not None],
        [p.grad for p in reference.parameters() if p.grad is not None],
    )
    lstm = nn.LSTM(3, 4)
    lstm(torch.ones(4, 2, 3))[1][1].sum().backward()  # through c_n alone
    assert lstm.bias_ih_l0.grad.data_ptr() != lstm.bias_hh_l0.grad.data_ptr()


def test_a_result_changed_in_place_is_noticed():
    rnn = nn.RNN(3, 4)
    output, _ = rnn(torch.ones(4, 2, 3))
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@each_family
def test_nan_comes_out_where_torch_nn_lets_it_out(family):
    ours, reference = twins(family, 3, 4)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    x[2, 1, 0] = torch.nan
    for module_results in zip(
        *(results_and_gradients(m, x, None, [], 0) for m in (ours, reference)), strict=True
    ):
        for actual, expected in zip(*module_results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12, equal_nan=True)
    assert flat(ours(x))[0][2:, 1].isnan().all()


# --- modes, dtypes, devices, copies -------------------------------------------------------------


@each_family
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_answer_is_the_same_and_no_graph_is_kept(family, mode):
    ours, _ = twins(family, 3, 4, num_layers=2, bidirectional=True)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    expected = flat(ours(x))
    with mode():
        actual = flat(ours(x))
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
        assert a.grad_fn is None
        assert not a.requires_grad
        assert e.requires_grad


@each_family
def test_the_meta_device_gives_shapes(family):
    ours, reference = twins(family, 3, 4, device="meta", num_layers=2, bidirectional=True, batch_first=True)
    x = torch.empty(2, 5, 3, device="meta", dtype=torch.float64)
    actual, expected = flat(ours(x)), flat(reference(x))
    assert [(a.shape, a.dtype, a.device) for a in actual] == [(e.shape, e.dtype, e.device) for e in expected]
    actual[0].sum().backward()
    assert ours.weight_hh_l0.grad.is_meta


@each_family
def test_moving_a_module_moves_everything(family):
    name, fixed = FAMILIES[family]
    module = getattr(nn, name)(3, 4, num_layers=2, **fixed)
    for move, dtype in (
        (module.double, torch.float64),
        (module.half, torch.float16),
        (module.bfloat16, torch.bfloat16),
        (module.float, torch.float32),
    ):
        assert move() is module
        for x in flat(module(torch.ones(4, 2, 3, dtype=dtype))):
            assert x.dtype == dtype
    module.to("meta")
    assert all(x.is_meta for x in flat(module(torch.ones(4, 2, 3, device="meta"))))
    module.to_empty(device="cpu")
    module.reset_parameters()
    assert all(x.device.type == "cpu" for x in flat(module(torch.ones(4, 2, 3))))


@each_family
def test_copies_answer_the_same_and_are_independent(family):
    name, fixed = FAMILIES[family]
    module = getattr(nn, name)(3, 4, num_layers=2, **fixed)
    x = torch.randn(4, 2, 3)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    loaded = getattr(nn, name)(3, 4, num_layers=2, **fixed)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    expected = flat(module(x))[0]
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(flat(twin(x))[0], expected)
        assert repr(twin) == repr(module)
        with torch.no_grad():
            twin.weight_hh_l1.zero_()
        assert not torch.equal(flat(twin(x))[0], expected)
    assert torch.equal(flat(module(x))[0], expected)
    assert module.flatten_parameters() is None


@each_family
def test_parametrised_weights_agree_with_torch_nn(agree, family):
    ours, reference = twins(family, 3, 4)
    for module in (ours, reference):
        torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        with torch.no_grad():
            module.parametrizations.weight_hh_l0.original0.mul_(1.5)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    arguments = (x, None, [x], 0)
    for actual, expected in zip(
        results_and_gradients(ours, *arguments), results_and_gradients(reference, *arguments), strict=True
    ):
        agree(f"nn.{FAMILIES[family][0]}", f"torch.nn.{FAMILIES[family][0]}", actual, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler about itself
@pytest.mark.parametrize("family", ["LSTM", "GRU reset before"])
def test_a_compiled_module_is_one_graph_and_answers_the_same(agree, family):
    module_type, options = EQUATION_MODULES[family]
    module = module_type(3, 4, bidirectional=True, dtype=torch.float64, **options)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    expected, d_expected = results_and_gradients(module, x, None, [x], 0)
    actual, d_actual = results_and_gradients(compiled, x, None, [x], 0)
    assert_close([*actual, *d_actual], [*expected, *d_expected])


def assert_autocast(module, x, hx, low):
    """Under autocast all answers have its dtype and are close; gradients have the parameters' dtype."""
    expected = flat(module(x, hx))
    with torch.autocast(x.device.type, dtype=low):
        actual = flat(module(x, hx))
    sum(a.float().square().sum() for a in actual).backward()
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == low
        assert torch.allclose(a.float(), e, atol=0.05)
        assert not torch.equal(a.float(), e)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", EQUATION_MODULES)
def test_autocast_computes_in_its_dtype(family, low):
    module_type, options = EQUATION_MODULES[family]
    module = module_type(3, 4, num_layers=2, bidirectional=True, **options)
    generator = torch.Generator().manual_seed(0)
    hx = random_state(generator, module, "batch", 2, dtype=torch.float32)
    assert_autocast(module, torch.randn(5, 2, 3), hx, low)


def test_autocast_leaves_double_precision_and_second_derivatives_alone():
    lstm = nn.LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = flat(lstm(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = flat(lstm(x))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))

    single = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)
    seconds = []
    for enabled in (False, True):
        output, _ = single(x)
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=enabled
        ):  # backward is left in full precision
            (d_x,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(d_x.square().sum(), x)[0])
    assert torch.equal(*seconds)


# --- what is refused ----------------------------------------------------------------------------


def ones(*shape, dtype=torch.float32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4), ValueError, "input_size is 0, expected a whole number of at least 1"),
        ((3, -1), ValueError, "hidden_size is -1, expected a whole number of at least 1"),
        ((3, 4.0), TypeError, "hidden_size is a float, expected a whole number of at least 1"),
        ((True, 4), TypeError, "input_size is a bool, expected a whole number of at least 1"),
        ((3, 4, 0), ValueError, "num_layers is 0, expected a whole number of at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments, error, message):
    for module_type in (nn.RNN, nn.LSTM, nn.GRU):
        with pytest.raises(error, match=f"{module_type.__name__}: {message}"):
            module_type(*arguments)
    if len(arguments) == 2:
        for cell_type in (nn.RNNCell, nn.LSTMCell, nn.GRUCell):
            with pytest.raises(error, match=f"{cell_type.__name__}: {message}"):
                cell_type(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bias": 1}, TypeError, "bias is 1, expected True or False"),
        ({"batch_first": "yes"}, TypeError, "batch_first is 'yes', expected True or False"),
        ({"bidirectional": None}, TypeError, "bidirectional is None, expected True or False"),
        ({"dropout": 1.5}, ValueError, "dropout is 1.5, expected a probability from 0 to 1"),
        ({"dropout": -0.1}, ValueError, "dropout is -0.1, expected a probability from 0 to 1"),
        ({"dropout": True}, ValueError, "dropout is True, expected a probability from 0 to 1"),
        ({"dropout": float("nan")}, ValueError, "dropout is nan, expected a probability from 0 to 1"),
        ({"dtype": torch.int64}, TypeError, "dtype is torch.int64, expected a real floating-point dtype"),
        ({"dtype": torch.complex64}, TypeError, "dtype is torch.complex64, expected a real"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, message):
    for module_type in (nn.RNN, nn.LSTM, nn.GRU):
        with pytest.raises(error, match=f"{module_type.__name__}: {message}"):
            module_type(3, 4, **options)


def test_options_of_one_family_are_held_to_their_values():
    for module_type in (nn.RNN, nn.RNNCell):
        with pytest.raises(ValueError, match="nonlinearity is 'logistic', expected one of 'tanh', 'relu'"):
            module_type(3, 4, nonlinearity="logistic")
    for module_type in (nn.GRU, nn.GRUCell):
        with pytest.raises(TypeError, match="reset_after is 0, expected True or False"):
            module_type(3, 4, reset_after=0)
    for proj_size in (-1, 4):
        with pytest.raises(
            ValueError, match=f"proj_size is {proj_size}, expected a whole number from 0 to 3"
        ):
            nn.LSTM(3, 4, proj_size=proj_size)
    with pytest.raises(TypeError, match="proj_size is a float, expected a whole number from 0 to 3"):
        nn.LSTM(3, 4, proj_size=2.0)
    with pytest.warns(UserWarning, match="dropout is 0.5 but acts between layers, and num_layers is 1"):
        nn.GRU(3, 4, dropout=0.5)


@pytest.mark.parametrize(
    ("input", "error", "message"),
    [
        (
            ones(4, 2, 5),
            ValueError,
            r"input has shape \(4, 2, 5\), expected \(T, B, I\) or.* with I = 3 set by",
        ),
        (
            ones(4, 5),
            ValueError,
            r"input has shape \(4, 5\), expected \(T, B, I\) or, for one sequence, \(T, I\)",
        ),
        (ones(3), ValueError, r"input has shape \(3,\), expected \(T, B, I\)"),
        (ones(1, 4, 2, 3), ValueError, r"input has shape \(1, 4, 2, 3\), expected \(T, B, I\)"),
        (ones(0, 2, 3), ValueError, r"input has shape \(0, 2, 3\): T is 0, expected at least 1"),
        (ones(0, 3), ValueError, r"input has shape \(0, 3\): T is 0, expected at least 1"),
        (
            ones(4, 2, 3, dtype=torch.float64),
            TypeError,
            "input has dtype torch.float64, expected torch.float32",
        ),
        (ones(4, 2, 3, dtype=torch.int64), TypeError, "input has dtype torch.int64, expected torch.float32"),
        (ones(4, 2, 3, dtype=torch.complex64), TypeError, "input has dtype torch.complex64, expected"),
        (ones(4, 2, 3, device="meta"), ValueError, "input is on meta, expected cpu"),
        (np.ones((4, 2, 3)), TypeError, "input is a ndarray, expected a torch.Tensor"),
        (
            pack_sequence([ones(4, 5)]),
            ValueError,
            r"input.data has shape \(4, 5\), expected \(N, I\) = \(4, 3\)",
        ),
        (pack_sequence([ones(4, 3, dtype=torch.float64)]), TypeError, "input.data has dtype torch.float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(input, error, message):
    for module_type in (nn.RNN, nn.LSTM, nn.GRU):
        with pytest.raises(error, match=f"{module_type.__name__}: {message}"):
            module_type(3, 4)(input)


def test_batch_first_changes_what_is_expected():
    with pytest.raises(ValueError, match=r"input has shape \(4, 2, 5\), expected \(B, T, I\)"):
        nn.GRU(3, 4, batch_first=True)(ones(4, 2, 5))
    with pytest.raises(ValueError, match=r"hx has shape \(1, 2, 4\), expected .* = \(1, 5, 4\)"):
        nn.GRU(3, 4, batch_first=True)(ones(5, 2, 3), ones(1, 2, 4))


@pytest.mark.parametrize(
    ("input", "hx", "error", "message"),
    [
        (ones(4, 2, 3), ones(2, 2, 5), ValueError, r"has shape \(2, 2, 5\), expected .* = \(2, 2, 4\)"),
        (ones(4, 2, 3), ones(1, 2, 4), ValueError, r"has shape \(1, 2, 4\), expected .* = \(2, 2, 4\)"),
        (ones(4, 2, 3), ones(2, 1, 4), ValueError, r"has shape \(2, 1, 4\), expected .* = \(2, 2, 4\)"),
        (ones(4, 2, 3), ones(2, 4), ValueError, r"has shape \(2, 4\), expected .* = \(2, 2, 4\)"),
        (ones(4, 3), ones(2, 1, 4), ValueError, r"has shape \(2, 1, 4\), expected .* = \(2, 4\)"),
        (ones(4, 2, 3), ones(2, 2, 4, dtype=torch.float64), TypeError, "has dtype torch.float64, expected"),
        (ones(4, 2, 3), ones(2, 2, 4, device="meta"), ValueError, "is on meta, expected cpu"),
        (ones(4, 2, 3), [1.0], TypeError, "is a list, expected a torch.Tensor"),
        (
            pack_sequence([ones(4, 3)]),
            ones(2, 2, 4),
            ValueError,
            r"has shape \(2, 2, 4\), expected .* \(2, 1, 4\)",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(input, hx, error, message):
    for module_type in (nn.RNN, nn.GRU):
        with pytest.raises(error, match=f"{module_type.__name__}: hx {message}"):
            module_type(3, 4, bidirectional=True)(input, hx)
    lstm = nn.LSTM(3, 4, bidirectional=True)
    right = ones(2, 4) if getattr(input, "ndim", 3) == 2 else ones(2, 1 + isinstance(input, torch.Tensor), 4)
    for place, pair in enumerate([(hx, right), (right, hx)]):
        with pytest.raises(error, match=rf"LSTM: hx\[{place}\] {message}"):
            lstm(input, pair)


def test_the_states_of_an_lstm_come_in_a_pair():
    with pytest.raises(TypeError, match=r"LSTM: hx is a Tensor, expected the pair \(h_0, c_0\)"):
        nn.LSTM(3, 4)(ones(4, 2, 3), ones(1, 2, 4))
    with pytest.raises(TypeError, match=r"LSTMCell: hx is 3 values, expected the pair \(h_0, c_0\)"):
        nn.LSTMCell(3, 4)(ones(2, 3), (ones(2, 4), ones(2, 4), ones(2, 4)))
    with pytest.raises(ValueError, match=r"hx\[0\] has shape \(1, 2, 4\), expected .* = \(1, 2, 2\)"):
        nn.LSTM(3, 4, proj_size=2)(ones(4, 2, 3), (ones(1, 2, 4), ones(1, 2, 4)))
    with pytest.raises(ValueError, match=r"hx\[1\] has shape \(1, 2, 2\), expected .* = \(1, 2, 4\)"):
        nn.LSTM(3, 4, proj_size=2)(ones(4, 2, 3), (ones(1, 2, 2), ones(1, 2, 2)))


@pytest.mark.parametrize(
    ("input", "hx", "error", "message"),
    [
        (
            ones(2, 5),
            None,
            ValueError,
            r"input has shape \(2, 5\), expected \(B, I\) or, with no batch, \(I,\)",
        ),
        (ones(4, 2, 3), None, ValueError, r"input has shape \(4, 2, 3\), expected \(B, I\)"),
        (
            ones(2, 3, dtype=torch.float16),
            None,
            TypeError,
            "input has dtype torch.float16, expected torch.float32",
        ),
        (ones(2, 3), ones(1, 4), ValueError, r"hx has shape \(1, 4\), expected \(B, size\) = \(2, 4\)"),
        (ones(3), ones(1, 4), ValueError, r"hx has shape \(1, 4\), expected \(size,\) = \(4,\)"),
    ],
)
def test_cells_refuse_what_does_not_fit(input, hx, error, message):
    for cell_type in (nn.RNNCell, nn.GRUCell):
        with pytest.raises(error, match=f"{cell_type.__name__}: {message}"):
            cell_type(3, 4)(input, hx)


def test_a_module_made_complex_is_refused():
    gru = nn.GRU(3, 4)
    for name, parameter in list(gru.named_parameters()):
        setattr(gru, name, torch.nn.Parameter(parameter.detach().to(torch.complex64)))
    with pytest.raises(TypeError, match=r"the dtype of weight_ih_l0 is torch\.complex64, expected a real"):
        gru(ones(4, 2, 3, dtype=torch.complex64))


# --- CUDA ---------------------------------------------------------------------------------------


@pytest.mark.gpu
@each_family
@pytest.mark.parametrize("form", FORMS)
def test_cuda_agrees_with_cudnn(agree, family, form):
    for seed, options in enumerate(OPTIONS):
        ours, reference = twins(family, 3, 4, device="cuda", **options)
        assert_twins_agree(
            agree,
            "torch.nn on CUDA",
            ours,
            reference,
            form,
            4,
            3,
            seed,
            with_state=seed % 2 == 0,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", EQUATION_MODULES)
def test_cuda_agrees_with_the_cpu(agree, family, dtype, form):
    module_type, options = EQUATION_MODULES[family]
    on_cpu = module_type(3, 4, num_layers=2, bidirectional=True, dtype=dtype, **options)
    on_cuda = copy.deepcopy(on_cpu).to("cuda")
    answers = []
    for module, device in ((on_cuda, "cuda"), (on_cpu, "cpu")):
        generator = torch.Generator().manual_seed(4)
        input, leaf = random_input(generator, module, form, 6, 3, dtype, device)
        hx = random_state(generator, module, form, 3, dtype, device)
        results, gradients = results_and_gradients(module, input, hx, [leaf, *flat(hx)], 5)
        assert all(x.device.type == device for x in (*results, *gradients))
        answers.append([*results, *gradients])
    assert_close(*answers, tolerance=TOLERANCE[str(dtype).removeprefix("torch.")])


@pytest.mark.gpu
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", EQUATION_MODULES)
def test_cuda_autocast_computes_in_its_dtype(family, low):
    module_type, options = EQUATION_MODULES[family]
    module = module_type(3, 4, num_layers=2, bidirectional=True, device="cuda", **options)
    generator = torch.Generator().manual_seed(0)
    hx = random_state(generator, module, "batch", 2, torch.float32, "cuda")
    assert_autocast(module, torch.randn(5, 2, 3, device="cuda"), hx, low)


@pytest.mark.gpu
@pytest.mark.parametrize("family", SMALL)
def test_cuda_derivatives_agree_with_finite_differences(family):
    module_type, options = SMALL[family]
    module = module_type(2, 2, dtype=torch.float64, device="cuda", **options)
    x = torch.randn(3, 2, 2, dtype=torch.float64, device="cuda", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x)
