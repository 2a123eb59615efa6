"""Many workers: held to brute force, to torch's autograd, and to real processes that talk over loopback."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.optimize import brentq, minimize_scalar
from statsmodels.stats.proportion import proportion_confint
from torch.nn.parallel import DistributedDataParallel

from rnnlib import distributed, train
from rnnlib.models import CharacterModel
from tests.conftest import ROOT
from tests.support import example, load_module, seeds

SCRIPT = ROOT / "experiments" / "parallel.py"
experiment = load_module(SCRIPT)
worker = load_module(ROOT / "tests" / "parallel_worker.py")
SWEEP = ROOT / "experiments" / "sweep.py"
sweep = load_module(SWEEP)

positive = st.floats(1e-6, 1e6)
workers_ = st.integers(1, 9)


# --- shards ---------------------------------------------------------------------------------------


@pytest.mark.equation("eq-parallel-shard")
@given(st.integers(1, 12), st.integers(0, 30))
def test_every_stream_has_one_worker_and_no_worker_has_two_more_than_another(workers, more):
    streams = workers + more
    shards = [range(*distributed.stream_shard(streams, workers, k)) for k in range(workers)]
    assert [stream for shard in shards for stream in shard] == list(range(streams))
    parts = np.array_split(np.arange(streams), workers)
    assert [list(shard) for shard in shards] == [part.tolist() for part in parts]


def test_a_shard_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="streams is 3, expected at least one for each of the 4 workers"):
        distributed.stream_shard(3, 4, 0)
    with pytest.raises(ValueError, match="worker is 2, expected a whole number from 0 to 1"):
        distributed.stream_shard(3, 2, 2)
    with pytest.raises(TypeError, match="workers is a float"):
        distributed.stream_shard(3, 2.0, 0)


@pytest.mark.equation("eq-parallel-gradient")
@given(seeds, workers_)
def test_the_weighted_mean_is_the_gradient_of_the_whole_batch(agree, seed, K):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, K)
    x, y = torch.tensor(rng.normal(size=(counts.sum(), 3))), torch.tensor(rng.normal(size=counts.sum()))
    w = torch.tensor(rng.normal(size=3), requires_grad=True)

    def gradient(rows: slice) -> Any:
        return torch.autograd.grad(((x[rows] @ w).tanh() - y[rows]).square().mean(), w)[0]

    ends = np.cumsum(counts)
    shards = torch.stack([gradient(slice(end - n, end)) for end, n in zip(ends, counts, strict=True)])
    whole = gradient(slice(None))
    weights = torch.tensor(counts, dtype=torch.float64)
    agree(distributed.mean_gradient, "torch.autograd", distributed.mean_gradient(shards, weights), whole)
    agree(
        distributed.mean_gradient,
        "torch.autograd",
        distributed.mean_gradient(shards.numpy(), weights.numpy()),
        whole,
    )


@pytest.mark.equation("eq-parallel-factor")
@given(seeds, workers_)
def test_with_the_factor_a_plain_mean_is_the_weighted_one(seed, K):
    rng = np.random.default_rng(seed)
    counts, gradients = rng.integers(1, 6, K).astype(float), rng.normal(size=(K, 4))
    factors = [distributed.shard_factor(n, counts.sum(), K) for n in counts.tolist()]
    plain = np.mean([f * g for f, g in zip(factors, gradients, strict=True)], axis=0)
    np.testing.assert_allclose(plain, np.average(gradients, axis=0, weights=counts), rtol=1e-12)
    assert np.isclose(distributed.shard_factor(3, 12, 4), 1)


def test_a_mean_over_nothing_is_refused():
    gradients = np.ones((2, 3))
    with pytest.raises(ValueError, match="counts holds -1"):
        distributed.mean_gradient(gradients, np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="counts holds only 0"):
        distributed.mean_gradient(gradients, np.zeros(2))
    with pytest.raises(ValueError, match="expected at most total = 2"):
        distributed.shard_factor(3, 2, 2)


# --- the ring -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-parallel-all-reduce", "eq-parallel-all-reduce-backward")
@given(seeds)
def test_the_sum_and_its_derivative(agree, seed):
    vectors = example("eq-parallel-all-reduce", seed)["vectors"]
    sums = distributed.all_reduce(vectors)
    K = len(vectors)
    agree(distributed.all_reduce, "numpy", sums, np.tile(vectors.sum(0), (K, 1)))
    d_sums = np.random.default_rng(seed).normal(size=vectors.shape)
    leaf = torch.tensor(vectors, requires_grad=True)
    (d_vectors,) = torch.autograd.grad(leaf.sum(0).expand(K, -1), leaf, torch.tensor(d_sums))
    agree(
        distributed.all_reduce_backward, "torch.autograd", distributed.all_reduce_backward(d_sums), d_vectors
    )


@pytest.mark.equation("eq-parallel-reduce-scatter", "eq-parallel-all-gather")
@given(seeds, workers_)
def test_the_ring_step_by_step(seed, K):
    """After s steps the chunk that reached worker k last is the sum over it and its s left neighbours."""
    chunks = np.random.default_rng(seed).normal(size=(K, K, 2))
    for s in range(1, K):
        held = distributed.ring_reduce_scatter(chunks, steps=s)
        for k in range(K):
            arrived = (k - s) % K
            expected = sum(chunks[(k - i) % K, arrived] for i in range(s + 1))
            np.testing.assert_allclose(held[k, arrived], expected, atol=1e-12)
            for untouched in range(K - s):  # the chunks that travel towards k, and have not come yet
                j = (k + untouched) % K
                np.testing.assert_array_equal(held[k, j], chunks[k, j])
    scattered = distributed.ring_reduce_scatter(chunks)
    for k in range(K):
        np.testing.assert_allclose(scattered[k, (k + 1) % K], chunks[:, (k + 1) % K].sum(0), atol=1e-12)
    for s in range(K):
        held = distributed.ring_all_gather(scattered, steps=s)
        for k in range(K):
            for i in range(s + 1):  # its own finished chunk, and those of its s left neighbours
                np.testing.assert_array_equal(
                    held[k, (k + 1 - i) % K], scattered[(k - i) % K, (k + 1 - i) % K]
                )


@given(seeds, workers_, st.integers(1, 20))
def test_the_ring_gives_every_worker_the_same_bits_of_the_sum(agree, seed, K, N):
    vectors = np.random.default_rng(seed).normal(size=(K, N))
    sums = distributed.ring_all_reduce(vectors)
    agree(distributed.ring_all_reduce, "numpy", sums, np.tile(vectors.sum(0), (K, 1)))
    assert (sums == sums[0]).all()
    leaf = torch.tensor(vectors, requires_grad=True)
    d_sums = torch.tensor(np.random.default_rng(seed + 1).normal(size=(K, N)))
    (d_vectors,) = torch.autograd.grad(distributed.ring_all_reduce(leaf), leaf, d_sums)
    np.testing.assert_allclose(d_vectors, distributed.all_reduce_backward(d_sums), atol=1e-12)


def test_steps_beyond_the_ring_are_refused():
    with pytest.raises(ValueError, match="ring_all_gather: steps is 3, expected a whole number from 0 to 2"):
        distributed.ring_all_gather(np.ones((3, 3, 1)), steps=3)
    with pytest.raises(ValueError, match="ring_reduce_scatter: steps is -1"):
        distributed.ring_reduce_scatter(np.ones((3, 3, 1)), steps=-1)
    with pytest.raises(ValueError, match="chunks has shape"):
        distributed.ring_reduce_scatter(np.ones((3, 2, 1)))


# --- times ----------------------------------------------------------------------------------------


class Wire:
    """Counts the messages of a ring as they would pass, and the clock of workers that wait for each other."""

    def __init__(self, K: int, latency: float, per_byte: float) -> None:
        self.clock, self.bytes = np.zeros(K), np.zeros(K)
        self.latency, self.per_byte = latency, per_byte

    def everyone_sends(self, size: float) -> None:
        self.bytes += size
        leaves = self.clock
        arrives = leaves + self.latency + self.per_byte * size
        self.clock = np.maximum(np.roll(arrives, 1), arrives)


@pytest.mark.equation("eq-parallel-traffic", "eq-parallel-ring-time", "eq-parallel-message")
@given(workers_, positive, positive, positive)
def test_the_ring_takes_as_long_as_its_messages(K, size, latency, per_byte):
    wire = Wire(K, latency, per_byte)
    for _ in range(2 * (K - 1)):
        wire.everyone_sends(size / K)
    assert math.isclose(wire.clock.max(), distributed.ring_time(size, K, latency, per_byte), rel_tol=1e-12)
    assert math.isclose(wire.bytes[0], distributed.ring_traffic(size, K), rel_tol=1e-12, abs_tol=1e-30)
    assert distributed.message_time(8, 3, 0.5) == 7


@pytest.mark.equation("eq-parallel-halving-time")
@given(st.integers(0, 6), positive, positive, positive)
def test_halving_and_doubling_message_by_message(power, size, latency, per_byte):
    seconds, part = 0.0, size
    for _ in range(power):  # on the way down, and as much on the way up
        part /= 2
        seconds += 2 * (latency + per_byte * part)
    K = 2**power
    assert math.isclose(seconds, distributed.halving_time(size, K, latency, per_byte), rel_tol=1e-9)
    with pytest.raises(ValueError, match="workers is 6, expected a power of two"):
        distributed.halving_time(size, 6, latency, per_byte)


@pytest.mark.equation("eq-parallel-overlap")
@given(positive, positive, positive, st.integers(1, 9))
def test_buckets_are_sent_one_after_the_other_as_they_fill(forward, backward, message, m):
    filled = sent = forward
    for _ in range(m):
        filled += backward / m
        sent = max(sent, filled) + message
    assert math.isclose(sent, distributed.overlapped_time(forward, backward, message, m), rel_tol=1e-9)


@pytest.mark.equation(
    "eq-parallel-step",
    "eq-parallel-speedup",
    "eq-parallel-efficiency",
    "eq-parallel-weak",
    "eq-parallel-amdahl",
)
@given(positive, positive, positive, st.integers(1, 1000))
def test_speed_up_and_efficiency(work, serial, communication, K):
    one = distributed.step_time(work, 1, 0, serial)
    many = distributed.step_time(work, K, communication, serial)
    assert math.isclose(many, serial + work / K + communication)
    assert math.isclose(distributed.speed_up(one, many), one / many)
    assert math.isclose(distributed.efficiency(one, many, K) * K, distributed.speed_up(one, many))
    silent = distributed.step_time(work, K, 0, serial)
    share = serial / (work + serial)
    assert math.isclose(distributed.amdahl(share, K), distributed.speed_up(one, silent), rel_tol=1e-9)
    # Weak: K workers do K times the work of one.
    many = distributed.step_time(K * work, K, communication, serial)
    assert math.isclose(distributed.weak_efficiency(one, communication), one / many, rel_tol=1e-9)


@pytest.mark.equation("eq-parallel-optimum")
@given(positive, positive, positive, st.floats(1e-9, 1e-3))
def test_the_best_number_of_workers(work, size, latency, per_byte):
    def seconds(K: float) -> float:
        return work / K + 2 * (K - 1) * (latency + size * per_byte / K)

    best = distributed.best_workers(work, size, latency, per_byte)
    found = minimize_scalar(lambda u: seconds(math.exp(u)), bounds=(0, 30), method="bounded")
    assert seconds(best) <= found.fun * (1 + 1e-9)
    assert math.isclose(seconds(best), min(found.fun, seconds(1)), rel_tol=1e-4)
    whole = distributed.step_time(work, 3, distributed.ring_time(size, 3, latency, per_byte))
    assert math.isclose(whole, seconds(3), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: distributed.ring_time(-1, 2, 1, 1), "ring_time: size is -1"),
        (lambda: distributed.ring_time(1, 0, 1, 1), "ring_time: workers is 0"),
        (lambda: distributed.message_time(1, math.nan, 1), "message_time: latency is nan"),
        (lambda: distributed.amdahl(1.5, 2), "amdahl: serial_share is 1.5, expected a number from 0 to 1"),
        (lambda: distributed.best_workers(1, 1, 0, 1), "best_workers: latency is 0"),
        (lambda: distributed.speed_up(1, 0), "speed_up: parallel is 0"),
        (lambda: distributed.overlapped_time(1, 1, 1, 0), "overlapped_time: buckets is 0"),
        (lambda: distributed.linear_rule(0.1, 0), "linear_rule: workers is 0"),
        (lambda: distributed.expected_square(1, 1, 0), "expected_square: batch_size is 0"),
        (
            lambda: distributed.noise_scale(2, 1, 8, 8),
            "noise_scale: large is 8, expected a whole number of at",
        ),
        (
            lambda: distributed.noise_scale(8, 1, 1, 4),
            "for the square of the true gradient, expected a number",
        ),
        (lambda: distributed.progress(-1, 4), "progress: noise is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()


# --- larger batches -------------------------------------------------------------------------------


@pytest.mark.equation("eq-parallel-linear-rule", "eq-parallel-linear-rule-error")
@given(seeds, st.integers(1, 8), st.floats(0.001, 0.1))
def test_one_large_step_ends_within_the_bound_of_small_ones(seed, K, rate):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, 3, 3))
    A, b = root @ root.transpose(0, 2, 1), rng.normal(size=(K, 3))  # the gradient of batch k is A w - b

    w = start = rng.normal(size=3)
    lengths = []
    for k in range(K):
        g = A[k] @ w - b[k]
        lengths.append(np.linalg.norm(g))
        w = w - rate * g
    large = start - distributed.linear_rule(rate, K) * np.mean(A @ start - b, axis=0)
    smoothness = float(np.linalg.norm(A, 2, axis=(1, 2)).max())
    bound = distributed.linear_rule_error(rate, K, smoothness, float(max(lengths)))
    assert np.linalg.norm(large - w) <= bound + 1e-12
    if K == 1:
        assert bound == 0
    # The bound is of the right size: for one batch K times, along its steepest direction, it is nearly met.
    if K == 2:
        value, direction = np.linalg.eigh(A[0])
        u = direction[:, -1]
        twice = u - rate * A[0] @ u
        twice = twice - rate * A[0] @ twice
        gap = np.linalg.norm(twice - (u - 2 * rate * A[0] @ u))
        assert math.isclose(gap, distributed.linear_rule_error(rate, 2, value[-1], value[-1]), rel_tol=1e-6)


@pytest.mark.equation("eq-parallel-noise", "eq-parallel-noise-scale")
@given(seeds, st.integers(1, 3))
def test_the_square_of_a_batchs_gradient_over_all_batches(seed, B):
    """All batches of B out of 4 examples, with replacement: the expectation itself, no sample of it."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(4, 3)) + 1
    true, variance = float((g.mean(0) ** 2).sum()), float(g.var(0).sum())

    def mean_square(size: int) -> float:
        batches = np.stack(np.meshgrid(*[np.arange(4)] * size, indexing="ij")).reshape(size, -1)
        return float((g[batches].mean(0) ** 2).sum(1).mean())

    assert math.isclose(mean_square(B), distributed.expected_square(true, variance, B), rel_tol=1e-9)
    noise = distributed.noise_scale(mean_square(B), mean_square(B + 1), B, B + 1)
    assert math.isclose(noise, variance / true, rel_tol=1e-6)


