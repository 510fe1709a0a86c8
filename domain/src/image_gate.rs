//! The gate that every picture passes before it is stored. It must be PNG, JPEG or WebP by content (file name and
//! declared type are ignored), within limits of bytes and pixels that are checked before anything is decoded, and is
//! decoded once in full so that a truncated file is refused. It is stored upright. Not here: where pictures come from
//! (`dataset`, `upload`, `zip_gate`) or are stored (`storage`).

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
    /// Width in pixels, after turning it upright.
    pub width: u32,
    pub height: u32,
    /// SHA-256 of `bytes`, lower-case hex.
    pub sha256: String,
}

/// Checks one picture; `field` is the field that an error names.
///
/// A picture that its EXIF data turns is stored turned (as PNG), so that all later steps see the same pixels.
/// Errors: `TooLarge` over a limit, `Unsupported` for another format, `Invalid` for a picture that cannot be decoded.
pub async fn check(field: &str, bytes: Bytes) -> Result<CheckedImage> {
    let field = field.to_owned();
    let _permit = DECODERS.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(move || check_now(&field, bytes)).await.map_err(Error::internal)?
}

fn check_now(field: &str, bytes: Bytes) -> Result<CheckedImage> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::too_large(
            field,
            format!("The picture has {} bytes; at most {MAX_BYTES} (25 MiB) are taken.", bytes.len()),
        ));
    }
    let (format, media_type, extension) = match image::guess_format(&bytes) {
        Ok(format @ ImageFormat::Png) => (format, "image/png", "png"),
        Ok(format @ ImageFormat::Jpeg) => (format, "image/jpeg", "jpg"),
        Ok(format @ ImageFormat::WebP) => (format, "image/webp", "webp"),
        _ => return Err(Error::unsupported(field, "The file is not a PNG, JPEG or WebP picture.")),
    };
    let undecodable =
        |error: image::ImageError| Error::invalid(field, format!("The picture cannot be decoded: {error}."));

    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(&bytes[..]), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
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
    let mut picture = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    if orientation == Orientation::NoTransforms {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        return Ok(CheckedImage { bytes, media_type, extension, width, height, sha256 });
    }
    picture.apply_orientation(orientation);
    let mut upright = Cursor::new(Vec::new());
    picture.write_to(&mut upright, ImageFormat::Png).map_err(Error::internal)?;
    let bytes = Bytes::from(upright.into_inner());
    let sha256 = hex::encode(Sha256::digest(&bytes));
    Ok(CheckedImage {
        bytes,
        media_type: "image/png",
        extension: "png",
        width: picture.width(),
        height: picture.height(),
        sha256,
    })
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
    async fn takes_the_three_formats_by_content() {
        for (format, media_type) in
            [(ImageFormat::Png, "image/png"), (ImageFormat::Jpeg, "image/jpeg"), (ImageFormat::WebP, "image/webp")]
        {
            let bytes = encoded(5, 3, format);
            let checked = check("image", bytes.clone().into()).await.unwrap();
            assert_eq!((checked.media_type, checked.width, checked.height), (media_type, 5, 3));
            assert_eq!(checked.bytes, bytes);
        }
    }

    #[tokio::test]
    async fn refuses_a_giant_before_decoding_it() {
        let error = check("image", giant_png().into()).await.unwrap_err();
        assert!(matches!(&error, Error::TooLarge { message, .. } if message.contains("50000×50000")), "{error:?}");
    }

    #[tokio::test]
    async fn refuses_truncated_foreign_and_empty_files() {
        let mut png = encoded(64, 64, ImageFormat::Png);
        png.truncate(png.len() / 2);
        assert!(matches!(check("image", png.into()).await, Err(Error::Invalid { .. })));
        for bytes in [&b"GIF89a\x01\0\x01\0"[..], b"", b"<svg/>", b"\x80\x02pickle"] {
            assert!(matches!(check("image", Bytes::from_static(bytes)).await, Err(Error::Unsupported { .. })));
        }
    }

    #[tokio::test]
    async fn turns_a_picture_upright() {
        // JPEG with an APP1 segment that says "rotate by 90°" (orientation 6) right after the start marker.
        let jpeg = encoded(8, 4, ImageFormat::Jpeg);
        let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
        let checked = check("image", turned.into()).await.unwrap();
        assert_eq!((checked.media_type, checked.width, checked.height), ("image/png", 4, 8));
    }
}
