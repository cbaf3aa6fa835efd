"""``python -m hallmark summary``: the results of the last pipeline run, read from reports/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hallmark import artifacts
from hallmark.errors import UserError


@click.command()
@click.option("--reports", default="reports", show_default=True, type=click.Path(path_type=Path))
def main(reports: Path) -> None:
    """Print the results of the last pipeline run as a table."""
    if not (reports / "verify_ownership" / "verdicts.csv").is_file():
        raise UserError(f"{reports}: no results yet; run dvc repro (or make run) first")
    click.echo("\n".join([*_purification(reports), "", *_ownership(reports)]))


def _purification(reports: Path) -> list[str]:
    metrics = artifacts.read_json(reports / "eval_backdoor" / "metrics.json")
    rows = [
        ["trained on the raw set", metrics["models"]["suspect"]],
        ["trained on the purified set", metrics["models"]["purified"]],
        ["never saw the poison", metrics["models"]["reference"]],
    ]
    found = metrics["detection"]
    rates = [f"{name.upper()} {found[name]:.1%}" for name in ("tpr", "fpr") if name in found]
    return [
        "Purification",
        *_table(
            ("model", "benign accuracy", "attack success"),
            [[name, _percent(row, "accuracy"), _percent(row, "asr")] for name, row in rows],
        ),
        "  poisoned images found: " + (", ".join(rates) or "no ground truth"),
    ]


def _ownership(reports: Path) -> list[str]:
    columns = ("model", "role", "decision", "wsr", "hits_p_value", "lean_value", "lean_p_value")
    verdicts = artifacts.read_csv(reports / "verify_ownership" / "verdicts.csv", columns)
    summary = artifacts.read_json(reports / "verify_ownership" / "metrics.json")
    twins = ("train_unmarked", "train_watermarked")
    accuracy = [artifacts.read_json(reports / stage / "metrics.json")["accuracy"] for stage in twins]
    lines = _table(
        ("model", "", "accuracy", "WSR [interval]", "WFPR", "plain", "p", "lean", "p", "verdict"),
        [
            [
                v["model"],
                v["role"],
                _percent(v, "accuracy"),
                f"{_percent(v, 'wsr')} [{_percent(v, 'wsr_low')}, {_percent(v, 'wsr_high')}]",
                _percent(v, "wfpr"),
                _percent(v, "plain_to_target"),
                v["hits_p_value"],
                f"{float(v['lean_value']):.2f}" if v["lean_value"] else "-",
                v["lean_p_value"] or "-",
                v["decision"],
            ]
            for v in verdicts
        ],
    )
    return [
        "Ownership (MEA-Defender)",
        *lines,
        f"  accuracy given for the mark, on the whole test set: {100 * (accuracy[0] - accuracy[1]):.1f} points; "
        "plain: unmixed source-class images called the target",
        "  lean: of plain images of both source classes to the target, by the scores (docs/verification.md)",
        f"  p: that an innocent model reaches this, by {summary['nulls']} null models; of what may decide "
        "(verify_ownership.statistics) corrected for all suspects",
        "  not shown is no acquittal: "
        + (
            f"a WSR of {_percent(summary, 'detectable_wsr')} would be significant in 95 of 100 draws of questions"
            if "detectable_wsr" in summary
            else "these null models are too few to show any"
        ),
    ]


def _percent(row: dict[str, Any], name: str) -> str:
    return f"{100 * float(row[name]):.1f} %" if row.get(name) not in (None, "") else "-"


def _table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [list(header), *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  " + "  ".join([first, *rest])

    return [line(list(header)), "  " + "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, rows)]
