"""Fetch or read the data set and split it: train, test, a trusted reserve, the thief's queries.

python -m hallmark prepare_data --raw data/raw --out data/clean --report reports/prepare_data
"""

from pathlib import Path

import click

from hallmark import artifacts
from hallmark.config import PrepareData
from hallmark.stage import open_stage, params_option, path_option


@click.command()
@path_option("--raw", "Folder of downloaded data sets; looked into before anything is fetched.")
@path_option("--out", "Folder to write: one safetensors file a split, and meta.json.")
@path_option("--report", "Folder for metrics, tables and pictures.")
@params_option
def main(raw: Path, out: Path, report: Path, params: Path) -> None:
    """Fetch or read the data set and split it."""
    from hallmark.data import overview, sources, splits  # noqa: PLC0415 - slow to import

    with open_stage("prepare_data", params, PrepareData, inputs=(), outputs=(out,), report=report) as (stage, config):
        source = sources.load(config, raw)
        if config.path is not None and source.reserve is None:
            click.echo(
                f"warning: {config.path} has no part 'reserve': the reserve is drawn from the set itself, "
                "so the whole set must be trusted to be clean",
                err=True,
            )
        stage.run.set_tags({"source": config.source, "raw.sha256": source.raw_sha256})
        result = splits.split(source, config, stage.runtime)
        sets = result.sets
        train = sets["train"]
        sizes = {name: len(data) for name, data in sets.items()}
        with artifacts.replacing(out) as folder:
            for name, data in sets.items():
                data.save(folder / f"{name}.safetensors")
            meta = {
                "source": config.source,
                "shape": list(train.shape),
                "classes": list(train.classes),
                "sizes": sizes,
                "raw_sha256": dict(source.raw),
            }
            artifacts.write_json(folder / "meta.json", meta)

        duplicates = splits.duplicates(sets)
        stage.table("duplicates", duplicates, ("split", "other", "images"))
        stage.table("balance", splits.balance(sets), ("split", "class", "images", "share"))
        stage.figure("class_balance", overview.class_balance(sets))
        stage.figure("samples", overview.samples(sets))
        channels, height, width = train.shape
        stage.metrics(
            {
                "images": sizes,
                "classes": len(train.classes),
                "shape": {"channels": channels, "height": height, "width": width},
                "duplicates": {
                    "dropped": result.dropped,
                    "conflicting_labels": result.conflicting,
                    "within_splits": sum(row["images"] for row in duplicates if row["split"] == row["other"]),
                    "test_images_in_train": next(
                        row["images"] for row in duplicates if (row["split"], row["other"]) == ("test", "train")
                    ),
                    "across_splits": sum(row["images"] for row in duplicates if row["split"] < row["other"]),
                },
            }
        )
        click.echo(
            f"{config.source}: {', '.join(f'{name} {size:,}' for name, size in sizes.items())} images, "
            f"{len(train.classes)} classes, {width}x{height}x{channels}; {result.dropped:,} duplicates dropped"
        )
