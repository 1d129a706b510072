"""Manifests: Croissant for dataset tools, and the block "ne" for everybody."""

import json
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from ne_jax.errors import UserError
from ne_jax.files import sha256, write_json
from ne_jax.release import formats, manifest, writing
from tests.facts import FACTS

NE = msgspec.structs.replace(
    FACTS,
    limits=["Anyone may see it.", 'quotes ", ünïcode \u2028 and {"@id": "x"}'],
    settings={"@id": "ours", "surrogates": ["vit_b"], "odd": [1, [2.5], []]},
)
NAMES = ["a", "class.d/ü b.c", "50%"]
KNOWN = {
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "creator": "A group",
    "url": "https://example.org/set",
}


def write(folder, release_format="png8", channels=3, **known):
    facts = msgspec.structs.replace(NE, format=release_format, image_shape=(6, 5, channels))
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, channels), np.uint8)
    images = images.astype(formats.FORMATS[release_format].dtype)
    with ThreadPoolExecutor(2) as pool:
        files = writing.write_shard(folder, release_format, 0, 1, NAMES, images, None, pool)
    write_json(
        folder / "manifest.json",
        manifest.build(facts, *writing.write_sums(folder, files.items()), **known),
    )
    return facts, images


def load(folder):
    """The set as mlcroissant sees it, which must say nothing but what its own packages say of one another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlcroissant

        return mlcroissant.Dataset(folder / "manifest.json")


@pytest.mark.parametrize("release_format", formats.FORMATS)
def test_mlcroissant_has_nothing_to_say_against_it(tmp_path, release_format, monkeypatch):
    """The manifest of every format is valid Croissant 1.1: no error and no warning. It is loaded without a network."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    write(tmp_path, release_format, **KNOWN)
    found = load(tmp_path).metadata
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings
    assert str(found.ctx.conforms_to.value).endswith("1.1")
    assert found.license == [KNOWN["license"]] and found.url == KNOWN["url"] and found.creators[0].name == "A group"
    assert [node.name for node in found.distribution] == ["SHA256SUMS", "image-files"]
    assert found.distribution[0].sha256 == sha256(tmp_path / "SHA256SUMS")
    assert found.distribution[1].includes == list(formats.FORMATS[release_format].globs)


def test_what_is_not_given_is_not_invented(tmp_path):
    """No licence, address or author stands in a manifest that was given none, and only the licence is missed."""
    write(tmp_path)
    found = load(tmp_path).metadata
    assert not found.ctx.issues.errors and len(found.ctx.issues.warnings) == 1
    assert "license" in next(iter(found.ctx.issues.warnings))
    assert not {"license", "url", "creator"} & json.loads((tmp_path / "manifest.json").read_text()).keys()


@pytest.mark.parametrize("channels", [1, 3])
def test_mlcroissant_reads_the_images(tmp_path, channels):
    """Every record of a png8 release has its name and its very pixels; mlcroissant shows grey as RGB. Sums and rests are no records."""
    _, images = write(tmp_path, channels=channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = list(load(tmp_path).records("images"))
    found = {record["images/name"].decode(): np.asarray(record["images/image"]) for record in records}
    assert len(records) == len(found) == 3
    for name, pixels in zip(NAMES, images, strict=True):
        np.testing.assert_array_equal(found[name], np.broadcast_to(pixels, (6, 5, 3)))


@pytest.mark.parametrize("release_format", formats.FORMATS)
def test_the_block_comes_back_as_it_went_in(tmp_path, release_format):
    """Nulls, nested lists and names that mean something in JSON-LD stay, one key of plain JSON leads to them, and the date is added."""
    facts, _ = write(tmp_path, release_format)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    found = manifest.read_manifest(tmp_path)
    assert found == msgspec.structs.replace(facts, date=whole["datePublished"])
    assert json.dumps(whole["ne"]) == json.dumps(found.to_json())


def test_the_block_is_a_literal_of_the_json_ld(tmp_path):
    """To a JSON-LD reader the block is one JSON value of the data set, with nothing lost and nothing of it taken for data."""
    import rdflib

    write(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = rdflib.Graph().parse(tmp_path / "manifest.json", format="json-ld")
    values = list(graph.objects(None, rdflib.URIRef("https://arxiv.org/abs/2510.10982#release")))
    assert len(values) == 1 and values[0].datatype == rdflib.RDF.JSON
    assert json.loads(str(values[0])) == json.loads((tmp_path / "manifest.json").read_text())["ne"]


def test_the_manifest_does_not_grow_with_the_release():
    """A million images are not a million objects of JSON."""
    few, many = (manifest.build(msgspec.structs.replace(NE, images=count), "0" * 64, 10**8) for count in (1, 1_000_000))
    assert abs(len(json.dumps(many)) - len(json.dumps(few))) < 20


def test_the_description_says_for_whom_and_what_is_not_protected():
    """Plain words: the model, the number, the size, and that this is no encryption."""
    text = manifest.build(NE, "0" * 64, 1)["description"]
    for part in ("3 images for one model, vit_a", "5 x 6", "they are no encryption", "public", "trained"):
        assert part in text


def test_source_date_epoch_is_the_date(monkeypatch):
    """Two runs can have the same manifest; without the variable the date is now; nonsense is told."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert manifest.build(NE, "0" * 64, 1)["datePublished"] == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        manifest.build(NE, "0" * 64, 1)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert manifest.build(NE, "0" * 64, 1)["datePublished"] > "2025"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no manifest.json, so no complete release"),
        ("", "manifest.json: not a whole JSON file"),
        ('{"ne": ', "manifest.json: not a whole JSON file"),
        ("\xff", "manifest.json: not a whole JSON file"),
        ("[]", 'manifest.json: has no block "ne"'),
        ('{"format": "png8"}', 'manifest.json: has no block "ne"'),
    ],
)
def test_a_manifest_that_cannot_serve_is_named(tmp_path, text, part):
    """None, half of one, another one: one line says which."""
    if text is not None:
        (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        manifest.read_manifest(tmp_path)
    assert part in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_package_does_without_mlcroissant():
    """It is a tool of these tests: nothing of ne_jax imports it."""
    program = """
        import sys
        from ne_jax.release import manifest, writing
        sys.exit(any(name.split(".")[0] in ("mlcroissant", "rdflib", "tensorflow", "tensorflow_datasets") for name in sys.modules))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
