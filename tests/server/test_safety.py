"""What clients may not do to a server, to each other, or to the machine."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from steerplug.errors import SteerplugError
from steerplug.server.config import Config, Limits
from tests.helpers.serving import NAME, PIRATE, SHORT, Client, events, served, told

LONG: dict[str, Any] = {"max_tokens": 400, "logit_bias": {"2": -100, "0": -100}}
"""A reply that does not end by itself: the model's marks of an end are forbidden."""
N_EXAMPLES = int(os.environ.get("STEERPLUG_FUZZ", "6"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(limits=Limits(upload=2, requests=4), heartbeat=0.05) as client:
        yield client


def goes_idle(client: Client) -> bool:
    """Whether the engine soon has nothing to do; a reply that nobody reads would keep it busy."""
    engine, deadline = client.session.engine, time.monotonic() + 60
    while engine.metrics().n_running or engine.metrics().n_waiting:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def until_running(client: Client, n: int) -> None:
    engine, deadline = client.session.engine, time.monotonic() + 60
    while engine.metrics().n_running < n:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def send(client: Client, head: str, body: bytes = b"") -> socket.socket:
    """Say something on a plain socket, which the caller closes."""
    plain = socket.create_connection(client.address, timeout=60)
    plain.sendall(head.encode() + b"\r\nHost: localhost\r\n\r\n" + body)
    return plain


def post(body: bytes, length: int | None = None) -> tuple[str, bytes]:
    n = len(body) if length is None else length
    head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {n}", body


# Keys


def test_a_server_for_others_insists_on_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(SteerplugError, match="give --api-key"):
            Config(host)
        Config(host, api_keys=("a-key",))
    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1"):
        Config(host)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"api_keys": ("",)}, "a key is empty"),
        ({"api_keys": ("k",), "admin_key": "k"}, "value of its own"),
        ({"origins": ("*",)}, "is no origin"),
        ({"origins": ("https://x/y",)}, "is no origin"),
        ({"grace": -1.0}, "at least 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SteerplugError, match=sentence):
        Config(**wrong)
    with pytest.raises(SteerplugError, match="above 0"):
        Limits(body=0)


def test_nothing_but_the_page_and_health_is_told_without_a_key() -> None:
    with served(api_keys=("one", "two"), admin_key="three", share_cache=False) as client:
        assert client.get("/").status_code == 200
        assert client.get("/health").status_code == 200
        for path in ("/v1/models", "/steering", "/steering/presets", "/metrics", "/openapi.json"):
            for headers in ({}, {"authorization": "Bearer on"}, {"authorization": "Basic x"}):
                assert client.get(path, headers=headers).status_code == 401
            for key in ("Bearer one", "Bearer two", "bearer three"):
                assert client.get(path, headers={"authorization": key}).status_code == 200
        assert "API key" in told(client.chat())
        check_defaults(client)
        check_partitions(client)


def check_defaults(client: Client) -> None:
    """Only the admin key changes what is applied to those who say nothing."""
    wanted = [{"name": "pirate", "strength": 0.5}]
    user, admin = ({"authorization": f"Bearer {key}"} for key in ("one", "three"))
    assert client.post("/steering", json=wanted, headers=user).status_code == 401
    changed = client.post("/steering", json=wanted, headers=admin).json()
    assert {one["name"]: one["strength"] for one in changed if one["strength"]} == {"pirate": 0.5}
    assert client.get("/steering", headers=user).json() == changed
    number = next(one["id"] for one in changed if one["name"] == "formal")
    body = {**SHORT, "max_tokens": 1}
    said = client.post("/v1/chat/completions", json=body, headers=user).json()
    assert said["steering"]["mix"] == "0.5*pirate"
    for wrong in ([{"name": "owl", "strength": 1}], [{"id": 999, "strength": 1}],
                  [{"name": "pirate", "strength": 99}]):  # fmt: skip
        assert client.post("/steering", json=wrong, headers=admin).status_code in (400, 404)
    assert "neither name nor id" in told(
        client.post("/steering", json=[{"strength": 1}], headers=admin)
    )
    assert client.get("/steering", headers=user).json() == changed
    client.post("/steering", json=[{"id": number, "strength": 1}], headers=admin)
    said = client.post("/v1/chat/completions", json=body, headers=user).json()
    assert said["steering"]["mix"] == "1.0*formal"


def check_partitions(client: Client) -> None:
    """What one key asked is no prompt that another finds in the cache."""
    body = {**SHORT, "messages": [{"role": "user", "content": "My secret is a blue whale."}]}

    def cached(key: str) -> int:
        head = {"authorization": f"Bearer {key}"}
        usage = client.post("/v1/chat/completions", json=body, headers=head).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    cached("one")
    assert cached("one") > 0
    assert cached("two") == 0
    assert cached("two") > 0


def test_defaults_are_fixed_without_an_admin_key(client: Client) -> None:
    for path, body in (("/steering", []), ("/steering/compile", {"name": "pirate"})):
        refused = client.post(path, json=body)
        assert refused.status_code == 403
        assert "start the server with" in refused.json()["error"]["message"]


def test_a_web_page_is_not_let_in_by_another_name(client: Client) -> None:
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200
    text = json.dumps(SHORT)
    response = client.post(
        "/v1/chat/completions", content=text, headers={"content-type": "text/plain"}
    )
    assert response.status_code == 415


@pytest.mark.parametrize(("header", "status"), [
    ({}, 200), ({"origin": "https://evil.example"}, 415), ({"sec-fetch-site": "cross-site"}, 415),
])  # fmt: skip
def test_what_curl_says_of_a_body_is_taken_unless_a_web_page_sends_it(
    header: dict[str, str], status: int, client: Client
) -> None:
    said = {**header, "content-type": "application/x-www-form-urlencoded"}
    response = client.post("/v1/chat/completions", content=json.dumps(SHORT), headers=said)
    assert response.status_code == status


def test_other_origins_are_told_nothing_unless_named(client: Client) -> None:
    page = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=page).headers
    assert client.options("/v1/chat/completions", headers=page).status_code == 405
    with served(origins=("https://chat.example",), api_keys=("key",)) as open_to:
        asked = open_to.options("/v1/chat/completions", headers=page)
        assert asked.headers["access-control-allow-origin"] == "https://chat.example"
        refused = open_to.get("/v1/models", headers=page)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://chat.example"
        other = open_to.get("/v1/models", headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


# Limits


def test_what_is_too_long_is_refused(client: Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 2**20

    head, before = {"content-type": "application/json"}, psutil.Process().memory_info().rss
    for body in (b"x" * 10 * 2**20, chunks()):
        response = client.post("/v1/chat/completions", content=body, headers=head)
        assert response.status_code == 413
        assert "longer than" in told(response)
    assert client.chat(messages=[{"role": "user", "content": "x" * 300_000}]).status_code == 400
    parts = {f"k{i}": {"type": "null"} for i in range(9000)}
    wanted = {"type": "json_object", "schema": {"type": "object", "properties": parts}}
    assert "bytes" in told(client.chat(response_format=wanted))
    assert psutil.Process().memory_info().rss - before < 60 * 2**20
    assert client.is_healthy()


@pytest.mark.parametrize(
    ("said", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + b"X-A: y\r\n" * 50_000, 431)],
)
def test_what_has_no_head_of_a_request_is_refused(
    client: Client, said: bytes, status: int
) -> None:
    with socket.create_connection(client.address, timeout=60) as plain:
        with suppress(OSError):  # it may be cut off before all is said
            plain.sendall(said)
        first, *_, text = plain.recv(1000).decode().split("\r\n")
    assert f" {status} " in first
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_no_request_adds_to_what_is_counted(client: Client) -> None:
    def counted() -> set[str]:
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if "http_requests_total{" in line}

    def ask(word: str) -> None:
        client.get(f"/v1/models/{NAME}@0.{word}*pirate")
        client.get(f"/{word}", headers={"host": "evil.example"})
        client.post(f"/{word}", content=b"x" * 3 * 2**20)
        client.post("/v1/completions/", content=word)

    client.get("/metrics")
    ask("1")
    before = counted()
    ask("2")
    assert counted() == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "top_p": NaN}',
        b'{"model": "smollm2", "messages": [{"role": "user", "content": "x"}], "seed": 1e999}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(client: Client, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        head = {"content-type": "application/json"}
        response = client.post(path, content=body, headers=head)
        assert response.status_code == 400
        assert told(response)


