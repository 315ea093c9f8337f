"""python scripts/ladder.py [--model diffusion|gan] [--data NAME] [--seconds 25 50] [--seeds 5] [--rungs NAME ...]
       [--out DIR]

From the recipe of version 0.1.0 to today's, one change a rung, each trained for equal CPU seconds on one thread: what
each choice gains (docs/ladder.md). NAME: digits, cifar16, cifar32, or conditional: class labels and guidance on digits,
from today's recipe. First every rung's speed is measured, all in turn, several times; a rung's budget of images is its
median speed times the seconds. Then generation 0 is trained for every rung and seed, and scored on the held-out images.
Prints a table a budget (mean and standard deviation over seeds) and keeps a row a seed in DIR/results-NAME.csv. What
exists in DIR is not computed again. The rungs of the GAN are in ladder_gan.py; its table also counts the seeds that
diverged. Changes that imgloop does not have are in ladder_trials.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import ladder_gan
import ladder_trials
import markdown_table
import numpy as np
import pandas as pd
from arguments import least

from imgloop.errors import UserError

BEFORE = {
    "network": "compact",
    "batch": 64,
    "optimizer": "adamw",
    "lr": 0.003,
    "ema": 0.999,
    "time_mean": 0.0,
    "precondition": False,
}
STEPS = {
    "digits": {
        "0.1.0": {},
        "learning rate .012": {"lr": 0.012},
        "average tied to the run": {"ema": None},
        "levels nearer to the data": {"time_mean": -0.5},
        "patches": {"network": "patch", "batch": 128},
        "Muon": {"optimizer": "muon", "lr": 0.03},
    },
    "cifar16": {
        "0.1.0": {},
        "average tied to the run": {"ema": None},
        "levels nearer to the data": {"time_mean": -0.5},
        "learning rate .006": {"lr": 0.006},
        "Muon": {"optimizer": "muon", "lr": 0.03},
    },
    "cifar32": {
        "0.1.0": {},
        "average tied to the run, levels nearer to the data": {"ema": None, "time_mean": -0.5},
        "Muon": {"optimizer": "muon", "lr": 0.03},
    },
    "conditional": {
        "the recipe, without labels": {},
        "by class, no label hidden": {"conditional": True, "label_drop": 0.0},
        "a tenth of labels hidden": {"label_drop": 0.1},
    },
}
# Beside the ladder: one change to the last rung.
SIDES = {
    "digits": {
        "last, preconditioned": {"precondition": True},
        "last, average .995": {"ema": 0.995},
        "last, batch 64": {"batch": 64},
        "last, Muon .06": {"lr": 0.06},
        "last, widths [24,48]": {"widths": [24, 48]},
        "last, compact": {"network": "compact"},
        "last, stratified levels": {"trial": "stratified"},
        "last, optimal transport": {"trial": "transport"},
        "last, attention": {"trial": "attention"},
        "last, two blocks a level": {"trial": "blocks"},
        "last, norms over all channels and positions": {"trial": "layer norm"},
        "last, norms over the channels of a position": {"trial": "channel norm"},
        "last, widths [16,64]": {"widths": [16, 64]},
        "last, 4 sampler steps": {"sampler_steps": 4},
        "last, 16 sampler steps": {"sampler_steps": 16},
    },
    "cifar16": {
        "last, AdamW .012": {"optimizer": "adamw", "lr": 0.012},
        "last, patches": {"network": "patch"},
        "last, preconditioned": {"precondition": True},
        "last, stratified levels": {"trial": "stratified"},
        "last, two blocks a level": {"trial": "blocks"},
    },
    "cifar32": {
        "last, patches": {"network": "patch"},
        "last, unet2d": {"network": "unet2d", "optimizer": "adamw", "lr": 0.003},
    },
    "conditional": {
        "last, guidance 1.25": {"guidance": 1.25},
        "last, guidance 1.5": {"guidance": 1.5},
        "last, guidance 2": {"guidance": 2.0},
        "last, guidance 2 at levels .2 to .8": {"guidance": 2.0, "guidance_interval": [0.2, 0.8]},
    },
}
SETTINGS = {"digits": ["data=digits"]}
SETTINGS |= {f"cifar{s}": ["data=cifar10", f"data.size={s}", "data.n=5000", "n_samples=1000"] for s in (16, 32)}
SETTINGS |= ladder_gan.SETTINGS
SETTINGS["conditional"] = SETTINGS["digits"].copy()
SHAPES = {"digits": (8, 1), "conditional": (8, 1), "cifar16": (16, 3), "cifar32": (32, 3)} | ladder_gan.SHAPES
SCORES = ["fd", "variance_ratio", "off_support", "authenticity", "risk", "precision", "recall"]
SCORES += ["modes_covered", "mode_kl", "mode_share_min"]


def rungs(data: str, model: str = "diffusion") -> dict[str, dict]:
    """Settings of the model by rung: each adds its change to the one before; sides change the last."""
    if model == "gan":
        return ladder_gan.rungs(data)
    found, now = {}, {} if data == "conditional" else dict(BEFORE)
    for name, change in STEPS[data].items():
        now = now | change
        found[name] = now
    return found | {name: now | change for name, change in SIDES[data].items()}


def overrides(recipe: dict) -> list[str]:
    def text(value) -> str:
        return "null" if value is None else str(value).lower().replace(" ", "")

    return [f"model.{k}={text(v)}" for k, v in recipe.items() if k != "trial"]


def speeds(data: str, model: str, chosen: dict[str, dict], rounds: int = 5) -> dict[str, float]:
    """Images a CPU second of each rung: the median over rounds, in each of which all have their turn."""
    import torch

    from imgloop.models.diffusion import Diffusion
    from imgloop.models.gan import GAN
    from imgloop.pool import REAL, Mix, Pool, TrainingSet
    from imgloop.training.tasks import Task

    torch.set_num_threads(1)
    size, channels = SHAPES[data]
    x = np.random.default_rng(0).integers(0, 256, (1000, channels, size, size), np.uint8)
    training = TrainingSet(
        {REAL: Pool(x, np.arange(1000) % 10)}, Mix(np.full((1000, 1), REAL), np.arange(1000)[:, None])
    )
    images = 128 * {8: 64, 16: 16, 32: 4}[size] // (4 if model == "gan" else 1)
    kind = GAN if model == "gan" else Diffusion
    rates: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds + 1):  # the first warms up
        for name, recipe in chosen.items():
            with tempfile.TemporaryDirectory() as tmp:
                settings = {k: v for k, v in recipe.items() if k != "trial"}
                began = time.process_time()
                with ladder_trials.made(recipe.get("trial")):
                    kind(**settings).fit(training, Task(0, 0, images, "scratch", Path(tmp) / "scratch"), None)
                rates[name].append(images / (time.process_time() - began))
    return {name: statistics.median(r[1:]) for name, r in rates.items()}


def rates(data: str, model: str, chosen: dict[str, dict], path: Path) -> dict[str, float]:
    """Images a CPU second of each rung, measured where the table at `path` does not have them."""
    known = pd.read_csv(path, index_col=0)["images"].to_dict() if path.exists() else {}
    new = {k: v for k, v in chosen.items() if k not in known}
    known |= speeds(data, model, new) if new else {}
    pd.Series(known, name="images").to_csv(path)
    for name in chosen:
        print(f"{name}: {known[name]:,.0f} images a CPU second")
    return {name: known[name] for name in chosen}


def trained(job: tuple) -> dict:
    """Generation 0 of one rung and seed: its scores, and the CPU seconds that it took in all."""
    data, model, name, recipe, images, seconds, seed, out, start = job
    import imgloop

    given = [
        *SETTINGS[data],
        f"model={model}",
        *overrides(recipe),
        f"train.images={images}",
        f"seed={seed}",
        f"out={out}",
    ]
    given += [] if start is None else [f'start="{start}"']
    named = data, model if model != "diffusion" else None, recipe.get("trial", "").replace(" ", "-")
    study = "-".join(filter(None, named))
    more = ["generations=1", "threads=1", "display=none", f"study={study}", "paradigm=replace"]
    began = time.process_time()
    with ladder_trials.made(recipe.get("trial")):
        result = imgloop.run(given + more)
    row = result.metrics.iloc[0]
    print(f"{name}, {seconds} s, seed {seed}: fd {row['fd']:.3f}", file=sys.stderr, flush=True)
    spent = {"data": data, "rung": name, "seconds": seconds, "images": images, "seed": seed}
    spent |= {"cpu": time.process_time() - began, "folder": str(result.folder)}
    record = json.loads((result.folder / "gen000" / "record.json").read_text())
    diverged = {"diverged": "warning" in record} if model == "gan" else {}
    return spent | diverged | row.reindex(SCORES).to_dict()


def table(rows: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds of each rung, in Markdown."""
    scores, counts = [s for s in SCORES if rows[s].notna().any()], ["diverged"] if "diverged" in rows else []
    columns = ["rung", "images", *scores, *counts]
    lines = []
    for name, group in rows.groupby("rung", sort=False):
        cells = [f"{group[s].mean():.3f}" + (f" ± {group[s].std():.3f}" if len(group) > 1 else "") for s in scores]
        cells += [f"{group[c].sum()} of {len(group)}" for c in counts]
        lines.append([name, f"{int(group['images'].iloc[0]):,}", *cells])
    return "\n".join(markdown_table.table(columns, lines))


