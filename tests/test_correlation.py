"""Correlations of two measures over generations, with intervals over chains."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from imgloop.collapse.__main__ import main
from imgloop.collapse.correlation import ALL, Interval, correlations
from imgloop.errors import UserError


def table(a: np.ndarray, b: np.ndarray, condition: str = "replace") -> pd.DataFrame:
    """A table of series (seeds, generations)."""
    seeds, generations = np.indices(a.shape)
    series = {"seed": seeds.ravel(), "generation": generations.ravel(), "a": a.ravel(), "b": b.ravel()}
    return pd.DataFrame({"condition": condition, **series})


def test_the_correlation_of_one_chain_is_pearsons():
    a, b = np.random.default_rng(0).standard_normal((2, 1, 6))
    (row,) = correlations(table(a, b), "a", "b")
    assert row.levels.r == pytest.approx(stats.pearsonr(a[0], b[0]).statistic)
    assert row.changes.r == pytest.approx(stats.pearsonr(np.diff(a[0]), np.diff(b[0])).statistic)
    assert np.isnan(row.levels.low) and f"{row.levels}" == f"{row.levels.r:+.2f}"


def test_intervals_over_chains_cover_the_truth_of_unrelated_series_and_not_that_of_related_ones():
    """Random walks that are unrelated: within a chain r is often large, over chains its mean is 0."""
    rng, chains, covered, large = np.random.default_rng(1), 8, 0, []
    for _ in range(400):
        a, b = rng.standard_normal((2, chains, 9)).cumsum(2)
        (row,) = correlations(table(a, b), "a", "b")
        covered += row.levels.low <= 0 <= row.levels.high
        large.append(abs(np.corrcoef(a[0], b[0])[0, 1]) > 0.5)
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3
    assert np.mean(large) > 0.3
    related = a + 0.3 * rng.standard_normal(a.shape)
    assert correlations(table(a, related), "a", "b")[0].changes.low > 0


def test_a_shared_drift_correlates_levels_and_not_changes():
    rng, drift = np.random.default_rng(2), np.arange(9) * 1.0
    a, b = drift + 0.3 * rng.standard_normal((2, 40, 9))
    (row,) = correlations(table(a, b), "a", "b")
    assert row.levels.low > 0.9 and row.changes.low < 0.05 < row.levels.low and abs(row.changes.r) < 0.2


def test_over_all_conditions_the_unit_is_the_seed():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 5, 6))
    frame = pd.concat([table(a, b, "replace"), table(a, b, "accumulate")])
    *each, every = correlations(frame, "a", "b")
    assert [r.condition for r in each] == ["replace", "accumulate"] and every.condition == ALL
    assert (every.levels.n, every.levels.low) == (5, pytest.approx(each[0].levels.low))  # copies add no certainty


def test_series_without_a_correlation_are_left_out():
    a, b = np.random.default_rng(4).standard_normal((2, 3, 5))
    a[0] = 1.0  # does not change
    b[1, 2:] = np.nan  # two generations are left
    (row,) = correlations(table(a, b), "a", "b")
    assert row.levels.n == 1
    assert f"{Interval.of([np.nan])}" == "-" and Interval.of([1.0, 1.0]).r == pytest.approx(1, abs=1e-5)
    for wrong, words in (("c", "no numbers in a column c; it has a, b"), ("a", "compared with itself")):
        with pytest.raises(UserError, match=words):
            correlations(table(a, b), "a", wrong)
    with pytest.raises(UserError, match="3 generations"):
        correlations(table(a[:, :2], b[:, :2]), "a", "b")


def test_a_change_is_between_generations_that_follow_each_other():
    a, b = np.random.default_rng(6).standard_normal((2, 1, 7))
    a[0, 3] = np.inf  # counts as missing
    (row,) = correlations(table(a, b), "a", "b")
    da, db = np.diff(a[0]), np.diff(b[0])
    known = np.array([0, 1, 4, 5])
    assert row.changes.r == pytest.approx(np.corrcoef(da[known], db[known])[0, 1])
    rest = np.array([0, 1, 2, 4, 5, 6])
    assert row.levels.r == pytest.approx(np.corrcoef(a[0, rest], b[0, rest])[0, 1])


def test_a_table_that_is_not_one_of_chains_is_refused():
    a, b = np.random.default_rng(7).standard_normal((2, 3, 5))
    whole = table(a, b)
    for wrong, words in (
        (whole.drop(columns="seed"), "no column seed"),
        (pd.concat([whole, whole]), "more than once"),
        (whole.assign(seed=[None, *whole["seed"][1:]]), "rows without a condition, seed or generation"),
        (whole.iloc[:0], "no rows"),
    ):
        with pytest.raises(UserError, match=words):
            correlations(wrong, "a", "b")


def test_the_command_prints_and_writes_a_table(tmp_path, capsys):
    a, b = np.random.default_rng(5).standard_normal((2, 4, 5))
    path, out = tmp_path / "runs.csv", tmp_path / "r.csv"
    table(a, b).rename(columns={"a": "FID"}).to_csv(path, index=False)
    assert main(["correlate", str(path), "fid", "b", "--csv", str(out)]) == 0
    printed, written = capsys.readouterr().out, pd.read_csv(out)
    assert f"{written.r[0]:+.2f} ({written.low[0]:+.2f} to {written.high[0]:+.2f})" in printed
    assert list(written.columns)[-3:] == ["r_of_changes", "low_of_changes", "high_of_changes"]
    assert main(["correlate", str(path), "b", "FID"]) == 0 and "b and fid" in capsys.readouterr().out
    assert main(["correlate", str(path), "b", "recall"]) == 1 and "column recall" in capsys.readouterr().err
