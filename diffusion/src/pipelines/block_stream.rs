//! Blocks of a FLUX.1 transformer that are not loaded with it: each is read from the checkpoint for each call, one
//! ahead of the computation, and dropped after it. At most two are in memory at a time.

use std::sync::mpsc;
use std::thread;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use memory::WeightStorage;

use crate::checkpoint::{Checkpoint, load_strict};
use crate::layers::NamedLayers;
use crate::networks::flux::{Config, Embedded, FluxInput, FluxTransformer, Rotary};
use crate::{Error, Result};

/// The checkpoints of the blocks that are not loaded with the transformer.
#[derive(Debug)]
pub(super) struct BlockStream {
    /// Path and weights of each block, in order, from the first that is not resident.
    blocks: Vec<(String, Checkpoint)>,
    dtype: DType,
    device: Device,
    /// Number of blocks that are loaded with the transformer: the first ones.
    resident: usize,
}

impl BlockStream {
    /// All but the first `resident` blocks of a network with this config.
    pub(super) fn new(
        config: &Config,
        checkpoint: &Checkpoint,
        (device, dtype): (&Device, DType),
        resident: usize,
    ) -> Self {
        let checkpoint = checkpoint.clone().followed_by(&checkpoint.reading().repeated());
        let paths = config.block_paths().into_iter().skip(resident);
        let blocks = paths.map(|path| (path.clone(), checkpoint.below(&format!("{path}.")))).collect();
        Self { blocks, dtype, device: device.clone(), resident }
    }

    /// Bytes that the blocks take in their files.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.iter().map(|(_, checkpoint)| checkpoint.bytes()).sum()
    }

    /// The paths of the blocks, each with a dot at the end.
    pub(super) fn paths(&self) -> Vec<String> {
        self.blocks.iter().map(|(path, _)| format!("{path}.")).collect()
    }

    /// [`FluxTransformer::forward`] with the blocks that are loaded and those that are not.
    ///
    /// # Errors
    /// A block that cannot be read. [`Error::Canceled`].
    pub(super) fn forward(
        &self,
        transformer: &FluxTransformer,
        input: FluxInput,
        rotary: &Rotary,
    ) -> Result<Tensor<3>> {
        let Embedded { mut image, mut context, condition } = transformer.embed(input);
        let [_, text, _] = context.dims();
        let (doubles, singles) = (transformer.double_blocks(), transformer.single_blocks());
        thread::scope(|scope| {
            // The thread reads the next block while this one computes, and then waits until the block is taken.
            let (send_double, next_double) = mpsc::sync_channel(0);
            let (send_single, next_single) = mpsc::sync_channel(0);
            scope.spawn(move || {
                for (number, (_, checkpoint)) in self.blocks.iter().enumerate() {
                    let number = self.resident + number;
                    let sent = match number.checked_sub(doubles.len()) {
                        None => {
                            send_double.send(self.load(&doubles[number], checkpoint, |block| block.layers())).is_ok()
                        }
                        Some(at) => {
                            send_single.send(self.load(&singles[at], checkpoint, |block| block.layers())).is_ok()
                        }
                    };
                    if !sent {
                        break;
                    }
                }
            });
            for (number, block) in doubles.iter().enumerate() {
                let read = self.taken(number, &next_double)?;
                (image, context) = read.as_ref().unwrap_or(block).forward(image, context, condition.clone(), rotary);
            }
            // [batch, text + tokens, width]
            let mut joint = Tensor::cat(vec![context, image], 1);
            for (number, block) in singles.iter().enumerate() {
                let read = self.taken(doubles.len() + number, &next_single)?;
                joint = read.as_ref().unwrap_or(block).forward(joint, condition.clone(), rotary);
            }
            Ok(transformer.project(joint, text, condition))
        })
    }

    /// The next block that was read; `None` for one that is loaded with the transformer.
    fn taken<B>(&self, number: usize, next: &mpsc::Receiver<Result<B>>) -> Result<Option<B>> {
        if number < self.resident {
            return Ok(None);
        }
        let lost = |_| Error::Invalid("the thread that reads blocks has ended".into());
        next.recv().map_err(lost)?.map(Some)
    }

    /// Reads a block in 16 bits, with the adapters that are attached to its outline in the transformer.
    fn load<B: Module>(
        &self,
        outline: &B,
        checkpoint: &Checkpoint,
        layers: impl for<'a> Fn(&'a mut B) -> NamedLayers<'a>,
    ) -> Result<B> {
        let mut block = outline.clone();
        let adapters = layers(&mut block).take_adapters();
        for (_, linear) in layers(&mut block).linears {
            linear.store(WeightStorage::Half, &self.device);
        }
        let mut block = load_strict(block, checkpoint, self.dtype)?;
        layers(&mut block).set_adapters(adapters);
        Ok(block)
    }
}
