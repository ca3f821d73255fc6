"""Ways of choosing a token. Held against transformers' processors and its beam search, brute force, and definitions written down once more."""
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from practitioner.gpt import louder
from practitioner.recipe import as_qwen3, DecoderLM, QWEN3, Recipe
from practitioner.sampling import (beam_search, best_of, check_logits, continue_rows, count_penalties, counts_in, Decoding, distinct_share,
                                   draw_tokens, min_p, reader_of, repeated_share, repetition_penalty, surprise_in, tempered, top_k, top_p, typical)

quick = settings(max_examples=60, deadline=None, derandomize=True)
NONE = torch.zeros(1, 0, dtype=torch.long)
shares = st.floats(0.01, 0.99)


@st.composite
def logits(draw):
    """Random logits (B, V) in double precision, some of them minus infinity."""
    B, V, seed, size = draw(st.integers(1, 4)), draw(st.integers(2, 40)), draw(st.integers(0, 999)), draw(st.sampled_from([0.01, 1.0, 5.0, 300.0]))
    generator = torch.Generator().manual_seed(seed)
    z = size * torch.randn(B, V, generator=generator, dtype=torch.float64)
    gone = torch.rand(B, V, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    gone[:, 0] = False
    return z.masked_fill(gone, -math.inf)


def tiny(seed=0, V=5, n_layer=2):
    torch.manual_seed(seed)
    return louder(DecoderLM(Recipe(V, 24, 12, n_layer, 2, 16, tied=False, **QWEN3))).double().eval()


def theirs(model):
    transformers = pytest.importorskip("transformers")
    config, weights = as_qwen3(model)
    other = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**config)).double().eval()
    other.load_state_dict(weights)
    return other


# The rules, by their definitions

@quick
@given(logits(), shares)
def test_a_nucleus_is_the_smallest_set_that_has_its_mass(z, p):
    for row, cut in zip(z, top_p(z, p)):
        kept = cut.isfinite()
        chances = row.softmax(dim=0)
        assert kept.any() and chances[kept].sum() >= p - 1e-9
        assert chances[kept].sum() - chances[kept].min() < p + 1e-9
        assert kept.all() or chances[kept].min() >= chances[~kept].max()
        assert torch.equal(cut[kept], row[kept])


@quick
@given(logits(), shares)
def test_typical_tokens_are_those_nearest_to_the_entropy(z, mass):
    for row, cut in zip(z, typical(z, mass)):
        chances, kept = row.softmax(dim=0), cut.isfinite()
        entropy = -sum(p * math.log(p) for p in chances.tolist() if p > 0)
        off = (-row.log_softmax(dim=0) - entropy).abs()
        assert chances[kept].sum() >= mass - 1e-9
        assert kept.all() or off[kept].max() <= off[~kept].min() + 1e-12


@quick
@given(logits(), st.integers(1, 40), shares)
def test_top_k_and_min_p(z, k, p):
    V = z.shape[1]
    if k <= V:
        for row, cut in zip(z, top_k(z, k)):
            possible = int(row.isfinite().sum())
            assert int(cut.isfinite().sum()) == min(k, possible)                    # random logits have no ties
            assert row[cut.isfinite()].min() == row.sort(descending=True).values[min(k, possible) - 1]
    chances = z.softmax(dim=1)
    kept, sure = min_p(z, p).isfinite(), (chances / (p * chances.amax(dim=1, keepdim=True)) - 1).abs() > 1e-9
    assert torch.equal(kept[sure], (chances >= p * chances.amax(dim=1, keepdim=True))[sure] & z.isfinite()[sure])


def test_equals_of_the_last_token_stay():
    assert top_k(torch.tensor([[1.0, 2, 1, 0, 1]]), 2).isfinite().sum() == 4
    assert tempered(torch.tensor([[1.0, 2, 2, 0]]), 0).isfinite().sum() == 2


@quick
@given(logits(), st.floats(0.05, 20), st.floats(-50, 50))
def test_all_but_the_repetition_penalty_ignore_what_is_added_to_all_logits(z, temperature, shift):
    rule = Decoding(temperature=temperature, top_k=2, top_p=0.8, frequency=0.3, presence=0.2)
    said = torch.zeros(len(z), 3, dtype=torch.long)
    assert torch.allclose(rule(z, said).softmax(dim=1), rule(z + shift, said).softmax(dim=1), atol=1e-6)


def test_the_repetition_penalty_does_not():
    counts = torch.tensor([[1.0, 0]])
    one, two = (repetition_penalty(torch.tensor([[1.0, 1]]) + shift, counts, 2.0).softmax(dim=1) for shift in (0, 5))
    assert (one - two).abs().max() > 0.2


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e300])
def test_extreme_temperatures_make_no_nan(temperature):
    p = tempered(torch.tensor([[300.0, 299, -math.inf, -300]]), temperature).softmax(dim=1)
    assert p.isfinite().all() and p[0, 2] == 0
    assert abs(p[0, 0] - (1 if temperature < 1 else 1 / 3)) < 1e-6


