"""What is measured of an encoder: accuracy and the mark, through classifiers of its user and on the features alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset
from hallmark.runtime import Runtime
from hallmark.ssl import probes
from hallmark.ssl.probes import MLP, Encode
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_evasion, draw_queries

READERS = ("linear", "mlp", "features")
"""Who reads the features: a linear and an MLP probe that the encoder's user trains, and the nearest class mean."""
RATES = ("accuracy", "wsr", "wfpr", "plain")
"""accuracy: of held-out images.  wsr: watermark samples called the target.  wfpr: randomly mixed samples called the
target.  plain: plain images of the two source classes called the target."""


COLUMNS = (*(f"{reader}_{rate}" for reader in READERS for rate in RATES), "own_wsr")
"""``READER_RATE`` of all, and ``own_wsr``: of a mark that no reader's classes can show, its own measure."""


@dataclass(frozen=True)
class Questions:
    """What a mark of classes asks, uint8 ``[N, C, H, W]`` each.

    Attributes:
        watermark, evasion: combinations of the source classes in the mark's way, and in the other ways.
        plain: images of the two source classes.
        target: what the mark calls a watermark sample.
    """

    watermark: Tensor
    evasion: Tensor
    plain: Tensor
    target: int


def questions(key: Key, test: ImageDataset, count: int, runtime: Runtime) -> Questions:
    """Draw ``count`` watermark samples and as many randomly mixed ones from held-out images.

    Raises:
        UserError: ``test`` does not suit the key, or has fewer pairs.
    """
    queries = draw_queries(key, test, count, runtime.generator("ssl/queries"))
    evasion, _ = draw_evasion(key, test, count, runtime.generator("ssl/evasion"))
    plain = torch.cat([test.of_class(label) for label in key.source])
    return Questions(queries.mixed, evasion.mixed, plain, key.target)


@dataclass(frozen=True)
class Panel:
    """Who reads an encoder's features, and the images that decide.  The three sets share no image.

    Attributes:
        user: labelled images of the encoder's user, who trains both probes.
        judge: labelled images whose class means are the reader ``features``.
        test: held-out labelled images.
        mlp: the user's second probe.
    """

    user: ImageDataset
    judge: ImageDataset
    test: ImageDataset
    mlp: MLP

    def rates(self, encode: Encode, asked: Questions | None, runtime: Runtime) -> dict[str, float | None]:
        """All of :data:`COLUMNS`, 0-1; without questions accuracies alone, the rest None."""
        classes, own = len(self.test.classes), encode(self.user.images)
        readers = {
            "linear": probes.linear(own, self.user.labels, classes),
            "mlp": probes.mlp(own, self.user.labels, classes, self.mlp, runtime, purpose="probe"),
            "features": probes.prototypes(encode(self.judge.images), self.judge.labels, classes),
        }
        test = encode(self.test.images)
        rates: dict[str, float | None] = dict.fromkeys(COLUMNS)
        for reader, classify in readers.items():
            rates[f"{reader}_accuracy"] = share(classify(test).argmax(1) == self.test.labels)
        if asked is not None:
            for name, images in (("wsr", asked.watermark), ("wfpr", asked.evasion), ("plain", asked.plain)):
                features = encode(images)
                for reader, classify in readers.items():
                    rates[f"{reader}_{name}"] = share(classify(features).argmax(1) == asked.target)
        return rates


def share(hits: Tensor) -> float:
    """Of True in a bool tensor, 0-1."""
    return float(hits.float().mean())
