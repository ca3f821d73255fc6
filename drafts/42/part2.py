from dsl import md, code

md("positions", r"""
## Positions

Weights come from queries and keys, queries and keys from vectors, and in none of them stands *where* the vector was. Shuffle the places of a row, and the results are shuffled with them; nothing else changes. With a causal mask it is nearly as bad: what the last place takes is the same in whatever order the others stood.
""")

code("no-order", r"""
layer, x = CausalAttention(24, 3).double(), torch.randn(1, 10, 24).double()
order = torch.randperm(10)
free, shuffled = (attend(*layer.heads(rows)) for rows in (x, x[:, order]))
assert torch.allclose(free[:, :, order], shuffled)                     # (1, n_head, T, hs)

before = order[order < 9]                                              # the last stays last
moved = torch.cat([x[:, before], x[:, 9:]], dim=1)
assert torch.allclose(layer(x)[:, -1], layer(moved)[:, -1])
""")

md("cures", r"""
So the place has to be told. Three ways are in use.

**Learned.** A second table of embeddings, one for each place, is added to that of the token: $x_t = e_{w_t} + p_t$. GPT-1 does it. It can express anything about the places it was trained with, and has no row for one beyond.

**Sinusoidal.** The paper adds a vector that is computed. Think of clocks with hands of different speeds: at each place each hand has moved on by its own angle $\omega_i$, and the vector is where all their tips are.

$$p_t = (\sin \omega_0 t, \, \cos \omega_0 t, \, \sin \omega_1 t, \, \cos \omega_1 t, \, \dots) \qquad \omega_i = 10000^{-2i/n_\text{embd}}$$

The fastest hand goes round in six places, the slowest hardly moves in thousands. To go $k$ places on is to turn each hand by a fixed angle, wherever one is: a shift is a rotation (exercise 4), and the authors hoped that a network would find that easy to use.

**Rotary.** [Su et al. 2021](https://arxiv.org/abs/2104.09864) add nothing. They take the numbers of each query and each key in pairs, look at a pair as a point of the plane, and turn it by the angle $\omega_i t$. The product of a query and a key then depends on how far one has been turned *against* the other:

$$(R_t \, q) \cdot (R_s \, k) = q \cdot (R_{s - t} \, k)$$

so the score knows the distance of the two places, and not where they are. It does so in every layer, and the values are left alone. Most language models of the last years use it; so will [the recipe](../book/index.md) two notebooks on.

Sinusoids and rotations need the same table of angles.
""")

code("angles", r"""
def angles(T, n, theta=10_000.0, begin=0):
    '''The angles ω_i · t of places t = begin, begin + 1, …: float64 (T, n / 2).

    ω_i = theta^(−2i / n). Raises ValueError where n is odd.'''
    if n < 2 or n % 2:
        raise ValueError(f"angles belong to pairs of numbers: not to {n}")
    omega = theta ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
    return torch.arange(begin, begin + T, dtype=torch.float64)[:, None] * omega

def sinusoids(T, n_embd):
    '''The positions (T, n_embd) of Vaswani et al. 2017: sin and cos of `angles` in turn.'''
    turned = angles(T, n_embd)
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(1).float()
""".replace("'''", '"""'), export=True)

code("rotate", r"""
def rotate(x, theta=10_000.0, begin=0):
    '''Rotary positions (Su et al. 2021): the pairs of x (…, T, hs), turned by `angles`.

    A pair is number i and number i + hs/2, as in most released weights; the paper pairs
    neighbours. `begin` is the place of the first row.'''
    turned = angles(*x.shape[-2:], theta, begin).to(x.device)
    cos, sin = turned.cos().to(x.dtype), turned.sin().to(x.dtype)      # (T, hs / 2)
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)
""".replace("'''", '"""'), export=True)

