"""Stage report: what was measured, as report.md and as report.html that needs no other file."""

from __future__ import annotations

import base64
import html
import importlib.metadata
import json
import pathlib
import re
import sys

import jax
import markdown
import numpy as np
from msgspec import UNSET

from ne_jax import files
from ne_jax.config import leaves
from ne_jax.core.pixels import from_bytes
from ne_jax.core.subspace import remove_subspace
from ne_jax.errors import UserError
from ne_jax.measure import attack_records
from ne_jax.recoding import paper
from ne_jax.release.certificates import SetCertificate, kept_in_words
from ne_jax.release.manifest import read_manifest
from ne_jax.release.owner_files import CERTIFICATES
from ne_jax.report import analysis_section, attack_sections, figures
from ne_jax.report.result_tables import METRICS, formats, main_conditions, result_table, table
from ne_jax.stages import analyse
from ne_jax.stages import attack as attacks
from ne_jax.stages.check import SUMMARY
from ne_jax.stages.evaluate import CURVE, RESULTS
from ne_jax.stages.inspect_model import INSPECTION
from ne_jax.stages.job import Job
from ne_jax.stages.pairs import pairs

_NEWLINE = "\n"
_CAPTION = 20  # letters that fit beside a picture
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; } th, td:nth-child(2) { white-space: normal; } td:nth-child(2) { min-width: 13rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; } pre { white-space: pre-wrap; }
  table { display: table; width: 100%; font-size: 7.5pt; } th, td { white-space: normal; padding: .1rem .25rem; }
  td:nth-child(2) { min-width: 0; } tr, img { break-inside: avoid; } h2, h3 { break-after: avoid; }
  img { max-height: 20cm; width: auto; }
}
"""


def _load(job: Job, name: str, stage: str) -> str:
    path = job.workdir / name
    if not path.is_file():
        raise UserError(f"{path}: no such file; run --stage={stage} first")
    return path.read_text()


def run(job: Job) -> pathlib.Path:
    """Write the pictures, report.md and report.html; returns the path of the latter."""
    inspected = json.loads(_load(job, INSPECTION, "inspect"))
    _load(job, SUMMARY, "check")
    summary = files.read_json(job.workdir / SUMMARY, dict[str, SetCertificate])
    records = [json.loads(line) for line in _load(job, RESULTS, "evaluate").splitlines()]
    curve = [json.loads(line) for line in _load(job, CURVE, "evaluate").splitlines()]
    folder = job.workdir / "figures"
    attacked = _attacked(job)
    _pictures(job, folder / "pictures.png")
    figures.spectrum(folder / "spectrum.png", inspected)
    if curve:
        figures.curve(folder / "curve.png", curve)
    text = "\n".join(
        [
            _headline(job, records, summary, attacked),
            _threats(job, attacked, folder),
            _readers(records),
            _show(job),
            _certificates(summary),
            _spectrum(inspected),
            _curve_section(curve),
            attack_sections.robustness(_lines(job, attacks.PREPROCESSING)),
            _analysis(job),
            _limits(job, attacked),
            _reproduce(job),
        ]
    )
    files.write_atomic(job.workdir / "report.md", text)
    files.write_atomic(job.workdir / "report.html", _to_html(text, job.workdir))
    return job.workdir / "report.html"


def _lines(job: Job, name: str) -> list[dict]:
    """The lines of a file of stage attack; none where that did not run."""
    path = job.workdir / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _attacked(job: Job) -> list[dict]:
    """Records of our attacks, and of stronger ones that others sent."""
    path, sent = job.workdir / attacks.RESULTS, job.config.attack.external
    if sent and not pathlib.Path(sent).is_file():
        raise UserError(f"attack.external {sent}: no such file; give a file of JSON lines, or nothing")
    return (attack_records.read(path) if path.is_file() else []) + (
        attack_records.read(pathlib.Path(sent)) if sent else []
    )


def _threats(job: Job, attacked: list[dict], folder: pathlib.Path) -> str:
    """The attacks, with their pictures and curves."""
    growth = _lines(job, attacks.CURVES)
    if growth:
        figures.growth(folder / "attack_curves.png", growth)
    pictures = bool(attacked) and _attack_pictures(job, attacked, folder / "attacks.png")
    path = job.workdir / attacks.NOT_RUN
    return attack_sections.section(attacked, json.loads(path.read_text()) if path.is_file() else [], growth, pictures)


def _attack_pictures(job: Job, attacked: list[dict], path: pathlib.Path) -> bool:
    """clean | NE | the best attack of each kind, of the last release; False where no attack gives images."""
    name = job.config.release.formats[-1]
    pair = next(pairs(job, name, limit=job.config.report.pictures))
    columns = {"clean": from_bytes(pair.clean[: pair.kept]), f"NE, {name}": pair.stored[: pair.kept]}
    for tiers in ((1,), (2,), (3,), (4,)):
        rows = [row for row in attacked if row["release_format"] == name]
        rows = [row for row in rows if attacks.pictures_of(job, name, row["attack"]).is_file()]
        row = attack_sections.worst(rows, name, tiers)
        if row:
            shown = np.load(attacks.pictures_of(job, name, row["attack"]), allow_pickle=False)
            columns[f"tier {tiers[0]}:\n{attack_sections.title(row['attack'])}"] = from_bytes(shown)
    count = min(map(len, columns.values()))
    figures.pictures(path, {title: images[:count] for title, images in columns.items()}, _captions(pair.names[:count]))
    return len(columns) > 2


def _captions(names: list[str]) -> list[str]:
    return [name if len(name) <= _CAPTION else name.rsplit("/", 1)[-1] for name in names]


def _analysis(job: Job) -> str:
    """What stage analyse found; nothing where it did not run."""
    path = job.workdir / analyse.ANALYSIS
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())
    analysis_section.draw(job.workdir / "figures", found)
    return analysis_section.describe(found)


def _pictures(job: Job, path: pathlib.Path) -> None:
    """clean | NE of each format | what the authorized model effectively sees of the last one."""
    columns: dict[str, np.ndarray] = {}
    for name in job.config.release.formats:
        pair = next(pairs(job, name, limit=job.config.report.pictures))
        columns.setdefault("clean", from_bytes(pair.clean[: pair.kept]))
        columns[f"NE, {name}\n({job.design(name)})"] = pair.stored[: pair.kept]
    seen = remove_subspace(pair.stored[: pair.kept], job.space)
    columns["what the authorized\nmodel sees of it"] = np.asarray(seen)
    figures.pictures(path, columns, _captions(pair.names))


def _metric(records: list[dict]) -> str:
    """What the headline counts: accuracy where there are labels."""
    return "accuracy" if any(row["metric"] == "accuracy" for row in records) else "agreement"


def _headline(job: Job, records: list[dict], summary: dict[str, SetCertificate], attacked: list[dict]) -> str:
    name, metric, lines = job.authorized.name, _metric(records), []
    for release_format, found in summary.items():
        key = (release_format, "ne", metric)
        rows = [row for row in records if (row["release_format"], row["condition"], row["metric"]) == key]
        others = ", ".join(f"{row['reader']} {row['value']:.1%}" for row in rows if row["reader"] != name)
        lines.append(
            f"- **{release_format}** at {found.psnr_db_median:z.1f} dB, {found.n:,} stored images. {name}: {kept_in_words(found)}. "
            f"{metric.capitalize()} of other readers of the same files: {others}.{attack_sections.headline(attacked, release_format)}"
        )
    if job.config.recode.design == "paper":
        lines.insert(0, f"**{paper.MARK}**\n")
    return f"# Non-transferable examples for {name}\n\n" + "\n".join(lines) + "\n"


def _readers(records: list[dict]) -> str:
    shown = main_conditions(records)
    tables = [result_table(records, name, shown, metric) for name in formats(records) for metric in METRICS]
    return f"""## Who can read the files

