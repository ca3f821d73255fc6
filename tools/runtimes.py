"""The chat's model in two programs for a page, compared: the book's own JavaScript, and onnxruntime-web. For `tools/bench.py --onnxruntime-web`.

The model goes into the format ONNX with its cache: keys and values go in and come out. Once in float32, once with its matrices in 8 bits.
A page writes the same tokens by either; each time a new browser, which has nothing yet. The server is on this machine: what it takes to
download is told by the bytes."""
import contextlib
import importlib.metadata
import json
import math
import pathlib
import shutil
import sys
import tempfile

import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
from browser import NO_CHROMIUM, chromium, find_chromium, serve  # noqa: E402
from practitioner.cache import written_all  # noqa: E402
from practitioner.chat import prompt  # noqa: E402
from practitioner.chatbot import chat_folder, load_chatbot  # noqa: E402
from practitioner.corpus import load_corpus  # noqa: E402
from practitioner.scaling import load_quantised  # noqa: E402

COUNT, TIMES, REPLIES, SHORT = 60, 6, 50, 8
RUNTIME = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
KINDS = {"float32": "float32.onnx", "8 bits": "8-bits.onnx"}
SAID = "Hi! How was your weekend?", "It was great, I went hiking with my dog.", "Sounds fun! Where did you go?"
# Without these two headers a browser gives a page no memory that two threads share; a host of static files, such as GitHub Pages, does not send them.
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}

PAGE = """<!doctype html><link rel=icon href=data:,><script type=module>
const likeliest = (z) => z.reduce((best, value, i) => (value > z[best] ? i : best), 0);

// Each gives a function that takes the tokens to begin with and gives one that writes the next token.
async function plain() {
  const { Model } = await import("./model.js"), model = new Model(await (await fetch("weights")).arrayBuffer());
  return (prompt) => {
    const tokens = [...prompt];
    return () => { tokens.push(likeliest(model.after(tokens))); return tokens.at(-1); };
  };
}

async function onnx(name, threads, [L, H, hs]) {
  const ort = await import("./ort.wasm.min.mjs");
  Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: "/" });
  const session = await ort.InferenceSession.create(await (await fetch(name)).arrayBuffer(), { executionProviders: ["wasm"] });
  return (prompt) => {
    let past = new ort.Tensor("float32", new Float32Array(0), [L, 2, H, 0, hs]), next = prompt;
    return async () => {
      const found = await session.run({ past, tokens: new ort.Tensor("int64", BigInt64Array.from(next, BigInt), [1, next.length]) });
      next = [likeliest(found.logits.data)];
      past = found.kept;
      return next[0];
    };
  };
}

window.measure = async (how, given, prompt, count, others, short) => {
  const begun = performance.now(), start = await { plain, onnx }[how](...given), next = start(prompt);
  await next();
  const first = performance.now(), replies = [];
  for (let i = 1; i < count; i++) await next();
  const speed = 1000 * (count - 1) / (performance.now() - first);
  for (const other of others) {
    const next = start(other), reply = [];
    while (reply.length < short) reply.push(await next());
    replies.push(reply);
  }
  return { first: (first - begun) / 1000, speed, replies, isolated: self.crossOriginIsolated };
};
</script>"""


class ForPage(nn.Module):
    """A DecoderLM such as the chat's: tokens (1, T) and the past (L, 2, n_head, P, hs) → the logits (V,) after the last one, and the new past."""
    def __init__(self, model):
        super().__init__()
        self.model, sizes = model, model.settings
        self.shape = sizes["n_layer"], sizes["n_head"], sizes["n_embd"] // sizes["n_head"]
        hs, places = self.shape[2], torch.arange(sizes["n_positions"])
        angles = places[:, None] * 10000 ** (-torch.arange(0, hs, 2) / hs)              # (n_positions, hs / 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, past):
        P, T = past.shape[3], tokens.shape[1]
        at = torch.arange(P, P + T)
        cos, sin, seen = self.cos[at], self.sin[at], torch.arange(P + T) <= at[:, None]  # (T, hs / 2) twice, (T, P + T)

        def turned(x):
            one, other = x.chunk(2, dim=-1)
            return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
        x, kept = self.model.tokens(tokens), []
        for block, (keys, values) in zip(self.model.blocks, past.unbind()):
            q, k, v = block.qkv(block.norm_1(x)).unflatten(2, (3, *self.shape[1:])).permute(2, 0, 3, 1, 4)
            q, k = turned(block.q_norm(q)), turned(block.k_norm(k))                      # (1, n_head, T, hs)
            k, v = torch.cat([keys[None], k], dim=2), torch.cat([values[None], v], dim=2)
            kept.append(torch.cat([k, v]))
            shares = (q @ k.mT / math.sqrt(self.shape[2])).masked_fill(~seen, -1e9).softmax(dim=-1)
            x = x + block.proj((shares @ v).transpose(1, 2).flatten(2))
            x = x + block.network(block.norm_2(x))
        return self.model.output(self.model.norm(x[:, -1]))[0], torch.stack(kept)


