"""Make data sets of many classes, or of unequal ones, from Fashion-MNIST: what the contest has of neither.

python benchmarks/composites.py --out data/raw/composites                    # for contest/many_classes.yaml
python benchmarks/composites.py --long-tail 10 --out data/raw/long_tail      # for contest/long_tail.yaml

Without --long-tail an image shows two garments side by side, each at half its width; its class, one of 100, is the
pair.  With it class k keeps the share FACTOR^(-k/9) of its training images, so that the first has FACTOR times the
last's; the test images stay as they are.  Written as parquet files, for `prepare_data.source: parquet`; test images
come from the official test part alone.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from hallmark import artifacts
from hallmark.config import PrepareData
from hallmark.data import sources
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError


def pairs(data: ImageDataset, count: int, generator: torch.Generator) -> ImageDataset:
    """``count`` images of two of ``data`` side by side, as many of each class as can be; K*K classes."""
    k = len(data.classes)
    labels = torch.arange(count) % (k * k)
    halves = []
    for wanted in (labels // k, labels % k):
        rows = torch.empty(count, dtype=torch.int64)
        for label in range(k):
            own, places = (data.labels == label).nonzero()[:, 0], (wanted == label).nonzero()[:, 0]
            rows[places] = own[torch.randint(len(own), (len(places),), generator=generator)]
        images = data.images[rows].float()
        halves.append((images[..., ::2] + images[..., 1::2]) / 2)
    images = torch.cat(halves, 3).round().to(torch.uint8)
    names = tuple(f"{one} | {other}" for one in data.classes for other in data.classes)
    return ImageDataset(images, labels, torch.arange(count), names)


def long_tailed(data: ImageDataset, factor: float, generator: torch.Generator) -> ImageDataset:
    """Of class k the share ``factor ** (-k / (K - 1))``, drawn at random."""
    kept = []
    for label in range(len(data.classes)):
        rows = (data.labels == label).nonzero()[:, 0]
        count = round(len(rows) * factor ** (-label / (len(data.classes) - 1)))
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return data.subset(torch.cat(kept).sort().values)


def write(data: ImageDataset, path: Path) -> None:
    """Grey images as PNG and their labels, with the classes' names where :mod:`parquet` looks for them."""
    pictures = []
    for image in data.images[:, 0].numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue()})
    features = {"label": {"names": list(data.classes), "_type": "ClassLabel"}}
    table = pa.table({"img": pictures, "label": data.labels.numpy()})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with artifacts.replacing(path) as place:
        pq.write_table(table, place)


def main(words: Sequence[str]) -> None:
    """Write ``train-0.parquet`` and ``test-0.parquet``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--long-tail", type=float, metavar="FACTOR", help="the first class's size, in the last's")
    parser.add_argument("--train", type=int, default=25000, help="composites for training and the reserve")
    parser.add_argument("--test", type=int, default=10000, help="composites for the test")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="where Fashion-MNIST is")
    given = parser.parse_args(words)
    config = PrepareData(source="fashion_mnist", train=0, test=0, reserve=1000, queries=1000)
    source = sources.load(config, given.raw)
    assert source.test is not None
    generator = torch.Generator().manual_seed(0)
    if given.long_tail:
        train, test = long_tailed(source.train, given.long_tail, generator), source.test
    else:
        train, test = (
            pairs(part, count, generator) for part, count in ((source.train, given.train), (source.test, given.test))
        )
    for name, part in (("train", train), ("test", test)):
        write(part, given.out / f"{name}-0.parquet")
        sizes = torch.bincount(part.labels)
        print(f"{name}: {len(part):,} images, {len(part.classes)} classes of {sizes.min()} to {sizes.max()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"composites: {error}")
