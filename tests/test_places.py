"""Whole files in the place of others, folders of other names, and what the system refuses: named, never silent."""

import errno
import os
import shutil
import sys

import numpy as np
import pytest
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.chain.fork import copy_tree
from imgloop.errors import UserError, refused, status
from imgloop.measure import measure
from imgloop.report.__main__ import main as report
from imgloop.report.check import check
from imgloop.study.progress import FILE, PLAN, RUNNING, planned, progress

SMALL = [*TINY, "data.n=150", "data.heldout=50", "generations=2"]


def chain(out, *overrides):
    return imgloop.run([*SMALL, f"out={out}", *overrides])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of two conditions, one seed each; not to be changed."""
    out = tmp_path_factory.mktemp("made")
    folder, _ = (chain(out, f"paradigm={p}").folder for p in ("accumulate", "replace"))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of its first chain, which `chain(tmp_path)` continues, in a copy of the study."""
    shutil.copytree(made.parents[1], tmp_path / made.parents[1].name)
    return tmp_path / made.relative_to(made.parents[2])


def other(folder):
    """The chain of the other condition."""
    return next(p for p in folder.parents[1].glob("*/seed0") if p != folder and p.parent.name != "shared")


def swap(a, b):
    for path, place in ((a, a.with_name("away")), (b, a), (a.with_name("away"), b)):
        path.rename(place)


def replaced(source, target):
    shutil.rmtree(target)
    shutil.copytree(source, target)


MOVES = {
    "two generations exchanged": lambda f: swap(f / "gen000", f / "gen001"),
    "a generation copied over the next": lambda f: replaced(f / "gen000", f / "gen001"),
    "a generation of another condition": lambda f: replaced(other(f) / "gen001", f / "gen001"),
    "another condition's name": lambda f: f.parent.rename(f.parent.with_name("augment")),
    "another seed's name": lambda f: f.rename(f.with_name("seed1")),
    "the next generation missing": lambda f: (f / "gen000").rename(f / "gen002"),
    "scores of another generation": lambda f: [
        shutil.copy(p, f / "gen001" / "scores") for p in (f / "gen000" / "scores").glob("*.json")
    ],
}


@pytest.mark.parametrize("move", MOVES)
def test_whole_files_in_another_place_are_named_and_not_read(folder, tmp_path, move):
    MOVES[move](folder)
    study = folder.parents[1]
    with pytest.raises(UserError, match=r"moved or copied here|is missing"):
        imgloop.load_study(study)
    assert any("moved or copied here" in f or "is missing" in f for f in check(study).faults)
    if "name" not in move:
        before = (folder / "metrics.csv").read_bytes()
        with pytest.raises(UserError, match=r"moved or copied here|is missing"):
            chain(tmp_path, "paradigm=accumulate")
        assert (folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("damage", ["remove", "[]", "swap"])
def test_scores_of_real_images_that_are_damaged_are_named_and_made_again(folder, tmp_path, damage):
    (path,) = folder.parents[1].glob("shared/reference-*/reference.json")
    before = (folder / "curves.png").read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_text((path.parent / "hashes.json").read_text() if damage == "swap" else damage)
    with pytest.raises(UserError, match=r"reference\.json .*delete the folder .*: it is made again"):
        chain(tmp_path, "paradigm=accumulate")
    assert (folder / "curves.png").read_bytes() == before
    shutil.rmtree(path.parent)
    measure(folder.parents[1], ["features=pixels"], again=True)
    assert path.exists() and not check(folder.parents[1]).faults


def test_scores_that_one_generation_lacks_are_named(folder, tmp_path):
    (path,) = (folder / "gen000" / "scores").glob("*.json")
    content = path.read_bytes()
    path.unlink()
    for read in (lambda: imgloop.load_study(folder.parents[1]), lambda: chain(tmp_path, "paradigm=accumulate")):
        with pytest.raises(UserError, match=r"gen000/scores/.*json is missing.*measure the study again"):
            read()
    path.write_bytes(content)
    later = path.with_name("random-12345678.json")  # measuring by other features was interrupted
    store.write_sealed(later, store.read_json(path))
    assert imgloop.load_study(folder.parents[1])["protocol"].unique().tolist() == [path.stem]


@pytest.mark.parametrize("record", ["[]", "{}", '{"condition": 5}', None])
def test_a_fork_of_a_damaged_record_is_one_sentence(folder, tmp_path, record):
    path = folder / "gen000" / "record.json"
    path.write_text((folder / "gen001" / "record.json").read_text() if record is None else record)
    with pytest.raises(UserError, match=r"gen000/record\.json is (not the record|that of generation 1)"):
        chain(tmp_path, "paradigm=augment", f"fork='{folder}@0'")


def test_a_fork_has_the_generations_of_another_chain(folder, tmp_path):
    source = other(folder)
    fork = chain(tmp_path, "paradigm=augment", f"fork='{source}@0'").folder
    assert store.read_json(fork / "gen000" / "record.json")["condition"] == source.parent.name
    assert not check(folder.parents[1]).faults and len(imgloop.load_study(folder.parents[1])) == 6
    shutil.copytree(folder / "gen001", fork / "gen002")  # which the fork did not bring
    assert len(check(folder.parents[1]).faults) >= 1


@pytest.mark.parametrize("name", ["gen0001", "gen01", "gen9999999999", "gen٣٣٣"])
def test_a_generation_by_another_name_is_left_out_and_named(folder, tmp_path, name):
    shutil.copytree(folder / "gen001", folder / name)
    assert len(chain(tmp_path, "paradigm=accumulate").metrics) == 2
    assert [f for f in check(folder.parents[1]).faults if name in f and "left out" in f]


@pytest.mark.parametrize("name", ["seed0.bak", "seed0 (copy)", "seed00", "seed²", "seed٣", "seeds"])
def test_a_chain_by_another_name_is_left_out_and_named(folder, tmp_path, name, capsys):
    shutil.copytree(folder, folder.with_name(name))
    study = folder.parents[1]
    assert len(imgloop.load_study(study)) == 4 and len(progress(study)) == 2
    chain(tmp_path, "paradigm=accumulate")
    assert report(["--list", str(tmp_path)]) == 0
    assert [f for f in check(study).faults if name in f and "left out" in f]


@pytest.mark.parametrize("name", [PLAN, FILE])
def test_damage_to_a_plan_or_to_states_is_found_and_its_remedy_works(folder, tmp_path, name):
    study = folder.parents[1]
    store.write_sealed(study / PLAN, {"chains": {f"{folder.parent.name}/seed0": {"generations": 2, "failed": None}}})
    assert not check(study).faults
    path = study / name
    path.write_text(path.read_text().replace("2", "3", 1))
    (fault,) = check(study).faults
    assert str(path) in fault and "delete it" in fault and "delete the generation" not in fault
    assert "overwrite=true" not in fault  # it would not help
    path.unlink()
    assert len(chain(tmp_path, "paradigm=accumulate").metrics) == 2 and not check(study).faults


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "5", '{"chains": []}', '{"chains": {"x/seed3": 7}}', '{"chains": {"abc": {"generations": 1}}}',
     '{"chains": {"x/seedabc": {"generations": 1}}}', '{"chains": {"../x/seed0": {"generations": 1}}}',
     f'{{"chains": {{"x/seed{"9" * 5000}": {{"generations": 1}}}}}}', '{"chains": {"x/seed0": {"generations": "2"}}}'],
)  # fmt: skip
def test_a_plan_of_another_form_is_one_sentence(tmp_path, text, capsys):
    path = tmp_path / PLAN
    store.write_text(path, text)
    with pytest.raises(UserError, match=r"sweeps\.json .* delete it, which forgets chains"):
        planned(tmp_path)


