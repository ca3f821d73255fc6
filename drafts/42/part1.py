from dsl import md, code

md("head", r"""
# Attention

> Each place of a text asks, all places before it answer, and the answers are averaged by how well they fit: by hand on four words, then for all places at once, without the future, in several heads, with positions; what it costs; and what a trained one looks at.

At the end you can write causal multi-head attention from one formula, prove that it does not see the future, say what each of its parts is for and what goes wrong without it, what a longer text costs, and read the maps of a model that you have trained yourself. It needs [Inside the LSTM](33_inside_lstm.ipynb), whose last question it answers, and [The LSTM](32_lstm.ipynb), to be held against; [The first network](22_first_network.ipynb), [Steps](24_steps.ipynb) and [Experiments](25_experiments.ipynb) for the training; [Silent bugs](26_silent_bugs.ipynb) for its questions; and [Real conversations](10_corpus.ipynb) for its text. It runs in under a minute on one core and takes a gigabyte of memory.
""")

md("by-hand", r"""
## One weighted average by hand

Part 3 ended with a dog whose name was lost. All that an LSTM knows of the past is a state of fixed size; what goes into it has to be chosen when it is read, before anybody knows what will be asked. The other way is to choose nothing. Keep everything that was read, where it was read, and look back when you need something.

Translators were the first to need it. A network of 2014 read a sentence in one language into a single vector and wrote it out of that vector in another, and did badly on long sentences. [Bahdanau, Cho and Bengio 2014](https://arxiv.org/abs/1409.0473) kept all the states of the reader, and let the writer look back at them anew for each word that it wrote. [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762) kept the looking back and threw the recurrence away. Their paper has [a page of its own](../book/papers/vaswani-2017.md) in this book; here we build what it is made of.

How can a network *look*, if it is to learn by gradient where to look? "Take the fourth word" has no slope. "Take a little more of the fourth word" has one. So let us take some of every word: an average, with weights that say how much of each.

Four words have been read, and somebody asks for the name of an animal. Each word has a **key**, two numbers that say what kind of thing is to be had here: something of an animal? something of a name? The question, a **query**, has the same two numbers. Key and query are multiplied number by number and added up; that is the **score** of the word. The softmax turns scores into weights. What is averaged is a third thing, the **value** of the word: what it hands over to whoever looks at it.
""")

code("look", r"""
import numpy as np

words = ["our", "dog", "called", "Biscuit"]
keys = np.array([[0, 0], [2, 0], [0, 1], [1, 2]])      # an animal? a name?
values = np.array([[1, 0], [0, 2], [1, 1], [3, 4]])    # what each word hands over

def look(query, show=False):
    '''The average of the values, weighted by how well the keys fit a query (2,).'''
    scores = keys @ query                                              # (4,)
    weights = np.exp(scores) / np.exp(scores).sum()
    if show:
        for word, score, weight in zip(words, scores, weights):
            print(f"{word:8}{score:3}{weight:7.3f}")
    return weights @ values                                            # (2,)

taken = look(np.array([1, 2]), show=True)
print("taken:", taken.round(3))
""".replace("'''", '"""'))

md("by-hand-after", r"""
Follow it with a pencil. The key of `Biscuit` times the query is one and four, so its score is five; `dog` and `called` fit by half, each in its own way, and come to two. Five and two seem near to each other, but the softmax sees differences, and $e^3$ is about twenty: `Biscuit` has twenty times the weight of `dog`. The average is therefore nearly the value of `Biscuit`, with a touch of the others in it.

Another query over the same keys takes something else. And a longer query of the same direction takes more sharply: times zero it is the plain mean of all four, times four it is `Biscuit` and nothing more.
""")

code("other-queries", r"""
print("an animal:", look(np.array([2, 0]), show=True).round(3))
for times in 0, 1, 4:
    print(f"name of an animal, times {times}:", look(times * np.array([1, 2])).round(3))
assert np.allclose(look(np.zeros(2)), values.mean(axis=0))
assert np.allclose(look(np.array([4, 8])), values[3], atol=1e-3)
""")