@pytest.mark.equation("eq-parallel-progress")
@given(seeds, st.integers(1, 50))
def test_the_best_step_on_a_quadratic_makes_that_share_of_the_progress(seed, B):
    rng = np.random.default_rng(seed)
    G, curvature, variance = rng.normal(size=3), 0.7, 2.5
    square = float(G @ G)

    def loss_after(rate: float, batch_size: float) -> float:
        return -rate * square + rate**2 / 2 * curvature * (square + variance / batch_size)

    best = minimize_scalar(lambda rate: loss_after(rate, B)).fun
    without_noise = minimize_scalar(lambda rate: loss_after(rate, math.inf)).fun
    share = distributed.progress(variance / square, B)
    assert math.isclose(best / without_noise, share, rel_tol=1e-6)


# --- a world of one -------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


def train_a_little(world: Any, steps: int, **options: Any) -> tuple[train.History, CharacterModel]:
    train.seed(options.pop("seed", 0))
    model = CharacterModel(7, 5, streams=3, dropout=0.2).to(world.device)
    symbols = torch.from_numpy(np.random.default_rng(0).integers(0, 7, (9, 5, 3))).to(world.device)
    network = options.pop("wrap", distributed.wrap)(model)
    history = train.fit(
        network,
        lambda step: (symbols[step, :-1], symbols[step, 1:], step == 0),
        options.pop("loss", lambda network, batch: model.stream_loss(*batch, through=network)),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        steps=steps,
        **options,
    )
    return history, model


