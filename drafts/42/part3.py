from dsl import md, code

md("look-section", r"""
## What a trained one looks at

Now text. The model is `AttentionLM` with a single layer of four heads, over the 4,096 tokens of the last notebooks, trained here and now for some ten seconds on a few hundred conversations. That is little, but enough for it to find something worth looking at.
""")

code("corpus", r"""
from tokenizers import Tokenizer
from practitioner.corpus import load_corpus, serialise
from practitioner.lstm import encode_all, output_loss_in_parts
from practitioner.network import Windows, surprise_of

corpus = load_corpus()
tokenizer = Tokenizer.from_file("../data/lstm/bpe-4096.json")
tokens, _ = encode_all(tokenizer, corpus.train[:400])
validation, _ = encode_all(tokenizer, corpus.validation[:40])
text = [tokenizer.decode([token]) for token in range(tokenizer.get_vocab_size())]
sizes = np.array([len(tokenizer.id_to_token(token)) for token in range(len(text))])  # bytes
""")

code("train-reader", r"""
def in_parts(model, rows):
    '''The next-token loss, without ever holding all logits.'''
    return output_loss_in_parts(model.features(rows[:, :-1]), model.output, rows[:, 1:])

STEPS = 260
torch.manual_seed(seed())
reader = AttentionLM(len(text), n_embd=64, n_head=4, n_layer=1, tied=True)
optimizer = torch.optim.AdamW(reader.parameters(), lr=0.01, betas=(0.9, 0.98),
                              weight_decay=0.0, fused=True)
train(reader, Windows(tokens, 128, 8, seed()), optimizer, STEPS, loss=in_parts, clip=1.0,
      schedule=linear(STEPS, warmup=26), device="cpu")
piece = validation[:20_000]
bits = surprise_of(reader, piece, length=128, context=64, batch_size=16)
result("attention_live_validation", bits.sum() / sizes[piece].sum(), "bits per byte")
""".replace("'''", '"""'))

md("maps-text", r"""
No match for [the LSTM](32_lstm.ipynb) that had forty minutes; but it is one layer without a single hidden unit, and each thing it knows about the text it knows by looking. Where? To see the weights of a model, listen to its layers while it reads, and compute again what each looked at.
""")

code("maps", r"""
@torch.no_grad()
def maps_of(model, tokens):
    '''The weights of each causal attention layer over rows (B, T): (B, n_head, T, T) each.

    Of all modules with a method `heads`, in the order in which `model.features` runs them.'''
    found = []
    def listen(layer, inputs, output):
        q, k, _ = layer.heads(inputs[0])
        found.append(attention_weights(q, k, causal_mask(q.shape[-2]).to(q.device)))
    layers = [layer for layer in model.modules() if hasattr(layer, "heads")]
    listeners = [layer.register_forward_hook(listen) for layer in layers]
    try:
        model.features(tokens)
    finally:
        for listener in listeners:
            listener.remove()
    return found
""".replace("'''", '"""'), export=True)

code("exchange", r"""
turns = corpus.validation[101].turns[20:22]
said = torch.tensor([tokenizer.encode(serialise(turns)[:-1]).ids])     # (1, T)
pieces = [text[token].replace("\n", "↵") for token in said[0].tolist()]
exchange = maps_of(reader, said)[0][0]                                 # (n_head, T, T)
print(serialise(turns).strip())
""")

code("fig-maps", r"""
fig, panels = plt.subplots(2, 2, figsize=(7.2, 7.4), sharex=True, sharey=True)
for head, axes in enumerate(panels.flat):
    axes.imshow(exchange[head], cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"head {head + 1}", fontsize=9)
    axes.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=6)
    axes.set_yticks(range(len(pieces)), pieces, fontsize=6)
    axes.grid(False)
plt.show()
""", fig=("fig-attention-maps", "The four heads of the model over an exchange that it has never seen. A row is a token that looks, a column one that is looked at.",
          "Four squares of thirty-two by thirty-two tokens, blank above the diagonal. Each has dark fields on or near the diagonal and a few far from it. In the second, the row of each line break has one dark field: at the A with which the first turn begins, and, for the last row, at the B of the second."))


