"""Train what the book keeps as weights and curves (`make train`), each run recorded under runs/ and taken up again after a stop.

Without a name: the released model. A name ending in * stands for all that begin so. What is kept stands in a folder of data, such as data/lstm: weights
in float16, and in runs.json of every run its settings, its code, its curve, its time and what it scores on the validation part; of some, what they
wrote at several ages. Nothing is chosen on test."""
import argparse
import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import functools
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save as as_safetensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from practitioner.book import per_conversation, write_atomically  # noqa: E402
from practitioner.chat import as_typed, begin_chat, chat_loss, Dialogues, reply_bits, reply_sizes, template  # noqa: E402
from practitioner.corpus import load_corpus, serialise  # noqa: E402
from practitioner.experiments import accelerators, begin, git, seed_everything, train  # noqa: E402
from practitioner.gpt import GPT, GPTConfig, decay_groups, tied_loss  # noqa: E402
from practitioner.inside_lstm import read_on, write_on  # noqa: E402
from practitioner.lora import adapter_loss, adapter_state, low_rank, with_lora  # noqa: E402
from practitioner.lstm import LSTMLM, encode_all, output_loss_in_parts, save_weights, train_bpe  # noqa: E402
from practitioner.network import StepByStep, surprise_of, Windows  # noqa: E402
from practitioner.recipe import decoder_loss, DecoderLM, fused_adamw, optimizer_of, Recipe, schedule_of, without  # noqa: E402
from practitioner.recurrence import Carried, Streams, carried_loss  # noqa: E402
from practitioner.scaling import load_quantised, save_quantised  # noqa: E402
from practitioner.steps import cosine, Joint, linear, Muon  # noqa: E402

RECORDED, DATA, SAVE_EVERY, PIECE = ROOT / "runs", ROOT / "data", 200, 20_000
BASES = {"typed": DATA / "chat" / "typed.safetensors", "released": DATA / "scaling" / "released.safetensors"}
THREADS = torch.get_num_threads()  # of a run whose settings name no number
SMALL = dict(n_embd=256, n_hidden=256, tied=True)
LARGE = dict(n_embd=256, n_hidden=512, tied=True)
USUAL = dict(vocabulary="bpe-4096", model=SMALL, lanes=32, length=64, rate=8e-3, warmup=50, clip=1.0, seed=0, bytes=None, average=False)
MEGABYTE = 1_000_000
EIGHT_BITS = "released", "typed", "chat"
WEIGHTS = "lstm", "bytes-muon", "gpt1-small", "book-vectors"  # the runs whose weights are kept
# Steps were fixed beforehand, from seconds a step on one core of the reference machine.
RUNS = {
    "lstm": USUAL | dict(model=LARGE | dict(dropout=0.15), steps=4000),
    "bytes": USUAL | dict(vocabulary="bytes", model=dict(n_embd=64, n_hidden=256), lanes=16, rate=4e-3, steps=4800),
    "bytes-large-batches": USUAL | dict(vocabulary="bytes", model=dict(n_embd=64, n_hidden=256), length=128, steps=1300),  # the same time, fewer steps
    "bytes-muon": USUAL | dict(vocabulary="bytes", model=dict(n_embd=64, n_hidden=256), lanes=16, rate=4e-3, optimizer="muon", muon_rate=1.6e-2, steps=6000),
    "time-100-muon": USUAL | dict(model=LARGE, steps=100, optimizer="muon", muon_rate=1.6e-2),
    "time-300-muon": USUAL | dict(model=LARGE, steps=300, optimizer="muon", muon_rate=1.6e-2),
    "tokens": USUAL | dict(steps=500),
} | {f"time-{steps}": USUAL | dict(model=LARGE, steps=steps) for steps in (100, 300)} | {
    f"data-{size}": USUAL | dict(bytes=size, model=SMALL | dict(dropout=dropout), steps=steps)
    for size, dropout, steps in ((100_000, 0.5, 150), (MEGABYTE, 0.3, 300))
} | {f"without-{seed}": USUAL | dict(bytes=200_000, steps=100, warmup=20, seed=seed) for seed in (1, 2, 3)}
REMEDIES = {"dropout": dict(model=SMALL | dict(dropout=0.3)), "untied": dict(model=SMALL | dict(tied=False)),
            "average": dict(average=True), "weight-dropout": dict(model=SMALL | dict(weight_dropout=0.3))}
