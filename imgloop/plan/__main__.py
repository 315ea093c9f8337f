"""python -m imgloop.plan [-m] OVERRIDES...: what a run or a sweep will cost; nothing is written to its study."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from imgloop.errors import UserError, status

STARTED = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("MPLBACKEND", "Agg")
    return status("imgloop.plan", command, arguments)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m imgloop.plan",
        description="What `python -m imgloop [-m] OVERRIDES...` will cost: images, operations, disk, memory, hours, "
        "energy. Rates are those of a short trial on this machine, in a temporary folder.",
    )
    p.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for python -m imgloop: paradigm=accumulate ...")
    p.add_argument("-m", "--multirun", action="store_true", help="a sweep, as for python -m imgloop")
    p.add_argument("--config-dir", "-cd", action="append", default=[], metavar="DIR", help="a folder of your own parts")
    p.add_argument("--device", help="also hours on a GPU of this name, such as h100")
    p.add_argument("--parallel", type=int, default=1, metavar="K", help="chains at a time, one a device or machine (1)")
    p.add_argument("--watts", type=float, help="power of one device; default: a GPU's limit, 4 W a thread of a CPU")
    p.add_argument("--country", help="whose electricity, such as DEU (extra: carbon); default: the world average")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    return p


def command(arguments: Sequence[str] | None) -> None:
    a = parser().parse_intermixed_args(arguments)
    if a.parallel < 1:
        raise UserError(f"--parallel {a.parallel}: give a whole number of at least 1.", "parallel")
    if a.watts is not None and not a.watts > 0:
        raise UserError(f"--watts {a.watts:g}: give a number above 0.", "watts")
    from imgloop.plan import carbon, devices, table

    if a.device is not None:
        devices.device(a.device)
    factor = carbon.intensity(a.country)
    from imgloop.config.compose import config_folders
    from imgloop.plan import chains

    dirs = config_folders(a.config_dir)
    jobs, sweep = chains.jobs(a.overrides, dirs, a.multirun)
    settings = chains.settings_of(jobs[:1], dirs)
    work = {o: chains.work_of(o, s) for o, s in settings.items() if not s.solvable}
    from imgloop.plan import estimate, trial

    startup = estimate.Startup(time.perf_counter() - STARTED, time.process_time())
    settings |= chains.settings_of(jobs, dirs)
    work |= {o: chains.work_of(o, s) for o, s in settings.items() if not s.solvable and o not in work}
    works = [w for w in work.values() if w.plan.images]
    recipes = {w.recipe: w for w in works}
    rates = {}
    for i, (recipe, w) in enumerate(recipes.items(), 1):
        if not a.json:
            print(f"timing recipe {i} of {len(recipes)} on this machine", file=sys.stderr, flush=True)
        most = max(n for other in works if other.recipe == recipe for n in other.plan.samples)
        rates[recipe] = trial.trial(w.overrides, dirs, w.settings, most, sweep)
    cost = estimate.estimate(works, rates, startup, a.device, a.parallel, sweep)
    solved = [s for s in settings.values() if s.solvable]
    shown = table.Shown(cost, works, rates, solved, len(work) - len(works), a.device, a.watts, factor)
    print(shown.json() if a.json else shown.text())


if __name__ == "__main__":
    sys.exit(main())