md("maps-after", r"""
Most of it is near the diagonal: tokens look at themselves and their neighbours. In places a whole group of rows is dark in one column, such as the pieces of `pineapple` that all look at the `a` before them. And there are a few dark fields far from the diagonal, alone in their row. Follow the rows of the line breaks (↵), the last one and the one in the middle. In one of the heads, the second here, they look at a single token, all the way back: at the letter with which their own turn began, once `A`, once `B`. (On your machine it may be another head.)

That is what a line break would want to know. After it comes a letter, and the letter is the other speaker's. [Inside the LSTM](33_inside_lstm.ipynb) found one cell, kept up through the whole turn, in which the network held whose turn it was. Here nobody keeps anything up. When the turn is over, the model looks it up.

A nice story; but two rows of a picture are an anecdote, and a weight says where a head looks, not whether it matters. (Whether such maps explain anything was fought over by [Jain and Wallace 2019](https://arxiv.org/abs/1902.10186) and [Wiegreffe and Pinter 2019](https://arxiv.org/abs/1908.04626).) So count, and intervene. Take all ends of turns in validation that have the turn's first letter in view; let the model say which letter comes next; then exchange that one letter, dozens of tokens back, and ask again.
""")

code("marks", r"""
A, B, END = (text.index(piece) for piece in ("A", "B", "\n"))
rows = torch.from_numpy(validation[:100 * 128].astype(np.int64)).view(-1, 128)
mark = torch.zeros_like(rows, dtype=torch.bool)
mark[:, 1:] = torch.isin(rows[:, 1:], torch.tensor([A, B])) & (rows[:, :-1] == END)
asked = [(row, *places[i:i + 2]) for row in range(len(rows))
         for places in [mark[row].nonzero()[:, 0].tolist()] for i in range(len(places) - 1)]
row, last, now = torch.tensor(asked).T                                 # (N,) each
came, every = rows[row, now], torch.arange(len(row))
print(f"{len(row)} beginnings of a turn, {(now - last).double().mean():.0f} tokens after "
      "the mark before")
""")

code("marks-right", r"""
@torch.no_grad()
def marks_right(model, rows):
    '''How often the mark that came is held to be the likelier one, %.'''
    z = model.output(model.features(rows)[every, now - 1])             # (N, V)
    return 100 * ((z[:, B] > z[:, A]) == (came == B)).double().mean().item()

right = marks_right(reader, rows[row])
exchanged_rows = rows[row].clone()
exchanged_rows[every, last] = A + B - exchanged_rows[every, last]      # A for B, B for A
fooled = marks_right(reader, exchanged_rows)
print(f"right {right:.0f} %, with one token exchanged {fooled:.0f} %")
assert right > 85 and fooled < 20
""".replace("'''", '"""'), tags=["nbval-ignore-output"])

code("one-head", r"""
import copy

weights = maps_of(reader, rows[row])[0][every, :, now - 1]             # (N, n_head, T)
on_mark = (weights[every, :, last] + weights[every, :, last + 1]).mean(dim=0)
left = []
for head, share in enumerate(on_mark.tolist()):
    without = copy.deepcopy(reader)
    with torch.no_grad():
        without.layers[0].proj.weight[:, 16 * head:16 * head + 16] = 0
    left.append(marks_right(without, rows[row]))
    print(f"head {head + 1}: {100 * share:.0f} % of its weight on the letter and its colon; "
          f"without the head {left[-1]:.0f} % right")
assert left[on_mark.argmax()] == min(left) < 75
""", tags=["nbval-ignore-output"])

md("marks-after", r"""
All but a few are right; with *one* token exchanged, twenty and more places back, all but a few are wrong. And it goes through one head: take that one out, and the model is no better than a coin, while without another one it knows as well as before, or nearly.

In notebook 33 the same question needed a search over 512 cells, a statistic, and an intervention to confirm it. Here the mechanism lies open, in one matrix that one can look at. (In a model of many layers it will not be so easy: what stands at a place there is a mixture already.)

""")