md("why-smooth", r"""
So nothing was chosen, and all four words were taken; one of them nearly alone. That is what makes it learnable: if the answer was bad, the gradient says of each score whether it should have been larger. And it does not matter how far back a word stands. `Biscuit` may be four words ago or four hundred, the score is computed from its key in the same way, in a single step, and the gradient comes back in a single step.

<details><summary><b>Predict.</b> Two texts of three words, <code>dog bites man</code> and <code>man bites dog</code>. Is what the last place takes the same in both? (Mind that the last word has a query, too.) And if a word before them, say <code>and</code>, does the asking: can it tell the two texts apart?</summary>

The last words differ, so their queries do. But <code>and</code>, placed after either text, asks the same query of the same three keys, and the average has no order: it cannot tell who bites whom. The section <i>Positions</i> is about that.

</details>

## Queries, keys and values

Nobody writes keys by hand. At each place $t$ of a row stands a vector $x_t$ of $n_\text{embd}$ numbers, at first the embedding of the token there. Three learned matrices make of it what the place asks, what it is found by, and what it hands over:

$$q_t = W_q x_t \qquad k_t = W_k x_t \qquad v_t = W_v x_t$$

The place $t$ then takes from each place $s$ the share $\alpha_{ts}$:

$$y_t = \sum_s \alpha_{ts} \, v_s \qquad \alpha_{ts} = \frac{\exp(q_t \cdot k_s / \sqrt{\text{hs}})}{\sum_r \exp(q_t \cdot k_r / \sqrt{\text{hs}})}$$

Here hs is how many numbers a query has, and a key; the root under the score is new, and has a section of its own below. A programmer may think of a dictionary that never raises `KeyError`: it compares what you ask with every key, and returns a mixture of all values, mostly of those whose keys fit.

Why three vectors and not one? With $q = k$ every place would fit itself best, since no vector of its length is more like it than it is. With $v = k$ a place could hand over nothing but what it is found by; but one looks for "a name" to be told *which*.

For all places at once the queries are the rows of a matrix $Q$, $T \times \text{hs}$, the keys and values those of $K$ and $V$, and the whole is three operations:

$$Y = \operatorname{softmax}\!\Big(\frac{Q K^\top}{\sqrt{\text{hs}}}\Big) V$$

This is equation 1 of the paper, and all the code there is. The weights have a function of their own, since we shall want to see them. A mask, which comes in a moment, says who may look where; a place that may look nowhere has no average, and is refused.
""")

code("attend", r"""
import math
import torch
from torch import nn
from torch.nn import functional as F

def attention_weights(q, k, mask=None):
    '''softmax(q kᵀ / √hs): what share each place takes of each (Vaswani et al. 2017).

    q (…, T, hs), k (…, S, hs) → (…, T, S); each row sums to 1. `mask`, bool, of a shape
    that broadcasts to (…, T, S), is True where a place (row) may look at a place (column);
    ValueError for another dtype, and where a place may look nowhere.'''
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        if mask.dtype != torch.bool or not mask.any(dim=-1).all():
            raise ValueError("a mask is bool, and lets each place look somewhere: this is "
                             f"{mask.dtype} {tuple(mask.shape)}")
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)

def attend(q, k, v, mask=None):
    '''The values v (…, S, m), averaged by `attention_weights`: (…, T, m).'''
    return attention_weights(q, k, mask) @ v
""".replace("'''", '"""'), export=True)

code("attend-by-hand", r"""
q = math.sqrt(2) * torch.tensor([[1.0, 2.0]])          # √hs, which we had not divided by
k, v = torch.tensor(keys).float(), torch.tensor(values).float()
assert np.allclose(attend(q, k, v)[0], taken)
""")

