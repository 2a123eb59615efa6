"""The loops for a GPU: run in Triton's interpreter and compiled without a GPU; on a GPU, run there."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rnnlib import engine
from rnnlib.engine import Steps, choose, differentiable, fused, plain
from rnnlib.engine.layers import GRU_LAYERS, RNN_LAYERS, run_layer
from tests.support import TOLERANCE, load_module
from tests.test_engine import (
    MODULES,
    assert_nan_and_infinity_where,
    assert_same,
    both_ways,
    every_layer,
    problem,
)

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(fused.__file__).with_name("gpu_kernels.py")
needs_triton = pytest.mark.skipif(fused.triton_is_missing(), reason="no Triton: pip install 'rnnlib[gpu]'")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@functools.cache
def kernels_for(interpreter: bool) -> ModuleType:
    """The kernels for Triton's interpreter, or for its compiler, whichever this process has used before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "0")
        importlib.import_module("triton")  # a Triton that was imported for the interpreter cannot compile
        patch.setenv("TRITON_INTERPRET", str(int(interpreter)))
        return load_module(SOURCE)


@pytest.fixture
def interpreter(monkeypatch):
    monkeypatch.setattr(fused, "kernels", lambda: kernels_for(interpreter=True))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of units, and of the terms of a product, at sizes that the interpreter can do."""
    monkeypatch.setattr(fused, "units", lambda H, itemsize: 16)
    monkeypatch.setattr(fused, "INNER", 16)


def converted(arrays, dtype=torch.float64, device="cpu"):
    return [None if a is None else torch.as_tensor(a).to(device, dtype) for a in arrays]


def on_tensors(layer, loops, steps, arguments, d_hs, d_ends, **kind):
    """What a layer returns on tensors of a dtype and device, forward and back, in float64."""
    d_hs = None if d_hs is None else converted([d_hs], **kind)[0]
    found = both_ways(layer, loops, steps, converted(arguments, **kind), d_hs, converted(d_ends, **kind))
    return [None if a is None else a.cpu().double() for a in found]


def certain(layer, results, dtype):
    """The results that rounding changes little. Where it moves a sum across 0, relu has another slope."""
    return results[:2] if layer is RNN_LAYERS["relu"] and dtype != torch.float64 else results


def by_autograd(layer, steps, arguments, d_hs, d_ends):
    """The gradients of the arguments, from the forward equations by torch's own differentiation."""
    tensors = [None if a is None else a.requires_grad_() for a in converted(arguments)]
    rows = layer.forward(steps, *tensors, loops=differentiable)
    results = [rows[0], *(steps.last(states) for states in rows[: layer.states])]
    given = [a for a in tensors if a is not None]
    found = iter(torch.autograd.grad(results, given, converted([d_hs, *d_ends])))
    return [None if a is None else next(found) for a in tensors]


SIZES = {"a full batch": [3] * 4, "one sequence": [1] * 4, "two programs, ragged": [18, 18, 17, 5, 1]}


