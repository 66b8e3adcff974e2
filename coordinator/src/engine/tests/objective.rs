//! Searches that judge by answers, or by answers and documents.

use super::rig::{Rig, evaluated, gradient_job, job, loss, report_of, sample};
use crate::engine::EngineError;
use ropewalk_shared::factor_file::FactorFile;
use ropewalk_shared::job::{JobSpec, SearchObjective};
use ropewalk_shared::outcome::Loss;
use ropewalk_shared::rope::Rescale;
use ropewalk_shared::sample::{Sample, SampleId};
use ropewalk_shared::work::{UnitOutcome, UnitReport};

/// Tokens of an answer.
const ANSWER: u32 = 5;

fn answer(number: u32) -> Sample {
    let tokens = sample(number).tokens().to_vec();
    let from = tokens.len() as u32 - ANSWER;
    Sample::counted(tokens, from).unwrap()
}

/// One document and two answers to search on; one document and one answer held out.
fn mixture(mut spec: JobSpec, objective: &str) -> (Rig, JobSpec) {
    let rig = Rig::new();
    for number in 0..10 {
        let answer = answer(number);
        rig.core.store().put_sample(answer.id(), &answer).unwrap();
    }
    spec.samples = vec![sample(0).id(), answer(0).id(), answer(1).id()];
    spec.held_out = vec![sample(5).id(), answer(6).id()];
    spec.search.objective = objective.parse().unwrap();
    (rig, spec)
}

/// What a worker reports that knows which tokens count.
fn counted(spec: &JobSpec, report: UnitReport) -> UnitReport {
    let is_document = [spec.samples[0], spec.held_out[0]].contains(&report.sample);
    let counted = |loss: Loss| {
        let tokens = if is_document { loss.tokens } else { ANSWER.into() };
        Loss { nll_sum: loss.mean() * tokens as f64, tokens }
    };
    let outcome = match report.outcome {
        UnitOutcome::Loss { loss, seconds } => UnitOutcome::Loss { loss: counted(loss), seconds },
        UnitOutcome::Gradient { loss, slope, seconds } => UnitOutcome::Gradient { loss: counted(loss), slope, seconds },
        other => other,
    };
    UnitReport { outcome, ..report }
}

fn finished(rig: &mut Rig, spec: &JobSpec) -> FactorFile {
    rig.launch(spec);
    rig.work_with(7, |unit| counted(spec, evaluated(unit)));
    FactorFile::from_json(&rig.factors(spec).unwrap()).unwrap()
}

/// The mean loss that the fake workers give, whatever the tokens.
fn mean(rescale: &Rescale, sample: SampleId) -> f64 {
    loss(rescale, sample, 2).nll_sum
}

#[test]
fn a_mixture_weighs_kinds_and_reports_text_beside() {
    for spec in [job(1), gradient_job(1)] {
        let (mut rig, spec) = mixture(spec, "mixture:0.25");
        let file = finished(&mut rig, &spec);
        let objective = file.objective.clone().unwrap();
        let winner = file.rescale();
        let of = |sample: &SampleId| mean(&winner, *sample);
        let [document, first, second] = [0, 1, 2].map(|at| of(&spec.samples[at]));
        let expected = (0.75 * document + 0.25 * (first + second) / 2.0).exp();
        assert!((objective.value / expected - 1.0).abs() < 1e-12, "{} for {expected}", objective.value);
        let held_out = (0.75 * of(&spec.held_out[0]) + 0.25 * of(&spec.held_out[1])).exp();
        assert!((objective.held_out.unwrap() / held_out - 1.0).abs() < 1e-12);
        assert!((objective.held_out_text.unwrap() / of(&spec.held_out[0]).exp() - 1.0).abs() < 1e-12);
        assert_eq!(objective.kind, "mixture:0.25");
        assert!(file.baselines.values().all(|measured| measured.held_out_text.is_some()));
    }
}

#[test]
fn a_loss_over_the_whole_sample_is_refused_where_an_answer_counts() {
    let (mut rig, spec) = mixture(job(1), "mixture");
    rig.launch(&spec);
    let worker = rig.register(u64::MAX);
    let units = rig.lease(&worker, 3);
    let unit = units.iter().find(|unit| unit.sample == spec.samples[1]).unwrap();
    let whole = Loss { nll_sum: 63.0, tokens: u64::from(unit.tokens) - 1 };
    let verdicts = rig.report(&worker, vec![report_of(unit, UnitOutcome::Loss { loss: whole, seconds: 0.1 })]);
    assert_eq!(verdicts, [ropewalk_shared::work::Verdict::Refused]);
}

#[test]
fn an_objective_without_its_samples_is_refused() {
    let refused = |change: &dyn Fn(&mut JobSpec)| {
        let (mut rig, mut spec) = mixture(job(1), "needle");
        change(&mut spec);
        for number in 0..10 {
            rig.core.store().put_sample(sample(number).id(), &sample(number)).unwrap();
        }
        let now = rig.now();
        match rig.core.launch(spec, now) {
            Err(EngineError::InvalidJob(invalid)) => invalid.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let nothing = refused(&|spec| spec.samples.truncate(1));
    assert!(nothing.contains("no token") && nothing.contains("samples of the search"), "{nothing}");
    let held_out = refused(&|spec| spec.held_out.truncate(1));
    assert!(held_out.contains("held-out samples"), "{held_out}");
    let no_text = refused(&|spec| {
        spec.search.objective = SearchObjective::Mixture { needle_share: 0.5 };
        spec.samples.remove(0);
    });
    assert!(no_text.contains("count whole"), "{no_text}");
}
