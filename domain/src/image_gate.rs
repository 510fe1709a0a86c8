//! The gate that every picture passes before it is stored. It must be PNG, JPEG, WebP, GIF, BMP or TIFF by content
//! (file name and declared type are ignored), within limits of bytes and pixels that are checked before anything is
//! decoded, and is decoded once in full so that a truncated file is refused. PNG, JPEG and WebP are stored as they
//! came, with the note that turns them upright; browsers and the engine follow it. The others are stored as PNG.
//! Not here: where pictures come from (`dataset`, `upload`, `zip_gate`) or are stored (`storage`).

mod format;
mod jpeg;

use std::io::Cursor;

use bytes::Bytes;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// Largest encoded picture, in bytes.
pub const MAX_BYTES: u64 = 25 * 1024 * 1024;
/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 8192;
/// Most pixels of a picture.
pub const MAX_PIXELS: u64 = 40_000_000;
/// Most memory that one decoder may allocate, in bytes: 40 MP of four 16-bit channels, and its own tables.
const MAX_DECODED_BYTES: u64 = 384 * 1024 * 1024;
/// Most pictures decoded at the same time; this bounds the memory that uploads can use together.
static DECODERS: Semaphore = Semaphore::const_new(2);

/// A picture that passed the gate.
#[derive(Clone, Debug)]
pub struct CheckedImage {
    pub bytes: Bytes,
    pub media_type: &'static str,
    /// File extension of the media type, without the dot.
    pub extension: &'static str,
    /// Width in pixels, of the upright picture.
    pub width: u32,
    pub height: u32,
    /// SHA-256 of `bytes`, lower-case hex.
    pub sha256: String,
}

/// Checks one picture; `field` is the field that an error names.
///
/// Errors: `TooLarge` over a limit, `Unsupported` for another format, `Invalid` for a picture that cannot be decoded.
pub async fn check(field: &str, bytes: Bytes) -> Result<CheckedImage> {
    let field = field.to_owned();
    let _permit = DECODERS.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(move || check_now(&field, bytes)).await.map_err(Error::internal)?
}

/// Why no picture of so many bytes is taken, as a sentence; `None` for one that may be.
pub fn too_large(bytes: u64) -> Option<String> {
    (bytes > MAX_BYTES).then(|| format!("The picture has {bytes} bytes; at most {MAX_BYTES} (25 MiB) are taken."))
}

fn check_now(field: &str, bytes: Bytes) -> Result<CheckedImage> {
    if let Some(why) = too_large(bytes.len() as u64) {
        return Err(Error::too_large(field, why));
    }
    let format = format::of(&bytes).map_err(|why| Error::unsupported(field, why))?;
    let undecodable = |why: String| Error::invalid(field, format!("The picture cannot be decoded: {why}."));

    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(&bytes[..]), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(error.to_string()))?;
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::too_large(
            field,
            format!("The picture has {width}×{height} px; at most {MAX_SIDE} px a side and 40 megapixels are taken."),
        ));
    }
    if decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(Error::too_large(field, "The decoded picture would take too much memory; use 8 bits per channel."));
    }
    // A camera's note that cannot be read is no reason to refuse its picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = upright(width, height, orientation);
    let decode = |decoder| DynamicImage::from_decoder(decoder).map_err(|error| undecodable(error.to_string()));
    let (bytes, (media_type, extension)) = match format::stored(format) {
        Some(stored) if format == ImageFormat::Jpeg => {
            drop(decoder);
            jpeg::check(&bytes).map_err(undecodable)?;
            (bytes, stored)
        }
        Some(stored) => {
            decode(decoder)?;
            (bytes, stored)
        }
        None => {
            let mut picture = decode(decoder)?;
            picture.apply_orientation(orientation);
            let mut png = Cursor::new(Vec::new());
            picture.write_to(&mut png, ImageFormat::Png).map_err(|error| {
                Error::invalid(field, format!("The picture cannot be stored as PNG: {error}; use 8 bits per channel."))
            })?;
            (png.into_inner().into(), ("image/png", "png"))
        }
    };
    let sha256 = hex::encode(Sha256::digest(&bytes));
    Ok(CheckedImage { bytes, media_type, extension, width, height, sha256 })
}

