"""Real data: small sets that ship with the package, and readers for your own files.

Loading needs no network. Where each set comes from, its licence and its checksum stand in the book, on
the page on data. The readers :func:`read_text`, :func:`read_csv`, :func:`read_wav` and
:func:`read_wav_folder` read the shipped sets too. They guess nothing and leave nothing out: a file that
is not what it should be is refused, with the place where it goes wrong.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import math
import os
import re
import struct
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rnnlib.backend import check_choice, check_count

PathLike: TypeAlias = str | os.PathLike[str]
"""The path of a file or folder."""

Column: TypeAlias = str | int
"""How a column of a table is named, by its header or by its position, from 0."""


# --- the sets that ship with the package ----------------------------------------------------------


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """The yearly mean sunspot number, 1700 to 2008.

    Source: National Geophysical Data Center, as distributed by statsmodels
    (``statsmodels.datasets.sunspots``), public domain.

    Returns:
        ``years`` (309,) int64 and ``numbers`` (309,) float64, without missing values.
    """
    table = _shipped_table("sunspots", "sunspots.csv")
    return table.numbers(["year"])[:, 0].astype(np.int64), table.numbers(["sunspot_number"])[:, 0]


class MaunaLoaCO2(NamedTuple):
    """Carbon dioxide in the air on Mauna Loa, month by month.

    Attributes:
        months: the months without a gap, (526,) ``datetime64[M]``.
        ppm: the mean of the month in parts per million by volume, (526,) float64.
        weeks: of how many weekly values it is the mean, (526,) int64; 0 where it is interpolated.
    """

    months: np.ndarray
    ppm: np.ndarray
    weeks: np.ndarray


def mauna_loa_co2() -> MaunaLoaCO2:
    """Monthly means of the carbon dioxide in the air on Mauna Loa, Hawaii, March 1958 to December 2001.

    A month's value is the mean of the weekly values that were measured in it (a week belongs to the
    month of its Saturday), rounded to 0.001 ppm. Weeks without a value are left out of the mean. Five
    months have no week at all: June and October 1958, and February to April 1964. They lie on the
    straight line between their neighbours, and ``weeks`` is 0 there.

    Source: Keeling and Whorf (2004), Carbon Dioxide Information Analysis Center, as distributed by
    statsmodels (``statsmodels.datasets.co2``), public domain.

    Returns:
        The months, the means and the number of weeks in each.
    """
    table = _shipped_table("mauna_loa_co2", "mauna_loa_co2.csv")
    months = np.array(table.cells("month"), dtype="datetime64[M]")
    return MaunaLoaCO2(
        months, table.numbers(["co2_ppm"])[:, 0], table.numbers(["weeks"])[:, 0].astype(np.int64)
    )


def airline_passengers() -> tuple[np.ndarray, np.ndarray]:
    """International airline passengers in thousands, monthly totals, 1949 to 1960.

    Source: Box and Jenkins, Time Series Analysis: Forecasting and Control (1970), series G, as
    distributed by aeon.

    Returns:
        ``months`` (144,) ``datetime64[M]`` and ``passengers`` (144,) float64, without missing values.
    """
    table = _shipped_table("airline_passengers", "airline_passengers.csv")
    return np.array(table.cells("month"), dtype="datetime64[M]"), table.numbers(["passengers"])[:, 0]


class Text(NamedTuple):
    """A text in three parts that share no work.

    Attributes:
        train: what a model learns from.
        validation: what its settings are chosen by.
        test: what it is judged by, once.
    """

    train: str
    validation: str
    test: str


def shakespeare() -> Text:
    """Nine plays of Shakespeare in modern spelling, 1.08 million characters, for language modelling.

    The parts are whole plays, always the same. Train (831,133 characters): As You Like It, Julius Caesar,
    Macbeth, The Merchant of Venice, Othello, The Tempest, Twelfth Night. Validation (122,074): Much Ado
    About Nothing. Test (125,880): Measure for Measure.

    The text is ASCII. Lines end in ``\\n``, no line begins or ends with a blank, nowhere are two blanks
    or two empty lines together. All 78 characters that occur occur in ``train``.

    Source: the plays as distributed by the package shakespeare 0.6 (Open Knowledge Foundation); the
    plays are in the public domain.

    Returns:
        The three parts.
    """
    content = gzip.decompress(_shipped("shakespeare.txt.gz"))
    plays = _decode("shakespeare", "shakespeare.txt.gz", content, "ascii").split("\f")
    return Text("\n".join(plays[:-2]), plays[-2], plays[-1])


class SpokenSentence(NamedTuple):
    """A sentence read aloud.

    Attributes:
        samples: the sound pressure over time, (47840,) float64 in [-1, 1].
        sampling_rate: 16000 samples per second.
        text: the words, in small letters.
    """

    samples: np.ndarray
    sampling_rate: int
    text: str


def spoken_sentence() -> SpokenSentence:
    """A sentence of *Sense and Sensibility*, chapter 1, read aloud: three seconds of speech.

    Source: a recording of LibriVox, in the public domain, as cut out and transcribed for the tests of
    PocketSphinx 5.1.1.

    Returns:
        The samples, the sampling rate and the words.
    """
    name = "ill_disposed.wav"
    sound = _sound(f"spoken_sentence: {name}", _shipped(name), None)
    return SpokenSentence(*sound, "he was not an ill disposed young man")


# --- a set that another package ships -------------------------------------------------------------


class Utterances(NamedTuple):
    """Utterances of different lengths, and who spoke each.

    Attributes:
        frames: N arrays, each (T, 12) float64: twelve cepstral coefficients per frame.
        speakers: (N,) int64, the speakers from 0.
    """

    frames: list[np.ndarray]
    speakers: np.ndarray


class JapaneseVowels(NamedTuple):
    """The same nine speakers in both parts.

    Attributes:
        train: 270 utterances, 30 of each speaker.
        test: 370 utterances, 24 to 88 of each speaker.
    """

    train: Utterances
    test: Utterances


_VOWELS_SHA256 = {
    "TRAIN": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "TEST": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}


def japanese_vowels() -> JapaneseVowels:
    """Nine men say two Japanese vowels, /ae/, one after the other: who speaks?

    An utterance is a series of 7 to 29 frames. Each frame holds the twelve cepstral coefficients of a
    linear prediction analysis of degree 12 (frames of 25.6 ms, every 6.4 ms, at 10 kHz).

    Source: Kudo, Toyama and Shimbo (1999), UCI Machine Learning Repository. The data come with the
    package aeon 1.6.0; they are read from there, and nothing of aeon is imported.

    Returns:
        The two parts, in the order of the source, speaker by speaker.

    Raises:
        ModuleNotFoundError: aeon is not installed.
        ValueError: aeon's files are not those of version 1.6.0.
    """
    where = "japanese_vowels"
    aeon = importlib.util.find_spec("aeon")
    if aeon is None or aeon.origin is None:
        raise ModuleNotFoundError(
            f"{where}: the data come with the package aeon, which is not installed: "
            "pip install 'rnnlib[book]'",
            name="aeon",
        )
    folder = Path(aeon.origin).parent / "datasets" / "data" / "JapaneseVowels"
    return JapaneseVowels(*(_utterances(where, folder, part) for part in _VOWELS_SHA256))


def _utterances(where: str, folder: Path, part: str) -> Utterances:
    """One part: a line for each utterance, twelve series of numbers and the speaker between colons."""
    path = folder / f"JapaneseVowels_{part}.ts"
    content = _read_bytes(where, path)
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != _VOWELS_SHA256[part]:
        raise ValueError(
            f"{where}: {path} has the SHA-256 {checksum}, expected {_VOWELS_SHA256[part]}: "
            "install aeon 1.6.0, whose files these are"
        )
    lines = content.decode("ascii").split("@data\n")[1].splitlines()
    cells = [line.split(":") for line in lines]
    frames = [np.array([series.split(",") for series in c[:-1]], np.float64).T for c in cells]  # (T, 12)
    return Utterances(frames, np.array([int(c[-1]) - 1 for c in cells]))


def _shipped(name: str) -> bytes:
    return resources.files("rnnlib.data").joinpath(name).read_bytes()


def _shipped_table(where: str, name: str) -> _Table:
    return _Table(where, name, _decode(where, name, _shipped(name), "utf-8"), True, ",", ".")


# --- a text ---------------------------------------------------------------------------------------


def read_text(path: PathLike, encoding: str = "utf-8") -> str:
    """The text of a file, whole.

    Args:
        path: the file.
        encoding: what its characters are coded in: ``"utf-8"``, ``"cp1252"``, ``"gb18030"``,
            ``"utf-16"``, or any other text encoding that Python knows.

    Returns:
        The text. Line ends of Windows and of old Macs become ``\\n``, a byte order mark is dropped, and
        nothing else is changed.

    Raises:
        TypeError: a path or an encoding that is no text.
        FileNotFoundError, IsADirectoryError, OSError: no such file, a folder, or a file that cannot be
            read.
        ValueError: the file is empty, is not in this encoding (the error says at which byte), holds a
            NUL (it is binary, or in another encoding), or the encoding is unknown.
    """
    return _read_text("read_text", path, encoding)


def _read_text(where: str, path: PathLike, encoding: str) -> str:
    if not isinstance(encoding, str):
        raise TypeError(f"{where}: encoding is a {type(encoding).__name__}, expected its name")
    return _decode(where, str(path), _read_bytes(where, path), encoding)


def _check_path(where: str, path: PathLike) -> Path:
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{where}: path is a {type(path).__name__}, expected a str or a Path")
    return Path(path)


def _read_bytes(where: str, path: PathLike) -> bytes:
    file = _check_path(where, path)
    if file.is_dir():
        raise IsADirectoryError(f"{where}: {path} is a folder, expected a file")
    if not file.exists():
        raise FileNotFoundError(f"{where}: there is no file {path}")
    if not file.is_file():  # a pipe would keep us waiting
        raise OSError(f"{where}: {path} is no regular file")
    content = file.read_bytes()
    if not content:
        raise ValueError(f"{where}: {path} is empty")
    return content


def _decode(where: str, path: str, content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}: {path}, line {line}: byte {error.start}, hexadecimal "
            f"{content[error.start : error.start + 1].hex()}, is not {encoding}; the file is binary or in "
            f"another encoding{_suggestion(content)}"
        ) from None
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"{where}: encoding is {encoding!r}, expected a text encoding that fits {path} ({error})"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{where}: {path}, line {line}: a NUL; the file is binary or not {encoding}{_suggestion(content)}"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{where}: {path} holds only white space")
    return text


def _suggestion(content: bytes) -> str:
    """Encodings in which these bytes could be a text, as advice."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        candidates = ["utf-16"]
    elif b"\0" in content:
        candidates = ["utf-16-le", "utf-16-be"]
    else:
        candidates = ["gb18030", "cp1252", "latin-1"]
    possible = []
    for encoding in candidates:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            possible.append(f'encoding="{encoding}"')
    return f" (if it is a text, try {' or '.join(possible)})" if possible else ""


