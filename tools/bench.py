"""Measure speeds and weights and write them to data/speeds.json (`make bench`). Run it with nothing else on the machine.

Each speed is the best of several repetitions, in the unit that stands beside it; the book publishes speeds from here only.
What breaks a promise of the book (BOUNDS) is not recorded, and is an error."""
import argparse
import datetime
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from browser import NO_CHROMIUM, chromium, find_chromium, serve, weigh  # noqa: E402
from practitioner.book import machine, versions, write_atomically  # noqa: E402

FRONT, HEAVIEST = "front page, over the wire", "heaviest page, over the wire"
TURNS = 6  # how often the group `cache` measures each way
FIRST, TOKEN = "chat in the page, from Start to the first word", "chat in the page, a token"
LOOP = "training loop, over forward, backward and step"
BOUNDS = {"pages, from a clean tree": 60, "pages, nothing changed": 5, FRONT: 1, HEAVIEST: 3, FIRST: 3, TOKEN: 50, LOOP: 3, "BPE, learn": 60, "BPE, encode a megabyte, all words known": 1}  # s, s, MB, MB, s, ms, %, s, s


def best(function, repeat=3):
    """The shortest of `repeat` calls, in seconds."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def corpus():
    from practitioner.corpus import load_corpus

    def first_time():
        with tempfile.TemporaryDirectory() as folder:
            load_corpus(folder)
    return {"corpus, first time": (best(first_time), "s"), "corpus, cached": (best(load_corpus), "s")}


def huffman():
    from collections import Counter

    from practitioner.corpus import load_corpus
    from practitioner.information import decode, encode, huffman_code
    text = load_corpus().text("test")
    code = huffman_code(Counter(text))
    bits = encode(text, code)
    return {"Huffman, encode": (len(text) / best(lambda: encode(text, code)) / 1e6, "MB/s"),
            "Huffman, decode": (len(text) / best(lambda: decode(bits, code)) / 1e6, "MB/s")}


def ngrams():
    from practitioner.corpus import load_corpus
    from practitioner.prediction import bits_by_order, kneser_ney, NGramCounts, nodes_of, train_ngram
    corpus = load_corpus()
    train, validation, test = (corpus.text(split) for split in ("train", "validation", "test"))

    def all_orders():
        counts = NGramCounts(train, 8)
        bits_by_order(counts, nodes_of(counts, validation), kneser_ney())
    measured = {"n-grams, count and judge orders 0 to 8": (best(all_orders), "s")}
    for order in 8, 12:
        started = time.perf_counter()
        model = train_ngram(train, order)
        measured[f"n-gram of order {order}, train"] = time.perf_counter() - started, "s"
        measured[f"n-gram of order {order}, score"] = len(test) / best(lambda: model.probabilities(test)) / 1e6, "MB/s"

        def one_by_one():
            state = model.start()
            for byte in test[:20_000].encode():
                model.distribution(state)
                state = model.advance(state, byte)
        measured[f"n-gram of order {order}, one by one"] = 20_000 / best(one_by_one) / 1e6, "MB/s"
    return measured


def compressors():
    """On the test part; sizes of what takes too long for the notebook, too."""
    from practitioner.compression import Learner, Mixture, compress, decompress, general_compressors, given_size
    from practitioner.corpus import load_corpus
    from practitioner.prediction import train_ngram
    corpus = load_corpus()
    train, test = corpus.text("train").encode(), corpus.text("test").encode()
    primed = train_ngram(train)
    ours = {"learner": Learner, "mixture": lambda: Mixture(primed, Learner())}
    general = general_compressors(ppmd_order=7)
    pairs = {name: (pack, unpack, 3) for name, (pack, unpack) in general.items()}
    pairs |= {name: (lambda data, new=new: compress(data, new()), lambda file, new=new: decompress(file, new()), 1) for name, new in ours.items()}
    found = {}
    for name, (pack, unpack, repeat) in pairs.items():
        kept = {}
        seconds = best(lambda: kept.update(file=pack(test)), repeat), best(lambda: kept.update(back=unpack(kept["file"])), repeat)
        if kept["back"] != test:
            raise AssertionError(f"{name} did not give back what it was given")
        found[f"{name}, size"] = (len(kept["file"]), "bytes")
        for what, time_taken in zip(("compress", "decompress"), seconds):
            found[f"{name}, {what}"] = (len(test) / time_taken / 1e6, "MB/s")
    validation = corpus.text("validation").encode()
    order = min(range(8, 17, 2), key=lambda order: given_size("PPMd", validation, train, order))
    found["PPMd, given the training part, order"] = (order, "bytes")
    for name in general:
        found[f"{name}, given the training part, size"] = (given_size(name, test, train, order), "bytes")
    return found


def make(target):
    subprocess.run(["make", "--no-print-directory", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def book():
    make("book")  # the environment, if it is missing

    def clean():
        shutil.rmtree(ROOT / "_build" / "html", ignore_errors=True)
        shutil.rmtree(ROOT / "_build" / ".doctrees", ignore_errors=True)
        make("book")
    return {"pages, from a clean tree": (best(clean, 2), "s"), "pages, nothing changed": (best(lambda: make("book")), "s")}


def pdf():
    make("pdf")  # the environment and the pages, if they are missing
    return {"PDF of the book, from its pages": (best(lambda: make("pdf"), 2), "s")}


def weights():
    """What a first visit loads, in MB of a million bytes, texts compressed: of the front page, and of the page that takes most."""
    make("book")
    program = find_chromium() or sys.exit(NO_CHROMIUM)
    pages = re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    with serve(ROOT / "_build" / "html") as address, chromium(program) as browser:
        found = {page: weigh(browser, f"{address}{page}.html") / 1e6 for page in pages}
    return {FRONT: (found[pages[0]], "MB"), HEAVIEST: (max(found.values()), "MB")}


def page_chat():
    """The chat on the front page, in Chromium: from pressing Start to the first word of a reply, the browser's shelf empty; and then a token."""
    make("book")
    program, firsts, tokens = find_chromium() or sys.exit(NO_CHROMIUM), [], []
    settled = "() => document.querySelector('.chat').dataset.state === 'ready'"
    with serve(ROOT / "_build" / "html") as address, chromium(program) as browser:
        for _ in range(3):
            page = browser.new_context().new_page()
            page.goto(f"{address}book/index.html", wait_until="networkidle")
            started = time.perf_counter()
            page.click(".chat-send")
            page.wait_for_selector(".chat-bot span:not(:empty)")
            firsts.append(time.perf_counter() - started)
            for text in "What do you like to do?", "Tell me about your family.", "And what did you eat today?":
                page.wait_for_function(settled)
                page.fill(".chat-message", text)
                started = time.perf_counter()
                page.press(".chat-message", "Enter")
                page.wait_for_function(settled)
                tokens.append((time.perf_counter() - started) / int(page.inner_text(".chat-speed").split()[0]))
            page.context.close()
    return {FIRST: (min(firsts), "s"), TOKEN: (1000 * min(tokens), "ms")}


