"""Backdoor metrics, as the field defines them: benign accuracy, attack success rate, detection rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hallmark import plots
from hallmark.errors import UserError
from hallmark.statistics import Bools, Rate, rate


@dataclass(frozen=True)
class Row:
    """One model's line in the table.

    Attributes:
        accuracy: benign accuracy: share of held-out images called what they are.
        asr: attack success rate: share of triggered held-out images called what the attacker wants,
            among those that are not so anyway; None where there is no attack.
    """

    COLUMNS: ClassVar = ("model", "accuracy", "accuracy_low", "accuracy_high", "asr", "asr_low", "asr_high")

    name: str
    accuracy: Rate
    asr: Rate | None

    @classmethod
    def measure(cls, name: str, correct: Bools, fooled: Bools | None, confidence: float) -> Row:
        """From outcomes ``[N]`` on the clean and ``[M]`` on the triggered test images."""
        return cls(name, rate(correct, confidence), None if fooled is None else rate(fooled, confidence))

    def to_dict(self) -> dict[str, Any]:
        """Values under :attr:`COLUMNS`; no attack leaves its cells empty."""
        cells: list[Any] = [self.name]
        for measured in (self.accuracy, self.asr):
            cells += ["", "", ""] if measured is None else [measured.rate, measured.low, measured.high]
        return dict(zip(self.COLUMNS, cells, strict=True))

    def line(self) -> str:
        """One line for the log."""
        asr = "no attack" if self.asr is None else f"ASR {self.asr.rate:6.1%} [{self.asr.low:.1%}, {self.asr.high:.1%}]"
        return f"{self.name:<18} accuracy {self.accuracy.rate:6.1%}  {asr}"


@dataclass(frozen=True)
class Detection:
    """How a defence told poisoned from clean images.

    Attributes:
        ids: int64 ``[N]``, ascending, without covers.
        flagged: ``[N]`` images that the defence dropped or relabelled.
        poisoned: ``[N]`` the ground truth.
    """

    ids: NDArray[np.int64]
    flagged: Bools
    poisoned: Bools

    @property
    def tpr(self) -> float | None:
        """Share of the poisoned images that were flagged; None if there are none."""
        return float(self.flagged[self.poisoned].mean()) if self.poisoned.any() else None

    @property
    def fpr(self) -> float | None:
        """Share of the clean images that were flagged; None if there are none."""
        clean = ~self.poisoned
        return float(self.flagged[clean].mean()) if clean.any() else None


def detection(
    ground_truth: Sequence[Mapping[str, str]],
    decisions: Sequence[Mapping[str, str]],
    names: tuple[str, str] = ("the poisoner's manifest", "the defence's manifest"),
) -> Detection | None:
    """Join the poisoner's manifest with the defence's by image id.

    Args:
        names: what messages call the two manifests.

    Returns:
        None if the manifest holds no ground truth at all (the user's own data).

    Raises:
        UserError: ids that are no whole numbers or come twice, ground truth other than 0 and 1 or for a part
            of the images only, or manifests of different images.
    """
    truth = _by_id(ground_truth, "poisoned", f"{names[0]}: ", "rerun poison_data")
    actions = _by_id(decisions, "action", f"{names[1]}: ", "rerun purify_data")
    if truth.keys() != actions.keys():
        raise UserError(
            f"{names[1]}: not the images of {names[0]} ({len(actions.keys() - truth.keys()):,} ids are only in the "
            f"former, {len(truth.keys() - actions.keys()):,} only in the latter); rerun purify_data"
        )
    kinds = set(truth.values())
    if kinds == {""}:
        return None
    if not kinds <= {"0", "1"}:
        wrong = next(i for i, value in truth.items() if value not in ("0", "1"))
        raise UserError(
            f"{names[0]}: poisoned of image {wrong} is '{truth[wrong]}'; it must be 0 or 1, or empty for all images; "
            "rerun poison_data"
        )
    # Covers are altered, but rightly labelled: to flag one is neither a hit nor a mistake.
    covers = {int(row["id"]) for row in ground_truth if row.get("cover") == "1"}
    ids = sorted(truth.keys() - covers)
    flagged = np.array([actions[i] != "kept" for i in ids], bool)
    return Detection(np.array(ids, np.int64), flagged, np.array([truth[i] == "1" for i in ids], bool))


def _by_id(rows: Sequence[Mapping[str, str]], column: str, where: str, remedy: str) -> dict[int, str]:
    """One column of a manifest by image id."""
    found: dict[int, str] = {}
    for row in rows:
        try:
            number = int(np.int64(row["id"]))
        except (ValueError, OverflowError):
            raise UserError(f"{where}id '{row['id'][:40]}' is no whole number; {remedy}") from None
        if number in found:
            raise UserError(f"{where}id {number} comes twice; {remedy}")
        found[number] = row[column]
    return found


def metrics(rows: Sequence[Row], found: Detection | None) -> dict[str, Any]:
    """Numbers for metrics.json; what cannot be known is left out."""
    per_model = {
        row.name: {"accuracy": row.accuracy.rate} | ({} if row.asr is None else {"asr": row.asr.rate}) for row in rows
    }
    rates = {} if found is None else {"tpr": found.tpr, "fpr": found.fpr}
    return {"models": per_model, "detection": {name: value for name, value in rates.items() if value is not None}}


def figure(rows: Sequence[Row]) -> Figure:
    """Accuracy and attack success of every model with intervals."""
    # A model without an attack gets an empty bar.
    unknown = Rate(0, 1, 0.0, 0.0)
    values = {"benign accuracy": [r.accuracy for r in rows], "attack success": [r.asr or unknown for r in rows]}
    return plots.rates(
        [row.name for row in rows],
        {label: [v.rate for v in group] for label, group in values.items()},
        {label: [(v.low, v.high) for v in group] for label, group in values.items()},
        title="Before and after purification",
        colors={"benign accuracy": "#b8b8b8", "attack success": "#c0392b"},
    )
