"""Run a student's process in bubblewrap: no network, no host files, bounded in every direction.

Inside there is a read-only Python with its packages, and one small writable folder in memory. rnnlib, which
holds the reference functions, is not there. As root the process changes to a user that owns nothing; as an
ordinary user it lives in a user namespace of its own.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from rnnlib.classroom import exchange

FIRST_UID = 61_000  # of no account; one for each place, since the limit on processes counts by user
PLACES = 4_000  # then the same users again
MAX_STDERR = 4000
MAX_TOTAL = 64 * 2**20
TICK = 0.25  # seconds between two looks at memory and clock

SYSTEM = (
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/share/fonts",
    "/bin",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",  # where Debian's libblas.so.3 and its like point to
)


@dataclass(frozen=True)
class Limits:
    """What a submission may use, all together unless it says otherwise."""

    wall: float = 60.0  # seconds
    step: float = 10.0  # seconds for one cell or one call
    memory: int = 3 * 2**30  # bytes, of all its processes
    disk: int = 64 * 2**20  # bytes of its writable folder, which lies in memory
    processes: int = 64  # threads count
    files: int = 128

    def inside(self) -> dict[str, int]:
        """As limits of each process."""
        return {
            "RLIMIT_AS": self.memory,
            "RLIMIT_FSIZE": self.disk,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": self.files,
            "RLIMIT_CPU": int(self.wall) + 1,
            "RLIMIT_CORE": 0,
        }


@dataclass
class Run:
    """What came out of the room."""

    public: list[dict[str, np.ndarray]] = field(default_factory=list)
    hidden: list[dict[str, np.ndarray]] = field(default_factory=list)
    end: str = "finished"  # or why it ended before
    seconds: float = 0.0
    words: str = ""  # what the room itself said on stderr, before the student's code ran


class SandboxMissing(RuntimeError):
    """This machine cannot hold a sandbox; the message says what is missing."""


def command(uid: int, limits: Limits, contained: bool) -> list[str]:
    """The command line that starts ``inside.py``."""
    here = Path(__file__).parent
    if not contained:
        return [sys.executable, "-I", "-B", str(here / "inside.py")]
    prefix, base = (os.path.realpath(p) for p in (sys.prefix, sys.base_prefix))
    bwrap = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
    ]
    bwrap += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "classroom"]
    if os.geteuid() != 0:
        bwrap += ["--unshare-user", "--uid", str(uid), "--gid", str(uid)]
    # Before the binds, so that a Python that lies below /tmp is seen.
    bwrap += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"]
    for path in SYSTEM:
        if os.path.islink(path):
            bwrap += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            bwrap += [*_parents(path), "--ro-bind", path, path]
    for path in sorted({prefix, base} - {"/usr"}):
        bwrap += [*_parents(path), "--ro-bind", path, path]
    for package in Path(prefix).glob("lib*/python*/site-packages/rnnlib"):
        bwrap += ["--tmpfs", str(package)]  # an installed rnnlib is hidden as one beside the grader is
    bwrap += ["--perms", "0755", "--dir", "/grader"]
    for name in ("inside.py", "exchange.py"):
        bwrap += ["--ro-bind", str(here / name), f"/grader/{name}"]
    bwrap += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for cache in _font_caches():  # else matplotlib looks for fonts again in every room
        bwrap += ["--perms", "0777", "--dir", "/tmp/matplotlib"]
        bwrap += ["--ro-bind", str(cache), f"/tmp/matplotlib/{cache.name}"]
    bwrap += ["--remount-ro", "/", "--chdir", "/tmp"]
    python = [os.path.join(prefix, "bin", "python"), "-I", "-B", "/grader/inside.py"]
    if os.geteuid() == 0:
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return [*bwrap, "setpriv", f"--reuid={uid}", f"--regid={uid}", *drop, *python]
    return [*bwrap, *python]


def _parents(path: str) -> Iterator[str]:
    """Make the folders above a bind passable; bubblewrap would make them private to root."""
    for parent in reversed(Path(path).parents):
        if str(parent) != "/":
            yield from ("--perms", "0755", "--dir", str(parent))


def _font_caches() -> list[Path]:
    if "matplotlib" not in sys.modules:
        return []
    return list(Path(sys.modules["matplotlib"].get_cachedir()).glob("fontlist-*.json"))


def environment() -> dict[str, str]:
    """All that the student's process sees of the grader's environment: nothing."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "IPYTHONDIR": "/tmp/ipython",
    }


def job_message(
    cells: Sequence[str], questions: Sequence[dict[str, Any]], cases: int, limits: Limits
) -> dict[str, Any]:
    """What the process is to do, without the inputs."""
    job = {
        "cells": list(cells),
        "questions": list(questions),
        "cases": cases,
        "seconds": limits.step,
        "limits": limits.inside(),
    }
    return {"job": json.dumps(job)}