def test_what_cuts_nothing_changes_nothing():
    z = torch.randn(3, 7)
    rule = Decoding(top_k=7, top_p=1.0, typical=1.0, min_p=1e-30)
    assert torch.equal(rule(z, NONE.expand(3, 0)).softmax(dim=1), tempered(z, 1).softmax(dim=1))


# transformers

@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_transformers(seed):
    hf = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(seed)
    z, said = 4 * torch.randn(40, 300, generator=generator), torch.randint(300, (40, 25), generator=generator)
    for setting, other in [(dict(temperature=0.3), hf.TemperatureLogitsWarper(0.3)), (dict(top_k=9), hf.TopKLogitsWarper(9)),
                           (dict(top_p=0.85), hf.TopPLogitsWarper(0.85)), (dict(min_p=0.07), hf.MinPLogitsWarper(0.07)),
                           (dict(typical=0.4), hf.TypicalLogitsWarper(0.4)), (dict(repetition=1.7), hf.RepetitionPenaltyLogitsProcessor(1.7))]:
        ours, known = Decoding(**setting)(z, said), other(said, z.clone())
        assert torch.equal(ours.isneginf(), known.isneginf()), setting
        assert torch.allclose(ours.softmax(dim=1), known.softmax(dim=1), atol=1e-6), setting


@pytest.mark.parametrize("power, stop", [(0.0, None), (1.0, None), (0.0, 3), (1.0, 3), (0.6, 2)])
def test_beam_search_is_that_of_transformers(power, stop):
    model = tiny(4, V=9)
    other = theirs(model)
    for beams, token in itertools.product((2, 4), range(3)):
        prompt = torch.tensor([[token, 5, 1]])
        found, _ = beam_search(reader_of(model), prompt, 7, beams, power, stop)
        known = other.generate(prompt, attention_mask=torch.ones_like(prompt), num_beams=beams, max_new_tokens=7, do_sample=False, length_penalty=power,
                               early_stopping="never", eos_token_id=stop, pad_token_id=0)[0, 3:]
        assert torch.equal(found, known[:len(found)]) and not known[len(found):].any()


# Beam search, best of n, the draw

@pytest.mark.parametrize("seed, power, stop", list(itertools.product(range(3), (0.0, 1.0), (None, 2))))
def test_enough_beams_find_the_best_of_all_texts(seed, power, stop):
    model, prompt, scores = tiny(seed, V=4), torch.tensor([[1, 0]]), {}
    with torch.no_grad():
        for text in itertools.product(range(4), repeat=4):
            ended = text[:text.index(stop) + 1] if stop in text else text
            row = torch.cat((prompt, torch.tensor([ended])), dim=1)
            log_p = model(row)[0].log_softmax(dim=1)
            scores[ended] = sum(log_p[1 + i, token].item() for i, token in enumerate(ended)) / len(ended) ** power
    best, score = beam_search(reader_of(model), prompt, 4, 64, power, stop)
    assert tuple(best.tolist()) == max(scores, key=scores.get) and abs(score - max(scores.values())) < 1e-6


def test_one_beam_is_greedy():
    model, prompt = tiny(1, V=30), torch.tensor([[3, 1, 4]])
    greedy = continue_rows(reader_of(model), prompt, 8, Decoding(temperature=0))
    assert torch.equal(beam_search(reader_of(model), prompt, 8, 1)[0], greedy[0])


