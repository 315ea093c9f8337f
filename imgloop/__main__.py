"""python -m imgloop: Hydra reads the command line, loop.run does the work; mistakes end in one sentence."""

import os
import sys
import traceback

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us whole; main() makes sentences of them
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # spinning threads are up to ten times slower where a core is shared


def job(cfg) -> None:
    """One job: a chain. In a multirun a failure is written down, so that the other chains go on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from imgloop import loop
    from imgloop import multirun as sweep
    from imgloop.config.settings import checked
    from imgloop.errors import Stopped, UserError

    hydra = HydraConfig.get()
    study = failed = None
    try:
        settings = checked(cfg, hydra.runtime.choices, hydra.overrides.task)
        study = str(settings.study)
        loop.run(settings)
    except Stopped as e:
        print(f"imgloop: {e}", file=sys.stderr)
        sys.exit(128 + e.signal)
    except UserError as e:
        failed = str(e)
        if hydra.mode != RunMode.MULTIRUN:
            sys.exit(f"imgloop: {failed}")
        print(f"failed: {failed}", file=sys.stderr, flush=True)
    except Exception as e:  # a fault of ours: shown whole, and the sweep goes on
        if hydra.mode != RunMode.MULTIRUN:
            raise
        traceback.print_exc()
        failed = f"{type(e).__name__}: {e}"
    if hydra.mode == RunMode.MULTIRUN:
        sweep.leave(hydra, study, failed)


def main() -> None:
    try:
        command()
    except KeyboardInterrupt:
        print("imgloop: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our lines has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def command() -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from imgloop.config import settings as config

    config.register()
    try:
        hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, ValueError) as e:
        if type(e) is ValueError and "Config group override" not in str(e):
            raise
        from imgloop.config.messages import sentence

        sys.exit(f"imgloop: {sentence(e, sys.argv[1:])}")


if __name__ == "__main__":
    main()
