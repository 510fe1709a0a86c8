//! The pictures that ember learns, and their captions. A picture is a concept (an emoji with a name) with independent
//! attributes. The caption mentions all of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{Rgb, RgbImage, RgbaImage, imageops};

/// Width and height of a picture in pixels.
pub(crate) const SIDE: u32 = 64;

/// Background colours by name. A caption omits white.
pub(crate) const BACKGROUNDS: [(&str, [u8; 3]); 7] = [
    ("white", [255, 255, 255]),
    ("red", [222, 70, 70]),
    ("orange", [246, 150, 50]),
    ("yellow", [250, 216, 84]),
    ("green", [92, 180, 96]),
    ("blue", [84, 144, 232]),
    ("purple", [150, 92, 200]),
];

/// One thing that ember can draw.
pub(crate) struct Concept {
    pub name: String,
    pub art: RgbaImage,
}

/// The attributes of a picture besides its concept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    /// Index into [`BACKGROUNDS`].
    pub background: usize,
    pub small: bool,
    pub mirrored: bool,
    pub two: bool,
}

impl Attributes {
    /// All combinations, the plain one first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..BACKGROUNDS.len() * 8).map(|code| Self {
            background: code / 8,
            small: code & 1 != 0,
            mirrored: code & 2 != 0,
            two: code & 4 != 0,
        })
    }

    /// Number of attributes that a caption mentions.
    pub(crate) fn mentioned(self) -> usize {
        usize::from(self.background != 0) + usize::from(self.small) + usize::from(self.mirrored) + usize::from(self.two)
    }

    /// Size and positions (left, top) of the concept in the picture.
    fn places(self) -> (u32, Vec<(i64, i64)>) {
        let side = match (self.two, self.small) {
            (false, false) => 56,
            (false, true) => 32,
            (true, false) => 30,
            (true, true) => 20,
        };
        let top = i64::from((SIDE - side) / 2);
        let lefts = if self.two {
            let gap = (i64::from(SIDE) - 2 * i64::from(side)) / 3;
            vec![gap, i64::from(SIDE) - gap - i64::from(side)]
        } else {
            vec![top]
        };
        (side, lefts.into_iter().map(|left| (left, top)).collect())
    }
}

/// Reads `concepts.tsv` (file stem, tab, name) and the 64×64 px art it names.
pub(crate) fn load(list: &Path, art: &Path) -> Result<Vec<Concept>> {
    let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
    let concepts = text.lines().map(|line| {
        let (file, name) = line.split_once('\t').with_context(|| format!("no tab in {line:?}"))?;
        let path = art.join(file).with_extension("png");
        let art = image::open(&path).with_context(|| path.display().to_string())?.to_rgba8();
        ensure!(art.dimensions() == (64, 64), "{} is not 64×64 px", path.display());
        Ok(Concept { name: name.to_string(), art })
    });
    concepts.collect()
}

/// The names of a list of concepts.
pub(crate) fn names(list: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
    text.lines()
        .map(|line| Ok(line.split_once('\t').with_context(|| format!("no tab in {line:?}"))?.1.to_string()))
        .collect()
}

/// "two small mirrored dogs on a blue background"
pub(crate) fn caption(name: &str, attributes: Attributes) -> String {
    let mut words = Vec::new();
    if attributes.two {
        words.push("two".to_string());
    }
    if attributes.small {
        words.push("small".to_string());
    }
    if attributes.mirrored {
        words.push("mirrored".to_string());
    }
    words.push(if attributes.two { plural(name) } else { name.to_string() });
    if attributes.background != 0 {
        let colour = BACKGROUNDS[attributes.background].0;
        words.push(format!("on {} {colour} background", if colour.starts_with('o') { "an" } else { "a" }));
    }
    words.join(" ")
}

/// English plural of the last word; a name that already ends in a plural s stays.
pub(crate) fn plural(name: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&["ss", "us", "x", "ch", "sh"]) {
        format!("{name}es")
    } else if ends(&["s"]) {
        name.to_string()
    } else if ends(&["y"]) && !ends(&["ay", "ey", "oy", "uy"]) {
        format!("{}ies", &name[..name.len() - 1])
    } else {
        format!("{name}s")
    }
}

/// Whether a combination is held out from training: one in eight of those with two or more attributes, selected by the
/// FNV-1a hash of the caption.
pub(crate) fn held_out(name: &str, attributes: Attributes) -> bool {
    let hash = caption(name, attributes)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    attributes.mentioned() >= 2 && (hash >> 32) % 8 == 0
}

/// Renders the picture of a caption.
pub(crate) fn render(art: &RgbaImage, attributes: Attributes) -> RgbImage {
    render_on(art, attributes, BACKGROUNDS[attributes.background].1, (0, 0))
}

/// The same on any colour, shifted by some pixels.
pub(crate) fn render_on(art: &RgbaImage, attributes: Attributes, background: [u8; 3], shift: (i64, i64)) -> RgbImage {
    let (side, places) = attributes.places();
    let mut thing = resize(art, side);
    if attributes.mirrored {
        imageops::flip_horizontal_in_place(&mut thing);
    }
    let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb(background));
    for (left, top) in places {
        paste(&mut picture, &thing, left + shift.0, top + shift.1);
    }
    picture
}

/// Scales with colours weighted by opacity, so that invisible pixels do not bleed into edges.
fn resize(art: &RgbaImage, side: u32) -> RgbaImage {
    let mut weighted = image::Rgba32FImage::new(art.width(), art.height());
    for (from, to) in art.pixels().zip(weighted.pixels_mut()) {
        let alpha = f32::from(from[3]) / 255.0;
        to.0 = [0, 1, 2]
            .map(|c| f32::from(from[c]) / 255.0 * alpha)
            .into_iter()
            .chain([alpha])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or([0.0; 4]);
    }
    let scaled = imageops::resize(&weighted, side, side, imageops::FilterType::CatmullRom);
    let mut out = RgbaImage::new(side, side);
    for (from, to) in scaled.pixels().zip(out.pixels_mut()) {
        let alpha = from[3].clamp(0.0, 1.0);
        for c in 0..3 {
            to[c] = (from[c] / alpha.max(1e-6) * 255.0).round().clamp(0.0, 255.0) as u8;
        }
        to[3] = (alpha * 255.0).round() as u8;
    }
    out
}

fn paste(picture: &mut RgbImage, thing: &RgbaImage, left: i64, top: i64) {
    for (x, y, pixel) in thing.enumerate_pixels() {
        let (x, y) = (left + i64::from(x), top + i64::from(y));
        if (0..i64::from(SIDE)).contains(&x) && (0..i64::from(SIDE)).contains(&y) {
            let alpha = f32::from(pixel[3]) / 255.0;
            let under = picture.get_pixel_mut(x as u32, y as u32);
            for c in 0..3 {
                under[c] = (f32::from(pixel[c]) * alpha + f32::from(under[c]) * (1.0 - alpha)).round() as u8;
            }
        }
    }
}
