"""scripts/propagation.py: what it stores, and the matrix of what is stored."""

import propagation
import pytest
from conftest import TINY

import imgloop
from imgloop.errors import UserError
from imgloop.study import progress


@pytest.fixture
def raw(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    monkeypatch.setattr(propagation, "RAW", tmp_path / "raw")
    return tmp_path / "raw"


def test_a_study_that_is_not_finished_or_has_no_control_is_not_stored(tmp_path, raw):
    with pytest.raises(UserError, match="none of the studies propagation, scaling-law, propagation-gan"):
        list(propagation.stored(tmp_path))
    given = [*TINY, "study=propagation", f"out={tmp_path}", "generations=1"]
    imgloop.run([*given, "paradigm=replace"])
    with pytest.raises(UserError, match="no condition real_only"):
        list(propagation.stored(tmp_path))
    imgloop.run([*given, "paradigm=real_only"])
    progress.plan(tmp_path / "propagation", {"replace/seed7": 1})
    with pytest.raises(UserError, match="incomplete: 1 of 3 chains"):
        list(propagation.stored(tmp_path))
    progress.forget(tmp_path / "propagation", "replace/seed7")
    assert not list(raw.iterdir())
    assert list(propagation.stored(tmp_path)) == ["propagation: docs/studies/propagation.csv"]
    assert {p.name for p in raw.iterdir()} == {"propagation.csv", "propagation.json"}
    assert "Not run yet: digits, fixed, five sizes of R, diffusion; digits, fixed, GAN;" in "\n".join(
        propagation.page()
    )


def test_without_stored_studies_the_page_says_so(raw):
    assert list(propagation.page()) == ["None of these studies has been run to its end yet."]


@pytest.mark.parametrize("name", [n for n in propagation.BLOCKS if (propagation.RAW / f"{n}.csv").exists()])
def test_the_page_has_the_verdicts_of_the_raw_tables(name):
    block, text = propagation.Block(name), propagation.PAGE.read_text()
    rows = [*block.rows(), *block.laws()]
    assert rows and not [row for row in rows if f"| {' | '.join(row)} |" not in text]
