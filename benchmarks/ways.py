"""Each way to combine on one pair of images, and how well the autoencoder of way C2 reconstructs.

python benchmarks/ways.py --set data/clean Trouser Sneaker --set OTHER/data/clean automobile airplane \\
    --out docs/results/ways.csv --images docs/images

--set: a folder of prepare_data (train and test are read), and the names of the two classes; as often as there are sets.
Writes ways.png (the first test image of each class, the two combined in each way, default parameters) and
autoencoder.png (test images and reconstructions) into --images.  Rows of --out, a set each: squared errors on the test
images of both classes and of all classes (0-1), beside those of the mean training image; the mean squared difference
between the blend of a pair and the mean of its pixels, and between that blend and the autoencoder's picture of the
mean; the autoencoder's size, its seconds of training and milliseconds a blend.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import artifacts, config, plots, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.runtime import Runtime
from hallmark.watermark.ways import _coder, autoencoder, ways

EXAMPLES = 8
COLUMNS = ["set", "pair", "parameters", "key_characters", "train_images", "seconds", "error", "error_of_pair"]
COLUMNS += ["error_of_mean_image", "blend_to_pixel_mean", "blend_to_reconstructed_mean", "pixel_mean", "ms_a_blend"]


def error(one: Tensor, other: Tensor) -> float:
    """Mean squared difference of uint8 images, in 0-1."""
    return float(F.mse_loss(to_float(one), to_float(other)))


def combine(name: str, first: Tensor, second: Tensor, coder: autoencoder.Params, run: Runtime) -> Tensor:
    """A pair in a way, with its default parameters or the trained autoencoder."""
    module = ways.get(name)
    params = coder if name == "autoencoder" else module.Params()
    return module.combine(first, second, params, run.generator(f"benchmark/{name}"))


def measure(folder: str, pair: list[str], run: Runtime) -> tuple[dict[str, Any], dict[str, Tensor], list[Tensor]]:
    """The row of a set, its pictures by way, and test images above their reconstructions."""
    train, test = (ImageDataset.load(Path(folder) / f"{part}.safetensors") for part in ("train", "test"))
    first, second = (test.of_class(test.class_index(name, "--set")) for name in pair)
    start = time.perf_counter()
    coder = autoencoder.prepare(autoencoder.Params(), train, run)
    seconds = time.perf_counter() - start

    def reconstructed(images: Tensor) -> Tensor:
        return autoencoder.combine(images, images, coder, torch.Generator())

    count = min(len(first), len(second), 1000)
    first, second = first[:count], second[:count]
    start = time.perf_counter()
    blends = autoencoder.combine(first, second, coder, torch.Generator())
    each = (time.perf_counter() - start) / count
    mean = ((first.float() + second.float()) / 2).round().byte()
    both = torch.cat([first, second])
    average = train.images.float().mean(0).round().byte().expand_as(test.images)
    row = {
        "set": f"{train.shape[0]}x{train.shape[1]}x{train.shape[2]}, {len(train.classes)} classes",
        "pair": " + ".join(pair),
        "parameters": _coder.count(train.shape[0], coder.width, coder.latent),
        "key_characters": len(coder.weights),
        "train_images": len(train),
        "seconds": round(seconds, 1),
        "error": error(reconstructed(test.images), test.images),
        "error_of_pair": error(reconstructed(both), both),
        "error_of_mean_image": error(average, test.images),
        "blend_to_pixel_mean": error(blends, mean),
        "blend_to_reconstructed_mean": error(blends, reconstructed(mean)),
        "pixel_mean": error(first, mean),
        "ms_a_blend": round(1000 * each, 2),
    }
    pictures = {"first": first[:1], "second": second[:1]}
    pictures |= {name: combine(name, first[:1], second[:1], coder, run) for name in ways.names()}
    some = test.images[:EXAMPLES]
    return row, pictures, [some, reconstructed(some)]


def main() -> None:
    """Measure all sets, write the table and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=("FOLDER", "FIRST", "SECOND"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="its section runtime is read")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    options = parser.parse_args()
    values = config.read_params(options.params)
    run = runtime.start(config.section(values, "runtime", RuntimeConfig, options.params))
    rows, grid, captions, reconstructions = [], [], [], []
    for folder, *pair in options.set:
        row, pictures, pairs = measure(folder, pair, run)
        print(row)
        rows.append(row)
        grid.append((row["pair"].replace(" + ", " +\n"), pictures))
        captions.append([*pair, *list(pictures)[2:]])
        reconstructions += [(f"{row['set']}\ngiven", pairs[0]), ("reconstructed", pairs[1])]
    artifacts.write_csv(options.out, rows, COLUMNS)
    rows_of_images = [(label, torch.cat(list(pictures.values()))) for label, pictures in grid]
    plots.save(plots.image_grid(rows_of_images, "Ways to combine", captions), options.images / "ways.png")
    title = "Way C2's autoencoder on test images"
    plots.save(plots.image_grid(reconstructions, title), options.images / "autoencoder.png")


if __name__ == "__main__":
    main()