def command() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["diffusion", "gan"], default="diffusion")
    parser.add_argument("--data", choices=list(dict.fromkeys([*STEPS, *ladder_gan.STEPS])), default="digits")
    parser.add_argument("--seconds", type=least(0, float), nargs="+", default=[25.0, 50.0])
    parser.add_argument("--images", type=least(1), help="of every rung, in place of its speed times the seconds")
    parser.add_argument("--seeds", type=least(1), default=5)
    parser.add_argument("--rungs", nargs="+", metavar="NAME", help="only these, by the names that the script gives")
    parser.add_argument("--jobs", type=least(1), default=2, help="processes at a time, one thread each")
    parser.add_argument("--out", default="ladder")
    parser.add_argument("--set", nargs="*", default=[], help="further settings, such as data.n=300")
    return parser


def asked(a: argparse.Namespace) -> tuple[dict[str, dict], dict[str, dict]]:
    """Of the rungs asked for, those that are trained, and those that draw from the models of the last one trained,
    since guidance changes sampling alone. Raises UserError for a rung or data without a ladder."""
    own = STEPS if a.model == "diffusion" else ladder_gan.STEPS
    if a.data not in own:
        raise UserError(f"--data {a.data}: with --model {a.model} choose among {', '.join(own)}.")
    known = rungs(a.data, a.model)
    if wrong := [r for r in a.rungs or () if r not in known]:
        raise UserError(f"--rungs {wrong[0]!r} is no rung: choose among {'; '.join(map(repr, known))}.")
    chosen = {k: v for k, v in known.items() if not a.rungs or k in a.rungs}
    sampled = {k: v for k, v in chosen.items() if "guidance" in v}
    chosen = {k: v for k, v in chosen.items() if k not in sampled}
    if not chosen:
        last = [k for k, v in known.items() if "guidance" not in v][-1]
        raise UserError(f"--rungs: these draw from the models of a trained rung: name that as well, such as {last!r}.")
    return chosen, sampled


