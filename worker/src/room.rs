//! Whether the files of a job can ever fit on this worker's disk. A disk that is full may have room again later; one
//! that is too small never has.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytesize::ByteSize;

use crate::stop::Stop;

/// Checks that `bytes` more fit into `folder`, if nothing else were on its disk.
///
/// # Errors
/// `NoRoom`: the files of the folder take more than the whole disk together with them.
pub(crate) fn check(folder: &Path, bytes: u64) -> Result<(), Stop> {
    // Some file systems do not know their size.
    let size = rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    let needed = held(folder, &mut BTreeSet::new()).saturating_add(bytes);
    if size == 0 || needed <= size {
        return Ok(());
    }
    let [needed, size] = [needed, size].map(ByteSize);
    Err(Stop::NoRoom(format!("The files of this job take {needed}, and the disk of the worker has {size} in all.")))
}

/// Bytes of the files in a folder. Files of equal content are one file with several names, which is `seen` once.
fn held(folder: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => bytes += held(&entry.path(), seen),
            Ok(about) if seen.insert(about.ino()) => bytes += about.len(),
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_disk_never_fits() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("base")).unwrap();
        fs::write(folder.path().join("base/weights"), [0; 100]).unwrap();
        fs::hard_link(folder.path().join("base/weights"), folder.path().join("same")).unwrap();
        assert_eq!(held(folder.path(), &mut BTreeSet::new()), 100);
        check(folder.path(), 1).unwrap();
        let Err(Stop::NoRoom(why)) = check(folder.path(), u64::MAX) else { panic!("it fits") };
        assert!(why.contains("the disk of the worker has"), "{why}");
        check(&folder.path().join("gone"), u64::MAX).unwrap();
    }
}
