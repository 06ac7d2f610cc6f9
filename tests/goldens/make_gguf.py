"""GGUF files of some of the tiny families, and of one small tokenizer of each supported kind.

usage: make_gguf.py FAMILIES_DIRECTORY OUT_DIRECTORY

`ARCHITECTURE.gguf` holds the same weights and tokenizer as the family's directory, so that the
family's golden rows are its own; where transformers reads such files, it is asked whether they are.
`ARCHITECTURE-TYPE.gguf` holds them quantised, and `ARCHITECTURE-TYPE.jsonl` the scores that transformers
makes of that file. `tokenizer-KIND.gguf` has no weights; `tokenizer-KIND.jsonl` has texts with the ids that the
sentencepiece library, or a tokenizer of the tokenizers library built as the model line publishes
it, makes of them.
"""

import io
import json
import pathlib
import sys

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import reference
from make_families import ROWS, SPECIAL

CONTROL = 3
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TEXTS = [text for row in ROWS for text in row] + [
    "",
    " ",
    "  two  spaces   three",
    "tabs\tand\r\nlines\n\n\nmore \n end ",
    "It's they'RE we'll I'd 'tis",
    "12345 6 78,901.23 ٣٤٥ ½ Ⅷ",
    "naïve café e\u0301 ﬁ Å ①",
    "日本語のテキスト 한국어 العربية עברית",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b zero",
    "def f(x):\n\treturn {x: [1, 2]}  # !!!???",
    "<|im_start|>user\nhello<|im_end|>\n</s> after <s>",
    "a_b-c.d/e\\f@g#h$i%j^k&l*m(n)o",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(*first, use_regex):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*first, last])


def split(regex):
    return pre_tokenizers.Split(Regex(regex), behavior="isolated")


# Pre-tokenizer, normalizer, whether whole words come before merges.
BYTE_LEVEL = {
    "gpt-2": (byte_level(use_regex=True), None, False),
    "smollm": (byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True), None, False),
    "llama-bpe": (byte_level(split(LLAMA3), use_regex=False), None, True),
    "qwen2": (byte_level(split(QWEN2), use_regex=False), normalizers.NFC(), False),
}


def write_tokenizer(writer, tokenizer, pre):
    described = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = {token["content"] for token in described["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in described["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_model(family, folder, out, quantised=None):
    directory = folder / family / "model"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    path = out / (f"{family}-{quantised.name.lower()}.gguf" if quantised else f"{family}.gguf")
    writer = gguf.GGUFWriter(path, family)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    write_tokenizer(writer, tokenizer, "gpt-2")
    writer.add_add_bos_token(tokenizer.encode("").ids == [0])
    writer.add_chat_template((directory / "chat_template.jinja").read_text())
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = weight.numpy()
        if family == "gemma" and "norm" in name:
            # Files of llama.cpp hold the sum.
            weight = weight + 1.0
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            if family == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
                weight = heads.swapaxes(1, 2).reshape(weight.shape)
            name = f"blk.{layer}.{NAMES[part]}.{kind}"
        else:
            name = NAMES[name]
        weight = np.ascontiguousarray(weight, dtype=np.float32)
        if quantised and weight.ndim == 2 and weight.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(weight, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, weight)
    if family == "llama":
        plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    finish(writer)
    if quantised:
        read = transformers.AutoModelForCausalLM.from_pretrained(out, gguf_file=path.name, config=config, dtype=torch.float32)
        with open(path.with_suffix(".jsonl"), "w") as file:
            for prompt, chosen, rejected in ROWS:
                ids = lambda text: tokenizer.encode(text).ids
                scores = reference.scores(read.eval(), len(ids(prompt)), ids(prompt + chosen), ids(prompt + rejected), 1, 256)
                row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
                file.write(json.dumps({**row, **scores}, ensure_ascii=False) + "\n")
    elif family != "gemma":
        read = transformers.AutoModelForCausalLM.from_pretrained(out, gguf_file=path.name, config=config, dtype=torch.float32)
        state = model.state_dict()
        for name, weight in read.state_dict().items():
            assert torch.equal(weight, state[name]), name
        print(f"{family}: transformers reads the same weights")


def write_rows(out, kind, ids):
    with open(out / f"tokenizer-{kind}.jsonl", "w") as file:
        for text in TEXTS:
            file.write(json.dumps({"text": text, "ids": ids(text)}, ensure_ascii=False) + "\n")


def make_byte_level(kind, out):
    pre_tokenizer, normalizer, ignore_merges = BYTE_LEVEL[kind]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *TEXTS], trainer)
    if ignore_merges:
        # A word that no merges lead to.
        described = json.loads(tokenizer.to_str())
        vocabulary = described["model"]["vocab"]
        vocabulary.setdefault("Ġquick", len(vocabulary))
        merges = described["model"]["merges"]
        described["model"]["merges"] = [merge for merge in merges if "".join(merge) != "Ġquick"]
        tokenizer = Tokenizer.from_str(json.dumps(described))
    writer = gguf.GGUFWriter(out / f"tokenizer-{kind}.gguf", "llama")
    write_tokenizer(writer, tokenizer, kind)
    finish(writer)
    write_rows(out, kind, lambda text: tokenizer.encode(text, add_special_tokens=False).ids)


def make_sentencepiece(kind, has_prefix, out):
    trained = io.BytesIO()
    # Other letters than these are left to bytes.
    texts = [text.replace("\n", " ") for text in TEXTS if text.strip() and text.isascii() and "<" not in text]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20),
        model_writer=trained,
        model_type="bpe",
        vocab_size=420,
        character_coverage=1.0,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=has_prefix,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    ids = range(processor.vocab_size())
    kinds = [
        2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
        for i in ids
    ]
    writer = gguf.GGUFWriter(out / f"tokenizer-{kind}.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([processor.id_to_piece(i) for i in ids])
    writer.add_token_scores([processor.get_score(i) for i in ids])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_add_space_prefix(has_prefix)
    finish(writer)
    texts = [text for text in TEXTS if "<s>" not in text]
    with open(out / f"tokenizer-{kind}.jsonl", "w") as file:
        for text in texts:
            row = {"text": text, "ids": processor.encode(text)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(families, out):
    out = pathlib.Path(out)
    out.mkdir(exist_ok=True)
    for family in ("llama", "qwen2", "qwen3", "gemma"):
        make_model(family, pathlib.Path(families), out)
    make_model("llama", pathlib.Path(families), out, gguf.GGMLQuantizationType.Q4_0)
    for kind in BYTE_LEVEL:
        make_byte_level(kind, out)
    make_sentencepiece("sentencepiece", True, out)
    make_sentencepiece("sentencepiece-no-prefix", False, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