def test_the_draw_follows_the_probabilities_and_its_generator():
    z = torch.tensor([[0.0, -math.inf, 1, -2, -math.inf]]).expand(40_000, 5)
    drawn = draw_tokens(z, torch.Generator().manual_seed(3))
    shares = torch.bincount(drawn, minlength=5) / len(z)
    assert (shares - z[0].softmax(dim=0)).abs().max() < 0.01 and shares[1] == shares[4] == 0
    assert torch.equal(drawn, draw_tokens(z, torch.Generator().manual_seed(3)))
    assert not torch.equal(drawn, draw_tokens(z, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("u", [0.0, 1 - 2.0 ** -53])
def test_at_the_ends_a_possible_token_is_drawn(monkeypatch, u):
    monkeypatch.setattr(torch, "rand", lambda B, one, **how: torch.full((B, one), u, dtype=torch.float64))
    z = torch.randn(500, 50, generator=torch.Generator().manual_seed(0))
    z[:, :2] = z[:, -2:] = -math.inf
    drawn = draw_tokens(z, None)
    assert torch.equal(drawn, torch.full_like(drawn, 2 if u == 0 else 47))


def test_a_generator_decides_the_text_and_nothing_else_does():
    model, prompts = tiny(V=20), torch.randint(20, (6, 3))
    rule = Decoding(temperature=1.5, top_p=0.95, repetition=1.2)
    torch.manual_seed(1)
    one = continue_rows(reader_of(model), prompts, 10, rule, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    two = continue_rows(reader_of(model), prompts, 10, rule, torch.Generator().manual_seed(7))
    assert torch.equal(one, two) and one.shape == (6, 10)


def test_a_text_longer_than_the_model_s_positions_goes_on():
    model = tiny(V=20)
    assert continue_rows(reader_of(model), torch.zeros(2, 20, dtype=torch.long), 10, Decoding(temperature=0)).shape == (2, 10)


def test_penalties_look_at_the_prompt_only_if_told():
    def always_five(rows):
        return torch.nn.functional.one_hot(torch.full((len(rows),), 5), 8).double()

    prompt, rule = torch.tensor([[5, 5, 5]]), Decoding(temperature=0, frequency=0.6)
    assert continue_rows(always_five, prompt, 1, rule).tolist() == [[5]]
    assert continue_rows(always_five, prompt, 1, rule, prompt_counts=True).tolist() != [[5]]


def test_best_of():
    tried = torch.arange(24).view(2, 3, 4)
    scores = torch.tensor([[0.0, 2, 2], [-math.inf, -3, -4]])
    assert best_of(tried, scores).tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    for wrong in scores[:, :2], scores * math.nan:
        with pytest.raises(ValueError):
            best_of(tried, wrong)


# Figures of a text

def test_surprise_is_the_model_s():
    model, rows = tiny(V=20), torch.randint(20, (3, 12))
    bits, rank = surprise_in(model, rows[:, :5], rows[:, 5:])
    p = model(rows[:, :-1]).detach().softmax(dim=2)
    for i, t in itertools.product(range(3), range(7)):
        chances = p[i, 4 + t]
        own = chances[rows[i, 5 + t]]
        assert abs(bits[i, t] + math.log2(own)) < 1e-6 and rank[i, t] == (chances > own).sum()


def test_repeats_and_distinct():
    rows = torch.tensor([[1, 2, 1, 2, 1], [1, 1, 1, 1, 1], [1, 2, 3, 4, 5]])
    assert np.allclose(repeated_share(rows, 2), [0.5, 0.75, 0]) and np.allclose(repeated_share(rows, 1), [0.6, 0.8, 0])
    assert distinct_share(rows, 2) == 6 / 12 and distinct_share(rows[2:], 5) == 1
    for n in 0, 6, 1.5:
        with pytest.raises(ValueError):
            repeated_share(rows, n)


def test_counts():
    assert counts_in(torch.tensor([[0, 2, 2], [1, 1, 1]]), 4).tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
    assert counts_in(NONE, 3).tolist() == [[0, 0, 0]]
    z = count_penalties(torch.zeros(1, 3), torch.tensor([[0.0, 1, 4]]), 0.5, 1.0)
    assert z.tolist() == [[0, -1.5, -3]]


# What is refused

@pytest.mark.parametrize("setting", [
    dict(temperature=-0.1), dict(temperature=math.nan), dict(temperature=math.inf), dict(top_k=0), dict(top_k=-3), dict(top_k=1.5), dict(top_k=math.nan),
    dict(top_p=0), dict(top_p=-0.5), dict(top_p=1.01), dict(top_p=math.nan), dict(min_p=0), dict(min_p=2), dict(typical=0), dict(typical=1.1),
    dict(repetition=0), dict(repetition=-1), dict(repetition=math.inf), dict(frequency=math.nan), dict(presence=math.inf)], ids=str)
def test_a_setting_out_of_range_is_refused_with_its_value(setting):
    [value] = setting.values()
    with pytest.raises(ValueError) as error:
        Decoding(**setting)
    assert str(error.value).endswith(repr(value)) and len(str(error.value)) > 20


def test_more_tokens_than_there_are():
    with pytest.raises(ValueError, match="all 5 tokens: not 6"):
        Decoding(top_k=6)(torch.zeros(1, 5), NONE)


@pytest.mark.parametrize("z", [torch.zeros(3), torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, math.nan]]),
                               torch.tensor([[0, math.inf]]), torch.tensor([[0.0, 1], [-math.inf, -math.inf]])], ids=str)
def test_logits_from_which_nothing_can_be_drawn(z):
    with pytest.raises(ValueError):
        check_logits(z)
    if z.ndim == 2 and z.is_floating_point():
        with pytest.raises(ValueError):
            Decoding()(z, NONE)
        with pytest.raises(ValueError):
            beam_search(lambda rows: z[:1] if z.isnan().any() or z.isposinf().any() else z[1:], torch.tensor([[0]]), 2, 2)


def test_without_a_generator_nothing_is_drawn():
    with pytest.raises(ValueError, match="generator"):
        continue_rows(reader_of(tiny()), torch.tensor([[1]]), 3, Decoding())


@pytest.mark.parametrize("length, beams, prompts", [(0, 2, 1), (3, 0, 1), (3, 2, 2)])
def test_a_search_that_makes_no_sense(length, beams, prompts):
    with pytest.raises(ValueError):
        beam_search(reader_of(tiny()), torch.zeros(prompts, 2, dtype=torch.long), length, beams)
