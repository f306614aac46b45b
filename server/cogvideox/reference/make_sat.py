#!/usr/bin/env python3
"""SAT-shaped checkpoints of the goldens' weights: the golden of `tests/it/convert.rs`.

  ORACLE/bin/python make_sat.py GOLDEN OUT        (GOLDEN is tests/golden, OUT is GOLDEN/sat)

For each form OUT/<form>/transformer.pt, as DeepSpeed saves it (a dictionary with `module` and much else), and
OUT/<form>/3d-vae.pt (`state_dict`, with a loss). The inverse of diffusers' scripts/convert_cogvideox_to_diffusers.py:
names as SAT has them, q, k and v in one matrix, both adaptive norms of a block in one.
"""
import glob
import os
import random
import sys
from collections import OrderedDict

import torch
from safetensors.torch import load_file

PREFIX = "model.diffusion_model."
BLOCK = {
    "norm1.norm": "input_layernorm", "norm2.norm": "post_attention_layernorm", "attn1.to_out.0": "attention.dense",
    "ff.net.0.proj": "mlp.dense_h_to_4h", "ff.net.2": "mlp.dense_4h_to_h",
}
OTHERS = {
    "patch_embed.proj": "mixins.patch_embed.proj", "patch_embed.text_proj": "mixins.patch_embed.text_proj",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "ofs_embedding.linear_1": "ofs_embed.0", "ofs_embedding.linear_2": "ofs_embed.2",
    "norm_final": "transformer.final_layernorm", "norm_out.norm": "mixins.final_layer.norm_final",
    "norm_out.linear": "mixins.final_layer.adaLN_modulation.1", "proj_out": "mixins.final_layer.linear",
}


def component(path):
    state = {}
    for file in sorted(glob.glob(f"{path}/*.safetensors")):
        state.update(load_file(file))
    return state


def transformer(state):
    sat, blocks = OrderedDict(), 1 + max(int(k.split(".")[1]) for k in state if k.startswith("transformer_blocks."))
    for end in ("weight", "bias"):
        for name, other in OTHERS.items():
            if f"{name}.{end}" in state:
                sat[f"{PREFIX}{other}.{end}"] = state[f"{name}.{end}"]
        for i in range(blocks):
            block, layer = f"transformer_blocks.{i}", f"{PREFIX}transformer.layers.{i}"
            for name, other in BLOCK.items():
                sat[f"{layer}.{other}.{end}"] = state[f"{block}.{name}.{end}"]
            qkv = [state[f"{block}.attn1.to_{x}.{end}"] for x in "qkv"]
            sat[f"{layer}.attention.query_key_value.{end}"] = torch.cat(qkv)
            ada = f"{PREFIX}mixins.adaln_layer"
            for x, name in (("q", "query"), ("k", "key")):
                sat[f"{ada}.{name}_layernorm_list.{i}.{end}"] = state[f"{block}.attn1.norm_{x}.{end}"]
            one, two = (state[f"{block}.norm{n}.linear.{end}"].chunk(6) for n in (1, 2))
            sat[f"{ada}.adaLN_modulations.{i}.1.{end}"] = torch.cat(one[:3] + two[:3] + one[3:] + two[3:])
    table = state.get("patch_embed.pos_embedding", torch.zeros(1, 2, 3))
    sat[f"{PREFIX}mixins.pos_embed.pos_embedding"] = table
    sat[f"{PREFIX}mixins.pos_embed.freqs_sin"] = torch.zeros(2, 2)
    # A transposed view: its elements do not lie in their order.
    name = f"{PREFIX}mixins.final_layer.linear.weight"
    sat[name] = sat[name].t().contiguous().t()
    return {"module": sat, "iteration": 1, "optimizer": None, "global_steps": 2 ** 40, "sparse": set(),
            "random_rng_state": random.Random(1).getstate(), "lr": 1e-4, "names": ["a", {"b": True}],
            "rng": torch.zeros(4, dtype=torch.uint8), "args": {"bf16": False, "model": "cogvideox"}}


def vae(state, levels=4):
    sat = OrderedDict()
    for key, tensor in state.items():
        side, rest = key.split(".", 1)
        head, tail = rest.split(".", 1)
        tail = tail.replace("conv_shortcut", "nin_shortcut")
        if head == "mid_block":
            _, index, tail = tail.split(".", 2)
            rest = f"mid.block_{int(index) + 1}.{tail}"
        elif head in ("down_blocks", "up_blocks"):
            level, kind, index, tail = tail.split(".", 3)
            level = int(level) if head == "down_blocks" else levels - 1 - int(level)
            kind = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
            rest = f"{head.split('_')[0]}.{level}.{kind}.{tail}"
        else:
            rest = f"{head}.{tail}"
        sat[f"{side}.{rest}"] = tensor
    sat["loss.logvar"] = torch.zeros(())
    return {"state_dict": sat}


def main():
    source, out = sys.argv[1:]
    for form in ("2b", "5b", "5b-i2v", "1.5-5b-i2v"):
        os.makedirs(f"{out}/{form}", exist_ok=True)
        torch.save(transformer(component(f"{source}/{form}/transformer")), f"{out}/{form}/transformer.pt")
    # One decoder's names are as good as another's.
    torch.save(vae(component(f"{source}/5b/vae")), f"{out}/5b/3d-vae.pt")
    torch.save(vae(component(f"{source}/2b/vae")), f"{out}/2b/3d-vae.pt")


if __name__ == "__main__":
    main()
