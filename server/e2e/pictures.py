"""Videos that start from a picture: sent by a form as the OpenAI client does, stored, and used after whatever happens.

The yardstick is `generate --image`, which is held against diffusers (`parity`).
"""
import base64
import pathlib
import shutil
import uuid

import goldens
from server import Server, equal, step, until

FOLDER = pathlib.Path(goldens.FOLDER)
SMALL = {"num_inference_steps": 2, "seed": 7}


def walk(binary, folder):
    model, text_model = folder / "small-i2v", folder / "small-2b"
    shutil.copytree(FOLDER / "5b-i2v", model)
    shutil.copytree(FOLDER / "2b", text_model)
    picture = goldens.write_png(folder, *goldens.read_tensor(model / "golden.safetensors", "image.u8"))
    config = {"worker.checkpoint_interval_seconds": 0}
    arguments = ("--model", str(model), "--model", str(text_model))
    with Server(binary, folder / "server", config, arguments) as server:
        told(server)
        done = as_generate(server, binary, folder, model, picture)
        refused(server, picture)
        killed(server, picture)
        kept(server, folder, done)
        server.stop()


def send(server, picture, name="first.png", **fields):
    """The form that httpx, under the openai client, makes of a file and fields; its answer."""
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
             for key, value in {"prompt": "a panda", **fields}.items()]
    head = (f'--{boundary}\r\nContent-Disposition: form-data; name="input_reference"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n")
    body = b"".join([*parts, head.encode(), picture, f"\r\n--{boundary}--\r\n".encode()])
    return server.post("/v1/videos", body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}, expect=None)


def created(answer):
    equal(f"status ({answer.body})", answer.status, 200)
    return answer.body


def pictures(server):
    return list((server.data_dir / "videos").glob("*.image"))


def told(server):
    step("the models say whether they take a picture")
    models = {model["id"]: model["supports_image"] for model in server.get("/v1/capabilities").body["models"]}
    equal("supports_image", models, {"small-i2v": True, "small-2b": False})


def as_generate(server, binary, folder, model, picture):
    step("by form, by JSON and with an orientation: each as `generate --image` makes it")
    formats = FOLDER / "images"
    for path in (picture, *(formats / name for name in ("lossy.jpg", "lossy.webp", "orientation6.jpg", "alpha.png"))):
        content = path.read_bytes()
        video = server.completed(created(send(server, content, name="nothing.txt", **SMALL))["id"])
        output = folder / "generated.mp4"
        server.run("generate", "--model", model, "--prompt", "a panda", "--image", path, "--seed", 7,
                   "--num-inference-steps", 2, "-o", output)
        assert output.read_bytes() == server.content(video["id"]), f"{path.name}: expected the file that `generate` makes"
    content = picture.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    by_json = server.post("/v1/videos", {"prompt": "a panda", "input_reference": {"image_url": url}, **SMALL}).body
    by_form = created(send(server, content, **SMALL))
    done = [server.completed(video["id"]) for video in (by_json, by_form)]
    equal("sha256", done[0]["sha256"], done[1]["sha256"])
    return done[1]


def refused(server, picture):
    step("no picture, a picture for the text model, what is none, and one that is too large to unpack")
    before = len(pictures(server))
    server.refused("POST", "/v1/videos", {"prompt": "a"}, status=400, code="missing_required_parameter", param="input_reference")
    text_model = send(server, picture.read_bytes(), model="small-2b")
    equal("refusal", (text_model.status, text_model.body["error"]["code"], text_model.body["error"]["param"]),
          (400, "unsupported_input_reference", "input_reference"))
    half = picture.read_bytes()[:-40]
    bomb = goldens.write_png(server.folder, (20000, 20000, 3), b"\0" * 60000 * 10).read_bytes()
    for content in (b"GIF89a", half, bomb, b""):
        answer = send(server, content)
        equal(f"refusal of {content[:8]}", (answer.status, answer.body["error"]["code"]), (400, "invalid_image"))
    for url in ("https://example.org/a.png", "file:///etc/passwd"):
        server.refused("POST", "/v1/videos", {"prompt": "a", "input_reference": {"image_url": url}}, status=400,
                       code="unsupported_input_reference", param="input_reference")
    equal("pictures stored", len(pictures(server)), before)


def killed(server, picture):
    step("kill -9 in mid-job: goes on with the same picture, same bytes; a picture without a video is swept")
    request = {**SMALL, "num_inference_steps": 100}
    undisturbed = server.completed(created(send(server, picture.read_bytes(), **request))["id"])
    video = created(send(server, picture.read_bytes(), **request))
    until("a checkpoint", lambda: (server.video(video["id"])["checkpoint_step"] or 0) >= 3)
    server.kill()
    orphan = server.data_dir / "videos" / "input_0.image"
    orphan.write_bytes(picture.read_bytes())
    server.start()
    assert not orphan.exists(), "expected a picture without a video to be swept"
    done = server.completed(video["id"])
    equal("attempt and sha256", (done["attempt"], done["sha256"]), (2, undisturbed["sha256"]))


def kept(server, folder, done):
    step("another try and a remix have the picture, also when the first is gone; a backup has it; the last takes it along")
    retry = server.post(f"/v1/videos/{done['id']}/retry").body
    remix = server.post(f"/v1/videos/{done['id']}/remix", {"prompt": "a dog"}).body
    server.call("DELETE", f"/v1/videos/{done['id']}")
    equal("sha256 of another try", server.completed(retry["id"])["sha256"], done["sha256"])
    equal("picture of the remix", server.completed(remix["id"])["input_reference"], done["input_reference"])
    server.run("backup", folder / "backup")
    equal("pictures in the backup", len(list((folder / "backup/videos").glob("*.image"))), len(pictures(server)))
    while videos := server.get("/v1/videos?limit=100").body["data"]:
        for video in videos:
            server.call("DELETE", f"/v1/videos/{video['id']}")
    equal("pictures stored", pictures(server), [])
