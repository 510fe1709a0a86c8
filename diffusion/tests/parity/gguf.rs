//! GGUF against the `gguf` package: the same bytes mean the same numbers, bit by bit, since both multiply and add the same
//! floats in the same order.

use diffusion::checkpoint::Checkpoint;

use crate::golden::{self, Golden};

#[test]
fn every_block_format_means_the_same_numbers() {
    let file = Checkpoint::open(&golden::path("gguf/blocks.gguf")).unwrap();
    let wanted = Golden::open("gguf/blocks");
    let kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
    assert_eq!(file.names().count(), kinds.len());
    for kind in kinds {
        let values = wanted.values(kind);
        assert_eq!(file.shape(kind).unwrap(), if kind == "F32" { [3, 5] } else { [4, 512] }, "{kind}");
        let found = file.read_f32(kind).unwrap();
        let different = found.iter().zip(values).position(|(found, wanted)| found.to_bits() != wanted.to_bits());
        assert_eq!((found.len(), different), (values.len(), None), "{kind}");
    }
    assert_eq!(file.metadata()["general.architecture"], "flux");
    assert_eq!(file.metadata()["text"], "kept");
}
