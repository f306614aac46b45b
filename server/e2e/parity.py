"""The program's numbers against diffusers' own: `generate` on the golden pipelines, tensor by tensor, and `tokenize`."""
import json
import shutil
import subprocess

import media
from goldens import FOLDER, Golden, forms
from server import equal, step


def walk(binary, folder):
    generate(binary, folder)
    tokenize(binary, folder)


def generate(binary, folder):
    for form in forms():
        golden = Golden(FOLDER / form)
        subprocess.run(golden.command(binary, folder), check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        difference = golden.difference(folder)
        step(f"generate {form}: {difference}")
        fault = difference.fault(exact=golden.dtype == "f32")
        assert not fault, f"{form}: {fault}"
        equal(f"{form}: frames", media.probe(folder / "out.mp4")["streams"][0]["nb_read_frames"], str(golden.run["frames"][0]))


def tokenize(binary, folder):
    lines = [json.loads(line) for line in (FOLDER / "t5-tokenizer/prompts.jsonl").read_text().splitlines()]
    # `tokenize` reads a model folder: the published tokenizer in a golden pipeline.
    model = folder / "model"
    shutil.copytree(FOLDER / "2b", model)
    shutil.copytree(FOLDER / "t5-tokenizer", model / "tokenizer", dirs_exist_ok=True)
    prompts = "".join(json.dumps(line["prompt"]) + "\n" for line in lines)
    command = [binary, "tokenize", "--model", model]
    result = subprocess.run(command, input=prompts, capture_output=True, check=True, text=True)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    equal("lines", len(answers), len(lines))
    for line, answer in zip(lines, answers):
        ids = line["ids"][:226] if len(line["ids"]) <= 226 else line["ids"][:225] + [1]
        assert answer["ids"][:len(ids)] == ids and not any(answer["ids"][len(ids):]), (
            f"{line['prompt']!r}: expected {ids}, found {answer['ids']}")
        equal(f"tokens of {line['prompt']!r}", answer["untruncated_len"], line["untruncated_len"])
    step(f"tokenize: {len(lines)} prompts, every id equal")
