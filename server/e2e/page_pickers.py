#!/usr/bin/env python3
"""The page's controls that not every model has, in a real browser: the picture a video starts from, and adapters.

Starts a server of its own with two small models, one of which takes a picture and the other adapters.
usage: page_pickers.py BINARY OUT_DIR   (see page.py for what it needs)
"""
import pathlib
import shutil
import sys
import tempfile

from playwright.sync_api import Error, expect

import goldens
from page_visit import Site, browsing, step, until
from server import Server, equal

FOLDER = pathlib.Path(goldens.FOLDER)
STEPS = 2


def submitted(server, page):
    """The video that the form makes, when it is done."""
    before = {video["id"] for video in server.get("/v1/videos").body["data"]}
    page.fill("#field-num_inference_steps", str(STEPS))
    page.click("#submit")
    video_id, = until("a new video", lambda: {video["id"] for video in server.get("/v1/videos").body["data"]} - before)
    expect(page.locator(f".card[data-id={video_id}][data-state=completed]")).to_be_attached()
    return server.get(f"/v1/videos/{video_id}").body


def picture(server, visit, folder):
    page = visit.page
    preview, error = page.locator(".picture-preview"), page.locator("#error-input_reference")
    step("a video without its picture is refused at that field")
    expect(preview).to_be_hidden()
    page.fill("#prompt", "a panda")
    visit.offline = True  # The browser reports the 400 itself.
    page.click("#submit")
    expect(error).to_be_visible()
    visit.offline = False

    step("a picture that is too large is refused before it is sent, another is shown")
    large = folder / "large.png"
    large.write_bytes(bytes(server.get("/v1/capabilities").body["limits"]["max_image_bytes"] + 1))
    small = goldens.write_png(folder, *goldens.read_tensor(FOLDER / "5b-i2v/golden.safetensors", "image.u8"))
    page.set_input_files("#field-input_reference input", large)
    expect(error).to_contain_text("the server takes 16")
    expect(preview).to_be_hidden()
    page.set_input_files("#field-input_reference input", small)
    expect(error).to_be_hidden()
    until("the preview", lambda: preview.evaluate("image => image.complete && image.naturalWidth > 0"))
    visit.shot("picture")

    step("and a video starts from it")
    video = submitted(server, page)
    equal("model", video["model"], "small-i2v")
    equal("stored pictures", len(list((server.data_dir / "videos").glob("*.image"))), 1)


def adapters(server, visit):
    page = visit.page
    step("another model has other fields: adapters and no picture")
    page.select_option("#field-model", "small-2b")
    expect(page.locator("#field-input_reference")).to_have_count(0)
    page.click("#more summary")
    motion, style = (page.locator(".adapter", has_text=name) for name in ("motion", "style"))
    strength = motion.locator("input[type=number]")
    expect(strength).to_be_disabled()
    motion.locator("input[type=checkbox]").check()
    strength.fill("0.5")
    expect(style.locator("input[type=number]")).to_be_disabled()
    page.fill("#prompt", "a panda")
    visit.shot("adapters")
    chosen = [{"name": "motion", "scale": 0.5}]
    video = submitted(server, page)
    equal("adapters", [{"name": one["name"], "scale": one["scale"]} for one in video["lora"]], chosen)

    step("the settings of a finished video are those that it was made with")
    motion.locator("input[type=checkbox]").uncheck()
    page.locator(f".card[data-id={video['id']}] .tile").click()
    page.locator("#detail").get_by_role("button", name="Use settings").click()
    expect(page.locator("#detail")).to_be_hidden()
    expect(motion.locator("input[type=checkbox]")).to_be_checked()
    expect(strength).to_have_value("0.5")
    expect(style.locator("input[type=checkbox]")).not_to_be_checked()


def main(binary, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="e2e-page-") as name:
        folder = pathlib.Path(name)
        models = {"small-i2v": "5b-i2v", "small-2b": "2b"}
        for model, form in models.items():
            shutil.copytree(FOLDER / form, folder / model)
        lora_dir = shutil.copytree(FOLDER / "lora/2b", folder / "adapters", ignore=shutil.ignore_patterns("golden*"))
        arguments = [part for model in models for part in ("--model", str(folder / model))]
        with Server(pathlib.Path(binary).resolve(), folder / "server", {"model.lora_dir": lora_dir}, arguments) as server:
            with browsing() as browser:
                visit = Site(server.base, "", False, out).visit(browser, viewport={"width": 1360, "height": 1000})
                visit.open()
                picture(server, visit, folder)
                adapters(server, visit)
                visit.close()
            server.stop()
    step(f"all is well; screenshots in {out}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, Error) as failure:
        sys.exit(f"page: FAILED: {failure}")
