"""Sources of real data: shapes and their judge, stacked digits, CIFAR's official files, FFHQ, long tails."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalIterable=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (labels, classes and facts may be None; a test that meets None fails.)

import http.server
import io
import json
import pickle
import struct
import tarfile
import threading
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import thinned
from PIL import Image
from scipy.ndimage import gaussian_filter

import imgloop.data.batches as batches
from imgloop.config.compose import CONF
from imgloop.config.settings import parsed
from imgloop.data import Facts, judge_of
from imgloop.data.cifar import Cifar10, Cifar100
from imgloop.data.classes import chosen, long_tail
from imgloop.data.digits import Digits, scaled
from imgloop.data.ffhq import Ffhq
from imgloop.data.folder import Folder
from imgloop.data.judge import RULES, judge
from imgloop.data.shapes import COLOURS, KINDS, MODES, NUMBERS, Scene, Shapes, coverage, frequencies
from imgloop.data.stacked import StackedDigits
from imgloop.errors import UserError


def rows(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


# Shapes: the distribution

NAMES = list(COLOURS)
PALETTE = np.array(list(COLOURS.values()), float)


def test_shapes_have_equal_rows_for_equal_seeds_at_all_sizes(tmp_path):
    large = Shapes(n=2500, heldout=300, seed=3).load(tmp_path)
    small = Shapes(n=1100, heldout=200, seed=3).load(tmp_path)
    assert large.train.x.shape == (2500, 3, 32, 32) and large.train.x.dtype == np.uint8
    assert (small.train.x == large.train.x[:1100]).all() and (small.train.y == large.train.y[:1100]).all()
    assert (small.heldout.x == large.heldout.x[:200]).all()
    x, y = Shapes(seed=3).rows("train", 1020, 1030)  # across two streams
    assert (x == large.train.x[1020:1030]).all() and (y == large.train.y[1020:1030]).all()
    assert not set(rows(large.train.x)) & set(rows(large.heldout.x)) and len(set(rows(large.train.x))) == 2500
    assert not set(rows(Shapes(seed=4).rows("train", 0, 100)[0])) & set(rows(large.train.x))
    assert isinstance(large.train.x, np.memmap) and large.train.y.dtype == np.int64


def test_rows_do_not_change_within_a_format():
    """Increase the module's FORMAT if this changes: existing caches have the old images."""
    x, y = Shapes(seed=1).rows("train", 0, 64)
    assert y[:8].tolist() == [6, 14, 7, 5, 1, 1, 12, 12]
    assert x.astype(int).sum((0, 2, 3)).tolist() == [4074818, 3815266, 3910688]
    x, y = StackedDigits(seed=1).rows("train", 0, 64)
    assert y[:8].tolist() == [950, 908, 841, 916, 649, 209, 373, 184]
    assert x.astype(int).sum((0, 2, 3)).tolist() == [315888, 320218, 318654]


def test_modes_have_the_frequencies_in_the_facts(tmp_path):
    real = Shapes(size=16, n=20_000, heldout=200, tail=10).load(tmp_path)
    p = np.array(real.facts.mode_frequencies)
    assert p[0] / p[-1] == pytest.approx(10) and p.sum() == pytest.approx(1) and (np.diff(np.log(p)).std() < 1e-9)
    counts = np.bincount(real.train.y, minlength=16)
    assert (np.abs(counts - 20_000 * p) < 4 * np.sqrt(20_000 * p)).all()
    assert counts.tolist() == real.facts.class_counts
    assert frequencies(1).tolist() == [1 / 16] * 16
    assert real.classes == tuple(f"{c} {k}" for c, k in MODES) and real.facts.available is None
    assert Facts.from_dict(json.loads(json.dumps(real.facts.to_dict()))) == real.facts and judge_of(real.facts) is judge
    for i, parts in ((0, COLOURS), (1, KINDS)):  # each colour and each kind occurs in several modes
        assert min(sum(mode[i] == part for mode in MODES) for part in parts) >= 2
    assert len(set(MODES)) == 16 < len(COLOURS) * len(KINDS)


# Shapes: the judge


def scenes(n: int, seed: int = 0) -> Scene:
    return Scene.of(np.random.default_rng(seed).random((n, NUMBERS)), 10)


