"""How transformers computes summed hidden embeddings: the ways that benchmarks time.

A sequence is its token ids and the number of those that are the prompt's.
"""

import torch


def paper(model, sequences):
    """As the paper's script works: one sequence at a time, hidden states of every layer, logits."""
    for ids, prompt_tokens in sequences:
        tokens = torch.tensor([ids], device=model.device)
        out = model(input_ids=tokens, output_hidden_states=True)
        yield out.hidden_states[-1][0, prompt_tokens - 1 :].float().sum(dim=0)


def best(model, sequences, batch_size, **options):
    """Sorted by length, in batches, no logits, with these options of the model. The sums are in the order of the
    sequences."""
    order = sorted(range(len(sequences)), key=lambda at: len(sequences[at][0]))
    sums = [None] * len(sequences)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        longest = max(len(sequences[at][0]) for at in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, at in enumerate(batch):
            length = len(sequences[at][0])
            tokens[row, :length] = torch.tensor(sequences[at][0])
            mask[row, :length] = 1
        states = model.model(
            input_ids=tokens.to(model.device), attention_mask=mask.to(model.device), **options
        ).last_hidden_state
        for row, at in enumerate(batch):
            ids, prompt_tokens = sequences[at]
            sums[at] = states[row, prompt_tokens - 1 : len(ids)].float().sum(dim=0)
    return sums
