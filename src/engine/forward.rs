//! A decoder as a replica: groups are packed, computed in one forward pass, and told apart again.

use std::sync::{Mutex, PoisonError};

use candle_core::Result;

use crate::decoder::Decoder;
use crate::engine::packing::pack;
use crate::models::engine::Replica;
use crate::models::group::{Embedding, Group, GroupOutput};

/// Held while a forward pass runs on CPU, whichever model it is of: each uses every core.
static CPU: Mutex<()> = Mutex::new(());

impl Replica for Decoder {
    fn forward(&self, groups: &[&Group]) -> Result<Vec<GroupOutput>> {
        let batch = pack(groups, self.config().long_from());
        let turn = self
            .is_on_cpu()
            .then(|| CPU.lock().unwrap_or_else(PoisonError::into_inner));
        let outputs = self.run(&batch)?;
        drop(turn);
        let predictions = batch.predictions.iter().map(|prediction| prediction.chosen);
        let mut predictions = predictions.zip(outputs.predictions).peekable();
        let mut outputs = outputs.readouts.into_iter();
        let mut first = 0;
        Ok(groups
            .iter()
            .map(|group| {
                let sequences = group.sequences.iter().zip(outputs.by_ref());
                let embeddings = sequences.map(|(sequence, output)| Embedding {
                    sum: output.sum,
                    last: output.last,
                    contexts: sequence.contexts().len(),
                    log_prob: group.end_token.and(output.log_prob),
                });
                let embeddings = embeddings.collect();
                let predicted = predictions.next_if(|(chosen, _)| *chosen == first);
                first += group.sequences.len();
                let (displacement, simulation) = predicted.map(|(_, of_pair)| of_pair).unzip();
                GroupOutput {
                    embeddings,
                    displacement,
                    simulation: simulation.flatten(),
                }
            })
            .collect())
    }
}
