"""Innocents of another labelling convention: does a verdict accuse who calls some of a class by another one's name?

python benchmarks/relabelled.py --models models --data data/clean --out docs/results/relabelled.csv

The null models all know the classes by the owner's names.  An innocent whose labellers called a share of the images of
one class by another class's name fires under keys with that target as no null model does.  ``--innocents`` models are
trained for each of ``--shares``, the two classes and the images drawn for each number (share 0: the same with the
owner's labels), and for each the accuser searches the keys of that target (all pairs of classes, the ways of
``protocol_attacks.py``) for the ``--keys`` that lie farthest above two surrogates of his.  They are judged as by
verify_ownership, each as the only key, on questions from test; searching and training use other images.  A row a model
and key: the verdict, whether the null models alone would accuse, and how much of the class's plain images get the name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from court import Case, words
from false_claims import KINDS
from protocol_attacks import best, combinations, gather, search
from torch import Tensor

from hallmark import artifacts, models, training
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.verification.decision import STOLEN

SURROGATES = ("mixup_cutmix", "other_data")
COLUMNS = ("share", "model", "kind", "relabelled", "as", "plain", "pair", "way", "accuracy", "hits", "p_value")
COLUMNS += ("nulls_alone_accuse", "decision", "strongest_control", "control_value", "control_p", "reasons")


def convention(labels: Tensor, renamed: int, name: int, share: float, generator: torch.Generator) -> Tensor:
    """Labels by which ``share`` (0-1) of the images of class ``renamed`` are of class ``name``, int64 ``[N]``."""
    own = (labels == renamed).nonzero().flatten()
    chosen = own[torch.randperm(len(own), generator=generator)[: round(share * len(own))]]
    return labels.index_fill(0, chosen, name)


def innocent(
    court: Case, number: int, share: float, images: int, pairs: Sequence[Sequence[int]] = ()
) -> tuple[str, Network, tuple[int, int]]:
    """A model that never met a key: its kind, and the class that is partly called by another one's name.

    Args:
        share: of that class, 0-1.
        images: that it is trained on.
        pairs: the class and the other one's name, in turn; none: drawn.
    """
    purpose = f"benchmark/relabelled {number}"
    generator = court.run.generator(purpose)
    drawn = torch.randperm(len(court.key.classes), generator=generator)[:2].tolist()
    renamed, name = pairs[number % len(pairs)] if pairs else drawn
    part = court.data.subset(torch.randperm(len(court.data), generator=generator)[:images])
    labels = convention(part.labels, renamed, name, share, generator)
    kind = list(KINDS)[number % len(KINDS)]
    architecture, how = KINDS[kind]
    network = models.build(architecture, part.images, part.classes, court.run, purpose)
    training.train_classifier(network, part.images, labels, how, court.run, purpose=purpose)
    return kind, network, (renamed, name)


def rows(court: Case, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, search, judge."""
    classes = court.key.classes
    try:
        pairs = [tuple(map(classes.index, words.split(":", 1))) for words in options.pairs]
        if any(len(pair) < 2 for pair in pairs):
            raise ValueError("wants CLASS:NAME")
    except ValueError as error:
        raise UserError(f"--pairs: {error}; the classes are {', '.join(classes)}") from None
    found = {
        (share, number): innocent(court, number, share, options.images, pairs)
        for share in options.shares
        for number in range(options.innocents)
    }
    court.known |= {str(which): network for which, (_, network, _) in found.items()}
    keys = combinations(court)
    rates = search(court, keys, [*SURROGATES, *map(str, found)])
    surrogates, table = rates[: len(SURROGATES)].max(0).values, []
    for ((share, number), (kind, network, (renamed, name))), own in zip(
        found.items(), rates[len(SURROGATES) :], strict=True
    ):
        excess = torch.full_like(own, -1)
        excess[:, name] = torch.where(own[:, name] < 0, -1, own[:, name] - surrogates[:, name])
        plain = float((court.labels(network, court.pool.of_class(renamed)) == name).float().mean())
        for key in best(excess, keys, options.keys):
            verdict = court.verdict(key, network)
            test = verdict.tests["hits"]
            table.append(
                {
                    "share": share,
                    "model": number,
                    "kind": kind,
                    "relabelled": key.name(renamed),
                    "as": key.name(name),
                    "plain": plain,
                    "pair": " + ".join(key.name(label) for label in key.source),
                    "way": key.way,
                    "accuracy": verdict.accuracy.rate,
                    "hits": test.value,
                    "p_value": f"{test.p_value:.3g}",
                    "nulls_alone_accuse": test.reach and test.p_value <= court.rule.alpha,
                    "decision": verdict.decision,
                    "strongest_control": test.strongest_control,
                    "control_value": test.control_value,
                    "control_p": f"{test.control_p:.3g}",
                    "reasons": "; ".join(reason for reason in verdict.reasons if reason.startswith("NO")),
                }
            )
            print(f"{share:.0%}, model {number}, {table[-1]['pair']} = {key.name(name)}: {words(verdict)}", flush=True)
            artifacts.write_csv(options.out, table, COLUMNS)
    return table


def main(given: Sequence[str] | None = None) -> None:
    """Write a row a model and key, and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--innocents", type=int, default=8, help="for each share")
    parser.add_argument("--images", type=int, default=8000, help="each of them is trained on")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3, 0.4])
    parser.add_argument("--pairs", nargs="+", default=[], metavar="CLASS:NAME", help="in place of drawn ones")
    parser.add_argument("--keys", type=int, default=3, help="the best for the accuser, each put to the judge")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(given)
    whose = {**vars(options), "nulls": None, "copy": "distillation", "surrogates": None}
    table = rows(gather(argparse.Namespace(**whose)), options)
    for share in options.shares:
        own = [row for row in table if row["share"] == share]
        alone = [row for row in own if row["nulls_alone_accuse"]]
        stolen = [row for row in own if row["decision"] == STOLEN]
        print(
            f"share {share:.0%}: {len(stolen)} of {len(own)} accuse, {len({row['model'] for row in stolen})} models; "
            f"the null models alone {len(alone)}"
        )


if __name__ == "__main__":
    main()
