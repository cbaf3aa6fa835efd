"""How the contest's tables tell who beats whom."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hallmark.contest.purification import wording
from hallmark.contest.purification.claims import Duel, duels, name
from hallmark.contest.purification.plan import NONE, Plan
from hallmark.contest.rows import Row, markdown_table

FEWEST = 4
"""Models of a cell from which on their spread is told."""
RESULTS = ("lost", "open", "won", "no attack")
"""Of duels, the worst first."""


def render(rows: Sequence[Row], plan: Plan, title: str) -> list[str]:
    """The duels of ours, and of its repairs that drop, with the rivals, and of ours with its other repairs."""
    ours = plan.contest.ours
    mine, _, repair = ours.partition("/")
    others = [f"{mine}/{other}" for other in plan.contest.sanitizers[mine] if other != repair]
    lines = []
    for one in (ours, *(other for other in others if other.endswith("/drop"))):
        fights = duels(
            rows,
            one,
            lambda row: row["sanitizer"] != mine,
            lambda row: plan.baselines(row["attack"], row["rate"]),
        )
        met = {id(fight.row) for fight in fights}
        attacked = [row for row in rows if row["attack"] != NONE and name(row) == one]
        own = [row for row in attacked if plan.baselines(row["attack"], row["rate"])]
        lines += _fought(fights, f"### {one} against the baselines, {title}", sum(id(row) not in met for row in own))
    if others:
        fights = duels(rows, ours, lambda row: row["sanitizer"] == mine, lambda row: ())
        lines += _fought(fights, f"### {ours} against its other repairs, {title}")
    return lines


def _fought(fights: Sequence[Duel], title: str, unmet: int = 0) -> list[str]:
    results = [fight.result for fight in fights]
    counts = ", ".join(f"{results.count(each)} {each}" for each in RESULTS)
    mutual = sum(bool(fight.mutual) for fight in fights if fight.result == "won")
    return [
        title,
        "",
        "Won against a rival: attack success not higher, or accuracy higher by more than the attack success is; so of",
        "two rows each may win against the other.",
        "The best rival is that of the highest accuracy - attack success. A set is lost if any rival is not beaten (by",
        f"how many points its attack success is lower; ±, of single rows of {FEWEST} models or more: standard error),",
        "open if rivals of the plan have no figures yet (one that failed has lost), and no attack if the raw attack",
        "success is below 50 %.",
        "",
        f"{counts}."
        + (f" On {mutual} of those won a rival wins as well, by the same rule turned round." if mutual else "")
        + (f" {unmet} more, on which no rival has figures, are not listed." if unmet else ""),
        "",
        *markdown_table(
            (
                "set",
                "result",
                "ASR",
                "accuracy",
                "best rival",
                "its ASR",
                "its accuracy",
                "rivals",
                "lost to",
                "missing",
            ),
            [_duel(fight) for fight in sorted(fights, key=lambda fight: RESULTS.index(fight.result))],
        ),
    ]


def _duel(fight: Duel) -> list[str]:
    own, best = fight.row, fight.best
    return [
        wording.set_name(own),
        f"**{fight.result}**" if fight.result == "lost" else fight.result,
        wording.percent(own["asr"]),
        wording.percent(own["accuracy"]),
        name(best),
        wording.percent(best["asr"]),
        wording.percent(best["accuracy"]),
        f"{fight.rivals} of {fight.rivals + len(fight.missing) + len(fight.failed)}",
        ", ".join(f"{name(other)}{_by(own, other)}" for other in fight.lost_to) or "-",
        ", ".join([*fight.missing, *(f"{each} (failed)" for each in fight.failed)]) or "-",
    ]


def _by(own: Row, other: Row) -> str:
    """How many points lower a rival's attack success is; of single rows with a standard error over their models."""
    if own["asr"] is None or other["asr"] is None:
        return ""
    pair = (own, other)
    known = own["seed"] is not None and all(row["asr_sd"] is not None and row["models"] >= FEWEST for row in pair)
    error = math.hypot(*(row["asr_sd"] / math.sqrt(row["models"]) for row in pair)) if known else None
    return f" ({wording.points(own['asr'] - other['asr'], error, 1)})"


def standard_error(row: Row, plan: Plan) -> float | None:
    """Of attack success above the floor: over the seeds, or of one row over its models; None where it is not known.

    Of a row with fewer than :data:`FEWEST` models it is not told: of two pairs of models one spreads ten times as far.
    """
    if row["seed"] is None:
        return row["excess_se"]
    if row["asr_sd"] is None or row["floor_sd"] is None or row["models"] < FEWEST:
        return None
    return math.sqrt(row["asr_sd"] ** 2 / row["models"] + row["floor_sd"] ** 2 / plan.contest.clean_models)
