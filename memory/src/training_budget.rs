//! Whether a training fits into the memory that an engine may use, and how it does.

use bytesize::ByteSize;
use requests::{TrainingParams, training_limits as limits};

use crate::budget::{Budget, GRID, SCALES, TooLarge, ways, what_would_fit};
use crate::{ComputeType, Footprint, Keep, LoadOptions, Needs, WeightStorage};

/// A training that is requested.
#[derive(Debug, Clone, Copy)]
pub struct TrainingDemand<'a> {
    pub footprint: &'a Footprint,
    pub params: &'a TrainingParams,
    /// Number of pictures in the dataset.
    pub examples: usize,
}

/// How a training stays within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingPlan {
    /// How the base model is loaded.
    pub options: LoadOptions,
    /// Whether activations are computed again in the backward pass instead of kept.
    pub recompute: bool,
}

impl Budget {
    /// How a training with valid parameters stays within the budget. It recomputes activations only if they do not
    /// fit, or if the model is large. The base model, which is not trained, is packed only if it does not fit
    /// otherwise. The answer does not depend on what is in memory. A refusal states the estimate and what would fit
    /// instead. `None` if models of this family cannot be trained.
    pub fn plan_training(&self, demand: &TrainingDemand) -> Option<Result<(TrainingPlan, Needs), TooLarge>> {
        let narrowest = self.allowed().last().copied().unwrap_or_default();
        let needs = demand.least(narrowest, self.compute)?;
        let needed = demand.least(WeightStorage::Int4, ComputeType::Bf16)?.total();
        let planned = self.fastest(demand, demand.params);
        Some(planned.ok_or_else(|| TooLarge { needed, reason: self.refused_training(demand, needs) }))
    }

    fn fastest(&self, demand: &TrainingDemand, params: &TrainingParams) -> Option<(TrainingPlan, Needs)> {
        let keeps = !demand.footprint.recomputes();
        let mut planned =
            ways(self.allowed(), self.compute).filter(|options| options.keep == Keep::One).flat_map(|options| {
                // A backward pass through all blocks at once keeps their weights unpacked.
                let ways = [false, true]
                    .into_iter()
                    .filter(move |recompute| *recompute || keeps && options.weights == WeightStorage::Full);
                ways.map(move |recompute| TrainingPlan { options, recompute })
            });
        planned.find_map(|plan| {
            let TrainingPlan { options, recompute } = plan;
            let needs = demand.footprint.training(params, demand.examples, self.compute, options, recompute)?;
            (needs.total() <= self.bytes).then_some((plan, needs))
        })
    }

    fn refused_training(&self, demand: &TrainingDemand, needs: Needs) -> String {
        let TrainingParams { batch_size, resolution, rank, .. } = *demand.params;
        let fits = |batch_size, resolution, rank| {
            let params = TrainingParams { batch_size, resolution, rank, ..demand.params.clone() };
            self.fastest(demand, &params).is_some()
        };
        let batch = (1..batch_size).rev().find(|batch| fits(*batch, resolution, rank));
        let scaled = |parts: u32| resolution * parts / SCALES as u32 / GRID as u32 * GRID as u32;
        let smaller = |batch| {
            let sides = (1..SCALES as u32).rev().map(scaled).filter(|side| limits::RESOLUTION.contains(side));
            sides.into_iter().find(|side| fits(batch, *side, rank))
        };
        let narrower = (1..rank).rev().find(|rank| fits(batch_size, resolution, *rank));
        let mut help = Vec::new();
        help.extend(batch.map(|batch| format!("a batch size of {batch}")));
        match smaller(batch_size) {
            Some(side) => help.push(format!("a resolution of {side}")),
            None if batch.is_none() => {
                help.extend(smaller(1).map(|side| format!("a batch size of 1 at a resolution of {side}")));
            }
            None => {}
        }
        help.extend(narrower.map(|rank| format!("a rank of {rank}")));
        format!(
            "a training at {resolution}×{resolution} with batches of {batch_size} and rank {rank} takes about {} of \
             memory, {} of it weights, and the engine may use {} (--vram-budget): {}",
            ByteSize(needs.total()),
            ByteSize(needs.weights),
            ByteSize(self.bytes),
            what_would_fit(&help)
        )
    }
}