Every reader is given the same stored files. Brackets: 95 % interval (Wilson's for shares, Student's for means). The control is
white noise of each image's own PSNR, in the same number format: what the noise would do without the subspace. Agreement: share
of images on which a reader says what it says of the clean image. Feature cosine: mean cosine of a reader's features with its
features of the clean image.

{_NEWLINE.join(table for table in tables if table)}"""


def _show(job: Job) -> str:
    alt = (
        "Rows: images. Columns: clean, the stored non-transferable example of each format, and its projection on the "
        f"directions that {job.authorized.name} can see"
    )
    return f"""## Pictures

![{alt}](figures/pictures.png)

Floating-point NEs leave [0, 1] and are shown clipped. The last column is the NE without the low-sensitivity subspace: all that the
authorized model's first layer reacts to.
"""


def _certificates(summary: dict[str, SetCertificate]) -> str:
    head = [
        "release",
        "bound holds",
        "prediction kept",
        "lost on at most (95 %)",
        "worst cosine",
        "gap",
        "bound",
        "gap / response",
    ]
    rows = [
        [
            name,
            f"{found.bound_holds:,} of {found.n:,}",
            f"{found.prediction_kept:,} of {found.n:,}" if found.prediction_kept is not UNSET else "no head",
            f"{found.prediction_lost_at_most:.2%}" if found.prediction_kept is not UNSET else "-",
            f"{found.feature_cosine_min:.4f}",
            f"{found.feature_gap_median:.3g}",
            f"{found.bound_median:.3g}",
            f"{found.relative_gap_median:.2g}",
        ]
        for name, found in summary.items()
    ]
    return f"""## Certificates