md("two-layouts", r"""
Which numbers make a pair is a convention, and there are two. Within one model either will do, since the matrices that make queries and keys are learned for it. Between models it is a trap: weights made for neighbours and run with halves give nonsense without a word, as [many have found](https://github.com/huggingface/transformers/issues/25199).

What was promised, checked: the product of two sinusoidal positions depends on their distance only; so do the scores of turned queries and keys, wherever the row begins; and turning changes no length.
""")

code("check-positions", r"""
p, q, k = sinusoids(100, 64), torch.randn(50, 16).double(), torch.randn(50, 16).double()
products = p @ p.T
for distance in 0, 1, 7, 40:
    along = products.diagonal(distance)
    assert torch.allclose(along, along[:1].expand_as(along), atol=1e-4)
here, there = (rotate(q, begin=b) @ rotate(k, begin=b).T for b in (0, 1000))
assert torch.allclose(here, there) and not torch.allclose(here, q @ k.T)
assert torch.allclose(rotate(q).norm(dim=1), q.norm(dim=1))
""")

code("fig-positions", r"""
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), width_ratios=[1.2, 1])
left.imshow(p.T, cmap="PuOr", aspect="auto", interpolation="nearest")
left.set(xlabel="place", ylabel="number of the vector")
left.grid(False)
same = torch.ones(1, 64).double().expand(100, 64) / 8                  # one unit vector
for kind, color, line in (("sinusoidal, added", BLUE, products[0] / products[0, 0]),
                          ("rotary, the same vector", ORANGE,
                           (rotate(same)[:1] @ rotate(same).T)[0])):
    right.plot(line, color=color)
    label_line(right, kind, 30, 0.88 if color == BLUE else 0.74, color)
right.set(xlabel="distance of two places", ylabel="product", ylim=(0, 1.05))
plt.show()
""", fig=("fig-attention-positions", "Left, the sinusoidal positions of 100 places, 64 numbers each. Right, the product of two positions, and that of one and the same vector, turned as a query and as a key, against the distance.",
          "Left, a heat map with place from 0 to 99 along and the numbers of the vector down: fast stripes in the top rows, slower and slower waves further down, and below them rows that hardly change along, dark and light in turn. Right, two curves that lie on each other: from one at distance zero they fall quickly to three quarters and then waver down to less than a half."))

md("same-curve", r"""
The two curves are one and the same. A vector all of whose numbers are equal, turned, makes the very sum of cosines that the product of two sinusoidal positions is. The difference is in what becomes of it: sinusoids are *added* to what the token is, and every matrix has to disentangle the two; rotations touch nothing but the scores.

### What goes wrong without

To see it, a model that is nothing but attention: an embedding, layers whose results are added to what was there, as in [Initialisation](23_initialisation.ipynb) with a normalisation before each, and an output layer.
""")

code("attention-lm", r"""
POSITIONS = "none", "learned", "sinusoidal", "rotary"

class AttentionLM(nn.Module):
    '''A language model of attention and nothing else: tokens (B, T) → logits (B, T, V).

    Each layer adds its result to its normalised input's. `positions` is one of POSITIONS;
    learned ones reach as far as `n_positions`. `tied`: one matrix for input and output.'''

    def __init__(self, vocab_size, n_embd, n_head, n_layer, positions="rotary",
                 n_positions=512, tied=False):
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions are one of {POSITIONS}, not {positions!r}")
        self.positions = positions
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.places = nn.Embedding(n_positions, n_embd) if positions == "learned" else None
        self.norms = nn.ModuleList(nn.LayerNorm(n_embd) for _ in range(n_layer + 1))
        self.layers = nn.ModuleList(
            CausalAttention(n_embd, n_head, rotary=positions == "rotary")
            for _ in range(n_layer))
        self.output = nn.Linear(n_embd, vocab_size)
        if tied:
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(n_embd))
            self.output.weight = self.embedding.weight

    def features(self, tokens):
        '''What the output layer is given: (B, T, n_embd).'''
        x, T = self.embedding(tokens), tokens.shape[1]
        if self.places is not None:
            if T > len(self.places.weight):
                raise ValueError(f"no position was learned for the last of {T} places")
            x = x + self.places.weight[:T]
        if self.positions == "sinusoidal":
            x = x + sinusoids(*x.shape[1:]).to(x)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))
        return self.norms[-1](x)

    def forward(self, tokens):
        return self.output(self.features(tokens))
""".replace("'''", '"""'), export=True)

