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
    **{f"accuracy {reader}": f"{reader}_accuracy" for reader in READERS},
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
        "Accuracy: of held-out images. WSR: watermark samples called the target; WFPR: randomly mixed samples called",
        "the target; plain: plain images of the source classes called the target. Each is read through the user's",
        "linear probe, the user's MLP probe, and the judge's nearest class mean (features). Own WSR: of a mark that",
        "has no classes, by its own measure. Unmarked: an encoder without a mark and of other random streams, asked",
        "the same; unmarked copies: what the same thief makes of it.",
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
                found[cell] = [r for r in rows if (r["scheme"], r["victim_architecture"], r["thief"]) == cell]
    lines = [f"## {group.title}", ""]
    if not any(found.values()):
        return [*lines, "Not measured yet.", ""]
    lines += marks.measured(found, plan.contest.seeds)
    victims = marks.of_victims(found)
    body = [[*victim, str(len(own)), *_lost(own), *_figures(own, "victim")] for victim, own in victims.items()]
    header = ("scheme", "architecture", "seeds", *(f"{reader}: accuracy lost" for reader in READERS), *FIGURES)
    lines += ["Victims:", "", *markdown_table(header, body)]
    body = [[*victim, str(len(own)), *_figures(own, "unmarked")] for victim, own in victims.items()]
    lines += ["Unmarked:", "", *markdown_table(("scheme", "architecture", "seeds", *FIGURES), body)]
    for title, model in (("Copies", "copy"), ("Unmarked copies", "unmarked_copy")):
        body = [[*cell, str(len(own)), *_figures(own, model)] for cell, own in found.items()]
        lines += [f"{title}:", "", *markdown_table(("scheme", "architecture", "thief", "seeds", *FIGURES), body)]
    # The paper's are of the linear probe.
    paper = marks.beside_paper(
        group, found, ("scheme", "architecture", "thief"), lambda name: name.replace("_", "_linear_", 1)
    )
    return [*lines, *paper]


def _figures(rows: Sequence[Row], model: str) -> list[str]:
    return [percent(rows, f"{model}_{name}") for name in FIGURES.values()]


def _lost(rows: Sequence[Row]) -> list[str]:
    """Accuracy of the unmarked encoder less the victim's through each reader, in points."""
    return [
        mean_spread([100 * (row[f"unmarked_{reader}_accuracy"] - row[f"victim_{reader}_accuracy"]) for row in rows])
        for reader in READERS
    ]
