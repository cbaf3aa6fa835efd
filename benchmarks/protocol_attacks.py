"""What thieves and false claimants achieve against the ownership protocol, on trained models.

python benchmarks/protocol_attacks.py --models models --data data/clean --out docs/results/protocol_attacks.csv

--models holds what the pipeline leaves: victim, unmarked, controls, extracted, nulls.  The innocent who is accused is
the unmarked model, the stolen copy is `--copy`.  Every verdict is the pipeline's own, for one suspect, at the rule of
params.yaml; the owner's key is made from params.yaml as `train_watermarked` makes it.  An accuser's images and searches
come from the thief's half of the data (queries), the judge's questions from test.  All draws hang on --seed.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from court import COLUMNS, Behind, Case, row, words
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import Architecture, RuntimeConfig, Training, TrainWatermarked, VerifyOwnership
from hallmark.data.dataset import ImageDataset, to_float, to_uint8
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.ownership import commitment
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.ownership.priority import Claim, earliest
from hallmark.suspects import NO_CLASS, Answer
from hallmark.verification import log_odds, nulls
from hallmark.verification.answers import LEAN
from hallmark.verification.decision import PAPER_THRESHOLD, STOLEN
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key, make_key
from hallmark.watermark.ways import HIDING, untrained, ways

SEARCHED, BEST = 100, 10
"""Images that a searcher asks for each combination; keys that he then tries before the judge."""


# --- images that the accuser brings ---


def perturbed(networks: Sequence[Network], images: Tensor, target: int, eps: float, *, universal: bool) -> Tensor:
    """Images that the networks call the target: sign-gradient descent with momentum within ``eps`` (of 0-1) a pixel.

    Args:
        images: uint8 ``[N, C, H, W]``.
        universal: one perturbation for all images.
    """
    x, steps = to_float(images), 60 if universal else 30
    delta = torch.zeros_like(x[:1] if universal else x).requires_grad_()
    momentum = torch.zeros_like(delta)
    aims = torch.full((len(x),), target)
    for _ in range(steps):
        loss = torch.stack([F.cross_entropy(net((x + delta).clamp(0, 1)), aims) for net in networks]).sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        with torch.no_grad():
            momentum += gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            delta -= 2.5 * eps / steps * momentum.sign()
            delta.clamp_(-eps, eps)
    return to_uint8((x + delta.detach()).clamp(0, 1))


def brought_images(court: Case) -> list[dict[str, str]]:
    """Triggers optimised on the accuser's own models (Liu et al., arXiv 2304.06607), and universal patterns."""
    target, innocent = court.key.target, court.known["unmarked"]
    surrogates = [*(court.known[name] for name in ("victim", "mixup_cutmix", "other_data")), *court.surrogates]
    others = court.data.subset(court.data.labels != target)
    images = others.images[torch.randperm(len(others), generator=court.run.generator("attack/images"))[:200]]
    rows = []
    for universal, eps in itertools.product((False, True), (0.1, 0.2, 0.3)):
        triggers = perturbed(surrogates, images, target, eps, universal=universal)
        fired = np.array([int((court.labels(net, triggers) == target).sum()) for net in court.nulls])
        own = int((court.labels(innocent, triggers) == target).sum())
        p = nulls.predictive_p(fired, len(triggers), own).p
        accused = int((np.append(fired, own) > PAPER_THRESHOLD * len(triggers)).sum())
        rows.append(
            row(
                "universal pattern" if universal else "optimised triggers",
                f"eps {eps:g} on {len(surrogates)} models of the accuser's, {len(triggers)} images, "
                f"target {court.key.name(target)}",
                f"unmarked model {own / len(triggers):.1%}, {len(fired)} null models {fired.min() / len(triggers):.1%} "
                f"to {fired.max() / len(triggers):.1%}; the 30 % rule accuses {accused} of {len(fired) + 1} innocents",
                f"a key holds no image. With his key alone: {words(court.verdict(court.key, innocent))}. "
                f"Were the images taken, null models asked the same would give p = {p:.2g}",
                "nothing by images",
            )
        )
    return rows


