"""Theory must notice a broken loop: each deliberate fault in the chain that exposes it, and the script that prints them
beside every experiment's comparison with theory."""

from contextlib import nullcontext

import faults
import numpy as np
import pytest
import reproduce
from conftest import thinned
from faults import TWINS, Twin
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from imgloop.analytic.course import Course
from imgloop.config.compose import CONF, compose
from imgloop.config.settings import parsed


def options(group):
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def solvable(model):
    return "replicates" in compose([f"model={model}"]).model


def chosen(group):
    """Options of a group that the twins' chains name."""
    return {o.removeprefix(f"{group}=") for twin in TWINS for o in twin.chain.split() if o.startswith(f"{group}=")}


# Faults


@pytest.mark.parametrize("twin", thinned(TWINS, 6), ids=lambda twin: f"{twin.name}-{twin.oracle}")
def test_theory_notices_the_fault(twin):
    for e in reproduce.exposures(twin):
        print(f"\n{twin.name}: {twin.oracle}: {e.quantity}: z {e.before:+.2f}, with the fault {e.after:+.3g}", end="")
        assert abs(e.before) < 4 < abs(e.after), e


def test_twins_cover_every_solvable_system_and_every_rule():
    assert chosen("model") == {model for model in options("model") if solvable(model)}
    assert chosen("paradigm") == set(options("paradigm"))


@pytest.mark.parametrize("model", sorted(chosen("model")))
def test_twins_cover_every_closed_form(model):
    system = parsed([f"model={model}"]).build("model")
    known = system.theory(Course("replace", 20, (20, 20, 20)), real=None)
    covered = {q for twin in TWINS if f"model={model}" in twin.chain.split() for q in twin.quantities.split()}
    assert {q for q in covered if q != "collapse_time" and "echo" not in q} == set(known)


def test_twins_cover_the_time_to_collapse():
    assert any("collapse_time" in twin.quantities.split() for twin in TWINS)


def test_every_fault_has_a_twin_and_says_what_it_breaks():
    for twin in TWINS:
        assert twin.fault.__doc__, twin.name
    named = {name for name, f in vars(faults).items() if callable(f) and getattr(f, "__module__", "") == "faults"}
    helpers = {"Twin", "drawing", "fitted", "sampled"}
    assert named - helpers == {twin.name for twin in TWINS}


def test_a_fault_ends_with_its_context():
    twin = next(t for t in TWINS if t.name == "miscounted")
    first = list(reproduce.exposures(twin))
    assert list(reproduce.exposures(twin)) == first


# The script


def test_reproduce_ends_well_where_theory_and_simulation_agree(capsys):
    assert reproduce.main(["--only", "data_editing"]) == 0
    out = capsys.readouterr().out
    assert "  ok\n" in out and "FAILED" not in out
    assert "\n6 comparisons with theory, 0 failed; 0 with a fault, 0 not caught;" in out


def test_reproduce_fails_where_they_differ(capsys):
    with faults.edits_renewed():
        assert reproduce.main(["--only", "data_editing"]) == 1
    out = capsys.readouterr().out
    assert "FAILED\n" in out and " 0 failed" not in out


def test_reproduce_fails_where_a_fault_goes_unnoticed(capsys, monkeypatch):
    chain = "model=gaussian paradigm=replace data.n=10 generations=4"
    monkeypatch.setattr(faults, "TWINS", (Twin(nullcontext, chain, "variance"),))
    assert reproduce.main(["--only", "mutations"]) == 1
    out = capsys.readouterr().out
    assert "MISSED\n" in out and "1 with a fault, 1 not caught" in out


def test_what_cannot_be_compared_does_not_agree():
    assert not reproduce.Comparison("variance", 3, 1.0, np.nan, 1.0, np.nan, 3).agrees
    assert not reproduce.Exposure("variance", 0.0, np.nan).caught


@pytest.mark.parametrize("experiment", thinned(reproduce.EXPERIMENTS, 3))
def test_conditions_are_those_of_the_sweep(experiment):
    swept = compose([f"experiment=analytic/{experiment}"]).hydra.sweeper.params or {}
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in swept.items()])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    assert reproduce.conditions(experiment) == [list(job) for job in jobs]


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit) as e:
        reproduce.main(["--only", "gausian"])
    assert e.value.code == 2 and "gaussian" in capsys.readouterr().err
