"""The rows of a contest of watermarks as contest.csv (tidy), contest.md and pictures, one table a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hallmark import artifacts, plots
from hallmark.contest import marks
from hallmark.contest import rows as rows_of
from hallmark.contest.rows import Row, markdown_table, percent
from hallmark.contest.watermark import pictures
from hallmark.contest.watermark.plan import COLUMNS, Plan, WatermarkGroup

ORDER = ("scheme", "thief", "seed")
VICTIM = {
    "accuracy": "victim_accuracy", "accuracy lost": "accuracy_loss", "WSR": "victim_wsr", "WFPR": "victim_wfpr",
    "unseen": "victim_unseen", "plain": "victim_plain", "unmarked: WSR": "unmarked_wsr",
    "unmarked: WFPR": "unmarked_wfpr", "unmarked: unseen": "unmarked_unseen", "unmarked: plain": "unmarked_plain",
}  # fmt: skip
"""The columns of the table of victims, and where their figures are."""
COPY = {
    "accuracy": "copy_accuracy", "agreement": "copy_agreement", "WSR": "copy_wsr", "WFPR": "copy_wfpr",
    "unseen": "copy_unseen", "plain": "copy_plain", "unmarked copy: WSR": "unmarked_copy_wsr",
    "unmarked copy: WFPR": "unmarked_copy_wfpr", "unmarked copy: unseen": "unmarked_copy_unseen",
    "unmarked copy: plain": "unmarked_copy_plain",
}  # fmt: skip
"""The same of the table of copies."""


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv, contest.md and a picture of each group; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.watermark.run` writes them.

    Raises:
        UserError: no cells of these parameters, or damaged ones.
    """
    rows, stale = read(folders, plan)
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    drawn = {}
    for name, group in plan.contest.groups.items():
        found = {cell: own for cell, own in of_group(rows, group).items() if own}
        figure = pictures.draw(group, found, {t: plan.thief(t) for t in group.thieves})
        if figure is not None:
            drawn[name] = f"{name}.png"
            plots.save(figure, out / drawn[name])
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale, drawn).encode())
    return rows_of.written("watermark-contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells of the plan, sorted, and how many were left out.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    return rows_of.read(folders, COLUMNS, ORDER, plan)


def of_group(rows: Sequence[Row], group: WatermarkGroup) -> dict[tuple[str, str], list[Row]]:
    """The group's rows that have figures, by scheme and thief in the group's order; of some cells there may be none."""
    wanted = [(scheme, thief) for scheme in group.schemes for thief in group.thieves]
    return {
        cell: [row for row in rows if (row["scheme"], row["thief"]) == cell and row["error"] is None] for cell in wanted
    }


def render(rows: Sequence[Row], plan: Plan, stale: int, drawn: Mapping[str, str]) -> str:
    """contest.md."""
    lines = rows_of.heading(
        "The contest of watermarks",
        rows,
        stale,
        "Rates and accuracies are per cent.",
        "WSR: verification queries called as claimed. WFPR: the scheme's own negatives called as they should not be.",
        "Unseen: the same of negatives that the victim was not taught: its two classes combined in yet other ways.",
        "Plain: plain images of the mark's classes called its target. Unmarked: the victim's twin without a mark,",
        "asked the same; unmarked copy: what the same thief makes of it. A mark that survives is one whose copy's WSR",
        "is far above the WFPR and above both controls.",
    )
    for name, group in plan.contest.groups.items():
        lines += _group(group, of_group(rows, group), drawn.get(name), plan.contest.seeds)
    lines += rows_of.failures(rows, marks.cell_name)
    return "\n".join(lines).rstrip() + "\n"


def _group(
    group: WatermarkGroup,
    found: Mapping[tuple[str, str], Sequence[Row]],
    picture: str | None,
    seeds: Sequence[int],
) -> list[str]:
    lines = [f"## {group.title}", ""]
    if not any(found.values()):
        return [*lines, "Not measured yet.", ""]
    lines += marks.measured(found, seeds)
    if picture:
        lines += [f"![{group.title}]({picture})", ""]
    if group.picture == "matrix":
        lines += _matrix(group, found)
    body = [
        [*victim, str(len(own)), *(percent(own, value) for value in VICTIM.values())]
        for victim, own in marks.of_victims(found).items()
    ]
    lines += ["Victims:", "", *markdown_table(("scheme", "seeds", *VICTIM), body)]
    body = [
        [scheme, thief, str(len(rows)), *(percent(rows, value) for value in COPY.values())]
        for (scheme, thief), rows in found.items()
    ]
    lines += ["Copies:", "", *markdown_table(("scheme", "thief", "seeds", *COPY), body)]
    return [*lines, *marks.beside_paper(group, found, ("scheme", "thief"), lambda name: name)]


def _matrix(group: WatermarkGroup, found: Mapping[tuple[str, str], Sequence[Row]]) -> list[str]:
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
