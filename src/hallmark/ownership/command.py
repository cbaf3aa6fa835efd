"""``python -m hallmark key``: commit to a watermark key before release, keep it secret, open and reveal it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hallmark.errors import UserError

FILE = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def options(*several: Decorator) -> Decorator:
    """Options that commands share, in the order in which ``--help`` lists them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(several):
            function = option(function)
        return function

    return decorate


sealing = options(
    click.option("--recipient", "recipients", multiple=True, metavar="age1..", help="Encrypt to it; may be repeated."),
    click.option("--recipients-file", type=FILE, help="A file of such recipients, one a line."),
    click.option("--passphrase", "ask", is_flag=True, help="Encrypt to a passphrase, asked at the terminal."),
    click.option("--passphrase-env", metavar="NAME", help="Encrypt to the passphrase in this environment variable."),
    click.option("--plain", is_flag=True, help="Do not encrypt."),
)
unsealing = options(
    click.option("--identity", type=FILE, help="File of age identities (AGE-SECRET-KEY-1...) that decrypt."),
    click.option("--passphrase-env", metavar="NAME", help="Environment variable that holds the passphrase."),
)


@click.group()
def main() -> None:
    """Commit to a watermark key, keep it secret, open and reveal it (docs/ownership.md)."""


@main.command()
@click.option("--private", default="owner.pem", show_default=True, type=FILE, help="Private key to write, mode 0600.")
@click.option("--public", default="owner.pub.pem", show_default=True, type=FILE, help="Public key to write.")
def pair(private: Path, public: Path) -> None:
    """Make the key pair that signs models."""
    from hallmark.ownership import signing  # noqa: PLC0415 - torch and cryptography are slow to import

    signing.make_pair(private, public)
    click.echo(f"key: wrote {private} (secret) and {public}")


@main.command()
@click.option("--models", "folder", required=True, type=FILE, help="Folder of clean models, for example models/nulls.")
@click.option(
    "--data", required=True, type=FILE, help="Labelled images on which no verdict will rest: a data set file."
)
@click.option("--out", required=True, type=FILE, help="Table (CSV) to write: every key that was measured.")
@click.option("--way", "ways", multiple=True, metavar="NAME", help="Only this way to combine; may be repeated.")
@click.option("--queries", default=100, show_default=True, type=click.IntRange(10, 10_000), help="A pair and way.")
@click.option("--pairs", default=200, show_default=True, type=click.IntRange(1, 10_000), help="Drawn, at most.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 31) - 1), help="Of pairs and images."
)
@click.option("--most-rate", default=0.02, show_default=True, type=click.FloatRange(0, 1), help="Of any clean model.")
@click.option(
    "--least-apart",
    default=6.0,
    show_default=True,
    type=float,
    help="Deviations between combinations and plain images; a mark without bridges wants none: -inf.",
)
@click.option("--best", default=20, show_default=True, type=click.IntRange(1), help="Keys to list, and to draw from.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Of the models.")
@click.option("--draw", type=FILE, help="Draw one of them in secret and write it to this file, mode 0600.")
def propose(  # noqa: PLR0917 - click passes options by name
    folder: Path,
    data: Path,
    out: Path,
    ways: tuple[str, ...],
    queries: int,
    pairs: int,
    seed: int,
    most_rate: float,
    least_apart: float,
    best: int,
    threads: int,
    draw: Path | None,
) -> None:
    """Measure on clean models which keys are good ones."""
    from hallmark.ownership import proposal  # noqa: PLC0415

    found, classes = proposal.of_folder(
        folder, data, ways=ways, queries=queries, most_pairs=pairs, seed=seed, threads=threads, table=out
    )
    good = proposal.quiet(found, most_rate, least_apart)
    silent = sum(each.highest_rate <= most_rate for each in found)
    for each in good[:best]:
        click.echo(f"key: {each.words(classes)}")
    click.echo(
        f"key: wrote {out}; no clean model fires in more than {most_rate:.1%} on {silent:,} of {len(found):,} keys; of "
        f"these {len(good):,} are of classes that are not alike and {least_apart:g} deviations apart"
    )
    if draw is not None:
        proposal.draw(good[:best], classes, draw)
        click.echo(
            f"key: drew one of {min(best, len(good))} into {draw}: put it into params.yaml, and keep both private"
        )


