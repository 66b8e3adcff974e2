//! Plans: what is read, in which order stages run, and everything that is wrong at once.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ropewalk_coordinator::plan::identity::StageId;
use ropewalk_coordinator::plan::{FactorSource, FinetuneStage, Plan, Training, Work, presets};
use ropewalk_shared::fingerprint::Fingerprint;
use ropewalk_shared::job::{ModelIdentity, SearchObjective, StrategyKind};
use ropewalk_shared::model_description::ModelDescription;
use ropewalk_shared::racing::Racing;

/// Search, training, second search and recovery, the stages upside down.
const WHOLE: &str = r#"
name = "small"
seed = 3
[[stage]]
name = "recover"
kind = "recover"
from = "tune"
long = "second"
keep = ["first"]
lengths = [64, 128]
max_factor = 2
[[stage]]
name = "second"
kind = "search"
from = "tune"
length = "1k"
samples = 2
[[stage]]
name = "tune"
kind = "finetune"
factors = "first"
[stage.training]
steps = 2
length = 256
[[stage]]
name = "first"
kind = "search"
length = 256
time_budget = "90m"
attention_factor = 1.2
"#;

fn problems(text: &str) -> Vec<String> {
    let invalid = Plan::read(text).expect_err("a bad plan was accepted");
    invalid.problems.iter().map(ToString::to_string).collect()
}

/// A model that has a window of so many tokens.
fn model(window: u32) -> (ModelIdentity, ModelDescription) {
    let config_json = format!(
        r#"{{"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 96, "max_position_embeddings": {window}, "rope_theta": 10000.0}}"#
    );
    let description = ModelDescription::from_config_json(&config_json).unwrap();
    (ModelIdentity { name: "tiny".into(), fingerprint: Fingerprint::from([0; 32]), config_json }, description)
}

#[test]
fn stages_run_after_those_they_need() {
    let plan = Plan::read(WHOLE).unwrap();
    let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["first", "tune", "second", "recover"]);
    assert_eq!(plan.dependents("tune"), ["tune", "second", "recover"]);
    assert_eq!(plan.dependents("recover"), ["recover"]);
    assert_eq!((plan.longest(), plan.trains()), (1024, true));
    // The second search starts from the factors of the training.
    let Work::Search(second) = &plan.stage("second").unwrap().work else { panic!() };
    assert_eq!(second.start, Some(FactorSource::Stage("first".into())));
    let Work::Search(first) = &plan.stage("first").unwrap().work else { panic!() };
    assert_eq!((first.start.clone(), first.options.seed, first.options.time_budget_seconds), (None, 3, Some(5400)));
}

