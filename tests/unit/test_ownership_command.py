"""``python -m hallmark key``: what it writes, what it says, and one line for bad input."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import click
import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hallmark import cli
from hallmark.ownership import secrets
from tests.unit.ownership_toys import make_key, make_model, make_pki, write_params


class Shell:
    """Runs commands in this process, in a folder with a key, a model, params.yaml and an age identity."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        make_key().save(Path("key.json"))
        make_key(seed=7).save(Path("reserve.json"))
        make_model(Path("model"))
        write_params(Path("params.yaml"))
        identity = pyrage.x25519.Identity.generate()
        Path("id").write_text(f"{identity}\n")
        self.recipient = str(identity.to_public())

    def __call__(self, line: str, status: int = 0) -> str:
        """Standard output of a command that succeeds, else its one line on standard error."""
        self.monkeypatch.setattr(sys, "argv", ["hallmark", "key", *line.split()])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = self.capsys.readouterr()
        assert done.value.code == status, err
        if status == 1:
            assert len(err.splitlines()) == 1
            assert err.startswith("hallmark: ")
        return out if status == 0 else err

    def commit(self, more: str = "", status: int = 0) -> str:
        line = f"commit --key key.json --model model --rule params.yaml --out out --recipient {self.recipient} {more}"
        return self(line, status)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


OPEN = "open --commitment out/commitment.json --opening out/opening.age --identity id --model model"


def test_from_the_pair_to_the_judge(shell: Shell) -> None:
    shell("pair")
    said = shell.commit("--key reserve.json --private-key owner.pem")
    assert "no timestamp authority was asked" in said
    assert "in the name: of key " in said
    assert {p.name for p in Path("out").iterdir()} == {
        "commitment.json", "opening.age", "commitment-1.json", "opening-1.age", "model.sig",
    }  # fmt: skip
    stored = json.loads(Path("out/commitment.json").read_text())
    assert stored["hash"] in said
    assert set(stored) == {"format", "hash", "created", "index", "token", "time"}
    for name in ("opening.age", "opening-1.age"):
        assert (Path("out") / name).stat().st_mode & 0o777 == 0o600
        assert b"6917529027641081857" not in (Path("out") / name).read_bytes()

    said = shell(f"{OPEN} --params params.yaml --public-key owner.pub.pem")
    assert re.search(r"made in the name of key [0-9a-f]{64}, whose signature of model is valid", said)
    signature = Path("out/model.sig").read_bytes()
    Path("out/model.sig").write_bytes(re.sub(rb'("sig": ?"M)E', rb"\1F", signature))
    assert Path("out/model.sig").read_bytes() != signature
    assert "does not bear out" in shell(f"{OPEN} --params params.yaml --public-key owner.pub.pem", 1)
    Path("out/model.sig").write_bytes(signature)
    assert "opens" in said
    assert shell("list out").count("not spent") == 2
    reveal = "reveal --commitment out/commitment.json --opening out/opening.age --identity id --out judge.json"
    shell(reveal)
    lines = shell("list out").splitlines()
    assert "not spent" not in lines[0]
    assert "not spent" in lines[1]
    assert "is spent" in shell(reveal.replace("judge", "again"), 1)
    shell("open --commitment out/commitment.json --opening judge.json --model model --params params.yaml")
    Path("model/model.json").write_text("{ }")
    assert "does not open: model: " in shell(f"{OPEN} --params params.yaml", 1)


def test_whose_a_commitment_is(shell: Shell) -> None:
    """Who has seen an opening can hand it in as his own, but cannot sign with the key that it names."""
    shell("pair")
    shell("pair --private rival.pem --public rival.pub.pem")
    shell.commit("--private-key owner.pem")
    opened = shell(f"{OPEN} --params params.yaml")
    assert "made in the name of key " in opened
    assert "--public-key or --root would compare it" in opened
    said = shell(f"{OPEN} --params params.yaml --public-key rival.pub.pem", 1)
    assert "does not open: owner: the commitment names the owner of key " in said
    assert "is no such key" in shell(f"{OPEN} --params params.yaml --public-key params.yaml", 1)
    assert "is no such key" in shell.commit("--private-key owner.pub.pem", 1)
    shutil.rmtree("out")
    assert "in the name: nobody's" in shell.commit()
    assert "names nobody" in shell(f"{OPEN} --params params.yaml")
    assert "the commitment names nobody" in shell(f"{OPEN} --params params.yaml --public-key owner.pub.pem", 1)


