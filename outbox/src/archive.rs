//! The archive: for each picture, `input-{image_hash}.json` and `output-{image_hash}.jpg` in a bucket.

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use domain::delivery::archive::{self, Archived, File, Record};
use domain::delivery::{Answer, Claimed, Outcome};
use domain::{Error, Storage, Unusable};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, ImageReader, Limits, Rgba};
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::{Outbox, Sent};

/// The first pause after trouble with a bucket; it doubles with each try.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// Longest side of a picture, in pixels.
const LARGEST_SIDE: u32 = 16_384;
/// Memory for decoding a picture, in bytes.
const DECODING: u64 = 1 << 30;

/// Where pictures are archived, and how. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Archive {
    storage: Storage,
    prefix: String,
    /// Of JPEG files that are made for the archive, 1 to 100.
    quality: u8,
}

impl Archive {
    /// `prefix` has no `/` at its ends, and may be empty.
    pub fn new(storage: Storage, prefix: String, quality: u8) -> Self {
        Self { storage, prefix, quality }
    }

    /// The keys of the record and of the picture.
    fn keys(&self, image_hash: &str) -> [String; 2] {
        let below = |name: String| if self.prefix.is_empty() { name } else { format!("{}/{name}", self.prefix) };
        [below(format!("input-{image_hash}.json")), below(format!("output-{image_hash}.jpg"))]
    }

    /// Whether its bucket can be used now.
    pub async fn check(&self) -> Result<(), Unusable> {
        self.storage.check().await
    }

    /// The faults of a picture of the archive; none if it is as its record says. Errors: `Unavailable`.
    pub async fn verify(&self, image_hash: &str) -> Result<Vec<String>, Error> {
        let [record, picture] = self.keys(image_hash);
        let mut faults = Vec::new();
        let record = found(&record, self.storage.get(&record).await, &mut faults)?;
        let picture = found(&picture, self.storage.get(&picture).await, &mut faults)?;
        let record = record.and_then(|bytes| {
            let record: Result<Record, _> = serde_json::from_slice(&bytes);
            record.map_err(|error| faults.push(format!("the record cannot be read: {error}"))).ok()
        });
        let Some((record, picture)) = record.zip(picture) else { return Ok(faults) };
        if record.image.file.md5 != image_hash {
            faults.push(format!("the record is that of {}", record.image.file.md5));
        }
        let file = file(&picture);
        if record.jpeg.as_ref() != Some(&file) {
            faults.push("the picture is not the one of the record: its size or hashes differ".to_owned());
        }
        if let Err(error) = decode(&picture) {
            faults.push(format!("the picture cannot be decoded: {error}"));
        }
        Ok(faults)
    }
}

