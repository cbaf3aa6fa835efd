"""Make a bundle from a report, and refuse one that its own check would not accept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark import artifacts, runtime, suspects
from hallmark.config import RuntimeConfig, VerifyOwnership, read_params, section
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError, naming
from hallmark.evidence import document, page, recompute
from hallmark.evidence.check import NO, Checked, Judge, check
from hallmark.evidence.document import Evidence, Pool, Reference
from hallmark.ownership import _documents, commitment, folder, signing
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.verification import answers, panel, present

REFERENCE = "victim"
"""What reports call the watermarked model."""


@dataclass(frozen=True)
class Sources:
    """What a bundle is made of.

    Attributes:
        report: folder that stage ``verify_ownership`` wrote.
        commitment: its file, beside which the ledger is.
        pool: the judge's images.
        params: params.yaml of that stage's run.
        model: the model's folder, to be compared with what was committed to; None: it is not.
    """

    report: Path
    commitment: Path
    opening: Opening
    pool: Path
    params: Path
    model: Path | None = None


@dataclass(frozen=True)
class Signer:
    """As :func:`hallmark.ownership.signing.sign` takes them."""

    private_key: Path
    certificate: Path | None = None
    chain: Sequence[Path] = ()


def make(sources: Sources, out: Path, signer: Signer | None = None) -> Checked:
    """Write a bundle that reveals the key, which is recorded as spent just before.

    All bytes but the signature follow from the sources.

    Args:
        out: a new folder.

    Raises:
        UserError: the commitment does not open, or names another key than the signer's, the key is spent under another
            commitment, the report does not follow from its transcripts, or ``out`` exists.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; move it away or name another")
    for source in (sources.report, sources.model):
        if source is not None and out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{out}: lies in {source}; choose a folder beside it")
    params = read_params(sources.params)
    rule = section(params, "verify_ownership", VerifyOwnership, sources.params)
    committed = VerifyOwnership.committed(params["verify_ownership"])
    how = section(params, "runtime", RuntimeConfig, sources.params)
    made = Commitment.read(sources.commitment)
    model = None if sources.model is None else commitment.model_hash(sources.model)
    owner = None if signer is None or sources.opening.owner is None else signing.own_fingerprint(signer.private_key)
    commitment.verify(made, sources.opening, model=model, rule=committed, owner=owner)
    pool = ImageDataset.load(sources.pool)
    with naming(str(sources.pool)):
        asked = recompute.draw(sources.opening, pool, rule)
    rows = artifacts.read_csv(sources.report / document.VERDICTS, present.COLUMNS)
    nulls = recompute.null_table(sources.report / document.NULLS, rule)
    together = [row["model"] for row in rows if row["role"] == "suspect"]
    enough = panel.stopping(nulls, rule, together).get(REFERENCE)
    models, accuracy = [], None
    for row in rows:
        name = _name(row["model"], sources.report)
        path = sources.report / document.transcript(name)
        verified = suspects.verify(path)
        if name == REFERENCE:
            given, _ = answers.ask(asked, recompute.replayed(verified, str(path), asked), enough)
            accuracy = float(given.correct.mean())
        models.append({"name": name, "role": row["role"], "transcript": verified.head,
                       "description": verified.header.get("suspect")})  # fmt: skip
    if accuracy is None:
        raise UserError(f"{sources.report / document.VERDICTS}: has no row {REFERENCE}; rerun verify_ownership")
    precision = runtime.describe(runtime.start(how))["precision"]
    with artifacts.replacing(out) as temporary:
        names = _copy(sources, [model["name"] for model in models], temporary)
        value: dict[str, Any] = {
            "format": document.FORMAT,
            "commitment": made.hash,
            "judge_seed": rule.judge_seed,
            "keys": rule.keys,
            "rule": committed,
            "pool": Pool(
                sha256=artifacts.sha256(sources.pool),
                images=len(pool),
                classes=list(pool.classes),
                shape=list(pool.shape),
            ).model_dump(),
            "reference": Reference(model=REFERENCE, accuracy=accuracy).model_dump(),
            "models": models,
            "asking": {"precision": precision, "threads": how.threads},
            "files": {name: artifacts.sha256(temporary / name) for name in names},
        }
        evidence = _documents.checked(Evidence, value, document.EVIDENCE)
        written = page.render(evidence, made, sources.opening, rows, len(nulls))
        artifacts.write_bytes(temporary / document.PAGE, written)
        files = {**evidence.files, document.PAGE: artifacts.sha256(temporary / document.PAGE)}
        evidence = evidence.model_copy(update={"files": files})
        artifacts.write_bytes(temporary / document.EVIDENCE, evidence.canonical())
        found = check(temporary, Judge(pool=sources.pool, model=None))
        if failed := [line for line in found.lines if line.mark == NO]:
            raise UserError(
                f"{sources.report}: is not what the key, the images and the rule give ({failed[0].check}: "
                f"{failed[0].text}); rerun verify_ownership with the committed key and these parameters"
            )
        if signer is not None:
            signing.sign(
                temporary, temporary / document.SIGNATURE, signer.private_key, signer.certificate, signer.chain
            )
        # Last, for a bundle that fails shows nothing; but before the bundle is there, for the reason that reveal has.
        folder.spend(sources.commitment, sources.opening, again=True)
    return found


def _name(text: str, report: Path) -> str:
    """A model's name that can be a file's.

    Raises:
        UserError: it cannot.
    """
    if not document.is_name(text):
        raise UserError(f"{report}: the model '{text[:60]}' has a name that no file of a bundle can have; rename it")
    return text


def _copy(sources: Sources, models: Sequence[str], target: Path) -> list[str]:
    """Copy and write all files but the page and the table of contents; their paths within the bundle."""
    report = sources.report
    copied = {document.COMMITMENT: sources.commitment}
    copied |= {name: report / name for name in (document.VERDICTS, document.NULLS)}
    copied |= {document.transcript(name): report / document.transcript(name) for name in models}
    copied |= {f"figures/{path.name}": path for path in sorted((report / "figures").glob("*.png"))}
    for name, path in copied.items():
        if not path.is_file():
            raise UserError(f"{path}: no such file; rerun verify_ownership")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    artifacts.write_secret(target / document.OPENING, sources.opening.canonical())
    return sorted([*copied, document.OPENING])
