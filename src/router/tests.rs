//! The index against a linear scan, precedence, and shadowed routers.

use std::net::{IpAddr, Ipv4Addr};

use ::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::rule::{self, Facts};

fn entries(rules: &[(&str, i64)]) -> Vec<Entry<usize>> {
    let parse = |text: &str| Arc::new(rule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")));
    let numbered = rules.iter().enumerate();
    numbered
        .map(|(value, (text, priority))| Entry {
            rule: parse(text),
            priority: *priority,
            value,
        })
        .collect()
}

fn facts<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Facts<'a> {
    let client_ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    Facts {
        host,
        path,
        method: "GET",
        headers,
        query: Some("k=v"),
        client_ip,
    }
}

fn linear<'a>(entries: &'a [Entry<usize>], facts: &Facts<'_>) -> Option<&'a usize> {
    let mut order: Vec<&Entry<usize>> = entries.iter().collect();
    order.sort_by_key(|entry| (std::cmp::Reverse(entry.priority), entry.value));
    order
        .into_iter()
        .find(|entry| entry.rule.matches(facts))
        .map(|entry| &entry.value)
}

#[test]
fn the_highest_priority_wins_then_the_earlier() {
    let rules = [
        ("PathPrefix(`/`)", 1),
        ("Host(`a.x`)", 10),
        ("Host(`*.x`)", 20),
        ("Host(`a.x`) && PathPrefix(`/api`)", 15),
        ("Host(`a.x`) && PathPrefix(`/api`)", 15),
        ("Host(`a.x`) && Path(`/api/v1`)", 30),
        ("PathPrefix(`/top`)", 99),
        ("HostRegexp(`^b\\.`)", 25),
        ("Host(`a.x`) && PathPrefix(`/neg`)", -5),
        ("Host(`c`) || Host(`d.x`)", 21),
    ];
    let index = Index::build(entries(&rules));
    let headers = HeaderMap::new();
    let table = [
        ("a.x", "/", Some(2)),
        ("b.x", "/", Some(7)),
        ("q.x", "/", Some(2)),
        ("c", "/", Some(9)),
        ("d.x", "/", Some(9)),
        ("a.x", "/api", Some(2)),
        ("a.x", "/api/v1", Some(5)),
        ("a.x", "/top/x", Some(6)),
        ("other", "/", Some(0)),
        ("", "/", Some(0)),
        ("a.b.x", "/neg", Some(0)),
    ];
    for (host, path, expected) in table {
        assert_eq!(
            index.find(&facts(host, path, &headers)).copied(),
            expected,
            "{host}{path}"
        );
    }
    assert_eq!(index.len(), rules.len());
    assert_eq!(
        index.iter().map(|(_, value)| *value).take(3).collect::<Vec<_>>(),
        [6, 5, 7]
    );
    assert!(Index::<()>::default().find(&facts("a", "/", &headers)).is_none());
    assert!(Index::<()>::default().is_empty());
}

#[test]
fn an_earlier_equal_rule_wins() {
    let index = Index::build(entries(&[("Host(`a`) && PathPrefix(`/api`)", 15), ("Host(`a`)", 15)]));
    assert_eq!(index.find(&facts("a", "/api", &HeaderMap::new())), Some(&0));
    let index = Index::build(entries(&[("Host(`a`)", 15), ("Host(`a`) && PathPrefix(`/api`)", 15)]));
    assert_eq!(index.find(&facts("a", "/api", &HeaderMap::new())), Some(&0));
}

#[test]
fn rules_with_very_many_alternatives_still_match() {
    let hosts: Vec<String> = (0..1_100).map(|n| format!("Host(`h{n}`)")).collect();
    let paths: Vec<String> = (0..60).map(|n| format!("Path(`/{n}`)")).collect();
    let many_hosts = hosts.join(" || ");
    let both = format!("({}) && ({})", hosts[..1_000].join(" || "), paths.join(" || "));
    let index = Index::build(entries(&[(&both, 2), (&many_hosts, 1)]));
    let headers = HeaderMap::new();
    assert_eq!(index.find(&facts("h999", "/59", &headers)), Some(&0));
    assert_eq!(index.find(&facts("h999", "/60", &headers)), Some(&1));
    assert_eq!(index.find(&facts("h1099", "/59", &headers)), Some(&1));
    assert_eq!(index.find(&facts("h1100", "/59", &headers)), None);
}

