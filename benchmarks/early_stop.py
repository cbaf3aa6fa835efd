"""How many questions a verdict needs when the asking stops early, and whether it is the same verdict.

python benchmarks/early_stop.py --pipeline . --judge-seeds 0 1 2 3 4 --out docs/results/early_stop.csv

The finished pipeline's suspects and controls, and each of its null models as one more innocent, judged by the others.
Every model is judged twice with the same questions: by all of them, and with ``stop_early``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark import artifacts, runtime
from hallmark.config import RuntimeConfig, StopEarly, VerifyOwnership, read_params, section
from hallmark.data.dataset import ImageDataset
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.suspects import Suspect
from hallmark.verification import answers, panel, questions
from hallmark.verification.questions import Questions

COLUMNS = ("judge_seed", "model", "role", "wsr", "decision", "early_decision", "watermark_queries", "questions", "of")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=Path(), help="folder in which the pipeline has run")
    parser.add_argument("--judge-seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--least", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    run = runtime.start(RuntimeConfig(device="auto", threads=1, precision="fp32", seed=0))
    params = read_params(options.pipeline / "params.yaml")
    whole = section(params, "verify_ownership", VerifyOwnership, options.pipeline / "params.yaml")
    whole = whole.model_copy(update={"statistics": ["hits"]})  # the only one that can end the asking
    early = whole.model_copy(update={"stop_early": StopEarly(block=options.block, least=options.least)})
    table = [row for seed in options.judge_seeds for row in rows(options.pipeline, seed, whole, early, run)]
    for role in dict.fromkeys(row["role"] for row in table):
        own = [row for row in table if row["role"] == role]
        same = sum(row["decision"] == row["early_decision"] for row in own)
        accused = sum(row["early_decision"] == "stolen" for row in own)
        share = sum(row["questions"] for row in own) / sum(row["of"] for row in own)
        count = sum(row["watermark_queries"] for row in own) / len(own)
        print(f"{role:8} {len(own):4} verdicts, {same} the same, {accused} stolen; {count:.0f} watermark queries and "
              f"{share:.0%} of all questions on average")  # fmt: skip
    if options.out is not None:
        artifacts.write_csv(options.out, table, COLUMNS)
    return table


def rows(
    root: Path, seed: int, whole: VerifyOwnership, early: VerifyOwnership, run: Runtime
) -> Iterator[dict[str, Any]]:
    """The table of one draw of questions."""
    key, pool = keyfile.load(root / "models/victim_key.age"), ImageDataset.load(root / "data/clean/test.safetensors")
    asked = questions.draw(key, pool, queries=whole.queries, decoys=whole.decoys, judge_seed=seed)
    nulls = panel.ask_nulls(asked, root / "models/nulls", run)
    case = Case(asked, whole, early)
    suspects = panel.open_models({"victim": root / "models/victim"} | folders(root / "models/extracted"), key, run)
    controls = panel.open_models({"unmarked": root / "models/unmarked"} | folders(root / "models/controls"), key, run)
    reference = float(answers.ask(asked, suspects["victim"])[0].correct.mean())
    groups = [("suspect", suspects, nulls), ("control", controls, nulls)]
    for name, suspect in panel.open_models(folders(root / "models/nulls"), key, run).items():
        groups.append(("null", {name: suspect}, [row for row in nulls if row["model"] != name]))
    for role, group, others in groups:
        for row in case.judged(group, others, reference):
            yield {"judge_seed": seed, "role": role, **row}


@dataclass(frozen=True)
class Case:
    """The questions and both rules."""

    asked: Questions
    whole: VerifyOwnership
    early: VerifyOwnership

    def judged(
        self, opened: Mapping[str, Suspect], nulls: Sequence[Mapping[str, Any]], reference: float
    ) -> Iterator[dict[str, Any]]:
        """Both verdicts on models that are judged together."""
        enough = panel.stopping(nulls, self.early, opened)
        parts = {name: answers.put(self.asked, suspect, enough[name]) for name, suspect in opened.items()}
        stopped = {name: answers.read(short, answer) for name, (short, answer) in parts.items()}
        full = {name: answers.read(self.asked, suspect.scores(self.asked.images)) for name, suspect in opened.items()}
        first, second = (
            panel.judge({"suspect": given, "control": {}}, nulls, reference, rule, {})
            for given, rule in ((full, self.whole), (stopped, self.early))
        )
        for one, other in zip(first, second, strict=True):
            yield {
                "model": one.name,
                "wsr": one.wsr.rate,
                "decision": one.decision,
                "early_decision": other.decision,
                "watermark_queries": other.wsr.count,
                "questions": len(parts[one.name][0].images),
                "of": len(self.asked.images),
            }


def folders(root: Path) -> dict[str, Path]:
    """Models by name."""
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}


if __name__ == "__main__":
    main()
