"""The data that ship with the package are what the book says, and no reader loses or invents anything."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.machinery
import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import wave
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from rnnlib import datasets
from tests.conftest import ROOT
from tests.support import load_module, seeds

PAGE = (ROOT / "book" / "data.md").read_text(encoding="utf-8")
AEON = Path(importlib.util.find_spec("aeon").origin).parent / "datasets" / "data"
SHIPPED = {
    file.name: file.read_bytes()
    for file in resources.files("rnnlib.data").iterdir()
    if file.is_file() and not file.name.endswith((".py", ".pyc"))
}


@pytest.fixture
def file(tmp_path):
    """Writes bytes or text (with the line ends as they are) to a file and returns its path."""

    def write(content: bytes | str, name: str = "file", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


class TestTheShippedFiles:
    def test_page_and_package_name_the_same_files_sizes_and_checksums(self):
        rows = re.findall(r"^\| `(.+?)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", PAGE, re.MULTILINE)
        on_page = {name: (int(size.replace(",", "")), checksum) for name, size, checksum in rows}
        in_package = {name: (len(c), hashlib.sha256(c).hexdigest()) for name, c in SHIPPED.items()}
        assert on_page == in_package
        assert len(rows) == len(on_page)

    def test_the_sunspots_are_those_of_statsmodels(self):
        years, numbers = datasets.sunspots()
        reference = sm.datasets.sunspots.load_pandas().data
        np.testing.assert_array_equal(years, reference["YEAR"].to_numpy().astype(int))
        np.testing.assert_array_equal(numbers, reference["SUNACTIVITY"].to_numpy())
        assert years.dtype == np.int64
        assert numbers.dtype == np.float64

    def test_carbon_dioxide_is_the_monthly_mean_of_statsmodels_weeks(self):
        months, ppm, weeks = datasets.mauna_loa_co2()
        weekly = sm.datasets.co2.load_pandas().data["co2"]
        reference = weekly.resample("MS").agg(["mean", "count"])
        np.testing.assert_array_equal(months, reference.index.to_numpy().astype("datetime64[M]"))
        np.testing.assert_array_equal(weeks, reference["count"].to_numpy())
        measured = weeks > 0
        assert np.abs(ppm - reference["mean"].to_numpy())[measured].max() <= 0.0005 + 1e-9
        line = np.interp(np.flatnonzero(~measured), np.flatnonzero(measured), reference["mean"][measured])
        assert np.abs(ppm[~measured] - line).max() <= 0.0005 + 1e-9
        assert [str(m) for m in months[~measured]] == ["1958-06", "1958-10", "1964-02", "1964-03", "1964-04"]
        assert (ppm.dtype, weeks.dtype, months.dtype) == (np.float64, np.int64, np.dtype("datetime64[M]"))
        assert (np.diff(months) == np.timedelta64(1, "M")).all()

    def test_the_airline_passengers_are_the_published_ones(self):
        months, passengers = datasets.airline_passengers()
        np.testing.assert_array_equal(months, np.arange("1949-01", "1961-01", dtype="datetime64[M]"))
        first = [112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118]  # Box and Jenkins, series G
        last = [417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432]
        np.testing.assert_array_equal(passengers[:12], first)
        np.testing.assert_array_equal(passengers[-12:], last)
        assert passengers.sum() == 40363
        assert passengers.dtype == np.float64

    def test_the_airline_passengers_are_those_of_aeon(self):
        path = AEON / "Airline" / "Airline.csv"
        reference = datasets.read_csv(path, "Passengers")
        np.testing.assert_array_equal(datasets.airline_passengers()[1], reference)

    def test_the_spoken_sentence_is_the_one_of_scipys_reader(self):
        sentence = datasets.spoken_sentence()
        rate, samples = wavfile.read(io.BytesIO(SHIPPED["ill_disposed.wav"]))
        assert (sentence.sampling_rate, sentence.samples.shape) == (rate, samples.shape) == (16000, (47840,))
        np.testing.assert_array_equal(sentence.samples, samples / 2.0**15)
        assert 0.1 < np.abs(sentence.samples).max() < 1  # neither silent nor clipped
        assert len(sentence.text.split()) == 8

    def test_shakespeare_is_nine_whole_plays(self):
        text = datasets.shakespeare()
        assert [len(part) for part in text] == [831_133, 122_074, 125_880]
        script = load_module(ROOT / "tools" / "make_text.py")
        whole = gzip.decompress(SHIPPED["shakespeare.txt.gz"])
        assert hashlib.sha256(whole).hexdigest() == script.TEXT_SHA256
        assert script.TEXT_SHA256 in PAGE
        assert script.ARCHIVE_SHA256 in PAGE
        plays = whole.decode("ascii").split("\f")
        titles = [play.split("\n")[0] for play in plays]
        assert len(titles) == len(script.PLAYS)
        for title, name in zip(titles, script.PLAYS, strict=True):
            assert name.replace("_", " ") in title.lower()
        assert text == ("\n".join(plays[:7]), plays[7], plays[8])
        assert (text.train.split("\n")[0], text.validation[:10], text.test[:7]) == (
            "AS YOU LIKE IT",
            "MUCH ADO A",
            "MEASURE",
        )

    def test_shakespeare_holds_nothing_but_the_plays_in_a_plain_layout(self):
        parts = datasets.shakespeare()
        text = "".join(parts)
        foreign = r"gutenberg|\be-?text|copyright|licensed|https?:|www\.|@|\be-?book"
        assert re.findall(foreign, text, re.IGNORECASE) == []
        for layout in ("\r", "\t", "\f", "  ", " \n", "\n ", "\n\n\n"):
            assert layout not in text
        expected = "\n !\"&'(),-./:;?[]123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        assert set(parts.train) == set(expected)
        assert set(text) == set(parts.train)
        for famous in ("Friends, Romans, countrymen, lend me your ears", "All the world's a stage"):
            assert famous in parts.train

    def test_the_script_cleans_as_the_page_says(self):
        script = load_module(ROOT / "tools" / "make_text.py")
        raw = "A PLAY\n\nby William Shakespeare\n\n\n\nACT I \r\n\t KING.  \nNo   more.\n[Exit.}\n\n\nTHE END"
        assert script.clean(raw) == "A PLAY\n\nACT I\nKING.\nNo more.\n[Exit.]\n"


class TestJapaneseVowels:
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_is_what_aeon_reads(self, part):
        from aeon.datasets import load_from_ts_file

        found = getattr(datasets.japanese_vowels(), part)
        frames, labels = load_from_ts_file(
            AEON / "JapaneseVowels" / f"JapaneseVowels_{part.upper()}.ts", return_type="np-list"
        )
        assert len(found.frames) == len(frames) == {"train": 270, "test": 370}[part]
        for ours, theirs in zip(found.frames, frames, strict=True):
            np.testing.assert_array_equal(ours, theirs.T)
            assert ours.dtype == np.float64
        np.testing.assert_array_equal(found.speakers, labels.astype(int) - 1)
        assert found.speakers.dtype == np.int64

    def test_has_the_published_sizes(self):
        train, test = datasets.japanese_vowels()
        lengths = [len(frames) for part in (train, test) for frames in part.frames]
        assert (min(lengths), max(lengths)) == (7, 29)
        assert np.bincount(train.speakers).tolist() == [30] * 9
        counts = np.bincount(test.speakers).tolist()
        assert counts == [31, 35, 88, 44, 29, 24, 40, 50, 29]
        assert ", ".join(map(str, counts)) in PAGE

    def test_a_missing_aeon_is_named(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(
            ModuleNotFoundError, match=r"japanese_vowels: .* aeon, .* not installed: pip inst"
        ):
            datasets.japanese_vowels()

    def test_other_files_than_the_published_ones_are_refused(self, monkeypatch, tmp_path):
        folder = tmp_path / "datasets" / "data" / "JapaneseVowels"
        folder.mkdir(parents=True)
        content = (AEON / "JapaneseVowels" / "JapaneseVowels_TRAIN.ts").read_bytes()
        (folder / "JapaneseVowels_TRAIN.ts").write_bytes(content.replace(b"1.860936", b"1.860937", 1))
        fake = importlib.machinery.ModuleSpec("aeon", None, origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
        with pytest.raises(
            ValueError, match=r"TRAIN.ts has the SHA-256 [0-9a-f]{64}, expected 68a430.*1\.6\.0"
        ):
            datasets.japanese_vowels()

    def test_aeon_is_not_imported(self):
        code = "import sys, rnnlib.datasets as d; d.japanese_vowels(); print('aeon' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestText:
    @given(
        text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), min_size=1)
    )
    def test_comes_back_as_it_was_written(self, file, text):
        if text.strip():
            assert datasets.read_text(file(text)) == text
            assert datasets.read_text(file(text, encoding="utf-16"), encoding="utf-16") == text

    def test_line_ends_and_the_byte_order_mark_are_plain(self, file):
        path = file(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
        assert datasets.read_text(path) == "one\ntwo\nthree\n"
        assert datasets.read_text(str(path)) == "one\ntwo\nthree\n"

    def test_a_wrong_encoding_is_named_with_its_byte_and_a_way_out(self, file):
        path = file("first\nna\u00efve", encoding="cp1252")
        with pytest.raises(
            ValueError, match=r"line 2: byte 8, hexadecimal ef, is not utf-8.*cp1252"
        ) as raised:
            datasets.read_text(path)
        assert str(path) in str(raised.value)
        assert datasets.read_text(path, "cp1252") == "first\nna\u00efve"
        chinese = file("\u5e8a\u524d\u660e\u6708\u5149", encoding="gb18030")
        with pytest.raises(ValueError, match=r'byte 0.*encoding="gb18030"'):
            datasets.read_text(chinese)
        with pytest.raises(ValueError, match=r'byte 0.*try encoding="utf-16"\)'):
            datasets.read_text(file("text", encoding="utf-16"))
        with pytest.raises(ValueError, match=r'a NUL.*encoding="utf-16-le"'):
            datasets.read_text(file("text", encoding="utf-16-le"))
        with pytest.raises(ValueError, match="byte 9, hexadecimal ff"):
            datasets.read_text(file(b"\xef\xbb\xbfmarked\xff"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b" \n\r\n", "holds only white space"),
            (b"abc\n\0\1\2", "line 2: a NUL; the file is binary"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1: byte 0, hexadecimal 89.*binary"),
        ],
    )
    def test_what_is_no_text_is_refused(self, file, content, message):
        with pytest.raises(ValueError, match=message):
            datasets.read_text(file(content))

    def test_what_is_no_file_is_refused(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder, expected a file"):
            datasets.read_text(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no file"):
            datasets.read_text(tmp_path / "absent")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="no regular file"):
            datasets.read_text(tmp_path / "pipe")
        for wrong in (3, None, b"bytes"):
            with pytest.raises(TypeError, match="path is a"):
                datasets.read_text(wrong)

    @pytest.mark.parametrize("encoding", ["utf-9", "hex", "a\0b", "undefined"])
    def test_an_unknown_encoding_is_refused(self, file, encoding):
        with pytest.raises(ValueError, match="encoding is "):
            datasets.read_text(file("text"), encoding)
        with pytest.raises(TypeError, match="encoding is a NoneType"):
            datasets.read_text(file("text"), None)


TABLE = "date,a,b\n2001-01,1,-2.5\n2001-02,3e2,.5\n"


class TestTables:
    def test_columns_come_by_name_and_by_position(self, file):
        path = file(TABLE)
        np.testing.assert_array_equal(datasets.read_csv(path, "a"), [1.0, 300.0])
        np.testing.assert_array_equal(datasets.read_csv(path, 2), [-2.5, 0.5])
        np.testing.assert_array_equal(datasets.read_csv(path, ["b", "a"]), [[-2.5, 1], [0.5, 300]])
        np.testing.assert_array_equal(datasets.read_csv(path, ["a"]), [[1.0], [300.0]])
        assert datasets.read_csv(path, "a").dtype == np.float64
        plain = file("1,2\n3,4\n", "plain")
        np.testing.assert_array_equal(datasets.read_csv(plain, header=False), [[1, 2], [3, 4]])
        years = file("1949,1950\n3,4\n", "years")
        np.testing.assert_array_equal(datasets.read_csv(years, "1950"), [4])

    @pytest.mark.parametrize(
        ("text", "options"),
        [
            ("\ufeffx,y\n1,2\n", {}),
            ("x,y\r\n1,2\r\n\r\n", {}),
            ("x,y\r1,2\r", {}),
            ("x,y\n1,2", {}),
            ("x,y\n1,2\n\n  \n\n", {}),
            (' "x", y \n "1",\t2 \n', {}),
            ('x,"y"\n"1","2"\n', {}),
            ("x;y\n1,0;2,00\n", {"delimiter": ";", "decimal": ","}),
            ("x\ty\n1\t+2.\n", {"delimiter": "\t"}),
            ("x y\n1.0 2\n", {"delimiter": " "}),
        ],
    )
    def test_the_dialects_of_one_table_agree(self, file, text, options):
        np.testing.assert_array_equal(datasets.read_csv(file(text), ["x", "y"], **options), [[1.0, 2.0]])

    @given(seed=seeds, rows=st.integers(1, 8), width=st.integers(1, 5), comma=st.booleans())
    def test_numbers_come_back_as_pandas_and_numpy_read_them(self, file, seed, rows, width, comma):
        pandas = pytest.importorskip("pandas")
        rng = np.random.default_rng(seed)
        numbers = rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-200, 200, (rows, width))
        names = [f"c{j}, with a; comma" for j in range(width)]
        decimal, delimiter = (",", ";") if comma else (".", ",")
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows([[repr(float(x)).replace(".", decimal) for x in row] for row in numbers])
        path = file(stream.getvalue())
        actual = datasets.read_csv(path, delimiter=delimiter, decimal=decimal)
        np.testing.assert_array_equal(actual, numbers)
        frame = pandas.read_csv(path, sep=delimiter, decimal=decimal, float_precision="round_trip")
        np.testing.assert_allclose(actual, frame.to_numpy(), rtol=1e-14)  # pandas may miss the last bit
        for name in names:
            one = datasets.read_csv(path, name, delimiter=delimiter, decimal=decimal)
            np.testing.assert_array_equal(one, actual[:, names.index(name)])
        bare = file("\n".join(",".join(map(repr, map(float, row))) for row in numbers), "bare")
        np.testing.assert_array_equal(
            datasets.read_csv(bare, header=False), np.loadtxt(bare, delimiter=",", ndmin=2)
        )

    @pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "nan", "NaN", "null", "None", "?", "-"])
    def test_a_missing_value_is_named_by_line_and_column(self, file, cell):
        path = file(f"date,a\nx,1\ny,{cell}\n")
        with pytest.raises(ValueError, match=r"line 3, column 'a': the value is missing") as raised:
            datasets.read_csv(path, "a")
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            ("inf", "'inf' is infinite"),
            ("-Infinity", "is infinite"),
            ("1e999", "too large for float64"),
            ("abc", "'abc' is not a number"),
            ("1_000", "'1_000' is not a number"),
            ("0x1f", "is not a number"),
            ("\uff11", "is not a number"),
            ("1 000", "is not a number"),
            ('"1,5"', "'1,5' is not a number; is the decimal mark ','"),
            ("1" * 60 + "x", "1…' is not a number"),
        ],
    )
    def test_a_cell_that_is_no_finite_number_is_named(self, file, cell, message):
        with pytest.raises(ValueError, match=f"line 2, column 'a': .*{message}"):
            datasets.read_csv(file(f"a,b\n{cell},1\n"), "a")

    def test_thousands_are_not_taken_for_a_fraction(self, file):
        path = file("a;b\n1.234;1\n")
        with pytest.raises(
            ValueError, match=r"line 2, column 'a': '1\.234' is not a number; is the decimal mark"
        ):
            datasets.read_csv(path, "a", delimiter=";", decimal=",")

    def test_lines_are_counted_as_an_editor_does(self, file):
        path = file('name,a\n"two\nlines",1\nx,bad\n')
        with pytest.raises(ValueError, match="line 4, column 'a'"):
            datasets.read_csv(path, "a")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n3\n", "line 3: 1 cell, expected 2 as in line 1"),
            ("a,b\n1,2\n3,4,5\n", "line 3: 3 cells, expected 2 as in line 1"),
            ("a\n1\n\n3\n", "line 3: empty, but rows follow"),
            ("\na\n1\n", "line 1: empty, but rows follow"),
            ("a\n1\n\n  \n3\n", "line 3: empty, but rows follow"),
            ('a\n1\n""\n', "line 3, column 'a': the value is missing"),
            ("a,b\n", "has a header but no rows"),
            ('a,b\n1,"2\n', "the row that begins in line 2: unexpected end of data"),
            ('a,b\n"1"2,3\n', "the row that begins in line 2: "),
            ("a\n" + "1" * 200_000, "the row that begins in line 2: field larger"),
            ("1,2\n3,4\n", "line 1: '1' stands where the name of column 0 is expected.*header=False"),
        ],
    )
    def test_a_table_that_is_none_is_refused_with_its_line(self, file, text, message):
        with pytest.raises(ValueError, match=message):
            datasets.read_csv(file(text))

    def test_a_column_that_does_not_exist_is_refused_with_those_that_do(self, file):
        with pytest.raises(ValueError, match="no column 'c'; it has the columns 'date', 'a', 'b'"):
            datasets.read_csv(file(TABLE), "c")
        for position in (3, -1):
            with pytest.raises(ValueError, match=f"no column {position}; it has the columns 'date'"):
                datasets.read_csv(file(TABLE), position)
        with pytest.raises(ValueError, match="2 columns without names, 0 to 1"):
            datasets.read_csv(file("1,2"), "a", header=False)
        with pytest.raises(ValueError, match="only one; is the delimiter ';'"):
            datasets.read_csv(file("a;b\n1;2\n"), "a")
        with pytest.raises(ValueError, match="2 columns named 'a', at the positions 0, 2"):
            datasets.read_csv(file("a,b,a\n1,2,3\n"), "a")

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"delimiter": ", "}, ValueError, "delimiter is ', ', expected one character"),
            ({"delimiter": "."}, ValueError, "expected a character that is not"),
            ({"delimiter": ",", "decimal": ","}, ValueError, "expected a character that is not"),
            ({"delimiter": '"'}, ValueError, "expected a character that is not"),
            ({"delimiter": "1"}, ValueError, "expected a character that is not"),
            ({"delimiter": None}, ValueError, "delimiter is None"),
            ({"decimal": "'"}, ValueError, "decimal is"),
            ({"header": 1}, TypeError, "header is 1"),
            ({"columns": []}, ValueError, "columns is empty"),
            ({"columns": {"a"}}, TypeError, "columns is a set"),
            ({"columns": 1.0}, TypeError, "columns is a float"),
            ({"columns": [1.0]}, TypeError, "1.0 is a float"),
            ({"columns": True}, TypeError, "True is a bool"),
        ],
    )
    def test_wrong_options_are_refused(self, file, options, kind, message):
        with pytest.raises(kind, match=message):
            datasets.read_csv(file(TABLE), **options)


def form(code=1, channels=1, rate=8000, bits=16, block=None, extra=b""):
    """The format part of a WAV file."""
    block = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits) + extra


def riff(*parts):
    """A WAV file of (name, content) parts."""
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in parts
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def packed(numbers, bits):
    """Signed whole numbers as the bytes of a WAV file, written the slow way."""
    if bits == 8:
        return bytes(int(n) + 128 for n in numbers.ravel())
    return b"".join(int(n).to_bytes(bits // 8, "little", signed=True) for n in numbers.ravel())


GOOD_WAV = riff((b"fmt ", form(channels=2)), (b"LIST", b"odd"), (b"data", bytes(range(16))))


class TestSound:
    @pytest.mark.parametrize("bits", [8, 16, 24, 32])
    @given(seed=seeds, T=st.integers(1, 20), channels=st.integers(1, 3), rate=st.integers(1, 10**6))
    def test_every_width_is_read_as_scipy_reads_it(self, file, bits, seed, T, channels, rate):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        numbers = np.random.default_rng(seed).integers(low, high, (T, channels), endpoint=True)
        numbers.flat[0] = low
        stream = io.BytesIO()
        with wave.open(stream, "wb") as writer:
            writer.setnchannels(channels)
            writer.setsampwidth(bits // 8)
            writer.setframerate(rate)
            writer.writeframes(packed(numbers, bits))
        path = file(stream.getvalue(), "sound.wav")
        sound = datasets.read_wav(path, rate)
        np.testing.assert_array_equal(sound.samples, (numbers / 2 ** (bits - 1)).mean(axis=1))
        assert sound.sampling_rate == rate
        assert sound.samples.dtype == np.float64
        assert np.abs(sound.samples).max() <= 1

        scipy_rate, scipy_numbers = wavfile.read(path)
        scale = {8: 128, 16: 2**15, 24: 2**31, 32: 2**31}[bits]  # SciPy puts 24 bits on top of 32
        values = (scipy_numbers.astype(np.float64) - (128 if bits == 8 else 0)) / scale
        np.testing.assert_array_equal(sound.samples, values.reshape(T, channels).mean(axis=1))
        assert scipy_rate == rate

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
    def test_what_scipy_writes_is_read(self, tmp_path, dtype):
        limits = np.iinfo(dtype)
        numbers = np.linspace(limits.min, limits.max, 41).astype(dtype)
        wavfile.write(tmp_path / "a.wav", 16000, numbers)
        middle = 128.0 if dtype == np.uint8 else 0.0
        expected = (numbers.astype(np.float64) - middle) / (
            limits.max // 2 + 1 if middle else -float(limits.min)
        )
        np.testing.assert_array_equal(datasets.read_wav(tmp_path / "a.wav").samples, expected)

    def test_the_ends_and_the_middle_of_the_scale(self, file):
        for bits in (16, 24, 32):
            numbers = np.array([-(2 ** (bits - 1)), 0, 2 ** (bits - 2), 2 ** (bits - 1) - 1])
            path = file(riff((b"fmt ", form(bits=bits)), (b"data", packed(numbers, bits))))
            np.testing.assert_array_equal(
                datasets.read_wav(path).samples, [-1, 0, 0.5, 1 - 2.0 ** (1 - bits)]
            )
        eight = file(riff((b"fmt ", form(bits=8)), (b"data", b"\x00\x80\xc0\xff")))
        np.testing.assert_array_equal(datasets.read_wav(eight).samples, [-1, 0, 0.5, 127 / 128])

    def test_channels_are_mixed_to_their_mean(self, file):
        path = file(
            riff((b"fmt ", form(channels=2)), (b"data", packed(np.array([2**14, 0, -(2**15), 2**14]), 16)))
        )
        np.testing.assert_array_equal(datasets.read_wav(path).samples, [0.25, -0.25])

    def test_the_extensible_header_and_other_parts_are_understood(self, file):
        extra = struct.pack("<HHIH", 22, 24, 4, 1) + datasets.SUBFORMAT_END
        numbers = np.array([-(2**23), 1, 2**22])
        parts = (b"fmt ", form(0xFFFE, bits=24, extra=extra)), (b"data", packed(numbers, 24))
        for order in ([*parts], [parts[0], (b"LIST", b"odd"), parts[1]], [parts[1], parts[0]]):
            path = file(riff(*order))
            np.testing.assert_array_equal(datasets.read_wav(path).samples, numbers / 2**23)
            if order[0] is parts[0]:  # SciPy wants the format first
                np.testing.assert_array_equal(wavfile.read(path)[1] / 2**31, numbers / 2**23)
        odd = extra[:-1] + b"\0"
        with pytest.raises(ValueError, match="of the format 0xfffe"):
            datasets.read_wav(file(riff((b"fmt ", form(0xFFFE, bits=24, extra=odd)), parts[1])))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"ID3\x04 an MP3 file", "is not a WAV file: it begins with b'ID3"),
            (b"RIFF\0\0\0\0AVI ", "is not a WAV file"),
            (b"RIFF", "is not a WAV file"),
            (GOOD_WAV[:-3], "cut off: the part b'data' at byte .* should have 16 bytes, 13 are there"),
            (GOOD_WAV[:20], "cut off: the part b'fmt ' at byte 12 should have 16 bytes, 0 are there"),
            (GOOD_WAV[:36], "cut off or damaged: it has no part 'data'"),
            (riff((b"data", b"\0\0")), "cut off or damaged: it has no part 'fmt'"),
            (riff((b"fmt ", form()[:14]), (b"data", b"\0\0")), "14 bytes of format, expected at least 16"),
            (riff((b"fmt ", form()), (b"data", b"")), "holds no sound"),
            (
                riff((b"fmt ", form()), (b"data", b"\0" * 3)),
                "cut off: 3 bytes of sound, expected a multiple of 2",
            ),
            (riff((b"fmt ", form(bits=12, block=2)), (b"data", b"\0\0")), "samples of 12 bits"),
            (riff((b"fmt ", form(channels=0)), (b"data", b"\0\0")), "0 channels of 16 bits in blocks of 0"),
            (riff((b"fmt ", form(bits=64)), (b"data", b"\0" * 8)), "samples of 64 bits"),
            (
                riff((b"fmt ", form(channels=0, block=2)), (b"data", b"\0\0")),
                "0 channels of 16 bits in blocks of 2",
            ),
            (
                riff((b"fmt ", form(block=4)), (b"data", b"\0" * 4)),
                "1 channel of 16 bits in blocks of 4 bytes",
            ),
            (riff((b"fmt ", form(rate=0)), (b"data", b"\0\0")), "0 samples per second"),
            (
                riff((b"fmt ", form(code=7, bits=8)), (b"data", b"\0")),
                "compressed \\(µ-law\\), expected uncompressed",
            ),
            (riff((b"fmt ", form(code=2, bits=4, block=256)), (b"data", b"\0")), "Microsoft ADPCM"),
            (riff((b"fmt ", form(code=3, bits=32)), (b"data", b"\0" * 4)), "of floating-point numbers"),
            (riff((b"fmt ", form(code=0x1234)), (b"data", b"\0\0")), "of the format 0x1234"),
        ],
    )
    def test_what_is_no_sound_is_refused(self, file, content, message):
        path = file(content, "bad.wav")
        with pytest.raises(ValueError, match=message) as raised:
            datasets.read_wav(path)
        assert str(raised.value).startswith(f"read_wav: {path}")

    def test_a_wrong_sampling_rate_is_refused(self, file):
        path = file(GOOD_WAV)
        assert datasets.read_wav(path, 8000).sampling_rate == 8000
        with pytest.raises(ValueError, match="has 8000 samples per second, expected 16000"):
            datasets.read_wav(path, 16000)
        with pytest.raises(ValueError, match="has 8000 samples per second, expected 4000"):
            datasets.read_wav(path, 4000)
        with pytest.raises(TypeError, match="sampling_rate is a float"):
            datasets.read_wav(path, 8000.0)
        with pytest.raises(ValueError, match="sampling_rate is 0"):
            datasets.read_wav(path, 0)

    def test_a_folder_is_read_in_the_order_of_its_names(self, file, tmp_path):
        for name, value in (("b.wav", 2), ("a.WAV", 1), ("c.wav", 3)):
            file(riff((b"fmt ", form()), (b"data", packed(np.full(value, value), 16))), name)
        file(b"not a sound", "readme.txt")
        file(b"left by another system", "._a.wav")
        (tmp_path / "folder.wav").mkdir()
        sounds = datasets.read_wav_folder(tmp_path)
        assert sounds.names == ("a.WAV", "b.wav", "c.wav")
        assert sounds.sampling_rate == 8000
        for n, samples in enumerate(sounds.samples, 1):
            np.testing.assert_array_equal(samples, np.full(n, n / 2**15))
        with pytest.raises(ValueError, match=r"a\.WAV has 8000 samples per second, expected 44100"):
            datasets.read_wav_folder(tmp_path, 44100)
        file(riff((b"fmt ", form(rate=16000)), (b"data", b"\0\0")), "d.wav")
        with pytest.raises(
            ValueError, match=r"d\.wav has 16000 samples per second, expected 8000 as in a\.WAV"
        ):
            datasets.read_wav_folder(tmp_path)
        file(b"broken", "b.wav")
        with pytest.raises(ValueError, match=r"read_wav_folder: .*b\.wav is not a WAV file"):
            datasets.read_wav_folder(tmp_path)

    def test_a_folder_without_sounds_is_refused(self, file, tmp_path):
        with pytest.raises(ValueError, match=r"holds no file \*\.wav \(it is empty\)"):
            datasets.read_wav_folder(tmp_path)
        (tmp_path / "inner").mkdir()
        with pytest.raises(ValueError, match="folders inside are not opened"):
            datasets.read_wav_folder(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            datasets.read_wav_folder(tmp_path / "absent")
        with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
            datasets.read_wav_folder(file(b"x"))
        with pytest.raises(IsADirectoryError, match="is a folder, expected a file"):
            datasets.read_wav(tmp_path)


@st.composite
def damaged(draw, good: bytes):
    """A good file with a few bytes changed, put in, taken out or cut off."""
    content = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


class TestNoFileBreaksAReader:
    @given(
        content=st.binary(max_size=200) | damaged("naïve 文\r\n".encode()),
        encoding=st.sampled_from(
            ["utf-8", "utf-16", "utf-32", "ascii", "gb18030", "shift_jis", "utf-7", "cp1252"]
        ),
    )
    def test_text(self, file, content, encoding):
        path = file(content)
        try:
            text = datasets.read_text(path, encoding)
        except ValueError as error:
            named = str(path) in str(error)
            assert named
        else:
            assert text.strip()
            assert "\r" not in text

    @given(
        content=st.binary(max_size=200)
        | st.text('ab01.,;"\n\r\t -eE+nN', max_size=80).map(str.encode)
        | damaged(TABLE.encode())
        | damaged(b'x;"y"\r\n"1,5";2\r\n-3;4e1\r\n'),
        columns=st.sampled_from([None, 0, 1, "a", ["b", 1]]),
        header=st.booleans(),
        dialect=st.sampled_from([(",", "."), (";", ","), ("\t", "."), (" ", ".")]),
    )
    def test_tables(self, file, content, columns, header, dialect):
        path = file(content)
        try:
            numbers = datasets.read_csv(
                path, columns, header=header, delimiter=dialect[0], decimal=dialect[1]
            )
        except ValueError as error:
            named = str(path) in str(error)
            assert named
        else:
            assert numbers.dtype == np.float64
            assert numbers.size
            assert np.isfinite(numbers).all()
            assert numbers.ndim == (1 if isinstance(columns, str | int) else 2)

    @given(
        content=st.binary(max_size=100)
        | damaged(GOOD_WAV)
        | st.binary(max_size=80).map(GOOD_WAV[:20].__add__)
    )
    def test_sounds(self, file, content):
        path = file(content, "a.wav")
        try:
            sound = datasets.read_wav(path)
        except ValueError as error:
            named = str(path) in str(error)
            assert named
            with pytest.raises(ValueError, match=r"a\.wav"):
                datasets.read_wav_folder(path.parent)
        else:
            assert len(sound.samples) > 0
            assert np.abs(sound.samples).max() <= 1
            np.testing.assert_array_equal(datasets.read_wav_folder(path.parent).samples[0], sound.samples)
