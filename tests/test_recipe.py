"""The decoder of every recipe: GPT-1 where nothing is chosen, Qwen3 where everything is; what each choice does; its optimisers; its files."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from practitioner.diagnostics import examine, practice_setup, QUESTIONS
from practitioner.gpt import GPT, GPTConfig, louder, MORE_QUESTIONS
from practitioner.lstm import save_weights
from practitioner.network import next_token_loss
from practitioner.recipe import as_qwen3, DecoderLM, decoder_groups, decoder_loss, hidden_matrices, load_decoder, muon_and_adamw, optimizer_of, Recipe, schedule_of

quick = settings(max_examples=40, deadline=None, derandomize=True)
TINY = Recipe(vocab_size=11, n_positions=9, n_embd=12, n_layer=2, n_head=3, n_inner=16)
MODERN = replace(TINY, norm="rms", pre_norm=True, positions="rotary", inner="swiglu", qk_norm=True, bias=False)
recipes = st.builds(replace, st.just(TINY), norm=st.sampled_from(["layer", "rms"]), pre_norm=st.booleans(), positions=st.sampled_from(["learned", "rotary"]),
                    inner=st.sampled_from(["gelu", "relu2", "swiglu"]), qk_norm=st.booleans(), bias=st.booleans(), tied=st.booleans())


def loud(recipe, seed=0):
    """A decoder in double precision with no parameter at a special value."""
    torch.manual_seed(seed)
    return louder(DecoderLM(recipe).double()).eval()


def some_tokens(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(11, size=shape))


def test_where_nothing_is_chosen_it_is_gpt1():
    torch.manual_seed(0)
    gpt = louder(GPT(GPTConfig(11, 9, 12, 2, 3, dropout=0.0)).double())
    decoder = DecoderLM(replace(TINY, n_inner=48)).double()
    decoder.load_state_dict(gpt.state_dict())
    batch, gradients = some_tokens(3, 10), []
    assert torch.equal(gpt(batch[:, :-1]), decoder(batch[:, :-1]))
    for model in gpt, decoder:
        next_token_loss(model, batch).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("choice", [dict(norm="rms"), dict(pre_norm=True), dict(positions="rotary"), dict(inner="relu2"), dict(inner="swiglu"), dict(qk_norm=True),
                                    dict(bias=False), dict(tied=False)], ids=str)
def test_each_choice_changes_something(choice):
    """The same numbers for all parameters that both have, and other logits."""
    plain, other = loud(TINY), loud(replace(TINY, **choice), seed=1)
    kept = plain.state_dict()
    other.load_state_dict({name: kept[name] for name in other.state_dict().keys() & kept.keys()}, strict=False)
    tokens = some_tokens(2, 9)
    assert (plain(tokens) - other(tokens)).abs().max() > 1e-3


@quick
@given(recipes, st.integers(0, 100), st.integers(1, 8))
def test_no_recipe_sees_the_future(recipe, seed, place):
    model, tokens = loud(recipe, seed), some_tokens(1, 9, seed=seed)
    other = tokens.clone()
    other[:, place:] = (other[:, place:] + 1 + some_tokens(1, 9 - place, seed=seed + 1) % 10) % 11
    change = (model(tokens) - model(other)).abs().amax(dim=(0, 2))
    assert change[:place].max() < 1e-12 < change[place]


@quick
@given(recipes, st.integers(1, 50))
def test_the_loss_in_parts_is_the_loss(recipe, rows):
    batch, found = some_tokens(4, 10, seed=rows), []
    for loss in next_token_loss, lambda model, batch: decoder_loss(model, batch, rows):
        model = loud(recipe)
        value = loss(model, batch)
        value.backward()
        found.append([value, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.allclose(ours, known, rtol=1e-9, atol=1e-12) for ours, known in zip(*found))


def test_rotary_positions_know_distances_only():
    """A row that begins later, after tokens that no place may look at, would be the same: shown by the scores of one layer."""
    model = loud(replace(MODERN, n_layer=1))
    tokens = torch.tensor([[3, 3, 3, 3, 3, 3, 3, 3, 3]])
    logits = model(tokens)[0]
    assert (logits - logits[0]).abs().max() < 1e-12  # one token at all places: an average of equal values
    learned = loud(replace(TINY, pre_norm=True))(tokens)[0]
    assert (learned - learned[0]).abs().max() > 1e-3


def test_qk_norm_bounds_the_scores():
    block = loud(replace(MODERN, n_layer=1)).blocks[0]
    with torch.no_grad():
        block.q_norm.weight.fill_(1), block.k_norm.weight.fill_(1)
        block.qkv.weight *= 1e3
        q, k, _ = block.heads(torch.randn(4, 9, 12, dtype=torch.float64))
    assert (q @ k.transpose(-2, -1) / 2).abs().max() <= 2 + 1e-9  # √hs, of 4 numbers


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_librarys_qwen3(tied):
    from transformers import Qwen3Config, Qwen3ForCausalLM
    ours = loud(replace(MODERN, tied=tied))
    config, weights = as_qwen3(ours)
    theirs = Qwen3ForCausalLM(Qwen3Config(**config)).double()
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and missing == (["lm_head.weight"] if tied else [])
    theirs.tie_weights()
    tokens = some_tokens(3, 9)
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs.eval()(tokens).logits, rtol=1e-6, atol=1e-6)  # the library turns in single precision
        assert (theirs(tokens).logits - theirs(tokens.roll(1, 1)).logits).abs().max() > 0.1


@pytest.mark.parametrize("other", [dict(norm="layer"), dict(pre_norm=False), dict(positions="learned"), dict(inner="relu2"), dict(qk_norm=False), dict(bias=True)], ids=str)
def test_what_is_no_qwen3_is_refused(other):
    with pytest.raises(ValueError, match=f"{next(iter(other))}.*Qwen3"):
        as_qwen3(DecoderLM(replace(MODERN, **other)))


@pytest.mark.parametrize("wrong, match", [
    (dict(n_embd=13), "cannot share 13 numbers"), (dict(n_layer=0), "at least 1"), (dict(n_head=4, positions="rotary"), "in pairs"), (dict(norm="batch"), "norm is one of.*'batch'"),
    (dict(positions="sinusoidal"), "positions is one of"), (dict(inner="tanh"), "inner is one of"), (dict(dropout=1.0), "below 1.*: not 1.0"),
    (dict(n_inner=16.0), "whole numbers.*16.0"), (dict(embedding_std=0.0), "a deviation above 0: not .*, 0.0")])
def test_a_recipe_that_is_none_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **wrong)


def test_a_row_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="10 tokens, but 9 positions"):
        DecoderLM(MODERN)(some_tokens(1, 10))


def test_muon_has_the_matrices_of_the_blocks_and_nothing_else():
    model = DecoderLM(replace(MODERN, tied=False))
    joint = muon_and_adamw(model, decoder_groups(model, 0.01), 1e-3, 2e-3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adam = ({names[id(p)] for group in each.param_groups for p in group["params"]} for each in joint.optimizers)
    assert muon | adam == set(names.values()) and not muon & adam
    assert len(muon) == len(hidden_matrices(model)) == 2 * 5
    assert all(name.startswith("blocks.") for name in muon) and {"tokens.weight", "output.weight", "norm.weight"} <= adam
    assert {group["lr"] for group in joint.param_groups} == {1e-3, 2e-3}
    assert [group["weight_decay"] for group in joint.optimizers[1].param_groups] == [0.01, 0.0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_vectors_of_the_tokens_may_have_a_rate_of_their_own(name):
    settings = dict(optimizer=name, rate=1e-3, muon_rate=2e-3, betas=[0.9, 0.99], decay=0.01, embedding_rate=0.1)
    model = DecoderLM(replace(MODERN, tied=False))
    for rate in 0.1, None:
        groups = optimizer_of(model, settings | dict(embedding_rate=rate)).param_groups
        [own] = [group for group in groups if any(p is model.tokens.weight for p in group["params"])]
        assert (own["lr"], own["weight_decay"], len(own["params"]) == 1) == ((0.1, 0.0, True) if rate else (1e-3, 0.01, False))
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_long_vectors_change_nothing_else_at_the_beginning():
    short, long = (torch.manual_seed(0) and DecoderLM(replace(MODERN, tied=False, embedding_std=std)).state_dict() for std in (0.02, 1.0))
    assert torch.allclose(50 * short.pop("tokens.weight"), long.pop("tokens.weight"))
    assert all(torch.equal(value, long[name]) for name, value in short.items())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_optimiser_learns(name):
    """A row by heart, in forty steps."""
    torch.manual_seed(0)
    model, batch = DecoderLM(MODERN), some_tokens(1, 10)
    chosen = optimizer_of(model, dict(optimizer=name, rate=1e-2, muon_rate=2e-2, betas=[0.9, 0.99], decay=0.0))
    for _ in range(40):
        chosen.zero_grad()
        loss = decoder_loss(model, batch)
        loss.backward()
        chosen.step()
    assert loss.item() < 0.3 < math.log(11)


def test_schedules_by_their_names():
    shapes = {name: [schedule_of(dict(schedule=name, steps=30, warmup=3))(step) for step in range(30)] for name in ("cosine", "linear", "wsd")}
    assert all(max(shape) == 1 == shape[3] and shape[0] < 0.5 and shape[-1] < 0.11 for shape in shapes.values())
    assert shapes["wsd"][19] == 1 > shapes["cosine"][19] > 0.3 and shapes["linear"][16] == pytest.approx(14 / 27)


def test_a_file_comes_back(tmp_path):
    model = louder(DecoderLM(MODERN))
    save_weights(tmp_path / "m.safetensors", model, run="m")
    again = load_decoder(tmp_path / "m.safetensors")
    assert again.recipe == MODERN and not again.training
    tokens = some_tokens(2, 9)
    assert torch.allclose(model.half().float().eval()(tokens), again(tokens))
    whole = (tmp_path / "m.safetensors").read_bytes()
    for broken in whole[:-5], whole[:40], whole.replace(b'\\"inner\\"', b'\\"outer\\"'), b"":
        (tmp_path / "m.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match="m.safetensors holds no weights of a decoder, or damaged"):
            load_decoder(tmp_path / "m.safetensors")


def test_the_modern_recipe_gives_no_alarm():
    def build(seed):
        torch.manual_seed(seed)
        return DecoderLM(replace(MODERN, vocab_size=16, n_positions=12, n_embd=32, n_head=2, n_inner=48, dropout=0.1))
    findings = examine(replace(practice_setup(), build=build), QUESTIONS | MORE_QUESTIONS)
    assert {name for name, finding in findings.items() if finding.alarm} <= {"places"}  # on a row of one token, rotary positions say nothing


def test_committed_runs_are_whole():
    """Every change has its three seeds, all of the same data, and as many steps as its cost allows."""
    import train
    runs = json.loads((train.DATA / "recipe" / "runs.json").read_text(encoding="utf-8"))
    for name, (cost, change) in train.CHANGES.items():
        for seed in 1, 2, 3:
            run = runs[f"recipe-{name}-{seed}"]
            assert run["settings"] == train.RUNS[f"recipe-{name}-{seed}"] and run["curve"][-1][0] == run["settings"]["steps"] == round(train.STEPS / cost)
            assert len(run["commit"]) == 40
    for name in train.ALL_BUT:
        for seed in 1, 2, 3:
            assert runs[f"all-but-{name}-{seed}"]["settings"] == train.RUNS[f"all-but-{name}-{seed}"]
    assert all(run["settings"] == train.RUNS[name] for name, run in runs.items())
    assert len({run["data"]["train"] for run in runs.values() if run["settings"]["vocabulary"] == "bpe-4096" and not run["settings"]["bytes"]}) == 1
