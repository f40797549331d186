"""Claims about the status page as a person sees it, in a real Chromium: live, readable, accessible, and inert."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from streamcrypt import events
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.observe.health import Health
from streamcrypt.observe.http import HTTPServer
from streamcrypt.observe.metrics import Metrics
from streamcrypt.observe.status import Status
from streamcrypt.sidecar.spec import Mode, PipelineSpec
from tests.browser import chromium

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\'"&{{7*7}}\u202e'
KEK = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SPECS = [
    PipelineSpec("protect-payments", Mode.ENCRYPT, "g", ("payments",), "payments.encrypted"),
    PipelineSpec("read-shipments", Mode.DECRYPT, "h", ("^shipments[.].*",), "{topic}.plain"),
]
TOKEN = "correct-horse-battery"


class Shown:
    """A status that a test tells things, and the page that shows it.

    Attributes:
        said: What the browser complained of: errors of scripts, violations of the policy, requests that failed.
    """

    def __init__(self, page: Page, status: Status, url: str) -> None:
        self.page, self.tell, self.url = page, status, url
        self.said: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("requestfailed", lambda request: self.said.append(f"{request.url} {request.failure}"))

    def open(self) -> Page:
        self.page.goto(self.url)
        expect(self.page.locator("article.card")).to_have_count(len(SPECS))
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def shown(browser) -> Iterator[Shown]:
    status = Status(SPECS, RotationPolicy())
    for spec in SPECS:
        status(events.PipelineStarting(spec.name, spec.mode, spec.group))
        status(events.PipelineReady(spec.name, 6))
        status(events.LoopTurned(spec.name, 6, 0))
        status(events.BatchDone(spec.name, spec.sources[0], 500, 50_000, 60_000, 0, 0.01))
        status(events.LagMeasured(spec.name, ((spec.sources[0], 0, 17),)))
    status(events.DataKeyMinted("payments.encrypted", "4f" * 32, (KEK,), 0.1, ahead=False))
    status(events.DataKeyRetired("payments.encrypted", "4f" * 32, "age", 10, 100, 240.0))
    status(events.DataKeyMinted("payments.encrypted", "5a" * 32, (KEK,), 0.1, ahead=False))
    status(events.DataKeyOpened("shipments.eu", "6b" * 32, KEK, 0.1, shared=False))
    status(events.KeyServiceCalled("GenerateDataKey", "eu-west-1", KEK, "", (), "ok", "r", 0.02))
    status(
        events.RecordFailed("read-shipments", "shipments.eu", 2, 91, "UntrustedKey", "no trusted KEK", "dead_letter")
    )
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    with HTTPServer(Metrics().registry, Health(), port=0, status=status.snapshot) as server:
        yield Shown(context.new_page(), status, "http://{}:{}/".format(*server.address))
        context.close()


def outage(tell: Status) -> None:
    """KMS goes away, and six partitions wait."""
    for _ in range(5):
        tell(events.KeyServiceCalled("GenerateDataKey", "eu-west-1", KEK, "", (), "ReadTimeoutError", "", 1.5))
    tell(events.BreakerOpened("eu-west-1", 5, 1.0))
    for partition in range(6):
        tell(
            events.PartitionPaused("protect-payments", "payments", partition, 7, "KeyUnavailable", "timed out", "Wait.")
        )


def look_now(page: Page) -> None:
    """Have the page ask at once, as it does when it comes to the front again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_the_page_is_live_and_says_what_is_wrong_without_being_loaded_again(shown):
    """Within one poll the sentence is there, in the live region and in the title, and goes when the trouble does."""
    page = shown.open()
    expect(page.locator("#say")).to_contain_text("1 record of read-shipments: set aside as dead letters")
    shown.tell(events.KeyServiceCalled("DescribeKey", "eu-west-1", "alias/payments", "", (), "ok", "r", 0.02))
    outage(shown.tell)
    expect(page.locator("#say")).to_contain_text("protect-payments waits since")
    expect(page.locator("#say")).to_contain_text("AWS KMS in eu-west-1 does not answer.")
    expect(page.locator("#then")).to_contain_text("Records wait in Kafka; nothing is lost while the topics keep them.")
    expect(page.locator("article", has_text="protect-payments").locator(".chip")).to_have_text("waiting for a key")
    expect(page.get_by_text("its region is away")).to_be_visible()
    assert page.locator("#text").inner_text() in page.title()
    assert page.locator("#say").get_attribute("aria-live") == "polite"
    shown.tell(events.PipelineFailed("protect-payments", "KeyRefused", "denied", ""))
    look_now(page)
    expect(page.locator("#say")).to_contain_text("has halted")
    assert shown.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_in_both_schemes(shown, scheme):
    """Axe finds nothing: contrast, names, landmarks, headings, tables; calm where the reader asks for calm."""
    outage(shown.tell)
    shown.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page = shown.open()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.evaluate("document.getAnimations().length") == 0
    found = Axe().run(page)
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found.response["violations"]] == []
    assert page.locator("main, header, footer, h1, h2, th[scope]").count() > 20
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert shown.said == []


