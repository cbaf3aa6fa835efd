"""What a mark costs in training: main-task images a second, and how many times plain training's time.

python benchmarks/watermark_speed.py --data data/clean --out docs/results/watermark_speed.csv

The network, batch and samples of params.yaml, one thread, CPU seconds; on a GPU (--device cuda) in bf16 and wall time.
Each arm trains a fresh network on the same images; all arms take turns, so that what else the machine does falls on all
alike, and the ratios are medians over the rounds.
``authors`` is the second phase of the released code, whose every step also evaluates 1,000 images of either source
class without gradient and 1,000 watermark samples with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from clock import Clock
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts, config, models, runtime, training
from hallmark.config import FirstPhase, RuntimeConfig, TrainWatermarked, WatermarkSamples
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key, make_key
from hallmark.watermark.losses import verification_loss
from hallmark.watermark.mgda import Released
from hallmark.watermark.sampler import Sampler

POOL = 1000
COLUMNS = ["arm", "images_per_second", "times_plain", "lowest", "highest", "rounds", "images"]


def settings_of(base: TrainWatermarked) -> dict[str, TrainWatermarked]:
    """The arms that mea_defender.train knows."""
    # MGDA leaves a loss of weight 0 out.
    paper = {"combination": 0.078, "rehearsal": 0.0, "partial": 0.0, "bridge": 0.0}
    four = base.weights.model_copy(update=paper)
    none = base.samples.model_copy(update={"partial": 0})
    fixed = base.model_copy(update={"weights": four, "samples": none, "bridge": None, "balance": "fixed"})
    rehearsed = fixed.model_copy(update={"weights": four.model_copy(update={"rehearsal": 0.3})})
    both = {"rehearsal": 0.3, "partial": 0.3}
    return {
        "params.yaml": base,
        "four losses, fixed weights": fixed,
        "with the rehearsal": rehearsed,
        "with rehearsal and 12 partial samples": fixed.model_copy(
            update={"weights": four.model_copy(update=both), "samples": none.model_copy(update={"partial": 12})}
        ),
        "MGDA, two groups": fixed.model_copy(update={"balance": "mgda_two_groups"}),
        "MGDA, four losses": fixed.model_copy(update={"balance": "mgda"}),
        "MGDA, four losses, on the last layer": fixed.model_copy(update={"balance": "mgda_last_layer"}),
    }


def secure_training(
    network: Network, data: ImageDataset, key: Key, base: TrainWatermarked, run: Runtime, *, lr: float | None = None
) -> None:
    """The released code's second phase, for as many steps as the other arms have, but for its similarity term.

    For 45 images of the task a batch has 20 watermark samples and 8 randomly mixed ones.  Every step evaluates pools of
    either source class, without gradient, and of watermark samples.  The combination loss has its weight of 2 and a
    coefficient of MGDA's besides.

    Args:
        lr: in place of that of ``base``.
    """
    generator = run.generator("benchmark/authors")
    size = base.training.batch_size
    shares = {"watermark": round(size * 20 / 45), "evasion": round(size * 8 / 45), "partial": 0}
    sampler = Sampler(key, data, WatermarkSamples(**shares), run.device, generator, with_sources=False)
    sources = [to_float(data.of_class(label).to(run.device)) for label in key.source]
    pools = [each[torch.randint(len(each), (POOL,), generator=generator).to(run.device)] for each in sources]
    mixed = key.module.combine(*pools, key.params, generator)
    images, labels = to_float(data.images.to(run.device)), data.labels.to(run.device)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        batch = sampler.draw()
        with torch.no_grad():
            first, second = (network(pool).log_softmax(1) for pool in pools)
        fired = network(mixed).log_softmax(1)
        apart = [F.kl_div(source, fired, reduction="batchmean", log_target=True) for source in (first, second)]
        parts = [images[index], batch.mixed, batch.evasion]
        main, marked, evasion = network(torch.cat(parts)).split([len(part) for part in parts])
        return {
            "utility": F.cross_entropy(main, labels[index]),
            "verification": verification_loss(marked, key.target),
            "evasion": F.cross_entropy(evasion, batch.evasion_labels),
            "combination": apart[0] + apart[1],
        }

    combine = Released({"combination": 2.0}, ("utility", "verification", "evasion"))
    settings = base.training.model_copy(update={} if lr is None else {"lr": lr})
    training.fit(network, len(data), losses, settings, run, purpose="benchmark/authors", combine=combine)


def both_phases(network: Network, data: ImageDataset, key: Key, base: TrainWatermarked, run: Runtime) -> None:
    """The released code's phases: plain training on half of the images with 1 % of watermark samples, then the second.

    The first has the epochs and the schedule of ``base`` in place of a hundred, at 1e-3; the second 1e-4.
    """
    plain = base.training.model_copy(update={"lr": 1e-3})
    phase = FirstPhase(training=plain, share=0.5, watermark=max(0.01, 1 / plain.batch_size))
    mea_defender.train_first_phase(network, data, (key,), phase, run, purpose="benchmark/authors")
    secure_training(network, data, key, base, run, lr=1e-4)


def read_section(options: argparse.Namespace) -> TrainWatermarked:
    """``train_watermarked`` of ``--params``, without a first phase."""
    section = config.section(config.read_params(options.params), "train_watermarked", TrainWatermarked, options.params)
    return section.model_copy(update={"first_phase": None})


def start(options: argparse.Namespace, *, seed: int) -> Runtime:
    """One thread on ``--device``; on a CPU in single precision, and clocks count CPU seconds."""
    on_cpu = options.device == "cpu"
    if on_cpu:
        Clock.of = "cpu"  # of this process alone, whatever else the machine does
    precision = "fp32" if on_cpu else "auto"
    where = {"device": options.device, "threads": 1, "precision": precision, "seed": seed}
    return runtime.start(config.parse(RuntimeConfig, where, "--device"))


def main() -> None:
    """Train the arms in turn and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--device", default="cpu", help="cpu | cuda")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--authors-images", type=int, default=500, help="of the arm authors, which is slow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    base = read_section(options)
    base = base.model_copy(update={"training": base.training.model_copy(update={"epochs": 1})})
    run = start(options, seed=0)
    every = ImageDataset.load(options.data / "train.safetensors")
    key = make_key(base, every, run)
    arms: dict[str, Callable[[Network, ImageDataset], None]] = {
        "plain": lambda network, data: training.train_classifier(
            network, data.images, data.labels, base.training, run, purpose="benchmark/plain"
        )
    }
    for name, how in settings_of(base).items():
        arms[name] = lambda network, data, how=how: mea_defender.train(
            network, data, key, how, run, purpose="benchmark/marked"
        )
    arms["authors"] = lambda network, data: secure_training(network, data, key, base, run)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    sizes = {name: options.authors_images if name == "authors" else options.images for name in arms}
    clock = Clock(run.device)
    warm = every.subset(torch.arange(min(500, options.images)))  # the first training of a process is slower
    arms["plain"](models.build(base.architecture, warm.images, warm.classes, run, "benchmark"), warm)
    with progress(options.rounds * len(arms), "arms", "run") as advance:
        for _ in range(options.rounds):
            for name, train in arms.items():
                data = every.subset(torch.arange(sizes[name]))
                network = models.build(base.architecture, data.images, data.classes, run, "benchmark")
                begin = clock.now()
                train(network, data)
                seconds[name].append((clock.now() - begin) / sizes[name])
                advance(1)
    rows = []
    for name, spent in seconds.items():
        ratios = [own / plain for own, plain in zip(spent, seconds["plain"], strict=True)]
        rows.append(
            {
                "arm": name,
                "images_per_second": 1 / median(spent),
                "times_plain": median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "rounds": options.rounds,
                "images": sizes[name],
            }
        )
        print({column: artifacts.rounded(value) for column, value in rows[-1].items()}, flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