md("induction", r"""
## Induction: to go on with what was said before

The task at which the LSTM of Part 3 failed was to say a list again. So let us have one: up to 32 different symbols out of 64, in random order, and then the same once more. Each symbol of the second copy is read after it was guessed. Whoever reads it could know all of them but the first.

How would attention do it? At the symbol `g` of the second copy, it would have to find the place *after* the first `g`. One layer cannot: a key is made of the token at its own place, and the place after `g` does not show that it comes after `g`. Two layers can. In the first, a head looks one place back, and writes into each place what stood before it. In the second, a head asks for "the place before which stood what stands here", and takes the token there. [Elhage et al. 2021](https://transformer-circuits.pub/2021/framework/index.html) found such pairs in models of two layers, and none in models of one, and called the second an **induction head**; [Olsson et al. 2022](https://arxiv.org/abs/2209.11895) found them in larger models, too, and saw them form all at once, early in training.

Three models are taught, in some seconds each: two layers of attention; one layer; and an LSTM with as many weights as the first. The LSTM is given an easier school, lists of eight symbols at most, as in notebook 33: on lists of up to 32 it does not begin to learn in so few steps. (Try it.)
""")

code("copies", r"""
from practitioner.lstm import LSTMLM

SYMBOLS, LONGEST = 64, 32

def copies(k, number, rng):
    '''Rows of k different symbols in random order, and the same once more: (number, 2 k).'''
    first = rng.permuted(np.tile(np.arange(SYMBOLS), (number, 1)), axis=1)[:, :k]
    return torch.from_numpy(np.concatenate([first, first], axis=1))

def second_copy_loss(model, rows):
    '''The loss over the second copy from its second symbol on.'''
    k = rows.shape[1] // 2
    return F.cross_entropy(model(rows[:, :-1])[:, k:].flatten(0, 1), rows[:, k + 1:].flatten())
""".replace("'''", '"""'))

code("train-copies", r"""
def taught_to_copy(model, longest, rate, steps=260):
    '''The loss of each step, in bits, while the model learns to go on with copies.'''
    def batches(step):
        rng = np.random.default_rng([seed(), step])
        return copies(int(rng.integers(2, longest + 1)), 32, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98),
                                  weight_decay=0.0)
    history = train(model, batches, optimizer, steps, loss=second_copy_loss, clip=1.0,
                    schedule=linear(steps, warmup=20), device="cpu")
    return np.array([record["loss"] for record in history]) / math.log(2)
""".replace("'''", '"""'))

code("pupils", r"""
torch.manual_seed(seed())
pupils = {"two layers": AttentionLM(SYMBOLS, 64, n_head=2, n_layer=2),
          "one layer": AttentionLM(SYMBOLS, 64, n_head=2, n_layer=1),
          "LSTM": LSTMLM(SYMBOLS, n_embd=64, n_hidden=64)}
school = {"two layers": (LONGEST, 0.008), "one layer": (LONGEST, 0.008), "LSTM": (8, 0.02)}
curves = {name: taught_to_copy(pupil, *school[name]) for name, pupil in pupils.items()}
for name, pupil in pupils.items():
    print(f"{name}: {sum(p.numel() for p in pupil.parameters()):,} parameters")
""")

code("continued", r"""
@torch.no_grad()
def continued_rightly(model, k):
    '''How many symbols of a second copy of k, from its second one on, are right.'''
    rows = copies(k, 256, np.random.default_rng(k))
    named = model(rows[:, :-1])[:, k:].argmax(dim=-1)
    return (named == rows[:, k + 1:]).double().sum(dim=1).mean().item()

LISTS = 2, 4, 8, 16, 24, 32, 48, 64
right = {name: [continued_rightly(pupil, k) for k in LISTS] for name, pupil in pupils.items()}
""".replace("'''", '"""'))

