"""The contest's parameters, and the cells that they make: attack x rate x seed x sanitizer x repair.

A *set* is one poisoned training set (attack, label mode, rate, target, seed); its *cells* are what the sanitizers
and repairs make of it.  A cell is known by a hash of the parameters that its figures depend on, and of no others,
so that what was measured stays measured when something is added to the plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from hallmark import config
from hallmark.config import RESTORING, ClassLabel, Params, PoisonData, PurifyData, Repair, TrainDiffusion
from hallmark.contest.parameters import BasePlan, data_values, digest, known_names, method_block
from hallmark.errors import UserError, naming

NONE = "none"
"""The attack that leaves the set as it is, and the sanitizer that does."""
VERSION = 3
"""Of the figures: raise it when a change of the code makes all measured cells worthless."""
VERSIONS: Mapping[str, int] = {"issba": 2, "spectral_signatures": 2, "spectre": 4}
"""Of one attack's or sanitizer's code, 1 where it is not named: raise it when a change makes its cells worthless."""
COLUMNS = (
    "seed", "dataset", "attack", "label_mode", "rate", "target", "sanitizer", "repair",
    "accuracy", "asr", "asr_sd", "models", "clean_accuracy", "floor", "floor_sd", "tpr", "fpr", "covers_changed", "auc",
    "kept", "relabelled", "purified", "dropped", "added", "targets_found",
    "detect_seconds", "repair_seconds", "train_seconds", "evaluations_per_image", "error",
)  # fmt: skip
"""Of the rows, in contest.csv and under ``row`` in the files of cells.

accuracy, asr: of models trained on the purified set, on the test images, and on those with the trigger: means.
clean_accuracy, floor: the same of models trained on the set before poisoning.
asr_sd, floor_sd: standard deviation over the models.  models: how many there are of the purified set.
tpr, fpr: share of the poisoned, and of the other images, that are not kept; covers count for neither.
covers_changed: share of the covers that are not kept: harmless images, though made by the attacker.
auc: area under the ROC curve of the sanitizer's scores, poisoned images against the others without the covers.
kept ... added: numbers of images.  targets_found: classes that the sanitizer called targets, by number.
evaluations_per_image: the diffusion model's network evaluations during detection, those for trusted images
    included, by the number of training images.  The first set of a seed also purifies the trusted images for the
    classifiers of the reserve, which its other sets find made: about 0.1 more, and the seconds of their training.
