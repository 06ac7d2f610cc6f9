"""GGUF files of some of the tiny families, and of one small tokenizer of each supported kind.

usage: make_gguf.py FAMILIES_DIRECTORY OUT_DIRECTORY

`ARCHITECTURE.gguf` holds the same weights and tokenizer as the family's directory, so that the
family's golden rows are its own; where transformers reads such files, it is asked whether they are.
`ARCHITECTURE-TYPE.gguf` holds them quantised, and `ARCHITECTURE-TYPE.jsonl` the scores that transformers
makes of that file. `llama-biases.gguf` is `llama.gguf` with biases, `llama-linear-untyped.jsonl` is for
`llama.gguf` with a rope factor; their scores are llama.cpp's.

`tokenizer-KIND.gguf` has no weights; `tokenizer-KIND.jsonl` has texts with the ids that the sentencepiece
library or llama.cpp makes of them. `pre-NAME.jsonl` has those that llama.cpp makes with the vocabulary of
`tokenizer-bytes.gguf` where `tokenizer.ggml.pre` is NAME; as far as a pre-tokenizer is the one of a published
`tokenizer.json`, the tokenizers library is asked whether it gives the same.

llama.cpp is the one in llama-cpp-python 0.3.36 (commit 0c1e57098).
"""

import io
import json
import pathlib
import sys

import gguf
import llama_cpp
import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

import reference
from make_families import ROWS, SPECIAL

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
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
# Where pre-tokenizers differ.
TEXTS_OF_WORDS = TEXTS + [
    "camelCase HTTPServer ÉcoleÉCOLE élanÉlan ABCdef XMLHttpRequest", "don'T WON'T she'LL\u017f'\u017f",
    "1234567890 1,000,000 3333 ३४५६ ３４５６７", "हिन्दी भाषा ไทย กำลัง தமிழ் বাংলা", "我想在apple工作1314151天～　。、「引用」ひらがなカタカナ",
    "don'ſa won'Sa I'LLa x'Ta y're", "a\u00a0b\u3000c\u2003d\u0085e\u2028f  \u3000 \u00a0\u00a0g", "path/to//file\n/\n//x\r\n\r\n  /", "++==<<>>||~~^^$$``¢£€©™ ¡¿«» —…",
    "x = 3.14; y=42%7 # ok\n\n\n    if x>=y: pass\n\t\t", "   leading\n   \n  trailing   ", "\n\n \n\r\n", "a\u0300\u0301b \u0300 c\u200d",
    # llama.cpp's own test text, of convert_hf_to_gguf_update.py.
    '\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български \'\'\'\'\'\'```````""""......!!!!!!?????? I\'ve been \'told he\'s there, \'RE you sure? \'M not sure I\'ll make it, \'D you like some tea? We\'Ve a\'lL',
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(*first, use_regex):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence([*first, last])


def split(regex):
    return pre_tokenizers.Split(Regex(regex), behavior="isolated")


# Pre-tokenizer of a published tokenizer.json, and whether whole words come before merges. What
# Qwen2's has besides, normal form C, llama.cpp has not.
PUBLISHED = {
    "gpt-2": (byte_level(use_regex=True), False),
    "smollm": (byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True), False),
    "llama-bpe": (byte_level(split(LLAMA3), use_regex=False), True),
    "qwen2": (byte_level(split(QWEN2), use_regex=False), False),
}
PRES = [
    *PUBLISHED, "default", "tekken", "dbrx", "glm4", "gpt-4o", "qwen35", "deepseek-llm", "deepseek-coder",
    "deepseek-v3", "falcon", "seed-coder", "bailingmoe", "bloom", "viking", "jais-2", "minicpm5", "ufakzeka",
]  # fmt: skip


