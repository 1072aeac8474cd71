"""SillyTavern in a real browser, set up by hand as the README says, on the real server.

Runs where `STEERPLUG_SILLYTAVERN` names the folder of the npm package `sillytavern`.
"""

import logging
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra `server` is not installed")

from tests.helpers.serving import NAME, PIRATE, Client, served  # noqa: E402  imports uvicorn

KEY = "a-key-for-tests"
FOLDER = os.environ.get("STEERPLUG_SILLYTAVERN")

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="STEERPLUG_SILLYTAVERN does not name the folder of SillyTavern"
)


@pytest.fixture
def client() -> Iterator[Client]:
    with served(api_keys=(KEY,), log_text=True) as client:
        yield client


@pytest.fixture
def silly_tavern(tmp_path: Path) -> Iterator[str]:
    """SillyTavern's own server, as after its installation."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data, config = tmp_path / "data", tmp_path / "config.yaml"
    data.mkdir()
    words = ["--port", port, "--dataRoot", data, "--configPath", config]
    running = subprocess.Popen(
        ["node", "server.js", "--browserLaunchEnabled", "false", *map(str, words)],
        cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    root, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not _answers(root):
            assert running.poll() is None, "SillyTavern ended"
            assert time.monotonic() < deadline, "SillyTavern does not start"
            time.sleep(0.5)
        yield root
    finally:
        running.kill()
        running.wait()


def _answers(root: str) -> bool:
    try:
        with urllib.request.urlopen(root, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def page(silly_tavern: str) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        path = shutil.which("chromium") or shutil.which("chromium-headless-shell")
        browser = started.chromium.launch(executable_path=path)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30_000)
        page.goto(silly_tavern)
        page.locator("dialog[open] .popup-button-ok").click()  # the welcome
        yield page
        browser.close()


def test_silly_tavern_chats_with_a_preset_and_with_a_mix(
    client: Client, page: Any, caplog: pytest.LogCaptureFixture
) -> None:
    panel = page.locator("#sys-settings-button .drawer-toggle")
    panel.click()
    page.locator("#main_api").select_option("openai")
    page.locator("#chat_completion_source").select_option("custom")
    page.locator("#custom_api_url_text").fill(f"{client.root}/v1")
    page.locator("#api_key_custom").fill(KEY)
    page.locator("#api_button_openai").click()
    models = page.locator("#model_custom_select")
    models.locator("option", has_text="@formal").wait_for(state="attached")
    models.select_option(PIRATE)
    panel.click()
    assert ask(page, caplog, "What is rain?") == "pirate"

    panel.click()
    models.select_option(NAME)
    page.locator("#customize_additional_parameters").click()
    page.locator("#custom_include_body").fill("steering: 0.8*formal\nmax_tokens: 20")
    page.locator("dialog[open] .popup-button-ok").click()
    panel.click()
    assert ask(page, caplog, "What is snow?") == "0.8*formal"


def ask(page: Any, caplog: pytest.LogCaptureFixture, question: str) -> str:
    """Send a message, and return how its reply was steered; the page shows what was said."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "steerplug.server"):
        page.locator("#send_textarea").fill(question)
        page.locator("#send_but").click()
        playwright.expect(page.locator("#chat .mes[is_user=true]").last).to_contain_text(question)
        deadline = time.monotonic() + 60
        while not (noted := [vars(one) for one in caplog.records if one.message == "request"]):
            assert time.monotonic() < deadline, "no request reached the server"
            page.wait_for_timeout(100)
    (said,) = noted[-1]["replies"]
    shown = page.locator("#chat .mes[is_user=false] .mes_text").last
    playwright.expect(shown).to_have_text(" ".join(said.split()))
    return str(noted[-1]["steering"])