code("fig-induction", r"""
fig, (one, two) = plt.subplots(1, 2, figsize=(7.2, 3.1))
labels = {"two layers": (150, 0.3), "one layer": (110, 6.4), "LSTM": (165, 2.6)}
for (name, curve), color in zip(curves.items(), (BLUE, SKY, RED)):
    one.plot(np.convolve(curve, np.ones(10) / 10, "valid"), color=color)
    label_line(one, name + ", lists of 8" * (name == "LSTM"), *labels[name], color)
    two.plot(LISTS, right[name], "o-", color=color, markersize=4)
two.plot([1, 65], [0, 64], ":", color=GREY)
two.axvline(LONGEST, color=GREY, linewidth=1, linestyle=":")
label_line(two, "two layers", 64, right["two layers"][-1], BLUE)
label_line(two, "one layer, LSTM", 40, 4.5, GREY)
one.set(xlabel="step", ylabel="bits a symbol, second copy", ylim=(0, 7), xlim=(0, 270))
two.set(xlabel="symbols in the list", ylabel="continued rightly", xlim=(0, 88))
plt.show()
""", fig=("fig-attention-induction", "Learning to go on with a list that was said before. Left, while training; right, how many symbols are continued rightly, by the length of the list. Dotted: all of it, and the longest list in training.",
          "Left, bits a symbol against steps: the line of two layers stays near six for eighty steps, then falls to nearly zero within fifty; one layer falls slowly to five; the LSTM, on lists of eight, falls steadily to about two. Right, symbols continued against symbols in the list: two layers follow the dotted diagonal to a list of 32 and fall behind after it; one layer and the LSTM stay below three throughout."))

code("induction-asserts", r"""
end = {name: curve[-20:].mean() for name, curve in curves.items()}
assert end["two layers"] < 0.3 and end["one layer"] > 3                # bits; guessing: 6
at = LISTS.index(LONGEST)
assert max(right["LSTM"]) < 4 and max(right["one layer"]) < 6
result("attention_induction_right", 100 * right["two layers"][at] / (LONGEST - 1),
       "% of a second copy of 32 symbols")
""")

md("induction-after", r"""
The LSTM does as in notebook 33, and for the same reason: shown more, it recalls no more. One layer of attention, which sees everything, cannot use it. Two layers have the whole list. Nothing had to be chosen in reading, so to keep more is no harder; what grows is the work of looking.

Look at the left panel, too. For some eighty steps the two layers are no better than the one. Then, within fifty, they are perfect. A likely reason: each half of the trick is worthless without the other, so for a long time the gradient has little to say; once there is a little of both, each makes the other pay. Olsson et al. saw it as a bump in the loss of language models while they were trained.

And beyond the dotted line on the right, on lists longer than any in training, it falls behind: rotary positions are no insurance. The head that looks one place back is all distance and goes on; the other one should not care for distances, but nobody has taught it that for such as it never saw.

Here are the two heads at work. First a number for each: the weight on the place before, and the weight on the place after the same symbol.
""")

code("induction-maps", r"""
k = 12
pair = copies(k, 200, np.random.default_rng(0))
lower, upper = maps_of(pupils["two layers"], pair)                     # (200, 2, T, T) each
places = torch.arange(k, 2 * k)                                        # the second copy
back_one = lower[:, :, places, places - 1].mean(dim=(0, 2))            # by head
after_same = upper[:, :, places, places - k + 1].mean(dim=(0, 2))
previous, inducing = int(back_one.argmax()), int(after_same.argmax())
assert back_one[previous] > 0.4
result("attention_induction_head", 100 * after_same[inducing].item(),
       "% of the weight on the place after the same symbol")
""")

code("fig-induction-maps", r"""
fig, panels = plt.subplots(1, 2, figsize=(7.2, 3.9))
names = [chr(ord("a") + i) for i in range(k)] * 2
shown = ("layer 1: the place before", lower[0, previous]), (
    "layer 2: after the same symbol", upper[0, inducing])
for axes, (title, matrix) in zip(panels, shown):
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(2 * k), names, fontsize=7)
    axes.set_yticks(range(2 * k), names, fontsize=7)
    axes.axhline(k - 0.5, color=GREY, linewidth=1)
    axes.axvline(k - 0.5, color=GREY, linewidth=1)
    axes.grid(False)
plt.show()
""", fig=("fig-attention-induction-maps", "Two heads of the model of two layers, over a list of twelve symbols and its repetition; the letters stand for the symbols, in the order in which they came.",
          "Two squares of twenty-four by twenty-four, each divided into quarters. Left, layer 1: a dark line just below the diagonal, all the way down. Right, layer 2: in the lower left quarter a dark line just above that quarter's diagonal, so that the second a looks at the first b, the second b at the first c; in the upper left quarter scattered fields."))