"""


Told = Literal["share_of_set", "share_of_class", "target", "share_of_target"]
"""What a sanitizer may be told: the poisons' share of the whole set, or of the class that holds most of them; that
class; and its poisons as a share of the whole set."""


_ANY_SHARE = 0.05
"""Stands for the truth of a set while the plan is checked."""


class AttackPlan(Params):
    """A block of ``contest.attacks``: its name is the one under which the attack stands in the tables."""

    attack: str
    label_mode: Literal["usual", "all_to_one", "all_to_all", "clean"] = "usual"
    rates: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=list)
    """Shares of the whole training set; none for the attack ``none``."""
    seeds: list[Annotated[int, Field(ge=0, lt=1 << 31)]] | None = Field(default=None, min_length=1)
    """In place of the contest's."""
    target: ClassLabel | None = None
    """The target class; null: drawn for each seed, the same at all rates."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The attack's own block, as in section ``poison_data``."""

    @model_validator(mode="after")
    def _rates(self) -> AttackPlan:
        if (self.attack == NONE) != (not self.rates):
            raise ValueError("rates: every attack needs at least one, and the attack none has none")
        if len(set(self.rates)) < len(self.rates):
            raise ValueError("rates: one comes twice")
        return self

    def ranked(self) -> list[float | None]:
        """The rates, the middle one first."""
        rates = sorted(self.rates)
        middle = rates[len(rates) // 2 : len(rates) // 2 + 1]
        return [*middle, *(rate for rate in rates if rate not in middle)] if rates else [None]


class Contest(Params):
    """Section ``contest``."""

    seeds: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(min_length=1)
    attacks: dict[str, AttackPlan] = Field(min_length=1)
    sanitizers: dict[str, list[Repair]] = Field(min_length=1)
    """The repairs after each sanitizer."""
    ours: str
    """``SANITIZER/REPAIR`` that the claims are about; all other sanitizers are the baselines."""
    dataset: str | None = None
    """The data set's name: in the tables, and in the cells' hashes in place of ``prepare_data.path``, so that the files
    may lie anywhere; null: the source's name, and the path counts."""
    told: dict[str, dict[str, Told]] = Field(default_factory=dict)
    """Parameters of sanitizers that are given the truth, as their papers or released code give it.  On a set without
    poisons they keep their own values."""
    models: Annotated[int, Field(ge=1, le=100)] = 1
    """Final models of each cell, of which the means are reported."""
    clean_models: Annotated[int, Field(ge=1, le=100)] = 1
    """Models of the set before poisoning: the floor is theirs."""
    middle_only: list[str] = Field(default_factory=list)
    """``SANITIZER/REPAIR`` that run at each attack's middle rate alone; all others run at all rates."""

    @model_validator(mode="after")
    def _known(self) -> Contest:
        sanitizer, _, repair = self.ours.partition("/")
        if repair not in self.sanitizers.get(sanitizer, []):
            raise ValueError(f"ours: '{self.ours}' is not among the sanitizers and their repairs")
        names = [f"{sanitizer}/{repair}" for sanitizer, repairs in self.sanitizers.items() for repair in repairs]
        if unknown := [name for name in self.middle_only if name not in names or name == self.ours]:
            raise ValueError(f"middle_only: '{unknown[0]}' is ours, or not among the sanitizers and their repairs")
        if unknown := [name for name in self.told if name not in self.sanitizers]:
            raise ValueError(f"told: '{unknown[0]}' is not among the sanitizers")
        if NONE in self.sanitizers:
            raise ValueError("sanitizers: 'none' is always measured; take it out")
        if empty := [name for name, repairs in self.sanitizers.items() if not repairs]:
            raise ValueError(f"sanitizers.{empty[0]}: wants at least one repair")
        return self


@dataclass(frozen=True)
class Cell:
    """What one sanitizer and repair make of a set; ``none/none`` is the set as given."""

    sanitizer: str
    repair: str

    @property
    def name(self) -> str:
        """``SANITIZER/REPAIR``."""
        return f"{self.sanitizer}/{self.repair}"


@dataclass(frozen=True)
class Set:
    """One training set of the contest and its cells, the raw one first.

    Attributes:
        name: the attack's name in the plan.
        rate: None for the attack ``none``.
    """

    seed: int
    name: str
    plan: AttackPlan
    rate: float | None
    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """A file name."""
        rate = "" if self.rate is None else f"-{self.rate:g}"
        return f"{self.name}{rate}-seed{self.seed}"

    def poison_data(self, target: ClassLabel) -> PoisonData:
        """The section ``poison_data`` of this set."""
        block = {self.plan.attack: self.plan.params} if self.plan.params else {}
        # The attack none reads no rate, but the section has one.
        values = {"attack": self.plan.attack, "rate": self.rate or 0.1, "target": target}
        mode = "usual" if self.plan.attack == NONE else self.plan.label_mode
        return config.parse(PoisonData, {**values, "label_mode": mode, **block}, f"contest.attacks.{self.name}")


@dataclass(frozen=True)
class Plan(BasePlan):
    """A validated parameter file of the contest."""

    SECTIONS: ClassVar = {"train_diffusion": TrainDiffusion, "purify_data": PurifyData, "contest": Contest}

    train_diffusion: TrainDiffusion
    purify_data: PurifyData
    contest: Contest

    def sets(
        self,
        seeds: Sequence[int] = (),
        attacks: Sequence[str] = (),
        rates: Sequence[float] = (),
        sanitizers: Sequence[str] = (),
    ) -> list[Set]:
        """The sets in the order of their work: every attack's middle rate at all seeds, then the other rates.

        Args:
            seeds: in place of the plan's.
            attacks, rates, sanitizers: only these; empty means all.  The raw cell is in every set.

        Raises:
            UserError: a name that the plan does not hold, or nothing is left.
        """
        contest = self.contest
        known_names(
            f"{self.path}: contest",
            ("attack", attacks, contest.attacks),
            ("sanitizer", sanitizers, [NONE, *contest.sanitizers]),
        )
        found: list[Set] = []
        chosen = {name: plan for name, plan in contest.attacks.items() if not attacks or name in attacks}
        own = {name: seeds or plan.seeds or contest.seeds for name, plan in chosen.items()}
        ordered = list(dict.fromkeys(itertools.chain(*own.values())))
        for rank in range(max(len(plan.ranked()) for plan in chosen.values())):
            for seed, (name, plan) in itertools.product(ordered, chosen.items()):
                rate = plan.ranked()[rank] if rank < len(plan.ranked()) else None
                unwanted = bool(rates) and rate is not None and rate not in rates
                if rank >= len(plan.ranked()) or unwanted or seed not in own[name]:
                    continue
                cells = [cell for cell in self._cells(rank) if not sanitizers or cell.sanitizer in sanitizers]
                raw = Cell(NONE, NONE)
                found.append(Set(seed, name, plan, rate, (raw, *(cell for cell in cells if cell != raw))))
        if not found:
            raise UserError(f"{self.path}: contest: no set has these attacks and rates")
        return found

    def baselines(self, attack: str, rate: float | None) -> list[str]:
        """``SANITIZER/REPAIR`` of those that ours is compared with on a set; none of an attack that is not planned."""
        plan = self.contest.attacks.get(attack)
        if plan is None or rate not in plan.ranked():
            return []
        mine = self.contest.ours.partition("/")[0]
        return [cell.name for cell in self._cells(plan.ranked().index(rate)) if cell.sanitizer != mine]

    def _cells(self, rank: int) -> Iterable[Cell]:
        for sanitizer, repairs in self.contest.sanitizers.items():
            cells = (Cell(sanitizer, repair) for repair in repairs)
            yield from (cell for cell in cells if rank == 0 or cell.name not in self.contest.middle_only)

    def hashes(self, seed: int) -> set[str]:
        """Of all cells of a seed."""
        return {self.cell_hash(each, cell) for each in self.sets([seed]) for cell in each.cells}

    def base_hash(self, seed: int) -> str:
        """Of what all sets of a seed share: splits, diffusion model, clean model."""
        return digest([VERSION, *self._shared(seed), self.train_diffusion.model_dump()])

    def set_hash(self, each: Set) -> str:
        """Of the poisoned set and the model trained on it."""
        return digest([VERSION, *self._shared(each.seed), self._attack(each)])

    def cell_hash(self, each: Set, cell: Cell) -> str:
        """Of a cell's figures."""
        parts: list[Any] = [VERSION, *self._shared(each.seed), self._attack(each), cell.name]
        if cell.sanitizer != NONE:
            parts += [self.train_diffusion.model_dump(), self.purify_data.rounds.model_dump()]
            parts.append(self.method_params(cell.sanitizer).model_dump(mode="json"))
            parts += _version(cell.sanitizer)
            if cell.sanitizer in self.contest.told:
                parts.append(self.contest.told[cell.sanitizer])
            if cell.repair in RESTORING:
                parts.append(self.purify_data.restore.model_dump())
        return digest(parts)

    def method_params(self, sanitizer: str, truth: Mapping[str, float] | None = None) -> Params:
        """The sanitizer's own parameters, its defaults where it has no block.

        Args:
            truth: of a set, every kind of :data:`Told`, for the parameters that are told it.

        Raises:
            UserError: no such sanitizer, or its block is invalid.
        """
        from hallmark.purify import methods  # noqa: PLC0415 - slow to import

        blocks = dict(self.purify_data.model_extra or {})
        if truth and (told := self.contest.told.get(sanitizer)):
            blocks = {sanitizer: {**blocks.get(sanitizer, {}), **{name: truth[kind] for name, kind in told.items()}}}
        return methods.registry.parameters(sanitizer, blocks, f"{self.path}: purify_data")

    def attack_params(self, name: str) -> Params:
        """The own parameters of an attack of the plan, its defaults where it has no block.

        Raises:
            UserError: no such attack, or its block is invalid.
        """
        from hallmark import poison  # noqa: PLC0415 - slow to import

        plan = self.contest.attacks[name]
        return method_block(poison.registry, plan.attack, plan.params, f"{self.path}: contest.attacks.{name}")

    def check_methods(self) -> None:
        """See :meth:`BasePlan.check_methods`; whether an attack fits the images shows when it is made."""
        from hallmark import poison  # noqa: PLC0415 - slow to import

        for name, plan in self.contest.attacks.items():
            self.attack_params(name)
            each = Set(0, name, plan, plan.ranked()[0], ())
            with naming(f"{self.path}: contest.attacks.{name}"):
                poison.label_mode(each.poison_data(plan.target or 0), poison.registry.get(plan.attack).LABEL_MODES)
        for sanitizer in self.contest.sanitizers:
            self.method_params(sanitizer)
            with naming(f"{self.path}: contest.told.{sanitizer}, as of some set"):
                self.method_params(sanitizer, dict.fromkeys(get_args(Told), _ANY_SHARE) | {"target": 0})

    def _shared(self, seed: int) -> list[Any]:
        purify = self.purify_data
        return [
            self.at(seed).runtime.model_dump(),
            data_values(self.prepare_data, self.contest.dataset),
            purify.architecture.model_dump(),
            purify.training.model_dump(),
            [self.contest.models, self.contest.clean_models],
        ]

    def _attack(self, each: Set) -> list[Any]:
        plan = each.plan
        own = self.attack_params(each.name).model_dump(mode="json")
        target = None if plan.attack == NONE else plan.target
        # The name counts: a target that is drawn is drawn for it.
        return [each.name, plan.attack, plan.label_mode, each.rate, target, own, *_version(plan.attack)]


def _version(method: str) -> list[str]:
    version = VERSIONS.get(method, 1)
    return [f"version {version}"] if version > 1 else []
