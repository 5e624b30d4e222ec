//! `metrics.prometheus.headerLabels`: labels of `*_requests_total` whose values come from request headers.
//!
//! The values are the client's, so they are bounded three times: a value is cut at [`MAX_BYTES`], a label has at most
//! [`MAX_VALUES`] of them in the life of the process, and at most [`MAX_SETS`] combinations of the labels' values are
//! told apart. What comes later counts as `other`. Numbers stand for values and for combinations. They are given out
//! under a lock, and each worker remembers those that it met; once all are given out, it remembers all, so that a flood
//! of new values takes no lock.

use std::borrow::{Borrow, Cow};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::labels::OTHER;
use super::lock;

/// Longest value of a header label, in bytes of UTF-8; longer ones are cut.
pub const MAX_BYTES: usize = 64;
/// Most values that one header label has.
pub const MAX_VALUES: usize = 100;
/// Most combinations of the values of several header labels.
pub const MAX_SETS: usize = 1000;

/// The number of the empty value.
const EMPTY: u32 = 0;
/// The number of `other`.
const REST: u32 = 1;

/// One combination of values, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HeaderSet(u32);

impl HeaderSet {
    /// Of a request whose headers were not looked at: every label is empty.
    const EMPTY: Self = Self(EMPTY);
    /// `other` in every label.
    pub(super) const OTHER: Self = Self(REST);
}

/// The values of the header labels of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderValues {
    pub(super) set: HeaderSet,
    /// A value counts as `other` because of a cap.
    pub(super) folded: bool,
}

/// Numbers for keys, up to a number of keys.
#[derive(Debug)]
struct Numbers<K> {
    known: HashMap<K, u32>,
    /// Every key that will ever have a number is among them.
    complete: bool,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            complete: false,
        }
    }
}

impl<K: Hash + Eq + Clone> Numbers<K> {
    /// The number of `key`, a new one where there is room.
    fn give<Q>(&mut self, key: &Q, most: usize, warn: impl FnOnce()) -> Option<u32>
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(number) = self.known.get(key) {
            return Some(*number);
        }
        if self.known.len() >= most {
            if !std::mem::replace(&mut self.complete, true) {
                warn();
            }
            return None;
        }
        // The first two are the empty one and `other`.
        let number = self.known.len() as u32 + 2;
        self.known.insert(key.into(), number);
        Some(number)
    }

    /// The number of `key` as a worker knows it: from its own memory, else from `shared`.
    fn learn<Q>(&mut self, key: &Q, shared: impl FnOnce() -> Result<u32, HashMap<K, u32>>) -> Option<u32>
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(number) = self.known.get(key) {
            return Some(*number);
        }
        if self.complete {
            return None;
        }
        match shared() {
            Ok(number) => {
                self.known.insert(key.into(), number);
                Some(number)
            }
            Err(all) => {
                self.known = all;
                self.complete = true;
                None
            }
        }
    }
}

#[derive(Debug, Default)]
struct Given {
    values: Vec<Numbers<Box<str>>>,
    sets: Numbers<Box<[u32]>>,
}

/// The labels, and the numbers that were given out. Shared by all threads.
#[derive(Debug)]
pub(super) struct HeaderLabels {
    labels: Vec<(String, HeaderName)>,
    given: Mutex<Given>,
}

