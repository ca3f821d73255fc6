"""The first networks, and what every later one uses: windows, the loss, the score, one step at a time. Held against plain loops."""
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from practitioner.network import Bigram, evaluating, NeuralNGram, next_token_loss, randomness_kept, StepByStep, surprise_of, Windows
from practitioner.prediction import generate

quick = settings(max_examples=40, deadline=None, derandomize=True)
tokens_of = st.lists(st.integers(0, 10), min_size=1, max_size=70)


def network(seed=0, **sizes):
    """A NeuralNGram over 11 tokens whose logits are far from equal."""
    torch.manual_seed(seed)
    model = NeuralNGram(**dict(vocab_size=11, context=3, n_embd=4, n_hidden=5) | sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


class Summing(nn.Module):
    """A model without a context of its own: its logits depend on all tokens of the row so far."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 11))

    def forward(self, tokens):
        return tokens.cumsum(1)[..., None] * 0.1 * self.weight


# Windows

@quick
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 80))
def test_an_epoch_shows_each_window_once(length, batch_size, seed, more):
    tokens = np.arange(length * (batch_size + 1) + more)
    windows = Windows(tokens, length, batch_size, seed)
    for epoch in range(3):
        batches = [windows(step) for step in range(epoch * windows.per_epoch, (epoch + 1) * windows.per_epoch)]
        assert all(batch.shape == (batch_size, length + 1) and batch.dtype == torch.int64 for batch in batches)
        rows = torch.cat(batches)
        assert (rows.diff(dim=1) == 1).all()
        targets = rows[:, 1:].flatten().tolist()
        assert len(set(targets)) == len(targets) and len({row % length for row in rows[:, 0].tolist()}) == 1
        # what an epoch leaves out: less than a batch, and the ends that no whole window fits into
        assert len(targets) > len(tokens) - 1 - (batch_size + 2) * length


def test_the_cuts_lie_at_every_phase_sooner_or_later():
    """... so that every token is a target, but for fewer than a window's at the end."""
    windows = Windows(np.arange(23), 5, 1)
    assert windows.windows == windows.per_epoch == 3
    first = {windows(step)[0, 0].item() % 5 for step in range(60 * 3)}
    seen = {target for step in range(60 * 3) for target in windows(step)[:, 1:].flatten().tolist()}
    assert first == set(range(5)) and seen == set(range(1, 20))


def test_only_the_seed_and_the_step_decide():
    tokens = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    straight, jumping = Windows(tokens, 10, 4, seed=5), Windows(tokens, 10, 4, seed=5)
    wanted = [straight(step) for step in range(80)]
    for step in 79, 3, 40, 0, 41:
        assert torch.equal(jumping(step), wanted[step])
    assert not all(torch.equal(Windows(tokens, 10, 4, seed=6)(step), wanted[step]) for step in range(5))
    per_epoch = straight.per_epoch
    assert not torch.equal(torch.cat(wanted[:per_epoch]), torch.cat(wanted[per_epoch:2 * per_epoch]))


def test_windows_of_a_file(tmp_path):
    """A memory-mapped array of tokens gives the same batches as one in memory."""
    tokens = np.random.default_rng(0).integers(0, 4096, 500, dtype=np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    assert torch.equal(Windows(mapped, 8, 2)(3), Windows(tokens, 8, 2)(3))


@pytest.mark.parametrize("arguments, named", [((7, 4, 1), "7 tokens make 0 windows of 4"), ((8, 4, 2), "8 tokens make 1 windows of 4"), ((3, 9, 1), "make 0 windows"),
                                              ((9, 0, 1), "not 1 of 0"), ((9, 4, 0), "not 0 of 4")])
def test_what_makes_no_batch_is_named(arguments, named):
    count, length, batch_size = arguments
    with pytest.raises(ValueError, match=named):
        Windows(np.arange(count), length, batch_size)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="not -1"):
        Windows(np.arange(9), 4, 1)(-1)


# The loss and the models

def by_definition(logits, target):
    z = logits.double()
    return (torch.logsumexp(z, 0) - z[target]).item()


def test_the_loss_is_the_mean_surprise_of_what_comes_next():
    model, batch = network(), torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(1))
    logits = model(batch[:, :-1]).detach()
    expected = np.mean([by_definition(logits[b, t], batch[b, t + 1]) for b in range(3) for t in range(7)])
    assert math.isclose(next_token_loss(model, batch).item(), expected, rel_tol=1e-6)


