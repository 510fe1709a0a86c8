//! Pictures from single files, which contain no tokenizer. `single_file` tests the placement of each tensor and
//! `stable_diffusion` the pipelines; this file combines the two with the vocabulary that these models share.

use std::ops::ControlFlow;

use diffusion::tokenizers::clip::ClipTokenizer;
use diffusion::tokenizers::t5::T5Tokenizer;
use diffusion::{PictureRequest, Pipeline};
use image::{GrayImage, Luma, Rgb, RgbImage};
use tempfile::TempDir;

use crate::golden::device;
use crate::single_file::{filled, list};

/// Ids of `transformers.CLIPTokenizer` with OpenAI's merges.
#[test]
fn the_shared_vocabulary_is_that_of_clip() {
    let tokenizer = ClipTokenizer::published("!").unwrap();
    assert_eq!((tokenizer.vocabulary(), tokenizer.length()), (49_408, 77));
    for (text, words) in [
        (
            "a photo of an astronaut riding a horse on mars",
            &[320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496][..],
        ),
        ("masterpiece, ultra-detailed, 8k", &[12066, 267, 8118, 268, 12609, 267, 279, 330]),
        (
            "狐 🦊 l'été — naïve   spaces",
            &[163, 233, 494, 6040, 488, 331, 262, 3459, 39694, 2005, 1097, 35689, 563, 9006],
        ),
    ] {
        assert_eq!(tokenizer.words(text).unwrap(), words, "{text}");
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!((ids[0], ids[words.len() + 1], ids[76]), (49_406, 49_407, 0), "{text}");
    }
}

/// Ids of `transformers.T5TokenizerFast` 5.23 with the same vocabulary.
#[test]
fn the_shared_vocabulary_is_that_of_t5() {
    let tokenizer = T5Tokenizer::published(64).unwrap();
    assert_eq!((tokenizer.vocabulary(), tokenizer.length()), (32_100, 64));
    for (text, words) in [
        (
            "A photo of an astronaut riding a horse on mars",
            &[71, 1202, 13, 46, 30059, 7494, 3, 9, 4952, 30, 8113, 1][..],
        ),
        ("masterpiece, ultra-detailed, 8k", &[20975, 6, 6173, 18, 221, 17, 10990, 6, 505, 157, 1]),
        ("狐 🦊 l'été — naïve   spaces", &[3, 2, 3, 2, 3, 40, 31, 8436, 3, 318, 3, 29, 9, 2, 162, 4856, 1]),
        ("  leading and trailing  ", &[1374, 11, 5032, 53, 1]),
        ("", &[1]),
        ("<extra_id_0> ½ ﬁne\nnew\tline", &[32099, 209, 2, 357, 1399, 126, 689, 1]),
        ("(word:1.3) [b]", &[41, 6051, 10, 13606, 61, 784, 115, 908, 1]),
        ("ÜBER straße Ｆｕｌｌ", &[3, 14858, 12920, 3, 11271, 4043, 1]),
    ] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!((&ids[..words.len()], ids.len()), (words, 64), "{text}");
        assert!(ids[words.len()..].iter().all(|id| *id == 0), "{text}");
    }
    let cut = T5Tokenizer::published(4).unwrap();
    assert_eq!(cut.encode("A photo of an astronaut").unwrap(), [71, 1202, 13, 1]);
}

#[test]
fn whole_models_in_one_file() {
    let photo = RgbImage::from_fn(40, 32, |x, y| Rgb([x as u8 * 6, y as u8 * 7, 90]));
    let mask = GrayImage::from_fn(40, 32, |x, _| Luma([if x < 20 { 0 } else { 255 }]));
    for name in ["tiny_sd1", "tiny_sd2", "tiny_sdxl"] {
        let folder = TempDir::new().unwrap();
        let mut keys = list(&format!("{name}.single"));
        for (key, (shape, _)) in &mut keys {
            if key.ends_with("token_embedding.weight") {
                shape[0] = 49_408;
            }
            // The pooled prompt and six sizes of 256, which cannot be derived from the tensors.
            if key.ends_with("label_emb.0.0.weight") {
                shape[1] = 12 + 6 * 256;
            }
        }
        let path = filled(&folder, "model.safetensors", &keys);
        let pipeline = Pipeline::load(&path, &device()).unwrap();
        // The file may also be alone in a folder, as in a worker.
        let again = Pipeline::load(folder.path(), &device()).unwrap();
        assert_eq!(pipeline.solver(), again.solver());
        let side = 8 * pipeline.size_multiple();
        let make = |pipeline: &Pipeline, prompt: &str| {
            let request = PictureRequest {
                // `tiny_sd1` is an inpainting model.
                image: (name == "tiny_sd1").then(|| photo.clone()),
                mask: (name == "tiny_sd1").then(|| mask.clone()),
                num_inference_steps: 2,
                width: side,
                height: side,
                strength: 1.0,
                ..pipeline.request(prompt, 7)
            };
            pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
        };
        let fox = make(&pipeline, "a fox");
        assert_eq!(fox, make(&again, "a fox"), "{name}");
        assert_ne!(fox, make(&pipeline, "an owl"), "{name}: the prompt is read");
    }
}