/// By its running time: 20,000 look-ups that scan 20,000 rules each would take minutes in a debug build.
#[test]
fn twenty_thousand_routers_are_not_scanned() {
    let hosts = (0..10_000).map(|n| format!("Host(`h{n}.example.com`)"));
    let prefixes = (0..10_000).map(|n| format!("Host(`one.example.com`) && PathPrefix(`/app{n}/`)"));
    let rules: Vec<String> = hosts.chain(prefixes).collect();
    let rules: Vec<(&str, i64)> = rules
        .iter()
        .map(|text| (text.as_str(), rule::default_priority(text)))
        .collect();
    let index = Index::build(entries(&rules));
    let headers = HeaderMap::new();
    for n in 0..10_000 {
        assert_eq!(
            index.find(&facts(&format!("h{n}.example.com"), "/", &headers)),
            Some(&n)
        );
        assert_eq!(
            index.find(&facts("one.example.com", &format!("/app{n}/x"), &headers)),
            Some(&(10_000 + n))
        );
    }
}

#[test]
fn shadowed_routers_are_found() {
    let list = entries(&[
        ("Host(`a`) && Path(`/`)", 5),
        ("Path(\"/\") && host(`A`)", 9),
        ("Host(`a`)", 3),
        ("Host(`a`)", 3),
        ("Host(`b`)", 3),
        ("Path(`/`) && Host(`a`)", 9),
    ]);
    assert_eq!(shadowed(&list), [(0, 1), (3, 2), (5, 1)]);
    assert_eq!(shadowed::<()>(&[]), []);
}

fn matcher() -> impl Strategy<Value = String> {
    let host = proptest::sample::select(vec!["a", "a.x", "b.x", "c.x.y", "*.x", "*.x.y", "*"]);
    let path = "(/[ab]{0,2}){1,3}";
    prop_oneof![
        4 => host.prop_map(|host| format!("Host(`{host}`)")),
        3 => path.prop_map(|path| format!("PathPrefix(`{path}`)")),
        2 => path.prop_map(|path| format!("Path(`{path}`)")),
        1 => Just("HostRegexp(`^[ab]\\.x$`)".to_owned()),
        1 => Just("PathRegexp(`b$`)".to_owned()),
        1 => Just("Header(`h`, `1`)".to_owned()),
        1 => Just("Query(`k`, `v`)".to_owned()),
        1 => Just("Method(`POST`)".to_owned()),
        1 => Just("ClientIP(`10.0.0.0/8`)".to_owned()),
    ]
}

fn rule_text() -> impl Strategy<Value = String> {
    matcher().prop_recursive(4, 12, 3, |inner| {
        let list = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            2 => list.clone().prop_map(|parts| format!("({})", parts.join(" && "))),
            2 => list.prop_map(|parts| format!("({})", parts.join(" || "))),
            1 => inner.prop_map(|part| format!("!{part}")),
        ]
    })
}

fn request() -> impl Strategy<Value = (String, String, bool)> {
    let host = proptest::sample::select(vec!["", "a", "a.x", "b.x", "q.x", "c.x.y", "d.x.y", "z"]);
    (host.prop_map(str::to_owned), "(/[ab]{0,2}){1,4}", any::<bool>())
}

proptest! {
    #[test]
    fn find_agrees_with_a_linear_scan(
        rules in proptest::collection::vec((rule_text(), -2_i64..3), 0..25),
        requests in proptest::collection::vec(request(), 20),
    ) {
        let rules: Vec<(&str, i64)> = rules.iter().map(|(text, priority)| (text.as_str(), *priority)).collect();
        let list = entries(&rules);
        let index = Index::build(list.clone());
        for (host, path, with_header) in &requests {
            let mut headers = HeaderMap::new();
            if *with_header {
                headers.insert("h", HeaderValue::from_static("1"));
            }
            let facts = facts(host, path, &headers);
            prop_assert_eq!(index.find(&facts), linear(&list, &facts), "{} {}", host, path);
        }
        for (hidden, winner) in shadowed(&list) {
            prop_assert!(list[hidden].priority <= list[winner].priority);
        }
    }

    /// A normalised rule parses, is stable, and means the same.
    #[test]
    fn normalising_keeps_the_meaning(text in rule_text(), requests in proptest::collection::vec(request(), 8)) {
        let original = rule::parse(&text).expect("generated rules are valid");
        let again = rule::parse(&original.normalised()).expect("a normalised rule is valid");
        prop_assert_eq!(again.normalised(), original.normalised());
        let headers = HeaderMap::new();
        for (host, path, _) in &requests {
            let facts = facts(host, path, &headers);
            prop_assert_eq!(again.matches(&facts), original.matches(&facts));
        }
    }
}