def kept(rows: pd.DataFrame, path: Path) -> None:
    """Write results to the table at `path`, beside those that it has of other rungs, budgets and seeds."""
    known = pd.read_csv(path) if path.exists() else rows[:0]
    same = ["data", "rung", "seconds", "images", "seed"]
    both = pd.concat([known, rows]) if len(known) else rows
    both.drop_duplicates(same, keep="last").to_csv(path, index=False)


def climbed(a: argparse.Namespace) -> pd.DataFrame:
    """Generation 0 of every rung and seed asked for, a row each."""
    chosen, sampled = asked(a)
    SETTINGS[a.data] += a.set
    files = a.data if a.model == "diffusion" else f"{a.data}-{a.model}"
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    if a.images:
        budgets = {(name, 0.0): a.images for name in chosen}
    else:
        measured = rates(a.data, a.model, chosen, out / f"speeds-{files}.csv")
        budgets = {(name, s): int(rate * s) for s in a.seconds for name, rate in measured.items()}
    jobs = [
        (a.data, a.model, name, chosen[name], images, seconds, seed, str(out), None)
        for (name, seconds), images in budgets.items()
        for seed in range(a.seeds)
    ]
    with get_context("fork").Pool(a.jobs, maxtasksperchild=20) as pool:
        rows = pool.map(trained, jobs, chunksize=1)
        jobs = [
            (a.data, a.model, name, recipe, 0, row["seconds"], row["seed"], str(out), f"{row['folder']}/gen000")
            for row in rows
            for name, recipe in sampled.items()
            if row["rung"] == [*chosen][-1]
        ]
        rows = pd.DataFrame(rows + pool.map(trained, jobs, chunksize=1))
    kept(rows, out / f"results-{files}.csv")
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = command()
    a = parser.parse_args(arguments)
    try:
        rows = climbed(a)
    except UserError as e:
        parser.error(str(e))
    for seconds, group in rows.groupby("seconds", sort=False):
        budget = f"{a.images:,} images" if a.images else f"{seconds:g} CPU seconds"
        print(f"\n{a.model}, {a.data}, {budget}, {a.seeds} seeds\n\n{table(group)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
