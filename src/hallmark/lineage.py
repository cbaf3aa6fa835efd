"""``python -m hallmark lineage PATH``: from an artifact back to the raw data.

The story comes from dvc.lock (commands, parameters, hashes), git (which commit holds that dvc.lock)
and MLflow (the runs that wrote those hashes).  Files on disk are hashed again and compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click
from ruamel.yaml import YAML, YAMLError

from hallmark import artifacts, provenance, tracking
from hallmark.errors import UserError
from hallmark.records import Record, Records
from hallmark.stage import flatten

SHOWN_METRICS = 6


@dataclass
class Link:
    """A file or folder that a stage read or wrote, as dvc.lock records it."""

    path: str
    md5: str
    problem: str | None = None
    """What is wrong with the one on disk, and the remedy."""
    writer: str | None = None
    """The stage that wrote it; None for raw data and code."""


@dataclass
class Step:
    """One stage of the lineage."""

    name: str
    command: str
    parameters: dict[str, Any]
    inputs: list[Link]
    outputs: list[Link]
    run: Record | None = None
    raw: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of the raw files, which lie outside DVC; of the stage that read them."""


@dataclass
class Lineage:
    """All that led to ``path``: the stages that wrote it first, then what they read, and so on."""

    path: str
    commit: str | None
    """The commit that holds this dvc.lock; None if it is not committed."""
    store: str
    steps: list[Step] = field(default_factory=list)
    note: str | None = None
    """Why no run is shown."""

    @property
    def problems(self) -> list[str]:
        """One line for each file that is missing or not as recorded."""
        links = [link for step in self.steps for link in (*step.inputs, *step.outputs)]
        return sorted({f"{link.path}: {link.problem}" for link in links if link.problem})


def trace(path: str, root: Path) -> Lineage:
    """Follow ``path`` back through ``root``/dvc.lock.

    Args:
        path: an output, something inside one, or a folder that holds outputs; relative to ``root``.

    Raises:
        UserError: no or a damaged dvc.lock, or no stage writes ``path``.
    """
    stages = _read_lock(root / "dvc.lock")
    wanted = [name for name, step in stages.items() if any(_overlap(path, out.path) for out in step.outputs)]
    if not wanted:
        raise UserError(
            f"{path}: no stage of dvc.lock writes it; give an output of the pipeline, such as models/victim"
        )
    lineage = Lineage(path, _commit(root), tracking.store_name())
    check, records = _Check(root), None
    try:
        records = Records()
    except UserError as error:  # the story is told without the runs
        lineage.note = str(error)
    while wanted:
        name = wanted.pop(0)
        if name in (step.name for step in lineage.steps):
            continue
        step = stages[name]
        for link in step.inputs:
            writers = [n for n, s in stages.items() if any(_overlap(link.path, out.path) for out in s.outputs)]
            link.writer = ", ".join(writers) or None
            wanted += writers
            # An output on disk is judged where it was written; here, whether the reader saw that version.
            written = {out.path: out.md5 for n in writers for out in stages[n].outputs}.get(link.path)
            if written not in (None, link.md5):
                link.problem = f"{name} read another version than {link.writer} wrote: dvc repro"
            elif not writers or written is None:
                link.problem = check(link)
        for link in step.outputs:
            link.problem = check(link)
        step.raw = _raw(step, root)
        if records is not None:
            step.run = records.find({o.path: o.md5 for o in step.outputs}, {i.path: i.md5 for i in step.inputs})
        lineage.steps.append(step)
    if lineage.note is None and not all(step.run for step in lineage.steps):
        none = "no run" if not any(step.run for step in lineage.steps) else "not every stage's run"
        lineage.note = f"{none} in {lineage.store}: set MLFLOW_TRACKING_URI to the team's server"
    return lineage


def render(lineage: Lineage) -> Iterator[str]:
    """The lines of the tree, roots first; a stage that several others lead to is printed once."""
    steps = {step.name: step for step in lineage.steps}
    yield f"{lineage.path}   dvc.lock of {_short(lineage.commit) if lineage.commit else 'no commit: not committed yet'}"
    shown: set[str] = set()
    first = [s.name for s in lineage.steps if any(_overlap(lineage.path, out.path) for out in s.outputs)]
    for name in first:
        if name not in shown:
            yield from _branch(steps[name], steps, shown, "")
    if lineage.note:
        yield f"runs: {lineage.note}"