def test_a_table_knows_nothing_at_first_and_then_its_own_row():
    table = Bigram(7)
    batch = torch.tensor([[0, 1, 2, 6, 0]])
    assert math.isclose(next_token_loss(table, batch).item(), math.log(7), rel_tol=1e-6)
    with torch.no_grad():
        table.table.weight.copy_(torch.arange(49.).view(7, 7))
    assert table(batch)[0, 3].tolist() == list(range(42, 49))


def test_the_gradient_of_a_table_is_belief_minus_what_happened():
    table = Bigram(5)
    with torch.no_grad():
        table.table.weight.normal_(generator=torch.Generator().manual_seed(0))
    next_token_loss(table, torch.tensor([[0, 1, 0, 1, 0, 3]])).backward()
    p = torch.softmax(table.table.weight.detach(), 1)
    expected = torch.zeros(5, 5)
    expected[0] = (3 * p[0] - torch.tensor([0., 2, 0, 1, 0])) / 5
    expected[1] = (2 * p[1] - torch.tensor([2., 0, 0, 0, 0])) / 5
    assert torch.allclose(table.table.weight.grad, expected, atol=1e-6)


@quick
@given(tokens_of, st.integers(1, 6))
def test_a_neural_n_gram_by_its_equation(tokens, context):
    """z = b + U tanh(d + H x) with x the embeddings of the last tokens, "nothing yet" before the first."""
    model = network(context=context)
    got = model(torch.tensor([tokens]))[0]
    assert got.shape == (len(tokens), 11)
    weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    for t in range(len(tokens)):
        last = ([11] * context + tokens[:t + 1])[-context:]
        x = np.concatenate([weights["embedding.weight"][token] for token in last])
        z = weights["output.bias"] + weights["output.weight"] @ np.tanh(weights["hidden.bias"] + weights["hidden.weight"] @ x)
        assert np.allclose(got[t].detach().numpy(), z, atol=1e-4)


def test_rows_of_a_batch_do_not_mix():
    model, rows = network(), torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(0))
    together = model(rows)
    assert all(torch.allclose(together[i], model(rows[i:i + 1])[0], atol=1e-6) for i in range(4))


def test_dropout_is_for_training_only():
    model, rows = network(dropout=0.5, n_hidden=64), torch.randint(11, (2, 9))
    assert not torch.equal(model(rows), model(rows))
    model.eval()
    assert torch.equal(model(rows), model(rows))


@pytest.mark.parametrize("size", ["vocab_size", "context", "n_embd", "n_hidden"])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(ValueError, match="at least 1: not .*0"):
        NeuralNGram(**{size: 0})


# The score

@quick
@given(tokens_of, st.integers(3, 20), st.integers(1, 3))
def test_every_token_is_scored_once_with_its_whole_context(tokens, length, batch_size):
    model, array = network(), np.array(tokens)
    expected = [math.log2(11)] + [by_definition(model(torch.tensor([tokens[max(0, t - 3):t]]))[0, -1].detach(), tokens[t]) / math.log(2)
                                  for t in range(1, len(tokens))]
    got = surprise_of(model, array, length=length, batch_size=batch_size)
    assert got.dtype == np.float64 and got.shape == (len(tokens),) and np.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("T", [1, 2, 5, 6, 7, 12, 13, 40])
def test_a_model_without_a_context_sees_at_least_what_was_asked_for(T):
    """Windows of 6 tokens, at least 3 of them before each token that is scored after the first window."""
    tokens, model = np.random.default_rng(T).integers(0, 11, T), Summing()
    got = surprise_of(model, tokens, length=6, batch_size=2)
    assert math.isclose(got[0], math.log2(11))
    for t in range(1, T):
        able = [by_definition(model(torch.from_numpy(tokens[start:t])[None])[0, -1].detach(), tokens[t]) / math.log(2)
                for start in range(max(0, t - 6), max(t - 3, 0) + 1)]
        assert any(math.isclose(got[t], bits, abs_tol=1e-4) for bits in able), t
    all_of_it = surprise_of(model, tokens, length=64)
    assert np.allclose(got[:min(T, 7)], all_of_it[:7], atol=1e-4)