impl HeaderLabels {
    pub(super) fn new(labels: &BTreeMap<String, HeaderName>) -> Arc<Self> {
        let mut given = Given::default();
        given.values.resize_with(labels.len(), Numbers::default);
        Arc::new(Self {
            labels: labels
                .iter()
                .map(|(label, header)| (label.clone(), header.clone()))
                .collect(),
            given: Mutex::new(given),
        })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn value(&self, index: usize, text: &str) -> Result<u32, HashMap<Box<str>, u32>> {
        let mut given = lock(&self.given);
        let values = &mut given.values[index];
        let warn = || {
            let (label, header) = &self.labels[index];
            tracing::warn!(
                "metrics: the label `{label}` has {MAX_VALUES} values from the header `{header}`: further ones are \
                 counted as `other`"
            );
        };
        values.give(text, MAX_VALUES, warn).ok_or_else(|| values.known.clone())
    }

    fn set(&self, numbers: &[u32]) -> Result<u32, HashMap<Box<[u32]>, u32>> {
        let mut given = lock(&self.given);
        let warn = || {
            tracing::warn!(
                "metrics: the header labels have {MAX_SETS} combinations of values: further ones are counted as `other`"
            );
        };
        let sets = &mut given.sets;
        sets.give(numbers, MAX_SETS, warn).ok_or_else(|| sets.known.clone())
    }

    /// The labels with their values, by the number of their combination.
    pub(super) fn texts(&self) -> HashMap<HeaderSet, Vec<(&str, String)>> {
        let given = lock(&self.given);
        let all = |value: &str| {
            self.labels
                .iter()
                .map(|(label, _)| (label.as_str(), value.to_owned()))
                .collect()
        };
        let mut texts = HashMap::from([(HeaderSet::EMPTY, all("")), (HeaderSet::OTHER, all(OTHER))]);
        let mut values: Vec<HashMap<u32, &str>> = Vec::new();
        for numbers in &given.values {
            values.push(numbers.known.iter().map(|(text, number)| (*number, &**text)).collect());
        }
        for (numbers, set) in &given.sets.known {
            let text = |(index, number): (usize, &u32)| match *number {
                EMPTY => "",
                REST => OTHER,
                number => values[index].get(&number).copied().unwrap_or_default(),
            };
            let texts_of_set = numbers.iter().enumerate().map(text).map(str::to_owned);
            let names = self.labels.iter().map(|(label, _)| label.as_str());
            texts.insert(HeaderSet(*set), names.zip(texts_of_set).collect());
        }
        texts
    }
}

#[derive(Debug, Default)]
struct Memory {
    values: Vec<Numbers<Box<str>>>,
    sets: Numbers<Box<[u32]>>,
    numbers: Vec<u32>,
}

/// What one worker remembers of the numbers.
#[derive(Debug)]
pub(super) struct HeaderReader {
    labels: Arc<HeaderLabels>,
    memory: RefCell<Memory>,
}

impl HeaderReader {
    pub(super) fn new(labels: Arc<HeaderLabels>) -> Self {
        let mut memory = Memory::default();
        memory.values.resize_with(labels.labels.len(), Numbers::default);
        Self {
            labels,
            memory: RefCell::new(memory),
        }
    }

    /// Whether any header is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        !self.labels.is_empty()
    }

    /// The values that a request with `headers` counts under.
    pub(super) fn read(&self, headers: &HeaderMap) -> HeaderValues {
        let memory = &mut *self.memory.borrow_mut();
        let mut folded = false;
        memory.numbers.clear();
        let labels = self.labels.labels.iter().enumerate();
        for ((index, (_, header)), values) in labels.zip(&mut memory.values) {
            let text = headers.get(header).map(text).unwrap_or_default();
            memory.numbers.push(match &*text {
                "" => EMPTY,
                OTHER => REST,
                text => values
                    .learn(text, || self.labels.value(index, text))
                    .unwrap_or_else(|| {
                        folded = true;
                        REST
                    }),
            });
        }
        let numbers = memory.numbers.as_slice();
        let set = if numbers.iter().all(|number| *number == EMPTY) {
            HeaderSet::EMPTY
        } else if numbers.iter().all(|number| *number == REST) {
            HeaderSet::OTHER
        } else {
            let set = memory.sets.learn(numbers, || self.labels.set(numbers));
            folded |= set.is_none();
            set.map_or(HeaderSet::OTHER, HeaderSet)
        };
        HeaderValues { set, folded }
    }
}

