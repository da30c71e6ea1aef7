"""The plots of the page about a store."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from logitstore import LogitStore, Unit
from tinyvit.reports import statistics
from tinyvit.reports.plot import BLUE, INK, RED, Plot, plot
from tinyvit.reports.sampled_rows import SampledRows


def progress_map(store: LogitStore) -> Plot:
    """Which units are there, by epoch and shard."""
    absent = set() if store.sealed else set(store.missing())
    blocks, shards = store.spec.blocks, len(store.samples)
    there = np.array([[Unit(b, s) not in absent for s in range(shards)] for b in range(blocks)])
    per = store.spec.epochs_per_unit

    def paint(axes: Axes) -> None:
        axes.imshow(
            there, aspect="auto", interpolation="nearest", cmap=ListedColormap(["#8884", BLUE]), vmin=0, vmax=1,
            extent=(-0.5, shards - 0.5, blocks * per - 0.5, -0.5),
        )  # fmt: skip
        axes.set(xlabel="shard", ylabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    text = f"{int(there.sum()):,} of {there.size:,} units are there"
    rows = [b for b in range(blocks) if not there[b].all()]
    text += f"; epochs with missing units begin at {rows[0] * per}" if rows else ""
    return plot("Progress by epoch and shard", text, paint, height=2.2)


def confidence(sampled: SampledRows) -> Plot:
    """How sure the teacher is."""
    values = 100 * sampled.confidence

    def paint(axes: Axes) -> None:
        axes.hist(values, bins=40, range=(0, 100), color=BLUE)
        axes.set(xlabel="probability of the best class [%]", ylabel="rows")

    text = f"median {np.median(values):.1f} %, a tenth below {np.quantile(values, 0.1):.1f} %"
    return plot("Confidence", text, paint)


def entropies(sampled: SampledRows) -> Plot:
    """How spread out the probabilities are."""
    values, most = statistics.entropy(sampled), float(np.log(sampled.num_classes))

    def paint(axes: Axes) -> None:
        axes.hist(values, bins=40, range=(0, most), color=BLUE)
        axes.set(xlabel="entropy [nat]", ylabel="rows")

    return plot("Entropy", f"median {np.median(values):.2f} nat; even over all classes: {most:.2f}", paint)


def kept_mass(sampled: SampledRows) -> Plot:
    """What the best classes hold, by their number."""
    mass = 100 * statistics.kept_mass(sampled)
    ranks = np.arange(1, mass.shape[1] + 1)
    low, middle, high = np.quantile(mass, (0.05, 0.5, 0.95), axis=0)

    def paint(axes: Axes) -> None:
        axes.fill_between(ranks, low, high, color=BLUE, alpha=0.25, label="5 to 95 % of rows", linewidth=0)
        axes.plot(ranks, middle, color=BLUE, label="median")
        axes.plot(ranks, mass.mean(axis=0), color=RED, linestyle="--", label="mean")
        axes.set(xlabel="classes kept", ylabel="mass [%]", ylim=(0, 101), xlim=(1, max(2, len(ranks))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize="small")

    return plot("Kept mass", f"the {len(ranks)} kept classes hold {mass[:, -1].mean():.2f} % on average", paint)


def smaller_k(sampled: SampledRows) -> Plot:
    """What fewer classes would lose."""
    ks = statistics.smaller_ks(sampled.class_id.shape[1])
    lost = {k: float(statistics.divergence_of(sampled, k).mean()) for k in ks[:-1]}

    def paint(axes: Axes) -> None:
        axes.plot(list(lost), list(lost.values()), marker="o", color=BLUE)
        axes.set(xlabel="K, classes kept", ylabel="mean KL divergence [nat]", xscale="log")
        if lost and min(lost.values()) > 0:
            axes.set(yscale="log")
        axes.set_xticks(list(lost), [str(k) for k in lost])
        axes.minorticks_off()

    told = ", ".join(f"K={k}: {value:.2g}" for k, value in lost.items())
    return plot(
        "What a smaller K would lose", f"mean KL divergence from the stored probabilities, {told or 'K is 1'}", paint
    )


def reliability(sampled: SampledRows) -> Plot:
    """Confidence against agreement with the labels."""
    bins = statistics.reliability(sampled)
    rows = sum(b.rows for b in bins)
    error = 100 * sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / max(rows, 1)

    def paint(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
        sizes = [20 + 200 * b.rows / rows for b in bins]
        axes.plot([100 * b.confidence for b in bins], [100 * b.accuracy for b in bins], color=BLUE, linewidth=1)
        axes.scatter([100 * b.confidence for b in bins], [100 * b.accuracy for b in bins], s=sizes, color=BLUE)
        axes.set(xlabel="confidence [%]", ylabel="agreement with the label [%]", xlim=(0, 102), ylim=(0, 102))

    return plot("Reliability", f"expected calibration error {error:.1f} % in {statistics.BINS} bins", paint)
