"""The report: what it says, that it is one safe page, and what it does with studies that run or are damaged."""

import base64
import contextlib
import dataclasses
import io
import json
import re
import shlex
import shutil
import signal
import tarfile
import threading
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import preloaded
import pytest
import yaml
from conftest import REPO, TINY, thinned
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

import imgloop
from imgloop import figures, store
from imgloop.collapse import tables
from imgloop.collapse.profile import collapse_profile
from imgloop.conditions import settings, short_names
from imgloop.config.compose import CONF
from imgloop.config.settings import parsed
from imgloop.errors import UserError
from imgloop.measures import MEASURES, MeasureInfo
from imgloop.report import archive, bibliography, files, page, pdf, profiles, reproduce, sheets, svg, terminal, text
from imgloop.report.__main__ import _follow, main, parser, subjects, watch
from imgloop.report.panels import Line, Panel, displayed, panels, split
from imgloop.report.progress import fingerprint, size
from imgloop.report.serve import Server
from imgloop.report.timescales import Timescale, timed
from imgloop.study.progress import locked, note_failure, plan, progress
from imgloop.study.study import Study

TABLE = REPO / "docs" / "studies" / "propagation.csv"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A real study: two conditions, one seed, three generations; not to be changed."""
    out = tmp_path_factory.mktemp("made")
    for paradigm in ("replace", "real_only"):
        imgloop.run([*TINY, f"paradigm={paradigm}", "generations=3", "study=tried", f"out={out}"])
    return out / "tried"


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tried")


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A real study of a solvable system with its control."""
    out = tmp_path_factory.mktemp("solved")
    for paradigm in ("replace", "real_only"):
        small = ["model.replicates=40", "generations=6", "display=none", f"out={out}"]
        imgloop.run(["model=gaussian", "data=law", "data.n=20", f"paradigm={paradigm}", *small])
    return next(out.glob("*gaussian*"))


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text by the element that it is in."""

    VOID = ("meta", "img", "input", "br", "wbr", "link")

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else ("", {}), data))

    def all(self, tag):
        return [a for t, a in self.elements if t == tag]

    def said(self, tag=None, kind=None):
        """Texts inside elements of a tag or class."""
        inside = ((a, d) for a, d in self.texts if (tag is None or a[0] == tag) and d.strip())
        return [d for a, d in inside if kind is None or kind in (a[1].get("class") or "").split()]


def read(path, **more):
    return Page(page.html(page.report(path, **more)))


# -- The page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", thinned(["made", "solved", "table"], 2))
def test_the_page_is_one_file_with_what_a_reader_needs(kind, request):
    path = TABLE if kind == "table" else request.getfixturevalue(kind)
    html = page.html(page.report(path))
    found = Page(html)
    assert len(html) < 15e6 and html.startswith("<!doctype html>")
    assert {"charset": "utf-8"} in found.all("meta")
    refers = [a[k] for _, a in found.elements for k in ("src", "href", "action", "data", "srcset", "poster") if k in a]
    assert refers and all(r.startswith(("#", "data:image/png;base64,", "data:image/webp;base64,")) for r in refers)
    assert not found.all("link") and not re.search(r"url\(|@import", html)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {r[1:] for r in refers if r.startswith("#")} <= set(ids)
    assert all(a.get("alt") for a in found.all("img")) and len(found.all("h1")) == 1
    assert all("aria-labelledby" in a or "aria-hidden" in a for a in found.all("svg"))
    headings = " ".join(found.said("h2"))
    for part in ("definitions of model collapse", "each measure", "look like", "How fast", "reproduce", "not known"):
        assert part in headings
    assert ("trained on" in headings) == (kind != "table")


def test_no_more_than_three_significant_digits():
    """On axes, in titles, verdicts and timescales; counts of images are exact."""
    r = page.report(TABLE)
    found = Page(page.html(r))
    kinds = (("text", "tick"), ("text", "note"), ("p", "changes"), ("span", "effect"), ("td", "n"), ("title", None))
    said = [text for kind in kinds for text in found.said(*kind)] + [t.text for t in r.times]
    said = [text for text in said if "1,397" not in text]  # a training set's rows are counted
    numbers = [n for text in said for n in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*", text)]
    assert len(numbers) > 500
    for number in numbers:
        assert len(number.replace(",", "").replace(".", "").strip("0")) <= 3, number


def test_the_matrix_says_in_words_what_the_profile_says():
    r = page.report(TABLE)
    html = page.html(r)
    table = html[html.index('<table class="matrix cells">') : html.index("</table>")]
    expected = collapse_profile(pd.read_csv(TABLE))
    rows = re.findall(r'<tr><th scope="row">(.*?)<br>.*?</th>(.*?)</tr>', table, re.S)
    rows = [(name.replace("<wbr>", ""), row) for name, row in rows]
    assert [name for name, _ in rows] == expected.conditions
    for name, row in rows:
        cells = re.findall(r'<a class="verdict"[^>]*>(.*?)</a>', row, re.S)
        words = [re.sub(r"<.*?>", "", cell).replace("&nbsp;", " ").split(None, 1)[1] for cell in cells]
        told = [v.verdict + (", exact" if v.exact else "") for v in expected[name].values()]
        assert words == told and len(told) == 8
    assert len({page.MARKS[v] for v in ("detected", "excluded", "undetermined", "not measured")}) == 4


def test_points_are_means_over_seeds_with_their_spread():
    by = pd.read_csv(TABLE).groupby(["condition", "generation"])["fd"]
    titles = read(TABLE).said("title")
    means: Any = by.mean()
    for (condition, t), mean in means.items():
        spread = float(f"{by.std(ddof=1)[condition, t]:.2g}")
        assert f"{condition}, generation {t}: {float(f'{mean:.3g}'):.10g} ± {spread:.10g} (8 seeds)" in titles


def test_what_comes_from_files_is_escaped(study):
    evil = "<img src=x onerror=alert(1)>\"&'{{7*7}}$\\%_#"
    (study / "replace,n_samples=48").exists()
    old = next(p for p in study.iterdir() if p.name.startswith("replace"))
    old.rename(study / evil)
    (study / evil / "seed0").rename(study / evil / "seed7")
    facts = next(study.glob("shared/real-*/facts.json"))
    store.write_json(facts, store.read_json(facts) | {"classes": ["<script>alert(2)</script>"] * 10, "source": evil})
    record = study / evil / "seed7" / "gen000" / "record.json"
    store.write_json(record, store.read_json(record) | {"versions": {evil: "<b>1</b>"}, "machine": {"gpu": "<i>"}})
    path = files.write(page.report(study))
    found = Page(path.read_text())
    assert {t for t, _ in found.elements} & {"b", "i"} == set() and not any("onerror" in a for _, a in found.elements)
    assert len([t for t, _ in found.elements if t == "script"]) == 1
    assert any(evil in said for said in found.said()) and "49" not in "".join(found.said("h3"))
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "sha256-" in policy and "script-src 'unsafe" not in policy
    assert files.escaped(evil).count("{") == files.escaped(evil).count("}")


def test_reading_runs_nothing_that_a_folder_names(study, monkeypatch, tmp_path):
    import hydra.utils

    def never(*args, **kwargs):
        raise AssertionError("instantiated")

    monkeypatch.setattr(hydra.utils, "instantiate", never)
    chains = sorted(study.glob("*/seed0"))
    told = yaml.safe_load((chains[0] / "config.yaml").read_text())
    told.pop(store.SEAL)
    told["config"]["model"]["_target_"] = "os.system"
    (chains[0] / "config.yaml").write_text(yaml.safe_dump(told))
    touched = tmp_path / "touched"
    (chains[1] / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{touched}']")
    html = page.html(page.report(study))
    assert not touched.exists() and "no command" in html


# -- Images -----------------------------------------------------------------------------------------------------------


def decoded(sheet):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_the_images_themselves(channels):
    x = np.random.default_rng(0).integers(0, 256, (5, channels, 8, 6), np.uint8)
    found = sheets.sheet(x, "alt", "caption")
    pixels = decoded(found)
    assert pixels.shape[:2] == (2 * 9 - 1, 3 * 7 - 1) and found.width % pixels.shape[1] == 0
    for i, image in enumerate(x):
        cell = pixels[i // 3 * 9 :, i % 3 * 7 :][:8, :6]
        assert (cell[..., :-1] == np.moveaxis(image, 0, -1)).all() and (cell[..., -1] == 255).all()
    assert (pixels[8, :, -1] == 0).all()


@pytest.mark.parametrize("size", [8, 12, 16, 20, 28, 32, 64])
@pytest.mark.parametrize("labels", [(), [str(i % 10) for i in range(16)]])
def test_the_page_enlarges_a_sheet_by_a_whole_factor_to_32_pixels_a_sample_or_more(size, labels):
    x = np.random.default_rng(0).integers(0, 256, (16, 1, size, size), np.uint8)
    found = sheets.sheet(x, "alt", "caption", labels)
    height, width = decoded(found).shape[:2]
    factor = found.width // width
    assert found.width == factor * width and size * factor >= 32 and found.labels == tuple(labels)
    row = height / 4 * factor
    if labels:  # below each row there is a gap that holds a line of text
        assert row - size * factor >= sheets.STRIP and found.columns == 4
        assert (decoded(found)[size :: height // 4, :, -1] == 0).all()


def test_sheets_name_classes_of_labelled_pools_only(labelled):
    found = Page(page.html(page.report(labelled)))
    listed = [a for a in found.all("ul") if a.get("class") == "labels"]
    shown: Any = page.report(labelled).evolution
    digits = [s.labels for s in shown.real] + [s.labels for _, row in shown.generations for _, s in row]
    assert len(digits) == 2 + 3 * 2 and all(len(d) == 16 and set(d) <= set("0123456789") for d in digits[:5])
    y = Study(labelled).latent_labels("replace", 0, 1)
    assert y is not None and digits[4 if shown.generations[1][1][0][0] == "replace" else 5] == tuple(map(str, y))
    assert len(listed) == sum(map(bool, digits)) == 6 and not any(a.still.labels for a in shown.animations)


@pytest.fixture
def labelled(study):
    """The study with labels of the shared latents in its first two generations: a later one of an earlier version."""
    for folder in study.glob("*/seed0/gen00[01]"):
        store.write_arrays(
            folder / "evolution.safetensors",
            {"x": np.asarray(store.open_arrays(folder / "evolution.safetensors")["x"]), "y": np.arange(16) % 10},
        )
        record = store.read_json(folder / "record.json")
        record["evolution_hash"] = store.file_hash(folder / "evolution.safetensors")
        store.write_sealed(folder / "record.json", record)
    return study


def test_the_samples_of_each_condition_are_shown_in_motion(made, study):
    shown: Any = page.report(made).evolution
    assert [a.caption for a in shown.animations] == [name for name, _ in shown.generations[0][1]]
    for a, (_, still) in zip(shown.animations, shown.generations[-1][1]):
        moving = Image.open(io.BytesIO(base64.b64decode(a.uri.split(",")[1])))
        assert moving.format == "WEBP" and getattr(moving, "n_frames", 1) == 3 and a.width == moving.width
        assert a.still == still and "generations 0 to 2" in a.alt
    names = {c: c for c in Study(made).conditions}
    less: Any = sheets.evolution(Study(made), names, budget=20_000)  # of sheets, which leave no room for motion
    assert less.animations == ()
    for folder in study.glob("*/seed0/gen00[12]"):
        shutil.rmtree(folder)
    assert page.report(study).evolution.animations == () and "In motion" not in page.html(page.report(study))  # type: ignore


def test_ages_show_the_stored_latents_of_every_generation(made):
    s = Study(made)
    names, _ = short_names(s.conditions)
    shown: Any = sheets.evolution(s, names)
    assert [t for t, _ in shown.generations] == [0, 1, 2] and len(shown.real) == 2 and shown.left_out == ""
    for t, row in shown.generations:
        for condition, (name, sheet) in zip(s.conditions, row):
            assert name == names[condition] and f"generation {t}" in sheet.alt
            same = sheets.sheet(np.asarray(s.latents(condition, 0, t)), "", "")
            assert sheet.uri == same.uri
    assert shown.generations[0][1][0][1].uri == shown.generations[0][1][1][1].uri  # generation 0 is shared
    assert shown.generations[2][1][0][1].uri != shown.generations[2][1][1][1].uri


def test_many_large_images_stay_within_the_budget(study):
    noise = np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64), np.uint8)
    for folder in study.glob("*/seed0/gen*"):
        store.write_arrays(folder / "evolution.safetensors", {"x": noise})
        record = store.read_json(folder / "record.json")
        record["evolution_hash"] = store.file_hash(folder / "evolution.safetensors")
        store.write_sealed(folder / "record.json", record)
    whole: Any = page.report(study).evolution
    names = {c: c for c in Study(study).conditions}
    less: Any = sheets.evolution(Study(study), names, budget=300_000)
    assert sum(len(s.uri) for _, row in less.generations for _, s in row) <= 300_000
    assert whole.samples == 16 and less.samples < 16 and "of 16 latents" in less.left_out


# -- Numbers and names ------------------------------------------------------------------------------------------------


@given(st.floats(-1e12, 1e12).filter(lambda x: x == 0 or abs(x) > 1e-12))
def test_a_figure_is_its_number_to_three_digits(x):
    said = text.figure(x).replace(text.MINUS, "-").replace(",", "")
    said = said.replace(f" {text.TIMES} 10", "e").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(said) == pytest.approx(x, rel=5.01e-3)
    assert len(re.sub(r"e.*|[-.]", "", said).strip("0")) <= 3


def test_figures_of_what_is_no_number():
    assert text.figure(None) == text.figure(float("nan")) == "" and text.figure(1397) == "1,397"
    assert text.ranges([3, 0, 1, 2, 7]) == "0-3, 7"


@given(st.lists(st.text("ab=,1", min_size=1, max_size=12), min_size=1, max_size=5, unique=True))
def test_short_names_stay_apart(conditions):
    names, common = short_names(conditions)
    assert list(names) == conditions and len(set(names.values())) == len(conditions)
    assert all(part in settings(c) for part in common for c in conditions)


def test_a_list_in_a_name_stays_whole():
    names, common = short_names(["replace,model.widths=8,16,n=1", "real_only,model.widths=8,32,n=1"])
    assert list(names.values()) == ["replace,model.widths=8,16", "real_only,model.widths=8,32"] and common == ["n=1"]


def test_lines_are_told_apart_without_colour():
    names = [*figures.OURS, *[f"replace,real_fraction=0.{k}" for k in range(1, 9)], *"abcde"]
    looks = [svg.look(look) for look in figures.looks(names).values()]
    assert len({(dash, marker) for _, dash, marker in looks}) == len(names)
    assert len({colour for colour, _, _ in looks[:7] + looks[-5:]}) == 12  # one a paradigm
    assert len({svg.marker(shape, 5, 5) for shape in range(8)}) == 8


def test_many_conditions_go_to_panels_with_one_axis_and_the_control():
    frame = pd.read_csv(TABLE)
    lines = panels(Study(TABLE), {c: c for c in frame["condition"].unique()})[0]
    control = next(line for line in lines.lines if line.condition == "real_only")
    others = [
        dataclasses.replace(
            lines.lines[0], condition=f"c{i}", look=figures.Look(form=i), mean=lines.lines[0].mean * (1 + i)
        )
        for i in range(18)
    ]
    whole = dataclasses.replace(lines, lines=(*others, control))
    parts = split([whole], "real_only")
    assert [len(p.lines) for p in parts] == [8, 8, 5] and all(p.lines[-1] is control for p in parts)
    assert {p.limits for p in parts} == {whole.limits}
    assert [line.condition for p in parts for line in p.lines[:-1]] == [f"c{i}" for i in range(18)]
    assert split([lines]) == [lines]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_on_the_axis(low, width):
    found = svg.ticks(low, low + width)
    assert 2 <= len(found) <= 7 and all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in found)


def timescale(courses, change):
    fields = timed(np.atleast_2d(np.asarray(courses, float)), change)
    assert fields is not None
    return Timescale("c", "m", "M", change, **fields)


@given(st.floats(0.1, 100), st.floats(0.01, 2), st.integers(2, 12))
def test_linear_growth_doubles_when_it_should(start, slope, last):
    t, factors = np.arange(last + 1), np.array([[0.9], [1.0], [1.1]])  # three chains, which grow by what they start at
    found, expected = timescale(factors * start * (1 + slope * t), "doubled"), 1 / slope
    assume(min(abs(expected - last), abs(expected - 3 * last)) > 1e-6)
    assert found.at == pytest.approx(expected if expected <= 3 * last else np.inf)  # extrapolated; too far to tell
    assert (found.seen, found.extrapolated) == (expected <= last, last < expected <= 3 * last)
    assert ("extrapolated" in found.text) == found.extrapolated and (f"within {last}" in found.text) != found.seen
    if found.seen:
        assert (found.low, found.high) == (pytest.approx(expected), pytest.approx(expected))
    assert timescale(factors * start * (1 - t / (4 * last)), "halved").at == pytest.approx(2 * last)
    assert timescale(factors * start * (1 - t / (4 * last)), "doubled").at == np.inf


def test_timescales_of_courses_that_tell_nothing():
    assert timed(np.array([[1.0]]), "halved") is None and timed(np.array([[0.0, 1.0]]), "doubled") is None
    assert timed(np.empty((0, 3)), "doubled") is None
    back = timescale([[8, 4, 8], [8, 3.9, 8]], "halved")  # below half, and up again
    assert back.at == np.inf and back.text == "no halving within 2 generations"
    assert timescale([[1, 3, 1, 3], [2, 6, 2, 6.1]], "doubled").at == pytest.approx(2.5, abs=0.02)  # the last time
    again = timescale([[1, 3, 1, 1, 1.5], [1, 3, 1, 1, 1.51]], "doubled")
    assert again.significant and not again.extrapolated  # it rises, but where it was before
    slow = timescale([[1, 2, 4], [1, 1.2, 1.6], [1, 2, 4], [1, 2, 4]], "doubled")  # one chain has not yet
    assert (slow.low, slow.high) == (1, np.inf) and slow.text.endswith("[1, > 2]")
    alone = timescale([1, 3], "doubled")  # one chain cannot tell change from noise, nor be extrapolated
    assert alone.text == "0.5 (1 chain: not tested)" and not timescale([1, 1.9], "doubled").extrapolated
    assert timescale([[1, 3], [1, 0.5], [1, 9]], "doubled").text == "no doubling beyond noise within 1 generation"


@pytest.mark.parametrize("change", ["doubled", "halved"])
def test_noise_alone_neither_doubles_nor_halves(change):
    """Flat rates whose noise is as large as they are: at most 2.5 % of tables are significant in one direction."""
    rng = np.random.default_rng(0)
    tables = np.abs(0.01 + 0.01 * rng.standard_normal((400, 5, 41)))
    found = [timescale(x, change) for x in tables]
    first = [(x.mean(0) / x[:, 0].mean() >= 2).any() for x in tables]  # what a first crossing would have said
    assert np.mean([t.seen or t.extrapolated for t in found]) <= 0.025 + 2 * np.sqrt(0.025 / 400)
    assert change == "halved" or np.mean(first) > 0.2
    grown = [timescale(x * np.linspace(1, 6, 41), "doubled").seen for x in tables]
    assert np.mean(grown) > 0.5  # and what is there is told


def test_timescales_of_the_real_table():
    """When the mean over seeds, which is the curve above it, stays beyond twice its start."""
    table: Any = pd.read_csv(TABLE).query("condition == 'replace'")
    by = table.groupby("generation")["fd"].mean().to_numpy()
    ratio = by / by[0]
    t = int(np.flatnonzero(ratio < 2)[-1])
    times = page.report(TABLE).times
    found = next(k for k in times if (k.condition, k.measure) == ("replace", "fd"))
    assert found.at == pytest.approx(np.interp(2, ratio[t : t + 2], [t, t + 1]))
    assert found.low <= found.at <= found.high and found.chains == 8 and found.significant
    assert not [k.text for k in times if k.condition == "real_only" and (k.seen or k.extrapolated)]


def test_the_timescales_of_a_solvable_system_are_those_of_its_replicates(solved):
    times = {(t.condition.split(",")[0], t.measure): t for t in page.report(solved).times}
    assert {t.chains for t in times.values()} == {40} and times["replace", "w2"].seen
    frame = pd.read_csv(next(solved.glob("replace*/seed0/metrics.csv")))
    ratio = (frame["w2"] / frame["w2"].iloc[0]).to_numpy()
    t = int(np.flatnonzero(ratio < 2)[-1])
    at = np.interp(2, ratio[t : t + 2], [t, t + 1])  # of six digits
    assert times["replace", "w2"].at == pytest.approx(at, rel=1e-4)
    assert "[" not in times["replace", "w2"].text and not times["real_only", "w2"].seen


# -- Several numbers of real samples ----------------------------------------------------------------------------------


@pytest.fixture
def sized(tmp_path):
    """A table of five sizes, whose risk doubles at the largest alone."""
    rng, rows = np.random.default_rng(0), []
    for n in (800, 50, 100, 200, 400):
        for condition in ("loop", "real_only"):
            grows = n == 800 and condition == "loop"
            for seed in range(5):
                risk = 40 / n * (1 + 0.3 * grows * np.arange(7)) * np.exp(0.01 * rng.standard_normal(7))
                rows += [(condition, seed, t, n, r) for t, r in enumerate(risk)]
    path = tmp_path / "sized.csv"
    pd.DataFrame(rows, columns=["condition", "seed", "generation", "size", "risk"]).to_csv(path, index=False)
    return path


def test_curves_numbers_and_times_are_of_the_size_that_is_judged(sized):
    frame: Any = pd.read_csv(sized)
    r = page.report(sized)
    by = frame[frame["size"] == 800].groupby(["condition", "generation"])["risk"]
    (panel,) = r.panels
    for line in panel.lines:
        assert line.mean == pytest.approx(by.mean()[line.condition].to_numpy()) and set(line.seeds) == {5}
        assert (line.high - line.low) / 2 == pytest.approx(by.std(ddof=1)[line.condition].to_numpy())
    times = {t.condition: t for t in r.times}
    assert times["loop"].at == pytest.approx(1 / 0.3, abs=0.3) and times["loop"].seen and not times["real_only"].seen
    html = page.html(r)
    assert "at 800 real samples, as in the verdicts (sizes run: 50, 100, 200, 400, 800)" in html
    assert "5 seeds at 800 real samples, generations 0 to 6" in html
    law = html[html.index("Scaling law: loop at 5 numbers of real samples, 5 chains each") :]
    assert [re.search(rf'"n">{n}</td>', law) is not None for n in (50, 100, 200, 400, 800)] == [True] * 5
    frame[(frame["size"] < 800) | (frame["condition"] != "loop")].to_csv(sized, index=False)
    assert (
        "at each condition's largest number of real samples (loop 400, real_only 800; "
        in page.report(sized).panels[0].band
    )
    frame[frame["size"] == 800].to_csv(sized, index=False)
    assert page.report(sized).panels[0].band == "mean over seeds, band of one standard deviation"


def test_a_table_that_cannot_tell_how_fast_says_why(tmp_path):
    path = tmp_path / "few.csv"
    rows = [("loop", 0, 0, 1.0), ("real_only", 0, 0, 1.0)]
    pd.DataFrame(rows, columns=["condition", "seed", "generation", "risk"]).to_csv(path, index=False)
    assert "only generation 0" in page.html(page.report(path))
    rows += [("loop", 0, 1, 1.0)]
    rows = [(*row[:3], row[3] - 1) for row in rows]  # nothing to double
    pd.DataFrame(rows, columns=["condition", "seed", "generation", "risk"]).to_csv(path, index=False)
    assert "value in every later generation" in page.html(page.report(path))


# -- Measures ---------------------------------------------------------------------------------------------------------


def test_a_measure_of_the_user_has_a_panel_a_timescale_and_a_verdict(study):
    info = MeasureInfo("sharpness", "Sharpness", "edges an image", collapse="falls", role="mode", floor=1e-3)
    for scores in study.glob("*/seed*/gen*/scores/*.json"):
        stored, t = store.read_json(scores), int(scores.parent.parent.name[3:])
        stored["scores"]["sharpness"] = 8.0 * 0.4**t
        stored["protocol"]["measures"] = [info.to_dict()]
        store.write_json(scores, stored)
    s = Study(study)
    assert [i.name for i in displayed(s) if i.name not in MEASURES] == ["sharpness"]
    r = page.report(study)
    (panel,) = (p for p in r.panels if p.info.name == "sharpness")
    assert panel.info.label == "Sharpness" and panel.lines[0].mean == pytest.approx([8, 3.2, 1.28])
    assert {t.change for t in r.times if t.measure == "sharpness"} == {"halved"}
    assert r.profile is not None and all(r.profile[c][6].number for c in r.profile.conditions)


def test_the_subject_of_a_definition_can_be_chosen(tmp_path, capsys):
    frame = pd.read_csv(TABLE)
    frame["my_rate"] = frame["variance_ratio"] ** 2
    frame.to_csv(tmp_path / "t.csv", index=False)
    r = page.report(tmp_path / "t.csv", profiles.Question(subjects=subjects(["variance=my_rate"])))
    ours = page.report(TABLE)
    assert r.profile is not None and ours.profile is not None
    for c in ours.profile.conditions:
        assert r.profile[c][4].effect == pytest.approx(2 * ours.profile[c][4].effect)
    for wrong in (["mood=fd"], ["variance"], ["variance=fd", "variance=kd"]):
        with pytest.raises(UserError) as error:
            subjects(wrong)
        assert error.value.setting == "subject" and "ROLE=COLUMN" in str(error.value)


@pytest.mark.parametrize("released", [48, 20])
def test_samples_drawn_and_released_are_shown_where_they_differ(study, released):
    for path in study.glob("*/seed*/gen*/record.json"):
        store.write_json(path, store.read_json(path) | {"n_drawn": 48, "n_pool": released})
    shown = {i.name for i in displayed(Study(study))}
    assert ({"n_drawn", "n_pool"} <= shown) == (released != 48) and "n_train" in shown and "kd_sem" not in shown


def test_what_schedules_change_is_shown_below_the_first_curves(study):
    assert 'id="schedules"' not in page.html(page.report(study))
    for path in study.glob("*/seed*/gen*/record.json"):
        record = store.read_json(path)
        store.write_json(path, record | {"train_images": 100 * (1 + record["generation"])})
    given = page.report(study).given
    assert [p.info.name for p in given] == ["n_train", "train_images", "real_share"]
    assert list(given[1].lines[0].mean[:2]) == [100, 200]
    text = page.html(page.report(study))
    assert text.index("Held-out risk") < text.index('id="schedules"') < text.index("more curve")


def test_a_schedule_of_how_samples_are_drawn_is_shown_as_configured(study):
    for path in study.glob("*/seed*/config.yaml"):
        stored = yaml.safe_load(path.read_text())
        stored["config"]["model"]["bias"] = {"start": 1.0, "factor": 0.9, "min": 0.85}
        stored.pop(store.SEAL)
        path.write_text(yaml.safe_dump(store.sealed(stored)))
    (panel,) = page.report(study).given
    assert panel.info.name == "model.bias" and {line.condition for line in panel.lines} == set(Study(study).conditions)
    assert list(panel.lines[0].mean[:3]) == pytest.approx([1.0, 0.9, 0.85])


# -- Bands ------------------------------------------------------------------------------------------------------------


def lowest(drawing, kind):
    """The lowest point of a drawing's bands or error bars, in its pixels (downwards)."""
    found = re.findall(rf'class="{kind}" d="([^"]+)"', str(drawing))
    assert found
    pairs = [float(y) for d in found for y in re.findall(r"[ V]([\d.]+)", d)]
    return max(pairs)