def export(folder):
    """Write the model into the folder, as float32.onnx and as 8-bits.onnx; returns the shape (L, n_head, hs) of what it keeps of a token."""
    from onnxruntime.quantization import quantize_dynamic, QuantType
    whole = ForPage(load_quantised(chat_folder() / "chat.safetensors")).eval()
    L, H, hs = whole.shape
    new, old = torch.export.Dim("new", min=1, max=200), torch.export.Dim("old", min=0, max=255)
    example = torch.zeros(1, 7, dtype=torch.long), torch.zeros(L, 2, H, 5, hs)
    torch.onnx.export(whole, example, folder / "float32.onnx", dynamo=True, external_data=False, verbose=False,
                      input_names=["tokens", "past"], output_names=["logits", "kept"], dynamic_shapes=({1: new}, {3: old}))
    quantize_dynamic(folder / "float32.onnx", folder / "8-bits.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return whole.shape


def compare(web):
    """Speeds, times, bytes and faults of each way; `web` is the folder `dist` of onnxruntime-web. For bench.py: names, values and units."""
    program, bot, found, runs = find_chromium() or sys.exit(NO_CHROMIUM), load_chatbot(), {}, {}
    used = {name: importlib.metadata.version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    used["onnxruntime-web"] = json.loads((pathlib.Path(web).parent / "package.json").read_text(encoding="utf-8"))["version"]
    read = prompt(bot.dialect, SAID, bot.room)
    begun = [prompt(bot.dialect, conversation.turns[:1], bot.room) for conversation in load_corpus().test[:REPLIES]]
    wanted = written_all(bot.steps.lm, begun, SHORT)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        shape = export(folder)
        for file in *(pathlib.Path(web) / name for name in RUNTIME), ROOT / "book/_extra/chat/model.js":
            shutil.copy(file, folder)
        shutil.copy(chat_folder() / "chat.safetensors", folder / "weights")
        (folder / "index.html").write_text(PAGE, encoding="utf-8")
        static, isolated = (stack.enter_context(serve(folder, headers=headers)) for headers in ({}, ISOLATED))
        ways = {"JavaScript": (static, "plain", [], ["model.js", "weights"])}
        for kind, name in KINDS.items():
            for threads, address in (1, static), (2, isolated):
                way = f"onnxruntime-web, {kind}" + (threads > 1) * f", {threads} threads"
                ways[way] = address, "onnx", [name, threads, shape], [*RUNTIME, name]
        for turn in range(TIMES):                                # in turn, so that all meet the same weather
            for way, (address, how, given, _) in ways.items():
                with chromium(program) as browser:
                    page, used["chromium"] = browser.new_page(), browser.version
                    page.goto(address, wait_until="networkidle")
                    run = page.evaluate("(given) => measure(...given)", [how, given, read, COUNT, begun if turn == 0 else [], SHORT])
                    assert run["isolated"] == (address == isolated)
                    runs.setdefault(way, []).append(run)
        for way, (_, _, _, files) in ways.items():
            told = {"tokens a second": (max(run["speed"] for run in runs[way]), "tokens/s"), "first token": (min(run["first"] for run in runs[way]), "s")}
            if "threads" not in way:
                same = sum(one == other for one, other in zip(wanted, runs[way][0]["replies"]))
                told |= {"to download": (sum((folder / name).stat().st_size for name in files) / 1e6, "MB"), f"of {REPLIES} replies those of Python": (same, "replies")}
            found |= {f"chat in a page, {way}, {what}": (*measured, used) for what, measured in told.items()}
    return found