# --- a table --------------------------------------------------------------------------------------


def read_csv(
    path: PathLike,
    columns: Column | Sequence[Column] | None = None,
    *,
    header: bool = True,
    delimiter: str = ",",
    decimal: str = ".",
    encoding: str = "utf-8",
) -> np.ndarray:
    """The numbers of a table in a text file (CSV): a series, or several side by side.

    Only the chosen columns have to hold numbers, so a column of dates beside them does no harm. A number
    is written as 12, -0.5 or 1.2e-3; blanks around it and quotation marks are allowed, marks between the
    thousands are not. Every row must have as many cells as the first one, and there may be empty lines
    only at the end.

    Args:
        path: the file.
        columns: one column, for a single series, or a list of them; all where None. A column is a name
            in the header or a position, from 0.
        header: whether the first row names the columns.
        delimiter: the character between the cells: ``","``, ``";"``, ``"\\t"``, ….
        decimal: the decimal mark of the numbers, ``"."`` or ``","``.
        encoding: see :func:`read_text`.

    Returns:
        float64: (T,) for one column, (T, K) for a list of K columns or for all.

    Raises:
        TypeError: an argument of the wrong kind.
        FileNotFoundError, IsADirectoryError, OSError: see :func:`read_text`.
        ValueError: the file is no such table. The error names the line, and the column where it is one
            cell: missing (an empty cell, NA, NaN, …), infinite, or no number; rows of different
            lengths; an empty line between rows; no rows; no such column (the error lists those that
            exist); a header of numbers where columns are chosen by position; see also
            :func:`read_text`.
    """
    where = "read_csv"
    if not isinstance(header, bool):
        raise TypeError(f"{where}: header is {header!r}, expected True or False")
    check_choice(where, "decimal", decimal, (".", ","))
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"{where}: delimiter is {delimiter!r}, expected one character")
    if delimiter == decimal or delimiter in '"\r\n\0+-' or delimiter.isalnum():
        raise ValueError(
            f"{where}: delimiter is {delimiter!r}, expected a character that is not in a number, "
            f"the decimal mark ({decimal!r}), a quotation mark or a line end"
        )
    single = isinstance(columns, str | int)
    chosen = [columns] if isinstance(columns, str | int) else columns
    if chosen is not None:
        if not isinstance(chosen, Sequence):
            raise TypeError(f"{where}: columns is a {type(chosen).__name__}, expected a column or a list")
        if not chosen:
            raise ValueError(f"{where}: columns is empty, expected at least one column, or None for all")
    text = _read_text(where, path, encoding)
    numbers = _Table(where, str(path), text, header, delimiter, decimal).numbers(chosen)  # (T, K)
    return numbers[:, 0] if single else numbers


NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "."}
INFINITE = re.compile(r"[+-]?(inf|infinity|∞)", re.IGNORECASE)


class _Table:
    """The cells of a table, and the lines they stand on."""

    def __init__(self, where: str, path: str, text: str, header: bool, delimiter: str, decimal: str) -> None:
        self.file = f"{where}: {path}"
        self.delimiter, self.decimal = delimiter, decimal
        self.rows, self.lines = self._parse(text)
        self.width = len(self.rows[0])
        for row, line in zip(self.rows, self.lines, strict=True):
            if len(row) != self.width:
                raise ValueError(
                    f"{self.file}, line {line}: {_count(len(row), 'cell')}, expected {self.width} "
                    f"as in line {self.lines[0]}"
                )
        self.names: list[str] | None = None
        if header:
            self.names = self.rows.pop(0)
            self.header_line = self.lines.pop(0)
        if not self.rows:
            raise ValueError(f"{self.file} has a header but no rows")

    def _parse(self, text: str) -> tuple[list[list[str]], list[int]]:
        """The rows, cells stripped, and the line that each begins on."""
        reader = csv.reader(
            io.StringIO(text, newline="\n"),
            delimiter=self.delimiter,
            skipinitialspace=self.delimiter != " ",  # so that `1, "2"` is two cells
            strict=True,
        )
        physical = text.split("\n")  # a row may take several, when a cell in quotation marks does
        rows: list[list[str]] = []
        lines: list[int] = []
        empty = None
        while True:
            line = reader.line_num + 1
            try:
                row = [cell.strip() for cell in next(reader)]
            except StopIteration:
                return rows, lines
            except csv.Error as error:
                raise ValueError(f"{self.file}, the row that begins in line {line}: {error}") from None
            if not row or (row == [""] and not physical[line - 1].strip()):
                empty = line if empty is None else empty
            elif empty is not None:
                raise ValueError(
                    f"{self.file}, line {empty}: empty, but rows follow; is a value missing? "
                    f"Empty lines may stand only at the end"
                )
            else:
                rows.append(row)
                lines.append(line)

    def cells(self, column: Column) -> list[str]:
        """The cells of a column as they stand in the file, blanks around them aside."""
        j = self._position(column)
        return [row[j] for row in self.rows]

    def numbers(self, columns: Sequence[Column] | None) -> np.ndarray:
        """The numbers of some columns, or of all, (T, K)."""
        chosen = list(range(self.width)) if columns is None else columns
        positions = [self._position(column) for column in chosen]
        for column, j in zip(chosen, positions, strict=True):
            if self.names is not None and not isinstance(column, str) and self._is_number(self.names[j]):
                raise ValueError(
                    f"{self.file}, line {self.header_line}: {self.names[j]!r} stands where the name of "
                    f"column {j} is expected; if this is the first row of data, say header=False "
                    f"(if it is a name, choose the column by it)"
                )
        return np.array(
            [
                [self._number(row[j], line, j) for j in positions]
                for row, line in zip(self.rows, self.lines, strict=True)
            ],
            dtype=np.float64,
        )

    def _position(self, column: Column) -> int:
        if isinstance(column, bool) or not isinstance(column, str | int):
            raise TypeError(
                f"{self.file}: {column!r} is a {type(column).__name__}, expected a column's name or position"
            )
        if self.names is None:
            there = f"{_count(self.width, 'column')} without names, 0 to {self.width - 1}"
        else:
            there = f"the columns {', '.join(repr(name) for name in self.names)}"
            other = [d for d in ",;\t|" if d != self.delimiter and d in self.names[0]]
            if self.width == 1 and other:
                there += f" (only one; is the delimiter {other[0]!r}?)"
        if isinstance(column, int):
            if not 0 <= column < self.width:
                raise ValueError(f"{self.file} has no column {column}; it has {there}")
            return column
        found = [j for j, name in enumerate(self.names or []) if name == column]
        if not found:
            raise ValueError(f"{self.file} has no column {column!r}; it has {there}")
        if len(found) > 1:
            raise ValueError(
                f"{self.file} has {len(found)} columns named {column!r}, at the positions "
                f"{', '.join(map(str, found))}; choose one by its position"
            )
        return found[0]

    def _is_number(self, cell: str) -> bool:
        if self.decimal == ",":
            cell = cell.replace(".", "?").replace(",", ".")  # 1.234 would be a thousand or one
        return NUMBER.fullmatch(cell) is not None

    def _number(self, cell: str, line: int, j: int) -> float:
        if self._is_number(cell):
            value = float(cell.replace(self.decimal, "."))
            if math.isfinite(value):
                return value
        column = f"column {j}" if self.names is None else f"column {self.names[j]!r}"
        place = f"{self.file}, line {line}, {column}"
        if cell.lower() in MISSING:
            raise ValueError(f"{place}: the value is missing ({cell!r}), expected a number")
        if INFINITE.fullmatch(cell):
            raise ValueError(f"{place}: {cell!r} is infinite, expected a finite number")
        shown = cell if len(cell) <= 40 else cell[:40] + "…"
        if self._is_number(cell):
            raise ValueError(f"{place}: {shown!r} is too large for float64")
        other = "," if self.decimal == "." else "."
        hint = f"; is the decimal mark {other!r}?" if other in cell else ""
        raise ValueError(f"{place}: {shown!r} is not a number{hint}")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# --- sound ----------------------------------------------------------------------------------------


