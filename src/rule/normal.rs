//! The normal form of a rule, in which two rules that differ in spelling only are equal.
//!
//! `&&` and `||` become sets of operands, so that order and repetition do not matter; a set of one is its element,
//! and a set never contains one of its own kind. Nothing else is simplified.

use std::collections::BTreeSet;
use std::fmt;

use super::Expression;

/// An expression in normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Normal {
    /// A matcher in its canonical spelling, with its `!`.
    Match(String),
    /// `&&` of two or more.
    All(BTreeSet<Self>),
    /// `||` of two or more.
    Any(BTreeSet<Self>),
}

impl Normal {
    /// Brings an expression into normal form.
    pub fn of(expression: &Expression) -> Self {
        match expression {
            Expression::Match { matcher, negated } => {
                Self::Match(format!("{}{matcher}", if *negated { "!" } else { "" }))
            }
            Expression::All(parts) => Self::join(parts, true),
            Expression::Any(parts) => Self::join(parts, false),
        }
    }

    fn join(parts: &[Expression], all: bool) -> Self {
        let mut set = BTreeSet::new();
        for part in parts {
            match Self::of(part) {
                Self::All(inner) if all => set.extend(inner),
                Self::Any(inner) if !all => set.extend(inner),
                other => {
                    set.insert(other);
                }
            }
        }
        match (set.len(), set.pop_first()) {
            (1, Some(only)) => only,
            (_, first) => {
                set.extend(first);
                if all { Self::All(set) } else { Self::Any(set) }
            }
        }
    }
}

/// A valid rule.
impl fmt::Display for Normal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, operator) = match self {
            Self::Match(text) => return f.write_str(text),
            Self::All(parts) => (parts, " && "),
            Self::Any(parts) => (parts, " || "),
        };
        for (position, part) in parts.iter().enumerate() {
            if position > 0 {
                f.write_str(operator)?;
            }
            match (self, part) {
                (Self::All(_), Self::Any(_)) => write!(f, "({part})")?,
                _ => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}
