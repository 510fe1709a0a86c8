//! Converts between pictures and tensors. Reading limits sizes, since pictures come from untrusted sources.

mod stretch;

use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, Limits, Rgb, RgbImage, RgbaImage, imageops};
use burn::prelude::*;

use crate::{Error, Result};

pub use stretch::stretch;

/// Longest side of a picture in pixels.
pub const LONGEST_SIDE: u32 = 16_384;
/// Memory limit of decoding in bytes.
const MEMORY: u64 = 512 << 20;

/// Reads a PNG, JPEG or WebP file, regardless of its extension, and applies the EXIF orientation. Transparent areas
/// become white.
pub fn read(path: &Path) -> Result<RgbImage> {
    let mut reader =
        ImageReader::open(path).and_then(|reader| reader.with_guessed_format()).map_err(Error::file(path))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    let unreadable = |error| Error::malformed(path, format!("not a readable picture: {error}"));
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    if decoder.total_bytes() > MEMORY {
        return Err(Error::malformed(path, format!("{} bytes of pixels are too many", decoder.total_bytes())));
    }
    // Unreadable EXIF data are no reason to reject a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    picture.apply_orientation(orientation);
    Ok(if picture.color().has_alpha() { on_white(&picture.to_rgba8()) } else { picture.to_rgb8() })
}

/// Reads a mask like [`read`]; transparent areas count as white.
pub fn read_mask(path: &Path) -> Result<GrayImage> {
    Ok(imageops::grayscale(&read(path)?))
}

fn on_white(picture: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0;
        let over =
            |value: u8| ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8;
        Rgb([over(red), over(green), over(blue)])
    })
}

/// Crops the longer side evenly at both ends and scales the rest to `width` × `height`.
pub fn cover(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    let scale = (f64::from(picture.width()) / f64::from(width)).min(f64::from(picture.height()) / f64::from(height));
    let kept = |side: u32, most: u32| ((f64::from(side) * scale).round() as u32).clamp(1, most);
    let (wide, high) = (kept(width, picture.width()), kept(height, picture.height()));
    let (left, top) = ((picture.width() - wide) / 2, (picture.height() - high) / 2);
    let cut = imageops::crop_imm(picture, left, top, wide, high).to_image();
    stretch(&cut, width, height)
}

/// Bytes 0..255 → values in −1..1, `[1, 3, height, width]`.
pub fn to_tensor(picture: &RgbImage, device: &Device) -> Tensor<4> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let bytes = picture.as_raw();
    let values: Vec<f32> = (0..3)
        .flat_map(|channel| bytes.iter().skip(channel).step_by(3))
        .map(|byte| f32::from(*byte) / 127.5 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(values, [1, 3, height, width]), device)
}

/// Bytes 0..255 → 0 below 128 and 1 otherwise, `[1, 1, height, width]`.
pub fn to_mask(picture: &GrayImage, device: &Device) -> Tensor<4> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture.as_raw().iter().map(|byte| if *byte < 128 { 0.0 } else { 1.0 }).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, height, width]), device)
}

/// Values in −1..1, `[1, 3, height, width]` → bytes 0..255, rounded like diffusers.
pub fn from_tensor(pixels: Tensor<4>) -> Result<RgbImage> {
    let [_, _, height, width] = pixels.dims();
    let rows = pixels.narrow(0, 0, 1).permute([0, 2, 3, 1]);
    let values = rows.into_data().convert::<f32>().try_to_vec::<f32>();
    let values = values.map_err(|error| Error::Invalid(format!("the decoded picture is unreadable: {error:?}")))?;
    // Before clamping, which on some devices turns NaN into a number and so into a black picture.
    if values.iter().any(|value| !value.is_finite()) {
        return Err(Error::Invalid("the model made a picture of values that are not numbers".into()));
    }
    let byte = |value: f32| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let bytes = values.into_iter().map(byte).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes)
        .ok_or_else(|| Error::Invalid("the decoded picture does not have three channels".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> RgbImage {
        RgbImage::from_fn(6, 4, |x, y| Rgb([x as u8 * 40, y as u8 * 60, 255 - x as u8]))
    }

    #[test]
    fn bytes_survive_the_way_there_and_back() {
        assert_eq!(from_tensor(to_tensor(&gradient(), &Device::flex())).unwrap(), gradient());
    }

    #[test]
    fn values_outside_are_clamped_and_nan_is_refused() {
        let device = Device::flex();
        let bright = Tensor::<4>::full([1, 3, 1, 1], 7.0, &device);
        assert_eq!(from_tensor(bright).unwrap().get_pixel(0, 0).0, [255; 3]);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let broken = Tensor::<4>::full([1, 3, 1, 1], broken, &device);
            assert!(from_tensor(broken).unwrap_err().to_string().contains("not numbers"));
        }
    }

    #[test]
    fn covering_fills_both_sides() {
        assert_eq!(cover(&gradient(), 6, 4), gradient());
        assert_eq!(cover(&gradient(), 8, 8).dimensions(), (8, 8));
        // The middle of the longer side is kept.
        let stripes = RgbImage::from_fn(9, 3, |x, _| Rgb([if (3..6).contains(&x) { 200 } else { 0 }; 3]));
        assert_eq!(cover(&stripes, 3, 3).get_pixel(0, 1).0, [200; 3]);
        let line = RgbImage::from_pixel(1, 5000, Rgb([9; 3]));
        assert_eq!(cover(&line, 64, 32).dimensions(), (64, 32));
    }

    #[test]
    fn stretching_keeps_what_is_even() {
        let even = RgbImage::from_pixel(1, 1, Rgb([7, 8, 9]));
        assert_eq!(stretch(&even, 16, 24), RgbImage::from_pixel(16, 24, Rgb([7, 8, 9])));
        assert_eq!(stretch(&gradient(), 6, 4), gradient());
        assert_eq!(stretch(&RgbImage::new(0, 3), 2, 2).dimensions(), (2, 2));
    }

    #[test]
    fn transparency_becomes_white() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clear.png");
        RgbaImage::from_pixel(2, 2, ::image::Rgba([10, 20, 30, 0])).save(&path).unwrap();
        assert_eq!(read(&path).unwrap().get_pixel(1, 1).0, [255; 3]);
        std::fs::write(&path, b"no picture").unwrap();
        assert!(read(&path).is_err());
    }
}