def test_an_owner_with_a_certificate(shell: Shell) -> None:
    root, certificate, key = make_pki(time_stamping=False).save(shell.folder)
    other = shell.folder / "other"
    other.mkdir()
    stranger, *_ = make_pki(time_stamping=False).save(other)
    said = shell.commit(f"--private-key {key} --certificate {certificate}")
    owner = re.search(r"in the name: of key ([0-9a-f]{64})", said)
    assert owner is not None
    by_root = f"{OPEN} --params params.yaml --root"
    assert f"made in the name of key {owner[1]}, whose signature" in shell(f"{by_root} {root}")
    assert "does not bear out" in shell(f"{by_root} {stranger}", 1)
    shell("pair")
    by_key = f"{OPEN} --params params.yaml --public-key owner.pub.pem"
    assert "does not open: owner" in shell(by_key, 1)
    assert "give one of them" in shell(f"{by_key} --root {root}", 1)
    public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    Path("leaf.pub.pem").write_bytes(public.public_bytes(pem, form))
    assert "carries a certificate; verify it by --root" in shell(by_key.replace("owner.pub", "leaf.pub"), 1)
    # The certificate is another's than the commitment's.
    shutil.copyfile("out/commitment.json", other / "commitment.json")
    shell("commit --key reserve.json --model model --rule params.yaml --out other --plain --private-key owner.pem")
    shutil.copyfile("out/model.sig", other / "model.sig")
    theirs = re.sub(r"out/(commitment|opening)\.\w+", r"other/\1-1.json", OPEN)
    assert "does not open: owner" in shell(f"{theirs} --params params.yaml --root {root}", 1)


def test_who_was_first(shell: Shell) -> None:
    """By own clocks, until an authority's token decides; who cannot open his commitment is no party."""
    for name in ("owner", "rival"):
        shell(f"commit --key key.json --model model --rule params.yaml --out {name} --plain")
    for name, year in (("owner", 2026), ("rival", 2025)):
        path = Path(name) / "commitment.json"
        stored = json.loads(path.read_text())
        path.write_text(json.dumps({**stored, "created": f"{year}-01-01T00:00:00Z"}))
    claims = {n: f"--claim {n}={n}/commitment.json,{n}/opening.json" for n in ("owner", "rival")}
    said = shell(f"first {claims['owner']} {claims['rival']}")
    assert "rival says it was first" in said
    assert "proves nothing to others" in said
    # A copied commitment that its holder cannot open.
    said = shell(f"first {claims['owner']} --claim rival=rival/commitment.json,owner/opening.json")
    assert "owner says it was first" in said
    assert "not valid: rival" in said
    # Nor does it stand in the way of whose it is: what is public can be copied by anybody.
    said = shell(f"first {claims['owner']} --claim rival=owner/commitment.json,rival/opening.json")
    assert "owner says it was first" in said
    assert "nobody was first" in shell("first --claim rival=rival/commitment.json,owner/opening.json", 1)
    # What the judge mistypes, or what is still encrypted, decides nothing.
    said = shell(f"first {claims['owner']} --claim rival=rival/commitment.json,none.json", 1)
    assert "none.json: no such file; mend the path, or have rival hand it in" in said
    same = "--claim rival=owner/commitment.json,owner/opening.json"
    assert "show the same commitment" in shell(f"first {claims['owner']} {same}", 1)
    for wrong in ("--claim owner", "--claim owner=a", "--claim =a,b", f"{claims['owner']} {claims['owner']}"):
        assert "wants NAME=COMMITMENT,OPENING" in shell(f"first {wrong}", 1)


