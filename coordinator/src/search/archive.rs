//! What the search remembers of its past: every candidate ever asked, and the best of those evaluated.

use super::score::Score;
use ropewalk_shared::candidate::Candidate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A candidate and its score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// What was evaluated.
    pub candidate: Candidate,
    /// What came of it.
    pub score: Score,
}

/// All candidates ever asked, by digest, and the `keep` best of those evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    keep: usize,
    /// Best first; equal scores in the order in which they were asked.
    top: Vec<Evaluated>,
    asked: BTreeSet<Digest>,
}

/// 128 bits of BLAKE3 over a candidate: a search would have to ask 2^64 candidates to confuse two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Digest(u128);

// === impl Archive ===

impl Archive {
    /// Remembers the best `keep` candidates, at least one.
    pub fn new(keep: usize) -> Self {
        Self { keep: keep.max(1), top: Vec::new(), asked: BTreeSet::new() }
    }

    /// Notes a candidate as asked; false if it had been asked before.
    pub fn admit(&mut self, candidate: &Candidate) -> bool {
        self.asked.insert(Digest::of(candidate))
    }

    /// Whether a candidate has been asked.
    pub fn contains(&self, candidate: &Candidate) -> bool {
        self.asked.contains(&Digest::of(candidate))
    }

    /// Number of candidates ever asked.
    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Takes in the results of a generation, in the order in which it was asked. Dropped candidates stand among the others
    /// by their estimates, so that one of which enough is known can be a parent; none of them is ever the best.
    pub fn absorb(&mut self, results: impl IntoIterator<Item = Evaluated>) {
        self.top.extend(results);
        // Stable: of equal scores, the one asked first stays in front.
        self.top.sort_by_key(|evaluated| (evaluated.score.likely(), evaluated.score.estimate().is_some()));
        let best = self.top.iter().position(|evaluated| evaluated.score.value().is_some());
        if let Some(best) = best.filter(|&best| best >= self.keep) {
            self.top.swap(best, self.keep - 1);
        }
        self.top.truncate(self.keep);
    }

    /// The best candidates, best first, dropped ones by their estimates. Failed ones stand at the end, while there is room.
    pub fn top(&self) -> &[Evaluated] {
        &self.top
    }

    /// The best of those whose score was measured.
    pub fn best(&self) -> Option<&Evaluated> {
        self.top.iter().find(|evaluated| evaluated.score.value().is_some())
    }

    /// The best candidates that can be parents: those with a usable score, or all if none has one.
    pub fn parents(&self) -> &[Evaluated] {
        match self.top.partition_point(|evaluated| !evaluated.score.is_failed()) {
            0 => &self.top,
            usable => &self.top[..usable],
        }
    }
}

// === impl Digest ===

impl Digest {
    fn of(candidate: &Candidate) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("ropewalk search candidate v1");
        hash.update(&candidate.start_tokens.to_le_bytes());
        for point in &candidate.factors {
            hash.update(&point.to_le_bytes());
        }
        // Left out where there is none, so that digests stored before attention factors were searched stay what they were.
        if let Some(point) = candidate.attention {
            hash.update(&point.to_le_bytes());
        }
        if !candidate.pair_attention.is_empty() {
            hash.update(b"pair attention");
            for point in &candidate.pair_attention {
                hash.update(&point.to_le_bytes());
            }
        }
        let mut first = [0; 16];
        first.copy_from_slice(&hash.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        format!("{:032x}", digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(factor: u32) -> Candidate {
        Candidate { factors: vec![factor], start_tokens: 0, attention: None, pair_attention: Vec::new() }
    }

    #[test]
    fn the_best_are_kept_and_ties_stay_in_order() {
        let mut archive = Archive::new(3);
        let scores = [5.0, 2.0, f64::NAN, 2.0, 1.0].map(Score::new);
        let results = (0..).map(candidate).zip(scores).map(|(candidate, score)| Evaluated { candidate, score });
        archive.absorb(results);
        let order: Vec<u32> = archive.top().iter().map(|e| e.candidate.factors[0]).collect();
        assert_eq!(order, [4, 1, 3]);
    }

    #[test]
    fn dropped_candidates_can_be_parents_but_never_the_best() {
        let evaluated = |number, score| Evaluated { candidate: candidate(number), score };
        let mut archive = Archive::new(3);
        archive.absorb([
            evaluated(1, Score::dropped(2.0)),
            evaluated(2, Score::new(2.0)),
            evaluated(3, Score::new(4.0)),
        ]);
        let order = |archive: &Archive| archive.parents().iter().map(|e| e.candidate.factors[0]).collect::<Vec<_>>();
        assert_eq!(order(&archive), [2, 1, 3], "of equals, the measured one stands in front");
        // More estimates below what was measured than there is room for.
        archive.absorb((4..8).map(|number| evaluated(number, Score::dropped(1.0))));
        assert_eq!(order(&archive), [4, 5, 2]);
        assert_eq!(archive.best(), Some(&evaluated(2, Score::new(2.0))));
        archive.absorb([evaluated(8, Score::dropped(f64::INFINITY)), evaluated(9, Score::new(0.5))]);
        assert_eq!(order(&archive), [9, 4, 5]);
    }

    #[test]
    fn failures_are_parents_only_among_themselves() {
        let mut archive = Archive::new(4);
        archive.absorb([Evaluated { candidate: candidate(1), score: Score::FAILED }]);
        assert_eq!(archive.parents().len(), 1);
        archive.absorb([Evaluated { candidate: candidate(2), score: Score::new(9.0) }]);
        assert_eq!(archive.parents()[0].candidate, candidate(2));
        assert_eq!(archive.parents().len(), 1);
    }

    #[test]
    fn a_candidate_is_admitted_once() {
        let mut archive = Archive::new(1);
        assert!(archive.admit(&candidate(1)));
        assert!(!archive.admit(&candidate(1)));
        assert!(archive.admit(&Candidate {
            factors: vec![1],
            start_tokens: 1,
            attention: None,
            pair_attention: Vec::new()
        }));
        let text = serde_json::to_string(&archive).unwrap();
        assert_eq!(serde_json::from_str::<Archive>(&text).unwrap(), archive);
        assert_eq!(archive.asked(), 2);
    }
}
