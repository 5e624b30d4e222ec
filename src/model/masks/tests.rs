use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;

use super::super::feedback::Recorder;
use super::super::version::{Identity, fixture};
use super::capture::SEGMENT;
use super::*;
use crate::observe::metrics::{Format, Metrics, MetricsOptions};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);

fn limits(max_bytes: u64) -> Limits {
    Limits {
        max_bytes,
        keep_for: HOUR,
    }
}

/// A UUIDv7 of a request that came `age` seconds ago.
fn id(number: u128, age: u64) -> u128 {
    static NOW: OnceLock<SystemTime> = OnceLock::new();
    let made = *NOW.get_or_init(SystemTime::now) - Duration::from_secs(age);
    let milliseconds = made.duration_since(UNIX_EPOCH).unwrap().as_millis();
    milliseconds << 80 | number
}

struct Fixture {
    store: Arc<Store>,
    version: Arc<Version>,
    index: Arc<Index>,
    metrics: Arc<Metrics>,
}

/// A store that is open, and of a version whose series are there.
fn open(dir: Option<&Path>, max_bytes: u64) -> Fixture {
    let index = Arc::new(Index::new());
    let version = index.version(fixture("1").names.clone());
    let store = Arc::new(Store::new("s@file", dir.map(Path::to_owned), limits(max_bytes)));
    let masks = Some((Arc::clone(&store), limits(max_bytes)));
    let recorder = Recorder::new(Arc::clone(&index), Arc::clone(&version), masks);
    let metrics = Metrics::new(MetricsOptions::default());
    index.install([(&recorder, &metrics.model("seg", "1", "s@file"))]);
    Fixture {
        store,
        version,
        index,
        metrics,
    }
}

impl Fixture {
    fn keep(&self, id: u128, bytes: usize) -> bool {
        let Some(mut capture) = self.store.begin(id, &self.version, None) else {
            return false;
        };
        let mask = Bytes::from(vec![id as u8; bytes]);
        for piece in mask.chunks(100_000) {
            capture.push(&mask.slice_ref(piece));
        }
        let kept = !capture.is_over();
        capture.finish();
        kept
    }

    fn read(&self, id: u128) -> Option<Vec<u8>> {
        self.store.read(id, PATIENCE).unwrap()
    }

    fn dropped(&self, reason: &str) -> bool {
        let text = String::from_utf8(self.metrics.render(Format::Text004, Instant::now())).unwrap();
        let series = format!(
            "model_masks_dropped_total{{model=\"seg\",reason=\"{reason}\",service=\"s@file\",version=\"1\"}} 1\n"
        );
        text.contains(&series)
    }
}

/// Waits for the store's thread.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_mask_comes_back_as_it_was_whatever_its_pieces() {
    let folder = tempfile::tempdir().unwrap();
    for dir in [None, Some(folder.path())] {
        let fixture = open(dir, 8 << 20);
        for (number, bytes) in [(1, 1), (2, SEGMENT), (3, SEGMENT + 1), (4, 3_000_000)] {
            assert!(fixture.keep(id(number, 0), bytes));
        }
        let newest = id(5, 0);
        let whole = vec![7; 300_000];
        let mut capture = fixture.store.begin(newest, &fixture.version, Some(300_000)).unwrap();
        capture.push(&Bytes::new());
        capture.push(&Bytes::from(whole.clone()));
        assert!(
            fixture.store.begin(newest, &fixture.version, None).is_none(),
            "an id is captured once"
        );
        capture.finish();
        assert_eq!(fixture.read(newest), Some(whole));
        assert_eq!(fixture.read(id(9, 0)), None);
        eventually("all are kept", || {
            fixture.version.kept() == (5, 1 + 2 * SEGMENT as u64 + 1 + 3_000_000 + 300_000)
        });
    }
}

