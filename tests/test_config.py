"""The config: leaves that tell themselves, files and command lines that change them, and mistakes told in one line."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict
from PIL import Image

from ne_jax.config import Config, checked, default, first_difference, leaves
from ne_jax.config.schema import ModelConfig, RecodeConfig
from ne_jax.config.stage_sections import AttackConfig
from ne_jax.config.tables import markdown, plain
from ne_jax.data import sources
from ne_jax.errors import UserError
from tests import in_process, jobs

# What version 0.1.0 wrote into WORKDIR/config.json for the defaults.
OF_0_1_0 = {
    "also_authorized": [], "attack.external": "", "attack.images": 64, "attack.only": [], "attack.own_images": 32, "attack.public": 128,
    "attack.releases": 128, "attack.suite": "quick", "authorized": "vit_a", "batch_size": 256, "cache": "", "data.follow_links": False,
    "data.kind": "fashion_mnist", "data.limit": 0, "data.max_megapixels": 100.0, "data.path": "", "data.split": "test",
    "data.workers": 0, "evaluate.baseline_images": 500, "evaluate.curve_images": 500,
    "evaluate.curve_psnr_db": [0.0, 5.0, 10.0, 15.0, 20.0, 25.0], "readers": ["vit_a", "vit_b", "resnet_a", "resnet_b", "vit_a_tuned"],
    "recode.design": "auto", "recode.fit": False, "recode.jpeg_quality": 0, "recode.logit_gap": 0.1, "recode.margin_share": 0.5,
    "recode.max_passes": 0.0, "recode.psnr_db": 0.0, "recode.replace": False, "recode.restarts": 0, "recode.restore": 16,
    "recode.rounds": 40, "recode.secret_file": "", "recode.steps": 24, "recode.surrogates": [], "release.creator": "",
    "release.formats": ["float32", "png8"], "release.keep_metadata": False, "release.license": "", "release.opaque_names": False,
    "release.shard_size": 256, "release.url": "", "report.pictures": 6, "subspace.rule": "relative", "subspace.value": 0.01,
}  # fmt: skip
# Leaves that came since, of which a workdir keeps none.
LATER = {"release.again", "release.signing_key", "attack.other", "inspect.planned_files"}
NOW = OF_0_1_0 | {"release.formats": ["png8"]}  # one artefact
# Says the same as OF_0_1_0, and that two artefacts are meant.
BEFORE = {"release.again": True, "release.formats": ("float32", "png8")}


def changed(**leaves) -> ConfigDict:
    config = default()
    config.update_from_flattened_dict(leaves)
    return config


def told(config: ConfigDict) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(UserError) as caught:
        checked(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def declared(kind: type, prefix: str = ""):
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from declared(field.type, f"{field.name}.")
        elif "leaf" in field.metadata:
            yield f"{prefix}{field.name}", field.type, field.metadata["leaf"]


# --- What leaves tell of themselves ---


def test_every_leaf_has_help_and_what_it_takes():
    """A sentence, and a unit, a range or choices; True and False need none."""
    for name, kind, known in [*declared(Config), *declared(ModelConfig, "models.NAME.")]:
        assert known.help.endswith(".") and len(known.help) > 10, name
        assert kind is bool or known.unit or known.choices or known.range(), name


def test_defaults_and_json_are_those_of_version_0_1_0_but_for_one_artefact():
    """An old WORKDIR/config.json is the present one's, leaf by leaf and in its order, so that old workdirs go on."""
    now = leaves(Config())
    assert json.dumps(leaves(checked(default()))) == json.dumps(now) and now.keys() >= LATER
    as_then = {name: value for name, value in now.items() if name not in LATER}
    assert json.dumps(as_then) == json.dumps(OF_0_1_0 | {"release.formats": ["png8"]})
    assert first_difference(OF_0_1_0, checked(changed(**BEFORE))) is None


def test_what_decides_a_release_keeps_its_workdir():
    """Another strength or model is named; another number of threads or pictures is no difference."""
    assert first_difference(NOW, Config()) is None
    same = changed(
        **{
            "data.workers": 3,
            "recode.max_passes": 9,
            "report.pictures": 1,
            "batch_size": 3,
            "readers": (),
            "release.again": True,
        }
    )
    assert first_difference(NOW, checked(same)) is None
    other = changed(**{"recode.psnr_db": 3})
    assert first_difference(NOW, checked(other)) == "recode.psnr_db: was 0.0, is 3.0"
    other.models = {"mine": {"architecture": "vit_b16"}}
    assert first_difference(NOW, checked(other)).startswith("models.mine.architecture: was None, is vit_b16")


def test_the_page_of_leaves_is_current():
    """docs/CONFIG.md is what the command prints, and every leaf is in it."""
    page = (jobs.ROOT / "docs" / "CONFIG.md").read_text()
    assert page == markdown()
    assert all(f"| `{name}` " in page for name in OF_0_1_0)


