"""The LSTM in all its forms against torch.nn.LSTM and against autograd; the language model; the loss in parts; weights on disk."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from practitioner.lstm import (by_gates, by_hand, encode_all, inputs_first, load_weights, LSTM, LSTMLM, lstm_backward, lstm_forward, one_product,
                               output_loss_in_parts, save_weights, train_bpe)
from practitioner.network import surprise_of
from practitioner.recurrence import Carried, carried_loss, output_loss, StatefulSteps, Streams

quick = settings(max_examples=25, deadline=None, derandomize=True)
FORMS = [by_gates, one_product, inputs_first, by_hand]
sizes = st.integers(1, 6)


def inputs(T, B, n_in, n, seed=0):
    """x, h, c, W, U and b of one layer, double precision, all of them large enough to open and close gates."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (T, B, n_in), (B, n), (B, n), (4 * n, n_in), (4 * n, n), (4 * n,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def results(layer, values):
    """Outputs and gradients of everything, by a loss in which all outputs have a part of their own."""
    values = [value.detach().clone().requires_grad_() for value in values]
    outputs = layer(*values)
    weights = [torch.linspace(-1, 2, each.numel(), dtype=torch.float64).view_as(each) for each in outputs]
    sum((each * weight).sum() + each.square().sum() for each, weight in zip(outputs, weights)).backward()
    return [*outputs, *(value.grad for value in values)]


def library(x, h, c, W, U, b):
    layer = nn.LSTM(x.shape[2], h.shape[1]).double()
    named = {"weight_ih_l0": W, "weight_hh_l0": U, "bias_ih_l0": b, "bias_hh_l0": torch.zeros_like(b)}
    out, (h, c) = torch.func.functional_call(layer, named, (x, (h[None], c[None])))
    return out, h[0], c[0]


# The layer

@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@quick
@given(sizes, sizes, sizes, sizes)
def test_every_form_is_the_library_s_layer(form, T, B, n_in, n):
    values = inputs(T, B, n_in, n)
    for ours, theirs in zip(results(form, values), results(library, values), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12 * (1 + theirs.abs().max().item()))


def test_the_gradient_by_hand_is_the_slope():
    """... by nudging, for when both autograd and the library should be wrong."""
    values = inputs(4, 2, 3, 3)
    assert torch.autograd.gradcheck(by_hand, values, eps=1e-6, atol=1e-8)


def test_the_way_back_adds_what_comes_from_each_output():
    """The three outputs' gradients one by one sum to that of all together."""
    x, h, c, W, U, b = (value.detach() for value in inputs(5, 2, 3, 4))
    kept = lstm_forward(x @ W.T + b, h, c, U)
    dhs, dh, dc = torch.randn(5, 2, 4).double(), torch.randn(2, 4).double(), torch.randn(2, 4).double()
    nothing = torch.zeros_like(dhs), torch.zeros_like(dh), torch.zeros_like(dc)
    whole = lstm_backward(dhs, dh, dc, *kept, U)
    parts = [lstm_backward(*(each if place == kind else nothing[place] for place, each in enumerate((dhs, dh, dc))), *kept, U) for kind in range(3)]
    for one, *others in zip(whole, *parts):
        assert torch.allclose(one, sum(others), atol=1e-12)


def test_the_last_states_may_be_changed_without_harm():
    """They are no views of what the way back needs."""
    values = inputs(4, 2, 3, 3)
    hs, h, c = by_hand(*values)
    with torch.no_grad():
        h.zero_(), c.zero_()
    hs.sum().backward()
    known = torch.autograd.grad(by_gates(*values)[0].sum(), values)
    assert all(torch.allclose(value.grad, theirs, atol=1e-12) for value, theirs in zip(values, known))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_two_layers_are_the_library_s_two(dtype, tolerance):
    torch.manual_seed(0)
    ours, x, start = [LSTM(5, 7).to(dtype), LSTM(7, 7).to(dtype)], torch.randn(3, 9, 5, dtype=dtype), torch.randn(2, 2, 3, 7, dtype=dtype)
    theirs = nn.LSTM(5, 7, num_layers=2, batch_first=True).to(dtype)
    with torch.no_grad():
        for number, layer in enumerate(ours):
            for letter, name in dict(W="weight_ih", U="weight_hh", b="bias_ih").items():
                getattr(theirs, f"{name}_l{number}").copy_(getattr(layer, letter))
            getattr(theirs, f"bias_hh_l{number}").zero_()
    y, first = ours[0](x, start[:, 0])
    y, second = ours[1](y, start[:, 1])
    known, state = theirs(x, (start[0], start[1]))
    y.square().sum().backward(), known.square().sum().backward()
    assert torch.allclose(y, known, rtol=0, atol=tolerance)
    assert torch.allclose(torch.stack([first, second], 1), torch.stack(state), rtol=0, atol=tolerance)
    for number, layer in enumerate(ours):
        grads = [getattr(theirs, f"{name}_l{number}").grad for name in ("weight_ih", "weight_hh", "bias_ih")]
        for mine, known in zip((layer.W.grad, layer.U.grad, layer.b.grad), grads):
            assert torch.allclose(mine, known, rtol=tolerance * 10, atol=tolerance * 10)


