"""How often does verify_ownership accuse an innocent model?

python benchmarks/false_claims.py --data data/clean --work /tmp/innocents --out docs/results/false_claims.csv

Trains independent small models that never met a key (other seeds, images, architectures and kinds of training; kept in
--work) and judges each of them for random keys (pair, target and way) by the pipeline's own `decide`, as the only
suspect, against 32 others.  For every key the models are dealt into groups of 32 at random; a group's nulls are the
next group's models, so that each is judged once a key, and never by itself.  Its controls are asked only where the
nulls alone would accuse: elsewhere they cannot change a verdict into "stolen".

Rows: each key; all keys; the best of all keys for each model, as if it had been chosen afterwards, with and without the
correction; a kind of model at a time, nulls of the other kinds alone, and, for 32 models a key, the 32 nulls that fire
and lean least, as an accuser might pick them (the suspect is then no draw from the nulls' population, and nothing is
promised).
Verdicts of one model share its quirks: `models_accused` counts models, which are what is independent.  by_lean_alone,
accused_by_lean: those of them by that statistic only.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import Architecture, RuntimeConfig, Training, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.suspects import Suspect, memory
from hallmark.suspects.adapt import Classes
from hallmark.verification import panel, questions
from hallmark.verification.answers import LEAN, OTHER_WAYS, UNMIXED, Answers, Lean, Outcomes, ask, read
from hallmark.verification.decision import INVALID, PAPER_THRESHOLD, STOLEN, Nulls, Verdict, beats, decide
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key
from hallmark.watermark.ways import HIDING, untrained

NULLS = 32
KINDS: dict[str, tuple[Architecture, Training]] = {
    "plain": (Architecture(name="cnn9", width=8, dropout=0.2, unshuffle=2), Training(epochs=3, batch_size=50, lr=3e-3)),
    "mixed": (
        Architecture(name="cnn9", width=12, unshuffle=2),
        Training(epochs=3, batch_size=50, lr=3e-3, mix="mixup_cutmix"),
    ),
    "residual": (Architecture(name="resnet18", width=8, unshuffle=2), Training(epochs=2, batch_size=50, lr=2e-3)),
    "alexnet": (Architecture(name="alexnet", width=8, unshuffle=2), Training(epochs=3, batch_size=50, lr=2e-3)),
}
COLUMNS = [
    "row",
    "nulls_from",
    "judged",
    "models",
    "above_30_percent",
    "nulls_alone_accuse",
    "by_lean_alone",
    "accused",
]
COLUMNS += [
    "accused_by_lean",
    "models_accused",
    "accused_share",
    "chance_of_so_many",
    "other_ways_would_save",
    "invalid",
    "highest_rate",
]


@dataclass(frozen=True)
class Innocent:
    """A model, its kind, and how it does the main task on the judge's pool, ``[T]``."""

    kind: str
    network: Network
    correct: np.ndarray


@dataclass(frozen=True)
class Judged:
    """One verdict.

    Attributes:
        above: the paper's rule accuses.
        nulls_alone: statistics by which the nulls accuse, before the controls on the model itself.
        by: statistics by which it is accused.
        unspecific: accused, and the key does not beat the same pairs mixed in other ways, which are no control.
    """

    model: int
    above: bool
    nulls_alone: tuple[str, ...]
    by: tuple[str, ...]
    decision: str
    rate: float
    unspecific: bool


def train_innocents(
    data: ImageDataset, pool: ImageDataset, options: argparse.Namespace, run: Runtime
) -> list[Innocent]:
    """The models, trained or found in the work folder; kinds in turn, everything else by the model's number."""
    found = []
    with progress(options.models, "innocent models", "model") as advance:
        for k in range(options.models):
            kind = list(KINDS)[k % len(KINDS)]
            architecture, how = KINDS[kind]
            folder = options.work / f"{k:04d}-{kind}"
            if folder.is_dir():
                network = models.load(folder, run)
            else:
                purpose = f"benchmark/innocent {k}"
                index = torch.randperm(len(data), generator=run.generator(f"{purpose}/images"))[: options.images]
                part = data.subset(index)
                network = models.build(architecture, part.images, part.classes, run, purpose)
                training.train_classifier(network, part.images, part.labels, how, run, purpose=purpose)
                models.save(network, folder)
            said = models.logits(network, pool.images[: questions.MOST_TASK], run).argmax(1)
            found.append(Innocent(kind, network, (said == pool.labels[: len(said)]).numpy()))
            advance(1)
    return found


