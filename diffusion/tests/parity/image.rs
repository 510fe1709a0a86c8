//! Pictures and masks of any size, resized as diffusers does with Pillow.
//!
//! Equal bit for bit, except for the rounding of a level to −1..1.

use diffusion::image;

use crate::golden::{Golden, device, largest_difference, values};
use crate::pipeline::{mask, picture};

#[test]
fn stretched_pictures_and_masks() {
    let golden = Golden::open("stretched");
    for (width, height) in [(64, 48), (16, 16), (64, 16)] {
        let pixels = values(image::to_tensor(&image::stretch(&picture(&golden), width, height), &device()));
        let difference = largest_difference(&pixels, golden.values(&format!("{width}x{height}.picture")));
        assert!(difference < 1e-6, "{width}×{height}: {:.2} levels", difference * 127.5);

        let cut = values(image::to_mask(&image::stretch(&mask(&golden), width, height), &device()));
        assert_eq!(cut, golden.values(&format!("{width}x{height}.mask")), "{width}×{height}");
    }
}
