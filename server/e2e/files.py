"""The finished files: their variants, what they say of themselves, that they can be made again, and how long they stay."""
import hashlib
import json

import media
from server import Server, equal, step, until

PROMPT = "a <panda> & a \"guitar\"\nin the snow"
MARK = b"trainedAlgorithmicMedia"


def walk(binary, folder):
    with Server(binary, folder / "kept") as server:
        video = server.completed(server.create(prompt=PROMPT, num_inference_steps=2, seed=3)["id"])
        check_variants(server, video, folder)
        check_metadata(server, video, folder)
        make_again(server, video)
    without_metadata(binary, folder)
    make_room(binary, folder / "room")


def check_variants(server, video, folder):
    step("video, thumbnail and spritesheet")
    path = f"/v1/videos/{video['id']}/content"
    for variant in media.MAGIC:
        answer = server.get(f"{path}?variant={variant}")
        media.check_magic(variant, answer.body)
        equal("content-type", answer.headers["content-type"], media.CONTENT_TYPE[variant])
        equal(f"etag of the {variant}", answer.headers["etag"], f'"{hashlib.sha256(answer.body).hexdigest()}"')
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith("attachment"), f"expected an attachment, found {disposition}"
        disposition = server.get(f"{path}?variant={variant}&download=0").headers["content-disposition"]
        assert disposition.startswith("inline"), f"expected inline, found {disposition}"
    equal("sha256", hashlib.sha256(server.content(video["id"])).hexdigest(), video["sha256"])
    width, height = media.picture_size(server.content(video["id"], "thumbnail"), folder)
    assert abs(width / height - video["width"] / video["height"]) < 0.05, f"expected the video's shape, found {width}x{height}"
    width, height = media.picture_size(server.content(video["id"], "spritesheet"), folder)
    assert width > 0 and height > 0, f"expected a picture, found {width}x{height}"
    equal("thumbnail by its url", server.get(video["urls"]["thumbnail"]).body, server.content(video["id"], "thumbnail"))
    equal("spritesheet by its url", server.get(video["urls"]["spritesheet"]).body, server.content(video["id"], "spritesheet"))
    server.refused("GET", f"{path}?variant=poster", status=400, code="unknown_variant", param="variant")


def check_metadata(server, video, folder):
    step("what the file says of itself")
    content = server.content(video["id"])
    path = folder / "tagged.mp4"
    path.write_bytes(content)
    tags = media.probe(path)["format"]["tags"]
    equal("title", tags["title"], PROMPT)
    made_by = json.loads(tags["comment"])
    assert made_by["seed"] == 3 and made_by["num_inference_steps"] == 2, f"expected seed 3 and 2 steps, found {made_by}"
    assert "cogvideox-server" in tags["encoder"], f"expected the program's name, found {tags['encoder']}"
    assert MARK in content, f"expected {MARK} in the file, found nothing"


def make_again(server, video):
    step("once more: the same bytes")
    again = server.post(f"/v1/videos/{video['id']}/retry").body
    equal("retry_of_video_id", again["retry_of_video_id"], video["id"])
    assert again["id"] != video["id"], again
    again = server.completed(again["id"])
    equal("seed and prompt", (again["seed"], again["prompt"]), (video["seed"], video["prompt"]))
    equal("sha256 of the retry", again["sha256"], video["sha256"])


def without_metadata(binary, folder):
    step("files that say nothing, where the operator wants it so")
    with Server(binary, folder / "plain", {"video.metadata": False}) as server:
        video = server.completed(server.create(prompt=PROMPT, num_inference_steps=2, seed=3)["id"])
        content = server.content(video["id"])
    path = folder / "plain.mp4"
    path.write_bytes(content)
    tags = media.probe(path)["format"].get("tags", {})
    equal("title and comment", [tags.get("title"), tags.get("comment")], [None, None])
    assert MARK not in content and b"panda" not in content, "expected no word of its making in the file, found some"


def make_room(binary, folder):
    step("the oldest files go for the newer ones")
    with Server(binary, folder, {"video.quality": "high"}) as server:
        videos = []
        while sum(video["bytes"] for video in videos) < 3 << 20:
            # Noise at high quality: a megabyte or so each.
            videos.append(server.completed(server.create(num_inference_steps=1, seed=len(videos))["id"]))
        server.stop()
        server.configure({"retention.max_total_mib": 2})
        server.start()
        oldest, newest = videos[0]["id"], videos[-1]["id"]
        expired = until("the oldest's expiry", lambda: (video := server.video(oldest))["state"] == "expired" and video)
        equal("status", expired["status"], "completed")
        assert expired["expires_at"], f"expected the time of expiry, found {expired['expires_at']}"
        for variant in media.MAGIC:
            server.refused("GET", f"/v1/videos/{oldest}/content?variant={variant}", status=410, code="video_expired")
            media.check_magic(variant, server.content(newest, variant))
        equal("the newest's state", server.video(newest)["state"], "completed")
        # The row goes first, the files after it.
        until("the removal of its files", lambda: not list(server.data_dir.rglob(f"*{oldest}*")))
        until("at most 2 MiB of files", lambda: files_bytes(server.data_dir / "videos") <= 2 << 20)
        again = server.completed(server.post(f"/v1/videos/{oldest}/retry").body["id"])
        equal("sha256 of the expired one, made again", again["sha256"], videos[0]["sha256"])


def files_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