def test_help_shows_every_leaf_and_takes_no_time():
    """--help ends with the table of leaves; making it imports neither jax nor what reads formats."""
    assert all(f"\n{name} " in plain() for name in OF_0_1_0)
    done = jobs.run(jobs.main("--help"))
    assert done.returncode == 0 and "--workdir" in done.stdout and done.stdout.endswith(plain() + "\n")
    # Under a bare ne_jax: what this package itself brings in.
    code = "import sys, types; bare = sys.modules['ne_jax'] = types.ModuleType('ne_jax'); bare.__path__ = ['ne_jax']; "
    code += "from ne_jax.config.tables import plain; from ne_jax.config import command_line; plain(); "
    code += "print(*{'jax', 'numpy', 'PIL', 'array_record', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=jobs.ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_kinds_of_data_are_those_that_a_source_can_be():
    """The choices of data.kind are the ones that open_source tells."""
    (choices,) = (known.choices for name, _, known in declared(Config) if name == "data.kind")
    with pytest.raises(UserError, match=f"choose {', '.join(choices)}$"):
        sources.open_source("video")


# --- Values ---


def test_a_config_is_frozen_and_checked_however_it_is_made():
    """No leaf can be set afterwards; a copy with another value is checked as the first was; sections check themselves."""
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.recode.psnr_db = 3.0
    with pytest.raises(UserError, match="recode.steps is 0; give at least 1"):
        dataclasses.replace(config.recode, steps=0)
    with pytest.raises(UserError, match="recode.psnr_db is 10*; give a number of dB"):
        RecodeConfig(psnr_db=10**400)  # a whole number that no float can hold
    with pytest.raises(UserError, match='attack.suite "some" is unknown; choose quick, full, none'):
        AttackConfig(suite="some")


def test_numbers_and_lists_become_what_the_leaf_is():
    """A whole number where any number goes is one; a list is a tuple. Neither changes the JSON of a workdir."""
    config = changed(**{"subspace.value": 0, "evaluate.curve_psnr_db": [0, 10], "readers": ["vit_a"]})
    found = checked(config)
    assert (found.subspace.value, found.evaluate.curve_psnr_db, found.readers) == (0.0, (0.0, 10.0), ("vit_a",))
    assert isinstance(found.subspace.value, float) and isinstance(found.evaluate.curve_psnr_db[1], float)
    assert RecodeConfig(psnr_db=3) == RecodeConfig(psnr_db=3.0)


WRONG = {
    'recode.psnr_db is "strong"; give a number of dB': {"recode.psnr_db": "strong"},
    'recode.steps is "many"; give a whole number of gradients, at least 1': {"recode.steps": "many"},
    "recode.steps is 2.5; give a whole number of gradients, at least 1": {"recode.steps": 2.5},
    "recode.steps is True; give a whole number of gradients, at least 1": {"recode.steps": True},
    "recode.psnr_db is inf; give a number of dB": {"recode.psnr_db": float("inf")},
    "subspace.value is nan; give a number of directions, or a share, at least 0": {"subspace.value": float("nan")},
    "evaluate.curve_psnr_db is [0.0, nan]; give a list of numbers of dB": {"evaluate.curve_psnr_db": (0.0, float("nan"))},
    "recode.margin_share is -0.5; give at least 0": {"recode.margin_share": -0.5},
    "recode.jpeg_quality is 101; give 0 to 100": {"recode.jpeg_quality": 101},
    "recode.fit is 1; give True or False": {"recode.fit": 1},
    "data.path is 3; give text: a path, or the name of a set": {"data.path": 3},
    "cache is None; give text: a path": {"cache": None},
    'readers is "vit_a"; give a list of models': {"readers": "vit_a"},
    "readers is ['vit_a', 3]; give a list of models": {"readers": ("vit_a", 3)},
    'subspace.rule "most" is unknown; choose relative, count, energy, utility': {"subspace.rule": "most"},
    "release.formats is ['png8', 'jpeg']; choose from png8, float32, ": {"release.formats": ("png8", "jpeg")},
    "recode is 3; set what is in it, such as recode.psnr_db": {"recode": 3},
    'there is no leaf "recode.psnr"; did you mean recode.psnr_db?': {"recode": {"psnr": 3}},
    'models is "mine"; give a mapping of names to entries': {"models": "mine"},
    'models.mine is "vit_b16"; set what is in it, such as models.mine.architecture': {"models": {"mine": "vit_b16"}},
    "models.mine.architecture is missing; ": {"models": {"mine": {"checkpoint": "x"}}},
    'models.mine.image_size is "224"; give a whole number of pixels, at least 1': {
        "models": {"mine": {"architecture": "vit_b16", "image_size": "224"}}
    },
    'there is no leaf "models.mine.checkpoin"; did you mean models.mine.checkpoint?': {
        "models": {"mine": {"architecture": "vit_b16", "checkpoin": "x"}}
    },
}  # fmt: skip


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_value_is_one_line_with_the_leafs_name(expected):
    """What was given, and what is wanted."""
    assert told(changed(**WRONG[expected])).startswith(expected)