code("shapes", r"""
import matplotlib.pyplot as plt
from practitioner.book import use_style, label_line, result, seed, judge
from practitioner.book import BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY

use_style()
words = ["our", "dog", "called", "Biscuit", "likes", "pizza"]
T, hs = len(words), 4
torch.manual_seed(2)
q, k, v = (torch.randn(T, hs) for _ in range(3))
weights = attention_weights(q, k)                                      # (T, T)
""")

code("fig-shapes", r"""
parts = [("Q\nT × hs", q, "PuOr"), ("$K^\\top$\nhs × T", k.T, "PuOr"),
         ("weights\nT × T", weights, "Blues"), ("V\nT × hs", v, "PuOr"),
         ("Y\nT × hs", attend(q, k, v), "PuOr")]
fig, panels = plt.subplots(1, 5, figsize=(7.2, 2.2), width_ratios=[4, 6, 6, 4, 4])
for axes, (title, matrix, colours), sign in zip(panels, parts, ("·", "→", "·", "=", "")):
    limit = matrix.abs().max()
    axes.imshow(matrix, cmap=colours, vmin=0 if colours == "Blues" else -limit, vmax=limit)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.annotate(sign, (1, 0.5), xycoords="axes fraction", xytext=(8, 0), fontsize=13,
                  textcoords="offset points", ha="center", va="center")
    axes.grid(False)
for axes in panels[0], panels[2]:
    axes.set_yticks(range(T), words, fontsize=7)
panels[2].set_xticks(range(T), words, fontsize=7, rotation=90)
plt.show()
""", fig=("fig-attention-shapes", "Attention as matrices, for six words and random queries, keys and values. A row of the weights says what share one word takes of each; it sums to one.",
          "Five heat maps in a row. Q, six rows of four numbers, times K transposed, four rows of six, gives the weights, a square of six by six in which each row has one or two dark fields; times V, six by four, gives Y, six by four. The rows of the weights and their columns bear the words our, dog, called, Biscuit, likes, pizza."))

md("scaling", r"""
## Why it is divided by a root

Let the numbers in a query and in a key be independent, with mean zero and variance one, as [a good initialisation](23_initialisation.ipynb) makes them. Each product of two such numbers has mean zero and variance one; a score is the sum of hs of them, so its variance is hs, and its standard deviation $\sqrt{\text{hs}}$. That is a footnote of the paper. It matters because the softmax does not forgive size. Scores that are eight apart are weights of one to three thousand: the softmax has made up its mind before anything was learned. And a softmax that has made up its mind has no slope: the derivative of a weight by its own score is $\alpha (1 - \alpha)$, which is nothing at zero and nothing at one.

Measure it. For query and keys of more and more numbers: the standard deviation of the scores, the largest of 32 weights, and the sum of the slopes $\alpha_s (1 - \alpha_s)$, each with the root and without.
""")

code("measure-scaling", r"""
SIZES, N = [2 ** power for power in range(11)], 500                    # 1 to 1024
generator = torch.Generator().manual_seed(seed())
deviation, largest, slope = {}, {}, {}
for hs in SIZES:
    q = torch.randn(N, hs, 1, generator=generator)
    k = torch.randn(N, 32, hs, generator=generator)
    scores = (k @ q)[:, :, 0]                                          # (N, 32)
    deviation[hs] = scores.std().item()
    for divided, root in (False, 1), (True, math.sqrt(hs)):
        weights = (scores / root).softmax(dim=-1)
        largest[hs, divided] = weights.amax(dim=-1).mean().item()
        slope[hs, divided] = (weights * (1 - weights)).sum(dim=-1).mean().item()
""")

