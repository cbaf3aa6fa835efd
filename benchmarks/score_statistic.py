"""Do scores betray a copy that was fine-tuned on true labels, and how often an innocent?

python benchmarks/score_statistic.py --pipeline . --out docs/results/score_statistic.csv
python benchmarks/score_statistic.py --pipeline . --seeds 101 102 103 --keys 0 --out score_statistic_development.csv

The pipeline's copies (models/extracted), and with --seeds those of the contest of removals (kept in --work), each as
it was stolen and after each of the named removals of contest/removal.yaml, against the pipeline's null models.
Statistics, every one a real number of a model:

* ``lean`` of hallmark.verification.log_odds: of unmixed images of both source classes, what a verdict takes;
* ``hits``, ``runner_up``: shares of the queries, judged by the same t-prediction, for comparison.

Rows ``suspect``: each model with its p against the nulls.  ``separation``: the area under the ROC curve of a kind of
suspect against all innocents (nulls, controls, the unmarked model), mean over the suspects.  ``false keys``: random
keys (pair, target, way) asked of every innocent, a null judged by the others: how often p is at most a level.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from false_claims import random_keys
from sklearn.metrics import roc_auc_score
from torch import Tensor

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import RuntimeConfig
from hallmark.contest.marks import Victim
from hallmark.contest.removal.plan import NONE, Plan, Target
from hallmark.contest.removal.run import Play
from hallmark.contest.watermark.run import Scene, load_base
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import black_box
from hallmark.models import Network
from hallmark.ownership import keyfile
from hallmark.progress import progress
from hallmark.removal import Means
from hallmark.runtime import Runtime
from hallmark.verification.log_odds import lean, predictive_p
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_queries
from hallmark.watermark.schemes._keyed import KeyMark

STATISTICS = ("lean", "hits", "runner_up")
LEVELS = (0.05, 0.01, 0.001)
COLUMNS = ["row", "case", "model", "kind", "accuracy", "statistic", "value", "highest_innocent", "p", "method", "auc"]
COLUMNS += ["tests", "level", "alarms", "share", "models_alarmed"]


@dataclass(frozen=True)
class Asked:
    """What a model is asked for one key: uint8 ``[3 N, C, H, W]``, mixed, first and second images."""

    key: Key
    images: Tensor

    @classmethod
    def draw(cls, key: Key, pool: ImageDataset, count: int, generator: torch.Generator) -> Asked:
        """``count`` pairs of the key's source classes."""
        pairs = draw_queries(key, pool, count, generator)
        return cls(key, torch.cat([pairs.mixed, pairs.first, pairs.second]))

    def statistics(self, network: Network, run: Runtime) -> dict[str, float]:
        """A model's :data:`STATISTICS`."""
        found = models.probabilities(network, self.images, run)
        count, target, source = len(found) // 3, self.key.target, list(self.key.source)
        queries, unmixed = found[:count], found[count:]
        leaning = lean(unmixed.split(count), target, source)
        if leaning is None:
            raise UserError(f"{len(self.key.classes)} classes, or scores that say nothing: no lean")
        ranked = queries.clone()
        ranked[:, source] = -1
        return {
            "lean": leaning,
            "hits": float((queries.argmax(1) == target).float().mean()),
            "runner_up": float((ranked.argmax(1) == target).float().mean()),
        }


def load_models(folders: Sequence[Path], run: Runtime) -> dict[str, Network]:
    """Every model in the folders, or in folders of these, by its path."""
    places = [p for f in folders for p in ([f] if (f / "model.json").is_file() else sorted(f.iterdir())) if p.is_dir()]
    return {f"{place.parent.name}/{place.name}": models.load(place, run) for place in places}


@dataclass(frozen=True)
class Case:
    """A marked model's key, and its copies.

    Attributes:
        name: of the rows.
        copies: networks by thief and removal.
        pool: labelled images that no model was trained on.
    """

    name: str
    key: Key
    copies: Mapping[tuple[str, str], Network]
    pool: ImageDataset
    run: Runtime


def of_seed(plan: Plan, seed: int, options: argparse.Namespace) -> Case:
    """Victim and copy as in the contest of removals, after each removal."""
    thief = next(iter(plan.marks.contest.thieves))
    victim = Victim(seed, options.scheme, (thief,))
    scene = Scene(plan.marks, victim, load_base(plan.marks, seed, options.raw, options.work), options.raw, options.work)
    play = Play(plan, Target(victim, (NONE, *options.removals)), scene)
    struck, attacked = play.attacked()
    copies = {(thief, removal): play.remove(struck, attacked, removal) for removal in (NONE, *options.removals)}
    assert isinstance(struck.mark, KeyMark)
    return Case(f"seed {seed}", struck.mark.key, copies, scene.base.test, play.runtime)