def noisy(x: np.ndarray, sd: float) -> np.ndarray:
    return np.clip(np.rint(x + np.random.default_rng(1).normal(0, sd, x.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "size, count, shares",  # least valid shares, with the right mode: clean, noise of sd 5, 10, 20, blur of sd 0.8/32
    thinned(
        [
            (16, 1000, (0.997, 0.997, 0.99, 0.96, 0.98)),
            (24, 800, (1, 1, 1, 0.99, 0.99)),
            (32, 800, (1, 1, 1, 0.995, 0.995)),
            (64, 150, (1, 1, 1, 0.99, 0.99)),
        ],
        2,
    ),
)
def test_the_judge_accepts_real_images_and_tolerates_noise_and_blur(size, count, shares):
    scene = scenes(count)
    x = scene.draw(size)
    blurred = gaussian_filter(x.astype(float), (0, 0, size / 40, size / 40)).round().astype(np.uint8)
    for image, share in zip((x, noisy(x, 5), noisy(x, 10), noisy(x, 20), blurred), shares, strict=True):
        result = judge(image)
        assert result.valid.mean() >= share and ((result.mode == scene.mode) | ~result.valid).all()
    assert not judge(noisy(x, 40)).valid.any()


def paint(scene: Scene, *shapes, size: int) -> np.ndarray:
    """Images of the scene's greys with shapes (kind, colour, x, y, s), each (N, ...) or one for all."""
    n, unit = len(scene.grey), size / 32
    out = np.broadcast_to(scene.grey[:, None, None, None], (n, 3, size, size)).astype(float)
    for kind, colour, *place in shapes:
        x, y, s = (np.broadcast_to(np.asarray(v, float), n) * unit for v in place)
        cover = coverage(np.broadcast_to(kind, n), x, y, s, size)[:, None]
        out = out + cover * (np.broadcast_to(colour, (n, 3))[:, :, None, None] - out)
    return np.rint(out).astype(np.uint8)


def broken(size: int, n: int = 250):
    """Kinds of images that break a rule: name, images, and the rules that most must break first (None: any)."""
    rng, a = np.random.default_rng(5), scenes(n)
    x = a.draw(size)
    kind = np.array([KINDS.index(k) for _, k in MODES])[a.mode]
    name = np.array([NAMES.index(c) for c, _ in MODES])[a.mode]
    left, right, y, s, c = 8.0, 24.0, np.where(name < 3, 8.0, 24.0), a.s, a.colour
    other_kind, other_name = (kind + rng.integers(1, 4, n)) % 4, (name + rng.integers(1, 6, n)) % 6
    forbidden = np.array([(c, k) for c in range(6) for k in range(4) if (NAMES[c], KINDS[k]) not in MODES])
    f = forbidden[rng.integers(0, len(forbidden), n)]
    order = rng.permutation(n)
    unlike = a.mode != a.mode[order]
    one = (kind, c, left, y, s)
    yield "blend of two modes", ((x.astype(int) + x[order]) // 2).astype(np.uint8)[unlike], None
    yield "colour half-way", paint(a, (kind, (PALETTE[name] + PALETTE[other_name]) / 2, left, y, s), size=size), None
    for colour in ((230, 130, 40), (230, 230, 230), (0, 0, 0), (120, 80, 40), (240, 150, 170)):
        yield f"colour {colour}", paint(a, (kind, np.array(colour), left, y, s), size=size), ["colour"]
    yield "the colour's other half", paint(a, (kind, c, left, 32 - y, s), size=size), ["half"]
    half = np.where(f[:, 0] < 3, 8.0, 24.0)
    yield "forbidden pair", paint(a, (f[:, 1], PALETTE[f[:, 0]], left, half, s), size=size), ["pair"]
    yield "empty", paint(a, size=size), ["number"]
    yield "two kinds", paint(a, one, (other_kind, c, right, y, s), size=size), ["kind"]
    yield "two colours", paint(a, one, (kind, PALETTE[other_name], right, y, s), size=size), None
    yield "sizes 4 and 6", paint(a, (kind, c, left, y, 4), (kind, c, right, y, 6), size=size), ["size", "kind"]
    yield "three shapes", paint(a, one, (kind, c, right, y, s), (kind, c, left, 32 - y, s), size=size), ["number"]
    yield "middle of the half", paint(a, (kind, c, 16, y, s), size=size), None
    yield "between the halves", paint(a, (kind, c, left, 16, s), size=size), None
    yield "cut by the border", paint(a, (kind, c, 2, y, s), size=size), ["place", "kind"]
    yield "too small", paint(a, (kind, c, left, y, 2.5), size=size), ["size", "kind", "number", "colour"]
    yield "too large", paint(a, (kind, c, left, y, 7.5), size=size), ["size"]
    yield "a hole", paint(a, one, (0, a.grey[:, None], left, y, 0.4 * s), size=size), None
    yield "bright background", paint(replace(a, grey=a.grey + 100), one, size=size), ["background"]
    yield "upside down", np.roll(a.draw(size)[kind == 2][:, :, ::-1], size // 2, 2), None
    yield "noise", rng.integers(0, 256, x.shape, np.uint8), ["background"]
    yield (
        "black and white",
        np.repeat(np.uint8([0, 255]), 20)[:, None, None, None].repeat(3, 1) + x[:40] * np.uint8(0),
        None,
    )
    yield "pixels shuffled", x.reshape(n, 3, -1)[:, :, rng.permutation(size**2)].reshape(x.shape), None


@pytest.mark.parametrize("size", [16, 32])
def test_the_judge_refuses_broken_images_and_names_the_rule(size):
    for name, x, rules in broken(size):
        result = judge(x)
        assert len(x) >= 20 and result.valid.mean() <= 0.01, (name, result.valid.mean())
        assert (result.valid == (result.broken < 0)).all() and (result.mode[result.valid] >= 0).all()
        rule = RULES[np.bincount(result.broken[result.broken >= 0]).argmax()]
        assert rules is None or rule in rules, (name, rule)
    scene = scenes(100)
    wrong_half = paint(scene, (0, PALETTE[0], 8, 24, 5), size=32)  # red disc: a mode, at the wrong position
    assert (judge(wrong_half).mode == 0).all() and not judge(wrong_half).valid.any()


def test_half_way_between_two_kinds_is_neither():
    a = scenes(400)
    kind, y = np.arange(400) % 4, np.where(np.array([NAMES.index(c) for c, _ in MODES])[a.mode] < 3, 8.0, 24.0)
    for k in range(1, 4):
        one, two = (paint(a, (j, a.colour, 8, y, a.s), size=32) for j in (kind, (kind + k) % 4))
        assert judge(((one.astype(int) + two) // 2).astype(np.uint8)).valid.mean() < 0.01


def test_images_are_judged_independently():
    x = np.concatenate([scenes(300).draw(32), *(images[:20] for _, images, _ in broken(32, 60))])
    whole = judge(x)
    for i in (0, 7, 299, 301, 350, 500):
        single = judge(x[i : i + 1])
        assert (single.mode[0], single.valid[0], single.broken[0]) == (whole.mode[i], whole.valid[i], whole.broken[i])
    empty = judge(x[:0])
    assert empty.mode.shape == empty.valid.shape == (0,) and empty.mode.dtype == np.int64
    assert empty.valid.dtype == bool
    for wrong in (x.astype(float), x[:, :1], x[:, :, :16], x[0], x[:, :, :15, :15]):
        with pytest.raises(ValueError, match="images of shapes are uint8"):
            judge(wrong)


def test_judges_are_found_only_by_name():
    assert judge_of(Facts("digits")) is None
    with pytest.raises(UserError, match=r"'os\.system'"):
        judge_of(Facts("images", rules="os.system"))


# Stacked digits


def test_stacked_digits_use_different_digits_for_both_parts(tmp_path):
    real = StackedDigits(n=6000, heldout=3000, seed=1).load(tmp_path)
    x, y = scaled()
    label = {image.tobytes(): int(c) for image, c in zip(x[:, 0], y)}
    used = []
    for pool in (real.train, real.heldout):
        assert pool.x.shape[1:] == (3, 8, 8) and pool.x.dtype == np.uint8 and pool.y.dtype == np.int64
        channels = [[channel.tobytes() for channel in image] for image in pool.x]
        assert [int("".join(str(label[c]) for c in image)) for image in channels] == pool.y.tolist()
        used.append({c for image in channels for c in image})
    assert not used[0] & used[1] and len(used[0]) > 1300 and len(used[1]) > 380
    assert real.classes[7] == "007" and len(real.classes) == 1000
    assert np.abs(np.bincount(real.train.y // 100, minlength=10) - 600).max() < 100
    short = StackedDigits(n=1500, heldout=10, seed=1).load(tmp_path)
    assert (short.train.x == real.train.x[:1500]).all() and (short.heldout.x == real.heldout.x[:10]).all()
    assert (
        real.facts.exact_duplicates is not None
        and Facts.from_dict(json.loads(json.dumps(real.facts.to_dict()))) == real.facts
    )


# Classes and long tails


def test_the_long_tail_has_the_profile_of_cifar10_lt():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    names = tuple("abcdefghij")
    kept = long_tail(labels, names, 100)
    assert np.bincount(labels[kept]).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert (np.diff(kept) > 0).all()
    for c in range(10):  # the first rows of each class
        assert (kept[labels[kept] == c] == np.flatnonzero(labels == c)[: (labels[kept] == c).sum()]).all()
    assert np.bincount(labels[long_tail(labels, names, 1)]).tolist() == [5000] * 10
    few = np.array([0] * 100 + [1] * 30)
    assert np.bincount(few[long_tail(few, names[:2], 2)]).tolist() == [60, 30]  # the smallest class sets the scale
    for labels, ratio, words in (
        (np.zeros(50, np.int64), 2, "class 'b', which has 0; remove it"),
        (np.repeat([0, 1], 50), 51, "class 'b', which has 50; use data.imbalance=50 or less"),
    ):
        with pytest.raises(UserError, match=f"leaves no training image of {words}"):
            long_tail(labels, names[:2], ratio)
    assert np.bincount(np.repeat([0, 1], 50)[long_tail(np.repeat([0, 1], 50), names[:2], 50)]).tolist() == [50, 1]


def test_classes_by_name_or_number_in_the_order_given():
    names = ("ant", "bee", "10", "2")
    assert chosen(names, None) is None and chosen(names, ["bee", 0]) == [1, 0] and chosen(names, [2]) == [3]
    assert chosen(names, ["2", 10]) == [3, 2]  # names take precedence over indices
    for wanted, words in (([4], "4 is none"), (["wasp"], "ant, bee"), ([-1], "-1"), (["ant", 0], "twice")):
        with pytest.raises(UserError, match=words):
            chosen(names, wanted)
    with pytest.raises(UserError, match="have none"):
        chosen(None, ["ant"])


def test_digits_by_class_and_with_a_long_tail(tmp_path):
    whole = Digits(heldout=300).load(tmp_path)
    assert whole.facts.hash_train.startswith("fd4fe0363aedd4d9") and whole.facts.imbalance is None
    part = Digits(heldout=100, classes=[7, "1", 3]).load(tmp_path)
    assert part.classes == ("7", "1", "3") and part.facts.available == len(part.train) + 100
    label = dict(zip(rows(whole.train.x) + rows(whole.heldout.x), [*whole.train.y, *whole.heldout.y]))
    for pool in (part.train, part.heldout):
        assert [part.classes[k] for k in pool.y] == [str(label[x.tobytes()]) for x in pool.x]
    single = Digits(heldout=50, classes=[4]).load(tmp_path)
    assert single.classes is None and single.train.y is None and single.facts.label == "digits 4"
    tail = Digits(heldout=300, imbalance=10).load(tmp_path)
    counts = np.bincount(tail.train.y)
    assert (tail.heldout.x == whole.heldout.x).all() and counts.tolist() == tail.facts.class_counts
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1) and (np.diff(counts) < 0).all()
    assert set(rows(tail.train.x)) <= set(rows(whole.train.x)) and tail.facts.imbalance == 10
    assert (Digits(heldout=300, imbalance=10, n=50).load(tmp_path).train.x == tail.train.x[:50]).all()
    with pytest.raises(UserError, match=r"data.n=1000 is more than the \d+ training images that data.imbalance=10"):
        Digits(imbalance=10, n=1000).load(tmp_path)


def tree(root: Path, names, size=32) -> Path:
    """One different PNG under every name."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)).save(root / name)
    return root


def test_folders_by_class_and_with_a_long_tail(tmp_path):
    parts = [("train", c, 40) for c in "abc"] + [("test", c, 10) for c in "abc"]
    root = tree(tmp_path / "d", [f"{part}/{c}/{i}.png" for part, c, k in parts for i in range(k)], 8)

    def load(**settings):
        return Folder(str(root), size=8, **settings).load(tmp_path / "cache")

    whole, part = load(), load(classes=["c", 0])
    assert part.classes == ("c", "a") and (len(part.train), len(part.heldout)) == (80, 20)
    label = dict(zip(rows(whole.train.x), whole.train.y)) | dict(zip(rows(whole.heldout.x), whole.heldout.y))
    for pool in (part.train, part.heldout):
        assert ["ca"[k] for k in pool.y] == ["abc"[label[x.tobytes()]] for x in pool.x]
    (root / "train/b/broken.png").write_text("not of a chosen class, so not read")
    assert len(load(classes=["c", 0]).train) == 80 and load(classes=["b"], skip_broken=True).train.y is None
    tail = load(imbalance=4, skip_broken=True)
    assert tail.facts.class_counts == [40, 20, 10] and np.bincount(tail.heldout.y).tolist() == [10] * 3
    assert load(imbalance=4, skip_broken=True).facts == tail.facts
    for settings, words in (
        ({"classes": ["d"]}, "a, b, c"),
        ({"labels": False, "classes": ["a"]}, "have none"),
        ({"labels": False, "imbalance": 2, "skip_broken": True}, "needs classes"),
    ):
        with pytest.raises(UserError, match=words):
            load(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"classes": "cat"},
        {"classes": []},
        {"classes": [True]},
        {"classes": [1.5]},
        {"classes": 3},
        {"imbalance": 0.5},
        {"imbalance": True},
        {"imbalance": "10"},
        {"imbalance": float("nan")},
        {"imbalance": float("inf")},
        {"classes": ["a"], "imbalance": 2},
    ],
)
def test_impossible_classes_are_refused_before_reading(settings):
    for make in (Digits, Cifar10, lambda **k: Folder("somewhere", **k)):
        with pytest.raises(UserError) as error:
            make(**settings)
        assert error.value.setting == f"data.{list(settings)[-1]}"


# CIFAR


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 did, with which the official files were made."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)  # pyright: ignore[reportAttributeAccessIssue]
        self.memoize(data)  # pyright: ignore[reportAttributeAccessIssue]

    dispatch[bytes] = save_bytes


def pickled(value, protocol: int) -> bytes:
    if protocol > 2:
        return pickle.dumps(value, protocol)
    out = io.BytesIO()
    Python2(out, 2).dump(value)
    return out.getvalue().replace(b"numpy._core.", b"numpy.core.")


def written(folder: Path, official, monkeypatch, per_batch=20, protocol=2) -> dict[str, np.ndarray]:
    """A small data set in the official format, with its checksums set as the official ones; returns all images."""
    rng, sums, images = np.random.default_rng(0), {}, {}
    folder.mkdir(parents=True)
    for name in (*official.train, *official.test):
        x = rng.integers(0, 256, (per_batch, 3072)).astype(np.uint8)
        labels = [int(k) for k in np.arange(per_batch) % official.classes]
        images[name] = x.reshape(-1, 3, 32, 32)
        content = {"batch_label": name, official.labels: labels, "data": x, "filenames": ["a.png"] * per_batch}
        (folder / name).write_bytes(pickled(content, protocol))
    names = [f"class{k:02}" for k in range(official.classes)]
    (folder / official.meta[0]).write_bytes(pickled({official.names: names, "num_vis": 3072}, protocol))
    for name in official.files:
        sums[name] = batches.hashlib.md5((folder / name).read_bytes()).hexdigest()
    renewed = replace(
        official,
        train={k: sums[k] for k in official.train},
        test={k: sums[k] for k in official.test},
        meta=(official.meta[0], sums[official.meta[0]]),
    )
    monkeypatch.setattr(Cifar10 if official.classes == 10 else Cifar100, "official", renewed)
    return images


def packed(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


def test_checksums_and_addresses_equal_those_of_torchvision():
    from torchvision.datasets import CIFAR10, CIFAR100

    for ours, theirs in ((batches.CIFAR10, CIFAR10), (batches.CIFAR100, CIFAR100)):
        assert ours.train == dict(theirs.train_list) and ours.test == dict(theirs.test_list)
        assert (ours.url, ours.md5, ours.folder) == (theirs.url, theirs.tgz_md5, theirs.base_folder)
        assert ours.archive == theirs.filename and ours.names == theirs.meta["key"]
        assert ours.meta == (theirs.meta["filename"], theirs.meta["md5"])


@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_official_files_are_read_in_every_form_as_in_torchvision(tmp_path, monkeypatch, protocol):
    import torchvision

    folder = tmp_path / "data/cifar-10-batches-py"
    images = written(folder, batches.CIFAR10, monkeypatch, protocol=protocol)
    first = Cifar10(str(folder)).load(tmp_path / "cache", lambda *_: None)
    assert first.train.x.shape == (100, 3, 32, 32) and first.heldout.x.shape == (20, 3, 32, 32)
    assert first.classes[3] == "class03" and first.facts.label == "CIFAR-10" and isinstance(first.train.x, np.memmap)
    assert sorted(rows(first.heldout.x)) == sorted(rows(images["test_batch"]))  # held-out is the official test part
    official = Cifar10.official

    class Reference(torchvision.datasets.CIFAR10):
        train_list, test_list = list(official.train.items()), list(official.test.items())
        meta = dict(zip(("filename", "md5", "key"), (*official.meta, official.names)))  # noqa: RUF012

    reference = Reference(tmp_path / "data")
    theirs = dict(zip(rows(reference.data.transpose(0, 3, 1, 2)), reference.targets))
    assert {x.tobytes(): int(y) for x, y in zip(first.train.x, first.train.y)} == theirs
    packed(folder, tmp_path / "data/cifar-10-python.tar.gz")
    (tmp_path / "archive").mkdir()
    (tmp_path / "data/cifar-10-python.tar.gz").rename(tmp_path / "archive/cifar-10-python.tar.gz")
    for root in (tmp_path / "data", tmp_path / "archive", tmp_path / "archive/cifar-10-python.tar.gz"):
        again = Cifar10(str(root)).load(tmp_path / "cache")
        assert (again.train.x == first.train.x).all() and (again.train.y == first.train.y).all()
        assert again.facts.hash_heldout == first.facts.hash_heldout and again.facts.label == "CIFAR-10"


def test_cifar_by_size_channels_class_and_tail(tmp_path, monkeypatch):
    images = written(tmp_path / "cifar-100-python", batches.CIFAR100, monkeypatch, per_batch=400)

    def load(**settings):
        return Cifar100(str(tmp_path), **settings).load(tmp_path / "cache")

    whole, grey = load(), load(channels=1, size=8)
    assert whole.train.x.shape == (400, 3, 32, 32) and len(whole.classes) == 100
    assert grey.train.x.shape == (400, 1, 8, 8) and (grey.train.y == whole.train.y).all()
    picture = Image.fromarray(whole.train.x[5].transpose(1, 2, 0)).convert("L").resize((8, 8), Image.Resampling.BICUBIC)
    assert (grey.train.x[5, 0] == np.asarray(picture)).all()
    part = load(classes=["class42", 7], n=6, heldout=3)
    assert part.classes == ("class42", "class07") and (len(part.train), len(part.heldout)) == (6, 3)
    where = [rows(images["train"]).index(x.tobytes()) % 100 for x in part.train.x]
    assert where == [[42, 7][k] for k in part.train.y]
    assert load(classes=[3]).train.y is None and load(seed=1).facts.hash_train != whole.facts.hash_train
    assert load(imbalance=4, classes=[0, 1, 2]).facts.class_counts == [4, 2, 1]
    assert rows(load(n=30).train.x) == rows(whole.train.x[:30])


def test_changed_files_give_a_warning_and_another_label(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    written(folder, batches.CIFAR10, monkeypatch)
    content = pickle.loads((folder / "data_batch_3").read_bytes(), encoding="latin1")
    content["data"] ^= 1
    (folder / "data_batch_3").write_bytes(pickle.dumps(content, 2))
    facts = Cifar10(str(tmp_path)).load(tmp_path / "cache").facts
    assert facts.label == "CIFAR-10 (changed files)"
    assert "data_batch_3 in data.root=" in facts.warning and "data_batch_2" not in facts.warning


def test_damaged_missing_and_hostile_files_are_errors(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    written(folder, batches.CIFAR10, monkeypatch)
    good = (folder / "data_batch_2").read_bytes()

    class Command:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    def content(**changes):
        return pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3], **changes}, 2)

    for data, words in (
        (pickle.dumps(Command()), "which is not data"),
        (pickle.dumps({"data": Command()}), "which is not data"),
        (pickle.dumps({"data": np.array([Command()], object)}), "which is not data"),
        (pickle.dumps({"data": np.array([0], object)}), "other numbers than bytes"),
        (good[:-2000], "is not a file of CIFAR-10"),
        (b"", "is not a file of CIFAR-10"),
        (b"<html>", "is not a file of CIFAR-10"),
        (pickle.dumps([1, 2]), "is not a file of CIFAR-10"),
        (content(labels=[0, 1, 2]), "shapes or ranges"),
        (content(labels=[0, 1, 2, 10]), "shapes or ranges"),
        (content(data=np.zeros((4, 3071), np.uint8)), "shapes or ranges"),
        (content(data=np.zeros((4, 3072), np.float32)), "other numbers than bytes"),
        (content(data="text"), "is not a file of CIFAR-10"),
    ):
        (folder / "data_batch_2").write_bytes(data)
        with pytest.raises(UserError, match=words) as e:
            Cifar10(str(tmp_path)).load(tmp_path / "cache")
        assert "data_batch_2" in str(e.value) and batches.CIFAR10.url in str(e.value)
    assert not (tmp_path / "ran").exists()
    (folder / "data_batch_2").unlink()
    with pytest.raises(UserError, match="lacks data_batch_2 of CIFAR-10; get https"):
        Cifar10(str(tmp_path)).load(tmp_path / "cache")
    cut = packed(folder, tmp_path / "cut.tar.gz")
    cut.write_bytes(cut.read_bytes()[:-3000])
    for root, words in (
        (cut, "cannot be read"),
        (tmp_path / "no.tar.gz", "does not exist; give cifar-10-python.tar.gz"),
    ):
        with pytest.raises(UserError, match=words):
            Cifar10(str(root)).load(tmp_path / "cache")
    (tmp_path / "text.tar.gz").write_text("404")
    with pytest.raises(UserError, match="cannot be read"):
        Cifar10(str(tmp_path / "text.tar.gz")).load(tmp_path / "cache")


@pytest.fixture
def server(tmp_path):
    """A web server on this machine for the folder served/."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_archive_is_downloaded_once_and_checked(tmp_path, monkeypatch, server):
    folder = tmp_path / "cifar-10-batches-py"
    written(folder, batches.CIFAR10, monkeypatch)
    archive = packed(folder, tmp_path / "served/cifar-10-python.tar.gz")
    url, md5 = f"{server}/cifar-10-python.tar.gz", batches.hashlib.md5(archive.read_bytes()).hexdigest()
    official = Cifar10.official
    for wrong, words in (
        (replace(official, url=f"{server}/missing-cifar-10-python.tar.gz", md5=md5), "not found"),
        (replace(official, url="http://127.0.0.1:9/cifar-10-python.tar.gz"), "refused"),
        (replace(official, url=url, md5="0" * 32), "corrupted"),
    ):
        monkeypatch.setattr(Cifar10, "official", wrong)
        with pytest.raises(UserError, match=words) as e:
            Cifar10().load(tmp_path / "cache")
        message = str(e.value)
        assert "could not be downloaded" in message and wrong.url in message
        assert "data.root=PATH/" in message and "\n" not in message
        assert not list((tmp_path / "cache").glob("images-*"))
    monkeypatch.setattr(Cifar10, "official", replace(official, url=url, md5=md5))
    real = Cifar10().load(tmp_path / "cache")
    assert len(real.train) == 100 and url in real.facts.source
    archive.unlink()
    assert Cifar10().load(tmp_path / "cache").facts == real.facts


def test_cifar_as_image_files_is_a_copy(tmp_path):
    names = [f"{part}/c{k}/{i}.png" for part in ("train", "test") for k in range(10) for i in range(2)]
    root = tree(tmp_path / "d", names)
    real = Cifar10(str(root)).load(tmp_path / "cache")
    assert real.facts.label == "CIFAR-10 (image files)" and (len(real.train), len(real.heldout)) == (20, 20)
    assert Cifar10(str(root), classes=["c2", "c1"]).load(tmp_path / "cache").classes == ("c2", "c1")
    with zipfile.ZipFile(tmp_path / "jpeg.zip", "w") as archive:
        for name in names:
            data = io.BytesIO()
            Image.open(root / name).save(data, "JPEG")
            archive.writestr(name.replace(".png", ".jpg"), data.getvalue())
    assert Cifar10(str(tmp_path / "jpeg.zip")).load(tmp_path / "cache").facts.label == "CIFAR-10 (JPEG copy)"
    with pytest.raises(UserError, match="is not CIFAR-100"):
        Cifar100(str(root)).load(tmp_path / "cache")
    (root / "train/c3/1.png").write_text("x")
    with pytest.raises(UserError, match=r"train/c3/1\.png .*replace it\.$"):
        Cifar10(str(root)).load(tmp_path / "cache")


@pytest.mark.parametrize(
    "settings", [{"size": 33}, {"size": 3}, {"channels": 2}, {"root": ""}, {"heldout": 0}, {"n": 0}]
)
def test_cifar_refuses_impossible_settings(settings):
    with pytest.raises(UserError) as error:
        Cifar10(**settings)
    assert error.value.setting == f"data.{next(iter(settings))}"


# FFHQ


@pytest.mark.parametrize("wrapper", ["", "thumbnails128x128/"])
def test_ffhq_thumbnails(tmp_path, wrapper):
    names = [f"{wrapper}{k // 1000 * 1000:05}/{k:05}.png" for k in (0, 1, 2, 999, 1000, 1001, 69_999)]
    root = tree(tmp_path / "d", names, 128)
    (root / "LICENSE.txt").write_text("x")
    real = Ffhq(str(root), size=64, heldout=2).load(tmp_path / "cache")
    assert real.train.x.shape == (5, 3, 64, 64) and real.heldout.y is None and real.classes is None
    assert real.facts.label == "FFHQ (7 of 70,000)"
    assert Ffhq(str(root), size=8, channels=1, heldout=2).load(tmp_path / "cache").train.x.shape == (5, 1, 8, 8)
    tree(root, [f"{wrapper}00000/cat.png"], 128)
    with pytest.raises(UserError, match=r"00000/cat\.png .*is not a thumbnail of FFHQ.*github\.com/NVlabs"):
        Ffhq(str(root)).load(tmp_path / "cache")
    large = tree(tmp_path / "large", ["00000/00000.png", "00000/00001.png"], 256)
    with pytest.raises(UserError, match="256 pixels wide, and FFHQ's thumbnails are 128"):
        Ffhq(str(large)).load(tmp_path / "cache")
    for settings in ({"size": 129}, {"size": 7}, {"channels": 2}, {"n": 0}, {"skip_broken": 1}, {"root": ""}):
        with pytest.raises(UserError) as error:
            Ffhq(**{"root": "somewhere", **settings})
        assert error.value.setting == f"data.{next(iter(settings))}"


# Settings


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "data").glob("*.yaml") if p.stem != "law"))
def test_every_source_has_the_settings_and_defaults_of_its_file(name):
    needed = ["data.root=somewhere"] if "???" in (CONF / "data" / f"{name}.yaml").read_text() else []
    chosen = parsed([f"data={name}", *needed])
    node, source = chosen.config["data"], chosen.build("data")
    assert {k: v for k, v in node.items() if k != "_target_"} == vars(source)
    written = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    assert {f.name: f.default for f in fields(source) if f.name != "root"} == {
        k: v for k, v in written.items() if k not in ("_target_", "root")
    }


@pytest.mark.parametrize(
    "make, settings",
    [
        (make, settings)
        for make, more in (
            (Shapes, [{"size": 17}, {"size": 15}, {"size": 66}, {"tail": 0.5}, {"tail": "a"}]),
            (StackedDigits, [{"size": 16}]),
        )
        for settings in [*more, {"n": None}, {"n": 0}, {"heldout": 0}, {"seed": -1}, {"n": True}]
    ],
)
def test_generated_sources_refuse_impossible_settings(make, settings):
    with pytest.raises(UserError, match="give") as error:
        make(**settings)
    assert error.value.setting == f"data.{next(iter(settings))}"


@pytest.mark.parametrize("make", [Shapes, StackedDigits])
def test_images_that_exceed_the_disk_are_refused_before_they_are_made(tmp_path, make):
    with pytest.raises(UserError, match=r"data\.n=1000000000000 needs .* MiB .*lower data\.n, or set IMGLOOP_CACHE"):
        make(n=10**12).load(tmp_path)


def test_progress_counts_all_images(tmp_path):
    calls = []
    Shapes(size=16, n=5000, heldout=100).load(tmp_path, lambda *call: calls.append(call))
    assert calls == [(4096, 5100), (5000, 5100), (5100, 5100)]
