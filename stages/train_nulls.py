"""Train the null models, which an ownership claim is tested against.

python -m hallmark train_nulls --data data/purified/train.safetensors --queries data/clean/queries.safetensors \
    --unmarked models/unmarked --test data/clean/test.safetensors --out models/nulls --report reports/train_nulls

Independent models of the same task that owe the victim nothing: other seeds, images, architectures and kinds of
training, some of them stolen from the unmarked model.  How often *they* fire is what an innocent suspect may do:
models, not queries, are what the p-value counts.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import artifacts, models, plots, training
from hallmark.config import TrainNulls
from hallmark.data.dataset import ImageDataset
from hallmark.innocents import Innocents, control_block
from hallmark.progress import progress
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--data", "The victim's training images.")
@path_option("--queries", "The thief's images.")
@path_option("--unmarked", "Folder of the unmarked model, which some null models steal.")
@path_option("--test", "Held-out images.")
@path_option("--out", "Folder for the null models, one subfolder each.")
@path_option("--report", "Folder for metrics and the picture.")
@params_option
def main(data: Path, queries: Path, unmarked: Path, test: Path, out: Path, report: Path, params: Path) -> None:
    """Train the null models, which an ownership claim is tested against."""
    inputs = [data, queries, unmarked, test]
    with open_stage("train_nulls", params, TrainNulls, inputs=inputs, outputs=[out], report=report) as (stage, config):
        where = f"{params}: train_nulls.kinds"
        blocks = [(name, control_block(block, f"{where}.{name}")) for name, block in config.kinds.items()]
        twin, held_out = models.load(unmarked, stage.runtime), ImageDataset.load(test)
        innocents = Innocents(ImageDataset.load(data), ImageDataset.load(queries), twin, stage.runtime)
        for images, path in ((innocents.purified, data), (innocents.queries, queries), (held_out, test)):
            models.check_images(images, path, twin.spec)
        accuracies: dict[str, list[float]] = {}
        with artifacts.replacing(out) as folder, progress(config.models, "null models", "model") as advance:
            folder.mkdir(parents=True)
            for k in range(config.models):
                name, block = blocks[k % len(blocks)]
                purpose = f"null {k}"
                part = innocents.part(block, config.share, purpose)
                network = innocents.train(block, part, purpose, training.no_callback, f"{where}.{name}")
                accuracies.setdefault(name, []).append(training.accuracy(network, held_out, stage.runtime))
                models.save(network, folder / f"{k:04d}-{name}")
                advance(1)
        every = [value for values in accuracies.values() for value in values]
        stage.metrics(
            {
                "models": len(every),
                "accuracy": {name: sum(values) / len(values) for name, values in accuracies.items()},
                "lowest_accuracy": min(every),
            }
        )
        stage.figure("accuracy", plots.dots(accuracies, "accuracy", "Null models, by kind"))
