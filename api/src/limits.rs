//! How large the bodies of requests may be.

use domain::generation::MAX_PICTURE_CHARS;
use domain::{image_gate, zip_gate};

/// Largest JSON body, in bytes.
pub(crate) const JSON_LIMIT: usize = 1024 * 1024;
/// Largest form of pictures, in bytes: one archive and what surrounds it.
pub(crate) const PICTURES_LIMIT: usize = zip_gate::MAX_ARCHIVE_BYTES as usize + 1024 * 1024;
/// Largest form of one picture, in bytes.
pub(crate) const PICTURE_LIMIT: usize = image_gate::MAX_BYTES as usize + 1024 * 1024;
/// Largest request for a generation, in bytes: one that carries an image and a mask itself.
pub(crate) const GENERATION_LIMIT: usize = 2 * MAX_PICTURE_CHARS + JSON_LIMIT;
