"""Train what the book keeps as weights and curves (`make train`), each run recorded under runs/ and taken up again after a stop.

Without a name: the LSTM of Part 3. A name ending in * stands for all that begin so. What is kept stands in data/lstm: weights in float16,
and in runs.json of every run its settings, its code, its curve, its time and what it scores on the validation part. Nothing is chosen on test."""
import argparse
import fnmatch
import functools
import json
import math
import pathlib
import sys

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from practitioner.book import write_atomically  # noqa: E402
from practitioner.corpus import load_corpus, serialise  # noqa: E402
from practitioner.experiments import begin, digest_of, seed_everything, train  # noqa: E402
from practitioner.lstm import LSTMLM, encode_all, output_loss_in_parts, save_weights, train_bpe  # noqa: E402
from practitioner.network import surprise_of  # noqa: E402
from practitioner.recurrence import Carried, Streams, carried_loss  # noqa: E402
from practitioner.steps import linear  # noqa: E402

RECORDED, KEPT, SAVE_EVERY = ROOT / "runs", ROOT / "data" / "lstm", 200
SMALL = dict(n_embd=256, n_hidden=256, tied=True)
LARGE = dict(n_embd=256, n_hidden=512, tied=True)
USUAL = dict(vocabulary="bpe-4096", model=SMALL, lanes=32, length=64, rate=8e-3, warmup=50, clip=1.0, seed=0, bytes=None, average=False)
MEGABYTE = 1_000_000
# Steps were fixed beforehand, from seconds a step on one core of the reference machine.
RUNS = {
    "lstm": USUAL | dict(model=LARGE | dict(dropout=0.15), steps=4000),
    "bytes": USUAL | dict(vocabulary="bytes", model=dict(n_embd=64, n_hidden=256), lanes=16, rate=4e-3, steps=4800),
    "bytes-large-batches": USUAL | dict(vocabulary="bytes", model=dict(n_embd=64, n_hidden=256), length=128, steps=1300),  # the same time, fewer steps
    "tokens": USUAL | dict(steps=500),
} | {f"time-{steps}": USUAL | dict(model=LARGE, steps=steps) for steps in (100, 300)} | {
    f"data-{size}": USUAL | dict(bytes=size, model=SMALL | dict(dropout=dropout), steps=steps)
    for size, dropout, steps in ((100_000, 0.5, 150), (MEGABYTE, 0.3, 300))
} | {f"without-{seed}": USUAL | dict(bytes=200_000, steps=100, warmup=20, seed=seed) for seed in (1, 2, 3)}
REMEDIES = {"dropout": dict(model=SMALL | dict(dropout=0.3)), "untied": dict(model=SMALL | dict(tied=False)),
            "average": dict(average=True), "weight-dropout": dict(model=SMALL | dict(weight_dropout=0.3))}
RUNS |= {f"{name}-{seed}": RUNS[f"without-{seed}"] | change for name, change in REMEDIES.items() for seed in (1, 2, 3)}


@functools.cache
def texts():
    return load_corpus()


@functools.cache
def tokens(vocabulary):
    """The tokens of the training and the validation part, and the bytes of each token."""
    if vocabulary == "bytes":
        parts = [np.frombuffer(texts().text(part).encode(), np.uint8) for part in ("train", "validation")]
        return *parts, np.ones(256, int)
    file = KEPT / f"{vocabulary}.json"
    from tokenizers import Tokenizer
    if not file.exists():
        train_bpe([serialise(conversation.turns) for conversation in texts().train], int(vocabulary.removeprefix("bpe-"))).save(str(file), pretty=False)
    tokenizer = Tokenizer.from_file(str(file))
    sizes = np.array([len(tokenizer.id_to_token(token)) for token in range(tokenizer.get_vocab_size())])  # byte-level: a letter for each byte
    return *(encode_all(tokenizer, getattr(texts(), part))[0] for part in ("train", "validation")), sizes


def bits(model, text, sizes):
    """Bits per byte of tokens, of which at least 128 are seen before each but the first."""
    return surprise_of(model, text, length=640, context=128, batch_size=8).sum() / sizes[text].sum()


def carry_out(name):
    """Train the run called `name`, or go on with it; keep its curve."""
    settings = RUNS[name]
    own, validation, sizes = tokens(settings["vocabulary"])
    if settings["bytes"]:
        own = own[:np.searchsorted(np.cumsum(sizes[own]), settings["bytes"])]
    seed_everything(settings["seed"])
    model = LSTMLM(vocab_size=len(sizes), **settings["model"])
    carried = Carried(model, settings["lanes"])
    batches = Streams(own, settings["length"], settings["lanes"], settings["seed"])
    optimizer = torch.optim.AdamW(carried.parameters(), lr=settings["rate"], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    averaged = None
    if settings["average"]:  # of the second half of the run; not kept over a stop
        averaged, done = torch.optim.swa_utils.AveragedModel(model), iter(range(settings["steps"]))
        optimizer.register_step_post_hook(lambda *_: next(done) < settings["steps"] // 2 or averaged.update_parameters(model))
        if (RECORDED / name).exists():
            raise SystemExit(f"an average is not kept over a stop: remove {RECORDED / name} to train {name} anew")
    piece = validation[:20_000]
    run = begin(RECORDED / name, seed=settings["seed"], settings=settings, data=dict(train=own, validation=validation), repository=ROOT)
    history = train(carried, batches, optimizer, settings["steps"], schedule=linear(settings["steps"], settings["warmup"]), clip=settings["clip"],
                    loss=functools.partial(carried_loss, output_loss=output_loss_in_parts), evaluate=lambda carried: dict(validation=bits(carried.model, piece, sizes)),
                    evaluate_every=max(settings["steps"] // 8, 50), run=run, save_every=SAVE_EVERY, device="cpu")
    judged = averaged.module if averaged else model
    score = bits(judged, validation, sizes)
    per_byte = len(own) / sizes[own].sum() / math.log(2)
    last = np.mean([record["loss"] for record in history[-50:]]) * per_byte
    session = run.record["sessions"][-1]
    kept = dict(settings=settings, validation=round(float(score), 4), training=round(float(last), 4), seconds=round(history[-1]["seconds"], 1),
                parameters=sum(p.numel() for p in model.parameters()), epochs=round(settings["steps"] / batches.per_epoch, 3),
                data=run.record["data"], sessions=len(run.record["sessions"]), **{key: session[key] for key in ("begun", "commit", "patch", "machine", "versions", "threads")},
                curve=[[record["step"] + 1, round(record["seconds"], 1), round(record["validation"], 4)] for record in history if "validation" in record])
    file = KEPT / "runs.json"
    every = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_atomically(file, json.dumps(every | {name: kept}, indent=1, sort_keys=True) + "\n")
    if name in ("lstm", "bytes"):
        save_weights(KEPT / f"{name}.safetensors", model, run=name, commit=session["commit"], vocabulary=settings["vocabulary"])
    print(f"{name}: {score:.4f} bits per byte of validation, {history[-1]['seconds']:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["lstm"], help=f"of {', '.join(RUNS)}")
    for pattern in parser.parse_args().names:
        names = fnmatch.filter(RUNS, pattern)
        if not names:
            parser.error(f"no run is called {pattern}; there are {', '.join(RUNS)}")
        for name in names:
            carry_out(name)


if __name__ == "__main__":
    main()