def test_the_forget_gate_begins_open():
    layer = LSTM(3, 4, forget_bias=1.5)
    assert layer.b.tolist() == [0] * 4 + [1.5] * 4 + [0] * 8
    assert max(layer.W.abs().max(), layer.U.abs().max()) <= 0.5


def test_autocast_takes_the_form_that_autograd_knows():
    layer, x = LSTM(4, 6), torch.randn(2, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
        y.float().sum().backward()
    assert torch.allclose(y.float(), layer(x)[0], atol=0.05) and layer.U.grad.isfinite().all()


@pytest.mark.parametrize("make", [lambda: LSTM(0, 3), lambda: LSTM(3, 0), lambda: LSTM(3, 3, dropout=1.0), lambda: LSTM(3, 3, weight_dropout=-0.1),
                                  lambda: LSTMLM(0), lambda: LSTMLM(n_layer=0), lambda: LSTMLM(dropout=1.0)])
def test_sizes_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match=r"\d"):
        make()


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    layer, x = LSTM(4, 6, dropout=0.5, weight_dropout=0.5), torch.randn(2, 5, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    plain = LSTM(4, 6)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])


def test_weight_dropout_takes_the_same_weights_at_every_place():
    """With U all but dropped, and inputs that are equal, each place is the function of the one before that the same U gives."""
    torch.manual_seed(1)
    layer = LSTM(2, 5, weight_dropout=0.5).double()
    with torch.no_grad():
        hs, _ = layer(torch.ones(1, 40, 2).double())
    assert torch.allclose(hs[0, -1], hs[0, -2], atol=1e-3)  # it comes to rest, as no network with noise at each step does


# The language model

def small(**sizes):
    torch.manual_seed(0)
    return LSTMLM(**dict(vocab_size=11, n_embd=6, n_hidden=8) | sizes)


@pytest.mark.parametrize("options", [{}, dict(tied=True), dict(n_layer=2), dict(n_layer=3, tied=True, dropout=0.3)])
def test_reading_in_pieces_is_reading(options):
    model, tokens = small(**options).eval(), torch.randint(11, (3, 20))
    whole, state = model.run(tokens)
    first, between = model.run(tokens[:, :7])
    rest, end = model.run(tokens[:, 7:], between)
    assert torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-5) and torch.allclose(end, state, atol=1e-5)
    assert state.shape == (2 * len(model.layers), 3, 8) and torch.equal(model(tokens), whole)


@pytest.mark.parametrize("options", [{}, dict(tied=True, n_layer=2)])
def test_one_token_at_a_time_is_the_same(options):
    model = small(**options).eval()
    tokens = np.random.default_rng(0).integers(0, 11, 30)
    steps, state, bits = StatefulSteps(model), None, []
    for token in tokens:
        bits.append(-math.log2(steps.distribution(state)[token]))
        state = steps.advance(state, token)
    assert np.allclose(surprise_of(model, tokens, length=64, context=32), bits, atol=1e-4)


def test_tied_means_one_matrix():
    model, free = small(tied=True), small()
    assert model.output.weight is model.embedding.weight and free.output.weight is not free.embedding.weight
    names = [name for name, _ in model.named_parameters()]
    assert "embedding.weight" in names and "output.weight" not in names


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_loss_is_that_of_knowing_nothing(tied):
    torch.manual_seed(0)
    model = LSTMLM(1000, 64, 64, tied=tied)
    tokens = torch.randint(1000, (4, 33))
    assert abs(output_loss(model.features(tokens[:, :-1])[0], model.output, tokens[:, 1:]).item() - math.log(1000)) < 0.2


@pytest.mark.parametrize("tied", [False, True])
def test_it_can_learn_a_text_by_heart(tied):
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, 11, 400)
    model = LSTMLM(11, 32, 64, tied=tied)
    carried, batches = Carried(model, 4), Streams(tokens, 30, 4)
    optimizer = torch.optim.AdamW(carried.parameters(), lr=1e-2)
    for step in range(250):
        optimizer.zero_grad()
        loss = carried_loss(carried, batches(step), output_loss_in_parts)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


# The loss in parts

@quick
@given(st.integers(1, 5), st.integers(1, 7), st.integers(2, 9), st.integers(1, 40), st.sampled_from([1.0, 100.0, 1e4]))
def test_the_loss_in_parts_is_the_loss(B, T, V, rows, scale):
    """... with its gradients, however large the logits are."""
    generator = torch.Generator().manual_seed(B * T)
    x, targets = torch.randn(B, T, 3, generator=generator, dtype=torch.float64), torch.randint(V, (B, T), generator=generator)
    output = nn.Linear(3, V).double()
    with torch.no_grad():
        output.weight.mul_(scale)
    found = []
    for loss in lambda *values: output_loss_in_parts(*values, rows=rows), output_loss:
        leaf = x.clone().requires_grad_()
        output.zero_grad()
        value = loss(leaf, output, targets)
        (3 * value).backward()
        found.append([value, leaf.grad, output.weight.grad.clone(), output.bias.grad.clone()])
    for ours, theirs in zip(*found):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this release of PyTorch has no linear_cross_entropy")
