"""The hostile set: what it does, and the status and mark it must end with.

Every notebook is right (5 points: ``double`` 2, ``scale`` 3) but for what its line says. ``{canary}`` in
code is a folder on the host, which holds secrets under names that the code knows.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnlib.classroom.report import GRADED, REFUSED, REVIEW
from tests.classroom.students import as_bytes, own_cell, submission

FULL, WITHOUT_SCALE, NOTHING = 5.0, 2.0, 0.0
ANSWERS = {
    "answer-double": "def double(x):\n    return 2 * x",
    "answer-scale": "def scale(W, factor):\n    return factor * W",
    "proof": "It is linear.",
}
SECRET = "hush-5417"  # the test puts it where it must not be found


@dataclass(frozen=True)
class Hostile:
    """One submission of the set."""

    name: str
    does: str
    status: str | None  # None as below
    points: float | None  # None: depends on how busy the machine is, anything it earned honestly
    front: str = ""  # a cell before the answers
    scale: str = ""  # instead of the right answer
    write: Callable[[Path, dict[str, Any]], None] | None = None  # the folder, the release: writes it itself

    def hand_in(self, folder: Path, release: dict[str, Any], canary: Path) -> None:
        """Write the submission into the folder of a class."""
        if self.write is not None:
            return self.write(folder, release)
        answers = ANSWERS | ({"answer-scale": self.scale} if self.scale else {})
        front = self.front.replace("{canary}", str(canary))
        notebook = submission(release, answers, front=front)
        (folder / f"{self.name}.ipynb").write_bytes(as_bytes(notebook))
        return None


def good(release: dict[str, Any]) -> dict[str, Any]:
    return submission(release, ANSWERS)


# --- code ---------------------------------------------------------------------------------------

# What is found comes back as the words of an error, and so does that something went through.
LEAK = "found = {}\nraise RuntimeError('leak: ' + str(found)[-200:])"
DONE = "\nraise RuntimeError('hush' + '-5417')"
CHANNEL = """
import os, io, sys, exchange, json
import numpy as np
def channel():
    for name in os.listdir('/proc/self/fd'):
        if int(name) > 2:
            try:
                os.write(int(name), b'')
                if os.readlink('/proc/self/fd/' + name).startswith('pipe'):
                    yield int(name)
            except OSError:
                pass
