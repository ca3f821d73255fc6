from dsl import md, code

md("break", r"""
## Break

Three bugs of this chapter's own matter. All three run, none complains about a shape, and every one of them trains.

- **The mask is off by one.** A one in the wrong bracket, and each place sees the token that it is to predict. `transformers` itself had a version in which [four of its models looked at the future](https://github.com/huggingface/transformers/issues/48745) for lack of a mask.
- **The softmax goes over the wrong axis**: over those who look, instead of over those who are looked at. The mask is there, so no place takes anything from a later one. [This one](https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/282), too, has been found in the wild.
- **The heads are made by `reshape`**, without exchanging places and heads.
""")

code("bugs", r"""
def mask_off_by_one(layer, x):
    q, k, v = layer.heads(x)
    y = attend(q, k, v, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(1))
    return layer.proj(y.transpose(1, 2).flatten(2))

def softmax_over_queries(layer, x):
    q, k, v = layer.heads(x)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~causal_mask(x.shape[1]), -math.inf)
    return layer.proj((scores.softmax(dim=-2) @ v).transpose(1, 2).flatten(2))

def heads_by_reshape(layer, x):
    B, T, n = x.shape
    q, k, v = (part.reshape(B, layer.n_head, T, n // layer.n_head)
               for part in layer.qkv(x).chunk(3, dim=-1))
    return layer.proj(attend(q, k, v, causal_mask(T)).reshape(B, T, n))
""")

code("bugged", r"""
class Bugged(CausalAttention):
    '''A layer that computes what `bug(layer, x)` says.'''
    def __init__(self, n_embd, n_head, bug):
        super().__init__(n_embd, n_head)
        self.bug = bug

    def forward(self, x):
        return self.bug(self, x)

def with_bug(bug, vocab_size=256):
    '''A function from a seed to a new small model whose only layer has the bug.'''
    def built(seed):
        torch.manual_seed(seed)
        model = AttentionLM(vocab_size, 32, 2, 1, "learned")
        model.layers[0] = Bugged(32, 2, bug)
        return model
    return built

BUGGED = {"healthy": CausalAttention.forward, "mask off by one": mask_off_by_one,
          "softmax over queries": softmax_over_queries, "heads by reshape": heads_by_reshape}
""".replace("'''", '"""'))

md("break-train", r"""
Each of the four reads bytes for some seconds. We note the cost that it *reports*, on text it has not seen, and the cost *in use*: each token asked for alone, with the beginning of its row and nothing else, as in writing.
""")

code("train-bugged", r"""
from dataclasses import replace
from practitioner.diagnostics import cost_in_use, draw_matrix, examine, practice_setup

def bytes_of(conversations):
    joined = "".join(serialise(conversation.turns) for conversation in conversations)
    return np.frombuffer(joined.encode(), np.uint8)

seen, unseen = bytes_of(corpus.train[:200]), bytes_of(corpus.validation[:2])
held_out = torch.from_numpy(unseen[:33 * 16].astype(np.int64)).view(16, 33)
reported, in_use = {}, {}
for name, bug in BUGGED.items():
    model = with_bug(bug)(seed())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    train(model, Windows(seen, 32, 16, seed()), optimizer, 120, clip=1.0, device="cpu")
    with torch.no_grad():
        loss = F.cross_entropy(model(held_out[:, :-1]).transpose(1, 2), held_out[:, 1:])
    reported[name] = loss.item() / math.log(2)
    in_use[name] = cost_in_use(practice_setup(), model, held_out) / math.log(2)
""")

code("print-bugged", r"""
print("bits per byte           reported  in use")
for name in BUGGED:
    print(f"{name:24}{reported[name]:8.1f}{in_use[name]:8.1f}")
assert reported["mask off by one"] < 1 < in_use["healthy"] < in_use["mask off by one"]
assert abs(reported["healthy"] - in_use["healthy"]) < 1e-4
assert in_use["softmax over queries"] > reported["softmax over queries"] + 0.05
""", tags=["nbval-ignore-output"])

