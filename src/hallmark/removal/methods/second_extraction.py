"""Second extraction: the thief of a thief.

The copy is robbed in its turn, by any extraction attack (:mod:`hallmark.extraction.attacks`) with the thief's own
images: what the first theft blurred, the second blurs again.  The questions cost nothing, for the copy is at home.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hallmark.errors import UserError
from hallmark.extraction import attack_params, black_box, steal
from hallmark.models import Network
from hallmark.removal import Means, RemovalParams


class Params(RemovalParams):
    """Block of a ``second_extraction`` removal."""

    attack: dict[str, Any]
    """A block as under ``extract_attack.attacks``."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: the attack's block is invalid, or wants more images than there are.
    """
    where = f"{means.where}.attack"
    module, attack = attack_params(params.attack, where)
    if attack.images is not None:
        raise UserError(f"{where}.images: the second thief asks the first one's images; take it out")
    thief = replace(means.part("attack").thief, classes=network.spec.classes)
    return steal(module, attack, black_box(network, means.runtime), thief).network
