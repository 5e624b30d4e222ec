//! The writing side: cells that one worker owns.
//!
//! A cell block belongs to one worker, one scope (entry point, router or service) and one label set. Its owner adds by
//! a relaxed load and store, no read-modify-write: nobody else writes. A scrape reads the same words relaxed; it may
//! miss the latest request, but no word ever goes back. A new block is published to the scraper under a mutex, which the
//! scraper holds only to take the list away; that is the only lock, and but for a native histogram's next chunk the only
//! allocation, on the first request of a combination.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::labels::{Key, MethodLabel, ProtocolLabel, TlsLabels};
use super::lock;
use super::native::{NativeCells, NativePlace};

/// Where a block's words are: sum of durations (ns), bytes in, bytes out, then one count a bucket, the last for all
/// that is longer. The number of requests is the sum of the buckets, so that the three can never disagree.
pub(super) const SUM: usize = 0;
pub(super) const BYTES_IN: usize = 1;
pub(super) const BYTES_OUT: usize = 2;
pub(super) const BUCKETS: usize = 3;

pub(super) type Block = Arc<[AtomicU64]>;

/// Where one duration is counted.
#[derive(Clone, Copy, Debug)]
struct Place {
    nanos: u64,
    bucket: usize,
    native: NativePlace,
}

/// A scope's place. Places are used again; the epoch tells the tenants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ScopeId {
    pub(super) index: u32,
    pub(super) epoch: u32,
}

impl ScopeId {
    /// A scope that is not counted.
    pub(super) const NONE: Self = Self {
        index: u32::MAX,
        epoch: 0,
    };
}

/// The handle of an entry point's series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPointSeries(pub(super) ScopeId);

/// The handle of the series of a router with its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterSeries(pub(super) ScopeId);

/// The handle of a service's series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceSeries(pub(super) ScopeId);

/// What one block counts within its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Series {
    Requests(Key),
    Tls(TlsLabels),
    /// Of an entry point: opened and closed; of a service: retries.
    Events,
}

/// A block as the scraper finds it.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) id: ScopeId,
    pub(super) series: Series,
    pub(super) block: Block,
    /// The durations of `Series::Requests`, in finer buckets.
    pub(super) native: Option<Arc<NativeCells>>,
}

/// A request that is over, whatever its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestDone {
    /// Where it came in.
    pub entry_point: Option<EntryPointSeries>,
    /// The router that matched, if one did.
    pub router: Option<RouterSeries>,
    /// The service that answered, if one was asked.
    pub service: Option<ServiceSeries>,
    /// The status code that the client got.
    pub code: u16,
    /// Its method.
    pub method: MethodLabel,
    /// Its protocol.
    pub protocol: ProtocolLabel,
    /// From its head to the last byte of the response.
    pub duration: Duration,
    /// The share of the service; `duration` where it is absent.
    pub service_duration: Option<Duration>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// Version and cipher suite, if the client came over TLS.
    pub tls: Option<TlsLabels>,
}

/// The writing side for one thread.
#[derive(Debug)]
pub struct WorkerMetrics {
    bounds: Arc<[u64]>,
    entry_points: bool,
    published: Arc<Mutex<Vec<Published>>>,
    slots: RefCell<Vec<Option<Box<Slot>>>>,
}

impl WorkerMetrics {
    pub(super) fn new(bounds: Arc<[u64]>, entry_points: bool, published: Arc<Mutex<Vec<Published>>>) -> Self {
        Self {
            bounds,
            entry_points,
            published,
            slots: RefCell::default(),
        }
    }

    /// Counts a request at its entry point, router and service.
    pub fn request(&self, done: &RequestDone) {
        let key = Key::new(done.code, done.method, done.protocol);
        let whole = self.observe(done.duration);
        if let Some(EntryPointSeries(id)) = done.entry_point
            && self.entry_points
        {
            self.count(id, key, whole, done);
        }
        if let Some(RouterSeries(id)) = done.router {
            self.count(id, key, whole, done);
        }
        if let Some(ServiceSeries(id)) = done.service {
            let part = done.service_duration.map_or(whole, |duration| self.observe(duration));
            self.count(id, key, part, done);
        }
    }

    /// A connection was accepted. Any thread may close it.
    pub fn connection_opened(&self, entry_point: EntryPointSeries) {
        self.event(entry_point.0, 0);
    }

    /// A connection ended.
    pub fn connection_closed(&self, entry_point: EntryPointSeries) {
        self.event(entry_point.0, 1);
    }

    /// A request is tried again.
    pub fn retry(&self, service: ServiceSeries) {
        self.event(service.0, 0);
    }

    /// Nanoseconds and buckets of a duration.
    fn observe(&self, duration: Duration) -> Place {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bucket holds what is at most its bound. Few bounds: a scan beats a search.
        let bucket = self
            .bounds
            .iter()
            .position(|bound| nanos <= *bound)
            .unwrap_or(self.bounds.len());
        let native = NativePlace::of(nanos);
        Place { nanos, bucket, native }
    }

