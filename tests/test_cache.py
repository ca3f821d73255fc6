"""The cache against models that have none: lengths, batches and cuts drawn at random; what lies beyond the context; what may not go in; and speculation, whose law is the model's own."""
import copy
import itertools
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from practitioner.attention import rotate
from practitioner.cache import (attending, Cache, CachedLM, CachedSteps, EightBitLinear, fork, greedy_law, keep_or_redraw, last_logits, OneRowLinear,
                                rewind, softmax_law, speculate, turn_by, with_linears, written_all)
from practitioner.gpt import GPT, GPTConfig, louder
from practitioner.network import StepByStep
from practitioner.recipe import DecoderLM, Recipe

ROOT = Path(__file__).resolve().parent.parent
quick = settings(max_examples=int(os.environ.get("EXAMPLES", 12)), deadline=None, derandomize=True)
V, T = 11, 16
QWEN = dict(norm="rms", pre_norm=True, positions="rotary", inner="swiglu", n_inner=20, qk_norm=True, bias=False, tied=False)
RECIPES = {"gpt1": None, "qwen": QWEN, "rotary": dict(positions="rotary"), "learned": dict(pre_norm=True, qk_norm=True, tied=False)}


def made(kind, seed=0, n_layer=2, dtype=torch.float64):
    """A small model of this kind, with noise on every parameter."""
    torch.manual_seed(seed)
    if RECIPES[kind] is None:
        model = GPT(GPTConfig(V, T, 12, n_layer, 3, dropout=0.1))
    else:
        model = DecoderLM(Recipe(V, T, 12, n_layer, 3, **{"n_inner": 24} | RECIPES[kind]))
    return louder(model).to(dtype).eval()


def tokens_of(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(V, size=shape))


def cuts(data, total):
    """Lengths of pieces that add up to the total, drawn."""
    places = data.draw(st.sets(st.integers(1, total - 1), max_size=total - 1)) if total > 1 else set()
    return np.diff([0, *sorted(places), total]).tolist()


# Up to the context: the same, however it is cut

