//! One labelled picture that shows what a LoRA does: what it was trained on, and each prompt without and with it.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// Everything on the sheet.
pub(crate) struct ContactSheet<'a> {
    pub title: &'a str,
    /// Small, below the title.
    pub subtitle: &'a str,
    /// The pictures the LoRA learned from.
    pub training: &'a [RgbImage],
    /// Names of the two halves of each pair.
    pub halves: [&'a str; 2],
    pub pairs: &'a [Pair],
}

/// One prompt, the same seed, without and with the LoRA.
pub(crate) struct Pair {
    pub prompt: String,
    pub pictures: [RgbImage; 2],
}

const PAPER: Rgb<u8> = Rgb([250, 249, 246]);
const INK: Rgb<u8> = Rgb([34, 34, 38]);
const FAINT: Rgb<u8> = Rgb([118, 116, 112]);

/// Sides in pixels.
const MARGIN: u32 = 28;
const THUMB: u32 = 72;
const PICTURE: u32 = 160;
const GAP: u32 = 6;
const PAIR_GAP: u32 = 26;
const PAIRS_PER_ROW: u32 = 4;
const LINE: u32 = 20;

impl ContactSheet<'_> {
    /// Draws the sheet. Its height depends on the contents.
    ///
    /// # Errors
    /// Only when the font that the program carries cannot be read.
    pub(crate) fn draw(&self) -> anyhow::Result<RgbImage> {
        let font = FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT)?;
        let pair_width = 2 * PICTURE + GAP;
        let width = 2 * MARGIN + PAIRS_PER_ROW * pair_width + (PAIRS_PER_ROW - 1) * PAIR_GAP;
        let inner = width - 2 * MARGIN;

        let captions: Vec<Vec<String>> =
            self.pairs.iter().map(|pair| wrap(&font, &pair.prompt, 15.0, pair_width)).collect();
        let caption_lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let pair_height = LINE + PICTURE + 4 + caption_lines * LINE;
        let rows = (self.pairs.len() as u32).div_ceil(PAIRS_PER_ROW);
        let thumbs_per_row = (inner + GAP) / (THUMB + GAP);
        let thumb_rows = (self.training.len() as u32).div_ceil(thumbs_per_row);
        let strip_height = if thumb_rows == 0 { 0 } else { LINE + thumb_rows * (THUMB + GAP) + PAIR_GAP };
        let height =
            MARGIN + 34 + LINE + 14 + strip_height + rows * (pair_height + PAIR_GAP) + MARGIN - PAIR_GAP.min(MARGIN);

        let mut sheet = RgbImage::from_pixel(width, height, PAPER);
        let mut y = MARGIN;
        write(&mut sheet, &font, self.title, (MARGIN, y), 28.0, INK);
        y += 34;
        write(&mut sheet, &font, self.subtitle, (MARGIN, y), 16.0, FAINT);
        y += LINE + 14;

        if thumb_rows > 0 {
            write(
                &mut sheet,
                &font,
                &format!("trained on these {} pictures", self.training.len()),
                (MARGIN, y),
                15.0,
                FAINT,
            );
            y += LINE;
            for (index, picture) in self.training.iter().enumerate() {
                let (row, column) = (index as u32 / thumbs_per_row, index as u32 % thumbs_per_row);
                paste(&mut sheet, picture, (MARGIN + column * (THUMB + GAP), y + row * (THUMB + GAP)), THUMB);
            }
            y += thumb_rows * (THUMB + GAP) + PAIR_GAP;
        }

        for (index, (pair, caption)) in self.pairs.iter().zip(&captions).enumerate() {
            let (row, column) = (index as u32 / PAIRS_PER_ROW, index as u32 % PAIRS_PER_ROW);
            let (left, top) = (MARGIN + column * (pair_width + PAIR_GAP), y + row * (pair_height + PAIR_GAP));
            for (half, picture) in pair.pictures.iter().enumerate() {
                let left = left + half as u32 * (PICTURE + GAP);
                write(&mut sheet, &font, self.halves[half], (left, top), 14.0, FAINT);
                paste(&mut sheet, picture, (left, top + LINE), PICTURE);
            }
            for (line, text) in caption.iter().enumerate() {
                write(&mut sheet, &font, text, (left, top + LINE + PICTURE + 4 + line as u32 * LINE), 15.0, INK);
            }
        }
        Ok(sheet)
    }
}

