"""JupyterHub for one class on one machine: ``make hub TEACHER=name`` starts it on this machine's loopback.

Every user is an account of the system, with its password; the hub starts each server as its user, so it
runs as root. Teachers are those named, students the members of a group. Work goes to and fro by nbgrader's
exchange. All settings are variables of the environment:

    HUB_TEACHERS   names of the teachers, with commas; the first owns the course
    HUB_GROUP      the group of the students (students)
    HUB_PORT       where the hub listens on 127.0.0.1, with the two ports that follow (8000)
    HUB_STATE      what the hub remembers, for root alone (/srv/jupyterhub)
    HUB_EXCHANGE   nbgrader's exchange (/srv/nbgrader/exchange)
    HUB_COURSE     the name of the course (rnn)
    DATABASE       the gradebook's, if it is not to be SQLite: handed to the teachers' servers only
    HUB_PYTHON     the Python of the notebooks (.venv of this folder); every user must be able to read it

The exchange: what a student hands in becomes a folder of mode 777 with a random name, in a folder that
others may enter but not list, so that the teacher can delete it. Whoever learns the name can read and
change it. That is nbgrader's way, and it needs users who are separate accounts. Where they share one, as
pods on Kubernetes do, hand in by git or a learning platform instead, into the folder that is graded.

Before the hub is reached from elsewhere, put a server with TLS in front of it, or set JupyterHub.ssl_key and
ssl_cert. This spawner bounds no user's memory: on a machine with systemd use the package
jupyterhub-systemdspawner and its mem_limit, or leave room (see the teacher's guide).
"""

import grp
import os
import pwd
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BOOK = HERE.parents[1]
ENVIRONMENT = Path(sys.prefix)


def stop(sentence: str) -> None:
    """End with a sentence; a traceback would bury it."""
    sys.stderr.write(sentence + "\n")
    sys.exit(2)


def works_for(user: str, *command: str) -> bool:
    """Whether a command runs with a user's rights, and not with root's alone."""
    who = pwd.getpwnam(user)
    done = subprocess.run(
        command,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        user=who.pw_uid,
        group=who.pw_gid,
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
    return done.returncode == 0


teachers = [name for name in os.environ.get("HUB_TEACHERS", "").replace(" ", "").split(",") if name]
group = os.environ.get("HUB_GROUP", "students")
port = int(os.environ.get("HUB_PORT", "8000"))
state = Path(os.environ.get("HUB_STATE", "/srv/jupyterhub"))
exchange = Path(os.environ.get("HUB_EXCHANGE", "/srv/nbgrader/exchange"))
course = os.environ.get("HUB_COURSE", "rnn")
python = Path(os.environ.get("HUB_PYTHON", BOOK / ".venv" / "bin" / "python"))
proxy = ENVIRONMENT / "npm" / "node_modules" / ".bin" / "configurable-http-proxy"

if os.geteuid() != 0:
    stop("The hub starts a server for each user, as that user: run it as root (sudo make hub TEACHER=name).")
if not teachers:
    stop("Who teaches? make hub TEACHER=name, an account of this machine.")
for name in teachers:
    try:
        pwd.getpwnam(name)
    except KeyError:
        stop(f"TEACHER={name} is no account of this machine; make one with: useradd -m {name}; passwd {name}")
try:
    grp.getgrnam(group)
except KeyError:
    stop(f"There is no group {group}. Make it and its students: groupadd {group}; useradd -m -G {group} anna")
if not python.exists():
    stop(f"HUB_PYTHON={python} is not there; make install")
needed = {
    "HUB_PYTHON": (str(python), "-c", "import ipykernel, numpy"),
    "the hub's Python": (str(ENVIRONMENT / "bin" / "python"), "-c", "import jupyterhub, nbgrader"),
    "this folder": ("/usr/bin/test", "-r", str(HERE / "everyone" / "nbgrader_config.py")),
}
for what, command in needed.items():
    try:
        works = works_for(teachers[0], *command)
    except PermissionError:  # it cannot even be started
        works = False
    if not works:
        true = Path(command[0]).resolve()
        link = f"; it is a link to {true}" if str(true) != command[0] else ""
        stop(
            f"{what} works for root only ({' '.join(command)} fails for {teachers[0]}{link}). "
            "Put this checkout where all can read it, such as /opt, and make its environments with a Python "
            "that all can read: "
            f"rm -r .venv .venv-hub; make hub TEACHER={teachers[0]} PYTHON=/usr/bin/python3"
        )

state.mkdir(parents=True, exist_ok=True)
state.chmod(0o700)
# nbgrader asks that everyone may write here; the sticky bit keeps each to what is theirs. The course's own
# folder is made now, so that nobody else can be the first.
exchange.mkdir(parents=True, exist_ok=True)
exchange.chmod(0o1777)
ours = exchange / course
ours.mkdir(exist_ok=True)
ours.chmod(0o755)
os.chown(ours, pwd.getpwnam(teachers[0]).pw_uid, pwd.getpwnam(teachers[0]).pw_gid)

c = get_config()  # noqa: F821  (JupyterHub puts it there)
c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{port + 1}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{port + 2}"
c.ConfigurableHTTPProxy.command = [str(proxy)]
c.ConfigurableHTTPProxy.pid_file = str(state / "proxy.pid")
c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cleanup_servers = True

# --- who --------------------------------------------------------------------------------------------

c.JupyterHub.authenticator_class = "pam"
c.Authenticator.allowed_users = set(teachers)
c.LocalAuthenticator.allowed_groups = {group}

# --- their servers ----------------------------------------------------------------------------------


def teaches(spawner) -> bool:
    """Whether this is the server of a teacher."""
    return spawner.user.name in teachers


def for_user(spawner) -> str:
    """Where a user's Jupyter finds its settings: students see neither the formgrader nor its menus."""
    kind = "teacher" if teaches(spawner) else "student"
    return os.pathsep.join([str(HERE / kind), str(HERE / "everyone")])


c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.Spawner.cmd = [str(ENVIRONMENT / "bin" / "jupyterhub-singleuser")]
c.Spawner.default_url = "/lab"
c.Spawner.start_timeout = 180
c.Spawner.http_timeout = 180
c.JupyterHub.concurrent_spawn_limit = 4 * (os.cpu_count() or 1)
c.Spawner.environment = {
    "PATH": f"{ENVIRONMENT / 'bin'}:{HERE / 'bin'}:/usr/local/bin:/usr/bin:/bin",
    "JUPYTER_CONFIG_PATH": for_user,
    "JUPYTER_PATH": str(HERE / "share" / "jupyter"),  # the kernel, which is that of the book
    "CLASSROOM_PYTHON": str(python),
    "CLASSROOM_BOOK": str(BOOK),
    "CLASSROOM_EXCHANGE": str(exchange),
    "DATABASE": lambda spawner: os.environ.get("DATABASE", "") if teaches(spawner) else "",
    "CLASSROOM_COURSE": course,
    "OMP_NUM_THREADS": "1",  # thirty students on eight cores gain nothing by more
}

# --- servers that nobody uses end after an hour ------------------------------------------------------

c.JupyterHub.services = [
    {"name": "cull", "command": [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=3600"]}
]
c.JupyterHub.load_roles = [
    {
        "name": "cull",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["cull"],
    }
]
