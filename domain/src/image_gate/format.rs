//! In which format the bytes of a picture are, by content, and what else people send in its place.

use std::io::Cursor;

use image::ImageFormat;
use tiff::decoder::Decoder;
use tiff::tags::Tag;

/// The formats that are read, as messages list them.
pub(super) const READ: &str = "PNG, JPEG, WebP, GIF, BMP or TIFF";

/// Media type and file extension of a format whose bytes are stored as they are; others are stored as PNG.
pub(super) fn stored(format: ImageFormat) -> Option<(&'static str, &'static str)> {
    match format {
        ImageFormat::Png => Some(("image/png", "png")),
        ImageFormat::Jpeg => Some(("image/jpeg", "jpg")),
        ImageFormat::WebP => Some(("image/webp", "webp")),
        _ => None,
    }
}

/// The format of `bytes`. Errors: what they are instead, as a sentence.
pub(super) fn of(bytes: &[u8]) -> Result<ImageFormat, String> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Tiff) if is_raw_photo(bytes) => {
            Err(format!("The file is a camera's raw photo, of which only a small preview could be read; send {READ}."))
        }
        Ok(
            format @ (ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
        _ => Err(match name(bytes) {
            Some(name) => format!("The file is {name}, not a {READ} picture."),
            None => format!("The file is not a {READ} picture."),
        }),
    }
}

/// DNG, CR2, NEF and others are TIFF files whose first picture is a preview.
fn is_raw_photo(bytes: &[u8]) -> bool {
    const DNG_VERSION: Tag = Tag::Unknown(50706);
    const REDUCED: u32 = 1;
    let Ok(mut decoder) = Decoder::new(Cursor::new(bytes)) else { return false };
    let kind = decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType).ok().flatten().unwrap_or_default();
    kind & REDUCED != 0
        || decoder.find_tag(DNG_VERSION).is_ok_and(|version| version.is_some())
        || bytes.get(8..10) == Some(b"CR")
}

/// What other files are called, by their first bytes.
fn name(bytes: &[u8]) -> Option<&'static str> {
    let brand = bytes.get(4..12).filter(|head| head.starts_with(b"ftyp")).map(|head| &head[4..]);
    match brand {
        Some(b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" | b"mif1" | b"msf1") => return Some("a HEIC picture"),
        Some(b"avif" | b"avis") => return Some("an AVIF picture"),
        Some(_) => return Some("a video"),
        None => {}
    }
    const NAMES: [(&[u8], &str); 15] = [
        (b"\0\x05\x16\x07", "a file of macOS that only describes another one"),
        (b"\xff\x0a", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
        (b"8BPS", "a Photoshop file"),
        (b"gimp xcf", "a GIMP file"),
        (b"\0\0\x01\0", "an icon"),
        (b"%PDF", "a PDF document"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"<svg", "an SVG drawing"),
        (b"<?xml", "an XML text"),
        (b"<!doctype html", "a web page"),
        (b"<html", "a web page"),
    ];
    if bytes.is_empty() {
        return Some("empty");
    }
    let head = bytes[..bytes.len().min(512)].trim_ascii_start().to_ascii_lowercase();
    if head.starts_with(b"<?xml") && head.windows(4).any(|tag| tag == b"<svg") {
        return Some("an SVG drawing");
    }
    let matches = |magic: &[u8]| bytes.starts_with(magic) || magic.starts_with(b"<") && head.starts_with(magic);
    NAMES.iter().find(|(magic, _)| matches(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_called_by_its_name() {
        for (bytes, what) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "HEIC"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
            (b"\0\0\0\x20ftypisom\0\0\0\0", "video"),
            (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "macOS"),
            (b"8BPS\0\x01", "Photoshop"),
            (b"%PDF-1.7", "PDF"),
            (b"\n<?xml version='1.0'?>\n<svg/>", "SVG"),
            (b"<!DOCTYPE HTML><p>404", "web page"),
            (b"", "empty"),
        ] {
            let why = of(bytes).unwrap_err();
            assert!(why.contains(what) && why.contains("TIFF picture"), "{why}");
        }
        assert!(of(b"a fox").unwrap_err().contains("is not a PNG"));
    }

    #[test]
    fn the_preview_of_a_raw_photo_is_not_its_picture() {
        let tiff = |tag: Option<(Tag, u32)>| {
            let mut out = Cursor::new(Vec::new());
            let mut encoder = tiff::encoder::TiffEncoder::new(&mut out).unwrap();
            let mut picture = encoder.new_image::<tiff::encoder::colortype::Gray8>(2, 1).unwrap();
            if let Some((tag, value)) = tag {
                picture.encoder().write_tag(tag, value).unwrap();
            }
            picture.write_data(&[7, 8]).unwrap();
            out.into_inner()
        };
        assert_eq!(of(&tiff(None)), Ok(ImageFormat::Tiff));
        assert_eq!(of(&tiff(Some((Tag::NewSubfileType, 0)))), Ok(ImageFormat::Tiff));
        for tag in [(Tag::NewSubfileType, 1), (Tag::Unknown(50706), 0x401)] {
            assert!(of(&tiff(Some(tag))).unwrap_err().contains("raw photo"));
        }
    }
}
