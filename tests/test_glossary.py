"""The glossary: in order, without repetition, in both languages, and tied to the book."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from rnnlib import equations
from tests.conftest import ROOT

PAGE = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Entry(NamedTuple):
    """One entry: its names, the main English one first, and its definition."""

    names: list[str]
    definition: str

    @property
    def english(self) -> list[str]:
        return [name for name in self.names if not CHINESE.search(name)]

    @property
    def chinese(self) -> list[str]:
        return [name for name in self.names if CHINESE.search(name)]


def entries(page: str) -> list[Entry]:
    (body,) = re.findall(r"^```\{glossary\}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in body.strip("\n").split("\n\n"):
        lines = block.split("\n")
        names = [line for line in lines if not line.startswith(" ")]
        assert lines[: len(names)] == names, f"{names[0]}: a name stands behind the definition"
        found.append(Entry(names, " ".join(line.strip() for line in lines[len(names) :])))
    return found


ENTRIES = entries(PAGE)
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.names[0])


def test_the_entries_are_in_alphabetical_order():
    names = [entry.names[0] for entry in ENTRIES]
    assert len(names) >= 60
    assert names == sorted(names, key=str.casefold)


def test_no_name_stands_for_two_things():
    names = [name.casefold() for entry in ENTRIES for name in entry.names]
    assert sorted(names) == sorted(set(names))


@each_entry
def test_an_entry_has_names_in_both_languages_the_english_one_first(entry):
    assert entry.english
    assert entry.chinese
    assert entry.names == entry.english + entry.chinese


@each_entry
def test_the_chinese_names_are_in_simplified_characters(entry):
    for name in entry.chinese:
        name.encode("gb2312")  # which holds no character that is traditional only


@each_entry
def test_a_definition_is_one_to_three_sentences_that_lead_into_the_book(entry):
    text = re.sub(r"\{[a-z]+\}`[^`]*`|\]\([^)]*\)|\$[^$]*\$|`[^`]*`", "X", entry.definition)
    sentences = re.findall(r"[.?!](?:\s|$)", re.sub(r"\d\.\d", "", text))
    assert 1 <= len(sentences) <= 4, f"{len(sentences)} sentences"
    assert entry.definition[0].isupper() or entry.definition[0] in "$\\"
    assert entry.definition.endswith(".")
    assert "{eq}`" in entry.definition or "](" in entry.definition


@each_entry
def test_every_equation_and_term_that_is_named_exists(entry):
    names = {name for other in ENTRIES for name in other.names}
    known = equations.index()
    for role, target in re.findall(r"\{(eq|term)\}`([^`]+)`", entry.definition):
        assert target in (known if role == "eq" else names), f"{role} {target}"