#[test]
fn the_oldest_make_room_and_what_finds_none_is_not_kept() {
    let fixture = open(None, 1000);
    let ids: Vec<u128> = (1..=3).map(|number| id(number, 0)).collect();
    assert!(fixture.keep(ids[0], 400) && fixture.keep(ids[1], 400) && fixture.keep(ids[2], 400));
    assert_eq!(
        ids.iter().map(|id| fixture.read(*id).is_some()).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert!(!fixture.keep(id(4, 0), 1001), "larger than all the room");
    assert!(fixture.dropped("too_large"));
    assert_eq!(fixture.version.kept().1, 800, "the others stay where they are");
    // Those under way never make room for each other.
    let mut first = fixture.store.begin(id(5, 0), &fixture.version, Some(600)).unwrap();
    assert!(fixture.store.begin(id(6, 0), &fixture.version, Some(600)).is_none());
    assert!(fixture.dropped("full"));
    first.push(&Bytes::from_static(&[0; 600]));
    first.finish();
    assert!(fixture.keep(id(7, 0), 600));
    assert_eq!(fixture.version.kept(), (1, 600));
}

#[test]
fn an_answer_that_breaks_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for dir in [None, Some(folder.path())] {
        let fixture = open(dir, 1000);
        let mut capture = fixture.store.begin(id(1, 0), &fixture.version, None).unwrap();
        capture.push(&Bytes::from_static(&[0; 900]));
        drop(capture);
        assert!(fixture.keep(id(2, 0), 900), "its room is free again");
        assert_eq!(fixture.read(id(1, 0)), None);
        if let Some(dir) = dir {
            eventually("one file", || names(&dir.join("s@file")).len() == 1);
        }
    }
}

#[test]
fn what_is_too_old_or_beyond_a_lowered_bound_goes_with_the_next_sweep() {
    let folder = tempfile::tempdir().unwrap();
    for dir in [None, Some(folder.path())] {
        let fixture = open(dir, 1000);
        let ids: Vec<u128> = (1..=3).map(|number| id(number, 60 - number as u64)).collect();
        assert!(ids.iter().all(|id| fixture.keep(*id, 200)));
        eventually("three", || fixture.version.kept() == (3, 600));
        fixture.store.set_limits(limits(400));
        fixture.index.sweep(SystemTime::now());
        assert_eq!(fixture.version.kept(), (2, 400));
        assert_eq!(fixture.read(ids[1]).map(|mask| mask.len()), Some(200));
        fixture.index.sweep(SystemTime::now() + HOUR);
        assert_eq!(fixture.version.kept(), (0, 0));
        if let Some(dir) = dir {
            eventually("no file", || names(&dir.join("s@file")).is_empty());
        }
    }
}

#[test]
fn the_next_process_takes_over_what_is_good_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("s@file");
    let kept = [id(1, 20), id(2, 10)];
    {
        let first = open(Some(dir.path()), 1000);
        assert!(first.keep(kept[0], 300) && first.keep(kept[1], 300));
        assert!(first.keep(id(3, 2 * 3600), 300), "too old for the next");
        first.index.flush(PATIENCE);
        assert_eq!(names(&folder).len(), 3);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert!(names(&folder).iter().all(|name| mode(&folder.join(name)) == 0o600));
    let hex = |id: u128| format!("{id:032x}");
    fs::write(folder.join(format!("{}.part", hex(id(4, 0)))), "half a mask").unwrap();
    let foreign = [
        "notes.txt".to_owned(),
        format!("{}.mask", hex(id(5, 0))),
        "short.mask".to_owned(),
    ];
    for name in &foreign {
        fs::write(folder.join(name), "not Gantry's").unwrap();
    }
    // A copy under another id, and a file that a full disk has cut.
    let (copied, cut) = (id(6, 0), id(8, 0));
    let whole = fs::read(folder.join(format!("{}.mask", hex(kept[0])))).unwrap();
    fs::write(folder.join(format!("{}.mask", hex(copied))), &whole).unwrap();
    let mut short = disk::header(cut, &fixture("1").names);
    short[16..24].copy_from_slice(&100_u64.to_le_bytes());
    short.extend_from_slice(&[0; 99]);
    fs::write(folder.join(format!("{}.mask", hex(cut))), short).unwrap();
    let second = open(Some(dir.path()), 1000);
    eventually("both are back", || second.version.kept() == (2, 600));
    assert_eq!(second.read(kept[0]), Some(vec![1; 300]));
    assert_eq!(
        second.index.find(kept[1]).map(|version| version.names.clone()),
        Some(fixture("1").names.clone())
    );
    eventually("what is no use is removed", || {
        let mut expected: Vec<String> = kept.iter().map(|id| format!("{}.mask", hex(*id))).collect();
        expected.extend(foreign.iter().cloned());
        // The copy under another id says whose it is: a stranger's.
        expected.push(format!("{}.mask", hex(copied)));
        expected.sort();
        names(&folder) == expected
    });
    // What was taken over is older than what comes.
    assert!(second.keep(id(7, 0), 500));
    eventually("the oldest made room", || second.version.kept() == (2, 800));
    assert_eq!(second.read(kept[0]), None);
}

