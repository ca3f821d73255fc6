"""Attention. Held against F.scaled_dot_product_attention, nn.MultiheadAttention, plain loops, complex numbers and the rotations of transformers."""
import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from practitioner.attention import (angles, attend, attend_in_blocks, attention_weights, AttentionLM, causal_mask, CausalAttention, influence, maps_of, POSITIONS,
                                    rotate, sinusoids)
from practitioner.diagnostics import examine, practice_setup

quick = settings(max_examples=25, deadline=None, derandomize=True)
sizes = st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)


def randoms(*shapes, seed=0, scale=1.0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_(grad) for shape in shapes]


def some_mask(T, S, seed):
    """A random mask that lets each place look somewhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(T, S, generator=generator) < 0.5
    mask[torch.arange(T), torch.randint(S, (T,), generator=generator)] = True
    return mask


def same(one, other, off=1e-12):
    return torch.allclose(one, other, rtol=0, atol=off)


# The function

@quick
@given(*sizes, st.integers(0, 99), st.booleans(), st.sampled_from([0.1, 1.0, 30.0]))
def test_values_and_gradients_are_those_of_torch(B, heads, T, S, hs, seed, masked, scale):
    inputs = randoms((B, heads, T, hs), (B, heads, S, hs), (B, heads, S, 3), seed=seed, scale=scale, grad=True)
    mask = some_mask(T, S, seed) if masked else None
    ours, theirs = attend(*inputs, mask), F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    assert ours.shape == (B, heads, T, 3) and same(ours, theirs, 1e-10 * scale)
    for slopes in zip(*(torch.autograd.grad(y.sin().sum(), inputs) for y in (ours, theirs))):
        assert same(*slopes, 1e-8 * scale ** 2)


@quick
@given(*sizes, st.integers(0, 99))
def test_it_is_the_formula_term_by_term(B, heads, T, S, hs, seed):
    q, k, v = randoms((B, heads, T, hs), (B, heads, S, hs), (B, heads, S, 2), seed=seed)
    mask = some_mask(T, S, seed)
    weights, y = attention_weights(q, k, mask), attend(q, k, v, mask)
    for b in range(B):
        for h in range(heads):
            for t in range(T):
                fits = [math.exp(float(q[b, h, t] @ k[b, h, s]) / math.sqrt(hs)) if mask[t, s] else 0.0 for s in range(S)]
                known = torch.tensor([fit / sum(fits) for fit in fits], dtype=torch.float64)
                assert same(weights[b, h, t], known) and same(y[b, h, t], known @ v[b, h])


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_rows_sum_to_one_and_what_is_masked_has_no_weight_at_all(T, S, seed):
    q, k = randoms((T, 4), (S, 4), seed=seed, scale=5)
    mask = some_mask(T, S, seed)
    weights = attention_weights(q, k, mask)
    assert same(weights.sum(dim=1), torch.ones(T).double()) and (weights[~mask] == 0).all() and (weights[mask] > 0).all()


def test_huge_scores_overflow_nothing():
    q = torch.full((1, 3, 4), 1e18)
    assert torch.isfinite(attend(q, q, q, causal_mask(3))).all()


@pytest.mark.parametrize("mask", [torch.ones(3, 3), torch.zeros(3, 3).tril(), torch.zeros(3, 3, dtype=torch.int64)])
def test_a_mask_that_is_not_bool_is_refused(mask):
    """... a mask of zeros and minus infinity, to be added, among them: read as a bool it would mean the opposite."""
    q, k, v = randoms((3, 2), (3, 2), (3, 2))
    with pytest.raises(ValueError, match="a mask is bool"):
        attend(q, k, v, mask)


def test_a_place_that_may_look_nowhere_is_refused():
    q, k, v = randoms((2, 3, 2), (2, 3, 2), (2, 3, 2))
    mask = causal_mask(3).repeat(2, 1, 1)
    mask[1, 2] = False
    with pytest.raises(ValueError, match="look somewhere"):
        attend(q, k, v, mask)


def test_the_causal_mask():
    mask = causal_mask(4)
    assert mask.dtype == torch.bool and mask.tolist() == [[s <= t for s in range(4)] for t in range(4)]


@quick
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99), st.sampled_from([1.0, 20.0]))
def test_in_blocks_it_is_the_same(T, block, seed, scale):
    q, k, v = randoms((2, 2, T, 4), (2, 2, T, 4), (2, 2, T, 4), seed=seed, scale=scale)
    assert same(attend_in_blocks(q, k, v, block), attend(q, k, v, causal_mask(T)), 1e-12 * scale)


def test_in_blocks_gradients_pass_and_a_block_of_nothing_is_refused():
    inputs = randoms((1, 7, 3), (1, 7, 3), (1, 7, 3), grad=True)
    slopes = [torch.autograd.grad(y.sin().sum(), inputs) for y in (attend_in_blocks(*inputs, 3), attend(*inputs, causal_mask(7)))]
    assert all(same(*pair) for pair in zip(*slopes))
    with pytest.raises(ValueError, match="at least 1"):
        attend_in_blocks(*inputs, 0)


# Who depends on whom

def test_influence_is_the_norm_of_the_jacobian_s_blocks():
    A, x = randoms((5, 5), (5, 3))
    A[0, 1] = A[3, 2] = 0
    found = influence(lambda x: A @ x, x)  # ∂y_t / ∂x_s = A[t, s] times the identity, whose norm is √3
    assert same(found, A.abs() * math.sqrt(3)) and found[0, 1] == found[3, 2] == 0


@quick
@given(st.integers(1, 7), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 99))
def test_no_way_leads_from_the_future_and_one_from_every_past_place(T, n_head, rotary, seed):
    torch.manual_seed(seed)
    layer = CausalAttention(8, n_head, rotary=rotary).double()
    found, past = influence(lambda x: layer(x[None])[0], torch.randn(T, 8).double()), causal_mask(T)
    assert (found[~past] == 0).all() and (found[past] > 0).all()


# The layer

@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_layer_is_multi_head_attention_of_torch(B, T, n_head, hs, seed):
    torch.manual_seed(seed)
    n = n_head * hs
    ours, theirs = CausalAttention(n, n_head).double(), nn.MultiheadAttention(n, n_head, batch_first=True).double()
    theirs.load_state_dict({"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias, "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias})
    x = torch.randn(B, T, n).double().requires_grad_()
    pair = ours(x), theirs(x, x, x, attn_mask=~causal_mask(T), need_weights=False)[0]
    assert pair[0].shape == x.shape and same(*pair) and same(*(torch.autograd.grad(y.sin().sum(), x)[0] for y in pair), 1e-10)


def test_rotary_turns_queries_and_keys_and_not_values():
    torch.manual_seed(0)
    layer = CausalAttention(12, 3, rotary=True).double()
    plain = copy.deepcopy(layer)
    plain.rotary = False
    x = torch.randn(2, 5, 12).double()
    (q, k, v), (q0, k0, v0) = layer.heads(x), plain.heads(x)
    assert q.shape == (2, 3, 5, 4) and same(q, rotate(q0)) and same(k, rotate(k0)) and torch.equal(v, v0)
    y = attend(q, k, v, causal_mask(5)).transpose(1, 2).reshape(2, 5, 12)
    assert same(layer(x), layer.proj(y)) and not same(layer(x), plain(x), 1e-3)


def test_dropout_is_of_training_only():
    layer, x = CausalAttention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    healthy = CausalAttention(8, 2)
    healthy.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), layer(x)) and torch.equal(layer(x), healthy(x))


@pytest.mark.parametrize("settings_", [dict(n_embd=10, n_head=3), dict(n_embd=0, n_head=1), dict(n_embd=4, n_head=0), dict(n_embd=4, n_head=-2),
                                       dict(n_embd=6, n_head=2, rotary=True), dict(n_embd=4, n_head=2, dropout=1.0), dict(n_embd=4, n_head=2, dropout=-0.1)])
def test_impossible_settings_are_refused(settings_):
    with pytest.raises(ValueError):
        CausalAttention(**settings_)


# Positions

@quick
@given(st.integers(1, 20), st.integers(1, 6), st.sampled_from([100.0, 10_000.0]), st.integers(0, 50))
def test_angles_and_sinusoids_are_their_formulas(T, pairs, theta, begin):
    found = angles(T, 2 * pairs, theta, begin)
    known = torch.tensor([[(begin + t) * theta ** (-2 * i / (2 * pairs)) for i in range(pairs)] for t in range(T)], dtype=torch.float64)
    assert found.dtype == torch.float64 and same(found, known, 1e-10)
    p = sinusoids(T, 2 * pairs)
    assert p.dtype == torch.float32 and p.shape == (T, 2 * pairs)
    for i in range(pairs):
        turned = torch.arange(T).double() / 10_000.0 ** (2 * i / (2 * pairs))
        assert same(p[:, 2 * i].double(), turned.sin(), 1e-6) and same(p[:, 2 * i + 1].double(), turned.cos(), 1e-6)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_odd_numbers_make_no_pairs(n):
    for function in (lambda: angles(3, n), lambda: sinusoids(3, n), lambda: rotate(torch.ones(3, n))):
        with pytest.raises(ValueError, match="pairs"):
            function()


@quick
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2000), st.integers(0, 99))
def test_rotated_scores_know_the_distance_and_nothing_else(T, pairs, begin, seed):
    q, k = randoms((2, T, 2 * pairs), (2, T, 2 * pairs), seed=seed)
    scores = rotate(q) @ rotate(k).transpose(-2, -1)
    moved = rotate(q, begin=begin) @ rotate(k, begin=begin).transpose(-2, -1)
    assert same(scores, moved, 1e-9) and same(rotate(q).norm(dim=-1), q.norm(dim=-1)) and torch.equal(rotate(q)[:, :1], q[:, :1])
    for t in range(T):
        for s in range(T):
            alone = (q[:, t] * rotate(k[:, s:s + 1], begin=s - t)[:, 0]).sum(dim=-1)
            assert same(scores[:, t, s], alone, 1e-9)


@quick
@given(st.integers(1, 12), st.integers(1, 4), st.sampled_from([100.0, 10_000.0]), st.integers(0, 30))
def test_rotation_is_multiplication_by_a_complex_number(T, pairs, theta, begin):
    [x] = randoms((3, T, 2 * pairs))
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones(T, pairs).double(), angles(T, 2 * pairs, theta, begin))
    assert same(rotate(x, theta, begin), torch.cat([turned.real, turned.imag], dim=-1))


def test_rows_in_two_parts_are_rotated_as_in_one():
    [x] = randoms((2, 9, 6))
    assert same(rotate(x), torch.cat([rotate(x[:, :4]), rotate(x[:, 4:], begin=4)], dim=1))
    assert rotate(x.half()).dtype == torch.float16


def test_rotation_is_that_of_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=64)
    q, k = (torch.randn(2, 4, 20, 8) for _ in range(2))
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, torch.arange(5, 25)[None])
    theirs = llama.apply_rotary_pos_emb(q, k, cos, sin)
    assert same(rotate(q, begin=5), theirs[0], 1e-5) and same(rotate(k, begin=5), theirs[1], 1e-5)


# The model

@pytest.mark.parametrize("positions", POSITIONS)
def test_the_model_sees_all_of_the_past_and_nothing_of_the_future(positions):
    torch.manual_seed(0)
    model = AttentionLM(11, 8, 2, 2, positions, n_positions=9).double()
    tokens = torch.randint(11, (3, 9))
    z = model(tokens)
    assert z.shape == (3, 9, 11) and torch.equal(model.output(model.features(tokens)), z)
    for place in range(9):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        moved = (model(changed) - z).abs().amax(dim=2) > 0
        assert moved[:, place:].all() and not moved[:, :place].any()
        assert torch.equal(model(tokens[:, :place + 1])[:, -1].round(decimals=9), z[:, place].round(decimals=9))


def test_only_positions_tell_an_order():
    """One layer without positions: the last place takes the same of all orders; with any kind, it does not."""
    tokens = torch.tensor([[1, 2, 3, 4], [3, 1, 2, 4]])
    for positions in POSITIONS:
        torch.manual_seed(0)
        one, other = AttentionLM(11, 8, 2, 1, positions).double()(tokens)[:, -1]
        assert same(one, other) == (positions == "none"), positions


def test_tied_is_one_matrix_and_settings_are_checked():
    model = AttentionLM(50, 8, 2, 1, tied=True)
    assert model.output.weight is model.embedding.weight
    assert sum(p.numel() for p in model.parameters()) == 50 * 8 + 50 + 4 * 64 + 4 * 8 + 2 * 2 * 8
    with pytest.raises(ValueError, match="'rotatory'"):
        AttentionLM(50, 8, 2, 1, "rotatory")
    with pytest.raises(ValueError, match="5 places"):
        AttentionLM(50, 8, 2, 1, "learned", n_positions=4)(torch.zeros(1, 5, dtype=torch.int64))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_no_question_of_the_suite_raises_an_alarm(positions):
    def build(seed):
        torch.manual_seed(seed)
        return AttentionLM(16, 32, 2, 1, positions)
    assert not [name for name, finding in examine(replace(practice_setup(), build=build)).items() if finding.alarm]


def test_maps_are_the_weights_of_each_layer_in_order():
    torch.manual_seed(0)
    model, tokens = AttentionLM(11, 8, 2, 3).double(), torch.randint(11, (2, 6))
    before = model(tokens)
    found = maps_of(model, tokens)
    x = model.embedding(tokens)
    for norm, layer, weights in zip(model.norms, model.layers, found):
        q, k, v = layer.heads(norm(x))
        assert weights.shape == (2, 2, 6, 6) and not weights.requires_grad and same(weights, attention_weights(q, k, causal_mask(6)))
        x = x + layer.proj((weights @ v).transpose(1, 2).flatten(2))
    assert len(found) == 3 and same(model.norms[-1](x), model.features(tokens)) and torch.equal(model(tokens), before)


def test_the_listeners_go_even_if_the_model_fails():
    model = AttentionLM(11, 8, 2, 1)
    with pytest.raises(IndexError):
        maps_of(model, torch.tensor([[99]]))
    assert not model.layers[0]._forward_hooks


def test_two_layers_learn_what_one_cannot():
    """The induction of the notebook, smaller: a list said again. (Of lists of one length, one layer could learn the distance.)"""
    def loss_after(n_layer, steps=300):
        torch.manual_seed(0)
        model, generator = AttentionLM(16, 32, 2, n_layer), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
        for _ in range(steps):
            k = int(torch.randint(4, 13, (1,), generator=generator))
            first = torch.rand(32, 16, generator=generator).argsort(dim=1)[:, :k]
            rows = torch.cat([first, first], dim=1)
            loss = F.cross_entropy(model(rows[:, :-1])[:, k:].flatten(0, 1), rows[:, k + 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()
    assert loss_after(2) < 0.2 < 1 < loss_after(1)