"""
WRONG_SCALE = "def scale(W, factor):\n    return W * 0"

CODE = [
    ("syntax_error", "does not compile", GRADED, FULL, "def f(:"),
    ("infinite_loop", "a cell that never ends", GRADED, FULL, "while True: pass"),
    ("sleep", "a cell that sleeps", GRADED, FULL, "import time; time.sleep(10_000)"),
    (
        "sleeping_loop",
        "sleeps, and catches what would wake it",
        REVIEW,
        NOTHING,
        "import time\nwhile True:\n    try:\n        time.sleep(10_000)\n    except BaseException:\n        pass",
    ),
    (
        "deaf_loop",
        "switches the alarm off and loops",
        REVIEW,
        NOTHING,
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
    ),
    ("sys_exit", "leaves politely", GRADED, FULL, "import sys; sys.exit(3)"),
    ("exit", "leaves as one leaves a notebook", GRADED, FULL, "exit()"),
    ("os_exit", "leaves at once", REVIEW, NOTHING, "import os; os._exit(0)"),
    ("kill_self", "kills its process", REVIEW, NOTHING, "import os; os.kill(os.getpid(), 9)"),
    ("kill_all", "kills every process it may", GRADED, FULL, "import os; os.kill(-1, 9)"),
    ("kill_parent", "kills its parent", GRADED, FULL, "import os; os.kill(os.getppid(), 9)"),
    ("segfault", "crashes the interpreter", REVIEW, NOTHING, "import ctypes; ctypes.string_at(0)"),
    ("no_builtins", "clears the builtins", REVIEW, NOTHING, "import builtins; builtins.__dict__.clear()"),
    (
        "fork_bomb",
        "forks sleepers until it is stopped",
        GRADED,
        FULL,
        "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(10_000)",
    ),
    (
        "burning_forks",
        "forks loops until it is stopped",
        None,
        None,
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    ),
    (
        "thread_bomb",
        "starts threads until it is stopped",
        GRADED,
        FULL,
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(10_000,)).start()",
    ),
    ("memory_bomb", "asks for 100 GB", GRADED, FULL, "x = bytearray(10**11)"),
    (
        "memory_creep",
        "asks for more and more",
        GRADED,
        FULL,
        "def creep():\n    x = []\n    while True:\n        x.append(bytearray(10**7))\ncreep()",
    ),
    (
        "memory_by_children",
        "each child asks for a little less than is allowed",
        REVIEW,
        NOTHING,
        "import os, time, signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        x = b'x' * (3 * 10**8)\n        time.sleep(10_000)\ntime.sleep(10_000)",
    ),
    (
        "disk_filler",
        "writes a file of 1 GB",
        GRADED,
        FULL,
        "with open('/tmp/big', 'wb') as f:\n    for _ in range(1000):\n        f.write(b'x' * 10**6)",
    ),
    (
        "many_files",
        "writes files without end",
        GRADED,
        FULL,
        "i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').write('x' * 5000); i += 1",
    ),
    ("endless_output", "prints without end", GRADED, FULL, "while True: print('x' * 10**6)"),
    (
        "endless_stderr",
        "writes to stderr without end",
        GRADED,
        FULL,
        "import os\nwhile True: os.write(2, b'x' * 10**6)",
    ),
    ("reads_stdin", "waits for input", GRADED, FULL, "input()"),
    (
        "thread_outlives",
        "a thread goes on when its cell has ended",
        GRADED,
        FULL,
        "import threading, time\nthreading.Thread(target=lambda: time.sleep(10_000)).start()",
    ),
    (
        "orphan",
        "leaves a process behind, in a session of its own",
        GRADED,
        FULL,
        "import subprocess\nsubprocess.Popen(['sleep', '54175417'], start_new_session=True)",
    ),
    (
        "atexit_loop",
        "loops when Python ends",
        GRADED,
        FULL,
        "import atexit\ndef loop():\n    while True: pass\natexit.register(loop)",
    ),
    # network
    (
        "network_outside",
        "connects to another machine",
        GRADED,
        FULL,
        "import socket, errno\ntry:\n    socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError as error:\n"
        "    assert error.errno == errno.ENETUNREACH, 'hush' + '-5417'",
    ),
    (
        "network_loopback",
        "connects to a server on this machine",
        GRADED,
        FULL,
        "import socket; socket.create_connection(('127.0.0.1', {port}), 1).sendall(b'x')",
    ),
    (
        "network_abstract",
        "connects to an abstract socket of this machine",
        GRADED,
        FULL,
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0{socket}')\ns.sendall(b'x')",
    ),
    # reading
    (
        "reads_gradebook",
        "reads the gradebook",
        GRADED,
        FULL,
        LEAK.format("open('{canary}/out/gradebook.db').read()"),
    ),
    (
        "reads_seed",
        "reads the secret seed",
        GRADED,
        FULL,
        LEAK.format("open('{canary}/out/seed.txt').read()"),
    ),
    (
        "reads_source",
        "reads the solutions",
        GRADED,
        FULL,
        LEAK.format("open('{canary}/source.ipynb').read()"),
    ),
    (
        "reads_others",
        "reads what others handed in",
        GRADED,
        FULL,
        "import glob\n"
        + LEAK.format("[open(p).read() for p in glob.glob('{canary}/**/s*', recursive=True)]"),
    ),
    (
        "reads_environment",
        "reads the environment",
        GRADED,
        FULL,
        "import os\n" + LEAK.format("os.environ.get('HUSH')"),
    ),
    (
        "reads_proc",
        "reads what /proc says of every process",
        GRADED,
        FULL,
        "import glob\nfound = b''\nfor p in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try:\n        found += open(p, 'rb').read()\n    except OSError:\n        pass\n"
        + LEAK.format("found[found.find(b'hush'):][:20]"),
    ),
    (
        "sees_processes",
        "looks for processes that are not its own",
        GRADED,
        FULL,
        "import glob\nassert len(glob.glob('/proc/[0-9]*')) < 10, 'hush' + '-5417'",
    ),
    (
        "reads_root_of_init",
        "goes through /proc to the root of process 1",
        GRADED,
        FULL,
        LEAK.format("open('/proc/1/root{canary}/secret').read()"),
    ),
    # writing
    (
        "writes_gradebook",
        "writes into the gradebook",
        GRADED,
        FULL,
        "open('{canary}/out/gradebook.db', 'w').write('x')" + DONE,
    ),
    (
        "writes_secret",
        "writes into another's file",
        GRADED,
        FULL,
        "open('{canary}/secret', 'w').write('x')" + DONE,
    ),
    (
        "writes_pth",
        "puts code where every later Python runs it",
        GRADED,
        FULL,
        "import numpy, os\nopen(os.path.dirname(numpy.__path__[0]) + '/hush-5417.pth', 'w').write('import os')",
    ),
    (
        "writes_usr",
        "writes into the system",
        GRADED,
        FULL,
        "open('/usr/lib/hush-5417', 'w').write('x')" + DONE,
    ),
    (
        "writes_grader",
        "rewrites the grader",
        GRADED,
        FULL,
        "open('/grader/inside.py', 'w').write('x')" + DONE,
    ),
    ("writes_dev", "fills /dev/shm", GRADED, FULL, "open('/dev/shm/x', 'w').write('x')" + DONE),
    ("writes_root", "writes at the top", GRADED, FULL, "open('/hush-5417', 'w').write('x')" + DONE),
    ("becomes_root", "asks to be root", GRADED, FULL, "import os; os.setuid(0)" + DONE),
    (
        "remounts",
        "makes the system writable, in a name space of its own",
        GRADED,
        FULL,
        "import subprocess\nsubprocess.run(['unshare', '-rm', 'sh', '-c',\n"
        "    'mount -o remount,rw /usr/lib && touch /usr/lib/hush-5417'], check=True)",
    ),
    # forged results
    (
        "junk_to_channel",
        "writes junk where results go",
        REVIEW,
        NOTHING,
        CHANNEL + "for fd in channel(): os.write(fd, b'\\xff' * 1000)",
    ),
    (
        "huge_message",
        "announces a message of an exabyte",
        REVIEW,
        NOTHING,
        CHANNEL + "for fd in channel(): os.write(fd, (10**18).to_bytes(8, 'big'))",
    ),
    (
        "bomb_message",
        "sends a compressed .npz that unpacks to far more",
        REVIEW,
        NOTHING,
        CHANNEL + "b = io.BytesIO()\nnp.savez_compressed(b, x=np.zeros(10**6))\nb = b.getvalue()\n"
        "for fd in channel(): os.write(fd, len(b).to_bytes(8, 'big') + b)",
    ),
    (
        "lying_header",
        "sends an array whose header claims a terabyte",
        REVIEW,
        NOTHING,
        CHANNEL + "import zipfile\nb = io.BytesIO()\nh = io.BytesIO()\n"
        "np.lib.format.write_array_header_1_0(h, {'descr': '<f8', 'fortran_order': False, 'shape': (10**11,)})\n"
        "zipfile.ZipFile(b, 'w').writestr('x.npy', h.getvalue())\nb = b.getvalue()\n"
        "for fd in channel(): os.write(fd, len(b).to_bytes(8, 'big') + b)",
    ),
    (
        "pickled_message",
        "sends a pickle that runs code when it is read",
        REVIEW,
        NOTHING,
        CHANNEL
        + "class P:\n    def __reduce__(self):\n        return os.system, ('touch {canary}/pickled',)\n"
        "b = io.BytesIO()\nnp.savez(b, x=np.array([P()], dtype=object), allow_pickle=True)\nb = b.getvalue()\n"
        "for fd in channel(): os.write(fd, len(b).to_bytes(8, 'big') + b)",
    ),
    (
        "forged_results",
        "sends answers of its own and leaves",
        GRADED,
        NOTHING,
        CHANNEL + "m = exchange.pack({'done': 'public'})\nfor q in range(2):\n    for c in range(4):\n"
        "        m += exchange.pack({'question': q, 'case': c, 'output0': np.zeros((2, 2)), 'points': 99})\n"
        "m += exchange.pack({'done': 'hidden'})\nfor fd in channel(): os.write(fd, m)\nos._exit(0)",
    ),
    (
        "own_packer",
        "replaces the function that packs results",
        REVIEW,
        NOTHING,
        "import exchange\nexchange.pack = lambda arrays: b'x' * 100",
    ),
    # words
    (
        "script_in_error",
        "raises an error with a script in it",
        GRADED,
        FULL,
        "raise ValueError('<script>alert(1)</script>')",
    ),
    ("long_error", "raises an error of 100 MB", GRADED, FULL, "raise ValueError('x' * 10**8)"),
    (
        "error_that_loops",
        "raises an error that never ends being printed",
        REVIEW,
        NOTHING,
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E()",
    ),
]

# Answers of scale that are wrong, and try to pass as right: 3 points are lost.
TRICKS = [
    (
        "patched_numpy",
        "patches what a test would call",
        "import numpy as np, builtins\n"
        "np.allclose = np.testing.assert_allclose = np.array_equal = lambda *a, **k: True\n"
        "builtins.all = lambda *a: True\n" + WRONG_SCALE,
    ),
    (
        "always_equal",
        "returns an object that equals everything",
        "class Equal:\n    shape = (2, 2)\n"
        "    def __eq__(self, other): return True\n    def __sub__(self, other): return 0\n"
        "def scale(W, factor):\n    return Equal()",
    ),
    (
        "equal_array",
        "returns an array that equals everything",
        "import numpy as np\nclass Equal(np.ndarray):\n"
        "    def __eq__(self, other): return np.ones(self.shape, bool)\n"
        "def scale(W, factor):\n    return (W * 0).view(Equal)",
    ),
    (
        "transformer",
        "rewrites all later cells",
        "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass'])\n" + WRONG_SCALE,
    ),
    (
        "reads_frames",
        "looks for answers in the frames of its callers",
        "import sys, gc\ndef scale(W, factor):\n"
        "    frame, found = sys._getframe(), []\n    while frame:\n"
        "        found += [v for k, v in frame.f_locals.items() if 'reference' in k or 'expected' in k]\n"
        "        frame = frame.f_back\n"
        "    found += [o for o in gc.get_objects() if type(o).__name__ in ('Question', 'Sheet')]\n"
        "    return found[0] if found else W * 0",
    ),
    ("huge_answer", "returns 8 GB", "import numpy as np\ndef scale(W, factor):\n    return np.zeros(10**9)"),
    (
        "large_answer",
        "returns 16 MB",
        "import numpy as np\ndef scale(W, factor):\n    return np.zeros(2 * 10**6)",
    ),
    ("text_answer", "returns text", "def scale(W, factor):\n    return str(W)"),
    ("nan_answer", "returns NaN", "def scale(W, factor):\n    return W * float('nan')"),
    ("infinite_answer", "returns infinity", "def scale(W, factor):\n    return W * float('inf')"),
    ("sleeping_answer", "does not return", "import time\ndef scale(W, factor):\n    time.sleep(10_000)"),
    (
        "rnnlib_answer",
        "lets rnnlib answer",
        "import rnnlib\ndef scale(W, factor):\n    return rnnlib.__name__ and W * factor",
    ),
    (
        "tells_inputs",
        "says the hidden inputs in an error",
        "def scale(W, factor):\n    raise ValueError(repr(factor))",
    ),
    (
        "names_inputs",
        "says them in the name of an error",
        "def scale(W, factor):\n    raise type(repr(factor), (Exception,), {})()",
    ),
    (
        "keeps_inputs",
        "keeps them and raises later",
        "kept = []\ndef scale(W, factor):\n    kept.append(factor)\n    raise KeyError(kept)",
    ),
]


# --- files --------------------------------------------------------------------------------------


def raw(name: str, data: bytes) -> Callable[[Path, dict[str, Any]], None]:
    def write(folder: Path, release: dict[str, Any]) -> None:
        (folder / name).write_bytes(data)

    return write


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, dict[str, Any]], None]:
    """A good notebook after a change, as a notebook or as the bytes that it returns."""

    def write(folder: Path, release: dict[str, Any]) -> None:
        notebook = good(release)
        result = change(notebook)
        (folder / f"{name}.ipynb").write_bytes(result if isinstance(result, bytes) else as_bytes(notebook))

    return write


def zipped(name: str, members: dict[str, Any]) -> Callable[[Path, dict[str, Any]], None]:
    def write(folder: Path, release: dict[str, Any]) -> None:
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, as_bytes(good(release)) if data is None else data)

    return write


def link_to_canary(folder: Path, release: dict[str, Any]) -> None:
    (folder / "link.ipynb").symlink_to(folder.parent / "canary" / "secret.ipynb")


def link_in_folder(folder: Path, release: dict[str, Any]) -> None:
    (folder / "link_in_folder").mkdir()
    (folder / "link_in_folder" / "small.ipynb").symlink_to(folder.parent / "canary" / "secret.ipynb")


def linked_folder(folder: Path, release: dict[str, Any]) -> None:
    (folder / "linked_folder").symlink_to(folder.parent / "canary" / "book")


def pipe(folder: Path, release: dict[str, Any]) -> None:
    os.mkfifo(folder / "pipe.ipynb")


def twice(folder: Path, release: dict[str, Any]) -> None:
    for name in ("twice.ipynb", "twice.zip"):
        (folder / name).write_bytes(as_bytes(good(release)))


def wrong_tests(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        about = cell["metadata"]["nbgrader"]
        if about["grade_id"] == "answer-scale":
            cell["source"] = WRONG_SCALE
        if about.get("grade"):
            about["points"] = 99
            cell["source"] = "print('all right')"


def duplicate(notebook: dict[str, Any]) -> None:
    extra = json.loads(json.dumps(next(c for c in notebook["cells"] if c["id"] == "answer-double")))
    extra["source"] += "\n# once more"
    notebook["cells"].append(extra)


def scripts(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = "<script>alert(1)</script> [x](javascript:alert(1)) <img src=x onerror=alert(1)>"
        else:
            html = {"text/html": "<script>alert(1)</script>", "application/javascript": "alert(1)"}
            cell["outputs"] = [{"output_type": "display_data", "data": html, "metadata": {}}]


def delete(*kinds: str) -> Callable[[dict[str, Any]], None]:
    def change(notebook: dict[str, Any]) -> None:
        notebook["cells"] = [
            c for c in notebook["cells"] if not any(c["metadata"]["nbgrader"].get(kind) for kind in kinds)
        ]

    return change


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small.ipynb", b" " * 200_000_000)
    return buffer.getvalue()


FILES = [
    Hostile("link", "is a link to a teacher's file", REFUSED, NOTHING, write=link_to_canary),
    Hostile("link_in_folder", "is a folder with a link in it", REFUSED, NOTHING, write=link_in_folder),
    Hostile("linked_folder", "is a link to a teacher's folder", REFUSED, NOTHING, write=linked_folder),
    Hostile("pipe", "is a pipe that nobody writes to", REFUSED, NOTHING, write=pipe),
    Hostile("twice", "is handed in twice", REFUSED, NOTHING, write=twice),
    Hostile(
        "oversize", "is larger than allowed", REFUSED, NOTHING, write=raw("oversize.ipynb", b" " * (21 << 20))
    ),
    Hostile("zip_bomb", "unpacks to 200 MB", REFUSED, NOTHING, write=raw("zip_bomb.zip", bomb())),
    Hostile(
        "zip_out",
        "an archive whose file wants to go elsewhere",
        REFUSED,
        NOTHING,
        write=zipped("zip_out", {"../../canary/small.ipynb": None}),
    ),
    Hostile(
        "zip_two",
        "an archive with two notebooks",
        REFUSED,
        NOTHING,
        write=zipped("zip_two", {"a.ipynb": None, "b.ipynb": None}),
    ),
    Hostile(
        "zip_cut", "half an archive", REFUSED, NOTHING, write=raw("zip_cut.zip", b"PK\x03\x04" + b"\0" * 50)
    ),
    Hostile("no_notebook", "is a PDF", REFUSED, NOTHING, write=raw("no_notebook.pdf", b"%PDF-1.4")),
    Hostile("empty_file", "is empty", REFUSED, NOTHING, write=raw("empty_file.ipynb", b"")),
    Hostile("bad_json", "is no JSON", REFUSED, NOTHING, write=raw("bad_json.ipynb", b"{'cells': []}")),
    Hostile(
        "half_uploaded",
        "ends in the middle",
        REFUSED,
        NOTHING,
        write=changed("half_uploaded", lambda notebook: as_bytes(notebook)[:700]),
    ),
    Hostile(
        "deep_json", "nests 100,000 lists", REFUSED, NOTHING, write=raw("deep_json.ipynb", b"[" * 100_000)
    ),
    Hostile(
        "long_number",
        "holds a number of a million digits",
        REFUSED,
        NOTHING,
        write=raw("long_number.ipynb", b'{"cells": ' + b"9" * 10**6 + b"}"),
    ),
    Hostile(
        "not_a_notebook",
        "is other JSON",
        REFUSED,
        NOTHING,
        write=raw("not_a_notebook.ipynb", b'[1, "cells"]'),
    ),
    Hostile(
        "odd_cells",
        "has cells of other types",
        REFUSED,
        NOTHING,
        write=raw("odd_cells.ipynb", b'{"cells": [1, null, {"source": {"a": 1}}]}'),
    ),
    Hostile(
        "many_cells",
        "has 3,000 cells",
        REFUSED,
        NOTHING,
        write=changed("many_cells", lambda n: n["cells"].extend([own_cell("x = 1")] * 3000)),
    ),
    Hostile(
        "null_bytes",
        "has a null byte in a cell",
        GRADED,
        FULL,
        write=changed("null_bytes", lambda n: n["cells"].insert(0, own_cell("x = '\0\ud800'"))),
    ),
    Hostile(
        "altered_tests",
        "rewrites the tests and their points",
        GRADED,
        WITHOUT_SCALE,
        write=changed("altered_tests", wrong_tests),
    ),
    Hostile(
        "deleted_tests", "deletes the tests", GRADED, FULL, write=changed("deleted_tests", delete("grade"))
    ),
    Hostile(
        "deleted_locked",
        "deletes every locked cell",
        GRADED,
        FULL,
        write=changed("deleted_locked", delete("locked")),
    ),
    Hostile(
        "deleted_answers",
        "deletes the answers",
        GRADED,
        NOTHING,
        write=changed("deleted_answers", delete("solution")),
    ),
    Hostile(
        "duplicate_ids",
        "has an answer twice under one id",
        REVIEW,
        FULL,
        write=changed("duplicate_ids", duplicate),
    ),
    Hostile("scripts", "has scripts in text and outputs", GRADED, FULL, write=changed("scripts", scripts)),
    Hostile("=cmd()", "has a formula for a name", GRADED, FULL, write=changed("=cmd()", lambda n: None)),
    Hostile(
        "<img src=x>", "has an element for a name", GRADED, FULL, write=changed("<img src=x>", lambda n: None)
    ),
]

SET = [
    *(Hostile(name, does, status, points, front=code) for name, does, status, points, code in CODE),
    *(Hostile(name, does, GRADED, WITHOUT_SCALE, scale=code) for name, does, code in TRICKS),
    *FILES,
]
