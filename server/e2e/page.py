#!/usr/bin/env python3
"""The page at `/` in a real browser, as a user walks it.

Drives headless Chromium against a running server: a prompt becomes a moving bar and then a playing video; cancel,
reload in mid-job, the keyboard alone, a phone, dark and light, a lost connection, a needed key. Fails too on any
console error, any breach of the content security policy, and any request to another server. Saves screenshots.

Needs `pip install playwright` and Chromium (CHROMIUM, or /usr/bin/chromium).
The key, where one is needed, must have every scope.
usage: [COGVIDEOX_API_KEY=cvx_...] page.py BASE_URL OUT_DIR
"""
import json
import os
import pathlib
import re
import sys
import urllib.request

from playwright.sync_api import Error, expect

from page_visit import Site, browsing, step, until

BASE = sys.argv[1].rstrip("/")
OUT = pathlib.Path(sys.argv[2])
KEY = os.environ.get("COGVIDEOX_API_KEY", "")

# Notes every value of every bar, so that no step is missed between two looks.
WATCH_BARS = """() => {
  window.barValues = [];
  const note = () => document.querySelectorAll("[role=progressbar]").forEach((bar) => {
    const entry = `${bar.closest("[data-id]").dataset.id} ${bar.getAttribute("aria-valuenow")}`;
    if (window.barValues.at(-1) !== entry) window.barValues.push(entry);
  });
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["aria-valuenow"]});
}"""

POSTERS_DRAWN = """() => [...document.querySelectorAll(".poster")]
  .filter((image) => image.parentElement.getBoundingClientRect().top < innerHeight)
  .every((image) => image.naturalWidth > 0 && !image.hidden)"""


def call(method, path, body=None):
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {KEY}"} if KEY else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(BASE + path, data, headers, method=method), timeout=60) as answer:
        return json.loads(answer.read())


def newest_id():
    data = call("GET", "/v1/videos?limit=1")["data"]
    return data[0]["id"] if data else None


def submitted(before):
    """The id of the video that was made since `before` was the newest."""
    return until("a new video", lambda: (found := newest_id()) != before and found)


def ask(page, prompt, steps=None):
    before = newest_id()
    page.fill("#prompt", prompt)
    if steps:
        page.fill("#field-num_inference_steps", str(steps))
    page.click("#submit")
    return submitted(before)


def long_steps():
    """Steps enough that a video does not end while it is looked at."""
    return MODEL["num_inference_steps"]["max"]


def state(video_id):
    return call("GET", f"/v1/videos/{video_id}")["state"]


def running_card(page, video_id):
    return page.locator(f".running-card[data-id={video_id}]")


def make_and_play(visit):
    page = visit.page
    step("a prompt becomes a moving bar, then a playing video")
    page.evaluate(WATCH_BARS)
    video_id = ask(page, "a paper boat drifts down a stream")
    card = page.locator(f".card[data-id={video_id}][data-state=completed]")
    expect(card).to_be_attached()
    values = [int(entry.split()[1]) for entry in page.evaluate("window.barValues") if entry.split()[0] == video_id]
    assert len(set(values)) >= 3 and values == sorted(values), f"the bar showed {values}: expected three rising values or more"
    tile = card.locator(".tile")
    tile.scroll_into_view_if_needed()
    until("the poster", lambda: tile.locator(".poster").evaluate("image => image.complete && image.naturalWidth > 0"))
    tile.hover()
    moving(tile.locator("video"), "the video under the pointer")
    tile.click()
    film = page.locator("#detail video")
    moving(film, "the video in its dialog")
    assert film.evaluate("film => film.muted && film.loop && film.playsInline"), "not muted, looping and inline"
    visit.shot("detail")
    with page.expect_download() as download:
        page.locator("#detail").get_by_role("button", name="Download").click()
    content = pathlib.Path(download.value.path()).read_bytes()
    assert content[4:8] == b"ftyp", f"the download begins with {content[:12]!r}: not an MP4"
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    return video_id


def moving(video, what):
    expect(video).to_be_attached()
    until(f"{what} has data", lambda: video.evaluate("v => v.readyState >= 2"))
    first = video.evaluate("v => v.currentTime")
    until(f"{what} moves", lambda: video.evaluate("v => v.currentTime") != first)


