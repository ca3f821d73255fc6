"""The LSTM, written to be trained with before its notebook is finished."""
import json
import math
import pathlib

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as as_safetensors
from torch import nn
from torch.nn import functional as F

from .book import write_atomically
from .corpus import serialise
from .recurrence import RecurrentLM


class Recurrence(torch.autograd.Function):
    """The recurrence of an LSTM from its projected inputs, with its gradient by hand.

    a (T, B, 4 n), h and c (B, n), U (4 n, n) → all h_t (T, B, n), the last h and c."""

    @staticmethod
    def forward(ctx, a, h, c, U):
        (T, B, _), n = a.shape, h.shape[1]
        gates = torch.empty_like(a)
        hs, cs, tanh_cs = (a.new_empty(length, B, n) for length in (T + 1, T + 1, T))
        hs[0], cs[0] = h, c
        for t in range(T):
            z = torch.addmm(a[t], hs[t], U.T, out=gates[t])                # (B, 4 n)
            z[:, :2 * n].sigmoid_(), z[:, 2 * n:3 * n].tanh_(), z[:, 3 * n:].sigmoid_()
            i, f, g, o = z.chunk(4, dim=1)
            torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
            torch.mul(o, torch.tanh(cs[t + 1], out=tanh_cs[t]), out=hs[t + 1])
        ctx.save_for_backward(gates, hs, cs, tanh_cs, U)
        return hs[1:], hs[T].clone(), cs[T].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dhs, dh, dc):
        gates, hs, cs, tanh_cs, U = ctx.saved_tensors
        (T, B, n), (i, f, g, o) = tanh_cs.shape, gates.split(hs.shape[2], dim=2)
        da = gates * (1 - gates)                                             # (T, B, 4 n)
        da[..., :n] *= g
        da[..., n:2 * n] *= cs[:-1]
        torch.mul(i, 1 - g * g, out=da[..., 2 * n:3 * n])
        da[..., 3 * n:] *= tanh_cs
        through = o * (1 - tanh_cs * tanh_cs)
        for t in reversed(range(T)):
            dh = dh + dhs[t] if t == T - 1 else torch.addmm(dhs[t], da[t + 1], U)
            dc = torch.addcmul(dc, dh, through[t])
            da[t, :, :3 * n].view(B, 3, n).mul_(dc[:, None])
            da[t, :, 3 * n:].mul_(dh)
            dc = dc * f[t]
        return da, da[0] @ U, dc, da.flatten(0, 1).T @ hs[:-1].flatten(0, 1)


def by_hand(x, h, c, W, U, b):
    T, B, n_in = x.shape
    a = torch.addmm(b, x.reshape(T * B, n_in), W.T).view(T, B, -1)
    return Recurrence.apply(a, h, c, U)


class LSTM(nn.Module):
    """A layer of LSTM cells: (B, T, n_in) → all h_t (B, T, n_hidden), and the state after.

    The state (2, B, n_hidden) is h and c. The rows of W (4 n_hidden, n_in), U and b belong
    to the gates i, f, g, o, in PyTorch's order."""
    n_state = 2

    def __init__(self, n_in, n_hidden, forget_bias=1.0, dropout=0.0, weight_dropout=0.0):
        super().__init__()
        self.n_hidden, bound = n_hidden, 1 / math.sqrt(n_hidden)
        self.dropout, self.weight_dropout = dropout, weight_dropout
        self.W = nn.Parameter(torch.empty(4 * n_hidden, n_in).uniform_(-bound, bound))
        self.U = nn.Parameter(torch.empty(4 * n_hidden, n_hidden).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(4 * n_hidden))
        with torch.no_grad():
            self.b[n_hidden:2 * n_hidden] = forget_bias

    def forward(self, x, state=None):
        h, c = x.new_zeros(2, len(x), self.n_hidden) if state is None else state
        x = F.dropout(x, self.dropout, self.training)
        U = F.dropout(self.U, self.weight_dropout, self.training)
        hs, h, c = by_hand(x.transpose(0, 1), h, c, self.W, U, self.b)
        return hs.transpose(0, 1), torch.stack([h, c])


