"""`python -m imgloop.metrics`: sets of images in all forms, one protocol per table, detection of copies."""

import io
import json
import zipfile

import numpy as np
import pytest
from conftest import thinned
from PIL import Image

from imgloop import store
from imgloop.data.digits import CLASSES, scaled
from imgloop.errors import UserError
from imgloop.metrics.__main__ import main
from imgloop.metrics.images import read, relabelled
from imgloop.metrics.manifold import RealManifold, manifold_scores
from imgloop.metrics.protocol import require_one
from imgloop.metrics.scoring import score


def write_folder(root, x, y, classes=CLASSES):
    for i, (image, label) in enumerate(zip(x, y)):
        path = root / classes[label] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Images 0-299 of the digits as real images, 300-499 as samples in several forms; five samples are copies of real
    images."""
    root = tmp_path_factory.mktemp("sets")
    x, y = scaled()
    gx, gy = x[300:500].copy(), y[300:500].copy()
    gx[10:15], gy[10:15] = x[20:25], y[20:25]
    write_folder(root / "real", x[:300], y[:300])
    write_folder(root / "samples", gx, gy)
    order = np.array(
        [int(p.stem) for p in sorted((root / "samples").rglob("*.png"))]
    )  # the order in which a folder is read
    gx, gy = gx[order], gy[order]
    with zipfile.ZipFile(root / "samples.zip", "w") as archive:
        for path in sorted((root / "samples").rglob("*.png")):
            archive.write(path, path.relative_to(root / "samples"))
    np.savez(root / "adm.npz", np.repeat(np.moveaxis(gx, 1, -1), 3, -1), gy)
    np.savez(root / "named.npz", images=gx, labels=gy)
    np.save(root / "plain.npy", gx)
    (root / "gen000").mkdir()
    store.write_arrays(root / "gen000" / "pool.safetensors", {"x": gx, "y": gy})
    copies = np.flatnonzero((order >= 10) & (order < 15))
    return root, copies


FORMS = ("samples", "samples.zip", "adm.npz", "named.npz", "gen000", "gen000/pool.safetensors")


def test_every_form_of_a_set_gives_the_same_scores(sets):
    root, _ = sets
    reports = score(root / "real", [root / f for f in FORMS], "pixels")
    first = reports[0]
    assert {"fd", "kd", "precision", "recall", "coverage"} <= first.scores.keys()
    assert first.protocol["reference"] == "all real images" and first.protocol["n_generated"] == 200
    unlabelled = score(root / "real", root / "plain.npy", "pixels")[0]
    assert unlabelled.scores == first.scores and unlabelled.classes is None
    for report in reports[1:]:
        assert report.scores == first.scores and report.protocol == first.protocol and report.classes == first.classes
    assert first.notes["class_labels"] == "the set's own"
    assert first.classes is not None and first.classes["3"]["n_real"] > 20
    both = [first.classes[c]["n_generated"] for c in CLASSES]
    assert sum(both) == 200 and first.classes["3"]["fd"] > 0


def test_scores_equal_those_of_the_functions(sets):
    from imgloop.metrics import frechet_distance, kernel_distance

    root, _ = sets
    x, g = (read(root / name).pool.x.reshape(n, -1) / 127.5 - 1 for name, n in (("real", 300), ("named.npz", 200)))
    scores = score(root / "real", root / "adm.npz", "pixels")[0].scores
    assert scores["fd"] == pytest.approx(frechet_distance(x, g), rel=1e-5)
    assert scores["kd"] == pytest.approx(kernel_distance(x, g).value, rel=1e-4)


@pytest.mark.nightly
def test_copies_are_detected_where_a_classifier_is_trained(sets):
    root, _ = sets
    whole = score(root / "real", root / "real", options={"images": 640})[
        0
    ]  # a fifth of it is held out from the classifier
    assert (
        whole.protocol["n_reference"] == 60 and whole.scores["near_copies"] == 1 and whole.scores["authenticity"] == 0
    )
    learned = score(root / "real", root / "named.npz", options={"images": 640}, train=root / "samples")[0]
    assert learned.protocol["n_reference"] == 300 and learned.protocol["trained_on"] == 200
    assert learned.scores["near_copies"] == 1


def test_copies_are_detected_and_shown_first(sets, tmp_path):
    from imgloop.metrics.nearest import figure

    root, copies = sets
    report = score(root / "real", root / "samples", "pixels")[0]
    closer = report.nearest.closer
    assert set(np.flatnonzero(closer == 0)) == set(copies)
    same = report.train.x[report.nearest.index[copies, 0]]
    assert (same == report.samples.x[copies]).all() and (np.diff(report.nearest.distance, axis=1) >= 0).all()
    other = score(root / "real", root / "samples", "pixels", train=root / "samples")[0]
    assert (other.nearest.closer == 0).all() and other.scores["fd"] == report.scores["fd"]  # every sample copies itself
    assert other.scores["near_copies"] == 1 and other.scores["authenticity"] == 0
    assert report.scores["near_copies"] == (closer < 0.5).mean() >= 0.025
    picture = Image.open(io.BytesIO(figure(report, 12)))
    assert picture.format == "PNG" and picture.width > 600


def test_duplicate_training_images_do_not_hide_copies(sets, tmp_path):
    """A duplicate has distance 0 to its nearest other, and generators copy duplicates most often."""
    x = scaled()[0][:150]
    np.savez(tmp_path / "twice.npz", np.concatenate([x, x]))
    np.savez(tmp_path / "copies.npz", np.where(x < 255, x + 1, x - 1))
    np.savez(tmp_path / "fresh.npz", scaled()[0][600:750])
    copies, fresh = score(tmp_path / "twice.npz", [tmp_path / "copies.npz", tmp_path / "fresh.npz"], "pixels")
    assert (copies.scores["near_copies"], copies.scores["authenticity"]) == (1, 0)
    assert fresh.scores["near_copies"] < 0.1 and fresh.scores["authenticity"] > 0.3
    known = RealManifold.of(np.array([[0.0], [0], [2], [5], [-0.0]]), 1)
    np.testing.assert_array_equal(known.other2, [4, 4, 4, 9, 4])
    assert (
        manifold_scores(np.eye(9), np.eye(9)[:7], train=np.zeros((5, 9))).authenticity == 1
    )  # all training samples are equal


@pytest.mark.parametrize("features", ["pixels", "classifier"])
def test_fresh_real_images_have_the_null_values_of_copying(features, tmp_path):
    """A perfect generator; the real images have no test part, and a classifier is trained on four fifths of them."""
    x, y = scaled()
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(tmp_path / "real.npz", x=x[order[:900]], y=y[order[:900]])
    np.savez(tmp_path / "fresh.npz", x=x[order[900:]], y=y[order[900:]])
    options = {"images": 6400} if features == "classifier" else None
    report = score(tmp_path / "real.npz", tmp_path / "fresh.npz", features, options=options)[0]
    for name in ("authenticity", "near_copies"):
        assert report.scores[name] == pytest.approx(report.notes["null"][name], abs=0.06), name
    assert 0.2 < report.scores["authenticity"] < 0.9


def test_null_values_with_duplicates_and_with_overlapping_sets(tmp_path):
    x = scaled()[0]
    x = x[np.random.default_rng(0).permutation(len(x))]  # the digits are sorted by writer
    sets = {"plain": x[:300], "twice": np.concatenate([x[:300], x[:300]]), "fresh": x[600:900], "flat": x[:300][::-1]}
    for name, images in (sets | {"more": x[:600]}).items():
        np.savez(tmp_path / f"{name}.npz", images)
    plain, twice = (score(tmp_path / f"{n}.npz", tmp_path / "fresh.npz", "pixels")[0] for n in ("plain", "twice"))
    for name in ("authenticity", "near_copies"):
        assert twice.notes["null"][name] == pytest.approx(plain.notes["null"][name], abs=0.06), name
    for train in ("flat", "more"):  # the reference in another order, and a superset of it
        report = score(tmp_path / "plain.npz", tmp_path / "fresh.npz", "pixels", train=tmp_path / f"{train}.npz")[0]
        assert report.reference["fd_train"] is None and report.notes["null"]["precision"] < 1
        assert report.notes["null"]["authenticity"] == pytest.approx(report.scores["authenticity"], abs=0.12)


def test_generated_train_and_test_folders_are_one_set_and_a_single_class_is_ignored(sets, tmp_path):
    root, _ = sets
    x, y = scaled()
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 100))):
        write_folder(tmp_path / "both" / part, x[rows], y[rows])
    assert score(root / "real", tmp_path / "both", "pixels")[0].protocol["n_generated"] == 100
    np.savez(tmp_path / "alike.npz", x=x[:300], y=np.full(300, 7))
    report = score(tmp_path / "alike.npz", root / "named.npz")[0]
    assert report.protocol["features"] == "random" and report.classes is None


def test_a_test_part_is_the_reference_and_the_shipped_classifier_is_used(sets, tmp_path):
    from imgloop.data.digits import Digits

    root, _ = sets
    real = Digits().load(tmp_path)
    for part, pool in (("train", real.train), ("test", real.heldout)):
        write_folder(tmp_path / "digits" / part, pool.x, pool.y)
    np.savez(tmp_path / "real.npz", x=real.heldout.x)
    report = score(tmp_path / "digits", root / "named.npz", size=8)[0]
    p = report.protocol
    assert p["features"] == "classifier" and p["n_reference"] == 400 and "test part" in p["reference"]
    assert p["shipped"] and p["heldout_accuracy"] == 0.99 and p["channels"] == 1
    whole = score(root / "real", root / "named.npz", options={"images": 2560})[
        0
    ]  # without a test part a fifth is held out
    assert whole.protocol["n_reference"] == 60 and whole.protocol["trained_on"] == 240 == 4 * 60
    report = score(tmp_path / "real.npz", root / "named.npz")[0]
    assert report.protocol["features"] == "random" and report.classes is None  # no labels


def test_the_command_prints_a_table_or_json_and_writes_the_figure(sets, tmp_path, command, capsys):
    root, _ = sets
    done = command(root / "real", root / "samples", "--features", "pixels", "--json", module="imgloop.metrics")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["protocol"]["features"] == "pixels" and result["scores"]["fd"] > 0 and "fid" not in result["scores"]
    main([str(root / "real"), str(root / "samples"), "--features", "pixels", "--nearest", str(tmp_path / "n.png")])
    printed = capsys.readouterr()
    assert f"{result['scores']['fd']:.3g}" in printed.out and "protocol: pixels features" in printed.out
    path, head, *rows = printed.out.splitlines()
    assert path == f"set 1: {root / 'samples'}"
    nulls = {row.split()[0]: row.split()[2:] for row in rows[:10]}
    assert head.split()[-1] == "null" and nulls["density"] == ["1"] and not nulls["fd"]
    assert result["notes"]["null"]["density"] == 1 and result["real_against_real"]["n_half"] == 150
    real = result["real_against_real"]  # halves of the real set, never the set against itself
    assert real["fd_train"] is None and 0 < real["precision"] < 1 and 0 < real["recall"] < 1
    assert nulls["precision"] == [f"{real['precision']:.3g}"]
    cells = {row.split()[0]: row.split()[1:] for row in rows if row}
    assert cells["off_support_p"] == [f"{result['notes']['off_support_p']:.3g}"]
    assert cells["tail_mass"][1:3] == ["1", "±"]
    assert "not measured: " in printed.out and "class" in printed.out.split("not measured: ")[1]
    assert "by class" in printed.out and (tmp_path / "n.png").stat().st_size > 1000


def test_only_the_original_weights_give_an_fid(sets):
    from dataclasses import replace

    from imgloop.metrics.__main__ import lines

    root, _ = sets
    report = score(root / "real", root / "samples", "pixels")[0]
    named = replace(report, protocol={**report.protocol, "fid": True})
    assert report.distance == "fd" and lines([report])[2].startswith("fd")
    assert named.distance == "FID" and lines([named])[2].startswith("FID")
    assert named.to_json()["scores"]["fid"] == report.scores["fd"] and "fd" not in named.to_json()["scores"]


def test_a_long_path_does_not_stretch_the_table(sets):
    from dataclasses import replace

    from imgloop.metrics.__main__ import lines

    root, _ = sets
    short = replace(score(root / "real", root / "samples", "pixels")[0], name="samples")
    paths = [f"/home/user/outputs/digits-diffusion/{p}/seed0/gen004/pool.safetensors" for p in ("replace", "edit")]
    table = lines([short, *(replace(short, name=path) for path in paths)])
    assert table[:3] == ["set 1: samples", f"set 2: {paths[0]}", f"set 3: {paths[1]}"]
    assert table[3].split() == ["set", "1", "set", "2", "set", "3", "null"] and max(map(len, table[3:12])) < 80
    assert lines([short])[0].split() == ["samples", "null"]


def test_different_protocols_in_one_table_raise(sets, tmp_path):
    root, _ = sets
    np.savez(tmp_path / "few.npz", x=scaled()[0][600:750])
    stages = []

    def progress(stage):
        return lambda *_: stages.append(stage)

    with pytest.raises(UserError, match=r"n_generated \(200 of .*, 150 of"):
        score(root / "real", [root / "samples", tmp_path / "few.npz"], "pixels", progress=progress)
    assert set(stages) == {"reading real images", "reading samples"}  # before features are extracted
    reports = score(root / "real", [root / "samples", tmp_path / "few.npz"], "pixels", n=150)
    assert [r.protocol["n_generated"] for r in reports] == [150, 150]
    assert reports[0].classes is not None
    assert all(c["n_generated"] for c in reports[0].classes.values())  # drawn at random: folders are sorted by class
    require_one({})
    require_one({"a": {"x": 1}, "b": {"x": 1}})
    with pytest.raises(UserError, match=r"one plot: they differ in y \(None of a, 2 of b\)"):
        require_one({"a": {"x": 1}, "b": {"x": 1, "y": 2}}, "plot")


def test_labels_of_another_set_are_matched_by_name(sets):
    root, _ = sets
    images = read(root / "samples")
    assert images.pool.y is not None and (relabelled(images, CLASSES[::-1]) == 9 - images.pool.y).all()
    assert relabelled(images, ("cat", "dog")) is None and relabelled(images, None) is None
    numbered = read(root / "named.npz")
    assert (relabelled(numbered, CLASSES) == numbered.pool.y).all() and relabelled(numbered, CLASSES[:3]) is None
    assert (relabelled(numbered, list("abcdefghij")) == numbered.pool.y).all()
    ten = tuple(map(str, range(1, 11)))  # names without 0
    assert relabelled(numbered, ten) is None


def test_labels_need_not_start_at_zero(sets, tmp_path):
    root, _ = sets
    for name in ("real", "samples"):
        pool = read(root / name).pool
        assert pool.y is not None
        for shift in (0, 7):
            np.savez(tmp_path / f"{name}{shift}.npz", x=pool.x, y=2 * pool.y + shift)
    plain, shifted = (score(tmp_path / f"real{s}.npz", tmp_path / f"samples{s}.npz", "pixels")[0] for s in (0, 7))
    assert plain.classes is not None and shifted.classes is not None
    assert list(plain.classes.values()) == list(shifted.classes.values())
    assert list(shifted.classes) == [str(2 * c + 7) for c in range(10)]


@pytest.mark.parametrize("name", thinned(["stacked digits", "digits", "CIFAR-10"], 3))
def test_the_name_of_a_folder_does_not_select_a_classifier(sets, tmp_path, name):
    root, _ = sets
    (tmp_path / name).symlink_to(root / "real")
    report = score(tmp_path / name, root / "named.npz", "classifier", options={"images": 640})[0]
    p = report.protocol
    assert not p["shipped"] and "channels_apart" not in p and p["required_accuracy"] == 0.8


def test_mistakes_print_one_sentence(sets, tmp_path, capsys):
    root, _ = sets
    real, x = root / "real", scaled()[0]
    np.savez(tmp_path / "float.npz", x=x / 255)
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 3, 8, 9), np.uint8))
    np.savez(tmp_path / "large.npz", x=np.zeros((20, 1, 16, 16), np.uint8))
    np.savez(tmp_path / "labels.npz", x=x[:20], y=np.zeros(3, int))
    np.savez(tmp_path / "negative.npz", x=x[:20], y=np.arange(-1, 19))
    np.savez(tmp_path / "ten.npz", x=x[:10])
    (tmp_path / "bad.safetensors").write_bytes(b"\x09" * 99)
    np.savez(tmp_path / "pickled.npz", x=np.array([object()]))
    np.savez(tmp_path / "colours.npz", x=np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8))
    np.savez(tmp_path / "grey.npz", x=x[:50])
    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "mixed").mkdir()
    for i, side in enumerate((8, 9)):
        Image.new("L", (side, side)).save(tmp_path / "mixed" / f"{i}.png")
    cases = {
        ("absent",): "does not exist",
        ("float.npz",): "scale it to 0..255",
        ("negative.npz",): "labels y contain -1",
        ("ten.npz",): "at least 11 generated images",
        ("bad.safetensors",): "cannot be read",
        ("grey.npz", "--device", "cuda"): "no GPU",
        ("wide.npz",): "expected square ones",
        ("large.npz",): "give --size 8",
        ("labels.npz",): "expected integers",
        ("pickled.npz",): "array x is object",
        ("text.npz",): "cannot be read",
        ("mixed",): "images of different sizes",
        ("grey.npz", "--size", "9"): "never enlarged|under --size 9",
        ("grey.npz", "--n", "51"): "fewer than --n 51",
        ("grey.npz", "--n", "10"): "--n 10: at least 11",
        ("grey.npz", "--features", "nothing"): "classifier",
        ("grey.npz", "--features", "pixels", "--weights", "x"): "weights",
    }
    for (name, *options), match in cases.items():
        options = options if "--features" in options else [*options, "--features", "pixels"]
        assert main([str(real), str(tmp_path / name), *options]) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("imgloop.metrics: ") and any(m in message for m in match.split("|")), (name, message)
    with pytest.raises(UserError, match="colour images"):
        score(tmp_path / "grey.npz", tmp_path / "colours.npz", "pixels")
    capsys.readouterr()


def test_importing_the_package_does_not_import_torch(command):
    import subprocess
    import sys

    code = "import sys, imgloop.metrics as m; m.__dir__(); print('torch' in sys.modules, len(m.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[0] == "False", done.stderr
    import imgloop.metrics as m

    assert all(callable(getattr(m, name)) for name in m.__all__)
    with pytest.raises(AttributeError, match="public names"):
        m.nothing  # noqa: B018
