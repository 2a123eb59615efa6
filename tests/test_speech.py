"""Features held to SciPy and librosa, warping held to all walks, and the experiment of the chapter."""

from __future__ import annotations

import itertools
import json
import math

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.spatial.distance
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import datasets, speech
from tests.conftest import ROOT
from tests.support import load_module, seeds, sizes

# --- features ---------------------------------------------------------------------------------


@pytest.mark.equation("eq-speech-window")
@pytest.mark.parametrize("size", [2, 5, 16, 401])
def test_the_window_is_scipys(agree, size):
    agree(speech.hann_window, "scipy.signal", speech.hann_window(size), scipy.signal.get_window("hann", size))


@pytest.mark.equation("eq-speech-frames")
@given(seeds, st.integers(1, 9), st.integers(1, 7), st.integers(0, 20))
def test_frames_are_librosas(agree, seed, size, hop, more):
    samples = np.random.default_rng(seed).normal(size=size + more)
    cut = speech.frames(samples, size, hop)
    expected = librosa.util.frame(samples, frame_length=size, hop_length=hop).T
    agree(speech.frames, "librosa", cut, expected)
    np.testing.assert_array_equal(speech.frames(torch.tensor(samples), size, hop).numpy(), cut)


@pytest.mark.equation("eq-speech-spectrum")
@given(seeds, sizes("T", "N", high=9), st.integers(0, 5))
def test_the_power_is_that_of_the_sum_as_it_is_written(agree, seed, n, more):
    windowed = np.random.default_rng(seed).normal(size=(n["T"], n["N"]))
    M = n["N"] + more
    k, samples = np.arange(M // 2 + 1)[:, None], np.arange(n["N"])
    X = windowed @ np.exp(-2j * np.pi * k * samples / M).T
    power = speech.power_spectrum(windowed, M)
    agree(speech.power_spectrum, "the sum", power, np.abs(X) ** 2)
    agree(speech.power_spectrum, "the sum", speech.power_spectrum(torch.tensor(windowed), M), np.abs(X) ** 2)


def test_the_spectrogram_of_the_sentence_is_scipys_and_librosas(agree):
    samples, rate, _ = datasets.spoken_sentence()
    window = speech.hann_window(400)
    power = speech.power_spectrum(speech.frames(samples, 400, 160) * window, 512)
    options = {"nperseg": 400, "noverlap": 240, "nfft": 512, "detrend": False, "scaling": "spectrum"}
    f, _, X = scipy.signal.spectrogram(samples, rate, window, mode="complex", **options)
    np.testing.assert_allclose(f, np.arange(257) * rate / 512)
    agree(speech.power_spectrum, "scipy.signal", power, np.abs(X.T * window.sum()) ** 2)
    padded = np.pad(window, (0, 112))  # librosa's frames are as long as the transform
    X = librosa.stft(samples, n_fft=512, hop_length=160, window=padded, center=False)
    agree(speech.power_spectrum, "librosa", power[: X.shape[1]], np.abs(X.T) ** 2)


@pytest.mark.equation("eq-speech-mel", "eq-speech-hertz")
@given(seeds)
def test_the_mel_scale_is_librosas_and_its_inverse(agree, seed):
    f = np.random.default_rng(seed).uniform(0, 2e4, 20)
    agree(speech.mel, "librosa", speech.mel(f), librosa.hz_to_mel(f, htk=True))
    m = speech.mel(f)
    agree(speech.hertz, "librosa", speech.hertz(m), librosa.mel_to_hz(m, htk=True))
    agree(speech.hertz, "the inverse", speech.hertz(m), f)


@pytest.mark.equation("eq-speech-filters")
@pytest.mark.parametrize(
    ("count", "size", "rate", "low", "high"),
    [(26, 512, 16000, 0.0, None), (40, 2048, 22050, 50.0, 8000.0), (5, 101, 8000, 0.0, 3000.0)],
)
def test_the_filters_are_librosas(agree, count, size, rate, low, high):
    expected = librosa.filters.mel(
        sr=rate,
        n_fft=size,
        n_mels=count,
        fmin=low,
        fmax=rate / 2 if high is None else high,
        htk=True,
        norm=None,
        dtype=np.float64,
    )
    agree(speech.mel_filters, "librosa", speech.mel_filters(count, size, rate, low, high), expected)


@pytest.mark.equation("eq-speech-log-mel")
@given(seeds, sizes("T", "F", "M"))
def test_the_log_power_of_the_filters(agree, seed, n):
    rng = np.random.default_rng(seed)
    power, filters = rng.uniform(size=(n["T"], n["F"])), rng.uniform(size=(n["M"], n["F"]))
    expected = [[math.log(sum(p * f for p, f in zip(row, w, strict=True))) for w in filters] for row in power]
    agree(speech.log_mel, "the sum", speech.log_mel(power, filters), np.array(expected))
    silence = speech.log_mel(0 * power, filters, 1e-3)
    np.testing.assert_allclose(silence, math.log(1e-3))
    assert speech.log_mel(power.astype(np.float32), filters.astype(np.float32)).dtype == np.float32


@pytest.mark.equation("eq-speech-cepstra")
@given(seeds, sizes("T", "M", high=9))
def test_the_cepstra_are_scipys_cosine_transform(agree, seed, n):
    rows = np.random.default_rng(seed).normal(size=(n["T"], n["M"]))
    expected = scipy.fft.dct(rows, type=2, norm="ortho", axis=1)
    for count in range(1, n["M"] + 1):
        agree(speech.cepstra, "scipy.fft", speech.cepstra(rows, count), expected[:, :count])
    np.testing.assert_allclose(
        speech.cepstra(torch.tensor(rows), n["M"]).numpy(), expected, rtol=1e-10, atol=1e-12
    )


def test_the_cepstra_of_the_sentence_are_librosas(agree):
    samples, rate, _ = datasets.spoken_sentence()
    cut = speech.frames(samples, 512, 160) * speech.hann_window(512)
    log_mel = speech.log_mel(speech.power_spectrum(cut), speech.mel_filters(26, 512, rate))
    theirs = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=512, hop_length=160, center=False, n_mels=26, htk=True, norm=None
    )
    expected = librosa.feature.mfcc(S=np.log(np.maximum(theirs, 1e-10)), n_mfcc=13).T
    # librosa keeps its filters in single precision.
    agree(speech.cepstra, "librosa", speech.cepstra(log_mel, 13), expected, tolerance=1e-5)


