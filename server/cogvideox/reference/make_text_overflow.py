#!/usr/bin/env python3
"""What transformers' T5 does when f16 overflows: a golden of `tests/it/text_encoder.rs`.

  ORACLE/bin/python make_text_overflow.py GOLDEN_DIR

The 2b form's text encoder in f16 with the output projection of the first attention multiplied by 2^16, on the ids of
the plain prompt: the residual stream reaches infinity and is clamped.
"""
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel


def main():
    golden = pathlib.Path(sys.argv[1])
    model = T5EncoderModel.from_pretrained(golden / "2b/text_encoder", dtype=torch.float16)
    attention = model.encoder.block[0].layer[0]
    with torch.no_grad():
        attention.SelfAttention.o.weight.mul_(2.0 ** 16)
        seen = []
        attention.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        ids = load_file(golden / "2b/golden.safetensors")["text.plain.ids"]
        embeds = model(ids[None])[0]
    assert torch.isinf(seen[0]).any() and torch.isfinite(embeds).all()
    save_file({"embeds": embeds}, golden / "text_overflow.safetensors")


if __name__ == "__main__":
    main()
