"""The parameters of the contest of removals, and its cells: scheme x target x removal x seed.

A *target* is what is attacked: the copy of one thief, or the ``victim`` itself.  Victims and thieves are described,
made and kept as in the contest of watermarks, whose section the parameter file holds as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from hallmark.config import FileName, Params, PrepareData, RuntimeConfig, TrainNulls, VerifyOwnership
from hallmark.contest.marks import Victim, naming_new_ways
from hallmark.contest.parameters import digest, known_names, read_sections
from hallmark.contest.watermark.plan import Plan as WatermarkPlan
from hallmark.contest.watermark.plan import WatermarkContest
from hallmark.errors import UserError

if TYPE_CHECKING:
    from hallmark.removal.remover import RemovalParams

VERSION = 2
"""Of the figures: raise it when a change of the code makes all measured cells worthless."""
NONE = "none"
"""The removal that does nothing: every target's first cell."""
VICTIM = "victim"
"""The target that is the marked network itself."""
COLUMNS = (
    "seed", "dataset", "scheme", "target", "removal", "method", "victim_accuracy", "accuracy_before", "accuracy",
    "accuracy_change", "fidelity", "wsr", "wfpr", "plain", "runner_up", "statistic", "score", "null_wsr", "null_score",
    "auc", "p_hits", "verdict_hits", "why_hits", "p_score", "verdict_score", "why_score", "nulls", "seconds",
    "error",
)  # fmt: skip
"""Of the rows, in contest.csv and under ``row`` in the files of cells; rates and accuracies 0-1.

target: the thief whose copy is attacked, or ``victim``.  accuracy_before: of the target; accuracy: of what the removal
made of it.  fidelity: share of test images on which that and the victim agree.  wsr, wfpr, plain: as in the contest of
watermarks.  runner_up: watermark queries on which, of all classes but the sources, the target has the highest score.
score: the ``statistic`` of the scores: the lean of a mark with a key, otherwise the mean log-odds on the queries
(:mod:`hallmark.verification.log_odds`).  null_wsr, null_score: the highest of the null models.
auc: share of the null models whose score is lower, the area under the ROC curve of this one model against them.
p_hits, p_score: the chance that a new innocent model reaches it.  verdict: ``stolen``, ``not shown`` or ``invalid``
(:mod:`hallmark.contest.removal.judging`); why: what it fails by.  seconds: of the removal.
"""


class RemovalContest(Params):
    """Section ``removal_contest``."""

    rule: VerifyOwnership
    """Of each single verdict, by hits and by scores in place of its ``statistics``; nothing is corrected for the number
    of cells.  The contest's seed is added to ``judge_seed``."""
    victims: bool
    """Whether the victims are attacked as well as their copies."""
    nulls: TrainNulls
    """Innocent models of each seed."""
    removals: Annotated[dict[FileName, dict[str, Any]], Field(min_length=1)]
    """Blocks as under ``remove_watermark.removals`` of params.yaml, without ``model``."""
    paper: dict[str, float] = Field(default_factory=dict)
    """WSR that a paper reports, per cent, by ``SCHEME/TARGET/REMOVAL``."""
    paper_note: str = ""

    @model_validator(mode="after")
    def _names(self) -> RemovalContest:
        if NONE in self.removals:
            raise ValueError(f"removals: '{NONE}' is the target as it is; choose another name")
        return self


@dataclass(frozen=True)
class Target:
    """One model that is attacked, and how.

    Attributes:
        victim: whose copy it is, with the one thief; or the victim itself, with none.
        removals: names in the plan, :data:`NONE` first.
    """

    victim: Victim
    removals: tuple[str, ...]

    @property
    def name(self) -> str:
        """The thief's, or :data:`VICTIM`."""
        return self.victim.thieves[0] if self.victim.thieves else VICTIM

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.victim.name}-{self.name}-seed{self.victim.seed}"

    @property
    def seed(self) -> int:
        """The victim's."""
        return self.victim.seed

    @property
    def parts(self) -> tuple[str, ...]:
        """The beginning of its cells' file names."""
        return self.victim.name, self.name

    @property
    def cells(self) -> tuple[str, ...]:
        """The removals."""
        return self.removals


