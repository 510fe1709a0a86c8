//! Names that an archive's table of contents has more than once. The crate `zip` knows the last entry of a name only.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Begins an entry of the table (APPNOTE.TXT, section 4.3.12).
const SIGNATURE: [u8; 4] = *b"PK\x01\x02";
/// Bytes of an entry before its name.
const FIXED: usize = 46;

/// The name of each entry behind which another of the same name follows; `start` is where the table begins.
pub(super) fn names(archive: File, start: u64) -> io::Result<Vec<String>> {
    let mut table = BufReader::new(archive);
    table.seek(SeekFrom::Start(start))?;
    let (mut seen, mut repeated) = (HashSet::new(), Vec::new());
    let mut entry = [0; FIXED];
    while table.read_exact(&mut entry).is_ok() && entry.starts_with(&SIGNATURE) {
        let length = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let mut name = vec![0; length(28).into()];
        table.read_exact(&mut name)?;
        table.seek_relative(i64::from(length(30)) + i64::from(length(32)))?;
        let name = String::from_utf8_lossy(&name).into_owned();
        if !seen.contains(&name) {
            seen.insert(name);
        } else if repeated.len() < super::MAX_ENTRIES {
            repeated.push(name);
        }
    }
    Ok(repeated)
}
