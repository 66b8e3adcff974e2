use super::*;
use serde_json::json;

/// A valid job: 256 tokens to 2,048.
fn job() -> JobSpec {
    let config = json!({
        "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 256,
    });
    JobSpec {
        name: "lab".into(),
        model: ModelIdentity {
            name: "lab-model".into(),
            fingerprint: Fingerprint::from([7; 32]),
            config_json: config.to_string(),
        },
        target_length: 2048,
        search: SearchOptions::default(),
        samples: vec![SampleId::from([1; 32])],
        held_out: vec![SampleId::from([2; 32])],
    }
}

fn problems(change: impl FnOnce(&mut JobSpec)) -> Vec<&'static str> {
    let mut job = job();
    change(&mut job);
    job.check().map_or_else(|e| e.problems.iter().map(|problem| problem.field).collect(), |_| Vec::new())
}

#[test]
fn the_paper_evaluates_1344_candidates() {
    assert_eq!(EvolutionOptions::default().evaluations(), 1344);
}

#[test]
fn the_space_follows_from_the_extension_ratio() {
    let job = job();
    let description = job.check().unwrap();
    assert_eq!(job.extension_ratio(&description), 8.0);
    let space = job.space(&description);
    assert_eq!((space.pairs, space.max_point), (8, 1000));
}

#[test]
fn every_bad_field_is_named() {
    type Change = fn(&mut JobSpec);
    let cases: [(Change, &str); 20] = [
        (|job| job.name = "../x".into(), "name"),
        (|job| job.model.name = "a/b".into(), "model"),
        (|job| job.model.config_json = "{}".into(), "model"),
        (|job| job.target_length = 256, "target_length"),
        (|job| job.target_length = u32::MAX, "target_length"),
        (|job| job.samples.clear(), "samples"),
        (|job| job.held_out = job.samples.clone(), "samples"),
        (|job| job.search.max_factor = Some(0.5), "max_factor"),
        (|job| job.search.max_factor = Some(f64::NAN), "max_factor"),
        (|job| job.search.start_tokens = vec![4, 0], "start_tokens"),
        (|job| job.search.start_tokens.clear(), "start_tokens"),
        (|job| job.search.attention_factor = AttentionFactorPolicy::Fixed(f64::NAN), "attention_factor"),
        (|job| job.search.init = vec![Rescale::identity(3)], "init"),
        (|job| job.search.evolution.population = 0, "population"),
        (|job| job.search.evolution.parents = 0, "parents"),
        (|job| (job.search.evolution.mutations, job.search.evolution.crossovers) = (0, 0), "mutations"),
        (|job| job.search.evolution.mutation_probability = f64::NAN, "mutation_probability"),
        (|job| job.search.pair_attention = 1, "pair_attention"),
        (|job| (job.search.strategy, job.search.pair_attention) = (StrategyKind::DimMono, 1), "pair_attention"),
        (|job| (job.search.strategy, job.search.pair_attention) = (StrategyKind::Ropewalk, u32::MAX), "pair_attention"),
    ];
    for (change, field) in cases {
        assert!(problems(change).contains(&field), "{field}: {:?}", problems(change));
    }
    assert!(problems(|_| ()).is_empty());
    assert!(problems(|job| (job.search.strategy, job.search.pair_attention) = (StrategyKind::Ropewalk, 1)).is_empty());
}

#[test]
fn a_shipped_scaling_that_no_model_can_be_run_with_is_refused() {
    let shipped = |scaling: serde_json::Value| {
        problems(|job| {
            let mut config: serde_json::Value = serde_json::from_str(&job.model.config_json).unwrap();
            config["rope_scaling"] = scaling;
            job.model.config_json = config.to_string();
        })
    };
    assert_eq!(shipped(json!({"rope_type": "dynamic", "factor": 4.0})), [""; 0]);
    // All of these are numbers above 0.
    assert_eq!(shipped(json!({"rope_type": "dynamic", "factor": 1e300})), ["model"]);
    assert_eq!(shipped(json!({"rope_type": "linear", "factor": 1e-300})), ["model"]);
    assert_eq!(shipped(json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1e308})), ["model"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(|job| {
        job.target_length = 1;
        job.samples.clear();
        job.search.evolution.population = 0;
    });
    assert!(["target_length", "samples", "population"].iter().all(|field| found.contains(field)), "{found:?}");
}