md("break-symptom", r"""
The first is a triumph: a fraction of a bit per byte, after seconds of training, where the best model of this book needs more than one and a half. That is the symptom. **A loss that is too good is a bug until the contrary is proved.** In use it is the worst of all, since to predict is what it never learned.

The second is nastier. Half a bit better than the healthy one, that is no miracle, and one would be glad and go on. Its mask is right. But to make the weights of all who look at a place sum to one, it has to know the scores of those who look *later*: what a place takes depends on how much others will want of the same. In use they are not there yet, and the price is more than a bit.

The third reports what the healthy one reports, or little more. `reshape` has cut the row of numbers elsewhere: the first head was given the first half of the *text*, the second one the second half. So nobody in the second half sees the first; and where the cut is depends on how long the row happens to be.

The gradient, asked about a new layer with each of the bugs, tells all three apart. Two things are to be counted: pairs of places that should know nothing of each other and do, and pairs that should and do not.
""")

code("influence-bugged", r"""
x = torch.randn(12, 8).double()
print("pairs of places         from the future  missing from the past")
for name, bug in BUGGED.items():
    layer = Bugged(8, 2, bug).double()
    seen = influence(lambda x: layer(x[None])[0], x)
    print(f"{name:24}{int((seen[future] > 0).sum()):15}{int((seen[~future] == 0).sum()):23}")
""")

md("matrix-text", r"""
Whoever has a whole model and not one layer asks the questions of [Silent bugs](26_silent_bugs.ipynb#fig-bug-matrix).
""")

code("matrix", r"""
caught = {}
for name, bug in BUGGED.items():
    findings = examine(replace(practice_setup(), build=with_bug(bug, vocab_size=16)))
    caught[name] = [question for question, finding in findings.items() if finding.alarm]
draw_matrix(caught)
plt.show()
""", fig=("fig-attention-matrix", "Which question catches which bug of attention.",
          "A grid of four programs and eighteen questions, with a dot where a question raised an alarm. The row of the healthy program is empty. Mask off by one has dots at adds to one, padding, no future, noise and in use; softmax over queries at adds to one, padding, no future and in use; heads by reshape at padding and in use."))

code("matrix-asserts", r"""
assert not caught["healthy"] and all("in use" in caught[name] for name in list(BUGGED)[1:])
assert "no future" in caught["mask off by one"] and "no future" in caught["softmax over queries"]
for name in list(BUGGED)[1:]:
    print(f"{name}: {', '.join(caught[name])}")
""")

md("break-after", r"""
*In use* catches all three, because it does what writing does: it gives the beginning of the row, and nothing else. *No future* exchanges later tokens and looks whether earlier logits move; that is enough for the first two. The third sees nothing of the future. It is caught because its answer depends on how long the row is, by *in use* and by *padding*, which compares a row with itself and something after it. The test above for a way from *every* place of the past would have found it in the first minute.

One more way to see the future, since it needs no mistake of yours. Some programs put a large negative number in place of minus infinity. [One reader](https://github.com/karpathy/minGPT/issues/75) had a loss of almost zero with a mask of minus ten thousand: the network had learned scores *below* that, and was round the mask.
""")

md("exercises", r"""
## Exercises

**Exercise 1.** A planted bug in a mask. To waste nothing on padding, several conversations are packed into one row, each with the token `end` as its last. A place may then look at itself and back, but not into the conversation before. A colleague numbers the conversations by counting the ends, and lets each place look where the number is its own:
""")

code("suspect", r"""
def suspect_mask(tokens, end):
    number = (tokens == end).cumsum(dim=1)                             # (B, T)
    same = number[:, :, None] == number[:, None, :]                    # (B, T, T)
    return (same & causal_mask(tokens.shape[1]))[:, None]              # (B, 1, T, T)

packed = torch.tensor([[5, 6, 0, 7, 8, 9, 0, 5]])
print(suspect_mask(packed, end=0)[0, 0].int())
""")

md("exercise-1", r"""
It is causal, and each place sees at least itself, so nothing complains. Find what is wrong, and write `packed_mask`, with the same arguments and result.
""")