class LSTMLM(RecurrentLM):
    """A language model of LSTM layers; with `tied`, the output layer is the embedding."""

    def __init__(self, vocab_size=256, n_embd=64, n_hidden=256, n_layer=1, tied=False,
                 dropout=0.0, weight_dropout=0.0):
        sizes = [n_embd] + n_layer * [n_hidden]
        super().__init__([LSTM(n_in, n_out, 1.0, dropout, weight_dropout)
                          for n_in, n_out in zip(sizes, sizes[1:])], vocab_size, n_embd)
        self.settings = dict(vocab_size=vocab_size, n_embd=n_embd, n_hidden=n_hidden,
                             n_layer=n_layer, tied=tied)
        self.dropout, self.scale = nn.Dropout(dropout), 1.0
        if tied:
            self.scale = math.sqrt(n_embd)
            self.narrow = nn.Linear(n_hidden, n_embd, bias=False)
            self.output = nn.Linear(n_embd, vocab_size)
            self.output.weight = self.embedding.weight
            nn.init.normal_(self.output.weight, std=1 / self.scale)
            nn.init.zeros_(self.output.bias)
        else:
            self.narrow = nn.Identity()

    def features(self, tokens, state=None):
        x, state = self.through(self.scale * self.embedding(tokens), state)
        return self.narrow(self.dropout(x)), state


class OutputLoss(torch.autograd.Function):
    """Output layer, softmax and surprise together, some rows at a time."""

    @staticmethod
    def forward(ctx, x, weight, bias, targets, rows):
        dx, dweight, dbias = (torch.zeros_like(p) for p in (x, weight, bias))
        total, N = x.new_zeros(()), len(x)
        for some in torch.arange(N).split(rows):
            some = slice(int(some[0]), int(some[-1]) + 1)
            y = targets[some, None]
            z = torch.addmm(bias, x[some], weight.T)                       # (rows, V)
            z -= z.amax(1, keepdim=True)
            came = z.gather(1, y)
            sums = z.exp_().sum(1, keepdim=True)
            total += (sums.log() - came).sum()
            z /= sums * N
            z.scatter_add_(1, y, z.new_full(y.shape, -1 / N))
            torch.mm(z, weight, out=dx[some])
            dweight.addmm_(z.T, x[some])
            dbias += z.sum(0)
        ctx.save_for_backward(dx, dweight, dbias)
        return total / N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dloss):
        return *(dloss * saved for saved in ctx.saved_tensors), None, None


def output_loss_in_parts(x, output, targets, rows=256):
    """As `output_loss`, without ever holding all logits."""
    return OutputLoss.apply(x.flatten(0, 1), output.weight, output.bias, targets.flatten(), rows)


def train_bpe(texts, vocab_size):
    """A byte-level BPE of the library tokenizers, trained on texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


def encode_all(tokenizer, conversations):
    """The tokens of conversations, each encoded by itself: uint16 (T,), and how many each has."""
    rows = [each.ids for each in tokenizer.encode_batch([serialise(c.turns) for c in conversations])]
    return np.concatenate([np.array(row, np.uint16) for row in rows]), [len(row) for row in rows]


def save_weights(path, model, **about):
    """Write a model's parameters in float16, with its settings."""
    tensors = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    write_atomically(path, as_safetensors(tensors, dict(
        about=json.dumps(dict(settings=model.settings, **about)))))


def load_weights(path):
    """The LSTMLM in a file of `save_weights`, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    model = LSTMLM(**about["settings"])
    parameters = dict(model.named_parameters())
    if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in parameters.items()}:
        raise ValueError(f"{path} does not hold the parameters of its own settings")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[name])
    return model.eval()
