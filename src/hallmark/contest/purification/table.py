"""The contest's rows as contest.csv, contest.md and heat maps; claims are checked by machine, row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hallmark import artifacts, plots
from hallmark.contest import rows as rows_of
from hallmark.contest.heatmap import heatmap
from hallmark.contest.purification.claims import Claim, Duel, averages, check_one_run, claims, difference, duels, name
from hallmark.contest.purification.plan import COLUMNS, NONE, Plan
from hallmark.contest.rows import Row, distinct, markdown_table, mean_spread, percent

ORDER = ("dataset", "attack", "label_mode", "rate", "seed", "sanitizer", "repair")


def write(folders: Sequence[Path], out: Path, plan: Plan) -> str:
    """Write contest.csv, contest.md and the heat maps; returns a line for people.

    Args:
        folders: of cells, as :mod:`hallmark.contest.purification.run` writes them.
        plan: cells that other parameters gave are left out.

    Raises:
        UserError: as :func:`read`, or the cells of a set come from several runs of it.
    """
    rows, stale = read(folders, plan)
    check_one_run(rows)
    artifacts.write_csv(out / "contest.csv", rows, COLUMNS)
    pictures = {}
    for dataset in distinct(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        for stem, value, title in (
            ("excess_asr", excess, "attack success above the clean model's, points"),
            ("accuracy_loss", loss, "benign accuracy lost, points"),
        ):
            figure = _picture(own, value, f"{dataset}: {title}", plan.contest.ours)
            if figure is not None:
                pictures[f"{stem}_{dataset}.png"] = title
                plots.save(figure, out / f"{stem}_{dataset}.png")
    artifacts.write_bytes(out / "contest.md", render(rows, plan, stale, pictures).encode())
    return rows_of.written("contest", rows, stale, out)


def read(folders: Sequence[Path], plan: Plan) -> tuple[list[Row], int]:
    """The rows of all cells, sorted, and how many were left out.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    return rows_of.read(folders, COLUMNS, ORDER, plan, younger=("covers_changed",))


def excess(row: Row) -> float | None:
    """Attack success above the floor, 0-1; None without an attack or a figure."""
    return None if row["asr"] is None or row["floor"] is None else row["asr"] - row["floor"]


def loss(row: Row) -> float | None:
    """Benign accuracy lost against the clean model, 0-1; None without a figure."""
    return None if row["accuracy"] is None or row["clean_accuracy"] is None else row["clean_accuracy"] - row["accuracy"]


def seconds(row: Row) -> float | None:
    """Of detection and repair; None if not measured."""
    parts = [row[name] for name in ("detect_seconds", "repair_seconds") if row[name] is not None]
    return sum(parts) if parts else None


@dataclass(frozen=True)
class Measure:
    """What stands in a table's cells."""

    title: str
    value: Callable[[Row], float | None]
    factor: float = 100
    digits: int = 1


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: row[name]


MEASURES = (
    Measure("Attack success above the floor, points", excess),
    Measure("Benign accuracy lost, points", loss),
    Measure("TPR, per cent", _column("tpr")),
    Measure("FPR, per cent", _column("fpr")),
    Measure("Covers not kept, per cent: harmless images that the attacker made", _column("covers_changed")),
    Measure("AUC of the scores", _column("auc"), 1, 3),
    Measure("Seconds of detection and repair", seconds, 1),
    Measure("Diffusion network evaluations an image", _column("evaluations_per_image"), 1),
)