@quick
@given(st.sampled_from(list(RECIPES)), st.integers(1, 3), st.integers(1, T), st.integers(1, 3), st.integers(0, 99), st.data())
def test_in_any_pieces_the_logits_are_those_of_the_whole(kind, B, length, n_layer, seed, data):
    """... to ten digits in double precision, at every place."""
    model, tokens = made(kind, seed, n_layer), tokens_of(B, length, seed=seed)
    lm, cache = CachedLM(model), Cache(model, B, data.draw(st.integers(length, T)))
    with torch.no_grad():
        whole = model(tokens)
        found = torch.cat([lm(part, cache) for part in tokens.split(cuts(data, length), dim=1)], dim=1)
        assert whole.std() > 0.1 and torch.allclose(found, whole, rtol=0, atol=1e-10) and torch.allclose(lm(tokens), whole, rtol=0, atol=1e-10)
    assert cache.lengths == B * [length]


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(1, 2), st.integers(1, T), st.integers(0, 99), st.data())
def test_in_single_precision_too(kind, B, length, seed, data):
    """... to a hundred thousandth of how large the logits are."""
    model, tokens = made(kind, seed, dtype=torch.float32), tokens_of(B, length, seed=seed)
    lm, cache = CachedLM(model), Cache(model, B)
    with torch.no_grad():
        whole = model(tokens)
        found = torch.cat([lm(part, cache) for part in tokens.split(cuts(data, length), dim=1)], dim=1)
    assert (found - whole).abs().max() < 1e-5 * max(1, whole.abs().max().item())


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(0, 99), st.data())
def test_rows_of_different_lengths_are_as_if_alone(kind, seed, data):
    """Pieces of different lengths for each row, none at all too, filled up with tokens at their ends."""
    B = data.draw(st.integers(2, 4))
    texts = [tokens_of(data.draw(st.integers(1, 12)), seed=seed + row).tolist() for row in range(B)]
    model, left, found = made(kind, seed), [list(text) for text in texts], [[] for _ in texts]
    lm, cache = CachedLM(model), Cache(model, B, T if kind in ("gpt1", "learned") else 24)
    with torch.no_grad():
        while any(left):
            counts = [data.draw(st.integers(0, min(4, len(rest)))) for rest in left]
            counts = counts if any(counts) else [min(1, len(rest)) for rest in left]
            longest = max(counts)
            rows = torch.tensor([rest[:count] + (longest - count) * [seed % V] for rest, count in zip(left, counts)])
            z = lm(rows, cache, counts)
            for row, count in enumerate(counts):
                found[row] += z[row, :count]
                left[row] = left[row][count:]
        assert cache.lengths == [len(text) for text in texts]
        for text, rows in zip(texts, found):
            assert torch.allclose(torch.stack(rows), model(torch.tensor([text]))[0], rtol=0, atol=1e-10)


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(0, 99), st.data())
def test_a_fork_goes_its_own_way_and_a_rewound_cache_is_as_if_never_read(kind, seed, data):
    model, tokens = made(kind, seed), tokens_of(3, T, seed=seed)
    lm, cache, begin = CachedLM(model), Cache(model, 2), data.draw(st.integers(1, T - 2))
    order = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=4))
    with torch.no_grad():
        lm(tokens[:2, :begin], cache)
        other = fork(cache, order)
        lm(tokens[:2, begin:begin + 2], cache)                      # which the fork does not see
        new = tokens[2:, begin:].repeat(len(order), 1)
        whole = torch.cat([tokens[order, :begin], new], dim=1)
        assert torch.allclose(lm(new, other), model(whole)[:, begin:], rtol=0, atol=1e-10)
        back = data.draw(st.integers(0, begin))
        rewind(cache, [back, back])
        assert torch.allclose(lm(tokens[:2, back:], cache), model(tokens[:2])[:, back:], rtol=0, atol=1e-10)


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(0, 99), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 7))
def test_together_they_write_the_tokens_that_each_writes_without_a_cache(kind, seed, lengths, count):
    model = made(kind, seed)
    prompts = [tokens_of(length, seed=seed + row).tolist() for row, length in enumerate(lengths)]
    found = written_all(CachedLM(model), prompts, count)
    for prompt, tokens in zip(prompts, found):
        text = list(prompt)
        with torch.no_grad():
            for _ in range(count):
                text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert text[len(prompt):] == tokens


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 30), st.integers(0, V - 1)), min_size=1, max_size=12))
def test_steps_are_those_without_a_cache_from_any_state_to_any_other(kind, seed, jumps):
    """A state is extended, or another taken up that shares its beginning; beyond the context both keep as many tokens."""
    model = made(kind, seed)
    cached, plain, states = CachedSteps(CachedLM(model)), StepByStep(model, context=T), [()]
    for which, token in jumps:
        state = states[which % len(states)]
        for step in range(1 + which % 9):
            assert plain.advance(state, token) == cached.advance(state, token)
            state = cached.advance(state, (token + step) % V)
        states.append(state)
        assert np.allclose(cached.distribution(state), plain.distribution(state), rtol=0, atol=1e-10)
    assert cached.distribution(()).sum() == pytest.approx(1)


# Beyond the context

@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("keep", [1, 5, 8, 16])
def test_a_jump_equals_the_model_on_a_window_whose_beginning_jumps(kind, keep):
    model, text = made(kind), tokens_of(50, seed=3).tolist()
    steps, state, begin = CachedSteps(CachedLM(model), keep), (), 0
    for t, token in enumerate(text):
        state = steps.advance(state, token)
        begin = t + 1 - keep if t + 1 - begin > T else begin
        with torch.no_grad():
            z = model(torch.tensor([text[begin:t + 1]]))[0, -1]
        assert np.allclose(steps.distribution(state), z.softmax(-1).numpy(), rtol=0, atol=1e-10)
    assert keep < T or 0.9 < steps.reads / (T + (50 - T) * T) <= 1  # a window may happen to begin like the one before it


