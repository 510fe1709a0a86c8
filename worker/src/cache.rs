//! Files from storage, kept on the local disk under their SHA-256.
//!
//! A file is downloaded to a temporary name, its digest is checked, and it is renamed; so a file that is stored under a
//! digest is complete and correct. If its size or modification time changes, it is downloaded again. Jobs use files
//! through hard links in their own folder ([`Cache::link`]). A linked file is in use and is never removed; of the rest,
//! the least recently used is removed when the limit is exceeded, and the files of a deleted model soon after its
//! deletion. The caller decides what the bytes mean and where they come from.
//!
//! If the bucket is a folder on the same file system, its files are linked instead of downloaded ([`Cache::share`]).
//! They take no additional space, so the limit does not apply to them, and nothing here may change them.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, Metadata};
use std::future::Future;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use domain::model;
use domain::storage::Written;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

/// A folder of files by digest.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
}

/// Why a file could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The local disk is full, even after every unused file was removed.
    #[error("the disk under {} is full", .0.display())]
    Full(PathBuf),
    /// Storage returned other bytes than the database records.
    #[error("{wanted}: storage sent {bytes} bytes with digest {sha256}")]
    Corrupt {
        /// The expected digest.
        wanted: String,
        /// Bytes received.
        bytes: u64,
        /// Digest of the received bytes.
        sha256: String,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] domain::Error),
    /// The local disk failed.
    #[error("{path}: {source}", path = .path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl Cache {
    /// Opens the folder, and creates it if necessary. Its files take at most `limit` bytes in total, including those in
    /// use.
    pub fn open(folder: impl Into<PathBuf>, limit: u64) -> io::Result<Self> {
        let cache = Self { folder: folder.into(), limit };
        fs::create_dir_all(&cache.folder)?;
        Ok(cache)
    }

    /// Whether a file with this digest, and this size if it is known, is here: downloaded or linked.
    pub(crate) fn holds(&self, sha256: &str, bytes: Option<u64>) -> bool {
        is_unchanged(&self.place(sha256), bytes) || self.linked(sha256, bytes).is_some()
    }

    /// The file with this digest, and this size if it is known. `download` writes it to the given path if it is not
    /// cached yet.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] if the downloaded file has another digest or size; it is then deleted.
    pub async fn file<F, D>(&self, sha256: &str, bytes: Option<u64>, download: D) -> Result<PathBuf, CacheError>
    where
        D: Fn(PathBuf) -> F,
        F: Future<Output = domain::Result<Written>>,
    {
        let path = self.place(sha256);
        if is_unchanged(&path, bytes) {
            mark_used(&path).map_err(at(&path))?;
            return Ok(path);
        }
        self.make_room(bytes.unwrap_or(0))?;
        let written = match self.download(&path, &download).await {
            Err(CacheError::Full(_)) => {
                self.make_room(self.limit)?;
                self.download(&path, &download).await?
            }
            other => other?,
        };
        let Downloaded { temporary, written } = written;
        if written.sha256 != sha256 || bytes.is_some_and(|bytes| written.bytes != bytes) {
            return Err(CacheError::Corrupt { wanted: sha256.into(), bytes: written.bytes, sha256: written.sha256 });
        }
        mark_used(&temporary).map_err(at(&path))?;
        temporary.persist(&path).map_err(|error| at(&path)(error.error))?;
        sync_folder(&path).map_err(at(&path))?;
        Ok(path)
    }

    /// The file with this digest, and this size if it is known, as a link to an object on this machine; `None` if it
    /// cannot be linked. An object that was not linked before is read once, to check its digest; its bytes are added to
    /// `checked`.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] if the object has another digest or size.
    pub async fn share(
        &self,
        sha256: &str,
        bytes: Option<u64>,
        object: PathBuf,
        checked: &Arc<AtomicU64>,
    ) -> Result<Option<PathBuf>, CacheError> {
        if let Some(path) = self.linked(sha256, bytes) {
            return Ok(Some(path));
        }
        let folder = self.folder.join(SHARED);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        // The name of an empty file, so that nothing else takes it, gives way to the link.
        let temporary = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(&folder).map_err(at(&folder))?;
        let temporary = temporary.into_temp_path();
        fs::remove_file(&temporary).map_err(at(&temporary))?;
        if let Err(error) = fs::hard_link(&object, &temporary) {
            tracing::debug!(object = %object.display(), %error, "not linked");
            return Ok(None);
        }
        let about = fs::metadata(&temporary).map_err(at(&temporary))?;
        let path = folder.join(name_of_link(sha256, &about));
        let (link, checked) = (temporary.to_path_buf(), Arc::clone(checked));
        let hashing = tokio::task::spawn_blocking(move || hash(&link, &checked));
        let written = hashing.await.map_err(io::Error::other).and_then(|hashed| hashed).map_err(at(&temporary))?;
        if written.sha256 != sha256 || bytes.is_some_and(|bytes| written.bytes != bytes) {
            return Err(CacheError::Corrupt { wanted: sha256.into(), bytes: written.bytes, sha256: written.sha256 });
        }
        temporary.persist(&path).map_err(|error| at(&path)(error.error))?;
        Ok(Some(path))
    }

    /// Removes the links to objects that the bucket no longer has. A job that uses one has its own link.
    fn remove_unshared(&self) -> Result<(), CacheError> {
        let Ok(entries) = fs::read_dir(self.folder.join(SHARED)) else { return Ok(()) };
        for entry in entries.flatten() {
            if entry.metadata().is_ok_and(|about| about.nlink() == 1) {
                tracing::debug!(file = %entry.path().display(), "its object was deleted");
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Links a file returned by [`file`](Self::file) or [`share`](Self::share) to `target`, and creates its parent
    /// folders. The file stays in the cache as long as the link exists.
    pub fn link(&self, file: &Path, target: &Path) -> Result<(), CacheError> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        // Some file systems have no hard links; a copy works too, but takes more space.
        fs::hard_link(file, target).or_else(|_| fs::copy(file, target).map(drop)).map_err(at(target))
    }

    /// Removes unused files, the least recently used first, until `bytes` more fit within the limit.
    pub fn make_room(&self, bytes: u64) -> Result<(), CacheError> {
        let mut files = self.files()?;
        let mut held: u64 = files.iter().map(|file| file.bytes).sum();
        files.retain(|file| !file.in_use);
        files.sort_by_key(|file| file.used_at);
        for file in files {
            if held.saturating_add(bytes) <= self.limit {
                break;
            }
            tracing::debug!(file = %file.path.display(), bytes = file.bytes, "dropped from the cache");
            remove(&file.path)?;
            held -= file.bytes;
        }
        Ok(())
    }

    /// Removes the unused files of deleted models.
    pub(crate) async fn remove_abandoned(&self, pool: &PgPool) -> Result<(), CacheError> {
        self.remove_unshared()?;
        let digest = |file: &Entry| file.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut files = self.files()?;
        files.retain(|file| !file.in_use);
        let digests: Vec<String> = files.iter().filter_map(digest).collect();
        if digests.is_empty() {
            return Ok(());
        }
        let abandoned: HashSet<String> = model::abandoned(pool, &digests).await?.into_iter().collect();
        for file in files.iter().filter(|file| digest(file).is_some_and(|digest| abandoned.contains(&digest))) {
            tracing::info!(file = %file.path.display(), bytes = file.bytes, "its model was deleted");
            remove(&file.path)?;
        }
        Ok(())
    }

    async fn download<F, D>(&self, path: &Path, download: &D) -> Result<Downloaded, CacheError>
    where
        D: Fn(PathBuf) -> F,
        F: Future<Output = domain::Result<Written>>,
    {
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(at(folder))?;
        // In the same folder as the final file, so that it can be renamed; the prefix distinguishes it from complete
        // files.
        let temporary = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder).map_err(at(folder))?;
        let written = download(temporary.path().to_owned()).await.map_err(|error| {
            if says_disk_full(&error) { CacheError::Full(self.folder.clone()) } else { error.into() }
        })?;
        Ok(Downloaded { temporary: temporary.into_temp_path(), written })
    }

    /// The link to an object that has not changed since its digest was checked.
    fn linked(&self, sha256: &str, bytes: Option<u64>) -> Option<PathBuf> {
        let mut links = fs::read_dir(self.folder.join(SHARED)).ok()?.flatten().filter(|link| {
            let whole = |about: &Metadata| bytes.is_none_or(|bytes| about.len() == bytes);
            link.metadata().is_ok_and(|about| whole(&about) && link.file_name() == *name_of_link(sha256, &about))
        });
        links.next().map(|link| link.path())
    }

    /// Where a file is downloaded to.
    fn place(&self, sha256: &str) -> PathBuf {
        self.folder.join(sha256.get(..2).unwrap_or("xx")).join(sha256)
    }

    fn files(&self) -> Result<Vec<Entry>, CacheError> {
        let mut found = Vec::new();
        let folders = match fs::read_dir(&self.folder) {
            // Somebody has removed it; the next download makes it again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            folders => folders.map_err(at(&self.folder))?,
        };
        for folder in folders.flatten() {
            if folder.file_name() == SHARED {
                continue;
            }
            let Ok(entries) = fs::read_dir(folder.path()) else { continue };
            for entry in entries.flatten() {
                let Ok(about) = entry.metadata() else { continue };
                let partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
                let age = about.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
                found.push(Entry {
                    path: entry.path(),
                    bytes: about.len(),
                    used_at: about.accessed().unwrap_or(SystemTime::UNIX_EPOCH),
                    // A download in progress by another worker, unless it was abandoned long ago.
                    in_use: about.nlink() > 1 || (partial && age < ABANDONED),
                });
            }
        }
        Ok(found)
    }
}

