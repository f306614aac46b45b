"""What a run of the measuring kit found, as the text that is read first: stages, then ratios to diffusers.

    table.py results.json       # prints it again
"""
import json
import pathlib
import sys

FIELDS = [("seconds_per_step", "s per step"), ("vae_decode_seconds", "VAE decode, s"), ("text_encode_seconds", "text encoder, s")]
GIB = 1 << 30


def table(results):
    lines = ["", f"commit {results.get('commit', 'unknown')}", "", "stages"]
    lines += [f"  {stage['name']:<28} {stage['seconds']:>6.0f} s  {stage['verdict']}" for stage in results["stages"]]
    if results["goldens"]:
        lines += ["", "goldens"]
        lines += [f"  {golden['name']:<24} {'WRONG' if golden['fault'] else 'ok':<6} {golden['found']}" for golden in results["goldens"]]
    wrong = [case for case in results["kernels"] if not case["passed"]]
    lines += [f"  kernel {case['name']}: {case.get('error')}, bound {case.get('bound')}" for case in wrong]
    lines += ["", *(f"library: {note}" for note in results.get("libraries", []))]
    lines += [f"{name}: {value:.3f}" for name, value in results.get("loading", {}).items()]
    for preset in sorted(results["bench"].keys() | results["peer"].keys()):
        lines += ["", *compared(preset, results["bench"].get(preset, {}), results["peer"].get(preset, []))]
    return "\n".join(lines) + "\n"


def compared(preset, ours, peer):
    """A preset's rows: ours, diffusers', and how many times as fast ours is."""
    yield f"{preset} with random weights{'':<12}{'ours':>9}{'diffusers':>11}{'ratio':>8}   (ratio: diffusers' time / ours)"
    yield "  (a step: ours the transformer alone, diffusers' with guidance and scheduler, some ten milliseconds on our side)"
    for field, label in FIELDS:
        own = ours.get(field)
        theirs = [line for line in peer if line["field"] == field] or [{"variant": "-"}]
        for line in theirs:
            value = line.get("value")
            ratio = f"{value / own:.2f}x" if value and own else "-"
            name = f"{label}, {line['variant']}"
            yield f"  {name:<35}{number(own):>9}{number(value):>11}{ratio:>8}   {line.get('error', '')}".rstrip()
    # Of tensors, as each side counts them; diffusers holds all its parts meanwhile, ours the part at work and what its plan keeps.
    for field, label in [("seconds_per_step", "peak_bytes"), ("vae_decode_seconds", "vae_decode_peak_bytes")]:
        peaks = [line["peak_bytes"] / GIB for line in peer if line["field"] == field and "peak_bytes" in line]
        own = ours.get(label)
        yield f"  {label.replace('_bytes', ', GiB'):<35}{number(own and own / GIB):>9}{number(max(peaks, default=None)):>11}"
    for field in ("tflops", "attention_tflops", "linear_tflops", "rest_share_of_step", "share_of_floor", "extrapolated_seconds_50_steps",
                  "whole_job_peak_bytes_counted"):
        if field in ours:
            yield f"  ours, {field}: {ours[field]}"


def number(value):
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    print(table(json.loads(pathlib.Path(sys.argv[1]).read_text())), end="")