class Sound(NamedTuple):
    """A recording.

    Attributes:
        samples: the sound pressure over time, (T,) float64 in [-1, 1].
        sampling_rate: samples per second.
    """

    samples: np.ndarray
    sampling_rate: int


class Sounds(NamedTuple):
    """The recordings of a folder, in the order of their names.

    Attributes:
        names: the names of the files, N of them.
        samples: N arrays, each (T,) float64 in [-1, 1], of different lengths.
        sampling_rate: samples per second, the same in all of them.
    """

    names: tuple[str, ...]
    samples: list[np.ndarray]
    sampling_rate: int


def read_wav(path: PathLike, sampling_rate: int | None = None) -> Sound:
    """The sound of a WAV file: uncompressed, of 8, 16, 24 or 32 bits (PCM).

    A file of b bits holds whole numbers from -2ᵇ⁻¹ to 2ᵇ⁻¹ - 1 (with 8 bits they are stored with 128
    added). They are divided by 2ᵇ⁻¹; float64 holds each result exactly. Several channels are mixed down
    to their mean.

    Args:
        path: the file.
        sampling_rate: the samples per second that the file must have; any where None. Nothing is
            resampled.

    Returns:
        The samples and the sampling rate.

    Raises:
        TypeError: an argument of the wrong kind.
        FileNotFoundError, IsADirectoryError, OSError: see :func:`read_text`.
        ValueError: the file is no WAV file, is cut off, compressed, of floating-point numbers or of
            another width, holds no sound, or has another sampling rate.
    """
    return _read_wav("read_wav", path, sampling_rate)


