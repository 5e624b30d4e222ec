//! The `process_*` series that every Prometheus client has, read from `/proc/self`.

use std::fs;
use std::sync::OnceLock;

use super::encode::{Encoder, Labels};
use super::process_names::{CPU, MAX_FDS, OPEN_FDS, RESIDENT, START, VIRTUAL};

/// Linux reports processor time to user space in hundredths of a second, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What does not change while the process runs.
#[derive(Debug)]
pub struct Process {
    boot_time: OnceLock<Option<f64>>,
}

impl Process {
    pub(super) fn new() -> Self {
        Self {
            boot_time: OnceLock::new(),
        }
    }

    /// Writes what can be read; nothing on a system without `/proc`.
    pub(super) fn encode(&self, encoder: &mut Encoder) {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        // Read anew, /proc/stat costs a millisecond on a machine with many cores.
        let boot_time = *self
            .boot_time
            .get_or_init(|| boot_time(&fs::read_to_string("/proc/stat").ok()?));
        let start = boot_time.and_then(|boot| Some(boot + stat_field(&stat, 22)? / TICKS_PER_SECOND));
        let cpu = stat_field(&stat, 14).and_then(|user| Some((user + stat_field(&stat, 15)?) / TICKS_PER_SECOND));
        let all = [
            (CPU, cpu),
            (MAX_FDS, max_fds(&limits)),
            (OPEN_FDS, open_fds()),
            (RESIDENT, kibibytes(&status, "VmRSS:")),
            (START, start),
            (VIRTUAL, kibibytes(&status, "VmSize:")),
        ];
        for (family, value) in all {
            encoder.family("process_", family);
            if let Some(value) = value {
                encoder.sample(&Labels::default(), value);
            }
        }
    }
}

/// A field of `/proc/self/stat`, counted from 1 as in proc(5). The second, the name, may hold anything but `)` last.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number: f64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024.0)
}

fn max_fds(limits: &str) -> Option<f64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match rest.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

fn open_fds() -> Option<f64> {
    // Since Linux 6.2 the folder's size is the number of its entries: no need to list them.
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size as f64);
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 4 0 12345 1000 99";
        assert_eq!(stat_field(stat, 14), Some(150.0));
        assert_eq!(stat_field(stat, 15), Some(50.0));
        assert_eq!(stat_field(stat, 22), Some(12345.0));
        assert_eq!(stat_field("", 14), None);
    }

    #[test]
    fn other_files() {
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
        assert_eq!(kibibytes("VmPeak:\t 9 kB\nVmRSS:\t   8 kB\n", "VmRSS:"), Some(8192.0));
        assert_eq!(
            max_fds("Max open files            1024                 4096                 files\n"),
            Some(1024.0)
        );
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files\n"),
            Some(f64::INFINITY)
        );
    }
}
