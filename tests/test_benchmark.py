"""The benchmark command measures what it says. (How fast anything is, no test asks.)"""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rnnlib import benchmark
from rnnlib.benchmark import CONTENDERS, GATES, POINTS, Point
from tests.conftest import ROOT

TINY = Point(T=3, B=2, I=4, H=5)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("mode", benchmark.MODES)
def test_the_operations_are_those_that_torch_counts(cell, mode):
    point = Point(T=3, B=2, I=4, H=5)
    module = benchmark._module("autograd loop", cell, point)
    xs = torch.randn(point.T, point.B, point.I, requires_grad=True)  # so that its gradient is counted, too
    h_0 = torch.randn(point.B, point.H, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        state = (h_0, torch.zeros(point.B, point.H)) if cell == "lstm" else h_0
        hs = []
        for x_t in xs:
            state = module.cell(x_t, state)
            hs.append(state[0] if cell == "lstm" else state)
        if mode == "train":
            torch.stack(hs).sum().backward()
    assert benchmark.operations(cell, point, mode) == counter.get_total_flops()


@pytest.mark.parametrize("cell", GATES)
def test_the_contenders_compute_the_same(cell):
    xs = torch.randn(TINY.T, TINY.B, TINY.I)
    hs = {}
    for contender in CONTENDERS[:-1]:
        torch.manual_seed(0)
        hs[contender] = benchmark._module(contender, cell, TINY)(xs)[0]
    for contender in ("torch.nn again", "autograd loop"):
        torch.testing.assert_close(hs[contender], hs["torch.nn"])
    same = torch.allclose(hs["rnnlib.nn"], hs["torch.nn"], atol=1e-5)
    assert same == (cell != "gru-reset-before")  # torch.nn does not have this one


@pytest.mark.parametrize("mode", benchmark.MODES)
def test_a_step_of_training_has_gradients_and_a_forward_pass_has_none(mode):
    module = benchmark._module("torch.nn", "lstm", TINY)
    benchmark._step(module, torch.randn(TINY.T, TINY.B, TINY.I), mode)()
    assert all((p.grad is not None) == (mode == "train") for p in module.parameters())


def test_every_contender_gets_a_ratio_and_no_seconds_on_the_cpu():
    found = benchmark.compare("rnn", TINY, "forward", rounds=2)
    assert tuple(found) == CONTENDERS
    assert found["torch.nn"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    for numbers in found.values():
        assert set(numbers) == {"ratio", "low", "high"}
        assert 0 < numbers["low"] <= numbers["ratio"] <= numbers["high"] < math.inf


def test_the_command_writes_a_record_a_table_and_a_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(POINTS, "A", TINY)
    record, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["--points", "A", "--cells", "rnn,lstm", "--rounds", "1"]
    benchmark.main([*arguments, "--output", str(record), "--plot", str(picture)])
    found = json.loads(record.read_text())
    assert [(r["cell"], r["mode"]) for r in found["results"]] == [
        (cell, mode) for cell in ("rnn", "lstm") for mode in benchmark.MODES
    ]
    assert (found["results"][0]["T"], found["settings"]["rounds"]) == (3, 1)
    assert found["settings"]["engine"] == "auto"
    assert found["versions"]["torch"] == torch.__version__
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 4  # and the means
    shown = found["results"][3]["contenders"]["rnnlib.nn"]["ratio"]
    assert f"{shown:.2f}" in lines[4].split()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "abacus"], "device is 'abacus', which torch cannot use here"),
        (["--points", "A,Z"], "'Z' is no point: choose from A, B, C, D, E, F"),
        (["--cells", "elman"], "'elman' is no cell: choose from rnn, gru, gru-reset-before, lstm"),
        (["--modes", "sleep"], "'sleep' is no mode: choose from train, forward"),
        (["--rounds", "0"], "rounds"),
        (["--threads", "0"], "threads"),
    ],
)
def test_bad_arguments_are_explained_in_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, *([] if "--points" in arguments else ["--points", "A"])])
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_record_of_a_gpu_says_how_and_where_it_was_made():
    record = json.loads((ROOT / "experiments" / "benchmark.json").read_text())
    assert record["device"].startswith("NVIDIA")
    assert set(record["versions"]) == set(benchmark.environment("cpu")["versions"])
    asked = set()
    for command in record["commands"]:
        words = command.split()
        options = dict(zip(words[3::2], words[4::2], strict=True))
        cells, modes = (
            options.get(o, ",".join(all_)).split(",")
            for o, all_ in (("--cells", GATES), ("--modes", benchmark.MODES))
        )
        asked |= set(itertools.product(cells, options["--points"].split(","), modes))
    assert {(r["cell"], r["point"], r["mode"]) for r in record["results"]} == asked
    for r in record["results"]:
        assert Point(r["T"], r["B"], r["I"], r["H"]) == POINTS[r["point"]]
        assert tuple(r["contenders"]) == CONTENDERS
        assert all(numbers["seconds"] > 0 for numbers in r["contenders"].values())
    lines = benchmark.table(record["results"]).splitlines()
    kinds = {(r["cell"], r["mode"]) for r in record["results"]}
    assert len(lines) == 1 + len(record["results"]) + len(kinds)
    for line in lines[1 + len(record["results"]) :]:
        cell, _, mode, *means = line.split()
        ratios = [
            r["contenders"]["rnnlib.nn"]["ratio"]
            for r in record["results"]
            if (r["cell"], r["mode"]) == (cell, mode)
        ]
        assert float(means[1]) == pytest.approx(math.prod(ratios) ** (1 / len(ratios)), abs=0.006)


def test_a_record_without_a_mode_has_no_picture_of_it():
    with pytest.raises(ValueError, match="mode is 'train', and the record has nothing of it"):
        benchmark.plot([], "train")