def test_features_can_be_differentiated_on_torch():
    rng = np.random.default_rng(0)
    window, filters = torch.tensor(speech.hann_window(32)), torch.tensor(speech.mel_filters(5, 32, 8000))

    def features(samples):
        cut = speech.frames(samples, 32, 16) * window
        return speech.cepstra(speech.log_mel(speech.power_spectrum(cut), filters), 4)

    samples = torch.tensor(rng.normal(size=80), requires_grad=True)
    assert torch.autograd.gradcheck(features, (samples,))


# --- warping ----------------------------------------------------------------------------------


def walks(T: int, U: int, i: int = 0, j: int = 0):
    """Every walk from (i, j) to the last cell."""
    if (i, j) == (T - 1, U - 1):
        yield [(i, j)]
        return
    for p, q in ((i + 1, j + 1), (i + 1, j), (i, j + 1)):
        if p < T and q < U:
            for rest in walks(T, U, p, q):
                yield [(i, j), *rest]


def paid(walk: list[tuple[int, int]], cost: np.ndarray) -> float:
    steps = [(0, 0, 2), *((p, q, p - i + q - j) for (i, j), (p, q) in itertools.pairwise(walk))]
    assert sum(w for _, _, w in steps) == sum(cost.shape)
    return sum(w * cost[p, q] for p, q, w in steps)


@pytest.mark.equation("eq-dtw-cost")
@given(seeds, sizes("T", "U", "I"))
def test_the_cost_is_the_distance_of_the_rows(agree, seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n["T"], n["I"])), rng.normal(size=(n["U"], n["I"]))
    agree(speech.frame_distances, "scipy", speech.frame_distances(x, y), scipy.spatial.distance.cdist(x, y))


