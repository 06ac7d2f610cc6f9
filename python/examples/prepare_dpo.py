"""From preference data to what TRL's DPOTrainer takes, without the pairs that displace likelihood.

    python prepare_dpo.py pairs.parquet --model model.gguf --output kept

The model is the one that is to be trained, before training.
"""

import argparse

import datafusion_ches
import numpy
from datasets import Dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("pairs", help="a Parquet file with the columns prompt, chosen, rejected")
parser.add_argument("--model", required=True, help="a .gguf file, a model directory or a URL")
parser.add_argument("--output", required=True, help="the directory of the filtered dataset")
parser.add_argument("--keep", type=float, default=0.9, help="the part that is kept (default: 0.9)")
options = parser.parse_args()

pairs = Dataset.from_parquet(options.pairs)

# Rows that cannot be scored have no score, and are left out below.
scored = datafusion_ches.score(pairs, "ches_normalized", model=options.model, on_error="null")

scores = scored.with_format("numpy")["ches_normalized"][:].astype(float)
cut = numpy.nanquantile(scores, options.keep)
kept = scored.select(numpy.flatnonzero(scores <= cut))

# TRL knows these three columns, as texts or as conversations.
kept = kept.select_columns(["prompt", "chosen", "rejected"])
kept.save_to_disk(options.output)
print(f"kept {kept.num_rows} of {pairs.num_rows} pairs: those with ches_normalized up to {cut:.2f}")

# The model's memory is free again for training:
#
#     datafusion_ches.unload()
#     trainer = trl.DPOTrainer(model="…", train_dataset=kept, args=trl.DPOConfig(…))
#     trainer.train()
