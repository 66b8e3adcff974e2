use super::*;
use crate::model_description::ModelDescription;
use crate::sample::MAX_SAMPLE_TOKENS;
use proptest::prelude::*;

fn spec() -> TrainSpec {
    TrainSpec::new(100, 2048, Rescale::identity(4))
}

fn model() -> ModelDescription {
    let config = r#"{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 96, "max_position_embeddings": 256, "rope_theta": 10000.0}"#;
    ModelDescription::from_config_json(config).unwrap()
}

#[test]
fn all_problems_are_told_at_once() {
    assert_eq!(spec().check(&model()), Ok(()));
    let wrong = TrainSpec {
        steps: 0,
        learning_rate: f64::NAN,
        clip_norm: Some(0.0),
        rescale: Rescale::identity(5),
        schedule: Schedule::Cosine { final_share: 2.0 },
        adamw: AdamW { beta2: 1.0, ..AdamW::default() },
        method: Method::Lora(Lora { rank: 0, alpha: f64::NAN, targets: vec!["lm_head".into()] }),
        mix: Mix { short_share: 0.7, retrieval_share: 0.7, short_length: Some(512), skip_share: 0.1, ..Mix::default() },
        ..spec()
    };
    let problems = wrong.check(&model()).unwrap_err().problems;
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
    let lora = ["lora_rank", "lora_alpha", "lora_targets"];
    let others = [
        "steps",
        "learning_rate",
        "clip_norm",
        "factors",
        "final_share",
        "beta2",
        "retrieval_share",
        "short_length",
        "skip_reach",
    ];
    for field in lora.iter().chain(&others) {
        assert!(fields.contains(field), "{field} in {fields:?}");
    }
    let nothing = Mix { short_share: f64::NAN, ..Mix::default() };
    assert!(TrainSpec { mix: nothing, ..spec() }.check(&model()).is_err());
}

#[test]
fn the_rate_rises_and_falls_as_written() {
    let cosine = Schedule::Cosine { final_share: 0.1 };
    let spec = TrainSpec { learning_rate: 1.0, warmup_steps: 10, steps: 110, schedule: cosine, ..spec() };
    let near = |step, want: f64| (spec.learning_rate_at(step) - want).abs() < 1e-12;
    // 1/10 to 1 over ten steps; half of the cosine in the middle; (1 - cos(pi / 100)) / 2 before the end.
    assert!(near(0, 0.1) && near(9, 1.0) && near(10, 1.0) && near(60, 0.55));
    assert!(near(109, 0.1 + 0.9 * 0.000_246_719_817_134_216));
    let constant = TrainSpec { schedule: Schedule::Constant, warmup_steps: 0, ..spec };
    assert_eq!((constant.learning_rate_at(0), constant.learning_rate_at(109)), (1.0, 1.0));
}

#[test]
fn a_short_file_is_a_whole_specification() {
    let text = r#"{"steps": 5, "length": 64, "rescale":
        {"rescale_factors": [1.0, 2.0], "start_tokens": 0, "attention_factor": 1.0}}"#;
    let read: TrainSpec = serde_json::from_str(text).unwrap();
    assert_eq!(read, TrainSpec::new(5, 64, Rescale::with_factors(vec![1.0, 2.0])));
    assert_eq!(serde_json::from_str::<TrainSpec>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    assert!(serde_json::from_str::<TrainSpec>(&text.replace("steps", "step")).is_err());
}

#[test]
fn passes_are_documents_where_those_are_apart() {
    let sequence = TrainSequence {
        tokens: (0..10).collect(),
        documents: vec![0, 4, 5],
        counted_from: 2,
        window: Window::Original,
        gaps: Vec::new(),
    };
    let passes: Vec<(&[u32], usize)> = sequence.passes().collect();
    // The document of one token has nothing to predict.
    assert_eq!(passes, [(&[0, 1, 2, 3][..], 2), (&[5, 6, 7, 8, 9][..], 0)]);
    assert_eq!(sequence.counted(), 2 + 4);
    let long = TrainSequence { window: Window::Long, ..sequence.clone() };
    assert_eq!((long.passes().count(), long.counted()), (1, 8));
    assert_eq!(long.check(0, 10), Ok(()));

    let refused = |sequence: &TrainSequence, vocab| sequence.check(3, vocab).unwrap_err().to_string();
    assert!(refused(&long, 9).contains("token 9 at 9"));
    assert!(refused(&TrainSequence { documents: vec![1], ..long.clone() }, 10).contains("the first at 0"));
    assert!(refused(&TrainSequence { documents: vec![0, 10], ..long.clone() }, 10).contains("behind its end"));
    assert!(refused(&TrainSequence { counted_from: 10, ..long.clone() }, 10).contains("none is counted"));
    assert!(refused(&TrainSequence { documents: vec![], ..long.clone() }, 10).starts_with("training sequence 3 must"));

    let gap = |before, width| Gap { before, width };
    let skipping = |gaps| TrainSequence { gaps, ..long.clone() };
    let positions = |gaps: &[Gap]| (0..10).map(|index| position(gaps, index)).collect::<Vec<u64>>();
    let (two, far) = (vec![gap(3, 100), gap(9, 7)], MAX_SAMPLE_TOKENS as u32);
    assert_eq!(positions(&two), [0, 1, 2, 103, 104, 105, 106, 107, 108, 116]);
    assert_eq!(skipping(two.clone()).check(0, 10), Ok(()));
    assert_eq!(skipping(vec![gap(3, far - 10)]).check(0, 10), Ok(()));
    for gaps in [vec![gap(10, 1)], vec![gap(3, 1), gap(3, 1)], vec![gap(3, far - 9)], vec![gap(3, u32::MAX); 2]] {
        assert!(refused(&skipping(gaps), 10).contains("gaps in ascending order"));
    }
    assert!(refused(&TrainSequence { gaps: two, ..sequence }, 10).contains("only under the rescaled RoPE"));
}

proptest! {
    #[test]
    fn every_round_uses_every_sequence_once(count in 1usize..40, seed: u64, round in 0u64..4) {
        let slots = round * count as u64..(round + 1) * count as u64;
        let mut used: Vec<usize> = slots.map(|slot| sequence_at(slot, count, seed)).collect();
        if round == 0 {
            prop_assert!(used.is_sorted());
        }
        used.sort_unstable();
        prop_assert_eq!(used, (0..count).collect::<Vec<_>>());
    }
}