@pytest.mark.equation("eq-dtw-accumulate", "eq-dtw-distance", "eq-dtw-path")
@given(seeds, sizes("T", "U", high=5))
def test_the_recursion_finds_the_cheapest_of_all_walks(agree, seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n["T"], 2)), rng.normal(size=(n["U"], 2))
    cost = scipy.spatial.distance.cdist(x, y)
    D = speech.accumulate(cost)
    for i, j in np.ndindex(cost.shape):
        cheapest = min(paid(walk, cost[: i + 1, : j + 1]) for walk in walks(i + 1, j + 1))
        assert D[i, j] == pytest.approx(cheapest, rel=1e-12)
    agree(speech.accumulate, "all walks", D[-1, -1], cheapest)
    agree(speech.warping_distance, "all walks", speech.warping_distance(x, y), cheapest / sum(cost.shape))
    path = speech.warping_path(cost, D)
    assert path[0] == (0, 0)
    assert path[-1] == (n["T"] - 1, n["U"] - 1)
    assert paid(path, cost) == pytest.approx(cheapest, rel=1e-12)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_all_pairs_at_once_are_each_pair_by_itself(agree, seed, Q, R):
    rng = np.random.default_rng(seed)
    queries, references = (
        [rng.normal(size=(rng.integers(1, 7), 3)) for _ in range(count)] for count in (Q, R)
    )
    distances = speech.warping_distances(queries, references)
    expected = [[float(speech.warping_distance(x, y)) for y in references] for x in queries]
    agree(speech.warping_distances, "one pair at a time", distances, np.array(expected))


def test_warping_is_free_of_speed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    slow = np.repeat(x, [1, 3, 2, 1, 4, 2], axis=0)
    assert speech.warping_distance(x, slow) == 0
    assert speech.warping_distance(x, x[::-1].copy()) > 0.1
    y = rng.normal(size=(9, 3))
    assert speech.warping_distance(x, y) == pytest.approx(float(speech.warping_distance(y, x)))


# --- batches ----------------------------------------------------------------------------------


@given(seeds, st.integers(1, 5))
def test_padding_is_torchs(seed, B):
    rng = np.random.default_rng(seed)
    sequences = [rng.normal(size=(rng.integers(1, 6), 2)) for _ in range(B)]
    xs, lengths = speech.pad(sequences)
    expected = torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in sequences])
    np.testing.assert_array_equal(xs, expected.numpy())
    assert lengths.tolist() == [len(x) for x in sequences]
    tensors, counts = speech.pad([torch.tensor(x, dtype=torch.float32) for x in sequences])
    torch.testing.assert_close(tensors, expected.float())
    assert counts.tolist() == lengths.tolist()


def test_joined_utterances_are_utterances_end_to_end():
    rng = np.random.default_rng(0)
    utterances = [np.full((n + 1, 2), float(n)) for n in range(5)]
    joined, labels = speech.join_utterances(utterances, [7, 8, 9, 10, 11], 200, rng)
    for x, ks in zip(joined, labels, strict=True):
        assert 2 <= len(ks) <= 4
        np.testing.assert_array_equal(x, np.concatenate([utterances[k - 7] for k in ks]))
    assert {len(ks) for ks in labels} == {2, 3, 4}
    assert {k for ks in labels for k in ks} == {7, 8, 9, 10, 11}
    again = speech.join_utterances(utterances, [7, 8, 9, 10, 11], 200, np.random.default_rng(0))
    assert again[1] == labels
    (only,) = speech.join_utterances(utterances, range(5), 1, rng, fewest=1, most=1)[1]
    assert len(only) == 1


