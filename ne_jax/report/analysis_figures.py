"""The figures of stage analyse. Each function writes one PNG file from records of analysis.json."""

from __future__ import annotations

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from msgspec import UNSET

from ne_jax.measure.analysis_records import AlignmentRow, DepthRow, Link, PairRow, PreparationRow, SpectrumRow
from ne_jax.report.figures import COLOURS, STYLE, save

UNITS = {"patch": "patches", "image": "images that wrap around", "window": "flattened windows"}
_LINES = ("-", "--", "-.", ":")
_FLOOR = 1e-8  # of relative values on a logarithmic axis
_FLOORED = "less than 1e-8 at 1e-8"
_COLOURED = list(COLOURS) * 4
_BLACK = COLOURS[6]


def _panels(count: int, width: float = 5.2, height: float = 3.6):
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, layout="constrained")
    return figure, axes[0]


# Every legend is told its place: matplotlib warns when its search for the best one is slow.
def _beside(axis: Axes) -> None:
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def spectra(path: pathlib.Path, found: dict[str, SpectrumRow]) -> None:
    """sigma_i / sigma_1 of every model's first layer against i over the number of directions."""
    with plt.rc_context(STYLE):
        figure, (axis,) = _panels(1, 6.4)
        for colour, line, (name, row) in zip(_COLOURED, _LINES * 7, found.items(), strict=False):
            share = np.array(row.places) / row.directions
            seen = np.array(row.places) <= row.rank
            told = f"rank {row.rank:,}, effective {row.effective_rank:,.0f}, flatness {row.flatness:.2f}"
            label = f"{name}, {row.directions:,} directions of {UNITS[row.unit]}:\n{told}"
            relative = np.array(row.singular_values) / row.sigma_1
            axis.semilogy(share[seen], relative[seen], line, color=colour, label=label, linewidth=1.4)
            if row.rank < row.directions:
                axis.axvline(row.rank / row.directions, color=colour, linestyle=":", linewidth=1)
        axis.set(xlabel="direction i / their number (right of a dotted line: zero)", xlim=(0, 1))
        axis.set_ylabel(r"$\sigma_i / \sigma_1$")
        _beside(axis)
        save(figure, path)


