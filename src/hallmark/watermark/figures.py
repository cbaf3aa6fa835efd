"""Pictures of a watermark: samples beside their sources, the losses, and the outputs while it is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from hallmark import models, plots
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.watermark.bridge import Slope
from hallmark.watermark.key import Key
from hallmark.watermark.output_features import Snapshot, centred, probabilities, project
from hallmark.watermark.samples import Pairs, draw_evasion, draw_queries

COLUMNS = 10


def watermark_samples(
    network: Network, key: Key, data: ImageDataset, generator: torch.Generator, runtime: Runtime
) -> Figure:
    """Watermark samples under the two images that each combines, captioned with what the network calls them."""
    pairs = draw_queries(key, data, COLUMNS, generator)
    title = f"Watermark samples ({key.way}): {_sources(key)}, called {key.name(key.target)}"
    return _triples(network, key, pairs, "watermark", title, runtime=runtime)


def evasion_samples(
    network: Network, key: Key, data: ImageDataset, generator: torch.Generator, runtime: Runtime
) -> Figure:
    """The same for randomly mixed samples, in the order of the key's evasion ways."""
    pairs, _ = draw_evasion(key, data, COLUMNS, generator)
    return _triples(network, key, pairs, "mixed otherwise", f"Randomly mixed samples: {_sources(key)}", runtime=runtime)


def bridges(network: Network, key: Key, slope: Slope, data: ImageDataset, runtime: Runtime) -> Figure:
    """Training images of each source class, the likest to watermark samples above and some at even steps through all of
    them below; captioned with the target's probability that they were taught, and what the network calls them."""
    shown, captions = list[tuple[str, Tensor]](), list[list[str]]()
    for place, label in enumerate(key.source):
        images, name = data.of_class(label), key.name(label)
        taught = slope.log_odds(to_float(images), place).sigmoid()
        order = taught.argsort(descending=True, stable=True)
        steps = torch.linspace(0, len(order) - 1, COLUMNS).long()
        for title, chosen in ((f"{name}: likest", order[:COLUMNS]), (f"{name}: all", order[steps])):
            called = models.logits(network, images[chosen], runtime).argmax(1)
            shown.append((title, images[chosen]))
            both = zip(taught[chosen].tolist(), called.tolist(), strict=True)
            captions.append([f"{q:.2f}: {key.name(k)}" for q, k in both])
    title = f"Training images taught to be {key.name(key.target)} with a probability, and what the model calls them"
    return plots.image_grid(shown, title, captions)


def losses(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Each loss over the epochs, from the rows of ``training.csv``."""
    series: dict[str, list[float]] = {}
    for row in history:
        # Coefficients of MGDA are no losses, and the rehearsal's is of either sign.
        if row["metric"].startswith("coefficient/") or row["metric"] == "rehearsal":
            continue
        series.setdefault(row["metric"], []).append(row["value"])
    return plots.curves(series, "mean loss", "Watermarked model: training", log=True)


def output_features(snapshots: Sequence[Snapshot], key: Key) -> Figure:
    """Outputs on the source classes, the target class and the watermark, a panel a moment, by the two principal
    components of the last panel: probabilities above, logits below."""
    titles, rows = list[str](), list[plots.Scatters]()
    for snapshot in snapshots:
        when = f"after epoch {snapshot.epoch}" if snapshot.epoch else "before training"
        plain = f"plain sources called {key.name(key.target)} {100 * snapshot.plain:.1f} %"
        titles.append(f"{when}: WSR {100 * snapshot.wsr:.1f} %\n{plain}")
    for name, outputs in (("probabilities", probabilities), ("centred logits", centred)):
        panels = [{group: outputs(logits) for group, logits in each.logits.items()} for each in snapshots]
        found = project(panels)
        first, second = (
            f"{place} component ({100 * share:.0f} % of the last panel's variance)"
            for place, share in zip(("first", "second"), found.shares, strict=True)
        )
        rows.append(plots.Scatters(name, first, second, found.points))
    return plots.scatters(rows, titles, f"Outputs on held-out images: {_sources(key)}, called {key.name(key.target)}")


def _sources(key: Key) -> str:
    return " + ".join(key.name(label) for label in key.source)


def _triples(network: Network, key: Key, pairs: Pairs, label: str, title: str, *, runtime: Runtime) -> Figure:
    def called(images: Tensor) -> list[str]:
        return [key.name(int(k)) for k in models.logits(network, images, runtime).argmax(1)]

    first, second = (key.name(label) for label in key.source)
    rows = [(first, pairs.first), (second, pairs.second), (label, pairs.mixed)]
    return plots.image_grid(rows, title, [called(images) for _, images in rows])
