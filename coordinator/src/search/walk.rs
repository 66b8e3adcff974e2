//! Walking a search space candidate by candidate: the last resort of a search that has seen nearly everything.

use super::archive::Archive;
use ropewalk_shared::candidate::Candidate;
use ropewalk_shared::space::SearchSpace;

/// The first candidate after `from` that was never asked, in the order of the odometer; `None` when all were.
///
/// It looks at one candidate more than were ever asked, at most: among so many different ones, either one is new or
/// the whole space has been gone through.
pub fn next_unseen(space: &SearchSpace, archive: &Archive, from: &Candidate) -> Option<Candidate> {
    let mut candidate = from.clone();
    for _ in 0..=archive.asked() {
        candidate = successor(space, &candidate);
        if !archive.contains(&candidate) {
            return Some(candidate);
        }
        if candidate == *from {
            return None;
        }
    }
    None
}

/// The next candidate: starting tokens turn fastest, then the last factor; after the last candidate comes the first.
fn successor(space: &SearchSpace, candidate: &Candidate) -> Candidate {
    let mut next = candidate.clone();
    let choice = space.start_tokens.iter().position(|&choice| choice > candidate.start_tokens);
    next.start_tokens = choice.map_or(space.nearest_start(0), |at| space.start_tokens[at]);
    if choice.is_some() {
        return next;
    }
    match next.factors.iter().rposition(|&point| point < space.max_point) {
        Some(pair) => {
            let point = next.factors[pair] + 1;
            next.factors[pair..].fill(point);
        }
        None => next.factors.fill(space.grid.one()),
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropewalk_shared::grid::Grid;

    #[test]
    fn the_walk_visits_every_candidate_once() {
        let space =
            SearchSpace { grid: Grid::PAPER, pairs: 3, max_point: 103, start_tokens: vec![0, 4], attention: None };
        let mut archive = Archive::new(1);
        let mut at =
            Candidate { factors: vec![101, 102, 102], start_tokens: 4, attention: None, pair_attention: Vec::new() };
        let mut visited = 0;
        while let Some(next) = next_unseen(&space, &archive, &at) {
            assert_eq!(space.check(&next), Ok(()));
            assert!(archive.admit(&next));
            (at, visited) = (next, visited + 1);
        }
        // 3 factors out of 4 points with repetition, times 2.
        assert_eq!(visited, 20 * 2);
        assert!((space.ln_size().exp() - 40.0).abs() < 1e-9);
    }
}
