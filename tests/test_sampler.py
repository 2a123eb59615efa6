"""The character model that writes in the page: its mathematics is rnnlib's, and a reader can use it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from rnnlib import datasets
from tests.conftest import ROOT
from tests.rendered import HTML
from tests.support import load_module

load_module(ROOT / "book" / "_ext" / "hands_on.py")
character_sampler = load_module(ROOT / "book" / "_ext" / "character_sampler.py")
page_sampler = load_module(ROOT / "experiments" / "page_sampler.py")
RECORD, MODEL = character_sampler.load()
PROMPT, SEED, TEMPERATURE = character_sampler.PROMPT, character_sampler.SEED, character_sampler.TEMPERATURE
PAGE = "book/sampler.html"

PROMPTS = ["", "MACBETH.\n", "To be, or not to be: that is the", '[Exit, with 3 & 4 "qq"; zounds!]\n\n' * 4]


class TestTheExport:
    def test_what_the_page_loads_is_small(self):
        assets = ROOT / "book" / "assets" / "sampler"
        assert (assets / "weights.js").stat().st_size <= 250_000
        assert (assets / "sampler.js").stat().st_size <= 10_000

    def test_the_record_says_how_it_came_about(self):
        about = RECORD["about"]
        assert about["settings"] == {**page_sampler.SETTINGS, "steps": about["settings"]["steps"]}
        assert {"command", "date", "device", "seconds", "text", "versions"} <= about.keys()
        assert sorted(MODEL.alphabet) == sorted(set(datasets.shakespeare().train))

    def test_the_bits_on_record_are_those_of_the_weights(self):
        model = page_sampler.CharacterModel(len(MODEL.alphabet), MODEL.units)
        page_sampler.load(RECORD["parameters"], model)
        codes = torch.tensor([MODEL.alphabet.index(c) for c in datasets.shakespeare().test])
        bits = RECORD["about"]["bits_per_character"]
        assert page_sampler.bits_per_character(model, codes) == pytest.approx(
            bits["as exported"]["test"], abs=1e-3
        )
        assert abs(bits["as exported"]["test"] - bits["as trained"]["test"]) < 0.01
        assert bits["as exported"]["test"] < 2.3  # the distribution of single characters needs twice as many

    def test_the_unit_that_tints_the_text_knows_the_place_in_the_line(self):
        def correlations(text):
            place = [len(text[:t].rpartition("\n")[2]) for t in range(1, len(text) + 1)]
            hs = np.concatenate(MODEL.read(text))[1:]  # (T, H)
            return np.array([np.corrcoef(h, place)[0, 1] for h in hs.T])

        text = datasets.shakespeare()
        assert np.argmax(correlations(text.validation[20_000:26_000])) == character_sampler.UNIT - 1
        assert correlations(text.test[20_000:26_000])[character_sampler.UNIT - 1] == pytest.approx(
            0.87, abs=0.01
        )

    def test_rounding_moves_no_weight_by_more_than_half_a_step(self):
        W = np.random.default_rng(0).normal(size=(5, 70)) * np.array([[1e-3], [1], [7], [0.1], [50]])
        q, scales = page_sampler.quantise(W)
        assert q.dtype == np.int8
        assert (np.abs(q).max(axis=1) == 127).all()
        assert (np.abs(scales[:, None] * q - W) <= 0.51 * scales[:, None]).all()

    def test_the_script_trains_and_what_it_writes_is_the_model_it_measured(self, tmp_path, monkeypatch):
        monkeypatch.setitem(page_sampler.SETTINGS, "hidden_size", 8)
        monkeypatch.setitem(page_sampler.SETTINGS, "T", 16)
        page_sampler.main(["--steps", "150", "--output", str(tmp_path / "weights.js")])
        monkeypatch.setattr(character_sampler, "WEIGHTS", tmp_path / "weights.js")
        record, model = character_sampler.load()
        assert record.keys() == RECORD.keys()
        assert model.units == 8
        measured = record["about"]["bits_per_character"]["as exported"]["validation"]
        assert measured < np.log2(len(model.alphabet)) - 1, "it has learnt nothing"
        # The torch module that was trained and the equations of rnnlib are one model.
        text = datasets.shakespeare().validation[:500]
        codes = [model.alphabet.index(c) for c in "\n" + text]
        module = page_sampler.CharacterModel(len(model.alphabet), model.units)
        page_sampler.load(record["parameters"], module)
        bits = -np.log2(
            [
                model.probabilities(h_t, temperature=1)[k]
                for h_t, k in zip(model.read(text), codes[1:], strict=False)
            ]
        )
        expected = page_sampler.bits_per_character(module, torch.tensor(codes), streams=1)
        assert np.mean(bits) == pytest.approx(expected, rel=1e-5)


@pytest.mark.book
class TestTheMathematics:
    """The scripts against the equations of rnnlib."""

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_states_and_probabilities_are_those_of_rnnlib(self, site, open_page, prompt):
        page = open_page(f"{site}/{PAGE}")
        steps = page.evaluate(
            """prompt => characterSampler.read(prompt).map(({h}) => ({h: [...h], p: [
                [1, 78], [0.3, 78], [2, 5], [0.7, 1]].map(([tau, top]) =>
                    characterSampler.probabilities(h, tau, top))}))""",
            prompt,
        )
        states = MODEL.read(prompt)
        assert len(steps) == len(states) == len(prompt) + 1
        for step, h_t in zip(steps, states, strict=True):
            assert np.abs(np.array(step["h"]) - h_t[0]).max() < 1e-12
            for p, (temperature, top) in zip(
                step["p"], [(1, None), (0.3, None), (2, 5), (0.7, 1)], strict=True
            ):
                assert np.abs(np.array(p) - MODEL.probabilities(h_t, temperature, top)).max() < 1e-12

    def test_the_generator_is_mulberry32(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        for seed in (0, 1, 2026, 2**31, 2**32 - 1):
            numbers = page.evaluate(
                "seed => { const u = characterSampler.generator(seed); return [...Array(500)].map(u); }",
                seed,
            )
            assert numbers == list(itertools.islice(character_sampler.uniforms(seed), 500))
            if seed == 1:  # as published
                assert numbers[:2] == [0.6270739405881613, 0.002735721180215478]
            assert min(numbers) >= 0
            assert max(numbers) < 1
            assert np.mean(numbers) == pytest.approx(0.5, abs=0.05)

    def test_a_number_picks_the_first_character_whose_sum_exceeds_it(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        drawn = page.evaluate(
            """[0, 0.2499, 0.25, 0.7499, 0.75, 0.9999]
               .map(u => characterSampler.draw([0, 0.25, 0, 0.5, 0.25, 0], u))"""
        )
        assert drawn == [1, 1, 3, 3, 4, 4]
        # Rounding can leave the whole sum below the number: never a character that cannot be.
        assert page.evaluate("characterSampler.draw([0.5, 0.4999999, 0], 0.99999999)") == 1

    @pytest.mark.parametrize(
        ("prompt", "seed", "temperature", "top"),
        [
            (PROMPT, SEED, TEMPERATURE, None),
            ("What is ", 2**32 - 1, 1.5, None),
            ("", 7, 1.0, 5),
            ("O", 3, 0.1, 1),
        ],
    )
    def test_the_same_seed_writes_what_rnnlib_writes(
        self,
        site,
        open_page,
        prompt,
        seed,
        temperature,
        top,
    ):
        page = open_page(f"{site}/{PAGE}", reduced_motion="reduce")
        page.locator("[name=prompt]").fill(prompt)
        page.locator("[name=seed]").fill(str(seed))
        page.locator("[name=temperature]").fill(str(temperature))
        page.locator("[name=top]").select_option(str(top or len(MODEL.alphabet)))
        page.locator("[name=write]").click()
        expected = prompt + MODEL.write(prompt, 1000, seed, temperature, top)
        assert page.locator(".sampler-ink").text_content() == expected
        assert page.locator(".sampler-plain").text_content() == " " + expected
        assert page.locator(".sampler-message").inner_text() == "Paused after 1000 characters."
        assert page.complaints == []


def bars(page):
    return [line.inner_text().split("\n") for line in page.locator(".sampler-bars li").all()]


@pytest.mark.book
class TestTheReader:
    def test_steps_and_writes_by_keyboard_alone(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        page.locator("[name=prompt]").focus()
        names = ["prompt"]
        while names[-1] != "unit":
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.name ?? document.activeElement.className"))
            assert len(names) < 10, names
        assert names == [
            *("prompt", "temperature", "top", "seed", "step", "write", "again", "sampler-text", "unit")
        ]
        page.locator("[name=step]").focus()
        text, random = PROMPT, character_sampler.uniforms(SEED)
        for key in ("Enter", "Space", "Enter"):
            p = MODEL.probabilities(MODEL.read(text)[-1], TEMPERATURE)
            likeliest = MODEL.alphabet[int(np.argmax(p))]
            name, share = bars(page)[0]
            assert name == {"\n": "line end", " ": "space"}.get(likeliest, likeliest)
            assert share == f"{100 * p.max():.1f} %"
            page.keyboard.press(key)
            text = page.locator(".sampler-ink").text_content()
            assert f"u = {next(random):.4f}" in page.locator(".sampler-message").inner_text()
        assert text == PROMPT + MODEL.write(PROMPT, 3, SEED, TEMPERATURE)

    def test_writes_one_after_another_until_stopped(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        write, ink = page.locator("[name=write]"), page.locator(".sampler-ink")
        write.click()
        assert write.inner_text() == "Stop"
        seen = set()
        while len(seen) < 4:
            seen.add(len(ink.text_content()))
        write.click()
        assert write.inner_text() == "Write"
        text = ink.text_content()
        page.wait_for_timeout(300)
        assert ink.text_content() == text, "it goes on after Stop"
        written = text.removeprefix(PROMPT)
        assert MODEL.write(PROMPT, len(written), SEED, TEMPERATURE) == written
        assert page.locator(".sampler-message").inner_text() == f"Paused after {len(written)} characters."
        page.locator("[name=again]").click()
        assert ink.text_content() == PROMPT

    def test_a_full_sheet_says_so(self, site, open_page):
        page = open_page(f"{site}/{PAGE}", reduced_motion="reduce")
        for _ in range(4):
            page.locator("[name=write]").click()
        length = len(PROMPT) + 4000
        for button in ("write", "step"):
            page.locator(f"[name={button}]").click()
            assert len(page.locator(".sampler-ink").text_content()) == length
            assert "full" in page.locator(".sampler-message").inner_text()

    def test_is_told_of_characters_that_the_network_does_not_know(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        page.locator("[name=prompt]").fill("Caf\u00e9 \U0001f600 0 e\u00e9")
        told = page.locator(".sampler-message").inner_text()
        assert told.startswith("Left out: \u00e9 \U0001f600 0 – the network has never seen")
        assert page.locator(".sampler-ink").text_content() == "Caf   e"
        h_t = MODEL.read("Caf   e")[-1]
        assert bars(page)[0][1] == f"{100 * MODEL.probabilities(h_t, TEMPERATURE).max():.1f} %"
        page.locator("[name=prompt]").fill("Cafe")
        assert page.locator(".sampler-message").inner_text() == ""
        assert page.complaints == []

    def test_looks_at_a_unit_by_key_and_by_mouse(self, site, open_page):
        page = open_page(f"{site}/{PAGE}")
        h_t = MODEL.read(PROMPT)[-1][0]
        unit = page.locator("[name=unit]")

        def shows(number):
            value = f"{abs(h_t[number - 1]):.3f}"
            sign = "−" if h_t[number - 1] < 0 else "+"
            assert unit.get_attribute("aria-valuetext").startswith(
                f"{number}: h = {sign}{value}, update gate"
            )
            assert page.locator(".sampler-numbers").inner_text().startswith(f"h = {sign}{value}, update gate")
            cell = page.locator(".sampler-looked-at")
            assert cell.get_attribute("title") == f"unit {number}: {sign}{value}"
            last = page.locator(".sampler-ink span").last
            strength = float(last.evaluate("e => e.style.backgroundColor").split(", ")[-1].rstrip(")"))
            assert strength == pytest.approx(0.45 * abs(h_t[number - 1]), abs=0.011)

        unit.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        shows(2)
        page.keyboard.press("End")
        shows(MODEL.units)
        page.locator(".sampler-cells span").nth(39).click()
        shows(40)

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_on_a_phone(self, site, open_page, theme):
        page = open_page(f"{site}/{PAGE}", width=390, theme=theme, reduced_motion="reduce")
        page.locator("[name=prompt]").fill("W" * 400)
        page.locator("[name=write]").click()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        wide = page.evaluate(
            """() => { const box = document.querySelector('.character-sampler');
                       return [...box.querySelectorAll('form *')]
                         .filter(e => e.getBoundingClientRect().right > box.getBoundingClientRect().right)
                         .map(e => e.outerHTML); }"""
        )
        assert wide == []
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
        found = Axe().run(page, context=".character-sampler", options=rules)
        assert found.response["violations"] == []
        assert found.response["passes"] != []

    def test_from_a_file_without_a_network(self, built, open_page):
        page = open_page((HTML / PAGE).as_uri(), offline=True)
        page.locator("[name=step]").click()
        assert len(page.locator(".sampler-ink").text_content()) == len(PROMPT) + 1
        assert page.complaints == []

    def test_without_scripts_and_on_paper_there_is_a_still_image(self, site, open_page):
        expected = PROMPT + MODEL.write(PROMPT, character_sampler.LENGTH, SEED, TEMPERATURE)

        def stands_still(page):
            assert not page.locator(".character-sampler form").is_visible()
            picture = page.locator(".hands-on-still svg")
            assert picture.is_visible()
            assert "MACBETH" in picture.get_attribute("aria-label")
            assert page.locator(".sampler-sample").inner_text() == expected
            box, drawing = page.locator(".character-sampler").bounding_box(), picture.bounding_box()
            assert drawing["x"] + drawing["width"] <= box["x"] + box["width"]

        stands_still(open_page(f"{site}/{PAGE}", java_script_enabled=False))
        stands_still(open_page(f"{site}/{PAGE}", width=390, java_script_enabled=False))
        page = open_page(f"{site}/{PAGE}")
        assert page.locator(".character-sampler form").is_visible()
        assert not page.locator(".hands-on-still").is_visible()
        page.emulate_media(media="print")
        stands_still(page)