class LlamaCpp:
    """A file as llama.cpp reads it."""

    def __init__(self, path, has_weights=False):
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = not has_weights
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, path
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def ids(self, text, add_special=False):
        text = text.encode()
        ids = (llama_cpp.llama_token * (len(text) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), ids, len(ids), add_special, True)
        return list(ids[:count])

    def states(self, ids, embeddings):
        """Logits, or the last hidden states, of all positions."""
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 256
        parameters.type_k = parameters.type_v = 0
        parameters.flash_attn_type = 0
        parameters.embeddings = embeddings
        parameters.pooling_type = 0
        context = llama_cpp.llama_init_from_model(self.model, parameters)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, at, 1, 1
            batch.seq_id[at][0] = 0
        assert llama_cpp.llama_decode(context, batch) == 0
        if embeddings:
            get, width = llama_cpp.llama_get_embeddings_ith, llama_cpp.llama_model_n_embd(self.model)
        else:
            get, width = llama_cpp.llama_get_logits_ith, llama_cpp.llama_vocab_n_tokens(self.vocab)
        rows = [np.ctypeslib.as_array(get(context, at), shape=(width,)).astype(np.float64) for at in range(len(ids))]
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        return np.array(rows)

    def scores(self, prompt, chosen, rejected):
        start = len(self.ids(prompt, True))
        scores = {"prompt_tokens": start, "truncated": False}
        responses, hidden = [], []
        for name, text in ("chosen", chosen), ("rejected", rejected):
            ids = self.ids(prompt + text, True)
            targets = [*ids[start:], llama_cpp.llama_vocab_eos(self.vocab)]
            logits = self.states(ids, False)[start - 1 :]
            log_probs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
            scores[f"{name}_tokens"] = len(targets) - 1
            scores[f"{name}_logprob"] = float(sum(log_probs[at, token] for at, token in enumerate(targets)))
            responses.append(ids[start:])
            hidden.append(self.states(ids, True)[start - 1 :])
        plus, minus = (states.sum(0) for states in hidden)
        mean_plus, mean_minus = (states.mean(0) for states in hidden)
        return scores | {
            "ches": float(plus @ minus - plus @ plus),
            "ches_normalized": float(mean_plus @ mean_minus - mean_plus @ mean_plus),
            "last_hidden_similarity": float(hidden[0][-1] @ hidden[1][-1]),
            "normalized_edit_distance": edit_distance(*responses) / max(map(len, responses)),
            "chosen_norm": float(np.linalg.norm(plus)),
            "rejected_norm": float(np.linalg.norm(minus)),
            "chosen_last_norm": float(np.linalg.norm(hidden[0][-1])),
            "rejected_last_norm": float(np.linalg.norm(hidden[1][-1])),
        }


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[-1]


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


def rewritten(source, out, values=(), arrays=None, tensors=()):
    """A file with other keys and further tensors."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    arrays, values = arrays or {}, dict(values)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in values:
            continue
        kind, content = field.types[0], arrays.get(key, field.contents())
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, content, kind, item)
    for key, (value, kind) in values.items():
        if value is not None:
            writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, data in tensors:
        writer.add_tensor(name, data.astype(np.float32))
    finish(writer)


def make_scored(out, name, **changes):
    """`llama.gguf` with changes, and llama.cpp's scores."""
    path = out / f"{name}.gguf"
    rewritten(out / "llama.gguf", path, **changes)
    model = LlamaCpp(path, has_weights=True)
    with open(path.with_suffix(".jsonl"), "w") as file:
        for prompt, chosen, rejected in ROWS:
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(row | model.scores(prompt, chosen, rejected), ensure_ascii=False) + "\n")


def make_changed_models(out):
    random = np.random.default_rng(7)
    widths = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 48, "ffn_up": 48, "ffn_down": 32}
    biases = [(f"blk.{layer}.{part}.bias", random.normal(size=width) * 0.3) for layer in range(2) for part, width in widths.items()]
    make_scored(out, "llama-biases", tensors=biases)
    make_scored(out, "llama-linear-untyped", values={"llama.rope.scaling.factor": (4.0, gguf.GGUFValueType.FLOAT32)})
    (out / "llama-linear-untyped.gguf").unlink()


def write_rows(path, texts, ids):
    with open(path, "w") as file:
        for text in texts:
            file.write(json.dumps({"text": text, "ids": ids(text)}, ensure_ascii=False) + "\n")