def random_keys(count: int, pool: ImageDataset, run: Runtime) -> list[Key]:
    """Different pairs, targets and ways, each way about as often."""
    generator, names = run.generator("benchmark/false keys"), untrained()
    found = []
    for k in range(count):
        first, second, target = torch.randperm(len(pool.classes), generator=generator)[:3].tolist()
        way = names[k % len(names)]
        others = tuple(name for name in HIDING if name != way)
        found.append(Key("mea_defender", way, {}, others, (first, second), target, k, pool.classes, pool.shape))
    return found


def answers_of(asked: Questions, network: Network, run: Runtime) -> Answers:
    """What the pipeline would have of the model."""
    return ask(asked, in_memory(asked, network, run))[0]


def answers_to(asked: Questions, network: Network, run: Runtime) -> Answers:
    """The same of a part of the questions, none of them repeated."""
    return read(asked, in_memory(asked, network, run).scores(asked.images))


def in_memory(asked: Questions, network: Network, run: Runtime) -> Suspect:
    return memory.suspect(network, run, Classes.match(asked.key.classes, None, {}), asked.key.shape)


def most_accusing(asked: Questions, innocent: Innocent, run: Runtime) -> Answers:
    """What the null models are compared with, beside controls that never fire; ``asked``: those parts only."""
    said = answers_to(asked, innocent.network, run)
    never = np.zeros(len(said.hits), dtype=bool)
    controls = {UNMIXED: never, OTHER_WAYS: never, "called another": never}
    outcomes = {name: Outcomes(each.watermark, controls) for name, each in said.outcomes.items()}
    assert said.lean is not None  # probabilities of ten classes
    lean = Lean(said.lean.value, {"leaning to another": (-math.inf, 0.0)})
    return Answers(outcomes, innocent.correct, said.plain, lean=lean)


class Trial:
    """One key put to all models."""

    def __init__(
        self, key: Key, innocents: Sequence[Innocent], pool: ImageDataset, rule: VerifyOwnership, run: Runtime
    ):
        self.asked = questions.draw(key, pool, queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)
        self.innocents, self.rule, self.run = innocents, rule, run
        alone = self.asked.only("watermark", "first", "second")
        self.accusing = [most_accusing(alone, innocent, run) for innocent in innocents]
        self.figures = [panel.figures(a) for a in self.accusing]
        self.counts = panel.null_counts(self.figures)
        self.full: dict[int, Answers] = {}
        self.reference = float(np.mean([innocent.correct.mean() for innocent in innocents]))

    def judge(self, model: int, nulls: Sequence[int], rule: VerifyOwnership | None = None) -> Judged:
        """The verdict on a model that others are the nulls of."""
        rule = rule or self.rule
        counts: Nulls = {name: values[list(nulls)] for name, values in self.counts.items()}
        faults = panel.alike([self.figures[k] for k in nulls], rule.queries)

        def verdict(answers: Answers) -> Verdict:
            return decide({"model": answers}, counts, self.reference, rule, role="suspect", faults=faults)[0]

        first = final = verdict(self.accusing[model])
        if first.by:
            if model not in self.full:
                self.full[model] = answers_of(self.asked, self.innocents[model].network, self.run)
            final = verdict(self.full[model])
        rate, unspecific = first.wsr.rate, False
        if final.decision == STOLEN and "hits" in final.by:
            answers = self.full[model]
            unspecific = beats(answers.hits, answers.false_positives) > rule.alpha
        by = final.by if final.decision == STOLEN else ()
        return Judged(model, rate > PAPER_THRESHOLD, first.by, by, final.decision, rate, unspecific)


