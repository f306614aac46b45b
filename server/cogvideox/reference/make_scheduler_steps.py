#!/usr/bin/env python3
"""Whole runs of diffusers' two schedulers on given model outputs: the golden of `tests/it/scheduler.rs`.

  ORACLE/bin/python make_scheduler_steps.py OUT.safetensors

`latents` and `noise_pred.<i>` are shared by all runs; `<class>.<dtype>.<prediction type>.n<steps>.<i>` are the latents
after step i, cast back to the dtype as the pipeline does. DPM draws from a generator seeded with 5.
"""
import sys

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from safetensors.torch import save_file

SHAPE = (1, 2, 3, 4, 4)
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def run(cls, dtype, prediction_type, n, tensors):
    # Epsilon cannot be turned into clean latents where no signal is left, hence without zero terminal SNR.
    scheduler = cls(clip_sample=False, prediction_type=prediction_type, timestep_spacing="trailing",
                    rescale_betas_zero_snr=prediction_type != "epsilon", snr_shift_scale=1.0)
    scheduler.set_timesteps(n)
    timesteps = scheduler.timesteps
    generator, old = torch.Generator().manual_seed(5), None
    latents = tensors["latents"].to(dtype)
    for i, t in enumerate(timesteps):
        noise_pred = tensors[f"noise_pred.{i}"]
        if cls is CogVideoXDDIMScheduler:
            latents = scheduler.step(noise_pred, t, latents, generator=generator, return_dict=False)[0]
        else:
            latents, old = scheduler.step(noise_pred, old, t, timesteps[i - 1] if i else None, latents,
                                          generator=generator, return_dict=False)
        latents = latents.to(dtype)
        name = "ddim" if cls is CogVideoXDDIMScheduler else "dpm"
        dtype_name = next(k for k, v in DTYPES.items() if v == dtype)
        tensors[f"{name}.{dtype_name}.{prediction_type}.n{n}.{i}"] = latents.clone()


def main():
    g = torch.Generator().manual_seed(0)
    tensors = {"latents": torch.randn(SHAPE, generator=g)}
    for i in range(7):
        tensors[f"noise_pred.{i}"] = torch.randn(SHAPE, generator=g)
    for cls in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler):
        for dtype in DTYPES.values():
            # 7 does not divide 1000, so that its last step ends at timestep 0 and not before it.
            for n in (4, 7):
                run(cls, dtype, "v_prediction", n, tensors)
        for prediction_type in ("epsilon", "sample"):
            run(cls, torch.float32, prediction_type, 4, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
