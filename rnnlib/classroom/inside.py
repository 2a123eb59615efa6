"""The student's process. Runs the cells, then answers questions with plain arrays. Knows no answer.

Started by :mod:`rnnlib.classroom.sandbox` as a file of its own, beside ``exchange.py``. It trusts its
caller and is not trusted by it: a student can change anything here while it runs, and gains nothing.

It reads the cells and one public case of each question, and reports errors in words. Only then do the
hidden inputs come. From there on it sends arrays and error codes, so no hidden value gets into words.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import signal
import sys
import types
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import exchange
import numpy as np

MAX_TEXT = 2000


class OutOfTime(BaseException):
    """The cell or the call took too long. No Exception, so that `except Exception` lets it through."""


class Refused(Exception):
    """A result that is no answer; the message is a code of marking.CODES."""


class Channel:
    """Frames to and from the grader, on descriptors that the student's code does not meet by accident."""

    def __init__(self) -> None:
        """Take the pipes away from where print() and input() would find them."""
        self.pid = os.getpid()
        self.requests, self.results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # input() finds nothing to read, print() goes nowhere
            os.dup2(null, descriptor)

    def receive(self) -> dict[str, np.ndarray]:
        """The next message of the grader."""
        length = int.from_bytes(self.requests.read(exchange.LENGTH_BYTES), "big")
        return exchange.unpack(self.requests.read(length))

    def send(self, **arrays: Any) -> None:
        """A message to the grader."""
        if os.getpid() != self.pid:  # a fork of the student's has come this far
            os._exit(0)
        self.results.write(exchange.pack(arrays))
        self.results.flush()


class Cells:
    """Runs cells as a notebook does. IPython, which is slow to start, only where a cell needs it."""

    def __init__(self) -> None:
        """An empty notebook."""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self.namespace = module.__dict__
        self._shell: Any = None
        builtins.get_ipython = self.shell  # type: ignore[attr-defined]
        builtins.display = lambda *values, **options: None  # type: ignore[attr-defined]

    def shell(self) -> Any:
        """IPython on the same names, started when first asked for."""
        if self._shell is None:
            from IPython.core.history import HistoryManager
            from IPython.core.interactiveshell import InteractiveShell

            class Shell(InteractiveShell):
                def enable_gui(self, gui: Any = None) -> None:
                    """Nobody looks."""

                def enable_matplotlib(self, gui: Any = None) -> tuple[None, str]:
                    """The environment has set the backend already."""
                    return None, "agg"

            HistoryManager.enabled = False  # type: ignore[assignment]
            self._shell = Shell.instance(user_ns=self.namespace)
        return self._shell

    def run(self, source: str) -> BaseException | None:
        """Run one cell. What it raised, or None."""
        try:
            code = compile(source, "<cell>", "exec")
        except SyntaxError:  # a magic, a shell line, a top-level await, or indeed an error
            result = self.shell().run_cell(source, silent=True)
            return result.error_before_exec or result.error_in_exec
        except Exception as error:
            return error
        try:
            exec(code, self.namespace)
        except BaseException as error:  # exit() ends a cell, not the marking
            return error
        return None


def within(seconds: float, function: Any, *arguments: Any) -> Any:
    """Call a function, and stop it when the time is up."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def as_arrays(value: Any, count: int) -> list[np.ndarray]:
    """The answer as arrays of plain numbers, or a code that says why it is none."""
    if value is None:
        raise Refused("none")
    if count > 1 and not (isinstance(value, tuple | list) and len(value) == count):
        raise Refused("count")
    arrays = []
    for part in value if count > 1 else [value]:
        if part is None:
            raise Refused("none")
        array = np.asarray(part.detach().cpu() if hasattr(part, "detach") else part)
        if array.dtype.kind not in "biufc":
            raise Refused("kind")
        if array.dtype.itemsize > 8 and array.dtype.kind == "f":
            array = array.astype(np.float64)
        if array.nbytes > exchange.MAX_MESSAGE // 4:
            raise Refused("large")
        arrays.append(np.array(array))
    return arrays


def answer(
    channel: Channel, cells: Cells, job: dict[str, Any], cases: dict[str, np.ndarray], count: int
) -> None:
    """Call every function on every case, and send each answer as soon as it is there."""
    for q, question in enumerate(job["questions"]):
        late = False
        for c in range(count):
            at = {"question": q, "case": c}
            if late:  # one endless loop a question is enough
                channel.send(**at, error="OutOfTime", message="")
                continue
            keys = [f"{q}.{c}.{i}" for i in range(question["arguments"])]
            values = [cases[k].item() if cases[k].ndim == 0 else np.array(cases[k]) for k in keys]
            try:
                function = cells.namespace.get(question["call"])
                if function is None:
                    raise Refused("missing")
                result = within(
                    job["seconds"], lambda f, v, n: as_arrays(f(*v), n), function, values, question["outputs"]
                )
            except Refused as refused:
                channel.send(**at, error=str(refused), message="")
            except BaseException as error:
                late = isinstance(error, OutOfTime)
                channel.send(**at, error=type(error).__name__, message=describe(error))
            else:
                arrays = {f"output{i}": array for i, array in enumerate(result)}
                channel.send(**at, **arrays, changed=changed(values, [cases[k] for k in keys]))


def changed(values: list[Any], before: list[np.ndarray]) -> np.ndarray:
    """The numbers of the arguments that a call has changed in place."""
    return np.array(
        [
            i
            for i, (value, old) in enumerate(zip(values, before, strict=True))
            if isinstance(value, np.ndarray) and (value.shape, value.tobytes()) != (old.shape, old.tobytes())
        ],
        dtype=np.int64,
    )


def describe(error: BaseException) -> str:
    """An error's message."""
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:  # a student's exception may refuse to be printed
        return ""


def main() -> None:
    """Run the cells, then answer."""
    channel = Channel()
    start = channel.receive()
    job = json.loads(str(start["job"]))
    for name, limit in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    warnings.simplefilter("ignore")
    cells = Cells()
    for i, source in enumerate(job["cells"]):
        try:
            error = within(job["seconds"], cells.run, source)
        except BaseException as raised:
            error = raised
        if error is not None:
            line = getattr(error, "lineno", None) or 0
            channel.send(cell=i, error=type(error).__name__, message=describe(error), line=int(line))
    answer(channel, cells, job, start, 1)
    channel.send(done="public")
    answer(channel, cells, job, channel.receive(), job["cases"])
    channel.send(done="hidden")
    os._exit(0)  # threads that outlive their cell are not waited for


if __name__ == "__main__":
    main()