def test_the_page_fits_a_phone(shown):
    """At 360 pixels nothing is cut off or needs scrolling sideways, with long names and texts too."""
    shown.page.set_viewport_size({"width": 360, "height": 740})
    outage(shown.tell)
    shown.tell(events.RecordFailed("read-shipments", "t" * 200, 2, 91, "UntrustedKey", "x" * 300, "skip"))
    page = shown.open()
    expect(page.locator("#failures td").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # What is for ears only has no place on the screen.
    every = "[...document.querySelectorAll('main *:not(thead, thead *, caption)')]"
    assert page.evaluate(f"Math.max(...{every}.map(e => e.getBoundingClientRect().right))") <= 360


def test_hostile_names_and_texts_are_shown_and_do_nothing(shown):
    """What topics, keys and errors may hold is text on the page: no element, no script, no broken policy."""
    tell = shown.tell
    tell(events.PipelineStarting(HOSTILE, HOSTILE, HOSTILE))
    tell(events.PipelineReady(HOSTILE, 1))
    tell(events.BatchDone(HOSTILE, HOSTILE, 1, 1, 1, 0, 0.1))
    tell(events.PartitionPaused(HOSTILE, HOSTILE, 0, 1, HOSTILE, HOSTILE, HOSTILE))
    tell(events.RecordFailed(HOSTILE, HOSTILE, 0, 1, HOSTILE, HOSTILE, HOSTILE))
    tell(events.SequenceFound(HOSTILE, HOSTILE, HOSTILE, 0, 1, HOSTILE, 0, 1, 2, 3))
    for data_key in (HOSTILE, HOSTILE[::-1]):
        tell(events.DataKeyMinted(HOSTILE, data_key, (HOSTILE,), 0.1, ahead=False))
    tell(events.DataKeyWrappedForFewer(HOSTILE, HOSTILE, (HOSTILE,), (HOSTILE,), (HOSTILE,)))
    tell(events.DataKeyRetired(HOSTILE, HOSTILE, HOSTILE, 1, 1, 1.0))
    tell(events.DataKeyOpened(HOSTILE, HOSTILE, HOSTILE, 0.1, shared=False))
    tell(events.KeyServiceCalled(HOSTILE, HOSTILE, HOSTILE, HOSTILE, (), HOSTILE, HOSTILE, 0.1))
    tell(events.KeyAliasMoved(HOSTILE, HOSTILE, HOSTILE))
    page = shown.page
    page.goto(shown.url)
    expect(page.locator("article.card")).to_have_count(3)
    expect(page.locator("#say")).to_contain_text('<img src=x onerror="window.pwned=1">')
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert shown.said == []


def test_the_policy_stops_what_is_not_ours(shown):
    """Were markup ever made from text, the browser would refuse it: neither script nor style nor image nor request."""
    page = shown.open()
    for made in ("document.body.innerHTML = '<b>x</b>'", "document.body.setAttribute('onclick', 'x')"):
        refused = page.evaluate(f"(() => {{ try {{ {made} }} catch (error) {{ return String(error) }} }})()")
        assert "Trusted" in refused, made
    page.evaluate("window.broken = []")
    page.evaluate("addEventListener('securitypolicyviolation', event => broken.push(event.effectiveDirective))")
    page.evaluate("document.head.append(Object.assign(document.createElement('style'), {textContent: 'p{color:red}'}))")
    page.evaluate("document.createElement('img').src = 'http://127.0.0.1:1/x'")
    page.evaluate("fetch('http://127.0.0.1:1/x').catch(() => null)")
    page.wait_for_function("broken.length >= 3")
    assert sorted(page.evaluate("broken")) == ["connect-src", "img-src", "style-src-elem"]


def test_a_process_that_answers_no_more_is_told_of_with_the_time_of_what_is_shown(shown):
    """An old picture is never taken for the present one."""
    page = shown.open()
    page.route("**/status.json", lambda route: route.abort())
    look_now(page)
    expect(page.locator("#say")).to_contain_text("This process gives no answer since")
    expect(page.locator("#then")).to_contain_text("All below is as it was at")
    page.unroute("**/status.json")
    look_now(page)
    expect(page.locator("#live-text")).to_contain_text("up to date,")


def test_marked_text_is_not_lost_to_the_next_poll(shown):
    """Whoever copies an ARN has time for it; the sentence goes on."""
    page = shown.open()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#keks code'))")
    look_now(page)
    expect(page.locator("#live-text")).to_contain_text("held while text is marked")
    assert page.evaluate("String(getSelection())") == KEK
    outage(shown.tell)
    look_now(page)
    expect(page.locator("#say")).to_contain_text("protect-payments waits")
    assert page.evaluate("String(getSelection())") == KEK


def test_a_browser_shows_a_guarded_page_to_whoever_knows_the_token(browser):
    """The page and what it polls take the token as the password that the browser asked for."""
    status = Status(SPECS)
    with HTTPServer(Metrics().registry, Health(), port=0, status=status.snapshot, token=TOKEN) as server:
        url = "http://{}:{}/".format(*server.address)
        for password, cards in ((TOKEN, 2), ("wrong", 0)):
            context = browser.new_context(http_credentials={"username": "oncall", "password": password})
            page = context.new_page()
            answer = page.goto(url)
            assert answer.status == (200 if cards else 401)
            expect(page.locator("article.card")).to_have_count(cards)
            context.close()


def test_the_page_is_small_and_complete():
    """One file; small enough for a bad line at night."""
    folder = Path(events.__file__).parent / "observe"
    assert sum((folder / f"page.{kind}").stat().st_size for kind in ("html", "css", "js")) < 40_000
    assert json.dumps((folder / "page.html").read_text()).count("http://") == 1
