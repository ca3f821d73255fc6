"""Have the library peft adapt two small random models, and keep what it computed in data/lora/peft.safetensors, for the notebook 53_lora and its tests.

Needs peft, which nothing else of the book does: `pip install peft`. All numbers are in double precision. Of each model: its weights by our names, the
adapters, rows of tokens, logits, the loss, its gradients, the logits when merged, and the adapters after three steps of AdamW."""
import argparse
import importlib.metadata
import json
import pathlib
import sys

import torch
from safetensors.torch import save as as_safetensors
from torch import nn
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from practitioner.book import write_atomically  # noqa: E402
from practitioner.gpt import louder  # noqa: E402
from practitioner.gpt1 import HUB, our_name  # noqa: E402
from practitioner.recipe import DecoderLM, QWEN3, Recipe  # noqa: E402

NEW, STEPS, RATE = 3, 3, 1e-2
DECODER = dict(vocab_size=14, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=12, **QWEN3, tied=False)
GPT1 = dict(vocab_size=14, n_positions=8, n_embd=8, n_layer=2, n_head=2)


class Decoder(nn.Module):
    """This book's decoder, which peft adapts as any other module: every matrix in the blocks. Its vectors of tokens stay as they are."""
    lora, config = dict(r=3, lora_alpha=5, target_modules=["qkv", "proj", "up", "gate", "down"]), DECODER

    @staticmethod
    def build():
        return DecoderLM(Recipe(**DECODER))

    @staticmethod
    def weights(model):
        return dict(model.state_dict())

    @staticmethod
    def name(part):
        return part

    @staticmethod
    def logits(model, tokens):
        return model(tokens)


class TransformersGPT1:
    """GPT-1 as transformers has it; its last three tokens are new, and learn."""
    lora = dict(r=2, lora_alpha=3, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, trainable_token_indices=list(range(GPT1["vocab_size"] - NEW, GPT1["vocab_size"])))
    config = GPT1

    @staticmethod
    def build():
        from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
        return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**GPT1))

    @staticmethod
    def weights(model):
        """By our names, and turned as our matrices lie."""
        found = {our_name(name): value for name, value in model.state_dict().items() if our_name(name)}
        return {name: value.T if name.startswith("blocks.") and value.ndim == 2 else value for name, value in found.items()}

    @staticmethod
    def name(part):
        _, _, layer, *inner = part.split(".")
        return f"blocks.{layer}.{HUB['.'.join(inner)]}"

    @staticmethod
    def logits(model, tokens):
        return model(tokens).logits


def factors(kind, model):
    """What peft trains, by our names: A, B, and the new rows of the table."""
    found = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            part, _, last = name.removeprefix("base_model.model.").partition(".lora_")
            found["tokens.new" if not last else f"{kind.name(part)}.{last[0]}"] = value
    return found


def computed(kind, seed):
    from peft import get_peft_model, LoraConfig
    torch.manual_seed(seed)
    base = louder(kind.build()).double().eval()
    found = {f"base.{name}": value.clone() for name, value in kind.weights(base).items()}
    model = get_peft_model(base, LoraConfig(**kind.lora)).double().eval()
    trained = factors(kind, model)
    with torch.no_grad():
        for name, value in trained.items():
            value += 0.3 * torch.randn_like(value)  # B, too, which begins as zeros
    tokens = torch.randint(kind.config["vocab_size"], (3, kind.config["n_positions"] + 1))
    tokens[0, -NEW:] = torch.arange(kind.config["vocab_size"] - NEW, kind.config["vocab_size"])

    def loss():
        return F.cross_entropy(kind.logits(model, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    found |= {f"before.{name}": value.detach().clone() for name, value in trained.items()}
    found |= dict(tokens=tokens, logits=kind.logits(model, tokens[:, :-1]).detach().clone(), loss=loss().detach())
    loss().backward()
    found |= {f"gradient.{name}": value.grad.clone() for name, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    found |= {f"after.{name}": value.detach().clone() for name, value in trained.items()}
    with torch.no_grad():
        return found | dict(merged=kind.logits(model.merge_and_unload(), tokens[:, :-1]).clone())


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kinds = dict(decoder=Decoder, gpt1=TransformersGPT1)
    tensors = {f"{model}.{name}": value.contiguous() for model, kind in kinds.items() for name, value in computed(kind, seed=0).items()}
    about = dict(steps=STEPS, rate=RATE, weight_decay=0.1, models={model: dict(r=kind.lora["r"], alpha=kind.lora["lora_alpha"], new_tokens=NEW * ("trainable_token_indices" in kind.lora),
                                                                             settings=kind.config) for model, kind in kinds.items()},
                 versions={name: importlib.metadata.version(name) for name in ("peft", "torch", "transformers")})
    file = ROOT / "data" / "lora" / "peft.safetensors"
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, as_safetensors(tensors, dict(about=json.dumps(about, sort_keys=True))))
    print(f"{file.relative_to(ROOT)}: {len(tensors)} arrays of {', '.join(kinds)}, by peft {about['versions']['peft']}")


if __name__ == "__main__":
    main()
