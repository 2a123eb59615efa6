"""The repository's own promises: versions held together, set-up that explains itself, a pure wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.support import book_sources, load_module

install = load_module(ROOT / "tools" / "install.py")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


class TestVersions:
    def test_the_lock_pins_every_direct_dependency_within_its_range(self):
        pins = locked()
        extras = PYPROJECT["project"]["optional-dependencies"]
        ours = [r for name in install.EXTRAS.split(",") for r in extras[name]]
        for text in [*PYPROJECT["project"]["dependencies"], *ours]:
            requirement = Requirement(text)
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"requirements.lock does not pin {requirement.name}: run make lock"
            assert version in requirement.specifier, f"{text} does not allow the locked {version}"

    def test_the_environment_is_the_locked_one(self):
        from importlib.metadata import PackageNotFoundError, version

        for name, pin in locked().items():
            try:
                installed = version(name).split("+")[0]
            except PackageNotFoundError:
                continue  # of another platform or Python
            assert installed == pin, f"{name} {installed} is installed, requirements.lock says {pin}"

    def test_conda_gives_the_same_versions(self):
        environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
        python = next(
            d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")
        )
        minor = python.removeprefix("python=")
        assert minor in {"3.11", "3.12", "3.13"}
        pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
        assert pip == ["-c requirements.lock", f"-e .[{install.EXTRAS}]"], (
            "conda and make must install the same"
        )

    def test_the_extras_that_make_installs_exist(self):
        assert set(install.EXTRAS.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


class TestSetUp:
    @pytest.mark.parametrize(
        ("output", "sentence"),
        [
            ("WARNING: Retrying ... NewConnectionError('...')", "No network"),
            ("Temporary failure in name resolution", "No network"),
            ("OSError: [Errno 28] No space left on device", "The disk is full"),
            ("ERROR: ResolutionImpossible", "pip could not install"),
        ],
    )
    def test_a_failed_installation_is_explained_in_one_sentence(self, output, sentence):
        told = install.diagnose(output)
        assert told.startswith(sentence)
        assert "\n" not in told

    @pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
    def test_a_wrong_python_is_refused_in_one_sentence(self, monkeypatch, capsys, tmp_path, version):
        monkeypatch.setattr(install.sys, "version_info", (*version, 0))
        with pytest.raises(SystemExit) as stopped:
            install.main(str(tmp_path / "venv"))
        assert stopped.value.code == 1
        told = capsys.readouterr().err
        assert told.startswith(f"Python {version[0]}.{version[1]} is not supported")
        assert told.count("\n") == 1
        assert not (tmp_path / "venv").exists()

    def test_too_small_a_disk_is_refused_before_anything_is_written(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(install.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
        with pytest.raises(SystemExit):
            install.main(str(tmp_path / "venv"))
        assert capsys.readouterr().err.startswith("Not enough disk")
        assert not (tmp_path / "venv").exists()

    def test_pip_without_a_network_ends_in_that_sentence(self):
        script = (
            "import sys; sys.path.insert(0, sys.argv[1]); import install; "
            "install.pip(sys.executable, 'install', '--no-cache-dir', '--retries', '1', '--timeout', '2', "
            "'--index-url', 'http://127.0.0.1:9/simple', 'surely-not-installed')"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        result = subprocess.run(
            [sys.executable, "-c", script, str(ROOT / "tools")],
            env=environment | {"PIP_CONFIG_FILE": os.devnull},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 1
        assert result.stderr.strip().splitlines()[-1].startswith("No network"), result.stderr

    def test_make_lists_its_targets(self):
        result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60)
        for target in ("book", "test", "lab", "serve", "check", "clean"):
            assert f"make {target}" in result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return next(folder.glob("*.whl"))


class TestTheWheel:
    def test_is_pure_python_and_complete(self, wheel):
        assert wheel.name.endswith("-py3-none-any.whl")
        names = set(zipfile.ZipFile(wheel).namelist())
        source = {f"rnnlib/{p.relative_to(ROOT / 'rnnlib')}" for p in (ROOT / "rnnlib").rglob("*.py")}
        assert source <= names
        data = {f"rnnlib/data/{p.name}" for p in (ROOT / "rnnlib" / "data").iterdir() if p.is_file()}
        assert {"rnnlib/py.typed", "rnnlib/engine/kernels.c"} | data <= names
        assert not any(name.startswith(("tests", "book", "tools")) for name in names)

    def test_works_where_numpy_is_the_only_package(self, wheel, tmp_path):
        """An environment of its own that holds NumPy, the wheel and nothing else."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True, timeout=120)
        site = next(tmp_path.glob("lib/python*/site-packages"))
        zipfile.ZipFile(wheel).extractall(site)
        installed = Path(np.__file__).parent
        for name in ("numpy", "numpy.libs"):
            if (installed.parent / name).exists():
                (site / name).symlink_to(installed.parent / name)
        code = (
            "import sys, numpy as np, rnnlib\n"
            "from rnnlib import datasets, equations\n"
            "from rnnlib.exercises import check\n"
            "from rnnlib.initialisation import random_vanilla_cell\n"
            "from rnnlib.unroll import unroll\n"
            "years, numbers = datasets.sunspots()\n"
            "cell = random_vanilla_cell(np.random.default_rng(0), 1, 10)\n"
            "assert unroll(cell, numbers[:, None, None] / 100).hs.shape == (309, 1, 10)\n"
            "assert check('eq-vanilla-output', lambda h, W, b: h @ W.T + b)\n"
            "assert len(equations.index()) > 10\n"
            "try:\n    import torch\nexcept ImportError:\n    print('NumPy alone')\n"
        )
        result = subprocess.run(
            [tmp_path / "bin" / "python", "-I", "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        assert "NumPy alone" in result.stdout

    def test_importing_rnnlib_imports_no_torch_and_no_matplotlib(self):
        code = (
            "import sys, rnnlib; print(sorted({'torch', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules)))"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd="/"
        )
        assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_notebooks_are_stripped():
    notebooks = [str(p) for p in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = ["--keep-count", "--keep-id", "--extra-keys", "metadata.language_info metadata.jupytext"]
    assert (
        "nbstripout --keep-count --keep-id --extra-keys 'metadata.language_info metadata.jupytext'"
        in makefile
    )
    result = subprocess.run(
        [Path(sys.executable).parent / "nbstripout", "--verify", *options, *notebooks],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"run make outputs: {result.stdout}{result.stderr}"


def test_the_citation_file_names_the_version():
    import rnnlib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rnnlib.__version__


def test_imports_go_down_the_floors():
    """Each module imports only modules that stand before it in the API pages, as these promise."""
    pages = [name for name in book_sources.toc_documents(ROOT) if name.startswith("book/api/")]
    text = "".join((ROOT / f"{name}.md").read_text(encoding="utf-8") for name in pages)
    # The engine has modules of its own.
    order = list(dict.fromkeys(re.findall(r"automodule:: rnnlib\.(\w+)", text)))
    modules = {p.stem for p in (ROOT / "rnnlib").glob("*.py")} | {"engine"}
    assert {*order, "__init__"} == modules
    for path in [*(ROOT / "rnnlib").glob("*.py"), *(ROOT / "rnnlib" / "engine").glob("*.py")]:
        module = "engine" if path.parent.name == "engine" else path.stem
        if module == "__init__":
            continue
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rnnlib":
                parts = node.module.split(".")
                imported |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        for name in imported & set(order) - {"engine" if module == "engine" else None}:
            assert order.index(name) < order.index(module), (
                f"{path.name} imports {name}, which comes after it"
            )
