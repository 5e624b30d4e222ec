//! Finds the place of a configuration path in the text it came from.

use std::sync::{Arc, OnceLock};

use super::node::Node;
use super::yaml;
use crate::diag::{Diagnostic, Location, Source};

/// The places of one file's values. The text is read again when the first place is asked for: places are asked for
/// where something is wrong, which is rare, and 100,000 routers need no map of all their keys.
#[derive(Clone, Debug)]
pub struct SpanMap {
    source: Arc<Source>,
    tree: Arc<OnceLock<Option<Node>>>,
}

impl SpanMap {
    /// The places of a text.
    #[must_use]
    pub fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            tree: Arc::default(),
        }
    }

    /// The text.
    #[must_use]
    pub const fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The place of a path, or of its nearest ancestor that stands in the text; and how many bytes of the path that
    /// place stands for. `None` when not even the first key is there.
    #[must_use]
    pub fn nearest(&self, path: &str) -> Option<(Location, usize)> {
        let tree = self
            .tree
            .get_or_init(|| yaml::parse(&self.source).ok().flatten())
            .as_ref()?;
        let (span, used) = tree.locate(path);
        (used > 0).then(|| {
            (
                Location {
                    source: Arc::clone(&self.source),
                    span,
                },
                used,
            )
        })
    }

    /// The place of a path, or of its nearest ancestor; at the worst the beginning of the file.
    #[must_use]
    pub fn locate(&self, path: &str) -> Location {
        self.nearest(path).map_or_else(
            || Location {
                source: Arc::clone(&self.source),
                span: 0..0,
            },
            |(place, _)| place,
        )
    }

    /// Adds its place to a diagnostic that has none.
    #[must_use]
    pub fn attach(&self, diagnostic: Diagnostic) -> Diagnostic {
        if diagnostic.location.is_some() {
            return diagnostic;
        }
        let location = self.locate(&diagnostic.path);
        place(diagnostic, location)
    }
}

/// Adds a place to a diagnostic, and hides the line where it may hold a password.
pub(super) fn place(mut diagnostic: Diagnostic, location: Location) -> Diagnostic {
    diagnostic.secret |= diagnostic.path.contains(".users[") || diagnostic.path.ends_with(".users");
    diagnostic.at(location)
}
