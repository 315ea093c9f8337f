"""python -m imgloop: Hydra reads the command line, loop.run does the work; a user's mistake ends in one sentence."""

import multiprocessing
import os
import sys
import traceback

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach main() unchanged, which prints them as one sentence


def job(cfg) -> None:
    """One job: a chain. In a multirun a failure is recorded, and the other chains still run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from imgloop import devices, interrupt, multirun
    from imgloop.config.settings import checked
    from imgloop.errors import Stopped, UserError

    hydra = HydraConfig.get()
    worker = multiprocessing.current_process().name.startswith("Loky")  # of the launcher joblib
    if worker:
        interrupt.end_with_parent()
    study = failure = None
    try:
        settings = checked(with_hydra(cfg, hydra), hydra.runtime.choices, hydra.overrides.task)
        study = str(settings.study)
        several = hydra.mode == RunMode.MULTIRUN
        devices.run(settings, several, hydra.runtime.choices["hydra/launcher"] if several else "basic")
    except Stopped as e:
        print(f"imgloop: {e}", file=sys.stderr, flush=True)
        if worker:  # its launcher would wait for more jobs
            os._exit(128 + e.signal)
        sys.exit(128 + e.signal)
    except UserError as e:
        failure = str(e)
        if hydra.mode != RunMode.MULTIRUN:
            sys.exit(f"imgloop: {failure}")
        print(f"failed: {failure}", file=sys.stderr, flush=True)
    except Exception as e:  # a bug in imgloop: print the traceback and continue the sweep
        if hydra.mode != RunMode.MULTIRUN:
            raise
        traceback.print_exc()
        failure = f"{type(e).__name__}: {e}"
    if hydra.mode == RunMode.MULTIRUN:
        multirun.write_outcome(hydra, study, failure)


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


def command() -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from imgloop.config import compose
    from imgloop.errors import UserError

    folders: tuple = ()
    try:
        folders = given_folders(sys.argv[1:])
        compose.register()
        hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")(job)()
    except UserError as e:
        sys.exit(f"imgloop: {e}")
    except (HydraException, OmegaConfBaseException, ValueError) as e:
        if type(e) is ValueError and "Config group override" not in str(e):
            raise
        from imgloop.config.messages import sentence

        sys.exit(f"imgloop: {sentence(e, sys.argv[1:], folders)[0]}")


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
