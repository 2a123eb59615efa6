"""Create the virtual environment from the lock, or say in one sentence why that cannot be done.

Runs under any Python 3, so that an unsuitable one is refused by a sentence and not by a traceback.
Needs the standard library only.
"""

import os
import re
import shutil
import subprocess
import sys
import venv

EXTRAS = "torch,train,book,test,reference,classroom"
NEEDED_GB = 4

NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Name or service not known|Temporary failure in name"
    r"|Network is unreachable|ConnectTimeoutError|Connection refused|ReadTimeoutError|ProxyError"
)


def stop(sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(sentence + "\n")
    sys.exit(1)


def diagnose(output: str) -> str:
    """One sentence for what pip said last."""
    if NO_NETWORK.search(output):
        return "No network: pip cannot reach the package index; connect and run make again."
    if "No space left on device" in output:
        return "The disk is full: free about %d GB and run make again." % NEEDED_GB
    return "pip could not install the packages of requirements.lock; its own words are above."


def pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(("Collecting", "Installing collected", "Successfully", "ERROR", "error")):
                print("  " + line.rstrip()[:100], flush=True)
    if process.returncode != 0:
        sys.stderr.write("".join(lines[-15:]))
        stop(diagnose("".join(lines)))


def main(directory: str) -> None:
    version = sys.version_info[:2]
    if not (3, 11) <= version <= (3, 13):
        stop(
            "Python %d.%d is not supported: install Python 3.11, 3.12 or 3.13 and run make again "
            "(or name one: make PYTHON=/path/to/python3.12)." % version
        )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    python = os.path.join(directory, "bin", "python")
    fresh = not os.path.exists(python)
    if fresh and shutil.disk_usage(root).free < NEEDED_GB * 10**9:
        stop("Not enough disk: %d GB free are needed in %s for the packages." % (NEEDED_GB, root))
    if fresh:
        print("Creating %s with Python %d.%d ..." % (directory, *version), flush=True)
        try:
            venv.create(directory, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(directory, ignore_errors=True)
            stop(
                "Python's venv module cannot make an environment (%s); on Debian, install python3-venv."
                % error
            )
    print("Installing the versions of requirements.lock (some minutes the first time) ...", flush=True)
    lock = os.path.join(root, "requirements.lock")
    pip(python, "install", "-c", lock, "pip", "setuptools", "wheel")
    pip(python, "install", "-c", lock, "--no-build-isolation", "-e", "%s[%s]" % (root, EXTRAS))


if __name__ == "__main__":
    main(sys.argv[1])
