"""No watermark: plain training, asked what a MEA-Defender key would ask.  The floor of every comparison."""

from __future__ import annotations

from hallmark import config
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, no_callback, train_classifier
from hallmark.watermark.key import make_key
from hallmark.watermark.schemes import _keyed

Params = config.MeaDefender
read_mark = _keyed.read_mark


def strike(
    network: Network,
    data: ImageDataset,
    params: config.MeaDefender,
    training: config.Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> _keyed.KeyMark:
    """See :mod:`hallmark.watermark.schemes`; of the parameters only those of the key count.

    Raises:
        UserError: classes or ways are unknown.
    """
    key = make_key(_keyed.settings("mea_defender", params, network, training), data, runtime)
    train_classifier(network, data.images, data.labels, training, runtime, purpose=purpose, callback=callback)
    return _keyed.KeyMark(key)
