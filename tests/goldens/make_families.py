"""A tiny random model of each family, and the golden scores of a few pairs with it.

usage: make_families.py OUT_DIRECTORY [FAMILY…]

Each family becomes a directory: `model/` as transformers saves it, `rows.jsonl` with every score in
float32, and `half.jsonl` with the CHES scores of more pairs in each type. The weights
are far from an initialisation: attention is sharp, gains are not one, biases not zero, and
windows, clips and RoPE scaling bite at the lengths of the rows.
"""

import copy
import json
import pathlib
import shutil
import sys

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import reference

SHAPE = dict(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
ROPE = {"rope_type": "default", "rope_theta": 100.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
# Family: configuration class, its own fields, whether it is saved in shards, whether the
# tokenizer adds a BOS.
FAMILIES = {
    "llama": ("LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=False), False, True),
    "olmo": ("OlmoConfig", dict(clip_qkv=2.5, rope_parameters=ROPE), False, False),
    "gemma": ("GemmaConfig", dict(head_dim=10, rope_parameters=ROPE), False, True),
    "qwen2": ("Qwen2Config", dict(rope_parameters=ROPE, tie_word_embeddings=False), False, False),
    "qwen3": ("Qwen3Config", dict(head_dim=12, rope_parameters=ROPE, tie_word_embeddings=True), True, False),
    "mistral": ("MistralConfig", dict(sliding_window=5, rope_parameters=ROPE), False, True),
    "gemma2": (
        "Gemma2Config",
        dict(
            head_dim=10, rope_parameters=ROPE, sliding_window=5, query_pre_attn_scalar=3,
            attn_logit_softcapping=4.0, final_logit_softcapping=4.0,
        ),
        False,
        True,
    ),
    "olmo2": ("Olmo2Config", dict(rope_parameters=ROPE), False, False),
    "phi3": (
        "Phi3Config",
        dict(
            sliding_window=21, original_max_position_embeddings=40, partial_rotary_factor=0.5,
            rope_parameters={
                "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0],
                "partial_rotary_factor": 0.5,
            },
        ),
        False,
        True,
    ),
    "gemma3_text": (
        "Gemma3TextConfig",
        dict(
            head_dim=10, sliding_window=5, query_pre_attn_scalar=5, layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
                "sliding_attention": ROPE,
            },
        ),
        False,
        True,
    ),
    "smollm3": ("SmolLM3Config", dict(rope_parameters=ROPE, no_rope_layer_interval=2), False, False),
    "gpt_neox": (
        "GPTNeoXConfig",
        dict(rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}),
        False,
        False,
    ),
}
GEMMAS = {"gemma", "gemma2", "gemma3_text"}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = [
    ("Is it safe?", " No.", " Never."),
    ("Name a colour.", " Blue", " Green, or a rather bluish kind of green."),
    ("What is 12 + 30?", " 42", " 43"),
    ("a", " b", " c"),
    ("The quick brown fox jumps over the lazy dog. The quick brown fox jumps over it again.", " Yes, twice.", " Yes, three times, and then it sleeps."),
    ("Wie heißt du?", " Ich heiße Anna.", " Ich heisse Anna."),
    ("Say nothing new.", " The same.", " The same"),
    ("Write code.\n\n", "def f(x):\n    return x + 1", "def f(x):\n    return x - 1"),
    ("Tell me a story of a king who lived long ago and had three sons.", " Long ago there lived a king, and he had three sons, of whom the third was thought a fool.", " No."),
    ("Ω?", " ω", " ☃"),
]


def other_pairs():
    """Every prompt with responses to others."""
    for at, (prompt, _, _) in enumerate(ROWS):
        for step in range(1, len(ROWS)):
            yield prompt, ROWS[(at + step) % len(ROWS)][1], ROWS[(at + 2 * step) % len(ROWS)][2]


def make_tokenizer(adds_bos):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for row in ROWS for text in row], trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )


@torch.no_grad()
def make_model(family, config):
    generator = torch.Generator().manual_seed(sum(family.encode()))
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    width = config.hidden_size
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            # Gemma stores what is added to one.
            is_gain = name.endswith("weight") and family not in GEMMAS
            parameter.copy_(0.5 * noise + is_gain)
            if "q_norm" in name or "k_norm" in name:
                parameter.mul_(1.8)
        elif name.endswith("bias"):
            parameter.copy_(0.5 * noise)
        elif any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "query_key_value")):
            # Of OLMo's the clip cuts the largest.
            parameter.copy_(noise * ((6.0 if family == "olmo" else 3.0) / width) ** 0.5)
        elif "embed" in name:
            parameter.copy_(noise * (0.2 if family in GEMMAS else 1.0))
        else:
            parameter.copy_(noise * width**-0.5)
    return model.eval()


@torch.no_grad()
def sharpness(model, ids):
    """Standard deviation of the attention logits of rows with some context."""
    attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    rows = [a[0, :, q, max(0, q - 4) : q + 1].clamp_min(1e-30).log() for a in attentions for q in range(4, len(ids))]
    return torch.stack([row - row.mean(-1, keepdim=True) for row in rows]).std().item()


def main(out, *families):
    out = pathlib.Path(out)
    for family, (config_class, fields, in_shards, adds_bos) in FAMILIES.items():
        if families and family not in families:
            continue
        eps = {"olmo": {}, "gpt_neox": {"layer_norm_eps": 0.02}}.get(family, {"rms_norm_eps": 0.02})
        config = getattr(transformers, config_class)(
            **{**SHAPE, **eps, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **fields}
        )
        tokenizer, model = make_tokenizer(adds_bos), make_model(family, config)
        rounded = {name: copy.deepcopy(model).to(getattr(torch, name)) for name in ("bfloat16", "float16")}
        folder = out / family
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder / "model", max_shard_size="60KB" if in_shards else "5GB")
        (folder / "model" / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder / "model")
        with open(folder / "rows.jsonl", "w") as file:
            for form in ("raw", "chat"):
                for prompt, chosen, rejected in ROWS:
                    if form == "raw":
                        ids = lambda text: tokenizer(text).input_ids
                        start, end = prompt, 1
                    else:
                        ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
                        turns = [{"role": "user", "content": prompt}]
                        start = tokenizer.apply_chat_template(
                            turns, tokenize=False, add_generation_prompt=True
                        )
                        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
                    sequences = len(ids(start)), ids(start + chosen), ids(start + rejected), end, 256
                    scores = reference.scores(model, *sequences)
                    row = {"format": form, "prompt": prompt, "chosen": chosen, "rejected": rejected}
                    file.write(json.dumps({**row, **scores}, ensure_ascii=False) + "\n")
        with open(folder / "half.jsonl", "w") as file:
            ids = lambda text: tokenizer(text).input_ids
            for prompt, chosen, rejected in other_pairs():
                sequences = len(ids(prompt)), ids(prompt + chosen), ids(prompt + rejected), 1, 256
                scores = reference.scores(model, *sequences)
                row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
                row |= {name: scores[name] for name in ("ches", "chosen_norm", "rejected_norm")}
                for name, of_type in rounded.items():
                    row[f"ches_{name}"] = reference.scores(of_type, *sequences)["ches"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        sharp = sharpness(model, ids(start + ROWS[8][1]))
        print(f"{family}: {size} bytes, attention logits' deviation {sharp:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