def make_bytes(out):
    """A vocabulary with merges across words, so that every cut between them shows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        max_token_length=12,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS_OF_WORDS, *TEXTS_OF_WORDS], trainer)
    # A word that no merges lead to.
    described = json.loads(tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary.setdefault("Ġquick", len(vocabulary))
    merges = [merge for merge in described["model"]["merges"] if "".join(merge) != "Ġquick"]
    described["model"]["merges"] = merges
    path = out / "tokenizer-bytes.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    write_tokenizer(writer, Tokenizer.from_str(json.dumps(described)), "llama-bpe")
    finish(writer)
    for pre in PRES:
        changed = out / "changed.gguf"
        rewritten(path, changed, values={"tokenizer.ggml.pre": (pre, gguf.GGUFValueType.STRING)})
        llama_cpp_ids = LlamaCpp(changed).ids
        changed.unlink()
        write_rows(out / f"pre-{pre}.jsonl", TEXTS_OF_WORDS, llama_cpp_ids)
        if pre in PUBLISHED:
            pre_tokenizer, described["model"]["ignore_merges"] = PUBLISHED[pre]
            published = Tokenizer.from_str(json.dumps(described))
            published.pre_tokenizer = pre_tokenizer
            differ = [text for text in TEXTS_OF_WORDS if published.encode(text, add_special_tokens=False).ids != llama_cpp_ids(text)]
            print(f"{pre}: the published tokenizer differs in {differ}")


def make_special(out, kind, source, extra, types, values, texts):
    """Tokens whose types llama.cpp corrects, or that have other types than texts show."""
    reader = gguf.GGUFReader(source)
    content = lambda key: reader.fields[f"tokenizer.ggml.{key}"].contents()
    tokens = content("tokens")
    arrays = {
        "tokenizer.ggml.tokens": tokens + [token for token, _ in extra],
        "tokenizer.ggml.token_type": [types.get(token, kind) for token, kind in zip(tokens, content("token_type"))] + [kind for _, kind in extra],
    }
    if "tokenizer.ggml.scores" in reader.fields:
        arrays["tokenizer.ggml.scores"] = content("scores") + [-1000.0] * len(extra)
    path = out / f"tokenizer-{kind}.gguf"
    rewritten(source, path, values=values, arrays=arrays)
    write_rows(path.with_suffix(".jsonl"), texts, LlamaCpp(path).ids)


def make_specials(out):
    extra = [
        ("<|eot_id|>", NORMAL), ("<|end_of_turn|>", NORMAL), ("<|turn|>", USER_DEFINED), ("<unk>", UNKNOWN),
        ("[PAD0]", UNUSED), ("<|unused0|>", CONTROL), ("<|fim_prefix|>", NORMAL), ("<|channel|>", CONTROL),
        ("   ", USER_DEFINED), ("\n\n", USER_DEFINED), ("<|im_end|>\n", USER_DEFINED),
    ]  # fmt: skip
    texts = [
        "", "a<|im_end|>b", "a<|im_end|>\nb<|im_end|>", "<|im_start|>user\nhi</s>", "<|eot_id|><|end_of_turn|>",
        "x<|turn|>y", "<unk> <unk>", "[PAD0] a", "<|unused0|>", "<|fim_prefix|>def", "<|channel|>final",
        "a    b\n\n\nc", "   ", "      \n\n\n\n", "<|im_en<|im_end|>d|>", "<s><s>x<s>", "<<|im_end|>>",
        "e\u0301<|im_end|>é",
    ]  # fmt: skip
    types = {"<|im_end|>": NORMAL, "</s>": USER_DEFINED, "<|im_start|>": UNUSED}
    make_special(out, "special", out / "tokenizer-bytes.gguf", extra, types, {}, texts)
    extra = [
        ("<|im_end|>", NORMAL), ("<|user|>", CONTROL), ("<|end|>", NORMAL), ("  ", USER_DEFINED), ("[PAD1]", UNUSED),
        ("<|endoftext|>", CONTROL),
    ]  # fmt: skip
    texts = [
        "", " ", "a", "<s>a", "<s> a</s> b", "<unk>a<unk>", "a<|im_end|>b <|im_end|> c", "  <|user|>  hi  <|user|>\n\nx",
        "<|user|>\t \na", "two  spaces   <|end|>   x", "</s> \n x<s> \n y<unk> z", "▁x ▁", "<0x0A>", "☃<|end|>☃", "[PAD1]",
        "dog\u00a0<|end|> fox",
    ]  # fmt: skip
    ids = [f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown")]
    for kind, values in {
        "special-sentencepiece": {},
        "sentencepiece-no-ids": {key: (None, None) for key in ids},
    }.items():
        make_special(out, kind, out / "tokenizer-sentencepiece.gguf", extra, {}, values, texts)


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
    make_changed_models(out)
    make_bytes(out)
    make_sentencepiece("sentencepiece", True, out)
    make_sentencepiece("sentencepiece-no-prefix", False, out)
    make_specials(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
