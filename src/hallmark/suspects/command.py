"""``python -m hallmark ask``: put labelled images to a suspect and keep every answer."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from hallmark import suspects
from hallmark.config import RuntimeConfig, read_params
from hallmark.data.dataset import ImageDataset
from hallmark.runtime import start


@click.command()
@click.option(
    "--suspect", "block", required=True, type=click.Path(path_type=Path), help="YAML file: the suspect's block."
)
@click.option(
    "--images", "data", required=True, type=click.Path(path_type=Path), help="Labelled images, a data set file."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Transcript to write, or to go on with.")
@click.option("--limit", type=click.IntRange(1), help="Ask the first so many images only.")
@click.option("--twice", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share asked a second time.")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Of a model in this process."
)
def main(  # noqa: PLR0917 - click passes options by name
    block: Path, data: Path, out: Path, limit: int | None, twice: float, threads: int
) -> None:
    """Put labelled images to a suspect and keep every answer; interrupted, the same command goes on."""
    runtime = start(RuntimeConfig(device="auto", threads=threads, precision="fp32", seed=0))
    images = ImageDataset.load(data)
    if limit is not None:
        images = images.subset(torch.arange(min(limit, len(images))))
    suspect = suspects.build(block.stem, read_params(block), images.classes, images.shape, runtime)
    with suspects.recording(suspect, out, images.shape, images.classes) as recorded:
        begin = time.perf_counter()
        repeated = None
        if twice:
            answer, repeated = suspects.ask_twice(recorded, images.images, twice, runtime.generator("ask/twice"))
        else:
            answer = recorded.scores(images.images)
        seconds = time.perf_counter() - begin
        asked = recorded.asked
        head = recorded.finish()
    accuracy = float((answer.labels == images.labels).float().mean())
    click.echo(f"accuracy {accuracy:.1%} of {len(images):,} images")
    speed = f", {asked / seconds:,.0f} queries/s" if asked else ""
    click.echo(
        f"{asked:,} asked now{speed}; the rest is from the transcript"
        if asked < len(images)
        else f"{asked:,} asked{speed}"
    )
    if suspect.budget is not None:
        click.echo(f"{suspect.budget.used:,} images sent in all")
    if repeated is not None:
        click.echo(f"{repeated.different:,} of {repeated.repeated:,} repeated images answered differently")
    click.echo(f"transcript {out}, head {head}")
