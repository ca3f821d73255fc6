"""Beginnings: the rules against torch.nn.init, what the listener hears against sums by hand, and the remedies against PyTorch's."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from practitioner.initialisation import activation_statistics, DeepNGram, fixed, initialise, kaiming, Layer, LayerNorm, xavier
from practitioner.network import Bigram, NeuralNGram, next_token_loss

quick = settings(max_examples=30, deadline=None, derandomize=True)
RULES = {"xavier": (xavier, nn.init.xavier_normal_), "kaiming": (kaiming, lambda weight, generator: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)),
         "fixed": (fixed(0.02), lambda weight, generator: nn.init.normal_(weight, std=0.02, generator=generator))}
every_rule = pytest.mark.parametrize("rule, reference", RULES.values(), ids=RULES)


def batch(rows=3, length=9, vocab_size=11, seed=0):
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def small(seed=0, **options):
    torch.manual_seed(seed)
    return DeepNGram(**dict(vocab_size=11, context=3, n_embd=4, n_hidden=6, n_layer=3) | options)


# The rules

@every_rule
@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (50, 50)])
def test_a_rule_draws_the_numbers_of_torch(rule, reference, shape):
    ours, theirs = torch.full(shape, 9.0), torch.full(shape, 9.0)
    with torch.no_grad():
        rule(ours, generator=torch.Generator().manual_seed(3))
        reference(theirs, generator=torch.Generator().manual_seed(3))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rule, std", [(xavier, math.sqrt(2 / 1200)), (kaiming, math.sqrt(2 / 400)), (fixed(0.3), 0.3)])
def test_a_rule_has_the_deviation_it_promises(rule, std):
    torch.manual_seed(0)
    weight = torch.empty(800, 400)
    rule(weight)
    assert math.isclose(weight.std(), std, rel_tol=0.01) and abs(weight.mean()) < 0.01 * std


def test_kaiming_keeps_the_signal_of_a_relu_and_xavier_there_and_back():
    torch.manual_seed(0)
    x, y = torch.randn(500, 400), torch.randn(500, 400)
    for _ in range(8):
        relu, linear = torch.empty(400, 400), torch.empty(400, 400)
        kaiming(relu), xavier(linear)
        x, y = F.relu(x @ relu.T), y @ linear.T
    assert 0.4 < x.square().mean() < 0.6 * 1.5 and 0.7 < y.square().mean() < 1.4


def test_initialise_fills_all_linear_layers_and_nothing_else():
    model = small(norm=LayerNorm, residual=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert initialise(model, fixed(0.5), generator=torch.Generator().manual_seed(1)) is model
    for name, parameter in model.named_parameters():
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        if linear and name.endswith("bias"):
            assert not parameter.any()
        else:
            assert torch.equal(parameter, before[name]) != linear, name
        assert parameter.requires_grad and parameter.grad is None
    again = initialise(small(seed=5, norm=LayerNorm, residual=True), fixed(0.5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.output.weight, model.output.weight) and again.layers[2].linear.weight.abs().max() > 0


def test_a_layer_without_a_bias():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    assert math.isclose(initialise(model, lambda weight, generator: weight.fill_(2.0))[0].weight.sum().item(), 18)


def test_residual_layers_are_divided_by_the_root_of_their_number():
    ones = lambda weight, generator=None: weight.fill_(1.0)
    model = initialise(small(n_layer=4, residual=True), ones, residual=("linear",))
    assert all(torch.equal(layer.linear.weight, torch.full((6, 6), 0.5)) for layer in model.layers)
    assert (model.first.weight == 1).all() and (model.output.weight == 1).all()
    some = initialise(small(n_layer=4, residual=True), ones, residual=("1.linear", "3.linear"))
    assert [layer.linear.weight[0, 0].item() for layer in some.layers] == pytest.approx([1, 0.5 ** 0.5, 1, 0.5 ** 0.5])


def test_a_single_residual_name_is_that_name_and_not_its_letters():
    ones = lambda weight, generator=None: weight.fill_(1.0)
    model = initialise(small(n_layer=4, residual=True), ones, residual="linear")
    assert all((layer.linear.weight == 0.5).all() for layer in model.layers)
    model = initialise(small(n_layer=4, residual=True), ones, residual="3.linear")
    assert (model.first.weight == 1).all() and (model.output.weight == 1).all()
    with pytest.raises(ValueError, match="c_proj"):
        initialise(small(), ones, residual="c_proj")
    with pytest.raises(ValueError, match="not"):  # "first" and "output" end with a t
        initialise(small(), ones, residual="not")


def test_a_residual_name_that_no_layer_has_is_refused():
    with pytest.raises(ValueError, match="proj.*layers.0.linear"):
        initialise(small(), xavier, residual=("proj",))


# The networks

def test_a_deep_network_by_hand():
    """Plain: act(norm(W x + b)); residual: x + W act(norm(x)) + b."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    for norm in nn.Identity, LayerNorm:
        plain, residual = Layer(6, nn.Tanh, False, norm), Layer(6, nn.ReLU, True, norm)
        assert torch.allclose(plain(x), torch.tanh(plain.norm(x @ plain.linear.weight.T + plain.linear.bias)))
        assert torch.allclose(residual(x), x + torch.relu(residual.norm(x)) @ residual.linear.weight.T + residual.linear.bias)