def of_pipeline(plan: Plan, options: argparse.Namespace) -> Case:
    """The pipeline's copies, after each removal."""
    root = options.pipeline
    values = config.read_params(root / "params.yaml")
    run = runtime.start(config.section(values, "runtime", RuntimeConfig, root / "params.yaml"))
    key = keyfile.load(root / "models" / "victim_key.age")
    own, pool = (ImageDataset.load(root / "data" / "clean" / f"{name}.safetensors") for name in ("queries", "test"))
    victim = models.load(root / "models" / "victim", run)
    copies: dict[tuple[str, str], Network] = {}
    for folder in sorted((root / "models" / "extracted").iterdir()):
        copy = copies[folder.name, NONE] = models.load(folder, run)
        for removal in options.removals:
            module, params = plan.removal_params(removal)
            means = Means(own, black_box(victim, run), run, f"remove/{folder.name}", where=removal, raw=options.raw)
            copies[folder.name, removal] = module.remove(copy, means, params)
    return Case("pipeline", key, copies, pool, run)


def false_alarms(
    keys: Sequence[Asked], nulls: Mapping[str, Network], others: Mapping[str, Network], run: Runtime
) -> list[dict[str, Any]]:
    """How often an innocent's p is at most a level, over all keys; a null is judged by the other nulls."""
    ps: dict[str, dict[str, list[float]]] = {name: {} for name in STATISTICS}
    with progress(len(keys), "false keys", "key") as advance:
        for asked in keys:
            own = {name: asked.statistics(network, run) for name, network in nulls.items()}
            new = {name: asked.statistics(network, run) for name, network in others.items()}
            for statistic in STATISTICS:
                values = {name: found[statistic] for name, found in own.items()}
                for name, value in values.items():
                    rest = [other for key, other in values.items() if key != name]
                    ps[statistic].setdefault(name, []).append(predictive_p(rest, value).p)
                for name, found in new.items():
                    p = predictive_p(list(values.values()), found[statistic]).p
                    ps[statistic].setdefault(name, []).append(p)
            advance(1)
    rows = []
    for kind, names in (("nulls, each by the others", nulls), ("other innocents", others)):
        for statistic in STATISTICS:
            for level in LEVELS:
                alarms = {name: sum(p <= level for p in ps[statistic][name]) for name in names}
                tests = len(keys) * len(names)
                total = sum(alarms.values())
                rows.append({"row": "false keys", "kind": kind, "statistic": statistic, "tests": tests, "level": level,
                             "alarms": total, "share": total / max(tests, 1),
                             "models_alarmed": sum(count > 0 for count in alarms.values())})  # fmt: skip
    return rows


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    plan, root = Plan.read(options.params), options.pipeline / "models"
    cases = [of_seed(plan, seed, options) for seed in options.seeds] or [of_pipeline(plan, options)]
    run, pool = cases[0].run, cases[0].pool
    nulls, others = load_models([root / "nulls"], run), load_models([root / "controls", root / "unmarked"], run)
    rows: list[dict[str, Any]] = []
    areas: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        asked = Asked.draw(case.key, case.pool, options.queries, case.run.generator("benchmark/score queries"))
        answers, innocent = (
            {name: asked.statistics(network, run) for name, network in group.items()} for group in (nulls, others)
        )
        known = {"row": "suspect", "case": case.name}
        for (thief, removal), network in case.copies.items():
            found, accuracy = asked.statistics(network, run), training.accuracy(network, case.pool, run)
            for statistic, value in found.items():
                against = [answer[statistic] for answer in answers.values()]
                every = [*against, *(answer[statistic] for answer in innocent.values())]
                p = predictive_p(against, value)
                rows.append({**known, "model": thief, "kind": removal, "accuracy": accuracy, "statistic": statistic,
                             "value": value, "highest_innocent": max(every), "p": f"{p.p:.3g}",
                             "method": p.method})  # fmt: skip
                area = roc_auc_score([1] + [0] * len(every), [value, *every])
                areas.setdefault((removal, statistic), []).append(float(area))
        for name, answer in innocent.items():
            for statistic, value in answer.items():
                p = predictive_p([other[statistic] for other in answers.values()], value)
                rows.append({**known, "row": "innocent", "model": name, "statistic": statistic, "value": value,
                             "p": f"{p.p:.3g}", "method": p.method})  # fmt: skip
    rows += [
        {"row": "separation", "kind": removal, "statistic": statistic, "tests": len(own), "auc": float(np.mean(own))}
        for (removal, statistic), own in areas.items()
    ]
    generator = run.generator("benchmark/false key queries")
    keys = [Asked.draw(k, pool, options.key_queries, generator) for k in random_keys(options.keys, pool, run)]
    return rows + (false_alarms(keys, nulls, others, run) if keys else [])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("contest/removal.yaml"))
    parser.add_argument("--scheme", default="mea_defender")
    parser.add_argument("--pipeline", type=Path, default=Path(), help="Its folder: data, models, key.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="Of the contest, in place of the pipeline.")
    parser.add_argument(
        "--removals", nargs="+", default=["ftal_1000_gently", "ftal_1000", "ftal_5000", "rtal_1000", "wrk"]
    )
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=16, help="False keys.")
    parser.add_argument("--key-queries", type=int, default=150)
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--work", type=Path, default=Path(".hallmark/removal"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/score_statistic.csv"))
    options = parser.parse_args()
    rows = measure(options)
    artifacts.write_csv(options.out, [{**dict.fromkeys(COLUMNS), **row} for row in rows], COLUMNS)
    for row in rows:
        if row["row"] != "innocent":
            print({name: value for name, value in row.items() if value is not None})


if __name__ == "__main__":
    main()