    fn count(&self, id: ScopeId, key: Key, place: Place, done: &RequestDone) {
        self.with_slot(id, |slot| {
            let (block, native) = slot.requests.find(key, || self.publish_requests(id, key));
            add(&block[SUM], place.nanos);
            add(&block[BYTES_IN], done.bytes_in);
            add(&block[BYTES_OUT], done.bytes_out);
            add(&block[BUCKETS + place.bucket], 1);
            native.add(place.native);
            if let Some(tls) = done.tls {
                let block = slot.tls.find(tls, || self.publish(id, Series::Tls(tls), 1));
                add(&block[0], 1);
            }
        });
    }

    fn event(&self, id: ScopeId, word: usize) {
        self.with_slot(id, |slot| {
            let block = slot.events.get_or_insert_with(|| self.publish(id, Series::Events, 2));
            add(&block[word], 1);
        });
    }

    /// Runs `f` on the worker's cells of a scope; not at all where the scope is not counted, or gave its place away.
    fn with_slot(&self, id: ScopeId, f: impl FnOnce(&mut Slot)) {
        if id == ScopeId::NONE {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let index = id.index as usize;
        if index >= slots.len() {
            slots.resize_with(index + 1, || None);
        }
        let slot = slots[index].get_or_insert_with(|| Box::new(Slot::new(id.epoch)));
        if slot.epoch != id.epoch {
            // A request that outlived its router by more than LINGER is no longer counted.
            if id.epoch < slot.epoch {
                return;
            }
            **slot = Slot::new(id.epoch);
        }
        f(slot);
    }

    fn publish(&self, id: ScopeId, series: Series, width: usize) -> Block {
        let block = block(width);
        lock(&self.published).push(Published {
            id,
            series,
            block: Arc::clone(&block),
            native: None,
        });
        block
    }

    fn publish_requests(&self, id: ScopeId, key: Key) -> (Block, Arc<NativeCells>) {
        let block = block(BUCKETS + self.bounds.len() + 1);
        let native = Arc::<NativeCells>::default();
        lock(&self.published).push(Published {
            id,
            series: Series::Requests(key),
            block: Arc::clone(&block),
            native: Some(Arc::clone(&native)),
        });
        (block, native)
    }
}

fn block(width: usize) -> Block {
    (0..width).map(|_| AtomicU64::new(0)).collect()
}

/// Adds to a word that only this thread writes.
fn add(word: &AtomicU64, by: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// A worker's cells of one scope.
#[derive(Debug)]
struct Slot {
    epoch: u32,
    requests: BlockMap<Key, (Block, Arc<NativeCells>)>,
    tls: BlockMap<TlsLabels, Block>,
    events: Option<Block>,
}

impl Slot {
    fn new(epoch: u32) -> Self {
        Self {
            epoch,
            requests: BlockMap::default(),
            tls: BlockMap::default(),
            events: None,
        }
    }
}

/// Blocks by key: sorted, with a memory of the last hit, since most requests look like the one before.
#[derive(Debug)]
struct BlockMap<K, B> {
    last: usize,
    blocks: Vec<(K, B)>,
}

impl<K, B> Default for BlockMap<K, B> {
    fn default() -> Self {
        Self {
            last: 0,
            blocks: Vec::new(),
        }
    }
}

impl<K: Copy + Ord, B> BlockMap<K, B> {
    fn find(&mut self, key: K, new: impl FnOnce() -> B) -> &B {
        let hit = self.blocks.get(self.last).is_some_and(|(known, _)| *known == key);
        if !hit {
            self.last = self
                .blocks
                .binary_search_by(|(known, _)| known.cmp(&key))
                .unwrap_or_else(|place| {
                    self.blocks.insert(place, (key, new()));
                    place
                });
        }
        &self.blocks[self.last].1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::Method;

    use super::super::protobuf::tests::decode;
    use super::super::{Format, LINGER, Metrics, MetricsOptions};
    use super::*;

    pub(crate) fn done(code: u16, millis: u64) -> RequestDone {
        RequestDone {
            entry_point: None,
            router: None,
            service: None,
            code,
            method: MethodLabel::of(&Method::GET),
            protocol: ProtocolLabel::Http,
            duration: Duration::from_millis(millis),
            service_duration: None,
            bytes_in: 3,
            bytes_out: 5,
            tls: None,
        }
    }

    fn value(metrics: &Metrics, series: &str) -> Option<u64> {
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn workers_add_up_while_they_are_scraped_and_never_go_back() {
        const EACH: u64 = 20_000;
        let metrics = Metrics::new(MetricsOptions::default());
        let entry_point = metrics.entry_point("web");
        let service = metrics.service("s@file");
        let name = r#"gantry_service_requests_total{code="200",method="GET",protocol="http",service="s@file"}"#;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let worker = metrics.worker();
                        for n in 0..EACH {
                            let code = if n % 4 == 3 { 503 } else { 200 };
                            worker.request(&RequestDone {
                                entry_point: Some(entry_point),
                                service: Some(service),
                                ..done(code, 1)
                            });
                        }
                    })
                })
                .collect();
            let mut before = 0;
            while threads.iter().any(|thread| !thread.is_finished()) {
                let now = value(&metrics, name).unwrap_or(0);
                assert!(now >= before, "{now} < {before}");
                before = now;
            }
        });
        assert_eq!(value(&metrics, name), Some(3 * EACH * 3 / 4));
        let families = decode(&metrics.render(Format::Protobuf, Instant::now()));
        let metrics_of = |name: &str| {
            &families
                .iter()
                .find(|it| it.name.as_deref() == Some(name))
                .unwrap()
                .metric
        };
        let durations = metrics_of("gantry_service_request_duration_seconds")[0]
            .histogram
            .as_ref()
            .unwrap();
        assert_eq!(durations.sample_count, Some(3 * EACH * 3 / 4));
        assert_eq!(
            durations.positive_delta,
            [3 * EACH as i64 * 3 / 4],
            "all in the bucket of 1 ms"
        );
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        for line in [
            r#"gantry_entrypoint_requests_total{code="503",entrypoint="web",method="GET",protocol="http"} 15000"#,
            r#"gantry_entrypoint_requests_bytes_total{code="503",entrypoint="web",method="GET",protocol="http"} 45000"#,
            r#"gantry_service_responses_bytes_total{code="503",method="GET",protocol="http",service="s@file"} 75000"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn durations_fall_into_the_bucket_of_their_upper_bound() {
        let metrics = Metrics::new(MetricsOptions {
            buckets: vec![1.2, 0.1, 0.1, f64::NAN],
            ..Default::default()
        });
        let worker = metrics.worker();
        let service = Some(metrics.service("s"));
        for millis in [0, 100, 101, 1200, 1201] {
            worker.request(
                &RequestDone {
                    service,
                    ..done(200, 9000)
                }
                .with_service(millis),
            );
        }
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        let labels = r#"code="200",method="GET",protocol="http",service="s""#;
        let expected = format!(
            "gantry_service_request_duration_seconds_bucket{{{labels},le=\"0.1\"}} 2\n\
             gantry_service_request_duration_seconds_bucket{{{labels},le=\"1.2\"}} 4\n\
             gantry_service_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 5\n\
             gantry_service_request_duration_seconds_sum{{{labels}}} 2.602\n\
             gantry_service_request_duration_seconds_count{{{labels}}} 5\n"
        );
        assert!(text.contains(&expected), "{text}");
    }

    impl RequestDone {
        fn with_service(mut self, millis: u64) -> Self {
            self.service_duration = Some(Duration::from_millis(millis));
            self
        }
    }

    #[test]
    fn a_place_that_was_given_away_does_not_mix_two_services() {
        let metrics = Metrics::new(MetricsOptions::default());
        let (one, two) = (metrics.worker(), metrics.worker());
        let old = metrics.service("old");
        one.request(&RequestDone {
            service: Some(old),
            ..done(200, 1)
        });
        let start = Instant::now();
        metrics.next_generation(start);
        metrics.next_generation(start);
        metrics.next_generation(start + LINGER * 2);
        let new = metrics.service("new");
        assert_eq!(new.0.index, old.0.index);
        two.request(&RequestDone {
            service: Some(new),
            ..done(200, 1)
        });
        two.request(&RequestDone {
            service: Some(old),
            ..done(200, 1)
        });
        one.request(&RequestDone {
            service: Some(old),
            ..done(200, 1)
        });
        one.request(&RequestDone {
            service: Some(new),
            ..done(200, 1)
        });
        let name = |service: &str| {
            format!(
                "gantry_service_requests_total{{code=\"200\",method=\"GET\",protocol=\"http\",service=\"{service}\"}}"
            )
        };
        assert_eq!(value(&metrics, &name("new")), Some(2));
        assert_eq!(value(&metrics, &name("old")), None);
    }

    #[test]
    fn groups_that_are_off_count_nothing_but_connections_are_counted() {
        let metrics = Metrics::new(MetricsOptions {
            entry_points: false,
            services: false,
            ..Default::default()
        });
        let worker = metrics.worker();
        let (entry_point, router, service) = (
            metrics.entry_point("web"),
            metrics.router("r", "s"),
            metrics.service("s"),
        );
        worker.connection_opened(entry_point);
        worker.connection_opened(entry_point);
        metrics.worker().connection_closed(entry_point);
        worker.retry(service);
        worker.request(&RequestDone {
            entry_point: Some(entry_point),
            router: Some(router),
            service: Some(service),
            ..done(200, 1)
        });
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        assert!(!text.contains("requests_total"), "{text}");
        assert!(
            text.contains("gantry_open_connections{entrypoint=\"web\",protocol=\"TCP\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn the_hot_path_makes_cells_once() {
        let metrics = Metrics::new(MetricsOptions::default());
        let worker = metrics.worker();
        let service = Some(metrics.service("s"));
        let tls = Some(TlsLabels {
            version: "1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
        });
        for n in 0..100 {
            worker.request(&RequestDone {
                service,
                tls,
                ..done(200 + n % 2, 1)
            });
        }
        assert_eq!(lock(&worker.published).len(), 3);
    }
}
