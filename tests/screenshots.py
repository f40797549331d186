"""Pictures of the status page for docs/images: ``python -m tests.screenshots``. It takes about two minutes.

What they show is real: a sidecar process with two pipelines on a real broker, a KMS over HTTP that is taken away, and
a record that cannot be opened.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from streamcrypt.testing import KMSServer
from tests.broker import Broker, private_broker
from tests.browser import chromium
from tests.sidecar import Sidecar, config_of, kms_keys

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_PARTITIONS = 3


def main() -> None:
    """Make the pictures anew."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(contextlib.closing(private_broker()))
        kms = stack.enter_context(KMSServer(region="eu-west-1"))
        kms.create_key("alias/payments")
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for topic in ("payments", "payments.encrypted", "payments.decrypted"):
            broker.create_topic(topic, _PARTITIONS)
        broker.create_topic("payments.dlq")
        sidecar = stack.enter_context(Sidecar(directory, _config(broker, kms))).ready(2)
        browser = stack.enter_context(chromium())
        _write(broker, 30)
        broker.produce("payments.encrypted", [{"value": b"written by somebody else", "partition": 1}])
        _write(broker, 25)
        url = f"http://127.0.0.1:{sidecar.config['http']['port']}/"
        _picture(browser, url, "status-light")
        _picture(browser, url, "status-dark", scheme="dark")
        kms.darken("eu-west-1", "error")
        while not sidecar.of("partition.paused"):
            # A data key in use, one in stock and the grace have to pass.
            _write(broker, 1)
        _write(broker, 25)
        _picture(browser, url, "status-outage")
        _picture(browser, url, "status-phone", width=360)


def _config(broker: Broker, kms: KMSServer) -> dict[str, object]:
    protect = {"name": "protect-payments", "mode": "encrypt", "from": "payments", "to": "payments.encrypted"}
    read = {"name": "read-payments", "mode": "decrypt", "from": "payments.encrypted", "to": "payments.decrypted"}
    letters = {"on_failure": "dead_letter", "dead_letter": "payments.dlq"}
    rotation = {"max_messages": 1500, "max_age": "8s", "grace": "2s"}
    return config_of(broker.bootstrap, kms_keys(kms), protect, {**read, **letters}, rotation=rotation)


def _write(broker: Broker, seconds: int) -> None:
    for second in range(seconds):
        count = 180 + 60 * (second % 4)
        broker.produce("payments", ({"value": b"v" * 200, "partition": n % _PARTITIONS} for n in range(count)))
        time.sleep(0.8)


def _picture(browser: Browser, url: str, name: str, width: int = 1100, scheme: str = "light") -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page: Page = context.new_page()
    page.goto(url)
    page.locator("article.card").first.wait_for()
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)
    context.close()


if __name__ == "__main__":
    main()