def cancel_and_reload(visit):
    page = visit.page
    step("a reload in mid-job shows the truth")
    video_id = ask(page, "a lighthouse in a storm", long_steps())
    expect(running_card(page, video_id)).to_be_visible()
    bar = running_card(page, video_id).get_by_role("progressbar")
    until("some progress", lambda: call("GET", f"/v1/videos/{video_id}")["step"] > 0)
    shown = int(bar.get_attribute("aria-valuenow"))
    page.reload(wait_until="domcontentloaded")
    visit.live()
    expect(running_card(page, video_id)).to_be_visible()
    again = int(bar.get_attribute("aria-valuenow"))
    assert again >= shown, f"{again} % after the reload, {shown} % before"

    step("a lost connection is said, and found again")
    visit.offline = True
    visit.context.set_offline(True)
    expect(page.locator("[data-banner=lost]")).to_be_visible()
    visit.context.set_offline(False)
    visit.live()
    expect(page.locator("[data-banner=lost]")).to_have_count(0)
    visit.offline = False

    step("a waiting video is in the queue, and can be cancelled there")
    waiting = ask(page, "a second video has to wait", long_steps())
    row = page.locator(f".queue-row[data-id={waiting}]")
    expect(row).to_be_visible()
    expect(row.locator(".place")).to_have_text(re.compile(r"^\d"))
    page.click("#pause-button")
    expect(page.locator("[data-banner=paused]")).to_be_visible()
    visit.shot("queue")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-banner=paused]")).to_have_count(0)
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)
    assert state(waiting) == "cancelled", state(waiting)

    step("cancel stops a running video")
    running_card(page, video_id).get_by_role("button", name="Cancel").click()
    expect(running_card(page, video_id)).to_have_count(0)
    until("cancelled", lambda: state(video_id) == "cancelled")
    expect(page.locator(f".card[data-id={video_id}][data-state=cancelled]")).to_be_visible()
    return [video_id, waiting]


def again(visit, done, cancelled):
    page = visit.page
    step("copy seed and curl, remix a finished video, retry a cancelled one")
    card = page.locator(f".card[data-id={done}]")
    card.hover()
    card.get_by_role("button", name="Copy seed").click()
    seed = str(call("GET", f"/v1/videos/{done}")["seed"])
    until("the seed in the clipboard", lambda: page.evaluate("navigator.clipboard.readText()") == seed)
    card.get_by_role("button", name="Copy as curl").click()
    text = until("the command in the clipboard", lambda: (copied := page.evaluate("navigator.clipboard.readText()")) != seed and copied)
    assert text.startswith(f"curl '{BASE}/v1/videos'") and seed in text and not (KEY and KEY in text), text
    before = newest_id()
    card.get_by_role("button", name="Remix").click()
    expect(page.locator("#remix-note")).to_be_visible()
    page.fill("#prompt", "the same boat, now at night")
    page.keyboard.press("Control+Enter")
    remix = submitted(before)
    assert call("GET", f"/v1/videos/{remix}")["remixed_from_video_id"] == done
    expect(page.locator("#remix-note")).to_be_hidden()
    card = page.locator(f".card[data-id={cancelled}]")
    card.hover()
    card.get_by_role("button", name="Try again").click()
    retry = submitted(remix)
    assert call("GET", f"/v1/videos/{retry}")["retry_of_video_id"] == cancelled
    for video_id in (retry, remix):
        call("POST", f"/v1/videos/{video_id}/cancel")
        expect(page.locator(f".card[data-id={video_id}]")).to_be_visible()


def delete(visit, ids):
    page = visit.page
    step("delete asks first")
    for video_id in ids:
        card = page.locator(f".card[data-id={video_id}]")
        card.hover()
        card.get_by_role("button", name="Delete").click()
        expect(page.locator("#confirm")).to_be_visible()
        page.click("#confirm-yes")
        expect(card).to_have_count(0)


