"""The rows of a contest of watermarks as contest.csv (tidy), contest.md and pictures, one table a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hallmark import artifacts, plots
from hallmark.contest.common import markdown_table, mean_spread, read_rows, written
from hallmark.contest.watermark import pictures
from hallmark.contest.watermark.plan import COLUMNS, GroupPlan, Plan
from hallmark.errors import UserError

Row = dict[str, Any]

ORDER = ("scheme", "thief", "seed")
VICTIM = {
    "accuracy": "victim_accuracy", "accuracy lost": "accuracy_loss", "WSR": "victim_wsr", "WFPR": "victim_wfpr",
    "plain": "victim_plain", "unmarked: WSR": "unmarked_wsr", "unmarked: WFPR": "unmarked_wfpr",
    "unmarked: plain": "unmarked_plain",
}  # fmt: skip
"""The columns of the table of victims, and where their figures are."""
COPY = {
    "accuracy": "copy_accuracy", "agreement": "copy_agreement", "WSR": "copy_wsr", "WFPR": "copy_wfpr",
    "plain": "copy_plain", "unmarked copy: WSR": "unmarked_copy_wsr", "unmarked copy: WFPR": "unmarked_copy_wfpr",
    "unmarked copy: plain": "unmarked_copy_plain",
}  # fmt: skip
"""The same of the table of copies."""
PAPER = (
    ("victim_accuracy", "victim accuracy"), ("victim_wsr", "victim WSR"), ("victim_wfpr", "victim WFPR"),
    ("copy_accuracy", "copy accuracy"), ("copy_wsr", "copy WSR"), ("copy_wfpr", "copy WFPR"),
)  # fmt: skip


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv, contest.md and a picture of each group; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.watermark.run` writes them.

    Raises:
        UserError: no cells of these parameters, or damaged ones.
    """
    rows, stale = read(folders, plan)
    if not rows:
        raise UserError(f"{', '.join(map(str, folders))}: no cells of these parameters; run the contest first")
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    drawn = {}
    for name, group in plan.contest.groups.items():
        figure = pictures.draw(group, of_group(rows, group), {t: plan.thief(t) for t in group.thieves})
        if figure is not None:
            drawn[name] = f"{name}.png"
            plots.save(figure, out / drawn[name])
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale, drawn).encode())
    return written("watermark-contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells of the plan, sorted, and how many were left out.

    Raises:
        UserError: a file is damaged.
    """

    def hashes(seed: int) -> set[str]:
        return {plan.cell_hash(each, thief) for each in plan.victims([seed]) for thief in each.thieves}

    return read_rows(folders, COLUMNS, ORDER, hashes)


def of_group(rows: Sequence[Row], group: GroupPlan) -> dict[tuple[str, str], list[Row]]:
    """The group's rows that have figures, by scheme and thief in the group's order; cells without any are left out."""
    wanted = [(scheme, thief) for scheme in group.schemes for thief in group.thieves]
    found = {
        cell: [row for row in rows if (row["scheme"], row["thief"]) == cell and row["error"] is None] for cell in wanted
    }
    return {cell: own for cell, own in found.items() if own}


def render(rows: Sequence[Row], plan: Plan, stale: int, drawn: Mapping[str, str]) -> str:
    """contest.md."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "# The contest of watermarks",
        "",
        f"{len(rows):,} cells, seeds {', '.join(map(str, seeds))}; per cent, mean ± standard deviation over the seeds.",
        "Every row is in [contest.csv](contest.csv).",
        "WSR: verification queries called as claimed. WFPR: the scheme's own negatives called as they should not be.",
        "Plain: plain images of the mark's classes called its target. Unmarked: the victim's twin without a mark,",
        "asked the same; unmarked copy: what the same thief makes of it. A mark that survives is one whose copy's WSR",
        "is far above the WFPR and above both controls.",
        "",
    ]
    if stale:
        lines += [f"{stale:,} cells that other parameters gave are left out.", ""]
    for name, group in plan.contest.groups.items():
        lines += _group(group, of_group(rows, group), drawn.get(name))
    failures = [row for row in rows if row["error"] is not None]
    if failures:
        lines += ["## Cells without a result", ""]
        lines += markdown_table(
            ("cell", "why"), [[f"{row['scheme']}/{row['thief']} seed {row['seed']}", row["error"]] for row in failures]
        )
    return "\n".join(lines).rstrip() + "\n"


def _group(group: GroupPlan, found: Mapping[tuple[str, str], Sequence[Row]], picture: str | None) -> list[str]:
    lines = [f"## {group.title}", ""]
    if not found:
        return [*lines, "Not measured yet.", ""]
    if picture:
        lines += [f"![{group.title}]({picture})", ""]
    if group.picture == "matrix":
        lines += _matrix(group, found)
    victims: dict[str, dict[int, Row]] = {}
    for (scheme, _), rows in found.items():  # a victim is the same in the rows of all its thieves
        victims.setdefault(scheme, {}).update({row["seed"]: row for row in rows})
    body = [
        [scheme, str(len(own)), *(percent([*own.values()], value) for value in VICTIM.values())]
        for scheme, own in victims.items()
    ]
    lines += ["Victims:", "", *markdown_table(("scheme", "seeds", *VICTIM), body)]
    body = [
        [scheme, thief, str(len(rows)), *(percent(rows, value) for value in COPY.values())]
        for (scheme, thief), rows in found.items()
    ]
    lines += ["Copies:", "", *markdown_table(("scheme", "thief", "seeds", *COPY), body)]
    return [*lines, *_paper(group, found)]


def _matrix(group: GroupPlan, found: Mapping[tuple[str, str], Sequence[Row]]) -> list[str]:
    """The copies' success, schemes x thieves, the paper's in brackets."""
    body = []
    for scheme in group.schemes:
        line = [scheme]
        for thief in group.thieves:
            paper = group.paper.get(f"{scheme}/{thief}")
            theirs = "" if paper is None or paper.copy_wsr is None else f" ({paper.copy_wsr:g})"
            line.append(percent(found.get((scheme, thief), []), "copy_wsr") + theirs)
        body.append(line)
    note = "; the paper's in brackets" if group.paper else ""
    return [f"Copy's WSR, victims x thieves{note}:", "", *markdown_table(("victim", *group.thieves), body)]


def _paper(group: GroupPlan, found: Mapping[tuple[str, str], Sequence[Row]]) -> list[str]:
    """The paper's figures beside ours."""
    shown = {cell: group.paper[f"{cell[0]}/{cell[1]}"] for cell in found if f"{cell[0]}/{cell[1]}" in group.paper}
    columns = [(name, text) for name, text in PAPER if any(getattr(p, name) is not None for p in shown.values())]
    if not columns:
        return []
    header = ["scheme", "thief", *(word for _, text in columns for word in (f"{text}: ours", "paper"))]
    body = []
    for (scheme, thief), paper in shown.items():
        line = [scheme, thief]
        for name, _ in columns:
            theirs = getattr(paper, name)
            line += [percent(found[scheme, thief], name), "-" if theirs is None else f"{theirs:g}"]
        body.append(line)
    note = f" {group.paper_note}" if group.paper_note else ""
    return [f"Beside the paper.{note}", "", *markdown_table(header, body)]


def percent(rows: Sequence[Row], value: str) -> str:
    """Mean and spread of a figure over the seeds, per cent; ``-`` where no row has it."""
    return mean_spread([100 * row[value] for row in rows if row[value] is not None]).replace("-0.0", "0.0")
