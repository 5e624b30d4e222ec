use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::super::feedback::Recorder;
use super::super::version::{Identity, fixture};
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
    index.announce([(&recorder, &metrics.model("seg", "1", "s@file"))]);
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
    fs::write(
        folder.join(format!("{}.part", hex(id(4, 0)))),
        &disk::header(id(4, 0), &fixture("1").names)[..20],
    )
    .unwrap();
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
    fixture.index.retire_all_but([]);
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
        let shared = &fixture.store.shared;
        assert_eq!(shared.queued.load(Ordering::Relaxed), 0);
        let ledger = shared.lock();
        assert_eq!((ledger.bytes, ledger.under_way.len()), (bytes, 0));
    }
}

#[test]
fn what_is_accounted_is_what_is_held() {
    let fixture = open(None, 8 << 20);
    // Slices of a large buffer, in sizes that a buffer that doubles does not meet.
    let buffer = Bytes::from(vec![3; 1 << 20]);
    for (number, piece) in [(1, 777), (2, 16_384), (3, 100_000), (4, 1 << 20)] {
        let mut capture = fixture.store.begin(id(number, 0), &fixture.version, None).unwrap();
        for start in (0..buffer.len()).step_by(piece) {
            capture.push(&buffer.slice(start..(start + piece).min(buffer.len())));
        }
        capture.finish();
    }
    assert!(buffer.is_unique(), "no mask holds the buffer that it came in");
    let ledger = fixture.store.shared.lock();
    let segments = ledger
        .kept
        .values()
        .flat_map(|kept| kept.segments.iter().flat_map(|s| s.iter()));
    let held: usize = segments.map(Vec::capacity).sum();
    assert_eq!((held as u64, ledger.bytes), (4 << 20, 4 << 20));
}

#[test]
fn limits_apply_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for dir in [None, Some(folder.path())] {
        let fixture = open(dir, 1000);
        for number in 1..=3 {
            assert!(fixture.keep(id(number, 100 - 10 * number as u64), 200));
        }
        eventually("three", || fixture.version.kept() == (3, 600));
        fixture.store.set_limits(limits(500));
        assert_eq!(fixture.version.kept(), (2, 400));
        let keep_for = Duration::from_secs(75);
        fixture.store.set_limits(Limits {
            max_bytes: 500,
            keep_for,
        });
        assert_eq!(fixture.version.kept(), (1, 200));
        if let Some(dir) = dir {
            eventually("one file", || names(&dir.join("s@file")).len() == 1);
        }
    }
}

#[test]
fn age_is_when_the_request_came_and_not_when_its_answer_was_whole() {
    let fixture = open(None, 1000);
    let mut slow = fixture.store.begin(id(1, 1800), &fixture.version, None).unwrap();
    assert!(fixture.keep(id(2, 0), 400));
    slow.push(&Bytes::from_static(&[1; 400]));
    slow.finish();
    fixture
        .index
        .sweep(SystemTime::now() + HOUR / 2 + Duration::from_secs(1));
    assert_eq!((fixture.version.kept().0, fixture.read(id(1, 1800))), (1, None));
    assert!(fixture.read(id(2, 0)).is_some());
}

#[test]
fn small_masks_are_bounded_by_their_number() {
    let version = fixture("1");
    let mut ledger = Ledger::new(limits(u64::MAX), false);
    for number in 0..MOST_KEPT as u128 + 2 {
        let kept = ledger::Kept {
            version: Arc::clone(&version),
            bytes: 1,
            segments: None,
        };
        let gone = ledger.keep(number, kept).len();
        assert_eq!(gone, usize::from(number >= MOST_KEPT as u128));
    }
    assert_eq!((ledger.bytes, ledger.oldest()), (MOST_KEPT as u64, Some(2)));
}

/// A store whose thread stands still: nobody takes jobs out of the queue.
fn stuck(dir: &Path, pieces: usize) -> (Fixture, std::sync::mpsc::Receiver<Job>) {
    let mut fixture = open(None, 1 << 30);
    let store = Store::new("s@file", Some(dir.to_owned()), limits(1 << 30));
    let (sender, jobs) = sync_channel(pieces);
    store.disk.as_ref().unwrap().jobs.set(sender).unwrap();
    store.shared.lock().open = true;
    fixture.store = Arc::new(store);
    (fixture, jobs)
}

