"""The contest's rows as contest.csv, contest.md and heat maps; claims are checked by machine, row by row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hallmark import artifacts, plots
from hallmark.contest import rows as rows_of
from hallmark.contest.heatmap import heatmap
from hallmark.contest.purification import fights, wording
from hallmark.contest.purification.claims import Claim, averages, check_one_run, claims, difference, name
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
        f"cell has {fights.FEWEST} or more (the spread of fewer says little). A seed draws images, target, poisons and",
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
    lines += rows_of.failures(rows, lambda row: f"{wording.set_name(row)} {name(row)}")
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
        lines += fights.render(chosen, plan, title)
    lines += _repairs(rows, plan)
    clean = [row for row in rows if row["attack"] == NONE or row["label_mode"] == NONE]
    if clean:
        lines += ["### Clean sets", ""]
        lines += markdown_table(
            ("set", "sanitizer/repair", "images changed", "accuracy lost"),
            [
                [wording.set_name(row), name(row), wording.percent(row["fpr"]), wording.percent(loss(row))]
                for row in clean
            ],
        )
    return lines


def _repairs(rows: Sequence[Row], plan: Plan) -> list[str]:
    """Ours against its other repairs, set by set, of all rates and of each."""
    ours = plan.contest.ours
    mine, _, repair = ours.partition("/")
    body = []
    for other in (f"{mine}/{each}" for each in plan.contest.sanitizers[mine] if each != repair):
        rates = distinct(row["rate"] for row in rows if name(row) == other)
        for title, chosen in (("all", rates), *((wording.rate_name(rate), [rate]) for rate in rates)):
            found = difference([row for row in rows if row["rate"] in chosen], ours, other)
            if found is not None:
                accuracy = wording.points(found.accuracy, found.accuracy_se)
                body.append(
                    [
                        other,
                        title,
                        str(found.sets),
                        accuracy,
                        str(found.took_hold),
                        wording.points(found.asr, found.asr_se),
                    ]
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


def _claim(claim: Claim, plan: Plan) -> list[str]:
    row, above = claim.row, excess(claim.row)
    error = f" ± {100 * se:.1f}" if (se := fights.standard_error(row, plan)) is not None else ""
    return [
        wording.set_name(row),
        wording.percent(claim.raw_asr),
        wording.percent(row["asr"]),
        wording.percent(row["floor"]),
        wording.percent(above) + error,
        wording.percent(loss(row)),
        wording.yes(claim.asr_holds),
        wording.yes(claim.accuracy_holds),
    ]


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
