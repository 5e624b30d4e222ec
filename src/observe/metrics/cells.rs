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

use http::HeaderMap;

use super::block_map::BlockMap;
use super::cap::{Caps, Frozen, Headed};
use super::header_labels::{HeaderLabels, HeaderReader, HeaderSet, HeaderValues};
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

/// The cells of one combination of labels.
type RequestCells = (Block, Arc<NativeCells>);

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

/// The handle of the series of a weighted service's child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariantSeries(pub(super) ScopeId);

/// Where the words of [`Series::Events`] are, of an entry point and of a service.
pub(super) mod event {
    pub(in super::super) const OPENED: usize = 0;
    pub(in super::super) const CLOSED: usize = 1;
    pub(in super::super) const HANDSHAKE: usize = 2;
    pub(in super::super) const HANDSHAKE_FAILED: usize = 3;
    pub(in super::super) const RETRY: usize = 0;
    pub(in super::super) const DIALLED: usize = 1;
    pub(in super::super) const REUSED: usize = 2;
    pub(in super::super) const DIAL_FAILED: usize = 3;
    pub(in super::super) const WORDS: usize = 4;
}

/// What one block counts within its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Series {
    Requests(Key),
    /// Requests once more, by the values of header labels. Only where there are such labels.
    Headed(Key, HeaderSet),
    Tls(TlsLabels),
    /// Of an entry point: connections and TLS handshakes; of a service: retries and connections to servers. See
    /// [`event`].
    Events,
}

/// A block as the scraper finds it.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) id: ScopeId,
    pub(super) series: Series,
    pub(super) block: Block,
    /// The durations of [`Series::Requests`], in finer buckets.
    pub(super) native: Option<Arc<NativeCells>>,
}

/// What one worker shows to the scraper.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) blocks: Mutex<Vec<Published>>,
    /// Requests that were counted under `other`.
    pub(super) overflow: AtomicU64,
    /// Idle connections to servers.
    pub(super) idle: Arc<AtomicU64>,
}

/// The number of idle connections in the pools of one worker, which alone writes it.
#[derive(Clone, Debug, Default)]
pub struct IdleConnections(Arc<AtomicU64>);

impl IdleConnections {
    /// Sets the number.
    pub fn set(&self, connections: usize) {
        self.0.store(connections as u64, Ordering::Relaxed);
    }

