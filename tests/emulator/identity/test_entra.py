"""Sign-in through azure-identity, and validation of the resulting tokens."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential, ClientSecretCredential
from cryptography.hazmat.primitives.asymmetric import rsa

from mlops.emulator.base.faults import Faults
from mlops.emulator.identity.entra import EXCHANGE, MANAGEMENT, ML, federate, issue
from mlops.emulator.server import Emulator

ARM = "https://management.azure.com/.default"
GITHUB = "https://token.actions.githubusercontent.com"
SUBJECT = "repo:octo/chat:environment:prod"


def claims(token: str) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


def vm_sizes(emulator: Emulator, authorization: str | None) -> requests.Response:
    path = f"/subscriptions/{emulator.azure.identity.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus/vmSizes"
    headers = {} if authorization is None else {"Authorization": authorization}
    return requests.get(MANAGEMENT + path, params={"api-version": "2023-08-01-preview"}, headers=headers, timeout=30)


@pytest.mark.parametrize(("scope", "audience"), [(ARM, MANAGEMENT), ("https://ml.azure.com/.default", ML)])
def test_the_audience_follows_from_the_scope(emulator: Emulator, credential: Any, scope: str, audience: str) -> None:
    token = credential.get_token(scope)
    actual = claims(token.token)
    i = emulator.azure.identity
    assert (actual["aud"], actual["tid"], actual["appid"]) == (audience, i.tenant, i.client)
    assert actual["nbf"] < time.time() < actual["exp"]
    assert abs(actual["exp"] - token.expires_on) < 5


def test_arm_accepts_the_token(emulator: Emulator, credential: Any) -> None:
    assert vm_sizes(emulator, f"Bearer {credential.get_token(ARM).token}").status_code == 200


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"client_secret": "wrong"}, "AADSTS7000215", "Invalid client secret provided"),
        ({"client_id": "11111111-2222-4333-8444-555555555555"}, "AADSTS700016", "was not found in the directory"),
    ],
)
def test_sign_in_with_wrong_credentials_is_refused(environment: Mapping[str, str], change: dict[str, str], code: str, text: str) -> None:
    names = {"tenant_id": "AZURE_TENANT_ID", "client_id": "AZURE_CLIENT_ID", "client_secret": "AZURE_CLIENT_SECRET"}
    arguments = {name: environment[variable] for name, variable in names.items()} | change
    with ClientSecretCredential(**arguments) as credential, pytest.raises(ClientAuthenticationError, match=text) as raised:
        credential.get_token(ARM)
    assert code in str(raised.value)


def test_an_unknown_tenant_is_refused(environment: Mapping[str, str]) -> None:
    tenant = "11111111-2222-4333-8444-555555555555"
    text = "Unable to get authority configuration"
    client, secret = environment["AZURE_CLIENT_ID"], environment["AZURE_CLIENT_SECRET"]
    with ClientSecretCredential(tenant, client, secret) as credential, pytest.raises(ClientAuthenticationError, match=text):
        credential.get_token(ARM)
    answer = requests.post(f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token", data={}, timeout=30)
    assert (answer.status_code, answer.json()["error_codes"]) == (400, [90002])


def test_an_unknown_resource_is_refused(credential: Any) -> None:
    with pytest.raises(ClientAuthenticationError, match="AADSTS500011"):
        credential.get_token("https://graph.microsoft.com/.default")


@pytest.mark.parametrize(
    ("form", "error", "code"),
    [
        ({"grant_type": ""}, "invalid_request", 900144),
        ({"grant_type": "password"}, "unsupported_grant_type", 70003),
        ({"client_secret": None}, "invalid_client", 7000216),
        ({"scope": "openid"}, "invalid_scope", 70011),
        ({"client_secret": None, "client_assertion": "x.y.z"}, "invalid_request", 900144),
    ],
)
def test_a_malformed_token_request_is_refused(environment: Mapping[str, str], form: dict[str, str | None], error: str, code: int) -> None:
    sent = {
        "grant_type": "client_credentials",
        "client_id": environment["AZURE_CLIENT_ID"],
        "client_secret": environment["AZURE_CLIENT_SECRET"],
        "scope": ARM,
    } | form
    url = f"https://login.microsoftonline.com/{environment['AZURE_TENANT_ID']}/oauth2/v2.0/token"
    answer = requests.post(url, data=sent, timeout=30)
    assert answer.status_code in (400, 401)
    assert (answer.json()["error"], answer.json()["error_codes"]) == (error, [code])
    assert answer.json()["error_description"].startswith(f"AADSTS{code}: ")


class TestFederation:
    """Sign-in with an assertion such as GitHub's OIDC tokens."""

    @pytest.fixture(scope="class")
    @classmethod
    def key(cls) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, 2048)

    @pytest.fixture
    def trusted(self, emulator: Emulator, key: rsa.RSAPrivateKey) -> None:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        federate(emulator.azure, GITHUB, SUBJECT, {"keys": [public | {"kid": "k1", "alg": "RS256", "use": "sig"}]})

    @staticmethod
    def sign_in(environment: Mapping[str, str], key: rsa.RSAPrivateKey, **change: Any) -> str:
        now = int(time.time())
        content = {"iss": GITHUB, "sub": SUBJECT, "aud": EXCHANGE, "iat": now, "nbf": now, "exp": now + 300} | change
        assertion = jwt.encode(content, key, algorithm="RS256", headers={"kid": "k1"})
        with ClientAssertionCredential(
            environment["AZURE_TENANT_ID"], environment["AZURE_CLIENT_ID"], func=lambda: assertion
        ) as credential:
            token: str = credential.get_token(ARM).token
            return token

    def test_a_trusted_assertion_is_accepted(self, environment: Mapping[str, str], key: rsa.RSAPrivateKey, trusted: None) -> None:
        assert claims(self.sign_in(environment, key))["aud"] == MANAGEMENT

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"exp": 1700000000, "nbf": 1699999000, "iat": 1699999000}, "AADSTS700024"),
            ({"nbf": 4000000000, "exp": 4000001000}, "AADSTS700024"),
            ({"iss": "https://elsewhere.example"}, "AADSTS700211"),
            ({"aud": "api://other"}, "AADSTS700212"),
            ({"sub": "repo:octo/chat:pull_request"}, "AADSTS700213"),
            ({"sub": SUBJECT.upper()}, "AADSTS7002138"),
        ],
    )
    def test_an_untrusted_assertion_is_refused(
        self, environment: Mapping[str, str], key: rsa.RSAPrivateKey, trusted: None, change: dict[str, Any], code: str
    ) -> None:
        with pytest.raises(ClientAuthenticationError, match=rf"{code}\b"):
            self.sign_in(environment, key, **change)

    def test_a_signature_with_another_key_is_refused(self, environment: Mapping[str, str], trusted: None) -> None:
        with pytest.raises(ClientAuthenticationError, match="AADSTS700027"):
            self.sign_in(environment, rsa.generate_private_key(65537, 2048))

    def test_an_assertion_that_is_not_a_jwt_is_refused(self, environment: Mapping[str, str]) -> None:
        tenant, client = environment["AZURE_TENANT_ID"], environment["AZURE_CLIENT_ID"]
        with (
            ClientAssertionCredential(tenant, client, func=lambda: "x.y.z") as credential,
            pytest.raises(ClientAuthenticationError, match="AADSTS50027"),
        ):
            credential.get_token(ARM)


