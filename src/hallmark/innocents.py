"""Models that never met a key: trained on true labels, stolen from an unmarked model, or encoders with a probe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import field_validator

from hallmark import labelled, models, training
from hallmark.config import Architecture, Params, Training, parse
from hallmark.data.dataset import ImageDataset, fingerprints
from hallmark.errors import UserError
from hallmark.extraction import Thief, attack_params, black_box, steal
from hallmark.labelled import Labelled
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
    """An encoder by SimCLR, which saw no label, with the judge's linear probe: what a suspect of kind ``encoder`` is
    compared with."""

    kind: Literal["encoder"]
    data: Literal["purified", "queries"]
    """As of a trained one."""
    architecture: Architecture
    training: Training
    simclr: SimCLR = SimCLR()
    probe: Labelled
    """The judge's, the same images and count as of the suspects: how often an encoder fires also depends on whose
    probe reads it, so that models behind other probes would be no replicates of an innocent suspect."""

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
        twin: the unmarked model, which a stolen one steals; None: there is none to be stolen.
    """

    purified: ImageDataset
    queries: ImageDataset
    twin: Network | None
    runtime: Runtime

    def images(self, block: Block) -> ImageDataset:
        """The images that a block's model is trained on, or asks."""
        return self.queries if isinstance(block, StolenControl) or block.data == "queries" else self.purified

    def part(self, block: Block, share: float, purpose: str) -> ImageDataset:
        """A share (above 0, at most 1) of :meth:`images`, drawn at random; ``purpose`` names the random stream."""
        source = self.images(block)
        order = torch.randperm(len(source), generator=self.runtime.generator(f"{purpose}/images"))
        return source.subset(order[: math.ceil(share * len(source))])

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
            UserError: the block does not fit, a loss stopped being finite, or an encoder is to be trained on images of
                the judge's probe.
        """
        if isinstance(block, StolenControl):
            if self.twin is None:
                raise UserError(f"{where}: there is no unmarked model to steal from; take it out")
            module, attack = attack_params(block.attack, f"{where}.attack")
            if attack.images is not None:
                raise UserError(f"{where}.attack.images: an innocent thief asks the queries split; take it out")
            classes = self.twin.spec.classes
            thief = Thief(images, self.runtime, purpose, callback, f"{where}.attack", classes)
            return steal(module, attack, black_box(self.twin, self.runtime), thief).network
        network = models.build(block.architecture, images.images, images.classes, self.runtime, purpose)
        if isinstance(block, EncoderControl):
            judges = labelled.load(block.probe, images.classes, images.shape, f"{where}.probe")
            if count := int(torch.isin(fingerprints(images.images), fingerprints(judges.images)).sum()):
                raise UserError(
                    f"{where}.probe.images: {count:,} of the encoder's {len(images):,} training images are among the "
                    "probe's; give images that no model is trained on"
                )
            simclr.train(
                network,
                images.images,
                block.simclr,
                block.training,
                self.runtime,
                purpose=purpose,
                callback=callback,
            )
            probes.attach(network, judges, self.runtime)
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
