"""fork=CHAIN@t: what is copied, how the fork continues, and what is refused."""

import re
import shutil

import numpy as np
import pytest
from conftest import TINY

import imgloop
from imgloop import store
from imgloop.chain import fork
from imgloop.config.fork import Fork
from imgloop.config.settings import parsed
from imgloop.errors import UserError


def chain(tmp_path, *overrides):
    return imgloop.run([*TINY, f"out={tmp_path}", *overrides])


def hashes(folder):
    names = ("pool_hash", "mix_hash", "model_hash")
    return [[store.read_json(g / "record.json")[h] for h in names] for g in sorted(folder.glob("gen*"))]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three generations of replace."""
    return chain(tmp_path_factory.mktemp("source"), "paradigm=replace", "generations=3").folder


def forked(tmp_path, source, t, *overrides):
    return chain(tmp_path, f"fork={source}@{t}", *overrides)


def test_a_fork_that_changes_nothing_continues_as_the_chain_itself(tmp_path, source):
    run = forked(tmp_path, source, 1, "paradigm=replace", "generations=3")
    assert hashes(run.folder) == hashes(source)
    assert re.search(r",fork=replace-\w{6}-gen1,", run.folder.parent.name)  # the source has a long name
    assert list(run.metrics["generation"]) == [0, 1, 2] and run.metrics["fd"].notna().all()


@pytest.mark.nightly
def test_a_fork_continues_under_its_own_settings(tmp_path, source):
    """With another paradigm and extractor it mixes the copied pools, and measures them anew."""
    run = forked(tmp_path, source, 1, "paradigm=accumulate", "generations=4", "features=random", "start=weights")
    theirs, ours = hashes(source), hashes(run.folder)
    assert ours[:2] == theirs[:2] and ours[2] != theirs[2]
    mix = store.open_arrays(run.folder / "gen003" / "mix.safetensors")
    assert sorted(np.unique(mix["origin"])) == [-1, 0, 1, 2]
    assert len({*run.metrics["protocol"]}) == 1 and run.metrics["protocol"].str.startswith("random").all()
    assert run.metrics["n_train"].tolist() == [1397, 48, 1397 + 96, 1397 + 144]
    before = hashes(source)
    chain(tmp_path, f'fork="{source}@1"', "paradigm=accumulate", "generations=4", "overwrite=true", "start=weights")
    assert hashes(source) == before  # overwriting a fork does not change its source


def test_seeds_that_fork_their_own_chain_are_one_condition(tmp_path, source):
    name = 'fork="{}@0"'.format
    record = store.read_json(source / "gen000" / "record.json")
    for seed in (0, 1):
        own = tmp_path / f"seed{seed}" / "gen000"
        store.write_json(own / "record.json", record | {"seed": seed, "condition": "replace,real_fraction=0.1"})
    names = [
        parsed([name(tmp_path / f"seed{own}"), f"seed={seed}"]).condition for own, seed in ((0, 0), (1, 1), (0, 1))
    ]
    assert names[0] == names[1] == "accumulate,fork=replace,real_fraction=0.1-gen0"
    assert names[2] == "accumulate,fork=replace,real_fraction=0.1-seed0-gen0"


def test_a_fork_interrupted_while_copying_is_whole_afterwards(tmp_path, source, monkeypatch):
    copy, calls = fork.copy_tree, []

    def failing(*folders):
        calls.append(folders)
        if len(calls) == 2:
            raise KeyboardInterrupt
        copy(*folders)

    monkeypatch.setattr(fork, "copy_tree", failing)
    with pytest.raises(KeyboardInterrupt):
        forked(tmp_path, source, 1, "paradigm=replace", "generations=3")
    folder = next(tmp_path.glob("*/*/seed0"))
    assert sorted(p.name for p in folder.glob("gen*")) == ["gen000"]
    monkeypatch.setattr(fork, "copy_tree", copy)
    assert hashes(forked(tmp_path, source, 1, "paradigm=replace", "generations=3").folder) == hashes(source)


def test_a_finished_fork_is_a_no_op_and_can_be_extended(tmp_path, source):
    first = forked(tmp_path, source, 0, "paradigm=replace", "generations=2")
    written = (first.folder / "gen001" / "record.json").stat().st_mtime_ns
    forked(tmp_path, source, 0, "paradigm=replace", "generations=2")
    assert (first.folder / "gen001" / "record.json").stat().st_mtime_ns == written
    assert hashes(forked(tmp_path, source, 0, "paradigm=replace", "generations=3").folder) == hashes(source)


@pytest.mark.parametrize(
    "text, what",
    [
        ("{}", "a generation"),
        ("{}@", "a generation"),
        ("{}@-1", "a generation"),
        ("{}@3", "give @2"),
        ("{}/gen000@0", "chain of trained models"),
        ("nowhere@0", "chain of trained models"),
    ],
)
def test_a_wrong_fork_is_refused(source, text, what):
    with pytest.raises(UserError, match=what) as error:
        Fork.of(text.format(source))
    assert error.value.setting == "fork"


@pytest.mark.parametrize(
    "more, name, what",
    [
        (["generations=2"], "generations", "3 or more"),
        (["data.n=500"], "fork", "other real data"),
        (["start=/tmp"], "start", "leave one out"),
        (["model=gaussian", "data=digits"], "fork", "no effect"),
        (["model=gan", "start=weights"], None, "GAN"),
        (["model.conditional=true"], "model.conditional", "samples of this one"),
        (["start=weights", "model.widths=[16,32]"], "model.widths", "start from"),
    ],
)
def test_an_impossible_fork_is_refused(tmp_path, source, more, name, what):
    tiny = [o for o in TINY if not (more[0].startswith("model=") and o.startswith("model."))]
    if "model=gaussian" in more:
        tiny = ["display=none"]
    with pytest.raises(UserError, match=what) as error:
        imgloop.run([*tiny, f"out={tmp_path}", f'fork="{source}@1"', "paradigm=replace", "generations=3", *more])
    assert error.value.setting == name


@pytest.mark.parametrize("more", [["start=weights"], ["select_from=mix", "curation=loss"]])
def test_a_fork_of_a_generation_without_its_model_is_refused_where_the_next_needs_it(tmp_path, source, more):
    shutil.copytree(source, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "gen001" / "model")
    with pytest.raises(UserError, match="keep_models removed it") as error:
        forked(tmp_path / "out", tmp_path / "c", 1, "paradigm=replace", "generations=3", *more)
    assert error.value.setting == "fork" and not list((tmp_path / "out").glob("*/*/seed0"))


def test_other_generations_under_the_same_name_are_refused(tmp_path, source):
    forked(tmp_path / "out", source, 0, "paradigm=replace", "generations=2")
    moved = tmp_path / "moved" / "seed0"
    shutil.copytree(source, moved)
    record = store.read_json(moved / "gen000" / "record.json")
    store.write_json(moved / "gen000" / "record.json", record | {"pool_hash": "0"})
    with pytest.raises(UserError, match="other generations") as error:
        forked(tmp_path / "out", moved, 0, "paradigm=replace", "generations=3")
    assert error.value.setting == "fork"


def test_a_damaged_pool_to_fork_is_refused_by_name(tmp_path, source):
    shutil.copytree(source, tmp_path / "c")
    path = tmp_path / "c" / "gen000" / "pool.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"pool\.safetensors"):
        forked(tmp_path / "out", tmp_path / "c", 1, "paradigm=replace", "generations=3")
    assert not list((tmp_path / "out").glob("*/*/seed0"))  # nothing stays behind
