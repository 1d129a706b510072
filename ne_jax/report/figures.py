"""The report's pictures. Each function writes one PNG file."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from msgspec import UNSET

from ne_jax.measure.records import Growth, Result
from ne_jax.stages.inspect_model import Inspection

matplotlib.use("Agg")

# Okabe and Ito's palette: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_TITLE = 22  # letters that fit above a picture
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}


def save(figure: Figure, path: pathlib.Path) -> None:
    """The figure as a PNG file whose bytes tell no version; closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def pictures(
    path: pathlib.Path, columns: dict[str, Float[np.ndarray, "n height width channels"]], captions: Sequence[str]
) -> None:
    """One row an image, one titled column a view; shown clipped to [0, 1]. `captions` name the rows."""
    rows = len(captions)
    figure, axes = plt.subplots(rows, len(columns), figsize=(1.9 * len(columns), 1.75 * rows), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        for row in range(rows):
            axis, image = axes[row, column], np.clip(images[row], 0, 1)
            axis.imshow(
                image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if row == 0:
                lines = [textwrap.fill(line, _TITLE) for line in title.splitlines()]
                axis.set_title("\n".join(lines), fontsize=9)
            if column == 0:
                axis.set_ylabel(captions[row], fontsize=8)
    save(figure, path)


def spectrum(path: pathlib.Path, inspected: Inspection) -> None:
    """sigma_i / sigma_1 against i, from what stage inspect found, with the cut after the sensitive directions; exact zeros at the
    floor."""
    places, sigma = np.array(inspected.singular_value_places), np.array(inspected.singular_values)
    total, relative = inspected.patch_numbers, sigma / sigma[0]
    rank, kept = total - inspected.exact_null_directions, total - inspected.directions
    seen = places <= rank
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.4))
        floor = 10 ** (np.floor(np.log10(relative[seen].min())) - 1)
        axis.semilogy(places[seen], relative[seen], color=COLOURS[0], label="singular values")
        if rank < total:
            label = "exactly zero (drawn at the floor)"
            axis.semilogy([rank + 1, total], [floor, floor], color=COLOURS[1], label=label)
        axis.axvspan(kept + 0.5, total, color=COLOURS[1], alpha=0.12, label=f"recoded: {total - kept} directions")
        axis.axvline(kept + 0.5, color=COLOURS[6], linestyle="--", linewidth=1)
        axis.set(xlabel=f"direction of {inspected.whole}, i", ylabel=r"$\sigma_i / \sigma_1$", xlim=(1, total))
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.02, 0.3))
        save(figure, path)


def curve(path: pathlib.Path, records: Sequence[Result]) -> None:
    """Value against realised PSNR, a panel for each release format; NE solid, isotropic control of the same PSNR dotted; bars are
    95 % intervals."""
    formats = list(dict.fromkeys(row.release_format for row in records))
    readers = list(dict.fromkeys(row.reader for row in records))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(formats), figsize=(5.2 * len(formats), 3.8), squeeze=False, sharey=True)
        for axis, name in zip(axes[0], formats, strict=True):
            for colour, reader in zip(COLOURS * 3, readers, strict=False):
                for condition, line in (("ne", "-o"), ("gaussian", ":x")):
                    rows = [
                        r for r in records if (r.release_format, r.reader, r.condition) == (name, reader, condition)
                    ]
                    rows.sort(key=lambda row: row.psnr_db)
                    psnr, value = [row.psnr_db for row in rows], np.array([row.value for row in rows])
                    if condition == "ne":
                        low, high = np.array([row.ci95 for row in rows]).T
                        axis.errorbar(
                            psnr, value, np.abs([value - low, high - value]), fmt="none", ecolor=colour, alpha=0.4
                        )
                    label = reader if condition == "ne" else None
                    axis.plot(psnr, value, line, color=colour, markersize=4, linewidth=1.4, label=label)
            axis.set(title=f"{name} (n = {records[0].n})", xlabel="realised PSNR, dB (left: stronger)", ylim=(0, 1))
        axes[0, 0].set_ylabel(" / ".join(sorted({row.metric for row in records})))
        axes[0, -1].plot([], [], ":x", color="gray", label="isotropic noise, same PSNR")
        axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save(figure, path)


def _gain(row: Growth) -> float:
    """What a reader has more than of the files as they are, which relatives of the authorized model read anyway."""
    return row.value - (0.0 if row.value_ne is UNSET else row.value_ne)


def growth(path: pathlib.Path, rows: Sequence[Growth]) -> None:
    """What attacks give back against the number of NEs, pairs or labels, a panel for each; the reader that an attack helps most at its
    end; bars are 95 % intervals."""
    kinds, formats = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("of", "release_format"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(kinds), figsize=(4.4 * len(kinds), 3.6), squeeze=False, sharey=True)
        for axis, kind in zip(axes[0], kinds, strict=True):
            found = [row for row in rows if row.of == kind]
            lines = list(dict.fromkeys((row.attack, row.release_format) for row in found))
            for number, (attack, name) in enumerate(lines):
                line = [row for row in found if (row.attack, row.release_format) == (attack, name)]
                most = max(row.count for row in line)
                reader = max((row for row in line if row.count == most), key=_gain).reader
                line = sorted((row for row in line if row.reader == reader), key=lambda row: row.count)
                value = np.array([row.value for row in line])
                low, high = np.array([row.ci95 for row in line]).T
                axis.errorbar(
                    [row.count for row in line], value, np.abs([value - low, high - value]), marker="os^D"[number % 4],
                    color=COLOURS[number % len(COLOURS)], linestyle=("-", "--")[formats.index(name) % 2], markersize=4,
                    linewidth=1.4, label=f"{attack}, {name}, {reader}",
                )  # fmt: skip
            axis.set(xscale="log", xlabel=kind, ylim=(0, 1), title=f"n = {found[0].n}")
            axis.legend(fontsize=7, loc="upper left")
        axes[0, 0].set_ylabel(rows[0].metric)
        save(figure, path)
