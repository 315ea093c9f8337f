"""Images and histories of other programs as studies: the layouts of public programs, mistakes, and what readers see."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import preloaded
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import imgloop
from imgloop import store
from imgloop.collapse.__main__ import main as collapse
from imgloop.errors import UserError
from imgloop.importing import layout
from imgloop.importing.images import LEVELS, levels_of
from imgloop.measure import measure
from imgloop.metrics.images import read
from imgloop.report import page
from imgloop.report.__main__ import main as report
from imgloop.report.check import check
from imgloop.study.__main__ import main
from imgloop.study.compare import comparison_lines
from imgloop.study.imported import NOTE, is_imported
from imgloop.study.study import Study

DIGITS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
REAL, HELDOUT, SOURCE = DIGITS[:120], DIGITS[120:190], DIGITS[200:]


def drawn(generation, n=24, seed=0, lost=0.1):
    """Images (n, 8, 8) uint8 whose contrast falls with the generation, none of them real."""
    rng = np.random.default_rng([generation, seed])
    x = SOURCE[rng.integers(0, len(SOURCE), n)] * (1 - lost * generation) + rng.integers(1, 20, (n, 8, 8))
    return x.clip(0, 255).astype(np.uint8)


def write_png(folder, images, mode="L"):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).convert(mode).save(folder / f"{i}.png")


def shi(folder, generations=2, **more):
    """The layout of shilianghe007/Model_Collapse: real data in iter_0, the first model's samples in iter_1."""
    for k in range(generations + 1):
        place = folder / f"iter_{k}_epoch_500"
        place.mkdir(parents=True)
        images = drawn(k - 1, **more) if k else REAL
        np.save(place / "images.npy", np.repeat(images[..., None], 3, -1))
        if k:
            np.save(place / "training_dataset.npy", np.repeat(REAL[..., None], 3, -1))
        Image.fromarray(images[0]).save(place / "image_0000.png")
        (folder / f"model_iter_{k}_epoch500").mkdir()
    return folder


def qb3(folder, generations=2):
    """The layout of QB3/gen_models_dont_go_mad, by conditional flow matching: K/gen_samples/0/IDX.png."""
    for k in range(generations):
        write_png(folder / str(k) / "gen_samples" / "0", drawn(k), "RGB")
        write_png(folder / str(k) / "mixed_samples" / "mixed_samples", REAL[:3], "RGB")
        (folder / str(k) / "mixed_dataset.zip").write_bytes(b"PK")
    return folder


def real_in(folder):
    np.save(folder / "real.npy", REAL)
    np.save(folder / "heldout.npy", HELDOUT)
    return ["--real", f"{folder / 'real.npy'}", "--heldout", f"{folder / 'heldout.npy'}"]


@pytest.fixture
def real(tmp_path):
    return real_in(tmp_path)


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run the command, without its report; returns its status, output and errors."""
    monkeypatch.setattr("imgloop.multirun.write_report", lambda study: True)

    def command(*arguments):
        given = ["--out", f"{tmp_path / 'out'}", "--study", "s", "--features", "pixels", *map(str, arguments)]
        status = main(["import", *given])
        return status, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the arrays of two conditions by two iterations, and their study in out/s."""
    root = tmp_path_factory.mktemp("imported")
    for condition, lost in (("replace", 0.3), ("real_only", 0.0)):
        shi(root / condition, lost=lost)
    with pytest.MonkeyPatch.context() as patch:
        for name in preloaded.PLOTS:
            patch.setattr(name, preloaded.no_plot)
        assert main(arguments_of(root)) == 0
    return root


def arguments_of(root):
    """The command that imports `root`, without the word imgloop.study."""
    folders = [f"{root / 'replace'}", f"{root / 'real_only'}"]
    return [
        "import",
        *folders,
        *real_in(root),
        "--first",
        "1",
        "--out",
        f"{root / 'out'}",
        "--study",
        "s",
        "--features",
        "pixels",
    ]


