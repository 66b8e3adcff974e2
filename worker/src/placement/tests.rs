use super::*;
use crate::cost::Format;
use crate::cost::tests::llama2_7b;
use crate::device::Dtype;
use crate::model::config::DecoderSpec;

fn load(spec: &DecoderSpec, tokens: usize) -> Load<'_> {
    Load { spec, format: Format::on(false, Dtype::Bf16), chunk_tokens: 512, tokens }
}

const GB: u64 = 1_000_000_000;

#[test]
fn what_is_streamed_is_counted_by_hand() {
    let (spec, tokens) = (llama2_7b(), 2_097_152);
    let need = |weights, hidden| Placement { weights, hidden, ..Placement::RESIDENT }.need(load(&spec, tokens));
    let all = need(Residence::Device, Residence::Device);
    assert_eq!(all.weights, 2 * 6_738_415_616);
    assert_eq!(all.hidden_states, 2_097_152 * 4096 * 2);
    assert_eq!(all.keys_values, 2 * 2_097_152 * 4096 * 2);
    assert!(all.device() < 141 * GB && all.moved == 0);
    let none = need(Residence::Host, Residence::Host);
    // Two layers of 202,383,360 weights, embedding and head of 32,000 x 4,096, a norm.
    assert_eq!(none.weights, 2 * (2 * 202_383_360 + 2 * 32_000 * 4096 + 4096));
    assert_eq!(none.hidden_states, 2 * 512 * 4096 * 2);
    assert_eq!(none.keys_values, all.keys_values);
    assert_eq!(none.host, all.hidden_states + 4 * 2_097_152);
    assert_eq!(none.moved, 32 * 2 * (202_383_360 + 2 * 2_097_152 * 4096));
}

#[test]
fn the_placement_that_moves_the_least_is_chosen() {
    let spec = llama2_7b();
    let choose = |tokens, limit, devices| Placement::choose(load(&spec, tokens), limit * GB, devices, None);
    let residences = |place: Placement| (place.weights, place.hidden);
    use Residence::{Device, Host};
    assert_eq!(residences(choose(2_097_152, 141, 1).unwrap()), (Device, Device));
    // 13.5 GB of weights against 32 x 2 x 17.2 GB of hidden states on their way.
    assert_eq!(residences(choose(2_097_152, 60, 1).unwrap()), (Host, Device));
    assert_eq!(residences(choose(2_097_152, 38, 1).unwrap()), (Host, Host));
    // Of a short document the hidden states are less than the weights: 32 x 2 x 0.03 GB.
    let short = load(&spec, 4096);
    let limit = Placement::RESIDENT.need(short).device() - 1;
    assert_eq!(residences(Placement::choose(short, limit, 1, None).unwrap()), (Device, Host));
    let error = choose(2_097_152, 30, 1).unwrap_err();
    assert_eq!((error.place.weights, error.place.hidden), (Host, Host));
    let text = error.to_string();
    assert!(text.contains("2097152 tokens") && text.contains("27.940 GiB") && text.contains("32.000 GiB"), "{text}");
    let two = choose(2_097_152, 48, 2).unwrap();
    assert_eq!((two.devices, residences(two)), (2, (Device, Host)));
    assert_eq!(two.need(load(&spec, 4096)).weights, 2 * (16 * 202_383_360 + 2 * 32_000 * 4096 + 4096));
}

#[test]
fn the_longest_is_the_longest_that_fits() {
    let spec = llama2_7b();
    for (weights, limit) in [(Residence::Device, 24), (Residence::Host, 24), (Residence::Host, 80)] {
        let place = Placement { weights, ..Placement::RESIDENT };
        let longest = place.longest(load(&spec, 1), limit * GB);
        let fits = |tokens| Placement::choose(load(&spec, tokens), limit * GB, 1, Some(weights)).is_ok();
        assert!(fits(longest) && !fits(longest + longest / 10), "{longest}");
    }
}

#[test]
fn candidates_that_go_together_fetch_weights_once() {
    let spec = llama2_7b();
    let streamed = Placement { weights: Residence::Host, ..Placement::RESIDENT };
    let one = streamed.need(load(&spec, 131_072));
    let together = streamed.with_most_together(load(&spec, 131_072), one.device() + 3 * one.hidden_states, 16);
    // Each further candidate has hidden states and rotation tables of its own.
    assert_eq!(together.together, 3);
    let need = together.need(load(&spec, 131_072));
    assert_eq!((need.moved, need.keys_values), (one.moved / 3, one.keys_values));
    assert_eq!(streamed.with_most_together(load(&spec, 131_072), 0, 16).together, 1);
}

#[test]
fn what_waits_on_the_host_has_to_fit_there() {
    let (spec, tokens) = (llama2_7b(), 131_072);
    let waiting = Placement { weights: Residence::Host, hidden: Residence::Host, ..Placement::RESIDENT };
    let one = waiting.need(load(&spec, tokens));
    let states = one.host - 4 * tokens as u64;
    assert_eq!(states, tokens as u64 * 4096 * 2);
    let room = Room { device: u64::MAX, host: one.host + 2 * states };
    assert_eq!(waiting.with_most_together(load(&spec, tokens), room, 16).together, 3);
    // Two devices, between which all hidden states pass through the host.
    let choose = |host| Placement::choose(load(&spec, tokens), Room { device: u64::MAX, host }, 2, None);
    assert!(choose(one.host).is_ok());
    let error = choose(one.host - 1).unwrap_err().to_string();
    assert!(error.contains("1.000 GiB of memory in no way") && error.contains("1.000 GiB beside it"), "{error}");
}

#[test]
fn on_the_processor_device_and_host_are_one_memory() {
    let spec = llama2_7b();
    let load = Load { format: Format { cpu: true, ..Format::on(false, Dtype::Bf16) }, ..load(&spec, 131_072) };
    let choose = |host| Placement::choose(load, Room { device: u64::MAX, host }, 1, None);
    let streamed = Placement { weights: Residence::Host, ..Placement::RESIDENT };
    let [all, least] = [Placement::RESIDENT, streamed].map(|place| place.need(load).device() + 4 * 131_072);
    assert_eq!(choose(all), Ok(Placement::RESIDENT));
    // Hidden states that wait on the host would take as much as before: weights are what is left out.
    assert_eq!(choose(all - 1), Ok(streamed));
    assert_eq!(choose(least), Ok(streamed));
    let error = choose(least - 1).unwrap_err();
    assert_eq!((error.place, error.least.device() + error.least.host), (streamed, least));
    let more = streamed.need(load).hidden_states + (Placement { together: 2, ..streamed }).need(load).buffers
        - streamed.need(load).buffers;
    let room = Room { device: u64::MAX, host: least + more };
    assert_eq!(
        [room, Room { host: room.host - 1, ..room }].map(|r| streamed.with_most_together(load, r, 16).together),
        [2, 1]
    );
}