    /// Adds to it.
    pub fn add(&self, connections: i8) {
        let now = self.0.load(Ordering::Relaxed);
        self.0
            .store(now.wrapping_add_signed(i64::from(connections)), Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request that is over, whatever its end.
#[derive(Clone, Copy, Debug)]
pub struct RequestDone<'a> {
    /// Where it came in.
    pub entry_point: Option<EntryPointSeries>,
    /// The router that matched, if one did.
    pub router: Option<RouterSeries>,
    /// The service that answered, if one was asked.
    pub service: Option<ServiceSeries>,
    /// The children of weighted services that it went through.
    pub variants: &'a [VariantSeries],
    /// The values of the header labels, from [`WorkerMetrics::header_values`].
    pub headers: HeaderValues,
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

/// What all workers have in common.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Upper bounds of request durations in nanoseconds, sorted.
    pub(super) bounds: Arc<[u64]>,
    /// Whether requests are counted at entry points.
    pub(super) entry_points: bool,
    pub(super) caps: Arc<Caps>,
    pub(super) header_labels: Arc<HeaderLabels>,
}

/// The writing side for one thread.
#[derive(Debug)]
pub struct WorkerMetrics {
    shared: Shared,
    headers: HeaderReader,
    shown: Arc<Shown>,
    slots: RefCell<Vec<Option<Box<Slot>>>>,
}

impl WorkerMetrics {
    pub(super) fn new(shared: Shared, shown: Arc<Shown>) -> Self {
        Self {
            headers: HeaderReader::new(Arc::clone(&shared.header_labels)),
            shared,
            shown,
            slots: RefCell::default(),
        }
    }

    /// What a request with these headers counts under in the header labels.
    pub fn header_values(&self, headers: &HeaderMap) -> HeaderValues {
        if self.headers.is_wanted() {
            self.headers.read(headers)
        } else {
            HeaderValues::default()
        }
    }

    /// The gauge of this worker's idle connections.
    pub fn idle_connections(&self) -> IdleConnections {
        IdleConnections(Arc::clone(&self.shown.idle))
    }

    /// Counts a request at its entry point, router, service and variants.
    pub fn request(&self, done: &RequestDone<'_>) {
        let key = Key::new(done.code, done.method, done.protocol);
        let whole = self.observe(done.duration);
        let mut beyond = self.headers.is_wanted() && done.headers.folded;
        if let Some(EntryPointSeries(id)) = done.entry_point
            && self.shared.entry_points
        {
            beyond |= self.count(id, key, whole, done);
        }
        if let Some(RouterSeries(id)) = done.router {
            beyond |= self.count(id, key, whole, done);
        }
        if let Some(ServiceSeries(id)) = done.service {
            let part = done.service_duration.map_or(whole, |duration| self.observe(duration));
            beyond |= self.count(id, key, part, done);
        }
        for VariantSeries(id) in done.variants {
            beyond |= self.count_variant(*id, key, whole, done);
        }
        if beyond {
            add(&self.shown.overflow, 1);
        }
    }

    /// A connection was accepted. Any thread may close it.
    pub fn connection_opened(&self, entry_point: EntryPointSeries) {
        self.event(entry_point.0, event::OPENED);
    }

    /// A connection ended.
    pub fn connection_closed(&self, entry_point: EntryPointSeries) {
        self.event(entry_point.0, event::CLOSED);
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, entry_point: EntryPointSeries, ok: bool) {
        let word = if ok { event::HANDSHAKE } else { event::HANDSHAKE_FAILED };
        self.event(entry_point.0, word);
    }

    /// A request is tried again.
    pub fn retry(&self, service: ServiceSeries) {
        self.event(service.0, event::RETRY);
    }

    /// A connection to a server was asked for, and made or not.
    pub fn dialled(&self, service: ServiceSeries, ok: bool) {
        let word = if ok { event::DIALLED } else { event::DIAL_FAILED };
        self.event(service.0, word);
    }

    /// A request goes over a connection that was there before.
    pub fn connection_reused(&self, service: ServiceSeries) {
        self.event(service.0, event::REUSED);
    }

    /// Nanoseconds and buckets of a duration.
    fn observe(&self, duration: Duration) -> Place {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bucket holds what is at most its bound. Few bounds: a scan beats a search.
        let bounds = &self.shared.bounds;
        let bucket = bounds.iter().position(|bound| nanos <= *bound).unwrap_or(bounds.len());
        let native = NativePlace::of(nanos);
        Place { nanos, bucket, native }
    }

    /// Counts a request in a scope. Returns whether a cap put it under `other`.
    fn count(&self, id: ScopeId, key: Key, at: Place, done: &RequestDone<'_>) -> bool {
        let count = |slot: &mut Slot| {
            let counted = self.count_key(slot, id, key, at, done);
            let mut beyond = counted != key;
            if self.headers.is_wanted() {
                beyond |= self.count_headed(slot, id, (counted, done.headers.set));
            }
            if let Some(tls) = done.tls {
                let block = slot.tls.find(tls, || self.publish(id, Series::Tls(tls), 1));
                add(&block[0], 1);
            }
            beyond
        };
        self.with_slot(id, count).unwrap_or(false)
    }

    /// The same for a variant, which has neither header labels nor TLS.
    fn count_variant(&self, id: ScopeId, key: Key, at: Place, done: &RequestDone<'_>) -> bool {
        let count = |slot: &mut Slot| self.count_key(slot, id, key, at, done) != key;
        self.with_slot(id, count).unwrap_or(false)
    }

    /// Counts under `key`, or under [`Key::OTHER`] where the scope is full; returns which.
    fn count_key(&self, slot: &mut Slot, id: ScopeId, key: Key, at: Place, done: &RequestDone<'_>) -> Key {
        let ask = || self.shared.caps.admit(id, key);
        let key = if slot.requests.seek(key) || admitted(&mut slot.full, &key, ask) {
            key
        } else {
            Key::OTHER
        };
        let (block, native) = slot.requests.find(key, || self.publish_requests(id, key));
        add(&block[SUM], at.nanos);
        add(&block[BYTES_IN], done.bytes_in);
        add(&block[BYTES_OUT], done.bytes_out);
        add(&block[BUCKETS + at.bucket], 1);
        native.add(at.native);
        key
    }

    /// Counts by header labels. Returns whether a cap put it under `other`.
    fn count_headed(&self, slot: &mut Slot, id: ScopeId, headed: Headed) -> bool {
        let ask = || self.shared.caps.admit_headed(id, headed);
        let beyond = !slot.headed.seek(headed) && !admitted(&mut slot.headed_full, &headed, ask);
        let headed = if beyond { (headed.0, HeaderSet::OTHER) } else { headed };
        let publish = || self.publish(id, Series::Headed(headed.0, headed.1), 1);
        add(&slot.headed.find(headed, publish)[0], 1);
        beyond
    }

    fn event(&self, id: ScopeId, word: usize) {
        self.with_slot(id, |slot| {
            let publish = || self.publish(id, Series::Events, event::WORDS);
            let block = slot.events.get_or_insert_with(publish);
            add(&block[word], 1);
        });
    }

    /// Runs `f` on the worker's cells of a scope; not at all where the scope is not counted, or gave its place away.
    fn with_slot<T>(&self, id: ScopeId, f: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        if id == ScopeId::NONE {
            return None;
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
                return None;
            }
            **slot = Slot::new(id.epoch);
        }
        Some(f(slot))
    }

    fn publish(&self, id: ScopeId, series: Series, width: usize) -> Block {
        let block = block(width);
        lock(&self.shown.blocks).push(Published {
            id,
            series,
            block: Arc::clone(&block),
            native: None,
        });
        block
    }

    fn publish_requests(&self, id: ScopeId, key: Key) -> RequestCells {
        let block = block(BUCKETS + self.shared.bounds.len() + 1);
        let native = Arc::<NativeCells>::default();
        lock(&self.shown.blocks).push(Published {
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

/// Whether `key`, which this worker has no cells for, may have some: `full` knows once the scope is full, else `ask`.
fn admitted<K: Ord>(full: &mut Option<Frozen<K>>, key: &K, ask: impl FnOnce() -> Option<Frozen<K>>) -> bool {
    if full.is_none() {
        *full = ask();
    }
    full.as_ref().is_none_or(|keys| keys.binary_search(key).is_ok())
}

/// A worker's cells of one scope.
#[derive(Debug)]
struct Slot {
    epoch: u32,
    requests: BlockMap<Key, RequestCells>,
    headed: BlockMap<Headed, Block>,
    tls: BlockMap<TlsLabels, Block>,
    events: Option<Block>,
    /// All keys that have cells in any worker, once there may be no more.
    full: Option<Frozen<Key>>,
    headed_full: Option<Frozen<Headed>>,
}

impl Slot {
    fn new(epoch: u32) -> Self {
        Self {
            epoch,
            requests: BlockMap::default(),
            headed: BlockMap::default(),
            tls: BlockMap::default(),
            events: None,
            full: None,
            headed_full: None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use http::Method;

    use super::super::protobuf::tests::decode;
    use super::super::{Format, LINGER, Metrics, MetricsOptions};
    use super::*;

    pub(in super::super) fn done(code: u16, millis: u64) -> RequestDone<'static> {
        RequestDone {
            entry_point: None,
            router: None,
            service: None,
            variants: &[],
            headers: HeaderValues::default(),
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

    impl RequestDone<'_> {
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
        assert_eq!(lock(&worker.shown.blocks).len(), 3);
    }

    #[test]
    fn a_scope_has_a_bounded_number_of_combinations_and_workers_agree_on_them() {
        let metrics = Metrics::new(MetricsOptions::default());
        let workers = [metrics.worker(), metrics.worker()];
        let (service, other) = (Some(metrics.service("s")), Some(metrics.service("quiet")));
        for n in 0..2000 {
            workers[n % 2].request(&RequestDone {
                service,
                ..done(100 + (n / 4) as u16, 1)
            });
        }
        workers[0].request(&RequestDone {
            service: other,
            ..done(599, 1)
        });
        assert_eq!(lock(&workers[0].shown.blocks).len(), 202);
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        let series = "gantry_service_requests_total{";
        let counts = || text.lines().filter(|line| line.starts_with(series));
        assert_eq!(counts().filter(|line| line.contains("service=\"s\"")).count(), 201);
        let labels = |code: &str, rest: &str| format!("{{code=\"{code}\",{rest},service=\"s\"}}");
        let known = r#"method="GET",protocol="http""#;
        for code in ["100", "299"] {
            let name = format!("gantry_service_requests_total{}", labels(code, known));
            assert_eq!(value(&metrics, &name), Some(4), "of both workers");
        }
        let rest = labels("other", r#"method="other",protocol="other""#);
        let name = format!("gantry_service_requests_total{rest}");
        assert_eq!(value(&metrics, &name), Some(1200));
        assert_eq!(value(&metrics, "gantry_metrics_overflow_total"), Some(1200));
        assert!(text.contains("code=\"599\",method=\"GET\",protocol=\"http\",service=\"quiet\"} 1\n"));
    }

    #[test]
    fn header_labels_divide_the_requests_and_add_up_over_workers() {
        let site = http::HeaderName::from_static("x-site");
        let metrics = Metrics::new(MetricsOptions {
            routers: true,
            header_labels: [("site".to_owned(), site.clone())].into(),
            ..Default::default()
        });
        let (service, router) = (metrics.service("s"), metrics.router("r", "s"));
        let variants = [metrics.variant("w", "s", 1)];
        let workers = [metrics.worker(), metrics.worker()];
        for n in 0..300 {
            let worker = &workers[n % 2];
            let mut headers = HeaderMap::new();
            if n % 3 > 0 {
                let value = if n % 3 == 1 { "north".to_owned() } else { format!("{n}") };
                headers.insert(&site, value.parse().unwrap());
            }
            worker.request(&RequestDone {
                entry_point: Some(metrics.entry_point("web")),
                router: Some(router),
                service: Some(service),
                variants: &variants,
                headers: worker.header_values(&headers),
                ..done(200, 1)
            });
        }
        let of = |site: &str| {
            format!(
                "gantry_service_requests_total{{code=\"200\",method=\"GET\",protocol=\"http\",service=\"s\",site=\"{site}\"}}"
            )
        };
        assert_eq!(value(&metrics, &of("north")), Some(100));
        assert_eq!(value(&metrics, &of("")), Some(100));
        assert_eq!(value(&metrics, &of("2")), Some(1));
        assert_eq!(value(&metrics, &of("other")), Some(1), "one label has a hundred values");
        assert_eq!(value(&metrics, "gantry_metrics_overflow_total"), Some(1));
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        for (scope, labelled) in [
            ("entrypoint", true),
            ("router", true),
            ("service", true),
            ("variant", false),
        ] {
            let name = format!("gantry_{scope}_requests_total{{");
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(&name)).collect();
            let sum: u64 = lines
                .iter()
                .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
                .sum();
            assert_eq!(sum, 300, "{scope}");
            assert!(lines.iter().all(|line| line.contains("site=") == labelled), "{scope}");
        }
        assert_eq!(text.matches("# TYPE gantry_service_requests_total ").count(), 1);
        let duration = "gantry_service_request_duration_seconds_count{code=\"200\",method=\"GET\",protocol=\"http\",service=\"s\"} 300\n";
        assert!(text.contains(duration), "{text}");
    }
}
