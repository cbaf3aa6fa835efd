"""Do several keys in one model disturb one another, and do they all pass into a copy?

python benchmarks/several_keys.py --seeds 0 1 2 --threads 1 --out docs/results/several_keys.csv

The pipeline's data and victim (params.yaml, without poisoning), with the key of params.yaml alone and with one and two
reserve keys; each victim is stolen by the attack distillation.  The unmarked twin is asked all three keys.  Rates are
of held-out images (test).  The reserve keys were chosen by `key propose` on clean models, for classes other than the
first key's, and by nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hallmark import artifacts, config, extraction, models, runtime
from hallmark.config import ExtractAttack, PrepareData, RuntimeConfig, TrainUnmarked, TrainWatermarked
from hallmark.data import sources, splits
from hallmark.models import Network
from hallmark.training import no_callback
from hallmark.watermark import mea_defender
from hallmark.watermark.key import make_key, make_reserve_keys
from hallmark.watermark.ways import HIDING

BLOCK = {"way": "top_bottom", "way_params": {}, "evasion_ways": list(HIDING)}
RESERVE = {
    "second": {"source": ["Pullover", "Dress"], "target": "Ankle boot", **BLOCK},
    "third": {"source": ["Ankle boot", "Coat"], "target": "Shirt", **BLOCK},
}
COLUMNS = ("seed", "keys", "model", "key", "struck", "accuracy", "wsr", "wfpr", "plain_to_target")


def run(seed: int, params: dict[str, Any], attack: str) -> Iterator[dict[str, Any]]:
    """A seed's rows."""
    path = Path("params.yaml")
    base = config.section(params, "runtime", RuntimeConfig, path)
    started = runtime.start(base.model_copy(update={"seed": seed}))
    prepare = config.section(params, "prepare_data", PrepareData, path)
    sets = splits.split(sources.load(prepare, Path("data/raw")), prepare, started).sets
    train, own, test = sets["train"], sets["queries"], sets["test"]
    settings = config.section(params, "train_watermarked", TrainWatermarked, path)
    keys = {"first": make_key(settings, train, started), **make_reserve_keys(settings, train, started)}
    block = config.section(params, "extract_attack", ExtractAttack, path).attacks[attack]
    module, stealing = extraction.attack_params(block, f"extract_attack.attacks.{attack}")

    def rows(count: int, name: str, network: Network) -> Iterator[dict[str, Any]]:
        for place, (key_name, key) in enumerate(keys.items()):
            found: Any = mea_defender.evaluate(network, key, test, settings.evaluation, started)
            row = {"seed": seed, "keys": count, "model": name, "key": key_name, "struck": place < count}
            row |= {column: found[column] for column in ("accuracy", "wsr", "wfpr")}
            row["plain_to_target"] = found["plain_to_target"]["all"]
            print(artifacts.rounded(row), flush=True)
            yield row

    def fresh() -> Network:
        return models.build(settings.architecture, train.images, train.classes, started, "victim")

    twin = fresh()
    how = TrainUnmarked(
        architecture=settings.architecture, training=settings.training, first_phase=settings.first_phase
    )
    mea_defender.train_twin(twin, train, how, started, purpose="victim")
    yield from rows(0, "unmarked", twin)
    for count in range(1, len(keys) + 1):
        victim, (first, *others) = fresh(), list(keys.values())[:count]
        mea_defender.train(victim, train, first, settings, started, purpose="victim", reserve=others)
        yield from rows(count, "victim", victim)
        thief = extraction.Thief(own, started, f"extract/{attack}", no_callback, attack, train.classes)
        yield from rows(
            count, attack, extraction.steal(module, stealing, extraction.black_box(victim, started), thief).network
        )


def main() -> None:
    """Train, steal, ask, one row a model and key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--attack", default="distillation", help="a block of extract_attack.attacks")
    parser.add_argument("--threads", type=int, help="in place of runtime.threads")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    params = config.read_params(Path("params.yaml"))
    params["train_watermarked"]["reserve_keys"] = RESERVE
    if arguments.threads:
        params["runtime"]["threads"] = arguments.threads
    rows = [row for seed in arguments.seeds for row in run(seed, params, arguments.attack)]
    artifacts.write_csv(arguments.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
