//! Writes a picture to a file that carries its recipe, in the format that the request asks for.
//!
//! Every format holds two texts: `parameters`, which AUTOMATIC1111's web UI writes and many tools read, and the whole
//! recipe as JSON. PNG has them in text chunks, JPEG and WebP in EXIF and XMP. Nothing that differs between two runs of
//! the same request (time, host) is written, so that a retry writes the same bytes.

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

/// What a picture's file says about how it was made.
pub(super) struct Metadata {
    /// In the notation of AUTOMATIC1111.
    pub parameters: String,
    /// JSON.
    pub recipe: String,
}

/// Writes a new file and makes it durable. `quality` is 1 to 100; a format without one ignores it.
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
