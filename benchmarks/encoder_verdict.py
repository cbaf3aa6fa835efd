"""Is a stolen encoder recognised, and an innocent one not?  Marked encoders and copies, by the pipeline's verdict.

python benchmarks/encoder_verdict.py --seeds 0 1 --out docs/results/encoder_verdict.csv

A seed has its own split, encoder marked by MEA-Defender for encoders, unmarked twin, and copies of both by two thieves
(contest/ssl.yaml).  All are suspects of kind ``encoder``: folders of features, to which the judge's linear probe gives
classes.  The judge's labelled images come out of the split ``queries`` and are nobody's: the thief has the rest of it.

The null models are encoders too (``KINDS``).  They are trained once, on a split of their own, and kept in --work; for
every seed they get that seed's probe, as the suspects do.  The judge uses no image that a null model was trained on.

Rows: the seed's models; then every null model as the only suspect, judged by the other null models.  --development
asks images of the split ``queries`` that nobody has, in place of the test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallmark import artifacts, config, models, suspects
from hallmark.config import VerifyOwnership
from hallmark.contest.common import kept
from hallmark.contest.marks import Victim
from hallmark.contest.parameters import digest
from hallmark.contest.ssl import run as contest
from hallmark.contest.ssl.plan import Plan
from hallmark.data.dataset import ImageDataset, fingerprints
from hallmark.innocents import EncoderControl, Innocents
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.ssl import probes
from hallmark.ssl.schemes.mea_defender import read_mark
from hallmark.suspects import Suspect
from hallmark.training import no_callback
from hallmark.verification import answers, panel, present, questions
from hallmark.verification.answers import Answers
from hallmark.verification.decision import decide
from hallmark.watermark.key import Key

COLUMNS = ("seed", *present.COLUMNS)
MARKED, UNMARKED = ("mea_defender", "victim", ""), ("none", "unmarked", "unmarked_")
"""Scheme of contest/ssl.yaml, its encoder's name here, and what the names of the encoder's copies begin with."""
ARCHITECTURE, THIEVES = "cnn9", ("regression", "stolen_encoder_cropped")
NULL_SEED = 1000
NULL_IMAGES, NULL_SHARE = 5000, 0.5
"""Images of each source at most, and the share of them that a null model is trained on."""
HELD_OUT = 10_000
"""Images that the thief does not get and that are asked, with --development."""
SMALL = {"name": "cnn9", "width": 16, "unshuffle": 2}
LEARNING = {"epochs": 6, "batch_size": 50, "lr": 2e-3}
KINDS: dict[str, dict[str, Any]] = {
    f"{name}-{data}": {"data": data, "architecture": {**SMALL, **architecture}, "training": {**LEARNING, **training}}
    for name, (architecture, training) in {
        "plain": ({}, {}),
        "wide": ({"width": 24}, {}),
        "residual": ({"name": "resnet18", "width": 8}, {}),
        "narrow": ({"width": 12}, {}),
    }.items()
    for data in ("purified", "queries")
}
"""Blocks of innocent encoders, which the null models take in turn.

Of 300 steps or more: after 90 innocents fired up to ten times as often (docs/self_supervised.md, measured), and are no
replicates of an innocent suspect that was trained in earnest."""

PARAMS = Path("contest/ssl.yaml")
_KEY = "ssl_contest.schemes.mea_defender.params"
AS_IT_WAS = (
    f"{_KEY}.source=[1, 7]",
    f"{_KEY}.target=2",
    "ssl_contest.thief.budget=10000",
    "prepare_data.queries=30000",
)
"""What the verdicts that are measured change in the contest's plan: another key than today's, and fewer queries.  A
plan of one's own (``--params``) is taken as it is."""


@dataclass(frozen=True)
class Court:
    """The rule, the encoders' plan, and the null models.

    Attributes:
        plan: of the encoders that are judged and of their thieves.
        nulls: folders of innocent encoders, by name.
        known: fingerprints of all images that they may have been trained on, int64 ``[M]``.
        raw, work: folders of downloaded data sets, and of what can be made again.
        development: the test set is not asked.
    """

    plan: Plan
    rule: VerifyOwnership
    nulls: Mapping[str, Path]
    known: Tensor
    raw: Path
    work: Path
    development: bool

    def unknown(self, data: ImageDataset) -> ImageDataset:
        """The images that no null model was trained on."""
        return data.subset(~torch.isin(fingerprints(data.images), self.known))


def train_nulls(plan: Plan, count: int, raw: Path, work: Path) -> tuple[dict[str, Path], Tensor]:
    """Null models' folders by name, and the fingerprints of all images that they may have been trained on.

    Their heads are probes on images of their own split's judge, which no verdict uses.
    """
    base = contest.load(plan, NULL_SEED, raw, work)
    purified, queries = (data.subset(torch.arange(len(data))[:NULL_IMAGES]) for data in (base.train, base.pool))
    innocents = Innocents(purified, queries, None, base.runtime)
    file, simclr = work / f"probe-{plan.data_hash(NULL_SEED)}.safetensors", plan.contest.simclr.model_dump(mode="json")
    base.panel.user.save(file)
    found = {}
    with progress(count, "null encoders", "model") as advance:
        for k in range(count):
            name = list(KINDS)[k % len(KINDS)]
            values = {"kind": "encoder", "simclr": simclr, **KINDS[name]}
            hashed = digest([plan.data_hash(NULL_SEED), values, k, NULL_IMAGES, NULL_SHARE])
            probe = {"images": file.as_posix(), "count": len(base.panel.user)}
            block = config.parse(EncoderControl, {**values, "probe": probe}, f"KINDS.{name}")

            def make(folder: Path, block: EncoderControl = block, purpose: str = f"null {k}") -> None:
                part = innocents.part(block, NULL_SHARE, purpose)
                models.save(innocents.train(block, part, purpose, no_callback, purpose), folder / "model")

            found[f"{k:04d}-{name}"] = kept(work / f"null-{hashed}", make) / "model"
            advance(1)
    return found, torch.cat([fingerprints(data.images) for data in (purified, queries)])