/// A header's value as a label's: valid UTF-8, not too long.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    // A character that begins within the limit ends within three bytes more.
    let bytes = value.as_bytes();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BYTES + 3)]);
    let end = text.floor_char_boundary(MAX_BYTES);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[(&str, &'static str)]) -> Arc<HeaderLabels> {
        let header = |header| HeaderName::from_static(header);
        HeaderLabels::new(&names.iter().map(|(l, h)| ((*l).to_owned(), header(h))).collect())
    }

    fn request(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn shown(reader: &HeaderReader, headers: &HeaderMap) -> String {
        let set = reader.read(headers).set;
        let texts = reader.labels.texts();
        let pairs = texts[&set].iter().map(|(label, value)| format!("{label}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn values_are_valid_and_short() {
        let of = |bytes: &[u8]| text(&HeaderValue::from_bytes(bytes).unwrap()).into_owned();
        assert_eq!(of(b"plain"), "plain");
        assert_eq!(of(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(of(&[b'x'; 5000]), "x".repeat(MAX_BYTES));
        assert_eq!(of("ä".repeat(40).as_bytes()), "ä".repeat(32));
        let odd = format!("x{}", "ä".repeat(40));
        assert_eq!(of(odd.as_bytes()), format!("x{}", "ä".repeat(31)));
        let wide = format!("{}😀tail", "x".repeat(MAX_BYTES - 1));
        assert_eq!(of(wide.as_bytes()), "x".repeat(MAX_BYTES - 1));
        assert!(of(&[0xff; 100]).len() <= MAX_BYTES);
    }

    #[test]
    fn the_first_field_counts_and_a_header_that_is_absent_is_empty() {
        let reader = HeaderReader::new(labels(&[("site", "x-site"), ("app", "x-app")]));
        assert_eq!(shown(&reader, &request(&[])), "app= site=");
        let mut headers = request(&[("x-site", b"north")]);
        headers.append("x-site", HeaderValue::from_static("south"));
        assert_eq!(shown(&reader, &headers), "app= site=north");
        headers.insert("x-app", HeaderValue::from_static("other"));
        assert_eq!(shown(&reader, &headers), "app=other site=north");
        assert!(!reader.read(&headers).folded);
    }

    #[test]
    fn thousands_of_values_are_bounded_and_workers_agree() {
        let labels = labels(&[("site", "x-site")]);
        let workers = [HeaderReader::new(Arc::clone(&labels)), HeaderReader::new(labels)];
        let mut folded = 0;
        for n in 0..5000 {
            let headers = request(&[("x-site", format!("site-{n}").as_bytes())]);
            folded += u32::from(workers[n % 2].read(&headers).folded);
        }
        assert_eq!(folded, 4900);
        let [one, two] = &workers;
        for n in [0, 1, 98, 99, 100, 4999] {
            let headers = request(&[("x-site", format!("site-{n}").as_bytes())]);
            let expected = if n < MAX_VALUES {
                format!("site=site-{n}")
            } else {
                "site=other".to_owned()
            };
            assert_eq!(
                (shown(one, &headers), shown(two, &headers)),
                (expected.clone(), expected)
            );
        }
        assert_eq!(one.memory.borrow().values[0].known.len(), MAX_VALUES);
        assert_eq!(one.labels.texts().len(), MAX_VALUES + 2);
    }

    #[test]
    fn combinations_are_bounded_too() {
        let reader = HeaderReader::new(labels(&[("a", "x-a"), ("b", "x-b")]));
        for n in 0..100 * 100 {
            let (a, b) = ((n / 100).to_string(), (n % 100).to_string());
            reader.read(&request(&[("x-a", a.as_bytes()), ("x-b", b.as_bytes())]));
        }
        assert_eq!(reader.labels.texts().len(), MAX_SETS + 2);
        let late = request(&[("x-a", b"99"), ("x-b", b"99")]);
        assert_eq!(shown(&reader, &late), "a=other b=other");
        assert!(reader.read(&late).folded);
    }
}