md("three-back", r"""
Its first lesson is as plain as can be: rows of random tokens, and at each place the model has to name the token *three places before*. Nothing about the tokens helps; only where they stand. One layer of one head, a few seconds for all four kinds of positions, rows of 32. Then we ask it on rows of 64, of which it has never seen the second half.
""")

code("three-back-code", r"""
from practitioner.experiments import train
from practitioner.steps import linear

def random_rows(step, T=32, rows=32):
    rng = np.random.default_rng([seed(), step])
    return torch.from_numpy(rng.integers(16, size=(rows, T)))

def back_loss(model, rows):
    return F.cross_entropy(model(rows)[:, 3:].flatten(0, 1), rows[:, :-3].flatten())

def three_back(positions, steps=120):
    '''How often, by place, the token three before is named in rows of 64: (61,).'''
    torch.manual_seed(seed())
    model = AttentionLM(16, 64, 1, 1, positions, n_positions=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    train(model, random_rows, optimizer, steps, loss=back_loss,
          schedule=linear(steps, warmup=20), device="cpu")
    rows = random_rows(steps, T=64, rows=256)
    with torch.no_grad():
        named = model(rows)[:, 3:].argmax(dim=-1)
    return (named == rows[:, :-3]).double().mean(dim=0).numpy()

named = {positions: three_back(positions) for positions in POSITIONS}
""".replace("'''", '"""'))

code("fig-three-back", r"""
fig, axes = plt.subplots(figsize=(7.2, 2.9))
for (positions, share), color in zip(named.items(), (GREY, GREEN, BLUE, ORANGE)):
    smoothed = np.convolve(np.pad(share, 1, "edge"), np.ones(3) / 3, "valid")
    axes.plot(range(3, 64), 100 * smoothed, color=color)
    label_line(axes, positions, 63, 100 * smoothed[-1], color)
axes.axvline(31.5, color=GREY, linewidth=1, linestyle=":")
axes.text(31, 50, "as far as it was\ntrained", ha="right", fontsize=9)
axes.set(xlabel="place", ylabel="% named", xlim=(0, 76), ylim=(0, 104))
plt.show()
""", fig=("fig-attention-three-back", "The token three places before: how often it is named, by place. Trained on rows of 32 places, asked on rows of 64.",
          "Four lines against the place from 3 to 63. Learned, sinusoidal and rotary are at a hundred per cent up to place 31, where a dotted line stands. There the learned one drops to a few per cent, the sinusoidal one falls and wavers between ten and sixty, the rotary one stays near a hundred. Without positions the line begins near a third and falls to a tenth."))

code("three-back-asserts", r"""
early = {positions: share[:28].mean() for positions, share in named.items()}
late = {positions: share[32:].mean() for positions, share in named.items()}
assert early["none"] < 0.35 < 0.95 < min(early[p] for p in POSITIONS[1:])
assert late["learned"] < 0.15 < late["rotary"] and late["sinusoidal"] < late["rotary"]
print("without positions: guessing; beyond the training, only rotary goes on")
""")

md("three-back-after", r"""
Without positions the layer does what it can: it knows *which* tokens have come, and names one of them. All three cures learn the task to perfection in a few seconds. Beyond the length of training they differ. The learned table has rows there that no gradient ever touched. The sinusoids have correct vectors there, but the matrices never saw them. Rotary positions go on, since three back is three back.

Two things that this figure does not show. A causal model of *several* layers is not as helpless without positions as ours: a place can find out how many stand before it, as [Haviv et al. 2022](https://arxiv.org/abs/2203.16634) showed of large ones that were given none. And that rotary positions go on beyond their training is true where a small, fixed distance is all that counts; *Induction*, below, has a case where they do not.

## What length costs

Every place looks at every place before it. Count the multiplications and additions of a layer for a row of $T$ places. The two linear layers cost $8 \, T \, n_\text{embd}^2$, in proportion to the length. Scores and averages cost $4 \, T^2 \, n_\text{embd}$ together, if the upper half of the square is computed and thrown away: that is the **quadratic** part. The two are equal at $T = 2 \, n_\text{embd}$; for shorter rows the length is not what you pay for. PyTorch can count.
""")

