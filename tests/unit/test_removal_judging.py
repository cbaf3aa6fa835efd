"""Who judges in the contest of removals: the court on scripted answers, and marks without a key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hallmark.contest.removal import judging
from hallmark.runtime import Runtime
from hallmark.suspects import Answer, Suspect
from hallmark.suspects.answer import Arrived
from hallmark.verification import court as court_module
from hallmark.verification import log_odds, nulls, panel
from hallmark.verification.court import Court
from hallmark.verification.questions import Questions
from hallmark.watermark.key import Key
from hallmark.watermark.schemes import Queries
from tests.unit.conftest import decision_rule, toy_images

POOL = toy_images(700, classes=7, size=14)
KEY = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 1), 2, 5, POOL.classes, POOL.shape)
RULE = decision_rule(decoys=4, judge_seed=3, statistics=["hits"])


class Teller(Suspect):
    """Says of each question what it was told to.

    Args:
        hits: share of the watermark queries called the target.
        leaning: what the target's logit on plain images of the sources has more than the others'.
        errors: share of the main task's images called the next class.
        plain: share of the plain images of the sources called the target.
        fickle: it says something else when it is asked again.
    """

    def __init__(self, *, hits: float = 0.01, leaning: float = 0.0, errors: float = 0.0, plain: float = 0.0,
                 fickle: bool = False, seed: int = 0) -> None:  # fmt: skip
        self.told = {"hits": hits, "leaning": leaning, "errors": errors, "plain": plain}
        self.fickle, self.seed, self.asked = fickle, seed, 0
        self.known: dict[bytes, Tensor] = {}

    def learn(self, questions: Questions) -> None:
        """The questions, which it knows again by their pixels."""
        generator = torch.Generator().manual_seed(self.seed)
        logits = torch.randn(len(questions.images), 7, generator=generator)
        parts, told = questions.parts, self.told
        draws = torch.rand(len(logits), generator=generator)
        for name, label in (("first", 0), ("second", 1)):
            logits[parts[name], label] += 9
            logits[parts[name], 2] += told["leaning"]
            logits[parts[name], 2] += 20 * (draws[parts[name]] < told["plain"])
        logits[parts["other_ways"], 0] += 9
        logits[parts["watermark"], 0] += 9
        logits[parts["watermark"], 2] += 20 * (draws[parts["watermark"]] < told["hits"])
        for k, decoy in enumerate(questions.decoys):
            logits[questions.of_decoy(k), decoy.source[0]] += 9
        # Last, for a plain image of a source class may be one of the main task's as well.
        wrong = (draws[parts["task"]] < told["errors"]).long()
        task = torch.arange(len(logits))[parts["task"]]
        logits[task] = torch.randn(len(task), 7, generator=generator)
        logits[task, (questions.labels + wrong) % 7] += 9
        for image, row in zip(questions.images, logits.softmax(1), strict=True):
            self.known.setdefault(image.numpy().tobytes(), row)

    def describe(self) -> dict[str, Any]:
        return {"kind": "toy"}

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        found = torch.stack([self.known[image.numpy().tobytes()] for image in images])
        if self.fickle and self.asked:
            found = found.roll(1, 1)
        self.asked += 1
        arrived(0, Answer(found.argmax(1), found))


class Scripted(Court):
    """A court before which tellers stand."""

    def suspect(self, network: Any) -> Suspect:
        return network


def court(cpu: Runtime, **told: Any) -> Scripted:
    """With twelve null models, told so."""
    innocent = [Teller(hits=0.002 * k, seed=100 + k, **told) for k in range(12)]
    found = Scripted(rule=RULE, pool=POOL, nulls=innocent, run=cpu, reference=1.0)  # pyright: ignore[reportArgumentType]
    drawn = court_module.questions.draw(KEY, POOL, queries=1000, decoys=4, judge_seed=3)
    for each in innocent:
        each.learn(drawn)
    return found


@pytest.fixture(autouse=True)
def _weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(court_module, "_sha256", lambda teller: str(teller.seed))


def says(at: Court, **told: Any) -> dict[str, Any]:
    teller = Teller(seed=7, **told)
    teller.learn(at.questions(KEY)[0])
    return judging.KeyJudge(KEY, at).says(teller)  # pyright: ignore[reportArgumentType]


def test_the_verdicts_on_scripted_answers(cpu: Runtime) -> None:
    at = court(cpu)
    for told, hits, score in (
        ({"hits": 0.6, "leaning": 4.0}, "stolen", "stolen"),
        ({"hits": 0.01, "leaning": 4.0}, "not shown", "stolen"),
        ({"hits": 0.6, "leaning": 0.0}, "stolen", "not shown"),
        ({"hits": 0.01, "leaning": 0.0}, "not shown", "not shown"),
    ):
        found = says(at, **told)
        assert (found["verdict_hits"], found["verdict_score"]) == (hits, score), found
    for told, words in (
        ({"errors": 0.5}, "accuracy"),
        ({"fickle": True}, "repeated questions answered otherwise"),
    ):
        found = says(at, hits=0.6, leaning=4.0, **told)
        assert (found["verdict_hits"], found["verdict_score"]) == ("invalid", "invalid")
        assert words in found["why_hits"] and words in found["why_score"]
    # A third of the hits must beat the plain images.
    assert "3 times unmixed" in says(at, hits=0.6, plain=0.3)["why_hits"]


def test_null_models_that_prove_nothing(cpu: Runtime) -> None:
    for told, words in (({"plain": 0.1}, "such classes are alike"), ({"errors": 0.5}, "do not do the main task")):
        found = says(court(cpu, **told), hits=0.6, leaning=4.0)
        assert (found["verdict_hits"], found["verdict_score"]) == ("invalid", "invalid")
        assert words in found["why_hits"]
    same = court(cpu)
    same.nulls[3].seed = same.nulls[5].seed  # pyright: ignore[reportAttributeAccessIssue]
    assert "a null model is there twice" in says(same, hits=0.6)["why_hits"]


def test_the_figures_are_those_of_the_answers_and_the_verdict_is_the_panels(cpu: Runtime) -> None:
    at = court(cpu)
    teller = Teller(hits=0.5, leaning=3.0, seed=7)
    teller.learn(at.questions(KEY)[0])
    answers, inconsistent = at.ask(KEY, teller)
    table = at.questions(KEY)[1]
    found = says(at, hits=0.5, leaning=3.0)
    leans, hits = [row["lean"] for row in table], [row["hits"] for row in table]
    assert answers.lean is not None and inconsistent == 0
    assert found["score"] == answers.lean.value and found["null_score"] == max(leans)
    assert found["null_wsr"] == max(hits) / 1000 > 0
    assert found["runner_up"] == answers.outcomes["runner_up"].watermark.mean() > 0.5
    assert found["auc"] == 1
    assert found["p_hits"] == nulls.predictive_p(hits, 1000, int(answers.hits.sum())).p
    assert found["p_score"] == log_odds.predictive_p(leans, answers.lean.value).p
    (expected,) = panel.judge({"suspect": {"s": answers}, "control": {}}, table, 1.0, RULE, {"s": 0.0})
    assert at.decide(KEY, answers, 0.0).reasons == expected.reasons
    assert found["verdict_hits"] == expected.decision == "stolen"
    assert at.decide(KEY, answers, 0.0, keys=10).tests["hits"].p_value == 10 * expected.tests["hits"].p_value


def test_marks_without_a_key_are_judged_by_the_null_models(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(100) % 7

    def network(hits: int, raised: float, accuracy: float = 0.9) -> Any:
        """So many hits; elsewhere the claimed class is the second, raised above the rest."""
        logits = torch.zeros(100, 7)
        logits[torch.arange(100), labels] = raised
        logits[torch.arange(100), (labels + 1) % 7] = 5.0
        logits[torch.arange(hits), labels[:hits]] = 9.0
        return SimpleNamespace(p=logits.softmax(1), accuracy=accuracy)

    monkeypatch.setattr(judging.models, "probabilities", lambda network, images, runtime: network.p)
    monkeypatch.setattr(judging, "accuracy", lambda network, data, runtime: network.accuracy)
    none = torch.zeros(0)
    asked = Queries(torch.zeros(100, 1), labels, none, none, none, none)
    innocent = [network(k % 3, 0.1 * k) for k in range(12)]
    judge = judging.judge_of(SimpleNamespace(), innocent, test=POOL, asked=asked, rule=RULE, reference=0.9, runtime=cpu)  # pyright: ignore[reportArgumentType]

    def verdicts(*told: Any) -> tuple[str, str]:
        found = judge.says(network(*told))
        return found["verdict_hits"], found["verdict_score"]

    assert verdicts(70, 4.0) == ("stolen", "stolen")
    assert verdicts(2, 4.0) == ("not shown", "stolen")
    assert verdicts(2, 0.3) == ("not shown", "not shown")
    assert verdicts(70, 4.0, 0.71) == ("invalid", "invalid")
    assert verdicts(70, 4.0, 0.73) == ("stolen", "stolen")
    found, own = judge.says(network(2, 0.3)), network(2, 0.3)
    scores = [float(log_odds.target_log_odds(each.p, labels).mean()) for each in innocent]
    score = float(log_odds.target_log_odds(own.p, labels).mean())
    assert found["score"] == score and found["null_score"] == max(scores)
    assert found["auc"] == sum((other < score) + 0.5 * (other == score) for other in scores) / 12
    assert 0 < found["auc"] < 1
    assert found["p_hits"] == nulls.predictive_p([k % 3 for k in range(12)], 100, 2).p
    assert found["p_score"] == log_odds.predictive_p(scores, score).p
    assert found["null_wsr"] == 0.02 and found["runner_up"] is None
    twin = judge.says(innocent[6])
    assert twin["auc"] == sum((o < scores[6]) + 0.5 * (o == scores[6]) for o in scores) / 12
