"""Does a reversed trigger pass for the mark?  Neural Cleanse's trigger of its target, beside the judge's verdict.

python benchmarks/reversed_trigger.py --models models --data data/clean \\
    --verdicts reports/verify_ownership/verdicts.csv --out docs/results/reversed_trigger.csv

Anybody with the model can find a patch that makes it say the mark's target: its own trigger (found on the reserve, and
stamped on test images of the other classes), and the victim's.  The judge asks other questions: combinations of two
classes, which he draws himself.  A row a model: both rates beside the WSR and the verdict that verify_ownership gave.
Run it from the repository's root: it reads the key, which this machine must be able to open.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hallmark import artifacts, config, models, runtime
from hallmark.config import RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.detection import triggers
from hallmark.detection.models import neural_cleanse
from hallmark.ownership import keyfile

COLUMNS = ("model", "trigger_norm", "own_trigger", "victims_trigger", "untouched", "wsr", "decision")


def main(words: Sequence[str] | None = None) -> None:
    """Reverse, stamp, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--data", type=Path, default=Path("data/clean"))
    parser.add_argument("--verdicts", type=Path, default=Path("reports/verify_ownership/verdicts.csv"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="its section runtime is read")
    parser.add_argument("--threads", type=int, help="in place of runtime.threads")
    parser.add_argument("--steps", type=int, default=neural_cleanse.Params().steps)
    parser.add_argument("--images", type=int, default=2000, help="test images that are stamped")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    base = config.section(config.read_params(options.params), "runtime", RuntimeConfig, options.params)
    run = runtime.start(base.model_copy(update={"threads": options.threads or base.threads}))
    target = keyfile.load(options.models / "victim_key.age").target
    test, trusted = (ImageDataset.load(options.data / f"{name}.safetensors") for name in ("test", "reserve"))
    images = test.images[test.labels != target][: options.images]
    folders = {"victim": options.models / "victim", "unmarked": options.models / "unmarked"}
    for kind in ("extracted", "controls"):
        folders |= {path.name: path for path in sorted((options.models / kind).iterdir()) if path.is_dir()}
    verdicts = {row["model"]: row for row in artifacts.read_csv(options.verdicts, ("model", "wsr", "decision"))}
    params, rows = neural_cleanse.Params(steps=options.steps), []
    networks = {name: models.load(folder, run) for name, folder in folders.items()}
    found = {name: neural_cleanse.reverse(n, trusted, [target], params, run) for name, n in networks.items()}
    for name, network in networks.items():

        def called(asked, network: models.Network = network) -> float:
            return float((models.logits(network, asked, run).argmax(1) == target).float().mean())

        own, victims = found[name], found["victim"]
        rows.append({
            "model": name,
            "trigger_norm": float(own.norms[0]),
            "own_trigger": called(triggers.stamp_uint8(images, own.mask[0], own.pattern[0])),
            "victims_trigger": called(triggers.stamp_uint8(images, victims.mask[0], victims.pattern[0])),
            "untouched": called(images),
            **{column: verdicts.get(name, {}).get(column) for column in ("wsr", "decision")},
        })  # fmt: skip
        print(rows[-1], flush=True)
    artifacts.write_csv(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
