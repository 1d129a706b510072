"""The main job: python -m ne_jax.main --config=configs/quickstart.py --workdir=DIR --stage=all

Stages, each reading what the former wrote: inspect (spectrum; what a release would cost and stop), encode (write the releases),
check (certificates), evaluate (who can read them), report (report.md, report.html), all.
Any leaf of the config can be set: --config.recode.psnr_db=3
Exit status: 0 done; 1 done, but images were skipped and --strict was given; 2 a mistake in the input, told in one line.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from ne_jax import check, encode, evaluate, inspection, report, tables
from ne_jax.errors import UserError
from ne_jax.job import Job, open_job

STAGES = ("inspect", "encode", "check", "evaluate", "report")

_CONFIG = config_flags.DEFINE_config_file("config", None, "config file, such as configs/quickstart.py")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that this run makes")
_STAGE = flags.DEFINE_enum("stage", "all", (*STAGES, "all"), "what to do")
_STRICT = flags.DEFINE_bool("strict", False, "exit with status 1 when an image could not be read")


def run_stage(job: Job, stage: str) -> int:
    """One stage; returns the number of images that it had to skip."""
    if stage == "inspect":
        print(inspection.describe(inspection.run(job)))
    elif stage == "encode":
        return encode.run(job)
    elif stage == "check":
        print(tables.check_text(check.run(job)))
    elif stage == "evaluate":
        print(tables.results_text(evaluate.run(job)))
    elif stage == "report":
        print(f"report: {report.run(job)}")
    return 0


def main(argv: list[str]) -> None:
    """Run the stages that --stage names."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; every option starts with --")
    try:
        config = _CONFIG.value and _CONFIG.value.copy_and_resolve_references()
    except OSError as error:
        raise _unreadable(error) from error
    if config is None or _WORKDIR.value is None:
        raise UserError("give --config=FILE (such as configs/quickstart.py) and --workdir=DIR")
    job = open_job(config, pathlib.Path(_WORKDIR.value))
    skipped = sum(run_stage(job, stage) for stage in (STAGES if _STAGE.value == "all" else (_STAGE.value,)))
    if skipped:
        logging.error(
            "%d of %d images were skipped; they are listed in %s",
            skipped,
            len(job.source.names),
            job.workdir / "problems.json",
        )
        if _STRICT.value:
            sys.exit(1)


def _parse(argv: list[str]) -> list[str]:
    """absl's flags, with a config file's own faults told in one line too."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error
    except OSError as error:
        raise _unreadable(error) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # what ml_collections raises for bad leaves
        raise UserError(f"--config: {str(error).splitlines()[0]}") from error


def _unreadable(error: OSError) -> UserError:
    """ml_collections tells that a config file cannot be read when it is first used, with the reason in the last line."""
    return UserError(f"--config: {str(error).splitlines()[-1].strip()}")


def cli() -> None:
    """`main`, with a person's mistakes told without a traceback."""
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every restore
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