def dealt(count: int, generator: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """(models judged, their nulls): groups of :data:`NULLS` at random; those left over are judged by the first."""
    order = generator.permutation(count).tolist()
    groups = [order[start : start + NULLS] for start in range(0, count - NULLS + 1, NULLS)]
    rest = order[len(groups) * NULLS :]
    pairs = [(group, groups[(k + 1) % len(groups)]) for k, group in enumerate(groups)]
    return pairs + ([(rest, groups[0])] if rest else [])


def row(name: str, source: str, judged: Sequence[Judged], alpha: float) -> dict[str, Any]:
    """Counts of some verdicts; ``chance_of_so_many`` as if all were independent, at the nominal level."""
    accused = [each for each in judged if each.decision == STOLEN]
    return {
        "row": name,
        "nulls_from": source,
        "judged": len(judged),
        "models": len({each.model for each in judged}),
        "above_30_percent": sum(each.above for each in judged),
        "nulls_alone_accuse": sum(bool(each.nulls_alone) for each in judged),
        "by_lean_alone": sum(each.nulls_alone == (LEAN,) for each in judged),
        "accused": len(accused),
        "accused_by_lean": sum(each.by == (LEAN,) for each in accused),
        "models_accused": len({each.model for each in accused}),
        "accused_share": len(accused) / len(judged),
        "chance_of_so_many": float(stats.binom.sf(len(accused) - 1, len(judged), alpha)),
        "other_ways_would_save": sum(each.unspecific for each in accused),
        "invalid": sum(each.decision == INVALID for each in judged),
        "highest_rate": max(each.rate for each in judged),
    }


def best_key(by_key: Mapping[str, Sequence[Judged]]) -> list[Judged]:
    """Of each model's verdicts the worst for it."""
    worst: dict[int, Judged] = {}
    for judged in by_key.values():
        for each in judged:
            before = worst.get(each.model)
            if before is None or (each.decision == STOLEN, each.rate) > (before.decision == STOLEN, before.rate):
                worst[each.model] = each
    return list(worst.values())


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the innocent models, kept")
    parser.add_argument("--models", type=int, default=224)
    parser.add_argument("--images", type=int, default=2500, help="each model is trained on")
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    if options.models < 2 * NULLS:
        parser.error(f"--models: at least {2 * NULLS}")
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Train, judge, write one row a key and the sums."""
    options = parsed(words)
    params = config.read_params(options.params)
    rule = config.section(params, "verify_ownership", VerifyOwnership, options.params)
    run = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=options.seed))
    data, pool = (ImageDataset.load(options.data / f"{name}.safetensors") for name in ("queries", "test"))
    innocents = train_innocents(data, pool, options, run)
    gc.freeze()  # statsmodels collects garbage at every correction: a third of a second for all that torch has imported
    rng, corrected = np.random.default_rng(options.seed), rule.model_copy(update={"keys": options.keys})
    by_key: dict[str, list[Judged]] = {}
    with_correction: list[Judged] = []
    by_kind: dict[str, list[Judged]] = {kind: [] for kind in KINDS}
    picked: list[Judged] = []
    rows: list[dict[str, Any]] = []
    with progress(options.keys, "false keys", "key") as advance:
        for k, key in enumerate(random_keys(options.keys, pool, run)):
            trial, deal = Trial(key, innocents, pool, rule, run), dealt(len(innocents), rng)
            first, second = (key.name(label) for label in key.source)
            name = f"{k}: {key.way}, {first} + {second} = {key.name(key.target)}"
            by_key[name] = [trial.judge(m, nulls) for group, nulls in deal for m in group]
            accused = {each.model for each in by_key[name] if each.decision == STOLEN}
            with_correction += [
                trial.judge(m, nulls, corrected) for group, nulls in deal for m in group if m in accused
            ]
            rows.append(row(name, "all kinds", by_key[name], rule.alpha))
            for kind in KINDS:
                own = [m for m, innocent in enumerate(innocents) if innocent.kind == kind]
                others = rng.permutation([m for m in range(len(innocents)) if m not in own])[:NULLS].tolist()
                by_kind[kind] += [trial.judge(m, others) for m in own]
            ranks = sum(stats.rankdata(values) for values in trial.counts.values())
            quiet = np.argsort(ranks, kind="stable")[:NULLS].tolist()
            rest = rng.permutation([m for m in range(len(innocents)) if m not in quiet])[:NULLS].tolist()
            picked += [trial.judge(m, quiet) for m in rest]
            print({name: artifacts.rounded(value) for name, value in rows[-1].items()}, flush=True)
            advance(1)
    every = [each for judged in by_key.values() for each in judged]
    rows.append(row("all keys", "all kinds", every, rule.alpha))
    chosen = f"the best of {options.keys} keys"
    rows.append(row(f"{chosen}, keys: 1", "all kinds", best_key(by_key), rule.alpha))
    if with_correction:
        rows.append(row(f"of these, keys: {options.keys}", "all kinds", with_correction, rule.alpha))
    rows += [row(f"{kind} models, all keys", "other kinds", judged, rule.alpha) for kind, judged in by_kind.items()]
    rows.append(row("all keys", "the quietest", picked, rule.alpha))
    for each in rows[options.keys :]:
        print({name: artifacts.rounded(value) for name, value in each.items()}, flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
