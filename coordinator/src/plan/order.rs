//! An order in which every stage comes after those it needs.

/// Indices in such an order: that of the file where the stages leave a choice. `needs[i]` are the stages that stage `i`
/// needs.
///
/// # Errors
/// The stages of one cycle, each needing the next and the last the first.
pub(super) fn order(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut placed = vec![false; needs.len()];
    let mut order = Vec::with_capacity(needs.len());
    while order.len() < needs.len() {
        let ready = (0..needs.len()).find(|&stage| !placed[stage] && needs[stage].iter().all(|&need| placed[need]));
        match ready {
            Some(stage) => {
                placed[stage] = true;
                order.push(stage);
            }
            None => return Err(cycle(needs, &placed)),
        }
    }
    Ok(order)
}

/// Follows needs that are not placed until a stage comes up again; there is always one while no stage is ready.
fn cycle(needs: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let waiting = |stage: &usize| !placed[*stage];
    let mut path: Vec<usize> = (0..needs.len()).find(waiting).into_iter().collect();
    while let Some(next) = path.last().and_then(|&last| needs[last].iter().copied().find(waiting)) {
        if let Some(from) = path.iter().position(|&stage| stage == next) {
            return path.split_off(from);
        }
        path.push(next);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_file_is_kept_where_it_can_be() {
        assert_eq!(order(&[vec![], vec![0], vec![0, 1]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[vec![2], vec![], vec![]]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[]), Ok(vec![]));
    }

    #[test]
    fn a_cycle_is_named_without_what_hangs_on_it() {
        // 0 needs 1, 1 needs 2, 2 needs 1; 3 is free.
        assert_eq!(order(&[vec![1], vec![2], vec![1], vec![]]), Err(vec![1, 2]));
        assert_eq!(order(&[vec![0]]), Err(vec![0]));
    }
}
