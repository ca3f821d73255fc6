"""The recurrent network and what carries its state. Held against plain loops, autograd and torch.nn.RNN."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from practitioner.diagnostics import examine, practice_setup
from practitioner.experiments import begin, train
from practitioner.network import surprise_of
from practitioner.recurrence import (Carried, carried_loss, gradient_by_distance, output_loss, RecurrentLM, RNN, rnn_backward, rnn_forward, StatefulSteps,
                                     Streams)

quick = settings(max_examples=25, deadline=None, derandomize=True)


def language_model(seed=0, layers=1, vocab_size=11):
    """A small RecurrentLM in double precision whose state matters."""
    torch.manual_seed(seed)
    model = RecurrentLM([RNN(4 if i == 0 else 6, 6) for i in range(layers)], vocab_size=vocab_size, n_embd=4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def some_tokens(*shape, seed=0, vocab_size=11):
    return torch.from_numpy(np.random.default_rng(seed).integers(vocab_size, size=shape))


# The layer and its gradient

@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_values_and_gradients_are_those_of_torch(B, T, n_in, n_hidden, seed, from_zeros):
    torch.manual_seed(seed)
    ours, theirs = RNN(n_in, n_hidden).double(), nn.RNN(n_in, n_hidden, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.W), theirs.weight_hh_l0.copy_(ours.U), theirs.bias_ih_l0.copy_(ours.b), theirs.bias_hh_l0.zero_()
    x, start, weights = torch.randn(B, T, n_in).double(), torch.randn(1, B, n_hidden).double(), torch.randn(B, T, n_hidden).double()
    found = []
    for layer in ours, theirs:
        inputs = [x.clone().requires_grad_()] + ([] if from_zeros else [start.clone().requires_grad_()])
        h, last = layer(*inputs)
        assert h.shape == (B, T, n_hidden) and last.shape == (1, B, n_hidden)
        ((h * weights).sum() + last.square().sum()).backward()
        found.append([h, last, *(each.grad for each in inputs)])
    found[0] += [ours.W.grad, ours.U.grad, ours.b.grad]
    found[1] += [theirs.weight_ih_l0.grad, theirs.weight_hh_l0.grad, theirs.bias_ih_l0.grad]
    assert all(torch.allclose(*pair, rtol=0, atol=1e-10) for pair in zip(*found))


@quick
@given(st.integers(1, 3), st.integers(1, 30), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_backpropagation_through_time_is_autograd(B, T, n_in, n_hidden, seed):
    rng = np.random.default_rng(seed)
    sizes = dict(x=(B, T, n_in), h_0=(B, n_hidden), W=(n_hidden, n_in), U=(n_hidden, n_hidden), b=(n_hidden,))
    given_ = {name: rng.normal(size=size) for name, size in sizes.items()}
    h_bar = rng.normal(size=(B, T, n_hidden))
    h = rnn_forward(**given_)
    assert h.shape == (B, T + 1, n_hidden) and np.array_equal(h[:, 0], given_["h_0"])
    bar = rnn_backward(h_bar, given_["x"], h, given_["W"], given_["U"])
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in given_.items()}
    state, loss = tensors["h_0"], 0
    for t in range(T):
        state = torch.tanh(tensors["W"] @ tensors["x"][:, t, :, None] + tensors["U"] @ state[..., None] + tensors["b"][:, None])[..., 0]
        loss = loss + (state * torch.from_numpy(h_bar[:, t])).sum()
    loss.backward()
    assert bar.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert np.allclose(bar[name], tensor.grad, rtol=0, atol=1e-10), name


def test_parameters_are_uniform_within_the_bound():
    layer = RNN(50, 400)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= 1 / 20
        assert math.isclose(parameter.var().item(), 1 / 1200, rel_tol=0.25)
    assert len({parameter.data_ptr() for parameter in layer.parameters()}) == 3


# The language model

@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_row_in_two_parts_is_the_row(layers):
    model, tokens = language_model(layers=layers), some_tokens(3, 12)
    whole, after = model.run(tokens)
    first, state = model.run(tokens[:, :5])
    second, last = model.run(tokens[:, 5:], state)
    assert model.initial_state(3).shape == after.shape == (layers, 3, 6) and not model.initial_state(3).any()
    assert torch.allclose(whole, torch.cat([first, second], dim=1), atol=1e-12) and torch.allclose(after, last, atol=1e-12)
    assert torch.equal(model(tokens), whole)
    x, state = model.features(tokens)
    assert torch.equal(model.output(x), whole) and torch.equal(state, after)
    assert torch.equal(state[-1], x[:, -1])  # what the top layer put out last is its state


def test_layers_are_stacked_in_order():
    """The second layer reads the states of the first, and each goes on from its own part of the state."""
    model, tokens = language_model(layers=2), some_tokens(2, 7)
    start = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1)).double()
    h, first = model.layers[0](model.embedding(tokens), start[:1])
    h, second = model.layers[1](h, start[1:])
    x, after = model.features(tokens, start)
    assert torch.equal(x, h) and torch.equal(after, torch.cat([first, second]))


def test_no_question_of_the_suite_raises_an_alarm():
    def build(seed):
        torch.manual_seed(seed)
        return RecurrentLM([RNN(16, 48)], vocab_size=16, n_embd=16)
    assert not [name for name, finding in examine(replace(practice_setup(), build=build)).items() if finding.alarm]


# Streams

@quick
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 60))
def test_rows_go_on_within_an_epoch(length, batch_size, seed, more):
    tokens = np.arange((2 * length + 1) * batch_size + length + more)
    lanes = Streams(tokens, length, batch_size, seed)
    for epoch in range(3):
        steps = range(epoch * lanes.per_epoch, (epoch + 1) * lanes.per_epoch)
        batches = [lanes(step) for step in steps]
        assert [fresh.tolist() for _, fresh in batches] == [[place == 0] * batch_size for place in range(lanes.per_epoch)]
        for rows, fresh in batches:
            assert rows.shape == (batch_size, length + 1) and rows.dtype == torch.int64 and fresh.dtype == torch.bool and (rows.diff(dim=1) == 1).all()
        for (before, _), (after, _) in zip(batches, batches[1:]):
            assert torch.equal(before[:, -1], after[:, 0])
        targets = torch.cat([rows[:, 1:].flatten() for rows, _ in batches]).tolist()
        assert len(set(targets)) == len(targets) > len(tokens) - (batch_size + 1) * length - 2 * batch_size


def test_only_the_seed_and_the_step_decide():
    tokens = np.random.default_rng(0).integers(0, 256, 900, dtype=np.uint8)
    straight, jumping = (Streams(tokens, 10, 4, seed=5, begin=0.3) for _ in range(2))
    wanted = [straight(step) for step in range(70)]
    for step in 69, 3, 40, 0, 41:
        assert all(torch.equal(*pair) for pair in zip(jumping(step), wanted[step]))
    other = Streams(tokens, 10, 4, seed=6, begin=0.3)
    assert not all(torch.equal(other(step)[0], wanted[step][0]) for step in range(70))
    assert len({wanted[epoch * straight.per_epoch][0][0, 0].item() for epoch in range(3)}) > 1  # the cuts move


def test_a_share_of_the_rows_begins_anew():
    tokens = np.zeros(20_000, np.uint8)
    drawn = {begin: torch.cat([Streams(tokens, 2, 20, begin=begin)(step)[1] for step in range(1, 400)]).double().mean().item() for begin in (0, 0.25, 1)}
    assert drawn[0] == 0 and drawn[1] == 1 and abs(drawn[0.25] - 0.25) < 0.03


def test_streams_of_a_file(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 4096, 500, dtype=np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    assert torch.equal(Streams(mapped, 8, 2)(3)[0], Streams(tokens, 8, 2)(3)[0])


@pytest.mark.parametrize("arguments, named", [((5, 0, 1), "not 1 of 0"), ((5, 2, 0), "not 0 of 2"), ((8, 4, 2), "8 tokens make no batch of 2 lanes of 4"),
                                              ((1, 4, 1), "no batch"), ((90, 4, 2, 0, 1.5), "not 1.5"), ((90, 4, 2, 0, -0.1), "not -0.1")])
def test_what_makes_no_batch_is_named(arguments, named):
    count, *others = arguments
    with pytest.raises(ValueError, match=named):
        Streams(np.arange(count), *others)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="not -1"):
        Streams(np.arange(50), 4, 2)(-1)


# The carried state

def test_carried_rows_cost_what_one_long_row_costs():
    model, lanes = language_model(layers=2), Streams(some_tokens(300).numpy(), 8, 3)
    carried = Carried(model, 3)
    losses = [carried_loss(carried, lanes(step)) for step in range(4)]
    whole = torch.cat([lanes(0)[0][:, :1]] + [lanes(step)[0][:, 1:] for step in range(4)], dim=1)
    x, state = model.features(whole[:, :-1])
    nats = F.cross_entropy(model.output(x).transpose(1, 2), whole[:, 1:], reduction="none")
    assert np.allclose([loss.item() for loss in losses], [part.mean().item() for part in nats.split(8, dim=1)], rtol=1e-12)
    assert torch.allclose(carried.state, state, atol=1e-12) and not carried.state.requires_grad
    losses[-1].backward()  # ends at the beginning of its row: the graphs before are gone


def test_the_gradient_ends_where_the_row_begins():
    """... and is that of a row that begins from the state as from a constant."""
    model, lanes = language_model(), Streams(some_tokens(300).numpy(), 8, 3)
    carried = Carried(model, 3)
    carried_loss(carried, lanes(0)).backward()
    state = carried.state.clone()
    model.zero_grad()
    carried_loss(carried, lanes(1)).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    rows, _ = lanes(1)
    F.cross_entropy(model.run(rows[:, :-1], state)[0].flatten(0, 1), rows[:, 1:].flatten()).backward()
    assert all(torch.allclose(parameter.grad, grad, atol=1e-12) for parameter, grad in zip(model.parameters(), found))


def test_fresh_rows_and_no_others_begin_from_zeros():
    model, rows = language_model(layers=2), some_tokens(3, 9)
    carried = Carried(model, 3)
    carried.state = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2)).double()
    state, fresh = carried.state.clone(), torch.tensor([False, True, False])
    state[:, 1] = 0
    expected = F.cross_entropy(model.run(rows[:, :-1], state)[0].flatten(0, 1), rows[:, 1:].flatten())
    assert math.isclose(carried_loss(carried, (rows, fresh)).item(), expected.item(), rel_tol=1e-12)


def test_another_loss_of_the_features_is_used():
    carried = Carried(language_model(), 3)
    batch = Streams(some_tokens(300).numpy(), 8, 3)(0)
    usual = carried_loss(carried, batch).item()
    assert math.isclose(carried_loss(carried, batch, lambda *given_: 2 * output_loss(*given_)).item(), 2 * usual, rel_tol=1e-12)


@pytest.mark.filterwarnings("ignore:.*no commit is recorded")
def test_the_state_is_in_a_checkpoint_and_an_interrupted_run_goes_on_with_it(tmp_path):
    tokens = some_tokens(2000).numpy().astype(np.uint8)
    def run(folder, *stops):
        for steps in stops:
            torch.manual_seed(0)
            carried = Carried(RecurrentLM([RNN(4, 6)], vocab_size=11, n_embd=4), 3)
            optimizer = torch.optim.Adam(carried.parameters(), lr=0.01)
            train(carried, Streams(tokens, 8, 3), optimizer, steps, loss=carried_loss, device="cpu", run=begin(folder, seed=0, repository=tmp_path))
        return carried.state_dict()
    straight, stopped = run(tmp_path / "straight", 12), run(tmp_path / "stopped", 5, 12)
    assert "state" in straight and straight["state"].any()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_called_like_the_model_it_reads_from_nothing():
    carried, tokens = Carried(language_model(), 3), some_tokens(3, 9)
    carried_loss(carried, (tokens, torch.ones(3, dtype=torch.bool)))
    assert carried.state.any() and torch.equal(carried(tokens), carried.model(tokens))


# One at a time, and through distance

@pytest.mark.parametrize("layers", [1, 2])
def test_step_by_step_is_the_row(layers):
    model, tokens = language_model(layers=layers), some_tokens(40).tolist()
    steps, slow = StatefulSteps(model), []
    state = steps.start()
    for token in tokens:
        p = steps.distribution(state)
        assert p.dtype == np.float64 and p.shape == (11,) and math.isclose(p.sum(), 1, rel_tol=1e-12)
        slow.append(-math.log2(p[token]))
        kept = state if state is None else (state[0].clone(), state[1].copy())
        state, before = steps.advance(state, token), state
        assert kept is None or torch.equal(before[0], kept[0]) and np.array_equal(before[1], kept[1])  # the old one is as it was
    assert np.allclose(slow, surprise_of(model, tokens, length=64), rtol=0, atol=1e-6)  # surprise_of computes the loss in single precision
    assert not state[0].requires_grad


def test_the_gradient_by_distance_is_autograd_s():
    model, rows = language_model(), some_tokens(4, 13)
    found = gradient_by_distance(model, rows)
    assert found.shape == (12, 4) and found.dtype == np.float64
    for k in range(1, 13):
        place = 12 - k  # the state after this token
        states = [model.features(rows[:, :place + 1])[1].detach().requires_grad_()]
        if k == 1:
            logits = model.output(states[0][-1])
        else:
            logits = model.run(rows[:, place + 1:-1], states[0])[0][:, -1]
        F.cross_entropy(logits, rows[:, -1], reduction="sum").backward()
        assert np.allclose(found[k - 1], states[0].grad[0].norm(dim=1), rtol=1e-9, atol=0)


def test_the_gradient_by_distance_leaves_the_model_as_it_was():
    model = language_model().float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradient_by_distance(model, some_tokens(4, 9))
    assert all(torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
