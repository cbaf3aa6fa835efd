"""The alarms as a whole: their level on clean evidence, and one case for each constant and rule of theirs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hallmark.purify import alarms, occupancy
from hallmark.purify.alarms import Tests
from hallmark.purify.evidence import Evidence
from hallmark.runtime import Runtime
from tests.unit.test_purify import evidence


def apart(seen: Evidence, rows: Tensor, spread: float = 0.2) -> Evidence:
    """The same with the features of some images (bool ``[N]``) far from all others."""
    return replace(seen, features=torch.where(rows[:, None], spread * seen.features + 12, seen.features))


def kinds(found: alarms.Alarms) -> set[str]:
    return {kind for kind in alarms.KINDS if found.counts[f"alarms_by_{kind}"]}


def of_classes(seen: Evidence, classes: int) -> Evidence:
    return replace(seen, labels=torch.arange(len(seen.labels)) % classes)


def test_clean_sets_raise_alarms_as_often_as_the_level_says(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "DRAWS", 2000)  # ten times that changes nothing at so high a level
    sets, classes = 60, 4
    tests = Tests(false_alarm=0.3, shares=(0.1, 0.2, 0.3), levels=(2, 3, 4))
    found = [
        alarms.find_alarms(
            of_classes(evidence(240, seed), classes), of_classes(evidence(120, 10_000 + seed), classes), tests, cpu
        )
        for seed in range(sets)
    ]

    def at_most(level: float) -> float:
        return level + 3 * math.sqrt(level * (1 - level) / sets)

    alarmed = np.array([bool(one.classes) or one.rest for one in found])
    shares = {kind: float(np.mean([kind in kinds(one) for one in found])) for kind in alarms.KINDS}
    assert tests.false_alarm / 4 <= alarmed.mean() <= at_most(tests.false_alarm)  # and there are some at all
    # Each family has a third of the level, over all classes and, by doubt, the rest of them together.
    assert max(shares[kind] for kind in ("doubt", "place", "residual")) <= at_most(tests.false_alarm / 3)
    assert shares["transplant"] == 0
    # An alarm is a p-value below the level, and nothing else.
    assert [min(one.p.values()) < tests.false_alarm for one in found] == alarmed.tolist()


def test_what_few_trusted_images_leave_out_by_chance_is_not_scarce(cpu: Runtime) -> None:
    bad = (torch.arange(200) % 2 == 0) & (torch.arange(200) < 40)
    given = apart(evidence(200, hits=bad.float()), bad)
    # A fifth of the class: six trusted images are all elsewhere one time in four, forty hardly ever.
    for trusted, found in ((12, set()), (80, {"transplant"})):
        assert kinds(alarms.find_alarms(given, evidence(trusted, 1), Tests(), cpu)) & {"transplant"} == found


def test_groups_of_too_few_images_are_not_asked_what_they_carry(cpu: Runtime) -> None:
    bad = (torch.arange(200) % 2 == 0) & (torch.arange(200) < 16)
    given, trusted = apart(evidence(200, hits=bad.float()), bad), evidence(200, 1)
    assert alarms.find_alarms(given, trusted, Tests(), cpu).classes == ()
    found = alarms.find_alarms(given, trusted, Tests(least=8), cpu)
    assert kinds(found) == {"transplant"}
    assert torch.equal(found.seeds, bad)


def test_a_purifier_that_spares_the_trusted_images_a_little_knows_them_by_heart() -> None:
    trusted, ordinary = evidence(400, 1), evidence(1200)
    # As good as all of a class's: a given image loses more than a trusted one with a probability of 0.75.
    assert alarms.known_by_heart(replace(ordinary, residual=1.45 * ordinary.residual), trusted)
    # A backdoor of a tenth of every class, or of one class alone, is not that.
    tenth, one = torch.arange(1200) < 120, ordinary.labels == 0
    for rows in (tenth, one):
        loud = replace(ordinary, residual=torch.where(rows[:, None], 9.0, 1.0) * ordinary.residual)
        assert not alarms.known_by_heart(loud, trusted)


def test_classes_that_only_their_residuals_gave_away_are_tested_with_the_rest(cpu: Runtime) -> None:
    n, m, classes = 3000, 600, 6
    order, given, trusted = torch.arange(n), of_classes(evidence(n), classes), of_classes(evidence(m, 1), classes)
    doubts, few = given.doubts / 2, order >= n - 120
    doubts[(given.labels == 0) & (order < 400) | (given.labels > 0) & few] = 1.0
    carrying = (given.labels == 1) & (order < 120)
    given = apart(replace(given, doubts=doubts, hits=carrying.float()), carrying)
    found = alarms.find_alarms(given, replace(trusted, doubts=trusted.doubts / 2), Tests(shares=(0.05, 0.1)), cpu)
    assert found.classes == (0, 1)
    assert found.counts["alarms_by_doubt"] == 2  # of class 0 and of the rest
    assert found.counts["alarms_by_transplant"] == 1
    assert found.counts["alarms_by_place"] == 0
    assert found.rest
    # The doubtful images of the class that only transplant gave away are found with those of the rest.
    assert found.seeds[(given.labels == 1) & few].float().mean() >= 0.9
    assert found.seeds[(given.labels > 1) & few].float().mean() >= 0.9


def test_a_detector_learns_from_the_surest_images_alone(cpu: Runtime) -> None:
    n, order, trusted = 900, torch.arange(900), evidence(200, 1)
    own, trusted_own = order % 2 == 0, torch.arange(200) % 2 == 0
    doubted, mixed = own & (order < 108), own & (order >= 500)
    # Half of the class lies with too few trusted images, a third of those that should be there.
    given = apart(evidence(n), mixed, 1e-3)
    given = replace(given, doubts=given.doubts / 2 + doubted[:, None])
    trusted = apart(replace(trusted, doubts=trusted.doubts / 2), trusted_own & (torch.arange(200) < 28), 1e-3)
    found = alarms.find_alarms(given, trusted, Tests(), cpu)
    assert found.classes == (0,)
    assert kinds(found) == {"doubt", "place"}
    assert found.seeds[doubted].float().mean() >= 0.9
    assert found.seeds[mixed].float().mean() <= 0.2
    # With nothing surer all are taken.
    found = alarms.find_alarms(replace(given, doubts=evidence(n).doubts / 2), trusted, Tests(), cpu)
    assert kinds(found) == {"place"}
    assert found.seeds[mixed].all()
