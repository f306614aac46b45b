"""Looks at finished files, as players and other programs see them. Needs ffprobe."""
import json
import subprocess

MAGIC = {"video": lambda content: content[4:8] == b"ftyp",
         "thumbnail": lambda content: content[:4] == b"RIFF" and content[8:12] == b"WEBP",
         "spritesheet": lambda content: content[:3] == b"\xff\xd8\xff"}
CONTENT_TYPE = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


def check_magic(variant, content):
    assert MAGIC[variant](content), f"{variant}: expected {CONTENT_TYPE[variant]}, found {content[:16]!r}"


def probe(path):
    """What ffprobe says of the file: {"streams": [..], "format": {..}}; it must have nothing to complain of."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    assert not result.stderr, f"{path}: expected no complaint of ffprobe, found {result.stderr}"
    return json.loads(result.stdout)


def picture_size(content, folder):
    """(width, height) of a picture."""
    path = folder / "picture"
    path.write_bytes(content)
    stream = probe(path)["streams"][0]
    return stream["width"], stream["height"]


def check_mp4(content, video, folder):
    """A file that plays everywhere, begins before it is loaded, and is as the video object says."""
    path = folder / "video.mp4"
    path.write_bytes(content)
    stream = probe(path)["streams"][0]
    expected = {"codec_name": "h264", "profile": "High", "pix_fmt": "yuv420p", "color_range": "tv", "color_space": "bt709",
                "width": video["width"], "height": video["height"], "r_frame_rate": f"{video['fps']}/1",
                "nb_read_frames": str(video["num_frames"])}
    found = {key: stream.get(key) for key in expected}
    assert found == expected, f"expected {expected}, found {found}"
    assert content.index(b"moov") < content.index(b"mdat"), "expected moov before mdat, found it behind"
