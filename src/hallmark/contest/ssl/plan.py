"""The parameters of the contest of encoders, and the cells that they make: scheme x architecture x thief x seed.

A *victim* is one encoder with one mark; its *cells* are what the thieves make of it.  The controls are an encoder
without a mark, of other random streams, and what the same thieves make of that, asked the same.  A cell is known by a
hash of the parameters that its figures depend on, and of no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

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
from hallmark.ssl.measures import COLUMNS as RATES
from hallmark.ssl.probes import MLP
from hallmark.ssl.simclr import SimCLR

if TYPE_CHECKING:
    from hallmark.ssl.thieves import ThiefParams

VERSION = 1
"""Of the figures: raise it when a change of the code makes all measured cells worthless."""
MODELS = ("victim", "unmarked", "copy", "unmarked_copy")
"""Whose figures a row has: the marked encoder, one without a mark, and what the thief makes of either."""
COLUMNS = (
    "seed", "dataset", "scheme", "method", "thief", "attack", "victim_architecture", "thief_architecture", "budget",
    "queries", *(f"{model}_{rate}" for model in MODELS for rate in RATES), "train_seconds",
    "steal_seconds", "error",
)  # fmt: skip
"""Of the rows, in contest.csv and under ``row`` in the files of cells; :data:`hallmark.ssl.measures.COLUMNS` are 0-1.

scheme, thief: names in the plan.  method, attack: their modules.  queries: verification queries asked.
"""


class SchemePlan(Params):
    """A block of ``ssl_contest.schemes``: its name is the one in the tables."""

    scheme: str
    """The module of :mod:`hallmark.ssl.schemes`."""
    like: str | None = None
    """Another block, whose ``params`` count where this one has none."""
    params: dict[str, Any] = Field(default_factory=dict)


class SslGroup(GroupPlan):
    """A block of ``ssl_contest.groups``."""

    architectures: Annotated[list[str], Field(min_length=1)]

    def victims(self) -> Iterable[tuple[str, ...]]:
        """Scheme and architecture."""
        return [(scheme, architecture) for architecture in self.architectures for scheme in self.schemes]


class SslContest(Params):
    """Section ``ssl_contest``."""

    seeds: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(min_length=1)
    queries: Annotated[int, Field(ge=10)]
    """Verification queries, from held-out images."""
    held_out: Count | None = None
    """As in the contest of watermarks."""
    user: Count
    """Labelled images of the encoder's user, who trains the probes: taken from the split ``queries``."""
    judge: Count
    """Labelled images of the judge, likewise.  The rest of the split is the thief's."""
    dataset: str | None = None
    """The data set's name: in the tables, and in the cells' hashes in place of ``prepare_data.path``, so that the files
    may lie anywhere; null: the source's name, and the path counts."""
    simclr: SimCLR
    training: Training
    """Of every victim."""
    mlp: MLP = MLP()
    architectures: dict[FileName, Architecture] = Field(min_length=1)
    thief: dict[str, Any]
    """Parameters of every thief, where its own block has none."""
    schemes: dict[FileName, SchemePlan] = Field(min_length=1)
    thieves: dict[FileName, dict[str, Any]] = Field(min_length=1)
    groups: dict[FileName, SslGroup] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> SslContest:
        known = {"schemes": self.schemes, "architectures": self.architectures, "thieves": self.thieves}
        check_groups(self.groups, known)
        for name, block in self.schemes.items():
            if block.like is not None and (block.like not in self.schemes or self.schemes[block.like].like):
                raise ValueError(f"schemes.{name}.like: '{block.like}' is no block that stands alone")
        for name in self.thieves:
            resolved_thief(self.thieves, name)
        return self


@dataclass(frozen=True)
class Plan(MarksPlan):
    """A validated parameter file of the contest of encoders."""

    SECTIONS: ClassVar = {"ssl_contest": SslContest}
    VERSION: ClassVar = VERSION

    contest: SslContest

    def scheme_params(self, name: str) -> Params:
        """See :meth:`MarksPlan.scheme_params`."""
        from hallmark.ssl.schemes import schemes  # noqa: PLC0415 - schemes are imported when asked for

        block = self.contest.schemes[name]
        shared = self.contest.schemes[block.like].params if block.like else {}
        where = f"{self.path}: ssl_contest.schemes.{name}"
        return mark_block(schemes, block.scheme, {**shared, **block.params}, where)

    def unmarked_hash(self, each: Victim) -> str:
        """Of an encoder without a mark that is trained like the victim; user and judge take images from the thief's."""
        contest = self.contest
        blocks = (contest.simclr, contest.training, contest.architectures[each.architecture])
        trained = [block.model_dump(mode="json") for block in blocks]
        return digest([self.data_hash(each.seed), contest.user, contest.judge, *trained])

    def victim_hash(self, each: Victim) -> str:
        """Of the marked encoder."""
        params = mark_values(self.scheme_params(each.scheme))
        return digest([self.unmarked_hash(each), self.contest.schemes[each.scheme].scheme, params])

    def thief_params(self, name: str) -> tuple[ModuleType, ThiefParams]:
        """See :meth:`MarksPlan.thief_params`."""
        from hallmark.ssl.thieves import thief_params  # noqa: PLC0415 - torch is slow to import

        return thief_params(self.thief(name), self.thief_place(name))

    def thief_hash(self, thief: str) -> str:
        """Of a thief, what its block leaves to the defaults included."""
        return digest(self.thief_params(thief)[1].model_dump(mode="json"))

    def cell_hash(self, each: Victim, thief: str) -> str:
        """Of a cell's figures."""
        contest = self.contest
        asked = [contest.queries, contest.mlp.model_dump(mode="json"), *RATES]
        return digest([self.victim_hash(each), self.thief_hash(thief), *asked])