def test_the_score_of_a_table():
    tokens, table = np.array([0, 1, 1, 0, 6]), Bigram(7)
    with torch.no_grad():
        table.table.weight.copy_(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))
    p = torch.softmax(table.table.weight.detach().double(), 1)
    assert np.allclose(surprise_of(table, tokens, length=1), [math.log2(7)] + [-math.log2(p[a, b]) for a, b in zip(tokens, tokens[1:])], atol=1e-5)


def test_the_score_of_no_text_is_empty():
    assert surprise_of(network(), np.array([], dtype=np.uint8)).shape == (0,)


@pytest.mark.parametrize("training", [True, False])
def test_scoring_is_without_dropout_and_leaves_the_mode_as_it_was(training):
    model = network(dropout=0.9).train(training)
    tokens = np.arange(40) % 11
    assert np.array_equal(surprise_of(model, tokens), surprise_of(model, tokens)) and model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(IndexError):
        surprise_of(model, np.array([3, 99]))
    assert model.training == training


def test_judging_puts_each_part_back_into_its_mode():
    """... also where it ends with an error, and the same for one step at a time."""
    model = network(dropout=0.5)
    model.dropout.eval()
    modes = [part.training for part in model.modules()]
    assert set(modes) == {True, False}
    surprise_of(model, np.arange(9)), StepByStep(model).distribution((1, 2))
    assert [part.training for part in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(part.training for part in model.modules()) and not torch.is_grad_enabled()
        1 / 0
    assert [part.training for part in model.modules()] == modes and torch.is_grad_enabled()


def test_randomness_is_kept():
    """That of Python, of NumPy and of PyTorch, also where an error ends it."""
    def drawn():
        return random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with randomness_kept():
        expected = drawn()
    with pytest.raises(ZeroDivisionError), randomness_kept():
        drawn()
        1 / 0
    assert drawn() == expected


@pytest.mark.parametrize("options, named", [(dict(length=2), "length 2: not 3"), (dict(context=0), "not 0"), (dict(context=9, length=8), "length 8: not 9")])
def test_a_context_that_does_not_fit_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        surprise_of(network(), np.arange(9), **options)


def test_the_length_is_long_enough_for_the_context():
    model, tokens = Summing(), np.random.default_rng(0).integers(0, 11, 2600)
    model.weight.data *= 1e-3
    wide = surprise_of(model, tokens, context=1200)
    assert np.array_equal(wide, surprise_of(model, tokens, length=2400, context=1200)) and not np.array_equal(wide, surprise_of(model, tokens))
    assert np.array_equal(surprise_of(model, tokens), surprise_of(model, tokens, length=1024, context=512))
    assert np.allclose(surprise_of(model, tokens[:9], length=1), surprise_of(model, tokens[:9], length=1, context=1))
    model.context = None
    assert np.array_equal(surprise_of(model, tokens), surprise_of(model, tokens, length=1024, context=512))


# One step at a time

@pytest.mark.parametrize("make", [network, lambda: Bigram(11), Summing])
def test_step_by_step_agrees_with_the_score(make):
    model, tokens = make(), np.random.default_rng(0).integers(0, 11, 30)
    stepwise = StepByStep(model)
    state, bits = stepwise.start(), []
    for token in tokens:
        p = stepwise.distribution(state)
        assert p.shape == (11,) and p.dtype == np.float64 and abs(p.sum() - 1) < 1e-12
        bits.append(-math.log2(p[token]))
        state = stepwise.advance(state, token)
    assert np.allclose(bits, surprise_of(model, tokens, length=64), atol=1e-4)


def test_the_state_is_the_last_tokens():
    assert StepByStep(network()).advance((1, 2, 3), np.int64(4)) == (2, 3, 4)
    assert StepByStep(Summing()).advance((1, 2, 3), 4) == (1, 2, 3, 4)
    assert StepByStep(Summing(), context=2).advance((1, 2), 4) == (2, 4)
    with pytest.raises(ValueError, match="not 0"):
        StepByStep(Summing(), context=0)


def test_a_distribution_is_without_dropout():
    model = network(dropout=0.9)
    stepwise = StepByStep(model)
    assert np.array_equal(stepwise.distribution((1, 2)), stepwise.distribution((1, 2))) and model.training


def test_a_sample_follows_the_network():
    """A table that knows one successor for each byte writes just that."""
    table = Bigram()
    with torch.no_grad():
        table.table.weight[torch.arange(256), (torch.arange(256) + 1) % 256] = 50
    assert generate(StepByStep(table), 5, np.random.default_rng(0), prompt="a") == b"bcdef"