# --- keys that are searched for afterwards ---


def combinations(court: Case) -> list[Key]:
    """All ordered pairs in 14 ways and parameters each; the target, here any, is put in later."""
    generator = np.random.default_rng(court.run.seed)

    def some(low: float, high: float) -> float:
        return round(float(generator.uniform(low, high)), 3)

    found, classes = [], range(len(court.key.classes))
    for pair in itertools.permutations(classes, 2):
        kinds: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in ("top_bottom", "left_right", "diagonal")]
        kinds += [("halves", {"axis": axis, "swap": False}) for axis in ("rows", "columns")] + [("halves", {})]
        kinds += [("donut", {"side": some(0.2, 0.8)}) for _ in range(2)]
        kinds += [("hot_dog", {"band": some(0.2, 0.8)}) for _ in range(2)]
        for name in ("ratio_mix", "ratio_split"):
            kinds += [(name, {"low": low, "high": some(low, 0.9)}) for low in (some(0.1, 0.5), some(0.1, 0.5))]
        any_target = next(label for label in classes if label not in pair)
        for name, params in kinds:
            hidden = tuple(way for way in HIDING if way != name)
            seed = len(found)
            found.append(replace(court.key, way=name, way_params=params, evasion_ways=hidden, source=pair,
                                 target=any_target, seed=seed))  # fmt: skip
    return found


def search(court: Case, keys: Sequence[Key], names: Sequence[str]) -> Tensor:
    """How often each model calls each class on each combination: ``[models, combinations, K]``, 0-1."""
    rates = torch.zeros(len(names), len(keys), len(court.key.classes))
    generator = court.run.generator("attack/search")
    by_class = [court.data.of_class(label) for label in range(len(court.key.classes))]
    step = 14
    for start in range(0, len(keys), step):
        mixed = []
        for key in keys[start : start + step]:
            first, second = (
                by_class[label][torch.randint(len(by_class[label]), (SEARCHED,), generator=generator)]
                for label in key.source
            )
            mixed.append(ways.get(key.way).combine(first, second, key.params, generator))
        images = torch.cat(mixed)
        for m, name in enumerate(names):
            said = F.one_hot(court.labels(court.known[name], images), rates.shape[2]).float()
            rates[m, start : start + step] = said.view(len(mixed), SEARCHED, -1).mean(1)
    for k, key in enumerate(keys):
        rates[:, k, list(key.source)] = -1  # no key has a source class as its target
    return rates


