"""``python -m hallmark verify-evidence``: check a bundle and trust nothing in it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from hallmark.errors import UserError
from hallmark.ownership.command import FILE


@click.command()
@click.argument("bundle", type=FILE)
@click.option("--pool", type=FILE, help="The judge's images: the questions are drawn again.")
@click.option("--judge-seed", type=int, help="The seed that the judge ordered.")
@click.option("--keys", type=int, help="The number of keys that the owner has committed to.")
@click.option("--public-key", type=FILE, help="The signer's public key (PEM).")
@click.option("--root", "roots", multiple=True, type=FILE, help="Root of the signer's certificate; may be repeated.")
@click.option("--timestamp-root", "stamps", multiple=True, type=FILE, help="Trusted root (PEM); may be repeated.")
@click.option("--model", type=FILE, help="The claimed model's folder: compared with the commitment, and asked again.")
@click.option("--nulls", type=FILE, help="Folder of the null models: they are asked again.")
@click.option(
    "--suspect", "blocks", multiple=True, metavar="NAME=FILE", help="YAML block of a model to ask again; repeatable."
)
@click.option(
    "--share",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Asked again of the other mixtures, on which no verdict hangs; all else is.",
)
@click.option("--seed", type=click.IntRange(0), help="Of the choice of questions asked again.  [default: a new one]")
@click.option(
    "--allowed", default=0.02, show_default=True, type=click.FloatRange(0, 0.1), help="Share that may change then."
)
@click.option("--strict", is_flag=True, help="Status 1 also if anything was not checked.")
@click.pass_context
def main(  # noqa: PLR0917 - click passes options by name
    context: click.Context,
    bundle: Path,
    pool: Path | None,
    judge_seed: int | None,
    keys: int | None,
    public_key: Path | None,
    roots: tuple[Path, ...],
    stamps: tuple[Path, ...],
    model: Path | None,
    nulls: Path | None,
    blocks: tuple[str, ...],
    share: float,
    seed: int | None,
    allowed: float,
    strict: bool,
) -> None:
    """Check a BUNDLE of evidence and trust nothing in it (docs/evidence.md).

    A line a check: ok; NO; or -- for what was not checked, with the option that would.  Status 0 if no line says
    NO, and with --strict none says --.
    """
    from hallmark.evidence.check import NO, OPEN, Judge, check  # noqa: PLC0415 - torch is slow to import
    from hallmark.verification import present  # noqa: PLC0415

    if public_key is not None and roots:
        raise UserError("--public-key and --root: give one of them")
    judge = Judge(
        pool=pool,
        judge_seed=judge_seed,
        keys=keys,
        public_key=public_key,
        roots=roots,
        timestamp_roots=stamps,
        model=model,
        nulls=nulls,
        suspects=dict(_block(text) for text in blocks),
        share=share,
        # Nobody may know in advance which answers are compared.
        seed=secrets.randbelow(1 << 31) if seed is None else seed,
        allowed=allowed,
    )
    found = check(bundle, judge, click.echo)
    for verdict in found.verdicts:
        click.echo(present.line(verdict))
    failed, left = (sum(line.mark == mark for line in found.lines) for mark in (NO, OPEN))
    click.echo(f"{failed} of {len(found.lines)} checks failed, {left} were not made")
    context.exit(0 if found.sound and not (strict and left) else 1)


def _block(text: str) -> tuple[str, dict[str, Any]]:
    from hallmark.config import read_params  # noqa: PLC0415

    name, equals, path = text.partition("=")
    if not name or not equals:
        raise UserError(f"--suspect {text}: wants NAME=FILE, the model's name in the bundle and its YAML block")
    return name, read_params(Path(path))