fn is_unchanged(path: &Path, bytes: Option<u64>) -> bool {
    let whole = |about: &Metadata| about.is_file() && bytes.is_none_or(|bytes| about.len() == bytes);
    fs::metadata(path).is_ok_and(|about| whole(&about) && about.modified().is_ok_and(|at| at == fetched()))
}

/// The modification time of all downloaded files, in 2001.
fn fetched() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Records the last use in the access time.
fn mark_used(path: &Path) -> io::Result<()> {
    File::open(path)?.set_times(FileTimes::new().set_accessed(SystemTime::now()).set_modified(fetched()))
}

/// The object itself is not touched, so the time at which it was modified is in the name of its link.
fn name_of_link(sha256: &str, object: &Metadata) -> String {
    format!("{sha256}-{}.{:09}", object.mtime(), object.mtime_nsec())
}

/// Adds to `checked`, and stops when nobody else holds it any more: the job that waited for the digest has ended.
fn hash(file: &Path, checked: &Arc<AtomicU64>) -> io::Result<Written> {
    let (mut file, mut sha256, mut bytes) = (File::open(file)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if Arc::strong_count(checked) == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        sha256.update(&piece[..count]);
        bytes += count as u64;
        checked.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(Written { bytes, sha256: hex::encode(sha256.finalize()) })
}

fn remove(file: &Path) -> Result<(), CacheError> {
    match fs::remove_file(file) {
        // Another worker on this machine removed it first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(file)),
    }
}

/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;
const PARTIAL: &str = ".partial-";
/// The folder of files that are links to objects of the bucket.
const SHARED: &str = "shared";
const ABANDONED: Duration = Duration::from_hours(1);

struct Downloaded {
    temporary: tempfile::TempPath,
    written: Written,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used_at: SystemTime,
    in_use: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CacheError + use<> {
    let path = path.to_owned();
    move |source| if is_disk_full(&source) { CacheError::Full(path) } else { CacheError::Disk { path, source } }
}

/// Whether an error means that the local disk takes no more: it is full, a quota is, or the file reached its limit
/// (`ulimit -f`).
pub fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// The same for an error of [`domain::storage`], which keeps only the text of the system's error: ENOSPC, EDQUOT and
/// EFBIG.
fn says_disk_full(error: &domain::Error) -> bool {
    let words = error.to_string();
    ["(os error 28)", "(os error 122)", "(os error 27)"].iter().any(|code| words.contains(code))
}

/// Makes a rename durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &[u8]) -> String {
        hex::encode(Sha256::digest(content))
    }

    async fn fill(path: PathBuf, content: Vec<u8>) -> domain::Result<Written> {
        fs::write(path, &content).unwrap();
        Ok(Written { bytes: content.len() as u64, sha256: digest(&content) })
    }

    async fn put(cache: &Cache, content: &[u8]) -> PathBuf {
        let path = cache
            .file(&digest(content), Some(content.len() as u64), |path| fill(path, content.to_vec()))
            .await
            .unwrap();
        // Different times of use, on any file system.
        tokio::time::sleep(Duration::from_millis(20)).await;
        path
    }

    #[tokio::test]
    async fn a_file_is_downloaded_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        let path = put(&cache, b"weights").await;
        assert_eq!(fs::read(&path).unwrap(), b"weights");
        let again = cache.file(&digest(b"weights"), Some(7), |_| async { panic!("downloaded twice") }).await.unwrap();
        assert_eq!(again, path);
    }

    #[tokio::test]
    async fn a_corrupted_download_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        for (wanted, bytes) in [(digest(b"other"), 7), (digest(b"weights"), 8)] {
            let error = cache.file(&wanted, Some(bytes), |path| fill(path, b"weights".to_vec())).await.unwrap_err();
            assert!(matches!(error, CacheError::Corrupt { .. }), "{error}");
        }
        assert!(cache.files().unwrap().is_empty());
        assert_eq!(fs::read(put(&cache, b"weights").await).unwrap(), b"weights");
    }

    #[tokio::test]
    async fn a_damaged_file_is_downloaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        let path = put(&cache, b"weights").await;
        for damaged in [b"wei".as_slice(), b"WEIGHTS"] {
            fs::write(&path, damaged).unwrap();
            assert!(!cache.holds(&digest(b"weights"), Some(7)));
            assert_eq!(fs::read(put(&cache, b"weights").await).unwrap(), b"weights");
        }
        assert!(cache.holds(&digest(b"weights"), None));
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("cache"), 100).unwrap();
        let [a, b, c] = [[1; 40], [2; 40], [3; 40]];
        let in_use = put(&cache, &a).await;
        let link = folder.path().join("work/base/a");
        cache.link(&in_use, &link).unwrap();
        let unused = put(&cache, &b).await;
        let newest = put(&cache, &c).await;
        assert!(in_use.exists() && !unused.exists() && newest.exists());
        fs::remove_file(link).unwrap();
        put(&cache, &c).await;
        put(&cache, &b).await;
        assert!(!in_use.exists() && newest.exists());
    }

    #[tokio::test]
    async fn an_object_on_this_machine_is_linked_and_never_changed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("cache"), 100).unwrap();
        let object = folder.path().join("object");
        fs::write(&object, [1; 200]).unwrap();
        let before = fs::metadata(&object).unwrap();
        let sha256 = digest(&[1; 200]);
        let mut shared = PathBuf::new();
        for job in ["first", "second"] {
            shared = cache.share(&sha256, Some(200), object.clone(), &Arc::default()).await.unwrap().unwrap();
            cache.link(&shared, &folder.path().join(job)).unwrap();
        }
        let about = fs::metadata(&shared).unwrap();
        assert_eq!((about.ino(), about.nlink()), (before.ino(), 4));
        assert_eq!(about.modified().unwrap(), before.modified().unwrap());
        assert!(cache.holds(&sha256, Some(200)));
        File::open(&object).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(!cache.holds(&sha256, None), "its digest has to be checked again");
        File::open(&object).unwrap().set_modified(before.modified().unwrap()).unwrap();
        // It takes no space, so it neither goes nor makes others go.
        let other = put(&cache, &[2; 90]).await;
        cache.remove_unshared().unwrap();
        assert!(shared.exists() && other.exists());

        for name in ["object", "first", "second"] {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        cache.remove_unshared().unwrap();
        assert!(!shared.exists() && other.exists());
    }

    #[tokio::test]
    async fn a_damaged_object_is_not_shared() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("cache"), 100).unwrap();
        let object = folder.path().join("object");
        fs::write(&object, b"weights").unwrap();
        for (wanted, bytes) in [(digest(b"other"), 7), (digest(b"weights"), 8)] {
            let error = cache.share(&wanted, Some(bytes), object.clone(), &Arc::default()).await.unwrap_err();
            assert!(matches!(error, CacheError::Corrupt { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path().join("cache/shared")).unwrap().count(), 0);
        assert_eq!(fs::read(&object).unwrap(), b"weights");
        let gone = cache.share(&digest(b"weights"), None, folder.path().join("gone"), &Arc::default()).await.unwrap();
        assert_eq!(gone, None);
    }

    /// A file of 32 GiB takes minutes, and a worker that stops does not wait for it.
    #[test]
    fn a_digest_that_nobody_waits_for_is_not_computed_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("object");
        fs::write(&file, b"weights").unwrap();
        let checked = Arc::new(AtomicU64::new(0));
        let waiting = Arc::clone(&checked);
        assert_eq!(hash(&file, &checked).unwrap().sha256, digest(b"weights"));
        assert_eq!(waiting.load(Ordering::Relaxed), 7);
        drop(waiting);
        assert_eq!(hash(&file, &checked).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart_after_one_more_try() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 100).unwrap();
        let unused = put(&cache, b"unused").await;
        let full = |_| async { Err(domain::Error::unavailable(io::Error::from_raw_os_error(28))) };
        let error = cache.file(&digest(b"weights"), Some(7), full).await.unwrap_err();
        assert!(matches!(error, CacheError::Full(_)), "{error}");
        assert!(!unused.exists());
    }
}
