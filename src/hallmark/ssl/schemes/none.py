"""No mark: plain SimCLR, asked what a MEA-Defender key would ask.  The floor of every comparison."""

from __future__ import annotations

from hallmark import training
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.ssl import simclr
from hallmark.ssl.schemes import Stage, _keyed
from hallmark.ssl.schemes.mea_defender import Params, make_key

__all__ = ["Params", "read_mark", "strike"]
read_mark = _keyed.read_mark


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    stage: Stage,
    *,
    callback: training.EpochCallback = training.no_callback,
) -> _keyed.KeyMark:
    """See :mod:`hallmark.ssl.schemes`; of the parameters only those of the key count.

    Raises:
        UserError: classes or ways are unknown.
    """
    key = make_key(params, data, stage.runtime)
    simclr.train(
        network,
        data.images,
        stage.simclr,
        stage.training,
        stage.runtime,
        purpose=stage.purpose,
        callback=callback,
    )
    return _keyed.KeyMark(key)