def test_a_world_of_one_trains_resumes_and_ends_the_same(alone, tmp_path):
    with distributed.start() as world:
        assert (world.rank, world.size, world.device.type) == (0, 1, "cpu")
        history, model = train_a_little(world, 9, checkpoints=tmp_path / "whole", checkpoint_every=3)
        train_a_little(world, 5, checkpoints=tmp_path / "parts", checkpoint_every=3)
        again, same = train_a_little(world, 9, checkpoints=tmp_path / "parts", checkpoint_every=3)
        assert "GLOO_SOCKET_IFNAME" not in os.environ
        best, _ = train_a_little(
            world, 9, evaluate=lambda n: float(n.module.h.sum()), evaluate_every=3, patience=9
        )
    np.testing.assert_array_equal(history.losses, again.losses)
    for name, x in model.state_dict().items():
        assert torch.equal(x, same.state_dict()[name]), name
    newest = tmp_path / "parts" / "step-00000009.safetensors"
    restored = train.restore(CharacterModel(7, 5, streams=3), newest)
    assert torch.equal(restored.h, model.h)
    assert len(best.evaluations) == 3
    assert not torch.distributed.is_initialized()


def test_dropout_is_that_of_the_step(alone, tmp_path):
    with distributed.start() as world:
        _, first = train_a_little(world, 4)
        _, second = train_a_little(world, 4)
        _, other = train_a_little(world, 4, seed=1)
        train_a_little(world, 4, checkpoints=tmp_path)
        with pytest.raises(train.CheckpointError, match="the setting seed is 0 in it and 1 here"):
            train_a_little(world, 5, checkpoints=tmp_path, seed=1)
    assert torch.equal(first.readout.weight, second.readout.weight)
    assert not torch.equal(first.readout.weight, other.readout.weight)