/// Section 3.4 and table 4 of the paper.
#[test]
fn the_preset_has_the_figures_of_the_paper() {
    let plan = Plan::read(presets::text("longrope-llama2-2048k").unwrap()).unwrap();
    let mut found = Vec::new();
    for stage in &plan.stages {
        match &stage.work {
            Work::Search(search) => {
                let passes = search.options.evolution.evaluations() * search.samples as u64;
                found.push((search.length >> 10, search.options.evolution.population, passes));
            }
            Work::Recover(recover) => assert_eq!(recover.lengths, [4096, 8192]),
            _ => {}
        }
    }
    // 64 + 40 x 32 candidates on 5 documents; half as many on 3 from 512k on.
    assert_eq!(found, [(128, 64, 6720), (256, 64, 6720), (2048, 32, 672 * 3)]);
    let steps: Vec<u64> = plan
        .stages
        .iter()
        .filter_map(|stage| match &stage.work {
            Work::Finetune(tune) => match &tune.training {
                Training::Embedded { settings } => settings["steps"].as_u64(),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(steps, [400, 600]);
}

#[test]
fn presets_fit_the_models_they_are_for() {
    for (name, window) in [("lab", 256), ("longrope-llama2-2048k", 4096)] {
        let plan = Plan::read(presets::text(name).unwrap()).unwrap();
        let (identity, description) = model(window);
        assert_eq!(plan.problems_with(&identity, &description), [], "{name}");
        let (identity, description) = model(1 << 21);
        let wrong = plan.problems_with(&identity, &description);
        assert!(wrong.iter().any(|problem| problem.field == "original_length"), "{name}: {wrong:?}");
        assert!(wrong.iter().any(|problem| problem.reason.contains("nothing to extend")), "{name}: {wrong:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let found = problems(
        r#"
        nmae = "x"
        [[stage]]
        name = "first"
        kind = "search"
        lenght = 256
        population = -1
        strategy = "luck"
        [[stage]]
        kind = "conquer"
        [[stage]]
        name = "tune"
        kind = "finetune"
        from = "nobody"
        factors = "first"
        command = []
        [[stage]]
        name = "short"
        kind = "recover"
        long = "measure"
        lengths = ["soon"]
        [[stage]]
        name = "measure"
        kind = "evaluate"
        factors = "first"
        lengths = [64]
        "#,
    );
    for part in [
        "nmae: is no field of a plan; its fields are name, seed",
        "stage first: lenght: is no field of a search stage",
        "stage first: length: is missing",
        "stage first: population: is -1, expected a whole number",
        "stage first: strategy: \"luck\" is none",
        "stage 2 (without a name): name: is missing",
        "stage 2 (without a name): kind: \"conquer\" is none",
        "stage tune: command: must name a program",
        "stage tune: from: \"nobody\" is no stage of the plan",
        "stage short: lengths: \"soon\" is no length",
        "stage short: max_factor: is missing",
    ] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part:?} in {found:#?}");
    }
}

#[test]
fn a_cycle_is_named() {
    let text = WHOLE.replace("length = 256\ntime", "from = \"tune\"\nlength = 256\ntime");
    assert_eq!(problems(&text), ["stage: a cycle: tune -> first -> tune, each needs the next"]);
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    for (from, to, said) in [
        ("\"1k\"", "200", "stage second: length: 200 is below the 256 tokens of its start, first"),
        ("[64, 128]", "[64, 256]", "stage recover: keep: first is for 256 tokens, which must be above 256"),
        ("[64, 128]", "[128, 64]", "stage recover: lengths: must be ascending"),
        ("length = 256\n[[", "length = 512\n[[", "stage tune: training.length: 512 is above the 256 tokens"),
        ("keep = [\"first\"]", "keep = [\"second\"]", "stage recover: long: second is for 1024 tokens"),
    ] {
        assert!(WHOLE.contains(from), "{from}");
        let found = problems(&WHOLE.replace(from, to));
        assert!(found.iter().any(|problem| problem.contains(said)), "{said:?} in {found:#?}");
    }
}

#[test]
fn lengths_of_a_training_are_written_as_all_others() {
    let with = |reach: &str| {
        let mix =
            format!("length = 256\nmix = {{ skip_share = 0.5, skip_reach = {reach} }}\n[[stage]]\nname = \"first\"");
        WHOLE.replace("length = 256\n[[stage]]\nname = \"first\"", &mix)
    };
    let plan = Plan::read(&with("\"2k\"")).unwrap();
    let settings = plan.stages.iter().find_map(|stage| match &stage.work {
        Work::Finetune(FinetuneStage { training: Training::Embedded { settings }, .. }) => Some(settings),
        _ => None,
    });
    assert_eq!(settings.unwrap()["mix"]["skip_reach"], 2048);
    let said = "stage tune: training.mix.skip_reach: \"far\" is no length";
    assert!(problems(&with("\"far\""))[0].starts_with(said), "{:?}", problems(&with("\"far\"")));
}

#[test]
fn factors_and_models_must_come_from_stages_that_have_them() {
    let with = |stage: &str| format!("{WHOLE}\n[[stage]]\nname = \"last\"\n{stage}\n");
    for (stage, said) in [
        ("kind = \"export\"\nfrom = \"second\"\nfactors = \"second\"", "which makes no model"),
        ("kind = \"export\"\nfrom = \"tune\"\nfactors = \"last\"", "is a export stage, which finds no factors"),
        ("kind = \"export\"\nfactors = \"second\"", "is model, but the factors of second were searched on tune"),
        ("kind = \"finetune\"\nfactors = \"first\"\ncommand = [\"x\"]\ncheckpoint = \"y\"", "contradicts command"),
    ] {
        let found = problems(&with(stage));
        assert!(found.iter().any(|problem| problem.contains(said)), "{said:?} in {found:#?}");
    }
    let exported = with("kind = \"export\"\nfrom = \"tune\"\nfactors = \"recover\"");
    assert!(Plan::read(&exported).is_ok());
    let starts = problems(&exported.replace("max_factor = 2", "max_factor = 2\nstart_tokens = [0, 4]"));
    assert!(starts[0].contains("stage last: factors: recover searches starting tokens"), "{starts:?}");
    // A factor file is no stage.
    assert!(Plan::read(&with("kind = \"finetune\"\nfactors = \"./f.json\"\ncheckpoint = \"tuned\"")).is_ok());
}

/// Whatever goes on from factors would leave the attention factors of their pairs out.
#[test]
fn attention_factors_of_pairs_belong_to_the_last_search() {
    let first = WHOLE.replace("length = 256\ntime", "length = 256\nstrategy = \"ropewalk\"\npair_attention = 9\ntime");
    assert!(problems(&first)[0].starts_with("stage first: pair_attention: tune (finetune) starts from"));
    let recover = WHOLE.replace("max_factor = 2", "max_factor = 2\nstrategy = \"ropewalk\"\npair_attention = 9");
    assert!(problems(&recover)[0].contains("stage recover: pair_attention: a table"));
    let plan = Plan::read("[[stage]]\nname = \"s\"\nkind = \"search\"\nlength = 512\npair_attention = 9").unwrap();
    let (identity, description) = model(256);
    let found = plan.problems_with(&identity, &description);
    assert!(found.iter().any(|p| p.field == "pair_attention" && p.reason.contains("longrope2")), "{found:?}");
}

/// What a second search or a recovery would start from is no reason to fail after the training.
#[test]
fn longrope2_has_its_own_start() {
    let with =
        |field: &str| WHOLE.replace("length = \"1k\"", &format!("length = \"1k\"\nstrategy = \"longrope2\"\n{field}"));
    let plan = Plan::read(&with("")).unwrap();
    let Work::Search(second) = &plan.stage("second").unwrap().work else { panic!("no search") };
    assert_eq!(second.start, None);
    let (identity, description) = model(64);
    assert_eq!(plan.problems_with(&identity, &description), []);
    assert!(problems(&with("start = \"first\""))[0].contains("stage second: start: the strategy longrope2"));
    // Windows that are not extended have no extension ratio, which its last factors have.
    let short = WHOLE.replace("max_factor = 2", "max_factor = 2\nstrategy = \"dim-piece-mono\"");
    let found = Plan::read(&short).unwrap().problems_with(&identity, &description);
    assert!(found.iter().any(|p| p.field == "strategy" && p.reason.contains("64 tokens is not extended")), "{found:?}");
}

/// What a launch would refuse for its samples or its start, days after the plan began.
#[test]
fn budgets_are_checked_with_the_samples_and_the_start_of_their_stage() {
    assert_eq!(problems(&WHOLE.replace("samples = 2", "samples = 0")), ["stage second: samples: must be at least 1"]);
    let (identity, description) = model(64);
    let of_second = |fields: &str| {
        let text = WHOLE.replace("length = \"1k\"\nsamples = 2", &format!("length = \"1k\"\nsamples = 5\n{fields}"));
        let found = Plan::read(&text).unwrap().problems_with(&identity, &description);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // 64 candidates on two needles in each of 5 documents, and with their text.
    for (objective, enough) in [("perplexity", 320), ("needle", 640), ("mixture", 960)] {
        let with = |passes: u32| {
            of_second(&format!("strategy = \"longrope\"\nobjective = \"{objective}\"\nmax_passes = {passes}"))
        };
        let found = with(enough - 1);
        assert!(found.len() == 1 && found[0].contains("max_passes"), "{objective}: {found:?}");
        assert_eq!(with(enough), [""; 0], "{objective}");
    }
    // Its four seeds, and what it starts from.
    let with = |passes: u32| of_second(&format!("strategy = \"ropewalk\"\nmax_passes = {passes}"));
    let found = with(24);
    assert!(found.len() == 1 && found[0].contains("max_passes"), "{found:?}");
    assert_eq!(with(25), [""; 0]);
}

#[test]
fn what_is_no_plan_is_refused() {
    for text in ["", "stage = 3", "[[stage]]", "name = ", "[stage]\nname = \"x\"", &"x".repeat(2 << 20)] {
        assert!(Plan::read(text).is_err(), "{:?}", &text[..text.len().min(20)]);
    }
}

#[test]
fn the_identity_follows_settings_inputs_and_needs() {
    let plan = Plan::read(WHOLE).unwrap();
    let other = Plan::read(&WHOLE.replace("samples = 2", "samples = 3")).unwrap();
    let stage = |plan: &Plan| plan.stage("second").unwrap().clone();
    let of = |plan: &Plan, needs: &[StageId], input: u8| {
        StageId::of(&stage(plan), needs, &[("model", [input; 32])]).unwrap()
    };
    let base = of(&plan, &[], 0);
    assert_eq!(base, of(&plan, &[], 0));
    assert_eq!(base.to_string().parse(), Ok(base));
    for changed in [of(&other, &[], 0), of(&plan, &[base], 0), of(&plan, &[], 1)] {
        assert_ne!(base, changed);
    }
}

#[test]
fn searches_take_every_option_that_changes_a_job() {
    let text = |fields: &str| format!("[[stage]]\nname = \"s\"\nkind = \"search\"\nlength = \"2k\"\n{fields}");
    let options = |fields: &str| {
        let plan = Plan::read(&text(fields)).unwrap();
        plan.stages[0].work.searches()[0].2.clone()
    };
    for kind in StrategyKind::ALL {
        let of_kind = options(&format!("strategy = \"{}\"", kind.name()));
        assert_eq!(of_kind.strategy, kind);
        assert_eq!(of_kind.start_tokens.len() > 1, kind.searches_start_tokens());
    }
    assert_eq!(options("strategy = \"longrope2\"\npair_attention = 40").pair_attention, 40);
    let all =
        "racing = \"fast\"\nmax_passes = 1000\nobjective = \"mixture:0.25\"\nkeep_short = [\"128:2\", \"200:0.5\"]";
    let given = options(all);
    assert_eq!((given.racing, given.max_passes), (Racing::Fast, Some(1000)));
    assert_eq!(given.objective, SearchObjective::Mixture { needle_share: 0.25 });
    assert_eq!(given.keep_short.iter().map(ToString::to_string).collect::<Vec<_>>(), ["128:2", "200:0.5"]);
    let wrong =
        problems(&text("racing = \"slow\"\nobjective = \"luck\"\nmax_passes = -1\nkeep_short = [\"128\", \"1:2\"]"));
    for part in [
        "racing: \"slow\" is no way",
        "objective: \"luck\" is no objective",
        "max_passes: is -1",
        "keep_short: \"128\"",
    ] {
        assert!(wrong.iter().any(|problem| problem.contains(part)), "{part:?} in {wrong:#?}");
    }
    // What only the model tells, with everything else that is wrong.
    let plan = Plan::read(&text("max_passes = 100\nkeep_short = [\"4096:2\"]\nmax_factor = 0.5")).unwrap();
    let (identity, description) = model(256);
    let found = plan.problems_with(&identity, &description);
    for (field, part) in
        [("max_passes", "first generation has 64"), ("keep_short", "below the target"), ("max_factor", "0.5")]
    {
        assert!(found.iter().any(|p| p.field == field && p.reason.contains(part)), "{field} in {found:?}");
    }
}