@main.command()
@click.option("--key", "key_file", required=True, type=FILE, help="The plain key, for example reserve_key.json.")
@click.option("--out", required=True, type=FILE, help="The encrypted key to write.")
@sealing
def encrypt(key_file: Path, out: Path, **how: Any) -> None:
    """Encrypt a key's file; you delete the plain one."""
    from hallmark import artifacts  # noqa: PLC0415
    from hallmark.ownership import secrets  # noqa: PLC0415

    seal, _ = _sealer(**how)
    data = secrets.read_secret(key_file)
    secrets.load_key(key_file)
    artifacts.write_secret(out, seal(data))
    click.echo(f"key: wrote {out}; delete {key_file} once you have tried that it can be decrypted")


@main.command()
@click.option("--key", "keys", required=True, multiple=True, type=FILE, help="Key, or reserve key; may be repeated.")
@click.option("--model", required=True, type=FILE, help="The marked model's folder.")
@click.option("--rule", required=True, type=FILE, help="params.yaml: the rule in its section verify_ownership.")
@click.option("--out", required=True, type=FILE, help="Folder to write.")
@sealing
@click.option("--identity", type=FILE, help="File of age identities, if the keys are encrypted.")
@click.option("--key-passphrase-env", metavar="NAME", help="Variable with the keys' passphrase, if they have one.")
@click.option("--timestamp-url", metavar="URL", help="Ask this RFC 3161 authority for a time stamp.")
@click.option(
    "--private-key", type=FILE, help="Commit in the name of this key (hallmark key pair), and sign the model."
)
@click.option("--certificate", type=FILE, help="The key's certificate, to be carried by the signature.")
@click.option("--chain", multiple=True, type=FILE, help="Certificates between it and its root; may be repeated.")
def commit(  # noqa: PLR0917 - click passes options by name
    keys: tuple[Path, ...],
    model: Path,
    rule: Path,
    out: Path,
    identity: Path | None,
    key_passphrase_env: str | None,
    timestamp_url: str | None,
    private_key: Path | None,
    certificate: Path | None,
    chain: tuple[Path, ...],
    **how: Any,
) -> None:
    """Bind keys, model and rule before release."""
    from hallmark.ownership import commitment, folder, secrets, signing  # noqa: PLC0415

    if private_key is None and (certificate or chain):
        raise UserError("--certificate and --chain go with --private-key; give it, or leave them out")
    loaded = [secrets.load_key(path, identity, _passphrase(path, key_passphrase_env)) for path in keys]
    bound = _rule(rule)
    seal, suffix = _sealer(**how)
    owner = None if private_key is None else signing.own_fingerprint(private_key)
    if private_key is not None:
        signing.sign(model, out / signing.SIGNATURE, private_key, certificate, chain)
        click.echo(f"key: {out / signing.SIGNATURE}: signature of {model}")
    made = folder.commit(loaded, model, bound, out, seal, owner=owner, suffix=suffix, timestamp_url=timestamp_url)
    for path in made:
        click.echo(f"key: {path}: {commitment.Commitment.read(path).hash}")
    named = "nobody's; --private-key would make it in the name of a key" if owner is None else f"of key {owner}"
    click.echo(f"key: in the name: {named}")
    click.echo(f"key: time: {commitment.Commitment.read(made[0]).time_note}")
    _record(model, made)


