"""scripts/echo.py: the laws of errors that fade, against simulated chains of errors."""

import echo
import numpy as np
import pandas as pd
import pytest

from imgloop.errors import UserError

SHARES, GENERATIONS, SEEDS = (0.0, 0.1, 0.3, 0.6), 6, 400


def study(errors) -> pd.DataFrame:
    """Chains whose risk is the square of an error: (1 - a) times that of the generation before, and a new one of
    `errors(rng, seeds)`; the control has a new one each."""
    rng, rows = np.random.default_rng(0), []
    for condition, a in [("real_only", 1.0), *((f"fresh,n_real={a}", a) for a in SHARES)]:
        delta = np.zeros(SEEDS)
        for t in range(GENERATIONS):
            delta = (1 - a) * delta + errors(rng, SEEDS)
            share = 1.0 if t == 0 or a == 1 else a
            rows += [(condition, s, t, share, 1 + d**2) for s, d in enumerate(delta)]
    return pd.DataFrame(rows, columns=["condition", "seed", "generation", "real_share", "risk"])


@pytest.mark.parametrize(
    "law, errors",
    [
        ("noise", lambda rng, n: 0.3 * rng.standard_normal(n)),
        ("bias", lambda rng, n: 0.3 + 0.01 * rng.standard_normal(n)),
    ],
)
def test_each_law_explains_its_own_errors_and_not_the_others(law, errors):
    found = echo.courses(study(errors), "risk")
    assert [c.share for c in found] == list(SHARES) and all(c.seeds == SEEDS for c in found)
    e, left = echo.fitted(found, echo.LAWS[law])
    (other,) = set(echo.LAWS) - {law}
    assert e == pytest.approx(0.09, rel=0.1) and left < 0.01 < echo.fitted(found, echo.LAWS[other])[1]
    for c in found[1:]:
        assert echo.fitted([c], echo.LAWS[law])[0] == pytest.approx(0.09, rel=0.3)
    assert echo.drawn(found, "risk").startswith(b"\x89PNG")


def test_a_study_that_cannot_be_compared_is_refused():
    frame = study(lambda rng, n: np.ones(n))
    for wrong, words in (
        (frame[frame["condition"] != "real_only"], "one condition real_only, .*it has none"),
        (pd.concat([frame, frame[:40].assign(condition="real_only,n_initial=9")]), "real_only,n_initial=9"),
        (frame[(frame["condition"] != "real_only") | (frame["generation"] < 3)], "No seed has all 6 generations"),
        (frame[frame["condition"] == "real_only"], "No condition has a constant share"),
        (frame.drop(columns="risk"), "risk was not measured"),
    ):
        with pytest.raises(UserError, match=words):
            echo.courses(wrong, "risk")
