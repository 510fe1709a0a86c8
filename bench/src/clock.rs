//! Times work on an asynchronous device: every measurement waits until the device has finished.

use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::prelude::*;

/// Milliseconds until the device has finished `work`.
pub(crate) fn once<T>(device: &Device, work: impl FnOnce() -> T) -> Result<(f64, T)> {
    wait(device)?;
    let start = Instant::now();
    let made = work();
    wait(device)?;
    Ok((1e3 * start.elapsed().as_secs_f64(), made))
}

/// Milliseconds of the first call, including compilation and autotuning, and the median of `count` calls after two
/// more.
pub(crate) fn first_and_median(device: &Device, count: usize, mut work: impl FnMut()) -> Result<(f64, f64)> {
    let (first, ()) = once(device, &mut work)?;
    for _ in 0..2 {
        work();
    }
    Ok((first, median(device, count, work)?))
}

/// The median of `count` calls in milliseconds.
pub(crate) fn median(device: &Device, count: usize, mut work: impl FnMut()) -> Result<f64> {
    let mut times = (0..count.max(1)).map(|_| Ok(once(device, &mut work)?.0)).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(|error| anyhow!("the device failed: {error:?}"))
}

/// GiB of device memory that Burn's pools reserve; `None` on the CPU.
pub(crate) fn reserved(device: &Device) -> Option<f64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved as f64 / f64::from(1 << 30))
}