def one_banded_pass(model, tokens, band):
    from torch.nn import functional as F
    back = torch.arange(tokens.shape[1])[:, None] - torch.arange(tokens.shape[1])
    x = model.tokens(tokens)
    for block in model.blocks:
        def attention(x, block=block):
            y = F.scaled_dot_product_attention(*block.heads(x), attn_mask=(back >= 0) & (back < band))
            return block.proj(y.transpose(1, 2).flatten(2))
        x = attending(block, attention)(x)
    return torch.nn.functional.linear(model.norm(x), model.head)


@quick
@given(st.sampled_from(["qwen", "rotary"]), st.integers(1, 3), st.integers(1, T), st.integers(0, 20), st.integers(1, 2), st.data())
def test_a_band_equals_one_banded_pass_over_the_whole_text(kind, n_layer, band, slack, B, data):
    model, tokens = made(kind, 1, n_layer), tokens_of(B, 40, seed=band)
    cache, lm, found, t = Cache(model, B, band + slack, band), CachedLM(model), [], 0
    with torch.no_grad():
        while t < 40:
            piece = data.draw(st.integers(1, slack + 1))
            found.append(lm(tokens[:, t:t + piece], cache))
            t += piece
        assert torch.allclose(torch.cat(found, dim=1), one_banded_pass(model, tokens, band), rtol=0, atol=1e-9)
    assert cache.keys.shape[3] == band + slack and cache.lengths[0] + cache.dropped == 40


@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_a_band_equals_the_sliding_window_with_one_layer_and_with_no_more(n_layer):
    model, tokens, band = made("qwen", 5, n_layer), tokens_of(1, 40), 8
    with torch.no_grad():
        by_band = one_banded_pass(model, tokens, band)[0, band - 1:]
        by_window = model(tokens.unfold(1, band, 1)[0])[:, -1]
    apart = (by_band - by_window).abs().amax(dim=1)
    assert apart[0] < 1e-10 and (apart[1:].max() < 1e-10 if n_layer == 1 else apart[1:].min() > 1e-6)


@pytest.mark.parametrize("kind", ["gpt1", "learned"])
def test_learned_positions_end_where_they_end(kind):
    model = made(kind)
    for cache in Cache(model, 1, 40), Cache(model, 1, 40, band=8):
        lm = CachedLM(model)
        lm(tokens_of(1, T), cache)
        with pytest.raises(ValueError, match=f"place {T + 1}, but {T} positions"):
            lm(tokens_of(1, 1), cache)


# What may not go in

def test_what_does_not_fit_is_refused_and_nothing_is_half_read():
    model, tokens = made("qwen"), tokens_of(2, T)
    lm, cache = CachedLM(model), Cache(model, 2, 10)
    with torch.no_grad():
        whole = model(tokens)
        lm(tokens[:, :8], cache)
        with pytest.raises(ValueError, match="3 places more do not fit: 8 of 10"):
            lm(tokens[:, 8:11], cache)
        for bad in (tokens[:1, 8:9], tokens[:, :0]):
            with pytest.raises(ValueError, match="2 rows"):
                lm(bad, cache)
        for counts in [1], [1, 2], [1, -1]:
            with pytest.raises(ValueError, match="counts"):
                lm(tokens[:, 8:9], cache, counts)
        assert torch.allclose(lm(tokens[:, 8:10], cache), whole[:, 8:10], rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="being trained"):
        CachedLM(made("gpt1").train())(tokens)


