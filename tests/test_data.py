"""Real data: splits, facts, near duplicates, and all kinds of files and folders that a user may have."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalIterable=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (labels, classes and facts may be None; a test that meets None fails.)

import io
import json
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import imgloop.data.folder as folder_module
from imgloop.data import Facts, RealData
from imgloop.data.decode import Broken, TooSmall, decode, examined
from imgloop.data.digits import Digits
from imgloop.data.duplicates import NEAR, duplicates
from imgloop.data.folder import Folder
from imgloop.data.real import order, sizes
from imgloop.errors import UserError
from imgloop.store import seed_of


def noise(seed: int, size=(8, 8), mode="RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def put(root: Path, *names: str, size=(8, 8)) -> Path:
    """A different PNG for every name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(noise(seed_of(name), size)))
    return root


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def names(count: int, *folders: str) -> list[str]:
    return [f"{folder}/{i:03}.png" for folder in folders for i in range(count)]


def load(root: Path, **settings) -> RealData:
    return Folder(str(root), **{"size": 8, **settings}).load(root.parent / "cache")


def rows(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


# Splits


@pytest.mark.parametrize("source", ["digits", "folder", "parts"])
def test_splits_are_disjoint_prefixes_and_keyed_by_the_data_seed_alone(tmp_path, source):
    put(tmp_path / "folder", *names(30, "a", "b"))
    put(tmp_path / "parts", *names(20, "train/a", "train/b"), *names(20, "test/a", "test/b"))

    def load(**settings):
        make = Digits if source == "digits" else lambda **k: Folder(str(tmp_path / source), size=8, **k)
        return make(**settings).load(tmp_path / "cache")

    whole, small = load(heldout=20), load(heldout=20, n=25)
    assert len(small.train) == 25 and len(small.heldout) == 20
    assert rows(small.train.x) == rows(whole.train.x[:25]) and small.train.y.tolist() == whole.train.y[:25].tolist()
    assert rows(small.heldout.x) == rows(whole.heldout.x)  # held-out does not depend on n
    assert not set(rows(whole.train.x)) & set(rows(whole.heldout.x))
    assert len(whole.train) == {"digits": 1777, "folder": 40, "parts": 40}[source]
    assert rows(load(heldout=20).train.x) == rows(whole.train.x)
    other = load(heldout=20, seed=1)
    assert rows(other.train.x) != rows(whole.train.x) and set(rows(other.heldout.x)) != set(rows(whole.heldout.x))
    assert (
        sorted(rows(other.train.x) + rows(other.heldout.x)) == sorted(rows(whole.train.x) + rows(whole.heldout.x))
        or source == "parts"
    )
    assert np.bincount(whole.train.y[:25]).min() > 0  # shuffled


def test_order_is_a_permutation_that_depends_on_the_seed():
    assert sorted(order(1000, 3)) == list(range(1000))
    assert order(10, 0).tolist() == [9, 4, 7, 6, 2, 8, 1, 5, 3, 0] and order(10, 1).tolist() != order(10, 0).tolist()


def test_default_sizes():
    assert sizes(1000, None, None, None) == (800, 200)
    assert sizes(70_000, None, None, None) == (68_000, 2000)
    assert sizes(50_000, 10_000, None, None) == (50_000, 2000)
    assert sizes(500, 30, 100, None) == (100, 30)
    assert sizes(3, None, None, None) == (2, 1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((100, None, 81, None), ["data.n=81", "80"]),
        ((100, 50, 101, None), ["data.n=101", "100"]),
        ((100, None, None, 100), ["data.heldout=100", "100 images"]),
        ((100, 50, None, 51), ["data.heldout=51", "50"]),
        ((1, None, None, None), ["1 images"]),
    ],
)
def test_too_few_images_for_the_sizes_asked_for(arguments, words):
    with pytest.raises(UserError) as e:
        sizes(*arguments)
    assert all(word in str(e.value) for word in words)


# Digits


