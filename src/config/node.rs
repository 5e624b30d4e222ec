//! A YAML document as a tree with its places: what the decoder reads.

use std::ops::Range;
use std::sync::Arc;

/// One value of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Byte offsets in the text; for collections the place of their first character.
    pub span: Range<usize>,
    /// What stands there.
    pub value: Value,
    /// Nodes in this subtree, itself included: what an alias to it costs.
    pub size: usize,
    /// Levels of this subtree.
    pub height: usize,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: an empty value, `~` or `null`.
    Null,
    /// A scalar and whether it was written without quotes.
    Scalar(String, bool),
    /// A list.
    Sequence(Vec<Arc<Node>>),
    /// A mapping, in the order of the file.
    Mapping(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its place.
    pub key_span: Range<usize>,
    /// The value.
    pub value: Arc<Node>,
}

impl Node {
    /// A node whose size and height follow from its children.
    #[must_use]
    pub fn new(span: Range<usize>, value: Value) -> Self {
        let mut node = Self {
            span,
            value,
            size: 1,
            height: 1,
        };
        let (mut size, mut height) = (1_usize, 0);
        let mut count = |child: &Self| {
            size = size.saturating_add(child.size);
            height = height.max(child.height);
        };
        match &node.value {
            Value::Null | Value::Scalar(..) => {}
            Value::Sequence(items) => items.iter().for_each(|item| count(item)),
            Value::Mapping(entries) => entries.iter().for_each(|entry| count(&entry.value)),
        }
        (node.size, node.height) = (size, height + 1);
        node
    }

    /// Whether nothing stands there.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What stands there, for messages: "a list", "the text `x`".
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar(text, _) => format!("`{}`", shorten(text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a section with keys".to_owned(),
        }
    }

    /// The entries, if it is a mapping.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The deepest place that a path such as `http.routers.r.middlewares[1]` reaches, and how many bytes of the path
    /// were used to get there. Keys are compared without case; names may hold dots.
    #[must_use]
    pub fn locate(&self, path: &str) -> (Range<usize>, usize) {
        let (mut node, mut span, mut rest) = (self, self.span.clone(), path);
        loop {
            if let Some(index) = rest.strip_prefix('[') {
                let Some((number, after)) = index.split_once(']') else {
                    break;
                };
                let Value::Sequence(items) = &node.value else { break };
                let Some(item) = number.parse::<usize>().ok().and_then(|n| items.get(n)) else {
                    break;
                };
                (node, span, rest) = (item, item.span.clone(), after);
                continue;
            }
            let key = rest.strip_prefix('.').unwrap_or(rest);
            let Some(entry) = node
                .entries()
                .iter()
                .filter(|e| begins_with(key, &e.key))
                .max_by_key(|e| e.key.len())
            else {
                break;
            };
            let leaf = matches!(entry.value.value, Value::Scalar(..));
            span = if leaf {
                entry.value.span.clone()
            } else {
                entry.key_span.clone()
            };
            (node, rest) = (&entry.value, &key[entry.key.len()..]);
        }
        (span, path.len() - rest.len())
    }
}

/// Whether a path begins with a key, as a whole step.
fn begins_with(path: &str, key: &str) -> bool {
    path.get(..key.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(key))
        && !key.is_empty()
        && matches!(path.as_bytes().get(key.len()), None | Some(b'.' | b'['))
}

/// A text of the file cut to what a message can hold.
#[must_use]
pub fn shorten(text: &str) -> String {
    shorten_to(text, 60)
}

/// The first line of a text, and of that so many characters.
#[must_use]
pub fn shorten_to(text: &str, longest: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() > longest || first.len() < text.trim_end().len() {
        first.chars().take(longest).chain(['…']).collect()
    } else {
        first.to_owned()
    }
}
