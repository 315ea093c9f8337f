"""The loop end to end on real digits: the files of a chain, resuming, extending, sharing, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import preloaded
import pytest
from conftest import REPO, TINY, thinned
from PIL import Image

import imgloop
from imgloop import figures, store
from imgloop.errors import UserError
from imgloop.pool import REAL

HASHES = ("pool_hash", "mix_hash", "model_hash")


def chain(tmp_path, *overrides):
    return imgloop.run([*TINY, f"out={tmp_path}", *overrides])


def hashes(folder):
    return [[store.read_json(g / "record.json")[h] for h in HASHES] for g in sorted(folder.glob("gen*"))]


def popen(*arguments):
    """`python -m imgloop ...` in a fresh interpreter, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "imgloop", *arguments],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three generations of accumulate, uninterrupted."""
    return chain(tmp_path_factory.mktemp("out"), "generations=3")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One generation of accumulate; tests must not change it."""
    return chain(tmp_path_factory.mktemp("single"), "generations=1")


@pytest.fixture
def begun(single, tmp_path):
    """The folder of a copy of that chain in tmp_path, which `chain(tmp_path, ...)` continues."""
    shutil.copytree(single.folder.parents[1], tmp_path / single.folder.parents[1].name)
    return tmp_path / single.folder.relative_to(single.folder.parents[2])


def test_run_folder_has_the_documented_files(finished):
    folder = finished.folder
    for g in range(3):
        for name in ("record.json", "mix.safetensors", "pool.safetensors", "grid.png", "model/imgloop.json"):
            assert (folder / f"gen{g:03d}" / name).exists(), name
        assert len(list((folder / f"gen{g:03d}" / "scores").glob("pixels-*.json"))) == 1
    for name in ("config.yaml", "metrics.csv", "evolution.png", "evolution.webp", "curves.png", "run.log"):
        assert (folder / name).exists(), name
    assert not (folder.parent.parent / "comparison.png").exists()  # there is one chain only
    assert not [p for p in folder.iterdir() if "part" in p.name or "scratch" in p.name]


def test_records_hold_what_each_generation_was_made_of(finished):
    records = [store.read_json(finished.folder / f"gen{t:03d}" / "record.json") for t in range(3)]
    assert [r["n_train"] for r in records] == [1397, 1397 + 48, 1397 + 96]
    assert records[2]["share_by_origin"] == {"-1": 1397 / 1493, "0": 48 / 1493, "1": 48 / 1493}
    mix = store.open_arrays(finished.folder / "gen002" / "mix.safetensors")
    assert {int(o): int((mix["origin"] == o).sum()) for o in np.unique(mix["origin"])} == {REAL: 1397, 0: 48, 1: 48}
    assert records[0]["nfe"] == 3 and records[0]["versions"]["torch"] and records[0]["machine"]["threads"] == 1


def test_metrics_have_a_row_per_generation_and_no_zero_for_what_was_not_measured(finished):
    frame = pd.read_csv(finished.folder / "metrics.csv")
    assert list(frame["generation"]) == [0, 1, 2]
    for c in ("fd", "kd", "precision", "recall", "variance_ratio", "risk", "seconds_train", "protocol"):
        assert frame[c].notna().all(), c
    assert "modes_covered" not in frame  # pixels do not classify
    text = (finished.folder / "metrics.csv").read_text().splitlines()[1]
    assert max(len(field.replace(".", "").lstrip("0")) for field in text.split(",")[4:-1]) <= 8


def test_pictures_show_samples_of_the_same_latents_in_each_row(finished):
    grid = np.asarray(Image.open(finished.folder / "gen000" / "grid.png"))
    assert grid.shape[1] > 700 and grid.std() > 30
    paths = [finished.folder / f"gen{t:03d}" / "evolution.safetensors" for t in range(2)]
    first, second = (store.open_arrays(p)["x"].astype(float).reshape(16, -1) for p in paths)
    assert not np.array_equal(first, second)
    correlation = np.corrcoef(np.concatenate([first, second]))[:16, 16:]
    # Samples of one latent are alike in consecutive generations.
    assert np.diag(correlation).mean() > np.mean(correlation[~np.eye(16, dtype=bool)]) + 0.1


