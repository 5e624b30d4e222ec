//! Several dynamic files into one configuration.

use std::collections::BTreeMap;

use super::Decoded;
use super::dynamic::{Dynamic, TlsOptions};
use super::spans::{SpanMap, place};
use crate::diag::{Diagnostic, Location};

/// Several dynamic files as one.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The configuration.
    pub value: Dynamic,
    /// Names that stand in two files. What is wrong within one file stays with that file.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that were dropped because of an error, by path, and that no other file brings.
    pub broken: std::collections::BTreeSet<String>,
    spans: Vec<SpanMap>,
    /// How many `tls.certificates` each file brought.
    certificates: Vec<usize>,
}

impl Merged {
    /// Where a path stands: in the file that brought the object.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<Location> {
        if let Some((index, rest)) = certificate(path) {
            let mut left = index;
            for (spans, count) in self.spans.iter().zip(&self.certificates) {
                if left < *count {
                    return Some(spans.locate(&format!("tls.certificates[{left}]{rest}")));
                }
                left -= count;
            }
            return None;
        }
        // The first file that has the object, whatever of the path it lacks: the first one won.
        let object = object_length(path);
        let found = self.spans.iter().filter_map(|spans| spans.nearest(path));
        let mut best: Option<(Location, usize)> = None;
        for (location, used) in found {
            let score = used.min(object);
            if best.as_ref().is_none_or(|(_, known)| score > *known) {
                best = Some((location, score));
            }
        }
        best.map(|(location, _)| location)
    }

    /// Adds its place to a diagnostic that has none. What is said to be missing, and was only left out for an error of
    /// its own, is said to have one.
    #[must_use]
    pub fn attach(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if let Some((kind, name)) = missing(&diagnostic.message) {
            let object = format!("http.{kind}{}.{name}", if kind.ends_with('s') { "" } else { "s" });
            if self.broken.contains(&object) {
                diagnostic.message = format!("the {kind} `{name}` has an error, so this cannot be served");
                diagnostic.help = Some(format!("mend `{object}`"));
            }
        }
        match self.locate(&diagnostic.path) {
            Some(location) if diagnostic.location.is_none() => place(diagnostic, location),
            _ => diagnostic,
        }
    }
}

/// Kind and name in "there is no KIND `NAME`", as `compile` says it.
fn missing(message: &str) -> Option<(&str, &str)> {
    let (kind, name) = message.strip_prefix("there is no ")?.split_once(" `")?;
    let name = name.strip_suffix('`')?;
    Some((kind, name.strip_suffix("@file").unwrap_or(name)))
}

/// The index in `tls.certificates[N]…`, and what follows.
fn certificate(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix("tls.certificates[")?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

/// Bytes of a path up to the object's name: `http.routers.r` of `http.routers.r.rule`.
fn object_length(path: &str) -> usize {
    path.match_indices('.').nth(2).map_or(path.len(), |(at, _)| at)
}

/// Merges files in the alphabetical order of their names. A name that stands in two files is taken from the first.
#[must_use]
pub fn merge(mut files: Vec<&Decoded<Dynamic>>) -> Merged {
    files.sort_by(|a, b| a.source.name.cmp(&b.source.name));
    let mut merged = Merged::default();
    let mut owners = BTreeMap::new();
    for file in files {
        let Dynamic { http, tls } = file.value.clone();
        let mut into = Into {
            file,
            owners: &mut owners,
            diagnostics: &mut merged.diagnostics,
        };
        into.map("http.routers", http.routers, &mut merged.value.http.routers);
        into.map("http.services", http.services, &mut merged.value.http.services);
        into.map("http.middlewares", http.middlewares, &mut merged.value.http.middlewares);
        into.map(
            "http.serversTransports",
            http.servers_transports,
            &mut merged.value.http.servers_transports,
        );
        into.map("tls.options", tls.options, &mut merged.value.tls.options);
        into.map("tls.stores", tls.stores, &mut merged.value.tls.stores);
        merged.certificates.push(tls.certificates.len());
        merged.value.tls.certificates.extend(tls.certificates);
        merged.spans.push(file.spans.clone());
        merged.broken.extend(file.broken.iter().cloned());
    }
    merged.broken.retain(|path| !owners.contains_key(path));
    if merged.broken.contains("tls.options.default") {
        // Else the built-in options would hold: without the client certificates that were asked for, say.
        let options = &mut merged.value.tls.options;
        options.insert("default".to_owned(), TlsOptions::unusable());
    }
    merged
}

/// One file on its way into the whole.
struct Into<'a, 'f> {
    file: &'f Decoded<Dynamic>,
    owners: &'a mut BTreeMap<String, &'f str>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Into<'_, '_> {
    fn map<T>(&mut self, section: &str, from: BTreeMap<String, T>, to: &mut BTreeMap<String, T>) {
        for (name, value) in from {
            let path = format!("{section}.{name}");
            if let Some(owner) = self.owners.get(&path) {
                let message = format!("`{name}` is defined in `{owner}` already; this one is not used");
                let warning = Diagnostic::warning(path, message);
                self.diagnostics
                    .push(self.file.attach(warning.help("rename one of the two, or take it out")));
                continue;
            }
            self.owners.insert(path, &self.file.source.name);
            to.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode_dynamic;

    #[test]
    fn the_first_file_wins_and_a_warning_names_both() {
        let b = decode_dynamic(
            "b.yml",
            "http:\n  services:\n    s: {loadBalancer: {servers: [{url: 'http://b'}]}}\n",
        );
        let a = decode_dynamic(
            "a.yml",
            "http:\n  services:\n    s: {loadBalancer: {servers: [{url: 'http://a'}]}}\n",
        );
        let merged = merge(vec![&b, &a]);
        let service = merged.value.http.services["s"].load_balancer.as_ref().unwrap();
        assert_eq!(service.servers[0].url, "http://a");
        let warning = merged.diagnostics[0].to_string();
        assert!(warning.contains("a.yml") && warning.contains("b.yml:3:5"), "{warning}");
        let place = merged.locate("http.services.s.loadBalancer.strategy").unwrap();
        assert_eq!(place.source.name, "a.yml");
    }

    #[test]
    fn what_was_left_out_for_its_own_error_is_not_said_to_be_missing() {
        let file = decode_dynamic(
            "a.yml",
            "http: {middlewares: {m: {ipAllowList: {sourceRange: [mars]}}}}\n",
        );
        let merged = merge(vec![&file]);
        let said = |name: &str| {
            let found = Diagnostic::error(
                "http.routers.r.middlewares[0]",
                format!("there is no middleware `{name}`"),
            );
            merged.attach(found).message
        };
        assert_eq!(
            said("m@file"),
            "the middleware `m` has an error, so this cannot be served"
        );
        assert_eq!(said("n"), "there is no middleware `n`");
    }

    #[test]
    fn certificates_of_all_files_are_kept_and_found_again() {
        let a = decode_dynamic("a.yml", "tls: {certificates: [{certFile: a, keyFile: a}]}");
        let b = decode_dynamic(
            "b.yml",
            "tls:\n  certificates:\n    - {certFile: b, keyFile: missing}\n",
        );
        let merged = merge(vec![&a, &b]);
        assert_eq!(merged.value.tls.certificates.len(), 2);
        let place = merged.locate("tls.certificates[1].keyFile").unwrap();
        assert_eq!(place.source.name, "b.yml");
        assert_eq!(&place.source.text[place.span], "missing");
    }
}
