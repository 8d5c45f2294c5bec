//! What the operating system says of a process and those that it started: CPU time, memory.
//!
//! CPU time is taken from `schedstat`, which counts nanoseconds; `stat` counts hundredths of a second.

use std::path::Path;

use anyhow::Context as _;

/// A process with its children.
#[derive(Clone, Debug)]
pub(crate) struct Family(Vec<u32>);

impl Family {
    /// The process and those that it has started so far.
    pub(crate) fn of(pid: u32) -> Family {
        let mut all = vec![pid];
        let mut at = 0;
        while let Some(pid) = all.get(at).copied() {
            at += 1;
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Family(all)
    }

    /// CPU time so far, in microseconds, of all threads that are there.
    pub(crate) fn cpu_us(&self) -> f64 {
        let mut ns = 0_u64;
        for pid in &self.0 {
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
                ns += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        ns as f64 / 1e3
    }

    /// Resident memory now, in KB.
    pub(crate) fn rss_kb(&self) -> anyhow::Result<f64> {
        self.sum("VmRSS:")
    }

    /// What of it is no file that others map, too, in KB.
    pub(crate) fn own_kb(&self) -> anyhow::Result<f64> {
        self.sum("RssAnon:")
    }

    /// The most that was resident since [`Family::forget_peak`], in KB.
    pub(crate) fn peak_kb(&self) -> anyhow::Result<f64> {
        self.sum("VmHWM:")
    }

    /// The peak is counted from now on.
    pub(crate) fn forget_peak(&self) {
        for pid in &self.0 {
            // Where this is not allowed the peak is that of its whole life, which is never too little.
            drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
        }
    }

    fn sum(&self, name: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for pid in &self.0 {
            let path = format!("/proc/{pid}/status");
            let text =
                std::fs::read_to_string(Path::new(&path)).with_context(|| format!("{path} is gone"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0 kB");
            sum += line.trim().trim_end_matches(" kB").trim().parse::<f64>()?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_time_and_memory() {
        let own = Family::of(std::process::id());
        assert!(own.rss_kb().unwrap() > 500.0);
        assert!(own.peak_kb().unwrap() >= own.rss_kb().unwrap() * 0.9);
        assert!(own.cpu_us() > 0.0);
    }
}
