//! A scrape of 10,000 series: 1,000 combinations of labels, each with three counters and a histogram of seven lines, counted
//! by four workers.
//!
//! `cargo bench --bench scrape`. To stay below: 10 ms, in every form. `request` is what counting one costs a worker.

#![allow(clippy::print_stdout, reason = "how large an answer is belongs to how long it takes")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use gantry::observe::metrics::{
    Encoding, Format, HeaderValues, MethodLabel, Metrics, MetricsOptions, ProtocolLabel, RequestDone, ServiceSeries,
    WorkerMetrics,
};
use http::Method;

const SERVICES: usize = 250;
const CODES: [u16; 4] = [200, 404, 499, 503];
const WORKERS: usize = 4;

fn done(service: ServiceSeries, code: u16, micros: u64) -> RequestDone<'static> {
    RequestDone {
        entry_point: None,
        router: None,
        service: Some(service),
        variants: &[],
        headers: HeaderValues::default(),
        code,
        method: MethodLabel::of(&Method::POST),
        protocol: ProtocolLabel::Http,
        duration: Duration::from_micros(micros),
        service_duration: None,
        bytes_in: 1 << 20,
        bytes_out: 1 << 17,
        tls: None,
    }
}

/// Each worker has seen each combination, with times over a range of ten to one.
fn busy() -> (Arc<Metrics>, Vec<WorkerMetrics>) {
    let metrics = Metrics::new(MetricsOptions::default());
    let services: Vec<_> = (0..SERVICES)
        .map(|n| metrics.service(&format!("segmentation-{n}@file")))
        .collect();
    let workers: Vec<_> = (0..WORKERS).map(|_| metrics.worker()).collect();
    for (n, worker) in workers.iter().enumerate() {
        for service in &services {
            for code in CODES {
                for step in 1..=30 {
                    worker.request(&done(*service, code, step * 10_007 + n as u64));
                }
            }
        }
    }
    (metrics, workers)
}

fn scrape(criterion: &mut Criterion) {
    let (metrics, workers) = busy();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("scrape");
    for (name, format) in [
        ("text", Format::Text004),
        ("openmetrics", Format::OpenMetrics),
        ("protobuf", Format::Protobuf),
    ] {
        for gzip in [false, true] {
            let encoding = Encoding { format, gzip };
            let name = if gzip { format!("{name}, gzip") } else { name.to_owned() };
            let once = || runtime.block_on(metrics.scrape(encoding)).expect("nothing panics");
            let lines = String::from_utf8_lossy(&once()).lines().count();
            println!("{name}: {} bytes, {lines} lines", once().len());
            group.bench_function(name, |bencher| bencher.iter(once));
        }
    }
    group.finish();
    let service = metrics.service("segmentation-0@file");
    criterion.bench_function("request", |bencher| {
        let mut micros = 0;
        bencher.iter(|| {
            micros = (micros + 10_007) % 1_000_000;
            workers[0].request(black_box(&done(service, 200, micros)));
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = scrape
}
criterion_main!(benches);
