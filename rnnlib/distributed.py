"""Floor 4, chapter 14: what many workers compute together, and what it costs them.

K workers hold the same parameters. Each computes the gradient on a shard of the batch, all take the mean,
and all make the same step. The first part holds what they must agree on; the second how a sum travels
around a ring; the third the time that it takes, on paper; the fourth what a larger batch is worth; the
fifth is about runs that need not talk at all.

Times are in seconds, sizes in bytes. ``latency`` is α, what any message takes however short it is, and
``per_byte`` is β, what each byte of it adds: 1/β is the bandwidth.

The equations run in one process, on all workers' arrays at once. :func:`start` and
:func:`send_around_the_ring` are what a real worker runs, on ``torch.distributed``; :func:`rnnlib.train.fit`
trains a module that is wrapped in ``torch.nn.parallel.DistributedDataParallel``.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from rnnlib.backend import Array, backend_of, check_choice, check_count, check_number, check_share, checked
from rnnlib.equations import implements

# --- shards ---------------------------------------------------------------------------------------


@implements("eq-parallel-shard")
def stream_shard(streams: int, workers: int, worker: int) -> tuple[int, int]:
    """The streams of one worker: a block of neighbours, as even as it goes (:eq:`eq-parallel-shard`).

    A stream stays with one worker, since its hidden state is there. The first B mod K workers have one
    stream more than the others.

    Args:
        streams: the number of streams, B, at least one for each worker.
        workers: the number of workers, K.
        worker: which one, k, from 0 to K - 1.

    Returns:
        The first stream, and the one after the last.

    Raises:
        TypeError, ValueError: not whole numbers; more workers than streams; no such worker.
    """
    workers = check_count("stream_shard", "workers", workers)
    worker = check_count("stream_shard", "worker", worker, 0, workers - 1)
    streams = check_count("stream_shard", "streams", streams)
    if streams < workers:
        raise ValueError(
            f"stream_shard: streams is {streams}, expected at least one for each of the {workers} workers"
        )
    share, rest = divmod(streams, workers)
    start = worker * share + min(worker, rest)
    return start, start + share + (worker < rest)


@implements("eq-parallel-gradient")
def mean_gradient(gradients: Annotated[Array, "K P"], counts: Annotated[Array, "K"]) -> Annotated[Array, "P"]:
    """The gradient of the mean over all terms, from the shards' own means (:eq:`eq-parallel-gradient`).

    Args:
        gradients: of each worker the gradient of the mean over its terms, (K, P).
        counts: over how many terms each took the mean, (K,): sequences, or symbols where lengths differ.

    Returns:
        The gradient of the mean over all terms, (P,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a count below 0, or none above 0.
    """
    extremes = backend_of(counts).extremes(counts)
    if extremes is not None and not 0 <= extremes[0] <= extremes[1]:
        raise ValueError(f"mean_gradient: counts holds {extremes[0]}, expected no number below 0")
    if extremes is not None and extremes[1] == 0:
        raise ValueError("mean_gradient: counts holds only 0, expected a worker with terms")
    return counts @ gradients / counts.sum()  # (P,)


@implements("eq-parallel-factor")
def shard_factor(count: float, total: float, workers: int) -> float:
    """What a worker multiplies its mean by, so that a plain mean is right (:eq:`eq-parallel-factor`).

    ``DistributedDataParallel`` adds the gradients of the workers and divides by K, whatever their shares.

    Args:
        count: the terms of this worker, n_k.
        total: the terms of all workers, n.
        workers: K.

    Returns:
        K n_k / n: 1 where the shares are equal.

    Raises:
        TypeError, ValueError: numbers out of range; more terms than there are.
    """
    count = check_number("shard_factor", "count", count, above=False)
    total = check_number("shard_factor", "total", total)
    workers = check_count("shard_factor", "workers", workers)
    if count > total:
        raise ValueError(f"shard_factor: count is {count}, expected at most total = {total}")
    return workers * count / total


# --- the sum, and the ring that carries it ----------------------------------------------------------


@implements("eq-parallel-all-reduce")
def all_reduce(vectors: Annotated[Array, "K N"]) -> Annotated[Array, "K N"]:
    """Every worker gives a vector, and every worker gets the sum (:eq:`eq-parallel-all-reduce`).

    Args:
        vectors: one of each worker, (K, N).

    Returns:
        The sum, once for each worker, (K, N).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return backend_of(vectors).zeros_like(vectors) + vectors.sum(0)


@implements("eq-parallel-all-reduce-backward")
def all_reduce_backward(d_sums: Annotated[Array, "K N"]) -> Annotated[Array, "K N"]:
    """The derivative of :func:`all_reduce`, which is one again (:eq:`eq-parallel-all-reduce-backward`).

    Args:
        d_sums: ∂L/∂(the sum), for what each worker did with it, (K, N).

    Returns:
        ∂L/∂(the vector of each worker), (K, N).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    return all_reduce.unchecked(d_sums)


@implements("eq-parallel-reduce-scatter")
def ring_reduce_scatter(
    chunks: Annotated[Array, "K K N"], steps: int | None = None
) -> Annotated[Array, "K K N"]:
    """First half of the ring: each worker ends with one chunk of the sum (:eq:`eq-parallel-reduce-scatter`).

    In every step each worker sends one chunk to its right neighbour, which adds it to its own.

    Args:
        chunks: the vector of each worker, cut into K chunks, (K, K, N): first the worker, then the chunk.
        steps: how many steps, from 0 to K - 1; all K - 1 if None.

    Returns:
        What the workers hold then, (K, K, N). After all steps chunk k + 1 (mod K) is complete at worker k.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps out of range.
    """
    xp, K = backend_of(chunks), len(chunks)
    held = [list(worker) for worker in chunks]
    for step in range(_ring_steps("ring_reduce_scatter", steps, K)):
        sent = [held[k][(k - step) % K] for k in range(K)]  # all at once: nobody waits for a neighbour
        for k in range(K):
            chunk = (k - 1 - step) % K
            held[k][chunk] = held[k][chunk] + sent[k - 1]
    return xp.stack([xp.stack(worker) for worker in held])  # (K, K, N)


@implements("eq-parallel-all-gather")
def ring_all_gather(chunks: Annotated[Array, "K K N"], steps: int | None = None) -> Annotated[Array, "K K N"]:
    """Second half of the ring: the finished chunks go round (:eq:`eq-parallel-all-gather`).

    In every step each worker sends one finished chunk to its right neighbour, which keeps it.

    Args:
        chunks: what :func:`ring_reduce_scatter` returned, (K, K, N).
        steps: how many steps, from 0 to K - 1; all K - 1 if None.

    Returns:
        What the workers hold then, (K, K, N): after all steps the same, every chunk complete.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; steps out of range.
    """
    xp, K = backend_of(chunks), len(chunks)
    held = [list(worker) for worker in chunks]
    for step in range(_ring_steps("ring_all_gather", steps, K)):
        sent = [held[k][(k + 1 - step) % K] for k in range(K)]
        for k in range(K):
            held[k][(k - step) % K] = sent[k - 1]
    return xp.stack([xp.stack(worker) for worker in held])  # (K, K, N)


def _ring_steps(where: str, steps: int | None, workers: int) -> int:
    return workers - 1 if steps is None else check_count(where, "steps", steps, 0, workers - 1)


@checked
def ring_all_reduce(vectors: Annotated[Array, "K N"]) -> Annotated[Array, "K N"]:
    """:func:`all_reduce` by both halves of the ring.

    Args:
        vectors: one of each worker, (K, N). Zeros fill the last chunk where K does not divide N.

    Returns:
        The sum, once for each worker, (K, N): the same bits for all of them.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(vectors)
    K, N = (int(n) for n in vectors.shape)
    size = -(-N // K)
    filled = xp.concat([vectors, xp.zeros((K, K * size - N), like=vectors)], axis=1)
    chunks = filled.reshape((K, K, size))
    summed = ring_all_gather.unchecked(ring_reduce_scatter.unchecked(chunks))
    return summed.reshape((K, K * size))[:, :N]


# --- the time, on paper -----------------------------------------------------------------------------


@implements("eq-parallel-traffic")
def ring_traffic(size: float, workers: int) -> float:
    """How many bytes each worker sends around the ring (:eq:`eq-parallel-traffic`).

    Args:
        size: bytes of the vector, S.
        workers: K.

    Returns:
        2 (K - 1) S / K, never more than 2S.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    size = check_number("ring_traffic", "size", size, above=False)
    workers = check_count("ring_traffic", "workers", workers)
    return 2 * (workers - 1) * size / workers


@implements("eq-parallel-message")
def message_time(size: float, latency: float, per_byte: float) -> float:
    """The time of one message: latency and bandwidth (:eq:`eq-parallel-message`; Hockney 1994).

    Args:
        size: bytes of the message, S.
        latency: α, seconds.
        per_byte: β, seconds.

    Returns:
        α + Sβ, in seconds.

    Raises:
        TypeError, ValueError: not finite numbers of at least 0.
    """
    size = check_number("message_time", "size", size, above=False)
    latency = check_number("message_time", "latency", latency, above=False)
    return latency + size * check_number("message_time", "per_byte", per_byte, above=False)


@implements("eq-parallel-ring-time")
def ring_time(size: float, workers: int, latency: float, per_byte: float) -> float:
    """The time of an all-reduce around the ring (:eq:`eq-parallel-ring-time`).

    Args:
        size: bytes of the vector, S.
        workers: K.
        latency: α, seconds.
        per_byte: β, seconds.

    Returns:
        2 (K - 1) messages of S/K bytes, one after the other, in seconds.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    workers = check_count("ring_time", "workers", workers)
    size = check_number("ring_time", "size", size, above=False)
    latency = check_number("ring_time", "latency", latency, above=False)
    per_byte = check_number("ring_time", "per_byte", per_byte, above=False)
    return 2 * (workers - 1) * message_time(size / workers, latency, per_byte)


@implements("eq-parallel-halving-time")
def halving_time(size: float, workers: int, latency: float, per_byte: float) -> float:
    """The time of an all-reduce by halving and doubling (:eq:`eq-parallel-halving-time`).

    Workers pair up and exchange half of the vector, then a quarter of it in other pairs, and so on; then
    the same backwards (Thakur et al. 2005).

    Args:
        size: bytes of the vector, S.
        workers: K, a power of two.
        latency: α, seconds.
        per_byte: β, seconds.

    Returns:
        2 log₂ K messages, and as many bytes as around the ring, in seconds.

    Raises:
        TypeError, ValueError: numbers out of range; K is no power of two.
    """
    workers = check_count("halving_time", "workers", workers)
    if workers & (workers - 1):
        raise ValueError(f"halving_time: workers is {workers}, expected a power of two")
    size = check_number("halving_time", "size", size, above=False)
    latency = check_number("halving_time", "latency", latency, above=False)
    per_byte = check_number("halving_time", "per_byte", per_byte, above=False)
    bytes_sent = ring_traffic(size, workers)
    return 2 * (workers.bit_length() - 1) * latency + message_time(bytes_sent, 0, per_byte)


@implements("eq-parallel-step")
def step_time(work: float, workers: int, communication: float, serial: float = 0.0) -> float:
    """The time of a training step that is shared by K workers (:eq:`eq-parallel-step`).

    Args:
        work: what can be shared, of the whole batch on one worker, c, seconds.
        workers: K.
        communication: what the workers need to agree, r_K, seconds.
        serial: what each worker must do in full, d, seconds, such as the optimiser's update.

    Returns:
        d + c/K + r_K, in seconds.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    work = check_number("step_time", "work", work, above=False)
    workers = check_count("step_time", "workers", workers)
    communication = check_number("step_time", "communication", communication, above=False)
    return check_number("step_time", "serial", serial, above=False) + work / workers + communication


@implements("eq-parallel-overlap")
def overlapped_time(forward: float, backward: float, message: float, buckets: int) -> float:
    """The time of a step that sends what is ready while it still computes (:eq:`eq-parallel-overlap`).

    The gradient is sent in equal buckets, each as soon as the backward pass has filled it, one at a time.

    Args:
        forward: the forward pass, f, seconds.
        backward: the backward pass, b, seconds; each bucket takes an equal part of it.
        message: the all-reduce of one bucket, y, seconds.
        buckets: m, at least 1; with 1 nothing overlaps.

    Returns:
        f + b/m + y + (m - 1) max(b/m, y), in seconds.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    forward = check_number("overlapped_time", "forward", forward, above=False)
    message = check_number("overlapped_time", "message", message, above=False)
    buckets = check_count("overlapped_time", "buckets", buckets)
    filling = check_number("overlapped_time", "backward", backward, above=False) / buckets
    return forward + filling + message + (buckets - 1) * max(filling, message)


@implements("eq-parallel-speedup")
def speed_up(single: float, parallel: float) -> float:
    """How many times faster the same work is done (:eq:`eq-parallel-speedup`).

    Args:
        single: seconds on one worker, t₁.
        parallel: seconds on K workers, t_K.

    Returns:
        t₁ / t_K.

    Raises:
        TypeError, ValueError: not finite numbers above 0.
    """
    single = check_number("speed_up", "single", single)
    return single / check_number("speed_up", "parallel", parallel)


@implements("eq-parallel-efficiency")
def efficiency(single: float, parallel: float, workers: int) -> float:
    """Which share of K workers is of use: strong scaling, the batch stays (:eq:`eq-parallel-efficiency`).

    Args:
        single: seconds on one worker, t₁.
        parallel: seconds of the same batch on K workers, t_K.
        workers: K.

    Returns:
        t₁ / (K t_K); 1 is perfect.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    single = check_number("efficiency", "single", single)
    parallel = check_number("efficiency", "parallel", parallel)
    return speed_up(single, parallel) / check_count("efficiency", "workers", workers)


@implements("eq-parallel-weak")
def weak_efficiency(single: float, communication: float) -> float:
    """The efficiency of weak scaling: each worker brings its own batch (:eq:`eq-parallel-weak`).

    Args:
        single: seconds of a step on one worker's batch, t₁.
        communication: what the workers need to agree, r_K, seconds.

    Returns:
        t₁ / (t₁ + r_K).

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    single = check_number("weak_efficiency", "single", single)
    return single / (single + check_number("weak_efficiency", "communication", communication, above=False))


@implements("eq-parallel-amdahl")
def amdahl(serial_share: float, workers: int) -> float:
    """The speed-up without any communication (:eq:`eq-parallel-amdahl`; Amdahl 1967).

    Args:
        serial_share: the share of one worker's time that cannot be shared, q, from 0 to 1.
        workers: K.

    Returns:
        1 / (q + (1 - q)/K), never above 1/q.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    share = check_share("amdahl", "serial_share", serial_share)
    return 1 / (share + (1 - share) / check_count("amdahl", "workers", workers))


@implements("eq-parallel-optimum")
def best_workers(work: float, size: float, latency: float, per_byte: float) -> float:
    """With how many workers on a ring a step is shortest (:eq:`eq-parallel-optimum`).

    Args:
        work: what can be shared, of the whole batch on one worker, c, seconds.
        size: bytes of the gradient, S.
        latency: α, seconds, above 0.
        per_byte: β, seconds.

    Returns:
        The minimum over real numbers K ≥ 1; the best whole number is one of its two neighbours. It is 1 where
        sending the gradient takes longer than the work.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    work = check_number("best_workers", "work", work, above=False)
    size = check_number("best_workers", "size", size, above=False)
    latency = check_number("best_workers", "latency", latency)
    spare = work - 2 * size * check_number("best_workers", "per_byte", per_byte, above=False)
    return max(1.0, math.sqrt(max(spare, 0.0) / (2 * latency)))


# --- what a larger batch is worth -------------------------------------------------------------------


@implements("eq-parallel-linear-rule")
def linear_rule(rate: float, workers: int) -> float:
    """The learning rate of one step for K small ones (:eq:`eq-parallel-linear-rule`; Goyal et al. 2017).

    Args:
        rate: the learning rate of one worker's batch, η.
        workers: K, each with a batch of the same size.

    Returns:
        Kη.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    return check_number("linear_rule", "rate", rate) * check_count("linear_rule", "workers", workers)


@implements("eq-parallel-linear-rule-error")
def linear_rule_error(rate: float, workers: int, smoothness: float, gradient_norm: float) -> float:
    """How far one large step can end from K small ones (:eq:`eq-parallel-linear-rule-error`).

    Args:
        rate: the learning rate of a small step, η.
        workers: K.
        smoothness: a Lipschitz constant of every batch's gradient, λ.
        gradient_norm: a bound on the length of these gradients along the way, G.

    Returns:
        λ η² G K (K - 1) / 2, a bound on the distance of the parameters.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    rate = check_number("linear_rule_error", "rate", rate)
    workers = check_count("linear_rule_error", "workers", workers)
    smoothness = check_number("linear_rule_error", "smoothness", smoothness, above=False)
    gradient_norm = check_number("linear_rule_error", "gradient_norm", gradient_norm, above=False)
    return smoothness * rate**2 * gradient_norm * workers * (workers - 1) / 2


@implements("eq-parallel-noise")
def expected_square(square: float, variance: float, batch_size: int) -> float:
    """The expected squared length of a batch's gradient (:eq:`eq-parallel-noise`).

    Args:
        square: the squared length of the true gradient, ‖G‖².
        variance: the trace of the covariance of one example's gradient, V.
        batch_size: B, examples drawn independently.

    Returns:
        ‖G‖² + V/B.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    square = check_number("expected_square", "square", square, above=False)
    variance = check_number("expected_square", "variance", variance, above=False)
    return square + variance / check_count("expected_square", "batch_size", batch_size)


@implements("eq-parallel-noise-scale")
def noise_scale(small_square: float, large_square: float, small: int, large: int) -> float:
    """The noise scale V/‖G‖², from gradients at two batch sizes (:eq:`eq-parallel-noise-scale`).

    Workers have both at hand: their own gradients, and the mean of them (McCandlish et al. 2018).

    Args:
        small_square: the mean squared length of a gradient of the smaller batches.
        large_square: that of the larger batches.
        small: examples of a smaller batch, b.
        large: examples of a larger one, B, more than b.

    Returns:
        An estimate of V/‖G‖², a number of examples.

    Raises:
        TypeError, ValueError: numbers out of range; the two squares leave no ‖G‖² above 0: too few batches
            were averaged.
    """
    small_square = check_number("noise_scale", "small_square", small_square)
    large_square = check_number("noise_scale", "large_square", large_square)
    small = check_count("noise_scale", "small", small)
    large = check_count("noise_scale", "large", large, small + 1)
    square = (large * large_square - small * small_square) / (large - small)
    variance = (small_square - large_square) / (1 / small - 1 / large)
    if square <= 0:
        raise ValueError(
            f"noise_scale: small_square is {small_square} and large_square {large_square}, which leaves "
            f"{square} for the square of the true gradient, expected a number above 0: average more batches"
        )
    return variance / square


@implements("eq-parallel-progress")
def progress(noise: float, batch_size: int) -> float:
    """Which share of the best possible step a batch of this size allows (:eq:`eq-parallel-progress`).

    Args:
        noise: the noise scale V/‖G‖², see :func:`noise_scale`.
        batch_size: B.

    Returns:
        1 / (1 + noise/B): a half where B is the noise scale.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    noise = check_number("progress", "noise", noise, above=False)
    return 1 / (1 + noise / check_count("progress", "batch_size", batch_size))


# --- many runs --------------------------------------------------------------------------------------


@implements("eq-parallel-runs")
def runs_efficiency(runs: int, workers: int) -> float:
    """The share of the workers that is of use for runs of equal length (:eq:`eq-parallel-runs`).

    Args:
        runs: R, each of which one worker does alone.
        workers: K.

    Returns:
        R / (K ⌈R/K⌉): 1 where K divides R, R/K where there are more workers than runs.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    runs = check_count("runs_efficiency", "runs", runs)
    workers = check_count("runs_efficiency", "workers", workers)
    return runs / (workers * -(-runs // workers))


@implements("eq-parallel-interval")
def success_interval(successes: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """The chances of success that go with what some runs showed (:eq:`eq-parallel-interval`; Wilson 1927).

    Args:
        successes: s, how many of the runs succeeded, from 0 to n.
        runs: n, independent of each other.
        z: by how many standard deviations the share may miss the chance; 1.96 for 95 of 100 times.

    Returns:
        The lowest and the highest such chance.

    Raises:
        TypeError, ValueError: numbers out of range.
    """
    runs = check_count("success_interval", "runs", runs)
    share = check_count("success_interval", "successes", successes, 0, runs) / runs
    per_run = check_number("success_interval", "z", z) ** 2 / runs  # z²/n
    half = math.sqrt(per_run * (share * (1 - share) + per_run / 4))
    low, high = (share + per_run / 2 + sign * half for sign in (-1, 1))
    return max(low / (1 + per_run), 0.0), min(high / (1 + per_run), 1.0)


# --- a real worker ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The place of this process among the workers.

    Attributes:
        rank: its number, k, from 0 to K - 1.
        size: how many there are, K.
        device: what it computes on.
    """

    rank: int
    size: int
    device: Any  # a torch.device


def _place(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them; (0, 1, 0) where it did not."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = [name for name in names if name in environment]
    if not given:
        return 0, 1, 0
    if len(given) < len(names):
        missing = next(name for name in names if name not in environment)
        raise ValueError(
            f"start: {missing} is not set, but {given[0]} is; expected all of {', '.join(names)} or none"
        )
    values = []
    for name in names:
        if not environment[name].isdecimal():
            raise ValueError(f"start: {name} is {environment[name]!r}, expected a whole number")
        values.append(int(environment[name]))
    rank, size, local = values
    if not rank < size:
        raise ValueError(f"start: RANK is {rank}, expected a number below WORLD_SIZE = {size}")
    return rank, size, local


def _meeting_place(rank: int, size: int, limit: datetime.timedelta) -> Any:
    """Where the workers leave their addresses for each other.

    torchrun keeps the place for the next try after a failure. Without a name of its own for each try, a
    worker would find there the address of one that is dead.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if size == 1:
        return dist.HashStore()
    store, _, _ = next(rendezvous("env://", rank, size, timeout=limit))
    store.set_timeout(limit)
    return dist.PrefixStore(f"try {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {size}", store)


@contextlib.contextmanager
def _loopback(one_machine: bool) -> Iterator[None]:
    """On one machine gloo shall talk over loopback alone, unless it was told otherwise."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if not one_machine or not names or "GLOO_SOCKET_IFNAME" in os.environ:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]


@contextlib.contextmanager
def start(device: str = "cpu", timeout: float = 600.0) -> Iterator[World]:
    """Join the other workers, for the length of a ``with`` block.

    Under ``torchrun`` these are the processes that it started, on this machine or on many. Started as
    plain ``python``, it is a world of one, and nothing else has to change. GPUs talk by NCCL, CPUs by gloo,
    over loopback where all are on one machine.

    Args:
        device: ``"cpu"``, or ``"cuda"`` for one GPU per process of a machine.
        timeout: after how many seconds without an answer from another worker to give up.

    Yields:
        The place of this process.

    Raises:
        ValueError: torchrun's settings contradict each other, or there are fewer GPUs than processes.
    """
    import torch
    import torch.distributed as dist

    check_choice("start", "device", device, ("cpu", "cuda"))
    limit = datetime.timedelta(seconds=check_number("start", "timeout", timeout))
    rank, size, local = _place(os.environ)
    where = torch.device("cpu")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"start: process {local} of this machine needs a GPU of its own, and there are "
                f"{torch.cuda.device_count()}: start no more processes than GPUs"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    backend = "nccl" if device == "cuda" else "gloo"
    with _loopback(size == 1 or os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost")):
        store = _meeting_place(rank, size, limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    try:
        yield World(rank, size, where)
    finally:
        dist.destroy_process_group()


def wrap(model: Any) -> Any:
    """A module whose gradients are the mean over all processes, and whose streams are its own.

    ``DistributedDataParallel`` gives all processes the parameters of the first and, before each forward
    pass, its buffers. Buffers that the module names in ``stream_buffers`` are left out: they hold the hidden
    states of this process' streams.

    Args:
        model: the module, on its device, after :func:`start`.

    Returns:
        The module to call instead; ``.module`` is the one that was given.
    """
    from torch.nn.parallel import DistributedDataParallel

    own = list(getattr(model, "stream_buffers", {}))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, own)
    return DistributedDataParallel(model)


def send_around_the_ring(vector: Array) -> Array:
    """:func:`ring_all_reduce` as one worker runs it, with real messages to its neighbours.

    Args:
        vector: that of this worker, (N,), the same N for all. It stays as it is.

    Returns:
        The sum over all workers, (N,).
    """
    import torch
    import torch.distributed as dist

    k, K = dist.get_rank(), dist.get_world_size()
    right, left = (k + 1) % K, (k - 1) % K
    size = -(-len(vector) // K)
    filled = torch.nn.functional.pad(vector, (0, K * size - len(vector)))
    held = list(filled.clone().split(size))

    def pass_on(chunk: int) -> torch.Tensor:
        arriving = torch.empty_like(held[0])
        sending = dist.isend(held[chunk].contiguous(), right)
        dist.recv(arriving, left)
        if sending is not None:
            sending.wait()
        return arriving

    for step in range(K - 1):
        held[(k - 1 - step) % K] += pass_on((k - step) % K)
    for step in range(K - 1):
        held[(k - step) % K] = pass_on((k + 1 - step) % K)
    return torch.cat(held)[: len(vector)]