@needs_triton
@pytest.mark.usefixtures("interpreter")
class TestInTheInterpreter:
    @every_layer
    @pytest.mark.parametrize("reverse", [False, True], ids=["onwards", "reverse"])
    @pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
    def test_the_equations_and_autograd_agree(self, layer, sizes, reverse):
        arguments = problem(layer, np.random.default_rng(0), sizes, reverse, I=3, H=7)
        actual = on_tensors(layer, fused, *arguments)
        assert_same(actual, on_tensors(layer, differentiable, *arguments), 1e-11)
        gradients = by_autograd(layer, *arguments)
        assert_same(actual[-len(gradients) :], gradients, 1e-11)

    @every_layer
    @pytest.mark.usefixtures("small_blocks")
    def test_units_and_products_in_several_blocks(self, layer):
        arguments = problem(layer, np.random.default_rng(1), [3, 2], H=37, bias=False)
        expected = on_tensors(layer, differentiable, *arguments)
        assert_same(on_tensors(layer, fused, *arguments), expected, 1e-11)

    @every_layer
    @pytest.mark.parametrize("name", ["float32", "float16"])
    def test_single_and_half_precision(self, layer, name):  # the interpreter cannot multiply bfloat16
        arguments = problem(layer, np.random.default_rng(2), [4, 4, 2], H=17)
        expected = certain(layer, on_tensors(layer, differentiable, *arguments), DTYPES[name])
        actual = certain(layer, on_tensors(layer, fused, *arguments, dtype=DTYPES[name]), DTYPES[name])
        assert_same(actual, expected, 2e-5 if name == "float32" else TOLERANCE[name])

    @every_layer
    def test_no_gradient_of_the_outputs_is_a_zero_one(self, layer):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(3), [2, 1])
        expected = on_tensors(layer, differentiable, steps, arguments, np.zeros_like(d_hs), d_ends)
        assert_same(on_tensors(layer, fused, steps, arguments, None, d_ends), expected, 1e-11)

    @every_layer
    def test_nothing_that_was_given_is_changed_or_handed_back(self, layer):
        steps, *given = problem(layer, np.random.default_rng(4), [3, 3, 1])
        arguments, (d_hs,), d_ends = (converted(a) for a in (given[0], [given[1]], given[2]))
        tensors = [a for a in [*arguments, d_hs, *d_ends] if a is not None]
        before = [a.clone() for a in tensors]
        results = both_ways(layer, fused, steps, arguments, d_hs, d_ends)
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
        places = [a.untyped_storage().data_ptr() for a in [*tensors, *results] if a is not None]
        assert len(set(places)) == len(places)

    @every_layer
    def test_tensors_may_lie_in_any_order(self, layer):
        steps, *given = problem(layer, np.random.default_rng(5), [3, 3, 1])
        arguments, (d_hs,), d_ends = (converted(a) for a in (given[0], [given[1]], given[2]))
        expected = both_ways(layer, fused, steps, arguments, d_hs, d_ends)
        across = [a if a is None or a.ndim < 2 else a.T.contiguous().T for a in [*arguments, d_hs, *d_ends]]
        n = len(arguments)
        assert_same(both_ways(layer, fused, steps, across[:n], across[n], across[n + 1 :]), expected, 1e-14)

    @every_layer
    @pytest.mark.parametrize("sizes", [[3] * 3, [3, 3, 1], [2]])
    def test_inference_gives_the_same_states(self, layer, sizes):
        steps, arguments, _, _ = problem(layer, np.random.default_rng(6), sizes)
        arguments = converted(arguments)
        (hs, *_), ends = run_layer(layer, steps, *arguments, loops=fused, keep=True)
        (hs_only, *_), ends_only = run_layer(layer, steps, *arguments, loops=fused, keep=False)
        assert_same([hs_only, *ends_only], [hs, *ends], 1e-15)

    @every_layer
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_and_infinity_come_out(self, layer, bad):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(7), [3] * 4)
        arguments[0][3 + 2, 1] = bad  # in step 1, sequence 2
        with np.errstate(invalid="ignore"):
            actual = on_tensors(layer, fused, steps, arguments, d_hs, d_ends)
        expected = on_tensors(layer, differentiable, steps, arguments, d_hs, d_ends)
        assert_nan_and_infinity_where(actual, expected, bad)
        if math.isnan(bad):
            assert actual[0][5].isnan().any()
            assert not actual[0][[3, 4, 6, 7, 9, 10]].isnan().any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_tanh_and_the_logistic_function_are_exact_to_two_units(self, dtype, monkeypatch):
        """The states of one step from zero weights are tanh of the bias, and the logistic function of it."""
        small = np.geomspace(1e-30, 1, 300)
        a = np.concatenate([-small[::-1], small, np.linspace(-60, 60, 1001), [0.0, 1e4, -1e4]])
        a, H = torch.as_tensor(a, dtype=dtype), len(a)
        monkeypatch.setattr(fused, "units", lambda H, itemsize: 2048)
        zeros, steps = a.new_zeros(3 * H, H), Steps((1,))
        weights = [zeros[:, :1], zeros, a.repeat(3), zeros[:, 0]]
        exact = a.numpy().astype(np.longdouble)
        first = [w[:H] for w in weights]
        with np.errstate(over="ignore"):  # of the fractions for numbers near 0, at others
            (hs,), _ = run_layer(
                RNN_LAYERS["tanh"], steps, zeros[:1, :1], zeros[:1], *first, loops=fused, keep=True
            )
            (_, gates), _ = run_layer(
                GRU_LAYERS[False], steps, zeros[:1, :1], zeros[:1], *weights, loops=fused, keep=True
            )
        self.assert_exact(hs[0], np.tanh(exact), 2)
        self.assert_exact(gates[0, :H], 1 / (1 + np.exp(-exact)), 2)

    @staticmethod
    def assert_exact(actual, exact, units):
        info = torch.finfo(actual.dtype)
        normal = (np.abs(exact) >= info.tiny) | (exact == 0)
        difference = np.abs(actual.numpy() - exact)
        assert np.all(difference[normal] <= units * info.eps * np.abs(exact[normal]))
        assert np.all(difference[~normal] <= info.tiny)

    @pytest.mark.parametrize("family", MODULES)
    def test_a_module_agrees_with_torch_nn(self, family):
        ours, theirs, options = MODULES[family]
        torch.manual_seed(0)
        reference = theirs(3, 5, 2, bidirectional=True, dtype=torch.float64, **options)
        module = ours(3, 5, 2, bidirectional=True, dtype=torch.float64, **options)
        module.load_state_dict(reference.state_dict())
        xs = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
        d_output, results = torch.randn(9, 10, dtype=torch.float64), []
        with engine.using("fused"):
            for m in (reference, module):
                packed = torch.nn.utils.rnn.pack_padded_sequence(xs, [2, 4, 3], enforce_sorted=False)
                output = m(packed)[0].data
                inputs = [xs, *m.parameters()]
                results.append([output.detach(), *torch.autograd.grad(output, inputs, d_output)])
        assert_same(results[1], results[0], 1e-11)

    def test_weights_are_rounded_only_where_torch_was_told_to(self, monkeypatch):
        assert fused.constants(torch.float32, 8)["PRECISION"] == "ieee"
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision="tf32"))
        assert fused.constants(torch.float32, 8)["PRECISION"] == "tf32"


