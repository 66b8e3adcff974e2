//! What the strategies are worth beside the published methods, each with the attention factor that suits it best.

use super::methods::Method;
use super::results::{Results, median};
use serde::Serialize;
use std::fmt::Write as _;

/// The published methods at one ratio on the documents of one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// Extension ratio.
    pub ratio: u32,
    /// Seed of the documents.
    pub seed: u64,
    /// Each with the attention factor that is best on the documents searched.
    pub own: Vec<Method>,
    /// Each with every attention factor it is used with.
    pub by_policy: Vec<Method>,
}

/// One strategy beside one method, over all seeds.
struct Against<'a> {
    ratio: u32,
    method: &'a str,
    strategy: &'a str,
    /// Of held-out perplexity, as shares of the method's; negative where the strategy is better.
    differences: Vec<f64>,
}

// === impl Published ===

impl Published {
    /// The one that does best on the held-out documents.
    pub fn best(&self) -> Option<&Method> {
        self.own.iter().chain(&self.by_policy).min_by(|a, b| a.held_out.total_cmp(&b.held_out))
    }
}

/// For each published method with its own best attention factor, how far every strategy ends from it.
pub fn table(results: &Results) -> String {
    let mut text =
        String::from("\nPublished methods, each with the attention factor that is best on the documents searched\n");
    text.push_str("ratio  seed  method        attention   search  held-out  strategies: held-out against the method\n");
    let mut all: Vec<Against> = Vec::new();
    for published in &results.published {
        for method in &published.own {
            let Published { ratio, seed, .. } = published;
            let Method { name, attention_factor, search, held_out } = method;
            let _ = write!(
                text,
                "{ratio:>4}x  {seed:>4}  {name:<12}  {attention_factor:>9.3} {search:>8.3} {held_out:>9.3} "
            );
            for run in results.runs.iter().filter(|run| (run.ratio, run.seed) == (*ratio, *seed)) {
                let difference = run.course.end().1 / held_out - 1.0;
                let _ = write!(text, " {} {:+.2} %", run.strategy, 100.0 * difference);
                let same = |known: &&mut Against| {
                    (known.ratio, known.method, known.strategy) == (*ratio, name.as_str(), run.strategy.as_str())
                };
                match all.iter_mut().find(same) {
                    Some(known) => known.differences.push(difference),
                    None => {
                        let (ratio, method, strategy) = (*ratio, name.as_str(), run.strategy.as_str());
                        all.push(Against { ratio, method, strategy, differences: vec![difference] });
                    }
                }
            }
            text.push('\n');
        }
    }
    for Against { ratio, method, strategy, differences } in all.into_iter().filter(|all| all.differences.len() > 1) {
        let (seeds, below) = (differences.len(), differences.iter().filter(|difference| **difference < 0.0).count());
        let _ = writeln!(
            text,
            "{ratio:>4}x  {strategy} against {method}: {:+.2} % in the median, below it with {below} of {seeds} seeds",
            100.0 * median(differences)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::course::{Course, Point};
    use crate::results::Run;

    #[test]
    fn strategies_are_told_as_differences_on_the_same_documents() {
        let method = |name: &str, attention_factor, held_out| Method {
            name: name.into(),
            attention_factor,
            search: held_out,
            held_out,
        };
        let published = |seed, yarn| Published {
            ratio: 8,
            seed,
            own: vec![method("pi", 1.1, 50.0), method("yarn", 1.25, yarn)],
            by_policy: vec![method("yarn", 1.2079, 19.5)],
        };
        let run = |seed, held_out| {
            let points = vec![Point { passes: 10, search: 1.0, held_out: Some(held_out) }];
            let course = Course {
                points,
                factors: vec![],
                start_tokens: 0,
                attention_factor: 1.0,
                pair_attention: vec![],
                tried: vec![],
            };
            Run {
                ratio: 8,
                seed,
                strategy: "ropewalk".into(),
                best_baseline: method("yarn", 1.25, 20.0),
                course,
                races: vec![],
                landscape: None,
            }
        };
        let results = Results {
            samples: 5,
            held_out: 10,
            yardstick: "ropewalk".into(),
            published: vec![published(0, 20.0), published(1, 16.0), published(2, 20.0)],
            runs: vec![run(0, 19.0), run(1, 16.8), run(2, 19.8)],
        };
        assert_eq!(
            results.published.iter().map(|all| all.best().unwrap().title()).collect::<Vec<_>>(),
            ["yarn x 1.2079", "yarn x 1.25", "yarn x 1.2079"]
        );
        let text = table(&results);
        assert!(text.contains("yarn              1.250   20.000    20.000  ropewalk -5.00 %"), "{text}");
        // -5 %, +5 % and -1 %.
        assert!(text.ends_with("ropewalk against yarn: -1.00 % in the median, below it with 2 of 3 seeds\n"), "{text}");
        assert!(text.contains("against pi: -62.00 % in the median, below it with 3 of 3"), "{text}");
    }
}