def test_a_mistyped_leaf_is_refused_where_it_is_set():
    """In a config file, by whichever way; the nearest leaf is named."""
    config = default()
    with pytest.raises(AttributeError, match='no leaf "psnr"; did you mean psnr_db?'):
        config.recode.psnr = 3
    with pytest.raises(KeyError, match='no leaf "psnr"; did you mean psnr_db?'):
        config.update_from_flattened_dict({"recode.psnr": 3})


# --- Files and command lines ---

LINES = {
    'config.recode.steps = "many"': 'error: recode.steps is "many"; give a whole number of gradients, at least 1',
    "config.recode.steps = = 2": "error: --config: {path}, line 6: invalid syntax",
    "config.recode.step = 2": 'error: --config: {path}, line 6: there is no leaf "step"; did you mean steps?',
    "config.batch_size = int('many')": "error: --config: {path}, line 6: invalid literal for int() with base 10: 'many'",
    "raise RuntimeError('not today')": "error: --config: {path}, line 6: not today",
    "config.readers = 3": "error: readers is 3; give a list of models",
    "config.recode = 'strong'": 'error: recode is "strong"; set what is in it, such as recode.psnr_db',
    "config.subspace.value = float('nan')": "error: subspace.value is nan; give a number of directions, or a share, at least 0",
    "import nothing_such": "error: --config: {path}, line 6: No module named 'nothing_such'",
    "config.recode.steps = many": "error: --config: {path}, line 6: name 'many' is not defined",
    "return": "error: --config: get_config() returns NoneType; return what default() made",
}


@pytest.mark.parametrize("line", LINES)
def test_a_mistake_in_a_config_file_is_one_line(tmp_path, line):
    """Python's and ml_collections' faults with file and line, wrong values with the leaf; no traceback, exit status 2."""
    path = jobs.write_config(tmp_path / "config.py", {})
    path.write_text(path.read_text().replace("    config.update_from_flattened_dict({})\n", f"    {line}\n"))
    found = jobs.told(in_process.call(f"--config={path}", f"--workdir={tmp_path / 'run'}"))
    assert found == LINES[line].format(path=path) and not (tmp_path / "run").exists()


def parsed(argument: str) -> dict:
    """The leaves that configs/quickstart.py and `argument` make."""
    from ne_jax import main

    def show(words: list[str]) -> None:
        main._parse(words)
        print(json.dumps(leaves(checked(main._CONFIG.value))))

    return json.loads(in_process.finished(show, "--config=configs/quickstart.py", argument).stdout)


FORMS = {
    "--config.readers=vit_a,vit_b": ("readers", ["vit_a", "vit_b"]),
    "--config.readers=vit_a, vit_b,": ("readers", ["vit_a", "vit_b"]),
    "--config.readers=('vit_a','vit_b')": ("readers", ["vit_a", "vit_b"]),
    "--config.readers=(vit_a,vit_b)": ("readers", ["vit_a", "vit_b"]),
    "--config.readers=['vit_a']": ("readers", ["vit_a"]),
    "--config.readers=torch:timm/resnet-50.a1": ("readers", ["torch:timm/resnet-50.a1"]),
    "--config.readers=": ("readers", OF_0_1_0["readers"]),  # the usual ones
    "--config.readers=()": ("readers", OF_0_1_0["readers"]),
    "--config.attack.only=('jpeg',)": ("attack.only", ["jpeg"]),
    "--config.evaluate.curve_psnr_db=0,10": ("evaluate.curve_psnr_db", [0.0, 10.0]),
    "--config.evaluate.curve_psnr_db=(2.5,)": ("evaluate.curve_psnr_db", [2.5]),
    "--config.evaluate.curve_psnr_db=7": ("evaluate.curve_psnr_db", [7.0]),
    "--config.recode.psnr_db=3": ("recode.psnr_db", 3.0),
    "--config.subspace.value=1e-3": ("subspace.value", 0.001),
    "--config.recode.steps=30": ("recode.steps", 30),
    "--config.data.path=2024": ("data.path", "2024"),
    "--config.recode.replace=False": ("recode.replace", False),
    "--noconfig.recode.replace": ("recode.replace", False),
    "--config.release.opaque_names": ("release.opaque_names", True),
}
UNFIT = {
    "--config.recode.psnr_db=strong": 'recode.psnr_db is "strong"; give a number of dB',
    "--config.recode.psnr_db=nan": "recode.psnr_db is nan; give a number of dB",
    "--config.subspace.value=nan": "subspace.value is nan; give a number of directions, or a share, at least 0",
    "--config.subspace.value=inf": "subspace.value is inf; give a number of directions, or a share, at least 0",
    "--config.recode.steps=2.5": "recode.steps is 2.5; give a whole number of gradients, at least 1",
    "--config.recode.fit=perhaps": 'recode.fit is "perhaps"; give True or False',
    "--config.evaluate.curve_psnr_db=0,far": "evaluate.curve_psnr_db is ['0', 'far']; give a list of numbers of dB",
    "--config.recode.psnr=3": '--config.recode.psnr: there is no leaf "recode.psnr"; did you mean recode.psnr_db?',
    "--config.reader=vit_a": '--config.reader: there is no leaf "reader"; did you mean readers?',
    "--config.models.mine.checkpoint=x": "--config: the command line sets what the config has not: 'mine'",
}