/// Puts a picture into a square of `side` pixels, whole and in the middle.
fn paste(sheet: &mut RgbImage, picture: &RgbImage, (left, top): (u32, u32), side: u32) {
    let scale = f64::from(side) / f64::from(picture.width().max(picture.height()).max(1));
    let fit = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, side);
    let (width, height) = (fit(picture.width()), fit(picture.height()));
    let picture = imageops::resize(picture, width, height, FilterType::CatmullRom);
    imageops::replace(sheet, &picture, i64::from(left + (side - width) / 2), i64::from(top + (side - height) / 2));
}

/// Writes one line with its top left corner at a point.
fn write(sheet: &mut RgbImage, font: &FontRef<'_>, text: &str, (left, top): (u32, u32), size: f32, color: Rgb<u8>) {
    let font = font.as_scaled(PxScale::from(size));
    let mut x = left as f32;
    let baseline = top as f32 + font.ascent();
    for letter in text.chars() {
        let glyph = font.scaled_glyph(letter);
        let advance = font.h_advance(glyph.id);
        let mut placed = glyph;
        placed.position = point(x, baseline);
        if let Some(outline) = font.outline_glyph(placed) {
            let bounds = outline.px_bounds();
            outline.draw(|column, row, coverage| {
                let (x, y) = (bounds.min.x as i64 + i64::from(column), bounds.min.y as i64 + i64::from(row));
                if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
                    && let Some(pixel) = sheet.get_pixel_mut_checked(x, y)
                {
                    for (under, ink) in pixel.0.iter_mut().zip(color.0) {
                        *under = (f32::from(*under) * (1.0 - coverage) + f32::from(ink) * coverage).round() as u8;
                    }
                }
            });
        }
        x += advance;
    }
}

/// Cuts a text into lines no wider than `width` pixels; a word longer than a line gets its own line.
fn wrap(font: &FontRef<'_>, text: &str, size: f32, width: u32) -> Vec<String> {
    let font = font.as_scaled(PxScale::from(size));
    let measure = |text: &str| text.chars().map(|letter| font.h_advance(font.glyph_id(letter))).sum::<f32>();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if measure(line) + measure(" ") + measure(word) <= width as f32 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: Rgb<u8> = Rgb([200, 30, 30]);
    const BLUE: Rgb<u8> = Rgb([30, 30, 200]);

    fn sheet(prompts: &[&str]) -> RgbImage {
        let pair = |prompt: &&str| Pair {
            prompt: (*prompt).to_owned(),
            pictures: [RgbImage::from_pixel(64, 64, RED), RgbImage::from_pixel(64, 32, BLUE)],
        };
        let pairs: Vec<_> = prompts.iter().map(pair).collect();
        let training = [RgbImage::from_pixel(64, 64, BLUE)];
        ContactSheet {
            title: "title",
            subtitle: "subtitle",
            training: &training,
            halves: ["without", "with"],
            pairs: &pairs,
        }
        .draw()
        .unwrap()
    }

    fn count(sheet: &RgbImage, color: Rgb<u8>) -> u32 {
        sheet.pixels().filter(|pixel| **pixel == color).count() as u32
    }

    #[test]
    fn each_picture_is_there_once_at_its_size() {
        let sheet = sheet(&["a fox", "two owls"]);
        assert_eq!(count(&sheet, RED), 2 * PICTURE * PICTURE);
        // A wide picture keeps its shape: half the height.
        assert_eq!(count(&sheet, BLUE), 2 * PICTURE * PICTURE / 2 + THUMB * THUMB);
    }

    #[test]
    fn a_fifth_pair_begins_a_new_row() {
        assert!(sheet(&["a", "b", "c", "d", "e"]).height() > sheet(&["a", "b", "c", "d"]).height() + PICTURE);
    }

    #[test]
    fn words_are_drawn() {
        // The font is thin: few pixels have all of the ink.
        let dark = |sheet: RgbImage| sheet.pixels().filter(|pixel| pixel.0.iter().all(|value| *value < 110)).count();
        let [with, without] = [sheet(&["a fox"]), sheet(&[""])].map(dark);
        assert!(with > without, "{with} dark pixels with a caption, {without} without");
    }

    #[test]
    fn lines_are_no_wider_than_their_column() {
        let font = FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT).unwrap();
        let lines = wrap(&font, "a big red fox on a yellow background, mirrored, beside two small owls", 15.0, 200);
        assert!(lines.len() > 1);
        assert_eq!(lines.join(" "), "a big red fox on a yellow background, mirrored, beside two small owls");
    }
}
