"""How much of the contest's figures are the sanitizer's own draws?

python benchmarks/draws.py --seeds 3 --out docs/results/draws.csv

Three of the contest's sets of seed 3: the two on which a claim of ours fails, and WaNet at 2 %, whose decisions other
streams had moved most at seed 0; each purified three times, with the contest's random streams and with two others.
Only the sanitizer's own chances differ (its networks, folds and noise); the set, the diffusion model, and the random
streams of the models that are trained on what comes out are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import detection_arms
from detection_arms import Arm

from hallmark.errors import UserError

ARMS = {"the contest's streams": Arm(), **{f"other streams, {k}": Arm(streams=k) for k in (1, 2)}}
SETS = ("low_frequency:0.05", "wanet:0.02", "sig:0.08")


def main(words: Sequence[str] | None = None) -> None:
    """Purify, train, compare, write the table."""
    detection_arms.main(words, __doc__, ARMS, SETS, [3], outcome=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