def best(rates: Tensor, keys: Sequence[Key], count: int) -> list[Key]:
    """Keys with the highest of ``rates`` ``[combinations, K]``, one a source pair."""
    found: dict[tuple[int, int], Key] = {}
    for index in rates.flatten().argsort(descending=True).tolist():
        key = keys[index // rates.shape[1]]
        found.setdefault(key.source, replace(key, target=index % rates.shape[1]))
        if len(found) == count:
            break
    return list(found.values())


def searched_keys(court: Case) -> list[dict[str, str]]:
    """The best of 10,000 keys against an innocent, and against the owner's own model."""
    keys = combinations(court)
    names = ["unmarked", "victim", "mixup_cutmix", "other_data"]
    rates = search(court, keys, names)
    number = len(keys) * (len(court.key.classes) - 2)
    surrogates = rates[2:].max(0).values
    rows = []
    for who, own in zip(("unmarked", "victim"), rates[:2], strict=True):
        excess = own - surrogates
        if who == "victim":  # what the owner's own key finds is no news
            for k, key in enumerate(keys):
                if set(key.source) == set(court.key.source):
                    excess[k] = own[k] = -1
        for how, scores, count in (("most hits", own, 1), ("most above 2 surrogates", excess, BEST)):
            found = best(scores, keys, count)
            verdicts = [court.verdict(key, court.known[who]) for key in found]
            order = sorted(range(count), key=lambda k: (verdicts[k].decision != STOLEN, -verdicts[k].wsr.rate))
            key, verdict = found[order[0]], verdicts[order[0]]
            corrected = court.verdict(key, court.known[who], keys=number)
            first, second = (key.name(label) for label in key.source)
            stolen = sum(each.decision == STOLEN for each in verdicts)
            rows.append(
                row(
                    f"key searched for afterwards, {who} model",
                    f"{number:,} keys on {SEARCHED} images each, {how}: {count} before the judge; best {key.way} "
                    f"{dict(key.way_params)}, {first} + {second} = {key.name(key.target)}",
                    f"hits {verdict.wsr.rate:.1%}; the 30 % rule accuses with "
                    f"{sum(each.paper_says == STOLEN for each in verdicts)} of {count}",
                    f"declared as the only key: {words(verdict)}; stolen with {stolen} of {count}. "
                    f"Declared as one of {number:,}: {words(corrected)}",
                    "yes, if he may commit after the model is out and hide the search"
                    if stolen
                    else "not with this choice of key",
                )
            )
    rows += [searched_lean(court, who) for who in ("unmarked", "victim")]
    opening = Opening.make(court.key, {}, "ab" * 32)
    made = Commitment(opening.hash(), "2026-01-01T00:00:00Z")
    try:
        commitment.verify(made, opening, key=best(rates[0], keys, 1)[0])
        raise AssertionError("another key opens the commitment")
    except UserError as error:
        rows.append(row("another key for an earlier commitment", "the key found above", "-", f"refused: {error}", "no"))
    return rows


def searched_lean(court: Case, who: str) -> dict[str, str]:
    """The keys whose source classes lean farthest to the target on a model, above two surrogates."""
    names, classes = (who, "mixup_cutmix", "other_data"), range(len(court.key.classes))
    parts = [court.data.of_class(label)[: 3 * SEARCHED] for label in classes]
    said = [[models.probabilities(court.known[name], part, court.run) for part in parts] for name in names]
    found: list[tuple[float, Key]] = []
    for first, second in itertools.combinations(classes, 2):
        for target in classes:
            if target in (first, second) or {first, second} == set(court.key.source):
                continue
            own, *others = (log_odds.lean([p[first], p[second]], target, (first, second)) for p in said)
            if own is None or None in others:
                raise UserError(f"{len(classes)} classes, or scores that say nothing: no lean")
            key = replace(court.key, source=(first, second), target=target, seed=len(found))
            found.append((own - max(other for other in others if other is not None), key))
    chosen = [key for _, key in sorted(found, key=lambda each: -each[0])[:BEST]]
    verdicts = [court.verdict(key, court.known[who]) for key in chosen]
    order = sorted(range(len(chosen)), key=lambda k: (verdicts[k].decision != STOLEN, -verdicts[k].tests[LEAN].value))
    key, verdict = chosen[order[0]], verdicts[order[0]]
    first, second = (key.name(label) for label in key.source)
    stolen, number = sum(each.decision == STOLEN for each in verdicts), len(found)
    return row(
        f"key searched for afterwards by the lean, {who} model",
        f"{number} triples on {3 * SEARCHED} images a class, most above 2 surrogates: {len(chosen)} before the judge; "
        f"best {first}, {second} = {key.name(key.target)}",
        f"lean {verdict.tests[LEAN].value:.2f}",
        f"declared as the only key: {words(verdict)}; stolen with {stolen} of {len(chosen)}. "
        f"Declared as one of {number}: {words(court.verdict(key, court.known[who], keys=number))}",
        "yes, if he may commit after the model is out and hide the search" if stolen else "not with this choice of key",
    )


# --- the thief's own mark, and thieves who hide ---


def counter_claim(court: Case, name: str) -> list[dict[str, str]]:
    """The thief fine-tunes a mark of his own into the copy and claims the owner's model."""
    own = replace(court.key, way="left_right", source=(0, 8), target=5, seed=77)
    shorter = court.settings.training.model_copy(update={"epochs": 3, "lr": 5e-4})
    how = court.settings.model_copy(update={"training": shorter})
    part, victim = court.data.subset(torch.arange(10_000)), court.known["victim"]
    when, second = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=1)
    thief = Claim("thief", True, "rfc3161", when + timedelta(days=30), second)
    first = [earliest([Claim("owner", True, kind, when, second), thief]).first for kind in ("rfc3161", "none")]
    rows = []
    for who, labels in (("the owner's model's", court.labels(victim, part.images)), ("true", part.labels)):
        marked = copy.deepcopy(court.known[name])
        mea_defender.train(marked, replace(part, labels=labels), own, how, court.run, purpose=f"attack/thief {who}")
        accuracy = training.accuracy(marked, court.pool, court.run)
        rows.append(
            row(
                "the thief's own mark in the copy",
                f"3 epochs on 10,000 images with {who} labels; accuracy {accuracy:.1%}",
                "both can show a model that bears their mark",
                f"owner's key on the thief's model: {words(court.verdict(court.key, marked))}. Thief's key on the "
                f"owner's model: {words(court.verdict(own, victim))}; on his own: {words(court.verdict(own, marked))}. "
                f"Earliest commitment: {first[0]}; if the owner has no token: {first[1]}",
                "an owner without an authority's time loses the priority; true labels are a removal attack as well",
            )
        )
    return rows


