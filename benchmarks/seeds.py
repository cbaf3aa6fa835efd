"""The pipeline's figures over several seeds, each a whole run as a DVC experiment.

python benchmarks/seeds.py --seeds 0 1 2 --out docs/results/seeds.csv
python benchmarks/seeds.py --seeds 0 1 2 3 4 --until purify_data --set poison_data.attack=none \
    --out docs/results/clean_sets.csv
(a stage named by --until is the only one that is collected)

Every random draw differs between seeds: splits, poisons, initialisations, batches, queries.
Runs that the run cache knows are restored, not repeated.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

from hallmark.stage import flatten

SKIP = ("prepare_data", "poison_data")


def output(*command: str) -> str:
    """Standard output of a command; its messages go to the terminal."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def metrics(experiment: str) -> dict[str, Any]:
    """All metrics.json files of a DVC experiment, which is a Git commit, by the folder under reports/."""
    refs = output("git", "for-each-ref", "--format=%(refname)", "--sort=-creatordate", "refs/exps").split()
    ref = next(ref for ref in refs if ref.endswith(f"/{experiment}"))
    files = output("git", "ls-tree", "-r", "--name-only", ref, "reports").split()
    return {
        str(Path(file).parent.relative_to("reports")): json.loads(output("git", "show", f"{ref}:{file}"))
        for file in files
        if file.endswith("/metrics.json")
    }


def main() -> None:
    """Run, collect the metrics of the report files, write one row a figure and one column a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter")
    parser.add_argument("--until", help="run the pipeline up to this stage only")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    columns: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        name = f"{arguments.out.stem}-{seed}".replace("_", "-")
        changes = [f"--set-param={change}" for change in (f"runtime.seed={seed}", *arguments.set)]
        until = [arguments.until] if arguments.until else []
        if name in output("dvc", "exp", "list", "--name-only").split():
            output("dvc", "exp", "remove", name)
        output("dvc", "exp", "run", "--temp", "--name", name, *changes, *until)
        columns[seed] = {
            f"{folder}: {metric}": value
            for folder, values in metrics(name).items()
            if (folder not in SKIP if arguments.until is None else folder == arguments.until)
            for metric, value in flatten(values, ".").items()
            if isinstance(value, int | float)
        }
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["figure", *(f"seed {seed}" for seed in columns)])
    for figure in sorted(set().union(*columns.values())):
        writer.writerow([figure, *(values.get(figure, "") for values in columns.values())])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(buffer.getvalue(), encoding="utf-8")
    print(buffer.getvalue())


if __name__ == "__main__":
    main()
