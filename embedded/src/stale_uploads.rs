//! Uploads in parts that were neither completed nor aborted: their files stay beside the bucket for ever, and S3's way
//! to find them, a list of unfinished uploads, is not offered by `s3s-fs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use uuid::Uuid;

/// An upload to which nothing was added for this long is stale.
const STALE: Duration = Duration::from_hours(24);
const INTERVAL: Duration = Duration::from_hours(1);

/// Removes stale uploads now and every hour.
pub(crate) async fn keep_removing(objects: PathBuf) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let folder = objects.clone();
        match tokio::task::spawn_blocking(move || remove(&folder, STALE)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "S3: removed files of uploads that were never completed"),
            Ok(Err(error)) => tracing::warn!(%error, "S3: could not look for unfinished uploads"),
            Err(error) => tracing::warn!(%error, "S3: could not look for unfinished uploads"),
        }
    }
}

/// Removes the files of every upload whose newest file is older than `age`; returns how many.
fn remove(objects: &Path, age: Duration) -> io::Result<usize> {
    let mut uploads: HashMap<Uuid, (SystemTime, Vec<PathBuf>)> = HashMap::new();
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        let Some(upload) = entry.file_name().to_str().and_then(upload_of) else { continue };
        // A file that is removed right now has no metadata.
        let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        let (newest, files) = uploads.entry(upload).or_insert((modified, Vec::new()));
        *newest = modified.max(*newest);
        files.push(entry.path());
    }
    let mut removed = 0;
    for (newest, files) in uploads.into_values() {
        if newest.elapsed().is_ok_and(|since| since > age) {
            removed += files.iter().filter(|file| fs::remove_file(file).is_ok()).count();
        }
    }
    Ok(removed)
}

/// Removes the files of one upload.
pub(crate) fn remove_one(objects: &Path, upload: Uuid) -> io::Result<()> {
    for entry in fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(upload_of) == Some(upload) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The upload that a file of `s3s-fs` belongs to: `.upload-ID.json`, `.upload_id-ID.part-N`, or
/// `.bucket-B.object-K.upload-ID.metadata.json`.
fn upload_of(name: &str) -> Option<Uuid> {
    let of_object =
        || name.starts_with(".bucket-").then(|| name.rsplit_once(".upload-")).flatten().map(|(_, rest)| rest);
    let rest = name.strip_prefix(".upload-").or_else(|| name.strip_prefix(".upload_id-")).or_else(of_object)?;
    Uuid::parse_str(rest.split_once('.')?.0).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn files_of_stale_uploads_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
        let day = Duration::from_hours(24);
        let write = |name: String, age: Duration| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        write(format!(".upload-{old}.json"), 3 * day);
        write(format!(".upload_id-{old}.part-1"), 2 * day);
        write(format!(".bucket-YQ.object-Yg.upload-{old}.metadata.json"), 3 * day);
        // Begun long ago, and not interrupted.
        write(format!(".upload-{new}.json"), 3 * day);
        write(format!(".upload_id-{new}.part-7"), Duration::ZERO);
        write(".bucket-YQ.object-Yg.metadata.json".to_owned(), 3 * day);
        write(".bucket-YQ.object-Yg.internal.json".to_owned(), 3 * day);
        fs::create_dir(folder.path().join("pyrograph")).unwrap();

        assert_eq!(remove(folder.path(), day).unwrap(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
        assert_eq!(remove(folder.path(), day).unwrap(), 0);
    }
}
