"""What the contests of marks have in common: victims with a mark, the thieves who steal them, and groups of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from hallmark.config import KeyParams, Params
from hallmark.contest.common import network_name
from hallmark.contest.parameters import BasePlan, data_values, digest, known_names, method_block
from hallmark.contest.rows import Row, markdown_table, percent
from hallmark.errors import UserError
from hallmark.registry import Registry

WAYS = {
    *("corner", "diagonal", "donut", "halves", "hot_dog", "left_right", "random_box", "ratio_mix", "ratio_split"),
    *("stripes", "top_bottom"),
}
"""Untrained ways to combine when the first marks were measured: with these alone ``others`` is known by its name."""


class PaperFigures(Params):
    """What a paper reports for a cell, per cent."""

    victim_accuracy: float | None = None
    victim_wsr: float | None = None
    victim_wfpr: float | None = None
    copy_accuracy: float | None = None
    copy_wsr: float | None = None
    copy_wfpr: float | None = None


class GroupPlan(Params):
    """A block of a contest's ``groups``: one experiment."""

    title: str
    schemes: Annotated[list[str], Field(min_length=1)]
    thieves: Annotated[list[str], Field(min_length=1)]
    paper: dict[str, PaperFigures] = Field(default_factory=dict)
    """By ``SCHEME/THIEF``."""
    paper_note: str = ""
    """Where the paper's figures are from, and how its setting differs."""

    @model_validator(mode="after")
    def _paper(self) -> GroupPlan:
        cells = {f"{scheme}/{thief}" for scheme in self.schemes for thief in self.thieves}
        if unknown := [name for name in self.paper if name not in cells]:
            raise ValueError(f"paper: '{unknown[0]}' is no cell of the group")
        return self

    def victims(self) -> Iterable[tuple[str, ...]]:
        """What tells its victims apart, but for the seed; the scheme's name first."""
        return [(scheme,) for scheme in self.schemes]


def check_groups(groups: Mapping[str, GroupPlan], known: Mapping[str, Collection[str]]) -> None:
    """Refuse names that a contest does not hold.

    Args:
        known: names, by the groups' list of them.

    Raises:
        ValueError: the first unknown one.
    """
    for name, group in groups.items():
        for kind, names in known.items():
            if unknown := [each for each in getattr(group, kind) if each not in names]:
                raise ValueError(f"groups.{name}.{kind}: no '{unknown[0]}'; there are {', '.join(names)}")


