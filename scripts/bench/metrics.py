"""Metrics of imgloop against public packages, in turn in one run: best time of several rounds, values, peak memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

import numpy as np
import torch

WIDTH = 2048  # features of Inception
KNN = (10_000, 1000, 5)  # samples a side, features, neighbours
LARGE = 50_000


def metrics(a) -> None:
    """Run the rows in `a.rows`; if it is empty, all but `large`."""
    torch.set_num_threads(a.threads)
    rows = {"term": term, "few": few, "kernel": kernel, "memory": memory, "knn": knn, "large": large}
    print(f"{torch.get_num_threads()} threads, best of {a.rounds}")
    for name in a.rows or [r for r in rows if r != "large"]:
        rows[name](a)


def in_turn(rounds: int, **contestants: Callable[[], float]) -> dict[str, tuple[float, float]]:
    """Seconds (best of `rounds`) and value of each contestant; each round runs all of them, so that drift affects all
    alike."""
    best = dict.fromkeys(contestants, float("inf"))
    values = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            values[name] = float(run())
            best[name] = min(best[name], time.perf_counter() - began)
    return {name: (best[name], values[name]) for name in contestants}


def show(title: str, results: dict[str, tuple[float, float]], target: float) -> None:
    """Print seconds and values of in_turn(), and ratios beside the ratio aimed at."""
    ours, value = results["imgloop"]
    print(f"{title}\n  imgloop          {ours:8.3f} s   {value:.9g}", flush=True)
    for name, (seconds, other) in results.items():
        if name != "imgloop":
            print(
                f"  {name:<16} {seconds:8.3f} s   {other:.9g}   {seconds / ours:.1f} times as long (aim: {target:g}), "
                f"value differs by {abs(other - value) / abs(value):.1e}",
                flush=True,
            )


def features(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    """Non-negative features with a falling spectrum, as pooled activations have, float32 (n, d)."""
    rng = np.random.default_rng([seed, n, d])
    scale = np.arange(1, d + 1) ** -0.5
    return np.abs(rng.standard_normal((n, d), np.float32) * scale.astype(np.float32) + np.float32(shift))


def peers():
    """The Frechet distance of two statistics by package, and the function that gives the statistics of features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    def tensors(s):
        return torch.from_numpy(s["mu"]), torch.from_numpy(s["sigma"])

    return {
        "torch-fidelity": lambda r, g: fid_statistics_to_metric(r, g, False)["frechet_inception_distance"],
        "torchmetrics": lambda r, g: _compute_fid(*tensors(r), *tensors(g)),
    }, lambda x: fid_features_to_statistics(torch.from_numpy(x))


def term(a) -> None:
    """The Frechet distance of two sets of known moments; the real side is factored once."""
    from imgloop.metrics.frechet import Moments, RealMoments, frechet_distance

    x, y = features(0, 6000, WIDTH), features(1, 6000, WIDTH, 0.02)
    real, generated = RealMoments.of(x), Moments().update(y)
    others, statistics = peers()
    r, g = statistics(x), statistics(y)
    show(
        f"Frechet term, d = {WIDTH}, real side cached",
        in_turn(
            a.rounds,
            imgloop=lambda: frechet_distance(real, generated),
            **{name: lambda f=f: f(r, g) for name, f in others.items()},
        ),
        3,
    )


def few(a) -> None:
    """The Frechet distance of 500 samples, computed from their features."""
    from imgloop.metrics.frechet import RealMoments, frechet_distance

    x, y = features(0, 6000, WIDTH), features(1, 500, WIDTH, 0.02)
    real = RealMoments.of(x)
    others, statistics = peers()
    r = statistics(x)
    show(
        f"Frechet distance, n = 500, d = {WIDTH}, real side cached",
        in_turn(
            a.rounds,
            imgloop=lambda: frechet_distance(real, y),
            **{name: lambda f=f: f(r, statistics(y)) for name, f in others.items()},
        ),
        20,
    )


