#!/usr/bin/env python3
"""Compares a component with diffusers on this machine: time, peak memory, and the numbers themselves.

    cargo build --release -p cogvideox --example bench_component
    PYTHON server/cogvideox/benches/against_diffusers.py vae
    PYTHON server/cogvideox/benches/against_diffusers.py transformer --repeats 5

PYTHON is one that has diffusers (`server/cogvideox/reference/oracle_env.sh` makes it). Both sides get the same random
weights and inputs, f32 and the same number of threads, and run in turn, each time in a process of its own, so that
the peak memory is that of the component. Printed are the medians; a busy machine shows in their spread and in the
CPU seconds. `--binary` names the built example where it is not in the default target folder.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def make_vae(folder):
    """A quarter of the published channels, 9 frames of 240x368."""
    import torch
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(block_out_channels=(32, 64, 64, 128), layers_per_block=3, latent_channels=16)
    vae.save_pretrained(folder)
    return {"latents": torch.randn(1, 16, 3, 30, 46)}


def run_vae(folder, inputs):
    from diffusers import AutoencoderKLCogVideoX

    vae = AutoencoderKLCogVideoX.from_pretrained(folder).eval()
    return lambda: vae.decode(inputs["latents"]).sample


def make_transformer(folder):
    """4 layers of 8 heads, 17 frames of 240x368: 1,951 tokens."""
    import torch
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(num_attention_heads=8, attention_head_dim=64, num_layers=4,
                                              sample_height=30, sample_width=46, sample_frames=17)
    transformer.save_pretrained(folder)
    return {"hidden_states": torch.randn(1, 5, 16, 30, 46), "encoder_hidden_states": torch.randn(1, 226, 4096)}


def run_transformer(folder, inputs):
    import torch
    from diffusers import CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel.from_pretrained(folder).eval()
    timestep = torch.tensor([500])
    return lambda: transformer(**inputs, timestep=timestep, return_dict=False)[0]


# name -> (writes random weights to a folder and returns inputs, loads a folder and returns the timed function)
COMPONENTS = {"vae": (make_vae, run_vae), "transformer": (make_transformer, run_transformer)}


def diffusers_side(component, folder, inputs, outputs, repeats, threads):
    """The counterpart of examples/bench_component.rs."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(int(threads))
    run = COMPONENTS[component][1](folder, load_file(inputs))
    seconds, output = [], None
    with torch.no_grad():
        for _ in range(int(repeats)):
            del output
            start = time.perf_counter()
            output = run()
            seconds.append(time.perf_counter() - start)
    save_file({"output": output.contiguous()}, outputs)
    print(json.dumps({"seconds": seconds}))


def measured(command, environment):
    """Runs a command to its end; its own report, CPU seconds and peak memory."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    report = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed with status {status}")
    seconds = json.loads(report.splitlines()[-1])["seconds"]
    return {
        "seconds": statistics.median(seconds),
        "cpu": (usage.ru_utime + usage.ru_stime) / len(seconds),
        "gigabytes": usage.ru_maxrss / 1e6,
    }


def main():
    if sys.argv[1:2] == ["--diffusers-side"]:
        return diffusers_side(*sys.argv[2:])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release/examples/bench_component")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs, in turn (default 3)")
    parser.add_argument("--repeats", type=int, default=1, help="runs in one process (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as temporary:
        folder, inputs = os.path.join(temporary, "model"), os.path.join(temporary, "inputs.safetensors")
        save_file(COMPONENTS[options.component][0](folder), inputs)
        threads = str(options.threads)
        environment = dict(os.environ, RAYON_NUM_THREADS=threads, OMP_NUM_THREADS=threads)
        outputs = {side: os.path.join(temporary, f"{side}.safetensors") for side in ("diffusers", "ours")}
        repeats = str(options.repeats)
        commands = {
            "diffusers": [sys.executable, __file__, "--diffusers-side", options.component, folder, inputs,
                          outputs["diffusers"], repeats, threads],
            "ours": [str(options.binary), options.component, folder, inputs, outputs["ours"], repeats],
        }
        results = {side: [] for side in commands}
        for index in range(options.rounds):
            for side, command in commands.items():
                results[side].append(measured(command, environment))
                figures = results[side][-1]
                print(f"round {index + 1}: {side:9} {figures['seconds']:7.2f} s, {figures['cpu']:7.2f} CPU s, "
                      f"{figures['gigabytes']:5.2f} GB", flush=True)
        for key in ("seconds", "cpu", "gigabytes"):
            ours, theirs = (statistics.median(r[key] for r in results[side]) for side in ("ours", "diffusers"))
            print(f"{key:9} diffusers {theirs:7.2f}  ours {ours:7.2f}  ratio {ours / theirs:.3f}")
        ours, theirs = (load_file(outputs[side])["output"] for side in ("ours", "diffusers"))
        if ours.shape != theirs.shape:
            sys.exit(f"shapes differ: ours {tuple(ours.shape)}, diffusers {tuple(theirs.shape)}")
        print(f"largest difference {torch.max(torch.abs(ours - theirs)).item():.2e} "
              f"at values up to {torch.max(torch.abs(theirs)).item():.2f}")


if __name__ == "__main__":
    main()