# --- bad input --------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="hann_window: size is 1"):
        speech.hann_window(1)
    with pytest.raises(ValueError, match="frames: size is 5, expected a whole number from 1 to 4"):
        speech.frames(np.ones(4), 5, 1)
    with pytest.raises(TypeError, match="frames: hop is a float"):
        speech.frames(np.ones(4), 2, 1.0)
    with pytest.raises(ValueError, match="power_spectrum: size is 1, expected a whole number of at least 2"):
        speech.power_spectrum(x, 1)
    with pytest.raises(TypeError, match="windowed has dtype float16, expected float32 or float64"):
        speech.power_spectrum(x.astype(np.float16))
    with pytest.raises(ValueError, match="low is 4000 and high is 3000, expected low < high <= 4000"):
        speech.mel_filters(4, 64, 8000, 4000, 3000)
    with pytest.raises(ValueError, match="filter 0 holds no frequency"):
        speech.mel_filters(60, 64, 8000)
    with pytest.raises(ValueError, match="log_mel: floor is 0"):
        speech.log_mel(x, x, 0.0)
    with pytest.raises(ValueError, match="cepstra: count is 3, expected a whole number from 1 to 2"):
        speech.cepstra(x, 3)
    with pytest.raises(ValueError, match=r"y has shape \(2, 3\), expected \(U, I\) = \(2, 2\)"):
        speech.frame_distances(x, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"D has shape \(2, 2\), expected \(T, U\) = \(3, 2\)"):
        speech.warping_path(x, np.ones((2, 2)))
    with pytest.raises(ValueError, match="queries holds no sequence"):
        speech.warping_distances([], [x])
    with pytest.raises(TypeError, match=r"references\[0\] is a Tensor, expected a numpy.ndarray"):
        speech.warping_distances([x], [torch.ones(3, 2)])
    with pytest.raises(ValueError, match=r"references\[0\] has shape \(3, 1\)"):
        speech.warping_distances([x], [np.ones((3, 1))])
    with pytest.raises(ValueError, match="pad: sequences holds no array"):
        speech.pad([])
    with pytest.raises(ValueError, match=r"sequences\[1\] has shape \(3, 4\)"):
        speech.pad([x, np.ones((3, 4))])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="labels has 1 entries, expected 2 set by utterances"):
        speech.join_utterances([x, x], [1], 3, rng)
    with pytest.raises(TypeError, match=r"join_utterances: labels\[1\] is a float"):
        speech.join_utterances([x, x], [1, 1.5], 3, rng)
    with pytest.raises(ValueError, match="most is 1, expected a whole number of at least 2"):
        speech.join_utterances([x], [1], 3, rng, most=1)
    with pytest.raises(TypeError, match="join_utterances: rng is a int, expected a numpy"):
        speech.join_utterances([x], [1], 3, 0)


# --- the experiment ---------------------------------------------------------------------------


def check_record(record: dict) -> None:
    assert record["experiment"] == "speech"
    assert record["command"].startswith("python experiments/speech.py")
    assert {"python", "torch", "cuda", "numpy", "rnnlib"} <= set(record["versions"])
    assert all(record[key] for key in ("date", "device", "settings", "seeds", "ctc_seeds"))
    found = record["identification"]
    assert len(found["networks"]) == 8
    for network in found["networks"].values():
        assert [run["seed"] for run in network["per_seed"]] == record["seeds"]
        scores = [run["test"] for run in network["per_seed"]]
        assert network["test_mean"] == pytest.approx(np.mean(scores))
        assert network["test_std"] == pytest.approx(np.std(scores, ddof=1))
        entropies = [run["validation_cross_entropy"] for run in network["per_seed"]]
        assert network["validation_cross_entropy"] == pytest.approx(np.mean(entropies))
    by_validation = {name: n["validation_cross_entropy"] for name, n in found["networks"].items()}
    assert found["chosen"] == min(by_validation, key=by_validation.__getitem__)
    final = found["trained_on_all"]
    assert [run["seed"] for run in final["per_seed"]] == record["seeds"]
    assert final["test_mean"] == pytest.approx(np.mean([run["test"] for run in final["per_seed"]]))
    assert 0 <= final["ensemble"] <= 1
    spoken = record["ctc"]
    assert [run["seed"] for run in spoken["per_seed"]] == record["ctc_seeds"]
    rates = [run["label_error_rate"] for run in spoken["per_seed"]]
    assert spoken["label_error_rate_mean"] == pytest.approx(np.mean(rates))


def test_the_experiment_runs_and_writes_its_record(tmp_path):
    experiment = load_module(ROOT / "experiments" / "speech.py")
    threads = torch.get_num_threads()
    record = experiment.main(["--quick", "--device", "cpu", "--output", str(tmp_path / "speech.json")])
    assert torch.get_num_threads() == threads
    assert json.loads((tmp_path / "speech.json").read_text(encoding="utf-8")) == record
    assert record["command"] == "python experiments/speech.py --device cpu --quick"
    assert record["quick"]
    check_record(record)


def test_the_record_in_the_book_is_of_the_whole_experiment():
    record = json.loads((ROOT / "experiments" / "speech.json").read_text(encoding="utf-8"))
    assert not record["quick"]
    assert len(record["seeds"]) >= 5
    assert len(record["ctc_seeds"]) >= 5
    check_record(record)