def test_a_schema_that_is_a_trap_is_refused_or_followed(client: Client) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(150):
        deep = {"type": "object", "properties": {"x": deep}, "required": ["x"]}
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    wild = {"type": "string", "pattern": "^(((a{0,999}){0,999}){0,999}b)+$"}
    traps: list[dict[str, Any]] = [deep, endless, wild, {"type": "owl"}, {"enum": []}, {"not": {}}]
    for schema in traps:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        response = client.chat(response_format=wanted, max_tokens=4)
        assert response.status_code in (200, 400), response.text
    assert client.is_healthy()


def test_too_many_at_once_are_told_to_come_back(client: Client) -> None:
    body = json.dumps({**SHORT, **LONG}).encode()
    with ExitStack() as waiting:
        for _ in range(4):
            waiting.enter_context(send(client, *post(body)))
        until_running(client, 4)
        response = client.chat()
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
    assert goes_idle(client)
    assert client.is_healthy()


def test_a_reply_has_its_time() -> None:
    with served(limits=Limits(timeout=0.15)) as client:
        response = client.chat(**LONG)
        assert response.status_code == 504
        assert "0.15 seconds" in told(response)
        *_, last = events(client.chat(**LONG, stream=True))
        assert last["error"]["code"] == "timeout"


# Clients that go away


def test_a_client_that_hangs_up_ends_its_replies(client: Client) -> None:
    engine = client.session.engine
    for stream in (False, True):
        before = engine.metrics().generated_tokens
        body = json.dumps({**SHORT, **LONG, "n": 2, "stream": stream}).encode()
        with send(client, *post(body)) as plain:
            until_running(client, 2)
            if stream:
                plain.recv(100)
        assert goes_idle(client)
        assert engine.metrics().generated_tokens - before < LONG["max_tokens"]  # of twice as many


