//! Other people's programs that run beside the gateway: whether they are there, and one that runs.

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::DEADLINE;
use super::client::Request;

/// Whether a program is installed. With `GANTRY_TEST_PEERS=required` one that is not fails the test.
pub fn peer(name: &str) -> bool {
    let Err(error) = Command::new(name).arg("--version").output() else {
        return true;
    };
    let required = std::env::var_os("GANTRY_TEST_PEERS").is_some_and(|peers| peers == "required");
    assert!(!required, "{name} does not start: {error}");
    eprintln!("left out: {name} is not installed");
    false
}

/// Fails when `promtool check metrics` has anything to say.
#[track_caller]
pub fn promtool_reads(text: &str) {
    if !peer("promtool") {
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

/// A running server with a folder and a port of its own; it is killed when this goes out of scope.
#[derive(Debug)]
pub struct Peer {
    name: &'static str,
    child: Child,
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Peer {
    /// Starts one of the Prometheus family in a folder with one file, and waits until it is ready; `None` where it is
    /// not installed.
    pub fn start(name: &'static str, file: (&str, &str), arguments: &[&str]) -> Option<Self> {
        if !peer(name) {
            return None;
        }
        // Somebody else may take the port between our look and its own.
        (0..5)
            .find_map(|_| Self::attempt(name, file, arguments))
            .map_or_else(|| panic!("{name} does not start"), Some)
    }

    fn attempt(name: &'static str, file: (&str, &str), arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file.0), file.1).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(name)
            .arg(format!("--config.file={}", file.0))
            .arg(format!("--web.listen-address={address}"))
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log.txt")).unwrap())
            .spawn()
            .unwrap();
        let mut started = Self {
            name,
            child,
            dir,
            address,
        };
        let deadline = Instant::now() + DEADLINE;
        loop {
            let ready = Request::new(address, "GET", "/-/ready").try_send();
            if ready.is_ok_and(|reply| reply.status == 200) {
                return Some(started);
            }
            if started.child.try_wait().unwrap().is_some() {
                assert!(started.log().contains("in use"), "{}", started.log());
                return None;
            }
            assert!(Instant::now() < deadline, "not ready in time:\n{}", started.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log.txt")).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of {} ---\n{}", self.name, self.log());
        }
    }
}
