//! A user id without a name, as OpenShift and `docker run --user` assign: `initdb` looks its name up and fails. The
//! library nss_wrapper gives the id a name for one process.

use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use crate::{Error, write_private};

const LIBRARY: &str = "libnss_wrapper.so";

/// The current user id.
pub(crate) fn user() -> u32 {
    geteuid().as_raw()
}

/// The library, if it is installed: Debian's libnss-wrapper, Fedora's nss_wrapper.
pub(crate) fn wrapper() -> Option<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let architecture = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [architecture.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from);
    std::env::split_paths(&named).chain(folders).map(|folder| folder.join(LIBRARY)).find(|library| library.is_file())
}

/// The variables with which a program finds a name for our ids. The lists of names are in `folder`.
pub(crate) fn environment(wrapper: &Path, folder: &Path) -> Result<[(&'static str, PathBuf); 3], Error> {
    let (passwd, group) = (folder.join("passwd"), folder.join("group"));
    let (user, of) = (user(), getegid().as_raw());
    write_private(&passwd, &format!("pyrograph:x:{user}:{of}::/:/bin/false\n"))?;
    write_private(&group, &format!("pyrograph:x:{of}:\n"))?;
    Ok([("LD_PRELOAD", wrapper.to_owned()), ("NSS_WRAPPER_PASSWD", passwd), ("NSS_WRAPPER_GROUP", group)])
}
