//! A user id without a name, as OpenShift assigns: `up` says what helps, or uses nss_wrapper.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use journeys::client::Client;
use journeys::process::{Process, Signal, binary};
use journeys::programs::nss_wrapper;
use journeys::stack::free_port;
use journeys::wait::{seconds, until};

/// No line of /etc/passwd has this id.
const ID: u32 = 1_000_730_017;

#[tokio::test]
async fn a_user_without_a_name_is_told_what_helps_and_has_one_where_nss_wrapper_is() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can run a process as another user");
        return;
    }
    let folder =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o777)).tempdir_in("/tmp").unwrap();
    // The build folder may be closed to other users.
    let program = folder.path().join("pyrograph");
    std::fs::copy(binary(), &program).unwrap();
    let port = free_port();
    let up = |libraries: Option<PathBuf>| {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nowhere").current_dir("/").stdin(Stdio::null());
        command.env("PYROGRAPH_POSTGRES_BIN", journeys::programs::postgres(18).unwrap_or_default());
        command.envs(libraries.map(|folder| ("LD_LIBRARY_PATH", folder)));
        command.args(["up", "--device", "cpu", "--bind", &format!("127.0.0.1:{port}"), "--data-dir"]);
        command.arg(folder.path().join("data"));
        command.uid(ID).gid(0);
        command
    };
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::set_permissions(folder.path().join("data"), std::fs::Permissions::from_mode(0o777)).unwrap();

    if !std::path::Path::new("/usr/lib/x86_64-linux-gnu/libnss_wrapper.so").is_file() {
        let output = up(None).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        for word in [ID.to_string().as_str(), "DATABASE_URL", "libnss-wrapper"] {
            assert!(stderr.contains(word), "{stderr}");
        }
    }

    let Some(libraries) = nss_wrapper() else { return };
    let mut process = Process::start("up", &folder.path().join("log"), up(Some(libraries)));
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    until(seconds(90), "`up` is ready", || {
        assert!(process.is_alive(), "{}", process.log());
        let client = client.clone();
        async move { client.is_ready().await.then_some(()) }
    })
    .await;
    assert!(process.end(Signal::INT, seconds(30)).success());
}
