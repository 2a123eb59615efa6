"""The hub and the cluster as far as they can be held without one: settings, manifests, the image's recipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rnnlib.classroom.__main__ import parser
from tests.conftest import ROOT
from tests.support import load_module

parallel = load_module(ROOT / "experiments" / "parallel.py")
HUB = ROOT / "deploy" / "jupyterhub"
KUBERNETES = ROOT / "deploy" / "kubernetes"

# What the chart's values may hold, as its documentation has it, of what we use. None: anything below.
CHART: dict[str, Any] = {
    "hub": {
        "concurrentSpawnLimit": int,
        "config": None,  # JupyterHub's own settings
        "db": {"type": {"sqlite-pvc", "sqlite-memory", "mysql", "postgres", "other"}, "url": str},
    },
    "proxy": {
        "https": {
            "enabled": bool,
            "type": {"letsencrypt", "manual", "offload", "secret"},
            "hosts": list,
            "letsencrypt": {"contactEmail": str, "acmeServer": str},
        }
    },
    "singleuser": {
        "image": {"name": str, "tag": str},
        "defaultUrl": str,
        "memory": {"guarantee": str, "limit": str},
        "cpu": {"guarantee": (int, float), "limit": (int, float)},
        "storage": {"capacity": str, "homeMountPath": str},
        "extraEnv": None,
        "extraFiles": None,
        "lifecycleHooks": None,
    },
    "scheduling": {
        "userScheduler": {"enabled": bool},
        "podPriority": {"enabled": bool},
        "userPlaceholder": {"enabled": bool, "replicas": int},
    },
    "prePuller": {"continuous": {"enabled": bool}},
    "cull": {"enabled": bool, "timeout": int, "every": int},
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))


def faults(values: Any, known: Any, at: str = "") -> list[str]:
    """Where values are not of the kinds that are known."""
    if known is None:
        return []
    if isinstance(known, set):
        return [] if values in known else [f"{at}: {values!r} is none of {sorted(known)}"]
    if not isinstance(known, dict):
        return [] if isinstance(values, known) else [f"{at}: {values!r}"]
    if not isinstance(values, dict):
        return [f"{at}: not a mapping"]
    unknown = [f"{at}.{key}: unknown" for key in values if key not in known]
    return unknown + [f for k, v in values.items() if k in known for f in faults(v, known[k], f"{at}.{k}")]


class TestTheCluster:
    def test_the_values_are_of_the_charts_kinds(self):
        assert faults(read("values.yaml"), CHART) == []

    def test_what_is_wrong_would_be_seen(self):
        values = read("values.yaml")
        values["singleuser"]["memory"]["limits"] = "1G"
        values["cull"]["timeout"] = "an hour"
        values["hub"]["db"]["type"] = "oracle"
        assert [f.split(":")[0] for f in faults(values, CHART)] == [
            ".hub.db.type",
            ".singleuser.memory.limits",
            ".cull.timeout",
        ]

    def test_the_chart_itself_accepts_them(self):
        """With the chart unpacked at Z2JH_CHART: our values over its own, held to its schema."""
        chart = os.environ.get("Z2JH_CHART")
        if not chart:
            pytest.skip("Z2JH_CHART names no folder with the chart's values.yaml and values.schema.json")
        jsonschema = pytest.importorskip("jsonschema")
        whole = yaml.safe_load((Path(chart) / "values.yaml").read_text(encoding="utf-8"))

        def lay(over: dict[str, Any], under: dict[str, Any]) -> dict[str, Any]:
            return under | {
                k: lay(v, under[k]) if isinstance(v, dict) and isinstance(under.get(k), dict) else v
                for k, v in over.items()
            }

        schema = json.loads((Path(chart) / "values.schema.json").read_text(encoding="utf-8"))
        jsonschema.validate(lay(read("values.yaml"), whole), schema)

    def test_nobody_may_sign_in_before_somebody_is_named(self):
        assert read("values.yaml")["hub"]["config"]["Authenticator"] == {
            "allow_all": False,
            "allowed_users": [],
        }

    @pytest.mark.parametrize("name", ["grade-parts.yaml", "grade-merge.yaml"])
    def test_jobs_use_the_image_of_the_values_and_no_token(self, name):
        image = read("values.yaml")["singleuser"]["image"]
        pod = read(name)["spec"]["template"]["spec"]
        assert [c["image"] for c in pod["containers"]] == [f"{image['name']}:{image['tag']}"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["hostUsers"] is False, "else SYS_ADMIN would be that of the machine"

    def test_both_jobs_grade_in_the_same_pod(self):
        """They differ in what they run and whether they know the database, in no right and no limit."""

        def pod(name: str) -> dict[str, Any]:
            spec = read(name)["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            del container["command"]
            container["env"] = [entry for entry in container["env"] if entry["name"] != "DATABASE"]
            return spec

        assert pod("grade-parts.yaml") == pod("grade-merge.yaml")

    @staticmethod
    def arguments(job: dict[str, Any], tmp_path: Path, **environment: str):
        """What the grader would be asked, by the shell of the job with a Python that only tells."""
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "$TELL" "$@"\n')
        python.chmod(0o755)
        container = job["spec"]["template"]["spec"]["containers"][0]
        own = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        tell = "import json, sys; print(json.dumps(sys.argv[1:]))"
        done = subprocess.run(
            container["command"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TELL": tell, **own, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said[:2] == ["-m", "rnnlib.classroom"]
        return parser().parse_args(said[2:])

    def test_the_pods_cover_the_class_once(self, tmp_path):
        job = read("grade-parts.yaml")
        assert job["spec"]["completionMode"] == "Indexed"
        n = job["spec"]["completions"]
        parts = [self.arguments(job, tmp_path, JOB_COMPLETION_INDEX=str(i)).part for i in range(n)]
        assert parts == [(i + 1, n) for i in range(n)]

    def test_the_merge_is_the_same_command_without_a_part(self, tmp_path):
        part = vars(self.arguments(read("grade-parts.yaml"), tmp_path, JOB_COMPLETION_INDEX="0"))
        merge = vars(self.arguments(read("grade-merge.yaml"), tmp_path))
        assert merge | {"part": (1, 8)} == part
        url = "postgresql://teacher:a word@host/gradebook"
        assert self.arguments(read("grade-merge.yaml"), tmp_path, DATABASE=url).database == url

    def test_the_assignment_of_the_jobs_is_there(self, tmp_path):
        name = self.arguments(read("grade-merge.yaml"), tmp_path).assignment
        assert (ROOT / "notebooks" / "assignments" / f"{name}.ipynb").exists()


def told_by(command: list[Any], tmp_path: Path, programs: dict[str, str], **environment: str) -> str:
    """What a command prints where these programs, each a line of shell, stand in for those of a cluster."""
    for name, line in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    done = subprocess.run(
        command,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def understood(arguments: list[str]) -> tuple[Any, Any]:
    """The arguments after ``torchrun``, as torchrun itself and the script read them."""
    from torch.distributed.run import get_args_parser

    launcher = get_args_parser().parse_args(arguments)
    assert launcher.training_script == "experiments/parallel.py"
    assert (ROOT / launcher.training_script).exists()
    return launcher, parallel.parser().parse_args(launcher.training_script_args)


EACH_ARGUMENT = """printf '%s\\n' "$@" """


SLURM_JOB = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
SLURM = {"scontrol": "echo n1; echo n2", "srun": EACH_ARGUMENT}


class TestTraining:
    def test_slurm_starts_one_torchrun_a_node_that_meet_at_the_first(self, tmp_path):
        said = told_by(
            ["bash", ROOT / "deploy" / "slurm" / "train.sbatch", "--steps", "70"],
            tmp_path,
            SLURM,
            **SLURM_JOB,
            SLURM_GPUS_ON_NODE="8",
            SLURM_CPUS_PER_TASK="32",
            CHECKPOINTS="/a folder/run",
        ).splitlines()
        assert said[:2] == ["--kill-on-bad-exit=1", "torchrun"]
        launcher, script = understood(said[2:])
        assert (launcher.nnodes, launcher.nproc_per_node, launcher.max_restarts) == ("2", "8", 3)
        assert (launcher.rdzv_backend, launcher.rdzv_endpoint) == ("c10d", "n1:23456")
        assert (script.device, script.steps, script.checkpoints) == ("cuda", 70, Path("/a folder/run"))

    def test_slurm_without_gpus(self, tmp_path):
        programs = SLURM | {"srun": "echo $OMP_NUM_THREADS; " + EACH_ARGUMENT}
        threads, *said = told_by(
            ["bash", ROOT / "deploy" / "slurm" / "train.sbatch"],
            tmp_path,
            programs,
            **SLURM_JOB,
            SLURM_CPUS_PER_TASK="32",
            DEVICE="cpu",
            PROCESSES="4",
        ).splitlines()
        assert threads == "8"
        launcher, script = understood(said[2:])
        assert (launcher.nproc_per_node, script.device) == ("4", "cpu")

    def test_slurm_is_asked_for_one_task_a_node_and_warned_in_time(self):
        text = (ROOT / "deploy" / "slurm" / "train.sbatch").read_text(encoding="utf-8")
        asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
        assert asked["ntasks-per-node"] == "1"
        assert asked["signal"].startswith("B:USR1@")
        assert "requeue" in asked
        assert re.search(r"^trap requeue USR1$", text, re.MULTILINE)
        assert text.rstrip().splitlines()[-1].startswith("wait $!")

    def test_the_pods_find_the_first_under_its_name(self, tmp_path):
        service, job = yaml.safe_load_all((KUBERNETES / "training.yaml").read_text(encoding="utf-8"))
        assert (service["kind"], job["kind"]) == ("Service", "Job")
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        assert pod["subdomain"] == service["metadata"]["name"]
        assert spec["completionMode"] == "Indexed"

        container = pod["containers"][0]
        own = {e["name"]: e["value"] for e in container["env"]}
        said = told_by(container["command"], tmp_path, {"torchrun": EACH_ARGUMENT}, **own).splitlines()
        launcher, script = understood(said)
        least, most = map(int, launcher.nnodes.split(":"))
        assert 1 <= least <= most == spec["completions"] == spec["parallelism"]
        assert int(launcher.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
        host, port = launcher.rdzv_endpoint.split(":")
        assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
        assert int(port) == service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
        assert str(script.checkpoints) in [m["mountPath"] for m in container["volumeMounts"]]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert script.steps == int(own["STEPS"])

    def test_the_pods_use_the_image_of_the_values_and_no_rights(self):
        _, job = yaml.safe_load_all((KUBERNETES / "training.yaml").read_text(encoding="utf-8"))
        image = read("values.yaml")["singleuser"]["image"]
        pod = job["spec"]["template"]["spec"]
        assert [c["image"] for c in pod["containers"]] == [f"{image['name']}:{image['tag']}"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True


class TestTheImage:
    def test_repo2docker_reads_the_environment_and_installs_the_sandbox(self):
        assert (ROOT / "apt.txt").read_text(encoding="utf-8").split() == ["bubblewrap"]
        program = shutil.which("repo2docker")
        if program is None:
            pytest.skip("repo2docker is not installed")
        done = subprocess.run(
            [program, "--no-build", "--debug", str(ROOT)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert 'env update -p ${NB_PYTHON_PREFIX} --file "environment.yml"' in said
        assert "bubblewrap" in said


def nbgrader(role: str, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What nbgrader says on the hub, to a teacher or to a student."""
    programs = Path(sys.executable).parent
    return subprocess.run(
        [programs / "nbgrader", *command],
        cwd=home,
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(home),
            "JUPYTER_CONFIG_PATH": os.pathsep.join([str(HUB / role), str(HUB / "everyone")]),
            "JUPYTER_PLATFORM_DIRS": "1",
            "CLASSROOM_COURSE": "rnn",
            "CLASSROOM_EXCHANGE": str(home / "exchange"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestTheHub:
    def test_every_setting_is_explained(self):
        text = (HUB / "jupyterhub_config.py").read_text(encoding="utf-8")
        _, explained, code = text.split('"""', 2)
        used = set(re.findall(r'environ\.get\("(HUB_\w+)"', code))
        assert used == set(re.findall(r"^    (HUB_\w+)", explained, re.MULTILINE))
        assert "777" in explained
        assert "Kubernetes" in explained

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({}, "Who teaches?"),
            ({"HUB_TEACHERS": "no-such-teacher"}, "no-such-teacher is no account of this machine"),
            ({"HUB_TEACHERS": "nobody", "HUB_GROUP": "no-such-group"}, "There is no group no-such-group"),
            (
                {"HUB_TEACHERS": "nobody", "HUB_GROUP": "nogroup", "HUB_PYTHON": "/no/python"},
                "HUB_PYTHON=/no/python is not there",
            ),
            (
                {"HUB_TEACHERS": "nobody", "HUB_GROUP": "nogroup", "HUB_PYTHON": "/bin/false"},
                "rm -r .venv .venv-hub; make hub TEACHER=nobody PYTHON=/usr/bin/python3",
            ),
        ],
    )
    def test_what_is_missing_is_said_in_a_sentence(self, settings, sentence, tmp_path):
        if os.geteuid() != 0:
            settings, sentence = {}, "run it as root"
        done = subprocess.run(
            [sys.executable, HUB / "jupyterhub_config.py"],
            env={
                "PATH": "/usr/bin:/bin",
                "HUB_STATE": str(tmp_path / "s"),
                "HUB_EXCHANGE": str(tmp_path / "e"),
            }
            | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_teacher_cannot_run_strangers_code_by_a_button(self, tmp_path):
        """nbgrader's autograde stops before it has changed anything."""
        submitted = tmp_path / "rnn" / "submitted" / "anna" / "one"
        kept = tmp_path / "rnn" / "autograded" / "anna" / "one" / "one.ipynb"
        for path in (submitted / "one.ipynb", kept, tmp_path / "rnn" / "source" / "one" / "one.ipynb"):
            path.parent.mkdir(parents=True)
            path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
        done = nbgrader("teacher", tmp_path, "autograde", "one", "--force", "--create")
        assert done.returncode != 0
        assert "Autograde is off here" in done.stderr
        assert kept.exists()

    def test_nobody_is_told_that_a_wrong_answer_passed(self, tmp_path):
        """nbgrader's validate stops with a sentence: to it every check that raises nothing is a success."""
        notebook = tmp_path / "one.ipynb"
        notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
        done = nbgrader("student", tmp_path, "validate", str(notebook))
        assert "Validate is off here" in done.stderr
        assert "Success" not in done.stdout

    def test_the_locks_pin_everything_and_name_no_host(self):
        lines = (HUB / "requirements.lock").read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.\-]+==[\w.+]+", pin) for pin in pins)
        named = {re.split(r"[=<>\[]", line)[0].lower().replace("_", "-") for line in pins}
        asked = re.findall(r"^[\w-]+", (HUB / "requirements.in").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(asked) <= named
        lock = json.loads((HUB / "package-lock.json").read_text(encoding="utf-8"))
        packages = {k: v for k, v in lock["packages"].items() if k}
        assert all("integrity" in one and "resolved" not in one for one in packages.values())
        wanted = json.loads((HUB / "package.json").read_text(encoding="utf-8"))["dependencies"]
        for name, version in wanted.items():
            assert packages[f"node_modules/{name}"]["version"] == version

    def test_students_and_teachers_settings_are_well_formed(self):
        found = list(HUB.rglob("*.json"))
        assert len(found) >= 6
        for path in found:
            json.loads(path.read_text(encoding="utf-8"))
        kernel = json.loads((HUB / "share/jupyter/kernels/python3/kernel.json").read_text(encoding="utf-8"))
        told = subprocess.run(
            [a.replace("{connection_file}", "/tmp/a b.json") for a in kernel["argv"]],
            env={"CLASSROOM_PYTHON": "/bin/echo", "PATH": "/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.stdout.strip() == "-m ipykernel_launcher -f /tmp/a b.json"
        assert os.access(HUB / "bin" / "classroom", os.X_OK)
