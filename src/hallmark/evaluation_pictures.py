"""Pictures of a purification for who knows the truth."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from hallmark import plots
from hallmark.data.dataset import ImageDataset
from hallmark.evaluation import Detection

SHOWN = 12


def journey(
    clean: ImageDataset, received: ImageDataset, purified: ImageDataset, found: Detection | None
) -> dict[str, Figure]:
    """Rows original, poisoned, purified of images that were poisoned, flagged and restored, with their labels.

    The images are matched by their ids, and evenly spread over all that qualify, at most :data:`SHOWN`.

    Args:
        clean, received: the training set before and after the poisoning.
        purified: what the purification left of ``received``; dropped images are not in it.
        found: the truth and the defence's decisions.

    Returns:
        The figure under its name; nothing if no poisoned image was restored (no truth, no attack, all dropped).
    """
    if found is None:
        return {}
    restored = torch.from_numpy(found.ids[found.poisoned & found.flagged])
    for data in (clean, received, purified):
        restored = restored[torch.isin(restored, data.ids)]
    if not len(restored):
        return {}
    ids = restored[torch.linspace(0, len(restored) - 1, min(SHOWN, len(restored))).long()]
    parts = {
        name: data.subset(_positions(data, ids))
        for name, data in (("original", clean), ("poisoned", received), ("purified", purified))
    }
    captions = [[data.classes[label] for label in data.labels.tolist()] for data in parts.values()]
    rows = [(name, data.images) for name, data in parts.items()]
    title = f"Poisoned images that were restored ({len(ids)} of {len(restored):,})"
    return {"restored_poisons": plots.image_grid(rows, title, captions)}


def mistakes(data: ImageDataset, found: Detection | None, count: int = 12) -> dict[str, Figure]:
    """Pictures of the poisons that were missed and of the clean images that were flagged, if any."""
    if found is None:
        return {}
    figures = {}
    for name, title, wrong in (
        ("missed_poisons", "Poisoned images that were kept", found.poisoned & ~found.flagged),
        ("false_alarms", "Clean images that were flagged", ~found.poisoned & found.flagged),
    ):
        chosen = torch.isin(data.ids, torch.from_numpy(found.ids[wrong]))
        if chosen.any():
            part = data.subset(chosen.nonzero().flatten()[:count])
            captions = [[data.classes[label] for label in part.labels]]
            figures[name] = plots.image_grid([(f"{int(wrong.sum())} in all", part.images)], title, captions)
    return figures


def _positions(data: ImageDataset, ids: Tensor) -> Tensor:
    """Where ``ids``, all of which are there, stand in ``data``."""
    order = data.ids.argsort()
    return order[torch.searchsorted(data.ids[order], ids)]
