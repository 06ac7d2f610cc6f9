//! The predictions of a batch: displacement, and the simulated step where one is asked for.

use candle_core::Result;

use super::displacement::{Displacement, Tile};
use super::gradient_backend::GradientBackend;
use super::simulation::Simulation;
use super::trace::Trace;
use super::{Decoder, Linear, PackedBatch, Prediction};

impl Decoder {
    /// The predictions of a batch, in order.
    pub(super) fn predict<S: GradientBackend>(
        &self,
        steps: &S,
        batch: &PackedBatch,
        trace: &Trace<S::Rows>,
        unembedding: &Linear,
    ) -> Result<Vec<(Displacement, Option<Simulation>)>> {
        let steps = &steps.exact();
        let rows_of = |prediction: &Prediction| {
            let reads = [prediction.chosen, prediction.rejected];
            let targets = reads.map(|read| batch.readouts[read].targets.len());
            targets.iter().sum::<usize>()
        };
        let mut predicted = Vec::with_capacity(batch.predictions.len());
        let mut rest = &batch.predictions[..];
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = |prediction: &&Prediction| {
                rows += rows_of(prediction);
                rows <= self.config.mlp_rows()
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let tile = Tile::new(batch, trace, now);
            let last = self.last_block(steps, &tile, trace, unembedding)?;
            let displacements = last.displacements.iter().zip(now).zip(&tile.pairs);
            for ((displacement, prediction), pair) in displacements {
                let simulation = match &prediction.alone {
                    None => None,
                    Some(_) if prediction.is_same => Some(Simulation::none(displacement)),
                    Some(alone) => {
                        let (kept, gradients) = (&last.kept, &last.gradients);
                        let signs = self.signs(steps, trace, &tile.rows, pair, kept, gradients)?;
                        Some(self.simulate(
                            steps,
                            trace,
                            alone,
                            displacement,
                            &signs,
                            unembedding,
                        )?)
                    }
                };
                predicted.push((displacement.clone(), simulation));
            }
        }
        Ok(predicted)
    }
}
