"""The rows of a contest of encoders as contest.csv (tidy) and contest.md, the tables of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hallmark import artifacts
from hallmark.contest.common import markdown_table, mean_spread, network_name, read_rows, written
from hallmark.contest.ssl.plan import COLUMNS, GroupPlan, Plan
from hallmark.contest.watermark.table import percent
from hallmark.errors import UserError
from hallmark.ssl.measures import READERS

Row = dict[str, Any]

ORDER = ("scheme", "victim_architecture", "thief", "seed")
FIGURES = {
    "accuracy": "linear_accuracy",
    **{f"WSR {reader}": f"{reader}_wsr" for reader in READERS},
    **{f"WFPR {reader}": f"{reader}_wfpr" for reader in READERS},
    **{f"plain {reader}": f"{reader}_plain" for reader in READERS},
    "own WSR": "own_wsr",
}
"""The columns of a table, and where a model's figures are."""
PAPER = (
    ("victim_accuracy", "victim accuracy", "victim_linear_accuracy"),
    ("victim_wsr", "victim WSR", "victim_linear_wsr"),
    ("copy_accuracy", "copy accuracy", "copy_linear_accuracy"),
    ("copy_wsr", "copy WSR", "copy_linear_wsr"),
)


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv and contest.md; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.ssl.run` writes them.

    Raises:
        UserError: no cells of these parameters, or damaged ones.
    """
    rows, stale = read(folders, plan)
    if not rows:
        raise UserError(f"{', '.join(map(str, folders))}: no cells of these parameters; run the contest first")
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale).encode())
    return written("ssl-contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells of the plan, sorted, and how many were left out.

    Raises:
        UserError: a file is damaged.
    """

    def hashes(seed: int) -> set[str]:
        return {plan.cell_hash(each, thief) for each in plan.victims([seed]) for thief in each.thieves}

    return read_rows(folders, COLUMNS, ORDER, hashes)


def render(rows: Sequence[Row], plan: Plan, stale: int) -> str:
    """contest.md."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# The contest of encoders",
        "",
        f"{len(rows):,} cells, seeds {', '.join(map(str, seeds))}; per cent, mean ± standard deviation over the seeds.",
        "Every row is in [contest.csv](contest.csv).",
        "Accuracy: of the user's linear probe on held-out images. WSR: watermark samples called the target; WFPR:",
        "randomly mixed samples called the target; plain: plain images of the source classes called the target. Each",
        "is read through the user's linear probe, the user's MLP probe, and the judge's nearest class mean (features).",
        "Own WSR: of a mark that has no classes, by its own measure. Scheme none is the control: never marked, asked",
        "the same.",
        "",
    ]
    if stale:
        lines += [f"{stale:,} cells that other parameters gave are left out.", ""]
    for group in plan.contest.groups.values():
        lines += _group(group, [row for row in rows if row["error"] is None], plan)
    failures = [row for row in rows if row["error"] is not None]
    if failures:
        named = [[f"{row['scheme']}/{row['thief']} seed {row['seed']}", row["error"]] for row in failures]
        lines += ["## Cells without a result", "", *markdown_table(("cell", "why"), named)]
    return "\n".join(lines).rstrip() + "\n"


def _group(group: GroupPlan, rows: Sequence[Row], plan: Plan) -> list[str]:
    names = {network_name(plan.contest.architectures[each].model_dump()): each for each in group.architectures}
    found: dict[tuple[str, str, str], list[Row]] = {}
    for architecture in names:
        for scheme in group.schemes:
            for thief in group.thieves:
                cell = (scheme, str(architecture), thief)
                own = [r for r in rows if (r["scheme"], r["victim_architecture"], r["thief"]) == cell]
                if own:
                    found[cell] = own
    lines = [f"## {group.title}", ""]
    if not found:
        return [*lines, "Not measured yet.", ""]
    victims: dict[tuple[str, str], dict[int, Row]] = {}
    for (scheme, architecture, _), own in found.items():  # a victim is the same in the rows of all its thieves
        victims.setdefault((scheme, architecture), {}).update({row["seed"]: row for row in own})
    body = [
        [*victim, str(len(own)), _lost(own, rows), *_figures([*own.values()], "victim")]
        for victim, own in victims.items()
    ]
    header = ("scheme", "architecture", "seeds", "accuracy lost", *FIGURES)
    lines += ["Victims:", "", *markdown_table(header, body)]
    body = [[*cell, str(len(own)), *_figures(own, "copy")] for cell, own in found.items()]
    lines += ["Copies:", "", *markdown_table(("scheme", "architecture", "thief", "seeds", *FIGURES), body)]
    return [*lines, *_paper(group, found)]


def _figures(rows: Sequence[Row], model: str) -> list[str]:
    return [percent(rows, f"{model}_{name}") for name in FIGURES.values()]


def _lost(own: Mapping[int, Row], rows: Sequence[Row]) -> str:
    """Linear accuracy of the unmarked encoder of the same seed and architecture, less the victim's; in points."""
    points = []
    for seed, row in own.items():
        same = ("seed", "victim_architecture")
        twin = next((r for r in rows if r["method"] == "none" and all(r[n] == row[n] for n in same)), None)
        if twin is not None and row["seed"] == seed:
            points.append(100 * (twin["victim_linear_accuracy"] - row["victim_linear_accuracy"]))
    return mean_spread(points).replace("-0.0", "0.0")


def _paper(group: GroupPlan, found: Mapping[tuple[str, str, str], Sequence[Row]]) -> list[str]:
    """The paper's figures beside ours, of the linear probe."""
    header = ["scheme", "architecture", "thief", *(word for _, text, _ in PAPER for word in (f"{text}: ours", "paper"))]
    body = []
    for (scheme, architecture, thief), rows in found.items():
        paper = group.paper.get(f"{scheme}/{thief}")
        if paper is not None:
            line = [scheme, architecture, thief]
            for name, _, ours in PAPER:
                theirs = getattr(paper, name)
                line += [percent(rows, ours), "-" if theirs is None else f"{theirs:g}"]
            body.append(line)
    note = f" {group.paper_note}" if group.paper_note else ""
    return [f"Beside the paper.{note}", "", *markdown_table(header, body)] if body else []
