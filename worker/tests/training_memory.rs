//! What a training takes is what was said before it, checkpoints and result included.
#![allow(clippy::unwrap_used)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use ropewalk_shared::rope::Rescale;
use ropewalk_shared::training::{Precision, TrainSequence, TrainSpec};
use ropewalk_worker::model::Model;
use ropewalk_worker::train::{TrainEvent, bytes, run};
use std::ops::ControlFlow;
use support::{TestModel, tokens};

const VOCABULARY: usize = 1 << 14;
/// Of the embedding, which is larger than all else.
const LARGEST: u64 = (VOCABULARY * 128 * 4) as u64;
const LENGTH: usize = 64;

#[test]
fn neither_checkpoints_nor_the_result_take_more_than_was_said() {
    let model = TestModel::with_vocabulary(VOCABULARY);
    let rescale = Rescale::with_factors(vec![1.5; 16]);
    let sequences = [TrainSequence::long(tokens(LENGTH))];
    let decoder = Model::read_spec(model.dir()).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let spec = TrainSpec {
            checkpoint_every: 1,
            warmup_steps: 0,
            precision,
            ..TrainSpec::new(3, LENGTH as u32, rescale.clone())
        };
        let (room, said) = (tempfile::tempdir().unwrap(), bytes(&decoder, &spec, LENGTH));
        // Stopped after a checkpoint, then gone on with to the end.
        for stop in [1, u32::MAX] {
            let (begin, mut before, mut most) = (counting::reset_peak(), 0, 0);
            let result = run(
                model.dir(),
                &spec,
                &sequences,
                &room.path().join("work"),
                &room.path().join("out"),
                &mut |event| {
                    most = most.max(counting::peak());
                    if let TrainEvent::Checkpoint { .. } = event {
                        let more = counting::peak() - before;
                        assert!(more < LARGEST / 4, "{more} bytes for a checkpoint of tensors up to {LARGEST}");
                    }
                    before = counting::reset_peak();
                    match event {
                        TrainEvent::Checkpoint { step } if step == stop => ControlFlow::Break(()),
                        _ => ControlFlow::Continue(()),
                    }
                },
            );
            assert_eq!(result.is_ok(), stop > 1, "{result:?}");
            let taken = most.max(counting::peak()) - begin;
            assert!(taken < said + LARGEST / 4, "{taken} bytes were taken, {said} were said ({precision:?})");
        }
    }
}