def test_streams_that_would_be_overwritten_are_refused(alone):
    with (
        distributed.start() as world,
        pytest.raises(ValueError, match=r"the buffer h holds streams .* use rnnlib\.distributed\.wrap"),
    ):
        train_a_little(world, 1, wrap=DistributedDataParallel)


def test_a_loss_that_is_no_number_stops_the_run(alone):
    def loss(network: Any, batch: Any) -> torch.Tensor:
        return network.module.stream_loss(*batch, through=network) * math.nan

    with distributed.start() as world, pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        train_a_little(world, 1, loss=loss)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set, but RANK is"),
        ({"RANK": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK is 'a', expected a whole number"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            "RANK is 2, expected a number below WORLD_SIZE = 2",
        ),
    ],
)
def test_a_place_that_cannot_be_is_refused(alone, monkeypatch, environment, sentence):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(sentence)), distributed.start():
        pass


def test_a_missing_gpu_is_said(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with (
        pytest.raises(ValueError, match="needs a GPU of its own, and there are 0"),
        distributed.start("cuda"),
    ):
        pass
    with pytest.raises(ValueError, match="device is 'tpu'"), distributed.start("tpu"):
        pass


@pytest.mark.gpu
def test_a_world_of_one_gpu(alone, tmp_path):
    with distributed.start("cuda") as world:
        assert torch.distributed.get_backend() == "nccl"
        history, _ = train_a_little(world, 9, checkpoints=tmp_path, checkpoint_every=3)
        (tmp_path / "step-00000009.safetensors").unlink()
        again, _ = train_a_little(world, 9, checkpoints=tmp_path, checkpoint_every=3)
    np.testing.assert_allclose(history.losses, again.losses, rtol=1e-4)


# --- many runs ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-parallel-runs")
@given(st.integers(1, 200), st.integers(1, 60))
def test_runs_that_do_not_talk(runs, workers):
    """The reference hands the runs out, each to the worker that has had the fewest."""
    had = np.zeros(workers, int)
    for _ in range(runs):
        had[had.argmin()] += 1
    assert math.isclose(distributed.runs_efficiency(runs, workers), runs / (workers * had.max()))


@pytest.mark.equation("eq-parallel-interval")
@given(st.integers(1, 300), st.data(), st.floats(0.1, 4))
def test_the_interval_of_a_chance(runs, data, z):
    """statsmodels, and the definition: at its ends the share is z standard deviations away."""
    successes = data.draw(st.integers(0, runs))
    low, high = distributed.success_interval(successes, runs, z)
    np.testing.assert_allclose(
        (low, high),
        proportion_confint(successes, runs, alpha=math.erfc(z / math.sqrt(2)), method="wilson"),
        atol=1e-12,
    )
    share = successes / runs

    def too_far(p: float) -> float:
        return (share - p) ** 2 - z**2 * p * (1 - p) / runs

    if 0 < successes < runs:
        assert math.isclose(low, brentq(too_far, 0, share), abs_tol=1e-9)
        assert math.isclose(high, brentq(too_far, share, 1), abs_tol=1e-9)
    assert 0 <= low <= share <= high <= 1


def test_numbers_of_runs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="runs_efficiency: runs is 0, expected a whole number of at least 1"):
        distributed.runs_efficiency(0, 3)
    with pytest.raises(
        ValueError, match="success_interval: successes is 4, expected a whole number from 0 to 3"
    ):
        distributed.success_interval(4, 3)
    with pytest.raises(ValueError, match=r"success_interval: z is -1"):
        distributed.success_interval(1, 3, -1.0)