code("flops", r"""
from torch.utils.flop_counter import FlopCounterMode

n = 32
layer = CausalAttention(n, n_head=4)
for T in n, 2 * n, 8 * n:
    with FlopCounterMode(display=False) as counter:
        attend(*layer.heads(torch.randn(1, T, n)), causal_mask(T))     # all but proj
    assert counter.get_total_flops() == 6 * T * n ** 2 + 4 * T ** 2 * n
    print(f"{T:3} places: {4 * T ** 2 * n / (8 * T * n ** 2):.1f} times the linear part")
""")

md("memory", r"""
Memory is worse, since what the way back will need has to wait for it. PyTorch tells whoever asks what it keeps. A matrix of weights for each head, $T \times T$, is in it; and the fused function keeps none.
""")

code("memory-code", r"""
def kept_for_backward(function, *inputs):
    '''The bytes that wait for the way back after function(*inputs), each storage once.'''
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        function(*inputs)
    stores = [tensor.untyped_storage() for tensor in kept]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())

def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)

def written_out(q, k, v):
    return attend(q, k, v, causal_mask(q.shape[-2]))
""".replace("'''", '"""'))

code("memory-measure", r"""
LENGTHS = [64, 128, 256, 512, 1024]
kept = {}
for T in LENGTHS:
    qkv = [torch.randn(1, 4, T, 64, requires_grad=True) for _ in range(3)]
    kept[T] = [kept_for_backward(function, *qkv) for function in (written_out, fused)]
first, last = kept[LENGTHS[0]], kept[LENGTHS[-1]]
square, line, _ = np.polyfit(LENGTHS, [both[0] for both in kept.values()], 2)
print(f"written out: {square:.0f} T² + {line:.0f} T bytes")
assert round(square) == 4 * 4 + 1                      # four heads of float32, and a mask
assert last[1] == first[1] * LENGTHS[-1] / LENGTHS[0]  # fused: in proportion to T
""")

md("speeds-text", r"""
And time? Speeds are measured on a machine with nothing else to do, and published from there; one row of four heads of size 64, forward and backward. In a plot with two logarithmic axes a power is a straight line, and its exponent the slope.
""")

code("speeds", r"""
import json
import pathlib

speeds = json.loads(pathlib.Path("../data/speeds.json").read_text(encoding="utf-8"))
TIMED = [2 ** power for power in range(6, 13)]                         # 64 to 4096
times = {way: np.array([speeds[f"attention, {T} places, {way}"]["value"] for T in TIMED])
         for way in ("written out", "fused")}                          # milliseconds
""")

code("fig-cost", r"""
fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3))
memory = {way: [both[place] / 1e6 for both in kept.values()]
          for place, way in enumerate(times)}
for axes, lengths, found in (left, TIMED, times), (right, LENGTHS, memory):
    for (way, values), color in zip(found.items(), (RED, BLUE)):
        axes.loglog(lengths, values, "o-", color=color, markersize=4)
        label_line(axes, way, lengths[-1], values[-1], color)
    end, value = lengths[-1], found["written out"][-1]
    axes.loglog([end / 8, end], [value / 64 / 1.6, value / 1.6], ":", color=GREY)
    axes.set(xlabel="places in the row", xlim=(lengths[0] * 0.8, end * 6))
left.set(ylabel="milliseconds")
right.set(ylabel="MB kept for the way back")
plt.show()
""", fig=("fig-attention-cost", "What a longer row costs, forward and backward, four heads of size 64, one thread. Dotted: eight times the length, sixty-four times the cost.",
          "Two panels with logarithmic axes. Left, milliseconds against 64 to 4096 places: both ways of computing rise along the dotted line of slope two, the fused one well below the one that is written out. Right, megabytes kept against 64 to 1024 places: the one that is written out rises with slope two at the end, the fused one with slope one and ends far lower."))