def test_a_reading_that_was_interrupted_is_done_again():
    model, tokens = made("qwen"), tokens_of(1, T)
    lm, cache = CachedLM(model), Cache(model)
    lm(tokens[:, :5], cache)
    last, model.blocks[1].proj = model.blocks[1].proj, None
    with pytest.raises(TypeError):
        lm(tokens[:, 5:9], cache)
    model.blocks[1].proj = last
    assert torch.allclose(lm(tokens[:, 5:], cache), model(tokens)[:, 5:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [dict(rows=0), dict(size=0), dict(band=0), dict(size=4, band=5)])
def test_a_bad_cache_is_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        Cache(made("qwen"), **options)


@pytest.mark.parametrize("lengths", [[5], [4, 4], [-1, 0]])
def test_one_cannot_go_back_to_what_was_never_there(lengths):
    cache = Cache(made("qwen"), 2)
    cache.lengths = [3, 5]
    with pytest.raises(ValueError, match="lengths between"):
        rewind(cache, lengths)


def test_other_bad_input_names_itself():
    lm = CachedLM(made("qwen"))
    for keep in 0, T + 1:
        with pytest.raises(ValueError, match=f"between 1 and {T}"):
            CachedSteps(lm, keep)
    for prompts, count in ([], 1), ([[]], 1), ([[1]], 0):
        with pytest.raises(ValueError, match="prompts of 1 token"):
            written_all(lm, prompts, count)
    with pytest.raises(ValueError, match="a prompt of 1 token"):
        speculate(lm, None, [], 1, 1, None)


def test_the_model_is_left_as_it_is():
    model, tokens = made("qwen"), tokens_of(1, 9)
    before, whole = copy.deepcopy(model.state_dict()), model(tokens)
    attention = [vars(block).keys() for block in model.blocks]
    CachedLM(model)(tokens, Cache(model))
    assert torch.equal(model(tokens), whole) and [vars(block).keys() for block in model.blocks] == attention
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {id(p) for p in CachedLM(model).parameters()} == {id(p) for p in model.parameters()}


def test_rotations_add_up():
    x = tokens_of(2, 3, 4, 8).double()
    turned = rotate(x) @ turn_by([3, 5], x, 8)
    for row, begin in enumerate((3, 5)):
        assert torch.allclose(turned[row], rotate(x[row], begin=begin), rtol=0, atol=1e-12)


# Other layers

@pytest.mark.parametrize("kind", RECIPES)
def test_layers_by_columns_give_the_same_and_those_of_8_bits_nearly(kind):
    model, tokens = made(kind, dtype=torch.float32), tokens_of(1, T)
    plain = CachedLM(model)
    columns, eight = with_linears(plain, OneRowLinear), with_linears(plain, EightBitLinear)
    caches = [Cache(model) for _ in range(3)]
    with torch.no_grad():
        for part in tokens.split([5] + 11 * [1], dim=1):
            one, two, three = (last_logits(lm, part, cache) for lm, cache in zip((plain, columns, eight), caches))
            assert torch.allclose(one, two, rtol=0, atol=1e-4)
            assert (three - one).std() < 0.15 * one.std()
    assert not [part for lm in (columns, eight) for part in lm.modules() if isinstance(part, torch.nn.Linear)]
    assert [part for part in model.modules() if isinstance(part, torch.nn.Linear)]


def test_where_the_product_of_8_bits_is_missing_the_weights_alone_are_rounded(monkeypatch):
    linear = torch.nn.Linear(32, 48)
    x = torch.randn(3, 32)
    usual = EightBitLinear(linear)(x)

    def missing(*_):
        raise RuntimeError("not on this machine")
    monkeypatch.setattr(torch, "_make_per_channel_quantized_tensor", missing)
    other = EightBitLinear(linear)
    assert other.packed is None and (other(x) - linear(x)).abs().max() < 0.02 and (usual - linear(x)).abs().max() < 0.1


# Speculation

@quick
@given(st.integers(0, 999), st.integers(2, 6))
def test_a_kept_or_redrawn_token_has_the_law_of_the_model(seed, size):
    """... exactly: by counting what each draw of the first kind leads to, with zeros among the probabilities."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(size, 0.5)), rng.dirichlet(np.full(size, 0.5))
    p[rng.integers(size)] = 0
    p /= p.sum()

    class Fixed:
        """Answers with given numbers."""
        def __init__(self, *numbers):
            self.numbers = list(numbers)

        def random(self):
            return self.numbers.pop(0)
    law, steps = np.zeros(size), 400
    for token in range(size):
        kept = min(1, p[token] / q[token])
        law[token] += q[token] * kept
        if kept < 1 - 1e-9:
            assert kept == 0 or keep_or_redraw(p, q, token, Fixed(kept * 0.999)) == (token, True)
            again = Counter(keep_or_redraw(p, q, token, Fixed((kept + 1) / 2, (i + 0.5) / steps))[0] for i in range(steps))
            for other, times in again.items():
                law[other] += q[token] * (1 - kept) * times / steps
    assert np.allclose(law, p, atol=2 / steps)


@quick
@given(st.sampled_from(list(RECIPES)), st.integers(0, 99), st.integers(1, 6), st.integers(0, 9), st.integers(0, 5))
def test_greedy_speculation_writes_the_same_tokens(kind, seed, length, count, ahead):
    model = made(kind, seed)
    lm, rng, prompt = CachedLM(model), np.random.default_rng(seed), tokens_of(length, seed=seed).tolist()
    for draft in (lambda tokens: rng.dirichlet(np.ones(V))), (lambda tokens: greedy_law(model(torch.tensor([tokens]))[0, -1])):
        with torch.no_grad():
            found, passes = speculate(lm, draft, prompt, count, ahead, rng, greedy_law)
        assert found == (written_all(lm, [prompt], count)[0] if count else [])
        assert passes <= count
    assert passes == -(-count // (ahead + 1))                       # the perfect draft


def test_what_speculation_draws_is_distributed_as_what_the_model_draws():
    """Three tokens of a small alphabet: how often each text comes, against its probability, within five standard errors."""
    torch.manual_seed(0)
    model = louder(DecoderLM(Recipe(3, 8, 8, 1, 2, n_inner=8, positions="rotary")), 0.4).double().eval()
    lm, rng, draws = CachedLM(model), np.random.default_rng(0), 500
    counts = Counter(tuple(speculate(lm, lambda tokens: np.array([0.6, 0.3, 0.1]), [1], 3, 2, rng)[0]) for _ in range(draws))
    for text in itertools.product(range(3), repeat=3):
        with torch.no_grad():
            p = float(np.prod([softmax_law(z)[token] for z, token in zip(model(torch.tensor([[1, *text[:2]]]))[0], text)]))
        assert abs(counts[text] / draws - p) < 5 * np.sqrt(p * (1 - p) / draws) + 1e-9, text


# The bug

def test_the_bug_of_the_chapter_is_among_the_published_ones():
    entry = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))["bug_cached_positions_off_by_one"]
    assert "two modes" in entry["about"]["caught by"] and entry["value"] >= 1


def test_places_that_are_off_by_one_are_noticed_by_the_net():
    class OffByOne(CachedLM):
        def places(self, cache):
            return [max(place - 1, 0) for place in super().places(cache)]
    for kind in RECIPES:
        model, tokens = made(kind), tokens_of(1, T)
        cache, lm = Cache(model), OffByOne(model)
        with torch.no_grad():
            found = torch.cat([lm(part, cache) for part in tokens.split([8] + 8 * [1], dim=1)], dim=1)
            assert (found - model(tokens)).abs().max() > 1e-3


def test_at_gpt1_s_proportions_with_an_untied_copy():
    """Twelve layers, as deep as GPT-1, in single precision."""
    torch.manual_seed(0)
    model = GPT(replace(GPTConfig(), vocab_size=500, n_positions=64, n_embd=96)).eval()
    tokens = torch.randint(500, (1, 64))
    lm, cache = CachedLM(model), Cache(model)
    with torch.no_grad():
        found = torch.cat([lm(part, cache) for part in tokens.split([30] + 34 * [1], dim=1)], dim=1)
        assert (found - model(tokens)).abs().max() < 1e-5