FEW = ["--rates", "0.01", "0.1", "--seeds", "1", "--length", "4", "--hidden-size", "3", "--steps", "2"]


def do_sweep(path: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SWEEP), *FEW, "--output", str(path), *arguments]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=300, **options
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """The record of a small sweep."""
    path = tmp_path_factory.mktemp("sweep") / "record.json"
    done = do_sweep(path, "--processes", "2")
    assert done.returncode == 0, done.stderr
    return path


def test_a_sweep_holds_what_each_run_gives_alone(swept):
    record = json.loads(swept.read_text(encoding="utf-8"))
    runs = {(r["cell"], r["rate"], r["seed"]): r["loss"] for r in record["results"]}
    assert set(runs) == {(cell, rate, 0) for cell in ("RNN", "GRU", "LSTM") for rate in (0.01, 0.1)}
    threads = torch.get_num_threads()
    try:
        for key, loss in runs.items():
            assert math.isclose(sweep.run(key, record["settings"]), loss, rel_tol=1e-6)
    finally:
        torch.set_num_threads(threads)


def test_a_sweep_does_the_runs_that_are_missing(swept, tmp_path, monkeypatch):
    record = json.loads(swept.read_text(encoding="utf-8"))
    lost, path = record["results"].pop(2), tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    asked = []

    class Pool:
        """Does at once what is asked for."""

        def submit(self, function: Any, key: Any, settings: Any) -> Any:
            asked.append(key)
            future: Any = Future()
            future.set_result(lost["loss"])
            return future

    monkeypatch.setattr(sweep, "workers", lambda scheduler, processes: contextlib.nullcontext(Pool()))
    sweep.main([*FEW, "--output", str(path)])
    assert asked == [(lost["cell"], lost["rate"], lost["seed"])]
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(swept.read_text(encoding="utf-8"))