impl TrainingDemand<'_> {
    /// The least memory that the training takes with the base model in `weights`; `None` if models of this family cannot
    /// be trained.
    fn least(&self, weights: WeightStorage, compute: ComputeType) -> Option<Needs> {
        let options = LoadOptions { weights, text_weights: weights.max(WeightStorage::Half), ..LoadOptions::default() };
        self.footprint.training(self.params, self.examples, compute, options, true)
    }
}

#[cfg(test)]
mod tests {
    use formats::Family;

    use super::*;
    use crate::examples::{ember, published};

    fn plan_training(bytes: u64, batch_size: u32, resolution: u32, rank: u32) -> Result<TrainingPlan, TooLarge> {
        let params = TrainingParams {
            trigger_word: None,
            steps: 3,
            rank,
            alpha: 1.0,
            learning_rate: 1e-4,
            batch_size,
            resolution,
            seed: 1,
        };
        let demand = TrainingDemand { footprint: &ember(), params: &params, examples: 10 };
        Budget::on_cpu(bytes).plan_training(&demand).unwrap().map(|(plan, _)| plan)
    }

    #[test]
    fn a_training_recomputes_only_what_does_not_fit() {
        let plan = |power: u32| plan_training(1 << power, 8, 256, 16).ok();
        let plans: Vec<_> = (20..45).map(plan).collect();
        let first = |wanted| plans.iter().position(|plan| plan.map(|plan| plan.recompute) == wanted).unwrap();
        assert!(first(None) < first(Some(true)) && first(Some(true)) < first(Some(false)), "{plans:?}");
    }

    /// FLUX.1-dev at rank 16 and 256² on the CPU.
    #[test]
    fn the_base_of_a_training_is_packed_if_it_does_not_fit() {
        let footprint = published(Family::Flux);
        let params = TrainingParams {
            trigger_word: None,
            steps: 1,
            rank: 16,
            alpha: 16.0,
            learning_rate: 1e-4,
            batch_size: 1,
            resolution: 256,
            seed: 1,
        };
        let demand = TrainingDemand { footprint: &footprint, params: &params, examples: 10 };
        let plan = |gigabytes: u64| Budget::on_cpu(gigabytes << 30).plan_training(&demand).unwrap();
        let (TrainingPlan { options, recompute }, needs) = plan(14).unwrap();
        assert!(recompute && options.weights == WeightStorage::Int4, "{options:?}, {needs:?}");
        assert_eq!(plan(96).unwrap().0.options.weights, WeightStorage::Full);
    }

    #[test]
    fn a_refused_training_is_told_what_would_fit() {
        let refusal = |bytes, batch_size, resolution, rank| match plan_training(bytes, batch_size, resolution, rank) {
            Err(TooLarge { needed, reason }) => {
                assert!(needed > 0);
                reason
            }
            other => panic!("{other:?}"),
        };
        let value = |sentence: &str, before: &str| -> u32 {
            let rest = sentence.split(before).nth(1).unwrap_or_else(|| panic!("{sentence}"));
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        };
        let bytes = 20 << 30;
        let sentence = refusal(bytes, 64, 2048, 16);
        let begins = "a training at 2048×2048 with batches of 64 and rank 16 takes about";
        assert!(sentence.starts_with(begins), "{sentence}");
        let side = value(&sentence, "a resolution of ");
        assert!(plan_training(bytes, 64, side, 16).is_ok() && plan_training(bytes, 64, side + 128, 16).is_err());
        let sentence = refusal(bytes, 64, 1024, 16);
        let batch = value(&sentence, "a batch size of ");
        assert!(plan_training(bytes, batch, 1024, 16).is_ok() && plan_training(bytes, batch + 1, 1024, 16).is_err());
        let sentence = refusal(1 << 20, 1, 64, 4);
        assert!(sentence.ends_with("may use 1.0 MiB (--vram-budget): nothing smaller would fit either"), "{sentence}");
    }
}