@pytest.mark.parametrize("theory", [None, np.array([0.01, 0.01, 0.02])])
def test_bands_end_where_a_measure_does(theory):
    mean, x = np.array([0.01, 0.011, 0.02]), np.arange(3.0)
    line = Line("c", "c", figures.Look(), x, mean, mean - 0.05, mean + 0.05, np.full(3, 5), theory)
    kind, bottom = "band" if theory is None else "error", svg.HEIGHT - svg.BOTTOM
    for measure, below in (("off_support", False), ("kd", True), ("variance_ratio", False)):
        p = Panel(MEASURES[measure], (line,))
        assert (p.edges(line)[0] == (mean - 0.05 if below else 0)).all() and (p.limits[0] < 0) == below
        axis = bottom if not below else svg.TOP + (bottom - svg.TOP) * p.limits[1] / (p.limits[1] - p.limits[0])
        assert (lowest(svg.panel(p, 0), kind) > axis + 0.1) == below
    assert line.point(0) == "c, generation 0: 0.01 ± 0.05 (5 seeds)"  # the numbers stay
    signed = dataclasses.replace(line, mean=mean - 0.02)
    assert Panel(MEASURES["off_support"], (signed,)).edges(signed)[0] is not None
    assert (Panel(MEASURES["off_support"], (signed,)).edges(signed)[0] == line.low).all()  # evidently it can
    log = Panel(MEASURES["excess"], (line,), log=True)
    assert lowest(svg.panel(log, 0), kind) == pytest.approx(bottom, abs=0.1)  # to the end of the axis, not left out
    assert pdf.curve(log).startswith(b"%PDF") and pdf.curve(Panel(MEASURES["recall"], (line,))).startswith(b"%PDF")