code("fit", r"""
longest = slice(-4, None)                                              # 512 to 4096
for way, found in times.items():
    exponent = np.polyfit(np.log(TIMED[longest]), np.log(found[longest]), 1)[0]
    peak = speeds[f"attention, 4096 places, {way}, peak of memory"]["value"]
    print(f"{way}: time grows as the length to the power of {exponent:.1f}; "
          f"4096 places take {peak:.0f} MB")
    assert 1.5 < exponent < 2.5
assert times["fused"][-1] < times["written out"][-1]
""", tags=["nbval-ignore-output"])

md("fused-text", r"""
Both are quadratic in time; that is in the definition. The fused one is faster by a constant, and its *memory* is linear. How can one have a softmax over a row of weights without ever having the row?

By going through it in blocks. Suppose you have seen some of the keys, and know three things: the largest score $m$ so far, the sum $l$ of all $e^{\text{score} - m}$, and the values added up with these as weights. Along comes another block, perhaps with a larger score. Then all that was added up is too large by the same factor, $e^{m_\text{old} - m_\text{new}}$; multiply by it, add the block, and go on. At the end divide by $l$. Nothing is approximate. [Milakov and Gimelshein 2018](https://arxiv.org/abs/1805.02867) computed a softmax so, and [Dao et al. 2022](https://arxiv.org/abs/2205.14135) attention, forward and backward: on the way back the weights are not remembered but computed again, block by block. Their point is that a GPU takes longer to write a large matrix to its memory and read it back than to compute it twice.
""")

code("in-blocks", r"""
def attend_in_blocks(q, k, v, block=64):
    '''Causal `attend` for q, k, v (…, T, hs), never with more than block² weights at once.

    (Dao et al. 2022, the way forward.) Raises ValueError for a block below 1.'''
    if block < 1:
        raise ValueError(f"a block has at least 1 place, not {block}")
    rows = []
    for begin in range(0, q.shape[-2], block):
        asks = q[..., begin:begin + block, :] / math.sqrt(q.shape[-1])
        m = asks.new_full((*asks.shape[:-1], 1), -math.inf)            # the largest score
        total, y = torch.zeros_like(m), torch.zeros_like(v[..., begin:begin + block, :])
        for first in range(0, begin + block, block):                   # later ones: masked
            scores = asks @ k[..., first:first + block, :].transpose(-2, -1)
            if first == begin:
                scores = scores.masked_fill(~causal_mask(scores.shape[-1]), -math.inf)
            m_new = torch.maximum(m, scores.amax(dim=-1, keepdim=True))
            shrink, weights = (m - m_new).exp(), (scores - m_new).exp()
            total = shrink * total + weights.sum(dim=-1, keepdim=True)
            y = shrink * y + weights @ v[..., first:first + block, :]
            m = m_new
        rows.append(y / total)
    return torch.cat(rows, dim=-2)
""".replace("'''", '"""'), export=True)

code("in-blocks-check", r"""
q, k, v = 3 * torch.randn(3, 2, 4, 70, 16).double()                    # 70: no whole blocks
for block in 1, 16, 1000:
    y = attend_in_blocks(q, k, v, block)
    assert torch.allclose(y, attend(q, k, v, causal_mask(70)), rtol=0, atol=1e-12)
""")

md("fused-after", r"""
Our loop is Python and slow; the kernel does the same in one operation, whose blocks stay in the processor's cache. Blocks above the diagonal are skipped, which is half of the work.

For chat this decides much. An LSTM pays the same for every token. Attention pays for each token in proportion to what has been said before, and what has been said has to be kept, all of it: the price of not choosing. Part 5 will pay it while writing.
""")
