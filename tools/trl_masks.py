"""What the library trl makes of some conversations, tokens and targets, for notebook 52 to be held against (`data/chat/trl.json`).

Needs trl, which the book does not: `pip install trl` into an environment beside it. The conversations are invented."""
import json
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MAX_LENGTH = 100
CONVERSATIONS = [
    ["Hi!", "Hello there."],
    ["Hi! Do you like to cook?", "I do! Mostly pasta.", "With or without meat?", "Without. I have not had any in years."],
    ["how's it going :)", "Not bad, 2 exams left...", "ugh. good luck!!", "Thanks, I'll need it"],
    ["Wie heißt du?", "Ich heiße Bot, größer als ein Wort.", "ok 👍"],
    [" ".join(["Tell me about the sea."] * 6), " ".join(["It is wide and blue."] * 9), "And?", "That is all."],
]


def main():
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer

    from practitioner.book import write_atomically
    from practitioner.chat import as_messages, JINJA
    tokens = Tokenizer.from_file(str(ROOT / "data" / "lstm" / "bpe-4096.json"))
    tokens.add_special_tokens(["<|person|>", "<|bot|>", "<|end|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = JINJA
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=4099, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                                                                   num_key_value_heads=1, head_dim=16))
    with tempfile.TemporaryDirectory() as folder:
        how = trl.SFTConfig(output_dir=folder, assistant_only_loss=True, max_length=MAX_LENGTH, packing=False, report_to="none", use_cpu=True, bf16=False)
        rows = Dataset.from_list([dict(messages=as_messages(turns)) for turns in CONVERSATIONS])
        trainer = trl.SFTTrainer(model, args=how, train_dataset=rows, processing_class=tokenizer)
        examples = []
        for turns, row in zip(CONVERSATIONS, trainer.train_dataset):
            batch = trainer.data_collator([row])
            real = batch["attention_mask"][0].bool() if "attention_mask" in batch else torch.ones_like(batch["input_ids"][0], dtype=torch.bool)
            examples.append([turns, batch["input_ids"][0][real].tolist(), batch["labels"][0][real].tolist()])
    kept = dict(max_length=MAX_LENGTH, versions=dict(trl=trl.__version__, transformers=transformers.__version__), examples=examples)
    write_atomically(ROOT / "data" / "chat" / "trl.json", json.dumps(kept, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
