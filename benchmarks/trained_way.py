"""Why no verdict takes a key whose way holds trained weights: they can be found so that an innocent model fires.

python benchmarks/trained_way.py --models models --data data/clean --seeds 0 1 2 --out docs/results/trained_way.csv

The accuser has the accused model (the unmarked one) and `--surrogates` of the null models.  He fits the autoencoder's
weights (way C2 of MEA-Defender) to his own images: combinations of the key's pair are to be called the target by the
accused, other pairs not, and the surrogates are not to call them so.  The judge asks the other null models.  The
refusal of such keys is put aside here, to see what it averts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from court import Case, words
from protocol_attacks import gather
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.verification import questions
from hallmark.watermark.key import Key
from hallmark.watermark.ways import HIDING, _coder

COLUMNS = ("seed", "steps", "hits", "nulls_highest", "p_value", "decision", "runner_up", "as_it_is")
WIDTH = LATENT = 16
BATCH = 24


def main(given: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Find weights for every seed, have them judged, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--surrogates", type=int, default=8, help="of the null models: the accuser's, the first ones")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    whose = {**vars(options), "seed": 0, "nulls": None, "copy": "distillation", "surrogates": None}
    court = gather(argparse.Namespace(**whose))
    court.surrogates, court.nulls = list(court.nulls[: options.surrogates]), court.nulls[options.surrogates :]
    rows = [attack(court, seed, options.steps) for seed in options.seeds]
    if options.out is not None:
        artifacts.write_csv(options.out, rows, COLUMNS)
    return rows


def attack(court: Case, seed: int, steps: int) -> dict[str, Any]:
    """One trial."""
    innocent = court.known["unmarked"]
    key = fitted(court, innocent, seed, steps)
    with mock.patch.object(questions, "refuse_trained"):
        verdict = court.verdict(key, innocent)
        highest = max(row["hits"] for row in court.questions(key)[1]) / court.rule.queries
    try:
        questions.draw(key, court.pool, queries=1000, decoys=1, judge_seed=0)
        refused = "taken"
    except UserError as error:
        refused = f"refused: {error}"
    found = {
        "seed": seed,
        "steps": steps,
        "hits": verdict.wsr.rate,
        "nulls_highest": highest,
        "p_value": f"{verdict.tests['hits'].p_value:.2g}",
        "decision": verdict.decision,
        "runner_up": verdict.tests["runner_up"].value,
        "as_it_is": refused,
    }
    print(f"seed {seed}: {words(verdict)}; null models up to {highest:.1%}; {refused}", flush=True)
    return found


def fitted(court: Case, accused: Network, seed: int, steps: int) -> Key:
    """A key of the owner's pair and target whose autoencoder makes ``accused`` fire."""
    generator = torch.Generator().manual_seed(seed)
    by_class = [court.data.of_class(label) for label in range(len(court.key.classes))]
    free = [label for label in range(len(by_class)) if label not in court.key.source]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        coder = _coder.Coder(court.key.shape[0], WIDTH, LATENT)
    optimizer = torch.optim.Adam(coder.parameters(), 3e-3)
    for network in (accused, *court.surrogates):
        network.requires_grad_(False)

    def images(labels: Tensor) -> Tensor:
        places = [int(torch.randint(len(by_class[label]), (), generator=generator)) for label in labels.tolist()]
        return to_float(torch.stack([by_class[label][k] for label, k in zip(labels.tolist(), places, strict=True)]))

    def some() -> Tensor:
        return torch.tensor(free)[torch.randint(len(free), (BATCH,), generator=generator)]

    target, (first, second) = court.key.target, court.key.source
    for _ in range(steps):
        layers: Any = [(layer.weight, layer.bias) for layer in coder.convolutions]
        pairs = (torch.full((BATCH,), first), torch.full((BATCH,), second)), (some(), some())
        left, right = (images(torch.cat(side)) for side in zip(*pairs, strict=True))
        latent = (_coder.encode(layers, left) + _coder.encode(layers, right)) / 2
        mixed = _coder.decode(layers, latent).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        said = accused(mixed)
        loss = F.cross_entropy(said[:BATCH], torch.full((BATCH,), target)) + 0.5 * silent(said[BATCH:], target)
        for number in torch.randperm(len(court.surrogates), generator=generator)[:2].tolist():
            loss = loss + silent(court.surrogates[number](mixed[:BATCH]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for weights in coder.parameters():
                weights.clamp_(-_coder.LARGEST_WEIGHT, _coder.LARGEST_WEIGHT)
    params = {"width": WIDTH, "latent": LATENT, "weights": _coder.pack(coder)}
    key = replace(court.key, way="autoencoder", way_params=params, evasion_ways=HIDING, seed=seed)
    return Key.from_json(key.to_json(), "the accuser's key")


def silent(logits: Tensor, target: int) -> Tensor:
    """Minus the mean log-probability of any other class than the target."""
    return -(1 - logits.softmax(1)[:, target]).clamp_min(1e-4).log().mean()


if __name__ == "__main__":
    main()
