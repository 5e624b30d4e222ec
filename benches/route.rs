//! How long it takes to find the router of a request, with 10, 1,000 and 100,000 routers: the three figures of each
//! group should be about the same.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use gantry::router::{Entry, Index};
use gantry::rule::{self, Facts};
use http::HeaderMap;

const SIZES: [usize; 3] = [10, 1_000, 100_000];

fn index(rules: impl Iterator<Item = String>) -> Index<usize> {
    let entries = rules.enumerate().map(|(value, text)| Entry {
        priority: rule::default_priority(&text),
        rule: Arc::new(rule::parse(&text).expect("the rule is valid")),
        value,
    });
    Index::build(entries.collect())
}

fn facts<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Facts<'a> {
    Facts {
        host,
        path,
        method: "POST",
        headers,
        query: None,
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// Every router has its own host; a catch-all stands last.
fn by_host(criterion: &mut Criterion, headers: &HeaderMap) {
    let mut group = criterion.benchmark_group("find/host");
    for size in SIZES {
        let rules = (1..size).map(|n| format!("Host(`m{n}.mri.example.com`)"));
        let index = index(rules.chain(["PathPrefix(`/`)".to_owned()]));
        let host = format!("m{}.mri.example.com", size / 2);
        group.bench_function(BenchmarkId::new("hit", size), |bencher| {
            bencher.iter(|| index.find(black_box(&facts(&host, "/v2/models/brain/infer", headers))));
        });
        group.bench_function(BenchmarkId::new("catch-all", size), |bencher| {
            bencher.iter(|| {
                index.find(black_box(&facts(
                    "other.example.com",
                    "/v2/models/brain/infer",
                    headers,
                )))
            });
        });
    }
    group.finish();
}

/// All routers share one host and differ in their prefix.
fn by_prefix(criterion: &mut Criterion, headers: &HeaderMap) {
    let mut group = criterion.benchmark_group("find/prefix");
    for size in SIZES {
        let index = index((0..size).map(|n| format!("Host(`mri.example.com`) && PathPrefix(`/v2/models/model{n}/`)")));
        let path = format!("/v2/models/model{}/infer", size / 2);
        group.bench_function(BenchmarkId::new("hit", size), |bencher| {
            bencher.iter(|| index.find(black_box(&facts("mri.example.com", &path, headers))));
        });
        group.bench_function(BenchmarkId::new("miss", size), |bencher| {
            bencher.iter(|| index.find(black_box(&facts("mri.example.com", "/v2/models/none/infer", headers))));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let headers = HeaderMap::new();
    by_host(&mut criterion, &headers);
    by_prefix(&mut criterion, &headers);
    criterion.final_summary();
}
