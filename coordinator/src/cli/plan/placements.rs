//! What a device would have to hold under each placement, which one is taken, and what it costs to move the rest.

use ropewalk_worker::cost::Load;
use ropewalk_worker::placement::{Need, NoPlacement, Placement, Residence};
use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;
/// What is moved between host and device in a second: a PCIe 4.0 slot of 16 lanes sustains a little more.
const LINK_BYTES_PER_SECOND: f64 = 20e9;
/// How many devices of a machine are tried when one is too small.
const MOST_DEVICES: usize = 8;

/// One way to place a model and a document.
#[derive(Debug, Serialize)]
pub(super) struct Placed {
    devices: usize,
    /// `device`, or `streamed`.
    weights: &'static str,
    /// `device`, or `host`.
    hidden_states: &'static str,
    /// On each device, at most.
    device_gib: f64,
    /// In the host's memory.
    host_gib: f64,
    /// Between host and device, for one document pass.
    moved_gib: f64,
    /// Absent where the device's memory is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
    #[serde(skip)]
    place: Placement,
}

/// All that is said about placements.
#[derive(Debug, Serialize)]
pub(super) struct Placements {
    /// What one device and, if that is too small, several could hold.
    pub(super) all: Vec<Placed>,
    /// The one that would be taken: the one that fits, on the fewest devices, and moves the least.
    pub(super) taken: Option<Placed>,
    /// The longest document that fits on one device in some way.
    pub(super) longest: Option<usize>,
    #[serde(skip)]
    refused: Option<NoPlacement>,
}

// === impl Placements ===

impl Placements {
    pub(super) fn of(load: Load<'_>, limit: Option<u64>) -> Self {
        let residences = [Residence::Device, Residence::Host];
        let one = residences
            .into_iter()
            .flat_map(|weights| residences.map(|hidden| Placement { weights, hidden, ..Placement::RESIDENT }));
        let mut all: Vec<Placed> = one.map(|place| Placed::of(place, load, limit)).collect();
        let Some(limit) = limit else { return Self { all, taken: None, longest: None, refused: None } };
        let chosen = |devices| Placement::choose(load, limit, devices, None);
        let several = || (2..=MOST_DEVICES).find_map(|devices| chosen(devices).ok());
        let alone = chosen(1);
        let refused = alone.clone().err();
        let taken = alone.ok().or_else(several).map(|place| Placed::of(place, load, Some(limit)));
        if taken.as_ref().is_some_and(|taken| taken.devices > 1) {
            all.extend(taken.iter().map(|taken| Placed::of(taken.place, load, Some(limit))));
        }
        let streamed = Placement { weights: Residence::Host, ..Placement::RESIDENT };
        let longest = Placement::RESIDENT.longest(load, limit).max(streamed.longest(load, limit));
        Self { all, taken, longest: Some(longest), refused }
    }

    /// Whether one device holds it in some way.
    pub(super) fn alone(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.devices == 1)
    }

    /// Seconds that one document pass waits for what is moved.
    pub(super) fn seconds_moving(&self) -> f64 {
        self.taken.as_ref().map_or(0.0, |taken| taken.moved_gib * GIB / LINK_BYTES_PER_SECOND / taken.devices as f64)
    }

    pub(super) fn describe(&self) -> Vec<String> {
        let header = ["devices", "weights", "hidden states", "device GiB", "host GiB", "moved GiB"];
        let row = |cells: [&str; 6], fits: &str| {
            let [devices, weights, hidden, device, host, moved] = cells;
            format!("{devices:>8} {weights:>9} {hidden:>14} {device:>11} {host:>9} {moved:>10}  {fits}")
                .trim_end()
                .to_owned()
        };
        let mut lines = vec![row(header, "")];
        lines.extend(self.all.iter().map(|placed| {
            let gib = |gib: f64| format!("{gib:.3}");
            let taken = self.taken.as_ref().is_some_and(|taken| taken.place == placed.place);
            let fits = match placed.fits {
                Some(true) if taken => "fits, and would be taken",
                Some(true) => "fits",
                Some(false) => "does NOT fit",
                None => "",
            };
            let (device, host, moved) = (gib(placed.device_gib), gib(placed.host_gib), gib(placed.moved_gib));
            let devices = placed.devices.to_string();
            row([&devices, placed.weights, placed.hidden_states, &device, &host, &moved], fits)
        }));
        match (&self.taken, &self.refused) {
            (None, Some(refused)) => {
                lines.push(format!(
                    "{refused}; nor do {MOST_DEVICES} devices help, as each holds all keys and values of a layer"
                ));
            }
            (Some(taken), Some(_)) => lines.push(format!("one device is too small, {} would do", taken.devices)),
            _ => {}
        }
        lines.extend(
            self.longest.map(|longest| format!("the longest document that fits on one device has {longest} tokens")),
        );
        lines
    }
}

// === impl Placed ===

impl Placed {
    fn of(place: Placement, load: Load<'_>, limit: Option<u64>) -> Self {
        let need: Need = place.need(load);
        let gib = |bytes: u64| bytes as f64 / GIB;
        Self {
            devices: place.devices,
            weights: if place.weights == Residence::Device { "device" } else { "streamed" },
            hidden_states: if place.hidden == Residence::Device { "device" } else { "host" },
            device_gib: gib(need.device()),
            host_gib: gib(need.host),
            moved_gib: gib(need.moved),
            fits: limit.map(|limit| need.device() <= limit),
            place,
        }
    }
}
