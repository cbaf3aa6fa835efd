"""Does a verdict hang on which questions the judge happens to draw?  The pipeline's models over many judge's seeds.

python benchmarks/judge_seeds.py --pipeline . --judge-seeds 30 --out docs/results/judge_seeds.csv

Suspects and controls of the pipeline are asked all questions of each seed, and judged as by verify_ownership.  The null
models are asked what counts for the hits alone, so that these must be the rule's statistic.  A row a seed and model.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from early_stop import folders

from hallmark import artifacts, config, runtime
from hallmark.config import RuntimeConfig, VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.verification import answers, panel, questions

COLUMNS = ("judge_seed", "model", "role", "decision", "hits", "needed", "p_value", "strongest_control", "control_value")
COLUMNS += ("control_p", "reasons")


def rows(root: Path, seed: int, rule: VerifyOwnership, run: Runtime) -> Iterator[dict[str, Any]]:
    """The verdicts of one draw of questions."""
    key, pool = keyfile.load(root / "models/victim_key.age"), ImageDataset.load(root / "data/clean/test.safetensors")
    asked = questions.draw(key, pool, queries=rule.queries, decoys=rule.decoys, judge_seed=seed)
    models = {"suspect": {"victim": root / "models/victim"}, "control": {"unmarked": root / "models/unmarked"}}
    models["suspect"] |= folders(root / "models/extracted") | folders(root / "models/removed")
    models["control"] |= folders(root / "models/controls")
    given: dict[str, dict[str, answers.Answers]] = {role: {} for role in models}
    inconsistent = {}
    for role, group in models.items():
        for name, suspect in panel.open_models(group, key, run).items():
            given[role][name], consistency = answers.ask(asked, suspect)
            inconsistent[name] = consistency.share
    reference = float(given["suspect"]["victim"].correct.mean())
    counted = asked.only("watermark", "first", "second", "task")
    table = [
        panel.null_row(name, suspect, answers.read(counted, suspect.scores(counted.images)))
        for name, suspect in panel.open_models(folders(root / "models/nulls"), key, run).items()
    ]
    for verdict in panel.judge(given, table, reference, rule, inconsistent):
        test = verdict.tests["hits"]
        yield {
            "judge_seed": seed,
            "model": verdict.name,
            "role": verdict.role,
            "decision": verdict.decision,
            "hits": test.value,
            "needed": test.needed,
            "p_value": test.p_value,
            "strongest_control": test.strongest_control,
            "control_value": test.control_value,
            "control_p": f"{test.control_p:.3g}",
            "reasons": "; ".join(reason for reason in verdict.reasons if reason.startswith("NO")),
        }


def main(words: Sequence[str] | None = None) -> None:
    """Judge, write, and print how often each decision came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=Path(), help="root of a repository in which dvc repro has run")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--first", type=int, default=0, help="of the seeds, which follow one another")
    parser.add_argument("--judge-seeds", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    rule = config.section(config.read_params(options.params), "verify_ownership", VerifyOwnership, options.params)
    if rule.statistics != ["hits"] or rule.stop_early is not None:
        raise UserError(f"{options.params}: verify_ownership: wants statistics [hits] and stop_early null here")
    run = runtime.start(RuntimeConfig(device="auto", threads=1, precision="fp32", seed=0))
    found = []
    for seed in range(options.first, options.first + options.judge_seeds):
        found += rows(options.pipeline, seed, rule, run)
        print(f"judge's seed {seed}: {Counter((row['role'], row['decision']) for row in found)}", flush=True)
        artifacts.write_csv(options.out, found, COLUMNS)
    for name in dict.fromkeys(row["model"] for row in found):
        print(name, dict(Counter(row["decision"] for row in found if row["model"] == name)))


if __name__ == "__main__":
    main()