def test_digits_are_those_of_scikit_learn_scaled_to_bytes(tmp_path):
    from sklearn.datasets import load_digits

    real, digits = Digits().load(tmp_path), cast(Any, load_digits())
    x, y = np.concatenate([real.heldout.x, real.train.x]), np.concatenate([real.heldout.y, real.train.y])
    assert x.dtype == np.uint8 and x.shape == (1797, 1, 8, 8) and y.dtype == np.int64 and len(real.heldout) == 400
    assert sorted(zip(rows(np.rint(x / 255 * 16).astype(np.uint8)), y.tolist())) == sorted(
        zip(rows(digits.images.astype(np.uint8)), digits.target.tolist())
    )
    assert set(np.unique(x)) == {round(v * 255 / 16) for v in range(17)}
    assert real.classes == tuple("0123456789") and real.facts.warning is None
    assert Facts.from_dict(json.loads(json.dumps(real.facts.to_dict()))) == real.facts and not list(tmp_path.iterdir())
    assert "250" in str(Digits(heldout=249).load(tmp_path).facts.warning)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 16},
        {"size": True},
        {"n": 0},
        {"n": -3},
        {"n": True},
        {"n": "100"},
        {"n": 10.0},
        {"n": 1398},
        {"heldout": 0},
        {"heldout": 1797},
        {"heldout": None},
        {"seed": -1},
        {"seed": "a"},
    ],
)
def test_digits_refuse_impossible_settings_before_loading(settings):
    with pytest.raises(UserError) as error:
        Digits(**settings)
    assert error.value.setting == f"data.{next(iter(settings))}"


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 3},
        {"size": 1025},
        {"size": "32"},
        {"size": True},
        {"channels": 4},
        {"channels": True},
        {"channels": 3.0},
        {"n": 0},
        {"n": True},
        {"heldout": 0},
        {"heldout": 0.2},
        {"seed": None},
        {"skip_broken": "yes"},
        {"labels": 1},
        {"root": ""},
        {"root": None},
    ],
)
def test_folder_refuses_impossible_settings_before_reading(settings):
    with pytest.raises(UserError, match="give") as error:
        Folder(**{"root": "somewhere", **settings})
    assert error.value.setting == f"data.{next(iter(settings))}"


# Facts


def test_facts_of_a_user_s_own_source_need_only_a_label():
    assert Facts("my images").to_dict() == {"label": "my images"}
    facts = Facts("mine", n_train=3, n_heldout=2, extra={"camera": "x"}).warned("few").warned("blurred")
    written = facts.to_dict()
    assert list(written) == ["label", "available", "n_train", "n_heldout", "classes", "warning", "camera"]
    assert written["warning"] == "few blurred" and written["available"] is written["classes"] is None
    assert Facts.from_dict(written) == facts
    with pytest.raises(UserError, match="label"):
        Facts.from_dict({"n_train": 3})


def test_facts_keep_the_keys_and_order_of_earlier_files(tmp_path):
    root = put(tmp_path / "d", *names(300, "a", "b"))
    (root / "a/x.heic").write_bytes(b"x")
    sizes_of = ["n_train", "n_heldout", "shape", "classes", "class_counts"]
    pair = ["hash_train", "hash_heldout", "near_duplicates", "exact_duplicates", "near_duplicate_rms"]
    files = ["ignored", "unused", "skipped", "skipped_first", "read", "converted", "cropped"]
    start = ["label", "source", "available", "seed"]
    assert list(load(root, heldout=20).facts.to_dict()) == [*start, *sizes_of, "warning", *pair, *files]
    tail = load(root, heldout=250, imbalance=2).facts.to_dict()
    assert list(tail) == [*start, "imbalance", *sizes_of, *pair, *files, "warning"]
    digits = Digits().load(tmp_path).facts.to_dict()
    assert list(digits) == ["label", "set", *start[1:], *sizes_of, *pair, "ignored", "skipped"]


# Near duplicates


def brute_force(train: np.ndarray, heldout: np.ndarray) -> tuple[int, int]:
    near = exact = 0
    for image in heldout.astype(float):
        rms = np.sqrt(((train - image) ** 2).mean((1, 2, 3)))
        near, exact = near + (rms.min() <= NEAR), exact + (rms.min() == 0)
    return int(near), int(exact)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 13, 9), (1, 5, 5)])
@pytest.mark.parametrize("contrast", [3, 12, 14, 255])  # all near; at the limit; only the added ones
def test_near_duplicates_equal_a_loop_over_all_pairs(shape, contrast, monkeypatch):
    monkeypatch.setattr("imgloop.data.duplicates.COLUMNS", 37)
    monkeypatch.setattr("imgloop.data.duplicates.ROWS", 11)
    monkeypatch.setattr("imgloop.data.duplicates.CHUNK", 3 * int(np.prod(shape)))
    rng = np.random.default_rng(0)
    train = rng.integers(0, contrast + 1, (120, *shape)).astype(np.uint8)
    heldout = rng.integers(0, contrast + 1, (40, *shape)).astype(np.uint8)
    heldout[3], heldout[39] = train[119], train[0]
    if contrast == 255:  # a distance of NEAR in every pixel is near; one level more in one pixel is not
        away = np.where(train[40] < 128, NEAR, -NEAR)
        heldout[17] = train[40] + away
        away.flat[0] += np.sign(away.flat[0])
        heldout[18] = train[40] + away
    counts = duplicates(train, heldout)
    assert counts == brute_force(train, heldout)
    assert {3: counts == (40, 2), 255: counts == (3, 2)}.get(contrast, True)