@pytest.mark.parametrize("text", ["5", "[5]", '["a"]', '["/tmp/\\u0000/x"]', "[1"])
def test_what_a_sweep_runs_counts_for_nothing_if_it_cannot_be_read(folder, tmp_path, text):
    store.write_text(tmp_path / ".multirun" / "a" / RUNNING, text)
    assert {p.state for p in progress(folder.parents[1])} == {"finished"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_damage_and_not_waited_for(folder):
    study = folder.parents[1]
    for name in ("config.yaml", "gen000/record.json", "gen001/pool.safetensors", "gen001/grid.png", ".derived.json"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        faults = check(study).faults
        if name != ".derived.json":  # which any command writes again
            assert any(path.name in f and "not a regular file" in f for f in faults), name
        path.unlink()
        path.write_bytes(content)
    assert not check(study).faults


def test_a_folder_in_the_place_of_a_file_that_is_written_is_one_sentence(tmp_path):
    (tmp_path / "study.json" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match=r"study\.json cannot be written, since a folder has its name"):
        store.write_text(tmp_path / "study.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


def test_a_json_file_without_end_is_not_read_whole(tmp_path):
    path = tmp_path / "record.json"
    with open(path, "wb") as f:
        f.truncate(6 << 30)
    with pytest.raises(UserError, match="more than 67,108,864 characters"):
        store.read_json(path)


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EACCES, "fix its permissions"),
        (errno.EIO, "reports an error"),
        (errno.ENOSPC, "The disk is full"),
        (errno.EISDIR, "a folder has its name"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(tmp_path, capsys, number, words):
    def command():
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))

    assert status("imgloop.report", command) == 1
    told = capsys.readouterr().err
    assert told.startswith("imgloop.report: ") and words in told and "file" in told and told.count("\n") == 1


def test_a_fault_of_our_own_keeps_its_traceback():
    for error in (OSError("no number"), OSError(errno.EBADF, "bad", "file")):
        assert refused(error) is None
    assert "memory" in str(refused(MemoryError()))
    with pytest.raises(OSError, match="no number"):
        status("imgloop.report", lambda: (_ for _ in ()).throw(OSError("no number")))


def test_a_fork_is_copied_with_the_errors_of_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a" / "model").mkdir(parents=True)
    (tmp_path / "a" / "model" / "x").write_text("x")
    (tmp_path / "b").mkdir()

    def failing(path, *args, **more):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    copy_tree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "model" / "x").read_text() == "x"
    monkeypatch.setattr("os.mkdir", failing)
    with pytest.raises(OSError) as error:
        copy_tree(tmp_path / "a", tmp_path / "c")
    assert error.value.errno == errno.EIO


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_sentence(folder, capsys):
    (folder / "gen000").chmod(0)
    try:
        assert report([str(folder.parents[1]), "--check"]) == 1
    finally:
        (folder / "gen000").chmod(0o700)
    assert "fix its permissions" in capsys.readouterr().err


def test_names_with_control_characters_are_spelt_out(folder, capsys):
    study = folder.parents[1]
    name = "replace\x1b[31m,x=1"
    folder.parent.rename(study / name)
    for path in (study / name / "seed0").glob("gen*/record.json"):
        store.write_sealed(path, {**store.read_json(path), "condition": name})
    assert np.all(
        imgloop.load_study(study)["condition"].unique() == sorted([other(study / name / "seed0").parent.name, name])
    )
    report(["--list", str(study.parent)])
    report([str(study)])
    shown = capsys.readouterr()
    assert "\x1b[31m" not in shown.out + shown.err and "\\x1b[31m" in shown.out
    assert "\x1b" not in (study / "report.html").read_text()
    assert not [p for p in (study / "report").glob("*.tex") if "\x1b" in p.read_text()]