/// The object; one that is not there is a fault.
fn found(key: &str, object: Result<Bytes, Error>, faults: &mut Vec<String>) -> Result<Option<Bytes>, Error> {
    match object {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => {
            faults.push(format!("{key} is missing"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Makes one try. Errors: those of the database; `LeaseLost` also if the picture was deleted meanwhile.
pub(crate) async fn send(outbox: &Outbox, archive: &Archive, claimed: &Claimed) -> Result<Sent, Error> {
    let Archived { mut record, storage_key } = archive::load(&outbox.pool, claimed).await?;
    let bytes = match outbox.storage.get(&storage_key).await {
        Ok(bytes) => bytes,
        Err(Error::NotFound { .. }) => {
            return Ok((Outcome::Failed, Answer::error("The picture is not in the bucket any more.")));
        }
        Err(error) => return Ok(later(claimed, &error, "The bucket cannot be reached.")),
    };
    let jpeg = if record.image.media_type == "image/jpeg" {
        bytes
    } else {
        let quality = archive.quality;
        let encoded = tokio::task::spawn_blocking(move || jpeg(&bytes, quality)).await.map_err(Error::internal)?;
        match encoded {
            Ok(jpeg) => Bytes::from(jpeg),
            Err(error) => {
                return Ok((Outcome::Failed, Answer::error(format!("The picture cannot be decoded: {error}."))));
            }
        }
    };
    record.jpeg = Some(file(&jpeg));
    let [record_key, picture_key] = archive.keys(&record.image.file.md5);
    let text = serde_json::to_vec_pretty(&record).map_err(Error::internal)?;
    // The record comes last: where it is, the picture is. The same picture, made again, has another record.
    let stored = async {
        archive.storage.replace(&picture_key, jpeg, "image/jpeg").await?;
        archive.storage.replace(&record_key, text.into(), "application/json").await
    };
    match stored.await {
        Ok(()) => Ok((Outcome::Delivered, Answer::default())),
        Err(error) => Ok(later(claimed, &error, "The archive cannot be reached.")),
    }
}

fn later(claimed: &Claimed, error: &Error, message: &str) -> Sent {
    tracing::warn!(job = %claimed.subject, attempt = claimed.attempt, %error, "a picture waits for the archive");
    (Outcome::Retry(pause(claimed.attempt)), Answer::error(message))
}

/// Before the try after this one.
pub(crate) fn pause(attempt: i32) -> Duration {
    let doublings = attempt.clamp(1, 16) as u32 - 1;
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

fn file(bytes: &[u8]) -> File {
    File { bytes: bytes.len() as i64, md5: hex::encode(Md5::digest(bytes)), sha256: hex::encode(Sha256::digest(bytes)) }
}

fn decode(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LARGEST_SIDE), Some(LARGEST_SIDE));
    limits.max_alloc = Some(DECODING);
    reader.limits(limits);
    reader.decode()
}

/// The picture as an RGB JPEG, on white where it is transparent.
fn jpeg(bytes: &[u8], quality: u8) -> image::ImageResult<Vec<u8>> {
    let picture = decode(bytes)?;
    let picture = if picture.color().has_alpha() {
        let mut picture = picture.into_rgba8();
        for Rgba([red, green, blue, alpha]) in picture.pixels_mut() {
            let over_white = |value: u8| {
                let alpha = u16::from(*alpha);
                ((u16::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
            };
            (*red, *green, *blue) = (over_white(*red), over_white(*green), over_white(*blue));
        }
        DynamicImage::from(picture).into_rgb8()
    } else {
        picture.into_rgb8()
    };
    let mut jpeg = Vec::new();
    let (width, height) = picture.dimensions();
    JpegEncoder::new_with_quality(&mut jpeg, quality).encode(&picture, width, height, ExtendedColorType::Rgb8)?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage, RgbaImage};

    use super::*;

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let mut png = Cursor::new(Vec::new());
        picture.into().write_to(&mut png, ImageFormat::Png).unwrap();
        png.into_inner()
    }

    fn middle(jpeg: &[u8]) -> [u8; 3] {
        let picture = decode(jpeg).unwrap();
        assert_eq!(picture.color(), image::ColorType::Rgb8);
        picture.into_rgb8().get_pixel(8, 8).0
    }

    #[test]
    fn every_colour_mode_becomes_rgb() {
        for (picture, expected) in [
            (png(RgbImage::from_pixel(16, 16, Rgb([200, 100, 50]))), [200, 100, 50]),
            (png(GrayImage::from_pixel(16, 16, Luma([90]))), [90, 90, 90]),
            (png(RgbaImage::from_pixel(16, 16, Rgba([0, 0, 0, 0]))), [255, 255, 255]),
            (png(RgbaImage::from_pixel(16, 16, Rgba([255, 0, 0, 128]))), [255, 127, 127]),
            (png(DynamicImage::from(RgbImage::from_pixel(16, 16, Rgb([7, 8, 9]))).into_rgb16()), [7, 8, 9]),
        ] {
            let found = middle(&jpeg(&picture, 95).unwrap());
            let near = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 3);
            assert!(near, "{found:?} instead of {expected:?}");
        }
        assert!(jpeg(b"no picture", 65).is_err());
    }

    #[test]
    fn the_pauses_grow_to_ten_minutes() {
        let seconds = |attempt| pause(attempt).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 8, 1000, i32::MAX].map(seconds), [10, 20, 40, 320, 600, 600, 600, 600]);
    }
}
