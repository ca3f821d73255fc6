"""A network that reads one token at a time and remembers: written here to be trained with, before its notebook is."""

import math
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

class RNN(nn.Module):
    """A recurrent layer: h_t = tanh(W x_t + U h_{t−1} + b), of Elman 1990.

    (B, T, n_in) → all h_t (B, T, n_hidden), and the state after the last: (1, B, n_hidden).
    Begins from `state`, or from zeros. Parameters are uniform in ±1/√n_hidden."""
    n_state = 1  # vectors that a layer carries from place to place

    def __init__(self, n_in, n_hidden):
        super().__init__()
        self.n_hidden, bound = n_hidden, 1 / math.sqrt(n_hidden)
        self.W = nn.Parameter(torch.empty(n_hidden, n_in).uniform_(-bound, bound))
        self.U = nn.Parameter(torch.empty(n_hidden, n_hidden).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(n_hidden).uniform_(-bound, bound))

    def forward(self, x, state=None):
        h = x.new_zeros(x.shape[0], self.n_hidden) if state is None else state[0]
        hs = []
        for x_t in x.unbind(dim=1):                                    # x_t (B, n_in)
            h = torch.tanh(x_t @ self.W.T + h @ self.U.T + self.b)     # (B, n_hidden)
            hs.append(h)
        return torch.stack(hs, dim=1), h[None]

class RecurrentLM(nn.Module):
    """A language model of recurrent layers: tokens (B, T) → logits (B, T, V).

    `layers` map (B, T, n_in), state (n_state, B, n_hidden) → (B, T, n_hidden), state; the
    first one's n_in is `n_embd`. The state of the model is theirs, stacked: (S, B, n_hidden)."""

    def __init__(self, layers, vocab_size=256, n_embd=64):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.layers = nn.ModuleList(layers)
        self.output = nn.Linear(layers[-1].n_hidden, vocab_size)

    def initial_state(self, batch_size):
        """Zeros (S, B, n_hidden): nothing has been read."""
        S = sum(layer.n_state for layer in self.layers)
        return self.output.weight.new_zeros(S, batch_size, self.layers[0].n_hidden)

    def through(self, x, state=None):
        """The layers, one after the other: (B, T, n_embd) → (B, T, n_hidden), state."""
        state, after = self.initial_state(len(x)) if state is None else state, []
        parts = state.split([layer.n_state for layer in self.layers])
        for layer, part in zip(self.layers, parts):
            x, part = layer(x, part)
            after.append(part)
        return x, torch.cat(after)

    def features(self, tokens, state=None):
        """What the output layer is given (B, T, n_hidden), and the state after the row."""
        return self.through(self.embedding(tokens), state)

    def run(self, tokens, state=None):
        """The logits (B, T, V) of a row that goes on from `state`, and the state after it."""
        x, state = self.features(tokens, state)
        return self.output(x), state

    def forward(self, tokens):
        return self.run(tokens)[0]

class Streams:
    """Batches whose rows go on: row b begins where row b of the step before ended.

    The tokens (T,), which may be memory-mapped, are cut into `batch_size` lanes of equal
    length. `Streams(tokens, length, batch_size, seed)(step)` is the rows (batch_size,
    length + 1), int64, and `fresh` (batch_size,), bool: which rows begin with nothing read.
    That is so at the start of each epoch, where also the cuts move. Only the seed and the
    step decide. Raises ValueError where there is not one batch, and for a step below 0."""

    def __init__(self, tokens, length, batch_size, seed=0):
        if length < 1 or batch_size < 1:
            raise ValueError(f"a batch has at least 1 lane of length 1: not {batch_size} "
                             f"of {length}")
        self.tokens, self.length = tokens, length
        self.batch_size, self.seed = batch_size, seed
        self.lane = (len(tokens) - length) // batch_size   # whichever phase is drawn
        self.per_epoch = (self.lane - 1) // length if self.lane > 0 else 0
        if self.per_epoch < 1:
            raise ValueError(f"{len(tokens)} tokens make no batch of {batch_size} lanes of "
                             f"{length}")

    def __call__(self, step):
        if step < 0:
            raise ValueError(f"steps are counted from 0: not {step}")
        epoch, place = divmod(step, self.per_epoch)
        phase = int(np.random.default_rng([self.seed, epoch]).integers(self.length))
        starts = phase + np.arange(self.batch_size) * self.lane + place * self.length
        rows = self.tokens[starts[:, None] + np.arange(self.length + 1)]
        fresh = torch.full((self.batch_size,), place == 0)
        return torch.from_numpy(rows.astype(np.int64)), fresh

class Carried(nn.Module):
    """A recurrent language model with the state in which the last batch left it.

    The state is a buffer, so that a checkpoint holds it. Called like the model itself, it
    reads each row from nothing."""

    def __init__(self, model, batch_size):
        super().__init__()
        self.model = model
        self.register_buffer("state", model.initial_state(batch_size))

    def forward(self, tokens):
        return self.model(tokens)

def output_loss(x, output, targets):
    """The mean surprise in nats of `targets` (B, T), for features `x` (B, T, n)."""
    return F.cross_entropy(output(x).flatten(0, 1), targets.flatten())

def carried_loss(carried, batch, output_loss=output_loss):
    """The mean surprise in nats of a batch of `Streams`, with the state carried on.

    Gradients end at the beginning of the rows: backpropagation is truncated."""
    rows, fresh = batch
    state = carried.state.masked_fill(fresh[None, :, None], 0.0)      # (S, B, n_hidden)
    x, state = carried.model.features(rows[:, :-1], state)
    carried.state = state.detach()
    return output_loss(x, carried.model.output, rows[:, 1:])

class StatefulSteps:
    """A recurrent language model by the three methods: start, distribution, advance.

    Each step costs the same however much was read: all of it is in the state. Before the
    first token every token is equally likely."""

    def __init__(self, model):
        self.model, self.vocab_size = model, model.output.out_features

    def start(self):
        """The state before the first token."""
        return None

    @torch.no_grad()
    def advance(self, state, token):
        """The state after `token`: the vectors of the layers, and the next probabilities."""
        token = torch.tensor([[int(token)]], device=self.model.output.weight.device)
        logits, state = self.model.run(token, None if state is None else state[0])
        return state, torch.softmax(logits[0, -1].cpu().double(), dim=-1).numpy()

    def distribution(self, state):
        """The probabilities of all tokens that may come next: float64 (V,)."""
        return np.full(self.vocab_size, 1 / self.vocab_size) if state is None else state[1]
