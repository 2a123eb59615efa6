"""A hundred right answers in odd styles, none of which may lose a point."""

from __future__ import annotations

import pytest

from rnnlib.classroom.grade import Settings, grade
from rnnlib.classroom.report import GRADED
from rnnlib.classroom.sandbox import Limits
from tests.classroom import students

pytestmark = pytest.mark.sandbox

REFERENCE = students.solutions(students.CHAPTER_1)
NAMES = [name for name in REFERENCE if name.startswith("answer-")]

# The same seven answers, thought out differently.
EINSUM = {
    "answer-preactivation": """
def preactivation(x_t, h_prev, W_xh, W_hh, b_h):
    return np.einsum("bi,hi->bh", x_t, W_xh) + np.einsum("bk,hk->bh", h_prev, W_hh) + b_h[None, :]""",
    "answer-backward": """
def step_backward(d_h_t, x_t, h_prev, a_t, W_xh, W_hh):
    d = d_h_t / np.cosh(a_t) ** 2
    d_W_xh, d_W_hh = np.einsum("bh,bi->hi", d, x_t), np.einsum("bh,bk->hk", d, h_prev)
    return [np.dot(d, W_xh), np.dot(d, W_hh), d_W_xh, d_W_hh, np.einsum("bh->h", d)]""",
    "answer-sequence": """
def hidden_sequence(xs, h_0, W_xh, W_hh, b_h):
    out = np.empty((xs.shape[0],) + h_0.shape)
    for t in range(len(xs)):
        before = out[t - 1] if t else h_0
        out[t] = np.tanh(np.matmul(before, np.transpose(W_hh)) + np.matmul(xs[t], np.transpose(W_xh)) + b_h)
    return out""",
    "answer-overfit": """
def overfit(hs, targets):
    W_hy = np.linalg.pinv(hs) @ targets
    return W_hy.T, np.zeros(targets.shape[1])""",
    "answer-scale": """
def scale(W, radius):
    W = W.copy()
    W *= radius / max(abs(np.linalg.eig(W)[0]))
    return W""",
    "answer-wrong": """
def hiding_matrix(H):
    return np.ones((H, H))""",
    "answer-plot": """
def draw_states(ax, hs):
    for unit in range(hs.shape[1]):
        ax.plot([t + 1 for t in range(hs.shape[0])], hs[:, unit], "--o", label=f"unit {unit}")
    ax.set_xlabel("t"); ax.set_ylabel("state"); ax.legend(); ax.grid(True)""",
}
LISTS = {
    "answer-preactivation": """
def preactivation(x_t, h_prev, W_xh, W_hh, b_h):
    B, H, I = len(x_t), len(W_hh), len(W_xh[0])
    return [[b_h[i] + sum(W_xh[i][j] * x_t[b][j] for j in range(I))
             + sum(W_hh[i][j] * h_prev[b][j] for j in range(H)) for i in range(H)] for b in range(B)]""",
    "answer-backward": """
def step_backward(d_h_t, x_t, h_prev, a_t, W_xh, W_hh):
    d = [[g * (1 - np.tanh(a) ** 2) for g, a in zip(r, s)] for r, s in zip(d_h_t, a_t)]
    B, H = len(d), len(d[0])
    outer = lambda right: [[sum(d[b][i] * right[b][j] for b in range(B)) for j in range(len(right[0]))]
                           for i in range(H)]
    times = lambda M: [[sum(d[b][i] * M[i][j] for i in range(H)) for j in range(len(M[0]))] for b in range(B)]
    return times(W_xh), times(W_hh), outer(x_t), outer(h_prev), [sum(col) for col in zip(*d)]""",
    "answer-sequence": """
def hidden_sequence(xs, h_0, W_xh, W_hh, b_h):
    hs = [h_0]
    for x in xs:
        hs.append(np.tanh(preactivation(x, hs[-1], W_xh, W_hh, b_h)).tolist())
    return hs[1:]""",
    "answer-overfit": """
def overfit(hs, targets):
    W = np.linalg.solve(hs @ hs.T, targets)
    return (hs.T @ W).T.tolist(), [0] * targets.shape[1]""",
    "answer-scale": """
def scale(W, radius):
    return [[radius * w / np.abs(np.linalg.eigvals(W)).max() for w in row] for row in W]""",
    "answer-wrong": """
def hiding_matrix(H):
    return [[i * j for j in range(1, H + 1)] for i in range(1, H + 1)]""",
    "answer-plot": """
def draw_states(ax, hs):
    ax.set(xlabel='zeit', ylabel='zustand', title='?')
    [ax.plot(range(1, len(hs) + 1), column) for column in hs.T]
    return ax""",
}