@main.command("open")
@click.option("--commitment", "public", required=True, type=FILE, help="The commitment's file.")
@click.option("--opening", required=True, type=FILE, help="The opening, encrypted or plain.")
@click.option("--model", required=True, type=FILE, help="The model's folder.")
@click.option("--params", required=True, type=FILE, help="params.yaml with the decision rule that is applied.")
@unsealing
@click.option("--timestamp-root", "roots", multiple=True, type=FILE, help="Trusted root (PEM); may be repeated.")
@click.option("--public-key", type=FILE, help="The owner's: must be named, and have signed model.sig beside it.")
@click.option("--root", "ca", multiple=True, type=FILE, help="The same by a certificate of this root; repeatable.")
def open_(  # noqa: PLR0917 - click passes options by name
    public: Path,
    opening: Path,
    model: Path,
    params: Path,
    identity: Path | None,
    passphrase_env: str | None,
    roots: tuple[Path, ...],
    public_key: Path | None,
    ca: tuple[Path, ...],
) -> None:
    """Check a commitment, model and rule."""
    from hallmark.ownership import commitment, signing, timestamp  # noqa: PLC0415

    made = commitment.Commitment.read(public)
    found = read_opening(opening, identity, passphrase_env)
    if public_key is not None and ca:
        raise UserError("--public-key and --root: give one of them")
    signature, owner = public.parent / signing.SIGNATURE, None
    if public_key is not None or ca:
        owner = signing.signer(signature, public_key)
    commitment.verify(made, found, model=commitment.model_hash(model), rule=_rule(params), owner=owner)
    when = f"{made.created} by its maker's clock; {made.time_note}"
    if roots:
        if made.token is None:
            raise UserError(f"{public}: has no token that --timestamp-root could verify; leave that option out")
        stamp = timestamp.verify(made.token, bytes.fromhex(made.hash), roots, str(public))
        when = f"{_stamped(stamp.time)} by the timestamp authority"
    if owner is not None:
        signing.verify(model, signature, public_key, ca)
        click.echo(f"key: made in the name of key {owner}, whose signature of {model} is valid")
    elif found.owner is None:
        click.echo("key: the commitment names nobody: whoever has seen it opened can show it as his own")
    else:
        click.echo(f"key: made in the name of key {found.owner}; --public-key or --root would compare it")
    click.echo(f"key: {public} opens: key, rule and model are the committed ones; time: {when}")


@main.command()
@click.option("--commitment", "public", required=True, type=FILE, help="The commitment's file.")
@click.option("--opening", required=True, type=FILE, help="The opening, encrypted or plain.")
@click.option("--out", required=True, type=FILE, help="The plain opening to write, for the judge.")
@unsealing
def reveal(public: Path, opening: Path, out: Path, identity: Path | None, passphrase_env: str | None) -> None:
    """Spend a key: write its plain opening."""
    from hallmark.ownership import folder  # noqa: PLC0415

    folder.reveal(public, read_opening(opening, identity, passphrase_env), out)
    click.echo(f"key: wrote {out}; the key is spent, {public.parent / folder.LEDGER} says so")


@main.command("list")
@click.argument("where", metavar="FOLDER", type=FILE)
@click.option("--timestamp-root", "roots", multiple=True, type=FILE, help="Trusted root (PEM); may be repeated.")
def list_(where: Path, roots: tuple[Path, ...]) -> None:
    """List commitments, spent or not, and their times."""
    from hallmark.ownership import folder  # noqa: PLC0415

    for each in folder.listing(where, roots):
        made = each.commitment
        time = f"{made.created} own clock"
        if each.stamp is not None:
            time = f"{_stamped(each.stamp.time)} timestamp authority"
        elif made.token is not None:
            time += ", token not valid" if each.problem else ", token not verified (give --timestamp-root)"
        state = f"spent {each.spent.revealed}" if each.spent else "not spent"
        click.echo(f"{each.path.name}  {made.hash}  {state}  {time}")
        if each.problem:
            click.echo(f"key: {each.problem}", err=True)


@main.command()
@click.option(
    "--claim", "claims", required=True, multiple=True, metavar="NAME=COMMITMENT,OPENING", help="A party's; repeatable."
)
@click.option("--timestamp-root", "roots", multiple=True, type=FILE, help="Trusted root (PEM); may be repeated.")
def first(claims: tuple[str, ...], roots: tuple[Path, ...]) -> None:
    """Say who committed first, of several parties' revealed commitments.

    Of the times alone: whose mark a suspect bears, the verdicts say.  Status 1 if nobody was first.
    """
    from hallmark.ownership import priority  # noqa: PLC0415

    judged, names = [], set()
    for text in claims:
        name, equals, files = text.partition("=")
        public, comma, opening = files.partition(",")
        if not (name and equals and public and comma and opening) or name in names:
            raise UserError(f"--claim {text}: wants NAME=COMMITMENT,OPENING, each name once")
        names.add(name)
        claim, problem = priority.judged(name, Path(public), Path(opening), roots)
        judged.append(claim)
        if problem:
            click.echo(f"key: {name}: {problem}")
    found = priority.earliest(judged)
    if found.first is None:
        raise UserError(found.words)
    click.echo(f"key: {found.words}")


