"""The command: a whole run, and a person's mistakes told in one line."""

import pytest
from PIL import Image

from ne_jax.release.manifest import read_manifest
from tests import in_process, jobs

SMALL = [
    "--config.attack.suite=none",
    "--config.data.limit=12",
    "--config.batch_size=5",
    "--config.evaluate.curve_images=5",
]


def options(workdir, *arguments, config="configs/quickstart.py"):
    return f"--config={config}", f"--workdir={workdir}", *SMALL, *arguments


def call(workdir, *arguments, **config):
    return in_process.call(*options(workdir, *arguments, **config))


def run(workdir, *arguments, **config):
    """In a process of its own, as a person runs it: once for each exit status."""
    return jobs.run(jobs.main(*options(workdir, *arguments, **config)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("main") / "run"
    return workdir, run(workdir)


def test_all_stages_from_the_command_line(finished):
    """The documented command ends well, prints the table, and leaves every documented file."""
    workdir, done = finished
    assert done.returncode == 0, done.stderr
    assert "**vit_a** (authorized)" in done.stdout and f"report: {workdir}/report.html" in done.stdout
    names = ("config.json", "inspect.json", "private/certificates.jsonl", "results.jsonl", "report.md", "report.html")
    assert all((workdir / name).is_file() for name in names)
    assert (workdir / "releases" / "png8" / "images" / "test" / "00011.png").is_file()
    assert "image/s" in done.stderr and "<" in done.stderr  # progress with an ETA


def test_a_stage_can_be_run_alone_and_again(finished):
    """Each stage reads what the former wrote."""
    workdir, _ = finished
    for stage in ("inspect", "encode", "check", "evaluate", "report"):
        done = call(workdir, f"--stage={stage}")
        assert done.returncode == 0, done.stderr


MISTAKES = {
    "unknown config": ([], "configs/nothing.py", "configs/nothing.py"),
    "unknown leaf": (["--config.recode.psnr=3"], None, "psnr"),
    "wrong type": (["--config.recode.psnr_db=loud"], None, "psnr_db"),
    "another config": (["--config.recode.psnr_db=3"], None, "recode.psnr_db: was 0.0, is 3.0"),
    "unknown stage": (["--stage=decode"], None, "decode"),
    "alone in a crowd": (
        ["--distributed"],
        None,
        "--distributed is for --stage=encode; run --stage=all in one process",
    ),
    "no crowd": (["--distributed", "--stage=encode"], None, "give --coordinator=HOST:PORT --num_processes=N"),
    "unknown authorized": (["--config.authorized=vit_z"], None, "authorized: was vit_a, is vit_z"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_no_traceback(finished, mistake):
    """Exit status 2 and one line that names the thing."""
    arguments, config, part = MISTAKES[mistake]
    done = call(finished[0], *arguments, config=config or "configs/quickstart.py")
    assert part in jobs.told(done)


def test_a_mistake_ends_the_process_with_status_2(tmp_path):
    """For the shell that started it: the status, and nothing but the line on standard error."""
    done = run(tmp_path / "run", "--config.recode.psnr=3")
    assert "psnr" in jobs.told(done) and done.stderr.count("\n") == 1 and not done.stdout


NEW_WORKDIR_MISTAKES = {
    "overlapping windows": (["--config.authorized=resnet_a"], "no low-sensitivity direction"),
    "strength out of reach": (
        ["--config.recode.fit=False"],
        "cannot be reached inside [0, 1]: the strongest that fits",
    ),
    "no direction": (["--config.subspace.rule=count", "--config.subspace.value=0.0"], "count 0"),
    "no such folder": (
        ["--config.data.kind=folder", "--config.data.path=/no/such"],
        'data.path "/no/such": no such folder',
    ),
    "unknown format": (["--config.release.formats=('jpeg',)"], "release.formats is ['jpeg']"),
}


@pytest.mark.parametrize("mistake", NEW_WORKDIR_MISTAKES)
def test_a_mistake_in_a_new_workdir(tmp_path, mistake):
    """The same for mistakes that the config check, the model or the data find."""
    arguments, part = NEW_WORKDIR_MISTAKES[mistake]
    assert part in jobs.told(call(tmp_path / "run", *arguments))


def test_a_typo_in_a_config_file_is_told(tmp_path):
    """A leaf that does not exist is an error there, too, and no setting that nothing reads."""
    config = jobs.write_config(tmp_path / "config.py", {})
    config.write_text(config.read_text().replace("    return", "    config.data.worker = 3\n    return"))
    line = jobs.told(call(tmp_path / "run", config=config))
    assert line.startswith("error: --config: ") and "worker" in line and not (tmp_path / "run").exists()


def test_verify_needs_a_release(tmp_path):
    """Without a folder, and with one that is no release, it says what to give."""
    assert jobs.told(in_process.call("--stage=verify")) == (
        "error: give --release=DIR, the folder that holds manifest.json"
    )
    line = jobs.told(in_process.call("--stage=verify", f"--release={tmp_path}"))
    assert line.startswith(f"error: {tmp_path}: no manifest.json, so no complete release")


def test_a_release_can_be_verified_by_command(finished):
    """By whoever has the folder alone, and by its owner; a file that changed makes the status 1."""
    folder, private = finished[0] / "releases" / "png8", finished[0] / "private"
    for arguments in ([], [f"--private={private}"]):
        done = in_process.call("--stage=verify", f"--release={folder}", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    picture = folder / "images" / "test" / "00003.png"
    kept = picture.read_bytes()
    picture.write_bytes((folder / "images" / "test" / "00004.png").read_bytes())
    done = in_process.call("--stage=verify", f"--release={folder}")
    picture.write_bytes(kept)
    assert done.returncode == 1 and "00003.png" in done.stdout and "Traceback" not in done.stderr


def test_strict_turns_skipped_images_into_a_failure(tmp_path):
    """Exit 0 with a count of what was skipped; exit 1 under --strict; the good images are released either way."""
    folder = tmp_path / "images with spaces"
    folder.mkdir()
    for index in range(3):
        Image.new("L", (30, 30), 60 * index).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"no image")
    arguments = ["--config.data.kind=folder", f"--config.data.path={folder}", "--stage=encode"]
    done = call(tmp_path / "run", *arguments)
    assert (
        done.returncode == 0
        and "1 of 4 images were skipped" in done.stderr
        and str(folder / "broken.png") in done.stderr
    )
    assert run(tmp_path / "run", *arguments, "--strict").returncode == 1
    assert read_manifest(tmp_path / "run" / "releases" / "png8").images == 3
