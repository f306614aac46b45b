#!/usr/bin/env python3
"""Small image files and what Pillow makes of them: the goldens of `tests/it/image.rs`.

  ORACLE/bin/python make_images.py OUT_DIR

Files of every kind that `load_image` meets (orientation, alpha, palette, grey, 16 bit, lossy), and
images.safetensors: `<file>` the RGB samples (H,W,3) that diffusers' `load_image` gives, and
`resize.<width>x<height>` the 30x20 file `plain.png` resized by Lanczos, first its rows and then its columns: the order
of every Pillow up to 12 (13 turns it round where that is cheaper, and differs by a level here and there).
"""
import io
import pathlib
import struct
import sys
import zlib

import numpy as np
import torch
from diffusers.utils import load_image
from PIL import Image
from safetensors.torch import save_file


def picture(h, w):
    yy, xx = np.mgrid[0:h, 0:w]
    return np.stack([127 + 127 * np.sin(yy / 3 + c) * np.cos(xx / 4 - c) for c in range(3)], -1).clip(0, 255).astype(np.uint8)


def png16(array):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    h, w, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture(20, 30))
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray(picture(20, 30)[..., 0]))
    image.save(out / "plain.png")
    alpha.save(out / "alpha.png")
    image.quantize(16).save(out / "palette.png")
    image.convert("L").save(out / "grey.png")
    (out / "deep.png").write_bytes(png16(picture(20, 30).astype(np.uint16) * 256 + 77))
    image.save(out / "lossless.webp", lossless=True)
    image.save(out / "lossy.webp", quality=90)
    image.save(out / "lossy.jpg", quality=95, subsampling=0)
    for orientation in (2, 3, 4, 5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(out / f"orientation{orientation}.png", exif=exif)
    exif[0x0112] = 6
    image.save(out / "orientation6.jpg", quality=95, subsampling=0, exif=exif)
    image.save(out / "orientation6.webp", lossless=True, exif=exif)
    tensors = {p.name: torch.from_numpy(np.array(load_image(str(p)))) for p in sorted(out.iterdir()) if p.suffix != ".safetensors"}
    lanczos = Image.Resampling.LANCZOS
    for w, h in ((30, 20), (48, 64), (7, 5), (30, 7), (8, 20), (1, 1), (301, 3)):
        tensors[f"resize.{w}x{h}"] = torch.from_numpy(np.array(image.resize((w, 20), lanczos).resize((w, h), lanczos)))
    save_file(tensors, out / "images.safetensors")


if __name__ == "__main__":
    main()
