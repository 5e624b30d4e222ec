//! Weighted round robin, exact over every window of sum(weights) picks while the same members are eligible.
//!
//! The smooth algorithm: each pick adds every weight to its member's credit, the member with the most credit serves and
//! pays the sum. The position is one for all workers and outlives reloads; the lock is held for a few nanoseconds and
//! is never taken by the control plane.

use std::sync::{Mutex, PoisonError};

/// The position of one service. Its identity is the set of members with their weights.
#[derive(Debug)]
pub struct Cursor {
    credit: Mutex<Vec<i64>>,
}

impl Cursor {
    /// A fresh position for `members` members.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self {
            credit: Mutex::new(vec![0; members]),
        }
    }

    /// The next member. `weights` has one entry per member; those that are not positive or not `eligible` are passed
    /// over, and keep their credit.
    pub fn next(&self, weights: &[i64], eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut best: Option<usize> = None;
        let mut total = 0_i64;
        for (i, (credit_i, &weight)) in credit.iter_mut().zip(weights).enumerate() {
            if weight <= 0 || !eligible(i) {
                continue;
            }
            *credit_i = credit_i.saturating_add(weight);
            total = total.saturating_add(weight);
        }
        for (i, &weight) in weights.iter().enumerate() {
            if weight > 0 && eligible(i) && best.is_none_or(|b| credit[i] > credit[b]) {
                best = Some(i);
            }
        }
        if let Some(best) = best {
            credit[best] = credit[best].saturating_sub(total);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_window_is_exact(weights in prop::collection::vec(0_i64..20, 1..8), skip in 0_usize..50) {
            let total: i64 = weights.iter().sum();
            prop_assume!(total > 0);
            let cursor = Cursor::new(weights.len());
            for _ in 0..skip {
                cursor.next(&weights, |_| true);
            }
            let mut counts = vec![0; weights.len()];
            for _ in 0..total {
                counts[cursor.next(&weights, |_| true).expect("someone")] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }

    #[test]
    fn the_ones_that_are_left_share_by_weight() {
        let cursor = Cursor::new(3);
        let mut counts = [0; 3];
        for _ in 0..30 {
            counts[cursor.next(&[1, 2, 7], |i| i != 2).expect("someone")] += 1;
        }
        assert_eq!(counts, [10, 20, 0]);
        assert_eq!(cursor.next(&[1, 2, 7], |_| false), None);
        assert_eq!(cursor.next(&[0, 0, -1], |_| true), None);
    }
}