def read_wav_folder(path: PathLike, sampling_rate: int | None = None) -> Sounds:
    """The sounds of all WAV files of a folder, in the order of their names.

    A file belongs to them if its name ends in ``.wav``, in small or capital letters, and does not begin
    with a dot. Folders inside the folder are not opened.

    Args:
        path: the folder.
        sampling_rate: the samples per second that each file must have. Where None, they must all have
            that of the first one.

    Returns:
        The names, the samples of each and the common sampling rate.

    Raises:
        TypeError: an argument of the wrong kind.
        FileNotFoundError, NotADirectoryError: no such folder, or a file.
        ValueError: the folder holds no WAV file, or one of them is refused by :func:`read_wav`.
    """
    where = "read_wav_folder"
    folder = _check_path(where, path)
    if not folder.exists():
        raise FileNotFoundError(f"{where}: there is no folder {path}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{where}: {path} is a file, expected a folder")
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    files = [e for e in entries if e.suffix.lower() == ".wav" and e.name[0] != "." and not e.is_dir()]
    if not files:
        others = f"{len(entries)} others" if entries else "it is empty"
        inside = (
            ", folders among them: folders inside are not opened" if any(map(Path.is_dir, entries)) else ""
        )
        raise ValueError(f"{where}: {path} holds no file *.wav ({others}{inside})")
    sounds: list[Sound] = []
    for file in files:
        sound = _read_wav(where, file, sampling_rate)
        if sounds and sound.sampling_rate != sounds[0].sampling_rate:
            raise ValueError(
                f"{where}: {file} has {sound.sampling_rate} samples per second, expected "
                f"{sounds[0].sampling_rate} as in {files[0].name}"
            )
        sounds.append(sound)
    return Sounds(tuple(f.name for f in files), [s.samples for s in sounds], sounds[0].sampling_rate)