code("fig-scaling", r"""
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7.2, 2.6))
left.loglog(SIZES, list(deviation.values()), "o", color=BLUE, markersize=4)
left.loglog(SIZES, np.sqrt(SIZES), color=GREY, linewidth=1)
left.set(xlabel="hs", ylabel="deviation of the scores")
for axes, found in (middle, largest), (right, slope):
    for divided, color in (False, RED), (True, BLUE):
        line = [found[hs, divided] for hs in SIZES]
        axes.semilogx(SIZES, line, "o-", color=color, markersize=4)
        label_line(axes, "divided" if divided else "not", SIZES[-1], line[-1], color)
    axes.set(xlabel="hs", ylim=(0, 1.02), xlim=(0.7, 20_000))
    axes.set_xticks([1, 10, 100, 1000])
middle.set(ylabel="largest of 32 weights")
right.set(ylabel="sum of the slopes")
plt.show()
""", fig=("fig-attention-scaling", "Random queries and keys of hs numbers. Left, the standard deviation of a score, and the root of hs (grey). Middle and right: without the division the softmax makes up its mind, and has no slope any more.",
          "Three panels against hs from 1 to 1024, logarithmic. Left, dots on a straight line that rises from one to thirty-two. Middle, the largest weight: without division it rises from a fifth to nearly one, with it it stays near a fifth. Right, the sum of the slopes: without division it falls from nine tenths towards zero, with it it stays at nine tenths."))

code("publish-scaling", r"""
result("attention_deviation_64", deviation[64], "standard deviation of a score")
result("attention_largest_64", largest[64, False], "largest of 32 weights, not divided")
result("attention_largest_64_divided", largest[64, True], "largest of 32 weights, divided")
assert np.allclose(list(deviation.values()), np.sqrt(SIZES), rtol=0.1)
""")

md("scaling-after", r"""
With 64 numbers, which is the size of a head in the paper and in GPT-1, an undivided softmax gives four fifths of the weight to one word out of thirty-two, drawn by lot. Divided, it spreads its attention and can be taught. Note what the root does *not* do: it makes the scores of a *new* network small. In a trained one they become as large as they want, and often a head wants them large.

## The causal mask

A language model is trained at all places at once: the place $t$ predicts token $t + 1$, and the answer stands in the same row, one place on. It must not be looked at. So a place may look at itself and at those before it. The **causal mask** says so, and `attention_weights` sets the scores of all others to minus infinity *before* the softmax, so that their exponential is exactly zero and the rest sums to one.
""")

code("causal-mask", r"""
def causal_mask(T):
    '''(T, T), bool: place t, the row, may look at place s, the column, where s ≤ t.'''
    return torch.ones(T, T, dtype=torch.bool).tril()
""".replace("'''", '"""'), export=True)

md("influence", r"""
That is one line, and the whole honesty of a language model hangs on it. A look at the weights is not a proof: something may come through by another way, a normalisation over the row, a careless reshape. So ask the function itself. What does $y_t$ depend on? The gradient knows: the derivative of all of $y_t$ by all of $x_s$ is a matrix, and if it is *exactly* zero, there is no way from $s$ to $t$. Not small: zero, since what a mask has set to zero is multiplied by zero.
""")

code("influence-code", r"""
def influence(function, x):
    '''How strongly place t of function(x) depends on place s of x: norms, (T, T).

    x (T, n) → (T, m). Row t, column s is the norm of ∂y_t / ∂x_s, and exactly 0 where no
    way leads from s to t. From the whole Jacobian: for a small x.'''
    jacobian = torch.autograd.functional.jacobian(function, x)         # (T, m, T, n)
    return jacobian.permute(0, 2, 1, 3).flatten(2).norm(dim=2)
""".replace("'''", '"""'), export=True)