def test_a_run_that_diverges_is_recorded_as_that():
    settings = {"length": 4, "hidden_size": 3, "steps": 3, "batch_size": 2}
    threads = torch.get_num_threads()
    try:
        assert sweep.run(("RNN", 1e30, 0), settings) is None
    finally:
        torch.set_num_threads(threads)


def test_a_sweep_that_cannot_be_is_refused(swept, monkeypatch, capsys):
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            sweep.main([*FEW, "--output", str(swept), *arguments])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    before = swept.read_text(encoding="utf-8")
    assert "'length': 4" in (said := told("--length", "5"))
    assert "'length': 5" in said
    assert "name another --output" in said
    assert "argument --seeds: 0 is below 1" in told("--seeds", "0")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "--scheduler needs Dask" in told("--scheduler", "tcp://127.0.0.1:1")
    assert swept.read_text(encoding="utf-8") == before


def test_a_sweep_whose_process_is_killed_says_so_and_keeps_what_is_done(tmp_path):
    path = tmp_path / "record.json"
    command = [sys.executable, SWEEP, *FEW, "--seeds", "4000", "--processes", "1", "--output", path]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 120
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        for child in psutil.Process(process.pid).children():
            if "--multiprocessing-fork" in child.cmdline():
                child.kill()
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "sweep.py: a process was killed; the same command goes on from the runs that are done" in told
    assert json.loads(path.read_text(encoding="utf-8"))["results"]


def test_a_sweep_on_a_dask_cluster_gives_the_same(swept, tmp_path):
    dask = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'rnnlib[cluster]'")
    with dask.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        done = do_sweep(tmp_path / "record.json", "--scheduler", cluster.scheduler_address)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (swept, tmp_path / "record.json")]
    assert records[0]["results"] == records[1]["results"]


def test_the_record_of_the_sweep_is_that_of_the_script():
    record = json.loads(SWEEP.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["settings"] == {"length": 30, "hidden_size": 32, "batch_size": 32, "steps": 500}
    keys = [(r["cell"], r["rate"], r["seed"]) for r in record["results"]]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(c, r, s) for c in sweep.CELLS for r in sweep.RATES for s in range(20)}


# --- real processes -------------------------------------------------------------------------------


def environment(**more: Any) -> dict[str, str]:
    """That of this process on one thread, and nothing but loopback."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    given = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1, **more}
    return own | {"PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in given.items()}


def two_processes(*command: Any) -> list[str]:
    """What two processes of one world print, started by hand as torchrun would; both must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(RANK=k, LOCAL_RANK=k, WORLD_SIZE=2, MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    try:
        told = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, complaint) in zip(started, told, strict=True):
        assert process.returncode == 0, complaint
    return [said for said, _ in told]


@pytest.fixture(scope="module")
def shares(tmp_path_factory) -> dict[str, Any]:
    """What tests/parallel_worker.py computed in two processes, and what it was given."""
    folder = tmp_path_factory.mktemp("shares")
    rng = np.random.default_rng(0)
    model = CharacterModel(7, 6)
    given = {name: rng.normal(size=p.shape) / 2 for name, p in model.named_parameters()}
    given["symbols"] = rng.integers(0, 7, (2, 5, 5))  # two batches of 4 steps and what comes after, 5 streams
    given["vectors"] = rng.normal(size=(2, 7))
    np.savez(folder / "given.npz", **given)
    two_processes(ROOT / "tests" / "parallel_worker.py", folder)
    return {
        "folder": folder,
        "given": given,
        "got": [dict(np.load(folder / f"got-{k}.npz")) for k in range(2)],
    }