PCM, EXTENSIBLE = 1, 0xFFFE
WAV_FORMATS = {
    2: "compressed (Microsoft ADPCM)",
    3: "of floating-point numbers",
    6: "compressed (A-law)",
    7: "compressed (µ-law)",
    0x11: "compressed (IMA ADPCM)",
    0x31: "compressed (GSM)",
    0x55: "compressed (MP3)",
}
SUBFORMAT_END = bytes.fromhex("000000001000800000aa00389b71")  # a format code in front makes a GUID


def _read_wav(where: str, path: PathLike, sampling_rate: int | None) -> Sound:
    if sampling_rate is not None:
        sampling_rate = check_count(where, "sampling_rate", sampling_rate)
    content = _read_bytes(where, path)
    return _sound(f"{where}: {path}", content, sampling_rate)


def _sound(file: str, content: bytes, sampling_rate: int | None) -> Sound:
    form, data = _chunks(file, content)
    code, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", form)
    if code == EXTENSIBLE and len(form) >= 40 and form[26:40] == SUBFORMAT_END:
        code = struct.unpack_from("<H", form, 24)[0]
    if code != PCM:
        kind = WAV_FORMATS.get(code, f"of the format {code:#x}")
        raise ValueError(f"{file} is {kind}, expected uncompressed whole numbers (PCM); convert it first")
    if bits not in (8, 16, 24, 32):
        raise ValueError(f"{file} has samples of {bits} bits, expected 8, 16, 24 or 32")
    if channels < 1 or block != channels * bits // 8:
        raise ValueError(
            f"{file} has a damaged header: {_count(channels, 'channel')} of {bits} bits in "
            f"blocks of {_count(block, 'byte')}"
        )
    if rate < 1:
        raise ValueError(f"{file} has a damaged header: {rate} samples per second")
    if sampling_rate is not None and rate != sampling_rate:
        raise ValueError(
            f"{file} has {rate} samples per second, expected {sampling_rate}; resample it, or ask for {rate}"
        )
    if not data:
        raise ValueError(f"{file} holds no sound: it has a header and no samples")
    if len(data) % block:
        raise ValueError(
            f"{file} is cut off: {len(data)} bytes of sound, expected a multiple of {block} "
            f"({_count(channels, 'channel')} of {bits} bits)"
        )
    samples = _whole_numbers(data, bits) / 2.0 ** (bits - 1)
    return Sound(samples.reshape(-1, channels).mean(axis=1), rate)  # (T,)


def _chunks(file: str, content: bytes) -> tuple[bytes, bytes]:
    """The format and the data of a WAV file.

    Not the standard library's ``wave``: up to Python 3.11 it refuses the form of header that most
    programs write with 24 bits (extensible), and it takes a file that is cut off for a shorter one.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(
            f"{file} is not a WAV file: it begins with {content[:12]!r}, expected b'RIFF', "
            f"four bytes and b'WAVE'"
        )
    form: bytes | None = None
    data: bytes | None = None
    at = 12
    while at + 8 <= len(content) and (form is None or data is None):
        name, size = content[at : at + 4], struct.unpack_from("<I", content, at + 4)[0]
        body = content[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError(
                f"{file} is cut off: the part {name!r} at byte {at} should have {size} bytes, "
                f"{len(body)} are there"
            )
        if name == b"fmt ":
            form = body
        elif name == b"data":
            data = body
        at += 8 + size + size % 2  # parts begin at even bytes
    if form is None or data is None:
        raise ValueError(f"{file} is cut off or damaged: it has no part {'data' if form else 'fmt'!r}")
    if len(form) < 16:
        raise ValueError(f"{file} has a damaged header: {len(form)} bytes of format, expected at least 16")
    return form, data


def _whole_numbers(data: bytes, bits: int) -> Any:
    """The samples of all channels in turn, as signed whole numbers."""
    if bits == 8:
        return np.frombuffer(data, np.uint8).astype(np.int16) - 128
    if bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0] >> 8  # the sign comes along
    return np.frombuffer(data, f"<i{bits // 8}")