def keyboard(visit):
    page = visit.page
    step("the keyboard alone: tab to the prompt, Ctrl+Enter, remix, escape")
    page.reload(wait_until="domcontentloaded")
    visit.live()
    before = newest_id()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "prompt":
            break
    assert page.evaluate("document.activeElement.id") == "prompt", "twelve tabs do not reach the prompt"
    page.keyboard.press("Control+Enter")
    expect(page.locator("#prompt-error")).to_be_visible()
    page.keyboard.type("typed without a mouse")
    page.keyboard.press("Control+Enter")
    video_id = submitted(before)
    card = page.locator(f".card[data-id={video_id}]")
    expect(card).to_be_visible()
    card.locator(".tile").focus()
    ring = card.locator(".tile").evaluate("tile => getComputedStyle(tile).outlineStyle")
    assert ring != "none", "the focus is not to be seen"
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    return video_id


def refusal(visit):
    page = visit.page
    step("a refusal stands at its field")
    visit.offline = True  # The browser reports the 400 itself.
    page.fill("#prompt", "too many steps")
    page.fill("#field-num_inference_steps", str(long_steps() + 1))
    page.click("#submit")
    expect(page.locator("#error-num_inference_steps")).to_be_visible()
    expect(page.locator("#field-num_inference_steps[aria-invalid=true]")).to_be_visible()
    visit.offline = False


def themes_and_phone(browser):
    step("dark, light, and a phone of 360 pixels")
    grounds = {}
    for scheme in ("light", "dark"):
        visit = SITE.visit(browser, viewport={"width": 1360, "height": 1000}, color_scheme=scheme)
        page = visit.open()
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        until("the posters in sight", lambda: page.evaluate(POSTERS_DRAWN))
        visit.shot(f"desktop-{scheme}")
        page.click("#theme-button")
        other = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert other != grounds[scheme], "the toggle changes nothing"
        page.reload(wait_until="domcontentloaded")
        kept = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert kept == other, "the chosen theme does not outlive a reload"
        visit.close()
        visit = SITE.visit(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True, device_scale_factor=2)
        page = visit.open()
        page.click("#more summary")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"the page is {width} pixels wide on a phone of 360"
        page.click("#more summary")
        visit.shot(f"phone-{scheme}")
        page.locator("#gallery").scroll_into_view_if_needed()
        visit.shot(f"phone-{scheme}-gallery")
        visit.close()
    assert grounds["light"] != grounds["dark"], f"dark and light are both {grounds['light']}"


def keys(browser):
    step("a wrong key is refused, a remembered one is kept")
    visit = SITE.visit(browser)
    page = visit.page
    visit.offline = True  # The browser reports the 401 itself.
    page.goto(BASE + "/", wait_until="domcontentloaded")
    page.fill("#key-input", "cvx_wrong")
    page.click("#key-save")
    expect(page.locator("#key-error")).to_be_visible()
    visit.shot("key")
    visit.offline = False
    page.fill("#key-input", KEY)
    page.check("#key-remember")
    page.click("#key-save")
    visit.live()
    page.reload(wait_until="domcontentloaded")
    visit.live()
    assert page.evaluate("localStorage.length") == 1 and page.evaluate("sessionStorage.length") == 0
    assert KEY not in page.content(), "the key is in the page's text"
    visit.close()


def main():
    with browsing() as browser:
        visit = SITE.visit(browser, viewport={"width": 1360, "height": 1000}, accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
        visit.open()
        made = [make_and_play(visit)]
        stopped = cancel_and_reload(visit)
        again(visit, made[0], stopped[0])
        delete(visit, stopped)
        made.append(keyboard(visit))
        refusal(visit)
        visit.close()
        themes_and_phone(browser)
        if SITE.needs_key:
            keys(browser)
    step(f"all is well; screenshots in {OUT}")
    return made


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    CAPABILITIES = call("GET", "/v1/capabilities")
    MODEL = CAPABILITIES["models"][0]
    SITE = Site(BASE, KEY, CAPABILITIES["features"]["api_keys"], OUT)
    assert KEY or not SITE.needs_key, "the server needs a key: set COGVIDEOX_API_KEY"
    try:
        main()
    except (AssertionError, Error) as failure:
        sys.exit(f"page: FAILED: {failure}")