def files(folder):
    return {p.relative_to(folder).as_posix(): store.file_hash(p) for p in folder.rglob("*") if p.is_file()}


# -- From folders to a report -----------------------------------------------------------------------------------------


def test_arrays_by_iteration_become_a_study_that_is_read_like_ours(root):
    study = root / "out" / "s"
    frame = imgloop.load_study(study)
    assert list(frame.groupby("condition")["generation"].max()) == [1, 1] and set(frame["n_drawn"]) == {24}
    assert frame["n_train"].isna().all() and frame["fd"].notna().all() and "risk" not in frame
    opened = Study(study)
    assert opened.imported and is_imported(study) and opened._repr_html_().startswith("<p><b>s, imported, last")
    np.testing.assert_array_equal(opened.images("replace", 0, 1)[:, 0], drawn(1, lost=0.3))
    source = root / "replace" / "iter_2_epoch_500" / "images.npy"
    source = {"path": str(source), "hash": store.file_hash(source), "images": 24, "number": 2}
    assert opened.record("replace", 0, 1)["imported"] == source
    assert check(study).faults == () and check(study).files > 20


def test_the_mark_is_in_report_profile_and_tables(root, capsys):
    study = root / "out" / "s"
    text = (study / "report.html").read_text()
    assert NOTE in text and "<title>s, imported: report</title>" in text and "condition (imported)" in text
    assert (
        "python -m imgloop.study import" in text and str(root / "replace" / "iter_2_epoch_500" / "images.npy") in text
    )
    profile = json.loads((study / "report" / "profile.json").read_text())
    assert profile["imported"] == NOTE and profile["profile"]["imported"] and NOTE in profile["profile"]["notes"]
    assert "over real_only (imported)" in (study / "report" / "profile.tex").read_text()
    assert comparison_lines(study)[0].startswith("condition (imported)")
    assert collapse([str(study)]) == 0 and report(["--list", str(study.parent)]) == 0
    out = capsys.readouterr().out
    assert "replace over real_only (imported): 1 chain" in out and "s, imported" in out and "Imported: another" in out


def test_the_same_command_twice_changes_nothing(root, capsys):
    before = files(root / "out")
    assert main(arguments_of(root)) == 0
    assert "nothing to do" in capsys.readouterr().out and files(root / "out") == before


def test_imported_samples_are_measured_again(root, tmp_path):
    shutil.copytree(root / "out" / "s", tmp_path / "s")
    assert measure(tmp_path / "s", ["features=random"]).startswith("random")
    assert set(imgloop.load_study(tmp_path / "s")["protocol"].str.split("-").str[0]) == {"random"}


def test_folders_of_images_and_a_real_set_with_classes_become_a_study(tmp_path, run):
    for condition in ("replace", "real_only"):
        qb3(tmp_path / condition)
    labels = load_digits().target
    for part, rows in (("train", range(120)), ("test", range(120, 190))):
        for label in range(10):
            write_png(tmp_path / "digits" / part / str(label), DIGITS[[i for i in rows if labels[i] == label]])
    named = [a for c in ("replace", "real_only") for a in ("--condition", f"{c},a=1={tmp_path / c}")]
    status, _, err = run(*named, "--real", tmp_path / "digits")
    assert status == 0, err
    study = Study(tmp_path / "out" / "s")
    assert study.conditions == ["real_only,a=1", "replace,a=1"]
    assert study.real.classes == tuple("0123456789") and len(study.real.heldout) == 70
    np.testing.assert_array_equal(np.sort(study.images("replace", 0, 1), 0), np.sort(drawn(1)[:, None], 0))


