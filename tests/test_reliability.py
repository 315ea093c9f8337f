"""What docs/reliability.md promises: nothing is lost or silently wrong, whatever happens to a run or its files."""

import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import yaml
from conftest import REPO, TINY

import imgloop
from imgloop import store
from imgloop.errors import UserError, printable
from imgloop.measure import measure
from imgloop.report.__main__ import main as report
from imgloop.report.check import check
from imgloop.study.generation import generations

SMALL = [*TINY, "data.n=150", "data.heldout=50"]
SOLVED = ["model=gaussian", "model.replicates=3", "data.n=9", "display=none"]


def chain(out, *overrides):
    return imgloop.run([*SMALL, f"out={out}", *overrides])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A chain of two generations; not to be changed."""
    return chain(tmp_path_factory.mktemp("made"), "generations=2").folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of that chain, which `chain(tmp_path, ...)` continues."""
    shutil.copytree(made.parents[1], tmp_path / made.parents[1].name)
    return tmp_path / made.relative_to(made.parents[2])


def script(name, *arguments, timeout=900):
    """Run scripts/NAME.py in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, REPO / "scripts" / f"{name}.py", *arguments],
        cwd=REPO, capture_output=True, text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip


# -- faults of the disk, and kills -----------------------------------------------------------------------------------


def test_a_sample_of_failing_file_operations_leaves_no_difference():
    ran = script("torture", "analytic", "--every", "39")
    assert ran.returncode == 0 and re.search(r"analytic: \d\d operations, \d faults injected, 0 differ", ran.stdout), (
        ran
    )


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["diffusion", "gan", "overwritten", "pruned", "forked", "measured"])
def test_failing_file_operations_of_trained_chains_leave_no_difference(name):
    ran = script("torture", name, "--every", "40", timeout=3500)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_damaged_files_are_named_or_harmless():
    ran = script("damage", "--every", "37", timeout=3500)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_tables_and_pictures_follow_from_what_is_committed(folder, tmp_path, drawn):
    """Killed after the last generation's rename: the same command, which has nothing else to do, writes them."""
    names = ("metrics.csv", "curves.png", "evolution.png", "evolution.webp")
    before = {n: (folder / n).read_bytes() for n in names}
    (folder / "metrics.csv").write_bytes(before["metrics.csv"][:-9])
    (folder / "evolution.png").unlink()
    (folder / "evolution.webp").write_bytes(b"RIFF")
    again = chain(tmp_path, "generations=2").folder
    after = {n: (again / n).read_bytes() for n in names}
    assert all(after[n] == before[n] for n in names if n != "curves.png")
    assert after["curves.png"].startswith(b"\x89PNG")


def test_pictures_that_an_earlier_version_drew_are_valid_and_those_of_the_chain_are_drawn_again(folder, tmp_path):
    """It had another grid, whose hash its record holds, and no animation."""
    grid, study = folder / "gen000" / "grid.png", folder.parents[1]
    grid.write_bytes(grid.read_bytes() + b"drawn otherwise")
    record = store.read_json(grid.with_name("record.json"))
    store.write_sealed(grid.with_name("record.json"), {**record, "grid_hash": store.file_hash(grid)})
    written = store.read_json(folder / ".derived.json")
    files = {name: h for name, h in written["files"].items() if name != "evolution.webp"}
    store.write_json(folder / ".derived.json", {**written, "key": "earlier", "files": files})
    (folder / "evolution.webp").unlink()
    assert check(study).faults == () and report([str(study)]) == 0
    before = grid.read_bytes()
    chain(tmp_path, "generations=2")
    assert (folder / "evolution.webp").exists() and grid.read_bytes() == before and check(study).faults == ()


def test_a_comparison_is_redrawn_when_a_chain_has_changed(folder, tmp_path):
    chain(tmp_path, "generations=1", "paradigm=replace")
    path = folder.parents[1] / "comparison.csv"
    assert path.read_text().count("\n") == 4
    chain(tmp_path, "generations=2", "paradigm=replace")
    assert path.read_text().count("\n") == 5
    path.write_text("old")
    chain(tmp_path, "generations=2", "paradigm=replace")
    assert path.read_text().count("\n") == 5


def test_weights_that_an_interruption_kept_are_pruned_by_the_same_command(folder, tmp_path):
    chain(tmp_path, "generations=2", "keep_models=1")
    assert [(folder / f"gen{t:03d}" / "model").is_dir() for t in range(2)] == [False, True]


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_an_overwriting_that_was_killed_gives_the_old_chain_back(folder, tmp_path, moved):
    """The old files were moved aside in part."""
    before = {p.name for p in folder.iterdir()}
    (folder / ".replaced").mkdir()
    for p in sorted(folder.iterdir(), key=lambda p: p.name != "config.yaml")[:moved]:
        if p.name not in (".replaced", ".lock"):
            p.rename(folder / ".replaced" / p.name)
    chain(tmp_path, "generations=2")
    assert {p.name for p in folder.iterdir()} == before | {".lock", "run.log"}


