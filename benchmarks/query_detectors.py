"""What the detectors of queries say of honest users, of real thieves, of triggered images and of the owner's questions.

python benchmarks/query_detectors.py --models models --data data/clean \\
    --triggered data/poisoned/triggered_test.safetensors --out docs/results/query_detectors.csv

Honest users ask ``--size`` of the test images each, in random order, no image twice.  The thieves are the attacks of
params.yaml, run anew against the victim with every query logged (their last training is cut short: nothing is asked
then), the same by data-free extraction (dfme) and by images of another task (handwritten digits); of each the first and
the last ``--size`` queries are one user's.  ``jacobian_whole`` asks no more than that in all, a quarter of it his own
images: of a window the images that its queries were made of are mostly left out.  ``watermark``: the owner's watermark
queries, as a service that runs a copy would see them.  ``triggered``: images with the poisoner's trigger, asked of the
model that was trained on the poisoned set, whose honest users are asked for as well.

A row a user and detector: its score, what share of the queries is refused, p among the honest users of the same model,
and what the paper's threshold says.  The trusted images are the reserve.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import ExtractAttack, RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.detection import calibration
from hallmark.detection.queries import Log, registry
from hallmark.extraction import Thief, attack_params, black_box, steal
from hallmark.models import Network
from hallmark.ownership import keyfile
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.watermark.samples import draw_queries

DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "lof, inputs": ("lof", {"space": "inputs"}),
    "lof, features": ("lof", {"space": "features"}),
    "strip": ("strip", {}),
    "spectral_signatures": ("spectral_signatures", {}),
    "activation_clustering": ("activation_clustering", {}),
    "prada": ("prada", {}),
}
COLUMNS = ("model", "user", "part", "queries", "detector", "score", "refused", "honest_users", "honest_highest", "p",
           "paper_threshold", "paper_says_attack")  # fmt: skip
HONEST = "honest"


@dataclass
class Recorder:
    """A victim who keeps what it is asked."""

    network: Network
    run: Runtime
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append((images * 255).round().to(torch.uint8))
        return black_box(self.network, self.run)(images)

    @property
    def images(self) -> Tensor:
        """All queries in their order, uint8."""
        return torch.cat(self.asked)


def queries_of(
    name: str, block: Mapping[str, Any], victim: Network, own: ImageDataset, run: Runtime, *, raw: Path
) -> Tensor:
    """What the thief ``block`` asks the victim, uint8 ``[N, C, H, W]``."""
    module, params = attack_params(dict(block), name)
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 1})})
    recorder = Recorder(victim, run)
    thief = Thief(own, run, f"extract/{name}", training.no_callback, name, victim.spec.classes)
    steal(module, params, recorder, thief, rounds=True, raw=raw)
    return recorder.images


def users(
    honest: ImageDataset, asked: Mapping[str, Tensor], size: int, run: Runtime
) -> Iterator[tuple[str, str, Tensor]]:
    """(user, part, images), the honest ones first."""
    order = torch.randperm(len(honest), generator=run.generator("query detectors/honest"))
    blocks = [part for part in order.split(size) if len(part) == size]
    for k, part in enumerate(blocks):
        yield HONEST, str(k), honest.images[part]
    for name, images in asked.items():
        yield name, "first", images[:size]
        if len(images) > size:
            yield name, "last", images[-size:]


def rows_of(
    model: str, network: Network, given: Sequence[tuple[str, str, Tensor]], trusted: ImageDataset, run: Runtime
) -> list[dict[str, Any]]:
    """A row a user and detector."""
    rows = []
    with progress(len(given) * len(DETECTORS), f"detectors/{model}", "log") as advance:
        for detector, (name, values) in DETECTORS.items():
            module = registry.get(name)
            params = module.Params.model_validate(values)
            found = []
            for user, part, images in given:
                found.append((user, part, len(images), module.detect(Log(images, network, trusted, run), params)))
                advance(1)
            innocent = [finding.score for user, _, _, finding in found if user == HONEST]
            for number, (user, part, count, finding) in enumerate(found):
                # An honest user is compared with the others: the honest ones come first.
                others = innocent[:number] + innocent[number + 1 :]
                known = finding.usual == finding.usual
                rows.append(
                    {
                        "model": model, "user": user, "part": part, "queries": count, "detector": detector,
                        "score": finding.score,
                        "refused": None if finding.flagged is None else float(finding.flagged.float().mean()),
                        "honest_users": len(others), "honest_highest": max(others),
                        "p": calibration.p_value(finding.score, others),
                        "paper_threshold": finding.usual if known else None,
                        "paper_says_attack": finding.score > finding.usual if known else None,
                    }
                )  # fmt: skip
    return rows


def measure(options: argparse.Namespace, run: Runtime) -> list[dict[str, Any]]:
    """All rows."""
    values = config.read_params(options.params)
    attacks = config.section(values, "extract_attack", ExtractAttack, options.params).attacks
    reserve, own, test = (
        ImageDataset.load(options.data / f"{name}.safetensors") for name in ("reserve", "queries", "test")
    )
    victim = models.load(options.models / "victim", run)
    first: dict[str, Any] = dict(next(iter(attacks.values())))
    shared = {name: first[name] for name in ("architecture", "training")}
    thieves = dict(attacks)
    thieves["dfme"] = {"method": "dfme", "budget": options.data_free, **shared, "step": 2.8}
    thieves["digits"] = {
        "method": "knockoff", "budget": options.digits, "policy": "random", "rewards": ["loss"], "temperature": 1.0,
        "images": {"source": "digits"}, **shared,
    }  # fmt: skip
    for block in [block for block in attacks.values() if block.get("method") == "jacobian"][:1]:
        thieves["jacobian_whole"] = {**block, "budget": options.size, "seeds": options.size // 4, "rounds": 2}
    asked = {name: queries_of(name, block, victim, own, run, raw=options.raw) for name, block in thieves.items()}
    key = keyfile.load(options.models / "victim_key.age")
    asked["watermark"] = draw_queries(key, test, options.size, run.generator("query detectors/watermark")).mixed
    rows = rows_of("victim", victim, list(users(test, asked, options.size, run)), reserve, run)
    if options.triggered is not None:
        triggered = ImageDataset.load(options.triggered)
        chosen = torch.randperm(len(triggered), generator=run.generator("query detectors/triggered"))[: options.size]
        suspect = models.load(options.models / "suspect", run)
        given = list(users(test, {"triggered": triggered.images[chosen]}, options.size, run))
        rows += rows_of("backdoored", suspect, given, reserve, run)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--triggered", type=Path, help="test images with the poisoner's trigger; left out: none")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--size", type=int, default=500, help="queries of a user")
    parser.add_argument("--data-free", type=int, default=20_000, help="budget of the thief without images")
    parser.add_argument("--digits", type=int, default=1000, help="budget of the thief with digits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    run = runtime.start(RuntimeConfig(device="cpu", threads=options.threads, precision="fp32", seed=options.seed))
    rows = measure(options, run)
    artifacts.write_csv(options.out, rows, COLUMNS)
    for detector in DETECTORS:
        own = [row for row in rows if row["detector"] == detector]
        print(detector)
        for row in own:
            if row["user"] != HONEST:
                refused = "" if row["refused"] is None else f", refused {row['refused']:.1%}"
                print(f"  {row['model']} {row['user']} {row['part']}: {row['score']:.3f}, p {row['p']:.3f}{refused}")


if __name__ == "__main__":
    main()
