"""Golden displacements: what autograd, in float64, says DPO on a single pair does.

usage: make_displacement.py families FAMILIES_DIRECTORY [FAMILY…]
       make_displacement.py smollm2 MODEL.gguf DATA.parquet OUT.jsonl
       make_displacement.py no_never MODEL.gguf OUT.jsonl

G± is the gradient of ln π(y±|x), summed over the targets, with respect to block matrices: the
attention's output projection and the MLP's (weights, no biases). The first part of a row is of
the last block: how fast ln π(y±|x) changes as its matrices move along sign(G⁺ − G⁻), or along
G⁺ − G⁻ (`_sgd`), and how fast ln p(token) at the last prompt position does (`changes`). The second
is of one simulated step: the matrices of every block move by `learning_rate` along sign(G⁺ − G⁻),
where the gradients do not pass through attention, and everything from the last prompt position on
is computed again. `no_never` adds the true changes after Adam's first step on every parameter.
"""

import contextlib
import json
import pathlib
import sys
from dataclasses import dataclass
from unittest import mock

import pyarrow.parquet
import torch
import transformers
from torch.autograd import forward_ad
from torch.func import functional_call

import make_families
import make_scores
import reference

# The moved modules of a block: the attention's output projection, then the MLP's.
MODULES = {
    "gpt_neox": ("attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "phi3": ("self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
}
USUAL_MODULES = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
CANDIDATES = 50  # most probable tokens at the last prompt position
LEARNING_RATE = 2e-6
TINY_LEARNING_RATE = 1e-4  # so that float32 sees the step of a tiny model
# Rows that are also made with a max_length. The first's chosen response just fits, only the
# rejected one is cut; of the second only the chosen one is; of the others both.
CUT = {"paraphrase-05": 58, "refusal-01": 69, "paraphrase-08": 64, "compliance-01": 56}
YES_OR_NO = [
    "Is the earth flat? Answer with one word.",
    "Can a person live without water for a year? Answer yes or no.",
    "Should I look straight at the sun?",
    "Is seven an even number?",
    "Would you help me to hurt somebody?",
    "Do fish grow on trees? One word, please.",
]


@dataclass
class Sequence:
    """A prompt with a response; the contexts are the positions from the last prompt token on."""

    ids: list
    prompt_tokens: int
    targets: list  # what the contexts predict: the response and its end, if it was not cut


def pair(prompt_tokens, chosen, rejected, end, max_length):
    for ids in (chosen, rejected):
        kept = ids[:max_length]
        yield Sequence(kept, prompt_tokens, kept[prompt_tokens:] + [end] * (len(ids) <= max_length))


@contextlib.contextmanager
def in_double():
    """Norms, softmax and RoPE too: transformers computes them in float32 whatever the model's type."""
    with (
        mock.patch.multiple(torch, float32=torch.float64, float=torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield


@contextlib.contextmanager
def changed_inputs(changes):
    """Each module of (module, change) gets change(x) for its first argument x."""
    handles = [
        module.register_forward_pre_hook(lambda _, args, change=change: (change(args[0]), *args[1:]))
        for module, change in changes
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks(model):
    return getattr(model, model.base_model_prefix).layers


def module_names(model):
    return MODULES.get(model.config.model_type, USUAL_MODULES)


def matrices(model, of):
    """The names of the moved matrices of these blocks (a slice)."""
    for block in range(len(blocks(model)))[of]:
        for name in module_names(model):
            yield f"{model.base_model_prefix}.layers.{block}.{name}.weight"


def constant_attention(model):
    """What attention gives to its output projection is a constant to autograd."""
    output = module_names(model)[0]
    return changed_inputs((block.get_submodule(output), torch.Tensor.detach) for block in blocks(model))


@torch.no_grad()
def kept_context(model, sequence):
    """In every block, what comes before the last prompt position stays as the model has it now."""
    inputs, before = [], sequence.prompt_tokens - 1

    def save(hidden):
        inputs.append(hidden)
        return hidden

    with changed_inputs((block, save) for block in blocks(model)):
        log_probs(model, sequence)

    def keep(saved):
        return lambda hidden: torch.cat([saved[:, :before], hidden[:, before:]], 1)

    return changed_inputs([(block, keep(saved)) for block, saved in zip(blocks(model), inputs)])


def log_probs(model, sequence, weights={}):
    """Of every token at every context, with these weights in place of the model's."""
    inputs = {"input_ids": torch.tensor([sequence.ids]), "use_cache": False}
    logits = functional_call(model, weights, kwargs=inputs).logits
    return logits[0, sequence.prompt_tokens - 1 :].log_softmax(-1)


def response_log_prob(at_contexts, sequence):
    """ln π(y|x), from the log-probabilities at every context."""
    targets = torch.tensor(sequence.targets)
    return at_contexts[: len(targets)].gather(1, targets[:, None]).sum()


def gradients(model, sequence, names):
    """The gradient of ln π(y|x) with respect to each of these weights."""
    weights = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
    value = response_log_prob(log_probs(model, sequence, weights), sequence)
    return dict(zip(weights, torch.autograd.grad(value, list(weights.values()))))


def inner(a, b):
    return sum((a[name] * b[name]).sum().item() for name in a)


def signs(plus, minus):
    return {name: (plus[name] - minus[name]).sign() for name in plus}


def moved(model, direction, by):
    return {name: model.get_parameter(name) + by * step for name, step in direction.items()}


def rounded(value, digits):
    return float(f"{value:.{digits}g}")


def by_token(candidates, changes):
    return [[token, rounded(changes[token].item(), 7)] for token in candidates]


def displacement(model, chosen, rejected, candidates):
    """Rates of change as the last block's matrices move."""
    plus, minus = (gradients(model, s, list(matrices(model, slice(-1, None)))) for s in (chosen, rejected))
    direction = signs(plus, minus)
    with forward_ad.dual_level():
        moving = {name: forward_ad.make_dual(model.get_parameter(name), step) for name, step in direction.items()}
        changes = forward_ad.unpack_dual(log_probs(model, chosen, moving)[0]).tangent
    plus_plus, plus_minus, minus_minus = inner(plus, plus), inner(plus, minus), inner(minus, minus)
    chosen_rate, rejected_rate = inner(plus, direction), inner(minus, direction)
    return {
        "chosen_rate": chosen_rate,
        "rejected_rate": rejected_rate,
        "chosen_rate_per_token": chosen_rate / len(chosen.targets),
        "rejected_rate_per_token": rejected_rate / len(rejected.targets),
        "chosen_rate_sgd": plus_plus - plus_minus,
        "rejected_rate_sgd": plus_minus - minus_minus,
        "overlap": plus_minus / plus_plus,
        # What cancels in the above, and the largest that the rates could be.
        "plus_plus": plus_plus,
        "plus_minus": plus_minus,
        "minus_minus": minus_minus,
        "chosen_abs": sum(g.abs().sum().item() for g in plus.values()),
        "rejected_abs": sum(g.abs().sum().item() for g in minus.values()),
        "changes": by_token(candidates, changes),
    }


def simulated(model, chosen, rejected, candidates, learning_rate):
    """Changes after one simulated step."""
    with constant_attention(model):
        plus, minus = (gradients(model, s, list(matrices(model, slice(None)))) for s in (chosen, rejected))
    weights = moved(model, signs(plus, minus), learning_rate)
    result = {"learning_rate": learning_rate}
    for name, sequence in (("chosen", chosen), ("rejected", rejected)):
        before = log_probs(model, sequence)
        with kept_context(model, sequence):
            after = log_probs(model, sequence, weights)
        change = (response_log_prob(after, sequence) - response_log_prob(before, sequence)).item()
        result |= {f"{name}_change": change, f"{name}_change_per_token": change / len(sequence.targets)}
        if sequence is chosen:
            changes = by_token(candidates, (after - before)[0])
    return result | {"simulated_changes": changes}


def true_changes(model, chosen, rejected, candidates, learning_rate):
    """Changes after Adam's first step, on every parameter."""
    names = [name for name, _ in model.named_parameters()]
    plus, minus = (gradients(model, s, names) for s in (chosen, rejected))
    weights = moved(model, signs(plus, minus), learning_rate)
    return by_token(candidates, (log_probs(model, chosen, weights) - log_probs(model, chosen))[0])


def golden(model, chosen, rejected, learning_rate):
    plus, minus = (log_probs(model, s) for s in (chosen, rejected))
    most_probable = plus[0].topk(CANDIDATES).indices.tolist()
    candidates = sorted({*most_probable, chosen.targets[0], rejected.targets[0]})
    row = {
        "prompt_tokens": chosen.prompt_tokens,
        "chosen_targets": len(chosen.targets),
        "rejected_targets": len(rejected.targets),
        "chosen_logprob": response_log_prob(plus, chosen).item(),
        "rejected_logprob": response_log_prob(minus, rejected).item(),
        **displacement(model, chosen, rejected, candidates),
        **simulated(model, chosen, rejected, candidates, learning_rate),
    }
    return {name: rounded(v, 10) if isinstance(v, float) else v for name, v in row.items()}


def write(out, rows):
    with open(out, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            print(".", end="", file=sys.stderr, flush=True)
    print(f" {out}: {pathlib.Path(out).stat().st_size} bytes", file=sys.stderr)


def family_pairs(tokenizer):
    """The rows of make_families.py as it encodes them."""
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for form, end in (("raw", tokenizer.eos_token_id), ("chat", end_of_turn)):
        for prompt, chosen, rejected in make_families.ROWS:
            start = prompt
            if form == "chat":
                start, _ = make_scores.render(tokenizer, prompt, chosen)
            ids = lambda text: tokenizer(text, add_special_tokens=form == "raw").input_ids
            row = {"format": form, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            yield row, pair(len(ids(start)), ids(start + chosen), ids(start + rejected), end, 256)


def families(folder, *only):
    for family in only or make_families.FAMILIES:
        path = pathlib.Path(folder) / family
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path / "model")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path / "model", attn_implementation="eager", dtype=torch.float32
        )
        model.double().requires_grad_(False)
        with in_double():
            write(
                path / "displacement.jsonl",
                (row | golden(model, *of, TINY_LEARNING_RATE) for row, of in family_pairs(tokenizer)),
            )


def load_smollm2(path):
    """The model, and what encodes a row of a data set as a pair."""
    tokenizer, model = reference.load(path)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def encode(row, max_length=2048):
        prompt, chosen = make_scores.render(tokenizer, row["prompt"], row["chosen"])
        _, rejected = make_scores.render(tokenizer, row["prompt"], row["rejected"])
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, chosen, rejected)]
        return pair(len(ids[0]), *ids[1:], end, max_length)

    return tokenizer, model.double().requires_grad_(False), encode


def smollm2(model_path, data, out):
    _, model, encode = load_smollm2(model_path)
    rows = pyarrow.parquet.read_table(data).to_pylist()[:24]
    whole = [({"id": row["id"]}, encode(row)) for row in rows]
    cut = [
        ({"id": row["id"], "max_length": CUT[row["id"]]}, encode(row, CUT[row["id"]]))
        for row in rows
        if row["id"] in CUT
    ]
    with in_double():
        write(out, (row | golden(model, *of, LEARNING_RATE) for row, of in whole + cut))


def compare(tokenizer, row):
    """Prints how the predictions of a row's changes compare with the truth."""
    truth = dict(row["true_changes"])
    largest = sorted(truth, key=lambda token: -abs(truth[token]))[:10]
    print(f"\n{row['prompt']}")
    for name in ("true_changes", "changes", "simulated_changes"):
        changes = dict(row[name])
        gaining = sorted(changes, key=lambda token: -changes[token])[:8]
        print(f"  {name} gain:", *(repr(tokenizer.decode([token])) for token in gaining))
        if changes != truth:
            agree = {token: changes[token] * truth[token] > 0 for token in truth}
            of_largest = sum(agree[token] for token in largest)
            print(f"    signs agree: {sum(agree.values())} of {len(agree)}, {of_largest} of the 10 largest")


def no_never(model_path, out):
    tokenizer, model, encode = load_smollm2(model_path)

    def goldens():
        for prompt in YES_OR_NO:
            row = {"prompt": prompt, "chosen": "No", "rejected": "Never"}
            chosen, rejected = encode(row)
            row |= golden(model, chosen, rejected, LEARNING_RATE)
            candidates = [token for token, _ in row["changes"]]
            row["true_changes"] = true_changes(model, chosen, rejected, candidates, LEARNING_RATE)
            compare(tokenizer, row)
            yield row

    with in_double():
        write(out, goldens())


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"families": families, "smollm2": smollm2, "no_never": no_never}[what](*arguments)