@pytest.mark.parametrize("options", [{}, dict(residual=True), dict(norm=LayerNorm), dict(residual=True, norm=nn.LayerNorm), dict(activation=nn.ReLU)], ids=str)
def test_a_deep_network_sees_its_context_and_no_more(options):
    model, tokens = small(**options).double(), batch(1, 12)
    with torch.no_grad():
        there = model(tokens)
        assert there.shape == (1, 12, 11)
        for place in range(12):
            changed = tokens.clone()
            changed[0, place] = (changed[0, place] + 1) % 11
            moved = (model(changed) != there).any(-1)[0].nonzero().flatten().tolist()
            assert set(moved) <= set(range(place, place + 3)) and place in moved
    assert isinstance(small(residual=True, norm=LayerNorm).last_norm, LayerNorm) and isinstance(small(norm=LayerNorm).last_norm, nn.Identity)


@quick
@given(st.integers(1, 20), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e3]))
def test_layer_norm_is_torch_s(n, seed, size):
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(2, 3, n, generator=generator, dtype=torch.float64)
    ours, theirs = LayerNorm(n, eps=1e-3).double(), nn.LayerNorm(n, eps=1e-3).double()
    with torch.no_grad():
        for one, two in zip(ours.parameters(), theirs.parameters()):
            two.copy_(one.normal_(generator=generator))
    results = []
    for norm in ours, theirs:
        leaf = x.clone().requires_grad_()
        (norm(leaf) ** 3).sum().backward()
        results.append([norm(leaf), leaf.grad, *(parameter.grad for parameter in norm.parameters())])
    for one, two in zip(*results):
        assert torch.allclose(one, two, rtol=1e-7, atol=1e-9 * max(1, two.abs().max().item()))
    assert LayerNorm(n).eps == nn.LayerNorm(n).eps


# The listener

