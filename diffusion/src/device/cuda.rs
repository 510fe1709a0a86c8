//! CUDA's requirements besides a GPU: the driver, and `libdevice.10.bc`, NVIDIA's library of exp, sin, pow and so on,
//! which kernels are linked with when they are compiled. Also the cache of compiled kernels.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DeviceType;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Where toolkits are usually installed.
const TOOLKITS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];
/// Path of libdevice within a toolkit.
const LIBDEVICE: &str = "nvvm/libdevice/libdevice.10.bc";

/// The number of usable devices, at least one, or why there is none.
pub(super) fn count() -> Result<usize, String> {
    let count = Device::enumerate(DeviceType::Cuda).into_vec().len();
    if count == 0 {
        return Err(why_none(Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/dxg").exists()));
    }
    let found = root(std::env::var_os("CUDA_PATH").map(PathBuf::from), &TOOLKITS);
    // The processes that use the device are started with CUDA_PATH set to the program's folder, if libdevice is there.
    let found = found.or_else(|| toolkit_beside(&std::env::current_exe().ok()?));
    found.map(|_| count).ok_or_else(|| {
        format!(
            "there is a CUDA device, but {LIBDEVICE} was not found: install a CUDA toolkit, set CUDA_PATH to one, or \
             put the file there below the folder of this program"
        )
    })
}

fn why_none(driver: bool) -> String {
    if driver {
        "the NVIDIA driver is there and shows no device: look at nvidia-smi, CUDA_VISIBLE_DEVICES, and at how the \
         container got its devices"
    } else {
        "no NVIDIA driver is loaded on this machine"
    }
    .into()
}

/// The root of a toolkit with libdevice: CUDA_PATH if it is set, else the first of the usual ones.
fn root(cuda_path: Option<PathBuf>, usual: &[&str]) -> Option<PathBuf> {
    let candidates = cuda_path.map_or_else(|| usual.iter().map(PathBuf::from).collect(), |path| vec![path]);
    candidates.into_iter().find(|root| root.join(LIBDEVICE).is_file())
}

/// The CUDA_PATH to set for the process that uses the device: the folder of this program, if libdevice is at its
/// usual path there. `None` if CUDA_PATH is set already or a toolkit is installed.
pub(super) fn toolkit_beside(program: &Path) -> Option<PathBuf> {
    if std::env::var_os("CUDA_PATH").is_some() || root(None, &TOOLKITS).is_some() {
        return None;
    }
    let folder = program.parent()?.to_path_buf();
    folder.join(LIBDEVICE).is_file().then_some(folder)
}

/// Stores compiled kernels and autotuning results in `folder`, one file per version of this program and of Burn, so
/// that an upgrade starts with an empty cache. Call it at process start, before the first tensor operation; later it
/// has no effect.
///
/// CubeCL's variables (`CUBECL_AUTOTUNE_LEVEL`, `CUBECL_DEBUG_OPTION`, …) still apply.
pub(super) fn keep_kernels(folder: &Path) {
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.environment.path = CacheConfig::Directory(folder.to_path_buf());
    config.environment.name = concat!("kernels-", env!("CARGO_PKG_VERSION")).into();
    config.compilation.cache = true;
    CubeClRuntimeConfig::try_set(config);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libdevice_is_found_where_it_may_lie() {
        let folder = tempfile::tempdir().unwrap();
        let plant = |root: &str| {
            let file = folder.path().join(root).join(LIBDEVICE);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, b"BC").unwrap();
            folder.path().join(root)
        };
        let (named, usual) = (plant("named"), plant("usual"));
        let empty = folder.path().join("empty");
        let places = [empty.to_str().unwrap(), usual.to_str().unwrap()];
        assert_eq!(root(Some(named.clone()), &places), Some(named));
        assert_eq!(root(None, &places), Some(usual.clone()));
        assert_eq!(root(Some(empty.clone()), &places), None, "who sets CUDA_PATH means it");
    }

    #[test]
    fn each_reason_has_its_own_sentence() {
        assert_ne!(why_none(true), why_none(false));
        let told = crate::device::open(crate::device::DeviceChoice::Cuda(0));
        if Device::enumerate(DeviceType::Cuda).into_vec().is_empty() {
            assert!(told.unwrap_err().to_string().contains("NVIDIA driver"));
        }
    }
}