RUNS |= {f"{name}-{seed}": RUNS[f"without-{seed}"] | change for name, change in REMEDIES.items() for seed in (1, 2, 3)}
GPT1 = dict(kind="gpt", vocabulary="bpe-4096", model=dict(n_positions=128, n_embd=192, n_layer=2, n_head=3, dropout=0.0), rows=6, rate=1.5e-3, warmup=200,
            betas=[0.9, 0.999], decay=0.01, clip=1.0, seed=0, bytes=None, average=False)
RUNS["gpt1-small"] = GPT1 | dict(steps=3600, ages=[0, 100, 400, 1200, 3600])  # once through the text

# One change of the recipe at a time, in the time that STEPS of GPT-1's take: a change has as many as fit, by what one of its steps costs in steps of GPT-1's
# (tools/bench.py recipe; fixed beforehand).
STEPS = 675
DECODER = dict(kind="decoder", vocabulary="bpe-4096", model={}, rows=6, optimizer="adamw", rate=1.5e-3, schedule="cosine", warmup=50, betas=[0.9, 0.999], decay=0.01,
               clip=1.0, bytes=None, average=False)
MUON = dict(optimizer="muon", muon_rate=6e-3)
CHANGES = {
    "gpt1": (1.0, {}),
    "pre-norm": (1.01, dict(model=dict(pre_norm=True))),
    "rms": (1.04, dict(model=dict(norm="rms"))),
    "rotary": (1.03, dict(model=dict(positions="rotary"))),
    "swiglu": (0.98, dict(model=dict(inner="swiglu", n_inner=512))),  # as many parameters
    "relu2": (0.95, dict(model=dict(inner="relu2"))),
    "qk-norm": (1.03, dict(model=dict(qk_norm=True))),
    "untied": (1.0, dict(model=dict(tied=False))),
    "muon": (1.39, MUON),
    "linear": (1.0, dict(schedule="linear")),
    "wsd": (1.0, dict(schedule="wsd")),
    "deep": (1.11, dict(model=dict(n_layer=4, n_embd=144, n_inner=576))),
    "deep-pre-norm": (1.12, dict(model=dict(n_layer=4, n_embd=144, n_inner=576, pre_norm=True))),
    "wide": (1.0, dict(model=dict(n_layer=1, n_embd=256, n_head=4, n_inner=1024))),
    "context-64": (1.0, dict(model=dict(n_positions=64), rows=12)),
    "context-256": (1.09, dict(model=dict(n_positions=256), rows=3)),
    "bpe-1024": (0.7, dict(vocabulary="bpe-1024")),
    "bpe-8192": (1.49, dict(vocabulary="bpe-8192")),
    "double-batches": (2.02, dict(rows=12)),
}


def changed(settings, change):
    """Settings with a change, of which `model` is added to the model's."""
    return settings | change | dict(model=settings["model"] | change.get("model", {}))


RUNS |= {f"recipe-{name}-{seed}": changed(DECODER, change) | dict(steps=round(STEPS / cost), seed=seed)
         for name, (cost, change) in CHANGES.items() for seed in (1, 2, 3)}
RUNS |= {f"rate-gpt1-{factor}": DECODER | dict(rate=factor * 1e-3, steps=STEPS, seed=0) for factor in (0.75, 1.5, 3)}


# What helped, together, and without biases, as Qwen3 has it: for as long as the changes, over the same seeds; then the book's model, for longer.
TOGETHER = MUON | dict(schedule="wsd", model=dict(norm="rms", pre_norm=True, positions="rotary", inner="swiglu", n_inner=512, qk_norm=True, bias=False, tied=False))
ALL, STEPS_OF_ALL = changed(DECODER, TOGETHER), STEPS / CHANGES["muon"][0]
RUNS |= {f"recipe-all-{seed}": ALL | dict(steps=round(STEPS_OF_ALL), seed=seed) for seed in (1, 2, 3)}
RUNS |= {f"rate-all-{factor}": ALL | dict(rate=factor * 1e-3, steps=round(STEPS_OF_ALL), seed=0) for factor in (0.75, 1.5, 3, 6)}
RUNS |= {f"recipe-two-{seed}": changed(DECODER, dict(model=dict(positions="rotary", tied=False))) | dict(steps=round(STEPS / CHANGES["rotary"][0]), seed=seed)
         for seed in (1, 2, 3)}