def test_a_pdf_band_is_that_of_the_page(monkeypatch):
    mean = np.array([0.01, 0.02])
    line = Line("c", "c", figures.Look(), np.arange(2.0), mean, mean - 0.05, mean + 0.05, np.full(2, 5))
    drawn = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, x, low, high, **more: drawn.append((low, high)))
    pdf.curve(Panel(MEASURES["recall"], (line,)))
    assert (drawn[0][0] == 0).all() and (drawn[0][1] == mean + 0.05).all()
    bars = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, error, **more: bars.append(error))
    pdf.curve(Panel(MEASURES["recall"], (dataclasses.replace(line, theory=mean),)))
    assert bars[0] == pytest.approx(np.stack([mean, [0.05, 0.05]]))


def test_units_are_written_as_large_as_ticks():
    """And the longest has room, a letter being about half as wide as it is high."""
    line = panels(Study(TABLE), {"replace": "replace"})[0].lines[0]
    for info in MEASURES.values():
        drawing = str(svg.panel(Panel(info, (line,), log=True), 0))
        assert f'<text class="label" x="2" y="10">{info.unit} (log)</text>' in drawing and "font-size" not in drawing
        assert len(f"{info.unit} (log)") * 0.56 * 10.5 <= svg.WIDTH, info.unit


