"""Splits: disjoint, stratified, of the size asked for, and free of images that occur twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hallmark.config import PrepareData
from hallmark.data import splits
from hallmark.data.sources import Source
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images


def prepare(**values: Any) -> PrepareData:
    sizes = {"train": 30, "test": 0, "reserve": 6, "queries": 21}
    return PrepareData(**{"source": "digits", **sizes, **values})


def source(train: int = 90, test: int = 30) -> Source:
    part = toy_images(train + test)
    index = torch.arange(train + test)
    return Source(part.subset(index[:train]), part.subset(index[train:]) if test else None, {})


def test_splits_are_disjoint_stratified_and_of_their_size(cpu: Runtime) -> None:
    origin = source()
    sets = splits.split(origin, prepare(), cpu).sets
    assert {name: len(data) for name, data in sets.items()} == {"train": 30, "test": 30, "reserve": 6, "queries": 21}
    ids = torch.cat([data.ids for data in sets.values()])
    assert len(torch.unique(ids)) == len(ids)
    assert set(sets["test"].ids.tolist()) == set(range(90, 120))
    for data in sets.values():
        assert torch.bincount(data.labels).tolist() == [len(data) // 3] * 3
        assert not torch.equal(data.ids, data.ids.sort().values)  # in random order, so that any prefix is fair
        whole = toy_images(120)
        assert torch.equal(data.images, whole.images[data.ids])
        assert torch.equal(data.labels, whole.labels[data.ids])


def test_zero_is_all_that_is_left(cpu: Runtime) -> None:
    sets = splits.split(source(), prepare(train=0), cpu).sets
    assert len(sets["train"]) == 90 - 6 - 21
    used = torch.cat([sets[name].ids for name in ("train", "reserve", "queries")])
    assert used.sort().values.tolist() == list(range(90))


def test_a_larger_train_split_leaves_the_others_as_they_were(cpu: Runtime) -> None:
    one, two = (splits.split(source(), prepare(train=size), cpu).sets for size in (30, 60))
    for name in ("reserve", "queries", "test"):
        assert torch.equal(one[name].ids, two[name].ids)


def test_another_seed_draws_other_images(cpu: Runtime) -> None:
    one, two = (splits.split(source(), prepare(), replace(cpu, seed=seed)).sets["train"] for seed in (0, 1))
    assert set(one.ids.tolist()) != set(two.ids.tolist())


def test_without_a_test_part_it_is_drawn_from_the_whole(cpu: Runtime) -> None:
    sets = splits.split(source(90, 0), prepare(test=15, train=0), cpu).sets
    assert len(sets["test"]) == 15
    ids = torch.cat([data.ids for data in sets.values()])
    assert ids.sort().values.tolist() == list(range(90))
    with pytest.raises(UserError, match=r"prepare_data\.test: source 'digits' has no test part"):
        splits.split(source(90, 0), prepare(), cpu)


@pytest.mark.parametrize("size", [7, 50, 103, 200])
def test_allocation_is_proportional_and_within_bounds(size: int) -> None:
    available = torch.tensor([3, 150, 40, 7])
    counts = splits.allocate(available, size)
    assert int(counts.sum()) == size
    assert bool((counts <= available).all())
    assert float((counts - available * size / 200).abs().max()) < 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": 64}, r"prepare_data\.reserve .* prepare_data\.train: 6 \+ 21 \+ 64 = 91 images .* has 90"),
        ({"train": 0, "queries": 84}, r"6 \+ 84 \+ all that is left images wanted, but the source has 90"),
        ({"test": 31}, r"prepare_data\.test: 31 images wanted, but the source has 30"),
        ({"reserve": 2}, r"prepare_data\.reserve: 2 images leave none for class 'band 2', .* has 30.*raise this size"),
    ],
)
def test_sizes_that_cannot_be_had(cpu: Runtime, values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        splits.split(source(), prepare(**values), cpu)


def test_a_class_with_too_few_samples_is_named(cpu: Runtime) -> None:
    origin = source()
    labels = origin.train.labels.clone()
    labels[labels == 2] = torch.tensor([2] + [0] * 29)
    origin = replace(origin, train=replace(origin.train, labels=labels))
    with pytest.raises(UserError, match=r"prepare_data\.\w+: .*class 'band 2', of which the source has 1 .*add images"):
        splits.split(origin, prepare(), cpu)


def with_duplicates() -> Source:
    """90 + 30 images: 5 of the training part equal earlier ones (2 under another label), 4 are in the test part."""
    whole = toy_images(120)
    images, labels = whole.images.clone(), whole.labels.clone()
    images[60:65] = images[0:5]
    labels[60:62] = (labels[0:2] + 1) % 3
    labels[62:65] = labels[2:5]
    images[100:104] = images[10:14]
    labels[100:104] = labels[10:14]
    whole = replace(whole, images=images, labels=labels)
    index = torch.arange(120)
    return Source(whole.subset(index[:90]), whole.subset(index[90:]), {})


def test_duplicates_are_dropped_before_the_draw(cpu: Runtime) -> None:
    result = splits.split(with_duplicates(), prepare(train=0), cpu)
    assert (result.dropped, result.conflicting) == (9, 2)
    assert len(result.sets["train"]) == 90 - 9 - 6 - 21
    assert len(result.sets["test"]) == 30
    assert all(row["images"] == 0 for row in splits.duplicates(result.sets) if row["split"] != row["other"])
    with pytest.raises(UserError, match="after 9 duplicates were dropped, 81"):
        splits.split(with_duplicates(), prepare(train=60), cpu)


def test_duplicates_are_kept_and_counted_on_request(cpu: Runtime) -> None:
    result = splits.split(with_duplicates(), prepare(train=0, duplicates="report"), cpu)
    assert result.dropped == 0
    counted = {(row["split"], row["other"]): row["images"] for row in splits.duplicates(result.sets)}
    other = ("train", "reserve", "queries")
    assert sum(counted["test", name] for name in other) == 4
    # Five pairs within the training part: inside one split, or across two and then counted from both sides.
    within = sum(counted[name, name] for name in other)
    across = sum(counted[a, b] for a in other for b in other if a != b)
    assert within + across / 2 == 5


def test_first_occurrence_compares_every_pixel() -> None:
    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    images[1, 2, 7, 7] = 1
    images[3] = images[1]
    images[4, 0, 0, 0] = 255
    assert splits.first_occurrence(images).tolist() == [0, 1, 0, 1, 4]


def test_balance_counts_every_class() -> None:
    data = toy_images(7)
    rows = splits.balance({"train": data})
    assert [row["images"] for row in rows] == [3, 2, 2]
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def with_reserve() -> Source:
    """Ids 0-89 train, 90-119 test, 120-149 reserve; one reserve image occurs in train, one in test, one twice."""
    whole = toy_images(150)
    images = whole.images.clone()
    images[[120, 121, 122]] = images[[0, 91, 125]]
    whole = replace(whole, images=images)
    index = torch.arange(150)
    return Source(whole.subset(index[:90]), whole.subset(index[90:120]), {}, reserve=whole.subset(index[120:]))


def test_a_reserve_part_is_the_reserve(cpu: Runtime) -> None:
    result = splits.split(with_reserve(), prepare(source="parquet", path="x", reserve=0, train=0), cpu)
    sets = result.sets
    assert set(sets["reserve"].ids.tolist()) == set(range(120, 150)) - {121, 125}
    trained = torch.cat([sets["train"].ids, sets["queries"].ids])
    assert set(trained.tolist()) == set(range(1, 90))
    assert set(sets["test"].ids.tolist()) == set(range(90, 120))
    assert result.dropped == 3
    reported = splits.split(with_reserve(), prepare(reserve=6, train=0, duplicates="report"), cpu)
    assert reported.dropped == 0
    assert len(reported.sets["reserve"]) == 6
    assert reported.sets["reserve"].ids.min() >= 120


def test_without_a_reserve_part_two_sizes_of_zero_are_refused(cpu: Runtime) -> None:
    with pytest.raises(UserError, match=r"without a reserve part only one"):
        splits.split(source(), prepare(source="parquet", path="x", reserve=0, train=0), cpu)
