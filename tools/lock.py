"""Print the lock: the exact version of every package in this environment, one a line.

pip reads it as constraints (``pip install -c requirements.lock``): it pins what gets installed and
forces nothing on anyone, so packages of one platform do no harm on another.
"""

from importlib.metadata import distributions

HEADER = """\
# Exact versions that CI and classes use. Written by `make lock`; do not edit.
# pip reads this file as constraints: pip install -c requirements.lock -e ".[torch,train,book,test]"
"""


def main() -> None:
    versions = {
        d.metadata["Name"].lower().replace("_", "-"): d.version.split("+")[0]
        for d in distributions()
        if d.metadata["Name"].lower() != "rnnlib"
    }
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(versions.items())))


if __name__ == "__main__":
    main()
