"""The pipeline of dvc.yaml over several seeds without DVC, its independent stages side by side.

python benchmarks/pipeline.py --changes benchmarks/cifar10.yaml --set prepare_data.path=FOLDER --seeds 0 1 2 --jobs 12 \
    --work /tmp/cifar10 --out docs/results/cifar10.csv

For a GPU machine that is lent bare, without DVC and MLflow: the commands and the order are dvc.yaml's, nothing is
cached or recorded, and stages whose inputs are there run at once, as many as --jobs.  --changes is a file of dotted
names of params.yaml and what stands there instead.  --without leaves stages out; without purify_data the victim is
trained on the clean images.  Every seed has its folder WORK/seed-SEED with parameters, data, models, reports and logs.

Rows of --out: the verdict on every model of every seed, with the training's figures of verdicts.csv; beside it
NAME_seconds.csv has the wall-clock seconds of every stage, which wait for one another's share of the device.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import operator
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hallmark import artifacts, config
from hallmark.contest.parameters import override
from hallmark.errors import UserError
from hallmark.progress import progress
from hallmark.verification import present

ROOT = Path(__file__).resolve().parents[1]
PURIFIED, CLEAN = Path("data/purified/train.safetensors"), Path("data/clean/train.safetensors")
POLL = 0.2
"""Seconds between two looks at the running stages."""


@dataclass(frozen=True)
class Task:
    """A stage of a seed, one of a matrix.

    Attributes:
        name: as DVC names it.
        deps, outs: paths in the seed's folder.
    """

    seed: int
    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def at(values: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name, of nested mappings."""
    return functools.reduce(operator.getitem, name.split("."), values)


def filled(text: str, values: Mapping[str, Any]) -> str:
    """``${a.b}`` replaced by values of nested mappings."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(at(values, match[1])), text)


def expanded(name: str, stage: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The stages that a stage of dvc.yaml stands for, and what its placeholders mean in each."""

    def block(reference: str) -> Mapping[str, Any]:
        return at(params, reference.removeprefix("${").removesuffix("}"))

    if "matrix" in stage:
        ((variable, reference),) = stage["matrix"].items()
        for key in block(reference):
            yield f"{name}@{key}", {"item": {variable: key}}
    elif "foreach" in stage:
        for key, item in block(stage["foreach"]).items():
            yield f"{name}@{key}", {"key": key, "item": item}
    else:
        yield name, {}


def changed(params: dict[str, Any], path: Path | None, changes: Sequence[str]) -> dict[str, Any]:
    """params.yaml's content, in place, with the values of a file of dotted names and of NAME=VALUE words."""
    content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) if path else {}
    for change in (*(f"{name}={json.dumps(value)}" for name, value in content.items()), *changes):  # JSON is YAML
        override(params, change)
    return params


def tasks(pipeline: Mapping[str, Any], params: Mapping[str, Any], seed: int, without: Sequence[str]) -> list[Task]:
    """Every stage of a seed that is not left out."""
    found = []
    for name, stage in pipeline["stages"].items():
        if name in without:
            continue
        body = stage.get("do", stage)
        for full, values in expanded(name, stage, params):
            paths = [[filled(str(p), values) for p in body[kind]] for kind in ("deps", "outs")]
            found.append(Task(seed, full, filled(body["cmd"], values), tuple(paths[0]), tuple(paths[1])))
    return found


def start(task: Task, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    """The task's process, in its seed's folder."""
    if not (folder / PURIFIED).exists() and str(PURIFIED) in task.deps:
        (folder / PURIFIED).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / CLEAN, folder / PURIFIED)
    environment = os.environ | {
        "HALLMARK_TRACKING": "off",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    (folder / "logs").mkdir(exist_ok=True)
    words = shlex.split(task.command)
    assert words[0] == "python", task.command
    with open(folder / "logs" / f"{task.name}.log", "wb") as log:
        return subprocess.Popen([sys.executable, *words[1:]], cwd=folder, env=environment, stdout=log, stderr=log)


def reads(task: Task, maker: Task) -> bool:
    """Does a task read an output of another, files within one, or a folder that holds one?"""
    return any(f"{d}/".startswith(f"{out}/") or f"{out}/".startswith(f"{d}/") for d in task.deps for out in maker.outs)


def run(every: Sequence[Task], work: Path, jobs: int, threads: int) -> tuple[list[dict[str, Any]], list[Task]]:
    """Run all tasks, each when the tasks that make what it reads are done.

    Returns:
        the seconds of each task that was done, and the tasks that failed or could not start.
    """
    needs = {t: {m for m in every if m is not t and m.seed == t.seed and reads(t, m)} for t in every}
    waiting, done, failed = list(every), set[Task](), list[Task]()
    running: dict[Task, tuple[subprocess.Popen[bytes], float]] = {}
    seconds = []
    with progress(len(every), "stages", "stage") as advance:
        while waiting or running:
            ready = next((t for t in waiting if needs[t] <= done), None)
            if ready is not None and len(running) < jobs:
                waiting.remove(ready)
                running[ready] = start(ready, work / f"seed-{ready.seed}", threads), time.perf_counter()
                continue
            if not running:
                return seconds, failed + waiting
            time.sleep(POLL)
            for task, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[task]
                advance(1)
                if process.returncode:
                    failed.append(task)
                    print(f"seed {task.seed}: {task.name} failed", file=sys.stderr)
                    continue
                done.add(task)
                spent = time.perf_counter() - started
                seconds.append({"seed": task.seed, "stage": task.name, "seconds": round(spent, 1)})
    return seconds, failed


def verdicts(work: Path, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a seed's verdicts.csv, if it has one."""
    path = work / f"seed-{seed}/reports/verify_ownership/verdicts.csv"
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            yield from ({"seed": seed, **row} for row in csv.DictReader(file))


def main() -> None:
    """Run every seed and collect the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=Path, help="YAML: dotted names of params.yaml and other values")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--without", nargs="*", default=[], metavar="STAGE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    yaml = YAML(typ="safe", pure=True)
    params = changed(config.read_params(ROOT / "params.yaml"), arguments.changes, arguments.set)
    pipeline = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    if unknown := set(arguments.without) - pipeline["stages"].keys():
        raise UserError(f"--without {min(unknown)}: dvc.yaml has no such stage")
    every: list[Task] = []
    for seed in arguments.seeds:
        params["runtime"]["seed"] = seed
        folder = arguments.work / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(params, file)
        every += tasks(pipeline, params, seed, arguments.without)
    seconds, failed = run(every, arguments.work, arguments.jobs, params["runtime"]["threads"])
    rows = [row for seed in arguments.seeds for row in verdicts(arguments.work, seed)]
    artifacts.write_csv(arguments.out, rows, ("seed", *present.COLUMNS))
    timed = arguments.out.with_name(f"{arguments.out.stem}_seconds.csv")
    artifacts.write_csv(timed, seconds, ("seed", "stage", "seconds"))
    for row in rows:
        print(*(row[name] for name in ("seed", "model", "decision", "accuracy", "wsr", "wfpr", "plain_to_target")))
    if failed:
        names = ", ".join(f"seed {t.seed} {t.name}" for t in failed)
        raise SystemExit(f"failed or not started: {names}; see {arguments.work}/seed-*/logs")


if __name__ == "__main__":
    main()