def loop():
    """What the training loop adds to forward, backward and step, in % of their time, for a model of a million parameters.

    On the one side these three alone, on batches that are there already; on the other the whole loop: batches from a memory-mapped file, the norm
    of the gradient, the schedule, the check, the record. Both in turn, so that a machine that slows down slows both; the median over the turns."""
    import statistics

    import numpy as np
    import torch
    from practitioner.corpus import load_corpus
    from practitioner.experiments import begin, load_tokens, save_tokens, train
    from practitioner.network import NeuralNGram, Windows, next_token_loss
    from practitioner.steps import cosine
    steps, bare, whole = 20, [], []
    with tempfile.TemporaryDirectory() as folder:
        save_tokens(f"{folder}/tokens.npy", np.frombuffer(load_corpus().text("train").encode(), np.uint8))

        def set_up():
            torch.manual_seed(0)
            model = NeuralNGram(context=8, n_embd=64, n_hidden=1275)
            return model, Windows(load_tokens(f"{folder}/tokens.npy"), 64, 16), torch.optim.AdamW(model.parameters(), fused=True)
        for turn in range(15):
            model, batches, optimizer = set_up()
            ready = [batches(step) for step in range(steps)]
            started = time.perf_counter()
            for batch in ready:
                loss = next_token_loss(model, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            bare.append(time.perf_counter() - started)
            model, batches, optimizer = set_up()
            run = begin(f"{folder}/{turn}", seed=0)
            history = train(model, batches, optimizer, steps, run=run, clip=1.0, schedule=cosine(steps), device="cpu", progress=False)
            whole.append(history[-1]["seconds"])  # without the checkpoint at the end
    return {LOOP: (100 * (statistics.median(b / a for a, b in zip(bare, whole)) - 1), "%"),
            "training loop, its model": (sum(p.numel() for p in model.parameters()), "parameters"),
            "training loop, forward, backward and step": (1000 * statistics.median(bare) / steps, "ms")}


def lstm():
    """A layer of LSTM in its four forms and as nn.LSTM: 32 rows of 64 places, forward and backward. And a step of the runs that `make train` makes."""
    import functools

    import numpy as np
    import torch
    from practitioner import lstm as forms
    from practitioner.experiments import train as fit
    from practitioner.recurrence import Carried, carried_loss, output_loss, Streams
    from train import LARGE, SMALL, USUAL
    B, T, found, layers = 32, 64, {}, {"eight products": forms.by_gates, "one product": forms.one_product, "inputs first": forms.inputs_first, "by hand": forms.by_hand}
    for n in 256, 512:
        torch.manual_seed(0)
        library = torch.nn.LSTM(n, n)
        weights = library.weight_ih_l0, library.weight_hh_l0, (library.bias_ih_l0 + library.bias_hh_l0).detach().requires_grad_()
        x, h = torch.randn(T, B, n, requires_grad=True), torch.zeros(B, n)
        ways = {name: lambda layer=layer: layer(x, h, h, *weights)[0].sum().backward() for name, layer in layers.items()}
        ways["nn.LSTM"] = lambda: library(x)[0].sum().backward()
        times = {name: [] for name in ways}
        for _ in range(12):  # in turn, so that a machine that slows down slows all
            for name, way in ways.items():
                times[name].append(best(way, 1))
        found |= {f"LSTM {n}, {name}": (1000 * min(each), "ms") for name, each in times.items()}
    tokens = np.random.default_rng(0).integers(0, 4096, 100_000)

    def step(sizes, vocabulary, loss, rows=B):
        torch.manual_seed(0)
        carried = Carried(forms.LSTMLM(vocabulary, **sizes), rows)
        optimizer = torch.optim.AdamW(carried.parameters(), lr=USUAL["rate"], fused=True)
        history = fit(carried, Streams(tokens % vocabulary, T, rows), optimizer, 12, loss=functools.partial(carried_loss, output_loss=loss), clip=1.0, device="cpu", progress=False)
        return 1000 * min(np.diff([record["seconds"] for record in history])), "ms"
    parts = forms.output_loss_in_parts
    return found | {"LSTM, a step of the large model": step(LARGE, 4096, parts), "LSTM, a step of the small model": step(SMALL, 4096, parts),
                    "LSTM, a step of the small model, all logits at once": step(SMALL, 4096, output_loss),
                    "LSTM, a step of the byte model": step(dict(n_embd=64, n_hidden=256), 256, parts, 16)}


def tokens():
    """Learning a vocabulary of 4,096 tokens and encoding with it, by ours and by the library (one thread each); counting and judging n-grams of tokens."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # before the library makes its threads
    from practitioner.corpus import load_corpus, serialise
    from practitioner.lstm import train_bpe
    from practitioner.tokens import BPE, encode_each, learn_bpe, TokenNGram
    corpus, kept = load_corpus(), {}
    texts = [serialise(conversation.turns) for conversation in corpus.train]
    text = corpus.text("test")
    megabytes = len(text.encode()) / 1e6
    found = {"BPE, learn 4,096 tokens": (best(lambda: kept.update(bpe=learn_bpe(texts, 4096)), 2), "s"),
             "tokenizers, learn 4,096 tokens": (best(lambda: kept.update(library=train_bpe(texts, 4096)), 2), "s")}
    bpe, library = kept["bpe"], kept["library"]
    found["BPE, encode a megabyte, no word known"] = best(lambda: BPE(bpe.merges).encode(text)) / megabytes, "s"
    found["BPE, encode a megabyte, all words known"] = best(lambda: bpe.encode(text), 5) / megabytes, "s"
    found["tokenizers, encode a megabyte"] = best(lambda: library.encode(text)) / megabytes, "s"
    found["BPE, encode the training part"] = best(lambda: kept.update(train=encode_each(BPE(bpe.merges), texts)[0]), 2), "s"

    def count():
        kept["model"] = TokenNGram(kept["train"], 4096, 5)
        kept["model"].tables
    found["5-gram of tokens, count"] = best(count, 2), "s"
    test = bpe.encode(text)
    return found | {"5-gram of tokens, score a megabyte": (best(lambda: kept["model"].probabilities(test)) / megabytes, "s")}


def attention():
    """Attention written out and fused: one row of 4 heads of 64, forward and backward, by length; and its peak of memory, each in a process of its own."""
    import torch
    from torch.nn import functional as F
    from practitioner.attention import attend, causal_mask
    found = {}
    for T in (2 ** power for power in range(6, 13)):
        qkv = [torch.randn(1, 4, T, 64, requires_grad=True) for _ in range(3)]
        ways = {"written out": lambda: attend(*qkv, causal_mask(T)).sum().backward(),
                "fused": lambda: F.scaled_dot_product_attention(*qkv, is_causal=True).sum().backward()}
        times = {name: [] for name in ways}
        for _ in range(max(4, min(60, 20_000 // T))):  # in turn, so that a machine that slows down slows both
            for name, way in ways.items():
                times[name].append(best(way, 1))
        found |= {f"attention, {T} places, {name}": (1000 * min(each), "ms") for name, each in times.items()}
    program = """if True:
        import pathlib, re, resource, sys, torch
        from torch.nn import functional as F
        from practitioner.attention import attend, causal_mask
        fused = sys.argv[1] == "fused"
        def once(T):
            qkv = [torch.randn(1, 4, T, 64, requires_grad=True) for _ in range(3)]
            y = F.scaled_dot_product_attention(*qkv, is_causal=True) if fused else attend(*qkv, causal_mask(T))
            y.sum().backward()
            if sys.platform == "linux":  # where ru_maxrss begins with the peak of the process that started this one
                return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        before = once(64)
        print(once(4096) - before)"""
    for name in "written out", "fused":
        told = subprocess.run([sys.executable, "-c", program, name], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        found[f"attention, 4096 places, {name}, peak of memory"] = int(told) / 1e6, "MB"
    return found


KERNELS = {"matrix products": "addmm mm addmm_", "attention": "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward",
           "GELU": "gelu gelu_backward", "norms": "native_layer_norm native_layer_norm_backward", "the optimiser": "_fused_adamw_",
           "softmax and loss": "exp_ amax sub_ sum div_ gather scatter_add_ log", "sums and copies": "add add_ copy_ mul mul_ zero_ fill_"}


def gpt():
    """A step of training the small GPT-1, with one thread and with two, beside the largest speed of a matrix product; where its time goes; its losses."""
    import numpy as np
    import torch
    from torch.nn import functional as F
    from practitioner.gpt import decay_groups, forward_flops, GPT, GPTConfig, tied_loss
    from practitioner.network import next_token_loss, Windows
    from train import GPT1
    torch.manual_seed(0)
    model = GPT(GPTConfig(4096, **GPT1["model"]))
    batches = Windows(np.random.default_rng(0).integers(0, 4096, 100_000), model.config.n_positions, GPT1["rows"])
    optimizer = torch.optim.AdamW(decay_groups(model, GPT1["decay"]), lr=GPT1["rate"], fused=True)

    def by_library(model, batch):
        return F.linear_cross_entropy(model.features(batch[:, :-1]).flatten(0, 1), model.tokens.weight, batch[:, 1:].flatten())

    def step(loss=tied_loss):
        optimizer.zero_grad()
        loss(model, batches(0)).backward()
        optimizer.step()
    square, found, usual = torch.randn(2048, 2048), {}, torch.get_num_threads()
    try:
        for threads, name in (1, ""), (2, ", 2 threads"):
            torch.set_num_threads(threads)
            step(), square @ square
            peak, seconds = 2 * 2048 ** 3 / best(lambda: square @ square, 10), best(step, 30)
            work = 3 * sum(forward_flops(model.config, GPT1["rows"], model.config.n_positions))
            found |= {f"matrix product, peak{name}": (peak / 1e9, "GFLOP/s"), f"GPT-1 small, a step{name}": (1000 * seconds, "ms"),
                      f"GPT-1 small, utilisation{name}": (100 * work / seconds / peak, "%")}
        torch.set_num_threads(1)
        for name, loss in {"all logits at once": next_token_loss, "F.linear_cross_entropy": by_library}.items():
            step(loss)
            found[f"GPT-1 small, a step, {name}"] = 1000 * best(lambda loss=loss: step(loss), 15), "ms"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(20):
                step()
    finally:
        torch.set_num_threads(usual)
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profile.key_averages()}
    shares = {what: 100 * sum(times.get(name, 0) for name in names.split()) / sum(times.values()) for what, names in KERNELS.items()}
    return found | {f"GPT-1 small, share of {what}": (share, "%") for what, share in (shares | {"all the rest": 100 - sum(shares.values())}).items()}


def recipe():
    """What a step of each change of the recipe costs in steps of GPT-1's, in processor time, the steps of all taken in turn so that all meet the same weather."""
    import numpy as np
    import torch
    from train import CHANGES, changed, DECODER, PROGRAMS
    rng, usual, programs, times = np.random.default_rng(0), torch.get_num_threads(), {}, {}
    try:
        torch.set_num_threads(1)
        for name, (_, change) in CHANGES.items():
            settings = changed(DECODER, change) | dict(steps=1000, seed=0)
            size = int(settings["vocabulary"].removeprefix("bpe-"))
            programs[name] = PROGRAMS["decoder"](settings, rng.integers(0, size, 100_000), np.ones(size, int))
        for turn in range(11):
            for name, program in programs.items():
                batch, begun = program.batches(turn), time.process_time()
                program.optimizer.zero_grad()
                program.loss(program.model, batch).backward()
                torch.nn.utils.clip_grad_norm_(program.model.parameters(), 1.0)
                program.optimizer.step()
                times.setdefault(name, []).append(time.process_time() - begun)
    finally:
        torch.set_num_threads(usual)
    middle = {name: float(np.median(taken[2:])) for name, taken in times.items()}
    return {"decoder, a step of GPT-1's recipe": (1000 * middle["gpt1"], "ms")} | {
        f"decoder, a step with {name}": (taken / middle["gpt1"], "steps of GPT-1's") for name, taken in middle.items() if name != "gpt1"}


COMPUTING = "aten::(mm|addmm|add_?|mul|gelu|native_layer_norm|copy_|fill_|arange|lift_fresh|embedding|_scaled_dot_product_flash_attention_for_cpu)"


def cache():
    """Tokens a second after some five hundred others at GPT-1's size, two threads: without a cache and with ours, in three kinds of layers, beside
    transformers' GPT-1 and GPT-2; how fast memory is read at best; what a pass over a few tokens takes, and a prefill; and what a cache weighs."""
    import itertools

    import torch
    from torch.nn import functional as F
    from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel
    from practitioner.cache import Cache, CachedLM, EightBitLinear, last_logits, OneRowLinear, rewind, with_linears
    from practitioner.gpt import GPT, GPTConfig
    usual, T = torch.get_num_threads(), 512
    torch.set_num_threads(2)
    torch.manual_seed(0)
    try:
        with torch.inference_mode():
            ours, text = GPT(GPTConfig()).eval(), torch.randint(40_478, (1, T))
            plain = CachedLM(ours)
            readers = {"cached": plain, "cached, by columns": with_linears(plain, OneRowLinear), "cached, 8 bits": with_linears(plain, EightBitLinear)}
            caches = {name: Cache(ours) for name in readers}
            gpt1 = OpenAIGPTLMHeadModel(OpenAIGPTConfig()).eval()
            gpt2 = GPT2LMHeadModel(GPT2Config()).eval()
            word = "cache" if "cache" in inspect.signature(gpt2.forward).parameters else "past_key_values"
            kept = {word: gpt2(text[:, :-8], use_cache=True, return_dict=False)[1]}
            for name, reader in readers.items():
                last_logits(reader, text[:, :-8], caches[name])

            def by_cache(name):
                rewind(caches[name], [T - 8])
                for place in range(T - 8, T):
                    last_logits(readers[name], text[:, place:place + 1], caches[name])

            def by_gpt2():
                for place in range(T - 8, T):  # always behind all that was read: in the end a few tokens more
                    gpt2(text[:, place:place + 1], use_cache=True, **kept)
            ways = {name: (8, lambda name=name: by_cache(name)) for name in readers}
            ways["transformers, GPT-2 with cache"] = 8, by_gpt2
            ways["transformers, GPT-1"] = 1, lambda: gpt1(text, use_cache=True)
            ways |= {f"naive at {t}": (1, lambda t=t: F.linear(ours.features(text[:, :t])[:, -1], ours.tokens.weight)) for t in (32, 128, T)}
            times = {name: [] for name in ways}
            matrix = torch.randn(40_478, 768)
            columns, row = matrix.T.contiguous().T, torch.randn(768)
            reading = [lambda: matrix.sum(), lambda: matrix.mv(row), lambda: columns.mv(row)]
            fastest = []
            for _ in range(TURNS):  # in turn, so that a machine that slows down slows all
                for name, (_, way) in ways.items():
                    times[name].append(best(way, 1))
                fastest += [best(way, 3) for way in reading]
            found = {f"GPT-1, {name.removesuffix(f' at {T}')}, tokens a second" + " at 512" * (" at " not in name or name.endswith(str(T))): (count / min(times[name]), "tokens/s")
                     for name, (count, _) in ways.items()}
            found["memory, fastest reading"] = matrix.nbytes / min(fastest) / 1e9, "GB/s"
            cache = Cache(ours)
            prefill = best(lambda: (rewind(cache, [0]), last_logits(plain, text, cache)), TURNS)
            found["GPT-1, prefill of 512, tokens a second"] = T / prefill, "tokens/s"
            quick, cache = readers["cached, by columns"], caches["cached, by columns"]
            passes = {k: [] for k in (1, 2, 4, 8, 16)}
            for _, k in itertools.product(range(2 * TURNS), passes):
                rewind(cache, [256])
                passes[k].append(best(lambda k=k: quick(text[:, 256:256 + k], cache), 1))
            rewind(caches["cached"], [T - 1])
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                last_logits(plain, text[:, -1:], caches["cached"])
            found["GPT-1, operations a token"] = sum(event.count for event in profile.key_averages() if re.fullmatch(COMPUTING, event.key)), "operations"
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                ours.features(text)
            shares = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profile.key_averages()}
            found["GPT-1, without a cache, share of matrix products"] = 100 * sum(shares.get(name, 0) for name in KERNELS["matrix products"].split()) / sum(shares.values()), "%"
            found |= {f"GPT-1, a pass over {k} tokens": (1000 * min(each), "ms") for k, each in passes.items()}
    finally:
        torch.set_num_threads(usual)
    program = """if True:
        import pathlib, re, torch
        from practitioner.cache import Cache
        from practitioner.gpt import GPT, GPTConfig
        with torch.device("meta"):
            model = GPT(GPTConfig())
        model.tokens = torch.nn.Embedding(1, 768)
        resident = lambda: 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        before, cache = resident(), Cache(model, rows=4)
        cache.keys.fill_(1), cache.values.fill_(1)
        print((resident() - before) / 4)"""
    if sys.platform == "linux":
        told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        found["GPT-1, cache of 512 places, memory"] = float(told) / 1e6, "MB"
    return found


