//! Writes a picture to a file with its recipe, in the requested format.
//!
//! Every format holds two texts: `parameters`, which AUTOMATIC1111's web UI writes and many tools read, and the whole
//! recipe as JSON. PNG stores them in text chunks, JPEG and WebP in EXIF and XMP. Nothing that differs between two runs
//! of the same request (time, host) is written, so that a retry writes the same bytes.

mod exif;
mod jpeg;
mod png;
mod recipe;
#[cfg(test)]
mod tests;
mod webp;
mod xmp;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use image::RgbImage;
use requests::OutputFormat;

pub(super) use self::recipe::{Made, metadata};

/// The metadata of a picture: how it was made.
pub(super) struct Metadata {
    /// In AUTOMATIC1111's notation.
    pub parameters: String,
    /// As JSON.
    pub recipe: String,
}

/// Writes a new file and syncs it to disk. `quality` is 1 to 100; lossless formats ignore it.
pub(super) fn write(
    path: &Path,
    picture: &RgbImage,
    format: OutputFormat,
    quality: Option<u8>,
    metadata: &Metadata,
) -> io::Result<()> {
    let (pixels, size) = (picture.as_raw(), picture.dimensions());
    let quality = quality.or(format.default_quality()).unwrap_or(100);
    let bytes = match format {
        OutputFormat::Png => png::encode(pixels, size, metadata)?,
        OutputFormat::Jpeg => jpeg::encode(pixels, size, quality, metadata)?,
        OutputFormat::Webp => webp::encode(pixels, size, quality, metadata)?,
    };
    let mut file = File::create_new(path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}
