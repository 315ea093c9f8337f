"""Extractors: choice of the classifier, files of weights, and parity with the Inception of torch-fidelity."""

import hashlib
import io
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgloop import store
from imgloop.data.digits import Digits
from imgloop.data.folder import Folder
from imgloop.data.real import Facts, RealData
from imgloop.data.stacked import StackedDigits
from imgloop.errors import UserError
from imgloop.metrics import pretrained, trained
from imgloop.metrics.features import Extractor, Features, auto, chunk_of, classifier, random
from imgloop.metrics.pretrained import Weights, dinov2, inception, obtained
from imgloop.metrics.trained import FOLDER, digits_of, fitting
from imgloop.pool import Pool


def images(n=4, channels=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), np.uint8)


def digits_data(**settings):
    return Digits(**settings).load(Path())  # the digits need no cache


def fits(real):
    return fitting(real.train, real.heldout, real.classes, real.facts)


# Features


@given(st.integers(1, 4), st.integers(2, 11), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_labels_of_parts_are_the_digits_of_a_number(parts, base, seed):
    logits = np.random.default_rng(seed).normal(size=(5, parts, base)).astype(np.float32)
    expected = [int(sum(d * base**i for i, d in enumerate(reversed(row)))) for row in logits.argmax(2).tolist()]
    np.testing.assert_array_equal(Features(np.zeros((5, 1)), logits).labels, expected)
    np.testing.assert_array_equal(Features(np.zeros((5, 1)), logits[:, 0]).labels, logits[:, 0].argmax(1))
    assert Features(np.zeros((5, 1))).labels is None


def test_features_of_an_image_do_not_depend_on_the_other_images(tmp_path):
    x = images(chunk_of(8) + 3, 1, 8)
    real = RealData(Pool(x), Pool(x), None, Facts("noise"))
    extractor, calls = random(real, tmp_path, "cpu"), []
    whole = extractor(x, lambda *at: calls.append(at)).x
    assert (extractor(x[-5:]).x == whole[-5:]).all() and calls == [(256, 259), (259, 259)]
    assert chunk_of(8) == chunk_of(64) == 256 and chunk_of(256) == 16 and chunk_of(1024) == 8
    for invalid in (x[:0], x.astype(float), x[0]):
        with pytest.raises(UserError, match="expected uint8"):
            extractor(invalid)


# Classifiers


@pytest.mark.parametrize(
    "setting, name",
    [
        ({}, "digits"),
        ({"n": 100}, "digits"),
        ({"imbalance": 5}, "digits"),
        ({"seed": 1}, None),  # held-out images that the shipped classifier was trained on
        ({"heldout": 300}, None),
        ({"heldout": 410}, None),
        ({"classes": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}, None),
    ],
)
def test_the_shipped_digits_classifier_is_used_only_if_it_has_not_seen_held_out_images(setting, name):
    assert fits(digits_data(**setting)) == name


def test_it_is_not_used_with_an_unknown_training_image_or_known_held_out_images():
    real = digits_data()
    changed = real.train.x.copy()
    changed[7, 0, 0, 0] ^= 1
    assert fits(replace(real, train=Pool(changed, real.train.y))) is None
    mixed = np.concatenate([real.heldout.x[:-3], real.train.x[:3]])  # 3 of 400 exceed RECURRING
    assert fits(replace(real, heldout=Pool(mixed, real.heldout.y))) is None


def test_the_shipped_classifiers_reach_the_required_accuracy(tmp_path):
    extractor = auto(digits_data(), tmp_path, "cpu")
    assert extractor.facts["shipped"] and extractor.facts["heldout_accuracy"] >= 0.97
    logits = extractor(images(3, 1, 8)).logits
    assert "warning" not in extractor.facts and logits is not None and logits.shape == (3, 10)
    info = store.read_json(FOLDER / "cifar10.json")
    assert info["heldout_accuracy"] >= 0.80 and info["n_heldout"] == 10_000 and "JPEG copy" in info["data"]
    assert sum(p.stat().st_size for p in FOLDER.glob("*.safetensors")) < 2.5e6


@pytest.fixture(scope="module")
def part_of_cifar(tmp_path_factory):
    import os

    root = os.environ.get("IMGLOOP_TEST_DATA")
    if not root:
        pytest.skip("IMGLOOP_TEST_DATA names no folder with cifar10.zip")
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(f"{root}/cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        for part, step in (("train", 500), ("test", 25)):
            for name in [n for n in names if f"{part}/" in n][::step]:
                path = folder / part / name.split("/")[-2] / name.split("/")[-1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    return folder


def test_the_shipped_cifar_classifier_is_used_for_its_images_in_any_folder(part_of_cifar, tmp_path):
    real = Folder(str(part_of_cifar)).load(tmp_path)
    assert fits(real) == "cifar10" and len(real.train) == 100 and len(real.heldout) == 400
    extractor = auto(real, tmp_path, "cpu")
    assert extractor.facts["shipped"] and extractor.facts["heldout_accuracy"] > 0.8  # 86 % of all; sd 2 %
    assert (extractor(real.heldout.x).labels == real.heldout.y).mean() == extractor.facts["heldout_accuracy"]
    assert fits(RealData(real.heldout, real.train, real.classes, real.facts)) is None  # train and test exchanged
    assert fits(Folder(str(part_of_cifar), size=16).load(tmp_path)) is None


def test_it_is_used_for_the_official_cifar_10_and_not_for_changed_files():
    info = store.read_json(FOLDER / "cifar10.json")
    pool, classes = Pool(images(), np.zeros(4, np.int64)), tuple(info["classes"])
    assert fitting(pool, pool, classes, Facts("CIFAR-10", set="CIFAR-10")) == "cifar10"
    for facts, names in (
        (Facts("CIFAR-10"), classes),
        (Facts("images", set="CIFAR-10"), classes[::-1]),
        (Facts("images"), classes),
    ):
        assert fitting(pool, pool, names, facts) is None


def test_stacked_digits_are_read_channel_by_channel(tmp_path):
    real = StackedDigits(n=600, heldout=300).load(tmp_path)
    extractor = auto(real, tmp_path, "cpu")
    features = extractor(real.heldout.x)
    assert features.logits is not None and features.x.shape == (300, 192) and features.logits.shape == (300, 3, 10)
    accuracy = (features.labels == real.heldout.y).mean()
    assert extractor.facts["heldout_accuracy"] == accuracy > 0.9 and extractor.facts["channels_apart"]
    assert extractor.facts["digit_accuracy"] >= 0.97 and extractor.facts["shipped"]
    reversed_ = extractor(real.heldout.x[:, ::-1])  # channels reversed: hundreds become units
    assert (reversed_.x.reshape(300, 3, 64)[:, ::-1].reshape(300, 192) == features.x).all()
    digits = digits_of(real.train)
    assert len(digits) <= 1397 and digits.x.shape[1:] == (1, 8, 8)
    assert len(np.unique(digits.x.reshape(len(digits), -1), axis=0)) == len(digits)
    known = digits_data().train
    assert known.y is not None and digits.y is not None
    label = {x.tobytes(): y for x, y in zip(known.x, known.y)}
    assert all(label[x.tobytes()] == y for x, y in zip(digits.x, digits.y))


def test_a_classifier_is_trained_once_with_the_same_bits(tmp_path):
    real, calls = digits_data(n=200), []
    a = classifier(real, tmp_path / "a", "cpu", lambda *at: calls.append(at), images=4000)
    assert calls and not a.facts["shipped"] and a.facts["trained_images"] == 4000
    calls.clear()
    assert classifier(real, tmp_path / "a", "cpu", lambda *at: calls.append(at), images=4000).key == a.key and not calls
    assert classifier(real, tmp_path / "b", "cpu", images=4000).key == a.key
    assert classifier(real, tmp_path / "b", "cpu", images=4100).key != a.key
    assert 0.5 < a.facts["heldout_accuracy"] == (a(real.heldout.x).labels == real.heldout.y).mean()


def test_a_weak_classifier_is_named_in_the_protocol(tmp_path):
    facts = classifier(digits_data(n=50), tmp_path, "cpu", images=64).facts
    assert facts["heldout_accuracy"] < 0.97 == facts["required_accuracy"] and "97% is required" in facts["warning"]
    for invalid in (0, True, 1.5, "many"):
        with pytest.raises(UserError, match="images="):
            classifier(digits_data(), tmp_path, "cpu", images=invalid)  # pyright: ignore[reportArgumentType]


def test_any_image_size_has_a_classifier():
    from imgloop.metrics.classifier import Classifier

    for size in (4, 5, 8, 16, 17, 32, 64, 100):
        for channels in (1, 3):
            network = Classifier(channels, size, 7).eval()
            h, logits = network(torch.zeros(2, channels, size, size))
            assert h.shape == (2, network.head.in_features) and logits.shape == (2, 7)
            assert h.shape[1] == {8: 64, 16: 128, 32: 128}.get(size, h.shape[1])


# Files of weights


def random_inception(path, seed=0):
    """Inception with random weights, saved to `path`."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(seed)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        torch.save({}, path)
        network = module.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):  # with the default initialisation the signal would vanish
                torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.nightly
def test_inception_equals_torch_fidelity(tmp_path, monkeypatch):
    from torch_fidelity import calculate_metrics

    from imgloop.metrics.frechet import frechet_distance

    path = random_inception(tmp_path / "weights.pth")
    extractor = inception(None, tmp_path, "cpu", weights=str(path))
    assert (
        extractor.facts["fid"] is False and extractor.facts["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    x, y = images(16), images(14, seed=1) // 2

    class Images(torch.utils.data.Dataset):
        def __init__(self, x):
            self.x = torch.from_numpy(x)

        def __len__(self):
            return len(self.x)

        def __getitem__(self, i):
            return self.x[i]

    theirs = calculate_metrics(
        input1=Images(x),
        input2=Images(y),
        fid=True,
        cuda=False,
        verbose=False,
        batch_size=8,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(path),
        cache=False,
    )
    ours = frechet_distance(extractor(x).x, extractor(y).x)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6, abs=0) and ours > 0.01
    monkeypatch.setattr(
        pretrained, "INCEPTION", Weights("https://x/w.pth", hashlib.sha256(path.read_bytes()).hexdigest(), 1)
    )
    assert inception(None, tmp_path, "cpu", weights=str(path)).facts["fid"] is True  # decided by the hash alone


def test_dinov2_from_a_local_file(tmp_path):
    timm = pytest.importorskip("timm")
    path = tmp_path / "dino.pth"
    network = timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=False, num_classes=0)
    torch.save(network.state_dict(), path)
    extractor = dinov2(None, tmp_path, "cpu", weights=str(path), model="small")
    extractor.chunk = 2
    grey = images(2, 1)
    features = extractor(grey).x
    assert features.shape == (2, 384) and (extractor(np.repeat(grey, 3, 1)).x == features).all()
    assert (
        "not the published" in extractor.facts["warning"]
        and extractor.facts["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    with pytest.raises(UserError, match="DINOv2 base") as error:
        dinov2(None, tmp_path, "cpu", weights=str(path), model="base")
    assert error.value.setting == "features.weights"
    with pytest.raises(UserError, match="large") as error:
        dinov2(None, tmp_path, "cpu", model="huge")
    assert error.value.setting == "features.model"


class Response(io.BytesIO):
    def __enter__(self):
        return self


def test_published_weights_are_downloaded_once_and_checked(monkeypatch):
    data = b"weights" * 1000
    published = Weights("https://example.org/some-weights.pth", hashlib.sha256(data).hexdigest(), len(data))
    calls, progress = [], []

    def urlopen(url, timeout):
        calls.append(url)
        return Response(data)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    path, digest = obtained(published, None, lambda *at: progress.append(at))
    assert path.read_bytes() == data and digest == published.sha256 and progress[-1] == (len(data), len(data))
    assert obtained(published, None) == (path, digest) and len(calls) == 1
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match="it is damaged"):
        obtained(published, None)


@pytest.mark.parametrize("failure", ["offline", "other bytes"])
def test_weights_that_cannot_be_downloaded_are_refused(failure, tmp_path, monkeypatch):
    def urlopen(url, timeout):
        if failure == "offline":
            raise URLError("Name or service not known")
        return Response(b"something else")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(UserError) as error:
        inception(None, tmp_path, "cpu") if sys.modules.get("torch_fidelity") else obtained(pretrained.INCEPTION, None)
    message = str(error.value)
    for part in (pretrained.INCEPTION.file, pretrained.INCEPTION.sha256, "features.weights=PATH"):
        assert part in message
    assert "\n" not in message and error.value.setting == "features.weights"


def test_files_of_weights_run_no_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    for name, content in (
        ("pickle.pth", pickle.dumps({"a": Malicious()})),
        ("text.pth", b"hello"),
        ("a.safetensors", b"x"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as weights"):
            pretrained.tensors(tmp_path / name)
    torch.save({"a": Malicious()}, tmp_path / "torch.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        pretrained.tensors(tmp_path / "torch.pth")
    assert not (tmp_path / "run").exists()
    torch.save({"step": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="named tensors"):
        pretrained.tensors(tmp_path / "other.pth")
    with pytest.raises(UserError, match="file") as error:
        obtained(pretrained.INCEPTION, str(tmp_path / "absent.pth"))
    assert error.value.setting == "features.weights"


@pytest.mark.parametrize("maker, package", [(inception, "torch_fidelity"), (dinov2, "timm")])
def test_a_missing_package_names_the_extra(maker, package, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'imgloop\[{maker.__name__}\]'"):
        maker(None, None, "cpu")


def test_extractors_with_other_weights_have_other_keys(tmp_path):
    real = RealData(Pool(images()), Pool(images()), None, Facts("noise"))
    same = [random(real, tmp_path, "cpu") for _ in range(2)]
    other = Extractor("random", torch.nn.Linear(2, 2))
    assert same[0].key == same[1].key != other.key
    assert trained.required_accuracy(digits_data()) == 0.97 and trained.required_accuracy(real) == 0.8
