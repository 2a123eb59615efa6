"""A hub with a class of its own: accounts, ports and folders are made for the test and removed after it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

HUB = ROOT / ".venv-hub"
SHOTS = Path(os.environ.get("HUB_SCREENSHOTS", ROOT / "_build" / "hub"))
STUDENTS = 3


@dataclass
class Hub:
    """A running hub."""

    address: str
    port: int
    pid: int
    password: str
    teacher: str
    students: list[str]
    exchange: Path
    log: Path

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A picture of everybody's page when a test fails."""
    report = yield
    if report.when == "call" and report.failed:
        for person in getattr(item, "funcargs", {}).get("people", ()):
            person.shot(f"failed_{person.name}")
    return report


def missing() -> str | None:
    """Why no hub can be started here."""
    if os.geteuid() != 0:
        return "the hub starts servers as their users: it needs root"
    for program in ("useradd", "userdel", "groupadd", "groupdel", "chpasswd"):
        if shutil.which(program) is None:
            return f"the program {program} is missing; on Debian: apt install passwd"
    if not (HUB / "npm" / "node_modules" / ".bin" / "configurable-http-proxy").exists():
        return "the hub is not installed: make test-hub"
    return None


def free_ports() -> int:
    """The first of three neighbouring ports that nobody uses."""
    for port in range(18_000, 19_000, 10):
        sockets = []
        try:
            for i in range(3):
                sockets.append(socket.create_server(("127.0.0.1", port + i)))
        except OSError:
            continue
        else:
            return port
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports between 18000 and 19000")


def run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="module")
def accounts() -> Iterator[tuple[str, list[str], str, str]]:
    """Teacher, students, group and password, on this machine as long as the tests run."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    mark = f"hub{os.getpid() % 10_000}"
    group, teacher = f"{mark}s", f"{mark}t"
    students = [
        f"{mark}{letter}" for letter in "abcdefghijklmnop"[: int(os.environ.get("HUB_STUDENTS", STUDENTS))]
    ]
    password = secrets.token_hex(12)
    made = []
    try:
        run("groupadd", group)
        for name in [teacher, *students]:
            groups = ["-G", group] if name in students else []
            run("useradd", "--create-home", "--shell", "/bin/bash", *groups, name)
            made.append(name)
            Path(pwd.getpwnam(name).pw_dir).chmod(0o700)
        run("chpasswd", stdin="".join(f"{name}:{password}\n" for name in made))
        yield teacher, students, group, password
    finally:
        for name in made:
            subprocess.run(["userdel", "--remove", name], capture_output=True, timeout=60)
        subprocess.run(["groupdel", group], capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def hub(accounts) -> Iterator[Hub]:
    teacher, students, group, password = accounts
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="hub") as name:
        folder = Path(name)
        folder.chmod(0o755)
        log = folder / "log.txt"
        settings = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HUB_TEACHERS": teacher,
            "HUB_GROUP": group,
            "HUB_PORT": str(port),
            "HUB_STATE": str(folder / "state"),
            "HUB_EXCHANGE": str(folder / "exchange"),
            **{k: os.environ[k] for k in ("HUB_PYTHON",) if k in os.environ},
        }
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [HUB / "bin" / "jupyterhub", "--config", ROOT / "deploy/jupyterhub/jupyterhub_config.py"],
                env=settings,
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        running = Hub(address, port, process.pid, password, teacher, students, folder / "exchange", log)
        try:
            wait_for(f"{address}/hub/api/", process, running)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)  # it ends the users' servers and the proxy
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            SHOTS.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, SHOTS / "hub.log")


def wait_for(address: str, process: subprocess.Popen[bytes], running: Hub) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, f"the hub ended: {running.told()}"
        assert time.monotonic() < deadline, f"the hub does not answer: {running.told()}"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.5)
