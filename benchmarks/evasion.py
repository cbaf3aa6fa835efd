"""What a thief gains who tampers with queries or answers while he is asked: every evasion, at 3.5 points of accuracy.

python benchmarks/evasion.py --models models --data data/clean --nulls-table reports/verify_ownership/nulls.csv \\
    --out docs/results/evasion.csv
python benchmarks/evasion.py --contest contest/removal.yaml --seeds 0 1 2 --work .hallmark/removal \\
    --out docs/results/evasion_seeds.csv

For the victim and each stolen copy, each module of hallmark.evasion and each ``--cost``, the strength is sought that
costs so much accuracy, on labelled query images of the thief (``--calibration`` of them; others are his own, for LOF).
A copy may have learnt from them: what it costs is said of the judge's images.  Then the judge's questions are asked,
drawn from the test images.  The first form asks the pipeline's models as verify_ownership does, whose table of null
models gives the p-values; it reads the key, which this machine must be able to open.  The second asks a scheme's
victims and copies of a contest of removals, each judged alone, by the contest's rule and null models, and makes those
that are not in --work.  Both want the pipeline's diffusion model.  A row a seed, model, evasion and cost: strength,
accuracy and WSR as the judge measures them, the verdict.  Writes a picture of the first cost beside --out.  Run it from
the repository's root.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hallmark import artifacts, config, models, plots, runtime
from hallmark.config import RuntimeConfig, VerifyOwnership
from hallmark.contest.removal import run as removal_run
from hallmark.contest.removal.judging import KeyJudge
from hallmark.contest.removal.plan import VICTIM, Plan
from hallmark.contest.watermark.run import Scene, load_base
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion import model as diffusion_model
from hallmark.errors import UserError
from hallmark.evasion import Evading, Means, registry, strength_at_cost
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.suspects import Majority, Suspect, memory
from hallmark.suspects.adapt import Classes
from hallmark.verification import answers, panel, questions
from hallmark.verification.decision import Verdict
from hallmark.verification.questions import Questions

COLUMNS = (
    "seed", "model", "evasion", "cost", "times", "strength", "accuracy_calibration", "accuracy", "accuracy_lost", "wsr",
    "wfpr", "inconsistent",
    "p_value", "lean", "lean_p_value", "decision", "by", "reasons",
)  # fmt: skip
NONE = "none"
"""The evasion of a thief who does nothing."""


Judge = Callable[[Mapping[str, answers.Answers], Mapping[str, float | None]], list[Verdict]]
"""From the answers of every suspect, and the share of repeated questions it answered otherwise, to their verdicts."""


@dataclass(frozen=True)
class Case:
    """A victim and its copies, and who judges them.

    Attributes:
        suspects: by name, the victim first.
        own: the thief's images, labelled; his copies may have learnt from them.
    """

    seed: int
    suspects: Mapping[str, Suspect]
    own: ImageDataset
    asked: Questions
    judge: Judge
    run: Runtime


def of_pipeline(options: argparse.Namespace, run: Runtime) -> Iterator[Case]:
    """The pipeline's models."""
    rule = config.section(config.read_params(options.params), "verify_ownership", VerifyOwnership, options.params)
    key = keyfile.load(options.models / "victim_key.age")
    pool = ImageDataset.load(options.data / "test.safetensors")
    asked = questions.draw(key, pool, queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)
    own = ImageDataset.load(options.data / "queries.safetensors")
    table = artifacts.read_csv(options.nulls_table, panel.PANEL_COLUMNS)
    folders = {"victim": options.models / "victim"}
    folders |= {path.name: path for path in sorted((options.models / "extracted").iterdir()) if path.is_dir()}
    matched = Classes.match(key.classes, None, {})
    suspects = {
        name: memory.suspect(models.load(folder, run), run, matched, key.shape) for name, folder in folders.items()
    }
    reference = float(answers.ask(asked, suspects["victim"])[0].correct.mean())

    def judge(given: Mapping[str, answers.Answers], inconsistent: Mapping[str, float | None]) -> list[Verdict]:
        repeated = {name: share for name, share in inconsistent.items() if share is not None}
        return panel.judge({"suspect": given, "control": {}}, table, reference, rule, repeated)

    yield Case(run.seed, suspects, own, asked, judge, run)


def of_contest(options: argparse.Namespace) -> Iterator[Case]:
    """A scheme's victims and copies of a contest of removals, a seed at a time."""
    plan, raw = Plan.read(options.contest), Path("data/raw")
    for seed in options.seeds or plan.marks.contest.seeds:
        base = load_base(plan.marks, seed, raw, options.work)
        plays = {
            target.name: removal_run.Play(plan, target, Scene(plan.marks, target.victim, base, raw, options.work))
            for target in plan.targets([seed], [options.scheme])
        }
        found = plays[VICTIM].cast().judge
        if not isinstance(found, KeyJudge):
            raise UserError(f"--scheme {options.scheme}: has no key to ask questions by; choose one that has")
        names = [VICTIM, *(name for name in plays if name != VICTIM)]
        suspects = {name: found.court.suspect(plays[name].attacked()[1]) for name in names}
        asked = found.court.questions(found.key)[0]
        yield Case(seed, suspects, base.queries, asked, partial(alone, found), base.runtime)


def alone(
    judge: KeyJudge, given: Mapping[str, answers.Answers], inconsistent: Mapping[str, float | None]
) -> list[Verdict]:
    """Each judged by itself, as in the contest: nothing is corrected for their number."""
    return [
        replace(judge.court.decide(judge.key, answer, inconsistent[name]), name=name) for name, answer in given.items()
    ]


