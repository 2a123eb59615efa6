"""Floor 4: the training loop, and checkpoints that a run survives on.

:func:`fit` trains a torch module with an optimiser of ``torch.optim``, or NumPy parameters (a cell, or
any collection of arrays) with one of :mod:`rnnlib.optim`. The loop is written once; what differs stands
in two small classes.

Batches are a function of the step, ``batches(step)``, so that a run that was cut off finds its place in
the data without help. Draw them from ``np.random.default_rng([seed, step])``. With a folder for
checkpoints, a run that was killed at any moment goes on where its last checkpoint stands, and ends with
the same parameters, bit for bit, as a run that was not. (On a GPU this needs deterministic kernels:
``torch.use_deterministic_algorithms(True)``.)

A module in ``torch.nn.parallel.DistributedDataParallel`` is trained by all processes of its group together
(:func:`rnnlib.distributed.start`, :func:`rnnlib.distributed.wrap`).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np

from rnnlib import gradients, optim
from rnnlib.backend import Array, check_choice, check_count, check_number, is_torch
from rnnlib.cell import arrays_in, named_arrays, with_arrays
from rnnlib.optim import Schedule

if TYPE_CHECKING:
    import torch

ModelT = TypeVar("ModelT")

Arrays: TypeAlias = dict[str, Array]
"""Arrays by name, as a checkpoint holds them."""


def seed(n: int) -> np.random.Generator:
    """Seed every generator there is: Python's, NumPy's old global one, torch's, on every device.

    Args:
        n: the seed, from 0 to 2³² - 1.

    Returns:
        A generator of NumPy from the same seed, for all that takes one.

    Raises:
        TypeError, ValueError: not a whole number, or out of range.
    """
    n = check_count("seed", "n", n, 0, 2**32 - 1)
    random.seed(n)
    np.random.seed(n)  # noqa: NPY002  what other libraries draw from
    with contextlib.suppress(ImportError):
        import torch

        torch.manual_seed(n)  # on the CPU and, as soon as it is used, on every CUDA device
    return np.random.default_rng(n)


@dataclass(frozen=True)
class History:
    """What a training run recorded.

    Attributes:
        model: what was trained: the module itself, or the new parameters.
        losses: the loss of every step, before its update, (steps,).
        gradient_norms: the length of the whole gradient before clipping, (steps,).
        rates: the learning rate of every step, that of the first parameter group, (steps,).
        evaluated_at: after how many steps the model was evaluated, (evaluations,).
        evaluations: what ``evaluate`` returned, (evaluations,).
        stopped_early: whether the evaluations had stopped improving before the last step.
    """

    model: Any
    losses: np.ndarray
    gradient_norms: np.ndarray
    rates: np.ndarray
    evaluated_at: np.ndarray
    evaluations: np.ndarray
    stopped_early: bool

    @property
    def best_step(self) -> int | None:
        """After how many steps the evaluation was lowest, for the first time; None without any."""
        if len(self.evaluations) == 0:
            return None
        return int(self.evaluated_at[self.evaluations.argmin()])


@dataclass
class _Record:
    """The history while it is written, and what early stopping needs to know."""

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    evaluated_at: list[int] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    stopped: bool = False
    best: Arrays = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def since_best(self) -> int:
        """How many evaluations came after the lowest one."""
        return len(self.evaluations) - 1 - int(np.argmin(self.evaluations))

    def history(self, model: Any) -> History:
        """What is recorded so far, for the caller to keep."""
        return History(
            model=model,
            losses=np.array(self.losses),
            gradient_norms=np.array(self.gradient_norms),
            rates=np.array(self.rates),
            evaluated_at=np.array(self.evaluated_at, np.int64),
            evaluations=np.array(self.evaluations, np.float64),
            stopped_early=self.stopped,
        )


_CURVES = ("losses", "gradient_norms", "rates", "evaluated_at", "evaluations")


# --- checkpoints ----------------------------------------------------------------------------------

FORMAT = "rnnlib.train 1"
"""What a checkpoint says that it is."""

_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_CHECKSUM = '"checksum":"{}"'  # as it stands in the header; inside a value the quotes would be escaped
_NO_CHECKSUM = "0" * 64


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another run."""