#[test]
fn a_disk_that_is_too_slow_costs_masks_and_no_time() {
    let dir = tempfile::tempdir().unwrap();
    // By bytes.
    let (fixture, jobs) = stuck(dir.path(), QUEUED_PIECES);
    let mut capture = fixture.store.begin(id(1, 0), &fixture.version, None).unwrap();
    let piece = Bytes::from(vec![0; 1 << 20]);
    let pushed = (0..100).take_while(|_| {
        capture.push(&piece);
        !capture.is_over()
    });
    assert_eq!(pushed.count() as u64, QUEUED_BYTES >> 20);
    assert!(fixture.dropped("io"));
    assert_eq!(fixture.store.shared.lock().bytes, 0, "its room is free at once");
    // The thread goes on: all that it still finds is of nobody.
    let writer = Writer::new(Arc::clone(&fixture.store.shared), dir.path().join("s@file"));
    writer.start(jobs, &fixture.index).unwrap();
    fixture.store.flush(PATIENCE);
    assert_eq!(fixture.store.shared.queued.load(Ordering::Relaxed), 0);
    assert!(names(&dir.path().join("s@file")).is_empty());
    assert!(fixture.keep(id(2, 0), 100));
    assert_eq!(fixture.read(id(2, 0)).map(|mask| mask.len()), Some(100));
    // By jobs: small masks, of which each is a beginning, a piece and an end.
    let (fixture, _jobs) = stuck(dir.path(), 4);
    assert!(fixture.keep(id(3, 0), 100));
    assert!(fixture.keep(id(4, 0), 100), "it does not know before its end");
    assert!(fixture.dropped("io"));
    assert_eq!(fixture.store.shared.lock().bytes, 100);
}

#[test]
fn an_answer_whose_store_is_closed_leaves_nothing_however_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(Some(dir.path()), 8 << 20);
    let mut captures: Vec<Capture> = (1..=3)
        .map(|number| fixture.store.begin(id(number, 0), &fixture.version, None).unwrap())
        .collect();
    for capture in &mut captures {
        capture.push(&Bytes::from(vec![1; SEGMENT + 1]));
    }
    fixture.store.flush(PATIENCE);
    assert_eq!(names(&dir.path().join("s@file")).len(), 3);
    fixture.index.retire_all_but([]);
    captures.remove(0).finish();
    captures[0].push(&Bytes::from_static(b"more"));
    drop(captures);
    fixture.store.flush(PATIENCE);
    assert!(names(&dir.path().join("s@file")).is_empty());
}

#[test]
fn only_files_that_are_gantrys_are_removed_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("s@file");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let path = |id: u128, kind: &str| folder.join(format!("{id:032x}.{kind}"));
    let whole = |id: u128, service: &str| {
        let identity = Identity {
            service: service.into(),
            ..fixture("1").names.clone()
        };
        let mut file = disk::header(id, &identity);
        file[16..24].copy_from_slice(&4_u64.to_le_bytes());
        file.extend_from_slice(b"mask");
        file
    };
    let outside = dir.path().join("outside");
    fs::write(&outside, whole(id(1, 0), "s@file")).unwrap();
    std::os::unix::fs::symlink(&outside, path(id(1, 0), "mask")).unwrap();
    fs::create_dir(path(id(2, 0), "mask")).unwrap();
    fs::write(path(id(3, 0), "part"), "a download of somebody").unwrap();
    fs::write(path(id(4, 0), "mask"), whole(id(4, 0), "other@file")).unwrap();
    fs::write(path(id(5, 0), "mask"), whole(id(5, 2 * 3600), "s@file")).unwrap();
    let before = names(&folder);
    // Of the service: a part that had just begun, one that has nothing yet, a whole one, and one that is too old.
    fs::write(path(id(6, 0), "part"), &whole(id(6, 0), "s@file")[..40]).unwrap();
    fs::write(path(id(7, 0), "part"), "").unwrap();
    fs::write(path(id(8, 0), "mask"), whole(id(8, 0), "s@file")).unwrap();
    fs::write(path(id(9, 7200), "mask"), whole(id(9, 7200), "s@file")).unwrap();
    let fixture = open(Some(dir.path()), 1000);
    fixture.store.flush(PATIENCE);
    assert_eq!(fixture.version.kept(), (1, 4));
    assert_eq!(fixture.read(id(8, 0)).as_deref(), Some(&b"mask"[..]));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    fixture.index.retire_all_but([]);
    fixture.store.flush(PATIENCE);
    assert_eq!(names(&folder), before);
    assert!(outside.exists());
}

#[test]
fn a_link_in_the_place_of_the_folder_is_not_followed() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("s@file")).unwrap();
    let fixture = open(Some(dir.path()), 1000);
    fixture.keep(id(1, 0), 100);
    fixture.store.flush(PATIENCE);
    assert!(fixture.dropped("io") && names(elsewhere.path()).is_empty());
}

#[test]
fn a_file_that_was_changed_is_no_mask() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(Some(dir.path()), 1000);
    assert!(fixture.keep(id(1, 0), 100));
    fixture.store.flush(PATIENCE);
    let file = disk::mask_path(&dir.path().join("s@file"), id(1, 0));
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(fixture.store.read(id(1, 0), PATIENCE).is_err());
    fs::remove_file(&file).unwrap();
    assert_eq!(fixture.read(id(1, 0)), None, "somebody removed it");
}

#[test]
fn a_trouble_is_told_of_once() {
    let mut trouble = Trouble::default();
    assert!(trouble.begins() && !trouble.begins());
    trouble.ends();
    assert!(!trouble.begins(), "it comes and goes");
    trouble.ends();
    trouble.told = Instant::now().checked_sub(QUIET);
    assert!(trouble.begins());
}