Measured on every stored file; one line an image in private/{CERTIFICATES}. Gap: norm of the change of the first layer's output; bound:
proved from the subspace, the rounding of the format and of float32 (medians). Predictions are kept by execution of the
authorized model; the 95 % bound is Clopper and Pearson's, one-sided.

{table(head, rows)}
{_deviations(summary)}"""


def _deviations(summary: dict[str, SetCertificate]) -> str:
    head = [
        "release",
        "reader",
        "measured / predicted",
        "below limit",
        "above limit",
        "gain over isotropic",
        "spectral gap",
    ]
    rows = [
        [
            name,
            reader,
            f"{entry.measured_over_predicted:.3f}",
            f"{entry.below_lower_limit:.2%}",
            f"{entry.above_upper_limit:.2%}",
            f"{entry.relative_gain:.3g}",
            f"{entry.spectral_gap_not_sufficient:.3g}",
        ]
        for name, found in summary.items()
        for reader, entry in found.deviation.items()
    ]
    if not rows:
        return ""
    return f"""Energy of the noise at the first layer of readers with the same patches, against the prediction for Gaussian
noise (exact for `gaussian`, only a guide for `boxed`); each limit may fail for 5 % of images. The spectral gap
(Hoffman-Wielandt) is printed for comparison with the paper and is not sufficient: it is blind to directions.

{table(head, rows)}"""


def _spectrum(inspected: dict) -> str:
    return f"""## Spectrum

![Singular values of the authorized model's first layer, relative to the largest, and the cut](figures/spectrum.png)

{inspected["directions"]} of {inspected["patch_numbers"]} directions of {inspected["whole"]} are recoded
({inspected["exact_null_directions"]} exactly null); they hold {inspected["image_energy_in_subspace"]:.1%} of the images' energy.
"""


def _curve_section(curve: list[dict]) -> str:
    if not curve:
        return ""
    return f"""## Strength

![Accuracy against PSNR for every reader, NE and isotropic control](figures/curve.png)

First {curve[0]["n"]:,} images, encoded anew at each strength in the release's number format, by noise
alone (no `replace`; not stored). Solid: NE. Dotted:
isotropic noise of the same PSNR. A strength that does not fit into [0, 1] appears where it landed.
"""


def _limits(job: Job, attacked: list[dict]) -> str:
    name = job.authorized.name
    measured = (
        "The table of attacks has the figures."
        if attacked
        else "No attack was measured here: run --stage=attack, with attack.suite."
    )
    return f"""## What this does not stop

{measured}

- Whoever has the first layer of {name} can take the noise away (tier 4). If the checkpoint is public, that is everybody.
- Models tuned from the authorized one, and models with a similar first layer, can read the files.
- Known pairs of clean and recoded images, or many recoded images, give a fixed subspace away (tiers 3 and 2).
- Who has labels can train on the files (tier 5). People can recognise weakly recoded pictures.
- A resize, crop or JPEG of the files can break them for the authorized model too.
- Later attacks are better than today's: an outsider's stronger one is added as a line in the file that attack.external names.

This is a limit on use by other models, as measured above, on the date and files named below: no encryption, no privacy.
"""


def _reproduce(job: Job) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("ne_jax", "jax", "flax", "numpy", "pillow")
    )
    manifest = read_manifest(job.release_dir(job.config.release.formats[0]))
    settings = "\n".join(f"{name} = {value}" for name, value in leaves(job.config).items())
    return f"""## How to reproduce

- Made {manifest.date}; {versions}; Python {sys.version.split()[0]}; {jax.device_count()} {jax.devices()[0].platform} device(s);
  first-layer products in float32 at highest precision.
- Authorized checkpoint: {job.authorized.architecture}, SHA-256 `{job.authorized.sha256}`.
- The noise comes from a secret of the owner: another secret gives other files, and figures within the intervals.
- Records: {RESULTS}, {attacks.RESULTS}, private/{CERTIFICATES}, {SUMMARY}, {CURVE}, {INSPECTION}. Command:
  `python -m ne_jax.main --config=CONFIG --workdir=DIR --stage=all` with the config

```
{settings}
```
"""


def _to_html(text: str, workdir: pathlib.Path) -> str:
    """One page with its pictures inside, no script, nothing fetched."""

    def inline(match: re.Match) -> str:
        data = base64.b64encode((workdir / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(figures/[^"]+)"', inline, markdown.markdown(text, extensions=["tables", "fenced_code"]))
    title = html.escape(text.splitlines()[0].removeprefix("# "))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head><body>
{body}
</body></html>
"""
