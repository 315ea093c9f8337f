"""The self-consuming loop: mix, fit, sample, measure, commit, generation after generation. It names no model,
paradigm or metric; they are found in the config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgloop.chain import Chain, drawn_sizes
from imgloop.config import Settings, build
from imgloop.cost import Plan
from imgloop.pool import TrainingSet
from imgloop.progress import Display, interruptible


@dataclass(frozen=True)
class Result:
    """A finished chain: its folder, and `metrics`, a pandas table with one row a generation."""

    folder: Path
    metrics: object


def run(settings: Settings) -> Result:
    """Run, resume or extend one chain; a finished one is left as it is. Raises UserError, or Stopped when
    interrupted."""
    from imgloop.study import finish

    paradigm = build(settings.config["paradigm"])
    chain = Chain(settings)
    generations = settings.config["generations"]
    with chain.opened(), Display(settings.config["display"], chain.folder / "run.log") as display:
        chain.display = display
        if not chain.remaining(generations):
            display.say(
                f"{chain.folder} holds {chain.done} generations already: nothing to do "
                f"(generations={chain.done + 1} or more would extend it)"
            )
        else:
            with interruptible() as chain.stop:
                advance(chain, paradigm, generations)
        metrics = finish(chain, display)
    return Result(chain.folder, metrics)


def advance(chain: Chain, paradigm, generations: int) -> None:
    """From where the chain stands to the last generation."""
    display, config = chain.display, chain.settings.config
    real = build(config["data"]).load(cache_folder(), display.reading("reading images"))
    chain.attach(real)
    drawn = drawn_sizes(chain.settings, paradigm.initial(chain.sizes, 0))
    plan = Plan.of(paradigm, chain, drawn, generations)  # every mix can be made, or an error now

    from imgloop.metrics.evaluator import Evaluator  # torch and Lightning from here on
    from imgloop.train import TrainerSettings, use_threads

    use_threads(config["threads"], real.train.x.shape[-1])
    chain.tell_changes()
    trainer = TrainerSettings(**config["trainer"])
    model = build(config["model"], trainer=trainer)
    evaluator = Evaluator.of(
        config["features"], real, chain.shared, display.reading("training the classifier"), trainer.device
    )
    chain.stop.forget()  # all is imported: from here on a signal may stop us anywhere
    display.start(plan.timed(model, chain, evaluator), real, evaluator)
    chain.begin(real)

    for t in chain.remaining(generations):
        mix = paradigm(chain.sizes, t, chain.rng(t, "mix"), chain.replicates)
        data = TrainingSet(chain.pools, mix)
        f = chain.fitted(t, model, data)
        with chain.stage(t, "sample") as progress:
            pool = f.sample(drawn(t), seed=chain.seed(t, "sample"), progress=progress)
        with chain.stage(t, "measure"):
            scores = evaluator(pool, f)
        chain.commit(t, f, mix, pool, scores)
        display.finished(t, chain, scores)
        if f.absorbed:  # an analytic system that can change no more
            break


def cache_folder() -> Path:
    """Where decoded images are kept between studies: IMGLOOP_CACHE, or ~/.cache/imgloop."""
    import os

    return Path(os.environ.get("IMGLOOP_CACHE") or Path.home() / ".cache" / "imgloop")
