"""Accounts of annotators: the file, the login through MONAI Label's own client, and what each role may do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.label.serving import Served, make_project, served, write_ids

pytest.importorskip("fastapi")
requests = pytest.importorskip("requests")
client_module = pytest.importorskip("monailabel.client")

PASSWORDS = {"anna": "correct horse", "ben": "battery staple", "rita": "reviewing-all", "adam": "administering"}
ROLES = {"anna": "annotator", "ben": "annotator", "rita": "reviewer", "adam": "admin"}


def command(*words: str, typed: str | None = None) -> Any:
    from medvit.cli.main import app

    return CliRunner().invoke(app, ["label", "users", *words], input=typed)


def add(file: Path, name: str, role: str = "annotator", password: str = "long enough") -> Any:
    return command("add", name, "--role", role, "--users", str(file), typed=f"{password}\n")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("users") / "users.json"
    for name, password in PASSWORDS.items():
        outcome = add(file, name, ROLES[name], password)
        assert outcome.exit_code == 0, outcome.output
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, users: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        studies, state = make_project(tmp_path_factory.mktemp("accounts"), patch, 3)
        with served(studies, state, users=users) as made:
            yield made


def as_(server: Served, name: str) -> Served:
    answer = server.log_in(name, PASSWORDS[name])
    assert answer.status_code == 200, answer.text
    return replace(server, token=answer.json()["access_token"])


def test_the_file_holds_no_password_and_is_its_owners_alone(users: Path) -> None:
    text = users.read_text()
    assert not [word for word in PASSWORDS.values() if word in text] and "scrypt" in text
    rows = json.loads(text)["users"]
    assert len({row["salt"] for row in rows.values()}) == 4
    assert os.name != "posix" or users.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in users.parent.iterdir()] == ["users.json"]
    listed = json.loads(command("list", "--users", str(users), "--json").output)
    assert {row["name"]: row["role"] for row in listed} == ROLES


@pytest.mark.parametrize(
    ("name", "role", "password", "words"),
    [
        ("Anna", "annotator", "long enough", "Found an account 'anna' in"),
        ("carl", "chief", "long enough", "Found the role 'chief'; it must be one of annotator, reviewer, admin"),
        ("carl", "annotator", "short", "Found a password of 5 characters; 8 to 1024 are needed"),
        ("carl", "annotator", "", "Found a password of 0 characters"),
        ("../carl", "annotator", "long enough", "Found the name '../carl'"),
    ],
)
def test_an_account_that_cannot_be_is_refused(users: Path, name: str, role: str, password: str, words: str) -> None:
    before = users.read_bytes()
    outcome = add(users, name, role, password)
    assert outcome.exit_code == 1 and words in " ".join(outcome.output.split()), outcome.output
    assert users.read_bytes() == before


def test_a_password_is_not_taken_from_the_command_line(users: Path) -> None:
    assert command("add", "carl", "--password", "long enough", "--users", str(users)).exit_code == 2


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("{", 0o600, "which is not a file of accounts"),
        ('{"users": {"a": {"role": "chief"}}}', 0o600, "which is not a file of accounts"),
        ('{"users": {}}', 0o600, "Found no account in"),
        ('{"users": {}}', 0o644, "Found that other users of this machine may open"),
        (None, 0, "Found no readable file of accounts at"),
    ],
)
def test_a_server_does_not_start_with_a_file_that_cannot_be_used(
    tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    from medvit.cli.main import app

    file = tmp_path / "users.json"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    outcome = CliRunner().invoke(app, ["label", "start", "--studies", str(tmp_path), "--users", str(file)])
    assert outcome.exit_code == 1 and words in " ".join(outcome.output.split()), outcome.output


def test_one_token_and_accounts_are_not_both_taken(tmp_path: Path, users: Path) -> None:
    from medvit.cli.main import app

    (tmp_path / "token").write_text("0123456789abcdef0")
    options = ["--studies", str(tmp_path), "--users", str(users), "--token-file", str(tmp_path / "token")]
    outcome = CliRunner().invoke(app, ["label", "start", *options])
    assert outcome.exit_code == 1 and "Found both accounts (--users) and a token" in " ".join(outcome.output.split())


def test_the_login_of_monai_labels_client(server: Served, tmp_path: Path) -> None:
    client = client_module.MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="user-xyz")
    assert client.auth_enabled() and not client.auth_valid_token()
    with pytest.raises(client_module.client.MONAILabelClientException):
        client.info()
    token = client.auth_token("anna", PASSWORDS["anna"])
    assert token["token_type"] == "bearer" and token["expires_in"] > 3600
    client.update_auth(token)
    assert client.auth_valid_token() and client.info()["name"] == "medvit"
    said = replace(server, token=token["access_token"]).ask("GET", "/auth/token/valid").json()
    assert (said["username"], said["roles"]) == ("anna", ["annotator"])
    # the account is the annotator, whatever the client calls itself
    file, params = client.infer("bands", "case0", {"clicks": {"background": [[5, 5, 5]]}})
    assert params["corrections"]["annotator"] == "anna"
    client.save_label("case0", file, "final", {})
    found = as_(server, "ben").ask("GET", "/datastore/label/info?label=case0&tag=final").json()
    assert found["annotator"] == "anna" and found["client_id"] == "user-xyz"


def test_a_wrong_login_is_slow_and_tells_nothing(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    told = set()
    for name, password in (("anna", "wrong-secret"), ("nobody", "wrong-secret"), ("", "x" * 5000)):
        started = time.monotonic()
        answer = server.log_in(name, password)
        assert answer.status_code == 401 and time.monotonic() - started >= 1
        told.add(answer.json()["detail"])
    assert told == {
        "Found no account with this name and password; both are needed. Correct them, or ask the server's administrator."
    }
    assert "a login was refused" in caplog.text and "nobody" not in caplog.text and "secret" not in caplog.text
    for token in ("", "wrong", PASSWORDS["anna"]):
        refused = replace(server, token=token).ask("GET", "/info/")
        assert refused.status_code == 401 and "Found no valid login" in refused.json()["detail"]


def test_what_each_role_may_do(server: Served, tmp_path: Path) -> None:
    anna, rita, adam = (as_(server, name) for name in ("anna", "rita", "adam"))
    assert anna.save("case1", write_ids(tmp_path / "l.nii.gz", {1: np.s_[2:6, 3:9, 4:8]})).status_code == 200
    for method, path in (
        ("POST", "/train/bands"),
        ("DELETE", "/train/"),
        ("POST", "/batch/infer/bands"),
        ("DELETE", "/batch/infer"),
        ("DELETE", "/datastore/label?id=case1&tag=final"),
        ("POST", "/datastore/label/choose?image=case1&version=1"),
        ("POST", "/model/rollback/bands"),
    ):
        refused = anna.ask(method, path)
        assert refused.status_code == 403, (path, refused.text)
        assert "Found the role 'annotator' of anna; this needs the role" in refused.json()["detail"]
    made = rita.infer("case1")
    theirs = anna.ask("DELETE", f"/queue/{made['job']}")
    assert theirs.status_code == 403 and "Found an inference of rita to cancel" in theirs.json()["detail"]
    assert rita.ask("DELETE", f"/queue/{anna.infer('case1')['job']}").status_code == 200
    assert rita.ask("POST", "/train/bands").status_code == 400  # too few labels, not the role
    assert rita.ask("POST", "/model/rollback/bands").status_code == 403
    assert adam.ask("POST", "/model/rollback/bands").status_code == 404
    assert rita.ask("DELETE", "/datastore/label?id=case1&tag=final").status_code == 200


def test_a_reviewers_final_label_counts_and_an_annotators_second_does_not(server: Served, tmp_path: Path) -> None:
    file = write_ids(tmp_path / "l.nii.gz", {1: np.s_[2:6, 3:9, 4:8]})
    made = [as_(server, name).save("case2", file, replace=True).json() for name in ("anna", "ben", "rita", "anna")]
    assert [row["counts"] for row in made] == [True, False, True, False]
    assert "Version 3 by rita counts" in " ".join(made[3]["notes"])


def test_a_login_ends_with_its_account(server: Served, users: Path) -> None:
    add(users, "carl", "annotator", "long enough")
    carl = replace(server, token=server.log_in("Carl", "long enough").json()["access_token"])
    assert carl.ask("GET", "/info/").status_code == 200
    assert command("remove", "carl", "--users", str(users)).exit_code == 0
    gone = carl.ask("GET", "/info/")
    assert gone.status_code == 401 and "Found no valid login" in gone.json()["detail"]
    absent = command("remove", "carl", "--users", str(users))
    assert absent.exit_code == 1 and "Found no account 'carl' in" in " ".join(absent.output.split())


def test_a_login_ends_by_time_or_with_a_file_that_breaks(
    tmp_path: Path, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvit_label.settings import Limits

    file = tmp_path / "users.json"
    file.write_bytes(users.read_bytes())
    file.chmod(0o600)
    with served(*make_project(tmp_path, monkeypatch, 1), users=file, limits=Limits(login_s=0.2)) as server:
        anna = as_(server, "anna")
        time.sleep(0.3)
        expired = anna.ask("GET", "/info/")
        assert expired.status_code == 401 and "Found a login that has expired" in expired.json()["detail"]
        file.write_text("broken")
        assert server.log_in("anna", PASSWORDS["anna"]).status_code == 401


def test_without_accounts_all_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(*make_project(tmp_path, monkeypatch, 1)) as server:
        assert server.ask("GET", "/auth/").json()["enabled"] is False
        assert server.log_in("anna", "correct horse").status_code == 401
        assert server.ask("GET", "/auth/token/valid").json() == {"username": "annotator", "roles": []}
        assert server.ask("DELETE", "/train/").status_code == 200