def run(job: bytes, hidden: bytes, limits: Limits, place: int = 0, contained: bool = True) -> Run:
    """Run one submission to its end, or end it.

    Args:
        job: the first message, with the cells and the public cases.
        hidden: the second message, sent when the student's process has said all it may say in words.
        limits: what it may use.
        place: which of the submissions that run at the same time this is.
        contained: False runs it with the grader's own rights.
    """
    started, result = time.monotonic(), Run()
    with tempfile.TemporaryDirectory() as folder:  # where it starts if it is not contained
        process = subprocess.Popen(
            command(FIRST_UID + place, limits, contained),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() if contained else environment() | {"HOME": folder, "TMPDIR": folder},
            cwd="/" if contained else folder,
            start_new_session=True,
        )
        try:
            _converse(process, job, hidden, limits, started, result)
        finally:
            _end(process)
    result.seconds = time.monotonic() - started
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all its children: bubblewrap's process space dies with bubblewrap."""
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def _converse(
    process: subprocess.Popen[bytes], job: bytes, hidden: bytes, limits: Limits, started: float, result: Run
) -> None:
    to, back, words = process.stdin, process.stdout, process.stderr
    assert to is not None
    assert back is not None
    assert words is not None
    for stream in (to, back, words):
        os.set_blocking(stream.fileno(), False)
    pending, received, total = memoryview(job), bytearray(), 0
    with selectors.DefaultSelector() as selector:
        selector.register(back, selectors.EVENT_READ)
        selector.register(words, selectors.EVENT_READ)
        selector.register(to, selectors.EVENT_WRITE)
        looked = 0.0
        while True:
            now = time.monotonic()
            if now - started > limits.wall:
                result.end = "time"
                return
            if now - looked > TICK:
                looked = now
                if _memory(process.pid) > limits.memory:
                    result.end = "memory"
                    return
            for key, _ in selector.select(TICK):
                if key.fileobj is to:
                    pending = _write(to, pending)
                    if not pending:
                        selector.unregister(to)
                elif key.fileobj is words:
                    text = os.read(words.fileno(), 65536)
                    if text:
                        result.words = (result.words + text.decode("utf-8", "replace"))[:MAX_STDERR]
                    else:
                        selector.unregister(words)
                else:
                    data = os.read(back.fileno(), 1 << 20)
                    total += len(data)
                    received += data
                    if not data:
                        result.end = "crash"
                        with suppress(subprocess.TimeoutExpired, BlockingIOError):
                            process.wait(1)  # what it said last may still be on its way
                            result.words += os.read(words.fileno(), MAX_STDERR).decode("utf-8", "replace")
                        return
                    try:
                        for message in _messages(received):
                            done = str(message["done"]) if "done" in message else ""
                            if done == "public" and hidden:
                                pending, hidden = memoryview(hidden), b""
                                if to not in {k.fileobj for k in selector.get_map().values()}:
                                    selector.register(to, selectors.EVENT_WRITE)
                            elif done == "hidden":
                                return
                            else:  # words are accepted until the hidden inputs are on their way
                                (result.public if hidden else result.hidden).append(message)
                    except exchange.BadMessage:
                        result.end = "message"
                        return
                    if total > MAX_TOTAL:
                        result.end = "message"
                        return


def _write(to: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(to.fileno(), pending) :]
    except BrokenPipeError:
        return pending[len(pending) :]  # it has ended; what it said so far counts


def _messages(received: bytearray) -> Iterator[dict[str, np.ndarray]]:
    """The complete messages at the front, which are taken off."""
    while len(received) >= exchange.LENGTH_BYTES:
        length = int.from_bytes(received[: exchange.LENGTH_BYTES], "big")
        if length > exchange.MAX_MESSAGE:
            raise exchange.BadMessage("too long")
        end = exchange.LENGTH_BYTES + length
        if len(received) < end:
            return
        body = bytes(received[exchange.LENGTH_BYTES : end])
        del received[:end]
        yield exchange.unpack(body)


def _memory(pid: int) -> int:
    """Bytes in memory of a process and all below it."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def require() -> None:
    """Refuse to go on where no sandbox can be had.

    Raises:
        SandboxMissing: with what is missing.
    """
    for program in ("bwrap", *(("setpriv",) if os.geteuid() == 0 else ())):
        if shutil.which(program) is None:
            package = "bubblewrap" if program == "bwrap" else "util-linux"
            raise SandboxMissing(f"the program {program} is missing; on Debian: apt install {package}")
    limits = Limits(wall=30)
    probe = run(exchange.pack(job_message([], [], 0, limits)), exchange.pack({}), limits)
    if probe.end != "finished":
        said = probe.words.strip() or f"it ended with: {probe.end}"
        raise SandboxMissing(
            f"bubblewrap cannot make a sandbox here ({said}). "
            "An ordinary user needs user namespaces (sysctl kernel.unprivileged_userns_clone=1, and on "
            "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0); root in a container needs the right "
            "to mount."
        )
