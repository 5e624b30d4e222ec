//! `chain`: a name for several middlewares in order.
//!
//! A chain does nothing at request time: `compile` replaces it by its members. What is here keeps that from running
//! away: a chain that contains itself, or chains of chains that multiply, make the router unusable, with a message.

/// Chains within chains are followed so deep: further than anybody writes, and far from the end of the stack.
const MAX_DEPTH: usize = 64;
/// So many names, chains counted, may stand in front of one router.
const MAX_NAMES: usize = 1_000;

/// Why the middlewares of a router cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A chain contains itself; the names from the first mention to the second.
    #[error("the chain contains itself: {}", .0.join(" -> "))]
    Recursive(Vec<String>),
    /// Chains of chains make too many middlewares.
    #[error("the chains name more than {MAX_NAMES} middlewares, or are nested deeper than {MAX_DEPTH}")]
    TooLarge,
}

/// The walk through the middlewares of one router, chains opened.
#[derive(Debug, Default)]
pub struct Walk {
    open: Vec<String>,
    named: usize,
}

impl Walk {
    /// Comes to a name, of a chain or not.
    ///
    /// # Errors
    /// There were too many.
    pub fn name(&mut self) -> Result<(), ChainError> {
        self.named += 1;
        if self.named > MAX_NAMES {
            Err(ChainError::TooLarge)
        } else {
            Ok(())
        }
    }

    /// Opens a chain, by its key.
    ///
    /// # Errors
    /// It is open already, or too many are.
    pub fn enter(&mut self, key: &str) -> Result<(), ChainError> {
        if let Some(start) = self.open.iter().position(|open| open == key) {
            return Err(ChainError::Recursive([&self.open[start..], &[key.to_owned()]].concat()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(ChainError::TooLarge);
        }
        self.open.push(key.to_owned());
        Ok(())
    }

    /// Closes the chain that was opened last.
    pub fn leave(&mut self) {
        self.open.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_may_come_twice_but_not_within_itself() {
        let mut walk = Walk::default();
        walk.enter("a").unwrap();
        walk.enter("b").unwrap();
        walk.leave();
        walk.enter("b").unwrap();
        walk.enter("c").unwrap();
        assert_eq!(
            walk.enter("b").unwrap_err().to_string(),
            "the chain contains itself: b -> c -> b"
        );
    }

    #[test]
    fn chains_of_chains_do_not_explode() {
        /// Each level names the next one twice.
        fn open(walk: &mut Walk, level: usize) -> Result<(), ChainError> {
            walk.enter(&level.to_string())?;
            for _ in 0..2 {
                walk.name()?;
                open(walk, level + 1)?;
            }
            walk.leave();
            Ok(())
        }
        assert_eq!(open(&mut Walk::default(), 0), Err(ChainError::TooLarge));
        let mut wide = Walk::default();
        assert_eq!((0..2_000).try_for_each(|_| wide.name()), Err(ChainError::TooLarge));
    }
}
