"""Curves: one panel for every measure with values."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imgloop import figures
from imgloop.measures import MEASURES
from imgloop.study import trained

CURVES = figures.curves  # before the fixture `undrawn` replaces it
PANELS = trained.panels(MEASURES)
NAMES = [name for name, *_ in PANELS]


def table(conditions=("replace",), seeds=2, names=NAMES, generations=4):
    """A table of a study with increasing values."""
    rows = [
        {"condition": c, "seed": s, "generation": t, **{n: 1.0 + t + 0.1 * s + i for n in names}}
        for i, c in enumerate(conditions)
        for s in range(seeds)
        for t in range(generations)
    ]
    return pd.DataFrame(rows)


def picture(frame, title, reference=None):
    return np.asarray(Image.open(io.BytesIO(CURVES(frame, title, reference, PANELS))).convert("RGB")).astype(int)


@pytest.mark.parametrize("count, panels", [(1, 1), (3, 3), (5, 8), (len(NAMES), 4 * -(-len(NAMES) // 4))])
def test_one_panel_per_measure(count, panels):
    x = picture(table(names=NAMES[:count]), "a study")
    height, width = x.shape[:2]
    rows, columns = -(-panels // 4), min(4, panels)
    assert width == pytest.approx(455 * columns, abs=2) and height == pytest.approx(65 + 351 * rows, abs=2)
    assert (x.min(2) < 128).mean() > 0.005


def test_a_measure_without_values_has_no_panel():
    frame = table(names=NAMES[:2])
    frame["recall"] = np.nan
    assert "recall" in NAMES and np.array_equal(picture(frame, "s"), picture(table(names=NAMES[:2]), "s"))


def test_gaps_one_seed_and_one_generation_are_drawn():
    frame = table(names=NAMES[:1])
    frame.loc[2, NAMES[0]] = np.nan
    for one in (frame, table(seeds=1, names=NAMES[:1]), table(generations=1, names=NAMES[:1])):
        assert picture(one, "s").std() > 10


def test_values_conditions_and_the_reference_change_the_picture():
    one = table(("replace", "accumulate"), names=["fd"])
    moved = one.copy()
    moved.loc[3, "fd"] += 1.5
    pictures = [
        picture(one, "s"),
        picture(moved, "s"),
        picture(one[one["condition"] == "replace"], "s"),
        picture(one, "s", {"fd": 0.5}),
    ]
    assert np.array_equal(pictures[0], picture(one, "s"))
    for i, a in enumerate(pictures):
        for b in pictures[i + 1 :]:
            assert a.shape != b.shape or (a != b).any()


def test_a_paradigm_looks_the_same_whatever_stands_beside_it():
    alone = figures.looks(["replace"])["replace"]
    for others in (["accumulate"], ["mine", "augment"], ["replace,real_fraction=0.1", "edit"], list(figures.OURS)):
        looks = figures.looks([*others, "replace"])
        assert looks["replace"] == alone and len({(look.style, look.marker) for look in looks.values()}) == len(looks)
    assert figures.looks(["replace,data.n=9"])["replace,data.n=9"] == alone  # a setting that the study shares
    mine = figures.looks(["mine"])["mine"]
    assert figures.looks([*figures.OURS, "mine"])["mine"] == mine and mine.colour >= len(figures.OURS)
    two = figures.looks(["replace", "replace,real_fraction=0.1"])
    assert {look.colour for look in two.values()} == {alone.colour} and len({look.marker for look in two.values()}) == 2
    assert len({figures.drawn(look)["color"] for look in two.values()}) == 2


def legend_and_texts(monkeypatch, frame, reference):
    """The labels of a figure's legend, and the texts inside its panels."""
    figure = []
    monkeypatch.setattr(figures, "finished", lambda f: figure.append(f) or b"")
    CURVES(frame, "s", reference, PANELS)
    inside = [text.get_text() for axis in figure[0].axes for text in axis.texts]
    return figures.handles(figure[0])[1], inside


def test_a_legend_has_short_names_and_the_reference_and_no_text_lies_over_curves(monkeypatch):
    shared = "model.widths=8,8,train.images=64"
    frame = table((f"replace,{shared}", f"replace,real_fraction=0.5,{shared}"), names=["fd"])
    labels, inside = legend_and_texts(monkeypatch, frame, {"fd": 0.5})
    assert labels == ["replace", "replace,real_fraction=0.5", "real against real"] and inside == []
    assert legend_and_texts(monkeypatch, frame, None)[0] == labels[:2]
