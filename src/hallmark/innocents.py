"""Models that never met a key: trained on true labels, stolen from an unmarked model, or encoders with a probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator

from hallmark import models, training
from hallmark.config import Architecture, Params, Training, parse
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Thief, attack_params, black_box
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl import probes, simclr
from hallmark.ssl.simclr import SimCLR
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


class EncoderControl(Params):
    """An encoder by SimCLR, which saw no label, with a linear probe on its features: what a suspect of kind
    ``encoder`` is compared with."""

    kind: Literal["encoder"]
    data: Literal["purified", "queries"]
    """As of a trained one."""
    architecture: Architecture
    training: Training
    simclr: SimCLR = SimCLR()

    @field_validator("training")
    @classmethod
    def _no_labels(cls, value: Training) -> Training:
        if value.flip or value.shift or value.mix != "none":
            raise ValueError("flip, shift, mix: an encoder's views have the augmentation; see simclr.views")
        return value


Block = TrainedControl | StolenControl | EncoderControl


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

    def images(self, block: Block) -> ImageDataset:
        """The images that a block's model is trained on, or asks."""
        return self.queries if isinstance(block, StolenControl) or block.data == "queries" else self.purified

    def train(
        self,
        block: Block,
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
        if isinstance(block, EncoderControl):
            simclr.train(
                network,
                images.images,
                block.simclr,
                block.training,
                self.runtime,
                purpose=purpose,
                callback=callback,
            )
            probes.attach(network, images, self.runtime)
            return network
        training.train_classifier(
            network, images.images, images.labels, block.training, self.runtime, purpose=purpose, callback=callback
        )
        return network


def control_block(block: Mapping[str, Any], where: str) -> Block:
    """A control's block by its ``kind``.

    Raises:
        UserError: unknown kind, or the block is invalid.
    """
    kinds = {"trained": TrainedControl, "stolen": StolenControl, "encoder": EncoderControl}
    kind = block.get("kind")
    if kind not in kinds:
        raise UserError(f"{where}.kind: wants one of {', '.join(kinds)}, not {kind!r}")
    return parse(kinds[kind], block, where)
