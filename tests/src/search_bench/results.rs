//! What the comparison found, as a table, CSV and JSON.

use super::chance::{OnLandscape, over_landscapes};
use super::course::{Course, Tried};
use super::methods::Method;
use super::methods_table::Published;
use super::replay::Replay;
use ropewalk_shared::racing::Racing;
use ropewalk_shared::rope::Rescale;
use serde::Serialize;
use std::fmt::Write as _;

/// One strategy at one ratio with one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Extension ratio.
    pub ratio: u32,
    /// Seed of documents and search.
    pub seed: u64,
    /// Strategy, as it was named.
    pub strategy: String,
    /// The published method that does best on the held-out documents.
    pub best_baseline: Method,
    /// What it did.
    pub course: Course,
    /// What races would have made of it; empty where it raced itself.
    pub races: Vec<(Racing, Replay)>,
    /// What they do on a landscape of what it recorded, where that was asked for.
    pub landscape: Option<OnLandscape>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Documents searched on.
    pub samples: usize,
    /// Documents held out.
    pub held_out: usize,
    /// The yardstick's name.
    pub yardstick: String,
    /// The published methods at each ratio with each seed.
    pub published: Vec<Published>,
    /// All runs.
    pub runs: Vec<Run>,
}

impl Results {
    fn yardstick_of(&self, run: &Run) -> Option<&Run> {
        self.runs
            .iter()
            .find(|other| (other.ratio, other.seed, &other.strategy) == (run.ratio, run.seed, &self.yardstick))
    }

    /// Ratios and strategies that were run, in their order.
    fn groups(&self) -> Vec<(u32, &str)> {
        let mut groups: Vec<(u32, &str)> = Vec::new();
        for run in &self.runs {
            if !groups.contains(&(run.ratio, &run.strategy)) {
                groups.push((run.ratio, &run.strategy));
            }
        }
        groups
    }