def lora():
    """A step of fine-tuning the typed model, of all weights and at each rank that the runs have, in processor time, in turn so that all meet the same weather. And at
    GPT-1's size, 512 tokens on one thread: seconds, and the peak of memory, each in a process of its own."""
    import numpy as np
    import torch
    from train import LORA_COST, PROGRAMS, RUNS
    usual, programs, times = torch.get_num_threads(), {}, {}
    try:
        torch.set_num_threads(1)
        for name, run in {"all weights": "taught-200-1", **{f"rank {r}": f"lora-{r}-1" for r in LORA_COST}}.items():
            torch.manual_seed(0)
            programs[name] = PROGRAMS["chat"](RUNS[run], None, None)
        for turn in range(31):
            for name, program in programs.items():
                batch, begun = program.batches(turn), time.process_time()
                program.optimizer.zero_grad()
                program.loss(program.model, batch).backward()
                torch.nn.utils.clip_grad_norm_(program.model.parameters(), 1.0)
                program.optimizer.step()
                times.setdefault(name, []).append(time.process_time() - begun)
    finally:
        torch.set_num_threads(usual)
    found = {f"typed, a step of fine-tuning, {name}": (1000 * float(np.median(taken[3:])), "ms") for name, taken in times.items()}
    program = """if True:
        import pathlib, re, resource, sys, time, torch
        from practitioner.chat import chat_loss
        from practitioner.lora import adapter_loss, adapter_state, with_lora
        from practitioner.recipe import DecoderLM, fused_adamw, Recipe
        torch.set_num_threads(1)
        thin, V = sys.argv[1] != "all weights", 40_481
        model = DecoderLM(Recipe(V, 512, 768, 12, 12, 4 * 768)).requires_grad_(not thin)
        if thin:
            model = with_lora(model, r=int(sys.argv[1].split()[1]), alpha=16, new_tokens=3)
        learns = list(adapter_state(model).values() if thin else model.parameters())
        optimizer, loss = fused_adamw([dict(params=learns, weight_decay=0.01)], 1e-4), adapter_loss if thin else chat_loss
        tokens, whose, counted = torch.randint(V, (4, 129)), torch.zeros(4, 129).long(), torch.rand(4, 129) < 0.5
        seconds = []
        for _ in range(4):
            begun = time.perf_counter()
            optimizer.zero_grad()
            loss(model, (tokens, whose, counted)).backward()
            torch.nn.utils.clip_grad_norm_(learns, 1.0)
            optimizer.step()
            seconds.append(time.perf_counter() - begun)
        if sys.platform == "linux":  # where ru_maxrss begins with the peak of the process that started this one
            peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(min(seconds), peak)"""
    for name in "all weights", "rank 16":
        told = subprocess.run([sys.executable, "-c", program, name], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
        found |= {f"GPT-1, a step of fine-tuning, {name}": (float(told[0]), "s"), f"GPT-1, a step of fine-tuning, {name}, peak of memory": (float(told[1]) / 1e9, "GB")}
    return found


def bound(name):
    """What is promised of the measurement called `name`; infinity where nothing is."""
    return next((limit for start, limit in BOUNDS.items() if name.startswith(start)), float("inf"))


def main():
    groups = {"corpus": corpus, "huffman": huffman, "ngrams": ngrams, "loop": loop, "lstm": lstm, "gpt": gpt, "recipe": recipe, "attention": attention, "cache": cache, "lora": lora, "tokens": tokens, "compressors": compressors, "book": book, "pdf": pdf, "weights": weights, "page_chat": page_chat}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(groups)}; without any, all of them")
    parser.add_argument("--onnxruntime-web", type=pathlib.Path, metavar="FOLDER", help="its folder `dist`, as npm installs it: compares it with the chat in the page, as the group `runtimes`; "
                        "needs onnx, onnxscript and onnxruntime, which the book does not")
    options = parser.parse_args()
    if options.onnxruntime_web:
        from runtimes import compare  # (tools/runtimes.py)
        groups["runtimes"] = lambda: compare(options.onnxruntime_web)
    chosen = options.groups or list(groups)
    if unknown := set(chosen) - set(groups):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(groups)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if load > 0.5:
        print(f"warning: the load is {load:.1f}; these speeds are of a busy machine", file=sys.stderr)
    file = ROOT / "data" / "speeds.json"
    speeds = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    broken = []
    for group in chosen:
        found = groups[group]()
        for name, (value, unit, *more) in found.items():     # more: versions of what only this group uses
            exact = isinstance(value, int)
            print(f"{name:40} {value if exact else format(value, '.3g'):>8} {unit}", flush=True)
            if value >= bound(name):
                broken.append(f"{name}: {value:.3g} {unit}, where the book promises less than {bound(name)}")
                continue
            speeds[name] = {"value": value if exact else float(f"{value:.3g}"), "unit": unit, "date": str(datetime.date.today()), "machine": machine(), "versions": versions() | dict(*more)}
    write_atomically(file, json.dumps(speeds, indent=1, sort_keys=True) + "\n")
    sys.exit("\n".join(broken) or None)


if __name__ == "__main__":
    main()