@pytest.mark.parametrize("streams", [4, 5], ids=["equal shards", "unequal shards"])
def test_two_processes_have_the_gradient_of_one(agree, shares, streams):
    """The reference: one process, torch.nn.LSTM, torch's autograd, the whole batch."""
    model = CharacterModel(7, 6, streams=streams).double()
    parameters = {n: torch.from_numpy(shares["given"][n]) for n, _ in model.named_parameters()}
    model.load_state_dict(parameters, strict=False)
    for step, symbols in enumerate(torch.from_numpy(shares["given"]["symbols"])[:, :, :streams]):
        model.zero_grad()
        model.stream_loss(symbols[:-1], symbols[1:], step == 0).backward()
        for got in shares["got"]:
            agree(
                distributed.wrap,
                "torch.nn in one process",
                {name: got[f"{streams}/{step}/{name}"] for name in parameters},
                {name: p.grad for name, p in model.named_parameters()},
                tolerance=1e-13,
            )
    states = np.concatenate([got[f"{streams}/h"] for got in shares["got"]], axis=1)
    np.testing.assert_allclose(states, model.h, atol=1e-14)


def test_the_ring_of_two_processes_is_gloos_sum(shares):
    total = shares["given"]["vectors"].sum(0)
    for got in shares["got"]:
        np.testing.assert_array_equal(got["ring"], got["all_reduce"])
        np.testing.assert_array_equal(got["ring"], total)
    np.testing.assert_array_equal(shares["got"][1]["vector"], shares["given"]["vectors"][1])  # left as it was


