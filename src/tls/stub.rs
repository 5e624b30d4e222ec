//! Stand-ins for `config` and `diag`.
#![allow(missing_docs)]
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    pub path: String,
    pub help: Option<String>,
}
impl Diagnostic {
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), path: path.into(), help: None }
    }
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
pub fn did_you_mean<'a>(_word: &str, _candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    None
}
#[derive(Debug, Default)]
pub struct Resources(pub BTreeMap<String, Arc<[u8]>>);
impl Resources {
    pub fn file_or_content<'a>(&'a self, text: &'a str) -> Result<Cow<'a, [u8]>, String> {
        if text.contains("-----BEGIN") {
            return Ok(Cow::Borrowed(text.as_bytes()));
        }
        self.0.get(text).map(|v| Cow::Borrowed(&v[..])).ok_or_else(|| format!("{text}: No such file"))
    }
}