@pytest.mark.parametrize("argument", FORMS)
def test_a_leaf_on_the_command_line(argument):
    """Lists with or without brackets and quotes, and one name alone; numbers, texts and switches."""
    name, value = FORMS[argument]
    assert parsed(argument)[name] == value


@pytest.mark.parametrize("argument", UNFIT)
def test_a_mistake_on_the_command_line_is_one_line(argument):
    """With the leaf's name, what was given, and what is wanted."""
    assert jobs.told(in_process.call("--config=configs/quickstart.py", argument)) == f"error: {UNFIT[argument]}"


@pytest.mark.parametrize("path", sorted((jobs.ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_file_makes_a_config(path: pathlib.Path):
    """What `configs/` holds passes every check."""
    scope: dict = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(), path, "exec"), scope)
    assert checked(scope["get_config"]()).batch_size >= 1


# --- Who reads where nobody is named ---

MINE = {"mine": {"architecture": "vit_b16", "checkpoint": "/x.safetensors"}}
SHIPPED = tuple(OF_0_1_0["readers"])
USUAL = {
    "the defaults": ({}, SHIPPED),
    "a shipped model": ({"authorized": "resnet_a"}, ("resnet_a", "vit_a", "vit_b", "resnet_b", "vit_a_tuned")),
    "a shipped model on one's own images": ({"data.kind": "folder", "data.path": "/x"}, SHIPPED),
    "one's own model on the shipped images": ({"authorized": "mine", "models": MINE}, ("mine", *SHIPPED)),
    "one's own model and images": ({"authorized": "mine", "models": MINE, "data.kind": "folder"}, ("mine",)),
    "one's own under a shipped name": (
        {"models": {"vit_a": MINE["mine"]}, "data.kind": "folder"},
        ("vit_a",),
    ),
    "two of one's own": (
        {"authorized": "mine", "also_authorized": ("other",), "models": MINE | {"other": MINE["mine"]}, "data.kind": "folder"},
        ("mine", "other"),
    ),
    "whoever is named": ({"authorized": "mine", "models": MINE, "readers": ("vit_b",)}, ("vit_b",)),
}  # fmt: skip


@pytest.mark.parametrize("case", USUAL)
def test_without_readers_the_authorized_model_is_one(case):
    """And the shipped ones are where they can read the images; who names readers gets these."""
    leaves, readers = USUAL[case]
    assert checked(changed(**leaves)).readers == readers


def test_a_model_of_one_s_own_is_evaluated(tmp_path):
    """README's recipe, an entry of `models` and `authorized`, from images in a folder to the report: its own row is there, no
    shipped model's, and it is said that nobody else was asked."""
    images, workdir = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for index in range(6):
        Image.effect_noise((40, 40), 60 + index).save(images / f"{index}.png")
    assets = jobs.ROOT / "ne_jax" / "assets" / "checkpoints"
    leaves = {
        "models": {"mine": {"architecture": "vit_fashion", "checkpoint": str(assets / "vit_b.safetensors")}},
        "authorized": "mine", "data.kind": "folder", "data.path": str(images), "data.limit": 0, "recode.fit": True, "batch_size": 6,
        "release.formats": ("png8",), "evaluate.curve_psnr_db": (10.0,), "report.pictures": 1, "attack.only": ("median",),
        "attack.images": 2, "attack.own_images": 2, "attack.releases": 2, "attack.public": 2,
    }  # fmt: skip
    config = jobs.write_config(tmp_path / "my_config.py", leaves)
    done = in_process.call(f"--config={config}", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "**mine** (authorized)" in done.stdout and "vit_a" not in done.stdout
    rows = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert {row["reader"] for row in rows} == {"mine"}
    assert min(row["value"] for row in rows if row["condition"] == "ne" and row["metric"] == "agreement") == 1
    assert "readers: nobody but whom the release is for" in done.stderr