def each(change):
    """A style that rewrites every reference answer."""
    return {name: change(REFERENCE[name]) for name in NAMES}


def after(extra):
    """A style that adds lines to every answer's cell."""
    return each(lambda text: text + "\n" + extra)


def as_body(first):
    """A style that adds a first line to every function."""

    def change(text):
        lines = text.split("\n")
        return "\n".join([lines[0], *lines[1:2], f"    {first}", *lines[2:]])

    return each(change)


def name_of(text):
    return text.split("def ")[1].split("(")[0]


def float32(text):
    name = name_of(text)
    return text + (
        f"\n_{name} = {name}\n"
        f"def {name}(*a):\n"
        "    a = [v.astype(np.float32) if isinstance(v, np.ndarray) else v for v in a]\n"
        f"    return _{name}(*a)"
    )


def wrapped(text):
    return "import functools\ndef noisy(f):\n    @functools.wraps(f)\n    def g(*a, **k):\n" + (
        f"        print('calling')\n        return f(*a, **k)\n    return g\n\n@noisy\n{text}"
    )


def called_object(text):
    name = name_of(text)
    return f"{text}\nclass Answer_{name}:\n    def __init__(self, f): self.f = f\n" + (
        f"    def __call__(self, *a): return self.f(*a)\n{name} = Answer_{name}({name})"
    )


STYLES = {  # answers, a cell before, a cell after
    "einsum": (EINSUM, "", ""),
    "lists": (LISTS, "", ""),
    "warnings": (as_body("import warnings; warnings.warn('careful'); np.log(np.zeros(1))"), "", ""),
    "stderr": (as_body("import sys; print('to stderr', file=sys.stderr); print('to stdout')"), "", ""),
    "magics": (
        each(lambda text: "%%time\n" + text),
        "%matplotlib inline\n%precision 4",
        "%timeit -n1 -r1 1 + 1",
    ),
    "shell_lines": (after("!true\n%pwd"), "!echo hello\n%env X=1", "?np"),
    "float32": (each(float32), "", ""),
    "decorated": (each(wrapped), "", ""),
    "callable_objects": (each(called_object), "", ""),
    "global_state": (
        as_body("global calls; calls += 1"),
        "calls = 0",
        "assert calls == 0",
    ),
    "seeded": (as_body("np.random.seed(0); np.random.rand()"), "np.random.seed(1)", ""),
    "own_cells_fail": (REFERENCE, "1 / 0", "undefined_name"),
    "windows_lines": (each(lambda text: text.replace("\n", "\r\n")), "", ""),
    "tabs": (each(lambda text: text.replace("    ", "\t")), "", ""),
    "twice": (each(lambda text: f"def {name_of(text)}(*a):\n    return None\n\n{text}"), "", ""),
    "strict_numpy": (REFERENCE, "import numpy as np\nnp.seterr(all='raise')\nnp.set_printoptions(2)", ""),
    "top_level_await": (after("import asyncio\nawait asyncio.sleep(0)"), "", ""),
    "leaves": (REFERENCE, "", "import sys\nsys.exit()"),
}


def test_there_are_a_hundred():
    assert len(STYLES) * len(NAMES) >= 100
    for name, (answers, _, _) in STYLES.items():
        assert set(NAMES) <= set(answers), name


def test_no_right_answer_loses_a_point(room, chapter_1, tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    for name, (answers, front, back) in STYLES.items():
        notebook = students.submission(chapter_1.release, answers, front, back)
        (folder / f"{name}.ipynb").write_bytes(students.as_bytes(notebook))
    settings = Settings(tmp_path / "out", limits=Limits(wall=120, step=30))
    results = grade(students.CHAPTER_1, folder, settings, quiet=True)
    lost = [
        (result.student, mark.call, mark.points, mark.remarks, result.errors)
        for result in results
        for mark in result.marks
        if mark.points != mark.maximum
    ]
    assert not lost
    assert [(r.student, r.status) for r in results] == [(name, GRADED) for name in sorted(STYLES)]
