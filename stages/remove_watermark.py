"""Take the mark out of a model, as its thief would: python -m hallmark remove_watermark --removal NAME --model DIR \
    --victim DIR --queries FILE --test FILE --out DIR --report DIR

NAME is a block of remove_watermark.removals in params.yaml (docs/removal.md); its ``model`` says which model is
attacked: the victim, or a stolen copy.  The removal sees the model, the thief's images with their labels, and the
victim's answers; never the key, so that verify_ownership, not this stage, says what is left of the mark.
"""

from __future__ import annotations

from pathlib import Path

import click

from hallmark import models, plots, training
from hallmark.config import RemoveWatermark, named_block
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import agreement, black_box
from hallmark.removal import Means, removal_params
from hallmark.stage import open_stage, params_option, path_option


@click.command(help=__doc__)
@click.option("--removal", required=True, help="A block of remove_watermark.removals.")
@path_option("--model", "Folder of the model that is attacked.")
@path_option("--victim", "Folder of the victim, whose answers the thief may have.")
@path_option("--queries", "The thief's own images.")
@path_option("--test", "Held-out images.")
@path_option("--raw", "Folder of downloaded data sets, for transfer learning.", required=False)
@path_option("--out", "Folder for the model without its mark.")
@path_option("--report", "Folder for metrics and curves.")
@params_option
def main(
    removal: str,
    model: Path,
    victim: Path,
    queries: Path,
    test: Path,
    raw: Path | None,
    out: Path,
    report: Path,
    params: Path,
) -> None:
    paths = {"inputs": [model, victim, queries, test], "outputs": [out], "report": report, "variant": removal}
    with open_stage("remove_watermark", params, RemoveWatermark, **paths) as (stage, config):
        stage.names("remove_watermark", "removals")
        section = f"{params}: remove_watermark.removals"
        where, block = f"{section}.{removal}", dict(named_block(config.removals, removal, section))
        attacked = block.pop("model", None)
        known = ["victim", *(f"extracted/{name}" for name in stage.names("extract_attack", "attacks"))]
        if attacked not in known:
            raise UserError(f"{where}.model: wants one of {', '.join(known)}, not {attacked!r}")
        if not model.as_posix().endswith(f"/{attacked}"):
            raise UserError(f"{where}.model: is {attacked}, but --model is {model}; give the folder of that model")
        module, own = removal_params(block, where)
        before, asked = models.load(model, stage.runtime), models.load(victim, stage.runtime)
        images, held_out = ImageDataset.load(queries), ImageDataset.load(test)
        for data, path in ((images, queries), (held_out, test)):
            for network in (before, asked):
                models.check_images(data, path, network.spec)
        purpose, callback = f"remove/{removal}", stage.epochs(removal)
        means = Means(
            images, black_box(asked, stage.runtime), stage.runtime, purpose, callback, where, raw or Path("data/raw")
        )
        after = module.remove(before, means, own)
        said = models.logits(asked, held_out.images, stage.runtime).argmax(1)
        stage.metrics(
            {
                f"{name}{suffix}": value
                for suffix, network in (("", after), ("_before", before))
                for name, value in (
                    ("accuracy", training.accuracy(network, held_out, stage.runtime)),
                    ("fidelity", agreement(network, said, held_out.images, stage.runtime)),
                )
            }
        )
        curves: dict[str, list[float]] = {}
        for row in stage.history:
            curves.setdefault(row["metric"], []).append(row["value"])
        if curves:
            stage.figure("losses", plots.curves(curves, "loss", f"Removal: {removal}"))
        else:  # nothing was trained; dvc.yaml promises a curve
            stage.table("training", [], ["epoch"])
        models.save(after, out)
        stage.run.register_model(out, f"removed_{removal}")
