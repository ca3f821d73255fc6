"""GPT-1 against transformers' own and PyTorch's layer; its counts, its recipe, its files, and the bugs that its chapter adds."""
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from practitioner.diagnostics import examine, practice_setup, QUESTIONS
from practitioner.gpt import Block, decay_groups, forward_flops, GPT, GPTConfig, load_gpt, MORE_QUESTIONS, parameter_count, tied_loss
from practitioner.lstm import save_weights
from practitioner.network import next_token_loss, StepByStep, surprise_of

ROOT = Path(__file__).resolve().parent.parent
quick = settings(max_examples=25, deadline=None, derandomize=True)
TINY = GPTConfig(vocab_size=11, n_positions=9, n_embd=12, n_layer=2, n_head=3, dropout=0.0)


def tiny(seed=0, config=TINY, scale=1.0):
    """A small model in double precision, with no parameter at a special value: norms scale and shift, biases are not 0."""
    torch.manual_seed(seed)
    model = GPT(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * 0.3 * torch.randn_like(parameter))
    return model.eval()


def some_tokens(*shape, seed=0, vocab_size=11):
    return torch.from_numpy(np.random.default_rng(seed).integers(vocab_size, size=shape))


# Against transformers

def theirs(model):
    """transformers' GPT-1 of the same sizes with the same weights (theirs are transposed)."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    sizes = {name: value for name, value in asdict(model.config).items() if name != "dropout"}
    with torch.device("meta"):
        other = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes))
    outer = dict(tokens="tokens_embed", positions="positions_embed")
    inner = dict(qkv="attn.c_attn", proj="attn.c_proj", up="mlp.c_fc", down="mlp.c_proj", norm_1="ln_1", norm_2="ln_2")
    found = {}
    for name, value in model.state_dict().items():
        first, *rest = name.split(".")
        if first in outer:
            found[f"transformer.{outer[first]}.weight"] = value
        else:
            number, part, kind = rest
            found[f"transformer.h.{number}.{inner[part]}.{kind}"] = value.T if value.ndim == 2 else value
    missing, unexpected = other.load_state_dict(found | {"lm_head.weight": model.tokens.weight}, strict=False, assign=True)
    assert not missing and not unexpected
    n = model.config.n_positions
    other.transformer.position_ids = torch.arange(n)  # what is no parameter, and was made without numbers
    for block in other.transformer.h:
        block.attn.bias = torch.ones(n, n).tril().view(1, 1, n, n)
    return other.eval()


@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.sampled_from([1, 2, 3, 6]), st.integers(0, 99))
def test_logits_are_those_of_transformers(B, T, n_layer, n_head, seed):
    model = tiny(seed, replace(TINY, n_layer=n_layer, n_head=n_head))
    tokens = some_tokens(B, T, seed=seed)
    with torch.no_grad():
        known = theirs(model)(tokens).logits
        assert known.std() > 0.1 and torch.allclose(model(tokens), known, rtol=0, atol=1e-10)


def test_at_full_size_in_single_precision_too():
    torch.manual_seed(0)
    model = GPT(GPTConfig()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        tokens = some_tokens(1, 24, vocab_size=40478)
        known = theirs(model)(tokens).logits
        assert known.std() > 0.1 and (model(tokens) - known).abs().max() < 1e-5
    assert sum(p.numel() for p in model.parameters()) == parameter_count(GPTConfig()) == 116_534_784


def test_parameters_of_gpt1_have_the_published_shapes():
    """Those of model/params_shapes.json in openai/finetune-transformer-lm, in its order: positions, tokens, and twelve times the same twelve."""
    with torch.device("meta"):
        model = GPT(GPTConfig())
    n = 768
    layer = [(n, 3 * n), (3 * n,), (n, n), (n,), (n,), (n,), (n, 4 * n), (4 * n,), (4 * n, n), (n,), (n,), (n,)]
    ours = [tuple(value.T.shape) if value.ndim == 2 else tuple(value.shape) for part in ("qkv", "proj", "norm_1", "up", "down", "norm_2")
            for value in getattr(model.blocks[0], part).parameters()]
    assert ours == layer and len(model.blocks) == 12
    assert model.positions.weight.shape == (512, n) and model.tokens.weight.shape == (40478, n)
    assert len(list(model.parameters())) == 2 + 12 * 12


# The model

def test_a_block_is_pytorch_s_own_layer():
    torch.manual_seed(0)
    ours = Block(TINY).double()
    library = nn.TransformerEncoderLayer(12, 3, 48, 0.0, lambda z: F.gelu(z, approximate="tanh"), batch_first=True, norm_first=False).double()
    names = {"qkv.weight": "self_attn.in_proj_weight", "qkv.bias": "self_attn.in_proj_bias"}
    names |= {f"{mine}.{kind}": f"{known}.{kind}" for mine, known in dict(proj="self_attn.out_proj", up="linear1", down="linear2", norm_1="norm1", norm_2="norm2").items()
              for kind in ("weight", "bias")}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    library.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    x = torch.randn(2, 7, 12).double()
    mask = nn.Transformer.generate_square_subsequent_mask(7).double()
    assert torch.allclose(ours(x), library(x, src_mask=mask, is_causal=True), rtol=0, atol=1e-12)


@quick
@given(st.integers(2, 9), st.integers(0, 99), st.data())
def test_no_place_sees_a_later_one(T, seed, data):
    model, tokens = tiny(seed), some_tokens(2, T, seed=seed)
    place = data.draw(st.integers(1, T - 1))
    other = tokens.clone()
    other[:, place:] = (other[:, place:] + 1) % 11
    with torch.no_grad():
        one, two = model(tokens), model(other)
    assert torch.allclose(one[:, :place], two[:, :place], rtol=0, atol=1e-12) and not torch.allclose(one[:, place], two[:, place], atol=1e-3)


def test_every_earlier_place_is_seen():
    model = tiny()
    x = model.tokens(some_tokens(1, 9)).detach().requires_grad_()
    y = x + model.positions.weight
    for block in model.blocks:
        y = block(y)
    y[0, -1].square().sum().backward()
    assert (x.grad[0].norm(dim=1) > 1e-6).all()


def test_it_begins_as_published():
    torch.manual_seed(0)
    model = GPT(GPTConfig(500, 64, 96, 2, 4))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert math.isclose(parameter.std().item(), 0.02, rel_tol=0.05) and abs(parameter.mean()) < 1e-3, name
        else:
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
    batch = some_tokens(4, 33, vocab_size=500)
    assert abs(next_token_loss(model, batch).item() - math.log(500)) < 0.1
    assert [norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)] == [1e-5] * 4


def test_dropout_is_in_three_places_and_for_training_only():
    model, tokens = GPT(replace(TINY, dropout=0.5)), some_tokens(2, 9)
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    block, x = model.blocks[0].train(), torch.randn(2, 9, 12)
    assert not torch.equal(block.attention(x), block.attention(x))  # of the attention weights
    p = dict.fromkeys([module.p for module in model.modules() if isinstance(module, nn.Dropout)] + [block.p])
    assert list(p) == [0.5] and sum(isinstance(module, nn.Dropout) for module in model.modules()) == 3


@pytest.mark.parametrize("change", [dict(n_head=5), dict(vocab_size=0), dict(n_layer=0), dict(n_positions=-1), dict(dropout=1.0), dict(dropout=-0.1)])
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"\d"):
        replace(TINY, **change)


def test_a_row_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="10 tokens, but 9 positions"):
        tiny()(some_tokens(1, 10))


def test_one_by_one_is_the_row():
    model, tokens = tiny().float(), some_tokens(9).tolist()
    steps, state, bits = StepByStep(model, context=9), (), []
    for token in tokens:
        bits.append(-math.log2(steps.distribution(state)[token]))
        state = steps.advance(state, token)
    assert np.allclose(bits, surprise_of(model, tokens, length=9, context=4), atol=1e-5)


# Counting

@quick
@given(st.integers(1, 99), st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_parameters_are_as_the_formula_says(V, P, per_head, n_layer, n_head):
    config = GPTConfig(V, P, per_head * n_head, n_layer, n_head)
    with torch.device("meta"):
        assert parameter_count(config) == sum(p.numel() for p in GPT(config).parameters())


@quick
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.sampled_from([1, 2, 3, 6]))
def test_operations_are_as_torch_counts_them(B, T, n_layer, n_head):
    model, batch = GPT(replace(TINY, n_layer=n_layer, n_head=n_head)), some_tokens(B, T + 1)
    by_hand = sum(forward_flops(model.config, B, T))
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model(batch[:, :-1])
        with FlopCounterMode(display=False) as both:
            next_token_loss(model, batch).backward()
    assert forward.get_total_flops() == by_hand and both.get_total_flops() == 3 * by_hand


# Training

def test_the_loss_is_the_usual_one_and_so_is_its_gradient():
    batch, found = some_tokens(5, 8), []
    for loss in next_token_loss, tied_loss:
        model = tiny(3)
        value = loss(model, batch)
        (2 * value).backward()
        found.append([value, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*found, strict=True))


def test_decay_is_for_matrices():
    model = GPT(TINY)
    decayed, others = decay_groups(model, 0.01)
    assert decayed["weight_decay"] == 0.01 and others["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    both = [{names[id(parameter)] for parameter in group["params"]} for group in (decayed, others)]
    assert both[0] | both[1] == set(names.values()) and not both[0] & both[1]
    assert len(decayed["params"]) == len(both[0]) == 2 + 4 * 2
    assert all(name.endswith("weight") and "norm" not in name for name in both[0])
    assert all(name.endswith("bias") or "norm" in name for name in both[1])


def test_no_question_raises_an_alarm():
    def build(seed):
        torch.manual_seed(seed)
        return GPT(GPTConfig(16, 12, 32, 2, 2, dropout=0.1))
    findings = examine(replace(practice_setup(), build=build), QUESTIONS | MORE_QUESTIONS)
    assert not [name for name, finding in findings.items() if finding.alarm]


# Files

def test_weights_come_back(tmp_path):
    model = tiny().float()
    save_weights(tmp_path / "gpt.safetensors", model, run="a test")
    back = load_gpt(tmp_path / "gpt.safetensors")
    assert back.config == TINY and not back.training
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value.half().float()), name


def test_a_file_that_is_no_gpt_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"\x07")
    with pytest.raises(ValueError, match="short"):
        load_gpt(tmp_path / "short")
    other = tiny().float()
    other.settings = other.settings | dict(n_layer=3)
    save_weights(tmp_path / "deeper", other)
    with pytest.raises(ValueError, match="blocks.2"):
        load_gpt(tmp_path / "deeper")
    with pytest.raises(ValueError, match="n_hidden"):
        load_gpt(ROOT / "data" / "lstm" / "lstm.safetensors")


def test_what_is_kept_says_where_it_came_from():
    """data/gpt: every run has its settings, code, data and curve; the weights are those of a run."""
    folder = ROOT / "data" / "gpt"
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    for name, run in runs.items():
        assert len(run["commit"]) == 40 and run["versions"]["torch"] and run["data"].keys() == {"train", "validation"}, name
        assert 0 < run["validation"] < 8 and run["seconds"] > 0 and run["curve"][-1][0] == run["settings"]["steps"], name
    run, model = runs["gpt1-small"], load_gpt(folder / "gpt1-small.safetensors")
    assert sum(p.numel() for p in model.parameters()) == run["parameters"] == parameter_count(model.config)
    assert sorted(map(int, run["samples"])) == run["settings"]["ages"] and all(text.startswith("A:") for text in run["samples"].values())
    assert (folder / "gpt1-small.safetensors").stat().st_size < 12_000_000
