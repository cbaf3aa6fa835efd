"""The parameters of the contest of watermarks, and the cells that they make: scheme x thief x seed.

A *victim* is one network with one mark (scheme, parameters, network, training, seed); its *cells* are what the thieves
make of it.  Groups are the experiments: which schemes meet which thieves.  A cell that several groups hold is measured
once.  It is known by a hash of the parameters that its figures depend on, and of no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hallmark.config import Architecture, Count, FileName, Params, Training
from hallmark.contest.marks import (
    GroupPlan,
    MarksPlan,
    Victim,
    check_groups,
    mark_block,
    mark_values,
    resolved_thief,
)
from hallmark.contest.parameters import digest

if TYPE_CHECKING:
    from hallmark.extraction.thief import AttackParams

VERSION = 1
"""Of the figures: raise it when a change of the code makes all measured cells worthless."""
NONE = "none"
"""The scheme without a mark."""
RATES = ("wsr", "wfpr", "plain", "unseen")
"""See :func:`hallmark.watermark.schemes.rates` and :func:`hallmark.watermark.schemes.unseen_rate`."""
COLUMNS = (
    "seed", "dataset", "scheme", "method", "thief", "attack", "victim_architecture", "thief_architecture", "budget",
    "queries", "victim_accuracy", "unmarked_accuracy", "accuracy_loss", "copy_accuracy", "copy_agreement",
    "unmarked_copy_accuracy",
    *(f"{model}_{rate}" for model in ("victim", "copy", "unmarked", "unmarked_copy") for rate in RATES),
    "train_seconds", "steal_seconds", "error",
)  # fmt: skip
"""Of the rows, in contest.csv and under ``row`` in the files of cells; rates and accuracies 0-1.

scheme, thief: names in the plan.  method, attack: modules of the scheme and of the thief's attack.
unmarked: the victim's twin without a mark, of the same seed.  copy: what the thief made of the victim.
unmarked_copy: what the same thief made of the twin.  queries: verification queries asked.
accuracy_loss: of the victim against the twin.  copy_agreement: share of test images on which copy and victim agree.
wsr: queries called as claimed.  wfpr: negatives called as they should not be.  plain: plain images of the mark's
source classes called its target.  unseen: negatives of the kind on which the mark fires most among those that it was
not taught to keep silent on.
"""


class VictimPlan(Params):
    """A network and its training; ``watermark_contest.victim``."""

    architecture: Architecture
    training: Training


class SchemePlan(Params):
    """A block of ``watermark_contest.schemes``: its name is the one in the tables."""

    scheme: str | None = None
    """The module of :mod:`hallmark.watermark.schemes`; null: that of ``like``."""
    like: str | None = None
    """Another block, whose values count where this one has none; of ``params`` parameter by parameter."""
    architecture: Architecture | None = None
    """Null: that of ``like``, or of ``watermark_contest.victim``."""
    training: Training | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    """The scheme's own parameters."""


class WatermarkGroup(GroupPlan):
    """A block of ``watermark_contest.groups``."""

    picture: Literal["bars", "matrix", "curve"] = "bars"
    """Of the copies' success: bars; schemes x thieves; or over the thieves' budgets."""