def test_near_duplicates_survive_rounding_of_bright_flat_images():
    """Pooled distances have fp32 precision; pairs exactly at the limit, far from the mean, must still be found."""
    rng = np.random.default_rng(1)
    base = rng.choice(np.array([0, 250], np.uint8), (64, 1, 8, 8))
    train = np.concatenate([np.full((2000, 1, 8, 8), 128, np.uint8), base])
    heldout = np.where(base == 0, NEAR, 250 - NEAR).astype(np.uint8)
    assert duplicates(train, heldout) == (64, 0)
    assert duplicates(train, np.where(base == 0, NEAR + 1, 250 - NEAR).astype(np.uint8))[0] == 0


@pytest.mark.parametrize("step", [6, 16])  # 16 squared is 0 in bytes
def test_texture_that_pooling_removes_is_compared_at_full_size(step):
    flat = np.full((1, 3, 16, 16), 100, np.uint8)
    textured = flat + (np.indices((16, 16)).sum(0) % 2 * 2 * step).astype(np.uint8) - step
    assert duplicates(flat, textured.astype(np.uint8)) == (0, 0)
    assert duplicates(flat, flat) == (1, 1)


def test_duplicates_are_counted_in_the_facts(tmp_path):
    put(tmp_path / "d", *names(12, "a", "b"))
    copy = (tmp_path / "d/a/003.png").read_bytes()
    for i in range(12):
        (tmp_path / f"d/b/copy{i}.png").write_bytes(copy)  # 13 equal images of 36
    facts = load(tmp_path / "d", heldout=12).facts
    assert facts.near_duplicates == facts.exact_duplicates > 0 and facts.near_duplicate_rms == NEAR


# Decoding


def pixel(image: np.ndarray) -> list[int]:
    return image[:, 4, 4].tolist()


def test_transparency_is_composited_on_white():
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert pixel(decode(encoded(half), "x", 8, 3)) == [255, 127, 127]
    assert pixel(decode(encoded(Image.new("LA", (8, 8), (0, 0))), "x", 8, 1)) == [255]
    assert pixel(decode(encoded(Image.new("LA", (8, 8), (40, 255))), "x", 8, 3)) == [40, 40, 40]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pixel(decode(encoded(palette), "x", 8, 3)) == [10, 200, 30]
    assert pixel(decode(encoded(palette, transparency=1), "x", 8, 3)) == [255, 255, 255]
    keyed = encoded(Image.new("RGB", (8, 8), (9, 9, 9)), transparency=(9, 9, 9))
    assert pixel(decode(keyed, "x", 8, 3)) == [255, 255, 255]


def test_colour_spaces():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = pixel(decode(encoded(cyan, "JPEG", quality=100), "x", 8, 3))
    assert red < 5 and green > 250 and blue > 250
    assert pixel(decode(encoded(cyan, "TIFF"), "x", 8, 3)) == [0, 255, 255]
    assert pixel(decode(encoded(Image.new("RGB", (8, 8), (0, 255, 0))), "x", 8, 1)) == [150]  # 0.587 * 255
    assert pixel(decode(encoded(Image.new("1", (8, 8), 1)), "x", 8, 3)) == [255, 255, 255]
    grey = noise(0, mode="L")
    assert (decode(encoded(grey), "x", 8, 3) == np.asarray(grey)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([0, 257, 1000, 30000, 65535], np.uint16).repeat(5).reshape(5, 5)
    image = decode(encoded(Image.fromarray(values), kind), "x", 5, 1)
    assert image[0, :, 0].tolist() == [0, 1, 4, 117, 255]


def png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG file of packed rows, deflated; `depth` bits a sample, `colour` 0 grey, 2 RGB, 4 grey+alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    middle = (chunk(b"tRNS", transparent) if transparent else b"") + chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + head + middle + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "colour, sample, transparent, expected",
    [
        (0, [32768], [], [128, 128, 128]),
        (2, [65535, 32768, 257], [], [255, 128, 1]),
        (4, [32768, 65535], [], [128, 128, 128]),
        (4, [0, 0], [], [255, 255, 255]),
        (6, [65535, 32768, 257, 65535], [], [255, 128, 1]),
        (6, [65535, 0, 0, 32768], [], [255, 127, 127]),
        (0, [32768], [32768], [255, 255, 255]),  # the level or colour that means transparent
        (0, [32768], [32767], [128, 128, 128]),
        (2, [65535, 32768, 257], [65535, 32768, 257], [255, 255, 255]),
        (2, [65535, 32768, 257], [65535, 32768, 65535], [255, 128, 1]),
    ],
)
def test_sixteen_bit_png_of_every_colour_type(colour, sample, transparent, expected):
    row = b"\0" + struct.pack(f">{len(sample)}H", *sample) * 8
    data = png(8, 8, 16, colour, zlib.compress(row * 8), struct.pack(f">{len(transparent)}H", *transparent))
    assert pixel(decode(data, "x", 8, 3)) == expected