code("causal-test", r"""
torch.manual_seed(seed())
T, n = 12, 8
x, (W_q, W_k, W_v) = torch.randn(T, n), torch.randn(3, n, n) / math.sqrt(n)
free = influence(lambda x: attend(x @ W_q, x @ W_k, x @ W_v), x)
causal = influence(lambda x: attend(x @ W_q, x @ W_k, x @ W_v, causal_mask(T)), x)
future = torch.ones(T, T, dtype=torch.bool).triu(1)
assert (causal[future] == 0).all() and (causal[~future] > 0).all() and (free > 0).all()
print(f"{int(future.sum())} pairs of places, and no way from the later to the earlier one")
""")

code("fig-causal", r"""
masked = attention_weights(x @ W_q, x @ W_k, causal_mask(T))
panels = ("weights, masked", masked), ("influence, no mask", free), ("… masked", causal)
fig, row = plt.subplots(1, 3, figsize=(7.2, 2.7))
for axes, (title, matrix) in zip(row, panels):
    seen = np.where(matrix > 0, matrix, np.nan)                        # zero: left blank
    axes.imshow(seen, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set(xlabel="place s, looked at", xticks=[0, 5, 11], yticks=[0, 5, 11])
    axes.grid(False)
row[0].set(ylabel="place t, which looks")
plt.show()
""", fig=("fig-attention-causal", "A random head over twelve places. What is exactly zero is left blank. Left, its weights under the mask; middle and right, how strongly each place's result depends on each place, without the mask and with it.",
          "Three squares of twelve by twelve. Left, the masked weights, blank above the diagonal; the first row has one dark field, later rows spread over more, lighter ones. Middle, the influence without a mask: fields everywhere, darkest on the diagonal. Right, the influence with the mask: blank above the diagonal, fields on it and below."))

md("causal-after", r"""
The corner above the diagonal is blank in the last panel, and blank means zero. Look at the first row of the weights, too: the first place has nobody to look at but itself, so it gives itself everything. All that is said about averages is said of a growing crowd.

Notice what the middle panel says besides. Every place depends on every other *in one step*. In an LSTM the first place reaches the twelfth through eleven products. The paper's table 1 counts that: between two places of a row a recurrent layer has a path as long as their distance, attention one of length one; and the recurrent layer has to compute place after place, while here all are computed at once.
""")

md("heads", r"""
## Many heads

An average is one answer. A place that needs two things, the name of the dog and whose turn it is, would get a mixture of both; or one query would have to fit two kinds of keys at once. So let several small attentions work side by side, each with its own matrices: $n_\text{head}$ **heads**, each of size $\text{hs} = n_\text{embd} / n_\text{head}$. Their results, put one after the other, have the old width again, and a last matrix $W_o$ mixes them:

$$y_t = W_o \, [\, y_t^{(1)}; \; y_t^{(2)}; \; \dots \,]$$

It costs what one large head would cost, since each head is smaller by as much as there are more of them. In the paper's table 3 eight heads translate better than one of the same total width, and thirty-two worse than eight.

In code the three matrices of all heads are *one* linear layer, from $n_\text{embd}$ to three times as many, because one large product is faster than many small ones. Then the numbers are sorted: three times $n_\text{head}$ times hs.
""")