code("packed-stub", r"""
def packed_mask(tokens, end):
    '''Who may look at whom in rows (B, T) of packed conversations: bool (B, 1, T, T).'''
    raise NotImplementedError
""".replace("'''", '"""'), tags=["exercise"])

code("packed-check", r"""
def check_packed_mask(packed_mask):
    one = torch.tensor([[5, 6, 0, 7, 8, 0]])
    found = packed_mask(one, 0)
    assert found.dtype == torch.bool and tuple(found.shape) == (1, 1, 6, 6), (
        f"bool (1, 1, 6, 6), not {found.dtype} {tuple(found.shape)}")
    looks = [row.nonzero()[:, 0].tolist() for row in found[0, 0]]
    assert looks[1] == [0, 1], "a place looks at itself and back, and at nothing that comes"
    assert looks[2] == [0, 1, 2], "the end belongs to its conversation, and may look at it"
    assert looks[3] == [3], "what comes after an end begins with nothing, not with the end"
    assert looks == [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5]], looks
    kept = torch.tensor([[0, 0, 4, 0], [1, 2, 3, 4]])
    looks = [[row.nonzero()[:, 0].tolist() for row in rows[0]] for rows in packed_mask(kept, 0)]
    assert looks[0] == [[0], [1], [2], [2, 3]], "a conversation may be an end and no more"
    assert looks[1] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], (
        "each row has ends of its own; one without any is a single conversation")
    other = packed_mask(torch.tensor([[3, 0, 3]]), 3)[0, 0].int().tolist()
    assert other == [[1, 0, 0], [0, 1, 0], [0, 1, 1]], "the end is what `end` says it is"
    q = torch.randn(1, 2, 6, 4)
    packed, alone = attend(q, q, q, found), attend(*3 * [q[:, :, 3:]], causal_mask(3))
    assert torch.allclose(packed[:, :, 3:], alone, atol=1e-6), (
        "packed or alone, a conversation gets the same")

judge(check_packed_mask, packed_mask)
""", tags=["check"])

code("packed-solution", r"""
def packed_mask_solution(tokens, end):
    ended = tokens == end
    number = ended.cumsum(dim=1) - ended.int()                         # ends before the place
    same = number[:, :, None] == number[:, None, :]
    return (same & causal_mask(tokens.shape[1]))[:, None]

check_packed_mask(packed_mask_solution)
""", tags=["solution", "hide-cell"])

md("exercise-2", r"""
**Exercise 2.** In writing, the keys and values of all places before are read from memory for each new token, and they are many. [Shazeer 2019](https://arxiv.org/abs/1911.02150) lets all heads share *one* head of keys and values (**multi-query attention**); [Ainslie et al. 2023](https://arxiv.org/abs/2305.13245) go half way: each of $n_\text{kv}$ heads of keys and values serves a *group* of neighbouring query heads (**grouped-query attention**). With four query heads and two of keys and values, the first two queries go to the first and the last two to the second. Write `grouped_attend`.
""")

code("grouped-stub", r"""
def grouped_attend(q, k, v):
    '''Causal attention (B, n_head, T, hs) of q with k and v (B, n_kv, T, hs).

    The query heads share those of keys and values in groups of neighbours; ValueError
    where n_kv does not divide n_head.'''
    raise NotImplementedError
""".replace("'''", '"""'), tags=["exercise"])

code("grouped-check", r"""
def check_grouped_attend(grouped_attend):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 8).double() for heads in (6, 6, 6))
    alone = attend(q, k, v, causal_mask(5))
    assert tuple(grouped_attend(q, k, v).shape) == (2, 6, 5, 8), "one result for each query"
    assert torch.allclose(grouped_attend(q, k, v), alone), (
        "with as many heads of keys as of queries it is attention, causal and divided by √hs")
    shared = attend(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v), causal_mask(5))
    assert torch.allclose(grouped_attend(q, k[:, :1], v[:, :1]), shared), (
        "with a single head of keys and values, all queries go to it")
    for n_kv in 2, 3:
        found = grouped_attend(q, k[:, :n_kv], v[:, :n_kv])
        for head in range(6):
            serves = head // (6 // n_kv)
            right = attend(q[:, head], k[:, serves], v[:, serves], causal_mask(5))
            assert torch.allclose(found[:, head], right), (
                f"of 6 query heads and {n_kv} of keys, query head {head} goes to head "
                f"{serves}: neighbours share")
    try:
        grouped_attend(q, k[:, :4], v[:, :4])
    except ValueError:
        return
    raise AssertionError("four heads of keys cannot serve six of queries: ValueError")

judge(check_grouped_attend, grouped_attend)
""", tags=["check"])

