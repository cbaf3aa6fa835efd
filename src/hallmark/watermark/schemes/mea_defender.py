"""MEA-Defender (Lv et al., S&P 2024) behind the interface: :mod:`hallmark.watermark.mea_defender` does the work."""

from __future__ import annotations

from hallmark import config
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, no_callback
from hallmark.watermark import mea_defender
from hallmark.watermark.key import make_key
from hallmark.watermark.schemes import _keyed

Params = config.MeaDefender
read_mark = _keyed.read_mark
train = mea_defender.train


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
    """See :mod:`hallmark.watermark.schemes`; the weights are those of the pipeline's stage, bit for bit.

    Raises:
        UserError: classes or ways are unknown, or a source class has too few images.
    """
    settings = _keyed.settings("mea_defender", params, network, training)
    key = make_key(settings, data, runtime)
    mea_defender.check(key, data, data, 1)
    train(network, data, key, settings, runtime, purpose=purpose, callback=callback)
    return _keyed.KeyMark(key)
