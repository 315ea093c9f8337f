"""Thresholds, and the commands: python -m imgloop.collapse, with and without `power`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY
from planted import T, table, ttest, verdicts

import imgloop
from imgloop.collapse import definitions, protocols
from imgloop.collapse.__main__ import main
from imgloop.collapse.pilot import pilot
from imgloop.collapse.power import Plan, power
from imgloop.collapse.profile import collapse_profile
from imgloop.errors import UserError
from imgloop.study import plain
from imgloop.study.frozen import FILE, freeze, frozen
from imgloop.thresholds import Thresholds

REPO = Path(__file__).parent.parent
DIGITS = REPO / "docs" / "studies" / "propagation.csv"


def test_thresholds_in_the_code_are_those_of_conf():
    stored = yaml.safe_load((REPO / "conf" / "collapse" / "default.yaml").read_text())
    assert stored == asdict(Thresholds()) == asdict(Thresholds.of())


def test_thresholds_are_frozen_once_and_a_change_is_shown(tmp_path):
    first = freeze(tmp_path, {"tail_kept": 0.7})
    assert first.thresholds.tail_kept == 0.7 and first.ended == 0
    assert freeze(tmp_path, {"tail_kept": 0.5}) == first == frozen(tmp_path)
    same = collapse_profile(table(), frozen=first)
    assert same.thresholds.tail_kept == 0.7 and "before the first chain ended" in same.notes[""][1]
    other = collapse_profile(table(), frozen=first, thresholds={"tail_kept": 0.5})
    assert "Changed since: tail_kept was 0.7 and is 0.5." in other.notes[""]
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match=r"collapse.json"):
        frozen(tmp_path)


def test_thresholds_written_after_results_say_so(tmp_path):
    (tmp_path / "replace" / "seed0").mkdir(parents=True)
    (tmp_path / "replace" / "seed0" / "metrics.csv").write_text("generation\n")
    assert "after 1 chains had ended" in collapse_profile(table(), frozen=freeze(tmp_path)).notes[""][1]


def test_a_threshold_decides():
    frame = table({"tail_mass": 0.97**T})
    assert verdicts(frame)[7] != verdicts(frame, thresholds={"tail_kept": 0.95})[7] == "detected"


def test_the_digits_study():
    profile = imgloop.collapse_profile(pd.read_csv(DIGITS))
    assert profile.conditions == ["accumulate", "accumulate_subsample", "replace"]
    found = profile["replace"]
    assert found[2].verdict == "detected" and found[2].exact and found[2].seeds == 8 and found[4].verdict == "excluded"
    assert found[1].verdict == "detected" and "one size" in found[5].reason
    without = pd.read_csv(DIGITS).query("condition != 'real_only,n_initial=349'").drop(columns="mode_share_min")
    less = imgloop.collapse_profile(without)["replace"]
    assert "n_initial=349" in less[1].reason and less[6].reason == "no column mode_share_min"
    frame: Any = pd.read_csv(DIGITS).query("generation >= 3").groupby(["condition", "seed"])["risk"].mean()
    assert found[2].effect == pytest.approx((frame["replace"] - frame["real_only"]).mean())


def test_the_command_reads_a_table(tmp_path, capsys):
    assert main([str(DIGITS), "--csv", str(tmp_path / "verdicts.csv")]) == 0
    out = capsys.readouterr().out
    assert "replace over real_only: 8 chains, generations 0..5" in out and "detected, exact" in out
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) == 24
    assert main([str(DIGITS), "--json", "--threshold", "risk_margin=0.2", "--subject", "variance=coverage"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["thresholds"]["risk_margin"] == 0.2
    numbers = [v["number"] for v in profile["conditions"]["replace"]["verdicts"]]
    assert "-log coverage over control" in numbers


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["nowhere.csv"], "does not exist"),
        ([str(REPO / "docs")], "contains no finished generation"),
        ([str(DIGITS), "--control", "base"], "no condition base"),
        ([str(DIGITS), "--threshold", "alpha"], "NAME=VALUE"),
        ([str(DIGITS), "--subject", "variance"], "ROLE=COLUMN"),
        ([str(DIGITS), "--subject", "tail=a", "--subject", "tail=b"], "already"),
        ([str(DIGITS), "--subject", "tail=a"], "subjects.tail=a"),
        (["power", "--shape", "cubic"], "shape=cubic"),
        (["power", "--definition", "9"], "definition=9"),
        (["power", "--definition", "3", "--generations", "2"], "needs 3"),
        (["power", "--seeds", "3"], "no verdict"),
        (["power", "--pilot", str(DIGITS), "--spread", "1"], "leave one out"),
        (["power", "--pilot", str(DIGITS), "--condition", "replace", "--at", "3"], "leave --at out"),
        (["power", "--columns", "seed=run"], "give --pilot"),
        ([str(REPO / "docs"), "--columns", "seed=run"], "is a study"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, says, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_power_answers(capsys):
    assert main(["power", "--seeds", "5", "8", "--generations", "4", "--studies", "400", "--effect", "3"]) == 0
    assert "4 generations: 5 seeds (detected in" in capsys.readouterr().out
    assert main(["power", "--definition", "4"]) == 1
    assert "--spread" in capsys.readouterr().err


def test_power_reads_the_spread_of_a_pilot(tmp_path, capsys):
    frame = table({"variance_ratio": 0.8**T}, seeds=5)
    frame.to_csv(tmp_path / "pilot.csv", index=False)
    wide = frame[frame["generation"] >= 6].pivot_table(
        "variance_ratio", ["condition", "seed"], "generation", aggfunc=lambda x: -np.log(x)
    )
    number = (wide.loc["loop"] - wide.loc["real_only"]).mean(axis=1)
    read = pilot(frame, 4)
    assert read.spread == pytest.approx(number.std(ddof=1)) and (read.seeds, read.at) == (5, 8)
    assert read.effect == pytest.approx((number.mean() - np.log(2)) / read.spread)
    words = ["power", "--definition", "4", "--seeds", "5", "--generations", "8", "--studies", "200"]
    assert main([*words, "--pilot", str(tmp_path / "pilot.csv")]) == 0
    out = capsys.readouterr().out
    assert (
        f"spread {read.spread:.3g} of -log variance_ratio over control, between 5 seeds of loop over real_only" in out
    )
    assert "at generation 8" in out and "relative standard error is about 35%" in out
    assert main([*words, "--at", "8", "--spread", str(read.spread)]) == 0
    rows = [text.splitlines()[-4] for text in (out, capsys.readouterr().out)]
    assert rows[0] == rows[1] and rows[0].split()[:2] == ["8", "5"]
    assert pilot(frame, 2).number == "risk over control (risk)"


@pytest.mark.parametrize(
    "change, more, says",
    [
        (lambda f: f, {"condition": "other"}, "no condition other: it has loop, real_only"),
        (lambda f: f, {"control": "base"}, "no condition base"),
        (lambda f: f[f["condition"] == "real_only"], {}, "no condition other than real_only"),
        (lambda f: f[f["seed"] == 0], {}, "1 seed of loop"),
        (
            lambda f: pd.concat([f, f[f["condition"] == "loop"].assign(condition="b")]),
            {},
            "several conditions, loop, b",
        ),
        (lambda f: f.drop(columns="tail_mass"), {"definition": 7}, "no column tail_mass"),
        (lambda f: f.assign(variance_ratio=1.0), {}, "no spread"),
        (lambda f: f, {"risk": "x"}, "no such measure"),
    ],
)
def test_pilots_without_a_spread(change, more, says):
    with pytest.raises(UserError, match=says):
        pilot(change(table()), **{"definition": 4, **more})


@pytest.mark.parametrize("definition, spread", [(4, 0.1), (7, 0.05), (8, 0.002)])
def test_power_counts_from_0_and_not_from_the_threshold(definition, spread):
    """Half of the threshold at generation 4 is well below it there and, growing linearly, well above at 16."""
    mark = definitions.marks(Thresholds())[definition]
    plan = Plan(definition, effect=-mark / 2 / spread, shape="linear", at=4, accumulated=0.0, measured=1, spread=spread)
    early, late = (power(plan, 8, g, 500) for g in (4, 16))
    assert early.excluded > 0.8 and early.detected == 0 and late.detected > 0.99
    x = np.random.default_rng(0).normal(mark / 2, spread, (4000, 8))  # the same by SciPy, of the number itself
    p = ttest(x, mark, axis=-1, alternative="less").pvalue
    assert early.excluded == pytest.approx((p < 0.05).mean(), abs=0.06)


def test_replicates_of_a_solvable_system_are_chains(tmp_path, capsys):
    for paradigm in ("replace", "real_only"):
        system = ["model=gaussian", "model.unbiased=true", "model.replicates=60", "data.n=10", "generations=9"]
        imgloop.run([*system, f"paradigm={paradigm}", f"out={tmp_path}", "study=g", "display=none"])
    frame = plain.read_table(tmp_path / "g")
    assert len(frame) == 2 * 60 * 9 and {"risk", "variance_ratio"} <= set(frame)
    first = frame[frame["generation"] == 0].pivot(index="seed", columns="condition", values="risk")
    assert (first.iloc[:, 0] == first.iloc[:, 1]).all()  # chain and control share generation 0
    assert main([str(tmp_path / "g")]) == 0
    assert "60 chains, generations 0..8" in " ".join(capsys.readouterr().out.split())


# -- protocols --------------------------------------------------------------------------------------------------------


def judged(**verdicts):
    return protocols.Row("replace", 2, verdicts)


def test_verdicts_that_depend_on_the_protocol_are_told_contradictions_first():
    same = judged(a="detected", b="detected", c="not measured")
    weaker, opposite = judged(a="detected", b="undetermined"), judged(a="detected", b="excluded", c="undetermined")
    assert not same.differ and weaker.differ and not weaker.contradict and opposite.contradict
    told = list(protocols.warnings([same, weaker, opposite], {"replace": "replace"}))
    assert len(told) == 2 and "contradiction: detected by a; excluded by b; undetermined by c" in told[0]
    assert "not the same: detected by a; undetermined by b" in told[1]


def test_all_features_are_known_before_any_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("imgloop.measure.measure", None)
    assert main(["protocols", str(tmp_path), "--features", "pixels,nonsense"]) == 1
    assert "features=nonsense" in capsys.readouterr().err


def test_profiles_without_any_verdict_are_not_compared_silently():
    one = collapse_profile(table(seeds=1))
    with pytest.raises(UserError, match="several seeds of both, and there is 1"):
        protocols.rows({"a": one, "b": one})


@pytest.mark.nightly  # eight chains
def test_the_verdicts_of_one_study_under_two_protocols(tmp_path, capsys):
    given = [*TINY, f"out={tmp_path}", "generations=3", "study=s"]
    for paradigm in ("real_only", "replace"):
        for seed in range(4):
            imgloop.run([*given, f"paradigm={paradigm}", f"seed={seed}"])
    assert main(["protocols", str(tmp_path / "s")]) == 1 and "needs two" in capsys.readouterr().err
    table = tmp_path / "t.csv"
    assert main(["protocols", str(tmp_path / "s"), "--features", "random", "--csv", str(table)]) == 0
    out = capsys.readouterr().out
    assert "pixels-" in out and "random-" in out and "depend on the protocol" in out
    frame = pd.read_csv(table)
    assert (
        {"condition", "definition", "differ"} < set(frame) and len(frame.columns) == 5 and 2 in set(frame["definition"])
    )
    own = collapse_profile(imgloop.Study(tmp_path / "s", protocol=frame.columns[2]).table)
    assert own["replace"][2].verdict == frame.set_index("definition")[frame.columns[2]][2]