# -- How to reproduce -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    thinned(
        [
            ["paradigm=accumulate"],
            ["paradigm=replace", "real_fraction=0.25", "model.widths=[8,16]", "train.images=640", "features=pixels"],
            ["paradigm=replace", "n_samples={start: 200, factor: 2, max: 1000}", "start=weights", "study=a.b+c"],
            ["paradigm=fresh", "n_initial=250", "n_samples=200", "n_synthetic=100", "model.objective=edm"],
            ["experiment=analytic/gaussian", "paradigm=replace", "model.replicates=30"],
            ["model=gan", "data=shapes", "data.n=4000", "generations=7", "collapse.tail_kept=0.7"],
            ["trainer=gpu", "paradigm=edit", "edit_fraction=0.3", "keep_models=2"],
            ["data=folder", "data.root='/a folder/of \"images\".zip'", "data.classes=[cat,'7']"],
        ],
        2,
    ),
)
def test_the_command_makes_the_same_chain(overrides):
    settings = parsed(overrides)
    told = {"choices": settings.choices, "identity": settings.identity, "config": settings.config}
    line = reproduce.command(yaml.safe_load(yaml.safe_dump(told)), [3])
    again = parsed(shlex.split(line)[3:])
    assert again.config["seed"] == 3 and again.identity == settings.identity
    apart = ("seed", "out", "display", "overwrite")
    assert {k: v for k, v in again.config.items() if k not in apart} == {
        k: v for k, v in settings.config.items() if k not in apart
    }
    assert again.condition == settings.condition


@pytest.mark.parametrize(
    "more, knob",
    [
        ([], "n_initial"),
        (["model.widths=[8,16]", "train.images=[640,320]"], "n_initial"),
        (["n_initial=800", "n_samples={start: 200, factor: 0.5, max: 1000}", "model.objective=edm"], "n_initial"),
        (["model=gaussian", "data=law", "data.n=400", "study=s"], "data.n"),
        (["model=gaussian", "data=law", "data.n=400", "n_initial=300", "study=s"], "n_initial"),
    ],
)
def test_the_command_that_a_missing_quarter_asks_for_makes_it(more, knob):
    control = parsed(["paradigm=real_only", *more]).condition
    frame = pd.DataFrame(
        [(c, s, t, 100, 1.0) for c in ("loop", control) for s in range(4) for t in range(4)],
        columns=["condition", "seed", "generation", "n_train", "risk"],
    )
    known = tables.conditions(frame)
    quarter, why = tables.quarter_of(next(c for c in known if c.given == control), known, None)
    line = re.search(r": run (paradigm=.*), with the same", why)
    assert line is not None
    line = line[1]
    again = parsed([*shlex.split(line), *(m for m in more if m.startswith("study"))])
    assert quarter is None and f"{knob}=25" in shlex.split(line)
    less = frame[frame["condition"] == control].assign(condition=again.condition, n_train=25)
    near = tables.conditions(pd.concat([frame, less]))
    quarter, _ = tables.quarter_of(next(c for c in near if c.given == control), near, None)
    assert quarter is not None and quarter.given == again.condition


def test_a_name_that_does_not_tell_its_settings_has_no_command():
    root = parsed(["data=folder", "data.root=/a/b", "data.classes=['a b/c']", "paradigm=real_only"]).condition
    assert re.search(r"-[0-9a-f]{6}", root)
    for name in ("baseline", "a, b, c", root, "real_only,x=" + 99 * "y" + "-0123abcd"):
        assert tables.overrides(name, n_initial=25) is None
    assert tables.settings("a, b") == ("a, b", frozenset())
    shared = frozenset({"model.widths=8,16", "start=weights"})
    assert tables.settings("replace,real_fraction=0.1,model.widths=8,16,start=weights") == ("replace", shared)