@dataclass(frozen=True)
class Plan:
    """A validated parameter file of the contest of removals.

    Attributes:
        marks: victims and thieves.
    """

    path: Path
    marks: WatermarkPlan
    contest: RemovalContest

    @property
    def runtime(self) -> RuntimeConfig:
        """The seed is replaced by each of the contest's."""
        return self.marks.runtime

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = ()) -> Plan:
        """Read ``path``; ``changes`` are ``SECTION.NAME=VALUE``, the value in YAML.

        Raises:
            UserError: a parameter is wrong or missing.
        """
        kinds = {
            "runtime": RuntimeConfig,
            "prepare_data": PrepareData,
            "watermark_contest": WatermarkContest,
            "removal_contest": RemovalContest,
        }
        *marks, contest = read_sections(path, changes, kinds).values()
        plan = cls(path, WatermarkPlan(path, *marks), contest)
        plan.marks.check_methods()
        for name in contest.removals:
            plan.removal_params(name)
        known = {f"{v.name}/{t}/{r}" for v in plan.marks.victims() for t in (*v.thieves, VICTIM)
                 for r in (NONE, *contest.removals)}  # fmt: skip
        if unknown := [name for name in contest.paper if name not in known]:
            raise UserError(f"{path}: removal_contest.paper: '{unknown[0]}' is no cell")
        return plan

    def targets(
        self,
        seeds: Sequence[int] = (),
        schemes: Sequence[str] = (),
        targets: Sequence[str] = (),
        removals: Sequence[str] = (),
    ) -> list[Target]:
        """What is attacked, in the order of the work: all of a seed before the next.

        Args:
            seeds: in place of the plan's.
            schemes, targets, removals: only these; empty means all.  A target's cell without a removal is always there.

        Raises:
            UserError: a name that the plan does not hold, or nothing is left.
        """
        known_names(
            f"{self.path}: removal_contest",
            ("target", targets, (*self.marks.contest.thieves, VICTIM)),
            ("removal", removals, (NONE, *self.contest.removals)),
        )
        chosen = (NONE, *(name for name in self.contest.removals if not removals or name in removals))
        found = []
        for victim in self.marks.victims(seeds, schemes=schemes):
            names = [*victim.thieves, *([VICTIM] if self.contest.victims else [])]
            found += [
                Target(replace(victim, thieves=() if name == VICTIM else (name,)), chosen)
                for name in names
                if not targets or name in targets
            ]
        if not found:
            raise UserError(f"{self.path}: removal_contest: nothing is left of these schemes and targets")
        return found

    def hashes(self, seed: int) -> set[str]:
        """Of all cells of a seed."""
        return {self.cell_hash(each, cell) for each in self.targets([seed]) for cell in each.cells}

    def removal(self, name: str) -> dict[str, Any]:
        """The block of a removal; for :data:`NONE` an empty one."""
        return {} if name == NONE else self.contest.removals[name]

    def copy_hash(self, each: Victim) -> str:
        """Of a thief's copy of the victim."""
        return digest([self.marks.victim_hash(each), *map(self.marks.thief_hash, each.thieves)])

    def nulls_hash(self, each: Victim) -> str:
        """Of a seed's null models; those that steal ask the victim's twin."""
        return digest([self.marks.twin_hash(each), self.contest.nulls.model_dump()])

    def cell_hash(self, each: Target, removal: str) -> str:
        """Of a cell's figures."""
        parts = [VERSION, self.copy_hash(each.victim), self.nulls_hash(each.victim), self.marks.contest.queries]
        own = None if removal == NONE else naming_new_ways(self.removal_params(removal)[1].model_dump(mode="json"))
        return digest([*parts, self.contest.rule.model_dump(mode="json"), each.name, removal, own])

    def removal_params(self, name: str) -> tuple[ModuleType, RemovalParams]:
        """A removal's module, and its block by its own class.

        Raises:
            UserError: no such method, or the block is invalid.
        """
        from hallmark.removal import removal_params  # noqa: PLC0415 - torch is slow to import

        return removal_params(self.contest.removals[name], self.removal_place(name))

    def removal_place(self, name: str) -> str:
        """A removal's block, for messages."""
        return f"{self.path}: removal_contest.removals.{name}"
