//! YAML text into a [`Node`] tree: the only file that knows the YAML crate.
//!
//! Invariants: work and memory are bounded by the text's length and [`MOST_ALIASED`], whatever the text; nothing here
//! calls itself once for each level of the text; each refusal says where and how to mend.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::node::{Entry, Node, Value};
use crate::diag::{Diagnostic, Location, Source};

/// Bytes of the longest text: room for 100,000 routers.
pub const LONGEST_TEXT: usize = 32 << 20;
/// Levels of the deepest text.
pub const DEEPEST: usize = 64;
/// Nodes that all aliases together may stand for.
pub const MOST_ALIASED: usize = 200_000;
/// Duplicate keys that are reported.
const MOST_DUPLICATES: usize = 100;

/// The tree of a text. `None` when it is empty.
///
/// # Errors
/// All that is wrong with the text as YAML: the first error of syntax, or every duplicate key.
pub fn parse(source: &Arc<Source>) -> Result<Option<Node>, Vec<Diagnostic>> {
    if source.text.len() > LONGEST_TEXT {
        let message = format!("the file has {} bytes; {LONGEST_TEXT} are the most", source.text.len());
        return Err(vec![
            Diagnostic::error("", message).help("split it: `providers.file.directory` reads many files"),
        ]);
    }
    let mut builder = Builder::new(source);
    match builder.run() {
        Ok(_) if !builder.problems.is_empty() => Err(builder.problems),
        Ok(node) => Ok(node),
        Err(problem) => {
            builder.problems.push(problem);
            Err(builder.problems)
        }
    }
}