def detector(court: Case) -> Network:
    """The thief's: does an image look mixed?  Trained on all pairs and ways, of which he knows the owner's is one."""
    generator = court.run.generator("attack/detector")
    plain = court.data.images[torch.randperm(len(court.data), generator=generator)[:6000]]
    first, second = plain[:3000], plain[torch.randperm(3000, generator=generator) + 3000]
    names = untrained()
    mixed = [
        ways.get(name).combine(first[k :: len(names)], second[k :: len(names)], ways.get(name).Params(), generator)
        for k, name in enumerate(names)
    ]
    images = torch.cat([plain, *mixed, *mixed])
    labels = (torch.arange(len(images)) >= len(plain)).long()
    small = Architecture(name="cnn9", width=8, unshuffle=2)
    network = models.build(small, images, ("plain", "mixed"), court.run, "attack/detector")
    how = Training(epochs=3, batch_size=100, lr=2e-3)
    training.train_classifier(network, images, labels, how, court.run, purpose="attack/detector")
    return network


def hiding(court: Case, name: str) -> list[dict[str, str]]:
    """What the owner of a stolen copy can do to its answers, and what that costs him; beside it, an innocent's."""
    finds = detector(court)
    generator = court.run.generator("attack/noise")

    def labels_only(images: Tensor, answer: Answer) -> Answer:
        return Answer(answer.labels)

    def rounded(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        return Answer(answer.labels, (answer.probabilities * 10).round() / 10)

    def noisy(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        scores = answer.probabilities + 0.1 * torch.rand(answer.probabilities.shape, generator=generator)
        return Answer(scores.argmax(1), scores / scores.sum(1, keepdim=True))

    def unsure(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        return Answer(torch.where(answer.probabilities.max(1).values < 0.5, NO_CLASS, answer.labels))

    def refuses(images: Tensor, answer: Answer) -> Answer:
        return Answer(torch.where(court.labels(finds, images) == 1, NO_CLASS, answer.labels))

    def refuses_softly(images: Tensor, answer: Answer) -> Answer:
        assert answer.probabilities is not None
        found = court.labels(finds, images) == 1
        soft = torch.where(found[:, None], 0.0, answer.probabilities)
        return Answer(torch.where(found, NO_CLASS, answer.labels), soft)

    def another(images: Tensor, answer: Answer) -> Answer:
        any_class = torch.randint(0, len(court.key.classes), answer.labels.shape, generator=generator)
        return Answer(torch.where(court.labels(finds, images) == 1, any_class, answer.labels))

    tricks = {
        "gives labels only": labels_only,
        "rounds probabilities to one digit": rounded,
        "adds noise of up to 0.1 to them": noisy,
        "refuses where it is less sure than 0.5": unsure,
        "refuses what a detector trained on all ways finds mixed, and gives labels only": refuses,
        "refuses that, and gives probabilities of the rest": refuses_softly,
        "calls that a random class, another one each time": another,
    }
    plain = float((court.labels(finds, court.pool.images) == 1).float().mean())
    key_images = court.questions(court.key)[0].part("watermark")
    caught = float((court.labels(finds, key_images) == 1).float().mean())
    rows = []
    for tried, trick in tricks.items():
        suspect = court.suspect(court.known[name])
        found, innocent = (
            court.verdict(court.key, Behind(each, trick)) for each in (suspect, court.suspect(court.known["unmarked"]))
        )
        extra = f"; the detector finds {caught:.1%} of the queries and {plain:.1%} of plain images" if finds else ""
        rows.append(
            row(
                "a copy that hides",
                tried + (extra if "detector" in tried else ""),
                f"hits {found.wsr.rate:.1%}, accuracy {found.accuracy.rate:.1%}",
                f"{words(found)}. The unmarked model doing the same: {words(innocent)}",
                "no" if found.decision == STOLEN else f"yes: {found.decision}, at this price in accuracy",
            )
        )
    return rows


def gather(options: argparse.Namespace) -> Case:
    """Everybody's models, and the owner's key."""
    params = config.read_params(options.params)
    rule = config.section(params, "verify_ownership", VerifyOwnership, options.params)
    settings = config.section(params, "train_watermarked", TrainWatermarked, options.params)
    run = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=options.seed))
    owner = replace(run, seed=config.section(params, "runtime", RuntimeConfig, options.params).seed)
    data, pool = (ImageDataset.load(options.data / f"{name}.safetensors") for name in ("queries", "test"))
    folder = options.models
    paths = [folder / "victim", folder / "unmarked", folder / "extracted" / options.copy]
    paths += [folder / "controls" / name for name in ("mixup_cutmix", "other_data")]
    known = {path.name: models.load(path, run) for path in paths}
    others, more = (
        [models.load(path, run) for path in sorted(where.iterdir()) if path.is_dir()] if where else []
        for where in (options.nulls or folder / "nulls", options.surrogates)
    )
    return Case(
        rule=rule,
        pool=pool,
        nulls=others,
        run=run,
        reference=training.accuracy(known["victim"], pool, run),
        settings=settings,
        key=make_key(settings, data, owner),
        data=data,
        known=known,
        surrogates=more,
    )


def main(given: Sequence[str] | None = None) -> None:
    """Try all, write one row an attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--nulls", type=Path, help="folder of null models; left out: MODELS/nulls")
    parser.add_argument("--surrogates", type=Path, help="folder of more models that the accuser trained himself")
    parser.add_argument("--copy", default="distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(given)
    court = gather(options)
    rows = [
        row(
            "none",
            "the copy and the innocent, as they are",
            f"{len(court.nulls)} null models",
            f"{options.copy}: {words(court.verdict(court.key, court.known[options.copy]))}. "
            f"unmarked: {words(court.verdict(court.key, court.known['unmarked']))}",
            "-",
        )
    ]
    for attack in (brought_images, lambda c: hiding(c, options.copy), lambda c: counter_claim(c, options.copy)):
        rows += attack(court)
        artifacts.write_csv(options.out, rows, COLUMNS)
    rows += searched_keys(court)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
