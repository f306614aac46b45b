#!/usr/bin/env python3
"""Makes the README's moving picture: the page in a real browser, from a prompt to the playing video.

Needs a running server without keys, `pip install playwright pillow`, and Chromium (CHROMIUM, or /usr/bin/chromium).
usage: moving_picture.py BASE_URL FILE.webp
"""
import io
import os
import sys
import time

from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PROMPT = "a panda plays the guitar by a quiet stream"
SIZE = {"width": 1000, "height": 640}
STEPS = 8
FRAME_MS = 120
# What stands still for longer is shortened: nobody watches a machine compute.
MOST_MS = 700
# How long the last part, the video as it plays, is shown.
PLAY_S = 4


class Film:
    """Pictures of a page, each shown for as long as it stood."""

    def __init__(self, page):
        self.page, self.pictures, self.times_ms = page, [], []
        self.last = time.monotonic()

    def take(self):
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        picture = picture.resize((SIZE["width"] * 3 // 4, SIZE["height"] * 3 // 4), Image.Resampling.LANCZOS)
        now = time.monotonic()
        elapsed_ms, self.last = int((now - self.last) * 1000), now
        if self.pictures:
            self.times_ms[-1] = min(self.times_ms[-1] + elapsed_ms, MOST_MS)
        if not self.pictures or picture.tobytes() != self.pictures[-1].tobytes():
            self.pictures.append(picture)
            self.times_ms.append(FRAME_MS)

    def save(self, path):
        first, *others = self.pictures
        first.save(path, save_all=True, append_images=others, duration=self.times_ms, loop=0, quality=55, method=6)


def act(page, film):
    """What is to be seen."""
    page.click("#prompt")
    for at in range(0, len(PROMPT), 3):
        page.keyboard.type(PROMPT[at:at + 3])
        film.take()
    page.fill("#field-num_inference_steps", str(STEPS))
    page.click("#submit")
    done = page.locator(".card[data-state=completed]").first
    deadline = time.monotonic() + 300
    while not done.count():
        assert time.monotonic() < deadline, "no video within five minutes"
        film.take()
    done.locator(".tile").click()
    expect(page.locator("#detail video")).to_be_attached()
    end = time.monotonic() + PLAY_S
    while time.monotonic() < end:
        film.take()


def main(base, path):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="dark")
        page.goto(base, wait_until="domcontentloaded")
        expect(page.locator("#connection[data-state=live]")).to_be_visible()
        film = Film(page)
        act(page, film)
        browser.close()
    film.save(path)
    print(f"{path}: {len(film.pictures)} pictures, {os.path.getsize(path) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