def kernel(a) -> None:
    """One squared MMD of 1,000 against 1,000 samples: one subset of the kernel distance."""
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    from imgloop.metrics.kernel import polynomial_mmd2

    x, y = features(0, 1000, WIDTH).astype(np.float64), features(1, 1000, WIDTH, 0.02).astype(np.float64)
    options = dict(kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    show(
        f"kernel distance, one subset of 1,000, d = {WIDTH}",
        in_turn(
            a.rounds,
            imgloop=lambda: polynomial_mmd2(x, y),
            **{"torch-fidelity": lambda: mmd2(*(kernel_poly(p, q, **options) for p, q in [(x, x), (x, y), (y, y)]))},
        ),
        1,
    )


def memory(a) -> None:
    """Peak memory of a process that streams 50,000 x 2,048 features into a Frechet distance."""
    seconds, peak, value = apart(_streamed, LARGE, WIDTH, torch.get_num_threads())
    base = apart(_nothing)[1]
    print(
        f"Frechet distance, {LARGE:,} x {WIDTH:,} streamed: peak {peak:,.0f} MiB (aim: under 1,000; "
        f"{base:,.0f} after imports alone); {seconds:.0f} s; {value:.6g}",
        flush=True,
    )


def knn(a) -> None:
    """Precision, recall, density and coverage; each package runs in its own process."""
    n, d, k = KNN
    best, values, peaks = {}, {}, {}
    for _ in range(max(1, a.rounds // 2)):
        for name, run in (("imgloop", _manifold), ("prdc", _prdc)):
            seconds, peak, values[name] = apart(run, n, d, k, torch.get_num_threads())
            best[name], peaks[name] = min(seconds, best.get(name, seconds)), min(peak, peaks.get(name, peak))
    print(f"precision, recall, density, coverage, {n:,} x {d:,}, k = {k}")
    for name in best:
        print(f"  {name:<16} {best[name]:8.1f} s   {peaks[name]:,.0f} MiB   {values[name]}")
    print(
        f"  prdc takes {best['prdc'] / best['imgloop']:.2f} times as long (aim: 1.5) and "
        f"{peaks['prdc'] / peaks['imgloop']:.2f} times the memory (aim: 2)",
        flush=True,
    )


def large(a) -> None:
    """The same at 50,000 x 2,048, imgloop only: prdc would need matrices of 20 GB."""
    seconds, peak, values = apart(_manifold, LARGE, WIDTH, KNN[2], torch.get_num_threads())
    print(f"the same, {LARGE:,} x {WIDTH:,}: {seconds:.0f} s, peak {peak:,.0f} MiB (aim: under 4,096)   {values}")


# -- run in a separate process --


def apart(run: Callable, *arguments):
    """`run(*arguments)` in a fresh process: (seconds, peak MiB, value)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


def _peak() -> float:
    """Peak resident memory of this process in MiB, from the kernel."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def _nothing() -> tuple[float, float, None]:
    import imgloop.metrics.frechet  # noqa: F401

    return 0.0, _peak(), None


def _streamed(n: int, d: int, threads: int) -> tuple[float, float, float]:
    from imgloop.metrics.frechet import Moments, frechet_distance

    torch.set_num_threads(threads)
    began, sides = time.perf_counter(), (Moments(), Moments())
    for side, moments in enumerate(sides):
        for batch in range(0, n, 1000):
            moments.update(features(batch + side, min(1000, n - batch), d, 0.02 * side))
    value = frechet_distance(*sides)
    return time.perf_counter() - began, _peak(), value


def _manifold(n: int, d: int, k: int, threads: int) -> tuple[float, float, list[float]]:
    from imgloop.metrics.manifold import manifold_scores

    torch.set_num_threads(threads)
    x, y = features(0, n, d), features(1, n, d, 0.02)
    began = time.perf_counter()
    scores = manifold_scores(x, y, k)
    values = [scores.precision, scores.recall, scores.density, scores.coverage]
    return time.perf_counter() - began, _peak(), [round(v, 6) for v in values]


def _prdc(n: int, d: int, k: int, threads: int) -> tuple[float, float, list[float]]:
    import contextlib
    import os
    import warnings

    from prdc import compute_prdc

    x, y = features(0, n, d), features(1, n, d, 0.02)
    began = time.perf_counter()
    warnings.simplefilter("ignore")  # affects this process only
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        scores = compute_prdc(x, y, k)
    values = [round(float(scores[name]), 6) for name in ("precision", "recall", "density", "coverage")]
    return time.perf_counter() - began, _peak(), values
