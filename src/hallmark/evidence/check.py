"""Check a bundle: everything that it says is computed again from what the judge has, or named as not checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hallmark import artifacts, suspects
from hallmark.config import VerifyOwnership
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.evidence import asking, document, page, recompute
from hallmark.evidence.document import Evidence
from hallmark.evidence.findings import NO, OK, OPEN, Checked, Judge, Line
from hallmark.ownership import _documents, commitment, signing, timestamp
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.suspects import Verified
from hallmark.verification import answers, present
from hallmark.verification.answers import Answers
from hallmark.verification.decision import Verdict
from hallmark.verification.questions import Questions


def check(bundle: Path, judge: Judge, say: Callable[[Line], object] = lambda line: None) -> Checked:
    """Check everything that can be with what the judge has.

    Args:
        say: is given every line as soon as it is there.

    Raises:
        UserError: no bundle, or something of the judge's that cannot be used.
    """
    try:
        there = bundle.is_dir()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"{str(bundle)[:200]}: no name of a folder ({error.__class__.__name__})") from None
    if not there:
        raise UserError(f"{bundle}: no such folder; give the one that hallmark evidence wrote")
    evidence = Evidence.read(bundle)
    if unknown := sorted(judge.suspects.keys() - {model.name for model in evidence.models}):
        raise UserError(f"--suspect {unknown[0]}: is no model of {bundle}")
    run = _Check(bundle, evidence, judge, say)
    run.files()
    run.signature()
    run.committed()
    run.owner()
    run.timestamp()
    run.case()
    run.draw()
    run.nulls()
    run.transcripts()
    run.reference()
    run.verdicts()
    run.page()
    run.suspects()
    return Checked(tuple(run.lines), tuple(run.decided))


class _LackingError(Exception):
    """A check before this one failed, and this one cannot be made without what it would have given."""


class _Check:
    """What the checks found so far; each adds its lines, and what later ones need."""

    def __init__(self, bundle: Path, evidence: Evidence, judge: Judge, say: Callable[[Line], object]) -> None:
        self.bundle, self.evidence, self.judge, self._say = bundle, evidence, judge, say
        self.lines: list[Line] = []
        self.there: set[str] = set()
        """Files that may be opened: regular, not behind a link, not too large."""
        self.made: Commitment | None = None
        self.opening: Opening | None = None
        self.rule: VerifyOwnership | None = None
        self.questions: Questions | None = None
        self.answers: dict[str, Answers] = {}
        self.inconsistent: dict[str, float] = {}
        self.null_table: list[dict[str, Any]] = []
        self.decided: list[Verdict] = []

    def say(self, mark: str, check: str, text: str) -> None:
        line = Line(mark, check, text)
        self.lines.append(line)
        self._say(line)

    @contextmanager
    def checking(self, check: str) -> Iterator[None]:
        """What the block finds wrong is a line with NO; what it lacks, one of what was not checked."""
        try:
            with _documents.briefly():
                yield
        except _LackingError as error:
            self.say(OPEN, check, f"not checked: {error}")
        except UserError as error:
            self.say(NO, check, str(error))

    def path(self, name: str) -> Path:
        """A file's path.  Raises UserError: it is not there."""
        if name not in self.there:
            raise UserError(f"{name} is missing, or cannot be opened safely")
        return self.bundle / name

    def files(self) -> None:
        """Exactly the listed files, each with its hash."""
        largest = document.largest_transcript(self._most_answers(), len(self.evidence.pool.classes))
        wrong = document.misfits(self.evidence.files, self.evidence.transcripts())
        found, unfit = document.walk(self.bundle)
        wrong += unfit
        listed = self.evidence.files
        wrong += [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
        more = found.keys() - listed.keys() - {document.EVIDENCE, document.SIGNATURE}
        wrong += [f"{name} is there and not listed" for name in sorted(more)]
        for name, size in sorted(found.items()):
            if size > (largest if name.endswith(".jsonl") else document.MAX_FILE):
                wrong.append(f"{name} is larger than any such file of this bundle")
                continue
            self.there.add(name)
            if name in listed and artifacts.sha256(self.bundle / name) != listed[name]:
                wrong.append(f"{name} has another hash than is listed")
        names = [model.name for model in self.evidence.models]
        wrong += [f"model {name} is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
        if wrong:
            more_text = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            self.say(NO, "files", "; ".join(text[:200] for text in wrong[:5]) + more_text)
        else:
            self.say(OK, "files", f"{len(listed)} files, each with the hash listed, and no other")

    def signature(self) -> None:
        signed, judge = document.SIGNATURE in self.there, self.judge
        if judge.public_key is None and not judge.roots:
            state = "there is one" if signed else "there is none"
            self.say(OPEN, "signature", f"{state}; --public-key or --root would check it")
            return
        if any(line.check == "files" and line.mark == NO for line in self.lines):  # it would hash whatever is there
            self.say(OPEN, "signature", "not checked: it is of all files, and 'files' says NO")
            return
        with self.checking("signature"):
            path = self.path(document.SIGNATURE)
            signing.verify(self.bundle, path, judge.public_key, judge.roots)
            self.say(OK, "signature", "of all files, by the key or certificate given")

    def committed(self) -> None:
        """The commitment opens to the key and to the rule that was applied, and to the model."""
        with self.checking("commitment"):
            self.made = Commitment.read(self.path(document.COMMITMENT))
            data = artifacts.read_bytes(self.path(document.OPENING), _documents.MAX_BYTES)
            opening = Opening.read(data, document.OPENING)
            commitment.verify(self.made, opening)
            self.opening = opening
            if self.made.hash != self.evidence.commitment:
                raise UserError(f"{document.EVIDENCE} names another commitment than {document.COMMITMENT}")
            self.say(OK, "commitment", f"{self.made.hash} opens; compare it with the one that was published")
        with self.checking("rule"):
            self.rule = self.evidence.section()
            made, opening = self._opened()
            commitment.verify(made, opening, rule=self.evidence.rule)
            said = ", ".join(f"{name} {value}" for name, value in self.evidence.rule.items() if value is not None)
            self.say(OK, "rule", f"the rule that was applied is the one committed to; is it strict enough?  {said}")
        if self.judge.model is None:
            self.say(OPEN, "model", "--model would compare the model with the one committed to")
            return
        bound = commitment.model_hash(self.judge.model)
        with self.checking("model"):
            made, opening = self._opened()
            commitment.verify(made, opening, model=bound)
            self.say(OK, "model", "its files are those committed to")

    def owner(self) -> None:
        """Whoever signed the bundle can sign with the key in whose name the commitment was made."""
        with self.checking("owner"):
            _, opening = self._opened()
            if opening.owner is None:
                text = "the commitment names nobody: whoever saw it opened can show it as his own"
                self.say(OPEN, "owner", text)
                return
            if self.judge.public_key is None and not self.judge.roots:
                text = f"in the name of key {opening.owner}; --public-key or --root would compare the signer's"
                self.say(OPEN, "owner", text)
                return
            if not any(line.check == "signature" and line.mark == OK for line in self.lines):
                raise _LackingError("the bundle is not signed by the key or certificate given")
            if signing.signer(self.path(document.SIGNATURE), self.judge.public_key) != opening.owner:
                raise UserError(f"the commitment was made in the name of another key, {opening.owner}")
            self.say(OK, "owner", "the commitment was made in the name of the key that signed this bundle")

    def timestamp(self) -> None:
        with self.checking("timestamp"):
            if self.made is None:
                raise _LackingError("there is no commitment that could have one")
            if self.made.token is None and not self.judge.timestamp_roots:
                self.say(OPEN, "timestamp", f"{self.made.created} by its maker's clock; {self.made.time_note}")
            elif not self.judge.timestamp_roots:
                self.say(OPEN, "timestamp", "there is a token; --timestamp-root would verify it")
            elif self.made.token is None:
                raise UserError("the commitment has no token that --timestamp-root could verify")
            else:
                digest = bytes.fromhex(self.made.hash)
                stamp = timestamp.verify(
                    self.made.token, digest, self.judge.timestamp_roots, document.COMMITMENT
                )  # fmt: skip
                when = stamp.time.strftime(_documents.TIME)
                self.say(OK, "timestamp", f"{when} by the timestamp authority, within {stamp.accuracy}")

    def case(self) -> None:
        """What the judge set."""
        for name, option in (("judge_seed", "--judge-seed"), ("keys", "--keys")):
            stated, ordered = getattr(self.evidence, name), getattr(self.judge, name)
            if ordered is None:
                self.say(OPEN, name, f"{stated} is stated; {option} would compare it with the one ordered")
            elif ordered != stated:
                self.say(NO, name, f"{stated} is stated, {ordered} was ordered")
            else:
                self.say(OK, name, f"{stated}, as ordered")

        if not any(model.role == "control" for model in self.evidence.models):
            self.say(OPEN, "controls", "there is none: no innocent was put to the same questions by the same rule")

    def draw(self) -> None:
        """The pool is the one named, and the questions drawn from it once more."""
        if self.judge.pool is None:
            self.say(OPEN, "pool", "--pool would draw the questions again; without it no verdict can be recomputed")
            return
        with self.checking("pool"):
            stated, pool = self.evidence.pool, ImageDataset.load(self.judge.pool)
            if artifacts.sha256(self.judge.pool) != stated.sha256:
                raise UserError(f"{self.judge.pool} has another SHA-256 than the one named; give the judge's images")
            if (len(pool), list(pool.classes), list(pool.shape)) != (stated.images, stated.classes, stated.shape):
                raise UserError("its number of images, classes or shape are stated otherwise")
            self.say(OK, "pool", f"the one named, {len(pool):,} images")
            with self.checking("questions"):
                _, opening = self._opened()
                self.questions = recompute.draw(opening, pool, self._ruled())
                self.say(OK, "questions", f"{len(self.questions.images):,} drawn again by key, seed and rule")

    def transcripts(self) -> None:
        """Each chain, its head, and that exactly the questions were asked."""
        for model in self.evidence.models:
            name = document.transcript(model.name)
            with self.checking(name):
                verified = self._transcript(model)
                header = _documents.canonical({"x": verified.header.get("suspect")}, name)
                if header != _documents.canonical({"x": model.description}, name):
                    raise UserError(f"{document.EVIDENCE} describes another suspect than its header")
                if self.questions is None:
                    raise _LackingError("chain and head hold, and there are no questions to compare with")
                replay = recompute.replayed(verified, name, self.questions)
                given, consistency = answers.ask(self.questions, replay, self._enough().get(model.name))
                replay.finish()
                self.answers[model.name], self.inconsistent[model.name] = given, consistency.share
                count = f"{len(verified.records):,} answers"
                self.say(OK, name, f"{count}, chain and head hold, the questions are those drawn, repeated ones too")

    def reference(self) -> None:
        """The accuracy that suspects are compared with, and whose it is."""
        stated = self.evidence.reference
        model = next((m for m in self.evidence.models if m.name == stated.model), None)
        with self.checking("reference"):
            if model is None:
                raise UserError(f"{stated.model} is not among the models")
            if self.judge.model is not None:
                asking.same_files(model.description, self.judge.model)
            if model.name not in self.answers:
                self.say(OPEN, "reference", f"not checked: there are no answers of {model.name}")
            elif float(self.answers[model.name].correct.mean()) != stated.accuracy:
                raise UserError(f"{model.name} has another accuracy than the {stated.accuracy:.4%} stated")
            elif self.judge.model is None:
                text = "as recomputed; --model would show that its answers are of the weights committed to"
                self.say(OPEN, "reference", f"{model.name}, accuracy {stated.accuracy:.1%} {text}")
            else:
                self.say(OK, "reference", f"{model.name}, accuracy {stated.accuracy:.1%} as recomputed")

    def nulls(self) -> None:
        with self.checking("nulls"):
            self.null_table = recompute.null_table(self.path(document.NULLS), self._ruled())
            if self.judge.nulls is None or self.questions is None:
                option = "--nulls" if self.judge.nulls is None else "--pool"
                self.say(OPEN, "nulls", f"{len(self.null_table)} null models; {option} would ask them again")
                return
            text = asking.nulls_again(self.null_table, self.questions, self.judge.nulls, self.evidence.asking)
            self.say(OK, "nulls", text)

    def verdicts(self) -> None:
        """The verdicts that follow from answers, nulls and rule are those stated, in every column."""
        with self.checking("verdicts"):
            stated = artifacts.read_csv(self.path(document.VERDICTS), present.COLUMNS)
            missing = [model.name for model in self.evidence.models if model.name not in self.answers]
            if missing or not self.null_table or self.rule is None or self.evidence.reference.model in missing:
                raise _LackingError("they follow only from lines above that are not ok")
            self.decided = recompute.judge_all(
                self.evidence, self.answers, self.inconsistent, self.null_table, self.rule
            )
            rows = present.rows(self.decided)
            expected = artifacts.csv_bytes(rows, present.COLUMNS)
            if expected != artifacts.read_bytes(self.bundle / document.VERDICTS, document.MAX_FILE):
                raise UserError(recompute.difference(expected, stated))
            self.say(OK, "verdicts", f"{len(rows)} follow from answers, nulls and rule, in every column")

    def page(self) -> None:
        with self.checking("page"):
            rows = artifacts.read_csv(self.path(document.VERDICTS), present.COLUMNS)
            made, opening = self._opened()
            self._ruled()
            own = page.render(self.evidence, made, opening, rows, len(self.null_table))
            if own != artifacts.read_bytes(self.path(document.PAGE), document.MAX_FILE):
                raise UserError(f"{document.PAGE} says something else than the other files")
            self.say(OK, "page", f"{document.PAGE} says what the other files say; its pictures are only illustrations")

    def suspects(self) -> None:
        """Ask models again."""
        blocks = dict(self.judge.suspects)
        if self.judge.model is not None and self.evidence.reference.model not in blocks:
            blocks[self.evidence.reference.model] = {"kind": "safetensors", "path": str(self.judge.model)}
        for model in self.evidence.models:
            check = f"suspect {model.name}"
            if model.name not in blocks:
                option = f"--suspect {model.name}=BLOCK.yaml"
                self.say(OPEN, check, f"{option} would ask it again: only that shows that it gave these answers")
                continue
            with self.checking(check):
                if self.questions is None:
                    raise _LackingError("the questions to ask again are drawn from --pool")
                if model.name not in self.answers:
                    raise _LackingError("there are no answers to compare with")
                opened = asking.opened(model.name, blocks[model.name], self.questions.key, self.evidence.asking)
                # Read once more: all transcripts together may be more than the memory.
                replay = recompute.replayed(self._transcript(model), check, self.questions)
                asked, stated = answers.put(self.questions, replay, self._enough().get(model.name))
                again = asking.Again(asked, self.judge.share, self.judge.seed, self.judge.allowed)
                text, outcomes = again.compare(model.description, stated, opened)
                self._same_verdict(model.name, outcomes, text)
                self.say(OK, check, text)

    def _same_verdict(self, name: str, outcomes: Answers, text: str) -> None:
        """Refuse a suspect of whom what it answers now gives another decision than what is stated.

        Raises:
            UserError: it does.
        """
        before = {verdict.name: verdict.decision for verdict in self.decided}
        if name not in before:
            raise _LackingError("there is no verdict that its answers could be compared with")
        given = {**self.answers, name: outcomes}
        again = recompute.judge_all(self.evidence, given, self.inconsistent, self.null_table, self._ruled())
        after = next(verdict.decision for verdict in again if verdict.name == name)
        if after != before[name]:
            raise UserError(f"{text}; with these answers it is '{after}', not '{before[name]}'")

    def _enough(self) -> dict[str, answers.Enough]:
        """When each model had answered enough, by name; empty: all were asked everything."""
        if self._ruled().stop_early is None:
            return {}
        if not self.null_table:
            raise _LackingError("where the asking stops hangs on the null models, and there is no sound table of them")
        return recompute.stopping(self.evidence, self.null_table, self._ruled())

    def _most_answers(self) -> int:
        """As many as a transcript can have; 0 if there is no sound rule."""
        try:
            pool = self.evidence.pool
            return recompute.most_answers(self.evidence.section(), len(pool.classes), pool.images)
        except UserError:
            return 0

    def _transcript(self, model: document.Model) -> Verified:
        self._ruled()
        path = self.path(document.transcript(model.name))
        return suspects.verify(path, model.transcript, self._most_answers())

    def _opened(self) -> tuple[Commitment, Opening]:
        if self.made is None or self.opening is None:
            raise _LackingError("there is no commitment that opens")
        return self.made, self.opening

    def _ruled(self) -> VerifyOwnership:
        if self.rule is None:
            raise _LackingError("there is no sound rule")
        return self.rule
