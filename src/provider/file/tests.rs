//! Real files, the real inotify, real time: each test waits for a state with a deadline.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::{ProblemKind, SourceFile};
use super::*;

/// No test waits longer than this for something that must come.
const DEADLINE: Duration = Duration::from_secs(20);
/// A poll that never comes, so that inotify has to do the work.
const NEVER: Duration = Duration::from_secs(3600);

type State = Vec<(String, Option<String>)>;

/// A folder with a provider at work on it.
struct Bench {
    dir: tempfile::TempDir,
    handle: Option<FileHandle>,
    events: Option<mpsc::Receiver<Event>>,
    history: Vec<(Instant, Event)>,
    base: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("conf")).unwrap();
        let base = dir.path().join("conf");
        Self {
            dir,
            handle: None,
            events: None,
            history: Vec::new(),
            base,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes beside and renames into place.
    fn replace(&self, name: &str, text: &str) {
        self.write("new", text);
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    async fn start(&mut self, target: Target) {
        self.start_with(FileProvider::new(target, true, Duration::ZERO, NEVER))
            .await;
    }

    /// Starts, and waits until the folders are watched.
    async fn start_with(&mut self, mut provider: FileProvider) {
        let watch = provider.looker.watch.is_some();
        self.history.push((Instant::now(), provider.load_what_is_there()));
        self.handle = Some(provider.handle());
        let (sender, receiver) = mpsc::channel(1);
        self.events = Some(receiver);
        tokio::spawn(Box::new(provider).run(sender));
        if watch {
            // An answered request means that the looks before it are done, and the first look sets the watches.
            for _ in 0..2 {
                self.handle().reload_now();
                self.wait(|event| event.reason == Reason::Requested).await;
            }
        }
    }

    async fn start_folder(&mut self) {
        self.start(Target::Directory(self.path("conf"))).await;
    }

    fn handle(&self) -> &FileHandle {
        self.handle.as_ref().unwrap()
    }

    fn state_of(&self, event: &Event) -> State {
        let name = |file: &SourceFile| file.path.strip_prefix(&self.base).unwrap().display().to_string();
        let text = |file: &SourceFile| file.text.as_ref().ok().map(|text| text.to_string());
        event.files.iter().map(|file| (name(file), text(file))).collect()
    }

    async fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let receiver = self.events.as_mut().unwrap();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(event)) => {
                    self.history.push((Instant::now(), event.clone()));
                    if wanted(&event) {
                        return event;
                    }
                }
                Ok(None) => panic!("the provider ended; {:#?}", self.history.last()),
                Err(_) => panic!("not in time; last: {:#?}", self.history.last()),
            }
        }
    }

    /// Waits until the source says exactly this.
    async fn sees(&mut self, wanted: &[(&str, &str)]) {
        let wanted: State = wanted
            .iter()
            .map(|(name, text)| ((*name).into(), Some((*text).into())))
            .collect();
        let base = self.base.clone();
        let state = |event: &Event| -> State {
            let name = |file: &SourceFile| file.path.strip_prefix(&base).unwrap().display().to_string();
            event
                .files
                .iter()
                .map(|f| (name(f), f.text.as_ref().ok().map(|text| text.to_string())))
                .collect()
        };
        self.wait(|event| state(event) == wanted).await;
    }

    /// Asserts about every state that was ever sent.
    fn always(&self, holds: impl Fn(&State) -> bool) {
        for (_, event) in &self.history {
            assert!(holds(&self.state_of(event)), "{event:#?}");
        }
    }

    fn count(&self, reason: &Reason) -> usize {
        self.history.iter().filter(|(_, event)| event.reason == *reason).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_write_and_rename_over() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    bench.write("conf/a.yaml", "2");
    bench.sees(&[("a.yaml", "2")]).await;
    bench.replace("conf/a.yaml", "3");
    bench.sees(&[("a.yaml", "3")]).await;
    bench.write("conf/a.yaml", "4");
    bench.sees(&[("a.yaml", "4")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_removed_files_and_new_folders() {
    let mut bench = Bench::new();
    bench.start_folder().await;
    bench.write("conf/b.yaml", "b");
    bench.sees(&[("b.yaml", "b")]).await;
    fs::create_dir_all(bench.path("conf/x/y")).unwrap();
    bench.write("conf/x/y/a.yml", "a");
    bench.sees(&[("b.yaml", "b"), ("x/y/a.yml", "a")]).await;
    bench.write("conf/x/y/a.yml", "a2");
    bench.sees(&[("b.yaml", "b"), ("x/y/a.yml", "a2")]).await;
    fs::remove_file(bench.path("conf/b.yaml")).unwrap();
    bench.sees(&[("x/y/a.yml", "a2")]).await;
    fs::remove_dir_all(bench.path("conf/x")).unwrap();
    bench.sees(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_dance_never_shows_the_file_missing() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "0");
    bench.start_folder().await;
    for i in 1..=5 {
        bench.write("conf/4913", "");
        fs::remove_file(bench.path("conf/4913")).unwrap();
        bench.write("conf/.a.yaml.swp", "swap");
        fs::rename(bench.path("conf/a.yaml"), bench.path("conf/a.yaml~")).unwrap();
        bench.write("conf/a.yaml", &i.to_string());
        fs::remove_file(bench.path("conf/a.yaml~")).unwrap();
        bench.sees(&[("a.yaml", &i.to_string())]).await;
    }
    bench.always(|state| state.len() == 1);
}

/// Publishes a ConfigMap as kubelet does: a new folder, a link to it beside, renamed over `..data`.
fn publish(bench: &Bench, version: &str, text: &str) {
    let folder = bench.path("conf").join(format!("..{version}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), text).unwrap();
    symlink(format!("..{version}"), bench.path("conf/..data_tmp")).unwrap();
    let old = fs::read_link(bench.path("conf/..data"));
    fs::rename(bench.path("conf/..data_tmp"), bench.path("conf/..data")).unwrap();
    if let Ok(old) = old {
        fs::remove_dir_all(bench.path("conf").join(old)).unwrap();
    } else {
        symlink("..data/a.yaml", bench.path("conf/a.yaml")).unwrap();
    }
}

async fn config_map(target: impl Fn(&Bench) -> Target) {
    let mut bench = Bench::new();
    publish(&bench, "1", "1");
    let target = target(&bench);
    bench.start(target).await;
    for i in 2..=5 {
        publish(&bench, &i.to_string(), &i.to_string());
        bench.sees(&[("a.yaml", &i.to_string())]).await;
    }
    bench.always(|state| state.len() == 1 && state[0].1.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn config_map_swaps_in_directory_mode() {
    config_map(|bench| Target::Directory(bench.path("conf"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_map_swaps_in_filename_mode() {
    config_map(|bench| Target::Filename(bench.path("conf/a.yaml"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_file_is_not_read_while_others_are() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "whole");
    bench.write("conf/b.yaml", "1");
    bench.start_folder().await;
    let mut writer = File::create(bench.path("conf/a.yaml")).unwrap();
    writer.write_all(b"ha").unwrap();
    bench.write("conf/b.yaml", "2");
    bench.sees(&[("a.yaml", "whole"), ("b.yaml", "2")]).await;
    writer.write_all(b"lf").unwrap();
    drop(writer);
    bench.sees(&[("a.yaml", "half"), ("b.yaml", "2")]).await;
    bench.always(|state| state[0].1.as_deref() == Some("whole") || state[0].1.as_deref() == Some("half"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_half_written_between_the_load_and_the_run_is_not_read() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "whole");
    bench.write("conf/b.yaml", "0");
    let mut provider = FileProvider::new(Target::Directory(bench.path("conf")), true, Duration::ZERO, NEVER);
    bench.history.push((Instant::now(), provider.load().unwrap()));
    let mut writer = File::create(bench.path("conf/a.yaml")).unwrap();
    writer.write_all(b"ha").unwrap();
    let (sender, receiver) = mpsc::channel(1);
    bench.events = Some(receiver);
    tokio::spawn(Box::new(provider).run(sender));
    for text in ["1", "2"] {
        bench.write("conf/b.yaml", text);
        bench.sees(&[("a.yaml", "whole"), ("b.yaml", text)]).await;
    }
    writer.write_all(b"lf").unwrap();
    drop(writer);
    bench.sees(&[("a.yaml", "half"), ("b.yaml", "2")]).await;
    bench.always(|state| state[0].1.as_deref() != Some("ha"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_writer_is_waited_for() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "whole");
    bench.start_folder().await;
    let path = bench.path("conf/a.yaml");
    let writer = tokio::task::spawn_blocking(move || {
        let mut writer = File::create(path).unwrap();
        for _ in 0..40 {
            writer.write_all(b"x").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    bench.sees(&[("a.yaml", &"x".repeat(40))]).await;
    writer.await.unwrap();
    bench.always(|state| matches!(state[0].1.as_deref(), Some(text) if text == "whole" || text.len() == 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_writer_never_closes_is_read_after_quiet() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    let mut writer = File::create(bench.path("conf/a.yaml")).unwrap();
    writer.write_all(b"2").unwrap();
    bench.sees(&[("a.yaml", "2")]).await;
    drop(writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_counts_once_it_stays_empty() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    for i in 0..5 {
        bench.write("conf/a.yaml", "");
        bench.write("conf/a.yaml", &format!("2{i}"));
        bench.sees(&[("a.yaml", &format!("2{i}"))]).await;
    }
    bench.always(|state| state[0].1.as_deref() != Some(""));
    bench.write("conf/a.yaml", "");
    bench.sees(&[("a.yaml", "")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_that_goes_is_an_error_and_its_return_is_noticed() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    let target = Target::Filename(bench.path("conf/a.yaml"));
    bench.start(target).await;
    fs::remove_file(bench.path("conf/a.yaml")).unwrap();
    let event = bench.wait(|event| event.files[0].text.is_err()).await;
    assert_eq!(event.files[0].text.as_ref().unwrap_err().kind, ProblemKind::Missing);
    bench.write("conf/a.yaml", "2");
    bench.sees(&[("a.yaml", "2")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_folder_is_watched_again_and_a_missing_one_keeps_its_files() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    fs::rename(bench.path("conf"), bench.path("old")).unwrap();
    bench
        .wait(|event| {
            event
                .problems
                .iter()
                .any(|problem| problem.kind == ProblemKind::Missing)
        })
        .await;
    fs::create_dir(bench.path("conf")).unwrap();
    bench.write("conf/a.yaml", "2");
    bench.sees(&[("a.yaml", "2")]).await;
    bench.write("conf/a.yaml", "3");
    bench.sees(&[("a.yaml", "3")]).await;
    bench.always(|state| state.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_folder_can_be_switched() {
    let mut bench = Bench::new();
    for version in ["v1", "v2"] {
        fs::create_dir(bench.path(version)).unwrap();
        bench.write(&format!("{version}/a.yaml"), version);
    }
    symlink("v1", bench.path("current")).unwrap();
    bench.base = bench.path("current");
    let target = Target::Directory(bench.path("current"));
    bench.start(target).await;
    symlink("v2", bench.path("next")).unwrap();
    fs::rename(bench.path("next"), bench.path("current")).unwrap();
    bench.sees(&[("a.yaml", "v2")]).await;
    bench.write("v2/a.yaml", "v3");
    bench.sees(&[("a.yaml", "v3")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_configuration_refers_to_are_watched() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("secrets")).unwrap();
    bench.write("conf/a.yaml", "1");
    bench.write("secrets/users", "u1");
    bench.start_folder().await;
    let users = bench.path("secrets/users");
    bench.handle().set_extra([users.clone(), bench.path("secrets/later")]);
    // The watch is set in the background, and the change is found whether it comes before or after that.
    bench.write("secrets/users", "u2");
    bench
        .wait(|event| event.reason == Reason::Referred(vec![users.clone()]))
        .await;
    bench.replace("secrets/users", "u3");
    bench
        .wait(|event| event.reason == Reason::Referred(vec![users.clone()]))
        .await;
    bench.write("secrets/later", "here");
    let later = bench.path("secrets/later");
    bench
        .wait(|event| event.reason == Reason::Referred(vec![later.clone()]))
        .await;
    bench.handle().set_extra([]);
    bench.write("secrets/users", "u4");
    bench.write("conf/a.yaml", "2");
    bench.sees(&[("a.yaml", "2")]).await;
    assert_eq!(bench.history.last().unwrap().1.reason, Reason::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_content_sends_nothing() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    for _ in 0..5 {
        bench.write("conf/a.yaml", "1");
        bench.replace("conf/a.yaml", "1");
    }
    bench.write("conf/b.yaml", "1");
    bench.sees(&[("a.yaml", "1"), ("b.yaml", "1")]).await;
    assert_eq!(bench.count(&Reason::Changed), 1, "{:#?}", bench.history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reads_again_also_without_watch() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    let target = Target::Directory(bench.path("conf"));
    bench
        .start_with(FileProvider::new(
            target,
            false,
            Duration::ZERO,
            Duration::from_millis(10),
        ))
        .await;
    bench.write("conf/a.yaml", "2");
    bench.handle().reload_now();
    bench.sees(&[("a.yaml", "2")]).await;
    bench.handle().reload_now();
    bench.sees(&[("a.yaml", "2")]).await;
    assert_eq!(bench.count(&Reason::Changed), 0);
    assert_eq!(bench.count(&Reason::Requested), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_poll_finds_what_inotify_does_not_tell() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    let target = Target::Directory(bench.path("conf"));
    let mut provider = FileProvider::new(target, true, Duration::ZERO, Duration::from_millis(50));
    bench.history.push((Instant::now(), provider.load_what_is_there()));
    let mut running = Running::start(provider);
    // A watcher that sees nothing, as on a network file system.
    running.looker.as_mut().unwrap().watch = None;
    let (sender, receiver) = mpsc::channel(1);
    bench.events = Some(receiver);
    tokio::spawn(running.run(sender));
    for text in ["2", "3", "3+"] {
        bench.write("conf/a.yaml", text);
        bench.sees(&[("a.yaml", text)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_throttle_spaces_events_and_keeps_the_last() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "0");
    let target = Target::Directory(bench.path("conf"));
    let period = Duration::from_millis(600);
    bench.start_with(FileProvider::new(target, true, period, NEVER)).await;
    let started = Instant::now();
    let path = bench.path("conf/a.yaml");
    let writer = tokio::task::spawn_blocking(move || {
        for i in 1..=30 {
            fs::write(&path, i.to_string()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    bench.sees(&[("a.yaml", "30")]).await;
    writer.await.unwrap();
    let sent: Vec<_> = bench.history.iter().filter(|(at, _)| *at > started).collect();
    let most = started.elapsed().as_millis() / period.as_millis() + 2;
    assert!(sent.len() >= 2 && sent.len() as u128 <= most, "{} events", sent.len());
}

#[test]
fn the_first_load_says_where_and_how_to_mend() {
    let bench = Bench::new();
    let load = |target| {
        let errors = FileProvider::new(target, true, Duration::ZERO, NEVER)
            .load()
            .unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let text = load(Target::Filename(bench.path("conf/gone.yaml")));
    assert!(
        text.ends_with("conf/gone.yaml: there is no such file (create it or correct the path)"),
        "{text}"
    );
    let text = load(Target::Directory(bench.path("nowhere")));
    assert!(
        text.ends_with("nowhere: there is no such folder (create it or correct the path)"),
        "{text}"
    );
    bench.write("conf/a.toml", "");
    assert!(load(Target::Directory(bench.path("conf"))).contains("a.toml: TOML files are known, not supported yet"));
    assert!(load(Target::Filename(bench.path("conf/a.toml"))).contains("not supported yet"));
    assert!(load(Target::Filename(bench.path("conf/a.txt"))).contains("must end in .yaml or .yml"));
    assert!(load(Target::Directory(bench.path("conf/a.toml"))).contains("providers.file.filename"));
    fs::remove_file(bench.path("conf/a.toml")).unwrap();
    fs::create_dir(bench.path("conf/d.yaml")).unwrap();
    assert!(load(Target::Filename(bench.path("conf/d.yaml"))).contains("providers.file.directory"));
    bench.write("conf/latin.yaml", "a: 1\n");
    fs::write(bench.path("conf/latin.yaml"), b"a: 1\nb: \xe9\n").unwrap();
    assert!(load(Target::Directory(bench.path("conf"))).contains("latin.yaml: not UTF-8 in line 2"));
    fs::write(bench.path("conf/latin.yaml"), vec![b'#'; (32 << 20) + 1]).unwrap();
    assert!(load(Target::Directory(bench.path("conf"))).contains("latin.yaml: larger than 32 MiB"));
}

#[test]
fn a_byte_order_mark_is_cut_off_and_a_dangling_link_is_an_error() {
    let bench = Bench::new();
    bench.write("conf/a.yaml", "\u{feff}a: 1\r\n");
    let provider = || FileProvider::new(Target::Directory(bench.path("conf")), true, Duration::ZERO, NEVER);
    let event = provider().load().unwrap();
    assert_eq!(event.files[0].text.as_deref(), Ok("a: 1\r\n"));
    symlink("nowhere.yaml", bench.path("conf/b.yaml")).unwrap();
    let errors = provider().load().unwrap_err();
    assert_eq!(errors[0].message, "this link to a file leads nowhere");
    let event = provider().load_what_is_there();
    assert_eq!(
        bench.state_of(&event),
        [("a.yaml".into(), Some("a: 1\r\n".into())), ("b.yaml".into(), None)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_permissions_are_noticed() {
    let mut bench = Bench::new();
    bench.write("conf/a.yaml", "1");
    bench.start_folder().await;
    let mode = |mode| fs::set_permissions(bench.path("conf/a.yaml"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    if File::open(bench.path("conf/a.yaml")).is_ok() {
        return; // Root reads everything.
    }
    bench.wait(|event| event.files[0].text.is_err()).await;
    fs::set_permissions(bench.path("conf/a.yaml"), fs::Permissions::from_mode(0o644)).unwrap();
    bench.sees(&[("a.yaml", "1")]).await;
}
