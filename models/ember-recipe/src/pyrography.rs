//! The style of the bundled LoRA dataset: burnt brown lines on light wood, rendered from the same art as ember's
//! pictures.

use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage, RgbaImage};

use crate::dataset::{Attributes, Concept, SIDE, render_on};

/// Light wood and its darker grain.
const WOOD: [f32; 3] = [226.0, 190.0, 140.0];
const BURNT: [f32; 3] = [72.0, 38.0, 16.0];

/// Burns a concept into wood: edges become dark lines, and dark areas are shaded.
pub(crate) fn burn(art: &RgbaImage, attributes: Attributes) -> RgbImage {
    let on_white = render_on(art, attributes, [255; 3], (0, 0));
    let on_black = render_on(art, attributes, [0; 3], (0, 0));
    let light: Vec<f32> = on_white.pixels().map(|pixel| luminance(pixel) / 255.0).collect();
    // The difference of renderings on white and black gives the transparency.
    let cover: Vec<f32> =
        on_white.pixels().zip(on_black.pixels()).map(|(w, b)| 1.0 - (luminance(w) - luminance(b)) / 255.0).collect();
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let line = (1.3 * edge(&light, x, y) + 0.9 * edge(&cover, x, y)).min(1.0);
        let here = (y * SIDE + x) as usize;
        let tone = 0.45 * (1.0 - light[here]) * cover[here];
        let burnt = (line + tone).min(1.0);
        let wood = grain(x as f32, y as f32);
        Rgb([0, 1, 2].map(|c| ((WOOD[c] + wood) * (1.0 - burnt) + BURNT[c] * burnt).round().clamp(0.0, 255.0) as u8))
    })
}

fn luminance(pixel: &Rgb<u8>) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

/// Magnitude of the Sobel gradient; border pixels are repeated.
fn edge(values: &[f32], x: u32, y: u32) -> f32 {
    let at = |dx: i32, dy: i32| {
        let clamp = |v: u32, d: i32| (v as i32 + d).clamp(0, SIDE as i32 - 1) as u32;
        values[(clamp(y, dy) * SIDE + clamp(x, dx)) as usize]
    };
    let across = at(1, -1) + 2.0 * at(1, 0) + at(1, 1) - at(-1, -1) - 2.0 * at(-1, 0) - at(-1, 1);
    let down = at(-1, 1) + 2.0 * at(0, 1) + at(1, 1) - at(-1, -1) - 2.0 * at(0, -1) - at(1, -1);
    across.hypot(down) / 2.0
}

/// Low-frequency waves along the board.
fn grain(x: f32, y: f32) -> f32 {
    7.0 * ((y * 0.55 + 2.0 * (x * 0.06).sin()).sin())
}

/// The concepts of the bundled dataset.
pub(crate) const CONCEPTS: [&str; 12] = [
    "fox face",
    "owl",
    "butterfly",
    "sunflower",
    "red mushroom",
    "apple",
    "guitar",
    "teapot",
    "sailboat",
    "castle",
    "bicycle",
    "lion face",
];

/// The caption of a picture in the style.
pub(crate) fn caption(name: &str) -> String {
    format!("{name} in pyrography style")
}

/// Writes the bundled dataset: pairs of a picture and its caption.
pub(crate) fn write(concepts: &[Concept], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for name in CONCEPTS {
        let concept =
            concepts.iter().find(|concept| concept.name == name).with_context(|| format!("no concept {name:?}"))?;
        let stem = folder.join(name.replace(' ', "-"));
        burn(&concept.art, Attributes::default()).save(stem.with_extension("png"))?;
        std::fs::write(stem.with_extension("txt"), format!("{}\n", caption(name)))?;
    }
    Ok(())
}
