//! What to compare.

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use ropewalk_shared::attention_factor::AttentionFactorPolicy;
use ropewalk_shared::job::{SearchOptions, StrategyKind};
use ropewalk_shared::racing::Racing;
use ropewalk_worker::device::Dtype;
use std::path::PathBuf;

/// Runs search strategies on equal documents and prints what each reaches for how many document passes
#[derive(Clone, Debug, Parser)]
#[command(name = "tests/bench/search", max_term_width = 110)]
pub struct Options {
    /// Long documents: text files or folders of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub data: Vec<PathBuf>,

    /// Folder of the model
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../coordinator/assets/lab-model"), value_name = "DIR")]
    pub model: PathBuf,

    /// Strategies, the yardstick first; NAME+safe and NAME+fast drop candidates in races, NAME+pairs and
    /// NAME+pairs=N search attention factors of pairs too, and NAME:POLICY sets an attention factor other than --attention-factor, as in longrope+safe,
    /// ropewalk:search or ropewalk+safe+pairs
    #[arg(long, value_delimiter = ',', default_values_t = ["longrope".to_owned(), "ropewalk".to_owned()], value_name = "LIST")]
    pub strategies: Vec<String>,

    /// Extension ratios
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 16], value_name = "LIST")]
    pub ratios: Vec<u32>,

    /// Seeds: each draws other documents and other random numbers
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2, 3, 4], value_name = "LIST")]
    pub seeds: Vec<u64>,

    /// Run each strategy so often on the same documents, with other random numbers each time: how much of a difference is
    /// chance. Later runs are called NAME#2 and so on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100), value_name = "N")]
    pub repeats: u64,

    /// Documents searched on
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub samples: usize,

    /// Documents held out
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub held_out: usize,

    /// Attention factor of all candidates
    #[arg(long, default_value_t = AttentionFactorPolicy::LongRope, value_name = "POLICY")]
    pub attention_factor: AttentionFactorPolicy,

    /// Measure how well the first N tokens of documents rank the candidates of strategies that do not race
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub prefixes: Vec<usize>,

    /// Fit a landscape to the losses of each strategy that does not race, and compare so many pairs of searches on it, a third of
    /// its documents searched: what races do in the mean over chance. Wants many documents, such as --samples 15
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..), value_name = "PAIRS")]
    pub landscape: Option<u32>,

    /// Let every strategy go on until the yardstick's document passes
    #[arg(long)]
    pub equal_passes: bool,

    /// Let every strategy go on until so many document passes, whatever its generations
    #[arg(long, value_name = "N", conflicts_with = "equal_passes")]
    pub passes: Option<u64>,

    /// End every strategy after this many evaluations
    #[arg(long, value_name = "N")]
    pub max_evaluations: Option<u64>,

    /// Ratio 4 with one seed
    #[arg(long)]
    pub quick: bool,

    /// Threads [default: all cores]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub threads: usize,

    /// Number format of the losses: f32, f32-fast, bf16
    #[arg(long, default_value_t = Dtype::F32, value_name = "FORMAT")]
    pub dtype: Dtype,

    /// Keep losses in this file and use what it holds: an interrupted comparison goes on where it stopped. One
    /// file for each format: the lines do not say theirs
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,

    /// Write the results for programs
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write curves (CSV and SVG) and all candidates (CSV) into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// One strategy of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// As it was named.
    pub name: String,
    /// The strategy.
    pub kind: StrategyKind,
    /// Its attention factor.
    pub attention_factor: AttentionFactorPolicy,
    /// Whether candidates are dropped early.
    pub racing: Racing,
    /// Evaluations for attention factors of pairs.
    pub pair_attention: u32,
}

impl Options {
    /// The options as `--quick` changes them.
    pub fn effective(mut self) -> Self {
        if self.quick {
            (self.ratios, self.seeds) = (vec![4], vec![0]);
        }
        self
    }

    /// The strategies that were named.
    ///
    /// # Errors
    /// When one is not known.
    pub fn contenders(&self) -> Result<Vec<Contender>> {
        self.strategies.iter().map(|name| self.contender(name)).collect()
    }

    fn contender(&self, name: &str) -> Result<Contender> {
        let (strategy, policy) = name.split_once(':').map_or((name, None), |(name, policy)| (name, Some(policy)));
        let mut parts = strategy.split('+');
        let strategy = parts.next().unwrap_or_default();
        let (mut racing, mut pairs) = (Racing::Off, None);
        for part in parts {
            match part {
                "pairs" => pairs = Some(None),
                part if part.starts_with("pairs=") => {
                    let number = part.trim_start_matches("pairs=").parse();
                    pairs = Some(Some(number.with_context(|| format!("the evaluations for pairs of {name}"))?));
                }
                part => racing = part.parse().with_context(|| format!("the racing of {name}"))?,
            }
        }
        // The names are those of stored jobs.
        let kind = match strategy {
            "longrope" => StrategyKind::LongRope,
            other => match serde_json::from_value(serde_json::Value::String(other.to_owned())) {
                Ok(kind) => kind,
                Err(_) => bail!("no strategy is called {other}; `ropewalk search --help` lists them"),
            },
        };
        let attention_factor = match policy {
            Some(policy) => policy.parse().with_context(|| format!("the attention factor of {name}"))?,
            None => self.attention_factor,
        };
        let pair_attention = pairs.map_or(0, |number: Option<u32>| {
            number.unwrap_or_else(|| SearchOptions::usual_pair_attention(attention_factor))
        });
        Ok(Contender { name: name.to_owned(), kind, attention_factor, racing, pair_attention })
    }
}
