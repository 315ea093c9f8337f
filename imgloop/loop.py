"""The self-consuming loop: mix, fit, sample, measure, commit, generation after generation. It names no model,
paradigm or metric; they are found in the config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgloop import store
from imgloop.chain.base import ChainFolder
from imgloop.chain.trained import Chain
from imgloop.config.settings import Settings, build
from imgloop.display import Display, interruptible
from imgloop.pool import TrainingSet
from imgloop.study.frozen import freeze


@dataclass(frozen=True)
class Result:
    """A finished chain: its folder, and `metrics`, a pandas table with one row a generation."""

    folder: Path
    metrics: object


def run(settings: Settings) -> Result:
    """Run, resume or extend one chain; a finished one is left as it is. Raises UserError, or Stopped when
    interrupted."""
    from imgloop.study.compare import finish

    paradigm, generations = build(settings.config["paradigm"]), settings.config["generations"]
    chain = chain_of(settings)
    chain.check_study()
    with chain.opened(), Display(settings.config["display"], chain.folder / "run.log") as display, chain.log:
        chain.display = display
        if not chain.remaining(generations):
            display.say(chain.nothing_to_do())
        else:
            with interruptible() as chain.stop:
                model, evaluator, drawn = chain.prepared(paradigm, generations, store.cache_folder())
                freeze(chain.study, settings.config["collapse"])
                chain.log.begin()
                advance(chain, paradigm, model, evaluator, drawn, generations)
        metrics = finish(chain, display)
        chain.log.finish()
    return Result(chain.folder, metrics)


def chain_of(settings: Settings) -> ChainFolder:
    """A folder a generation for models that are trained, a table of replicates for those that can be solved."""
    if not settings.solvable:
        return Chain(settings)
    from imgloop.chain.solved import Table

    return Table(settings)


def advance(chain: ChainFolder, paradigm, model, evaluator, drawn, generations: int) -> None:
    """From where the chain stands to the last generation; `drawn(t)` samples each."""
    for t in chain.remaining(generations):
        mix = paradigm(chain.sizes, t, chain.rng(t, "mix"), chain.replicates)
        data = TrainingSet(chain.pools, mix)
        f = chain.fitted(t, model, data)
        with chain.stage(t, "sample") as progress:
            pool = f.sample(drawn(t), seed=chain.seed(t, "sample"), progress=progress)
        with chain.stage(t, "measure"):
            scores = evaluator(pool, f)
        chain.commit(t, f, mix, pool, scores)
        if paradigm.closed and f.absorbed:  # an analytic system that can change no more
            break
