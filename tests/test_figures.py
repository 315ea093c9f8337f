"""Curves: one panel for every measure with values. Sheets of samples: whole pixels, class names, and in motion."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from imgloop import figures
from imgloop.measures import MEASURES
from imgloop.pool import Pool
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


# -- Sheets of samples ------------------------------------------------------------------------------------------------


def noise(n, size=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), np.uint8)


def opened(data):
    return Image.open(io.BytesIO(data))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(4, 80), channels=st.sampled_from([1, 3]), labelled=st.booleans())
def test_every_sample_is_enlarged_by_a_whole_factor_to_32_pixels_or_more(size, channels, labelled):
    x, y = noise(3, size, channels), np.arange(3)
    scale = max(1, round(48 / size))
    assert size * scale >= 32
    sheet = np.asarray(figures.tile(x, 2, y=y if labelled else None))
    pitch = size * scale + 2 + figures.STRIP * labelled
    for i in range(3):
        top, left = 2 + i // 2 * pitch, 2 + i % 2 * (size * scale + 2)
        shown = sheet[top : top + size * scale, left : left + size * scale]
        image = np.broadcast_to(np.moveaxis(x[i], 0, -1), (size, size, 3))
        assert np.array_equal(shown, np.kron(image, np.ones((scale, scale, 1), np.uint8)))


def test_class_names_are_cut_to_the_width_of_a_sample_or_become_numbers():
    y = np.array([1, 0, 1])
    assert figures.class_labels(None, ("a", "b"), 48) is None
    assert figures.class_labels(y, ("cat", "dog"), 48) == ["dog", "cat", "dog"]
    cut = figures.class_labels(y, ("automobile", "dog"), 48)
    assert cut is not None and cut[1].endswith("..") and "automobile".startswith(cut[1][:-2]) and len(cut[1]) > 5
    assert figures.class_labels(y, ("automobile", "automobiles"), 48) == ["1", "0", "1"]  # alike once they are cut
    assert figures.class_labels(y, None, 48) == figures.class_labels(y, ("猫", "犬"), 48) == ["1", "0", "1"]
    assert figures.class_labels(np.array([2]), ("cat", "dog"), 48) == ["2"]


def test_a_grid_names_the_classes_of_the_pools_that_have_labels():
    x, classes = noise(64), [f"c{i}" for i in range(10)]
    pools = [Pool(x), Pool(x, np.arange(64) % 10), Pool(x, (np.arange(64) + 1) % 10)]
    plain, labelled, other, both = (
        opened(figures.grid(pools[a], pools[b], "generation 1", classes)) for a, b in ((0, 0), (0, 1), (0, 2), (1, 1))
    )
    assert labelled.height == both.height == plain.height + 8 * figures.STRIP and both.width == plain.width
    half = plain.width // 2
    left, right = (0, 0, half, plain.height - 30), (half, 0, plain.width, plain.height)
    assert plain.crop(left).tobytes() == labelled.crop(left).tobytes() != both.crop(left).tobytes()
    assert labelled.crop(right).tobytes() != other.crop(right).tobytes()


def test_an_evolution_sheet_names_the_class_of_each_sample_in_each_generation():
    x = noise(4)
    sheets = [[(0, Pool(x, y)), (1, Pool(x, z))] for y, z in (([0, 1, 2, 0],) * 2, ([0, 1, 2, 0], [0, 2, 2, 0]))]
    sheets = [[(t, Pool(p.x, np.array(p.y))) for t, p in generations] for generations in sheets]
    same, changed = (np.asarray(opened(figures.evolution(g, "s", ("x", "y", "z")))) for g in sheets)
    rows, columns = np.nonzero((same != changed).any(-1))
    assert rows.min() > 30 + 50 + figures.STRIP and 64 + 50 <= columns.min() <= columns.max() <= 64 + 100


@pytest.mark.parametrize("labelled", [False, True])
def test_an_animation_has_a_frame_per_generation_with_its_number_and_every_pixel(labelled):
    y = np.arange(16) % 10 if labelled else None
    pools = [(t, Pool(noise(16, seed=t), y)) for t in range(5)]
    data = figures.animation(pools)
    found = opened(data)
    assert found.format == "WEBP" and found.n_frames == 5 and found.info["loop"] == 0 and len(data) < 20_000
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(found)]
    for (_, pool), frame in zip(pools, frames):
        samples = figures.tile(pool.x, 4, y=y)
        assert frame.crop((0, 24, samples.width, frame.height)).tobytes() == samples.tobytes()
    heads = [frame.crop((0, 0, frame.width, 24)).tobytes() for frame in frames]
    assert len(set(heads)) == 5 and (np.frombuffer(heads[0], np.uint8) < 128).any()


def test_an_animation_of_equal_long_single_and_mixed_generations():
    same = Pool(noise(16))
    assert opened(figures.animation([(0, same), (1, same)])).n_frames == 2
    assert opened(figures.animation([(0, same)])).n_frames == 1
    assert opened(figures.animation([(t, same) for t in range(200)])).n_frames == figures.FRAMES
    mixed = [(0, same), (1, Pool(same.x, np.zeros(16, np.int64)))]  # the first drawn by an earlier version
    assert opened(figures.animation(mixed)).n_frames == 2
    photographs = [(t, Pool(noise(16, 32, 3, seed=t))) for t in range(4)]
    assert len(figures.animation(photographs)) < 4 * 16 * 32 * 32 * 3