def test_histories_become_a_table(tmp_path, run, capsys):
    for alpha in (0.0, 1.0):
        for rep in range(4):
            folder = tmp_path / "runs" / f"alpha_real={alpha:.2f}" / f"rep={rep:03d}"
            folder.mkdir(parents=True)
            fid = 5 + np.arange(4.0) * (1 - alpha) + 0.01 * rep
            more = {"M": np.arange(4), "alpha_real": alpha, "rep": rep, "seed": 12345 + rep}
            np.savez(folder / "metrics.npz", fid_history=fid, loss_history=fid / 10, **more)
    folders = sorted((tmp_path / "runs").iterdir())
    status, out, err = run(*folders)
    path = tmp_path / "out" / "s.csv"
    assert status == 0 and str(path) in out, err
    frame = pd.read_csv(path)
    assert list(frame) == ["condition", "seed", "generation", "fid", "loss"] and len(frame) == 32
    assert set(frame["condition"]) == {"alpha_real=0", "alpha_real=1"} and set(frame["seed"]) == {0, 1, 2, 3}
    sources = store.read_json(path.with_suffix(".json"))["sources"]
    assert len(sources) == 8 and sources[0]["hash"] == store.file_hash(folders[0] / "rep=000" / "metrics.npz")
    before = files(tmp_path / "out")
    status, out, _ = run(*folders)
    assert "nothing to import" in out and files(tmp_path / "out") == before
    assert collapse([str(path), "--control", "alpha_real=1"]) == 0
    assert "alpha_real=0 over alpha_real=1: 4 chains, generations 0..3" in capsys.readouterr().out
    assert run(*folders, shi(tmp_path / "images"))[0] == 1
    assert run(folders[0])[2].count("another table") == 1


# -- Interruption, change and other commands --------------------------------------------------------------------------


