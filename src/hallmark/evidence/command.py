"""``python -m hallmark evidence``: put everything that a judge needs into one folder."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.errors import UserError
from hallmark.ownership.command import FILE, read_opening, unsealing


@click.command()
@click.option("--report", required=True, type=FILE, help="Folder that verify_ownership wrote.")
@click.option(
    "--commitment", "public", required=True, type=FILE, help="The commitment's file; the ledger is beside it."
)
@click.option("--opening", required=True, type=FILE, help="The opening, encrypted or plain. It is revealed.")
@unsealing
@click.option("--pool", required=True, type=FILE, help="The judge's images, of which the questions were drawn.")
@click.option("--params", required=True, type=FILE, help="params.yaml of that run of verify_ownership.")
@click.option("--model", type=FILE, help="The marked model's folder, to be compared with the commitment.")
@click.option("--private-key", type=FILE, help="Sign the folder with this key (hallmark key pair).")
@click.option("--certificate", type=FILE, help="The key's certificate, to be carried by the signature.")
@click.option("--chain", multiple=True, type=FILE, help="Certificates between it and its root; may be repeated.")
@click.option("--out", required=True, type=FILE, help="Folder to write.")
def main(  # noqa: PLR0917 - click passes options by name
    report: Path,
    public: Path,
    opening: Path,
    identity: Path | None,
    passphrase_env: str | None,
    pool: Path,
    params: Path,
    model: Path | None,
    private_key: Path | None,
    certificate: Path | None,
    chain: tuple[Path, ...],
    out: Path,
) -> None:
    """Put everything that a judge needs into one folder; the key in it is spent (docs/evidence.md)."""
    from hallmark.evidence import bundle  # noqa: PLC0415 - torch and matplotlib are slow to import
    from hallmark.ownership import folder  # noqa: PLC0415

    if private_key is None and (certificate or chain):
        raise UserError("--certificate and --chain go with --private-key; give it, or leave them out")
    signer = None if private_key is None else bundle.Signer(private_key, certificate, chain)
    opened = read_opening(opening, identity, passphrase_env)
    found = bundle.make(bundle.Sources(report, public, opened, pool, params, model), out, signer)
    signed = "signed" if signer else "not signed"
    click.echo(f"evidence: wrote {out}: {len(found.verdicts)} verdicts, {signed}")
    click.echo(f"evidence: the key is spent, {public.parent / folder.LEDGER} says so")
