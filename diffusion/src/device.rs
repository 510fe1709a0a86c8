//! Selects the device for tensors. Checks availability before it touches any device, so that a machine without a
//! GPU gets a clear error. `cuda` checks CUDA's own requirements.

#[cfg(feature = "cuda-unfused")]
mod cuda;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn::prelude::*;
pub use burn::tensor::DType;
use memory::ComputeType;

use crate::{Error, Result};

/// A device as given by the user: `auto`, `cpu`, `cuda` or `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU, or the CPU if there is none.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

/// An opened device.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// Burn's handle.
    pub device: Device,
    /// Its name as a choice, such as `cuda:0`.
    pub name: String,
    /// Why this device was selected, if the choice left it open.
    pub why: Option<String>,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| Error::Device(format!("{text:?} is none of auto, cpu, cuda and cuda:N"))),
        }
    }
}

/// The device that a choice resolves to, and the reason if the choice leaves it open. Touches no device.
pub fn choose(choice: DeviceChoice) -> Result<(DeviceChoice, Option<String>)> {
    match choice {
        DeviceChoice::Cpu => Ok((choice, None)),
        DeviceChoice::Auto => Ok(match cuda_devices() {
            Ok(_) => (DeviceChoice::Cuda(0), Some("the first CUDA device".into())),
            Err(reason) => (DeviceChoice::Cpu, Some(reason)),
        }),
        DeviceChoice::Cuda(index) => match cuda_devices() {
            Ok(count) if index < count => Ok((choice, None)),
            Ok(count) => Err(Error::Device(format!("cuda:{index} was asked for, and there are {count} CUDA devices"))),
            Err(reason) => Err(Error::Device(reason)),
        },
    }
}

/// Opens the chosen device. Never panics, with or without a GPU.
pub fn open(choice: DeviceChoice) -> Result<OpenDevice> {
    let (choice, why) = choose(choice)?;
    let device = match choice {
        DeviceChoice::Cuda(index) => open_cuda(index)?,
        DeviceChoice::Auto | DeviceChoice::Cpu => Device::flex(),
    };
    Ok(OpenDevice { device, name: choice.to_string(), why })
}

/// Adds the calling thread to the CPU backend's thread pool. A step has hundreds of short parallel loops. A thread
/// outside the pool hands each of them over and waits, which takes most of the time on a busy machine.
///
/// Call it once, from the thread that runs all tensor operations of the process, before the first of them: the pool
/// relies on that thread from then on. The pool has `threads` threads, this one included; by default, one for each
/// CPU that the standard library finds.
pub fn join_pool(threads: Option<usize>) {
    // An error means that a pool exists already; loops are then handed over as usual.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).use_current_thread().build_global();
}

/// Extra environment variables for a process that uses the device. `program` is the executable that it runs.
pub fn environment(program: &Path) -> Vec<(&'static str, PathBuf)> {
    #[cfg(feature = "cuda-unfused")]
    return cuda::toolkit_beside(program).into_iter().map(|root| ("CUDA_PATH", root)).collect();
    #[cfg(not(feature = "cuda-unfused"))]
    {
        let _ = program;
        Vec::new()
    }
}

/// Stores compiled kernels and autotuning results in `folder` for later processes. Call it before the first tensor
/// operation. It has no effect on the CPU backend.
pub fn keep_kernels(folder: &Path) {
    #[cfg(feature = "cuda-unfused")]
    cuda::keep_kernels(folder);
    #[cfg(not(feature = "cuda-unfused"))]
    let _ = folder;
}

/// The dtype of weights on a device: f32 on the CPU, where bf16 is not faster; bf16 elsewhere, if the device has it.
/// CUDA cards before Ampere and Vulkan do not.
pub fn weight_dtype(device: &Device) -> DType {
    let device = device.clone().without_autodiff();
    dtype_of(device == Device::flex(), |dtype| device.supports_dtype(dtype))
}

/// The same, as budgets state it.
pub fn compute_type(device: &Device) -> ComputeType {
    if weight_dtype(device) == DType::BF16 { ComputeType::Bf16 } else { ComputeType::F32 }
}

/// Not f16 where bf16 is missing: T5 and the autoencoder exceed its range.
fn dtype_of(is_cpu: bool, supports: impl Fn(DType) -> bool) -> DType {
    if !is_cpu && supports(DType::BF16) { DType::BF16 } else { DType::F32 }
}

/// The number of usable CUDA devices, at least one, or why there is none.
fn cuda_devices() -> Result<usize, String> {
    #[cfg(feature = "cuda-unfused")]
    return cuda::count();
    #[cfg(not(feature = "cuda-unfused"))]
    Err("this build has no CUDA support (cargo feature `cuda`)".into())
}

#[cfg(feature = "cuda-unfused")]
fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::cuda(index);
    device.sync().map_err(|error| Error::Device(format!("cuda:{index} does not answer: {error:?}")))?;
    Ok(device)
}

#[cfg(not(feature = "cuda-unfused"))]
fn open_cuda(index: usize) -> Result<Device> {
    Err(Error::Device(format!("cuda:{index} cannot be opened by this build")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_as_they_are_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(3)] {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        assert!("gpu".parse::<DeviceChoice>().is_err());
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn weights_have_a_dtype_that_the_device_has() {
        let without = |missing: DType| move |dtype| dtype != missing;
        assert_eq!(dtype_of(false, |_| true), DType::BF16);
        assert_eq!(dtype_of(false, without(DType::BF16)), DType::F32);
        assert_eq!(dtype_of(true, |_| true), DType::F32);
        assert_eq!(weight_dtype(&Device::flex()), DType::F32);
        assert_eq!(weight_dtype(&Device::flex().autodiff()), DType::F32);
    }

    #[test]
    fn a_machine_without_a_gpu_says_so() {
        assert_eq!(open(DeviceChoice::Cpu).unwrap().name, "cpu");
        let auto = open(DeviceChoice::Auto).unwrap();
        assert!(auto.why.is_some());
        assert!(open(DeviceChoice::Cuda(4096)).is_err());
    }
}