def test_an_interrupted_import_goes_on(tmp_path, run, real, monkeypatch):
    folder = shi(tmp_path / "replace", generations=3)
    commit, done = store.commit_folder, []

    def interrupted(place, make):
        if place.name == "gen001" and not done:
            done.append(place)
            make_part = place.with_name(f".{place.name}.part")
            make_part.mkdir()
            (make_part / "pool.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        commit(place, make)

    monkeypatch.setattr(store, "commit_folder", interrupted)
    assert run(folder, *real, "--first", 1)[0] == 130
    chain = tmp_path / "out" / "s" / "replace" / "seed0"
    states = store.read_json(chain.parents[1] / "study.json")["chains"]
    assert [(s["state"], s["generations"], s["planned"]) for s in states] == [("interrupted", 1, 3)]
    first = store.file_hash(chain / "gen000")
    status, _, err = run(folder, *real, "--first", 1)
    assert status == 0, err
    assert not list(chain.glob(".gen*")) and len(imgloop.load_study(chain.parents[1])) == 3
    assert store.read_json(chain / "gen000" / "record.json")["pool_hash"] == store.file_hash(
        chain / "gen000" / "pool.safetensors"
    )
    assert first != store.file_hash(chain / "gen000")  # its scores are there now
    config = yaml.safe_load((chain / "config.yaml").read_text())
    assert config["config"]["generations"] == 3 and config["choices"]["model"] == "imported"


def test_other_settings_are_refused_and_more_generations_are_added(tmp_path, run, real):
    folder = shi(tmp_path / "replace", generations=1)
    assert run(folder, *real, "--first", 1)[0] == 0
    assert "n (there None, now 20)" in run(folder, *real, "--first", 1, "--n", 20)[2]
    place = folder / "iter_2_epoch_500"
    place.mkdir()
    np.save(place / "images.npy", np.repeat(drawn(2)[..., None], 3, -1))
    status, out, err = run(folder, *real, "--first", 1)
    assert status == 0 and "generation 1: 24 images" in out and "generation 0: 24 images" not in out, err


def test_changed_sources_are_refused_and_imported_again_with_overwrite(tmp_path, run, real):
    folder = shi(tmp_path / "replace", generations=1)
    assert run(folder, *real, "--first", 1)[0] == 0
    place = folder / "iter_1_epoch_500"
    np.save(place / "images.npy", np.repeat(drawn(7)[..., None], 3, -1))
    status, _, err = run(folder, *real, "--first", 1)
    assert status == 1 and "other images" in err and "--overwrite" in err
    status, out, err = run(folder, *real, "--first", 1, "--overwrite")
    assert status == 0 and "generation 0: 24 images" in out, err
    np.testing.assert_array_equal(Study(tmp_path / "out" / "s").images("replace", 0, 0)[:, 0], drawn(7))


def test_whatever_trains_refuses_the_study(root, tmp_path):
    before, more = files(root / "out"), {"out": f"{root / 'out'}", "study": "s", "display": "none"}
    for command in (
        lambda: imgloop.run(seed=5, **more),
        lambda: imgloop.run(overwrite=True, **more),
        lambda: imgloop.sweep(paradigm=["replace", "fresh"], **more),
    ):
        with pytest.raises(UserError, match="nothing is trained in it"):
            command()
    with pytest.raises(UserError, match="fork a chain that was trained here"):
        imgloop.run(fork=f"{root / 'out' / 's' / 'replace' / 'seed0'}@0", out=str(tmp_path), display="none")
    assert files(root / "out") == before and not list(tmp_path.iterdir())


def test_an_import_into_a_study_of_our_own_is_refused(tmp_path, run, real):
    folder = tmp_path / "out" / "s" / "replace" / "seed0" / "gen000"
    store.write_json(folder / "record.json", {"seconds": {}, "versions": {}, "share_by_origin": {}})
    status, _, err = run(shi(tmp_path / "replace"), *real, "--first", 1)
    assert status == 1 and "trained here" in err


def test_a_damaged_file_of_an_imported_study_is_found(root, tmp_path):
    study = tmp_path / "s"
    shutil.copytree(root / "out" / "s", study)
    path = study / "replace" / "seed0" / "gen001" / "pool.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert len(check(study).faults) == 1 and "hash differs" in check(study).faults[0]
    with pytest.raises(UserError, match="hash differs"):
        measure(study, ["features=random"])


# -- Mistakes end in one sentence -------------------------------------------------------------------------------------


def test_zips_of_different_numbers_of_images(tmp_path, run, real):
    (tmp_path / "replace").mkdir()
    for k, n in enumerate((24, 30)):
        write_png(tmp_path / f"{k}", drawn(k, n=n))
        shutil.make_archive(str(tmp_path / "replace" / f"gen_{k}"), "zip", tmp_path / f"{k}")
    status, out, err = run(tmp_path / "replace", *real)
    assert status == 0 and "24 to 30 samples: fd falls with their number" in out, err
    assert run(tmp_path / "replace", *real, "--n", 20, "--study", "equal")[0] == 0
    assert set(imgloop.load_study(tmp_path / "out" / "equal")["n_drawn"]) == {20}


def save(folder, *generations):
    """FOLDER/iter_K/images.npy of each of these arrays."""
    for k, x in enumerate(generations):
        (folder / f"iter_{k}").mkdir(parents=True)
        np.save(folder / f"iter_{k}" / "images.npy", x)
    return folder


@pytest.mark.parametrize(
    "make, more, says",
    [
        (lambda f: save(f, drawn(0), drawn(1)), None, "give --real PATH"),
        (lambda f: save(f, REAL, drawn(0)), [], "100% of these images are exact copies of real ones"),
        (lambda f: save(f, drawn(0), drawn(1, n=7)), [], "at least 11 generated images are needed; it holds 7"),
        (lambda f: save(f, drawn(0), np.zeros((20, 9, 9), np.uint8)), [], "images of 9 pixels .* of 8: give --size 8"),
        (lambda f: save(f, drawn(0) / 255.0, drawn(1) / 200.0), [], "beyond 0 to 1: scale and clip"),
        (lambda f: save(f, drawn(0) / 255.0, drawn(1) * np.nan), [], "no finite numbers"),
        (lambda f: save(f, drawn(0) / 255.0 - 0.5), ["--levels", "unit"], "from -0.49.* beyond 0 to 1"),
        (lambda f: save(f, drawn(0).astype(int)), [], "expected uint8 images"),
        (lambda f: save(f, drawn(0)), ["--first", "3"], "no 3, which --first names"),
        (lambda f: save(f, drawn(0)), ["--study", "a/b"], "use letters, digits"),
        (lambda f: save(f, drawn(0)), ["--n", "0"], "--n 0: give a whole number of at least 1"),
        (lambda f: save(f, drawn(0)), ["--n", "50"], "holds 24 images, fewer than --n 50"),
        (lambda f: save(f, drawn(0)), ["--pattern", "it*_*/images.npy"], "give a path inside the folder"),
        (lambda f: save(f, drawn(0)), ["--pattern", "gen*.npz"], "nothing that matches --pattern"),
        (lambda f: save(f, drawn(0)), ["--features", "nothing"], "nothing"),
        (lambda f: f.mkdir() or f, [], "no images by generation"),
        (lambda f: f, [], "is no folder"),
    ],
)
def test_mistakes_end_in_one_sentence_and_leave_nothing(tmp_path, run, real, make, more, says):
    folder = make(tmp_path / "replace")
    status, _, err = run(folder, *([] if more is None else [*real, *more]))
    assert status == 1 and re.search(says, err) and err.rstrip().count("\n") == 0, err
    if "at least 11" not in says and "9 pixels" not in says:  # where only a later generation is wrong
        assert not list((tmp_path / "out").rglob("*"))


def test_real_images_are_checked(tmp_path, run, real):
    folder = save(tmp_path / "replace", drawn(0))
    np.save(tmp_path / "few.npy", REAL[:30])
    status, _, err = run(folder, "--real", tmp_path / "few.npy")
    assert status == 1 and "6 held-out images are too few" in err and "--heldout PATH" in err
    status, _, err = run(folder, *real[:2], "--heldout", tmp_path / "nowhere")
    assert status == 1 and "does not exist" in err
    status, out, err = run(folder, *real[:2], "--heldout", real[1], "--study", "twice")
    assert status == 0 and "120 of the held-out images are training images" in out, err
    status, out, err = run(folder, *real[:2])
    assert status == 0 and "split off the real ones" in out and "24 held out" in out, err
    status, _, err = run("--condition", f"other={folder}", *real)
    assert status == 1 and "imported with other real images" in err
    facts = Study(tmp_path / "out" / "s").real.facts
    assert facts.split and "24 of them at random" in facts.source
    assert store.file_hash(tmp_path / "real.npy") in facts.extra["real"]


# -- Where images are -------------------------------------------------------------------------------------------------


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def places(root, pattern=None, first=None):
    chains = layout.chains_of([root], [], pattern, first)
    return {c.seed: [s.path.relative_to(root).as_posix() for s in c.sources] for c in chains}


def test_generations_are_found_in_the_layouts_of_public_programs(tmp_path):
    root = touch(tmp_path / "a", *(f"{k}/gen_samples/0/0.png" for k in range(11)), "3/mixed_samples/m/0.png")
    assert places(root)[0] == [f"{k}/gen_samples" for k in range(11)]
    root = touch(tmp_path / "b", *(f"iter_{k}/{n}" for k in (1, 2) for n in ("images.npy", "training_dataset.npy")))
    assert places(root) == {0: ["iter_1/images.npy", "iter_2/images.npy"]}
    root = touch(tmp_path / "c", "seed_0/gen0.npz", "seed_0/gen1.npz", "seed_3/gen0.npz", "log.txt")
    assert places(root) == {0: ["seed_0/gen0.npz", "seed_0/gen1.npz"], 3: ["seed_3/gen0.npz"]}
    root = touch(tmp_path / "d", "gen_00.zip", "gen_01.zip", "samples_0.npy", "samples_1.npy")
    with pytest.raises(UserError, match=r"several kinds, gen_#.zip \(2\), samples_#.npy \(2\)"):
        places(root)
    assert places(root, "samples_*.npy") == {0: ["samples_0.npy", "samples_1.npy"]}
    root = touch(tmp_path / "e", "iter_0_epoch_9/x.png", "iter_1_epoch_9/x.png", "iter_2_epoch_9/x.png")
    assert places(root, first=1) == {0: ["iter_1_epoch_9", "iter_2_epoch_9"]}


def test_an_array_of_other_dimensions_is_no_image(tmp_path):
    root = touch(tmp_path / "a", "iter_0/0.png", "iter_1/0.png")
    for k in (0, 1):
        np.save(root / f"iter_{k}" / "fid.npy", np.zeros(3))
    assert places(root) == {0: ["iter_0", "iter_1"]}


@pytest.mark.parametrize(
    "names, says",
    [
        (["iter_0/a.png", "iter_1/a.png", "iter_3/a.png"], "generation 2 is missing"),
        (["iter_5/a.png", "iter_6/a.png"], "--first 5"),
        (["iter_01/a.png", "iter_1/a.png"], "both generation 1"),
        (["iter_0/a.npy", "iter_0/b.npy"], "unclear"),
        (["a0_0/a.png", "a1_1/a.png"], "several numbers differ"),
        (["seed1/iter_0/a.png", "seed01/iter_0/a.png"], "both seed 1"),
    ],
)
def test_unclear_generations_are_refused(tmp_path, names, says):
    with pytest.raises(UserError, match=says):
        places(touch(tmp_path / "a", *names))


def test_names_of_conditions(tmp_path):
    one, two = (touch(tmp_path / n / "out", "0/a.png") for n in ("a", "b"))
    with pytest.raises(UserError, match="--condition NAME=FOLDER"):
        layout.chains_of([one, two], [])
    chains = layout.chains_of([], [f"replace,x=1={one}", f"replace,x=1={two}"])
    assert [(c.condition, c.seed) for c in chains] == [("replace,x=1", 0), ("replace,x=1", 1)]
    for name in ("a/b", "..", "shared", ""):
        with pytest.raises(UserError, match="cannot be the name"):
            layout.chains_of([], [f"{name}={one}"])


# -- Floats -----------------------------------------------------------------------------------------------------------


def test_floats_are_read_by_levels_that_all_generations_share(tmp_path):
    signed, unit = drawn(0) / 127.5 - 1, drawn(1) / 255.0
    late = np.full((4, 8, 8), 0.5)  # of a collapsed generation: alone it would be taken for 0 to 1
    for name, x in (("signed", signed), ("unit", unit), ("late", late)):
        np.savez(tmp_path / f"{name}.npz", images=x.astype(np.float32))
    found = levels_of([tmp_path / "signed.npz", tmp_path / "late.npz"], None, "the images")
    assert found.values == LEVELS["signed"] and "assumed" in found.assumed
    np.testing.assert_array_equal(read(tmp_path / "signed.npz", levels=found.values).pool.x[:, 0], drawn(0))
    assert set(read(tmp_path / "late.npz", levels=found.values).pool.x.ravel()) == {191}
    found = levels_of([tmp_path / "unit.npz"], "unit", "the images")
    assert "assumed" not in found.assumed
    np.testing.assert_array_equal(read(tmp_path / "unit.npz", levels=found.values).pool.x[:, 0], drawn(1))
    with pytest.raises(UserError, match="of unknown range"):
        read(tmp_path / "unit.npz")


def test_the_page_of_an_imported_study_has_no_training_sets(tmp_path, run, real):
    run(save(tmp_path / "replace", drawn(0), drawn(1)), *real)
    r = page.report(tmp_path / "out" / "s")
    text = page.html(r)
    assert page.shares(r.study, r.names) == [] and 'id="training"' not in text
    assert "whose latents are not known" in text and "Import one with --condition real_only=FOLDER" in r.reason
