"""What is each step of the sanitizer's detection worth?

python benchmarks/ablation.py --seeds 4 --out docs/results/ablation.csv

The contest's sets, on a seed that neither the sanitizer was made on nor a claim is about, each judged by hallmark as
it is and with one step less or weaker (docs/methods.md has them).  A test that gives no alarm on a set is not taken
away there: nothing would change.  No final model is trained: what is compared is which images are flagged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest import mock

import detection_arms
import torch
from detection_arms import Arm

from hallmark.errors import UserError
from hallmark.purify import alarms
from hallmark.purify.evidence import Evidence


@contextmanager
def silenced(kind: str) -> Iterator[None]:
    """One of :data:`hallmark.purify.alarms.KINDS` gives no alarm in here."""

    def nothing(given: Evidence, *_: object) -> alarms.Finding:
        none = torch.zeros(len(given.labels), dtype=torch.bool)
        return alarms.Finding(none, 1.0, none.clone())

    with mock.patch.object(alarms, f"by_{kind}", nothing):
        yield


ARMS = {
    "all": Arm(),
    **{f"without {kind}": Arm(around=partial(silenced, kind), needs=kind) for kind in alarms.KINDS},
    "one division of the reserve": Arm(changes={"divisions": 1}),
    "one detector of the trigger": Arm(changes={"passes": 1}),
    "only the alarms' images are kept from the benign models": Arm(changes={"suspicion": 1.0}),
    "clean images count once": Arm(changes={"clean_weight": 1.0}),
}
SETS = ("badnets:0.02", "badnets_all_to_all", "blended:0.02", "sig:0.02", "low_frequency:0.05", "wanet:0.02")


def main(words: Sequence[str] | None = None) -> None:
    """Judge with and without, write the table."""
    detection_arms.main(words, __doc__, ARMS, SETS, [4])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