def test_what_interruptions_left_is_removed(folder, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f".metrics.csv.{store.HOST}-{ended.pid}.part", ".gen001.scratch/checkpoint.pt", ".gen002.part/half"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("half")
    other = folder / f".metrics.csv.elsewhere-{ended.pid}.part"  # of another machine: perhaps at work
    other.write_text("half")
    chain(tmp_path, "generations=2")
    assert [p.name for p in folder.iterdir() if p.name.startswith((".gen", ".metrics"))] == [other.name]


@pytest.mark.nightly
def test_workers_end_when_their_parent_is_killed(tmp_path):
    slow = [o for o in SMALL if not o.startswith("train")] + ["train.images=500000", "trainer.checkpoint_seconds=0.5"]
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "imgloop", "-m", "seed=0,1", *parallel, *slow, f"out={tmp_path}"],
        cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    parent.kill()
    parent.wait()
    for lock in tmp_path.glob("*/*/seed*/.lock"):
        with store.lock(lock):  # waits for its worker to end
            pass
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 2


# -- damage ----------------------------------------------------------------------------------------------------------


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.unlink()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name", ["pool.safetensors", "model", "mix.safetensors", "record.json", "evolution.safetensors"]
)
def test_a_flipped_bit_is_found_by_whoever_reads_the_file(folder, tmp_path, name, capsys):
    path = folder / "gen000" / name
    flipped(path / "network.safetensors" if path.is_dir() else path)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        chain(tmp_path, "generations=3")
    if name in ("pool.safetensors", "model", "record.json"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            measure(folder.parents[1], ["features=random"])
    assert report([str(folder.parents[1]), "--check"]) == 1
    assert name in capsys.readouterr().out and not (folder / "gen002").exists()


@pytest.mark.parametrize(
    "what", ["real-*/train.safetensors", "real-*/facts.json", "generation0-*/model/network.safetensors"]
)
def test_a_flipped_bit_of_what_chains_share_is_found(folder, tmp_path, what, capsys):
    (path,) = (folder.parents[1] / "shared").glob(what)
    flipped(path)
    assert report([str(folder.parents[1]), "--check"]) == 1 and path.name in capsys.readouterr().out
    with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
        chain(tmp_path, "generations=1", "paradigm=replace")


def test_every_damaged_file_is_listed(folder, capsys):
    for name in ("gen000/pool.safetensors", "gen000/loss.json", "gen001/mix.safetensors"):
        if (folder / name).exists():
            flipped(folder / name)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("checkpoint_seconds: 30", "checkpoint_seconds: 31"))
    assert report([str(folder.parents[1]), "--check"]) == 1
    told = capsys.readouterr().out
    assert all(name in told for name in ("gen000/pool.safetensors", "gen001/mix.safetensors", "config.yaml"))


def test_a_whole_study_passes_the_check(folder, capsys):
    assert report([str(folder.parents[1]), "--check"]) == 0 and "as they were written" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', "7", "null", '{"seconds": []}'])
@pytest.mark.parametrize("name", ["record.json", "scores", "model/imgloop.json"])
def test_a_file_of_another_kind_is_named(folder, tmp_path, name, content):
    path = folder / "gen001" / name
    path = next(path.glob("*.json")) if path.is_dir() else path
    path.unlink()
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(path.name) + "|model"):
        chain(tmp_path, "generations=3")
    if name != "scores":  # of another protocol
        with pytest.raises(UserError, match=re.escape(path.name) + "|model"):
            measure(folder.parents[1], ["features=random"])


def test_a_missing_generation_in_the_middle_is_named(folder, tmp_path):
    shutil.rmtree(folder / "gen000")
    with pytest.raises(UserError, match="gen000 is missing, and gen001 is there"):
        chain(tmp_path, "generations=3")


def test_generations_are_in_the_order_of_their_numbers(tmp_path):
    for t in (0, 101, 1000, 99):
        (tmp_path / f"gen{t:03d}").mkdir()
    assert [p.name for p in generations(tmp_path)] == ["gen000", "gen099", "gen101", "gen1000"]


def test_a_truncated_checkpoint_is_named(folder, tmp_path):
    scratch = folder / ".gen002.scratch"
    scratch.mkdir()
    (scratch / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"checkpoint\.pt.*Delete it"):
        chain(tmp_path, "generations=3")
    assert (folder / "gen001").exists()