def _write_atomically(path: Path, data: bytes) -> None:
    """A file that is there completely or not at all, whenever the power goes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and its entries need no push
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _library(torch_tensors: bool) -> Any:
    return importlib.import_module(f"safetensors.{'torch' if torch_tensors else 'numpy'}")


def _pack(arrays: Arrays, state: dict[str, Any]) -> bytes:
    """Arrays and a JSON state as one safetensors file, with a checksum over all of it.

    The checksum stands in the header. It is that of the same file with zeros in its place.
    """
    of_torch = any(is_torch(x) for x in arrays.values())
    if of_torch:
        import torch

        # Safetensors takes no transposed views, nor two names for one memory: tied weights come as copies.
        arrays = {n: torch.as_tensor(x).detach().cpu().contiguous() for n, x in arrays.items()}
    else:
        arrays = {n: np.array(x, order="C") for n, x in arrays.items()}
    header = {"format": FORMAT, "checksum": _NO_CHECKSUM, "state": json.dumps(state)}
    data = _library(of_torch).save(arrays, metadata=header)
    return _exchange(data, _NO_CHECKSUM, hashlib.sha256(data).hexdigest())


def _exchange(data: bytes, old: str, new: str) -> bytes:
    """A file with another checksum in its header, of the same length."""
    old_entry, new_entry = _CHECKSUM.format(old).encode(), _CHECKSUM.format(new).encode()
    start = data.index(old_entry)
    return data[:start] + new_entry + data[start + len(old_entry) :]


def _unpack(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A file that :func:`_pack` made, and the state in it.

    Raises:
        CheckpointError: cut off, altered, or written by something else.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        known, checksum, state = header["format"] == FORMAT, header["checksum"], header["state"]
        zeroed = _exchange(data, checksum, _NO_CHECKSUM)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise CheckpointError(f"it is cut off, or not a checkpoint of the format {FORMAT!r}")
    if hashlib.sha256(zeroed).hexdigest() != checksum:
        raise CheckpointError("the checksum does not fit: it is cut off or was altered")
    return data, json.loads(state)


def _in_folder(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def _read(where: str, path: Path, torch_tensors: bool) -> tuple[Arrays, dict[str, Any]]:
    """A checkpoint that is whole, the one that its name says, and of a model of this kind."""
    with _refusing(where, path, "remove the refused file to go on from there"):
        data, state = _unpack(path)
        match = _NAME.fullmatch(path.name)
        if match is not None and int(match[1]) != state["step"]:
            raise CheckpointError(f"it is of step {state['step']}: it was renamed")
    with _refusing(where, path, "it needs a model like the one that was trained"):
        if state["torch"] != torch_tensors:
            raise CheckpointError(f"it is of {'a torch module' if state['torch'] else 'NumPy parameters'}")
    return _library(torch_tensors).load(data), state


@contextlib.contextmanager
def _refusing(where: str, path: Path, advice: str) -> Iterator[None]:
    """Put the path in front of what is wrong with a checkpoint, and behind it what is left."""
    try:
        yield
    except CheckpointError as error:
        siblings = _in_folder(path.parent)
        earlier = siblings[: siblings.index(path)] if path in siblings else []
        left = f"the one before it is kept as {earlier[-1]}" if earlier else "there is none before it"
        raise CheckpointError(f"{where}: {path} is refused: {error}; {left}; {advice}") from None


class _Folder:
    """The checkpoints of one run: the newest, and the one before it."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @property
    def newest(self) -> Path | None:
        return next(reversed(_in_folder(self.folder)), None)

    def save(self, step: int, arrays: Arrays, state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_atomically(self.folder / f"step-{step:08d}.safetensors", _pack(arrays, state))
        for path in _in_folder(self.folder)[:-2]:
            path.unlink()
        for path in self.folder.glob(".step-*.safetensors.tmp"):  # of a run that was killed as it wrote
            path.unlink()


def _check_same(what: str, was: Mapping[str, Any], now: Mapping[str, Any], complete: bool = True) -> None:
    """Refuse a checkpoint in which something has another value, or (``complete``) is missing."""
    for name in sorted({*was, *now}):
        if name in was and name in now:
            if was[name] != now[name]:
                raise CheckpointError(f"{what} {name} is {was[name]} in it and {now[name]} here")
        elif complete:
            raise CheckpointError(f"{what} {name} is only {'in it' if name in was else 'here'}")


def _layout(arrays: Arrays) -> dict[str, Any]:
    """Shape and dtype of every array, as JSON gives them back."""
    return {n: [str(x.dtype).removeprefix("torch."), [int(d) for d in x.shape]] for n, x in arrays.items()}


def _under(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin so, without it."""
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + n: x for n, x in arrays.items()}


# --- the global generators, as JSON ---------------------------------------------------------------


def _generators() -> dict[str, Any]:
    """The state of every generator that :func:`seed` seeds."""
    legacy: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, *rest = legacy
    state: dict[str, Any] = {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = bytes(torch.get_rng_state().tolist()).hex()
        if torch.cuda.is_initialized():
            state["cuda"] = [bytes(s.tolist()).hex() for s in torch.cuda.get_rng_state_all()]
    return state


def _set_generators(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is None:
        return

    def tensor(text: str) -> Any:
        return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)

    if "torch" in state:
        torch.set_rng_state(tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        if len(state["cuda"]) != torch.cuda.device_count():
            raise CheckpointError(
                f"it has the generators of {len(state['cuda'])} CUDA devices, and here are "
                f"{torch.cuda.device_count()}"
            )
        torch.cuda.set_rng_state_all([tensor(text) for text in state["cuda"]])


# --- one step, on torch and on NumPy --------------------------------------------------------------


class _Run(Protocol):
    """A model with its loss and its optimiser: what the loop needs of torch or NumPy."""

    torch_tensors: bool
    writes: bool
    """Whether this process is the one that writes checkpoints."""
    model: Any

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make()`` returns, or raises, in the first of the processes that run together."""

    def generators(self) -> dict[str, Any]:
        """What random numbers a run that goes on needs."""

    def step(self, step: int, batch: Any, factor: float) -> tuple[float, float, float]:
        """One update: the loss, the length of the gradient, the learning rate."""

    def evaluate(self, evaluate: Callable[[Any], float]) -> float:
        """The model's evaluation, without leaving a trace in it."""

    def arrays(self) -> Arrays:
        """The arrays of the model by name; later steps do not change them."""

    def set_arrays(self, arrays: Arrays) -> None:
        """Put arrays of the same names, shapes and dtypes in their place."""

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on, as JSON gives it back."""

    def memory(self) -> tuple[Arrays, dict[str, Any]]:
        """What the optimiser remembers: arrays and a JSON state."""

    def set_memory(self, arrays: Arrays, state: dict[str, Any]) -> None:
        """The reverse of :meth:`memory`."""

    def finish(self) -> None:
        """Leave the optimiser as it was given."""


def _finite(what: str, value: float, step: int) -> float:
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} is {value} at step {step}")
    return value


class _OneProcess:
    """A run with nobody to share it."""

    writes = True

    def from_first(self, make: Callable[[], Any]) -> Any:
        return make()

    def generators(self) -> dict[str, Any]:
        return _generators()


class _TorchRun(_OneProcess):
    """A torch module and an optimiser of ``torch.optim``."""

    torch_tensors = True

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[Any, Any], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        precision: str | None,
    ) -> None:
        import torch

        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"fit: optimizer is a {type(optimizer).__name__}, expected one of torch.optim: "
                "model is a torch module"
            )
        self.model, self._loss, self._optimizer = model, loss, optimizer
        self._bare: torch.nn.Module = model
        self._limit = math.inf if clip_norm is None else clip_norm
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._device = next((p.device.type for p in model.parameters()), "cpu")
        self._precision = precision
        # Gradients in float16 vanish below 6e-8; the scaler lifts them above that.
        self._scaler = torch.amp.GradScaler(self._device, enabled=precision == "float16")

    def step(self, step: int, batch: Any, factor: float) -> tuple[float, float, float]:
        import torch

        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.zero_grad()
        with self._autocast():
            loss = self._loss(self.model, batch)
        if not is_torch(loss) or loss.numel() != 1:
            what = f"of shape {tuple(loss.shape)}" if is_torch(loss) else f"that is a {type(loss).__name__}"
            raise TypeError(f"fit: loss returned a value {what}, expected a scalar tensor")
        value = _finite("the loss", self._value(loss), step)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        # Without a limit this multiplies by 1, which changes no bit.
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._limit).item()
        if not self._scaler.is_enabled():  # the scaler leaves out steps that overflowed, and scales less
            _finite("the length of the gradient", norm, step)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return value, norm, float(self._optimizer.param_groups[0]["lr"])

    def _value(self, loss: torch.Tensor) -> float:
        return loss.item()

    def _autocast(self) -> Any:
        import torch

        if self._precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, getattr(torch, self._precision))

    def evaluate(self, evaluate: Callable[[Any], float]) -> float:
        import torch

        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            with torch.no_grad(), self._autocast():
                return float(evaluate(self.model))
        finally:
            for module, training in modes:
                module.training = training

    def arrays(self) -> Arrays:
        state = self._bare.state_dict()
        for name, x in state.items():
            if not is_torch(x):
                raise TypeError(
                    f"fit: {name} in the model's state is a {type(x).__name__}, expected a tensor"
                )
        return {name: x.detach().clone() for name, x in state.items()}

    def set_arrays(self, arrays: Arrays) -> None:
        self._bare.load_state_dict(arrays)

    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            f"{key} of group {i}": repr(value)
            for i, group in enumerate(self._optimizer.param_groups)
            for key, value in group.items()
            if key not in ("lr", "params")
        }
        for i, group in enumerate(self._optimizer.param_groups):
            settings[f"number of parameters in group {i}"] = len(group["params"])
        rates = {f"lr of group {i}": repr(rate) for i, rate in enumerate(self._rates)}
        kind = {"optimizer": type(self._optimizer).__qualname__}
        return {**kind, **rates, **settings, "precision": self._precision, "device": self._device}

    def memory(self) -> tuple[Arrays, dict[str, Any]]:
        arrays: Arrays = {}
        numbers: dict[str, Any] = {}
        for index, slots in self._optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                if is_torch(value):
                    arrays[f"{index}.{name}"] = value
                elif value is None or isinstance(value, bool | int | float):
                    numbers[f"{index}.{name}"] = value
                else:
                    raise TypeError(
                        f"fit: {name} in the state of {type(self._optimizer).__name__} is a "
                        f"{type(value).__name__}, expected tensors and numbers: it cannot have checkpoints"
                    )
        return arrays, {"numbers": numbers, "scaler": self._scaler.state_dict()}

    def set_memory(self, arrays: Arrays, state: dict[str, Any]) -> None:
        slots: dict[int, dict[str, Any]] = {}
        for name, value in {**arrays, **state["numbers"]}.items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def finish(self) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate


class _DataParallelRun(_TorchRun):
    """A module in ``DistributedDataParallel``, one of the processes that train it together.

    Gradients are the mean over the processes, so the loss is, too. Buffers that hold streams are this
    process' own; in a checkpoint those of all stand side by side, so that any number of processes can go on.
    """

    def __init__(
        self,
        model: torch.nn.parallel.DistributedDataParallel,
        loss: Callable[[Any, Any], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        precision: str | None,
    ) -> None:
        import torch
        import torch.distributed as dist

        super().__init__(model, loss, optimizer, clip_norm, precision)
        self._bare = model.module
        self._streams: dict[str, int] = getattr(model.module, "stream_buffers", {})
        for name in self._streams:
            if name not in model.parameters_to_ignore:
                raise ValueError(
                    f"fit: the buffer {name} holds streams of this process; DistributedDataParallel would "
                    "overwrite it with that of the first: use rnnlib.distributed.wrap"
                )
        self._dist, self._group = dist, model.process_group
        self._rank, self._size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self.writes = self._rank == 0
        self._seed = torch.initial_seed()

    def from_first(self, make: Callable[[], Any]) -> Any:
        told: list[Any] = [None, None]
        if self.writes:
            try:
                told[0] = make()
            except (OSError, ValueError) as error:
                told[1] = error  # all must hear of it, or they would wait for this one
        self._dist.broadcast_object_list(told, self._dist.get_global_rank(self._group, 0), self._group)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def generators(self) -> dict[str, Any]:
        return {}  # every step is seeded for itself

    def step(self, step: int, batch: Any, factor: float) -> tuple[float, float, float]:
        import torch

        own = np.random.SeedSequence([self._seed, step, self._rank])
        torch.manual_seed(int(own.generate_state(1)[0]))
        return super().step(step, batch, factor)

    def _value(self, loss: torch.Tensor) -> float:
        total = loss.detach().clone()
        self._dist.all_reduce(total, group=self._group)
        return total.item() / self._size

    def _gather(self, own: Any) -> list[Any]:
        """What every process has, in order."""
        everyone: list[Any] = [None] * self._size
        self._dist.all_gather_object(everyone, own, group=self._group)
        return everyone

    def arrays(self) -> Arrays:
        import torch

        arrays = super().arrays()
        for name, dim in self._streams.items():
            arrays[name] = torch.cat(self._gather(arrays[name].cpu()), dim).to(arrays[name].device)
        return arrays

    def set_arrays(self, arrays: Arrays) -> None:
        own = dict(arrays)
        for name, dim in self._streams.items():
            size = self._bare.state_dict()[name].shape[dim]
            before = sum(self._gather(size)[: self._rank])
            own[name] = arrays[name].narrow(dim, before, size)
        super().set_arrays(own)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "seed": self._seed}


class _NumPyRun(_OneProcess):
    """A collection of NumPy arrays and an optimiser of :mod:`rnnlib.optim`."""

    torch_tensors = False

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any, Any], tuple[Any, Any]],
        optimizer: optim.Optimizer,
        clip_norm: float | None,
        precision: str | None,
    ) -> None:
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(
                f"fit: optimizer is a {type(optimizer).__name__}, expected one of rnnlib.optim: "
                "model is no torch module"
            )
        if precision is not None:
            raise ValueError(f"fit: precision is {precision!r}, expected None for NumPy parameters")
        if any(is_torch(x) for _, x in arrays_in("fit", "model", model)):
            raise TypeError("fit: model is a collection of torch tensors, expected a module or NumPy arrays")
        self.model, self._loss, self._optimizer = model, loss, optimizer
        self._clip_norm = clip_norm
        self._state = optimizer.initial(model)

    def step(self, step: int, batch: Any, factor: float) -> tuple[float, float, float]:
        result = self._loss(self.model, batch)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"fit: loss returned a {type(result).__name__}, expected (value, gradients)")
        loss, d_model = result
        value = _finite("the loss", float(loss), step)
        norm = _finite("the length of the gradient", float(gradients.global_norm.unchecked(d_model)), step)
        if self._clip_norm is not None:
            d_model, _ = gradients.clip_by_norm.unchecked(d_model, self._clip_norm)
        self.model, self._state = self._optimizer.step(self.model, d_model, self._state, factor)
        return value, norm, self._optimizer.rate * factor

    def evaluate(self, evaluate: Callable[[Any], float]) -> float:
        return float(evaluate(self.model))

    def arrays(self) -> Arrays:
        return named_arrays(self.model)

    def set_arrays(self, arrays: Arrays) -> None:
        self.model = with_arrays(self.model, arrays)

    def settings(self) -> dict[str, Any]:
        return {"optimizer": repr(self._optimizer)}

    def memory(self) -> tuple[Arrays, dict[str, Any]]:
        slots = self._state.slots.items()
        arrays = {f"{name}{way}": x for name, slot in slots for way, x in named_arrays(slot).items()}
        return arrays, {"steps": self._state.steps}

    def set_memory(self, arrays: Arrays, state: dict[str, Any]) -> None:
        slots = {name: with_arrays(slot, _under(name, arrays)) for name, slot in self._state.slots.items()}
        self._state = optim.OptimizerState(state["steps"], slots)

    def finish(self) -> None:
        pass


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")  # nobody holds a module before torch is imported
    return torch is not None and isinstance(model, torch.nn.Module)


def _kind(model: Any) -> Callable[..., _Run]:
    if not _is_module(model):
        return _NumPyRun
    from torch.nn.parallel import DistributedDataParallel

    return _DataParallelRun if isinstance(model, DistributedDataParallel) else _TorchRun


# --- saving and resuming a run --------------------------------------------------------------------


def _save(folder: _Folder, run: _Run, record: _Record, settings: dict[str, Any]) -> None:
    memory, numbers = run.memory()
    arrays = {
        **_prefixed("model/", run.arrays()),
        **_prefixed("best/", record.best),
        **_prefixed("optimizer/", memory),
        **{f"history/{name}": np.array(getattr(record, name), np.float64) for name in _CURVES},
    }
    state = {
        "step": record.steps,
        "stopped": record.stopped,
        "torch": run.torch_tensors,
        "settings": settings,
        "optimizer": numbers,
        "generators": run.generators(),
    }
    if run.writes:
        folder.save(record.steps, arrays, state)


def _resume(path: Path, run: _Run, steps: int, settings: dict[str, Any]) -> _Record:
    arrays, state = run.from_first(lambda: _read("fit", path, run.torch_tensors))
    with _refusing("fit", path, "another run needs another folder"):
        _check_same("the array", _layout(_under("model/", arrays)), _layout(run.arrays()))
        _check_same("the setting", state["settings"], settings, complete=False)
        if state["step"] > steps:
            raise CheckpointError(f"it is of step {state['step']}, beyond the {steps} steps asked for")
        if state["generators"]:
            _set_generators(state["generators"])
        run.set_arrays(_under("model/", arrays))
        run.set_memory(_under("optimizer/", arrays), state["optimizer"])
        curves = {name: arrays[f"history/{name}"].tolist() for name in _CURVES}
        record = _Record(**curves, stopped=state["stopped"], best=_under("best/", arrays))
        record.evaluated_at = [int(step) for step in record.evaluated_at]
    return record


def restore(model: ModelT, checkpoint: str | os.PathLike[str]) -> ModelT:
    """A model as a checkpoint of :func:`fit` has it: the best one where a metric was watched.

    Args:
        model: a module, or NumPy parameters, of the form that was trained.
        checkpoint: a checkpoint, or the folder, of which the newest is taken.

    Returns:
        The same module with the values of the checkpoint; or new parameters with them.

    Raises:
        FileNotFoundError: no checkpoint is there.
        CheckpointError: it is damaged, or of another model.
    """
    path = Path(checkpoint)
    if path.is_dir() and (newest := _Folder(path).newest) is not None:
        path = newest
    if not path.is_file():
        raise FileNotFoundError(f"restore: no checkpoint in {path}")
    module = _is_module(model)
    arrays, _ = _read("restore", path, module)
    values = _under("best/", arrays) or _under("model/", arrays)
    here = dict(model.state_dict()) if module else named_arrays(model)  # type: ignore[attr-defined]
    with _refusing("restore", path, "it needs a model like the one that was trained"):
        _check_same("the array", _layout(values), _layout(here))
    if module:
        model.load_state_dict(values)  # type: ignore[attr-defined]
        return model
    return with_arrays(model, values)


# --- the loop -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(show: bool, steps: int, done: int) -> Iterator[Callable[[float], None]]:
    """A function to call with the loss after every step; it draws the bar, or does nothing."""
    if not show:
        yield lambda loss: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, initial=done, unit="step") as bar:

        def tick(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update()

        yield tick


def fit(
    model: Any,
    batches: Callable[[int], Any],
    loss: Callable[[Any, Any], Any],
    *,
    optimizer: Any,
    steps: int,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
    precision: str | None = None,
    evaluate: Callable[[Any], float] | None = None,
    evaluate_every: int = 100,
    patience: int | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool = False,
    watch: Callable[[History], Any] | None = None,
) -> History:
    """Train a torch module, or NumPy parameters, for a number of steps.

    A module in ``DistributedDataParallel`` is trained by all its processes, each of which calls this
    function with its own batches. The loss is then the mean of what ``loss`` returns in them, as the gradient
    is. The first process reads and writes the checkpoints, and any number of processes can go on from one.
    What is drawn on torch in a step, as by dropout, depends on torch's seed, the step and the process alone.

    Args:
        model: a ``torch.nn.Module``, which is changed in place and stays in the mode (train or eval)
            that it is in; or a cell, another record, or a list, tuple or dict of NumPy arrays, which
            stays as it is.
        batches: from the step, counted from 0, to its batch. A run that goes on after a pause asks for the
            same batches only if nothing but the step decides.
        loss: ``loss(model, batch)``: for a module the loss, a scalar tensor; for NumPy parameters the
            loss and its gradient, in the form of the parameters.
        optimizer: from ``torch.optim``, made for the module's parameters; or from :mod:`rnnlib.optim`.
        steps: how many steps to take, those before a pause included.
        clip_norm: shorten gradients to this length where they are longer. Never, if None.
        schedule: from the step to the factor of the learning rate, see :mod:`rnnlib.optim`.
        precision: ``"bfloat16"`` or ``"float16"`` to compute the losses and evaluations of a module in
            mixed precision (``torch.autocast``, and with float16 a gradient scaler); as the module is,
            if None.
        evaluate: ``evaluate(model)``, a number that is better when it is lower. A module is in eval
            mode meanwhile, and nothing is differentiated.
        evaluate_every: how many steps from one evaluation to the next.
        patience: stop after so many evaluations in a row that were not lower than the lowest, and, at
            the end, go back to the model that had the lowest. Never, if None.
        checkpoints: a folder for checkpoints, one run in each. If it holds one, the run goes on from
            there. The newest and the one before it are kept. None for no checkpoints.
        checkpoint_every: how many steps from one checkpoint to the next; there is one at the end, too.
        progress: draw a progress bar with the loss and the steps per second (needs tqdm). If False,
            nothing is printed.
        watch: ``watch(history)``, called with what is recorded so far after every ``evaluate_every``
            steps and at the end. :func:`rnnlib.plotting.live` draws it in a notebook. What it returns is
            not looked at.

    Returns:
        The model and what was recorded at every step, from step 0 on, also by runs before a pause.

    Raises:
        TypeError, ValueError: an argument is out of range or does not go with the others.
        FloatingPointError: the loss, the gradient or an evaluation is infinite or NaN; the message
            names the step. A loss or a gradient stops the run before the model is changed by it, and the last
            checkpoint is kept.
        CheckpointError: the newest checkpoint is damaged, of another model, or of a run with other
            settings. It is kept, and so is the one before it, which the message names.
    """
    steps = check_count("fit", "steps", steps)
    evaluate_every = check_count("fit", "evaluate_every", evaluate_every)
    checkpoint_every = check_count("fit", "checkpoint_every", checkpoint_every)
    check_choice("fit", "precision", precision, (None, "bfloat16", "float16"))
    if clip_norm is not None:
        clip_norm = check_number("fit", "clip_norm", clip_norm)
    if evaluate is not None and evaluate_every > steps:
        raise ValueError(f"fit: evaluate_every is {evaluate_every}, expected at most steps = {steps}")
    if patience is not None:
        patience = check_count("fit", "patience", patience)
        if evaluate is None:
            raise ValueError(f"fit: patience is {patience} but evaluate is None, expected a metric to watch")

    run = _kind(model)(model, loss, optimizer, clip_norm, precision)
    settings = {**run.settings(), "clip_norm": clip_norm, "patience": patience}
    if evaluate is not None:
        settings["evaluate_every"] = evaluate_every
    folder = None if checkpoints is None else _Folder(checkpoints)
    record = _Record()
    if folder is not None:
        _library(run.torch_tensors)  # if it is missing, better now than at the first checkpoint
        newest = run.from_first(lambda: folder.newest)
        if newest is not None:
            record = _resume(newest, run, steps, settings)

    try:
        with _progress(progress, steps, record.steps) as tick:
            while record.steps < steps and not record.stopped:
                step = record.steps
                factor = 1.0
                if schedule is not None:
                    factor = check_number("fit", f"schedule({step})", schedule(step), above=False)
                value, norm, rate = run.step(step, batches(step), factor)
                record.losses.append(value)
                record.gradient_norms.append(norm)
                record.rates.append(rate)
                done = record.steps
                if evaluate is not None and done % evaluate_every == 0:
                    metric = _finite("the evaluation", run.evaluate(evaluate), step)
                    record.evaluated_at.append(done)
                    record.evaluations.append(metric)
                    if patience is not None and record.since_best == 0:
                        record.best = run.arrays()
                    record.stopped = patience is not None and record.since_best >= patience
                if watch is not None and done % evaluate_every == 0 and done < steps and not record.stopped:
                    watch(record.history(run.model))
                if folder is not None and (done % checkpoint_every == 0 or done == steps or record.stopped):
                    _save(folder, run, record, settings)
                tick(value)
    except FloatingPointError as error:
        last = None if folder is None else folder.newest
        kept = "" if last is None else f"; the last checkpoint is kept as {last}"
        raise FloatingPointError(f"fit: {error}{kept}") from error
    finally:
        run.finish()

    if patience is not None and record.best:
        run.set_arrays(record.best)
    history = record.history(run.model)
    if watch is not None:
        watch(history)
    return history