def thief_side(
    suspect: Suspect, name: str, means: Means, labelled: ImageDataset, cost: float
) -> tuple[Suspect, float, float]:
    """The suspect behind an evasion, the strength, and the accuracy that it has then on the thief's images."""
    module = registry.get(name)

    def hidden(strength: float) -> Suspect:
        return Evading(suspect, module.prepare(means, strength))

    def accuracy(service: Suspect) -> float:
        return float((service.predict(labelled.images) == labelled.labels).float().mean())

    floor = accuracy(suspect) - cost
    strength = strength_at_cost(lambda strength: accuracy(hidden(strength)), module.RANGE, floor)
    found = hidden(strength)
    return found, strength, accuracy(found)


def measure(case: Case, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a model, evasion and cost."""
    run = case.run
    half = min(options.calibration, len(case.own) // 2)
    labelled, images = case.own.subset(torch.arange(half)), case.own.images[half : half + options.images]
    diffusion = diffusion_model.load(options.diffusion, run)
    plain: dict[str, float] = {}
    evasions = [(name, cost) for name in options.only or registry.names() for cost in options.cost]
    for name, cost in [(NONE, 0.0), *evasions]:
        given, figures, inconsistent = {}, {}, {}
        for model, suspect in case.suspects.items():
            hidden, strength, own_accuracy = suspect, 0.0, None
            if name != NONE:
                means = Means(images, run, run.generator(f"evasion/{name}/{model}"), diffusion)
                hidden, strength, own_accuracy = thief_side(suspect, name, means, labelled, cost)
            hidden = hidden if options.times == 1 else Majority(hidden, options.times)
            given[model], consistency = answers.ask(case.asked, hidden)
            inconsistent[model] = consistency.share
            figures[model] = {"strength": strength, "accuracy_calibration": own_accuracy}
        plain = plain or {model: float(answer.correct.mean()) for model, answer in given.items()}
        for verdict in case.judge(given, inconsistent):
            accuracy = verdict.accuracy.rate
            yield {
                "seed": case.seed, "model": verdict.name, "evasion": name, "cost": cost, "times": options.times,
                **figures[verdict.name], "accuracy": accuracy,
                "accuracy_lost": plain[verdict.name] - accuracy, "wsr": verdict.wsr.rate, "wfpr": verdict.wfpr.rate,
                "inconsistent": verdict.inconsistent, "p_value": f"{verdict.tests['hits'].p_value:.3g}",
                **_lean(verdict), "decision": verdict.decision, "by": " ".join(verdict.by),
                "reasons": "; ".join(verdict.reasons),
            }  # fmt: skip


def _lean(verdict: Verdict) -> dict[str, Any]:
    """What its lean says; empty of a model that gives labels only."""
    test = verdict.tests.get(answers.LEAN)
    return {"lean": "", "lean_p_value": ""} if test is None else {
        "lean": test.value, "lean_p_value": f"{test.p_value:.3g}",
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Measure, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--nulls-table", type=Path, default=Path("reports/verify_ownership/nulls.csv"))
    parser.add_argument("--diffusion", type=Path, default=Path("models/diffusion"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--contest", type=Path, help="in place of the pipeline's models: parameters of a contest")
    parser.add_argument("--scheme", default="mea_defender", help="of the contest; one with a key")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the contest, in place of its own")
    parser.add_argument("--work", type=Path, default=Path(".hallmark/removal"), help="the contest's")
    parser.add_argument("--calibration", type=int, default=2000, help="labelled images on which the strength is sought")
    parser.add_argument("--images", type=int, default=4000, help="the thief's images for LOF")
    parser.add_argument("--cost", type=float, nargs="+", default=[0.035], help="accuracies given up, in turn")
    parser.add_argument("--only", nargs="+", help="only these evasions")
    parser.add_argument("--times", type=int, default=1, help="how often every question is asked; a majority counts")
    parser.add_argument("--threads", type=int, help="in place of runtime.threads")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    if options.contest:
        cases = of_contest(options)
    else:
        base = config.section(config.read_params(options.params), "runtime", RuntimeConfig, options.params)
        cases = of_pipeline(
            options, runtime.start(base.model_copy(update={"threads": options.threads or base.threads}))
        )
    rows: list[dict[str, Any]] = []
    for case in cases:
        for row in measure(case, options):
            rows.append(row)
            print({column: row[column] for column in COLUMNS[:-1]}, flush=True)
            artifacts.write_csv(options.out, rows, COLUMNS)
    rows = [row for row in rows if row["cost"] in (0.0, options.cost[0])]
    names, title = list(dict.fromkeys(row["evasion"] for row in rows)), "Watermark success where the evasion costs"
    by_model = {
        model: [mean_wsr(rows, model, name) for name in names] for model in dict.fromkeys(row["model"] for row in rows)
    }
    title += f" {100 * options.cost[0]:g} points of accuracy, or all it can"
    plots.save(plots.rates(names, by_model, {}, title=title), options.out.with_suffix(".png"))


def mean_wsr(rows: Sequence[Mapping[str, Any]], model: str, evasion: str) -> float:
    """Over the seeds."""
    return fmean(row["wsr"] for row in rows if (row["model"], row["evasion"]) == (model, evasion))


if __name__ == "__main__":
    main()