def test_pixels_of_unknown_range_are_refused():
    with pytest.raises(Broken, match="range"):
        decode(encoded(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "x", 8, 1)
    with pytest.raises(Broken, match="range"):
        decode(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "x", 8, 1)


def test_exif_orientation_turns_the_image_upright():
    image = noise(1, (8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = decode(encoded(image, exif=exif), "x", 8, 3)
    assert (turned == np.rot90(np.asarray(image), -1).transpose(2, 0, 1)).all()
    sides = Image.fromarray(np.repeat(np.array([[255] * 8 + [0] * 8], np.uint8), 8, 0))  # white left, black right
    photo = decode(encoded(sides, "JPEG", exif=exif, quality=95), "x", 8, 1)[0]
    assert photo[:3].min() > 250 and photo[-3:].max() < 5  # white above, black below


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    for kind, options in {"GIF": {}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "MPO": {"quality": 95}}.items():
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)  # MPO: phones' JPEG
        assert np.abs(np.subtract(pixel(decode(data, "x", 8, 3)), [255, 0, 0])).max() <= 1, kind
    clear = Image.new("P", (8, 8), 1)
    assert pixel(decode(encoded(clear, "GIF", transparency=1), "x", 8, 3)) == [255, 255, 255]
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pixel(decode(encoded(clear, "WEBP", lossless=True, exact=True), "x", 8, 3)) == [255, 255, 255]


def test_centre_square_untouched_at_size_and_antialiased_below():
    image = noise(2, (13, 8))
    assert (decode(encoded(image), "x", 8, 3) == np.asarray(image)[:, 2:10].transpose(2, 0, 1)).all()
    tall = noise(2, (8, 13))
    assert (decode(encoded(tall), "x", 8, 3) == np.asarray(tall)[2:10].transpose(2, 0, 1)).all()
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    assert np.abs(decode(encoded(board), "x", 8, 1).astype(int)[0, 1:-1, 1:-1] - 127.5).max() < 8  # aliasing: 0 or 255


def test_decode_refuses_small_and_broken_images_and_bombs(monkeypatch):
    with pytest.raises(TooSmall, match="20x7"):
        decode(encoded(noise(0, (20, 7))), "x", 8, 3)
    whole = encoded(noise(0, (64, 64)), "JPEG")
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:30], encoded(noise(0, (64, 64)))[:200]):
        with pytest.raises(Broken):
            decode(data, "x", 8, 3)
    for kind in ("GIF", "BMP", "TIFF", "WEBP", "PPM"):
        with pytest.raises(Broken):
            decode(encoded(noise(0, (64, 64)), kind)[:-100], "x", 8, 3)
    for kind in ("EPS", "SGI"):  # Pillow would start Ghostscript for EPS, and read SGI
        with pytest.raises(Broken, match="known format"):
            decode(encoded(noise(0), kind), "x.png", 8, 3)
    monkeypatch.setattr("imgloop.data.decode.MOST_PIXELS", 63)
    with pytest.raises(UserError, match=r"x\.png.*bomb"):
        decode(encoded(noise(0)), "x.png", 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"x\.png.*bomb"):
        decode(encoded(noise(0)), "x.png", 8, 3)


