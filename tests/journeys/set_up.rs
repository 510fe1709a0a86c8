//! The set-up scripts: Node on a machine that has none, and the count of skipped tests.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A folder with these programs and no others, for PATH.
fn only(programs: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for program in programs {
        // Version managers put scripts on PATH; the interpreter itself needs nothing.
        let find =
            if *program == "python3" { "python3 -c 'import sys; print(sys.executable)'" } else { "command -v $0" };
        let found = Command::new("sh").args(["-c", find, program]).output().unwrap();
        assert!(found.status.success(), "{program} is missing");
        symlink(text(&found.stdout), folder.path().join(program)).unwrap();
    }
    folder
}

#[test]
fn npm_is_there_on_a_machine_without_node() {
    let path = only(&["sh", "env", "dirname", "mkdir", "mktemp", "mv", "rm", "python3"]);
    let run = |command: &mut Command| command.env("PATH", path.path()).output().unwrap();
    let npm = run(Command::new("sh").arg(script("node.sh")));
    assert!(npm.status.success(), "{}", text(&npm.stderr));
    let version = run(Command::new("sh").arg("-c").arg(format!("{} --version", text(&npm.stdout))));
    assert!(version.status.success() && text(&version.stdout).contains('.'), "{}", text(&version.stderr));
}

#[test]
fn skipped_tests_are_counted_by_name_and_can_be_forbidden() {
    let folder = tempfile::tempdir().unwrap();
    let cargo = folder.path().join("cargo");
    let run = |skipped: &str, more: &[(&str, &str)]| -> Output {
        let says = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s'";
        std::fs::write(&cargo, format!("#!/bin/sh\n{skipped}\n{says}\n{says}\n")).unwrap();
        std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("python3");
        command.arg(script("run_tests.py")).env("PATH", path).env_remove("PYROGRAPH_SKIPS_ARE_FAILURES");
        command.envs(more.iter().copied()).output().unwrap()
    };
    let last = |output: &Output| text(&output.stdout).lines().last().unwrap().to_owned();

    let all = run("", &[("PYROGRAPH_SKIPS_ARE_FAILURES", "1")]);
    assert_eq!((all.status.code(), last(&all).as_str()), (Some(0), "tests: 6 passed, 0 failed, 0 skipped"));
    let note = "echo 'database::pooled: no pgbouncer' >> $PYROGRAPH_SKIPS";
    let one = run(note, &[]);
    assert_eq!((one.status.code(), last(&one).as_str()), (Some(0), "tests: 5 passed, 0 failed, 1 skipped"));
    assert!(text(&one.stdout).contains("skipped for want of a program: database::pooled: no pgbouncer"));
    assert_eq!(run(note, &[("PYROGRAPH_SKIPS_ARE_FAILURES", "1")]).status.code(), Some(1));
}