/// Short-window recovery (section 3.4 of the paper): the original window of an extended model, with a reduced factor.
#[test]
fn a_short_window_is_searched_up_to_a_stated_factor() {
    let recovery = |job: &mut JobSpec| {
        job.target_length = 256;
        job.search.max_factor = Some(2.0);
    };
    assert!(problems(recovery).is_empty());
    assert_eq!(problems(|job| job.target_length = 128), ["target_length"]);
    for strategy in StrategyKind::ALL.into_iter().filter(|strategy| strategy.ends_at_ratio()) {
        let found = problems(|job| {
            recovery(job);
            job.search.strategy = strategy;
            job.search.start_tokens = vec![0];
        });
        assert_eq!(found, ["strategy"], "its last factors would be those of no extension");
    }
    let mut job = job();
    recovery(&mut job);
    let description = job.description().unwrap();
    job.target_length = 64;
    // Nothing is extended: a ratio below 1 would make the methods' factors shorten the window.
    assert_eq!((job.extension_ratio(&description), job.space(&description).max_point), (1.0, 200));
}

#[test]
fn the_id_follows_the_specification() {
    let base = job();
    let mut other = job();
    other.search.seed = 1;
    assert_eq!(base.id(), job().id());
    assert_ne!(base.id(), other.id());
    assert!(base.id().as_str().starts_with("lab-"));
    assert_eq!(base.id().as_str().parse(), Ok(base.id()));
    assert!("../../etc".parse::<JobId>().is_err());
    // What was added later changes no id while nobody asks for it.
    let text = serde_json::to_string(&base).unwrap();
    for later in ["racing", "max_passes", "pair_attention"] {
        assert!(!text.contains(later), "{later} in {text}");
    }
    // What is stored is what comes back.
    (other.search.racing, other.search.max_passes) = (crate::racing::Racing::Fast, Some(1000));
    let text = serde_json::to_string(&other).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap().id(), other.id());
}

/// Everything that can be wrong with a short window at once, and that jobs without one keep their ids.
#[test]
fn short_windows_are_checked() {
    let mut job = job();
    let text = serde_json::to_string(&job).unwrap();
    assert!(!text.contains("keep_short"), "{text}");
    let sample = crate::sample::SampleId::from([77; 32]);
    let window = |length, percent| ShortWindow { length, percent, samples: vec![sample], held_out: Vec::new() };
    job.search.keep_short = vec![window(job.target_length, -1.0), window(job.target_length, 2.0)];
    job.search.keep_short[1].samples.clear();
    let Err(InvalidJob { problems }) = job.check() else { panic!("no problem") };
    let short: Vec<&str> = problems
        .iter()
        .filter(|problem| problem.field == "keep_short")
        .map(|problem| problem.reason.as_str())
        .collect();
    for part in ["given twice", "below the target length", "percent", "no sample"] {
        assert!(short.iter().any(|reason| reason.contains(part)), "{part} in {short:?}");
    }
    job.search.keep_short = vec![window(2, 0.0)];
    assert!(job.check().is_ok(), "{:?}", job.check());
    assert_eq!(job.all_samples().count(), job.samples.len() + 1 + job.held_out.len());
    let last = crate::sample::SampleId::from([78; 32]);
    job.search.keep_short[0].held_out.push(last);
    assert!(job.check().is_ok(), "{:?}", job.check());
    assert_eq!(job.all_samples().last(), Some(&last));
    assert_eq!(job.judged_samples().count(), job.samples.len() + 1, "nobody is judged by what is held out");
    let shared = job.samples[0];
    for held_out in [false, true] {
        let mut job = job.clone();
        let window = &mut job.search.keep_short[0];
        let samples = if held_out { &mut window.held_out } else { &mut window.samples };
        samples.push(shared);
        assert!(job.check().is_err(), "a sample is one or the other");
    }
}