code("grouped-solution", r"""
def grouped_attend_solution(q, k, v):
    group, left = divmod(q.shape[1], k.shape[1])
    if left:
        raise ValueError(f"{k.shape[1]} heads cannot serve {q.shape[1]} in equal groups")
    k, v = (part.repeat_interleave(group, dim=1) for part in (k, v))
    return attend(q, k, v, causal_mask(q.shape[2]))

check_grouped_attend(grouped_attend_solution)
""", tags=["solution", "hide-cell"])

md("exercise-3", r"""
**Exercise 3.** The paper's section 4 suggests for long rows that each place look at a neighbourhood only; [Beltagy, Peters and Cohan 2020](https://arxiv.org/abs/2004.05150) built a model of such **sliding windows**, whose cost grows with $T$ and not with $T^2$. Write `window_mask(T, window)`, causal: a place looks at itself and at the `window` − 1 places before. Then think: how many places back does the last of *three* such layers see? (Ask `influence`.)
""")

code("window-stub", r"""
def window_mask(T, window):
    '''(T, T), bool: each place may look at itself and the window − 1 places before it.

    ValueError for a window below 1.'''
    raise NotImplementedError
""".replace("'''", '"""'), tags=["exercise"])

code("window-check", r"""
def check_window_mask(window_mask):
    found = window_mask(6, 3)
    assert found.dtype == torch.bool and tuple(found.shape) == (6, 6), (
        f"bool (6, 6), not {found.dtype} {tuple(found.shape)}")
    looks = [row.nonzero()[:, 0].tolist() for row in found]
    assert looks[0] == [0] and looks[1] == [0, 1], "at the beginning there is less to see"
    assert looks[5] == [3, 4, 5], f"a window of 3 is itself and two before, not {looks[5]}"
    assert looks == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]], looks
    assert torch.equal(window_mask(5, 1), torch.eye(5, dtype=torch.bool)), (
        "a window of one is the place itself")
    for window in 5, 9:
        assert torch.equal(window_mask(5, window), causal_mask(5)), (
            "a window as long as the row, or longer, is the causal mask")
    try:
        window_mask(4, 0)
    except ValueError:
        return
    raise AssertionError("through a window of 0 nobody sees anything: ValueError")

judge(check_window_mask, window_mask)
""", tags=["check"])

code("window-solution", r"""
def window_mask_solution(T, window):
    if window < 1:
        raise ValueError(f"a window has at least 1 place, not {window}")
    return causal_mask(T) & ~causal_mask(T).tril(-window)

def three_layers(x):                                   # 2 places back in each: 6 in all
    for _ in range(3):
        x = attend(x, x, x, window_mask_solution(9, 3))
    return x

assert (influence(three_layers, torch.randn(9, 4))[8] > 0).tolist() == [False] * 2 + [True] * 7
check_window_mask(window_mask_solution)
""", tags=["solution", "hide-cell"])

md("exercise-4", r"""
**Exercise 4.** A derivation. Show that a shift of sinusoidal positions by $k$ places is one and the same rotation, wherever you are: find the matrix $M_k$ with $p_{t + k} = M_k \, p_t$ for *every* $t$. Begin with a single pair, $(\sin \omega t, \cos \omega t)$, and with what you know of $\sin(a + b)$. Then write `shift_matrix(k, n_embd)`; `angles` has the $\omega_i k$. What is $M_k^\top M_k$, and what follows for the product $p_{t+k} \cdot p_t$?
""")

code("shift-stub", r"""
def shift_matrix(k, n_embd):
    '''The matrix (n_embd, n_embd), float64, that takes any `sinusoids` k places on.'''
    raise NotImplementedError
""".replace("'''", '"""'), tags=["exercise"])