# --- compiled, without a GPU --------------------------------------------------------------------

STORED = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}


def compiled(name: str, dtype: str, H: int, capability: int, **more: Any) -> Any:
    """A kernel compiled for a GPU that need not be there, as a launch would have it compiled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels_for(interpreter=False), name)
    given = fused.constants(getattr(torch, dtype), H) | {"RELU": False, "KEEP": True} | more
    options = {key: given.pop(key) for key in ("num_warps", "num_stages")}
    constants = {key: value for key, value in given.items() if key in kernel.arg_names}
    sums = "fp64" if dtype == "float64" else "fp32"
    kinds = {"plan": "*i64", "T": "i32", "d_h": f"*{sums}", "d_C": f"*{sums}"}
    signature = {
        argument: "constexpr" if argument in constants else kinds.get(argument, f"*{STORED[dtype]}")
        for argument in kernel.arg_names
    }
    aligned = {
        (k,): [["tt.divisibility", 16]]
        for k, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


ORDER = {
    "rnn": "LBSB",
    "lstm": "LBSB",
    "gru": "LBSB",
    "gru_reset_before": "LBSB LBSB",
    "rnn_back": "LSB LSB",
    "lstm_back": "LSBSB LSB",
    "gru_back": "LSB LBSB",
    "gru_reset_before_back": "LSB LBSB LBSB",
}
"""What a step does with the memory of the GPU: loads, stores, barriers. What is stored is loaded behind a
barrier only, and where it replaces what was loaded, a barrier stands before it too."""


def order(compiled: Any) -> str:
    """The same of a compiled kernel, before the compiler adds barriers of its own for shared memory."""
    found = re.findall(
        r"(tt\.load|async_copy_global_to_local)|(tt\.store)|(ttg\.barrier)", compiled.asm["ttgir"]
    )
    letters = "".join("LSB"[[bool(kind) for kind in kinds].index(True)] for kinds in found)
    return re.sub(r"(.)\1+", r"\1", letters)


@needs_triton
class TestCompiled:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    @pytest.mark.parametrize("H", [40, 16], ids=["many products", "one product"])
    @pytest.mark.parametrize("name", ORDER)
    def test_every_kernel(self, name, H):
        """At the smaller size only one loop is left, that over the steps: they must not overlap either."""
        found = compiled(name, "float32", H, 90)
        assert found.asm["cubin"].startswith(b"\x7fELF")
        assert found.metadata.shared <= 48 * 1024  # what every card has
        assert order(found) == ORDER[name].replace(" ", "")
        assert "async_copy" in found.asm["ttgir"] or H < fused.INNER  # the next tile is on its way
        assert "tf32" not in found.asm["ptx"]

    def test_for_an_older_card(self):
        assert "sm_80" in compiled("gru_back", "float32", 40, 80).asm["ptx"]

    @pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
    def test_other_dtypes(self, dtype):
        assert "mma" in compiled("gru_back", dtype, 40, 90).asm["ptx"]  # on tensor cores

    def test_without_what_may_be_left_out(self):
        assert compiled("lstm", "float32", 40, 90, KEEP=False).asm["cubin"]
        assert compiled("gru", "float32", 40, 90, b_h=None).asm["cubin"]
        assert compiled("rnn_back", "float32", 40, 90, d_hs=None, RELU=True).asm["cubin"]

    def test_rounded_products_are_made_by_tensor_cores(self, monkeypatch):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision="tf32"))
        assert "tf32" in compiled("rnn", "float32", 40, 90).asm["ptx"]


# --- asked for ----------------------------------------------------------------------------------


class TestTheChoice:
    def test_is_made_by_name_only(self, interpreter, monkeypatch):
        x, many = torch.zeros(1), Steps((64,))
        assert choose(x, many) is not fused
        assert choose(torch.zeros(1, device="meta"), many) is plain
        if not fused.triton_is_missing():
            with engine.using("fused"):
                assert choose(x, many) is choose(x.double(), Steps((1,))) is fused
            monkeypatch.setenv("RNNLIB_ENGINE", "fused")
            assert choose(x, many) is fused

    @pytest.mark.parametrize(
        ("like", "message"),
        [
            (np.zeros(1), "not on NumPy arrays"),
            (torch.zeros(1, dtype=torch.int64), "not in int64"),
            (torch.zeros(1, device="meta"), "they compute on a CUDA device, not on meta"),
            (torch.zeros(1), "they compute on a CUDA device, not on cpu"),
        ],
        ids=["NumPy", "integers", "meta", "cpu"],
    )
    def test_what_is_missing_is_said(self, like, message, monkeypatch):
        monkeypatch.setattr(fused, "triton_is_missing", lambda: False)
        monkeypatch.setattr(fused, "interpreted", lambda: False)
        with (
            engine.using("fused"),
            pytest.raises(RuntimeError, match=f"the fused loops were asked for, but .*{message}"),
        ):
            choose(like, Steps((64,)))

    def test_no_triton(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with (
            engine.using("fused"),
            pytest.raises(RuntimeError, match=r"Triton is not installed: pip install 'rnnlib\[gpu\]'"),
        ):
            choose(torch.zeros(1), Steps((64,)))

    def test_nothing_imports_triton_before(self):
        code = "import sys, rnnlib, rnnlib.engine; assert not {'triton', 'torch'} & set(sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr

    @needs_triton
    def test_the_interpreter_can_be_asked_for_by_anyone(self):
        code = (
            "import torch\nfrom rnnlib import nn\n"
            "module, xs = nn.GRU(2, 3), torch.randn(4, 2, 2)\n"
            "reference = torch.nn.GRU(2, 3)\nreference.load_state_dict(module.state_dict())\n"
            "torch.testing.assert_close(module(xs)[0], reference(xs)[0])\n"
        )
        environment = os.environ | {"TRITON_INTERPRET": "1", "RNNLIB_ENGINE": "fused"}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, found.stderr


# --- on a GPU -----------------------------------------------------------------------------------


@needs_triton
@pytest.mark.gpu
class TestOnAGPU:
    @every_layer
    @pytest.mark.parametrize("reverse", [False, True], ids=["onwards", "reverse"])
    @pytest.mark.parametrize("H", [5, 64, 200])
    @pytest.mark.parametrize("sizes", [[40] * 20, [1] * 20, [70, 70, 40, 33, 16, 2, 1]])
    def test_the_equations_agree(self, layer, sizes, H, reverse):
        arguments = problem(layer, np.random.default_rng(0), sizes, reverse, I=9, H=H)
        expected = on_tensors(layer, differentiable, *arguments)
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
            actual = on_tensors(layer, fused, *arguments, dtype=dtype, device="cuda")
            assert_same(certain(layer, actual, dtype), certain(layer, expected, dtype), tolerance)

    @every_layer
    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    def test_in_half_precision(self, layer, name):
        arguments = problem(layer, np.random.default_rng(1), [40, 40, 40, 17], H=72)
        expected = certain(layer, on_tensors(layer, differentiable, *arguments), DTYPES[name])
        actual = on_tensors(layer, fused, *arguments, dtype=DTYPES[name], device="cuda")
        assert_same(certain(layer, actual, DTYPES[name]), expected, TOLERANCE[name])

    @every_layer
    def test_the_same_call_gives_the_same_bits(self, layer):
        """A race would not."""
        arguments = problem(layer, np.random.default_rng(2), [48] * 200, H=96)
        first, *others = (
            on_tensors(layer, fused, *arguments, dtype=torch.float32, device="cuda") for _ in range(5)
        )
        for other in others:
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, other, strict=True))

    @every_layer
    def test_nan_comes_out(self, layer):
        steps, arguments, d_hs, d_ends = problem(layer, np.random.default_rng(3), [20] * 4)
        arguments[0][20 + 2, 1] = np.nan
        expected = on_tensors(layer, differentiable, steps, arguments, d_hs, d_ends)
        actual = on_tensors(layer, fused, steps, arguments, d_hs, d_ends, dtype=torch.float32, device="cuda")
        for a, e in zip(actual, expected, strict=True):
            assert a is e is None or torch.equal(a.isnan(), e.isnan())

    @pytest.mark.parametrize("family", MODULES)
    def test_a_module_goes_forward_and_back_through_them(self, family, monkeypatch):
        ours, theirs, options = MODULES[family]
        torch.manual_seed(0)
        kind = {"dtype": torch.float64, "device": "cuda"}
        reference = theirs(5, 19, 2, bidirectional=True, **kind, **options)
        module = ours(5, 19, 2, bidirectional=True, **kind, **options)
        module.load_state_dict(reference.state_dict())
        xs, d_output = torch.randn(7, 13, 5, requires_grad=True, **kind), torch.randn(7, 13, 38, **kind)
        results, launched, launch = [], [], fused._launch

        def counted(name, *arguments, **constants):
            launched.append(name)
            launch(name, *arguments, **constants)

        monkeypatch.setattr(fused, "_launch", counted)
        with engine.using("fused"):
            for m in (reference, module):
                output, _ = m(xs)
                results.append(
                    [output.detach(), *torch.autograd.grad(output, [xs, *m.parameters()], d_output)]
                )
            with torch.no_grad():
                forward, _ = module(xs)
        assert_same(results[1], results[0], 1e-11)
        assert_same([forward], results[0][:1], 1e-11)
        assert sum(name.endswith("_back") for name in launched) == 4  # by autograd, on a thread of its own
        assert len(launched) == 12

    def test_steps_are_captured_and_replayed(self, tmp_path, capsys):
        script = load_module(ROOT / "experiments" / "captured_graph.py")
        script.main(["--points", "A", "--output", str(tmp_path / "record.json")])
        record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
        assert len(record["results"]) == 12 == len(capsys.readouterr().out.splitlines())
        for r in record["results"]:
            assert r["replayed"] > 0
            assert r["launched"] > 0
            assert r["difference"] < 1e-5


def test_without_a_gpu_the_experiment_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script = load_module(ROOT / "experiments" / "captured_graph.py")
    with pytest.raises(SystemExit):
        script.main([])
    assert "torch sees no CUDA device here" in capsys.readouterr().err