/// A collection that has begun and not ended.
struct Open {
    start: Range<usize>,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    Sequence(Vec<Arc<Node>>),
    Mapping {
        entries: Vec<Entry>,
        merges: Vec<Arc<Node>>,
        seen: HashMap<String, Range<usize>>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    span: Range<usize>,
    merge: bool,
}

struct Builder<'a> {
    source: &'a Arc<Source>,
    offsets: Offsets<'a>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    aliased: usize,
    root: Option<Node>,
    problems: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Arc<Source>) -> Self {
        Self {
            source,
            offsets: Offsets::new(&source.text),
            stack: Vec::new(),
            anchors: HashMap::new(),
            aliased: 0,
            root: None,
            problems: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<Option<Node>, Diagnostic> {
        let mut parser = Parser::new_from_str(&self.source.text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.syntax(error.marker(), error.info()))?;
            let span = self.offsets.range(&span);
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self
                            .error(span, "a second document begins here; a file holds one")
                            .help("take out the line `---`, or write a file for each document"));
                    }
                }
                Event::Alias(id) => self.alias(id, span)?,
                Event::Scalar(text, style, anchor, tag) => {
                    let value = self.scalar(text.into_owned(), style, tag.as_deref(), &span)?;
                    self.value(Node::new(span, value), anchor)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.tag(tag.as_deref(), &span)?;
                    self.open(span, anchor, Kind::Sequence(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.tag(tag.as_deref(), &span)?;
                    let (entries, merges) = (Vec::new(), Vec::new());
                    self.open(
                        span,
                        anchor,
                        Kind::Mapping {
                            entries,
                            merges,
                            seen: HashMap::new(),
                            key: None,
                        },
                    )?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close()?,
            }
        }
        Ok(self.root.take())
    }

    fn scalar(
        &self,
        text: String,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: &Range<usize>,
    ) -> Result<Value, Diagnostic> {
        self.tag(tag, span)?;
        let is_text = tag.is_some_and(|tag| matches!(tag.suffix.as_str(), "str" | ""));
        let plain = style == ScalarStyle::Plain && !is_text;
        Ok(match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
            _ => Value::Scalar(text, plain),
        })
    }

    /// Refuses tags that YAML itself does not define.
    fn tag(&self, tag: Option<&Tag>, span: &Range<usize>) -> Result<(), Diagnostic> {
        match tag {
            None => Ok(()),
            Some(tag) if tag.is_yaml_core_schema() || tag.handle == "!" && tag.suffix.is_empty() => Ok(()),
            Some(tag) => Err(self
                .error(span.clone(), format!("the tag `{tag}` is not understood"))
                .help("write the value without a tag")),
        }
    }

    fn alias(&mut self, id: usize, span: Range<usize>) -> Result<(), Diagnostic> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            return Err(self
                .error(span, "this alias stands inside the value that it names")
                .help("write the value out: a value cannot hold itself"));
        };
        self.aliased = self.aliased.saturating_add(node.size);
        if self.aliased > MOST_ALIASED {
            return Err(self
                .error(
                    span,
                    format!("the aliases of this file stand for more than {MOST_ALIASED} values"),
                )
                .help("aliases of aliases multiply: write the values out"));
        }
        self.deep_enough(self.stack.len() + node.height, &span)?;
        self.attach(node, span)
    }

    fn open(&mut self, span: Range<usize>, anchor: usize, kind: Kind) -> Result<(), Diagnostic> {
        self.deep_enough(self.stack.len() + 1, &span)?;
        if let Some(Open {
            kind: Kind::Mapping { key: None, .. },
            ..
        }) = self.stack.last()
        {
            return Err(self
                .error(span, "a key must be a word, not a list or a section")
                .help(TEMPLATE_OR_QUOTES));
        }
        self.stack.push(Open {
            start: span,
            anchor,
            kind,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Diagnostic> {
        let open = self.stack.pop().expect("the parser ends only what it began");
        let value = match open.kind {
            Kind::Sequence(items) => Value::Sequence(items),
            Kind::Mapping {
                mut entries, merges, ..
            } => {
                if !merges.is_empty() {
                    merge(&mut entries, &merges);
                }
                Value::Mapping(entries)
            }
        };
        self.value(Node::new(open.start, value), open.anchor)
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        let span = node.span.clone();
        let node = Arc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        self.attach(node, span)
    }

    /// Puts a finished value where it belongs: into the open collection, or at the root.
    fn attach(&mut self, node: Arc<Node>, span: Range<usize>) -> Result<(), Diagnostic> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(Arc::unwrap_or_clone(node));
            return Ok(());
        };
        match &mut open.kind {
            Kind::Sequence(items) => items.push(node),
            Kind::Mapping { key: slot @ None, .. } => {
                let key = match &node.value {
                    Value::Scalar(text, plain) => Key {
                        text: text.clone(),
                        merge: *plain && text == "<<",
                        span,
                    },
                    Value::Null => Key {
                        text: self.source.text[node.span.clone()].trim().to_owned(),
                        merge: false,
                        span,
                    },
                    Value::Sequence(_) | Value::Mapping(_) => {
                        return Err(self.error(span, "a key must be a word, not a list or a section"));
                    }
                };
                *slot = Some(key);
            }
            Kind::Mapping { entries, seen, key, .. } => {
                let Some(key) = key.take() else { return Ok(()) };
                if key.merge {
                    return self.merge_value(&node, span);
                }
                if let Some(first) = seen.get(&key.text).cloned() {
                    self.duplicate(&key, first);
                } else {
                    seen.insert(key.text.clone(), key.span.clone());
                    entries.push(Entry {
                        key: key.text,
                        key_span: key.span,
                        value: node,
                    });
                }
            }
        }
        Ok(())
    }

    fn merge_value(&mut self, node: &Arc<Node>, span: Range<usize>) -> Result<(), Diagnostic> {
        let nodes: Vec<Arc<Node>> = match &node.value {
            Value::Mapping(_) => vec![Arc::clone(node)],
            Value::Sequence(items) => items.clone(),
            Value::Null | Value::Scalar(..) => Vec::new(),
        };
        if nodes.is_empty() || nodes.iter().any(|node| !matches!(node.value, Value::Mapping(_))) {
            return Err(self
                .error(
                    span,
                    format!("`<<` takes a section or a list of sections, not {}", node.describe()),
                )
                .help("write `<<: *name`, with `&name` at a section above"));
        }
        if let Some(Open {
            kind: Kind::Mapping { merges, .. },
            ..
        }) = self.stack.last_mut()
        {
            merges.extend(nodes);
        }
        Ok(())
    }

    fn duplicate(&mut self, key: &Key, first: Range<usize>) {
        if self.problems.len() >= MOST_DUPLICATES {
            return;
        }
        let (line, _) = self.source.line_column(key.span.start);
        let (first_line, _) = self.source.line_column(first.start);
        let again = self
            .error(
                key.span.clone(),
                format!("`{}` stands here again; it is in line {first_line} already", key.text),
            )
            .help("keep one of the two, or give one another name");
        let before = self
            .error(
                first,
                format!("`{}` stands here first, and again in line {line}", key.text),
            )
            .help("of two, Traefik and Gantry take neither");
        self.problems.extend([before, again]);
    }

    fn deep_enough(&self, depth: usize, span: &Range<usize>) -> Result<(), Diagnostic> {
        if depth <= DEEPEST {
            Ok(())
        } else {
            Err(self.too_deep(span.clone()))
        }
    }

    fn too_deep(&self, span: Range<usize>) -> Diagnostic {
        self.error(span, format!("nested deeper than {DEEPEST} levels"))
            .help("no configuration needs that: look for an indentation or a bracket gone wrong")
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error("", message).at(Location {
            source: Arc::clone(self.source),
            span,
        })
    }

    /// The parser's own words, and what usually causes them.
    fn syntax(&self, marker: &Marker, info: &str) -> Diagnostic {
        let text = &self.source.text;
        let at = self.offsets.byte(marker.index()).min(text.len());
        if info.contains("recursion limit") {
            return self.too_deep(at..at);
        }
        let line = self.source.line_at(at);
        let blank_lead = text[line.clone()]
            .bytes()
            .take_while(|b| b" \t".contains(b))
            .collect::<Vec<_>>();
        if let Some(tab) = blank_lead.iter().position(|byte| *byte == b'\t') {
            return self
                .error(
                    line.start + tab..line.start + tab + 1,
                    "a tab in the indentation; YAML takes spaces only",
                )
                .help("replace each tab by spaces");
        }
        let diagnostic = self.error(at..at, format!("not valid YAML: {info}"));
        let line = &text[line];
        let help = if text.contains("{{") {
            TEMPLATE
        } else if info.contains("simple key")
            || info.contains("expected key")
            || info.contains("mapping values")
            || info.contains("':'")
        {
            "look at the indentation of this line and the one above; a text that holds `: ` needs quotes"
        } else if info.contains("quoted scalar") || info.contains("end of stream") || info.contains("eof") {
            "a quote or bracket is not closed"
        } else if line.trim_start().starts_with(['`', '@', '%']) || line.contains(": `") || line.contains(": @") {
            "a value that begins with ` @ or % needs quotes: rule: \"Host(`example.com`)\""
        } else if line.contains(": *") {
            "a value that begins with * needs quotes; `*name` stands for the value marked `&name` above"
        } else {
            "look at indentation, quotes and brackets of this line and the ones above"
        };
        diagnostic.help(help)
    }
}