@pytest.mark.usefixtures("environment")
class TestBearer:
    """ARM's responses to invalid tokens."""

    @staticmethod
    def code(answer: requests.Response) -> str:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        error_code: str = answer.json()["error"]["code"]
        return error_code

    def test_a_missing_token(self, emulator: Emulator) -> None:
        assert self.code(vm_sizes(emulator, None)) == "AuthenticationFailed"
        assert self.code(vm_sizes(emulator, "Basic eDp5")) == "AuthenticationFailed"

    def test_a_token_that_is_garbage(self, emulator: Emulator) -> None:
        assert self.code(vm_sizes(emulator, "Bearer garbage")) == "InvalidAuthenticationToken"

    def test_a_token_signed_with_another_key(self, emulator: Emulator) -> None:
        forged = jwt.encode(claims(issue(emulator.azure, MANAGEMENT)), "k" * 32, algorithm="HS256")
        assert self.code(vm_sizes(emulator, f"Bearer {forged}")) == "InvalidAuthenticationToken"

    def test_an_unsigned_token(self, emulator: Emulator) -> None:
        _, content, _ = issue(emulator.azure, MANAGEMENT).split(".")
        header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
        assert self.code(vm_sizes(emulator, f"Bearer {header}.{content}.")) == "InvalidAuthenticationToken"

    def test_an_expired_token(self, emulator: Emulator) -> None:
        assert self.code(vm_sizes(emulator, f"Bearer {issue(emulator.azure, MANAGEMENT, -1)}")) == "ExpiredAuthenticationToken"

    def test_a_token_for_another_audience(self, emulator: Emulator) -> None:
        assert self.code(vm_sizes(emulator, f"Bearer {issue(emulator.azure, ML)}")) == "InvalidAuthenticationTokenAudience"


def test_injected_expired_and_short_tokens(emulator: Emulator, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator.azure, "faults", Faults([f"token-expired@{MANAGEMENT}", f"token-short@{MANAGEMENT}"]))
    names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
    with ClientSecretCredential(*(environment[name] for name in names)) as credential:
        first = credential.get_token(ARM)
        second = credential.get_token(ARM)
        third = credential.get_token(ARM)
    # The first token has both faults: its stated lifetime is a minute, but it has expired. The client then gets a new one.
    assert claims(first.token)["exp"] < time.time()
    assert vm_sizes(emulator, f"Bearer {second.token}").status_code == 200
    assert second.token != first.token
    assert third.token == second.token
