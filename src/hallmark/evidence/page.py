"""The bundle as a page for people: a function of its other files, without scripts, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from hallmark.evidence import document
from hallmark.evidence.document import Evidence
from hallmark.ownership.commitment import Commitment, Opening
from hallmark.verification.answers import LEAN, STATISTICS

UNPROVEN = (
    "That the null models are innocent, made independently of the key and of one another, and of the kinds that "
    "innocent suspects are of. Whoever made them chose them; the p-values hold as far as that is true.",
    "That no model in question was trained on the judge's images.",
    "That the transcripts are of the suspects named: a server or file answers only for itself. Ask again (--suspect).",
    "That no other suspects, keys or judge's seeds were tried and left out. The judge knows what he ordered: compare "
    "the seed, the number of keys, and the list of models below.",
    "Who trained the model: the commitment says who was first to bind it, if a timestamp authority's time is verified.",
    "That a suspect called 'not shown' is innocent: marks can be removed.",
)
"""What a sound bundle leaves open; docs/evidence.md says the same."""

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:84em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}"
    "td ul{margin:0;padding-left:1.2em;min-width:17em}code{overflow-wrap:anywhere}img{max-width:100%}"
    ".stolen{color:#a02014;font-weight:bold}.no{color:#a02014}"
)
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_TITLES = {"wsr": "Accuracy and watermark success", "queries": "Some of the questions"}


def render(
    evidence: Evidence, made: Commitment, opening: Opening, verdicts: Sequence[Mapping[str, str]], nulls: int
) -> bytes:
    """The page.

    Args:
        verdicts: rows of verdicts.csv, as text.
        nulls: number of rows of nulls.csv.

    Raises:
        UserError: the opening's key is not sound, or the evidence has no canonical form.
    """
    evidence = evidence.as_written()
    key = opening.watermark_key()
    first, second = (key.classes[label] for label in key.source)
    pool, reference = evidence.pool, evidence.reference
    facts = {
        "Commitment": _code(made.hash),
        "Made": f"{escape(made.created)} by its maker's clock; {escape(made.time_note)}",
        "In the name of": "nobody" if opening.owner is None else f"the owner of the key {_code(opening.owner)}",
        "Key": f"{escape(first)} and {escape(second)}, combined by {escape(key.way)}, are called "
        f"{escape(key.classes[key.target])}",
        "Model": f"{_code(opening.model)} (SHA-256 of the listing of its files)",
        "Judge's seed and number of keys": f"{evidence.judge_seed} and {evidence.keys}",
        "Judge's images": f"{pool.images:,} images {_shape(pool.shape)} of {len(pool.classes):,} classes, "
        f"SHA-256 {_code(pool.sha256)}",
        "Reference": f"{escape(reference.model)}, accuracy {reference.accuracy:.1%}",
        "Null models": f"{nulls:,}, asked in {escape(evidence.asking.precision)}",
    }
    parts = [
        "<h1>Evidence of ownership</h1>",
        "<p>Is a model a copy of the watermarked one? Before the model's release its owner committed to a secret key "
        "and to the rule below. The judge then drew questions, which every model answered. This page only repeats what "
        "the files beside it say: check them (last section) before you believe it.</p>",
        "<h2>Verdicts</h2>",
        _table(["model", "role", "verdict", "accuracy", *_p_titles(), "reasons"], map(_verdict, verdicts)),
        *_figures(evidence),
        "<h2>What was bound, and what the judge chose</h2>",
        _table([], ([f"<b>{name}</b>", text] for name, text in facts.items())),
        "<h3>Rule</h3>",
        _table(["parameter", "value"], ([escape(name), escape(str(v))] for name, v in sorted(evidence.rule.items()))),
        "<h3>Models and their transcripts</h3>",
        _table(
            ["model", "role", "head of the transcript"],
            ([escape(model.name), model.role, _code(model.transcript)] for model in evidence.models),
        ),
        "<h2>What stays unproven</h2>",
        f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in UNPROVEN)}</ul>",
        "<h2>How to check it</h2>",
        "<pre>python -m hallmark verify-evidence BUNDLE --pool IMAGES --judge-seed SEED --keys NUMBER \\\n"
        "    --public-key OWNER.pub.pem --timestamp-root AUTHORITY.pem --model MODEL --nulls NULLS \\\n"
        "    --suspect NAME=SUSPECT.yaml</pre>",
        f"<p>Every line must say <code>ok</code>. {escape(document.EVIDENCE)} lists the SHA-256 of every file; a plain "
        f"<code>sha256sum {escape(document.OPENING)}</code> gives the commitment, which must be the one that was "
        "published.</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Evidence of ownership</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    ).encode(errors="replace")


def _p_titles() -> list[str]:
    return [f"{name.replace('_', ' ')}: {what}" for name in STATISTICS for what in ("value", "p-value")]


def _verdict(row: Mapping[str, str]) -> list[str]:
    decision = escape(row["decision"])
    reasons = (f'<li class="{"no" if text.startswith("NO") else "ok"}">{escape(text)}</li>' for text in
               row["reasons"].split("; "))  # fmt: skip
    values = (
        cell
        for name in STATISTICS
        for shown in [row[f"{name}_value"]]
        for cell in (escape(shown) if name == LEAN else _percent(shown), escape(row[f"{name}_p_value"]))
    )
    return [
        escape(row["model"]),
        escape(row["role"]),
        f'<span class="stolen">{decision}</span>' if decision == "stolen" else decision,
        _percent(row["accuracy"]),
        *values,
        f"<ul>{''.join(reasons)}</ul>",
    ]


def _figures(evidence: Evidence) -> list[str]:
    found = []
    for path in evidence.figures():
        name = path.removeprefix("figures/").removesuffix(".png")
        title = _TITLES.get(name, name.replace("_", " ").capitalize())
        found.append(f'<h3>{escape(title)}</h3>\n<p><img src="{escape(path)}" alt="{escape(title)}"></p>')
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a row is one line."""
    head = f"<tr>{''.join(f'<th>{escape(text)}</th>' for text in header)}</tr>\n" if header else ""
    return f"<table>\n{head}" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>\n" for row in rows) + "</table>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _percent(text: str) -> str:
    try:
        return f"{float(text):.1%}"
    except ValueError:
        return escape(text)