def _record(model: Path, made: Sequence[Path]) -> None:
    """A run of MLflow with the commitments as tags and artifacts, where there is a store: another witness of the time.

    A store that does not answer costs a warning: what was committed is committed.
    """
    from hallmark import provenance, tracking  # noqa: PLC0415
    from hallmark.ownership.commitment import Commitment  # noqa: PLC0415

    there = os.environ.get("MLFLOW_TRACKING_URI") or (provenance.root() / "mlflow.db").is_file()
    if not there or not tracking.enabled():
        return
    every = [Commitment.read(path) for path in made]
    tags = {f"hallmark.commitment{f'.{each.index}' if each.index else ''}": each.hash for each in every}
    try:
        with tracking.run("key_commit", variant=None, inputs=[model], outputs=made, params={}, environment={}) as run:
            run.set_tags(tags)
            for path in made:
                run.log_artifact(path, "commitment")
    except UserError as error:
        click.echo(f"key: warning: not in MLflow: {error}", err=True)
    else:
        click.echo(f"key: MLflow ({tracking.store_name()}): run key_commit, tag hallmark.commitment")


def _sealer(
    recipients: tuple[str, ...], recipients_file: Path | None, ask: bool, passphrase_env: str | None, plain: bool
) -> tuple[Callable[[bytes], bytes], str]:
    """How secrets are written, and their files' suffix; exactly one way must be chosen."""
    from hallmark.ownership import secrets  # noqa: PLC0415

    ways = [bool(recipients or recipients_file), ask, passphrase_env is not None, plain]
    if sum(ways) != 1:
        raise UserError("choose one: --recipient or --recipients-file, --passphrase, --passphrase-env, or --plain")
    if plain:
        click.echo("key: warning: written plain; whoever reads the file can remove the mark or copy it", err=True)
        return bytes, "json"
    if recipients or recipients_file:
        everyone = [*recipients, *(secrets.read_recipients(recipients_file) if recipients_file else ())]
        return lambda data: secrets.encrypt(data, everyone), "age"
    passphrase = _variable(passphrase_env) if passphrase_env else _ask("passphrase", confirm=True)
    return lambda data: secrets.encrypt(data, passphrase=passphrase), "age"


def _passphrase(path: Path, variable: str | None) -> str | None:
    """The passphrase of a file, if it is encrypted to one."""
    from hallmark import artifacts  # noqa: PLC0415
    from hallmark.ownership import secrets  # noqa: PLC0415

    if variable is not None:
        return _variable(variable)
    if not secrets.is_for_passphrase(artifacts.read_bytes(path, secrets.MAX_FILE)):
        return None
    return _ask(f"passphrase of {path}", confirm=False)


def read_opening(path: Path, identity: Path | None, variable: str | None) -> Any:
    """An opening from its file, decrypted if it is encrypted; asks for a passphrase if no variable has it."""
    from hallmark.ownership import secrets  # noqa: PLC0415
    from hallmark.ownership.commitment import Opening  # noqa: PLC0415

    return Opening.read(secrets.read_secret(path, identity, _passphrase(path, variable)), str(path))


def _rule(path: Path) -> dict[str, Any]:
    """The rule in section ``verify_ownership``, checked and then taken as it stands."""
    from hallmark import config  # noqa: PLC0415

    params = config.read_params(path)
    config.section(params, "verify_ownership", config.VerifyOwnership, path)
    return config.VerifyOwnership.committed(params["verify_ownership"])


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise UserError(f"--passphrase-env: the environment variable {name} is not set or empty; set it")
    return value


def _ask(what: str, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise UserError(f"{what}: there is no terminal to ask at; name an environment variable in place of it")
    return click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)


def _stamped(time: Any) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