# With the rates that they want, and vectors of the tokens that begin as long as what is added to them; and all but one of them: the step that remains costs
# less by what the one costs alone.
FINAL = changed(ALL, dict(rate=3e-3, embedding_rate=0.1, model=dict(embedding_std=1.0)))
ALL_BUT = {
    "none": {}, "embedding": dict(embedding_rate=None, model=dict(embedding_std=0.02)),
    "pre-norm": dict(model=dict(pre_norm=False)), "rotary": dict(model=dict(positions="learned")), "swiglu": dict(model=dict(inner="gelu", n_inner=768)),
    "qk-norm": dict(model=dict(qk_norm=False)), "untied": dict(embedding_rate=None, model=dict(tied=True, embedding_std=0.02)), "muon": dict(optimizer="adamw")}
RUNS |= {f"all-but-{name}-{seed}": changed(FINAL, change) | dict(steps=round(STEPS_OF_ALL * CHANGES.get(name, CHANGES["gpt1"])[0]), seed=seed)
         for name, change in ALL_BUT.items() for seed in (1, 2, 3)}
FIVE_MINUTES = 2 * round(STEPS * 300 / 90)  # of two cores, in steps of GPT-1's
SMALL_VECTORS = ALL | dict(rows=12, rate=3e-3, warmup=100, seed=0)
BOOK = FINAL | dict(rows=12, warmup=100, seed=0)
RUNS |= {f"book-{name}": changed(settings, change) | dict(steps=round(FIVE_MINUTES / cost)) for name, cost, settings, change in (
    ("slow", 2.37, SMALL_VECTORS, {}), ("fast", 2.37, SMALL_VECTORS, dict(muon_rate=1.2e-2)), ("vectors", 2.37, BOOK, {}), ("vectors-slow", 2.37, BOOK, dict(muon_rate=3e-3)),
    ("adamw", 1.08, BOOK, dict(optimizer="adamw", rows=6)), ("adamw-large", 2.1, BOOK, dict(optimizer="adamw")))}

# nanoGPT in the same time: its README's settings for a CPU, over bytes and over our tokens.
NANOGPT = dict(kind="nanogpt", commit="3adf61e154c3fe3fca428ad6bc3818b27a3b8291", vocabulary="bytes", rows=12, rate=1e-3, floor=0.1, warmup=100, betas=[0.9, 0.99], decay=0.1,
               clip=1.0, seed=0, bytes=None, average=False, model=dict(block_size=64, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False))
RUNS |= {f"nanogpt-{name}": changed(NANOGPT, change) | dict(steps=round(FIVE_MINUTES / cost)) for name, (cost, change) in {
    "bytes": (0.59, {}), "tokens": (0.91, dict(vocabulary="bpe-4096"))}.items()}


# How far it goes: sizes and amounts of text, each read once, and one larger run to be predicted; a sixteenth of the text, read again and again, as it is, with
# dropout and with weight decay; and what the released model is to have, tried on an eighth of the text with an eighth of its parameters, four times through.
# Warm-up is a tenth of a short run.
SIZES = {64: dict(n_head=1, n_inner=168), 128: dict(n_head=2, n_inner=344), 192: dict(n_head=3, n_inner=512), 256: dict(n_head=4, n_inner=680),
         384: dict(n_head=6, n_inner=1024)}
TRAINING_BYTES = 9_938_485
EPOCH = 1804  # steps of 12 rows of 128 tokens