def test_the_evolution_is_also_an_animation_that_is_hashed_with_the_other_pictures(finished):
    with Image.open(finished.folder / "evolution.webp") as found:
        assert found.n_frames == 3
    assert "evolution.webp" in store.read_json(finished.folder / ".derived.json")["files"]


def test_samples_of_a_class_conditional_chain_are_shown_with_their_classes(tmp_path, monkeypatch):
    shown = []
    tile = figures.tile
    monkeypatch.setattr(figures, "tile", lambda *a, **k: shown.append((k["y"], k["classes"])) or tile(*a, **k))
    folder = chain(tmp_path, "model.conditional=true", "generations=1").folder
    stored = store.open_arrays(folder / "gen000" / "evolution.safetensors")["y"]
    real, drawn, still, moving = shown
    digits = tuple("0123456789")
    assert [tuple(classes) for _, classes in shown] == [digits] * 4
    assert np.array_equal(drawn[0], store.open_arrays(folder / "gen000" / "pool.safetensors")["y"])
    assert stored.shape == (16,) and np.array_equal(still[0], stored) and np.array_equal(moving[0], stored)
    assert len(real[0]) == 64
    study = imgloop.Study(folder.parents[1])
    found = study.latent_labels(study.conditions[0], 0, 0)
    assert found is not None and np.array_equal(found, stored)


def test_a_finished_chain_is_left_as_it_is(finished):
    before = {
        p: p.stat().st_mtime_ns
        for p in finished.folder.rglob("*")
        if p.is_file() and p.name not in ("run.log", ".lock")
    }
    again = imgloop.run([*TINY, f"out={finished.folder.parents[2]}", "generations=3"])
    assert before == {p: p.stat().st_mtime_ns for p in before}
    pd.testing.assert_frame_equal(again.metrics, finished.metrics, check_dtype=False)
    assert "nothing to do" in (finished.folder / "run.log").read_text()