#[test]
fn services_that_share_a_folder_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(Some(dir.path()), 1000);
    let other = Arc::new(Store::new("../s@file", Some(dir.path().to_owned()), limits(1000)));
    other.open(&first.index);
    let names_of_other = Identity {
        service: "../s@file".into(),
        ..fixture("1").names.clone()
    };
    let version = first.index.version(names_of_other);
    let mut capture = other.begin(id(1, 0), &version, None).unwrap();
    capture.push(&Bytes::from_static(b"theirs"));
    capture.finish();
    assert_eq!(other.read(id(1, 0), PATIENCE).unwrap().as_deref(), Some(&b"theirs"[..]));
    assert!(first.keep(id(1, 0), 6));
    assert_ne!(first.read(id(1, 0)), other.read(id(1, 0), PATIENCE).unwrap());
    assert_eq!(
        names(dir.path()),
        ["%2E%2E%2Fs@file", "s@file"],
        "no name leads out of the folder"
    );
}

#[test]
fn a_disk_that_fails_costs_the_masks_only() {
    let dir = tempfile::tempdir().unwrap();
    // Where a file is, no folder can be made: whoever runs the test, also root.
    fs::write(dir.path().join("s@file"), "in the way").unwrap();
    let fixture = open(Some(dir.path()), 1000);
    fixture.keep(id(1, 0), 100);
    eventually("it is counted", || fixture.dropped("io"));
    assert_eq!(fixture.read(id(1, 0)), None);
    fs::remove_file(dir.path().join("s@file")).unwrap();
    assert!(fixture.keep(id(2, 0), 100));
    assert_eq!(fixture.read(id(2, 0)), Some(vec![2; 100]), "it comes back by itself");
}

#[test]
fn a_store_that_is_closed_removes_what_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(Some(dir.path()), 1000);
    assert!(fixture.keep(id(1, 0), 100));
    let mut under_way = fixture.store.begin(id(2, 0), &fixture.version, None).unwrap();
    under_way.push(&Bytes::from_static(b"half"));
    eventually("one is kept", || fixture.version.kept().0 == 1);
    fixture.index.install([]);
    under_way.push(&Bytes::from_static(b"the other half"));
    under_way.finish();
    assert!(fixture.store.begin(id(3, 0), &fixture.version, None).is_none());
    eventually("nothing is left", || names(&dir.path().join("s@file")).is_empty());
    assert_eq!(fixture.version.kept(), (0, 0));
}

#[test]
fn many_at_a_time_stay_within_the_bound() {
    const ROOM: u64 = 2 << 20;
    let dir = tempfile::tempdir().unwrap();
    for dir in [None, Some(dir.path())] {
        let fixture = open(dir, ROOM);
        std::thread::scope(|scope| {
            for worker in 0..4_u128 {
                let fixture = &fixture;
                scope.spawn(move || {
                    for number in 0..25 {
                        fixture.keep(id(worker * 100 + number, 0), 150_000);
                        assert!(fixture.store.shared.lock().bytes <= ROOM);
                    }
                });
            }
        });
        fixture.index.flush(PATIENCE);
        let (count, bytes) = fixture.version.kept();
        assert_eq!(bytes, count * 150_000);
        let inner = fixture.store.shared.lock();
        assert_eq!((inner.bytes, inner.under_way.len(), inner.queued), (bytes, 0, 0));
    }
}
