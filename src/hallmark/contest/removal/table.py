"""The rows of a contest of removals as contest.csv (tidy), contest.md and a price list a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hallmark import artifacts, plots
from hallmark.contest import rows as rows_of
from hallmark.contest.removal import pictures
from hallmark.contest.removal.plan import COLUMNS, NONE, VICTIM, Plan
from hallmark.contest.rows import Row, markdown_table, mean_of, mean_spread, percent
from hallmark.verification.decision import INVALID, STOLEN

Found = dict[tuple[str, str], list[Row]]

ORDER = ("scheme", "target", "removal", "seed")
RATES = {
    "accuracy": "accuracy", "change": "accuracy_change", "agrees with victim": "fidelity", "WSR": "wsr",
    "WFPR": "wfpr", "plain": "plain", "runner-up": "runner_up",
}  # fmt: skip
"""The columns of the tables, and where their figures are; per cent."""
DEAREST = 3.0
"""Points of accuracy beyond which a removal is not counted as a way to freedom."""


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv, contest.md and a picture of each scheme; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.removal.run` writes them.

    Raises:
        UserError: no cells of these parameters, or damaged ones.
    """
    rows, stale = read(folders, plan)
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    drawn = {}
    for scheme in plan.marks.contest.schemes:
        if found := of_scheme(rows, scheme, plan):
            drawn[scheme] = f"{scheme}.png"
            plots.save(pictures.price_list(scheme, found), out / drawn[scheme])
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale, drawn).encode())
    return rows_of.written("removal-contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells of the plan, sorted, and how many were left out.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    return rows_of.read(folders, COLUMNS, ORDER, plan)


def of_scheme(rows: Sequence[Row], scheme: str, plan: Plan) -> Found:
    """A scheme's rows that have figures, by target and removal in the plan's order; cells without any are left out."""
    wanted = [(t, r) for t in (*plan.marks.contest.thieves, VICTIM) for r in (NONE, *plan.contest.removals)]
    found = {
        cell: [r for r in rows if (r["scheme"], r["target"], r["removal"]) == (scheme, *cell) and r["error"] is None]
        for cell in wanted
    }
    return {cell: own for cell, own in found.items() if own}


def render(rows: Sequence[Row], plan: Plan, stale: int, drawn: Mapping[str, str]) -> str:
    """contest.md."""
    lines = rows_of.heading(
        "The contest of removals",
        rows,
        stale,
        "Rates and accuracies are per cent.",
        "Accuracy and its change: of the model after the removal, points against before. WSR: verification queries",
        "called as claimed. WFPR: the scheme's own negatives called as they should not be. Plain: plain images of the",
        "mark's classes called its target. Runner-up: queries on which, of all classes but the mark's sources, the",
        "target has the highest score. Score: of marks with a key the lean, how far unmixed images of both source",
        "classes lean to the target; of the others the mean log-odds of what the queries are called. AUC: of that",
        "score, against the null models and the unmarked twin, of models that do the task.",
        f"Stolen: seeds with that verdict (level {plan.contest.rule.alpha:g} each) by hits, which need labels, and by",
        "scores: of marks with a key the pipeline's verdict with all of its controls, of the others that of the null",
        "models alone, for a model that does the task.",
    )
    for scheme in plan.marks.contest.schemes:
        lines += _scheme(scheme, of_scheme(rows, scheme, plan), plan, drawn.get(scheme))
    lines += rows_of.failures(rows, lambda row: f"{row['scheme']}/{row['target']}/{row['removal']} seed {row['seed']}")
    return "\n".join(lines).rstrip() + "\n"


def _scheme(scheme: str, found: Found, plan: Plan, picture: str | None) -> list[str]:
    lines = [f"## {scheme}", ""]
    if not found:
        return [*lines, "Not measured yet.", ""]
    if picture:
        lines += [f"![WSR and score over the change of accuracy]({picture})", ""]
    for target in dict.fromkeys(target for target, _ in found):
        own = {removal: rows for (name, removal), rows in found.items() if name == target}
        lines += [f"{'The victim' if target == VICTIM else f'Copy by {target}'}:", ""]
        header = ("removal", "seeds", *RATES, "score", "highest null: WSR", "highest null: score", "AUC",
                  "stolen by hits", "stolen by scores")  # fmt: skip
        body = [
            [
                removal,
                str(len(rows)),
                *(percent(rows, value) for value in RATES.values()),
                figure(rows, "score"),
                percent(rows, "null_wsr"),
                figure(rows, "null_score"),
                figure([row for row in rows if works(row, plan)], "auc"),
                stolen(rows, "verdict_hits"),
                stolen(rows, "verdict_score"),
            ]
            for removal, rows in own.items()
        ]
        lines += markdown_table(header, body)
        lines += [_price(own, verdict, text) for verdict, text in (("verdict_hits", "hits"),
                                                                  ("verdict_score", "scores"))]  # fmt: skip
        lines += [""]
    return [*lines, *_paper(scheme, found, plan)]


def _price(own: Mapping[str, Sequence[Row]], verdict: str, text: str) -> str:
    """The cheapest removal after which no seed is called stolen, in a sentence, and how many free in some seeds.

    A verdict that is invalid accuses nobody: it counts as freedom, and such removals are counted.
    """
    cheap = {
        removal: change
        for removal, rows in own.items()
        if (change := 100 * mean_of(rows, "accuracy_change")) >= -DEAREST
    }
    caught = {removal: sum(row[verdict] == STOLEN for row in own[removal]) for removal in cheap}
    free = [removal for removal in cheap if not caught[removal]]
    some = [removal for removal in cheap if 0 < caught[removal] < len(own[removal])]
    invalid = [removal for removal in free if any(row[verdict] == INVALID for row in own[removal])]
    tail = f"; in some seeds: {len(some)}." if any(len(rows) > 1 for rows in own.values()) else "."
    if NONE in free:
        return f"By {text}: never called stolen as it is, in any seed; there is nothing to remove."
    if not free:
        return f"By {text}: no removal frees the thief in every seed for {DEAREST:g} points or less{tail}"
    best = max(free, key=lambda removal: cheap[removal])
    change = round(cheap[best], 1) + 0.0  # no zero has a sign
    return (
        f"By {text}: free in every seed by {best}, for {change:+.1f} points of accuracy; freeing removals: "
        f"{len(free)}, of {len(invalid)} the verdict is invalid in a seed or more{tail}"
    )


def works(row: Row, plan: Plan) -> bool:
    """Does the model do the task?  The flat scores of one that does not are far from the null models' as well."""
    return row["accuracy"] >= plan.contest.rule.min_accuracy_share * row["victim_accuracy"]


def stolen(rows: Sequence[Row], verdict: str) -> str:
    """``called of all``, in seeds."""
    return f"{sum(row[verdict] == STOLEN for row in rows)} of {len(rows)}"


def _paper(scheme: str, found: Found, plan: Plan) -> list[str]:
    """The paper's WSR beside ours."""
    body = []
    for (target, removal), rows in found.items():
        theirs = plan.contest.paper.get(f"{scheme}/{target}/{removal}")
        if theirs is not None:
            body.append([target, removal, percent(rows, "accuracy_change"), percent(rows, "wsr"), f"{theirs:g}"])
    if not body:
        return []
    note = f" {plan.contest.paper_note}" if plan.contest.paper_note else ""
    return [
        f"Beside the paper.{note}",
        "",
        *markdown_table(("target", "removal", "change", "WSR: ours", "paper"), body),
    ]


def figure(rows: Sequence[Row], value: str) -> str:
    """Mean and spread of a figure over the seeds; ``-`` where no row has it."""
    return mean_spread([row[value] for row in rows if row[value] is not None], 2)
