//! Metrics of workers, added up by device: names are theirs to choose.

use super::series::Series;
use ropewalk_shared::status::WorkerStatus;
use std::collections::BTreeMap;
use std::fmt;

/// Devices that are told apart; the others are one.
const MOST: usize = 32;
/// Longest device, in bytes.
const LONGEST: usize = 32;
/// What the others are called.
const OTHERS: &str = "other";

/// What the connected workers of one device do.
#[derive(Debug, Default, PartialEq)]
struct Device {
    workers: u64,
    training: u64,
    leased: u64,
    tokens_per_second: f64,
}

pub(super) fn all(series: &mut Series<'_>, workers: &[WorkerStatus]) -> fmt::Result {
    let devices = devices(workers);
    let each = |value: fn(&Device) -> u64| {
        devices.iter().map(move |(device, of)| ([("device", device.as_str())], value(of))).collect::<Vec<_>>()
    };
    let connected = devices.values().map(|device| device.workers).sum::<u64>();
    series.gauge("workers_connected", "Workers heard from within the time of a lease", Some(connected))?;
    series.gauges("workers", "The same by device", each(|device| device.workers))?;
    series.gauges("workers_training", "How many of them train", each(|device| device.training))?;
    series.gauges("units_in_work", "Units that workers hold, by device", each(|device| device.leased))?;
    let speeds = devices.iter().map(|(device, of)| ([("device", device.as_str())], of.tokens_per_second));
    let help = "Tokens a second over the recent results of each connected worker, added up by device";
    series.gauges("workers_tokens_per_second", help, speeds)
}

fn devices(workers: &[WorkerStatus]) -> BTreeMap<String, Device> {
    let mut devices: BTreeMap<String, Device> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| worker.connected) {
        let name = plain(&worker.device);
        let name = if devices.len() < MOST || devices.contains_key(&name) { name } else { OTHERS.to_owned() };
        let device = devices.entry(name).or_default();
        device.workers += 1;
        device.training += u64::from(worker.training.is_some());
        device.leased += u64::from(worker.leased);
        device.tokens_per_second += worker.tokens_per_second;
    }
    devices
}

/// A device as a label: what workers say of it can be any line.
fn plain(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ":._-".contains(c) { c } else { '_' };
    device.chars().take(LONGEST).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::samples::worker;

    #[test]
    fn devices_are_plain_and_few() {
        let mut workers: Vec<_> = (0..100).map(|number| worker(&format!("cuda:{number}"), 10.0)).collect();
        workers.push(worker("a\"b\nc <script> and so on and on and on", 5.0));
        workers.push(WorkerStatus { connected: false, ..worker("cpu", 7.0) });
        let devices = devices(&workers);
        assert_eq!(devices.len(), MOST + 1);
        assert_eq!(devices[OTHERS].workers, 69);
        assert_eq!(devices[OTHERS].tokens_per_second, 685.0);
        assert_eq!(plain(&workers[100].device), "a_b_c__script__and_so_on_and_on_");
    }
}
