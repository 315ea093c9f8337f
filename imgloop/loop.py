"""The self-consuming loop: mix, fit, sample, measure, release, commit, generation after generation. It names no model,
paradigm, curation or measure: these are parts, found by their options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgloop import ranks, store
from imgloop.chain.base import ChainFolder, Parts, Surroundings
from imgloop.chain.earlier import continued
from imgloop.config.settings import Settings
from imgloop.errors import UserError
from imgloop.pool import TrainingSet
from imgloop.study.frozen import freeze
from imgloop.study.notebook import html
from imgloop.study.progress import note_failure, write_states

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """A finished chain: its folder, and `metrics`, a pandas table with one row a generation."""

    folder: Path
    metrics: DataFrame

    def _repr_html_(self) -> str:
        return html(str(self.folder), self.metrics, (self.folder / f"{n}.png" for n in ("curves", "evolution")))


def run(settings: Settings, sweep: bool = False) -> Result:
    """Run, resume or extend one chain; a finished one is left as it is. sweep: whether it is one of several, which are
    compared at their end. Raises UserError, or Stopped when interrupted."""
    given, settings = settings, continued(settings)
    around = Surroundings.of(settings, sweep)
    chain, generations = chain_of(settings, around), settings.config["generations"]
    chain.check_study()
    with chain.opened(), around.display as display, around.log as log:
        if not ranks.first(lambda: chain.remaining(generations)):
            display.say(chain.nothing_to_do())
        else:
            display.say(f"{settings.condition}, seed {chain.seed_number}: preparing {chain.folder}")
            if settings is not given:
                display.say("this study was begun by version 0.1.0: settings that are null stand for its recipe")
            with around.stop.listening():
                parts = ranks.in_turn(lambda: chain.prepared(generations, store.cache_folder()))

                def begin() -> None:
                    chain.begin(parts)
                    freeze(chain.study, settings.config["collapse"])
                    write_states(chain.study, sparing=sweep)
                    log.begin()

                ranks.first(begin)
                try:
                    advance(chain, parts, generations)
                except UserError as e:
                    failed = str(e)
                    if not sweep:  # a sweep notes it with its other outcomes
                        ranks.first(lambda: note_failure(chain.folder, failed))
                    raise
                if not sweep:
                    ranks.first(lambda: note_failure(chain.folder, None))

        def finish() -> DataFrame:
            metrics = chain.finish()
            log.finish()
            return metrics

        metrics = ranks.first(finish)
    return Result(chain.folder, metrics)


def chain_of(settings: Settings, around: Surroundings) -> ChainFolder:
    """A folder a generation for models that are trained, a table of replicates for those that can be solved."""
    if settings.solvable:
        from imgloop.chain.solved import SolvedChain  # imports SciPy

        return SolvedChain(settings, around)
    from imgloop.chain.trained import Chain  # imports pandas and Pillow

    return Chain(settings, around)


def advance(chain: ChainFolder, parts: Parts, generations: int) -> None:
    """From the generation that the chain has reached to the last."""
    for t in chain.remaining(generations):
        mix = parts.paradigm(chain.sizes, t, chain.rng(t, "mix"), chain.replicates)
        data = chain.selected(t, TrainingSet.of(chain.pools, mix), parts)
        fit = chain.fitted(t, parts.model, data)
        with chain.stage(t, "sample") as progress:
            drawn = fit.generator.sample(parts.n_drawn(t), seed=chain.seed(t, "sample"), progress=progress)
        with chain.stage(t, "measure"):
            scores = parts.evaluator(drawn, fit.generator, training=data)
        released = chain.released(t, fit, drawn, parts)
        chain.commit(t, fit, data, drawn, released, scores, parts)
        if parts.paradigm.closed and fit.generator.absorbed:  # a solvable system that cannot change any more
            break