    fn group<'a>(&'a self, ratio: u32, strategy: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.ratio == ratio && run.strategy == strategy)
    }

    /// One line for each run, and the medians of each strategy at each ratio.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "ratio  strategy              seed  passes   search  held-out  best method                  passes to the yardstick's end\n",
        );
        text.push_str(
            "                                                    held-out                               search           held-out\n",
        );
        for (ratio, strategy) in self.groups() {
            let runs: Vec<&Run> = self.group(ratio, strategy).collect();
            let mut shares: [Vec<f64>; 4] = Default::default();
            for run in &runs {
                let (search, held_out) = run.course.end();
                let passes = run.course.points.last().map_or(0, |point| point.passes);
                let _ = write!(
                    text,
                    "{:>4}x  {:<20} {:>5} {:>7} {:>8.3} {:>9.3}  {:>8.3} {:<18}",
                    ratio,
                    strategy,
                    run.seed,
                    passes,
                    search,
                    held_out,
                    run.best_baseline.held_out,
                    run.best_baseline.title()
                );
                if let Some(yardstick) = self.yardstick_of(run) {
                    let (end_search, end_held_out) = yardstick.course.end();
                    let all = yardstick.course.points.last().map_or(1, |point| point.passes) as f64;
                    for (slot, by_held_out, end) in [(0, false, end_search), (1, true, end_held_out)] {
                        let to = run.course.passes_to(end, by_held_out);
                        let share = to.map_or(f64::INFINITY, |to| to as f64 / all);
                        shares[slot].push(share);
                        let _ = match to {
                            Some(to) => write!(text, " {to:>6} ({:>5.1} %)", 100.0 * share),
                            None => write!(text, "            never"),
                        };
                    }
                    shares[2].push(search / end_search);
                    shares[3].push(held_out / end_held_out);
                }
                text.push('\n');
            }
            if runs.len() > 1 && !shares[0].is_empty() {
                let [to_search, to_held_out, search, held_out] = shares.map(median);
                let share = |share: f64| {
                    if share.is_finite() { format!("{:.1} % of its passes", 100.0 * share) } else { "never".to_owned() }
                };
                let _ = writeln!(
                    text,
                    "       median against {}: end of search reached after {}, held-out after {}; ends at {:+.2} % search, {:+.2} % held-out",
                    self.yardstick,
                    share(to_search),
                    share(to_held_out),
                    100.0 * (search - 1.0),
                    100.0 * (held_out - 1.0)
                );
            }
        }
        text
    }

    /// What racing would have saved and mistaken, replayed on the runs in which nothing was dropped.
    pub fn races(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            for (racing, replay) in &run.races {
                let Run { ratio, strategy, seed, .. } = run;
                let Replay { saved, other_parents, other_best, parents_higher, best_dropped } = replay;
                let _ = writeln!(
                    text,
                    "{ratio}x seed {seed} {strategy}, replayed with --racing {racing}: saves {:.1} % of its passes; {:.1} % of all parents and {:.1} % \
                     of the best quarter are others, and parents lie {parents_higher:.3} % too high in the mean; the best candidate had been dropped in {best_dropped} generations",
                    100.0 * saved,
                    100.0 * other_parents,
                    100.0 * other_best
                );
            }
        }
        text
    }

    /// What races do in the mean over all landscapes of each ratio and strategy.
    pub fn landscapes(&self) -> String {
        let mut text = String::new();
        for (ratio, strategy) in self.groups() {
            let landscapes: Vec<&OnLandscape> =
                self.group(ratio, strategy).filter_map(|run| run.landscape.as_ref()).collect();
            for line in over_landscapes(&landscapes).lines() {
                let _ = writeln!(text, "{ratio}x {strategy}, {line}");
            }
        }
        text
    }

    /// All curves.
    pub fn csv(&self) -> String {
        let mut text = String::from("ratio,strategy,seed,passes,search,held_out\n");
        for run in &self.runs {
            for point in &run.course.points {
                let held_out = point.held_out.map_or(String::new(), |value| value.to_string());
                let Run { ratio, strategy, seed, .. } = run;
                let _ = writeln!(text, "{ratio},{strategy},{seed},{},{},{held_out}", point.passes, point.search);
            }
        }
        text
    }

    /// All candidates, with their losses on each document.
    pub fn candidates_csv(&self) -> String {
        let mut text = String::from("ratio,strategy,seed,generation,start_tokens,attention_factor,factors,losses\n");
        let joined = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        for run in &self.runs {
            let Run { ratio, strategy, seed, .. } = run;
            for Tried { generation, rescale, means, .. } in &run.course.tried {
                let Rescale { factors, start_tokens, attention_factor, .. } = rescale;
                let (factors, means) = (joined(factors), joined(means));
                let _ = writeln!(
                    text,
                    "{ratio},{strategy},{seed},{generation},{start_tokens},{attention_factor},{factors},{means}"
                );
            }
        }
        text
    }
}

/// The middle value, the mean of two middles; NaN of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::course::Point;

    fn run(strategy: &str, points: &[(u64, f64, f64)]) -> Run {
        let point = |&(passes, search, held_out): &(u64, f64, f64)| Point { passes, search, held_out: Some(held_out) };
        let points = points.iter().map(point).collect();
        let course = Course {
            points,
            factors: vec![1.0],
            start_tokens: 0,
            attention_factor: 1.0,
            pair_attention: vec![],
            tried: vec![],
        };
        let best_baseline = Method { name: "yarn".into(), attention_factor: 1.2, search: 19.0, held_out: 20.0 };
        Run { ratio: 8, seed: 0, strategy: strategy.into(), best_baseline, course, races: vec![], landscape: None }
    }

    #[test]
    fn passes_are_told_as_shares_of_the_yardstick() {
        let runs = vec![
            run("longrope", &[(100, 15.0, 18.0), (1000, 14.0, 17.0)]),
            run("ropewalk", &[(20, 14.5, 17.5), (50, 13.9, 17.2), (80, 13.8, 16.9)]),
        ];
        let results = Results { samples: 5, held_out: 10, yardstick: "longrope".into(), published: Vec::new(), runs };
        let table = results.table();
        assert!(table.contains("    50 (  5.0 %)     80 (  8.0 %)"), "{table}");
        assert_eq!(results.csv().lines().count(), 6);
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