@pytest.mark.parametrize(
    "key, value", [("widths", [10**9]), ("widths", "x"), ("objective", {"kind": "os"}), ("size", -1)]
)
def test_an_absurd_description_of_a_network_is_refused_before_it_is_built(made, tmp_path, key, value):
    from imgloop.models import load

    shutil.copytree(made / "gen000" / "model", tmp_path / "model")
    path = tmp_path / "model" / "imgloop.json"
    store.write_json(path, store.read_json(path) | {key: value})
    with pytest.raises(UserError, match=r"imgloop\.json"):
        load(tmp_path / "model")


def test_a_pool_without_images_or_with_short_labels_is_named(tmp_path):
    from imgloop.study.generation import read_pool

    x = np.zeros((4, 1, 8, 8), np.uint8)
    for arrays in (
        {"z": x},
        {"x": x.astype(np.float32)},
        {"x": x, "y": np.arange(3)},
        {"x": x, "weight": np.ones((4, 1))},
    ):
        store.write_arrays(tmp_path / "pool.safetensors", arrays)
        with pytest.raises(UserError, match=r"pool\.safetensors"):
            read_pool(tmp_path / "pool.safetensors")


# -- hostile input ---------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from imgloop.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {body}
except UserError as e:
    print(e)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak(body):
    """The printed sentence, and MiB that a program took above what its imports take."""
    ran = subprocess.run([sys.executable, "-c", PEAK.format(body=body)], cwd=REPO, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    *sentence, mib = ran.stdout.splitlines()
    return " ".join(sentence), int(mib)


def padded_png(side, bytes_):
    """A grey PNG with a chunk of that many zeros before its pixels."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    rows = part(b"IDAT", zlib.compress(bytes((side + 1) * side)))
    return b"\x89PNG\r\n\x1a\n" + header + rows + part(b"zzZz", bytes(bytes_)) + part(b"IEND", b"")


def test_a_zip_bomb_takes_little_memory(tmp_path):
    path = tmp_path / "bomb.zip"
    image = padded_png(64, 200 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(4):
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", image)
    del image
    assert path.stat().st_size < 8 << 20
    load = f"from imgloop.data.folder import Folder; from pathlib import Path; Folder(root={str(path)!r}, size=8)"
    sentence, mib = peak(f"{load}.load(Path({str(tmp_path / 'cache')!r}))")
    assert "too many for 64x64 pixels" in sentence and mib < 1024, (sentence, mib)
    read = f"from imgloop.metrics.images import read; read({str(path)!r})"
    sentence, mib = peak(read)
    assert "too many for 64x64 pixels" in sentence and mib < 1024, (sentence, mib)


def test_an_npz_of_large_arrays_that_are_no_images_takes_little_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1 << 27,), np.float64), y=np.zeros(3, np.uint8))
    assert path.stat().st_size < 8 << 20
    sentence, mib = peak(f"from imgloop.metrics.images import read; read({str(path)!r})")
    assert "float64" in sentence and mib < 512, (sentence, mib)


def test_a_bomb_of_aliases_is_refused_at_once(folder, tmp_path):
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    for text in (bomb, "a: &a [*a]\n", "x: " + "[" * 4000):
        (folder / "config.yaml").write_text(text)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"config\.yaml"):
            chain(tmp_path, "generations=3")
        assert report([str(folder.parents[1])]) == 0 and time.monotonic() - began < 60
    assert yaml.safe_load("a: &x 1\nb: *x") == {"a": 1, "b": 1}  # a few aliases are no bomb


HOSTILE = [
    {"model.widths": [{"_target_": "os.system", "command": "touch pwned"}]},
    {"model.widths": [[{"_target_": "pathlib.Path.write_text"}]]},
    {"study": "a; touch pwned"},
    {"study": "${oc.env:HOME}"},
    {"hydra.sweeper._target_": "os.system"},
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda c: next(iter(c)))
def test_no_code_that_a_study_names_reaches_a_printed_command(folder, change, monkeypatch, tmp_path):
    import shlex

    from imgloop.report import reproduce

    monkeypatch.chdir(tmp_path)
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in change.items():
        node = stored["config"]
        *groups, last = key.split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    try:
        words = shlex.split(reproduce.command(stored, [0]))
    except UserError:
        words = []
    assert not any("_target_" in w or "$" in w for w in words) and not (tmp_path / "pwned").exists()
    assert not words or (words[:3] == ["python", "-m", "imgloop"] and "touch" not in words)


def test_control_characters_are_spelt_out():
    assert (
        printable("a\x1b[31mb\u202ec\nd\x9b") == "a\\x1b[31mb\\u202ec\\nd\\x9b" and printable("größer ✓") == "größer ✓"
    )
    assert "\x1b" not in str(UserError("named \x1b[2J"))


# -- the code that made a chain --------------------------------------------------------------------------------------


def test_a_chain_that_other_code_continues_is_told(folder, tmp_path, monkeypatch):
    from imgloop import paradigm

    def later(self, sizes, t, rng, replicates):
        return self.newest(sizes, t, replicates)

    monkeypatch.setattr(paradigm.Accumulate, "later", later)
    chain(tmp_path, "generations=3")
    assert "are made by other code than those before: code of paradigm=accumulate" in (folder / "run.log").read_text()


def test_the_disk_that_a_chain_needs_is_known_before_it_trains(tmp_path, monkeypatch):
    free = 400 << 10
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, free))
    with pytest.raises(UserError, match="models and a checkpoint") as error:
        chain(tmp_path, "generations=2")
    assert error.value.setting == "out" and not list(tmp_path.rglob("gen000"))


def test_what_an_interrupted_report_left_is_removed_by_the_next(folder):
    study, ended = folder.parents[1], subprocess.Popen(["true"])
    ended.wait()
    for place in (study, study / "report", study / "report" / "figures"):
        place.mkdir(exist_ok=True)
        (place / f".fd.pdf.{store.HOST}-{ended.pid}.part").write_text("half")
    report([str(study)])
    assert not list(study.rglob(".*.part"))


def test_a_lock_file_that_a_dead_process_of_another_host_left_blocks_nobody(folder, tmp_path):
    """Locks are the system's, not the file's existence or content."""
    for path in [folder / ".lock", *(folder.parents[1] / "shared").glob(".*.lock")]:
        path.write_text("another-host:4194305")
    assert len(chain(tmp_path, "generations=3").metrics) == 3


@pytest.mark.parametrize("number", [28, 5])  # ENOSPC, EIO
def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch, number):
    usual = open

    def failing(path, *a, **k):
        if str(path).endswith("run.log"):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *a, **k)

    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(UserError, match=r"run\.log could not be written"):
        imgloop.run([*SOLVED, f"out={tmp_path}", "generations=2"])
    monkeypatch.undo()
    assert len(imgloop.run([*SOLVED, f"out={tmp_path}", "generations=2"]).metrics) == 2


def test_sweeps_that_start_in_one_second_have_folders_of_their_own():
    text = (REPO / "conf" / "config.yaml").read_text()
    assert "%S-%f}" in text


# -- memory ----------------------------------------------------------------------------------------------------------


def test_exhausted_memory_halves_the_batch_and_changes_no_result(caplog):
    import torch

    from imgloop.training import memory

    memory._told.clear()
    z, y, sizes = torch.randn(256, 3), torch.arange(256), []

    def run(z, y):
        sizes.append(len(z))
        if len(z) > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return z * 2, y

    doubled, same = memory.in_parts(run, z, y, doing="sampling")
    assert torch.equal(doubled, z * 2) and torch.equal(same, y) and max(sizes[3:]) <= 128 and sizes.count(64) == 4
    memory.in_parts(run, z, y, doing="sampling")
    assert [r.message for r in caplog.records if "exhausted" in r.message] == [
        "memory is exhausted by sampling 256 images at once: going on with half as many"
    ]

    def never(z):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(UserError, match="a single image"):
        memory.in_parts(never, z, doing="measuring")
    with pytest.raises(RuntimeError, match="another"):
        memory.in_parts(lambda z: 1 / 0 if z is None else (_ for _ in ()).throw(RuntimeError("another")), z, doing="x")


def test_a_chain_whose_sampling_runs_out_of_memory_draws_the_same(folder, tmp_path, monkeypatch):
    from imgloop.models import samplers

    whole = chain(tmp_path / "whole", "generations=3").folder
    integrate = samplers.integrate

    def small(*arguments, **more):
        if any(getattr(a, "ndim", 0) == 4 and len(a) > 64 for a in arguments):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return integrate(*arguments, **more)

    monkeypatch.setattr(samplers, "integrate", small)
    chain(tmp_path, "generations=3")
    ours, theirs = (store.open_arrays(f / "gen002" / "pool.safetensors")["x"].astype(int) for f in (folder, whole))
    assert abs(ours - theirs).max() <= 1  # a product of half the rows may round another way


def test_mutated_inputs_are_read_or_refused():
    ran = script("fuzz", "--inputs", "40", "--seed", "7")
    assert ran.returncode == 0 and "480 inputs, 0 faults" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_study_in_chaos_ends_as_in_quiet():
    ran = script("chaos", "--seeds", "4", "--first", "100", timeout=3500)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_sweep_compares_sparingly(tmp_path):
    from imgloop.study import derived

    derived.write(tmp_path, "key", {"a": lambda: b"a"}, seconds=2.0)
    assert derived.recent(tmp_path, 20) and derived.current(tmp_path, "key") and not derived.current(tmp_path, "other")
    old = time.time() - 41
    os.utime(tmp_path / derived.FILE, (old, old))
    assert not derived.recent(tmp_path, 20)
    (tmp_path / derived.FILE).write_text("[]")
    assert not derived.recent(tmp_path, 20) and not derived.current(tmp_path, "key")
