"""A tab of a real browser on the page at `/`, and everything that goes wrong in it."""
import contextlib
import dataclasses
import os
import pathlib
import time

from playwright.sync_api import expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATIENCE_S = float(os.environ.get("PAGE_PATIENCE_SECONDS", "180"))
POLL_S = 0.05

WATCH_POLICY = """
window.policyBreaches = [];
document.addEventListener("securitypolicyviolation", (e) => window.policyBreaches.push(`${e.violatedDirective}: ${e.blockedURI}`));
"""


@dataclasses.dataclass
class Site:
    """The server whose page it is, the key for it, and where screenshots go."""
    base: str
    key: str
    needs_key: bool
    out: pathlib.Path

    def visit(self, browser, **options):
        return Visit(browser, self, **options)


@contextlib.contextmanager
def browsing():
    """A browser."""
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def step(text):
    print(f"page: {text}", flush=True)


def until(what, condition, seconds=PATIENCE_S):
    """Waits for a condition; the page's policy forbids `eval`, and with it Playwright's own waiting for functions."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL_S)
    return value


class Visit:
    """One tab, and everything that went wrong in it."""

    def __init__(self, browser, site, **options):
        self.site = site
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.faults = []
        self.offline = False
        self.page.add_init_script(WATCH_POLICY)
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        self.page.on("request", self.on_request)

    def on_console(self, message):
        if message.type == "error" and not self.offline:
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    def on_request(self, request):
        if not request.url.startswith((self.site.base + "/", "data:", f"blob:{self.site.base}")):
            self.faults.append(f"request to another server: {request.url}")

    def open(self):
        """Opens the page and gives the key if it is asked for."""
        self.page.goto(self.site.base + "/", wait_until="domcontentloaded")
        if self.site.needs_key:
            expect(self.page.locator("#key-dialog")).to_be_visible()
            self.page.fill("#key-input", self.site.key)
            self.page.keyboard.press("Enter")
            expect(self.page.locator("#key-dialog")).to_be_hidden()
        self.live()
        return self.page

    def live(self):
        expect(self.page.locator("#connection[data-state=live]")).to_be_visible()
        expect(self.page.locator("#gallery .placeholder")).to_have_count(0)

    def shot(self, name):
        self.page.screenshot(path=self.site.out / f"{name}.png")

    def close(self):
        self.faults += [f"content security policy: {breach}" for breach in self.page.evaluate("window.policyBreaches")]
        self.context.close()
        assert not self.faults, "the browser complains:\n  " + "\n  ".join(self.faults)
