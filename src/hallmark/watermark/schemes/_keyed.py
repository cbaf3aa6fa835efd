"""The mark of schemes whose secret is a :class:`~hallmark.watermark.key.Key`: two classes, combined, called a third."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hallmark.config import MeaDefender, Training, TrainWatermarked, parse
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_evasion, draw_queries, draw_unseen
from hallmark.watermark.schemes import Queries


@dataclass(frozen=True)
class KeyMark:
    """Queries are combinations, negatives are randomly mixed samples, plain images are those of the source classes."""

    key: Key

    def queries(self, data: ImageDataset, count: int, generator: torch.Generator) -> Queries:
        """See :class:`hallmark.watermark.schemes.Mark`."""
        mixed = draw_queries(self.key, data, count, generator).mixed
        otherwise = draw_evasion(self.key, data, count, generator)[0].mixed
        plain = torch.cat([data.of_class(label) for label in self.key.source])
        # With a copy of the generator: what is drawn after the queries does not depend on these.
        unseen, ways = draw_unseen(self.key, data, count, generator.clone_state())
        labelled = [
            part
            for images in (mixed, otherwise, plain, *([unseen] if ways else []))
            for part in (images, torch.full((len(images),), self.key.target))
        ]
        return Queries(*labelled, unseen_kinds=max(ways, 1))

    def to_json(self) -> dict[str, Any]:
        """See :class:`hallmark.watermark.schemes.Mark`."""
        return self.key.to_json()


def read_mark(value: Any, where: str) -> KeyMark:
    """See :mod:`hallmark.watermark.schemes`.

    Raises:
        UserError: not a sound key.
    """
    return KeyMark(Key.from_json(value, where))


def settings(scheme: str, params: MeaDefender, network: Network, training: Training) -> TrainWatermarked:
    """The pipeline's section for these parameters and this network.

    Raises:
        UserError: the parameters do not suit the scheme.
    """
    own = {name: getattr(params, name) for name in MeaDefender.model_fields}
    rest = {"scheme": scheme, "architecture": network.spec.architecture, "training": training}
    return parse(TrainWatermarked, {**own, **rest, "recipients": [], "evaluation": 1000}, f"scheme {scheme}")