def scaling(width, steps, change={}, **settings):
    """A run of the series: the book's recipe at a width, for a number of steps."""
    return changed(BOOK, dict(model=dict(n_embd=width) | SIZES.get(width, {}) | change)) | dict(series="scaling", steps=steps, warmup=min(100, steps // 10)) | settings


RUNS |= {f"scaling-{width}-{part}": scaling(width, EPOCH // part) for width in SIZES for part in (16, 8, 4, 2, 1) if width < 384 or part == 1}
AGAIN = {"": {}, "-dropout": dict(model=dict(dropout=0.2)), "-decay": dict(decay=0.3)}
RUNS |= {f"again-{times}{name}": changed(scaling(128, times * EPOCH // 16, dict(dropout=0.0), bytes=TRAINING_BYTES // 16), change)
         for times in (2, 4, 8, 16) for name, change in AGAIN.items()}
RUNS |= {f"choice-{name}": changed(scaling(128, EPOCH // 2, dict(dropout=dropout), bytes=TRAINING_BYTES // 8), change) for name, dropout, change in (
    ("plain", 0.0, {}), ("dropout", 0.1, {}), ("more-dropout", 0.2, {}), ("decay", 0.0, dict(decay=0.1)), ("more-decay", 0.0, dict(decay=0.3)), ("most-decay", 0.0, dict(decay=1.0)),
    ("context", 0.0, dict(decay=0.3, rows=6, model=dict(n_positions=256))), ("both", 0.1, dict(decay=0.1)), ("large", 0.1, dict(rows=24, steps=EPOCH // 4)),
    ("large-fast", 0.1, dict(rows=24, steps=EPOCH // 4, rate=4.2e-3, muon_rate=8.5e-3)), ("vectors", 0.1, dict(embedding_rate=0.03)))}


# The released model: its text three times, on two threads, in what two cores do in an hour.
READINGS = 3
RUNS["released"] = scaling(320, READINGS * EPOCH * 12 * 128 // (8 * 256), dict(n_layer=3, n_head=5, n_inner=848, n_positions=256), rows=8, decay=0.1, warmup=200, threads=2)


# Chat: everything that people typed, without a word on who typed it; then conversations with roles, from that and from nothing, over seeds; of their weights
# those are kept that were best on a piece of the validation part; the released model, in roles. How often each amount is read was fixed beforehand.
RUNS["typed"] = scaling(128, EPOCH) | dict(series="chat", text="typed")
CHAT = dict(kind="chat", vocabulary="bpe-4096", base="typed", conversations=None, everything=False, rows=12, optimizer="adamw", rate=5e-4, schedule="linear",
            betas=[0.9, 0.999], decay=0.01, clip=1.0, seed=0, bytes=None, average=False)
SCRATCH = {key: RUNS["typed"][key] for key in ("model", "optimizer", "rate", "muon_rate", "schedule", "embedding_rate")} | dict(base=None)


def chat_run(steps, **settings):
    """A run in roles, whose rate rises over a tenth of its steps."""
    return CHAT | dict(steps=steps, warmup=steps // 10) | settings


for conversations, taught, scratch, seeds in ((50, 100, 400, 3), (200, 280, 690, 3), (800, 800, 1100, 2), (2841, 1964, 2946, 1)):
    for seed in range(1, seeds + 1):
        RUNS |= {f"taught-{conversations}-{seed}": chat_run(taught, conversations=conversations, seed=seed),
                 f"scratch-{conversations}-{seed}": chat_run(scratch, conversations=conversations, seed=seed, **SCRATCH)}
RUNS |= {f"everything-200-{seed}": RUNS[f"taught-200-{seed}"] | dict(everything=True) for seed in (1, 2, 3)}
RUNS["chat"] = chat_run(1390, base="released", rows=8, rate=3e-4)

# Low-rank changes of the typed model, in the time of full fine-tuning: of its steps as many as fit, by what one costs in steps of full fine-tuning (tools/bench.py
# lora; fixed beforehand). Full fine-tuning once more, which keeps how large the directions are that it changed; and at twice and at half its rate, the
# latter over the seeds, since it did better in trials.
TAUGHT, LORA = RUNS["taught-200-1"] | dict(series="lora"), dict(alpha=16, names=None)
LORA_COST, LORA_RATE = {1: 0.86, 4: 0.99, 16: 0.95, 64: 1.15}, 2e-3
RUNS |= {f"lora-{r}-{seed}": TAUGHT | chat_run(round(TAUGHT["steps"] / cost), conversations=200, seed=seed, rate=LORA_RATE, lora=LORA | dict(r=r))
         for r, cost in LORA_COST.items() for seed in (1, 2, 3)}
RUNS["lora-attention-1"] = RUNS["lora-16-1"] | dict(lora=LORA | dict(r=16, names=["qkv", "proj"]))
RUNS["lora-rows-1"] = RUNS["lora-1-1"] | dict(lora=LORA | dict(r=1, names=[]))  # the new tokens alone
RUNS |= {"lora-full-1": TAUGHT | dict(change=True), "lora-full-fast-1": TAUGHT | dict(rate=2 * TAUGHT["rate"])}
RUNS |= {f"lora-full-slow-{seed}": TAUGHT | dict(rate=TAUGHT["rate"] / 2, seed=seed) for seed in (1, 2, 3)}


@functools.cache
def texts():
    return load_corpus()


def tokenizer_file(vocabulary):
    """Where a vocabulary is kept: in data, or for trials only beside the runs."""
    kept = [folder / f"{vocabulary}.json" for folder in (DATA / "lstm", DATA / "recipe", RECORDED)]
    return next((file for file in kept if file.exists()), kept[-1])


@functools.cache
def tokenizer_of(vocabulary):
    """The tokenizer of a vocabulary; one that is not kept yet is learned from the training part, and kept."""
    from tokenizers import Tokenizer
    file = tokenizer_file(vocabulary)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        train_bpe([serialise(conversation.turns) for conversation in texts().train], int(vocabulary.removeprefix("bpe-"))).save(str(file), pretty=False)
    return Tokenizer.from_file(str(file))


@functools.cache
def tokens(vocabulary, text="letters"):
    """The tokens of the training and the validation part, and the bytes of each token. As text in letters, or as lines: all that people typed."""
    if vocabulary == "bytes":
        parts = [np.frombuffer(texts().text(part).encode(), np.uint8) for part in ("train", "validation")]
        return *parts, np.ones(256, int)
    tokenizer = tokenizer_of(vocabulary)
    sizes = np.array([len(tokenizer.id_to_token(token)) for token in range(tokenizer.get_vocab_size())])  # byte-level: a letter for each byte
    if text == "typed":
        return *(typed_tokens(tokenizer, part) for part in ("train", "validation")), sizes
    return *(encode_all(tokenizer, getattr(texts(), part))[0] for part in ("train", "validation")), sizes


def typed_tokens(tokenizer, part):
    """A part as lines, an empty one after each conversation; what was never answered, behind the training part."""
    dialect, every = as_typed(tokenizer), [conversation.turns for conversation in getattr(texts(), part)]
    if part == "train":
        every += [(text,) for text in texts().monologues]
    return np.array([token for turns in every for _, body in dialect.conversation(turns) for token in body], np.uint16)


def bits(model, text, sizes, length=640, context=128, batch_size=8):
    """Bits per byte of tokens, of which at least `context` are seen before each but the first."""
    return surprise_of(model, text, length, batch_size, context).sum() / sizes[text].sum()


def bits_in_windows(length):
    """`bits` in windows as long as a model's positions reach, half of which overlap."""
    return functools.partial(bits, length=length, context=length // 2, batch_size=4096 // length)


@dataclasses.dataclass
class Program:
    """What makes a run: the model, the module whose parameters are trained (itself, or around it), and all that `train` is given."""
    model: torch.nn.Module
    trained: torch.nn.Module
    batches: Callable
    optimizer: torch.optim.Optimizer
    loss: Callable
    schedule: Callable
    bits: Callable = bits
    folder: str = "lstm"  # in data
    judgements: int = 8  # of a piece of the validation part, on the way
    per_byte: float | None = None  # tokens that count in a byte


def lstm(settings, own, sizes):
    """The program of an LSTM whose state is carried from batch to batch."""
    model = LSTMLM(vocab_size=len(sizes), **settings["model"])
    carried = Carried(model, settings["lanes"])
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not model.embedding.weight] if settings.get("optimizer") == "muon" else []
    optimizer = torch.optim.AdamW(without([dict(params=list(carried.parameters()))], matrices), lr=settings["rate"], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    if matrices:
        optimizer = Joint(Muon(matrices, lr=settings["muon_rate"], weight_decay=0.0, dtype="float32", adjust_lr_fn="match_rms_adamw"), optimizer)
    return Program(model, carried, Streams(own, settings["length"], settings["lanes"], settings["seed"]), optimizer,
                   functools.partial(carried_loss, output_loss=output_loss_in_parts), linear(settings["steps"], settings["warmup"]))


def gpt(settings, own, sizes):
    """The program of a GPT on windows of text, as long as it has positions."""
    model = GPT(GPTConfig(vocab_size=len(sizes), **settings["model"]))
    length = model.config.n_positions
    return Program(model, model, Windows(own, length, settings["rows"], settings["seed"]),
                   torch.optim.AdamW(decay_groups(model, settings["decay"]), lr=settings["rate"], betas=settings["betas"], fused=True),
                   tied_loss, cosine(settings["steps"], settings["warmup"]),
                   bits_in_windows(length), "gpt")


def decoder(settings, own, sizes):
    """The program of a decoder by any recipe, on windows of text, as long as it has positions."""
    model = DecoderLM(Recipe(vocab_size=len(sizes), **settings["model"]))
    return Program(model, model, Windows(own, model.context, settings["rows"], settings["seed"]), optimizer_of(model, settings), decoder_loss,
                   schedule_of(settings), bits_in_windows(model.context), settings.get("series", "recipe"), 2)


class Whole(torch.nn.Module):
    """A GPT of nanoGPT, which gives all logits only where it is given targets."""
    def __init__(self, inner):
        super().__init__()
        self.inner, self.settings = inner, dataclasses.asdict(inner.config)

    def forward(self, tokens):
        return self.inner(tokens, tokens.contiguous())[0]

    def loss(self, batch):
        return self.inner(batch[:, :-1], batch[:, 1:].contiguous())[1]


class Crops:
    """Batches as nanoGPT takes them: windows that begin anywhere."""
    def __init__(self, own, length, rows, seed):
        self.own, self.length, self.rows, self.seed = own, length, rows, seed
        self.per_epoch = len(own) / (length * rows)

    def __call__(self, step):
        starts = np.random.default_rng([self.seed, step]).integers(len(self.own) - self.length, size=(self.rows, 1))
        return torch.from_numpy(self.own[starts + np.arange(self.length + 1)].astype(np.int64))


def nanogpt(settings, own, sizes):
    """The program of nanoGPT's own model, optimiser and schedule. Its code is in the folder that NANOGPT names, at the commit in the settings."""
    folder = os.environ.get("NANOGPT")
    if not folder:
        raise SystemExit(f"NANOGPT names no folder: clone https://github.com/karpathy/nanoGPT, check {settings['commit']} out, and set NANOGPT to its folder")
    there = git(folder, "rev-parse", "HEAD").decode().strip()
    if there != settings["commit"]:
        raise SystemExit(f"{folder} is at {there}, and the run is of {settings['commit']}")
    spec = importlib.util.spec_from_file_location("nanogpt_model", pathlib.Path(folder) / "model.py")
    code = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    with contextlib.redirect_stdout(sys.stderr):
        inner = code.GPT(code.GPTConfig(vocab_size=len(sizes), **settings["model"]))
        optimizer = inner.configure_optimizers(settings["decay"], settings["rate"], tuple(settings["betas"]), "cpu")
    length, model = inner.config.block_size, Whole(inner)
    return Program(model, model, Crops(own, length, settings["rows"], settings["seed"]), optimizer, Whole.loss,
                   cosine(settings["steps"], settings["warmup"], settings["floor"]), bits_in_windows(length), "recipe")


def chat(settings, own, sizes):
    """The program of a decoder, from another's weights or from none, on conversations in roles; of them, some, drawn by the seed."""
    tokenizer = tokenizer_of(settings["vocabulary"])
    dialect, every = template(tokenizer), texts().train
    chosen = np.random.default_rng(settings["seed"]).permutation(len(every))[:settings["conversations"]]
    turns = [every[place].turns for place in chosen]
    model = begin_chat(load_quantised(BASES[settings["base"]]), tokenizer) if settings["base"] else DecoderLM(Recipe(vocab_size=dialect.vocab_size, **settings["model"]))
    conversations, everything = [dialect.conversation(each) for each in turns], settings["everything"]
    batches = Dialogues(conversations, model.context, settings["rows"], settings["seed"], everything)
    counted = sum(len(body) for each in conversations for place, (_, body) in enumerate(each) if place % 2 or everything)

    optimizer, loss = optimizer_of(model, settings), chat_loss
    if settings.get("lora"):
        model = with_lora(model, new_tokens=dialect.vocab_size - dialect.texts, **settings["lora"])
        learns = dict(params=list(adapter_state(model).values()), weight_decay=settings["decay"])
        optimizer, loss = fused_adamw([learns], settings["rate"], tuple(settings["betas"])), adapter_loss

    def bits_of_replies(model, text, sizes):
        some = texts().validation[:16 if len(text) <= PIECE else None]
        bits, sizes, _ = reply_bits(model, dialect, [conversation.turns for conversation in some])
        return bits.sum() / sizes.sum()

    return Program(model, model, batches, optimizer, loss, schedule_of(settings), bits_of_replies, settings.get("series", "chat"),
                   per_byte=counted / reply_sizes(turns, everything).sum())


PROGRAMS = {"lstm": lstm, "gpt": gpt, "decoder": decoder, "nanogpt": nanogpt, "chat": chat}


def sample(model, settings, length=60, temperature=0.7, seed=None):
    """What the model writes after the end of a conversation, as text; by the seed of its run, if no other is given."""
    tokenizer, steps = tokenizer_of(settings["vocabulary"]), StepByStep(model, settings["model"]["n_positions"])
    opening = read_on(steps, steps.start(), tokenizer.encode("\n\nA:").ids)
    written, _ = write_on(steps, opening, length, temperature, np.random.default_rng(settings["seed"] if seed is None else seed))
    return "A:" + tokenizer.decode(written)


def of_released(model, settings, validation, sizes, samples=100, length=150):
    """What is kept of the released model besides, as it is kept, in 8 bits: its score, what each conversation of the test part costs it in bits, what it writes."""
    test, per_test = encode_all(tokenizer_of(settings["vocabulary"]), texts().test)
    costs = per_conversation(surprise_of(model, test, model.context, 16, model.context // 4), per_test)
    return dict(validation=round(float(bits_in_windows(model.context)(model, validation, sizes)), 4), test=[round(float(cost), 1) for cost in costs],
                samples=[sample(model, settings, length, 1.0, [settings["seed"], number]) for number in range(samples)])


def of_chat(model, settings, sizes):
    """What is kept of a chat besides: what the replies of each conversation of the test part cost it in bits, and what the text of its base does, in bits per byte."""
    tokenizer = tokenizer_of(settings["vocabulary"])
    bits, _, counted = reply_bits(model, template(tokenizer), [conversation.turns for conversation in texts().test])
    kept = dict(test=[round(float(cost), 1) for cost in bits], tokens=int(counted.sum()))
    if settings["base"]:
        before = tokens(settings["vocabulary"], "typed" if settings["base"] == "typed" else "letters")[1]
        kept |= dict(base=round(float(bits_in_windows(model.context)(model, before, sizes)), 4))
    return kept | (dict(change=of_change(model, settings)) if settings.get("change") else {})


CHANGED_BY = 0, 1, 2, 4, 8, 16, 32, 64, 128  # ranks


def of_change(model, settings):
    """Of what full fine-tuning has changed in the blocks: the share, in squares, that the largest singular values of each matrix's change hold, by how many they
    are; and what the replies of the test part cost, in bits, if of each change only so much is kept and all else is as before, but for the new tokens."""
    tokenizer = tokenizer_of(settings["vocabulary"])
    base = begin_chat(load_quantised(BASES[settings["base"]]), tokenizer)
    before, after, dialect = base.state_dict(), model.state_dict(), template(tokenizer)
    matrices = [name for name, value in before.items() if name.startswith("blocks.") and value.ndim == 2]
    squares = {name: torch.linalg.svdvals(after[name] - before[name]).square() for name in matrices}
    cost = []
    for r in CHANGED_BY:
        some = {name: before[name] + low_rank(after[name] - before[name], r) for name in matrices}
        new = {name: torch.cat((before[name][:dialect.texts], after[name][dialect.texts:])) for name in ("tokens.weight", "output.weight")}
        part = begin_chat(load_quantised(BASES[settings["base"]]), tokenizer)
        part.load_state_dict(before | some | new)
        cost.append(round(float(reply_bits(part, dialect, [conversation.turns for conversation in texts().test])[0].sum()), 1))
    return dict(ranks=CHANGED_BY, cost=cost, shares={name: [round(float(each[:r].sum() / each.sum()), 4) for r in CHANGED_BY] for name, each in squares.items()})


class Best:
    """The weights with which a run was best on a piece of the validation part, in its folder."""
    def __init__(self, name):
        self.file = RECORDED / name / "best.safetensors"

    def least(self):
        if not self.file.exists():
            return math.inf
        with safe_open(self.file, framework="pt") as file:
            return float(file.metadata()["bits"])

    def see(self, model, bits):
        if bits < self.least():
            write_atomically(self.file, as_safetensors({key: value.contiguous() for key, value in model.state_dict().items()}, dict(bits=repr(float(bits)))))
        return bits

    def put_back(self, model):
        model.load_state_dict(load_file(self.file))


def by_ages(name, settings, go_on, model):
    """Call go_on(step) up to each age at which the run is to write something, and then up to its last step: the history, and what was written by step."""
    file = RECORDED / name / "samples.json"
    for age in settings.get("ages", []):
        written = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if str(age) not in written:
            go_on(age)
            write_atomically(file, json.dumps(written | {str(age): sample(model, settings)}))
    return go_on(settings["steps"]), json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def trained(name, device="cpu"):
    """Train the run called `name`, or go on with it: the file of data where it belongs, and what is to be kept of it. Weights are kept at once."""
    settings = RUNS[name]
    torch.set_num_threads(settings.get("threads", THREADS))
    own, validation, sizes = tokens(settings["vocabulary"], settings.get("text", "letters"))
    if settings["bytes"]:
        own = own[:np.searchsorted(np.cumsum(sizes[own]), settings["bytes"])]
    seed_everything(settings["seed"])
    program = PROGRAMS[settings.get("kind", "lstm")](settings, own, sizes)
    averaged = None
    if settings["average"]:  # of the second half of the run; not kept over a stop
        averaged, done = torch.optim.swa_utils.AveragedModel(program.model), iter(range(settings["steps"]))
        program.optimizer.register_step_post_hook(lambda *_: next(done) < settings["steps"] // 2 or averaged.update_parameters(program.model))
        if (RECORDED / name).exists():
            raise SystemExit(f"an average is not kept over a stop: remove {RECORDED / name} to train {name} anew")
    piece, best = validation[:PIECE], Best(name) if settings.get("kind") == "chat" else None

    def evaluate(_):
        found = program.bits(program.model, piece, sizes)
        return dict(validation=best.see(program.model, found) if best else found)

    run = begin(RECORDED / name, seed=settings["seed"], settings=settings, data=dict(train=own, validation=validation), repository=ROOT)
    go_on = functools.partial(
        train, program.trained, program.batches, program.optimizer, schedule=program.schedule, clip=settings["clip"], loss=program.loss,
        evaluate=evaluate, evaluate_every=max(settings["steps"] // program.judgements, 10 if best else 50),
        run=run, save_every=SAVE_EVERY, device=device)
    history, written = by_ages(name, settings, go_on, program.model)
    judged = averaged.module if averaged else program.model
    if best:
        best.put_back(judged)
    score = program.bits(judged, validation, sizes)
    losses, per_byte = np.array([record["loss"] for record in history]), (program.per_byte or len(own) / sizes[own].sum()) / math.log(2)
    session = run.record["sessions"][-1]
    kept = dict(settings=settings, validation=round(float(score), 4), training=round(float(losses[-50:].mean() * per_byte), 4),
                seconds=round(history[-1]["seconds"], 1), parameters=sum(p.numel() for p in program.model.parameters()),
                device=device, epochs=round(settings["steps"] / program.batches.per_epoch, 3),
                data=run.record["data"], sessions=len(run.record["sessions"]), **{key: session[key] for key in ("begun", "commit", "patch", "machine", "versions", "threads")},
                curve=[[record["step"] + 1, round(record["seconds"], 1), round(record["validation"], 4)] for record in history if "validation" in record])
    if program.folder != "lstm":
        kept |= dict(losses=[round(float(part.mean() * per_byte), 4) for part in np.split(losses, range(10, len(losses), 10))], samples=written)
    about = dict(run=name, commit=session["commit"], vocabulary=settings["vocabulary"])
    if name in WEIGHTS:
        save_weights(DATA / program.folder / f"{name}.safetensors", judged, **about)
    if name in EIGHT_BITS:
        file = DATA / program.folder / f"{name}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_quantised(file, judged, **about)
        judged = load_quantised(file)
    if name == "released":
        kept |= dict(released=of_released(judged, settings, validation, sizes))
    if best:
        kept |= dict(chat=of_chat(judged, settings, sizes))
    print(f"{name}: {score:.4f} bits per byte of validation, {history[-1]['seconds']:.0f} s", flush=True)
    return DATA / program.folder / "runs.json", kept


def keep(name, file, kept):
    """Add what is kept of a run to the others of its folder."""
    every = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_atomically(file, json.dumps(every | {name: kept}, indent=1, sort_keys=True) + "\n")


def carry_out(name):
    """Train the run called `name`, or go on with it, and keep its curve."""
    keep(name, *trained(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["released"], help=f"of {', '.join(RUNS)}")
    parser.add_argument("-n", "--jobs", type=int, default=1, help="how many runs at a time, each on the threads that OMP_NUM_THREADS allows, or that its settings name")
    parser.add_argument("--device", default="cpu", choices=["cpu", *accelerators()], help="where to train (cpu)")
    arguments = parser.parse_args()
    chosen = {pattern: fnmatch.filter(RUNS, pattern) for pattern in arguments.names}
    for pattern, names in chosen.items():
        if not names:
            parser.error(f"no run is called {pattern}; there are {', '.join(RUNS)}")
    failed = []
    start = multiprocessing.get_context(None if arguments.device == "cpu" else "spawn")  # CUDA does not outlive a fork
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, start) as workers:
        begun = {workers.submit(trained, name, arguments.device): name for names in chosen.values() for name in names}
        for done in concurrent.futures.as_completed(begun):
            if error := done.exception():
                traceback.print_exception(error)
                failed.append(begun[done])
            else:
                keep(begun[done], *done.result())
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; what the others gave is kept")


if __name__ == "__main__":
    main()