def test_the_loss_in_parts_is_pytorch_s_own():
    x, targets, output = torch.randn(4, 6, 5).double(), torch.randint(9, (4, 6)), nn.Linear(5, 9).double()
    theirs = F.linear_cross_entropy(x.flatten(0, 1), output.weight, targets.flatten(), linear_bias=output.bias)
    assert torch.allclose(output_loss_in_parts(x, output, targets, rows=7), theirs, atol=1e-12)


def test_a_part_has_rows():
    with pytest.raises(ValueError, match="not 0"):
        output_loss_in_parts(torch.zeros(1, 2, 3), nn.Linear(3, 4), torch.zeros(1, 2, dtype=torch.long), rows=0)


# Tokens

class Talk:
    def __init__(self, *turns):
        self.turns = turns


def test_tokens_give_the_text_back():
    """... also of what training never showed, and the tokens of each conversation by themselves are its text."""
    talks = [Talk("hello there", "hello yourself, you!"), Talk("naïve café ☕", "日本語 \t tabs"), Talk("a", "b")]
    tokenizer = train_bpe([f"A: {talk.turns[0]}\nB: {talk.turns[1]}\n\n" for talk in talks[:1]], 270)
    tokens, counts = encode_all(tokenizer, talks)
    assert tokens.dtype == np.uint16 and len(counts) == 3 and sum(counts) == len(tokens)
    for talk, row in zip(talks, np.split(tokens, np.cumsum(counts)[:-1])):
        assert tokenizer.decode(row.tolist()) == f"A: {talk.turns[0]}\nB: {talk.turns[1]}\n\n"


def test_training_a_vocabulary_is_deterministic():
    texts = ["the cat and the dog and the cow"] * 3
    assert train_bpe(texts, 280).to_str() == train_bpe(texts, 280).to_str()
    with pytest.raises(ValueError, match="255"):
        train_bpe(texts, 255)


# Weights on disk

@pytest.mark.parametrize("options", [{}, dict(tied=True, n_layer=2, dropout=0.4)])
def test_weights_come_back(tmp_path, options):
    model, file = small(**options), tmp_path / "model.safetensors"
    save_weights(file, model, run="a test")
    again = load_weights(file)
    assert not again.training and again.settings == model.settings
    for (name, saved), (same, loaded) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == same and torch.equal(saved.half().float(), loaded)
    if options.get("tied"):
        assert again.output.weight is again.embedding.weight


def damaged(file):
    whole = file.read_bytes()
    yield "cut off", lambda: file.write_bytes(whole[:-100])
    yield "empty", lambda: file.write_bytes(b"")
    yield "a pickle", lambda: torch.save({"W": torch.zeros(3)}, file)
    yield "no settings", lambda: file.write_bytes(whole.replace(b"settings", b"sittings"))
    yield "settings of another model", lambda: file.write_bytes(whole.replace(b'\\"n_hidden\\": 8', b'\\"n_hidden\\": 9'))
    yield "unknown settings", lambda: file.write_bytes(whole.replace(b"n_hidden", b"n_hudden"))
    yield "a tensor of another name", lambda: file.write_bytes(whole.replace(b"layers.0.U", b"layers.0.X"))


def test_damaged_weights_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_weights(file, small())
    seen = 0
    for what, damage in damaged(file):
        damage()
        with pytest.raises(ValueError, match="model.safetensors"):
            load_weights(file)
            pytest.fail(what)
        seen += 1
    assert seen == 7
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "nothing.safetensors")


# What is kept in data/lstm

def test_what_is_kept_can_be_traced():
    """Each run says its settings, its code and its data; the weights are those of the runs that say so."""
    import pathlib
    kept = pathlib.Path(__file__).resolve().parent.parent / "data" / "lstm"
    runs = json.loads((kept / "runs.json").read_text(encoding="utf-8"))
    for name, run in runs.items():
        assert len(run["commit"]) == 40 and run["versions"]["torch"] and run["data"].keys() == {"train", "validation"}, name
        assert 0 < run["validation"] < 8 and run["seconds"] > 0 and run["curve"][-1][0] == run["settings"]["steps"]
    assert len({json.dumps(run["data"]["validation"]) for run in runs.values() if run["settings"]["vocabulary"] == "bpe-4096"}) == 1
    for name in "lstm", "bytes-muon":
        model = load_weights(kept / f"{name}.safetensors")
        assert sum(p.numel() for p in model.parameters()) == runs[name]["parameters"]
        assert (kept / f"{name}.safetensors").stat().st_size < 12_000_000