class WatermarkContest(Params):
    """Section ``watermark_contest``."""

    seeds: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(min_length=1)
    queries: Annotated[int, Field(ge=10)]
    """Verification queries, from held-out images."""
    held_out: Count | None = None
    """While a mark is being developed: so many of the split ``queries`` are the images that decide, in place of the
    test part, which nobody should have looked at then; the thief has the others."""
    dataset: str | None = None
    """The data set's name: in the tables, and in the cells' hashes in place of ``prepare_data.path``, so that the files
    may lie anywhere; null: the source's name, and the path counts."""
    victim: VictimPlan
    thief: dict[str, Any]
    """Parameters of every thief, where its own block has none: an attack block of ``extract_attack``."""
    schemes: dict[FileName, SchemePlan] = Field(min_length=1)
    thieves: dict[FileName, dict[str, Any]] = Field(min_length=1)
    groups: dict[FileName, WatermarkGroup] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> WatermarkContest:
        check_groups(self.groups, {"schemes": self.schemes, "thieves": self.thieves})
        for name in self.schemes:
            self.resolved(name)
        for name in self.thieves:
            resolved_thief(self.thieves, name)
        return self

    def resolved(self, name: str) -> SchemePlan:
        """The block ``name`` with what it takes from others filled in; its ``like`` is None.

        Raises:
            ValueError: ``like`` names no block, or comes round; or there is no scheme.
        """
        chain, place = [name], self.schemes[name]
        while place.like is not None:
            if place.like not in self.schemes or place.like in chain:
                raise ValueError(f"schemes.{chain[-1]}.like: '{place.like}' is no other block")
            chain.append(place.like)
            place = self.schemes[place.like]
        blocks = [self.schemes[each] for each in reversed(chain)]
        merged: dict[str, Any] = {"architecture": self.victim.architecture, "training": self.victim.training}
        for block in blocks:
            own = {"scheme": block.scheme, "architecture": block.architecture, "training": block.training}
            merged |= {key: value for key, value in own.items() if value is not None}
            merged["params"] = {**merged.get("params", {}), **block.params}
        if "scheme" not in merged:
            raise ValueError(f"schemes.{name}.scheme: is missing")
        return SchemePlan(**merged)


@dataclass(frozen=True)
class Plan(MarksPlan):
    """A validated parameter file of the contest of watermarks."""

    SECTIONS: ClassVar = {"watermark_contest": WatermarkContest}
    VERSION: ClassVar = VERSION

    contest: WatermarkContest

    def scheme_params(self, name: str) -> Params:
        """See :meth:`MarksPlan.scheme_params`."""
        from hallmark.watermark.schemes import schemes  # noqa: PLC0415 - torch is slow to import

        plan, where = self.contest.resolved(name), f"{self.path}: watermark_contest.schemes.{name}"
        assert plan.scheme is not None  # resolved() sees to it
        return mark_block(schemes, plan.scheme, plan.params, where)

    def twin_hash(self, each: Victim) -> str:
        """Of the victim's twin without a mark."""
        return digest([self.data_hash(each.seed), *self._network(each)])

    def victim_hash(self, each: Victim) -> str:
        """Of the marked network."""
        plan, params = self.contest.resolved(each.scheme), mark_values(self.scheme_params(each.scheme))
        # Without a mark the victim has random streams of its own, which it had not once.
        own = ["streams of its own"] if plan.scheme == NONE else []
        return digest([self.twin_hash(each), plan.scheme, params, *own])

    def thief_params(self, name: str) -> tuple[ModuleType, AttackParams]:
        """See :meth:`MarksPlan.thief_params`."""
        from hallmark.extraction import attack_params  # noqa: PLC0415 - torch is slow to import

        return attack_params(self.thief(name), self.thief_place(name))

    def thief_hash(self, thief: str) -> str:
        """Of a thief."""
        block = self.thief_params(thief)[1].model_dump(mode="json")
        # Such thieves saw whole answers once, whatever their block said: what they made then is not what they make now.
        sees_less = block.get("answers", {}).get("form", "soft") != "soft" or block.get("hide") or block.get("images")
        return digest(["sees what its block says", block] if sees_less else block)

    def cell_hash(self, each: Victim, thief: str) -> str:
        """Of a cell's figures."""
        return digest([VERSION, self.victim_hash(each), self.thief_hash(thief), self.contest.queries, *RATES])

    def _network(self, each: Victim) -> list[Any]:
        plan = self.contest.resolved(each.scheme)
        assert plan.architecture is not None and plan.training is not None  # resolved() sees to it
        return [plan.architecture.model_dump(), plan.training.model_dump()]
