//! Names of objects: `name` and `name@provider`.

use std::collections::BTreeMap;

use crate::diag::{Diagnostic, did_you_mean};

/// Above so many names none is suggested.
const MANY: usize = 2_000;

/// The provider of everything that comes from files.
pub(super) const FILE: &str = "file";

/// `name@file`
pub(super) fn qualified(name: &str) -> String {
    format!("{name}@{FILE}")
}

/// The name as it stands in the files: without `@file`.
pub(super) fn local(name: &str) -> &str {
    name.strip_suffix("@file").unwrap_or(name)
}

/// Looks `name` up among `objects`; an error at `path` says what there is instead.
pub(super) fn find<'m, T>(
    objects: &'m BTreeMap<String, T>,
    kind: &str,
    name: &str,
    path: &str,
) -> Result<(&'m str, &'m T), Box<Diagnostic>> {
    let wanted = local(name);
    if let Some((key, object)) = objects.get_key_value(wanted) {
        return Ok((key, object));
    }
    let error = Diagnostic::error(path, format!("there is no {kind} `{name}`"));
    let error = match wanted.split_once('@') {
        Some((_, provider)) if provider != FILE => error.help(format!(
            "the provider `{provider}` is not built yet: everything comes from files"
        )),
        // Thousands of wrong names among thousands of right ones would take minutes.
        _ if objects.len() > MANY => error.help(format!("{} are declared", objects.len())),
        _ => match did_you_mean(wanted, objects.keys().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if objects.is_empty() => error.help(format!("no {kind} is declared")),
            None => {
                let some: Vec<String> = objects.keys().take(5).map(|k| format!("`{k}`")).collect();
                error.help(format!(
                    "declared: {}{}",
                    some.join(", "),
                    if objects.len() > 5 { ", …" } else { "" }
                ))
            }
        },
    };
    Err(Box::new(error))
}