def resolved_thief(thieves: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The block ``name`` over the block that its ``like`` names.

    Raises:
        ValueError: ``like`` names no block, or one that has a ``like`` itself.
    """
    own = dict(thieves[name])
    like = own.pop("like", None)
    if like is None:
        return own
    if like not in thieves or "like" in thieves[like]:
        raise ValueError(f"thieves.{name}.like: '{like}' is no other block, or has a like of its own")
    return {**thieves[like], **own}


@dataclass(frozen=True)
class Victim:
    """One marked network of a contest, and the thieves who steal it.

    Attributes:
        scheme, thieves, architecture: names in the plan; empty where the architecture is the scheme's.
    """

    seed: int
    scheme: str
    thieves: tuple[str, ...]
    architecture: str = ""

    @property
    def name(self) -> str:
        """A part of a file name; the sign is in no name of a plan."""
        return f"{self.scheme}@{self.architecture}" if self.architecture else self.scheme

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.name}-seed{self.seed}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The beginning of its cells' file names."""
        return (self.name,)

    @property
    def cells(self) -> tuple[str, ...]:
        """The thieves."""
        return self.thieves


@dataclass(frozen=True)
class MarksPlan(BasePlan):
    """A plan whose last field is ``contest``, with ``seeds``, ``schemes``, ``thief``, ``thieves`` and ``groups``."""

    VERSION: ClassVar[int] = 1
    """Of the figures: raise it when a change of the code makes all measured cells worthless."""

    contest: Any

    @property
    def section(self) -> str:
        """The contest's, in the parameter file."""
        return tuple(self.SECTIONS)[-1]

    def check_methods(self) -> None:
        """See :meth:`BasePlan.check_methods`; whether a thief has as many images as he asks shows when he asks."""
        for name in self.contest.schemes:
            self.scheme_params(name)
        for name in self.contest.thieves:
            self.thief_params(name)

    def scheme_params(self, name: str) -> Params:
        """The parameters of a scheme's block by its scheme's own class.

        Raises:
            UserError: no such scheme, or the parameters are invalid.
        """
        raise NotImplementedError

    def thief_params(self, name: str) -> tuple[ModuleType, Params]:
        """A thief's module, and his complete block (:meth:`thief`) by its own class.

        Raises:
            UserError: no such method, or the block is invalid.
        """
        raise NotImplementedError

    def thief_place(self, name: str) -> str:
        """A thief's block, for messages."""
        return f"{self.path}: {self.section}.thieves.{name}"

    def cell_hash(self, each: Victim, thief: str) -> str:
        """Of a cell's figures."""
        raise NotImplementedError

    def hashes(self, seed: int) -> set[str]:
        """Of all cells of a seed."""
        return {self.cell_hash(each, cell) for each in self.victims([seed]) for cell in each.cells}

    def victims(
        self,
        seeds: Sequence[int] = (),
        groups: Sequence[str] = (),
        schemes: Sequence[str] = (),
        thieves: Sequence[str] = (),
    ) -> list[Victim]:
        """The victims in the order of their work: all of a seed before the next, the groups in their order.

        Args:
            seeds: in place of the plan's.
            groups, schemes, thieves: only these; empty means all.

        Raises:
            UserError: a name that the plan does not hold, or nothing is left.
        """
        contest, where = self.contest, f"{self.path}: {self.section}"
        known_names(
            where,
            ("group", groups, contest.groups),
            ("scheme", schemes, contest.schemes),
            ("thief", thieves, contest.thieves),
        )
        met: dict[tuple[str, ...], dict[str, None]] = {}
        for name in groups or contest.groups:
            group = contest.groups[name]
            chosen = [thief for thief in group.thieves if not thieves or thief in thieves]
            for victim in group.victims():
                if not schemes or victim[0] in schemes:
                    met.setdefault(victim, {}).update(dict.fromkeys(chosen))
        thieved = [(each, tuple(own)) for each, own in met.items() if own]
        found = [Victim(seed, each[0], own, *each[1:]) for seed in seeds or contest.seeds for each, own in thieved]
        if not found:
            raise UserError(f"{where}: no group has these schemes and thieves")
        return found

    @property
    def dataset(self) -> str:
        """The data set's name in the tables."""
        return self.contest.dataset or self.prepare_data.source

    @property
    def held_out(self) -> int | None:
        """How many of the split ``queries`` decide in place of the test part; None: the test part does."""
        return self.contest.held_out

    def thief(self, name: str) -> dict[str, Any]:
        """A thief's block, complete: what it does not say is the shared block's; null takes one of those out."""
        own = resolved_thief(self.contest.thieves, name)
        without = {each for each in self.contest.thief if each in own and own[each] is None}
        return {each: value for each, value in {**self.contest.thief, **own}.items() if each not in without}

    def thief_row(self, name: str) -> Row:
        """What a row says of its thief."""
        block = self.thief(name)
        known = {"thief": name, "attack": block.get("method"), "budget": block.get("budget")}
        return known | {"thief_architecture": network_name(block.get("architecture"))}

    def data_hash(self, seed: int) -> str:
        """Of a seed's splits."""
        parts = [self.VERSION, self.at(seed).runtime.model_dump(), data_values(self.prepare_data, self.contest.dataset)]
        return digest(parts if self.held_out is None else [*parts, self.held_out])


def cell_name(row: Row) -> str:
    """For people."""
    return f"{row['scheme']}/{row['thief']} seed {row['seed']}"


def measured(found: Mapping[tuple[str, ...], Sequence[Row]], seeds: Sequence[int]) -> list[str]:
    """How many of a group's cells have figures, in Markdown: a table with gaps must say so.

    Args:
        found: rows by cell, of cells without any as well.
        seeds: the plan's.
    """
    there = sum(row["seed"] in seeds for rows in found.values() for row in rows)
    wanted = len(found) * len(seeds)
    return [] if there == wanted else [f"Measured: {there} of {wanted} cells.", ""]


def of_victims(found: Mapping[tuple[str, ...], Sequence[Row]]) -> dict[tuple[str, ...], list[Row]]:
    """A row a seed for each victim: it is the same in the rows of all its thieves.

    Args:
        found: rows by what tells the victim apart and, last, the thief.
    """
    victims: dict[tuple[str, ...], dict[int, Row]] = {}
    for (*victim, _), rows in found.items():
        victims.setdefault(tuple(victim), {}).update({row["seed"]: row for row in rows})
    return {victim: [*rows.values()] for victim, rows in victims.items()}


def beside_paper(
    group: GroupPlan,
    found: Mapping[tuple[str, ...], Sequence[Row]],
    header: Sequence[str],
    column: Callable[[str], str],
) -> list[str]:
    """The paper's figures beside ours, in Markdown; of figures that it has for no cell, none.

    Args:
        found: as for :func:`of_victims`; ``header``: the names of its keys' parts.
        column: of the rows, by the name of one of :class:`PaperFigures`.
    """
    named = {cell: f"{cell[0]}/{cell[-1]}" for cell in found}
    shown = {cell: group.paper[name] for cell, name in named.items() if name in group.paper}
    figures = [name for name in PaperFigures.model_fields if any(getattr(p, name) is not None for p in shown.values())]
    if not figures:
        return []
    body = []
    for cell, paper in shown.items():
        line = [*cell]
        for name in figures:
            theirs = getattr(paper, name)
            line += [percent(found[cell], column(name)), "-" if theirs is None else f"{theirs:g}"]
        body.append(line)
    titles = [name.replace("_", " ").replace("wsr", "WSR").replace("wfpr", "WFPR") for name in figures]
    note = f" {group.paper_note}" if group.paper_note else ""
    columns = [*header, *(word for title in titles for word in (f"{title}: ours", "paper"))]
    return [f"Beside the paper.{note}", "", *markdown_table(columns, body)]


def mark_values(params: Params) -> dict[str, Any]:
    """What a hash knows a mark by: bridges, younger than marks that are measured, do not count where there are none."""
    values = params.model_dump(mode="json")
    if values.get("bridge", ...) is None:
        del values["bridge"]
        del values["weights"]["bridge"]
    return naming_new_ways(values)


def naming_new_ways(values: dict[str, Any]) -> dict[str, Any]:
    """A block's values for a hash: a word that stands for ways to combine means others once there are more of them."""
    from hallmark.watermark.ways import untrained  # noqa: PLC0415 - torch is slow to import

    new = sorted(set(untrained()) - WAYS)
    words = {"evasion_ways": "others", "ways": "all"}
    return {name: [value, *new] if new and value == words.get(name, ...) else value for name, value in values.items()}


def mark_block(registry: Registry, method: str, values: Mapping[str, Any], where: str) -> Params:
    """:func:`method_block` of a mark, whose ways to combine must be there as well."""
    params = method_block(registry, method, values, where)
    if isinstance(params, KeyParams):
        from hallmark.watermark.key import ways_of  # noqa: PLC0415 - torch is slow to import

        ways_of(params, f"{where}.params")
    return params