md("induction-maps-after", r"""
On the right, in the lower half: the second `a` looks at the first `b`, the second `b` at the first `c`. It is a line parallel to the diagonal, as far from it as the list is long, and nobody told the model how long the list would be. That is what to look for in a large model's maps if you suspect that it is repeating something.

In the dialogue of notebook 33 the dog had a name, and at the next question it was gone. A model with induction heads has an answer: find where `dog` was `called` something, and take what came next.

""")

md("check", r"""
## Check

`attend` against PyTorch's function, in both precisions, with masks of all kinds; values and gradients. (Where a mask lets a place look nowhere, PyTorch's function gives zeros, and ours refuses.)
""")

code("check-sdpa", r"""
torch.manual_seed(1)
some = torch.rand(2, 1, 7, 9) < 0.4
some[..., 0] = True                                                    # nobody looks nowhere
for dtype, off in (torch.float64, 1e-12), (torch.float32, 1e-6):
    for mask in None, some, causal_mask(7).repeat(1, 2)[:, :9]:
        inputs = [torch.randn(2, 3, T, 4, dtype=dtype, requires_grad=True) for T in (7, 9, 9)]
        found = []
        for y in attend(*inputs, mask), F.scaled_dot_product_attention(*inputs, mask):
            found.append([y, *torch.autograd.grad(y.sin().sum(), inputs)])
        for ours, theirs in zip(*found):
            assert torch.allclose(ours, theirs, rtol=0, atol=off)
""")

md("check-mha", r"""
And the layer against `nn.MultiheadAttention`, which keeps the three matrices in one as we do. Mind its mask: there `True` means *may not look*, the opposite of the other function's, in the same library. A mask handed to the wrong one of the two trains, too.
""")

code("check-mha-code", r"""
for dtype, off in (torch.float64, 1e-12), (torch.float32, 1e-6):
    ours = CausalAttention(12, 3).to(dtype)
    library = nn.MultiheadAttention(12, 3, batch_first=True).to(dtype)
    library.load_state_dict(dict(in_proj_weight=ours.qkv.weight, in_proj_bias=ours.qkv.bias,
                                 **{"out_proj.weight": ours.proj.weight,
                                    "out_proj.bias": ours.proj.bias}))
    x = torch.randn(2, 9, 12, dtype=dtype, requires_grad=True)
    pair = [ours(x), library(x, x, x, attn_mask=~causal_mask(9), need_weights=False)[0]]
    assert torch.allclose(*pair, rtol=0, atol=off)
    slopes = [torch.autograd.grad(y.sin().sum(), x)[0] for y in pair]
    assert torch.allclose(*slopes, rtol=0, atol=off)
""")

md("check-rotary", r"""
Rotary positions against another way to turn a point of the plane, multiplication with a complex number of length one; and the maps of a whole model against the gradient: nothing of the future, in no layer.
""")

code("check-rotary-code", r"""
x = torch.randn(3, 20, 8).double()
points = torch.complex(x[..., :4], x[..., 4:])
turned = points * torch.polar(torch.ones(20, 4).double(), angles(20, 8, begin=5))
assert torch.allclose(rotate(x, begin=5), torch.cat([turned.real, turned.imag], dim=-1))
for positions in POSITIONS:
    torch.manual_seed(2)
    model = AttentionLM(9, 8, 2, 2, positions, n_positions=12).double()
    def after_embedding(e):
        model.embedding.forward = lambda tokens: e[None]
        return model(torch.zeros(1, 12, dtype=torch.int64))[0]
    seen = influence(after_embedding, torch.randn(12, 8).double())
    assert (seen[future] == 0).all() and (seen[~future] > 0).all()
""")