def render(rows: Sequence[Row], plan: Plan, stale: int, pictures: dict[str, str]) -> str:
    """contest.md."""
    ours = plan.contest.ours
    mine = ours.partition("/")[0]
    lines = rows_of.heading(
        "The contest",
        rows,
        stale,
        f"A cell is the mean of {plan.contest.models} models, a floor of {plan.contest.clean_models}. ± beside a",
        "difference from the floor is its standard error: over the seeds, or of a single row over its models where a",
        f"cell has {FEWEST} or more (the spread of fewer says little). A seed draws images, target, poisons and",
        "networks anew, and the sanitizer's own chances with them: one draw of those a seed.",
        "A number in brackets says of how many seeds a mean is where others of the line have more.",
        "The floor is the rate at which a model that was trained on the set before poisoning calls triggered test",
        "images what the attacker wants; accuracy is lost against it. TPR, FPR: of the poisoned and of the other",
        "images, covers aside, what is not kept as it was: dropped, relabelled, or exchanged for a purified copy under",
        "its old label, which DataElixir's authors do not count, for they count changed labels. AUC: of the scores as",
        f"each sanitizer gives them, over all classes. That favours {mine}, whose scores hold its decision which",
        "classes are attacked: those of activation clustering, SPECTRE and SCAn do not, and are used in the classes",
        "alone that these call attacked (spectral signatures flags in every class).",
    )
    lines += _attacks(rows)
    lines += _claims(rows, plan)
    for picture, title in pictures.items():
        lines += [f"![{title}]({picture})", ""]
    for dataset, rate in distinct((row["dataset"], row["rate"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["rate"]) == (dataset, rate)]
        lines += [f"## {dataset}, {'no attack' if rate is None else f'rate {rate:g}'}", ""]
        shown = [row for row in own if row["sanitizer"] != mine or name(row) == ours]
        for measure in MEASURES:
            lines += _grid(measure, shown, ours)
        if any(row["sanitizer"] == mine for row in rows):
            lines += [f"### Repairs of {mine}", ""]
            for measure in MEASURES[:2]:
                lines += _grid(measure, [row for row in own if row["sanitizer"] == mine], ours)
    lines += rows_of.failures(rows, lambda row: f"{_set_name(row)} {name(row)}")
    return "\n".join(lines).rstrip() + "\n"


def _attacks(rows: Sequence[Row]) -> list[str]:
    """How well the attacks work if nothing is done."""
    raw = [row for row in rows if row["sanitizer"] == NONE and row["asr"] is not None]
    body = []
    for dataset, attack, rate in distinct((row["dataset"], row["attack"], row["rate"]) for row in raw):
        own = [row for row in raw if (row["dataset"], row["attack"], row["rate"]) == (dataset, attack, rate)]
        lost = mean_spread([100 * (row["clean_accuracy"] - row["accuracy"]) for row in own])
        figures = [percent(own, "asr"), percent(own, "floor"), lost]
        body.append([f"{dataset} {attack} {100 * rate:g} %", str(len(own)), *figures])
    if not body:
        return []
    header = ("set", "seeds", "attack success", "floor", "accuracy lost")
    return ["## The attacks, if nothing is done", "", "Per cent and points.", "", *markdown_table(header, body)]


def _claims(rows: Sequence[Row], plan: Plan) -> list[str]:
    """The machine-checked part."""
    ours = plan.contest.ours
    lines = [
        "## Claims",
        "",
        "Sets whose raw attack success is 50 % or more: afterwards it is at most the floor + 3 points (attack gone),",
        "and at most 2 points of accuracy are lost (accuracy kept). A row that failed holds neither.",
        "",
    ]
    for title, chosen in (("means over the seeds", averages(rows)), ("row by row", rows)):
        if not chosen:
            continue
        by_name: dict[str, list[Claim]] = {}
        for claim in claims(chosen):
            by_name.setdefault(claim.name, []).append(claim)
        counts = [
            [
                key,
                str(len(group)),
                str(sum(claim.asr_holds for claim in group)),
                str(sum(claim.accuracy_holds for claim in group)),
                str(sum(claim.asr_holds and claim.accuracy_holds for claim in group)),
            ]
            for key, group in sorted(by_name.items(), key=lambda item: (item[0] != ours, item[0]))
        ]
        lines += [f"### All sanitizers, {title}", ""]
        lines += markdown_table(("sanitizer/repair", "rows", "attack gone", "accuracy kept", "both"), counts)
        lines += [f"### {ours}, {title}", ""]
        lines += markdown_table(
            ("set", "raw ASR", "ASR", "floor", "above the floor", "accuracy lost", "attack gone", "accuracy kept"),
            [_claim(claim, plan) for claim in by_name.get(ours, [])],
        )
        lines += _duels(chosen, plan, title)
    lines += _repairs(rows, plan)
    clean = [row for row in rows if row["attack"] == NONE or row["label_mode"] == NONE]
    if clean:
        lines += ["### Clean sets", ""]
        lines += markdown_table(
            ("set", "sanitizer/repair", "images changed", "accuracy lost"),
            [[_set_name(row), name(row), _percent(row["fpr"]), _percent(loss(row))] for row in clean],
        )
    return lines


def _repairs(rows: Sequence[Row], plan: Plan) -> list[str]:
    """Ours against its other repairs, set by set, of all rates and of each."""
    ours = plan.contest.ours
    mine, _, repair = ours.partition("/")
    body = []
    for other in (f"{mine}/{each}" for each in plan.contest.sanitizers[mine] if each != repair):
        rates = distinct(row["rate"] for row in rows if name(row) == other)
        for title, chosen in (("all", rates), *((_rate(rate), [rate]) for rate in rates)):
            found = difference([row for row in rows if row["rate"] in chosen], ours, other)
            if found is not None:
                accuracy = _points(found.accuracy, found.accuracy_se)
                body.append(
                    [other, title, str(found.sets), accuracy, str(found.took_hold), _points(found.asr, found.asr_se)]
                )
    if not body:
        return []
    return [
        f"### {ours} minus its other repairs, set by set",
        "",
        "Points, mean ± standard error over the attacked sets (a little small: those of one seed share their clean",
        "images); of attack success where the attack took hold.",
        "",
        *markdown_table(("minus", "rate", "sets", "accuracy", "sets", "attack success"), body),
    ]


def _rate(rate: float | None) -> str:
    return "no attack" if rate is None else f"{100 * rate:g} %"


def _points(value: float | None, error: float | None, digits: int = 2) -> str:
    """A difference of rates in points."""
    if value is None:
        return "-"
    return f"{100 * value:+z.{digits}f}" + ("" if error is None else f" ± {100 * error:.{digits}f}")


def _claim(claim: Claim, plan: Plan) -> list[str]:
    row, above = claim.row, excess(claim.row)
    error = f" ± {100 * se:.1f}" if (se := standard_error(row, plan)) is not None else ""
    return [
        _set_name(row),
        _percent(claim.raw_asr),
        _percent(row["asr"]),
        _percent(row["floor"]),
        _percent(above) + error,
        _percent(loss(row)),
        _yes(claim.asr_holds),
        _yes(claim.accuracy_holds),
    ]


def standard_error(row: Row, plan: Plan) -> float | None:
    """Of attack success above the floor: over the seeds, or of one row over its models; None where it is not known.

    Of a row with fewer than :data:`FEWEST` models it is not told: of two pairs of models one spreads ten times as far.
    """
    if row["seed"] is None:
        return row["excess_se"]
    if row["asr_sd"] is None or row["floor_sd"] is None or row["models"] < FEWEST:
        return None
    return math.sqrt(row["asr_sd"] ** 2 / row["models"] + row["floor_sd"] ** 2 / plan.contest.clean_models)


def _duels(rows: Sequence[Row], plan: Plan, title: str) -> list[str]:
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


FEWEST = 4
"""Models of a cell from which on their spread is told."""
RESULTS = ("lost", "open", "won", "no attack")
"""Of duels, the worst first."""


def _duel(fight: Duel) -> list[str]:
    own, best = fight.row, fight.best
    return [
        _set_name(own),
        f"**{fight.result}**" if fight.result == "lost" else fight.result,
        _percent(own["asr"]),
        _percent(own["accuracy"]),
        name(best),
        _percent(best["asr"]),
        _percent(best["accuracy"]),
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
    return f" ({_points(own['asr'] - other['asr'], error, 1)})"


def _grid(measure: Measure, rows: Sequence[Row], ours: str) -> list[str]:
    """One measure, attack x sanitizer, without attacks that it says nothing of; empty where nothing was measured."""
    columns, attacks = _names(rows, ours), distinct(row["attack"] for row in rows)

    def cell(attack: str, column: str) -> str:
        line = [row for row in rows if row["attack"] == attack]
        own = [row for row in line if name(row) == column]
        values = [measure.factor * value for row in own if (value := measure.value(row)) is not None]
        fewer = values and len(values) < len({row["seed"] for row in line})
        return mean_spread(values, measure.digits) + (f" ({len(values)})" if fewer else "")

    body = [[attack, *(cell(attack, column) for column in columns)] for attack in attacks]
    body = [line for line in body if any(text != "-" for text in line[1:])]
    if not body:
        return []
    return [f"**{measure.title}**", "", *markdown_table(("attack", *columns), body)]


def _picture(rows: Sequence[Row], value: Callable[[Row], float | None], title: str, ours: str) -> Figure | None:
    columns = _names(rows, ours)
    lines = distinct((row["attack"], row["rate"]) for row in rows)
    values: list[list[float | None]] = []
    for attack, rate in lines:
        values.append([])
        for column in columns:
            line = [r for r in rows if (r["attack"], r["rate"]) == (attack, rate)]
            found = [v for r in line if name(r) == column and (v := value(r)) is not None]
            # Means of other seeds would not compare.
            whole = len(found) == len({r["seed"] for r in line})
            values[-1].append(100 * statistics.fmean(found) if whole else None)
    kept = [k for k, line in enumerate(values) if any(v is not None for v in line)]
    if not kept:
        return None
    labels = [lines[k][0] if lines[k][1] is None else f"{lines[k][0]} {100 * lines[k][1]:g} %" for k in kept]
    return heatmap([values[k] for k in kept], labels, columns, title)


def _names(rows: Iterable[Row], ours: str) -> list[str]:
    """Of the sanitizers and repairs: the raw set, ours, its other repairs, the baselines."""
    mine = ours.partition("/")[0]
    ranks = {NONE: 0, ours: 1}
    return sorted({name(row) for row in rows}, key=lambda n: (ranks.get(n, 2 + (n.partition("/")[0] != mine)), n))


def _set_name(row: Row) -> str:
    rate = "" if row["rate"] is None else f" {100 * row['rate']:g} %"
    seed = f"seed {row['seed']}" if row["seed"] is not None else f"({row['seeds']} seeds)"
    return f"{row['dataset']} {row['attack']}{rate} {seed}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}".replace("-0.0", "0.0")


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"
