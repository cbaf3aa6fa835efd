"""Models that never met a key: trained on true labels, or stolen from an unmarked model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hallmark import models, training
from hallmark.config import Architecture, Params, Training, parse
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Thief, attack_params, black_box
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback


class TrainedControl(Params):
    """A model trained on true labels."""

    kind: Literal["trained"]
    data: Literal["purified", "queries"]
    """purified: the victim's training data; queries: the thief's images."""
    architecture: Architecture
    training: Training


class StolenControl(Params):
    """A model stolen from the unmarked one with the thief's queries."""

    kind: Literal["stolen"]
    attack: dict[str, Any]
    """A block as under ``extract_attack.attacks``."""


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
            if attack.images is not None:
                raise UserError(f"{where}.attack.images: an innocent thief asks the queries split; take it out")
            oracle = attack.oracle(black_box(self.twin, self.runtime), self.twin.spec.classes, f"{where}.attack")
            return module.steal(oracle, Thief(images, self.runtime, purpose, callback, f"{where}.attack"), attack)
        network = models.build(block.architecture, images.images, images.classes, self.runtime, purpose)
        training.train_classifier(
            network, images.images, images.labels, block.training, self.runtime, purpose=purpose, callback=callback
        )
        return network


def control_block(block: Mapping[str, Any], where: str) -> TrainedControl | StolenControl:
    """A control's block by its ``kind``.

    Raises:
        UserError: unknown kind, or the block is invalid.
    """
    kinds = {"trained": TrainedControl, "stolen": StolenControl}
    kind = block.get("kind")
    if kind not in kinds:
        raise UserError(f"{where}.kind: wants one of {', '.join(kinds)}, not {kind!r}")
    return parse(kinds[kind], block, where)
