"""The playground in a real browser, on the real server: made-up replies first, then real ones."""

import inspect
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from steerplug.commands.serve import serve
from steerplug.preset.mix import Ingredient, parse_mix

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra `server` is not installed")

from tests.helpers.serving import NAME, Client, served  # noqa: E402  imports uvicorn

CHROMIUMS = ("chromium-headless-shell", "chromium", "google-chrome")
PRESETS: list[dict[str, Any]] = [
    {"name": "pirate", "description": "Talks like a pirate.", "too_much": "Too much is all arr.",
     "strength": {"min": 0, "max": 2, "default": 1}, "tokens_saved": 237,
     "carrier": "steering", "reason": None, "prompt_tokens": 237, "compiling": None},
    {"name": "calm", "description": "Calm.", "too_much": None,
     "strength": {"min": -1, "max": 1.5, "default": 0.9}, "tokens_saved": None,
     "carrier": "steering", "reason": None, "prompt_tokens": None, "compiling": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        own = started.chromium.executable_path
        path = next(filter(None, map(shutil.which, (own, *CHROMIUMS))), None)
        if path is None:
            pytest.skip("no Chromium is installed (Debian: apt install chromium-headless-shell)")
        browser = started.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


class Answers:
    """Answers the page in the server's place, with presets and replies that a test makes up."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.key: str | None = None
        self.models = ["tiny"]
        self.compiled: dict[str, Any] = {}
        self.reply: Callable[[dict[str, Any]], list[dict[str, Any]]] = rain

    def __call__(self, route: Any) -> None:
        path = "/" + route.request.url.split("/", 3)[3]
        self.keys.append(route.request.headers.get("authorization"))
        models = [{"id": f"{one}{mix}"} for one in self.models for mix in ("", "@pirate")]
        lists = {"/v1/models": models, "/steering/presets": PRESETS}
        for i, one in enumerate(self.models):
            lists[f"/steering/presets?model={one}"] = PRESETS[i:]
        if path in (*lists, "/v1/chat/completions") and self.keys[-1] != self.key:
            route.fulfill(status=401, json={"error": {"message": "the key is wrong."}})
        elif path in lists:
            route.fulfill(json={"object": "list", "data": lists[path]})
        elif path == "/steering/compile":
            route.fulfill(json=self.compiled)
        else:
            self.asked.append(route.request.post_data_json)
            events = to_events(self.reply(self.asked[-1]))
            route.fulfill(content_type="text/event-stream", body=events)


def to_events(chunks: list[dict[str, Any]]) -> str:
    lines = [": heartbeat", *(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    return "\r\n\r\n".join([*lines, ""])


def piece(text: str, moved: float = 0.0) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "moved": moved}]}


def rain(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Say a few words, moved by 0, 5 and 20 % where the request is steered."""
    moved = (0, 0.05, 0.2) if asked["steering"] != "none" else (0, 0, 0)
    usage = {"prompt_tokens": 31, "completion_tokens": 3,
             "prompt_tokens_details": {"cached_tokens": 20}}  # fmt: skip
    end = {"choices": [], "usage": usage}
    if asked["steering"] != "none":
        end["steering"] = {"tokens_steered": 3, "mean_moved": 0.083}
    words = [f"To {asked['messages'][-1]['content']}", " sky", " water"]
    return [*map(piece, words, moved), end]


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def open_page(browser: Any, client: Client) -> Iterator[Callable[..., Any]]:
    """Open the page: `(answers=None, **settings)`; nothing may appear on its console."""
    said: list[str] = []
    contexts = []

    def open_page(answers: Answers | None = None, **settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        if answers is not None:
            page.route("**/v1/**", answers)
            page.route("**/steering/**", answers)
        page.goto(client.root)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in said if "401" not in line] == []


def chip(page: Any, preset: str) -> Any:
    return page.locator(f"#chips [data-name={preset}] input")


def ask(page: Any, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    playwright.expect(page.locator("article h2").last).to_have_text(question)
    playwright.expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=60_000)


def test_both_replies_their_shading_and_numbers(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers)
    chip(page, "pirate").check()
    page.get_by_role("slider", name="pirate").fill("0.8")
    ask(page, "you")
    bare, steered = (page.locator(side) for side in (".bare", ".steered"))
    assert bare.locator(".text").inner_text() == steered.locator(".text").inner_text()
    assert steered.locator(".text").inner_text() == "To you sky water"
    assert bare.locator(".text span").count() == 0
    assert steered.locator(".text span").all_inner_texts() == ["sky", "water"]
    assert steered.locator(".legend").inner_text().endswith("20.0 %")
    assert "prompt of 31 tokens, 20 from cache" in bare.locator(".facts").inner_text()
    facts = steered.locator(".facts").inner_text()
    assert facts.startswith("237 prompt tokens saved: 31 instead of 268\n")
    assert "3 tokens steered, moved by 8.3 % on average" in facts
    assert [body["steering"] for body in answers.asked] == ["none", "0.8*pirate"]
    assert answers.asked[0]["seed"] == answers.asked[1]["seed"]
    assert page.get_by_role("status").first.inner_text() == (
        "Bare reply: To you sky water Steered reply: To you sky water"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_strongest_shade_leaves_text_readable(
    open_page: Callable[..., Any], answers: Answers, scheme: str
) -> None:
    page = open_page(answers, color_scheme=scheme)
    chip(page, "pirate").check()
    ask(page, "you")
    weak, strong = page.locator(".text span").evaluate_all(READ_CONTRAST)
    assert weak > strong > 7
    for text in page.locator("h1, h3, legend, .facts span, #keys, #strengths p, .primary").all():
        assert text.evaluate_all(READ_CONTRAST) > [4.5]


# WCAG 2's contrast of each element's text with what lies behind it, as a canvas paints both.
READ_CONTRAST = """elements => elements.map((element) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); };
  const luminance = () => {
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
      .map((byte) => byte / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  paint(getComputedStyle(document.body).backgroundColor);
  paint(getComputedStyle(element).backgroundColor);
  const behind = luminance();
  paint(getComputedStyle(element).color);
  const [low, high] = [behind, luminance()].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
})"""


def test_of_several_models_one_is_chosen_with_its_own_presets(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    answers.models = ["tiny", "other"]
    page = open_page(answers)
    playwright.expect(chip(page, "pirate")).to_be_checked()
    ask(page, "you")
    page.get_by_label("Model", exact=True).select_option("other")
    playwright.expect(chip(page, "calm")).to_be_checked()
    assert chip(page, "pirate").count() == 0
    assert page.locator("#model-name").inner_text() == "other@calm"
    ask(page, "me")
    assert [body["model"] for body in answers.asked] == ["tiny"] * 2 + ["other"] * 2
    assert [body["steering"] for body in answers.asked] == ["none", "pirate", "none", "calm"]


def test_where_there_is_one_model_none_is_chosen(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers)
    playwright.expect(chip(page, "pirate")).to_be_checked()
    playwright.expect(page.get_by_label("Model", exact=True)).to_be_hidden()


def test_one_preset_is_chosen_and_its_prompt_can_be_asked_as_well(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers)
    playwright.expect(chip(page, "pirate")).to_be_checked()
    page.get_by_role("slider", name="pirate").fill("1.5")
    page.locator("#want-prompted").check()
    page.get_by_text("Length, temperature, system prompt").click()
    page.get_by_label("Most tokens").fill("7")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("System prompt").fill("Be brief.")
    ask(page, "you")
    assert page.locator(".answers h3").all_inner_texts() == [
        "Bare", "Prompted pirate", "Steered 1.5*pirate"
    ]  # fmt: skip
    ways = [(body["steering"], body.get("carrier")) for body in answers.asked]
    assert ways == [("none", None), ("pirate", "prompt"), ("1.5*pirate", None)]
    for body in answers.asked:
        assert (body["max_tokens"], body["temperature"]) == (7, 0.5)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert len(body["messages"]) == 2


def test_what_is_not_compiled_is_answered_by_its_prompt(
    open_page: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"carrier": "prompt", "reason": "not compiled for this model"}
    monkeypatch.setitem(globals(), "PRESETS", [{**PRESETS[0], **about}])
    page = open_page(answers)
    ask(page, "you")
    assert page.locator(".answers h3").all_inner_texts() == ["Bare", "Prompted pirate"]
    assert answers.asked[1]["carrier"] == "prompt"


def test_what_nothing_can_carry_yet_says_so_and_is_left_out(
    open_page: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "not compiled for this model, and no prompt can carry a contrast"
    monkeypatch.setitem(
        globals(), "PRESETS", [PRESETS[0], {**PRESETS[1], "carrier": None, "reason": why}]
    )
    page = open_page(answers)
    chip(page, "calm").check()
    row = page.locator("#strengths [data-name=calm]")
    assert f"Not in the answers yet: {why}." in row.inner_text()
    assert row.get_by_role("slider").count() == 0
    failed = {"state": "failed", "problem": "It was too much.", "share": 0}
    answers.compiled = {"carrier": None, "reason": why, "compiling": failed}
    row.get_by_role("button", name="Compile").click()
    playwright.expect(row).to_contain_text("It was too much.")
    ask(page, "you")
    assert [body["steering"] for body in answers.asked] == ["none", "pirate"]


def test_what_is_compiled_steers_as_soon_as_the_server_notices(
    open_page: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {**PRESETS[1], "carrier": None, "reason": "not compiled for this model"}
    job = {"state": "running", "problem": "", "share": 0.0, "what": "", "seconds_left": None}
    steps = [job, {**job, "what": "measuring blocks", "share": 0.5}, {**job, "state": "done"}]
    answers.compiled, *later = ({**before, "compiling": step} for step in steps)
    monkeypatch.setitem(globals(), "PRESETS", [before])
    page = open_page(answers)
    chip(page, "calm").check()
    row = page.locator("#strengths [data-name=calm]")
    page.clock.install()
    row.get_by_role("button", name="Compile").click()
    playwright.expect(row).to_contain_text("Compiling: 0 % done.")
    compiled = {**before, "carrier": "steering", "reason": None}
    said = ("Compiling: 50 % done, measuring", "", "")
    for listed, told in zip((*later, compiled), said, strict=True):
        monkeypatch.setitem(globals(), "PRESETS", [listed])
        with page.expect_response("**/steering/presets"):
            page.clock.run_for(2500)
        playwright.expect(row).to_contain_text(told)
    playwright.expect(page.get_by_role("slider", name="calm")).to_be_visible()
    assert page.locator("#mix").inner_text() == "calm"


def test_a_long_name_leaves_room_for_what_it_does(
    open_page: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a-preset-whose-name-is-as-long-as-one-can-be-it-goes-on-and-on"
    monkeypatch.setitem(globals(), "PRESETS", [*PRESETS, {**PRESETS[0], "name": long}])
    page = open_page(answers, viewport={"width": 390, "height": 800})
    page.get_by_text("What each does").click()
    told = page.locator("#described dd").last.bounding_box()
    assert told["width"] > 200
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_on_a_phone_the_steered_reply_is_first_and_presets_are_described(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers, viewport={"width": 390, "height": 800}, has_touch=True)
    ask(page, "you")
    tops = [page.locator(side).bounding_box()["y"] for side in (".steered", ".bare")]
    assert tops == sorted(tops)
    page.get_by_text("What each does").tap()
    assert page.get_by_text("Talks like a pirate.", exact=True).is_visible()


def test_the_address_and_the_model_for_other_front_ends(
    open_page: Callable[..., Any], answers: Answers, client: Client
) -> None:
    page = open_page(answers)
    page.get_by_role("slider", name="pirate").fill("0.5")
    page.get_by_role("button", name="Copy model").click()
    assert page.locator("pre").inner_text() == "tiny@0.5*pirate"
    page.get_by_role("button", name="Copy address").click()
    assert page.locator("pre").inner_text() == f"{client.root.rstrip('/')}/v1"


def test_a_follow_up_sends_each_side_its_own_replies(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    answers.reply = lambda asked: [piece(asked["steering"])]
    page = open_page(answers)
    chip(page, "pirate").check()
    ask(page, "first")
    page.get_by_label("follow up").check()
    ask(page, "second")
    assert page.locator("article").count() == 2
    for asked in answers.asked[2:]:
        assert [message["content"] for message in asked["messages"]] == [
            "first", asked["steering"], "second",
        ]  # fmt: skip
    page.get_by_label("follow up").uncheck()
    ask(page, "third")
    assert page.locator("article").count() == 1
    assert len(answers.asked[-1]["messages"]) == 1


def test_a_reply_is_text_whatever_it_says(open_page: Callable[..., Any], answers: Answers) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    answers.reply = lambda asked: [piece(hostile, 0.1 if "steering_trace" in asked else 0)]
    page = open_page(answers)
    chip(page, "pirate").check()
    ask(page, hostile)
    assert page.locator(".text").all_inner_texts() == [hostile, hostile]
    assert page.locator("article :is(img, script)").count() == 0


def test_a_long_question_leaves_room_for_its_replies(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers, viewport={"width": 800, "height": 800})
    ask(page, "long " * 2000 + "enough?")
    heights = [page.locator(one).bounding_box()["height"] for one in ("#question", "article h2")]
    assert all(height <= limit for height, limit in zip(heights, (400, 200), strict=True))


def test_problems_are_shown_where_they_happen(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    answers.reply = lambda asked: (
        [piece("half a"), {"error": {"message": "the engine stopped."}}]
        if asked["steering"] == "none" else [piece("whole")]
    )  # fmt: skip
    page = open_page(answers)
    chip(page, "pirate").check()
    ask(page, "you")
    assert page.locator(".bare .text").inner_text() == "half a"
    assert page.locator(".bare .problem").inner_text() == "the engine stopped."
    assert page.locator(".steered .problem").count() == 0


def test_a_key_is_asked_for_once_and_kept_for_the_tab(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    answers.key = "Bearer sesame"
    page = open_page(answers)
    for guess in ("wrong", "sesame"):
        field = page.get_by_label("API key", exact=True)
        playwright.expect(field).to_have_value("")
        field.press_sequentially(guess)
        field.press("Enter")
    chip(page, "pirate").check()
    page.reload()
    chip(page, "pirate").check()
    assert "Bearer wrong" in answers.keys
    ask(page, "you")
    assert len(answers.asked) == 2
    page.get_by_role("button", name="Copy as curl").click()
    assert "sesame" not in page.locator("pre").inner_text()


def test_a_key_that_no_header_can_hold_is_not_sent(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    answers.key = "Bearer sesame"
    page = open_page(answers)
    field = page.get_by_label("API key", exact=True)
    field.fill("sésame ✓")
    field.press("Enter")
    playwright.expect(field).to_be_focused()
    assert field.evaluate("field => field.validity.patternMismatch")
    field.fill("sesame")
    field.press("Enter")
    chip(page, "pirate").check()
    assert set(answers.keys) == {None, "Bearer sesame"}


def test_the_whole_page_by_keyboard_on_a_phone(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers, viewport={"width": 320, "height": 560})
    chip(page, "pirate").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.type("Why?")
    page.keyboard.press("Tab")  # the chip `pirate`, chosen at the start
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # its slider
    for _ in ("default", "descriptions", "steered", "prompted", "bare", "settings", "Ask"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("follow up").wait_for()
    assert answers.asked[1]["steering"] == "0.95*pirate"
    page.get_by_role("button", name="Copy as curl").press("Enter")
    page.locator("pre").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_mixes_are_what_steerplug_reads(open_page: Callable[..., Any], answers: Answers) -> None:
    page = open_page(answers)
    format_mix = "async c => (await import('./mix.js')).formatMix(c)"
    choices = [
        {"name": name, "strength": strength, "default": 1.0}
        for name, strength in (("none", -0.25), ("pirate", 1.0), ("a-b.c", -1), ("2e3", 1e-7))
    ]
    assert page.evaluate(format_mix, []) == "none"
    assert parse_mix(page.evaluate(format_mix, choices)) == (
        Ingredient("none", 0.25, -1), Ingredient("pirate"), Ingredient("a-b.c", 1.0, -1),
        Ingredient("2e3", 1e-7),
    )  # fmt: skip


def test_the_yaml_snippet_sets_up_a_server(
    open_page: Callable[..., Any], answers: Answers
) -> None:
    page = open_page(answers)
    chip(page, "pirate").uncheck()
    chip(page, "calm").check()
    page.get_by_role("slider", name="calm").fill("-0.5")
    page.get_by_role("button", name="Copy as YAML").click()
    settings = yaml.safe_load(page.locator("pre").inner_text())
    assert settings == {"model": "tiny", "steer": "-0.5*calm"}
    assert set(settings) <= set(inspect.signature(serve).parameters)


def cut_short(route: Any) -> None:
    route.continue_(post_data={**route.request.post_data_json, "max_tokens": 16})


def test_the_servers_own_replies(open_page: Callable[..., Any], client: Client) -> None:
    page = open_page()
    page.route("**/v1/chat/completions", cut_short)
    chip(page, "pirate").check()
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, "What is rain?")
    seed = request.value.post_data_json["seed"]
    for side, steering in ((".bare", "none"), (".steered", "pirate")):
        body = {"steering": steering, "seed": seed, "temperature": None, "max_tokens": 16}
        answer = client.chat(**body).json()
        shown = page.locator(side)
        text = answer["choices"][0]["message"]["content"]
        assert shown.locator(".text").inner_text() == f"{text} …".strip()
        assert f"prompt of {answer['usage']['prompt_tokens']} tokens" in shown.inner_text()
    assert page.locator(".steered .text span").count() > 8
    assert "prompt tokens saved" in page.locator(".steered .facts strong").inner_text()


def test_escape_stops_both(open_page: Callable[..., Any]) -> None:
    page = open_page()
    chip(page, "pirate").check()
    page.get_by_label("Question").fill("Count to one thousand, in words.")
    page.get_by_label("Question").press("Control+Enter")
    for side in (".bare", ".steered"):
        playwright.expect(page.locator(f"{side} .text")).to_contain_text(" ")
    page.keyboard.press("Escape")
    playwright.expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert page.locator(".problem").all_inner_texts() == ["Stopped.", "Stopped."]


def test_the_curl_snippet_asks_this_server(open_page: Callable[..., Any]) -> None:
    page = open_page()
    chip(page, "pirate").check()
    page.get_by_label("Question").fill("What's rain? 'Ünd'\n$HOME")
    page.get_by_role("button", name="Copy as curl").click()
    snippet = page.locator("pre").inner_text().replace('"model"', '"max_tokens": 2, "model"')
    ran = subprocess.run(["sh", "-c", snippet], capture_output=True, timeout=120, check=True)
    assert json.loads(ran.stdout)["steering"]["mix"] == "pirate"


def test_the_langchain_snippet_runs(
    open_page: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    page = open_page()
    chip(page, "pirate").check()
    page.get_by_label("Question").fill('What is "rain"?')
    page.get_by_role("button", name="Copy as LangChain").click()
    snippet = page.locator("pre").inner_text()
    assert f'model="{NAME}", steering="pirate"' in snippet
    exec(snippet.replace("ChatSteerplug(", "ChatSteerplug(max_tokens=2, "), {})
    assert capsys.readouterr().out.strip()