def _branch(step: Step, steps: Mapping[str, Step], shown: set[str], indent: str) -> Iterator[str]:
    shown.add(step.name)
    bar = f"{indent}│  "
    yield f"{indent}├─ {step.name}"
    yield f"{bar}command     {step.command}"
    if step.parameters:
        yield f"{bar}parameters  " + ", ".join(f"{name}={value}" for name, value in step.parameters.items())
    if step.run is not None:
        yield from (bar + line for line in _run_lines(step.run))
    for link in step.outputs:
        yield f"{bar}wrote  {_describe(link)}"
    data = [link for link in step.inputs if not _is_code(link)]
    code = [link for link in step.inputs if _is_code(link)]
    if code:
        yield f"{bar}code   " + ", ".join(f"{link.path} {_short(link.md5)}" for link in code)
        yield from (f"{bar}       {link.path}: {link.problem}" for link in code if link.problem)
    for link in data:
        yield f"{bar}read   {_describe(link)}" + ("" if link.writer else "   (raw: no stage writes it)")
    for raw, digest in step.raw.items():
        yield f"{bar}raw    {raw} sha256 {digest}"
    # After the facts, the branches: what the inputs came from.
    for name in dict.fromkeys(n for link in data for n in (link.writer or "").split(", ") if n):
        if name in shown:
            yield f"{bar}├─ {name} (above)"
        else:
            yield from _branch(steps[name], steps, shown, bar)


def _run_lines(run: Record) -> Iterator[str]:
    commit = f", commit {_short(run.commit)}{' with changes' if run.dirty else ''}" if run.commit else ""
    yield f"run         {run.name} {run.run_id} of {run.started}{commit}"
    results = {k: v for k, v in run.metrics.items() if k != "duration_s"}
    # The least nested names are the headline figures.
    chosen = sorted(results, key=lambda name: (name.count("/"), name))[:SHOWN_METRICS]
    if chosen:
        more = f", and {len(results) - len(chosen)} more" if len(results) > len(chosen) else ""
        yield "results     " + ", ".join(f"{name}={results[name]:.4g}" for name in chosen) + more
    if run.environment:
        yield "environment " + ", ".join(f"{name}={value}" for name, value in run.environment.items())


def _describe(link: Link) -> str:
    return f"{link.path} {_short(link.md5)}" + (f"   !! {link.problem}" if link.problem else "")


def _is_code(link: Link) -> bool:
    return link.writer is None and (link.path.endswith(".py") or PurePosixPath(link.path).parts[0] in ("src", "stages"))


def _short(digest: str) -> str:
    return digest[:10]


class _Check:
    """Compares files on disk with what dvc.lock records; hashes each once."""

    def __init__(self, root: Path) -> None:
        self.root, self.known = root, {}

    def __call__(self, link: Link) -> str | None:
        if link.path not in self.known:
            path = self.root / link.path
            self.known[link.path] = artifacts.md5(path) if path.exists() else None
        found = self.known[link.path]
        if found is None:
            return "missing: dvc checkout, or dvc pull if this machine has no copy"
        if found != link.md5:
            return f"changed on disk ({_short(found)}): dvc checkout for the recorded one, dvc repro to build anew"
        return None


def _read_lock(path: Path) -> dict[str, Step]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; run dvc repro first, or call from inside the project")
    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return {name: _step(name, entry) for name, entry in value["stages"].items()}
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({reason}); restore it with git checkout, or run dvc repro") from None


def _step(name: str, entry: Mapping[str, Any]) -> Step:
    def links(kind: str) -> list[Link]:
        return [Link(str(item["path"]), str(item["md5"])) for item in entry.get(kind, [])]

    parameters = {k: v for block in entry.get("params", {}).values() for k, v in flatten(block, ".").items()}
    command = entry["cmd"]
    return Step(
        name, command if isinstance(command, str) else "; ".join(command), parameters, links("deps"), links("outs")
    )


def _raw(step: Step, root: Path) -> dict[str, str]:
    """``raw_sha256`` of the ``meta.json`` that the stage wrote; {} if it wrote none, or none that is as recorded."""
    for link in step.outputs:
        path = root / link.path / "meta.json"
        if link.problem is None and path.is_file():
            meta = artifacts.read_json(path)
            found = meta.get("raw_sha256") if isinstance(meta, dict) else None
            if isinstance(found, dict):
                return {str(name): str(digest) for name, digest in sorted(found.items())}
    return {}


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other or holds it."""
    a, b = PurePosixPath(one), PurePosixPath(other)
    return a == b or a in b.parents or b in a.parents


def _commit(root: Path) -> str | None:
    if provenance.git("status", "--porcelain", "--", "dvc.lock", folder=root):
        return None
    return provenance.git("log", "-1", "--format=%H", "--", "dvc.lock", folder=root) or None


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_context
def main(context: click.Context, path: Path, as_json: bool) -> None:
    """Print where PATH comes from: stages, parameters, hashes, commit and runs, back to the raw data.

    Exit status 1 if a file on disk is missing or is not the recorded one.
    """
    root = provenance.root().resolve()
    full = path.resolve() if not path.is_symlink() else path.parent.resolve() / path.name
    if not full.is_relative_to(root):
        raise UserError(f"{path}: lies outside the project {root}")
    lineage = trace(full.relative_to(root).as_posix(), root)
    if as_json:
        click.echo(json.dumps(asdict(lineage) | {"problems": lineage.problems}, indent=2, ensure_ascii=False))
    else:
        for line in render(lineage):
            click.echo(line)
    if lineage.problems:
        for problem in lineage.problems:
            click.echo(f"hallmark: {problem}", err=True)
        context.exit(1)