code("fig-heads", r"""
fig, axes = plt.subplots(figsize=(7.2, 2.9))
colours = {"q": BLUE, "k": ORANGE, "v": GREEN}

def boxes(left, top, count, color, text="", strength=1.0):
    for i in range(count):
        axes.add_patch(plt.Rectangle((left + i, top), 0.92, 0.8, color=color, lw=0,
                                     alpha=strength))
    axes.text(left + count / 2, top + 0.36, text, ha="center", va="center", fontsize=9)

boxes(6, 6, 6, GREY, "x", 0.5)
for place, name in enumerate("qkv"):
    for head in range(2):
        strength = (0.75, 0.35)[head]
        boxes(6 * place + 3 * head, 4, 3, colours[name], f"{name}, {head + 1}", strength)
        boxes(10 * head + 3.1 * place - 0.6, 2, 3, colours[name], name, strength)
for head in range(2):
    boxes(6 + 3 * head, 0, 3, PURPLE, f"y, {head + 1}", (0.75, 0.35)[head])
for top, text in (5.4, "qkv, one matrix"), (3.4, "sorted by head"), (
        1.4, "attention in each head"), (-0.6, "proj, and x for the next layer"):
    axes.text(19, top, text, va="center", fontsize=9, color="#444444")
    axes.annotate("", (9, top - 0.32), (9, top + 0.32),
                  arrowprops=dict(arrowstyle="-|>", color=GREY, lw=1.4))
axes.set(xlim=(-1, 27), ylim=(-1.1, 7))
axes.axis("off")
plt.show()
""", fig=("fig-attention-heads", "One place's numbers on their way through a layer with two heads of size three.",
          "Four rows of boxes, joined by arrows. Six grey boxes, x. Below, eighteen boxes in six groups of three: q of head one and two, k of one and two, v of one and two. Below, the same groups sorted: q, k, v of head one on the left, of head two on the right. At the bottom six purple boxes, y of head one and of head two. Beside the arrows: qkv, one matrix; sorted by head; attention in each head; proj, and x for the next layer."))

md("layer-text", r"""
The layer itself calls PyTorch's `scaled_dot_product_attention`, which computes what `attend` computes, but faster; *What length costs* will say how. Its argument `rotary` waits for the section on positions.
""")

code("layer", r"""
class CausalAttention(nn.Module):
    '''Causal multi-head attention (Vaswani et al. 2017): (B, T, n_embd) → the same shape.

    `dropout` is of the weights, in training; `rotary` turns queries and keys by `rotate`.
    Raises ValueError unless the heads share n_embd evenly (if rotary, in pairs).'''

    def __init__(self, n_embd, n_head, dropout=0.0, rotary=False):
        super().__init__()
        if min(n_embd, n_head) < 1 or n_embd % (n_head * (2 if rotary else 1)):
            raise ValueError(f"{n_head} heads cannot share {n_embd} numbers evenly"
                             + (", in pairs" if rotary else ""))
        if not 0 <= dropout < 1:
            raise ValueError(f"a dropout is at least 0 and below 1: not {dropout}")
        self.n_head, self.dropout, self.rotary = n_head, dropout, rotary
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.proj = nn.Linear(n_embd, n_embd)

    def heads(self, x):
        '''The queries, keys and values of all heads, (B, n_head, T, hs) each.'''
        parts = self.qkv(x).unflatten(2, (3, self.n_head, -1))         # (B, T, 3, n_head, hs)
        q, k, v = parts.permute(2, 0, 3, 1, 4)                         # (B, n_head, T, hs)
        return (rotate(q), rotate(k), v) if self.rotary else (q, k, v)

    def forward(self, x):
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(*self.heads(x), dropout_p=dropout,
                                           is_causal=True)             # (B, n_head, T, hs)
        return self.proj(y.transpose(1, 2).flatten(2))                 # (B, T, n_embd)
""".replace("'''", '"""'), export=True)

code("layer-check", r"""
torch.manual_seed(seed())
layer, x = CausalAttention(n_embd=24, n_head=3).double(), torch.randn(2, 10, 24).double()
by_hand_y = attend(*layer.heads(x), causal_mask(10))                   # (B, n_head, T, hs)
assert torch.allclose(layer(x), layer.proj(by_hand_y.transpose(1, 2).flatten(2)))
assert (influence(lambda row: layer(row[None])[0], x[0])[future[:10, :10]] == 0).all()
assert sum(p.numel() for p in layer.parameters()) == 4 * 24 * 24 + 4 * 24
""")

md("layer-after", r"""
Each head has its own part of the numbers, and its own map. The order of the axes deserves a second look: after `unflatten` the places stand *before* the heads, and they have to be exchanged, not reshaped, since a reshape would cut the row of numbers elsewhere and deal the places out to the heads. The section *Break* shows what that does.
""")