def encoders(court: Court, base: contest.Base, seed: int) -> tuple[dict[str, dict[str, Path]], Key]:
    """Model folders of a seed's encoders by role and name, made if they are not in the work folder; and the key."""
    plan, found, mark = court.plan, {}, Path()
    for role, (scheme, first, prefix) in (("suspect", MARKED), ("control", UNMARKED)):
        each = Victim(seed, scheme, THIEVES, ARCHITECTURE)
        folder = contest.victim_folder(plan, each, base, court.work)
        mark = folder / "mark.json" if role == "suspect" else mark
        found[role] = {first: folder / "model"}
        network = models.load(folder / "model", base.runtime)
        for thief in THIEVES:

            def make(copy: Path, network: Network = network, thief: str = thief) -> None:
                models.save(contest.steal(plan, base, network, thief, court.raw), copy / "model")

            hashed = digest([plan.cell_hash(each, thief), len(base.pool)])
            found[role][f"{prefix}{thief}"] = kept(court.work / f"copy-{hashed}", make) / "model"
    return found, read_mark(artifacts.read_json(mark), str(mark)).key


def probed(court: Court, base: contest.Base, judges: ImageDataset, seed: int) -> Path:
    """Folder of the null models, each with a linear probe on the judge's images as its head."""
    folder = court.work / f"nulls-seed{seed}"
    with artifacts.replacing(folder) as temporary:
        temporary.mkdir()
        for name, path in court.nulls.items():
            network = models.load(path, base.runtime)
            probes.attach(network, judges, base.runtime)
            models.save(network, temporary / name)
    return folder


def run(seed: int, court: Court) -> Iterator[dict[str, Any]]:
    """One row of :data:`COLUMNS` for each of a seed's encoders, then for each null model judged by the others."""
    base = contest.load(court.plan, seed, court.raw, court.work)
    pool = base.panel.test
    if court.development:
        order = torch.arange(len(base.pool))
        base, pool = replace(base, pool=base.pool.subset(order[HELD_OUT:])), base.pool.subset(order[:HELD_OUT])
    folders, key = encoders(court, base, seed)
    # Nobody has them: neither victim nor thief, and no null model.
    user, judge = base.panel.user, base.panel.judge
    images, labels, ids = (
        torch.cat([getattr(user, each), getattr(judge, each)]) for each in ("images", "labels", "ids")
    )
    judges = court.unknown(ImageDataset(images, labels, ids, key.classes))
    file = court.work / f"judge-seed{seed}.safetensors"
    judges.save(file)
    rule = court.rule
    asked = questions.draw(
        key, court.unknown(pool), queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed
    )
    inconsistent: dict[str, float] = {}

    def ask(name: str, suspect: Suspect) -> Answers:
        found, consistency = answers.ask(asked, suspect)
        inconsistent[name] = consistency.share
        return found

    def opened(name: str, folder: Path, runtime: Runtime = base.runtime) -> Suspect:
        inner = {"kind": "safetensors", "path": folder.as_posix()}
        block = {"kind": "encoder", "encoder": inner, "images": file.as_posix(), "count": len(judges)}
        return suspects.build(name, block, key.classes, key.shape, runtime)

    given = {role: {n: ask(n, opened(n, f)) for n, f in group.items()} for role, group in folders.items()}
    nulls = probed(court, base, judges, seed)
    innocents = panel.open_models({name: nulls / name for name in court.nulls}, key, base.runtime)
    said = {name: ask(name, suspect) for name, suspect in innocents.items()}
    table = [panel.null_row(name, innocents[name], own) for name, own in said.items()]
    reference = float(given["suspect"]["victim"].correct.mean())
    verdicts = panel.judge(given, table, reference, rule, inconsistent)
    for name, own in said.items():
        others = [row for row in table if row["model"] != name]
        verdicts += decide(
            {name: own},
            panel.null_counts(others),
            reference,
            rule,
            role="null",
            inconsistent=inconsistent,
            faults=panel.null_faults(others, reference, rule),
        )
    for verdict in verdicts:
        print(f"seed {seed}: {present.line(verdict)}  accuracy {verdict.accuracy.rate:.1%}", flush=True)
    yield from ({"seed": seed, **row} for row in present.rows(verdicts))


def main(words: Sequence[str] | None = None) -> None:
    """Train, judge, write one row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--nulls", type=int, default=32, help="number of null models")
    parser.add_argument("--params", type=Path, default=PARAMS, help="encoders and thieves")
    parser.add_argument("--rule", type=Path, default=Path("params.yaml"), help="its section verify_ownership")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="downloaded data sets")
    parser.add_argument("--work", type=Path, default=Path(".hallmark/encoder_verdict"), help="encoders, kept")
    parser.add_argument("--development", action="store_true", help="leave the test set alone")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    plan = Plan.read(given.params, AS_IT_WAS if given.params == PARAMS else ())
    rule = config.section(config.read_params(given.rule), "verify_ownership", VerifyOwnership, given.rule)
    nulls, known = train_nulls(plan, given.nulls, given.raw, given.work)
    court = Court(plan, rule, nulls, known, given.raw, given.work, given.development)
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        rows += run(seed, court)
        artifacts.write_csv(given.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