def test_a_bomb_of_30000_by_30000_pixels_is_refused_by_name_before_it_is_unpacked(tmp_path):
    row = b"\0" + bytes(30_000 // 8)
    deflate = zlib.compressobj(9)
    rows = b"".join([deflate.compress(row * 3000) for _ in range(10)] + [deflate.flush()])
    root = put(tmp_path / "d", *names(3, "a", "b"))
    (root / "b/bomb.png").write_bytes(png(30_000, 30_000, 1, 0, rows))
    assert (root / "b/bomb.png").stat().st_size < 200_000
    for settings in ({}, {"skip_broken": True}):
        with pytest.raises(UserError, match=r"b/bomb\.png is larger .*bomb"):
            load(root, **settings)


def test_the_content_decides_the_format_and_other_files_are_named(tmp_path):
    root = put(tmp_path / "d", *names(6, "a", "b"))
    png_bytes = (root / "a/001.png").read_bytes()
    (root / "a/001.png").rename(root / "a/001.jpg")
    (root / "b/photo.GIF").write_bytes(encoded(noise(5), "BMP"))
    seen = {x.tobytes() for pool in (load(root).train, load(root).heldout) for x in pool.x}
    assert len(seen) == 13 and np.asarray(Image.open(io.BytesIO(png_bytes))).transpose(2, 0, 1).tobytes() in seen
    for name, data in {"empty.png": b"", "page.jpg": b"<html>404</html>", "vector.png": b"<svg/>"}.items():
        (root / "a" / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"a/{name} .*cannot be decoded \(no image of a known format\)"):
            load(root)
        (root / "a" / name).unlink()


def test_image_kinds_that_are_not_read_give_a_warning(tmp_path):
    root = put(tmp_path / "d", *names(300, "a"), *names(300, "b"))
    for name in ("a/1.heic", "a/2.HEIC", "b/1.avif", "b/notes.txt"):
        (root / name).write_bytes(b"x")
    facts = load(root, heldout=250).facts
    assert facts.warning.startswith("1 .avif, 2 .heic in data.root=") and "left out" in facts.warning
    assert facts.ignored == {".avif": 1, ".heic": 2, ".txt": 1}


# Layouts


def test_class_folders_sorted_with_deeper_folders_and_other_files(tmp_path):
    root = put(tmp_path / "d", *names(4, "zebra", "ant"), *names(2, "ant/deep/er", ".hidden", "__MACOSX/ant"))
    for name in ("readme.txt", "ant/Thumbs.db", "ant/.DS_Store", "ant/noextension", "ant/notes.txt"):
        (root / name).write_text("no image")
    real = load(root)
    assert real.classes == ("ant", "zebra") and real.facts.ignored == {
        ".db": 1,
        ".txt": 2,
        "hidden": 5,
        "without extension": 1,
    }
    labels = dict(zip(rows(real.train.x) + rows(real.heldout.x), [*real.train.y, *real.heldout.y]))
    assert len(labels) == 10
    for name in [*names(4, "zebra", "ant"), *names(2, "ant/deep/er")]:
        image = np.asarray(Image.open(root / name)).transpose(2, 0, 1)
        assert labels[image.tobytes()] == (name[0] == "z"), name
    assert real.train.y.dtype == np.int64 and real.train.x.dtype == np.uint8 and real.facts.label == "folder d"
    assert real.facts.warning and Facts.from_dict(json.loads(json.dumps(real.facts.to_dict()))) == real.facts


@pytest.mark.parametrize("wrapper", ["", "wrap/", "outer/inner/"])
@pytest.mark.parametrize("heldout", ["test", "val", "valid", "validation", "Test"])
def test_parts_give_the_heldout_images(tmp_path, wrapper, heldout):
    root = put(tmp_path / "d", *(wrapper + n for n in [*names(6, "train/a", "train/b"), *names(3, f"{heldout}/a")]))
    real = load(root)
    assert real.classes == ("a", "b") and set(real.heldout.y) == {0}
    assert (len(real.train), len(real.heldout)) == (12, 3)
    test = {np.asarray(Image.open(p)).transpose(2, 0, 1).tobytes() for p in root.rglob(f"{heldout}/a/*.png")}
    assert set(rows(real.heldout.x)) == test


def test_further_parts_are_counted_and_the_test_part_comes_first(tmp_path):
    real = load(put(tmp_path / "d", *names(4, "train"), *names(3, "val"), *names(2, "test")))
    assert (len(real.train), len(real.heldout), real.classes, real.train.y) == (4, 2, None, None)
    assert real.facts.unused == {"val": 3} and "held-out from test/" in real.facts.source


def test_images_without_labels(tmp_path):
    for root in (
        put(tmp_path / "flat", *names(6, ".")),
        put(tmp_path / "single", *names(6, "images")),
        put(tmp_path / "parts", *names(6, "train/images"), *names(2, "test/images")),
    ):
        real = load(root)
        assert real.classes is None and real.train.y is None and real.heldout.y is None, root
    buckets = put(tmp_path / "buckets", *names(3, "00000", "01000", "train", "test"), "loose.png")
    assert load(put(tmp_path / "two", *names(3, "00000", "01000"))).classes == ("00000", "01000")
    real = load(put(tmp_path / "two", "loose.png"), labels=False)
    assert real.classes is None and len(real.train) + len(real.heldout) == 7
    with pytest.raises(UserError, match="beside train/ and test/"):
        load(buckets, labels=False)


@pytest.mark.parametrize(
    "files, words",
    [
        ([*names(3, "a", "b"), "loose.png"], ["directly", "loose.png", "a/"]),
        ([*names(3, "train/a", "train/b", "test/a"), "train/loose.png"], ["directly in train/", "loose.png"]),
        ([*names(3, "train/a", "train/b", "test/a", "extra/a")], ["extra/", "train/ and test/"]),
        ([*names(3, "train/a", "train/b", "test/a"), "loose.png"], ["images beside train/"]),
        ([*names(3, "train/a", "train/b", "test/c")], ["test/", "not classes"]),
        ([*names(3, "train/a", "train/b", "test")], ["test/", "not classes"]),
        ([*names(3, "train", "test/a", "test/b")], ["test/", "not classes"]),
    ],
)
def test_ambiguous_layouts_are_refused(tmp_path, files, words):
    with pytest.raises(UserError) as e:
        load(put(tmp_path / "d", *files))
    assert all(word in str(e.value) for word in words), e.value


def test_roots_without_images(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no images;"):
        load(tmp_path / "empty")
    (tmp_path / "empty/notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"contains no images \(only 1 \.txt\)"):
        load(tmp_path / "empty")
    (tmp_path / "file.png").write_bytes(encoded(noise(0)))
    with pytest.raises(UserError, match=r"is a file but no \.zip"):
        load(tmp_path / "file.png")
    assert not (tmp_path / "cache").exists()


def test_links_are_followed_but_not_in_cycles(tmp_path):
    put(tmp_path / "d", *names(3, "a"))
    put(tmp_path / "else", *names(3, "b"))
    (tmp_path / "d/b").symlink_to(tmp_path / "else/b")
    assert load(tmp_path / "d").classes == ("a", "b")
    (tmp_path / "d/b2").symlink_to(tmp_path / "d")
    with pytest.raises(UserError, match="link"):
        load(tmp_path / "d")


# Wrong files


def test_broken_files_stop_or_are_counted(tmp_path):
    root = put(tmp_path / "d", *names(10, "a", "b"))
    whole = load(root, heldout=5)
    (root / "a/003.png").write_text("no image")
    (root / "b/004.png").write_bytes((root / "b/004.png").read_bytes()[:60])
    os.mkfifo(root / "b/100.png")
    with pytest.raises(UserError, match=r"b/100\.png is not a regular file"):
        load(root, heldout=5)
    (root / "b/100.png").unlink()
    (root / "b/099.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"3 files .*cannot be decoded.*data\.skip_broken=true .*: a/003\.png .*b/004\.png .*b/099"
    ):
        load(root, heldout=5)
    real = load(root, heldout=5, skip_broken=True)
    assert real.facts.skipped == 3 and len(real.train) == 18 - 5 and len(real.heldout) == 5
    assert sorted(s[:9] for s in real.facts.skipped_first) == ["a/003.png", "b/004.png", "b/099.png"]
    labels = dict(zip(rows(whole.train.x) + rows(whole.heldout.x), [*whole.train.y, *whole.heldout.y]))
    for x, y in zip([*real.train.x, *real.heldout.x], [*real.train.y, *real.heldout.y]):
        assert labels[x.tobytes()] == y  # labels stay with their images
    with pytest.raises(UserError, match=r"data\.n=14 is more than the 13"):  # 15 files, two of them broken
        load(root, heldout=5, n=14, skip_broken=True)


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    root = put(put(tmp_path / "d", *names(10, "a", "b"), size=(20, 20)), "a/small.png", "b/small.png", size=(9, 12))
    (root / "a/003.png").write_text("no image")
    (root / "b/004.png").write_bytes((root / "b/004.png").read_bytes()[:60])
    with pytest.raises(UserError) as e:
        load(root, size=16)
    assert "2 files in" in str(e.value) and "2 images in" in str(e.value) and "use data.size=9 or less" in str(e.value)
    for text in ("a/003.png (", "b/004.png (", "a/small.png (9x12)", "b/small.png (9x12)", "data.skip_broken=true"):
        assert str(e.value).count(text) == 1
    with pytest.raises(UserError, match="2 images") as e:
        load(root, size=16, skip_broken=True)
    assert "003.png" not in str(e.value)


def test_a_small_part_of_many_files_is_decoded_and_is_what_it_was(tmp_path, monkeypatch):
    root = put(tmp_path / "d", *names(200, "a", "b"))
    seen = count_decoding(monkeypatch)
    few = load(root, n=10, heldout=5, size=4)
    assert len(seen) == 15 and few.facts.available == 400 and few.facts.read == 15
    seen.clear()
    assert len(load(root, n=10, size=4).heldout) == 80 and len(seen) == 90  # a fifth of all is held out
    whole = load(root, heldout=5, size=4)
    assert rows(whole.heldout.x) == rows(few.heldout.x) and rows(whole.train.x)[:10] == rows(few.train.x)
    assert whole.train.y[:10].tolist() == few.train.y.tolist() and few.facts.class_counts == [*np.bincount(few.train.y)]
    seen.clear()
    load(root, n=11, heldout=6, size=4)  # from the images of the whole folder
    assert seen == []
    parts = put(tmp_path / "p", *names(60, "train/a", "train/b", "test/a", "test/b"))
    assert len(load(parts, n=10, heldout=5).train) == 10 and len(seen) == 15


def test_broken_files_do_not_shorten_a_small_part(tmp_path, monkeypatch):
    root = put(tmp_path / "d", *names(150, "a", "b"))
    whole = load(root, heldout=5)
    for name in names(60, "a"):
        (root / name).write_text("no image")
    seen = count_decoding(monkeypatch)
    real = load(root, heldout=5, n=10, skip_broken=True)
    assert len(real.train) == 10 and len(real.heldout) == 5 and len(seen) < 300
    before = [*rows(whole.heldout.x), *rows(whole.train.x)]
    places = [before.index(image) for image in [*rows(real.heldout.x), *rows(real.train.x)]]
    assert places == sorted(places) and places[-1] < 40
    assert len(load(root, n=10, skip_broken=True).heldout) == 48  # a fifth of the 240 that are whole


def test_the_lines_at_the_start_say_what_became_of_the_files(tmp_path):
    root = put(put(tmp_path / "d", *names(30, "a", "b")), "c/1.png", "c/2.png")
    noise(1, mode="L").save(root / "a/001.png")
    noise(2, mode="L").convert("P").save(root / "a/002.png")
    noise(3, size=(8, 12)).save(root / "a/003.png")
    (root / "a/004.png").write_text("no image")
    (root / "a/notes.txt").write_text("x")
    first, classes, read = load(root, heldout=1, skip_broken=True).lines()
    assert first == "folder d: 60 training images, 1 held out of 61; 0 held-out nearly equal to a training image"
    assert re.fullmatch(r"3 classes: a: \d+, b: \d+, c: [12]; small: c: [12]", classes)
    assert re.fullmatch(
        r"files: 62 read, 1 skipped \(a/004\.png: .+\), 1 ignored \(\.txt 1\), "
        r"2 converted to colour \(grey 1, palette 1\), 1 cropped to a square",
        read,
    )
    assert Digits(n=60).load(tmp_path).lines()[1].startswith("10 classes: 0: ")


def test_too_small_images_name_the_largest_size(tmp_path):
    root = put(put(tmp_path / "d", *names(5, "a", "b"), size=(20, 20)), "a/small.png", size=(30, 12))
    with pytest.raises(UserError, match=r"a/small\.png .*30x12 .*data\.size=16.*data\.size=12 or less"):
        load(root, size=16)
    put(root, "b/smaller.png", size=(9, 11))
    for seed in range(4):  # for either order of the two
        with pytest.raises(UserError, match=r"data\.size=9 or less"):
            load(root, size=16, skip_broken=True, seed=seed)
    assert load(root, size=9).train.x.shape[1:] == (3, 9, 9)
    put(root, "b/dot.png", size=(2, 2))
    with pytest.raises(UserError, match="remove it"):
        load(root, size=9)


# Archives


def test_a_zip_reads_like_the_folder(tmp_path):
    root = put(tmp_path / "d", *(f"wrap/{n}" for n in names(8, "train/a", "train/b", "test/a", "test/b")))
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.png"), reverse=True)}
    archive = pack(tmp_path / "d.zip", {"wrap/": b"", "__MACOSX/wrap/._x.png": b"junk", **files})
    one, two = load(root), load(archive)
    assert rows(one.train.x) == rows(two.train.x) and rows(one.heldout.x) == rows(two.heldout.x)
    assert one.train.y.tolist() == two.train.y.tolist() and one.classes == two.classes == ("a", "b")
    assert two.facts.label == "folder d.zip" and two.facts.ignored == {"hidden": 1}
    windows = pack(tmp_path / "w.zip", {"./" + n.replace("/", "\\"): data for n, data in files.items()})
    assert rows(load(windows).train.x) == rows(one.train.x)


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "../notes.txt"])
def test_members_that_point_outside_are_refused_by_name(tmp_path, name):
    archive = pack(tmp_path / "d.zip", {name: encoded(noise(0)), "a/1.png": encoded(noise(1))})
    with pytest.raises(UserError, match="points outside") as e:
        load(archive)
    assert repr(name) in str(e.value)


def test_damaged_and_encrypted_archives(tmp_path):
    files = {n: encoded(noise(i)) for i, n in enumerate(names(6, "a", "b"))}
    data = pack(tmp_path / "d.zip", files).read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-40])
    with pytest.raises(UserError, match=r"cut\.zip is a damaged \.zip"):
        load(tmp_path / "cut.zip")
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a damaged \.zip"):
        load(tmp_path / "empty.zip")
    flagged = bytearray(data)
    for start in (i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"):
        flagged[start + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(flagged)
    with pytest.raises(UserError, match="is encrypted; give"):
        load(tmp_path / "secret.zip")
    flipped = bytearray(data)
    flipped[data.index(files["b/002.png"]) + 80] ^= 255  # the checksum of one member is wrong
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(UserError, match=r"b/002\.png .*CRC"):
        load(tmp_path / "flipped.zip")
    assert load(tmp_path / "flipped.zip", skip_broken=True).facts.skipped == 1


# The cache


def count_decoding(monkeypatch) -> list[str]:
    seen = []

    def counted(data, name, size, channels):
        seen.append(name)
        return examined(data, name, size, channels)

    monkeypatch.setattr(folder_module, "examined", counted)
    return seen


def test_images_are_decoded_once_until_a_file_changes(tmp_path, monkeypatch):
    root, seen = put(tmp_path / "d", *names(10, "a", "b")), count_decoding(monkeypatch)
    first = load(root)
    assert len(seen) == 20 and isinstance(first.train.x, np.memmap)
    monkeypatch.setattr("imgloop.data.real.duplicates", lambda *_: pytest.fail("compared twice"))
    again = load(root)
    assert len(seen) == 20 and rows(again.train.x) == rows(first.train.x) and again.facts == first.facts
    monkeypatch.undo()
    seen = count_decoding(monkeypatch)
    load(root, n=5)
    load(root, heldout=3)
    assert not seen  # a split of other sizes needs no decoding
    (root / "a/001.png").write_bytes(encoded(noise(77)))
    os.utime(root / "a/001.png", ns=(1, 1))
    changed = load(root)
    assert len(seen) == 20 and noise(77).tobytes() in {
        x.transpose(1, 2, 0).tobytes() for x in [*changed.train.x, *changed.heldout.x]
    }
    others = [{"channels": 1}, {"size": 4}, {"labels": False}, {"skip_broken": True}, {"seed": 1}]
    for k, settings in enumerate(others, 2):
        for _ in range(2):
            load(root, **settings)
            assert len(seen) == 20 * k
    assert changed.facts.hash_train != first.facts.hash_train or (
        changed.facts.hash_heldout != first.facts.hash_heldout
    )


def test_a_changed_archive_is_decoded_again_and_each_split_has_its_own_facts(tmp_path):
    files = {n: encoded(noise(i), "BMP") for i, n in enumerate(f"{i}.bmp" for i in range(10))}
    archive = pack(tmp_path / "d.zip", files)
    one, other = load(archive, n=5, heldout=3).facts, load(archive, n=5, heldout=4).facts
    assert one.hash_heldout != other.hash_heldout
    pack(archive, {n: encoded(noise(100 + i), "BMP") for i, n in enumerate(files)})  # equal names and sizes
    assert load(archive, n=5, heldout=3).facts.hash_heldout != one.hash_heldout


def test_the_cache_is_plain_safetensors_and_its_damage_is_an_error(tmp_path):
    root = put(tmp_path / "d", *names(10, "a", "b"))
    real = load(root)
    (file,) = (tmp_path / "cache").glob("images-*/train.safetensors")
    stored = load_file(file)["x"]
    assert stored.shape == (20, 3, 8, 8) and rows(stored) == rows(real.heldout.x) + rows(real.train.x)
    del real
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"images-\w+ is damaged; delete it"):
        load(root)


def test_progress_counts_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "REPORT", 10)
    monkeypatch.setattr(folder_module, "BLOCK", 4)
    root, calls = put(tmp_path / "d", *names(15, "train/a", "train/b"), *names(3, "test/a")), []
    real = Folder(str(root), size=8).load(tmp_path / "cache", lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls}) and len(calls) == 4
    assert calls[-1] == (33, 33) and {total for _, total in calls} == {33}
    assert len(real.train) == 30 and len(set(rows(real.train.x))) == 30


# The shared copy of CIFAR-10


@pytest.mark.skipif("IMGLOOP_TEST_DATA" not in os.environ, reason="IMGLOOP_TEST_DATA names no folder of real data")
def test_cifar10_zip_is_read(tmp_path):
    with zipfile.ZipFile(Path(os.environ["IMGLOOP_TEST_DATA"]) / "cifar10.zip") as archive:
        files = {n: archive.read(n) for n in archive.namelist() if n.split("/")[-1] < "0020.jpg"}
    real = Folder(str(pack(tmp_path / "cifar10.zip", files))).load(tmp_path / "cache")
    assert real.train.x.shape == (200, 3, 32, 32) and len(real.heldout) == 200 and "250" in str(real.facts.warning)
    assert len(real.classes) == 10 and real.classes[0] == "airplane" and np.bincount(real.train.y).tolist() == [20] * 10
    frog = np.asarray(Image.open(io.BytesIO(files["train/frog/0007.jpg"]))).transpose(2, 0, 1)
    where = rows(real.train.x).index(frog.tobytes())
    assert real.classes[real.train.y[where]] == "frog"
    assert (real.facts.near_duplicates, real.facts.exact_duplicates) == brute_force(real.train.x, real.heldout.x)