TINY = ["--quick", "--hidden-size", "12", "--streams", "5", "--steps-per-batch", "8"]
TINY += ["--dropout", "0.1", "--checkpoint-every", "20", "--steps", "160"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A run of two processes that nothing happens to: its checkpoints and its record."""
    folder = tmp_path_factory.mktemp("undisturbed")
    two_processes(SCRIPT, *TINY, "--checkpoints", folder / "run", "--output", folder / "record.json")
    return folder


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*.safetensors"))


def lines_of(stream: Any) -> Iterator[str]:
    for line in stream:
        yield line.rstrip("\n")


def test_a_killed_worker_is_started_again_and_the_run_ends_as_if_nothing_had_been(undisturbed, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    torchrun += ["--nproc-per-node", "2", "--max-restarts", "1"]
    run, record = tmp_path / "run", tmp_path / "record.json"
    with subprocess.Popen(
        [*torchrun, str(SCRIPT), *TINY, "--checkpoints", str(run), "--output", str(record)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        patience = threading.Timer(120, process.terminate)  # which ends what follows, if need be
        patience.start()
        try:
            said = lines_of(process.stdout)
            killed = next(int(m[1]) for line in said if (m := re.match(r"process 1 of 2, pid (\d+)", line)))
            while not list(run.glob("step-*.safetensors")):
                assert process.poll() is None, "it ended without a checkpoint"
                time.sleep(0.002)
            os.kill(killed, signal.SIGKILL)
            rest = list(said)
            assert process.wait(60) == 0, rest
        finally:
            patience.cancel()
            process.terminate()  # torchrun then ends its workers
    restarted = [m for line in rest if (m := re.match(r"restart 1: goes on from step-(\d+)", line))]
    assert restarted, rest
    assert 20 <= int(restarted[0][1]) < 160

    final, expected = load_file(newest(run)), load_file(newest(undisturbed / "run"))
    assert newest(run).name == newest(undisturbed / "run").name == "step-00000160.safetensors"
    assert final.keys() == expected.keys()
    assert {"model/h", "model/C", "model/embedding.weight", "history/losses"} < final.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(final[name], x, err_msg=name)
    told, whole = json.loads(record.read_text()), json.loads((undisturbed / "record.json").read_text())
    assert told["parameters"] == whole["parameters"]
    assert told["losses"] == whole["losses"]
    assert len(told["losses"]) == 160


@pytest.fixture
def a_copy(undisturbed, tmp_path, alone) -> Path:
    """The checkpoints of the undisturbed run, to be spoilt."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (undisturbed / "run").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_another_number_of_workers_goes_on_with_the_same_batch(agree, shares, alone):
    """Two processes made 7 steps; one makes 13 in all, from their checkpoint and by itself."""
    folder = shares["folder"] / "run"
    assert [path.name for path in sorted(folder.iterdir())] == [
        "step-00000004.safetensors",
        "step-00000007.safetensors",
    ]
    with distributed.start() as world:
        parts = worker.train_streams(world, 13, folder)
        whole = worker.train_streams(world, 13, None)
    for got in shares["got"]:
        np.testing.assert_array_equal(got["losses"], parts.losses[:7])
    agree("train.fit", "the same in one process", parts.losses, whole.losses, tolerance=1e-12)
    agree("train.fit", "the same in one process", parts.gradient_norms, whole.gradient_norms, tolerance=1e-12)
    for (name, x), y in zip(
        parts.model.module.state_dict().items(), whole.model.module.state_dict().values(), strict=True
    ):
        assert torch.allclose(x, y, rtol=0, atol=1e-9), name  # also h and C, those of all streams
    assert len(parts.losses) == 13
    first, second = (got["drawn"] for got in shares["got"])
    assert not np.isclose(first, second).any(), "the processes must not drop the same units"


def refusal(capsys, *arguments: Any) -> str:
    """The one sentence that the script ends with."""
    with pytest.raises(SystemExit) as stopped:
        experiment.main([*TINY, *map(str, arguments)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("parallel.py: ")
    assert told.count("\n") == 1
    assert not torch.distributed.is_initialized()
    return told


def test_a_checkpoint_that_is_cut_off_is_refused_and_the_one_before_it_named(a_copy, capsys):
    path = newest(a_copy)
    path.write_bytes(path.read_bytes()[:-100])
    told = refusal(capsys, "--checkpoints", a_copy, "--steps", 180)
    assert f"{path} is refused: the checksum does not fit" in told
    assert "step-00000140.safetensors; remove the refused file to go on from there" in told
    path.unlink()
    experiment.main([*TINY, "--checkpoints", str(a_copy), "--steps", "141"])
    assert "goes on from step-00000140.safetensors" in capsys.readouterr().out


def test_a_lost_checkpoint_is_missed_where_one_is_asked_for(tmp_path, alone, capsys):
    told = refusal(capsys, "--checkpoints", tmp_path / "gone", "--resume")
    assert f"there is no checkpoint in {tmp_path / 'gone'}: without it the run begins at step 0" in told


def test_a_checkpoint_of_another_batch_is_refused(a_copy, capsys):
    told = refusal(capsys, "--checkpoints", a_copy, "--streams", 6, "--steps", 180)
    assert "the array C is ['float32', [1, 5, 12]] in it and ['float32', [1, 6, 12]] here" in told


def test_measuring_takes_two(alone, capsys):
    assert "--measure needs 2 processes, and here is 1: use torchrun" in refusal(capsys, "--measure")


def test_more_workers_than_streams_are_refused(alone, monkeypatch, capsys):
    import contextlib

    monkeypatch.setattr(
        experiment.distributed,
        "start",
        lambda device: contextlib.nullcontext(distributed.World(0, 6, torch.device("cpu"))),
    )
    told = refusal(capsys)
    assert "streams is 5, expected at least one for each of the 6 workers" in told


# --- the record ------------------------------------------------------------------------------------


@given(positive, positive, seeds)
def test_latency_and_bandwidth_are_found_again(latency, per_byte, seed):
    """From times of the model itself, with noise of one in a hundred thousand."""
    rng = np.random.default_rng(seed)
    ratio = latency / per_byte
    sizes = [8, *(max(9, int(ratio * 2**k)) for k in range(-4, 5))]
    times = {S: [distributed.ring_time(S, 2, latency, per_byte) * (1 + 1e-5 * rng.normal())] for S in sizes}
    found = experiment.fit_line(times)
    if 100 < ratio < 1e5:  # both matter at these sizes
        np.testing.assert_allclose(found, (latency, per_byte), rtol=1e-3)
    assert experiment.ratio({"a": [2.0, 9.0], "b": [1.0, 3.0]}, "a", "b") == [2, 3]
    assert experiment.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3, "low": 2, "high": 4}


def test_the_record_is_that_of_the_script():
    record = json.loads((ROOT / "experiments" / "parallel.json").read_text(encoding="utf-8"))
    assert record["command"].startswith(
        "torchrun --standalone --nproc-per-node 2 experiments/parallel.py --measure"
    )
    assert (record["experiment"], record["backend"], record["processes"]) == ("parallel", "gloo", 2)
    assert record["blocks"] >= 15
    assert record["device"].startswith("CPU")
    assert [m["bytes"] for m in record["messages"]] == experiment.SIZES
    assert {
        p["name"]: {k: p[k] for k in experiment.POINTS[p["name"]]} for p in record["points"]
    } == experiment.POINTS
    medians = {m["bytes"]: [m["median"]] for m in record["messages"]}
    np.testing.assert_allclose(
        experiment.fit_line(medians), (record["latency"], record["per_byte"]), rtol=1e-9
    )
    assert record["latency"] > 0
    assert record["per_byte"] > 0
    options = experiment.parser().parse_args([])
    world = distributed.World(0, 2, torch.device("cpu"))
    for point in record["points"]:
        assert point["bytes"] == experiment.tasks_bytes(options, world, experiment.POINTS[point["name"]])
        assert set(point["seconds"]) == {"alone", "half alone", "side by side", "together", "send"}
        for times in point["seconds"].values():
            assert 0 < times["low"] <= times["median"] <= times["high"]
        spread = point["speed_up"]
        rough = point["seconds"]["alone"]["median"] / point["seconds"]["together"]["median"]
        assert spread["low"] * 0.8 < rough < spread["high"] * 1.25
