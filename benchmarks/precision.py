"""Does the sanitizer decide in bf16 what it decides in fp32?

python benchmarks/precision.py --seeds 0 --out docs/results/precision.csv

The contest's sets (its parameter file: data, diffusion model, networks), each purified three times by hallmark, whose
own networks and purifier work in fp32, in bf16, and in fp32 again with other random streams: so much differs without
another precision.  The data and the diffusion model are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import detection_arms
import torch
from detection_arms import Arm

from hallmark.errors import UserError

ARMS = {"fp32": Arm(), "bf16": Arm(dtype=torch.bfloat16), "fp32, other streams": Arm(streams=1)}
SETS = ("none", "badnets:0.05", "wanet:0.02", "sig:0.02")


def main(words: Sequence[str] | None = None) -> None:
    """Purify, compare, write the table."""
    detection_arms.main(words, __doc__, ARMS, SETS, [0])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
