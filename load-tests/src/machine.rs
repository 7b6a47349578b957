//! What the run was measured on, and who used the processor meanwhile. Read from `/proc`; what
//! cannot be read is left out.

use std::fs;

use serde::Serialize;

/// Clock ticks a second in `/proc`, the same on every Linux that Rust supports.
const TICKS_PER_S: f64 = 100.0;

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores that the generator may use.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
}

/// Processor time used so far, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTimes {
    generator: f64,
    broker: Option<f64>,
    all: f64,
}

/// Processor time used during a run, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuUse {
    /// By the generator.
    pub generator_s: f64,
    /// By the broker, when its process is known.
    pub broker_s: Option<f64>,
    /// By everybody else, when the broker's process is known.
    pub others_s: Option<f64>,
}

impl Machine {
    /// Asks the machine.
    pub fn here() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu_info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned());
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu,
            kernel,
        }
    }
}

impl CpuTimes {
    /// The times up to now.
    pub fn now(broker_pid: Option<u32>) -> Self {
        CpuTimes {
            generator: process_s("self").unwrap_or(0.0),
            broker: broker_pid.and_then(|pid| process_s(&pid.to_string())),
            all: all_s().unwrap_or(0.0),
        }
    }

    /// What was used since `self`.
    pub fn until(&self, end: &CpuTimes) -> CpuUse {
        let generator_s = end.generator - self.generator;
        let broker_s = self.broker.zip(end.broker).map(|(a, b)| b - a);
        let others_s = broker_s.map(|b| (end.all - self.all - generator_s - b).max(0.0));
        CpuUse {
            generator_s: hundredths(generator_s),
            broker_s: broker_s.map(hundredths),
            others_s: others_s.map(hundredths),
        }
    }
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

/// User and system time of a process.
fn process_s(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks_in_stat(&stat)
}

/// Fields 14 and 15, counted behind the name, which may hold spaces and brackets.
fn ticks_in_stat(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

/// Time that all cores have spent on anything but waiting.
fn all_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq; the rest is other machines' or counted twice.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_shift_the_fields() {
        let stat = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(ticks_in_stat(stat), Some(2.0));
        assert_eq!(ticks_in_stat("12 (a) S"), None);
    }

    #[test]
    fn others_are_what_is_left() {
        let start = CpuTimes::default();
        let end = CpuTimes {
            generator: 1.0,
            broker: Some(2.0),
            all: 3.5,
        };
        assert_eq!(start.until(&end).others_s, None);
        let start = CpuTimes {
            broker: Some(1.0),
            ..start
        };
        assert_eq!(start.until(&end).others_s, Some(1.5));
    }
}