def test_an_option_of_the_user_is_found_in_the_stored_folders(tmp_path):
    (tmp_path / "one" / "data").mkdir(parents=True)
    (tmp_path / "two" / "paradigm").mkdir(parents=True)
    (tmp_path / "one" / "data" / "mine.yaml").write_text((CONF / "data" / "shapes.yaml").read_text())
    (tmp_path / "two" / "paradigm" / "theirs.yaml").write_text((CONF / "paradigm" / "replace.yaml").read_text())
    base = parsed(["data=shapes", "paradigm=replace", "data.n=4000"])
    stored = {"choices": base.choices | {"data": "mine", "paradigm": "theirs", "tier": "cpu"}, "config": base.config}
    with pytest.raises(UserError) as error:
        reproduce.command(stored, [0])
    assert error.value.setting == "paradigm"
    folders = [str(tmp_path / name) for name in ("one", "two")]
    words = shlex.split(reproduce.command(stored | {"config_dirs": folders}, [0]))
    assert words[3:6] == ["--config-dir", folders[0], f'hydra.searchpath=["file://{folders[1]}"]']
    assert {"data=mine", "paradigm=theirs", "data.n=4000"} <= set(words) and not [w for w in words if "tier" in w]
    assert not [w for w in words if w.startswith(("data.", "paradigm.")) and w != "data.n=4000"]
    shutil.rmtree(tmp_path / "one")  # an archive read elsewhere
    assert "data=mine" in reproduce.command(stored | {"config_dirs": folders}, [0])


def test_commands_for_several_seeds(made):
    s = Study(made)
    told = s.config(s.chains[0])
    assert reproduce.command(told, [0, 1, 2]).endswith("'seed=range(0,3)'")
    assert reproduce.command(told, [0, 2]).endswith("seed=0,2") and " -m paradigm" in reproduce.command(told, [0, 2])
    with pytest.raises(UserError, match="not an option"):
        reproduce.command({**told, "choices": {"data": "../../etc/passwd"}}, [0])


# -- Studies as objects -----------------------------------------------------------------------------------------------


def test_a_study_has_a_table_images_and_real_data(made):
    s = imgloop.Study(made) if "Study" in imgloop.__all__ else Study(made)
    pd.testing.assert_frame_equal(s.table, imgloop.load_study(made), check_dtype=False)
    condition = next(c for c in s.conditions if c.startswith("replace"))
    images = s.images(condition, seed=0, generation=2)
    assert images.shape == (48, 1, 8, 8) and images.dtype == np.uint8 and isinstance(images, np.memmap)
    assert s.latents(condition, 0, 2).shape == (16, 1, 8, 8) and s.labels(condition, 0, 2) is None
    assert len(s.real.train) == 1397 and s.real.heldout.x.shape[1:] == (1, 8, 8) and len(s.real.classes or ()) == 10
    assert s.record(condition, 0, 1)["share_by_origin"] == {"0": 1.0}


@pytest.mark.parametrize(
    "asked, what",
    [
        (lambda s: s.images("nothing", 0, 0), "has no chain nothing/seed0"),
        (lambda s: s.images(s.conditions[0], 0, 9), "has generations 0 to 2, not 9"),
        (lambda s: Study(s.path, protocol="inception-1").table, "has scores under inception-1"),
        (lambda s: Study(s.path / "shared"), "contains no finished generation"),
        (lambda s: Study("nowhere"), "does not exist"),
    ],
)
def test_what_a_study_does_not_hold_is_told(made, asked, what):
    with pytest.raises(UserError, match=what):
        asked(Study(made))


# -- Files, list, archive, watch --------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_every_panel_is_a_pdf(tmp_path, drawn):
    assert main([str(TABLE), "--out", str(tmp_path)]) == 0
    files = {p.stem: p.read_bytes() for p in (tmp_path / "report" / "figures").glob("*.pdf")}
    measured = {p.info.name for p in page.report(TABLE).panels}
    assert set(files) == measured and all(d.startswith(b"%PDF") for d in files.values())


def test_four_curves_come_first_and_can_be_chosen(study, capsys, tmp_path):
    r = page.report(study)
    assert [p.info.name for p in r.key] == ["fd", "risk", "variance_ratio", "recall"]
    html = page.html(r)
    above, folded = html.split('<details class="printed further" ')
    assert above.count('class="changes"') == 4 and folded.count('class="changes"') == len(r.panels) - 4
    assert main([str(study), "--measures", "kd,density", "--out", str(tmp_path / "o")]) == 0
    assert [p.info.name for p in page.report(study, measures=["kd", "density"]).key] == ["kd", "density"]
    assert main([str(study), "--measures", "sharpness"]) == 1
    assert "--measures sharpness: the study has no such curve; choose from fd," in capsys.readouterr().err


def test_figures_for_papers_are_a_column_wide_with_type_of_six_and_a_half_points_or_more(study, monkeypatch, drawn):
    made = []
    monkeypatch.setattr(pdf, "_saved", lambda figure: made.append(figure) or b"")
    r = page.report(study)
    bars = [(r.names[c], b) for c, b in page.shares(r.study, r.names)]
    names = [name for name, _ in pdf.figures(r.panels, r.key, r.evolution, bars)]
    assert {"comparison.pdf", "training.pdf", "samples.pdf", "fd.pdf"} <= set(names) and len(made) == len(names)
    for name, figure in zip(names, made):
        assert figure.get_figwidth() == pdf.COLUMN, name
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
        assert texts and min(t.get_fontsize() for t in texts) >= pdf.SMALL, name


def test_every_verdict_leads_to_what_it_rests_on(solved):
    found = read(solved)
    leads = [a["href"][1:] for a in found.all("a") if a.get("class") == "verdict"]
    assert len(leads) == len(set(leads)) == 8
    assert set(leads) <= {a.get("id") for a in found.all("tr")}
    assert {f"rule-{k}" for k in range(1, 9)} <= {a.get("id") for a in found.all("div")}


def test_a_remark_that_conditions_share_is_said_once():
    html = page.html(page.report(TABLE))
    rows = re.findall(r'<tr id="v(\d)-5">.*?</tr>', html, re.S)
    remarks = [row.split("<td>")[-1] for row in re.findall(r'<tr id="v\d-5">.*?</tr>', html, re.S)]
    assert rows == ["1", "2", "3"] and "needs chains and controls at 5 numbers" in remarks[0]
    assert all('<a href="#v1-5">as for accumulate</a>' in remark for remark in remarks[1:])
    printed = str(page.report(TABLE).profile)
    assert printed.count("5: not measured: needs chains") == 1 and "\nAll 3 conditions\n" in printed


def test_without_a_control_there_is_no_profile(study, capsys):
    for folder in study.glob("real_only*"):
        shutil.rmtree(folder)
    r = page.report(study)
    assert r.profile is None and r.reason.startswith(
        "No control, so no profile: no condition is real_only (the study has replace)"
    )
    assert page.html(r).count("No control, so no profile") == 2


def test_a_weak_generation_0_is_told_without_a_control(tmp_path, capsys):
    table = pd.read_csv(TABLE)
    table = table[~table["condition"].str.startswith("real_only")].assign(off_support=0.88)
    table.to_csv(tmp_path / "weak.csv", index=False)
    r = page.report(tmp_path / "weak.csv")
    (warning,) = r.warnings
    assert r.profile is None and warning.startswith("Generation 0 is not a model of the data: 88%")
    assert page.html(r).count(warning) == 1
    terminal.profile(r, Console(width=500))
    assert capsys.readouterr().out.count(warning) == 1


def test_notes_of_scores_that_repeat_are_said_once(study):
    for path in study.glob("*/seed*/gen*/scores/*.json"):
        store.write_json(path, store.read_json(path) | {"notes": {"tail_mass": "too few.", "off_support": "too few."}})
    assert page.report(study).unknown.count("tail_mass, off_support: too few (6 generations).") == 1


