#!/usr/bin/env python3
"""Two LoRA adapters and what diffusers computes with both at once: the golden of `tests/it/lora.rs`.

  ORACLE/bin/pip install --no-deps peft==0.18.0
  ORACLE/bin/python make_lora.py GOLDEN OUT        (GOLDEN is tests/golden, OUT is GOLDEN/lora)

For 2b and 5b, OUT/<form>/motion.safetensors (rank 2, all six kinds of layers, alpha 1 in the file's metadata),
style.safetensors (rank 3, attention only, no alpha stated) and golden.safetensors: the transformer's output for
`latents.init`, `text.plain.embeds` at timestep 499 after set_adapters and after fuse_lora, with SCALES.
"""
import os
import sys

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

SCALES = {"motion": 0.8, "style": -0.5}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def write_adapter(directory, form, name, config, seed):
    """Saves an adapter as diffusers' own trainers do."""
    model = CogVideoXTransformer3DModel.from_pretrained(f"{form}/transformer")
    model.add_adapter(config, adapter_name="default")
    g = torch.Generator().manual_seed(seed)
    layers = {k: 0.3 * torch.randn(v.shape, generator=g)
              for k, v in sorted(get_peft_model_state_dict(model, adapter_name="default").items())}
    # Only files of later versions carry the configuration, and with it alpha.
    metadata = {"transformer": model.peft_config["default"].to_dict()} if name == "motion" else {}
    CogVideoXPipeline._save_lora_weights(
        save_directory=directory, lora_layers={"transformer": layers}, lora_metadata=metadata, is_main_process=True,
        weight_name=f"{name}.safetensors", save_function=None, safe_serialization=True)


def load(form, out):
    model = CogVideoXTransformer3DModel.from_pretrained(f"{form}/transformer").eval()
    for name in SCALES:
        state, metadata = CogVideoXPipeline.lora_state_dict(out, weight_name=f"{name}.safetensors",
                                                            return_lora_metadata=True)
        CogVideoXPipeline.load_lora_into_transformer(state, model, adapter_name=name, metadata=metadata)
    model.set_adapters(list(SCALES), list(SCALES.values()))
    return model


@torch.no_grad()
def forward(model, golden):
    rope = (golden["rope.cos"], golden["rope.sin"]) if "rope.cos" in golden else None
    return model(hidden_states=golden["latents.init"], encoder_hidden_states=golden["text.plain.embeds"],
                 timestep=torch.tensor([499]), image_rotary_emb=rope, return_dict=False)[0].contiguous()


def main():
    source, out = sys.argv[1:]
    for form in ("2b", "5b"):
        directory = f"{out}/{form}"
        os.makedirs(directory, exist_ok=True)
        path = f"{source}/{form}"
        motion = LoraConfig(r=2, lora_alpha=1, target_modules=ATTENTION + ["ff.net.0.proj", "ff.net.2"])
        write_adapter(directory, path, "motion", motion, 1)
        write_adapter(directory, path, "style", LoraConfig(r=3, lora_alpha=3, target_modules=ATTENTION), 2)
        golden = load_file(f"{path}/golden.safetensors")
        model = load(path, directory)
        tensors = {"set_adapters": forward(model, golden)}
        model.fuse_lora(adapter_names=list(SCALES))
        model.unload_lora()
        tensors["fuse_lora"] = forward(model, golden)
        plain = (golden["tr.cond.t499"] - tensors["fuse_lora"]).abs().max().item()
        between = (tensors["set_adapters"] - tensors["fuse_lora"]).abs().max().item()
        print(f"{form}: the adapters change the output by {plain:.3g}, the two ways differ by {between:.3g}")
        save_file(tensors, f"{directory}/golden.safetensors")


if __name__ == "__main__":
    main()
