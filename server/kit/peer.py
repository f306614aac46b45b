"""diffusers' own pipeline on this GPU with random weights, timed: one JSON line for each thing measured, as it comes.

Part of the measuring kit: `run.py` starts it, with diffusers' wheel on the path. The same shapes and dtypes as the
program's own `bench`, and weights from N(0, 0.02), since the speed of a GPU depends a little on what it multiplies.
What is tried first is what most people run; a later line that never comes costs the earlier ones nothing.

    peer.py PRESET STEPS        # 2b, 5b, or the tiny one, which also runs on a CPU, to try this script itself
"""
import dataclasses
import json
import statistics
import sys
import time
import traceback

import torch
import torch._inductor.config
from diffusers import (AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXPipeline,
                       CogVideoXTransformer3DModel)
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import T5Config, T5EncoderModel

TOKENS = 226
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@dataclasses.dataclass
class Preset:
    """A published form: its configuration where it differs from diffusers' defaults, and its usual video."""
    dtype: torch.dtype
    transformer: dict
    vae: dict
    text_encoder: dict
    scheduler: object
    dynamic: bool
    height: int = 480
    width: int = 720
    frames: int = 49


VAE_5B = {"scaling_factor": 0.7, "latent_channels": 16,
          "block_out_channels": (128, 256, 256, 512), "layers_per_block": 3,
          "down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
          "feed_forward_proj": "gated-gelu"}
PRESETS = {
    "2b": Preset(torch.float16, {"num_attention_heads": 30, "num_layers": 30}, VAE_5B | {"scaling_factor": 1.15258426}, T5_XXL,
                 CogVideoXDDIMScheduler(**SCHEDULE, snr_shift_scale=3.0), dynamic=False),
    "5b": Preset(torch.bfloat16, {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
                 VAE_5B, T5_XXL, CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0), dynamic=True),
    "tiny": Preset(torch.float32, {"num_attention_heads": 2, "num_layers": 2, "text_embed_dim": 64, "use_rotary_positional_embeddings": True},
                   VAE_5B | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
                   {"d_model": 64, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 128},
                   CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0), dynamic=True, height=64, width=96, frames=9),
}


def random_weights(model, dtype):
    """Matrices and biases from N(0, 0.02); norms' scales stay 1."""
    for parameter in model.to(dtype).parameters():
        if parameter.dim() > 1 or not torch.all(parameter == 1):
            parameter.normal_(0, 0.02)
    return model.eval()


class Peer:
    """The models of a preset on one device, and how long they take."""

    def __init__(self, name, steps):
        self.preset, self.steps = PRESETS[name], steps
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        with self.device:
            self.transformer = random_weights(CogVideoXTransformer3DModel(**self.preset.transformer), self.preset.dtype)
            self.vae = random_weights(AutoencoderKLCogVideoX(**self.preset.vae), self.preset.dtype)
        self.pipeline = CogVideoXPipeline(None, None, self.vae, self.transformer, self.preset.scheduler)
        self.pipeline.set_progress_bar_config(disable=True)

    def synchronized(self):
        """Seconds on a clock that has waited for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=self.preset.dtype)

    def denoise(self):
        """The median time of a step with guidance, in the pipeline's own loop; its first step is not counted."""
        ends = []

        def end(_pipeline, _step, _timestep, tensors):
            ends.append(self.synchronized())
            return tensors
        embeds = [self.random(1, TOKENS, self.transformer.config.text_embed_dim) for _ in range(2)]
        preset = self.preset
        latents = self.pipeline(
            prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], height=preset.height, width=preset.width,
            num_frames=preset.frames, num_inference_steps=self.steps + 1, guidance_scale=6.0,
            use_dynamic_cfg=preset.dynamic, output_type="latent", callback_on_step_end=end).frames
        # Arithmetic on nothing but NaN takes less power, and less time.
        assert torch.isfinite(latents).all(), "the latents are not finite"
        return statistics.median(b - a for a, b in zip(ends, ends[1:]))

    def decode(self):
        """From latents to frames, without tiles; the second of two."""
        latents = self.random(1, (self.preset.frames - 1) // 4 + 1, 16, self.preset.height // 8, self.preset.width // 8)
        for _ in range(2):
            begin = self.synchronized()
            self.pipeline.decode_latents(latents)
            seconds = self.synchronized() - begin
        return seconds

    def encode(self):
        """Prompt and negative prompt; the median of five after two."""
        with self.device:
            encoder = random_weights(T5EncoderModel(T5Config(**self.preset.text_encoder)), self.preset.dtype)
        ids = torch.randint(0, self.preset.text_encoder["vocab_size"], (2, TOKENS), device=self.device)
        seconds = []
        for _ in range(7):
            begin = self.synchronized()
            encoder(ids)
            seconds.append(self.synchronized() - begin)
        return statistics.median(seconds[2:])

    def compile(self):
        """Block by block: the blocks share their code, so one of them is compiled, not forty-two."""
        # Which attention is used is settled while compiling, and is no part of what a compiled graph is found by.
        torch._inductor.config.force_disable_caches = True
        torch._dynamo.reset()
        for block in self.transformer.transformer_blocks:
            block.compile()


def cudnn(measure):
    """With cuDNN's attention instead of the one that PyTorch chooses."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return measure()


@torch.no_grad()
def main(name, steps):
    peer = Peer(name, int(steps))
    measures = [
        ("seconds_per_step", "eager", peer.denoise),
        ("seconds_per_step", "eager, cuDNN", lambda: cudnn(peer.denoise)),
        ("vae_decode_seconds", "eager", peer.decode),
        ("seconds_per_step", "compiled", lambda: peer.compile() or peer.denoise()),
        ("seconds_per_step", "compiled, cuDNN", lambda: peer.compile() or cudnn(peer.denoise)),
        ("text_encode_seconds", "eager", peer.encode),
    ]
    for field, variant, measure in measures:
        line = {"field": field, "variant": variant}
        if peer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            line["value"] = measure()
        except Exception as error:  # the next one may still work
            traceback.print_exc()
            line["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        if peer.device.type == "cuda":
            line["peak_bytes"] = torch.cuda.max_memory_allocated()
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