code("shift-check", r"""
def check_shift_matrix(shift_matrix):
    M = torch.as_tensor(shift_matrix(1, 2)).double()
    assert tuple(M.shape) == (2, 2), f"one pair: (2, 2), not {tuple(M.shape)}"
    p = sinusoids(200, 2).double()
    assert torch.allclose(M @ p[0], p[1], atol=1e-5), "from place 0 to place 1"
    assert torch.allclose(p[:-1] @ M.T, p[1:], atol=1e-5), (
        "right at place 0 and wrong at others: the matrix may not know where it is used")
    assert torch.allclose(torch.as_tensor(shift_matrix(0, 6)).double(),
                          torch.eye(6).double(), atol=1e-9), "no places on: nothing changes"
    p = sinusoids(200, 6).double()
    for k in 1, 7, 50:
        M = torch.as_tensor(shift_matrix(k, 6)).double()
        assert torch.allclose(p[:-k] @ M.T, p[k:], atol=1e-4), (
            f"{k} places on, with three pairs: each turns by its own angle, and sine and "
            "cosine of a pair stand side by side")
        assert torch.allclose(M.T @ M, torch.eye(6).double(), atol=1e-9), "not a rotation"
    back = torch.as_tensor(shift_matrix(-3, 6)).double()
    assert torch.allclose(p[3:] @ back.T, p[:-3], atol=1e-5), "k may be negative: back"

judge(check_shift_matrix, shift_matrix)
""", tags=["check"])

code("shift-solution", r"""
def shift_matrix_solution(k, n_embd):
    # sin ω(t + k) =  cos ωk · sin ωt + sin ωk · cos ωt
    # cos ω(t + k) = −sin ωk · sin ωt + cos ωk · cos ωt: the same for every t.
    turned = angles(1, n_embd, begin=k)[0]                             # ω_i k
    cos, sin = turned.cos(), turned.sin()
    return torch.block_diag(*torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2))

# Each block is a rotation, so MᵀM = 1 and no length changes. Hence p_{t+k} · p_t =
# (M_k p_t) · p_t = Σ_i cos ω_i k, whatever t is: the curve of the figure above.
check_shift_matrix(shift_matrix_solution)
""", tags=["solution", "hide-cell"])

md("exercise-5", r"""
**Exercise 5.** The copy task of [Inside the LSTM](33_inside_lstm.ipynb#how-much-a-list-to-remember) was not ours. There the second time showed nothing: a row of commands, all alike. Give it to the model of two layers as it stood, with each kind of positions. In the same steps it mostly does worse than the LSTM. Why? What would it have to compute to know which symbol comes next, and which of the four kinds makes that easiest?

**Exercise 6.** Take the root away, or divide by hs in its place, and train the reader with each of the three. Does it matter at this size of head? What do the maps look like at step 1, 26 and 260?

**Exercise 7 (open).** Our induction heads were taught on lists. Do they come by themselves from chat? Train two layers on the corpus for a quarter of an hour, and at every tenth of it measure three things on validation: the share of the weight on the place after an earlier occurrence of the same token; the bits that the first mention of a word is worth at the second one, as in [Inside the LSTM](33_inside_lstm.ipynb); and the loss. Do the three move at the same time? Then take the head away that does it, and say how many bits per byte it was worth.

## What comes next

A place can look anywhere and take anything; what it cannot do is *think* about what it took, since all of it is averages and sums. The model of [the next notebook](43_gpt.ipynb) alternates the layer of this one with a small network at each place, twelve times over: it is GPT-1, whole.

Papers: [Vaswani et al. 2017](../book/papers/vaswani-2017.md), read line by line; [Bahdanau, Cho and Bengio 2014](https://arxiv.org/abs/1409.0473) for where it comes from; [Su et al. 2021](https://arxiv.org/abs/2104.09864) for the rotations; [Dao et al. 2022](https://arxiv.org/abs/2205.14135) for the fused kernel; [Olsson et al. 2022](https://arxiv.org/abs/2209.11895) for induction.
""")
