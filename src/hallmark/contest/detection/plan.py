"""The parameters of the contest of detectors, and the cells that they make: model x detector.

A *model* is of a kind (clean, watermarked, or backdoored by an attack) and a seed, which also draws its images; its
*cells* are what the detectors say of it.  The thresholds come from the pipeline's null models, which are innocent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hallmark.config import Architecture, Count, FileName, Params, Training
from hallmark.contest.marks import mark_block
from hallmark.contest.parameters import BasePlan, digest, known_names, method_block

VERSION = 1
"""Of the figures: raise it when a change of the code makes all measured cells worthless."""
Role = Literal["clean", "marked", "backdoored"]


class PoisonPlan(Params):
    """A real backdoor: an attack of :mod:`hallmark.poison` on the training images."""

    attack: str
    rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of the training images."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The attack's own parameters; what is missing has its default."""


class MarkPlan(Params):
    """A watermark of :mod:`hallmark.watermark.schemes`."""

    scheme: str
    params: dict[str, Any] = Field(default_factory=dict)


class KindPlan(Params):
    """A block of ``detection_contest.kinds``; without poison and mark its models are clean."""

    role: Role
    models: Count
    first_seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """The models have this seed and those after it."""
    poison: PoisonPlan | None = None
    """The target class of a model is its seed, modulo the number of classes."""
    mark: MarkPlan | None = None
    training: Training | None = None
    """None: that of the contest."""
    least_success: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the backdoor or the mark: models below it are reported and not counted: they hide nothing that works."""

    @model_validator(mode="after")
    def _what_it_is(self) -> KindPlan:
        wanted = {"marked": self.mark is not None, "backdoored": self.poison is not None}
        if {name for name, given in wanted.items() if given} - {self.role} or not wanted.get(self.role, True):
            raise ValueError(f"role: a {self.role} model wants its own block alone (mark: marked, poison: backdoored)")
        return self


class DetectionContest(Params):
    """Section ``detection_contest``."""

    false_alarm: Annotated[float, Field(gt=0, lt=0.5)]
    """Probability that a clean model is called backdoored, to which the thresholds are set on the null models."""
    innocents: list[str] | None = None
    """Kinds of the null models that count, as in ``eval_backdoor.detection``; None: all."""
    architecture: Architecture
    training: Training
    kinds: dict[FileName, KindPlan] = Field(min_length=1)
    detectors: dict[FileName, dict[str, Any]]
    """Blocks of :mod:`hallmark.detection.models`, by name."""


@dataclass(frozen=True)
class Model:
    """One model of the contest."""

    kind: str
    seed: int

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.kind}-seed{self.seed}"


@dataclass(frozen=True)
class Plan(BasePlan):
    """A validated parameter file of the contest of detectors."""

    SECTIONS: ClassVar = {"detection_contest": DetectionContest}

    contest: DetectionContest

    def models(self, kinds: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Model]:
        """The models in the order of their work.

        Args:
            kinds: only these; empty means all.
            seeds: in place of the plan's.

        Raises:
            UserError: a kind that the plan does not hold.
        """
        known = self.contest.kinds
        known_names(f"{self.path}: detection_contest", ("kind", kinds, known))
        return [
            Model(name, seed)
            for name in kinds or known
            for seed in seeds or range(known[name].first_seed, known[name].first_seed + known[name].models)
        ]

    def training(self, each: Model) -> Training:
        """How the model is trained."""
        return self.contest.kinds[each.kind].training or self.contest.training

    def detector(self, name: str) -> Params:
        """The parameters of a detector by its module's class.

        Raises:
            UserError: no such detector, or the parameters are invalid.
        """
        from hallmark.detection.models import registry  # noqa: PLC0415 - torch is slow to import

        return registry.parameters(name, self.contest.detectors, f"{self.path}: detection_contest.detectors")

    def check_methods(self) -> None:
        """See :meth:`BasePlan.check_methods`."""
        from hallmark import poison  # noqa: PLC0415 - torch is slow to import

        for name in self.contest.detectors:
            self.detector(name)
        for name, kind in self.contest.kinds.items():
            if kind.poison is not None:
                where = f"{self.path}: detection_contest.kinds.{name}.poison"
                method_block(poison.registry, kind.poison.attack, kind.poison.params, where)
            if kind.mark is not None:
                self.mark_params(name, kind.mark)

    def mark_params(self, kind: str, mark: MarkPlan) -> Params:
        """The parameters of a kind's mark by its scheme's class.

        Raises:
            UserError: no such scheme, or the parameters are invalid.
        """
        from hallmark.watermark.schemes import schemes  # noqa: PLC0415 - torch is slow to import

        return mark_block(schemes, mark.scheme, mark.params, f"{self.path}: detection_contest.kinds.{kind}.mark")

    def model_hash(self, each: Model) -> str:
        """Of the network."""
        kind, own = self.contest.kinds[each.kind], self.at(each.seed)
        made = [None if block is None else block.model_dump(mode="json") for block in (kind.poison, kind.mark)]
        network = [self.contest.architecture.model_dump(), self.training(each).model_dump()]
        return digest([VERSION, own.runtime.model_dump(), own.prepare_data.model_dump(), *made, *network])

    def cell_hash(self, each: Model, detector: str) -> str:
        """Of what a detector says of a model."""
        return digest([self.model_hash(each), detector, self.detector(detector).model_dump(mode="json")])
