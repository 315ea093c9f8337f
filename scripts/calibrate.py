"""python scripts/calibrate.py [--studies N] [--only PART ...]: error rates and power of the collapse profile, from
simulated studies judged by the rules of imgloop.collapse, and the paper's own cases (part `paper`)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory

import numpy as np

from imgloop.collapse import definitions, statistics
from imgloop.collapse.definitions import Question, judge
from imgloop.collapse.power import SHAPES
from imgloop.thresholds import Thresholds

H = Thresholds.of()
NOISES = ("normal", "lognormal", "t3")
SEED_SPREAD = 3.0  # sd of the level that a chain shares with its control, in sds of the chain's own errors
CORRELATION = 0.5  # between the errors of two measures
SIZES = 5
START = 100.0  # risk at generation 0, in sds of a chain's own errors
PARTS = ("null", "exclusion", "planted", "shapes", "skewed", "signs", "unpaired", "paper")


# -- Simulated studies ------------------------------------------------------------------------------------------------


def errors(rng: np.random.Generator, shape: tuple[int, ...], kind: str, accumulated: float) -> np.ndarray:
    """Errors of chains, float (..., G + 1): variance 1 at the last generation, 0 at generation 0, which is shared.

    accumulated: share of the variance that is due to a random walk along the chain.
    """
    last = shape[-1] - 1

    def draw():
        x = (*shape[:-1], last)
        if kind == "normal":
            return rng.standard_normal(x)
        if kind == "lognormal":
            return (np.exp(rng.standard_normal(x)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        return rng.standard_t(3, x) / np.sqrt(3)

    walk, own = np.cumsum(draw(), -1) * np.sqrt(accumulated / last), draw() * np.sqrt(1 - accumulated)
    return np.concatenate([np.zeros((*shape[:-1], 1)), walk + own], -1)


def spread(reduce, shape, kind: str, accumulated: float) -> float:
    """Standard deviation over chains of the number that `reduce` computes from paired differences."""
    rng = np.random.default_rng(7)
    return float(np.std(reduce(errors(rng, shape, kind, accumulated) - errors(rng, shape, kind, accumulated))))


class Simulated:
    """Many studies of S chains and generations 0..G; each definition has its own series, and all are correlated.

    In `question(k, effect)` the number of definition k lies `effect` standard deviations (over chains) above the
    threshold of detection, or of exclusion with `at_margin`.
    """

    def __init__(self, seed: int, studies: int, chains: int = 5, last: int = 8, kind="normal", accumulated=0.5):
        self.rng, self.shape = np.random.default_rng(seed), (studies, chains, last + 1)
        self.kind, self.accumulated = kind, accumulated
        self.common = [errors(self.rng, self.shape, kind, accumulated) for _ in range(2)]
        self.sd = spread(definitions.late, (4_000, 1, last + 1), kind, accumulated)
        self.contrast_sd = spread(definitions.contrast, (4_000, 1, last + 1), kind, accumulated)

    def pair(self, signal: float | np.ndarray = 0.0, start: float = 0.0) -> definitions.Pair:
        """Chains with a signal (G + 1,) and their controls; both share the level of their seed, which varies a lot."""
        level = SEED_SPREAD * self.rng.standard_normal((*self.shape[:2], 1))
        if self.kind == "lognormal":
            level = SEED_SPREAD * (np.exp(level / SEED_SPREAD) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
        noisy = [
            np.sqrt(CORRELATION) * common
            + np.sqrt(1 - CORRELATION) * errors(self.rng, self.shape, self.kind, self.accumulated)
            for common in self.common
        ]
        return start + level + noisy[0] + signal, start + level + noisy[1]

    def question(self, k: int, effect: float = 0.0, at_margin: bool = False) -> Question:
        t = np.arange(self.shape[-1])
        shift = effect * self.sd
        if k == 3:  # an effect on top of strong logarithmic growth
            unit = float(definitions.contrast(SHAPES["linear"](t)))
            signal = 20 * self.sd * SHAPES["logarithmic"](t) + effect * self.contrast_sd * SHAPES["linear"](t) / unit
            return definitions.divergence(self.pair(signal, START), H)
        after = (t > 0).astype(float)
        if k == 1:
            level = spread(lambda d: d[..., -1], (4_000, 1, len(t)), self.kind, self.accumulated)
            treated, quarter = self.pair(effect * level * after, START)
            return definitions.catastrophic(treated[..., -1], quarter[..., -1])
        if k == 2:
            treated, control = self.pair(shift * after, START)
            if at_margin:  # a share of each chain's own risk at generation 0
                treated = treated + H.risk_margin * treated[..., :1] * after
            return definitions.increase((treated, control), H)
        if k == 5:
            margin = np.log(H.scaling_margin) if at_margin else 0.0
            pairs = [self.pair((0.1 * shift + margin) * after / 0.1) for _ in range(SIZES)]
            treated, control = (np.exp(0.1 * np.stack(side, 2)) for side in zip(*pairs))
            return definitions.scaling((treated, control), H)
        if k == 8:
            treated, control = self.pair((H.hallucinated / 0.01 + shift) * after)
            rates = {"off_support": (0.01 * treated, 0.01 * control)}
            return definitions.hallucination(rates, H)
        remaining = {4: H.variance_kept, 6: H.mode_kept, 7: H.tail_kept}[k]
        scale = 0.05  # of the logarithm, so that floors are never reached
        treated, control = self.pair((-np.log(remaining) / scale + shift) * after)
        return definitions.loss(k, (np.exp(-scale * treated), np.exp(-scale * control)), H)

    def judged(self, effects: Mapping[int, float], at_margin=False, exact=True) -> dict[int, definitions.Judged]:
        """All eight definitions judged; definitions that are not in `effects` have effect 0."""
        questions = [self.question(k, effects.get(k, 0.0), at_margin) for k in definitions.TITLES]
        return dict(zip(definitions.TITLES, judge(questions, H, exact)))


# -- Counts --------------------------------------------------------------------------------------------------


def family(judged, among=None) -> float:
    """Share of studies in which at least one of the definitions `among` (default: all) was detected."""
    return float(np.logical_or.reduce([judged[k].detected for k in among or judged]).mean())


def error(p: float, n: int) -> float:
    """Binomial standard error of a share."""
    return float(np.sqrt(max(p * (1 - p), 1e-4) / n))


def null(studies: int):
    print("\n## False detections of any definition (bound .05), all numbers at their thresholds\n")
    print("| noise | accumulated | seeds | t and Holm | sign flips |\n|---|---|---|---|---|")
    for kind in NOISES:
        for accumulated in (0.0, 1.0):
            for chains in (5, 8):
                tests = Simulated(1, studies, chains, kind=kind, accumulated=accumulated).judged({})
                signs = np.logical_or.reduce([j.p_exact <= H.alpha for j in tests.values()]).mean()
                print(f"| {kind} | {accumulated:.0%} | {chains} | {family(tests):.3f} | {signs:.3f} |", flush=True)
    print(f"\nstandard error of a share of .05: {error(0.05, studies):.4f}")


def exclusion(studies: int):
    print("\n## False exclusions (bound .05 each), numbers at the thresholds of exclusion\n")
    print("| noise | accumulated | seeds |" + "".join(f" {k} |" for k in range(1, 9)) + "\n" + "|---" * 11 + "|")
    for kind in NOISES:
        for accumulated in (0.0, 1.0):
            for chains in (5, 8):
                simulated = Simulated(2, studies, chains, kind=kind, accumulated=accumulated)
                tests = simulated.judged({}, at_margin=True, exact=False)
                cells = "".join(f" {j.excluded.mean():.3f} |" for j in tests.values())
                print(f"| {kind} | {accumulated:.0%} | {chains} |{cells}", flush=True)


def planted(studies: int):
    print("\n## Power: each kind of collapse simulated alone, and four at once, at 5 seeds\n")
    print("| effect (sd) | noise |" + "".join(f" {k} |" for k in range(1, 9)) + " four (1, 2, 4, 7) | false | exact |")
    print("|---" * 13 + "|")
    for effect in (2.0, 3.0):
        for kind in NOISES:
            simulated = Simulated(3, studies, kind=kind)
            alone = [simulated.judged({k: effect}, exact=False)[k].detected.mean() for k in range(1, 9)]
            four: dict[int, float] = dict.fromkeys((1, 2, 4, 7), effect)
            tests = simulated.judged(four)
            power = np.mean([tests[k].detected.mean() for k in four])
            exact = np.mean([(tests[k].detected & (tests[k].p_exact <= H.alpha)).mean() for k in four])
            cells = "".join(f" {p:.2f} |" for p in alone)
            false = family(tests, [k for k in tests if k not in four])
            print(f"| {effect:g} | {kind} |{cells} {power:.2f} | {false:.3f} | {exact:.2f} |", flush=True)


def shapes(studies: int):
    print("\n## Definition 3 alone at 5 seeds and G = 8: detected / excluded, by shape and size of the growth\n")
    print("Growth from generation 0 to G, in standard deviations of the paired difference at one generation.\n")
    names = [n for n in SHAPES if n != "constant"]
    print("| noise | growth |" + "".join(f" {n} |" for n in names) + "\n" + "|---" * (2 + len(names)) + "|")
    for accumulated in (0.0, 0.5, 1.0):
        for growth in (5, 10, 20, 40):
            cells = []
            for name in names:
                tests = shaped(name, growth, studies, accumulated)
                cells.append(f" {tests.detected.mean():.2f} / {(tests.excluded & ~tests.detected).mean():.2f} |")
            label = {0.0: "independent", 0.5: "half accumulated", 1.0: "accumulated"}[accumulated]
            print(f"| {label} | {growth} |{''.join(cells)}", flush=True)


def shaped(name: str, growth: float, studies: int, accumulated: float, chains=5, last=8) -> definitions.Judged:
    """Definition 3 on series of one shape that grow by `growth` sds of the paired difference until G."""
    rng = np.random.default_rng(4)
    t = np.arange(last + 1)
    signal = growth * SHAPES[name](t) / SHAPES[name](t)[-1]
    d = signal + errors(rng, (studies, chains, last + 1), "normal", accumulated)
    (tests,) = judge([definitions.divergence((d, np.zeros_like(d)), H)], H, exact=False)
    return tests


def skewed(studies: int):
    """Numbers from skewed distributions whose mean is the threshold."""
    print("\n## Effects with a skewed distribution over chains: false exclusions / false detections (bound .05)\n")
    print("| effect of a chain |" + "".join(f" {s} seeds |" for s in (5, 8, 20)) + "\n" + "|---" * 4 + "|")
    laws = {
        "normal": lambda rng, x: rng.standard_normal(x),
        "lognormal, sigma .5": lambda rng, x: np.exp(0.5 * rng.standard_normal(x)) - np.exp(0.125),
        "lognormal, sigma 1": lambda rng, x: np.exp(rng.standard_normal(x)) - np.exp(0.5),
        "one chain in ten collapses": lambda rng, x: 0.1 * rng.standard_normal(x) + (rng.random(x) < 0.1) - 0.1,
    }
    for name, law in laws.items():
        cells = []
        for chains in (5, 8, 20):
            x = law(np.random.default_rng(6), (studies, chains))
            excluded, detected = ((statistics.greater(side * x) <= H.exclusion).mean() for side in (-1, 1))
            cells.append(f" {excluded:.3f} / {detected:.3f} |")
        print(f"| {name} |{''.join(cells)}")


def signs(studies: int):
    print("\n## Sign flips at 5 seeds: one definition with an effect of 3 sd, four far below their thresholds\n")
    print("| rule | power | false detections among the three at their thresholds |\n|---|---|---|")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((studies, 8, 5)) + np.array([3, 0, 0, 0, -10, -10, -10, -10])[:, None]
    t = statistics.flipped_t(x, statistics.signs(5))
    for name, p in (
        ("step-down max-T over all definitions", statistics.step_down(t)),
        ("without definitions clearly below their thresholds", statistics.sign_flip_p(t, np.full((studies, 8), 5))),
    ):
        detected = p <= H.alpha
        print(f"| {name} | {detected[:, 0].mean():.3f} | {detected[:, 1:4].any(1).mean():.3f} |")


def unpaired(studies: int):
    print("\n## Paired and unpaired tests: no effect, and an error of 15 % that all chains of a study share\n")
    print("| test of the log tail mass | false detections |\n|---|---|")
    for name, share in zip(("paired with the control", "not paired"), unpaired_rates(studies)):
        print(f"| {name} | {share:.3f} |")


def unpaired_rates(studies: int, chains: int = 5) -> tuple[float, float]:
    """Rates of false detection of a tail mass at its threshold, paired and unpaired, when the held-out data give all
    chains of a study a common error of sd .15 (docs/profile.md)."""
    rng = np.random.default_rng(6)
    shared = 0.15 * rng.standard_normal((studies, 1))
    own = 0.05 * rng.standard_normal((2, studies, chains))
    treated, control = shared - np.log(H.tail_kept) + own[0], shared + own[1]
    paired, unpaired = (
        float((statistics.greater(x, -np.log(H.tail_kept)) <= H.alpha).mean()) for x in (treated - control, treated)
    )
    return paired, unpaired


def paper(studies: int):
    import paper as cases

    print("\n## The paper's Table 1, published beside computed\n")
    for chains in (100, 20):
        with TemporaryDirectory() as out:
            print(f"{chains} chains, 9 fits, T = 200, d = 10")
            print("\n".join(cases.table1(out, chains).lines()) + "\n", flush=True)
    print("## The paper's Gaussian (unbiased, n = 20, 20 generations, 1,000 chains)\n")
    with TemporaryDirectory() as out:
        for line in cases.gaussian(out).lines():
            print(line)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000, help="simulated studies for each row (20000)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    a = parser.parse_args(arguments)
    began = time.monotonic()
    print(f"{a.studies:,} simulated studies for each row")
    for name in a.only:
        globals()[name](a.studies)
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
