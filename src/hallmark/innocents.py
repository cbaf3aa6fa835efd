"""Models that never met a key: trained on true labels, or stolen from an unmarked model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hallmark import models, training
from hallmark.config import StolenControl, TrainedControl, control_block
from hallmark.data.dataset import ImageDataset
from hallmark.extraction import Oracle, Thief, attack_params, black_box
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback


@dataclass(frozen=True)
class Innocents:
    """What innocent models are made of.

    Attributes:
        purified: the victim's training images.
        queries: the thief's images.
        twin: the unmarked model, which a stolen one steals.
    """

    purified: ImageDataset
    queries: ImageDataset
    twin: Network
    runtime: Runtime

    def images(self, block: TrainedControl | StolenControl) -> ImageDataset:
        """The images that a block's model is trained on, or asks."""
        return self.purified if isinstance(block, TrainedControl) and block.data == "purified" else self.queries

    def train(
        self,
        block: TrainedControl | StolenControl,
        images: ImageDataset,
        purpose: str,
        callback: EpochCallback,
        where: str,
    ) -> Network:
        """Make a block's model.

        Args:
            images: :meth:`images`, or a part of them.
            purpose: names its random streams.
            where: the block's place, for messages.

        Raises:
            UserError: the block does not fit, or a loss stopped being finite.
        """
        if isinstance(block, StolenControl):
            module, attack = attack_params(block.attack, f"{where}.attack")
            oracle = Oracle(black_box(self.twin, self.runtime), attack.budget)
            return module.steal(oracle, Thief(images, self.runtime, purpose, callback, f"{where}.attack"), attack)
        network = models.build(block.architecture, images.images, images.classes, self.runtime, purpose)
        training.train_classifier(
            network, images.images, images.labels, block.training, self.runtime, purpose=purpose, callback=callback
        )
        return network


def parse_blocks(blocks: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, TrainedControl | StolenControl]:
    """Typed blocks by name.

    Raises:
        UserError: unknown kind, or an invalid block.
    """
    return {name: control_block(block, f"{where}.{name}") for name, block in blocks.items()}