/// What to do about `{{ … }}`.
pub(super) const TEMPLATE: &str =
    "Go templates (`{{ … }}`) are known, not supported yet: write the values out, or render the file before";
const TEMPLATE_OR_QUOTES: &str =
    "put a text that begins with { or [ into quotes; Go templates (`{{ … }}`) are known, not supported yet";

/// Adds the entries of merged sections: what stands in the section itself wins, then what was merged first.
fn merge(entries: &mut Vec<Entry>, merges: &[Arc<Node>]) {
    let mut seen: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for entry in merges.iter().flat_map(|node| node.entries()) {
        if seen.insert(entry.key.clone()) {
            entries.push(entry.clone());
        }
    }
}

/// Turns the parser's offsets in characters into byte offsets.
struct Offsets<'a> {
    text: &'a str,
    /// The byte offset of each 64th character; empty for ASCII texts.
    marks: Vec<usize>,
}

impl<'a> Offsets<'a> {
    const STEP: usize = 64;

    fn new(text: &'a str) -> Self {
        let marks = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().step_by(Self::STEP).map(|(at, _)| at).collect()
        };
        Self { text, marks }
    }

    fn byte(&self, index: usize) -> usize {
        if self.marks.is_empty() {
            return index.min(self.text.len());
        }
        let Some(start) = self.marks.get(index / Self::STEP) else {
            return self.text.len();
        };
        self.text[*start..]
            .char_indices()
            .nth(index % Self::STEP)
            .map_or(self.text.len(), |(at, _)| start + at)
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let start = self.byte(span.start.index());
        start..self.byte(span.end.index()).max(start)
    }
}