/// Width and height of a picture after it was turned.
fn upright(width: u32, height: u32, orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(width, height).write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// A PNG header that claims 50 000 × 50 000 px, with a correct checksum and no pixels.
    fn giant_png() -> Vec<u8> {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xc3\x50\0\0\xc3\x50\x08\x02\0\0\0".to_vec();
        let crc = png[12..].iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
        });
        png.extend_from_slice(&(!crc).to_be_bytes());
        png.extend_from_slice(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        png
    }

    #[tokio::test]
    async fn takes_three_formats_as_they_are_and_three_as_png() {
        for (format, media_type) in [
            (ImageFormat::Png, "image/png"),
            (ImageFormat::Jpeg, "image/jpeg"),
            (ImageFormat::WebP, "image/webp"),
            (ImageFormat::Gif, "image/gif"),
            (ImageFormat::Bmp, "image/bmp"),
            (ImageFormat::Tiff, "image/tiff"),
        ] {
            let bytes = encoded(5, 3, format);
            let checked = check("image", bytes.clone().into()).await.unwrap();
            assert_eq!((checked.width, checked.height), (5, 3));
            if format::stored(format).is_some() {
                assert_eq!((checked.media_type, checked.bytes), (media_type, bytes.into()));
            } else {
                assert_eq!(checked.media_type, "image/png");
                let (stored, sent) = (image::load_from_memory(&checked.bytes), image::load_from_memory(&bytes));
                assert_eq!(stored.unwrap().to_rgb8(), sent.unwrap().to_rgb8());
            }
        }
    }

    #[tokio::test]
    async fn refuses_a_giant_before_decoding_it() {
        let error = check("image", giant_png().into()).await.unwrap_err();
        assert!(matches!(&error, Error::TooLarge { message, .. } if message.contains("50000×50000")), "{error:?}");
    }

    #[tokio::test]
    async fn refuses_foreign_and_empty_files() {
        for bytes in [&b""[..], b"<svg/>", b"\x80\x02pickle", b"\0\0\0\x18ftypheic\0\0\0\0"] {
            assert!(matches!(check("image", Bytes::from_static(bytes)).await, Err(Error::Unsupported { .. })));
        }
    }

    /// Pixels that do not compress, so that each share of the file is a share of the picture.
    fn noise(width: u32, height: u32) -> DynamicImage {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        DynamicImage::from(image::RgbImage::from_fn(width, height, |_, _| image::Rgb([next(), next(), next()])))
    }

    fn noisy(format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        noise(96, 64).write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// 96 × 64 px of noise by libjpeg in ten scans, as `image` does not write them.
    const PROGRESSIVE: &[u8] = include_bytes!("image_gate/progressive.jpg");

    #[tokio::test]
    async fn refuses_what_was_cut_off() {
        let mut whole = vec![("progressive JPEG", PROGRESSIVE.to_vec())];
        for (name, format) in [
            ("JPEG", ImageFormat::Jpeg),
            ("PNG", ImageFormat::Png),
            ("WebP", ImageFormat::WebP),
            ("GIF", ImageFormat::Gif),
            ("BMP", ImageFormat::Bmp),
            ("TIFF", ImageFormat::Tiff),
        ] {
            whole.push((name, noisy(format)));
        }
        for (name, bytes) in whole {
            check("image", bytes.clone().into()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            for percent in [10, 50, 90, 99] {
                let cut = bytes[..bytes.len() * percent / 100].to_vec();
                let answer = check("image", cut.into()).await;
                assert!(matches!(answer, Err(Error::Invalid { .. })), "{percent} % of a {name}: {answer:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_end_that_was_put_behind_half_a_jpeg_does_not_make_it_whole() {
        let whole = noisy(ImageFormat::Jpeg);
        for percent in [40, 50, 90] {
            let mended = [&whole[..whole.len() * percent / 100], b"\xff\xd9"].concat();
            assert!(matches!(check("image", mended.into()).await, Err(Error::Invalid { .. })), "{percent} %");
        }
        // A file that was given its length before its bytes arrived.
        let mut zeros = whole.clone();
        zeros[whole.len() / 2..].fill(0);
        assert!(matches!(check("image", zeros.into()).await, Err(Error::Invalid { .. })));
    }

    #[tokio::test]
    async fn what_follows_a_whole_jpeg_does_no_harm() {
        // Cameras and phones put a second picture, or a film, behind the first.
        let whole = noisy(ImageFormat::Jpeg);
        let more = [&whole[..], &whole[..whole.len() / 3]].concat();
        assert_eq!(check("image", more.clone().into()).await.unwrap().bytes, more);
        // Small, even and narrow ones, whose last row takes a few bits only.
        for (width, height) in [(1, 1), (1, 400), (8, 8), (400, 3), (17, 33)] {
            check("image", encoded(width, height, ImageFormat::Jpeg).into()).await.unwrap();
            let mut grey = Cursor::new(Vec::new());
            DynamicImage::new_luma8(width, height).write_to(&mut grey, ImageFormat::Jpeg).unwrap();
            check("image", grey.into_inner().into()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_turned_picture_keeps_its_bytes_and_has_the_upright_size() {
        // JPEG with an APP1 segment that says "rotate by 90°" (orientation 6) right after the start marker.
        let jpeg = encoded(8, 4, ImageFormat::Jpeg);
        let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
        let checked = check("image", turned.clone().into()).await.unwrap();
        assert_eq!((checked.media_type, checked.width, checked.height), ("image/jpeg", 4, 8));
        assert_eq!(checked.bytes, turned);
    }
}
