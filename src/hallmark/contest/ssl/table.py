"""The rows of a contest of encoders as contest.csv (tidy) and contest.md, the tables of each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hallmark import artifacts
from hallmark.contest import marks
from hallmark.contest import rows as rows_of
from hallmark.contest.common import network_name
from hallmark.contest.rows import Row, markdown_table, mean_spread, percent
from hallmark.contest.ssl.plan import COLUMNS, Plan, SslGroup
from hallmark.ssl.measures import READERS

ORDER = ("scheme", "victim_architecture", "thief", "seed")
FIGURES = {
    "accuracy": "linear_accuracy",
    **{f"WSR {reader}": f"{reader}_wsr" for reader in READERS},
    **{f"WFPR {reader}": f"{reader}_wfpr" for reader in READERS},
    **{f"plain {reader}": f"{reader}_plain" for reader in READERS},
    "own WSR": "own_wsr",
}
"""The columns of a table, and where a model's figures are."""


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv and contest.md; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.ssl.run` writes them.

    Raises:
        UserError: no cells of these parameters, or damaged ones.
    """
    rows, stale = read(folders, plan)
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale).encode())
    return rows_of.written("ssl-contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells of the plan, sorted, and how many were left out.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    return rows_of.read(folders, COLUMNS, ORDER, plan)


def render(rows: Sequence[Row], plan: Plan, stale: int) -> str:
    """contest.md."""
    lines = rows_of.heading(
        "The contest of encoders",
        rows,
        stale,
        "Rates and accuracies are per cent.",
        "Accuracy: of the user's linear probe on held-out images. WSR: watermark samples called the target; WFPR:",
        "randomly mixed samples called the target; plain: plain images of the source classes called the target. Each",
        "is read through the user's linear probe, the user's MLP probe, and the judge's nearest class mean (features).",
        "Own WSR: of a mark that has no classes, by its own measure. Scheme none is the control: never marked, asked",
        "the same.",
    )
    for group in plan.contest.groups.values():
        lines += _group(group, [row for row in rows if row["error"] is None], plan)
    lines += rows_of.failures(rows, marks.cell_name)
    return "\n".join(lines).rstrip() + "\n"


def _group(group: SslGroup, rows: Sequence[Row], plan: Plan) -> list[str]:
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
    body = [
        [*victim, str(len(own)), _lost(own, rows), *_figures(own, "victim")]
        for victim, own in marks.of_victims(found).items()
    ]
    header = ("scheme", "architecture", "seeds", "accuracy lost", *FIGURES)
    lines += ["Victims:", "", *markdown_table(header, body)]
    body = [[*cell, str(len(own)), *_figures(own, "copy")] for cell, own in found.items()]
    lines += ["Copies:", "", *markdown_table(("scheme", "architecture", "thief", "seeds", *FIGURES), body)]
    # The paper's are of the linear probe.
    paper = marks.beside_paper(
        group, found, ("scheme", "architecture", "thief"), lambda name: name.replace("_", "_linear_", 1)
    )
    return [*lines, *paper]


def _figures(rows: Sequence[Row], model: str) -> list[str]:
    return [percent(rows, f"{model}_{name}") for name in FIGURES.values()]


def _lost(own: Sequence[Row], rows: Sequence[Row]) -> str:
    """Linear accuracy of the unmarked encoder of the same seed and architecture, less the victim's; in points."""
    points = []
    for row in own:
        same = ("seed", "victim_architecture")
        twin = next((r for r in rows if r["method"] == "none" and all(r[n] == row[n] for n in same)), None)
        if twin is not None:
            points.append(100 * (twin["victim_linear_accuracy"] - row["victim_linear_accuracy"]))
    return mean_spread(points)