def test_what_is_written_beside_the_page(tmp_path, capsys):
    assert main([str(TABLE), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "● detected" in printed and "look at" in printed
    beside, expected = tmp_path / "report", collapse_profile(pd.read_csv(TABLE))
    told = json.loads((beside / "profile.json").read_text())
    assert told["profile"] == json.loads(json.dumps(expected.to_dict())) and told["not_known"] and told["timescales"]
    frame = pd.read_csv(beside / "profile.csv")
    assert list(frame["verdict"]) == [v.verdict for v in expected.verdicts]
    tex = (beside / "profile.tex").read_text()
    assert tex.count("{") == tex.count("}") and r"real\_only" not in tex.split("tabular")[0]
    assert all(line.count(" & ") == 8 for line in tex.splitlines() if line.endswith(r" \\"))
    keys = re.findall(r"^@\w+\{(\w+),$", (beside / "references.bib").read_text(), re.M)
    assert len(keys) == len(set(keys)) and {"schaeffer2025position", "heusel2017gans", "holm1979simple"} <= set(keys)


ODD = [
    "réplacer 数据 ÅŐç", "[a] * b", "50% & $x^2$ {tex} \\alpha #1 ~", '"q" <b> | c', "two\nlines", "*", "øß", "\u0301x",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_the_latex_table_is_ascii_that_latex_takes(name):
    """No TeX is needed to test it: each character is one that pdflatex prints as it is, or part of a known macro."""
    frame = pd.read_csv(TABLE).replace({"condition": {"replace": name, "real_only": "réal"}})
    frame["risk"] *= 1e-7  # effects in powers of ten
    tex = files.latex(collapse_profile(frame, "réal"), {})
    assert tex.isascii() and tex.count("{") == tex.count("}")
    assert re.search(r"\$-?\d(\.\d+)?\\times10\^\{-\d+\}\$", tex)
    rows = [line for line in tex.splitlines() if line.endswith(r" \\")]
    body = rows[1:]
    assert len(body) == frame["condition"].nunique() - 1 and not [row for row in body if row[0] in "[*"]
    for row in body:
        assert re.sub(r"\\&", "", row).count("&") == 8
        printed = re.sub(r"\$[^$]*\$|\\[#%&$_{}]|\\text\w+\{\}|\\[`'^~=u.\"rHvc]\{[A-Za-z]\}|\\\\$", "", row)
        assert not set(printed) & set('#%$_\\~^<>|"'), printed


@pytest.mark.parametrize(
    "x, said",
    [(4.37e-5, r"$4.37\times10^{-5}$"), (-2.5e9, r"$-2.5\times10^{9}$"), (-0.5, "$-0.5$"), (1234, "$1{,}234$"),
     (-np.inf, r"$-\infty$"), (np.nan, "")],
)  # fmt: skip
def test_a_formula_is_its_figure(x, said):
    assert files.formula(x) == said
    plain = said.strip("$").replace(r"\times10^{", f" {text.TIMES} 10{{").replace(r"\infty", "∞").replace("{,}", ",")
    power = re.search(r"\{(-?\d+)\}", plain)
    plain = plain.replace(power.group(), power.group(1).translate(text.POWERS)) if power else plain
    assert text.figure(x) == plain.replace("-", text.MINUS)


def test_references_are_read_from_one_file():
    entries = bibliography.references()
    uses = bibliography.ALWAYS | bibliography.STATISTICS | bibliography.SCALING
    uses |= dict((*bibliography.MEASURES.values(), *bibliography.SETTINGS.values()))
    assert set(uses) == set(entries)
    for key, entry in entries.items():
        assert {"author", "title", "year"} <= set(entry.fields) and entry.source.count("{") == entry.source.count("}")
        assert not set(bibliography.work(key, "").citation) & set("{}\\")
    assert bibliography.work("binkowski2018demystifying", "").citation.startswith(
        "Bińkowski et al. (2018). Demystifying"
    )
    assert bibliography.plain(r"{\L}ód{\'z} {\c{c}} K{\"a}".replace(r"{\L}", r"{\l}")) == "łódź ç Kä"
    one = "% a comment\n@book{k2,\n  Title = {A {Nested {B}}\n    title},\n  year = {1999}\n}\n"
    assert bibliography.entries(one)["k2"].fields == {"Title".lower(): "A {Nested {B}} title", "year": "1999"}


def test_only_what_was_used_is_cited(made, solved):
    keys = [{w.key for w in page.report(p).works} for p in (made, solved)]
    assert {"lipman2023flow", "alpaydin1998optical", "shumailov2024ai", "imgloop"} <= keys[0]
    assert not {"huang2024gan", "krizhevsky2009learning", "gerstgrasser2024inevitable", "holm1979simple"} & keys[0]
    assert not {"lipman2023flow", "alpaydin1998optical", "heusel2017gans"} & keys[1] and "holm1979simple" in keys[1]


def test_the_list_names_studies_chains_measures_and_sizes(study, capsys):
    gone = next(study.glob("real_only*/seed0/gen002"))
    shutil.rmtree(gone)
    assert main([str(study.parent), "--list"]) == 0
    said = capsys.readouterr().out
    assert "tried  1 of 2 chains finished" in said and "2 of 3" in said and "3 of 3" in said and "fd " in said
    whole = sum(p.stat().st_size for p in study.rglob("*") if p.is_file())
    assert size([study]) == whole and f"{whole / 1e6:.3g} MB" in said
    assert main([str(study / "shared"), "--list"]) == 1 and "contains no study" in capsys.readouterr().err


def test_an_archive_has_no_weights_and_all_that_a_report_needs(study, tmp_path):
    path = archive.archive(study, tmp_path / "packed" / "a.tar.gz")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert sum(n.endswith("seed0/evolution.webp") for n in names) == 2
    assert not [n for n in names if "/model" in n or "generation0" in n or n.endswith((".lock", ".part"))]
    other = tmp_path / "unpacked" / "tried"
    before, after = (re.sub(r"Written \S+ \S+", "", page.html(page.report(p))) for p in (study, other))
    assert before == after
    from imgloop import measure

    assert measure.measure(other, ["features=random"]).startswith("random")  # and it can be measured anew
    with pytest.raises(UserError, match="outside"):
        archive.archive(study, study / "a.tar.gz")
    assert not list(tmp_path.rglob("*.part"))


def watched(study, steps, *more):
    """Watch a study until each of `steps` has been called in turn, with the page that is served; then Ctrl-C."""
    a = parser().parse_args([str(study), "--watch", "--port", "0", *more])
    left = [*steps]
    address = []

    class Told(Console):
        def print(self, text="", **more):
            address.extend(re.findall(r"(http://\S+) shows", str(text)))
            super().print(text, **more)

    def sleep(seconds):
        if not left:
            raise KeyboardInterrupt
        with urllib.request.urlopen(address[0]) as answer:
            left.pop(0)(answer.read().decode())

    watch(a, Told(width=120), sleep)
    assert not left


def test_watch_follows_a_study_until_ctrl_c(study, capsys):
    last = next(study.glob("replace*/seed0/gen002"))
    aside = shutil.move(last, study.parent / "aside")
    seen = []

    def see(html):
        file = (study / "report.html").read_text()
        refreshed = re.search(r'http-equiv="refresh" content="30"', file) is not None
        seen.append((refreshed, "2 of 2 chains finished" in file, "2 of 2 chains finished" in html))
        assert 'id="live"' in html and 'id="live"' not in file and "connect-src" in html and "connect-src" not in file
        assert "<noscript><meta http-equiv" in html and len(re.findall("http-equiv=.refresh", html)) == 1

    def go_on(html):
        see(html)
        shutil.move(aside, last)

    watched(study, [see, see, go_on, see, see], "--every", "30")
    assert seen == [(True, False, False)] * 3 + [(False, True, True)] * 2
    assert (study / "report" / "profile.json").exists()
    told = capsys.readouterr().out
    assert "5 of 6 generations" in told and told.count("look at") == 1
    if locked() is not None:  # nobody runs it: said once
        assert told.count("no process runs") == 1 and "1 chains unfinished" in told


@pytest.mark.nightly
def test_ctrl_c_ends_a_watch_quietly(made, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("imgloop.report.__main__._follow", interrupted)
    assert main([str(made), "--watch", "--port", "0"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.nightly
def test_ctrl_c_ends_the_process_of_a_watch_quietly(made):
    run = preloaded.Command("-m", "imgloop.report", made / "none", "--watch", "--port", "0")
    while "waiting" not in Path(run.paths[0]).read_text() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(30)
    assert (run.returncode, err) == (0, "") and len(out.splitlines()) == 2 and not (made / "none").exists()


def test_watch_waits_for_a_study_and_its_first_generation(study, capsys):
    root = study.parent / "later"
    pages = []

    def begin(html):
        pages.append(html)
        plan(root, {"replace/seed0": 3, "fresh/seed1": 4})
        note_failure(root / "fresh" / "seed1", "the <disk> is full")

    def finish(html):
        pages.append(html)
        shutil.copytree(study, root, dirs_exist_ok=True)

    watched(root, [begin, finish, pages.append], "--every", "1")
    nothing, planned, whole = (Page(html) for html in pages)
    assert "later does not exist yet." in nothing.said("p", "notice")[0] and "No chain has begun." in nothing.said("p")
    assert "has no finished generation yet." in planned.said("p", "notice")[0]
    assert "0 of 2 chains finished, 1 failed, 1 waiting." in planned.said("p")
    assert [d.strip() for d in planned.said("td") if "disk" in d] == ["the <disk> is full"]
    assert "Which definitions of model collapse hold" in whole.said("h2") and "Chains" in whole.said("h2")
    assert capsys.readouterr().out.count("waiting: ") == 2


def test_watch_shows_what_cannot_be_read_and_goes_on(study, capsys):
    record = next(study.glob("*/seed0/gen000/record.json"))
    text, other, pages = record.read_text(), next(p for p in study.glob("*/seed0") if p not in record.parents), []

    def spoil(html):
        shutil.rmtree(other)
        record.write_text("{")

    def mend(html):
        pages.append(Page(html))
        record.write_text(text)

    watched(study, [spoil, mend, lambda html: pages.append(Page(html))])
    assert "record.json" in pages[0].said("p", "notice")[0] and pages[0].said("td", "state") == ["damaged"]
    assert "1 of 1 chain finished." in pages[1].said("p") and "no report: " in capsys.readouterr().out


def test_one_chain_can_be_watched(study):
    chain, seen = next(study.glob("replace*/seed0")), []
    watched(chain, [seen.append])
    assert f"{chain.parent.name}, seed0" in Page(seen[0]).said("h1") and "1 of 1 chain finished" in seen[0]
    assert (chain / "report.html").exists() and not (study / "report.html").exists()


def test_many_chains_are_folded_and_those_that_run_come_first(study):
    plan(study, {f"fresh/seed{i}": 2 for i in range(20)})
    html = page.html(page.report(study), live=True)
    found = Page(html)
    assert "2 of 22 chains finished, 20 waiting." in found.said("p")
    assert "10 more chains" in found.said("summary")
    states = found.said("td", "state")
    assert states == ["waiting"] * 20 + ["finished"] * 2
    assert html.count('href="/pictures/') == 2 and "/pictures/" not in page.html(page.report(study), refresh=30)


def test_a_fingerprint_changes_with_what_there_is_to_show(study):
    before = fingerprint(study)
    assert fingerprint(study) == before
    record = next(study.glob("*/seed0/gen001/record.json"))
    store.write_json(record, store.read_json(record))
    assert fingerprint(study) != before


# -- Studies that run, are damaged or small ---------------------------------------------------------------------------


def test_one_seed_has_no_verdicts(made, tmp_path, capsys):
    r = page.report(next(made.glob("replace*/seed0")))
    assert r.profile is None and r.reason.startswith("No control, so no profile") and r.study.single
    html = page.html(r)
    assert len(r.chains) == 1 and r.reason in html and "real, held out" in html
    both = page.report(made)
    assert (
        both.profile and both.unjudged and {v.verdict for v in both.profile.verdicts} == {"no verdict", "not measured"}
    )
    found = Page(page.html(both))
    assert any(said.startswith("1 seed: no verdicts.") for said in found.said("p", "notice"))
    assert "no verdict (one seed: effect only)" in " ".join(found.said("p"))
    assert main([str(made), "--out", str(tmp_path)]) == 0 and "1 seed: no verdicts" in capsys.readouterr().out
    several = page.html(page.report(TABLE))
    assert "no verdicts" not in several and "no verdict (" not in several


def test_a_solvable_study_has_verdicts_theory_and_no_images(solved, tmp_path, capsys):
    r = page.report(solved)
    assert r.evolution == "A solvable system has no images." and r.profile is not None
    judged = r.profile[next(c for c in r.names if c.startswith("replace"))]
    assert judged[2].seeds == 40  # replicates are chains
    assert main([str(solved), "--out", str(tmp_path)]) == 0
    for told in (capsys.readouterr().out, (tmp_path / "report.html").read_text()):
        assert f"40 chains (1 seed {text.TIMES} 40 replicates)" in " ".join(told.split()) and "40 seeds" not in told
    drawn = panels(r.study, r.names)
    frame = r.study.table
    for p in drawn:
        for line in p.lines:
            assert line.mean == pytest.approx(frame[frame["condition"] == line.condition][p.info.name])
    assert any(line.theory is not None for p in drawn for line in p.lines)


def test_a_running_chain_is_called_that(study):
    if locked() is None:
        pytest.skip("this system does not list locks (/proc/locks)")
    chain = next(study.glob("replace*/seed0"))
    shutil.rmtree(chain / "gen002")
    told = {p.chain: p for p in progress(study)}[chain]
    assert (told.done, told.planned, told.state) == (2, 3, "interrupted")
    waits = "1 of 2 chains interrupted after 2 of 3 generations; the command that started it continues it."
    assert waits in read(study).said("p", "notice")
    with store.lock(chain / ".lock"):
        assert {p.chain: p.state for p in progress(study)}[chain] == "running"
        html = page.html(page.report(study))
        assert "1 running" in html and "interrupted" not in html
    shutil.rmtree(next(study.glob("real_only*/seed0")) / "gen002")
    shutil.rmtree(chain / "gen001")
    assert "2 of 2 chains interrupted after 1-2 of 3 generations; the commands" in page.html(page.report(study))


DAMAGES = {
    "a cut record": lambda c: (c / "gen001" / "record.json").write_text("{"),
    "a record of nothing": lambda c: (c / "gen001" / "record.json").write_text("[]"),
    "a missing record": lambda c: (c / "gen001" / "record.json").unlink(),
    "cut scores": lambda c: [p.write_text('{"scores":') for p in (c / "gen001" / "scores").glob("*.json")],
    "a record without times": lambda c: (c / "gen001" / "record.json").write_text('{"generation": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chain_is_left_out_and_named(study, damage, capsys, monkeypatch):
    if damage != next(iter(DAMAGES)):  # what is left is drawn alike, whatever the damage
        monkeypatch.setattr("imgloop.report.pdf.figures", lambda *a: {})
    chain = next(study.glob("replace*/seed0"))
    DAMAGES[damage](chain)
    assert main([str(study)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("left out: ") and str(chain) in told[0]
    assert "Left out: " in (study / "report.html").read_text()
    DAMAGES[damage](next(study.glob("real_only*/seed0")))
    assert main([str(study)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("imgloop.report: ")
    assert main([str(study), "--list"]) == 0
    with pytest.raises(UserError):
        Study(study)


@pytest.mark.parametrize("name", ["evolution.safetensors", "../../../shared"])
def test_images_that_are_missing_cost_only_the_images(study, name):
    for folder in study.glob("*/seed0/gen001"):
        store.remove((folder / name).resolve()) if (folder / name).exists() else None
    r = page.report(study)
    said = r.evolution if isinstance(r.evolution, str) else str(r.evolution.real)
    assert ("missing" in said) if name.startswith("evo") else said == "()"
    assert "Frechet distance" in page.html(r)


def test_thresholds_tell_when_they_were_set_and_what_changed_since(study):
    assert "They were set at 20" in page.report(study).thresholds[0]
    assert "before the first chain finished" in page.report(study).thresholds[0]
    for i, chain in enumerate(sorted(study.glob("*/seed0"))):
        told = yaml.safe_load((chain / "config.yaml").read_text())
        told["config"]["collapse"]["tail_kept"] = 0.7
        told.pop(store.SEAL)
        (chain / "config.yaml").write_text(yaml.safe_dump(store.sealed(told)))
        whose = ("some chains", "the chains")[i]
        said = [f"The configuration of {whose} differs: tail_kept was 0.8 and is 0.7."]
        assert list(page.report(study).thresholds[1:]) == said
    (study / "shared" / "collapse.json").unlink()
    r = page.report(study)
    assert "today's" in r.thresholds[0] and r.profile and r.profile.thresholds.tail_kept == 0.7


def test_a_damaged_config_costs_only_the_command(study):
    for chain in study.glob("*/seed0"):
        (chain / "config.yaml").write_text(":\n\t-")
    html = page.html(page.report(study))
    assert html.count("no command: ") == 2 and "0 of 2 chains finished" in html


def test_mistakes_end_in_one_sentence(made, tmp_path, capsys):
    for arguments in (
        [],
        [str(tmp_path)],
        ["nowhere"],
        [str(made), "--seed", "9"],
        [str(made), "--watch", "--every", "0"],
        [str(tmp_path), "--archive"],
        [str(TABLE), "--watch"],
        [str(made), "--watch", "--port", "70000"],
        [str(made), "--watch", "--port", "0", "--protocol", "none"],
        [str(made), "--protocol", "none"],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("imgloop.report: ") and said.count("\n") == 1, arguments


@pytest.mark.nightly
def test_a_multirun_ends_with_a_report(tmp_path, command):
    done = command("-m", *TINY, "paradigm=replace,real_only", "generations=2", f"out={tmp_path}", "study=swept")
    assert done.returncode == 0, done.stderr
    assert "1. catastrophic risk" in done.stdout and str(tmp_path / "swept" / "report.html") in done.stdout
    assert "Which definitions" in (tmp_path / "swept" / "report.html").read_text()


# -- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Chromium as the system has it, headless."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if found is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    return files.write(page.report(made), tmp_path_factory.mktemp("written"), whole=False).as_uri()


def opened(browser, address, **more):
    """The page in a browser, and what it asked for and complained of."""
    tab = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | more)
    tab.heard = []
    tab.on("console", lambda m: tab.heard.append(m.text))
    tab.on("pageerror", lambda e: tab.heard.append(str(e)))
    tab.on("request", lambda r: r.url.startswith(("data:", address)) or tab.heard.append(r.url))
    tab.goto(address)
    return tab


def visible(tab):
    return [int(s.get_attribute("data-generation")) for s in tab.locator(".generation").all() if s.is_visible()]


def test_the_slider_shows_one_generation_at_a_time(browser, written):
    tab = opened(browser, written)
    slider = tab.get_by_role("slider", name="Generation")
    assert visible(tab) == [2] and slider.get_attribute("aria-valuetext") == "generation 2 of 2"
    slider.focus()
    tab.keyboard.press("Home")
    assert visible(tab) == [0] and tab.locator("#generation-shown").inner_text() == "generation 0 of 2"
    tab.keyboard.press("ArrowRight")
    assert visible(tab) == [1] and tab.get_by_alt_text("generation 1").count() == 2
    for image in tab.locator(".generation.shown img").all():
        assert image.evaluate("i => i.complete && i.naturalWidth > 0")
    tab.reload()
    assert visible(tab) == [1]  # a page that refreshes itself stays where its reader was
    tab.emulate_media(media="print")
    assert visible(tab) == [0, 1, 2] and not slider.is_visible()
    assert tab.heard == []
    tab.close()


def test_samples_move_only_where_the_system_allows_it(browser, written):
    tab = opened(browser, written)
    moving, still = tab.locator(".motion img"), tab.locator(".still img")
    assert not moving.first.is_visible()  # folded
    tab.get_by_text("In motion").click()
    assert moving.count() == still.count() == 2 and moving.first.is_visible() and not still.first.is_visible()
    assert moving.first.evaluate("i => i.complete && i.naturalWidth === i.width")
    assert moving.first.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    tab.emulate_media(reduced_motion="reduce")
    assert still.first.is_visible() and not moving.first.is_visible()
    assert tab.heard == []
    tab.close()


@contextlib.contextmanager
def serving(study):
    """Watch a study in a thread; the address of its page."""
    a, ended = parser().parse_args([str(study), "--watch", "--port", "0"]), threading.Event()
    server = Server(study, 0)
    server.publish(page.waiting_html("tried", "The study is being read.", []))

    def sleep(seconds):
        if ended.wait(0.05):
            raise KeyboardInterrupt

    def follow():
        with contextlib.suppress(KeyboardInterrupt):
            _follow(a, Console(quiet=True), server, sleep)

    with server:
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield server.address
        finally:
            ended.set()
            thread.join()


def test_a_served_page_follows_the_study_and_leaves_the_reader_in_place(browser, study):
    last = next(study.glob("replace*/seed0/gen002"))
    aside = shutil.move(last, study.parent / "aside")
    with serving(study) as address:
        tab = opened(browser, address)
        tab.wait_for_selector("#images")
        assert "2 of 3" in tab.locator("#chains").inner_text()
        slider = tab.get_by_role("slider", name="Generation")
        slider.focus()
        tab.keyboard.press("Home")
        tab.evaluate(
            """() => { document.querySelectorAll('#curves .first details')[1].open = true;
                       document.querySelector('#curves .further').open = true;
                       window.figure = document.querySelectorAll('#curves .further figure')[5];
                       window.references = document.getElementById('references');
                       window.measure = figure.querySelector('h3').textContent;
                       scrollBy(0, figure.getBoundingClientRect().top - 100); }"""
        )
        shutil.move(aside, last)
        tab.get_by_text("2 of 2 chains finished.", exact=True).wait_for(state="attached")
        assert visible(tab) == [0] and tab.get_by_alt_text("replace, seed 0, generation 2").count() == 2
        assert tab.evaluate("[...document.querySelectorAll('#curves details')].map((d) => d.open)").count(True) == 2
        assert tab.evaluate("document.querySelectorAll('#curves .first details')[1].open")
        top = """() => [...document.querySelectorAll('#curves .further figure')].find(
            (f) => f.querySelector('h3').textContent === measure).getBoundingClientRect().top"""
        assert abs(tab.evaluate(top) - 100) < 3 and tab.evaluate("!document.contains(figure)")  # drawn anew
        assert tab.evaluate("document.contains(references)")  # what has not changed is left
        assert tab.evaluate("document.activeElement.id") == "generation"
        assert tab.heard == []
        tab.close()


@pytest.mark.nightly
def test_a_page_opened_before_a_study_begins_shows_each_generation(browser, tmp_path):
    """The study is run by another process; the slider stays at the newest generation, as its reader does not move it."""
    with serving(tmp_path / "run") as address:
        tab = opened(browser, address)
        tab.get_by_text("does not exist yet").wait_for()
        run = preloaded.Command(
            "-m", "imgloop", *TINY, "train.images=4000", "generations=3", f"out={tmp_path}", "study=run"
        )
        for t in range(3):
            tab.locator(".generation").nth(t).wait_for(state="attached", timeout=120_000)
            assert visible(tab)[0] >= t
        assert run.communicate(60) and run.returncode == 0
        tab.get_by_text("1 of 1 chain finished.", exact=True).wait_for(state="attached")
        assert tab.heard == []
        tab.close()
    assert "Which definitions" in (tmp_path / "run" / "report.html").read_text()


def test_without_scripts_all_generations_are_shown(browser, written):
    tab = opened(browser, written, java_script_enabled=False)
    assert visible(tab) == [0, 1, 2] and not tab.locator(".slider").is_visible()
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_its_window_and_can_be_read(browser, written, width, scheme):
    tab = opened(browser, written, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert float(contrast(tab, "main p")) >= 7 and float(contrast(tab, ".changes")) >= 4.5
    for i in range(len(figures.COLOURS)):
        tab.evaluate(f"document.querySelector('main svg g').setAttribute('class', 'c{i}')")
        assert float(contrast(tab, "main svg g .line", "stroke")) >= 3
    assert tab.heard == []
    tab.close()


def contrast(tab, selector, what="color"):
    """WCAG 2's contrast ratio of an element's colour to the page."""
    colours = tab.evaluate(
        """([selector, what]) => [getComputedStyle(document.querySelector(selector))[what],
                                  getComputedStyle(document.body).backgroundColor]""",
        [selector, what],
    )
    light = []
    for colour in colours:
        linear = np.array([int(v) for v in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)


BROKEN = """selector => {
  const broken = [], range = document.createRange();
  for (const cell of document.querySelectorAll(selector)) {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());)
      for (const word of node.data.matchAll(/[^\\s]+/g)) {
        range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) broken.push(word[0]);
      }
  }
  return broken;
}"""


@pytest.mark.parametrize(
    "media, width", thinned([("print", 688), ("screen", 1280), ("screen", 768), ("screen", 360)], 2)
)
def test_no_word_of_a_table_is_broken(browser, judged, media, width):
    """On A4 between margins of 14 mm, and in windows."""
    tab = opened(browser, judged, viewport={"width": width, "height": 900})
    tab.emulate_media(media=media)
    assert tab.locator(".matrix td").count() == 24 and "undetermined" in tab.locator(".matrix").inner_text()
    assert tab.evaluate(BROKEN, ".matrix td, .matrix th[scope=col], .timescales td") == []
    marks = "all => all.map(x => x.getClientRects().length)"  # of a mark and its word: a line each
    assert set(tab.locator(".matrix .whole").evaluate_all(marks)) == {1}
    if media == "print":
        assert tab.evaluate(BROKEN, ".verdicts th[scope=row], .verdicts td:nth-child(2)") == []
        scale = "x.closest('svg')?.getScreenCTM().a ?? 1"  # a drawing's pixels are not the page's
        sizes = f"all => all.map(x => parseFloat(getComputedStyle(x).fontSize) * ({scale}))"
        found = tab.locator(".matrix .verdict, .matrix .effect, #curves svg text").evaluate_all(sizes)
        assert len(found) > 100 and min(found) >= 8  # 6 pt
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return files.write(page.report(TABLE), tmp_path_factory.mktemp("judged"), whole=False).as_uri()


def test_a_click_on_a_verdict_shows_what_it_rests_on(browser, judged):
    tab = opened(browser, judged)
    assert not tab.locator("tr#v1-3").is_visible()
    tab.click("a[href='#v1-3']")
    assert tab.locator("tr#v1-3").is_visible() and "diverging" in tab.locator("tr#v1-3").inner_text()
    tab.click("tr#v1-3 a")
    assert tab.locator("#rule-3").is_visible()
    tab.close()


def test_it_prints(browser, written):
    tab = opened(browser, written)
    pdf = tab.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    tab.close()