def test_another_rule_or_opening_does_not_open(shell: Shell) -> None:
    shell.commit("--key reserve.json")
    write_params(Path("other.yaml"), alpha=0.05)
    assert "rule.alpha: is 0.05, committed was 0.001" in shell(f"{OPEN} --params other.yaml", 1)
    assert "hash: " in shell(f"{OPEN.replace('opening.age', 'opening-1.age')} --params params.yaml", 1)
    Path("other").mkdir()
    Path("other/id").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    assert "cannot be decrypted" in shell(
        f"{OPEN.replace('--identity id', '--identity other/id')} --params params.yaml", 1
    )
    assert "--identity" in shell(f"{OPEN.replace('--identity id', '')} --params params.yaml", 1)
    assert "no token" in shell(f"{OPEN} --params params.yaml --timestamp-root id", 1)


def test_what_the_judge_sets_is_not_bound(shell: Shell) -> None:
    shell.commit()
    write_params(Path("judge.yaml"), judge_seed=5, keys=3, suspects={"s": {"kind": "onnx"}})
    shell(f"{OPEN} --params judge.yaml")


def test_plain_only_with_a_warning(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    line = "commit --key key.json --model model --rule params.yaml --out out"
    assert "choose one" in shell(line, 1)
    assert "choose one" in shell(f"{line} --plain --recipient {shell.recipient}", 1)
    assert not Path("out").exists()
    shell.monkeypatch.setattr(sys, "argv", ["hallmark", "key", *line.split(), "--plain"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "warning: written plain" in capsys.readouterr().err
    assert Path("out/opening.json").stat().st_mode & 0o777 == 0o600
    shell("open --commitment out/commitment.json --opening out/opening.json --model model --params params.yaml")


def test_an_encrypted_key_with_a_passphrase(shell: Shell) -> None:
    shell.monkeypatch.setenv("SECRET", "correct horse")
    asked: list[dict[str, bool]] = []

    def prompt(text: str, **how: bool) -> str:
        asked.append(how)
        return "correct horse"

    with shell.monkeypatch.context() as terminal:
        terminal.setattr(click, "prompt", prompt)
        terminal.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        shell("encrypt --key key.json --out key.age --passphrase")
    assert asked == [{"hide_input": True, "confirmation_prompt": True, "err": True}]
    Path("key.json").unlink()
    line = f"commit --key key.age --model model --rule params.yaml --out out --recipient {shell.recipient}"
    assert "no terminal" in shell(line, 1)
    shell(f"{line} --key-passphrase-env SECRET")
    assert "EMPTY is not set" in shell("encrypt --key key.age --out b.age --passphrase-env EMPTY", 1)


def test_recipients_of_a_file(shell: Shell) -> None:
    Path("team").write_text(f"# us\n{shell.recipient}\n")
    shell("encrypt --key key.json --out key.age --recipients-file team")
    assert secrets.load_key(Path("key.age"), Path("id")).seed == make_key().seed
    assert "never overwritten" in shell("encrypt --key key.json --out key.age --recipients-file team", 1)
    assert "not valid JSON" in shell("encrypt --key team --out b.age --recipients-file team", 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("commit --key none --model model --rule params.yaml --out out --plain", "none: no such file"),
        ("commit --key key.json --model none --rule params.yaml --out out --plain", "none: no such folder"),
        ("commit --key key.json --model model --rule none --out out --plain", "none: no such file"),
        ("commit --key key.json --model model --rule id --out out --plain", "id: wants sections"),
        ("commit --key key.json --model model --rule params.yaml --out id/x --plain", "cannot write"),
        ("commit --key key.json --model model --rule params.yaml --out out --plain --chain id", "--private-key"),
        ("commit --key key.json --model model --rule params.yaml --out o --plain --timestamp-url x", "http"),
        ("reveal --commitment key.json --opening key.json --out o", "key.json"),
        ("list .", "holds no commitment"),
        ("pair --private id", "never overwritten"),
        ("pair --public id/x", "cannot write"),
    ],
)
def test_bad_input_is_one_line(shell: Shell, line: str, reason: str) -> None:
    if "--plain" in line:
        line = line.replace("--plain", f"--recipient {shell.recipient}")
    assert reason in shell(line, 1)


def test_a_wrong_command_line(shell: Shell) -> None:
    assert "Missing option '--key'" in shell("commit", 2)