def alignment(path: pathlib.Path, found: dict[str, AlignmentRow]) -> None:
    """Two panels, by direction rank: share of the data's variance, and overlap with as many principal components; bands are the range
    of random orthonormal bases."""
    titles = {
        "variance": "share of the data's variance in them",
        "overlap": "overlap with as many principal components",
    }
    with plt.rc_context(STYLE):
        figure, axes = _panels(2)
        for axis, (quantity, title) in zip(axes, titles.items(), strict=True):
            for colour, line, (name, row) in zip(_COLOURED, _LINES * 7, found.items(), strict=False):
                share = np.array(row.places) / row.directions
                low, high = np.array(getattr(row.random, quantity))
                axis.fill_between(share, low, high, color="gray", alpha=0.15, linewidth=0)
                label = f"{name}, {row.windows:,} {UNITS[row.unit]} of {row.images} images"
                axis.plot(share, getattr(row, quantity), line, color=colour, linewidth=1.4, label=label)
            axis.set(xlabel="most sensitive directions m / d", ylabel=title, xlim=(0, 1), ylim=(0, 1.02))
        row = next(iter(found.values()))
        axes[0].plot(
            np.array(row.places) / row.directions, row.most, "--", color=_BLACK, linewidth=1,
            label=f"PCA of the first model's {UNITS[row.unit]}",
        )  # fmt: skip
        axes[1].fill_between([], [], [], color="gray", alpha=0.4, label=f"range of {row.random.draws} random bases")
        handles = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        unique = {label: handle for handle, label in handles}
        axes[1].legend(unique.values(), unique, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save(figure, path)


def pairs(path: pathlib.Path, rows: list[PairRow]) -> None:
    """Left: gain of every reader for noise of every model's subspace, measured (95 % interval) and, as crosses, exact. Right: the
    principal angles of pairs of one geometry."""
    with plt.rc_context(STYLE):
        figure, axes = _panels(2)
        _gains(axes[0], rows)
        seen = set()
        for row in rows:
            both = frozenset((row.noise_for, row.reader))
            if row.cosines is not UNSET and len(both) == 2 and both not in seen:  # the same angles both ways
                style = {"color": _COLOURED[len(seen)], "linestyle": _LINES[len(seen) % 4], "linewidth": 1.4}
                seen.add(both)
                share = np.linspace(0, 1, len(row.cosines))
                axes[1].plot(share, row.cosines, label=" and ".join(sorted(both)), **style)
        axes[1].set(xlabel="principal angle i / their number", ylabel=r"$\cos\,\theta_i$", xlim=(0, 1), ylim=(0, 1.02))
        if seen:
            axes[1].legend(fontsize=8, loc="lower left")
        else:
            axes[1].text(0.5, 0.5, "no two subspaces of one geometry", ha="center", va="center")
        save(figure, path)


def _gains(axis: Axes, rows: list[PairRow]) -> None:
    owners = list(dict.fromkeys(row.noise_for for row in rows))
    readers = list(dict.fromkeys(row.reader for row in rows))
    for row in rows:
        number = readers.index(row.reader)
        place = owners.index(row.noise_for) + 0.7 * ((number + 0.5) / len(readers) - 0.5)
        gain, low, high = np.maximum([row.measured_gain, *row.measured_ci95], _FLOOR)
        axis.vlines(place, low, high, color=_COLOURED[number])
        axis.plot(place, gain, "o", color=_COLOURED[number], markersize=4)
        if row.relative_gain is not None:
            axis.plot(place, max(row.relative_gain, _FLOOR), "x", color=_BLACK, markersize=6, zorder=3)
    for colour, reader in zip(_COLOURED, readers, strict=False):
        axis.plot([], [], "o", color=colour, markersize=4, label=f"reader {reader}")
    axis.plot([], [], "x", color=_BLACK, label="exact")
    axis.axhline(1, color="gray", linestyle="--", linewidth=1, label="isotropic noise")
    axis.set_xticks(range(len(owners)), owners, rotation=20)
    axis.set(yscale="log", xlabel="noise in the subspace of", ylabel=f"relative gain (n = {rows[0].draws}; {_FLOORED})")
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # above, clear of all points


def preparations(path: pathlib.Path, found: dict[str, PreparationRow]) -> None:
    """Principal components of the data, and its variance by the authorized model's directions, after image processing."""
    with plt.rc_context(STYLE):
        figure, axes = _panels(2)
        largest = max(row.variances[0] for row in found.values())
        for colour, line, (name, row) in zip(_COLOURED, _LINES * 7, found.items(), strict=False):
            share = np.array(row.places) / row.directions
            relative = np.maximum(np.array(row.variances) / largest, _FLOOR)
            axes[0].semilogy(share, relative, line, color=colour, linewidth=1.4, label=name)
            axes[1].plot(share, row.variance, line, color=colour, linewidth=1.4, label=name)
        row = next(iter(found.values()))
        axes[0].set(xlabel="principal component i / d", ylabel="variance, of the largest of all", xlim=(0, 1))
        axes[1].set(xlabel="most sensitive directions m / d", ylabel="share of the variance in them", xlim=(0, 1))
        axes[1].set_title(f"{row.windows:,} {UNITS[row.unit]} of {row.images} images", fontsize=9)
        _beside(axes[1])
        save(figure, path)


def depths(path: pathlib.Path, rows: list[DepthRow]) -> None:
    """Largest singular values of the Jacobian at each depth; beside it stable rank and the gain of noise in the subspace, a point an
    image."""
    with plt.rc_context(STYLE):
        figure, axes = _panels(3, 4.6)
        depth = np.array([row.depth for row in rows])
        for colour, row in zip(_COLOURED, rows, strict=False):
            for index, values in enumerate(row.largest):
                label = row.name if index == 0 else None
                axes[0].plot(np.arange(1, len(values) + 1), values, "o-", color=colour, markersize=3, label=label)
        for axis, quantity in zip(axes[1:], ("stable_rank", "subspace_gain"), strict=True):
            values = np.maximum(np.array([getattr(row, quantity) for row in rows]), _FLOOR)
            axis.semilogy(depth, values, "o", color=COLOURS[0], markersize=4)
            axis.semilogy(depth, np.median(values, axis=1), color=COLOURS[0], linewidth=1.2)
            axis.set(xlabel="depth (0: first layer)", xticks=depth)
        axes[0].set(xlabel="i", ylabel=r"$\sigma_i$ of the Jacobian (output / pixel range)", yscale="log")
        axes[0].legend(fontsize=8, loc="upper right")
        axes[1].set_ylabel(r"stable rank $\|J\|_F^2 / \sigma_1^2$")
        axes[2].axhline(1, color="gray", linestyle="--", linewidth=1)
        axes[2].set_ylabel(f"gain of noise in the subspace\n(1: isotropic; {_FLOORED})")
        axes[1].set_title(f"n = {len(rows[0].largest)} images", fontsize=9)
        save(figure, path)


def link(path: pathlib.Path, found: Link) -> None:
    """What two predictions say of the noise that a reader sees, against what it was measured to see; a point a pair of models."""
    names = {"spectral_gap": "Hoffman-Wielandt gap of the spectra", "exact_energy": "exact trace prediction"}
    with plt.rc_context(STYLE):
        figure, axes = _panels(2, 4.6)
        for axis, (quantity, title) in zip(axes, names.items(), strict=True):
            rows = [row for row in found.pairs if getattr(row, quantity) is not None]
            for same, marker in ((True, "o"), (False, "^")):
                chosen = [row for row in rows if row.same_windows == same]
                label = f"{'same' if same else 'other'} windows (n = {len(chosen)})"
                points = np.maximum(
                    [[getattr(row, quantity), row.measured_energy] for row in chosen] or np.empty((0, 2)), 1e-12
                )
                colour = COLOURS[0 if same else 1]
                axis.loglog(points[:, 0], points[:, 1], marker, color=colour, markersize=5, label=label)
            told = next(
                row.pearson
                for row in found.correlations
                if (row.predictor, row.target) == (quantity, "measured_energy")
            )
            if told.interval:
                low, high = told.interval
                axis.set_title(f"Pearson r = {told.value:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
            axis.set(xlabel=title, ylabel=r"measured $\|T_u\delta\|^2 / \|\delta\|^2$")
            if rows:
                axis.legend(fontsize=8, loc="upper left")
        save(figure, path)
