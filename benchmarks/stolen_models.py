"""Are stolen models recognised, and unmarked ones not?  Victims and their copies by every attack, over several seeds.

python benchmarks/stolen_models.py --seeds 1 2 --nulls models/nulls --work /tmp/stolen \\
    --out docs/results/stolen_models.csv

Everything by params.yaml but poisoning and purification, which the pipeline shows: each seed has its own split, victim,
thieves and questions.  The null models are those of the pipeline's seed: none was trained on a test image.  The
unmarked twin of each seed, and with --twins a copy of it by every attack, are judged as well.  Models are kept in
--work and found there again, whatever the parameters are by then: so they can be judged by another rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hallmark import artifacts, config, extraction, models, runtime, training
from hallmark.config import ExtractAttack, PrepareData, RuntimeConfig, TrainWatermarked, VerifyOwnership
from hallmark.data import sources, splits
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects import memory
from hallmark.suspects.adapt import Classes
from hallmark.training import no_callback
from hallmark.verification import answers, panel, present, questions
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key, make_key


def kept(folder: Path, run: Runtime, make: Callable[[], Network]) -> Network:
    """A model found in its folder, or made and saved there."""
    if not folder.is_dir():
        models.save(make(), folder)
        print(f"  {folder}", flush=True)
    return models.load(folder, run)


def steal(
    victim: Network, own: ImageDataset, params: dict[str, Any], started: Runtime, work: Path, *, prefix: str = ""
) -> dict[str, Network]:
    """A copy by every attack of params.yaml."""
    copies = {}
    for name, values in config.section(params, "extract_attack", ExtractAttack, Path("params.yaml")).attacks.items():
        where = f"extract_attack.attacks.{name}"
        module, block = extraction.attack_params(values, where)
        thief = extraction.Thief(own, started, f"extract/{prefix}{name}", no_callback, where, own.classes)
        theft = partial(extraction.steal, module, block, extraction.black_box(victim, started), thief)
        copies[f"{prefix}{name}"] = kept(work / f"{prefix}{name}", started, lambda theft=theft: theft().network)
    return copies


def run(seed: int, params: dict[str, Any], nulls: Path, work: Path, *, twins: bool) -> Iterator[dict[str, Any]]:
    """Train a seed's models, and one row of :data:`present.COLUMNS` for each.

    Args:
        nulls: folder of null models.
        work: where the seed's models are kept.
    """
    path = Path("params.yaml")
    base = config.section(params, "runtime", RuntimeConfig, path)
    started = runtime.start(base.model_copy(update={"seed": seed}))
    prepare = config.section(params, "prepare_data", PrepareData, path)
    sets = splits.split(sources.load(prepare, Path("data/raw")), prepare, started).sets
    settings = config.section(params, "train_watermarked", TrainWatermarked, path)
    rule = config.section(params, "verify_ownership", VerifyOwnership, path)
    train, own = sets["train"], sets["queries"]
    key: Key = make_key(settings, train, started)

    def mark() -> Network:
        network = models.build(settings.architecture, train.images, train.classes, started, "victim")
        mea_defender.train(network, train, key, settings, started, purpose="victim", callback=no_callback)
        return network

    def leave_unmarked() -> Network:
        network = models.build(settings.architecture, train.images, train.classes, started, "unmarked")
        training.train_classifier(network, train.images, train.labels, settings.training, started, purpose="unmarked")
        return network

    victim = kept(work / "victim", started, mark)
    suspects = {"victim": victim, **steal(victim, own, params, started, work)}
    twin = kept(work / "unmarked", started, leave_unmarked)
    controls = {"unmarked": twin, **(steal(twin, own, params, started, work, prefix="unmarked_") if twins else {})}
    asked = questions.draw(key, sets["test"], queries=rule.queries, decoys=rule.decoys, judge_seed=rule.judge_seed)
    table = panel.ask_nulls(asked, nulls, started)
    inconsistent: dict[str, float] = {}

    def ask(name: str, network: Network) -> answers.Answers:
        matched = Classes.match(key.classes, None, {})
        found, consistency = answers.ask(asked, memory.suspect(network, started, matched, key.shape))
        inconsistent[name] = consistency.share
        return found

    given = {
        role: {n: ask(n, m) for n, m in group.items()} for role, group in (("suspect", suspects), ("control", controls))
    }
    reference = float(given["suspect"]["victim"].correct.mean())
    for row in present.rows(panel.judge(given, table, reference, rule, inconsistent)):
        print({name: row[name] for name in ("model", "decision", "accuracy", "wsr", "runner_up_value")}, flush=True)
        yield {"seed": seed, **row}


def main() -> None:
    """Train, judge, write one row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--nulls", type=Path, default=Path("models/nulls"))
    parser.add_argument("--twins", action="store_true", help="steal from the unmarked model as well")
    parser.add_argument("--threads", type=int, help="in place of runtime.threads")
    parser.add_argument("--work", type=Path, required=True, help="folder of the models, kept; a folder a seed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    params = config.read_params(Path("params.yaml"))
    if arguments.threads:
        params["runtime"]["threads"] = arguments.threads
    rows = []
    for seed in arguments.seeds:
        rows += run(seed, params, arguments.nulls, arguments.work / str(seed), twins=arguments.twins)
        artifacts.write_csv(arguments.out, rows, ("seed", *present.COLUMNS))


if __name__ == "__main__":
    main()