def test_no_op_does_not_import_torch(finished):
    code = (
        f"import sys, imgloop; imgloop.run({[*TINY, f'out={finished.folder.parents[2]}', 'generations=2']!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_extended_equals_longer_from_the_start(finished, begun, tmp_path):
    assert len(hashes(begun)) == 1
    longer = chain(tmp_path, "generations=3")
    assert hashes(longer.folder) == hashes(finished.folder)


def test_another_seed_gives_another_chain(finished, tmp_path):
    other = chain(tmp_path, "generations=1", "seed=1")
    assert other.folder.name == "seed1"
    assert hashes(other.folder)[0][0] != hashes(finished.folder)[0][0]


INTERRUPTED = [*TINY[1:], "train.images=3200", "generations=2", "trainer.checkpoint_seconds=0.1"]
SIGNALS = pytest.mark.parametrize("number", thinned([signal.SIGKILL, signal.SIGINT, signal.SIGTERM], 3))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Two generations of 50 steps, in one run."""
    return imgloop.run([*INTERRUPTED, f"out={tmp_path_factory.mktemp('whole')}"])


def exists(folder, pattern):
    """Whether a path that ends so exists in a folder that another process changes."""
    return any(f"{at}/{name}".endswith(pattern) for at, _, names in os.walk(folder) for name in names)


def interrupted(process, number, folder, pattern, delay):
    """Send a signal `delay` seconds after a file of this pattern exists; returns the exit status."""
    started = time.monotonic()
    while process.poll() is None and not exists(folder, pattern) and time.monotonic() - started < 60:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert "Traceback" not in error, error
    return process.returncode


def status_of(number):
    """The exit status of a process that ends by a signal."""
    return -9 if number == signal.SIGKILL else 128 + number


def check_resumed(settings, whole):
    resumed = imgloop.run(settings)
    assert hashes(resumed.folder) == hashes(whole.folder)
    timing = [c for c in whole.metrics if c.startswith("seconds")]
    pd.testing.assert_frame_equal(resumed.metrics.drop(columns=timing), whole.metrics.drop(columns=timing))


@SIGNALS
def test_interrupted_once_and_resumed_equals_uninterrupted(tmp_path, number, uninterrupted):
    """The signal comes in the training of generation 1, when a checkpoint exists."""
    settings = [*INTERRUPTED, f"out={tmp_path}"]
    process = preloaded.Command("-m", "imgloop", *settings)
    assert interrupted(process, number, tmp_path, ".gen001.scratch/checkpoint.pt", 0) == status_of(number)
    assert list(tmp_path.rglob("gen000")) and not list(tmp_path.rglob("gen001"))
    check_resumed(settings, uninterrupted)


@pytest.mark.nightly
@SIGNALS
def test_interrupted_five_times_and_resumed_equals_uninterrupted(tmp_path, number, uninterrupted):
    """Signals at moments spread over the whole run. The first comes while a fresh interpreter imports, the others after
    the imports."""
    settings = [*INTERRUPTED, f"out={tmp_path / 'parts'}"]
    codes, rng = [], np.random.default_rng(int(number))
    for attempt in range(5):
        folder = tmp_path / "parts" / "digits-diffusion"
        store.remove(*folder.rglob("run.log"))  # it exists again once the process handles signals
        process = preloaded.Command("-m", "imgloop", *settings) if attempt else popen(*settings)
        codes.append(interrupted(process, number, folder, "run.log", rng.uniform(0.1, 2.0 if attempt else 5.0)))
        if process.returncode == 0:
            break
    assert status_of(number) in codes and set(codes) <= {0, status_of(number)}, codes
    check_resumed(settings, uninterrupted)


def test_resuming_continues_from_the_checkpoint_and_not_from_the_start(tmp_path, monkeypatch):
    """A fit that was stopped half-way sees only its remaining images when it resumes."""
    from imgloop.errors import Stopped
    from imgloop.models.diffusion import Diffusion
    from imgloop.pool import Mix, Pool, TrainingSet
    from imgloop.training import trainer
    from imgloop.training.batches import Batches
    from imgloop.training.tasks import Task

    x = np.random.default_rng(0).integers(0, 256, (96, 1, 8, 8), np.uint8)
    data = TrainingSet({REAL: Pool(x)}, Mix(np.full((96, 1), REAL), np.arange(96)[:, None]))
    monkeypatch.setitem(trainer.CHUNK, "cpu", 2)
    model = Diffusion(widths=[8, 16], batch=32)
    seen, call = [], Batches.__call__

    def spy(self, k):
        seen.append(k)
        return call(self, k)

    def fit(scratch, stop):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batches, "__call__", spy)
            return model.fit(data, Task(1, 0, 32 * 20, "scratch", tmp_path / scratch, stop=stop), None)

    whole = fit("whole", lambda: False)
    assert seen == list(range(20))
    with pytest.raises(Stopped):
        fit("parts", lambda: len(seen) >= 10)
    assert seen == list(range(10))
    parts = fit("parts", lambda: False)
    assert seen == list(range(10, 20))
    assert np.array_equal(whole.sample(8, seed=1).x, parts.sample(8, seed=1).x)


def test_generation_0_is_computed_once_per_seed_and_shared(tmp_path):
    folders = [chain(tmp_path, "generations=1", p).folder for p in ("paradigm=replace", "paradigm=real_only")]
    folders.append(chain(tmp_path, "generations=1", "paradigm=replace", "seed=1").folder)
    shared = list((tmp_path / "digits-diffusion" / "shared").glob("generation0-*"))
    assert len(shared) == 2  # one per seed, for all paradigms
    assert hashes(folders[0]) == hashes(folders[1]) != hashes(folders[2])


def test_two_processes_that_need_one_generation_0_train_it_once(tmp_path):
    settings = [*TINY[1:], "train.images=6400", "generations=1", f"out={tmp_path}"]
    both = [preloaded.Command("-m", "imgloop", *settings, f"paradigm={p}") for p in ("replace", "accumulate")]
    outputs = [p.communicate(timeout=200) for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    assert len(list((tmp_path / "digits-diffusion" / "shared").glob("generation0-*"))) == 1
    assert len({str(hashes(f)) for f in (tmp_path / "digits-diffusion").glob("*/seed0")}) == 1


def test_the_same_chain_cannot_run_twice_at_once(tmp_path, finished):
    with store.lock(finished.folder / ".lock"), pytest.raises(UserError, match="Another process"):
        imgloop.run([*TINY, f"out={finished.folder.parents[2]}", "generations=4"])


def test_settings_that_changed_are_refused_by_name(tmp_path):
    folder = chain(tmp_path, "generations=1", "study=mine").folder
    record = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(record.replace("model.batch: null", "model.batch: 32"))
    with pytest.raises(UserError, match="there 32, now null") as error:
        chain(tmp_path, "generations=2", "study=mine")
    assert error.value.setting == "model.batch" and "overwrite=true" in str(error.value)
    assert (folder / "gen000").exists()
    chain(tmp_path, "generations=1", "study=mine", "overwrite=true")
    assert "model.batch: null" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    "name, spoil",
    [
        ("pool.safetensors", "flip"),
        ("pool.safetensors", "cut"),
        ("pool.safetensors", "remove"),
        ("record.json", "cut"),
        ("record.json", "remove"),
    ],
)
def test_a_damaged_folder_is_refused_and_the_file_named(tmp_path, begun, name, spoil):
    path = begun / "gen000" / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.unlink()  # the copy may be a hard link
    if spoil != "remove":
        path.write_bytes(data if spoil == "flip" else data[: len(data) // 2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        chain(tmp_path, "generations=2")
    assert not (begun / "gen001").exists()


def test_no_code_named_in_a_folder_is_run(begun):
    """Measuring and loading a study import nothing that a run folder names."""
    from imgloop.measure import measure

    path = begun / "config.yaml"
    text = path.read_text()
    for name in ("imgloop.data.digits.Digits", "imgloop.models.diffusion.Diffusion"):
        assert name in text
        text = text.replace(name, "os.abort")
    path.write_text(text)
    measure(begun.parent.parent, ["features=random"])
    assert len(imgloop.load_study(begun.parent.parent)) == 1


@pytest.mark.nightly
def test_measuring_again_needs_no_training_and_gives_the_same_digits(tmp_path):
    from imgloop.measure import measure

    folder = chain(tmp_path, "generations=2").folder
    before = hashes(folder)
    first = pd.read_csv(folder / "metrics.csv")
    name = measure(folder.parent.parent, ["features=random"])
    other = pd.read_csv(folder / "metrics.csv")
    assert set(other["protocol"]) == {name} != set(first["protocol"]) and not np.allclose(first["fd"], other["fd"])
    assert len(list((folder / "gen000" / "scores").iterdir())) == 2
    measure(folder.parent.parent, ["features=pixels"], again=True)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), first)
    assert hashes(folder) == before
    with pytest.raises(UserError, match=r"train\.images"):
        measure(folder.parent.parent, ["train.images=3"])


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (["model.batch=200", "n_initial=150"], r"the 150 images of the training set of generation 0"),
        (["model.batch=150", "paradigm=replace", "n_samples=20"], r"the 20 images of the training set of generation 1"),
        (["model.widths=[80000,80000]"], r"[\d,]+ parameters takes [\d,.]+ GiB .* lower model\.widths"),
        (["model=gan", "model.widths=[40000,40000]"], r"[\d,]+ parameters takes [\d,.]+ GiB .* lower model\.widths"),
        (["model=gan", "model.blocks=65"], r"1 to 64"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_ends_in_a_sentence_and_leaves_no_folder(tmp_path, settings, sentence):
    small = [o for o in TINY if not o.startswith("model.") or settings[0].startswith("model.batch")]
    with pytest.raises(UserError, match=sentence):
        imgloop.run([*(o for o in small if o.partition("=")[0] != "n_samples"), f"out={tmp_path}", *settings])
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("model", ["diffusion", "gan"])
def test_a_chain_with_flips_is_compared_with_mirrored_images(tmp_path, model):
    """Flips are in the condition and the protocol, and what is measured again is compared alike."""
    from imgloop.measure import measure

    of = {"diffusion": ["model.widths=[8,16]", "model.sampler_steps=2"], "gan": ["model=gan", "model.widths=[8,8]"]}
    small = [o for o in TINY if not o.startswith("model.")] + of[model]
    plain, flipped = (
        imgloop.run([*small, f"out={tmp_path}", "generations=1", f"study={s}", *more])
        for s, more in (("plain", []), ("flipped", ["train.flip=true"]))
    )
    assert "train.flip=true" in flipped.folder.parent.name
    a, b = (store.read_json(r.folder / "gen000" / "record.json") for r in (plain, flipped))
    assert a["pool_hash"] != b["pool_hash"] and a["real"] == b["real"]
    assert not np.isclose(plain.metrics["fd"][0], flipped.metrics["fd"][0])
    (path,) = (flipped.folder / "gen000" / "scores").iterdir()
    before = store.read_json(path)
    assert before["protocol"]["flipped"] is True
    assert measure(flipped.folder.parent.parent, ["features=pixels"], again=True) == path.stem
    assert store.read_json(path) == before
    with pytest.raises(UserError, match=r"train\.flip \(there True, now False\)|was made with other settings"):
        flipped.folder.parent.rename(tmp_path / "flipped" / plain.folder.parent.name)
        imgloop.run([*small, f"out={tmp_path}", "generations=1", "study=flipped"])


@pytest.mark.nightly
def test_memory_does_not_grow_with_generations(tmp_path):
    """Pools are memory-mapped: no array in memory holds an earlier generation's samples."""
    import gc

    def bytes_in_memory():
        gc.collect()
        return sum(
            a.nbytes
            for a in gc.get_objects()
            if type(a) is np.ndarray and a.base is None and a.dtype == np.uint8 and a.nbytes > 4096
        )

    before = bytes_in_memory()
    chain(tmp_path, "generations=4", "n_samples=500", "data.n=150", "data.heldout=50")
    assert bytes_in_memory() - before < 500 * 64 * 2


@pytest.mark.parametrize("start", thinned(["weights", "weights_and_optimizer"], 2))
def test_start_from_the_previous_generation(tmp_path, finished, start):
    scratch, warm = finished.folder, chain(tmp_path, "generations=2", f"start={start}").folder
    assert hashes(scratch)[0][0] == hashes(warm)[0][0]  # generation 0 has no previous one
    assert hashes(scratch)[1][0] != hashes(warm)[1][0]
    longer = chain(tmp_path, "generations=3", f"start={start}")
    assert len(hashes(longer.folder)) == 3


@pytest.mark.parametrize("start", thinned(["weights", "weights_and_optimizer", "PATH"], 4))
@pytest.mark.parametrize("model", ["diffusion", "gan"])
def test_generations_without_images_keep_every_bit(tmp_path, model, start):
    """Averages, raw weights and optimisers; from the chain's own generation 0 or a saved model."""
    tiny = [o for o in TINY if model == "diffusion" or not o.startswith("model.sampler")]
    given = [*tiny, f"model={model}", f"out={tmp_path}"]
    if start == "PATH":
        first = imgloop.run([*given, "generations=1"]).folder / "gen000"
        folder = imgloop.run([*given, "generations=1", f'start="{first}"', "train.images=0", "study=next"]).folder
        folders = [first, folder / "gen000"]
    else:
        folder = imgloop.run([*given, f"start={start}", "train.images=[640,0,0]", "generations=3"]).folder
        folders = [folder / f"gen{t:03d}" for t in range(3)]
    for name in {p.name for p in (folders[0] / "model").iterdir()} - {"imgloop.json"}:
        assert len({store.file_hash(f / "model" / name) for f in folders}) == 1, name
    pools = [store.read_json(f / "record.json")["pool_hash"] for f in folders]
    assert len(set(pools)) == (1 if start == "PATH" else 3)  # each generation has its own latents


def test_samples_too_few_to_compare_are_told(tmp_path, capsys):
    result = imgloop.run([*TINY, f"out={tmp_path}", "n_samples=1", "generations=1", "display=lines"])
    said = capsys.readouterr().out
    assert "generation 0: 1 sample is too few to compare with real images: 11 or more are needed (n_samples)" in said
    assert "fd" not in result.metrics and result.metrics["risk"][0] > 0


def test_resuming_with_other_threads_warns(tmp_path, begun, capsys):
    chain(tmp_path, "generations=2", "threads=2", "display=lines")
    assert "threads (1, now 2)" in capsys.readouterr().out


def test_a_folder_to_start_from_must_hold_a_model(tmp_path):
    with pytest.raises(UserError, match="no saved model") as error:
        chain(tmp_path, f'start="{tmp_path}"')
    assert error.value.setting == "start"


def test_start_from_a_saved_model(tmp_path, begun):
    start = f'start="{begun / "gen000"}"'
    second = chain(tmp_path, "generations=1", start, "study=next").folder
    assert hashes(second)[0][2] != hashes(begun)[0][2]
    with pytest.raises(UserError, match="start from") as error:
        chain(tmp_path, "generations=1", start, "study=wrong", "model.widths=[16,32]")
    assert error.value.setting == "model.widths"


def test_keep_models_prunes_weights_and_nothing_else(tmp_path):
    folder = chain(tmp_path, "generations=3", "keep_models=1").folder
    assert [(folder / f"gen{t:03d}" / "model").exists() for t in range(3)] == [False, False, True]
    assert all((folder / f"gen{t:03d}" / "pool.safetensors").exists() for t in range(3))
    chain(tmp_path, "generations=4", "keep_models=1")


def test_a_nan_loss_ends_the_run_with_its_step_and_keeps_what_exists(tmp_path, begun, monkeypatch):
    from imgloop.models.diffusion import DiffusionModule

    before, loss = hashes(begun), DiffusionModule.loss
    # Only generation 1 fails, not the timed trial before it, which is a generation 0.
    monkeypatch.setattr(
        DiffusionModule, "loss", lambda self, k: loss(self, k) * (float("nan") if (self.batches.t, k) == (1, 1) else 1)
    )
    with pytest.raises(UserError, match=r"nan at step 2 of 3 in generation 1.*model\.lr"):
        chain(tmp_path, "generations=2")
    assert hashes(begun) == before
    monkeypatch.undo()
    assert len(hashes(chain(tmp_path, "generations=2").folder)) == 2


def test_a_full_disk_is_reported_and_the_run_continues_later(tmp_path, begun, monkeypatch):
    import errno

    replace = os.replace

    def full(a, b):
        if "gen001" in str(b):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(a, b)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="disk is full"):
        chain(tmp_path, "generations=2")
    monkeypatch.undo()
    assert len(hashes(begun)) == 1
    assert len(hashes(chain(tmp_path, "generations=2").folder)) == 2


def test_class_conditional_chain_carries_labels(tmp_path):
    folder = chain(tmp_path, "generations=2", "model.conditional=true").folder
    arrays = store.open_arrays(folder / "gen001" / "pool.safetensors")
    assert arrays["y"].shape == (48,) and set(np.unique(arrays["y"])) <= set(range(10))
    description = store.read_json(folder / "gen001" / "model" / "imgloop.json")
    mix = store.open_arrays(folder / "gen001" / "mix.safetensors")
    assert description["labels"] == "training" and abs(sum(description["label_frequencies"]) - 1) < 1e-9
    real = store.open_arrays(next((folder.parents[1] / "shared").glob("real-*")) / "train.safetensors")["y"]
    first = store.open_arrays(folder / "gen000" / "pool.safetensors")["y"]
    y = np.where(
        mix["origin"][:, 0] == REAL,
        real[np.minimum(mix["row"][:, 0], len(real) - 1)],
        first[np.minimum(mix["row"][:, 0], 47)],
    )
    assert np.allclose(np.bincount(y, minlength=10) / len(y), description["label_frequencies"])
