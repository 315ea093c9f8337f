"""python -m imgloop: Hydra reads the command line, loop.run does the work; a user's mistake ends in one sentence."""

import multiprocessing
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach main() unchanged, which prints them as one sentence


def job(cfg) -> None:
    """One job: a chain. In a multirun a failure is recorded, and the other chains still run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from imgloop import devices, interrupt
    from imgloop.config.settings import checked
    from imgloop.display import Prefix
    from imgloop.errors import Stopped, UserError
    from imgloop.launch.jobs import labels
    from imgloop.launch.outcome import Outcome, attempted, outcome_path

    hydra = HydraConfig.get()
    worker = multiprocessing.current_process().name.startswith("Loky")  # of the launcher joblib
    if worker:
        interrupt.end_with_parent()
    sweep = hydra.mode == RunMode.MULTIRUN
    chain: Path | None = None
    prefix = Prefix()

    def run() -> None:
        nonlocal chain
        settings = checked(with_hydra(cfg, hydra), hydra.runtime.choices, hydra.overrides.task)
        chain = settings.folder
        prefix.text = f"{labels([chain])[chain]}: "
        devices.run(settings, sweep, hydra.runtime.choices["hydra/launcher"] if sweep else "basic")

    try:
        if not sweep:
            return run()
        with prefix:
            outcome = Outcome(attempted(run))
    except UserError as e:  # here, since Hydra prints a line of its own before an error
        sys.exit(f"imgloop: {e}")
    except Stopped as e:
        print(f"imgloop: {e}", file=sys.stderr, flush=True)
        if worker:  # its launcher would wait for more jobs
            os._exit(128 + e.signal)
        sys.exit(128 + e.signal)
    outcome.write(outcome_path(hydra.sweep.dir, hydra.job.num), hydra.overrides.task, chain)


def with_hydra(cfg, hydra):
    """The job's config with Hydra's own below `hydra`, as `compose` gives it."""
    from omegaconf import OmegaConf

    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.hydra = {"runtime": hydra.runtime}
    return cfg


def main() -> None:
    try:
        command()
    except KeyboardInterrupt:
        print("imgloop: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError) as e:
        from imgloop.errors import refused

        if (error := refused(e)) is None:
            raise
        sys.exit(f"imgloop: {error}")


def command() -> None:
    from imgloop.errors import Stopped, UserError

    arguments = sys.argv[1:]
    try:
        folders = given_folders(arguments)
        if "--version" in arguments:
            return print(f"imgloop {version('imgloop')}")
        if {"--help", "-h"} & set(arguments):
            from imgloop.config import help

            return print(help.text(arguments, folders))
    except UserError as e:
        sys.exit(f"imgloop: {e}")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from imgloop.config import compose

    sys.argv[1:] = arguments = compose.with_paths_quoted(flags_first(arguments))
    try:
        compose.register()
        hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")(job)()
    except UserError as e:
        sys.exit(f"imgloop: {e}")
    except Stopped as e:  # by a launcher, whose chains have saved their state
        print(f"imgloop: {e}", file=sys.stderr)
        sys.exit(128 + e.signal)
    except (HydraException, OmegaConfBaseException, ValueError) as e:
        if type(e) is ValueError and "Config group override" not in str(e):
            raise
        from imgloop.config.messages import sentence

        sys.exit(f"imgloop: {sentence(e, arguments, folders)[0]}")


def flags_first(arguments: list[str]) -> list[str]:
    """The arguments of a command with -m and --config-dir before all overrides, which Hydra asks for."""
    flags, others, rest = [], [], iter(arguments)
    for argument in rest:
        if argument in ("-m", "--multirun") or argument.startswith(("--config-dir=", "-cd=")):
            flags.append(argument)
        elif argument in ("--config-dir", "-cd"):
            flags += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        else:
            others.append(argument)
    return flags + others


def given_folders(arguments: list[str]):
    """The folders that --config-dir (or -cd) names on a command line. Raises UserError for one that does not exist, or
    that holds an option that cannot be read."""
    from imgloop.config.compose import config_folders

    folders = []
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(value if equals else arguments[i + 1] if i + 1 < len(arguments) else None)
    return config_folders(folders)


if __name__ == "__main__":
    main()
