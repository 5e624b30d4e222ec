//! `chain`: a name for several middlewares in order.
//!
//! A chain does nothing at request time: [`expand`] replaces it by its members while the configuration is compiled.
//! A member that is missing, or a chain that contains itself, makes the chain unusable, and with it the router.

use crate::config::middleware::Middleware as Config;

/// Chains within chains are followed so deep: further than anybody writes, and far from the end of the stack.
const MAX_DEPTH: usize = 64;
/// So many names, chains counted, may stand behind one list: chains of chains grow without bounds otherwise.
const MAX_NAMES: usize = 1_000;

/// Why a list of middlewares cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No middleware of that name.
    #[error("there is no middleware `{0}`")]
    Missing(String),
    /// A chain contains itself; the names from the first mention to the second.
    #[error("the chain contains itself: {}", .0.join(" -> "))]
    Recursive(Vec<String>),
    /// Chains of chains make too many middlewares.
    #[error("the chains of `{0}` name more than {MAX_NAMES} middlewares or are nested deeper than {MAX_DEPTH}")]
    TooLarge(String),
}

/// The name with its provider: `auth` said by the provider `file` is `auth@file`.
#[must_use]
pub fn qualify(name: &str, provider: &str) -> String {
    if name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}@{provider}")
    }
}

/// The middlewares that a list of names stands for, in order, by their qualified names and without chains. Names
/// without a provider are those of `provider`, in a chain those of the chain's own.
///
/// # Errors
/// The first name that cannot be used.
pub fn expand<'a, 'c>(
    names: impl IntoIterator<Item = &'a str>,
    provider: &str,
    find: &dyn Fn(&str) -> Option<&'c Config>,
) -> Result<Vec<(String, &'c Config)>, ChainError> {
    let mut expansion = Expansion {
        find,
        members: Vec::new(),
        path: Vec::new(),
        visited: 0,
    };
    for name in names {
        expansion.push(qualify(name, provider))?;
    }
    Ok(expansion.members)
}

struct Expansion<'f, 'c> {
    find: &'f dyn Fn(&str) -> Option<&'c Config>,
    members: Vec<(String, &'c Config)>,
    /// The chains that are being expanded.
    path: Vec<String>,
    /// Names seen so far, chains among them: empty chains of chains take time too.
    visited: usize,
}

impl Expansion<'_, '_> {
    fn push(&mut self, name: String) -> Result<(), ChainError> {
        let config = (self.find)(&name).ok_or_else(|| ChainError::Missing(name.clone()))?;
        self.visited += 1;
        if self.visited > MAX_NAMES || self.path.len() >= MAX_DEPTH {
            return Err(ChainError::TooLarge(self.path.first().unwrap_or(&name).clone()));
        }
        let Some(chain) = &config.chain else {
            self.members.push((name, config));
            return Ok(());
        };
        if let Some(start) = self.path.iter().position(|open| *open == name) {
            return Err(ChainError::Recursive([&self.path[start..], &[name]].concat()));
        }
        let provider = name
            .rsplit_once('@')
            .map_or_else(String::new, |(_, provider)| provider.to_owned());
        self.path.push(name);
        for member in &chain.middlewares {
            self.push(qualify(member, &provider))?;
        }
        self.path.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::middleware::{AddPrefix, Chain};

    fn known(chains: &[(&str, &[&str])]) -> BTreeMap<String, Config> {
        let plain = Config {
            add_prefix: Some(AddPrefix {
                prefix: "/x".to_owned(),
            }),
            ..Config::default()
        };
        let mut all: BTreeMap<_, _> = ["a@file", "b@file", "a@other"]
            .iter()
            .map(|name| ((*name).to_owned(), plain.clone()))
            .collect();
        for (name, members) in chains {
            let middlewares = members.iter().map(|member| (*member).to_owned()).collect();
            all.insert(
                (*name).to_owned(),
                Config {
                    chain: Some(Chain { middlewares }),
                    ..Config::default()
                },
            );
        }
        all
    }

    fn check(chains: &[(&str, &[&str])], names: &[&str]) -> Result<Vec<String>, ChainError> {
        let known = known(chains);
        let expanded = expand(names.iter().copied(), "file", &|name| known.get(name))?;
        Ok(expanded.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn chains_are_replaced_by_their_members() {
        let chains: &[(&str, &[&str])] = &[
            ("c@file", &["b", "d@other"]),
            ("d@other", &["a", "a@file"]),
            ("empty@file", &[]),
        ];
        assert_eq!(
            check(chains, &["a", "c", "empty", "b@file"]).unwrap(),
            ["a@file", "b@file", "a@other", "a@file", "b@file"]
        );
        assert_eq!(
            check(chains, &["c", "c"]).unwrap().len(),
            6,
            "twice in a row is no recursion"
        );
    }

    #[test]
    fn chains_that_cannot_be_used() {
        assert_eq!(check(&[], &["none"]), Err(ChainError::Missing("none@file".to_owned())));
        assert_eq!(
            check(&[("c@file", &["none"])], &["c"]),
            Err(ChainError::Missing("none@file".to_owned()))
        );
        let chains: &[(&str, &[&str])] = &[("a1@file", &["c1"]), ("c1@file", &["c2"]), ("c2@file", &["c1"])];
        let error = check(chains, &["a1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chain contains itself: c1@file -> c2@file -> c1@file"
        );
    }

    #[test]
    fn chains_of_chains_do_not_explode() {
        let names: Vec<String> = (0..30).map(|level| format!("c{level}@file")).collect();
        let members: Vec<[&str; 2]> = (0..30)
            .map(|level| {
                names
                    .get(level + 1)
                    .map_or(["a", "b"], |next| [next.as_str(), next.as_str()])
            })
            .collect();
        let chains: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&members)
            .map(|(name, members)| (name.as_str(), &members[..]))
            .collect();
        assert!(matches!(check(&chains, &["c0"]), Err(ChainError::TooLarge(_))));
    }

    #[test]
    fn empty_chains_of_chains_do_not_explode_either() {
        let names: Vec<String> = (0..40).map(|level| format!("c{level}@file")).collect();
        let members: Vec<Vec<&str>> = (0..40)
            .map(|level| {
                names
                    .get(level + 1)
                    .map_or(vec![], |next| vec![next.as_str(), next.as_str()])
            })
            .collect();
        let chains: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&members)
            .map(|(name, members)| (name.as_str(), &members[..]))
            .collect();
        assert!(matches!(check(&chains, &["c0"]), Err(ChainError::TooLarge(_))));
    }
}