@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_what_is_heard_is_what_is_there(activation):
    model, tokens = small(activation=activation, n_layer=2), batch()
    initialise(model, fixed(1.5))
    heard = activation_statistics(model, tokens)
    assert [layer["name"] for layer in heard] == ["layers.0.activation", "layers.1.activation"]
    assert all(parameter.grad is None for parameter in model.parameters())
    # by hand: the outputs kept, and the gradient by moving the last one a little
    kept = []
    hooks = [layer.activation.register_forward_hook(lambda module, inputs, output: kept.append(output)) for layer in model.layers]
    loss = next_token_loss(model, tokens)
    for output in kept:
        output.retain_grad()
    loss.backward()
    for hook in hooks:
        hook.remove()
    for layer, output in zip(heard, kept):
        flat, gradient = output.detach().double().numpy().reshape(-1, 6), output.grad.double().numpy()
        assert math.isclose(layer["signal"], np.sqrt(np.mean(flat ** 2)), rel_tol=1e-5)
        assert math.isclose(layer["variation"], np.sqrt(np.mean(flat.var(axis=0))), rel_tol=1e-5)
        assert math.isclose(layer["gradient"], np.sqrt(np.mean(gradient ** 2)), rel_tol=1e-5)
        assert math.isclose(layer["dead"], np.mean((flat == 0).all(axis=0)), abs_tol=1e-7)
        assert math.isclose(layer["saturated"], np.mean(np.abs(flat) > 0.97), abs_tol=1e-7)
    assert activation is nn.ReLU or 0 < heard[-1]["saturated"] < 1


def test_dead_units_are_counted():
    model = small(activation=nn.ReLU, n_layer=1)
    with torch.no_grad():
        model.layers[0].linear.weight.zero_()
        model.layers[0].linear.bias.copy_(torch.tensor([-1., -1, 1, 1, 1, 2]))
    [layer] = activation_statistics(model, batch())
    assert math.isclose(layer["dead"], 2 / 6, rel_tol=1e-6) and layer["variation"] == 0 and layer["signal"] > 1


def test_what_the_loss_does_not_depend_on_has_no_gradient():
    class Idle(DeepNGram):
        def forward(self, tokens):
            self.idle(self.embedding(tokens))
            return super().forward(tokens)

    torch.manual_seed(0)
    model = Idle(vocab_size=11, context=3, n_embd=4, n_hidden=6, n_layer=1)
    model.idle = nn.ReLU()
    heard = {layer["name"]: layer for layer in activation_statistics(model, batch())}
    assert heard["idle"]["gradient"] == 0 < heard["idle"]["signal"] and heard["layers.0.activation"]["gradient"] > 0


def test_the_model_is_left_as_it_was():
    model = small()
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.no_grad():  # and it works where gradients are off
        activation_statistics(model, batch())
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters()))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(IndexError):
        activation_statistics(model, batch(vocab_size=99))
    assert not any(module._forward_hooks for module in model.modules())


def test_other_kinds_of_module_can_be_heard():
    model = NeuralNGram(vocab_size=11, context=2, n_embd=3, n_hidden=4)
    with pytest.raises(ValueError, match="no module of the kinds .*LSTM"):
        activation_statistics(model, batch(), kinds=nn.LSTM)
    with pytest.raises(ValueError, match="no module of the kinds .*Tanh.*ReLU"):
        activation_statistics(model, batch())
    assert [layer["name"] for layer in activation_statistics(model, batch(), kinds=nn.Linear)] == ["hidden", "output"]
    assert activation_statistics(Bigram(11), batch(), kinds=(nn.Embedding,))[0]["signal"] == 0


def test_kaiming_keeps_signal_and_gradient_through_many_layers():
    torch.manual_seed(0)
    model = initialise(DeepNGram(n_layer=20, n_hidden=256, activation=nn.ReLU), kaiming)
    heard = activation_statistics(model, batch(4, 65, 256))
    for what in "signal", "gradient":
        assert 1 / 3 < heard[-1][what] / heard[0][what] < 3
    faint = activation_statistics(initialise(model, xavier), batch(4, 65, 256))
    assert faint[-1]["signal"] / faint[0]["signal"] < 2 ** -8


def test_the_first_loss_of_a_healthy_beginning():
    model = initialise(small(vocab_size=200, n_hidden=64), xavier)
    with torch.no_grad():
        model.output.weight /= 10
    assert abs(next_token_loss(model, batch(8, 65, 200)).item() - math.log(200)) < 0.05