def test_half_a_request_keeps_nobody_waiting(client: Client) -> None:
    half = send(client, *post(b'{"model": ', 500))
    gone = send(client, *post(b'{"model": ', 500))
    gone.close()
    assert client.is_healthy()
    assert b"408" in half.recv(1000).partition(b"\r\n")[0]
    half.close()


def test_a_client_that_does_not_read_holds_up_nobody(client: Client) -> None:
    wanted = {"max_tokens": 100, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps({**SHORT, **LONG, **wanted})
    with send(client, *post(body.encode())):
        assert client.is_healthy()
        assert goes_idle(client)


GET, POST = (f"{method} HTTP/1.1\r\nHost: " for method in ("GET /health", "POST /v1/completions"))
DRIPS = {
    "nothing": ("", ""),
    "a head": (GET + "loc", "a"),
    "a body": (POST + "localhost\r\nContent-Length: 9999\r\n\r\n", " "),
    "a refused body": (POST + "example.org\r\nContent-Length: 9999\r\n\r\n", " "),
    "empty lines after a request": (GET + "localhost\r\n\r\n", "\r\n"),
}
"""What a client says at first, and then over and over."""


def is_cut_off(plain: socket.socket, drip: bytes = b"", within: float = 60.0) -> bool:
    """Whether the server ends a connection on which a client goes on saying `drip`."""
    plain.settimeout(0.05)
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            plain.sendall(drip)
            if not plain.recv(1000):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@pytest.mark.parametrize(("first", "then"), DRIPS.values(), ids=DRIPS)
def test_who_asks_drop_by_drop_is_cut_off(first: str, then: str) -> None:
    with (
        served(limits=Limits(upload=0.3)) as client,
        socket.create_connection(client.address) as plain,
    ):
        plain.sendall(first.encode())
        assert is_cut_off(plain, then.encode())


def test_who_asks_and_reads_in_time_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(limits=Limits(upload=1, unread=1)) as client:
        context = client.session.engine.context
        decode = context.decode

        def slow(*rows: Any) -> None:
            time.sleep(0.05)
            decode(*rows)

        monkeypatch.setattr(context, "decode", slow)
        assert len(events(client.chat(**{**LONG, "max_tokens": 60}, stream=True))) == 62


def test_who_does_not_read_is_cut_off() -> None:
    ask, n = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 500
    with (
        served(limits=Limits(unread=0.2)) as client,
        socket.create_connection(client.address, timeout=60) as plain,
    ):
        size = len(client.get("/openapi.json").content)
        plain.sendall(n * ask)
        time.sleep(1)
        assert count_bytes(plain) < n * size


def count_bytes(plain: socket.socket) -> int:
    """Return how many bytes come until the server ends a connection, or says no more."""
    n = 0
    with suppress(OSError):
        while part := plain.recv(2**20):
            n += len(part)
    return n


def test_only_so_many_connections_are_open() -> None:
    with served(limits=Limits(connections=4)) as client, ExitStack() as opened:
        assert client.get("/health").status_code == 200
        held = [opened.enter_context(socket.create_connection(client.address)) for _ in range(4)]
        assert [is_cut_off(one, within=0.3) for one in held] == [False, False, False, True]
        assert client.get("/health").status_code == 200


def test_a_stream_shows_that_it_is_alive(client: Client) -> None:
    text = client.chat(**{**LONG, "max_tokens": 60}, stream=True).text
    assert ": still here\n\n" in text
    assert text.endswith("data: [DONE]\n\n")


# Logs


def test_the_log_holds_no_text_unless_told_to(caplog: pytest.LogCaptureFixture) -> None:
    secret = [{"role": "user", "content": "Tell me of the xylophone."}]
    for log_text in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "steerplug.server"), served(log_text=log_text) as client:
            said = client.chat(model=PIRATE, messages=secret).json()
            client.chat(model="xylophone", messages=secret)
        lines = [vars(one) for one in caplog.records if one.message == "request"]
        noted = next(one for one in lines if one.get("steering") == "pirate")
        assert noted["digest"] == said["steering"]["digest"][:16]
        assert noted["completion_tokens"] == said["usage"]["completion_tokens"]
        assert ("xylophone" in str(lines)) == log_text


# Fuzz


def fuzz(client: Client, operation: Any) -> None:
    @settings(
        max_examples=N_EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=True,
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body = {**case.body, "model": NAME, "max_tokens": 2}
        response = case.call(base_url=client.root)
        assert response.status_code < 500, response.text

    check()


def test_no_request_is_an_error_of_the_server(client: Client) -> None:
    """schemathesis over the OpenAPI schema; STEERPLUG_FUZZ says how many examples."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations: Any = schema.get_all_operations()
    found = [one.ok() for one in operations]
    assert len(found) >= 8
    for operation in found:
        fuzz(client, operation)
    assert goes_idle(client)
    assert client.is_healthy()
