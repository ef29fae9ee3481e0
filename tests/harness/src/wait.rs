//! Waits, each with a deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks again and again until the answer is a value; at the deadline, fails with `what` and the last answer's
/// reason. The closure says `Ok(Err(reason))` for "not yet" and `Err` for "never".
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask()? {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= deadline => {
                bail!("waited {:.1} s for {what}: {reason}", start.elapsed().as_secs_f64())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Whether this configuration of the VM has udev.
pub fn udev_runs() -> bool {
    match std::env::var("THINLAYER_UDEV") {
        Ok(answer) => answer == "1",
        Err(_) => Path::new("/run/udev/control").exists(),
    }
}

/// Waits until udev has nothing left to do; at once where udev does not run.
pub fn wait_for_udev() -> Result<()> {
    if udev_runs() {
        crate::run("udevadm", ["settle", "--timeout=60"])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_in_the_error() {
        let mut asked = 0;
        let error = eventually::<()>("rain", Duration::from_millis(50), || {
            asked += 1;
            Ok(Err(format!("dry, asked {asked}")))
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("for rain: dry, asked"), "{error}");
        assert!(asked >= 2);
    }
}
