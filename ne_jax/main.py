"""The main job: python -m ne_jax.main --config=configs/quickstart.py --workdir=DIR --stage=all

Stages, each reading what the former wrote: inspect (spectrum; what a release would cost and stop), encode (write the releases),
check (certificates), evaluate (who can read them), attack (who can read them then), report (report.md, report.html), all; and
analyse (spectra of all models, and why it works; before report, which then shows it).
Any leaf of the config can be set: --config.recode.psnr_db=3
Several processes can encode together: --distributed in each (scripts/launch_local.sh).

Whoever has a release and the authorized model: python -m ne_jax.main --stage=verify --release=DIR [--config=FILE] [--private=DIR]
[--public_key=FILE]

Exit status: 0 done; 1 done, but images were skipped and --strict was given, or a verified release is broken; 2 a mistake in the
input, told in one line; 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

from ne_jax.stages import stop

if __name__ == "__main__":
    stop.watch()  # first, as the imports take a while

import importlib
import pathlib
import pkgutil
import sys
from typing import TYPE_CHECKING

from absl import app, flags, logging

from ne_jax.config import Config, checked, command_line
from ne_jax.config.tables import plain
from ne_jax.data.local_path import expanded
from ne_jax.errors import UserError
from ne_jax.stages import malloc, needs

if TYPE_CHECKING:
    from ne_jax.stages.job import Job

# Stage -> its module with `run(job)`, and what words the outcome for the terminal. Imported when run: JAX and the rest take seconds.
_RUN = {
    "inspect": ("stages.inspect_model", "stages.inspect_model:describe"),
    "encode": ("stages.encode", None),
    "check": ("stages.check", "report.result_tables:check_text"),
    "evaluate": ("stages.evaluate", "report.result_tables:results_text"),
    "attack": ("stages.attack", "report.attack_sections:text"),
    "analyse": ("stages.analyse", None),
    "report": ("report.report", "report.report:told"),
}
STAGES = tuple(stage for stage in _RUN if stage != "analyse")  # of "all"

_CONFIG = command_line.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that this run makes")
_STAGE = flags.DEFINE_enum("stage", "all", (*STAGES, "all", "analyse", "verify"), "what to do")
_RELEASE = flags.DEFINE_string("release", None, "verify: folder of the release")
_PRIVATE = flags.DEFINE_string(
    "private", None, "verify: the owner's WORKDIR/private, for every certificate and prediction"
)
_PUBLIC_KEY = flags.DEFINE_string(
    "public_key", None, "verify: file with the public key of the release's owner, who must have signed it"
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "folder that keeps compiled programs for later runs; default: in your cache folder; empty: none",
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "encode: one of several processes that share the work")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; none: the cluster's environment tells")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "with --coordinator", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "with --coordinator: 0 to num_processes - 1", lower_bound=0)
_STRICT = flags.DEFINE_bool("strict", False, "exit with status 1 when an image could not be read")


def run_stage(job: Job, stage: str) -> int:
    """One stage; returns the number of images that it had to skip."""
    module, told = _RUN[stage]
    found = importlib.import_module(f"ne_jax.{module}").run(job)
    if told is not None:
        print(pkgutil.resolve_name(f"ne_jax.{told}")(found))
    return found if stage == "encode" else 0


def main(argv: list[str]) -> None:
    """Run the stages that --stage names."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; every option starts with --")
    try:
        config = checked(_CONFIG.value) if _CONFIG.present else None
    except OSError as error:  # of a file that cannot be read: ml_collections keeps it until here
        raise command_line.mistake(error) from error
    from ne_jax.stages import compilation_cache

    compilation_cache.use(_COMPILATION_CACHE.value and str(_place(_COMPILATION_CACHE)))
    if _STAGE.value == "verify":
        stop.begins_anew()
        sys.exit(_verify(config))
    if config is None or _WORKDIR.value is None:
        raise UserError("give --config=FILE (such as configs/quickstart.py) and --workdir=DIR")
    if _DISTRIBUTED.value:
        if _STAGE.value != "encode":
            raise UserError(f"--distributed is for --stage=encode; run --stage={_STAGE.value} in one process")
        from ne_jax.stages import multihost

        multihost.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    workdir = _place(_WORKDIR)
    needs.look(_STAGE.value, config, workdir)
    from ne_jax.stages.job import open_job

    job = open_job(config, workdir)
    with job.lock:
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


def _place(flag: flags.FlagHolder) -> pathlib.Path:
    return pathlib.Path(expanded(flag.value, f"--{flag.name}"))


def _verify(config: Config | None) -> int:
    """Exit status 0 for a release that holds, 1 for one that does not."""
    if _RELEASE.value is None:
        raise UserError("give --release=DIR, the folder that holds manifest.json")
    from ne_jax.models.registry import SAMPLES
    from ne_jax.release import verify
    from ne_jax.release.manifest import read_manifest
    from ne_jax.release.verdict import describe
    from ne_jax.stages.job import load_named

    release, public_key = _place(_RELEASE), _PUBLIC_KEY.value and str(_place(_PUBLIC_KEY))
    name = read_manifest(release, public_key).authorized.name
    config = config or Config()
    if name not in (*config.models, *SAMPLES):
        raise UserError(
            f"{release} is for the model {name}: give --config=FILE with its checkpoint, config.models.{name}.checkpoint"
        )
    model = load_named(config, name)
    found = verify.run(release, model, _PRIVATE.value and _place(_PRIVATE), public_key=public_key)
    print(describe(found))
    return 0 if found.holds else 1


def _parse(argv: list[str]) -> list[str]:
    """absl's flags, with --help that shows every leaf, and with mistakes told in one line."""
    if "--help" in argv:
        app.usage(shorthelp=True, writeto_stdout=True)
        print(f"\n--config.LEAF=VALUE, for these; docs/CONFIG.md and python -m ne_jax.config tell more:\n\n{plain()}")
        sys.exit()
    command_line.refuse_unknown(argv)
    argv = command_line.with_whole_path(argv)
    try:
        return flags.FLAGS(argv)
    except command_line.FAULTS as error:
        raise command_line.mistake(error) from error


def cli() -> None:
    """`main`, with a person's mistakes told without a traceback."""
    sys.stdout.reconfigure(line_buffering=True)  # what was told stays told, however the run ends
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every restore
    malloc.keep_freed()
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
